#include "plan/slots.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "plan/claims.h"
#include "plan/pod.h"

namespace swarm::plan {
namespace {

constexpr WallTime kMinute = 60'000;
constexpr int kMaxCountedFailures = 30;  // far beyond the longest backoff

// Of a list that is not empty; by name when two are of the same second, so that the order is total.
const PodView* newest(const std::vector<const PodView*>& pods) {
  return *std::max_element(pods.begin(), pods.end(), [](const PodView* a, const PodView* b) {
    return std::tie(a->creation_time, a->name) < std::tie(b->creation_time, b->name);
  });
}

WallTime backoff(int failures) {
  WallTime wait = kFirstBackoff;
  for (int i = 1; i < failures && wait < kMaxBackoff; ++i) wait *= 2;
  return std::min(wait, kMaxBackoff);
}

class PodsPlanner {
 public:
  PodsPlanner(const Context& context, Memory& memory) : context_(context), memory_(memory) {
    for (const PodView& pod : context.observed.pods) {
      const bool ended = pod.phase == PodPhase::kFailed || pod.phase == PodPhase::kSucceeded;
      if (!pod.claim.empty() && !ended) journals_.emplace(pod.claim, &pod);
    }
  }

  PodsPlan run(const PodGate& coordinators, const PodGate& workers) {
    remember_failures(Role::kCoordinator);
    remember_failures(Role::kWorker);
    forget_failures();
    count_creations();

    for (const PodView* pod : context_.slotless)
      remove(*pod, "Surplus", "its slot label was changed");
    duplicates(Role::kCoordinator);
    duplicates(Role::kWorker);
    coordinator_slots(coordinators);
    worker_slots(workers);
    update_coordinators(coordinators);
    update_workers(workers);
    return std::move(plan_);
  }

 private:
  // ---- memory

  void remember_failures(Role role) {
    for (const auto& [index, slot] : context_.slots(role)) {
      if (slot.ended.empty()) continue;
      const PodView* pod = newest(slot.ended);
      Memory::SlotHistory& history = memory_.slots[slot_name(role, index)];
      if (history.last_uid == pod->uid) continue;
      if (context_.now - history.last_failure > kForgetFailures) history.failures = 0;
      history.failures = std::min(history.failures + 1, kMaxCountedFailures);
      history.last_failure = context_.now;
      history.last_uid = pod->uid;
    }
  }

  void forget_failures() {
    std::erase_if(memory_.slots, [&](const auto& entry) {
      return context_.now - entry.second.last_failure > kForgetFailures;
    });
  }

  void count_creations() {
    std::erase_if(memory_.creations,
                  [&](const auto& entry) { return context_.now - entry.first >= kMinute; });
    for (const auto& [when, count] : memory_.creations) recent_creations_ += count;
  }

  // ---- single steps, all of them limited

  void again_at(WallTime time) {
    plan_.again_at = plan_.again_at ? std::min(*plan_.again_at, time) : time;
  }

  bool remove(const PodView& pod, const char* reason, std::string cause = "") {
    if (plan_.deletes.size() >= static_cast<std::size_t>(kMaxPodDeletesPerPlan)) {
      plan_.more = true;
      return false;
    }
    if (!removed_.insert(pod.uid).second) return true;
    plan_.deletes.push_back(
        {pod.name, pod.uid, pod.resource_version, reason, pod.slot, std::move(cause)});
    return true;
  }

  void remove_ended(const SlotPods& slot) {
    for (const PodView* pod : slot.ended) {
      std::string cause = pod->status_reason;
      if (!pod->status_message.empty()) cause += (cause.empty() ? "" : ": ") + pod->status_message;
      remove(*pod, "Failed", shorten(cause, kMaxForeignTextBytes));
    }
  }

