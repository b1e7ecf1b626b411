#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>

#include "verbs/verb.h"
#include "worker/git.h"
#include "worker/loop.h"
#include "worker/process.h"

namespace swarm::agent {
namespace {

constexpr std::int64_t kMostGraceSeconds = std::int64_t{7} * 86400;

std::string environment(const char* name, const char* fallback = "") {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : fallback;
}

Status read_duration(const Arguments& arguments, const std::string& name, Milliseconds& out) {
  if (!arguments.has(name)) return {};
  const Result<Milliseconds> value = parse_duration(arguments.get(name));
  if (!value) return value.error().in("--" + name);
  out = *value;
  return {};
}

// --price-cached is that of --price-in where it is not given.
Status read_prices(const Arguments& arguments, worker::WorkOptions& options) {
  worker::Prices prices;
  for (const auto& [name, target] : {std::pair<std::string, double*>{"price-in", &prices.in},
                                     {"price-cached", &prices.cached},
                                     {"price-out", &prices.out}}) {
    if (!arguments.has(name)) {
      if (name == "price-cached") *target = prices.in;
      continue;
    }
    const std::string text = arguments.get(name);
    const char* const end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data(), end, *target, std::chars_format::fixed);
    if (error != std::errc() || at != end || !(*target >= 0) || *target > worker::kMaxPriceUsd)
      return invalid("--" + name + " is '" + printable(text, 40) +
                     "'; allowed: US dollars for a million tokens, such as 1.25, at most 1000000");
  }
  const bool any =
      arguments.has("price-in") || arguments.has("price-cached") || arguments.has("price-out");
  if (!any) return {};
  if (!options.usage || !arguments.has("price-in") || !arguments.has("price-out"))
    return invalid("--price-in and --price-out go together, with --usage");
  options.prices = prices;
  return {};
}

Result<worker::WorkOptions> read_options(const Arguments& arguments) {
  worker::WorkOptions options;
  options.command = arguments.rest;
  if (options.command.empty())
    return invalid("the command is missing: agentctl work [flags] -- CMD [ARG…]");
  for (const auto& [name, target] :
       {std::pair<std::string, Milliseconds*>{"timeout", &options.settings.run_timeout},
        {"idle-timeout", &options.settings.idle_timeout},
        {"grace", &options.settings.grace}}) {
    const Status read = read_duration(arguments, name, *target);
    if (!read) return read.error();
    if (name != "grace" && arguments.has(name) && target->count() == 0)
      return invalid("--" + name + " must be longer than 0; leave it out for no limit");
  }
  if (arguments.has("max-output")) {
    const Result<std::int64_t> bytes =
        parse_number(arguments.get("max-output"), 1, static_cast<std::int64_t>(kMostResultBytes));
    if (!bytes) return bytes.error().in("--max-output");
    options.max_output = static_cast<std::size_t>(*bytes);
  }
  if (arguments.has("usage")) {
    const std::string cli = arguments.get("usage");
    if (cli != "claude" && cli != "codex")
      return invalid("--usage is '" + printable(cli, 40) + "'; allowed: claude, codex");
    options.usage = cli == "claude" ? worker::UsageOf::kClaude : worker::UsageOf::kCodex;
  }
  const Status priced = read_prices(arguments, options);
  if (!priced) return priced.error();
  const std::string grace = environment("CFN_TASK_GRACE_SECONDS", "600");
  const Result<std::int64_t> seconds = parse_number(grace, 0, kMostGraceSeconds);
  if (!seconds) return seconds.error().in("CFN_TASK_GRACE_SECONDS");
  options.settings.task_grace = std::chrono::seconds(*seconds);
  options.settings.ticks_per_second = static_cast<double>(std::max(1L, ::sysconf(_SC_CLK_TCK)));
  options.once = arguments.has("once");
  options.agent = environment("CFN_AGENT_ID");
  options.swarm = environment("CFN_SWARM");
  options.temporary = environment("TMPDIR", "/tmp");
  if (arguments.has("git")) {
    options.git = arguments.get("git");
    options.settings.git = true;
    const Result<worker::GitSource> source = worker::parse_git_source(options.git);
    if (!source) return source.error();
    if (!worker::can_execute("git")) {
      return invalid(
          "--git needs git, which is not in this image's PATH: install the package git in the "
          "agent's image");
    }
  }
  // A path relative to the task's directory exists only once there is a task.
  const std::string& command = options.command[0];
  const bool relative = command.find('/') != std::string::npos && command[0] != '/';
  if (!relative && !worker::can_execute(command)) {
    return invalid("'" + command + "' can't be executed: no such command in this image's PATH");
  }
  return options;
}

int run(Context& context, const Arguments& arguments) {
  if (!arguments.positional.empty()) {
    return context.fail("invalid", "the command goes after --: agentctl work [flags] -- " +
                                       arguments.positional[0] + " …");
  }
  const Result<worker::WorkOptions> options = read_options(arguments);
  if (!options) return context.fail(options.error());
  return worker::work(*options, context.socket());
}

}  // namespace

Verb work_verb() {
  return {"work",
          "[flags] -- CMD [ARG…]",
          "take tasks for ever and run CMD once for each",
          "CMD gets the task's body on standard input and in $SWARM_TASK_FILE; what it prints on "
          "standard output is the\n"
          "result. It runs in a fresh directory, $SWARM_TASK_DIR; with --git that is a clone on "
          "the branch swarm/<task id>,\n"
          "which is pushed when CMD succeeds.\n\n"
          "CMD's exit code: 0 done; 65 bad task, never again; 75 try again later, not counted; "
          "else tried again as often\n"
          "as the swarm allows. Nothing that CMD has started survives it.\n\n"
          "SIGTERM: the running CMD may finish within $CFN_TASK_GRACE_SECONDS (600), a second "
          "SIGTERM ends it at once.\n",
          {{"timeout", "DURATION", "end CMD after this time (default: never)"},
           {"idle-timeout", "DURATION",
            "end CMD when it has printed nothing and used no CPU (under 2 %) for this time"},
           {"grace", "DURATION", "from SIGTERM to SIGKILL when CMD is ended (default 10s)"},
           {"git", "URL[@REF]", "work in a clone of this repository"},
           {"max-output", "BYTES", "keep this much of the output as the result (default 61440)"},
           {"usage", "claude|codex",
            "read tokens and cost from the JSON that this CLI prints on standard output"},
           {"price-in", "USD",
            "with --usage: what a million tokens cost that are read, where the CLI names no cost"},
           {"price-cached", "USD", "the same of those that come from a cache (default: price-in)"},
           {"price-out", "USD", "the same of those that are written"},
           {"once", "", "end after one task; exit code 0 when it was done"}},
          0,
          1000,
          run};
}

}  // namespace swarm::agent
