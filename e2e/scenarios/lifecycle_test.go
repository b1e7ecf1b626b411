package scenarios

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const lifecycleCommand = "make e2e SCENARIO=lifecycle"

// TestLifecycle: what happens to a Swarm between its creation and its deletion, while its agents work.
func TestLifecycle(t *testing.T) {
	t.Parallel()
	all := newWorld(t, restricted)
	// One after the other: the second measures seconds.
	for _, part := range []struct {
		name string
		run  func(*world)
	}{{"life", (*world).life}, {"replace", (*world).replacements}} {
		t.Run(part.name, func(t *testing.T) { part.run(&world{T: t, ns: all.ns, ctx: all.ctx}) })
	}
}

// lifeGrace is longer than anything here takes, on any machine: what ends earlier has been ended.
const lifeGrace = 120

func (w *world) life() {
	l := lifetime{world: w, name: "life"}
	l.explain()
	begin := time.Now()
	w.apply(swarmOf{name: l.name, replicas: 2, agent: object{"command": []string{"agentctl", "work", "--", "sh"}}, // a task is a script
		workers: object{"taskGraceSeconds": lifeGrace, "maxUnavailable": 1}, spec: object{"shutdown": object{"drainTimeoutSeconds": 5}}}.manifest())
	w.readySwarm(l.name, 2)
	l.time("apply to Ready, 2 agents", begin, time.Minute)
	l.api = w.taskAPI(l.name)
	l.scale()
	l.roll()
	l.suspend()
	l.engines()
	l.sidecars()
	l.remove()
}

// replacements: pods that take long to end are replaced at once.
func (w *world) replacements() {
	deaf := []string{"bash", "-c", "trap '' TERM; while :; do sleep 1; done"}
	hold := object{"name": "hold", "image": debian, "imagePullPolicy": "IfNotPresent", "securityContext": restrictedContainer, "command": deaf}
	w.apply(swarmOf{name: "deaf", replicas: 2, agent: object{"command": deaf}, workers: object{"taskGraceSeconds": 20},
		spec: object{"shutdown": object{"drainTimeoutSeconds": 10},
			"coordinator": object{"template": object{"spec": object{"securityContext": restrictedPod, "containers": []object{hold}}}}}}.manifest())
	remove := func(pod corev1.Pod) { w.deletePod(pod.Name, nil) }
	w.replace("deaf", "worker", "deleted", remove)
	w.replace("deaf", "worker", "evicted", w.evict)
	w.replace("deaf", "coordinator", "deleted", remove)
	w.replace("deaf", "coordinator", "evicted", w.evict)
}

func (w *world) evict(pod corev1.Pod) {
	w.Helper()
	w.eventually(30*time.Second, "the eviction of "+pod.Name, func() string {
		err := clientset.CoreV1().Pods(w.ns).EvictV1(w.ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}})
		if apierrors.IsTooManyRequests(err) { // the PodDisruptionBudget has not seen the last replacement yet
			return err.Error()
		}
		if err != nil {
			w.Fatal(err)
		}
		return ""
	})
}

// replace has a ready pod of the role removed and takes the time until another one serves its slot, the old one still ending.
func (w *world) replace(swarm, role, how string, remove func(corev1.Pod)) {
	w.Helper()
	w.readySwarm(swarm, 2)
	pods := w.live(swarm, role)
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	old := pods[0]
	remove(old)
	begin := time.Now()
	var created, took time.Duration
	var fresh corev1.Pod
	w.eventually(time.Minute, "a replacement of "+old.Name, func() string {
		for _, pod := range w.live(swarm, role) {
			if pod.UID != old.UID && pod.Labels["cfn.dev/slot"] == old.Labels["cfn.dev/slot"] {
				if created == 0 {
					created = time.Since(begin)
				}
				if ready(pod) {
					fresh, took = pod, time.Since(begin)
					return ""
				}
			}
		}
		return fmt.Sprintf("not ready; created after %s", created)
	})
	still, err := clientset.CoreV1().Pods(w.ns).Get(w.ctx, old.Name, metav1.GetOptions{})
	ending := err == nil && still.UID == old.UID && still.DeletionTimestamp != nil
	if !ending {
		w.Errorf("%s was gone (%v) when its replacement was ready: this proves nothing", old.Name, err)
	}
	w.Logf("%s %s %s: %s created after %.2f s", role, old.Name, how, fresh.Name, created.Seconds())
	bar, ok := below(took, 5*time.Second)
	w.result(role+" pod "+how+", until its replacement is Ready, the old one still ending", lifecycleCommand,
		fmt.Sprintf("%.1f s", took.Seconds()), bar, ok)
}

