package scenarios

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

const mailCommand = "make e2e SCENARIO=mail"

// TestMail: what an agent can do with its mail, between two pods.
func TestMail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restricted)
	w.apply(swarmOf{name: "mail", replicas: 2, agent: object{"command": []string{"sleep", "infinity"}},
		workers: object{"taskGraceSeconds": 1}, spec: object{"shutdown": object{"drainTimeoutSeconds": 5}}}.manifest())
	w.readySwarm("mail", 2)
	pods := map[string]string{}
	for _, pod := range w.live("mail", "worker") {
		pods[pod.Labels["cfn.dev/slot"]] = pod.Name
	}
	in := func(slot, stdin string, command ...string) (string, error) {
		return w.tryIn(time.Minute, stdin, "kubectl", append([]string{"-n", w.ns, "exec", "-i", pods[slot], "-c", "agent", "--"}, command...)...)
	}
	agentctl := func(slot string, arguments ...string) string {
		t.Helper()
		return w.must(in(slot, "", append([]string{"agentctl", "-o", "json"}, arguments...)...))
	}
	type message struct {
		MessageID, Priority, Body string
		Attempt                   int
		Redelivered               bool
	}
	recv := func(arguments ...string) message {
		t.Helper()
		var m message
		if text := agentctl("worker-1", append([]string{"recv", "--wait", "10s"}, arguments...)...); json.Unmarshal([]byte(text), &m) != nil {
			t.Fatalf("not a message: %s", text)
		}
		return m
	}
	refusedWith := func(code int, err error) bool {
		return err != nil && strings.Contains(err.Error(), fmt.Sprint("exit code ", code))
	}

	// Many in one call: an outcome for each line, a wrong one stops no other.
	const each = 60
	var lines strings.Builder
	for i := range each {
		for _, priority := range []string{"low", "normal", "high"} {
			fmt.Fprintf(&lines, `{"to":"worker-1","body":"%s %d","priority":"%s"}`+"\n", priority, i, priority)
		}
	}
	lines.WriteString(`{"to":"worker-1","bdy":"x"}` + "\n")
	out, err := in("worker-0", lines.String(), "agentctl", "send", "--batch")
	accepted := strings.Count(out, `"outcome":"accepted"`)
	w.result("send --batch: messages accepted, the wrong line refused with exit code 8", mailCommand, fmt.Sprintf("%d of %d, exit code 8 %v", accepted, 3*each, refusedWith(8, err)),
		fmt.Sprint(3*each), accepted == 3*each && refusedWith(8, err))

	// All of them are read: first in, first out in each priority, and low is not left for the end.
	next := map[string]int{}
	inversions, firstLow := 0, -1
	script := fmt.Sprintf(`i=0; while [ $i -lt %d ]; do agentctl -o json recv --wait 10s --ack || exit; i=$((i+1)); done`, 3*each)
	all, err := in("worker-1", "", "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(all), "\n")
	for i, line := range got {
		var m message
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if m.Body != fmt.Sprint(m.Priority, " ", next[m.Priority]) {
			inversions++
		}
		next[m.Priority]++
		if m.Priority == "low" && firstLow < 0 {
			firstLow = i
		}
	}
	w.result("messages of three priorities read, out of order within one", mailCommand, fmt.Sprintf("%d read, %d", len(got), inversions), "0", len(got) == 3*each && inversions == 0)
	w.result("the first message of low priority, high and normal ones waiting, is read as number", mailCommand, firstLow+1, "<= 12", firstLow >= 0 && firstLow < 12)

	// Given up after five attempts, brought back, done.
	poison := strings.TrimSpace(w.must(in("worker-0", "", "agentctl", "send", "worker-1", "poison")))
	for attempt := 1; attempt <= 5; attempt++ {
		m := recv()
		if m.Attempt != attempt || m.MessageID != poison {
			t.Fatalf("attempt %d of %s instead of %d of %s", m.Attempt, m.MessageID, attempt, poison)
		}
		agentctl("worker-1", "nack", poison, "--attempt", fmt.Sprint(attempt))
	}
	if letters := agentctl("worker-1", "dead", "ls"); strings.Count(letters, poison) != 1 {
		t.Errorf("after five attempts there is no dead letter %s: %s", poison, letters)
	}
	// It is kept over a restart of the engine, and so is what was decided.
	w.killEngine(pods["worker-1"])
	agentctl("worker-1", "--timeout", "30s", "dead", "redrive", poison)
	w.killEngine(pods["worker-1"])
	again := recv("--lease", "2s", "--timeout", "30s")
	_, err = in("worker-1", "", "agentctl", "ack", poison, "--attempt", "5")
	late := refusedWith(7, err)
	agentctl("worker-1", "extend", poison, "--attempt", fmt.Sprint(again.Attempt), "--lease", "60s")
	_, err = in("worker-1", "", "agentctl", "recv", "--wait", "4s")
	kept := refusedWith(3, err)
	agentctl("worker-1", "ack", poison, "--attempt", fmt.Sprint(again.Attempt))
	w.result("a dead letter is kept, redriven, its old attempt's ack refused, its lease extended, acked", mailCommand,
		fmt.Sprintf("attempt %d, late ack refused %v, lease kept %v", again.Attempt, late, kept), "attempt 6, true, true", again.Attempt == 6 && late && kept)

	second := strings.TrimSpace(w.must(in("worker-0", "", "agentctl", "send", "worker-1", "second")))
	for range 5 {
		m := recv()
		agentctl("worker-1", "nack", second, "--attempt", fmt.Sprint(m.Attempt))
	}
	agentctl("worker-1", "dead", "purge", "--all")
	// A purged one is as good as acked: nothing of it is left in either pod.
	w.eventually(30*time.Second, "both pods forget a purged letter", func() string {
		if left := agentctl("worker-0", "ls") + agentctl("worker-1", "ls") + agentctl("worker-1", "dead", "ls"); strings.Contains(left, second) {
			return left
		}
		return ""
	})
	w.result("a dead letter that was purged is left in", mailCommand, "0 pods", "0", true)
}
