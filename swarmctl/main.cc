// kubectl-swarm (= swarmctl): what a person calls. Parses the command line, runs the verb.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>

#include "commands/command.h"
#include "text/format.h"

namespace {

using swarm::commands::Options;

struct Verb {
  const char* name;
  const char* usage;
  const char* summary;
  const char* details;
  std::size_t least;
  std::size_t most;
  int (*run)(const Options&);
};

int version(const Options&) {
  return swarm::commands::print("kubectl-swarm " SWARM_VERSION "\n") ? 0 : 1;
}

constexpr Verb kVerbs[] = {
    {"submit", "SWARM [TEXT|-]", "give a swarm a task",
     "Without TEXT, or with -, the text comes from standard input. Accepted means: two pods hold "
     "the task.\n"
     "  kubectl swarm submit hello \"count the words\"\n"
     "  echo \"a b c\" | kubectl swarm submit hello - --wait     prints the result alone\n"
     "  kubectl swarm submit fix --lines issues.jsonl --id-field id --key-field module",
     1, 2, swarm::commands::submit},
    {"get", "tasks|agents [SWARM]", "list the tasks or agents of a swarm",
     "The states of tasks: queued, running, done, failed, dead, cancelled. SWARM may be left out "
     "where there is only one.",
     1, 2, swarm::commands::get},
    {"describe", "task/T | agent/A | SWARM", "everything about one task, agent or swarm", "", 1, 2,
     swarm::commands::describe},
    {"logs", "task/T", "what a task has printed, in all its attempts",
     "Read from the logs of the pods it ran in; where a pod is gone, the last lines that the task "
     "remembers.",
     1, 1, swarm::commands::logs},
    {"result", "task/T", "the result of a task, as it is", "-o FILE writes it to a file.", 1, 1,
     swarm::commands::result},
    {"cancel", "task/T", "take a task back; a running one is ended", "", 1, 1,
     swarm::commands::cancel},
    {"retry", "task/T", "queue a failed, dead or cancelled task again", "", 1, 1,
     swarm::commands::retry},
    {"top", "[SWARM]", "what a swarm is doing, refreshed every 2 s", "", 0, 1,
     swarm::commands::top},
    {"version", "", "print the version", "", 0, 0, version},
};

std::string verbs_help() {
  std::string out;
  for (const Verb& verb : kVerbs) {
    std::string name = std::string("  ") + verb.name + " " + verb.usage;
    name.resize(std::max<std::size_t>(38, name.size() + 1), ' ');
    out += name + verb.summary + "\n";
  }
  return out;
}

int usage_error(const std::string& message) {
  std::fprintf(stderr, "error: %s\n", message.c_str());
  return 2;
}

void add_flags(CLI::App& command, const std::string& name, Options& options, std::string& timeout) {
  command.add_option("-n,--namespace", options.name_space,
                     "the swarm's namespace (default: kubectl's)");
  command.add_option("--context", options.kubectl.context, "of the kubeconfig");
  command.add_option("--kubeconfig", options.kubectl.kubeconfig,
                     "file to use instead of kubectl's default");
  command.add_option("--timeout", timeout, "how long to try, for example 30s (the default) or 5m");
  if (name == "submit") {
    command.add_option("--key", options.key,
                       "tasks of one key stay on one version during a rollout");
    command.add_option("--id", options.id, "the same id again is the same task, submitted once");
    command.add_option("--label", options.labels, "name=value; may be repeated")
        ->allow_extra_args(false);
    command.add_option("--max-attempts", options.max_attempts, "instead of the swarm's")
        ->check(CLI::Range(1, 100));
    command.add_flag("--wait", options.wait,
                     "wait for the result and print it; exit code 1 when there is none");
    command.add_option("--lines", options.lines,
                       "make a task of every line of this file (- = standard input)");
    command.add_option("--key-field", options.key_field,
                       "with --lines: the member of each JSON line that is the key");
    command.add_option("--id-field", options.id_field,
                       "with --lines: the member that is the id; a second run adds nothing");
  }
  if (name == "result") {
    command.add_option("-o,--output", options.output, "file to write to");
  } else if (name != "version" && name != "logs" && name != "top") {
    command.add_option("-o,--output", options.output,
                       name == "get"        ? "wide, json, yaml or name"
                       : name == "describe" ? "json or yaml"
                                            : "json, yaml or name");
  }
  if (name == "get") {
    command.add_option("--state", options.states, "only tasks in these states: queued,running");
    command.add_option("-l,--selector", options.selector, "only tasks with these labels: a=b,c!=d");
    command.add_flag("-w,--watch", options.watch, "go on and show what changes");
  }
  if (name == "logs") {
    command.add_flag("-f,--follow", options.follow, "go on until the task is over");
    command.add_option("--tail", options.tail, "only the last N lines")
        ->check(CLI::Range(0, 1'000'000));
    command.add_flag("--prefix", options.prefix, "keep the [task attempt] in front of each line");
  }
  if (name == "top") command.add_flag("--once", options.once, "print once and end");
  if (name != "submit" && name != "version") {
    command.add_option("--swarm", options.swarm, "the swarm (else it is searched for)");
  }
}

std::string subcommand_help(const Verb& verb, const CLI::App& command) {
  std::string out =
      std::string("kubectl swarm ") + verb.name + " " + verb.usage + "\n  " + verb.summary + "\n";
  if (*verb.details != '\0') out += std::string("\n") + verb.details + "\n";
  out += "\nFlags:\n";
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_positional()) continue;
    std::string left = "  " + option->get_name(false, true);
    if (option->get_items_expected_max() > 0) left += " VALUE";
    left.resize(std::max<std::size_t>(30, left.size() + 1), ' ');
    out += left + option->get_description() + "\n";
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  // The verb is the first word that is no flag; flags that stand before it are read as its own.
  std::vector<std::string> words(argv + 1, argv + argc);
  std::size_t at = 0;
  while (at < words.size() && words[at].size() > 1 && words[at][0] == '-') {
    const bool takes_value = words[at] == "-n" || words[at] == "--namespace" ||
                             words[at] == "--context" || words[at] == "--kubeconfig" ||
                             words[at] == "--timeout";
    if (words[at] == "--help" || words[at] == "-h" || words[at] == "--version") break;
    at += takes_value ? 2 : 1;
  }
  const std::string name = at < words.size() ? words[at] : "";
  if (name == "--version") return version({});
  if (name.empty() || name == "help" || name == "-h" || name == "--help") {
    std::fprintf(name.empty() ? stderr : stdout,
                 "kubectl swarm gives tasks to the agents of a swarm and shows what they "
                 "do.\n\nUsage: kubectl swarm VERB …\n\n%s\n"
                 "kubectl swarm VERB --help says more. Exit codes: 0 ok, 1 failed, 2 usage, 3 not "
                 "found, 4 full, 5 unknown outcome,\n"
                 "6 unavailable, 7 refused, 8 partly accepted.\n",
                 verbs_help().c_str());
    return name.empty() ? 2 : 0;
  }
  const Verb* verb = nullptr;
  std::vector<std::string> names;
  for (const Verb& candidate : kVerbs) {
    names.emplace_back(candidate.name);
    if (name == candidate.name) verb = &candidate;
  }
  if (verb == nullptr) {
    const std::string near = swarm::text::nearest(name, names);
    return usage_error(
        "there is no verb '" + name + "'" +
        (near.empty() ? "; kubectl swarm --help lists them" : "; did you mean " + near + "?"));
  }
  words.erase(words.begin() + static_cast<std::ptrdiff_t>(at));

