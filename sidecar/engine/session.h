// One authenticated link connection to another sidecar, either side: framing, handshake, heartbeat,
// bounded sending.
//
// Threads: the loop's. Lifetime: shared_ptr; a live session keeps itself alive until closed() was
// called, exactly once.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "engine/loop.h"
#include "link/handshake.h"

namespace swarm::engine {

inline constexpr std::size_t kMaxSessionQueueBytes =
    16U << 20U;  // beyond: the peer does not read, the session ends
// Of what a connection reads at a time; the little is for those who have not said who they are.
inline constexpr std::size_t kHandshakeReadBytes = 1U << 10U, kSessionReadBytes = 64U << 10U;
inline constexpr std::size_t kMaxUnfinishedHandshakes = 512;  // one more, and the oldest one ends

class Session : public std::enable_shared_from_this<Session> {
 public:
  struct Options {
    link::Identity self;
    std::string secret;
    std::function<link::Standing()> standing;
    Milliseconds connect_timeout{1500};  // a SYN and its first repetition: whoever is there answers
    Milliseconds handshake_timeout{5000};
    Milliseconds ping_period{5000};
    int failure_threshold = 2;  // periods without a byte from the peer: the session ends
  };
  struct Events {
    std::function<void(Session&)> ready;
    std::function<void(Session&, const link::Frame&)> frame;
    std::function<void(Session&, const Error&)> closed;
  };

  static std::shared_ptr<Session> accept(Loop& loop, boost::asio::ip::tcp::socket socket,
                                         const Options& options, Events events);
  static std::shared_ptr<Session> connect(Loop& loop, const boost::asio::ip::tcp::endpoint& to,
                                          const Options& options, link::Expect expect,
                                          Events events);
  ~Session();

  void send(link::FrameType type, std::string_view payload);
  // Ends it; events.closed follows soon, with this error.
  void close(const Error& why);
  [[nodiscard]] bool up() const { return up_ && !closed_; }
  [[nodiscard]] bool unfinished() const { return !up_ && !closed_; }  // its handshake
  [[nodiscard]] const link::Identity& peer() const { return handshake_.peer(); }
  [[nodiscard]] const link::Standing& peer_standing() const { return handshake_.peer_standing(); }
  // Of the other side, as far as it has said; nothing is known of it at first.
  [[nodiscard]] bool knows(link::Feature feature) const { return (features_ & feature) != 0; }
  [[nodiscard]] std::size_t queued_bytes() const { return queue_.size() + writing_.size(); }
  [[nodiscard]] bool accepted() const { return accepted_; }  // the other side has connected

 private:
  Session(Loop& loop, boost::asio::ip::tcp::socket socket, const Options& options,
          link::Handshake handshake, Events events);
  void read();
  void write();
  void queue(const std::string& bytes);
  bool has_room(std::size_t bytes);  // in the queue; else it is closed
  void write_after_commit();
  void take(const link::Frame& frame);
  void ping();
  void heartbeat();

  Loop& loop_;
  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer timer_;
  Options options_;
  link::Handshake handshake_;
  Events events_;
  link::FrameReader reader_;
  std::string inbound_, queue_, writing_;
  std::uint32_t features_ = 0;
  MonoTime started_, last_heard_;
  bool accepted_ = false, connected_ = false, up_ = false, closed_ = false,
       write_scheduled_ = false;
};

// Those that were accepted and have not said who they are yet: anybody can connect, so they are
// few. Threads: the loop's.
class Unfinished {
 public:
  // The oldest one makes room: who knows the secret needs milliseconds. True: it had to.
  bool add(const std::shared_ptr<Session>& session);

 private:
  std::list<std::weak_ptr<Session>> sessions_;  // the oldest first; some are through or closed
};

}  // namespace swarm::engine
