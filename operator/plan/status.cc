#include "plan/status.h"

#include <algorithm>
#include <array>
#include <map>

#include "plan/claims.h"
#include "plan/pod.h"

namespace swarm::plan {
namespace {

using api::Condition;
using api::SwarmStatus;

const Condition* find_condition(const SwarmStatus& status, std::string_view type) {
  for (const Condition& one : status.conditions) {
    if (one.type == type) return &one;
  }
  return nullptr;
}

// Sets a condition's transition time: that of the prior one unless the status changed. The CRD's
// default conditions have none.
Condition stamped(Condition fresh, const SwarmStatus& prior, WallTime now) {
  const Condition* before = find_condition(prior, fresh.type);
  fresh.last_transition =
      before != nullptr && before->status == fresh.status && before->last_transition != 0
          ? before->last_transition
          : now - now % 1000;
  fresh.message = shorten(fresh.message, kMaxMessageBytes);
  return fresh;
}

// Two significant digits: a number that only crawls is not worth a write.
std::int64_t rounded(std::int64_t value) {
  std::int64_t unit = 1;
  while (value / unit >= 100) unit *= 10;
  return value / unit * unit;
}

// ---- what the pods say

struct RoleView {
  Role role = Role::kWorker;
  int wanted = 0;
  int live = 0;
  int ready = 0;
  int updated = 0;
  std::vector<std::string> not_ready;  // slots, in order
  std::vector<std::string> missing;    // coordinators without a pod
};

RoleView view_of(const Context& context, Role role) {
  RoleView view;
  view.role = role;
  view.wanted = role == Role::kWorker ? context.workers_wanted : context.topology.coordinators;
  for (const auto& [index, slot] : context.slots(role)) {
    if (slot.live.empty()) continue;
    if (role == Role::kCoordinator && context.is_surplus_coordinator(index)) continue;
    const PodView& pod = *slot.live.front();
    ++view.live;
    if (pod.ready) {
      ++view.ready;
    } else {
      view.not_ready.push_back(slot_name(role, index));
    }
    if (!context.is_outdated(pod, role)) ++view.updated;
  }
  if (role == Role::kCoordinator) {
    for (int index = 0; index < view.wanted; ++index) {
      const auto found = context.coordinators.find(index);
      if (found == context.coordinators.end() || found->second.live.empty()) {
        view.missing.push_back(slot_name(role, index));
      }
    }
  }
  return view;
}

enum class Trouble { kNone, kJournal, kUnschedulable, kImage, kConfig, kCrash, kAgentExits };

struct PodTrouble {
  Trouble trouble = Trouble::kNone;
  std::string detail;
  std::string next;
  WallTime since = 0;
};

bool is_config_failure(std::string_view reason) {
  return reason == "CreateContainerConfigError" || reason == "CreateContainerError" ||
         reason == "RunContainerError" || reason == "PreStartHookError" ||
         reason == "PostStartHookError";
}

// An agent that ran once and ended well, over and over: most likely nobody told it to take tasks.
const ContainerView* exiting_agent(const PodView& pod) {
  for (const ContainerView& one : pod.containers) {
    if (!one.init && !one.name.starts_with("cfn-") && one.last_exit_code == 0 &&
        one.restart_count >= kExitsBeforeWarning) {
      return &one;
    }
  }
  return nullptr;
}

// A pod that no node takes because of its journal: the claim has no volume yet, or not any more, or
// one where no node has room. nullopt: that is not why. A claim that is Pending says nothing: most
// classes wait for the pod to have a node.
std::optional<PodTrouble> journal_trouble(const Context& context, const PodView& pod) {
  const ChildView* claim = pod.claim.empty() ? nullptr : find_claim(context, pod.claim);
  if (claim == nullptr) return std::nullopt;
  const auto says = [&](const char* words) {
    return pod.unschedulable_message.find(words) != std::string::npos;
  };
  // "PersistentVolumeClaims", "persistent volumes", "volume node affinity"; of CSI drivers the
  // last.
  if (!says("olume") && !says("free storage")) return std::nullopt;
  const bool bound = claim->phase == "Bound";
  const auto& storage_class = context.swarm.spec.mailbox.storage_class;
  PodTrouble found;
  found.trouble = Trouble::kJournal;
  found.detail = "claim " + claim->name + " is " + (claim->phase.empty() ? "new" : claim->phase);
  if (!bound && storage_class) found.detail += ", storage class \"" + *storage_class + "\"";
  found.detail += ": " + shorten(pod.unschedulable_message, kMaxForeignTextBytes);
  found.next = "kubectl describe pvc " + claim->name;
  if (claim->phase == "Pending") {
    found.next +=
        "; if the storage class is wrong, correct mailbox.persistence.storageClassName, "
        "then kubectl delete pvc " +
        claim->name + ", which is made anew";
  }
  found.since = pod.creation_time;
  return found;
}

PodTrouble trouble_of(const Context& context, const PodView& pod, Role role) {
  PodTrouble found;
  if (!pod.unschedulable_message.empty()) {
    if (auto journal = journal_trouble(context, pod)) return *std::move(journal);
    found.trouble = Trouble::kUnschedulable;
    found.detail = shorten(pod.unschedulable_message, kMaxForeignTextBytes);
    const std::int64_t mailbox = mailbox_memory(context.swarm.spec);
    if (mailbox > 0 && found.detail.find("memory") != std::string::npos) {
      found.detail += " (" + api::format_bytes(mailbox) + " of a pod's memory is its mailbox)";
    }
    found.next = role == Role::kWorker ? "add nodes or lower spec.workers.replicas" : "add nodes";
    found.since = pod.creation_time;
    return found;
  }
  for (const ContainerView& one : pod.containers) {
    const std::string message =
        one.waiting_message.empty()
            ? one.waiting_reason
            : one.waiting_reason + ": " + shorten(one.waiting_message, kMaxForeignTextBytes);
    if (is_image_failure(one.waiting_reason)) {
      found = {Trouble::kImage, "container " + one.name + ": " + message,
               one.name == kSidecarContainer
                   ? "check the sidecar image in the operator's settings"
                   : "check the image's name and imagePullSecrets in the template",
               pod.creation_time};
      return found;
    }
    if (is_config_failure(one.waiting_reason)) {
      found = {Trouble::kConfig, "container " + one.name + ": " + message,
               "kubectl describe pod " + pod.name, pod.creation_time};
      return found;
    }
  }
  for (const ContainerView& one : pod.containers) {
    if (one.waiting_reason != "CrashLoopBackOff" && (one.ready || one.restart_count < 3)) continue;
    std::string detail =
        "container " + one.name + " ended " +
        (one.last_exit_code ? "with exit code " + std::to_string(*one.last_exit_code)
                            : std::string("again and again"));
    if (!one.last_reason.empty() && one.last_reason != "Error" && one.last_reason != "Completed") {
      detail += " (" + shorten(one.last_reason, 60) + ")";
    }
    const WallTime since = pod.ready_since != 0 ? pod.ready_since : pod.creation_time;
    if (exiting_agent(pod) == &one) {
      return {Trouble::kAgentExits, detail,
              "start it by agentctl work: command: [agentctl, work, --, PROGRAM…]", since};
    }
    return {Trouble::kCrash, detail, "kubectl logs " + pod.name + " -c " + one.name + " --previous",
            since};
  }
  return found;
}

// One Problem for each kind of trouble of a role's pods, coordinators' first, naming at most three
// pods each.
void add_pod_problems(const Context& context, Role role, std::vector<Problem>& problems) {
  struct Group {
    std::vector<std::string> slots;
    PodTrouble first;
  };
  std::map<Trouble, Group> groups;
  for (const auto& [index, slot] : context.slots(role)) {
    if (slot.live.empty() || slot.live.front()->ready) continue;
    PodTrouble found = trouble_of(context, *slot.live.front(), role);
    if (found.trouble == Trouble::kNone) continue;
    Group& group = groups[found.trouble];
    group.slots.push_back(slot_name(role, index));
    if (group.slots.size() == 1 || found.since < group.first.since) group.first = std::move(found);
  }
  static constexpr std::array<std::pair<const char*, const char*>, 7> kWords = {{
      {"", ""},
      {"JournalPending", "cannot have the volume of a journal"},
      {"Unschedulable", "cannot be scheduled"},
      {"ImagePullFailed", "cannot get an image"},
      {"ContainerConfigError", "cannot start"},
      {"CrashLooping", "crash"},
      {"AgentExits", "end by themselves"},
  }};
  for (const auto& [trouble, group] : groups) {
    const auto& [reason, verb] = kWords[static_cast<std::size_t>(trouble)];
    problems.push_back({reason,
                        some_names(group.slots) + " " + verb + " since " +
                            clock_text(group.first.since) + ": " + group.first.detail,
                        group.first.next, group.first.since});
  }
}

// ---- counts

struct Counts {
  int busy = 0;
  int stuck = 0;
  api::TasksStatus tasks;
  api::MailboxStatus mailbox;
  api::UsageCounts usage;
  int measured = 0;
  friend bool operator==(const Counts&, const Counts&) = default;
};

constexpr std::int64_t kMostStuck = 1'000'000;  // of a team; more is not to be believed

Counts counts_of(const SwarmStatus& status) {
  return {status.agents.busy, status.agents.stuck, status.tasks,
          status.mailbox,     status.usage,        status.rollout.measured};
}

Counts fresh_counts(const Context& context) {
  if (context.reports.empty()) return counts_of(context.swarm.status);  // the last that is known
  Counts counts;
  std::int64_t v1 = 0;
  std::int64_t v2 = 0;
  for (const auto& [team, report] : context.reports) {
    counts.tasks.queued += report.tasks.queued;
    counts.tasks.running += report.tasks.running;
    counts.tasks.done += report.tasks.done;
    counts.tasks.dead += report.tasks.dead;
    counts.tasks.oldest_queued_seconds =
        std::max(counts.tasks.oldest_queued_seconds, report.tasks.oldest_queued_seconds);
    if (report.tasks.backing_off_until > context.now)
      counts.tasks.backing_off_until =
          std::max(counts.tasks.backing_off_until, report.tasks.backing_off_until);
    counts.mailbox.single_copy_messages +=
        report.single_copy_messages + report.workers_single_copy_messages;
    counts.mailbox.dead_letters += report.dead_letters;
    counts.stuck += static_cast<int>(std::min(report.stuck, kMostStuck));
    counts.usage = api::sum(counts.usage, report.usage);
    v1 += report.v1;
    v2 += report.v2;
  }
  counts.tasks.oldest_queued_seconds = rounded(counts.tasks.oldest_queued_seconds);
  // What was spent stays spent, whoever does not report it now.
  counts.usage = api::highest(counts.usage, context.swarm.status.usage);
  for (const auto& [slot, worker] : context.worker_reports) {
    if (worker->busy) ++counts.busy;
  }
  if (v1 + v2 > 0) counts.measured = static_cast<int>(100 * v2 / (v1 + v2));
  return counts;
}

bool is_exhausted(const Counts& counts, const api::SwarmSpec& spec) {
  return spec.budget && counts.usage.cost_micro_usd >= spec.budget->micro_usd;
}

// Whoever is stuck is named at once, as long as there is room for names.
int nameable(int stuck) { return std::min(stuck, kNamesInMessage + 1); }

bool crosses_zero(const Counts& a, const Counts& b) {
  const auto crossed = [](std::int64_t x, std::int64_t y) { return (x == 0) != (y == 0); };
  return crossed(a.busy, b.busy) || nameable(a.stuck) != nameable(b.stuck) ||
         crossed(a.tasks.queued, b.tasks.queued) || crossed(a.tasks.running, b.tasks.running) ||
         crossed(a.tasks.done, b.tasks.done) || crossed(a.tasks.dead, b.tasks.dead) ||
         crossed(a.tasks.backing_off_until, b.tasks.backing_off_until) ||
         crossed(a.mailbox.single_copy_messages, b.mailbox.single_copy_messages) ||
         crossed(a.mailbox.dead_letters, b.mailbox.dead_letters) ||
         crossed(a.usage.tasks, b.usage.tasks);
}

// ---- conditions

bool was_good(const Condition* ready) {
  if (ready == nullptr) return false;
  return ready->status == "True" || ready->reason == "Degraded";
}

class Builder {
 public:
  Builder(const Context& context, const Obstacles& obstacles, const PodsPlan& pods)
      : context_(context),
        obstacles_(obstacles),
        pods_(pods),
        workers_(view_of(context, Role::kWorker)),
        coordinators_(view_of(context, Role::kCoordinator)) {
    problems_ = obstacles.holds;
    add_pod_problems(context, Role::kCoordinator, problems_);
    add_pod_problems(context, Role::kWorker, problems_);
    for (const Problem& problem : problems_) {
      if (problem.since == 0) continue;
      const WallTime due = problem.since + kProgressDeadline;
      if (due > context.now && (!deadline_ || due < *deadline_)) deadline_ = due;
    }
  }

