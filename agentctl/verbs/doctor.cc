#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "verbs/verb.h"
#include "worker/process.h"

namespace swarm::agent {
namespace {

constexpr Milliseconds kDoctorTimeout{3000};
constexpr unsigned long kScratchBytesWanted = 64UL << 20U;

struct Report {
  std::string text;
  int bad = 0;

  void good(const std::string& what) { text += "ok    " + what + "\n"; }
  void note(const std::string& what, const std::string& remedy) {
    text += "note  " + what + "\n      " + remedy + "\n";
  }
  void wrong(const std::string& what, const std::string& remedy) {
    text += "BAD   " + what + "\n      " + remedy + "\n";
    ++bad;
  }
};

std::string megabytes(unsigned long long bytes) { return std::to_string(bytes >> 20U) + " MiB"; }

bool writable(const std::string& directory) {
  std::string pattern = directory + "/.agentctl-XXXXXX";
  const int fd = ::mkstemp(pattern.data());
  if (fd < 0) return false;
  ::close(fd);
  ::unlink(pattern.c_str());
  return true;
}

void check_socket(Context& context, Report& report) {
  struct stat info {};
  if (::stat(context.socket_path.c_str(), &info) != 0) {
    report.wrong("socket " + context.socket_path + ": " + std::strerror(errno),
                 "Is this container part of a Swarm's pod? Then look at: kubectl logs POD -c "
                 "cfn-sidecar. Else set CFN_SOCKET.");
    return;
  }
  if (!S_ISSOCK(info.st_mode)) {
    report.wrong(context.socket_path + " is not a socket",
                 "Something else has taken its place: set CFN_SOCKET, or delete the pod.");
    return;
  }
  Request hello("hello");
  hello.read_only();
  const Answer answer =
      context.socket().call(std::move(hello), mono_now() + context.timeout_or(kDoctorTimeout));
  if (!answer.ok) {
    report.wrong("sidecar: " + printable(answer.message, 500),
                 "Look at: kubectl logs POD -c cfn-sidecar");
    return;
  }
  report.good("sidecar answers at " + context.socket_path + ": " +
              printable(answer.fields.text("agent"), 64) + " of swarm " +
              printable(answer.fields.text("swarm"), 64) + ", team " +
              answer.fields.member_json("team"));
  if (answer.fields.flag("connected")) {
    report.good("connected to " +
                printable(answer.fields.text("coordinator", "its coordinator"), 64));
  } else {
    report.wrong("not connected to its coordinator" +
                     (answer.fields.has("coordinator")
                          ? " " + printable(answer.fields.text("coordinator"), 64)
                          : ""),
                 "Tasks and messages wait. Look at: kubectl get pods -l cfn.dev/role=coordinator; "
                 "a NetworkPolicy must allow port 7070.");
  }
  Request stats("stats");
  stats.read_only();
  const Answer counters =
      context.socket().call(std::move(stats), mono_now() + context.timeout_or(kDoctorTimeout));
  if (!counters.ok) return;  // not every engine counts; what matters was asked above
  std::string line;
  for (const auto& [name, value] : counters.fields.numbers()) {
    if (name != "rid" && line.size() < 500)
      line += (line.empty() ? "" : ", ") + printable(name, 40) + " " + std::to_string(value);
  }
  if (!line.empty()) report.good("counters: " + line);
}

int run(Context& context, const Arguments&) {
  Report report;
  check_socket(context, report);

  const std::string shared = context.socket_path.substr(0, context.socket_path.rfind('/'));
  struct statvfs space {};
  if (::statvfs(shared.c_str(), &space) == 0) {
    const unsigned long long total =
        static_cast<unsigned long long>(space.f_blocks) * space.f_frsize;
    const unsigned long long left =
        static_cast<unsigned long long>(space.f_bavail) * space.f_frsize;
    const std::string what = shared + ": " + megabytes(total) + ", " + megabytes(left) + " free";
    if (left < total / 20) {
      report.wrong(what,
                   "Remove what your agent has put there: the volume belongs to the mailbox.");
    } else {
      report.good(what);
    }
  }
  const char* tmp = std::getenv("TMPDIR");
  const std::string scratch = tmp != nullptr && *tmp != '\0' ? tmp : "/tmp";
  if (!writable(scratch)) {
    report.wrong(scratch + " can't be written",
                 "agentctl work needs it: mount an emptyDir at /tmp, or set TMPDIR to a writable "
                 "directory.");
  } else if (::statvfs(scratch.c_str(), &space) == 0 &&
             static_cast<unsigned long>(space.f_bavail) * space.f_frsize < kScratchBytesWanted) {
    report.note(scratch + " has less than 64 MiB free",
                "Clones and task directories go there: mount a larger emptyDir.");
  } else {
    report.good(scratch + " can be written");
  }
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') {
    report.note(
        "HOME is not set",
        "Many command line tools keep state there: set HOME=/tmp/home or mount an emptyDir.");
  } else if (!writable(home)) {
    report.note(std::string("HOME=") + home + " can't be written",
                "Many command line tools need it: mount an emptyDir there, or set HOME to a "
                "writable directory.");
  } else {
    report.good(std::string("HOME=") + home + " can be written");
  }
  report.good("uid " + std::to_string(::geteuid()) + ", gid " + std::to_string(::getegid()) +
              (::geteuid() == 0 ? " (some coding tools refuse to work as root)" : ""));
  if (worker::can_execute("git")) {
    report.good("git is in PATH");
  } else {
    report.note(
        "git is not in PATH",
        "Only `agentctl work --git` needs it: install the package git in the agent's image.");
  }
  if (!print(report.text)) return 1;
  return report.bad == 0 ? 0 : 1;
}

}  // namespace

Verb doctor_verb() {
  return {"doctor",
          "",
          "check that everything an agent needs is there, and say the remedy",
          "Exit code 1 when something is BAD; a note only matters to some agents.\n",
          {},
          0,
          0,
          run};
}

}  // namespace swarm::agent
