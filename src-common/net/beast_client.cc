#include "net/beast_client.h"

#include <openssl/x509v3.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <exception>
#include <limits>
#include <optional>

namespace swarm::net {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
namespace ssl = asio::ssl;
using tcp = asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kMaxHeaderBytes = 64U << 10;
constexpr Milliseconds kForever = std::chrono::hours(24);  // the total deadline comes long before

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

// One call: a private io_context that is run until the operation at hand is over. Deadlines are
// those of beast::tcp_stream; a stop request closes the socket from inside the context.
class Exchange {
 public:
  Exchange(const Url& url, std::stop_token stop) : url_(url), tcp_(io_), stop_(std::move(stop)) {}

  beast::tcp_stream& stream() { return tcp_; }
  asio::io_context& io() { return io_; }

  // `start(done)` begins one asynchronous operation that ends with done(error_code).
  template <typename Start>
  error_code run(Start&& start) {
    std::optional<error_code> result;
    start([&result](error_code ec) { result = ec; });
    const std::stop_callback on_stop(stop_, [this] {
      asio::post(io_, [this] {
        stopped_ = true;
        tcp_.close();
      });
    });
    while (!result) {
      io_.restart();
      if (io_.run_one() == 0 && !result) return asio::error::operation_aborted;
    }
    return *result;
  }

  [[nodiscard]] bool stopped() const { return stopped_ || stop_.stop_requested(); }

  Status connect(Clock::time_point deadline) {
    std::vector<tcp::endpoint> endpoints;
    error_code ec;
    const auto address = asio::ip::make_address(url_.host, ec);
    if (!ec) {
      endpoints.emplace_back(address, static_cast<std::uint16_t>(std::stoul(url_.port)));
    } else {
      // The system's resolver has time limits of its own (resolv.conf); they count against the
      // deadline afterwards.
      tcp::resolver resolver(io_);
      tcp::resolver::results_type found;
      ec = run([&](auto done) {
        resolver.async_resolve(url_.host, url_.port,
                               [&found, done](error_code e, tcp::resolver::results_type r) {
                                 found = std::move(r);
                                 done(e);
                               });
      });
      if (ec) return failed(ec, "resolving " + url_.host, false);
      for (const auto& entry : found) endpoints.push_back(entry.endpoint());
    }
    tcp_.expires_at(deadline);
    ec = run([&](auto done) {
      tcp_.async_connect(endpoints, [done](error_code e, const tcp::endpoint&) { done(e); });
    });
    if (ec) return failed(ec, "connecting to " + url_.host + ":" + url_.port, false);
    error_code ignored;  // latency only
    tcp_.socket().set_option(tcp::no_delay(true), ignored);
    return {};
  }

  Error failed(error_code ec, const std::string& what, bool sent) const {
    if (stopped()) return {Code::kCancelled, what + ": stopped"};
    if (ec == http::error::body_limit || ec == http::error::header_limit) {
      return {Code::kFull, what + ": the answer is too large"};
    }
    const std::string why = ec == beast::error::timeout ? "deadline passed" : ec.message();
    return {sent ? Code::kUnknown : Code::kUnavailable, what + ": " + why};
  }

 private:
  const Url& url_;
  asio::io_context io_{1};
  beast::tcp_stream tcp_;
  std::stop_token stop_;
  bool stopped_ = false;
};

HttpReply reply_of(const http::response<http::string_body>& message) {
  HttpReply out;
  out.status = static_cast<int>(message.result_int());
  for (const auto& field : message)
    out.headers.emplace(lower(field.name_string()), std::string(field.value()));
  return out;
}

class BeastClient final : public HttpClient {
 public:
  BeastClient(HttpClientOptions options, Url url)
      : options_(std::move(options)), url_(std::move(url)), token_(options_.token_file) {}

  Result<HttpReply> send(const HttpCall& call, Milliseconds deadline,
                         std::stop_token stop) override {
    return guarded(call, [&] {
      const auto end = Clock::now() + deadline;
      return with_stream(stop, end, [&](Exchange& exchange, auto& stream) {
        return exchange_whole(exchange, stream, call, end);
      });
    });
  }

