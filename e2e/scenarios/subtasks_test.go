package scenarios

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

const subtasksCommand = "make e2e SCENARIO=subtasks"

// family is what get -o json says of a task beside its own.
type family struct {
	State, Parent, Cycle string
	Subtasks             []struct{ ID, State string }
	WaitsFor             []string
	History              []struct{ Reason string }
}

func (w *world) family(id, swarm string) (out family) {
	w.Helper()
	said := w.swarm("get", "task/"+id, "--swarm="+swarm, "-o", "json")
	if err := json.Unmarshal([]byte(said), &out); err != nil {
		w.Fatalf("%v: %s", err, said)
	}
	return out
}

// TestSubtasks: a task makes several of one and waits for them; what waits in a circle is refused and named; a coordinator that is
// lost meanwhile changes nothing.
func TestSubtasks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(w.example("map-reduce.yaml"))
	w.apply(swarmOf{name: "family", replicas: 3, agent: object{"command": []string{"agentctl", "work", "--", "sh"}}, // a task is a script
		workers: object{"taskGraceSeconds": 5}, spec: object{"shutdown": object{"drainTimeoutSeconds": 5}}}.manifest())
	w.readySwarm("map-reduce", 3)
	w.readySwarm("family", 3)
	taskID := regexp.MustCompile(`t-0-\w+`)

	// The example: six lines, 21 words.
	text := "a\nb b\nc c c\nd d d d\ne e e e e\nf f f f f f\n"
	sum := strings.TrimSpace(w.submit("map-reduce", text, "--wait", "--timeout=2m", "--id=words"))
	parent := taskID.FindString(w.submit("map-reduce", text, "--id=words", "-o", "name"))
	seen := w.family(parent, "map-reduce")
	done := 0
	for _, part := range seen.Subtasks {
		if of := w.family(part.ID, "map-reduce"); of.Parent == parent && of.State == "done" && len(of.History) == 1 {
			done++
		}
	}
	described := w.swarm("describe", "task/"+parent, "--swarm=map-reduce")
	shown := strings.Contains(described, "\nSubtasks:     6: done 6\n") && strings.Contains(described, "\n  "+seen.Subtasks[0].ID+" ")
	if !shown {
		w.Errorf("describe of a task with subtasks:\n%s", described)
	}
	w.result("a task that fans out six subtasks over three agents and sums their results, by examples/map-reduce.yaml", subtasksCommand,
		fmt.Sprintf("%s of 21, %d of 6 parts done once", sum, done), "21, 6", sum == "21" && done == 6 && len(seen.Subtasks) == 6 && shown)

	// A child that waits for its parent, which waits for it.
	const child = `sleep 4; said=$(agentctl task wait %s 2>&1) && code=0 || code=$?; sleep 15; echo "$said; exit code $code"`
	circle := taskID.FindString(w.submit("family", `child=$(printf '`+fmt.Sprintf(child, "%s")+`' $SWARM_TASK_ID | agentctl task submit - --id=$SWARM_TASK_ID-child); agentctl task wait $child`, "-o", "name"))
	var small family
	w.eventually(time.Minute, "a wait that closes a cycle is refused", func() string {
		if small = w.family(circle, "family"); len(small.Subtasks) == 0 {
			return "there is no subtask yet"
		}
		if of := w.family(small.Subtasks[0].ID, "family"); of.Cycle == "" {
			return fmt.Sprintf("%+v", of)
		}
		return ""
	})
	closing := small.Subtasks[0].ID
	way := closing + " -> " + circle + " -> " + closing
	why := w.swarm("why", "task/"+closing, "--swarm=family")
	waits := w.swarm("why", "task/"+circle, "--swarm=family")
	said := w.swarm("result", "task/"+circle, "--wait", "--timeout=1m", "--swarm=family")
	named := strings.Contains(why, "it would have closed the cycle "+way) && strings.Contains(waits, "and waits for "+closing) &&
		strings.Contains(said, way) && strings.Contains(said, "; exit code 7")
	if !named {
		w.Errorf("a cycle:\n%s\n%s\n%s", why, waits, said)
	}
	w.result("a wait that would close a cycle is refused with its name, by agentctl and why", subtasksCommand, named, "exit code 7, all tasks of it", named)

	// The coordinator is lost while a parent waits.
	const sums = `tasks=; for n in 1 2 3 4 5 6; do tasks="$tasks $(agentctl task submit "sleep 8; echo $n" --id=$SWARM_TASK_ID-$n)" || exit; done
agentctl task wait $tasks >&2 || exit; sum=0; for task in $tasks; do sum=$((sum + $(agentctl task wait $task))); done; echo $sum`
	lost := taskID.FindString(w.submit("family", sums, "-o", "name"))
	w.eventually(time.Minute, "the parent waits for six", func() string {
		if of := w.family(lost, "family"); len(of.WaitsFor) == 0 || len(of.Subtasks) != 6 {
			return fmt.Sprintf("%+v", of)
		}
		return ""
	})
	now := int64(0)
	w.deletePod(w.live("family", "coordinator")[0].Name, &now)
	w.eventually(2*time.Minute, "the parent is done", func() string {
		var of family
		out, err := w.trySwarm("get", "task/"+lost, "--swarm=family", "-o", "json")
		if err != nil || json.Unmarshal([]byte(out), &of) != nil || of.State != "done" {
			return out
		}
		return ""
	})
	total := strings.TrimSpace(w.swarm("result", "task/"+lost, "--swarm=family"))
	once, children := 0, w.family(lost, "family").Subtasks
	for _, one := range children {
		if of := w.family(one.ID, "family"); of.State == "done" && len(of.History) == 1 {
			once++
		}
	}
	w.result("a coordinator that is lost while a task waits for six: their sum, each done once", subtasksCommand,
		fmt.Sprintf("%s, %d of %d", total, once, len(children)), "21, 6 of 6", total == "21" && once == 6 && len(children) == 6)
}
