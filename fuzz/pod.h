// A worker's pod that has nobody around it: log, mailbox, links and the agents' socket in one
// thread, on memory and on sockets of this process. Test-only.
#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <string>

#include "engine/agent_socket.h"
#include "engine/mail.h"
#include "engine/worker.h"
#include "sim/fake_directory.h"

namespace swarm::fuzz {

struct Pod {
  Pod() {
    config.name.value = "worker-0";
    config.agents_per_pod = 2;
    config.swarm = config.swarm_uid = "swarm";
    config.pod = "pod-0";
    config.node = "node";
    config.max_inbox_messages = 16;
    config.max_message_bytes = 1024;
    log = open([](const log::Record&) {});
    loop.attach(*log);
    box.attach(*log, mono_now());
  }

  std::unique_ptr<log::Log> open(const std::function<void(const log::Record&)>& visit) {
    LogId id;
    id.bytes.fill(1);
    auto opened = log::Log::open(directory, {.max_bytes = 8 * kSegment, .segment_bytes = kSegment},
                                 id, visit, nullptr);
    check(opened.ok(), "the log opens");
    return *std::move(opened);
  }

  // Runs what is ready until nothing is.
  void settle() {
    std::size_t idle = 0;
    for (std::size_t rounds = 0; idle < 2; ++rounds) {
      check(rounds < kMaxRounds, "the loop comes to rest");
      io.restart();
      idle = io.poll() == 0 ? idle + 1 : 0;
    }
  }

  static constexpr std::uint32_t kSegment = 8192;
  static constexpr std::size_t kMaxRounds = 100'000;
  engine::Config config;
  boost::asio::io_context io{1};
  engine::Loop loop{io};
  sim::FakeDirectory directory{1U << 20U};
  std::unique_ptr<log::Log> log;
  mailbox::Mailbox box{{"worker-0"}, {.max_inbox_messages = 16, .max_message_bytes = 1024}, 2};
  engine::Mail mail{loop, box, config, engine::Session::Options{},
                    [](const AgentName& name, const engine::Located& done) {
                      done(not_found(name.value + " is not connected now"));
                    }};
};

}  // namespace swarm::fuzz
