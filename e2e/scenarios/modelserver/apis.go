package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
)

var last atomic.Int64

func newID(kind string) string { return fmt.Sprintf("%s_%d", kind, last.Add(1)) }

type object = map[string]any

// event is one of a stream of server-sent events.
func event(w http.ResponseWriter, kind string, data object) {
	data["type"] = kind
	text, err := json.Marshal(data)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, text)
	w.(http.Flusher).Flush()
}

func refusal(w http.ResponseWriter, body object) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusTooManyRequests)
	json.NewEncoder(w).Encode(body)
}

func words(text string) (first, rest string) {
	first, rest, _ = strings.Cut(text, " ")
	return first, rest
}

func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// texts are those of a message's content: a text, or blocks of which some are texts.
func texts(content json.RawMessage) (out []string) {
	var text string
	if json.Unmarshal(content, &text) == nil {
		return []string{text}
	}
	var blocks []struct{ Text string }
	json.Unmarshal(content, &blocks) // neither: no text
	for _, block := range blocks {
		out = append(out, block.Text)
	}
	return out
}

// prompts are those that have something to do in them; what a CLI adds of its own (where it runs, when) differs each time.
func prompts(content json.RawMessage) (out string) {
	for _, text := range texts(content) {
		if len(script(text)) > 0 {
			out += text + "\n"
		}
	}
	return out
}

// messages is the Messages API, streamed, with the tools of Claude Code.
type messages struct{}

var workingDirectory = regexp.MustCompile(`(?i)working directory: (\S+)`)

func (messages) read(body []byte) (out conversation, err error) {
	var request struct {
		Stream   bool
		System   json.RawMessage
		Messages []struct {
			Role    string
			Content json.RawMessage
		}
	}
	if err = json.Unmarshal(body, &request); err != nil {
		return out, err
	}
	if !request.Stream {
		return out, fmt.Errorf("only streams are answered")
	}
	about := strings.Join(texts(request.System), "\n")
	for _, message := range request.Messages {
		var blocks []struct{ Type string }
		json.Unmarshal(message.Content, &blocks) // a text: no blocks
		for _, block := range blocks {
			if block.Type == "tool_result" {
				out.done++
			}
		}
		if message.Role == "user" {
			out.prompt += prompts(message.Content)
		}
		about += "\n" + strings.Join(texts(message.Content), "\n")
	}
	if found := workingDirectory.FindStringSubmatch(about); found != nil {
		out.cwd = found[1]
	}
	return out, nil
}

func (messages) calls(s step, cwd string) []call {
	file, rest := words(s.rest)
	path := cwd + "/" + file
	switch s.verb {
	case "write":
		return []call{{"Write", object{"file_path": path, "content": rest + "\n"}}}
	case "edit":
		before, after, _ := strings.Cut(rest, " => ")
		return []call{{"Read", object{"file_path": path}}, {"Edit", object{"file_path": path, "old_string": before, "new_string": after}}}
	case "run":
		return []call{{"Bash", object{"command": s.rest, "description": "as asked"}}}
	}
	return nil
}

func (messages) begin(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	event(w, "message_start", object{"message": object{"id": newID("msg"), "type": "message", "role": "assistant", "model": "scripted", "content": []any{},
		"stop_reason": nil, "stop_sequence": nil, "usage": object{"input_tokens": inputTokens, "cache_read_input_tokens": cacheReadTokens,
			"cache_creation_input_tokens": cacheCreationTokens, "output_tokens": 1}}})
}

func (m messages) answer(w http.ResponseWriter, use *call, say string) {
	m.begin(w)
	block, delta, reason := object{"type": "text", "text": ""}, object{"type": "text_delta", "text": say}, "end_turn"
	if use != nil {
		input, _ := json.Marshal(use.input)
		block = object{"type": "tool_use", "id": newID("toolu"), "name": use.tool, "input": object{}}
		delta, reason = object{"type": "input_json_delta", "partial_json": string(input)}, "tool_use"
	}
	event(w, "content_block_start", object{"index": 0, "content_block": block})
	event(w, "content_block_delta", object{"index": 0, "delta": delta})
	event(w, "content_block_stop", object{"index": 0})
	event(w, "message_delta", object{"delta": object{"stop_reason": reason, "stop_sequence": nil}, "usage": object{"output_tokens": outputTokens}})
	event(w, "message_stop", object{})
}

func (messages) refuse(w http.ResponseWriter) {
	refusal(w, object{"type": "error", "error": object{"type": "rate_limit_error", "message": "This request would exceed the rate limit of your organization"}})
}

// responses is the Responses API, streamed, with the tools of Codex.
type responses struct{}

func (responses) read(body []byte) (out conversation, err error) {
	var request struct {
		Stream bool
		Input  []struct {
			Type, Role string
			Content    json.RawMessage
		}
	}
	if err = json.Unmarshal(body, &request); err != nil {
		return out, err
	}
	if !request.Stream {
		return out, fmt.Errorf("only streams are answered")
	}
	for _, item := range request.Input {
		if item.Type == "function_call_output" {
			out.done++
		}
		if item.Role == "user" {
			out.prompt += prompts(item.Content)
		}
	}
	return out, nil
}

func (responses) calls(s step, _ string) []call {
	file, rest := words(s.rest)
	command := ""
	switch s.verb {
	case "write":
		command = "printf '%s\\n' " + quoted(rest) + " >" + quoted(file)
	case "edit":
		before, after, _ := strings.Cut(rest, " => ")
		command = "apply_patch <<'END'\n*** Begin Patch\n*** Update File: " + file + "\n@@\n-" + before + "\n+" + after + "\n*** End Patch\nEND"
	case "run":
		command = s.rest
	default:
		return nil
	}
	return []call{{"exec_command", object{"cmd": command, "login": false, "yield_time_ms": 30000}}}
}

func (responses) begin(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	event(w, "response.created", object{"response": object{"id": newID("resp"), "object": "response", "status": "in_progress", "output": []any{}}})
}

func (r responses) answer(w http.ResponseWriter, use *call, say string) {
	r.begin(w)
	item := object{"type": "message", "id": newID("msg"), "role": "assistant", "status": "completed",
		"content": []object{{"type": "output_text", "text": say, "annotations": []any{}}}}
	if use != nil {
		input, _ := json.Marshal(use.input)
		item = object{"type": "function_call", "id": newID("fc"), "call_id": newID("call"), "name": use.tool, "arguments": string(input), "status": "completed"}
	}
	event(w, "response.output_item.added", object{"output_index": 0, "item": item})
	event(w, "response.output_item.done", object{"output_index": 0, "item": item})
	const all = inputTokens + cacheReadTokens
	event(w, "response.completed", object{"response": object{"id": newID("resp"), "object": "response", "status": "completed", "output": []object{item},
		"usage": object{"input_tokens": all, "input_tokens_details": object{"cached_tokens": cacheReadTokens},
			"output_tokens": outputTokens, "output_tokens_details": object{"reasoning_tokens": 0}, "total_tokens": all + outputTokens}}})
}

func (responses) refuse(w http.ResponseWriter) {
	refusal(w, object{"error": object{"type": "rate_limit_exceeded", "code": "rate_limit_exceeded", "message": "Rate limit reached for this model"}})
}
