#include "pair.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>

#include "child.h"
#include "process_usage.h"
#include "result.h"
#include "route.h"
#include "wire.h"

namespace swarm::bench {
namespace {

constexpr std::uint32_t kRuns = 7;  // that count, of each system
constexpr double kRunSeconds = 0.25;
constexpr std::uint32_t kMinMessages = 200, kMaxMessages = 400'000, kFirstMessages = 200;
constexpr std::size_t kMaxRunBytes = 256U << 20U;
constexpr int kRunLimitMs = 60'000;
constexpr std::uint32_t kPipelined = 64;  // bodies a call
constexpr useconds_t kPauseMicroseconds =
    5'000;  // what follows the last message belongs to it, too

struct Command {
  std::uint32_t run = 0, count = 0, bytes = 0;  // count: of each sender
  std::uint32_t a_call = 1;                     // bodies that a sender gives away at a time
  bool await_calls = false;                     // and then waits for their confirmation
};

// "run sender sequence xxxxx…": text, so that it travels as it is in every protocol.
void write_body(std::string& out, const Command& c, std::uint32_t sender, std::uint32_t sequence) {
  out = std::to_string(c.run) + " " + std::to_string(sender) + " " + std::to_string(sequence) + " ";
  out.resize(std::max<std::size_t>(c.bytes, out.size()), 'x');
}

class Process {
 public:
  explicit Process(const std::function<void(Process&)>& life) {
    if (::pipe(commands_) != 0 || ::pipe(reports_) != 0) fail("pipe");
    pid_ = fork_child([&] { life(*this); });
    ::close(commands_[0]);
    ::close(reports_[1]);
  }
  // The child's side.
  [[nodiscard]] Command next() const { return get<Command>(commands_[0]); }
  void report() const { put(reports_[1], 'x'); }
  // The parent's.
  void start(const Command& c) const { put(commands_[1], c); }
  void await() const {
    pollfd ready{reports_[0], POLLIN, 0};
    if (::poll(&ready, 1, kRunLimitMs) != 1) fail("a run of the benchmark is not over in time");
    (void)get<char>(reports_[0]);
  }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  template <typename T>
  static T get(int fd) {
    T out;
    if (::read(fd, &out, sizeof out) != sizeof out) fail("a process of the benchmark has ended");
    return out;
  }
  template <typename T>
  static void put(int fd, const T& value) {
    if (::write(fd, &value, sizeof value) != sizeof value) fail("pipe");
  }
  pid_t pid_ = 0;
  int commands_[2] = {}, reports_[2] = {};
};

[[noreturn]] void send_for_ever(Route& route, std::uint32_t number, Process& self) {
  route.open_sender(number);
  self.report();
  std::vector<std::string> bodies;
  while (true) {
    const Command c = self.next();
    for (std::uint32_t sent = 0; sent < c.count;) {
      const auto size = std::min(c.a_call, c.count - sent);
      bodies.resize(size);
      for (auto& body : bodies) write_body(body, c, number, sent++);
      route.send(bodies);
      if (c.await_calls) route.await_confirmed();
    }
    // Twice: when it is where the system keeps it, and when it is confirmed.
    if (!route.receiver_confirms()) route.await_confirmed();
    self.report();
    route.await_confirmed();
    self.report();
  }
}

// Every message once, as it was sent, each sender's in its order.
[[noreturn]] void receive_for_ever(Route& route, std::uint32_t senders, Process& self) {
  route.open_receiver();
  self.report();
  std::string expected;
  while (true) {
    const Command c = self.next();
    std::vector<std::uint32_t> next(senders + 1, 0);
    std::uint32_t left = c.count * senders;
    while (left > 0) {
      route.receive([&](std::string_view body) {
        std::uint32_t sender = 0;
        const auto space = body.find(' ');
        if (space != std::string_view::npos)
          std::from_chars(body.data() + space + 1, body.data() + body.size(), sender);
        if (sender == 0 || sender > senders || left == 0)
          fail(std::string(route.name()) +
               ": a message too many: " + std::string(body.substr(0, 60)));
        write_body(expected, c, sender, next[sender]++);
        if (body != expected)
          fail(std::string(route.name()) + ": lost, repeated, altered or out of order: " +
               std::string(body.substr(0, 60)) + " instead of " + expected.substr(0, 60));
        --left;
      });
    }
    route.settle();
    self.report();
  }
}

struct Work {
  const char* name;
  std::uint32_t a_call;
  bool await_calls;
};

struct System {
  std::unique_ptr<Route> route;
  std::vector<Process> senders = {}, receiver = {};
  std::vector<pid_t> servers = {}, agents = {};

