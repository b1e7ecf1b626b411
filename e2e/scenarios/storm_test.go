package scenarios

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"swarm/e2e/scenarios/messages"
)

const stormCommand = "make e2e SCENARIO=storm"

const (
	stormVictim = "n2" // the node that is cut off; the recorder is on stormSafe
	stormSafe   = "n1"
	linkPort    = "7070"
	// After a node is back, until a pod may be lost: by then every line about what was accepted meanwhile is recorded, or
	// never will be (RECORD_LIMIT of the agents).
	stormSettle = 8 * time.Second
	// Between two kills of containers: each pod has to be ready before one is deleted.
	stormKills = 10 * time.Second
)

// breach takes a node from the others for a while: its cable, or the port of the links alone, in one direction or both.
type breach struct {
	what  string
	begin []string // of `lab node`
	end   []string
	lasts time.Duration
}

func cut(lasts time.Duration) breach {
	return breach{"link broken", []string{"cut", stormVictim, linkPort}, []string{"heal", stormVictim}, lasts}
}

func cutOneWay(lasts time.Duration) breach {
	return breach{"link broken one way", []string{"cut", stormVictim, linkPort, "out"}, []string{"heal", stormVictim}, lasts}
}

func unplug(lasts time.Duration) breach {
	return breach{"node unplugged", []string{"unplug", stormVictim}, []string{"plug", stormVictim}, lasts}
}

