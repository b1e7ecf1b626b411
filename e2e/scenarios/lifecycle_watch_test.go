package scenarios

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

// tally counts a swarm's workers after every single change that the API server reports, from when it was made until stop.
type tally struct {
	w       *world
	watch   watch.Interface
	ended   chan struct{}
	mutex   sync.Mutex
	pods    map[types.UID]corev1.Pod
	ready   int      // fewest that were ready and not ending
	live    int      // most that were not ending
	changes []string // what happened, for people
	stopped bool
	broken  string
}

func (w *world) tally(swarm string) *tally {
	w.Helper()
	options := metav1.ListOptions{LabelSelector: "cfn.dev/swarm=" + swarm + ",cfn.dev/role=worker"}
	list, err := clientset.CoreV1().Pods(w.ns).List(w.ctx, options)
	if err != nil {
		w.Fatal(err)
	}
	c := &tally{w: w, ended: make(chan struct{}), pods: map[types.UID]corev1.Pod{}}
	for _, pod := range list.Items {
		c.pods[pod.UID] = pod
	}
	c.ready, c.live = c.counts()
	options.ResourceVersion = list.ResourceVersion
	if c.watch, err = clientset.CoreV1().Pods(w.ns).Watch(w.ctx, options); err != nil {
		w.Fatal(err)
	}
	go c.follow()
	return c
}

func (c *tally) counts() (readyNow, live int) {
	for _, pod := range c.pods {
		if pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded {
			live++
			if ready(pod) {
				readyNow++
			}
		}
	}
	return readyNow, live
}

func (c *tally) follow() {
	defer close(c.ended)
	for event := range c.watch.ResultChan() {
		c.mutex.Lock()
		pod, isPod := event.Object.(*corev1.Pod)
		if c.stopped { // what ends a watch is an event, too
			c.mutex.Unlock()
			return
		}
		if !isPod {
			c.broken = fmt.Sprintf("%s %v", event.Type, event.Object)
			c.mutex.Unlock()
			return
		}
		if event.Type == watch.Deleted {
			delete(c.pods, pod.UID)
		} else {
			c.pods[pod.UID] = *pod
		}
		readyNow, live := c.counts()
		c.ready, c.live = min(c.ready, readyNow), max(c.live, live)
		line := fmt.Sprintf("%s %s ready=%v ending=%v: %d ready of %d", event.Type, pod.Name, ready(*pod), pod.DeletionTimestamp != nil, readyNow, live)
		if n := len(c.changes); n == 0 || c.changes[n-1] != line {
			c.changes = append(c.changes, line)
		}
		c.mutex.Unlock()
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if !c.stopped {
		c.broken = "the watch ended early"
	}
}

// stop says the fewest ready and the most live workers that there were at any time.
func (c *tally) stop() (fewestReady, mostLive int) {
	c.w.Helper()
	c.mutex.Lock()
	c.stopped = true
	c.mutex.Unlock()
	c.watch.Stop()
	<-c.ended
	if c.broken != "" {
		c.w.Fatalf("the tally is not complete: %s", c.broken)
	}
	return c.ready, c.live
}

// belongings are all objects of the namespace, of whatever kind, that carry the swarm's label or name it as their owner.
func (w *world) belongings(swarm, uid string) []string {
	w.Helper()
	var lists []*metav1.APIResourceList
	w.patiently("the kinds of objects", func() (err error) {
		lists, err = clientset.Discovery().ServerPreferredNamespacedResources()
		return err
	})
	config := rest.CopyConfig(client.RESTConfig())
	config.WarningHandler = rest.NoWarnings{} // some kinds are deprecated
	reader, err := metadata.NewForConfig(config)
	if err != nil {
		w.Fatal(err)
	}
	var out []string
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			w.Fatal(err)
		}
		for _, resource := range list.APIResources {
			if !slices.Contains(resource.Verbs, "list") {
				continue
			}
			var found *metav1.PartialObjectMetadataList
			w.patiently(resource.Name, func() (err error) {
				found, err = reader.Resource(version.WithResource(resource.Name)).Namespace(w.ns).List(context.Background(), metav1.ListOptions{})
				return err
			})
			for _, item := range found.Items {
				owned := slices.ContainsFunc(item.OwnerReferences, func(o metav1.OwnerReference) bool { return string(o.UID) == uid })
				if owned || item.Labels["cfn.dev/swarm"] == swarm || string(item.UID) == uid {
					out = append(out, resource.Kind+" "+item.Name)
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// kindsOf are the different kinds among belongings.
func kindsOf(belongings []string) []string {
	var out []string
	for _, one := range belongings {
		kind, _, _ := strings.Cut(one, " ")
		out = append(out, kind)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
