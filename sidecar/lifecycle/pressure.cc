#include "lifecycle/pressure.h"

#include <algorithm>
#include <cmath>

namespace swarm::lifecycle {
namespace {

// What usage allows, without looking back.
int share_at(double level) {
  const double percent = level * 100;
  if (percent <= kTightenPercent) return 100;
  const double beyond = (percent - kTightenPercent) / (kTightestPercent - kTightenPercent);
  const double lost = std::min(1.0, beyond) * (100 - kLeastSharePercent);
  return 100 - static_cast<int>(std::ceil(lost));
}

}  // namespace

std::string_view resource_name(Resource resource) {
  switch (resource) {
    case Resource::kMemory:
      return "memory";
    case Resource::kDescriptors:
      return "descriptors";
    case Resource::kVolume:
      return "volume";
  }
  return "";
}

std::string_view shortage_of(Resource resource) {
  switch (resource) {
    case Resource::kMemory:
      return "its pod is short of memory";
    case Resource::kDescriptors:
      return "its pod is short of file descriptors";
    case Resource::kVolume:
      return "its pod's shared volume is nearly full";
  }
  return "";
}

os::Usage working_memory(const os::MemoryUsage& memory, const os::Usage& log) {
  if (memory.limit == 0) return {};
  // A limit that leaves nothing beside the log is not ours: then all of it counts.
  if (log.limit >= memory.limit) return {memory.anonymous + memory.shared, memory.limit};
  return {memory.anonymous + memory.shared - std::min(memory.shared, log.used),
          memory.limit - log.limit};
}

std::uint64_t share_of(std::uint64_t limit, int percent) {
  if (percent >= 100) return limit;
  const auto whole = limit / 100 * static_cast<std::uint64_t>(percent);
  return std::max<std::uint64_t>(1,
                                 whole + limit % 100 * static_cast<std::uint64_t>(percent) / 100);
}

void Pressure::observe(MonoTime now, Resource resource, const os::Usage& usage) {
  State& state = states_[static_cast<std::size_t>(resource)];
  state.level =
      usage.limit == 0
          ? 0
          : std::min(1.0, static_cast<double>(usage.used) / static_cast<double>(usage.limit));
  if (const int least = share_at(state.level); least < state.share) {
    state.share = least;
    state.changed_at = now;
    return;
  }
  const int relieved = share_at(state.level + kReliefPercent / 100.0);
  if (relieved <= state.share || now - state.changed_at < kRecoverPeriod) return;
  state.share = std::min(relieved, state.share + kRecoverPercent);
  state.changed_at = now;
}

double Pressure::level(Resource resource) const {
  return states_[static_cast<std::size_t>(resource)].level;
}

int Pressure::share(Resource resource) const {
  return states_[static_cast<std::size_t>(resource)].share;
}

Pressure::Tightest Pressure::tightest(std::initializer_list<Resource> resources) const {
  Tightest out;
  for (const Resource resource : resources) {
    if (share(resource) < out.percent) out = {share(resource), resource};
  }
  return out;
}

}  // namespace swarm::lifecycle
