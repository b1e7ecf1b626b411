// A link to the coordinator of one team, found by DNS and by what the other end says of itself in
// the handshake.
//
// While a coordinator's pod is being replaced its name has two addresses: only one that holds the
// team's Lease (standing.active) and has not been superseded (epoch at least the highest we know)
// is taken.
//
// Threads: the loop's.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <vector>

#include "engine/config.h"
#include "engine/session.h"

namespace swarm::engine {

class CoordinatorLink {
 public:
  struct Events {
    std::function<void(Session&)>
        ready;  // an active coordinator; ends the use of any earlier session
    std::function<void(Session&, const link::Frame&)> frame;
    std::function<void()> lost;  // no session any more; it is being searched for
  };
  CoordinatorLink(Loop& loop, const Config& config, const Session::Options& options,
                  std::uint32_t team, Events events);
  ~CoordinatorLink();
  CoordinatorLink(const CoordinatorLink&) = delete;
  CoordinatorLink& operator=(const CoordinatorLink&) = delete;

  [[nodiscard]] const std::shared_ptr<Session>& session() const { return session_; }
  [[nodiscard]] std::uint32_t team() const { return team_; }
  // The present one is leaving: look for its successor (a higher epoch) while it still serves.
  void look_for_successor();
  // Somebody there says that it is the new coordinator; believed only after its handshake.
  void look_at(const std::string& address);
  // For a first one, or, with a session, for its successor.
  [[nodiscard]] bool searching() const { return searching_; }
  [[nodiscard]] std::uint64_t known_epoch() const { return known_epoch_; }
  void know_epoch(std::uint64_t epoch) { known_epoch_ = std::max(known_epoch_, epoch); }

 private:
  void search();
  void try_next();
  void retry_later();

  Loop& loop_;
  const Config& config_;
  Session::Options options_;
  std::uint32_t team_;
  Events events_;
  boost::asio::ip::tcp::resolver resolver_;
  boost::asio::steady_timer timer_;
  std::vector<boost::asio::ip::tcp::endpoint> candidates_;
  std::shared_ptr<Session> session_, trying_;
  std::uint64_t known_epoch_ = 0;
  bool searching_ = false;
  bool successor_wanted_ = false;  // the session's other end is leaving
  MonoTime up_since_{};
  Milliseconds backoff_{0};
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace swarm::engine
