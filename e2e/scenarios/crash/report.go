package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"swarm/e2e/scenarios/messages"
)

const fewestAccepted = 1000 // of a round; with less traffic no fault meets a message

type judged struct {
	Report     messages.Report
	Violations map[messages.Kind]int
}

// total of all rounds.
type total struct {
	done
	judged
	rounds, broken int
	fewest         int // accepted messages of a round
	unended        int // rounds whose histories don't say when the last fault was over: nothing in them is late
	notes          []string
}

// sum prints what happened at each step in all rounds, and the verdict. A round is a folder with round.json and judge.json.
func sum(arguments []string) error {
	flags := flag.NewFlagSet("sum", flag.ExitOnError)
	must := flags.Int("must", 1, "kills at each step")
	command := flags.String("command", "make crash", "as the results name it; empty: a part, of which no results are kept")
	_ = flags.Parse(arguments)
	t, err := addUp(flags.Args())
	if err != nil {
		return err
	}
	kills, rarest := t.table()
	lost := t.Violations[messages.Lost]
	whole := *command != ""
	if whole && rarest < *must {
		t.notes = append(t.notes, fmt.Sprintf("a step had only %d kills, %d are to be", rarest, *must))
	}
	if whole && t.fewest < fewestAccepted {
		t.notes = append(t.notes, fmt.Sprintf("a round had only %d accepted messages", t.fewest))
	}
	if t.unended > 0 {
		t.notes = append(t.notes, fmt.Sprintf("%d rounds do not say when their last fault was over", t.unended))
	}
	for _, j := range lossJobs() {
		if whole && t.Losses[j.name] == 0 {
			t.notes = append(t.notes, j.name+" did not happen")
		}
	}
	r := t.Report
	fmt.Printf("%d rounds, %.0f s: %d sent, %d accepted, %d refused, %d unknown; %d received, %d again, %d acked, %d late acks refused, %d pairs in order; other faults: %v\n",
		t.rounds, t.Seconds, r.Sent, r.Accepted, r.Refused, r.Unknown, r.Received, r.Redelivered, r.Acked, r.Refusal, r.Ordered, t.Losses)
	for _, note := range append(t.notes, t.Failures...) {
		fmt.Println("FAILED:", note)
	}
	figure := fmt.Sprintf("lost %d of %d accepted (%s), %d other promises broken; %d kills at %d steps, at least %d at each; %d losses; drained in %.2f s",
		lost, r.Accepted, t.excused(), t.broken-lost, kills, len(steps), rarest, t.lossCount(), t.Drained)
	ok := t.broken == 0 && len(t.notes)+len(t.Failures) == 0
	if whole {
		promises(t, *command, *must, kills, rarest)
	}
	if !ok {
		fmt.Println("crash: FAIL", figure)
		os.Exit(1)
	}
	fmt.Println("crash: PASS", figure)
	return nil
}

func addUp(folders []string) (*total, error) {
	t := &total{done: done{Kills: map[string]map[string]int{}, Losses: map[string]int{}}, fewest: int(^uint(0) >> 1)}
	t.Violations = map[messages.Kind]int{}
	for _, folder := range folders {
		var d done
		var j judged
		for name, into := range map[string]any{"round.json": &d, "judge.json": &j} {
			text, err := os.ReadFile(filepath.Join(folder, name))
			if err == nil {
				err = json.Unmarshal(bytes.TrimSpace(text), into)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", filepath.Join(folder, name), err)
			}
		}
		t.rounds++
		t.Seconds += d.Seconds
		t.Drained = max(t.Drained, d.Drained, j.Report.Drained)
		t.Failures = append(t.Failures, d.Failures...)
		for step, kills := range d.Kills {
			if t.Kills[step] == nil {
				t.Kills[step] = map[string]int{}
			}
			for variant, n := range kills {
				t.Kills[step][variant] += n
			}
		}
		for what, n := range d.Losses {
			t.Losses[what] += n
		}
		for kind, n := range j.Violations {
			t.Violations[kind] += n
			t.broken += n
			t.notes = append(t.notes, fmt.Sprintf("%s: %d times in %s", kind, n, filepath.Base(folder)))
		}
		t.fewest = min(t.fewest, j.Report.Accepted)
		if !j.Report.Over {
			t.unended++
		}
		r := &t.Report
		r.Sent += j.Report.Sent
		r.Accepted += j.Report.Accepted
		r.Refused += j.Report.Refused
		r.Unknown += j.Report.Unknown
		r.Received += j.Report.Received
		r.Acked += j.Report.Acked
		r.Redelivered += j.Report.Redelivered
		r.Refusal += j.Report.Refusal
		r.Ordered += j.Report.Ordered
		r.Excused += j.Report.Excused
	}
	if t.rounds == 0 {
		return nil, fmt.Errorf("no rounds")
	}
	return t, nil
}

func (t *total) lossCount() (n int) {
	for _, one := range t.Losses {
		n += one
	}
	return n
}

// excused are the accepted messages that are missing and were never promised to survive what was done.
func (t *total) excused() string {
	return fmt.Sprintf("%d more with every pod that held them", t.Report.Excused)
}

// table of the kills at each step; how many in all, and at the step with the fewest.
func (t *total) table() (kills, rarest int) {
	rarest = int(^uint(0) >> 1)
	fmt.Printf("%-24s %8s  %s\n", "kills at the step", "in all", strings.Join(variants, "  "))
	for _, s := range steps {
		all, row := 0, ""
		for _, variant := range variants {
			n := t.Kills[s.name][variant]
			all += n
			row += fmt.Sprintf("%*d  ", len(variant), n)
		}
		fmt.Printf("%-24s %8d  %s\n", s.name, all, row)
		kills += all
		rarest = min(rarest, all)
	}
	return kills, rarest
}

// promises prints the lines for docs/proof.md.
func promises(t *total, command string, must, kills, rarest int) {
	line := func(promise, figure, bar string, ok bool) {
		out, err := json.Marshal(map[string]any{"promise": promise, "command": command, "figure": figure, "bar": bar, "ok": ok,
			"date": time.Now().UTC().Format(time.DateOnly), "commit": os.Getenv("SWARM_COMMIT")})
		if err != nil {
			panic(err) // strings and a bool
		}
		fmt.Println(string(out))
	}
	clean := len(t.Failures) == 0
	lost := t.Violations[messages.Lost]
	line("accepted messages lost, real sidecars being killed -9 at every step of a message's life, alone, both and during recovery; "+
		"logs wiped, full, stopped, pods replaced", fmt.Sprintf("%d of %d (%s); %d kills, %d losses", lost, t.Report.Accepted, t.excused(), kills, t.lossCount()),
		"0", clean && lost == 0 && t.fewest >= fewestAccepted)
	line("other broken promises in the same histories (torn, phantom, duplicate, after an OK ack, late ack, order)",
		fmt.Sprintf("%d; %d received, %d again, %d ordered pairs, %d late acks refused", t.broken-lost, t.Report.Received, t.Report.Redelivered,
			t.Report.Ordered, t.Report.Refusal), "0", clean && t.broken == lost)
	line("kills that really happened at each step of a message's life", fmt.Sprintf("at least %d at each of %d", rarest, len(steps)),
		fmt.Sprintf(">= %d", must), rarest >= must)
	line("everything accepted is read and acknowledged at its sender, after the last fault", fmt.Sprintf("%.2f s", t.Drained), "< 60 s",
		clean && t.Drained < messages.Drain)
}
