package scenarios

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"swarm/e2e/scenarios/apiproxy"
)

// refusals collects what was refused, by whom, and in which words: the table at the end.
type refusals struct {
	mu   sync.Mutex
	rows [][3]string
}

func (r *refusals) add(by, what, words string) {
	cut := func(text string, most int) string {
		text = temporary.ReplaceAllString(strings.Join(strings.Fields(text), " "), "")
		if runes := []rune(text); len(runes) > most {
			text = string(runes[:most-1]) + "…"
		}
		return text
	}
	what, words = cut(what, 60), cut(words, 160)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, [3]string{by, what, words})
}

// temporary are folders of the test.
var temporary = regexp.MustCompile(`/[^ "]*/Test[^ "/]*/\d+/`)

func (r *refusals) table() string {
	var out bytes.Buffer
	columns := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(columns, "\nREFUSED BY\tWHAT\tWORDS")
	for _, row := range r.rows {
		fmt.Fprintf(columns, "%s\t%s\t%s\n", row[0], row[1], row[2])
	}
	columns.Flush()
	return out.String()
}

// TestBadInput: wrong manifests, clusters that say no, wrong settings and wrong command lines. Each is refused with what
// is wrong and what to do instead, and leaves nothing half-made.
func TestBadInput(t *testing.T) {
	t.Parallel()
	keepOut(t)
	var told refusals
	t.Run("all", func(t *testing.T) {
		t.Run("manifests", func(t *testing.T) { t.Parallel(); wrongManifests(newWorld(t), &told) })
		for _, c := range refusedByCluster {
			t.Run(c.name, func(t *testing.T) { t.Parallel(); c.run(t, &told) })
		}
		t.Run("change-to-wrong", func(t *testing.T) { t.Parallel(); changedToWrong(newWorld(t), &told) })
		t.Run("programs", func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			for _, c := range wrongCalls(w) {
				c.run(w, &told)
			}
		})
		for _, c := range badClusters {
			t.Run(c.name, func(t *testing.T) { t.Parallel(); c.run(t, &told) })
		}
	})
	t.Log(told.table())
	w := &world{T: t}
	w.result("wrong input refused with what is wrong and what is allowed", "make e2e SCENARIO=bad-input", len(told.rows), "all, at least 100",
		!t.Failed() && len(told.rows) >= 100)
}

// ---- the API server alone: schema and rules of the CRD

func wrongManifests(w *world, told *refusals) {
	files, err := filepath.Glob(filepath.Join(root, "crds/test/wrong-*.yaml"))
	if err != nil || len(files) < 20 {
		w.Fatalf("%d manifests in crds/test: %v", len(files), err)
	}
	for _, file := range files {
		manifest, err := os.ReadFile(file)
		if err != nil {
			w.Fatal(err)
		}
		first, _, _ := strings.Cut(string(manifest), "\n")
		expected, found := strings.CutPrefix(first, "# expect: ")
		if !found {
			w.Errorf("%s: its first line is not '# expect: TEXT'", file)
			continue
		}
		// As kubectl create --dry-run=server sends it.
		err = clientset.CoreV1().RESTClient().Post().AbsPath("/apis/cfn.dev/v1alpha1/namespaces/"+w.ns+"/swarms").
			Param("dryRun", "All").Param("fieldValidation", "Strict").
			SetHeader("Content-Type", "application/yaml").Body(manifest).Do(w.ctx).Error()
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		switch {
		case err == nil:
			w.Errorf("%s was taken", name)
		case !strings.Contains(err.Error(), expected):
			w.Errorf("%s: expected %s\ngot %v", name, expected, err)
		default:
			told.add("API server", name, expected)
		}
	}
}

// ---- what only the cluster can say

// clusterCase is a Swarm that the API server takes and the cluster does not.
type clusterCase struct {
	name     string
	options  []option
	objects  string // made before the Swarm
	replicas int    // 0: one
	spec     string // of the pod, YAML in flow style
	kind     string // of the condition that says so
	reason   string
	words    []string // in its message
	pods     int      // that may stay, at most
	slow     bool     // wait longer: the kubelet's backoff is in between
}

