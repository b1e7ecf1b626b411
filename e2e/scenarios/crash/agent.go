package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"swarm/e2e/scenarios/messages"
)

const (
	receivers   = 4
	sendTimeout = 3 * time.Second // then the sidecar answers
	graceTime   = 2 * time.Second // then nobody does any more
	maxTries    = 100             // of one id whose outcome is unknown
	leaseTime   = 2 * time.Second
	waitTime    = time.Second
	ackLimit    = 2 * time.Second // the sidecar waits for 10; who waits so long reads nothing meanwhile
	ackTries    = 2
	shortPause  = 10 * time.Millisecond
	bulkPause   = 20 * time.Millisecond
	bulkStep    = 500 // every such message has the largest body (messages.Expected)
	bothStep    = 50  // … a large one
	bothPause   = 50 * time.Millisecond
	both        = ".both" // sends to its peer and to itself in one call: the one body is a record of its own

	toSelfEvery = 17
	againEvery  = 23  // sent once more on purpose: accepted once
	nackEvery   = 37  // given back the first time
	deadEvery   = 101 // given back until it is a dead letter, then put back into the inbox
)

// agent sends and receives all the time, several of each at once, and writes down every operation before the call and
// after it (package messages) where no fault reaches. Its stdin is a pipe of its master: "hold" and "go" for its senders,
// "deaf" and "hear" for its receivers, "full" asks how many sends were refused for lack of room. Each is answered by a line
// when it is so; the end of stdin ends the agent.
type agent struct {
	name, pod, peer, socket string
	record                  *os.File
	paused, deaf            atomic.Bool
	busy                    sync.WaitGroup // sends whose outcome is open
	full                    atomic.Int64
	gate                    sync.Mutex // makes "held" true for every sender
}

func runAgent(arguments []string) error {
	a := agent{}
	flags := flag.NewFlagSet("agent", flag.ExitOnError)
	flags.StringVar(&a.name, "name", "", "")
	flags.StringVar(&a.pod, "pod", "", "as in the history")
	flags.StringVar(&a.peer, "peer", "", "to whom it sends")
	flags.StringVar(&a.socket, "socket", "", "")
	history := flags.String("history", "", "file")
	_ = flags.Parse(arguments)
	var err error
	if a.record, err = os.OpenFile(*history, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
		return err
	}
	for i, priority := range []string{"normal", "high", "low"} {
		go a.send(fmt.Sprintf("%s.s%d", a.pod, i), priority, 1, shortPause)
	}
	go a.send(a.pod+".bulk", "normal", bulkStep, bulkPause)
	go a.send(a.pod+both, "normal", bothStep, bothPause)
	for i := range receivers {
		go a.receive(fmt.Sprintf("%s.r%d", a.pod, i))
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		said := "ok"
		switch in.Text() {
		case "hold":
			a.gate.Lock()
			a.paused.Store(true)
			a.gate.Unlock()
			a.busy.Wait()
		case "go":
			a.paused.Store(false)
		case "deaf":
			a.deaf.Store(true)
		case "hear":
			a.deaf.Store(false)
		case "full":
			said = strconv.FormatInt(a.full.Load(), 10)
		}
		fmt.Println(said)
	}
	return in.Err()
}

// write is one line of the history, whole or not at all.
func (a *agent) write(instance string, fields ...any) {
	line := fmt.Sprintf("%s %s %s %.6f %s", a.name, a.pod, instance, now(), fmt.Sprintln(fields...))
	if _, err := a.record.WriteString(line); err != nil {
		fmt.Fprintln(os.Stderr, "crash: the history:", err)
		os.Exit(1)
	}
}

func stamp(t float64) string { return strconv.FormatFloat(t, 'f', 6, 64) }

func (a *agent) send(instance, priority string, step int, pause time.Duration) {
	c := &client{path: a.socket}
	for n := 1; ; n++ {
		a.gate.Lock()
		if a.paused.Load() {
			a.gate.Unlock()
			time.Sleep(pollPause)
			n--
			continue
		}
		a.busy.Add(1)
		a.gate.Unlock()
		id := fmt.Sprintf("%s.%d", strings.ReplaceAll(instance, "/", "-"), n*step)
		to := a.peer
		if n%toSelfEvery == 0 && !strings.HasSuffix(instance, both) {
			to = a.name
		}
		outcome := a.sendOnce(c, instance, id, to, priority)
		for try := 0; outcome == "U" && try < maxTries; try++ {
			outcome = a.sendOnce(c, instance, id, to, priority)
		}
		if outcome == "A" && n%againEvery == 0 {
			a.sendOnce(c, instance, id, to, priority)
		}
		a.busy.Done()
		time.Sleep(pause)
	}
}

