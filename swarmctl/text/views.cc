#include "text/views.h"

#include <algorithm>
#include <ctime>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "base/encoding.h"
#include "text/json.h"

namespace swarm::text {
namespace {

using nlohmann::json;

constexpr std::size_t kOutputColumn = 40;
constexpr std::size_t kMaxEvents = 20;
constexpr std::size_t kMaxPressedShown = 3;
constexpr std::size_t kTopAgents = 40;
constexpr std::size_t kMaxWhy = 2000;
constexpr std::size_t kMaxSubtasksShown = 20;

std::string dash(std::string text) { return text.empty() ? "-" : text; }

std::string word(const json& object, const std::string& name, std::size_t limit = 80) {
  return dash(shorten(get_text(object, name), limit));
}

std::string number(const json& object, const std::string& name) {
  return object.is_object() && object.contains(name) ? std::to_string(get_number(object, name))
                                                     : "-";
}

// "5m: 1 TCP connection open, to 10.0.0.7:443"; "-" of an agent that is not stuck.
std::string stuck_cell(const json& agent) {
  if (get_text(agent, "state") != "stuck") return "-";
  const std::string why = get_text(agent, "stuckWhy");
  const std::string time =
      agent.contains("stuckSeconds") ? age(get_number(agent, "stuckSeconds") * 1000) : "-";
  return time + (why.empty() ? "" : ": " + shorten(why, 200));
}

std::string labels_text(const json& labels) {
  std::string out;
  for (const auto& [name, value] : labels.items()) {
    if (value.is_string())
      out += (out.empty() ? "" : ",") + shorten(name, 63) + "=" +
             shorten(value.get<std::string>(), 63);
  }
  return out;
}

std::string result_cell(const json& task) {
  const json& result = get(task, "result");
  if (!get_text(result, "branch").empty())
    return shorten(get_text(result, "branch"), kOutputColumn);
  if (!get_text(result, "preview").empty())
    return shorten(get_text(result, "preview"), kOutputColumn);
  if (result.contains("bytes"))
    return bytes(
        static_cast<std::uint64_t>(std::max<std::int64_t>(0, get_number(result, "bytes"))));
  return get_text(task, "state") == "dead" || get_text(task, "state") == "failed"
             ? shorten(failure(task), kOutputColumn)
             : "-";
}

void field(std::string& out, const std::string& name, const std::string& value) {
  std::string label = name + ":";
  label.resize(std::max<std::size_t>(14, label.size() + 1), ' ');
  out += label + value + "\n";
}

// The counts of a usage, as /v1/tasks, /v1/stats and the status have them; negative ones are none.
std::uint64_t amount(const json& usage, const char* name) {
  return static_cast<std::uint64_t>(std::max<std::int64_t>(0, get_number(usage, name)));
}

// What the model has read and written, from a cache or not: "45k in, 678 out"; "-" when nothing is
// known.
std::string tokens_text(const json& usage, const char* in, const char* out) {
  const bool known = usage.contains("inputTokens") || usage.contains("cacheReadTokens") ||
                     usage.contains("cacheCreationTokens");
  if (!known && !usage.contains("outputTokens")) return "-";
  return (known ? tokens(amount(usage, "inputTokens") + amount(usage, "cacheReadTokens") +
                         amount(usage, "cacheCreationTokens"))
                : "-") +
         in + (usage.contains("outputTokens") ? tokens(amount(usage, "outputTokens")) : "-") + out;
}

std::string cost_cell(const json& usage) {
  return usage.contains("costMicroUsd") ? usd(amount(usage, "costMicroUsd")) : "-";
}

std::string tokens_cell(const json& usage) { return tokens_text(usage, "/", ""); }

std::string usage_text(const json& usage) {
  return (usage.contains("costMicroUsd") ? usd(amount(usage, "costMicroUsd"))
                                         : std::string("not known")) +
         " (" + tokens_text(usage, " tokens in, ", " out") + ")";
}

// Of several tasks: "$12.34 (1.2M tokens in, 30k out) in 7 tasks, 3 of them without a cost".
std::string total_text(const json& usage) {
  const std::uint64_t tasks = amount(usage, "tasks");
  const std::uint64_t priced = std::min(tasks, amount(usage, "tasksWithCost"));
  json shown = usage;
  if (priced == 0) shown.erase("costMicroUsd");
  std::string out =
      usage_text(shown) + " in " + std::to_string(tasks) + (tasks == 1 ? " task" : " tasks");
  if (priced > 0 && priced < tasks)
    out += ", " + std::to_string(tasks - priced) + " of them without a cost";
  return out;
}

// RFC 3339 with second precision, as Kubernetes writes it; 0 when it isn't one.
WallTime parse_time(const std::string& text) {
  std::tm tm{};
  if (::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &tm) == nullptr) return 0;
  return static_cast<WallTime>(::timegm(&tm)) * 1000;
}

// "12.34" of a status; 0 when it isn't one.
std::uint64_t micro_usd(const std::string& text) {
  constexpr std::size_t kWholeDigits = 12, kDecimals = 6;
  const std::size_t dot = std::min(text.find('.'), text.size());
  std::string digits = text.substr(0, dot);
  std::string decimals = dot < text.size() ? text.substr(dot + 1) : "";
  if (digits.empty() || digits.size() > kWholeDigits || decimals.size() > kDecimals) return 0;
  decimals.resize(kDecimals, '0');
  digits += decimals;
  if (digits.find_first_not_of("0123456789") != std::string::npos) return 0;
  return std::stoull(digits);
}

std::string since(const std::string& time, WallTime now) {
  const WallTime at = parse_time(time);
  return at == 0 ? "-" : age(now - at);
}

std::string span(const json& attempt, WallTime now) {
  const std::int64_t begin = get_number(attempt, "startedAt");
  const std::int64_t end = get_number(attempt, "endedAt");
  if (begin == 0) return "-";
  return age((end == 0 ? now : end) - begin);
}

// Of the tasks' counts in stats and status: "" when tasks are handed out.
std::string backing_off(const json& tasks, WallTime now) {
  const WallTime until = parse_time(get_text(tasks, "backingOffUntil"));
  if (until <= now) return "";
  std::string out = "no task is handed out for " + age(until - now) + ": ";
  const std::int64_t many = get_number(tasks, "tryLaterInARow");
  return out + (many > 0 ? std::to_string(many) + " attempts" : "attempts") +
         " in a row were told to try later (a rate limit, or exit code 75)";
}

// "6: done 4, queued 2"; "" without any.
std::string family_text(const json& subtasks) {
  std::map<std::string, std::size_t> states;
  for (const json& one : subtasks) {
    if (subtasks.is_array()) ++states[word(one, "state")];
  }
  std::string out;
  for (const auto& [state, count] : states)
    out += (out.empty() ? std::to_string(subtasks.size()) + ": " : ", ") + state + " " +
           std::to_string(count);
  return out;
}

// "t-0-1f, t-0-2a and 3 more"; "" of one that waits for none.
std::string waits_text(const json& task) {
  const json& waits = get(task, "waitsFor");
  std::string out;
  if (!waits.is_array() || waits.empty()) return out;
  for (const json& one : waits) {
    if (one.is_string()) out += (out.empty() ? "" : ", ") + shorten(one.get<std::string>(), 64);
  }
  const auto all = get_number(task, "waitsForTasks");
  const auto shown = static_cast<std::int64_t>(waits.size());
  return out + (all > shown ? " and " + std::to_string(all - shown) + " more" : "");
}

// Of the tasks' counts in stats: "" while somebody is left to do what others wait for.
std::string starved(const json& tasks) {
  const std::int64_t many = get_number(tasks, "starved");
  if (many <= 0) return "";
  return "every agent of a team is at work on a task that waits for queued ones (" +
         std::to_string(many) + (many == 1 ? " task" : " tasks") +
         "), and nobody is left to do these: raise spec.workers.replicas, or cancel one that waits";
}

}  // namespace