  [[nodiscard]] std::optional<WallTime> deadline() const { return deadline_; }

  [[nodiscard]] SwarmStatus build(const Counts& counts) const {
    const api::Swarm& swarm = context_.swarm;
    const SwarmStatus& prior = swarm.status;
    SwarmStatus status;
    status.observed_generation = swarm.generation;
    status.topology = {context_.topology.type, context_.topology.coordinators,
                       context_.topology.reason};
    status.agents = {workers_.wanted, workers_.ready, counts.busy, counts.stuck,
                     std::to_string(std::min(workers_.ready, workers_.wanted)) + "/" +
                         std::to_string(workers_.wanted)};
    status.workers = {
        workers_.live, workers_.ready, workers_.updated,
        std::string(kSwarmLabel) + "=" + swarm.name + "," + std::string(kRoleLabel) + "=worker"};
    status.tasks = counts.tasks;
    status.mailbox = counts.mailbox;
    status.usage = counts.usage;
    status.rollout = rollout(counts);
    status.revision = context_.revision;
    status.sidecar_image = context_.sidecar_image;
    conditions(status, prior, counts);
    return status;
  }

 private:
  [[nodiscard]] api::RolloutStatus rollout(const Counts& counts) const {
    api::RolloutStatus rollout;
    rollout.ceiling = api::ceiling(context_.swarm.spec);
    rollout.effective = rollout.ceiling;
    for (const auto& [team, report] : context_.reports) {
      // A coordinator that is not ready hands out nothing, so what it would apply does not count.
      if (report.ready && !context_.is_surplus_coordinator(team)) {
        rollout.effective = std::min(rollout.effective, report.effective);
      }
    }
    rollout.measured = counts.measured;
    rollout.active_version = rollout.effective == 0     ? "V1"
                             : rollout.effective == 100 ? "V2"
                                                        : "Both";
    rollout.summary = std::to_string(rollout.effective) + "%";
    if (rollout.effective != rollout.ceiling) {
      rollout.summary += "(" + std::to_string(rollout.ceiling) + "%)";
    }
    return rollout;
  }

