package scenarios

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const custodyCommand = "make e2e SCENARIO=custody"

// TestCustody: messages that nobody has read yet outlive every planned end of the pods that hold them: a rolling update of
// all workers, then the sender's pod deleted, then the receiver's.
func TestCustody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restricted)
	const swarm, replicas = "kept", 3
	each := 400
	if small() {
		each = 100
	}
	w.apply(swarmOf{name: swarm, replicas: replicas, agent: object{"command": []string{"sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"}},
		workers: object{"taskGraceSeconds": 1}, spec: object{"shutdown": object{"drainTimeoutSeconds": 30}}}.manifest())
	w.readySwarm(swarm, replicas)
	ways := [][2]string{{"worker-0", "worker-1"}, {"worker-1", "worker-2"}, {"worker-2", "worker-0"}}
	for _, way := range ways {
		var lines strings.Builder
		for i := range each {
			fmt.Fprintf(&lines, `{"to":%q,"body":"%s %d"}`+"\n", way[1], way[0], i)
		}
		pod := w.inSlot(swarm, way[0])
		out, err := w.tryIn(time.Minute, lines.String(), "kubectl", "-n", w.ns, "exec", "-i", pod.Name, "-c", "agent", "--", "agentctl", "send", "--batch")
		if accepted := strings.Count(out, `"outcome":"accepted"`); err != nil || accepted != each {
			t.Fatalf("%s: %d of %d accepted: %v", way[0], accepted, each, err)
		}
	}

	before := map[string]bool{}
	for _, pod := range w.live(swarm, "worker") {
		before[pod.Name] = true
	}
	w.kubectl("patch", "swarm", swarm, "--type=json", "-p",
		`[{"op":"add","path":"/spec/workers/template/spec/containers/0/env","value":[{"name":"ROUND","value":"2"}]}]`)
	w.eventually(3*time.Minute, "all workers replaced", func() string {
		updated := 0
		pods := w.pods("cfn.dev/swarm=" + swarm + ",cfn.dev/role=worker")
		for _, pod := range pods {
			if !before[pod.Name] && pod.DeletionTimestamp == nil && ready(pod) {
				updated++
			}
		}
		if updated != replicas || len(pods) != replicas {
			return fmt.Sprintf("%d of %d", updated, len(pods))
		}
		return ""
	})
	w.readySwarm(swarm, replicas)
	for _, slot := range []string{"worker-0", "worker-1"} {
		w.endPod(swarm, slot)
	}
	w.eventually(30*time.Second, "no message with a single copy", func() string {
		var single strings.Builder
		for _, pod := range w.live(swarm, "worker") {
			if text := w.scrape(pod, "7080", "metrics"); !strings.Contains(text, "\nswarm_mailbox_single_copy_messages 0\n") {
				fmt.Fprintln(&single, pod.Name)
			}
		}
		return single.String()
	})
	w.statusSays(swarm, "singleCopyMessages", "0")

	lost, again, inversions := 0, 0, 0
	for _, way := range ways {
		script := `while agentctl -o json recv --wait 5s --ack; do :; done`
		out, err := w.inAgent(swarm, way[1], "sh", "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		next := 0
		for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
			var m struct{ Body string }
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			var i int
			if _, err := fmt.Sscanf(m.Body, way[0]+" %d", &i); err != nil {
				t.Fatalf("%s got what %s never sent: %s", way[1], way[0], line)
			}
			if seen[m.Body]++; seen[m.Body] == 1 && i < next {
				inversions++
			}
			next = max(next, i)
		}
		for i := range each {
			switch n := seen[fmt.Sprint(way[0], " ", i)]; {
			case n == 0:
				lost++
			case n > 1:
				again++
			}
		}
	}
	w.result("unread messages after a rolling update of all pods, then the sender's pod deleted, then the receiver's: lost, read twice, out of order",
		custodyCommand, fmt.Sprintf("%d, %d, %d of %d", lost, again, inversions, len(ways)*each), "0, 0, 0", lost+again+inversions == 0)
}

// inSlot is the live pod that holds the slot.
func (w *world) inSlot(swarm, slot string) corev1.Pod {
	w.Helper()
	for _, pod := range w.live(swarm, "worker") {
		if pod.Labels["cfn.dev/slot"] == slot {
			return pod
		}
	}
	w.Fatalf("%s has no pod for %s", swarm, slot)
	return corev1.Pod{}
}

// endPod deletes the pod of a slot as a person would, and waits until it has gone and its successor is ready.
func (w *world) endPod(swarm, slot string) {
	w.Helper()
	old := w.inSlot(swarm, slot)
	w.deletePod(old.Name, nil)
	w.eventually(90*time.Second, slot+" replaced", func() string {
		there := false
		for _, pod := range w.pods("cfn.dev/swarm=" + swarm + ",cfn.dev/slot=" + slot) {
			if pod.UID == old.UID {
				return "the old one is still there"
			}
			there = there || ready(pod)
		}
		if !there {
			return "the new one is not ready"
		}
		return ""
	})
}
