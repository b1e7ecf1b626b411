// The task API of one coordinator, behind the real HTTP server where connections matter.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "engine/coordinator.h"
#include "net/http_server.h"
#include "sim/fake_directory.h"

namespace swarm::engine {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

constexpr Milliseconds kLong{20'000};

struct TokenFile {
  TokenFile() {
    const int fd = ::mkstemp(path);
    check(fd >= 0, "mkstemp");
    ::close(fd);
    std::ofstream(path) << "secret\n";
  }
  ~TokenFile() { ::unlink(path); }
  char path[40] = "/tmp/coordinator-http-test-XXXXXX";
};

class TaskApi : public ::testing::Test {
 protected:
  TaskApi() {
    config_.coordinator = true;
    config_.name.value = "coordinator-0";
    config_.swarm = "hello";
    config_.pod = "hello-c0";
    config_.node = "n1";
    config_.submit_token_file = token_.path;
    LogId id;
    id.bytes[0] = 1;
    auto opened = log::Log::open(
        directory_, {.max_bytes = 16U << 20U}, id, [](const log::Record&) {}, &recovery_);
    check(opened.ok(), "the log");
    log_ = *std::move(opened);
    loop_.attach(*log_);
    box_.attach(*log_, mono_now());
    coordinator_ = std::make_unique<Coordinator>(loop_, config_, options_, mail_);
    for (int i = 1; i <= 5; ++i) {
      tasks::Task task;
      task.id.value = "t-0-" + std::to_string(i);
      task.version = 1;
      task.body = "x";
      task.created_at = task.updated_at = i;
      const auto bytes = tasks::encode(task);
      const auto sequence = log_->append(tasks::kTask, bytes);
      check(sequence.ok(), "append");
      coordinator_->restore({*sequence, tasks::kTask, log::State::kLive, 0, bytes});
    }
    coordinator_->attach(*log_, false);
    coordinator_->activate(1, {});
    check(coordinator_->active() && !coordinator_->recovering(), "a coordinator at work");
  }

  net::HttpResponse ask(const std::string& method, const std::string& path,
                        std::map<std::string, std::string> query, const std::string& body = "",
                        std::map<std::string, std::string> headers = {}) {
    std::optional<net::HttpResponse> answer;
    headers["x-swarm-token"] = "secret";
    coordinator_->http({method, path, std::move(query), std::move(headers), body, ""},
                       [&](net::HttpResponse r) { answer = std::move(r); });
    const auto limit = mono_now() + kLong;
    while (!answer && mono_now() < limit) {
      io_.restart();
      io_.run_for(Milliseconds{5});
    }
    return answer.value_or(net::HttpResponse{0, "", "", {}});
  }

  TokenFile token_;
  Config config_;
  Session::Options options_;
  boost::asio::io_context io_{1};
  sim::FakeDirectory directory_{20U << 20U};
  log::Recovery recovery_;
  std::unique_ptr<log::Log> log_;
  Loop loop_{io_};
  mailbox::Mailbox box_{{"coordinator-0"}, {}};
  Mail mail_{loop_, box_, config_, options_,
             [](const AgentName&, const Located& done) { done(not_found("nobody")); }};
  std::unique_ptr<Coordinator> coordinator_;
};

TEST_F(TaskApi, ASubmissionOfTheWrongTypeIsRefused) {
  const auto id = ask("POST", "/v1/tasks", {}, R"({"body":"x","id":7})");
  EXPECT_EQ(id.status, 400);
  EXPECT_THAT(id.body, HasSubstr("id: a string is allowed"));
  EXPECT_EQ(ask("POST", "/v1/tasks", {}, R"({"body":"x","key":7})").status, 400);
}

TEST_F(TaskApi, OnlyDeadMessagesAreAState) {
  EXPECT_EQ(json::parse(ask("GET", "/v1/messages", {}).body)["messages"], json::array());
  const auto wrong = ask("GET", "/v1/messages", {{"state", "done"}});
  EXPECT_EQ(wrong.status, 400);
  EXPECT_THAT(wrong.body, HasSubstr("allowed: dead"));
}

TEST_F(TaskApi, AListIsReadPageByPage) {
  std::vector<std::string> ids;
  std::string after;
  do {
    const auto answer =
        ask("GET", "/v1/tasks",
            after.empty() ? std::map<std::string, std::string>{{"limit", "2"}}
                          : std::map<std::string, std::string>{{"limit", "2"}, {"after", after}});
    ASSERT_EQ(answer.status, 200) << answer.body;
    const json page = json::parse(answer.body);
    EXPECT_FALSE(page.contains("missingTeams"));
    EXPECT_LE(page["tasks"].size(), 2U);
    for (const auto& task : page["tasks"]) ids.push_back(task["id"]);
    after = page.value("next", "");
    ASSERT_LE(ids.size(), 5U);
  } while (!after.empty());
  EXPECT_EQ(ids, (std::vector<std::string>{"t-0-1", "t-0-2", "t-0-3", "t-0-4", "t-0-5"}));
  EXPECT_EQ(ask("GET", "/v1/tasks", {{"after", "nonsense"}}).status, 400);
  json part = json::parse(ask("GET", "/v1/tasks", {{"after", "t-0-2"}, {"limit", "1"}}, "",
                              {{"x-swarm-forwarded", "coordinator-1"}})
                              .body);
  EXPECT_EQ(part["next"], "t-0-3") << "between coordinators it is a task's id";
}

TEST_F(TaskApi, AListFromAnUnknownPlaceIsRefused) {
  for (const auto& headers : {std::map<std::string, std::string>{},
                              std::map<std::string, std::string>{{"x-swarm-forwarded", "c"}}}) {
    const auto answer = ask("GET", "/v1/tasks", {{"after", "t-0-nosuch"}}, "", headers);
    EXPECT_EQ(answer.status, 404);
    EXPECT_THAT(answer.body, HasSubstr("list again from the start"));
  }
}

TEST_F(TaskApi, UnknownParametersAreRefused) {
  for (const char* path :
       {"/v1/tasks", "/v1/tasks/t-0-1", "/v1/tasks/t-0-1/result", "/v1/agents"}) {
    const auto answer = ask("GET", path, {{"states", "queued"}});
    EXPECT_EQ(answer.status, 400) << path;
    EXPECT_THAT(answer.body, HasSubstr("unknown parameter")) << path;
  }
  EXPECT_EQ(ask("GET", "/v1/tasks", {{"state", "queued"}, {"limit", "5"}}).status, 200);
  EXPECT_EQ(ask("GET", "/v1/tasks/t-0-1", {{"waitSeconds", "0"}}).status, 200);
}

TEST_F(TaskApi, ANumberThatIsNoneIsQuoted) {
  const struct {
    const char *path, *parameter, *given, *part;
  } rows[] = {
      {"/v1/tasks", "limit", "abc", R"(limit: \"abc\", allowed: 1 to 1000)"},
      {"/v1/tasks", "limit", "0", R"(limit: \"0\", allowed)"},
      {"/v1/tasks", "limit", "1001", R"(limit: \"1001\", allowed)"},
      {"/v1/tasks", "limit", "", R"(limit: \"\", allowed)"},
      {"/v1/tasks", "limit", "99999999999999999999999999999999999999999999",
       R"(limit: \"9999999999999999999999999999999999999999\", allowed)"},
      {"/v1/tasks", "limit", "1\xff", R"(limit: \"1?\", allowed)"},
      {"/v1/tasks/t-0-1", "waitSeconds", "5s", R"(waitSeconds: \"5s\", allowed: 0 to 55)"},
      {"/v1/tasks/t-0-1", "waitSeconds", "-1", R"(waitSeconds: \"-1\", allowed)"},
  };
  for (const auto& row : rows) {
    const auto answer = ask("GET", row.path, {{row.parameter, row.given}});
    EXPECT_EQ(answer.status, 400) << row.part;
    EXPECT_THAT(answer.body, HasSubstr(row.part));
  }
}

TEST_F(TaskApi, TeamsThatDoNotAnswerAreNamed) {
  TeamSettings settings;
  settings.coordinators = 3;
  config_.link_service = "no name";  // no URL: nobody is asked, and no resolver
  coordinator_->configure(settings);
  for (const char* what : {"tasks", "agents"}) {
    json answer = json::parse(ask("GET", std::string("/v1/") + what, {}).body);
    EXPECT_EQ(answer[what].size(), what == std::string("tasks") ? 5U : 1U) << what;
    std::set<int> missing;
    for (const auto& team : answer["missingTeams"]) missing.insert(team.get<int>());
    EXPECT_EQ(missing, (std::set<int>{1, 2})) << what;
  }
  json stats = json::parse(ask("GET", "/v1/stats", {}).body);
  EXPECT_EQ(stats["tasks"]["queued"], 5);
  EXPECT_EQ(stats["missingTeams"].size(), 2U);
}

TEST_F(TaskApi, AWaitOfAnotherTeamsClientIsShort) {
  const auto begin = mono_now();
  const auto answer = ask("GET", "/v1/tasks/t-0-1", {{"waitSeconds", "50"}}, "",
                          {{"x-swarm-forwarded", "coordinator-1"}});
  EXPECT_EQ(answer.status, 200);
  EXPECT_GE(mono_now() - begin, Milliseconds{1000});
  EXPECT_LT(mono_now() - begin, Milliseconds{8000});
}

// A client of its own: sends one request, reads when it is asked to.
class Client {
 public:
  Client(std::uint16_t port, const std::string& target) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check(::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0, "connect");
    const std::string text =
        "GET " + target + " HTTP/1.1\r\nHost: x\r\nX-Swarm-Token: secret\r\n\r\n";
    sent_ =
        ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
  }
  ~Client() { ::close(fd_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  // What has come after at most `wait`.
  std::string hear(Milliseconds wait) {
    timeval limit{static_cast<time_t>(wait.count() / 1000),
                  static_cast<suseconds_t>(wait.count() % 1000 * 1000)};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    char piece[4096];
    const ssize_t n = ::recv(fd_, piece, sizeof piece, 0);
    return n <= 0 ? "" : std::string(piece, static_cast<std::size_t>(n));
  }

 private:
  int fd_;
  bool sent_ = false;
};

TEST_F(TaskApi, HoweverManyWaitTheProbesAreAnswered) {
  net::HttpServer server;
  const Status started = server.start(
      io_, "127.0.0.1", 0, [this](net::HttpRequest request, const net::Respond& respond) {
        if (request.path == "/readyz") return respond({200, "text/plain", "ready\n", {}});
        coordinator_->http(std::move(request), respond);
      });
  ASSERT_TRUE(started);
  const auto work = boost::asio::make_work_guard(io_);
  std::thread thread([this] { io_.run(); });
  constexpr int kClients = 300;  // more than the server has connections
  std::vector<std::unique_ptr<Client>> clients;
  int refused = 0;
  for (int i = 0; i < kClients; ++i) {
    clients.push_back(std::make_unique<Client>(server.port(), "/v1/tasks/t-0-1?waitSeconds=50"));
    if (i < 128) continue;
    const std::string answer = clients.back()->hear(Milliseconds{5000});
    EXPECT_THAT(answer, HasSubstr("HTTP/1.1 429"));
    EXPECT_THAT(answer, HasSubstr("Retry-After: 2"));
    if (++refused == 1 && answer.empty()) break;  // it waits: so will all others
  }
  EXPECT_EQ(refused, kClients - 128);
  EXPECT_THAT(Client(server.port(), "/readyz").hear(Milliseconds{5000}), HasSubstr("200 OK"));
  EXPECT_THAT(Client(server.port(), "/v1/tasks/t-0-1").hear(Milliseconds{5000}),
              HasSubstr("200 OK"));
  EXPECT_EQ(clients[0]->hear(Milliseconds{50}), "") << "the first ones wait on";
  io_.stop();
  thread.join();
}

}  // namespace
}  // namespace swarm::engine
