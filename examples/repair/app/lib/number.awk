# Numbers in other clothes.

function roman(n,  v, s, i, k, out) {
  k = split("10 9 5 4 1", v, " ")
  split("X IX V IV I", s, " ")
  out = ""
  for (i = 1; i <= k; i++)
    for (; n >= v[i]; n -= v[i]) out = out s[i]
  return out
}

function digit(c) { return index("0123456789abcdef", c) - 1 }

# Text in a base up to 16 -> number; -1 if it is none.
function from_base(text, base,  i, d, n) {
  n = 0
  for (i = 1; i <= length(text); i++) {
    d = digit(substr(text, i, 1))
    if (d < 0 || d >= base) return -1
    n = n * base + d
  }
  return n
}

function to_base(n, base,  out, i) {
  out = ""
  for (i = 1; i <= 32; i++) {
    out = substr("0123456789abcdef", n % base + 1, 1) out
    n = int(n / base)
    if (n == 0) break
  }
  return out
}

# 1 -> 1st, 2 -> 2nd, 11 -> 11th
function ordinal(n) {
  if (n % 100 >= 11 && n % 100 <= 13) return n "th"
  if (n % 10 == 1) return n "st"
  if (n % 10 == 2) return n "nd"
  return n (n % 10 == 3 ? "rd" : "th")
}

# 1536 -> 1.5K
function human(n,  unit) {
  unit = ""
  if (n >= 1024) {
    n = n / 1024
    unit = "K"
  }
  if (n >= 1024) {
    n = n / 1024
    unit = "M"
  }
  return int(n * 10 + 0.5) / 10 unit
}

BEGIN {
  if (ARGV[1] == "roman") print roman(ARGV[2])
  if (ARGV[1] == "from_base") print from_base(ARGV[2], ARGV[3])
  if (ARGV[1] == "to_base") print to_base(ARGV[2], ARGV[3])
  if (ARGV[1] == "ordinal") print ordinal(ARGV[2])
  if (ARGV[1] == "human") print human(ARGV[2])
}
