// Whether a pod keeps refusing for lack of room, and how often to say so. No clock, I/O or threads.
#pragma once

#include <optional>
#include <string>

#include "os/time.h"

namespace swarm::engine {

// Said from kPressedAfter after the first refusal until kPressedFor after the last one: a burst
// that is over sooner is ordinary backpressure, of which nobody need hear.
inline constexpr Milliseconds kPressedAfter{5000}, kPressedFor{30000};
inline constexpr std::size_t kMaxPressedBytes = 200;  // of the reason

// Says of something that may happen all the time whether it is to be logged now.
inline constexpr Milliseconds kSeldom{10'000};
class Seldom {
 public:
  bool due(MonoTime now) {
    if (said_ && now - *said_ < kSeldom) return false;
    said_ = now;
    return true;
  }

 private:
  std::optional<MonoTime> said_;
};

class Refusals {
 public:
  void note(MonoTime now, const std::string& why) {
    if (why_.empty() || now - last_ >= kPressedFor) {
      why_ = why.substr(0, kMaxPressedBytes);
      first_ = now;
    }
    last_ = now;
  }
  // The first reason, so that the words stay the same; empty: it does not.
  [[nodiscard]] std::string pressed(MonoTime now) const {
    return last_ - first_ >= kPressedAfter && now - last_ < kPressedFor ? why_ : std::string();
  }

 private:
  std::string why_;
  MonoTime first_{}, last_{};
};

}  // namespace swarm::engine