Row task_header(bool wide) {
  Row row{"TASK", "STATE", "ATTEMPT", "AGENT", "VERSION", "AGE", "LAST-OUTPUT", "RESULT"};
  if (wide) row.insert(row.end(), {"COST", "TOKENS", "KEY", "POD", "LABELS"});
  return row;
}

Row task_row(const json& task, WallTime now, bool wide) {
  Row row{word(task, "id"),
          word(task, "state"),
          number(task, "attempt") + "/" + number(task, "maxAttempts"),
          word(task, "agent"),
          word(task, "version"),
          task.contains("createdAt") ? age(now - get_number(task, "createdAt")) : "-",
          word(task, "lastOutput", kOutputColumn),
          result_cell(task)};
  if (wide) {
    const json& usage = get(task, "usage");
    row.insert(row.end(), {cost_cell(usage), tokens_cell(usage), word(task, "key", kOutputColumn),
                           word(task, "pod"), dash(labels_text(get(task, "labels")))});
  }
  return row;
}

Row agent_header(bool wide) {
  Row row{"NAME", "STATE", "TASK", "SINCE", "DONE", "NODE", "POD"};
  if (wide) row.insert(row.end(), {"ROLE", "TEAM", "VERSION", "INBOX", "OUTBOX"});
  row.emplace_back("STUCK");
  return row;
}

