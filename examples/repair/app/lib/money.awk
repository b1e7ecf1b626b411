# Amounts of money, kept as whole cents.

# "12.5" -> 1250
function cents(text,  part, n, fraction) {
  n = split(text, part, ".")
  if (n == 1) return part[1] * 100
  fraction = substr(part[2] "00", 1, 2)
  return part[1] * 100 + fraction
}

# 123456 -> "1,234.56"
function format(amount,  sign, whole, out) {
  sign = amount < 0 ? "-" : ""
  whole = int(abs(amount) / 100) ""
  out = ""
  while (length(whole) > 3) {
    out = "," substr(whole, length(whole) - 2) out
    whole = substr(whole, 1, length(whole) - 3)
  }
  return sign whole out sprintf(".%02d", abs(amount) % 100)
}

# Rounds to the nearest step, halves up.
function round_to(amount, step) {
  return floor((amount + step / 2) / step) * step
}

# Splits an amount into n parts that differ by a cent at most and add up.
function share(amount, n,  i, each, rest, out) {
  each = int(amount / n)
  rest = amount - each * n
  out = ""
  for (i = 1; i <= n; i++)
    out = out (i > 1 ? " " : "") (i <= rest ? each + 1 : each)
  return out
}

BEGIN {
  if (ARGV[1] == "cents") print cents(ARGV[2])
  if (ARGV[1] == "format") print format(ARGV[2])
  if (ARGV[1] == "round_to") print round_to(ARGV[2], ARGV[3])
  if (ARGV[1] == "share") print share(ARGV[2], ARGV[3])
}
