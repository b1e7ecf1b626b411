package scenarios

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"swarm/e2e/scenarios/messages"
)

const journalCommand = "make e2e SCENARIO=journal"

// TestJournal: all pods of a swarm with journals are deleted at once and without grace, again and again. Whatever was accepted
// before is there afterwards: messages by the agents' own record, tasks by their results.
func TestJournal(t *testing.T) {
	t.Parallel()
	var disks volumes
	t.Cleanup(disks.end) // the last of all
	w := newWorld(t, restricted)
	const agents, workers = 4, 2
	mailbox := object{"sizeLimit": "16Mi", "maxInboxMessages": 100,
		"persistence": object{"type": "Journal", "storageClassName": disks.make(w, agents+workers+2, "32Mi")}}
	r := w.startRecorder("messages_agent.sh", "")
	files := object{"name": "script", "configMap": object{"name": "script"}}
	w.apply(swarmOf{name: "mail", replicas: agents,
		// One log for each agent, whatever pod it is in: attempts go on counting.
		agent: object{"command": []string{"bash", "/script/agent"},
			"env": []object{{"name": "RECORDER", "value": "recorder"}, {"name": "AGENTS", "value": fmt.Sprint(agents)},
				{"name": "LOG", "value": "journal-of-$(CFN_AGENT_ID)"}},
			"volumeMounts": []object{{"name": "script", "mountPath": "/script"}}},
		pod:     object{"volumes": []object{files}},
		workers: object{"taskGraceSeconds": 5},
		spec:    object{"shutdown": object{"drainTimeoutSeconds": 5}, "mailbox": mailbox}}.manifest())
	w.apply(swarmOf{name: "work", replicas: workers, workers: object{"taskGraceSeconds": 5},
		agent: object{"command": []string{"agentctl", "work", "--", "sh", "-c", "sleep 4; exec cat"}},
		spec:  object{"shutdown": object{"drainTimeoutSeconds": 5}, "mailbox": mailbox}}.manifest())
	w.readySwarm("mail", agents)
	w.readySwarm("work", workers)
	w.mailInJournals(r, agents)
	w.tasksInJournals(workers)
}

func (w *world) mailInJournals(r *recorder, agents int) {
	w.Helper()
	rounds, each := 5, 400
	if small() {
		rounds, each = 2, 200
	}
	if full() {
		rounds, each = 15, 1000
	}
	claims := w.claims("mail")
	unread, slowest := 0, time.Duration(0)
	begin := time.Now()
	for round := 1; round <= rounds; round++ {
		var open []string
		w.eventually(3*time.Minute, fmt.Sprintf("%d messages, some of them unread", round*each), func() string {
			r.readAgain()
			if open = r.pending.Open(); r.pending.Accepted < round*each || len(open) < agents {
				return fmt.Sprintf("%d accepted, %d unread", r.pending.Accepted, len(open))
			}
			return ""
		})
		unread += len(open)
		lost := time.Now()
		w.loseAll("mail", agents)
		w.eventually(time.Minute, "what was unread is received", func() string {
			r.readAgain()
			still := map[string]bool{}
			for _, id := range r.pending.Open() {
				still[id] = true
			}
			n := 0
			for _, id := range open {
				if still[id] {
					n++
				}
			}
			if n > 0 {
				return fmt.Sprintf("%d of %d are missing", n, len(open))
			}
			return ""
		})
		slowest = max(slowest, time.Since(lost))
	}
	lasted := time.Since(begin)
	w.kubectl("exec", "recorder", "--", "touch", "/record/stop")
	w.eventually(time.Minute, "everything accepted is received", func() string {
		r.readAgain()
		if open := r.pending.Open(); len(open) > 0 {
			return fmt.Sprintf("%d are not: %s …", len(open), open[0])
		}
		return ""
	})

	report, violations := messages.CheckApart(r.lines, messages.Apart)
	counts := map[messages.Kind]int{}
	for i, v := range violations {
		counts[v.Kind]++
		if i < 20 {
			w.Errorf("%s", v)
		}
	}
	w.Logf("%+v in %.0f s", report, lasted.Seconds())
	w.result(fmt.Sprintf("messages accepted, all pods of their swarm deleted at once %d times without grace: lost", rounds), journalCommand,
		fmt.Sprintf("%d of %d; %d were unread just before", counts[messages.Lost]+report.Excused, report.Accepted, unread), "0",
		counts[messages.Lost]+report.Excused == 0 && report.Accepted >= rounds*each && unread >= rounds*agents)
	w.result("other broken promises in the same record (an attempt twice, torn, phantom, order, late ack)", journalCommand,
		fmt.Sprintf("%d; %d again, %d ordered pairs", len(violations)-counts[messages.Lost], report.Redelivered, report.Ordered), "0",
		len(violations) == counts[messages.Lost] && report.Ordered > 0)
	w.result("from the loss of all pods until everything accepted before is received", journalCommand, fmt.Sprintf("%.1f s at most", slowest.Seconds()), "", true)
	if after := w.claims("mail"); after != claims {
		w.Errorf("the claims are others: %s, %s before", after, claims)
	}
}

