// A worker pod's side of tasks: joins the team's coordinator, holds copies of tasks for it, takes
// leases for the agents of the pod and brings their reports back.
//
// What it must not forget stands in the pod's log before anybody hears of it: copies (kReplica),
// what is at work here (kLeased), reports that the coordinator has not confirmed (kResult), and
// under which session (kSession). All of it is told to the next coordinator. Only reports of what
// is leased to this pod are kept, so no more is kept than was handed out; others are questions to
// the coordinator, which may have confirmed them before.
//
// Threads: the loop's.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engine/coordinator_link.h"
#include "engine/mail.h"
#include "log/log.h"
#include "tasks/tasks.h"

namespace swarm::engine {

// How often the coordinator hears of mail that has one copy, or is dead.
inline constexpr Milliseconds kMailCountsPeriod{1000};
inline constexpr std::size_t kMaxWaitingTaskCalls = 1024;
// Leases remembered: a multiple of what the coordinator gives one worker. An agent that dies
// without a word leaves one behind; the one that was not extended for longest makes room.
inline constexpr std::size_t kMaxLeased = 8 * tasks::kMaxCallsPerWorker;
inline constexpr std::size_t kMaxKeptReports = 1024;  // not answered; beyond: kFull
inline constexpr std::size_t kMaxSubmissions = 64;    // of this pod's agents, under way
inline constexpr std::size_t kReportWindowBytes =
    4U << 20U;  // of what a link has unsent: more reports wait

class Worker {
 public:
  struct Leased {
    TaskId id;
    std::uint32_t attempt = 0, max_attempts = 0;
    tasks::Version version = tasks::Version::kV2;
    Milliseconds lease{};
    std::string key, body;
    std::map<std::string, std::string> labels;
    std::vector<std::string> command;
  };
  struct Quiet {  // an agent without a sign of life for so long
    std::uint64_t ms = 0;
    std::string why;
  };
  struct Peer {
    std::string name, role, state, node;
    std::uint32_t team = 0;
  };
  using OnLease =
      std::function<bool(Result<Leased>)>;  // false: the agent is gone, the lease goes back
  using OnExtended = std::function<void(Result<bool>)>;  // true: cancel
  using OnPeers = std::function<void(Result<std::vector<Peer>>)>;
  struct Submitted {
    TaskId id;
    std::string survives;
    bool duplicate = false;
  };
  using OnSubmitted = std::function<void(const Result<Submitted>&)>;
  // `tasks`: as TASK_WAITED has them; of a single one that is done `bytes` is the result.
  using OnWaited = std::function<void(const Result<nlohmann::json>& tasks, std::string_view bytes)>;

  Worker(Loop& loop, const Config& config, const Session::Options& options, Mail& mail);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void restore(const log::Record& record);  // before attach()
  void attach(log::Log& log);               // then it connects

  // `who` waits, as in Mail::receive().
  void next(Milliseconds wait, const void* who, OnLease done);
  // It has gone: its calls of next() and wait() are not answered any more, here or by the
  // coordinator.
  void forget(const void* who);
  // kDenied: the lease is lost; kUnavailable, if the coordinator itself is to `confirm` it: it
  // can't be asked.
  void extend(const TaskId& id, std::uint32_t attempt, const std::string* progress,
              const Quiet* quiet, bool confirm, OnExtended done);
  // What the Swarm asks for, as the coordinator has said it last; nullopt: one that says nothing.
  struct StuckLimit {
    std::uint64_t after_ms = 0;  // 0: never
    bool end = false;
  };
  [[nodiscard]] const std::optional<StuckLimit>& stuck_limit() const { return stuck_limit_; }
  // A task for the team's coordinator. `fields` are those of a submission without the body, with an
  // id: it is said again, to the next coordinator as well, until `timeout`. `parent`: the attempt
  // that it comes from. kUnknown: may have been accepted, the same id resolves it; kDenied also:
  // that coordinator is too old.
  void submit(const nlohmann::json& fields, std::string_view body,
              const std::optional<std::pair<TaskId, std::uint32_t>>& parent, Milliseconds timeout,
              OnSubmitted done);
  // Until all of `tasks` have ended; `who` waits, as in next(). `self`: its attempt, if it has one.
  // kUnknown: one had not ended in time; else as tasks::Engine::wait().
  void wait(const std::vector<std::string>& tasks,
            const std::optional<std::pair<TaskId, std::uint32_t>>& self, Milliseconds limit,
            const void* who, OnWaited done);
  // Whether somebody in this pod waits for tasks on behalf of that attempt.
  [[nodiscard]] bool waits(const TaskId& id, std::uint32_t attempt) const;
  // kDenied: another attempt owns the task, or it was never leased to this pod; kNotFound: the
  // coordinator does not know the task, the lease stays; kFull: too many wait for the coordinator;
  // kUnknown: kept, but not confirmed in time; kUnavailable: not kept, nobody could be asked.
  void report(tasks::Report report, Mail::OnStatus done);
  // All of `team`: its coordinator and whoever has joined it. Other teams' coordinators are looked
  // for from the first call on; kUnavailable until one is found.
  void peers(std::uint32_t team, OnPeers done);
  void locate(const AgentName& name, Located done);

