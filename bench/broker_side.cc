// The floor with one process in between: the raw broker (raw.h).
#include <poll.h>

#include <utility>

#include "raw.h"
#include "side.h"

namespace swarm::bench {
namespace {

constexpr std::size_t kPipeline = 64;  // messages per write

class BrokerSide final : public Side {
 public:
  BrokerSide(const Team& team, std::string socket)
      : team_(team), socket_(std::move(socket)), broker_(start_broker(socket_)) {}

  [[nodiscard]] const char* name() const override { return "raw broker"; }
  [[nodiscard]] std::vector<pid_t> servers() const override { return {broker_}; }

  [[noreturn]] void agent(std::uint32_t number) override {
    Wire wire(socket_);
    say_hello(wire, number);
    team_.board->ready.fetch_add(1);
    std::string out;
    while (true) {
      RawFrame frame;
      for (; !next_frame(wire, frame); wire.read(true)) {
      }
      out.clear();
      add_frame(out, {.to = frame.head.from, .from = number}, frame.body);
      wire.write(out);
    }
  }

  void connect() override {
    wire_ = std::make_unique<Wire>(socket_);
    say_hello(*wire_, team_.agents);
  }

  void round(std::uint32_t number, std::vector<double>& reply_ms) override {
    const std::uint32_t n = team_.agents;
    std::vector<Clock::time_point> sent_at(n);
    std::vector<bool> replied(n);
    const auto deadline = Clock::now() + kRoundLimit;
    std::string out;
    for (std::uint32_t i = 0; i < n; ++i) {
      add_frame(out, {.to = i, .from = n}, body_of(number, i));
      sent_at[i] = Clock::now();
      if ((i + 1) % kPipeline != 0 && i + 1 != n) continue;
      wire_->write(out);
      out.clear();
    }
    for (std::uint32_t replies = 0; replies < n;) {
      pollfd ready{wire_->fd(), POLLIN, 0};
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
      if (left <= 0 || ::poll(&ready, 1, static_cast<int>(left)) == 0)
        fail("raw broker: the round is not over in time");
      wire_->read(false);
      for (RawFrame frame; next_frame(*wire_, frame); ++replies) {
        const auto agent = agent_of(frame.body, number, n);
        if (replied[agent]) fail("raw broker: a reply came twice");
        replied[agent] = true;
        reply_ms.push_back(milliseconds(Clock::now() - sent_at[agent]));
      }
    }
  }

 private:
  const Team team_;
  const std::string socket_;
  const pid_t broker_;
  std::unique_ptr<Wire> wire_;
};

}  // namespace

std::unique_ptr<Side> make_broker_side(const Team& team, std::string socket) {
  return std::make_unique<BrokerSide>(team, std::move(socket));
}

}  // namespace swarm::bench
