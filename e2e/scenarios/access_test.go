package scenarios

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const accessCommand = "make e2e SCENARIO=access"

// TestAccess: who may submit to a swarm, and who gets through to its pods. The swarm is called hello, as in docs/quickstart.md.
func TestAccess(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restricted)
	w.apply(swarmOf{name: "hello", replicas: 1, agent: object{"command": []string{"agentctl", "work", "--", "cat"}}}.manifest())
	stranger := w.stranger()
	w.readySwarm("hello", 1)
	w.tokens()
	w.accounts()
	w.ports(stranger)
	w.handshakes()
}

// tokens: the task API answers nothing to who has no token or another one.
func (w *world) tokens() {
	w.Helper()
	api := w.taskAPI("hello")
	other := strings.Repeat("0", len(api.token))
	almost := api.token[1:] + "0"
	if almost == api.token { // all zeros
		almost = api.token[1:]
	}
	refused, tried := 0, 0
	for _, one := range []struct {
		token, says string
		status      int
	}{
		{"", "send the token of Secret hello-submit as X-Swarm-Token", http.StatusUnauthorized},
		{other, "that is not the token of Secret hello-submit", http.StatusForbidden},
		{almost, "that is not the token of Secret hello-submit", http.StatusForbidden},
		{api.token + "0", "that is not the token of Secret hello-submit", http.StatusForbidden},
	} {
		for _, request := range []struct {
			method, path string
			body         any
		}{
			{"POST", "v1/tasks", object{"body": "from a stranger"}},
			{"GET", "v1/tasks", nil}, {"GET", "v1/agents", nil}, {"GET", "v1/stats", nil}, {"GET", "v1/tasks/t-0-1/result", nil},
			{"POST", "v1/tasks/t-0-1/cancel", object{}},
		} {
			tried++
			status, answer, _ := taskAPI{w, "hello", one.token}.call(request.method, request.path, nil, request.body)
			if status == one.status && strings.Contains(string(answer), one.says) && !strings.Contains(string(answer), api.token) {
				refused++
			} else {
				w.Errorf("%s %s with a token of %d bytes: %d %s, not %d %q", request.method, request.path, len(one.token), status, answer, one.status, one.says)
			}
		}
	}
	if n := len(api.tasks()); n != 0 {
		w.Errorf("%d tasks were accepted without the token", n)
	}
	w.result("requests to the task API without the token, or with another: refused with what is needed", accessCommand, fmt.Sprintf("%d of %d", refused, tried), "all, at least 20",
		refused == tried && tried >= 20)
}

// accounts: the Role of docs/quickstart.md lets a ServiceAccount submit and do nothing else; another one may not submit.
func (w *world) accounts() {
	w.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs/quickstart.md"))
	if err != nil {
		w.Fatal(err)
	}
	role := regexp.MustCompile(`(?s)<<'END'\n(apiVersion: rbac\S+\nkind: Role\nmetadata: \{name: hello-submit\}\n.*?)END\n`).FindSubmatch(text)
	if role == nil {
		w.Fatal("docs/quickstart.md has no Role hello-submit")
	}
	w.apply(string(role[1]))
	w.kubectl("create", "rolebinding", "hello-submit-ci", "--role=hello-submit", "--serviceaccount="+w.ns+":submitter")
	// One that gets through to the coordinators, but may not read the Secret.
	w.kubectl("create", "role", "proxy", "--verb=get,create", "--resource=services/proxy", "--resource-name=hello-tasks:http")
	w.kubectl("create", "rolebinding", "proxy", "--role=proxy", "--serviceaccount="+w.ns+":halfway")
	as := func(account string) func(stdin string, args ...string) (string, error) {
		w.kubectl("create", "serviceaccount", account)
		file := w.kubeconfigOf(account)
		return func(stdin string, args ...string) (string, error) {
			return w.tryIn(time.Minute, stdin, "env", append([]string{"KUBECONFIG=" + file, "kubectl"}, args...)...)
		}
	}
	submitter, halfway, other := as("submitter"), as("halfway"), as("other")
	submit := []string{"swarm", "-n", w.ns, "submit", "hello", "-", "--wait"}

	out, err := submitter("from the submitter", submit...)
	w.result("submitted by a ServiceAccount with the Role of docs/quickstart.md", accessCommand, fmt.Sprintf("%q%s", strings.TrimSpace(out), errorText(err)), "\"from the submitter\"",
		err == nil && strings.TrimSpace(out) == "from the submitter")
	for _, args := range [][]string{{"get", "pods"}, {"get", "secrets"}, {"patch", "swarm", "hello", "--type=merge", "-p", `{"spec":{"suspend":true}}`}} {
		if _, err := submitter("", append([]string{"-n", w.ns}, args...)...); err == nil || !strings.Contains(err.Error(), "orbidden") {
			w.Errorf("the submitter may kubectl %s: %v", strings.Join(args, " "), err)
		}
	}
	refused := 0
	for who, run := range map[string]func(string, ...string) (string, error){"other": other, "halfway": halfway} {
		_, err := run("from "+who, submit...)
		if exitCode(err) == 7 && strings.Contains(err.Error(), "secrets") && strings.Contains(err.Error(), "a Role in namespace "+w.ns) {
			refused++
		} else {
			w.Errorf("ServiceAccount %s submits with exit code %d: %v", who, exitCode(err), err)
		}
	}
	if n := len(w.taskAPI("hello").tasks()); n != 1 {
		w.Errorf("there are %d tasks, not the submitter's one", n)
	}
	w.result("submitted by a ServiceAccount without it, and by one that may only use the Service's proxy: exit code 7 and the Role that is missing", accessCommand,
		fmt.Sprintf("%d of 2", refused), "2 of 2", refused == 2)
}

