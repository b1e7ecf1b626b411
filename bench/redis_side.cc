// The peer: one Redis list per agent and one for the coordinator, on a unix socket. An agent waits
// in BLPOP and answers with RPUSH and the next BLPOP in one write; the coordinator pipelines its
// RPUSHes and takes up to kPop replies at a time.
#include <poll.h>

#include "process_usage.h"
#include "redis.h"
#include "side.h"

namespace swarm::bench {
namespace {

constexpr std::size_t kPipeline = 64;  // messages per write
constexpr char kReplies[] = "coordinator";

std::string list_of(std::uint32_t agent) { return "agent-" + std::to_string(agent); }

class RedisSide final : public Side {
 public:
  RedisSide(const Team& team, std::string socket) : team_(team), socket_(std::move(socket)) {}

  [[nodiscard]] const char* name() const override { return "Redis list"; }
  [[nodiscard]] std::vector<pid_t> servers() const override {
    return processes_named("redis-server");
  }

  [[noreturn]] void agent(std::uint32_t number) override {
    Wire wire(socket_);
    const std::string list = list_of(number);
    std::string out;
    add_command(out, {"BLPOP", list, "0"});
    wire.write(out);
    team_.board->ready.fetch_add(1);
    while (true) {
      auto value = next_value(wire);
      if (!value) {
        wire.read(true);
        continue;
      }
      if (value->size() != 2) continue;  // the answer to RPUSH has none
      out.clear();
      add_command(out, {"RPUSH", kReplies, value->at(1)});
      add_command(out, {"BLPOP", list, "0"});
      wire.write(out);
    }
  }

  void connect() override {
    out_ = std::make_unique<Wire>(socket_);
    in_ = std::make_unique<Wire>(socket_);
  }

  void round(std::uint32_t number, std::vector<double>& reply_ms) override {
    const std::uint32_t n = team_.agents;
    std::vector<Clock::time_point> sent_at(n);
    std::vector<bool> replied(n);
    std::string pop, commands;
    add_command(pop, {"BLMPOP", "0", "1", kReplies, "LEFT", "COUNT", "512"});
    const auto deadline = Clock::now() + kRoundLimit;
    in_->write(pop);
    for (std::uint32_t i = 0; i < n; ++i) {
      add_command(commands, {"RPUSH", list_of(i), body_of(number, i)});
      sent_at[i] = Clock::now();
      if ((i + 1) % kPipeline == 0 || i + 1 == n) {
        out_->write(commands);
        commands.clear();
      }
    }
    std::uint32_t replies = 0, pushed = 0;
    while (replies < n || pushed < n) {
      pollfd ready[] = {{in_->fd(), POLLIN, 0}, {out_->fd(), POLLIN, 0}};
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
      if (left <= 0 || ::poll(ready, 2, static_cast<int>(left)) == 0)
        fail("redis: the round is not over in time");
      if (ready[1].revents != 0) {
        for (out_->read(false); next_value(*out_);) ++pushed;
      }
      if (ready[0].revents == 0) continue;
      in_->read(false);
      while (auto value = next_value(*in_)) {
        for (std::size_t i = 1; i < value->size(); ++i) {  // the first is the list's name
          const auto from = agent_of((*value)[i], number, n);
          if (replied[from]) fail("redis: a reply came twice");
          replied[from] = true;
          ++replies;
          reply_ms.push_back(milliseconds(Clock::now() - sent_at[from]));
        }
        if (replies < n) in_->write(pop);
      }
    }
  }

 private:
  const Team team_;
  const std::string socket_;
  std::unique_ptr<Wire> out_, in_;
};

}  // namespace

std::unique_ptr<Side> make_redis_side(const Team& team, std::string socket) {
  return std::make_unique<RedisSide>(team, std::move(socket));
}

}  // namespace swarm::bench
