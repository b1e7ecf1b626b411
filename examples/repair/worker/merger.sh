#!/bin/sh
# One round of merging: takes the branches swarm/TASK in the order of their commits into main, one commit per task,
# each only if its test passes afterwards and nothing that passed before fails; then pushes.
# Keeps nothing but a clone and the times of its conflict mails, so it may be killed at any time and started
# anew anywhere: what is merged is what main says. Two at once do no harm: one of them cannot push.
# On a conflict it mails the author; if the branch is the same 15 s later, it repairs it itself.
set -u
here=${0%/*}
. "$here/lib.sh"

state=${REPAIR_STATE:-${TMPDIR:-/tmp}/merger}
patience=${REPAIR_PATIENCE:-15}
mkdir -p "$state/mailed"
cd "$state" || exit 1
# A round that was killed may leave locks and half a merge behind: then a new clone.
if [ -e unfinished ] || [ ! -d app/.git ]; then rm -rf app && git clone -q "$repo" app || exit 1; fi
: >unfinished
cd app || exit 1
git fetch -q --prune origin || { rm -f "$state/unfinished"; exit 1; }
git for-each-ref --sort=committerdate --format='%(refname:lstrip=4) %(objectname)' refs/remotes/origin/swarm >"$state/branches"
merged=" $(merged_tasks origin/main)"

# Whether the author of task $1 was mailed about commit $2, and still has time.
waiting() {
  read -r mailed since 2>/dev/null <"$state/mailed/$1" && [ "$mailed" = "$2" ] &&
    [ $(($(date +%s) - since)) -lt "$patience" ]
}

conflict() { # task sha why
  author=$(git log -1 --format=%an "$2") issue=$(trailer "$2" Issue)
  read -r mailed since 2>/dev/null <"$state/mailed/$1" || mailed=
  say "$2 $(date +%s)" >"$state/mailed/$1"
  if [ "$mailed" != "$2" ]; then
    say "$1 of $author: $3"
    printf 'Kind: conflict\nTask: %s\nIssue: %s\nModule: %s\nTest: %s\nCommit: %s\n' "$1" "$issue" "$module" "$test" "$2" |
      agentctl send "$author" - --timeout 5s >/dev/null && return
  fi
  say "$author has not answered: $1 once again, here"
  redo "$1" "$issue" "$module" "$test" "$author" "$2"
}

count=0
while read -r task sha; do
  case $merged in *" $task "*) continue ;; esac
  ! waiting "$task" "$sha" || continue
  if [ "$count" = 0 ]; then # only if there is something to merge
    git cherry-pick --quit
    git reset -q --hard && git checkout -q -B main origin/main || exit 1
  fi
  [ "$count" -lt 8 ] || break
  count=$((count + 1))
  name=$(trailer "$sha" Test)
  module=${name%%/*} test=${name#*/}
  if ! plain "$module" || ! plain "$test" || [ "$(trailer "$sha" Task-Id)" != "$task" ]; then
    say "$task: not a repair"
    say "$sha $(date +%s)" >"$state/mailed/$task"
    continue
  fi
  before=$(passing "$module") main=$(git rev-parse HEAD)
  identify "$(git log -1 --format=%an "$sha")"
  if ! git cherry-pick --allow-empty "$sha" >/dev/null 2>&1; then
    git cherry-pick --abort
    conflict "$task" "$sha" "conflict"
  elif ! better "$before" "$(passing "$module")" "$test"; then
    git reset -q --hard "$main"
    conflict "$task" "$sha" "tests fail after the merge"
  else
    say "merged $task: $name"
    merged="$merged$task "
  fi
done <"$state/branches"
[ "$count" = 0 ] || [ "$(git rev-parse main)" = "$(git rev-parse origin/main)" ] || git push -q origin main
rm -f "$state/unfinished"
