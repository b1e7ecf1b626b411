// One way for messages from senders to one receiver: a system that is compared.
//
// Threads: none. Each sender and the receiver is a process of its own; a Route is made before they
// are forked, and each opens its end.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace swarm::bench {

using Bodies = std::span<const std::string>;

class Route {
 public:
  virtual ~Route() = default;
  [[nodiscard]] virtual const char* name() const = 0;
  // The processes in between.
  [[nodiscard]] virtual std::vector<pid_t> servers() const = 0;

  // ---- a sender
  virtual void open_sender(std::uint32_t number) = 0;
  // Puts them on their way, in order and in as few writes as the system's limits allow; waits while
  // more than its window is unconfirmed.
  void send(Bodies bodies);
  // Returns when all that was sent is confirmed, by whoever does that in this system.
  void await_confirmed();

  // The receiver confirms: without it no sender gets further than its window.
  [[nodiscard]] virtual bool receiver_confirms() const { return false; }

  // ---- the receiver
  virtual void open_receiver() = 0;
  using Take = std::function<void(std::string_view)>;
  // Waits for at least one message, gives each to `take`, acknowledges them where the system has
  // acknowledgements.
  virtual void receive(const Take& take) = 0;
  // Returns when all acknowledgements are recorded.
  virtual void settle() {}

 protected:
  // Messages of `bytes` that may be unconfirmed at a time.
  [[nodiscard]] virtual std::size_t window(std::size_t bytes) const;
  virtual void put(Bodies bodies) = 0;
  // Waits for a confirmation; returns how many messages have been confirmed since the last call.
  virtual std::size_t wait() = 0;

 private:
  std::size_t unconfirmed_ = 0;
};

// The receiver is `worker-0`, sender k is `worker-k` (1 …). `pods` is the directory of their
// volumes.
std::unique_ptr<Route> make_mailbox_route(std::string pods, std::uint32_t senders);
std::unique_ptr<Route> make_redis_route(std::string socket, bool reliable);
std::unique_ptr<Route> make_nats_route(std::uint16_t port, bool jetstream);
std::unique_ptr<Route> make_zmq_route(std::string endpoint);
std::unique_ptr<Route> make_broker_route(const std::string& socket);
std::unique_ptr<Route> make_segment_route(const std::string& directory, std::uint32_t senders);

}  // namespace swarm::bench
