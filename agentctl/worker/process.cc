#include "worker/process.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string_view>
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
  long long children_user = 0;  // those that it has waited for
  long long children_system = 0;
  const int n = std::sscanf(
      text.c_str() + close + 2,
      "%c %d %d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %lld %lld %*d %*d %*d %*d %llu",
      &out.state, &parent, &group, &user, &system, &children_user, &children_system, &out.start);
  if (n != 8) return false;
  out.parent = parent;
  out.group = group;
  out.ticks = user + system + static_cast<unsigned long long>(children_user) +
              static_cast<unsigned long long>(children_system);
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

std::vector<ProcessTime> process_times() {
  std::vector<ProcessTime> out;
  for (const Process& process : descendants())
    out.push_back({process.pid, process.start, process.ticks, process.state == 'R'});
  return out;
}

namespace {

std::string link_target(const std::string& path) {
  char target[256];
  const ssize_t n = ::readlink(path.c_str(), target, sizeof target);
  return n > 0 ? std::string(target, static_cast<std::size_t>(n)) : std::string();
}

bool is_terminal(const std::string& target) {
  return target.starts_with("/dev/pts/") || target.starts_with("/dev/tty") ||
         target == "/dev/console";
}

// What a process waits for that is in read(): "" when that is nothing that a person or another
// program would have to write, or can't be seen.
std::string awaited_input(const std::string& proc) {
  unsigned long long fd = 0;
  long number = -1;
  // "0 0x3 0x7ffe… …"; "running" and an error have no such form.
  if (std::sscanf(read_proc(proc + "/syscall").c_str(), "%ld 0x%llx", &number, &fd) != 2) return "";
  if (number != SYS_read) return "";
  const std::string target = link_target(proc + "/fd/" + std::to_string(fd));
  if (is_terminal(target)) return "the terminal " + target;
  return fd == 0 && !target.empty() ? "its standard input" : "";
}

struct Connection {
  std::string peer;
  bool closed = false;  // by the peer alone
};
// Of this network namespace, by inode.
std::map<std::string, Connection> tcp_connections() {
  constexpr unsigned kEstablished = 1;
  constexpr unsigned kCloseWait = 8;
  std::map<std::string, Connection> out;
  for (const char* path : {"/proc/self/net/tcp", "/proc/self/net/tcp6"}) {
    const Fd file(::open(path, O_RDONLY | O_CLOEXEC));
    std::string text;
    char buffer[16384];
    ssize_t n = 0;
    while (file.open() && text.size() < kMaxTcpTableBytes &&
           (n = ::read(file.get(), buffer, sizeof buffer)) > 0) {
      text.append(buffer, static_cast<std::size_t>(n));
    }
    for (std::size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n', at + 1)) {
      char remote[40];
      unsigned port = 0;
      unsigned state = 0;
      unsigned long inode = 0;
      if (std::sscanf(text.c_str() + at + 1,
                      " %*d: %*[0-9A-F]:%*x %39[0-9A-F]:%x %x %*x:%*x %*x:%*x %*x %*u %*u %lu",
                      remote, &port, &state, &inode) != 4 ||
          (state != kEstablished && state != kCloseWait)) {
        continue;
      }
      in6_addr address{};
      const std::size_t words = std::strlen(remote) / 8;  // of 32 bits, each in our byte order
      for (std::size_t i = 0; i < std::min<std::size_t>(words, 4); ++i) {
        const auto word =
            static_cast<std::uint32_t>(std::stoul(std::string(remote + i * 8, 8), nullptr, 16));
        std::memcpy(address.s6_addr + i * 4, &word, 4);
      }
      char shown[INET6_ADDRSTRLEN] = "";
      if (words == 1) {
        ::inet_ntop(AF_INET, address.s6_addr, shown, sizeof shown);
      } else if (IN6_IS_ADDR_V4MAPPED(&address)) {
        ::inet_ntop(AF_INET, address.s6_addr + 12, shown, sizeof shown);
      } else {
        ::inet_ntop(AF_INET6, &address, shown, sizeof shown);
      }
      const std::string host = shown;
      out[std::to_string(inode)] = {
          (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" +
              std::to_string(port),
          state == kCloseWait};
    }
  }
  return out;
}

}  // namespace

Stillness look_at_descendants() {
  Stillness out;
  const std::map<std::string, Connection> connections = tcp_connections();
  std::set<std::string> open;
  std::size_t looked_at = 0;
  for (const Process& process : descendants()) {
    if (process.state == 'Z' || ++looked_at > kMaxLookedAt) continue;
    const std::string proc = "/proc/" + std::to_string(process.pid);
    std::string name = read_proc(proc + "/comm");
    while (!name.empty() && name.back() == '\n') name.pop_back();
    if (process.state == 'T' && out.stopped.empty()) out.stopped = name;
    if (out.reader.empty()) {
      if (std::string read = awaited_input(proc); !read.empty()) {
        out.reader = name;
        out.read = std::move(read);
      }
    }
    DIR* descriptors = ::opendir((proc + "/fd").c_str());
    std::size_t seen = 0;
    while (const dirent* entry = descriptors != nullptr ? ::readdir(descriptors) : nullptr) {
      if (++seen > kMaxLookedAt) break;
      const std::string target = link_target(proc + "/fd/" + entry->d_name);
      constexpr std::string_view kSocket = "socket:[";
      if (!target.starts_with(kSocket)) continue;
      const std::string inode = target.substr(kSocket.size(), target.size() - kSocket.size() - 1);
      if (connections.contains(inode)) open.insert(inode);
    }
    if (descriptors != nullptr) ::closedir(descriptors);
  }
  for (const std::string& inode : open) {
    const Connection& one = connections.at(inode);
    ++(one.closed ? out.closed_by_peer : out.connections);
    if (!one.closed && out.peers.size() < kMaxPeersNamed &&
        std::find(out.peers.begin(), out.peers.end(), one.peer) == out.peers.end())
      out.peers.push_back(one.peer);
  }
  return out;
}

}  // namespace swarm::worker
