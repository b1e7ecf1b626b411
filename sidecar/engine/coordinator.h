// The coordinator's side of one team: who its workers are, the task engine's shell, the task API.
//
// Threads: the loop's; forwarding to other teams' coordinators runs on a small pool and comes back
// by post().
#pragma once

#include <algorithm>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <vector>

#include "api/swarm.h"
#include "engine/mail.h"
#include "engine/team_http.h"
#include "log/log.h"
#include "net/http_server.h"
#include "tasks/recovery.h"
#include "tasks/tasks.h"

namespace swarm::engine {

class MailLists;

inline constexpr std::uint64_t kTaskReserveBytes =
    6U << 20U;  // of the log: new tasks leave this much for changes of old ones
inline constexpr std::size_t kMaxToldCopies = 200000;  // copies that one worker may tell of
// A worker's address at which nobody has answered for so long is not waited for, and tried less
// often.
inline constexpr Milliseconds kUnreachableAfter{1000};
inline constexpr Milliseconds kAnnounceAgain{200}, kAnnounceUnreachable{1000};

// What the Swarm resource says that may change while we run.
struct TeamSettings {
  bool suspended = false;
  int v2_percentage = 100;
  std::vector<std::string> v1_command;
  std::uint32_t max_attempts = 3, max_queued = 10000;
  Milliseconds result_retention{86400 * 1000};
  std::uint32_t coordinators = 1;
  std::optional<std::uint64_t> budget_micro_usd;
  std::uint64_t swarm_cost_micro_usd = 0;  // of all teams, as the status says
  Milliseconds stuck_after{0};             // of an agent without a sign of life; 0: never
  bool end_stuck = false;
};

class Coordinator {
 public:
  Coordinator(Loop& loop, const Config& config, const Session::Options& options, Mail& mail);
  ~Coordinator();
  Coordinator(const Coordinator&) = delete;
  Coordinator& operator=(const Coordinator&) = delete;

  void restore(const log::Record& record);   // before attach()
  void attach(log::Log& log, bool damaged);  // damaged: records of it are lost
  // Before activate(): an epoch that this pod has led in, according to its log, which is no other
  // pod's. Perhaps not the last one; 0: the log does not show that it has.
  [[nodiscard]] std::uint64_t led_epoch() const {
    return std::max<std::uint64_t>(complete_epoch_, restored_.empty() ? 0 : 1);
  }
  // The Lease is ours. The workers of the last report are told so; unless our log is known to be
  // complete, we wait for their copies.
  void activate(std::uint64_t epoch, const api::TeamReport& last);
  void configure(const TeamSettings& settings);
  [[nodiscard]] bool active() const { return active_; }
  // Collecting: takes no tasks and hands none out, so it is not ready.
  [[nodiscard]] bool recovering() const;
  // Collecting, or at work while a worker may still bring tasks: what is listed and counted may not
  // be all.
  [[nodiscard]] bool incomplete() const;
  [[nodiscard]] std::uint64_t epoch() const { return epoch_; }
  // A worker, or our log, has seen an epoch that is not below ours: somebody else was coordinator
  // in between, or the Lease was made anew.
  std::function<void(std::uint64_t at_least)> on_higher_epoch;
  // Something in report() may have changed; `soon`: and somebody awaits it.
  std::function<void(bool soon)> on_change;

  bool take(Session& session, const link::Frame& frame);
  void session_down(Session& session);
  void locate(const AgentName& name, const Located& done);
  void http(net::HttpRequest request, net::Respond respond);  // paths under /v1/
  void leaving();
  void swarm_deleted();  // the workers learn that nobody will take what they have left
  [[nodiscard]] api::TeamReport report() const;  // docs/pod-layout.md
  [[nodiscard]] tasks::Counts counts() const;
  [[nodiscard]] tasks::Spent spent() const { return engine_->spent(); }
  [[nodiscard]] std::optional<double> budget_used() const { return engine_->budget_used(); }
  [[nodiscard]] std::size_t workers() const { return by_session_.size(); }
  [[nodiscard]] std::size_t stuck() const { return engine_->stuck().size(); }

 private:
  struct Member {  // a connected worker
    tasks::Worker worker;
    std::weak_ptr<Session> session;
    AgentName name;
    LogId log_id;
    std::string address, version;
    std::uint32_t agents = 1;  // in its pod
    std::map<TaskId, std::uint64_t> held;
    tasks::PullWindow pulls;
    std::vector<tasks::Engine::Running> running;
    bool joined = false, leaving = false, superseded = false;
    bool lists_mail = false;  // knows MAIL_LIST
    // Mail goes here already, the engine does not know it yet. Either its predecessor in the same
    // slot is shutting down but still at work, until it has finished or gone: otherwise this one's
    // arrival would end that work. Or, as long as tasks are collected, nobody knows whether that is
    // so.
    bool standby = false;
    std::map<std::uint64_t, MonoTime> nexts;  // standby: requests for tasks, with their deadlines
    bool at_work = false;
    WallTime since = 0;                               // at work, or without work
    std::uint64_t single_copy = 0, dead_letters = 0;  // messages in its pod
    std::string pressed;                              // why its pod refuses mail, if it does
    std::uint64_t tasks_done = 0;  // by this incarnation, as far as this coordinator knows
  };
  struct Told {  // HELD frames before JOIN
    std::map<TaskId, std::uint64_t> held;
    std::map<TaskId, std::size_t> bytes;
    std::vector<tasks::Engine::Running> running;
  };
  struct Grant {
    AgentName name;
    std::uint64_t session = 0, tasks_done = 0;
  };
  struct Announcement {
    std::string address;
    std::shared_ptr<Session> session;  // null: again at `again_at`
    MonoTime again_at{};
    std::optional<MonoTime> unanswered_since;
  };
  struct Waiter {
    TaskId id;
    MonoTime deadline;
    net::Respond respond;
  };

