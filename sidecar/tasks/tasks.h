// The task engine of one team: a state machine without clock, I/O or threads. It runs in the
// coordinator's sidecar.
//
// Inputs are calls, consequences come out of take_outputs(), in order. The shell performs them in
// that order: Store appends to the local log and is COMMITTED before any later output is performed
// (one commit for a batch will do); Replicate sends a copy to a mirror's sidecar, which calls back
// as replicated() once its own log has it; Lease and so on answer workers.
//
// Who holds what. A submission is answered (Submitted) after the local Store AND a mirror's
// confirmation. A lease is stored first and replicated behind: if the coordinator dies in between,
// the worker's own claim restores it. A report is stored, then replicated, and Reported is sent
// when the mirror has it (or at once if no worker can be a mirror); until then the worker's sidecar
// keeps its copy and repeats it, so two pods hold a result at any time. What progress() says is
// neither stored nor replicated.
//
// Every change of a task has a version (1, 2, …); the copy with the highest version is the task.
// The first change that a replacement coordinator makes jumps past the next multiple of
// kVersionStep, so that copies which a dead epoch left on workers that come late never look newer.
// Such a late copy counts only if it holds an outcome and we have none.
//
// The mirror is a connected worker that is not leaving, on another node than ours if there is one,
// the one with the fewest copies. Mirrors that are lost (worker_lost_after), leave or are
// superseded are replaced at once; a copy that is no longer needed is answered with Forget, also
// when its holder comes back later.
//
// Safety does not rest on time: a result is fenced by (task, attempt, worker session) and valid
// across epochs; a task has at most one lease in an epoch; a lease that ran out only makes the task
// available again. What an older attempt reports later is refused, unless nobody else has been
// given the task since (then it counts: work is not thrown away). An attempt that ends without the
// agent's fault (worker_lost, lease_expired, released, try_later) is not charged, but kMaxLosses of
// the first three, or kMaxTryLater of the last, in a row make the task dead: nothing loops for
// ever. A lease that reached no agent (not_taken) counts for nothing: each has used up a next().
//
// After a coordinator's replacement: begin_recovery(); then restore() with every copy that workers
// hold, worker_joined() for each; queued tasks are not handed out, and unknown ids answer
// kUnavailable, until end_recovery(). Copies of workers that come later: restore() each that
// wants() says is of interest, at any time before or after worker_joined(). As long as such workers
// are awaited (await_copies()), unknown ids go on to answer kUnavailable; for the first part of
// that time a submission under an idempotency id that is unknown is not accepted: the task may
// exist. If it comes all the same with one that comes later, one of the two is kept: the done one,
// else the one that got furthest, else the older. The other is cancelled, unless it is done, too:
// then both stay done, since both were carried out. Its last_output names the one that was kept.
//
// What an attempt has cost is taken once, with its first report that says it, and whether or not
// the outcome itself counts: an attempt that was fenced has cost money, too. What a task has cost
// stays when it is retried, and is spent when it is erased: spent() only grows. (A task that is
// done again because nobody knew it any more, below, costs again.)
//
// A submission may come from an attempt that is at work here: the task is its subtask, and says so
// for ever; what becomes of the one changes nothing about the other. Who waits for tasks is known
// here, and nothing durable: a wait is over with the attempt that waits and with the link to its
// worker, and is said again by whoever still waits. Waits of attempts are edges from task to task;
// a wait that would close a cycle is refused, so that there never is one: of tasks that all wait
// for each other none would end. While an attempt waits its lease is kept and it is not still.
//
// What is known of tasks that were erased, and of submissions that were given up, is kept in memory
// only. A worker that is away when its copy becomes useless, and comes back to a later coordinator,
// brings it as a task that nobody knows: it is done (again). So a submission is only said not to be
// accepted (kUnavailable) if no worker was sent a copy.
//
// Threads: none, one owner. Ownership: owns all tasks; pointers from find() and list() live until
// the next call that is not const. Limits: below; memory is bounded by max_queued, kMaxFinal and
// max_bytes. It is not: the wire format of worker links, the HTTP API, or a judge of who may
// submit.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "os/time.h"

