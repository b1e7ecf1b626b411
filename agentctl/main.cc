// agentctl: what an agent calls. Parses the global flags, finds the verb, runs it.
#include <cstdio>
#include <cstdlib>

#include "client/options.h"
#include "verbs/verb.h"

namespace {

using swarm::agent::Arguments;
using swarm::agent::Context;
using swarm::agent::Flag;
using swarm::agent::Verb;

std::vector<Verb> all_verbs() {
  using namespace swarm::agent;
  return {work_verb(),   run_verb(),    task_verb(),    send_verb(),   recv_verb(),
          ack_verb(),    nack_verb(),   extend_verb(),  reply_verb(),  request_verb(),
          ls_verb(),     cat_verb(),    dead_verb(),    whoami_verb(), peers_verb(),
          prompt_verb(), doctor_verb(), version_verb(), watch_verb(),  materialize_verb()};
}

std::vector<Flag> global_flags() {
  return {{"socket", "PATH",
           "the sidecar's socket (default $CFN_SOCKET, else /dev/shm/cfn/agent.sock)"},
          {"timeout", "DURATION", "how long to try: 500ms, 5s, 45m (default 10s)"},
          {"output", "FORMAT", "text (default) or json", 'o'},
          {"help", "", "this text", 'h'}};
}

std::string overview(const std::vector<Verb>& verbs) {
  std::string out =
      "agentctl connects an agent to its swarm: tasks, messages, peers.\n\nUsage: agentctl VERB "
      "…\n\n";
  for (const Verb& verb : verbs) {
    std::string name = "  " + verb.name;
    name.resize(14, ' ');
    out += name + verb.summary + "\n";
  }
  return out + "\nFlags of every verb:\n" + swarm::agent::describe_flags(global_flags()) +
         "\nagentctl VERB --help says more. Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 "
         "full, 5 unknown outcome,\n"
         "6 unavailable, 7 refused, 8 partly accepted.\n";
}

std::string help(const Verb& verb, const std::vector<Flag>& globals) {
  std::string out = "agentctl " + verb.name + (verb.usage.empty() ? "" : " " + verb.usage) +
                    "\n  " + verb.summary + "\n";
  if (!verb.details.empty()) out += "\n" + verb.details;
  if (!verb.flags.empty()) out += "\nFlags:\n" + swarm::agent::describe_flags(verb.flags);
  return out + "\nFlags of every verb:\n" + swarm::agent::describe_flags(globals);
}

int usage_error(const std::string& where, const std::string& message) {
  std::fprintf(stderr, "agentctl%s: %s\n", where.c_str(), message.c_str());
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  const std::vector<Verb> verbs = all_verbs();
  const swarm::Result<Arguments> before =
      swarm::agent::parse_arguments(global_flags(), words, true);
  if (!before) return usage_error("", before.error().message);
  if (before->positional.empty()) {
    const bool asked = before->has("help");
    std::fputs(overview(verbs).c_str(), asked ? stdout : stderr);
    return asked ? 0 : 2;
  }
  std::string name = before->positional[0];
  if (name == "help") {
    if (before->positional.size() < 2) {
      std::fputs(overview(verbs).c_str(), stdout);
      return 0;
    }
    name = before->positional[1];
  }
  const Verb* verb = nullptr;
  std::vector<std::string> names;
  for (const Verb& candidate : verbs) {
    names.push_back(candidate.name);
    if (candidate.name == name) verb = &candidate;
  }
  if (verb == nullptr) {
    const std::string near = swarm::agent::nearest(name, names);
    return usage_error(
        "", "there is no verb '" + name + "'" +
                (near.empty() ? "; agentctl --help lists them" : "; did you mean " + near + "?"));
  }
  // A verb's own flag of the same name (work --timeout) takes the place of the global one.
  std::vector<Flag> flags = verb->flags;
  std::vector<Flag> globals;
  for (const Flag& flag : global_flags()) {
    bool own = false;
    for (const Flag& mine : verb->flags) own = own || mine.name == flag.name;
    if (!own) globals.push_back(flag);
  }
  flags.insert(flags.end(), globals.begin(), globals.end());
  // words = global flags, the verb, "--" and what follows; only what stands after the verb is
  // parsed again.
  std::vector<std::string> after(before->positional.begin() + 1, before->positional.end());
  swarm::Result<Arguments> arguments = swarm::agent::parse_arguments(flags, after);
  const std::string where = " " + name;
  if (!arguments) return usage_error(where, arguments.error().message);
  if (before->positional[0] == "help" || before->has("help") || arguments->has("help")) {
    std::fputs(help(*verb, globals).c_str(), stdout);
    return 0;
  }
  for (const auto& [flag, value] : before->values) arguments->values.emplace(flag, value);
  const std::size_t count = arguments->positional.size();
  if (count < verb->least) {
    return usage_error(where, "an argument is missing: agentctl " + name + " " + verb->usage);
  }
  if (count > verb->most) {
    return usage_error(where, "too many arguments, from '" + arguments->positional[verb->most] +
                                  "' on: agentctl " + name + " " + verb->usage +
                                  " (quote a text with blanks)");
  }

  Context context;
  context.verb = name;
  const char* socket = std::getenv("CFN_SOCKET");
  context.socket_path = arguments->get(
      "socket", socket != nullptr && *socket != '\0' ? socket : "/dev/shm/cfn/agent.sock");
  const bool own_timeout = globals.size() + 1 == global_flags().size();
  if (arguments->has("timeout") && !own_timeout) {
    const swarm::Result<swarm::Milliseconds> timeout =
        swarm::agent::parse_duration(arguments->get("timeout"));
    if (!timeout) return usage_error(where, "--timeout: " + timeout.error().message);
    context.timeout = *timeout;
  }
  const std::string output = arguments->get("output", "text");
  if (output != "text" && output != "json")
    return usage_error(where, "-o takes text or json, not '" + output + "'");
  context.json = output == "json";
  return verb->run(context, *arguments);
}
