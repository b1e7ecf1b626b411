// One of the systems that are compared: how its agents live and how its coordinator does a
// round.
//
// A round: the coordinator sends one message of kBodyBytes to each agent, each agent sends the same
// bytes back. It is over when the coordinator has every reply and, where the system has
// acknowledgements, every one of them is recorded.
//
// Threads: none. Agents are forked processes; they share a Board with the coordinator's.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "result.h"

namespace swarm::bench {

inline constexpr std::size_t kBodyBytes = 256;
inline constexpr std::chrono::seconds kRoundLimit{120};

// In memory that all processes of one side share.
struct Board {
  std::atomic<std::uint32_t> ready = 0;  // agents that wait for their first message
  std::atomic<std::uint32_t> acked =
      0;  // acknowledgements of agents that were recorded in this round
};

struct Team {
  std::uint32_t agents = 0;
  Board* board = nullptr;
  int all_acked = -1;  // an eventfd: whoever makes board->acked complete writes to it
};

class Side {
 public:
  virtual ~Side() = default;
  [[nodiscard]] virtual const char* name() const = 0;
  // The processes in between.
  [[nodiscard]] virtual std::vector<pid_t> servers() const = 0;
  // The life of agent `number`, in a process of its own.
  [[noreturn]] virtual void agent(std::uint32_t number) = 0;
  // The coordinator's connections; before its first round.
  virtual void connect() = 0;
  // Fails on anything but success. Appends to `reply_ms`, for each agent, the time from sending to
  // having its reply.
  virtual void round(std::uint32_t number, std::vector<double>& reply_ms) = 0;
};

// `pods`: the directory of the pods' volumes. An agent in each of worker-0 to worker-N-1, their
// coordinator in a pod of its own …
std::unique_ptr<Side> make_mailbox_side(const Team& team, std::string pods);
// … or all of them in one, worker-N.
std::unique_ptr<Side> make_one_pod_side(const Team& team, std::string pods);
std::unique_ptr<Side> make_redis_side(const Team& team, std::string socket);
std::unique_ptr<Side> make_nats_side(const Team& team, std::uint16_t port, bool jetstream);
std::unique_ptr<Side> make_broker_side(const Team& team, std::string socket);

// The body of round `round` for `agent`, and whom it is for.
std::string body_of(std::uint32_t round, std::uint32_t agent);
// Fails unless `body` is what body_of gives for an agent of this round.
std::uint32_t agent_of(std::string_view body, std::uint32_t round, std::uint32_t agents);

}  // namespace swarm::bench
