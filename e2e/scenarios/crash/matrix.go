package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// step is one crash_point() of the sidecar.
type step struct {
	name   string
	passes int // it strikes at one of the first so many; few where it comes rarely
	at     when
}

// when a step is passed: by itself, while there is mail; or it takes a fault to get there.
type when int

const (
	always when = iota
	starting
	ending
)

// steps of the life of a message, in its order. A test compares them with the sources.
var steps = []step{
	{"outbox-id-appended", 30, always},
	{"body-appended", 5, always},
	{"outbox-appended", 30, always},
	{"message-sent", 30, always},
	{"message-received", 30, always},
	{"inbox-id-appended", 30, always},
	{"inbox-appended", 30, always},
	{"inbox-committed", 30, always},
	{"answer-sent", 30, always},
	{"answer-received", 30, always},
	{"accepted-marked", 30, always},
	{"agent-answered", 60, always},
	{"hand-out-marked", 30, always},
	{"ack-marked", 30, always},
	{"ack-sent", 30, always},
	{"ack-received", 30, always},
	{"outbox-finished", 30, always},
	{"recorded-sent", 30, always},
	{"recorded-received", 30, always},
	{"inbox-released", 30, always},
	{"dead-marked", 1, always},
	{"redrive-marked", 1, always},
	{"cursor-appended", 3, always},
	{"commit", 60, always},
	{"segment-header", 2, always},
	{"segment-begun", 2, always},
	{"segment-copied", 2, always},
	{"segment-copy-committed", 2, always},
	{"segment-retired", 2, always},
	{"recovery-scanned", 1, starting},
	{"recovery-attached", 1, starting},
	{"recovery-ended", 1, starting},
	{"drain-begun", 1, ending},
	{"drain-ended", 1, ending},
}

// What is killed when a sidecar passes a step: it itself; the other one, while it stands still there; both; it itself, and
// again while it recovers.
var variants = []string{"self", "peer", "both", "recovery"}

// toStart is what an engine dies of that is to be started; the line for its successor is then armed.
const toStart = "commit"

const strikeLimit = 40 * time.Second // until a step is passed: a log has to fill before segments are copied

func matrix() []job {
	var out []job
	for _, s := range steps {
		for _, variant := range variants {
			if s.at == ending && variant == "recovery" {
				continue // a container that is being ended is not started again
			}
			out = append(out, job{s.name + " " + variant, func(stage *stage, p pair) error { return stage.cell(p, s, variant) }})
		}
	}
	return out
}

// cell arms one step, sees that it strikes, and that both sidecars are back.
func (s *stage) cell(p pair, at step, variant string) error {
	here, there := p.pick()
	how := []string{"engine", "container"}[rand.IntN(2)]
	if variant == "peer" {
		how = "pause"
	}
	lines := fmt.Sprintf("%s %d %s\n", at.name, 1+rand.IntN(at.passes), how)
	again := ""
	if variant == "recovery" {
		again = recoveryStep()
		lines += fmt.Sprintf("%s 1 engine\n", again)
	}
	if at.at == starting {
		lines = toStart + " 1 engine\n" + lines
	}
	seen := len(here.strikes())
	if err := here.arm(lines); err != nil {
		return err
	}
	ended := make(chan error, 1)
	switch at.at {
	case starting:
		pid, err := here.struck(seen, toStart)
		if err == nil {
			err = s.see(pid, toStart, "self")
		}
		if err != nil {
			return err
		}
		seen++
	case ending:
		go func() { ended <- here.end(syscall.SIGTERM) }()
	}
	pid, err := here.struck(seen, at.name)
	if err != nil {
		return err
	}
	victim := pid
	switch variant {
	case "peer":
		victim, err = there.signalEngine(syscall.SIGKILL)
		_ = syscall.Kill(pid, syscall.SIGCONT)
	case "both":
		_, err = there.signalEngine(syscall.SIGKILL)
	case "recovery":
		var second int
		if second, err = here.struck(seen+1, again); err == nil {
			err = s.see(second, again, variant)
		}
	}
	if err != nil {
		return err
	}
	if err := s.see(victim, at.name, variant); err != nil {
		return err
	}
	if at.at == ending {
		if err := <-ended; err != nil {
			return err
		}
		here.uid++
		if err := here.begin(); err != nil {
			return err
		}
		return s.settle(p)
	}
	if err := here.up(); err != nil {
		return err
	}
	return there.up()
}

func recoveryStep() string {
	for {
		if s := steps[rand.IntN(len(steps))]; s.at == starting {
			return s.name
		}
	}
}

// arm takes effect at the next step that the engine passes, or the next one.
func (p *pod) arm(lines string) error {
	file := filepath.Join(p.points(), "new")
	if err := os.WriteFile(file, []byte(lines), 0o644); err != nil {
		return err
	}
	return os.Rename(file, filepath.Join(p.points(), "armed"))
}

// strikes that were recorded, a line each.
func (p *pod) strikes() []string {
	text, _ := os.ReadFile(filepath.Join(p.points(), "struck")) // none yet
	return strings.Split(string(text), "\n")[:strings.Count(string(text), "\n")]
}

// struck waits for strike number `seen` (from 0), which has to be this step: the process that passed it.
func (p *pod) struck(seen int, name string) (int, error) {
	if !until(strikeLimit, func() bool { return len(p.strikes()) > seen }) {
		return 0, fmt.Errorf("%s did not pass %s within %s", p.id(), name, strikeLimit)
	}
	field := strings.Fields(p.strikes()[seen])
	if len(field) != 3 || field[0] != name {
		return 0, fmt.Errorf("%s: %v struck instead of %s", p.id(), field, name)
	}
	return strconv.Atoi(field[2])
}

// see that a process is really dead, before it counts.
func (s *stage) see(pid int, step, variant string) error {
	if !gone(pid) {
		return fmt.Errorf("process %d was killed at %s and is still there", pid, step)
	}
	s.killed(step, variant)
	return nil
}

// gone: the process runs no more, and soon.
func gone(pid int) bool {
	return until(upLimit, func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.HasPrefix(string(text[strings.LastIndexByte(string(text), ')')+1:]), " Z")
	})
}
