// modelserver is a model that does what its prompt says, behind the public APIs that coding CLIs speak: so stock CLIs run
// where there is neither a network nor a key.
//
// What to do are lines of the prompt, in this order; everything else in it is passed over:
//
//	model: write FILE TEXT          a file of that one line
//	model: edit FILE OLD => NEW     one line for another
//	model: run COMMAND              in a shell, whatever its exit code
//	model: say TEXT                 the last word; "done" without
//	model: refuse N                 429 to N requests that get here, then it goes on
//	model: hang N                   N requests that get here have the beginning of an answer, and no end
//	model: pause SECONDS            before the answer
//
// POST /storm?requests=N: 429 to the next N requests, whoever asks. GET /stats: what was answered, refused and never ended.
//
// How far a conversation has come is what the CLI sends of it: there is no state but these counters, which belong to the
// prompt, so that a later attempt at the same task finds them used up.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	mostRequestBytes = 16 << 20
	prefix           = "model: "
)

// What each answer says it has cost.
const (
	inputTokens, cacheReadTokens, cacheCreationTokens = 1000, 2000, 300
	outputTokens                                      = 100
)

type step struct{ verb, rest string }

// script are the steps of a prompt.
func script(prompt string) (steps []step) {
	for _, line := range strings.Split(prompt, "\n") {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), prefix); ok {
			verb, rest, _ := strings.Cut(text, " ")
			steps = append(steps, step{verb, rest})
		}
	}
	return steps
}

// conversation is one request, whichever API it came by.
type conversation struct {
	prompt string
	done   int    // results of tools that it holds
	cwd    string // "" where the CLI does not say
}

// call is the use of a tool, in the CLI's own words.
type call struct {
	tool  string
	input any
}

// api is what the two differ in.
type api interface {
	read(body []byte) (conversation, error)
	calls(s step, cwd string) []call // nil: not a step that uses tools
	begin(w http.ResponseWriter)
	answer(w http.ResponseWriter, use *call, say string)
	refuse(w http.ResponseWriter)
}

type server struct {
	mutex sync.Mutex
	used  map[string]int // of refuse and hang, by the prompt and the step
	storm int            // requests still to be refused
	stats struct{ Answered, Refused, Hung int }
}

// spend says whether the step's count is not yet used up, and takes one of it.
func (s *server) spend(prompt string, at int, most int) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	key := fmt.Sprint(at, " ", prompt)
	if s.used[key] >= most {
		return false
	}
	s.used[key]++
	return true
}

func (s *server) refused() bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.storm == 0 {
		return false
	}
	s.storm--
	s.stats.Refused++
	return true
}

func (s *server) count(what *int) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	*what++
}

// serve answers with the first step that is not done yet.
func (s *server) serve(of api) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body []byte
		var raw json.RawMessage
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, mostRequestBytes)).Decode(&raw); err == nil {
			body = raw
		}
		talk, err := of.read(body)
		if err != nil {
			log.Printf("%s: %v", r.URL.Path, err)
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer := func(what string, use *call, say string) {
			if s.refused() {
				log.Printf("%s: 429 to everybody", r.URL.Path)
				of.refuse(w)
				return
			}
			s.count(&s.stats.Answered)
			log.Printf("%s: %s", r.URL.Path, what)
			of.answer(w, use, say)
		}
		steps := script(talk.prompt)
		done, say := 0, "done"
		for at, one := range steps {
			n, _ := strconv.Atoi(one.rest)
			uses := of.calls(one, talk.cwd)
			if done+len(uses) <= talk.done && len(uses) > 0 {
				done += len(uses)
				continue
			}
			// What comes before a use that is done, was done before it.
			if len(uses) == 0 && later(of, steps[at:], talk.cwd, talk.done-done) {
				continue
			}
			switch one.verb {
			case "say":
				say = one.rest
				continue
			case "pause":
				select {
				case <-time.After(time.Duration(n) * time.Second):
				case <-r.Context().Done():
					return
				}
				continue
			case "refuse":
				if s.spend(talk.prompt, at, n) {
					s.count(&s.stats.Refused)
					log.Printf("%s: step %d: 429", r.URL.Path, at)
					of.refuse(w)
					return
				}
				continue
			case "hang":
				if s.spend(talk.prompt, at, n) {
					s.count(&s.stats.Hung)
					log.Printf("%s: step %d: hangs", r.URL.Path, at)
					of.begin(w)
					<-r.Context().Done()
					return
				}
				continue
			}
			if len(uses) == 0 {
				http.Error(w, "there is no step "+one.verb, http.StatusBadRequest)
				return
			}
			answer(fmt.Sprintf("step %d: %s", at, one.verb), &uses[talk.done-done], "")
			return
		}
		answer("ends", nil, say)
	}
}

// later: a tool of one of these steps has been used already.
func later(of api, steps []step, cwd string, done int) bool {
	for _, one := range steps {
		if len(of.calls(one, cwd)) > 0 {
			return done > 0
		}
	}
	return false
}

func handler() http.Handler {
	s := &server{used: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/messages", s.serve(messages{}))
	mux.HandleFunc("POST /v1/responses", s.serve(responses{}))
	mux.HandleFunc("POST /v1/messages/count_tokens", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, `{"input_tokens":1000}`) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("POST /storm", func(w http.ResponseWriter, r *http.Request) {
		requests, err := strconv.Atoi(r.FormValue("requests"))
		if err != nil || requests < 0 {
			http.Error(w, "requests: how many", http.StatusBadRequest)
			return
		}
		s.mutex.Lock()
		defer s.mutex.Unlock()
		s.storm = requests
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		json.NewEncoder(w).Encode(s.stats)
	})
	return mux
}

func main() {
	address := ":8080"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	log.SetFlags(log.Ltime)
	log.Fatal(http.ListenAndServe(address, handler()))
}
