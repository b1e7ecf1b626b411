#include "echo.h"

#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "agent_wire.h"
#include "child.h"
#include "process_usage.h"
#include "raw.h"

namespace swarm::bench {
namespace {

constexpr std::uint32_t kAsker = 1, kAnswerer = 0;
constexpr std::uint16_t kRelayPort = 7999;
constexpr char kReceiverAddress[] = "10.70.1.1";  // of worker-0, as stage.sh counts

class MailboxEcho final : public Echo {
 public:
  MailboxEcho(std::string pods, bool across) : pods_(std::move(pods)), across_(across) {}

  [[nodiscard]] const char* name() const override { return "sidecar"; }
  [[nodiscard]] std::vector<pid_t> servers() const override {
    return processes_named("swarm-sidecar");
  }

  void open_asker() override { wire_ = open_worker(pods_, across_ ? "worker-1" : "worker-0.1"); }

  void ask(const std::string& body) override {
    out_.clear();
    add_request(out_, 1, "worker-0", body);
    wire_->write(out_);
    const Got got = next_answer(*wire_, "the asker asks");
    if (got.body != body) fail("an answer that is not what was asked");
    out_.clear();
    add_ack(out_, 2, got);
  }

  void after() override {
    wire_->write(out_);
    next_answer(*wire_, "the asker acknowledges");
  }

  [[noreturn]] void answer_for_ever() override {
    const auto wire = open_worker(pods_, "worker-0");
    std::string receive, reply;
    add_receive(receive, 1);
    wire->write(receive);
    while (true) {
      reply.clear();
      add_echo(reply, 2, next_answer(*wire, "the answerer receives"));
      wire->write(reply);
      next_answer(*wire, "the answerer replies and acknowledges");
      wire->write(receive);
    }
  }

 private:
  const std::string pods_;
  const bool across_;
  std::unique_ptr<Wire> wire_;
  std::string out_;
};

class RawEcho : public Echo {
 public:
  void ask(const std::string& body) override {
    out_.clear();
    add_frame(out_, {.to = kAnswerer, .from = kAsker}, body);
    wire_->write(out_);
    if (next(*wire_).body != body) fail("an answer that is not what was asked");
  }

 protected:
  [[noreturn]] static void echo(Wire& wire) {
    std::string out;
    while (true) {
      const RawFrame frame = next(wire);
      out.clear();
      add_frame(out, {.to = frame.head.from, .from = kAnswerer}, frame.body);
      wire.write(out);
    }
  }
  std::unique_ptr<Wire> wire_;

 private:
  static RawFrame next(Wire& wire) {
    RawFrame out;
    while (!next_frame(wire, out)) wire.read(true);
    return out;
  }
  std::string out_;
};

class BrokerEcho final : public RawEcho {
 public:
  explicit BrokerEcho(const std::string& socket) : socket_(socket), broker_(start_broker(socket)) {}

  [[nodiscard]] const char* name() const override { return "raw broker, unix socket"; }
  [[nodiscard]] std::vector<pid_t> servers() const override { return {broker_}; }
  void open_asker() override {
    wire_ = std::make_unique<Wire>(socket_);
    say_hello(*wire_, kAsker);
  }
  [[noreturn]] void answer_for_ever() override {
    Wire wire(socket_);
    echo(say_hello(wire, kAnswerer));
  }

 private:
  const std::string socket_;
  const pid_t broker_;
};

class ChainEcho final : public RawEcho {
 public:
  explicit ChainEcho(const std::string& prefix)
      : asker_(prefix + "-asker.sock"),
        answerer_(prefix + "-answerer.sock"),
        listener_(listen_unix(answerer_)) {
    const int near = listen_unix(asker_);
    int ready[2];
    if (::pipe(ready) != 0) fail("pipe");
    // Network namespaces belong to threads: only children change theirs.
    relays_.push_back(fork_child([&] {
      enter_network("/run/netns/p0");
      const int far = listen_tcp(kRelayPort);
      if (::write(ready[1], "x", 1) != 1) fail("pipe");
      relay_one(far, answerer_, "", 0);
    }));
    char listens = 0;
    if (::read(ready[0], &listens, 1) != 1) fail("pipe");
    relays_.push_back(fork_child([&] {
      enter_network("/run/netns/p1");
      relay_one(near, "", kReceiverAddress, kRelayPort);
    }));
  }

  [[nodiscard]] const char* name() const override { return "raw socket-TCP-socket chain"; }
  [[nodiscard]] std::vector<pid_t> servers() const override { return relays_; }
  void open_asker() override { wire_ = std::make_unique<Wire>(asker_); }
  [[noreturn]] void answer_for_ever() override {
    Wire wire(::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC), "chain");
    echo(wire);
  }

 private:
  const std::string asker_, answerer_;
  const int listener_;
  std::vector<pid_t> relays_;
};

}  // namespace

std::unique_ptr<Echo> make_mailbox_echo(std::string pods, bool across) {
  return std::make_unique<MailboxEcho>(std::move(pods), across);
}

std::unique_ptr<Echo> make_broker_echo(const std::string& socket) {
  return std::make_unique<BrokerEcho>(socket);
}

std::unique_ptr<Echo> make_chain_echo(const std::string& prefix) {
  return std::make_unique<ChainEcho>(prefix);
}

}  // namespace swarm::bench
