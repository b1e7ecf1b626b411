// NATS: a subject for each agent and one for the replies. With JetStream every message, both ways,
// is kept in memory until it is acknowledged; an agent acknowledges and replies in one write, and
// the coordinator's publications and the agents' replies are confirmed.
#include <poll.h>

#include <utility>

#include "nats.h"
#include "process_usage.h"
#include "side.h"

namespace swarm::bench {
namespace {

constexpr std::size_t kPipeline = 64;  // messages per write
constexpr char kReplies[] = "coordinator", kConfirmed[] = "confirmed";

class NatsSide final : public Side {
 public:
  NatsSide(const Team& team, std::uint16_t port, bool jetstream)
      : team_(team), port_(port), jetstream_(jetstream) {
    if (!jetstream_) return;
    Nats nats(port_);
    make_stream(nats);
    make_consumer(nats, kReplies);
  }

  [[nodiscard]] const char* name() const override { return jetstream_ ? "JetStream" : "NATS core"; }
  [[nodiscard]] std::vector<pid_t> servers() const override {
    return processes_named("nats-server");
  }

  [[noreturn]] void agent(std::uint32_t number) override {
    Nats nats(port_);
    const std::string self = "agent-" + std::to_string(number);
    const std::string replied = "replied-" + std::to_string(number);
    if (jetstream_) {
      make_consumer(nats, self);
      nats.subscribe(replied);
    }
    nats.subscribe(from(self));
    const auto before = nats.pongs();
    nats.ping();  // else it may not hear the first message
    nats.flush();
    Nats::Message message;
    while (nats.pongs() == before) {
      nats.read(true);
      if (nats.next(message)) fail("nats: a message too early");
    }
    team_.board->ready.fetch_add(1);
    while (true) {
      for (; !nats.next(message); nats.read(true)) {
      }
      if (message.subject == replied) {
        expect_stored(message);
        continue;
      }
      nats.publish(to(kReplies), message.body, jetstream_ ? replied : "");
      if (jetstream_) nats.publish(message.reply, "+ACK");
      nats.flush();
    }
  }

  void connect() override {
    nats_ = std::make_unique<Nats>(port_);
    nats_->subscribe(from(kReplies));
    if (jetstream_) nats_->subscribe(kConfirmed);
    nats_->flush();
  }

  void round(std::uint32_t number, std::vector<double>& reply_ms) override {
    const std::uint32_t n = team_.agents;
    std::vector<Clock::time_point> sent_at(n);
    std::vector<bool> replied(n);
    const auto deadline = Clock::now() + kRoundLimit;
    for (std::uint32_t i = 0; i < n; ++i) {
      nats_->publish(to("agent-" + std::to_string(i)), body_of(number, i),
                     jetstream_ ? kConfirmed : "");
      sent_at[i] = Clock::now();
      if ((i + 1) % kPipeline == 0 || i + 1 == n) nats_->flush();
    }
    std::uint32_t replies = 0, stored = jetstream_ ? 0 : n;
    while (replies < n || stored < n) {
      pollfd ready{nats_->fd(), POLLIN, 0};
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
      if (left <= 0 || ::poll(&ready, 1, static_cast<int>(left)) == 0)
        fail(std::string(name()) + ": the round is not over in time");
      nats_->read(false);
      for (Nats::Message message; nats_->next(message);) {
        if (message.subject == kConfirmed) {
          expect_stored(message);
          ++stored;
          continue;
        }
        const auto agent = agent_of(message.body, number, n);
        if (replied[agent]) fail(std::string(name()) + ": a reply came twice");
        replied[agent] = true;
        ++replies;
        reply_ms.push_back(milliseconds(Clock::now() - sent_at[agent]));
        if (jetstream_) nats_->publish(message.reply, "+ACK");
      }
      nats_->flush();
    }
  }

 private:
  [[nodiscard]] std::string to(const std::string& name) const {
    return (jetstream_ ? "j." : "core.") + name;
  }
  [[nodiscard]] std::string from(const std::string& name) const {
    return (jetstream_ ? "d." : "core.") + name;
  }
  static void expect_stored(const Nats::Message& answer) {
    if (answer.body.find("\"error\"") != std::string_view::npos)
      fail("jetstream: " + std::string(answer.body.substr(0, 300)));
  }

  const Team team_;
  const std::uint16_t port_;
  const bool jetstream_;
  std::unique_ptr<Nats> nats_;
};

}  // namespace

std::unique_ptr<Side> make_nats_side(const Team& team, std::uint16_t port, bool jetstream) {
  return std::make_unique<NatsSide>(team, port, jetstream);
}

}  // namespace swarm::bench
