// agentctl task next|progress|done|fail: for agents that live longer than one task; submit and
// wait: for any that makes several tasks of one.
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
constexpr Milliseconds kSubmitTimeout{30'000};
// One request of a wait; then another one. Without an answer for so long the sidecar is away.
constexpr Milliseconds kWaitPiece{60'000};
constexpr int kExitUnended = 1;  // a task that was waited for has no result

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

// The task that this agent is at work on, if it is at one, into the request.
Status name_own_task(Request& request) {
  const std::string task = environment("SWARM_TASK_ID");
  if (task.empty()) return {};
  const Result<std::int64_t> attempt =
      parse_number(environment("SWARM_TASK_ATTEMPT"), 1, std::numeric_limits<std::int32_t>::max());
  if (!is_task_id(task) || !attempt)
    return invalid(
        "SWARM_TASK_ID is the task that this agent is at work on, and needs SWARM_TASK_ATTEMPT; "
        "unset it for a task without a parent");
  request.set("taskId", task).set_number("attempt", *attempt);
  return {};
}

std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  text = printable(text, 200);
  text.resize(text.find_last_not_of(' ') + 1);
  return text;
}

std::string why_unended(const Object& task) {
  const std::string message = task.text("message");
  const std::string reason = task.text("reason");
  return task.text("id") + " is " + task.text("state") + (reason.empty() ? "" : ": " + reason) +
         (message.empty() ? "" : " (" + message + ")");
}

// Until all have ended; what became of them to stdout. The exit code.
int wait_for(Context& context, const std::vector<std::string>& tasks,
             std::optional<MonoTime> deadline) {
  for (;;) {
    const MonoTime now = mono_now();
    Milliseconds piece = kWaitPiece;
    if (deadline)
      piece = std::clamp(std::chrono::duration_cast<Milliseconds>(*deadline - now), Milliseconds{0},
                         kWaitPiece);
    Request request("task_wait");
    if (const Status own = name_own_task(request); !own) return context.fail(own.error());
    request.set_texts("tasks", tasks).set_remaining("waitMs", kAnswerSlack).read_only();
    const Answer answer = context.socket().call(std::move(request), now + piece + kAnswerSlack);
    if (answer.code == "unknown" && (!deadline || mono_now() < *deadline)) continue;
    if (!answer.ok) return context.fail(answer);
    bool all = true;
    std::string lines;
    const std::vector<Object> ended = answer.fields.objects("tasks");
    for (const Object& task : ended) {
      const bool done = task.text("state") == "done";
      all = all && done;
      if (context.json) {
        lines += task.to_json() + "\n";
        continue;
      }
      if (!done)
        std::fprintf(stderr, "agentctl task: %s\n", printable(why_unended(task), 1000).c_str());
      if (tasks.size() > 1)
        lines += printable(task.text("id"), kMaxTaskIdBytes) + " " +
                 printable(task.text("state"), 20) +
                 (done ? " " + one_line(task.text("preview")) : "") + "\n";
    }
    if (tasks.size() == 1 && !context.json) {
      const Result<std::string> result = answer.fields.bytes("result");
      if (!result) return context.fail(result.error());
      lines = *result;
      if (all && ended.size() == 1 && ended[0].flag("truncated"))
        std::fprintf(stderr, "agentctl task: the result was cut, it had %lld bytes\n",
                     static_cast<long long>(ended[0].number("bytes")));
    }
    if (!print(lines)) return 1;
    return all ? 0 : kExitUnended;
  }
}

int wait(Context& context, const Arguments& arguments) {
  std::vector<std::string> tasks(arguments.positional.begin() + 1, arguments.positional.end());
  tasks.insert(tasks.end(), arguments.rest.begin(), arguments.rest.end());
  for (const std::string& task : tasks) {
    if (!is_task_id(task))
      return context.fail("invalid", "'" + printable(task, kMaxTaskIdBytes) +
                                         "' is no task's id, for example t-0-1f2a");
  }
  std::optional<MonoTime> deadline;
  if (context.timeout) deadline = mono_now() + *context.timeout;
  return wait_for(context, tasks, deadline);
}

int submit(Context& context, const Arguments& arguments) {
  const std::optional<MonoTime> deadline =
      context.timeout ? std::optional(mono_now() + *context.timeout) : std::nullopt;
  const Result<std::string> body = body_argument(arguments, 1);
  if (!body) return context.fail(body.error());
  Request request("task_submit");
  if (const Status own = name_own_task(request); !own) return context.fail(own.error());
  const std::string id =
      arguments.has("id") ? arguments.get("id") : "s" + new_message_id().substr(1);
  request.set_bytes("body", *body).set("id", id).set_remaining("timeoutMs", kAnswerSlack);
  if (arguments.has("key")) request.set("key", arguments.get("key"));
  if (arguments.has("max-attempts")) {
    const Result<std::int64_t> most = parse_number(arguments.get("max-attempts"), 1, 100);
    if (!most) return context.fail(most.error().in("--max-attempts"));
    request.set_number("maxAttempts", *most);
  }
  std::map<std::string, std::string> labels;
  std::string left = arguments.get("label");
  while (!left.empty()) {
    const std::size_t end = left.find('\n');
    const std::string label = left.substr(0, end);
    left = end == std::string::npos ? "" : left.substr(end + 1);
    const std::size_t equals = label.find('=');
    if (equals == 0 || equals == std::string::npos)
      return context.fail("invalid", "--label " + label + ": write --label name=value");
    labels[label.substr(0, equals)] = label.substr(equals + 1);
  }
  if (!labels.empty()) request.set_object("labels", Object::of(labels, {}));
  // With --wait the time is for both; the submission alone takes no longer than without.
  const Answer answer = context.socket().call(
      std::move(request),
      mono_now() +
          std::min(context.timeout_or(kSubmitTimeout),
                   arguments.has("wait") ? kSubmitTimeout : Milliseconds::max()) +
          kAnswerSlack);
  if (!answer.ok) {
    return context.fail(
        answer.code,
        answer.message +
            (answer.code == "unknown" ? "; the same again with --id " + id + " resolves it" : ""));
  }
  const std::string task = answer.fields.text("taskId");
  if (!is_task_id(task)) return context.fail("failed", "the sidecar's answer names no task");
  if (!context.json || arguments.has("wait"))
    std::fprintf(stderr, "task %s submitted, survives: %s%s\n", task.c_str(),
                 printable(answer.fields.text("survives"), 20).c_str(),
                 answer.fields.flag("duplicate") ? " (it had been submitted before)" : "");
  if (arguments.has("wait")) return wait_for(context, {task}, deadline);
  return print(context.json ? answer.fields.without({"rid", "ok"}).to_json() + "\n" : task + "\n")
             ? 0
             : 1;
}

struct Action {
  const char* name;
  const char* usage;
  int (*run)(Context&, const Arguments&);
  bool needs_task;
  std::size_t most;                // words, its name and the task included
  std::vector<std::string> flags;  // of the verb's own
};

const std::vector<Action>& actions() {
  static const std::vector<Action> kActions{
      {"next", " [--wait 30s] [--json]", next, false, 1, {"wait", "json"}},
      {"progress", " T MESSAGE…", progress, true, kMostWords, {"attempt"}},
      {"done",
       " T [RESULT|-] (quote a text with blanks)",
       done,
       true,
       3,
       {"attempt", "branch", "commit"}},
      {"fail", " T [MESSAGE]", fail, true, kMostWords, {"attempt", "bad", "later", "cancelled"}},
      {"submit",
       " [TEXT|-] (quote a text with blanks)",
       submit,
       false,
       2,
       {"key", "id", "label", "max-attempts", "wait"}},
      {"wait", " T…", wait, true, kMostWords, {}}};
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
                   "' on: " + call + action.usage);
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
  return context.fail("invalid", "'" + what +
                                     "' is none of next, progress, done, fail, submit, wait" +
                                     (near.empty() ? "" : "; did you mean " + near + "?"));
}

}  // namespace