// TestStorm: half of the agents send to the other half, from both nodes, while pods are deleted, sidecars killed, a node
// unplugged and the links between the nodes broken. At each moment at most one holder of any message is lost: so nothing
// accepted may be missing. Not parallel: whatever else runs on that node would be cut off, too.
func TestStorm(t *testing.T) {
	lab := theLab()
	if lab == "" {
		t.Skip("the cluster is not the lab: its nodes are left alone")
	}
	w := newWorld(t, restricted)
	agents, target, pause, limit := 100, 200_000, 40*time.Millisecond, 20*time.Minute
	engines, containers, deletions := 80, 25, 15
	breaches := []breach{cut(4 * time.Second), cutOneWay(4 * time.Second), unplug(8 * time.Second), cut(20 * time.Second),
		cutOneWay(20 * time.Second), unplug(40 * time.Second)}
	breaches = append(breaches, breaches...)
	rest := 20 * time.Second
	if small() {
		agents, target, pause, limit = 12, 1_000, 30*time.Millisecond, 2*time.Minute
		engines, containers, deletions = 3, 2, 1
		breaches, rest = []breach{unplug(3 * time.Second), cut(3 * time.Second)}, time.Second
	}
	r := w.startRecorder("storm_agent.pl", stormSafe)
	// A node that is away for long gets its pods evicted, unless they put up with it: here no pod is to end but by us.
	patient := []object{{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
		{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}}
	hold := object{"name": "hold", "image": debian, "imagePullPolicy": "IfNotPresent", "securityContext": restrictedContainer,
		"command": []string{"sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"}}
	w.apply(swarmOf{name: "storm", replicas: agents,
		agent: object{"command": []string{"perl", "/script/agent"},
			"env": []object{{"name": "RECORDER", "value": "recorder"}, {"name": "AGENTS", "value": fmt.Sprint(agents)},
				{"name": "PAUSE_MS", "value": fmt.Sprint(pause.Milliseconds())},
				{"name": "POD_UID", "valueFrom": object{"fieldRef": object{"fieldPath": "metadata.uid"}}}},
			"volumeMounts": []object{{"name": "script", "mountPath": "/script"}}},
		pod:     object{"tolerations": patient, "volumes": []object{{"name": "script", "configMap": object{"name": "script"}}}},
		workers: object{"taskGraceSeconds": 5},
		spec: object{"shutdown": object{"drainTimeoutSeconds": 10},
			"coordinator": object{"template": object{"spec": object{"securityContext": restrictedPod, "tolerations": patient,
				"containers": []object{hold}}}}},
	}.manifest())
	w.readySwarmIn(5*time.Minute, "storm", agents)
	if n := w.onNodes("storm"); n < 2 {
		w.Fatalf("the agents are on %d node", n)
	}
	s := storm{mailFaults: mailFaults{w: w, r: r, swarm: "storm", pods: agents + 1}, lab: lab, rest: rest, done: map[string]int{},
		killed: map[types.UID]int32{}, seen: map[types.UID]string{}, wrong: map[string]bool{}}
	s.spared = func(pod corev1.Pod) bool { return s.unplugged() && pod.Spec.NodeName == stormVictim }
	t.Cleanup(s.calm)

	begin := time.Now()
	for {
		time.Sleep(time.Second)
		r.read()
		s.look(w.pods("cfn.dev/swarm=storm"))
		more := r.pending.Accepted < target
		s.breaches(breaches, more && !small())
		s.killContainer(containers, more)
		s.step(s.all, !s.unplugged() && time.Since(s.plugged) > stormSettle && (s.deletions < deletions || more), s.kills < engines || more)
		if !more && s.victim == nil && s.now == nil && s.kills >= engines && s.containers >= containers && s.deletions >= deletions && s.began >= len(breaches) {
			break
		}
		if time.Since(begin) > limit {
			w.Errorf("after %s: %d accepted, %s, at work on %s", limit, r.pending.Accepted, s.said(), s.doing())
			break
		}
	}
	lasted := time.Since(begin)
	s.calm()
	drained := r.drain()
	s.look(w.pods("cfn.dev/swarm=storm"))
	s.events()
	s.verdict(target, lasted, drained)
}

// storm is what is done to the swarm, and what its pods say of it.
type storm struct {
	mailFaults
	lab        string
	all        []corev1.Pod
	now        *breach
	until      time.Time // of it
	plugged    time.Time // the last time
	rest       time.Duration
	began      int // breaches
	done       map[string]int
	containers int                 // of sidecars, killed
	lastOne    time.Time           // of them
	killed     map[types.UID]int32 // by pod
	seen       map[types.UID]string
	wrong      map[string]bool // what nobody did
}

func (s *storm) said() string {
	words := []string{fmt.Sprintf("%d engines killed (%d missed), %d sidecars' containers, %d pods deleted", s.kills, s.missed, s.containers, s.deletions)}
	for _, what := range slices.Sorted(maps.Keys(s.done)) {
		words = append(words, fmt.Sprintf("%s %d×", what, s.done[what]))
	}
	return strings.Join(words, ", ")
}

func (s *storm) unplugged() bool { return s.now != nil && s.now.begin[0] == "unplug" }

func (s *storm) node(arguments []string) {
	s.w.Helper()
	s.w.must(s.w.try(time.Minute, s.lab, append([]string{"node"}, arguments...)...))
}

// breaches ends the present one when it is time, and begins the next. A node is not unplugged while a pod is being replaced:
// nobody would know what had been accepted there when the pod was lost.
func (s *storm) breaches(list []breach, more bool) {
	s.w.Helper()
	switch {
	case s.now != nil && time.Now().After(s.until):
		s.calm()
	case s.now == nil && time.Since(s.until) > s.rest && (s.began < len(list) || more):
		next := list[s.began%len(list)]
		if next.begin[0] == "unplug" && s.victim != nil {
			return
		}
		s.node(next.begin)
		s.w.Logf("%s for %s with %d accepted", next.what, next.lasts, s.r.pending.Accepted)
		s.now, s.until = &next, time.Now().Add(next.lasts)
		s.began++
		s.done[next.what]++
	}
}

func (s *storm) calm() {
	if s.now == nil {
		return
	}
	if s.unplugged() {
		s.plugged = time.Now()
	}
	s.node(s.now.end)
	s.now, s.until = nil, time.Now()
}

// killContainer ends a sidecar's container from its node; a pod's second one would have to wait for the kubelet.
func (s *storm) killContainer(least int, more bool) {
	s.w.Helper()
	if time.Since(s.lastOne) < stormKills || s.containers >= least && !more {
		return
	}
	var pods []corev1.Pod
	for _, pod := range s.all {
		if ready(pod) && pod.DeletionTimestamp == nil && s.killed[pod.UID] == 0 {
			pods = append(pods, pod)
		}
	}
	if len(pods) == 0 {
		return
	}
	s.lastOne = time.Now()
	pod := pods[rand.IntN(len(pods))]
	s.killed[pod.UID]++ // also if the answer is lost
	if err := s.w.killSidecar(s.lab, pod); err != nil {
		s.w.Logf("no container killed: %v", err)
		return
	}
	s.containers++
}

// look compares the pods with what was done to them.
func (s *storm) look(all []corev1.Pod) {
	s.all = all
	there := map[types.UID]bool{}
	for _, pod := range all {
		there[pod.UID] = true
		s.seen[pod.UID] = pod.Name
		if s.deleted[pod.UID] {
			continue
		}
		if pod.DeletionTimestamp != nil {
			s.amiss("%s is being deleted", pod.Name)
		}
		if pod.Status.Phase == corev1.PodFailed || pod.Status.Reason != "" {
			s.amiss("%s is %s: %s", pod.Name, pod.Status.Phase, pod.Status.Reason)
		}
		if n := restarts(pod); n > s.killed[pod.UID] {
			s.amiss("the sidecar of %s was started %d times more than it was killed", pod.Name, n-s.killed[pod.UID])
		}
		for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if last := status.LastTerminationState.Terminated; last != nil && (status.Name != "cfn-sidecar" || last.Reason == "OOMKilled") {
				s.amiss("%s of %s ended: %s, %d", status.Name, pod.Name, last.Reason, last.ExitCode)
			}
		}
	}
	for uid, name := range s.seen {
		if !there[uid] && !s.deleted[uid] {
			s.amiss("%s is gone", name)
		}
	}
}

