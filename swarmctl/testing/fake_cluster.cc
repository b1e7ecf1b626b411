#include "testing/fake_cluster.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/check.h"
#include "base/encoding.h"

namespace swarm::testing_support {
namespace {

std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string secret_path(const std::string& swarm) {
  return "/api/v1/namespaces/team/secrets/" + swarm + "-submit";
}

std::string proxy_path(const std::string& swarm, const std::string& path) {
  // As the client writes it: the colon of NAME:PORT stands for itself.
  return "/api/v1/namespaces/team/services/" + swarm + "-tasks:http/proxy/v1" + path;
}

bool send_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

}  // namespace

FakeResponse proxy_says(const std::string& why) {
  return {.status = 500, .body = why + "\n", .type = "text/plain; charset=utf-8"};
}

std::string status_json(int code, const std::string& reason, const std::string& message) {
  return R"({"kind":"Status","apiVersion":"v1","status":"Failure","message":")" + message +
         R"(","reason":")" + reason + R"(","code":)" + std::to_string(code) + "}";
}

FakeCluster::FakeCluster() {
  char pattern[] = "/tmp/swarmctl-test-XXXXXX";
  check(::mkdtemp(pattern) != nullptr, "mkdtemp");
  directory_ = pattern;
  socket_ = directory_ + "/api";
  listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket_.data(), socket_.size());
  check(::bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0,
        "bind");
  check(::listen(listener_, 64) == 0, "listen");
  acceptor_ = std::thread([this] { accept_all(); });

  ::mkdir((directory_ + "/bin").c_str(), 0700);
  ::mkdir((directory_ + "/tmp").c_str(), 0700);
  const std::string kubectl = directory_ + "/bin/kubectl";
  std::ofstream(kubectl) << "#!/bin/sh\n"
                            "echo \"$*\" >> "
                         << directory_
                         << "/calls\n"
                            "if [ \"$1\" = config ]; then case $* in *server*) printf "
                            "https://api.example:6443;; *) printf "
                            "team;; esac; exit 0; fi\n"
                            "if [ -e "
                         << directory_
                         << "/broken ]; then echo 'error: no such context' >&2; exit 1; fi\n"
                            "for word in \"$@\"; do case $word in --unix-socket=*) ln -s "
                         << socket_
                         << " \"${word#--unix-socket=}\";; esac; done\n"
                            "echo $$ >> "
                         << directory_
                         << "/pids\n"
                            "exec sleep 600\n";
  ::chmod(kubectl.c_str(), 0700);
  on("GET", "/apis/cfn.dev/v1alpha1/namespaces/team/swarms", [this](const FakeRequest&) {
    const std::lock_guard lock(mutex_);
    std::string items;
    for (const std::string& name : swarms_)
      items += (items.empty() ? "" : ",") + (R"({"metadata":{"name":")" + name + "\"}}");
    return FakeResponse{200, R"({"kind":"SwarmList","items":[)" + items + "]}"};
  });
}

FakeCluster::~FakeCluster() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (const int fd : connections_) ::shutdown(fd, SHUT_RDWR);
  }
  ::shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  for (std::thread& thread : threads_) thread.join();
  for (const int fd : connections_) ::close(fd);
  ::close(listener_);
  std::error_code ignored;  // a test's leftovers
  std::filesystem::remove_all(directory_, ignored);
}

void FakeCluster::on(const std::string& method, const std::string& path, Handler handler) {
  const std::lock_guard lock(mutex_);
  handlers_[method + " " + path] = std::move(handler);
}

void FakeCluster::on(const std::string& method, const std::string& path, int status,
                     const std::string& body) {
  on(method, path, [status, body](const FakeRequest&) { return FakeResponse{status, body}; });
}

void FakeCluster::add_swarm(const std::string& name) {
  {
    const std::lock_guard lock(mutex_);
    swarms_.push_back(name);
  }
  on("GET", secret_path(name), 200,
     R"({"kind":"Secret","data":{"token":")" + to_base64("secret-" + name) + "\"}}");
}

void FakeCluster::task_api(const std::string& swarm, const std::string& method,
                           const std::string& path, Handler handler) {
  on(method, proxy_path(swarm, path),
     [swarm, handler = std::move(handler)](const FakeRequest& request) {
       const auto token = request.headers.find("x-swarm-token");
       if (token == request.headers.end() || token->second != "secret-" + swarm) {
         return FakeResponse{401, R"({"code":"denied","message":"wrong token"})"};
       }
       return handler(request);
     });
}

void FakeCluster::task_api(const std::string& swarm, const std::string& method,
                           const std::string& path, int status, const std::string& body) {
  task_api(swarm, method, path, [status, body](const FakeRequest&) {
    return FakeResponse{status, body};
  });
}

std::vector<FakeRequest> FakeCluster::received(const std::string& method, const std::string& path) {
  const std::lock_guard lock(mutex_);
  std::vector<FakeRequest> out;
  for (const FakeRequest& request : requests_) {
    if (request.method == method && request.path.ends_with(path)) out.push_back(request);
  }
  return out;
}

