// bench-driver: what the scripts of this directory run on their stage (stage.sh).
//
//   bench-driver lease ADDRESS PORT CERTIFICATE KEY
//     serves what a coordinator wants from an API server (team_lease_server.h)
//   bench-driver rounds AGENTS ROUNDS | pair | burst SENDERS MESSAGES | latency
//     ours and the peers in turn, so that a busy machine slows all; tables and JSON lines.
//
//   bench-driver fill DIRECTORY MESSAGES RUN | end PID MESSAGES RUN | drained MESSAGES MS...
//     parts of the script drain
//
// Exit code 0: every message arrived, once, as it was sent.
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "drain.h"
#include "latency.h"
#include "rounds.h"
#include "team_lease_server.h"
#include "wire.h"

namespace {

using swarm::bench::fail;

std::uint32_t number(const char* text, std::uint32_t low, std::uint32_t high) {
  std::uint32_t out = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, out);
  if (error != std::errc() || stop != end || out < low || out > high) {
    fail(std::string(text) + ": a number from " + std::to_string(low) + " to " +
         std::to_string(high) + " is needed here");
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace swarm::bench;
  const std::string verb = argc > 1 ? argv[1] : "";
  const Stage stage;
  if (verb == "lease" && argc == 6) {
    serve_team_lease(argv[2], static_cast<std::uint16_t>(number(argv[3], 1, 65535)), argv[4],
                     argv[5]);
  }
  if (verb == "rounds" && argc == 4) {
    return rounds(stage, number(argv[2], 1, kMaxAgents), number(argv[3], kMinRounds, kMaxRounds));
  }
  if (verb == "pair" && argc == 2) return one_to_one(stage);
  if (verb == "burst" && argc == 4)
    return burst(stage, number(argv[2], 1, 100), number(argv[3], 100, 100'000));
  if (verb == "fill" && argc == 5)
    return fill(argv[2], number(argv[3], 1, 1000), number(argv[4], 0, 1000));
  if (verb == "end" && argc == 5) {
    return end(stage, static_cast<pid_t>(number(argv[2], 1, 1U << 30U)), number(argv[3], 1, 1000),
               number(argv[4], 0, 1000));
  }
  if (verb == "drained" && argc > 3) {
    std::vector<double> ms;
    for (int i = 3; i < argc; ++i) ms.push_back(std::stod(argv[i]));
    return drained(number(argv[2], 1, 1000), ms);
  }
  if (verb == "latency" && argc == 2) return latency(stage);
  std::fputs(
      "usage: bench-driver lease ADDRESS PORT CERTIFICATE KEY | rounds AGENTS ROUNDS | pair | "
      "burst SENDERS MESSAGES | latency | fill DIRECTORY MESSAGES RUN | end PID MESSAGES RUN | "
      "drained MESSAGES MS...\n",
      stderr);
  return 2;
}
