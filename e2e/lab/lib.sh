# Shared by every script here; source it, do not run it.
# shellcheck shell=bash disable=SC2034
set -euo pipefail

LAB_SRC=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export LAB_DIR=${LAB_DIR:-$HOME/.cache/swarm-lab}
RUN=$LAB_DIR/run                  # everything of the running cluster; `down` removes it
AUDIT_LOG=$RUN/cp/audit.log
. "$LAB_SRC/versions.env"

# Binaries are keyed by what they are made from, so a changed pin never runs
# an old binary and an unchanged one is never built again.
K8S_VERSION=$(awk '$1=="k8s.io/kubernetes"{print $2}' "$LAB_SRC/go/kube/go.mod")
BIN=$LAB_DIR/bin/$(cd "$LAB_SRC" && cat pause.c go/kube/go.* go/kube/*/*.go |
	sha256sum | cut -c1-12)
export KUBECONFIG=$LAB_DIR/kubeconfig
# LAB_DIR/go: there only if `packages` had to fetch a Go that is new enough.
PATH=$BIN:$LAB_DIR/go/bin:$PATH:/usr/local/go/bin:/usr/sbin:/sbin

say() { printf '%6.1fs  %s\n' "$(since)" "$*"; }
die() { echo "lab: $*" >&2; exit 1; }
now() { date +%s.%N; }
export LAB_T0=${LAB_T0:-$(now)}   # `up` and what it calls count from one start
since() { awk -v a="$LAB_T0" -v b="$(now)" 'BEGIN{print b-a}'; }

# refuse WHY REMEDY...: the lab cannot run here, and what to do instead.
refuse() {
	echo "lab: it cannot run here: $1" >&2; shift
	printf '       %s\n' "$@" "or use a cluster you have: make demo CONTEXT=<context of your kubeconfig>" >&2
	exit 1
}

# preflight: refuses where the lab cannot work, before anything is changed.
preflight() {
	[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || refuse "it needs Linux on x86-64, this is $(uname -sm)"
	[ "$(id -u)" = 0 ] || refuse "it needs root (namespaces, mounts, cgroups)" "run the same command as root or with sudo"
	command -v apt-get >/dev/null || refuse "it takes containerd and runc from Debian 12's packages; there is no apt-get"
	case $LAB_DIR/ in /var/*|/run/*) die "LAB_DIR must not be under /var or /run: a node has its own" ;; esac
	local type missing="" c
	type=$(stat -fc %T /sys/fs/cgroup 2>/dev/null || echo none)
	if [ "$type" = cgroup2fs ]; then
		[ "${LAB_CGROUP_V2:-}" = try ] || refuse "this machine has cgroup v2, the lab is tested with cgroup v1 only" \
			"boot with systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller" \
			"or try it untested: LAB_CGROUP_V2=try"
	else
		for c in cpu cpuacct cpuset memory devices freezer blkio pids systemd; do
			[ -d "/sys/fs/cgroup/$c" ] || missing+=" $c"
		done
		[ -z "$missing" ] || refuse "cgroup v1 hierarchies are missing under /sys/fs/cgroup:$missing" "mount them"
	fi
	unshare --mount --pid --fork --net true 2>/dev/null ||
		refuse "making namespaces is not allowed (a container without --privileged?)" "give it --privileged"
	if command -v ip >/dev/null; then
		unshare --net sh -c 'ip link add lab0 type bridge && ip link add lab1 type veth peer name lab2' 2>/dev/null ||
			refuse "the kernel has no bridge or veth" "modprobe bridge veth"
		local net busy
		for net in "$LAB_CIDR" "$POD_CIDR" "$SVC_CIDR"; do
			busy=$(ip -4 route show root "$net" | grep -v "dev $LINK" || true)
			[ -z "$busy" ] || refuse "its addresses $net are in use here: ${busy%%$'\n'*}" "change them in e2e/lab/versions.env"
		done
	fi
	if command -v nft >/dev/null; then
		unshare --net nft add table inet t 2>/dev/null || refuse "the kernel has no nf_tables" "modprobe nf_tables"
	fi
}

# lock: one up, down, node or image-load at a time; those that one calls share its lock.
# Interrupted, they end after the command at hand, even one that ignores Ctrl-C.
lock() {
	trap 'echo "lab: interrupted; run it again to go on" >&2; exit 130' INT TERM
	[ -z "${LAB_LOCKED:-}" ] || return 0
	mkdir -p "$LAB_DIR"
	exec 9>"$LAB_DIR/lock"
	flock -n 9 || { echo "lab: another lab command is running; waiting for it" >&2; flock -w 900 9 || die "it still runs after 15 min"; }
	export LAB_LOCKED=1
}

# wait_for SECONDS WHAT COMMAND...: poll until the command succeeds.
wait_for() {
	local limit=$1 what=$2 end; shift 2
	end=$((SECONDS + limit))
	until "$@" >/dev/null 2>&1; do
		((SECONDS < end)) || die "gave up after ${limit}s waiting for: $what (logs: $RUN/*/*.log)"
		sleep 0.1
	done
	say "$what"
}

# A machine is a process tree in pid, mount and network namespaces of its own:
# "cp" runs the control plane, n1, n2, ... are nodes. Killing its keeper takes
# down everything in it, containers included, with their mounts, interfaces and
# packet-filter rules, so `down` has nothing to hunt for and a node's sudden
# death is one kill. The keeper writes its own pid before it makes anything, so
# an interrupted `up` leaves no machine that `down` does not know.

