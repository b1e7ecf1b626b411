#include "cluster/http.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cerrno>
#include <cstring>

namespace swarm::cluster {
namespace {

namespace http = boost::beast::http;

constexpr std::size_t kReadBytes = 65536;
constexpr std::size_t kMostHeaderBytes = 65536;
constexpr std::uint64_t kMostBodyBytes = std::uint64_t{1} << 30;
constexpr Milliseconds kStreamPoll{200};
constexpr Milliseconds kStreamSendLimit{10'000};

// True when `fd` is ready within the deadline.
bool wait_for(int fd, short events, MonoTime deadline) {
  for (;;) {
    const auto left = std::clamp<std::int64_t>((deadline - mono_now()).count(), 0, 3'600'000);
    pollfd entry{fd, events, 0};
    const int n = ::poll(&entry, 1, static_cast<int>(left));
    if (n > 0) return true;
    if (n == 0 || errno != EINTR) return false;
  }
}

std::string serialize(const HttpRequest& request) {
  // kubectl proxy accepts only requests for localhost.
  std::string out = request.method + " " + request.target +
                    " HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n";
  for (const auto& [name, value] : request.headers) out += name + ": " + value + "\r\n";
  if (request.method != "GET")
    out += "Content-Length: " + std::to_string(request.body.size()) + "\r\n";
  return out + "\r\n" + request.body;
}

// Feeds received bytes to Beast's parser.
class Reader {
 public:
  Reader() {
    parser_.header_limit(kMostHeaderBytes);
    parser_.eager(true);
    parser_.body_limit(
        kMostBodyBytes);  // not none: Beast 1.74 then refuses every answer with a Content-Length
  }
  Status put(std::string_view bytes) {
    pending_ += bytes;
    while (!pending_.empty() && !parser_.is_done()) {
      boost::system::error_code error;
      const std::size_t used = parser_.put(boost::asio::buffer(pending_), error);
      pending_.erase(0, used);
      if (error == http::error::need_more) return {};
      if (error) return Error{Code::kUnknown, "the answer is not HTTP: " + error.message()};
      if (used == 0) return {};
    }
    return {};
  }
  Status end() {
    if (!begun()) return Error{Code::kUnknown, "the connection was closed without an answer"};
    boost::system::error_code error;
    parser_.put_eof(error);
    if (error) return Error{Code::kUnknown, "the connection broke in the middle of the answer"};
    return {};
  }
  [[nodiscard]] bool begun() const { return parser_.got_some(); }
  [[nodiscard]] bool has_header() const { return parser_.is_header_done(); }
  [[nodiscard]] bool done() const { return parser_.is_done(); }
  [[nodiscard]] bool keep_alive() const { return parser_.get().keep_alive(); }
  [[nodiscard]] int status() const { return static_cast<int>(parser_.get().result_int()); }
  std::string& body() { return parser_.get().body(); }
  HttpResponse take() {
    HttpResponse response;
    response.status = status();
    const auto type = parser_.get().find(http::field::content_type);
    if (type != parser_.get().end()) response.content_type = std::string(type->value());
    response.body = std::move(body());
    return response;
  }

 private:
  http::response_parser<http::string_body> parser_;
  std::string pending_;
};

}  // namespace

void HttpClient::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Status HttpClient::connect(MonoTime deadline) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path_.size() >= sizeof address.sun_path)
    return invalid("the path of kubectl's socket is too long: set a shorter TMPDIR");
  std::memcpy(address.sun_path, path_.data(), path_.size());
  fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd_ < 0) return unavailable(std::string("socket: ") + std::strerror(errno));
  // EAGAIN: the server's backlog is full.
  while (::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int error = errno;
    if ((error != EAGAIN && error != EINTR) || mono_now() >= deadline) {
      close();
      return unavailable(std::string("no connection to kubectl proxy: ") + std::strerror(error));
    }
    (void)::poll(nullptr, 0, 5);  // a pause; waking early does no harm
  }
  return {};
}

Status HttpClient::write_all(std::string_view bytes, MonoTime deadline) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n > 0) {
      bytes.remove_prefix(static_cast<std::size_t>(n));
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else if (n < 0 && errno == EAGAIN) {
      if (!wait_for(fd_, POLLOUT, deadline))
        return Error{Code::kUnknown, "kubectl proxy takes no data"};
    } else {
      return Error{Code::kUnknown,
                   std::string("kubectl proxy closed the connection: ") + std::strerror(errno)};
    }
  }
  return {};
}

Result<HttpResponse> HttpClient::send(const HttpRequest& request, MonoTime deadline) {
  const std::string bytes = serialize(request);
  for (;;) {
    const bool reused = fd_ >= 0;
    if (!reused) {
      const Status connected = connect(deadline);
      if (!connected) return connected.error();
    }
    Reader reader;
    Status state = write_all(bytes, deadline);
    char buffer[kReadBytes];
    bool closed = !state.ok();
    while (state.ok() && !reader.done()) {
      if (!wait_for(fd_, POLLIN, deadline)) {
        close();
        return Error{Code::kUnknown, "no answer in time"};
      }
      const ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (n <= 0) {
        closed = true;
        state = reader.end();
        break;
      }
      state = reader.put(std::string_view(buffer, static_cast<std::size_t>(n)));
      if (reader.has_header() && reader.body().size() > kMostResponseBytes) {
        close();
        return Error{Code::kFull, "the answer is larger than 64 MiB"};
      }
    }
    if (closed && reused && !reader.begun()) {
      close();  // an idle connection that the server had closed: once more with a new one
      continue;
    }
    if (!state) {
      close();
      return state.error();
    }
    if (closed || !reader.keep_alive()) close();
    return reader.take();
  }
}

Result<HttpResponse> HttpClient::stream(const HttpRequest& request,
                                        const std::function<void(std::string_view)>& take,
                                        const std::function<bool()>& go_on) {
  close();
  const MonoTime limit = mono_now() + kStreamSendLimit;
  const Status connected = connect(limit);
  if (!connected) return connected.error();
  Status state = write_all(serialize(request), limit);
  Reader reader;
  char buffer[kReadBytes];
  const auto pass_on = [&] {
    if (!reader.has_header() || reader.status() != 200 || reader.body().empty()) return;
    take(reader.body());
    reader.body().clear();
  };
  while (state.ok() && !reader.done()) {
    if (!go_on()) {
      close();
      HttpResponse stopped;
      stopped.status = 200;
      return stopped;
    }
    if (!wait_for(fd_, POLLIN, mono_now() + kStreamPoll)) continue;
    const ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) {
      state = reader.end();
      break;
    }
    state = reader.put(std::string_view(buffer, static_cast<std::size_t>(n)));
    pass_on();
    if (reader.has_header() && reader.body().size() > kMostResponseBytes)
      state = Error{Code::kFull, "an answer beyond 64 MiB"};
  }
  pass_on();
  close();
  if (!state) return state.error();
  return reader.take();
}

}  // namespace swarm::cluster
