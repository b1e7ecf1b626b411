// Package messages judges what agents recorded about the messages they sent and received, and nothing else.
//
// An agent tells the recorder about an operation before the call (and waits until that is recorded) and after it. A line
// after a call may be missing, because agents are killed: what came of the operation is then unknown, never assumed.
// One line is one event, its fields separated by one space:
//
//	AGENT POD INSTANCE TIME B ID TO                  the agent is about to send ID to TO
//	AGENT POD INSTANCE TIME A ID SURVIVES DUPLICATE  accepted; DUPLICATE (true, false): it had been accepted before
//	AGENT POD INSTANCE TIME F ID CODE                refused: never delivered
//	AGENT POD INSTANCE TIME U ID CODE                unknown
//	AGENT POD INSTANCE TIME R ID ATTEMPT BEGAN BODY  handed out, by a call that began at BEGAN; recorded before any ack
//	AGENT POD INSTANCE TIME C ID ATTEMPT             the agent is about to ack: without C, K or X nobody has
//	AGENT POD INSTANCE TIME K ID ATTEMPT BEGAN       acked, OK
//	AGENT POD INSTANCE TIME X ID ATTEMPT CODE        ack not OK
//	AGENT POD INSTANCE TIME N ID ATTEMPT CODE        given back
//	AGENT POD INSTANCE TIME D ID ATTEMPT             about to put dead letter ID (-: all) back into the inbox of AGENT
//
// Whoever makes faults writes down what they took, since some of it had been promised to nobody, and that the agents could
// read everything in the end:
//
//	AGENT POD INSTANCE TIME L - BEGAN                between BEGAN and TIME the log of AGENT's pod was lost
//	AGENT POD INSTANCE TIME Z PEER BEGAN             between BEGAN and TIME the pods of AGENT and PEER held no mail, read or sent
//	AGENT POD INSTANCE TIME E - BEGAN                the last fault was over at BEGAN; the agents read on until nothing was left
//
// BODY may be its Fingerprint. POD changes with the log, since another log counts attempts from 1.
// INSTANCE is one process that does one thing after the other: its lines are in order. Lines of different instances are
// not: what a call did, it did between its BEGAN and its TIME, and only calls that do not overlap have an order. The processes
// of a pod have one clock; those of two pods may have two (Apart). TIME and BEGAN are seconds with a fraction.
//
// What is not recorded is not judged: how long a lease is and when an engine was restarted, which ends all leases (whether an
// attempt came too early); calls of recv that were not answered, each of which may have been an attempt; and without E, when
// the run was over.
package messages

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Apart is how far the clocks of two nodes may be apart, in seconds. Pods of one machine have one clock.
const Apart = 0.25

// Drain is the time after the last fault within which everything accepted has to be handed out, for the last time, too, in
// seconds.
const Drain = 60

// Attempts of a message are all that there are, until somebody puts the dead letter back.
const Attempts = 5

// Kind of a violation: one closed set.
type Kind string

const (
	Unreadable       Kind = "unreadable"         // a line that is none
	Contradiction    Kind = "contradiction"      // lines that no agent of ours writes: the recording itself is wrong
	Lost             Kind = "lost"               // accepted, never handed out, or never again though no ack of it can have been taken
	Phantom          Kind = "phantom"            // handed out, never sent
	Refused          Kind = "refused-delivered"  // refused, and handed out
	Astray           Kind = "astray"             // handed out to somebody else
	Torn             Kind = "torn"               // not the body that was sent
	Twice            Kind = "twice"              // handed out twice as one attempt
	Backwards        Kind = "backwards"          // an older attempt handed out after a newer one
	AfterAck         Kind = "after-ack"          // handed out after an OK ack
	LateAck          Kind = "late-ack"           // an ack of an older attempt was OK though a newer one was handed out
	AcceptedTwice    Kind = "accepted-twice"     // the same id accepted again as something new
	AckedNothing     Kind = "acked-nothing"      // an ack was OK that nobody there had been given
	Inversion        Kind = "inversion"          // a later send of one sender was handed out before an earlier one
	SurvivesNoPod    Kind = "survives-no-pod"    // accepted for another pod without a copy that survives ours
	AttemptOutOfLine Kind = "attempt-impossible" // below 1, or above Attempts without having been put back
	Late             Kind = "late"               // handed out longer than Drain after the last fault
)

