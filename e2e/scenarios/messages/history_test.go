package messages

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Short forms: "a0" is an agent whose pod is a0-p, unless written a0/pod/instance; %ID becomes the id's body.
func history(lines ...string) []string {
	var out []string
	for i, line := range lines {
		part := strings.SplitN(line, " ", 2)
		who := strings.Split(part[0], "/")
		if len(who) == 1 {
			who = append(who, who[0]+"-p")
		}
		if len(who) == 2 {
			who = append(who, who[1]+".i")
		}
		rest := strings.Split(part[1], " ")
		now := fmt.Sprintf("%.3f", 1000+float64(i)*10) // ten seconds a line, unless it says so: @time
		if strings.HasPrefix(rest[0], "@") {
			now, rest = rest[0][1:], rest[1:]
		}
		switch n := len(rest) - 1; rest[n] {
		case "body":
			rest[n], _ = Expected(rest[1])
		case "print":
			rest[n] = Fingerprint(must(rest[1]))
		}
		for j, field := range rest {
			if field == "now" {
				rest[j] = fmt.Sprintf("%.3f", 1000+float64(i)*10-0.1)
			}
		}
		out = append(out, strings.Join(who, " ")+" "+now+" "+strings.Join(rest, " "))
	}
	return out
}

func kinds(violations []Violation) []Kind {
	var out []Kind
	for _, v := range violations {
		if !slices.Contains(out, v.Kind) {
			out = append(out, v.Kind)
		}
	}
	slices.Sort(out)
	return out
}

// sound is one message that went well; the bad histories are variations of it.
var sound = []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 1 now body", "a1 K m.1 1 now"}

// over is the end of a run.
const over = "d @1200 E - 1200"

// handOuts is a message of n attempts, each given back, a millisecond apart.
func handOuts(n int) []string {
	lines := []string{"a0 B m.1 a1", "a0 A m.1 pod false"}
	for i := 1; i <= n; i++ {
		at := 1020 + float64(i)/1000
		lines = append(lines, fmt.Sprintf("a1 @%.4f R m.1 %d %.4f print", at, i, at-0.0005), fmt.Sprintf("a1 @%.4f N m.1 %d 0", at+0.0002, i))
	}
	return lines
}

