// HTTP(S) to one server, blocking: the seam behind which the HTTP libraries stand.
//
// Two adapters: make_cpprest_client (net/cpprest_client.h, the operator) and make_beast_client
// (net/beast_client.h, light, the sidecar). Both: total deadline per call, TLS verified against
// ca_file and nothing else, name or IP checked against the certificate's SAN, redirects returned
// and never followed, bearer token re-read from its file (it rotates), bodies bounded.
//
// Threads: send() and stream() may be called from several threads at once; each call uses a
// connection of its own. Errors: kUnavailable = surely not processed, or safe to say so (no
// connection); kUnknown = the request may have
//   been processed (connection lost or deadline passed after sending); kFull = body over the limit;
//   kCancelled = stop was requested; kInvalid = the request or options themselves. Any HTTP status
//   at all is a value.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "os/time.h"

namespace swarm::net {

struct HttpCall {
  std::string method = "GET";
  std::string target = "/";    // path and query, already percent-encoded
  std::string content_type{};  // empty: no body
  std::string body{};
  std::vector<std::pair<std::string, std::string>>
      headers{};  // further ones; Authorization is the adapter's
};

struct HttpReply {
  int status = 0;
  std::map<std::string, std::string> headers{};  // names in lower case
  std::string body{};                            // of stream(): only when status is not 2xx
};

// Gets each line without its newline; false ends the stream. Called on the thread that called
// stream().
using OnLine = std::function<bool(std::string_view line)>;

struct StreamLimits {
  Milliseconds total{600'000};   // then the stream ends as if the server had closed it
  Milliseconds idle{90'000};     // no byte for so long: kUnknown
  Milliseconds headers{30'000};  // until status and headers are there
  std::size_t max_line_bytes = std::size_t{4} << 20;  // longer: kFull
};

class HttpClient {
 public:
  virtual ~HttpClient() = default;
  // Sends and reads the whole answer within `deadline`.
  virtual Result<HttpReply> send(const HttpCall& call, Milliseconds deadline,
                                 std::stop_token stop = {}) = 0;
  // A 2xx answer's body goes line by line to on_line until the server closes, on_line returns false
  // or the total time is over; all of these are a value. An unfinished last line is dropped.
  virtual Result<HttpReply> stream(const HttpCall& call, const StreamLimits& limits,
                                   const OnLine& on_line, std::stop_token stop = {}) = 0;
};

struct HttpClientOptions {
  std::string url;        // "https://10.0.0.1:6443" or "http://…"; no path, no trailing slash
  std::string ca_file{};  // PEM; https trusts only these. Re-read for every connection (beast), at
                          // start (cpprest)
  std::string token_file{};  // empty: no Authorization header
  std::size_t max_body_bytes = std::size_t{64} << 20;
  Milliseconds connect_timeout{5'000};
};

// Reads a token file at most once every 30 s; on failure the last good token is kept. Thread-safe.
class TokenSource {
 public:
  explicit TokenSource(std::string path);
  ~TokenSource();
  // Empty when there is no path; kUnavailable when it has never been readable.
  Result<std::string> token();
  // Read the file again at the next call (after a 401).
  void forget();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// "https://host:port" taken apart; kInvalid with the reason otherwise.
struct Url {
  bool tls = false;
  std::string host;  // IPv6 literals without brackets
  std::string port;
};
Result<Url> parse_url(std::string_view url);

// Puts lines together from bytes that come in any pieces. Pure; one thread.
class LineSplitter {
 public:
  explicit LineSplitter(std::size_t max_line_bytes) : max_line_bytes_(max_line_bytes) {}
  // Calls on_line for every complete line (without "\n" or "\r\n"; empty lines are skipped). False:
  // on_line said so. kFull: a line is longer than allowed.
  Result<bool> feed(std::string_view bytes, const OnLine& on_line);

 private:
  std::size_t max_line_bytes_;
  std::string partial_;
};

}  // namespace swarm::net
