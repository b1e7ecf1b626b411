// Package scenarios holds the end-to-end tests: each file one scenario on a real Kubernetes, in a namespace of its own,
// side by side with the others. They look at the state of the world as a user would: kubectl, kubectl swarm, the API.
package scenarios

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/e2e-framework/klient"
	"sigs.k8s.io/e2e-framework/klient/conf"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
)

// agentImage is the example agent; base is plain Debian.
var (
	images     = getenv("SWARM_IMAGES", "swarm.local")
	tag        = getenv("SWARM_TAG", "dev")
	agentImage = images + "/example-agent:" + tag
	root       = getenv("SWARM_ROOT", "../..")
	client     klient.Client
	clientset  *kubernetes.Clientset
)

func getenv(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

func full() bool { return os.Getenv("FULL") == "1" }

// small: as a part of `make test`, where scenarios run side by side on whatever machine there is. Smaller numbers, and times
// may be three times the promised ones: what is promised is judged when a scenario is called by its name.
func small() bool { return os.Getenv("SMALL") == "1" }

const smallSlack = 3

// below judges a time and says what the bar was.
func below(took, bar time.Duration) (string, bool) {
	if small() {
		return fmt.Sprintf("< %s (× %d beside other tests)", seconds(bar), smallSlack), took < smallSlack*bar
	}
	return "< " + seconds(bar), took < bar
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.4g s", d.Seconds()) }

func TestMain(m *testing.M) {
	file := os.Getenv("KUBECONFIG")
	if file == "" {
		fmt.Fprintln(os.Stderr, "KUBECONFIG is not set: run these by `make e2e`")
		os.Exit(2)
	}
	config, err := conf.New(file)
	if err == nil {
		config.QPS, config.Burst = 200, 400
		client, err = klient.New(config)
	}
	if err == nil {
		clientset, err = kubernetes.NewForConfig(config)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	// Scenarios wait more than they compute; the default is the number of processors.
	flag.Parse()
	if most := flag.Lookup("test.parallel"); most.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		most.Value.Set("8")
	}
	if err := alone(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// theLab is the lab's command; "" where the cluster is another one, whose nodes and API server are left alone.
func theLab() string {
	if os.Getenv("LAB_AUDIT_LOG") == "" {
		return ""
	}
	return os.Getenv("LAB")
}

// alone waits until no other run uses this machine's cluster: some scenarios stop the operator or the API server. The lock
// ends with the process.
func alone() error {
	file, err := os.OpenFile(filepath.Join(os.TempDir(), "swarm-scenarios.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		return nil
	}
	fmt.Fprintln(os.Stderr, "waiting for another run of the scenarios to end")
	return syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
}

// world is one scenario's namespace and what it does there.
type world struct {
	*testing.T
	ns  string
	ctx context.Context
}

// What fails carries a word that scripts/e2e finds again: go test -json does not tell an error from a remark.
const failed = "error:"

func (w *world) Error(args ...any) {
	w.Helper()
	w.T.Error(append([]any{failed}, args...)...)
}

func (w *world) Errorf(format string, args ...any) {
	w.Helper()
	w.T.Errorf(failed+" "+format, args...)
}

func (w *world) Fatal(args ...any) {
	w.Helper()
	w.T.Fatal(append([]any{failed}, args...)...)
}

func (w *world) Fatalf(format string, args ...any) {
	w.Helper()
	w.T.Fatalf(failed+" "+format, args...)
}

type option func(*corev1.Namespace)

// restricted enforces PodSecurity restricted in the namespace.
func restricted(ns *corev1.Namespace) {
	ns.Labels["pod-security.kubernetes.io/enforce"] = "restricted"
}

func newWorld(t *testing.T, options ...option) *world {
	t.Helper()
	w := &world{T: t, ctx: context.Background(), ns: envconf.RandomName("e2e-"+namespaceWord(t.Name()), 28)}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns, Labels: map[string]string{"swarm-e2e": "true"}}}
	for _, o := range options {
		o(ns)
	}
	if err := client.Resources().Create(w.ctx, ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			w.dump()
		}
		if os.Getenv("KEEP") == "" {
			if err := client.Resources().Delete(w.ctx, ns); err != nil {
				t.Logf("namespace %s stays: %v", w.ns, err)
			}
		}
	})
	// Without it the API server takes no pod. On a busy machine it is made some seconds later.
	w.eventually(time.Minute, "the namespace has its service account", func() string {
		if _, err := clientset.CoreV1().ServiceAccounts(w.ns).Get(w.ctx, "default", metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	return w
}

// namespaceWord makes a test's name, also a subtest's, fit for a namespace with room for a random end.
func namespaceWord(test string) string {
	word := regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(strings.TrimPrefix(test, "Test")), "-")
	return strings.Trim(word[:min(len(word), 17)], "-")
}

// dump keeps what a person would look at after a failure.
func (w *world) dump() {
	dir := filepath.Join(root, "build/log/e2e", w.ns)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.Log(err)
		return
	}
	for file, args := range map[string][]string{
		"swarms.yaml": {"get", "swarms", "-o", "yaml"},
		"pods.txt":    {"get", "pods", "-o", "wide"},
		"pods.yaml":   {"get", "pods", "-o", "yaml"},
		"events.txt":  {"get", "events", "--sort-by=.lastTimestamp"},
		"leases.yaml": {"get", "leases", "-o", "yaml"},
	} {
		out, _ := w.try(30*time.Second, "kubectl", append([]string{"-n", w.ns}, args...)...)
		os.WriteFile(filepath.Join(dir, file), []byte(out), 0o644)
	}
	for _, pod := range w.pods("") {
		out, _ := w.try(30*time.Second, "kubectl", "-n", w.ns, "logs", pod.Name, "--all-containers", "--prefix", "--tail=400")
		os.WriteFile(filepath.Join(dir, pod.Name+".log"), []byte(out), 0o644)
	}
	w.Logf("what was there is in build/log/e2e/%s", w.ns)
}

// try runs a program; its stdout, and an error that holds its stderr.
func (w *world) try(limit time.Duration, name string, args ...string) (string, error) {
	return w.tryIn(limit, "", name, args...)
}

func (w *world) tryIn(limit time.Duration, stdin, name string, args ...string) (string, error) {
	if small() {
		limit *= smallSlack
	}
	ctx, cancel := context.WithTimeout(w.ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = 2 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// exitCode is that of a program run by try: -1 if it had none.
func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		return -1
	}
}

func (w *world) must(out string, err error) string {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
	return out
}

func (w *world) kubectl(args ...string) string {
	w.Helper()
	return w.must(w.try(time.Minute, "kubectl", append([]string{"-n", w.ns}, args...)...))
}

// swarm is `kubectl swarm …` in this namespace.
func (w *world) swarm(args ...string) string {
	w.Helper()
	return w.must(w.trySwarm(args...))
}

func (w *world) trySwarm(args ...string) (string, error) {
	return w.try(3*time.Minute, "kubectl", append([]string{"swarm", "-n", w.ns}, args...)...)
}

func (w *world) submit(swarm, body string, args ...string) string {
	w.Helper()
	return w.must(w.tryIn(3*time.Minute, body, "kubectl", append([]string{"swarm", "-n", w.ns, "submit", swarm, "-"}, args...)...))
}

func (w *world) apply(yaml string) {
	w.Helper()
	w.must(w.tryIn(time.Minute, yaml, "kubectl", "-n", w.ns, "apply", "-f", "-"))
}

// eventually polls until look says "", and fails with its last words.
func (w *world) eventually(limit time.Duration, what string, look func() string) time.Duration {
	w.Helper()
	begin := time.Now()
	last := "never looked"
	if small() {
		limit *= smallSlack
	}
	for time.Since(begin) < limit {
		if last = look(); last == "" {
			return time.Since(begin)
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.Fatalf("%s: not within %s: %s", what, limit, last)
	return 0
}

// example is a file of examples/.
func (w *world) example(file string) string {
	w.Helper()
	text, err := os.ReadFile(filepath.Join(root, "examples", file))
	if err != nil {
		w.Fatal(err)
	}
	return string(text)
}

// patiently repeats what the API server did not answer: it may have much to do.
func (w *world) patiently(what string, call func() error) {
	w.Helper()
	w.eventually(30*time.Second, what, func() string {
		if err := call(); err != nil {
			return err.Error()
		}
		return ""
	})
}

func (w *world) pods(selector string) []corev1.Pod {
	w.Helper()
	var list *corev1.PodList
	w.patiently("the list of pods", func() (err error) {
		list, err = clientset.CoreV1().Pods(w.ns).List(w.ctx, metav1.ListOptions{LabelSelector: selector})
		return err
	})
	return list.Items
}

// live are the pods of a swarm's role that are not going away.
func (w *world) live(swarm, role string) []corev1.Pod {
	w.Helper()
	var out []corev1.Pod
	for _, pod := range w.pods("cfn.dev/swarm=" + swarm + ",cfn.dev/role=" + role) {
		if pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded {
			out = append(out, pod)
		}
	}
	return out
}

func ready(pod corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (w *world) deletePod(name string, grace *int64) {
	w.Helper()
	if err := clientset.CoreV1().Pods(w.ns).Delete(w.ctx, name, metav1.DeleteOptions{GracePeriodSeconds: grace}); err != nil {
		w.Fatal(err)
	}
}

// killEngine ends the sidecar's engine in a pod with SIGKILL; its supervisor lives on.
func (w *world) killEngine(pod string) {
	w.Helper()
	if err := w.tryKillEngine(pod); err != nil {
		w.Fatal(err)
	}
}

func (w *world) tryKillEngine(pod string) error {
	_, err := w.try(30*time.Second, "kubectl", "-n", w.ns, "exec", pod, "-c", "cfn-sidecar", "--", "/bin/sh", "-c",
		`for p in /proc/[0-9]*; do case "$(tr '\0' ' ' <$p/cmdline 2>/dev/null)" in *swarm-sidecar" engine ") kill -9 ${p#/proc/} && exit 0 ;; esac; done; exit 1`)
	return err
}

// inAgent runs a command in the agent's container of the live pod that holds the slot.
func (w *world) inAgent(swarm, slot string, command ...string) (string, error) {
	w.Helper()
	for _, pod := range w.live(swarm, "worker") {
		if pod.Labels["cfn.dev/slot"] == slot {
			return w.try(time.Minute, "kubectl", append([]string{"-n", w.ns, "exec", pod.Name, "-c", "agent", "--"}, command...)...)
		}
	}
	return "", fmt.Errorf("%s has no pod for %s", swarm, slot)
}

// restarts is how often the sidecar of a pod was started again by the kubelet.
func restarts(pod corev1.Pod) int32 {
	for _, status := range pod.Status.InitContainerStatuses {
		if status.Name == "cfn-sidecar" {
			return status.RestartCount
		}
	}
	return -1
}

// killSidecar ends the first process of a pod's sidecar with SIGKILL, from its node: the container ends, its mounts stay.
func (w *world) killSidecar(lab string, pod corev1.Pod) error {
	for _, status := range pod.Status.InitContainerStatuses {
		if id, ok := strings.CutPrefix(status.ContainerID, "containerd://"); ok && status.Name == "cfn-sidecar" {
			_, err := w.try(30*time.Second, lab, "on", pod.Spec.NodeName, "ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", id)
			return err
		}
	}
	return fmt.Errorf("%s has no container cfn-sidecar of containerd", pod.Name)
}

type condition struct{ Type, Status, Reason, Message string }

type swarmObject struct {
	Metadata struct {
		Generation int64
		UID        string
	}
	Status struct {
		ObservedGeneration int64
		Agents             struct{ Desired, Ready, Busy, Stuck int }
		Workers            struct{ Replicas, ReadyReplicas, UpdatedReplicas int }
		Tasks              struct{ Queued, Running, Done, Dead int }
		Usage              struct{ CostUSD string }
		Topology           struct {
			Type         string
			Coordinators int
		}
		Rollout struct {
			Ceiling, Effective, Measured int
			Summary                      string
		}
		Conditions []condition
	}
}

func (w *world) object(swarm string) swarmObject {
	w.Helper()
	// Not kubectl: this is polled, by many at once.
	var data []byte
	w.patiently("swarm "+swarm, func() (err error) {
		data, err = clientset.CoreV1().RESTClient().Get().AbsPath("/apis/cfn.dev/v1alpha1/namespaces/" + w.ns + "/swarms/" + swarm).DoRaw(w.ctx)
		return err
	})
	var out swarmObject
	if err := json.Unmarshal(data, &out); err != nil {
		w.Fatal(err)
	}
	return out
}

func (o swarmObject) condition(kind string) condition {
	for _, c := range o.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return condition{Type: kind}
}

// readySwarm waits until the Swarm as applied is Ready with n agents.
func (w *world) readySwarm(swarm string, n int) time.Duration {
	w.Helper()
	return w.readySwarmIn(90*time.Second, swarm, n)
}

func (w *world) readySwarmIn(limit time.Duration, swarm string, n int) time.Duration {
	w.Helper()
	return w.eventually(limit, swarm+" Ready", func() string {
		o := w.object(swarm)
		c := o.condition("Ready")
		if c.Status == "True" && o.Status.ObservedGeneration == o.Metadata.Generation && o.Status.Agents.Ready == n {
			return ""
		}
		return fmt.Sprintf("%+v", o.Status)
	})
}

var resultsMutex sync.Mutex

// result leaves a line for `make proof`.
func (w *world) result(promise, command string, figure any, bar string, ok bool) {
	w.Helper()
	resultsMutex.Lock()
	defer resultsMutex.Unlock()
	if small() {
		command = "make test"
	}
	line, err := json.Marshal(map[string]any{"promise": promise, "command": command, "figure": fmt.Sprint(figure), "bar": bar, "ok": ok,
		"date": time.Now().UTC().Format(time.DateOnly), "commit": os.Getenv("SWARM_COMMIT")})
	if err != nil {
		w.Fatal(err)
	}
	dir := filepath.Join(root, "build/results")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.Fatal(err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "e2e.jsonl"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		w.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(append(line, '\n')); err != nil {
		w.Fatal(err)
	}
	if !ok {
		w.Errorf("%s: %v, must be %s", promise, figure, bar)
	}
}
