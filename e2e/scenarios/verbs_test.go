package scenarios

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// TestVerbs: every verb and flag of agentctl and kubectl swarm, called once by a person or by an agent in its pod. What
// the help lists and nobody has called is an error.
func TestVerbs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restricted)
	used := called{verbs: map[string]map[string]bool{}}
	work := []string{"agentctl", "work", "--git=git://repo/app@other", "--grace=1s", "--max-output=20", "--", "sh", "-c",
		`case $(head -c 1 "$SWARM_TASK_FILE") in "{") echo json ;; *) exec sh "$SWARM_TASK_FILE" ;; esac`} // a task is a script, or a line of JSON
	used.note(work[0], work[1:])
	// Agents that do nothing by themselves; the test acts for them.
	w.apply(swarmOf{name: "hand", replicas: 2, agent: object{"command": []string{"sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"}},
		workers: object{"taskGraceSeconds": 1}, spec: object{"shutdown": object{"drainTimeoutSeconds": 1}, "mailbox": object{"maxMessageBytes": 1000}}}.manifest())
	w.apply(swarmOf{name: "work", replicas: 2, agent: object{"image": agentImage, "command": work},
		workers: object{"taskGraceSeconds": 1}, spec: object{"shutdown": object{"drainTimeoutSeconds": 1}}}.manifest())
	w.startRepository()
	w.readySwarm("hand", 2)
	w.readySwarm("work", 2)
	t.Run("all", func(t *testing.T) {
		for _, lane := range []struct {
			name string
			run  func(*verbs)
		}{{"messages", (*verbs).messages}, {"by-hand", func(v *verbs) { v.byHand(); v.once() }}, {"lists", func(v *verbs) { v.exitCodes(); v.watched(); v.lists() }},
			{"work", func(v *verbs) { v.repository(); v.running() }}} {
			t.Run(lane.name, func(t *testing.T) {
				t.Parallel()
				lane.run(&verbs{world: &world{T: t, ns: w.ns, ctx: w.ctx}, used: &used})
			})
		}
	})
	(&verbs{world: w, used: &used}).limited()
	w.metrics("hand", "work")
	w.judgeVerbs(&used)
}

// called is which verbs were called with which flags.
type called struct {
	sync.Mutex
	verbs map[string]map[string]bool // "agentctl send": {"--id": true}
	count int
}

var shortFlags = map[string]string{"-o": "--output", "-n": "--namespace", "-w": "--watch", "-l": "--selector", "-f": "--follow", "-h": "--help"}

func (c *called) note(program string, args []string) {
	c.Lock()
	defer c.Unlock()
	c.count++
	call := program + " " + args[0]
	if c.verbs[call] == nil {
		c.verbs[call] = map[string]bool{}
	}
	for _, word := range args[1:] {
		if word == "--" {
			return
		}
		if flag, _, _ := strings.Cut(word, "="); strings.HasPrefix(flag, "-") && flag != "-" {
			if long := shortFlags[flag]; long != "" {
				flag = long
			}
			c.verbs[call][flag] = true
		}
	}
}

// everywhere is whether any verb of the program was called with the flag.
func (c *called) everywhere(program, flag string) bool {
	for call, flags := range c.verbs {
		if strings.HasPrefix(call, program+" ") && flags[flag] {
			return true
		}
	}
	return false
}

// judgeVerbs compares what was called with what the help of both programs lists.
func (w *world) judgeVerbs(used *called) {
	w.Helper()
	verbLine, flagLine := regexp.MustCompile(`(?m)^  ([a-z]+) `), regexp.MustCompile(`(?m)^  (?:-\w, | *)--([a-z-]+)`)
	common := map[string][]string{ // flags that every verb takes alike: once is enough
		"agentctl":      {"--socket", "--timeout", "--output", "--help"},
		"kubectl-swarm": {"--namespace", "--context", "--kubeconfig", "--timeout", "--help"},
	}
	verbs, flags, missing := 0, 0, []string{}
	for _, name := range []string{"agentctl", "kubectl-swarm"} {
		overview, _, _ := strings.Cut(w.must(w.try(time.Minute, program(name), "--help")), "Flags of every verb")
		found := verbLine.FindAllStringSubmatch(overview, -1)
		if len(found) < 9 {
			w.Fatalf("%s --help lists %d verbs:\n%s", name, len(found), overview)
		}
		for _, verb := range found {
			verbs++
			call := name + " " + verb[1]
			if used.verbs[call] == nil {
				missing = append(missing, call)
				continue
			}
			help, shared, _ := strings.Cut(w.must(w.try(time.Minute, program(name), verb[1], "--help")), "Flags of every verb")
			_, own, _ := strings.Cut(help, "\nFlags:\n")
			for _, flag := range flagLine.FindAllStringSubmatch(own, -1) {
				flags++
				long := "--" + flag[1]
				// work --timeout is another flag than the others' --timeout.
				if slices.Contains(common[name], long) && (name != "agentctl" || strings.Contains(shared, long)) {
					continue
				}
				if !used.verbs[call][long] {
					missing = append(missing, call+" "+long)
				}
			}
		}
		for _, flag := range common[name] {
			if flag != "--help" && !used.everywhere(name, flag) {
				missing = append(missing, name+" "+flag)
			}
		}
	}
	w.result("verbs and flags of both programs that a scenario calls", "make e2e SCENARIO=verbs",
		fmt.Sprintf("%d verbs, %d flags, %d calls; not called: %s", verbs, flags, used.count, strings.Join(append(missing, ""), "; ")), "all",
		len(missing) == 0 && flags > 40 && !w.Failed())
}

// verbs is one lane of the scenario.
type verbs struct {
	*world
	used *called
}

type said struct{ out, err string }

