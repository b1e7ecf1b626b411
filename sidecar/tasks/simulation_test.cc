// A small world around the engine: workers that join, leave, crash and come back in newer
// incarnations, links that lose what is on its way, reports that are lost, repeated and overtaken,
// coordinators that are replaced with or without their log. All of it from one seed; a failure
// prints it. What a coordinator knows of its predecessor is that one's report and its own log; it
// may be lost while it still collects. SWARM_SEED=n runs that seed alone, with SWARM_TRACE=1 it
// tells what happens; SWARM_SEEDS=n runs 1…n.
#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <map>
#include <set>
#include <sstream>

#include "tasks/recovery.h"
#include "tasks/tasks.h"

namespace swarm::tasks {
namespace {

constexpr std::uint64_t kSeeds = 3000;
constexpr std::uint64_t kParts = 4;

struct Random {
  std::uint64_t state;
  std::uint64_t next() {
    std::uint64_t z = (state += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31U);
  }
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(next() % n); }
  bool percent(unsigned p) { return next() % 100 < p; }
};

bool is_charged(const std::string& reason) {
  return reason == "done" || reason == "failed" || reason == "bad_task" || reason == "timeout" ||
         reason == "idle_timeout";
}
bool is_lost_reason(const std::string& reason) {
  return reason == "worker_lost" || reason == "lease_expired";
}

struct Confirm {
  TaskId id;
  std::uint64_t version;
};
struct Next {
  std::uint64_t request;
};
struct Done {
  std::uint64_t request;
  Report report;
};
struct Extend {
  TaskId id;
  std::uint32_t attempt;
};
using ToCoordinator = std::variant<Confirm, Next, Done, Extend>;

struct Work {
  TaskId id;
  std::uint32_t attempt = 0;
  bool hangs = false;
  std::optional<Report> report;  // finished, not confirmed yet
  // It goes on when these have ended, or it is told that it does not wait.
  std::vector<TaskId> awaited{};
  std::optional<std::uint64_t> wait_request{};  // said on this link
};

struct Pod {
  Worker worker;
  bool alive = true, connected = false, leaving = false;
  std::map<TaskId, Task> copies;
  std::vector<Work> works;
  std::uint64_t requests = 0;
  std::optional<std::uint64_t> asked;  // the outstanding next()
  std::deque<Output> inbox;            // on the link, in order
  std::deque<ToCoordinator> confirms;  // in order
  std::vector<ToCoordinator> calls;    // may be lost, repeated, overtaken
};

class World {
 public:
  explicit World(std::uint64_t seed) : random_{seed * 7919 + 1} {
    settings_.node = "n0";
    settings_.pod = "c0";
    settings_.lease = Milliseconds(3000 + 1000 * static_cast<std::int64_t>(random_.below(20)));
    settings_.worker_lost_after =
        Milliseconds(1000 + 1000 * static_cast<std::int64_t>(random_.below(10)));
    settings_.mirror_timeout =
        Milliseconds(3000 + 1000 * static_cast<std::int64_t>(random_.below(8)));
    settings_.v2_percentage = static_cast<int>(random_.below(101));
    settings_.v1_command = {"legacy"};
    careful_ = random_.percent(50);
    const std::size_t pods = 2 + random_.below(4);
    for (std::size_t i = 0; i < pods; ++i) {
      Pod pod;
      pod.worker = Worker{AgentName{"worker-" + std::to_string(i)}, ++sessions_,
                          "p" + std::to_string(sessions_), "n" + std::to_string(i % 2)};
      pods_.push_back(std::move(pod));
    }
    start_engine(false);
  }

  std::string run() {
    const std::size_t wanted = 3 + random_.below(10);
    most_tickets_ = 2 * wanted;
    const std::size_t steps = 60 + random_.below(120);
    for (std::size_t i = 0; i < steps && ok(); ++i) {
      if (tickets_ < wanted || random_.percent(3)) submit();
      if (random_.percent(4)) cancel_or_retry();
      if (random_.percent(30)) fault();
      step(true);
    }
    for (Pod& pod : pods_) {
      if (!pod.alive || pod.leaving) replace(pod);
      if (!pod.connected) join(pod);
    }
    faults_ = false;
    most_tickets_ = 0;
    for (int i = 0; i < 600 && ok(); ++i) {
      step(false);
      end_starvation();
      for (Pod& pod : pods_) {
        if (!pod.connected) join(pod);  // a crash that was under way has left it outside
      }
      if (i > 20 && all_final()) break;
    }
    for (int i = 0; i < 12 && ok(); ++i) step(false);
    if (ok()) final_checks();
    return problem_.str();
  }

  std::size_t excused = 0;  // accepted, but every holder died
  std::size_t accepted() const { return accepted_.size(); }
  std::size_t completions() const { return completed_.size(); }
  std::size_t recoveries = 0;
  std::size_t cut_short = 0;  // of them
  std::size_t twins = 0;      // accepted under an id that another task has or had
  std::size_t waits = 0;      // that were taken
  std::size_t waits_over = 0;
  std::size_t cycles = 0;  // waits that were refused for one
  std::size_t starved = 0;
  std::size_t subtasks() const { return parents_.size(); }
  std::size_t forked() const { return forked_.size(); }

 private:
  bool ok() const { return problem_.str().empty(); }
  void require(bool condition, const std::string& what) {
    if (!condition && ok())
      problem_ << what << " (at " << now_.time_since_epoch().count() << " ms)";
  }
  WallTime wall() const { return 1'000'000 + now_.time_since_epoch().count(); }

