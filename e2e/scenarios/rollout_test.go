package scenarios

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

const rolloutCommand = "make e2e SCENARIO=rollout"

// Tasks that status.rollout.measured is about: the last so many.
const measuredTasks = 1000

// TestRollout: a Swarm is moved from its old coordination (V1) to this one (V2) and back, the same keys at each percentage.
func TestRollout(t *testing.T) {
	t.Parallel()
	r := rollout{world: newWorld(t, restricted), keys: 160, was: map[string]string{}}
	r.apply(r.manifest(0))
	r.readySwarm("move", 4)
	r.api = r.taskAPI("move")
	before := r.incarnations()

	var shares []string
	shared := true
	for i, percentage := range []int{0, 10, 50, 100, 0} {
		switch {
		case i == 1:
			r.apply(r.manifest(percentage))
		case i > 1:
			r.kubectl("patch", "swarm", "move", "--type=merge", "-p", fmt.Sprintf(`{"spec":{"rollout":{"trafficPercentage":%d}}}`, percentage))
		}
		r.applied(percentage)
		if i == 3 {
			r.inStatus()
		}
		rounds := 1
		if percentage == 50 {
			rounds = 2 // the same keys again, within one percentage
		}
		n := r.round(fmt.Sprintf("%d-%d", i, percentage), percentage, rounds)
		shares = append(shares, fmt.Sprintf("%d%%: %d", percentage, n))
		// 4.5 standard deviations: one run in 100,000 is beyond them by chance. Of 0 and 100 nothing is left to chance.
		p := float64(percentage) / 100
		shared = shared && math.Abs(float64(n)-p*float64(r.keys)) <= 4.5*math.Sqrt(float64(r.keys)*p*(1-p)) && (n > 0) == (p > 0)
		r.measured(i == 2 || i == 4)
	}
	// What was measured is in the status at the latest when another percentage is applied.
	r.kubectl("patch", "swarm", "move", "--type=merge", "-p", `{"spec":{"rollout":{"trafficPercentage":20}}}`)
	r.applied(20)
	r.inStatus()

	r.result(fmt.Sprintf("keys of %d that this coordination handled, by percentage", r.keys), rolloutCommand, strings.Join(shares, ", "),
		"within 4.5 standard deviations", shared)
	r.result("tasks that went another way than their key within one percentage, or back when it was raised", rolloutCommand,
		fmt.Sprintf("%d, %d of %d", r.torn, r.back, r.total), "0, 0", r.torn+r.back == 0)
	r.result("status.rollout: ceiling, effective, summary and measured are what was set and what happened", rolloutCommand,
		fmt.Sprintf("%d of %d checks", r.right, r.checks), "all, at least 20", r.right == r.checks && r.checks >= 20)
	after := r.incarnations()
	r.result("containers started or pods made by five changes of the percentage", rolloutCommand, differences(before, after), "0", maps.Equal(before, after))
}

type rollout struct {
	*world
	api           taskAPI
	keys          int
	was           map[string]string // version of each key at the percentage before
	percentage    int               // that of was
	versions      []string          // of all tasks, round by round
	total         int
	torn, back    int
	checks, right int
}

func (r *rollout) manifest(percentage int) string {
	says := func(who string) []string {
		return []string{"sh", "-c", "cat >/dev/null; echo " + who + " $CFN_COORDINATION_VERSION"}
	}
	return swarmOf{name: "move", replicas: 4, agent: object{"command": append([]string{"agentctl", "work", "--"}, says("own")...)},
		spec: object{"rollout": object{"trafficPercentage": percentage,
			"v1": object{"type": "InPlace", "inPlace": object{"command": says("legacy")}}}}}.manifest()
}

func (r *rollout) check(what string, got, want any) {
	r.Helper()
	r.checks++
	if got == want {
		r.right++
	} else {
		r.Errorf("%s: %v instead of %v", what, got, want)
	}
}

// applied waits until the status and the coordinator say that the percentage is what is applied.
func (r *rollout) applied(percentage int) {
	r.Helper()
	took := r.eventually(20*time.Second, fmt.Sprint(percentage, " % applied"), func() string {
		var now stats
		r.api.get("v1/stats", nil, &now)
		status := r.object("move").Status.Rollout
		if status.Ceiling != percentage || status.Effective != percentage || now.Rollout.Effective != percentage {
			return fmt.Sprintf("%+v, the coordinator: %+v", status, now.Rollout)
		}
		return ""
	})
	r.Logf("%d %% applied after %.1f s", percentage, took.Seconds())
	r.check("status.rollout.summary", r.object("move").Status.Rollout.Summary, fmt.Sprint(percentage, "%"))
}

