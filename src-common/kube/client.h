// The API server over a net::HttpClient: one call at a time, and where to find the server.
//
// Threads: call() from any thread. Ownership: borrows the HttpClient and the Gate, which outlive
// it. Every call has a deadline. Nothing is retried here: the caller knows what a replay means.
#pragma once

#include <functional>
#include <stop_token>
#include <string>

#include "kube/decode.h"
#include "kube/request.h"
#include "net/http_client.h"

namespace swarm::kube {

inline constexpr Milliseconds kCallDeadline{10'000};

struct Reply {
  int http_status = 0;  // 0: no answer; error.message says why
  std::string body;     // of a 2xx answer
  ApiError error;       // of any other
  Code transport =
      Code::kUnavailable;  // http_status 0: kUnknown when it may have been processed all the same

  [[nodiscard]] bool ok() const { return http_status >= 200 && http_status < 300; }
  // False when the server may have done it though we have no answer.
  [[nodiscard]] bool certain() const { return http_status != 0 || transport != Code::kUnknown; }
  [[nodiscard]] Error failure() const {
    return http_status == 0 ? Error{transport, error.message} : error.error();
  }
};

class Client {
 public:
  // How long writes are still allowed; zero or less: not at all. Asked before every request that is
  // not a GET, whose deadline it also caps.
  using Gate = std::function<Milliseconds()>;
  // Told about every call: method, HTTP status (0: none) and duration.
  using Observer =
      std::function<void(const std::string& method, int http_status, Milliseconds took)>;

  explicit Client(net::HttpClient& http, Gate gate = {}, Observer observer = {});

  Reply call(const Request& request, std::stop_token stop = {},
             Milliseconds deadline = kCallDeadline);

 private:
  net::HttpClient& http_;
  Gate gate_;
  Observer observer_;
};

struct ClusterFlags {
  std::string api_server;  // empty: in-cluster
  std::string token_file;
  std::string ca_file;
};
// From flags, else from the pod's environment and service-account volume. kInvalid says what is
// missing.
Result<net::HttpClientOptions> cluster_options(const ClusterFlags& flags);

}  // namespace swarm::kube