namespace swarm::tasks {

// Record kinds in the log (mailbox uses 1…15).
enum RecordKind : std::uint8_t {
  kTask = 16,      // coordinator: encoded task
  kReplica = 17,   // worker: encoded task held for a coordinator
  kLeased = 18,    // worker: {task id, attempt} at work here, so that a restarted sidecar knows
  kResult = 19,    // worker: a report the coordinator has not confirmed yet
  kComplete = 20,  // coordinator: u64 epoch in which this log had every task of the team
  kSession = 21,   // worker: u64 session that this log was granted last
  kSpent = 22,     // coordinator: what the tasks that were erased have cost, below
};

enum class TaskState : std::uint8_t { kQueued, kRunning, kDone, kFailed, kDead, kCancelled };
std::string_view state_name(TaskState state);
std::optional<TaskState> state_from(std::string_view name);
constexpr bool is_final(TaskState s) { return s != TaskState::kQueued && s != TaskState::kRunning; }

enum class Version : std::uint8_t { kUndecided, kV1, kV2 };

// One worker's sidecar in one incarnation; sessions grow, a name belongs to its highest.
struct Worker {
  AgentName name;
  std::uint64_t session = 0;
  std::string pod, node;
  friend bool operator==(const Worker&, const Worker&) = default;
};

// What an attempt, or all attempts of a task, have cost, in the words of the program that ran. What
// is not known is absent, never 0. Counts end at kMaxUsage.
struct Usage {
  std::optional<std::uint64_t> input_tokens, output_tokens, cache_read_tokens,
      cache_creation_tokens;  // the first: those that came from no cache
  std::optional<std::uint64_t> cost_micro_usd;
  [[nodiscard]] bool known() const { return *this != Usage{}; }
  friend bool operator==(const Usage&, const Usage&) = default;
};
// In the order of the record and of the documents.
inline constexpr std::optional<std::uint64_t> Usage::*kUsageFields[] = {
    &Usage::input_tokens, &Usage::output_tokens, &Usage::cache_read_tokens,
    &Usage::cache_creation_tokens, &Usage::cost_micro_usd};
void add(Usage& sum, const Usage& more);

// What tasks have cost together. Sums end at kMaxSpent.
struct Spent {
  std::uint64_t input_tokens = 0, output_tokens = 0, cache_read_tokens = 0,
                cache_creation_tokens = 0, cost_micro_usd = 0;
  std::uint64_t tasks = 0, priced_tasks = 0;  // of which a usage, a cost is known
  friend bool operator==(const Spent&, const Spent&) = default;
};
inline constexpr std::uint64_t Spent::*kSpentFields[] = {
    &Spent::input_tokens,          &Spent::output_tokens,  &Spent::cache_read_tokens,
    &Spent::cache_creation_tokens, &Spent::cost_micro_usd, &Spent::tasks,
    &Spent::priced_tasks};

struct Attempt {
  std::uint32_t number = 0;
  AgentName agent;
  std::string pod, node;
  std::uint64_t session = 0;
  Version version = Version::kUndecided;
  WallTime started_at = 0, ended_at = 0;  // ended_at 0: still running
  std::optional<int> exit_code;
  bool charged = false;
  std::string reason;                   // see docs/task-api.md
  std::vector<std::string> last_lines;  // ≤ 20 lines of ≤ 400 bytes
  Usage usage;
  std::string cli_session;  // by which its program can be resumed; "" or a message id
};

struct TaskResult {
  std::string bytes;
  bool truncated = false;
  std::uint64_t total_bytes = 0;
  std::string branch, commit;
};

struct Task {
  TaskId id;
  std::uint64_t version = 0;  // of this record, grows with every change
  TaskState state = TaskState::kQueued;
  std::string key, idempotency_id, body;
  std::map<std::string, std::string> labels;
  std::uint32_t max_attempts = 3;
  std::uint32_t charged_attempts = 0;
  Version route = Version::kUndecided;  // decided at the first lease, kept for later attempts
  WallTime created_at = 0, updated_at = 0, finished_at = 0, not_before = 0;
  std::vector<Attempt> history;  // ≤ kMaxHistory, oldest dropped in the middle and counted
  std::uint32_t history_dropped = 0;
  std::optional<TaskResult> result;
  std::string last_output;  // ≤ kMaxLineBytes
  WallTime last_output_at = 0;
  bool cancel_requested = false;
  std::uint32_t losses_in_a_row =
      0;  // attempts ended by worker_lost, lease_expired, released since the last other end
  std::uint32_t later_in_a_row = 0;  // attempts ended by try_later since the last charged one
  Usage usage;              // of all attempts, those that were dropped from the history included
  TaskId parent;            // whose subtask it is; empty: nobody's
  std::uint32_t depth = 0;  // of its parent, and one; 0: it has none
};

// The whole task, for log and mirror. decode() accepts what encode() of this and the previous
// release wrote; that release reads what this one writes of a task without usage.
std::string encode(const Task& task);
// kCorrupt for anything else, including a task that contradicts itself (running without an open
// attempt …).
Result<Task> decode(std::string_view bytes);
inline constexpr std::size_t kMaxEncodedBytes =
    512U << 10U;  // of any task the engine makes: one record of the log
std::optional<std::uint32_t> team_of(const TaskId& id);
// At most `limit` bytes of `text`, cut between two characters.
std::string clipped(std::string_view text, std::size_t limit);

struct Settings {
  std::uint32_t team = 0;
  std::string node,
      pod;  // the coordinator's own: a mirror is never in `pod`, and rather not on `node`
  std::uint32_t default_max_attempts = 3;
  std::uint32_t max_queued = 10000;
  Milliseconds result_retention{86400 * 1000};
  Milliseconds lease{30000};
  Milliseconds worker_lost_after{10000};  // from the link's end to the end of its leases
  bool suspended = false;
  // No lease when the team has spent so much; or the swarm: as it was last told, perhaps without
  // the newest of this team, and what this team has spent since then.
  std::optional<std::uint64_t> budget_micro_usd;
  std::uint64_t swarm_cost_micro_usd = 0;
  int v2_percentage = 100;
  std::vector<std::string> v1_command;
  bool require_mirror = true;          // accept only when a second pod holds it
  Milliseconds mirror_timeout{10000};  // then the submission is answered kUnavailable or kUnknown
  std::uint64_t max_bytes =
      32U << 20U;  // of all tasks, encoded; beyond it submissions are answered kFull
};

// An attempt of a worker that says something about another task.
struct AtWork {
  Worker worker;
  TaskId id;
  std::uint32_t attempt = 0;
};

struct Submission {
  std::string body, key, idempotency_id;
  std::map<std::string, std::string> labels;
  std::optional<std::uint32_t> max_attempts;
  std::optional<AtWork> parent{};
};
// kInvalid: what of it is beyond its limit, in the words that its sender reads.
Status check_submission(const Submission& submission);

// ---- outputs
struct Store {
  TaskId id;
  std::uint64_t version;
  std::string bytes;
};  // replaces the older record of this id
// kSpent: what the tasks that were erased have cost; the last of them by id and version, so that
// one whose record is still there after a crash is not counted twice.
struct Expired {
  Spent spent;
  TaskId last;
  std::uint64_t version = 0;
};
std::string encode(const Expired& expired);
Result<Expired> decode_expired(std::string_view bytes);  // kCorrupt

struct Erase {
  TaskId id;
  std::optional<Expired> expired;  // when it has cost something: stored before the task's record is
                                   // given up
};                                 // retention is over
struct Replicate {
  Worker mirror;
  TaskId id;
  std::uint64_t version;
  std::string bytes;
};
struct Forget {
  Worker mirror;
  TaskId id;
};
struct Submitted {
  std::uint64_t ticket;
  Result<TaskId> result;
  std::string survives;
  bool duplicate;
  std::vector<AgentName> mirrors;
};
struct Lease {
  Worker worker;
  std::uint64_t request;  // of next()
  TaskId id;
  std::uint32_t attempt, max_attempts;
  Version version;
  Milliseconds lease;
  std::string key, body;
  std::map<std::string, std::string> labels;
  std::vector<std::string> command;  // V1
};
struct NoTask {
  Worker worker;
  std::uint64_t request;
  Code code;
  std::string reason;
};  // kNotFound: none came; kDenied: draining
struct Reported {
  Worker worker;
  std::uint64_t request;
  Status status;
};  // answer to done/fail, after a mirror has it
struct Cancel {
  Worker worker;
  TaskId id;
  std::uint32_t attempt;
};  // end it now
struct Changed {
  TaskId id;
};  // for waiters
struct Waited {
  Worker worker;
  std::uint64_t request;  // of wait()
  Status status;          // ok: none of them is queued or at work any more
  std::vector<TaskId> tasks;
};
using Output = std::variant<Store, Erase, Replicate, Forget, Submitted, Lease, NoTask, Reported,
                            Cancel, Changed, Waited>;

enum class FailKind : std::uint8_t {
  kFailed,
  kBadTask,
  kTryLater,
  kTimeout,
  kIdleTimeout,
  kCancelled,
  kReleased
};

struct Report {
  TaskId id;
  std::uint32_t attempt = 0;
  bool done = false;
  FailKind kind = FailKind::kFailed;  // when !done
  std::optional<int> exit_code;
  std::string message;
  std::vector<std::string> last_lines;
  TaskResult result;  // when done
  Usage usage;
  std::string session;
  // False: the worker's sidecar knows of no such lease. Then it counts only for an attempt that
  // this engine knows to be the worker's, never for one that an earlier epoch may have given.
  bool leased = true;
  // False, with kReleased: no agent of that worker ever got the lease.
  bool taken = true;
};

struct Counts {
  std::uint64_t queued = 0, running = 0, done = 0, failed = 0, dead = 0, cancelled = 0,
                single_copy = 0;
  std::int64_t oldest_queued_seconds = 0;
  std::uint64_t v1_first = 0, v2_first = 0;  // of the last 1000 finished first attempts
  std::uint64_t retries = 0, worker_lost = 0;
  std::uint64_t waiting = 0;  // of the running ones: their attempts wait for other tasks
  // Of those, when there is nobody else at work, nobody asks for a task, and tasks are queued,
  // which are what they wait for: as many as there are; else 0.
  std::uint64_t starved = 0;
  std::uint64_t cycles = 0;  // waits that were refused since each would have closed a cycle
  // Until then nothing is handed out, since so many attempts in a row were told to try later
  // (throttle.h). As of the last call that has a time: it may be over.
  std::optional<MonoTime> backing_off_until;
  std::uint64_t try_later_in_a_row = 0;
};

// Of one attempt or task: more than any costs, and the sums of all tasks can't overflow.
inline constexpr std::uint64_t kMaxUsage = (1ULL << 46U) - 1;
inline constexpr std::uint64_t kMaxSpent = (1ULL << 53U) - 1;  // what JSON carries exactly

inline constexpr std::size_t kMaxHistory = 20;
inline constexpr std::size_t kMaxLastLines = 20;
inline constexpr std::size_t kMaxLineBytes = 400;
inline constexpr std::size_t kMaxBodyBytes = 256U << 10U;
inline constexpr std::size_t kMaxResultBytes =
    64U << 10U;  // the rest is cut off and the result marked truncated
inline constexpr std::size_t kMaxKeyBytes = 256;
inline constexpr std::size_t kMaxIdempotencyBytes = 128;
inline constexpr std::size_t kMaxLabels = 32;
inline constexpr std::size_t kMaxLabelKeyBytes = 63;
inline constexpr std::size_t kMaxLabelValueBytes = 63;
inline constexpr std::size_t kMaxNameBytes = 253;  // of agents, pods, nodes: a DNS name
inline constexpr std::size_t kMaxRefBytes = 256;   // branch, commit
inline constexpr std::uint32_t kMaxMaxAttempts = 100;
inline constexpr std::uint32_t kMaxLosses = 10;
inline constexpr std::uint32_t kMaxTryLater = 1440;  // about a day of them
inline constexpr std::size_t kMaxFinal =
    20000;  // final tasks kept; beyond it the oldest goes early
inline constexpr std::size_t kMaxErased = 10000;       // erased ids remembered
inline constexpr std::size_t kReplicationWindow = 64;  // copies on their way to one mirror
inline constexpr std::size_t kReplicationWindowBytes =
    4U << 20U;  // of them; the one that crosses it still goes
inline constexpr std::size_t kMaxCallsPerWorker = 64;  // leases plus waiting next() of one worker
inline constexpr std::size_t kMaxSubtasks = 1000;      // kept of one parent
inline constexpr std::uint32_t kMaxDepth = 8;          // of a subtask
inline constexpr std::size_t kMaxAwaited = 256;        // tasks of one wait()
inline constexpr std::size_t kMaxWaitsPerWorker = 64;  // wait()
inline constexpr std::size_t kMaxCycleNamed = 20;      // tasks of a cycle that its refusal names
inline constexpr std::size_t kMaxWaitersPerTask =
    64;  // submissions, and reports, waiting for one task's mirror
inline constexpr std::size_t kMaxWorkers = 20000;
inline constexpr std::size_t kMaxNamed = 40000;  // of running and held in one worker_joined()
inline constexpr std::size_t kListLimit = 1000;
// Two extensions that say of an attempt since when it is still differ by so much at most: the same.
inline constexpr Milliseconds kStillJitter{2000};
inline constexpr std::uint64_t kVersionStep = 1ULL << 32U;

// hash of the key (or of the id when there is none) mod 100 < percentage: V2. Same key, same
// version; raising the percentage only moves keys from V1 to V2.
Version route(std::string_view key_or_id, int v2_percentage);

class Engine {
 public:
  // `random` gives 64 random bits (ids, jitter).
  Engine(Settings settings, std::uint64_t (*random)(void* context), void* context);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  void configure(MonoTime now, WallTime wall, Settings settings);

