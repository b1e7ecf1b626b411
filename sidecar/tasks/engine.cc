#include <algorithm>
#include <deque>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/check.h"
#include "base/encoding.h"
#include "tasks/tasks.h"
#include "tasks/throttle.h"

namespace swarm::tasks {
namespace {

constexpr std::size_t kMeasuredFirsts = 1000;
constexpr std::uint32_t kMaxAttemptGap =
    64;  // how far a worker's claim may be ahead of a restored copy
constexpr int kIdTries = 16;
constexpr std::uint64_t kMaxRestored = 1ULL << 62U;  // versions must have room to grow
constexpr std::size_t kMaxLate = 1024;
constexpr Milliseconds kRetryBase{1000};
constexpr Milliseconds kLaterBase{5000};
constexpr Milliseconds kMaxDelay{60000};
constexpr int kResendsPerTimeout =
    3;  // an unconfirmed copy goes elsewhere after mirror_timeout / 3

constexpr std::string_view kWorkerLost = "worker_lost";
constexpr std::string_view kLeaseExpired = "lease_expired";
constexpr std::string_view kCancelled = "cancelled";
constexpr std::string_view kNotTaken = "not_taken";

// Ended by us, not by a report: the work may still be going on.
bool is_lost(const Attempt& a) {
  return a.ended_at != 0 && (a.reason == kWorkerLost || a.reason == kLeaseExpired);
}

std::string_view reason_of(FailKind kind) {
  switch (kind) {
    case FailKind::kFailed:
      return "failed";
    case FailKind::kBadTask:
      return "bad_task";
    case FailKind::kTryLater:
      return "try_later";
    case FailKind::kTimeout:
      return "timeout";
    case FailKind::kIdleTimeout:
      return "idle_timeout";
    case FailKind::kCancelled:
      return std::string_view(kCancelled);
    case FailKind::kReleased:
      return "released";
  }
  return "failed";
}

bool is_plain(std::string_view text) {
  return is_utf8(text) && std::none_of(text.begin(), text.end(), [](char c) {
           return static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
         });
}

}  // namespace

Status check_submission(const Submission& s) {
  const auto too_long = [](std::string_view what, std::size_t is, std::size_t most) {
    return invalid(std::string(what) + " has " + std::to_string(is) + " bytes, at most " +
                   std::to_string(most) + " are allowed");
  };
  if (s.body.size() > kMaxBodyBytes) return too_long("body", s.body.size(), kMaxBodyBytes);
  if (s.key.size() > kMaxKeyBytes) return too_long("key", s.key.size(), kMaxKeyBytes);
  if (!is_plain(s.key)) return invalid("key must be UTF-8 without control characters");
  if (!s.idempotency_id.empty() && !is_message_id(s.idempotency_id)) {
    return invalid("id must match ^[A-Za-z0-9._:-]{1,128}$");
  }
  if (s.labels.size() > kMaxLabels) {
    return invalid("labels: " + std::to_string(s.labels.size()) + ", at most " +
                   std::to_string(kMaxLabels) + " are allowed");
  }
  for (const auto& [name, value] : s.labels) {
    if (name.empty() || name.size() > kMaxLabelKeyBytes || !is_plain(name)) {
      return invalid("labels: names are 1 to " + std::to_string(kMaxLabelKeyBytes) +
                     " bytes of UTF-8 without control characters");
    }
    if (value.size() > kMaxLabelValueBytes || !is_plain(value)) {
      return invalid("labels: values are at most " + std::to_string(kMaxLabelValueBytes) +
                     " bytes of UTF-8 without control characters");
    }
  }
  if (s.max_attempts && (*s.max_attempts == 0 || *s.max_attempts > kMaxMaxAttempts)) {
    return invalid("maxAttempts must be between 1 and " + std::to_string(kMaxMaxAttempts));
  }
  return {};
}

namespace {

Spent spent_of(const Task& t) {
  Spent s;
  const Usage& u = t.usage;
  s.input_tokens = u.input_tokens.value_or(0);
  s.output_tokens = u.output_tokens.value_or(0);
  s.cache_read_tokens = u.cache_read_tokens.value_or(0);
  s.cache_creation_tokens = u.cache_creation_tokens.value_or(0);
  s.cost_micro_usd = u.cost_micro_usd.value_or(0);
  s.tasks = u.known() ? 1 : 0;
  s.priced_tasks = u.cost_micro_usd ? 1 : 0;
  return s;
}

Settings sane(Settings s) {
  s.default_max_attempts = std::clamp<std::uint32_t>(s.default_max_attempts, 1, kMaxMaxAttempts);
  s.lease = std::max(s.lease, Milliseconds(1));
  s.worker_lost_after = std::max(s.worker_lost_after, Milliseconds(0));
  s.result_retention = std::max(s.result_retention, Milliseconds(0));
  s.mirror_timeout = std::max(s.mirror_timeout, Milliseconds(kResendsPerTimeout));
  s.v2_percentage = std::clamp(s.v2_percentage, 0, 100);
  return s;
}

bool is_sound(const Worker& w) {
  return is_slot_name(w.name.value) && w.pod.size() <= kMaxNameBytes &&
         w.node.size() <= kMaxNameBytes;
}

}  // namespace

class Engine::Impl {
 public:
  Impl(Settings settings, std::uint64_t (*random)(void*), void* context)
      : settings_(sane(std::move(settings))), random_(random), context_(context) {}

  // (created_at, order of arrival): tasks are listed and handed out in this order.
  using Place = std::pair<WallTime, std::uint64_t>;
  // A copy's version is confirmed by its holder.
  struct SubmitWaiter {
    std::uint64_t ticket;
    MonoTime deadline;
    bool duplicate;
  };
  struct ReportWaiter {
    Worker worker;
    std::uint64_t request;
    std::uint64_t version;
    MonoTime deadline;
  };
  struct Held {                            // the lease on a running task
    std::optional<std::uint64_t> request;  // of the next() it answered, while that connection lasts
    MonoTime deadline;
    bool confirmed;                 // false: restored, its worker has not come yet
    std::optional<MonoTime> since;  // handed out by this engine
    std::optional<Still> still{};
    std::string cycle{};  // that it would have closed, as its refusal has named it
  };
  struct Record {
    Task task;
    std::uint64_t arrival = 0;
    bool pending = false;      // submitted, not accepted yet: nobody sees it
    bool sent = false;         // some worker was sent a copy, and may hold it whatever it answers
    bool unsettled = false;    // restored, recovery not over
    bool touched = false;      // changed since it was restored
    bool granted = false;      // leased by this engine
    std::uint64_t base = 0;    // version it was restored with; 0: made here
    std::uint64_t stored = 0;  // version in the local log
    std::uint32_t seen =
        0;  // highest attempt that a worker has spoken of; a dead epoch may have given it
    std::size_t bytes = 0;                       // encoded
    Spent spent;                                 // as it is in retained_
    std::map<AgentName, std::uint64_t> holders;  // confirmed copies
    std::optional<AgentName> mirror;             // where the copy is to be
    std::optional<MonoTime> resend_at;           // a copy is on its way, unconfirmed
    std::optional<Held> lease;                   // with kRunning
    std::optional<MonoTime> ready_at;            // queued, but not before
    MonoTime finished{};                         // final: since when
    std::vector<SubmitWaiter> submits;
    std::vector<ReportWaiter> reports;
    std::optional<MonoTime> due;  // its place in timers_
    [[nodiscard]] Place place() const { return {task.created_at, arrival}; }
    [[nodiscard]] bool mirrored() const {  // the newest version is at the mirror
      if (!mirror) return false;
      const auto it = holders.find(*mirror);
      return it != holders.end() && it->second == task.version;
    }
  };
  using EligibleKey = std::tuple<bool, std::size_t, AgentName>;  // same node, copies, name
  struct Member {
    Worker worker;
    bool connected = false, leaving = false;
    std::optional<MonoTime> lost_at;  // disconnected, may come back until then
    struct Sent {
      std::uint64_t version;
      std::size_t bytes;
    };
    std::map<TaskId, Sent> in_flight;  // copies sent, unconfirmed: at most kReplicationWindow…
    std::size_t in_flight_bytes = 0;   // … and about kReplicationWindowBytes
    std::map<TaskId, std::uint64_t>
        late;                  // unconfirmed for so long that another was asked; may still confirm
    std::deque<TaskId> queue;  // copies to send; each id once
    std::unordered_set<TaskId> queued;
    std::set<TaskId> copies;  // tasks that have it as mirror or holder
    std::set<TaskId> leases;
    std::map<TaskId, std::uint32_t> claims;  // what it named when it joined, not yet resolved
    std::size_t mirror_of = 0;
    std::size_t waiting = 0;
    std::optional<EligibleKey> eligible;
  };
  struct Waiter {
    Worker worker;
    std::uint64_t request;
    MonoTime deadline;
  };
  using WaitKey = std::tuple<AgentName, std::uint64_t, std::uint64_t>;  // session, request
  struct Wait {
    Worker worker;
    std::optional<Running> self;
    std::vector<TaskId> tasks;
  };
  struct Erased {
    WallTime created_at;
    std::uint64_t arrival;
    bool was_accepted;
  };

  // ------------------------------------------------------------------ lookups
  Record* lookup(const TaskId& id) {
    const auto it = records_.find(id);
    return it == records_.end() ? nullptr : &it->second;
  }
  const Record* lookup(const TaskId& id) const {
    const auto it = records_.find(id);
    return it == records_.end() ? nullptr : &it->second;
  }
  Member* member(const AgentName& name) {
    const auto it = members_.find(name);
    return it == members_.end() ? nullptr : &it->second;
  }
  // The member if `w` is its present session.
  Member* present(const Worker& w) {
    Member* m = member(w.name);
    return m != nullptr && m->worker.session == w.session ? m : nullptr;
  }
  Status may_speak(const Worker& w) {
    const Member* m = member(w.name);
    if (m == nullptr || w.session > m->worker.session)
      return unavailable(w.name.value + " has not joined yet");
    if (w.session < m->worker.session) {
      return Error{Code::kDenied, "superseded: " + w.name.value + " has a newer incarnation"};
    }
    return {};
  }
  Error missing(const TaskId& id) const {
    if (recovering_) return unavailable("the coordinator is collecting its tasks; try again");
    const auto it = erased_.find(id);
    if (it != erased_.end()) {
      return not_found(it->second.was_accepted ? "task " + id.value + " has expired"
                                               : "task " + id.value + " was never accepted");
    }
    if (awaiting_ && team_of(id) == settings_.team)
      return unavailable("a worker that may hold this task has not come back yet; try again");
    return not_found(is_task_id(id.value) ? "no task " + id.value : "no such task");
  }
  Record* visible(const TaskId& id) {
    Record* r = lookup(id);
    return r != nullptr && !r->pending ? r : nullptr;
  }

  template <typename T>  // Task or const Task
  static auto knows(T& t, std::uint32_t number, const AgentName& agent, std::uint64_t session)
      -> decltype(t.history.data()) {
    for (auto& a : t.history) {
      if (a.number == number && a.agent == agent && a.session == session) return &a;
    }
    return nullptr;
  }
  // Newer than the copy we were restored from, but not of our own making.
  static bool from_dead_epoch(const Record& r, std::uint64_t version) {
    return r.base != 0 && version > r.base && version < (r.base / kVersionStep + 1) * kVersionStep;
  }

  template <typename T>
  void out(T output) {
    outputs_.emplace_back(std::move(output));
  }

