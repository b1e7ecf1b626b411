// A small HTTP/1.1 server on somebody else's io_context: health, metrics, task API.
//
// Threads: the io_context must be run by exactly one thread; start() is called before or on that
// thread. The
//   handler runs on it and must not block. `Respond` may be called from any thread, once, now or
//   later; later calls are ignored, and a request that nobody answers within Limits::handle_timeout
//   gets 504.
// Ownership: connections keep themselves alive; the HttpServer may be destroyed at any time (it
// stops first).
//   The io_context outlives the server and every outstanding Respond.
// Limits: every one in HttpServerLimits; a request beyond one is answered (400, 413, 431, 503) or,
// when it is late, not, and the
//   connection closed. Where connections or memory for bodies run out, the one whose request has
//   been unfinished (or unasked, or its answer unread) longest ends, so that whoever says a whole
//   request at once is answered. Not a TLS server, not a file server; no compression, no upgrade,
//   no pipelining.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "os/time.h"

namespace boost::asio {
class io_context;
}

namespace swarm::net {

struct HttpRequest {
  std::string method;                        // "GET", "POST", … as sent
  std::string path;                          // percent-decoded, begins with '/', no query
  std::map<std::string, std::string> query;  // percent-decoded; the first of repeated keys wins
  std::map<std::string, std::string>
      headers{};  // names in lower case; the first of repeated ones wins
  std::string body{};
  std::string remote;  // "10.0.0.1:1234", for logs

  // The value of a header by its lower-case name, or empty.
  [[nodiscard]] std::string_view header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? std::string_view() : std::string_view(found->second);
  }
  // The value of a query parameter, nullopt when it was not given.
  [[nodiscard]] std::optional<std::string> parameter(const std::string& name) const {
    const auto found = query.find(name);
    if (found == query.end()) return std::nullopt;
    return found->second;
  }
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body{};
  std::vector<std::pair<std::string, std::string>>
      headers{};  // further ones; no Content-Length, Connection
};

using Respond = std::function<void(HttpResponse)>;
using Handler = std::function<void(HttpRequest, Respond)>;

struct HttpServerLimits {
  std::size_t max_header_bytes = std::size_t{16} << 10;
  std::size_t max_body_bytes = std::size_t{1} << 20;
  std::size_t max_total_body_bytes = std::size_t{16} << 20;  // of requests that are being read
  std::size_t max_connections = 256;
  Milliseconds idle_timeout{60'000};    // between two requests of a connection
  Milliseconds header_timeout{5'000};   // from its first byte, of the first one from the start
  Milliseconds read_timeout{10'000};    // from the first byte of a request to its last
  Milliseconds handle_timeout{90'000};  // from the handler's call to Respond
  Milliseconds write_timeout{10'000};   // for a whole response
};

class HttpServer {
 public:
  HttpServer();
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Listens on address ("0.0.0.0", "::", "127.0.0.1") and port (0: any free one). kUnavailable when
  // it can't.
  Status start(boost::asio::io_context& io, const std::string& address, std::uint16_t port,
               Handler handler, HttpServerLimits limits = {});
  // Connections that were ended or refused since one of the two was full.
  [[nodiscard]] std::uint64_t crowded_out() const;
  // The port it listens on; 0 before start().
  [[nodiscard]] std::uint16_t port() const;
  // No new connections, those between requests are closed at once; requests being handled still get
  // their answer. Any thread, also twice.
  void stop();

 private:
  struct Core;
  std::shared_ptr<Core> core_;
};

// "a%20b+c" -> "a b+c" (plus -> ' ' in queries only); nullopt on a broken escape or a NUL.
std::optional<std::string> percent_decode(std::string_view text, bool plus_is_space);
// Everything but RFC 3986 unreserved characters as %XX.
std::string percent_encode(std::string_view text);
// {"code": …, "message": …} with the HTTP status that the task API gives to that code.
HttpResponse error_response(const Error& error);

}  // namespace swarm::net
