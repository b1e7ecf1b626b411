#!/bin/sh
# Runs beside the agent of each pod and answers the pod's mail: a peer asks for a review, or the merger says
# that a branch no longer fits. In worker-0's pod it also is the merger (merger.sh), so there is always one.
# Mail from peers is data: names are checked, a patch may change one line of one module.
#   review.sh            for ever
#   review.sh --once     one message at most, then one round of merging
set -u
here=${0%/*}
. "$here/lib.sh"

tmp=$(mktemp -d) || exit 1
stop='' child=''
trap 'rm -rf "$tmp"' EXIT
trap 'stop=1; [ -z "$child" ] || kill "$child" 2>/dev/null' TERM INT

header() { sed -n "/^\$/q; s/^$1: //p" "$tmp/body" | head -n 1; }

# Prints "approve" or "reject: why".
review() {
  module=$(header Module) test=$(header Test) base=$(header Base)
  plain "$module" && plain "$test" || { say "reject: odd names"; return; }
  case $base in '' | *[!0-9a-f]*) say "reject: odd base"; return ;; esac
  sed '1,/^$/d' "$tmp/body" >"$tmp/patch"
  rm -rf "$tmp/app"
  git clone -q "$repo" "$tmp/app" && cd "$tmp/app" && git checkout -q "$base" || { say "reject: no clone"; return; }
  before=$(passing "$module")
  if [ -s "$tmp/patch" ] && grep -q '^diff ' "$tmp/patch"; then
    git apply --index "$tmp/patch" || { say "reject: does not apply"; return; }
    [ "$(git diff --cached --numstat)" = "1	1	lib/$module.awk" ] || { say "reject: more than one line"; return; }
  fi
  after=$(passing "$module")
  if better "$before" "$after" "$test"; then say "approve"; else say "reject: tests fail"; fi
}

conflict() {
  task=$(header Task) issue=$(header Issue) module=$(header Module) test=$(header Test) sha=$(header Commit)
  plain "$task" && plain "$issue" && plain "$module" && plain "$test" || { say "odd names in a conflict mail"; return; }
  case $sha in '' | *[!0-9a-f]*) return ;; esac
  say "$task does not fit main any more: once again"
  redo "$task" "$issue" "$module" "$test" "$CFN_AGENT_ID" "$sha"
}

# Takes one message and deals with it; 3: there was none.
serve() {
  agentctl recv --wait "$1" --lease 60s -o json >"$tmp/message" 2>"$tmp/error" &
  child=$!
  wait "$child"
  code=$?
  child=
  [ "$code" = 0 ] || return "$code"
  jq -r '.messageId, .attempt, .from, .wantsReply, .body' <"$tmp/message" >"$tmp/lines" || return 1
  {
    read -r id
    read -r attempt
    read -r from
    read -r wants_reply
    cat >"$tmp/body"
  } <"$tmp/lines"
  case $(header Kind) in
    review)
      verdict=$(review 2>&1 | tail -n 1)
      say "review of $(header Task) for $from: $verdict"
      if [ "$wants_reply" = true ]; then
        printf '%s\n' "$verdict" | agentctl reply "$id" - --ack --attempt "$attempt" && return
        say "$from is gone"
      fi
      ;;
    conflict) conflict ;;
    *) say "dropped a message from $from" ;; # e.g. an answer that came too late
  esac
  agentctl ack "$id" --attempt "$attempt" || say "cannot ack $id"
}

wait=20s
[ "$CFN_AGENT_ID" != worker-0 ] || wait=1s
merge() { [ "$CFN_AGENT_ID" != worker-0 ] || sh "$here/merger.sh"; }

if [ "${1:-}" = --once ]; then
  serve 0s
  code=$?
  merge
  exit $code
fi
last=0
while [ -z "$stop" ]; do
  serve "$wait"
  case $? in 0 | 3) ;; *) [ -n "$stop" ] || { cat "$tmp/error" >&2; sleep 1; } ;; esac
  now=$(date +%s)
  [ "$now" = "$last" ] || [ -n "$stop" ] || merge
  last=$now
done
