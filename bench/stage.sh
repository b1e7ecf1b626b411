# A stage for benchmarks: pods without a cluster. Every sidecar runs as in a pod:
# supervisor and engine in a network namespace of its own, joined by veth pairs and
# a bridge, its log on a tmpfs of 64 MiB. All of it is in namespaces of the script
# that sources this: whatever ends it, the kernel ends and removes all; the
# machine's own network, mounts and processes are never touched.
#
#   on_stage || { in_stage ARG...; exit; }   # runs the script again, there
#   stage_begin; network c; pod c; network 0 1; pod 0; pod 1; joined 0 1
# shellcheck shell=bash disable=SC2034
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"
driver=$ROOT/build/release/bin/bench-driver sidecar=$ROOT/build/release/bin/swarm-sidecar
START_SECONDS=60
declare -A POD_PIDS     # of the supervisors
API_PORT=6443 NATS_PORT=4222

on_stage() { [ "${BENCH_STAGE:-}" = ready ]; }

# in_stage ARG...: this script with these arguments on a stage of its own; its exit code.
in_stage() {
	local user=() code=0
	scripts/deps bench
	[ -x "$driver" ] && [ -x "$sidecar" ] || die "the programs are missing: make build"
	[ "$(id -u)" = 0 ] || user=(--map-root-user)
	unshare "${user[@]}" --mount --net true 2>/dev/null ||
		die "network and mount namespaces are not allowed here: run it as root, or allow unprivileged user namespaces"
	# In the background, so that a signal to this script ends it; pdeathsig for kill -9.
	BENCH_STAGE=ready setpriv --pdeathsig KILL unshare "${user[@]}" --mount --net --pid --fork --kill-child --mount-proc "$0" "$@" </dev/null &
	stage=$!
	trap 'kill -9 $stage 2>/dev/null; wait $stage 2>/dev/null; exit 130' INT TERM HUP
	wait $stage || code=$?
	return $code
}

# 10.70.0.1 is the API server's stand-in, .2 the coordinator
address() { if [ "$1" = c ]; then echo 10.70.0.2; else echo 10.70.$((1 + $1 / 250)).$((1 + $1 % 250)); fi; }
mac() { if [ "$1" = c ]; then echo 02:46:00:00:ff:ff; else printf '02:46:00:00:%02x:%02x\n' $(($1 / 256)) $(($1 % 256)); fi; }

stage_begin() {
	ulimit -n "$(ulimit -Hn)"
	mount -t tmpfs -o mode=755 run /run        # ip netns keeps its names there
	mount -t tmpfs -o mode=755,size=90% stage /mnt
	mount -t tracefs trace /sys/kernel/tracing 2>/dev/null || true   # to count system calls
	cd /mnt
	mkdir -p pods netns api/link
	trap 'exit 130' INT TERM
	ip link set lo up
	ip link add br0 type bridge
	echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 2>/dev/null || true   # its multicasts would go to every port
	ip addr add 10.70.0.1/16 dev br0
	ip link set br0 up
	printf '127.0.0.1 localhost\n10.70.0.2 coordinator-0.bench\n' >hosts
	mount --bind hosts /etc/hosts
	mount --bind /dev/null /etc/resolv.conf
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=bench \
		-addext subjectAltName=IP:10.70.0.1 -keyout api/key -out api/ca.crt 2>/dev/null
	openssl rand -hex 32 | tee api/link/link >api/link/epoch
	openssl rand -hex 32 | tee api/token >api/submit
	: >api/agentctl                            # what a sidecar would give to its agents; these need none
	"$driver" lease 10.70.0.1 $API_PORT api/ca.crt api/key &
}

