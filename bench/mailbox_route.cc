// Our route: agents that speak the socket protocol with the sidecars of their pods. A message is
// confirmed when two pods hold it.
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <utility>

#include "agent_wire.h"
#include "child.h"
#include "process_usage.h"
#include "route.h"

namespace swarm::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::uint64_t kOutbox = 1000;  // copies for one receiver; docs/configuration.md
constexpr auto kRoomLimit = std::chrono::seconds(30);
constexpr useconds_t kRoomPollMicroseconds = 100;

class MailboxRoute final : public Route {
 public:
  MailboxRoute(std::string pods, std::uint32_t senders)
      : pods_(std::move(pods)),
        recorded_(static_cast<std::atomic<std::uint64_t>*>(
            shared_memory((senders + 1) * sizeof(std::atomic<std::uint64_t>)))) {}

  [[nodiscard]] const char* name() const override { return "sidecars"; }
  [[nodiscard]] std::vector<pid_t> servers() const override {
    return processes_named("swarm-sidecar");
  }

  void open_sender(std::uint32_t number) override {
    number_ = number;
    out_ = open_worker(pods_, "worker-" + std::to_string(number));
  }
  void open_receiver() override {
    in_ = open_worker(pods_, "worker-0");
    acks_ = open_worker(pods_, "worker-0");
    std::string receives;
    for (std::uint32_t i = 0; i < kReceives; ++i) add_receive(receives, i);
    in_->write(receives);
  }

  void receive(const Take& take) override {
    std::string receives, acks;
    std::string_view line;
    // A receive is asked for again with each message: at most kReceives come at once.
    while (acks_open_ > kWindow - kReceives) read_acks();
    while (!in_->line(line)) in_->read(true);
    do {
      const Got got = parse_answer(line, "the receiver receives");
      take(got.body);
      add_ack(acks, number_of(got.from), got);
      add_receive(receives, got.rid);
      ++acks_open_;
    } while (acks_open_ < kWindow && in_->line(line));
    acks_->write(acks);
    in_->write(receives);
  }

  void settle() override {
    while (acks_open_ > 0) read_acks();
  }

 protected:
  [[nodiscard]] std::size_t window(std::size_t) const override { return kWindow; }

  void put(Bodies bodies) override {
    // Its copies are kept until the receiver has acknowledged; more are refused.
    sent_ += bodies.size();
    for (const auto deadline = Clock::now() + kRoomLimit; sent_ - recorded_[number_] > kOutbox;
         ::usleep(kRoomPollMicroseconds)) {
      if (Clock::now() > deadline) fail("the outbox is full for too long");
    }
    std::string out;
    for (const auto& body : bodies) add_send(out, 0, "worker-0", body);
    out_->write(out);
  }

  std::size_t wait() override {
    out_->read(true);
    std::size_t accepted = 0;
    for (std::string_view line; out_->line(line); ++accepted)
      parse_answer(line, "the sender sends");
    return accepted;
  }

 private:
  void read_acks() {
    acks_->read(true);
    for (std::string_view line; acks_->line(line); --acks_open_)
      ++recorded_[parse_answer(line, "the receiver acknowledges").rid];
  }

  static std::uint32_t number_of(std::string_view name) {
    std::uint32_t out = 0;
    name.remove_prefix(name.find('-') + 1);
    std::from_chars(name.data(), name.data() + name.size(), out);
    return out;
  }

  const std::string pods_;
  std::atomic<std::uint64_t>* const recorded_;  // acknowledgements, of each sender; shared
  std::uint32_t number_ = 0;
  std::uint64_t sent_ = 0;
  std::unique_ptr<Wire> out_, in_, acks_;
  std::size_t acks_open_ = 0;
};

}  // namespace

std::unique_ptr<Route> make_mailbox_route(std::string pods, std::uint32_t senders) {
  return std::make_unique<MailboxRoute>(std::move(pods), senders);
}

}  // namespace swarm::bench