// run calls a program and judges its exit code and, by regular expressions, what it says.
func (v *verbs) run(what, stdin, name string, args []string, code int, out, err string) said {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = 2 * time.Second
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	failed := cmd.Run()
	var exit *exec.ExitError
	if failed != nil && !errors.As(failed, &exit) {
		v.Fatalf("%s: %v", what, failed)
	}
	got := said{stdout.String(), stderr.String()}
	if cmd.ProcessState.ExitCode() != code || !regexp.MustCompile(out).MatchString(got.out) || !regexp.MustCompile(err).MatchString(got.err) {
		v.Errorf("%s: exit code %d, must be %d, stdout %q and stderr %q; it says:\n%s%s", what, cmd.ProcessState.ExitCode(), code, out, err, got.out, got.err)
	}
	return got
}

// in is agentctl, called in the pod of a slot of swarm hand.
func (v *verbs) in(slot string, code int, out, err string, args ...string) said {
	v.Helper()
	return v.inWith("", slot, code, out, err, args...)
}

func (v *verbs) inWith(stdin, slot string, code int, out, err string, args ...string) said {
	v.Helper()
	v.used.note("agentctl", args)
	call := append([]string{"-n", v.ns, "exec", "-i", v.pod("hand", slot), "-c", "agent", "--", "agentctl"}, args...)
	return v.run(slot+": agentctl "+strings.Join(args, " "), stdin, "kubectl", call, code, out, err)
}

// person is kubectl swarm in this namespace.
func (v *verbs) person(code int, out, err string, args ...string) said {
	v.Helper()
	return v.personWith("", code, out, err, args...)
}

func (v *verbs) personWith(stdin string, code int, out, err string, args ...string) said {
	v.Helper()
	args = append(args, "-n", v.ns)
	v.used.note("kubectl-swarm", args)
	return v.run("kubectl swarm "+strings.Join(args, " "), stdin, "kubectl", append([]string{"swarm"}, args...), code, out, err)
}

func (v *verbs) pod(swarm, slot string) string {
	v.Helper()
	for _, pod := range v.live(swarm, "worker") {
		if pod.Labels["cfn.dev/slot"] == slot {
			return pod.Name
		}
	}
	v.Fatalf("%s has no pod for %s", swarm, slot)
	return ""
}

// give submits a task; its id.
func (v *verbs) give(swarm, body string, args ...string) string {
	v.Helper()
	got := v.person(0, `^task/t-0-\w+\n$`, "^$", append([]string{"submit", swarm, body, "-o", "name"}, args...)...)
	return strings.TrimPrefix(strings.TrimSpace(got.out), "task/")
}

// look is the task as get -o json shows it.
func (v *verbs) look(id string) (out task) {
	v.Helper()
	got := v.person(0, `^\{`, "^$", "get", "task/"+id, "-o", "json")
	if err := json.Unmarshal([]byte(got.out), &out); err != nil {
		v.Fatalf("%v: %s", err, got.out)
	}
	return out
}

// attempts are the ends of a task's attempts and whether they counted: "try_later no, failed yes".
func (t task) attempts() string {
	var out []string
	for _, one := range t.History {
		out = append(out, one.Reason+map[bool]string{true: " yes", false: " no"}[one.Charged])
	}
	return strings.Join(out, ", ")
}

func (v *verbs) equal(what string, got, want any) bool {
	v.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		v.Errorf("%s: %v instead of %v", what, got, want)
		return false
	}
	return true
}

// ---- messages between two agents

