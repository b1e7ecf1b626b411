#include "base/encoding.h"
#include "verbs/verb.h"

namespace swarm::agent {
namespace {

int run(Context& context, const Arguments& arguments) {
  const std::string& question = arguments.positional[0];
  const std::string id = arguments.get("id", new_message_id());
  if (!is_message_id(id))
    return context.fail("invalid", "--id takes 1 to 128 of the characters A-Z a-z 0-9 . _ : -");
  Request request("send");
  if (arguments.has("ack")) {
    const Status attempt = set_attempt(request, "ackAttempt", arguments);
    if (!attempt) return context.fail(attempt.error());
  } else if (arguments.has("attempt")) {
    return context.fail("invalid", "--attempt belongs to --ack");
  }
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
  request.set("to", to).set("id", id).set("inReplyTo", question).set_bytes("body", *body);
  // The ack has its own time beyond that of the reply, as after recv.
  const Milliseconds of_ack = arguments.has("ack") ? kDefaultTimeout : Milliseconds{0};
  request.set_remaining("timeoutMs", of_ack + kAnswerSlack);
  const auto deadline = mono_now() + context.send_timeout() + of_ack + kAnswerSlack;
  const Answer answer = context.socket().call(std::move(request), deadline);
  const auto failed = [&] {
    return context.fail(answer.code, answer.message + " (message " + id + " to " + to + ")");
  };
  if (!answer.ok && answer.fields.text("outcome") != "accepted") return failed();
  if (!print_accepted(context, answer.fields, id)) return 1;
  if (answer.ok && arguments.has("ack") && !answer.fields.flag("acked")) {
    return context.fail("partial",
                        "the reply was accepted, but this sidecar, of an earlier release, "
                        "does not ack with it: agentctl ack " +
                            question);
  }
  if (answer.repeated && answer.fields.text("ackCode") == "not_found")
    return context.fail("unknown", std::string("the reply was accepted; of the ack: ") + kDoubted);
  return answer.ok ? 0 : failed();
}

}  // namespace

Verb reply_verb() {
  return {"reply",
          "ID [BODY|-] [--ack --attempt N]",
          "answer a message that has just been received",
          "ID is the message's id; its sender is looked up. Ack the message afterwards, or by "
          "--ack in the same call: once the\n"
          "reply was accepted, and only then. Exit code 8: it was accepted, but not the ack, whose "
          "reason is on stderr (another\n"
          "attempt has been handed out meanwhile); 5: it may have been, or the sender's pod has "
          "not recorded the ack yet; the\n"
          "same call again with that --id, and --to as the message is gone, resolves both. Else "
          "the message is yours as before.\n",
          {{"to", "NAME", "the receiver, for a message that is no longer in the inbox"},
           {"id", "ID", "of the reply: the same id again is the same message"},
           {"ack", "", "ack the message once the reply was accepted"},
           {"attempt", "N", "with --ack: the attempt that recv printed"}},
          1,
          2,
          run};
}

}  // namespace swarm::agent
