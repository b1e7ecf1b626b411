// What a set of processes has used, from clocks and /proc.
//
// Threads: any. Processes that have ended count as nothing: callers keep theirs alive while they
// compare.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace swarm::bench {

struct Usage {
  double cpu_seconds = 0;      // user and system, all threads
  std::uint64_t wake_ups = 0;  // voluntary context switches of the main threads
};

// System calls of processes, from the kernel's tracepoint, since it was made.
class Syscalls {
 public:
  explicit Syscalls(const std::vector<pid_t>& pids);
  ~Syscalls();
  Syscalls(const Syscalls&) = delete;
  Syscalls& operator=(const Syscalls&) = delete;
  // Nothing: this kernel, or who we are here, does not let us count.
  [[nodiscard]] std::optional<std::uint64_t> count() const;

 private:
  std::vector<int> counters_;  // one for each thread
};

Usage usage(const std::vector<pid_t>& pids);
double cpu_seconds(const std::vector<pid_t>& pids);
// Proportional set size: memory shared by k processes counts 1/k in each. Megabytes of 2^20 bytes.
double pss_megabytes(const std::vector<pid_t>& pids);
// Every process of this PID namespace whose /proc/PID/comm is `name`.
std::vector<pid_t> processes_named(const std::string& name);
// Those of `pids` that were started with `assignment` ("NAME=value") in their environment.
std::vector<pid_t> with_environment(const std::vector<pid_t>& pids, const std::string& assignment);

}  // namespace swarm::bench
