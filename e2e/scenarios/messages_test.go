package scenarios

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"swarm/e2e/scenarios/messages"
)

// TestMessages: agents in pods on both nodes write each other while sidecars are killed -9 and pods deleted; the verdict
// comes from what the agents told a recorder that no fault touches.
func TestMessages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restricted)
	target, kills, deletions, limit := 10_000, 20, 6, 12*time.Minute
	if small() {
		target, kills, deletions = 2_000, 6, 3
	}
	if full() {
		target, kills, deletions, limit = 50_000, 100, 30, time.Hour
	}
	const agents = 12
	r := w.startRecorder("messages_agent.sh", "")
	files := object{"name": "script", "configMap": object{"name": "script"}}
	w.apply(swarmOf{name: "mail", replicas: agents,
		agent: object{"command": []string{"bash", "/script/agent"},
			"env": []object{{"name": "RECORDER", "value": "recorder"}, {"name": "AGENTS", "value": fmt.Sprint(agents)},
				{"name": "POD_UID", "valueFrom": object{"fieldRef": object{"fieldPath": "metadata.uid"}}}},
			"volumeMounts": []object{{"name": "script", "mountPath": "/script"}}},
		pod:     object{"volumes": []object{files}},
		workers: object{"taskGraceSeconds": 5},
		// Sending is one call, receiving two: full inboxes hold the senders back, instead of a backlog that grows.
		spec: object{"shutdown": object{"drainTimeoutSeconds": 10}, "mailbox": object{"maxInboxMessages": 100}},
	}.manifest())
	w.readySwarm("mail", agents)
	if n := w.onNodes("mail"); n < 2 {
		w.Fatalf("the agents are on %d node", n)
	}

	begin := time.Now()
	f := mailFaults{w: w, r: r, swarm: "mail", pods: agents + 1}
	for r.pending.Accepted < target || f.kills < kills || f.deletions < deletions || f.victim != nil {
		if time.Since(begin) > limit {
			w.Errorf("after %s: %d accepted, %d engines killed, %d pods deleted, at work on %s", limit, r.pending.Accepted, f.kills, f.deletions, f.doing())
			break
		}
		time.Sleep(time.Second)
		r.read()
		more := f.deletions < deletions || f.kills < kills || r.pending.Accepted < target
		f.step(w.pods("cfn.dev/swarm=mail"), more, more)
	}
	lasted := time.Since(begin)

	drained := r.drain()
	w.judgeMessages(r, target, lasted, drained, f)
}

// recorder reads what the agents recorded.
type recorder struct {
	w       *world
	offset  int
	rest    string
	lines   []string
	pending messages.Pending
}

// startRecorder starts it on a node ("": any), with the script of the agents beside its own.
func (w *world) startRecorder(agent, node string) *recorder {
	w.Helper()
	script := func(name string) string {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			w.Fatal(err)
		}
		return string(text)
	}
	create := func(o interface {
		metav1.Object
	}, err error) {
		if err != nil {
			w.Fatalf("%s: %v", o.GetName(), err)
		}
	}
	core := clientset.CoreV1()
	maps := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "script"}, Data: map[string]string{
		"agent": script(agent), "recorder.pl": script("messages_recorder.pl")}}
	_, err := core.ConfigMaps(w.ns).Create(w.ctx, maps, metav1.CreateOptions{})
	create(maps, err)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "recorder"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "recorder"}, Ports: []corev1.ServicePort{{Name: "lines", Port: 7000}}}}
	_, err = core.Services(w.ns).Create(w.ctx, service, metav1.CreateOptions{})
	create(service, err)
	yes, no, user := true, false, int64(1000)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "recorder", Labels: map[string]string{"app": "recorder"}}, Spec: corev1.PodSpec{
		AutomountServiceAccountToken: &no,
		SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &user, RunAsGroup: &user, FSGroup: &user,
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers: []corev1.Container{{Name: "recorder", Image: debian, ImagePullPolicy: corev1.PullIfNotPresent,
			Command:         []string{"perl", "/script/recorder.pl"},
			SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			VolumeMounts:    []corev1.VolumeMount{{Name: "record", MountPath: "/record"}, {Name: "script", MountPath: "/script"}}}},
		Volumes: []corev1.Volume{{Name: "record", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "script", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "script"}}}}},
	}}
	if node != "" {
		pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	}
	_, err = core.Pods(w.ns).Create(w.ctx, pod, metav1.CreateOptions{})
	create(pod, err)
	w.eventually(time.Minute, "the recorder", func() string {
		_, err := w.try(20*time.Second, "kubectl", "-n", w.ns, "exec", "recorder", "--", "perl", "-MIO::Socket::INET", "-e",
			`exit !IO::Socket::INET->new(PeerAddr => "127.0.0.1:7000")`)
		if err != nil {
			return err.Error()
		}
		return ""
	})
	r := &recorder{w: w}
	w.Cleanup(func() {
		if w.Failed() {
			dir := filepath.Join(root, "build/log/e2e", w.ns)
			err := os.MkdirAll(dir, 0o755)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, "record.txt"), []byte(strings.Join(r.lines, "\n")+"\n"), 0o644)
			}
			w.Logf("the record is in build/log/e2e/%s/record.txt (%v)", w.ns, err)
		}
	})
	return r
}

