#include <cstdio>

#include "base/encoding.h"
#include "verbs/verb.h"

namespace swarm::agent {
namespace {

constexpr Milliseconds kRequestTimeout{60'000};

int run(Context& context, const Arguments& arguments) {
  const std::string id = arguments.get("id", new_message_id());
  if (!is_message_id(id))
    return context.fail("invalid", "--id takes 1 to 128 of the characters A-Z a-z 0-9 . _ : -");
  Request request("request");
  const Status priority = set_priority(request, arguments);
  if (!priority) return context.fail(priority.error());
  const Result<std::string> body = body_argument(arguments, 1);
  if (!body) return context.fail(body.error());
  request.set("to", arguments.positional[0]).set("id", id).set_bytes("body", *body);
  request.set_remaining("timeoutMs", kAnswerSlack);
  const Answer answer = context.call(std::move(request), kRequestTimeout);
  if (!answer.ok) {
    return context.fail(answer.code, answer.message + " (message " + id +
                                         "; a reply that comes later is in `agentctl ls`)");
  }
  const Object reply = answer.fields.object("reply");
  const int printed = print_message(context, reply);
  if (printed != 0) return printed;
  const Answer acked = ack(context, reply);
  if (!acked.ok) {
    // The caller has the reply; it may only come once more to whoever receives next.
    std::fprintf(stderr, "agentctl request: the reply could not be acked: %s\n",
                 printable(acked.message, 1000).c_str());
  }
  return 0;
}

}  // namespace

Verb request_verb() {
  return {"request",
          "TO [BODY|-] [--timeout 60s]",
          "send a message, wait for the reply and print it",
          "The other side answers with `agentctl reply ID`. The reply is acked after it has been "
          "printed.\n",
          {{"id", "ID", "the same id again is the same message, delivered once"},
           {"priority", "PRIORITY", "high, normal (default) or low"}},
          1,
          2,
          run};
}

}  // namespace swarm::agent
