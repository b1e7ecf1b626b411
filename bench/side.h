// One of the two systems that are compared: how its agents live and how its coordinator does a
// round.
//
// A round: the coordinator sends one message of kBodyBytes to each agent, each agent sends the same
// bytes back. It is over when the coordinator has every reply and, where the system has
// acknowledgements, every one of them is recorded.
//
// Threads: none. Agents are forked processes; they share a Board with the coordinator's.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace swarm::bench {

inline constexpr std::size_t kBodyBytes = 256;
inline constexpr std::chrono::seconds kRoundLimit{120};

using Clock = std::chrono::steady_clock;
inline double milliseconds(Clock::duration d) {
  return std::chrono::duration<double, std::milli>(d).count();
}

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
  // The life of agent `number`, in a process of its own.
  [[noreturn]] virtual void agent(std::uint32_t number) = 0;
  // The coordinator's connections; before its first round.
  virtual void connect() = 0;
  // Fails on anything but success. Appends to `reply_ms`, for each agent, the time from sending to
  // having its reply.
  virtual void round(std::uint32_t number, std::vector<double>& reply_ms) = 0;
};

std::unique_ptr<Side> make_mailbox_side(const Team& team,
                                        std::string pods);  // the directory of the pods' volumes
std::unique_ptr<Side> make_redis_side(const Team& team, std::string socket);

// The body of round `round` for `agent`, and whom it is for.
std::string body_of(std::uint32_t round, std::uint32_t agent);
// Fails unless `body` is what body_of gives for an agent of this round.
std::uint32_t agent_of(const std::string& body, std::uint32_t round, std::uint32_t agents);

}  // namespace swarm::bench
