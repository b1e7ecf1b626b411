# Writes one-token changes of an awk program, the likeliest slip first.
#   awk -v start=FUNCTION -v out=DIR -f mutate.awk PROGRAM
# Only lines of FUNCTION and of what it calls are changed (without it: of all functions). Each change becomes
# a whole program DIR/NNN.awk (without DIR: none); a line for each is printed: NNN LINE COLUMN OLD NEW.

{ text[NR] = $0 }

/^function / {
  name = $2
  sub(/\(.*/, "", name)
  first[name] = NR
  order[++functions] = name
}
# A function of one line ends there.
/^function .*}$/ || /^}/ { if (name != "") last[name] = NR; name = "" }

# Marks a function and what it calls, in the order in which they are met.
function blame(f,  i, k) {
  if (f in blamed || !(f in first)) return
  blamed[f] = 1
  chosen[++choices] = f
  for (i = first[f]; i <= last[f]; i++)
    for (k = 1; k <= functions; k++)
      if (match(text[i], "[^a-z_]" order[k] "\\(")) blame(order[k])
}

function change(line, column, old, new, rank) {
  changes++
  where[changes] = line
  at[changes] = column
  before[changes] = old
  after[changes] = new
  ranks[changes] = rank
}

# Finds the tokens of a line; strings, regular expressions and comments are left alone.
function scan(line,  s, i, c, two, three, number, previous) {
  s = text[line]
  previous = ""
  i = line == first[current] ? index(s, "{") + 1 : 1
  for (; i <= length(s); i++) {
    c = substr(s, i, 1)
    two = substr(s, i, 2)
    if (c == " ") continue
    if (c == "#") return
    if (c == "\"" || (c == "/" && previous ~ /[(,~]/)) {
      three = c
      for (i++; i <= length(s) && substr(s, i, 1) != three; i++)
        if (substr(s, i, 1) == "\\") i++
      previous = three
      continue
    }
    if (match(substr(s, i), /^[A-Za-z_][A-Za-z_0-9]*/) || match(substr(s, i), /^[0-9]+\.[0-9]+/)) {
      i += RLENGTH - 1
      previous = "x"
      continue
    }
    if (match(substr(s, i), /^[0-9]+/)) {
      number = substr(s, i, RLENGTH)
      change(line, i, number, number + 1, 4)
      if (number > 0) change(line, i, number, number - 1, 4)
      i += RLENGTH - 1
      previous = "x"
      continue
    }
    previous = substr(s, i + (two in twin), 1)
    if (two in twin) {
      change(line, i, two, twin[two], rank[two])
      i++
    } else if (two == "++" || two == "--" || two == "!~") {
      i++
    } else if (c in twin) {
      change(line, i, c, twin[c], rank[c])
    }
  }
}


function changed(k,  s) {
  s = text[where[k]]
  return substr(s, 1, at[k] - 1) after[k] substr(s, at[k] + length(before[k]))
}

BEGIN {
  n = split("< <= > >= == != && || + - += -= * /", t, " ")
  for (i = 1; i <= n; i += 2) {
    twin[t[i]] = t[i + 1]
    twin[t[i + 1]] = t[i]
    rank[t[i]] = rank[t[i + 1]] = i <= 4 ? 1 : i <= 8 ? 2 : 3
  }
}

END {
  if (start != "") blame(start)
  else for (i = 1; i <= functions; i++) chosen[++choices] = order[i]
  for (i = 1; i <= choices; i++) {
    current = chosen[i]
    for (j = first[current]; j <= last[current]; j++) scan(j)
  }
  n = 0
  for (r = 1; r <= 4; r++)
    for (k = 1; k <= changes; k++)
      if (ranks[k] == r) {
        n++
        printf "%03d %d %d %s %s\n", n, where[k], at[k], before[k], after[k]
        if (out != "") {
          file = sprintf("%s/%03d.awk", out, n)
          for (i = 1; i <= NR; i++) print i == where[k] ? changed(k) : text[i] > file
          close(file)
        }
      }
}
