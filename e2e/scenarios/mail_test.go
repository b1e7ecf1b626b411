package scenarios

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
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
	recvMany := func(count int) []string {
		t.Helper()
		script := fmt.Sprintf(`i=0; while [ $i -lt %d ]; do agentctl -o json recv --wait 10s --ack || exit; i=$((i+1)); done`, count)
		return strings.Split(strings.TrimSpace(w.must(in("worker-1", "", "sh", "-c", script))), "\n")
	}
	got := recvMany(3 * each)
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

	// To several at once: an outcome each, one that is not there holds up no other, and the same call again reaches
	// nobody twice.
	toAll := func(id string) (string, error) {
		return in("worker-0", "", "agentctl", "-o", "json", "send", "workers,worker-0,worker-9", "to all", "--id", id, "--timeout", "15s")
	}
	out, err = toAll("all-1")
	partly := refusedWith(8, err) && strings.Count(out, `"outcome":"accepted"`) == 2 && strings.Count(out, `"outcome":"refused"`) == 1
	_, err = toAll("all-1")
	partly = partly && refusedWith(8, err)
	reached := 0
	for _, slot := range []string{"worker-0", "worker-1"} {
		if strings.Contains(agentctl(slot, "recv", "--wait", "10s", "--ack"), `"messageId":"all-1"`) {
			reached++
		}
		if _, err := in(slot, "", "agentctl", "recv", "--wait", "0s"); !refusedWith(3, err) {
			t.Errorf("%s has got more than one: %v", slot, err)
		}
	}
	w.result("one message to three, of whom one is not there, sent twice: reached once, exit code 8", mailCommand, fmt.Sprintf("%d, %v", reached, partly), "2, true", reached == 2 && partly)

	// Plain files, the sidecar being killed meanwhile: each is sent once, with an outcome beside it; what is no file is
	// refused.
	const dropped = 40
	pod := fmt.Sprintf(`set -e; umask 077; cd /dev/shm/cfn/drop; mkdir -p worker-1; i=0
		while [ $i -lt %d ]; do printf "file $i" >worker-1/.$i; printf '{"id":"file-%%d","priority":"low"}' $i >worker-1/.$i.options; mv worker-1/.$i worker-1/$i; i=$((i+1)); done
		ln -s /etc/passwd worker-1/link; mkfifo worker-1/fifo; mkdir worker-1/directory`, dropped)
	w.must(in("worker-0", "", "sh", "-c", pod))
	w.killEngine(pods["worker-0"])
	var outcomes string
	w.eventually(time.Minute, "each dropped file has its outcome", func() string {
		outcomes, _ = in("worker-0", "", "sh", "-c", "cd /dev/shm/cfn/drop/worker-1; ls; cat *.refused")
		if strings.Count(outcomes, ".accepted\n") != dropped || strings.Count(outcomes, ".refused\n") != 3 {
			return outcomes
		}
		return ""
	})
	read := map[string]bool{}
	for _, line := range recvMany(dropped) {
		var m message
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		read[m.Body] = m.MessageID == strings.Replace(m.Body, "file ", "file-", 1) && m.Priority == "low"
		if !read[m.Body] {
			t.Errorf("a dropped file without its options: %+v", m)
		}
	}
	_, err = in("worker-1", "", "agentctl", "recv", "--wait", "1s")
	w.result("files renamed into drop/ while the sidecar is killed: read, different ones, nothing else", mailCommand,
		fmt.Sprintf("%d, %d, %v", dropped, len(read), refusedWith(3, err)), fmt.Sprintf("%d, %d, true", dropped, dropped), len(read) == dropped && refusedWith(3, err))

	// A stream, seen as it comes, while the sidecars of both ends are killed: no part is missing, none is twice.
	const parts = 30
	type ended struct {
		out string
		err error
	}
	streamed := make(chan ended, 1)
	go func() {
		out, err := in("worker-1", "", "agentctl", "recv", "--stream", "log-1", "--from", "worker-0", "--wait", "40s")
		streamed <- ended{out, err}
	}()
	write := fmt.Sprintf(`i=1; while [ $i -le %d ]; do echo "line $i"; echo $i >/dev/shm/cfn/at; sleep 0.3; i=$((i+1)); done | agentctl send worker-1 --stream log-1`, parts)
	sent := make(chan ended, 1)
	go func() {
		out, err := in("worker-0", "", "sh", "-c", write)
		sent <- ended{out, err}
	}()
	w.eventually(30*time.Second, "the stream is on its way", func() string {
		at, _ := in("worker-0", "", "cat", "/dev/shm/cfn/at")
		if n, err := strconv.Atoi(strings.TrimSpace(at)); err != nil || n < 5 {
			return "it is at " + at
		}
		return ""
	})
	w.killEngine(pods["worker-0"])
	w.killEngine(pods["worker-1"])
	from, to := <-sent, <-streamed
	var want strings.Builder
	for i := 1; i <= parts; i++ {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	w.result("a stream whose ends' sidecars are killed: read as it was written", mailCommand, fmt.Sprint(to.out == want.String()), "true",
		from.err == nil && to.err == nil && to.out == want.String())

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
	w.statusSays("mail", "deadLetters", "1")
	if lost := w.swarm("get", "dead", "mail"); !regexp.MustCompile(`(?m)^` + poison + ` +worker-0 +worker-1 +dead +5 `).MatchString(lost) {
		t.Errorf("kubectl swarm get dead does not show %s: %s", poison, lost)
	}
	if all := w.swarm("get", "messages", "mail", "-o", "name"); !strings.Contains(all, "message/"+poison+"\n") {
		t.Errorf("kubectl swarm get messages does not show %s: %s", poison, all)
	}
	// It is kept over a restart of the engine, and so is what was decided.
	w.killEngine(pods["worker-1"])
	agentctl("worker-1", "--timeout", "30s", "dead", "redrive", poison)
	w.killEngine(pods["worker-1"])
	again := recv("--lease", "12s", "--timeout", "30s")
	_, err = in("worker-1", "", "agentctl", "ack", poison, "--attempt", "5")
	late := refusedWith(7, err)
	agentctl("worker-1", "extend", poison, "--attempt", fmt.Sprint(again.Attempt), "--lease", "60s")
	_, err = in("worker-1", "", "agentctl", "recv", "--wait", "14s") // longer than the lease
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
	w.statusSays("mail", "deadLetters", "0")
	w.result("a dead letter that was purged is left in", mailCommand, "0 pods", "0", true)
}

// statusSays waits for a field of status.mailbox, which workers report by way of their coordinator.
func (w *world) statusSays(swarm, field, value string) {
	w.Helper()
	w.eventually(30*time.Second, "status.mailbox."+field+" is "+value, func() string {
		if now := w.kubectl("get", "swarm", swarm, "-o", "jsonpath={.status.mailbox."+field+"}"); now != value {
			return "it is " + now
		}
		return ""
	})
}