  Result<HttpReply> stream(const HttpCall& call, const StreamLimits& limits, const OnLine& on_line,
                           std::stop_token stop) override {
    return guarded(call, [&] {
      const auto start = Clock::now();
      return with_stream(stop, start + limits.headers, [&](Exchange& exchange, auto& stream) {
        return exchange_lines(exchange, stream, call, limits, start, on_line);
      });
    });
  }

 private:
  template <typename Body>
  Result<HttpReply> guarded(const HttpCall& call, Body&& body) {
    try {
      return body();
    } catch (const std::exception& e) {
      return internal_error(call.method + " " + options_.url + ": " + e.what());
    }
  }

  // Connects (and shakes hands), then runs body(exchange, stream).
  template <typename Body>
  Result<HttpReply> with_stream(const std::stop_token& stop, Clock::time_point deadline,
                                Body&& body) {
    Exchange exchange(url_, stop);
    if (exchange.stopped()) return Error{Code::kCancelled, "stopped"};
    const Status connected =
        exchange.connect(std::min(deadline, Clock::now() + options_.connect_timeout));
    if (!connected.ok()) return connected.error();
    if (!url_.tls) return body(exchange, exchange.stream());

    ssl::context context(ssl::context::tls_client);
    error_code ec;
    context.set_options(
        ssl::context::default_workarounds | ssl::context::no_tlsv1 | ssl::context::no_tlsv1_1, ec);
    if (!ec) context.set_verify_mode(ssl::verify_peer, ec);
    if (ec) return internal_error("TLS: " + ec.message());
    context.load_verify_file(options_.ca_file, ec);
    if (ec) return unavailable("CA file " + options_.ca_file + ": " + ec.message());
    beast::ssl_stream<beast::tcp_stream&> stream(exchange.stream(), context);
    // Names and addresses count as the SAN has them; the subject's common name does not.
    error_code not_ip;
    asio::ip::make_address(url_.host, not_ip);
    X509_VERIFY_PARAM* param = SSL_get0_param(stream.native_handle());
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    const bool named =
        not_ip ? X509_VERIFY_PARAM_set1_host(param, url_.host.c_str(), url_.host.size()) == 1 &&
                     SSL_set_tlsext_host_name(stream.native_handle(), url_.host.c_str()) == 1
               : X509_VERIFY_PARAM_set1_ip_asc(param, url_.host.c_str()) == 1;
    if (!named) return internal_error("TLS: cannot set the server's name");
    exchange.stream().expires_at(deadline);
    ec = exchange.run([&](auto done) {
      stream.async_handshake(ssl::stream_base::client, [done](error_code e) { done(e); });
    });
    if (ec) return exchange.failed(ec, "TLS handshake with " + url_.host, false);
    return body(exchange, stream);
  }

  Result<http::request<http::string_body>> request_of(const HttpCall& call) {
    http::request<http::string_body> request;
    request.version(11);
    request.method_string(call.method);
    request.target(call.target);
    const bool v6 = url_.host.find(':') != std::string::npos;
    request.set(http::field::host, (v6 ? "[" + url_.host + "]" : url_.host) + ":" + url_.port);
    request.set(http::field::user_agent, "swarm/" SWARM_VERSION);
    request.set(http::field::connection, "close");
    for (const auto& [name, value] : call.headers) request.set(name, value);
    Result<std::string> token = token_.token();
    if (!token.ok()) return token.error();
    if (!token->empty()) request.set(http::field::authorization, "Bearer " + *token);
    if (!call.content_type.empty()) request.set(http::field::content_type, call.content_type);
    request.body() = call.body;
    request.prepare_payload();
    return request;
  }

  template <typename Stream>
  Status write(Exchange& exchange, Stream& stream, http::request<http::string_body>& request,
               Clock::time_point deadline) {
    exchange.stream().expires_at(deadline);
    const error_code ec = exchange.run([&](auto done) {
      http::async_write(stream, request, [done](error_code e, std::size_t) { done(e); });
    });
    if (ec) return exchange.failed(ec, "sending to " + url_.host, true);
    return {};
  }

