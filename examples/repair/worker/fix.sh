#!/bin/sh
# The agent's command: repairs one issue in the git clone it is started in.
#   agentctl work --git git://repo/app -- sh fix.sh
# stdin: {"id":"text-pad_short","module":"text","test":"pad_short",...}
# Exit: 0 repaired and committed, 1 not repaired, 65 not an issue, 75 nobody there to review it.
set -u
here=${0%/*}
. "$here/lib.sh"

tmp=$(mktemp -d) || exit 75
trap 'rm -rf "$tmp"' EXIT

fields=$(jq -er '@sh "issue=\(.id) module=\(.module) test=\(.test)"' 2>/dev/null) || { say "not an issue: no JSON"; exit 65; }
issue='' module='' test=''
eval "$fields"
plain "$issue" && plain "$module" && plain "$test" || { say "not an issue: odd names"; exit 65; }
[ -r "lib/$module.awk" ] && [ -n "$(command_of "$module" "$test")" ] || { say "no test $module/$test"; exit 65; }

# An agent on another node if there is one; worker-0, which also merges, last. Three at most.
reviewers() {
  agentctl peers -o json | jq -r --arg me "$CFN_AGENT_ID" '
    (.peers? // .) as $all | ([$all[] | select(.name == $me) | .node][0] // "") as $here
    | $all[] | select(.role == "worker" and .name != $me and .state != "lost" and .state != "leaving")
    | "\(if .name == "worker-0" then 1 else 0 end) \(if .node == $here then 1 else 0 end) \(.name)"' |
    awk -v seed="$issue$SWARM_TASK_ATTEMPT" '
      BEGIN { for (i = 1; i <= length(seed); i++)
                h = (h * 31 + index("abcdefghijklmnopqrstuvwxyz0123456789_-", substr(seed, i, 1))) % 9973 }
      { h = (h * 137 + 71) % 9973; print $1, $2, h, $3 }' |
    sort -n -k1,1 -k2,2 -k3,3 | awk 'NR <= 3 { print $4 }'
}

review() {
  {
    printf 'Kind: review\nTask: %s\nBase: %s\nModule: %s\nTest: %s\n\n' \
      "$SWARM_TASK_ID" "$(git rev-parse HEAD~1)" "$module" "$test"
    git format-patch -1 --stdout
  } >"$tmp/mail"
  for peer in $(reviewers); do
    if answer=$(agentctl request "$peer" - --timeout 8s <"$tmp/mail"); then
      say "$peer: $answer"
      case $answer in approve*) reviewer=$peer; return 0 ;; esac
      return 1
    fi
    say "$peer does not answer"
  done
  say "nobody there to review it"
  return 75
}

case " $(merged_tasks HEAD)" in *" $SWARM_TASK_ID "*) say "merged already"; exit 0 ;; esac
identify "$CFN_AGENT_ID"

# A first attempt trusts the program as it is, as people do: if it hangs, agentctl's idle clock ends it. Later ones do not.
limit=
[ "$SWARM_TASK_ATTEMPT" -le 1 ] || limit=$try_seconds

say "issue $issue: lib/$module.awk, test $test"
change=
if ${limit:+timeout "$limit"} sh tests/run "$module" "$test"; then
  say "passes already"
else
  repair "$module" "$test" || exit 1
fi
commit_fix "$SWARM_TASK_ID" "$issue" "$module" "$test" --trailer "Coordination: $CFN_COORDINATION_VERSION" || exit 1

# The old coordination knows no peers.
[ "$CFN_COORDINATION_VERSION" = V2 ] || exit 0
review || exit
git commit -q --amend --no-edit --allow-empty --trailer "Reviewed-by: $reviewer"
