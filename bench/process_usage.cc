#include "process_usage.h"

#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cctype>
#include <ctime>
#include <filesystem>
#include <fstream>

namespace swarm::bench {
namespace {

// The number after `key` at the beginning of a line of /proc/PID/FILE; 0 when the process has gone.
std::uint64_t field(pid_t pid, const char* file, const std::string& key) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/" + file);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(key)) return std::stoull(line.substr(key.size()));
  }
  return 0;
}

}  // namespace

Syscalls::Syscalls(const std::vector<pid_t>& pids) {
  std::ifstream in("/sys/kernel/tracing/events/raw_syscalls/sys_enter/id");
  perf_event_attr what{};
  what.type = PERF_TYPE_TRACEPOINT;
  what.size = sizeof what;
  if (!(in >> what.config)) return;
  for (const pid_t pid : pids) {
    for (const auto& thread :
         std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
      const auto id = std::stoi(thread.path().filename());
      const auto fd = ::syscall(SYS_perf_event_open, &what, id, -1, -1, PERF_FLAG_FD_CLOEXEC);
      if (fd >= 0) counters_.push_back(static_cast<int>(fd));
    }
  }
}

Syscalls::~Syscalls() {
  for (const int fd : counters_) ::close(fd);
}

std::optional<std::uint64_t> Syscalls::count() const {
  if (counters_.empty()) return std::nullopt;
  std::uint64_t sum = 0;
  for (const int fd : counters_) {
    std::uint64_t one = 0;
    if (::read(fd, &one, sizeof one) == sizeof one) sum += one;
  }
  return sum;
}

double cpu_seconds(const std::vector<pid_t>& pids) {
  double sum = 0;
  for (const pid_t pid : pids) {
    clockid_t clock{};
    timespec time{};
    if (::clock_getcpuclockid(pid, &clock) != 0 || ::clock_gettime(clock, &time) != 0) continue;
    sum += static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  }
  return sum;
}

Usage usage(const std::vector<pid_t>& pids) {
  Usage out;
  out.cpu_seconds = cpu_seconds(pids);
  for (const pid_t pid : pids) out.wake_ups += field(pid, "status", "voluntary_ctxt_switches:");
  return out;
}

double pss_megabytes(const std::vector<pid_t>& pids) {
  std::uint64_t kilobytes = 0;
  for (const pid_t pid : pids) kilobytes += field(pid, "smaps_rollup", "Pss:");
  return static_cast<double>(kilobytes) / 1024;
}

std::vector<pid_t> processes_named(const std::string& name) {
  std::vector<pid_t> out;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string number = entry.path().filename();
    if (std::isdigit(static_cast<unsigned char>(number.front())) == 0) continue;
    std::ifstream in(entry.path() / "comm");
    std::string comm;
    if (std::getline(in, comm) && comm == name) out.push_back(std::stoi(number));
  }
  return out;
}

std::vector<pid_t> with_environment(const std::vector<pid_t>& pids, const std::string& assignment) {
  std::vector<pid_t> out;
  for (const pid_t pid : pids) {
    std::ifstream in("/proc/" + std::to_string(pid) + "/environ");
    for (std::string entry; std::getline(in, entry, '\0');) {
      if (entry == assignment) {
        out.push_back(pid);
        break;
      }
    }
  }
  return out;
}

}  // namespace swarm::bench
