# Shared by the scripts here; source it, do not run it.
# shellcheck shell=bash disable=SC2034
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
LAB=$ROOT/e2e/lab/lab
LAB_DIR=${LAB_DIR:-$HOME/.cache/swarm-lab}
LOGS=$ROOT/build/log
mkdir -p "$LOGS"

beat=
trap 'kill $beat 2>/dev/null; exit 130' INT TERM   # also where the command at hand ignores Ctrl-C
die() { echo "$(basename "$0"): $*" >&2; exit 1; }

# result FILE PROMISE COMMAND FIGURE BAR OK: a line for `make proof`, in build/results/FILE.jsonl.
result() {
	mkdir -p build/results
	printf '{"promise":"%s","command":"%s","figure":"%s","bar":"%s","ok":%s,"date":"%s","commit":"%s"}\n' "${@:2}" \
		"$(date -u +%F)" "$(git rev-parse --short HEAD 2>/dev/null || echo none)" >>"build/results/$1.jsonl"
}
# built: are the programs and the lab's there from an earlier run?
built() { ls "$LAB_DIR"/bin/*/done build/release/bin/swarm-operator >/dev/null 2>&1; }

# steps COUNT: how many calls of `step` follow.
steps() { STEPS=$1 STEP=0; }

# step WHAT USUALLY COMMAND...: runs it with its output in a log file, shows that
# it is alive, and on failure the end of the log and where all of it is.
step() {
	local what=$1 usually=$2 log code=0 start=$SECONDS mark
	shift 2
	STEP=$((STEP + 1)); mark="[$STEP/$STEPS]"
	log=$LOGS/$(basename "$0")-$STEP-$(tr -cs 'a-zA-Z0-9\n' - <<<"$what").log
	echo "$mark $what (usually $usually)"
	# The heartbeat is what runs in the background, so that Ctrl-C reaches the command.
	(
		trap 'kill $! 2>/dev/null; exit 0' INT TERM
		every=30; [ ! -t 1 ] || every=2
		while sleep $every & wait $! && kill -0 $$ 2>/dev/null; do
			last=$(tail -n 1 "$log" 2>/dev/null | tr -d '\r' | cut -c1-90)
			if [ -t 1 ]; then printf '\r\033[K%s %ds  %s' "$mark" $((SECONDS - start)) "$last"
			else echo "$mark still at it after $((SECONDS - start)) s: $last"; fi
		done
	) &
	beat=$!
	"$@" >"$log" 2>&1 || code=$?
	kill "$beat" 2>/dev/null || true; wait "$beat" 2>/dev/null || true
	[ ! -t 1 ] || printf '\r\033[K'
	if [ $code != 0 ]; then
		echo "$mark FAILED after $((SECONDS - start)) s: $what. The end of its log:"
		tail -n 30 "$log" | sed 's/^/    /'
		echo "    all of it: $log"
		return $code
	fi
	echo "$mark done in $((SECONDS - start)) s"
}
