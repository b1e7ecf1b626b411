// cpprestsdk needs names that Boost.Asio has deprecated.
#undef BOOST_ASIO_NO_DEPRECATED

#include "net/cpprest_client.h"

#include <cpprest/astreambuf.h>
#include <cpprest/http_client.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <pplx/threadpool.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <optional>

#include "os/file.h"

namespace swarm::net {
namespace {

namespace web_client = web::http::client;
namespace streams = concurrency::streams;

constexpr std::size_t kThreads = 4;
constexpr std::size_t kMaxCaBytes = std::size_t{1} << 20;
constexpr int kMaxCaCertificates = 64;
// cpprestsdk's own timer counts from the last byte; ours decides, this one only ends what we have
// given up.
constexpr std::chrono::seconds kLibraryTimeout{120};

// A store with the certificates of the file and nothing else.
Result<std::shared_ptr<X509_STORE>> load_store(const std::string& path) {
  Result<std::string> text = os::read_file(path, kMaxCaBytes);
  if (!text.ok()) return text.error().in("CA file");
  std::shared_ptr<X509_STORE> store(X509_STORE_new(), X509_STORE_free);
  const std::unique_ptr<BIO, decltype(&BIO_free)> bio(
      BIO_new_mem_buf(text->data(), static_cast<int>(text->size())), BIO_free);
  if (!store || !bio) return internal_error("out of memory");
  int count = 0;
  for (; count < kMaxCaCertificates; ++count) {
    const std::unique_ptr<X509, decltype(&X509_free)> certificate(
        PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr), X509_free);
    if (!certificate) break;
    if (X509_STORE_add_cert(store.get(), certificate.get()) != 1)
      return invalid("CA file " + path + " is not usable");
  }
  ERR_clear_error();  // the end of the file is reported as an error
  if (count == 0) return invalid("CA file " + path + " has no PEM certificate");
  return store;
}

// What the caller's thread and the library's threads share about one call. Lives as long as either
// needs it.
struct Exchange {
  explicit Exchange(std::size_t limit) : max_bytes(limit) {}

  std::mutex mutex;
  std::condition_variable_any changed;
  // Filled by the library:
  std::optional<HttpReply> head;
  std::string bytes;  // of the body, not yet taken
  std::size_t total = 0;
  bool done = false;
  std::string failure;  // not empty: how it ended
  // Set by the caller:
  bool streaming = false;  // back-pressure instead of a limit
  bool abandoned = false;
  const std::size_t max_bytes;
  bool too_large = false;
  std::optional<pplx::task_completion_event<std::size_t>>
      taken;  // completed when `bytes` has been taken
  std::size_t pending = 0;

  void finish(std::string why) {
    const std::lock_guard lock(mutex);
    if (done) return;
    done = true;
    failure = std::move(why);
    changed.notify_all();
  }
};

std::string describe(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    const std::string what = e.what();
    return what.empty() ? "unknown failure" : what;
  } catch (...) {
    return "unknown failure";
  }
}

// Where the library writes the body. Write-only; a write completes when the reader has taken it
// (streaming) or at once, up to the limit.
class Sink final : public streams::details::streambuf_state_manager<std::uint8_t> {
 public:
  explicit Sink(std::shared_ptr<Exchange> exchange)
      : streambuf_state_manager(std::ios_base::out), exchange_(std::move(exchange)) {}

  bool can_seek() const override { return false; }
  bool has_size() const override { return false; }
  std::size_t buffer_size(std::ios_base::openmode) const override { return 0; }
  void set_buffer_size(std::size_t, std::ios_base::openmode) override {}
  std::size_t in_avail() const override { return 0; }
  pos_type getpos(std::ios_base::openmode) const override {
    return static_cast<pos_type>(traits::eof());
  }
  pos_type seekpos(pos_type, std::ios_base::openmode) override {
    return static_cast<pos_type>(traits::eof());
  }
  pos_type seekoff(off_type, std::ios_base::seekdir, std::ios_base::openmode) override {
    return static_cast<pos_type>(traits::eof());
  }
  bool acquire(std::uint8_t*& pointer, std::size_t& count) override {
    pointer = nullptr;
    count = 0;
    return false;
  }
  void release(std::uint8_t*, std::size_t) override {}

