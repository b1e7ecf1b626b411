#include "engine/loop.h"

#include <boost/asio/post.hpp>

#include "base/check.h"

namespace swarm::engine {

void Loop::post(std::function<void()> action) { boost::asio::post(io_, std::move(action)); }

void Loop::after_commit(std::function<void()> action) {
  queue_.push_back(std::move(action));
  schedule();
}

void Loop::before_commit(std::function<void()> action) {
  last_.push_back(std::move(action));
  schedule();
}

void Loop::schedule() {
  if (scheduled_) return;
  scheduled_ = true;
  // Behind every handler that is ready now: their appends share one commit.
  boost::asio::post(io_, [this] { flush(); });
}

void Loop::flush() {
  auto last = std::move(last_);
  last_.clear();
  for (auto& action : last) action();
  scheduled_ = false;
  if (!last_.empty()) schedule();  // what these have asked for is for the next commit
  // A superblock that can't be written means that no promise can be made any more: the supervisor
  // begins anew from the log.
  check(log_ == nullptr || log_->commit().ok(), "the log's superblock can be written");
  auto queue = std::move(queue_);
  queue_.clear();
  for (auto& action : queue) action();
}

}  // namespace swarm::engine
