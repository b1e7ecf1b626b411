#!/bin/bash
# V1: the coordination the team had before, a queue of message files, untouched: spec.rollout.v1.inPlace.command.
# A router writes the task into the worker's inbox, the worker polls, takes it by mv, runs the same fix.sh, and
# writes a reply file; the router polls for that and gives up after a while. No leases, no acks, no peers.
set -u
here=${0%/*}
queue=/dev/shm/v1/$CFN_AGENT_ID
mkdir -p "$queue" 2>/dev/null || queue=${TMPDIR:-/tmp}/v1/$CFN_AGENT_ID
inbox=$queue/inbox taken=$queue/taken replies=$queue/replies
mkdir -p "$inbox" "$taken" "$replies"
message=$SWARM_TASK_ID.$SWARM_TASK_ATTEMPT

worker() {
  while :; do
    for file in "$inbox"/*.msg; do
      [[ -e $file ]] || continue
      name=${file##*/}
      name=${name%.msg}
      mv "$file" "$taken/$name" 2>/dev/null || continue
      sh "$here/fix.sh" <"$taken/$name" >"$replies/$name.out" 2>&1
      echo $? >"$replies/$name.tmp"
      mv "$replies/$name.tmp" "$replies/$name.code"
      return
    done
    sleep 0.1
  done
}

rm -f "$inbox"/*.msg # of a router that was killed
cat >"$inbox/$message.tmp"
mv "$inbox/$message.tmp" "$inbox/$message.msg"
worker &
for ((i = 0; i < 300; i++)); do
  [[ -e $replies/$message.code ]] && break
  sleep 0.1
done
code=1
[[ -e $replies/$message.out ]] && cat "$replies/$message.out"
if [[ -e $replies/$message.code ]]; then
  read -r code <"$replies/$message.code"
else
  echo "V1: no reply within 30 s"
  trap '' TERM
  kill 0 # agentctl gives every task a process group of its own
fi
rm -f "$replies/$message".* "$taken/$message"
exit "$code"
