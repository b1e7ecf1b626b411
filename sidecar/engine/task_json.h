// Tasks as the task API shows them (docs/task-api.md). For .cc files.
#pragma once

#include <nlohmann/json.hpp>

#include "tasks/tasks.h"

namespace swarm::engine {

// `brief`: as in lists, without the last lines of each attempt.
nlohmann::json task_json(const tasks::Task& task, const std::vector<AgentName>& mirrors,
                         const std::string& survives, bool brief);
// What is known of it beside itself: its subtasks, what it waits for (kMaxWaitsShown of that are
// named), and the cycle that it would have closed.
inline constexpr std::size_t kMaxWaitsShown = 20;
void put_family(nlohmann::json& task, const std::vector<const tasks::Task*>& subtasks,
                const std::vector<TaskId>& waits, const std::string& cycle);
// Of a task that somebody has waited for; null: it has expired since it ended.
// Many of them fit into a frame; `alone`: also the branch and the commit.
nlohmann::json ended_json(const TaskId& id, const tasks::Task* task, bool alone);

}  // namespace swarm::engine