  [[nodiscard]] bool good() const {
    // More than asked for is good enough: that they go is Reconciling.
    return obstacles_.holds.empty() && workers_.live >= workers_.wanted &&
           workers_.ready >= workers_.wanted && workers_.updated >= workers_.wanted &&
           coordinators_.live == coordinators_.wanted &&
           coordinators_.ready == coordinators_.wanted &&
           coordinators_.updated == coordinators_.wanted;
  }

  [[nodiscard]] std::optional<Problem> overdue() const {
    for (const Problem& problem : problems_) {
      if (problem.since != 0 && context_.now - problem.since >= kProgressDeadline) return problem;
    }
    return std::nullopt;
  }

  [[nodiscard]] std::string ready_text() const {
    return std::to_string(std::min(workers_.ready, workers_.wanted)) + " of " +
           count_of(workers_.wanted, "agent") + " ready";
  }

  // What the trouble means for the work.
  [[nodiscard]] std::string work_text(const Counts& counts) const {
    const std::int64_t held = counts.tasks.queued + counts.tasks.running;
    if (held == 0) return "";
    if (coordinators_.ready == coordinators_.wanted) {
      return " " + count_of(counts.tasks.queued, "queued task") + " safe, " +
             std::to_string(counts.tasks.running) + " running.";
    }
    return " " + count_of(held, "task") +
           " of the last report wait for the coordinator; their copies are in other pods.";
  }

