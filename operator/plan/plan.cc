#include "plan/plan.h"

#include <algorithm>
#include <array>
#include <type_traits>

#include "plan/children.h"
#include "plan/claims.h"
#include "plan/context.h"
#include "plan/pod.h"
#include "plan/slots.h"
#include "plan/status.h"

namespace swarm::plan {
namespace {

constexpr std::size_t kMaxShownErrors = 5;
constexpr WallTime kUnsettledWait = 1'000;

bool is_quota(std::string_view message) {
  return message.find("exceeded quota") != std::string_view::npos;
}
bool is_terminating(std::string_view message) {
  return message.find("because it is being terminated") != std::string_view::npos;
}

std::string quoted(std::string_view words) {
  std::string text = shorten(words, kMaxForeignTextBytes);
  while (!text.empty() && (text.back() == '.' || text.back() == '\n' || text.back() == ' ')) {
    text.pop_back();
  }
  return text;
}

Problem refusal(std::string_view who, const std::string& words) {
  return {"PodRefused", "The API server refuses the " + std::string(who) + " pod: " + quoted(words),
          "correct the template (or the namespace's rules); the operator asks again every " +
              std::to_string(kRetryRefused / 1000) + " s",
          0};
}

// The state of one role before its pods are made.
struct RoleState {
  std::vector<std::string> template_errors;
  bool proven = false;             // pods of this revision are accepted, as far as is known
  std::optional<Problem> refused;  // by a dry run
  std::optional<DryRun> ask;
};

RoleState examine(const Context& context, Role role, bool may_ask, std::optional<WallTime>& again) {
  RoleState state;
  state.template_errors = check_template(context.swarm.spec, role);
  if (!state.template_errors.empty()) return state;
  const std::string& revision = context.revision_of(role);
  if (role == Role::kWorker && context.workers_wanted == 0) {
    state.proven = true;
    return state;
  }
  for (const auto& [index, slot] : context.slots(role)) {
    for (const PodView* pod : slot.live) state.proven = state.proven || pod->revision == revision;
  }
  if (state.proven) return state;

  const auto answer = context.observed.dry_runs.find(revision);
  bool ask = answer == context.observed.dry_runs.end();
  if (!ask) {
    // Quota comes last in admission: everything else was fine, and quota may be free by the time.
    state.proven = answer->second.ok || is_quota(answer->second.message);
    if (state.proven) return state;
    state.refused = refusal(role_name(role), answer->second.message);
    const WallTime due = answer->second.time + kRetryRefused;
    ask = context.now >= due;
    if (!ask) again = again ? std::min(*again, due) : due;
  }
  if (ask && may_ask) {
    const std::string name = pod_name(context.swarm, role, 0, "dry-run");
    state.ask = DryRun{revision, name, PodMaker(context, role).manifest(0, name)};
  }
  return state;
}

bool exists(const Observed& observed, const std::string& kind, const std::string& name) {
  if (kind == "Lease") {
    return std::any_of(observed.leases.begin(), observed.leases.end(),
                       [&](const LeaseView& one) { return one.name == name; });
  }
  return std::any_of(observed.children.begin(), observed.children.end(),
                     [&](const ChildView& one) { return one.kind == kind && one.name == name; });
}

// What the last refused creation means.
void judge_failure(const Context& context, Memory& memory, bool& terminating,
                   Obstacles& obstacles) {
  const auto& failure = context.observed.create_failure;
  if (!failure) {
    memory.pods_blocked_since = 0;
    return;
  }
  if (is_terminating(failure->message)) {
    terminating = true;
    return;
  }
  const bool claim_over_quota = failure->kind == kClaimKind && is_quota(failure->message);
  if (failure->kind != "Pod" && !claim_over_quota) {
    if (exists(context.observed, failure->kind, failure->name)) return;
    obstacles.stall = Problem{"ObjectRefused",
                              "The API server refuses " + failure->kind + " " + failure->name +
                                  ": " + quoted(failure->message),
                              "check the operator's rights and the namespace's quota; the operator "
                              "asks again",
                              0};
    return;
  }
  if (memory.pods_blocked_since == 0) memory.pods_blocked_since = failure->time;
  if (is_quota(failure->message)) {
    obstacles.holds.push_back({"QuotaExceeded",
                               "No more pods since " + clock_text(memory.pods_blocked_since) +
                                   ": " + quoted(failure->message),
                               "raise the quota or lower spec.workers.replicas",
                               memory.pods_blocked_since});
    return;
  }
  obstacles.stall = refusal("next", failure->message);
}

// The number of pods that are wanted and not there.
int missing_pods(const Context& context) {
  int live_workers = 0;
  for (const auto& [index, slot] : context.workers) live_workers += slot.live.empty() ? 0 : 1;
  int live_coordinators = 0;
  for (const auto& [index, slot] : context.coordinators) {
    live_coordinators += slot.live.empty() || context.is_surplus_coordinator(index) ? 0 : 1;
  }
  return std::max(0, context.workers_wanted - live_workers) +
         std::max(0, context.topology.coordinators - live_coordinators);
}

// Since when the conditions have named this problem; now when they do not.
WallTime named_since(const api::Swarm& swarm, const std::string& reason, WallTime now) {
  WallTime since = 0;
  for (const api::Condition& one : swarm.status.conditions) {
    if (one.status != "True" || one.reason != reason) continue;
    if (one.type == "Reconciling") since = std::max(since, one.last_transition);
    // Already Stalled: older than the deadline.
    if (one.type == "Stalled")
      since = std::max<WallTime>(1, one.last_transition - kProgressDeadline);
  }
  return since == 0 ? now : since;
}

void wake(Plan& plan, std::optional<WallTime> at, WallTime now) {
  if (!at) return;
  const std::chrono::milliseconds wait(std::max<WallTime>(0, *at - now));
  plan.requeue_after = plan.requeue_after ? std::min(*plan.requeue_after, wait) : wait;
}

void finish(Plan& plan, const Context& context, const Obstacles& obstacles, const PodsPlan& pods) {
  StatusDecision decision = decide_status(context, obstacles, pods, plan.memory);
  plan.status = std::move(decision.status);
  plan.events = std::move(decision.events);
  wake(plan, decision.again_at, context.now);
}

}  // namespace

bool supported(const Settings& settings) {
  return settings.kubernetes_major > 1 ||
         (settings.kubernetes_major == 1 && settings.kubernetes_minor >= kMinKubernetesMinor);
}

Plan plan(const api::Swarm& swarm, const Observed& observed, const Settings& settings,
          WallTime now) {
  Plan out;
  out.memory = observed.memory;
  if (swarm.deletion_time || swarm.uid.empty()) return out;  // the garbage collector has the word
  if (!observed.settled) {
    wake(out, now + kUnsettledWait, now);
    return out;
  }

  const Context context(swarm, observed, settings, now);
  Obstacles obstacles;
  PodsPlan pods;
  if (!supported(settings)) {
    obstacles.stall =
        Problem{"UnsupportedKubernetes",
                "This cluster is Kubernetes " + std::to_string(settings.kubernetes_major) + "." +
                    std::to_string(settings.kubernetes_minor) + "; at least 1." +
                    std::to_string(kMinKubernetesMinor) + " is needed (native sidecars)",
                "upgrade the cluster", 0};
    finish(out, context, obstacles, pods);
    return out;
  }

  bool terminating = observed.namespace_terminating;
  judge_failure(context, out.memory, terminating, obstacles);
  const auto& failure = observed.create_failure;
  const bool for_pods = failure && (failure->kind == "Pod" || failure->kind == kClaimKind);
  const bool no_journals = failure && failure->kind == kClaimKind && !has_journals(swarm.spec);
  if (no_journals || (for_pods && missing_pods(context) == 0)) {
    obstacles = {};  // what was refused is not wanted any more
  }

  ChildrenPlan children = plan_children(context);
  if (children.problem) {
    children.problem->since = named_since(swarm, children.problem->reason, now);
    obstacles.holds.push_back(*children.problem);
    wake(out, now + kNameRecheck, now);
  }
  if (const auto& failing = observed.failing) {
    if (now - failing->since >= kFailingShown) {
      obstacles.holds.push_back(
          {"WriteFailed",
           "The API server does not do what it is asked since " + clock_text(failing->since) +
               ": " + failing->what + ": " + quoted(failing->message),
           "check admission webhooks, the operator's rights and the API server's log; the "
           "operator goes on trying",
           failing->since});
    } else {
      wake(out, failing->since + kFailingShown, now);
    }
  }
  out.actions = std::move(children.actions);

  const bool open = !terminating && !children.problem;
  std::optional<WallTime> ask_again;
  const RoleState coordinator = examine(context, Role::kCoordinator, open, ask_again);
  const RoleState worker = examine(context, Role::kWorker, open, ask_again);
  wake(out, ask_again, now);

  std::vector<std::string> template_errors = coordinator.template_errors;
  template_errors.insert(template_errors.end(), worker.template_errors.begin(),
                         worker.template_errors.end());
  if (!template_errors.empty()) {
    std::string text;
    for (std::size_t i = 0; i < template_errors.size() && i < kMaxShownErrors; ++i) {
      text += (i == 0 ? "" : "; ") + template_errors[i];
    }
    if (template_errors.size() > kMaxShownErrors) {
      text += "; " + count_of(static_cast<std::int64_t>(template_errors.size() - kMaxShownErrors),
                              "more error");
    }
    obstacles.stall =
        Problem{"InvalidTemplate", text, "correct the template and apply it again", 0};
  } else if (coordinator.refused || worker.refused) {
    obstacles.stall = coordinator.refused ? coordinator.refused : worker.refused;
  } else if (terminating) {
    obstacles.stall =
        Problem{"NamespaceTerminating", "Namespace " + swarm.namespace_name + " is being deleted",
                "nothing, or create the Swarm in another namespace", 0};
  }
  for (const RoleState* state : {&coordinator, &worker}) {
    if (state->ask) out.actions.push_back(*state->ask);
  }

  // Nothing half made: the first pod is made when both roles are accepted. Later a role goes on
  // alone, so that a wrong template of one does not stop the repair of the other; updates wait for
  // both.
  const bool any_pod = std::any_of(
      observed.pods.begin(), observed.pods.end(),
      [&](const PodView& pod) { return pod.owner_uid == swarm.uid && !pod.deletion_time; });
  const bool both = coordinator.proven && worker.proven;
  const PodGate coordinator_gate{open && coordinator.proven && (any_pod || both), both};
  const PodGate worker_gate{open && worker.proven && (any_pod || both), both};
  pods = plan_pods(context, coordinator_gate, worker_gate, out.memory);

  for (const DeletePod& one : pods.deletes) out.actions.emplace_back(one);
  for (CreateObject& one : pods.creates) out.actions.emplace_back(std::move(one));
  for (Problem& one : pods.journals) {
    one.since = named_since(swarm, one.reason, now);
    obstacles.holds.push_back(one);
  }
  if (pods.hold) {
    pods.hold->since = named_since(swarm, pods.hold->reason, now);
    obstacles.holds.push_back(*pods.hold);
  }
  if (pods.more) wake(out, now, now);
  wake(out, pods.again_at, now);
  finish(out, context, obstacles, pods);
  return out;
}

namespace {

// Only the conditions: nothing else could be found out.
Plan plan_stalled(const api::Swarm& swarm, const Problem& problem, const Memory& memory,
                  WallTime now) {
  Plan out;
  out.memory = memory;
  if (swarm.deletion_time) return out;
  api::SwarmStatus status = swarm.status;
  status.observed_generation = swarm.generation;
  status.conditions = stalled_conditions(swarm.status, problem, swarm.generation, now);
  if (status == swarm.status) return out;
  out.memory.status_written = now;
  const api::Condition& ready = status.conditions.front();
  const bool told = std::any_of(swarm.status.conditions.begin(), swarm.status.conditions.end(),
                                [&](const api::Condition& one) {
                                  return one.type == "Ready" && one.reason == ready.reason &&
                                         one.message == ready.message;
                                });
  if (!told) out.events.push_back({"Warning", ready.reason, shorten(ready.message, 1000)});
  out.status = std::move(status);
  return out;
}

}  // namespace

Plan plan_unreadable(const api::Swarm& swarm, std::string_view errors, const Memory& memory,
                     WallTime now) {
  std::string text = shorten(errors, kMaxMessageBytes / 2);
  for (std::size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n', at)) {
    text.replace(at, 1, "; ");
  }
  const Problem problem{"InvalidSpec",
                        "The spec cannot be used: " + text + ". What exists stays as it is.",
                        "correct the fields named and apply it again", 0};
  return plan_stalled(swarm, problem, memory, now);
}

Plan plan_cut_off(const api::Swarm& swarm, std::string_view why, const Memory& memory,
                  WallTime now) {
  const Problem problem{"ReadRefused",
                        "The API server refuses what the operator must read: " + quoted(why) +
                            ". What exists stays as it is.",
                        "give the operator its rights again (kubectl apply -k manifests); it asks "
                        "again by itself",
                        0};
  return plan_stalled(swarm, problem, memory, now);
}

std::optional<Event> dropped_on_delete(const api::Swarm& swarm, const Observed& observed) {
  const Context context(swarm, observed, Settings{}, 0);
  std::int64_t queued = 0;
  std::int64_t running = 0;
  int known = 0;
  for (const auto& [team, report] : context.reports) {
    queued += report.tasks.queued;
    running += report.tasks.running;
    if (!context.is_surplus_coordinator(team)) ++known;
  }
  const int teams = context.topology.coordinators;
  if (known < teams) {  // the operator was away when its Lease went, or it was never seen
    queued = std::max(queued, swarm.status.tasks.queued);
    running = std::max(running, swarm.status.tasks.running);
  }
  if (queued + running == 0) return std::nullopt;
  const std::string text = count_of(queued, "queued task") + " and " + std::to_string(running) +
                           " running; they are dropped with it";
  if (known == teams) return Event{"Warning", "SwarmDeleted", "Deleted with " + text};
  return Event{"Warning", "SwarmDeleted",
               "Deleted with about " + text + ". About: the operator knows the last report of " +
                   std::to_string(known) + " of " + count_of(teams, "team") +
                   ", and a status up to " + std::to_string(kCountsInterval / 1000) + " s old"};
}

std::string to_text(const Plan& plan) {
  std::string text;
  for (const Action& action : plan.actions) {
    std::visit(
        [&](const auto& one) {
          using T = std::decay_t<decltype(one)>;
          if constexpr (std::is_same_v<T, CreateObject>) {
            text += "create   " + one.kind + " " + one.name + "\n";
          } else if constexpr (std::is_same_v<T, PatchObject>) {
            text += "patch    " + one.kind + " " + one.name + "\n";
          } else if constexpr (std::is_same_v<T, DeletePod>) {
            text += "delete   Pod " + one.name + " (" + one.reason + ")\n";
          } else if constexpr (std::is_same_v<T, DeleteObject>) {
            text += "delete   " + one.kind + " " + one.name + "\n";
          } else {
            text += "dry run  Pod " + one.name + " (revision " + one.revision + ")\n";
          }
        },
        action);
  }
  if (plan.status) {
    for (const api::Condition& one : plan.status->conditions) {
      text +=
          "status   " + one.type + " " + one.status + " " + one.reason + ": " + one.message + "\n";
    }
  }
  for (const Event& one : plan.events) {
    text += "event    " + one.type + " " + one.reason + ": " + one.message + "\n";
  }
  if (text.empty()) text = "nothing to do\n";
  if (plan.requeue_after) {
    text += "look again in " + std::to_string(plan.requeue_after->count()) + " ms\n";
  }
  return text;
}

}  // namespace swarm::plan
