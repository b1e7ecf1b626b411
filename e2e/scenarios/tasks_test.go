package scenarios

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const tasksCommand = "make e2e SCENARIO=tasks"

const licences = "/usr/share/common-licenses"

// part is one task's share of the texts.
type part struct {
	id, body string
	words    int
}

// pieces cuts a text at white space into pieces of at most size bytes, one with a longer word excepted.
func pieces(text []byte, size int) [][]byte {
	var out [][]byte
	space := func(b byte) bool { return bytes.IndexByte([]byte(" \t\n\v\f\r"), b) >= 0 }
	for len(text) > size {
		end := size
		for end > 0 && !space(text[end]) {
			end--
		}
		if end == 0 {
			for end = size; end < len(text) && !space(text[end]); {
				end++
			}
		}
		out = append(out, text[:end])
		text = text[end:]
	}
	return append(out, text)
}

// licenceParts cuts every text into at least `least` tasks in all; sum is what wc says on this host.
func licenceParts(t *testing.T, least int) (parts []part, sum int) {
	t.Helper()
	entries, err := os.ReadDir(licences)
	if err != nil {
		t.Fatalf("%v (the texts come with Debian's base-files)", err)
	}
	texts, total, words := map[string][]byte{}, 0, []string{"-w"}
	for _, entry := range entries {
		if !entry.Type().IsRegular() { // a link is another name of the same text
			continue
		}
		file := filepath.Join(licences, entry.Name())
		if texts[entry.Name()], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		total += len(texts[entry.Name()])
		words = append(words, file)
	}
	wc := exec.Command("wc", words...)
	wc.Env = append(os.Environ(), "LC_ALL=C")
	out, err := wc.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if sum, err = strconv.Atoi(strings.Fields(lines[len(lines)-1])[0]); err != nil {
		t.Fatalf("wc: %s", out)
	}
	for _, entry := range entries {
		for i, piece := range pieces(texts[entry.Name()], total/least) {
			if len(piece) > 0 {
				parts = append(parts, part{fmt.Sprintf("%s-%d", entry.Name(), i), string(piece), len(bytes.Fields(piece))})
			}
		}
	}
	if len(parts) < least {
		t.Fatalf("%d parts of %d bytes in all, not %d", len(parts), total, least)
	}
	return parts, sum
}

// submission is what became of one part.
type submission struct {
	submitted
	at    time.Time // when it was accepted
	tries int
	err   error
}

// outage is how long after a fault it took until what happened at `times` went on: the end of the longest pause that
// begins or lasts within 20 s of the fault; negative when nothing happened any more.
func outage(times []time.Time, fault time.Time) time.Duration {
	times = slices.Clone(times)
	slices.SortFunc(times, time.Time.Compare)
	if len(times) == 0 || !times[len(times)-1].After(fault) {
		return -1
	}
	var recovery time.Duration
	for i := 1; i < len(times); i++ {
		begin, end := times[i-1], times[i]
		if end.Before(fault) || begin.After(fault.Add(20*time.Second)) {
			continue
		}
		if begin.Before(fault) {
			begin = fault
		}
		recovery = max(recovery, end.Sub(begin))
	}
	return recovery.Round(10 * time.Millisecond)
}

// TestTasks: the words of every licence text, counted by agents on two nodes while workers and the coordinator are deleted.
func TestTasks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restricted)
	least, rounds := 800, 1
	if small() {
		least = 400
	}
	if full() {
		least, rounds = 8000, 10
	}
	parts, sum := licenceParts(t, least)
	const workers, inFlight = 8, 16
	// A second a task, eight for some: so that there is a queue, and tasks at work, when something is deleted.
	w.apply(swarmOf{name: "words", replicas: workers, workers: object{"taskGraceSeconds": 30},
		agent: object{"command": []string{"agentctl", "work", "--", "bash", "-c", "sleep $((RANDOM % 16 ? 1 : 8)); exec wc -w"}}}.manifest())
	w.readySwarm("words", workers)
	if n := w.onNodes("words"); n < 2 {
		w.Fatalf("the workers are on %d node", n)
	}
	api := w.taskAPI("words")

	// The first half as fast as it goes, then slower than it is worked off, so that submissions go on through every fault.
	results := make([]submission, len(parts))
	next := make(chan int)
	submitting, calm := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(next)
		for i := range parts {
			if i > len(parts)/2 {
				select {
				case <-calm:
				case <-time.After(300 * time.Millisecond):
				}
			}
			next <- i
		}
	}()
	var group sync.WaitGroup
	for range inFlight {
		group.Add(1)
		go func() {
			defer group.Done()
			for i := range next {
				results[i] = api.submitPart(parts[i])
			}
		}()
	}
	go func() { group.Wait(); close(submitting) }()

	faults := w.taskFaults(api, rounds, workers)
	close(calm)
	<-submitting
	for i, r := range results {
		if r.err != nil {
			w.Fatalf("%s: %v", parts[i].id, r.err)
		}
	}
	all := api.allDone(time.Duration(len(parts))*time.Second/workers+3*time.Minute, len(parts))
	w.judgeTasks(api, parts, sum, results, all)

	var accepted, completed []time.Time
	for _, r := range results {
		accepted = append(accepted, r.at)
	}
	for _, one := range all {
		for _, attempt := range one.History {
			if attempt.Reason == "done" {
				completed = append(completed, time.UnixMilli(attempt.EndedAt))
			}
		}
	}
	for _, event := range []struct {
		what  string
		times []time.Time
	}{{"a submission is accepted", accepted}, {"a task is completed", completed}} {
		var figures []string
		bar, ok := below(0, 10*time.Second)
		for _, f := range faults {
			if f.role == "coordinator" {
				took := outage(event.times, f.at)
				_, quick := below(took, 10*time.Second)
				ok = ok && took >= 0 && quick
				figures = append(figures, fmt.Sprintf("%.1f s%s", took.Seconds(), f.how()))
			}
		}
		w.result("after a coordinator's deletion with a queue, until "+event.what, tasksCommand, strings.Join(figures, ", "), "each "+bar, ok)
	}
}

