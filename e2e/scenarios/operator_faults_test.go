package scenarios

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"swarm/e2e/scenarios/apiproxy"
)

const operatorRole = "swarm-operator"

// The swarm of these tests: agents that end at once, so that what is measured is the operator.
func tinySwarm(replicas int) string {
	return fmt.Sprintf(`
apiVersion: cfn.dev/v1alpha1
kind: Swarm
metadata: {name: s}
spec:
  workers:
    replicas: %d
    maxUnavailable: 100%%
    taskGraceSeconds: 1
    template: {spec: {containers: [{name: agent, image: "debian:12-slim", command: [agentctl, work, --, sh]}]}}
  shutdown: {drainTimeoutSeconds: 1}
`, replicas)
}

// TestOperatorFaults: the operator is killed after its writes, its watches are broken, its leader and its API server go
// away; and what it does when there is nothing to do. Not parallel: it restarts the API server of all.
func TestOperatorFaults(t *testing.T) {
	keepOut(t)
	var mutex sync.Mutex
	runs := map[string]*life{}
	record := func(name string, cut func(phase string, n int) bool) func(*testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			l := livesThrough(t, cut)
			mutex.Lock()
			defer mutex.Unlock()
			runs[name] = l
		}
	}
	// Once in each phase, after a write that is another one in each run of quick mode.
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewSource(seed))
	once := map[string]int{"create": 1 + random.Intn(20), "up": 1 + random.Intn(3), "down": 1 + random.Intn(3), "update": 1 + random.Intn(5), "delete": 1}
	delay := time.Minute
	if small() {
		delay = 4 * time.Second
	}
	still := newSettled(t)
	t.Run("side-by-side", func(t *testing.T) {
		t.Run("nothing-to-do", still.nothingToDo)
		t.Run("unharmed", record("unharmed", func(string, int) bool { return false }))
		t.Run("killed-each", record("killed after each write", func(string, int) bool { return true }))
		t.Run("killed-once", record("killed once in each phase", func(phase string, n int) bool { return once[phase] == n }))
		t.Run("watch-gone", watchFault(apiproxy.Faults{Answer: apiproxy.Gone}, 90*time.Second))
		t.Run("watch-gone-later", watchFault(apiproxy.Faults{Watch: apiproxy.GoneAfter(1)}, 90*time.Second))
		t.Run("watch-garbage", watchFault(apiproxy.Faults{Watch: apiproxy.GarbageAfter(1)}, 90*time.Second))
		t.Run("watch-torn", watchFault(apiproxy.Faults{Watch: apiproxy.TornAfter(1)}, 90*time.Second))
		t.Run("watch-late", watchFault(apiproxy.Faults{Watch: apiproxy.Delayed(delay)}, 60*time.Second+12*delay))
		t.Run("leader-killed", leaderKilled)
	})
	if unharmed := runs["unharmed"]; unharmed != nil && full() {
		most := 0
		for _, n := range unharmed.writes {
			most = max(most, n)
		}
		t.Run("each", func(t *testing.T) {
			for k := 1; k <= most; k++ {
				t.Run(fmt.Sprintf("write-%d", k), record(fmt.Sprintf("killed after write %d of each phase", k), func(_ string, n int) bool { return n == k }))
			}
		})
	}
	compare(t, runs)
	t.Run("api-server-restarted", still.apiServerRestarted)
}

// ---- the life of a swarm under an operator that is killed

var phases = []struct {
	name    string
	workers int
	act     func(w *world)
}{
	{"create", 3, func(w *world) { w.apply(tinySwarm(3)) }},
	{"up", 4, func(w *world) { w.kubectl("scale", "swarm", "s", "--replicas=4") }},
	{"down", 2, func(w *world) { w.kubectl("scale", "swarm", "s", "--replicas=2") }},
	{"update", 2, func(w *world) {
		w.kubectl("patch", "swarm", "s", "--type=merge", "-p", `{"spec":{"workers":{"template":{"metadata":{"annotations":{"example.org/version":"2"}}}}}}`)
	}},
	{"delete", 0, func(w *world) { w.kubectl("delete", "swarm", "s", "--wait=false") }},
}

type life struct {
	states map[string][]string // by phase
	writes map[string]int
	kills  int
	took   time.Duration
	world  *world
}