  // ---- recovery
  void begin_recovery(MonoTime now);
  // A copy from the local log (mirror empty) or from a worker. The highest version wins; leases in
  // it are held open until the worker joins and confirms, or worker_lost_after has passed since
  // end_recovery().
  void restore(MonoTime now, WallTime wall, Task task, const std::optional<Worker>& mirror);
  void end_recovery(MonoTime now, WallTime wall);
  [[nodiscard]] bool recovering() const;
  // What is known from before: of the tasks that were erased, and of all tasks together as it was
  // last reported. Both only grow: of several words the highest counts. What was reported and is
  // found no more has been spent all the same, and what a copy that comes late brings of it is not
  // spent twice.
  void restore_spent(const Spent& expired, const Spent& reported);
  // Whether workers may still come with tasks that are unknown here; the shell knows, and says when
  // they have come or it has waited long enough. `refuse_ids`: so likely that no submission under
  // an unknown idempotency id is taken.
  void await_copies(bool awaited, bool refuse_ids);
  [[nodiscard]] bool awaiting() const;

  // ---- workers
  struct Running {
    TaskId id;
    std::uint32_t attempt = 0;
  };
  // A sidecar is connected (again). `held`: versions of all copies it has. `running`: what its
  // agent is working on now AND what it has an unconfirmed report for (kResult); leases of this
  // worker that it does not name are over (uncharged, reason worker_lost). A named attempt whose
  // lease is over is its again if nobody else has been given the task since, else it gets a Cancel.
  // A higher session of a name ends the leases of lower ones at once; a lower one is ignored.
  void worker_joined(MonoTime now, WallTime wall, const Worker& worker,
                     const std::vector<Running>& running,
                     const std::map<TaskId, std::uint64_t>& held);
  void worker_disconnected(MonoTime now, WallTime wall, const Worker& worker);  // may come back
  void worker_leaving(MonoTime now, WallTime wall,
                      const Worker& worker);  // preStop: no new lease, copies move elsewhere
  void replicated(MonoTime now, WallTime wall, const Worker& mirror, const TaskId& id,
                  std::uint64_t version);

