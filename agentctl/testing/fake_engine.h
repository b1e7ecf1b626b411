// The sidecar's side of the agent socket, played by a test: answers from a script, records every
// request. A thread of its own serves all connections; all public functions may be called from the
// test's thread.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "client/protocol.h"

namespace swarm::agent {

class FakeEngine {
 public:
  // The answer's members as JSON text, for example `"ok":true`; nullopt: no answer.
  using Handler = std::function<std::optional<std::string>(const Object& request)>;

  explicit FakeEngine(std::string path);
  ~FakeEngine();

  void on(const std::string& op, Handler handler);
  // Requests of one kind so far.
  std::vector<Object> received(const std::string& op);
  // Waits until `count` requests of that kind have come. False after 20 s.
  bool wait_for(const std::string& op, std::size_t count);
  // New connections get this line and are closed; "": they are served again. Each that was
  // refused counts as a request "refused".
  void refuse_connections(const std::string& line);
  void start();
  void stop();  // closes everything, as a crash of the engine would

  // Tasks that task_next hands out in turn, as JSON objects. When none is left, task_next gets no
  // answer.
  void add_task(const std::string& task);

 private:
  void serve();
  std::optional<std::string> answer(const Object& request);

  std::string path_;
  std::mutex mutex_;
  std::map<std::string, Handler> handlers_;
  std::vector<Object> requests_;
  std::vector<std::string> tasks_;
  std::string refusal_;
  int listener_ = -1;
  int wake_[2] = {-1, -1};
  std::thread thread_;
};

// A temporary directory, removed at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// agentctl as a child process; its output goes to files.
class Program {
 public:
  // The environment: PATH, HOME, TMPDIR=<directory>, CFN_SOCKET, CFN_AGENT_ID=worker-3,
  // CFN_SWARM=hello, and `more`.
  Program(const TemporaryDirectory& directory, const std::string& socket,
          std::vector<std::string> arguments, std::map<std::string, std::string> more = {},
          const std::string& input = "");
  ~Program();
  // The exit code, or 1000 + signal; -1: still running after 30 s.
  int wait();
  void signal(int number);
  void stop();  // until signal(SIGCONT); it stands still when this returns
  [[nodiscard]] std::string out() const;
  [[nodiscard]] std::string err() const;

 private:
  std::string out_path_;
  std::string err_path_;
  int pid_ = -1;
};

}  // namespace swarm::agent
