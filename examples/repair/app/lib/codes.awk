# Check digits of codes people type.

# Credit card numbers: every second digit from the right counts double.
function luhn(code,  i, k, d, sum) {
  sum = 0
  k = 0
  for (i = length(code); i >= 1; i--) {
    d = substr(code, i, 1)
    k += 1
    if (k % 2 == 0) d = d * 2
    if (d > 9) d = d - 9
    sum += d
  }
  return sum % 10 == 0 ? "good" : "bad"
}

# The 13th digit of an EAN.
function ean(code,  i, sum) {
  sum = 0
  for (i = 1; i <= 12; i++)
    sum += substr(code, i, 1) * (i % 2 == 0 ? 3 : 1)
  return (10 - sum % 10) % 10
}

# The 10th character of an ISBN-10.
function isbn(code,  i, sum, c) {
  sum = 0
  for (i = 1; i <= 9; i++) sum += substr(code, i, 1) * i
  c = sum % 11
  return c == 10 ? "X" : c
}

# A postal code: five digits, not all the same, the first two from 01 on.
function postal(code,  i, same) {
  if (length(code) != 5) return "bad"
  same = 0
  for (i = 2; i <= 5; i++)
    if (substr(code, i, 1) == substr(code, 1, 1)) same += 1
  if (same == 4) return "bad"
  return substr(code, 1, 2) + 0 >= 1 ? "good" : "bad"
}

# A tag of three letters from a number, AAA being 0.
function tag(n,  letters) {
  letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
  return substr(letters, int(n / 676) % 26 + 1, 1) \
    substr(letters, int(n / 26) % 26 + 1, 1) \
    substr(letters, n % 26 + 1, 1)
}

BEGIN {
  if (ARGV[1] == "luhn") print luhn(ARGV[2])
  if (ARGV[1] == "ean") print ean(ARGV[2])
  if (ARGV[1] == "isbn") print isbn(ARGV[2])
  if (ARGV[1] == "postal") print postal(ARGV[2])
  if (ARGV[1] == "tag") print tag(ARGV[2])
}
