// One task from lease to report: what to do when something happens. Pure: no clock, no process, no
// socket.
//
//   prepare (--git: clone) ─► run (CMD) ─► finish (--git: push) ─► report ─► over
//        └──────────────────────┴──────────────┴── lease lost ──────────────► over
//
// Each step is a process group. Whatever ends it early (timeout, idle, cancel, lost lease,
// shutdown) is decided once; the group then gets SIGTERM, after `grace` SIGKILL, and only its exit
// leads on. The lease is extended all the way until the report has its answer. The report is
// repeated until it is answered for good.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "os/time.h"
#include "worker/activity.h"

namespace swarm::worker {

inline constexpr Milliseconds kGitStepLimit = std::chrono::minutes(30);  // of prepare and of finish
inline constexpr Milliseconds kKillRepeat{1000};  // SIGKILL again while the group lives
inline constexpr Milliseconds kReportFirstRetry{200};
inline constexpr Milliseconds kReportMostRetry{10'000};
inline constexpr Milliseconds kNotFoundPatience =
    std::chrono::minutes(5);  // a replaced coordinator recovers its tasks
inline constexpr Milliseconds kReportAfterStop{15'000};  // beyond task grace and grace
inline constexpr Milliseconds kExtendLeast{100};
inline constexpr Milliseconds kExtendMost{10'000};

inline constexpr int kExitBadTask = 65;   // EX_DATAERR
inline constexpr int kExitTryLater = 75;  // EX_TEMPFAIL

// What coding CLIs say last when their service is short of capacity: Claude Code and the errors of
// its Messages API, Codex and those of its Responses API.
inline constexpr std::string_view kTryLaterWords[] = {"API Error: 429",
                                                      "API Error: 529",
                                                      "\"api_error_status\":429",
                                                      "\"api_error_status\":529",
                                                      "rate_limit_error",
                                                      "overloaded_error",
                                                      "usage limit reached",
                                                      "429 Too Many Requests",
                                                      "rate_limit_exceeded",
                                                      "Rate limit reached",
                                                      "exceeded retry limit, last status: 429"};
bool says_try_later(std::string_view line);

// What they say when the pod is wrong for them, not the task: Claude Code as root.
inline constexpr std::string_view kWrongPlaceWords[] = {"cannot be used with root/sudo privileges"};
bool says_wrong_place(std::string_view line);

struct Settings {
  Milliseconds run_timeout{0};   // 0: none
  Milliseconds idle_timeout{0};  // 0: none
  Milliseconds grace{10'000};
  Milliseconds task_grace{600'000};
  bool git = false;
  double ticks_per_second = 100;  // of ProcessTime
};

enum class Step { kPrepare, kRun, kFinish };

// Outcome kinds as docs/socket-protocol.md names them; kDone goes out as task_done, the others as
// task_fail.
enum class Kind {
  kDone,
  kFailed,
  kBadTask,
  kTryLater,
  kTimeout,
  kIdleTimeout,
  kCancelled,
  kReleased
};
std::string_view kind_name(Kind kind);

// How a process ended: by exit code, or by a signal (then signal != 0).
struct Exit {
  int code = 0;
  int signal = 0;
  friend bool operator==(const Exit&, const Exit&) = default;
};
// "exit code 3", "killed by signal 9 (Killed)".
std::string describe(const Exit& exit);

struct Verdict {
  Kind kind = Kind::kFailed;
  std::string message;
  std::optional<int> exit_code;
  friend bool operator==(const Verdict&, const Verdict&) = default;
};

enum class ExtendAnswer { kAlive, kWaits, kCancel, kLost, kNone };  // kWaits: for other tasks
enum class ReportAnswer { kAccepted, kRefused, kInvalid, kNotFound, kAgain };

struct Action {
  enum class Type {
    kStart,      // begin `step`
    kTerminate,  // SIGTERM to the step's group
    kKill,       // SIGKILL to the step's group and everything that escaped it
    kExtend,     // send task_extend or task_progress; answer by on_extend
    kReport,     // send the verdict; answer by on_report
    kOver,       // nothing more will come; `note` says why when the verdict was not accepted
  };
  Type type;
  Step step = Step::kRun;
  std::string note;
  friend bool operator==(const Action&, const Action&) = default;
};
using Actions = std::vector<Action>;

class TaskRun {
 public:
  TaskRun(const Settings& settings, Milliseconds lease, MonoTime now);

  Actions begin(MonoTime now);
  // The step's main process has ended and its group is gone. `last_line` explains it: that of a git
  // step, the last word of a CLI that is known, else "".
  Actions on_exit(const Exit& exit, std::string_view last_line, MonoTime now);
  // The step could not be started at all: the fault of this place, not of the task.
  Actions on_start_failed(std::string_view why, MonoTime now);
  // CMD printed something.
  void on_activity(MonoTime now);
  // A look at the CPU time of what CMD has started; due at sample_at().
  void on_sample(const std::vector<ProcessTime>& processes, MonoTime now);
  [[nodiscard]] MonoTime sample_at() const { return sample_at_; }
  // What the Swarm asks for (spec.health): CMD is stuck when it has given no sign of life for so
  // long, and then is said to be (0: never), or ended. It may change while CMD runs.
  void set_stuck(Milliseconds after, bool end_it);
  // Since when there is no sign of life, if it is stuck; also while it is being ended for that.
  [[nodiscard]] std::optional<MonoTime> stuck_since() const;
  Actions on_extend(ExtendAnswer answer, MonoTime now);
  Actions on_report(ReportAnswer answer, std::string_view message, MonoTime now);
  // SIGTERM. The second one ends a running CMD at once.
  Actions on_stop(MonoTime now);
  Actions on_tick(MonoTime now);

  [[nodiscard]] MonoTime wake_at() const;
  [[nodiscard]] const Verdict& verdict() const { return verdict_; }
  [[nodiscard]] bool over() const { return phase_ == Phase::kOver; }
  [[nodiscard]] bool reporting() const { return phase_ == Phase::kReport; }
  // CMD never began in this run: a place that fails like this should rest before it takes the next
  // task.
  [[nodiscard]] bool never_ran() const { return !ran_; }

 private:
  enum class Phase { kStep, kReport, kOver };

  Actions start(Step step, MonoTime now);
  void end_step(Actions& actions, std::optional<Verdict> why, MonoTime now);
  Actions report(Verdict verdict, MonoTime now);
  Actions finish_over(std::string note);
  [[nodiscard]] Milliseconds extend_interval() const;
  [[nodiscard]] bool watched() const;  // there is a limit to silence
  void watch(MonoTime now);
  [[nodiscard]] Milliseconds shortest_limit() const;  // to silence
  [[nodiscard]] Milliseconds sample_interval() const;
  [[nodiscard]] MonoTime ask_at() const;

  Settings settings_;
  Milliseconds lease_;
  Phase phase_ = Phase::kStep;
  Step step_ = Step::kRun;
  Verdict verdict_;
  bool ran_ = false;

  MonoTime step_deadline_ = MonoTime::max();
  MonoTime last_activity_{};
  MonoTime asked_for_ = MonoTime::max();  // that activity: whether it waits
  CpuMeter meter_;
  MonoTime sample_at_ = MonoTime::max(), sampled_{};
  Milliseconds stuck_after_{0};  // 0: never
  bool end_stuck_ = false;
  bool stuck_ = false;
  bool tell_ = false;  // that it is stuck, or no longer, by an extension of the lease

  // The step is being ended: its exit no longer counts. Without ending_verdict_ the lease is lost:
  // no report.
  bool ending_ = false;
  std::optional<Verdict> ending_verdict_;
  MonoTime kill_at_ = MonoTime::max();

  bool extending_ = false;
  MonoTime extend_at_;

  bool report_out_ = false;
  MonoTime report_at_ = MonoTime::max();
  Milliseconds report_backoff_ = kReportFirstRetry;
  std::optional<MonoTime> not_found_since_;

  std::optional<MonoTime> stopped_at_;
};

}  // namespace swarm::worker