  // True when nothing keeps a pod from being made in this slot now.
  bool may_create(Role role, int index) {
    const auto history = memory_.slots.find(slot_name(role, index));
    if (history != memory_.slots.end() && history->second.failures > 0) {
      const WallTime due = history->second.last_failure + backoff(history->second.failures);
      if (context_.now < due) {
        again_at(due);
        return false;
      }
    }
    if (const auto& failure = context_.observed.create_failure; failure && failure->kind == "Pod") {
      const WallTime due = failure->time + kRetryRefused;
      if (context_.now < due) {
        again_at(due);
        return false;
      }
    }
    const int cap =
        kCreationsPerMinuteBase + 2 * (context_.workers_wanted + context_.topology.coordinators);
    if (recent_creations_ + made_ >= cap) {
      again_at(memory_.creations.empty() ? context_.now + kMinute
                                         : memory_.creations.front().first + kMinute);
      return false;
    }
    if (made_ >= kMaxPodCreatesPerPlan) {
      plan_.more = true;
      return false;
    }
    return true;
  }

  void create(Role role, int index, const SlotPods* slot) {
    if (!journal_is_free(role, index) || !may_create(role, index)) return;
    // The pod that is replaced: the newest that is not live. Its UID makes the name new.
    const PodView* replaced = nullptr;
    if (slot != nullptr) {
      std::vector<const PodView*> gone = slot->terminating;
      gone.insert(gone.end(), slot->ended.begin(), slot->ended.end());
      if (!gone.empty()) replaced = newest(gone);
      remove_ended(*slot);
    }
    const std::string name = free_name(role, index, replaced == nullptr ? "" : replaced->uid);
    if (!keep_claim(role, index)) return;
    PodMaker& maker = maker_of(role);
    plan_.creates.push_back({"Pod", name, maker.manifest(index, name), {}, slot_name(role, index)});
    ++made_;
  }

  // A journal is one pod's at a time. Others of the slot wait until the pod that has it is gone,
  // wherever that is, as long as that takes: nobody but a person knows that a node is dead.
  bool journal_is_free(Role role, int index) {
    if (!has_journals(context_.swarm.spec)) return true;
    const auto found = journals_.find(claim_name(context_.swarm, role, index));
    if (found == journals_.end()) return true;
    const PodView& pod = *found->second;
    if (!pod.deletion_time) return false;  // it has another label, and is removed for that
    const WallTime due = *pod.deletion_time + kOverdue;
    if (context_.now < due) {
      again_at(due);
    } else {
      journal_is_held(slot_name(role, index), pod);
    }
    return false;
  }

  // One of a kind stands for all.
  void wait_for_journal(Problem problem) {
    for (const Problem& known : plan_.journals) {
      if (known.reason == problem.reason) return;
    }
    plan_.journals.push_back(std::move(problem));
  }

  void journal_is_held(const std::string& slot, const PodView& pod) {
    wait_for_journal({"JournalHeld",
                      slot + " waits for the end of pod " + pod.name + " on node " + pod.node +
                          ", which has its journal and should have ended at " +
                          clock_text(*pod.deletion_time),
                      "bring the node back; if it is off for good, kubectl taint node " + pod.node +
                          " node.kubernetes.io/out-of-service=nodeshutdown:NoExecute",
                      0});
  }

  // True when the slot's claim is there, or is made with this plan.
  bool keep_claim(Role role, int index) {
    if (!has_journals(context_.swarm.spec)) return true;
    const ChildView* claim = find_claim(context_, claim_name(context_.swarm, role, index));
    if (claim == nullptr) {
      plan_.creates.push_back(new_claim(context_, role, index));
      return true;
    }
    std::optional<Problem> problem = claim_problem(context_, *claim);
    if (!problem) return true;
    wait_for_journal(std::move(*problem));
    again_at(context_.now + kNameRecheck);
    return false;
  }

