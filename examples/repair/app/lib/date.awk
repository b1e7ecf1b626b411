# Dates as YYYY-MM-DD.

function leap(y) {
  return (y % 4 == 0 && y % 100 != 0) || y % 400 == 0
}

function month_days(y, m) {
  if (m == 2) return leap(y) ? 29 : 28
  return (m == 4 || m == 6 || m == 9 || m == 11) ? 30 : 31
}

# 1 for January 1st.
function year_day(text,  p, m, n) {
  split(text, p, "-")
  n = p[3] + 0
  for (m = 1; m < p[2]; m++) n = n + month_days(p[1], m)
  return n
}

# Days since 0000-12-31 of the Gregorian calendar.
function day_number(text,  p, y) {
  split(text, p, "-")
  y = p[1] - 1
  return y * 365 + int(y / 4) - int(y / 100) + int(y / 400) + year_day(text)
}

function between(from, to) { return day_number(to) - day_number(from) }

function weekday(text) {
  return substr("SunMonTueWedThuFriSat", day_number(text) % 7 * 3 + 1, 3)
}

# The last day of the month that begins n months later.
function month_end(text, n,  p, m, y) {
  split(text, p, "-")
  m = p[1] * 12 + p[2] - 1 + n
  y = int(m / 12)
  m = m % 12 + 1
  return sprintf("%04d-%02d-%02d", y, m, month_days(y, m))
}

function valid(text,  p) {
  if (text !~ /^[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]$/) return "no"
  split(text, p, "-")
  if (p[2] < 1 || p[2] > 12) return "no"
  return (p[3] >= 1 && p[3] <= month_days(p[1], p[2] + 0)) ? "yes" : "no"
}

BEGIN {
  if (ARGV[1] == "leap") print leap(ARGV[2])
  if (ARGV[1] == "month_days") print month_days(ARGV[2], ARGV[3])
  if (ARGV[1] == "year_day") print year_day(ARGV[2])
  if (ARGV[1] == "between") print between(ARGV[2], ARGV[3])
  if (ARGV[1] == "weekday") print weekday(ARGV[2])
  if (ARGV[1] == "month_end") print month_end(ARGV[2], ARGV[3])
  if (ARGV[1] == "valid") print valid(ARGV[2])
}
