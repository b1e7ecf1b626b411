package scenarios

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestHello: a user's first five minutes, verbatim.
func TestHello(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	hello, err := os.ReadFile(filepath.Join(root, "examples/hello.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	w.apply(string(hello))
	if got := strings.TrimSpace(w.submit("hello", "a b c\n", "--wait")); got != "3" {
		t.Fatalf("the result is %q, not 3", got)
	}
	tasks := w.swarm("get", "tasks", "hello")
	found := regexp.MustCompile(`(?m)^(t-0-\w+)\s+done\s+1/3\s+worker-0\s+V2\s`).FindStringSubmatch(tasks)
	if found == nil {
		t.Fatalf("get tasks:\n%s", tasks)
	}
	task := found[1]
	if agents := w.swarm("get", "agents", "hello"); !regexp.MustCompile(`(?m)^worker-0\s+idle\s`).MatchString(agents) {
		t.Errorf("get agents:\n%s", agents)
	}
	if logs := w.swarm("logs", "task/"+task); strings.TrimSpace(logs) != "3" {
		t.Errorf("logs task/%s: %q", task, logs)
	}
	pod := w.live("hello", "worker")[0].Name
	if logs := w.kubectl("logs", pod, "-c", "agent"); !strings.Contains(logs, "["+task+" 1] 3") {
		t.Errorf("kubectl logs: %q", logs)
	}
	w.readySwarm("hello", 1)
	w.eventually(60*time.Second, "the task in the status", func() string {
		if o := w.object("hello"); o.Status.Tasks.Done != 1 {
			return w.kubectl("get", "swarm", "hello", "-o", "yaml")
		}
		return ""
	})
	if table := w.kubectl("get", "swarm"); !regexp.MustCompile(`(?m)^hello\s+1/1\s+0\s+0\s+.*100%`).MatchString(table) {
		t.Errorf("kubectl get swarm:\n%s", table)
	}
	if text := w.kubectl("describe", "swarm", "hello"); !strings.Contains(text, "Events:") || !strings.Contains(text, "Ready") {
		t.Errorf("kubectl describe swarm:\n%s", text)
	}
}
