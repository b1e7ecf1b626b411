// What every part of the planner works on: the observation, sorted by slot. Internal to
// operator/plan.
//
// Threads: values and references of one call of plan(). Ownership: refers to the arguments of
// plan(), which outlive it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "plan/plan.h"
#include "plan/topology.h"

namespace swarm::plan {

enum class Role { kCoordinator, kWorker };
std::string_view role_name(Role role);        // "coordinator", "worker"
std::string slot_name(Role role, int index);  // "worker-17"
// The index of a slot of this role, nullopt when the label is of another role or not a slot at all.
std::optional<int> slot_index(Role role, std::string_view slot);

// The pods of one slot. Live: neither terminating nor ended. Sorted: the one to keep first.
struct SlotPods {
  std::vector<const PodView*> live;
  std::vector<const PodView*> terminating;
  std::vector<const PodView*> ended;  // phase Failed or Succeeded and not terminating
};

// Something in the way, in words for a person.
struct Problem {
  std::string reason;  // CamelCase
  std::string what;    // what is, without a full stop
  std::string next;    // the remedy, without a full stop
  WallTime since = 0;  // when it began; 0: just now
};

struct Context {
  Context(const api::Swarm& swarm_object, const Observed& seen, const Settings& config,
          WallTime time);

  const api::Swarm& swarm;
  const Observed& observed;
  const Settings& settings;
  WallTime now;

  Topology topology;
  int workers_wanted = 0;
  std::string worker_revision;
  std::string coordinator_revision;
  std::string revision;       // of both
  std::string sidecar_image;  // of every pod made now

  std::map<int, SlotPods> workers;
  std::map<int, SlotPods> coordinators;
  // Ours and live, but with no slot that we could have given, or with the journal of another one.
  std::vector<const PodView*> slotless;
  std::map<int, api::TeamReport>
      reports;  // by team; only from Leases of this Swarm that can be read
  std::map<std::string, const api::WorkerReport*> worker_reports;  // by slot

  [[nodiscard]] const std::string& revision_of(Role role) const {
    return role == Role::kWorker ? worker_revision : coordinator_revision;
  }
  [[nodiscard]] const std::map<int, SlotPods>& slots(Role role) const {
    return role == Role::kWorker ? workers : coordinators;
  }
  [[nodiscard]] bool is_outdated(const PodView& pod, Role role) const;
  // Coordinators of teams that the topology no longer has.
  [[nodiscard]] bool is_surplus_coordinator(int index) const {
    return index >= topology.coordinators;
  }
  // True only when a report says so of this very pod.
  [[nodiscard]] bool is_idle(const PodView& pod) const;
};

// The team that a Lease "S-team-3" belongs to, nullopt for other names.
std::optional<int> team_of_lease(const api::Swarm& swarm, std::string_view lease);
std::string lease_name(const api::Swarm& swarm, int team);

// True when the sidecar's image of this pod cannot be had.
bool sidecar_image_fails(const PodView& pod);
bool is_image_failure(std::string_view waiting_reason);

// "worker-1, worker-2, worker-3 and 4 more": at most kNamesInMessage names.
inline constexpr int kNamesInMessage = 3;
std::string some_names(const std::vector<std::string>& names);
// Cut to at most `limit` bytes at a character's border, "…" at the end when cut; not UTF-8 becomes
// "?".
std::string shorten(std::string_view text, std::size_t limit);
std::string clock_text(WallTime time);  // "10:42:07Z"
// "1 task", "3 tasks"
std::string count_of(std::int64_t n, std::string_view noun);

inline constexpr std::size_t kMaxForeignTextBytes =
    400;  // of somebody else's words in our messages

}  // namespace swarm::plan