// livesThrough creates, scales, updates and deletes a swarm under an operator of its own, which is killed with SIGKILL after
// the n-th write of a phase where cut says so, before it sees the answer, and started again.
func livesThrough(t *testing.T, cut func(phase string, n int) bool) *life {
	w := newWorld(t, ownOperator)
	g := newGrounds(w, operatorRole)
	proxy := g.proxy()
	pods := w.census()
	l := &life{states: map[string][]string{}, writes: map[string]int{}, world: w}
	begin := time.Now()

	var mutex sync.Mutex
	var operator *hostOperator
	var killed bool
	phase, last := "", time.Now()
	proxy.Set(apiproxy.Faults{Cut: func(_ int, write apiproxy.Write) bool {
		if write.DryRun { // it writes nothing, and each life begins with it
			return false
		}
		mutex.Lock()
		defer mutex.Unlock()
		l.writes[phase]++
		last = time.Now()
		if !cut(phase, l.writes[phase]) {
			return false
		}
		killed = true
		l.kills++
		operator.cmd.Process.Kill()
		return true
	}})
	// The hook needs the process: no write may come before it is known.
	start := func() {
		mutex.Lock()
		defer mutex.Unlock()
		killed = false
		operator = g.start("one", proxy)
	}
	start()
	for i, p := range phases {
		mutex.Lock()
		phase, last = p.name, time.Now()
		mutex.Unlock()
		pods.reset()
		p.act(w)
		w.eventually(3*time.Minute, p.name, func() string {
			if operator.exited() {
				mutex.Lock()
				wanted := killed
				mutex.Unlock()
				if wanted {
					g.forgetLeader()
					proxy.Open()
					start()
				} else {
					operator = operator.kept()
				}
			}
			if missing := w.reached(p.workers, p.name == "delete"); missing != "" {
				return missing
			}
			mutex.Lock()
			defer mutex.Unlock()
			if quiet := time.Since(last); quiet < 2500*time.Millisecond {
				return "it still writes"
			}
			return ""
		})
		l.states[p.name] = w.state("s")
		bound := p.workers
		if i > 0 {
			bound = max(bound, phases[i-1].workers)
		}
		if most, _, _, twice := pods.counts(); most > bound || len(twice) > 0 {
			w.Errorf("%s: %d workers lived at once, must be at most %d; slots with two pods: %v", p.name, most, bound, twice)
		}
	}
	l.took = time.Since(begin)
	return l
}

// reached says what is missing from a settled swarm of n workers, or from one that is gone.
func (w *world) reached(n int, gone bool) string {
	w.Helper()
	if gone {
		if left := w.remains("s"); left != "" {
			return left
		}
		out, err := w.try(time.Minute, "kubectl", "-n", w.ns, "get", "swarms", "-o", "name")
		if err != nil || out != "" {
			return fmt.Sprint(out, err)
		}
		return ""
	}
	o := w.object("s")
	s := o.Status
	if s.ObservedGeneration == o.Metadata.Generation && o.condition("Ready").Status == "True" && s.Agents.Ready == n && s.Agents.Desired == n &&
		s.Workers.Replicas == n && s.Workers.ReadyReplicas == n && s.Workers.UpdatedReplicas == n {
		return ""
	}
	return fmt.Sprintf("%+v", s)
}

// compare holds the end of each phase of all runs against the run in which nothing happened.
func compare(t *testing.T, runs map[string]*life) {
	unharmed := runs["unharmed"]
	if len(runs) == 0 {
		return // other subtests were asked for
	}
	if unharmed == nil {
		t.Error("the run without faults did not end well: there is nothing to compare with")
		return
	}
	var names []string
	for name := range runs {
		names = append(names, name)
	}
	sort.Strings(names)
	kills, different := 0, 0
	for _, name := range names {
		run := runs[name]
		t.Logf("%-60s %3d kills, writes %v, %s", name, run.kills, run.writes, run.took.Round(time.Second))
		kills += run.kills
		for _, p := range phases {
			if d := difference(unharmed.states[p.name], run.states[p.name]); d != "" {
				different++
				t.Errorf("%s: the state after %s differs:\n%s", name, p.name, d)
			}
		}
	}
	w := &world{T: t}
	w.result("operator killed with kill -9 after any of its API writes: same final state", "make e2e SCENARIO=operator-faults",
		fmt.Sprintf("%d kills, %d of %d states differ", kills, different, len(runs)*len(phases)), "0 differ, more than 20 kills",
		different == 0 && kills > 20)
}

// ---- broken watches

