# Opening hours and appointments; times are "HH:MM".

function minutes(clock,  p) {
  split(clock, p, ":")
  return p[1] * 60 + p[2]
}

function clock(m) { return sprintf("%02d:%02d", int(m / 60) % 24, m % 60) }

function later(start, m) { return clock(minutes(start) + m) }

# How long two spans overlap, in minutes.
function overlap(a, b, c, d,  from, to) {
  from = minutes(a) > minutes(c) ? minutes(a) : minutes(c)
  to = minutes(b) < minutes(d) ? minutes(b) : minutes(d)
  return to > from ? to - from : 0
}

# Open on weekdays (1 to 5) from 9 to 18, on day 6 until 13.
function open(day, time,  m) {
  m = minutes(time)
  if (day == 6) return m >= 540 && m < 780
  if (day > 5) return 0
  return m >= 540 && m < 1080
}

# Whole appointments of some length between two times, with a break after each but the last.
function fit(from, to, size, pause,  room) {
  room = minutes(to) - minutes(from)
  if (room < size) return 0
  return int((room - size) / (size + pause)) + 1
}

# Pay of a shift: by the hour, half as much again beyond 8 hours.
function pay(worked, hourly,  extra) {
  extra = worked > 480 ? worked - 480 : 0
  return (worked + extra / 2) * hourly / 60
}

BEGIN {
  if (ARGV[1] == "minutes") print minutes(ARGV[2])
  if (ARGV[1] == "later") print later(ARGV[2], ARGV[3])
  if (ARGV[1] == "overlap") print overlap(ARGV[2], ARGV[3], ARGV[4], ARGV[5])
  if (ARGV[1] == "open") print open(ARGV[2], ARGV[3])
  if (ARGV[1] == "fit") print fit(ARGV[2], ARGV[3], ARGV[4], ARGV[5])
  if (ARGV[1] == "pay") print pay(ARGV[2], ARGV[3])
}