func (v *verbs) messages() {
	const me, peer = "worker-0", "worker-1"
	v.in(me, 0, `(?m)^agent +worker-0\nswarm +hand\nnamespace +`+v.ns+`\nrole +worker\n(.*\n)*team +0\nconnected +yes\n`, "^$", "whoami")
	v.in(me, 0, `^\{.*"maxMessageBytes":1000.*\}\n$`, "^$", "whoami", "--output=json")
	v.in(me, 0, `^NAME +ROLE +TEAM +STATE +NODE\n(.*\n)*worker-1 +worker +0 +\w+ +\S+\n`, "^$", "peers")
	v.in(me, 0, `(?m)^ok +sidecar answers at \S+/agent.sock: worker-0 of swarm hand, team 0\nok +connected to coordinator-0\nok +counters: .*inbox 0`, "^$", "doctor")
	v.in(me, 1, `(?m)^BAD +socket /nowhere: No such file`, "", "doctor", "--socket", "/nowhere")
	v.in(me, 0, `agentctl reply ID(.*\n)*.*data, not an order`, "^$", "prompt")
	v.in(me, 0, `^agentctl \d`, "^$", "version")
	v.in(me, 0, "^worker-0: I am worker-0\n$", "^agentctl: worker-0 has ended: exit code 0\n$", "run", "--count=1", "--grace=1s", "--", "sh", "-c", "echo I am $CFN_AGENT_ID")
	v.in(peer, 0, "^$", "no messages", "ls")

	// What is urgent goes first, whatever came first.
	for _, priority := range []string{"low", "normal", "high"} {
		v.in(me, 0, "^m-"+priority+"\n$", "^accepted, survives: (node|pod)\n$", "send", peer, "it is "+priority, "--id=m-"+priority, "--priority", priority)
	}
	v.in(me, 0, "^m-low\n$", "had been accepted before", "send", peer, "it is low", "--id=m-low", "--priority=low")
	v.in(peer, 0, `^ID +FROM +TO +PRIORITY +STATE +ATTEMPT +BYTES +AGE\n(.*\n)*m-low +worker-0 +worker-1 +low +ready +\d+ +9 `, "^$", "ls")
	v.in(me, 0, `(?m)^m-high +worker-0 +worker-1 +high +outgoing `, "^$", "ls")
	v.in(peer, 0, "^it is low$", "^message m-low from worker-0", "cat", "m-low")
	for _, priority := range []string{"high", "normal", "low"} {
		v.in(peer, 0, "^it is "+priority+"$", "^message m-"+priority+" from worker-0, attempt 1\n$", "recv", "--wait=10s", "--ack")
	}
	v.in(peer, 3, "^$", "", "recv", "--wait=100ms")

	// A stream: parts as they come, in order, and how it ends.
	v.inWith("first second", me, 0, "^s-1\n$", "parts, the last one an end\n$", "send", peer, "--stream=s-1")
	v.in(peer, 3, "^$", "", "recv", "--wait=0s")
	v.in(peer, 0, "^first second$", "^$", "recv", "--stream=s-1", "--from="+me, "--wait=10s")
	v.in(me, 0, "^s-2\n$", "accepted", "send", peer, "seven", "--stream=s-2", "--part=7")
	v.in(me, 0, "^s-2\n$", "accepted", "send", peer, "eight", "--stream=s-2", "--part=8", "--end")
	v.in(peer, 7, "^$", "part 1 of stream s-2 from worker-0 is lost, or was read before; the next one is part 7", "recv", "--stream=s-2", "--from="+me)
	v.in(peer, 0, "^seveneight$", "^$", "recv", "--stream=s-2", "--from="+me, "--part=7")
	v.in(me, 0, "^s-3\n$", "accepted", "send", peer, "--stream=s-3", "--abort=out of ideas")
	v.in(peer, 1, "^$", "aborted by worker-0 at part 1: out of ideas", "recv", "--stream=s-3", "--from="+me)

	// Files: one that is renamed into drop/ is sent, messages are shown as files.
	sh := func(slot, script string) string {
		v.Helper()
		return v.must(v.try(time.Minute, "kubectl", "-n", v.ns, "exec", v.pod("hand", slot), "-c", "agent", "--", "sh", "-c", script))
	}
	sh(me, `mkdir -p /dev/shm/cfn/drop/worker-1 && cd /dev/shm/cfn/drop/worker-1 && printf "a file" >.x && printf '{"id":"from-a-file","priority":"high"}' >.x.options && mv .x x`)
	v.eventually(30*time.Second, "a dropped file has its outcome", func() string {
		if said := sh(me, "cat /dev/shm/cfn/drop/worker-1/x.accepted || true"); !strings.Contains(said, `"outcome":"accepted"`) {
			return "it says " + said
		}
		return ""
	})
	v.in(peer, 0, `^worker-0:from-a-file\n$`, "^1 messages, 0 removed\n$", "materialize", "/dev/shm/cfn/seen")
	v.equal("a message as a file", sh(peer, "cat /dev/shm/cfn/seen/worker-0:from-a-file"), "a file")
	v.in(peer, 0, `^worker-0:from-a-file\n$`, "^1 messages, 0 removed\n$", "materialize", "/dev/shm/cfn/whole", "-o", "json")
	v.equal("all of a message as a file", strings.Contains(sh(peer, "cat /dev/shm/cfn/whole/worker-0:from-a-file"), `"messageId":"from-a-file","priority":"high"`), true)
	v.in(peer, 0, "^a file$", "attempt 1\n$", "recv", "--wait=10s", "--ack")

	// Somebody looks on: what he is shown stays.
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		v.in(peer, 0, `^\{.*"attempt":0,.*"body":"look".*\}\n$`, "^$", "watch", "--count=1", "--wait=50s", "-o", "json")
	}()
	v.eventually(30*time.Second, "a message is shown as it comes", func() string {
		v.in(me, 0, "", "accepted", "send", peer, "look")
		v.in(peer, 0, "^look$", "attempt 1\n$", "recv", "--wait=10s", "--ack")
		select {
		case <-watched:
			return ""
		case <-time.After(time.Second):
			return "not shown yet"
		}
	})
	v.in(peer, 3, "^$", "0 of 1 messages", "watch", "--count=1", "--wait=10ms")

	// To several at once, each with an outcome of its own.
	v.in(me, 0, "^m-all\n$", "^worker-1: accepted, survives: (node|pod)\n$", "send", "workers", "to all", "--id=m-all")
	v.in(me, 8, "^m-all\n$", `(?m)^worker-1: accepted, .*accepted before(.*\n)*worker-7: refused: `, "send", peer+",worker-7", "to all", "--id=m-all", "--timeout=15s")
	v.in(peer, 0, "^to all$", "^message m-all from worker-0, attempt 1\n$", "recv", "--wait=10s", "--ack")
	v.in(peer, 3, "^$", "", "recv", "--wait=0s")

	// One that is not acked comes again, and so does one that is given back.
	v.inWith("from stdin", me, 0, "^m-again\n$", "accepted", "send", peer, "-", "--id=m-again", "--timeout=30s")
	v.in(peer, 0, `^\{.*"attempt":1,.*"body":"from stdin".*"redelivered":false`, "^$", "recv", "--wait=10s", "--lease=1s", "-o", "json")
	v.in(peer, 0, "^from stdin$", "attempt 2, redelivered", "recv", "--wait=10s")
	v.in(peer, 7, "^$", "attempt", "ack", "m-again", "--attempt=1")
	v.in(peer, 0, "^$", "^$", "nack", "m-again", "--attempt=2", "--from=worker-0", "--delay=12s")
	v.in(peer, 0, `(?m)^m-again .* delayed +2 `, "^$", "ls")
	v.in(peer, 3, "^$", "", "recv", "--wait=0s")
	v.in(peer, 0, "^from stdin$", "attempt 3, redelivered", "recv", "--wait=30s")
	v.in(peer, 0, "^$", "^$", "extend", "m-again", "--attempt=3", "--from=worker-0", "--lease=50s")
	v.in(peer, 7, "^$", "attempt", "extend", "m-again", "--attempt=2")
	v.in(peer, 0, "^from stdin$", "", "cat", "m-again", "--from=worker-0")
	v.in(peer, 3, "^$", "no message m-again", "cat", "m-again", "--from=worker-7")
	v.in(peer, 3, "^$", "no message m-again", "ack", "m-again", "--attempt=3", "--from=worker-7")
	v.in(peer, 0, "^$", "^$", "ack", "m-again", "--attempt=3", "--from=worker-0")

	// Many in one call; the wrong line stops no other.
	v.inWith(`{"to":"worker-1","body":"poison","id":"m-poison"}`+"\n"+`{"to":"worker-1"}`+"\n", me, 8,
		`(?m)^\{"duplicate":false,"line":1,"messageId":"m-poison","outcome":"accepted",.*\}\n\{"code":"invalid","line":2,.*"outcome":"refused".*\}$`, "", "send", "--batch")

	// What nobody can deal with is set aside, and somebody decides.
	v.in(peer, 0, "^$", "no dead letters", "dead", "ls")
	for attempt := 1; attempt <= 5; attempt++ {
		v.in(peer, 0, "^poison$", "", "recv", "--wait=10s")
		v.in(peer, 0, "^$", "^$", "nack", "m-poison", fmt.Sprint("--attempt=", attempt))
	}
	v.in(peer, 3, "^$", "", "recv", "--wait=0s")
	v.in(peer, 0, `^ID +FROM +PRIORITY +ATTEMPTS +BYTES +AGE\nm-poison +worker-0 +normal +5 +6 `, "^$", "dead", "ls")
	v.in(peer, 0, "^poison$", "^message m-poison from worker-0", "dead", "show", "m-poison")
	v.in(peer, 0, "^$", "^1 back in the inbox, 0 dead letters left\n$", "dead", "redrive", "m-poison")
	v.in(peer, 0, "^poison$", "attempt 6, redelivered", "recv", "--wait=10s")
	for attempt := 6; attempt < 10; attempt++ {
		v.in(peer, 0, "^$", "^$", "nack", "m-poison", fmt.Sprint("--attempt=", attempt))
		v.in(peer, 0, "^poison$", "", "recv", "--wait=10s")
	}
	v.in(peer, 0, "^$", "^$", "nack", "m-poison", "--attempt=10")
	v.in(peer, 0, "^$", "^1 purged, 0 dead letters left\n$", "dead", "purge", "--all")
	v.in(peer, 2, "^$", "which one. write: agentctl dead purge ID, or --all", "dead", "purge")

	// A question and its answer, while the asking side waits.
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		v.in(me, 0, "^forty-two$", "^message a-1 from worker-1", "request", peer, "six by seven?", "--id=q-1", "--priority=high", "--timeout=40s")
	}()
	v.in(peer, 0, `"messageId":"q-1".*"wantsReply":true`, "^$", "recv", "--wait=30s", "-o=json")
	v.in(peer, 2, "^$", "--attempt N is missing", "reply", "q-1", "forty-two", "--ack")
	v.in(peer, 8, "^a-1\n$", "(?s)accepted, survives: .*the reply was accepted; of the ack: attempt 7 of q-1 is not the current one", "reply", "q-1", "forty-two", "--id=a-1", "--ack", "--attempt=7")
	v.in(peer, 0, "^a-1\n$", "^accepted, survives: (node|pod) [(]it had been accepted before[)]\n$", "reply", "q-1", "forty-two", "--id=a-1", "--ack", "--attempt=1")
	v.in(peer, 3, "^$", "", "recv", "--wait=0s")
	<-asked
	v.in(me, 3, "^$", "was accepted .*but no reply came in time", "request", peer, "anybody?", "--id=q-2", "--timeout=8s")
	v.in(peer, 0, "^anybody[?]$", "wants a reply", "recv", "--ack", "--wait=10s")

	// A late answer is told from the other mail.
	v.in(peer, 3, "^$", "reply before you ack, or name the receiver with --to", "reply", "q-2", "here")
	v.in(peer, 0, "", "accepted", "send", me, "something else")
	v.in(peer, 0, "", "accepted", "reply", "q-2", "here", "--to", me)
	v.in(me, 0, "^here$", "from worker-1", "recv", "--in-reply-to=q-2", "--ack", "--wait=10s")
	v.in(me, 0, "^something else$", "", "recv", "--ack", "--wait=10s")
}

