#include "worker/residents.h"

#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <unordered_map>

#include "base/encoding.h"
#include "client/options.h"
#include "worker/process.h"

namespace swarm::worker {
namespace {

constexpr std::size_t kReadBytes = 16384;
constexpr int kReadsAtTheEnd = 8;          // a pipe holds less
constexpr std::size_t kWriteBytes = 4096;  // PIPE_BUF: what a writable pipe surely takes
constexpr Milliseconds kFlushLimit{2000};
constexpr Milliseconds kLookAgain{60'000};

// Standard output or error: lines of all agents, each whole.
struct Sink {
  explicit Sink(int to) : fd(to) {}
  int fd;
  std::string pending;
  bool broken = false;

  void add(const std::string& name, std::string_view line) {
    if (broken) return;
    pending += name;
    pending += ": ";
    pending += line;
    pending += '\n';
  }
  [[nodiscard]] bool full() const { return pending.size() >= kMostUnwrittenBytes; }
  void write() {
    const ssize_t n = ::write(fd, pending.data(), std::min(pending.size(), kWriteBytes));
    if (n > 0) pending.erase(0, static_cast<std::size_t>(n));
    if (n >= 0 || errno == EINTR || errno == EAGAIN) return;
    broken = true;  // nobody reads it any more
    pending.clear();
  }
};

struct Stream {
  Fd fd;
  std::string line;  // that has not ended yet
};

struct Resident {
  std::string name;
  pid_t pid = -1;
  Stream out, err;
  MonoTime since{}, start_at{};
  Milliseconds pause = kRestartFirst;
  bool over = false;  // it is not started again
};

class Residents {
 public:
  explicit Residents(const RunOptions& options) : options_(options) {
    for (std::uint32_t n = 0; n < options.count; ++n)
      agents_.emplace_back().name = agent_of(options.pod, n).value;
  }

  int run();

 private:
  void start(Resident& agent, MonoTime now);
  void again(Resident& agent, MonoTime now, const std::string& why);
  void ended(Resident& agent, const Exit& exit, MonoTime now);
  void on_signals(MonoTime now);
  void signal_all(int signal);
  void read(Resident& agent, Stream& stream, Sink& sink);
  void end_line(const Resident& agent, Stream& stream, Sink& sink);
  bool wait(MonoTime now);
  void say(const std::string& text) { err_.add("agentctl", text); }
  void flush();

  const RunOptions& options_;
  std::vector<Resident> agents_;
  std::unordered_map<pid_t, Resident*> by_pid_;
  Sink out_{STDOUT_FILENO}, err_{STDERR_FILENO};
  Fd signals_;
  bool stopping_ = false;
  MonoTime kill_at_ = MonoTime::max();
  struct Meant {
    Resident* agent;  // nullptr: the sink's own
    Stream* stream;
    Sink* sink;
  };
  std::vector<pollfd> polled_;
  std::vector<Meant> meant_;  // by those
};

void Residents::start(Resident& agent, MonoTime now) {
  SpawnSpec spec;
  spec.argv = options_.command;
  spec.environment = {{"CFN_AGENT_ID", agent.name}};
  agent.since = now;
  Result<Child> child = spawn(spec);
  if (!child) return again(agent, now, child.error().message);
  agent.pid = child->pid;
  agent.out.fd = std::move(child->out);
  agent.err.fd = std::move(child->err);
  by_pid_[agent.pid] = &agent;
}

void Residents::again(Resident& agent, MonoTime now, const std::string& why) {
  if (now - agent.since >= kSettled) agent.pause = kRestartFirst;
  agent.start_at = now + agent.pause;
  say(agent.name + " " + why + "; started again in " + agent::show_duration(agent.pause));
  agent.pause = std::min(agent.pause * 2, kRestartMost);
}

void Residents::ended(Resident& agent, const Exit& exit, MonoTime now) {
  ::kill(-agent.pid, SIGKILL);  // what it has left behind in its group
  by_pid_.erase(agent.pid);
  agent.pid = -1;
  for (auto [stream, sink] : {std::pair(&agent.out, &out_), std::pair(&agent.err, &err_)}) {
    for (int i = 0; i < kReadsAtTheEnd; ++i) read(agent, *stream, *sink);
    end_line(agent, *stream, *sink);
    stream->fd.reset();
  }
  const std::string how = "has ended: " + describe(exit);
  agent.over = stopping_ || (exit.signal == 0 && exit.code == 0);
  if (agent.over)
    say(agent.name + " " + how);
  else
    again(agent, now, how);
}

void Residents::end_line(const Resident& agent, Stream& stream, Sink& sink) {
  if (stream.line.empty()) return;
  sink.add(agent.name, stream.line);
  stream.line.clear();
}

// What is there, up to what one turn may take.
void Residents::read(Resident& agent, Stream& stream, Sink& sink) {
  if (!stream.fd.open()) return;
  char buffer[kReadBytes];
  const ssize_t n = ::read(stream.fd.get(), buffer, sizeof buffer);
  if (n == 0) stream.fd.reset();
  if (n <= 0) return;
  std::string_view rest(buffer, static_cast<std::size_t>(n));
  while (!rest.empty()) {
    const auto end = rest.find('\n');
    const auto room = kMostLineBytes - stream.line.size();
    const auto piece = rest.substr(0, std::min(end, room));
    stream.line += piece;
    rest.remove_prefix(piece.size());
    if (piece.size() == end) rest.remove_prefix(1);
    if (piece.size() == end || stream.line.size() >= kMostLineBytes) {
      sink.add(agent.name, stream.line);
      stream.line.clear();
    }
  }
}

void Residents::signal_all(int signal) {
  for (const auto& [pid, agent] : by_pid_) ::kill(-pid, signal);
}

void Residents::on_signals(MonoTime now) {
  signalfd_siginfo info{};
  while (::read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
    if (info.ssi_signo == SIGCHLD) continue;
    if (stopping_) {
      signal_all(SIGKILL);
      continue;
    }
    stopping_ = true;
    kill_at_ = now + options_.grace;
    signal_all(SIGTERM);
    for (auto& agent : agents_) agent.over = agent.over || agent.pid < 0;
  }
}

// Waits for something to do, and does what descriptors are ready for. False: it can't be waited.
bool Residents::wait(MonoTime now) {
  polled_.assign({{signals_.get(), POLLIN, 0}});
  meant_.assign(1, {});
  for (Sink* sink : {&out_, &err_}) {
    if (sink->pending.empty()) continue;
    polled_.push_back({sink->fd, POLLOUT, 0});
    meant_.push_back({nullptr, nullptr, sink});
  }
  MonoTime at = std::min(now + kLookAgain, kill_at_);
  for (auto& agent : agents_) {
    if (agent.pid < 0 && !agent.over) at = std::min(at, agent.start_at);
    for (auto [stream, sink] : {std::pair(&agent.out, &out_), std::pair(&agent.err, &err_)}) {
      if (!stream->fd.open() || sink->full()) continue;
      polled_.push_back({stream->fd.get(), POLLIN, 0});
      meant_.push_back({&agent, stream, sink});
    }
  }
  const auto ms = std::max<std::int64_t>(0, (at - now).count() + (at > now ? 1 : 0));
  if (::poll(polled_.data(), polled_.size(), static_cast<int>(ms)) < 0) return errno == EINTR;
  for (std::size_t i = 1; i < polled_.size(); ++i) {
    if (polled_[i].revents == 0) continue;
    const Meant& m = meant_[i];
    if (m.agent == nullptr)
      m.sink->write();
    else
      read(*m.agent, *m.stream, *m.sink);
  }
  return true;
}

void Residents::flush() {
  const MonoTime deadline = mono_now() + kFlushLimit;
  for (Sink* sink : {&out_, &err_}) {
    while (!sink->pending.empty() && mono_now() < deadline) {
      pollfd entry{sink->fd, POLLOUT, 0};
      if (::poll(&entry, 1, 100) > 0) sink->write();
    }
  }
}

int Residents::run() {
  sigset_t mask;
  sigemptyset(&mask);
  for (const int signal : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&mask, signal);
  ::sigprocmask(SIG_BLOCK, &mask, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  signals_ = Fd(::signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC));
  rlimit files{};  // two descriptors for each agent
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
    files.rlim_cur = files.rlim_max;
    if (::setrlimit(RLIMIT_NOFILE, &files) != 0) say("the limit of open files stays as it is");
  }
  if (!become_subreaper()) say("this kernel lets background processes of an agent escape");
  for (;;) {
    MonoTime now = mono_now();
    bool left = false;
    for (auto& agent : agents_) {
      if (agent.pid < 0 && !agent.over && now >= agent.start_at) start(agent, now);
      left = left || !agent.over;
    }
    if (!left) break;
    if (!signals_.open() || !wait(now)) {
      say(std::string("can't wait for agents: ") + std::strerror(errno));
      break;
    }
    now = mono_now();
    on_signals(now);
    if (now >= kill_at_) {
      signal_all(SIGKILL);
      kill_at_ = MonoTime::max();
    }
    for (const Ended& end : reap_ended()) {
      if (const auto found = by_pid_.find(end.pid); found != by_pid_.end())
        ended(*found->second, end.exit, now);
    }
  }
  Exit ignored;
  const Status cleared = kill_descendants(-1, &ignored);
  if (!cleared) say(cleared.error().message);
  flush();
  return cleared && signals_.open() ? 0 : 1;
}

}  // namespace

int run_residents(const RunOptions& options) { return Residents(options).run(); }

}  // namespace swarm::worker
