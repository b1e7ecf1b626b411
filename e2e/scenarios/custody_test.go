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
// all workers, then the sender's pod deleted, then the receiver's. And two ends that nobody has planned, one after the other.
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
	w.sendEach(swarm, each, ways...)

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
		w.endPod(swarm, slot, nil)
	}
	w.twoCopies(swarm)
	w.statusSays(swarm, "singleCopyMessages", "0")
	lost, again, inversions := w.readEach(swarm, each, ways...)
	w.result("unread messages after a rolling update of all pods, then the sender's pod deleted, then the receiver's: lost, read twice, out of order",
		custodyCommand, fmt.Sprintf("%d, %d, %d of %d", lost, again, inversions, len(ways)*each), "0, 0, 0", lost+again+inversions == 0)

	// And pods that have hardly time to hand anything over: the sender's, and as soon as there are two copies again the receiver's.
	way := ways[0]
	w.sendEach(swarm, each, way)
	w.endPod(swarm, way[0], ptr(int64(0)))
	w.eventually(30*time.Second, "the copies are kept by the sender's next pod", func() string {
		if text := w.scrape(w.inSlot(swarm, way[0]), "7080", "metrics"); !strings.Contains(text, fmt.Sprintf("\nswarm_mailbox_messages_taken_over_total %d\n", each)) {
			return text
		}
		return ""
	})
	w.twoCopies(swarm)
	took := time.Since(w.readySince(w.inSlot(swarm, way[0])))
	bar, quick := below(took, 10*time.Second)
	w.result("a sender's pod deleted by force: each unread message has two copies again, after its next pod was ready", custodyCommand, took.Round(100*time.Millisecond), bar, quick)
	w.endPod(swarm, way[1], ptr(int64(0)))
	lost, again, inversions = w.readEach(swarm, each, way)
	w.result("unread messages after the sender's pod was deleted by force, then the receiver's: lost, read twice, out of order",
		custodyCommand, fmt.Sprintf("%d, %d, %d of %d", lost, again, inversions, each), "0, 0, 0", lost+again+inversions == 0)
}

// sendEach sends n messages along each way, from slot to slot; all of them are accepted.
func (w *world) sendEach(swarm string, n int, ways ...[2]string) {
	w.Helper()
	for _, way := range ways {
		var lines strings.Builder
		for i := range n {
			fmt.Fprintf(&lines, `{"to":%q,"body":"%s %d"}`+"\n", way[1], way[0], i)
		}
		pod := w.inSlot(swarm, way[0])
		out, err := w.tryIn(time.Minute, lines.String(), "kubectl", "-n", w.ns, "exec", "-i", pod.Name, "-c", "agent", "--", "agentctl", "send", "--batch")
		if accepted := strings.Count(out, `"outcome":"accepted"`); err != nil || accepted != n {
			w.Fatalf("%s: %d of %d accepted: %v", way[0], accepted, n, err)
		}
	}
}

// twoCopies waits until no worker's pod holds the only copy of a message.
func (w *world) twoCopies(swarm string) {
	w.Helper()
	w.eventually(30*time.Second, "no message with a single copy", func() string {
		var single strings.Builder
		for _, pod := range w.live(swarm, "worker") {
			if text := w.scrape(pod, "7080", "metrics"); !strings.Contains(text, "\nswarm_mailbox_single_copy_messages 0\n") {
				fmt.Fprintln(&single, pod.Name)
			}
		}
		return single.String()
	})
}

// readySince is when a pod became ready, to the second.
func (w *world) readySince(pod corev1.Pod) time.Time {
	w.Helper()
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	w.Fatalf("%s is not ready", pod.Name)
	return time.Time{}
}

// readEach reads all that has come along each way, and counts what was lost, read twice or out of order.
func (w *world) readEach(swarm string, n int, ways ...[2]string) (lost, again, inversions int) {
	w.Helper()
	for _, way := range ways {
		script := `while agentctl -o json recv --wait 5s --ack; do :; done`
		out, err := w.inAgent(swarm, way[1], "sh", "-c", script)
		if err != nil {
			w.Fatal(err)
		}
		seen := map[string]int{}
		next := 0
		for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
			var m struct{ Body string }
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				w.Fatalf("%v: %s", err, line)
			}
			var i int
			if _, err := fmt.Sscanf(m.Body, way[0]+" %d", &i); err != nil {
				w.Fatalf("%s got what %s never sent: %s", way[1], way[0], line)
			}
			if seen[m.Body]++; seen[m.Body] == 1 && i < next {
				inversions++
			}
			next = max(next, i)
		}
		for i := range n {
			switch times := seen[fmt.Sprint(way[0], " ", i)]; {
			case times == 0:
				lost++
			case times > 1:
				again++
			}
		}
	}
	return lost, again, inversions
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

// endPod deletes the pod of a slot as a person would, and waits until it has gone and its successor is ready. A grace of 0 is
// --force: it vanishes at once.
func (w *world) endPod(swarm, slot string, grace *int64) {
	w.Helper()
	old := w.inSlot(swarm, slot)
	w.deletePod(old.Name, grace)
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
