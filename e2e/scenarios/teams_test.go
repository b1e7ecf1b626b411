package scenarios

import (
	"fmt"
	"maps"
	"slices"
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
		w.Fatalf("the tasks are not in three teams: %v", found)
	}
	if before[bad] != "dead" {
		w.Errorf("%s is %s instead of dead", bad, before[bad])
	}

	_, err := w.try(time.Minute, "kubectl", "-n", w.ns, "patch", "swarm", "teams", "--type=merge", "-p", `{"spec":{"topology":{"teamSize":3}}}`)
	if err == nil || !strings.Contains(err.Error(), "teams of a Swarm are fixed") {
		w.Errorf("teamSize was changed, or the refusal does not say why: %v", err)
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
			w.Errorf("at %d agents the tasks are %v, before %v", replicas, after, before)
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
	sent := map[string][]string{} // by receiver
	for _, from := range w.live("teams", "worker") {
		for _, to := range agents {
			if to == from.Labels["cfn.dev/slot"] {
				continue
			}
			body := from.Labels["cfn.dev/slot"] + " to " + to
			if _, err := w.inAgent("teams", from.Labels["cfn.dev/slot"], "agentctl", "send", to, body); err != nil {
				w.Errorf("%s: %v", body, err)
			}
			sent[to] = append(sent[to], body)
		}
	}
	arrived := 0
	for to, bodies := range sent {
		var got []string
		for range bodies {
			body, err := w.inAgent("teams", to, "agentctl", "recv", "--wait", "10s", "--ack")
			if err != nil {
				w.Errorf("%s receives: %v", to, err)
			}
			got = append(got, strings.TrimSpace(body))
		}
		slices.Sort(bodies)
		slices.Sort(got)
		if slices.Equal(got, bodies) {
			arrived += len(got)
		} else {
			w.Errorf("%s received %q, was sent %q", to, got, bodies)
		}
		if more, err := w.inAgent("teams", to, "agentctl", "recv", "--wait", "500ms"); exitCode(err) != 3 {
			w.Errorf("%s has another message (%v): %q", to, err, more)
		}
	}
	w.result("messages from each agent to each other one, of three teams: received and acknowledged", teamsCommand, arrived, "6", arrived == 6)

	// One team's coordinator is killed with a queue; the others' tasks go on, and all are done.
	const third = 36
	for i := range third {
		api.submit(fmt.Sprintf("third-%d", i), "until [ -e /tmp/third ]; do sleep 0.1; done; echo ok")
	}
	queued := 0
	for id, state := range states() {
		if strings.HasPrefix(id, "t-1-") && state == "queued" {
			queued++
		}
	}
	if queued < 3 {
		w.Errorf("team 1 has a queue of %d: this proves nothing", queued)
	}
	for _, pod := range w.live("teams", "coordinator") {
		if pod.Labels["cfn.dev/slot"] == "coordinator-1" {
			w.deletePod(pod.Name, &killed)
		}
	}
	for _, slot := range []string{"worker-0", "worker-1", "worker-2"} {
		w.must(w.inAgent("teams", slot, "touch", "/tmp/third")) // the queue did not shrink before the deletion
	}
	begin := time.Now()
	took := w.eventually(time.Minute, "as many tasks and those of the third round", over(2*tasks+third))
	all := api.whole(api.tasks())
	once := 0
	for _, one := range all {
		done := 0
		for _, attempt := range one.History {
			if attempt.Reason == "done" {
				done++
			}
		}
		if !strings.HasPrefix(one.Labels["id"], "third-") {
			continue
		}
		if done == 1 {
			once++
		} else {
			w.Logf("%s is %s: %+v", one.ID, one.State, one.History)
		}
	}
	lead := w.eventually(time.Minute, "three coordinators", func() string {
		n := 0
		for _, pod := range w.live("teams", "coordinator") {
			if ready(pod) {
				n++
			}
		}
		if n != 3 {
			return fmt.Sprint(n)
		}
		return ""
	})
	t.Logf("all done %s after the deletion, three coordinators %s", seconds(took), seconds(lead+took))
	w.result("one of three teams' coordinators killed with a queue: tasks done exactly once", teamsCommand,
		fmt.Sprintf("%d of %d, %d of them queued there; %.1f s", once, third, queued, time.Since(begin).Seconds()), "all", once == third && len(all) == 2*tasks+third)
}
