package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
	"time"
)

// errNoAnswer: the call may have been carried out or not.
var errNoAnswer = errors.New("no answer")

// client calls the agent socket (docs/socket-protocol.md), one call at a time. A connection that breaks is made anew by
// the next call.
type client struct {
	path string
	conn net.Conn
	in   *bufio.Reader
	rid  int
}

type request map[string]any

type answer struct {
	Rid       int
	OK        bool
	Code      string
	Message   json.RawMessage // an error's words, or what recv was given
	Survives  string
	Duplicate bool
	Connected bool
	// a part for one of several receivers
	More        bool
	To, Outcome string
	// stats
	Inbox, Outbox, DeadLetters, Acked int
}

type delivered struct {
	MessageID, From, Body string
	Attempt               int
}

// call: errNoAnswer within the limit also where nobody listens.
func (c *client) call(r request, limit time.Duration) (answer, error) {
	return c.callTo("", r, limit)
}

// callTo answers what became of it for `to`, if that is one of several receivers.
func (c *client) callTo(to string, r request, limit time.Duration) (answer, error) {
	deadline := time.Now().Add(limit)
	for c.conn == nil {
		conn, err := net.DialTimeout("unix", c.path, time.Until(deadline))
		if err == nil {
			c.conn, c.in = conn, bufio.NewReader(conn)
		} else if time.Now().After(deadline) {
			return answer{}, errNoAnswer
		} else {
			time.Sleep(pollPause) // it is being restarted
		}
	}
	c.rid++
	r["rid"] = c.rid
	line, err := json.Marshal(r)
	if err != nil {
		return answer{}, err
	}
	_ = c.conn.SetDeadline(deadline)
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		return answer{}, c.lost()
	}
	var part *answer
	for {
		line, err := c.in.ReadBytes('\n')
		if err != nil {
			return answer{}, c.lost()
		}
		var a answer
		if err := json.Unmarshal(line, &a); err != nil {
			return answer{}, err
		}
		switch {
		case a.Rid != c.rid:
		case a.More && a.To == to:
			a.OK = a.Outcome == "accepted"
			part = &a
		case !a.More && part != nil:
			return *part, nil
		case !a.More:
			return a, nil
		}
	}
}

func (c *client) lost() error {
	c.close()
	return errNoAnswer
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}