  // Some coordinator may still hand out tasks: one that has not said otherwise.
  [[nodiscard]] bool suspending() const {
    for (int team = 0; team < context_.topology.coordinators; ++team) {
      const auto found = context_.reports.find(team);
      if (found == context_.reports.end()) return true;
      if (found->second.ready && !found->second.suspended.value_or(true)) return true;
    }
    return false;
  }

  [[nodiscard]] std::string exhausted_text(const Counts& counts) const {
    const std::int64_t budget = context_.swarm.spec.budget->micro_usd;
    const std::int64_t more = std::min(std::max(2 * budget, 2 * counts.usage.cost_micro_usd),
                                       api::kBudgetLimitMicroUsd - 1);
    return "$" + api::format_usd(counts.usage.cost_micro_usd) + " of $" + api::format_usd(budget) +
           " (spec.budget.usd) are spent: no task is handed out, " +
           count_of(counts.tasks.queued, "task") + " queued and kept; " +
           std::to_string(counts.tasks.running) +
           " running, which go on and cost. Next: kubectl patch swarm " + context_.swarm.name +
           " --type=merge -p '{\"spec\":{\"budget\":{\"usd\":\"" + api::format_usd(more) + "\"}}}'";
  }

  // "" when nobody is.
  [[nodiscard]] std::string stuck_text() const {
    std::vector<const api::StuckReport*> named;
    std::int64_t count = 0;
    for (const auto& [team, report] : context_.reports) {
      count += std::min(report.stuck, kMostStuck);
      for (const api::StuckReport& one : report.stuck_named) named.push_back(&one);
    }
    if (count == 0) return "";
    std::stable_sort(named.begin(), named.end(),
                     [](const auto* a, const auto* b) { return a->since < b->since; });
    const api::SwarmSpec& spec = context_.swarm.spec;
    const int limit = spec.health.stuck_after_seconds;
    std::string text =
        std::to_string(count) + " of " +
        count_of(std::int64_t{workers_.wanted} * spec.workers.agents_per_pod, "agent") +
        " without output or CPU for more than " +
        (limit > 0 && limit % 60 == 0 ? std::to_string(limit / 60) + "m"
                                      : std::to_string(limit) + "s");
    for (std::size_t i = 0; i < named.size() && i < kNamesInMessage; ++i) {
      const api::StuckReport& one = *named[i];
      text += (i == 0 ? ": " : ", ") + one.agent + " (" + one.task + " since " +
              clock_text(one.since) + (one.why.empty() ? "" : ": " + one.why) + ")";
    }
    if (count > kNamesInMessage)
      text += " and " + std::to_string(count - kNamesInMessage) + " more";
    text += spec.health.on_stuck == api::OnStuck::kRestart
                ? ". Their attempts are ended and count as failed (spec.health.onStuck: Restart)."
                : ". Nothing is ended (spec.health.onStuck: Report).";
    return text + " Next: kubectl swarm get agents " + context_.swarm.name;
  }

