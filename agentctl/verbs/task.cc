// agentctl task next|progress|done|fail: for agents that live longer than one task.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>

#include "base/encoding.h"
#include "verbs/verb.h"

namespace swarm::agent {
namespace {

constexpr Milliseconds kNextWait{30'000};
constexpr Milliseconds kReportTimeout{60'000};
constexpr std::size_t kMostProgressBytes = 1000;
constexpr std::size_t kMostWords = 1000;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

// The task and attempt that progress, done and fail are about, into the request.
Status name_task(Request& request, const Arguments& arguments) {
  const std::string& task = arguments.positional[1];
  if (!is_task_id(task))
    return invalid("'" + printable(task, kMaxTaskIdBytes) +
                   "' is no task's id, for example t-0-1f2a");
  std::string attempt = arguments.get("attempt");
  const std::string current = environment("SWARM_TASK_ID");
  if (attempt.empty() && (current.empty() || current == task))
    attempt = environment("SWARM_TASK_ATTEMPT");
  if (attempt.empty()) {
    return invalid(
        "the attempt is missing: write --attempt N with the N that `agentctl task next` printed, "
        "or set " +
        std::string("SWARM_TASK_ATTEMPT"));
  }
  const Result<std::int64_t> number =
      parse_number(attempt, 1, std::numeric_limits<std::int32_t>::max());
  if (!number) return number.error().in("attempt");
  request.set("taskId", task).set_number("attempt", *number);
  return {};
}

int next(Context& context, const Arguments& arguments) {
  Milliseconds wait = context.timeout_or(kNextWait);
  if (arguments.has("wait")) {
    const Result<Milliseconds> given = parse_duration(arguments.get("wait"));
    if (!given) return context.fail(given.error().in("--wait"));
    wait = *given;
  }
  Request request("task_next");
  request.set_remaining("waitMs", kAnswerSlack);
  const Answer answer = context.socket().call(std::move(request), mono_now() + wait + kAnswerSlack);
  if (!answer.ok) return context.fail(answer);
  const Object task = answer.fields.object("task");
  if (context.json) return print(task.to_json() + "\n") ? 0 : 1;
  const Result<std::string> body = task.bytes("body");
  if (!body) return context.fail(body.error());
  if (arguments.has("json")) {
    if (!print(task.without({"body", "body64"}).to_json() + "\n")) return 1;
  } else {
    std::fprintf(stderr, "task %s, attempt %lld\n", printable(task.text("id"), 128).c_str(),
                 static_cast<long long>(task.number("attempt", 1)));
  }
  return print(*body) ? 0 : 1;
}

int progress(Context& context, const Arguments& arguments) {
  std::string message;
  for (std::size_t i = 2; i < arguments.positional.size(); ++i)
    message += (i > 2 ? " " : "") + arguments.positional[i];
  for (const std::string& word : arguments.rest) message += (message.empty() ? "" : " ") + word;
  Request request("task_progress");
  const Status named = name_task(request, arguments);
  if (!named) return context.fail(named.error());
  request.set("message", printable(message, kMostProgressBytes));
  const Answer answer = context.call(std::move(request));
  if (!answer.ok) return context.fail(answer);
  if (answer.fields.flag("cancel")) {
    return context.fail("refused",
                        "the task was cancelled: stop working on it and run: agentctl task fail " +
                            arguments.positional[1] + " --cancelled");
  }
  return 0;
}

int done(Context& context, const Arguments& arguments) {
  Request request("task_done");
  const Status named = name_task(request, arguments);
  if (!named) return context.fail(named.error());
  const bool given = arguments.positional.size() > 2 || !arguments.rest.empty();
  const Result<std::string> result = given ? body_argument(arguments, 2) : std::string();
  if (!result) return context.fail(result.error());
  const std::string_view kept = utf8_prefix(*result, kDefaultResultBytes);
  request.set_bytes("result", kept).set_number("exitCode", 0).set_texts("lastLines", {});
  if (kept.size() < result->size()) {
    request.set_flag("truncated", true)
        .set_number("resultBytes", static_cast<std::int64_t>(result->size()));
    std::fprintf(stderr, "agentctl task: the result has %zu bytes, the first %zu are kept\n",
                 result->size(), kept.size());
  }
  if (arguments.has("branch")) request.set("branch", arguments.get("branch"));
  if (arguments.has("commit")) request.set("commit", arguments.get("commit"));
  const Answer answer = context.call(std::move(request), kReportTimeout);
  return answer.ok ? 0 : context.fail(answer);
}

int fail(Context& context, const Arguments& arguments) {
  Request request("task_fail");
  const Status named = name_task(request, arguments);
  if (!named) return context.fail(named.error());
  const int kinds = static_cast<int>(arguments.has("bad")) +
                    static_cast<int>(arguments.has("later")) +
                    static_cast<int>(arguments.has("cancelled"));
  if (kinds > 1)
    return context.fail("invalid", "only one of --bad, --later and --cancelled makes sense");
  request.set("kind", arguments.has("bad")         ? "bad_task"
                      : arguments.has("later")     ? "try_later"
                      : arguments.has("cancelled") ? "cancelled"
                                                   : "failed");
  std::string message;
  for (std::size_t i = 2; i < arguments.positional.size(); ++i)
    message += (i > 2 ? " " : "") + arguments.positional[i];
  for (const std::string& word : arguments.rest) message += (message.empty() ? "" : " ") + word;
  request.set("message", printable(message, kMostProgressBytes)).set_texts("lastLines", {});
  const Answer answer = context.call(std::move(request), kReportTimeout);
  return answer.ok ? 0 : context.fail(answer);
}

struct Action {
  const char* name;
  int (*run)(Context&, const Arguments&);
  bool needs_task;
  std::size_t most;                // words, its name and the task included
  std::vector<std::string> flags;  // of the verb's own
};

const std::vector<Action>& actions() {
  static const std::vector<Action> kActions{
      {"next", next, false, 1, {"wait", "json"}},
      {"progress", progress, true, kMostWords, {"attempt"}},
      {"done", done, true, 3, {"attempt", "branch", "commit"}},
      {"fail", fail, true, kMostWords, {"attempt", "bad", "later", "cancelled"}}};
  return kActions;
}

// Whether the action takes what is written; what it would not look at is no less wrong.
Status check_call(const Action& action, const Arguments& arguments) {
  const std::string call = std::string("agentctl task ") + action.name;
  const std::size_t words = arguments.positional.size() + arguments.rest.size();
  if (action.needs_task && arguments.positional.size() < 2)
    return invalid("which task? write: " + call + " t-0-1f2a");
  if (words > action.most) {
    const std::size_t given = arguments.positional.size();
    return invalid("too many arguments, from '" +
                   (action.most < given ? arguments.positional[action.most]
                                        : arguments.rest[action.most - given]) +
                   "' on: " + call +
                   (action.needs_task ? " T [RESULT|-] (quote a text with blanks)"
                                      : " [--wait 30s] [--json]"));
  }
  for (const Action& other : actions()) {
    for (const std::string& flag : other.flags) {
      if (arguments.has(flag) &&
          std::find(action.flags.begin(), action.flags.end(), flag) == action.flags.end())
        return invalid("--" + flag + " belongs to task " + other.name + ", not to task " +
                       action.name);
    }
  }
  return {};
}

int run(Context& context, const Arguments& arguments) {
  const std::string& what = arguments.positional[0];
  std::vector<std::string> names;
  for (const Action& action : actions()) {
    names.emplace_back(action.name);
    if (what != action.name) continue;
    const Status right = check_call(action, arguments);
    return right ? action.run(context, arguments) : context.fail(right.error());
  }
  const std::string near = nearest(what, names);
  return context.fail("invalid", "'" + what + "' is none of next, progress, done, fail" +
                                     (near.empty() ? "" : "; did you mean " + near + "?"));
}

}  // namespace

Verb task_verb() {
  return {
      "task",
      "next | progress T MESSAGE… | done T [RESULT|-] | fail T [MESSAGE]",
      "take tasks one by one, for agents that live longer than a task",
      "  task next [--wait 30s] [--json]    lease a task and print its body; id and attempt go to "
      "stderr, with --json\n"
      "                                     to the first line of stdout; exit code 3: none came\n"
      "  task progress T MESSAGE…           show that it goes on, and keep the lease; exit code 7: "
      "lost or cancelled, stop\n"
      "  task done T [RESULT|-]             finished; RESULT is kept (- = standard input)\n"
      "  task fail T [--bad|--later|--cancelled] [MESSAGE]   tried again; --bad: never again; "
      "--later: again,\n"
      "                                     not counted; --cancelled: it was, and you have "
      "stopped\n"
      "The attempt comes from --attempt or SWARM_TASK_ATTEMPT. Call progress more often than the "
      "lease (leaseMs).\n",
      {{"attempt", "N", "the attempt that task next printed"},
       {"wait", "DURATION", "next: how long to wait for a task (default 30s)"},
       {"json", "", "next: id, attempt, key, labels as JSON on the first line, then the body"},
       {"branch", "NAME", "done: the git branch that holds the work"},
       {"commit", "SHA", "done: its commit"},
       {"bad", "", "fail: the task itself is wrong"},
       {"later", "", "fail: not now; not counted as an attempt"},
       {"cancelled", "", "fail: ended because it was cancelled"}},
      1,
      kMostWords,
      run};
}

}  // namespace swarm::agent
