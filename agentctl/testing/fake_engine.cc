#include "testing/fake_engine.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/check.h"

namespace swarm::agent {
namespace {

constexpr int kPatienceTurns = 2000;  // of 10 ms

void nap() { std::this_thread::sleep_for(std::chrono::milliseconds(10)); }

std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

FakeEngine::FakeEngine(std::string path) : path_(std::move(path)) { start(); }
FakeEngine::~FakeEngine() { stop(); }

void FakeEngine::on(const std::string& op, Handler handler) {
  const std::lock_guard lock(mutex_);
  handlers_[op] = std::move(handler);
}

std::vector<Object> FakeEngine::received(const std::string& op) {
  const std::lock_guard lock(mutex_);
  std::vector<Object> out;
  for (const Object& request : requests_) {
    if (request.text("op") == op) out.push_back(request);
  }
  return out;
}

bool FakeEngine::wait_for(const std::string& op, std::size_t count) {
  for (int i = 0; i < kPatienceTurns; ++i) {
    if (received(op).size() >= count) return true;
    nap();
  }
  return false;
}

void FakeEngine::add_task(const std::string& task) {
  const std::lock_guard lock(mutex_);
  tasks_.push_back(task);
}

void FakeEngine::refuse_connections(const std::string& line) {
  const std::lock_guard lock(mutex_);
  refusal_ = line;
}

void FakeEngine::start() {
  ::unlink(path_.c_str());
  listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  check(path_.size() < sizeof address.sun_path, "short path");
  std::memcpy(address.sun_path, path_.data(), path_.size());
  check(::bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0,
        "bind");
  check(::listen(listener_, 16) == 0, "listen");
  check(::pipe2(wake_, O_CLOEXEC) == 0, "pipe");
  thread_ = std::thread([this] { serve(); });
}

void FakeEngine::stop() {
  if (!thread_.joinable()) return;
  ::close(wake_[1]);
  thread_.join();
  ::close(wake_[0]);
  ::close(listener_);
  ::unlink(path_.c_str());
}

std::optional<std::string> FakeEngine::answer(const Object& request) {
  Handler handler;
  {
    const std::lock_guard lock(mutex_);
    requests_.push_back(request);
    const std::string op = request.text("op");
    if (op == "task_next" && !handlers_.contains(op)) {
      if (tasks_.empty()) return std::nullopt;
      const std::string task = tasks_.front();
      tasks_.erase(tasks_.begin());
      return "\"ok\":true,\"task\":" + task;
    }
    const auto it = handlers_.find(op);
    if (it == handlers_.end()) return "\"ok\":true";
    handler = it->second;
  }
  return handler(request);
}

void FakeEngine::serve() {
  std::map<int, std::string> connections;
  for (bool running = true; running;) {
    std::vector<pollfd> entries{{wake_[0], POLLIN, 0}, {listener_, POLLIN, 0}};
    for (const auto& [fd, buffer] : connections) entries.push_back({fd, POLLIN, 0});
    ::poll(entries.data(), entries.size(), -1);
    if (entries[0].revents != 0) running = false;
    if (running && entries[1].revents != 0) {
      const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      const std::lock_guard lock(mutex_);
      if (fd >= 0 && !refusal_.empty()) {
        (void)::send(fd, refusal_.data(), refusal_.size(), MSG_NOSIGNAL);
        ::close(fd);
        requests_.push_back(Object::of({{"op", "refused"}}, {}));
      } else if (fd >= 0) {
        connections.emplace(fd, "");
      }
    }
    for (std::size_t i = 2; running && i < entries.size(); ++i) {
      if (entries[i].revents == 0) continue;
      const int fd = entries[i].fd;
      char bytes[65536];
      const ssize_t n = ::read(fd, bytes, sizeof bytes);
      if (n <= 0) {
        ::close(fd);
        connections.erase(fd);
        continue;
      }
      std::string& buffer = connections[fd];
      buffer.append(bytes, static_cast<std::size_t>(n));
      for (std::size_t end = buffer.find('\n'); end != std::string::npos; end = buffer.find('\n')) {
        const Result<Object> request = Object::parse(buffer.substr(0, end));
        buffer.erase(0, end + 1);
        check(request.ok(), "agentctl wrote a line that is no JSON object");
        const std::optional<std::string> members = answer(*request);
        if (!members) continue;
        const std::string line =
            "{\"rid\":" + std::to_string(request->number("rid")) + "," + *members + "}\n";
        if (::send(fd, line.data(), line.size(), MSG_NOSIGNAL) < 0) break;
      }
    }
  }
  for (const auto& [fd, buffer] : connections) ::close(fd);
}

TemporaryDirectory::TemporaryDirectory() {
  char pattern[] = "/tmp/agentctl-test-XXXXXX";
  check(::mkdtemp(pattern) != nullptr, "mkdtemp");
  path_ = pattern;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;  // a test's leftovers; the next reboot takes them
  std::filesystem::remove_all(path_, ignored);
}

Program::Program(const TemporaryDirectory& directory, const std::string& socket,
                 std::vector<std::string> arguments, std::map<std::string, std::string> more,
                 const std::string& input) {
  static std::atomic<int> number{0};
  const std::string base = directory.path() + "/run" + std::to_string(++number);
  out_path_ = base + ".out";
  err_path_ = base + ".err";
  std::ofstream(base + ".in", std::ios::binary) << input;
  std::map<std::string, std::string> environment{{"PATH", "/usr/local/bin:/usr/bin:/bin"},
                                                 {"HOME", directory.path()},
                                                 {"TMPDIR", directory.path()},
                                                 {"CFN_SOCKET", socket},
                                                 {"CFN_AGENT_ID", "worker-3"},
                                                 {"CFN_SWARM", "hello"}};
  for (const auto& [name, value] : more) environment[name] = value;
  std::vector<std::string> entries;
  for (const auto& [name, value] : environment) entries.push_back(name + "=" + value);
  arguments.insert(arguments.begin(), "agentctl");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::vector<char*> envp;
  for (std::string& entry : entries) envp.push_back(entry.data());
  envp.push_back(nullptr);
  const std::string in_path = base + ".in";
  pid_ = ::fork();
  check(pid_ >= 0, "fork");
  if (pid_ == 0) {
    ::dup2(::open(in_path.c_str(), O_RDONLY), 0);
    ::dup2(::open(out_path_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600), 1);
    ::dup2(::open(err_path_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600), 2);
    ::execve(AGENTCTL_PROGRAM, argv.data(), envp.data());
    ::_exit(126);
  }
}

Program::~Program() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

int Program::wait() {
  for (int i = 0; i < kPatienceTurns * 3 / 2; ++i) {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
    }
    nap();
  }
  return -1;
}

void Program::signal(int number) { ::kill(pid_, number); }

void Program::stop() {
  signal(SIGSTOP);
  siginfo_t ignored{};
  while (::waitid(P_PID, static_cast<id_t>(pid_), &ignored, WSTOPPED) != 0 && errno == EINTR) {
  }
}

std::string Program::out() const { return slurp(out_path_); }
std::string Program::err() const { return slurp(err_path_); }

}  // namespace swarm::agent
