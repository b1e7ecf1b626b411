#include "supervisor/supervisor.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <deque>

#include "os/time.h"
#include "telemetry/log.h"

namespace swarm::supervisor {
namespace {

pid_t start(const std::string& program, bool leaving, const sigset_t& normal) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::sigprocmask(SIG_SETMASK, &normal, nullptr);
  const char* const arguments[] = {program.c_str(), "engine", leaving ? "leaving" : nullptr,
                                   nullptr};
  ::execv(program.c_str(), const_cast<char* const*>(arguments));
  ::_exit(127);
}

}  // namespace

int run(const std::string& program) {
  sigset_t ours, normal;
  ::sigemptyset(&ours);
  for (int s : {SIGTERM, SIGINT, SIGUSR1, SIGCHLD}) ::sigaddset(&ours, s);
  ::sigprocmask(SIG_BLOCK, &ours, &normal);
  std::deque<MonoTime> crashes;
  bool ending = false, leaving = false;
  pid_t engine = start(program, leaving, normal);
  while (engine > 0) {
    siginfo_t info{};
    const int number = ::sigwaitinfo(&ours, &info);
    if (number < 0) continue;  // EINTR
    if (number != SIGCHLD) {
      (number == SIGUSR1 ? leaving : ending) = true;
      ::kill(engine, number == SIGINT ? SIGTERM : number);
      continue;
    }
    int status = 0;
    for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      if (pid != engine) continue;
      const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      if (ending) return code;
      const auto now = mono_now();
      crashes.push_back(now);
      while (now - crashes.front() > std::chrono::seconds(kCrashWindowSeconds)) crashes.pop_front();
      if (static_cast<int>(crashes.size()) > kMaxCrashes) {
        telemetry::error(
            "the engine keeps ending; giving up to the kubelet",
            {{"times", crashes.size()}, {"seconds", kCrashWindowSeconds}, {"lastCode", code}});
        return 1;
      }
      telemetry::warn("the engine ended; starting it again",
                      {{"code", code}, {"times", crashes.size()}});
      engine = start(program, leaving, normal);
    }
  }
  telemetry::error("the engine can't be started", {{"reason", std::strerror(errno)}});
  return 1;
}

}  // namespace swarm::supervisor