// submitPart repeats with the same id until it is accepted or refused for good.
func (a taskAPI) submitPart(p part) (out submission) {
	for begin := time.Now(); time.Since(begin) < 90*time.Second; time.Sleep(100 * time.Millisecond) {
		out.tries++
		status, answer, err := a.call("POST", "v1/tasks", nil, object{"id": p.id, "body": p.body, "labels": object{"part": p.id}})
		if out.err = err; err == nil {
			out.at = time.Now()
			if out.err = json.Unmarshal(answer, &out.submitted); out.err == nil && status != 201 {
				out.err = fmt.Errorf("status %d: %s", status, answer)
			}
			return out
		}
		if !passing(status) {
			return out
		}
	}
	return out
}

type taskFault struct {
	role   string
	grace  *int64 // the pod's own when nil
	at     time.Time
	queued int
}

func (f taskFault) how() string {
	if f.grace != nil {
		return fmt.Sprintf(" (grace %d)", *f.grace)
	}
	return ""
}

// Grace 0 takes the pod out of the API at once, and the kubelet still gives it its own grace period; with 1 the pod is
// killed in a moment, in the middle of whatever it does.
var graceless, killed int64 = 0, 1

// taskFaults deletes workers and coordinators, one at a time: the next when everything that was there has two copies again.
func (w *world) taskFaults(api taskAPI, rounds, workers int) []taskFault {
	w.Helper()
	var faults []taskFault
	for range rounds {
		faults = append(faults, taskFault{role: "worker"}, taskFault{role: "coordinator"}, taskFault{role: "worker", grace: &killed},
			taskFault{role: "coordinator", grace: &graceless}, taskFault{role: "worker", grace: &graceless}, taskFault{role: "coordinator", grace: &killed})
	}
	if small() {
		faults = faults[2:5] // both roles; one with and two without a farewell
	}
	now := w.inTwoCopies(api, workers)
	w.eventually(time.Minute, "a queue", func() string {
		if api.get("v1/stats", nil, &now); now.Tasks.Queued < 2*workers {
			return fmt.Sprintf("%+v", now.Tasks)
		}
		return ""
	})
	var copies, whole time.Duration
	for i := range faults {
		f := &faults[i]
		api.get("v1/stats", nil, &now)
		if f.queued = now.Tasks.Queued; f.queued == 0 {
			w.Errorf("no queue when the %s is deleted: the scenario proves nothing", f.role)
		}
		victim := w.victim(api, f.role)
		f.at = time.Now()
		w.deletePod(victim.Name, f.grace)
		w.eventually(30*time.Second, "a replacement of "+victim.Name, func() string {
			for _, pod := range w.live("words", f.role) {
				if pod.UID != victim.UID && pod.Labels["cfn.dev/slot"] == victim.Labels["cfn.dev/slot"] && ready(pod) {
					return ""
				}
			}
			return "none ready"
		})
		w.Logf("%s %s deleted%s with %d queued, %d running; its replacement was ready after %.1f s", f.role, victim.Name, f.how(),
			f.queued, now.Tasks.Running, time.Since(f.at).Seconds())
		begin := time.Now()
		w.inTwoCopies(api, workers)
		copies, whole = max(copies, time.Since(begin)), max(whole, time.Since(f.at))
	}
	bar, ok := below(copies, 10*time.Second)
	w.result("all pods ready and no task with a single copy, after the replacement of a lost pod is ready", tasksCommand,
		fmt.Sprintf("%.1f s at most after %d pods; %.1f s since the deletion", copies.Seconds(), len(faults), whole.Seconds()), bar, ok)
	return faults
}

