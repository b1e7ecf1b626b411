// HTTP/1.1 over a unix socket: to `kubectl proxy`, which does TLS and every kind of login.
//
// Synchronous, one connection that is kept and reused, a deadline on everything. A reused
// connection that turns out to be closed is opened anew and the request repeated once. Threads: one
// per client; make one for each.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "base/result.h"
#include "os/time.h"

namespace swarm::cluster {

inline constexpr std::size_t kMostResponseBytes = 64U << 20U;

struct HttpRequest {
  std::string method = "GET";
  std::string target{};  // path and query
  std::map<std::string, std::string> headers{};
  std::string body{};
};

struct HttpResponse {
  int status = 0;
  std::string content_type;
  std::string body;
};

class HttpClient {
 public:
  explicit HttpClient(std::string socket_path) : path_(std::move(socket_path)) {}
  HttpClient(const HttpClient& other)
      : path_(other.path_) {}  // the same server, a connection of its own
  HttpClient& operator=(const HttpClient&) = delete;
  ~HttpClient() { close(); }

  // kUnavailable: not connected, nothing was sent. kUnknown: sent, but no (whole) response came.
  // kFull: a response beyond kMostResponseBytes. Any status is a value.
  Result<HttpResponse> send(const HttpRequest& request, MonoTime deadline);

  // As send, but a 200 body goes to `take` piece by piece, and is unlimited; other statuses come
  // back with their body. `go_on` is asked at least every 200 ms; when it says false, the
  // connection is closed and what came so far is all.
  Result<HttpResponse> stream(const HttpRequest& request,
                              const std::function<void(std::string_view)>& take,
                              const std::function<bool()>& go_on);

 private:
  Status connect(MonoTime deadline);
  Status write_all(std::string_view bytes, MonoTime deadline);
  void close();

  std::string path_;
  int fd_ = -1;
};

}  // namespace swarm::cluster