  // ---- coordinator
  static Expected expected(const Pod& pod) { return {pod.worker.name, pod.worker.pod}; }
  // As the shell does it.
  void push_report() {
    reported_ = gathering_.awaited(now_);
    for (const Pod& pod : pods_) {
      if (pod.alive && pod.connected) reported_.insert(expected(pod));
    }
    report_epoch_ = epoch_;
  }
  void start_engine(bool recovery) {
    // Who has told the last coordinator something, or was to tell it.
    for (const Pod& pod : pods_) {
      if (pod.connected) owed_.insert(pod.worker.pod);
    }
    gathering_ = Gathering(now_, Takeover{++epoch_, log_epoch_, report_epoch_, reported_});
    owed_until_ = now_ + kAwaitLimit;
    const bool lost_its_log = log_.empty();
    if (trace_) std::printf("          a new coordinator, log of %zu\n", log_.size());
    engine_ = std::make_unique<Engine>(
        settings_, [](void* context) { return static_cast<Random*>(context)->next(); }, &random_);
    granted_.clear();
    shown_.clear();
    waits_.clear();
    if (!recovery) return push_report();
    recoveries++;
    tickets_open_.clear();
    engine_->begin_recovery(now_);
    std::map<TaskId, std::uint64_t> given;
    std::set<TaskId> final_given;
    const auto note = [&](const Task& t) {
      std::uint64_t& highest = given[t.id];
      if (t.version >= highest) {
        highest = t.version;
        if (is_final(t.state)) {
          final_given.insert(t.id);
        } else {
          final_given.erase(t.id);
        }
      }
    };
    const std::map<TaskId, Task> log = log_;
    for (const auto& [id, task] : log) {
      engine_->restore(now_, wall(), task, std::nullopt);
      note(task);
    }
    std::vector<Pod*> here;
    for (Pod& pod : pods_) {
      pod.connected = false;
      unplug(pod);
      if (pod.alive && (careful_ || random_.percent(80))) here.push_back(&pod);
    }
    if (random_.percent(80)) push_report();
    for (const Expected& one : gathering_.awaited(now_)) {
      if (std::none_of(here.begin(), here.end(), [&](Pod* pod) { return expected(*pod) == one; }))
        gathering_.unreachable(one);
    }
    for (Pod* pod : here) {
      if (faults_ && random_.percent(5)) {  // lost while it collects; if it had no log, its pod too
        cut_short++;
        if (lost_its_log && random_.percent(50)) log_epoch_ = 0;
        return start_engine(true);
      }
      for (const auto& [id, task] : pod->copies) note(task);
      join(*pod);
      if (random_.percent(30)) perform();
      if (random_.percent(30)) pass(500);
    }
    while (!gathering_.done(now_, false)) pass(500);
    engine_->end_recovery(now_, wall());
    look_whom_to_await();
    engine_->tick(now_, wall());  // joining took time
    for (const auto& [id, version] : given) {
      const auto found = engine_->find(id);
      require(found.ok() && (*found)->version >= version,
              "restored less than was given: " + id.value);
      if (found.ok() && final_given.contains(id)) {
        require(is_final((*found)->state), "a restored outcome is gone: " + id.value);
      }
    }
    for (const auto& [id, who] : completed_) {
      const auto found = engine_->find(id);
      if (!found.ok() || (*found)->state != TaskState::kDone)
        forked_.insert(id);  // its holders are away or dead
    }
    perform();
  }

  void look_whom_to_await() {
    const bool awaits = gathering_.awaits(now_, false);
    engine_->await_copies(awaits, gathering_.refuses_ids(now_, false));
    // (Of a batch that it dies in the log has not all.)
    if (!awaits && !crash_pending_) log_epoch_ = epoch_;
    push_report();
    check_known();
  }
  // Nobody is told that an accepted task does not exist while somebody may come back with it.
  void check_known() {
    if (now_ >= owed_until_) return owed_.clear();
    for (const TaskId& id : accepted_) {
      const auto found = engine_->find(id);
      if (found.ok() || found.error().code != Code::kNotFound) continue;
      for (const Pod& pod : pods_) {
        require(!pod.alive || !pod.copies.contains(id) || !owed_.contains(pod.worker.pod),
                id.value + " is said not to exist, but " + pod.worker.pod + " holds it");
      }
    }
  }
  static bool is_marked(const Task& t) { return t.last_output.starts_with("a duplicate of task "); }
  // Of one idempotency id, at most one task has a future or an outcome; of several that are done,
  // all but one say so.
  void check_duplicates() {
    std::map<std::string, TaskId> kept;
    const auto open = *engine_->list({TaskState::kQueued, TaskState::kRunning}, {}, 1000);
    for (const Task* t : open) {
      if (t->idempotency_id.empty() || t->cancel_requested) continue;
      const auto [entry, first] = kept.emplace(t->idempotency_id, t->id);
      require(first, entry->second.value + " and " + t->id.value + " run under one id");
    }
    std::map<std::string, TaskId> done_ones;
    const auto done = *engine_->list({TaskState::kDone}, {}, 1000);
    for (const Task* t : done) {
      if (t->idempotency_id.empty()) continue;
      require(!kept.contains(t->idempotency_id),
              t->id.value + " is done, and another one of its id is not ended");
      if (is_marked(*t)) continue;
      const auto [entry, first] = done_ones.emplace(t->idempotency_id, t->id);
      require(first, entry->second.value + " and " + t->id.value +
                         " are done under one id, and none says so");
    }
  }
  void check_refusals() {
    const auto all = *engine_->list({}, {}, 1000);
    for (const Task* t : all)
      require(!refused_.contains(t->body), "a refused task is there: " + t->id.value);
  }

