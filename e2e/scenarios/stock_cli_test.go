package scenarios

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const stockCliCommand = "make e2e SCENARIO=stock-cli"

var stockImage = images + "/stock-cli:" + tag

// What one answer of the model costs: Claude Code's own reckoning (2.1.330, its default model), and agentctl's with the prices below.
const (
	claudeAnswerMicroUSD = 7900
	codexAnswerMicroUSD  = 2200 // 1000 tokens in at 1 USD, 2000 cached at 0.1, 100 out at 10
)

var (
	claudeCommand = []string{"claude", "-p", "--output-format", "stream-json", "--verbose", "--dangerously-skip-permissions"}
	codexCommand  = []string{"codex", "exec", "--json", "--dangerously-bypass-approvals-and-sandbox", "-c", "model_provider=lab",
		"-c", `model_providers.lab={name="lab",base_url="http://lab:8080/v1",env_key="OPENAI_API_KEY",wire_api="responses"}`, "-c", "model=gpt-5", "-"}
)

// errand is one task: an item of the repository's list, with what goes wrong on the way.
type errand struct {
	name     string
	trouble  string // lines for the model: after its edits, before it runs the test
	attempts string // how they end: a pattern
	answers  int    // of the model, that the CLI tells of: in its attempts together
	stuck    string // what get agents says while it hangs: a pattern
	then     func(one task)

	item, id string
	seen     bool // stuck
}

func (e *errand) body() string {
	return "Mark item " + e.item + " as done; keep the tests green.\n" +
		"model: edit list.txt item " + e.item + ": todo => item " + e.item + ": done\n" +
		"model: run echo " + e.item + " >>journal.txt\n" + e.trouble +
		"model: run sh test.sh " + e.item + "\nmodel: say item " + e.item + " is done\n"
}

