#!/bin/sh
# test.sh ITEM: it is done, once, and nothing else is. The journal grows by a line each time somebody works on it.
set -eu
[ "$(grep -c ': done$' list.txt)" = 1 ]
grep -q "^item $1: done$" list.txt
[ "$(cat journal.txt)" = "$1" ]
echo "item $1: green"