  // ------------------------------------------------------------------ timers
  void retime(Record& r) {
    std::optional<MonoTime> due;
    const auto at = [&](MonoTime t) { due = due ? std::min(*due, t) : t; };
    for (const SubmitWaiter& w : r.submits) at(w.deadline);
    for (const ReportWaiter& w : r.reports) at(w.deadline);
    if (r.resend_at) at(*r.resend_at);
    if (!recovering_) {
      if (r.lease) at(r.lease->deadline);
      if (r.ready_at) at(*r.ready_at);
      if (is_final(r.task.state)) at(r.finished + settings_.result_retention);
    }
    if (due == r.due) return;
    if (r.due) timers_.erase({*r.due, r.arrival});
    r.due = due;
    if (due) timers_.emplace(std::pair{*due, r.arrival}, &r);
  }

  Milliseconds backoff(Milliseconds base, std::uint32_t times_before) {
    const Milliseconds full =
        std::min<Milliseconds>(kMaxDelay, base * (1LL << std::min<std::uint32_t>(times_before, 6)));
    // Half to all of it, but never less than the base.
    const auto half = static_cast<std::uint64_t>(full.count()) / 2;
    return std::max(base,
                    Milliseconds(static_cast<std::int64_t>(half + random_(context_) % (half + 1))));
  }

  // ------------------------------------------------------------------ copies
  bool may_mirror(const Member& m) const {
    return m.connected && !m.leaving && (settings_.pod.empty() || m.worker.pod != settings_.pod);
  }
  bool is_far(const Worker& w) const {
    return !settings_.node.empty() && !w.node.empty() && w.node != settings_.node;
  }
  void rank(Member& m) {
    std::optional<EligibleKey> key;
    if (may_mirror(m)) key = EligibleKey{!is_far(m.worker), m.mirror_of, m.worker.name};
    if (key == m.eligible) return;
    if (m.eligible) eligible_.erase(*m.eligible);
    m.eligible = std::move(key);
    if (m.eligible) eligible_.insert(*m.eligible);
  }

  void send_to_mirror(Record& r, Member& m, MonoTime now) {
    if (r.unsettled) return;  // a newer copy may come; settle() asks again
    if (!m.connected) {       // it may be back in a moment; if not, another gets the copy
      if (!r.resend_at) r.resend_at = now + settings_.mirror_timeout / kResendsPerTimeout;
      retime(r);
      return;
    }
    if (m.in_flight.contains(r.task.id)) return;  // its confirmation asks again
    if (m.queued.insert(r.task.id).second) m.queue.push_back(r.task.id);
    pump(m, now);
  }
  void pump(Member& m, MonoTime now) {
    while (m.connected && m.in_flight.size() < kReplicationWindow &&
           m.in_flight_bytes < kReplicationWindowBytes && !m.queue.empty()) {
      const TaskId id = std::move(m.queue.front());
      m.queue.pop_front();
      m.queued.erase(id);
      Record* r = lookup(id);
      if (r == nullptr || r->mirror != m.worker.name || r->mirrored()) continue;
      std::string bytes = encode(r->task);
      m.in_flight[id] = {r->task.version, bytes.size()};
      m.in_flight_bytes += bytes.size();
      out(Replicate{m.worker, id, r->task.version, std::move(bytes)});
      r->sent = true;
      r->resend_at = now + settings_.mirror_timeout / kResendsPerTimeout;
      retime(*r);
    }
  }
  void not_in_flight(Member& m, const TaskId& id) {
    const auto sent = m.in_flight.find(id);
    if (sent == m.in_flight.end()) return;
    m.in_flight_bytes -= sent->second.bytes;
    m.in_flight.erase(sent);
  }
  void add_holder(Record& r, Member& m, std::uint64_t version) {
    r.holders[m.worker.name] = version;
    m.copies.insert(r.task.id);
  }
  void drop_holder(Record& r, Member& m) {
    r.holders.erase(m.worker.name);
    if (r.mirror != m.worker.name) m.copies.erase(r.task.id);
  }
  void unset_mirror(Record& r) {
    if (!r.mirror) return;
    Member* m = member(*r.mirror);
    check(m != nullptr, "a mirror is a member");
    m->mirror_of--;
    rank(*m);
    if (!r.holders.contains(*r.mirror)) m->copies.erase(r.task.id);
    r.mirror.reset();
    r.resend_at.reset();
  }
  void set_mirror(Record& r, Member& m, MonoTime now) {
    unset_mirror(r);
    unmirrored_.erase(r.task.id);
    r.mirror = m.worker.name;
    m.mirror_of++;
    m.copies.insert(r.task.id);
    rank(m);
    if (!r.mirrored()) send_to_mirror(r, m, now);
    retime(r);
  }
  // The best place for the copy: one that has it already, else the best eligible; not `avoid`.
  // None: it waits for one.
  void assign_mirror(Record& r, MonoTime now, const AgentName* avoid = nullptr) {
    Member* best = nullptr;
    for (const auto& [name, version] : r.holders) {
      Member* m = member(name);
      if (version == r.task.version && may_mirror(*m) && (avoid == nullptr || name != *avoid))
        best = m;
    }
    for (auto it = eligible_.begin(); best == nullptr && it != eligible_.end(); ++it) {
      if (avoid == nullptr || std::get<2>(*it) != *avoid) best = member(std::get<2>(*it));
    }
    if (best != nullptr) {
      set_mirror(r, *best, now);
      forget_spares(r);
      return;
    }
    unset_mirror(r);
    unmirrored_.insert(r.task.id);
    retime(r);
  }
  void assign_waiting(MonoTime now) {
    if (unmirrored_.empty() || eligible_.empty()) return;
    const std::set<TaskId> waiting = std::exchange(unmirrored_, {});
    for (const TaskId& id : waiting) assign_mirror(*lookup(id), now);
  }
  // A confirmation that is still on its way must not count any more: the copy will be gone.
  void forget(Member& m, const TaskId& id) {
    not_in_flight(m, id);
    m.late.erase(id);
    if (m.connected) out(Forget{m.worker, id});
  }
  // The newest version is at the mirror: nobody else needs one.
  void forget_spares(Record& r) {
    if (!r.mirrored() || r.unsettled) return;
    for (auto it = r.holders.begin(); it != r.holders.end();) {
      if (it->first == *r.mirror) {
        ++it;
        continue;
      }
      Member* m = member(it->first);
      it = r.holders.erase(it);
      m->copies.erase(r.task.id);
      forget(*m, r.task.id);
    }
  }
  std::string_view survives(const Record& r) const {
    std::string_view best = "container";
    for (const auto& [name, version] : r.holders) {
      if (is_far(members_.at(name).worker)) return "node";
      best = "pod";
    }
    return best;
  }
  std::vector<AgentName> mirrors(const Record& r) const {
    std::vector<AgentName> names;
    for (const auto& [name, version] : r.holders) names.push_back(name);
    return names;
  }

  // ------------------------------------------------------------------ changes of a task
  void account(Record& r, std::size_t bytes) {
    total_bytes_ = total_bytes_ - r.bytes + bytes;
    r.bytes = bytes;
    const Spent spent = spent_of(r.task);
    for (const auto member : kSpentFields) retained_.*member += spent.*member - r.spent.*member;
    r.spent = spent;
  }
  // An attempt's usage counts once. False: it does not now.
  bool spend(Task& t, Attempt& a, const Report& report) {
    if (!report.usage.known() || a.usage.known()) return false;
    const Spent before = spent_of(t);
    add(a.usage, report.usage);  // within its limits
    add(t.usage, a.usage);
    if (is_message_id(report.session)) a.cli_session = report.session;
    const Spent after = spent_of(t);
    for (const auto member : kSpentFields) fresh_.*member += after.*member - before.*member;
    return true;
  }
  void put(Record& r, Task task) {
    if (!task.parent.empty()) subtasks_[task.parent].insert(task.id);
    r.task = std::move(task);
    account(r, encode(r.task).size());
  }
  void store(Record& r) {
    std::string bytes = encode(r.task);
    account(r, bytes.size());
    r.stored = r.task.version;
    out(Store{r.task.id, r.task.version, std::move(bytes)});
  }
  // The random part keeps the versions of two coordinators apart that began with the same copy.
  std::uint64_t next_epoch(std::uint64_t version) {
    return (version / kVersionStep + 1) * kVersionStep + random_(context_) % (kVersionStep / 2);
  }

  // After every change that matters: version, local log, mirror, waiters.
  void changed(Record& r, MonoTime now, WallTime wall) {
    if (r.base != 0 && !r.touched) {
      r.task.version = next_epoch(r.task.version);
    } else {
      r.task.version++;
    }
    r.touched = true;
    r.task.updated_at = wall;
    store(r);
    if (r.mirror) {
      send_to_mirror(r, *member(*r.mirror), now);
    } else {
      assign_mirror(r, now);
    }
    tell(r.task.id);
    retime(r);
  }
  void tell(const TaskId& id) {
    out(Changed{id});
    if (const auto found = awaited_.find(id); found != awaited_.end()) {
      for (const WaitKey& key : std::set(found->second)) look_at_wait(key);
    }
  }

