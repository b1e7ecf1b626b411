// round_driver: coordination rounds through sidecars beside a Redis list, on the stage that
// bench/round builds.
//
//   round_driver lease ADDRESS PORT CERTIFICATE KEY
//     serves what a coordinator wants from an API server (team_lease_server.h)
//   round_driver rounds PODS REDIS_SOCKET AGENTS ROUNDS
//     PODS/NAME/agent.sock are the sockets of coordinator-0 and worker-0 to worker-(AGENTS-1).
//     Prints a table and one JSON line.
//
// The two systems take turns, so that a busy machine slows both. Exit code 0: every message of
// every round arrived, once.
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>

#include "process_usage.h"
#include "side.h"
#include "team_lease_server.h"
#include "wire.h"

namespace swarm::bench {

// Text, so that it travels as it is in every protocol: "12 worker-7 xxxxx…".
std::string body_of(std::uint32_t round, std::uint32_t agent) {
  std::string out = std::to_string(round) + " worker-" + std::to_string(agent) + " ";
  out.resize(kBodyBytes, 'x');
  return out;
}

std::uint32_t agent_of(const std::string& body, std::uint32_t round, std::uint32_t agents) {
  const auto dash = body.find('-');
  std::uint32_t agent = agents;
  if (dash != std::string::npos)
    std::from_chars(body.data() + dash + 1, body.data() + body.size(), agent);
  if (agent >= agents || body != body_of(round, agent))
    fail("a reply that does not belong to this round");
  return agent;
}

namespace {

constexpr std::uint32_t kMaxAgents = 10'000;
constexpr std::uint32_t kInARow = 5, kMinRounds = 7, kMaxRounds = 1000;
constexpr std::uint32_t kForkedTogether = 32;
constexpr auto kReadyLimit = std::chrono::seconds(120);
constexpr std::uint32_t kPromisedAgents = 708;
constexpr double kMust = 1.0;  // of the peer's median
constexpr unsigned kIdleSeconds = 5;
// What follows the last reply of some rounds belongs to them, too.
constexpr useconds_t kPauseMicroseconds = 20'000;

struct Measured {
  std::unique_ptr<Side> side;
  Team team;
  std::vector<pid_t> agents, servers;  // servers: all that stands between the agents
  std::vector<pid_t> hub;              // of the servers: those through which every message goes
  std::vector<double> round_ms, reply_ms;
  Usage used_by_servers{}, used_by_agents{};
  double used_by_hub = 0, used_by_coordinator = 0;  // CPU seconds
};

// From what usage() said before and says now.
void add(Usage& sum, const std::vector<pid_t>& pids, const Usage& before) {
  const Usage now = usage(pids);
  sum.cpu_seconds += now.cpu_seconds - before.cpu_seconds;
  sum.wake_ups += now.wake_ups - before.wake_ups;
}

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const auto rank = static_cast<std::size_t>(std::ceil(q * static_cast<double>(values.size())));
  return values.at(std::max<std::size_t>(rank, 1) - 1);
}

Team make_team(std::uint32_t agents) {
  void* memory =
      ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  const int done = ::eventfd(0, EFD_CLOEXEC);
  if (memory == MAP_FAILED || done < 0) fail(std::string("shared memory: ") + std::strerror(errno));
  return {agents, new (memory) Board, done};
}

// An agent that gave up has said why; then there is nothing more to measure.
void check_alive() {
  if (::waitpid(-1, nullptr, WNOHANG) > 0) fail("an agent has ended");
}

void start_agents(Measured& m) {
  const auto deadline = Clock::now() + kReadyLimit;
  while (m.agents.size() < m.team.agents) {
    for (std::uint32_t i = 0; i < kForkedTogether && m.agents.size() < m.team.agents; ++i) {
      const auto number = static_cast<std::uint32_t>(m.agents.size());
      const pid_t parent = ::getpid();
      const pid_t pid = ::fork();
      if (pid < 0) fail(std::string("fork: ") + std::strerror(errno));
      if (pid == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != parent) ::_exit(1);
        m.side->agent(number);
      }
      m.agents.push_back(pid);
    }
    while (m.team.board->ready < m.agents.size()) {
      check_alive();
      if (Clock::now() > deadline)
        fail(std::string(m.side->name()) + ": the agents are not ready in time");
      ::usleep(5'000);
    }
  }
}

// `size` rounds in a row after one that does not count: the other system has just had the caches.
void rounds_in_a_row(Measured& m, std::uint32_t& number, std::uint32_t size) {
  std::vector<double> reply_ms;
  m.side->round(number++, reply_ms);
  const auto servers = usage(m.servers), agents = usage(m.agents);
  const double hub = cpu_seconds(m.hub), self = cpu_seconds({::getpid()});
  for (std::uint32_t i = 0; i < size; ++i) {
    reply_ms.clear();
    const auto start = Clock::now();
    m.side->round(number++, reply_ms);
    m.round_ms.push_back(milliseconds(Clock::now() - start));
    m.reply_ms.insert(m.reply_ms.end(), reply_ms.begin(), reply_ms.end());
  }
  m.used_by_coordinator += cpu_seconds({::getpid()}) - self;
  ::usleep(kPauseMicroseconds);
  check_alive();
  m.used_by_hub += cpu_seconds(m.hub) - hub;
  add(m.used_by_servers, m.servers, servers);
  add(m.used_by_agents, m.agents, agents);
}

nlohmann::json summary(const Measured& m) {
  const double messages = 2.0 * m.team.agents * static_cast<double>(m.round_ms.size());
  const auto rounded = [](double value) { return std::round(value * 1000) / 1000; };
  return {{"medianMs", rounded(quantile(m.round_ms, 0.5))},
          {"p99Ms", rounded(quantile(m.round_ms, 0.99))},
          {"minMs", rounded(quantile(m.round_ms, 0))},
          {"replyP50Ms", rounded(quantile(m.reply_ms, 0.5))},
          {"replyP99Ms", rounded(quantile(m.reply_ms, 0.99))},
          {"cpuMicrosecondsPerMessage",
           {{"all", rounded((m.used_by_servers.cpu_seconds + m.used_by_agents.cpu_seconds +
                             m.used_by_coordinator) *
                            1e6 / messages)},
            {"servers", rounded(m.used_by_servers.cpu_seconds * 1e6 / messages)},
            {"hub", rounded(m.used_by_hub * 1e6 / messages)},
            {"agents", rounded(m.used_by_agents.cpu_seconds * 1e6 / messages)},
            {"coordinator", rounded(m.used_by_coordinator * 1e6 / messages)}}},
          {"wakeUpsPerMessage",
           rounded(static_cast<double>(m.used_by_servers.wake_ups + m.used_by_agents.wake_ups) /
                   messages)},
          {"pssServersMb", rounded(pss_megabytes(m.servers))},
          {"pssAgentsMb", rounded(pss_megabytes(m.agents))}};
}

void print_rows(const nlohmann::json& us, const nlohmann::json& them) {
  const auto row = [&](const char* what, const char* pointer) {
    const nlohmann::json::json_pointer at(pointer);
    std::printf("  %-48s %10.1f %10.1f\n", what, us.at(at).get<double>(),
                them.at(at).get<double>());
  };
  std::printf("  %-48s %10s %10s\n", "", "sidecars", "Redis list");
  row("round, median, ms", "/medianMs");
  row("round, best", "/minMs");
  row("round, p99 (of few: nearly the worst)", "/p99Ms");
  row("one reply, p50, ms", "/replyP50Ms");
  row("one reply, p99", "/replyP99Ms");
  row("CPU per message, us", "/cpuMicrosecondsPerMessage/all");
  row("  of it sidecars or Redis", "/cpuMicrosecondsPerMessage/servers");
  row("    of it the coordinator's sidecar or Redis", "/cpuMicrosecondsPerMessage/hub");
  row("  of it agents", "/cpuMicrosecondsPerMessage/agents");
  row("  of it the coordinating agent", "/cpuMicrosecondsPerMessage/coordinator");
  row("wake-ups per message", "/wakeUpsPerMessage");
  row("memory (PSS) of sidecars or Redis, MiB", "/pssServersMb");
  row("memory (PSS) of agents, MiB", "/pssAgentsMb");
}

std::string text(const char* format, double a, double b, double c) {
  char out[160];
  std::snprintf(out, sizeof out, format, a, b, c);
  return out;
}

int rounds(const std::string& pods, const std::string& redis, std::uint32_t agents,
           std::uint32_t count) {
  Measured ours, theirs;
  ours.team = make_team(agents);
  theirs.team = make_team(agents);
  ours.side = make_mailbox_side(ours.team, pods);
  theirs.side = make_redis_side(theirs.team, redis);
  ours.servers = processes_named("swarm-sidecar");
  ours.hub = with_environment(ours.servers, "CFN_ROLE=coordinator");
  theirs.servers = theirs.hub = processes_named("redis-server");
  for (auto* m : {&ours, &theirs}) {
    if (m->hub.empty()) fail(std::string(m->side->name()) + ": no process runs");
    start_agents(*m);
  }
  // What the sidecars do when nobody asks for anything also runs beside the peer.
  const double idle = cpu_seconds(ours.servers);
  ::sleep(kIdleSeconds);
  const double idle_percent = 100 * (cpu_seconds(ours.servers) - idle) / kIdleSeconds;
  for (auto* m : {&ours, &theirs}) m->side->connect();
  std::uint32_t number = 0;
  for (std::uint32_t done = 0; done < count; done += kInARow) {
    const auto size = std::min(kInARow, count - done);
    for (auto* m : {&ours, &theirs}) rounds_in_a_row(*m, number, size);
  }

  const auto us = summary(ours), them = summary(theirs);
  const double ratio = us["medianMs"].get<double>() / them["medianMs"].get<double>();
  std::printf("%u agents, one process each; %u rounds, %u of either system in turn\n", agents,
              count, kInARow);
  print_rows(us, them);
  std::printf(
      "  ratio of the medians %.1f (bar: <= %.1f); all sidecars when idle: %.2f %% of one core\n",
      ratio, kMust, idle_percent);
  nlohmann::json line{{"bench", "round"},
                      {"n", agents},
                      {"ours", us["medianMs"]},
                      {"peer", "Redis list, unix socket"},
                      {"theirs", them["medianMs"]},
                      {"ratio", std::round(ratio * 100) / 100},
                      {"must", kMust},
                      {"ok", ratio <= kMust},
                      {"rounds", count},
                      {"sidecars", us},
                      {"redis", them},
                      {"idleCpuPercent", std::round(idle_percent * 100) / 100}};
  char date[32] = "";
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  std::strftime(date, sizeof date, "%Y-%m-%d", ::gmtime_r(&now, &utc));
  const char* commit = std::getenv("SWARM_COMMIT");
  line["date"] = date;
  line["commit"] = commit == nullptr ? "none" : commit;
  if (agents == kPromisedAgents) {
    line["promise"] =
        "A round of 708 agents, one process each, through their sidecars takes no longer than "
        "through a Redis list";
    line["command"] = "make bench ONLY=round";
    line["figure"] =
        text("%.1f x (%.0f ms beside %.1f ms)", ratio, us["medianMs"], them["medianMs"]);
    line["bar"] = text("<= %.1f x", kMust, 0, 0);
  }
  std::printf("%s\n", line.dump().c_str());
  return 0;  // the agents end with us: PR_SET_PDEATHSIG
}

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
}  // namespace swarm::bench

int main(int argc, char** argv) {
  using namespace swarm::bench;
  const std::string verb = argc > 1 ? argv[1] : "";
  if (verb == "lease" && argc == 6) {
    serve_team_lease(argv[2], static_cast<std::uint16_t>(number(argv[3], 1, 65535)), argv[4],
                     argv[5]);
  }
  if (verb == "rounds" && argc == 6) {
    return rounds(argv[2], argv[3], number(argv[4], 1, kMaxAgents),
                  number(argv[5], kMinRounds, kMaxRounds));
  }
  std::fputs(
      "usage: round_driver lease ADDRESS PORT CERTIFICATE KEY | rounds PODS REDIS_SOCKET AGENTS "
      "ROUNDS\n",
      stderr);
  return 2;
}