type lifetime struct {
	*world
	name string
	api  taskAPI
	sent int // tasks so far
}

func (l *lifetime) time(what string, begin time.Time, bar time.Duration) {
	l.Helper()
	took := time.Since(begin)
	said, ok := below(took, bar)
	l.result(what, lifecycleCommand, fmt.Sprintf("%.1f s", took.Seconds()), said, ok)
}

// submit n tasks that run the script.
func (l *lifetime) tasks(n int, script string) []string {
	l.Helper()
	var ids []string
	for range n {
		l.sent++
		ids = append(ids, l.api.submit(fmt.Sprintf("%s-%d", l.name, l.sent), script).ID)
	}
	return ids
}

// atWork waits until all of the tasks are running.
func (l *lifetime) atWork(ids []string) {
	l.Helper()
	l.eventually(20*time.Second, fmt.Sprint(len(ids), " agents at work"), func() string {
		running := 0
		for _, one := range l.api.tasks() {
			if slices.Contains(ids, one.ID) && one.State == "running" {
				running++
			}
		}
		if running != len(ids) {
			return fmt.Sprintf("%d of %v", running, ids)
		}
		return ""
	})
}

// held are tasks that stay at work until they may end, however slow the machine is.
type held struct {
	ids  []string
	flag string // a file
}

func (l *lifetime) hold(n int) held {
	l.Helper()
	flag := fmt.Sprint("/tmp/enough-", l.sent)
	return held{l.tasks(n, "until [ -e "+flag+" ]; do sleep 0.2; done; echo ok"), flag}
}

// holdAtWork holds as many as there are agents without work.
func (l *lifetime) holdAtWork(n int) held {
	l.Helper()
	h := l.hold(n)
	l.atWork(h.ids)
	return h
}

// end lets them end, in these pods.
func (l *lifetime) end(h held, pods []string) {
	l.Helper()
	errors := make([]error, len(pods))
	each(len(pods), func(i int) {
		_, errors[i] = l.try(time.Minute, "kubectl", "-n", l.ns, "exec", pods[i], "-c", "agent", "--", "touch", h.flag)
	})
	for _, err := range errors {
		if err != nil {
			l.Fatal(err)
		}
	}
}

// agents are the names of the workers' pods.
func (l *lifetime) agents() (names []string) {
	l.Helper()
	for _, pod := range l.live(l.name, "worker") {
		names = append(names, pod.Name)
	}
	return names
}

// harmed counts the tasks so far that had another attempt than the one that did them. A lease that no agent took is none.
func (l *lifetime) harmed(limit time.Duration) (harmed int) {
	l.Helper()
	for _, one := range l.api.allDone(limit, l.sent) {
		h := one.History
		if len(h) != 1 || h[0].Reason != "done" || h[0].ExitCode == nil || *h[0].ExitCode != 0 {
			l.Errorf("task %s was not left alone: %+v", one.ID, h)
			harmed++
		}
	}
	return harmed
}

// explain: kubectl explain has a readable sentence for each field.
func (l *lifetime) explain() {
	l.Helper()
	text := l.kubectl("explain", "swarm.spec.mailbox")
	fields := regexp.MustCompile(`(?m)^  (\w+)\t<[^>]+>.*\n(?:  enum: .*\n)?((?:    .*\n)*)`).FindAllStringSubmatch(text, -1)
	var names []string
	for _, field := range fields {
		names = append(names, field[1])
		if words := len(strings.Fields(field[2])); words < 5 {
			l.Errorf("kubectl explain: %s has %d words:\n%s", field[1], words, text)
		}
	}
	for _, name := range []string{"backpressure", "durability", "maxInboxMessages", "maxMessageBytes", "mountPath", "persistence", "sizeLimit", "spill"} {
		if !slices.Contains(names, name) {
			l.Errorf("kubectl explain says nothing about %s:\n%s", name, text)
		}
	}
	if !strings.Contains(text, "mailbox of each pod") {
		l.Errorf("kubectl explain does not say what a mailbox is:\n%s", text)
	}
}

