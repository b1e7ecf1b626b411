# shellcheck shell=sh disable=SC1090,SC2034,SC2154
# What fix.sh, review.sh and merger.sh share. Sourced; needs sh, awk, git, jq, timeout.
# Where the scripts are is in $here; the repository is git://repo/app unless REPAIR_REPO says otherwise.

repo=${REPAIR_REPO:-git://repo/app}
module_seconds=${REPAIR_MODULE_SECONDS:-4} # for all tests of a module, hanging ones included
try_seconds=${REPAIR_TRY_SECONDS:-1}       # for one test of one change: some changes make a loop endless

say() { printf '%s\n' "$*"; }

# A name that may become part of a path or of a command line.
plain() { case $1 in '' | *[!a-z0-9_-]*) return 1 ;; esac; }

# passing MODULE [FILE]: the names of the module's tests that pass, FILE being the module under test.
# A test that hangs ends the run: it and what comes after it count as failed.
passing() {
  TALLY_FILE=${2:-} timeout "$module_seconds" sh tests/run "$1" 2>/dev/null |
    sed -n "s/^ok $1 //p" | tr '\n' ' '
}

# better BEFORE AFTER TEST: TEST passes now, and whatever passed before still does.
better() {
  for each in $3 $1; do
    case " $2" in *" $each "*) ;; *) return 1 ;; esac
  done
}

# command_of MODULE TEST: the command that the test calls, hence the function to look at first.
command_of() (
  wanted=$2 data=
  t() { [ "$1" != "$wanted" ] || printf '%s\n' "$3"; }
  . "tests/$1.t"
)

# repair MODULE TEST: tries one-token changes in the current directory and leaves the first one that is better than
# what is there. Prints what it did. 1: there is none.
repair() {
  mutants=$(mktemp -d) || return 1
  before=$(passing "$1")
  awk -v start="$(command_of "$1" "$2")" -v out="$mutants" -f "$here/mutate.awk" "lib/$1.awk" >"$mutants/list"
  tried=0 repaired=1
  while read -r number line column old new; do
    [ "$tried" -lt 200 ] || break
    tried=$((tried + 1))
    TALLY_FILE=$mutants/$number.awk timeout "$try_seconds" sh tests/run "$1" "$2" >/dev/null 2>&1 || continue
    better "$before" "$(passing "$1" "$mutants/$number.awk")" "$2" || continue
    cp "$mutants/$number.awk" "lib/$1.awk"
    change="lib/$1.awk:$line:$column: $old -> $new"
    say "$change (try $tried)"
    repaired=0
    break
  done <"$mutants/list"
  [ "$repaired" = 0 ] || say "none of $tried changes helps"
  rm -rf "$mutants"
  return $repaired
}

# identify NAME: who commits.
identify() {
  GIT_AUTHOR_NAME=$1 GIT_COMMITTER_NAME=$1 GIT_AUTHOR_EMAIL=$1@swarm.invalid GIT_COMMITTER_EMAIL=$1@swarm.invalid
  export GIT_AUTHOR_NAME GIT_COMMITTER_NAME GIT_AUTHOR_EMAIL GIT_COMMITTER_EMAIL
}

# commit_fix TASK ISSUE MODULE TEST TRAILER...: commits what is there, also if it is nothing.
commit_fix() {
  task_=$1 issue_=$2 module_=$3 test_=$4
  shift 4
  set -- --trailer "Task-Id: $task_" --trailer "Issue: $issue_" --trailer "Test: $module_/$test_" "$@"
  git commit -qa --allow-empty "$@" -m "$module_: make $test_ pass" -m "${change:-It passed already.}"
}

trailer() { git log -1 --format="%(trailers:key=$2,valueonly,separator=%x20)" "$1"; }

# merged_tasks REF: the Task-Ids of all commits that REF has, each followed by a blank.
merged_tasks() { git log --format='%(trailers:key=Task-Id,valueonly,separator=%x20)' "$1" | tr '\n' ' '; }

# redo TASK ISSUE MODULE TEST AUTHOR SHA: repairs anew on today's main and replaces the branch, unless the branch
# is no longer at SHA or the task is merged. 0 also if there is nothing to do.
redo() {
  clone=$(mktemp -d) || return 1
  (
    cd "$clone" || exit 1
    git clone -q "$repo" . || exit 1
    case " $(merged_tasks HEAD)" in *" $1 "*) exit 0 ;; esac
    [ "$(git rev-parse -q --verify "origin/swarm/$1")" = "$6" ] || exit 0
    identify "$5"
    change=
    case " $(passing "$3")" in *" $4 "*) ;; *) repair "$3" "$4" || exit 1 ;; esac
    commit_fix "$1" "$2" "$3" "$4" --trailer "Redone-by: $CFN_AGENT_ID" || exit 1
    git push -q --force-with-lease="swarm/$1:$6" origin "HEAD:refs/heads/swarm/$1"
  )
  code=$?
  rm -rf "$clone"
  return $code
}
