// How short a pod is of memory, descriptors and room on its shared volume, and what share of its
// limits it grants for as long as that lasts. No clock, I/O or threads.
//
// Up to kTightenPercent of a resource in use nothing happens; above, its share falls in a line to
// kLeastSharePercent at kTightestPercent. It falls at once, and rises by kRecoverPercent every
// kRecoverPeriod, only as far as usage that were kReliefPercent higher would allow: usage that
// moves within such a band moves no limit. A share is never 0, and the whole again once usage was
// below kTightenPercent - kReliefPercent for some seconds. A resource without a known limit is not
// short.
//
// What follows is the shell's: this class refuses nobody.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "os/time.h"
#include "os/usage.h"

namespace swarm::lifecycle {

enum class Resource : std::uint8_t { kMemory, kDescriptors, kVolume };
inline constexpr std::array kResources{Resource::kMemory, Resource::kDescriptors,
                                       Resource::kVolume};
std::string_view resource_name(Resource resource);  // of metrics and logs
// For senders: "its pod is short of memory".
std::string_view shortage_of(Resource resource);

inline constexpr int kTightenPercent = 75, kTightestPercent = 95;  // of a resource
inline constexpr int kLeastSharePercent = 10;                      // of a limit
inline constexpr int kReliefPercent = 5;                           // of a resource
inline constexpr int kRecoverPercent = 10;                         // of a limit, every …
inline constexpr Milliseconds kRecoverPeriod{1000};

// A cgroup's memory beside a log on tmpfs, which has its own answer when it is full. `log`: that
// tmpfs; its pages count as shared where this container has written them. {}: not in memory.
os::Usage working_memory(const os::MemoryUsage& memory, const os::Usage& log);

// `percent` of `limit`, at least 1; all of it at 100.
std::uint64_t share_of(std::uint64_t limit, int percent);

class Pressure {
 public:
  void observe(MonoTime now, Resource resource, const os::Usage& usage);

  // In use, 0 to 1, when it was observed last.
  [[nodiscard]] double level(Resource resource) const;
  // Of the limits, kLeastSharePercent to 100.
  [[nodiscard]] int share(Resource resource) const;
  // The smallest share of several, and whose it is.
  struct Tightest {
    int percent = 100;
    Resource because = Resource::kMemory;
  };
  [[nodiscard]] Tightest tightest(std::initializer_list<Resource> resources) const;

 private:
  struct State {
    double level = 0;
    int share = 100;
    MonoTime changed_at{};
  };
  std::array<State, kResources.size()> states_{};
};

}  // namespace swarm::lifecycle
