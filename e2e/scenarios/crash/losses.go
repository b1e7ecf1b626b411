package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const (
	// Less than a link waits for its peer: the sender's pod still counts as there, and no ack that it has not recorded is OK.
	unrecordedTime   = time.Second
	unrecordedMail   = 50 // that waits then
	fullMiB          = 5  // of the log that is filled: it has to be full before an outbox is (1,000 messages)
	fullRefusals     = 20 // of sends, until a log counts as full
	fullPeerRefusals = 2
	fullLimit        = 40 * time.Second
)

// lossJobs are the faults beside kills at steps.
func lossJobs() []job {
	return []job{
		{"wipe", func(s *stage, p pair) error { return s.wipe(p, true) }},
		{"wipe-same-uid", func(s *stage, p pair) error { return s.wipe(p, false) }},
		{"rolling", (*stage).rolling},
		{"stop", (*stage).stop},
		{"full", (*stage).full},
		{"wipe-unrecorded", (*stage).wipeUnrecorded},
	}
}

// wipe: a pod is lost with its log; its successor has its name and address. With the same UID it is the same pod, whose
// node was restarted.
func (s *stage) wipe(p pair, other bool) error {
	here, _ := p.pick()
	if err := here.end(syscall.SIGKILL); err != nil {
		return err
	}
	if other {
		here.uid++
	}
	if err := here.begin(); err != nil {
		return err
	}
	s.lost(map[bool]string{true: "wipe", false: "wipe-same-uid"}[other])
	return s.settle(p)
}

// rolling: both are replaced, one after the other, each drained.
func (s *stage) rolling(p pair) error {
	for _, pod := range []*pod{p.a, p.b} {
		if err := pod.replace(syscall.SIGTERM, logMiB); err != nil {
			return err
		}
		s.lost("rolling")
		if err := s.settle(p); err != nil {
			return err
		}
	}
	return nil
}

// stop: an engine stands still for longer than its peers wait for it, and goes on as if nothing had been.
func (s *stage) stop(p pair) error {
	here, there := p.pick()
	pid, err := here.signalEngine(syscall.SIGSTOP)
	if err != nil {
		return err
	}
	time.Sleep(s.stopped)
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		return fmt.Errorf("the engine that was stopped: %w", err)
	}
	if err := errors.Join(here.up(), there.up()); err != nil {
		return err
	}
	s.lost("stop")
	return s.settle(p)
}

// full: a pod's tmpfs has no free byte. Sends are refused, acks are not, also after a kill -9.
func (s *stage) full(p pair) error {
	here, there := p.pick()
	if err := here.replace(syscall.SIGKILL, fullMiB); err != nil {
		return err
	}
	if err := s.settle(p); err != nil {
		return err
	}
	filler := filepath.Join(here.log(), "filler")
	if err := fill(filler); err != nil {
		return err
	}
	if _, err := here.agent.tell("deaf"); err != nil {
		return err
	}
	was, err := refusals(here, there)
	if err != nil {
		return err
	}
	var is [2]int
	if !until(fullLimit, func() bool {
		is, err = refusals(here, there)
		return err != nil || is[0]-was[0] >= fullRefusals && is[1]-was[1] >= fullPeerRefusals
	}) || err != nil {
		return fmt.Errorf("%s is full, but refused %d sends of its own agent and %d of another (%v)", here.id(), is[0]-was[0], is[1]-was[1], err)
	}
	if _, err := here.signalEngine(syscall.SIGKILL); err != nil {
		return err
	}
	if err := here.up(); err != nil {
		return fmt.Errorf("on a full tmpfs: %w", err)
	}
	had, err := here.stats()
	if err != nil || had.Inbox == 0 {
		return fmt.Errorf("%s is full, and holds no mail (%v)", here.id(), err)
	}
	if _, err := here.agent.tell("hear"); err != nil {
		return err
	}
	acked := 0
	if !until(fullLimit, func() bool {
		said, err := here.stats()
		acked = said.Acked
		return err == nil && acked >= had.Inbox
	}) {
		return fmt.Errorf("%s is full, and only %d acks of %d succeeded", here.id(), acked, had.Inbox)
	}
	if err := os.Remove(filler); err != nil {
		return err
	}
	s.lost("full")
	if err := s.settle(p); err != nil {
		return err
	}
	if err := here.replace(syscall.SIGKILL, logMiB); err != nil {
		return err
	}
	return s.settle(p)
}

// wipeUnrecorded: a pod is lost while its peer can't be reached, so acks of the peer's mail are in the lost log alone. Such
// an ack is not OK yet, and the successor gets that mail once more.
func (s *stage) wipeUnrecorded(p pair) error {
	here, there := p.pick()
	if _, err := here.agent.tell("deaf"); err != nil {
		return err
	}
	if !until(upLimit, func() bool {
		said, err := here.stats()
		return err == nil && said.Inbox >= unrecordedMail
	}) {
		return fmt.Errorf("%s got no mail", here.id())
	}
	if err := there.link("down"); err != nil {
		return err
	}
	if _, err := here.agent.tell("hear"); err != nil {
		return err
	}
	time.Sleep(unrecordedTime)
	if err := errors.Join(here.end(syscall.SIGKILL), there.link("up")); err != nil {
		return err
	}
	here.uid++
	if err := here.begin(); err != nil {
		return err
	}
	s.lost("wipe-unrecorded")
	return s.settle(p)
}

// fill leaves no free byte on the file system of `name`.
func fill(name string) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer file.Close()
	for size := 1 << 20; size > 0; {
		switch _, err := file.Write(make([]byte, size)); {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case err != nil:
			return err
		}
	}
	return nil
}

// refusals for lack of room that the agents of two pods have counted.
func refusals(pods ...*pod) (out [2]int, err error) {
	for i, p := range pods {
		said, err := p.agent.tell("full")
		if err != nil {
			return out, err
		}
		if out[i], err = strconv.Atoi(said); err != nil {
			return out, err
		}
	}
	return out, nil
}

// redrive puts the pod's dead letters back into its inbox; whoever asks sees whether it was done.
func (p *pod) redrive() {
	c := &client{path: p.socket()}
	defer c.close()
	_, _ = c.call(request{"op": "dead_redrive", "all": true}, time.Second)
}