// read takes what is new.
func (r *recorder) read() {
	r.w.Helper()
	text, err := r.w.try(time.Minute, "kubectl", "-n", r.w.ns, "exec", "recorder", "--", "tail", "-c", fmt.Sprintf("+%d", r.offset+1), "/record/lines")
	if err != nil {
		r.w.Logf("reading the record, again in a moment: %v", err)
		return
	}
	r.offset += len(text)
	lines := strings.Split(r.rest+text, "\n")
	r.rest = lines[len(lines)-1]
	for _, line := range lines[:len(lines)-1] {
		r.lines = append(r.lines, line)
		r.pending.Add(line)
	}
}

// drain: no faults and no new messages from now on. How long it took until everything accepted was received, and what has to
// come again had come.
func (r *recorder) drain() (drained time.Duration) {
	r.w.Helper()
	over := float64(time.Now().UnixNano()) / 1e9
	r.lines = append(r.lines, fmt.Sprintf("driver driver driver %.6f E - %.6f", over, over))
	r.w.kubectl("exec", "recorder", "--", "touch", "/record/stop")
	stopped, silence := time.Now(), 8*time.Second
	if small() {
		silence /= 2
	}
	for quiet := time.Now(); time.Since(stopped) < time.Minute && time.Since(quiet) < silence; time.Sleep(500 * time.Millisecond) {
		before := len(r.lines)
		r.read()
		if len(r.lines) > before || len(r.pending.Unread()) > 0 {
			quiet, drained = time.Now(), time.Since(stopped)
		}
	}
	r.read()
	return drained
}

// mailFaults kills engines, any at any time, and deletes pods one at a time: what is accepted survives the loss of one pod,
// so the next goes when the last is gone and replaced and everything that had been accepted until then has been received, and
// again where no ack of it was taken.
type mailFaults struct {
	w                        *world
	r                        *recorder
	swarm                    string
	pods                     int                   // of the swarm, its coordinator included
	spared                   func(corev1.Pod) bool // its engine can't be reached now
	kills, missed, deletions int
	lastKill, lastLoss       time.Time
	victim                   *corev1.Pod
	deleted                  map[types.UID]bool
	gone                     bool
	waiting                  []string // accepted before the victim was gone, not received yet
	slowest                  time.Duration
}

func (f *mailFaults) doing() string {
	switch {
	case f.victim == nil:
		return "nothing"
	case !f.gone:
		return "the end and the replacement of " + f.victim.Name
	default:
		return fmt.Sprintf("%d messages that nobody has read since the loss of %s: %s", len(f.waiting), f.victim.Name, strings.Join(f.waiting[:min(5, len(f.waiting))], " "))
	}
}

// step makes what is due, of what may be begun. all: the pods of the swarm.
func (f *mailFaults) step(all []corev1.Pod, lose, kill bool) {
	f.w.Helper()
	var pods []corev1.Pod
	for _, pod := range all {
		if ready(pod) && pod.DeletionTimestamp == nil {
			pods = append(pods, pod)
		}
	}
	if len(pods) == 0 {
		return
	}
	if kill && time.Since(f.lastKill) > 3*time.Second {
		f.lastKill = time.Now()
		if pod := pods[rand.IntN(len(pods))]; f.spared == nil || !f.spared(pod) {
			if err := f.w.tryKillEngine(pod.Name); err != nil {
				f.missed++
				f.w.Logf("no engine killed: %v", err)
			} else {
				f.kills++
			}
		}
	}
	switch {
	case f.victim == nil:
		if lose && time.Since(f.lastLoss) > 5*time.Second && len(pods) == f.pods {
			f.lose(pods)
		}
	case !f.gone:
		f.gone = f.replaced(pods)
		if f.gone {
			f.r.read() // also what was accepted since the last time
			f.waiting = f.r.pending.Unread()
		}
	default:
		open := f.r.pending.Unread()
		f.waiting = slices.DeleteFunc(f.waiting, func(id string) bool {
			_, found := slices.BinarySearch(open, id)
			return !found
		})
		if len(f.waiting) == 0 {
			f.slowest = max(f.slowest, time.Since(f.lastLoss))
			f.victim, f.lastLoss = nil, time.Now()
		}
	}
}

