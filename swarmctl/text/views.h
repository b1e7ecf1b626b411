// What the verbs print about tasks, agents and swarms, from the JSON of the task API and of the
// Swarm. Pure.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "os/time.h"
#include "text/format.h"

namespace swarm::text {

// TASK STATE ATTEMPT AGENT VERSION AGE LAST-OUTPUT RESULT; wide adds KEY POD LABELS.
Row task_header(bool wide);
Row task_row(const nlohmann::json& task, WallTime now, bool wide);
// NAME STATE TASK SINCE DONE NODE POD STUCK; wide adds ROLE TEAM VERSION INBOX OUTBOX before STUCK.
Row agent_header(bool wide);
Row agent_row(const nlohmann::json& agent, bool wide);
// A pod's entry as one for each of its agents; tasks are the pod's, so the first one has them.
std::vector<nlohmann::json> agents_of_pod(const nlohmann::json& pod);

// MESSAGE FROM TO STATE ATTEMPT BYTES AGE; wide adds PRIORITY STREAM.
Row message_header(bool wide);
Row message_row(const nlohmann::json& message, bool wide);
// A message that lies in its receiver's pod and, until the ack is recorded, in its sender's is
// shown once: as its receiver has it. The oldest first.
std::vector<nlohmann::json> messages_once(std::vector<nlohmann::json> messages);

bool is_final(const nlohmann::json& task);
// Why a task that is over has no result: "dead after 3 attempts: exit code 2 (failed)".
std::string failure(const nlohmann::json& task);
// The last lines of the last attempt.
std::vector<std::string> last_lines(const nlohmann::json& task);

std::string describe_task(const nlohmann::json& task, WallTime now);
std::string describe_agent(const nlohmann::json& agent, const std::string& swarm);
// `events`: the items of an EventList about this Swarm; `stats`: /v1/stats, or null, here and
// below.
std::string describe_swarm(const nlohmann::json& swarm, const nlohmann::json& events,
                           const nlohmann::json& stats, WallTime now);
// Why it is as it is: one paragraph, and the next commands. `agents`: those of its swarm, which
// know who is stuck; `swarm`: the resource, or null.
std::string why_task(const nlohmann::json& task, const nlohmann::json& agents,
                     const nlohmann::json& swarm, const nlohmann::json& stats, WallTime now);
std::string why_agent(const nlohmann::json& agent, const std::string& swarm);
std::string why_swarm(const nlohmann::json& swarm, const nlohmann::json& stats, WallTime now);
// The page of `top`: `stats` is /v1/stats, `agents` /v1/agents.
std::string top(const std::string& swarm, const nlohmann::json& stats, const nlohmann::json& agents,
                WallTime now);

// labels {"a":"b"} against "a=b,c!=d,e,!f". kInvalid: not such a selector.
Result<bool> matches(const nlohmann::json& labels, const std::string& selector);

}  // namespace swarm::text
