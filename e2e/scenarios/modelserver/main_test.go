package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"
)

const prompt = "Do it.\nmodel: refuse 1\nmodel: edit a.txt old => new\nmodel: run sh test.sh\nmodel: say green"

// asked is one request of a conversation in which `done` tools have been used; what it is told to do next.
func asked(t *testing.T, url, api, prompt string, done int) (status int, next string) {
	t.Helper()
	request := object{"stream": true, "system": "Primary working directory: /work\n"}
	if api == "messages" {
		talk := []object{{"role": "user", "content": []object{{"type": "text", "text": fmt.Sprint("noise ", done)}, {"type": "text", "text": prompt}}}}
		for range done {
			talk = append(talk, object{"role": "assistant", "content": []object{{"type": "tool_use", "id": "x"}}},
				object{"role": "user", "content": []object{{"type": "tool_result", "tool_use_id": "x", "content": "model: say no"}}})
		}
		request["messages"] = talk
	} else {
		talk := []object{{"type": "message", "role": "user", "content": []object{{"type": "input_text", "text": fmt.Sprint("noise ", done)}}},
			{"type": "message", "role": "user", "content": []object{{"type": "input_text", "text": prompt}}}}
		for range done {
			talk = append(talk, object{"type": "function_call"}, object{"type": "function_call_output", "output": "model: say no"})
		}
		request["input"] = talk
	}
	body, _ := json.Marshal(request)
	answer, err := http.Post(url+"/v1/"+api, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	if found := regexp.MustCompile(`"name":"(\w+)"`).FindSubmatch(text); found != nil {
		next = string(found[1])
	} else if found := regexp.MustCompile(`"text":"(\w+)"`).FindSubmatch(text); found != nil {
		next = string(found[1])
	}
	return answer.StatusCode, next
}

func TestSelfAPromptIsFollowedStepByStep(t *testing.T) {
	for api, steps := range map[string][]string{"messages": {"Read", "Edit", "Bash", "green"}, "responses": {"exec_command", "exec_command", "green"}} {
		server := httptest.NewServer(handler())
		defer server.Close()
		if status, _ := asked(t, server.URL, api, prompt, 0); status != http.StatusTooManyRequests {
			t.Errorf("%s: the first request: %d", api, status)
		}
		for done, want := range steps {
			for range 2 { // a repeated request is answered as the first
				if status, got := asked(t, server.URL, api, prompt, done); status != 200 || got != want {
					t.Errorf("%s, after %d: %d %q, not %q", api, done, status, got, want)
				}
			}
		}
	}
}

func TestSelfAStormIsEverybodys(t *testing.T) {
	server := httptest.NewServer(handler())
	defer server.Close()
	for requests, want := range map[string]int{"3": 200, "": 400, "-1": 400} {
		if answer, err := http.Post(server.URL+"/storm?requests="+requests, "", nil); err != nil || answer.StatusCode != want {
			t.Errorf("a storm of %q: %v %v", requests, answer.StatusCode, err)
		}
	}
	var got []int
	for i, prompt := range []string{"model: say a", "model: run b", "model: say c", "model: say a", "model: run b", "model: say c"} {
		status, _ := asked(t, server.URL, []string{"messages", "responses"}[i%2], prompt, 0)
		got = append(got, status)
	}
	if fmt.Sprint(got) != "[429 429 429 200 200 200]" {
		t.Error(got)
	}
	answer, err := http.Get(server.URL + "/stats")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, _ := io.ReadAll(answer.Body); string(text) != `{"Answered":3,"Refused":3,"Hung":0}`+"\n" {
		t.Errorf("%s", text)
	}
}

func TestSelfAHangHasABeginningAndNoEnd(t *testing.T) {
	server := httptest.NewServer(handler())
	defer server.CloseClientConnections()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	request, _ := http.NewRequestWithContext(ctx, "POST", server.URL+"/v1/messages",
		strings.NewReader(`{"stream":true,"messages":[{"role":"user","content":"model: hang 1\nmodel: say up"}]}`))
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(answer.Body)
	if err == nil || !strings.Contains(string(text), "message_start") || strings.Contains(string(text), "message_stop") {
		t.Errorf("%v: %s", err, text)
	}
	if status, next := asked(t, server.URL, "messages", "model: hang 1\nmodel: say up", 0); status != 200 || next != "up" {
		t.Errorf("the next one: %d %q", status, next)
	}
}

func TestSelfWhatCannotBeFollowedIsSaid(t *testing.T) {
	server := httptest.NewServer(handler())
	defer server.Close()
	for _, body := range []string{"", "[]", `{"messages":[]}`, `{"stream":true,"messages":[{"role":"user","content":"model: dance"}]}`} {
		answer, err := http.Post(server.URL+"/v1/messages", "application/json", strings.NewReader(body))
		if err != nil || answer.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: %v %v", body, answer.StatusCode, err)
		}
	}
}
