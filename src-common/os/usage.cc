#include "os/usage.h"

#include <dirent.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <string_view>

#include "os/file.h"

namespace swarm::os {
namespace {

// v1 says "no limit" with the largest multiple of a page in 63 bits.
constexpr std::uint64_t kNoLimit = 1ULL << 60U;

std::optional<std::uint64_t> number_in(std::string_view text) {
  std::uint64_t value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || stop == text.data()) return std::nullopt;
  return value;
}

// The lines of `text`, first to last, until `take` returns true.
template <typename Take>
void each_line(std::string_view text, const Take& take) {
  while (!text.empty()) {
    const auto end = text.find('\n');
    if (take(text.substr(0, end)) || end == std::string_view::npos) return;
    text.remove_prefix(end + 1);
  }
}

// The value of "KEY VALUE" in a memory.stat; 0: it has none.
std::uint64_t field_of(std::string_view stat, std::string_view key) {
  std::uint64_t value = 0;
  each_line(stat, [&](std::string_view line) {
    if (!line.starts_with(key) || line.size() <= key.size() || line[key.size()] != ' ')
      return false;
    value = number_in(line.substr(key.size() + 1)).value_or(0);
    return true;
  });
  return value;
}

// Our cgroup's path: "0::/path" with v2, "4:memory:/path" with v1.
std::string path_in(std::string_view self, bool v2) {
  std::string path;
  each_line(self, [&](std::string_view line) {
    const auto first = line.find(':');
    const auto second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos) return false;
    const std::string list = "," + std::string(line.substr(first + 1, second - first - 1)) + ",";
    if (v2 ? list != ",," : list.find(",memory,") == std::string::npos) return false;
    path = line.substr(second + 1);
    return true;
  });
  return path == "/" ? "" : path;
}

struct Files {
  const char* limit;
  const char* anonymous;
  const char* shared;
};
constexpr Files kV2{"/memory.max", "anon", "shmem"};
constexpr Files kV1{"/memory.limit_in_bytes", "total_rss", "total_shmem"};

std::optional<MemoryUsage> usage_in(const std::string& cgroup, const Files& files) {
  const auto limit = read_file(cgroup + files.limit, 4096);
  const auto stat = read_file(cgroup + "/memory.stat");
  if (!limit || !stat) return std::nullopt;
  MemoryUsage out{field_of(*stat, files.anonymous), field_of(*stat, files.shared), 0};
  if (const auto bytes = number_in(*limit); bytes && *bytes < kNoLimit) out.limit = *bytes;
  return out;
}

}  // namespace

MemoryUsage memory_usage(const std::string& root, const std::string& self) {
  const auto ours = read_file(self);
  // A container sees its own cgroup as the root, or, without a namespace for them, a path of the
  // node's tree: where that is not mounted, the root is ours again.
  for (const bool v2 : {true, false}) {
    const std::string base = v2 ? root : root + "/memory";
    const std::string path = ours ? path_in(*ours, v2) : "";
    const Files& files = v2 ? kV2 : kV1;
    if (const auto found = usage_in(base + path, files)) return *found;
    if (const auto found = usage_in(base, files)) return *found;
  }
  return {};
}

Usage descriptor_usage() {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur == RLIM_INFINITY) return {};
  Usage out{0, files.rlim_cur};
  DIR* dir = ::opendir("/proc/self/fd");
  if (dir == nullptr) return errno == EMFILE ? Usage{out.limit, out.limit} : Usage{};
  while (const dirent* entry = ::readdir(dir)) {
    if (entry->d_name[0] != '.') ++out.used;
  }
  ::closedir(dir);
  --out.used;  // the one that has looked
  return out;
}

Usage volume_usage(const std::string& path) {
  struct statvfs st {};
  if (::statvfs(path.c_str(), &st) != 0) return {};
  const std::uint64_t total = st.f_blocks * st.f_frsize, free = st.f_bavail * st.f_frsize;
  return {total - std::min(total, free), total};
}

}  // namespace swarm::os
