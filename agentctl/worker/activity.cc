#include "worker/activity.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "client/protocol.h"

namespace swarm::worker {

double CpuMeter::sample(MonoTime now, const std::vector<ProcessTime>& processes) {
  std::map<pid_t, Seen> seen;
  unsigned long long used = 0;
  bool runnable = false;
  for (const ProcessTime& process : processes) {
    runnable = runnable || process.runnable;
    const auto before = seen_.find(process.pid);
    const bool known = before != seen_.end() && before->second.start == process.start;
    const unsigned long long base = known ? before->second.ticks : 0;
    if (process.ticks > base) used += process.ticks - base;
    seen.emplace(process.pid, Seen{process.start, process.ticks});
  }
  const double seconds = static_cast<double>((now - at_).count()) / 1000.0;
  const bool first = std::exchange(first_, false);
  seen_ = std::move(seen);
  at_ = now;
  if (first || seconds <= 0) return 0;
  const double share = static_cast<double>(used) / ticks_per_second_ / seconds;
  return runnable ? std::max(share, kStarvedCpuShare) : share;
}

bool CpuMeter::alive(MonoTime now, const std::vector<ProcessTime>& processes, std::size_t looks) {
  looks_.push_back(sample(now, processes));
  while (looks_.size() > looks) looks_.pop_front();
  const double sum = std::accumulate(looks_.begin(), looks_.end(), 0.0);
  if (sum < kIdleCpuShare * static_cast<double>(looks)) return false;
  looks_.clear();
  return true;
}

void CpuMeter::reset() {
  seen_.clear();
  looks_.clear();
  first_ = true;
}

std::string words(const Stillness& still) {
  std::string out;
  const auto say = [&](const std::string& what) { out += (out.empty() ? "" : "; ") + what; };
  if (still.result_printed) say("its result is printed, but it does not exit");
  if (!still.reader.empty()) say(still.reader + " waits to read " + still.read);
  if (!still.stopped.empty()) say(still.stopped + " is stopped by a signal");
  if (still.connections > 0) {
    std::string peers;
    for (std::size_t i = 0; i < std::min(still.peers.size(), kMaxPeersNamed); ++i)
      peers += (i == 0 ? ", to " : ", ") + still.peers[i];
    say(std::to_string(still.connections) + " TCP connection" +
        (still.connections == 1 ? "" : "s") + " open" + peers);
  }
  if (still.closed_by_peer > 0)
    say(std::to_string(still.closed_by_peer) + " TCP connection" +
        (still.closed_by_peer == 1 ? "" : "s") + " that the other side has closed");
  return agent::printable(out, kMaxStillnessBytes);
}

}  // namespace swarm::worker
