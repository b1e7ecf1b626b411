// The one thread that owns everything in the sidecar, and the rule that nothing is answered before
// it is committed.
//
// Whatever leaves the process (a frame, an agent's answer, an HTTP response) is queued with
// after_commit(). Once the handlers that are ready have run, the log is committed once for all of
// them, then the queue goes out.
//
// Threads: post() may be called from any thread; everything else on the loop's own.
#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <vector>

#include "log/log.h"
#include "os/time.h"

namespace swarm::engine {

class Loop {
 public:
  explicit Loop(boost::asio::io_context& io) : io_(io) {}
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  void attach(log::Log& log) { log_ = &log; }
  boost::asio::io_context& io() { return io_; }
  void post(std::function<void()> action);
  void after_commit(std::function<void()> action);
  // Runs once the handlers that are ready have run, ahead of their commit: what it appends and
  // queues goes with theirs.
  void before_commit(std::function<void()> action);
  // Commits and sends what is queued now: for the last words before an exit.
  void flush();

 private:
  void schedule();

  boost::asio::io_context& io_;
  log::Log* log_ = nullptr;
  std::vector<std::function<void()>> last_, queue_;
  bool scheduled_ = false;
};

}  // namespace swarm::engine
