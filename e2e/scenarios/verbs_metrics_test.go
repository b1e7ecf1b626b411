package scenarios

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// exposition is what a /metrics says.
type exposition struct {
	kinds  map[string]string  // "swarm_operator_leader": "gauge"
	labels map[string]string  // by name, sorted, without le: "method, status"
	values map[string]float64 // "swarm_team_tasks{state=\"done\"}": 3
}

func (w *world) scrape(pod corev1.Pod, port string, path string) string {
	w.Helper()
	answer, err := clientset.CoreV1().RESTClient().Get().Namespace(pod.Namespace).Resource("pods").Name(pod.Name + ":" + port).
		SubResource("proxy").Suffix(path).DoRaw(w.ctx)
	if err != nil {
		w.Errorf("%s of %s: %v: %s", path, pod.Name, err, answer)
	}
	return string(answer)
}

var (
	typeLine   = regexp.MustCompile(`^# TYPE (\w+) (\w+)$`)
	helpLine   = regexp.MustCompile(`^# HELP (\w+) \S.*$`)
	sampleLine = regexp.MustCompile(`^(\w+)(\{.*\})? (\S+)$`)
	labelName  = regexp.MustCompile(`(\w+)="`)
)

// exposed reads one and complains about what a linter of the format would.
func (w *world) exposed(who, text string) exposition {
	w.Helper()
	e := exposition{map[string]string{}, map[string]string{}, map[string]float64{}}
	help := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if m := typeLine.FindStringSubmatch(line); m != nil {
			e.kinds[m[1]] = m[2]
		} else if m := helpLine.FindStringSubmatch(line); m != nil {
			help[m[1]] = true
		} else if m := sampleLine.FindStringSubmatch(line); m != nil {
			value, err := strconv.ParseFloat(m[3], 64)
			if err != nil {
				w.Errorf("%s: %s: %v", who, line, err)
			}
			e.values[m[1]+m[2]] = value
			name := m[1]
			if base := regexp.MustCompile("_(bucket|sum|count)$").ReplaceAllString(name, ""); e.kinds[base] == "histogram" {
				name = base
			}
			if e.kinds[name] == "" {
				w.Errorf("%s: %s has no type", who, line)
			}
			names := []string{}
			for _, label := range labelName.FindAllStringSubmatch(m[2], -1) {
				if label[1] != "le" {
					names = append(names, label[1])
				}
			}
			slices.Sort(names)
			e.labels[name] = strings.Join(names, ", ")
		} else {
			w.Errorf("%s: no line of a metric: %q", who, line)
		}
	}
	for name, kind := range e.kinds {
		if strings.HasSuffix(name, "_total") != (kind == "counter") || strings.HasSuffix(name, "_count") || !help[name] {
			w.Errorf("%s: %s is a %s, described: %v", who, name, kind, help[name])
		}
	}
	return e
}

// documented are the rows "| `name` | type | labels | …" below a heading of docs/metrics.md.
func (w *world) documented(headings ...string) map[string]string {
	w.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs/metrics.md"))
	if err != nil {
		w.Fatal(err)
	}
	out := map[string]string{}
	for _, heading := range headings {
		_, section, found := strings.Cut(string(text), "\n## "+heading+"\n")
		if !found {
			w.Fatalf("docs/metrics.md has no %q", heading)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\w+) \\| ([^|]*?) *\\| .* \\|$").FindAllStringSubmatch(section, -1) {
			out[row[1]] = row[2] + " " + strings.ReplaceAll(row[3], "`", "")
		}
	}
	return out
}

