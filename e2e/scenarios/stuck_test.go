package scenarios

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

const stuckCommand = "make e2e SCENARIO=stuck"

// TestStuck: an agent without output or CPU for longer than the limit is named with what it waits for, whoever computes
// quietly is not, and asked to, the attempt is ended and the task done at the next one.
func TestStuck(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restricted)
	agent := object{"command": []string{"agentctl", "work", "--usage=claude", "--grace=1s", "--", "bash"}} // a task is a script
	const limit = 8 * time.Second
	quick := object{"drainTimeoutSeconds": 1}
	health := func(more object) object {
		out := object{"stuckAfterSeconds": int(limit.Seconds())}
		for name, value := range more {
			out[name] = value
		}
		return out
	}
	w.apply(swarmOf{name: "report", replicas: 4, agent: agent, workers: object{"taskGraceSeconds": 1},
		spec: object{"health": health(nil), "shutdown": quick}}.manifest())
	w.apply(swarmOf{name: "restart", replicas: 1, agent: agent, workers: object{"taskGraceSeconds": 1},
		spec: object{"health": health(object{"onStuck": "Restart"}), "shutdown": quick}}.manifest())
	w.readySwarm("report", 4)
	w.readySwarm("restart", 1)

	// None ends by itself.
	tasks := []struct{ name, script, why string }{
		{"sockets open", `exec perl -MIO::Socket::INET -e '$l = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1"); ` +
			`$c = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $l->sockport) or die; sleep'`, `1 TCP connection open, to 127\.0\.0\.1:\d+`},
		{"after its result", `echo '{"type":"result","total_cost_usd":0.1}'; sleep infinity`, `its result is printed, but it does not exit`},
		{"input that never comes", `mkfifo f; exec 3<>f; cat <f`, `cat waits to read its standard input`},
		{"quiet but computes", `(while :; do :; done)`, ""},
	}
	api := w.taskAPI("report")
	begin := time.Now()
	ids := map[string]string{}
	for _, one := range tasks {
		ids[one.name] = api.submit(strings.ReplaceAll(one.name, " ", "-"), one.script).ID
	}
	running := w.eventually(20*time.Second, "all four are at work", func() string {
		n := 0
		for _, one := range api.tasks() {
			if one.State == "running" {
				n++
			}
		}
		if n < len(tasks) {
			return fmt.Sprint(n)
		}
		return ""
	})
	table := ""
	w.eventually(limit+10*time.Second, "the three that hang are named", func() string {
		table, _ = w.trySwarm("get", "agents", "report")
		message := w.object("report").condition("AgentsStuck").Message
		for _, one := range tasks {
			row := regexp.MustCompile(`(?m)^worker-\d +stuck +` + ids[one.name] + ` .* \d+s: .*` + one.why + `.*$`)
			named := row.MatchString(table) && strings.Contains(message, "("+ids[one.name]+" since ")
			if one.why != "" && !named {
				return one.name + " is not named\n" + table + message
			}
		}
		return ""
	})
	took := time.Since(begin) - running
	w.result("an agent that hangs (sockets open, after its result, waiting for input) is named by get agents and the condition after its limit of 8 s",
		stuckCommand, took.Round(time.Second).String(), "<= 18s", took <= limit+10*time.Second)

	seen := w.object("report")
	message := seen.condition("AgentsStuck").Message
	if !regexp.MustCompile(`^3 of 4 agents without output or CPU for more than 8s: worker-\d .*\. Nothing is ended \(spec\.health\.onStuck: Report\)\. Next: kubectl swarm get agents report$`).MatchString(message) {
		w.Errorf("AgentsStuck: %s", message)
	}
	if ready := seen.condition("Ready"); ready.Status != "True" || ready.Reason != "AgentsStuck" || seen.Status.Agents.Stuck != 3 {
		w.Errorf("status: %+v", seen.Status)
	}
	if got := w.kubectl("get", "swarm", "report"); !regexp.MustCompile(`(?m)^report +4/4 +0 +4 +3 +100% +AgentsStuck +\S+$`).MatchString(got) {
		w.Errorf("get swarm:\n%s", got)
	}
	if got := w.swarm("top", "report", "--once"); !strings.Contains(got, "agents 5, busy 4, stuck 3\n") {
		w.Errorf("top:\n%s", got)
	}
	if got := w.swarm("describe", "report"); !strings.Contains(got, " ready, busy 4, stuck 3\n") {
		w.Errorf("describe:\n%s", got)
	}
	name := regexp.MustCompile(`(?m)^(worker-\d) +stuck +` + ids["sockets open"] + ` `).FindStringSubmatch(table)
	if len(name) != 2 {
		w.Fatalf("get agents:\n%s", table)
	}
	if got := w.swarm("describe", "agent/"+name[1], "--swarm=report"); !regexp.MustCompile(`(?m)^Stuck: +no output and no CPU for \d+s: 1 TCP connection open, to 127\.0\.0\.1:\d+$`).MatchString(got) {
		w.Errorf("describe agent:\n%s", got)
	}
	w.eventually(10*time.Second, "the Event AgentStuck", func() string {
		got := w.kubectl("get", "events", "--field-selector", "reason=AgentStuck,involvedObject.name=report", "-o", `jsonpath={range .items[*]}{.type}{"\n"}{end}`)
		if !strings.HasPrefix(got, "Warning\n") {
			return got
		}
		return ""
	})

	// Who computes is never named, and what is ended is no longer: the condition goes with the last of them.
	quiet := ids["quiet but computes"]
	until := time.Now().Add(2 * limit)
	wrong := 0
	for time.Now().Before(until) {
		if got, _ := w.trySwarm("get", "agents", "report"); regexp.MustCompile(`(?m)^worker-\d +stuck +` + quiet + ` `).MatchString(got) {
			wrong++
		}
		time.Sleep(time.Second)
	}
	w.result("looks at an agent that computes quietly, for 16 s, that call it stuck", stuckCommand, wrong, "0", wrong == 0)
	for _, one := range tasks {
		if one.why != "" {
			w.swarm("cancel", "task/"+ids[one.name], "--swarm=report")
		}
	}
	w.eventually(30*time.Second, "nobody is stuck any more", func() string {
		if o := w.object("report"); o.condition("AgentsStuck").Status != "" || o.Status.Agents.Stuck != 0 || o.condition("Ready").Reason != "Working" {
			return fmt.Sprintf("%+v", o.Status)
		}
		return ""
	})

	// Restart: the attempt counts, says why, and the next one gets it done.
	again := w.taskAPI("restart")
	id := again.submit("again", `[ $SWARM_TASK_ATTEMPT != 1 ] || sleep infinity; echo done at $SWARM_TASK_ATTEMPT`).ID
	w.eventually(limit+30*time.Second, "the task is done at the second attempt", func() string {
		for _, one := range again.tasks() {
			if one.ID == id && one.State == "done" {
				return ""
			}
		}
		return fmt.Sprintf("%+v", again.tasks())
	})
	described := w.swarm("describe", "task/"+id, "--swarm=restart")
	told := regexp.MustCompile(`(?m)^  1 +idle_timeout +\S+ +yes `).MatchString(described) && regexp.MustCompile(`(?m)^  2 +done +0 +yes `).MatchString(described)
	if !told || w.swarm("result", "task/"+id, "--swarm=restart") != "done at 2\n" {
		w.Errorf("describe:\n%s", described)
	}
	w.result("a task whose first attempt hangs, with onStuck: Restart, is done at attempt", stuckCommand, 2, "2", told)
}
