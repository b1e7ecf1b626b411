// simulate --runs=N --seed=S [--trace] [--least=K] [--json]: N worlds from seed S on;
// docs/simulation.md.
//
// The last line is the verdict: PASS, or FAIL with the first broken promise and how to replay it.
// --least: every pair of step and fault must have been met so often. --json: one line with the
// figures. With --trace, or SWARM_TRACE=1, each world tells what happens.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>

#include "simulator/world.h"

namespace {

using swarm::simulator::Matrix;
using swarm::simulator::Totals;
using swarm::simulator::World;

constexpr double kProgressSeconds = 10;

struct Options {
  std::uint64_t runs = 10'000, seed = 1, least = 0;
  bool trace = false, json = false;
};

std::optional<Options> parse(int argc, char** argv) {
  Options out;
  out.trace = std::getenv("SWARM_TRACE") != nullptr;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const auto equals = argument.find('=');
    const std::string_view name = argument.substr(0, equals);
    std::uint64_t* number = name == "--runs"    ? &out.runs
                            : name == "--seed"  ? &out.seed
                            : name == "--least" ? &out.least
                                                : nullptr;
    if (argument == "--trace") {
      out.trace = true;
    } else if (argument == "--json") {
      out.json = true;
    } else if (number != nullptr && equals != std::string_view::npos) {
      char* end = nullptr;
      *number = std::strtoull(argv[i] + equals + 1, &end, 10);
      if (end == argv[i] + equals + 1 || *end != '\0') return std::nullopt;
    } else {
      return std::nullopt;
    }
  }
  return out.runs > 0 ? std::optional(out) : std::nullopt;
}

// A check of the product's own ends the process: the verdict is told all the same.
std::uint64_t seed_now = 0, runs_done = 0;
void on_abort(int) {
  std::printf(
      "simulate: FAIL a check of the program itself, above; run %llu, replay: make simulate "
      "RUNS=1 SEED=%llu\n",
      static_cast<unsigned long long>(runs_done + 1), static_cast<unsigned long long>(seed_now));
  std::fflush(stdout);
  std::_Exit(1);
}

// Of this thread's core: what else the machine does is not ours.
double seconds_used() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

}  // namespace

int main(int argc, char** argv) {
  const auto options = parse(argc, argv);
  if (!options) {
    std::fprintf(stderr, "usage: simulate [--runs=N] [--seed=S] [--least=K] [--trace] [--json]\n");
    return 2;
  }
  for (const int signal : {SIGABRT, SIGSEGV}) std::signal(signal, on_abort);
  Totals totals;
  swarm::simulator::Trace trace;
  if (options->trace) trace = [](const std::string& line) { std::puts(line.c_str()); };
  double told = 0;
  for (; runs_done < options->runs; ++runs_done) {
    seed_now = options->seed + runs_done;
    const std::string broken = World(seed_now, totals, trace).run();
    if (!broken.empty()) {
      std::printf("simulate: FAIL %s; run %llu, replay: make simulate RUNS=1 SEED=%llu\n",
                  broken.c_str(), static_cast<unsigned long long>(runs_done + 1),
                  static_cast<unsigned long long>(seed_now));
      return 1;
    }
    if (const double now = seconds_used(); now - told >= kProgressSeconds) {
      told = now;
      std::printf("%llu worlds of %llu, %.1f million events\n",
                  static_cast<unsigned long long>(runs_done + 1),
                  static_cast<unsigned long long>(options->runs),
                  static_cast<double>(totals.events) / 1e6);
      std::fflush(stdout);
    }
  }
  const double took = seconds_used();
  const double rate = static_cast<double>(totals.events) / took;
  const Matrix::Least least = totals.matrix.least();
  std::printf("How often each fault met each step:\n%s", totals.matrix.table().c_str());
  std::printf(
      "messages accepted %llu, refused %llu, acked %llu, dead letters ended %llu, redriven %llu; "
      "processes started %llu, logs wiped %llu, successors %llu, records copied forward %llu, "
      "bytes damaged %llu, pods drained %llu, messages handed over %llu, given back %llu, "
      "successors full %llu, of another release's version %llu, with a shared body %llu\n",
      static_cast<unsigned long long>(totals.accepted),
      static_cast<unsigned long long>(totals.refused), static_cast<unsigned long long>(totals.acks),
      static_cast<unsigned long long>(totals.dead),
      static_cast<unsigned long long>(totals.redriven),
      static_cast<unsigned long long>(totals.restarts),
      static_cast<unsigned long long>(totals.wipes),
      static_cast<unsigned long long>(totals.successors),
      static_cast<unsigned long long>(totals.copied),
      static_cast<unsigned long long>(totals.damages),
      static_cast<unsigned long long>(totals.retired),
      static_cast<unsigned long long>(totals.handed_over),
      static_cast<unsigned long long>(totals.given_back),
      static_cast<unsigned long long>(totals.no_room),
      static_cast<unsigned long long>(totals.unknown),
      static_cast<unsigned long long>(totals.shared));
  if (!options->trace) {  // a trace is the same each time
    std::printf("%.1f s of one core, %.2f million events a second\n", took, rate / 1e6);
  }
  if (options->json) {
    std::printf("{\"events\":%llu,\"rate\":%.0f,\"least\":%llu,\"step\":\"%s\",\"fault\":\"%s\"}\n",
                static_cast<unsigned long long>(totals.events), rate,
                static_cast<unsigned long long>(least.met), name_of(least.step),
                name_of(least.fault));
  }
  const bool enough = least.met >= options->least;
  std::printf("simulate: %s %llu worlds, %llu events; the rarest pair %llu times: %s at %s%s\n",
              enough ? "PASS" : "FAIL", static_cast<unsigned long long>(runs_done),
              static_cast<unsigned long long>(totals.events),
              static_cast<unsigned long long>(least.met), name_of(least.fault), name_of(least.step),
              enough ? "" : ", which is too rare");
  return enough ? 0 : 1;
}