void FakeCluster::accept_all() {
  for (;;) {
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    const std::lock_guard lock(mutex_);
    if (stopping_) {
      if (fd >= 0) ::close(fd);
      return;
    }
    if (fd < 0) continue;
    connections_.push_back(fd);
    threads_.emplace_back([this, fd] { serve(fd); });
  }
}

void FakeCluster::serve(int fd) {
  std::string buffer;
  char bytes[65536];
  for (;;) {
    std::size_t head = buffer.find("\r\n\r\n");
    std::size_t length = 0;
    FakeRequest request;
    if (head != std::string::npos) {
      std::istringstream lines(buffer.substr(0, head));
      std::string target;
      std::string line;
      lines >> request.method >> target;
      std::getline(lines, line);
      while (std::getline(lines, line)) {
        const std::size_t colon = line.find(": ");
        std::string name = line.substr(0, colon);
        for (char& c : name) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
        std::string value = line.substr(colon + 2);
        if (!value.empty() && value.back() == '\r') value.pop_back();
        request.headers[name] = value;
      }
      request.path = target.substr(0, target.find('?'));
      request.query =
          target.find('?') == std::string::npos ? "" : target.substr(target.find('?') + 1);
      if (request.headers.contains("content-length"))
        length = std::stoul(request.headers["content-length"]);
    }
    if (head == std::string::npos || buffer.size() < head + 4 + length) {
      const ssize_t n = ::read(fd, bytes, sizeof bytes);
      if (n <= 0) return;
      buffer.append(bytes, static_cast<std::size_t>(n));
      continue;
    }
    request.body = buffer.substr(head + 4, length);
    buffer.erase(0, head + 4 + length);
    Handler handler;
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
      const auto it = handlers_.find(request.method + " " + request.path);
      if (it != handlers_.end()) handler = it->second;
    }
    const FakeResponse response =
        handler ? handler(request) : FakeResponse{404, status_json(404, "NotFound", "not found")};
    if (response.hang_up) {
      ::shutdown(fd, SHUT_RDWR);
      return;
    }
    std::string out = "HTTP/1.1 " + std::to_string(response.status) +
                      " X\r\nContent-Type: " + response.type + "\r\n";
    if (response.chunked) {
      out += "Transfer-Encoding: chunked\r\n\r\n";
      for (std::size_t i = 0; i < response.body.size(); i += 7) {
        const std::string piece = response.body.substr(i, 7);
        std::ostringstream size;
        size << std::hex << piece.size();
        out += size.str() + "\r\n" + piece + "\r\n";
      }
      out += "0\r\n\r\n";
    } else {
      out += "Content-Length: " + std::to_string(response.body.size()) + "\r\n\r\n";
      if (response.head_first) {
        if (!send_all(fd, out)) return;
        (void)::poll(nullptr, 0, 20);  // so that the reader sees it alone
        out.clear();
      }
      out += response.body;
    }
    if (!send_all(fd, out)) return;
    if (response.close) {
      ::shutdown(fd, SHUT_RDWR);
      return;
    }
  }
}

FakeCluster::Ran FakeCluster::run(const std::vector<std::string>& arguments,
                                  const std::string& input, const std::string& input_path,
                                  const std::string& output_path) {
  const std::string in = input_path.empty() ? directory_ + "/in" : input_path;
  const std::string out = output_path.empty() ? directory_ + "/out" : output_path;
  const std::string err = directory_ + "/err";
  if (input_path.empty()) std::ofstream(in, std::ios::binary) << input;
  std::vector<std::string> words{"kubectl-swarm"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<std::string> environment{"PATH=" + directory_ + "/bin:/usr/bin:/bin",
                                       "TMPDIR=" + directory_ + "/tmp", "HOME=" + directory_};
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::vector<char*> envp;
  envp.reserve(environment.size() + 1);
  for (std::string& entry : environment) envp.push_back(entry.data());
  envp.push_back(nullptr);
  const pid_t pid = ::fork();
  check(pid >= 0, "fork");
  if (pid == 0) {
    ::dup2(::open(in.c_str(), O_RDONLY), 0);
    ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
    ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 2);
    ::execve(SWARMCTL_PROGRAM, argv.data(), envp.data());
    ::_exit(126);
  }
  Ran ran;
  int status = 0;
  for (int i = 0; i < 4000; ++i) {
    if (::waitpid(pid, &status, WNOHANG) == pid) {
      ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  if (ran.code < 0) {
    ::kill(pid, SIGTERM);  // it cleans up after itself
    ::waitpid(pid, &status, 0);
  }
  if (output_path.empty()) ran.out = slurp(out);
  ran.err = slurp(err);
  return ran;
}

std::string FakeCluster::kubectl_calls() { return slurp(directory_ + "/calls"); }

std::size_t FakeCluster::proxies_alive() {
  std::ifstream pids(directory_ + "/pids");
  std::size_t alive = 0;
  for (pid_t pid = 0; pids >> pid;) {
    if (::kill(pid, 0) == 0) ++alive;
  }
  return alive;
}

}  // namespace swarm::testing_support
