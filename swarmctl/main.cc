// kubectl-swarm (= swarmctl): what a person calls. Parses the command line, runs the verb.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <set>

#include "commands/command.h"
#include "text/format.h"

namespace {

using swarm::commands::Options;

struct Verb {
  const char* name;
  const char* usage;
  const char* summary;
  const char* details;   // "", or more about it
  const char* examples;  // "", or lines
  std::size_t least;
  std::size_t most;
  int (*run)(const Options&);
};

int version(const Options&) {
  return swarm::commands::print("kubectl-swarm " SWARM_VERSION "\n") ? 0 : 1;
}

constexpr Verb kVerbs[] = {
    {"submit", "SWARM [TEXT|-]", "Give a swarm a task",
     "Without TEXT, or with -, the text comes from standard input. When the task's id is printed, "
     "two pods hold the\ntask: it will be done, or kept as a dead letter, also when this terminal "
     "is closed.\n"
     "With --wait the exit code is 0 when the task is done, 1 when it ended without a result, 5 "
     "when --timeout\nhas passed; the task then goes on.",
     "  kubectl swarm submit hello \"count the words\"\n"
     "  echo \"a b c\" | kubectl swarm submit hello - --wait\n"
     "  task=$(kubectl swarm submit hello \"count the words\" -o name)\n"
     "  kubectl swarm submit fix --lines issues.jsonl --id-field id --key-field module",
     1, 2, swarm::commands::submit},
    {"get", "KIND [SWARM] | task/T", "List tasks, agents, messages or what is dead",
     "KIND is tasks, agents, messages or dead: the tasks and the messages that were given up.\n"
     "SWARM may be left out where there is only one. The states of tasks: queued, running, done, "
     "dead, cancelled.\n"
     "Messages are those that nobody has acked yet: ready, leased or delayed in their receiver's "
     "inbox, or dead; outgoing:\n"
     "not there yet. Exit code 8: a pod or a team did not answer.",
     "  kubectl swarm get tasks hello --state queued,running\n"
     "  kubectl swarm get task/t-0-1f2a -o yaml\n"
     "  kubectl swarm get agents hello -o wide\n"
     "  kubectl swarm get dead hello",
     1, 2, swarm::commands::get},
    {"describe", "task/T | agent/A | SWARM", "Show everything about one task, agent or swarm", "",
     "  kubectl swarm describe task/t-0-1f2a\n"
     "  kubectl swarm describe agent/worker-3 --swarm hello\n"
     "  kubectl swarm describe hello",
     1, 2, swarm::commands::describe},
    {"why", "task/T | agent/A | SWARM", "Say in one paragraph why it is as it is, and what to do",
     "", "  kubectl swarm why hello\n  kubectl swarm why task/t-0-1f2a", 1, 2,
     swarm::commands::why},
    {"logs", "task/T", "Print what a task has printed, in all its attempts",
     "Read from the logs of the pods that it ran in; where a pod is gone, the last lines that the "
     "task remembers.",
     "  kubectl swarm logs -f task/t-0-1f2a", 1, 1, swarm::commands::logs},
    {"result", "task/T", "Print the result of a task, as it is",
     "The exit code is 0 when there is one, 1 when the task ended without one, 3 when it is not "
     "over yet. With\n--wait it is 5 when --timeout has passed; the task then goes on.",
     "  kubectl swarm result task/t-0-1f2a --wait --timeout 10m\n"
     "  kubectl swarm result task/t-0-1f2a -o result.txt",
     1, 1, swarm::commands::result},
    {"cancel", "task/T", "Take a task back; a running one is ended", "",
     "  kubectl swarm cancel task/t-0-1f2a", 1, 1, swarm::commands::cancel},
    {"retry", "task/T", "Queue a dead or cancelled task again",
     "Its attempts start anew; their history is kept.", "  kubectl swarm retry task/t-0-1f2a", 1, 1,
     swarm::commands::retry},
    {"top", "[SWARM]", "Show what a swarm is doing, refreshed every 2 s",
     "SWARM may be left out where there is only one. Into a pipe or file it is printed once.",
     "  kubectl swarm top hello", 0, 1, swarm::commands::top},
    {"version", "", "Print the version", "", "", 0, 0, version},
};

std::string usage_of(const Verb& verb) {
  return std::string("kubectl swarm ") + verb.name + (*verb.usage == '\0' ? "" : " ") + verb.usage;
}

std::string verbs_help() {
  std::string out;
  for (const Verb& verb : kVerbs) {
    std::string name = std::string("  ") + verb.name + " " + verb.usage;
    name.resize(std::max<std::size_t>(40, name.size() + 2), ' ');
    out += name + verb.summary + "\n";
  }
  return out;
}

int usage_error(const std::string& message) {
  std::fprintf(stderr, "error: %s\n", message.c_str());
  return 2;
}

void add_flags(CLI::App& command, const std::string& name, Options& options, std::string& timeout) {
  const bool waits = name == "submit" || name == "result";
  // The option's text is what stands for its value in the help.
  const auto flag = [&](const char* names, auto& variable, const char* value,
                        const std::string& meaning) {
    // version takes what all verbs take, and needs none of it.
    return command.add_option(names, variable, meaning)
        ->option_text(value)
        ->group(name == "version" ? "" : "Flags");
  };
  flag("-n,--namespace", options.name_space, "NAMESPACE",
       "the swarm's namespace (default: kubectl's)");
  flag("--context", options.kubectl.context, "CONTEXT", "the kubeconfig's context to use");
  flag("--kubeconfig", options.kubectl.kubeconfig, "FILE", "instead of kubectl's default");
  flag("--timeout", timeout, "DURATION",
       waits ? "how long to try, e.g. 5m; default 30s, with --wait as long as it takes"
             : "how long to try, e.g. 5m; default 30s");
  if (name == "submit") {
    flag("--key", options.key, "KEY", "tasks of one key stay on one version during a rollout");
    flag("--id", options.id, "ID", "the same id again is the same task, submitted once");
    flag("--label", options.labels, "NAME=VALUE", "for get tasks -l; may be repeated")
        ->allow_extra_args(false);
    flag("--max-attempts", options.max_attempts, "N", "1 to 100; default: the swarm's")
        ->check(CLI::Range(1, 100));
    command.add_flag("--wait", options.wait, "wait until it is over and print the result alone");
    flag("--lines", options.lines, "FILE", "make a task of every line (- = standard input)");
    flag("--key-field", options.key_field, "NAME",
         "with --lines: the member of each JSON line that is the key");
    flag("--id-field", options.id_field, "NAME",
         "with --lines: the member that is the id; a second run adds nothing");
  }
  if (name == "result") {
    command.add_flag("--wait", options.wait, "wait until the task is over");
    flag("-o,--output", options.output, "FILE", "write it to a file (- = standard output)");
  } else if (name != "logs" && name != "top" && name != "why" && name != "version") {
    flag("-o,--output", options.output, "FORMAT",
         name == "get"        ? "wide, json, yaml or name"
         : name == "describe" ? "json or yaml"
                              : "json, yaml or name");
  }
  if (name == "get") {
    flag("--state", options.states, "STATE,…", "only tasks in these states");
    flag("-l,--selector", options.selector, "LABELS", "only tasks with these labels: a=b,c!=d");
    command.add_flag("-w,--watch", options.watch, "go on and show what changes");
    command.add_flag("--no-headers", options.no_headers, "a table without its first line");
  }
  if (name == "logs") {
    command.add_flag("-f,--follow", options.follow, "go on until the task is over");
    flag("--tail", options.tail, "N", "only the last N lines")->check(CLI::Range(0, 1'000'000));
    command.add_flag("--prefix", options.prefix, "keep the [task attempt] in front of each line");
  }
  if (name == "top") command.add_flag("--once", options.once, "print once and end");
  if (name != "submit" && name != "version") {
    flag("--swarm", options.swarm, "SWARM",
         name == "get" || name == "top" ? "the same as the argument"
                                        : "the swarm, where several may have it");
  }
}

// The flags of any verb that take a value: -o, --output, …
std::set<std::string> value_flags() {
  std::set<std::string> out;
  for (const Verb& verb : kVerbs) {
    Options options;
    std::string timeout;
    CLI::App command;
    add_flags(command, verb.name, options, timeout);
    for (const CLI::Option* option : command.get_options()) {
      if (option->get_items_expected_max() == 0) continue;
      for (const std::string& name : option->get_snames()) out.insert("-" + name);
      for (const std::string& name : option->get_lnames()) out.insert("--" + name);
    }
  }
  return out;
}

// kubectl reads -o=json as -o json; CLI11 would take the = for a part of the value.
void split_short_flags(std::vector<std::string>& words, const std::set<std::string>& take_value) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    std::string& word = words[i];
    if (word == "--") return;
    const bool value = i > 0 && take_value.contains(words[i - 1]);
    if (!value && word.size() > 3 && word[2] == '=' && take_value.contains(word.substr(0, 2))) {
      word.erase(2, 1);
    }
  }
}

