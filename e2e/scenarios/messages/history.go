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
// Whoever makes faults writes down what they took, since some of it had been promised to nobody:
//
//	AGENT POD INSTANCE TIME L - BEGAN                between BEGAN and TIME the log of AGENT's pod was lost
//	AGENT POD INSTANCE TIME Z PEER BEGAN             between BEGAN and TIME the pods of AGENT and PEER held no mail, read or sent
//	AGENT POD INSTANCE TIME E - BEGAN                the last fault was over at BEGAN
//
// BODY may be its Fingerprint. POD changes with the log, since another log counts attempts from 1.
// INSTANCE is one process that does one thing after the other: its lines are in order. Lines of different instances are
// not: they are compared by the agents' clocks, with Slack. TIME and BEGAN are seconds with a fraction.
package messages

import (
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Slack is how far the clocks of two agents may be apart, in seconds.
const Slack = 0.25

// Drain is the time after the last fault within which everything accepted has to be handed out, in seconds.
const Drain = 60

// Attempts of a message are all that there are, until somebody puts the dead letter back.
const Attempts = 5

// Kind of a violation: one closed set.
type Kind string

const (
	Unreadable       Kind = "unreadable"         // a line that is none
	Contradiction    Kind = "contradiction"      // lines that no agent of ours writes: the recording itself is wrong
	Lost             Kind = "lost"               // accepted, never handed out
	Phantom          Kind = "phantom"            // handed out, never sent
	Refused          Kind = "refused-delivered"  // refused, and handed out
	Astray           Kind = "astray"             // handed out to somebody else
	Torn             Kind = "torn"               // not the body that was sent
	Twice            Kind = "twice"              // handed out twice as one attempt
	Backwards        Kind = "backwards"          // an older attempt handed out after a newer one
	AfterAck         Kind = "after-ack"          // handed out by a call that began after an OK ack
	LateAck          Kind = "late-ack"           // an ack of an older attempt was OK after a newer one was handed out
	AcceptedTwice    Kind = "accepted-twice"     // the same id accepted again as something new
	AckedNothing     Kind = "acked-nothing"      // an ack was OK that nobody there had been given
	Inversion        Kind = "inversion"          // a later send of one sender was handed out before an earlier one
	SurvivesNoPod    Kind = "survives-no-pod"    // accepted for another pod without a copy that survives ours
	AttemptOutOfLine Kind = "attempt-impossible" // below 1
	Late             Kind = "late"               // first handed out longer than Drain after the last fault
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
	Received, Acked, Redelivered, Refusal int // ids received, ids acked, hand-outs beyond the first, acks refused
	Ordered                               int // pairs of sends whose order was checked
	SurvivesNode                          int
	Excused                               int     // accepted and lost with all pods that held it: never promised
	Drained                               float64 // seconds from the last fault to the last first hand-out
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
}

// state of the sends: at most one is open at a time, since an instance does one thing after the other.
func (m *message) isAccepted() bool { return len(m.accepted) > 0 }

// isRefused: every send of it was refused for certain.
func (m *message) isRefused() bool {
	return !m.isAccepted() && len(m.begun) > 0 && len(m.unknown) == 0 && len(m.refused) == len(m.begun)
}

// Check judges a whole history. No line means no violation.
func Check(lines []string) (Report, []Violation) {
	c := checker{messages: map[string]*message{}, lastFault: math.Inf(1)}
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
	lastFault     float64
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
		c.lastFault = e.Began
		return
	case "C", "D":
		return
	}
	m := c.messages[e.ID]
	if m == nil {
		m = &message{}
		c.messages[e.ID] = m
		c.order = append(c.order, e.ID)
	}
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
	case "R":
		m.received = append(m.received, e)
	case "K":
		m.acked = append(m.acked, e)
	case "X":
		c.report.Refusal++
	}
}

