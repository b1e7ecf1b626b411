package scenarios

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	_ "embed"
)

const pressureCommand = "make e2e SCENARIO=pressure"

//go:embed testdata/connections.pl
var connectionsScript string

// TestPressure: an agent fills the volume that it shares with its sidecar, and opens more connections than there are for it. Its
// pod takes fewer new messages and says why; what it holds is read and acked, and when there is room again all is as before.
func TestPressure(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restricted)
	const swarm, limit, least, first = "pressed", 100, 10, 40
	w.apply(swarmOf{name: swarm, replicas: 2, agent: object{"command": []string{"sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"}},
		workers: object{"taskGraceSeconds": 1},
		spec:    object{"shutdown": object{"drainTimeoutSeconds": 5}, "mailbox": object{"maxInboxMessages": limit}}}.manifest())
	w.readySwarm(swarm, 2)
	var pod corev1.Pod
	for _, one := range w.live(swarm, "worker") {
		if one.Labels["cfn.dev/slot"] == "worker-1" {
			pod = one
		}
	}
	inbox := func(want int) func() string {
		return func() string {
			if now := w.gauge(pod, "swarm_mailbox_inbox_limit_messages"); now != want {
				return fmt.Sprintf("it is %d, not %d", now, want)
			}
			return ""
		}
	}
	volume := func() float64 {
		return w.exposed("worker-1", w.scrape(pod, "7080", "metrics")).values[`swarm_mailbox_pressure_ratio{resource="volume"}`]
	}
	// Sends number `from` to `to`, and says which were accepted.
	send := func(from, to int) (accepted []string, words string) {
		for i := from; i <= to; i++ {
			body := fmt.Sprint("message-", i)
			// 5 would be neither: it is looked for below all the same.
			if _, err := w.inAgent(swarm, "worker-0", "agentctl", "send", "worker-1", body, "--timeout", "2s"); err == nil {
				accepted = append(accepted, body)
			} else if words = err.Error(); exitCode(err) != 4 {
				w.Errorf("%s: exit code %d, must be 0 or 4: %v", body, exitCode(err), err)
			}
		}
		return accepted, words
	}
	var read []string
	readAll := func(most int) {
		// 5: acked here, the sender's pod has not recorded it yet.
		out, err := w.inAgent(swarm, "worker-1", "sh", "-c", fmt.Sprintf(
			`i=0; while [ $i -lt %d ]; do agentctl recv --wait 1s --ack || [ $? = 5 ] || break; echo; i=$((i+1)); done`, most))
		if err != nil {
			w.Error(err)
		}
		read = append(read, strings.Fields(out)...)
	}

	w.eventually(10*time.Second, "the inbox has its whole limit before", inbox(limit))
	var accepted []string
	for i := range first {
		accepted = append(accepted, fmt.Sprint("message-", i))
	}
	batch := fmt.Sprintf(`i=0; while [ $i -lt %d ]; do echo '{"to":"worker-1","body":"message-'$i'"}'; i=$((i+1)); done | agentctl send --batch`, first)
	if _, err := w.inAgent(swarm, "worker-0", "sh", "-c", batch); err != nil {
		t.Fatal(err)
	}

	// 96 % of it: at all of it the kubelet could think it is more.
	before := volume()
	if _, err := w.inAgent(swarm, "worker-1", "sh", "-c", "head -c $((16*1024*1024*96/100)) /dev/zero >/dev/shm/cfn/large"); err != nil {
		t.Fatal(err)
	}
	tight := w.eventually(10*time.Second, "the limit of the inbox is tightened", inbox(least))
	full := volume()
	w.result(fmt.Sprintf("a shared volume that an agent fills: used in the metrics before and then; limit of an inbox of %d, after", limit), pressureCommand,
		fmt.Sprintf("%.2f, %.2f; %d, %.1f s", before, full, least, tight.Seconds()), fmt.Sprintf("< 0.75, >= 0.95; %d, 10 s", least), before < 0.75 && full >= 0.95)

	none, words := send(first, first)
	named := strings.Contains(words, fmt.Sprintf("worker-1's inbox is full (%d messages, %d of %d allowed now: its pod's shared volume is nearly full)", first, least, limit))
	readAll(first / 2)
	half := len(read)
	more, _ := send(first+1, first+1)
	w.result("meanwhile: sends accepted, refused in words that say why; messages read and acked", pressureCommand,
		fmt.Sprintf("%d, %v, %d", len(none)+len(more), named, half), fmt.Sprintf("0, true, %d", first/2), len(none)+len(more) == 0 && named && half == first/2)

	out, err := w.try(2*time.Minute, "kubectl", "-n", w.ns, "exec", pod.Name, "-c", "agent", "--", "perl", "-e", connectionsScript, "300")
	if err != nil {
		t.Fatal(err)
	}
	w.eventually(20*time.Second, "the connections are closed", func() string {
		if open := w.gauge(pod, "swarm_mailbox_agent_connections"); open != 0 {
			return fmt.Sprintf("%d are open", open)
		}
		return ""
	})
	w.result("300 connections at once to one sidecar: served, refused in words, closed without any", pressureCommand, strings.TrimSpace(out), "256, 44, 0",
		strings.TrimSpace(out) == "served=256 refused=44 silent=0")

	if _, err := w.inAgent(swarm, "worker-1", "rm", "/dev/shm/cfn/large"); err != nil {
		t.Fatal(err)
	}
	recovered := w.eventually(20*time.Second, "the limit is the whole again", inbox(limit))
	last, _ := send(first+2, first+4)
	accepted = append(append(append(accepted, none...), more...), last...)
	readAll(limit)
	lost, twice := 0, len(read)
	for _, body := range accepted {
		if !slices.Contains(read, body) {
			lost++
		}
	}
	slices.Sort(read)
	read = slices.Compact(read)
	twice -= len(read)
	w.result("when the volume has room again: the whole limit after; sends accepted; of all accepted lost, read twice, read but refused", pressureCommand,
		fmt.Sprintf("%.1f s; %d; %d, %d, %d", recovered.Seconds(), len(last), lost, twice, len(read)-len(accepted)), "<= 20 s; 3; 0, 0, 0",
		len(last) == 3 && lost == 0 && twice == 0 && len(read) == len(accepted))

	said := w.kubectl("logs", pod.Name, "-c", "cfn-sidecar", "--tail=-1")
	lines := func(message string) (n int) {
		for _, line := range strings.Split(said, "\n") {
			if strings.Contains(line, `"message":"`+message+`"`) && strings.Contains(line, `"resource":"volume"`) {
				n++
			}
		}
		return n
	}
	begun, ended := lines("short of a resource: limits tighten"), lines("limits have recovered")
	w.result("lines in the sidecar's log: that limits tighten, that they have recovered", pressureCommand, fmt.Sprintf("%d, %d", begun, ended), "1, 1",
		begun == 1 && ended == 1)
}