// ---- tasks of an agent that lives longer than a task; all of this on worker-0

func (v *verbs) byHand() {
	const me = "worker-0"
	v.in(me, 3, "^$", "", "task", "next", "--wait=200ms")
	id := v.give("hand", "first body", "--key=k-1", "--label=kind=hand", "--label", "who=me", "--id=first")
	next := v.in(me, 0, `^\{.*\}\nfirst body$`, "^$", "task", "next", "--wait=20s", "--json")
	var leased struct {
		ID, Key        string
		Attempt        int
		MaxResultBytes int
		Labels         map[string]string
	}
	if err := json.Unmarshal([]byte(strings.SplitN(next.out, "\n", 2)[0]), &leased); err != nil {
		v.Errorf("task next --json: %v", err)
	}
	v.equal("task next --json", fmt.Sprint(leased), fmt.Sprintf("{%s k-1 1 1000 map[kind:hand who:me]}", id))
	v.in(me, 0, "^$", "^$", "task", "progress", id, "half", "way", "--attempt=1")
	v.person(0, `(?m)^`+id+` +running +1/3 +worker-0 +V2 +\S+ +half way `, "^$", "get", "tasks", "hand")
	v.in(me, 7, "^$", "", "task", "progress", id, "late", "--attempt=2")
	v.in(me, 0, "^$", "^$", "task", "done", id, "the result", "--attempt=1", "--branch=topic", "--commit=c0ffee")
	v.in(me, 0, "^$", "^$", "task", "done", id, "the result", "--attempt=1", "--branch=topic", "--commit=c0ffee") // as after a lost answer
	v.person(0, "^the result$", "^$", "result", "task/"+id)
	v.person(1, "^$", "is done already", "cancel", id)
	v.person(0, `(?m)^Key: +k-1\nLabels: +kind=hand,who=me\n(.*\n)*Branch: +topic at c0ffee`, "^$", "describe", "task/"+id)

	// A task of the agent's own, and waiting for it.
	own := strings.TrimSpace(v.in(me, 0, `^t-0-\w+\n$`, `^task t-0-\w+ submitted, survives: (node|pod)\n$`, "task", "submit", "own", "--id=own", "--key=k-2",
		"--label=kind=own", "--label", "who=agent", "--max-attempts=2").out)
	v.in(me, 0, "^"+own+"\n$", "it had been submitted before", "task", "submit", "own", "--id=own")
	v.person(0, `(?m)^Attempt: +0 of 2\n(.*\n)*Key: +k-2\nLabels: +kind=own,who=agent\n`, "^$", "describe", "task/"+own)
	v.in(me, 5, "^$", "not all of these tasks have ended in time", "task", "wait", own, "--timeout=1s")
	v.in(me, 3, "^$", "no task t-0-nosuch", "task", "wait", "t-0-nosuch")
	v.in(me, 0, "^own$", "attempt 1", "task", "next", "--wait=20s")
	v.in(me, 0, "^$", "^$", "task", "done", own, "a sum", "--attempt=1")
	v.in(me, 0, "^a sum$", "^$", "task", "wait", own)
	other := regexp.MustCompile(`t-0-\w+`).FindString(v.in(me, 5, "^$", "(?s)^task t-0-\\w+ submitted.*not all of these tasks have ended", "task", "submit", "other", "--wait", "--timeout=2s").err)
	v.person(0, "^task/"+other+" cancelled\n$", "^$", "cancel", "task/"+other)
	v.in(me, 1, "^"+own+" done a sum\n"+other+" cancelled\n$", other+" is cancelled", "task", "wait", own, other)

	// Later is not counted, failures are.
	id = v.give("hand", "second", "--max-attempts=2")
	v.in(me, 0, "^second$", "^task "+id+", attempt 1\n$", "task", "next", "--wait=20s")
	v.in(me, 0, "^$", "^$", "task", "fail", id, "--later", "not", "now", "--attempt=1")
	for attempt := 2; attempt <= 3; attempt++ {
		v.in(me, 0, "^second$", fmt.Sprintf("^task %s, attempt %d\n$", id, attempt), "task", "next", "--wait=30s")
		v.in(me, 0, "^$", "^$", "task", "fail", id, "no luck", fmt.Sprint("--attempt=", attempt))
	}
	v.equal("a task with --max-attempts 2", fmt.Sprint(v.look(id).State, ": ", v.look(id).attempts()), "dead: try_later no, failed yes, failed yes")

	// A dead one starts anew; a bad one is dead at once.
	v.person(0, "^task/"+id+" is queued again\n$", "^$", "retry", "task/"+id)
	v.person(1, "^$", "is queued; only failed, dead and cancelled tasks can be retried", "retry", "task/"+id)
	v.in(me, 0, "^second$", "attempt 4", "task", "next", "--wait=20s")
	v.in(me, 0, "^$", "^$", "task", "fail", id, "--bad", "--attempt=4")
	v.equal("a bad task", fmt.Sprint(v.look(id).State, ": ", v.look(id).attempts()), "dead: try_later no, failed yes, failed yes, bad_task yes")

	// A task that is taken back while the agent works on it.
	v.person(0, `^task/`+id+`\n$`, "^$", "retry", "task/"+id, "-o=name", "--swarm=hand")
	v.in(me, 0, "^second$", "attempt 5", "task", "next", "--wait=20s")
	v.person(0, "^task/"+id+` is being cancelled \(now running\)\n$`, "^$", "cancel", "task/"+id)
	v.in(me, 7, "^$", "the task was cancelled: stop working on it and run: agentctl task fail "+id+" --cancelled", "task", "progress", id, "still here", "--attempt=5")
	v.in(me, 0, "^$", "^$", "task", "fail", id, "--cancelled", "--attempt=5")
	v.equal("a task that was cancelled", v.look(id).State, "cancelled")
	v.person(0, "^task/"+id+" cancelled\n$", "^$", "cancel", "task/"+id)
	waiting := v.give("hand", "never run")
	v.person(0, `"state": ?"cancelled"`, "^$", "cancel", "task/"+waiting, "-o=json", "--swarm=hand")
}

