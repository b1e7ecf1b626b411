# What all modules share. No tests of its own: every module's tests run it.

# Reads a file into rows[1..n], without comments and empty lines; returns n.
function read_rows(file, rows,  line, n) {
  n = 0
  while ((getline line < file) > 0)
    if (line !~ /^(#|$)/) rows[++n] = line
  close(file)
  return n
}

function floor(x,  i) {
  i = int(x)
  return x < i ? i - 1 : i
}

function abs(x) { return x < 0 ? -x : x }