  [[nodiscard]] Condition good_condition(const Counts& counts) const {
    const std::string& name = context_.swarm.name;
    const std::string tasks = count_of(counts.tasks.queued, "task") + " queued, " +
                              std::to_string(counts.tasks.running) + " running";
    Condition ready{"Ready", "True", "", "", 0, 0};
    if (context_.swarm.spec.suspend && suspending()) {
      ready.reason = "Suspending";
      ready.message = "Some coordinator may still hand out tasks: " + tasks +
                      ". Next: wait for Suspended, it takes a second.";
    } else if (context_.swarm.spec.suspend) {
      ready.reason = "Suspended";
      ready.message = "No task is handed out: " + tasks +
                      "; the coordinators keep them. Next: set spec.suspend to false.";
    } else if (is_exhausted(counts, context_.swarm.spec)) {
      ready.reason = "BudgetExhausted";
      ready.message = exhausted_text(counts);
    } else if (workers_.wanted == 0) {
      ready.reason = "ScaledToZero";
      ready.message = "0 agents asked for; " + tasks +
                      ", kept by the coordinators. Next: kubectl scale swarm " + name +
                      " --replicas=1";
    } else if (const std::string stuck = stuck_text(); !stuck.empty()) {
      ready.reason = "AgentsStuck";
      ready.message = stuck;
    } else if (counts.tasks.queued + counts.tasks.running > 0) {
      ready.reason = "Working";
      ready.message = ready_text() + "; " + tasks + ".";
    } else {
      ready.reason = "Idle";
      ready.message = ready_text() + "; no tasks. Next: kubectl swarm submit " + name + " TEXT";
    }
    return ready;
  }

  // Reason of Ready False while something is being done about it.
  [[nodiscard]] std::string progress_reason() const {
    const Condition* ready = find_condition(context_.swarm.status, "Ready");
    const bool outdated =
        workers_.updated < workers_.live || coordinators_.updated < coordinators_.live;
    if (outdated) return "Updating";
    const bool same = context_.swarm.status.observed_generation == context_.swarm.generation;
    return same && was_good(ready) ? "Degraded" : "Progressing";
  }

  [[nodiscard]] std::string progress_text(const Counts& counts) const {
    std::string text = ready_text();
    if (workers_.updated < workers_.live) {
      text += ", " + std::to_string(workers_.updated) + " of " + std::to_string(workers_.wanted) +
              " updated (at most " + std::to_string(max_unavailable(context_.swarm.spec)) +
              " at a time)";
    }
    std::vector<std::string> leaders = coordinators_.missing;
    leaders.insert(leaders.end(), coordinators_.not_ready.begin(), coordinators_.not_ready.end());
    if (!leaders.empty()) text += "; not ready: " + some_names(leaders);
    if (problems_.empty() && workers_.live > workers_.ready) {
      text += "; not ready: " + some_names(workers_.not_ready);
    }
    text += ".";
    for (std::size_t i = 0; i < problems_.size() && i < 2; ++i)
      text += " " + problems_[i].what + ".";
    if (problems_.size() > 2) {
      text += " " + count_of(static_cast<std::int64_t>(problems_.size()) - 2, "more problem") + ".";
    }
    text += work_text(counts);
    if (!problems_.empty()) text += " Next: " + problems_.front().next + ".";
    return text;
  }

