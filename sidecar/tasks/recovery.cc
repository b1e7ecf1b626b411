#include "tasks/recovery.h"

#include <algorithm>

#include "tasks/tasks.h"

namespace swarm::tasks {

static_assert(kRecoveryLimit <= kRefuseIdsLimit && kRefuseIdsLimit <= kAwaitLimit);
static_assert(kMaxEncodedBytes <= kPullWindowBytes, "the largest copy fits into the window");

Gathering::Gathering(MonoTime now, std::set<Expected> expected, bool unnamed)
    : begun_(now), heard_(now), expected_(std::move(expected)) {
  if (unnamed) expect_unnamed(now);
}

Gathering::Gathering(MonoTime now, const Takeover& takeover)
    : begun_(now), heard_(now), expected_(takeover.reported) {
  // (Another holder in between has accepted tasks that this log does not know.)
  complete_ = takeover.log_epoch != 0 && takeover.log_epoch + 1 == takeover.epoch;
  if (complete_) return;
  const bool told = takeover.report_epoch + 1 == takeover.epoch && !takeover.reported.empty();
  if (takeover.epoch > 1 && !told) expect_unnamed(now);
}

void Gathering::heard(MonoTime now) { heard_ = now; }

void Gathering::came(const Expected& worker) {
  expected_.erase(worker);
  unreachable_.erase(worker);
}

void Gathering::unreachable(const Expected& worker) {
  if (expected_.contains(worker)) unreachable_.insert(worker);
}

void Gathering::reachable(const Expected& worker) { unreachable_.erase(worker); }

void Gathering::expect_unnamed(MonoTime now) { unnamed_until_ = now + kRecoveryLimit; }

bool Gathering::done(MonoTime now, bool telling) const {
  if (now >= begun_ + kMaxRecovery) return true;
  if (telling && now < heard_ + kRecoveryLimit) return false;
  if (now < unnamed_until_) return false;
  return complete_ || unreachable_.size() == expected_.size() || now >= begun_ + kRecoveryLimit;
}

bool Gathering::awaits(MonoTime now, bool telling) const {
  return (telling && now < heard_ + kRecoveryLimit) || now < unnamed_until_ ||
         (!complete_ && !expected_.empty() && now < begun_ + kAwaitLimit);
}

bool Gathering::refuses_ids(MonoTime now, bool telling) const {
  return (telling && now < heard_ + kRecoveryLimit) || now < unnamed_until_ ||
         (!complete_ && !expected_.empty() && now < begun_ + kRefuseIdsLimit);
}

std::set<Expected> Gathering::awaited(MonoTime now) const {
  return now < begun_ + kAwaitLimit ? expected_ : std::set<Expected>{};
}

std::optional<MonoTime> Gathering::next_deadline(MonoTime now) const {
  std::optional<MonoTime> first;
  for (const MonoTime t : {begun_ + kRecoveryLimit, heard_ + kRecoveryLimit, unnamed_until_,
                           begun_ + kRefuseIdsLimit, begun_ + kMaxRecovery, begun_ + kAwaitLimit}) {
    if (t > now && (!first || t < *first)) first = t;
  }
  return first;
}

void PullWindow::want(const TaskId& id, std::size_t bytes) {
  waiting_.emplace_back(id, bytes == 0 ? kMaxEncodedBytes : std::min(bytes, kMaxEncodedBytes));
}

std::vector<TaskId> PullWindow::take() {
  std::vector<TaskId> ids;
  while (!waiting_.empty() && asked_.size() < kPullWindowIds &&
         asked_bytes_ + waiting_.front().second <= kPullWindowBytes) {
    auto [id, bytes] = std::move(waiting_.front());
    waiting_.pop_front();
    if (!asked_.emplace(id, bytes).second) continue;
    asked_bytes_ += bytes;
    ids.push_back(std::move(id));
  }
  return ids;
}

bool PullWindow::answered(const TaskId& id) {
  const auto found = asked_.find(id);
  if (found == asked_.end()) return false;
  asked_bytes_ -= found->second;
  asked_.erase(found);
  return true;
}

}  // namespace swarm::tasks
