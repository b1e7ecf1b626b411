// What kubectl proxy would reach, played by a test: an HTTP server on a unix socket with a handler
// per path, and a `kubectl` for the PATH that leads to it. Every connection has a thread.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace swarm::testing_support {

struct FakeRequest {
  std::string method;
  std::string path;  // without the query
  std::string query;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
};

struct FakeResponse {
  int status = 200;
  std::string body{};
  bool chunked = false;
  bool close = false;    // after the response
  bool hang_up = false;  // instead of a response
  std::string type = "application/json";
  bool head_first = false;  // the body comes in a packet of its own
};

class FakeCluster {
 public:
  using Handler = std::function<FakeResponse(const FakeRequest&)>;

  FakeCluster();
  ~FakeCluster();

  // Answers requests "METHOD path"; without a handler the answer is a Status of 404.
  void on(const std::string& method, const std::string& path, Handler handler);
  void on(const std::string& method, const std::string& path, int status, const std::string& body);
  // Swarms of these names in namespace "team", with Secrets whose token is "secret-NAME".
  void add_swarm(const std::string& name);
  // Below the service proxy of a swarm: task_api("hello", "GET", "/tasks/t-0-1", …).
  void task_api(const std::string& swarm, const std::string& method, const std::string& path,
                Handler handler);
  void task_api(const std::string& swarm, const std::string& method, const std::string& path,
                int status, const std::string& body);

  std::vector<FakeRequest> received(const std::string& method, const std::string& path);
  [[nodiscard]] const std::string& socket_path() const { return socket_; }
  [[nodiscard]] const std::string& directory() const { return directory_; }

  struct Ran {
    int code = -1;
    std::string out;
    std::string err;
  };
  // Runs the program with the fake kubectl in PATH. Not "": what its standard input and output are
  // instead of `input` and a file, which is `out`.
  Ran run(const std::vector<std::string>& arguments, const std::string& input = "",
          const std::string& input_path = "", const std::string& output_path = "");
  // What the fake kubectl was called with, one line per call.
  std::string kubectl_calls();
  // The fake proxies that are still alive.
  std::size_t proxies_alive();

 private:
  void accept_all();
  void serve(int fd);

  std::string directory_;
  std::string socket_;
  std::mutex mutex_;
  std::map<std::string, Handler> handlers_;
  std::vector<FakeRequest> requests_;
  std::vector<std::string> swarms_;
  std::vector<int> connections_;
  std::vector<std::thread> threads_;
  int listener_ = -1;
  bool stopping_ = false;
  std::thread acceptor_;
};

// What kubectl proxy answers when it does not reach the API server.
FakeResponse proxy_says(const std::string& why);
std::string status_json(int code, const std::string& reason, const std::string& message);

}  // namespace swarm::testing_support