  void perform() {
    for (Output& output : engine_->take_outputs()) {
      perform_one(output);
    }
  }
  void perform_one(Output& output) {
    if (crash_pending_) return;
    if (trace_) describe(output);
    std::visit([&](auto& o) { handle(o); }, output);
    if (faults_ && !replacing_ && random_.next() % 3000 == 0) {  // dies in the middle of a batch
      crash_pending_ = true;
    }
  }
  void describe(const Output& output) const {
    std::printf("%8lld  ", static_cast<long long>(now_.time_since_epoch().count()));
    if (const auto* o = std::get_if<Store>(&output))
      std::printf("store %s v%llx\n", o->id.value.c_str(), ull(o->version));
    if (const auto* o = std::get_if<Replicate>(&output)) {
      std::printf("replicate %s v%llx to %s/%llu\n", o->id.value.c_str(), ull(o->version),
                  o->mirror.name.value.c_str(), ull(o->mirror.session));
    }
    if (const auto* o = std::get_if<Forget>(&output))
      std::printf("forget %s at %s\n", o->id.value.c_str(), o->mirror.name.value.c_str());
    if (const auto* o = std::get_if<Submitted>(&output)) {
      std::printf("submitted %llu %s\n", ull(o->ticket),
                  o->result.ok() ? o->result->value.c_str() : o->result.error().message.c_str());
    }
    if (const auto* o = std::get_if<Lease>(&output))
      std::printf("lease %s %u to %s\n", o->id.value.c_str(), o->attempt,
                  o->worker.name.value.c_str());
    if (const auto* o = std::get_if<Reported>(&output)) {
      std::printf("reported %s %llu %s\n", o->worker.name.value.c_str(), ull(o->request),
                  o->status.ok() ? "ok" : o->status.error().message.c_str());
    }
    if (const auto* o = std::get_if<Cancel>(&output))
      std::printf("cancel %s %u at %s\n", o->id.value.c_str(), o->attempt,
                  o->worker.name.value.c_str());
    if (const auto* o = std::get_if<Erase>(&output)) std::printf("erase %s\n", o->id.value.c_str());
    if (const auto* o = std::get_if<Changed>(&output))
      std::printf("changed %s\n", o->id.value.c_str());
    if (const auto* o = std::get_if<NoTask>(&output))
      std::printf("no task for %s: %s\n", o->worker.name.value.c_str(), o->reason.c_str());
  }
  static unsigned long long ull(std::uint64_t n) { return n; }
  Pod* pod_of(const Worker& w) {
    for (Pod& pod : pods_) {
      if (pod.worker == w && pod.alive && pod.connected) return &pod;
    }
    return nullptr;
  }
  void send(const Worker& w, Output output) {
    if (Pod* pod = pod_of(w)) pod->inbox.push_back(std::move(output));
  }
  void handle(Store& o) {
    Result<Task> task = decode(o.bytes);
    require(task.ok(), "stored something that cannot be read" +
                           (task.ok() ? "" : ": " + task.error().message));
    if (!task.ok()) return;
    require(task->version == o.version, "a Store with another version than its task");
    const auto before = log_.find(o.id);
    const bool adopted = other_line_.erase(o.id) > 0;
    if (before != log_.end() && !adopted) check_step(before->second, *task);
    log_[o.id] = *task;
  }
  void handle(Erase& o) { log_.erase(o.id); }
  void handle(Replicate& o) { send(o.mirror, o); }
  void handle(Forget& o) { send(o.mirror, o); }
  void handle(Submitted& o) {
    if (!tickets_open_.erase(o.ticket) || !o.result.ok()) {
      require(!o.result.ok() || replacing_, "a ticket answered twice");
      if (!o.result.ok() && o.result.error().code != Code::kUnknown)
        refused_.insert("b" + std::to_string(o.ticket));
      return;
    }
    const TaskId& id = *o.result;
    if (const auto parent = asked_parents_.find(o.ticket);
        parent != asked_parents_.end() && !o.duplicate)
      parents_[id] = parent->second;
    require(log_.contains(id), "accepted without a record in the log: " + id.value);
    require(held_.contains(id), "accepted without a second pod: " + id.value);
    require(!o.mirrors.empty() && o.survives != "container", "accepted, but says so badly");
    accepted_.insert(id);
    if (const auto& name = log_.at(id).idempotency_id; !name.empty()) {
      // (Who lost the last copy of the other one, or has waited long enough, may make another.)
      const auto [entry, first] = by_name_.emplace(name, id);
      if (!first && entry->second != id) {
        twins++;
        entry->second = id;
      }
    }
  }
  void handle(Lease& o) {
    const auto t = log_.find(o.id);
    require(t != log_.end() && t->second.state == TaskState::kRunning &&
                t->second.history.back().number == o.attempt &&
                t->second.history.back().agent == o.worker.name &&
                t->second.history.back().session == o.worker.session,
            "a lease that the log does not know: " + o.id.value);
    require((o.version == Version::kV1) == !o.command.empty(),
            "V1 without a command, or V2 with one");
    granted_[o.id].insert(o.attempt);
    send(o.worker, o);
  }
  void handle(NoTask& o) { send(o.worker, o); }
  void handle(Reported& o) {
    const auto it = asked_reports_.find({o.worker.name, o.worker.session, o.request});
    if (it != asked_reports_.end() && o.status.ok()) {
      const Report& report = it->second;
      const auto found = engine_->find(report.id);
      require(found.ok(), "a report confirmed for no task");
      if (found.ok()) {
        bool mine = false;
        for (const Attempt& a : (*found)->history) {
          mine = mine ||
                 (a.number == report.attempt && a.agent == o.worker.name &&
                  a.session == o.worker.session && a.ended_at != 0 && !is_lost_reason(a.reason));
        }
        require(mine || (*found)->history_dropped > 0,
                "a report confirmed that is not in the history");
        for (const Attempt& a : (*found)->history) {
          if (a.number != report.attempt || a.agent != o.worker.name ||
              a.session != o.worker.session || (*found)->history_dropped > 0)
            continue;
          require(a.usage == report.usage, "a report confirmed without its cost");
        }
        bool possible = false;
        for (const Pod& pod : pods_)
          possible = possible || (pod.alive && pod.connected && !pod.leaving);
        // (What no agent took is replaced in the history by the next attempt.)
        require(outcomes_held_.contains({report.id, report.attempt}) || !possible || !report.taken,
                "a report confirmed that only the coordinator holds: " + report.id.value);
        // (The last attempt: an earlier one may have been done, but cancelled, and the task
        // retried.)
        if (report.done && (*found)->state == TaskState::kDone &&
            (*found)->history.back().number == report.attempt) {
          const auto who = std::tuple{o.worker.name, o.worker.session, report.attempt};
          const auto [entry, first] = completed_.emplace(report.id, who);
          require(first || entry->second == who || forked_.contains(report.id),
                  "two completions of " + report.id.value);
        }
      }
    }
    send(o.worker, o);
  }
  void handle(Cancel& o) { send(o.worker, o); }
  void handle(Waited& o) {
    const auto known = waits_.find({o.worker.session, o.request});
    if (known != waits_.end()) waits_.erase(known);
    if (o.status.ok()) {
      waits_over++;
      for (const TaskId& id : o.tasks) {
        const auto found = engine_->find(id);
        require(!found.ok() || is_final((*found)->state),
                "a wait is over, " + id.value + " is not");
      }
    }
    send(o.worker, o);
  }

