package scenarios

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const spillCommand = "make e2e SCENARIO=spill"

// spiltWay is mail that one pod sends another that does not read it.
type spiltWay struct {
	from, to string
	accepted []int // by number
	read     []spilt
}

// TestSpill: four pods that do not read are sent more than the memory of their mailboxes holds, until one's inbox and outbox are
// both full, most of it on the disk. What was accepted is there after restarts, acks go on, and no pod is evicted for its mail.
func TestSpill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restricted)
	const swarm, memory, disk, body, sent, hub = "spilt", 8 << 20, 48 << 20, 30_000, 400, "worker-0"
	// The kubelet measures disks once a minute, and looks every ten seconds.
	watch := 90 * time.Second
	if small() {
		watch = 0
	}
	w.apply(swarmOf{name: swarm, replicas: 4, agent: object{"command": []string{"sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"}},
		workers: object{"taskGraceSeconds": 1},
		spec: object{"shutdown": object{"drainTimeoutSeconds": 5},
			"mailbox": object{"sizeLimit": "8Mi", "spill": object{"sizeLimit": "48Mi"}, "backpressure": object{"policy": "Reject"}}}}.manifest())
	w.readySwarm(swarm, 4)
	before := map[string]corev1.Pod{}
	for _, pod := range w.live(swarm, "worker") {
		before[pod.Labels["cfn.dev/slot"]] = pod
	}
	var ways []*spiltWay
	for _, other := range []string{"worker-1", "worker-2", "worker-3"} {
		ways = append(ways, &spiltWay{from: other, to: hub}, &spiltWay{from: hub, to: other})
	}

	// The bodies are made there, each with its number and one letter of its own.
	outcomes := map[string]int{}
	var mu sync.Mutex
	each(len(ways), func(n int) {
		way := ways[n]
		script := fmt.Sprintf(`for my $i (0 .. %d) { print qq({"to":"%s","body":"$i ), chr(97 + $i %% 26) x %d, qq("}\n) }`, sent-1, way.to, body)
		out, err := w.try(2*time.Minute, "kubectl", "-n", w.ns, "exec", before[way.from].Name, "-c", "agent", "--", "sh", "-c",
			"perl -e '"+script+"' | agentctl send --batch --timeout 30s; true")
		if err != nil {
			w.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
			var one struct {
				Line          int
				Outcome, Code string
			}
			if err := json.Unmarshal([]byte(line), &one); err != nil {
				w.Errorf("%v: %s", err, line)
				return
			}
			outcomes[strings.TrimSpace(one.Outcome+" "+one.Code)]++
			if one.Outcome == "accepted" {
				way.accepted = append(way.accepted, one.Line-1)
			}
		}
	})
	all, full := outcomes["accepted"], outcomes["refused full"]
	w.result("messages of 30 kB there and back among four that do not read, 8 MiB of memory and 48 MiB of disk each: accepted, refused as full", spillCommand,
		fmt.Sprintf("%d, %d of %d", all, full, len(ways)*sent), "each full; no other outcome", full > 0 && all+full == len(ways)*sent)

	// Its limits leave an eighth of what both hold for acks, ids, replies and tasks; three receivers get three quarters of its outbox.
	spilled := w.gauge(before[hub], "swarm_mailbox_spilled_bytes")
	text := w.kubectl("exec", before[hub].Name, "-c", "cfn-sidecar", "--", "du", "-s", "--block-size=1", "/var/lib/cfn/spill")
	onDisk, _ := strconv.Atoi(strings.Fields(text)[0])
	w.result("swarm_mailbox_spilled_bytes, and the disk that is used, of the pod whose inbox and outbox are full", spillCommand,
		fmt.Sprintf("%d, %d", spilled, onDisk), fmt.Sprintf("%d (6/10 of the disk) to %d; at most 16 MiB more on disk", disk/10*6, disk),
		spilled >= disk/10*6 && spilled <= disk && onDisk >= spilled/2 && onDisk <= disk+16<<20)

	// Full as it is: a few are read and acked.
	read := w.readSpilt(before[hub], 10, body)
	w.result("acks while inbox and outbox are full and most lies on disk", spillCommand, fmt.Sprintf("%d of 10", len(read)), "10", len(read) == 10)

	kept := time.Now()
	for w.stays(before) == "" && time.Since(kept) < watch {
		time.Sleep(time.Second)
	}
	restarted := int32(0)
	for _, pod := range before {
		w.killEngine(pod.Name)
		if lab := theLab(); lab != "" {
			if err := w.killSidecar(lab, pod); err != nil {
				t.Fatal(err)
			}
			restarted = 1
		}
	}
	w.eventually(time.Minute, "all pods are ready after their sidecars were killed", func() string {
		for _, pod := range w.live(swarm, "worker") {
			if !ready(pod) || restarts(pod) < restarted {
				return fmt.Sprintf("%s: %d restarts", pod.Name, restarts(pod))
			}
		}
		return w.stays(before)
	})
	w.eventually(30*time.Second, "what is on disk is found again", func() string {
		if now := w.gauge(before[hub], "swarm_mailbox_spilled_bytes"); now == 0 || now > disk {
			return fmt.Sprint(now)
		}
		return ""
	})

	slots := []string{hub, "worker-1", "worker-2", "worker-3"}
	of := map[string][]spilt{hub: read}
	each(len(slots), func(n int) {
		rest := w.readSpilt(before[slots[n]], len(ways)*sent, body)
		mu.Lock()
		defer mu.Unlock()
		of[slots[n]] = append(of[slots[n]], rest...)
	})
	lost, torn, inversions, more := 0, 0, 0, 0
	for _, way := range ways {
		for _, one := range of[way.to] {
			if one.from == way.from {
				way.read = append(way.read, one)
			}
		}
		for i, number := range way.accepted {
			switch {
			case i >= len(way.read):
				lost++
			case way.read[i].number != number:
				inversions++
			case !way.read[i].whole:
				torn++
			}
		}
		more += max(0, len(way.read)-len(way.accepted))
	}
	w.result("of these, after all sidecars were killed: lost, torn, not in their place, more than were accepted", spillCommand,
		fmt.Sprintf("%d, %d, %d, %d", lost, torn, inversions, more), "0, 0, 0, 0", lost+torn+inversions+more == 0)
	gone := w.stays(before)
	what := "pods that were replaced, or containers that ended but by our hand"
	if watch > 0 {
		what = fmt.Sprintf("pods evicted, or containers that ended but by our hand, in %.0f s in which the kubelet measured the disk", watch.Seconds())
	}
	w.result(what, spillCommand, strings.TrimSpace("0 "+gone), "0", gone == "")
}