// Violation is one broken promise.
type Violation struct {
	Kind Kind
	ID   string
	What string
}

func (v Violation) String() string { return fmt.Sprintf("%s %s: %s", v.Kind, v.ID, v.What) }

// Report counts what was seen.
type Report struct {
	Sent, Accepted, Refused, Unknown      int // by id; unknown: neither accepted nor refused
	Received, Acked, Redelivered, Refusal int // ids received, ids acked, hand-outs beyond the first, late acks refused
	Ordered                               int // pairs of sends whose order was checked
	SurvivesNode                          int
	Excused                               int     // accepted and lost with all pods that held it: never promised
	Over                                  bool    // the history says when the last fault was over
	Drained                               float64 // seconds from the last fault to the last hand-out
}

// Expected is the body of message ID: it follows from the id, which ends with the number of the message.
func Expected(id string) (string, bool) {
	n, err := strconv.Atoi(id[strings.LastIndexByte(id, '.')+1:])
	if err != nil || n < 0 {
		return "", false
	}
	length := 100 + n%200
	switch {
	case n%500 == 0:
		length = 30000
	case n%50 == 0:
		length = 4000
	}
	body := id
	for len(body) < length {
		body += "." + body
	}
	return body[:length], true
}

// Fingerprint stands for a body in a line.
func Fingerprint(body string) string { return fmt.Sprintf("#%x", sha256.Sum256([]byte(body))) }

// Event is one line.
type Event struct {
	Agent, Pod, Instance string
	Time                 float64
	Op                   string
	ID                   string
	To                   string  // B
	Survives             string  // A
	Duplicate            bool    // A
	Code                 string  // F, U, X, N
	Attempt              int     // R, C, K, X, N, D
	Began                float64 // R, K, L, Z, E
	Body                 string  // R
	place                int     // of the line
}

// Parse reads one line.
func Parse(line string) (Event, error) {
	part := strings.SplitN(line, " ", 7)
	bad := func(why string) (Event, error) {
		if len(line) > 160 {
			line = line[:160] + "…"
		}
		return Event{}, fmt.Errorf("%s: %q", why, line)
	}
	if len(part) != 7 || slices.Contains(part, "") {
		return bad("not seven fields")
	}
	e := Event{Agent: part[0], Pod: part[1], Instance: part[2], Op: part[4], ID: part[5]}
	var err error
	if e.Time, err = strconv.ParseFloat(part[3], 64); err != nil {
		return bad("no time")
	}
	rest := strings.Split(part[6], " ")
	fields := map[string]int{"B": 1, "A": 2, "F": 1, "U": 1, "R": 3, "C": 1, "K": 2, "X": 2, "N": 2, "D": 1, "L": 1, "Z": 1, "E": 1}[e.Op]
	if fields == 0 {
		return bad("unknown operation")
	}
	if len(rest) != fields {
		return bad("wrong number of fields")
	}
	switch e.Op {
	case "B":
		e.To = rest[0]
	case "A":
		e.Survives = rest[0]
		if e.Duplicate, err = strconv.ParseBool(rest[1]); err != nil {
			return bad("neither true nor false")
		}
	case "F", "U":
		e.Code = rest[0]
	case "L", "Z", "E":
		if e.Began, err = strconv.ParseFloat(rest[0], 64); err != nil {
			return bad("no time of the beginning")
		}
	case "R", "C", "K", "X", "N", "D":
		if e.Attempt, err = strconv.Atoi(rest[0]); err != nil {
			return bad("no attempt")
		}
		switch e.Op {
		case "C", "D":
			return e, nil
		case "X", "N":
			e.Code = rest[1]
			return e, nil
		case "R":
			e.Body = rest[2]
		}
		if e.Began, err = strconv.ParseFloat(rest[1], 64); err != nil {
			return bad("no time of the call")
		}
	}
	return e, nil
}

// message is what was recorded about one id.
type message struct {
	begun, accepted, refused, unknown []Event
	received, acked                   []Event
	tried, notAcked, redriven         []Event // C, X, D
}

// state of the sends: at most one is open at a time, since an instance does one thing after the other.
func (m *message) isAccepted() bool { return len(m.accepted) > 0 }