  // ------------------------------------------------------------------ waits
  bool has_ended(const TaskId& id) const {
    const Record* r = lookup(id);
    return r == nullptr || is_final(r->task.state);
  }
  void end_wait(const WaitKey& key, const Status* answer) {
    const auto found = waits_.find(key);
    if (found == waits_.end()) return;
    Wait wait = std::move(found->second);
    waits_.erase(found);
    const auto unlink = [&](std::unordered_map<TaskId, std::set<WaitKey>>& index,
                            const TaskId& id) {
      const auto entry = index.find(id);
      if (entry == index.end()) return;
      entry->second.erase(key);
      if (entry->second.empty()) index.erase(entry);
    };
    for (const TaskId& id : wait.tasks) unlink(awaited_, id);
    if (wait.self) unlink(waiting_, wait.self->id);
    if (answer != nullptr)
      out(Waited{wait.worker, std::get<2>(key), *answer, std::move(wait.tasks)});
  }
  void look_at_wait(const WaitKey& key) {
    const Wait& wait = waits_.at(key);
    if (!std::all_of(wait.tasks.begin(), wait.tasks.end(),
                     [&](const TaskId& id) { return has_ended(id); }))
      return;
    const Status over;
    end_wait(key, &over);
  }
  // The attempt of `id` waits no longer, whatever it asked for.
  void end_waits_of(const TaskId& id, const std::string& why) {
    const auto found = waiting_.find(id);
    if (found == waiting_.end()) return;
    const Status over = Error{Code::kDenied, why};
    for (const WaitKey& key : std::set(found->second)) end_wait(key, &over);
  }
  // Nobody hears an answer.
  void drop_waits(const Worker& worker) {
    for (const WaitKey& key : waits_by(worker)) end_wait(key, nullptr);
  }
  std::vector<WaitKey> waits_by(const Worker& worker) const {
    std::vector<WaitKey> out;
    for (auto it = waits_.lower_bound({worker.name, worker.session, 0});
         it != waits_.end() && it->second.worker.name == worker.name &&
         it->second.worker.session == worker.session;
         ++it)
      out.push_back(it->first);
    return out;
  }
  std::set<TaskId> edges_of(const TaskId& id) const {
    std::set<TaskId> out;
    const auto found = waiting_.find(id);
    if (found == waiting_.end()) return out;
    for (const WaitKey& key : found->second) {
      for (const TaskId& to : waits_.at(key).tasks) {
        if (!has_ended(to)) out.insert(to);
      }
    }
    return out;
  }
  // The tasks from `self` over one of `tasks` back to `self`; empty: there is no such way.
  std::vector<TaskId> cycle(const TaskId& self, const std::vector<TaskId>& tasks) const {
    std::unordered_map<TaskId, TaskId> came_from;  // which has been looked at, or will be
    std::deque<TaskId> left;
    const auto reach = [&](const TaskId& id, const TaskId& from) {
      if (!has_ended(id) && came_from.emplace(id, from).second) left.push_back(id);
    };
    for (const TaskId& id : tasks) reach(id, self);
    while (!left.empty()) {
      const TaskId at = std::move(left.front());
      left.pop_front();
      if (at == self) {
        std::vector<TaskId> way{self};
        for (TaskId id = came_from.at(self); id != self; id = came_from.at(id)) way.push_back(id);
        way.push_back(self);
        std::reverse(way.begin(), way.end());
        return way;
      }
      for (const TaskId& id : edges_of(at)) reach(id, at);
    }
    return {};
  }
  static std::string names_of(const std::vector<TaskId>& way) {
    std::string out;
    for (std::size_t i = 0; i < way.size(); ++i) {
      if (i + 1 < way.size() && i >= kMaxCycleNamed) {
        if (i == kMaxCycleNamed)
          out += " -> … " + std::to_string(way.size() - 1 - kMaxCycleNamed) + " more";
        continue;
      }
      out += (i == 0 ? "" : " -> ") + way[i].value;
    }
    return out;
  }
  // Whether `by` may speak for its attempt; it may be its again, as for an extension.
  Status is_at_work(const AtWork& by, MonoTime now, WallTime wall) {
    if (Status status = may_speak(by.worker); !status) return status;
    Member& m = *present(by.worker);
    if (!m.connected) return unavailable("not connected");
    Record* r = visible(by.id);
    if (r == nullptr) return missing(by.id);
    switch (claim(*r, m, by.attempt, now, wall)) {
      case Claim::kNo:
        return Error{Code::kDenied, "attempt " + std::to_string(by.attempt) + " of " + by.id.value +
                                        " is not leased to " + by.worker.name.value +
                                        " (the task is " + std::string(state_name(r->task.state)) +
                                        ")"};
      case Claim::kTaken:
        changed(*r, now, wall);
        break;
      case Claim::kHas:
        break;
    }
    if (r->task.cancel_requested)
      return Error{Code::kDenied, "task " + by.id.value + " is cancelled: stop working on it"};
    return {};
  }
  void make_ready(Record& r) {
    r.ready_at.reset();
    ready_.emplace(r.place(), &r);
  }
  // The caller calls changed().
  void enqueue(Record& r, MonoTime now, WallTime wall, Milliseconds delay) {
    if (r.task.state != TaskState::kQueued) queued_count_++;
    r.task.state = TaskState::kQueued;
    if (delay.count() == 0) {
      r.task.not_before = 0;
      make_ready(r);
    } else {
      r.task.not_before = wall + delay.count();
      r.ready_at = now + delay;
    }
  }
  void unqueue(Record& r) {
    ready_.erase(r.place());
    r.ready_at.reset();
    if (r.task.state == TaskState::kQueued) queued_count_--;
  }
  void finish(Record& r, MonoTime now, WallTime wall, TaskState state) {
    if (r.task.state == TaskState::kQueued) unqueue(r);
    r.task.state = state;
    r.task.finished_at = std::max<WallTime>(wall, 1);
    r.task.not_before = 0;
    r.finished = now;
    finals_.emplace(std::pair{now, r.arrival}, &r);
  }
  void open_attempt(Record& r, const Member& m, std::uint32_t number, WallTime wall) {
    Task& t = r.task;
    if (!t.history.empty() && t.history.back().reason == kNotTaken) {  // however many there were
      t.history.pop_back();
      t.history_dropped++;
    }
    if (t.route == Version::kUndecided) {
      t.route = route(t.key.empty() ? t.id.value : t.key, settings_.v2_percentage);
    }
    if (settings_.v1_command.empty()) t.route = Version::kV2;
    if (t.history.size() == kMaxHistory) {  // the first and the latest tell most
      t.history.erase(t.history.begin() + 1);
      t.history_dropped++;
    }
    Attempt a;
    a.number = number;
    a.agent = m.worker.name;
    a.pod = m.worker.pod;
    a.node = m.worker.node;
    a.session = m.worker.session;
    a.version = t.route;
    a.started_at = wall;
    t.history.push_back(std::move(a));
  }
  void take_lease(Record& r, Member& m, MonoTime deadline, bool confirmed) {
    r.task.state = TaskState::kRunning;
    r.task.not_before = 0;
    r.lease = Held{std::nullopt, deadline, confirmed, std::nullopt};
    m.leases.insert(r.task.id);
  }
  void drop_lease(Record& r) {
    if (!r.lease) return;
    Member* m = member(r.task.history.back().agent);
    if (m != nullptr) m->leases.erase(r.task.id);
    r.lease.reset();
    still_.erase(r.task.id);
    end_waits_of(r.task.id, "the attempt of " + r.task.id.value + " that waits has ended");
  }
  void close_attempt(Record& r, WallTime wall, std::string_view reason, bool charged) {
    Attempt& a = r.task.history.back();
    a.ended_at = std::max<WallTime>(wall, 1);
    a.reason = reason;
    a.charged = charged;
    drop_lease(r);
    measure(a);
  }
  void measure(const Attempt& a) {
    if (a.number != 1 || !a.charged) return;
    firsts_.push_back(a.version);
    if (firsts_.size() > kMeasuredFirsts) firsts_.pop_front();
  }
  // A running task's lease is over without a report.
  void lose(Record& r, MonoTime now, WallTime wall, std::string_view reason) {
    close_attempt(r, wall, reason, false);
    if (reason == kWorkerLost) worker_lost_++;
    r.task.losses_in_a_row++;
    if (r.task.cancel_requested) {
      finish(r, now, wall, TaskState::kCancelled);
    } else {
      again_after_loss(r, now, wall);
    }
    changed(r, now, wall);
  }
  void again_after_loss(Record& r, MonoTime now, WallTime wall) {
    if (r.task.losses_in_a_row < kMaxLosses) {
      enqueue(r, now, wall, Milliseconds(0));
      return;
    }
    r.task.last_output = "given up: " + std::to_string(r.task.losses_in_a_row) +
                         " attempts in a row ended without a report, the last by " +
                         r.task.history.back().reason;
    r.task.last_output_at = wall;
    finish(r, now, wall, TaskState::kDead);
  }

  enum class Claim { kNo, kHas, kTaken };
  // Does (m, attempt) own the task now, or may it (again)? kTaken: it does now; the caller calls
  // changed().
  Claim claim(Record& r, Member& m, std::uint32_t attempt, MonoTime now, WallTime wall) {
    Task& t = r.task;
    if (r.pending) return Claim::kNo;
    Attempt* last = t.history.empty() ? nullptr : &t.history.back();
    const std::uint32_t last_number = last == nullptr ? 0 : last->number;
    if (r.base != 0 && attempt > last_number && attempt - last_number <= kMaxAttemptGap) {
      r.seen = std::max(r.seen, attempt);
    }
    const bool mine = last != nullptr && last->number == attempt && last->agent == m.worker.name &&
                      last->session == m.worker.session;
    // A copy older than this lease was restored: the attempt is one that an earlier epoch gave.
    const bool ahead = r.base != 0 && !r.granted && attempt > last_number &&
                       attempt - last_number <= kMaxAttemptGap;
    const MonoTime deadline = now + settings_.lease;
    if (t.state == TaskState::kRunning) {
      if (mine) {
        if (!r.lease->confirmed) r.lease->deadline = deadline;
        r.lease->confirmed = true;
        return Claim::kHas;
      }
      if (!ahead || r.lease->confirmed) return Claim::kNo;
      close_attempt(r, wall, kWorkerLost, false);
      worker_lost_++;
    } else if (t.state == TaskState::kQueued) {
      if (mine && is_lost(*last)) {
        unqueue(r);
        last->ended_at = 0;
        last->reason.clear();
        if (t.losses_in_a_row > 0) t.losses_in_a_row--;
        take_lease(r, m, deadline, true);
        return Claim::kTaken;
      }
      if (!ahead) return Claim::kNo;
      unqueue(r);
    } else {
      return Claim::kNo;
    }
    open_attempt(r, m, attempt, wall);
    r.granted = true;
    take_lease(r, m, deadline, true);
    return Claim::kTaken;
  }

  // ------------------------------------------------------------------ hand-out
  // At least: of the other teams what was told last. Attempts at work are not foreseen.
  std::uint64_t cost_so_far() const {
    return std::max(spent().cost_micro_usd, settings_.swarm_cost_micro_usd +
                                                (fresh_.cost_micro_usd - fresh_cost_when_told_));
  }
  bool over_budget() const {
    return settings_.budget_micro_usd && cost_so_far() >= *settings_.budget_micro_usd;
  }
  Spent spent() const {
    Spent sum;
    for (const auto member : kSpentFields) {
      const std::uint64_t known = expired_.*member + retained_.*member, fresh = fresh_.*member;
      const std::uint64_t before = std::max(known - std::min(known, fresh), reported_.*member);
      sum.*member = std::min(before + fresh, kMaxSpent);
    }
    return sum;
  }
  // The oldest; while only some are handed out, to see how the service is, one that was told to try
  // later least often: it may be the task that is never served.
  Record* next_ready(MonoTime now) {
    auto best = ready_.begin();
    if (throttle_.limits(now))
      best = std::min_element(ready_.begin(), ready_.end(), [](const auto& a, const auto& b) {
        return a.second->task.later_in_a_row < b.second->task.later_in_a_row;
      });
    return best->second;
  }
  void hand_out(MonoTime now, WallTime wall) {
    if (recovering_ || settings_.suspended || over_budget()) return;
    while (!ready_.empty() && !waiters_.empty() && throttle_.may_hand_out(now)) {
      throttle_.on_handed_out(now);
      Record& r = *next_ready(now);
      const Waiter waiter = waiters_.begin()->second;
      drop_waiter(waiters_.begin()->first);
      Member& m = *member(waiter.worker.name);
      unqueue(r);
      const std::uint32_t last = r.task.history.empty() ? 0 : r.task.history.back().number;
      const std::uint32_t number = std::max(last, r.seen) + 1;
      if (!r.task.history.empty() && r.task.history.back().reason != kNotTaken) retries_++;
      open_attempt(r, m, number, wall);
      r.granted = true;
      take_lease(r, m, now + settings_.lease, true);
      r.lease->request = waiter.request;
      r.lease->since = now;
      changed(r, now, wall);
      answer_lease(r, m, waiter.request);
    }
  }
  void answer_lease(const Record& r, const Member& m, std::uint64_t request) {
    const Task& t = r.task;
    const Attempt& a = t.history.back();
    out(Lease{m.worker, request, t.id, a.number, t.max_attempts, a.version, settings_.lease, t.key,
              t.body, t.labels,
              a.version == Version::kV1 ? settings_.v1_command : std::vector<std::string>{}});
  }
  void drop_waiter(std::uint64_t place) {
    const auto it = waiters_.find(place);
    if (it == waiters_.end()) return;
    waiter_deadlines_.erase({it->second.deadline, place});
    if (Member* m = member(it->second.worker.name)) m->waiting--;
    waiters_.erase(it);
  }
  std::vector<std::uint64_t> waiters_of(const AgentName& name) const {
    std::vector<std::uint64_t> places;
    for (const auto& [place, waiter] : waiters_) {
      if (waiter.worker.name == name) places.push_back(place);
    }
    return places;
  }

