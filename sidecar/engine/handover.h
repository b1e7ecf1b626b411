// The last thing that a draining pod does with its mail: what is live in its outbox goes to the pod
// that has its name now (docs/decisions/0009).
//
// Threads: the loop's. The mailbox decides what is offered and when it counts as handed over; this
// finds the successor and moves the frames.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>

#include "engine/config.h"
#include "engine/mail.h"
#include "engine/session.h"

namespace swarm::engine {

// How often a successor is looked for, or asked again that had no room.
inline constexpr Milliseconds kOfferAgain{250};

class Handover {
 public:
  Handover(Loop& loop, Mail& mail, const Config& config, Session::Options options,
           std::function<void(const AgentName&, Located)> locate);  // begins at once
  ~Handover();
  Handover(const Handover&) = delete;
  Handover& operator=(const Handover&) = delete;

  // Messages for which it is worth waiting; 0: all are handed over, or nobody will take them.
  [[nodiscard]] std::uint32_t left() const;

 private:
  void look();
  void connect(const Location& where);
  void take(Session& session, const link::Frame& frame);
  void pump();
  void again();

  Loop& loop_;
  Mail& mail_;
  const Config& config_;
  Session::Options options_;
  std::function<void(const AgentName&, Located)> locate_;
  std::shared_ptr<Session> session_;
  LogId taker_;                  // who has the beginning gets the rest: a stream has no holes
  bool heard_ = false;           // an answer, on this link
  std::size_t outstanding_ = 0;  // offers without one
  int unheard_ = 0;
  boost::asio::steady_timer timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace swarm::engine
