// Performs what the planner decided: actions in order, the status, the events. A patch that is
// refused does not keep pods from being replaced; any other failure ends the actions.
//
// It also keeps, per Swarm, what the shell must remember between two plans (plan.h, Observed): the
// planner's memory, dry runs, the last refused creation, what goes on failing, which Secrets exist,
// and its own writes.
//
// Read your writes: ready() is false while the view has not yet caught up with the writes made for
// this Swarm, so that nothing is created or deleted twice. A view that does not catch up within
// kViewPatience, or a write whose outcome is unknown, is settled by one consistent list of that
// kind.
//
// Threads: one (the reconciler's). Ownership: borrows everything given to the constructor.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <stop_token>
#include <string>

#include "kube/client.h"
#include "plan/plan.h"
#include "reconcile/world.h"

namespace swarm::reconcile {

inline constexpr Milliseconds kViewPatience{300'000};
inline constexpr Milliseconds kSecretsRecheck{300'000};
// Of names that belong to somebody else: a Swarm made anew waits for the old one's objects to go.
inline constexpr Milliseconds kForeignRecheck{plan::kNameRecheck};
// One Swarm does not keep the others waiting: what is left of a plan after this is planned again.
inline constexpr Milliseconds kMaxActTime{2'000};
inline constexpr Milliseconds kNamespaceRecheck{300'000};
inline constexpr std::size_t kMaxDryRunsKept = 8;
inline constexpr std::size_t kMaxEventsPerPlan = 25;
inline constexpr std::size_t kMaxEventCountsKept = 4096;

// How the executor asks for a consistent list of a watched kind and learns that it is there.
class Lists {
 public:
  virtual ~Lists() = default;
  virtual std::uint64_t relist(std::size_t watched) = 0;
  [[nodiscard]] virtual std::uint64_t completed(std::size_t watched) const = 0;
};

// The shell's memory of one Swarm (by UID: a Swarm made anew begins anew).
struct SwarmMemory {
  struct OwnWrites {
    std::uint64_t highest = 0;            // resourceVersion
    MonoTime last{};                      // when
    std::optional<std::uint64_t> ticket;  // of the list that settles it
  };
  struct Secret {
    std::optional<plan::ChildView> view;  // nullopt: a GET said that there is none
    MonoTime seen{};
  };
  struct Foreign {
    std::optional<plan::ChildView> child;  // what else has the name; of any kind but Lease
    std::optional<plan::LeaseView> lease;
    MonoTime seen{};
  };

  std::string uid;
  plan::Memory plan;
  std::map<std::string, plan::DryRunResult> dry_runs;
  std::optional<plan::CreateFailure> create_failure;
  std::optional<plan::Failing> failing;
  std::optional<MonoTime> namespace_terminating;
  std::map<std::string, Secret> secrets;
  std::map<std::string, Foreign> foreign;       // by kind/name
  std::map<std::size_t, OwnWrites> own_writes;  // by watched kind
  std::set<std::string> deleted_pods;           // UIDs, until the view shows it
};

struct Outcome {
  bool ok = true;
  bool stopped = false;     // not the leader any more, or shutting down
  bool view_stale = false;  // somebody else wrote meanwhile: soon again, not a failure
  bool more = false;        // cut off by kMaxActTime: again when others had their turn
  bool uncertain = false;   // !ok, but it may have happened all the same
  bool refused = false;     // !ok: the API server's decision, which will be the same next time
  std::optional<Milliseconds> retry_after;
  std::string why;
  int writes = 0;
};

class Executor {
 public:
  Executor(kube::Client& client, const World& world, Lists& lists, std::string instance);

  // True: the view has passed this Swarm's own writes. May ask for a list.
  bool ready(SwarmMemory& memory, const api::Swarm& swarm, const std::vector<plan::PodView>& pods,
             MonoTime now);

  // Fills in everything of Observed that the World does not know. Reads Secrets' metadata; fails if
  // that is not possible.
  Outcome complete(SwarmMemory& memory, const api::Swarm& swarm, plan::Observed& observed,
                   const std::stop_token& stop);

  Outcome perform(SwarmMemory& memory, const api::Swarm& swarm, const plan::Plan& plan,
                  const std::stop_token& stop);

  // Best effort: an Event that cannot be written is logged and dropped.
  void emit(const api::Swarm& swarm, const plan::Event& event);

 private:
  // Looks again at a name that was somebody else's; false: that is not possible now.
  bool look_again(SwarmMemory& memory, const api::Swarm& swarm, const std::string& id,
                  const std::stop_token& stop);
  void note_failure(SwarmMemory& memory, const Outcome& one);
  Outcome act(SwarmMemory& memory, const api::Swarm& swarm, const plan::Action& action);
  Outcome create(SwarmMemory& memory, const api::Swarm& swarm, const plan::CreateObject& action);
  Outcome taken(SwarmMemory& memory, const api::Swarm& swarm, const plan::CreateObject& action,
                const kube::Resource& resource);
  Outcome patch(SwarmMemory& memory, const api::Swarm& swarm, const plan::PatchObject& action);
  Outcome delete_pod(SwarmMemory& memory, const api::Swarm& swarm, const plan::DeletePod& action);
  Outcome delete_object(SwarmMemory& memory, const api::Swarm& swarm,
                        const plan::DeleteObject& action);
  Outcome dry_run(SwarmMemory& memory, const api::Swarm& swarm, const plan::DryRun& action);
  Outcome write_status(SwarmMemory& memory, const api::Swarm& swarm,
                       const api::SwarmStatus& status);
  Outcome failed(SwarmMemory& memory, const kube::Reply& reply, std::string_view kind,
                 const std::string& what);
  void wrote(SwarmMemory& memory, std::string_view kind, const std::string& resource_version);
  void uncertain(SwarmMemory& memory, std::string_view kind);

  kube::Client& client_;
  const World& world_;
  Lists& lists_;
  const std::string instance_;
  std::map<std::string, std::int64_t> event_counts_;
};

}  // namespace swarm::reconcile
