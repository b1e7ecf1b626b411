#include <cstdlib>

#include "base/encoding.h"
#include "verbs/verb.h"
#include "worker/process.h"
#include "worker/residents.h"

namespace swarm::agent {
namespace {

int run(Context& context, const Arguments& arguments) {
  if (!arguments.positional.empty()) {
    return context.fail("invalid", "the command goes after --: agentctl run [flags] -- " +
                                       arguments.positional[0] + " …");
  }
  worker::RunOptions options;
  options.command = arguments.rest;
  if (options.command.empty())
    return context.fail("invalid", "the command is missing: agentctl run [flags] -- CMD [ARG…]");
  const char* agents = std::getenv("CFN_AGENTS_PER_POD");
  const Result<std::int64_t> count =
      parse_number(arguments.get("count", agents != nullptr ? agents : "1"), 1, kMaxAgentsPerPod);
  if (!count)
    return context.fail(
        count.error().in(arguments.has("count") ? "--count" : "CFN_AGENTS_PER_POD"));
  options.count = static_cast<std::uint32_t>(*count);
  const char* name = std::getenv("CFN_AGENT_ID");
  options.pod.value = name != nullptr ? name : "";
  if (!is_slot_name(options.pod.value)) {
    return context.fail("invalid", "CFN_AGENT_ID is '" + options.pod.value +
                                       "', not a pod's name such as worker-3: agentctl run starts "
                                       "the agents of a pod");
  }
  if (arguments.has("grace")) {
    const Result<Milliseconds> grace = parse_duration(arguments.get("grace"));
    if (!grace) return context.fail(grace.error().in("--grace"));
    options.grace = *grace;
  }
  if (!worker::can_execute(options.command[0])) {
    return context.fail("invalid", "'" + options.command[0] +
                                       "' can't be executed: no such command in this image's PATH");
  }
  return worker::run_residents(options);
}

}  // namespace

Verb run_verb() {
  return {"run",
          "[flags] -- CMD [ARG…]",
          "run CMD as each of the agents of this pod, and start those again that fail",
          "Each gets its name in $CFN_AGENT_ID: the pod's for the first, worker-3.1 and so on for "
          "the others. What they print\n"
          "has their name in front of each line. One that ends with exit code 0 is over, any other "
          "is started again after\n"
          "1s, doubled up to 1m. When all are over, the exit code is 0.\n\n"
          "SIGTERM goes to all; who is left after --grace gets SIGKILL, and at once after a second "
          "SIGTERM. Then the exit code\n"
          "is 0, too. Nothing that an agent has started survives.\n",
          {{"count", "N", "how many (default: $CFN_AGENTS_PER_POD, which the swarm sets, else 1)"},
           {"grace", "DURATION", "from SIGTERM to SIGKILL (default 10s)"}},
          0,
          1,
          run};
}

}  // namespace swarm::agent
