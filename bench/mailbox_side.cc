// Our side: agents that speak the socket protocol (docs/socket-protocol.md) with the sidecars of
// their pods.
//
// An agent does what docs/agentctl.md asks of one: it answers first and acknowledges when the
// answer was accepted, so that nothing is lost if it dies in between.
#include <poll.h>
#include <unistd.h>

#include <array>
#include <deque>
#include <nlohmann/json.hpp>
#include <utility>

#include "side.h"
#include "wire.h"

namespace swarm::bench {
namespace {

using nlohmann::json;

constexpr std::uint32_t kWindow = 64;    // requests under way per connection; the protocol's limit
constexpr std::uint32_t kReceives = 32;  // of them, in the connection that only receives
constexpr int kWaitMs = 3600 * 1000;
constexpr int kSendTimeoutMs = 60 * 1000;
constexpr auto kJoinLimit = std::chrono::seconds(60);

json parse(const std::string& line) {
  json out = json::parse(line, nullptr, false);
  if (!out.is_object()) fail("the sidecar answered what is not JSON");
  return out;
}

void expect_ok(const json& answer, const std::string& what) {
  if (!answer.value("ok", false)) {
    fail(what + ": " + answer.value("code", "") + ", " + answer.value("message", ""));
  }
}

std::string line_of(const json& request) { return request.dump() + "\n"; }

std::string receive_line(std::uint64_t rid) {
  return line_of({{"op", "recv"}, {"rid", rid}, {"waitMs", kWaitMs}});
}

std::string ack_line(std::uint64_t rid, const json& message) {
  return line_of({{"op", "ack"},
                  {"rid", rid},
                  {"messageId", message.at("messageId")},
                  {"attempt", message.at("attempt")}});
}

class MailboxSide final : public Side {
 public:
  MailboxSide(const Team& team, std::string pods) : team_(team), pods_(std::move(pods)) {}

  [[nodiscard]] const char* name() const override { return "sidecars"; }

  [[noreturn]] void agent(std::uint32_t number) override {
    const std::string self = "worker-" + std::to_string(number);
    Wire wire(pods_ + "/" + self + "/agent.sock");
    wait_until_joined(wire, self);
    team_.board->ready.fetch_add(1);
    wire.write(receive_line(1));
    while (true) {
      const json got = next(wire);
      expect_ok(got, self + " receives");
      const json& message = got.at("message");
      wire.write(line_of({{"op", "send"},
                          {"rid", 2},
                          {"to", message.at("from")},
                          {"inReplyTo", message.at("messageId")},
                          {"body", message.at("body")},
                          {"timeoutMs", kSendTimeoutMs}}));
      expect_ok(next(wire), self + " replies");
      wire.write(ack_line(3, message));
      expect_ok(next(wire), self + " acknowledges");
      // Before the last one is told: the next round may begin at once.
      wire.write(receive_line(1));
      if (team_.board->acked.fetch_add(1) + 1 == team_.agents) {
        const std::uint64_t one = 1;
        if (::write(team_.all_acked, &one, sizeof one) != sizeof one) fail("eventfd");
      }
    }
  }

  void connect() override {
    const std::string path = pods_ + "/coordinator-0/agent.sock";
    for (auto& wire : wires_) wire = std::make_unique<Wire>(path);
    for (std::uint32_t i = 0; i < kReceives; ++i) wires_[kIn]->write(receive_line(i));
  }