  // A pod that has not started protects its claim from nobody, and waits for it for ever.
  void keep_claim(Role role, int index, const PodView& pod) {
    if (pod.phase == PodPhase::kPending && pod.node.empty() &&
        pod.claim == claim_name(context_.swarm, role, index)) {
      keep_claim(role, index);
    }
  }

  // The slot's next name. It is taken only when somebody changed the labels of the pod that has it:
  // then that pod is treated as replaced, or the creation would meet a 409 for ever.
  [[nodiscard]] std::string free_name(Role role, int index, std::string uid) const {
    constexpr int kMaxNames = 8;
    std::string name;
    for (int i = 0; i < kMaxNames; ++i) {
      name = pod_name(context_.swarm, role, index, uid);
      const auto& pods = context_.observed.pods;
      const auto taken = std::find_if(pods.begin(), pods.end(),
                                      [&](const PodView& pod) { return pod.name == name; });
      if (taken == pods.end()) break;
      uid = taken->uid;
    }
    return name;
  }

  PodMaker& maker_of(Role role) {
    auto& maker = role == Role::kWorker ? worker_maker_ : coordinator_maker_;
    if (!maker) maker = std::make_unique<PodMaker>(context_, role);
    return *maker;
  }

  [[nodiscard]] bool is_kept(const PodView& pod) const { return !removed_.contains(pod.uid); }

  // ---- who holds what

  [[nodiscard]] int team_of(const PodView& pod) const {
    return slot_index(Role::kWorker, pod.slot).value_or(0) % context_.topology.coordinators;
  }

  [[nodiscard]] const LeaseView* lease_of(int team) const {
    const auto& leases = context_.observed.leases;
    const std::string name = lease_name(context_.swarm, team);
    const auto found = std::find_if(leases.begin(), leases.end(), [&](const LeaseView& lease) {
      return lease.name == name && lease.owner_uid == context_.swarm.uid;
    });
    return found == leases.end() ? nullptr : &*found;
  }

  // True for the coordinator that has the team's Lease: the report is its own.
  [[nodiscard]] bool leads(int team, const PodView& pod) const {
    const LeaseView* lease = lease_of(team);
    return lease != nullptr && lease->holder_uid == pod.uid;
  }

  // No coordinator of this team has ever had its Lease, so no task was ever accepted.
  [[nodiscard]] bool never_led(int team) const {
    const auto coordinator = context_.coordinators.find(team);
    if (coordinator != context_.coordinators.end() && !coordinator->second.live.empty() &&
        coordinator->second.live.front()->ready) {
      return false;  // it leads now; the Lease has been made anew
    }
    const LeaseView* lease = lease_of(team);
    return lease != nullptr && lease->holder.empty() && lease->holder_uid.empty() &&
           lease->report.empty();
  }

  // True when its coordinator has said so of this very pod. Its name may have been another's, of
  // which an older report speaks.
  [[nodiscard]] bool is_joined(const PodView& worker) const {
    const auto report = context_.reports.find(team_of(worker));
    if (report == context_.reports.end() || report->second.time < worker.creation_time) {
      return false;
    }
    const auto found = report->second.workers.find(worker.slot);
    return found != report->second.workers.end() && found->second.pod == worker.name;
  }

  // True for a worker whose log may have copies. The sidecar starts before the agents and stores
  // them whether or not these start; its log outlives its restarts.
  [[nodiscard]] bool may_hold(const PodView& worker) const {
    if (worker.ready) return true;
    const bool started =
        worker.phase != PodPhase::kPending || is_joined(worker) ||
        std::any_of(
            worker.containers.begin(), worker.containers.end(), [](const ContainerView& one) {
              return one.name == kSidecarContainer &&
                     (one.running || one.restart_count > 0 || one.last_exit_code.has_value());
            });
    return started && !never_led(team_of(worker));
  }

