// What the operator has seen: Swarms, their pods, Leases and other children, kept current by
// informers.
//
// Threads: sinks are called by the informers' threads, everything else from any; one lock inside,
// never held while calling out. Views are immutable and shared, so that taking them costs no copies
// of pods. Not: Secrets. They are never listed or watched.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/swarm.h"
#include "kube/watch.h"
#include "plan/plan.h"
#include "reconcile/queue.h"

namespace swarm::reconcile {

// The watched kinds, in the order of start.
inline constexpr std::array kWatched = {
    kube::kSwarms,          kube::kPods,  kube::kLeases,       kube::kServices,
    kube::kServiceAccounts, kube::kRoles, kube::kRoleBindings, kube::kPodDisruptionBudgets,
    kube::kNetworkPolicies, kube::kClaims};
inline constexpr std::size_t kWatchedKinds = kWatched.size();
// Position in kWatched; nullopt for kinds that are not watched.
std::optional<std::size_t> watched_index(std::string_view kind);

struct SwarmEntry {
  api::Swarm swarm;    // metadata and status only when `errors` is not empty
  std::string errors;  // of the spec
};

struct DeletedSwarm {
  std::shared_ptr<const SwarmEntry> entry;
  // Each of its Leases as it was last seen with a report: when the garbage collector takes them,
  // and before or after the Swarm, does not matter.
  std::vector<plan::LeaseView> leases;
};

class World {
 public:
  // Told which Swarm has changed; urgent = its own object did. Called without the lock.
  using Notify = std::function<void(const Key& key, bool urgent)>;

  explicit World(Notify notify);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  // Borrowed; lives as long as the World.
  kube::WatchSink& sink(std::size_t watched);

  // Every kind has been listed at least once.
  [[nodiscard]] bool synced() const;
  // The view of this kind is at least as new as; 0 before the first list or when versions are not
  // numbers.
  [[nodiscard]] std::uint64_t version(std::size_t watched) const;

  [[nodiscard]] std::shared_ptr<const SwarmEntry> swarm(const Key& key) const;  // nullptr: none
  // The Swarms that were deleted and not taken yet under this key (made anew meanwhile: both are
  // there).
  std::vector<DeletedSwarm> take_deleted(const Key& key);
  // Pods, Leases and children with the Swarm's label.
  void observe(const Key& key, plan::Observed& out) const;

  [[nodiscard]] std::size_t swarms() const;
  [[nodiscard]] std::size_t pods() const;
  [[nodiscard]] std::vector<Key> keys() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace swarm::reconcile