  // ---- waits, as this world knows them: what was taken and not answered, of attempts that are
  // open and whose worker is connected since
  std::set<TaskId> edges_of(const TaskId& id) {
    std::set<TaskId> out;
    const auto from = engine_->find(id);
    if (!from.ok() || (*from)->state != TaskState::kRunning) return out;
    for (const auto& [key, wait] : waits_) {
      if (wait.self.id != id || (*from)->history.back().number != wait.self.attempt ||
          (*from)->history.back().session != key.first)
        continue;
      for (const TaskId& to : wait.tasks) {
        const auto found = engine_->find(to);
        if (found.ok() && !is_final((*found)->state)) out.insert(to);
      }
    }
    return out;
  }
  bool closes_cycle(const TaskId& self, const std::vector<TaskId>& tasks) {
    std::set<TaskId> seen;
    std::vector<TaskId> left = tasks;
    while (!left.empty()) {
      const TaskId id = left.back();
      left.pop_back();
      const auto found = engine_->find(id);
      if (!found.ok() || is_final((*found)->state) || !seen.insert(id).second) continue;
      if (id == self) return true;
      for (const TaskId& to : edges_of(id)) left.push_back(to);
    }
    return false;
  }
  void say_wait(Pod& pod, Work& work) {
    const std::uint64_t request = ++pod.requests;
    work.wait_request = request;
    const bool closes = closes_cycle(work.id, work.awaited);
    const std::pair key{pod.worker.session, request};
    waits_[key] = {{work.id, work.attempt}, work.awaited};
    // The answer may change works.
    const auto self = waits_[key].self;
    const auto tasks = work.awaited;
    engine_->wait(now_, wall(), pod.worker, request, self, tasks);
    const auto outputs = engine_->take_outputs();
    std::optional<Status> answer;
    for (const Output& o : outputs) {
      if (const auto* w = std::get_if<Waited>(&o);
          w != nullptr && w->request == request && w->worker == pod.worker)
        answer = w->status;
    }
    const bool refused =
        answer && !answer->ok() && answer->error().message.find("cycle") != std::string::npos;
    const bool otherwise = answer && !answer->ok() && !refused;  // not at work, recovering, …
    require(refused == closes || otherwise,
            closes ? "a cycle of waits was not refused: " + self.id.value
                   : "a wait that closes no cycle was refused: " + self.id.value);
    if (refused) cycles++;
    if (!answer) waits++;
    for (Output output : outputs) perform_one(output);
  }
  void give_up_wait(Pod& pod, Work& work) {
    if (work.wait_request) {
      if (pod.connected) engine_->forget_wait(pod.worker, *work.wait_request);
      waits_.erase({pod.worker.session, *work.wait_request});
    }
    work.wait_request.reset();
    work.awaited.clear();
  }
  void handle(Changed& o) {
    const auto found = engine_->find(o.id);
    if (!found.ok()) return;
    TaskState& shown = shown_[o.id];
    require(shown != TaskState::kDone || (*found)->state == TaskState::kDone,
            "done, and then not: " + o.id.value);
    shown = (*found)->state;
  }

  // What may change from one version of a task to the next.
  void check_step(const Task& a, const Task& b) {
    const std::string id = b.id.value;
    require(b.version > a.version, "a version that does not grow: " + id);
    require(a.body == b.body && a.key == b.key && a.created_at == b.created_at,
            "a task changed its nature: " + id);
    require(a.parent == b.parent && a.depth == b.depth, "a task changed its parent: " + id);
    require(a.route == Version::kUndecided || a.route == b.route || settings_.v1_command.empty(),
            "rerouted: " + id);
    std::uint32_t charged = 0;
    for (const Attempt& attempt : b.history) {
      if (attempt.ended_at != 0) {
        require(attempt.charged == is_charged(attempt.reason),
                "wrongly charged " + attempt.reason + ": " + id);
      }
      charged += attempt.charged ? 1 : 0;
    }
    require(b.charged_attempts <= charged || b.history_dropped > 0,
            "more charged than happened: " + id);
    require(b.charged_attempts <= b.max_attempts, "more attempts than allowed: " + id);
    require(a.usage.cost_micro_usd.value_or(0) <= b.usage.cost_micro_usd.value_or(0),
            "what was spent is not: " + id);
    if (b.history_dropped > 0) return;
    std::uint64_t cost = 0;
    for (const Attempt& attempt : b.history) cost += attempt.usage.cost_micro_usd.value_or(0);
    require(b.usage.cost_micro_usd.value_or(0) == cost,
            "an attempt's cost was not counted once: " + id);
    require(b.history.size() >= a.history.size(), "history lost an attempt: " + id);
    for (std::size_t i = 0; i < std::min(a.history.size(), b.history.size()); ++i) {
      const Attempt& x = a.history[i];
      const Attempt& y = b.history[i];
      require(x.number == y.number && x.agent == y.agent && x.session == y.session,
              "history was rewritten: " + id);
      if (x.ended_at != 0 && !is_lost_reason(x.reason))
        require(same(x, y), "a report was overwritten: " + id);
      if (x.ended_at != 0 && is_lost_reason(x.reason) && i + 1 < a.history.size()) {
        require(same(x, y),
                "a late report counted although another had been given the task: " + id);
      }
    }
  }
  static bool same(const Attempt& a, const Attempt& b) {
    return a.number == b.number && a.agent == b.agent && a.session == b.session &&
           a.ended_at == b.ended_at && a.reason == b.reason && a.charged == b.charged;
  }
  std::size_t holders(const TaskId& id) const {
    std::size_t n = 0;
    for (const Pod& pod : pods_) n += pod.alive && pod.copies.contains(id) ? 1 : 0;
    return n;
  }
  void note_losses() {
    for (const TaskId& id : accepted_) {
      if (!log_.contains(id) && holders(id) == 0 && lost_.insert(id).second) excused++;
    }
    require(!careful_ || lost_.empty(), "lost although two pods were said to hold it: " +
                                            (lost_.empty() ? std::string() : lost_.begin()->value));
  }

