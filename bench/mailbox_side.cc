// Our side: agents that speak the socket protocol (docs/socket-protocol.md) with the sidecars of
// their pods.
//
// Each in a pod of its own, or all in one. An agent does what docs/agentctl.md asks of one: its
// question is acknowledged when the answer was accepted, so that nothing is lost if it dies in
// between.
#include <poll.h>
#include <unistd.h>

#include <array>
#include <deque>
#include <utility>

#include "agent_wire.h"
#include "process_usage.h"
#include "side.h"

namespace swarm::bench {
namespace {

class MailboxSide : public Side {
 public:
  MailboxSide(const Team& team, std::string pods) : team_(team), pods_(std::move(pods)) {}

  [[nodiscard]] const char* name() const override { return "sidecars"; }
  [[nodiscard]] std::vector<pid_t> servers() const override {
    auto pids = processes_named("swarm-sidecar");
    for (const pid_t pid : with_environment(pids, "CFN_AGENT_ID=" + one_pod()))
      std::erase(pids, pid);
    return pids;
  }

  [[noreturn]] void agent(std::uint32_t number) override {
    const auto opened = open_worker(pods_, name_of(number));
    Wire& wire = *opened;
    team_.board->ready.fetch_add(1);
    std::string receive, reply;
    add_receive(receive, 1);
    wire.write(receive);
    while (true) {
      reply.clear();
      add_echo(reply, 2, next_answer(wire, "an agent receives"));
      wire.write(reply);
      next_answer(wire, "an agent replies and acknowledges");
      // Before the last one is told: the next round may begin at once.
      wire.write(receive);
      if (team_.board->acked.fetch_add(1) + 1 == team_.agents) {
        const std::uint64_t one = 1;
        if (::write(team_.all_acked, &one, sizeof one) != sizeof one) fail("eventfd");
      }
    }
  }

  void connect() override {
    const std::string path = pods_ + "/" + coordinators_pod() + "/agent.sock";
    for (auto& wire : wires_) wire = std::make_unique<Wire>(path);
    std::string out;
    for (std::uint32_t i = 0; i < kReceives; ++i) add_receive(out, i);
    wires_[kIn]->write(out);
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
    std::string out;
    std::string_view line;
    while (accepted < n || acked < n || !agents_acked) {
      out.clear();
      for (; sent < n && sent - accepted < kWindow; ++sent) {
        add_send(out, sent, name_of(sent), bodies[sent]);
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
          parse_answer(line, "the coordinator sends");
      }
      if (ready[kIn].revents != 0) {
        out.clear();
        for (wires_[kIn]->read(false); wires_[kIn]->line(line); ++replies) {
          const Got got = parse_answer(line, "the coordinator receives");
          const auto from = agent_of(got.body, number, n);
          if (replied[from]) fail("worker-" + std::to_string(from) + "'s reply came twice");
          replied[from] = true;
          reply_ms.push_back(milliseconds(Clock::now() - sent_at[from]));
          add_ack(acks.emplace_back(), from, got);
          add_receive(out, got.rid);
        }
        wires_[kIn]->write(out);
      }
      if (ready[kAcks].revents != 0) {
        for (wires_[kAcks]->read(false); wires_[kAcks]->line(line); ++acked)
          parse_answer(line, "the coordinator acknowledges");
      }
      if (ready[3].revents != 0) {
        std::uint64_t count = 0;
        if (::read(team_.all_acked, &count, sizeof count) != sizeof count) fail("eventfd");
        agents_acked = true;
      }
    }
  }

 protected:
  [[nodiscard]] std::string one_pod() const { return "worker-" + std::to_string(team_.agents); }
  [[nodiscard]] virtual std::string name_of(std::uint32_t agent) const {
    return "worker-" + std::to_string(agent);
  }
  [[nodiscard]] virtual std::string coordinators_pod() const { return "coordinator-0"; }

 private:
  enum { kOut = 0, kIn = 1, kAcks = 2 };

  const Team team_;
  const std::string pods_;
  std::array<std::unique_ptr<Wire>, 3>
      wires_;  // the coordinator's: sending, receiving, acknowledging
};

// The coordinating agent is the first one of the pod.
class OnePodSide final : public MailboxSide {
 public:
  using MailboxSide::MailboxSide;
  [[nodiscard]] const char* name() const override { return "one sidecar"; }
  [[nodiscard]] std::vector<pid_t> servers() const override {
    return with_environment(processes_named("swarm-sidecar"), "CFN_AGENT_ID=" + one_pod());
  }

 protected:
  [[nodiscard]] std::string name_of(std::uint32_t agent) const override {
    return one_pod() + "." + std::to_string(agent + 1);
  }
  [[nodiscard]] std::string coordinators_pod() const override { return one_pod(); }
};

}  // namespace

std::unique_ptr<Side> make_one_pod_side(const Team& team, std::string pods) {
  return std::make_unique<OnePodSide>(team, std::move(pods));
}

std::unique_ptr<Side> make_mailbox_side(const Team& team, std::string pods) {
  return std::make_unique<MailboxSide>(team, std::move(pods));
}

}  // namespace swarm::bench