func (c *checker) judge(id string, m *message) {
	if len(m.begun) > 0 {
		c.report.Sent++
	}
	switch {
	case m.isAccepted():
		c.report.Accepted++
		switch {
		case len(m.received) > 0:
			c.judgeDrain(id, m)
		case c.excused(m):
			c.report.Excused++
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

// excused: each pod that held it was lost, before mail was known to have been read there. Whoever was answered had been
// told of no other pod.
func (c *checker) excused(m *message) bool {
	from, to, accepted := m.begun[0].Agent, m.begun[0].To, m.accepted[0]
	until := math.Inf(1)
	for _, z := range c.empty {
		if (from == z.Agent || from == z.ID) && (to == z.Agent || to == z.ID) && z.Began >= accepted.Time {
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
	first := math.Inf(1)
	for _, r := range m.received {
		first = min(first, r.Time)
	}
	took := first - c.lastFault
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
		if r.Attempt < 1 {
			c.say(AttemptOutOfLine, id, "attempt %d", r.Attempt)
		}
		for _, before := range m.received[:i] {
			switch {
			case before.Pod != r.Pod: // another log counts from 1 again
			case before.Attempt == r.Attempt:
				c.say(Twice, id, "attempt %d handed out at %.3f and %.3f in %s", r.Attempt, before.Time, r.Time, r.Pod)
			case earlier(before, r) && before.Attempt > r.Attempt:
				c.say(Backwards, id, "attempt %d after %d in %s", r.Attempt, before.Attempt, r.Pod)
			case earlier(r, before) && r.Attempt > before.Attempt:
				c.say(Backwards, id, "attempt %d after %d in %s", before.Attempt, r.Attempt, r.Pod)
			}
		}
	}
}

// earlier: a was over before b began, for certain.
func earlier(a, b Event) bool {
	if a.Instance == b.Instance {
		return a.place < b.place
	}
	return a.Time+Slack < b.Began
}

func (c *checker) judgeAcked(id string, m *message) {
	if len(m.acked) > 0 {
		c.report.Acked++
	}
	for _, k := range m.acked {
		given := false
		for _, r := range m.received {
			if r.Pod == k.Pod && r.Attempt <= k.Attempt {
				given = true // R is recorded before its ack; an instance may know the attempt from there only
			}
			if earlier(k, r) {
				c.say(AfterAck, id, "acked at %.3f in %s, handed out by a call that began at %.3f in %s", k.Time, k.Pod, r.Began, r.Pod)
			}
			if r.Pod == k.Pod && r.Attempt > k.Attempt && (r.Instance == k.Instance && r.place < k.place || r.Instance != k.Instance && r.Time+Slack < k.Began) {
				c.say(LateAck, id, "attempt %d was handed out, then the ack of attempt %d was OK in %s", r.Attempt, k.Attempt, k.Pod)
			}
		}
		if !given {
			c.say(AckedNothing, id, "attempt %d acked in %s, which had not been given it", k.Attempt, k.Pod)
		}
	}
}

// judgeOrder: of two sends of one instance to one agent, the first accepted before the second began, the first is handed
// out first. Only hand-outs of one receiving instance are compared, and only first attempts: an attempt that nobody
// recorded (its receiver was killed) or another pod's log may come in another order rightly.
func (c *checker) judgeOrder() {
	type stream struct{ sender, receiver string }
	type handOut struct {
		sent, accepted, place int
		id                    string
	}
	streams := map[stream][]handOut{}
	var names []stream
	for _, id := range c.order {
		m := c.messages[id]
		if len(m.begun) == 0 || len(m.accepted) == 0 {
			continue
		}
		seen := map[string]bool{}
		for _, r := range m.received {
			if r.Attempt != 1 || seen[r.Instance] {
				continue
			}
			seen[r.Instance] = true
			name := stream{m.begun[0].Instance, r.Instance}
			if streams[name] == nil {
				names = append(names, name)
			}
			streams[name] = append(streams[name], handOut{m.begun[0].place, m.accepted[0].place, r.place, id})
		}
	}
	for _, name := range names {
		list := streams[name]
		slices.SortFunc(list, func(a, b handOut) int { return a.place - b.place })
		// The latest begin of a send among those handed out so far: whoever comes now must not have been accepted before it.
		latest := -1
		for i, one := range list {
			if latest >= 0 && one.accepted < list[latest].sent {
				c.say(Inversion, one.id, "accepted before %s was sent, handed out after it to %s", list[latest].id, name.receiver)
			}
			if i > 0 {
				c.report.Ordered++
			}
			if latest < 0 || one.sent > list[latest].sent {
				latest = i
			}
		}
	}
}

// Pending follows a history as it grows: which ids are accepted, and which of them nobody has been given yet.
type Pending struct {
	Accepted int
	accepted map[string]bool
	received map[string]bool
}

// Add takes one more line; unreadable ones are Check's business.
func (p *Pending) Add(line string) {
	if p.accepted == nil {
		p.accepted, p.received = map[string]bool{}, map[string]bool{}
	}
	e, err := Parse(line)
	if err != nil {
		return
	}
	switch e.Op {
	case "A":
		if !p.accepted[e.ID] {
			p.accepted[e.ID] = true
			p.Accepted++
		}
	case "R":
		p.received[e.ID] = true
	}
}

// Open are the ids that are accepted and not received.
func (p *Pending) Open() []string {
	var out []string
	for id := range p.accepted {
		if !p.received[id] {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}
