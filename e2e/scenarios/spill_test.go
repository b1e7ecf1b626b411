package scenarios

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const spillCommand = "make e2e SCENARIO=spill"

// TestSpill: a receiver that does not read is sent more than the memory of its mailbox holds, until the disk beside it is full,
// too. What was accepted is there after restarts, acks go on at 100 %, and no pod is evicted for its mail.
func TestSpill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restricted)
	const swarm, memory, disk, body, sent = "spilt", 8 << 20, 48 << 20, 30_000, 1000
	// The kubelet measures disks once a minute, and looks every ten seconds.
	watch := 90 * time.Second
	if small() {
		watch = 0
	}
	w.apply(swarmOf{name: swarm, replicas: 2, agent: object{"command": []string{"sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"}},
		workers: object{"taskGraceSeconds": 1},
		spec: object{"shutdown": object{"drainTimeoutSeconds": 5},
			"mailbox": object{"sizeLimit": "8Mi", "spill": object{"sizeLimit": "48Mi"}, "backpressure": object{"policy": "Reject"}}}}.manifest())
	w.readySwarm(swarm, 2)
	before := map[string]corev1.Pod{}
	for _, pod := range w.live(swarm, "worker") {
		before[pod.Labels["cfn.dev/slot"]] = pod
	}

	// Twice what memory and disk hold together. The bodies are made there, each with its number and one letter of its own.
	script := fmt.Sprintf(`for my $i (0 .. %d) { print qq({"to":"worker-1","body":"$i ), chr(97 + $i %% 26) x %d, qq("}\n) }`, sent-1, body)
	out, err := w.try(2*time.Minute, "kubectl", "-n", w.ns, "exec", before["worker-0"].Name, "-c", "agent", "--", "sh", "-c",
		"perl -e '"+script+"' | agentctl send --batch --timeout 30s; true")
	if err != nil {
		t.Fatal(err)
	}
	var accepted []int // by number
	outcomes := map[string]int{}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		var one struct {
			Line          int
			Outcome, Code string
		}
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		outcomes[strings.TrimSpace(one.Outcome+" "+one.Code)]++
		if one.Outcome == "accepted" {
			accepted = append(accepted, one.Line-1)
		}
	}
	full := outcomes["refused full"]
	w.result("messages of 30 kB to one who does not read, 8 MiB of memory and 48 MiB of disk: accepted, refused as full", spillCommand,
		fmt.Sprintf("%d, %d of %d", len(accepted), full, sent), "more than 8 MiB accepted; no other outcome",
		len(accepted)*body > memory && full > 0 && len(accepted)+full == sent)

	spilled := map[string]int{}
	onDisk := map[string]int{}
	for slot, pod := range before {
		spilled[slot] = w.gauge(pod, "swarm_mailbox_spilled_bytes")
		text := w.kubectl("exec", pod.Name, "-c", "cfn-sidecar", "--", "du", "-s", "--block-size=1", "/var/lib/cfn/spill")
		onDisk[slot], _ = strconv.Atoi(strings.Fields(text)[0])
	}
	least := len(accepted)*body - memory
	w.result("swarm_mailbox_spilled_bytes, and the disk that is used, in the sender's and the receiver's pod", spillCommand,
		fmt.Sprintf("%d, %d and %d, %d", spilled["worker-0"], onDisk["worker-0"], spilled["worker-1"], onDisk["worker-1"]),
		fmt.Sprintf("%d (what memory does not hold) to %d; at most 16 MiB more on disk", least, disk),
		min(spilled["worker-0"], spilled["worker-1"]) >= least && max(spilled["worker-0"], spilled["worker-1"]) <= disk &&
			min(onDisk["worker-0"], onDisk["worker-1"]) > 0 && max(onDisk["worker-0"], onDisk["worker-1"]) <= disk+16<<20)

	// Full as it is: a few are read and acked.
	read := w.readSpilt(swarm, 10, body)
	w.result("acks while the outbox is full and mail lies on disk", spillCommand, fmt.Sprintf("%d of 10", len(read)), "10", len(read) == 10)

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
	w.eventually(time.Minute, "both pods are ready after their sidecars were killed", func() string {
		for _, pod := range w.live(swarm, "worker") {
			if !ready(pod) || restarts(pod) < restarted {
				return fmt.Sprintf("%s: %d restarts", pod.Name, restarts(pod))
			}
		}
		return w.stays(before)
	})
	w.eventually(30*time.Second, "what is on disk is found again", func() string {
		for slot, pod := range before {
			if now := w.gauge(pod, "swarm_mailbox_spilled_bytes"); now == 0 || now > disk {
				return fmt.Sprintf("%s: %d", slot, now)
			}
		}
		return ""
	})

	read = append(read, w.readSpilt(swarm, sent, body)...)
	lost, torn, inversions := 0, 0, 0
	for i, number := range accepted {
		switch {
		case i >= len(read):
			lost++
		case read[i].number != number:
			inversions++
		case !read[i].whole:
			torn++
		}
	}
	more := max(0, len(read)-len(accepted))
	w.result("of these, after all sidecars were killed: lost, torn, not in their place, more than were accepted", spillCommand,
		fmt.Sprintf("%d, %d, %d, %d", lost, torn, inversions, more), "0, 0, 0, 0", lost+torn+inversions+more == 0)
	gone := w.stays(before)
	w.result(fmt.Sprintf("pods evicted, or containers that ended but by our hand, with the disk full for %.0f s and more", watch.Seconds()), spillCommand,
		strings.TrimSpace("0 "+gone), "0", gone == "")
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
	number int
	whole  bool
}

// readSpilt reads and acks the next n messages of worker-1, or all there are; their bodies are looked at there.
func (w *world) readSpilt(swarm string, n, body int) (read []spilt) {
	w.Helper()
	// 5: acked here, the sender's pod has not recorded it yet.
	script := fmt.Sprintf(`i=0; while [ $i -lt %d ]; do agentctl recv --wait 10s --ack || [ $? = 5 ] || break; echo; i=$((i+1)); done |
		perl -ne 'next unless /^(\d+) (.*)/; print "$1 ", ($2 eq chr(97 + $1 %% 26) x %d) ? 1 : 0, "\n"'`, n, body)
	out, err := w.try(4*time.Minute, "kubectl", "-n", w.ns, "exec", w.inSlot(swarm, "worker-1").Name, "-c", "agent", "--", "sh", "-c", script)
	if err != nil {
		w.Error(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		var number, whole int
		if _, err := fmt.Sscan(line, &number, &whole); err != nil {
			w.Errorf("after %d messages: %v: %q", len(read), err, line)
			break
		}
		read = append(read, spilt{number, whole == 1})
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