// kubeconfigOf is a file that makes kubectl a ServiceAccount of this namespace.
func (w *world) kubeconfigOf(account string) string {
	w.Helper()
	token, err := clientset.CoreV1().ServiceAccounts(w.ns).CreateToken(w.ctx, account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr(int64(3600))}}, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	config, err := clientcmd.LoadFromFile(os.Getenv("KUBECONFIG"))
	if err != nil {
		w.Fatal(err)
	}
	config.AuthInfos = map[string]*clientcmdapi.AuthInfo{account: {Token: token.Status.Token}}
	config.Contexts[config.CurrentContext].AuthInfo = account
	file := filepath.Join(w.TempDir(), account)
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		w.Fatal(err)
	}
	return file
}

// stranger is a pod of the same namespace that belongs to no swarm.
func (w *world) stranger() string {
	w.Helper()
	yes, no, user := true, false, int64(1000)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "stranger", Namespace: w.ns}, Spec: corev1.PodSpec{
		AutomountServiceAccountToken: &no, TerminationGracePeriodSeconds: ptr(int64(1)),
		SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers: []corev1.Container{{Name: "stranger", Image: debian, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sleep", "3600"},
			SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}}},
	}}
	if err := client.Resources().Create(w.ctx, pod); err != nil {
		w.Fatal(err)
	}
	w.eventually(time.Minute, "a stranger's pod", func() string {
		for _, pod := range w.pods("") {
			if pod.Name == "stranger" && ready(pod) {
				return ""
			}
		}
		return "not ready"
	})
	return pod.Name
}

// talk connects, sends each of the texts (hexadecimal) after it has heard something or waited for 2 s, and prints what it
// heard, and whether the other side has closed the connection within 9 s.
const talk = `use IO::Socket::INET;
my ($to, @say) = @ARGV;
my $s = IO::Socket::INET->new(PeerAddr => $to, Timeout => 3) or do { print "closed\n"; exit };
my ($heard, $end) = ("", "open");
$SIG{PIPE} = "IGNORE";
sub hear {
	my ($until, $once) = (time + shift, shift);
	while ($end eq "open" && time < $until) {
		my $r = ""; vec($r, fileno $s, 1) = 1;
		next unless select($r, undef, undef, 0.2) > 0;
		my $n = sysread $s, my $bytes, 65536;
		if (!$n) { $end = "ended" } else { $heard .= $bytes; return if $once }
	}
}
print "connected\n";
for (@say) { syswrite $s, pack("H*", $_); hear(2, 1) }
hear(9);
print "$end ", unpack("H*", $heard), "\n";
`

// hears runs talk in a pod's container; connected is false when the port did not answer.
func (w *world) hears(pod, container, address string, say ...[]byte) (connected, ended bool, heard []byte, err error) {
	args := []string{"-n", w.ns, "exec", pod, "-c", container, "--", "perl", "-e", talk, address}
	for _, one := range say {
		args = append(args, hex.EncodeToString(one))
	}
	out, err := w.try(time.Minute, "kubectl", args...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err != nil || lines[0] != "connected" || len(lines) != 2 {
		if err == nil && lines[0] != "closed" {
			err = fmt.Errorf("%q", out)
		}
		return false, false, nil, err
	}
	end, text, _ := strings.Cut(lines[1]+" ", " ")
	heard, err = hex.DecodeString(strings.TrimSpace(text))
	return true, end == "ended", heard, err
}

// ports: a pod that is not of the swarm does not get to the links; the task API is for everybody who has the token.
func (w *world) ports(stranger string) {
	w.Helper()
	coordinator, worker := w.live("hello", "coordinator")[0], w.live("hello", "worker")[0]
	at := func(pod corev1.Pod, port string) string { return net.JoinHostPort(pod.Status.PodIP, port) }
	if connected, _, _, err := w.hears(worker.Name, "agent", at(coordinator, "7070"), []byte("x")); err != nil || !connected {
		w.Errorf("a pod of the swarm does not get to its coordinator's link: %v", err)
	}
	connected, _, answer, err := w.hears(stranger, "stranger", at(coordinator, "7080"),
		[]byte("POST /v1/tasks HTTP/1.1\r\nHost: hello\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"body\":\"x\"}"))
	if err != nil || !connected || !bytes.HasPrefix(answer, []byte("HTTP/1.1 401 ")) {
		w.Errorf("the task API answers a stranger: connected %t, %q, %v", connected, answer, err)
	}
	reached := 0
	for _, pod := range []corev1.Pod{coordinator, worker} {
		connected, _, _, err := w.hears(stranger, "stranger", at(pod, "7070"), []byte("x"))
		if err != nil {
			w.Fatal(err)
		}
		if connected {
			reached++
		}
	}
	if reached > 0 && theLab() == "" {
		w.Logf("this cluster does not enforce NetworkPolicies: that they close the links is not checked")
		return
	}
	w.result("links that a pod which is not of the swarm gets to, of 2; the task API asks it for the token", accessCommand, reached, "0", reached == 0)
}

// frame is one of docs/link-protocol.md.
func frame(kind byte, payload []byte) []byte {
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(payload)))
	out = append(out, 1, kind, 0, 0)
	sum := crc32.Update(0, crc32.MakeTable(crc32.Castagnoli), out)
	sum = crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), payload)
	return append(binary.LittleEndian.AppendUint32(out, sum), payload...)
}