// isRefused: every send of it was refused for certain.
func (m *message) isRefused() bool {
	return !m.isAccepted() && len(m.begun) > 0 && len(m.unknown) == 0 && len(m.refused) == len(m.begun)
}

// latest attempt that was handed out in a pod; 0: none.
func (m *message) latest(pod string) (attempt int) {
	for _, r := range m.received {
		if r.Pod == pod {
			attempt = max(attempt, r.Attempt)
		}
	}
	return attempt
}

// mayBeAcked: some ack was taken, or nobody knows whether it was. One of which nobody knows was not, if its pod handed out a
// later attempt: that would have broken another promise.
func (m *message) mayBeAcked() bool {
	if len(m.acked) > 0 {
		return true
	}
	for _, x := range m.notAcked {
		if !notTaken(x.Code) && x.Attempt >= m.latest(x.Pod) {
			return true
		}
	}
	for _, t := range m.tried {
		if t.Attempt < m.latest(t.Pod) {
			continue
		}
		answered := func(e Event) bool { return e.Instance == t.Instance && e.Attempt == t.Attempt && e.place > t.place }
		if !slices.ContainsFunc(m.notAcked, answered) {
			return true // its agent ended in the call
		}
	}
	return false
}

// mayBeDead: its attempts are used up, and a dead letter is kept until somebody ends it.
func (m *message) mayBeDead() bool {
	return slices.ContainsFunc(m.received, func(r Event) bool { return r.Attempt%Attempts == 0 && r.Attempt == m.latest(r.Pod) })
}

// notTaken: the code of an ack, or agentctl's exit code, that says so for certain. agentctl repeats where a connection breaks,
// and says OK when the message is gone by then.
func notTaken(code string) bool {
	return slices.Contains([]string{"refused", "7", "not_found", "3", "invalid", "2"}, code)
}

// Check judges a whole history of agents that have one clock. No line means no violation.
func Check(lines []string) (Report, []Violation) { return CheckApart(lines, 0) }

// CheckApart: the clocks of two pods may be so many seconds apart.
func CheckApart(lines []string, apart float64) (Report, []Violation) {
	c := checker{messages: map[string]*message{}, lastFault: math.Inf(1), apart: apart}
	for i, line := range lines {
		e, err := Parse(line)
		if err != nil {
			c.say(Unreadable, "-", "line %d, %v", i+1, err)
			continue
		}
		e.place = i
		c.take(e)
	}
	for _, id := range c.order {
		c.judge(id, c.messages[id])
	}
	c.judgeOrder()
	return c.report, c.violations
}

type checker struct {
	messages      map[string]*message
	order         []string // ids as they were first named
	losses, empty []Event  // L, Z
	redriven      []Event  // D of all dead letters
	lastFault     float64
	apart         float64
	report        Report
	violations    []Violation
}

func (c *checker) say(kind Kind, id, format string, args ...any) {
	c.violations = append(c.violations, Violation{kind, id, fmt.Sprintf(format, args...)})
}

func (c *checker) take(e Event) {
	switch e.Op {
	case "L":
		c.losses = append(c.losses, e)
		return
	case "Z":
		c.empty = append(c.empty, e)
		return
	case "E":
		c.lastFault, c.report.Over = e.Began, true
		return
	case "D":
		if e.ID == "-" {
			c.redriven = append(c.redriven, e)
			return
		}
	}
	m := c.messages[e.ID]
	if m == nil {
		m = &message{}
		c.messages[e.ID] = m
		c.order = append(c.order, e.ID)
	}
	m.take(e)
	switch e.Op {
	case "B":
		if len(m.begun) > 0 && (m.begun[0].Instance != e.Instance || m.begun[0].To != e.To) {
			c.say(Contradiction, e.ID, "sent by %s to %s and by %s to %s", m.begun[0].Instance, m.begun[0].To, e.Instance, e.To)
		}
		m.begun = append(m.begun, e)
	case "A", "F", "U":
		if len(m.begun) == 0 || m.begun[len(m.begun)-1].Instance != e.Instance ||
			len(m.accepted)+len(m.refused)+len(m.unknown) >= len(m.begun) {
			c.say(Contradiction, e.ID, "an answer (%s) to no send of %s", e.Op, e.Instance)
			return
		}
		switch e.Op {
		case "A":
			m.accepted = append(m.accepted, e)
		case "F":
			m.refused = append(m.refused, e)
		case "U":
			m.unknown = append(m.unknown, e)
		}
	}
}