const plain = `image: "debian:12-slim", command: [agentctl, work, --, cat]`

func container(more string) string { return "{containers: [{name: agent, " + plain + more + "}]}" }

var refusedByCluster = []clusterCase{
	{name: "pod-security", options: []option{restricted}, spec: container(", securityContext: {privileged: true}"),
		kind: "Stalled", reason: "PodRefused", words: []string{`violates PodSecurity "restricted`, "privileged"}},
	{name: "unknown-field-of-container", spec: container(", imagePullPolcy: Always"),
		kind: "Stalled", reason: "PodRefused", words: []string{`unknown field "spec.containers[0].imagePullPolcy"`}},
	{name: "unknown-field-of-pod", spec: "{containers: [{name: agent, " + plain + "}], toleration: []}",
		kind: "Stalled", reason: "PodRefused", words: []string{`unknown field "spec.toleration"`}},
	{name: "text-for-a-number", spec: container(", ports: [{containerPort: http}]"),
		kind: "Stalled", reason: "PodRefused", words: []string{"containerPort", "string"}},
	{name: "quantity", spec: container(", resources: {limits: {memory: 1Gigabyte}}"),
		kind: "Stalled", reason: "PodRefused", words: []string{"quantities must match"}},
	{name: "request-above-limit", spec: container(", resources: {requests: {memory: 2Gi}, limits: {memory: 1Gi}}"),
		kind: "Stalled", reason: "PodRefused", words: []string{"spec.containers[0].resources.requests", "must be less than or equal to memory limit"}},
	{name: "volume-missing", spec: container(", volumeMounts: [{name: data, mountPath: /data}]"),
		kind: "Stalled", reason: "PodRefused", words: []string{"volumeMounts[", `Not found: "data"`}},
	{name: "service-account-missing", spec: "{serviceAccountName: nobody, containers: [{name: agent, " + plain + "}]}",
		kind: "Stalled", reason: "PodRefused", words: []string{"error looking up service account", "nobody"}},
	{name: "priority-class-missing", spec: "{priorityClassName: golden, containers: [{name: agent, " + plain + "}]}",
		kind: "Stalled", reason: "PodRefused", words: []string{"no PriorityClass with name golden"}},
	{name: "runtime-class-missing", spec: "{runtimeClassName: golden, containers: [{name: agent, " + plain + "}]}",
		kind: "Stalled", reason: "PodRefused", words: []string{`RuntimeClass "golden" not found`}},
	{name: "limit-range", objects: "{apiVersion: v1, kind: LimitRange, metadata: {name: small}, spec: {limits: [{type: Container, max: {memory: 512Mi}}]}}",
		spec: container(", resources: {limits: {memory: 1Gi}}"),
		kind: "Stalled", reason: "PodRefused", words: []string{"maximum memory usage per Container is 512Mi"}},
	{name: "quota-without-limits", objects: "{apiVersion: v1, kind: ResourceQuota, metadata: {name: strict}, spec: {hard: {limits.cpu: '4'}}}",
		spec: container(""), kind: "Stalled", reason: "PodRefused", words: []string{"failed quota: strict", "must specify limits.cpu"}},
	{name: "quota", objects: "{apiVersion: v1, kind: ResourceQuota, metadata: {name: few}, spec: {hard: {pods: '2'}}}",
		replicas: 5, spec: container(""), pods: 2,
		kind: "Reconciling", reason: "QuotaExceeded", words: []string{"exceeded quota: few", "raise the quota or lower spec.workers.replicas"}},
	{name: "name-taken", objects: "{apiVersion: v1, kind: Service, metadata: {name: wrong-tasks}, spec: {ports: [{port: 80}]}}",
		spec: container(""), kind: "Reconciling", reason: "NameTaken", words: []string{"Service wrong-tasks", "not this Swarm's"}},
	{name: "unschedulable", spec: "{nodeSelector: {disk: golden}, containers: [{name: agent, " + plain + "}]}", pods: 2,
		kind: "Reconciling", reason: "Unschedulable", words: []string{"worker-0", "node affinity/selector"}},
	{name: "image", spec: `{containers: [{name: agent, image: "swarm.local/no-such-agent:1", command: [agentctl, work, --, cat]}]}`, pods: 2,
		kind: "Reconciling", reason: "ImagePullFailed", words: []string{"worker-0", "container agent", "ErrImagePull", "swarm.local/no-such-agent:1", "check the image's name"}},
	{name: "secret-missing", spec: container(", envFrom: [{secretRef: {name: claude}}]"), pods: 2,
		kind: "Reconciling", reason: "ContainerConfigError", words: []string{"worker-0", `secret "claude" not found`}},
	{name: "program-missing", spec: `{containers: [{name: agent, image: "debian:12-slim", command: [no-such-program]}]}`, pods: 2, slow: true,
		kind: "Reconciling", reason: "ContainerConfigError", words: []string{"worker-0", "no-such-program", "executable file not found"}},
	{name: "agent-crashes", spec: `{containers: [{name: agent, image: "debian:12-slim", command: [sh, -c, "exit 3"]}]}`, pods: 2, slow: true,
		kind: "Reconciling", reason: "CrashLooping", words: []string{"worker-0", "container agent ended with exit code 3", "kubectl logs", "--previous"}},
	{name: "agent-exits", spec: `{containers: [{name: agent, image: "debian:12-slim", command: ["true"]}]}`, pods: 2, slow: true,
		kind: "AgentExits", reason: "ExitedWithZero", words: []string{"worker-0", "container agent", "exit code 0", "command: [agentctl, work, --, PROGRAM"}},
}

