package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	pairs       = 4
	settleLimit = 60 * time.Second // what RELIABILITY allows after the last fault
)

// stage is where a round happens, and what is written down about it.
type stage struct {
	dir, sidecar string
	port         int
	stopped      time.Duration // SIGSTOP until SIGCONT
	facts        *os.File

	mu       sync.Mutex
	failures []string
	kills    map[string]map[string]int // step, variant
	losses   map[string]int
}

// done is what a round leaves for sum.
type done struct {
	Kills    map[string]map[string]int
	Losses   map[string]int
	Failures []string
	Seconds  float64
	Drained  float64
}

// pair is two pods that send to each other and to themselves. Only one of them is lost at a time, and the next only after
// all mail that there was has been read (settle): so nothing that two pods held may be missing.
type pair struct{ a, b *pod }

// pick: whom it strikes, and the other one.
func (p pair) pick() (here, there *pod) {
	if rand.IntN(2) == 0 {
		return p.a, p.b
	}
	return p.b, p.a
}

type job struct {
	name string
	do   func(*stage, pair) error
}

func runRound(arguments []string) error {
	s := &stage{kills: map[string]map[string]int{}, losses: map[string]int{}}
	flags := flag.NewFlagSet("run", flag.ExitOnError)
	flags.StringVar(&s.dir, "dir", "", "of this round, outside of every volume that is tampered with")
	flags.StringVar(&s.sidecar, "sidecar", "", "swarm-sidecar-crash")
	flags.IntVar(&s.port, "port", 6443, "of the API server's stand-in")
	flags.DurationVar(&s.stopped, "stopped", 30*time.Second, "how long an engine is stopped")
	only := flags.String("only", "", "one step, or one loss")
	_ = flags.Parse(arguments)
	began := time.Now()
	if err := os.MkdirAll(s.histories(), 0o755); err != nil {
		return err
	}
	var err error
	if s.facts, err = os.OpenFile(filepath.Join(s.histories(), "facts"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
		return err
	}
	jobs := matrix()
	jobs = append(jobs, lossJobs()...)
	if *only != "" {
		jobs = slices.DeleteFunc(jobs, func(j job) bool { return strings.Fields(j.name)[0] != *only })
		if len(jobs) == 0 {
			return fmt.Errorf("neither a step nor a loss: %s", *only)
		}
	}
	rand.Shuffle(len(jobs), func(i, j int) { jobs[i], jobs[j] = jobs[j], jobs[i] })

	coordinator := &pod{stage: s, name: "coordinator-0"}
	if err := coordinator.begin(); err != nil {
		return err
	}
	queue := make(chan job, len(jobs))
	for _, j := range jobs {
		queue <- j
	}
	close(queue)
	var all [pairs]pair
	eachPair(func(i int) {
		p := pair{&pod{stage: s, name: fmt.Sprintf("worker-%d", 2*i)}, &pod{stage: s, name: fmt.Sprintf("worker-%d", 2*i+1)}}
		p.a.peer, p.b.peer = p.b, p.a
		all[i] = p
		for _, pod := range []*pod{p.a, p.b} {
			if err := pod.begin(); err != nil {
				s.fail("%v", err)
				return
			}
		}
		for j := range queue {
			if err := j.do(s, p); err != nil {
				s.fail("%s: %v", j.name, err)
				return // nobody knows in which state the pair is
			}
		}
	})
	drained := 0.0
	if len(s.failures) == 0 {
		over := now()
		if err := s.fact("driver driver driver %.6f E - %.6f", over, over); err != nil {
			return err
		}
		eachPair(func(i int) {
			if err := s.settled(all[i]); err != nil {
				s.fail("after the last fault: %v", err)
			}
		})
		drained = now() - over
	}
	out, err := json.Marshal(done{s.kills, s.losses, s.failures, time.Since(began).Seconds(), drained})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "round.json"), out, 0o644); err != nil {
		return err
	}
	failed := coordinator.halt(syscall.SIGKILL)
	for _, p := range all {
		for _, pod := range []*pod{p.a, p.b} {
			failed = errors.Join(failed, pod.halt(syscall.SIGKILL))
		}
	}
	return failed
}