  // ---- workers
  void unplug(Pod& pod) {
    pod.inbox.clear();
    pod.confirms.clear();
    pod.calls.clear();
    pod.asked.reset();
    for (Work& work : pod.works) work.wait_request.reset();
    for (auto it = waits_.lower_bound({pod.worker.session, 0});
         it != waits_.end() && it->first.first == pod.worker.session;)
      it = waits_.erase(it);
  }
  void join(Pod& pod) {
    if (trace_) {
      std::printf("          join %s/%llu", pod.worker.name.value.c_str(), ull(pod.worker.session));
      for (const auto& [id, task] : pod.copies)
        std::printf(" %s:v%llx", id.value.c_str(), ull(task.version));
      std::printf("\n");
    }
    unplug(pod);
    pod.connected = true;
    gathering_.came(expected(pod));
    std::vector<Engine::Running> running;
    std::map<TaskId, std::uint64_t> held;
    for (const Work& work : pod.works) running.push_back({work.id, work.attempt});
    for (const auto& [id, task] : pod.copies) held[id] = task.version;
    std::set<TaskId> open;
    for (const Work& work : pod.works) {
      // Of several attempts of a task the latest owns it; the others have only a report left.
      const bool later = std::any_of(pod.works.begin(), pod.works.end(), [&](const Work& other) {
        return other.id == work.id && other.attempt > work.attempt;
      });
      const auto t = log_.find(work.id);
      if (!later && !engine_->recovering() && engine_->find(work.id).ok() && t != log_.end() &&
          t->second.state == TaskState::kRunning && is_open_for(t->second, pod, work.attempt)) {
        open.insert(work.id);
      }
    }
    const auto copies = pod.copies;
    const bool first = random_.percent(50);
    if (first) engine_->worker_joined(now_, wall(), pod.worker, running, held);
    for (const auto& [id, task] : copies) {
      if (engine_->wants(id, task.version)) {
        if (!engine_->recovering()) {
          perform();
          adopted_.insert(id);
        }
        other_line_.insert(id);
        engine_->restore(now_, wall(), task, pod.worker);
        if (!engine_->recovering()) perform();
      }
    }
    if (!first) engine_->worker_joined(now_, wall(), pod.worker, running, held);
    owed_.erase(pod.worker.pod);
    push_report();
    for (const TaskId& id : open) {
      const auto found = engine_->find(id);
      require(adopted_.contains(id) || (found.ok() && (*found)->state == TaskState::kRunning),
              "a lease that its worker named is over: " + id.value);
    }
    if (pod.leaving) engine_->worker_leaving(now_, wall(), pod.worker);
  }
  static bool is_open_for(const Task& t, const Pod& pod, std::uint32_t attempt) {
    const Attempt& a = t.history.back();
    return a.ended_at == 0 && a.number == attempt && a.agent == pod.worker.name &&
           a.session == pod.worker.session;
  }
  void disconnect(Pod& pod) {
    if (!pod.connected) return;
    if (trace_) std::printf("          disconnect %s\n", pod.worker.name.value.c_str());
    pod.connected = false;
    unplug(pod);
    engine_->worker_disconnected(now_, wall(), pod.worker);
  }
  void kill(Pod& pod) {
    disconnect(pod);
    pod.alive = false;
    pod.copies.clear();
    pod.works.clear();
    note_losses();
  }
  void replace(Pod& pod) {
    if (pod.alive) kill(pod);
    pod.alive = true;
    pod.leaving = false;
    pod.worker.session = ++sessions_;
    pod.worker.pod = "p" + std::to_string(sessions_);
    pod.worker.node = "n" + std::to_string(random_.below(3));
    join(pod);
  }
  void act(Pod& pod) {
    if (!pod.alive) return;
    std::vector<Engine::Running> to_say, to_submit;
    for (Work& work : pod.works) {
      if (work.report) {
        if (pod.connected && random_.percent(40)) send_report(pod, *work.report);
      } else if (!work.awaited.empty() && !(faults_ && random_.percent(12))) {
        if (pod.connected && !work.wait_request && random_.percent(60))
          to_say.push_back({work.id, work.attempt});
        else if (faults_ && random_.percent(3))
          give_up_wait(pod, work);
        if (pod.connected && random_.percent(30))  // its lease is kept without that, too
          pod.calls.emplace_back(Extend{work.id, work.attempt});
      } else if (work.hangs && faults_) {
        continue;
      } else if (work.awaited.empty() && pod.connected && random_.percent(12)) {
        begin_wait(work);
      } else if (pod.connected && tickets_ < most_tickets_ && random_.percent(12)) {
        to_submit.push_back({work.id, work.attempt});
      } else if (random_.percent(25)) {  // even if something of it still waits
        Report report;
        report.id = work.id;
        report.attempt = work.attempt;
        report.done = random_.percent(70);
        report.kind = static_cast<FailKind>(random_.below(5));
        if (random_.percent(10)) report.kind = FailKind::kReleased;
        report.exit_code = report.done ? 0 : 1;
        report.result.bytes = "r";
        report.last_lines = {"line"};
        if (random_.percent(70)) report.usage.cost_micro_usd = 1 + random_.below(1000);
        work.report = report;
        if (pod.connected) send_report(pod, report);
      } else if (pod.connected && random_.percent(60)) {
        pod.calls.emplace_back(Extend{work.id, work.attempt});
      }
    }
    if (pod.connected && !pod.leaving && pod.works.size() < 2 && !pod.asked &&
        random_.percent(50)) {
      pod.asked = ++pod.requests;
      pod.calls.emplace_back(Next{*pod.asked});
    }
    if (pod.asked && random_.percent(5)) pod.asked.reset();  // gave up waiting
    for (const auto& one : to_submit) {
      asked_parents_[tickets_ + 1] = one.id;
      submit(AtWork{pod.worker, one.id, one.attempt});
    }
    for (const auto& one : to_say) {
      for (Work& work : pod.works) {
        if (work.id != one.id || work.attempt != one.attempt || work.report ||
            work.awaited.empty() || crash_pending_)
          continue;
        say_wait(pod, work);
        break;
      }
    }
  }
  void begin_wait(Work& work) {
    for (std::size_t n = 1 + random_.below(3); n > 0 && !accepted_.empty(); --n) {
      auto it = accepted_.begin();
      std::advance(it, static_cast<std::ptrdiff_t>(random_.below(accepted_.size())));
      work.awaited.push_back(*it);
    }
  }
  void send_report(Pod& pod, const Report& report) {
    const std::uint64_t request = ++pod.requests;
    asked_reports_[{pod.worker.name, pod.worker.session, request}] = report;
    pod.calls.emplace_back(Done{request, report});
  }
  void receive(Pod& pod, Output& output) {
    if (auto* o = std::get_if<Replicate>(&output)) {
      if (faults_ && random_.percent(2)) return;  // its log was full
      Result<Task> task = decode(o->bytes);
      require(task.ok(), "replicated something that cannot be read");
      if (!task.ok()) return;
      const auto have = pod.copies.find(o->id);
      if (have != pod.copies.end() && have->second.version > o->version) return;
      pod.copies[o->id] = *task;
      held_.insert(o->id);
      for (const Attempt& a : task->history) {
        if (a.ended_at != 0 && !is_lost_reason(a.reason)) outcomes_held_.emplace(o->id, a.number);
      }
      pod.confirms.emplace_back(Confirm{o->id, o->version});
    } else if (auto* f = std::get_if<Forget>(&output)) {
      pod.copies.erase(f->id);
      note_losses();
    } else if (auto* l = std::get_if<Lease>(&output)) {
      if (pod.asked != l->request) {  // nobody waits for it any more
        const bool known = std::any_of(pod.works.begin(), pod.works.end(), [&](const Work& work) {
          return work.id == l->id && work.attempt == l->attempt;  // the answer to a repetition
        });
        if (known || random_.percent(50)) return;
        Report back;
        back.id = l->id;
        back.attempt = l->attempt;
        back.kind = FailKind::kReleased;
        back.taken = false;
        pod.works.push_back(Work{l->id, l->attempt, false, back});
        return;
      }
      pod.asked.reset();
      for (const Work& work : pod.works) {
        require(work.id != l->id || work.attempt != l->attempt, "the same attempt given twice");
      }
      pod.works.push_back(Work{l->id, l->attempt, random_.percent(10), std::nullopt});
    } else if (auto* n = std::get_if<NoTask>(&output)) {
      if (pod.asked == n->request) pod.asked.reset();
    } else if (auto* r = std::get_if<Reported>(&output)) {
      const Report report = asked_reports_.at({r->worker.name, r->worker.session, r->request});
      if (!r->status.ok() && r->status.error().code == Code::kUnavailable) return;
      std::erase_if(pod.works, [&](const Work& w) {
        return w.id == report.id && w.attempt == report.attempt;
      });
    } else if (auto* c = std::get_if<Cancel>(&output)) {
      end_work(pod, c->id, c->attempt);
    } else if (auto* w = std::get_if<Waited>(&output)) {
      for (Work& work : pod.works) {
        if (work.wait_request != w->request) continue;
        work.wait_request.reset();
        const bool later = !w->status.ok() && w->status.error().code == Code::kUnavailable;
        if (!later) work.awaited.clear();
      }
    }
  }
  void end_work(Pod& pod, const TaskId& id, std::uint32_t attempt) {
    for (Work& work : pod.works) {
      if (work.id != id || work.attempt != attempt || work.report || work.hangs) continue;
      give_up_wait(pod, work);
      Report report;
      report.id = id;
      report.attempt = attempt;
      report.kind = FailKind::kCancelled;
      work.report = report;
    }
  }
  void deliver(Pod& pod, ToCoordinator message) {
    if (auto* c = std::get_if<Confirm>(&message)) {
      engine_->replicated(now_, wall(), pod.worker, c->id, c->version);
    } else if (auto* n = std::get_if<Next>(&message)) {
      engine_->next(now_, wall(), pod.worker, n->request,
                    now_ + Milliseconds(random_.below(10000)));
    } else if (auto* d = std::get_if<Done>(&message)) {
      engine_->report(now_, wall(), pod.worker, d->request, d->report);
    } else if (auto* x = std::get_if<Extend>(&message)) {
      const std::string progress = "at work";
      const auto extended = engine_->extend(now_, wall(), pod.worker, x->id, x->attempt, &progress);
      if (extended.ok()) {
        const auto found = engine_->find(x->id);
        require(found.ok() && (*found)->state == TaskState::kRunning &&
                    is_open_for(**found, pod, x->attempt),
                "extended a lease that is another's");
        if (extended->cancel) end_work(pod, x->id, x->attempt);
      } else if (extended.error().code != Code::kUnavailable) {
        std::erase_if(pod.works, [&](const Work& w) {
          return w.id == x->id && w.attempt == x->attempt && !w.report;
        });
      }
    }
  }
  void exchange(Pod& pod) {
    if (!pod.alive || !pod.connected) return;
    for (std::size_t n = pod.inbox.size(); n > 0 && random_.percent(85); --n) {
      Output output = std::move(pod.inbox.front());
      pod.inbox.pop_front();
      receive(pod, output);
    }
    while (!pod.confirms.empty() && random_.percent(85)) {
      ToCoordinator message = pod.confirms.front();
      pod.confirms.pop_front();
      deliver(pod, message);
    }
    for (std::size_t n = pod.calls.size(); n > 0 && random_.percent(85); --n) {
      const std::size_t i = random_.below(pod.calls.size());
      const ToCoordinator message = pod.calls[i];
      if (!random_.percent(8))
        pod.calls.erase(pod.calls.begin() + static_cast<std::ptrdiff_t>(i));  // else again later
      if (faults_ && random_.percent(4)) continue;                            // lost
      deliver(pod, message);
    }
  }