// watchFault creates a swarm, takes a pod away and scales it down, while every watch of the operator is broken.
func watchFault(faults apiproxy.Faults, limit time.Duration) func(*testing.T) {
	return func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, ownOperator)
		g := newGrounds(w, operatorRole)
		proxy := g.proxy()
		proxy.Set(faults)
		pods := w.census()
		operator := g.start("one", proxy)
		name := strings.TrimPrefix(t.Name(), "TestOperatorFaults/side-by-side/")
		w.apply(tinySwarm(3))
		reached := func(n int) string {
			operator = operator.kept()
			return w.reached(n, false)
		}
		created := w.eventually(limit, "three workers", func() string { return reached(3) })
		victim := w.live("s", "worker")[1]
		w.deletePod(victim.Name, nil)
		replaced := w.eventually(limit, "the pod that was deleted is replaced", func() string {
			for _, pod := range w.live("s", "worker") {
				if pod.Labels["cfn.dev/slot"] == victim.Labels["cfn.dev/slot"] && pod.UID != victim.UID && ready(pod) {
					return reached(3)
				}
			}
			operator = operator.kept()
			return "no pod in " + victim.Labels["cfn.dev/slot"]
		})
		w.kubectl("scale", "swarm", "s", "--replicas=2")
		scaled := w.eventually(limit, "two workers", func() string { return reached(2) })
		most, made, _, twice := pods.counts()
		// Coordinator, three workers and the one in place of the victim.
		if made != 5 {
			w.Errorf("%d pods were made, must be 5", made)
		}
		// Nothing happens any more: how much does it ask while its watches are still broken?
		const look = 5 * time.Second
		before := proxy.Requests()
		time.Sleep(look)
		rate := float64(proxy.Requests()-before) / look.Seconds()
		w.result(name+": requests a second of the operator, converged", "make e2e SCENARIO=operator-faults", rate, "at most 10", rate <= 10)
		w.Logf("created in %s, replaced in %s, scaled in %s; at most %d workers at once", created.Round(time.Millisecond*100),
			replaced.Round(time.Millisecond*100), scaled.Round(time.Millisecond*100), most)
		w.result(name+": never more than the 3 workers asked for",
			"make e2e SCENARIO=operator-faults", fmt.Sprintf("%d workers at most, %d slots with two pods", most, len(twice)), "3, 0", most == 3 && len(twice) == 0)
	}
}

// ---- two replicas

func leaderKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ownOperator)
	g := newGrounds(w, operatorRole)
	pods := w.census()
	operators := []*hostOperator{g.start("one", nil), g.start("two", nil)}
	w.apply(tinySwarm(2))
	w.eventually(60*time.Second, "two workers", func() string { return w.reached(2, false) })
	var leader, other *hostOperator
	for i, o := range operators {
		if strings.Contains(g.leader(), o.name) {
			leader, other = o, operators[1-i]
		}
	}
	if leader == nil {
		w.Fatalf("no leader: the Lease is held by %q", g.leader())
	}
	victim := w.live("s", "worker")[0]
	leader.kill()
	begin := time.Now()
	w.deletePod(victim.Name, nil)
	w.eventually(30*time.Second, "the other takes over", func() string {
		for _, pod := range w.live("s", "worker") {
			if pod.Labels["cfn.dev/slot"] == victim.Labels["cfn.dev/slot"] && pod.UID != victim.UID {
				return ""
			}
		}
		return fmt.Sprintf("the Lease is held by %q\n%s", g.leader(), other.end())
	})
	took := time.Since(begin)
	if !strings.Contains(g.leader(), other.name) {
		w.Errorf("the Lease is held by %q, not by %q", g.leader(), other.name)
	}
	bar, ok := below(took, 20*time.Second)
	w.result("leader killed with kill -9: the other replica replaces a pod that was deleted meanwhile", "make e2e SCENARIO=operator-faults",
		took.Round(100*time.Millisecond), bar, ok)
	w.eventually(60*time.Second, "two workers again", func() string { return w.reached(2, false) })
	if most, _, _, twice := pods.counts(); most > 2 || len(twice) > 0 {
		w.Errorf("%d workers lived at once, must be at most 2; slots with two pods: %v", most, twice)
	}
	// One that ends as it should gives the leadership back: its successor need not wait.
	other.cmd.Process.Signal(syscall.SIGTERM)
	if code := other.exits(15 * time.Second); code != 0 {
		w.Errorf("after SIGTERM it exits with %d:\n%s", code, other.end())
	}
	begin = time.Now()
	third := g.start("three", nil)
	w.eventually(15*time.Second, "the next one leads", func() string {
		if strings.Contains(g.leader(), third.name) {
			return ""
		}
		return g.leader() + "\n" + third.end()
	})
	took = time.Since(begin)
	quick, ok := below(took, 5*time.Second)
	w.result("operator ended with SIGTERM: the next one leads", "make e2e SCENARIO=operator-faults", took.Round(100*time.Millisecond), quick, ok)
}