func (w *world) tasksInJournals(workers int) {
	w.Helper()
	count := 24
	if small() {
		count = 12
	}
	api := w.taskAPI("work")
	parts := make([]part, count)
	accepted := make([]submission, count)
	for i := range parts {
		parts[i] = part{id: fmt.Sprint("kept-", i), body: fmt.Sprintf("text %d of %s", i, w.ns)}
	}
	each(count, func(i int) { accepted[i] = api.submitPart(parts[i]) })
	for i := range accepted {
		if accepted[i].err != nil {
			w.Fatal(accepted[i].err)
		}
	}
	var now stats
	done := map[string]bool{}
	w.eventually(time.Minute, "some tasks done, some at work, some queued", func() string {
		api.get("v1/stats", nil, &now)
		if now.Tasks.Done < 3 || now.Tasks.Running < workers || now.Tasks.Queued == 0 {
			return fmt.Sprintf("%+v", now.Tasks)
		}
		return ""
	})
	for _, one := range api.tasks() {
		if one.State == "done" {
			done[one.ID] = true
		}
	}
	lost := time.Now()
	w.loseAll("work", workers)
	recovered := time.Since(lost)
	all := api.whole(api.tasks())
	forgotten := 0
	for _, one := range all {
		if done[one.ID] && one.State != "done" {
			forgotten++
		}
	}
	w.result("tasks accepted, all pods of their swarm and its coordinator deleted at once without grace: kept; results forgotten", journalCommand,
		fmt.Sprintf("%d of %d (%d queued, %d at work, %d done); %d", len(all), count, now.Tasks.Queued, now.Tasks.Running, len(done), forgotten), "all; 0",
		len(all) == count && forgotten == 0)
	w.result("from the loss of all pods until the swarm is Ready", journalCommand, fmt.Sprintf("%.1f s", recovered.Seconds()), "", true)

	once, again := 0, 0
	for _, one := range api.allDone(2*time.Minute+time.Duration(4*count)*time.Second, count) {
		ends := 0
		for _, attempt := range one.History {
			if attempt.Reason == "done" {
				ends++
			}
		}
		again += max(0, len(one.History)-1)
		if ends != 1 {
			w.Errorf("%s was done %d times: %+v", one.ID, ends, one.History)
		}
	}
	for i, p := range parts {
		answer, err := api.patient("v1/tasks/" + accepted[i].ID + "/result")
		if err == nil && strings.TrimSpace(string(answer)) == p.body {
			once++
		} else {
			w.Errorf("%s: %q (%v)", p.id, answer, err)
		}
	}
	w.result("of these tasks, with exactly one result", journalCommand, fmt.Sprintf("%d of %d, %d attempts cut short", once, count, again),
		"all", once == count && again > 0)
}

// readAgain waits before: it is called in loops, and each call is a process in the recorder's pod.
func (r *recorder) readAgain() {
	time.Sleep(500 * time.Millisecond)
	r.read()
}

