#include "drain.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "agent_wire.h"
#include "result.h"

namespace swarm::bench {
namespace {

constexpr int kEndMs = 60'000;
constexpr double kMustMs = 50;
constexpr std::size_t kBytes = 256;

std::string body(std::uint32_t run, std::uint32_t sequence) {
  std::string out = std::to_string(run) + " " + std::to_string(sequence) + " ";
  out.resize(kBytes, 'x');
  return out;
}

}  // namespace

int fill(const std::string& directory, std::uint32_t count, std::uint32_t run) {
  Wire wire(directory + "/agent.sock");
  wait_until_joined(wire, "worker-0");
  std::string out;
  for (std::uint32_t i = 0; i < count; ++i) {
    out.clear();
    add_send(out, i, "worker-1", body(run, i));
    wire.write(out);
    next_answer(wire, "the sender sends");
  }
  return 0;
}

int end(const Stage& stage, pid_t pid, std::uint32_t count, std::uint32_t run) {
  const int process = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (process < 0) fail(std::string("pidfd_open: ") + std::strerror(errno));
  const auto start = Clock::now();
  if (::kill(pid, SIGTERM) != 0) fail(std::string("SIGTERM: ") + std::strerror(errno));
  pollfd ended{process, POLLIN, 0};
  if (::poll(&ended, 1, kEndMs) != 1) fail("the sidecar has not ended in time");
  std::printf("%.1f\n", milliseconds(Clock::now() - start));

  Wire wire(stage.pods + "/worker-1/agent.sock");
  std::string out;
  for (std::uint32_t i = 0; i < count; ++i) {
    out.clear();
    add_receive(out, 1);
    wire.write(out);
    const Got got = next_answer(wire, "the receiver receives");
    if (got.body != body(run, i))
      fail("lost, repeated, altered or out of order: " + std::string(got.body.substr(0, 60)) +
           " instead of " + body(run, i).substr(0, 60));
    out.clear();
    add_ack(out, 2, got);
    wire.write(out);
    next_answer(wire, "the receiver acknowledges");
  }
  return 0;
}

int drained(std::uint32_t count, const std::vector<double>& ms) {
  print({.bench = "drain",
         .what = text("%u unread messages handed over", count),
         .n = static_cast<double>(count),
         .ours = median(ms),
         .peer = "50 ms",
         .theirs = kMustMs,
         .bar = Comparison::Bar::kAtMost,
         .must = 1,
         .promise = "A sidecar that holds 1,000 unread messages hands them over and ends within 50 "
                    "ms of SIGTERM"},
        {{"runs", ms.size()}, {"worst", quantile(ms, 1)}});
  return 0;
}

}  // namespace swarm::bench