// take what was said to receivers, and by them.
func (m *message) take(e Event) {
	switch e.Op {
	case "R":
		m.received = append(m.received, e)
	case "C":
		m.tried = append(m.tried, e)
	case "K":
		m.acked = append(m.acked, e)
	case "X":
		m.notAcked = append(m.notAcked, e)
	case "D":
		m.redriven = append(m.redriven, e)
	}
}

func (c *checker) judge(id string, m *message) {
	if len(m.begun) > 0 {
		c.report.Sent++
	}
	switch {
	case m.isAccepted():
		c.report.Accepted++
		given := len(m.received)
		if given > 0 {
			c.judgeDrain(id, m)
		}
		switch {
		case given > 0 && !c.left(m):
		case c.excused(m):
			c.report.Excused++
		case given > 0:
			r := m.received[given-1]
			c.say(Lost, id, "accepted by %s for %s, handed out to %s (attempt %d), no ack of it taken, never again", m.accepted[0].Pod, m.begun[0].To, r.Pod, r.Attempt)
		default:
			c.say(Lost, id, "accepted by %s for %s, never handed out", m.accepted[0].Pod, m.begun[0].To)
		}
	case m.isRefused():
		c.report.Refused++
		if len(m.received) > 0 {
			c.say(Refused, id, "refused (%s), handed out to %s", m.refused[0].Code, m.received[0].Pod)
		}
	case len(m.begun) > 0:
		c.report.Unknown++
	}
	for i, a := range m.accepted {
		if i > 0 && !a.Duplicate {
			c.say(AcceptedTwice, id, "accepted at %.3f, and again at %.3f as something new", m.accepted[0].Time, a.Time)
		}
		switch {
		case a.Survives == "node":
			if i == 0 {
				c.report.SurvivesNode++
			}
		case a.Survives == "pod":
		case m.begun[0].To != a.Agent:
			c.say(SurvivesNoPod, id, "%s to %s survives %q", a.Agent, m.begun[0].To, a.Survives)
		}
	}
	c.judgeReceived(id, m)
	c.judgeAcked(id, m)
}

// left: it should have come again, since no ack of it can have been taken, and its pods hold no mail any more.
func (c *checker) left(m *message) bool {
	if m.mayBeAcked() {
		return false
	}
	if slices.ContainsFunc(c.empty, func(z Event) bool { return z.isOf(m) && z.Began >= m.accepted[0].Time }) {
		return true // dead letters are mail, too
	}
	return c.report.Over && !m.mayBeDead()
}

// isOf: Z is about the pods of its sender and its receiver.
func (z Event) isOf(m *message) bool {
	from, to := m.begun[0].Agent, m.begun[0].To
	return (from == z.Agent || from == z.ID) && (to == z.Agent || to == z.ID)
}

// excused: each pod that held it was lost, before mail was known to have been read there. Whoever was answered had been
// told of no other pod.
func (c *checker) excused(m *message) bool {
	from, to, accepted := m.begun[0].Agent, m.begun[0].To, m.accepted[0]
	until := math.Inf(1)
	for _, z := range c.empty {
		if z.isOf(m) && z.Began >= accepted.Time {
			until = min(until, z.Began)
		}
	}
	lost := func(agent string) bool {
		return slices.ContainsFunc(c.losses, func(l Event) bool {
			return l.Agent == agent && l.Time >= m.begun[0].Time && l.Began <= until
		})
	}
	return lost(from) && (accepted.Survives == "container" || lost(to))
}

func (c *checker) judgeDrain(id string, m *message) {
	last := math.Inf(-1)
	for _, r := range m.received {
		last = max(last, r.Time)
	}
	took := last - c.lastFault
	c.report.Drained = max(c.report.Drained, took)
	if took > Drain {
		c.say(Late, id, "handed out %.1f s after the last fault", took)
	}
}