// TestStockCli: Claude Code and Codex as their registry has them, run by agentctl work on a repository in the cluster, with a
// model that does what a task's text says: rate limits, hangs, crashes, lost pods and cancelled tasks included.
func TestStockCli(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restricted)
	w.stockExamples()
	w.stockServers()
	agent := func(command []string, wrapper ...string) object {
		run := append(wrapper, "agentctl", "work", "--git=git://lab/project", "--grace=2s", "--idle-timeout=40s")
		return object{"image": stockImage, "command": append(run, command...), "volumeMounts": []object{{"name": "home", "mountPath": "/home/agent"}},
			"env": []object{{"name": "HOME", "value": "/home/agent"}, {"name": "ANTHROPIC_BASE_URL", "value": "http://lab:8080"},
				{"name": "ANTHROPIC_API_KEY", "value": "none"}, {"name": "OPENAI_API_KEY", "value": "none"},
				{"name": "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "value": "1"}, {"name": "CLAUDE_CODE_MAX_RETRIES", "value": "0"}}}
	}
	const limit = 20
	spec := object{"health": object{"stuckAfterSeconds": limit}, "shutdown": object{"drainTimeoutSeconds": 5}}
	home := object{"volumes": []object{{"name": "home", "emptyDir": object{}}}}
	const workers, pods = 4, 2
	w.apply(swarmOf{name: "claude", replicas: workers, pod: home, spec: spec, workers: object{"taskGraceSeconds": 30},
		agent: agent(append([]string{"--usage=claude", "--"}, claudeCommand...))}.manifest())
	// Two in a pod clone from one cache.
	w.apply(swarmOf{name: "codex", replicas: pods, pod: home, spec: spec, workers: object{"taskGraceSeconds": 30, "agentsPerPod": 2},
		agent: agent(append([]string{"--usage=codex", "--price-in=1", "--price-cached=0.1", "--price-out=10", "--"}, codexCommand...), "agentctl", "run", "--")}.manifest())
	w.readySwarm("claude", workers)
	w.readySwarm("codex", pods)

	const plain, storm = 20, 8
	claude, codex := stockErrands(w, plain)
	items := 0
	give := func(api taskAPI, all []*errand) {
		for _, one := range all {
			items++
			one.item = fmt.Sprintf("%02d", items)
			one.id = api.submit(one.name, one.body()).ID
		}
	}
	apis := map[string]taskAPI{"claude": w.taskAPI("claude"), "codex": w.taskAPI("codex")}

	// The storm comes first: whoever is refused has cost nothing yet, so that the sums below are exact.
	begin := time.Now()
	w.must(w.model("POST", "storm", fmt.Sprint(storm)))
	give(apis["claude"], claude[:plain])
	w.eventually(time.Minute, "the team waits", func() string {
		if got, _ := w.trySwarm("top", "claude", "--once"); !strings.Contains(got, "wait ") {
			return got
		}
		return ""
	})
	w.eventually(3*time.Minute, "the storm is over", func() string {
		if got := w.modelStats(); got.Refused < storm {
			return fmt.Sprintf("%+v", got)
		}
		return ""
	})
	w.Logf("the storm was over after %.0f s", time.Since(begin).Seconds())

	give(apis["claude"], claude[plain:])
	give(apis["codex"], codex)
	called := 0
	ended := map[string]bool{"done": true, "failed": true, "dead": true, "cancelled": true}
	w.eventually(8*time.Minute, "all tasks over", func() string {
		var left []string
		for swarm, all := range map[string][]*errand{"claude": claude, "codex": codex} {
			table, _ := w.trySwarm("get", "agents", swarm)
			tasks := map[string]task{}
			for _, one := range apis[swarm].tasks() {
				tasks[one.ID] = one
			}
			for _, e := range all {
				one := tasks[e.id]
				row := regexp.MustCompile(`(?m)^worker-\S+ +stuck +` + e.id + ` .*$`).FindString(table)
				if row != "" && e.stuck == "" {
					called++
					w.Errorf("%s is called stuck: %s", e.name, row)
				}
				if row != "" && e.stuck != "" && !e.seen && regexp.MustCompile(e.stuck).MatchString(row) {
					e.seen = true
					if e.then != nil {
						e.then(one)
					}
				}
				if !ended[one.State] {
					left = append(left, fmt.Sprint(e.name, " is ", one.State, " at attempt ", one.Attempt, ": ", row))
				}
			}
		}
		time.Sleep(time.Second)
		return strings.Join(left, "; ")
	})
	w.Logf("%d tasks were over after %.0f s; the model: %+v", len(claude)+len(codex), time.Since(begin).Seconds(), w.modelStats())

	refusals := 0
	for swarm, all := range map[string][]*errand{"claude": claude, "codex": codex} {
		refusals += w.judgeErrands(apis[swarm], swarm, all)
	}
	w.result("attempts that a storm of 8 refusals (429) of the model ended, uncharged, none of 20 tasks lost", stockCliCommand, refusals, "8", refusals == storm)
	hung := 0
	for _, e := range append(claude, codex...) {
		if e.stuck != "" && e.seen {
			hung++
		} else if e.stuck != "" {
			w.Errorf("%s was never called stuck with: %s", e.name, e.stuck)
		}
	}
	w.result("stock CLIs that hang (connection open, after the result) named by get agents, and none that is quiet but works", stockCliCommand,
		fmt.Sprintf("%d, wrongly %d", hung, called), "5, wrongly 0", hung == 5 && called == 0)
	for _, swarm := range []string{"claude", "codex"} {
		for _, pod := range w.live(swarm, "worker") {
			left, err := w.try(time.Minute, "kubectl", "-n", w.ns, "exec", pod.Name, "-c", "agent", "--", "sh", "-c", `ps -eo args | grep -E '^(claude|codex|node|sleep|/opt/cli)' || true`)
			if err != nil || left != "" {
				w.Errorf("left over in %s: %v %s", pod.Name, err, left)
			}
		}
	}
	w.refusedAsRoot(agent)
}

// stockErrands are those for Claude Code, of which the first are without trouble, and those for Codex.
func stockErrands(w *world, plain int) (claude, codex []*errand) {
	const first = "[ $SWARM_TASK_ATTEMPT != 1 ] || "
	for i := range plain {
		claude = append(claude, &errand{name: fmt.Sprint("claude-", i), attempts: `(try_later no, )*done yes`, answers: 5})
	}
	cancel := func(swarm string) func(task) {
		return func(one task) { w.swarm("cancel", "task/"+one.ID, "--swarm="+swarm) }
	}
	const connection = `\d+s: .*TCP connections? open, to `
	claude = append(claude,
		&errand{name: "claude-pod-lost", trouble: "model: hang 1\n", attempts: `\w+ no, done yes`, answers: 5, stuck: connection,
			then: func(one task) { w.deletePod(one.Pod, &killed) }},
		&errand{name: "claude-cancelled", trouble: "model: hang 1000\n", attempts: `cancelled \w+`, stuck: connection, then: cancel("claude")},
		&errand{name: "claude-hang", trouble: "model: hang 1\n", attempts: `idle_timeout yes, done yes`, answers: 5, stuck: connection},
		&errand{name: "claude-hang-after-result", trouble: "model: run " + first + "touch .git/hang\n", attempts: `idle_timeout yes, done yes`, answers: 6 + 6,
			stuck: `\d+s: its result is printed, but it does not exit`},
		&errand{name: "claude-quiet", trouble: "model: run timeout 45 sh -c 'while :; do :; done'; true\n", attempts: `done yes`, answers: 6},
		&errand{name: "claude-crash", trouble: "model: run " + first + "kill -9 $PPID\n", attempts: `failed yes, done yes`, answers: 6})
	for i := range 6 {
		codex = append(codex, &errand{name: fmt.Sprint("codex-", i), attempts: `done yes`, answers: 4})
	}
	codex = append(codex,
		&errand{name: "codex-refused", trouble: "model: refuse 1\n", attempts: `try_later no, done yes`, answers: 4},
		&errand{name: "codex-hang", trouble: "model: hang 1\n", attempts: `idle_timeout yes, done yes`, answers: 4, stuck: connection},
		&errand{name: "codex-crash", trouble: "model: run " + first + "kill -9 $PPID\n", attempts: `failed yes, done yes`, answers: 5})
	return claude, codex
}

// judgeErrands looks at each task's outcome and branch, and at the cost of all; how many attempts Claude Code's model refused.
func (w *world) judgeErrands(api taskAPI, swarm string, all []*errand) (refusals int) {
	w.Helper()
	price := map[string]int64{"claude": claudeAnswerMicroUSD, "codex": codexAnswerMicroUSD}[swarm]
	var branches []string
	var told, want int64
	right, green := 0, 0
	for _, one := range api.whole(api.tasks()) {
		at := slices.IndexFunc(all, func(e *errand) bool { return e.id == one.ID })
		if at < 0 {
			w.Errorf("nobody has submitted %s: %+v", one.ID, one)
			continue
		}
		e, state := all[at], "done"
		if strings.HasPrefix(e.attempts, "cancelled") {
			state = "cancelled"
		}
		// Handed to a pod that was going already: nobody has begun.
		attempts := strings.ReplaceAll(one.attempts(), "not_taken no, ", "")
		if one.State != state || !regexp.MustCompile("^"+e.attempts+"$").MatchString(attempts) {
			w.Errorf("%s is %s: %s, not %s: %s; %+v", e.name, one.State, one.attempts(), state, e.attempts, one.History)
		} else {
			right++
		}
		if swarm == "claude" {
			refusals += strings.Count(one.attempts(), "try_later no")
		}
		if one.Usage.CostMicroUSD != int64(e.answers)*price {
			w.Errorf("%s has cost %d micro-dollars, not %d answers of %d", e.name, one.Usage.CostMicroUSD, e.answers, price)
		}
		told += one.Usage.CostMicroUSD
		want += int64(e.answers) * price
		said := strings.TrimSpace(w.kubectl("exec", "lab", "-c", "git", "--", "judge", "/srv/project", e.item, "swarm/"+one.ID))
		if state == "done" {
			branches = append(branches, "swarm/"+one.ID)
			if said == "1 0" {
				green++
			} else {
				w.Errorf("%s: its branch has %q instead of one commit on which the test passes", e.name, said)
			}
		}
	}
	slices.Sort(branches)
	pushed := strings.Fields(w.kubectl("exec", "lab", "-c", "git", "--", "git", "-C", "/srv/project", "for-each-ref", "--format=%(refname:short)", "refs/heads/swarm"))
	mine := slices.DeleteFunc(pushed, func(name string) bool { // both swarms push to one repository
		return !slices.ContainsFunc(all, func(e *errand) bool { return "swarm/"+e.id == name })
	})
	slices.Sort(mine)
	w.result("tasks of stock "+swarm+" that end as documented: crash, hangs, lost pod, cancel, rate limit among them", stockCliCommand,
		fmt.Sprintf("%d of %d", right, len(all)), "all", right == len(all))
	w.result("branches pushed by stock "+swarm+", each of one commit with the edit once, on which the test passes", stockCliCommand,
		fmt.Sprintf("%d of %d", green, len(branches)), "all, no other", green == len(branches) && slices.Equal(mine, branches))
	var sum struct{ Usage struct{ CostMicroUSD int64 } }
	api.get("v1/stats", nil, &sum)
	w.result("what stock "+swarm+" has cost by its own words: the sum of the swarm, of its tasks, and of the answers", stockCliCommand,
		fmt.Sprintf("%.4f, %.4f, %.4f USD", float64(sum.Usage.CostMicroUSD)/1e6, float64(told)/1e6, float64(want)/1e6), "equal", told == want && sum.Usage.CostMicroUSD == want)
	return refusals
}

// refusedAsRoot: Claude Code skips no permission prompt as root, which no task is charged with.
func (w *world) refusedAsRoot(agent func(command []string, wrapper ...string) object) {
	w.Helper()
	rooted := newWorld(w.T)
	as := agent(nil)
	as["command"] = append([]string{"agentctl", "work", "--usage=claude", "--"}, claudeCommand...)
	as["securityContext"] = object{"runAsUser": 0, "runAsGroup": 0}
	rooted.apply(swarmOf{name: "rooted", replicas: 1, agent: as, workers: object{"taskGraceSeconds": 1}, spec: object{"shutdown": object{"drainTimeoutSeconds": 1}},
		pod: object{"securityContext": object{}, "volumes": []object{{"name": "home", "emptyDir": object{}}}}}.manifest())
	rooted.readySwarm("rooted", 1)
	api := rooted.taskAPI("rooted")
	id := api.submit("as-root", "Do it.").ID
	var one task
	rooted.eventually(time.Minute, "Claude Code has refused to work as root twice", func() string {
		if api.get("v1/tasks/"+id, nil, &one); len(one.History) < 2 || !strings.HasPrefix(one.attempts(), "try_later no, try_later no") {
			return fmt.Sprintf("%s: %+v", one.State, one.History)
		}
		return ""
	})
	said := rooted.swarm("describe", "task/"+id, "--swarm=rooted")
	told := strings.Contains(said, "could not be started here: --dangerously-skip-permissions cannot be used with root")
	if !told {
		rooted.Errorf("describe:\n%s", said)
	}
	w.result("a task in a pod that runs Claude Code as root is not charged, and says why", stockCliCommand, one.State+": "+one.attempts(), "no attempt charged",
		told && !strings.Contains(one.attempts(), "yes"))
}

// stockExamples: what is shown is what is run here.
func (w *world) stockExamples() {
	w.Helper()
	codex := append(slices.Clone(codexCommand[:4]), codexCommand[len(codexCommand)-1])
	for file, command := range map[string][]string{"coding-agent.yaml": claudeCommand, "codex.yaml": codex} {
		shown := strings.NewReplacer(" ", "", "\n", "", `"`, "").Replace(w.example(file))
		if want := "--," + strings.Join(command, ",") + "]"; !strings.Contains(shown, want) {
			w.Errorf("examples/%s does not run %s", file, want)
		}
	}
}

// stockServers starts git://lab/project and the model, http://lab:8080.
func (w *world) stockServers() {
	w.Helper()
	container := func(name string, command ...string) object {
		return object{"name": name, "image": stockImage, "imagePullPolicy": corev1.PullIfNotPresent, "command": command,
			"securityContext": restrictedContainer, "volumeMounts": []object{{"name": "srv", "mountPath": "/srv"}}}
	}
	for _, one := range []object{
		{"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": "lab", "labels": object{"app": "lab"}},
			"spec": object{"automountServiceAccountToken": false, "securityContext": restrictedPod, "terminationGracePeriodSeconds": 0,
				"containers": []object{container("git", "serve", "/srv"), container("model", "modelserver", ":8080")},
				"volumes":    []object{{"name": "srv", "emptyDir": object{}}}}},
		{"apiVersion": "v1", "kind": "Service", "metadata": object{"name": "lab"}, "spec": object{"selector": object{"app": "lab"},
			"ports": []object{{"name": "git", "port": 9418}, {"name": "model", "port": 8080}}}},
	} {
		text, err := json.Marshal(one)
		if err != nil {
			w.Fatal(err)
		}
		w.apply(string(text))
	}
	w.eventually(2*time.Minute, "the git server and the model", func() string {
		if _, err := w.try(20*time.Second, "kubectl", "-n", w.ns, "exec", "lab", "-c", "git", "--", "git", "ls-remote", "--exit-code", "git://localhost/project", "main"); err != nil {
			return err.Error()
		}
		_, err := w.model("GET", "healthz", "")
		return errorText(err)
	})
}

// model is a request to the model server itself, through the API server.
func (w *world) model(method, path, requests string) (string, error) {
	request := clientset.CoreV1().RESTClient().Verb(method).Namespace(w.ns).Resource("services").Name("lab:model").SubResource("proxy").Suffix(path)
	if requests != "" {
		request = request.Param("requests", requests)
	}
	answer, err := request.Timeout(20 * time.Second).DoRaw(w.ctx)
	return string(answer), err
}

type modelStats struct{ Answered, Refused, Hung int }

func (w *world) modelStats() (out modelStats) {
	w.Helper()
	text := w.must(w.model("GET", "stats", ""))
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		w.Fatalf("the model's stats: %v: %s", err, text)
	}
	return out
}
