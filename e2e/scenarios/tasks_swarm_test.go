package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const debian = "debian:12-slim"

type object = map[string]any

// swarmOf is a Swarm as its scenarios need it: workers that keep to PodSecurity restricted, spread over the nodes.
type swarmOf struct {
	name     string
	replicas int
	agent    object // of the container: image, command, …
	pod      object // further fields of the pod's spec
	workers  object // further fields of spec.workers
	spec     object // further fields of spec
}

var (
	restrictedPod       = object{"runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000, "seccompProfile": object{"type": "RuntimeDefault"}}
	restrictedContainer = object{"allowPrivilegeEscalation": false, "capabilities": object{"drop": []string{"ALL"}}}
)

func (s swarmOf) manifest() string {
	agent := object{"name": "agent", "image": debian, "imagePullPolicy": "IfNotPresent", "securityContext": restrictedContainer}
	maps.Copy(agent, s.agent)
	pod := object{
		"automountServiceAccountToken": false,
		"securityContext":              restrictedPod,
		"topologySpreadConstraints": []object{{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
			"labelSelector": object{"matchLabels": object{"cfn.dev/swarm": s.name, "cfn.dev/role": "worker"}}}},
		"containers": []object{agent},
	}
	maps.Copy(pod, s.pod)
	workers := object{"replicas": s.replicas, "template": object{"spec": pod}}
	maps.Copy(workers, s.workers)
	spec := object{"workers": workers}
	maps.Copy(spec, s.spec)
	text, err := json.Marshal(object{"apiVersion": "cfn.dev/v1alpha1", "kind": "Swarm", "metadata": object{"name": s.name}, "spec": spec})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// onNodes is how many nodes a swarm's live workers are on.
func (w *world) onNodes(swarm string) int {
	w.Helper()
	nodes := map[string]bool{}
	for _, pod := range w.live(swarm, "worker") {
		nodes[pod.Spec.NodeName] = true
	}
	return len(nodes)
}

// task is a TASK of docs/task-api.md, as far as the scenarios look at it.
type task struct {
	ID, Key, State, Version, Agent, Pod, Survives, LastOutput string
	Labels                                                    map[string]string
	Attempt                                                   int
	Result                                                    *struct{ Preview string }
	Usage                                                     struct{ CostMicroUSD int64 }
	History                                                   []struct {
		Attempt            int
		Agent, Pod, Reason string
		StartedAt, EndedAt int64
		ExitCode           *int
		Charged            bool
	}
}

// taskAPI speaks to a swarm's coordinators as kubectl swarm does: through the API server's proxy, with the Secret's token.
type taskAPI struct {
	w            *world
	swarm, token string
}

func (w *world) taskAPI(swarm string) taskAPI {
	w.Helper()
	secret, err := clientset.CoreV1().Secrets(w.ns).Get(w.ctx, swarm+"-submit", metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return taskAPI{w, swarm, string(secret.Data["token"])}
}

// call is one request, never repeated; status 0 when nobody answered in time.
func (a taskAPI) call(method, path string, parameters map[string]string, body any) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(a.w.ctx, 15*time.Second)
	defer cancel()
	request := clientset.CoreV1().RESTClient().Verb(method).Namespace(a.w.ns).Resource("services").Name(a.swarm + "-tasks:http").
		SubResource("proxy").Suffix(path).MaxRetries(0)
	if a.token != "" {
		request = request.SetHeader("X-Swarm-Token", a.token)
	}
	for name, value := range parameters {
		request = request.Param(name, value)
	}
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		request = request.SetHeader("Content-Type", "application/json").Body(text)
	}
	status := 0
	result := request.Do(ctx).StatusCode(&status)
	answer, err := result.Raw()
	if err == nil {
		return status, answer, nil
	}
	if status == http.StatusOK || status == http.StatusCreated {
		status = 0 // cut off on the way
	}
	return status, answer, fmt.Errorf("%s %s: %w: %s", method, path, err, answer)
}

// passing: the same request may be answered well in a moment.
func passing(status int) bool {
	return status == 0 || status == http.StatusTooManyRequests || status >= 500
}

// get repeats until it is answered.
func (a taskAPI) get(path string, parameters map[string]string, into any) {
	a.w.Helper()
	var answer []byte
	a.w.eventually(time.Minute, "GET "+path, func() string {
		status, bytes, err := a.call("GET", path, parameters, nil)
		if err != nil {
			if !passing(status) {
				a.w.Fatal(err)
			}
			return err.Error()
		}
		answer = bytes
		return ""
	})
	if text, ok := into.(*string); ok {
		*text = string(answer)
	} else if err := json.Unmarshal(answer, into); err != nil {
		a.w.Fatalf("GET %s: %v: %s", path, err, answer)
	}
}

type submitted struct {
	ID, Survives string
	Mirrors      []string
	Duplicate    bool
}

// submit repeats with the same id until it is accepted.
func (a taskAPI) submit(id, body string) submitted {
	a.w.Helper()
	var out submitted
	a.w.eventually(time.Minute, "submission of "+id, func() string {
		status, answer, err := a.call("POST", "v1/tasks", nil, object{"id": id, "body": body, "labels": object{"id": id}})
		if err == nil {
			err = json.Unmarshal(answer, &out)
		} else if !passing(status) {
			a.w.Fatal(err)
		}
		if err != nil {
			return err.Error()
		}
		return ""
	})
	return out
}

// tasks are all of them, oldest first; a list that says that it lacks some is asked for again.
func (a taskAPI) tasks() []task {
	a.w.Helper()
	for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		all, lacking := a.listed()
		if lacking == "" {
			return all
		}
		if time.Since(begin) > time.Minute {
			a.w.Fatalf("the list of tasks lacks some for a minute: %s", lacking)
		}
	}
}

