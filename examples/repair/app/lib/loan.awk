# Loans and savings in cents; rates in percent a year.

# Interest of some days of a year of 360 days.
function interest(amount, rate, days) {
  return int(amount * rate * days / 36000 + 0.5)
}

# What is saved after some years of compound interest.
function grow(amount, rate, years,  i) {
  for (i = 1; i <= years; i++) amount = amount + int(amount * rate / 100)
  return amount
}

# Years until a loan is paid back by equal payments; "never" if the interest eats them.
function years(amount, rate, payment,  n) {
  if (payment <= amount * rate / 100) return "never"
  n = 0
  for (n = 0; amount > 0 && n < 99; n++)
    amount = amount + int(amount * rate / 100) - payment
  return n
}

# The k-th of n instalments; the last one takes what is left.
function instalment(amount, n, k,  each) {
  each = int(amount / n)
  return k == n ? amount - each * (n - 1) : each
}

# Worth after straight depreciation, one unit at least while it is in the books.
function worth(price, life, age) {
  if (age >= life) return 1
  return price - int(price * age / life)
}

# Grade of a customer: A pays at once, B within 14 days, C within 30.
function grade(days, missed) {
  if (missed > 2) return "D"
  if (days <= 1) return missed == 0 ? "A" : "B"
  return days <= 14 ? "B" : (days <= 30 ? "C" : "D")
}

BEGIN {
  if (ARGV[1] == "interest") print interest(ARGV[2], ARGV[3], ARGV[4])
  if (ARGV[1] == "grow") print grow(ARGV[2], ARGV[3], ARGV[4])
  if (ARGV[1] == "years") print years(ARGV[2], ARGV[3], ARGV[4])
  if (ARGV[1] == "instalment") print instalment(ARGV[2], ARGV[3], ARGV[4])
  if (ARGV[1] == "worth") print worth(ARGV[2], ARGV[3], ARGV[4])
  if (ARGV[1] == "grade") print grade(ARGV[2], ARGV[3])
}
