#include "worker/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "os/file.h"

extern char** environ;

namespace swarm::worker {
namespace {

struct Process {
  pid_t pid = 0;
  pid_t parent = 0;
  pid_t group = 0;
  char state = '?';
  unsigned long long ticks = 0;
  unsigned long long start = 0;
};

// One line of /proc/PID/stat. The name (field 2) may hold blanks and parentheses: fields count from
// the last ')'.
bool parse_stat(const std::string& text, Process& out) {
  const std::size_t close = text.rfind(')');
  if (close == std::string::npos || close + 2 >= text.size()) return false;
  int parent = 0;
  int group = 0;
  unsigned long long user = 0;
  unsigned long long system = 0;
  const int n =
      std::sscanf(text.c_str() + close + 2,
                  "%c %d %d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %*d %*d %llu",
                  &out.state, &parent, &group, &user, &system, &out.start);
  if (n != 6) return false;
  out.parent = parent;
  out.group = group;
  out.ticks = user + system;
  return true;
}

std::string read_proc(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  char buffer[1024];
  const ssize_t n = ::read(fd, buffer, sizeof buffer);
  ::close(fd);
  return n > 0 ? std::string(buffer, static_cast<std::size_t>(n)) : std::string();
}

// All descendants of this process, from /proc. Zombies are among them.
std::vector<Process> descendants() {
  std::vector<Process> all;
  DIR* proc = ::opendir("/proc");
  if (proc == nullptr) return all;
  while (const dirent* entry = ::readdir(proc)) {
    Process process;
    const char* end = entry->d_name + std::strlen(entry->d_name);
    const auto [stop, error] = std::from_chars(entry->d_name, end, process.pid);
    if (error != std::errc() || stop != end) continue;
    if (parse_stat(read_proc(std::string("/proc/") + entry->d_name + "/stat"), process))
      all.push_back(process);
  }
  ::closedir(proc);
  std::vector<Process> mine;
  std::vector<pid_t> roots{::getpid()};
  while (!roots.empty()) {
    std::vector<pid_t> next;
    for (const Process& process : all) {
      if (std::find(roots.begin(), roots.end(), process.parent) == roots.end()) continue;
      if (process.pid == ::getpid()) continue;
      mine.push_back(process);
      next.push_back(process.pid);
    }
    roots = std::move(next);
  }
  return mine;
}

std::vector<std::string> merged_environment(const std::map<std::string, std::string>& changes) {
  std::vector<std::string> out;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (!changes.contains(text.substr(0, text.find('=')))) out.push_back(text);
  }
  for (const auto& [name, value] : changes) out.push_back(name + "=" + value);
  return out;
}

Exit to_exit(int status) {
  if (WIFSIGNALED(status)) return {0, WTERMSIG(status)};
  return {WEXITSTATUS(status), 0};
}

// What the child does between fork and exec; never returns. `report` takes errno when exec is
// impossible.
[[noreturn]] void become(const SpawnSpec& spec, pid_t parent, int in, int out, int err, int report,
                         char* const* argv, char* const* environment) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);  // the parent died before the line above
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  if (::dup2(in, 0) >= 0 && ::dup2(out, 1) >= 0 && ::dup2(err, 2) >= 0 &&
      (spec.directory.empty() || ::chdir(spec.directory.c_str()) == 0)) {
    if (spec.function) {
      for (const auto& [name, value] : spec.environment) ::setenv(name.c_str(), value.c_str(), 1);
      ::close(report);
      ::_exit(spec.function());
    }
    ::execvpe(argv[0], argv, environment);
  }
  const int error = errno;
  [[maybe_unused]] const ssize_t n = ::write(report, &error, sizeof error);
  ::_exit(127);
}

}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void Fd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

bool become_subreaper() { return ::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0; }

bool can_execute(const std::string& name) {
  const auto executable = [](const std::string& path) {
    struct stat info {};
    return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
           ::access(path.c_str(), X_OK) == 0;
  };
  if (name.find('/') != std::string::npos) return executable(name);
  const char* path = std::getenv("PATH");
  std::string left = path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin";
  while (!left.empty()) {
    const std::size_t colon = left.find(':');
    const std::string directory = left.substr(0, colon);
    if (executable((directory.empty() ? "." : directory) + "/" + name)) return true;
    left = colon == std::string::npos ? "" : left.substr(colon + 1);
  }
  return false;
}