  // Whether restore() would look at this copy of a worker: unknown here and not erased, or newer
  // than ours.
  [[nodiscard]] bool wants(const TaskId& id, std::uint64_t version) const;

  // Answered by Lease or NoTask: kNotFound none until `deadline`, kDenied leaving or superseded,
  // kUnavailable not joined, kFull too many. A repeated (worker, request) replaces the waiting one,
  // or gets the same Lease again.
  void next(MonoTime now, WallTime wall, const Worker& worker, std::uint64_t request,
            MonoTime deadline);
  void forget_next(const Worker& worker, std::uint64_t request);
  struct Extended {
    bool cancel = false;
  };
  struct Still {
    WallTime since = 0;
    std::string why;  // what it waits for; "" when nothing is known. ≤ kMaxLineBytes
    friend bool operator==(const Still&, const Still&) = default;
  };
  // kDenied: the lease is lost or another's, end the work; kUnavailable (recovering, not joined):
  // go on and ask again; kNotFound: no such task. A cancelled lease is not prolonged.
  // `still`: its agent gives no sign of life for longer than the Swarm allows; without it the agent
  // works. Like `progress` neither stored nor replicated: the next extension says it again.
  Result<Extended> extend(MonoTime now, WallTime wall, const Worker& worker, const TaskId& id,
                          std::uint32_t attempt, const std::string* progress,
                          const Still* still = nullptr);
  // Answered by Reported. Repeatable: a report that was applied is answered ok again. kDenied:
  // another attempt owns the task, or it is final; kUnavailable: keep it and repeat; kInvalid,
  // kNotFound: give up.
  void report(MonoTime now, WallTime wall, const Worker& worker, std::uint64_t request,
              Report report);