 protected:
  pplx::task<int_type> _putc(std::uint8_t byte) override {
    return _putn(&byte, 1).then([byte](std::size_t) { return static_cast<int_type>(byte); });
  }
  pplx::task<std::size_t> _putn(const std::uint8_t* bytes, std::size_t count) override {
    const std::lock_guard lock(exchange_->mutex);
    if (exchange_->abandoned)
      return pplx::task_from_exception<std::size_t>(std::runtime_error("given up"));
    exchange_->total += count;
    if (!exchange_->streaming && exchange_->total > exchange_->max_bytes) {
      exchange_->too_large = true;
      exchange_->changed.notify_all();
      return pplx::task_from_exception<std::size_t>(std::runtime_error("answer too large"));
    }
    exchange_->bytes.append(reinterpret_cast<const char*>(bytes), count);
    if (!exchange_->streaming) return pplx::task_from_result<std::size_t>(count);
    exchange_->pending = count;
    exchange_->taken.emplace();
    exchange_->changed.notify_all();
    return pplx::create_task(*exchange_->taken);
  }
  pplx::task<int_type> _bumpc() override { return no_read(); }
  int_type _sbumpc() override { return traits::eof(); }
  pplx::task<int_type> _getc() override { return no_read(); }
  int_type _sgetc() override { return traits::eof(); }
  pplx::task<int_type> _nextc() override { return no_read(); }
  pplx::task<int_type> _ungetc() override { return no_read(); }
  pplx::task<std::size_t> _getn(std::uint8_t*, std::size_t) override {
    return pplx::task_from_result<std::size_t>(0);
  }
  std::size_t _scopy(std::uint8_t*, std::size_t) override { return 0; }
  pplx::task<bool> _sync() override { return pplx::task_from_result(true); }
  std::uint8_t* _alloc(std::size_t) override { return nullptr; }
  void _commit(std::size_t) override {}

 private:
  static pplx::task<int_type> no_read() { return pplx::task_from_result<int_type>(traits::eof()); }

  std::shared_ptr<Exchange> exchange_;
};

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

class CpprestClient final : public HttpClient {
 public:
  CpprestClient(HttpClientOptions options, std::string host, std::shared_ptr<X509_STORE> store)
      : options_(std::move(options)),
        host_(std::move(host)),
        store_(std::move(store)),
        token_(options_.token_file) {
    pool_ = fresh(kLibraryTimeout);
  }

  Result<HttpReply> send(const HttpCall& call, Milliseconds deadline,
                         std::stop_token stop) override {
    const MonoTime end = mono_now() + deadline;
    std::shared_ptr<web_client::http_client> client = pool();
    bool retry = false;
    Result<HttpReply> first = attempt(*client, call, end, stop, retry);
    if (first.ok() || !retry || mono_now() >= end || stop.stop_requested()) return first;
    // Most likely a pooled connection that the server had closed meanwhile: once more, with
    // connections of its own.
    {
      const std::lock_guard lock(mutex_);
      if (pool_ == client) pool_ = fresh(kLibraryTimeout);
      client = pool_;
    }
    return attempt(*client, call, end, stop, retry);
  }

  Result<HttpReply> stream(const HttpCall& call, const StreamLimits& limits, const OnLine& on_line,
                           std::stop_token stop) override {
    const auto client =
        fresh(std::chrono::duration_cast<std::chrono::seconds>(limits.idle) + kLibraryTimeout);
    auto exchange = std::make_shared<Exchange>(options_.max_body_bytes);
    exchange->streaming = true;
    pplx::cancellation_token_source cancel;
    const Status begun = begin(*client, call, exchange, cancel);
    if (!begun.ok()) return begun.error();
    Result<HttpReply> result = read_lines(*exchange, limits, on_line, stop);
    give_up(*exchange, cancel);
    return result;
  }

 private:
  std::shared_ptr<web_client::http_client> pool() {
    const std::lock_guard lock(mutex_);
    return pool_;
  }

  std::shared_ptr<web_client::http_client> fresh(std::chrono::seconds timeout) const {
    web_client::http_client_config config;
    config.set_timeout(timeout);
    config.set_max_redirects(0);
    config.set_proxy(web::web_proxy(web::web_proxy::disabled));
    if (store_) {
      config.set_ssl_context_callback(
          [store = store_, host = host_](boost::asio::ssl::context& context) {
            SSL_CTX* raw = context.native_handle();
            // The library's own check also takes the subject's common name for a host or an
            // address.
            X509_VERIFY_PARAM* param = SSL_CTX_get0_param(raw);
            X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
            if (X509_VERIFY_PARAM_set1_ip_asc(param, host.c_str()) != 1) {
              X509_VERIFY_PARAM_set1_host(param, host.c_str(), host.size());
            }
            ERR_clear_error();  // a host that is no address is reported as an error
            SSL_CTX_set1_cert_store(raw, store.get());  // takes the place of the system's
            SSL_CTX_set_min_proto_version(raw, TLS1_2_VERSION);
          });
    }
    return std::make_shared<web_client::http_client>(options_.url, config);
  }

