// The operator's planner: what to do about one Swarm, from what was seen.
//
// Purpose: plan(swarm, observed, settings, now) -> actions, one status write, events, when to look
// again. Threads: pure functions over values; call from anywhere. No I/O, no clock, no randomness,
// never throws. Invariants (plan_test.cc proves them over random worlds):
//   - no action ever names an object whose owner is another Swarm UID;
//   - applied to the world it saw, a plan never makes more than one live pod for a slot, nor more
//   live worker pods than
//     workers.replicas; a rolling update never takes more than maxUnavailable ready workers away;
//   - no rolling update takes the last pod that holds an accepted task;
//   - with journals, no pod is made beside another one of its slot that has the same claim, nor
//   before the claim; no claim is ever deleted;
//   - a converged world gets no action and no status.
// Not: an executor. operator/reconcile fills Observed, performs the actions in order (Conflict and
// NotFound on deletes count as done), then writes the status, then the events: pod_events() of what
// was done and those of the plan.
//
// What the shell keeps per Swarm between two calls: Observed::memory (store Plan::memory whether or
// not the actions succeeded), Observed::dry_runs, Observed::create_failure and Observed::failing.
// All of it may be lost with the process.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "api/swarm.h"
#include "os/time.h"

namespace swarm::plan {

// ---- Names and numbers of docs/pod-layout.md.

inline constexpr std::string_view kSwarmLabel = "cfn.dev/swarm";
inline constexpr std::string_view kRoleLabel = "cfn.dev/role";
inline constexpr std::string_view kSlotLabel = "cfn.dev/slot";
inline constexpr std::string_view kTeamLabel = "cfn.dev/team";
inline constexpr std::string_view kRevisionLabel = "cfn.dev/revision";
inline constexpr std::string_view kManagedByLabel = "app.kubernetes.io/managed-by";
inline constexpr std::string_view kManagedBy = "swarm-operator";
inline constexpr std::string_view kHashAnnotation = "cfn.dev/spec-hash";
inline constexpr std::string_view kDeletionCostAnnotation =
    "controller.kubernetes.io/pod-deletion-cost";
inline constexpr std::string_view kSidecarContainer = "cfn-sidecar";
inline constexpr std::string_view kLogVolume = "cfn-log";
inline constexpr std::string_view kClaimKind = "PersistentVolumeClaim";

// Raised by hand when pods must be made anew because their layout changed: it is part of every
// revision.
inline constexpr int kPodLayout = 1;
inline constexpr int kMinKubernetesMinor = 29;  // native sidecars

// Limits of one plan; what is left over comes with the next one, at once.
inline constexpr int kMaxPodCreatesPerPlan = 200;
inline constexpr int kMaxPodDeletesPerPlan = 200;
// Creation cap of one swarm per minute: kCreationsPerMinuteBase + 2 x desired pods. A guard against
// a loop in us.
inline constexpr int kCreationsPerMinuteBase = 60;

// ---- What was seen.

struct ContainerView {
  std::string name;
  bool init = false;  // from initContainerStatuses (the sidecar is one)
  bool ready = false;
  bool running = false;
  int restart_count = 0;
  std::string waiting_reason;   // state.waiting.reason: ErrImagePull, CrashLoopBackOff, …
  std::string waiting_message;  // state.waiting.message
  std::optional<int>
      last_exit_code;       // lastState.terminated.exitCode (else state.terminated.exitCode)
  std::string last_reason;  // …reason: OOMKilled, Error, Completed
};

enum class PodPhase { kPending, kRunning, kSucceeded, kFailed, kUnknown };

struct PodView {
  std::string name;
  std::string uid;
  std::string resource_version;
  std::string owner_uid;  // of the controller ownerReference; "" when there is none
  std::string role;       // label cfn.dev/role
  std::string slot;       // label cfn.dev/slot
  std::string team;       // label cfn.dev/team
  std::string revision;   // label cfn.dev/revision
  PodPhase phase = PodPhase::kPending;
  bool ready = false;        // condition Ready is True
  WallTime ready_since = 0;  // its lastTransitionTime (of either value; 0: no such condition)
  std::optional<WallTime> deletion_time;  // metadata.deletionTimestamp: when it is to be gone
  WallTime deletion_grace = 0;            // so much before, its end began
  WallTime creation_time = 0;
  std::string node;            // spec.nodeName; "" when not scheduled
  std::string sidecar_image;   // image of initContainers[cfn-sidecar]
  std::string claim;           // that its log is on; "" when that is in memory
  std::string status_reason;   // status.reason: Evicted, NodeLost, …
  std::string status_message;  // status.message
  std::string
      unschedulable_message;  // PodScheduled False, reason Unschedulable: its message, else ""
  int deletion_cost = 0;      // kDeletionCostAnnotation, 0 when absent or not a number
  std::vector<ContainerView> containers;  // init and regular
};

struct LeaseView {
  std::string name;
  std::string uid;
  std::string owner_uid;
  std::string resource_version;
  bool deleting = false;
  std::string holder;       // spec.holderIdentity
  std::string holder_uid;   // annotation cfn.dev/holder-uid: the pod's, whose name may come again
  WallTime renew_time = 0;  // 0: never
  WallTime acquire_time = 0;
  std::string report;  // annotation cfn.dev/report as it stands; "" when absent
};

// Services, Secrets, ServiceAccounts, Roles, RoleBindings, PodDisruptionBudgets, NetworkPolicies,
// PersistentVolumeClaims with the label cfn.dev/swarm=<name> in the Swarm's namespace; metadata is
// enough. (Secrets are not watched: metadata-only GETs of the two names. Say absent only when a GET
// said so.)
struct ChildView {
  std::string kind;
  std::string name;
  std::string uid;
  std::string owner_uid;
  std::string resource_version;
  std::string spec_hash;  // annotation kHashAnnotation
  bool deleting = false;
  std::string phase = {};  // of a claim: Pending, Bound, Lost
};

// The API server's last word on a DryRun action. Only a decision counts: 2xx is ok, 4xx (without
// 408, 409, 429) a refusal; anything else is not recorded and the action is retried with backoff.
struct DryRunResult {
  bool ok = false;
  int http_status = 0;
  std::string message;  // Status.message
  WallTime time = 0;
};

// The newest refused creation, kept until a creation of the same kind succeeds. 4xx without 409 and
// 429.
struct CreateFailure {
  std::string kind;  // of the object: "Pod", …
  std::string name;
  int http_status = 0;
  std::string reason;   // Status.reason: Forbidden, Invalid, …
  std::string message;  // Status.message
  WallTime time = 0;
};

// An action that did not succeed the last times, and is not a CreateFailure: an admission webhook
// that cannot be reached, a patch that is refused. Kept until nothing fails any more.
struct Failing {
  std::string what;     // "patching Role hello-coordinator"
  std::string message;  // the API server's words
  WallTime since = 0;
};
// Shown when it has lasted for so long: an API server that is only restarted heals before.
inline constexpr WallTime kFailingShown = 10'000;
// How often names that belong to somebody else are looked at again.
inline constexpr WallTime kNameRecheck = 3'000;

// The planner's own memory; opaque to the shell, which carries it from Plan::memory to the next
// Observed::memory.
struct Memory {
  struct SlotHistory {
    int failures = 0;  // consecutive
    WallTime last_failure = 0;
    std::string last_uid;  // the failed pod that was counted last
    friend bool operator==(const SlotHistory&, const SlotHistory&) = default;
  };
  std::map<std::string, SlotHistory> slots;
  // Pods made in the last minute (when, how many): the shell adds what it did, since a plan may be
  // cut short.
  std::vector<std::pair<WallTime, int>> creations;
  WallTime status_written = 0;
  WallTime counts_written = 0;
  WallTime pods_blocked_since = 0;  // creations refused since then; 0: not
  friend bool operator==(const Memory&, const Memory&) = default;
};

struct Observed {
  // False while the cache has not yet passed the shell's own writes of this Swarm: the plan is then
  // empty.
  bool settled = true;
  bool namespace_terminating = false;
  std::vector<PodView> pods;  // label cfn.dev/swarm=<name>, of any owner
  std::vector<LeaseView> leases;
  std::vector<ChildView> children;
  std::map<std::string, DryRunResult> dry_runs;  // by DryRun::revision
  std::optional<CreateFailure> create_failure;
  std::optional<Failing> failing;
  Memory memory;
};

struct Settings {
  std::string sidecar_image;
  std::string image_pull_policy = "IfNotPresent";  // of the sidecar
  // True on platforms that give every namespace its own uids (OpenShift): no fixed runAsUser,
  // runAsGroup, fsGroup.
  bool platform_assigns_ids = false;
  int kubernetes_major = 1;
  int kubernetes_minor = kMinKubernetesMinor;
};

// Whether that Kubernetes has what pods of Swarms need.
[[nodiscard]] bool supported(const Settings& settings);

// ---- What to do.

struct CreateObject {
  std::string kind;
  std::string name;
  std::string
      manifest;  // complete JSON; POST with fieldValidation=Strict. 409 of one of ours = done
  // Secrets: set stringData[key] to the hex of 32 fresh random bytes before the POST. Empty for
  // everything else.
  std::vector<std::string> random_keys = {};
  std::string slot = {};  // of a pod, for events
  friend bool operator==(const CreateObject&, const CreateObject&) = default;
};

struct PatchObject {
  std::string kind;
  std::string api_version;
  std::string name;
  std::string patch;  // JSON merge patch; carries metadata.uid and metadata.resourceVersion as
                      // preconditions
  friend bool operator==(const PatchObject&, const PatchObject&) = default;
};

// Both deletes: preconditions {uid, resourceVersion}; grace period left as it stands (never
// forced).
struct DeletePod {
  std::string name;
  std::string uid;
  std::string resource_version;
  std::string reason;      // one CamelCase word: Failed, Surplus, Outdated, Duplicate
  std::string slot = {};   // for events
  std::string cause = {};  // for events: "Evicted: The node was low on memory", "" when none
  friend bool operator==(const DeletePod&, const DeletePod&) = default;
};

struct DeleteObject {
  std::string kind;
  std::string api_version;
  std::string name;
  std::string uid;
  std::string resource_version;
  friend bool operator==(const DeleteObject&, const DeleteObject&) = default;
};

// POST with dryRun=All&fieldValidation=Strict; file the answer in Observed::dry_runs[revision].
struct DryRun {
  std::string revision;
  std::string name;
  std::string manifest;
  friend bool operator==(const DryRun&, const DryRun&) = default;
};

using Action = std::variant<CreateObject, PatchObject, DeletePod, DeleteObject, DryRun>;

struct Event {
  std::string type;  // "Normal" or "Warning"
  std::string reason;
  std::string message;
  friend bool operator==(const Event&, const Event&) = default;
};

struct Plan {
  std::vector<Action> actions;
  std::optional<api::SwarmStatus> status;  // nullopt: leave as it is
  std::vector<Event> events;               // of the status; for those of pods see pod_events()
  std::optional<std::chrono::milliseconds>
      requeue_after;  // nullopt: nothing to wait for but changes
  Memory memory;
};

Plan plan(const api::Swarm& swarm, const Observed& observed, const Settings& settings,
          WallTime now);

// The spec did not parse: Stalled with reason InvalidSpec and the errors, nothing else. `swarm` is
// from api::parse_metadata().
Plan plan_unreadable(const api::Swarm& swarm, std::string_view errors, const Memory& memory,
                     WallTime now);

// The API server refuses the operator what it must read: Stalled with its words, nothing else.
Plan plan_cut_off(const api::Swarm& swarm, std::string_view why, const Memory& memory,
                  WallTime now);

// What to tell about pods that were made and deleted: `done` are the actions that succeeded.
std::vector<Event> pod_events(const std::vector<const Action*>& done);

// For the DELETED watch event of a Swarm: what was dropped with it, from the last report of each
// team in observed.leases, also of those that are gone; nullopt when nothing was. Where one is
// missing, the status has a say, and the Event says so.
std::optional<Event> dropped_on_delete(const api::Swarm& swarm, const Observed& observed);

// For people: one line per action, then the status conditions, events, when it will look again.
std::string to_text(const Plan& plan);

}  // namespace swarm::plan