// sendOnce returns the letter of the line that tells the outcome.
func (a *agent) sendOnce(c *client, instance, id, to, priority string) string {
	body, _ := messages.Expected(id)
	a.write(instance, "B", id, to)
	all := to
	if strings.HasSuffix(instance, both) {
		all += "," + a.name
	}
	said, err := c.callTo(to, request{"op": "send", "to": all, "id": id, "body": body, "priority": priority,
		"timeoutMs": sendTimeout.Milliseconds()}, sendTimeout+graceTime)
	switch {
	case err == nil && said.OK:
		a.write(instance, "A", id, said.Survives, said.Duplicate)
		return "A"
	case err == nil && (said.Code == "full" || said.Code == "unavailable" || said.Code == "refused"):
		if said.Code == "full" {
			a.full.Add(1)
		}
		a.write(instance, "F", id, said.Code)
		time.Sleep(shortPause)
		return "F"
	}
	a.write(instance, "U", id, codeOf(said, err))
	return "U"
}

func codeOf(said answer, err error) string {
	if errors.Is(err, errNoAnswer) {
		return "no-answer"
	}
	if err != nil || said.Code == "" {
		return "senseless"
	}
	return said.Code
}

func (a *agent) receive(instance string) {
	c := &client{path: a.socket}
	for {
		if a.deaf.Load() {
			time.Sleep(pollPause)
			continue
		}
		began := now()
		said, err := c.call(request{"op": "recv", "waitMs": waitTime.Milliseconds(), "leaseMs": leaseTime.Milliseconds()}, waitTime+graceTime)
		if err != nil || !said.OK {
			if said.Code != "not_found" {
				time.Sleep(pollPause)
			}
			continue
		}
		var m delivered
		if err := json.Unmarshal(said.Message, &m); err != nil {
			m.MessageID = "senseless" // the checker finds it
		}
		if m.From == a.name && strings.Contains(m.MessageID, both+".") {
			// Its own copy of what went to its peer, too: a history knows one receiver of an id.
			_, _ = c.call(request{"op": "ack", "messageId": m.MessageID, "attempt": m.Attempt}, ackLimit)
			continue
		}
		a.write(instance, "R", m.MessageID, m.Attempt, stamp(began), messages.Fingerprint(m.Body))
		if m.Attempt > 1 {
			a.ack(c, instance, m.MessageID, m.Attempt-1) // it is over: this must be refused
		}
		n, _ := strconv.Atoi(m.MessageID[strings.LastIndexByte(m.MessageID, '.')+1:])
		switch {
		case n%deadEvery == 0 && m.Attempt <= messages.Attempts:
			a.nack(c, instance, m)
			if m.Attempt == messages.Attempts {
				a.write(instance, "D", m.MessageID, m.Attempt)
				_, _ = c.call(request{"op": "dead_redrive", "messageId": m.MessageID}, graceTime)
			}
		case n%nackEvery == 0 && m.Attempt == 1:
			a.nack(c, instance, m)
		default:
			for try := 0; try < ackTries && a.ack(c, instance, m.MessageID, m.Attempt) == "no-answer"; try++ {
			}
		}
	}
}

// ack returns the code that was recorded.
func (a *agent) ack(c *client, instance, id string, attempt int) string {
	a.write(instance, "C", id, attempt)
	began := now()
	said, err := c.call(request{"op": "ack", "messageId": id, "attempt": attempt}, ackLimit)
	if err == nil && said.OK {
		a.write(instance, "K", id, attempt, stamp(began))
		return ""
	}
	code := codeOf(said, err)
	a.write(instance, "X", id, attempt, code)
	return code
}

func (a *agent) nack(c *client, instance string, m delivered) {
	said, err := c.call(request{"op": "nack", "messageId": m.MessageID, "attempt": m.Attempt}, graceTime)
	code := "0"
	if err != nil || !said.OK {
		code = codeOf(said, err)
	}
	a.write(instance, "N", m.MessageID, m.Attempt, code)
}