func (c *checker) judgeReceived(id string, m *message) {
	if len(m.received) == 0 {
		return
	}
	c.report.Received++
	c.report.Redelivered += len(m.received) - 1
	if len(m.begun) == 0 {
		c.say(Phantom, id, "handed out to %s, sent by nobody", m.received[0].Pod)
		return
	}
	want, known := Expected(id)
	if !known {
		c.say(Contradiction, id, "an id without a number")
		return
	}
	short := Fingerprint(want)
	for i, r := range m.received {
		if r.Agent != m.begun[0].To {
			c.say(Astray, id, "to %s, handed out to %s", m.begun[0].To, r.Agent)
		}
		if r.Body != want && r.Body != short {
			c.say(Torn, id, "%d bytes sent, %d handed out to %s, or other ones", len(want), len(r.Body), r.Pod)
		}
		if r.Attempt < 1 || r.Attempt > Attempts && r.Attempt > Attempts*(1+c.putBack(m, r)) {
			c.say(AttemptOutOfLine, id, "attempt %d in %s, without having been put back so often", r.Attempt, r.Pod)
		}
		for _, before := range m.received[:i] {
			switch {
			case before.Pod != r.Pod: // another log counts from 1 again
			case before.Attempt == r.Attempt:
				c.say(Twice, id, "attempt %d handed out at %.3f and %.3f in %s", r.Attempt, before.Time, r.Time, r.Pod)
			case c.earlier(before, r) && before.Attempt > r.Attempt:
				c.say(Backwards, id, "attempt %d after %d in %s", r.Attempt, before.Attempt, r.Pod)
			case c.earlier(r, before) && r.Attempt > before.Attempt:
				c.say(Backwards, id, "attempt %d after %d in %s", before.Attempt, r.Attempt, r.Pod)
			}
		}
	}
}

// putBack: how often somebody was about to put it back, as a dead letter, before it was handed out.
func (c *checker) putBack(m *message, r Event) (times int) {
	for _, d := range append(slices.Clip(m.redriven), c.redriven...) {
		if d.Agent == r.Agent && d.Pod == r.Pod && d.Time <= r.Time {
			times++
		}
	}
	return times
}

// earlier: a was over before b began, for certain. Only of events that say when they began (b).
func (c *checker) earlier(a, b Event) bool {
	switch {
	case a.Instance == b.Instance:
		return a.place < b.place
	case a.Pod == b.Pod:
		return a.Time < b.Began
	default:
		return a.Time+c.apart < b.Began
	}
}

// judgeAcked: in one log, an OK ack and a later attempt exclude each other, whichever came first: so overlapping calls are
// no excuse there. Between two logs only their order tells.
func (c *checker) judgeAcked(id string, m *message) {
	if len(m.acked) > 0 {
		c.report.Acked++
	}
	for _, x := range m.notAcked {
		late := func(r Event) bool {
			return r.Pod == x.Pod && r.Attempt > x.Attempt && (r.Instance == x.Instance && r.place < x.place || r.Instance != x.Instance && r.Time < x.Time)
		}
		if (x.Code == "refused" || x.Code == "7") && slices.ContainsFunc(m.received, late) {
			c.report.Refusal++
		}
	}
	for _, k := range m.acked {
		given := false
		for _, r := range m.received {
			if r.Pod == k.Pod && r.Attempt <= k.Attempt {
				given = true // R is recorded before its ack; an instance may know the attempt from there only
			}
			later := r.Pod == k.Pod && r.Attempt > k.Attempt
			switch {
			case later && (c.earlier(r, k) || r.Instance != k.Instance && r.Time < k.Time):
				c.say(LateAck, id, "attempt %d was handed out, and the ack of attempt %d was OK in %s", r.Attempt, k.Attempt, k.Pod)
			case later || c.earlier(k, r):
				c.say(AfterAck, id, "acked at %.3f in %s, handed out at %.3f by a call that began at %.3f in %s", k.Time, k.Pod, r.Time, r.Began, r.Pod)
			}
		}
		if !given {
			c.say(AckedNothing, id, "attempt %d acked in %s, which had not been given it", k.Attempt, k.Pod)
		}
	}
}

// handOut is the first delivery of a message, and the places of the lines about its send.
type handOut struct {
	id              string
	begun, accepted int // never accepted: behind all lines
	Event
}