// lose deletes a pod: every fifth a coordinator; one with its grace period, one without, one killed, and so on.
func (f *mailFaults) lose(pods []corev1.Pod) {
	f.w.Helper()
	role := "worker"
	if f.deletions%5 == 2 {
		role = "coordinator"
	}
	pods = slices.DeleteFunc(slices.Clone(pods), func(pod corev1.Pod) bool { return pod.Labels["cfn.dev/role"] != role })
	if len(pods) == 0 {
		return
	}
	victim := pods[rand.IntN(len(pods))]
	fault := taskFault{grace: []*int64{nil, &graceless, &killed}[f.deletions%3]}
	f.w.deletePod(victim.Name, fault.grace)
	f.w.Logf("deleted %s%s with %d accepted", victim.Name, fault.how(), f.r.pending.Accepted)
	f.victim, f.gone, f.lastLoss = &victim, false, time.Now()
	if f.deleted == nil {
		f.deleted = map[types.UID]bool{}
	}
	f.deleted[victim.UID] = true
	f.deletions++
}

// replaced: the victim is no more, and all pods are ready.
func (f *mailFaults) replaced(ready []corev1.Pod) bool {
	f.w.Helper()
	pod, err := clientset.CoreV1().Pods(f.w.ns).Get(f.w.ctx, f.victim.Name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		f.w.Fatal(err)
	}
	return (err != nil || pod.UID != f.victim.UID) && len(ready) == f.pods
}

// judge says what the record shows, and what the calls were answered with beside OK.
func (r *recorder) judge() (report messages.Report, violations map[messages.Kind]int, broken int) {
	r.w.Helper()
	report, found := messages.CheckApart(r.lines, messages.Apart)
	violations = map[messages.Kind]int{}
	for i, v := range found {
		violations[v.Kind]++
		if i < 20 {
			r.w.Errorf("%s", v)
		}
	}
	refusals := map[string]int{}
	for _, line := range r.lines {
		if e, err := messages.Parse(line); err == nil && (e.Op == "F" || e.Op == "U" || e.Op == "X") {
			refusals[e.Op+" "+e.Code]++
		}
	}
	r.w.Logf("%+v; other answers: %v", report, refusals)
	if n := refusals["U 2"] + refusals["X 2"]; n > 0 {
		r.w.Errorf("%d calls were answered with 2: this scenario calls agentctl wrongly", n)
	}
	return report, violations, len(found)
}

func (w *world) judgeMessages(r *recorder, target int, lasted, drained time.Duration, f mailFaults) {
	w.Helper()
	report, counts, broken := r.judge()
	w.Logf("%.0f s; %d engines killed (%d missed), %d pods deleted", lasted.Seconds(), f.kills, f.missed, f.deletions)
	const command = "make e2e SCENARIO=messages"
	w.result("accepted messages that nobody received, sidecars being killed -9 and pods deleted", command,
		fmt.Sprintf("%d of %d; %d kills, %d pods", counts[messages.Lost], report.Accepted, f.kills, f.deletions), "0 of at least "+fmt.Sprint(target),
		counts[messages.Lost] == 0 && report.Accepted >= target)
	w.result("other broken promises in the same record (torn, phantom, duplicate, order, late ack)", command,
		fmt.Sprintf("%d; %d received, %d again, %d ordered pairs, %d unknown", broken-counts[messages.Lost], report.Received, report.Redelivered, report.Ordered, report.Unknown),
		"0", broken == counts[messages.Lost])
	bar, ok := below(drained, time.Minute)
	w.result("everything accepted is received, after the last fault", command, fmt.Sprintf("%.1f s", drained.Seconds()), bar, ok && len(r.pending.Open()) == 0)
	w.result("from a pod's deletion until it is gone and replaced and everything accepted before is received", command, fmt.Sprintf("%.1f s at most", f.slowest.Seconds()), "", true)
	w.result("messages accepted per second, by processes of agentctl on two cores", command, fmt.Sprintf("%.0f", float64(report.Accepted)/lasted.Seconds()), "", true)
}
