// Pods with links between them, over real sockets: each has an address of its own in 127.0.0.0/8,
// as each pod has; agents are calls. Test-only.
#pragma once

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <map>
#include <set>

#include "engine/handover.h"
#include "sim/fake_directory.h"

namespace swarm::engine {

using boost::asio::ip::tcp;
using boost::system::error_code;

inline constexpr Milliseconds kLong{20'000};

struct Pod;
struct Net {
  std::map<AgentName, Location> where;     // what the coordinator would say
  std::map<AgentName, std::string> nodes;  // … and on which node
  std::set<Pod*> pods;
};

struct Pod {
  struct Kind {
    mailbox::Limits limits = {};
    std::uint32_t agents = 1;
    bool knows_offers = true;  // it is of this release
    std::string node = {};     // empty: its own
  };
  Pod(Net& others, const std::string& name, std::uint8_t number, const Kind& kind)
      : net(others), box({name}, kind.limits, kind.agents) {
    config.name.value = name;
    config.agents_per_pod = kind.agents;
    config.max_inbox_messages = kind.limits.max_inbox_messages;
    config.pod = name + "-" + std::to_string(number);
    config.pod_ip = "127.0.0." + std::to_string(number);
    config.node = kind.node.empty() ? config.pod_ip : kind.node;
    config.node_durability = kind.limits.entrust;
    const tcp::endpoint endpoint(boost::asio::ip::make_address(config.pod_ip), 0);
    acceptor.open(endpoint.protocol());
    acceptor.bind(endpoint);
    acceptor.listen();
    LogId id;
    id.bytes.fill(number);
    log::Recovery recovery;
    log = *log::Log::open(
        directory, {.max_bytes = 32U << 20U}, id, [](const log::Record&) {}, &recovery);
    loop.attach(*log);
    box.attach(*log, mono_now());
    options.self = {"uid", config.name, config.pod, config.pod, config.node, config.pod_ip, id};
    options.secret = std::string(32, 's');
    options.standing = [] { return link::Standing{}; };
    mail = std::make_unique<Mail>(loop, box, config, options, finder());
    mail->candidates = [this](std::uint32_t, const Mail::OnCandidates& done) {
      std::vector<Candidate> all;
      for (const auto& [pod, node] : net.nodes) all.push_back({pod, node});
      done(all);
    };
    net.nodes[config.name] = config.node;
    accept(kind.knows_offers);
    net.pods.insert(this);
    net.where[config.name] = {config.pod_ip, acceptor.local_endpoint().port(), {config.name, id}};
  }
  ~Pod() { net.pods.erase(this); }
  Pod(const Pod&) = delete;
  Pod& operator=(const Pod&) = delete;
  std::function<void(const AgentName&, Located)> finder() {
    return [this](const AgentName& name, const Located& done) {
      const auto found = net.where.find(name);
      found == net.where.end() ? done(not_found("not here")) : done(found->second);
    };
  }
  void accept(bool knows_offers) {
    acceptor.async_accept([this, knows_offers](error_code e, tcp::socket socket) {
      if (e) return;
      Session::Events events;
      events.ready = [this](Session& from) { mail->session_up(from.shared_from_this()); };
      events.frame = [this, knows_offers](Session& from, const link::Frame& frame) {
        if (frame.type == link::FrameType::kHandover) ++offers;
        const bool keep = frame.type == link::FrameType::kKeep;
        if (keep) ++keeps;
        if (mute && (keep || frame.type == link::FrameType::kRelease)) return;
        const bool known = frame.type != link::FrameType::kHandover || knows_offers;
        if (!known || !mail->take(from, frame)) from.close(invalid("a frame that has no place"));
      };
      events.closed = [this](Session& from, const Error&) { mail->session_down(from); };
      inbound.push_back(Session::accept(loop, std::move(socket), options, std::move(events)));
      accept(knows_offers);
    });
  }
  void drain() {
    acceptor.close();
    box.stop_intake();
    mail->stop_blocking();
    for (const auto& session : inbound) session->close(unavailable("shutting down"));
    handover = std::make_unique<Handover>(loop, *mail, config, options, finder());
  }

  Net& net;
  boost::asio::io_context io{1};  // its own: all connections end with it
  Config config;
  Loop loop{io};
  tcp::acceptor acceptor{io};
  sim::FakeDirectory directory{64U << 20U};
  std::unique_ptr<log::Log> log;
  mailbox::Mailbox box;
  Session::Options options;
  std::unique_ptr<Mail> mail;
  std::unique_ptr<Handover> handover;
  std::vector<std::shared_ptr<Session>> inbound;
  std::size_t offers = 0, keeps = 0;  // that came
  bool mute = false;                  // a custodian that answers nothing but PING
};

struct LinkedPods : ::testing::Test {
  template <typename Done>
  bool run_until(Done done, Milliseconds limit = kLong) {
    const auto end = mono_now() + limit;
    while (!done() && mono_now() < end) {
      std::size_t ran = 0;
      for (Pod* pod : net.pods) {
        pod->io.restart();
        ran += pod->io.poll();
      }
      if (ran == 0) (*net.pods.begin())->io.run_one_for(Milliseconds{1});
    }
    return done();
  }
  // An agent of `at` takes the next message; its id.
  std::string receive(Pod& at, Milliseconds wait = kLong) {
    std::optional<Result<mailbox::Delivery>> got;
    at.mail->receive(at.config.name, wait, kLong, std::nullopt, nullptr,
                     [&](Result<mailbox::Delivery> delivery) { got = std::move(delivery); });
    EXPECT_TRUE(run_until([&] { return got.has_value(); }));
    return got && *got ? (*got)->message.id.value : "-";
  }
  // The answer to the ack of its first attempt, and how long it took.
  std::pair<Status, Milliseconds> ack(Pod& at, const std::string& id) {
    const auto begin = mono_now();
    std::optional<Status> answer;
    at.mail->ack(at.config.name, {id}, 1, Milliseconds{10'000},
                 [&](const Status& status) { answer = status; });
    EXPECT_TRUE(run_until([&] { return answer.has_value(); }));
    return {answer.value_or(internal_error("no answer")), mono_now() - begin};
  }
  static std::string id(std::size_t i) { return "job-" + std::to_string(1000 + i); }
  Net net;
};

}  // namespace swarm::engine