// judgeOrder: of two sends of one instance to one agent, the first accepted before the second began, the first is handed
// out first, whatever became of the second. Only first attempts of one log are compared: an attempt that nobody recorded
// (its receiver was killed) or another pod's log may come in another order rightly.
func (c *checker) judgeOrder() {
	type stream struct{ sender, instance, pod, agent string } // instance: of one process; else of all of an agent in a pod
	streams := map[stream][]handOut{}
	var names []stream
	for _, id := range c.order {
		m := c.messages[id]
		if len(m.begun) == 0 {
			continue
		}
		accepted := math.MaxInt
		if m.isAccepted() {
			accepted = m.accepted[0].place
		}
		seen := map[stream]bool{}
		for _, r := range m.received {
			if r.Attempt != 1 {
				continue
			}
			sender := m.begun[0].Instance
			for _, name := range []stream{{sender, r.Instance, "", ""}, {sender, "", r.Pod, r.Agent}} {
				if seen[name] {
					continue
				}
				seen[name] = true
				if streams[name] == nil {
					names = append(names, name)
				}
				streams[name] = append(streams[name], handOut{id, m.begun[0].place, accepted, r})
			}
		}
	}
	for _, name := range names {
		if name.instance != "" {
			c.judgeInstance(streams[name])
		} else {
			c.judgePod(streams[name])
		}
	}
}

// judgeInstance: what one process was handed out, in the order of its lines.
func (c *checker) judgeInstance(list []handOut) {
	slices.SortFunc(list, func(a, b handOut) int { return a.place - b.place })
	// The latest begin of a send among those handed out so far: whoever comes now must not have been accepted before it.
	latest := -1
	for i, one := range list {
		if latest >= 0 && one.accepted < list[latest].begun {
			c.say(Inversion, one.id, "accepted before %s was sent, handed out after it to %s", list[latest].id, one.Instance)
		}
		if i > 0 && one.accepted != math.MaxInt {
			c.report.Ordered++
		}
		if latest < 0 || one.begun > list[latest].begun {
			latest = i
		}
	}
}

// judgePod: what several processes of one agent were handed out from one log, where one call was over before the other began.
func (c *checker) judgePod(list []handOut) {
	ended := slices.Clone(list)
	slices.SortStableFunc(ended, func(a, b handOut) int { return cmp.Compare(a.Time, b.Time) })
	slices.SortStableFunc(list, func(a, b handOut) int { return cmp.Compare(a.Began, b.Began) })
	latest, over := -1, 0
	for _, one := range list {
		for ; over < len(ended) && ended[over].Time < one.Began; over++ {
			if latest < 0 || ended[over].begun > ended[latest].begun {
				latest = over
			}
		}
		if latest >= 0 && one.accepted < ended[latest].begun && one.Instance != ended[latest].Instance {
			c.say(Inversion, one.id, "accepted before %s was sent, handed out to %s after it had been to %s", ended[latest].id, one.Instance, ended[latest].Instance)
		}
	}
}

// Pending follows a history as it grows: which ids are accepted, and which of them nobody has been given yet.
type Pending struct {
	Accepted int
	accepted map[string]bool
	messages map[string]*message
	lines    int
}

// Add takes one more line; unreadable ones are Check's business.
func (p *Pending) Add(line string) {
	if p.accepted == nil {
		p.accepted, p.messages = map[string]bool{}, map[string]*message{}
	}
	e, err := Parse(line)
	if err != nil {
		return
	}
	p.lines++
	e.place = p.lines
	switch e.Op {
	case "A":
		if !p.accepted[e.ID] {
			p.accepted[e.ID] = true
			p.Accepted++
		}
	case "R", "C", "K", "X":
		m := p.messages[e.ID]
		if m == nil {
			m = &message{}
			p.messages[e.ID] = m
		}
		e.Body = ""
		m.take(e)
		if e.Op == "K" { // nothing changes that any more
			p.messages[e.ID] = &message{received: m.received[:min(1, len(m.received))], acked: m.acked[:1]}
		}
	}
}

// Open are the ids that are accepted and not received.
func (p *Pending) Open() []string {
	return p.those(func(m *message) bool { return len(m.received) == 0 })
}

// Unread are those, and the ids that were received and have to come again, since no ack of them can have been taken.
func (p *Pending) Unread() []string {
	return p.those(func(m *message) bool { return len(m.received) == 0 || !m.mayBeAcked() && !m.mayBeDead() })
}

func (p *Pending) those(wanted func(*message) bool) []string {
	var out []string
	for id := range p.accepted {
		if m := p.messages[id]; m == nil || wanted(m) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}
