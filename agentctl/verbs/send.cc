#include <cstdio>
#include <map>

#include "base/encoding.h"
#include "verbs/verb.h"

namespace swarm::agent {
namespace {

// What became of the message to one of several receivers.
std::string outcome_line(const Context& context, const Object& part, const std::string& id) {
  const bool accepted = part.text("outcome") == "accepted";
  if (context.json) {
    std::map<std::string, std::string> texts{{"messageId", id}};
    for (const char* name : {"to", "outcome", "survives", "code", "message"}) {
      if (part.has(name)) texts[name] = printable(part.text(name), 1000);
    }
    std::map<std::string, bool> flags;
    if (accepted) flags["duplicate"] = part.flag("duplicate");
    return Object::of(texts, {}, flags).to_json() + "\n";
  }
  return printable(part.text("to"), 40) + ": " + printable(part.text("outcome"), 20) +
         (accepted ? ", survives: " + printable(part.text("survives"), 20) +
                         (part.flag("duplicate") ? " (it had been accepted before)" : "")
                   : ": " + printable(part.text("message"), 1000)) +
         "\n";
}

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
  if (arguments.has("stream")) return send_stream(context, arguments);
  for (const char* flag : {"part", "end", "abort"}) {
    if (arguments.has(flag))
      return context.fail("invalid", std::string("--") + flag + " belongs to --stream");
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
  std::map<std::string, std::string> told;  // by receiver: a repeated call says it again
  bool printed = true;
  const Answer answer =
      context.call(std::move(request), context.send_timeout(), [&](const Answer& part) {
        const std::string line = outcome_line(context, part.fields, id);
        std::string& before = told[part.fields.text("to")];
        if (before == part.fields.text("outcome")) return true;
        before = part.fields.text("outcome");
        if (!context.json)
          std::fputs(line.c_str(), stderr);
        else
          printed = print(line) && printed;
        return true;
      });
  const bool several = answer.fields.has("receivers");
  if (!answer.ok) {
    if (several && !context.json && answer.fields.number("accepted") != 0)
      (void)print(id + "\n");  // the exit code says more
    if (answer.code == "unknown" || answer.code == "partial") {
      return context.fail(answer.code,
                          answer.message +
                              (answer.code == "partial" ? "; for the others" : "; to find out") +
                              ", send the same text again with --id " + id);
    }
    return context.fail(answer);
  }
  if (several) return printed && (context.json || print(id + "\n")) ? 0 : 1;
  return print_accepted(context, answer.fields, id) ? 0 : 1;
}

}  // namespace

Verb send_verb() {
  return {"send",
          "TO[,TO…] [BODY|-] [--id ID] [--priority high|normal|low]  or  --batch [FILE|-]  or  "
          "--stream ID",
          "send a message to agents of this swarm",
          "TO is a name as `agentctl peers` shows it, for example worker-3, or several and groups, "
          "with commas between them:\n"
          "workers, coordinators, team-0 (its workers; you are in no group). Then there is an "
          "outcome for each receiver, on\n"
          "stderr (-o json: a line each on stdout), as it becomes known; exit code 8: some "
          "accepted it. Without BODY, or with\n"
          "-, the text comes from standard input. Prints the message id. Accepted (exit code 0) "
          "means: two pods hold the "
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
          "\"accepted\",\"survives\":\"node\",\"duplicate\":false}, or outcome refused or unknown "
          "with code and "
          "message. Blank lines are passed over,\n"
          "a wrong one is refused with its number and stops no other. Exit code 0: all accepted, "
          "8: some, else that of the\n"
          "first. --timeout is for each message.\n\n"
          "--stream ID sends what standard input brings as parts 1, 2, …, each as soon as it is "
          "there, and an end; the receiver\n"
          "reads with recv --stream ID --from YOU. A slow reader holds it up, for at most "
          "--timeout a part (default 10m); then\n"
          "it is aborted.\n",
          {{"id", "ID", "the same id again is the same message, delivered once"},
           {"priority", "PRIORITY", "high, normal (default) or low"},
           {"batch", "", "many messages, as JSON lines from FILE or standard input"},
           {"stream", "ID", "standard input in parts as it comes, or BODY as one part"},
           {"part", "N", "with --stream: the number of the (first) part, default 1"},
           {"end", "", "with --stream and BODY: it is the last part"},
           {"abort", "REASON", "with --stream: no more comes, and why"}},
          0,
          2,
          run};
}

}  // namespace swarm::agent
