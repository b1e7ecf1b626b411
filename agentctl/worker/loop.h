// `agentctl work`: the shell around TaskRun. One poll() loop over the agent socket, the child's
// pipes, signals and the log; it never blocks on any of them, so a stuck reader of the log or a
// restarting engine can't delay a timeout.
//
// When the log's reader is slow, the child waits (its pipes are no longer read), not the loop.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "client/protocol.h"
#include "client/socket_client.h"
#include "os/time.h"
#include "worker/task_run.h"
#include "worker/usage.h"

namespace swarm::worker {

inline constexpr Milliseconds kTaskWait{30'000};       // one task_next
inline constexpr Milliseconds kTaskWaitSlack{10'000};  // until it is asked again
inline constexpr Milliseconds kAnswerWait{30'000};     // task_extend, task_done, task_fail
inline constexpr Milliseconds kComplainEvery{
    10'000};  // about a report or an engine that doesn't come through
inline constexpr Milliseconds kRestFirst{
    250};  // between tasks after a failure of this place, doubling
inline constexpr Milliseconds kRestMost{30'000};
inline constexpr std::size_t kLogBufferBytes =
    1U << 20U;  // not yet written to the log; then the child waits

struct WorkOptions {
  Settings settings;
  std::vector<std::string> command;
  std::string git;  // "" or URL[@REF]
  std::size_t max_output = agent::kDefaultResultBytes;
  std::optional<UsageOf> usage;  // whose JSON on CMD's standard output to read
  std::optional<Prices> prices;  // for a CLI that names no cost
  bool once = false;
  std::string agent;      // CFN_AGENT_ID
  std::string swarm;      // CFN_SWARM
  std::string temporary;  // $TMPDIR or /tmp
};

// Runs until SIGTERM, until the sidecar says that this pod ends, or (once) until one task is over.
// The process's exit code. Blocks SIGTERM, SIGINT, SIGCHLD for the whole process; call it once,
// with no other thread running.
int work(const WorkOptions& options, agent::SocketClient& socket);

}  // namespace swarm::worker