Result<Child> spawn(const SpawnSpec& spec) {
  const auto failed = [](const char* what) {
    return internal_error(std::string(what) + ": " + std::strerror(errno));
  };
  int out[2];
  int err[2];
  int report[2];
  if (::pipe2(out, O_CLOEXEC) != 0) return failed("pipe");
  Fd out_read(out[0]);
  const Fd out_write(out[1]);
  if (::pipe2(err, O_CLOEXEC) != 0) return failed("pipe");
  Fd err_read(err[0]);
  const Fd err_write(err[1]);
  if (::pipe2(report, O_CLOEXEC) != 0) return failed("pipe");
  const Fd report_read(report[0]);
  Fd report_write(report[1]);
  const Fd in(::open(spec.stdin_path.empty() ? "/dev/null" : spec.stdin_path.c_str(),
                     O_RDONLY | O_CLOEXEC));
  if (!in.open()) return failed("standard input");

  std::vector<std::string> words = spec.argv;
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::vector<std::string> environment = merged_environment(spec.environment);
  std::vector<char*> envp;
  for (std::string& entry : environment) envp.push_back(entry.data());
  envp.push_back(nullptr);

  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return failed("fork");
  if (pid == 0) {
    become(spec, parent, in.get(), out_write.get(), err_write.get(), report_write.get(),
           argv.data(), envp.data());
  }
  ::setpgid(pid, pid);  // both sides do it: whoever comes first
  report_write.reset();
  int error = 0;
  ssize_t n = 0;
  do {
    n = ::read(report_read.get(), &error, sizeof error);
  } while (n < 0 && errno == EINTR);
  if (n == static_cast<ssize_t>(sizeof error)) {
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    const std::string name = spec.argv.empty() ? "" : spec.argv[0];
    if (error == ENOENT)
      return not_found("cannot run '" + name + "': no such command in this image");
    return internal_error("cannot run '" + name + "': " + std::strerror(error));
  }
  Child child;
  child.pid = pid;
  child.out = std::move(out_read);
  child.err = std::move(err_read);
  for (const int fd : {child.out.get(), child.err.get()}) ::fcntl(fd, F_SETFL, O_NONBLOCK);
  return child;
}

void signal_tree(pid_t group, int signal) {
  ::kill(-group, signal);
  for (const Process& process : descendants()) {
    if (process.group != group && process.state != 'Z') ::kill(process.pid, signal);
  }
}

std::vector<Ended> reap_ended() {
  std::vector<Ended> out;
  for (;;) {
    int status = 0;
    const pid_t pid = ::waitpid(-1, &status, WNOHANG);
    if (pid < 0 && errno == EINTR) continue;
    if (pid <= 0) return out;
    out.push_back({pid, to_exit(status)});
  }
}

bool reap(pid_t watched, Exit* exit) {
  bool found = false;
  for (const Ended& ended : reap_ended()) {
    if (ended.pid != watched) continue;
    *exit = ended.exit;
    found = true;
  }
  return found;
}

Status kill_descendants(pid_t watched, Exit* exit) {
  std::size_t left = 0;
  for (int round = 0; round < kKillRounds; ++round) {
    // Stopped first, so that nothing forks between the look and the blow.
    std::vector<Process> found = descendants();
    for (const Process& process : found) ::kill(process.pid, SIGSTOP);
    for (const Process& process : found) ::kill(process.pid, SIGKILL);
    (void)reap(watched, exit);  // the caller knows already whether `watched` has ended
    found = descendants();
    left = found.size();
    if (left == 0) return {};
    if (round > 0) std::this_thread::sleep_for(Milliseconds(10));
  }
  return internal_error(std::to_string(left) + " processes of the task survived SIGKILL");
}

double CpuMeter::sample(MonoTime now) {
  static const double kTicksPerSecond = static_cast<double>(std::max(1L, ::sysconf(_SC_CLK_TCK)));
  std::map<pid_t, Seen> seen;
  unsigned long long used = 0;
  bool runnable = false;
  for (const Process& process : descendants()) {
    runnable = runnable || process.state == 'R';
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
  const double share = static_cast<double>(used) / kTicksPerSecond / seconds;
  return runnable ? std::max(share, 1.0) : share;
}

void CpuMeter::reset() {
  seen_.clear();
  first_ = true;
}

}  // namespace swarm::worker
