# Taxes in cents; rates in percent.

function gross(net, rate) { return net + int((net * rate + 50) / 100) }

function net(gross_amount, rate) {
  return int(gross_amount * 100 / (100 + rate) + 0.5)
}

# Nothing up to 1000, 10 % of the next 4000, 25 % of what is above 5000.
function income(amount,  tax) {
  if (amount <= 1000) return 0
  tax = 0
  if (amount > 5000) {
    tax = (amount - 5000) * 25 / 100
    amount = 5000
  }
  return tax + (amount - 1000) * 10 / 100
}

# The rate of a kind of goods in a year.
function rate(kind, year) {
  if (kind == "book" || kind == "food") return year < 2010 ? 5 : 7
  if (kind == "export") return 0
  return year >= 2007 ? 19 : 16
}

# What a quarter owes: tax received minus tax paid, and never below zero.
function due(received, paid, credit,  owed) {
  owed = received - paid - credit
  return owed > 0 ? owed : 0
}

# Late fee: 1 % for each full 30 days beyond the first 10 days.
function fee(amount, late_days,  months) {
  if (late_days <= 10) return 0
  months = int((late_days - 10) / 30) + 1
  return amount * months / 100
}

BEGIN {
  if (ARGV[1] == "gross") print gross(ARGV[2], ARGV[3])
  if (ARGV[1] == "net") print net(ARGV[2], ARGV[3])
  if (ARGV[1] == "income") print income(ARGV[2])
  if (ARGV[1] == "rate") print rate(ARGV[2], ARGV[3])
  if (ARGV[1] == "due") print due(ARGV[2], ARGV[3], ARGV[4])
  if (ARGV[1] == "fee") print fee(ARGV[2], ARGV[3])
}
