#include "child.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "wire.h"

namespace swarm::bench {

pid_t fork_child(const std::function<void()>& life) {
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) fail(std::string("fork: ") + std::strerror(errno));
  if (pid > 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  life();
  ::_exit(0);
}

int in_directory(const std::string& name, const std::function<void(const std::string&)>& life) {
  std::string path = "/dev/shm/" + name + "-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) fail(path + ": " + std::strerror(errno));
  std::signal(SIGINT, SIG_IGN);  // Ctrl-C ends the child
  const pid_t child = fork_child([&] {
    std::signal(SIGINT, SIG_DFL);
    life(path);
    std::fflush(stdout);
  });
  int status = 0;
  if (::waitpid(child, &status, 0) != child) status = -1;
  std::filesystem::remove_all(path);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

void check_children() {
  if (::waitpid(-1, nullptr, WNOHANG) > 0) fail("a process of the benchmark has ended");
}

void pin(pid_t pid, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  const auto all = static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
  for (int i = 0; i < all; ++i) {
    if (cpu < 0 || cpu == i) CPU_SET(i, &set);
  }
  for (const auto& thread :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
    if (::sched_setaffinity(std::stoi(thread.path().filename()), sizeof set, &set) != 0)
      fail(std::string("sched_setaffinity: ") + std::strerror(errno));
  }
}

void enter_network(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 || ::setns(fd, CLONE_NEWNET) != 0) fail(path + ": " + std::strerror(errno));
  ::close(fd);
}

void* shared_memory(std::size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail(std::string("shared memory: ") + std::strerror(errno));
  return memory;
}

}  // namespace swarm::bench
