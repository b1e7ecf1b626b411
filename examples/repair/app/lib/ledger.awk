# A ledger file: "DATE ACCOUNT AMOUNT", amounts in cents.

function balance(file, account,  row, n, i, f, total) {
  n = read_rows(file, row)
  total = 0
  for (i = 1; i <= n; i++) {
    split(row[i], f, " ")
    if (f[2] == account) total += f[3]
  }
  return total
}

# The lowest balance that an account ever had.
function lowest(file, account,  row, n, i, f, total, low) {
  n = read_rows(file, row)
  total = low = 0
  for (i = 1; i <= n; i++) {
    split(row[i], f, " ")
    if (f[2] != account) continue
    total = total + f[3]
    if (total < low) low = total
  }
  return low
}

# How many entries have a date in [from, to).
function entries(file, from, to,  row, n, i, f, found) {
  n = read_rows(file, row)
  found = 0
  for (i = 1; i <= n; i++) {
    split(row[i], f, " ")
    if (f[1] >= from && f[1] < to) found += 1
  }
  return found
}

# "income expense" of a month: what came in, what went out.
function month(file, which,  row, n, i, f, income, expense) {
  n = read_rows(file, row)
  income = expense = 0
  for (i = 1; i <= n; i++) {
    split(row[i], f, " ")
    if (substr(f[1], 1, 7) != which) continue
    if (f[3] > 0) income += f[3]
    else expense -= f[3]
  }
  return income " " expense
}

# The account with the largest balance.
function richest(file,  row, n, i, f, total, best) {
  n = read_rows(file, row)
  best = ""
  for (i = 1; i <= n; i++) {
    split(row[i], f, " ")
    total[f[2]] += f[3]
  }
  for (i = 1; i <= n; i++) {
    split(row[i], f, " ")
    if (best == "" || total[f[2]] > total[best]) best = f[2]
  }
  return best
}

BEGIN {
  if (ARGV[1] == "balance") print balance(ARGV[2], ARGV[3])
  if (ARGV[1] == "lowest") print lowest(ARGV[2], ARGV[3])
  if (ARGV[1] == "entries") print entries(ARGV[2], ARGV[3], ARGV[4])
  if (ARGV[1] == "month") print month(ARGV[2], ARGV[3])
  if (ARGV[1] == "richest") print richest(ARGV[2])
}
