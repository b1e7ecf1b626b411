package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"sort"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// census watches the pods of a namespace, event by event, and remembers the most that lived at the same time: of a slot,
// and of all workers. Live: neither being deleted nor ended.
type census struct {
	mu       sync.Mutex
	live     map[string]string // pod -> slot
	most     int               // workers at once
	twice    []string          // slots with two live pods
	made     int
	deleted  int
	touched  map[string]bool // pods made, and deleted or being deleted
	deadline string
}

func (w *world) census() *census {
	w.Helper()
	c := &census{live: map[string]string{}, touched: map[string]bool{}}
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			list, err := clientset.CoreV1().Pods(w.ns).List(ctx, metav1.ListOptions{})
			if err != nil {
				time.Sleep(20 * time.Millisecond) // the API server is away
				continue
			}
			c.relist(list.Items)
			stream, err := clientset.CoreV1().Pods(w.ns).Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
			if err != nil {
				continue
			}
			for event := range stream.ResultChan() {
				if pod, ok := event.Object.(*corev1.Pod); ok {
					c.see(pod, event.Type == watch.Deleted)
				}
			}
		}
	}()
	w.Cleanup(func() { cancel(); <-done })
	return c
}

func (c *census) relist(pods []corev1.Pod) {
	c.mu.Lock()
	known := c.live
	c.live = map[string]string{}
	c.mu.Unlock()
	for i := range pods {
		c.see(&pods[i], false)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range known {
		if _, still := c.live[name]; !still {
			c.deleted++
			c.touched[name] = true
		}
	}
}

func (c *census) see(pod *corev1.Pod, gone bool) {
	slot := pod.Labels["cfn.dev/slot"]
	if slot == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, known := c.live[pod.Name]
	if gone || pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		if known {
			delete(c.live, pod.Name)
			c.deleted++
			c.touched[pod.Name] = true
		}
		return
	}
	if !known {
		c.made++
	}
	c.live[pod.Name] = slot
	workers := 0
	for other, of := range c.live {
		if strings.HasPrefix(of, "worker-") {
			workers++
		}
		if of == slot && other != pod.Name {
			c.twice = append(c.twice, fmt.Sprintf("%s: %s and %s", slot, other, pod.Name))
		}
	}
	c.most = max(c.most, workers)
}

// reset begins a new count of the most.
func (c *census) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.most, c.made, c.deleted = 0, 0, 0
	for _, slot := range c.live {
		if strings.HasPrefix(slot, "worker-") {
			c.most++
		}
	}
}

func (c *census) counts() (most, made, deleted int, twice []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.most, c.made, c.deleted, append([]string(nil), c.twice...)
}

// ---- the state of the world, without what differs from one run to the next

const ownedKinds = "swarms.cfn.dev,pods,services,secrets,serviceaccounts,roles,rolebindings,leases,poddisruptionbudgets,networkpolicies,persistentvolumeclaims"

// remains says what of a Swarm is still there; at first only its pods, which go last and cost least to ask for.
func (w *world) remains(swarm string) string {
	w.Helper()
	if pods := w.pods("cfn.dev/swarm=" + swarm); len(pods) > 0 {
		return fmt.Sprintf("%d pods", len(pods))
	}
	out, err := w.try(time.Minute, "kubectl", "-n", w.ns, "get", ownedKinds, "-l", "cfn.dev/swarm="+swarm, "-o", "name")
	if err != nil {
		return err.Error()
	}
	return out
}

