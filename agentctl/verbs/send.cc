#include <cstdio>

#include "base/encoding.h"
#include "verbs/verb.h"

namespace swarm::agent {
namespace {

int run(Context& context, const Arguments& arguments) {
  if (arguments.has("batch")) {
    if (arguments.has("id") || arguments.has("priority")) {
      return context.fail("invalid",
                          "with --batch, id and priority go into the lines: "
                          R"({"to":"worker-3","body":"text","priority":"low"})");
    }
    if (arguments.positional.size() > 1)
      return context.fail("invalid", "--batch takes one file, or - for standard input");
    return send_batch(context, arguments);
  }
  if (arguments.positional.empty()) {
    return context.fail("invalid",
                        "an argument is missing: agentctl send TO [BODY|-], or send --batch");
  }
  const std::string id = arguments.get("id", new_message_id());
  if (!is_message_id(id))
    return context.fail("invalid", "--id takes 1 to 128 of the characters A-Z a-z 0-9 . _ : -");
  Request request("send");
  const Status priority = set_priority(request, arguments);
  if (!priority) return context.fail(priority.error());
  const Result<std::string> body = body_argument(arguments, 1);
  if (!body) return context.fail(body.error());
  request.set("to", arguments.positional[0]).set("id", id).set_bytes("body", *body);
  request.set_remaining("timeoutMs", kAnswerSlack);
  const Answer answer = context.call(std::move(request), context.send_timeout());
  if (!answer.ok) {
    if (answer.code == "unknown") {
      return context.fail(
          answer.code, answer.message + "; to find out, send the same text again with --id " + id);
    }
    return context.fail(answer);
  }
  if (context.json) return print(answer.fields.without({"rid", "ok"}).to_json() + "\n") ? 0 : 1;
  const bool duplicate = answer.fields.flag("duplicate");
  std::fprintf(stderr, "accepted, survives: %s%s\n",
               printable(answer.fields.text("survives"), 20).c_str(),
               duplicate ? " (it had been accepted before)" : "");
  return print(answer.fields.text("messageId", id) + "\n") ? 0 : 1;
}

}  // namespace

Verb send_verb() {
  return {"send",
          "TO [BODY|-] [--id ID] [--priority high|normal|low]  or  --batch [FILE|-]",
          "send a message to an agent of this swarm",
          "TO is a name as `agentctl peers` shows it, for example worker-3. Without BODY, or with "
          "-, the text comes from\n"
          "standard input. Prints the message id. Accepted (exit code 0) means: two pods hold the "
          "message (one, if it\n"
          "is to yourself) and it will be delivered. Exit code 5 means it may have been: send it "
          "again with the\n"
          "same --id, it arrives once.\n\n"
          "--batch reads lines like {\"to\":\"worker-3\",\"body\":\"text\"}, each of at most "
          "1 MiB, with body64 (base64) instead of\n"
          "body for bytes that are no text, and id, priority, inReplyTo if you like. Up to 64 "
          "messages are under way at a\n"
          "time. For each line one comes out, in the same order: {\"line\":1,\"to\":\"worker-3\","
          "\"messageId\":\"…\",\"outcome\":\n"
          "\"accepted\",\"survives\":\"node\"}, or outcome refused or unknown with code and "
          "message. Blank lines are passed over,\n"
          "a wrong one is refused with its number and stops no other. Exit code 0: all accepted, "
          "8: some, else that of the\n"
          "first. --timeout is for each message.\n",
          {{"id", "ID", "the same id again is the same message, delivered once"},
           {"priority", "PRIORITY", "high, normal (default) or low"},
           {"batch", "", "many messages, as JSON lines from FILE or standard input"}},
          0,
          2,
          run};
}

}  // namespace swarm::agent
