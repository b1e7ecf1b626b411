#include <cstdio>

#include "verbs/verb.h"

namespace swarm::agent {
namespace {

constexpr Milliseconds kLongestLease{3'600'000};  // the engine grants no longer one

int finish(Context& context, Request request, const Arguments& arguments) {
  const Status attempt = set_attempt(request, "attempt", arguments);
  if (!attempt) return context.fail(attempt.error());
  request.set("messageId", arguments.positional[0]);
  if (arguments.has("from")) request.set("from", arguments.get("from"));
  Answer answer = context.call(std::move(request));
  if (context.verb != "extend") answer = doubted(std::move(answer));  // no lease: that is certain
  return answer.ok ? 0 : context.fail(answer);
}

int run_ack(Context& context, const Arguments& arguments) {
  return finish(context, Request("ack"), arguments);
}

int run_nack(Context& context, const Arguments& arguments) {
  Request request("nack");
  if (arguments.has("delay")) {
    const Result<Milliseconds> delay = parse_duration(arguments.get("delay"));
    if (!delay) return context.fail(delay.error().in("--delay"));
    request.set_number("delayMs", delay->count());
  }
  return finish(context, std::move(request), arguments);
}

int run_extend(Context& context, const Arguments& arguments) {
  Request request("extend");
  if (arguments.has("lease")) {
    const Result<Milliseconds> lease = parse_duration(arguments.get("lease"));
    if (!lease) return context.fail(lease.error().in("--lease"));
    if (*lease > kLongestLease) {
      return context.fail("invalid", "--lease is at most " + show_duration(kLongestLease) +
                                         "; extend again before it ends");
    }
    request.set_number("leaseMs", lease->count());
  }
  return finish(context, std::move(request), arguments);
}

}  // namespace

Verb extend_verb() {
  return {"extend",
          "ID --attempt N [--from NAME] [--lease 60s]",
          "keep a message that was received: its lease begins anew",
          "For work that takes longer than the lease of recv. Exit code 7: the lease had expired "
          "and the message has been\n"
          "handed out again meanwhile.\n",
          {{"attempt", "N", "the attempt that recv printed"},
           {"from", "NAME", "its sender, where several have used that id"},
           {"lease", "DURATION", "from now on (default 60s, at most 1h)"}},
          1,
          1,
          run_extend};
}

Verb ack_verb() {
  return {
      "ack",
      "ID --attempt N [--from NAME]",
      "say that a message has been dealt with: it never comes again",
      "Exit code 7: the lease had expired and the message has been handed out again meanwhile.\n",
      {{"attempt", "N", "the attempt that recv printed"},
       {"from", "NAME", "its sender, where several have used that id"}},
      1,
      1,
      run_ack};
}

Verb nack_verb() {
  return {"nack",
          "ID --attempt N [--from NAME] [--delay 5s]",
          "give a message back: it comes again as the next attempt",
          "",
          {{"attempt", "N", "the attempt that recv printed"},
           {"from", "NAME", "its sender, where several have used that id"},
           {"delay", "DURATION", "not before this time has passed"}},
          1,
          1,
          run_nack};
}

}  // namespace swarm::agent
