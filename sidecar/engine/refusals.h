// Whether a pod keeps refusing mail for lack of room. No clock, I/O or threads.
#pragma once

#include <string>

#include "os/time.h"

namespace swarm::engine {

// Said from kPressedAfter after the first refusal until kPressedFor after the last one: a burst
// that is over sooner is ordinary backpressure, of which nobody need hear.
inline constexpr Milliseconds kPressedAfter{5000}, kPressedFor{30000};
inline constexpr std::size_t kMaxPressedBytes = 200;  // of the reason

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