// metrics: operator and sidecars say that they are well, and measure what docs/metrics.md lists, no more and no less.
func (w *world) metrics(hand, work string) {
	w.Helper()
	compare := func(who string, e exposition, headings ...string) {
		w.Helper()
		got, want := map[string]string{}, w.documented(headings...)
		for name, kind := range e.kinds {
			got[name] = kind + " " + e.labels[name]
		}
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if got[name] != want[name] {
				w.Errorf("%s: %s is %q, and %q in docs/metrics.md", who, name, got[name], want[name])
			}
		}
		for _, name := range slices.Sorted(maps.Keys(got)) {
			if want[name] == "" {
				w.Errorf("%s: %s is not in docs/metrics.md", who, name)
			}
		}
		if len(want) < 5 {
			w.Errorf("%s: docs/metrics.md has %d metrics", who, len(want))
		}
	}
	within := func(who string, e exposition, name string, least, most float64) {
		w.Helper()
		if value, there := e.values[name]; !there || value < least || value > most {
			w.Errorf("%s: %s is %v (there: %v), must be %v to %v", who, name, value, there, least, most)
		}
	}
	const many = 1e12

	operators, err := clientset.CoreV1().Pods("").List(w.ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=swarm-operator"})
	if err != nil {
		w.Fatal(err)
	}
	leaders := 0
	for _, pod := range operators.Items {
		if !ready(pod) {
			continue
		}
		if got := w.scrape(pod, "8080", "healthz"); got != "ok\n" {
			w.Errorf("the operator's /healthz: %q", got)
		}
		if got := w.scrape(pod, "8080", "readyz"); got == "ok, waiting\n" {
			continue
		} else if got != "ok, leading\n" {
			w.Errorf("the operator's /readyz: %q", got)
		}
		leaders++
		e := w.exposed(pod.Name, w.scrape(pod, "8080", "metrics"))
		compare("operator", e, "Operator")
		within("operator", e, "swarm_operator_leader", 1, 1)
		within("operator", e, "swarm_operator_swarms", 2, 1000)
		within("operator", e, "swarm_operator_pods", 6, 10000)
		within("operator", e, `swarm_operator_reconciles_total{result="ok"}`, 2, many)
		within("operator", e, "swarm_operator_reconcile_duration_seconds_count", 2, many)
		within("operator", e, "swarm_operator_writes_total", 6, many)
		within("operator", e, `swarm_operator_api_requests_total{method="POST",status="2xx"}`, 6, many)
	}
	if leaders != 1 {
		w.Errorf("%d operators lead", leaders)
	}

	one := func(swarm, role string) (string, exposition) {
		w.Helper()
		pods := w.live(swarm, role)
		slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
		who := swarm + "'s " + pods[0].Labels["cfn.dev/slot"]
		if got := w.scrape(pods[0], "7080", "healthz"); got != "ok\n" {
			w.Errorf("/healthz of %s: %q", who, got)
		}
		if got := w.scrape(pods[0], "7080", "readyz"); got != "ready\n" {
			w.Errorf("/readyz of %s: %q", who, got)
		}
		return who, w.exposed(who, w.scrape(pods[0], "7080", "metrics"))
	}
	states := map[string]int{"queued": 0, "running": 0, "done": 0, "failed": 0, "dead": 0, "cancelled": 0}
	for _, one := range w.taskAPI(work).tasks() {
		states[one.State]++
	}
	who, e := one(work, "coordinator")
	compare(who, e, "Every sidecar", "Coordinators")
	for state, count := range states {
		within(who, e, fmt.Sprintf(`swarm_team_tasks{state="%s"}`, state), float64(count), float64(count))
	}
	if states["done"] == 0 || states["dead"] == 0 {
		w.Errorf("no task is done, or none is dead: this proves nothing: %v", states)
	}
	within(who, e, "swarm_team_workers", 2, 2)
	within(who, e, "swarm_agents_stuck", 0, 0)
	within(who, e, "swarm_team_tasks_waiting", 0, 0)
	within(who, e, "swarm_team_tasks_starved", 0, 0)
	within(who, e, "swarm_team_wait_cycles_total", 0, 0)
	within(who, e, "swarm_team_epoch", 1, many)
	within(who, e, "swarm_tasks_oldest_queued_seconds", 0, 0)

	who, e = one(hand, "worker") // worker-0: see messages()
	compare(who, e, "Every sidecar", "Workers")
	within(who, e, "swarm_mailbox_messages_accepted_total", 15, 46) // one is sent until somebody sees it
	within(who, e, "swarm_mailbox_messages_delivered_total", 3, 3)
	within(who, e, "swarm_mailbox_messages_acknowledged_total", 3, 3)
	within(who, e, "swarm_mailbox_inbox_messages", 0, 0)
	within(who, e, "swarm_mailbox_outbox_messages", 0, 0)
	within(who, e, "swarm_mailbox_log_available_bytes", 1<<20, 1<<30)
	within(who, e, "swarm_worker_leases", 0, 0)
}
