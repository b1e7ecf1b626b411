// The socket that agents talk to: JSON lines, docs/socket-protocol.md. Everything that comes in is
// hostile.
//
// Threads: the loop's. A connection lives until its peer closes or misbehaves.
#pragma once

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "engine/config.h"
#include "engine/mail.h"
#include "engine/mail_request.h"
#include "engine/post.h"
#include "engine/refusals.h"
#include "engine/worker.h"

namespace swarm::engine {

inline constexpr std::size_t kMaxAgentConnections = 256;
inline constexpr std::size_t kMoreConnectionsPerAgent = 4;  // beyond the first of a pod
// However short its pod is of something, an agent may have so many: else nobody could read and ack.
inline constexpr std::size_t kLeastConnectionsPerAgent = 4;
inline constexpr std::size_t kMaxOutstanding = 64;  // requests of one connection
inline constexpr std::size_t kMaxAgentQueueBytes = 4U << 20U;
// Of all connections together: answers that were not read, and lines that are not finished.
inline constexpr std::size_t kMaxAgentBytes = 24U << 20U;
// Of these, answers before they go out together: then requests wait for that, so that nobody who
// reads has too much.
inline constexpr std::size_t kMaxAgentBytesPerTurn = 8U << 20U;
inline constexpr std::size_t kKeptAgentBytes = 64U << 10U;  // of an empty buffer, for its next use
inline constexpr std::size_t kMaxWatchedBytes =
    1U << 20U;  // unread by one that watches; beyond, messages are only counted

class AgentSocket {
 public:
  // `worker` is null in a coordinator's pod.
  AgentSocket(Loop& loop, const Config& config, Mail& mail, Post& post, Worker* worker);
  ~AgentSocket();
  AgentSocket(const AgentSocket&) = delete;
  AgentSocket& operator=(const AgentSocket&) = delete;

  // Binds `path` (mode 0666), replacing what a former life left there.
  Status start(const std::string& path);
  void stop();

  // For new connections, from now on: so many percent of the limit of a pod's agents, but
  // kLeastConnectionsPerAgent for each; `why` it is fewer is told to who is one too many.
  void set_share(int percent, std::string why);
  [[nodiscard]] std::size_t connections() const { return connections_; }
  [[nodiscard]] std::size_t max_connections() const { return max_connections_; }

 private:
  class Connection;
  void accept();
  void refuse(boost::asio::local::stream_protocol::socket socket) const;
  void make_room();
  void next_turn();
  [[nodiscard]] std::size_t most_connections() const;  // by the number of agents
  std::string next_id();                               // of a message, where its sender gives none
  Loop& loop_;
  const Config& config_;
  Mail& mail_;
  Post& post_;
  Worker* worker_;
  boost::asio::local::stream_protocol::acceptor acceptor_;
  boost::asio::steady_timer retry_timer_;
  MailRequestReader reader_;
  std::string random_;  // for ids: one system call for many
  std::size_t connections_ = 0, max_connections_;
  std::set<Connection*> open_;  // each takes itself out
  // Whose next request walks through a whole inbox: one of them in a turn of the loop.
  std::deque<std::shared_ptr<Connection>> turns_;
  std::size_t held_bytes_ = 0;  // of kMaxAgentBytes
  std::size_t turn_bytes_ = 0;  // of kMaxAgentBytesPerTurn
  Seldom crowded_;
  std::size_t reserve_ = 0;  // while short of something: what was open then, and some more
  std::string shortage_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace swarm::engine
