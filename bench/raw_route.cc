// The floors (raw.h). The receiver confirms the last message of each of the sender's calls.
#include <deque>
#include <utility>

#include "raw.h"
#include "route.h"

namespace swarm::bench {
namespace {

// A Channel reads and writes frames: a Wire to the broker, or segments.
template <typename Channel>
class RawRoute : public Route {
 public:
  [[nodiscard]] bool receiver_confirms() const override { return true; }

  void receive(const Take& take) override {
    RawFrame frame;
    while (!next(frame)) in_->read(true);
    do {
      take(frame.body);
      if (frame.head.flags != RawHead::kConfirm) continue;
      std::string out;
      add_frame(out, {.to = frame.head.from, .flags = RawHead::kConfirmed}, "");
      answer_to(frame.head.from).write(out);
    } while (next(frame));
  }

 protected:
  void put(Bodies bodies) override {
    std::string out;
    for (const auto& body : bodies)
      add_frame(out, {.from = number_, .flags = &body == &bodies.back() ? RawHead::kConfirm : 0U},
                body);
    out_->write(out);
    calls_.push_back(bodies.size());
  }

  std::size_t wait() override {
    RawFrame frame;
    while (!next(frame)) in_->read(true);
    const auto confirmed = calls_.front();
    calls_.pop_front();
    return confirmed;
  }

  virtual Channel& answer_to(std::uint32_t sender) = 0;

  std::uint32_t number_ = 0;
  Channel *out_ = nullptr, *in_ = nullptr;

 private:
  bool next(RawFrame& out) {
    if (!next_frame(in_->pending(), out)) return false;
    in_->take(sizeof out.head + out.head.bytes);
    return true;
  }

  std::deque<std::size_t> calls_;
};

class BrokerRoute final : public RawRoute<Wire> {
 public:
  explicit BrokerRoute(const std::string& socket)
      : socket_(socket), broker_(start_broker(socket)) {}

  [[nodiscard]] const char* name() const override { return "raw broker, unix socket"; }
  [[nodiscard]] std::vector<pid_t> servers() const override { return {broker_}; }
  void open_sender(std::uint32_t number) override {
    number_ = number;
    wire_ = std::make_unique<Wire>(socket_);
    out_ = in_ = &say_hello(*wire_, number);
  }
  void open_receiver() override { open_sender(0); }

 protected:
  Wire& answer_to(std::uint32_t) override { return *out_; }

 private:
  const std::string socket_;
  const pid_t broker_;
  std::unique_ptr<Wire> wire_;
};

class SegmentRoute final : public RawRoute<Segment> {
 public:
  SegmentRoute(const std::string& directory, std::uint32_t senders) {
    for (std::uint32_t i = 0; i <= senders; ++i)
      segments_.push_back(std::make_unique<Segment>(directory + "/segment-" + std::to_string(i)));
  }

  [[nodiscard]] const char* name() const override { return "raw segment and futex"; }
  [[nodiscard]] std::vector<pid_t> servers() const override { return {}; }
  void open_sender(std::uint32_t number) override {
    number_ = number;
    out_ = segments_.front().get();
    in_ = segments_.at(number).get();
  }
  void open_receiver() override { in_ = segments_.front().get(); }

 protected:
  Segment& answer_to(std::uint32_t sender) override { return *segments_.at(sender); }

 private:
  std::vector<std::unique_ptr<Segment>> segments_;
};

}  // namespace

std::unique_ptr<Route> make_broker_route(const std::string& socket) {
  return std::make_unique<BrokerRoute>(socket);
}

std::unique_ptr<Route> make_segment_route(const std::string& directory, std::uint32_t senders) {
  return std::make_unique<SegmentRoute>(directory, senders);
}

}  // namespace swarm::bench