Verb task_verb() {
  return {
      "task",
      "next | progress T MESSAGE… | done T [RESULT|-] | fail T [MESSAGE] | submit [TEXT|-] | wait "
      "T…",
      "take tasks one by one; submit tasks of one's own, and wait for them",
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
      "  task submit [TEXT|-] [--id ID] [--key K] [--label a=b] [--max-attempts N] [--wait]   a "
      "task "
      "of your own; its\n"
      "                                     id is printed once two pods hold it; exit code 5: the "
      "same again with --id\n"
      "  task wait T…                       until these have ended; the result of one as it is, of "
      "several a line each;\n"
      "                                     exit code 1: one has no result; 3: no such task; 5: "
      "--timeout; 7: would close\n"
      "                                     a cycle of waits, or the task was cancelled\n"
      "submit names the task in SWARM_TASK_ID as the parent, wait as the one that waits.\n"
      "The attempt comes from --attempt or SWARM_TASK_ATTEMPT. Call progress more often than the "
      "lease (leaseMs).\n",
      {{"attempt", "N", "the attempt that task next printed"},
       {"wait", "DURATION",
        "next: how long to wait for a task (default 30s); submit: a switch, print its result", '\0',
        "submit"},
       {"id", "ID", "submit: the same id again is the same task"},
       {"key", "K", "submit: tasks of one key have one version"},
       {"label", "a=b", "submit: may be given several times", '\0', "", true},
       {"max-attempts", "N", "submit: 1 to 100 (default spec.tasks.maxAttempts)"},
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
