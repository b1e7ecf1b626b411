package scenarios

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

const usageCommand = "make e2e SCENARIO=usage"

// says is a task that says as claude -p --output-format json does what it has cost: 25 cents, 1100 tokens read, 50 written.
const says = `printf '{"type":"result","subtype":"success","is_error":false,"result":"ok","session_id":"s-%s","total_cost_usd":0.25,` +
	`"usage":{"input_tokens":10,"cache_creation_input_tokens":90,"cache_read_input_tokens":1000,"output_tokens":50}}\n' $SWARM_TASK_ID; `

// TestUsage: what agents say of their cost is summed for each task and the swarm, outlives whom it was told, and a budget
// stops the queue until it is raised.
func TestUsage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restricted)
	agent := object{"command": []string{"agentctl", "work", "--usage=claude", "--", "sh"}} // a task is a script
	quick := object{"drainTimeoutSeconds": 5}
	w.apply(swarmOf{name: "teams", replicas: 4, agent: agent, workers: object{"taskGraceSeconds": 5},
		spec: object{"topology": object{"teamSize": 2}, "shutdown": quick}}.manifest())
	// One agent: no task is at work when the budget is reached, so it is kept to the cent. And nothing is kept for long.
	w.apply(swarmOf{name: "exact", replicas: 1, agent: agent, workers: object{"taskGraceSeconds": 5},
		spec: object{"budget": object{"usd": "0.50"}, "tasks": object{"resultRetentionSeconds": 3}, "shutdown": quick}}.manifest())
	w.readySwarm("teams", 4)
	w.readySwarm("exact", 1)

	over := func(api taskAPI, count int) {
		w.Helper()
		w.eventually(2*time.Minute, fmt.Sprint(count, " tasks are done"), func() string {
			done := 0
			for _, one := range api.tasks() {
				if one.State == "done" {
					done++
				}
			}
			if done != count {
				return fmt.Sprint(done)
			}
			return ""
		})
	}
	costs := func(swarm, want string) {
		w.Helper()
		w.eventually(90*time.Second, swarm+" has cost "+want+" according to its status", func() string { // counts are written every 30 s
			if got := w.object(swarm).Status.Usage.CostUSD; got != want {
				return got
			}
			return ""
		})
	}
	exhausted := func(swarm string) condition {
		w.Helper()
		w.eventually(time.Minute, "condition BudgetExhausted of "+swarm, func() string {
			if c := w.object(swarm).condition("BudgetExhausted"); c.Status != "True" {
				return fmt.Sprintf("%+v", c)
			}
			return ""
		})
		return w.object(swarm).condition("BudgetExhausted")
	}
	raise := func(swarm, usd string) {
		w.Helper()
		w.kubectl("patch", "swarm", swarm, "--type=merge", "-p", `{"spec":{"budget":{"usd":"`+usd+`"}}}`)
	}

	// Sixteen tasks of one attempt and four of two, in two teams: 24 attempts.
	api := w.taskAPI("teams")
	const once, twice = 16, 4
	var failing string
	for i := range once {
		api.submit(fmt.Sprint("once-", i), says)
	}
	for i := range twice {
		failing = api.submit(fmt.Sprint("twice-", i), says+"[ $SWARM_TASK_ATTEMPT != 1 ]").ID
	}
	over(api, once+twice)
	const cost = "cost   $6.00 (26k tokens in, 1.2k out) in 20 tasks\n"
	top := func() string { return w.swarm("top", "teams", "--once") }
	first := top()
	wide := w.swarm("get", "tasks", "teams", "-o", "wide")
	ones := len(regexp.MustCompile(`(?m)^t-\d-\w+ +done +1/3 .* \$0\.25 +1\.1k/50 `).FindAllString(wide, -1))
	twos := len(regexp.MustCompile(`(?m)^t-\d-\w+ +done +2/3 .* \$0\.50 +2\.2k/100 `).FindAllString(wide, -1))
	described := w.swarm("describe", "task/"+failing, "--swarm=teams")
	attempts := len(regexp.MustCompile(`(?m)^  [12] +(failed|done) .* \$0\.25 +1\.1k/50$`).FindAllString(described, -1))
	told := strings.Contains(first, cost) && ones == once && twos == twice && attempts == 2 &&
		strings.Contains(described, "Cost:         $0.50 (2.2k tokens in, 100 out)\nSession:      s-"+failing+"\n")
	if !told {
		w.Errorf("what tasks have cost:\n%s\n%s\n%s", first, wide, described)
	}
	w.result("what 24 attempts of 20 tasks in two teams have cost, by top, get and describe", usageCommand, told, "to the cent", told)
	costs("teams", "6.00")

	// Spent is spent: also for an engine that is started again, and a coordinator that finds neither log nor pod.
	for _, pod := range w.live("teams", "coordinator") {
		w.killEngine(pod.Name)
	}
	w.eventually(time.Minute, "the same sum after the coordinators' engines were killed", func() string {
		if got, _ := w.trySwarm("top", "teams", "--once"); !strings.Contains(got, cost) {
			return got
		}
		return ""
	})
	now := int64(0)
	w.deletePod(w.live("teams", "coordinator")[0].Name, &now)
	w.readySwarm("teams", 4)
	w.eventually(2*time.Minute, "the same sum after a coordinator was lost", func() string {
		if got, _ := w.trySwarm("top", "teams", "--once"); !strings.Contains(got, cost) {
			return got
		}
		return ""
	})

	// A budget of all teams: attempts at work go on, and until the other team has heard of it, it hands out some more.
	const more = 40
	raise("teams", "6.50")
	for i := range more {
		api.submit(fmt.Sprint("more-", i), "sleep 4; "+says)
	}
	said := exhausted("teams")
	if !strings.Contains(said.Message, " of $6.50 (spec.budget.usd) are spent") || !strings.Contains(said.Message, "kubectl patch swarm teams") {
		w.Errorf("BudgetExhausted: %+v", said)
	}
	count := func() map[string]int {
		states := map[string]int{}
		for _, one := range api.tasks() {
			states[one.State]++
		}
		return states
	}
	var stopped map[string]int
	w.eventually(time.Minute, "nobody is at work any more", func() string {
		if stopped = count(); stopped["running"] > 0 {
			return fmt.Sprint(stopped)
		}
		return ""
	})
	time.Sleep(10 * time.Second)
	after := count()
	beyond := stopped["done"] - once - twice - 2
	kept := stopped["queued"] > 0 && fmt.Sprint(stopped) == fmt.Sprint(after)
	if !kept {
		w.Errorf("with its budget spent the swarm goes on: %v, 10 s later %v", stopped, after)
	}
	if ready := w.object("teams").condition("Ready"); ready.Reason != "BudgetExhausted" || ready.Status != "True" {
		w.Errorf("Ready: %+v", ready)
	}
	w.result("tasks of two teams that were done beyond a budget, 4 agents at work", usageCommand, beyond, "<= 20", kept && beyond <= 20)
	events := w.kubectl("get", "events", "--field-selector", "reason=BudgetExhausted,involvedObject.name=teams", "-o", `jsonpath={range .items[*]}{.type} {.count}{"\n"}{end}`)
	if lines := strings.Count(events, "\n"); lines != 1 || !strings.HasPrefix(events, "Warning") {
		w.Errorf("Events about the budget: %q", events)
	}
	raise("teams", "1000")
	over(api, once+twice+more)
	costs("teams", "16.00") // 64 attempts
	w.eventually(time.Minute, "the budget is not exhausted any more", func() string {
		if c := w.object("teams").condition("BudgetExhausted"); c.Status != "" {
			return fmt.Sprintf("%+v", c)
		}
		return ""
	})
	if got := w.swarm("describe", "teams"); !strings.Contains(got, "Cost:         $16.00 (70k tokens in, 3.2k out) in 60 tasks\n") {
		w.Errorf("describe: %s", got)
	}

	// The same to the cent, when what was spent is no longer kept and its coordinator gone.
	exact := w.taskAPI("exact")
	const five = 5
	for i := range five {
		exact.submit(fmt.Sprint("exact-", i), says)
	}
	exhausted("exact")
	w.eventually(time.Minute, "what was done has expired", func() string {
		if all := exact.tasks(); len(all) != 3 {
			return fmt.Sprint(len(all))
		}
		return ""
	})
	costs("exact", "0.50")
	w.deletePod(w.live("exact", "coordinator")[0].Name, &now)
	w.readySwarm("exact", 1)
	time.Sleep(5 * time.Second)
	all := exact.tasks()
	for _, one := range all {
		if one.State != "queued" {
			w.Errorf("beyond the budget %s is %s", one.ID, one.State)
		}
	}
	w.result("tasks of 25 cents that one agent was given with a budget of 50, their records expired and the coordinator replaced", usageCommand, five-len(all), "2", five-len(all) == 2)
	raise("exact", "1.25")
	costs("exact", "1.25")
	if got := w.swarm("top", "exact", "--once"); !strings.Contains(got, "cost   $1.25 (5.5k tokens in, 250 out) in 5 tasks\n") {
		w.Errorf("top: %s", got)
	}
}
