#include "tasks/recovery.h"

#include <algorithm>

#include "tasks/tasks.h"

namespace swarm::tasks {

static_assert(kRecoveryLimit <= kRefuseIdsLimit && kRefuseIdsLimit <= kAwaitLimit);
static_assert(kMaxEncodedBytes <= kPullWindowBytes, "the largest copy fits into the window");

Gathering::Gathering(MonoTime now, std::set<AgentName> expected)
    : begun_(now), heard_(now), expected_(std::move(expected)) {}

void Gathering::heard(MonoTime now) { heard_ = now; }

void Gathering::came(const AgentName& name) {
  expected_.erase(name);
  unreachable_.erase(name);
}

void Gathering::unreachable(const AgentName& name) {
  if (expected_.contains(name)) unreachable_.insert(name);
}

void Gathering::reachable(const AgentName& name) { unreachable_.erase(name); }

bool Gathering::done(MonoTime now, bool telling) const {
  if (now >= begun_ + kMaxRecovery) return true;
  if (telling && now < heard_ + kRecoveryLimit) return false;
  return unreachable_.size() == expected_.size() || now >= begun_ + kRecoveryLimit;
}

bool Gathering::awaits(MonoTime now, bool telling) const {
  return (telling && now < heard_ + kRecoveryLimit) ||
         (!expected_.empty() && now < begun_ + kAwaitLimit);
}

bool Gathering::refuses_ids(MonoTime now, bool telling) const {
  return (telling && now < heard_ + kRecoveryLimit) ||
         (!expected_.empty() && now < begun_ + kRefuseIdsLimit);
}

std::optional<MonoTime> Gathering::next_deadline(MonoTime now) const {
  std::optional<MonoTime> first;
  for (const MonoTime t : {begun_ + kRecoveryLimit, heard_ + kRecoveryLimit,
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
