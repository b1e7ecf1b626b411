package scenarios

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"
)

const teamsCommand = "make e2e SCENARIO=teams"

// TestTeams: a Swarm of several teams keeps what they hold, whatever it is scaled to.
func TestTeams(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restricted)
	w.apply(swarmOf{name: "teams", replicas: 3, agent: object{"command": []string{"agentctl", "work", "--", "sh"}}, // a task is a script
		workers: object{"taskGraceSeconds": 5}, spec: object{"topology": object{"teamSize": 1}, "shutdown": object{"drainTimeoutSeconds": 5}}}.manifest())
	w.readySwarm("teams", 3)
	api := w.taskAPI("teams")
	teams := func(all []task) map[string]int {
		found := map[string]int{}
		for _, one := range all {
			found[one.ID[:strings.LastIndex(one.ID, "-")]]++
		}
		return found
	}
	states := func() map[string]string {
		out := map[string]string{}
		for _, one := range api.tasks() {
			out[one.ID] = one.State
		}
		return out
	}
	over := func(count int) func() string {
		return func() string {
			got := states()
			for id, state := range got {
				if state != "done" && state != "dead" {
					return id + " is " + state
				}
			}
			if len(got) != count {
				return fmt.Sprintf("%d tasks instead of %d", len(got), count)
			}
			return ""
		}
	}

	const tasks = 18
	for i := range tasks - 1 {
		api.submit(fmt.Sprintf("first-%d", i), "echo ok")
	}
	bad := api.submit("bad", "exit 65").ID
	w.eventually(time.Minute, "all tasks over", over(tasks))
	before := states()
	if found := teams(api.tasks()); len(found) != 3 {
		t.Fatalf("the tasks are not in three teams: %v", found)
	}
	if before[bad] != "dead" {
		t.Errorf("%s is %s instead of dead", bad, before[bad])
	}

	_, err := w.try(time.Minute, "kubectl", "-n", w.ns, "patch", "swarm", "teams", "--type=merge", "-p", `{"spec":{"topology":{"teamSize":3}}}`)
	if err == nil || !strings.Contains(err.Error(), "teams of a Swarm are fixed") {
		t.Errorf("teamSize was changed, or the refusal does not say why: %v", err)
	}

	for _, replicas := range []int{1, 4, 3} {
		w.kubectl("scale", "swarm", "teams", fmt.Sprint("--replicas=", replicas))
		w.eventually(time.Minute, fmt.Sprint(replicas, " agents"), func() string {
			if n := len(w.live("teams", "worker")); n != replicas {
				return fmt.Sprint(n)
			}
			return ""
		})
		w.readySwarm("teams", replicas)
		if after := states(); !maps.Equal(before, after) {
			t.Errorf("at %d agents the tasks are %v, before %v", replicas, after, before)
		}
	}
	kept := states()
	w.result("results and dead letters of three teams after scaling 3 -> 1 -> 4 -> 3", teamsCommand, len(kept), fmt.Sprint(tasks), maps.Equal(before, kept))

	for i := range tasks {
		api.submit(fmt.Sprintf("second-%d", i), "echo ok")
	}
	w.eventually(time.Minute, "as many tasks again", over(2*tasks))
	var agents []string
	for _, pod := range w.live("teams", "worker") {
		agents = append(agents, pod.Labels["cfn.dev/slot"])
	}
	arrived := 0
	for _, from := range w.live("teams", "worker") {
		for _, to := range agents {
			if to == from.Labels["cfn.dev/slot"] {
				continue
			}
			if _, err := w.try(time.Minute, "kubectl", "-n", w.ns, "exec", from.Name, "-c", "agent", "--", "agentctl", "send", to, "hello"); err != nil {
				t.Errorf("%s to %s: %v", from.Name, to, err)
				continue
			}
			arrived++
		}
	}
	w.result("messages accepted from each agent to each other one, of three teams", teamsCommand, arrived, "6", arrived == 6)
}