Row agent_row(const json& agent, bool wide) {
  Row row{word(agent, "name"),
          word(agent, "state"),
          word(agent, "task"),
          agent.contains("sinceSeconds") ? age(get_number(agent, "sinceSeconds") * 1000) : "-",
          number(agent, "tasksDone"),
          word(agent, "node"),
          word(agent, "pod")};
  if (wide)
    row.insert(row.end(), {word(agent, "role"), number(agent, "team"), word(agent, "version"),
                           number(agent, "inbox"), number(agent, "outbox")});
  row.push_back(stuck_cell(agent));
  return row;
}

Row message_header(bool wide) {
  Row row{"MESSAGE", "FROM", "TO", "STATE", "ATTEMPT", "BYTES", "AGE"};
  if (wide) row.insert(row.end(), {"PRIORITY", "STREAM"});
  return row;
}

Row message_row(const json& message, bool wide) {
  Row row{word(message, "messageId"),       word(message, "from"),      word(message, "to"),
          word(message, "state"),           number(message, "attempt"), number(message, "bytes"),
          age(get_number(message, "ageMs"))};
  if (wide) {
    const std::string stream = get_text(message, "stream");
    row.push_back(word(message, "priority"));
    row.push_back(stream.empty() ? "-" : word(message, "stream") + "/" + number(message, "part"));
  }
  return row;
}

std::vector<json> messages_once(std::vector<json> messages) {
  const auto key = [](const json& m) {
    return std::tuple(get_text(m, "messageId"), get_text(m, "from"), get_text(m, "to"));
  };
  std::set<std::tuple<std::string, std::string, std::string>> received;
  for (const json& m : messages) {
    if (get_text(m, "state") != "outgoing") received.insert(key(m));
  }
  std::erase_if(messages, [&](const json& m) {
    return get_text(m, "state") == "outgoing" && received.contains(key(m));
  });
  std::stable_sort(messages.begin(), messages.end(), [](const json& a, const json& b) {
    return get_number(a, "ageMs") > get_number(b, "ageMs");
  });
  return messages;
}

std::vector<json> agents_of_pod(const json& pod) {
  std::vector<json> out{pod};
  const auto count = std::clamp<std::int64_t>(get_number(pod, "agents"), 1, kMaxAgentsPerPod);
  for (std::int64_t n = 1; n < count; ++n) {
    json& agent = out.emplace_back(pod);
    agent["name"] = get_text(pod, "name") + "." + std::to_string(n);
    for (const char* of_pod : {"task", "tasksDone", "sinceSeconds"}) agent.erase(of_pod);
    if (get_text(agent, "state") == "stuck") agent["state"] = "busy";  // one of them is
  }
  return out;
}

bool is_final(const json& task) {
  const std::string state = get_text(task, "state");
  return state == "done" || state == "failed" || state == "dead" || state == "cancelled";
}

std::string failure(const json& task) {
  const std::string state = get_text(task, "state", "unknown");
  const json& history = get(task, "history");
  if (!history.is_array() || history.empty()) return state;
  const json& last = history.back();
  std::string out = state + " after " + std::to_string(history.size()) +
                    (history.size() == 1 ? " attempt" : " attempts");
  const std::string reason = get_text(last, "reason");
  const std::string message = get_text(last, "message");
  if (!reason.empty()) out += ": " + shorten(reason, 40);
  if (last.contains("exitCode") && last["exitCode"].is_number()) {
    out += ", exit code " + std::to_string(get_number(last, "exitCode"));
  }
  if (!message.empty()) out += " (" + shorten(message, 300) + ")";
  return out;
}