  template <typename Stream>
  Result<HttpReply> exchange_whole(Exchange& exchange, Stream& stream, const HttpCall& call,
                                   Clock::time_point deadline) {
    auto request = request_of(call);
    if (!request.ok()) return request.error();
    const Status sent = write(exchange, stream, *request, deadline);
    if (!sent.ok()) return sent.error();
    StreamLimits limits;
    limits.headers = limits.total = limits.idle = kForever;
    return read(exchange, stream, call, limits, deadline, {});
  }

  template <typename Stream>
  Result<HttpReply> exchange_lines(Exchange& exchange, Stream& stream, const HttpCall& call,
                                   const StreamLimits& limits, Clock::time_point start,
                                   const OnLine& on_line) {
    auto request = request_of(call);
    if (!request.ok()) return request.error();
    const Status sent = write(exchange, stream, *request, start + limits.headers);
    if (!sent.ok()) return sent.error();
    return read(exchange, stream, call, limits, start + limits.total, on_line);
  }

  // Reads an answer: with on_line, the lines of a 2xx answer go there. The body's limit is kept
  // here: the parser of Boost 1.74 does not stop responses at its own, and takes "no limit" for a
  // limit of zero.
  template <typename Stream>
  Result<HttpReply> read(Exchange& exchange, Stream& stream, const HttpCall& call,
                         const StreamLimits& limits, Clock::time_point end, const OnLine& on_line) {
    const std::string reading = "reading from " + url_.host;
    beast::flat_buffer buffer;
    http::response_parser<http::string_body> parser;
    parser.header_limit(kMaxHeaderBytes);
    parser.body_limit(std::numeric_limits<std::uint64_t>::max());
    if (call.method == "HEAD") parser.skip(true);
    error_code ec = exchange.run([&](auto done) {
      http::async_read_header(stream, buffer, parser,
                              [done](error_code e, std::size_t) { done(e); });
    });
    if (ec) return exchange.failed(ec, reading, true);
    HttpReply out = reply_of(parser.get());
    if (out.status == 401) token_.forget();
    const bool to_lines = on_line && out.status >= 200 && out.status < 300;
    const auto announced = parser.content_length();
    if (!to_lines && announced && *announced > options_.max_body_bytes) {
      return exchange.failed(http::error::body_limit, reading, true);
    }
    LineSplitter splitter(limits.max_line_bytes);
    while (!parser.is_done()) {
      exchange.stream().expires_at(std::min(end, Clock::now() + limits.idle));
      ec = exchange.run([&](auto done) {
        http::async_read_some(stream, buffer, parser,
                              [done](error_code e, std::size_t) { done(e); });
      });
      std::string& body = parser.get().body();
      if (to_lines) {
        const Result<bool> more = splitter.feed(body, on_line);
        body.clear();
        if (!more.ok()) return more.error();
        if (!*more)
          return exchange.stopped() ? Result<HttpReply>(exchange.failed(ec, reading, true)) : out;
      } else if (body.size() > options_.max_body_bytes) {
        return exchange.failed(http::error::body_limit, reading, true);
      }
      if (to_lines && ec == beast::error::timeout && Clock::now() >= end) return out;
      const bool closed = ec == http::error::end_of_stream || ec == asio::error::eof ||
                          ec == ssl::error::stream_truncated;
      if (to_lines && closed) return out;
      if (ec && !(closed && parser.is_done())) return exchange.failed(ec, reading, true);
    }
    if (!to_lines) out.body = std::move(parser.get().body());
    return out;
  }

  const HttpClientOptions options_;
  const Url url_;
  TokenSource token_;
};

}  // namespace

Result<std::unique_ptr<HttpClient>> make_beast_client(HttpClientOptions options) {
  Result<Url> url = parse_url(options.url);
  if (!url.ok()) return url.error();
  if (url->tls && options.ca_file.empty()) return invalid("an https URL needs a CA file");
  return std::unique_ptr<HttpClient>(
      std::make_unique<BeastClient>(std::move(options), std::move(url).value()));
}

}  // namespace swarm::net
