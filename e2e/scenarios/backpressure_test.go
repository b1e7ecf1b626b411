package scenarios

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const backpressureCommand = "make e2e SCENARIO=backpressure"

// TestBackpressure: a hundred agents write to one that reads slowly, or not at all. Its inbox never holds more than its limit,
// every send ends with an outcome that is true, and whoever writes to somebody else does not notice.
func TestBackpressure(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restricted)
	const senderPods, inEach = 10, 10
	const senders = senderPods * inEach
	each, limit, pings, pause := 100, 1000, 1500, 1000*time.Microsecond
	if small() {
		each, limit, pings = 20, 200, 300
	}
	total := senders * each
	const slow, quiet = 0, senderPods + 1
	w.apply(swarmOf{name: "full", replicas: senderPods + 2, agent: object{"command": []string{"sleep", "infinity"}},
		workers: object{"taskGraceSeconds": 1},
		spec:    object{"shutdown": object{"drainTimeoutSeconds": 5}, "mailbox": object{"maxInboxMessages": limit}}}.manifest())
	w.readySwarm("full", senderPods+2)
	pods := map[string]string{}
	for _, pod := range w.live("full", "worker") {
		pods[pod.Labels["cfn.dev/slot"]] = pod.Name
	}
	script, err := os.ReadFile(filepath.Join("testdata", "backpressure.pl"))
	if err != nil {
		t.Fatal(err)
	}
	in := func(worker int, arguments ...any) []map[string]int {
		command := []string{"-n", w.ns, "exec", "-i", pods[fmt.Sprint("worker-", worker)], "-c", "agent", "--", "perl", "-"}
		for _, argument := range arguments {
			command = append(command, fmt.Sprint(argument))
		}
		out, err := w.tryIn(4*time.Minute, string(script), "kubectl", command...)
		if err != nil {
			w.Errorf("worker-%d %v: %v", worker, arguments, err)
		}
		return numbers(out)
	}
	first := func(lines []map[string]int) map[string]int {
		if len(lines) == 0 {
			return map[string]int{}
		}
		return lines[0]
	}

	// Latencies from a pod of senders to one who reads what comes: before, while the others' receiver stands still, after.
	ping := func() map[string]int {
		reader := make(chan []map[string]int)
		go func() { reader <- in(quiet, "read", pings, 0) }()
		out := first(in(1, "ping", fmt.Sprint("worker-", quiet), pings))
		if read := first(<-reader)["read"]; read != pings {
			w.Errorf("of %d pings %d were read", pings, read)
		}
		return out
	}
	send := func(each int, timeout time.Duration) chan map[string]int {
		sum := make(chan map[string]int)
		counts := make(chan []map[string]int)
		for pod := range senderPods {
			go func() {
				counts <- in(1+pod, "send", fmt.Sprint("worker-", slow), inEach, each, timeout.Milliseconds())
			}()
		}
		go func() {
			total := map[string]int{}
			for range senderPods {
				for _, line := range <-counts {
					for key, value := range line {
						total[key] += value
					}
					total["senders"]++
				}
			}
			sum <- total
		}()
		return sum
	}
	fills := func(what string) {
		w.eventually(time.Minute, what, func() string {
			if fill := first(in(slow, "fill"))["fill"]; fill != limit && !w.Failed() {
				return fmt.Sprintf("%d messages in an inbox of %d", fill, limit)
			}
			return ""
		})
	}
	outcomes := func(sum map[string]int) string {
		var words []string
		for key, count := range sum {
			if !slices.Contains([]string{"sender", "senders", "took", "longest"}, key) {
				words = append(words, fmt.Sprintf("%d %s", count, key))
			}
		}
		slices.Sort(words)
		return strings.Join(words, ", ")
	}

	before := ping()
	all := send(each, 3*time.Minute)
	fills("the inbox is full")
	// Said to whoever looks at the Swarm, until nobody is refused any more.
	pressure := func() string {
		return w.kubectl("get", "swarm", "full", "-o", `jsonpath={.status.conditions[?(@.type=="MailboxPressure")].message}`)
	}
	words := fmt.Sprintf("worker-%d's inbox is full (%d of %d messages)", slow, limit, limit)
	told := w.eventually(time.Minute, "the Swarm has condition MailboxPressure", func() string {
		if message := pressure(); !strings.HasPrefix(message, words) {
			return fmt.Sprintf("%q", message)
		}
		return ""
	})
	during := ping()
	read := first(in(slow, "read", total, pause.Microseconds()))
	sent := <-all
	after := ping()
	w.result(fmt.Sprintf("%d senders, %d messages, an inbox of %d, a slow reader: most in the inbox", senders, total, limit), backpressureCommand,
		fmt.Sprint(read["fullest"]), fmt.Sprintf("<= %d", limit), read["fullest"] > limit/2 && read["fullest"] <= limit)
	w.result("of these sends, outcomes; messages read, read twice, out of order", backpressureCommand,
		fmt.Sprintf("%s; %d, %d, %d", outcomes(sent), read["read"], read["twice"], read["inversions"]), fmt.Sprintf("%d accepted; %d, 0, 0", total, total),
		sent["accepted"] == total && sent["senders"] == senders && read["read"] == total && read["twice"] == 0 && read["inversions"] == 0)
	if !small() { // beside other tests it would be them that are timed
		w.result("sends to others from a pod whose ten senders wait for a full inbox: p50, p99 beside those before and after (µs)", backpressureCommand,
			fmt.Sprintf("%d, %d beside %d, %d and %d, %d", during["p50"], during["p99"], before["p50"], before["p99"], after["p50"], after["p99"]),
			"p99 <= 1.1 times", during["p99"] > 0 && float64(during["p99"]) <= 1.1*float64(max(before["p99"], after["p99"])))
	}

	// Nobody reads, and the senders do not wait for long: what has no room is refused, and never arrives.
	wave := limit / senders * 3 / 2
	refused := <-send(wave, 500*time.Millisecond)
	accepted := refused["accepted"]
	rest := first(in(slow, "read", accepted, 0))
	left := first(in(slow, "fill"))["fill"]
	w.result("nobody reads: sends that were accepted, refused as full; read afterwards, left", backpressureCommand,
		fmt.Sprintf("%s; %d, %d", outcomes(refused), rest["read"], left),
		"all sends have one of two outcomes; as many as accepted, 0",
		accepted <= limit && refused["full"] > 0 && accepted+refused["full"] == wave*senders && rest["read"] == accepted && rest["twice"] == 0 && left == 0)

	w.eventually(2*time.Minute, "the condition goes when nobody is refused any more", pressure)
	events := w.kubectl("get", "events", "--field-selector", "reason=MailboxPressure", "-o", `jsonpath={range .items[*]}{.message}{"\n"}{end}`)
	bar, soon := below(told, 20*time.Second)
	w.result("an inbox is full: condition MailboxPressure says whose after; Events that do", backpressureCommand,
		fmt.Sprintf("%.1f s; %d", told.Seconds(), strings.Count(events, words)), bar+"; 1",
		soon && strings.Count(events, words) == 1 && strings.Count(events, "\n") <= 1)
}

// numbers reads lines of KEY=VALUE.
func numbers(text string) (lines []map[string]int) {
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		values := map[string]int{}
		for _, word := range strings.Fields(line) {
			key, value, _ := strings.Cut(word, "=")
			if n, err := strconv.ParseFloat(value, 64); err == nil {
				values[key] = int(n)
			}
		}
		lines = append(lines, values)
	}
	return lines
}
