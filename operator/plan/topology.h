// How a swarm's agents are led: which shape, how many coordinators, why. Pure, thread-safe.
#pragma once

#include <string>

#include "api/swarm.h"

namespace swarm::plan {

struct Topology {
  std::string type;      // "Flat" or "Hybrid"
  int coordinators = 1;  // 1 to api::kMaxCoordinators
  std::string reason;    // for status.topology.reason
};

// Flat: one coordinator. Hybrid: ceil(agents / teamSize). Auto: Flat up to teamSize agents, Hybrid
// beyond. `fixed` is the number of coordinators that the Swarm was given first, 0 before that: it
// stays, since queues, results and workers belong to teams by number (docs/decisions/0006).
Topology resolve_topology(const api::SwarmSpec& spec, int fixed);

}  // namespace swarm::plan
