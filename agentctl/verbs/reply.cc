#include <cstdio>

#include "base/encoding.h"
#include "verbs/verb.h"

namespace swarm::agent {
namespace {

int run(Context& context, const Arguments& arguments) {
  const std::string& question = arguments.positional[0];
  const std::string id = arguments.get("id", new_message_id());
  if (!is_message_id(id))
    return context.fail("invalid", "--id takes 1 to 128 of the characters A-Z a-z 0-9 . _ : -");
  const Result<std::string> body = body_argument(arguments, 1);
  if (!body) return context.fail(body.error());
  std::string to = arguments.get("to");
  if (to.empty()) {
    Request look("cat");
    look.set("messageId", question).read_only();
    const Answer found = context.call(std::move(look));
    if (!found.ok) {
      if (found.code != "not_found") return context.fail(found);
      return context.fail(
          found.code, found.message + " (reply before you ack, or name the receiver with --to)");
    }
    to = found.fields.object("message").text("from");
  }
  Request request("send");
  request.set("to", to).set("id", id).set("inReplyTo", question).set_bytes("body", *body);
  request.set_remaining("timeoutMs", kAnswerSlack);
  const Answer answer = context.call(std::move(request), context.send_timeout());
  if (!answer.ok) return context.fail(answer.code, answer.message + " (message " + id + ")");
  if (context.json) return print(answer.fields.without({"rid", "ok"}).to_json() + "\n") ? 0 : 1;
  std::fprintf(stderr, "accepted, survives: %s\n",
               printable(answer.fields.text("survives"), 20).c_str());
  return print(answer.fields.text("messageId", id) + "\n") ? 0 : 1;
}

}  // namespace

Verb reply_verb() {
  return {"reply",
          "ID [BODY|-]",
          "answer a message that has just been received",
          "ID is the message's id; its sender is looked up. Ack the message afterwards.\n",
          {{"to", "NAME", "the receiver, for a message that is no longer in the inbox"},
           {"id", "ID", "of the reply: the same id again is the same message"}},
          1,
          2,
          run};
}

}  // namespace swarm::agent