std::vector<std::string> last_lines(const json& task) {
  std::vector<std::string> out;
  const json& history = get(task, "history");
  if (!history.is_array() || history.empty()) return out;
  for (const json& line : get(history.back(), "lastLines")) {
    if (line.is_string()) out.push_back(shorten(line.get<std::string>(), 500));
  }
  return out;
}

std::string describe_task(const json& task, WallTime now) {
  std::string out;
  const std::string id = word(task, "id");
  field(out, "Task", id);
  std::string state = word(task, "state");
  if (is_final(task) && state != "done") state = failure(task);
  field(out, "State", state);
  field(out, "Attempt", number(task, "attempt") + " of " + number(task, "maxAttempts"));
  field(out, "Agent", word(task, "agent") + " (pod " + word(task, "pod") + ")");
  field(out, "Version", word(task, "version"));
  field(out, "Key", word(task, "key", 200));
  field(out, "Labels", dash(labels_text(get(task, "labels"))));
  field(out, "Survives", word(task, "survives"));
  if (!get_text(task, "parent").empty()) field(out, "Parent", word(task, "parent"));
  const json& subtasks = get(task, "subtasks");
  if (const std::string family = family_text(subtasks); !family.empty())
    field(out, "Subtasks", family);
  if (const std::string waits = waits_text(task); !waits.empty()) field(out, "Waits for", waits);
  if (!get_text(task, "cycle").empty())
    field(out, "Cycle", word(task, "cycle", kMaxWhy) + ": that wait was refused");
  if (task.contains("createdAt")) field(out, "Age", age(now - get_number(task, "createdAt")));
  if (get_number(task, "lastOutputAt") > 0) {
    field(out, "Last output",
          word(task, "lastOutput", 200) + " (" + age(now - get_number(task, "lastOutputAt")) +
              " ago)");
  }
  field(
      out, "Body",
      bytes(static_cast<std::uint64_t>(std::max<std::int64_t>(0, get_number(task, "bodyBytes")))) +
          ": " + word(task, "bodyPreview", 200));
  const json& result = get(task, "result");
  if (!result.empty()) {
    field(
        out, "Result",
        bytes(static_cast<std::uint64_t>(std::max<std::int64_t>(0, get_number(result, "bytes")))) +
            (get_flag(result, "truncated") ? " (cut)" : "") + ": " + word(result, "preview", 200));
    if (!get_text(result, "branch").empty()) {
      field(out, "Branch", word(result, "branch", 255) + " at " + word(result, "commit"));
    }
  }
  const json& usage = get(task, "usage");
  if (!usage.empty()) field(out, "Cost", usage_text(usage));
  const json& history = get(task, "history");
  std::string session;  // the latest
  if (history.is_array()) {
    for (const json& attempt : history) {
      const std::string one = get_text(get(attempt, "usage"), "session");
      if (!one.empty()) session = shorten(one, 128);
    }
  }
  if (!session.empty()) field(out, "Session", session);
  if (history.is_array() && !history.empty()) {
    out += "Attempts:\n";
    std::vector<Row> rows{
        {"  ATTEMPT", "REASON", "EXIT", "CHARGED", "TOOK", "AGENT", "NODE", "POD"}};
    if (!usage.empty()) rows[0].insert(rows[0].end(), {"COST", "TOKENS"});
    for (const json& attempt : history) {
      rows.push_back({"  " + number(attempt, "attempt"), word(attempt, "reason"),
                      number(attempt, "exitCode"),
                      !attempt.contains("charged")   ? "-"
                      : get_flag(attempt, "charged") ? "yes"
                                                     : "no",
                      span(attempt, now), word(attempt, "agent"), word(attempt, "node"),
                      word(attempt, "pod")});
      const json& of_attempt = get(attempt, "usage");
      if (!usage.empty()) {
        rows.back().insert(rows.back().end(), {cost_cell(of_attempt), tokens_cell(of_attempt)});
      }
    }
    out += table(rows);
    const std::vector<std::string> lines = last_lines(task);
    if (!lines.empty()) {
      out += "Last lines:\n";
      for (const std::string& line : lines) out += "  " + line + "\n";
    }
  }
  if (subtasks.is_array() && !subtasks.empty()) {
    out += "Subtasks:\n";
    std::vector<Row> rows{{"  TASK", "STATE"}};
    for (std::size_t i = 0; i < std::min(subtasks.size(), kMaxSubtasksShown); ++i)
      rows.push_back({"  " + word(subtasks[i], "id"), word(subtasks[i], "state")});
    out += table(rows);
    if (subtasks.size() > kMaxSubtasksShown)
      out += "  … and " + std::to_string(subtasks.size() - kMaxSubtasksShown) + " more\n";
  }
  out += "Next:\n  kubectl swarm logs task/" + id + "\n";
  const std::string plain = get_text(task, "state");
  if (plain == "done") out += "  kubectl swarm result task/" + id + "\n";
  if (plain == "queued" || plain == "running") out += "  kubectl swarm cancel task/" + id + "\n";
  if (is_final(task) && plain != "done") out += "  kubectl swarm retry task/" + id + "\n";
  return out;
}

