package scenarios

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const nodeCommand = "make e2e SCENARIO=node"

// TestNode: a node is switched off with a swarm's coordinator and half of its agents on it, tasks queued and at work. Not
// parallel: whatever else runs on that node goes with it.
func TestNode(t *testing.T) {
	const victim, workers, before, meanwhile = "n2", 6, 150, 12
	lab := theLab()
	if lab == "" {
		t.Skip("the cluster is not the lab: its nodes are left alone")
	}
	w := newWorld(t, restricted)
	hold := object{"name": "hold", "image": debian, "imagePullPolicy": "IfNotPresent", "securityContext": restrictedContainer,
		"command": []string{"sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"}}
	there := object{"nodeAffinity": object{"preferredDuringSchedulingIgnoredDuringExecution": []object{{"weight": 100,
		"preference": object{"matchExpressions": []object{{"key": "kubernetes.io/hostname", "operator": "In", "values": []string{victim}}}}}}}}
	w.apply(swarmOf{name: "words", replicas: workers, agent: object{"command": []string{"agentctl", "work", "--", "sh", "-c", "sleep 1; exec cat"}},
		workers: object{"taskGraceSeconds": 5},
		spec: object{"coordinator": object{"template": object{"spec": object{"securityContext": restrictedPod, "affinity": there,
			"containers": []object{hold}}}}}}.manifest())
	w.readySwarm("words", workers)
	leader := w.live("words", "coordinator")[0]
	on := map[string]int{}
	for _, pod := range w.live("words", "worker") {
		on[pod.Spec.NodeName]++
	}
	if leader.Spec.NodeName != victim || on[victim] == 0 || on[victim] == workers {
		w.Fatalf("the coordinator is on %s, the workers are on %v: this proves nothing", leader.Spec.NodeName, on)
	}
	operatorToo := w.operatorOn(victim)

	api := w.taskAPI("words")
	accepted := make([]submission, before+meanwhile)
	parts := make([]part, len(accepted))
	for i := range parts {
		parts[i] = part{id: fmt.Sprint("node-", i), body: fmt.Sprintf("text %d of %s", i, w.ns)}
	}
	each(before, func(i int) { accepted[i] = api.submitPart(parts[i]) })
	answered := 0
	for i := range before {
		if accepted[i].err != nil {
			w.Fatal(accepted[i].err)
		}
		if accepted[i].Survives == "node" {
			answered++
		}
	}
	var now stats
	running := map[string]int{}
	w.eventually(20*time.Second, "agents at work on both nodes, some tasks done", func() string {
		api.get("v1/stats", nil, &now)
		var agents struct {
			Agents []struct{ Node, Task string }
		}
		api.get("v1/agents", nil, &agents)
		clear(running)
		for _, agent := range agents.Agents {
			if agent.Task != "" {
				running[agent.Node]++
			}
		}
		if running[victim] == 0 || len(running) < 2 || now.Tasks.Done == 0 {
			return fmt.Sprintf("%v, %+v", running, now.Tasks)
		}
		return ""
	})
	if now.Tasks.Queued < 50 {
		w.Errorf("only %d tasks are queued: this proves little", now.Tasks.Queued)
	}

	off := time.Now()
	w.powerOff(lab, victim)
	t.Logf("%s off with the coordinator, %d of %d workers, %d tasks at work there; %d queued, %d done; the operator was there, too: %t",
		victim, on[victim], workers, running[victim], now.Tasks.Queued, now.Tasks.Done, operatorToo)
	// Who submits now repeats until somebody answers.
	var group sync.WaitGroup
	group.Add(1)
	go func() {
		defer group.Done()
		each(meanwhile, func(i int) { accepted[before+i] = api.submitPart(parts[before+i]) })
	}()

	noticed := w.eventually(time.Minute, "the cluster gives the pod up", func() string {
		pod, err := clientset.CoreV1().Pods(w.ns).Get(w.ctx, leader.Name, metav1.GetOptions{})
		if err == nil && pod.UID == leader.UID && pod.DeletionTimestamp == nil {
			return "not yet"
		}
		return ""
	})
	evicted := time.Now()
	var next corev1.Pod
	w.eventually(2*time.Minute, "another coordinator", func() string {
		for _, pod := range w.live("words", "coordinator") {
			if pod.UID != leader.UID && ready(pod) {
				next = pod
				return ""
			}
		}
		return "none ready"
	})
	replaced := time.Since(evicted)
	if next.Spec.NodeName == victim {
		w.Errorf("the next coordinator is on %s", victim)
	}
	bar, quick := below(replaced, 10*time.Second)
	if operatorToo { // it has to come back first, and its Lease to run out
		bar, quick = below(replaced, 60*time.Second)
	}
	w.result("node switched off with the coordinator on it: until another one is Ready, after Kubernetes gave the node's pods up", nodeCommand,
		fmt.Sprintf("%.1f s, %.1f s after the node's end", replaced.Seconds(), (noticed+replaced).Seconds()), bar, quick)
	group.Wait()
	for _, one := range accepted {
		if one.err != nil {
			w.Errorf("submitted while the node was gone: %v", one.err)
		}
	}
	all := api.allDone(3*time.Minute, len(parts))
	t.Logf("all done %.1f s after the node's end", time.Since(off).Seconds())

	byID := map[string]task{}
	for _, one := range all {
		byID[one.ID] = one
	}
	once, repeated := 0, 0
	answers := make([]string, len(parts))
	each(len(parts), func(i int) {
		answer, err := api.patient("v1/tasks/" + accepted[i].ID + "/result")
		if answers[i] = string(answer); err != nil {
			answers[i] = err.Error()
		}
	})
	for i, p := range parts {
		one, found := byID[accepted[i].ID]
		done := 0
		for _, attempt := range one.History {
			if attempt.Reason == "done" {
				done++
			}
		}
		repeated += max(0, len(one.History)-1)
		if found && one.Labels["part"] == p.id && done == 1 && strings.TrimSpace(answers[i]) == p.body {
			once++
		} else {
			w.Errorf("%s was accepted as %+v; there is %+v with the result %q", p.id, accepted[i].submitted, one, answers[i])
		}
	}
	if repeated == 0 {
		w.Errorf("no attempt was cut short by the node's end: this proves nothing")
	}
	w.result("node switched off with a queue: accepted tasks with exactly one result", nodeCommand,
		fmt.Sprintf("%d of %d, %d attempts cut short; %d of %d had been answered survives: node", once, len(parts), repeated, answered, before),
		"all, of all tasks there are", once == len(parts) && len(all) == len(parts) && answered == before)
	w.readySwarm("words", workers)
	t.Logf("all %d agents are ready on one node %.1f s after the other's end", workers, time.Since(off).Seconds())
}

// operatorOn: does the cluster's operator run on the node?
func (w *world) operatorOn(node string) bool {
	w.Helper()
	list, err := clientset.CoreV1().Pods("").List(w.ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=swarm-operator"})
	if err != nil {
		w.Fatal(err)
	}
	for _, pod := range list.Items {
		if pod.Spec.NodeName == node {
			return true
		}
	}
	return false
}

// powerOff switches a node of the lab off. It comes back at the test's end, whatever happens: other scenarios need it.
func (w *world) powerOff(lab, node string) {
	w.Helper()
	w.Cleanup(func() {
		if _, err := w.try(3*time.Minute, lab, "node", "add", node); err != nil {
			w.Error(err)
			return
		}
		w.try(2*time.Minute, "kubectl", "wait", "--for=condition=Ready", "node/"+node, "--timeout=110s")
	})
	w.must(w.try(time.Minute, lab, "node", "poweroff", node))
}
