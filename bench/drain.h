// What the script drain does not do itself: fill an outbox, end its sidecar, read what it held.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "pair.h"

namespace swarm::bench {

// Sends `count` messages to worker-1 through the socket in `directory`.
int fill(const std::string& directory, std::uint32_t count, std::uint32_t run);
// SIGTERM to `pid`, a child of nobody here; prints the milliseconds until it has ended. Then
// worker-1's agent reads what fill() sent: every message once, in order.
int end(const Stage& stage, pid_t pid, std::uint32_t count, std::uint32_t run);
int drained(std::uint32_t count, const std::vector<double>& ms);

}  // namespace swarm::bench
