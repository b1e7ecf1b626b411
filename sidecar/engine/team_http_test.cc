// With real servers on loopback, each on a thread of its own.
#include "engine/team_http.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <thread>

namespace swarm::engine {
namespace {

using ::testing::HasSubstr;

constexpr Milliseconds kLong{30'000};

// Another team's coordinator.
class Team {
 public:
  explicit Team(net::Handler handler) : work_(io_.get_executor()) {
    net::HttpServerLimits limits;
    limits.handle_timeout = kLong * 2;
    const Status started = server_.start(io_, "127.0.0.1", 0, std::move(handler), limits);
    check(started.ok(), "server start");
    url = "http://127.0.0.1:" + std::to_string(server_.port());
    thread_ = std::thread([this] { io_.run(); });
  }
  ~Team() {
    io_.stop();
    thread_.join();
  }
  std::string url;

 private:
  boost::asio::io_context io_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  net::HttpServer server_;
  std::thread thread_;
};

struct Ways : ::testing::Test {
  net::HttpCall get(const std::string& target) {
    net::HttpCall call;
    call.target = target;
    call.headers = {{"X-Swarm-Token", "secret"}};
    return call;
  }
  // Until `over`; false: not within kLong.
  bool run(const std::function<bool()>& over) {
    const auto limit = mono_now() + kLong;
    while (!over() && mono_now() < limit) {
      io.restart();
      io.run_for(Milliseconds{20});
    }
    return over();
  }
  std::atomic<bool> finished{false};
  std::atomic<int> asked{0};
  Team lively{[this](const net::HttpRequest& request, const net::Respond& respond) {
    ++asked;
    if (request.path == "/busy")
      return respond({503, "application/json", "{}", {{"Retry-After", "7"}}});
    respond({200,
             "application/json",
             std::string(request.header("x-swarm-token")) + (finished ? " done" : " running"),
             {}});
  }};
  Team stuck{[](const net::HttpRequest&, const net::Respond&) {}};
  boost::asio::io_context io;
  Loop loop{io};
  std::unique_ptr<TeamHttp> ways = std::make_unique<TeamHttp>(loop, [this](std::uint32_t team) {
    return team == 1 ? lively.url : team == 2 ? stuck.url : "http://127.0.0.1:1";
  });
};

TEST_F(Ways, AnAnswerComesBackWhole) {
  net::HttpResponse answer;
  ways->carry(1, get("/busy"), [&](net::HttpResponse r) { answer = std::move(r); });
  answer.status = 0;
  EXPECT_EQ(ways->carried(), 1U);
  ASSERT_TRUE(run([&] { return answer.status != 0; }));
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.headers,
            (std::vector<std::pair<std::string, std::string>>{{"retry-after", "7"}}));
  EXPECT_EQ(ways->carried(), 0U);
  answer.status = 0;
  ways->ask(3, get("/"), [&](net::HttpResponse r) { answer = std::move(r); });
  ASSERT_TRUE(run([&] { return answer.status != 0; }));
  EXPECT_EQ(answer.status, 503);
  EXPECT_THAT(answer.body, HasSubstr("coordinator-3"));
}

TEST_F(Ways, ManyWaitWithoutHoldingAnything) {
  int over = 0;
  const auto begin = mono_now();
  for (int i = 0; i < 40; ++i) {
    ways->poll(
        1, get("/v1/tasks/t-1-1"), begin + kLong,
        [](const net::HttpResponse& r) { return r.body == "secret done"; },
        [&](const net::HttpResponse& r) { over += r.body == "secret done" ? 1 : 1000; });
  }
  EXPECT_EQ(ways->polling(), 40U);
  ASSERT_TRUE(run([&] { return asked >= 40; }));
  bool other = false;
  ways->ask(1, get("/"), [&](const net::HttpResponse& r) { other = r.status == 200; });
  ASSERT_TRUE(run([&] { return other; }));
  EXPECT_EQ(over, 0);
  EXPECT_LT(mono_now() - begin, Milliseconds{5000});
  finished = true;
  ASSERT_TRUE(run([&] { return over > 0 && ways->polling() == 0; }));
  EXPECT_EQ(over, 40);
}

TEST_F(Ways, AWaitEndsInTimeWithTheLastAnswer) {
  std::string last;
  const auto begin = mono_now();
  ways->poll(
      1, get("/v1/tasks/t-1-1"), begin + Milliseconds{500},
      [](const net::HttpResponse&) { return false; },
      [&](const net::HttpResponse& r) { last = r.body; });
  ASSERT_TRUE(run([&] { return !last.empty(); }));
  EXPECT_EQ(last, "secret running");
  EXPECT_GE(mono_now() - begin, Milliseconds{500});
  EXPECT_LT(mono_now() - begin, Milliseconds{1900}) << "no pause is longer than what is left";
  int status = 0;
  ways->poll(
      1, get("/busy"), begin + kLong, [](const net::HttpResponse&) { return false; },
      [&](const net::HttpResponse& r) { status = r.status; });
  ASSERT_TRUE(run([&] { return status != 0; }));
  EXPECT_EQ(status, 503) << "an error is an answer";
}

TEST_F(Ways, ATeamThatDoesNotAnswerKeepsNobodyBack) {
  const auto begin = mono_now();
  int late = 0, full = 0;
  for (std::size_t i = 0; i < kMaxForwardsPerTeam + 3; ++i) {
    ways->ask(2, get("/"), [&](const net::HttpResponse& r) { ++(r.status == 429 ? full : late); });
  }
  EXPECT_EQ(full, 3);
  bool other = false;
  ways->ask(1, get("/"), [&](const net::HttpResponse& r) { other = r.status == 200; });
  ASSERT_TRUE(run([&] { return other; }));
  EXPECT_LT(mono_now() - begin, Milliseconds{3000});
  EXPECT_EQ(late, 0);
  ASSERT_TRUE(run([&] { return late == static_cast<int>(kMaxForwardsPerTeam); }));
  EXPECT_LT(mono_now() - begin, kForwardReadLimit * 2) << "those that found no thread as well";
}

TEST_F(Ways, StopWaitsForNobody) {
  const auto begin = mono_now();
  bool called = false;
  for (int i = 0; i < 20; ++i)
    ways->ask(2, get("/"), [&](const net::HttpResponse&) { called = true; });
  ways->poll(
      2, get("/"), begin + kLong, [](const net::HttpResponse&) { return false; },
      [&](const net::HttpResponse&) { called = true; });
  io.run_for(Milliseconds{100});
  ways->stop();
  ways.reset();
  EXPECT_LT(mono_now() - begin, Milliseconds{3000});
  io.restart();
  io.run_for(Milliseconds{20});
  EXPECT_FALSE(called);
}

}  // namespace
}  // namespace swarm::engine
