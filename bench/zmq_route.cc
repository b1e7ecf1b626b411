// ZeroMQ over a unix socket, no process in between. The receiver confirms the last message of each
// of the sender's calls.
#include <deque>
#include <utility>

#include "route.h"
#include "zmq.h"

namespace swarm::bench {
namespace {

constexpr char kConfirm = '?', kPlain = '.';

class ZmqRoute final : public Route {
 public:
  explicit ZmqRoute(std::string endpoint) : endpoint_(std::move(endpoint)) {}

  [[nodiscard]] const char* name() const override { return "ZeroMQ ipc"; }
  [[nodiscard]] std::vector<pid_t> servers() const override { return {}; }

  [[nodiscard]] bool receiver_confirms() const override { return true; }

  void open_sender(std::uint32_t number) override {
    socket_ = std::make_unique<ZmqSocket>(ZmqSocket::Kind::kDealer, number);
    socket_->connect(endpoint_);
  }
  void open_receiver() override {
    socket_ = std::make_unique<ZmqSocket>(ZmqSocket::Kind::kRouter, 0);
    socket_->bind(endpoint_);
  }

  void receive(const Take& take) override {
    std::string from, part;
    for (bool wait = true; socket_->receive(from, wait); wait = false) {
      socket_->receive(part, true);
      take(std::string_view(part).substr(1));
      if (part.front() != kConfirm) continue;
      socket_->send(from, true);
      socket_->send("ok", false);
    }
  }

 protected:
  void put(Bodies bodies) override {
    std::string part;
    for (const auto& body : bodies) {
      part = &body == &bodies.back() ? kConfirm : kPlain;
      part += body;
      socket_->send(part, false);
    }
    calls_.push_back(bodies.size());
  }

  std::size_t wait() override {
    std::string part;
    socket_->receive(part, true);
    const auto confirmed = calls_.front();
    calls_.pop_front();
    return confirmed;
  }

 private:
  const std::string endpoint_;
  std::unique_ptr<ZmqSocket> socket_;
  std::deque<std::size_t> calls_;
};

}  // namespace

std::unique_ptr<Route> make_zmq_route(std::string endpoint) {
  return std::make_unique<ZmqRoute>(std::move(endpoint));
}

}  // namespace swarm::bench
