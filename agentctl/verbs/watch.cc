// agentctl watch: shows messages as they come, and leaves them where they are.
#include <algorithm>
#include <cstdio>

#include "verbs/verb.h"

namespace swarm::agent {
namespace {

constexpr Milliseconds kPerCall{3'600'000};  // the longest that the sidecar lets a call wait

int run(Context& context, const Arguments& arguments) {
  std::optional<MonoTime> end;
  if (arguments.has("wait")) {
    const Result<Milliseconds> wait = parse_duration(arguments.get("wait"));
    if (!wait) return context.fail(wait.error().in("--wait"));
    end = mono_now() + *wait;
  }
  std::int64_t wanted = 0, seen = 0;  // wanted 0: all
  if (arguments.has("count")) {
    const auto count = parse_number(arguments.get("count"), 1, 1'000'000'000);
    if (!count) return context.fail(count.error().in("--count"));
    wanted = *count;
  }
  int printed = 0, begun = 0;
  const OnPart part = [&](const Answer& told) {
    if (told.fields.flag("watching") && ++begun > 1)
      std::fprintf(stderr, "watching again; what came meanwhile is in `agentctl ls`\n");
    if (const auto missed = told.fields.number("missed"); missed > 0) {
      std::fprintf(stderr, "%lld not shown: they came faster than they were read\n",
                   static_cast<long long>(missed));
    }
    if (!told.fields.has("message")) return true;
    const Object message = told.fields.object("message");
    printed = print_message(context, message);
    if (printed == 0 && !context.json) printed = print("\n") ? 0 : 1;
    return printed == 0 && ++seen != wanted;
  };
  do {
    const Milliseconds left = end ? std::max(Milliseconds{0}, *end - mono_now()) : kPerCall;
    Request request("watch");
    request.read_only().set_remaining("waitMs", kAnswerSlack);
    const Answer answer = context.socket().call(
        std::move(request), mono_now() + std::min(left, kPerCall) + kAnswerSlack, part);
    if (printed != 0) return printed;  // nobody reads it
    if (answer.more) return 0;         // as many as were wanted
    if (!answer.ok) return context.fail(answer);
  } while (!end || mono_now() < *end);
  if (wanted == 0) return 0;
  return context.fail("not_found", std::to_string(seen) + " of " + std::to_string(wanted) +
                                       " messages came in time");
}

}  // namespace

Verb watch_verb() {
  return {"watch",
          "[--count N] [--wait DURATION]",
          "show messages as they come, without taking them",
          "Each message is shown once, when it arrives: its body and a newline, where it came from "
          "on stderr (-o json: a line\n"
          "each on stdout). It stays for recv. What was there before is in `agentctl ls` and "
          "`agentctl cat`. Goes on until\n"
          "it is interrupted. Exit code 3: --wait ended before --count messages came.\n",
          {{"count", "N", "end after so many"},
           {"wait", "DURATION", "end after this time (default: never)"}},
          0,
          0,
          run};
}

}  // namespace swarm::agent