// state is everything that was made for a Swarm, and the Swarm with its status, one line of JSON per object.
func (w *world) state(swarm string) []string {
	w.Helper()
	var list struct{ Items []map[string]any }
	out := w.must(w.try(time.Minute, "kubectl", "-n", w.ns, "get", ownedKinds, "-o", "json"))
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		w.Fatal(err)
	}
	uid := ""
	for _, o := range list.Items {
		if o["kind"] == "Swarm" && dig(o, "metadata", "name") == swarm {
			uid, _ = dig(o, "metadata", "uid").(string)
		}
	}
	var lines []string
	for _, o := range list.Items {
		label, _ := dig(o, "metadata", "labels", "cfn.dev/swarm").(string)
		if label != swarm && !(o["kind"] == "Swarm" && dig(o, "metadata", "name") == swarm) {
			continue
		}
		if dig(o, "metadata", "deletionTimestamp") != nil {
			continue
		}
		line, err := json.Marshal(normal(o))
		if err != nil {
			w.Fatal(err)
		}
		text := string(line)
		if uid != "" {
			text = strings.ReplaceAll(text, uid, "UID")
			text = strings.ReplaceAll(text, "-link-"+uid[:8], "-link-UID")
		}
		text = strings.ReplaceAll(text, w.ns, "NAMESPACE")
		text = regexp.MustCompile(`\b`+regexp.QuoteMeta(swarm)+`-([cw]\d+)-[0-9a-z]+`).ReplaceAllString(text, swarm+"-$1-HASH")
		text = regexp.MustCompile(`kube-api-access-[0-9a-z]{5}`).ReplaceAllString(text, "kube-api-access-*")
		lines = append(lines, text)
	}
	sort.Strings(lines)
	return lines
}

func dig(value any, path ...string) any {
	for _, key := range path {
		m, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = m[key]
	}
	return value
}

func normal(o map[string]any) map[string]any {
	kind, _ := o["kind"].(string)
	if meta, ok := o["metadata"].(map[string]any); ok {
		for _, key := range []string{"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"} {
			delete(meta, key)
		}
		if notes, ok := meta["annotations"].(map[string]any); ok {
			delete(notes, "kubectl.kubernetes.io/last-applied-configuration")
			delete(notes, "cfn.dev/spec-hash") // of a text with the Swarm's UID
		}
	}
	spec, _ := o["spec"].(map[string]any)
	switch kind {
	case "Pod":
		delete(spec, "nodeName")
		ready := false
		conditions, _ := dig(o, "status", "conditions").([]any)
		for _, c := range conditions {
			ready = ready || dig(c, "type") == "Ready" && dig(c, "status") == "True"
		}
		o["status"] = map[string]any{"phase": dig(o, "status", "phase"), "ready": ready}
	case "Service":
		if spec["clusterIP"] != "None" {
			delete(spec, "clusterIP")
			delete(spec, "clusterIPs")
		}
		delete(o, "status")
	case "Secret":
		data, _ := o["data"].(map[string]any)
		for key, value := range data {
			data[key] = fmt.Sprintf("%d characters", len(fmt.Sprint(value)))
		}
	case "Lease": // its contents are the coordinator's
		delete(o, "spec")
		if meta, ok := o["metadata"].(map[string]any); ok {
			delete(meta, "annotations")
		}
	case "PodDisruptionBudget":
		delete(o, "status")
	case "Swarm":
		conditions, _ := dig(o, "status", "conditions").([]any)
		for _, c := range conditions {
			if m, ok := c.(map[string]any); ok {
				delete(m, "lastTransitionTime")
			}
		}
	}
	return o
}

// difference says what two states do not have in common: for each object its name and where it begins to differ.
func difference(want, got []string) string {
	count := map[string]int{}
	for _, line := range want {
		count[line]++
	}
	for _, line := range got {
		count[line]--
	}
	missing, extra := map[string]string{}, map[string]string{}
	for line, n := range count {
		if n > 0 {
			missing[objectName(line)] = line
		} else if n < 0 {
			extra[objectName(line)] = line
		}
	}
	var out []string
	for name, line := range missing {
		other, both := extra[name]
		if !both {
			out = append(out, name+" is missing")
			continue
		}
		at := 0
		for at < len(line) && at < len(other) && line[at] == other[at] {
			at++
		}
		from := max(0, at-60)
		out = append(out, fmt.Sprintf("%s\n  should be …%s\n  but is    …%s", name, line[from:min(len(line), at+160)], other[from:min(len(other), at+160)]))
	}
	for name := range extra {
		if _, both := missing[name]; !both {
			out = append(out, name+" is too many")
		}
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

func objectName(line string) string {
	var o struct {
		Kind     string
		Metadata struct{ Name string }
	}
	json.Unmarshal([]byte(line), &o)
	return o.Kind + " " + o.Metadata.Name
}