# pod K [NAME]: worker K or, for c, the coordinator; its network must be there. NAME:
# another's, for a successor. MAX_INBOX: messages that an inbox takes; AGENTS: of a
# worker.
pod() {
	local k=$1 name=${2:-} role=worker agents=${AGENTS:-1} dir
	if [ "$k" = c ]; then name=coordinator-0 role=coordinator agents=1; fi
	dir=/mnt/pods/${name:-worker-$k}
	[ -z "$name" ] || [ "$k" = c ] || dir=/mnt/pods/successor-$k
	name=${name:-worker-$k}
	mkdir -p "$dir/log"
	mount -t tmpfs -o mode=755,size=64m log "$dir/log"
	# A neighbour that is known for good is not counted against the kernel's limit of 1,024.
	{
		echo "link set lo up"
		echo "addr add $(address "$k")/16 dev eth0"
		echo "link set eth0 up"
		[ "$k" = c ] || echo "neigh add $(address c) lladdr $(mac c) nud permanent dev eth0"
	} >"netns/$k"
	# shellcheck disable=SC2016 # for the inner shell
	nsenter --net="/run/netns/p$k" sh -c '
		echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; ip -batch "$1" || exit 1; shift; exec env -i "$@"' pod "netns/$k" \
		CFN_ROLE=$role CFN_SWARM=bench CFN_SWARM_UID=bench CFN_NAMESPACE=bench CFN_AGENT_ID="$name" CFN_AGENTS_PER_POD="$agents" CFN_TEAM=0 CFN_COORDINATORS=1 \
		CFN_POD_NAME="bench-$k" CFN_POD_UID="uid-$k" CFN_POD_IP="$(address "$k")" CFN_NODE_NAME=here CFN_LINK_SERVICE=bench \
		CFN_MOUNT_PATH="$dir" CFN_LOG_PATH="$dir/log" CFN_BIN_PATH="$dir" CFN_AGENTCTL_FILE=/mnt/api/agentctl \
		CFN_MAX_INBOX_MESSAGES="${MAX_INBOX:-1000}" \
		CFN_LINK_SECRET_FILE=/mnt/api/link/link CFN_SUBMIT_TOKEN_FILE=/mnt/api/submit CFN_API_PATH=/mnt/api \
		KUBERNETES_SERVICE_HOST=10.70.0.1 KUBERNETES_SERVICE_PORT=$API_PORT \
		"$sidecar" 2>"$dir/stderr" &
	POD_PIDS[$k]=$!
}

# network K...: a namespace each, a veth pair to the bridge, and the coordinator knows where they are.
network() {
	local k
	for k; do
		echo "netns add p$k"
		echo "link add v$k master br0 up type veth peer name eth0 address $(mac "$k") netns p$k"
	done | ip -batch -
	for k; do [ "$k" = c ] || echo "neigh add $(address "$k") lladdr $(mac "$k") nud permanent dev eth0"; done | ip -n pc -batch -
}

# wait_for SOCKET: of a server that was started.
wait_for() {
	local until=$((SECONDS + START_SECONDS))
	until [ -S "$1" ]; do
		[ $SECONDS -lt $until ] || { tail -n 5 "$(dirname "$1")/stderr" >&2; die "$1 does not appear"; }
		sleep 0.05
	done
}

# pods N: the coordinator and workers 0 to N-1.
pods() {
	local n=$1 first k together=25   # sidecars started at once
	network c
	pod c
	wait_for pods/coordinator-0/agent.sock
	echo "starting $n sidecars"
	for ((first = 0; first < n; first += together)); do
		mapfile -t group < <(seq $first $((first + together < n ? first + together - 1 : n - 1)))
		network "${group[@]}"
		for k in "${group[@]}"; do pod "$k"; done
		for k in "${group[@]}"; do wait_for "pods/worker-$k/agent.sock"; done
	done
}

redis() {
	redis-server --port 0 --unixsocket /mnt/redis.sock --save '' --appendonly no --maxclients 10000 --tcp-backlog 1024 \
		--dir /mnt --daemonize no >redis.log 2>&1 &
	wait_for redis.sock
}

# nats: core and JetStream; what a reader may have waiting is not what is measured.
nats() {
	local until=$((SECONDS + START_SECONDS))
	printf 'listen: 127.0.0.1:%s\nmax_pending: 1GB\nmax_payload: 1MB\njetstream {store_dir: /mnt/jetstream, max_mem: 8GB}\n' $NATS_PORT >nats.conf
	nats-server -c nats.conf >nats.log 2>&1 &
	until (exec 3<>/dev/tcp/127.0.0.1/$NATS_PORT) 2>/dev/null; do
		[ $SECONDS -lt $until ] || { tail -n 5 nats.log >&2; die "nats-server does not listen"; }
		sleep 0.05
	done
}

# measure VERB...: the driver; when it fails, what the sidecars said.
measure() {
	"$driver" "$@" || {
		cat pods/*/stderr | grep -v '"level":"info"' | tail -n 10 >&2 || true
		die "no figure: $*"
	}
}
