// PID 1 of the sidecar container: restarts the engine in milliseconds after a crash, where the
// kubelet would wait 10 s to 5 min. Forwards signals, reaps orphans. Gives up to the kubelet after
// kMaxCrashes in kCrashWindow.
#pragma once

#include <string>

namespace swarm::supervisor {

inline constexpr int kMaxCrashes = 5;
inline constexpr int kCrashWindowSeconds = 60;

// Runs `program engine` until it ends after a SIGTERM (its exit code), cannot start (1) or has
// crashed too often (1).
int run(const std::string& program);

}  // namespace swarm::supervisor