func (c clusterCase) swarm(name string) string {
	return fmt.Sprintf(`
apiVersion: cfn.dev/v1alpha1
kind: Swarm
metadata: {name: %s}
spec:
  workers: {replicas: %d, taskGraceSeconds: 1, template: {spec: %s}}
  shutdown: {drainTimeoutSeconds: 1}
`, name, max(c.replicas, 1), c.spec)
}

func (c clusterCase) run(t *testing.T, told *refusals) {
	w := newWorld(t, c.options...)
	if c.objects != "" {
		w.apply(c.objects)
	}
	if strings.HasPrefix(c.name, "quota") {
		w.eventually(30*time.Second, "the quota is counted", func() string {
			if w.kubectl("get", "resourcequota", "-o", "jsonpath={.items[0].status.hard}") == "" {
				return "not yet"
			}
			return ""
		})
	}
	w.apply(c.swarm("wrong"))
	limit := 45 * time.Second
	if c.slow {
		limit = 100 * time.Second
	}
	var message string
	w.eventually(limit, c.kind+" "+c.reason, func() string {
		o := w.object("wrong")
		got := o.condition(c.kind)
		if got.Status != "True" || got.Reason != c.reason {
			return fmt.Sprintf("%+v", o.Status.Conditions)
		}
		for _, word := range c.words {
			if !strings.Contains(got.Message, word) {
				return fmt.Sprintf("%q is not in: %s", word, got.Message)
			}
		}
		if !strings.Contains(got.Message, "Next: ") {
			return "no remedy (Next: …) in: " + got.Message
		}
		message = got.Message
		return ""
	})
	// An agent that ends and is started again is ready for the moment it runs.
	w.eventually(30*time.Second, "Ready is not True", func() string {
		if ready := w.object("wrong").condition("Ready"); ready.Status == "True" {
			return fmt.Sprintf("%+v", ready)
		}
		return ""
	})
	if pods := w.pods("cfn.dev/swarm=wrong"); len(pods) > c.pods {
		w.Errorf("%d pods, must be at most %d", len(pods), c.pods)
	}
	w.nothingLeft("wrong")
	told.add(map[bool]string{true: "Stalled", false: "condition " + c.kind}[c.kind == "Stalled"], c.name, message)
}

