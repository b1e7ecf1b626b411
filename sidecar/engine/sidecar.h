// The sidecar's engine: puts log, mailbox, links, tasks and HTTP together, runs them, and drains on
// SIGTERM.
#pragma once

#include "engine/config.h"

namespace swarm::engine {

// Runs until SIGTERM has been answered by a drain. The exit code of the process: 0 drained, 1 could
// not start.
int run(const Config& config);

}  // namespace swarm::engine