func (a taskAPI) listed() (all []task, lacking string) {
	a.w.Helper()
	for after := ""; ; {
		var page struct {
			Tasks        []task
			Next         string
			MissingTeams []int
			Recovering   bool
		}
		parameters := map[string]string{"limit": "500"}
		if after != "" {
			parameters["after"] = after
		}
		a.get("v1/tasks", parameters, &page)
		if page.Recovering || len(page.MissingTeams) > 0 {
			return nil, fmt.Sprintf("recovering %v, without an answer teams %v", page.Recovering, page.MissingTeams)
		}
		all = append(all, page.Tasks...)
		if after = page.Next; after == "" {
			return all, ""
		}
	}
}

// whole reads each of the tasks with its history, 16 at a time.
func (a taskAPI) whole(all []task) []task {
	a.w.Helper()
	out := make([]task, len(all))
	errors := make([]error, len(all))
	each(len(all), func(i int) {
		var answer []byte
		if answer, errors[i] = a.patient("v1/tasks/" + all[i].ID); errors[i] == nil {
			errors[i] = json.Unmarshal(answer, &out[i])
		}
	})
	for _, err := range errors {
		if err != nil {
			a.w.Fatal(err)
		}
	}
	return out
}

// patient is a GET that is repeated until it is answered; from any goroutine.
func (a taskAPI) patient(path string) (answer []byte, err error) {
	status := 0
	for begin := time.Now(); time.Since(begin) < 30*time.Second; time.Sleep(100 * time.Millisecond) {
		if status, answer, err = a.call("GET", path, nil, nil); err == nil || !passing(status) {
			break
		}
	}
	return answer, err
}

// each calls work for 0 … n-1, 16 at a time.
func each(n int, work func(i int)) {
	var group sync.WaitGroup
	limit := make(chan struct{}, 16)
	for i := range n {
		group.Add(1)
		limit <- struct{}{}
		go func() {
			defer group.Done()
			defer func() { <-limit }()
			work(i)
		}()
	}
	group.Wait()
}

// allDone waits until every task is done: it fails at the first that never will be.
func (a taskAPI) allDone(limit time.Duration, count int) []task {
	a.w.Helper()
	var all []task
	a.w.eventually(limit, strconv.Itoa(count)+" tasks done", func() string {
		states := map[string]int{}
		all = a.tasks()
		for _, one := range all {
			states[one.State]++
			if one.State == "dead" || one.State == "failed" || one.State == "cancelled" {
				a.get("v1/tasks/"+one.ID, nil, &one)
				a.w.Fatalf("task %s is %s: %+v", one.ID, one.State, one.History)
			}
		}
		if states["done"] == count {
			return ""
		}
		time.Sleep(200 * time.Millisecond)
		return fmt.Sprint(states)
	})
	return a.whole(all)
}

type stats struct {
	Tasks   struct{ Queued, Running, Done, SingleCopy int }
	Rollout struct{ Effective, V1, V2, Measured int }
}

// report is a team's last report, in its Lease.
func (w *world) report(swarm string, team int) (out struct {
	stats
	Ready, Recovering bool
	Workers           map[string]struct {
		Pod  string
		Busy bool
	}
}) {
	w.Helper()
	var lease *coordinationv1.Lease
	w.patiently("the team's Lease", func() (err error) {
		lease, err = clientset.CoordinationV1().Leases(w.ns).Get(w.ctx, fmt.Sprintf("%s-team-%d", swarm, team), metav1.GetOptions{})
		return err
	})
	if text := lease.Annotations["cfn.dev/report"]; text != "" {
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			w.Fatalf("the report of %s: %v: %s", lease.Name, err, text)
		}
	}
	return out
}

func (w *world) busyWorkers(swarm string) int {
	w.Helper()
	busy := 0
	for _, worker := range w.report(swarm, 0).Workers {
		if worker.Busy {
			busy++
		}
	}
	return busy
}
