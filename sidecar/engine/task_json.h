// Tasks as the task API shows them (docs/task-api.md). For .cc files.
#pragma once

#include <nlohmann/json.hpp>

#include "tasks/tasks.h"

namespace swarm::engine {

// `brief`: as in lists, without the last lines of each attempt.
nlohmann::json task_json(const tasks::Task& task, const std::vector<AgentName>& mirrors,
                         const std::string& survives, bool brief);

}  // namespace swarm::engine
