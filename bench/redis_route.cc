// Redis on a unix socket. As a plain list: a message dies with the receiver that popped it. As a
// reliable queue: it is moved to a list of those in work, and removed from that when it is done.
// Either way a message is confirmed when Redis has it in memory.
#include <utility>

#include "process_usage.h"
#include "redis.h"
#include "route.h"

namespace swarm::bench {
namespace {

constexpr char kQueue[] = "queue", kWork[] = "work";
constexpr std::uint32_t kMoves = 32;  // asked for at a time, as many as we receive at a time

class RedisRoute final : public Route {
 public:
  RedisRoute(std::string socket, bool reliable) : socket_(std::move(socket)), reliable_(reliable) {}

  [[nodiscard]] const char* name() const override {
    return reliable_ ? "Redis as a reliable queue" : "Redis list";
  }
  [[nodiscard]] std::vector<pid_t> servers() const override {
    return processes_named("redis-server");
  }

  void open_sender(std::uint32_t) override { out_ = std::make_unique<Wire>(socket_); }
  void open_receiver() override {
    in_ = std::make_unique<Wire>(socket_);
    out_ = std::make_unique<Wire>(socket_);
    if (reliable_) {
      for (std::uint32_t i = 0; i < kMoves; ++i)
        add_command(take_, {"BLMOVE", queue(), kWork, "LEFT", "RIGHT", "0"});
    } else {
      add_command(take_, {"BLMPOP", "0", "1", queue(), "LEFT", "COUNT", "512"});
    }
    in_->write(take_);
    take_.clear();
  }

  void receive(const Take& take) override {
    auto value = next_value(*in_);
    for (; !value; value = next_value(*in_)) in_->read(true);
    std::string removals;
    for (; value; value = next_value(*in_)) {
      for (std::size_t i = reliable_ ? 0 : 1; i < value->size(); ++i) take((*value)[i]);
      if (reliable_) {
        add_command(take_, {"BLMOVE", queue(), kWork, "LEFT", "RIGHT", "0"});
        add_command(removals, {"LREM", kWork, "1", value->front()});
        ++removals_open_;
      } else {
        add_command(take_, {"BLMPOP", "0", "1", queue(), "LEFT", "COUNT", "512"});
      }
    }
    // Removals on a connection of their own: a move that waits holds up what is behind it.
    out_->write(removals);
    in_->write(take_);
    take_.clear();
    if (removals_open_ > kMoves) removals_open_ -= wait();
  }

  void settle() override {
    while (removals_open_ > 0) removals_open_ -= wait();
  }

 protected:
  void put(Bodies bodies) override {
    std::string out;
    for (const auto& body : bodies) add_command(out, {"RPUSH", queue(), body});
    out_->write(out);
  }

  std::size_t wait() override {
    std::size_t answers = 0;
    for (out_->read(true); next_value(*out_);) ++answers;
    return answers;
  }

 private:
  // One for each kind: both have receivers that wait.
  [[nodiscard]] std::string queue() const {
    return kQueue + std::string(reliable_ ? "-moved" : "");
  }

  const std::string socket_;
  const bool reliable_;
  std::unique_ptr<Wire> out_, in_;
  std::string take_;
  std::size_t removals_open_ = 0;
};

}  // namespace

std::unique_ptr<Route> make_redis_route(std::string socket, bool reliable) {
  return std::make_unique<RedisRoute>(std::move(socket), reliable);
}

}  // namespace swarm::bench
