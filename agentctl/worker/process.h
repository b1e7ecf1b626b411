// Child processes: started in a group of their own, observed and ended together with everything
// they leave behind.
//
// agentctl is a subreaper: a process whose parent is gone becomes its child, so "all descendants"
// is all that a task has started, whatever group or session it has moved to. Threads: one; fork()
// needs a single-threaded process.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "os/time.h"
#include "worker/activity.h"
#include "worker/task_run.h"

namespace swarm::worker {

inline constexpr int kKillRounds =
    200;  // of 10 ms: how long descendants may take to die of SIGKILL

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept;
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool open() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_ = -1;
};

struct SpawnSpec {
  std::vector<std::string> argv;  // looked up in PATH; unused when `function` is set
  std::function<int()> function;  // runs in the forked child instead; its value is the exit code
  std::string directory;          // working directory
  std::map<std::string, std::string> environment;  // added to, or replacing, the own environment
  std::string stdin_path;                          // "" = /dev/null
};

struct Child {
  pid_t pid = -1;  // also the group's id
  Fd out;          // non-blocking
  Fd err;
};

// kNotFound: no such command (the message names it); kInternal: fork, pipes or exec failed.
Result<Child> spawn(const SpawnSpec& spec);

// Makes this process adopt orphans. False where the kernel refuses.
bool become_subreaper();

// True when `name` can be executed: found in PATH, or a path to an executable file.
bool can_execute(const std::string& name);

// Signals the group and every descendant outside it.
void signal_tree(pid_t group, int signal);
// SIGKILL to every descendant of this process until none is left; reaps them. The exit of `watched`
// is stored in *exit when it is met. kInternal: something survived (uninterruptible, or another
// user's).
Status kill_descendants(pid_t watched, Exit* exit);

struct Ended {
  pid_t pid = -1;
  Exit exit;
};
// Reaps what has ended.
std::vector<Ended> reap_ended();
// The same. True when `watched` was among it; then *exit is set.
bool reap(pid_t watched, Exit* exit);

// Of all descendants of this process, for CpuMeter.
std::vector<ProcessTime> process_times();

inline constexpr std::size_t kMaxLookedAt = 256;  // processes; and descriptors of each
inline constexpr std::size_t kMaxTcpTableBytes = 1U << 20U;

// What all descendants of this process wait for, as far as /proc lets us see. What belongs to
// another user is not seen.
Stillness look_at_descendants();

}  // namespace swarm::worker
