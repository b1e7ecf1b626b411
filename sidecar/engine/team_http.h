// The way of HTTP requests to the coordinators of other teams.
//
// Threads: ask(), poll() and stop() on the loop's, and so are all callbacks; the blocking client
// runs on a small pool. Every request ends in one call of its callback, by its time limit or soon
// after it, unless stop() comes first.
// Nothing waits at the other side: a request that would is a poll(), which asks again and again and
// holds no thread in between. One team that does not answer can't keep requests to others back: it
// gets kThreadsPerTeam of the threads at most.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "engine/config.h"
#include "engine/loop.h"
#include "net/http_client.h"
#include "net/http_server.h"

namespace swarm::engine {

inline constexpr std::size_t kForwardThreads = 8;  // made at the first request
inline constexpr std::size_t kThreadsPerTeam = 4;
inline constexpr std::size_t kMaxForwardsPerTeam = 64;  // under way or waiting for a thread
inline constexpr Milliseconds kForwardReadLimit{5000};  // a GET, its time without a thread included
inline constexpr Milliseconds kForwardWriteLimit{15000};  // a POST may wait 10 s for a second copy
inline constexpr Milliseconds kForwardConnectLimit{2000};
inline constexpr Milliseconds kPollFirst{200}, kPollMost{2000};  // pauses of a poll, doubling

class TeamHttp {
 public:
  using Url = std::function<std::string(std::uint32_t team)>;  // "http://host:port"
  using Done = std::function<void(net::HttpResponse)>;
  using Over = std::function<bool(const net::HttpResponse&)>;

  TeamHttp(Loop& loop, const Config& config);
  TeamHttp(Loop& loop, Url url);
  ~TeamHttp() { stop(); }
  TeamHttp(const TeamHttp&) = delete;
  TeamHttp& operator=(const TeamHttp&) = delete;

  // The answer of `team`, or an error's: 429 too many are under way, 503 not sent, 504 may have
  // been carried out.
  void ask(std::uint32_t team, net::HttpCall call, Done done);
  // As ask(), for a client that waits for nothing else: counted in carried().
  void carry(std::uint32_t team, net::HttpCall call, Done done);
  // Asks until over() says so, an answer is not 200, or the time is `until`; the last answer is the
  // answer.
  void poll(std::uint32_t team, net::HttpCall call, MonoTime until, Over over, Done done);
  [[nodiscard]] std::size_t carried() const { return carried_; }
  [[nodiscard]] std::size_t polling() const { return polling_; }
  // Ends what is under way; no callback comes any more. Also twice.
  void stop();

 private:
  struct Job {
    net::HttpCall call;
    MonoTime deadline;
    Done done;
  };
  struct Lane {  // a team's
    std::deque<Job> waiting;
    std::size_t running = 0;
  };
  struct Poll;

  void start();
  void run(std::uint32_t team, Job job);
  void again(const std::shared_ptr<Poll>& poll);

  Loop& loop_;
  Url url_;
  std::map<std::uint32_t, Lane> lanes_;
  std::uint32_t turn_ = 0;  // teams take turns: the next is the first behind this
  std::size_t running_ = 0, carried_ = 0, polling_ = 0;
  std::optional<boost::asio::thread_pool> threads_;
  std::stop_source stop_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace swarm::engine
