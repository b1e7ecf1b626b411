#include "latency.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <nlohmann/json.hpp>
#include <optional>

#include "child.h"
#include "echo.h"
#include "process_usage.h"
#include "result.h"
#include "wire.h"

namespace swarm::bench {
namespace {

constexpr std::uint32_t kTurns = 9;
constexpr std::uint32_t kAsked = 500;  // a turn, after
constexpr std::uint32_t kWarm = 50;    // that do not count
constexpr std::size_t kBytes = 256;
constexpr int kCpu = 1;  // where everything runs when it is pinned

struct System {
  std::unique_ptr<Echo> echo;
  pid_t answerer = 0;
  std::vector<pid_t> all = {};  // servers and answerer
  std::vector<double> p50 = {}, samples = {};
  double cpu = 0, wake_ups = 0;
  std::optional<std::uint64_t> syscalls = {};  // of kAsked

  void start() {
    answerer = fork_child([&] { echo->answer_for_ever(); });
    echo->open_asker();
    all = echo->servers();
    all.push_back(answerer);
  }

  // In a turn that does not count: each of them is slower while they are counted.
  void count_syscalls(std::uint32_t& number) {
    const Syscalls calls(processes());
    std::vector<double> unused;
    for (std::uint32_t i = 0; i < kAsked; ++i) one(number, unused);
    check_children();
    syscalls = calls.count();
  }

  void turn(std::uint32_t& number) {
    std::vector<double> us;
    for (std::uint32_t i = 0; i < kWarm; ++i) one(number, us);
    us.clear();
    const auto before = usage(processes());
    for (std::uint32_t i = 0; i < kAsked; ++i) one(number, us);
    check_children();
    const auto now = usage(processes());
    cpu += now.cpu_seconds - before.cpu_seconds;
    wake_ups += static_cast<double>(now.wake_ups - before.wake_ups);
    p50.push_back(quantile(us, 0.5));
    samples.insert(samples.end(), us.begin(), us.end());
  }

  [[nodiscard]] nlohmann::json summary() const {
    const double messages = 2.0 * static_cast<double>(samples.size());
    nlohmann::json out{{"p50", rounded(median(p50))},
                       {"p99", rounded(quantile(samples, 0.99))},
                       {"p999", rounded(quantile(samples, 0.999))},
                       {"cpuMicrosecondsPerMessage", rounded(cpu * 1e6 / messages)},
                       {"wakeUpsPerMessage", rounded(wake_ups / messages)},
                       {"syscallsPerMessage", nullptr}};
    if (syscalls)
      out["syscallsPerMessage"] = rounded(static_cast<double>(*syscalls) / (2.0 * kAsked));
    return out;
  }

 private:
  [[nodiscard]] std::vector<pid_t> processes() const {
    auto out = all;
    out.push_back(::getpid());
    return out;
  }
  void one(std::uint32_t& number, std::vector<double>& us) const {
    std::string body = std::to_string(number++) + " ";
    body.resize(kBytes, 'x');
    const auto start = Clock::now();
    echo->ask(body);
    us.push_back(microseconds(Clock::now() - start));
    echo->after();
  }
};

void compare(System ours, System theirs, const std::string& what, bool pinned, double must,
             const std::string& promise) {
  System* systems[] = {&ours, &theirs};
  std::uint32_t number = 0;
  for (auto* s : systems) {
    s->start();
    if (!pinned) continue;
    pin(::getpid(), kCpu);
    for (const pid_t pid : s->all) pin(pid, kCpu);
  }
  for (auto* s : systems) s->count_syscalls(number);
  for (std::uint32_t turn = 0; turn < kTurns; ++turn) {
    for (auto* s : systems) s->turn(number);
  }
  std::printf("%s\n  %-28s %8s %8s %8s %10s %10s %10s\n", what.c_str(), "us", "p50", "p99", "p99.9",
              "CPU/msg", "syscalls", "wake-ups");
  for (auto* s : systems) {
    const auto sum = s->summary();
    const auto& calls = sum.at("syscallsPerMessage");
    std::printf("  %-28s %8.1f %8.1f %8.1f %10.1f %10s %10.2f\n", s->echo->name(),
                sum.at("p50").get<double>(), sum.at("p99").get<double>(),
                sum.at("p999").get<double>(), sum.at("cpuMicrosecondsPerMessage").get<double>(),
                calls.is_null() ? "-" : text("%.1f", calls.get<double>()).c_str(),
                sum.at("wakeUpsPerMessage").get<double>());
  }
  Comparison c{.bench = "latency",
               .what = what,
               .n = kTurns * kAsked,
               .ours = median(ours.p50),
               .peer = theirs.echo->name(),
               .theirs = median(theirs.p50),
               .unit = "us"};
  if (must > 0) {
    c.bar = Comparison::Bar::kAtMost;
    c.must = must;
    c.promise = promise;
  }
  print(c, {{"oursSummary", ours.summary()}, {"theirSummary", theirs.summary()}});
  for (const pid_t pid : ours.all) pin(pid, -1);
  // The next comparison has processes of its own; only the sidecars stay.
  auto children = theirs.all;
  children.push_back(ours.answerer);
  for (const pid_t pid : children) ::kill(pid, SIGSTOP);  // none is to see another one end
  for (const pid_t pid : children) ::kill(pid, SIGKILL);
  for (const pid_t pid : children) ::waitpid(pid, nullptr, 0);
  pin(::getpid(), -1);
}

}  // namespace

int latency(const Stage& stage) {
  int run = 0;
  for (const bool pinned : {true, false}) {
    const char* where = pinned ? ", one core" : "";
    const std::string directory = stage.directory + "/" + std::to_string(run++);
    compare(
        {make_mailbox_echo(stage.pods, false)}, {make_broker_echo(directory + "-broker.sock")},
        std::string("round trip, same pod") + where, pinned, pinned ? 1.5 : 0,
        "A message and its answer within one pod: at most 1.5 x a raw broker's ping-pong (p50)");
    compare(
        {make_mailbox_echo(stage.pods, true)}, {make_chain_echo(directory)},
        std::string("round trip, across pods") + where, pinned, pinned ? 1.5 : 0,
        "A message and its answer across pods: at most 1.5 x a raw socket-TCP-socket chain (p50)");
  }
  return 0;
}

}  // namespace swarm::bench
