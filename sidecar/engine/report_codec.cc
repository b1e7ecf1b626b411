#include <array>

#include "base/encoding.h"
#include "engine/control_json.h"
#include "engine/usage_json.h"
#include "engine/worker.h"

namespace swarm::engine {
namespace {

constexpr std::array<std::pair<tasks::FailKind, const char*>, 7> kKinds{
    {{tasks::FailKind::kFailed, "failed"},
     {tasks::FailKind::kBadTask, "bad_task"},
     {tasks::FailKind::kTryLater, "try_later"},
     {tasks::FailKind::kTimeout, "timeout"},
     {tasks::FailKind::kIdleTimeout, "idle_timeout"},
     {tasks::FailKind::kCancelled, "cancelled"},
     {tasks::FailKind::kReleased, "released"}}};

}  // namespace

std::string encode_report(std::uint64_t request, const tasks::Report& report) {
  json head{{"request", request},
            {"id", report.id.value},
            {"attempt", report.attempt},
            {"done", report.done}};
  for (const auto& [kind, name] : kKinds) {
    if (kind == report.kind) head["kind"] = name;
  }
  if (!report.leased) head["leased"] = false;
  if (!report.taken) head["taken"] = false;
  if (report.exit_code) head["exitCode"] = *report.exit_code;
  head["message"] = printable(report.message);
  head["lastLines"] = json::array();
  for (const auto& line : report.last_lines) head["lastLines"].push_back(printable(line));
  head["truncated"] = report.result.truncated;
  head["totalBytes"] = report.result.total_bytes;
  if (report.usage.known()) {
    head["usage"] = usage_json(report.usage);
    if (!report.session.empty()) head["usage"]["session"] = report.session;
  }
  head["branch"] = printable(report.result.branch);
  head["commit"] = printable(report.result.commit);
  return control(head, report.result.bytes);
}

Result<tasks::Report> decode_report(std::string_view payload, std::uint64_t* request) {
  auto parsed = parse_control(payload);
  if (!parsed) return parsed.error();
  const json& head = parsed->head;
  tasks::Report report;
  *request = number_of(head, "request");
  report.id.value = text_of(head, "id");
  if (!is_task_id(report.id.value)) return invalid("a report of what is not a task's id");
  report.attempt = static_cast<std::uint32_t>(number_of(head, "attempt"));
  report.done = flag_of(head, "done");
  report.leased = flag_of(head, "leased", true);
  report.taken = flag_of(head, "taken", true);
  const auto kind = text_of(head, "kind", "failed");
  bool known = false;
  for (const auto& [value, name] : kKinds) {
    if (kind == name) {
      report.kind = value;
      known = true;
    }
  }
  if (!known)
    return invalid(
        "kind must be failed, bad_task, try_later, timeout, idle_timeout, cancelled or released");
  if (head.contains("exitCode") && head["exitCode"].is_number_integer())
    report.exit_code = head["exitCode"].get<int>();
  report.message = tasks::clipped(text_of(head, "message"), tasks::kMaxLineBytes);
  if (const auto lines = head.find("lastLines"); lines != head.end() && lines->is_array()) {
    for (const auto& line : *lines) {
      if (line.is_string() && report.last_lines.size() < tasks::kMaxLastLines) {
        report.last_lines.push_back(
            tasks::clipped(line.get_ref<const std::string&>(), tasks::kMaxLineBytes));
      }
    }
  }
  // Whatever it says: what an attempt has cost is no reason to refuse its outcome.
  if (const auto usage = head.find("usage"); usage != head.end() && usage->is_object()) {
    report.usage = usage_from(*usage);
    report.session = text_of(*usage, "session");
    if (!is_message_id(report.session)) report.session.clear();
  }
  report.result.bytes = parsed->bytes;
  report.result.truncated = flag_of(head, "truncated");
  report.result.total_bytes = number_of(head, "totalBytes", parsed->bytes.size());
  report.result.branch = text_of(head, "branch");
  report.result.commit = text_of(head, "commit");
  return report;
}

}  // namespace swarm::engine