// stays: the pods are the same, and their sidecars have ended at most as often as we killed them; else why not.
func (w *world) stays(before map[string]corev1.Pod) string {
	w.Helper()
	for _, pod := range w.live(before["worker-0"].Labels["cfn.dev/swarm"], "worker") {
		slot := pod.Labels["cfn.dev/slot"]
		if pod.UID != before[slot].UID {
			return fmt.Sprintf("%s was replaced", slot)
		}
		if n := restarts(pod); n > 1 {
			return fmt.Sprintf("%s: its sidecar ended %d times", slot, n)
		}
	}
	if n := len(w.live(before["worker-0"].Labels["cfn.dev/swarm"], "worker")); n != len(before) {
		return fmt.Sprintf("%d of %d pods", n, len(before))
	}
	return ""
}

type spilt struct {
	from   string
	number int
	whole  bool
}

// readSpilt reads and acks the next n messages of a pod's agent, or all there are; their bodies are looked at there.
func (w *world) readSpilt(pod corev1.Pod, n, body int) (read []spilt) {
	w.Helper()
	// 5: acked here, the sender's pod has not recorded it yet.
	script := fmt.Sprintf(`i=0; while [ $i -lt %d ]; do agentctl recv --wait 10s --ack 2>&1 || [ $? = 5 ] || break; echo; i=$((i+1)); done |
		perl -ne '$from = $1 if /^message \S+ from (\S+),/; next unless /^(\d+) ([a-z]*)/; print "$from $1 ", ($2 eq chr(97 + $1 %% 26) x %d) ? 1 : 0, "\n"'`, n, body)
	out, err := w.try(4*time.Minute, "kubectl", "-n", w.ns, "exec", pod.Name, "-c", "agent", "--", "sh", "-c", script)
	if err != nil {
		w.Error(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		var one spilt
		var whole int
		if _, err := fmt.Sscan(line, &one.from, &one.number, &whole); err != nil {
			w.Errorf("after %d messages: %v: %q", len(read), err, line)
			break
		}
		one.whole = whole == 1
		read = append(read, one)
	}
	return read
}

// gauge is a metric of a pod's sidecar; -1 when there is none of that name.
func (w *world) gauge(pod corev1.Pod, name string) int {
	w.Helper()
	for _, line := range strings.Split(w.scrape(pod, "7080", "metrics"), "\n") {
		if value, found := strings.CutPrefix(line, name+" "); found {
			number, err := strconv.ParseFloat(value, 64)
			if err != nil {
				w.Fatalf("%s: %v", line, err)
			}
			return int(number)
		}
	}
	return -1
}
