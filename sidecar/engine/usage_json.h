// What attempts and tasks have cost, as the documents spell it (docs/socket-protocol.md,
// docs/task-api.md). For .cc files.
#pragma once

#include <nlohmann/json.hpp>

#include "tasks/tasks.h"

namespace swarm::engine {

// {"inputTokens", "outputTokens", "cacheReadTokens", "cacheCreationTokens", "costMicroUsd"}: what
// is known.
nlohmann::json usage_json(const tasks::Usage& usage);
// From outside: what is no whole number from 0 is absent, what is beyond the limit is the limit.
tasks::Usage usage_from(const nlohmann::json& object);

}  // namespace swarm::engine