  // ---- the world
  void pass(std::size_t most) {
    now_ += Milliseconds(static_cast<std::int64_t>(random_.below(most)));
  }
  void step(bool faulty) {
    pass(faulty ? 800 : 3000);
    look_whom_to_await();
    engine_->tick(now_, wall());
    perform();
    for (Pod& pod : pods_) {
      act(pod);
      exchange(pod);
      perform();
    }
    if (crash_pending_) {
      crash_pending_ = false;
      if (!careful_ || calm()) {
        crash(random_.percent(50));
      } else {
        crash(false);
      }
    }
    if (!engine_->recovering()) {
      check_duplicates();
      check_refusals();
      const auto deadline = engine_->next_deadline();
      require(!deadline || *deadline > now_ - Milliseconds(1), "a deadline in the past");
    }
  }
  // Everybody waits for what nobody is left to do: one gives up.
  void end_starvation() {
    if (engine_->counts(wall()).starved == 0) return;
    starved++;
    for (Pod& pod : pods_) {
      for (Work& work : pod.works) {
        if (work.awaited.empty()) continue;
        return give_up_wait(pod, work);
      }
    }
  }
  void submit(std::optional<AtWork> parent = {}) {
    Submission s;
    s.parent = std::move(parent);
    s.body = "b" + std::to_string(tickets_ + 1);
    if (random_.percent(50)) s.key = "k" + std::to_string(random_.below(5));
    if (random_.percent(40)) s.idempotency_id = "i" + std::to_string(random_.below(6));
    if (random_.percent(30)) s.max_attempts = 1 + static_cast<std::uint32_t>(random_.below(3));
    tickets_open_.insert(++tickets_);
    engine_->submit(now_, wall(), tickets_, s);
    perform();
  }
  void cancel_or_retry() {
    if (accepted_.empty()) return;
    auto it = accepted_.begin();
    std::advance(it, static_cast<std::ptrdiff_t>(random_.below(accepted_.size())));
    const Result<Task> result = random_.percent(60) ? engine_->cancel(now_, wall(), *it)
                                                    : engine_->retry(now_, wall(), *it);
    if (!result.ok()) {
      const Code code = result.error().code;
      require(code == Code::kConflict || code == Code::kNotFound || code == Code::kUnavailable,
              "an odd refusal");
    }
    perform();
  }
  // Every accepted task is said to be held twice, and everybody is here: one pod may go.
  bool calm() {
    if (engine_->counts(wall()).single_copy != 0) return false;
    for (const Pod& pod : pods_) {
      if (!pod.alive || !pod.connected) return false;
    }
    return true;
  }
  void crash(bool pod_too) {
    replacing_ = true;
    if (pod_too) {
      log_.clear();
      log_epoch_ = 0;
      note_losses();
    }
    start_engine(true);
    replacing_ = false;
  }
  void fault() {
    Pod& pod = pods_[random_.below(pods_.size())];
    switch (random_.below(8)) {
      case 0:
      case 1:
        if (pod.connected) {
          disconnect(pod);
        } else if (pod.alive) {
          join(pod);
        }
        break;
      case 2:
        if (pod.alive && pod.connected)
          join(pod);  // the sidecar restarted faster than anybody noticed
        break;
      case 3:
        if (pod.alive && (!careful_ || calm())) kill(pod);
        break;
      case 4:
        if (!pod.alive) replace(pod);
        break;
      case 5:
        if (pod.alive && pod.connected && !pod.leaving && random_.percent(40)) {
          pod.leaving = true;
          engine_->worker_leaving(now_, wall(), pod.worker);
        } else if (pod.leaving && (!careful_ || calm())) {
          replace(pod);
        }
        break;
      case 6:
        if (random_.percent(30) && (!careful_ || calm())) crash(true);
        break;
      case 7:
        if (random_.percent(30)) crash(false);
        break;
      default:
        break;
    }
    for (Pod& other : pods_) {  // whoever is away comes back some day
      if (other.alive && !other.connected && random_.percent(20)) join(other);
    }
    perform();
  }
  bool all_final() {
    for (const TaskId& id : accepted_) {
      if (lost_.contains(id)) continue;
      const auto found = engine_->find(id);
      if (!found.ok() || !is_final((*found)->state)) return false;
    }
    const Counts counts = engine_->counts(wall());
    return counts.queued == 0 && counts.running == 0;
  }
  void final_checks() {
    for (const TaskId& id : accepted_) {
      if (lost_.contains(id)) continue;
      const auto found = engine_->find(id);
      require(found.ok(), "accepted and lost: " + id.value);
      if (!found.ok()) continue;
      const Task& t = **found;
      require(is_final(t.state),
              "not finished: " + id.value + " is " + std::string(state_name(t.state)));
      require(t.history.empty() || t.history.back().ended_at != 0,
              "an attempt still open: " + id.value);
      if (completed_.contains(id) && !forked_.contains(id)) {
        require(t.state == TaskState::kDone,
                "completed, but ends as " + std::string(state_name(t.state)));
      }
      require(t.state != TaskState::kDone || t.result, "done without a result");
      if (const auto parent = parents_.find(id); parent != parents_.end())
        require(t.parent == parent->second, "a subtask of another one: " + id.value);
      if (t.history_dropped == 0 && !adopted_.contains(id)) {
        std::set<std::uint32_t> numbers;
        for (const Attempt& a : t.history) numbers.insert(a.number);
        for (std::uint32_t number : granted_[id]) {
          require(numbers.contains(number), "an attempt missing in the history of " + id.value);
        }
      }
      require(holders(id) == 1,
              "held by " + std::to_string(holders(id)) + " workers in the end: " + id.value);
      for (const Pod& pod : pods_) {
        const auto copy = pod.copies.find(id);
        if (copy != pod.copies.end())
          require(copy->second.version == t.version, "an old copy in the end: " + id.value);
      }
      const auto logged = log_.find(id);
      require(logged != log_.end() && logged->second.version == t.version,
              "an old record in the end: " + id.value);
    }
    require(engine_->counts(wall()).single_copy == 0, "single copies in the end");
    require(engine_->counts(wall()).waiting == 0, "somebody waits in the end");
  }