// ---- nothing to do, a new build, an API server that is restarted

// settled is a swarm that runs on while the other tests go on beside it.
type settled struct {
	g        *grounds
	proxy    *apiproxy.Proxy
	pods     *census
	operator *hostOperator
}

func newSettled(t *testing.T) *settled {
	g := newGrounds(newWorld(t, ownOperator), operatorRole)
	s := &settled{g: g, proxy: g.proxy(), pods: g.census()}
	s.operator = g.start("one", s.proxy)
	g.apply(tinySwarm(3))
	return s
}

func (s *settled) nothingToDo(t *testing.T) {
	t.Parallel()
	w := s.g.in(t)
	w.eventually(90*time.Second, "three workers", func() string { return w.reached(3, false) })
	n, since := -1, time.Now()
	w.eventually(60*time.Second, "no writes for 3 s", func() string {
		if now := len(s.proxy.Writes()); now != n {
			n, since = now, time.Now()
		}
		if time.Since(since) < 3*time.Second {
			return fmt.Sprint(s.proxy.Writes())
		}
		return ""
	})
	s.proxy.Open()

	interval := time.Minute
	if small() {
		interval = 15 * time.Second
	}
	audit := os.Getenv("LAB_AUDIT_LOG")
	var offset int64
	var err error
	if audit != "" {
		var made []string
		if made, offset, err = auditedWrites(audit, 0, s.g.user); err != nil {
			w.Fatal(err)
		}
		// It has made a swarm: who sees nothing of that would see nothing afterwards, either.
		if len(made) == 0 {
			w.Errorf("the audit log has no write of %s: it proves nothing", s.g.user)
		}
	}
	time.Sleep(interval) // the one wait that is the test itself
	writes := []string{}
	for _, write := range s.proxy.Writes() {
		writes = append(writes, write.String())
	}
	source := "the proxy"
	if audit != "" {
		source = "the proxy and the audit log"
		audited, _, err := auditedWrites(audit, offset, s.g.user)
		if err != nil {
			w.Fatal(err)
		}
		writes = append(writes, audited...)
	}
	w.result(fmt.Sprintf("converged: writes of the operator in %s, by %s", interval, source), "make e2e SCENARIO=operator-faults",
		len(writes), "0", len(writes) == 0)
	for _, write := range writes {
		w.Log(write)
	}

	// A new build brings another sidecar image: running pods keep theirs.
	pinned := w.kubectl("get", "swarm", "s", "-o", "jsonpath={.status.sidecarImage}")
	s.operator.cmd.Process.Signal(syscall.SIGTERM)
	if code := s.operator.exits(15 * time.Second); code != 0 {
		w.Errorf("after SIGTERM it exits with %d:\n%s", code, s.operator.end())
	}
	s.withoutOperator(w)
	s.proxy.Open()
	s.pods.reset()
	s.operator = s.g.start("next", s.proxy, "--sidecar-image", images+"/swarm-sidecar:next")
	w.eventually(30*time.Second, "the new build leads", func() string {
		if strings.Contains(s.g.leader(), "next") {
			return ""
		}
		return s.g.leader() + "\n" + s.operator.end()
	})
	time.Sleep(8 * time.Second) // as long as a plan could possibly take
	var podWrites []string
	for _, write := range s.proxy.Writes() {
		if strings.Contains(write.Path, "/pods") {
			podWrites = append(podWrites, write.String())
		}
	}
	_, made, deleted, _ := s.pods.counts()
	w.result("new operator build over a running swarm: pod writes", "make e2e SCENARIO=operator-faults", len(podWrites), "0",
		len(podWrites) == 0 && made == 0 && deleted == 0)
	for _, write := range podWrites {
		w.Log(write)
	}
	if now := w.kubectl("get", "swarm", "s", "-o", "jsonpath={.status.sidecarImage}"); now != pinned {
		w.Errorf("status.sidecarImage became %s, was %s", now, pinned)
	}
}