  // ------------------------------------------------------------------ acceptance, reports
  void answer_submits(Record& r) {
    for (const SubmitWaiter& w : std::exchange(r.submits, {})) {
      out(Submitted{w.ticket, r.task.id, std::string(survives(r)), w.duplicate, mirrors(r)});
    }
  }
  void accept(Record& r) {
    if (r.pending) {
      r.pending = false;
      pending_count_--;
      order_.emplace(r.place(), &r);
      r.task.not_before = 0;
      queued_count_++;
      make_ready(r);
      answer_submits(r);
      tell(r.task.id);
    } else {
      answer_submits(r);
    }
    retime(r);
  }
  void confirmed(Record& r) {
    if (r.holders.empty()) return;
    if (r.pending || !r.submits.empty()) accept(r);
    std::uint64_t best = 0;
    for (const auto& [name, version] : r.holders) best = std::max(best, version);
    std::erase_if(r.reports, [&](const ReportWaiter& w) {
      if (w.version > best) return false;
      out(Reported{w.worker, w.request, Status{}});
      return true;
    });
    retime(r);
  }
  // Reported once a mirror has what the report changed.
  void answer_when_mirrored(Record& r, const Worker& w, std::uint64_t request, MonoTime now) {
    bool have =
        eligible_.empty() && r.mirror == std::nullopt;  // nobody could hold it: our log must do
    for (const auto& [name, version] : r.holders) have = have || version == r.task.version;
    if (have) {
      out(Reported{w, request, Status{}});
      return;
    }
    std::erase_if(r.reports, [&](const ReportWaiter& other) {
      return other.worker == w && other.request == request;
    });
    if (r.reports.size() >= kMaxWaitersPerTask) {
      out(Reported{w, request, unavailable("too many reports wait for this task's second copy")});
      return;
    }
    r.reports.push_back({w, request, r.task.version, now + settings_.mirror_timeout});
    retime(r);
  }

  // ------------------------------------------------------------------ removal
  void remember_erased(const Record& r) {
    if (erased_.emplace(r.task.id, Erased{r.task.created_at, r.arrival, !r.pending}).second) {
      erased_order_.push_back(r.task.id);
    }
    if (erased_order_.size() > kMaxErased) {
      erased_.erase(erased_order_.front());
      erased_order_.pop_front();
    }
  }
  void erase(Record& r) {
    remember_erased(r);
    const TaskId id = r.task.id;
    std::optional<Expired> expired;
    if (r.spent.tasks > 0) {
      for (const auto member : kSpentFields) {
        retained_.*member -= r.spent.*member;
        expired_.*member = std::min(expired_.*member + r.spent.*member, kMaxSpent);
      }
      expired = Expired{expired_, id, r.task.version};
    }
    if (r.stored != 0) out(Erase{id, std::move(expired)});
    std::set<AgentName> to_tell;
    for (const auto& [name, version] : r.holders) to_tell.insert(name);
    if (r.mirror) to_tell.insert(*r.mirror);
    unset_mirror(r);
    for (const AgentName& name : to_tell) {
      Member* m = member(name);
      m->copies.erase(id);
      forget(*m, id);
    }
    unmirrored_.erase(id);
    for (const ReportWaiter& w : r.reports) out(Reported{w.worker, w.request, Status{}});
    if (r.pending) pending_count_--;
    if (r.task.state == TaskState::kQueued && !r.pending) unqueue(r);
    if (is_final(r.task.state)) finals_.erase({r.finished, r.arrival});
    order_.erase(r.place());
    if (r.due) timers_.erase({*r.due, r.arrival});
    if (!r.task.idempotency_id.empty()) {
      const auto it = by_idempotency_.find(r.task.idempotency_id);
      if (it != by_idempotency_.end() && it->second == id) by_idempotency_.erase(it);
    }
    if (const auto family = subtasks_.find(r.task.parent); family != subtasks_.end()) {
      family->second.erase(id);
      if (family->second.empty()) subtasks_.erase(family);
    }
    total_bytes_ -= r.bytes;
    const bool known = !r.pending;
    records_.erase(id);
    if (known) tell(id);
  }
  void trim_finals() {
    while (finals_.size() > kMaxFinal) erase(*finals_.begin()->second);
  }

  [[nodiscard]] std::string no_mirror() const {
    const bool alone = std::none_of(members_.begin(), members_.end(), [](const auto& one) {
      return one.second.connected && !one.second.leaving;
    });
    return alone ? "no agent is up whose pod could hold the second copy; nothing was accepted. "
                   "Scale the Swarm's workers to 1 or more, or wait until one is ready"
                 : "no second pod was there in time to store the task; nothing was accepted, try "
                   "again";
  }

  void on_due(Record& r, MonoTime now, WallTime wall) {
    const auto late = [&](const SubmitWaiter& w) { return w.deadline <= now; };
    if (std::any_of(r.submits.begin(), r.submits.end(), late)) {
      if (r.pending && !settings_.require_mirror) {
        accept(r);
      } else if (r.pending) {
        const std::vector<SubmitWaiter> waiting = std::exchange(r.submits, {});
        // Whoever was sent a copy is told to forget it; but if it can't be told before this
        // coordinator is lost, it brings the copy to the next one, and the task is done.
        const Error why =
            r.sent ? Error{Code::kUnknown,
                           std::string("another pod was sent the task and has not confirmed it in "
                                       "time: it may be done yet; ") +
                               (r.task.idempotency_id.empty()
                                    ? "without an id to repeat it with it may be done twice"
                                    : "repeat it with the same id")}
                   : unavailable(no_mirror());
        erase(r);
        for (const SubmitWaiter& w : waiting) out(Submitted{w.ticket, why, "", false, {}});
        return;
      } else {
        for (const SubmitWaiter& w : r.submits) {
          if (late(w)) {
            out(Submitted{w.ticket,
                          Error{Code::kUnknown, "task " + r.task.id.value +
                                                    " exists, but no second pod holds it now"},
                          "",
                          true,
                          {}});
          }
        }
        std::erase_if(r.submits, late);
      }
    }
    std::erase_if(r.reports, [&](const ReportWaiter& w) {
      if (w.deadline > now) return false;
      out(Reported{w.worker, w.request,
                   unavailable("no second pod stored the report in time; repeat it")});
      return true;
    });
    if (r.resend_at && *r.resend_at <= now) {
      r.resend_at.reset();
      Member& m = *member(*r.mirror);
      if (const auto sent = m.in_flight.find(r.task.id); sent != m.in_flight.end()) {
        if (m.late.size() < kMaxLate) m.late[r.task.id] = sent->second.version;
        not_in_flight(m, r.task.id);
      }
      const AgentName slow = m.worker.name;
      assign_mirror(r, now, &slow);
      if (!r.mirror) set_mirror(r, m, now);  // nobody else: the same again, or when it is back
      pump(m, now);
    }
    if (!recovering_) {
      if (r.ready_at && *r.ready_at <= now) make_ready(r);
      if (r.lease && r.lease->deadline <= now && waiting_.contains(r.task.id) &&
          !r.task.cancel_requested)
        r.lease->deadline = now + settings_.lease;  // who waits is there: its worker would say else
      if (r.lease && r.lease->deadline <= now) {
        const Member* m = member(r.task.history.back().agent);
        lose(r, now, wall, m != nullptr && m->connected ? kLeaseExpired : kWorkerLost);
      }
      if (is_final(r.task.state) && r.finished + settings_.result_retention <= now) {
        erase(r);
        return;
      }
    }
    retime(r);
  }

  // ------------------------------------------------------------------ members
  void clear_transfers(Member& m) {
    m.in_flight.clear();
    m.in_flight_bytes = 0;
    m.late.clear();
    m.queue.clear();
    m.queued.clear();
  }
  void drop_copies(Member& m, MonoTime now) {
    clear_transfers(m);
    const std::set<TaskId> copies = m.copies;
    for (const TaskId& id : copies) {
      Record& r = *lookup(id);
      drop_holder(r, m);
      if (r.mirror == m.worker.name) assign_mirror(r, now);
    }
  }
  void lose_leases(Member& m, MonoTime now, WallTime wall) {
    const std::set<TaskId> leases = m.leases;
    for (const TaskId& id : leases) lose(*lookup(id), now, wall, kWorkerLost);
  }
  void drop_waiters(Member& m) {
    for (std::uint64_t place : waiters_of(m.worker.name)) drop_waiter(place);
  }
  void set_lost_at(Member& m, std::optional<MonoTime> at) {
    if (m.lost_at) lost_timers_.erase({*m.lost_at, m.worker.name});
    m.lost_at = at;
    if (at) lost_timers_.emplace(*at, m.worker.name);
  }
  // Everything that hangs on the session is over.
  void end_session(Member& m, MonoTime now, WallTime wall) {
    m.connected = false;
    rank(m);
    set_lost_at(m, std::nullopt);
    drop_waiters(m);
    drop_waits(m.worker);
    m.claims.clear();
    lose_leases(m, now, wall);
    drop_copies(m, now);
  }
  // A member that is not here (yet) although a restored lease names it.
  Member& placeholder(const Attempt& a, MonoTime now, WallTime wall) {
    Member& m = members_[a.agent];
    if (!m.worker.name.empty()) end_session(m, now, wall);
    m.worker = Worker{a.agent, a.session, a.pod, a.node};
    m.leaving = false;
    set_lost_at(m, now + settings_.worker_lost_after);
    return m;
  }
  void bound_members() {
    if (members_.size() < kMaxWorkers) return;
    for (auto it = members_.begin(); it != members_.end(); ++it) {
      const Member& m = it->second;
      if (!m.connected && !m.lost_at && m.copies.empty() && m.leases.empty()) {
        members_.erase(it);
        return;
      }
    }
  }

  // A worker says that it has this version: it is a holder, or gets a Forget. Unknown copies are
  // left alone: they may be all that is left of an accepted task.
  void reconcile_held(Member& m, const TaskId& id, std::uint64_t version) {
    Record* r = lookup(id);
    if (r == nullptr) {
      if (erased_.contains(id)) out(Forget{m.worker, id});
      return;
    }
    if (version > r->task.version) return;  // restore() decides
    if (r->mirrored() && r->mirror != m.worker.name && !r->unsettled) {
      drop_holder(*r, m);
      forget(m, id);
      return;
    }
    add_holder(*r, m, version);
    if (!r->mirror && may_mirror(m)) {
      set_mirror(*r, m, now_);
    }
    if (r->mirrored()) {
      r->resend_at.reset();
      // What may still be on its way there is not waited for: it would keep later versions back.
      Member& mirror = *member(*r->mirror);
      not_in_flight(mirror, id);
      mirror.late.erase(id);
      forget_spares(*r);
    }
    if (!r->unsettled) confirmed(*r);
  }

  // What a worker said it is working on, against what we know. `m` is connected, recovery is over.
  void resolve_claim(Member& m, const TaskId& id, std::uint32_t attempt, MonoTime now,
                     WallTime wall) {
    Record* r = lookup(id);
    if (r == nullptr) return;
    switch (claim(*r, m, attempt, now, wall)) {
      case Claim::kTaken:
        changed(*r, now, wall);
        break;
      case Claim::kHas:
        retime(*r);
        break;
      case Claim::kNo: {
        const Attempt* a = knows(r->task, attempt, m.worker.name, m.worker.session);
        if (a == nullptr || is_lost(*a) || a->reason == kCancelled)
          out(Cancel{m.worker, id, attempt});  // else only its report is repeated
        return;
      }
    }
    if (r->task.cancel_requested) out(Cancel{m.worker, id, attempt});
  }