// loseAll deletes every pod of a swarm at once, without grace, and waits until it is Ready with other ones.
func (w *world) loseAll(swarm string, agents int) {
	w.Helper()
	before := map[string]bool{}
	for _, pod := range append(w.live(swarm, "worker"), w.live(swarm, "coordinator")...) {
		before[string(pod.UID)] = true
	}
	if err := clientset.CoreV1().Pods(w.ns).DeleteCollection(w.ctx, metav1.DeleteOptions{GracePeriodSeconds: &graceless},
		metav1.ListOptions{LabelSelector: "cfn.dev/swarm=" + swarm}); err != nil {
		w.Fatal(err)
	}
	w.eventually(2*time.Minute, "all pods of "+swarm+" are others, and ready", func() string {
		pods := append(w.live(swarm, "worker"), w.live(swarm, "coordinator")...)
		for _, pod := range pods {
			if before[string(pod.UID)] || !ready(pod) {
				return pod.Name + " is not"
			}
		}
		if len(pods) != len(before) {
			return fmt.Sprintf("%d of %d pods", len(pods), len(before))
		}
		return ""
	})
	w.readySwarm(swarm, agents)
}

// claims are names and UIDs of a swarm's journals.
func (w *world) claims(swarm string) string {
	w.Helper()
	return w.kubectl("get", "pvc", "-l", "cfn.dev/swarm="+swarm, "--sort-by=.metadata.name", "-o",
		`jsonpath={range .items[*]}{.metadata.name}={.metadata.uid} {end}`)
}

// volumes are those of a test's journals, on each node of the lab.
type volumes struct {
	w      *world
	lab    string
	nodes  []corev1.Node
	folder string
}

// make is the storage class of `count` volumes on each node. A cluster that is not the lab has to bring a default class.
func (v *volumes) make(w *world, count int, size string) string {
	w.Helper()
	lab := theLab()
	storage := clientset.StorageV1().StorageClasses()
	if lab == "" {
		classes, err := storage.List(w.ctx, metav1.ListOptions{})
		if err != nil {
			w.Fatal(err)
		}
		for _, class := range classes.Items {
			if class.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
				return class.Name
			}
		}
		w.Skip("the cluster is not the lab and has no default storage class")
	}
	wait, keep := storagev1.VolumeBindingWaitForFirstConsumer, corev1.PersistentVolumeReclaimRetain
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: w.ns}, Provisioner: "kubernetes.io/no-provisioner",
		VolumeBindingMode: &wait, ReclaimPolicy: &keep}
	if _, err := storage.Create(w.ctx, class, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	nodes, err := clientset.CoreV1().Nodes().List(w.ctx, metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	*v = volumes{w: w, lab: lab, nodes: nodes.Items, folder: "/var/lib/" + w.ns}
	for _, node := range v.nodes {
		script := fmt.Sprintf("for i in $(seq %d); do mkdir -p %s/$i; done", count, v.folder)
		w.must(w.try(30*time.Second, lab, "on", node.Name, "sh", "-c", script))
		for i := range count {
			volume := &corev1.PersistentVolume{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%s-%d", w.ns, node.Name, i+1), Labels: map[string]string{"swarm-e2e": w.ns}},
				Spec: corev1.PersistentVolumeSpec{
					StorageClassName: class.Name, PersistentVolumeReclaimPolicy: keep,
					AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
					PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: fmt.Sprintf("%s/%d", v.folder, i+1)}},
					NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
						MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "kubernetes.io/hostname", Operator: corev1.NodeSelectorOpIn,
							Values: []string{node.Labels["kubernetes.io/hostname"]}}}}}}}}}
			if _, err := clientset.CoreV1().PersistentVolumes().Create(w.ctx, volume, metav1.CreateOptions{}); err != nil {
				w.Fatal(err)
			}
		}
	}
	return class.Name
}

// end is for after the namespace's end: a volume stays as long as a claim has it.
func (v *volumes) end() {
	w := v.w
	if w == nil || os.Getenv("KEEP") != "" {
		return
	}
	for _, step := range [][]string{
		{"wait", "--for=delete", "namespace/" + w.ns, "--timeout=120s"},
		{"delete", "pv", "-l", "swarm-e2e=" + w.ns, "--timeout=60s"},
		{"delete", "storageclass", w.ns},
	} {
		if _, err := w.try(3*time.Minute, "kubectl", step...); err != nil {
			w.Errorf("taking the volumes away: %v", err)
		}
	}
	for _, node := range v.nodes {
		if _, err := w.try(30*time.Second, v.lab, "on", node.Name, "rm", "-rf", v.folder); err != nil {
			w.Error(err)
		}
	}
}
