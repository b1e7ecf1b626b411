# Figures over a list of numbers, given as one argument "3 1 2".

function sum(list,  v, n, i, s) {
  n = split(list, v, " ")
  s = 0
  for (i = 1; i <= n; i++) s = s + v[i]
  return s
}

function mean(list,  v, n) {
  n = split(list, v, " ")
  return n == 0 ? 0 : sum(list) / n
}

# Sorts v[1..n], smallest first.
function sort(v, n,  i, j, x) {
  for (i = 2; i <= n; i++) {
    x = v[i]
    for (j = i - 1; j >= 1 && v[j] + 0 > x + 0; j--) v[j + 1] = v[j]
    v[j + 1] = x
  }
}

function median(list,  v, n, half) {
  n = split(list, v, " ")
  sort(v, n)
  half = int(n / 2)
  if (n % 2 == 1) return v[half + 1]
  return (v[half] + v[half + 1]) / 2
}

# Largest minus smallest.
function spread(list,  v, n, i, low, high) {
  n = split(list, v, " ")
  low = high = v[1]
  for (i = 2; i <= n; i++) {
    if (v[i] + 0 < low + 0) low = v[i]
    if (v[i] + 0 > high + 0) high = v[i]
  }
  return high - low
}

# Of the population.
function variance(list,  v, n, i, m, s) {
  n = split(list, v, " ")
  m = mean(list)
  s = 0
  for (i = 1; i <= n; i++) s += (v[i] - m) * (v[i] - m)
  return s / n
}

# Nearest rank: the smallest value that p percent do not exceed.
function percentile(list, p,  v, n, rank) {
  n = split(list, v, " ")
  sort(v, n)
  rank = -floor(-(p * n / 100))
  if (rank < 1) rank = 1
  return v[rank]
}

BEGIN {
  if (ARGV[1] == "sum") print sum(ARGV[2])
  if (ARGV[1] == "mean") print mean(ARGV[2])
  if (ARGV[1] == "median") print median(ARGV[2])
  if (ARGV[1] == "spread") print spread(ARGV[2])
  if (ARGV[1] == "variance") print variance(ARGV[2])
  if (ARGV[1] == "percentile") print percentile(ARGV[2], ARGV[3])
}