  void round(std::uint32_t number, std::vector<double>& reply_ms) override {
    const std::uint32_t n = team_.agents;
    team_.board->acked = 0;
    std::vector<std::string> bodies;
    for (std::uint32_t i = 0; i < n; ++i) bodies.push_back(body_of(number, i));
    std::vector<Clock::time_point> sent_at(n);
    std::vector<bool> replied(n);
    std::deque<std::string> acks;
    std::uint32_t sent = 0, accepted = 0, replies = 0, acks_sent = 0, acked = 0;
    bool agents_acked = false;
    const auto deadline = Clock::now() + kRoundLimit;
    std::string out, line;
    while (accepted < n || acked < n || !agents_acked) {
      out.clear();
      for (; sent < n && sent - accepted < kWindow; ++sent) {
        out += line_of({{"op", "send"},
                        {"rid", sent},
                        {"to", "worker-" + std::to_string(sent)},
                        {"body", bodies[sent]},
                        {"timeoutMs", kSendTimeoutMs}});
        sent_at[sent] = Clock::now();
      }
      wires_[kOut]->write(out);
      out.clear();
      for (; !acks.empty() && acks_sent - acked < kWindow; ++acks_sent) {
        out += acks.front();
        acks.pop_front();
      }
      wires_[kAcks]->write(out);

      std::array<pollfd, 4> ready{};
      for (std::size_t i = 0; i < wires_.size(); ++i) ready.at(i) = {wires_.at(i)->fd(), POLLIN, 0};
      ready[3] = {team_.all_acked, POLLIN, 0};
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
      if (left <= 0 || ::poll(ready.data(), ready.size(), static_cast<int>(left)) == 0) {
        fail("round " + std::to_string(number) + " is not over after " +
             std::to_string(kRoundLimit.count()) + " s: accepted " + std::to_string(accepted) +
             ", replies " + std::to_string(replies) + ", acknowledged here " +
             std::to_string(acked) + ", by agents " + std::to_string(team_.board->acked) + " of " +
             std::to_string(n));
      }
      if (ready[kOut].revents != 0) {
        for (wires_[kOut]->read(false); wires_[kOut]->line(line); ++accepted)
          expect_ok(parse(line), "the coordinator sends");
      }
      if (ready[kIn].revents != 0) {
        out.clear();
        for (wires_[kIn]->read(false); wires_[kIn]->line(line); ++replies) {
          const json answer = parse(line);
          expect_ok(answer, "the coordinator receives");
          const json& message = answer.at("message");
          const auto from = agent_of(message.at("body").get_ref<const std::string&>(), number, n);
          if (replied[from]) fail("worker-" + std::to_string(from) + "'s reply came twice");
          replied[from] = true;
          reply_ms.push_back(milliseconds(Clock::now() - sent_at[from]));
          acks.push_back(ack_line(from, message));
          out += receive_line(answer.at("rid").get<std::uint64_t>());
        }
        wires_[kIn]->write(out);
      }
      if (ready[kAcks].revents != 0) {
        for (wires_[kAcks]->read(false); wires_[kAcks]->line(line); ++acked)
          expect_ok(parse(line), "the coordinator acknowledges");
      }
      if (ready[3].revents != 0) {
        std::uint64_t count = 0;
        if (::read(team_.all_acked, &count, sizeof count) != sizeof count) fail("eventfd");
        agents_acked = true;
      }
    }
  }

 private:
  enum { kOut = 0, kIn = 1, kAcks = 2 };

  static json next(Wire& wire) {
    std::string line;
    while (!wire.line(line)) wire.read(true);
    return parse(line);
  }

  static void wait_until_joined(Wire& wire, const std::string& self) {
    for (const auto deadline = Clock::now() + kJoinLimit; Clock::now() < deadline;
         ::usleep(50'000)) {
      wire.write(line_of({{"op", "hello"}, {"rid", 0}}));
      const json hello = next(wire);
      expect_ok(hello, self);
      if (hello.value("connected", false)) return;
    }
    fail(self + "'s sidecar has not joined its coordinator");
  }

  const Team team_;
  const std::string pods_;
  std::array<std::unique_ptr<Wire>, 3>
      wires_;  // the coordinator's: sending, receiving, acknowledging
};

}  // namespace

std::unique_ptr<Side> make_mailbox_side(const Team& team, std::string pods) {
  return std::make_unique<MailboxSide>(team, std::move(pods));
}

}  // namespace swarm::bench