  // True when this team's coordinator has all that its workers hold, and stays.
  [[nodiscard]] bool coordinator_complete(int team) const {
    const auto found = context_.coordinators.find(team);
    if (found == context_.coordinators.end() || found->second.live.empty()) return false;
    for (const PodView* pod : found->second.live) {
      if (!is_kept(*pod)) return false;
    }
    if (!found->second.live.front()->ready) return false;
    const auto report = context_.reports.find(team);
    return report == context_.reports.end() || !report->second.recovering;
  }

  [[nodiscard]] bool is_outdated_coordinator(int team) const {
    const auto found = context_.coordinators.find(team);
    return found != context_.coordinators.end() && !found->second.live.empty() &&
           context_.is_outdated(*found->second.live.front(), Role::kCoordinator);
  }

  // ---- rules

  // Two live pods of one slot: only after somebody else's hand, or a label was changed.
  void duplicates(Role role) {
    for (const auto& [index, slot] : context_.slots(role)) {
      for (std::size_t i = 1; i < slot.live.size(); ++i) remove(*slot.live[i], "Duplicate");
    }
  }

  void coordinator_slots(const PodGate& gate) {
    for (int index = 0; index < context_.topology.coordinators; ++index) {
      const auto found = context_.coordinators.find(index);
      const SlotPods* slot = found == context_.coordinators.end() ? nullptr : &found->second;
      if (slot != nullptr && !slot->live.empty()) {
        remove_ended(*slot);
        if (gate.create) keep_claim(Role::kCoordinator, index, *slot->live.front());
      } else if (gate.create) {
        create(Role::kCoordinator, index, slot);
      }
    }
    for (const auto& [index, slot] : context_.coordinators) {
      if (!context_.is_surplus_coordinator(index)) continue;
      remove_ended(slot);
      for (const PodView* pod : slot.live) {
        if (!is_kept(*pod)) continue;
        if (holds_tasks(index, *pod)) {
          ++plan_.surplus_coordinators_kept;
        } else {
          remove(*pod, "Surplus");
        }
      }
    }
  }

  // A coordinator holds its team's queue, results and dead letters. Without a report only one that
  // never ran is known to be empty.
  [[nodiscard]] bool holds_tasks(int index, const PodView& pod) const {
    const auto found = context_.reports.find(index);
    if (found == context_.reports.end()) return pod.phase != PodPhase::kPending;
    const api::TeamReport& report = found->second;
    return held_tasks(report) > 0 || report.recovering;
  }

  void worker_slots(const PodGate& gate) {
    std::vector<const PodView*> live;
    for (const auto& [index, slot] : context_.workers) {
      if (!slot.live.empty()) {
        live.push_back(slot.live.front());
        remove_ended(slot);
        if (gate.create) keep_claim(Role::kWorker, index, *slot.live.front());
      }
    }
    const int wanted = context_.workers_wanted;
    const int have = static_cast<int>(live.size());
    if (have > wanted) return scale_down(live, have - wanted);
    fill(gate, wanted - have);
  }

  // Slots with a pod that has gone wrong or is going come first: messages wait for that agent. Then
  // the lowest free ones.
  void fill(const PodGate& gate, int missing) {
    std::vector<std::pair<int, const SlotPods*>> candidates;
    for (const auto& [index, slot] : context_.workers) {
      if (slot.live.empty()) candidates.emplace_back(index, &slot);
    }
    // Failed ones before terminating ones: a terminating pod may be a victim of an earlier
    // scale-down.
    std::stable_sort(candidates.begin(), candidates.end(), [](const auto& a, const auto& b) {
      return !a.second->ended.empty() && b.second->ended.empty();
    });
    int left = missing;
    for (const auto& [index, slot] : candidates) {
      if (left == 0) {
        remove_ended(*slot);  // nobody needs this slot any more
        continue;
      }
      --left;  // also while it waits for its backoff: another slot would only evade that
      if (gate.create) create(Role::kWorker, index, slot);
    }
    for (int index = 0; left > 0; ++index) {
      if (context_.workers.contains(index)) continue;
      --left;
      if (gate.create) create(Role::kWorker, index, nullptr);
      if (plan_.more) break;  // the rest comes with the next plan
    }
  }