// nothingLeft deletes the Swarm and waits until everything that was made for it has gone.
func (w *world) nothingLeft(swarm string) {
	w.Helper()
	w.kubectl("delete", "swarm", swarm, "--wait=false")
	w.eventually(60*time.Second, "nothing is left of "+swarm, func() string { return w.remains(swarm) })
}

// changedToWrong: a running swarm is changed to something that is refused; its pods stay, and a correction is taken.
func changedToWrong(w *world, told *refusals) {
	right := clusterCase{replicas: 2, spec: container("")}
	w.apply(right.swarm("right"))
	w.readySwarm("right", 2)
	uids := func() string {
		var out []string
		for _, pod := range w.pods("cfn.dev/swarm=right") {
			if pod.DeletionTimestamp != nil {
				out = append(out, "ending")
			}
			out = append(out, string(pod.UID))
		}
		return strings.Join(out, " ")
	}
	before := uids()
	wrong := clusterCase{replicas: 2, spec: container(", imagePullPolcy: Always")}
	w.apply(wrong.swarm("right"))
	var message string
	w.eventually(30*time.Second, "Stalled", func() string {
		got := w.object("right").condition("Stalled")
		if message = got.Message; got.Status == "True" && strings.Contains(message, `unknown field "spec.containers[0].imagePullPolcy"`) {
			return ""
		}
		return fmt.Sprintf("%+v", got)
	})
	if !strings.Contains(message, "The pods that exist stay: 2 of 2 agents ready") {
		w.Errorf("it does not say what becomes of the pods: %s", message)
	}
	if after := uids(); after != before {
		w.Errorf("pods were touched: %s, before %s", after, before)
	}
	if got := strings.TrimSpace(w.submit("right", "still here", "--wait")); got != "still here" {
		w.Errorf("the agents do not go on: %q", got)
	}
	told.add("Stalled", "a wrong change of a running swarm", message)
	fixed := clusterCase{replicas: 2, spec: container(", imagePullPolicy: IfNotPresent")}
	w.apply(fixed.swarm("right"))
	w.eventually(90*time.Second, "the correction is taken", func() string {
		o := w.object("right")
		if o.condition("Ready").Status == "True" && o.Status.ObservedGeneration == o.Metadata.Generation && o.Status.Workers.UpdatedReplicas == 2 &&
			o.condition("Stalled").Status == "False" {
			return ""
		}
		return fmt.Sprintf("%+v", o.Status)
	})
	w.nothingLeft("right")
}

// ---- wrong flags, settings, environment

// call is a program started wrongly.
type call struct {
	program string
	args    []string
	env     []string // instead of the test's own, PATH and HOME aside, when not nil
	stdin   string
	code    int
	words   []string // all of them, in stderr
}

func (c call) run(w *world, told *refusals) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(c.program), c.args...)
	if c.env != nil {
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.TempDir()}, c.env...)
	}
	cmd.Stdin = strings.NewReader(c.stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	what := strings.TrimSpace(c.program + " " + strings.Join(c.args, " "))
	what = strings.ReplaceAll(what, w.ns, "NS")
	if cmd.ProcessState == nil {
		w.Errorf("%s: %v", what, err)
		return
	}
	wrong := ""
	if code := cmd.ProcessState.ExitCode(); code != c.code {
		wrong += fmt.Sprintf(" exit code %d, must be %d;", code, c.code)
	}
	for _, word := range c.words {
		if !strings.Contains(stderr.String(), word) {
			wrong += fmt.Sprintf(" %q is not there;", word)
		}
	}
	if stdout.Len() > 0 {
		wrong += fmt.Sprintf(" stdout is not empty: %q;", stdout.String())
	}
	if strings.Contains(stderr.String(), "terminate called") {
		wrong += " an exception that nobody caught;"
	}
	if wrong != "" {
		w.Errorf("%s (environment %q):%s it says:\n%s", what, c.env, wrong, stderr.String())
		return
	}
	told.add(fmt.Sprintf("exit %d", c.code), what, stderr.String())
}

