# Lists of best sellers: one argument "pen=5 ink=7".

function parse(list, name, score,  v, n, i, p) {
  n = split(list, v, " ")
  for (i = 1; i <= n; i++) {
    split(v[i], p, "=")
    name[i] = p[1]
    score[i] = p[2] + 0
  }
  return n
}

# The k best, best first; equal ones in the order given.
function top(list, k,  name, score, n, i, j, best, out, used) {
  n = parse(list, name, score)
  out = ""
  for (i = 1; i <= k && i <= n; i++) {
    best = 0
    for (j = 1; j <= n; j++) {
      if (used[j]) continue
      if (best == 0 || score[j] > score[best]) best = j
    }
    used[best] = 1
    out = out (i > 1 ? " " : "") name[best]
  }
  return out
}

# Place of a name: 1 + how many are better.
function place(list, who,  name, score, n, i, own, better) {
  n = parse(list, name, score)
  own = -1
  for (i = 1; i <= n; i++) if (name[i] == who) own = score[i]
  if (own < 0) return "none"
  better = 0
  for (i = 1; i <= n; i++) if (score[i] > own) better += 1
  return better + 1
}

# A name's share of all, in whole percent.
function share(list, who,  name, score, n, i, own, all) {
  n = parse(list, name, score)
  own = all = 0
  for (i = 1; i <= n; i++) {
    all = all + score[i]
    if (name[i] == who) own = own + score[i]
  }
  return all == 0 ? 0 : int(own * 100 / all + 0.5)
}

# Stars, one to five, against the best one.
function stars(score, best,  n) {
  n = int(score * 5 / best)
  if (n < 1) n = 1
  return substr("*****", 1, n)
}

# "up", "down" or "same" against last month, if it moved by more than 2 places.
function trend(now, before) {
  if (abs(now - before) <= 2) return "same"
  return now < before ? "up" : "down"
}

BEGIN {
  if (ARGV[1] == "top") print top(ARGV[2], ARGV[3])
  if (ARGV[1] == "place") print place(ARGV[2], ARGV[3])
  if (ARGV[1] == "share") print share(ARGV[2], ARGV[3])
  if (ARGV[1] == "stars") print stars(ARGV[2], ARGV[3])
  if (ARGV[1] == "trend") print trend(ARGV[2], ARGV[3])
}