std::string describe_agent(const json& agent, const std::string& swarm) {
  std::string out;
  field(out, "Agent", word(agent, "name"));
  field(out, "Swarm", swarm);
  field(out, "Role", word(agent, "role") + ", team " + number(agent, "team"));
  field(out, "State",
        word(agent, "state") + (agent.contains("sinceSeconds")
                                    ? " for " + age(get_number(agent, "sinceSeconds") * 1000)
                                    : ""));
  field(out, "Task", word(agent, "task"));
  const std::string stuck = stuck_cell(agent);
  if (stuck != "-") field(out, "Stuck", "no output and no CPU for " + stuck);
  field(out, "Tasks done", number(agent, "tasksDone"));
  if (agent.contains("inbox"))
    field(out, "Mailbox", number(agent, "inbox") + " in, " + number(agent, "outbox") + " out");
  field(out, "Pod", word(agent, "pod") + " on node " + word(agent, "node"));
  field(out, "Version", word(agent, "version"));
  out += "Next:\n  kubectl logs " + word(agent, "pod") + "\n";
  const std::string task = get_text(agent, "task");
  if (!task.empty()) out += "  kubectl swarm logs task/" + shorten(task, 128) + "\n";
  if (stuck != "-" && !task.empty())
    out += "  kubectl swarm cancel task/" + shorten(task, 128) + "\n";
  return out;
}

std::string describe_swarm(const json& swarm, const json& events, const json& stats, WallTime now) {
  std::string out;
  const json& meta = get(swarm, "metadata");
  const json& spec = get(swarm, "spec");
  const json& status = get(swarm, "status");
  const std::string name = word(meta, "name");
  field(out, "Name", name);
  field(out, "Namespace", word(meta, "namespace"));
  field(out, "Age", since(get_text(meta, "creationTimestamp"), now));
  const json& workers = get(spec, "workers");
  std::string images;
  for (const json& container : get(get(get(workers, "template"), "spec"), "containers")) {
    images += (images.empty() ? "" : ", ") + word(container, "image", 200);
  }
  field(out, "Workers", std::to_string(get_number(workers, "replicas", 1)) + " of " + dash(images));
  const json& topology = get(status, "topology");
  field(out, "Topology",
        word(topology, "type") + ", coordinators " + number(topology, "coordinators"));
  if (get_flag(spec, "suspend"))
    field(out, "Suspended", "yes: no task is handed out once Ready says so; pods and queue stay");
  const json& agents = get(status, "agents");
  field(out, "Agents",
        word(agents, "summary") + " ready, busy " + number(agents, "busy") +
            (get_number(agents, "stuck") > 0 ? ", stuck " + number(agents, "stuck") : ""));
  const json& tasks = get(status, "tasks");
  field(out, "Tasks",
        "queued " + number(tasks, "queued") + ", running " + number(tasks, "running") + ", done " +
            number(tasks, "done") + ", dead " + number(tasks, "dead"));
  if (const std::string waits = backing_off(tasks, now); !waits.empty()) field(out, "Waits", waits);
  if (const std::string all = starved(get(stats, "tasks")); !all.empty())
    field(out, "Starved", all);
  if (json usage = get(status, "usage"); get_number(usage, "tasks") > 0) {
    usage["costMicroUsd"] = micro_usd(get_text(usage, "costUSD"));
    field(out, "Cost", total_text(usage));
  }
  if (const json& budget = get(spec, "budget"); !budget.empty())
    field(out, "Budget", "$" + word(budget, "usd") + "; then no task is handed out");
  const json& rollout = get(status, "rollout");
  if (!rollout.empty()) {
    field(out, "Rollout",
          "V2 " + word(rollout, "summary") + " (ceiling " + number(rollout, "ceiling") +
              "%, effective " + number(rollout, "effective") + "%, measured " +
              number(rollout, "measured") + "%)");
  }
  const json& conditions = get(status, "conditions");
  if (conditions.is_array() && !conditions.empty()) {
    out += "Conditions:\n";
    std::vector<Row> rows{{"  TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"}};
    for (const json& condition : conditions) {
      rows.push_back(
          {"  " + word(condition, "type"), word(condition, "status"), word(condition, "reason"),
           since(get_text(condition, "lastTransitionTime"), now), word(condition, "message", 500)});
    }
    out += table(rows);
  }
  if (events.is_array() && !events.empty()) {
    std::vector<const json*> sorted;
    for (const json& event : events) sorted.push_back(&event);
    const auto time = [](const json& event) {
      std::string at = get_text(event, "lastTimestamp");
      if (at.empty()) at = get_text(event, "eventTime");
      return at.empty() ? get_text(get(event, "metadata"), "creationTimestamp") : at;
    };
    std::stable_sort(sorted.begin(), sorted.end(),
                     [&](const json* a, const json* b) { return time(*a) < time(*b); });
    if (sorted.size() > kMaxEvents)
      sorted.erase(sorted.begin(), sorted.end() - static_cast<std::ptrdiff_t>(kMaxEvents));
    out += "Events:\n";
    std::vector<Row> rows{{"  AGE", "TYPE", "REASON", "MESSAGE"}};
    for (const json* event : sorted) {
      const std::int64_t count = get_number(*event, "count", 1);
      rows.push_back(
          {"  " + since(time(*event), now) + (count > 1 ? " (x" + std::to_string(count) + ")" : ""),
           word(*event, "type"), word(*event, "reason"), word(*event, "message", 500)});
    }
    out += table(rows);
  }
  return out + "Next:\n  kubectl swarm get tasks " + name + "\n  kubectl swarm get agents " + name +
         "\n  kubectl swarm top " + name + "\n";
}