func wrongCalls(w *world) []call {
	dir := w.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			w.Fatal(err)
		}
		return path
	}
	token := file("token", "x")
	nowhere := []string{"--api-server", "https://127.0.0.1:9", "--token-file", token, "--ca-file", file("ca.crt", "no certificate")}
	operator := func(more ...string) []string { return append(append([]string{}, more...), nowhere...) }
	environment := []string{"POD_NAME=x", "POD_NAMESPACE=x", "CFN_SIDECAR_IMAGE=x"}
	sidecar := func(more ...string) []string {
		return append([]string{"CFN_ROLE=worker", "CFN_SWARM=s", "CFN_SWARM_UID=u", "CFN_NAMESPACE=n", "CFN_AGENT_ID=worker-0", "CFN_POD_NAME=p",
			"CFN_POD_UID=u", "CFN_POD_IP=127.0.0.1", "CFN_NODE_NAME=n", "CFN_LINK_SERVICE=s-link.n.svc", "CFN_MOUNT_PATH=/dev/shm/cfn"}, more...)
	}
	swarm := func(args ...string) []string { return append([]string{"-n", w.ns}, args...) }
	away := `{apiVersion: v1, kind: Config, current-context: away, clusters: [{name: away, cluster: {server: "https://127.0.0.1:9"}}],
users: [{name: me, user: {token: x}}], contexts: [{name: away, context: {cluster: away, user: me}}]}`
	nobody := filepath.Join(dir, "nobody.sock")
	agent := []string{"CFN_SOCKET=" + nobody}
	return []call{
		// All that is wrong at once, with what is allowed.
		{program: "swarm-operator", env: environment, args: operator("--sidecar-imgae", "x", "--http-port=70000", "--log-level=loud"), code: 2,
			words: []string{"--sidecar-imgae", "is not a flag", "http.port", "70000", "65535", "logLevel", "loud", "info"}},
		{program: "swarm-operator", env: environment, args: operator("--config", file("wrong.yaml",
			"sidecarImage: [a, b]\nlogLevel: loud\nwatchNamespaces: a\nhttp: 8080\nleaderElection:\n  leaseDurationSeconds: soon\n")), code: 2,
			words: []string{"wrong.yaml:1: sidecarImage", "wrong.yaml:2: logLevel", "wrong.yaml:3: watchNamespaces", "is not a setting; allowed:",
				"wrong.yaml:4: http: must be a map", "wrong.yaml:6: leaderElection.leaseDurationSeconds", "soon"}},
		{program: "swarm-operator", env: environment, args: operator("--config", file("twice.yaml", "logLevel: info\nlogLevel: debug\n")), code: 2,
			words: []string{"twice.yaml:2: logLevel: is given twice"}},
		{program: "swarm-operator", env: environment, args: operator("--config", file("broken.yaml", "http: {port: 8080\nlogLevel: info\n")), code: 2,
			words: []string{"broken.yaml:", "not valid YAML"}},
		{program: "swarm-operator", env: environment, args: operator("--config", filepath.Join(dir, "absent.yaml")), code: 2,
			words: []string{"--config", "absent.yaml"}},
		{program: "swarm-operator", env: append(environment, "CFN_HTTP_PORT=many", "CFN_LOG_LEVEL=loud"), args: operator(), code: 2,
			words: []string{"environment CFN_HTTP_PORT", "many", "environment CFN_LOG_LEVEL", "loud"}},
		{program: "swarm-operator", env: []string{"POD_NAME=x", "POD_NAMESPACE=x"}, args: operator(), code: 2, words: []string{"sidecarImage"}},
		{program: "swarm-operator", env: environment, args: operator("--leader-election-lease-duration-seconds=10", "--leader-election-renew-deadline-seconds=12"), code: 2,
			words: []string{"leaderElection.renewDeadlineSeconds", "leaseDurationSeconds"}},
		{program: "swarm-operator", env: environment, args: operator("--watch-namespace=Not_A_Namespace"), code: 2, words: []string{"watchNamespace", "Not_A_Namespace"}},
		{program: "swarm-operator", env: environment, args: append(operator(), "--http-port"), code: 2, words: []string{"--http-port", "needs a value"}},

		{program: "swarm-sidecar", env: []string{}, code: 2, words: []string{"CFN_ROLE is missing, allowed: worker, coordinator", "CFN_SWARM is missing",
			"CFN_SWARM_UID is missing", "CFN_NAMESPACE is missing", "CFN_AGENT_ID is missing", "CFN_POD_NAME is missing", "CFN_POD_UID is missing"}},
		{program: "swarm-sidecar", env: sidecar("CFN_ROLE=boss", "CFN_AGENT_ID=bob", "CFN_MAX_MESSAGE_BYTES=-1", "CFN_BACKPRESSURE=Drop",
			"CFN_HEALTH_PERIOD_SECONDS=5s", "CFN_COORDINATORS=0"), code: 2,
			words: []string{`CFN_ROLE is "boss", allowed: worker, coordinator`, "CFN_AGENT_ID is not a slot, allowed: worker-N, coordinator-N",
				`CFN_MAX_MESSAGE_BYTES is "-1", allowed: 1 to 65536`, `CFN_BACKPRESSURE is "Drop", allowed: Block, Reject`,
				`CFN_HEALTH_PERIOD_SECONDS is "5s", allowed: 1 to`, `CFN_COORDINATORS is "0", allowed: 1 to`}},
		{program: "swarm-sidecar", env: sidecar(), args: []string{"engin"}, code: 2, words: []string{"usage: swarm-sidecar"}},
		{program: "swarm-sidecar", env: sidecar(), args: []string{"probe", "startup", "now"}, code: 2, words: []string{"usage: swarm-sidecar"}},

		{program: "agentctl", env: agent, code: 2, words: []string{"Usage: agentctl VERB", "work", "send"}},
		{program: "agentctl", env: agent, args: []string{"wrk", "--", "cat"}, code: 2, words: []string{"there is no verb 'wrk'; did you mean work?"}},
		{program: "agentctl", env: agent, args: []string{"work"}, code: 2, words: []string{"agentctl work", "--"}},
		{program: "agentctl", env: agent, args: []string{"work", "--idle-timout=5m", "--", "cat"}, code: 2, words: []string{"unknown flag --idle-timout; did you mean --idle-timeout?"}},
		{program: "agentctl", env: agent, args: []string{"work", "--timeout=45", "--", "cat"}, code: 2, words: []string{"'45' is no duration: write for example 500ms, 30s, 45m or 2h"}},
		{program: "agentctl", env: agent, args: []string{"work", "--max-output=lots", "--", "cat"}, code: 2, words: []string{"max-output", "'lots' is no number"}},
		{program: "agentctl", env: agent, args: []string{"send", "worker-1", "two", "words"}, code: 2, words: []string{"too many arguments, from 'words' on", "quote a text with blanks"}},
		{program: "agentctl", env: agent, args: []string{"ack", "m-1"}, code: 2, words: []string{"--attempt"}},
		{program: "agentctl", env: agent, args: []string{"ls", "-o", "yaml"}, code: 2, words: []string{"-o takes text or json, not 'yaml'"}},
		{program: "agentctl", env: agent, args: []string{"send", "worker-1", "x", "--priority", "urgent"}, code: 2, words: []string{"--priority takes high, normal or low, not 'urgent'"}},
		{program: "agentctl", env: agent, args: []string{"request", "worker-1", "x", "--priority", "urgent"}, code: 2, words: []string{"--priority takes high, normal or low, not 'urgent'"}},
		{program: "agentctl", env: agent, args: []string{"task", "next", "extra"}, code: 2, words: []string{"too many arguments, from 'extra' on", "agentctl task next [--wait 30s]"}},
		{program: "agentctl", env: agent, args: []string{"task", "done", "t-0-1", "two", "words", "--attempt=1"}, code: 2, words: []string{"too many arguments, from 'words' on", "quote a text with blanks"}},
		{program: "agentctl", env: agent, args: []string{"task", "done", "xyz", "--attempt=1"}, code: 2, words: []string{"'xyz' is no task's id, for example t-0-1f2a"}},
		{program: "agentctl", env: agent, args: []string{"task", "progress", "t-0-1", "x", "--later", "--attempt=1"}, code: 2, words: []string{"--later belongs to task fail, not to task progress"}},
		{program: "agentctl", env: agent, args: []string{"work", "--timeout", "0s", "--", "cat"}, code: 2, words: []string{"--timeout must be longer than 0; leave it out for no limit"}},
		{program: "agentctl", env: agent, args: []string{"work", "--idle-timeout=0s", "--", "cat"}, code: 2, words: []string{"--idle-timeout must be longer than 0"}},
		{program: "agentctl", env: agent, args: []string{"work", "--max-output=100000", "--", "cat"}, code: 2, words: []string{"--max-output", "from 1 to 65536"}},
		{program: "agentctl", env: agent, args: []string{"whoami", "--timeout=300ms"}, code: 6, words: []string{nobody}},

		{program: "kubectl-swarm", code: 2, words: []string{"Usage: kubectl swarm VERB", "submit"}},
		{program: "kubectl-swarm", args: swarm("submti", "hello", "x"), code: 2, words: []string{"there is no verb 'submti'; did you mean submit?"}},
		{program: "kubectl-swarm", args: swarm("submit", "hello", "x", "--waite"), code: 2, words: []string{"unknown flag --waite; did you mean --wait?"}},
		{program: "kubectl-swarm", args: swarm("submit"), code: 2, words: []string{"an argument is missing: kubectl swarm submit SWARM"}},
		{program: "kubectl-swarm", args: swarm("submit", "hello", "two", "words"), code: 2, words: []string{"too many arguments, from 'words' on", "quote a text with blanks"}},
		{program: "kubectl-swarm", args: swarm("submit", "hello", "x", "--max-attempts=0"), code: 2, words: []string{"--max-attempts", "1", "100"}},
		{program: "kubectl-swarm", args: swarm("submit", "hello", "x", "--timeout=5"), code: 2, words: []string{"--timeout: '5' is no duration: write for example"}},
		{program: "kubectl-swarm", args: swarm("submit", "no-such", "x"), code: 3, words: []string{"no-such", w.ns}},
		{program: "kubectl-swarm", args: swarm("get", "pods", "hello"), code: 2, words: []string{"pods", "tasks", "agents"}},
		{program: "kubectl-swarm", args: swarm("get", "tasks", "no-such"), code: 3, words: []string{"no-such", w.ns}},
		{program: "kubectl-swarm", args: swarm("get", "tasks"), code: 3, words: []string{w.ns}},
		{program: "kubectl-swarm", args: swarm("get", "tasks", "hello", "-o", "xml"), code: 2, words: []string{"xml", "json", "yaml"}},
		{program: "kubectl-swarm", args: swarm("get", "tasks", "hello", "--state=finished"), code: 2, words: []string{"finished", "queued", "done", "dead"}},
		{program: "kubectl-swarm", args: swarm("describe", "pod/x"), code: 2, words: []string{"pod/x", "task/"}},
		{program: "kubectl-swarm", args: swarm("result", "17"), code: 2, words: []string{"17", "t-0-"}},
		{program: "kubectl-swarm", args: swarm("result", "t-0-1"), code: 3, words: []string{"there is no swarm", w.ns}},
		{program: "kubectl-swarm", args: swarm("logs", "task/t-0-1", "--tail=-1"), code: 2, words: []string{"--tail"}},
		{program: "kubectl-swarm", args: swarm("get", "tasks", "hello", "--context=nowhere"), code: 6, words: []string{"nowhere"}},
		{program: "kubectl-swarm", args: swarm("get", "tasks", "hello", "--timeout=2s", "--kubeconfig="+file("away.kubeconfig", away)), code: 6,
			words: []string{"127.0.0.1:9", "refused"}},
	}
}