  void successor_at(const Session& session);  // it says that it is the coordinator now
  void leaving();                             // preStop: no new leases
  void release_all();                         // drain: what agents left unfinished goes back
  [[nodiscard]] bool joined() const { return joined_; }
  [[nodiscard]] std::size_t reports_pending() const { return reports_.size(); }
  [[nodiscard]] std::uint64_t epoch() const { return home_ ? home_->known_epoch() : 0; }
  [[nodiscard]] std::size_t copies() const { return copies_.size(); }
  [[nodiscard]] std::size_t leased() const { return leased_.size(); }
  std::function<void()> on_joined;
  std::function<void()>
      on_swarm_deleted;  // once: no successor will come, nobody takes results any more

 private:
  struct Copy {
    log::Sequence record = 0;
    std::uint64_t version = 0;
    std::size_t bytes = 0;
  };
  struct Lease {
    log::Sequence record = 0;
    MonoTime extended{};  // or taken
  };
  struct Pending {             // a report on its way
    log::Sequence record = 0;  // 0: not kept, only asked until `answer_by`
    std::string payload;
    std::vector<Mail::OnStatus> waiting;
    MonoTime answer_by{}, sent_at{};
  };
  struct MailCounts {
    std::uint64_t single_copy = 0, dead_letters = 0;
    std::string pressed;  // Mail::pressed
    friend bool operator==(const MailCounts&, const MailCounts&) = default;
  };
  using TaskAttempt = std::pair<TaskId, std::uint32_t>;
  struct Next {
    MonoTime deadline;
    OnLease done;
    const void* who;
  };
  struct Resolve {
    MonoTime deadline;
    Located done;
  };
  struct Extend {
    MonoTime deadline;
    OnExtended done;
  };
  struct Submission {
    MonoTime deadline;
    OnSubmitted done;
    std::string payload;
    MonoTime again_at{};     // not answered for good: not before
    bool sent = false;       // on this link, and not answered
    bool unsettled = false;  // a try before this one has no answer, and will have none
    std::optional<Error> last{};
  };
  struct Wait {
    MonoTime deadline;
    OnWaited done;
    std::string payload;
    const void* who = nullptr;
    std::optional<TaskAttempt> self{};
    MonoTime again_at{};
    bool sent = false;
  };
  struct PeersCall {
    MonoTime deadline;
    OnPeers done;
    std::vector<Peer> found{};
  };

  void send_subtasks();
  void take_submitted(Session& session, const link::Frame& frame);
  void take_waited(Session& session, const link::Frame& frame);
  void join(Session& session);
  void take(Session& session, const link::Frame& frame);
  void lost();
  void keep_session(std::uint64_t number);
  void keep(tasks::Report report, Mail::OnStatus done);
  void send_reports();
  void make_room_for_lease();
  void take_lease(Session& session, const link::Frame& frame);
  void send_next(std::uint64_t request, const Next& next);
  CoordinatorLink& link_of(std::uint32_t team);
  void resolve_by(CoordinatorLink& link, const AgentName& name, Located done);
  void mail_changed();
  void send_mail_counts();
  void tick();
  void arm();
  [[nodiscard]] Session* home() const {
    return joined_ && home_ && home_->session() ? home_->session().get() : nullptr;
  }

  Loop& loop_;
  const Config& config_;
  Session::Options options_;
  Mail& mail_;
  log::Log* log_ = nullptr;
  std::unique_ptr<CoordinatorLink> home_;
  std::map<std::uint32_t, std::unique_ptr<CoordinatorLink>> others_;
  std::map<TaskId, Copy> copies_;
  std::vector<log::Sequence> superseded_;  // until attach()
  std::map<TaskAttempt, Lease> leased_;
  std::map<TaskAttempt, std::string> cancels_;  // the coordinator wants them ended
  std::map<TaskAttempt, Pending> reports_;
  std::deque<TaskAttempt> reported_;  // confirmed lately: a repeated report is OK
  std::map<std::uint64_t, Next> nexts_;
  std::map<std::uint64_t, Resolve> resolves_;
  std::map<std::uint64_t, Extend> extends_;
  void learn_stuck_limit(const nlohmann::json& head);
  std::optional<StuckLimit> stuck_limit_;
  std::map<std::uint64_t, PeersCall> peer_calls_;
  std::map<std::uint64_t, Submission> submissions_;
  std::map<std::uint64_t, Wait> waits_;
  std::uint64_t last_request_ = 0, session_number_ = 0;
  log::Sequence session_record_ = 0;
  bool joined_ = false, leaving_ = false, swarm_deleted_ = false;
  boost::asio::steady_timer timer_, counts_timer_;
  bool counting_ = false, counts_mail_ = false, tells_pressure_ = false;
  bool takes_subtasks_ = false;  // the coordinator
  MailCounts told_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// A report as control payload; shared with the coordinator's side.
std::string encode_report(std::uint64_t request, const tasks::Report& report);
Result<tasks::Report> decode_report(std::string_view payload, std::uint64_t* request);

}  // namespace swarm::engine
