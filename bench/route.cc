#include "route.h"

#include <algorithm>

namespace swarm::bench {
namespace {

constexpr std::size_t kWindowBytes = 4U << 20U, kMaxWindow = 4096, kMinWindow = 64;

}  // namespace

std::size_t Route::window(std::size_t bytes) const {
  return std::clamp(kWindowBytes / bytes, kMinWindow, kMaxWindow);
}

void Route::send(Bodies bodies) {
  const auto limit = window(bodies.front().size());
  while (!bodies.empty()) {
    // Half a window at a time: the other half is under way meanwhile.
    const auto some = bodies.first(std::min(bodies.size(), std::max<std::size_t>(limit / 2, 1)));
    while (unconfirmed_ + some.size() > limit) unconfirmed_ -= wait();
    put(some);
    unconfirmed_ += some.size();
    bodies = bodies.subspan(some.size());
  }
}

void Route::await_confirmed() {
  while (unconfirmed_ > 0) unconfirmed_ -= wait();
}

}  // namespace swarm::bench
