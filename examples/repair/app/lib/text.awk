# Text for labels and receipts.

function repeat(s, n,  i, out) {
  out = ""
  for (i = 1; i <= n; i++) out = out s
  return out
}

function pad_left(s, width) { return repeat(" ", width - length(s)) s }

# Centered between dots; the odd one goes to the right.
function center(s, width,  room, left) {
  room = width - length(s)
  if (room <= 0) return s
  left = int(room / 2)
  return repeat(".", left) s repeat(".", room - left)
}

# Shortened to width, the last two characters being dots.
function cut(s, width) {
  if (length(s) <= width) return s
  return substr(s, 1, width - 2) ".."
}

# Words in lines of at most width characters, "/" between the lines.
function wrap(s, width,  n, i, word, used, out) {
  n = split(s, word, " ")
  out = word[1]
  used = length(word[1])
  for (i = 2; i <= n; i++) {
    if (used + 1 + length(word[i]) <= width) {
      out = out " " word[i]
      used = used + 1 + length(word[i])
    } else {
      out = out "/" word[i]
      used = length(word[i])
    }
  }
  return out
}

function title(s,  n, i, word, out) {
  n = split(s, word, " ")
  out = ""
  for (i = 1; i <= n; i++)
    out = out (i > 1 ? " " : "") toupper(substr(word[i], 1, 1)) substr(word[i], 2)
  return out
}

BEGIN {
  if (ARGV[1] == "pad_left") print pad_left(ARGV[2], ARGV[3])
  if (ARGV[1] == "center") print center(ARGV[2], ARGV[3])
  if (ARGV[1] == "cut") print cut(ARGV[2], ARGV[3])
  if (ARGV[1] == "wrap") print wrap(ARGV[2], ARGV[3])
  if (ARGV[1] == "title") print title(ARGV[2])
}