  const bool trace_ = std::getenv("SWARM_TRACE") != nullptr;
  Random random_;
  Settings settings_;
  MonoTime now_{Milliseconds(1000)};
  std::unique_ptr<Engine> engine_;
  std::map<TaskId, Task> log_;  // the coordinator's
  std::vector<Pod> pods_;
  std::uint64_t sessions_ = 0, tickets_ = 0;
  Gathering gathering_;
  std::uint64_t epoch_ = 0, log_epoch_ = 0, report_epoch_ = 0;
  std::set<Expected> reported_;
  std::set<std::string> owed_;  // pods that nobody may forget yet
  MonoTime owed_until_{};
  std::map<std::string, TaskId> by_name_;
  bool faults_ = true, careful_ = false, replacing_ = false, crash_pending_ = false;
  std::set<std::uint64_t> tickets_open_;
  std::set<TaskId> other_line_;  // a copy of another epoch may be the next Store
  std::set<TaskId> held_;        // some worker has stored it
  std::set<std::pair<TaskId, std::uint32_t>> outcomes_held_;  // … with the outcome of this attempt
  std::set<TaskId> accepted_, lost_, forked_, adopted_;
  std::set<std::string> refused_;  // bodies of what was said not to be accepted
  std::map<TaskId, std::tuple<AgentName, std::uint64_t, std::uint32_t>> completed_;
  std::map<TaskId, std::set<std::uint32_t>> granted_;
  std::map<TaskId, TaskState> shown_;
  struct Wait {
    Engine::Running self;
    std::vector<TaskId> tasks;
  };
  std::map<std::pair<std::uint64_t, std::uint64_t>, Wait> waits_;  // session, request
  std::map<std::uint64_t, TaskId> asked_parents_;                  // by ticket
  std::map<TaskId, TaskId> parents_;
  std::uint64_t most_tickets_ = 0;
  std::map<std::tuple<AgentName, std::uint64_t, std::uint64_t>, Report> asked_reports_;
  std::ostringstream problem_;
};

std::uint64_t number_from(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// In parts, so that a slow machine stays within the time a single test has.
class TasksSimulation : public testing::TestWithParam<std::uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Part, TasksSimulation, testing::Range<std::uint64_t>(0, kParts));

TEST_P(TasksSimulation, KeepsItsPromisesWhateverFails) {
  const std::uint64_t one = number_from("SWARM_SEED", 0);
  const std::uint64_t per_part = number_from("SWARM_SEEDS", kSeeds) / kParts;
  const std::uint64_t first = one != 0 ? one : GetParam() * per_part + 1;
  const std::uint64_t last = one != 0 ? one : first + per_part - 1;
  std::size_t accepted = 0, excused = 0, completed = 0, recoveries = 0, forked = 0, twins = 0,
              cut_short = 0, subtasks = 0, waits = 0, waits_over = 0, cycles = 0, starved = 0;
  for (std::uint64_t seed = first; seed <= last; ++seed) {
    World world(seed);
    const std::string problem = world.run();
    ASSERT_EQ(problem, "") << "SWARM_SEED=" << seed;
    accepted += world.accepted();
    excused += world.excused;
    completed += world.completions();
    recoveries += world.recoveries;
    forked += world.forked();
    twins += world.twins;
    cut_short += world.cut_short;
    subtasks += world.subtasks();
    waits += world.waits;
    waits_over += world.waits_over;
    cycles += world.cycles;
    starved += world.starved;
  }
  std::printf(
      "seeds %llu accepted %zu completed %zu recoveries %zu, cut short %zu; both holders died %zu, "
      "outcome's "
      "holders away %zu; two tasks of one id %zu; subtasks %zu, waits %zu, over %zu, cycles %zu, "
      "starved %zu\n",
      static_cast<unsigned long long>(last - first + 1), accepted, completed, recoveries, cut_short,
      excused, forked, twins, subtasks, waits, waits_over, cycles, starved);
  if (one == 0) {  // the world must not be so hostile that nothing happens
    EXPECT_GT(completed, accepted / 3);
    EXPECT_LT(excused, accepted / 5);
    EXPECT_GT(recoveries, per_part);
    EXPECT_GT(cut_short, per_part / 10);
    EXPECT_GT(subtasks, per_part);
    EXPECT_GT(waits_over, per_part);
    EXPECT_GT(cycles, per_part / 10);
    EXPECT_GT(starved, 0U);
  }
}

}  // namespace
}  // namespace swarm::tasks
