// The directory $CFN_CRASH_PATH, outside every volume that is tampered with, holds
//   armed   lines "STEP PASS HOW"; the first is taken at the next pass of any step, and the file
//           with it, by a rename, so that it strikes once. HOW: engine (this process is killed),
//           container (its supervisor with it), pause (it is stopped, until somebody continues it)
//   struck  "STEP HOW PID" for each that has struck, written before the signal
// The other lines are armed again when the first strikes: they are for what happens afterwards,
// also to the next process.
#include "base/crash_point.h"

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include "base/check.h"

namespace swarm {
namespace {

struct Armed {
  std::string step, how, rest;
  unsigned passes = 0;  // left until it strikes; 0: not armed
};

void write_whole(const std::string& path, const std::string& text, int flags) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0644);
  check(fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()),
        "the directory of crash points can be written");
  ::close(fd);
}

Armed take(const std::string& directory) {
  Armed out;
  const std::string mine = directory + "/taken";
  if (std::rename((directory + "/armed").c_str(), mine.c_str()) != 0) return out;
  std::ifstream file(mine);
  std::string line;
  std::getline(file, line);
  std::istringstream(line) >> out.step >> out.passes >> out.how;
  check(out.passes > 0 && (out.how == "engine" || out.how == "container" || out.how == "pause"),
        "a crash point is armed with STEP PASS HOW");
  out.rest.assign(std::istreambuf_iterator<char>(file), {});
  return out;
}

}  // namespace

void crash_point(const char* step) {
  static const char* const given = std::getenv("CFN_CRASH_PATH");
  static Armed armed;
  if (given == nullptr) return;
  const std::string directory = given;
  if (armed.passes == 0) armed = take(directory);
  if (armed.passes == 0 || armed.step != step || --armed.passes > 0) return;
  if (!armed.rest.empty()) {
    write_whole(directory + "/next", armed.rest, O_TRUNC);
    check(std::rename((directory + "/next").c_str(), (directory + "/armed").c_str()) == 0,
          "the next crash point can be armed");
  }
  write_whole(directory + "/struck",
              armed.step + ' ' + armed.how + ' ' + std::to_string(::getpid()) + '\n', O_APPEND);
  if (armed.how == "pause")
    (void)::raise(SIGSTOP);
  else
    (void)::kill(armed.how == "container" ? 0 : ::getpid(), SIGKILL);  // 0: the process group
}

}  // namespace swarm
