package scenarios

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const agentsCommand = "make e2e SCENARIO=agents"

// TestAgents: two pods of three agents each, all of whom write to all others through the two sidecars, while one of these is
// killed. Each has its own mail, and nothing that was accepted is lost.
func TestAgents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restricted)
	const swarm, pods, each, rounds = "crew", 2, 3, 20
	var names []string
	for pod := range pods {
		for n := range each {
			names = append(names, strings.TrimSuffix(fmt.Sprintf("worker-%d.%d", pod, n), ".0"))
		}
	}
	// Sends until every other agent has accepted, and prints what it is sent. One ends with an error once, to be started again.
	script := fmt.Sprintf(`
		if [ $CFN_AGENT_ID = worker-1.2 ] && [ ! -e /dev/shm/cfn/failed ]; then : >/dev/shm/cfn/failed; exit 9; fi
		others=$(printf '%%s\n' %s | grep -vx "$CFN_AGENT_ID" | paste -sd ,)
		{ i=1; while [ $i -le %d ]; do
			until agentctl send $others "$CFN_AGENT_ID/$i" --id "$CFN_AGENT_ID:$i" --timeout 20s >/dev/null 2>&1; do sleep 0.2; done
			i=$((i+1)); sleep 0.2
		done; echo has sent all; } &
		while :; do body=$(agentctl recv --wait 20s --ack 2>/dev/null); [ -z "$body" ] || echo "got $body"; done`, strings.Join(names, " "), rounds)
	w.apply(swarmOf{name: swarm, replicas: pods, agent: object{"command": []string{"agentctl", "run", "--grace=1s", "--", "sh", "-c", script}},
		workers: object{"agentsPerPod": each, "taskGraceSeconds": 1}, spec: object{"shutdown": object{"drainTimeoutSeconds": 1}}}.manifest())
	w.readySwarm(swarm, pods)

	shown := strings.Fields(w.swarm("get", "agents", swarm, "-o", "name"))
	missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(shown, "agent/"+name) })
	w.result("agents of two pods of three each that kubectl swarm get agents does not name", agentsCommand, fmt.Sprint(missing), "[]", len(missing) == 0)

	// What each agent has got, by what it prints; agentctl run puts its name in front.
	line := regexp.MustCompile(`(?m)^(worker-[0-9.]+): got (worker-[0-9.]+)/([0-9]+)$`)
	logs := func() (out string) {
		for _, pod := range w.live(swarm, "worker") {
			said, err := w.try(30*time.Second, "kubectl", "-n", w.ns, "logs", pod.Name, "-c", "agent", "--tail=-1")
			if err != nil {
				return ""
			}
			out += said
		}
		return out
	}
	got := func() (different, repeated, foreign int) {
		seen := map[string]bool{}
		for _, found := range line.FindAllStringSubmatch(logs(), -1) {
			switch {
			case found[1] == found[2] || !slices.Contains(names, found[1]) || !slices.Contains(names, found[2]):
				foreign++
			case seen[found[0]]:
				repeated++
			}
			seen[found[0]] = true
		}
		return len(seen), repeated, foreign
	}
	all := len(names) * (len(names) - 1) * rounds
	w.eventually(2*time.Minute, "a quarter of the mail has been read", func() string {
		if n, _, _ := got(); n < all/4 {
			return fmt.Sprintf("%d of %d", n, all)
		}
		return ""
	})
	for _, pod := range w.live(swarm, "worker") {
		if pod.Labels["cfn.dev/slot"] == "worker-0" {
			w.killEngine(pod.Name)
		}
	}
	w.eventually(4*time.Minute, "all mail has been read", func() string {
		if n, _, _ := got(); n < all {
			return fmt.Sprintf("%d of %d", n, all)
		}
		return ""
	})
	different, repeated, foreign := got()
	w.result("messages between all agents of two pods of three each, one sidecar killed: read, by others than they were for", agentsCommand,
		fmt.Sprintf("%d of %d, %d; %d came again", different, all, foreign, repeated), fmt.Sprintf("%d, 0", all), different == all && foreign == 0)
	again := strings.Count(logs(), "agentctl: worker-1.2 has ended: exit code 9; started again in 1s\n")
	w.result("an agent of three in a pod that has ended with an error is started again, its neighbours are not", agentsCommand,
		fmt.Sprintf("%d, %d", again, strings.Count(logs(), " has ended: ")), "1, 1", again == 1 && strings.Count(logs(), " has ended: ") == 1)

	// A group has all agents of its pods. Each agent is who its environment says, and nobody else.
	as := func(name string, arguments ...string) (string, error) {
		return w.inAgent(swarm, "worker-0", append([]string{"env", "CFN_AGENT_ID=" + name, "agentctl"}, arguments...)...)
	}
	told, err := as("worker-0.1", "-o", "json", "send", "workers", "to all")
	w.result("agents that a message to workers from one of them reaches", agentsCommand, strings.Count(told, `"outcome":"accepted"`), fmt.Sprint(len(names)-1),
		err == nil && strings.Count(told, `"outcome":"accepted"`) == len(names)-1)
	said, err := as("worker-0.2", "whoami")
	_, stranger := as("worker-0.3", "whoami")
	own := err == nil && strings.Contains(said, "agent        worker-0.2\n")
	w.result("an agent is who CFN_AGENT_ID says; one that its pod does not have is refused with exit code 2", agentsCommand,
		fmt.Sprintf("%v, %d", own, exitCode(stranger)), "true, 2", own && exitCode(stranger) == 2)
}