  Member* member_of(Session& session);
  void join(Session& session, const link::Frame& frame);
  void enter(Member& member);
  void finish_join(Member& member);
  [[nodiscard]] bool predecessor_busy(const Member& member) const;
  void note_open(const tasks::Task& task);
  void note_complete();
  void promote_standbys();
  [[nodiscard]] std::optional<tasks::Engine::Running> running_of(const Member& member) const;
  void pull(Member& member, Session& session);
  void note_work(Member& member);
  void announce(const tasks::Expected& worker);
  void announcement_ended(const tasks::Expected& worker, const Session& session);
  void stop_announcing(const tasks::Expected& worker, const char* why);
  void look_at_recovery();  // ends it when everybody has come that will
  void perform();           // the engine's outputs
  void store(const tasks::Store& out);
  void note_spent(tasks::Expired expired);
  void send_to(const tasks::Worker& worker, link::FrameType type, const std::string& payload);
  void answer_task(const TaskId& id, const net::Respond& respond);
  [[nodiscard]] bool overloaded() const;  // kMaxUnderWay requests are being handled
  void forward(std::uint32_t team, net::HttpRequest request, net::Respond respond);
  void list_tasks(const net::HttpRequest& request, const net::Respond& respond);
  // The same question to every other team; `own` is our part of the answer's list `field`.
  void gather(const net::HttpRequest& request, const std::string& field, const std::string& own,
              const net::Respond& respond);
  void list_mail(const net::HttpRequest& request, const net::Respond& respond);
  void submit(const net::HttpRequest& request, const net::Respond& respond);
  using OnSubmitted = std::function<void(const tasks::Submitted&)>;
  void submit(tasks::Submission submission, OnSubmitted done);
  // TASK_SUBMIT, TASK_WAIT and TASK_FORGET_WAIT of a worker.
  void take_subtasks(const tasks::Worker& worker, Session& session, const link::Frame& frame);
  void answer_wait(const tasks::Waited& waited);
  void tick();
  void arm();
  void put_stuck_limit(nlohmann::json& head) const;
  std::string agents_json();
  void later(const net::Respond& respond, net::HttpResponse response);  // after commit

  Loop& loop_;
  const Config& config_;
  Session::Options options_;
  Mail& mail_;
  log::Log* log_ = nullptr;
  TeamSettings settings_;
  std::unique_ptr<tasks::Engine> engine_;
  bool active_ = false, damaged_ = false, leaving_ = false;
  std::uint64_t epoch_ = 0, next_session_ = 1, next_ticket_ = 1;
  std::map<std::uint64_t, Member> by_session_;
  // Who got which session, by the log that makes an incarnation; the youngest kMaxGranted.
  std::map<LogId, Grant> granted_;
  static constexpr std::size_t kMaxGranted = 8192;
  std::map<Session*, std::uint64_t> session_of_;
  std::map<Session*, Told> told_early_;
  // name -> highest session. Outlives the member: an older incarnation that comes back must not
  // pass for the newest. As many as there are names of workers: the operator gives the lowest free
  // number, so about api::kMaxReplicas.
  std::map<AgentName, std::uint64_t> owner_;
  std::map<TaskId, log::Sequence> records_;
  std::map<TaskId, tasks::Store> unstored_;  // the log was full: tried again at every tick
  std::map<std::uint64_t, OnSubmitted> tickets_;
  std::map<std::uint64_t, std::pair<TaskId, std::uint32_t>> reports_;  // under way in the engine
  std::vector<Waiter> waiters_;
  std::unique_ptr<MailLists> mail_lists_;
  std::set<AgentName> away_;  // whose link ended without LEAVING: their mail can't be listed
  std::map<TaskId, tasks::Task> restored_;
  tasks::Expired expired_;  // what was erased has cost, and the record that says so
  log::Sequence spent_record_ = 0;
  bool budget_spent_ = false;                // as it was last said to be
  std::vector<tasks::Engine::Stuck> stuck_;  // as it was last said to be
  bool spent_unstored_ = false;              // the log was full
  std::vector<log::Sequence> superseded_;    // records that a crash has left beside newer ones
  // The epoch in which the log was noted to have every task, and the note.
  std::uint64_t complete_epoch_ = 0;
  log::Sequence complete_record_ = 0;
  // Sessions at work according to restored tasks, of workers that have not come yet.
  std::map<AgentName, std::set<std::uint64_t>> open_;
  tasks::Gathering gathering_;
  std::map<tasks::Expected, Announcement> announcing_;  // they have not sent JOIN yet
  MonoTime announce_until_{};
  TeamHttp forwarders_{loop_, config_};
  boost::asio::steady_timer timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace swarm::engine