  void scale_down(const std::vector<const PodView*>& live, int count) {
    std::vector<const PodView*> victims;
    for (const PodView* pod : live) {
      if (is_kept(*pod)) victims.push_back(pod);
    }
    std::sort(victims.begin(), victims.end(), [this](const PodView* a, const PodView* b) {
      return victim_key(*a) < victim_key(*b);
    });
    const bool wait = coordinators_recover();
    bool waiting = false;
    std::map<int, int> left;  // by team
    for (const PodView* pod : victims) ++left[team_of(*pod)];
    // The last worker of a team goes only when there is nobody else to go.
    for (const bool last : {false, true}) {
      if (last && waiting) break;
      for (const PodView* pod : victims) {
        if (count == 0) break;
        if (!is_kept(*pod) || (left[team_of(*pod)] == 1) != last) continue;
        if (wait && may_hold(*pod)) {
          waiting = true;
          continue;
        }
        remove(*pod, "Surplus",
               pod->ready && !context_.is_idle(*pod) ? "busy: it may finish its task" : "");
        --left[team_of(*pod)];
        --count;
      }
    }
    for (const auto& [index, slot] : context_.workers) {
      if (slot.live.empty()) remove_ended(slot);
    }
  }

  // Not ready and not started first, then not ready, idle, busy; then lower deletion cost,
  // outdated, highest slot.
  [[nodiscard]] std::tuple<int, int, bool, int> victim_key(const PodView& pod) const {
    const bool started = pod.phase != PodPhase::kPending || may_hold(pod);
    const int rank = !pod.ready ? (started ? 1 : 0) : (context_.is_idle(pod) ? 2 : 3);
    return {rank, pod.deletion_cost, !context_.is_outdated(pod, Role::kWorker),
            -slot_index(Role::kWorker, pod.slot).value_or(0)};
  }

  // True while taking a worker away could take the last copy of something: a coordinator's
  // replacement collects tasks from the workers' sidecars. Bounded by kRecoveryWait from when it is
  // made; one that cannot be made, for a quota that the victims use up, is not waited for.
  bool coordinators_recover() {
    WallTime until = 0;
    bool missing = false;
    for (int index = 0; index < context_.topology.coordinators; ++index) {
      const auto slot = context_.coordinators.find(index);
      if (slot == context_.coordinators.end() || slot->second.live.empty()) {
        missing = missing || !context_.observed.create_failure;
        continue;
      }
      const PodView& pod = *slot->second.live.front();
      const auto report = context_.reports.find(index);
      const bool recovering = report != context_.reports.end() && report->second.recovering;
      if (!pod.ready || recovering) until = std::max(until, pod.creation_time + kRecoveryWait);
    }
    if (until > context_.now) again_at(until);
    return missing || until > context_.now;
  }

  // True while something has a single copy and the last replacement is young. Bounded by
  // kRecoveryWait.
  bool copies_missing() {
    std::int64_t single = 0, of_workers = 0;
    for (const auto& [team, report] : context_.reports) {
      single += report.tasks.single_copy + report.single_copy_messages;
      of_workers += report.workers_single_copy_messages;
    }
    if (single + of_workers == 0) return false;
    WallTime newest = 0;
    for (const Role role : {Role::kCoordinator, Role::kWorker}) {
      for (const auto& [index, slot] : context_.slots(role)) {
        for (const PodView* pod : slot.live) newest = std::max(newest, pod->creation_time);
      }
    }
    const WallTime until = newest + (single > 0 ? kRecoveryWait : kMailRecoveryWait);
    if (until <= context_.now) return false;
    again_at(until);
    return true;
  }