func TestSelfGoodHistories(t *testing.T) {
	for name, lines := range map[string][]string{
		"nothing": {},
		"one":     sound,
		"the answer to the sender is recorded after the hand-out": {"a0 B m.1 a1", "a1 R m.1 1 now body", "a0 A m.1 node false", "a1 K m.1 1 now"},
		"unknown and never handed out":                            {"a0 B m.1 a1", "a0 U m.1 5"},
		"the sender died in the call":                             {"a0 B m.1 a1"},
		"the sender died in the call, handed out":                 {"a0 B m.1 a1", "a1 R m.1 1 now body"},
		"refused": {"a0 B m.1 a1", "a0 F m.1 4"},
		"unknown, then refused, handed out all the same":            {"a0 B m.1 a1", "a0 U m.1 5", "a0 B m.1 a1", "a0 F m.1 6", "a1 R m.1 1 now body"},
		"repeated after unknown":                                    {"a0 B m.1 a1", "a0 U m.1 5", "a0 B m.1 a1", "a0 A m.1 node true", "a1 R m.1 1 now body"},
		"repeated after unknown, the first had never arrived":       {"a0 B m.1 a1", "a0 U m.1 5", "a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 1 now body"},
		"repeated on purpose":                                       append(slices.Clone(sound), "a0 B m.1 a1", "a0 A m.1 node true"),
		"redelivered after the lease":                               {"a0 B m.1 a1", "a0 A m.1 pod false", "a1 R m.1 1 now body", "a1 R m.1 2 now body", "a1 X m.1 1 7", "a1 K m.1 2 now"},
		"given back":                                                {"a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 1 now body", "a1 N m.1 1 0", "a1 R m.1 2 now body", "a1 K m.1 2 now"},
		"the receiver's pod died, its successor counts anew":        {"a0 B m.1 a1", "a0 A m.1 node false", "a1/p1 R m.1 1 now body", "a1/p2 R m.1 1 now body", "a1/p2 K m.1 1 now"},
		"old and new pod had it at the same time":                   {"a0 B m.1 a1", "a0 A m.1 node false", "a1/p1 R m.1 1 now body", "a1/p1 @1100.0 K m.1 1 1099.9", "a1/p2 @1100.1 R m.1 1 1099.95 body"},
		"an ack of an attempt that the dead agent had not recorded": {"a0 B m.1 a1", "a0 A m.1 node false", "a1/p/i R m.1 1 now body", "a1/p/j R m.1 2 now body", "a1/p/j K m.1 2 now"},
		"a late ack in flight while the next attempt is handed out": {"a0 B m.1 a1", "a0 A m.1 node false", "a1/p/i R m.1 1 now body", "a1/p/j @1050 R m.1 2 1049 body", "a1/p/i @1050.1 X m.1 1 refused", "a1/p/j K m.1 2 now"},
		"to itself":                         {"a0 B m.1 a0", "a0 A m.1 container false", "a0 R m.1 1 now body"},
		"sends that overlap may be swapped": {"a0 B m.1 a1", "a0 U m.1 5", "a0 B m.2 a1", "a0 A m.2 node false", "a1 R m.2 1 now body", "a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 1 now body"},
		"an attempt nobody recorded: the second comes later, rightly": {"a0 B m.1 a1", "a0 A m.1 node false", "a0 B m.2 a1", "a0 A m.2 node false", "a1 R m.2 1 now body", "a1 R m.1 2 now body"},
		"another pod's log: the first comes again, rightly":           {"a0 B m.1 a1", "a0 A m.1 node false", "a0 B m.2 a1", "a0 A m.2 node false", "a1/p R m.2 1 now body", "a1/q R m.1 1 now body"},
		"two senders have no order":                                   {"a0 B m.1 a1", "a0 A m.1 node false", "a2 B n.1 a1", "a2 A n.1 node false", "a1 R n.1 1 now body", "a1 R m.1 1 now body"},
		"two receivers have no order":                                 {"a0 B m.1 a1", "a0 A m.1 node false", "a0 B m.2 a2", "a0 A m.2 node false", "a2 R m.2 1 now body", "a1 R m.1 1 now body"},
		"a body's fingerprint":                                        {"a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 1 now print", "a1 K m.1 1 now"},
		"lost with both pods":                                         {"a0 B m.1 a1", "a0 A m.1 node false", "a0 L - now", "a1 L - now"},
		"lost with both pods, one while it was sent":                  {"a0 B m.1 a1", "a1 L - 990", "a0 A m.1 node false", "a0 L - now"},
		"to itself, lost with its pod":                                {"a0 B m.1 a0", "a0 A m.1 container false", "a0 L - now"},
		"again, since its receiver's log was lost":                    {"a0 B m.1 a1", "a0 A m.1 node false", "a1/p R m.1 1 now body", "a1/p L - now", "a1/q R m.1 1 now body", "a1/q K m.1 1 now"},
		"read in time after the last fault":                           {"a0 B m.1 a1", "a0 A m.1 node false", "d @1020 E - 1020", "a1 @1079 R m.1 1 1078 body", "a1 @1079.2 K m.1 1 1079.1"},
		// "It had been accepted" as the first answer to the first send: a call may be several tries with one id (agentctl repeats
		// when its connection breaks), and nothing that is promised is broken. Were it false, the message would be lost.
		"the first answer: it had been accepted": {"a0 B m.1 a1", "a0 A m.1 pod true", "a1 R m.1 1 now body", "a1 K m.1 1 now", over},
		// No promise has a time: it takes E to say that nothing stood in its way any more. Who runs agents until they have read
		// everything writes E, and looks at Report.Over.
		"handed out an hour later, nobody says when the last fault was": {"a0 B m.1 a1", "a0 A m.1 pod false", "a1 @4700 R m.1 1 4699.9 body", "a1 @4701 K m.1 1 4700.9"},
		// "Refused is never delivered" ends where an earlier try with the same id was unknown.
		"unknown, then refused as unavailable, delivered afterwards": {"a0 B m.1 a1", "a0 U m.1 unknown", "a0 B m.1 a1", "a0 F m.1 unavailable", "a1 R m.1 1 now body", "a1 K m.1 1 now", over},
		// Attempt 1 was marked, and its answer died with the engine or the agent: redeliveries may come after younger ones.
		"the first one as attempt 2, after a later one": {"a0 B m.1 a1", "a0 A m.1 pod false", "a0 B m.2 a1", "a0 A m.2 pod false", "a1 R m.2 1 now body", "a1 K m.2 1 now", "a1 R m.1 2 now body", "a1 K m.1 2 now", over},
		// A restart of the sidecar ends all leases, and takes milliseconds; the histories have neither. Two who have it at a time
		// are told apart by their acks, and no attempt is beyond the fifth.
		"again long before a lease could end":                       {"a0 B m.1 a1", "a0 A m.1 pod false", "a1/p/i @1020 R m.1 1 1019.9 body", "a1/p/j @1020.001 R m.1 2 1019.9 body", "a1/p/i @1020.1 X m.1 1 refused", "a1/p/j @1020.2 K m.1 2 1020.1", over},
		"five attempts in a moment":                                 append(handOuts(5), "a1 @1090 K m.1 5 1089", over),
		"handed out, the agent ended in the ack":                    {"a0 B m.1 a1", "a0 A m.1 pod false", "a1 R m.1 1 now body", "a1 C m.1 1", over},
		"handed out, the answer to the ack did not come":            {"a0 B m.1 a1", "a0 A m.1 pod false", "a1 R m.1 1 now body", "a1 C m.1 1", "a1 X m.1 1 no-answer", "a0 Z a1 now", over},
		"the answer to the ack did not come, then it was gone":      {"a0 B m.1 a1", "a0 A m.1 pod false", "a1 R m.1 1 now body", "a1 C m.1 1", "a1 X m.1 1 no-answer", "a1 C m.1 1", "a1 X m.1 1 not_found", over},
		"the ack is not recorded by the sender's pod yet":           {"a0 B m.1 a1", "a0 A m.1 pod false", "a1 R m.1 1 now body", "a1 C m.1 1", "a1 X m.1 1 5", over},
		"acked, then its pod was lost":                              {"a0 B m.1 a1", "a0 A m.1 pod false", "a1 R m.1 1 now body", "a1 C m.1 1", "a1 L - now", over},
		"given back, and the run is not over":                       {"a0 B m.1 a1", "a0 A m.1 pod false", "a1 R m.1 1 now body", "a1 N m.1 1 0"},
		"given back five times: a dead letter":                      append(handOuts(5), over),
		"a dead letter, put back":                                   append(handOuts(5), "a1 @1080 D m.1 5", "a1 @1090 R m.1 6 1089 body", "a1 @1091 K m.1 6 1090", "a0 @1150 Z a1 1100", over),
		"a dead letter, put back by the driver":                     append(handOuts(5), "a1/a1-p/driver @1080 D - 0", "a1 @1090 R m.1 6 1089 body", "a1 @1091 K m.1 6 1090", over),
		"to itself, given back, then lost with its pod":             {"a0 B m.1 a0", "a0 A m.1 container false", "a0 R m.1 1 now body", "a0 N m.1 1 0", "a0 L - now", over},
		"two receivers of a pod, whose calls overlap":               {"a0 B m.1 a1", "a0 A m.1 pod false", "a0 B m.2 a1", "a0 A m.2 pod false", "a1/p/i @1050 R m.2 1 1049 body", "a1/p/i K m.2 1 now", "a1/p/j @1051 R m.1 1 1049.9 body", "a1/p/j K m.1 1 now", over},
		"two receivers of a pod, the second sent before the answer": {"a0 B m.1 a1", "a0 U m.1 5", "a0 B m.2 a1", "a0 A m.2 pod false", "a0 B m.1 a1", "a0 A m.1 pod true", "a1/p/i R m.2 1 now body", "a1/p/j R m.1 1 now body"},
		"two agents of a pod have no order":                         {"a0 B m.1 a1", "a0 A m.1 pod false", "a0 B m.2 a1.1", "a0 A m.2 pod false", "a1.1/p/j R m.2 1 now body", "a1/p/i R m.1 1 now body"},
		"two pods of a name, the second counts anew":                {"a0 B m.1 a1", "a0 A m.1 pod false", "a0 B m.2 a1", "a0 A m.2 pod false", "a1/p/i R m.2 1 now body", "a1/q/j R m.1 1 now body"},
		"large": {"a0 B m.500 a1", "a0 A m.500 node false", "a1 R m.500 1 now body"},
	} {
		if _, violations := Check(history(lines...)); len(violations) > 0 {
			t.Errorf("%s: %v", name, violations)
		}
	}
}

