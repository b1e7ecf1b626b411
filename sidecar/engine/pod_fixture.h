// What the tests of a pod's mail stand on: worker-0's mailbox over a log in memory, and a loop that
// the test turns. Test-only.
#pragma once

#include <gtest/gtest.h>

#include "engine/mail.h"
#include "sim/fake_directory.h"

namespace swarm::engine {

struct PodFixture : ::testing::Test {
  explicit PodFixture(std::uint32_t agents = 1, const mailbox::Limits& limits = {})
      : box({"worker-0"}, limits, agents) {
    config.name.value = "worker-0";
    config.agents_per_pod = agents;
    LogId id;
    id.bytes[0] = 1;
    log::Recovery recovery;
    auto opened = log::Log::open(
        directory, {.max_bytes = 8U << 20U}, id, [](const log::Record&) {}, &recovery);
    check(opened.ok(), "the log");
    log = *std::move(opened);
    loop.attach(*log);
    box.attach(*log, mono_now());
  }
  Config config;
  boost::asio::io_context io{1};
  Loop loop{io};
  sim::FakeDirectory directory{10U << 20U};
  std::unique_ptr<log::Log> log;
  mailbox::Mailbox box;
};

}  // namespace swarm::engine
