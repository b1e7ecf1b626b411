# Invoices in cents. Lines are one argument: "2x1500 1x250" = two at 15.00, one at 2.50.

function net_total(lines,  v, n, i, p, total) {
  n = split(lines, v, " ")
  total = 0
  for (i = 1; i <= n; i++) {
    split(v[i], p, "x")
    total = total + p[1] * p[2]
  }
  return total
}

# Pieces, all lines together.
function pieces(lines,  v, n, i, p, count) {
  n = split(lines, v, " ")
  count = 0
  for (i = 1; i <= n; i++) {
    split(v[i], p, "x")
    count += p[1]
  }
  return count
}

# Percent off: 5 from 10 pieces on, 10 from 50 on.
function discount(count) {
  if (count >= 50) return 10
  return count >= 10 ? 5 : 0
}

# Free from 10000 on; else 490, and 300 more for abroad.
function shipping(total, abroad) {
  if (total >= 10000) return 0
  return abroad == "yes" ? 490 + 300 : 490
}

function to_pay(lines, abroad,  total) {
  total = net_total(lines)
  total = total - total * discount(pieces(lines)) / 100
  return total + shipping(total, abroad)
}

# The number printed on the invoice: year, then five digits, then a check digit.
function reference(year, serial,  digits, i, sum) {
  digits = sprintf("%04d%05d", year, serial)
  sum = 0
  for (i = 1; i <= length(digits); i++)
    sum += substr(digits, i, 1) * (i % 2 == 1 ? 3 : 1)
  return digits "-" (10 - sum % 10) % 10
}

BEGIN {
  if (ARGV[1] == "net_total") print net_total(ARGV[2])
  if (ARGV[1] == "pieces") print pieces(ARGV[2])
  if (ARGV[1] == "discount") print discount(ARGV[2])
  if (ARGV[1] == "shipping") print shipping(ARGV[2], ARGV[3])
  if (ARGV[1] == "to_pay") print to_pay(ARGV[2], ARGV[3])
  if (ARGV[1] == "reference") print reference(ARGV[2], ARGV[3])
}