  // True for a coordinator whose tasks nobody could hold meanwhile: no sidecar of its team's agents
  // is known to. At 0 agents nothing new is accepted, so a report that knows that they are gone is
  // the last word; one of a pod before this one speaks of what went with that.
  [[nodiscard]] bool keeps_only_copies(int index, const PodView& pod) const {
    for (const auto& [number, slot] : context_.workers) {
      if (number % context_.topology.coordinators != index || slot.live.empty()) continue;
      const PodView& worker = *slot.live.front();
      if (is_kept(worker) && (worker.ready || is_joined(worker))) return false;
    }
    const auto found = context_.reports.find(index);
    if (found == context_.reports.end()) return false;  // it never had anything
    if (!leads(index, pod)) return false;
    const api::TeamReport& report = found->second;
    if (held_tasks(report) + report.single_copy_messages > 0) return true;
    return pod.ready && !report.workers.empty();
  }

  // True for a coordinator that still collects its tasks, or awaits copies of a worker that is
  // late. Bounded by kRecoveryWait.
  bool is_collecting(int index, const PodView& pod) {
    const auto report = context_.reports.find(index);
    if (report == context_.reports.end() || !report->second.recovering || !leads(index, pod)) {
      return false;
    }
    const WallTime until =
        std::max(pod.creation_time, pod.ready ? pod.ready_since : 0) + kRecoveryWait;
    if (until <= context_.now) return false;
    again_at(until);
    return true;
  }

  // True while this team's copies are on the move from workers that go: with this plan, or since so
  // recently that the report names them or is older. Bounded by kRecoveryWait.
  bool is_losing_workers(int team) {
    const auto report = context_.reports.find(team);
    bool losing = false;
    for (const auto& [number, slot] : context_.workers) {
      if (number % context_.topology.coordinators != team) continue;
      for (const PodView* pod : slot.live) losing = losing || (!is_kept(*pod) && may_hold(*pod));
      for (const PodView* pod : slot.terminating) {
        const WallTime began = *pod->deletion_time - pod->deletion_grace;
        const WallTime until = began + kRecoveryWait;
        if (!may_hold(*pod) || until <= context_.now) continue;
        const bool told = report != context_.reports.end() && report->second.time > began;
        if (told && !is_joined(*pod)) continue;
        again_at(until);
        losing = true;
      }
    }
    return losing;
  }

  static std::int64_t held_tasks(const api::TeamReport& report) {
    return report.tasks.queued + report.tasks.running + report.tasks.done + report.tasks.dead;
  }

  void hold_update(const std::vector<int>& teams) {
    std::int64_t tasks = 0;
    std::vector<std::string> names;
    for (const int team : teams) {
      tasks += held_tasks(context_.reports.at(team));
      names.push_back(slot_name(Role::kCoordinator, team));
    }
    plan_.hold = Problem{"UpdateHeld",
                         some_names(names) + (names.size() == 1 ? " keeps" : " keep") +
                             " the only copy of " + count_of(tasks, "task") +
                             " since no agent of the team runs: not updated, they would be lost",
                         "kubectl scale swarm " + context_.swarm.name +
                             " --replicas=" + std::to_string(context_.topology.coordinators) +
                             ", or delete that pod to give the tasks up",
                         0};
  }

  void hold_collecting(const std::vector<int>& teams) {
    std::vector<std::string> names;
    for (const int team : teams) names.push_back(slot_name(Role::kCoordinator, team));
    plan_.hold = Problem{"UpdateHeld",
                         some_names(names) + (names.size() == 1 ? " collects" : " collect") +
                             " tasks from the agents' pods: not updated before that is over",
                         "nothing; it takes a minute at most", 0};
  }

  void hold_losing(const std::vector<int>& teams) {
    std::vector<std::string> names;
    for (const int team : teams) names.push_back(slot_name(Role::kCoordinator, team));
    plan_.hold = Problem{"UpdateHeld",
                         "agents of " + some_names(names) +
                             " are ending, and may have the second copies of tasks: not updated "
                             "before these have moved",
                         "nothing; it takes a minute after the last of them at most", 0};
  }

