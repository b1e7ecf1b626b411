#include "net/http_server.h"

#include <algorithm>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <exception>
#include <set>

namespace swarm::net {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using tcp = asio::ip::tcp;
using boost::system::error_code;

constexpr Milliseconds kAcceptRetry{100};  // after EMFILE and the like
constexpr std::size_t kReadPiece = std::size_t{4} << 10;

std::optional<unsigned> hex_digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a' + 10);
  if (c >= 'A' && c <= 'F') return static_cast<unsigned>(c - 'A' + 10);
  return std::nullopt;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

// Splits "/path?a=b&c" into path and query; false when it is not a path of our own or badly
// encoded.
bool parse_target(std::string_view target, HttpRequest& out) {
  if (target.empty() || target.front() != '/') return false;
  target = target.substr(0, target.find('#'));
  const std::size_t mark = target.find('?');
  std::optional<std::string> path = percent_decode(target.substr(0, mark), false);
  if (!path) return false;
  out.path = std::move(*path);
  if (mark == std::string_view::npos) return true;
  std::string_view rest = target.substr(mark + 1);
  while (!rest.empty()) {
    const std::size_t end = rest.find('&');
    const std::string_view pair = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    if (pair.empty()) continue;
    const std::size_t equals = pair.find('=');
    std::optional<std::string> key = percent_decode(pair.substr(0, equals), true);
    std::optional<std::string> value = equals == std::string_view::npos
                                           ? std::string()
                                           : percent_decode(pair.substr(equals + 1), true);
    if (!key || !value) return false;
    out.query.emplace(std::move(*key), std::move(*value));
  }
  return true;
}

void append_json_string(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20) {
      out += "\\u00";
      out += kHex[byte >> 4U];
      out += kHex[byte & 15U];
    } else {
      out += c;
    }
  }
  out += '"';
}

int status_of(Code code) {
  switch (code) {
    case Code::kInvalid:
      return 400;
    case Code::kDenied:
      return 403;
    case Code::kNotFound:
      return 404;
    case Code::kConflict:
      return 409;
    case Code::kFull:
      return 429;
    case Code::kUnavailable:
      return 503;
    case Code::kUnknown:
      return 504;
    case Code::kCancelled:
      return 503;
    case Code::kCorrupt:
    case Code::kInternal:
      return 500;
  }
  return 500;
}

class Session;

}  // namespace

struct HttpServer::Core : std::enable_shared_from_this<HttpServer::Core> {
  Core(asio::io_context& context, Handler h, HttpServerLimits l)
      : io(context), acceptor(context), retry(context), handler(std::move(h)), limits(l) {}

  void accept();
  void admit(tcp::socket socket);
  void halt();

  asio::io_context& io;
  tcp::acceptor acceptor;
  asio::steady_timer retry;
  const Handler handler;
  const HttpServerLimits limits;
  // The oldest of those that wait for their peer ends; of those with a body only, if so said.
  // False: there is none but `but`.
  bool end_oldest(bool with_body, const Session* but);
  bool reserve(Session& session, std::size_t bytes);

  std::set<Session*> sessions;  // each takes itself out
  std::size_t body_bytes = 0;   // that may come of the requests being read
  std::uint64_t waits = 0;      // so far: the number of each is its age
  std::uint64_t crowded_out = 0;
  bool stopping = false;
};

