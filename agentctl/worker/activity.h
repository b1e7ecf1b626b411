// Signs of life of a command and of all that it has started, as far as they can be seen from
// outside: CPU time between two looks, and of one that gives none what it seems to wait for. Pure;
// process.h reads the values. (Output is a sign of life, too: TaskRun knows of it.)
//
// It is not: a judge of whether the work makes sense. Who computes is alive, who waits for its
// model for longer than the limit is not told from one that waits for ever.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "os/time.h"

namespace swarm::worker {

// Of one CPU, on average over the latest looks; less is no sign of life. Over several, because a
// coding CLI that hangs still wakes up: Claude Code and Codex use 0.1 to 0.5 %, and 3 to 8 % for
// some seconds every few minutes. As many looks as the limit has, within these.
inline constexpr double kIdleCpuShare = 0.02;
inline constexpr std::size_t kIdleLooksLeast = 10;
inline constexpr std::size_t kIdleLooksMost = 20;
// What a look counts at least that finds a process ready to run: who is found so at a third of them
// is starved of CPU; who is at one has just woken up on a busy machine.
inline constexpr double kStarvedCpuShare = 3 * kIdleCpuShare;
inline constexpr Milliseconds kCpuSampleMost{2000};
inline constexpr Milliseconds kCpuSampleLeast{100};
// Looks are a tenth of the shortest limit apart, within these two. Two looks that are further
// apart than so many times that: we were not running ourselves, and what nobody saw is no silence.
inline constexpr int kSampleGap = 5;

struct ProcessTime {
  pid_t pid = 0;
  unsigned long long start = 0;  // tells it from a former one with its number
  unsigned long long ticks = 0;  // of itself and of the children that it has waited for
  bool runnable = false;
};

// CPU time used since the last look, as a share of one CPU. A process that could run but gets no
// CPU (a busy machine) is not idle. The time of a child counts once more when its parent has waited
// for it: its end is a sign of life of its own.
class CpuMeter {
 public:
  explicit CpuMeter(double ticks_per_second) : ticks_per_second_(ticks_per_second) {}
  // 0..n (n CPUs busy). The first call measures nothing: 0.
  double sample(MonoTime now, const std::vector<ProcessTime>& processes);
  // The same look, judged together with the latest ones, `looks` in all, since the last sign of
  // life: is there one now?
  bool alive(MonoTime now, const std::vector<ProcessTime>& processes, std::size_t looks);
  void reset();

 private:
  struct Seen {
    unsigned long long start = 0;
    unsigned long long ticks = 0;
  };
  double ticks_per_second_;
  std::map<pid_t, Seen> seen_;
  MonoTime at_{};
  bool first_ = true;
  std::deque<double> looks_;  // none older than the last sign of life
};

// What is known of a command that gives no sign of life. What could not be read is empty or 0.
struct Stillness {
  bool result_printed = false;       // by what its own JSON says (--usage)
  std::string stopped{};             // "sh": is stopped by a signal
  std::string reader{};              // "cat": waits in read() …
  std::string read{};                // … of this: "its standard input", "the terminal /dev/pts/3"
  std::size_t connections = 0;       // of TCP, open, of all processes
  std::vector<std::string> peers{};  // of these, some: "10.0.0.7:443"
  std::size_t closed_by_peer = 0;    // the other side has closed them, the process has not
  friend bool operator==(const Stillness&, const Stillness&) = default;
};
inline constexpr std::size_t kMaxPeersNamed = 2;
inline constexpr std::size_t kMaxStillnessBytes = 200;  // of the words

// "its result is printed, but it does not exit; 1 TCP connection open, to 10.0.0.7:443"; "" when
// nothing is known. No times: the same state has the same words.
std::string words(const Stillness& still);

}  // namespace swarm::worker
