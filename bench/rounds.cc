#include "rounds.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "child.h"
#include "process_usage.h"
#include "result.h"
#include "side.h"
#include "wire.h"

namespace swarm::bench {

// Text, so that it travels as it is in every protocol: "12 worker-7 xxxxx…".
std::string body_of(std::uint32_t round, std::uint32_t agent) {
  std::string out = std::to_string(round) + " worker-" + std::to_string(agent) + " ";
  out.resize(kBodyBytes, 'x');
  return out;
}

std::uint32_t agent_of(std::string_view body, std::uint32_t round, std::uint32_t agents) {
  const auto dash = body.find('-');
  std::uint32_t agent = agents;
  if (dash != std::string::npos)
    std::from_chars(body.data() + dash + 1, body.data() + body.size(), agent);
  if (agent >= agents || body != body_of(round, agent))
    fail("a reply that does not belong to this round");
  return agent;
}

namespace {

constexpr std::uint32_t kInARow = 5;
constexpr std::uint32_t kForkedTogether = 32;
constexpr auto kReadyLimit = std::chrono::seconds(120);
constexpr std::uint32_t kPromisedAgents = 708;
constexpr std::size_t kOurs = 2;  // systems: all in one pod, and each in its own
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

Team make_team(std::uint32_t agents) {
  const int done = ::eventfd(0, EFD_CLOEXEC);
  if (done < 0) fail(std::string("eventfd: ") + std::strerror(errno));
  return {agents, new (shared_memory(sizeof(Board))) Board, done};
}

void start_agents(Measured& m) {
  const auto deadline = Clock::now() + kReadyLimit;
  while (m.agents.size() < m.team.agents) {
    for (std::uint32_t i = 0; i < kForkedTogether && m.agents.size() < m.team.agents; ++i) {
      const auto number = static_cast<std::uint32_t>(m.agents.size());
      m.agents.push_back(fork_child([&] { m.side->agent(number); }));
    }
    while (m.team.board->ready < m.agents.size()) {
      check_children();
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
  check_children();
  m.used_by_hub += cpu_seconds(m.hub) - hub;
  add(m.used_by_servers, m.servers, servers);
  add(m.used_by_agents, m.agents, agents);
}

nlohmann::json summary(const Measured& m) {
  const double messages = 2.0 * m.team.agents * static_cast<double>(m.round_ms.size());
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

void print_rows(const std::vector<Measured>& systems, const std::vector<nlohmann::json>& sums) {
  std::printf("  %-44s", "");
  for (const auto& m : systems) std::printf(" %12.12s", m.side->name());
  const auto row = [&](const char* what, const char* pointer) {
    std::printf("\n  %-44s", what);
    for (const auto& sum : sums)
      std::printf(" %12.1f", sum.at(nlohmann::json::json_pointer(pointer)).get<double>());
  };
  row("round, median, ms", "/medianMs");
  row("round, best", "/minMs");
  row("round, p99 (of few: nearly the worst)", "/p99Ms");
  row("one reply, p50, ms", "/replyP50Ms");
  row("one reply, p99", "/replyP99Ms");
  row("CPU per message, us", "/cpuMicrosecondsPerMessage/all");
  row("  of it sidecars or servers", "/cpuMicrosecondsPerMessage/servers");
  row("    of it the coordinator's or the server", "/cpuMicrosecondsPerMessage/hub");
  row("  of it agents", "/cpuMicrosecondsPerMessage/agents");
  row("  of it the coordinating agent", "/cpuMicrosecondsPerMessage/coordinator");
  row("wake-ups per message", "/wakeUpsPerMessage");
  row("memory (PSS) of sidecars or servers, MiB", "/pssServersMb");
  row("memory (PSS) of agents, MiB", "/pssAgentsMb");
  std::printf("\n");
}

struct Bar {
  double must;
  const char* promise;
};
const std::map<std::string, Bar> kBars = {
    {"Redis list",
     {1.0,
      "A round of 708 agents, one process each, through the sidecar of their pod takes no longer "
      "than through a Redis list"}},
    {"NATS core",
     {0.6, "A round of 708 agents of a pod takes at most 0.6 x as long as through NATS core"}},
    {"JetStream",
     {0.2, "A round of 708 agents of a pod takes at most 0.2 x as long as through JetStream"}},
};

}  // namespace

int rounds(const Stage& stage, std::uint32_t agents, std::uint32_t count) {
  std::vector<Measured> systems(kOurs + 4);
  for (auto& m : systems) m.team = make_team(agents);
  systems[0].side = make_one_pod_side(systems[0].team, stage.pods);
  systems[1].side = make_mailbox_side(systems[1].team, stage.pods);
  systems[2].side = make_redis_side(systems[2].team, stage.redis);
  systems[3].side = make_nats_side(systems[3].team, stage.nats, false);
  systems[4].side = make_nats_side(systems[4].team, stage.nats, true);
  systems[5].side = make_broker_side(systems[5].team, stage.directory + "/broker.sock");
  for (auto& m : systems) {
    m.servers = m.side->servers();
    if (m.servers.empty()) fail(std::string(m.side->name()) + ": no process runs");
    m.hub = &m == &systems[1] ? with_environment(m.servers, "CFN_ROLE=coordinator") : m.servers;
    start_agents(m);
  }
  // What the sidecars do when nobody asks for anything also runs beside the peers.
  const auto used = [&](std::size_t i) { return cpu_seconds(systems[i].servers); };
  const double idle = used(1), idle_one = used(0);
  ::sleep(kIdleSeconds);
  const double idle_percent = 100 * (used(1) - idle) / kIdleSeconds;
  const double idle_one_percent = 100 * (used(0) - idle_one) / kIdleSeconds;
  for (auto& m : systems) m.side->connect();
  std::uint32_t number = 0;
  for (std::uint32_t done = 0; done < count; done += kInARow) {
    const auto size = std::min(kInARow, count - done);
    for (auto& m : systems) rounds_in_a_row(m, number, size);
  }

  std::vector<nlohmann::json> sums;
  for (const auto& m : systems) sums.push_back(summary(m));
  std::printf("%u agents, one process each; %u rounds, %u of each system in turn\n", agents, count,
              kInARow);
  print_rows(systems, sums);
  std::printf("  when idle: the one sidecar %.2f %%, all others %.2f %% of one core\n",
              idle_one_percent, idle_percent);
  for (std::size_t us = 0; us < kOurs; ++us) {
    for (std::size_t i = kOurs; i < systems.size(); ++i) {
      Comparison c{.bench = "round",
                   .what = text(us == 0 ? "round of %u in one pod" : "round of %u", agents),
                   .n = static_cast<double>(agents),
                   .ours = sums[us]["medianMs"],
                   .peer = systems[i].side->name(),
                   .theirs = sums[i]["medianMs"]};
      if (const auto bar = kBars.find(c.peer);
          us == 0 && bar != kBars.end() && agents == kPromisedAgents) {
        c.bar = Comparison::Bar::kAtMost;
        c.must = bar->second.must;
        c.promise = bar->second.promise;
      }
      print(c, {{"rounds", count},
                {"sidecars", sums[us]},
                {"theirSummary", sums[i]},
                {"idleCpuPercent", rounded(us == 0 ? idle_one_percent : idle_percent)}});
    }
  }
  return 0;  // the agents end with us
}

}  // namespace swarm::bench
