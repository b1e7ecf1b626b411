// The server with real sockets on loopback, and both clients against it.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <thread>

#include "net/beast_client.h"
#include "net/cpprest_client.h"
#include "net/http_server.h"

namespace swarm::net {
namespace {

namespace asio = boost::asio;
using ::testing::HasSubstr;
using ::testing::StartsWith;

HttpServerLimits quick() {
  HttpServerLimits limits;
  limits.max_body_bytes = 1000;
  limits.max_connections = 8;
  limits.read_timeout = Milliseconds{300};
  limits.handle_timeout = Milliseconds{300};
  limits.idle_timeout = Milliseconds{2000};
  return limits;
}

// A server on a thread of its own. /echo answers what it was sent; /never answers nobody; /keep
// keeps the Respond.
class Server {
 public:
  explicit Server(HttpServerLimits limits = quick()) : work_(asio::make_work_guard(io_)) {
    const Status started = server_.start(
        io_, "127.0.0.1", 0,
        [this](HttpRequest r, Respond d) { handle(std::move(r), std::move(d)); }, limits);
    check(started.ok(), "server start");
    port = server_.port();
    thread_ = std::thread([this] { io_.run(); });
  }
  ~Server() {
    server_.stop();
    work_.reset();
    io_.stop();
    thread_.join();
  }
  HttpServer& http() { return server_; }
  [[nodiscard]] std::string url() const { return "http://127.0.0.1:" + std::to_string(port); }
  // The Respond of the last /keep, once there is one.
  Respond kept() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return static_cast<bool>(kept_); });
    return kept_;
  }

  std::uint16_t port = 0;
  std::atomic<int> requests{0};

 private:
  void handle(HttpRequest request, Respond respond) {
    ++requests;
    if (request.path == "/never") return;
    if (request.path == "/throw") throw std::runtime_error("handler");
    if (request.path == "/keep") {
      const std::lock_guard lock(mutex_);
      kept_ = std::move(respond);
      changed_.notify_all();
      return;
    }
    if (request.path == "/lines")
      return respond({200, "text/plain", "one\ntwo\nthree\nunfinished", {}});
    if (request.path == "/redirect") return respond({302, "", "", {{"Location", "/echo"}}});
    if (request.path == "/big") return respond({200, "text/plain", std::string(100'000, 'x'), {}});
    if (request.path == "/busy")
      return respond({429, "application/json", "{\"a\":1}", {{"Retry-After", "7"}}});
    if (request.path == "/inject")
      return respond({200, "text/plain", "", {{"X-A", "1\r\nX-B: 2"}}});
    std::string out = request.method + " " + request.path + "|" +
                      request.parameter("q").value_or("-") + "|" +
                      std::string(request.header("x-test")) + "|" +
                      std::string(request.header("authorization")) + "|" + request.body;
    respond({200, "text/plain", out, {}});
  }

  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  HttpServer server_;
  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Respond kept_;
};

// A plain socket: whatever bytes, and everything that comes back until the end.
class Raw {
 public:
  explicit Raw(std::uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    timeval limit{5, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    connected = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~Raw() { ::close(fd_); }
  Raw(const Raw&) = delete;
  Raw& operator=(const Raw&) = delete;
  void say(std::string_view bytes) {
    sent_ = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  std::string hear_until(std::string_view end) {
    std::string out;
    char piece[4096];
    while (out.find(end) == std::string::npos) {
      const ssize_t n = ::recv(fd_, piece, sizeof piece, 0);
      if (n <= 0) break;
      out.append(piece, static_cast<std::size_t>(n));
    }
    return out;
  }
  std::string hear_all() { return hear_until(std::string(1, '\0')); }
  bool connected = false;

 private:
  int fd_;
  ssize_t sent_ = 0;
};

TEST(HttpServer, AnswersAndKeepsTheConnection) {
  Server server;
  Raw raw(server.port);
  raw.say(
      "POST /a%20b?q=1%2B2&q=no HTTP/1.1\r\nHost: x\r\nX-Test: t\r\nContent-Length: 4\r\n\r\nbody");
  EXPECT_THAT(raw.hear_until("|body"), HasSubstr("POST /a b|1+2|t||body"));
  raw.say("GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string rest = raw.hear_all();
  EXPECT_THAT(rest, HasSubstr("Connection: close"));
  EXPECT_THAT(rest, HasSubstr("GET /x|-|"));
}

TEST(HttpServer, HeadHasTheLengthAndNoBody) {
  Server server;
  Raw raw(server.port);
  raw.say("HEAD /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string answer = raw.hear_all();
  EXPECT_THAT(answer, HasSubstr("Content-Length: 100000"));
  EXPECT_LT(answer.size(), 1000U);
}

TEST(HttpServer, RefusesWhatIsTooMuchOrNoRequest) {
  struct Row {
    std::string bytes, status;
  };
  const Row rows[] = {
      {"GET / HTTP/1.1\r\nX: " + std::string(20'000, 'a') + "\r\n\r\n", "HTTP/1.1 431"},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", "HTTP/1.1 413"},
      {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5dc\r\n" +
           std::string(1500, 'x'),
       "HTTP/1.1 413"},
      {"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 400"},
      {"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "HTTP/1.1 400"},
      {"hello\r\n\r\n", "HTTP/1.1 400"},
      {"GET / HTTP/9.9\r\n\r\n", "HTTP/1.1 400"},
      {"GET /%zz HTTP/1.1\r\n\r\n", "HTTP/1.1 400"},
      {"GET /%00 HTTP/1.1\r\n\r\n", "HTTP/1.1 400"},
      {"GET http://other/ HTTP/1.1\r\n\r\n", "HTTP/1.1 400"},
      {std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11) + "\r\n\r\n",
       "HTTP/1.1 400"},
  };
  Server server;
  for (const Row& row : rows) {
    Raw raw(server.port);
    raw.say(row.bytes);
    EXPECT_THAT(raw.hear_all(), StartsWith(row.status)) << row.bytes.substr(0, 60);
  }
  EXPECT_EQ(server.requests, 0);
}

TEST(HttpServer, HalfARequestIsCutOffAtTheReadDeadline) {
  Server server;
  for (const std::string_view part :
       {"GET / HT", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"}) {
    Raw raw(server.port);
    raw.say(part);
    EXPECT_EQ(raw.hear_all(), "");
  }
}

TEST(HttpServer, AnswersLaterFromAnotherThreadOnce) {
  Server server;
  Raw raw(server.port);
  raw.say("GET /keep HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const Respond respond = server.kept();
  std::thread([&] {
    respond({201, "text/plain", "later", {}});
    respond({500, "text/plain", "twice", {}});
  }).join();
  const std::string answer = raw.hear_all();
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 201"));
  EXPECT_THAT(answer, Not(HasSubstr("twice")));
  respond({200, "text/plain", "after the connection is gone", {}});
}

TEST(HttpServer, UnansweredAndThrowingHandlersGetAnErrorAnswer) {
  Server server;
  Raw never(server.port);
  never.say("GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(never.hear_all(), StartsWith("HTTP/1.1 504"));
  Raw thrown(server.port);
  thrown.say("GET /throw HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(thrown.hear_all(), StartsWith("HTTP/1.1 500"));
}

TEST(HttpServer, HeadersOfAnswersCannotBeSplit) {
  Server server;
  Raw raw(server.port);
  raw.say("GET /inject HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(raw.hear_all(), Not(HasSubstr("X-B")));
}

TEST(HttpServer, ContinuesBodiesThatWaitForIt) {
  Server server;
  Raw raw(server.port);
  raw.say("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_THAT(raw.hear_until("\r\n\r\n"), StartsWith("HTTP/1.1 100"));
  raw.say("ok");
  EXPECT_THAT(raw.hear_until("|ok"), HasSubstr("|ok"));
}

TEST(HttpServer, IdleConnectionsMakeRoomBusyOnesDoNot) {
  Server server;
  std::vector<std::unique_ptr<Raw>> idle;
  for (int i = 0; i < 8; ++i) {
    idle.push_back(std::make_unique<Raw>(server.port));
    idle.back()->say("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    idle.back()->hear_until("|");
  }
  Raw next(server.port);
  next.say("GET /next HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(next.hear_until("/next|"), HasSubstr("GET /next|"));

  Server busy([] {
    HttpServerLimits limits = quick();
    limits.handle_timeout = Milliseconds{1500};
    return limits;
  }());
  std::vector<std::unique_ptr<Raw>> waiting;
  for (int i = 0; i < 8; ++i) {
    waiting.push_back(std::make_unique<Raw>(busy.port));
    waiting.back()->say("GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
  }
  while (busy.requests < 8) std::this_thread::yield();
  Raw refused(busy.port);
  EXPECT_THAT(refused.hear_all(), StartsWith("HTTP/1.1 503"));
}

TEST(HttpServer, SlowRequestsMakeRoomForThoseThatAreWhole) {
  HttpServerLimits limits = quick();
  limits.read_timeout = Milliseconds{20'000};
  Server server(limits);
  std::vector<std::unique_ptr<Raw>> slow;
  for (int i = 0; i < 30; ++i) {
    slow.push_back(std::make_unique<Raw>(server.port));
    slow.back()->say(i % 3 == 0   ? ""
                     : i % 3 == 1 ? "GET / HT"
                                  : "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\nab");
  }
  for (int i = 0; i < 5; ++i) {
    Raw probe(server.port);
    probe.say("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    EXPECT_THAT(probe.hear_all(), StartsWith("HTTP/1.1 200")) << i;
  }
}

TEST(HttpServer, BodiesHaveATotalAndTheOldestUnfinishedOneGivesWay) {
  HttpServerLimits limits = quick();
  limits.max_body_bytes = 8U << 20U;
  limits.max_connections = 64;
  limits.read_timeout = Milliseconds{20'000};
  Server server(limits);
  const std::string part(64U << 10U, 'x');
  std::vector<std::unique_ptr<Raw>> slow;
  for (int i = 0; i < 5; ++i) {  // 7 MiB each, 16 MiB in all
    slow.push_back(std::make_unique<Raw>(server.port));
    slow.back()->say("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 7340032\r\n\r\n" + part);
    Raw probe(server.port);  // by its answer, the request above has been looked at
    probe.say("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    EXPECT_THAT(probe.hear_all(), StartsWith("HTTP/1.1 200"));
  }
  const auto begin = mono_now();
  EXPECT_EQ(slow[0]->hear_all(), "");
  EXPECT_EQ(slow[2]->hear_all(), "");
  EXPECT_LT(mono_now() - begin, Milliseconds{1000}) << "they were ended, not only silent";
  Raw whole(server.port);
  whole.say("POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody");
  EXPECT_THAT(whole.hear_all(), HasSubstr("|body"));
}

TEST(HttpServer, StopClosesIdleConnectionsAndTheListener) {
  Server server;
  Raw raw(server.port);
  raw.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  raw.hear_until("|");
  server.http().stop();
  EXPECT_EQ(raw.hear_all(), "");
  Raw late(server.port);
  EXPECT_TRUE(!late.connected || late.hear_all().empty());
}

TEST(HttpServer, SaysWhyItCannotListen) {
  Server server;
  asio::io_context io(1);
  HttpServer second;
  const Handler handler = [](HttpRequest, Respond) {};
  EXPECT_EQ(second.start(io, "not-an-ip", 0, handler).error().code, Code::kInvalid);
  EXPECT_THAT(second.start(io, "127.0.0.1", server.port, handler).error().message,
              HasSubstr("cannot listen"));
}

// ---- Clients. Both must behave alike.

using Make = Result<std::unique_ptr<HttpClient>> (*)(HttpClientOptions);
class Client : public ::testing::TestWithParam<Make> {
 protected:
  static std::unique_ptr<HttpClient> make(HttpClientOptions options) {
    auto client = GetParam()(std::move(options));
    check(client.ok(), "client");
    return std::move(client).value();
  }
  static constexpr Milliseconds kSoon{3000};
};

TEST_P(Client, SendsMethodHeadersBodyAndToken) {
  Server server;
  const std::string token =
      ::testing::TempDir() + "http_test." + std::to_string(::getpid()) + ".token";
  std::ofstream(token) << "s3cret\n";
  const auto client = make({server.url(), "", token});
  const auto reply =
      client->send({"PATCH", "/e?q=1", "text/plain", "hello", {{"X-Test", "t"}}}, kSoon);
  ASSERT_TRUE(reply.ok()) << reply.error().message;
  EXPECT_EQ(reply->status, 200);
  EXPECT_EQ(reply->body, "PATCH /e|1|t|Bearer s3cret|hello");
  const auto missing = make({server.url(), "", token + ".absent"});
  EXPECT_EQ(missing->send({}, kSoon).error().code, Code::kUnavailable);
}

TEST_P(Client, EveryStatusIsAValueAndRedirectsAreNotFollowed) {
  Server server;
  const auto client = make({server.url(), "", ""});
  const auto busy = client->send({"GET", "/busy"}, kSoon);
  ASSERT_TRUE(busy.ok()) << busy.error().message;
  EXPECT_EQ(busy->status, 429);
  EXPECT_EQ(busy->headers.at("retry-after"), "7");
  EXPECT_EQ(busy->body, "{\"a\":1}");
  const auto redirect = client->send({"GET", "/redirect"}, kSoon);
  ASSERT_TRUE(redirect.ok()) << redirect.error().message;
  EXPECT_EQ(redirect->status, 302);
}

TEST_P(Client, LimitsTimeAndBytes) {
  HttpServerLimits limits = quick();
  limits.handle_timeout = Milliseconds{20'000};
  Server server(limits);
  HttpClientOptions options{server.url(), "", ""};
  options.max_body_bytes = 5000;
  const auto client = make(options);
  const auto big = client->send({"GET", "/big"}, kSoon);
  ASSERT_FALSE(big.ok()) << big->status << " " << big->body.size();
  EXPECT_EQ(big.error().code, Code::kFull);
  const MonoTime start = mono_now();
  const auto never = client->send({"GET", "/never"}, Milliseconds{200});
  ASSERT_FALSE(never.ok()) << never->status;
  EXPECT_EQ(never.error().code, Code::kUnknown);
  EXPECT_LT(mono_now() - start, Milliseconds{2000});
  std::stop_source stop;
  std::thread stopper([&] {
    while (server.requests < 3) std::this_thread::yield();
    stop.request_stop();
  });
  const auto stopped = client->send({"GET", "/never"}, kSoon, stop.get_token());
  stopper.join();
  ASSERT_FALSE(stopped.ok()) << stopped->status;
  EXPECT_EQ(stopped.error().code, Code::kCancelled);
}

TEST_P(Client, NobodyThereIsUnavailable) {
  std::uint16_t port = 0;
  {
    Server server;
    port = server.port;
  }
  const auto client = make({"http://127.0.0.1:" + std::to_string(port), "", ""});
  EXPECT_EQ(client->send({}, kSoon).error().code, Code::kUnavailable);
}

TEST_P(Client, ConnectionsTheServerHasClosedDoNotFailTheNextRequest) {
  HttpServerLimits limits = quick();
  limits.idle_timeout = Milliseconds{50};
  Server server(limits);
  const auto client = make({server.url(), "", ""});
  for (int i = 0; i < 3; ++i) {
    const auto reply = client->send({"POST", "/echo", "text/plain", "x", {}}, kSoon);
    ASSERT_TRUE(reply.ok()) << reply.error().message;
    std::this_thread::sleep_for(
        Milliseconds{120});  // longer than the server keeps an idle connection
  }
}

TEST_P(Client, StreamsLinesAndDropsTheUnfinishedOne) {
  Server server;
  const auto client = make({server.url(), "", ""});
  std::vector<std::string> lines;
  const auto all = client->stream({"GET", "/lines"}, {}, [&](std::string_view line) {
    lines.emplace_back(line);
    return true;
  });
  ASSERT_TRUE(all.ok()) << all.error().message;
  EXPECT_EQ(lines, (std::vector<std::string>{"one", "two", "three"}));
  lines.clear();
  const auto some = client->stream({"GET", "/lines"}, {}, [&](std::string_view line) {
    lines.emplace_back(line);
    return lines.size() < 2;
  });
  EXPECT_TRUE(some.ok());
  EXPECT_EQ(lines.size(), 2U);
  StreamLimits limits;
  limits.max_line_bytes = 1000;
  EXPECT_EQ(
      client->stream({"GET", "/big"}, limits, [](std::string_view) { return true; }).error().code,
      Code::kFull);
  const auto refused = client->stream({"GET", "/busy"}, {}, [](std::string_view) { return true; });
  ASSERT_TRUE(refused.ok()) << refused.error().message;
  EXPECT_EQ(refused->status, 429);
  EXPECT_EQ(refused->body, "{\"a\":1}");
}

// Sends one chunk and then nothing, for ever.
class Dripping {
 public:
  Dripping() : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check(::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
              ::listen(fd_, 8) == 0,
          "listen");
    socklen_t size = sizeof address;
    check(::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size) == 0, "getsockname");
    url = "http://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    thread_ = std::thread([this] {
      const int peer = ::accept(fd_, nullptr, nullptr);
      if (peer < 0) return;
      const std::string_view answer =
          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n";
      const bool sent = ::send(peer, answer.data(), answer.size(), MSG_NOSIGNAL) > 0;
      char byte = 0;
      while (sent && ::recv(peer, &byte, 1, 0) > 0) {
      }
      ::close(peer);
    });
  }
  ~Dripping() {
    ::shutdown(fd_, SHUT_RDWR);
    thread_.join();
    ::close(fd_);
  }
  std::string url;

 private:
  int fd_;
  std::thread thread_;
};

TEST_P(Client, ALineArrivesAtOnceAndSilenceEndsTheStream) {
  Dripping server;
  const auto client = make({server.url, "", ""});
  StreamLimits limits;
  limits.idle = Milliseconds{400};
  const MonoTime start = mono_now();
  Milliseconds arrived{0};
  const auto end = client->stream({"GET", "/"}, limits, [&](std::string_view line) {
    EXPECT_EQ(line, "first");
    arrived = mono_now() - start;
    return true;
  });
  EXPECT_EQ(end.error().code, Code::kUnknown);
  EXPECT_LT(arrived, Milliseconds{300});
  EXPECT_LT(mono_now() - start, Milliseconds{3000});
}

TEST_P(Client, AStreamEndsAtItsTotalTimeAndWhenStopped) {
  Dripping total;
  StreamLimits limits;
  limits.total = Milliseconds{300};
  EXPECT_TRUE(
      make({total.url, "", ""})->stream({}, limits, [](std::string_view) { return true; }).ok());
  Dripping stopped;
  std::stop_source stop;
  const auto end = make({stopped.url, "", ""})
                       ->stream(
                           {}, {},
                           [&](std::string_view) {
                             stop.request_stop();
                             return true;
                           },
                           stop.get_token());
  EXPECT_EQ(end.error().code, Code::kCancelled);
}

INSTANTIATE_TEST_SUITE_P(Beast, Client, ::testing::Values(&make_beast_client));
INSTANTIATE_TEST_SUITE_P(Cpprest, Client, ::testing::Values(&make_cpprest_client));

TEST(Url, TakesHostsAndAddressesOnly) {
  EXPECT_EQ(parse_url("https://[::1]:6443")->host, "::1");
  EXPECT_EQ(parse_url("http://a.b/")->port, "80");
  for (const char* bad : {"", "a:1", "ftp://a", "https://", "https://:1",
                          "https://a:", "https://a:0", "https://a:65536", "https://a:1x",
                          "https://a/b", "https://u@a", "https://[::1", "https://a b"}) {
    EXPECT_FALSE(parse_url(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace swarm::net