  // Starts the call; afterwards exchange tells how it goes.
  Status begin(web_client::http_client& client, const HttpCall& call,
               const std::shared_ptr<Exchange>& exchange, pplx::cancellation_token_source& cancel) {
    Result<std::string> token = token_.token();
    if (!token.ok()) return token.error();
    try {
      web::http::http_request request(call.method);
      request.set_request_uri(web::uri(call.target));
      for (const auto& [name, value] : call.headers) request.headers().add(name, value);
      if (!token->empty()) request.headers().add("Authorization", "Bearer " + *token);
      if (!call.content_type.empty()) request.set_body(call.body, call.content_type);
      const std::shared_ptr<streams::details::basic_streambuf<std::uint8_t>> sink =
          std::make_shared<Sink>(exchange);
      request.set_response_stream(streams::ostream(streams::streambuf<std::uint8_t>(sink)));
      client.request(request, cancel.get_token())
          .then([exchange](const pplx::task<web::http::http_response>& answer) {
            try {
              web::http::http_response response = answer.get();
              HttpReply head;
              head.status = response.status_code();
              for (const auto& [name, value] : response.headers())
                head.headers.emplace(lower(name), value);
              {
                const std::lock_guard lock(exchange->mutex);
                exchange->head = std::move(head);
                exchange->changed.notify_all();
              }
              response.content_ready().then(
                  [exchange](const pplx::task<web::http::http_response>& body) {
                    try {
                      body.get();
                      exchange->finish("");
                    } catch (...) {
                      exchange->finish(describe(std::current_exception()));
                    }
                  });
            } catch (...) {
              exchange->finish(describe(std::current_exception()));
            }
          });
      return {};
    } catch (const std::exception& e) {
      return internal_error(std::string("cpprestsdk: ") + e.what());
    }
  }

  // Nothing of the call may wait for us any longer, nothing more is taken from it.
  static void give_up(Exchange& exchange, pplx::cancellation_token_source& cancel) {
    std::optional<pplx::task_completion_event<std::size_t>> taken;
    {
      const std::lock_guard lock(exchange.mutex);
      exchange.abandoned = true;
      taken.swap(exchange.taken);
    }
    cancel.cancel();
    if (taken) taken->set_exception(std::runtime_error("given up"));
  }

  [[nodiscard]] Error failed(const std::string& why, bool head_seen) const {
    // cpprestsdk's words for what happens before anything is sent.
    const bool unsent = !head_seen && (why.find("connect") != std::string::npos ||
                                       why.find("resolv") != std::string::npos ||
                                       why.find("SSL handshake") != std::string::npos);
    std::string message = options_.url + ": " + why;
    if (why.find("SSL handshake") != std::string::npos) {
      message += "; the server's certificate could not be verified: the CA file " +
                 options_.ca_file + " must have signed it, and it must be for " + host_;
    }
    return {unsent ? Code::kUnavailable : Code::kUnknown, message};
  }

  Result<HttpReply> attempt(web_client::http_client& client, const HttpCall& call, MonoTime end,
                            const std::stop_token& stop, bool& retry) {
    retry = false;
    auto exchange = std::make_shared<Exchange>(options_.max_body_bytes);
    pplx::cancellation_token_source cancel;
    const Status begun = begin(client, call, exchange, cancel);
    if (!begun.ok()) return begun.error();
    std::unique_lock lock(exchange->mutex);
    const bool over = exchange->changed.wait_until(
        lock, stop, end, [&] { return exchange->done || exchange->too_large; });
    if (exchange->too_large) {
      lock.unlock();
      give_up(*exchange, cancel);
      return Error{Code::kFull, options_.url + ": the answer is larger than " +
                                    std::to_string(options_.max_body_bytes) + " bytes"};
    }
    if (!over) {
      const bool stopped = stop.stop_requested();
      lock.unlock();
      give_up(*exchange, cancel);
      if (stopped) return Error{Code::kCancelled, options_.url + ": stopped"};
      return Error{Code::kUnknown, options_.url + ": deadline passed"};
    }
    if (!exchange->failure.empty()) {
      retry = !exchange->head.has_value();
      return failed(exchange->failure, exchange->head.has_value());
    }
    HttpReply out = std::move(*exchange->head);
    out.body = std::move(exchange->bytes);
    if (out.status == 401) token_.forget();
    return out;
  }

