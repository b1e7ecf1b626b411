// List and watch of one resource as a state machine without I/O.
//
//   Listing --last page--> Watching --410, ERROR, garbage--> Listing
//   Watching --stream ended--> Watching (again, from the newest resourceVersion seen)
//
// Flow: the shell asks next() for the request, performs it, and feeds the answer: on_list() for a
// list, on_refusal() for any status that is not 2xx, on_line() for each line of a watch, on_end()
// when a watch is over or a request could not be made. The machine calls the Sink. The shell waits
// between requests as backoff() says. Guarantees: between list_started() and list_finished() the
// sink gets every object once or more; what it did not get
//   is gone. A list that had to begin anew calls list_started() again. After a finished list, put()
//   and removed() come in resourceVersion order. An ERROR line or a line that is not an event never
//   reaches the sink: the machine lists again. Bookmarks move the resourceVersion only.
// Not: a cache, a thread. One thread per Watch.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "kube/request.h"
#include "os/time.h"

namespace swarm::kube {

class WatchSink {
 public:
  virtual ~WatchSink() = default;
  virtual void list_started() = 0;
  virtual void put(const nlohmann::json& object) = 0;
  virtual void removed(const nlohmann::json& object) = 0;  // its last state
  virtual void list_finished(std::string_view resource_version) = 0;
  // The view is at least as new as this.
  virtual void advanced(std::string_view resource_version) = 0;
};

struct WatchOptions {
  Resource resource;
  std::string namespace_name;  // empty: all
  Selector selector;
  int page_limit = 250;
  std::chrono::seconds watch_timeout{300};
  Milliseconds list_deadline{60'000};
};

class Watch {
 public:
  enum class State { kListing, kWatching };

  // The sink is borrowed and must outlive the Watch.
  Watch(WatchOptions options, WatchSink& sink);

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] Request next() const;
  // How long to wait before the next request: 0 after success, else exponential with `jitter` in
  // [0, 1). A list alone does not end a row of failures, only a watch that delivers does: a server
  // that answers lists but no watches is asked less and less often, too.
  [[nodiscard]] Milliseconds backoff(double jitter) const;

  void on_list(std::string_view body);
  void on_refusal(int http_status, std::string_view body, std::string_view retry_after);
  // False: the watch is of no use any more, close it. on_end() is to follow in any case.
  bool on_line(std::string_view line);
  // failed: it broke, because of `why`, as opposed to the server's ending it in order.
  void on_end(bool failed, std::string_view why = {});
  // List everything again at the next opportunity (a new leader; a view that may be stale)..
  void relist();

  [[nodiscard]] const std::string& resource_version() const { return resource_version_; }
  [[nodiscard]] int failures() const { return failures_; }
  [[nodiscard]] const std::string& last_error() const { return last_error_; }

 private:
  void begin_list();
  void fail(std::string why);

  WatchOptions options_;
  WatchSink& sink_;
  State state_ = State::kListing;
  bool list_open_ = false;  // list_started() was called, list_finished() not yet
  std::string continue_token_;
  std::string resource_version_;
  int failures_ = 0;     // in a row
  bool listed_ = false;  // the last list was answered
  bool failed_ = false;  // the last step
  int lines_ = 0;        // of the present watch
  Milliseconds retry_after_{0};
  std::string last_error_;
};

}  // namespace swarm::kube