  void conditions(SwarmStatus& status, const SwarmStatus& prior, const Counts& counts) const {
    const std::optional<Problem> late = overdue();
    Condition ready;
    Condition reconciling{"Reconciling", "False", "Settled", "Everything is as asked for.", 0, 0};
    Condition stalled{"Stalled", "False", "NotStalled", "Nothing needs you.", 0, 0};

    if (obstacles_.stall) {
      const Problem& problem = *obstacles_.stall;
      std::string text = problem.what + ".";
      if (workers_.live + coordinators_.live > 0) {
        text += " The pods that exist stay: " + ready_text() + "." + work_text(counts);
      } else {
        text += " No pod was made.";
      }
      text += " Next: " + problem.next + ".";
      ready = {"Ready", "False", problem.reason, text, 0, 0};
      stalled = {"Stalled", "True", problem.reason, text, 0, 0};
      reconciling = {"Reconciling", "False", "Stalled", "See condition Stalled.", 0, 0};
    } else if (good()) {
      ready = good_condition(counts);
      if (pods_.surplus_coordinators_kept > 0) {
        reconciling = {"Reconciling",
                       "True",
                       "DrainingCoordinators",
                       count_of(pods_.surplus_coordinators_kept, "coordinator") +
                           " more than asked for until the tasks that they hold are finished.",
                       0,
                       0};
      } else if (workers_.live > workers_.wanted) {
        reconciling = {"Reconciling",
                       "True",
                       "ScalingDown",
                       count_of(workers_.live - workers_.wanted, "worker") +
                           " more than asked for; busy ones may finish their task.",
                       0,
                       0};
      }
    } else {
      const std::string text = progress_text(counts);
      ready = {"Ready", "False", progress_reason(), text, 0, 0};
      if (late) {
        const std::string deadline = text + " It is so for more than " +
                                     std::to_string(kProgressDeadline / 60'000) +
                                     " minutes; the operator goes on trying.";
        stalled = {"Stalled", "True", late->reason, deadline, 0, 0};
        reconciling = {"Reconciling", "False", "Stalled", "See condition Stalled.", 0, 0};
      } else {
        reconciling = {
            "Reconciling", "True", problems_.empty() ? ready.reason : problems_.front().reason,
            text,          0,      0};
      }
    }
    for (Condition* one : {&ready, &reconciling, &stalled}) {
      one->observed_generation = context_.swarm.generation;
      status.conditions.push_back(stamped(std::move(*one), prior, context_.now));
    }
    add_agent_exits(status, prior);
    add_mailbox_pressure(status, prior);
    if (const std::string stuck = stuck_text(); !stuck.empty()) {
      Condition still{"AgentsStuck", "True", "NoOutputNoCpu", stuck, context_.swarm.generation, 0};
      status.conditions.push_back(stamped(std::move(still), prior, context_.now));
    }
    if (is_exhausted(counts, context_.swarm.spec)) {
      Condition spent{"BudgetExhausted",         "True", "CostReached", exhausted_text(counts),
                      context_.swarm.generation, 0};
      status.conditions.push_back(stamped(std::move(spent), prior, context_.now));
    }
    for (const Condition& one : prior.conditions) {  // somebody else's stay
      if (one.type != "Ready" && one.type != "Reconciling" && one.type != "Stalled" &&
          one.type != "AgentExits" && one.type != "MailboxPressure" && one.type != "AgentsStuck" &&
          one.type != "BudgetExhausted") {
        status.conditions.push_back(one);
      }
    }
  }

  void add_agent_exits(SwarmStatus& status, const SwarmStatus& prior) const {
    std::vector<std::string> slots;
    std::string container;
    for (const auto& [index, slot] : context_.workers) {
      if (slot.live.empty()) continue;
      const ContainerView* agent = exiting_agent(*slot.live.front());
      if (agent == nullptr) continue;
      slots.push_back(slot_name(Role::kWorker, index));
      container = agent->name;
    }
    if (slots.empty()) return;
    Condition exits{
        "AgentExits",
        "True",
        "ExitedWithZero",
        some_names(slots) + ": container " + container + " ended with exit code 0 at least " +
            std::to_string(kExitsBeforeWarning) +
            " times, and is started again each time. An agent that works once per "
            "task is started by agentctl. Next: command: [agentctl, work, --, PROGRAM…]",
        context_.swarm.generation,
        0};
    status.conditions.push_back(stamped(std::move(exits), prior, context_.now));
  }

  void add_mailbox_pressure(SwarmStatus& status, const SwarmStatus& prior) const {
    std::map<std::string, std::string> pressed;
    for (const auto& [team, report] : context_.reports) {
      if (report.ready) pressed.insert(report.pressed.begin(), report.pressed.end());
    }
    if (pressed.empty()) return;
    std::vector<std::string> reasons;
    for (const auto& [pod, why] : pressed) reasons.push_back(why);
    Condition full{
        "MailboxPressure",
        "True",
        "MailRefused",
        some_names(reasons) +
            ". Senders wait, or are refused. Next: kubectl exec $(kubectl get pod -o name -l " +
            std::string(kSwarmLabel) + "=" + context_.swarm.name + "," + std::string(kSlotLabel) +
            "=" + pressed.begin()->first + ") -- agentctl ls",
        context_.swarm.generation,
        0};
    status.conditions.push_back(stamped(std::move(full), prior, context_.now));
  }

  const Context& context_;
  const Obstacles& obstacles_;
  const PodsPlan& pods_;
  RoleView workers_;
  RoleView coordinators_;
  std::vector<Problem> problems_;
  std::optional<WallTime> deadline_;
};

// The status without what may wait: what is left must be written at once when it differs.
SwarmStatus urgent_part(SwarmStatus status) {
  status.agents.ready = status.agents.busy = 0;
  status.agents.stuck = nameable(status.agents.stuck);
  status.agents.summary.clear();
  status.workers.replicas = status.workers.ready_replicas = status.workers.updated_replicas = 0;
  status.tasks = {};
  status.usage = {};
  status.rollout.measured = 0;
  for (Condition& one : status.conditions) {
    one.message.clear();
    // Working and Idle are counts in other words.
    if (one.reason == "Idle") one.reason = "Working";
  }
  return status;
}

// What a pod's mailbox costs.
Event mailbox_event(const api::SwarmSpec& spec) {
  if (has_journals(spec)) {
    return {"Normal", "MailboxVolume",
            "a volume of " + api::format_bytes(spec.mailbox.size_limit_bytes + kVolumeSlackBytes) +
                " is claimed for the mailbox of each pod (spec.mailbox.persistence), and kept "
                "until the Swarm is deleted"};
  }
  return {"Normal", "MailboxMemory",
          api::format_bytes(mailbox_memory(spec)) +
              " for the mailbox are added to the memory of each pod (spec.mailbox.sizeLimit)"};
}

std::vector<Event> condition_events(const SwarmStatus& prior, const SwarmStatus& fresh,
                                    const Context& context) {
  constexpr std::size_t kMaxEventBytes = 1000;
  std::vector<Event> events;
  if (prior.revision != fresh.revision) events.push_back(mailbox_event(context.swarm.spec));
  const Condition* after = find_condition(fresh, "Ready");
  const Condition* before = find_condition(prior, "Ready");
  // (An exhausted budget and stuck agents have Events of their own, below.)
  const auto quiet = [](const std::string& reason) {
    return reason == "Working" || reason == "Idle" || reason == "BudgetExhausted" ||
           reason == "AgentsStuck";
  };
  if (after != nullptr && (before == nullptr || before->reason != after->reason) &&
      !(before != nullptr && quiet(before->reason) && quiet(after->reason))) {
    const bool normal =
        after->status == "True" || after->reason == "Progressing" || after->reason == "Updating";
    events.push_back(
        {normal ? "Normal" : "Warning", after->reason, shorten(after->message, kMaxEventBytes)});
  }
  for (const char* type : {"AgentExits", "MailboxPressure", "BudgetExhausted"}) {
    const Condition* appeared = find_condition(fresh, type);
    if (appeared != nullptr && find_condition(prior, type) == nullptr)
      events.push_back({"Warning", type, shorten(appeared->message, kMaxEventBytes)});
  }
  // One Event for all that are stuck, and again when there are more of them.
  if (const Condition* stuck = find_condition(fresh, "AgentsStuck");
      stuck != nullptr && fresh.agents.stuck > prior.agents.stuck)
    events.push_back({"Warning", "AgentStuck", shorten(stuck->message, kMaxEventBytes)});
  return events;
}

}  // namespace

StatusDecision decide_status(const Context& context, const Obstacles& obstacles,
                             const PodsPlan& pods, Memory& memory) {
  StatusDecision decision;
  const SwarmStatus& prior = context.swarm.status;
  const auto again_at = [&](WallTime time) {
    decision.again_at = decision.again_at ? std::min(*decision.again_at, time) : time;
  };

  const Builder builder(context, obstacles, pods);
  if (builder.deadline()) again_at(*builder.deadline());

  const Counts old_counts = counts_of(prior);
  const Counts new_counts = fresh_counts(context);
  const bool counts_due =
      context.now - memory.counts_written >= kCountsInterval ||
      context.now < memory.counts_written || crosses_zero(old_counts, new_counts) ||
      is_exhausted(old_counts, context.swarm.spec) != is_exhausted(new_counts, context.swarm.spec);
  SwarmStatus status = builder.build(counts_due ? new_counts : old_counts);
  bool has_new_counts = counts_due;
  const bool urgent = urgent_part(status) != urgent_part(prior);
  if (urgent && !has_new_counts) {
    status = builder.build(new_counts);
    has_new_counts = true;
  }
  if (!has_new_counts && old_counts != new_counts)
    again_at(memory.counts_written + kCountsInterval);
  if (status == prior) return decision;

  if (!urgent && !(counts_due && old_counts != new_counts)) {
    const bool ready_changed = status.workers != prior.workers || status.agents != prior.agents;
    const WallTime due = memory.status_written + (ready_changed ? kReadyInterval : kCountsInterval);
    if (context.now < due && context.now >= memory.status_written) {
      again_at(due);
      return decision;
    }
  }
  memory.status_written = context.now;
  if (has_new_counts) memory.counts_written = context.now;
  decision.events = condition_events(prior, status, context);
  decision.status = std::move(status);
  return decision;
}

std::vector<Condition> stalled_conditions(const SwarmStatus& prior, const Problem& problem,
                                          std::int64_t generation, WallTime now) {
  const std::string text = problem.what + " Next: " + problem.next + ".";
  std::vector<Condition> conditions = {
      {"Ready", "False", problem.reason, text, generation, 0},
      {"Reconciling", "False", "Stalled", "See condition Stalled.", generation, 0},
      {"Stalled", "True", problem.reason, text, generation, 0},
  };
  for (Condition& one : conditions) one = stamped(std::move(one), prior, now);
  for (const Condition& one : prior.conditions) {
    if (one.type != "Ready" && one.type != "Reconciling" && one.type != "Stalled") {
      conditions.push_back(one);
    }
  }
  return conditions;
}

std::vector<Event> pod_events(const std::vector<const Action*>& done) {
  std::vector<Event> events;
  std::map<std::string, std::vector<std::string>> by_reason;
  std::vector<std::string> created;
  std::string cause;
  for (const Action* action : done) {
    if (const auto* made = std::get_if<CreateObject>(action); made != nullptr) {
      if (made->kind == "Pod") created.push_back(made->slot);
    } else if (const auto* gone = std::get_if<DeletePod>(action); gone != nullptr) {
      by_reason[gone->reason].push_back(gone->slot);
      if (gone->reason == "Failed" && cause.empty()) cause = gone->cause;
    }
  }
  const auto say = [&](const char* key, const char* type, const char* reason, const char* text) {
    const auto found = by_reason.find(key);
    if (found == by_reason.end()) return;
    std::string message = count_of(static_cast<std::int64_t>(found->second.size()), "pod") + " " +
                          text + ": " + some_names(found->second);
    if (found->first == "Failed" && !cause.empty()) message += " (" + cause + ")";
    events.push_back({type, reason, message});
  };
  say("Failed", "Warning", "PodFailed", "had failed and are removed");
  say("Surplus", "Normal", "ScaledDown", "end, busy ones after their task");
  say("Outdated", "Normal", "PodsReplaced", "end to be replaced by their new revision");
  say("Duplicate", "Warning", "DuplicateRemoved", "were second in their slot and are removed");
  if (!created.empty()) {
    events.push_back(
        {"Normal", "PodsCreated",
         count_of(static_cast<std::int64_t>(created.size()), "pod") + ": " + some_names(created)});
  }
  return events;
}

}  // namespace swarm::plan
