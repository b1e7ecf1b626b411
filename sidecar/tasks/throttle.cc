#include "tasks/throttle.h"

#include <algorithm>

namespace swarm::tasks {

bool Throttle::is_new(std::optional<MonoTime> since) const {
  return !begun_ || (since && *since >= *until_);
}

void Throttle::on_try_later(MonoTime now, std::optional<MonoTime> since, const TaskId& task,
                            const AgentName& worker, std::size_t workers, std::uint64_t random) {
  if (!is_new(since)) return;
  if (until_ && now - *until_ >= kForgetAfter) *this = {};
  ++in_a_row_;
  if (!first_known_) {
    first_known_ = true;
    first_task_ = task;
    first_worker_ = worker;
  }
  tasks_differ_ = tasks_differ_ || task != first_task_;
  workers_differ_ = workers_differ_ || worker != first_worker_ || workers <= 1;
  if (!tasks_differ_ || !workers_differ_) return;
  const Milliseconds full =
      std::min<Milliseconds>(kMostWait, kFirstWait * (1LL << std::min(waits_, 6U)));
  // Half to all of it, but never less than the first.
  const auto half = static_cast<std::uint64_t>(full.count()) / 2;
  const Milliseconds jittered{static_cast<std::int64_t>(half + random % (half + 1))};
  ++waits_;
  handed_out_ = 0;
  first_known_ = tasks_differ_ = workers_differ_ = false;
  begun_ = now;
  until_ = now + std::max(kFirstWait, jittered);
}

void Throttle::on_done(std::optional<MonoTime> since) {
  if (is_new(since))
    *this = {};
  else
    waits_ = std::min(waits_, 1U);
}

std::uint32_t Throttle::steps(MonoTime now) const {
  return static_cast<std::uint32_t>(
      std::min<std::int64_t>((now - *until_) / kRampStep, kRampSteps));
}

bool Throttle::may_hand_out(MonoTime now) const {
  if (!until_) return true;
  if (now < *until_) return false;
  const auto step = steps(now);
  return step == kRampSteps || handed_out_ < (1U << step);
}

bool Throttle::limits(MonoTime now) const {
  return until_ && (now < *until_ || steps(now) < kRampSteps);
}

void Throttle::on_handed_out(MonoTime now) {
  if (limits(now)) ++handed_out_;
}

std::optional<MonoTime> Throttle::next(MonoTime now) const {
  if (may_hand_out(now)) return std::nullopt;
  if (now < *until_) return *until_;
  return *until_ + kRampStep * (steps(now) + 1);
}

std::optional<MonoTime> Throttle::waits_until(MonoTime now) const {
  return until_ && now < *until_ ? until_ : std::nullopt;
}

}  // namespace swarm::tasks
