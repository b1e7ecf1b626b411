# The store room. Movements are one argument: "+10@250 -3" = ten in at 250 cents, three out.

function on_hand(moves,  v, n, i, p, have) {
  n = split(moves, v, " ")
  have = 0
  for (i = 1; i <= n; i++) {
    split(v[i], p, "@")
    have = have + p[1]
  }
  return have
}

# How many to order so that `target` are there, in boxes of `box`, once `least` is reached.
function order(have, least, target, box,  need) {
  if (have > least) return 0
  need = target - have
  return int((need + box - 1) / box) * box
}

# What the goods that went out cost, first in first out.
function fifo(moves,  v, n, i, p, q, left, price, first, last, take, cost) {
  n = split(moves, v, " ")
  first = 1
  last = 0
  cost = 0
  for (i = 1; i <= n; i++) {
    split(v[i], p, "@")
    if (p[1] > 0) {
      left[++last] = p[1] + 0
      price[last] = p[2]
      continue
    }
    q = -p[1]
    for (; q > 0 && first <= last; first++) {
      take = q < left[first] ? q : left[first]
      cost = cost + take * price[first]
      left[first] = left[first] - take
      q = q - take
      if (left[first] > 0) break
    }
  }
  return cost
}

# Days until nothing is left; "never" without sales.
function lasts(have, sold, days) {
  if (sold == 0) return "never"
  return int(have * days / sold)
}

# Shelf of an article: four shelves, ten articles each.
function shelf(article,  k) {
  k = int((article - 1) / 10) % 4
  return substr("ABCD", k + 1, 1) ((article - 1) % 10 + 1)
}

BEGIN {
  if (ARGV[1] == "on_hand") print on_hand(ARGV[2])
  if (ARGV[1] == "order") print order(ARGV[2], ARGV[3], ARGV[4], ARGV[5])
  if (ARGV[1] == "fifo") print fifo(ARGV[2])
  if (ARGV[1] == "lasts") print lasts(ARGV[2], ARGV[3], ARGV[4])
  if (ARGV[1] == "shelf") print shelf(ARGV[2])
}