namespace {

// A condition in one word, and its message, whose end names the next command.
struct Reason {
  std::string word, what, next;
};
Reason reason_of(const json& condition) {
  const std::string message = shorten(get_text(condition, "message"), kMaxWhy);
  const std::size_t at = message.rfind(" Next: ");
  const std::string type = get_text(condition, "type");
  Reason out{word(condition, type == "Ready" || type == "Stalled" ? "reason" : "type"),
             message.substr(0, at), ""};
  if (at != std::string::npos) out.next = message.substr(at + std::string_view(" Next: ").size());
  return out;
}

// The condition that says most about what is wrong; if nothing is, Ready.
const json& worst_condition(const json& swarm) {
  static const json kNone = json::object();
  const json& conditions = get(get(swarm, "status"), "conditions");
  const auto find = [&](const std::string& type, bool is_true) -> const json* {
    for (const json& one : conditions) {
      if (conditions.is_array() && get_text(one, "type") == type &&
          (get_text(one, "status") == "True") == is_true)
        return &one;
    }
    return nullptr;
  };
  if (const json* stalled = find("Stalled", true)) return *stalled;
  if (const json* unready = find("Ready", false)) return *unready;
  for (const char* type : {"AgentsStuck", "BudgetExhausted", "MailboxPressure", "AgentExits"}) {
    if (const json* one = find(type, true)) return *one;
  }
  const json* ready = find("Ready", true);
  return ready != nullptr ? *ready : kNone;
}

std::string paragraph(const std::string& text, const std::vector<std::string>& next) {
  std::string out = text + "\nNext:\n";
  for (const std::string& one : next) {
    if (!one.empty()) out += "  " + one + "\n";
  }
  return out;
}

}  // namespace

std::string why_swarm(const json& swarm, const json& stats, WallTime now) {
  const std::string name = word(get(swarm, "metadata"), "name");
  const json& condition = worst_condition(swarm);
  const Reason reason = reason_of(condition);
  const std::string waits = backing_off(get(get(swarm, "status"), "tasks"), now);
  const std::string all = starved(get(stats, "tasks"));
  return paragraph(name + " is " + reason.word + " for " +
                       since(get_text(condition, "lastTransitionTime"), now) + ": " +
                       dash(reason.what) + (waits.empty() ? "" : " Besides, " + waits + ".") +
                       (all.empty() ? "" : " Besides, " + all + "."),
                   {reason.next.empty() ? "kubectl swarm describe " + name : reason.next});
}