func (s *storm) amiss(format string, args ...any) {
	s.wrong[fmt.Sprintf(format, args...)] = true
}

// events of the namespace tell what a look at the pods may have missed.
func (s *storm) events() {
	s.w.Helper()
	var list *corev1.EventList
	s.w.patiently("the events", func() (err error) {
		list, err = clientset.CoreV1().Events(s.w.ns).List(s.w.ctx, metav1.ListOptions{})
		return err
	})
	ends := []string{"Evicted", "TaintManagerEviction", "Preempted", "BackOff", "OOMKilling", "SystemOOM"}
	for _, e := range list.Items {
		if slices.Contains(ends, e.Reason) || e.Reason == "Killing" && strings.Contains(e.Message, "restarted") {
			s.amiss("%s %s: %s", e.InvolvedObject.Name, e.Reason, e.Message)
		}
	}
}

func (s *storm) verdict(target int, lasted, drained time.Duration) {
	s.w.Helper()
	report, violations, broken := s.r.judge()
	lost := violations[messages.Lost]
	figure := fmt.Sprintf("%d of %d; %s", lost, report.Accepted, s.said())
	half := (s.pods - 1) / 2
	s.w.result(fmt.Sprintf("accepted messages that nobody received: %d agents to %d others on two nodes, pods deleted, sidecars killed, a node unplugged, links broken", half, half),
		stormCommand, figure, fmt.Sprintf("0 of at least %d", target), lost == 0 && report.Accepted >= target)
	s.w.result("of these, other broken promises (torn, phantom, duplicate, order, late ack, after the last fault late)", stormCommand,
		fmt.Sprintf("%d; %d received, %d again, %d ordered pairs, %d unknown", broken-lost, report.Received, report.Redelivered, report.Ordered, report.Unknown),
		"0", broken == lost)
	wrong := slices.Sorted(maps.Keys(s.wrong))
	s.w.result("pods evicted, restarted or ended in that time by anybody else", stormCommand, counted(wrong), "0", len(wrong) == 0)
	blind := s.r.blind()
	s.w.result("forged copies of that record (a message lost, torn, handed out twice) that pass", stormCommand, counted(blind), "0", len(blind) == 0)
	bar, ok := below(drained, time.Minute)
	s.w.result("everything accepted is received, after the storm", stormCommand, fmt.Sprintf("%.1f s", drained.Seconds()), bar, ok && len(s.r.pending.Open()) == 0)
	s.w.result("from the deletion of a pod in the storm until everything accepted before is received", stormCommand, fmt.Sprintf("%.1f s at most", s.slowest.Seconds()), "", true)
	word := "PASS"
	if s.w.Failed() {
		word = "FAIL"
	}
	s.w.Logf("storm: %s lost %s in %.0f s", word, figure, lasted.Seconds())
}

// counted: how many, and the first of them.
func counted(list []string) string {
	const shown = 5
	return strings.TrimSuffix(fmt.Sprintf("%d: %s", len(list), strings.Join(list[:min(shown, len(list))], "; ")), ": ")
}

// blind are the forgeries of this very record that the checker does not find.
func (r *recorder) blind() (missed []string) {
	var given, id string // of one message in the middle that was handed out once
	times := map[string]int{}
	var order []string
	first := map[string]string{}
	accepted := map[string]bool{}
	for _, line := range r.lines {
		e, err := messages.Parse(line)
		if err != nil {
			continue
		}
		switch e.Op {
		case "A":
			accepted[e.ID] = true
		case "R":
			if times[e.ID]++; times[e.ID] == 1 {
				order = append(order, e.ID)
				first[e.ID] = line
			}
		}
	}
	for _, one := range order[len(order)/2:] {
		if accepted[one] && times[one] == 1 {
			id, given = one, first[one]
			break
		}
	}
	if id == "" {
		return []string{"no message to forge"}
	}
	of := " " + id + " "
	for kind, forge := range map[messages.Kind]func(line string) []string{
		messages.Lost: func(line string) []string {
			if strings.Contains(line, " R"+of) || strings.Contains(line, " K"+of) {
				return nil
			}
			return []string{line}
		},
		messages.Torn: func(line string) []string {
			if line == given {
				return []string{line[:len(line)-1]}
			}
			return []string{line}
		},
		messages.Twice: func(line string) []string {
			if line == given {
				return []string{line, line}
			}
			return []string{line}
		},
	} {
		var forged []string
		for _, line := range r.lines {
			forged = append(forged, forge(line)...)
		}
		_, violations := messages.Check(forged)
		if !slices.ContainsFunc(violations, func(v messages.Violation) bool { return v.Kind == kind && v.ID == id }) {
			missed = append(missed, string(kind))
		}
	}
	return missed
}