namespace {

// The private name Core is only nameable through the class; sessions see what they need of it.
struct Shared {
  std::function<void(Session*)> remove;
  std::function<bool(Session&, std::size_t)> reserve;
  std::size_t* body_bytes;
  std::uint64_t* waits;
  const Handler* handler;
  const HttpServerLimits* limits;
  const bool* stopping;
};

class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(tcp::socket socket, Shared shared)
      : stream_(std::move(socket)), deadline_(stream_.get_executor()), shared_(std::move(shared)) {
    error_code ignored;  // a peer that is gone already: the first read says so
    const auto peer = stream_.socket().remote_endpoint(ignored);
    if (!ignored) remote_ = peer.address().to_string() + ":" + std::to_string(peer.port());
  }
  ~Session() {
    release();
    shared_.remove(this);
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void start() { wait_for_request(); }
  [[nodiscard]] bool idle() const { return idle_; }
  // Since when it waits for its peer; nullopt: the peer waits for us.
  [[nodiscard]] std::optional<std::uint64_t> waits_since() const {
    return waiting_ || closed_ ? std::nullopt : std::optional(waits_since_);
  }
  [[nodiscard]] bool reads_body() const { return reserved_ != 0; }
  void close() {
    closed_ = true;
    release();
    error_code ignored;  // closing is all that can be done
    stream_.socket().shutdown(tcp::socket::shutdown_both, ignored);
    stream_.close();
  }

  void refuse_all() {  // too many connections
    keep_alive_ = false;
    version_ = 11;
    send_answer(
        {503, "text/plain; charset=utf-8", "too many connections\n", {{"Retry-After", "1"}}});
  }

 private:
  void wait_for_request() {
    if (*shared_.stopping) return close();
    waits_since_ = ++*shared_.waits;
    if (buffer_.size() > 0) return read_header();
    idle_ = true;
    stream_.expires_after(request_id_ == 0 ? shared_.limits->header_timeout
                                           : shared_.limits->idle_timeout);
    stream_.async_read_some(buffer_.prepare(kReadPiece),
                            [self = shared_from_this()](error_code ec, std::size_t n) {
                              self->idle_ = false;
                              if (ec) return self->close();
                              self->buffer_.commit(n);
                              self->read_header();
                            });
  }

  void read_header() {
    parser_.emplace();
    parser_->header_limit(static_cast<std::uint32_t>(shared_.limits->max_header_bytes));
    parser_->body_limit(shared_.limits->max_body_bytes);
    waits_since_ = ++*shared_.waits;
    const auto begun = mono_now();
    stream_.expires_after(std::min(shared_.limits->header_timeout, shared_.limits->read_timeout));
    http::async_read_header(
        stream_, buffer_, *parser_, [self = shared_from_this(), begun](error_code ec, std::size_t) {
          if (ec) return self->read_failed(ec);
          if (!self->reserve_body()) return self->no_room();
          self->stream_.expires_at(begun + self->shared_.limits->read_timeout);
          if (beast::iequals(self->parser_->get()[http::field::expect], "100-continue"))
            return self->say_continue();
          self->read_body();
        });
  }

  bool reserve_body() {
    if (parser_->is_done()) return true;
    const auto length = parser_->content_length();
    const std::size_t most = shared_.limits->max_body_bytes;
    const std::size_t bytes = length ? static_cast<std::size_t>(*length) : most;
    if (!shared_.reserve(*this, bytes)) return false;
    reserved_ = bytes;
    return true;
  }
  void release() { *shared_.body_bytes -= std::exchange(reserved_, 0); }
  void no_room() {
    keep_alive_ = false;
    version_ = 11;
    send_answer({503,
                 "text/plain; charset=utf-8",
                 "too many requests are being read\n",
                 {{"Retry-After", "1"}}});
  }

  void say_continue() {
    interim_ = http::response<http::empty_body>(http::status::continue_, parser_->get().version());
    http::async_write(stream_, interim_, [self = shared_from_this()](error_code ec, std::size_t) {
      if (ec) return self->close();
      self->read_body();
    });
  }

  void read_body() {
    http::async_read(stream_, buffer_, *parser_,
                     [self = shared_from_this()](error_code ec, std::size_t) {
                       if (ec) return self->read_failed(ec);
                       self->handle();
                     });
  }

  void read_failed(error_code ec) {
    keep_alive_ = false;
    version_ = 11;
    if (ec == http::error::end_of_stream || ec == http::error::partial_message ||
        ec == asio::error::operation_aborted)
      return close();
    if (ec == http::error::header_limit)
      return send_text(431, "the request's headers are too large\n");
    if (ec == http::error::body_limit) {
      return send_text(413, "the body is larger than " +
                                std::to_string(shared_.limits->max_body_bytes) + " bytes\n");
    }
    if (ec == beast::error::timeout) {
      if (!stream_.socket().is_open()) return;  // Beast has closed it
      return close();
    }
    if (ec.category() == http::make_error_code(http::error::bad_method).category())
      return send_text(400, "not a valid HTTP/1.1 request\n");
    close();
  }

  void handle() {
    auto message = parser_->release();
    parser_.reset();
    version_ = message.version();
    keep_alive_ = message.keep_alive();
    HttpRequest request;
    request.method = std::string(message.method_string());
    head_ = message.method() == http::verb::head;
    request.remote = remote_;
    if (!parse_target(message.target(), request)) {
      keep_alive_ = false;
      return send_text(400, "the request target is not valid\n");
    }
    for (const auto& field : message) {
      request.headers.emplace(lower(field.name_string()), std::string(field.value()));
    }
    request.body = std::move(message.body());
    release();

    const std::uint64_t id = ++request_id_;
    waiting_ = true;
    stream_.expires_never();
    deadline_.expires_after(shared_.limits->handle_timeout);
    // Until the answer or the deadline comes, this wait is what keeps the session alive.
    deadline_.async_wait([self = shared_from_this(), id](error_code ec) {
      if (ec || id != self->request_id_ || !self->waiting_) return;
      self->keep_alive_ = false;
      self->answer(
          id, {504, "text/plain; charset=utf-8", "no answer within the server's time limit\n", {}});
    });
    Respond respond = [weak = weak_from_this(), executor = stream_.get_executor(),
                       id](HttpResponse response) {
      asio::post(executor, [weak, id, response = std::move(response)]() mutable {
        if (const auto self = weak.lock()) self->answer(id, std::move(response));
      });
    };
    try {
      (*shared_.handler)(std::move(request), std::move(respond));
    } catch (const std::exception&) {  // out of memory and the like: this request only
      keep_alive_ = false;
      answer(id, {500, "text/plain; charset=utf-8", "internal error\n", {}});
    }
  }

  void answer(std::uint64_t id, HttpResponse response) {
    if (!waiting_ || id != request_id_) return;
    waiting_ = false;
    deadline_.cancel();
    send_answer(std::move(response));
  }

  void send_text(int status, std::string text) {
    send_answer({status, "text/plain; charset=utf-8", std::move(text), {}});
  }

  void send_answer(HttpResponse answer) {
    if (*shared_.stopping) keep_alive_ = false;
    if (answer.status < 200 || answer.status > 599) answer.status = 500;
    response_ = {};
    response_.version(version_);
    response_.result(static_cast<unsigned>(answer.status));
    const bool no_body = answer.status == 204 || answer.status == 304;
    if (!no_body && !answer.content_type.empty())
      response_.set(http::field::content_type, answer.content_type);
    for (const auto& [name, value] : answer.headers) {
      if (value.find_first_of(std::string("\r\n\0", 3)) == std::string::npos)
        response_.insert(name, value);
    }
    response_.keep_alive(keep_alive_);
    const std::size_t size = answer.body.size();
    if (!head_ && !no_body) response_.body() = std::move(answer.body);
    response_.prepare_payload();
    if (head_ && !no_body) response_.content_length(size);
    waits_since_ = ++*shared_.waits;
    stream_.expires_after(shared_.limits->write_timeout);
    http::async_write(stream_, response_, [self = shared_from_this()](error_code ec, std::size_t) {
      self->response_ = {};
      if (ec) return self->close();
      if (!self->keep_alive_) return self->close();
      self->wait_for_request();
    });
  }

  beast::tcp_stream stream_;
  asio::steady_timer deadline_;
  Shared shared_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  http::response<http::empty_body> interim_;
  http::response<http::string_body> response_;
  std::string remote_;
  std::uint64_t request_id_ = 0, waits_since_ = 0;
  std::size_t reserved_ = 0;  // of the bodies of all
  bool closed_ = false;
  unsigned version_ = 11;
  bool keep_alive_ = true;
  bool head_ = false;
  bool idle_ = false;
  bool waiting_ = false;
};

}  // namespace

