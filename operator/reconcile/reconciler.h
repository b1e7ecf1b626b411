// Looks at one Swarm: observe, plan, perform. Level-based: what happened does not matter, only what
// is.
//
// Threads: one. Ownership: borrows what the constructor gets.
#pragma once

#include <map>
#include <optional>
#include <stop_token>

#include "plan/plan.h"
#include "reconcile/executor.h"
#include "reconcile/queue.h"
#include "reconcile/world.h"

namespace swarm::reconcile {

// When to look again.
struct Next {
  enum class Kind { kNothing, kAfter, kFailed, kForget, kStopped } kind = Kind::kNothing;
  Milliseconds after{0};                    // kAfter
  std::optional<Milliseconds> retry_after;  // kFailed
  std::string why;
  int writes = 0;
};

class Reconciler {
 public:
  Reconciler(World& world, Executor& executor);

  Next reconcile(const Key& key, const plan::Settings& settings, const std::stop_token& stop);

 private:
  void say_what_was_dropped(const Key& key);

  World& world_;
  Executor& executor_;
  std::map<Key, SwarmMemory> memories_;
};

}  // namespace swarm::reconcile