  void hold_workers(const std::vector<const PodView*>& pods) {
    std::vector<std::string> names;
    for (const PodView* pod : pods) names.push_back(pod->slot);
    const std::string coordinator = slot_name(Role::kCoordinator, team_of(*pods.front()));
    plan_.hold =
        Problem{"UpdateHeld",
                some_names(names) + " may have the only copies of tasks while " + coordinator +
                    " is not ready or collects them: not updated before it has them",
                "see why " + coordinator +
                    " is not ready, or delete the pods of these agents to give the tasks up",
                0};
  }

  // One coordinator after the other, each only when all teams have a pod, and a working one only
  // when all are ready. None together with workers of its team: what these hold moves to it, or to
  // its replacement from them.
  void update_coordinators(const PodGate& gate) {
    if (!gate.create || !gate.update) return;
    const PodView* candidate = nullptr;
    bool leading = false;  // the candidate, its team
    std::vector<int> held;
    std::vector<int> collecting, losing;
    bool all_ready = true;
    for (int index = 0; index < context_.topology.coordinators; ++index) {
      const auto found = context_.coordinators.find(index);
      if (found == context_.coordinators.end() || found->second.live.empty()) return;
      const PodView& pod = *found->second.live.front();
      if (!pod.ready) all_ready = false;
      if (!context_.is_outdated(pod, Role::kCoordinator)) continue;
      if (keeps_only_copies(index, pod)) {
        held.push_back(index);
        continue;
      }
      if (is_collecting(index, pod)) {
        collecting.push_back(index);
        continue;
      }
      if (is_losing_workers(index)) {
        losing.push_back(index);
        continue;
      }
      if (candidate == nullptr || (candidate->ready && !pod.ready)) {
        candidate = &pod;
        leading = leads(index, pod);
      }
    }
    if (!held.empty()) {
      hold_update(held);
    } else if (!collecting.empty()) {
      hold_collecting(collecting);
    } else if (!losing.empty() && candidate == nullptr) {
      hold_losing(losing);
    }
    held_.insert(held.begin(), held.end());
    if (candidate == nullptr || (candidate->ready && !all_ready)) return;
    // One that is not ready may still lead its team.
    if ((candidate->ready || leading) && copies_missing()) return;
    remove(*candidate, "Outdated");
  }

  [[nodiscard]] bool coordinators_current_and_ready() const {
    for (int index = 0; index < context_.topology.coordinators; ++index) {
      if (!coordinator_complete(index) || is_outdated_coordinator(index)) return false;
    }
    return true;
  }

  // Whether a worker of this team that serves nobody may go as far as copies are concerned: its
  // coordinator has them and is not about to be updated. One whose update is held waits for new
  // workers itself.
  [[nodiscard]] bool may_lose_workers(int team) const {
    return coordinator_complete(team) && (!is_outdated_coordinator(team) || held_.contains(team));
  }

  [[nodiscard]] bool holds_nothing(int team) const {
    const auto report = context_.reports.find(team);
    return report != context_.reports.end() &&
           held_tasks(report->second) + report->second.single_copy_messages == 0;
  }