// ---- wrong clusters

// badCluster is something wrong with the cluster that an operator meets at its start.
type badCluster struct {
	name  string
	role  string
	fault func(w http.ResponseWriter, r *http.Request) bool
	args  func(g *grounds) []string
	words []string // in its log, within 20 s; any of the alternatives between bars
}

var badClusters = []badCluster{
	{name: "old-api-server", role: operatorRole, words: []string{`"minor":28|1.28`, "1.29"},
		fault: func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/version" {
				return false
			}
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"major":"1","minor":"28","gitVersion":"v1.28.15","platform":"linux/amd64"}`)
			return true
		}},
	{name: "no-crd", role: operatorRole, words: []string{"swarms.cfn.dev|cfn.dev/v1alpha1", "CRD|CustomResourceDefinition|kubectl apply"},
		fault: func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, "/apis/cfn.dev/") {
				return false
			}
			http.NotFound(w, r)
			return true
		}},
	{name: "no-permission", words: []string{"forbidden", "leases|swarms"}},
	{name: "wrong-token", role: operatorRole, words: []string{"401|Unauthorized", "token"},
		args: func(g *grounds) []string { return []string{"--token-file", g.file("token", "not-a-token")} }},
	{name: "wrong-ca", role: operatorRole, words: []string{"certificate"},
		args: func(g *grounds) []string {
			p, err := apiproxy.New(g.target, g.caPEM, nil) // its certificate is signed by another one
			if err != nil {
				g.Fatal(err)
			}
			g.Cleanup(p.Close)
			return []string{"--ca-file", g.file("ca.crt", string(p.CA))}
		}},
	{name: "no-api-server", role: operatorRole, words: []string{"127.0.0.1:9", "refused|Failed to connect"},
		args: func(*grounds) []string { return []string{"--api-server", "https://127.0.0.1:9"} }},
}

func (c badCluster) run(t *testing.T, told *refusals) {
	w := newWorld(t, ownOperator)
	g := newGrounds(w, c.role)
	proxy := g.proxy()
	proxy.Set(apiproxy.Faults{Answer: c.fault})
	w.apply(clusterCase{spec: container("")}.swarm("fine"))
	var args []string
	if c.args != nil {
		args = c.args(g)
	}
	operator := g.start("one", proxy, args...)
	said := ""
	w.eventually(20*time.Second, "the operator says what is wrong", func() string {
		logs := operator.logs()
		for _, alternatives := range c.words {
			found := false
			for _, word := range strings.Split(alternatives, "|") {
				found = found || strings.Contains(logs, word)
			}
			if !found {
				return fmt.Sprintf("%s is not in its log:\n%s", alternatives, operator.end())
			}
		}
		for _, line := range strings.Split(logs, "\n") {
			if strings.Contains(line, strings.Split(c.words[0], "|")[0]) {
				said = line
			}
		}
		return ""
	})
	time.Sleep(3 * time.Second) // it goes on for a while, and must not begin with something
	if lines := strings.Count(operator.logs(), "\n"); lines > 60 {
		w.Errorf("its log has %d lines already:\n%s", lines, operator.end())
	}
	if pods := w.pods(""); len(pods) > 0 {
		w.Errorf("%d pods were made", len(pods))
	}
	for _, write := range proxy.Writes() {
		// An operator that can talk to the cluster may say so in the status.
		if strings.Contains(write.Path, "/status") || strings.HasSuffix(write.Path, "/events") {
			continue
		}
		w.Errorf("it wrote: %s", write)
	}
	if c.name == "old-api-server" {
		w.eventually(10*time.Second, "Stalled", func() string {
			got := w.object("fine").condition("Stalled")
			if got.Status == "True" && got.Reason == "UnsupportedKubernetes" && strings.Contains(got.Message, "upgrade the cluster") {
				return ""
			}
			return fmt.Sprintf("%+v", got)
		})
	} else if !operator.exited() {
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", operator.port))
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				w.Error("it says that it is ready")
			}
		}
	} else if operator.code == 0 {
		w.Errorf("it ended with exit code 0:\n%s", operator.end())
	}
	w.kubectl("delete", "swarm", "fine")
	told.add("operator's log", c.name, said)
}
