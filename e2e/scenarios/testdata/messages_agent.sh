#!/bin/bash
# An agent of the scenario `messages`: sends to its peers and receives from them with agentctl, and tells the recorder of
# every operation before and after the call (the lines: messages/history.go). RECORDER, AGENTS, POD_UID come from the pod.
set -u
export LC_ALL=C
mine=${CFN_AGENT_ID#worker-}
pod=${LOG:-$CFN_POD_NAME/${POD_UID:0:8}}   # whose log it is; a pod's name may come again

connect() {
	instance=$CFN_POD_NAME.$1.$SRANDOM
	until { exec 3<>"/dev/tcp/$RECORDER/7000"; } 2>/dev/null; do sleep 0.2; done
}
tell() { printf '%s\n' "$CFN_AGENT_ID $pod $instance $EPOCHREALTIME $*" >&3; }
# ask: tell, and wait until it is recorded; false: it is time to stop.
ask() { tell "$@"; read -r -t 30 answer <&3 || exit 1; [ "$answer" = go ]; }

# body ID N: as messages.Expected.
body() {
	local length=$((100 + $2 % 200))
	(($2 % 50)) || length=4000
	(($2 % 500)) || length=30000
	body=$1
	while ((${#body} < length)); do body+=.$body; done
	body=${body:0:length}
}

# send_once ID TO: the recorded outcome in $outcome.
send_once() {
	local out code
	if ! ask B "$1" "$2"; then outcome=stop; tell F "$1" stopped; return; fi
	out=$(agentctl send "$2" "$body" --id "$1" --timeout 5s -o json 2>/dev/null) && code=0 || code=$?
	case $code in
	0)
		outcome=accepted survives=- duplicate=false
		[[ $out =~ \"survives\":\"([a-z]+)\" ]] && survives=${BASH_REMATCH[1]}
		[[ $out =~ \"duplicate\":true ]] && duplicate=true
		tell A "$1" "$survives" "$duplicate" ;;
	3 | 4 | 6 | 7) outcome=refused; tell F "$1" $code ;;
	*) outcome=unknown; tell U "$1" $code ;;
	esac
}

sender() {
	connect s
	local n id to try
	for ((n = 1;; n++)); do
		id=$instance.$n to=worker-$(((mine + 1 + RANDOM % (AGENTS - 1)) % AGENTS))
		body "$id" $n
		for ((try = 0; try < 30; try++)); do   # unknown: the same id again tells
			send_once "$id" "$to"
			[ $outcome = unknown ] || break
			sleep 0.3
		done
		case $outcome in
		accepted) ((n % 40)) || send_once "$id" "$to" ;;   # again on purpose: it must arrive once
		stop) while sleep 1; do :; done ;;
		*) sleep 0.3 ;;
		esac
	done
}

receiver() {
	connect r
	local began message code id attempt
	while :; do
		began=$EPOCHREALTIME
		message=$(agentctl recv --wait 3s --lease 10s -o json 2>/dev/null) && code=0 || code=$?
		if [ $code != 0 ]; then [ $code = 3 ] || sleep 0.2; continue; fi
		[[ $message =~ \"messageId\":\"([^\"]+)\" ]] && id=${BASH_REMATCH[1]} || exit 1
		[[ $message =~ \"attempt\":([0-9]+) ]] && attempt=${BASH_REMATCH[1]} || exit 1
		[[ $message =~ \"body\":\"([^\"]*)\" ]] && body=${BASH_REMATCH[1]} || body=unreadable
		ask R "$id" "$attempt" "$began" "${body:--}"
		# The attempt before this one is over: its ack must be refused.
		((attempt == 1)) || ack "$id" $((attempt - 1))
		if ((attempt == 1 && ${id##*.} % 37 == 0)); then
			agentctl nack "$id" --attempt 1 2>/dev/null && code=0 || code=$?
			tell N "$id" "$attempt" $code
			continue
		fi
		ack "$id" "$attempt"
	done
}
ack() {
	local code began
	ask C "$1" "$2"
	began=$EPOCHREALTIME
	agentctl ack "$1" --attempt "$2" --timeout 5s 2>/dev/null && code=0 || code=$?
	if [ $code = 0 ]; then tell K "$1" "$2" "$began"; else tell X "$1" "$2" $code; fi
}

trap 'exit 0' TERM   # and with it everything else in the container
sender &
receiver &
wait -n
exit 1
