// The status and the events: what a person reads. Internal to operator/plan; pure.
//
// A status is written only when it differs from the one that stands, and not more often than it is
// worth: what somebody waits for (conditions, topology, revision, effective share) at once; numbers
// of ready pods every 2 s; counts and wording every 30 s, but at once when a count goes from or to
// zero.
#pragma once

#include <optional>
#include <vector>

#include "plan/context.h"
#include "plan/slots.h"

namespace swarm::plan {

inline constexpr WallTime kProgressDeadline = 600'000;  // a problem this old is Stalled
inline constexpr WallTime kCountsInterval = 30'000;
inline constexpr WallTime kReadyInterval = 2'000;
inline constexpr std::size_t kMaxMessageBytes = 2000;
inline constexpr int kExitsBeforeWarning =
    3;  // exits with 0 of a bare agent before condition AgentExits

// What stands in the way, as plan() found it.
struct Obstacles {
  std::optional<Problem> stall;  // cannot go on without a person: Stalled at once
  std::vector<Problem> holds;    // waits for something; Stalled after kProgressDeadline
};

struct StatusDecision {
  std::optional<api::SwarmStatus> status;
  std::vector<Event> events;
  std::optional<WallTime> again_at;
};

StatusDecision decide_status(const Context& context, const Obstacles& obstacles,
                             const PodsPlan& pods, Memory& memory);

// Conditions for a Swarm that cannot go on: `prior` with Ready False, Reconciling False, Stalled
// True.
std::vector<api::Condition> stalled_conditions(const api::SwarmStatus& prior,
                                               const Problem& problem, std::int64_t generation,
                                               WallTime now);

}  // namespace swarm::plan
