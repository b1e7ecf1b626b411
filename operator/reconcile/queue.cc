#include "reconcile/queue.h"

#include <algorithm>
#include <utility>

namespace swarm::reconcile {
namespace {

constexpr int kMaxDoublings = 8;

}  // namespace

void WorkQueue::add(const Key& key, MonoTime due) {
  Item& item = items_[key];
  due = std::max(due, item.not_before);
  if (!item.due || due < *item.due) item.due = due;
}

void WorkQueue::urgent(const Key& key, MonoTime now) {
  Item& item = items_[key];
  item.not_before = now;
  item.failures = 0;
  item.due = now;
}

void WorkQueue::failed(const Key& key, MonoTime now, std::optional<Milliseconds> retry_after) {
  Item& item = items_[key];
  const Milliseconds base =
      std::min(kMaxBackoff, kFirstBackoff * (1 << std::min(item.failures, kMaxDoublings)));
  ++item.failures;
  std::uniform_real_distribution<double> jitter(0.5, 1.0);
  Milliseconds wait{static_cast<std::int64_t>(static_cast<double>(base.count()) * jitter(random_))};
  if (retry_after) wait = std::max(wait, *retry_after);
  item.not_before = now + wait;
  item.due = item.not_before;
}

void WorkQueue::succeeded(const Key& key) {
  const auto found = items_.find(key);
  if (found == items_.end()) return;
  found->second.failures = 0;
  found->second.not_before = MonoTime{};
}

void WorkQueue::forget(const Key& key) {
  const auto found = items_.find(key);
  if (found == items_.end()) return;
  found->second.due.reset();
  found->second.failures = 0;
  found->second.not_before = MonoTime{};
  drop_if_empty(key);
}

std::optional<Key> WorkQueue::take(MonoTime now) {
  auto best = items_.end();
  for (auto it = items_.begin(); it != items_.end(); ++it) {
    const Item& item = it->second;
    if (item.taken || !item.due || *item.due > now) continue;
    if (best == items_.end() || *item.due < *best->second.due) best = it;
  }
  if (best == items_.end()) return std::nullopt;
  best->second.due.reset();
  best->second.taken = true;
  return best->first;
}

void WorkQueue::done(const Key& key) {
  const auto found = items_.find(key);
  if (found == items_.end()) return;
  found->second.taken = false;
  drop_if_empty(key);
}

void WorkQueue::drop_if_empty(const Key& key) {
  const auto found = items_.find(key);
  const Item& item = found->second;
  if (!item.taken && !item.due && item.failures == 0) items_.erase(found);
}

std::optional<MonoTime> WorkQueue::next_due() const {
  std::optional<MonoTime> out;
  for (const auto& [key, item] : items_) {
    if (!item.taken && item.due && (!out || *item.due < *out)) out = item.due;
  }
  return out;
}

std::size_t WorkQueue::size() const {
  return static_cast<std::size_t>(
      std::count_if(items_.begin(), items_.end(),
                    [](const auto& entry) { return entry.second.due.has_value(); }));
}

int WorkQueue::failures(const Key& key) const {
  const auto found = items_.find(key);
  return found == items_.end() ? 0 : found->second.failures;
}

std::optional<Key> SharedQueue::take(std::stop_token stop, MonoTime deadline) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    const MonoTime now = mono_now();
    if (std::optional<Key> key = queue_.take(now)) return key;
    if (now >= deadline) return std::nullopt;
    const MonoTime until = std::min(deadline, queue_.next_due().value_or(deadline));
    // Woken by a change, by the time, or by the stop: the loop looks again in each case.
    bool woken = false;
    changed_.wait_until(lock, stop, until, [&] { return std::exchange(woken, true); });
  }
  return std::nullopt;
}

std::size_t SharedQueue::size() {
  const std::lock_guard lock(mutex_);
  return queue_.size();
}

}  // namespace swarm::reconcile
