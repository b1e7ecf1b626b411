package scenarios

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

const settingsCommand = "make e2e SCENARIO=settings"

// TestSettings: each field of the spec that no other scenario sets does what its description says.
func TestSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restricted)
	agent := object{"command": []string{"agentctl", "work", "--", "sh"}} // a task is a script
	w.apply(swarmOf{name: "flat", replicas: 2, agent: agent, workers: object{"taskGraceSeconds": 11}, spec: object{
		"topology": object{"type": "Flat", "teamSize": 1},
		"mailbox": object{"mountPath": "/mailbox", "sizeLimit": "16Mi", "maxInboxMessages": 3, "maxMessageBytes": 1000,
			"backpressure": object{"policy": "Reject"}},
		"tasks":    object{"maxQueued": 2, "maxAttempts": 1, "resultRetentionSeconds": 600},
		"health":   object{"periodSeconds": 1, "failureThreshold": 2},
		"shutdown": object{"drainTimeoutSeconds": 7},
	}}.manifest())
	w.apply(swarmOf{name: "hybrid", replicas: 2, agent: agent, workers: object{"taskGraceSeconds": 5}, spec: object{
		"topology": object{"type": "Hybrid", "teamSize": 1},
		"mailbox": object{"maxInboxMessages": 1, "backpressure": object{"policy": "Block", "timeoutSeconds": 2},
			"spill": object{"sizeLimit": "12Mi"}},
		"tasks":    object{"resultRetentionSeconds": 3},
		"shutdown": object{"drainTimeoutSeconds": 5},
	}}.manifest())
	// Journals of a class that nobody has: its pods wait.
	w.apply(swarmOf{name: "kept", replicas: 1, agent: agent, spec: object{
		"mailbox": object{"sizeLimit": "10Mi", "persistence": object{"type": "Journal", "storageClassName": "no-such-class"}}}}.manifest())
	w.readySwarm("flat", 2)
	w.readySwarm("hybrid", 2)

	set, checked := 0, 0
	check := func(field, want string, got any) {
		t.Helper()
		set++
		if fmt.Sprint(got) == want {
			checked++
		} else {
			w.Errorf("%s: %v instead of %s", field, got, want)
		}
	}
	// send says how a message was answered: its exit code's meaning, and after how long.
	// The time is the call's own: how long it takes to get into a container depends on the machine.
	send := func(swarm, body string) (string, time.Duration) {
		out, err := w.inAgent(swarm, "worker-0", "bash", "-c",
			`begin=${EPOCHREALTIME/./}; agentctl send worker-1 "$1" >/dev/null; echo $? $((${EPOCHREALTIME/./} - begin))`, "-", body)
		var code, took int64
		if _, bad := fmt.Sscan(out, &code, &took); bad != nil {
			return fmt.Sprint(out, err), 0
		}
		answer, known := map[int64]string{0: "accepted", 4: "full"}[code]
		if !known {
			answer = fmt.Sprint("exit code ", code)
		}
		return answer, time.Duration(took) * time.Microsecond
	}

	for name, coordinators := range map[string]int{"flat": 1, "hybrid": 2} {
		check(name+": topology.type and teamSize", fmt.Sprintf("%s %d %d", strings.ToUpper(name[:1])+name[1:], coordinators, coordinators),
			fmt.Sprint(w.object(name).Status.Topology.Type, " ", w.object(name).Status.Topology.Coordinators, " ", len(w.live(name, "coordinator"))))
	}
	pod := w.live("flat", "worker")[0]
	check("workers.taskGraceSeconds, shutdown.drainTimeoutSeconds", "true", *pod.Spec.TerminationGracePeriodSeconds >= 11+7 && *pod.Spec.TerminationGracePeriodSeconds < 11+7+30)
	socket, err := w.inAgent("flat", "worker-0", "sh", "-c", "test -S /mailbox/agent.sock && echo $CFN_SOCKET && agentctl whoami >/dev/null")
	check("mailbox.mountPath", "/mailbox/agent.sock", strings.TrimSpace(socket)+errorText(err))
	tmpfs := w.kubectl("exec", pod.Name, "-c", "cfn-sidecar", "--", "/bin/sh", "-c", `while read -r line; do case "$line" in *size=16384k*) echo 16Mi; exit; esac; done </proc/mounts`)
	check("mailbox.sizeLimit", "16Mi", strings.TrimSpace(tmpfs))
	disk := w.kubectl("exec", w.live("hybrid", "worker")[0].Name, "-c", "cfn-sidecar", "--", "/bin/sh", "-c", `while read -r line; do case "$line" in *" $CFN_SPILL_PATH tmpfs "*) ;;
		*" $CFN_SPILL_PATH "*) echo $CFN_SPILL_BYTES; exit; esac; done </proc/mounts`)
	check("mailbox.spill.sizeLimit", fmt.Sprint(12<<20), strings.TrimSpace(disk))
	claims := w.kubectl("get", "pvc", "-l", "cfn.dev/swarm=kept", "--sort-by=.metadata.name", "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.spec.storageClassName} {.spec.accessModes[0]} {.spec.resources.requests.storage} {end}`)
	check("mailbox.persistence.type, storageClassName", "kept-c0-journal no-such-class ReadWriteOnce 26Mi kept-w0-journal no-such-class ReadWriteOnce 26Mi", strings.TrimSpace(claims))
	w.eventually(time.Minute, "the condition names the claim and the next command", func() string {
		c := w.object("kept").condition("Reconciling")
		if c.Reason == "JournalPending" && strings.Contains(c.Message, "no-such-class") && strings.Contains(c.Message, "Next: kubectl describe pvc kept-") {
			return ""
		}
		return fmt.Sprintf("%+v", c)
	})

	_, err = w.inAgent("flat", "worker-0", "agentctl", "send", "worker-1", strings.Repeat("x", 1001))
	check("mailbox.maxMessageBytes", "true", err != nil && strings.Contains(err.Error(), "1000"))
	for range 3 {
		if got, _ := send("flat", "hello"); got != "accepted" {
			w.Errorf("a message below the limit: %s", got)
		}
	}
	got, took := send("flat", "one too many")
	check("mailbox.maxInboxMessages", "full", got)
	check("mailbox.backpressure.policy Reject", "true", took > 0 && took < 2*time.Second)
	if got, _ := send("hybrid", "hello"); got != "accepted" {
		w.Errorf("a message below the limit: %s", got)
	}
	got, took = send("hybrid", "one too many")
	check("mailbox.backpressure.policy Block", "full", got)
	check("mailbox.backpressure.timeoutSeconds 2", "true", took >= 2*time.Second && took < 5*time.Second) // 5 s without it
	t.Logf("refused after %s", seconds(took))

	api := w.taskAPI("hybrid")
	id := api.submit("short", "echo ok").ID
	w.eventually(time.Minute, "a result that has expired", func() string {
		status, answer, _ := api.call("GET", "v1/tasks/"+id, nil, nil)
		if status == http.StatusNotFound && strings.Contains(string(answer), "expired") {
			return ""
		}
		return fmt.Sprint(status, string(answer))
	})
	check("tasks.resultRetentionSeconds", "true", true)

	api = w.taskAPI("flat")
	// One attempt is all: the same task elsewhere has three.
	failing := api.submit("failing", "exit 1").ID
	w.eventually(time.Minute, "a dead letter", func() string {
		for _, one := range api.tasks() {
			if one.ID == failing && one.State == "dead" {
				check("tasks.maxAttempts", "1", one.Attempt)
				return ""
			}
		}
		return "not dead"
	})

	// Both agents are at work; what comes now waits, up to maxQueued.
	long := map[string]bool{api.submit("long-0", "sleep 60").ID: true, api.submit("long-1", "sleep 60").ID: true}
	running := func() map[string]string {
		out := map[string]string{}
		for _, one := range api.tasks() {
			if one.State == "running" {
				out[one.ID] = one.Agent
			}
		}
		return out
	}
	w.eventually(time.Minute, "two tasks running", func() string {
		if n := len(running()); n != 2 {
			return fmt.Sprint(n)
		}
		return ""
	})
	api.submit("waits-0", "true")
	api.submit("waits-1", "true")
	status, answer, _ := api.call("POST", "v1/tasks", nil, object{"id": "waits-2", "body": "true"})
	check("tasks.maxQueued", "429", status)
	if !strings.Contains(string(answer), "2") {
		w.Errorf("the refusal does not name the limit: %s", answer)
	}

	// An agent's pod that is only silent: its task goes to another one after health.periodSeconds x failureThreshold = 2 s.
	silent := running()
	var task, agentName string
	for id := range long {
		task, agentName = id, silent[id]
	}
	for _, pod := range w.live("flat", "worker") {
		if pod.Labels["cfn.dev/slot"] != agentName {
			continue
		}
		signal := func(name string) {
			w.kubectl("exec", pod.Name, "-c", "cfn-sidecar", "--", "/bin/sh", "-c",
				`for p in /proc/[0-9]*; do case "$(tr '\0' ' ' <$p/cmdline 2>/dev/null)" in *swarm-sidecar" engine ") kill -`+name+` ${p#/proc/} && exit 0 ;; esac; done; exit 1`)
		}
		begin := time.Now()
		signal("STOP")
		w.eventually(20*time.Second, "the silent agent's task is taken from it", func() string {
			if running()[task] == agentName {
				return "still its"
			}
			return ""
		})
		took = time.Since(begin)
		signal("CONT")
		check("health.periodSeconds, failureThreshold", "true", took > 1500*time.Millisecond && took < 9*time.Second) // 10 s without them
		t.Logf("taken from the silent agent after %s", seconds(took))
	}
	w.result("fields of the spec that do what they say, beside those of other scenarios", settingsCommand, fmt.Sprintf("%d of %d checks", checked, set), "all", checked == set)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return " " + err.Error()
}
