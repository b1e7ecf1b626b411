package scenarios

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"swarm/e2e/scenarios/apiproxy"
)

// Namespaces that belong to operators of the test's own, which run on this host and can be killed, cut off and lied to.
// The cluster's operator watches them, too; an admission policy refuses what it would write there, so that it need not be
// stopped and no other scenario is disturbed.

const ownOperatorLabel = "swarm-e2e-operator"

func ownOperator(ns *corev1.Namespace) { ns.Labels[ownOperatorLabel] = "own" }

// program is a binary of the build.
func program(name string) string { return filepath.Join(root, "build/release/bin", name) }

var clusterOperator struct {
	sync.Once
	user string
	err  error
}

// keepOut makes the cluster's operator powerless in all namespaces with ownOperator, until the test ends.
func keepOut(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	clusterOperator.Do(func() {
		deployments, err := clientset.AppsV1().Deployments("").List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=swarm-operator"})
		if err != nil || len(deployments.Items) > 1 {
			clusterOperator.err = fmt.Errorf("the cluster's operator: more than one Deployment, or %v", err)
			return
		}
		if len(deployments.Items) == 0 {
			return // nobody to keep out
		}
		d := deployments.Items[0]
		clusterOperator.user = "system:serviceaccount:" + d.Namespace + ":" + d.Spec.Template.Spec.ServiceAccountName
	})
	if clusterOperator.err != nil {
		t.Fatal(clusterOperator.err)
	}
	if clusterOperator.user == "" {
		return
	}
	name := "swarm-e2e-" + namespaceWord(t.Name())
	all := []string{"*"}
	policy := &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: ptr(admissionv1.Fail),
			MatchConstraints: &admissionv1.MatchResources{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{ownOperatorLabel: "own"}},
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.OperationAll},
					Rule:       admissionv1.Rule{APIGroups: all, APIVersions: all, Resources: []string{"*/*"}},
				}}},
			},
			MatchConditions: []admissionv1.MatchCondition{{Name: "cluster-operator", Expression: fmt.Sprintf("request.userInfo.username == %q", clusterOperator.user)}},
			Validations:     []admissionv1.Validation{{Expression: "false", Message: "this namespace has an operator of its own"}},
		},
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	}
	api := clientset.AdmissionregistrationV1()
	remove := func() {
		api.ValidatingAdmissionPolicyBindings().Delete(ctx, name, metav1.DeleteOptions{})
		api.ValidatingAdmissionPolicies().Delete(ctx, name, metav1.DeleteOptions{})
	}
	remove() // of a run that was interrupted
	t.Cleanup(remove)
	if _, err := api.ValidatingAdmissionPolicies().Create(ctx, policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.ValidatingAdmissionPolicyBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// It takes effect a moment later: ask as the cluster's operator until it is refused.
	w := newWorld(t, ownOperator)
	config := rest.CopyConfig(client.RESTConfig())
	config.Impersonate = rest.ImpersonationConfig{UserName: clusterOperator.user}
	as, err := kubernetes.NewForConfig(config)
	if err != nil {
		w.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "probe"}}
	w.eventually(30*time.Second, "the cluster's operator is kept out", func() string {
		_, err := as.CoreV1().ServiceAccounts(w.ns).Create(ctx, account, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil && strings.Contains(err.Error(), "an operator of its own") {
			return ""
		}
		return fmt.Sprint(err)
	})
}

func ptr[T any](v T) *T { return &v }

// in is the same world, for a subtest that reports for itself.
func (w *world) in(t *testing.T) *world {
	c := *w
	c.T = t
	return &c
}

// grounds are what a host operator needs: a token and a namespace for its leader election.
type grounds struct {
	*world
	home      string // namespace of the ServiceAccount and of the leader's Lease
	user      string
	token, ca string // files
	target    string // URL of the API server
	caPEM     []byte
	settings  string // of the config file, beyond the image and the namespace
	losses    int    // of the leadership, see kept
}

// An operator that keeps losing its leadership is broken, however slow the machine.
const maxLosses = 2

