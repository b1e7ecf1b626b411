package scenarios

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const zeroCommand = "make e2e SCENARIO=zero"

// TestZero: a Swarm without agents keeps its queue, takes nothing new and says so; the next agent works the queue off.
func TestZero(t *testing.T) {
	t.Parallel()
	l := lifetime{world: newWorld(t, restricted), name: "none"}
	l.apply(swarmOf{name: l.name, replicas: 3, agent: object{"command": []string{"agentctl", "work", "--", "sh"}}, // a task is a script
		workers: object{"taskGraceSeconds": lifeGrace}, spec: object{"shutdown": object{"drainTimeoutSeconds": 5}}}.manifest())
	l.readySwarm(l.name, 3)
	l.api = l.taskAPI(l.name)
	started, agents := l.holdAtWork(3), l.agents()
	queued := l.tasks(6, "echo ok")

	begin := time.Now()
	l.kubectl("scale", "swarm", l.name, "--replicas=0")
	l.eventually(time.Minute, "all agents leaving", func() string {
		var all struct {
			Agents []struct{ Role, State string }
		}
		l.api.get("v1/agents", nil, &all)
		leaving := 0
		for _, one := range all.Agents {
			if one.Role == "worker" && one.State == "leaving" {
				leaving++
			}
		}
		if leaving != len(agents) {
			return fmt.Sprintf("%+v", all)
		}
		return ""
	})
	l.end(started, agents)
	l.eventually(time.Minute, "no agents", func() string {
		if n := len(l.pods("cfn.dev/swarm=" + l.name + ",cfn.dev/role=worker")); n > 0 {
			return fmt.Sprint(n)
		}
		return ""
	})
	took := time.Since(begin)
	kept, ended := 0, 0
	for _, one := range l.api.tasks() {
		if slices.Contains(queued, one.ID) && one.State == "queued" && one.Attempt == 0 {
			kept++
		}
		if slices.Contains(started.ids, one.ID) && one.State == "done" && one.Attempt == 1 {
			ended++
		}
	}
	l.result("scaled 3 -> 0 with a queue: tasks at work done, tasks kept", zeroCommand, fmt.Sprintf("%d, %d in %.1f s", ended, kept, took.Seconds()), "3, 6",
		ended == len(started.ids) && kept == len(queued))
	l.eventually(time.Minute, "the Swarm says so", func() string {
		c := l.object(l.name).condition("Ready")
		if c.Status != "True" || c.Reason != "ScaledToZero" || !strings.Contains(c.Message, "6 tasks queued") || !strings.Contains(c.Message, "--replicas=1") {
			return fmt.Sprintf("%+v", c)
		}
		return ""
	})

	begin = time.Now()
	_, err := l.tryIn(time.Minute, "echo never", "kubectl", "swarm", "-n", l.ns, "submit", l.name, "-")
	clear := err != nil && strings.Contains(err.Error(), "nothing was accepted") && strings.Contains(err.Error(), "Scale the Swarm's workers to 1 or more")
	l.result("submitted at 0 agents: the exit code; it says what to do", zeroCommand,
		fmt.Sprintf("%d, %t after %.1f s", exitCode(err), clear, time.Since(begin).Seconds()), "6, true", exitCode(err) == 6 && clear)
	if !clear {
		t.Logf("it says: %v", err)
	}

	begin = time.Now()
	l.kubectl("scale", "swarm", l.name, "--replicas=1")
	harmed := l.harmed(time.Minute) // all are done, and what was refused is not among them
	l.time("scaled 0 -> 1, until the 6 tasks of the queue are done", begin, 30*time.Second)
	l.result("tasks of 9 that 3 -> 0 -> 1 agents lost, cut short or repeated", zeroCommand, harmed, "0", harmed == 0)
}
