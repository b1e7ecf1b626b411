# Comma separated values, one row at a time.

# Splits a row into field[1..n]; returns n. "" inside quotes is a quote.
function parse(row, field,  i, c, n, quoted) {
  n = 1
  field[1] = ""
  quoted = 0
  for (i = 1; i <= length(row); i++) {
    c = substr(row, i, 1)
    if (quoted && c == "\"" && substr(row, i + 1, 1) == "\"") {
      field[n] = field[n] "\""
      i += 1
    } else if (c == "\"") {
      quoted = !quoted
    } else if (c == "," && !quoted) {
      field[++n] = ""
    } else {
      field[n] = field[n] c
    }
  }
  return n
}

function split_row(row,  field, n, i, out) {
  n = parse(row, field)
  out = field[1]
  for (i = 2; i <= n; i++) out = out "|" field[i]
  return out
}

function count(row,  field) { return parse(row, field) }

# The k-th field; negative k counts from the end.
function pick(row, k,  field, n) {
  n = parse(row, field)
  if (k < 0) k = n + k + 1
  if (k < 1 || k > n) return "none"
  return field[k]
}

# A field as it has to be written.
function quote(text) {
  if (index(text, ",") == 0 && index(text, "\"") == 0) return text
  gsub(/"/, "\"\"", text)
  return "\"" text "\""
}

BEGIN {
  if (ARGV[1] == "split_row") print split_row(ARGV[2])
  if (ARGV[1] == "count") print count(ARGV[2])
  if (ARGV[1] == "pick") print pick(ARGV[2], ARGV[3])
  if (ARGV[1] == "quote") print quote(ARGV[2])
}