// newGrounds takes a world made with ownOperator. role: the ClusterRole of the operator, "" for none.
func newGrounds(w *world, role string) *grounds {
	w.Helper()
	home := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns + "-op", Labels: map[string]string{"swarm-e2e": "true", ownOperatorLabel: "own"}}}
	if err := client.Resources().Create(w.ctx, home); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if os.Getenv("KEEP") == "" {
			client.Resources().Delete(w.ctx, home)
		}
	})
	config := client.RESTConfig()
	g := &grounds{world: w, home: home.Name, user: "system:serviceaccount:" + home.Name + ":operator", target: config.Host, caPEM: config.CAData}
	if g.caPEM == nil {
		var err error
		if g.caPEM, err = os.ReadFile(config.CAFile); err != nil {
			w.Fatal(err)
		}
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "operator", Namespace: g.home}}
	if err := client.Resources().Create(w.ctx, account); err != nil {
		w.Fatal(err)
	}
	if role != "" {
		binding := &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: g.home},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "operator", Namespace: g.home}},
		}
		if err := client.Resources().Create(w.ctx, binding); err != nil {
			w.Fatal(err)
		}
		w.Cleanup(func() { client.Resources().Delete(w.ctx, binding) })
	}
	token, err := clientset.CoreV1().ServiceAccounts(g.home).CreateToken(w.ctx, "operator",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr(int64(7200))}}, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	g.token = g.file("token", token.Status.Token)
	g.ca = g.file("ca.crt", string(g.caPEM))
	return g
}

func (g *grounds) file(name, content string) string {
	g.Helper()
	path := filepath.Join(g.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		g.Fatal(err)
	}
	return path
}

// proxy is one for this namespace: writes elsewhere, such as those of leader election, are not counted.
func (g *grounds) proxy() *apiproxy.Proxy {
	g.Helper()
	p, err := apiproxy.New(g.target, g.caPEM, func(r *http.Request) bool { return apiproxy.Under(g.ns, r) })
	if err != nil {
		g.Fatal(err)
	}
	g.Cleanup(p.Close)
	return p
}

// hostOperator is one process of build/release/bin/swarm-operator.
type hostOperator struct {
	g     *grounds
	name  string
	proxy *apiproxy.Proxy
	args  []string
	port  int
	cmd   *exec.Cmd
	done  chan struct{}
	code  int
	log   *bytes.Buffer
	mu    sync.Mutex
}

// start runs an operator named name against the proxy, or against the API server itself when that is nil.
func (g *grounds) start(name string, proxy *apiproxy.Proxy, args ...string) *hostOperator {
	g.Helper()
	url, ca := g.target, g.ca
	if proxy != nil {
		url, ca = proxy.URL, g.file("ca.crt", string(proxy.CA))
	}
	o := &hostOperator{g: g, name: name, proxy: proxy, args: args, port: freePort(g.T), done: make(chan struct{}), log: &bytes.Buffer{}}
	config := g.file("config.yaml", fmt.Sprintf("sidecarImage: %s/swarm-sidecar:%s\nwatchNamespace: %s\nhttp: {port: %d}\n%s",
		images, tag, g.ns, o.port, g.settings))
	o.cmd = exec.Command(program("swarm-operator"),
		append([]string{"--config", config, "--api-server", url, "--token-file", g.token, "--ca-file", ca}, args...)...)
	o.cmd.Env = append(os.Environ(), "POD_NAME="+name, "POD_NAMESPACE="+g.home)
	o.cmd.Stdout, o.cmd.Stderr = o, o
	if err := o.cmd.Start(); err != nil {
		g.Fatal(err)
	}
	go func() {
		o.cmd.Wait()
		o.code = o.cmd.ProcessState.ExitCode()
		close(o.done)
	}()
	g.Cleanup(func() {
		o.kill()
		if g.Failed() {
			dir := filepath.Join(root, "build/log/e2e", g.ns)
			os.MkdirAll(dir, 0o755)
			file, err := os.OpenFile(filepath.Join(dir, "operator-"+name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
			if err == nil {
				file.WriteString(o.logs())
				file.Close()
			}
		}
	})
	return o
}

func (o *hostOperator) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.log.Write(b)
}

func (o *hostOperator) logs() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.log.String()
}

// end is the end of its log, for messages.
func (o *hostOperator) end() string {
	logs := o.logs()
	return logs[max(0, len(logs)-2000):]
}

// kill is kill -9; it returns when the process is gone.
func (o *hostOperator) kill() {
	o.cmd.Process.Kill()
	<-o.done
}

// kept is the operator, or its next process if it gave up its leadership, as it does where the API server is too slow to
// renew it: the kubelet would start it again. Any other end is a failure.
func (o *hostOperator) kept() *hostOperator {
	o.g.Helper()
	if !o.exited() {
		return o
	}
	if o.code != 1 || !strings.Contains(o.logs(), "leadership lost") {
		o.g.Errorf("operator %s ended by itself with code %d:\n%s", o.name, o.code, o.end())
	}
	if o.g.losses++; o.g.losses > maxLosses {
		o.g.Fatalf("operator %s lost its leadership for the %dth time:\n%s", o.name, o.g.losses, o.end())
	}
	o.g.Logf("operator %s lost its leadership and is started again", o.name)
	return o.g.start(o.name, o.proxy, o.args...)
}