  // ------------------------------------------------------------------ recovery
  // Puts a restored task into its place. Claims come after.
  void settle(Record& r, MonoTime now, WallTime wall) {
    r.unsettled = false;
    Task& t = r.task;
    if (r.stored < t.version) store(r);
    order_.emplace(r.place(), &r);
    if (is_final(t.state)) {
      const auto age =
          std::clamp<std::int64_t>(wall - t.finished_at, 0, settings_.result_retention.count());
      r.finished = now - Milliseconds(age);
      finals_.emplace(std::pair{r.finished, r.arrival}, &r);
    } else if (t.state == TaskState::kQueued) {
      queued_count_++;
      const auto delay = std::clamp<std::int64_t>(t.not_before - wall, 0, kMaxDelay.count());
      if (delay > 0) {
        r.ready_at = now + Milliseconds(delay);
      } else {
        make_ready(r);
      }
    } else {
      settle_running(r, now, wall);
    }
    if (!t.history.empty()) measure(t.history.front());
    if (!r.mirror) {
      assign_mirror(r, now);
    } else if (!r.mirrored()) {
      send_to_mirror(r, *member(*r.mirror), now);
    }
    forget_spares(r);
    confirmed(r);
    retime(r);
  }
  void settle_running(Record& r, MonoTime now, WallTime wall) {
    const Attempt a = r.task.history.back();
    Member* m = member(a.agent);
    if (m == nullptr || m->worker.session < a.session) m = &placeholder(a, now, wall);
    r.lease = Held{std::nullopt, now + settings_.lease, false, std::nullopt};
    if (m->worker.session > a.session) {
      lose(r, now, wall, kWorkerLost);
      return;
    }
    m->leases.insert(r.task.id);
    if (!m->connected) {
      set_lost_at(*m, now + settings_.worker_lost_after);
      r.lease->deadline = *m->lost_at;
      return;
    }
    const auto named = m->claims.find(r.task.id);
    if (named == m->claims.end() || named->second != a.number) {
      lose(r, now, wall, kWorkerLost);
    } else {
      r.lease->confirmed = true;
    }
  }
  // Takes a settled record out of its place, so that another copy of the task can be settled.
  void unsettle(Record& r) {
    if (r.lease) {
      const Attempt& a = r.task.history.back();
      Member* m = member(a.agent);
      if (m != nullptr && m->connected) out(Cancel{m->worker, r.task.id, a.number});
      drop_lease(r);
    }
    if (r.task.state == TaskState::kQueued) unqueue(r);
    if (is_final(r.task.state)) finals_.erase({r.finished, r.arrival});
    r.ready_at.reset();
    order_.erase(r.place());
  }
  // Two tasks may carry one idempotency id: the holder of the first was away for so long that the
  // client's repetition made the second. Both were promised, so both stay; but at most one of them
  // has a future. Kept is the done one, else the one that got furthest, else the older; what else
  // is not final yet is cancelled. If both are done, both were carried out, and somebody may have
  // been told so of either: both stay done. The one that is not kept says whose duplicate it is.
  static int progress_of(const Record& r) {
    if (r.pending) return 0;
    if (r.task.state == TaskState::kDone) return 5;
    if (is_final(r.task.state) || r.task.cancel_requested) return 1;
    if (r.task.state == TaskState::kRunning) return 4;
    return r.task.history.empty() ? 2 : 3;
  }
  static bool is_kept(const Record& a, const Record& b) {
    return std::tuple(-progress_of(a), a.task.created_at, a.task.id) <
           std::tuple(-progress_of(b), b.task.created_at, b.task.id);
  }
  // `r` has come (back) with its copy. May erase the other one.
  void merge_duplicates(Record& r, MonoTime now, WallTime wall) {
    if (r.task.idempotency_id.empty()) return;
    TaskId& known = by_idempotency_[r.task.idempotency_id];
    Record* other = lookup(known);
    if (other == nullptr || other == &r) {
      known = r.task.id;
      return;
    }
    Record& kept = is_kept(r, *other) ? r : *other;
    Record& spare = &kept == &r ? *other : r;
    known = kept.task.id;
    for (const SubmitWaiter& w : std::exchange(spare.submits, {})) {
      if (!settings_.require_mirror || !kept.holders.empty()) {
        out(Submitted{w.ticket, kept.task.id, std::string(survives(kept)), true, mirrors(kept)});
      } else {
        kept.submits.push_back({w.ticket, w.deadline, true});  // twice kMaxWaitersPerTask at most
      }
    }
    retime(kept);
    retime(spare);
    if (spare.pending) return erase(spare);  // nobody was promised anything
    const bool done = spare.task.state == TaskState::kDone;
    if ((is_final(spare.task.state) && !done) || spare.task.cancel_requested) return;
    std::string what =
        "a duplicate of task " + kept.task.id.value + ", which was submitted under the same id";
    if (done && spare.task.last_output == what) return;  // an earlier coordinator has found it
    spare.task.last_output = std::move(what);
    spare.task.last_output_at = wall;
    if (done) {
      // its outcome stands
    } else if (spare.task.state == TaskState::kQueued) {
      finish(spare, now, wall, TaskState::kCancelled);
    } else {
      spare.task.cancel_requested = true;
      const Attempt& a = spare.task.history.back();
      const Member* m = member(a.agent);
      if (m != nullptr && m->connected) out(Cancel{m->worker, spare.task.id, a.number});
    }
    changed(spare, now, wall);
  }
  void resolve_claims_on(const TaskId& id, MonoTime now, WallTime wall) {
    std::vector<std::pair<std::uint32_t, Member*>> found;
    for (auto& [name, m] : members_) {
      const auto it = m.claims.find(id);
      if (it != m.claims.end() && m.connected) found.emplace_back(it->second, &m);
    }
    std::stable_sort(found.begin(), found.end(),
                     [](const auto& a, const auto& b) { return a.first > b.first; });
    for (const auto& [attempt, m] : found) {
      m->claims.erase(id);
      resolve_claim(*m, id, attempt, now, wall);
    }
  }