std::string subcommand_help(const Verb& verb, const CLI::App& command) {
  std::string out = std::string(verb.summary) + ".\n\nUsage:\n  " + usage_of(verb) + " [flags]\n";
  if (*verb.details != '\0') out += std::string("\n") + verb.details + "\n";
  if (*verb.examples != '\0') out += std::string("\nExamples:\n") + verb.examples + "\n";
  out += "\nFlags:\n";
  std::vector<swarm::text::Row> rows;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_positional() || option->get_group().empty()) continue;
    std::string names;
    for (const std::string& name : option->get_snames()) names += "-" + name + ", ";
    if (names.empty()) names = "    ";
    for (const std::string& name : option->get_lnames()) names += "--" + name;
    if (!option->get_option_text().empty()) names += " " + option->get_option_text();
    rows.push_back({"  " + names, option->get_description()});
  }
  return out + swarm::text::table(rows);
}

}  // namespace

int main(int argc, char** argv) {
  // The verb is the first word that is no flag; flags that stand before it are read as its own.
  std::vector<std::string> words(argv + 1, argv + argc);
  const std::set<std::string> take_value = value_flags();
  std::size_t at = 0;
  while (at < words.size() && words[at].size() > 1 && words[at][0] == '-') {
    if (words[at] == "--help" || words[at] == "-h" || words[at] == "--version") break;
    at += take_value.contains(words[at]) ? 2 : 1;
  }
  std::string name = at < words.size() ? words[at] : "";
  if (name == "help" && at + 1 < words.size()) {  // help VERB
    name = words[at + 1];
    words = {name, "--help"};
    at = 0;
  }
  if (name == "--version") return version({});
  if (name.empty() || name == "help" || name == "-h" || name == "--help") {
    std::fprintf(name.empty() ? stderr : stdout,
                 "kubectl swarm gives tasks to the agents of a swarm and shows what they do.\n\n"
                 "Usage: kubectl swarm VERB [flags]\n\nVerbs:\n%s\n"
                 "kubectl swarm VERB --help says more. Swarms themselves are made, changed and "
                 "listed by kubectl: kubectl\nget swarms, kubectl explain swarm.spec.\n\n"
                 "Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 not found, 4 full, 5 outcome "
                 "unknown, 6 unavailable, 7 refused,\n8 partly: some lines not accepted or not "
                 "sent, or some "
                 "teams not in a list.\n",
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
  split_short_flags(words, take_value);

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
  const std::string usage = usage_of(*verb);
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