// inTwoCopies waits until all pods are ready, the coordinator awaits no worker that may bring tasks, and each task has two copies.
func (w *world) inTwoCopies(api taskAPI, workers int) (now stats) {
	w.Helper()
	w.eventually(time.Minute, "everything ready and in two copies", func() string {
		var list struct{ Recovering bool }
		api.get("v1/tasks", map[string]string{"limit": "1"}, &list)
		api.get("v1/stats", nil, &now)
		n := 0
		for _, pod := range append(w.live("words", "worker"), w.live("words", "coordinator")...) {
			if ready(pod) {
				n++
			}
		}
		if n == workers+1 && !list.Recovering && now.Tasks.SingleCopy == 0 {
			return ""
		}
		return fmt.Sprintf("%d pods ready, recovering: %t, %+v", n, list.Recovering, now.Tasks)
	})
	return now
}

// victim is a live pod of the role, for workers one in the middle of a long task: in the second or two that even a killed
// pod has, a short one would end well.
func (w *world) victim(api taskAPI, role string) corev1.Pod {
	w.Helper()
	var victim corev1.Pod
	w.eventually(40*time.Second, "a "+role+" to delete", func() string {
		var agents struct {
			Agents []struct{ Pod, Task string }
		}
		if role == "worker" {
			api.get("v1/agents", nil, &agents)
		}
		long := map[string]bool{}
		for _, agent := range agents.Agents {
			if agent.Task == "" {
				continue
			}
			var at task
			api.get("v1/tasks/"+agent.Task, nil, &at)
			if n := len(at.History); n > 0 && at.State == "running" {
				age := time.Since(time.UnixMilli(at.History[n-1].StartedAt))
				// A short one takes more than its second where there is much to do.
				long[agent.Pod] = age > 2500*time.Millisecond && age < 4500*time.Millisecond
			}
		}
		for _, pod := range w.live("words", role) {
			if ready(pod) && (role != "worker" || long[pod.Name]) {
				victim = pod
				return ""
			}
		}
		return "none"
	})
	return victim
}

func (w *world) judgeTasks(api taskAPI, parts []part, sum int, results []submission, all []task) {
	w.Helper()
	byPart := map[string]task{}
	retries, reasons := 0, map[string]int{}
	for _, one := range all {
		id := one.Labels["part"]
		if _, twice := byPart[id]; twice {
			w.Errorf("part %s is two tasks: %s and %s", id, byPart[id].ID, one.ID)
		}
		byPart[id] = one
		done := 0
		for _, attempt := range one.History {
			reasons[attempt.Reason]++
			if attempt.Reason == "done" {
				done++
			}
		}
		if done != 1 || one.State != "done" {
			w.Errorf("task %s (%s) is %s, %d attempts done: %+v", one.ID, id, one.State, done, one.History)
		}
		retries += len(one.History) - 1
	}
	lost, weak, tries, got := 0, 0, 0, 0
	answers := make([]string, len(parts))
	for i, p := range parts {
		tries += results[i].tries
		if results[i].Survives != "node" {
			weak++
			w.Logf("part %s (%s) was accepted with %+v", p.id, results[i].ID, results[i].submitted)
		}
		if one, found := byPart[p.id]; !found || one.ID != results[i].ID {
			lost++
			w.Errorf("part %s was accepted as %s; there is %q", p.id, results[i].ID, one.ID)
		}
	}
	each(len(parts), func(i int) {
		answer, err := api.patient("v1/tasks/" + results[i].ID + "/result")
		if answers[i] = strings.TrimSpace(string(answer)); err != nil {
			answers[i] = err.Error()
		}
	})
	wrong := 0
	for i, p := range parts {
		n, err := strconv.Atoi(answers[i])
		if err != nil || n != p.words {
			wrong++
			w.Errorf("part %s: the result is %q, not %d", p.id, answers[i], p.words)
		}
		got += n
	}
	if retries == 0 {
		w.Errorf("no attempt was cut short by a worker's end: this proves nothing")
	}
	w.Logf("attempts by their end: %v; %d submissions for %d tasks", reasons, tries, len(parts))
	w.result("words of all licence texts, by tasks and by wc on the host", tasksCommand, fmt.Sprintf("%d and %d", got, sum), "equal", got == sum && wrong == 0)
	w.result("each task exactly once in the result, workers and coordinators being deleted", tasksCommand,
		fmt.Sprintf("%d of %d, lost %d, retries %d", len(byPart), len(parts), lost, retries), "all, lost 0", len(byPart) == len(parts) && len(all) == len(parts) && lost == 0)
	w.result("accepted tasks that were answered survives: node, on two nodes", tasksCommand, fmt.Sprintf("%d of %d", len(parts)-weak, len(parts)), "all", weak == 0)
}