# machine_keeper NAME: pid of the keeper, if it still runs. The start time
# guards against a pid reused since (say, after a reboot).
machine_keeper() {
	local pid start
	read -r pid start 2>/dev/null <"$RUN/$1/keeper" || return 1
	[ "$(start_time "$pid" 2>/dev/null)" = "$start" ] && echo "$pid"
}
start_time() { sed 's/.*) //' "/proc/$1/stat" | cut -d' ' -f20; }

# machine_pid NAME: the host pid of its first process; fails if it isn't running.
machine_pid() {
	local keeper init
	keeper=$(machine_keeper "$1") || return 1
	init=$(cut -d' ' -f1 "/proc/$keeper/task/$keeper/children" 2>/dev/null)
	[ -n "$init" ] && echo "$init"
}

# What runs on must not keep what its caller has open: a lock of theirs would never be free again.
# shellcheck disable=SC2016 # for an inner shell
CLOSE_OTHERS='for fd in /proc/self/fd/*; do fd=${fd##*/}; ((fd < 3)) || eval "exec $fd>&-"; done'

machine_up() {
	local m=$1
	machine_kill "$m"
	rm -rf "${RUN:?}/$m"
	mkdir -p "$RUN/$m/var"
	setsid bash -c "$CLOSE_OTHERS"'; exec bash "$@"' - "$LAB_SRC/machine-init" keeper "$RUN/$m" "$BIN/pause" \
		</dev/null >"$RUN/$m/init.log" 2>&1 &
	for _ in $(seq 250); do
		[ -e "$RUN/$m/started" ] && return
		sleep 0.02
	done
	die "machine $m did not start: $(cat "$RUN/$m/init.log")"
}

# machine_kill NAME...: at once; the kernel takes a second or two to clear up.
machine_kill() {
	local m keeper init gone=() end=$((SECONDS + 60))
	for m; do
		keeper=$(machine_keeper "$m") || continue
		init=$(machine_pid "$m" || true)
		kill -9 "$keeper" 2>/dev/null || true
		gone+=("$keeper" ${init:+"$init"})
	done
	for init in ${gone[@]+"${gone[@]}"}; do
		# A zombie is gone, too: everything of its namespace ended before it.
		while [ "$(cut -d' ' -f1 <<<"$(sed 's/.*) //' "/proc/$init/stat" 2>/dev/null)")" != Z ] && [ -e "/proc/$init" ]; do
			((SECONDS < end)) || die "process $init does not end; look at /proc/$init/stack"
			sleep 0.05
		done
	done
}

# on MACHINE COMMAND...: run a command there. Not `ip netns exec`: that one
# mounts a fresh /sys and so hides /sys/fs/cgroup.
on() {
	local pid; pid=$(machine_pid "$1") || die "machine $1 is not running"
	shift
	nsenter -t "$pid" -m -n -p -- "$@"
}

# spawn MACHINE NAME COMMAND...: run it there in the background.
spawn() {
	local m=$1 name=$2; shift 2
	printf '%q ' "$@" >"$RUN/$m/$name.cmd"
	# shellcheck disable=SC2016 # for the inner shell
	on "$m" setsid --fork bash -c "$CLOSE_OTHERS"'; echo $$ >"$0"; exec "$@"' "$RUN/$m/$name.pid" "$@" \
		</dev/null >>"$RUN/$m/$name.log" 2>&1
}

# running MACHINE NAME: was it spawned and is it still there?
running() {
	machine_pid "$1" >/dev/null && [ -e "$RUN/$1/$2.pid" ] && on "$1" kill -0 "$(cat "$RUN/$1/$2.pid")" 2>/dev/null
}

# stop MACHINE NAME [SIGNAL]: signal one program of a machine.
stop() { on "$1" kill "-${3:-TERM}" "$(cat "$RUN/$1/$2.pid")"; }

# Image building in a store of the lab's own and a mount namespace of its own:
# neither touches the user's images and networks nor leaves a mount.
builder() {
	local conf=$LAB_DIR/images/containers.conf
	[ -e "$conf" ] || { mkdir -p "$LAB_DIR/images" && printf '[network]\nnetwork_config_dir = "%s"\n' "$LAB_DIR/images/networks" >"$conf"; }
	CONTAINERS_CONF=$conf unshare --mount --propagation private \
		buildah --root "$LAB_DIR/images" --runroot "$LAB_DIR/images/run" "$@"
}

# restart MACHINE NAME: kill it at once and start it again as it was.
restart() {
	local cmd=()
	[ -e "$RUN/$1/$2.cmd" ] || die "machine $1 has no program $2"
	stop "$1" "$2" KILL 2>/dev/null || true
	eval "cmd=($(cat "$RUN/$1/$2.cmd"))"
	spawn "$1" "$2" "${cmd[@]}"
}

node_ip()   { echo "10.77.0.$((10 + ${1#n}))"; }
node_pods() { echo "10.88.$((4 * (${1#n} - 1))).0/22"; }
# nodes: the names of those that run.
nodes() { local d; for d in "$RUN"/n[0-9]*; do machine_pid "$(basename "$d")" >/dev/null && basename "$d"; done; return 0; }
cluster_up() { [ -e "$RUN/cp/complete" ] && machine_pid cp >/dev/null && kubectl --request-timeout=5s get --raw /readyz >/dev/null 2>&1; }