// scale: 2 -> 10 with both agents at work, 10 -> 3 with six of ten at work.
func (l *lifetime) scale() {
	l.Helper()
	first, two := l.holdAtWork(2), l.agents()
	begin := time.Now()
	l.kubectl("scale", "swarm", l.name, "--replicas=10")
	l.readySwarm(l.name, 10)
	l.time("kubectl scale 2 -> 10, until Ready", begin, time.Minute)
	l.end(first, two)
	l.harmed(30 * time.Second)

	l.eventually(30*time.Second, "ten idle agents in the report", func() string {
		if r := l.report(l.name, 0); len(r.Workers) != 10 || l.busyWorkers(l.name) != 0 {
			return fmt.Sprintf("%+v", r)
		}
		return ""
	})
	six := l.hold(6)
	var busy []string                                                                // pods
	l.eventually(12*time.Second, "six agents at work in the report", func() string { // which is at most 5 s old
		busy = nil
		for _, worker := range l.report(l.name, 0).Workers {
			if worker.Busy {
				busy = append(busy, worker.Pod)
			}
		}
		if len(busy) != 6 {
			return fmt.Sprint(busy)
		}
		return ""
	})
	if len(l.api.tasks()) != l.sent {
		l.Errorf("%d tasks, not %d", len(l.api.tasks()), l.sent)
	}
	begin = time.Now()
	l.kubectl("scale", "swarm", l.name, "--replicas=3")
	l.eventually(30*time.Second, "three live workers", func() string {
		if n := len(l.live(l.name, "worker")); n != 3 {
			return fmt.Sprint(n)
		}
		return ""
	})
	var idleKept []string
	for _, pod := range l.live(l.name, "worker") {
		if !slices.Contains(busy, pod.Name) {
			idleKept = append(idleKept, pod.Name)
		}
	}
	l.result("scale-down 10 -> 3 with 6 busy agents: idle agents kept instead of busy ones", lifecycleCommand, len(idleKept), "0", len(idleKept) == 0)
	l.end(six, busy)
	l.eventually(time.Minute, "three pods", func() string {
		if n := len(l.pods("cfn.dev/swarm=" + l.name + ",cfn.dev/role=worker")); n != 3 {
			return fmt.Sprint(n)
		}
		return ""
	})
	l.time("kubectl scale 10 -> 3, until the others are gone, 3 of them at work until they were chosen", begin, 40*time.Second)
	harmed := l.harmed(10 * time.Second)
	l.readySwarm(l.name, 3)
	l.result("tasks that scaling ended early, of 8 at work", lifecycleCommand, harmed, "0", harmed == 0)
}

// roll changes the agents' image while they work.
func (l *lifetime) roll() {
	l.Helper()
	const replicas, maxUnavailable = 3, 1
	leader := l.live(l.name, "coordinator")[0].UID
	l.tasks(9, "sleep 4; echo ok")
	count := l.tally(l.name)
	begin := time.Now()
	l.kubectl("patch", "swarm", l.name, "--type=json", "-p",
		fmt.Sprintf(`[{"op":"replace","path":"/spec/workers/template/spec/containers/0/image","value":%q}]`, agentImage))
	l.eventually(2*time.Minute, "all agents on the new image", func() string {
		updated := 0
		pods := l.live(l.name, "worker")
		for _, pod := range pods {
			if pod.Spec.Containers[0].Image == agentImage && ready(pod) {
				updated++
			}
		}
		if updated != replicas || len(pods) != replicas {
			return fmt.Sprintf("%d of %d", updated, len(pods))
		}
		return ""
	})
	l.readySwarm(l.name, replicas)
	l.time("rolling change of the image, 3 agents at work", begin, 90*time.Second)
	fewest, most := count.stop()
	ok := fewest >= replicas-maxUnavailable && most <= replicas
	l.result("ready workers during a rolling change of 3 with maxUnavailable 1: fewest; live: most", lifecycleCommand,
		fmt.Sprintf("%d; %d", fewest, most), "at least 2; at most 3", ok)
	if !ok {
		l.Logf("the changes:\n%s", strings.Join(count.changes, "\n"))
	}
	if now := l.live(l.name, "coordinator")[0].UID; now != leader {
		l.Errorf("a change of the workers' image replaced the coordinator")
	}
	harmed := l.harmed(time.Minute)
	l.result("tasks that the rolling change ended early, of 9", lifecycleCommand, harmed, "0", harmed == 0)
}

