#include "engine/task_json.h"

#include <algorithm>

#include "engine/control_json.h"
#include "engine/usage_json.h"

namespace swarm::engine {
namespace {

constexpr std::size_t kPreviewBytes = 200;

std::string preview(const std::string& bytes) {
  auto cut = bytes.substr(0, kPreviewBytes);
  // Not through the middle of a character.
  while (!cut.empty() && cut.size() < bytes.size() &&
         (static_cast<unsigned char>(bytes[cut.size()]) & 0xC0U) == 0x80U)
    cut.pop_back();
  return printable(cut);
}

const char* version_name(tasks::Version v) {
  return v == tasks::Version::kV1 ? "V1" : v == tasks::Version::kV2 ? "V2" : "";
}

}  // namespace

json task_json(const tasks::Task& task, const std::vector<AgentName>& mirrors,
               const std::string& survives, bool brief) {
  json out{{"id", task.id.value},
           {"state", tasks::state_name(task.state)},
           {"key", printable(task.key)},
           {"labels", json::object()},
           {"version", version_name(task.route)},
           {"attempt", task.history.empty() ? 0U : task.history.back().number},
           {"maxAttempts", task.max_attempts},
           {"survives", survives},
           {"createdAt", task.created_at},
           {"updatedAt", task.updated_at},
           {"bodyBytes", task.body.size()},
           {"bodyPreview", preview(task.body)},
           {"mirrors", json::array()}};
  for (const auto& [k, v] : task.labels) out["labels"][printable(k)] = printable(v);
  for (const auto& m : mirrors) out["mirrors"].push_back(m.value);
  if (!task.history.empty()) {
    out["agent"] = task.history.back().agent.value;
    out["pod"] = task.history.back().pod;
  }
  if (task.last_output_at != 0) {
    out["lastOutput"] = printable(task.last_output);
    out["lastOutputAt"] = task.last_output_at;
  }
  if (task.cancel_requested) out["cancelRequested"] = true;
  if (!task.parent.empty()) {
    out["parent"] = task.parent.value;
    out["depth"] = task.depth;
  }
  if (task.usage.known()) out["usage"] = usage_json(task.usage);
  if (task.result) {
    out["result"] = {{"bytes", task.result->total_bytes},
                     {"preview", preview(task.result->bytes)},
                     {"truncated", task.result->truncated}};
    if (!task.result->branch.empty()) out["result"]["branch"] = printable(task.result->branch);
    if (!task.result->commit.empty()) out["result"]["commit"] = printable(task.result->commit);
  }
  out["reason"] = task.history.empty() ? "" : task.history.back().reason;
  out["history"] = json::array();
  for (const auto& a : task.history) {
    json entry{{"attempt", a.number},
               {"agent", a.agent.value},
               {"pod", a.pod},
               {"node", a.node},
               {"version", version_name(a.version)},
               {"startedAt", a.started_at},
               {"charged", a.charged},
               {"reason", a.reason}};
    if (a.ended_at != 0) entry["endedAt"] = a.ended_at;
    if (a.exit_code) entry["exitCode"] = *a.exit_code;
    if (a.usage.known()) {
      entry["usage"] = usage_json(a.usage);
      if (!a.cli_session.empty()) entry["usage"]["session"] = a.cli_session;
    }
    if (!brief) {
      entry["lastLines"] = json::array();
      for (const auto& line : a.last_lines) entry["lastLines"].push_back(printable(line));
    }
    out["history"].push_back(std::move(entry));
  }
  if (task.history_dropped > 0) out["historyDropped"] = task.history_dropped;
  return out;
}

void put_family(json& task, const std::vector<const tasks::Task*>& subtasks,
                const std::vector<TaskId>& waits, const std::string& cycle) {
  for (const auto* one : subtasks)
    task["subtasks"].push_back({{"id", one->id.value}, {"state", tasks::state_name(one->state)}});
  if (!waits.empty()) {
    task["waitsFor"] = json::array();
    for (std::size_t i = 0; i < std::min(waits.size(), kMaxWaitsShown); ++i)
      task["waitsFor"].push_back(waits[i].value);
    task["waitsForTasks"] = waits.size();
  }
  if (!cycle.empty()) task["cycle"] = cycle;
}

json ended_json(const TaskId& id, const tasks::Task* task, bool alone) {
  json out{{"id", id.value},
           {"state", task != nullptr ? tasks::state_name(task->state) : "expired"}};
  if (task == nullptr) return out;
  if (task->result) {
    out["bytes"] = task->result->total_bytes;
    out["truncated"] = task->result->truncated;
    out["preview"] = preview(task->result->bytes);
    if (alone && !task->result->branch.empty()) {
      out["branch"] = printable(task->result->branch);
      out["commit"] = printable(task->result->commit);
    }
  } else {
    out["reason"] = task->history.empty() ? "" : task->history.back().reason;
    out["message"] = preview(task->last_output);
  }
  return out;
}

}  // namespace swarm::engine
