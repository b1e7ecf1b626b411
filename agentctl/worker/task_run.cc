#include "worker/task_run.h"

#include <algorithm>
#include <cstring>

namespace swarm::worker {
namespace {

std::string seconds(Milliseconds duration) {
  const auto ms = duration.count();
  return ms % 1000 == 0 ? std::to_string(ms / 1000) + "s" : std::to_string(ms) + "ms";
}

std::string_view step_name(Step step) {
  return step == Step::kPrepare ? "git clone" : step == Step::kFinish ? "git push" : "the command";
}

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

TaskRun::TaskRun(const Settings& settings, Milliseconds lease, MonoTime now)
    : settings_(settings), lease_(lease), extend_at_(now) {
  extend_at_ = now + extend_interval();
}

Milliseconds TaskRun::extend_interval() const {
  return std::clamp(lease_ / 3, kExtendLeast, kExtendMost);
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
  if (step == Step::kRun) {
    ran_ = true;
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
    default:
      return report({Kind::kFailed, describe(exit), exit.code}, now);
  }
}

void TaskRun::on_activity(MonoTime now) { last_activity_ = std::max(last_activity_, now); }

Actions TaskRun::on_extend(ExtendAnswer answer, MonoTime now) {
  Actions actions;
  extending_ = false;
  extend_at_ = now + extend_interval();
  if (phase_ != Phase::kStep) return actions;  // the report's own answer decides
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
  if (!extending_ && now >= extend_at_) {
    extending_ = true;
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
  if (stopped_at_) at = std::min(at, *stopped_at_ + settings_.task_grace);
  return at;
}

}  // namespace swarm::worker