  // ---- clients
  // Answered by Submitted: ok, kInvalid, kFull, kUnavailable (nothing was accepted), kUnknown (a
  // worker that was sent the copy has not confirmed it), kDenied (its parent is not at work there).
  // The same idempotency id gives the same task again, until that is erased (duplicate = true).
  void submit(MonoTime now, WallTime wall, std::uint64_t ticket, Submission submission);
  // Queued: cancelled at once. Running: the worker gets Cancel, the task is cancelled when it
  // reports or its lease ends. kConflict: already final otherwise.
  Result<Task> cancel(MonoTime now, WallTime wall, const TaskId& id);
  // Answered by Waited, at once or when the last of `tasks` has ended: kDenied would close a cycle
  // (the message names it), or `self` is not at work (any more) or is cancelled; kNotFound,
  // kInvalid (none, too many, another team's), kFull, kUnavailable (recovering, not joined).
  // `self`: the attempt that waits, of that worker; without it somebody waits who keeps nobody
  // waiting. A repeated (worker, request) replaces the wait. The worker says it again after it has
  // joined.
  void wait(MonoTime now, WallTime wall, const Worker& worker, std::uint64_t request,
            const std::optional<Running>& self, const std::vector<TaskId>& tasks);
  void forget_wait(const Worker& worker, std::uint64_t request);
  // What the attempt of `id` waits for and that has not ended, in order of the ids.
  [[nodiscard]] std::vector<TaskId> waits_of(const TaskId& id) const;
  // The last cycle that the attempt at work would have closed, "t-0-a -> t-0-b -> t-0-a"; "": none.
  [[nodiscard]] std::string cycle_of(const TaskId& id) const;
  // Its subtasks that are kept, oldest first.
  [[nodiscard]] std::vector<const Task*> subtasks_of(const TaskId& id) const;
  // From failed, dead, cancelled to queued with all attempts. kConflict otherwise, and while
  // another task of the same idempotency id is queued, running or done; kFull. An attempt that was
  // lost is fenced: it ends as cancelled.
  Result<Task> retry(MonoTime now, WallTime wall, const TaskId& id);
  // kNotFound ("expired" when it was here); unknown while recovering or awaiting copies:
  // kUnavailable.
  [[nodiscard]] Result<const Task*> find(const TaskId& id) const;
  // Oldest first, after `after` (empty: from the start), only states in `states` (empty: all), ≤
  // limit (≤ 1000). kNotFound: nothing is known of `after`, so neither of what came behind it.
  [[nodiscard]] Result<std::vector<const Task*>> list(const std::vector<TaskState>& states,
                                                      const TaskId& after, std::size_t limit) const;
  [[nodiscard]] Counts counts(WallTime wall) const;
  // What all tasks of this team have cost, and of that those that were erased.
  [[nodiscard]] Spent spent() const;
  [[nodiscard]] Spent expired() const;
  // Of the budget, what is spent; 1 and more: no task is handed out. nullopt: there is no budget.
  [[nodiscard]] std::optional<double> budget_used() const;
  // Workers that have confirmed a copy, at whatever version.
  [[nodiscard]] std::vector<AgentName> mirrors_of(const TaskId& id) const;
  // Whether a worker has confirmed the newest version, nobody is there who could hold it, or there
  // is no such task any more.
  [[nodiscard]] bool mirrored(const TaskId& id) const;
  [[nodiscard]] std::string_view survives(const TaskId& id) const;  // "node", "pod", "container"
  // What `worker` is leased now (the latest, if it took several).
  [[nodiscard]] std::optional<Running> running_on(const AgentName& worker) const;

  struct Stuck {
    AgentName worker;
    std::uint64_t session = 0;
    Running running;
    Still still;
    friend bool operator==(const Stuck& a, const Stuck& b) {
      return a.worker == b.worker && a.running.id == b.running.id && a.still == b.still;
    }
  };
  // Attempts that were said to be still, those for longest first.
  [[nodiscard]] std::vector<Stuck> stuck() const;

  // ---- time
  void tick(MonoTime now, WallTime wall);
  [[nodiscard]] std::optional<MonoTime> next_deadline() const;

  std::vector<Output> take_outputs();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swarm::tasks
