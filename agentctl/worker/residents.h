// `agentctl run`: several resident agents in one container, each a process of its own with a name
// of its own, started again when it fails. What they print goes on with their name in front of each
// line.
//
// Threads: one. Nothing that an agent has started survives the end of this process, and nothing of
// its group the end of the agent.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "os/time.h"

namespace swarm::worker {

inline constexpr Milliseconds kRestartFirst{1000}, kRestartMost{60'000};
// An agent that has lived so long begins anew with the shortest pause.
inline constexpr Milliseconds kSettled{60'000};
inline constexpr std::size_t kMostLineBytes = 16384;       // longer ones go on as several
inline constexpr std::size_t kMostUnwrittenBytes = 65536;  // then nobody's output is read

struct RunOptions {
  std::vector<std::string> command;
  AgentName pod;  // the first agent's name
  std::uint32_t count = 1;
  Milliseconds grace{10'000};  // from SIGTERM to SIGKILL
};

// The exit code: 0 when all have ended with 0, or were asked to end.
int run_residents(const RunOptions& options);

}  // namespace swarm::worker