void HttpServer::Core::accept() {
  acceptor.async_accept([self = shared_from_this()](error_code ec, tcp::socket socket) {
    if (self->stopping) return;
    if (!ec) {
      self->admit(std::move(socket));
      return self->accept();
    }
    if (ec == asio::error::operation_aborted) return;
    self->retry.expires_after(kAcceptRetry);
    self->retry.async_wait([self](error_code failed) {
      if (!failed && !self->stopping) self->accept();
    });
  });
}

void HttpServer::Core::admit(tcp::socket socket) {
  bool full = false;
  if (sessions.size() >= limits.max_connections) {
    full = !end_oldest(false, nullptr);
    // A second ceiling: what ends, and what only waits for its 503 to be written, is there still.
    if (sessions.size() >= limits.max_connections + limits.max_connections / 4 + 1) {
      if (full) ++crowded_out;
      return;
    }
  }
  error_code ignored;  // latency only
  socket.set_option(tcp::no_delay(true), ignored);
  Shared shared{[core = shared_from_this()](Session* s) { core->sessions.erase(s); },
                [this](Session& s, std::size_t bytes) { return reserve(s, bytes); },
                &body_bytes,
                &waits,
                &handler,
                &limits,
                &stopping};
  auto session = std::make_shared<Session>(std::move(socket), std::move(shared));
  sessions.insert(session.get());
  if (full) {
    ++crowded_out;
    session->refuse_all();
  } else {
    session->start();
  }
}