std::string why_agent(const json& agent, const std::string& swarm) {
  const std::string name = word(agent, "name");
  const std::string state = word(agent, "state");
  const std::string task = shorten(get_text(agent, "task"), 128);
  std::string text =
      name + " is " + state +
      (agent.contains("sinceSeconds") ? " for " + age(get_number(agent, "sinceSeconds") * 1000)
                                      : "") +
      (task.empty() ? "" : " with " + task);
  if (state == "stuck") {
    text += ": no output and no CPU for " + stuck_cell(agent);
    return paragraph(text,
                     {"kubectl swarm logs task/" + task, "kubectl swarm cancel task/" + task});
  }
  if (state == "idle") {
    return paragraph(text + ": there is no task for it, or none is handed out",
                     {"kubectl swarm why " + swarm});
  }
  return paragraph(text,
                   {task.empty() ? "kubectl swarm describe agent/" + name + " --swarm " + swarm
                                 : "kubectl swarm why task/" + task});
}

std::string why_task(const json& task, const json& agents, const json& swarm, const json& stats,
                     WallTime now) {
  const std::string id = word(task, "id", 128);
  const std::string state = word(task, "state");
  const std::string logs = "kubectl swarm logs task/" + id;
  const json& history = get(task, "history");
  const bool tried = history.is_array() && !history.empty();
  std::string text = id + " is " + state;
  if (state == "running") {
    const std::string agent = get_text(task, "agent");
    text += (tried ? " for " + span(history.back(), now) : "") + " on " + word(task, "agent") +
            ", attempt " + number(task, "attempt") + " of " + number(task, "maxAttempts");
    for (const json& one : agents) {
      if (!agents.is_array()) break;
      if (get_text(one, "name") == agent && get_text(one, "state") == "stuck" &&
          get_text(one, "task") == get_text(task, "id")) {
        return paragraph(text + ", and stuck: no output and no CPU for " + stuck_cell(one),
                         {logs, "kubectl swarm cancel task/" + id});
      }
    }
    if (const std::string waits = waits_text(task); !waits.empty()) {
      const std::string all = starved(get(stats, "tasks"));
      return paragraph(
          text + ", and waits for " + waits + (all.empty() ? "" : "; " + all),
          {"kubectl swarm why task/" + shorten(get(task, "waitsFor")[0].get<std::string>(), 64)});
    }
    if (!get_text(task, "cycle").empty())
      text += "; a wait of it was refused, since it would have closed the cycle " +
              word(task, "cycle", kMaxWhy);
    if (get_number(task, "lastOutputAt") > 0)
      text += "; its last output, " + age(now - get_number(task, "lastOutputAt")) +
              " ago: " + word(task, "lastOutput", 200);
    return paragraph(text, {logs + " -f"});
  }
  if (state == "queued") {
    text += task.contains("createdAt") ? " for " + age(now - get_number(task, "createdAt")) : "";
    if (tried)
      text += "; attempt " + number(history.back(), "attempt") + " ended with " +
              word(history.back(), "reason") + ": " + word(task, "lastOutput", 200);
    const json& condition = worst_condition(swarm);
    const Reason reason = reason_of(condition);
    const std::string waits = backing_off(get(get(swarm, "status"), "tasks"), now);
    if (!waits.empty()) text += "; " + waits;
    if (const std::string all = starved(get(stats, "tasks")); !all.empty()) text += "; " + all;
    if (!condition.empty()) text += ". Its swarm is " + reason.word + ": " + reason.what;
    return paragraph(text, {reason.next.empty() ? "kubectl swarm get agents" : reason.next});
  }
  if (state == "done") return paragraph(text, {"kubectl swarm result task/" + id});
  text = id + " is " + failure(task);
  const std::vector<std::string> lines = last_lines(task);
  if (!lines.empty()) text += "; its last line: " + lines.back();
  return paragraph(text, {logs, "kubectl swarm retry task/" + id});
}