// suspend with agents at work and a queue, then resume.
func (l *lifetime) suspend() {
	l.Helper()
	uids := func() (out []string) {
		for _, pod := range append(l.live(l.name, "worker"), l.live(l.name, "coordinator")...) {
			out = append(out, string(pod.UID))
		}
		slices.Sort(out)
		return out
	}
	before := uids()
	started := l.holdAtWork(3)
	l.kubectl("patch", "swarm", l.name, "--type=merge", "-p", `{"spec":{"suspend":true}}`)
	l.eventually(30*time.Second, "Suspended", func() string {
		if c := l.object(l.name).condition("Ready"); c.Status != "True" || c.Reason != "Suspended" {
			return fmt.Sprintf("%+v", c)
		}
		return ""
	})
	queued := l.tasks(5, "echo ok") // accepted, not handed out
	l.end(started, l.agents())
	l.eventually(30*time.Second, "the tasks that were at work done", func() string {
		for _, one := range l.api.tasks() {
			if slices.Contains(started.ids, one.ID) && one.State != "done" {
				return one.ID + " is " + one.State
			}
		}
		return ""
	})
	handedOut := 0
	for begin := time.Now(); time.Since(begin) < 8*time.Second; time.Sleep(time.Second) {
		for _, one := range l.api.tasks() {
			if slices.Contains(queued, one.ID) && (one.State != "queued" || one.Attempt > 0) {
				handedOut++
				l.Errorf("suspended, and task %s is %s, attempt %d", one.ID, one.State, one.Attempt)
			}
		}
	}
	if after := uids(); !slices.Equal(before, after) {
		l.Errorf("suspending changed the pods: %v, then %v", before, after)
	}
	l.result("tasks handed out while suspended, 5 queued for 8 s", lifecycleCommand, handedOut, "0", handedOut == 0)
	begin := time.Now()
	l.kubectl("patch", "swarm", l.name, "--type=merge", "-p", `{"spec":{"suspend":false}}`)
	l.harmed(time.Minute)
	l.time("resumed, until the 5 tasks of the queue are done", begin, 30*time.Second)
	l.readySwarm(l.name, 3)
	if after := uids(); !slices.Equal(before, after) {
		l.Errorf("resuming changed the pods: %v, then %v", before, after)
	}
}

// engines: the sidecars' engines of all agents are killed while they are at work, which goes on.
func (l *lifetime) engines() {
	l.Helper()
	working := l.holdAtWork(3)
	for _, pod := range l.live(l.name, "worker") {
		if err := l.tryKillEngine(pod.Name); err != nil {
			l.Fatal(err)
		}
	}
	l.end(working, l.agents())
	harmed := l.harmed(time.Minute)
	l.result("tasks that did not end with their first attempt, since the engine of their agent's sidecar was killed -9", lifecycleCommand, harmed, "0", harmed == 0)
}