// ---- agentctl work, for one task at a time

func (v *verbs) once() {
	// once has worker-1 do one task; the task afterwards, and how long its attempt took.
	once := func(body string, code int, err string, flags ...string) (task, time.Duration) {
		v.Helper()
		id := v.give("hand", body, "--max-attempts=1")
		v.in("worker-1", code, "", err, append(append([]string{"work", "--once"}, flags...), "--", "sh")...)
		done := v.look(id)
		if len(done.History) != 1 {
			v.Fatalf("%s: %+v", body, done)
		}
		return done, time.Duration(done.History[0].EndedAt-done.History[0].StartedAt) * time.Millisecond
	}
	between := func(what string, took, least, most time.Duration) {
		v.Helper()
		if small() {
			most *= smallSlack
		}
		if took < least || took > most {
			v.Errorf("%s ended after %s, must be %s to %s", what, took, least, most)
		}
	}
	timed, took := once("while :; do echo busy; sleep 0.1; done", 1, "", "--timeout=1s")
	v.equal("a run beyond --timeout", timed.State+": "+timed.attempts(), "dead: timeout yes")
	between("a run with --timeout=1s", took, time.Second, 5*time.Second)
	idle, took := once("sleep 60", 1, "", "--idle-timeout=4s")
	v.equal("an idle run", idle.State+": "+idle.attempts(), "dead: idle_timeout yes")
	between("a run with --idle-timeout=4s", took, 4*time.Second, 9*time.Second)
	busy, _ := once("for i in 1 2 3; do echo $i; sleep 1.5; done", 0, "", "--idle-timeout=4s")
	v.equal("a run that is not idle", busy.State+": "+busy.attempts(), "done: done yes")
	deaf, took := once("trap '' TERM; while :; do sleep 0.1; done", 1, "", "--timeout=1s", "--grace=2s")
	v.equal("a run that does not hear SIGTERM", deaf.State+": "+deaf.attempts(), "dead: timeout yes")
	between("a run with --timeout=1s --grace=2s", took, 3*time.Second, 8*time.Second)

	// What the CLI does not say is told, and fails nothing.
	once("echo no object", 0, `\[t-0-\w+ 1\] no usage: the output has not the object that claude -p prints`, "--usage=claude")

	priced, _ := once(`echo '{"type":"turn.completed","usage":{"input_tokens":3000000,"cached_input_tokens":1000000,"output_tokens":500000}}'`,
		0, "", "--usage=codex", "--price-in=1.25", "--price-cached=0.5", "--price-out=10")
	v.person(0, `(?m)^Cost: +\$8\.00 \(3M tokens in, 500k out\)$`, "^$", "describe", "task", priced.ID, "--swarm=hand")

	// No more than is asked for, nor than the swarm takes.
	cut, _ := once("printf 0123456789", 0, "", "--max-output=4")
	v.person(0, "^0123$", "longer than what is kept", "result", "task/"+cut.ID)
	cut, _ = once("head -c 1500 /dev/zero | tr '\\0' x", 0, "", "--max-output=2000")
	v.person(0, "^x{1000}$", "longer than what is kept", "result", "task/"+cut.ID)
}

