// NATS. Core: nobody keeps anything; the server's PONG says that it has read what was published
// before. JetStream: a stream in memory confirms each message, the receiver acknowledges each.
#include <deque>

#include "nats.h"
#include "process_usage.h"
#include "route.h"

namespace swarm::bench {
namespace {

constexpr char kName[] = "one";  // of the consumer

class NatsRoute final : public Route {
 public:
  NatsRoute(std::uint16_t port, bool jetstream) : port_(port), jetstream_(jetstream) {
    if (!jetstream_) return;
    Nats nats(port_);
    make_stream(nats);
    make_consumer(nats, kName);
  }

  [[nodiscard]] const char* name() const override {
    return jetstream_ ? "NATS JetStream, memory" : "NATS core";
  }
  [[nodiscard]] std::vector<pid_t> servers() const override {
    return processes_named("nats-server");
  }

  void open_sender(std::uint32_t number) override {
    nats_ = std::make_unique<Nats>(port_);
    confirmations_ = "confirm." + std::to_string(number);
    if (jetstream_) nats_->subscribe(confirmations_);
    nats_->flush();
  }
  void open_receiver() override {
    nats_ = std::make_unique<Nats>(port_);
    nats_->subscribe(std::string(jetstream_ ? "d." : "core.") + kName);
    nats_->flush();
  }

  void receive(const Take& take) override {
    Nats::Message message;
    while (!nats_->next(message)) nats_->read(true);
    do {
      take(message.body);
      if (jetstream_) nats_->publish(message.reply, "+ACK");
    } while (nats_->next(message));
    nats_->flush();
  }

  void settle() override {  // the server has read the acknowledgements
    const auto before = nats_->pongs();
    nats_->ping();
    nats_->flush();
    Nats::Message message;
    while (nats_->pongs() == before) {
      nats_->read(true);
      if (nats_->next(message)) fail("nats: a message too many");
    }
  }

 protected:
  void put(Bodies bodies) override {
    const std::string subject = std::string(jetstream_ ? "j." : "core.") + kName;
    for (const auto& body : bodies)
      nats_->publish(subject, body, jetstream_ ? confirmations_ : std::string_view());
    if (!jetstream_) {
      nats_->ping();
      pinged_.push_back(bodies.size());
    }
    nats_->flush();
  }

  std::size_t wait() override {
    const auto before = nats_->pongs();
    std::size_t confirmed = 0;
    nats_->read(true);
    for (Nats::Message answer; nats_->next(answer); ++confirmed) {
      if (answer.body.find("\"error\"") != std::string_view::npos)
        fail("jetstream: " + std::string(answer.body.substr(0, 300)));
    }
    for (auto pongs = nats_->pongs() - before; pongs > 0 && !jetstream_; --pongs) {
      confirmed += pinged_.front();
      pinged_.pop_front();
    }
    return confirmed;
  }

 private:
  const std::uint16_t port_;
  const bool jetstream_;
  std::unique_ptr<Nats> nats_;
  std::string confirmations_;
  std::deque<std::size_t> pinged_;  // messages before each PING that was not answered
};

}  // namespace

std::unique_ptr<Route> make_nats_route(std::uint16_t port, bool jetstream) {
  return std::make_unique<NatsRoute>(port, jetstream);
}

}  // namespace swarm::bench