// sidecars: the first process of the sidecar of every pod, the coordinator's too, is killed at once, with a queue, agents at
// work and mail that nobody has read: all copies are then in the pods' tmpfs alone.
func (l *lifetime) sidecars() {
	l.Helper()
	lab := theLab()
	if lab == "" {
		l.Log("the cluster is not the lab: nobody kills the sidecars' first processes")
		return
	}
	working := l.holdAtWork(3)
	ids := append(l.tasks(6, "echo ok"), working.ids...)
	pods := append(l.live(l.name, "worker"), l.live(l.name, "coordinator")...)
	from, to := pods[0].Labels["cfn.dev/slot"], pods[1].Labels["cfn.dev/slot"]
	const mails = 5
	for i := range mails {
		l.must(l.inAgent(l.name, from, "agentctl", "send", to, fmt.Sprint("mail ", i), "--timeout=30s"))
	}
	errors := make([]error, len(pods))
	begin := time.Now()
	each(len(pods), func(i int) { errors[i] = l.killSidecar(lab, pods[i]) })
	for _, err := range errors {
		if err != nil {
			l.Fatal(err)
		}
	}
	l.eventually(time.Minute, "the same pods, each with a sidecar that was started again", func() string {
		now := map[string]corev1.Pod{}
		for _, pod := range append(l.live(l.name, "worker"), l.live(l.name, "coordinator")...) {
			now[string(pod.UID)] = pod
		}
		for _, pod := range pods {
			after, found := now[string(pod.UID)]
			if !found {
				l.Fatalf("%s is gone", pod.Name)
			}
			if n := restarts(after) - restarts(pod); n > 1 {
				l.Fatalf("%s: its sidecar was started again %d times", pod.Name, n)
			} else if n == 0 || !ready(after) {
				return fmt.Sprintf("%s: sidecar restarted %d times, before %d; ready: %t", pod.Name, restarts(after), restarts(pod), ready(after))
			}
		}
		return ""
	})
	l.time("first process of every sidecar of a swarm killed -9, until all pods are ready again", begin, 30*time.Second)
	const unsure = 5 // agentctl's exit code for an outcome that is unknown
	var got []string
	for range mails {
		body, err := l.inAgent(l.name, to, "agentctl", "recv", "--wait", "20s", "--ack")
		if err != nil && exitCode(err) != unsure { // received, and the ack may count or not
			l.Error(err)
			break
		}
		got = append(got, strings.TrimSpace(body))
	}
	mail := strings.Join(got, ", ")
	l.result("the same: mail received, of 5 messages that nobody had read", lifecycleCommand, fmt.Sprint(len(got), ": ", mail), "5, in order",
		mail == "mail 0, mail 1, mail 2, mail 3, mail 4")
	l.end(working, l.agents())
	once, cut := 0, map[string]int{}
	for _, one := range l.api.allDone(time.Minute, l.sent) {
		if !slices.Contains(ids, one.ID) {
			continue
		}
		done := 0
		for _, attempt := range one.History {
			if attempt.Reason == "done" {
				done++
			} else {
				cut[attempt.Reason]++
			}
		}
		if done == 1 {
			once++
		} else {
			l.Errorf("task %s: %+v", one.ID, one.History)
		}
	}
	l.result("the same: tasks done exactly once, of 9, 3 at work", lifecycleCommand, fmt.Sprintf("%d; attempts cut short: %v", once, cut), "9", once == len(ids))
}

// remove deletes the Swarm with three tasks at work and four queued.
func (l *lifetime) remove() {
	l.Helper()
	uid := l.object(l.name).Metadata.UID
	before := l.belongings(l.name, uid)
	working := l.hold(7)
	l.eventually(15*time.Second, "four queued, three at work in the report", func() string {
		if tasks := l.report(l.name, 0).Tasks; tasks.Queued != 4 || tasks.Running != 3 {
			return fmt.Sprintf("%+v", tasks)
		}
		return ""
	})
	kinds, agents := kindsOf(before), l.agents()
	for _, kind := range []string{"Lease", "NetworkPolicy", "Pod", "PodDisruptionBudget", "Role", "RoleBinding", "Secret", "Service", "ServiceAccount", "Swarm"} {
		if !slices.Contains(kinds, kind) {
			l.Errorf("the swarm has no %s that carries its label or names it as owner: %v", kind, before)
		}
	}
	begin := time.Now()
	l.kubectl("delete", "swarm", l.name, "--wait=false")
	var event string
	l.eventually(30*time.Second, "the Event SwarmDeleted", func() string {
		event = strings.TrimSpace(l.kubectl("get", "events", "--field-selector=reason=SwarmDeleted,involvedObject.name="+l.name, "-o", `jsonpath={range .items[*]}{.message}{"\n"}{end}`))
		if event == "" {
			return "none"
		}
		return ""
	})
	l.end(working, agents)
	l.result("deleted with 4 tasks queued and 3 at work: what the Event says", lifecycleCommand, event, "4 and 3",
		regexp.MustCompile(`\b4 queued tasks and 3 running\b`).MatchString(event))
	var left []string
	l.eventually(2*time.Minute, "every object gone", func() string {
		if left = l.belongings(l.name, uid); len(left) > 0 {
			time.Sleep(500 * time.Millisecond)
			return strings.Join(left, ", ")
		}
		return ""
	})
	l.time(fmt.Sprintf("Swarm deleted, until its %d objects of %d kinds are gone, agents at work and a grace of %d s", len(before), len(kinds), lifeGrace), begin, time.Minute)
}