std::string top(const std::string& swarm, const json& stats, const json& agents, WallTime now) {
  const json& tasks = get(stats, "tasks");
  const json& rollout = get(stats, "rollout");
  const json& messages = get(stats, "messages");
  std::string out = "swarm " + swarm;
  if (!rollout.empty()) {
    out += "   V2 " + number(rollout, "effective") + "% (measured " + number(rollout, "measured") +
           "%)";
  }
  out += "\n";
  std::string line = "tasks ";
  for (const char* state : {"queued", "running", "done", "dead", "cancelled"}) {
    line += std::string(" ") + state + " " + number(tasks, state) + " ";
  }
  if (get_number(tasks, "queued") > 0 && tasks.contains("oldestQueuedSeconds")) {
    line += " oldest queued " + age(get_number(tasks, "oldestQueuedSeconds") * 1000);
  }
  line.erase(line.find_last_not_of(' ') + 1);
  out += line + "\n";
  if (const std::string waits = backing_off(tasks, now); !waits.empty())
    out += "wait   " + waits + "\n";
  if (const std::string all = starved(tasks); !all.empty()) out += "wait   " + all + "\n";
  if (!messages.empty()) {
    out += "mail   dead letters " + number(messages, "deadLetters") + "  single copy " +
           number(messages, "singleCopy") + "\n";
  }
  if (const json& usage = get(stats, "usage"); get_number(usage, "tasks") > 0)
    out += "cost   " + total_text(usage) + "\n";
  if (const json& pressed = get(messages, "pressed"); pressed.is_object()) {
    std::size_t shown = 0;
    for (const auto& [pod, why] : pressed.items()) {
      if (shown++ == kMaxPressedShown) break;
      out += "full   " + word(pressed, pod.c_str(), 200) + "\n";
    }
    if (pressed.size() > kMaxPressedShown)
      out += "full   and " + std::to_string(pressed.size() - kMaxPressedShown) + " more pods\n";
  }
  std::vector<const json*> sorted;
  std::size_t busy = 0;
  std::size_t stuck = 0;
  // Stuck ones first, then those at work.
  const auto rank = [](const json& agent) {
    const std::string state = get_text(agent, "state");
    return state == "stuck" ? 2 : state == "busy" ? 1 : 0;
  };
  for (const json& agent : agents) {
    if (!agents.is_array()) break;
    sorted.push_back(&agent);
    if (rank(agent) > 0) ++busy;
    if (rank(agent) > 1) ++stuck;
  }
  out += "agents " + std::to_string(sorted.size()) + ", busy " + std::to_string(busy) +
         (stuck > 0 ? ", stuck " + std::to_string(stuck) : "") + "\n\n";
  std::stable_sort(sorted.begin(), sorted.end(), [&](const json* a, const json* b) {
    const int rank_a = rank(*a);
    const int rank_b = rank(*b);
    if (rank_a != rank_b) return rank_a > rank_b;
    return rank_a > 0 && get_number(*a, "sinceSeconds") > get_number(*b, "sinceSeconds");
  });
  std::vector<Row> rows{agent_header(false)};
  for (std::size_t i = 0; i < std::min(sorted.size(), kTopAgents); ++i)
    rows.push_back(agent_row(*sorted[i], false));
  out += table(rows);
  if (sorted.size() > kTopAgents)
    out += "… and " + std::to_string(sorted.size() - kTopAgents) + " more\n";
  return out;
}

Result<bool> matches(const json& labels, const std::string& selector) {
  bool all = true;
  std::string left = selector;
  while (!left.empty()) {
    const std::size_t comma = left.find(',');
    std::string term = left.substr(0, comma);
    left = comma == std::string::npos ? "" : left.substr(comma + 1);
    const std::size_t equals = term.find('=');
    const Error wrong =
        invalid("-l " + selector + ": write for example -l team=a,stage!=done,urgent,!later");
    if (term.empty() || equals == 0) return wrong;
    if (equals == std::string::npos) {
      const bool absent = term[0] == '!';
      if (absent) term.erase(0, 1);
      if (term.empty()) return wrong;
      all = all && labels.contains(term) != absent;
      continue;
    }
    const bool unequal = term[equals - 1] == '!';
    const std::string name = term.substr(0, equals - (unequal ? 1 : 0));
    std::string value = term.substr(equals + 1);
    if (!value.empty() && value[0] == '=') value.erase(0, 1);  // ==
    if (name.empty()) return wrong;
    all = all && (labels.contains(name) && get_text(labels, name) == value) != unequal;
  }
  return all;
}

}  // namespace swarm::text