// ---- agentctl work with git, and all of kubectl swarm

func (v *verbs) exitCodes() {
	bad := v.person(1, "^$", "(?m)^task/t-0-\\w+ submitted to work .*\nerror: task t-0-\\w+ is dead after 1 attempt: bad_task, exit code 65", "submit", "work",
		"echo no task >&2; exit 65", "--wait", "--label=kind=bad")
	id := regexp.MustCompile(`t-0-\w+`).FindString(bad.err)
	v.equal("exit code 65", v.look(id).attempts(), "bad_task yes")
	later := v.person(0, "^now$", "", "submit", "work", "[ $SWARM_TASK_ATTEMPT != 1 ] || exit 75; printf now", "--wait", "--timeout=50s", "--label=kind=later")
	id = regexp.MustCompile(`t-0-\w+`).FindString(later.err)
	v.equal("exit code 75", v.look(id).attempts(), "try_later no, done yes")
}

// limited is what a team does whose model refuses: nobody else may use it meanwhile, since both agents are needed.
func (v *verbs) limited() {
	// Two of them in a row on different workers (both are at work at once) are a rate limit, and everybody's: the team waits,
	// says so, and goes on.
	var limited []string
	together := fmt.Sprintf("while [ $(date +%%s) -lt %d ]; do sleep 0.2; done; exit 75", time.Now().Add(8*time.Second).Unix())
	for range 2 {
		told := v.person(0, `^task/t-0-\w+ `, "^$", "submit", "work", "[ $SWARM_TASK_ATTEMPT != 1 ] || { "+together+"; }; printf now", "--label=kind=limited")
		limited = append(limited, regexp.MustCompile(`t-0-\w+`).FindString(told.out))
	}
	v.eventually(20*time.Second, "a team that waits", func() string {
		got, _ := v.trySwarm("top", "work", "--once")
		if regexp.MustCompile(`(?m)^wait   no task is handed out for [1-5]s: 2 attempts in a row were told to try later \(`).MatchString(got) {
			return ""
		}
		return got
	})
	v.eventually(20*time.Second, "describe of a team that waits, or has waited", func() string {
		got, _ := v.trySwarm("describe", "work")
		if strings.Contains(got, "\nWaits:        no task is handed out for ") || v.look(limited[0]).State == "done" {
			return ""
		}
		return got
	})
	for _, id := range limited {
		v.eventually(time.Minute, "the end of "+id, func() string {
			if task := v.look(id); task.State != "done" {
				return task.State + ": " + task.attempts()
			}
			return ""
		})
		v.equal("a rate limit", v.look(id).attempts(), "try_later no, done yes")
	}
	if got, _ := v.trySwarm("top", "work", "--once"); strings.Contains(got, "wait ") {
		v.Errorf("the wait is over: %s", got)
	}
}