// withoutOperator: tasks are accepted and done while there is no operator.
func (s *settled) withoutOperator(w *world) {
	w.Helper()
	const tasks = 12
	api := w.taskAPI("s")
	begin := time.Now()
	for i := range tasks {
		api.submit(fmt.Sprint("alone-", i), "echo ok")
	}
	done := api.allDone(time.Minute, tasks)
	if !s.operator.exited() || s.g.leader() != "" {
		w.Errorf("there was an operator all the same: the Lease is held by %q", s.g.leader())
	}
	w.result("no operator: tasks submitted then and done", "make e2e SCENARIO=operator-faults",
		fmt.Sprintf("%d in %s", len(done), seconds(time.Since(begin).Round(100*time.Millisecond))), fmt.Sprint(tasks), len(done) == tasks)
}

func (s *settled) apiServerRestarted(t *testing.T) {
	w := s.g.in(t)
	lab := theLab()
	if lab == "" {
		t.Skip("the cluster is not the lab: its API server is left alone")
	}
	w.eventually(90*time.Second, "three workers", func() string { return w.reached(3, false) })
	before := map[string]bool{}
	for _, pod := range w.pods("cfn.dev/swarm=s") {
		before[string(pod.UID)] = true
	}
	s.pods.reset()
	// Each task also writes another agent: a task is done only if the message was accepted.
	const script = `set -e; to=worker-0; [ "$CFN_AGENT_ID" != $to ] || to=worker-1
agentctl send "$to" "$SWARM_TASK_ID" >/dev/null 2>&1; sleep 0.3; echo ok`
	const queued, least = 160, 10
	api := w.taskAPI("s")
	earlier := len(api.tasks())
	accepted := make([]submission, queued)
	each(queued, func(i int) { accepted[i] = api.submitPart(part{id: fmt.Sprint("away-", i), body: script}) })
	for _, one := range accepted {
		if one.err != nil {
			w.Fatal(one.err)
		}
	}
	pid, err := os.ReadFile(filepath.Join(os.Getenv("LAB_DIR"), "run/cp/kube-apiserver.pid"))
	if err != nil {
		w.Fatal(err)
	}
	w.must(w.try(time.Minute, lab, "on", "cp", "kill", "-KILL", strings.TrimSpace(string(pid))))
	away := time.Now()
	time.Sleep(4 * time.Second) // nothing can be asked now: what was done meanwhile is in the tasks' histories
	if _, err := clientset.CoreV1().Pods(w.ns).List(w.ctx, metav1.ListOptions{}); err == nil {
		w.Errorf("the API server answers: this proves nothing")
	}
	until := time.Now()
	w.must(w.try(time.Minute, lab, "restart", "cp", "kube-apiserver"))
	back := w.eventually(60*time.Second, "the API server is back", func() string {
		if _, err := clientset.CoreV1().Pods(w.ns).List(w.ctx, metav1.ListOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	victim := w.live("s", "worker")[2]
	w.deletePod(victim.Name, nil)
	begin := time.Now()
	w.eventually(45*time.Second, "a pod deleted after it is replaced", func() string {
		s.operator = s.operator.kept()
		for _, pod := range w.live("s", "worker") {
			if pod.Labels["cfn.dev/slot"] == victim.Labels["cfn.dev/slot"] && pod.UID != victim.UID {
				return ""
			}
		}
		return s.operator.end()
	})
	took := time.Since(begin)
	w.eventually(60*time.Second, "three workers", func() string { return w.reached(3, false) })
	fresh := 0
	for _, pod := range w.pods("cfn.dev/swarm=s") {
		if !before[string(pod.UID)] {
			fresh++
		}
	}
	during := 0
	for _, one := range api.allDone(2*time.Minute, earlier+queued) {
		for _, attempt := range one.History {
			if attempt.Reason == "done" && time.UnixMilli(attempt.StartedAt).After(away) && time.UnixMilli(attempt.EndedAt).Before(until) {
				during++
			}
		}
	}
	w.result("API server away for 4 s: tasks handed out and done meanwhile, each with a message accepted by another agent", "make e2e SCENARIO=operator-faults",
		during, fmt.Sprint("at least ", least), during >= least)
	most, _, _, twice := s.pods.counts()
	w.result("API server restarted: a pod deleted at once afterwards is replaced, nothing else is touched", "make e2e SCENARIO=operator-faults",
		fmt.Sprintf("back after %s, replaced in %s, %d new pods, at most %d workers", back.Round(100*time.Millisecond), took.Round(100*time.Millisecond), fresh, most),
		"1 new pod, at most 3 workers, < 20 s", fresh == 1 && most <= 3 && len(twice) == 0 && took < 20*time.Second)
}