  Settings settings_;
  std::uint64_t (*random_)(void*);
  void* context_;
  bool recovering_ = false, awaiting_ = false, refuse_ids_ = false;
  MonoTime now_{};  // of the call in progress
  std::uint64_t arrivals_ = 0;
  std::uint64_t next_waiter_ = 0;
  std::unordered_map<TaskId, Record> records_;  // addresses are stable
  std::map<AgentName, Member> members_;
  std::map<Place, Record*> order_;  // visible ones
  std::map<Place, Record*> ready_;  // queued, may be handed out
  std::map<std::pair<MonoTime, std::uint64_t>, Record*> timers_;
  std::map<std::pair<MonoTime, std::uint64_t>, Record*> finals_;
  std::set<EligibleKey> eligible_;
  std::set<TaskId> unmirrored_;              // nobody could be their mirror
  std::set<TaskId> still_;                   // running, and said to be still
  std::map<std::uint64_t, Waiter> waiters_;  // next() calls in order
  std::set<std::pair<MonoTime, std::uint64_t>> waiter_deadlines_;
  std::set<std::pair<MonoTime, AgentName>> lost_timers_;
  std::unordered_map<std::string, TaskId> by_idempotency_;
  std::unordered_map<TaskId, std::set<TaskId>> subtasks_;  // by parent, pending ones included
  std::map<WaitKey, Wait> waits_;
  std::unordered_map<TaskId, std::set<WaitKey>> awaited_,
      waiting_;  // by what is awaited; who waits
  std::uint64_t cycles_ = 0;
  std::unordered_map<TaskId, Erased> erased_;
  std::deque<TaskId> erased_order_;
  Throttle throttle_;
  std::deque<Version> firsts_;
  std::size_t queued_count_ = 0, pending_count_ = 0;
  std::uint64_t total_bytes_ = 0;
  // What the tasks here have cost; those that were erased; all, as it was last reported; and of the
  // first two, what was spent since then.
  Spent retained_, expired_, reported_, fresh_;
  std::uint64_t fresh_cost_when_told_ = 0;  // of fresh_, as settings_.swarm_cost_micro_usd came
  std::uint64_t retries_ = 0, worker_lost_ = 0;
  std::vector<Output> outputs_;
};

void Engine::restore_spent(const Spent& expired, const Spent& reported) {
  Impl& e = *impl_;
  for (const auto member : kSpentFields) {
    e.expired_.*member = std::max(e.expired_.*member, expired.*member);
    e.reported_.*member = std::max(e.reported_.*member, reported.*member);
  }
}

Spent Engine::spent() const { return impl_->spent(); }

Spent Engine::expired() const { return impl_->expired_; }

std::optional<double> Engine::budget_used() const {
  const Impl& e = *impl_;
  if (!e.settings_.budget_micro_usd) return std::nullopt;
  const auto cost = static_cast<double>(e.cost_so_far());
  return *e.settings_.budget_micro_usd == 0
             ? 1
             : cost / static_cast<double>(*e.settings_.budget_micro_usd);
}

Engine::Engine(Settings settings, std::uint64_t (*random)(void* context), void* context)
    : impl_(std::make_unique<Impl>(std::move(settings), random, context)) {}
Engine::~Engine() = default;

void Engine::configure(MonoTime now, WallTime wall, Settings settings) {
  Impl& e = *impl_;
  e.now_ = now;
  if (settings.swarm_cost_micro_usd != e.settings_.swarm_cost_micro_usd)
    e.fresh_cost_when_told_ = e.fresh_.cost_micro_usd;
  e.settings_ = sane(std::move(settings));
  for (auto& [name, m] : e.members_) e.rank(m);
  for (auto& [id, r] : e.records_) e.retime(r);
  e.assign_waiting(now);
  e.hand_out(now, wall);
}

// ---------------------------------------------------------------------- recovery

void Engine::begin_recovery(MonoTime now) {
  Impl& e = *impl_;
  e.now_ = now;
  e.recovering_ = true;
  for (auto& [id, r] : e.records_) e.retime(r);
}

bool Engine::recovering() const { return impl_->recovering_; }

void Engine::await_copies(bool awaited, bool refuse_ids) {
  impl_->awaiting_ = awaited;
  impl_->refuse_ids_ = refuse_ids;
}

bool Engine::awaiting() const { return impl_->awaiting_; }

bool Engine::wants(const TaskId& id, std::uint64_t version) const {
  if (impl_->erased_.contains(id) || team_of(id) != impl_->settings_.team) return false;
  const auto* r = impl_->lookup(id);
  if (r == nullptr) return true;
  if (r->pending) return false;
  if (version > r->task.version || Impl::from_dead_epoch(*r, version)) return true;
  // A coordinator that went on from an older copy may have told of a result.
  return version < r->base && version >= kVersionStep && r->task.state != TaskState::kDone;
}

void Engine::restore(MonoTime now, WallTime wall, Task task, const std::optional<Worker>& mirror) {
  Impl& e = *impl_;
  e.now_ = now;
  const TaskId id = task.id;
  if (team_of(id) != e.settings_.team || task.version > kMaxRestored || !decode(encode(task)).ok())
    return;
  Impl::Member* holder = mirror ? e.present(*mirror) : nullptr;
  if (holder != nullptr && !holder->connected) holder = nullptr;
  if (e.erased_.contains(id)) {
    if (holder != nullptr) e.out(Forget{holder->worker, id});
    return;
  }
  const std::uint64_t version = task.version;
  Impl::Record* r = e.lookup(id);
  bool settle = false;
  // Nothing follows upon done: a copy that is not, whatever its version, is of a coordinator that
  // went on from an older one.
  const bool done = task.state == TaskState::kDone;
  const bool is_done = r != nullptr && r->task.state == TaskState::kDone;
  if (r == nullptr) {
    r = &e.records_[id];
    r->arrival = ++e.arrivals_;
    r->unsettled = true;
    r->base = version;
    e.put(*r, std::move(task));
    if (!r->task.idempotency_id.empty()) e.by_idempotency_.emplace(r->task.idempotency_id, id);
    settle = !e.recovering_;
  } else if (r->pending) {
    // ours, on its way to be accepted: what a worker has of it is the copy we sent
  } else if (r->unsettled) {
    const std::uint64_t highest = std::max(version, r->task.version);
    if (done == is_done ? version > r->task.version : done) {
      e.put(*r, std::move(task));
      r->base = version;
    }
    if (r->task.version < highest) {  // ours passes the one that was not taken
      r->task.version = e.next_epoch(highest);
      r->base = highest;
      r->touched = true;
    }
  } else {
    // The task has a life here already. Untouched: a higher version is the task. Else the copy
    // comes from a dead epoch, or from another that began where we did: its outcome counts if we
    // have none, and our version passes it.
    const bool newer = version > r->task.version;
    if (newer || (done && !is_done) || Impl::from_dead_epoch(*r, version)) {
      if ((newer && !r->touched && (done || !is_done)) ||
          (is_final(task.state) && !is_final(r->task.state))) {
        e.unsettle(*r);
        const std::uint64_t ours = r->task.version;
        for (const Attempt& a :
             r->task.history) {  // numbers may clash, so ours cannot stand beside the others
          if (Impl::knows(task, a.number, a.agent, a.session) != nullptr) continue;
          task.history_dropped++;
          add(task.usage, a.usage);  // it was spent
        }
        e.put(*r, std::move(task));
        r->unsettled = true;
        r->base = version;
        if (newer) {
          r->touched = false;
        } else {
          r->task.version = ours + 1;
        }
        for (const Impl::ReportWaiter& w : std::exchange(r->reports, {})) {
          e.out(Reported{w.worker, w.request,
                         Error{Code::kDenied, "another attempt owns task " + id.value}});
        }
        settle = true;
      } else if (newer) {
        r->task.version = version;
        e.changed(*r, now, wall);
        // What that worker holds is not what was reported to us, whatever its number.
        for (Impl::ReportWaiter& w : r->reports) w.version = r->task.version;
      }
    }
  }
  if (!mirror && r->task.version == version) r->stored = version;
  if (holder != nullptr) e.reconcile_held(*holder, id, version);
  if (settle) {
    e.settle(*r, now, wall);
    e.resolve_claims_on(id, now, wall);
    e.merge_duplicates(*r, now, wall);
    e.tell(id);
    e.trim_finals();
    e.hand_out(now, wall);
  }
}

void Engine::end_recovery(MonoTime now, WallTime wall) {
  Impl& e = *impl_;
  e.now_ = now;
  if (!e.recovering_) return;
  e.recovering_ = false;
  std::map<Impl::Place, Impl::Record*> restored;
  for (auto& [id, r] : e.records_) {
    if (r.unsettled) {
      restored.emplace(r.place(), &r);
    } else {
      if (r.lease)
        r.lease->deadline = std::max(r.lease->deadline, now + e.settings_.worker_lost_after);
      e.retime(r);
    }
  }
  for (auto& [place, r] : restored) e.settle(*r, now, wall);
  // The highest attempt first: of two workers that name the same task, the later hand-out is the
  // valid one.
  std::vector<std::tuple<std::uint32_t, Impl::Member*, TaskId>> claims;
  for (auto& [name, m] : e.members_) {
    for (const auto& [id, attempt] : m.claims) {
      if (m.connected && e.lookup(id) != nullptr) claims.emplace_back(attempt, &m, id);
    }
  }
  std::stable_sort(claims.begin(), claims.end(),
                   [](const auto& a, const auto& b) { return std::get<0>(a) > std::get<0>(b); });
  for (const auto& [attempt, m, id] : claims) {
    m->claims.erase(id);
    e.resolve_claim(*m, id, attempt, now, wall);
  }
  for (auto& [place, r] : restored) e.merge_duplicates(*r, now, wall);
  e.trim_finals();
  e.hand_out(now, wall);
}

// ---------------------------------------------------------------------- workers

void Engine::worker_joined(MonoTime now, WallTime wall, const Worker& worker,
                           const std::vector<Running>& running,
                           const std::map<TaskId, std::uint64_t>& held) {
  Impl& e = *impl_;
  e.now_ = now;
  if (!is_sound(worker)) return;
  if (e.member(worker.name) == nullptr) e.bound_members();
  Impl::Member& m = e.members_[worker.name];
  if (worker.session < m.worker.session) return;
  if (worker.session > m.worker.session) {
    if (!m.worker.name.empty()) e.end_session(m, now, wall);
    m.leaving = false;
  }
  m.worker = worker;
  m.connected = true;
  e.set_lost_at(m, std::nullopt);
  e.drop_waiters(m);
  e.drop_waits(m.worker);
  e.clear_transfers(m);
  e.rank(m);

  // Copies: what we thought it had and it has not, then what it has, then what it still has to get.
  const std::set<TaskId> believed = m.copies;
  for (const TaskId& id : believed) {
    if (!held.contains(id)) e.drop_holder(*e.lookup(id), m);
  }
  std::size_t named = 0;
  for (const auto& [id, version] : held) {
    if (++named > kMaxNamed) break;
    e.reconcile_held(m, id, version);
  }
  const std::set<TaskId> copies = m.copies;
  for (const TaskId& id : copies) {
    Impl::Record& r = *e.lookup(id);
    if (r.mirror == worker.name && !r.mirrored()) e.send_to_mirror(r, m, now);
  }
  e.assign_waiting(now);

  m.claims.clear();
  for (const Running& r : running) {
    if (m.claims.size() >= kMaxNamed) break;
    std::uint32_t& attempt = m.claims[r.id];  // of several, only the latest can own the task
    attempt = std::max(attempt, r.attempt);
  }
  if (e.recovering_) return;
  const std::set<TaskId> leases = m.leases;
  for (const TaskId& id : leases) {
    Impl::Record& r = *e.lookup(id);
    const auto it = m.claims.find(id);
    if (it == m.claims.end() || it->second != r.task.history.back().number) {
      e.lose(r, now, wall, kWorkerLost);
    } else {
      r.lease->request.reset();
      r.lease->deadline = now + e.settings_.lease;
      r.lease->confirmed = true;
    }
  }
  const std::map<TaskId, std::uint32_t> claims = m.claims;
  for (const auto& [id, attempt] : claims) {
    if (e.lookup(id) == nullptr) continue;  // its copy may come later, with another worker
    m.claims.erase(id);
    e.resolve_claim(m, id, attempt, now, wall);
  }
  e.hand_out(now, wall);
}

void Engine::worker_disconnected(MonoTime now, WallTime wall, const Worker& worker) {
  Impl& e = *impl_;
  e.now_ = now;
  Impl::Member* m = e.present(worker);
  if (m == nullptr || !m->connected) return;
  m->connected = false;
  e.rank(*m);
  e.drop_waiters(*m);
  e.drop_waits(m->worker);
  e.set_lost_at(*m, now + e.settings_.worker_lost_after);
  for (const TaskId& id : m->leases) {
    Impl::Record& r = *e.lookup(id);
    if (!r.lease) continue;
    r.lease->deadline = *m->lost_at;
    e.retime(r);
  }
  tick(now, wall);
}

void Engine::worker_leaving(MonoTime now, WallTime wall, const Worker& worker) {
  Impl& e = *impl_;
  e.now_ = now;
  Impl::Member* m = e.present(worker);
  if (m == nullptr || m->leaving) return;
  m->leaving = true;
  e.rank(*m);
  for (std::uint64_t place : e.waiters_of(worker.name)) {
    e.out(NoTask{m->worker, e.waiters_.at(place).request, Code::kDenied, "draining"});
    e.drop_waiter(place);
  }
  const std::set<TaskId> copies = m->copies;
  for (const TaskId& id : copies) {
    Impl::Record& r = *e.lookup(id);
    if (r.mirror == worker.name) e.assign_mirror(r, now, &worker.name);
  }
  e.hand_out(now, wall);
}

void Engine::replicated(MonoTime now, WallTime wall, const Worker& mirror, const TaskId& id,
                        std::uint64_t version) {
  Impl& e = *impl_;
  e.now_ = now;
  Impl::Member* m = e.present(mirror);
  if (m == nullptr || !m->connected) return;  // it names the copy again when it joins
  bool expected = false;
  if (const auto it = m->late.find(id); it != m->late.end() && it->second == version) {
    m->late.erase(it);
    expected = true;
  }
  if (const auto it = m->in_flight.find(id);
      it != m->in_flight.end() && it->second.version == version) {
    e.not_in_flight(*m, id);
    expected = true;
  }
  if (Impl::Record* r = e.lookup(id)) {
    if (expected) {
      if (version <= r->task.version) e.reconcile_held(*m, id, version);
      if (r->mirror == m->worker.name && !r->mirrored()) e.send_to_mirror(*r, *m, now);
    } else if (r->mirror != m->worker.name &&
               (r->mirrored() || !r->holders.contains(m->worker.name))) {
      e.drop_holder(*r, *m);  // nobody counts on this copy
      e.forget(*m, id);
    }
  } else if (e.erased_.contains(id)) {
    e.out(Forget{m->worker, id});
  }
  e.pump(*m, now);
  e.hand_out(now, wall);
}

void Engine::next(MonoTime now, WallTime wall, const Worker& worker, std::uint64_t request,
                  MonoTime deadline) {
  Impl& e = *impl_;
  e.now_ = now;
  if (Status status = e.may_speak(worker); !status) {
    e.out(NoTask{worker, request, status.error().code, status.error().message});
    return;
  }
  Impl::Member& m = *e.present(worker);
  if (!m.connected || m.leaving) {
    e.out(NoTask{worker, request, m.leaving ? Code::kDenied : Code::kUnavailable,
                 m.leaving ? "draining" : "not connected"});
    return;
  }
  for (const TaskId& id : m.leases) {
    const Impl::Record& r = *e.lookup(id);
    if (r.lease->request == request) {
      e.answer_lease(r, m, request);
      return;
    }
  }
  for (std::uint64_t place : e.waiters_of(worker.name)) {
    if (e.waiters_.at(place).request == request) e.drop_waiter(place);
  }
  if (m.leases.size() + m.waiting >= kMaxCallsPerWorker) {
    e.out(NoTask{worker, request, Code::kFull, "too many leases and waiting calls"});
    return;
  }
  const std::uint64_t place = e.next_waiter_++;
  e.waiters_.emplace(place, Impl::Waiter{m.worker, request, deadline});
  e.waiter_deadlines_.emplace(deadline, place);
  m.waiting++;
  e.hand_out(now, wall);
  if (deadline <= now) tick(now, wall);
}

void Engine::forget_next(const Worker& worker, std::uint64_t request) {
  Impl& e = *impl_;
  if (e.present(worker) == nullptr) return;
  for (std::uint64_t place : e.waiters_of(worker.name)) {
    if (e.waiters_.at(place).request == request) e.drop_waiter(place);
  }
}

Result<Engine::Extended> Engine::extend(MonoTime now, WallTime wall, const Worker& worker,
                                        const TaskId& id, std::uint32_t attempt,
                                        const std::string* progress, const Still* still) {
  Impl& e = *impl_;
  e.now_ = now;
  if (Status status = e.may_speak(worker); !status) return status.error();
  Impl::Member& m = *e.present(worker);
  Impl::Record* r = e.visible(id);
  if (r == nullptr) return e.missing(id);
  if (e.recovering_) return unavailable("the coordinator is collecting its tasks; go on");
  if (!m.connected) return unavailable("not connected");
  switch (e.claim(*r, m, attempt, now, wall)) {
    case Impl::Claim::kNo:
      return Error{Code::kDenied, "attempt " + std::to_string(attempt) + " of " + id.value +
                                      " has no lease (" + std::string(state_name(r->task.state)) +
                                      ")"};
    case Impl::Claim::kTaken:
      e.changed(*r, now, wall);
      break;
    case Impl::Claim::kHas:
      break;
  }
  if (progress != nullptr) {
    r->task.last_output = clipped(*progress, kMaxLineBytes);
    r->task.last_output_at = wall;
  }
  const std::optional<Still> before = std::exchange(r->lease->still, std::nullopt);
  if (still != nullptr && !e.waiting_.contains(id)) {
    const bool same = before && std::abs(still->since - before->since) < kStillJitter.count();
    r->lease->still = {same ? before->since : still->since, clipped(still->why, kMaxLineBytes)};
    e.still_.insert(id);
  } else {
    e.still_.erase(id);
  }
  // An agent that never ends what was cancelled must not hold the task for ever.
  if (!r->task.cancel_requested)
    r->lease->deadline = std::max(r->lease->deadline, now + e.settings_.lease);
  e.retime(*r);
  return Extended{r->task.cancel_requested};
}

void Engine::report(MonoTime now, WallTime wall, const Worker& worker, std::uint64_t request,
                    Report report) {
  Impl& e = *impl_;
  e.now_ = now;
  const auto refuse = [&](Error error) { e.out(Reported{worker, request, std::move(error)}); };
  if (Status status = e.may_speak(worker); !status) return refuse(status.error());
  if (e.recovering_)
    return refuse(unavailable("the coordinator is collecting its tasks; repeat the report"));
  if (report.result.branch.size() > kMaxRefBytes || report.result.commit.size() > kMaxRefBytes) {
    return refuse(
        invalid("branch and commit are at most " + std::to_string(kMaxRefBytes) + " bytes"));
  }
  Impl::Record* r = e.visible(report.id);
  if (r == nullptr) return refuse(e.missing(report.id));
  Task& t = r->task;
  Impl::Member& m = *e.present(worker);
  Attempt* known = Impl::knows(t, report.attempt, worker.name, worker.session);
  const auto spend_late = [&] {
    if (known != nullptr && known->ended_at != 0 && e.spend(t, *known, report))
      e.changed(*r, now, wall);
  };
  if (known != nullptr && known->reason == kCancelled &&
      (report.done || report.kind != FailKind::kCancelled)) {
    spend_late();
    return refuse(Error{Code::kDenied, "attempt " + std::to_string(report.attempt) + " of " +
                                           t.id.value + " was cancelled"});
  }
  if (known != nullptr && known->ended_at != 0 && !is_lost(*known)) {
    spend_late();
    return e.answer_when_mirrored(*r, worker, request, now);  // repeated
  }
  if (known == nullptr && !report.leased) {
    return refuse(Error{Code::kDenied, "attempt " + std::to_string(report.attempt) + " of " +
                                           t.id.value + " was not leased to " + worker.name.value});
  }
  if (e.claim(*r, m, report.attempt, now, wall) == Impl::Claim::kNo) {
    spend_late();
    return refuse(
        Error{Code::kDenied, is_final(t.state)
                                 ? "task " + t.id.value + " is " + std::string(state_name(t.state))
                                 : "another attempt owns task " + t.id.value});
  }

  if (report.done)
    e.throttle_.on_done(r->lease->since);
  else if (report.kind == FailKind::kTryLater)
    e.throttle_.on_try_later(now, r->lease->since, t.id, worker.name, e.eligible_.size(),
                             e.random_(e.context_));
  Attempt& a = t.history.back();
  e.spend(t, a, report);
  a.exit_code = report.exit_code;
  const std::size_t skip =
      report.last_lines.size() > kMaxLastLines ? report.last_lines.size() - kMaxLastLines : 0;
  for (std::size_t i = skip; i < report.last_lines.size(); ++i) {
    a.last_lines.push_back(clipped(report.last_lines[i], kMaxLineBytes));
  }
  if (!report.message.empty()) {
    t.last_output = clipped(report.message, kMaxLineBytes);
    t.last_output_at = wall;
  } else if (!a.last_lines.empty()) {
    t.last_output = a.last_lines.back();
    t.last_output_at = wall;
  }

  const bool kind_charged =
      report.done || report.kind == FailKind::kFailed || report.kind == FailKind::kBadTask ||
      report.kind == FailKind::kTimeout || report.kind == FailKind::kIdleTimeout;
  const bool untaken = !report.done && report.kind == FailKind::kReleased && !report.taken;
  e.close_attempt(*r, wall,
                  report.done ? "done"
                  : untaken   ? kNotTaken
                              : reason_of(report.kind),
                  kind_charged);
  if (kind_charged) {
    t.charged_attempts++;
    t.losses_in_a_row = 0;
    t.later_in_a_row = 0;
  }
  if (report.done) {
    TaskResult& result = report.result;
    result.total_bytes = std::max<std::uint64_t>(result.total_bytes, result.bytes.size());
    if (result.bytes.size() > kMaxResultBytes) {
      result.bytes.resize(kMaxResultBytes);
      result.truncated = true;
    }
    t.result = std::move(result);
  }
  if (t.cancel_requested || (!report.done && report.kind == FailKind::kCancelled)) {
    e.finish(*r, now, wall, TaskState::kCancelled);
  } else if (report.done) {
    e.finish(*r, now, wall, TaskState::kDone);
  } else if (report.kind == FailKind::kTryLater) {
    t.losses_in_a_row = 0;
    if (++t.later_in_a_row >= kMaxTryLater) {
      e.finish(*r, now, wall, TaskState::kDead);
    } else {
      e.enqueue(*r, now, wall, e.backoff(kLaterBase, t.later_in_a_row - 1));
    }
  } else if (untaken) {  // says nothing about the task
    e.enqueue(*r, now, wall, Milliseconds(0));
  } else if (report.kind == FailKind::kReleased) {
    t.losses_in_a_row++;
    e.again_after_loss(*r, now, wall);
  } else if (report.kind == FailKind::kBadTask || t.charged_attempts >= t.max_attempts) {
    e.finish(*r, now, wall, TaskState::kDead);
  } else {
    e.enqueue(*r, now, wall, e.backoff(kRetryBase, t.charged_attempts - 1));
  }
  e.changed(*r, now, wall);
  e.answer_when_mirrored(*r, worker, request, now);
  e.trim_finals();
  e.hand_out(now, wall);
}

// ---------------------------------------------------------------------- clients

void Engine::submit(MonoTime now, WallTime wall, std::uint64_t ticket, Submission submission) {
  Impl& e = *impl_;
  e.now_ = now;
  const auto refuse = [&](Error error) {
    e.out(Submitted{ticket, std::move(error), "", false, {}});
  };
  if (Status status = check_submission(submission); !status) return refuse(status.error());
  if (e.recovering_)
    return refuse(unavailable("the coordinator is collecting its tasks; try again"));
  std::uint32_t depth = 0;
  if (submission.parent) {
    if (Status status = e.is_at_work(*submission.parent, now, wall); !status)
      return refuse(status.error());
    depth = e.lookup(submission.parent->id)->task.depth + 1;
  }
  const MonoTime deadline = now + e.settings_.mirror_timeout;
  if (!submission.idempotency_id.empty()) {
    const auto known = e.by_idempotency_.find(submission.idempotency_id);
    if (known != e.by_idempotency_.end()) {
      Impl::Record& r = *e.lookup(known->second);
      if (!r.pending && (!e.settings_.require_mirror || !r.holders.empty())) {
        e.out(Submitted{ticket, r.task.id, std::string(e.survives(r)), true, e.mirrors(r)});
      } else if (r.submits.size() >= kMaxWaitersPerTask) {
        refuse({Code::kFull, "too many submissions of this id wait for its second copy"});
      } else {
        r.submits.push_back({ticket, deadline, true});
        e.retime(r);
      }
      return;
    }
    if (e.refuse_ids_)
      return refuse(unavailable(
          "a worker that may hold the task of this id has not come back yet; try again"));
  }
  if (depth > kMaxDepth) {
    return refuse(invalid("task " + submission.parent->id.value + " is a subtask of depth " +
                          std::to_string(depth - 1) + ", the deepest that is allowed"));
  }
  if (submission.parent) {
    const auto family = e.subtasks_.find(submission.parent->id);
    if (family != e.subtasks_.end() && family->second.size() >= kMaxSubtasks) {
      return refuse({Code::kFull, "task " + submission.parent->id.value + " has " +
                                      std::to_string(kMaxSubtasks) +
                                      " subtasks, more are not allowed"});
    }
  }
  if (e.queued_count_ + e.pending_count_ >= e.settings_.max_queued) {
    return refuse({Code::kFull, std::to_string(e.queued_count_ + e.pending_count_) +
                                    " tasks are queued, at most " +
                                    std::to_string(e.settings_.max_queued) + " are allowed"});
  }
  if (e.total_bytes_ + submission.body.size() > e.settings_.max_bytes) {
    return refuse({Code::kFull, "the tasks kept take " + std::to_string(e.total_bytes_) +
                                    " bytes, at most " + std::to_string(e.settings_.max_bytes) +
                                    " are allowed"});
  }
  TaskId id;
  for (int i = 0; i < kIdTries; ++i) {
    std::string digits;
    for (std::uint64_t bits = e.random_(e.context_); digits.size() < 8; bits /= 36) {
      digits.push_back("0123456789abcdefghijklmnopqrstuvwxyz"[bits % 36]);
    }
    id.value = "t-" + std::to_string(e.settings_.team) + "-" + digits;
    if (e.lookup(id) == nullptr && !e.erased_.contains(id)) break;
    id.value.clear();
  }
  if (id.empty()) return refuse(internal_error("no free task id was found"));

  Impl::Record& r = e.records_[id];
  r.arrival = ++e.arrivals_;
  r.pending = true;
  e.pending_count_++;
  Task& t = r.task;
  t.id = id;
  t.version = 1;
  t.key = std::move(submission.key);
  t.idempotency_id = std::move(submission.idempotency_id);
  t.body = std::move(submission.body);
  t.labels = std::move(submission.labels);
  t.max_attempts = submission.max_attempts.value_or(e.settings_.default_max_attempts);
  t.created_at = t.updated_at = wall;
  if (submission.parent) {
    t.parent = submission.parent->id;
    t.depth = depth;
    e.subtasks_[t.parent].insert(id);
  }
  if (!t.idempotency_id.empty()) e.by_idempotency_.emplace(t.idempotency_id, id);
  r.submits.push_back({ticket, deadline, false});
  e.store(r);
  e.assign_mirror(r, now);
  if (!e.settings_.require_mirror && !r.mirror) {
    e.accept(r);
    e.hand_out(now, wall);
  }
}

Result<Task> Engine::cancel(MonoTime now, WallTime wall, const TaskId& id) {
  Impl& e = *impl_;
  e.now_ = now;
  Impl::Record* r = e.visible(id);
  if (r == nullptr) return e.missing(id);
  if (e.recovering_) return unavailable("the coordinator is collecting its tasks; try again");
  Task& t = r->task;
  if (t.state == TaskState::kQueued) {
    e.finish(*r, now, wall, TaskState::kCancelled);
    e.changed(*r, now, wall);
    Task copy = t;
    e.trim_finals();
    return copy;
  }
  if (t.state == TaskState::kRunning) {
    if (!t.cancel_requested) {
      t.cancel_requested = true;
      e.changed(*r, now, wall);
      e.end_waits_of(id, "task " + id.value + " is cancelled: stop working on it");
    }
    const Attempt& a = t.history.back();
    const Impl::Member* m = e.member(a.agent);
    if (m != nullptr && m->connected) e.out(Cancel{m->worker, id, a.number});
    return t;
  }
  if (t.state == TaskState::kCancelled) return t;
  return Error{Code::kConflict,
               "task " + id.value + " is " + std::string(state_name(t.state)) + " already"};
}

void Engine::wait(MonoTime now, WallTime wall, const Worker& worker, std::uint64_t request,
                  const std::optional<Running>& self, const std::vector<TaskId>& tasks) {
  Impl& e = *impl_;
  e.now_ = now;
  const Impl::WaitKey key{worker.name, worker.session, request};
  const auto answer = [&](Status status) {
    e.out(Waited{worker, request, std::move(status), tasks});
  };
  if (Status status = e.may_speak(worker); !status) return answer(status);
  if (!e.present(worker)->connected) return answer(unavailable("not connected"));
  e.end_wait(key, nullptr);
  if (e.recovering_)
    return answer(unavailable("the coordinator is collecting its tasks; try again"));
  if (tasks.empty() || tasks.size() > kMaxAwaited)
    return answer(invalid("a wait names 1 to " + std::to_string(kMaxAwaited) + " tasks, not " +
                          std::to_string(tasks.size())));
  if (self) {
    if (Status status = e.is_at_work({worker, self->id, self->attempt}, now, wall); !status)
      return answer(status);
  }
  for (const TaskId& id : tasks) {
    const auto team = team_of(id);
    if (team && *team != e.settings_.team)
      return answer(invalid("task " + id.value + " is another team's (this one is team " +
                            std::to_string(e.settings_.team) +
                            "): agents wait for tasks of their own team"));
    if (e.visible(id) == nullptr) return answer(e.missing(id));
  }
  if (e.waits_by(worker).size() >= kMaxWaitsPerWorker)
    return answer(Error{Code::kFull, "more than " + std::to_string(kMaxWaitsPerWorker) +
                                         " calls of " + worker.name.value + " wait for tasks"});
  if (self) {
    if (const auto way = e.cycle(self->id, tasks); !way.empty()) {
      const std::string named = Impl::names_of(way);
      e.lookup(self->id)->lease->cycle = named;
      e.cycles_++;
      return answer(
          Error{Code::kDenied, "this wait would close a cycle, and none of its tasks could end: " +
                                   named + ". Do not wait for " + way[1].value + " here: end " +
                                   self->id.value + " with what is known, or cancel one of them"});
    }
  }
  e.waits_.emplace(key, Impl::Wait{worker, self, tasks});
  for (const TaskId& id : tasks) e.awaited_[id].insert(key);
  if (self) {
    e.waiting_[self->id].insert(key);
    e.lookup(self->id)->lease->still.reset();
    e.still_.erase(self->id);
  }
  e.look_at_wait(key);
}

void Engine::forget_wait(const Worker& worker, std::uint64_t request) {
  impl_->end_wait({worker.name, worker.session, request}, nullptr);
}

std::vector<TaskId> Engine::waits_of(const TaskId& id) const {
  const auto edges = impl_->edges_of(id);
  return {edges.begin(), edges.end()};
}

std::string Engine::cycle_of(const TaskId& id) const {
  const Impl::Record* r = impl_->lookup(id);
  return r != nullptr && r->lease ? r->lease->cycle : "";
}

std::vector<const Task*> Engine::subtasks_of(const TaskId& id) const {
  std::vector<const Task*> out;
  const auto family = impl_->subtasks_.find(id);
  if (family == impl_->subtasks_.end()) return out;
  std::map<Impl::Place, const Task*> sorted;
  for (const TaskId& child : family->second) {
    const Impl::Record* r = impl_->lookup(child);
    if (r != nullptr && !r->pending) sorted.emplace(r->place(), &r->task);
  }
  for (const auto& [place, task] : sorted) out.push_back(task);
  return out;
}

Result<Task> Engine::retry(MonoTime now, WallTime wall, const TaskId& id) {
  Impl& e = *impl_;
  e.now_ = now;
  Impl::Record* r = e.visible(id);
  if (r == nullptr) return e.missing(id);
  if (e.recovering_) return unavailable("the coordinator is collecting its tasks; try again");
  Task& t = r->task;
  if (!is_final(t.state) || t.state == TaskState::kDone) {
    return Error{Code::kConflict, "task " + id.value + " is " + std::string(state_name(t.state)) +
                                      "; only failed, dead and cancelled tasks can be retried"};
  }
  if (!t.idempotency_id.empty()) {
    TaskId& known = e.by_idempotency_[t.idempotency_id];
    const Impl::Record* other = e.lookup(known);
    if (other != nullptr && other != r &&
        (other->task.state == TaskState::kDone || !is_final(other->task.state))) {
      return Error{Code::kConflict, "task " + known.value + " has the same id and is " +
                                        std::string(state_name(other->task.state))};
    }
    known = id;
  }
  if (e.queued_count_ + e.pending_count_ >= e.settings_.max_queued) {
    return Error{Code::kFull,
                 "at most " + std::to_string(e.settings_.max_queued) + " tasks may be queued"};
  }
  e.finals_.erase({r->finished, r->arrival});
  // A lost attempt of a task that was over has been told to end, or will be: it has no say in the
  // task's new life, neither by its end nor by a result.
  if (!t.history.empty() && is_lost(t.history.back())) t.history.back().reason = kCancelled;
  t.charged_attempts = 0;
  t.losses_in_a_row = 0;
  t.later_in_a_row = 0;
  t.cancel_requested = false;
  t.finished_at = 0;
  t.result.reset();
  e.enqueue(*r, now, wall, Milliseconds(0));
  e.changed(*r, now, wall);
  Task copy = t;
  e.hand_out(now, wall);
  return copy;
}

Result<const Task*> Engine::find(const TaskId& id) const {
  const Impl::Record* r = impl_->lookup(id);
  if (r == nullptr || r->pending) return impl_->missing(id);
  return &r->task;
}

Result<std::vector<const Task*>> Engine::list(const std::vector<TaskState>& states,
                                              const TaskId& after, std::size_t limit) const {
  const Impl& e = *impl_;
  std::vector<const Task*> found;
  auto it = e.order_.begin();
  if (!after.empty()) {
    if (const Impl::Record* r = e.lookup(after)) {
      it = e.order_.upper_bound(r->place());
    } else if (const auto gone = e.erased_.find(after); gone != e.erased_.end()) {
      it = e.order_.upper_bound({gone->second.created_at, gone->second.arrival});
    } else {
      return not_found("the place where this page begins, task " + after.value +
                       ", is not known any more; list again from the start");
    }
  }
  limit = std::min(limit, kListLimit);
  for (; it != e.order_.end() && found.size() < limit; ++it) {
    const Task& t = it->second->task;
    if (states.empty() || std::find(states.begin(), states.end(), t.state) != states.end())
      found.push_back(&t);
  }
  return found;
}

Counts Engine::counts(WallTime wall) const {
  const Impl& e = *impl_;
  Counts c;
  for (const auto& [place, r] : e.order_) {
    switch (r->task.state) {
      case TaskState::kQueued:
        if (c.queued++ == 0)
          c.oldest_queued_seconds = std::max<std::int64_t>(0, (wall - r->task.created_at) / 1000);
        break;
      case TaskState::kRunning:
        c.running++;
        break;
      case TaskState::kDone:
        c.done++;
        break;
      case TaskState::kFailed:
        c.failed++;
        break;
      case TaskState::kDead:
        c.dead++;
        break;
      case TaskState::kCancelled:
        c.cancelled++;
        break;
    }
    if (r->holders.empty()) c.single_copy++;
  }
  for (Version v : e.firsts_) (v == Version::kV1 ? c.v1_first : c.v2_first)++;
  c.retries = e.retries_;
  c.worker_lost = e.worker_lost_;
  c.waiting = e.waiting_.size();
  c.cycles = e.cycles_;
  // Waits have no cycle: if all that are at work wait, the last of each way is queued.
  const bool all_wait = c.waiting > 0 && c.waiting == c.running && c.queued > 0 && !e.recovering_ &&
                        !e.settings_.suspended && e.waiters_.empty();
  const bool none_idle = std::none_of(e.members_.begin(), e.members_.end(), [](const auto& one) {
    const Impl::Member& m = one.second;
    return m.connected && !m.leaving && m.leases.empty();
  });
  if (all_wait && none_idle) c.starved = c.waiting;
  if (const auto until = e.throttle_.waits_until(e.now_)) {
    c.backing_off_until = until;
    c.try_later_in_a_row = e.throttle_.in_a_row();
  }
  return c;
}

std::vector<AgentName> Engine::mirrors_of(const TaskId& id) const {
  const Impl::Record* r = impl_->lookup(id);
  return r == nullptr ? std::vector<AgentName>{} : impl_->mirrors(*r);
}

bool Engine::mirrored(const TaskId& id) const {
  const Impl::Record* r = impl_->lookup(id);
  if (r == nullptr || (impl_->eligible_.empty() && !r->mirror)) return true;
  return std::any_of(r->holders.begin(), r->holders.end(),
                     [&](const auto& holder) { return holder.second == r->task.version; });
}

std::string_view Engine::survives(const TaskId& id) const {
  const Impl::Record* r = impl_->lookup(id);
  return r == nullptr ? std::string_view("container") : impl_->survives(*r);
}

std::optional<Engine::Running> Engine::running_on(const AgentName& worker) const {
  const auto it = impl_->members_.find(worker);
  std::optional<Running> latest;
  WallTime since = 0;
  if (it == impl_->members_.end()) return latest;
  for (const TaskId& id : it->second.leases) {
    const Attempt& a = impl_->lookup(id)->task.history.back();
    if (latest && a.started_at < since) continue;
    latest = Running{id, a.number};
    since = a.started_at;
  }
  return latest;
}

std::vector<Engine::Stuck> Engine::stuck() const {
  std::vector<Stuck> out;
  for (const TaskId& id : impl_->still_) {
    const Impl::Record* r = impl_->lookup(id);
    if (r == nullptr || !r->lease || !r->lease->still) continue;
    const Attempt& a = r->task.history.back();
    out.push_back({a.agent, a.session, {id, a.number}, *r->lease->still});
  }
  std::stable_sort(out.begin(), out.end(),
                   [](const Stuck& a, const Stuck& b) { return a.still.since < b.still.since; });
  return out;
}

// ---------------------------------------------------------------------- time

void Engine::tick(MonoTime now, WallTime wall) {
  Impl& e = *impl_;
  e.now_ = now;
  while (!e.lost_timers_.empty() && e.lost_timers_.begin()->first <= now && !e.recovering_) {
    Impl::Member& m = *e.member(e.lost_timers_.begin()->second);
    e.set_lost_at(m, std::nullopt);
    e.lose_leases(m, now, wall);
    e.drop_copies(m, now);
  }
  // Each round either removes a timer or moves it past `now`.
  while (!e.timers_.empty() && e.timers_.begin()->first.first <= now) {
    e.on_due(*e.timers_.begin()->second, now, wall);
  }
  e.trim_finals();
  e.hand_out(now, wall);
  while (!e.waiter_deadlines_.empty() && e.waiter_deadlines_.begin()->first <= now) {
    const std::uint64_t place = e.waiter_deadlines_.begin()->second;
    const Impl::Waiter& w = e.waiters_.at(place);
    e.out(NoTask{w.worker, w.request, Code::kNotFound,
                 e.settings_.suspended ? "the swarm is suspended"
                 : e.over_budget()     ? "the swarm's budget is spent"
                 : e.throttle_.waits_until(now)
                     ? "the swarm waits: " + std::to_string(e.throttle_.in_a_row()) +
                           " attempts in a row were told to try later"
                     : "no task came"});
    e.drop_waiter(place);
  }
}

std::optional<MonoTime> Engine::next_deadline() const {
  const Impl& e = *impl_;
  std::optional<MonoTime> first;
  const auto at = [&](MonoTime t) { first = first ? std::min(*first, t) : t; };
  if (!e.timers_.empty()) at(e.timers_.begin()->first.first);
  if (!e.lost_timers_.empty() && !e.recovering_) at(e.lost_timers_.begin()->first);
  if (!e.waiter_deadlines_.empty()) at(e.waiter_deadlines_.begin()->first);
  if (!e.ready_.empty() && !e.waiters_.empty() && !e.recovering_ && !e.settings_.suspended &&
      !e.over_budget()) {
    if (const auto next = e.throttle_.next(e.now_)) at(*next);
  }
  return first;
}

std::vector<Output> Engine::take_outputs() { return std::exchange(impl_->outputs_, {}); }

}  // namespace swarm::tasks