func (o *hostOperator) exited() bool {
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

// exits waits until the process has ended by itself.
func (o *hostOperator) exits(limit time.Duration) int {
	o.g.Helper()
	select {
	case <-o.done:
		return o.code
	case <-time.After(limit):
		o.g.Fatalf("operator %s still runs after %s:\n%s", o.name, limit, o.end())
		return 0
	}
}

// forgetLeader removes the leader's Lease, so that the next process need not wait until a dead one's has run out.
func (g *grounds) forgetLeader() {
	g.Helper()
	if err := clientset.CoordinationV1().Leases(g.home).DeleteCollection(g.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		g.Error(err)
	}
}

// leader is the holder of the leader's Lease.
func (g *grounds) leader() string {
	leases, err := clientset.CoordinationV1().Leases(g.home).List(g.ctx, metav1.ListOptions{})
	if err != nil || len(leases.Items) != 1 || leases.Items[0].Spec.HolderIdentity == nil {
		return ""
	}
	return *leases.Items[0].Spec.HolderIdentity
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// auditedWrites are the user's writes since offset in the API server's audit log, leases aside; and where it ends now.
func auditedWrites(path string, offset int64, user string) ([]string, int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	if about, err := file.Stat(); err != nil || about.Size() < offset {
		return nil, 0, fmt.Errorf("audit log: it was %d bytes and began anew (%v)", offset, err)
	}
	if _, err := file.Seek(offset, 0); err != nil {
		return nil, 0, err
	}
	var data bytes.Buffer
	if _, err := data.ReadFrom(file); err != nil {
		return nil, 0, err
	}
	end := offset + int64(bytes.LastIndexByte(data.Bytes(), '\n')) + 1
	var writes []string
	for _, line := range bytes.Split(data.Bytes()[:end-offset], []byte("\n")) {
		if !bytes.Contains(line, []byte(user)) {
			continue
		}
		var event struct {
			Verb      string
			User      struct{ Username string }
			ObjectRef struct{ Resource, Subresource, Namespace, Name string }
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return nil, 0, fmt.Errorf("audit log: %w", err)
		}
		ref := event.ObjectRef
		switch event.Verb {
		case "create", "update", "patch", "delete", "deletecollection":
			if event.User.Username == user && ref.Resource != "leases" {
				writes = append(writes, strings.Join([]string{event.Verb, ref.Resource, ref.Subresource, ref.Namespace, ref.Name}, " "))
			}
		}
	}
	return writes, end, nil
}

func TestSelfAuditedWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	line := func(user, verb, resource string) string {
		return fmt.Sprintf(`{"verb":%q,"user":{"username":%q},"objectRef":{"resource":%q,"namespace":"n","name":"s"}}`+"\n", verb, user, resource)
	}
	first := line("op", "create", "pods") + line("op", "get", "pods") + line("op", "update", "leases") + line("op-2", "delete", "pods")
	if err := os.WriteFile(path, []byte(first+`{"verb":"cre`), 0o600); err != nil {
		t.Fatal(err)
	}
	writes, offset, err := auditedWrites(path, 0, "op")
	if err != nil || fmt.Sprint(writes) != "[create pods  n s]" || offset != int64(len(first)) {
		t.Fatalf("%q, until %d: %v", writes, offset, err)
	}
	if err := os.WriteFile(path, []byte(first+line("op", "patch", "swarms")), 0o600); err != nil {
		t.Fatal(err)
	}
	if writes, _, err = auditedWrites(path, offset, "op"); err != nil || fmt.Sprint(writes) != "[patch swarms  n s]" {
		t.Fatalf("%q: %v", writes, err)
	}
	if writes, _, err = auditedWrites(path, 0, "nobody"); err != nil || len(writes) != 0 {
		t.Fatalf("%q: %v", writes, err)
	}
	if err := os.WriteFile(path, []byte(line("op", "patch", "swarms")), 0o600); err != nil { // rotated
		t.Fatal(err)
	}
	if writes, _, err = auditedWrites(path, offset, "op"); err == nil {
		t.Fatalf("a log that began anew is read from its middle: %q", writes)
	}
}