  Result<HttpReply> read_lines(Exchange& exchange, const StreamLimits& limits,
                               const OnLine& on_line, const std::stop_token& stop) {
    const MonoTime start = mono_now();
    const MonoTime end = start + limits.total;
    LineSplitter splitter(limits.max_line_bytes);
    std::optional<HttpReply> head;
    bool good = false;
    std::string refusal;  // the body of an answer that is not 2xx
    std::unique_lock lock(exchange.mutex);
    while (true) {
      const MonoTime now = mono_now();
      if (now >= end && head) return *head;
      const MonoTime until =
          head ? std::min(end, now + limits.idle) : std::min(end, start + limits.headers);
      const bool woken = exchange.changed.wait_until(lock, stop, until, [&] {
        // Bytes may be there before the head: they wait for it, and so must we, without holding the
        // lock.
        return exchange.done || (exchange.head && (exchange.taken || !head));
      });
      if (stop.stop_requested()) return Error{Code::kCancelled, options_.url + ": stopped"};
      if (!woken) {
        if (head && mono_now() >= end) return *head;
        return Error{Code::kUnknown,
                     options_.url + (head ? ": the stream fell silent" : ": deadline passed")};
      }
      if (exchange.head && !head) {
        head = exchange.head;
        good = head->status >= 200 && head->status < 300;
        if (head->status == 401) token_.forget();
      }
      // Bytes come only after the head; a body that is there waits until we have seen it.
      if (head && exchange.taken) {
        const std::string bytes = std::exchange(exchange.bytes, {});
        const std::size_t count = exchange.pending;
        pplx::task_completion_event<std::size_t> taken = *exchange.taken;
        exchange.taken.reset();
        lock.unlock();
        bool more = true;
        if (good) {
          const Result<bool> fed = splitter.feed(bytes, on_line);
          if (!fed.ok()) {
            taken.set(count);
            return fed.error();
          }
          more = *fed;
        } else if (refusal.size() + bytes.size() > options_.max_body_bytes) {
          taken.set(count);
          return Error{Code::kFull, options_.url + ": the answer is too large"};
        } else {
          refusal += bytes;
        }
        taken.set(count);
        if (!more) return *head;
        lock.lock();
        continue;
      }
      if (exchange.done) {
        if (!exchange.failure.empty()) return failed(exchange.failure, head.has_value());
        head->body = std::move(refusal);
        return *head;
      }
    }
  }

  const HttpClientOptions options_;
  const std::string host_;
  const std::shared_ptr<X509_STORE> store_;
  TokenSource token_;
  std::mutex mutex_;
  std::shared_ptr<web_client::http_client> pool_;
};

}  // namespace

Result<std::unique_ptr<HttpClient>> make_cpprest_client(HttpClientOptions options) {
  Result<Url> url = parse_url(options.url);
  if (!url.ok()) return url.error();
  if (url->host.find(':') != std::string::npos) {
    return invalid("\"" + options.url +
                   "\": IPv6 addresses are not supported here; use a host name");
  }
  std::shared_ptr<X509_STORE> store;
  if (url->tls) {
    if (options.ca_file.empty()) return invalid("an https URL needs a CA file");
    Result<std::shared_ptr<X509_STORE>> loaded = load_store(options.ca_file);
    if (!loaded.ok()) return loaded.error();
    store = std::move(loaded).value();
  }
  static std::once_flag once;
  std::call_once(once, [] {
    // The library loads OpenSSL's default bundle for each connection before it asks us; there is to
    // be none.
    ::setenv("SSL_CERT_FILE", "/dev/null", 1);
    ::setenv("SSL_CERT_DIR", "/nonexistent", 1);
    try {
      crossplat::threadpool::initialize_with_threads(kThreads);
    } catch (const std::exception&) {
      // Somebody in this process was first: their number of threads it is.
    }
  });
  try {
    return std::unique_ptr<HttpClient>(
        std::make_unique<CpprestClient>(std::move(options), url->host, std::move(store)));
  } catch (const std::exception& e) {
    return internal_error(std::string("cpprestsdk: ") + e.what());
  }
}

}  // namespace swarm::net