  // Pods that are not ready serve nobody: those that never started are replaced at once. What the
  // others may hold counts: they go when their coordinator has all of it, and so that at most
  // maxUnavailable slots are without a sidecar that could hold a copy. Ready ones within
  // maxUnavailable, after the coordinators, idle ones first.
  void update_workers(const PodGate& gate) {
    if (!gate.create || !gate.update) return;
    int live = 0;
    int ready = 0;
    WallTime newest = 0;
    std::map<int, int> holders;  // by team
    int holding = 0;
    std::vector<const PodView*> outdated;
    for (const auto& [index, slot] : context_.workers) {
      if (slot.live.empty() || !is_kept(*slot.live.front())) continue;
      const PodView& pod = *slot.live.front();
      newest = std::max(newest, pod.creation_time);
      ++live;
      if (pod.ready) ++ready;
      const bool holds = may_hold(pod);
      if (holds) {
        ++holders[team_of(pod)];
        ++holding;
      }
      if (!context_.is_outdated(pod, Role::kWorker)) continue;
      if (holds) {
        outdated.push_back(&pod);
      } else {
        remove(pod, "Outdated");
        --live;
      }
    }
    if (outdated.empty()) return;
    const int limit = max_unavailable(context_.swarm.spec);
    int ready_budget = limit - std::max(0, context_.workers_wanted - ready);
    int budget = limit - std::max(0, context_.workers_wanted - holding);
    std::sort(outdated.begin(), outdated.end(), [this](const PodView* a, const PodView* b) {
      return victim_key(*a) < victim_key(*b);
    });

    const bool ready_may_go = ready_budget > 0 && coordinators_current_and_ready();
    std::vector<const PodView*> candidates;
    std::vector<const PodView*> held;
    for (const PodView* pod : outdated) {
      if (pod->ready ? ready_may_go : may_lose_workers(team_of(*pod))) {
        candidates.push_back(pod);
      } else if (!pod->ready && coordinator_is_away(team_of(*pod))) {
        held.push_back(pod);
      }
    }
    std::sort(held.begin(), held.end(), [](const PodView* a, const PodView* b) {
      return slot_index(Role::kWorker, a->slot) < slot_index(Role::kWorker, b->slot);
    });
    if (!held.empty() && !plan_.hold) hold_workers(held);
    if (candidates.empty() || copies_missing()) return;

    // Pods that do not start (no node has room, the new revision is wrong) stop this only for so
    // long, and for ever only where the last sidecar of a team would go.
    const bool filled = live >= context_.workers_wanted;
    const bool forced = budget <= 0 && filled && newest + kRecoveryWait <= context_.now;
    if (budget <= 0 && filled && !forced) again_at(newest + kRecoveryWait);
    if (forced) budget = 1;
    for (const PodView* pod : candidates) {
      const int team = team_of(*pod);
      const bool empty = !pod->ready && holds_nothing(team);
      if (!empty) {
        if (budget <= 0 || (pod->ready && ready_budget <= 0)) continue;
        if (forced && holders[team] == 1) continue;
      }
      if (!remove(*pod, "Outdated")) break;
      --holders[team];
      if (!empty) --budget;
      if (pod->ready) --ready_budget;
    }
  }

  // Not only just replaced by this plan.
  [[nodiscard]] bool coordinator_is_away(int team) const {
    const auto found = context_.coordinators.find(team);
    if (found == context_.coordinators.end() || found->second.live.empty()) return true;
    return is_kept(*found->second.live.front()) && !coordinator_complete(team);
  }

  const Context& context_;
  Memory& memory_;
  PodsPlan plan_;
  std::set<std::string> removed_;                   // UIDs
  std::map<std::string, const PodView*> journals_;  // claim -> who has it
  std::set<int> held_;                              // teams whose coordinator has the only copies
  int made_ = 0;
  int recent_creations_ = 0;
  std::unique_ptr<PodMaker> worker_maker_;
  std::unique_ptr<PodMaker> coordinator_maker_;
};

}  // namespace

PodsPlan plan_pods(const Context& context, const PodGate& coordinators, const PodGate& workers,
                   Memory& memory) {
  return PodsPlanner(context, memory).run(coordinators, workers);
}

int max_unavailable(const api::SwarmSpec& spec) {
  const api::IntOrPercent limit = spec.workers.max_unavailable;
  const int value = limit.percent ? (spec.workers.replicas * limit.value + 99) / 100 : limit.value;
  return std::max(1, value);
}

}  // namespace swarm::plan