bool HttpServer::Core::end_oldest(bool with_body, const Session* but) {
  Session* oldest = nullptr;
  for (Session* s : sessions) {
    if (s == but || !s->waits_since() || (with_body && !s->reads_body())) continue;
    if (oldest == nullptr || *s->waits_since() < *oldest->waits_since()) oldest = s;
  }
  if (oldest == nullptr) return false;
  if (!oldest->idle()) ++crowded_out;
  oldest->close();
  return true;
}

bool HttpServer::Core::reserve(Session& session, std::size_t bytes) {
  while (body_bytes + bytes > limits.max_total_body_bytes) {
    if (end_oldest(true, &session)) continue;
    ++crowded_out;
    return false;
  }
  body_bytes += bytes;
  return true;
}

void HttpServer::Core::halt() {
  if (stopping) return;
  stopping = true;
  error_code ignored;  // closing is all that can be done
  acceptor.close(ignored);
  retry.cancel();
  for (Session* session : sessions) {
    if (session->idle()) session->close();
  }
}

HttpServer::HttpServer() = default;
HttpServer::~HttpServer() { stop(); }

Status HttpServer::start(asio::io_context& io, const std::string& address, std::uint16_t port,
                         Handler handler, HttpServerLimits limits) {
  check(!core_, "HttpServer::start twice");
  check(static_cast<bool>(handler), "HttpServer::start without a handler");
  const std::string where = address + ":" + std::to_string(port);
  error_code ec;
  const auto ip = asio::ip::make_address(address, ec);
  if (ec) return invalid("\"" + address + "\" is not an IP address");
  auto core = std::make_shared<Core>(io, std::move(handler), limits);
  const tcp::endpoint endpoint(ip, port);
  core->acceptor.open(endpoint.protocol(), ec);
  if (!ec) core->acceptor.set_option(asio::socket_base::reuse_address(true), ec);
  if (!ec) core->acceptor.bind(endpoint, ec);
  if (!ec) core->acceptor.listen(asio::socket_base::max_listen_connections, ec);
  if (ec) return unavailable("cannot listen on " + where + ": " + ec.message());
  core_ = std::move(core);
  core_->accept();
  return {};
}

std::uint16_t HttpServer::port() const {
  if (!core_) return 0;
  error_code ec;
  const auto endpoint = core_->acceptor.local_endpoint(ec);
  return ec ? std::uint16_t{0} : endpoint.port();
}

std::uint64_t HttpServer::crowded_out() const { return core_ ? core_->crowded_out : 0; }

void HttpServer::stop() {
  if (core_) asio::post(core_->io, [core = core_] { core->halt(); });
}

std::optional<std::string> percent_decode(std::string_view text, bool plus_is_space) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '+' && plus_is_space) {
      c = ' ';
    } else if (c == '%') {
      if (i + 2 >= text.size()) return std::nullopt;
      const auto high = hex_digit(text[i + 1]);
      const auto low = hex_digit(text[i + 2]);
      if (!high || !low) return std::nullopt;
      c = static_cast<char>(*high * 16 + *low);
      i += 2;
    }
    if (c == '\0') return std::nullopt;
    out += c;
  }
  return out;
}

std::string percent_encode(std::string_view text) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
        c == '.' || c == '_' || c == '~') {
      out += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out += '%';
      out += kHex[byte >> 4U];
      out += kHex[byte & 15U];
    }
  }
  return out;
}

HttpResponse error_response(const Error& error) {
  HttpResponse out;
  out.status = status_of(error.code);
  out.content_type = "application/json";
  out.body = "{\"code\":";
  append_json_string(out.body, code_name(error.code));
  out.body += ",\"message\":";
  append_json_string(out.body, error.message);
  out.body += "}\n";
  return out;
}

}  // namespace swarm::net
