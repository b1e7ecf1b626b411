// How a replacement coordinator collects its tasks from the workers: for how long, and how much of
// one worker at a time. What the copies mean is the engine's (tasks.h).
//
// A log that is known to be complete needs nobody. Else recovery waits for the workers of the last
// report, as long as they can be reached, for those that are just telling what they hold, and for
// some time for anybody when the last holder of the Lease has not told who its workers were. Then
// work goes on; but as long as one of them may still
// come with tasks that nobody here knows, an unknown id is not "not found", and what is listed is
// not all: awaits(). For the first part of that time a submission under an unknown idempotency id
// is not taken either: refuses_ids().
//
// Threads: none, one owner. No clock, no I/O: the caller says what time it is.
#pragma once

#include <cstddef>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "base/ids.h"
#include "os/time.h"

namespace swarm::tasks {

// For workers that do not come, from the start; for those that are telling, from the last word.
inline constexpr Milliseconds kRecoveryLimit{5000};
inline constexpr Milliseconds kMaxRecovery{60000};  // however much there is to tell
// For a worker of the last report that may be stopped or cut off and come back with its copies. It
// has nothing to do with when its leases end, so not with the health settings.
inline constexpr Milliseconds kAwaitLimit{60000};
// Of that, how long unknown idempotency ids are refused. Every client sends an id, so this is how
// long a team that lost a worker together with its coordinator takes no tasks: clients repeat for
// longer, and whoever comes later than this with a task of an id that was taken meanwhile meets the
// rule for two tasks of one id (tasks.h).
inline constexpr Milliseconds kRefuseIdsLimit{10000};
// Copies asked of one worker that it has not sent yet. It answers each at once, so the bytes are
// at most a quarter of what a link may have unsent.
inline constexpr std::size_t kPullWindowIds = 64;
inline constexpr std::size_t kPullWindowBytes = 4U << 20U;

// A worker that may hold copies. They went with its pod: another pod of the same name has none.
struct Expected {
  AgentName name;
  std::string pod;
  friend bool operator==(const Expected&, const Expected&) = default;
  friend bool operator<(const Expected& a, const Expected& b) {
    return std::tie(a.name, a.pod) < std::tie(b.name, b.pod);
  }
};

// What is known when the Lease is acquired. Epochs begin at 1; of one holder after the other they
// have no gaps.
struct Takeover {
  std::uint64_t epoch = 0;      // ours
  std::uint64_t log_epoch = 0;  // our log had all tasks in this epoch; 0: in none
  std::uint64_t report_epoch = 0;
  std::set<Expected> reported{};  // connected then, or awaited
};

class Gathering {
 public:
  Gathering() = default;  // nobody is expected
  // `unnamed`: others may come as well.
  Gathering(MonoTime now, std::set<Expected> expected, bool unnamed = false);
  Gathering(MonoTime now, const Takeover& takeover);

  void heard(MonoTime now);  // some worker has told a part of what it holds
  void came(const Expected& worker);
  // Nobody answers at its address: recovery does not wait for it, awaits() does.
  void unreachable(const Expected& worker);
  void reachable(const Expected& worker);
  // There are workers that nobody has named: for kRecoveryLimit from now they are awaited.
  void expect_unnamed(MonoTime now);

  // Recovery may end. `telling`: a worker is connected and has not told everything.
  [[nodiscard]] bool done(MonoTime now, bool telling) const;
  // Somebody may still bring tasks that are unknown here.
  [[nodiscard]] bool awaits(MonoTime now, bool telling) const;
  [[nodiscard]] bool refuses_ids(MonoTime now, bool telling) const;
  // Who has not come yet, for kAwaitLimit: with a complete log nobody waits for them here, but if
  // it is lost now the next coordinator does.
  [[nodiscard]] std::set<Expected> awaited(MonoTime now) const;
  // When one of these may change though nothing happens.
  [[nodiscard]] std::optional<MonoTime> next_deadline(MonoTime now) const;

 private:
  MonoTime begun_{}, heard_{}, unnamed_until_{};
  std::set<Expected> expected_, unreachable_;
  bool complete_ = false;
};

class PullWindow {
 public:
  // A copy that is wanted. 0 bytes: its size is unknown and counts as the largest there is.
  void want(const TaskId& id, std::size_t bytes);
  // What to ask for now, in the order of want().
  std::vector<TaskId> take();
  // The worker has answered, with the copy or that it has none. False: it was not asked.
  bool answered(const TaskId& id);
  [[nodiscard]] bool done() const { return waiting_.empty() && asked_.empty(); }

 private:
  std::deque<std::pair<TaskId, std::size_t>> waiting_;
  std::map<TaskId, std::size_t> asked_;
  std::size_t asked_bytes_ = 0;
};

}  // namespace swarm::tasks
