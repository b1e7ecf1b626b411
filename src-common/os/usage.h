// How much this process and its container use of what they are limited in.
//
// Each call reads the kernel's files anew. What is not limited, or cannot be read, has limit 0: it
// says nothing about how short something is. Threads: any.
#pragma once

#include <cstdint>
#include <string>

namespace swarm::os {

struct Usage {
  std::uint64_t used = 0, limit = 0;  // the same unit; limit 0: none is known
  friend bool operator==(const Usage&, const Usage&) = default;
};

// Of the container's cgroup, in bytes. Pages of files on disk are not in it: the kernel takes them
// back when memory is short.
struct MemoryUsage {
  std::uint64_t anonymous = 0, shared = 0;  // shared: tmpfs, too
  std::uint64_t limit = 0;                  // 0: none is known
  friend bool operator==(const MemoryUsage&, const MemoryUsage&) = default;
};
// `root`: where cgroups are mounted, v2 or v1; `self`: says which one is ours, where the whole tree
// is seen.
MemoryUsage memory_usage(const std::string& root = "/sys/fs/cgroup",
                         const std::string& self = "/proc/self/cgroup");

// Open files of this process against its soft limit.
Usage descriptor_usage();

// Bytes of the file system that holds `path`.
Usage volume_usage(const std::string& path);

}  // namespace swarm::os
