// Which pods to make and which to end: slots, backoff, victims, the rolling update. Internal to
// operator/plan; pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "plan/context.h"

namespace swarm::plan {

// Backoff of a slot whose pods fail: kFirstBackoff x 2^(n-1), at most kMaxBackoff; forgotten after
// kForgetFailures.
inline constexpr WallTime kFirstBackoff = 1'000;
inline constexpr WallTime kMaxBackoff = 300'000;
inline constexpr WallTime kForgetFailures = 600'000;
// How long a creation or dry run that was refused is left alone.
inline constexpr WallTime kRetryRefused = 30'000;
// Workers whose sidecar may hold copies are not taken away while a coordinator younger than this
// collects its tasks, nor while messages or tasks have a single copy and a pod is younger than
// this; a coordinator stays as long after its workers begin to end. Bounded, so that a swarm that
// cannot recover can still be changed. Not bounded where copies would go for good: a coordinator
// whose team has no agent is not updated while it holds tasks, nor is a worker while its
// coordinator is away.
inline constexpr WallTime kRecoveryWait = 60'000;
// For a worker's mail, which its new pod tells the receivers of at once. Mail to a name without a
// pod stays a single copy, and must not hold up an update at each step.
inline constexpr WallTime kMailRecoveryWait = 10'000;

// A pod that is there so long after its grace period is on a node that does not answer.
inline constexpr WallTime kOverdue = 15'000;

struct PodGate {
  bool create = true;  // pods may be made, and outdated ones replaced
  bool update = true;  // outdated pods may be replaced
};

struct PodsPlan {
  std::vector<DeletePod> deletes;
  std::vector<CreateObject> creates;
  std::optional<Problem> hold;        // an update that waits for a person
  std::vector<Problem> journals;      // pods that wait for the volume of theirs
  bool more = false;                  // limits cut the plan: look again at once
  std::optional<WallTime> again_at;   // the earliest of all backoffs and waits
  int surplus_coordinators_kept = 0;  // they still hold tasks
};

// gates: [coordinator, worker]. memory is brought up to date (failures seen).
PodsPlan plan_pods(const Context& context, const PodGate& coordinators, const PodGate& workers,
                   Memory& memory);

// The number of ready workers that a rolling update may take away: rounded up, at least 1.
int max_unavailable(const api::SwarmSpec& spec);

}  // namespace swarm::plan