  Options options;
  std::string timeout;
  CLI::App command;
  command.set_help_flag("-h,--help", "this text");
  add_flags(command, name, options, timeout);
  command.add_option("arguments", options.arguments, "")->expected(0, 1000);
  try {
    std::reverse(words.begin(), words.end());  // as CLI11 wants them
    command.parse(words);
  } catch (const CLI::CallForHelp&) {
    std::fputs(subcommand_help(*verb, command).c_str(), stdout);
    return 0;
  } catch (const CLI::ExtrasError&) {
    std::string extra;
    std::vector<std::string> flags;
    for (const CLI::Option* option : command.get_options()) {
      for (const std::string& flag : option->get_lnames()) flags.push_back("--" + flag);
    }
    for (const std::string& word : command.remaining()) {
      if (extra.empty() && word.starts_with("-")) extra = word.substr(0, word.find('='));
    }
    const std::string near = swarm::text::nearest(extra, flags);
    return usage_error(name + ": unknown flag " + extra +
                       (near.empty()
                            ? "; kubectl swarm " + name +
                                  " --help lists them. A text that begins with - goes after --"
                            : "; did you mean " + near + "?"));
  } catch (const CLI::ParseError& error) {
    return usage_error(name + ": " + error.what());
  }
  const std::string usage = "kubectl swarm " + name + " " + verb->usage;
  if (options.arguments.size() < verb->least)
    return usage_error("an argument is missing: " + usage);
  if (options.arguments.size() > verb->most) {
    return usage_error("too many arguments, from '" + options.arguments[verb->most] +
                       "' on: " + usage + " (quote a text with blanks)");
  }
  if (!timeout.empty()) {
    const swarm::Result<swarm::Milliseconds> duration = swarm::text::parse_duration(timeout);
    if (!duration) return usage_error("--timeout: " + duration.error().message);
    options.timeout = *duration;
  }
  if (!options.swarm.empty()) {
    const swarm::Result<std::string> swarm = swarm::text::parse_swarm(options.swarm);
    if (!swarm) return usage_error("--swarm: " + swarm.error().message);
    options.swarm = *swarm;
  }
  return verb->run(options);
}
