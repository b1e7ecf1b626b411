# Asking the card terminal again until it answers.

# Seconds before attempt n: none before the first two, then ten minutes, twice as many each time,
# an hour at most.
function delay(n,  i, d) {
  if (n <= 2) return 0
  d = 600
  for (i = 4; i <= n; i++) d = d + d
  return d < 3600 ? d : 3600
}

# Waits as long as attempt n has to, then says so.
function ask(n,  d) {
  d = delay(n)
  if (d > 0) system("sleep " d)
  return "attempt " n " after " d " s"
}

# Attempts that fit into some seconds.
function attempts(limit,  n, spent) {
  spent = 0
  for (n = 1; n <= 50; n++) {
    spent = spent + delay(n)
    if (spent > limit) return n - 1
  }
  return 50
}

BEGIN {
  if (ARGV[1] == "delay") print delay(ARGV[2])
  if (ARGV[1] == "ask") print ask(ARGV[2])
  if (ARGV[1] == "attempts") print attempts(ARGV[2])
}
