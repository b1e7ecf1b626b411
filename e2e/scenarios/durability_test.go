package scenarios

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const durabilityCommand = "make e2e SCENARIO=durability"

// TestDurability: with durability Node the messages between two workers of one node outlive it: it is switched off while they are
// unread, and the replacements of both read all of them. Not parallel: whatever else runs on that node goes with it.
func TestDurability(t *testing.T) {
	const swarm, workers, victim = "doubled", 4, "n2"
	lab := theLab()
	if lab == "" {
		t.Skip("the cluster is not the lab: its nodes are left alone")
	}
	w := newWorld(t, restricted)
	n := 400
	if small() {
		n = 100
	}
	w.apply(swarmOf{name: swarm, replicas: workers, agent: object{"command": []string{"sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"}},
		workers: object{"taskGraceSeconds": 1}, spec: object{"mailbox": object{"durability": "Node"}}}.manifest())
	w.readySwarm(swarm, workers)
	var near, far []string
	for _, pod := range w.live(swarm, "worker") {
		if slot := pod.Labels["cfn.dev/slot"]; pod.Spec.NodeName == victim {
			near = append(near, slot)
		} else {
			far = append(far, slot)
		}
	}
	if len(near) < 2 || len(far) == 0 {
		w.Fatalf("on %s: %v, elsewhere: %v: this proves nothing", victim, near, far)
	}
	way := [2]string{near[0], near[1]}
	out, err := w.inAgent(swarm, way[0], "sh", "-c", fmt.Sprintf("agentctl send %s '%s 0' 2>&1", way[1], way[0]))
	if err != nil || !strings.Contains(out, "survives: node") {
		w.Fatalf("%v: %s", err, out)
	}
	if got, err := w.inAgent(swarm, way[1], "agentctl", "recv", "--wait", "5s", "--ack"); err != nil || !strings.Contains(got, way[0]+" 0") {
		w.Fatalf("%v: %s", err, got)
	}
	w.sendEach(swarm, n, way)
	w.twoCopies(swarm)
	guarded := 0
	for _, slot := range far {
		for _, line := range strings.Split(w.scrape(w.inSlot(swarm, slot), "7080", "metrics"), "\n") {
			var here int
			if _, err := fmt.Sscanf(line, "swarm_mailbox_guarded_messages %d", &here); err == nil {
				guarded += here
			}
		}
	}
	if guarded != n {
		w.Errorf("%d messages are kept on the other node, %d are unread", guarded, n)
	}
	gone := map[string]bool{}
	for _, slot := range near {
		gone[string(w.inSlot(swarm, slot).UID)] = true
	}

	off := time.Now()
	w.powerOff(lab, victim)
	w.eventually(3*time.Minute, "both are replaced", func() string {
		there := map[string]bool{}
		for _, pod := range w.live(swarm, "worker") {
			if !gone[string(pod.UID)] && ready(pod) {
				there[pod.Labels["cfn.dev/slot"]] = true
			}
		}
		for _, slot := range way {
			if !there[slot] {
				return slot + " has no other pod that is ready"
			}
		}
		return ""
	})
	took := w.eventually(time.Minute, "the sender's next pod has the copies", func() string {
		if text := w.scrape(w.inSlot(swarm, way[0]), "7080", "metrics"); !strings.Contains(text, fmt.Sprintf("\nswarm_mailbox_messages_taken_over_total %d\n", n)) {
			return text
		}
		return ""
	})
	lost, again, inversions := w.readEach(swarm, n, way)
	w.result("durability Node, unread messages between two pods of a node that is switched off: lost, read twice, out of order", durabilityCommand,
		fmt.Sprintf("%d, %d, %d of %d; with the successor %.1f s after it was ready, %.1f s after the node's end, all told", lost, again, inversions, n,
			took.Seconds(), time.Since(off).Seconds()), "0, 0, 0", lost+again+inversions == 0)
}
