#pragma once

#include <array>
#include <cstddef>
#include <optional>

#include "mailbox/mailbox.h"

namespace swarm::mailbox {

constexpr std::array<int, kPriorities> kWeights{8, 3, 1};

// Whose turn it is among the priorities: of twelve messages eight are of high, three of normal and
// one of low priority; what a priority has no use for goes to the others. One that has something is
// passed over by at most two rounds of the others (22 messages), so none starves. Both directions
// use it: transmit() and receive().
class Turns {
 public:
  // The priority that is next among those for which ready(priority) is true.
  template <typename Ready>
  std::optional<std::size_t> next(const Ready& ready) {
    for (int round = 0; round < 2; ++round) {
      for (std::size_t priority = 0; priority < left_.size(); ++priority) {
        if (left_[priority] > 0 && ready(priority)) return priority;
      }
      left_ = kWeights;
    }
    return std::nullopt;
  }
  // It got its turn.
  void spend(std::size_t priority) { --left_[priority]; }

 private:
  std::array<int, kPriorities> left_{};
};

}  // namespace swarm::mailbox