  void start(std::uint32_t count) {
    for (std::uint32_t i = 0; i <= count; ++i) {  // the receiver first: somebody has to listen
      auto& list = i == 0 ? receiver : senders;
      list.emplace_back([&](Process& self) {
        i == 0 ? receive_for_ever(*route, count, self) : send_for_ever(*route, i, self);
      });
      list.back().await();
      agents.push_back(list.back().pid());
    }
    servers = route->servers();
  }
};

struct Samples {
  std::uint32_t count = 0;  // messages a run, of each sender
  std::vector<double> seconds = {};
  double messages = 0, cpu_servers = 0, cpu_agents = 0, wake_ups = 0, syscalls = 0;
  bool syscalls_known = true;
};

// Returns the seconds from giving the command to the last confirmation and acknowledgement.
// `fill_first`: the receiver begins when everything is sent.
double run(System& s, const Command& c, bool fill_first) {
  const auto start = Clock::now();
  if (!fill_first) s.receiver.front().start(c);
  for (const auto& sender : s.senders) sender.start(c);
  for (const auto& sender : s.senders) sender.await();
  if (fill_first) s.receiver.front().start(c);
  for (const auto& sender : s.senders) sender.await();
  s.receiver.front().await();
  return seconds(Clock::now() - start);
}

// In a turn of its own: that they are counted makes each of them slower.
void count_syscalls(System& s, Samples& m, const Command& c, bool fill_first) {
  auto all = s.servers;
  all.insert(all.end(), s.agents.begin(), s.agents.end());
  const Syscalls syscalls(all);
  (void)run(s, c, fill_first);
  ::usleep(kPauseMicroseconds);
  const auto calls = syscalls.count();
  m.syscalls_known = calls.has_value();
  m.syscalls = static_cast<double>(calls.value_or(0)) /
               (static_cast<double>(c.count) * static_cast<double>(s.senders.size()));
}

void measure(System& s, Samples& m, const Command& c, bool fill_first) {
  const auto servers = usage(s.servers), agents = usage(s.agents);
  m.seconds.push_back(run(s, c, fill_first));
  ::usleep(kPauseMicroseconds);
  m.messages += static_cast<double>(c.count) * static_cast<double>(s.senders.size());
  const auto servers_now = usage(s.servers), agents_now = usage(s.agents);
  m.cpu_servers += servers_now.cpu_seconds - servers.cpu_seconds;
  m.cpu_agents += agents_now.cpu_seconds - agents.cpu_seconds;
  m.wake_ups += static_cast<double>(servers_now.wake_ups + agents_now.wake_ups - servers.wake_ups -
                                    agents.wake_ups);
}

nlohmann::json details(const Samples& m) {
  nlohmann::json out{
      {"cpuMicroseconds", rounded((m.cpu_servers + m.cpu_agents) * 1e6 / m.messages)},
      {"cpuMicrosecondsServers", rounded(m.cpu_servers * 1e6 / m.messages)},
      {"wakeUps", rounded(m.wake_ups / m.messages)},
      {"syscalls", nullptr}};
  if (m.syscalls_known) out["syscalls"] = rounded(m.syscalls);
  return out;
}

void print_table(const std::string& title, const char* figure, const std::vector<System>& systems,
                 const std::vector<Samples>& samples, const std::vector<double>& figures) {
  std::printf("%s\n  %-28s %12s %10s %12s %10s %10s\n", title.c_str(), "", figure, "CPU us",
              "of servers", "syscalls", "wake-ups");
  for (std::size_t i = 0; i < systems.size(); ++i) {
    const auto& m = samples[i];
    std::printf("  %-28s %12.1f %10.2f %12.2f %10s %10.3f\n", systems[i].route->name(), figures[i],
                (m.cpu_servers + m.cpu_agents) * 1e6 / m.messages, m.cpu_servers * 1e6 / m.messages,
                m.syscalls_known ? text("%.2f", m.syscalls).c_str() : "-", m.wake_ups / m.messages);
  }
}

std::vector<System> make_systems(const Stage& stage, std::uint32_t senders) {
  std::vector<System> out;
  out.push_back({make_mailbox_route(stage.pods, senders)});
  out.push_back({make_nats_route(stage.nats, true)});
  out.push_back({make_nats_route(stage.nats, false)});
  out.push_back({make_redis_route(stage.redis, false)});
  out.push_back({make_redis_route(stage.redis, true)});
  out.push_back({make_zmq_route("ipc://" + stage.directory + "/zmq.sock")});
  out.push_back({make_broker_route(stage.directory + "/broker.sock")});
  out.push_back({make_segment_route(stage.directory, senders)});
  for (auto& system : out) system.start(senders);
  return out;
}

using Bars = std::map<std::string, std::pair<double, std::string>>;  // by peer

// Messages per second of one kind of work: one JSON line for each peer.
void rates(std::vector<System>& systems, std::uint32_t& number, const Work& work,
           std::uint32_t bytes, const Bars& bars) {
  std::vector<Samples> samples(systems.size());
  const auto most = std::min<std::size_t>(kMaxMessages, kMaxRunBytes / bytes);
  for (std::uint32_t turn = 0; turn <= kRuns + 1; ++turn) {
    for (std::size_t i = 0; i < systems.size(); ++i) {
      auto& m = samples[i];
      Command c{++number, m.count, bytes, work.a_call, work.await_calls};
      if (turn > kRuns) {
        count_syscalls(systems[i], m, c, false);
        continue;
      }
      if (turn > 0) {
        measure(systems[i], m, c, false);
        continue;
      }
      // Tells how many make a run of kRunSeconds; the first try is short of warm caches.
      for (const std::uint32_t tries : {kFirstMessages, 5 * kFirstMessages}) {
        c.count = m.count = tries;
        c.run = ++number;
        const double fit = tries * kRunSeconds / run(systems[i], c, false);
        m.count = static_cast<std::uint32_t>(
            std::clamp<double>(fit, kMinMessages, static_cast<double>(most)));
        if (m.count < 5 * kFirstMessages) break;
      }
    }
  }
  std::vector<double> rate;
  for (const auto& m : samples) rate.push_back(m.count / median(m.seconds));
  const std::string what = std::string(work.name) + ", " + std::to_string(bytes) + " B";
  print_table(what, "messages/s", systems, samples, rate);
  for (std::size_t i = 1; i < systems.size(); ++i) {
    Comparison c{.bench = "pair",
                 .what = what,
                 .n = static_cast<double>(samples[0].count),
                 .ours = rate[0],
                 .peer = systems[i].route->name(),
                 .theirs = rate[i],
                 .unit = "messages/s"};
    if (const auto bar = bars.find(c.peer); bar != bars.end()) {
      c.bar = Comparison::Bar::kAtLeast;
      c.must = bar->second.first;
      c.promise = bar->second.second;
    }
    print(c, {{"runs", kRuns},
              {"oursPerMessage", details(samples[0])},
              {"theirsPerMessage", details(samples[i])}});
  }
}

}  // namespace

int one_to_one(const Stage& stage) {
  auto systems = make_systems(stage, 1);
  std::uint32_t number = 0;
  const Work pipelined{"pipelined", kPipelined, false}, each{"waiting for each", 1, true},
      batches{"batches of 100", 100, true};
  for (const std::uint32_t bytes : {256U, 4096U, 65536U}) {
    Bars bars;
    if (bytes == 256) {
      bars = {
          {"NATS JetStream, memory",
           {4, "One sender, one receiver in two pods, pipelined: at least 4 x JetStream"}},
          {"Redis as a reliable queue",
           {2, "One sender, one receiver in two pods: at least 2 x Redis as a reliable queue"}}};
    }
    rates(systems, number, pipelined, bytes, bars);
  }
  rates(systems, number, each, 256,
        {{"raw broker, unix socket",
          {0.6, "Waiting for each message: at least 0.6 x a raw broker's ping-pong"}}});
  rates(systems, number, batches, 256,
        {{"NATS core", {1, "Batches of 100: at least NATS core's rate"}}});
  return 0;
}

int burst(const Stage& stage, unsigned senders, unsigned messages) {
  auto systems = make_systems(stage, senders);
  std::vector<Samples> samples(systems.size());
  std::uint32_t number = 0;
  for (std::uint32_t turn = 0; turn <= kRuns + 1; ++turn) {
    for (std::size_t i = 0; i < systems.size(); ++i) {
      auto& m = samples[i];
      m.count = messages / senders;
      const Command c{++number, m.count, 256, kPipelined, false};
      if (turn > kRuns)
        count_syscalls(systems[i], m, c, true);
      else if (turn > 0)
        measure(systems[i], m, c, true);
      else
        (void)run(systems[i], c, true);
    }
  }
  std::vector<double> ms;
  for (const auto& m : samples) ms.push_back(1e3 * median(m.seconds));
  print_table(text("burst of %u messages from %u senders to one inbox", messages, senders), "ms",
              systems, samples, ms);
  for (std::size_t i = 1; i < systems.size(); ++i) {
    Comparison c{.bench = "burst",
                 .what = text("%u to one inbox", messages),
                 .n = static_cast<double>(messages),
                 .ours = ms[0],
                 .peer = systems[i].route->name(),
                 .theirs = ms[i]};
    if (i == 1) {
      c.bar = Comparison::Bar::kAtMost;
      c.must = 0.5;
      c.promise =
          "A burst of 10,000 messages to one inbox takes at most half as long as with JetStream";
    }
    print(c, {{"runs", kRuns},
              {"oursPerMessage", details(samples[0])},
              {"theirsPerMessage", details(samples[i])}});
  }
  return 0;
}

}  // namespace swarm::bench