func TestSelfBadHistories(t *testing.T) {
	for name, bad := range map[string]struct {
		kind  Kind
		lines []string
	}{
		"lost":                                   {Lost, []string{"a0 B m.1 a1", "a0 A m.1 node false"}},
		"lost, given back":                       {Lost, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a1 R m.1 1 now body", "a1 N m.1 1 0", over}},
		"lost, given back, no mail is left":      {Lost, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a1 R m.1 1 now body", "a1 N m.1 1 0", "a1 Z a0 now"}},
		"lost, given back in the successor":      {Lost, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a1/p R m.1 1 now body", "a1/p L - now", "a1/q R m.1 1 now body", "a1/q N m.1 1 0", over}},
		"lost with the log of who had it":        {Lost, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a1 R m.1 1 now body", "a1 L - now", over}},
		"lost, the ack of its attempt refused":   {Lost, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a1 R m.1 1 now body", "a1 C m.1 1", "a1 X m.1 1 refused", over}},
		"lost, agentctl's ack refused":           {Lost, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a1 R m.1 1 now body", "a1 C m.1 1", "a1 X m.1 1 7", over}},
		"lost, gone when it was to be acked":     {Lost, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a1 R m.1 1 now body", "a1 C m.1 1", "a1 X m.1 1 not_found", over}},
		"lost, unknown is an earlier ack's fate": {Lost, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a1 R m.1 1 now body", "a1 C m.1 1", "a1 X m.1 1 no-answer", "a1 R m.1 2 now body", "a1 C m.1 2", "a1 X m.1 2 refused", over}},
		"lost, an earlier ack broke off":         {Lost, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a1/p/i R m.1 1 now body", "a1/p/i C m.1 1", "a1/p/j R m.1 2 now body", "a1/p/j N m.1 2 0", over}},
		"lost, a dead letter that is not kept":   {Lost, append(handOuts(5), "a0 @1150 Z a1 1100", over)},
		"lost, to itself, its pod was not":       {Lost, []string{"a0 B m.1 a0", "a0 A m.1 container false", "a0 R m.1 1 now body", "a0 N m.1 1 0", "a1 L - now", over}},
		"a sixth attempt":                        {AttemptOutOfLine, append(handOuts(6), "a1 @1090 K m.1 6 1089")},
		"a thousand attempts in a second":        {AttemptOutOfLine, append(handOuts(1000), over)},
		"an eleventh attempt, put back once":     {AttemptOutOfLine, append(append(handOuts(5), "a1 @1080 D m.1 5"), handOuts(11)[7:]...)},
		"a sixth attempt, then put back":         {AttemptOutOfLine, append(handOuts(6), "a1 @1090 D m.1 5")},
		"a sixth attempt, put back elsewhere":    {AttemptOutOfLine, append([]string{"a1/q @1000 D m.1 5", "a1.1/a1-p @1000 D - 0"}, handOuts(6)...)},
		"after an ack, soon, to another process": {AfterAck, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a1/p/i @1021 R m.1 1 1020.9 body", "a1/p/i @1021.1 K m.1 1 1021.05",
			"a1/p/j @1021.31 R m.1 2 1021.3 body", "a1/p/j @1021.4 K m.1 2 1021.35", over}},
		"after an ack, by a call that had begun": {AfterAck, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a1/p/i @1021 R m.1 1 1020.9 body", "a1/p/i @1021.1 K m.1 1 1021.05",
			"a1/p/j @1071 R m.1 2 1020.95 body", "a1/p/j @1071.1 K m.1 2 1071.05", over}},
		"after an ack, in another pod, soon": {AfterAck, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a1/p @1021 R m.1 1 1020.9 body", "a1/p @1021.1 K m.1 1 1021.05", "a1/q @1021.3 R m.1 1 1021.2 body"}},
		"two have it, both acks are OK": {LateAck, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a1/p/i @1021 R m.1 1 1020.9 body", "a1/p/j @1021.001 R m.1 2 1020.9 body",
			"a1/p/i @1021.1 K m.1 1 1021.05", "a1/p/j @1021.12 K m.1 2 1021.06", over}},
		"a late ack in flight while the next attempt is handed out": {LateAck, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1/p/i R m.1 1 now body", "a1/p/j @1050 R m.1 2 1049 body", "a1/p/i @1050.1 K m.1 1 1049.9"}},
		"inversion between two receivers of a pod": {Inversion, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a0 B m.2 a1", "a0 A m.2 pod false",
			"a1/p/i R m.2 1 now body", "a1/p/i K m.2 1 now", "a1/p/j R m.1 1 now body", "a1/p/j K m.1 1 now", over}},
		"inversion among three receivers of a pod": {Inversion, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a0 B m.2 a1", "a0 A m.2 pod false", "a0 B m.3 a1", "a0 A m.3 pod false",
			"a1/p/i @1070 R m.3 1 1069 body", "a1/p/j @1071 R m.2 1 1068 body", "a1/p/k @1073 R m.1 1 1070.5 body"}},
		"inversion, the later one stayed unknown": {Inversion, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a0 B m.2 a1", "a0 U m.2 unknown",
			"a1 R m.2 1 now body", "a1 K m.2 1 now", "a1 R m.1 1 now body", "a1 K m.1 1 now", over}},
		"again, late after the last fault":        {Late, []string{"a0 B m.1 a1", "a0 A m.1 pod false", "a1 R m.1 1 now body", "d @1030 E - 1030", "a1 @8200 R m.1 2 8199.9 body", "a1 @8201 K m.1 2 8200.9"}},
		"lost after a repetition":                 {Lost, []string{"a0 B m.1 a1", "a0 U m.1 5", "a0 B m.1 a1", "a0 A m.1 node true"}},
		"lost, the next one is there":             {Lost, append([]string{"a0 B m.0 a1", "a0 A m.0 node false"}, sound...)},
		"phantom":                                 {Phantom, []string{"a1 R m.1 1 now body"}},
		"refused, delivered":                      {Refused, []string{"a0 B m.1 a1", "a0 F m.1 4", "a1 R m.1 1 now body"}},
		"refused twice, delivered":                {Refused, []string{"a0 B m.1 a1", "a0 F m.1 6", "a0 B m.1 a1", "a0 F m.1 4", "a1 R m.1 1 now body"}},
		"refused after it was delivered":          {Refused, []string{"a0 B m.1 a1", "a1 R m.1 1 now body", "a0 F m.1 6"}},
		"to somebody else":                        {Astray, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a2 R m.1 1 now body"}},
		"cut off":                                 {Torn, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 1 now m.1"}},
		"another one's body":                      {Torn, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 1 now " + must("m.2")}},
		"one byte wrong":                          {Torn, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 1 now " + strings.Replace(must("m.1"), "m.1.m", "m.1.n", 1)}},
		"two bodies in one":                       {Torn, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 1 now " + must("m.1") + must("m.1")}},
		"torn the second time":                    {Torn, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 1 now body", "a1 R m.1 2 now m.1"}},
		"torn, the answer is unknown":             {Torn, []string{"a0 B m.1 a1", "a0 U m.1 5", "a1 R m.1 1 now m"}},
		"twice as one attempt":                    {Twice, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 1 now body", "a1 R m.1 1 now body"}},
		"twice as one attempt, another process":   {Twice, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1/p/i R m.1 1 now body", "a1/p/j R m.1 1 now body"}},
		"an attempt twice after another":          {Twice, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 1 now body", "a1 R m.1 2 now body", "a1 R m.1 2 now body"}},
		"attempts backwards":                      {Backwards, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 2 now body", "a1 R m.1 1 now body"}},
		"attempts backwards, another process":     {Backwards, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1/p/i R m.1 3 now body", "a1/p/j R m.1 2 now body"}},
		"attempt 0":                               {AttemptOutOfLine, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 0 now body"}},
		"again after an ack":                      {AfterAck, append(slices.Clone(sound), "a1 R m.1 2 now body")},
		"again after an ack, in another pod":      {AfterAck, append(slices.Clone(sound), "a1/q R m.1 1 now body")},
		"again after an ack, unknown to sender":   {AfterAck, []string{"a0 B m.1 a1", "a1 R m.1 1 now body", "a1 K m.1 1 now", "a1 R m.1 2 now body"}},
		"late ack":                                {LateAck, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 1 now body", "a1 R m.1 2 now body", "a1 K m.1 1 now"}},
		"late ack of another process":             {LateAck, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1/p/i R m.1 1 now body", "a1/p/j R m.1 2 now body", "a1/p/i K m.1 1 now"}},
		"accepted twice":                          {AcceptedTwice, append(slices.Clone(sound), "a0 B m.1 a1", "a0 A m.1 node false")},
		"accepted three times":                    {AcceptedTwice, append(slices.Clone(sound), "a0 B m.1 a1", "a0 A m.1 node true", "a0 B m.1 a1", "a0 A m.1 node false")},
		"acked by a pod that never had it":        {AckedNothing, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1/p R m.1 1 now body", "a1/q @1020.1 K m.1 1 now"}},
		"acked an attempt of the future":          {AckedNothing, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1/p R m.1 2 now body", "a1/p/j @1020.1 K m.1 1 1020"}},
		"inversion":                               {Inversion, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a0 B m.2 a1", "a0 A m.2 node false", "a1 R m.2 1 now body", "a1 R m.1 1 now body"}},
		"inversion over three":                    {Inversion, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a0 B m.2 a1", "a0 A m.2 node false", "a0 B m.3 a1", "a0 A m.3 node false", "a1 R m.2 1 now body", "a1 R m.3 1 now body", "a1 R m.1 1 now body"}},
		"inversion, the second was unknown first": {Inversion, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a0 B m.2 a1", "a0 U m.2 5", "a0 B m.2 a1", "a0 A m.2 node true", "a1 R m.2 1 now body", "a1 R m.1 1 now body"}},
		"no copy in another pod":                  {SurvivesNoPod, []string{"a0 B m.1 a1", "a0 A m.1 container false", "a1 R m.1 1 now body"}},
		"lost, one of two pods was":               {Lost, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1 L - now"}},
		"lost, the sender's pod was":              {Lost, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a0 L - now"}},
		"lost, one pod twice":                     {Lost, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1/p L - now", "a1/q L - now"}},
		"lost before the pods were":               {Lost, []string{"a0 L - 990", "a1 L - now", "a0 B m.1 a1", "a0 A m.1 node false"}},
		"lost, the pods were after it was read":   {Lost, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a0 Z a1 now", "a0 L - now", "a1 L - now"}},
		"lost, the second pod was after it":       {Lost, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a0 L - now", "a1 Z a0 now", "a1 L - now"}},
		"lost with two pods that never had it":    {Lost, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a2 L - now", "a3 L - now"}},
		"to itself, lost, its pod was not":        {Lost, []string{"a0 B m.1 a0", "a0 A m.1 container false", "a1 L - now"}},
		"another one's fingerprint":               {Torn, []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 1 now " + Fingerprint(must("m.2"))}},
		"late after the last fault":               {Late, []string{"a0 B m.1 a1", "a0 A m.1 node false", "d @1020 E - 1020", "a1 @1081 R m.1 1 1080 body"}},
		"a loss without its beginning":            {Unreadable, append(slices.Clone(sound), "a1 L - when")},
		"half a line":                             {Unreadable, append(slices.Clone(sound), "a0 B m.2")},
		"garbage":                                 {Unreadable, append(slices.Clone(sound), "a0 Q m.2 what")},
		"an attempt that is no number":            {Unreadable, []string{"a0 B m.1 a1", "a1 R m.1 one now body"}},
		"an answer without a question":            {Contradiction, []string{"a0 A m.1 node false", "a1 R m.1 1 now body", "a0 B m.1 a1"}},
		"two answers to one question":             {Contradiction, append(slices.Clone(sound), "a0 A m.1 node true")},
		"an id of two senders":                    {Contradiction, append(slices.Clone(sound), "a2 B m.1 a1")},
		"an id for two receivers":                 {Contradiction, append(slices.Clone(sound), "a0 B m.1 a2", "a0 A m.1 node true")},
	} {
		_, violations := Check(history(bad.lines...))
		if !slices.Contains(kinds(violations), bad.kind) {
			t.Errorf("%s: found %v, not %s", name, violations, bad.kind)
		}
	}
}

func must(id string) string {
	body, ok := Expected(id)
	if !ok {
		panic(id)
	}
	return body
}

func TestSelfCounts(t *testing.T) {
	report, violations := Check(history(
		"a0 B m.1 a1", "a0 A m.1 node false", "a0 B m.2 a1", "a0 A m.2 pod false", "a0 B m.3 a1", "a0 F m.3 4", "a0 B m.4 a1", "a0 U m.4 5",
		"a1 R m.1 1 now body", "a1 K m.1 1 now", "a1 R m.2 1 now body", "a1 R m.2 2 now body", "a1 X m.2 1 7", "a1 K m.2 2 now"))
	want := Report{Sent: 4, Accepted: 2, Refused: 1, Unknown: 1, Received: 2, Acked: 2, Redelivered: 1, Refusal: 1, Ordered: 1, SurvivesNode: 1}
	if report != want || len(violations) > 0 {
		t.Errorf("%+v %v", report, violations)
	}
}

func TestSelfCountsAfterFaults(t *testing.T) {
	report, violations := Check(history("a0 B m.1 a1", "a0 A m.1 pod false", "a0 L - now", "a1 L - now", "a0 B m.2 a1", "a0 A m.2 pod false",
		"d @1060 E - 1060", "a1 @1062.5 R m.2 1 1062 print", "a1 X m.2 1 refused", "a1 @1063.5 R m.2 2 1063 print", "a1 X m.2 1 no-answer", "a1 X m.2 1 refused", "a1 X m.2 2 refused",
		"a1 K m.2 2 now"))
	want := Report{Sent: 2, Accepted: 2, Received: 1, Acked: 1, Redelivered: 1, Refusal: 1, Excused: 1, Over: true, Drained: 3.5}
	if report != want || len(violations) > 0 {
		t.Errorf("%+v %v", report, violations)
	}
}

func TestSelfExpected(t *testing.T) {
	for id, length := range map[string]int{"p.1": 101, "p.199": 299, "p.200": 4000, "p.50": 4000, "p.500": 30000, "p.1000": 30000} {
		if body := must(id); len(body) != length || !strings.HasPrefix(body, id) {
			t.Errorf("%s: %d bytes", id, len(body))
		}
	}
	if _, ok := Expected("p.x"); ok {
		t.Error("p.x has a body")
	}
}

func TestSelfPending(t *testing.T) {
	var p Pending
	for _, line := range history("a0 B m.1 a1", "a0 A m.1 node false", "a0 B m.2 a1", "a0 A m.2 node false", "a0 B m.2 a1", "a0 A m.2 node true", "a1 R m.1 1 now body") {
		p.Add(line)
	}
	if got := p.Unread(); !slices.Equal(got, []string{"m.1", "m.2"}) {
		t.Errorf("unread: %v", got)
	}
	if got := p.Open(); p.Accepted != 2 || !slices.Equal(got, []string{"m.2"}) {
		t.Errorf("%d %v", p.Accepted, got)
	}
}

func TestSelfUnread(t *testing.T) {
	sent := []string{"a0 B m.1 a1", "a0 A m.1 node false", "a1 R m.1 1 now body"}
	for name, c := range map[string]struct {
		then   []string
		unread bool
	}{
		"handed out":           {nil, true},
		"being acked":          {[]string{"a1 C m.1 1"}, false},
		"acked":                {[]string{"a1 C m.1 1", "a1 K m.1 1 now"}, false},
		"the ack refused":      {[]string{"a1 C m.1 1", "a1 X m.1 1 7"}, true},
		"the ack not known":    {[]string{"a1 C m.1 1", "a1 X m.1 1 5"}, false},
		"handed out once more": {[]string{"a1 C m.1 1", "a1 X m.1 1 5", "a1 R m.1 2 now body"}, true},
		"given back":           {[]string{"a1 N m.1 1 0"}, true},
	} {
		var p Pending
		for _, line := range history(append(slices.Clone(sent), c.then...)...) {
			p.Add(line)
		}
		if got := p.Unread(); len(got) > 0 != c.unread {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestSelfApart: between two pods, a hand-out that seems to follow an ack may not have, if their clocks are two.
func TestSelfApart(t *testing.T) {
	lines := history("a0 B m.1 a1", "a0 A m.1 pod false", "a1/p @1021 R m.1 1 1020.9 body", "a1/p @1021.1 K m.1 1 1021.05", "a1/q @1021.4 R m.1 1 1021.3 body")
	if _, violations := CheckApart(lines, Apart); len(violations) > 0 {
		t.Error(violations)
	}
	if _, violations := Check(lines); !slices.Equal(kinds(violations), []Kind{AfterAck}) {
		t.Error(violations)
	}
}
