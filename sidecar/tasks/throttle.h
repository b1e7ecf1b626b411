// When the service that agents call is short of capacity (exit code 75: a rate limit, an overload),
// the whole team waits, not each attempt for itself: exponential backoff with jitter, shared, then
// a slow start. A state machine without clock or I/O.
//
// Two attempts in a row that say "try later", none done between them, of different tasks and on
// different workers (if there are several), begin a wait: one task's own matter, or one worker's,
// holds up nobody. What was handed out before the wait says nothing new of the service. After it
// one task is handed out, then twice as many for each kRampStep; two more such begin a longer wait.
// One that is done ends it all; one that was begun before the wait makes the next wait a short one.
//
// Threads: none, one owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/ids.h"
#include "os/time.h"

namespace swarm::tasks {

inline constexpr Milliseconds kFirstWait{5000}, kMostWait{300'000};
inline constexpr Milliseconds kRampStep{5000};
inline constexpr std::uint32_t kRampSteps = 10;       // then there is no limit any more
inline constexpr Milliseconds kForgetAfter{600'000};  // the next wait is a short one again

class Throttle {
 public:
  // An attempt that was handed out at `since` (nullopt: by an earlier epoch) has ended so.
  // `workers`: how many there are. `random`: 64 random bits.
  void on_try_later(MonoTime now, std::optional<MonoTime> since, const TaskId& task,
                    const AgentName& worker, std::size_t workers, std::uint64_t random);
  void on_done(std::optional<MonoTime> since);

  [[nodiscard]] bool may_hand_out(MonoTime now) const;
  void on_handed_out(MonoTime now);
  // When it may next be, if not now.
  [[nodiscard]] std::optional<MonoTime> next(MonoTime now) const;

  // Fewer are handed out than could be: better those of which nothing is known yet.
  [[nodiscard]] bool limits(MonoTime now) const;
  // Set while the team waits.
  [[nodiscard]] std::optional<MonoTime> waits_until(MonoTime now) const;
  [[nodiscard]] std::uint32_t in_a_row() const { return in_a_row_; }

 private:
  [[nodiscard]] std::uint32_t steps(MonoTime now) const;
  [[nodiscard]] bool is_new(std::optional<MonoTime> since) const;

  TaskId first_task_;  // of those in a row since the last wait
  AgentName first_worker_;
  bool first_known_ = false, tasks_differ_ = false, workers_differ_ = false;
  std::uint32_t in_a_row_ = 0;             // "try later", since the last one that was done
  std::uint32_t waits_ = 0;                // in a row
  std::uint32_t handed_out_ = 0;           // since the last wait
  std::optional<MonoTime> begun_, until_;  // of the last wait
};

}  // namespace swarm::tasks
