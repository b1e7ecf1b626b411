#include "worker/task_run.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

namespace swarm::worker {
namespace {

std::string seconds(Milliseconds duration) {
  const auto ms = duration.count();
  return ms % 1000 == 0 ? std::to_string(ms / 1000) + "s" : std::to_string(ms) + "ms";
}

std::string_view step_name(Step step) {
  return step == Step::kPrepare ? "git clone" : step == Step::kFinish ? "git push" : "the command";
}

bool says_any(std::span<const std::string_view> known, std::string_view line) {
  return std::any_of(known.begin(), known.end(),
                     [&](std::string_view words) { return line.find(words) != line.npos; });
}

constexpr std::size_t kSaidBytes = 200;  // of a CLI's last word, in a verdict

}  // namespace

std::string_view kind_name(Kind kind) {
  switch (kind) {
    case Kind::kDone:
      return "done";
    case Kind::kFailed:
      return "failed";
    case Kind::kBadTask:
      return "bad_task";
    case Kind::kTryLater:
      return "try_later";
    case Kind::kTimeout:
      return "timeout";
    case Kind::kIdleTimeout:
      return "idle_timeout";
    case Kind::kCancelled:
      return "cancelled";
    case Kind::kReleased:
      return "released";
  }
  return "failed";
}

std::string describe(const Exit& exit) {
  if (exit.signal == 0) return "exit code " + std::to_string(exit.code);
  const char* name = ::sigdescr_np(exit.signal);
  return "killed by signal " + std::to_string(exit.signal) +
         (name != nullptr ? std::string(" (") + name + ")" : "");
}

bool says_try_later(std::string_view line) { return says_any(kTryLaterWords, line); }
bool says_wrong_place(std::string_view line) { return says_any(kWrongPlaceWords, line); }

TaskRun::TaskRun(const Settings& settings, Milliseconds lease, MonoTime now)
    : settings_(settings), lease_(lease), meter_(settings.ticks_per_second), extend_at_(now) {
  extend_at_ = now + extend_interval();
}

Milliseconds TaskRun::extend_interval() const {
  return std::clamp(lease_ / 3, kExtendLeast, kExtendMost);
}

bool TaskRun::watched() const {
  return settings_.idle_timeout.count() > 0 || stuck_after_.count() > 0;
}

void TaskRun::watch(MonoTime now) {
  if (!watched()) return;
  last_activity_ = now;  // what nobody has looked at is no silence
  sampled_ = now;
  sample_at_ = now + sample_interval();
}

Milliseconds TaskRun::shortest_limit() const {
  Milliseconds shortest = Milliseconds::max();
  for (const Milliseconds limit : {settings_.idle_timeout, stuck_after_}) {
    if (limit.count() > 0) shortest = std::min(shortest, limit);
  }
  return shortest;
}

Milliseconds TaskRun::sample_interval() const {
  return std::clamp(shortest_limit() / 10, kCpuSampleLeast, kCpuSampleMost);
}

// Half way to being idle or stuck: perhaps it waits for other tasks, which the sidecar knows.
MonoTime TaskRun::ask_at() const {
  if (!watched() || asked_for_ == last_activity_) return MonoTime::max();
  return last_activity_ + shortest_limit() / 2;
}

Actions TaskRun::begin(MonoTime now) {
  return start(settings_.git ? Step::kPrepare : Step::kRun, now);
}

Actions TaskRun::start(Step step, MonoTime now) {
  step_ = step;
  ending_ = false;
  ending_verdict_.reset();
  kill_at_ = MonoTime::max();
  last_activity_ = now;
  sample_at_ = MonoTime::max();
  if (std::exchange(stuck_, false)) tell_ = true;
  if (step == Step::kRun) {
    ran_ = true;
    meter_.reset();
    (void)meter_.sample(now, {});  // nothing has run yet
    watch(now);
    step_deadline_ =
        settings_.run_timeout.count() > 0 ? now + settings_.run_timeout : MonoTime::max();
  } else {
    step_deadline_ = now + kGitStepLimit;
  }
  return {{Action::Type::kStart, step, ""}};
}

// A lost lease overrides every other reason, a cancel all but that one; otherwise the first reason
// stands.
void TaskRun::end_step(Actions& actions, std::optional<Verdict> why, MonoTime now) {
  if (ending_) {
    if (!why || (ending_verdict_ && why->kind == Kind::kCancelled))
      ending_verdict_ = std::move(why);
    return;
  }
  ending_ = true;
  ending_verdict_ = std::move(why);
  kill_at_ = now + settings_.grace;
  actions.push_back({Action::Type::kTerminate, step_, ""});
}

Actions TaskRun::report(Verdict verdict, MonoTime now) {
  verdict_ = std::move(verdict);
  phase_ = Phase::kReport;
  report_out_ = true;
  report_at_ = MonoTime::max();
  step_deadline_ = MonoTime::max();
  kill_at_ = MonoTime::max();
  sample_at_ = MonoTime::max();
  stuck_ = tell_ = false;  // the report says more
  (void)now;
  return {{Action::Type::kReport, step_, ""}};
}

Actions TaskRun::finish_over(std::string note) {
  phase_ = Phase::kOver;
  return {{Action::Type::kOver, step_, std::move(note)}};
}

Actions TaskRun::on_start_failed(std::string_view why, MonoTime now) {
  if (step_ == Step::kRun) ran_ = false;
  return report({Kind::kTryLater, "could not be started here: " + std::string(why), std::nullopt},
                now);
}

Actions TaskRun::on_exit(const Exit& exit, std::string_view last_line, MonoTime now) {
  if (phase_ != Phase::kStep) return {};
  kill_at_ = MonoTime::max();
  step_deadline_ = MonoTime::max();
  sample_at_ = MonoTime::max();
  if (ending_) {
    if (!ending_verdict_) return finish_over("the lease was lost: another attempt owns the task");
    Verdict verdict = *ending_verdict_;
    if (step_ == Step::kRun && exit.signal == 0) verdict.exit_code = exit.code;
    return report(std::move(verdict), now);
  }
  const std::string why = last_line.empty() ? describe(exit) : std::string(last_line);
  if (step_ == Step::kPrepare) {
    if (exit == Exit{}) return start(Step::kRun, now);
    // Not the task's fault: an unreachable git server must not turn a queue into dead letters.
    return report({Kind::kTryLater, "git clone failed: " + why, std::nullopt}, now);
  }
  if (step_ == Step::kFinish) {
    if (exit == Exit{}) return report({Kind::kDone, "", 0}, now);
    return report({Kind::kFailed, "the command succeeded, but git push failed: " + why, 0}, now);
  }
  if (exit.signal != 0) return report({Kind::kFailed, describe(exit), 128 + exit.signal}, now);
  switch (exit.code) {
    case 0:
      if (settings_.git) return start(Step::kFinish, now);
      return report({Kind::kDone, "", 0}, now);
    case kExitBadTask:
      return report({Kind::kBadTask, "exit code 65: bad task", exit.code}, now);
    case kExitTryLater:
      return report({Kind::kTryLater, "exit code 75: try again later", exit.code}, now);
    default: {
      const std::string said(last_line.substr(0, kSaidBytes));
      if (says_wrong_place(last_line)) return on_start_failed(said, now);
      if (says_try_later(last_line))
        return report({Kind::kTryLater, describe(exit) + ", taken for 75: " + said, exit.code},
                      now);
      const bool words = !said.empty() && said[0] != '{';  // JSON is for programs
      return report({Kind::kFailed, describe(exit) + (words ? ": " + said : ""), exit.code}, now);
    }
  }
}

void TaskRun::on_activity(MonoTime now) { last_activity_ = std::max(last_activity_, now); }

void TaskRun::on_sample(const std::vector<ProcessTime>& processes, MonoTime now) {
  const Milliseconds interval = sample_interval();
  const Milliseconds since = now - sampled_;
  // We were stopped, or starved, and so perhaps was CMD.
  if (since > interval * kSampleGap)
    last_activity_ = std::min(now, last_activity_ + (since - interval));
  const auto looks = static_cast<std::size_t>(shortest_limit() / interval);
  if (meter_.alive(now, processes, std::clamp(looks, kIdleLooksLeast, kIdleLooksMost)))
    on_activity(now);
  sampled_ = now;
  sample_at_ = watched() ? now + interval : MonoTime::max();
}

void TaskRun::set_stuck(Milliseconds after, bool end_it) {
  stuck_after_ = after;
  end_stuck_ = end_it;
}

std::optional<MonoTime> TaskRun::stuck_since() const {
  if (!stuck_) return std::nullopt;
  return last_activity_;
}

Actions TaskRun::on_extend(ExtendAnswer answer, MonoTime now) {
  Actions actions;
  extending_ = false;
  extend_at_ = now + extend_interval();
  if (phase_ != Phase::kStep) return actions;  // the report's own answer decides
  if (answer == ExtendAnswer::kWaits) on_activity(now);
  if (answer == ExtendAnswer::kLost) {
    end_step(actions, std::nullopt, now);
  } else if (answer == ExtendAnswer::kCancel) {
    end_step(actions, Verdict{Kind::kCancelled, "cancelled", std::nullopt}, now);
  }
  return actions;
}

Actions TaskRun::on_report(ReportAnswer answer, std::string_view message, MonoTime now) {
  if (phase_ != Phase::kReport) return {};
  report_out_ = false;
  switch (answer) {
    case ReportAnswer::kAccepted:
      return finish_over("");
    case ReportAnswer::kRefused:
      return finish_over("refused: " + std::string(message));
    case ReportAnswer::kInvalid:
      if (verdict_.kind == Kind::kDone) {
        return report({Kind::kFailed, "the result was not accepted: " + std::string(message),
                       verdict_.exit_code},
                      now);
      }
      return finish_over("not accepted: " + std::string(message));
    case ReportAnswer::kNotFound:
      if (!not_found_since_) not_found_since_ = now;
      if (now - *not_found_since_ >= kNotFoundPatience)
        return finish_over("nobody knows this task any more");
      break;
    case ReportAnswer::kAgain:
      not_found_since_.reset();
      break;
  }
  report_at_ = now + report_backoff_;
  report_backoff_ = std::min(report_backoff_ * 2, kReportMostRetry);
  return {};
}

Actions TaskRun::on_stop(MonoTime now) {
  Actions actions;
  const bool again = stopped_at_.has_value();
  if (!again) stopped_at_ = now;
  // Before CMD has begun there is nothing worth waiting for.
  if (phase_ == Phase::kStep && (again || step_ == Step::kPrepare)) {
    end_step(actions, Verdict{Kind::kReleased, "the agent is being shut down", std::nullopt}, now);
  }
  return actions;
}

Actions TaskRun::on_tick(MonoTime now) {
  Actions actions;
  if (phase_ == Phase::kOver) return actions;
  if (phase_ == Phase::kStep && step_ == Step::kRun && !ending_) {
    if (sample_at_ == MonoTime::max()) watch(now);  // the limit came while it runs
    const bool stuck = stuck_after_.count() > 0 && now >= last_activity_ + stuck_after_;
    if (stuck != std::exchange(stuck_, stuck)) tell_ = true;
    if (now >= ask_at()) {
      asked_for_ = last_activity_;
      tell_ = true;
    }
  }
  if (!extending_ && (now >= extend_at_ || tell_)) {
    extending_ = true;
    tell_ = false;
    actions.push_back({Action::Type::kExtend, step_, ""});
  }
  if (phase_ == Phase::kReport) {
    if (stopped_at_ &&
        now >= *stopped_at_ + settings_.task_grace + settings_.grace + kReportAfterStop) {
      Actions over = finish_over("shut down before the report could be delivered");
      actions.insert(actions.end(), over.begin(), over.end());
    } else if (!report_out_ && now >= report_at_) {
      report_out_ = true;
      report_at_ = MonoTime::max();
      actions.push_back({Action::Type::kReport, step_, ""});
    }
    return actions;
  }
  if (now >= kill_at_) {
    kill_at_ = now + kKillRepeat;
    actions.push_back({Action::Type::kKill, step_, ""});
  }
  if (ending_) return actions;
  if (now >= step_deadline_) {
    const Milliseconds limit = step_ == Step::kRun ? settings_.run_timeout : kGitStepLimit;
    end_step(
        actions,
        Verdict{Kind::kTimeout,
                "ended: " + std::string(step_name(step_)) + " took longer than " + seconds(limit),
                std::nullopt},
        now);
  } else if (step_ == Step::kRun && settings_.idle_timeout.count() > 0 &&
             now >= last_activity_ + settings_.idle_timeout) {
    end_step(actions,
             Verdict{Kind::kIdleTimeout,
                     "ended: no output and no CPU time for " + seconds(settings_.idle_timeout),
                     std::nullopt},
             now);
  } else if (stuck_ && end_stuck_) {
    end_step(actions,
             Verdict{Kind::kIdleTimeout,
                     "ended: stuck, no output and no CPU time for " + seconds(stuck_after_) +
                         " (spec.health.onStuck)",
                     std::nullopt},
             now);
  } else if (stopped_at_ && now >= *stopped_at_ + settings_.task_grace) {
    end_step(
        actions,
        Verdict{Kind::kReleased,
                "shut down: not finished within the task grace of " + seconds(settings_.task_grace),
                std::nullopt},
        now);
  }
  return actions;
}

MonoTime TaskRun::wake_at() const {
  if (phase_ == Phase::kOver) return MonoTime::max();
  MonoTime at = extending_ ? MonoTime::max() : extend_at_;
  if (phase_ == Phase::kReport) {
    if (!report_out_) at = std::min(at, report_at_);
    if (stopped_at_)
      at = std::min(at, *stopped_at_ + settings_.task_grace + settings_.grace + kReportAfterStop);
    return at;
  }
  at = std::min(at, kill_at_);
  if (ending_) return at;
  at = std::min(at, step_deadline_);
  if (step_ == Step::kRun && settings_.idle_timeout.count() > 0)
    at = std::min(at, last_activity_ + settings_.idle_timeout);
  if (step_ == Step::kRun && stuck_after_.count() > 0 && !stuck_)
    at = std::min(at, last_activity_ + stuck_after_);
  if (step_ == Step::kRun) at = std::min({at, sample_at_, ask_at()});
  if (stopped_at_) at = std::min(at, *stopped_at_ + settings_.task_grace);
  return at;
}

}  // namespace swarm::worker
