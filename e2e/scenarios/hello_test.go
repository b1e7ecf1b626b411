package scenarios

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestHello: a user's first five minutes, verbatim.
func TestHello(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(w.example("hello.yaml"))
	if got := strings.TrimSpace(w.submit("hello", "a b c\n", "--wait")); got != "3" {
		w.Fatalf("the result is %q, not 3", got)
	}
	tasks := w.swarm("get", "tasks", "hello")
	found := regexp.MustCompile(`(?m)^(t-0-\w+)\s+done\s+1/3\s+worker-0\s+V2\s`).FindStringSubmatch(tasks)
	if found == nil {
		w.Fatalf("get tasks:\n%s", tasks)
	}
	task := found[1]
	if agents := w.swarm("get", "agents", "hello"); !regexp.MustCompile(`(?m)^worker-0\s+idle\s`).MatchString(agents) {
		w.Errorf("get agents:\n%s", agents)
	}
	if logs := w.swarm("logs", "task/"+task); strings.TrimSpace(logs) != "3" {
		w.Errorf("logs task/%s: %q", task, logs)
	}
	pod := w.live("hello", "worker")[0].Name
	if logs := w.kubectl("logs", pod, "-c", "agent"); !strings.Contains(logs, "["+task+" 1] 3") {
		w.Errorf("kubectl logs: %q", logs)
	}
	w.readySwarm("hello", 1)
	w.eventually(60*time.Second, "the task in the status", func() string {
		if o := w.object("hello"); o.Status.Tasks.Done != 1 {
			return w.kubectl("get", "swarm", "hello", "-o", "yaml")
		}
		return ""
	})
	// What people see: the state in one word, its number, what it means for the work, and the next command.
	const message, topology = "1 of 1 agent ready; no tasks. Next: kubectl swarm submit hello TEXT", "Auto: 1 agent, not more than topology.teamSize 1000"
	for _, look := range []struct {
		args  []string
		lines []string // regular expressions, in this order
	}{
		{[]string{"get", "swarm"}, []string{`NAME +READY +QUEUED +RUNNING +STUCK +V2 +STATUS +AGE`, `hello +1/1 +0 +0 +0 +100% +Idle +\S+`}},
		{[]string{"get", "swarm", "hello", "-o", "wide"}, []string{`NAME .* STATUS +AGE +TOPOLOGY +COORDS +DEAD +MESSAGE`,
			`hello +1/1 .* Idle +\S+ +Flat +1 +0 +` + regexp.QuoteMeta(message)}},
		{[]string{"describe", "swarm", "hello"}, []string{`Status:`, ` +Conditions:`, ` +Message: +` + regexp.QuoteMeta(message), ` +Reason: +Idle`, ` +Status: +True`, ` +Type: +Ready`,
			` +Reason: +Settled`, ` +Type: +Reconciling`, ` +Reason: +NotStalled`, ` +Type: +Stalled`, ` +Topology:`, ` +Coordinators: +1`, ` +Reason: +` + regexp.QuoteMeta(topology), ` +Type: +Flat`,
			`Events:`, ` +Normal +PodsCreated .*`}},
	} {
		w.eventually(40*time.Second, "kubectl "+strings.Join(look.args, " "), func() string {
			text := w.kubectl(look.args...)
			rest := text
			for _, line := range look.lines {
				at := regexp.MustCompile(`(?m)^` + line + ` *$`).FindStringIndex(rest)
				if at == nil {
					return fmt.Sprintf("%q is not there, or not in this order:\n%s", line, text)
				}
				rest = rest[at[1]:]
			}
			return ""
		})
	}
}