func eachPair(do func(i int)) {
	var wait sync.WaitGroup
	for i := range pairs {
		wait.Add(1)
		go func() {
			defer wait.Done()
			do(i)
		}()
	}
	wait.Wait()
}

func (s *stage) histories() string { return filepath.Join(s.dir, "histories") }

func (s *stage) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, fmt.Sprintf(format, args...))
}

func (s *stage) killed(step, variant string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kills[step] == nil {
		s.kills[step] = map[string]int{}
	}
	s.kills[step][variant]++
}

func (s *stage) lost(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.losses[what]++
}

// fact is a line of the history about what was done to pods (package messages).
func (s *stage) fact(format string, args ...any) error {
	_, err := fmt.Fprintf(s.facts, format+"\n", args...)
	return err
}

// settle waits until all mail that a pair had is read, and lets it send again.
func (s *stage) settle(p pair) error {
	if err := s.settled(p); err != nil {
		return err
	}
	for _, pod := range []*pod{p.a, p.b} {
		if _, err := pod.agent.tell("go"); err != nil {
			return fmt.Errorf("%s: %w", pod.id(), err)
		}
	}
	return nil
}

// settled stops the senders of a pair, waits until no mail is left in its two pods, read or sent, and writes that down.
func (s *stage) settled(p pair) error {
	pods := []*pod{p.a, p.b}
	for _, pod := range pods {
		if _, err := pod.agent.tell("hold"); err != nil {
			return fmt.Errorf("%s: %w", pod.id(), err)
		}
	}
	began := now()
	var last [2]answer
	var failed error
	if !until(settleLimit, func() bool {
		empty := true
		for i, pod := range pods {
			said, err := pod.stats()
			if err == nil && said.DeadLetters > 0 {
				if failed = s.fact("%s %s driver %.6f D - 0", pod.name, pod.id(), now()); failed != nil {
					return true
				}
				pod.redrive()
			}
			last[i] = said
			empty = empty && err == nil && said.Inbox+said.Outbox+said.DeadLetters == 0
		}
		return empty
	}) {
		return fmt.Errorf("%s and %s still hold mail after %s: inbox %d and %d, outbox %d and %d", p.a.id(), p.b.id(), settleLimit,
			last[0].Inbox, last[1].Inbox, last[0].Outbox, last[1].Outbox)
	}
	if failed != nil {
		return failed
	}
	return s.fact("%s %s driver %.6f Z %s %.6f", p.a.name, p.a.id(), now(), p.b.name, began)
}

// environment of a sidecar (docs/pod-layout.md), but for the pod's UID.
func (s *stage) environment(p *pod) []string {
	role, address := "worker", ""
	var number int
	if p.peer == nil {
		role, address = "coordinator", "10.70.0.2"
	} else {
		_, _ = fmt.Sscanf(p.name, "worker-%d", &number)
		address = fmt.Sprintf("10.70.1.%d", number+1)
	}
	api := filepath.Join(filepath.Dir(s.dir), "api")
	out := []string{"CFN_ROLE=" + role, "CFN_SWARM=bench", "CFN_SWARM_UID=bench", "CFN_NAMESPACE=bench", "CFN_AGENT_ID=" + p.name,
		"CFN_TEAM=0", "CFN_COORDINATORS=1", "CFN_POD_NAME=bench-" + p.name, "CFN_POD_IP=" + address, "CFN_NODE_NAME=here",
		"CFN_LINK_SERVICE=bench", "CFN_MOUNT_PATH=" + p.dir(), "CFN_LOG_PATH=" + p.log(), "CFN_BIN_PATH=" + p.dir(),
		"CFN_AGENTCTL_FILE=" + api + "/agentctl", "CFN_LINK_SECRET_FILE=" + api + "/link/link", "CFN_SUBMIT_TOKEN_FILE=" + api + "/submit",
		"CFN_API_PATH=" + api, "KUBERNETES_SERVICE_HOST=10.70.0.1", fmt.Sprint("KUBERNETES_SERVICE_PORT=", s.port),
		"CFN_MAX_INBOX_MESSAGES=100000", // the log is full before
		"CFN_HEALTH_PERIOD_SECONDS=1", "CFN_DRAIN_TIMEOUT_SECONDS=5"}
	if p.peer != nil {
		out = append(out, "CFN_CRASH_PATH="+p.points())
	}
	return out
}