// linkHello is the payload of a HELLO from worker-0 of the swarm.
func linkHello(uid string) []byte {
	var out []byte
	text := func(s string) {
		out = append(binary.LittleEndian.AppendUint32(out, uint32(len(s))), s...)
	}
	random := make([]byte, 48)
	rand.Read(random)
	for _, field := range []string{uid, "worker-0", "stranger", "stranger-uid", "", "127.0.0.1", string(random[:16]), string(random[16:]), "", ""} {
		text(field)
	}
	return out
}

// heardFrames are the types of the frames in what a link said, and the words of its CLOSE.
func heardFrames(heard []byte) (kinds []byte, words string) {
	for len(heard) >= 12 {
		length := int(binary.LittleEndian.Uint32(heard))
		if len(heard) < 12+length {
			break
		}
		kinds = append(kinds, heard[5])
		if heard[5] == 5 {
			words = string(heard[12 : 12+length])
		}
		heard = heard[12+length:]
	}
	return kinds, words
}

// handshakes: who does get to a link, from a pod of the swarm, is refused without its secret.
func (w *world) handshakes() {
	w.Helper()
	const challenge, welcome = 2, 4
	uid := w.object("hello").Metadata.UID
	proof := make([]byte, 32)
	rand.Read(proof)
	huge := frame(1, nil)
	binary.LittleEndian.PutUint32(huge, 1<<31)
	cases := []struct {
		what  string
		say   [][]byte
		kinds string // of the frames in the answer
		words string
	}{
		{"a wrong proof", [][]byte{frame(1, linkHello(uid)), frame(3, proof)}, string([]byte{challenge, 5}), "does not know the link secret"},
		{"no proof, but a JOIN", [][]byte{frame(1, linkHello(uid)), frame(31, []byte(`{"session":0,"running":[],"leaving":false,"version":"x"}`))}, string([]byte{challenge, 5}), ""},
		{"a proof without a HELLO", [][]byte{frame(3, proof)}, "\x05", ""},
		{"another swarm's HELLO", [][]byte{frame(1, linkHello("another-uid"))}, "\x05", "another swarm"},
		{"HTTP", [][]byte{[]byte("GET /v1/tasks HTTP/1.1\r\nHost: hello\r\n\r\n")}, "", ""},
		{"a frame of 2 GiB", [][]byte{huge}, "", ""},
		{"nothing", nil, "", ""},
	}
	coordinator, worker := w.live("hello", "coordinator")[0], w.live("hello", "worker")[0]
	pods := []corev1.Pod{coordinator, worker}
	wrong := make([]string, len(cases)*len(pods))
	each(len(wrong), func(i int) {
		one, pod := cases[i%len(cases)], pods[i/len(cases)]
		connected, ended, heard, err := w.hears(worker.Name, "agent", net.JoinHostPort(pod.Status.PodIP, "7070"), one.say...)
		kinds, words := heardFrames(heard)
		if err != nil || !connected || !ended || bytes.IndexByte(kinds, welcome) >= 0 || string(kinds) != one.kinds || !strings.Contains(words, one.words) {
			wrong[i] = fmt.Sprintf("%s to %s: connected %t, ended %t, frames %v %q, must be %v %q; %v", one.what, pod.Labels["cfn.dev/slot"], connected, ended, kinds, words,
				[]byte(one.kinds), one.words, err)
		}
	})
	refused := 0
	for _, text := range wrong {
		if text == "" {
			refused++
		} else {
			w.Error(text)
		}
	}
	if restarts(w.live("hello", "coordinator")[0])+restarts(w.live("hello", "worker")[0]) != 0 {
		w.Errorf("a sidecar was started again")
	}
	if out := strings.TrimSpace(w.submit("hello", "afterwards", "--wait")); out != "afterwards" {
		w.Errorf("afterwards a task's result is %q", out)
	}
	w.result("connections to a link from a pod of the swarm without the link secret: refused and ended", accessCommand, fmt.Sprintf("%d of %d", refused, len(wrong)), "all",
		refused == len(wrong))
}