// round has a task done for each key, some times, and says how many keys went to V2.
func (r *rollout) round(name string, percentage, rounds int) int {
	r.Helper()
	begin := time.Now()
	var lines strings.Builder
	for i := range r.keys * rounds {
		line, err := json.Marshal(object{"key": fmt.Sprintf("%s-%d", r.ns, i%r.keys)})
		if err != nil {
			r.Fatal(err)
		}
		lines.Write(append(line, '\n'))
	}
	r.must(r.tryIn(3*time.Minute, lines.String(), "kubectl", "swarm", "-n", r.ns, "submit", "move", "--lines", "-", "--key-field", "key", "--label", "round="+name))
	r.total += r.keys * rounds
	r.eventually(time.Minute, fmt.Sprint(r.total, " tasks done"), func() string {
		var now stats
		if r.api.get("v1/stats", nil, &now); now.Tasks.Done != r.total {
			return fmt.Sprintf("%+v", now.Tasks)
		}
		return ""
	})
	says := map[string]string{"V1": "legacy V1", "V2": "own V2"}
	now := map[string]string{}
	tasks := 0
	for _, one := range r.api.tasks() {
		if one.Labels["round"] != name {
			continue
		}
		tasks++
		r.versions = append(r.versions, one.Version)
		if one.Result == nil || strings.TrimSpace(one.Result.Preview) != says[one.Version] {
			r.Errorf("task %s of %s went to %q, and its result is %+v", one.ID, one.Key, one.Version, one.Result)
		}
		if before, again := now[one.Key]; again && before != one.Version {
			r.torn++
			r.Errorf("key %s went to %s and to %s within %d %%", one.Key, before, one.Version, percentage)
		}
		now[one.Key] = one.Version
		if percentage > r.percentage && r.was[one.Key] == "V2" && one.Version != "V2" {
			r.back++
			r.Errorf("key %s went to V2 at %d %% and to %s at %d %%", one.Key, r.percentage, one.Version, percentage)
		}
	}
	if tasks != r.keys*rounds || len(now) != r.keys {
		r.Errorf("%s: %d tasks of %d keys, not %d of %d", name, tasks, len(now), r.keys*rounds, r.keys)
	}
	r.was, r.percentage = now, percentage
	v2 := 0
	for _, version := range now {
		if version == "V2" {
			v2++
		}
	}
	r.Logf("%d tasks at %d %% in %.1f s", tasks, percentage, time.Since(begin).Seconds())
	return v2
}

// expected is what the last tasks come to. Rounds are whole in it: it does not matter in which order a round was done.
func (r *rollout) expected() (v1, v2 int) {
	for _, version := range r.versions[max(0, len(r.versions)-measuredTasks):] {
		if version == "V2" {
			v2++
		} else {
			v1++
		}
	}
	return v1, v2
}

// measured compares what the coordinator has counted; reported: and waits until it has told so.
func (r *rollout) measured(reported bool) {
	r.Helper()
	v1, v2 := r.expected()
	var now stats
	r.api.get("v1/stats", nil, &now)
	r.check("counted on V1", now.Rollout.V1, v1)
	r.check("counted on V2", now.Rollout.V2, v2)
	r.check("measured", now.Rollout.Measured, 100*v2/(v1+v2))
	if reported {
		r.eventually(20*time.Second, "the counts in the report", func() string {
			if told := r.report("move", 0).Rollout; told.V1 != v1 || told.V2 != v2 {
				return fmt.Sprintf("%+v, not %d and %d", told, v1, v2)
			}
			return ""
		})
	}
}

func (r *rollout) inStatus() {
	r.Helper()
	v1, v2 := r.expected()
	r.check("status.rollout.measured", r.object("move").Status.Rollout.Measured, 100*v2/(v1+v2))
}

// incarnations are the swarm's pods, each with how often its containers were started again.
func (r *rollout) incarnations() map[string]int32 {
	r.Helper()
	out := map[string]int32{}
	for _, pod := range r.pods("cfn.dev/swarm=move") {
		out[pod.Name+" "+string(pod.UID)] = 0
		for _, status := range append(slices.Clone(pod.Status.InitContainerStatuses), pod.Status.ContainerStatuses...) {
			out[pod.Name+" "+string(pod.UID)] += status.RestartCount
		}
	}
	return out
}

func differences(before, after map[string]int32) int {
	n := 0
	for name, count := range after {
		if was, found := before[name]; !found || was != count {
			n++
		}
	}
	return n
}