// startRepository serves git://repo/app with branches main and other to the agents.
func (w *world) startRepository() {
	w.Helper()
	yes, no, user := true, false, int64(1000)
	script := `set -e; cd /srv; git init -q --bare -b main app; git clone -q app seed 2>/dev/null; cd seed; git config user.name e2e; git config user.email e2e@invalid
git checkout -q -b main; echo main >which; git add .; git commit -q -m first; git push -q origin main
git checkout -q -b other; echo other >which; git commit -q -a -m second; git push -q origin other
exec git daemon --reuseaddr --export-all --enable=receive-pack --base-path=/srv /srv`
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "repo", Labels: map[string]string{"app": "repo"}}, Spec: corev1.PodSpec{
		AutomountServiceAccountToken: &no, TerminationGracePeriodSeconds: new(int64),
		SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &user, RunAsGroup: &user, FSGroup: &user,
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers: []corev1.Container{{Name: "git", Image: agentImage, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sh", "-c", script},
			SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			VolumeMounts:    []corev1.VolumeMount{{Name: "srv", MountPath: "/srv"}}}},
		Volumes: []corev1.Volume{{Name: "srv", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}}}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "repo"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "repo"}, Ports: []corev1.ServicePort{{Name: "git", Port: 9418}}}}
	if _, err := clientset.CoreV1().Services(w.ns).Create(w.ctx, service, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	if _, err := clientset.CoreV1().Pods(w.ns).Create(w.ctx, pod, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	w.eventually(time.Minute, "the git server", func() string {
		_, err := w.try(20*time.Second, "kubectl", "-n", w.ns, "exec", "repo", "--", "git", "ls-remote", "--exit-code", "git://localhost/app", "other")
		return strings.TrimSpace(errorText(err))
	})
}

// repository: a clone of the branch asked for, and what was made of it on a branch of the task's own.
func (v *verbs) repository() {
	git := func(args ...string) string {
		v.Helper()
		return strings.TrimSpace(v.kubectl(append([]string{"exec", "repo", "--", "git", "-C", "/srv/app"}, args...)...))
	}
	id := v.give("work", "cat which; echo one >one; git add one; git commit -q -m 'by the agent'; echo two >two", "--label=kind=git")
	v.person(0, "^other\n$", "", "result", "task/"+id, "--wait", "--timeout=60s")
	v.person(0, `(?m)^`+id+` +done .* swarm/`+id+`$`, "^$", "get", "task/"+id)
	v.person(0, `(?m)^Branch: +swarm/`+id+` at `+git("rev-parse", "swarm/"+id), "^$", "describe", "task", id, "--swarm=work")
	v.person(0, `^`+id+` is done\nNext:\n  kubectl swarm result task/`+id+`\n$`, "^$", "why", "task", id, "--swarm=work")
	v.equal("what the branch adds", git("diff", "--name-only", "other", "swarm/"+id), "one\ntwo")
	agent := v.look(id).Agent
	v.equal("its commits", git("log", "--format=%(trailers:key=Task-Id,valueonly,separator=%x2C)|%an", "other..swarm/"+id), id+"|"+agent+"\n|"+agent)
	unchanged := v.give("work", "git log --format=%s -1", "--key=k")
	v.person(0, "^second\n$", "", "result", unchanged, "--wait", "--swarm=work", "-o", "-")
	v.equal("branches", git("for-each-ref", "--format=%(refname:short)", "refs/heads/swarm"), "swarm/"+id)
}

// running: a task is looked at and ended while it runs.
func (v *verbs) running() {
	var pod string
	runs := func(id string) {
		v.Helper()
		v.eventually(20*time.Second, id+" runs", func() string {
			one := v.look(id)
			if one.State == "running" && one.LastOutput != "" {
				pod = one.Pod
				return ""
			}
			return fmt.Sprintf("%+v", one)
		})
	}
	id := v.give("work", "echo one; until [ -e /tmp/go ]; do sleep 0.2; done; echo two", "--label=kind=long")
	follow := v.start("logs", "-f", "task/"+id, "--prefix", "--swarm=work")
	v.equal("logs -f, first", follow.line(30*time.Second), "["+id+" 1] one")
	runs(id)
	v.person(3, "^$", "it is running. --wait waits for it", "result", "task/"+id)
	v.person(5, "^$", "(?s)"+id+".*", "result", "task/"+id, "--wait", "--timeout=5s")
	v.kubectl("exec", pod, "-c", "agent", "--", "touch", "/tmp/go")
	v.equal("logs -f, then", follow.line(30*time.Second), "["+id+" 1] two")
	v.equal("logs -f, its end", follow.end(30*time.Second), "exit code 0")
	v.person(0, "^two\n$", "^$", "logs", "task/"+id, "--tail=1")

	// Whatever the task has started ends with it, in whatever session it is.
	id = v.give("work", "sleep 31416 & setsid sleep 31416 & echo started; sleep 31416", "--label=kind=long")
	runs(id)
	sleeping := func() int {
		out, _ := v.try(time.Minute, "kubectl", "-n", v.ns, "exec", pod, "-c", "agent", "--", "pgrep", "-fx", "sleep 31416")
		return len(strings.Fields(out))
	}
	v.eventually(10*time.Second, "what the task has started", func() string {
		if n := sleeping(); n != 3 {
			return fmt.Sprintf("%d processes instead of 3", n)
		}
		return ""
	})
	v.person(0, "^task/"+id+"\n$", "^$", "cancel", "task/"+id, "-o", "name")
	v.eventually(15*time.Second, "the end of a cancelled task", func() string {
		if one := v.look(id); one.State != "cancelled" {
			return one.State
		}
		return ""
	})
	v.equal("processes of a cancelled task", sleeping(), 0)
}

func (v *verbs) watched() {
	watch := v.start("get", "tasks", "work", "-w", "-l", "kind=watched", "-o", "wide")
	v.equal("get -w, its header", strings.Join(strings.Fields(watch.line(20*time.Second)), " "), "TASK STATE ATTEMPT AGENT VERSION AGE LAST-OUTPUT RESULT COST TOKENS KEY POD LABELS")
	id := v.give("work", "echo seen; sleep 3; echo ok", "--label=kind=watched")
	for _, state := range []string{"running", "done"} {
		for line := ""; !regexp.MustCompile("^" + id + " +" + state + " .* kind=watched$").MatchString(line); {
			if line = watch.line(30 * time.Second); line == "" {
				v.Fatalf("get -w: %s is never %s", id, state)
			}
		}
	}
	watch.stop()
}

// lists: what there is, in every form.
func (v *verbs) lists() {
	file := filepath.Join(v.TempDir(), "lines")
	if err := os.WriteFile(file, []byte("{\"name\": \"l-1\", \"module\": \"a\"}\n\n{\"name\": \"l-2\", \"module\": \"b\"}\n{\"name\": \"l-3\", \"module\": \"a\"}\n"), 0o600); err != nil {
		v.Fatal(err)
	}
	lines := []string{"submit", "work", "--lines", file, "--id-field=name", "--key-field=module", "--label=kind=line", "--label=batch=1"}
	v.person(0, `^(task/t-0-\w+ submitted to work \(survives: \w+\)\n){3}$`, "", lines...)
	v.person(0, `^(task/t-0-\w+ submitted to work \(survives: \w+; it had been submitted before\)\n){3}$`, "", lines...)
	v.eventually(time.Minute, "the lines done", func() string {
		got := v.person(0, "", "", "get", "tasks", "work", "-l=batch=1", "--state", "done")
		if strings.Count(got.out, "\n") == 4 {
			return ""
		}
		return "done are only\n" + got.out
	})
	chosen := func(want int, flags ...string) {
		v.Helper()
		got := v.person(0, "", "", append([]string{"get", "tasks", "--swarm=work", "-o=name"}, flags...)...)
		v.equal(fmt.Sprint("tasks chosen by ", flags), len(regexp.MustCompile(`(?m)^task/t-0-\w+$`).FindAllString(got.out, -1)), want)
		v.equal(fmt.Sprint("lines of get -o name ", flags), strings.Count(got.out, "\n"), want)
	}
	chosen(3, "-l", "kind=line,batch")
	chosen(1, "-l=kind=bad")
	chosen(1, "--state=dead", "-l", "kind!=line")
	chosen(0, "--state=dead,cancelled", "-l=!kind")
	v.person(0, `(?m)^t-0-\w+ +done +1/3 +worker-\d +V2 +\S+ +json +json +- +- +a +work-w\d-\S+ +batch=1,kind=line$`, "^$", "get", "tasks", "work", "-o", "wide")
	// The same objects as JSON and as YAML.
	forms := func(member string, least int, args ...string) {
		v.Helper()
		var asJSON, asYAML map[string][]object
		if err := json.Unmarshal([]byte(v.person(0, `^\{`, "^$", append(args, "-o=json")...).out), &asJSON); err != nil {
			v.Errorf("%v -o json: %v", args, err)
		}
		if err := yaml.Unmarshal([]byte(v.person(0, "^"+member+":\n", "^$", append(args, "-o", "yaml")...).out), &asYAML); err != nil {
			v.Errorf("%v -o yaml: %v", args, err)
		}
		names := func(list []object) (out []any) {
			for _, one := range list {
				out = append(out, one["id"], one["name"], one["pod"])
			}
			return out
		}
		if !v.equal(fmt.Sprint(args, " as YAML and as JSON"), names(asYAML[member]), names(asJSON[member])) {
			v.Logf("as JSON: %v\nas YAML: %v", asJSON, asYAML)
		}
		if len(asJSON[member]) < least {
			v.Errorf("%v: %d %s, at least %d", args, len(asJSON[member]), member, least)
		}
	}
	forms("tasks", 3, "get", "tasks", "work", "-l=kind=line")
	forms("agents", 3, "get", "agents", "work")
	v.person(0, `^agent/coordinator-0\nagent/worker-0\nagent/worker-1\n$`, "^$", "get", "agents", "work", "-o", "name")
	v.person(0, `^coordinator-0 .*\nworker-0 .*\nworker-1 .*\n$`, "^$", "get", "agents", "work", "--no-headers")
	v.person(0, `^NAME +STATE +TASK +SINCE +DONE +NODE +POD +ROLE +TEAM +VERSION +INBOX +OUTBOX +STUCK\n(.*\n)*worker-1 +(idle|busy) +\S+ +\S+ +\d+ +\S+ +work-w1-\S+ +worker +0 `, "^$",
		"get", "agents", "work", "-o=wide")
	v.person(0, `(?m)^Agent: +worker-0\nSwarm: +work\nRole: +worker, team 0\n`, "^$", "describe", "agent/worker-0", "--swarm=work")
	v.person(0, `(?m)^Name: +work\n(.*\n)*Agents: +2/2 ready(.*\n)* +Ready +True +(Idle|Working)`, "^$", "describe", "work")
	v.person(0, `^apiVersion: cfn.dev/v1alpha1\n`, "^$", "describe", "swarm/work", "-o", "yaml")
	v.person(0, `^work is (Idle|Working) for \S+: 2 of 2 agents ready.*\nNext:\n  kubectl swarm `, "^$", "why", "work")
	v.person(0, `^worker-0 is (idle|busy) for .*\nNext:\n  kubectl swarm why `, "^$", "why", "agent/worker-0", "--swarm=work")
	top := `^swarm work   V2 100% \(measured 100%\)\ntasks  queued \d+  running \d+  done [1-9]\d*  dead 1  cancelled \d+\nmail .*\nagents 3, busy \d\n\nNAME +STATE `
	v.person(0, top, "^$", "top", "work")
	v.person(0, top, "^$", "top", "--once", "--swarm=work")

	file = filepath.Join(v.TempDir(), "result")
	id := v.give("work", "printf 'in a file'")
	v.person(0, "^$", "^$", "result", id, "--wait", "-o="+file)
	if text, err := os.ReadFile(file); err != nil || string(text) != "in a file" {
		v.Errorf("result -o: %q, %v", text, err)
	}
	v.person(0, `^kubectl-swarm \d`, "^$", "version")
	v.personWith("piped", 0, `(?m)^id: t-0-\w+$`, "^$", "submit", "work", "-o", "yaml")
	kubeconfig := os.Getenv("KUBECONFIG")
	v.person(0, "^NAME ", "^$", "get", "agents", "work", "--kubeconfig="+kubeconfig, "--context", strings.TrimSpace(v.kubectl("config", "current-context")))
}

// stream is a kubectl swarm that goes on.
type stream struct {
	v     *verbs
	what  string
	cmd   *exec.Cmd
	lines chan string
	rest  chan string // stderr, when it has ended
}

func (v *verbs) start(args ...string) *stream {
	v.Helper()
	args = append(args, "-n", v.ns)
	v.used.note("kubectl-swarm", args)
	s := &stream{v: v, what: "kubectl swarm " + strings.Join(args, " "), cmd: exec.Command("kubectl", append([]string{"swarm"}, args...)...),
		lines: make(chan string, 1000), rest: make(chan string, 1)}
	out, err := s.cmd.StdoutPipe()
	errors, errErr := s.cmd.StderrPipe()
	if err != nil || errErr != nil {
		v.Fatal(err, errErr)
	}
	if err := s.cmd.Start(); err != nil {
		v.Fatal(err)
	}
	go func() {
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			s.lines <- scanner.Text()
		}
		close(s.lines)
	}()
	go func() {
		text, _ := io.ReadAll(errors)
		s.rest <- string(text)
	}()
	v.Cleanup(func() { s.cmd.Process.Signal(syscall.SIGTERM) })
	return s
}

// line is the next one; "" when none came.
func (s *stream) line(limit time.Duration) string {
	s.v.Helper()
	if small() {
		limit *= smallSlack
	}
	select {
	case line, ok := <-s.lines:
		if ok {
			return line
		}
		s.v.Errorf("%s has ended: %s", s.what, <-s.rest)
	case <-time.After(limit):
		s.v.Errorf("%s: no line within %s", s.what, limit)
	}
	return ""
}

// end waits for its end.
func (s *stream) end(limit time.Duration) string {
	if small() {
		limit *= smallSlack
	}
	deadline := time.After(limit)
	for {
		select {
		case line, ok := <-s.lines:
			if ok {
				return "another line: " + line
			}
			text := <-s.rest
			s.cmd.Wait()
			return strings.TrimSpace(fmt.Sprintf("exit code %d %s", s.cmd.ProcessState.ExitCode(), text))
		case <-deadline:
			return fmt.Sprintf("it still runs after %s", limit)
		}
	}
}

// stop ends what goes on for ever, as Ctrl-C does.
func (s *stream) stop() {
	s.cmd.Process.Signal(os.Interrupt)
	for range s.lines {
	}
	<-s.rest
	s.cmd.Wait()
}
