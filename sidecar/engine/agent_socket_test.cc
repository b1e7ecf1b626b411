// The agents' socket as a connection sees it: lines in, lines out.
#include "engine/agent_socket.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/asio/write.hpp>

#include "engine/control_json.h"
#include "sim/fake_directory.h"

namespace swarm::engine {
namespace {

using boost::asio::local::stream_protocol;

constexpr Milliseconds kPatience{20'000};

struct Agents : ::testing::Test {
  Agents() {
    config.name.value = "worker-0";
    LogId id;
    id.bytes[0] = 1;
    log::Recovery recovery;
    auto opened = log::Log::open(
        directory, {.max_bytes = 8U << 20U}, id, [](const log::Record&) {}, &recovery);
    check(opened.ok(), "the log");
    log = *std::move(opened);
    loop.attach(*log);
    box.attach(*log, mono_now());
    check(socket.start(path).ok(), "the socket");
    client.connect(stream_protocol::endpoint(path));
  }
  ~Agents() override { ::unlink(path.c_str()); }

  // The answer to `request`, which gets a rid.
  json ask(json request) {
    request["rid"] = ++rid;
    return line(request.dump());
  }
  json line(const std::string& text) {
    boost::asio::write(client, boost::asio::buffer(text + "\n"));
    client.non_blocking(true);
    const auto begin = mono_now();
    std::size_t end = 0;
    while ((end = answers.find('\n')) == std::string::npos && mono_now() - begin < kPatience) {
      io.restart();
      io.run_for(Milliseconds{2});
      char buffer[65536];
      boost::system::error_code none_yet;  // looked at again in the next round
      const auto n = client.read_some(boost::asio::buffer(buffer), none_yet);
      answers.append(buffer, n);
    }
    if (end == std::string::npos) {
      ADD_FAILURE() << "no answer to " << text;
      return {};
    }
    json answer = json::parse(answers.substr(0, end));
    answers.erase(0, end + 1);
    return answer;
  }
  // A message to itself, handed out and given back until it is a dead letter.
  void give_up(const std::string& id, const std::string& body = "x") {
    ASSERT_EQ(ask({{"op", "send"}, {"to", "worker-0"}, {"id", id}, {"body", body}})["ok"], true);
    for (int attempt = 1; attempt <= 5; ++attempt) {
      ASSERT_EQ(ask({{"op", "recv"}})["message"]["attempt"], attempt);
      ASSERT_EQ(ask({{"op", "nack"}, {"messageId", id}, {"attempt", attempt}})["ok"], true);
    }
  }

  Config config;
  boost::asio::io_context io{1};
  Loop loop{io};
  sim::FakeDirectory directory{10U << 20U};
  std::unique_ptr<log::Log> log;
  mailbox::Mailbox box{{"worker-0"}, {}};
  Mail mail{loop, box, config, Session::Options{}, [](const AgentName& name, const Located& done) {
              done(not_found(name.value + " is not connected now"));
            }};
  AgentSocket socket{loop, config, mail, nullptr};
  std::string path = testing::TempDir() + "swarm-agents-" + std::to_string(::getpid());
  stream_protocol::socket client{io};
  std::string answers;
  int rid = 0;
};

TEST_F(Agents, DeadLettersAreListedShownRedrivenAndPurged) {
  EXPECT_EQ(ask({{"op", "dead_ls"}})["messages"], json::array());
  give_up("m-1", "the body");
  give_up("m-2");
  const json listed = ask({{"op", "dead_ls"}});
  EXPECT_EQ(listed["total"], 2);
  ASSERT_EQ(listed["messages"].size(), 2U);
  json first = listed["messages"][0];
  EXPECT_GE(first["ageMs"], 0);
  first.erase("ageMs");
  EXPECT_EQ(first, (json{{"messageId", "m-1"},
                         {"from", "worker-0"},
                         {"to", "worker-0"},
                         {"priority", "normal"},
                         {"state", "dead"},
                         {"attempt", 5},
                         {"bytes", 8}}));
  EXPECT_EQ(ask({{"op", "cat"}, {"messageId", "m-1"}})["message"]["body"], "the body");

  const json redriven = ask({{"op", "dead_redrive"}, {"messageId", "m-1"}});
  EXPECT_EQ(redriven, (json{{"rid", rid}, {"ok", true}, {"count", 1}, {"failed", 0}, {"left", 1}}));
  EXPECT_EQ(ask({{"op", "recv"}})["message"]["attempt"], 6);
  const json late = ask({{"op", "ack"}, {"messageId", "m-1"}, {"attempt", 5}});
  EXPECT_EQ(late["code"], "refused");
  EXPECT_EQ(late["message"], "attempt 5 of m-1 is not the current one");
  EXPECT_EQ(ask({{"op", "ack"}, {"messageId", "m-1"}, {"attempt", 6}})["ok"], true);

  EXPECT_EQ(ask({{"op", "dead_purge"}, {"messageId", "m-2"}})["left"], 0);
  EXPECT_EQ(ask({{"op", "dead_purge"}, {"messageId", "m-2"}})["code"], "not_found");
  EXPECT_EQ(ask({{"op", "dead_redrive"}, {"messageId", "m-2"}})["code"], "not_found");
  EXPECT_EQ(ask({{"op", "ls"}})["messages"], json::array());
  const json stats = ask({{"op", "stats"}});
  EXPECT_EQ(stats["redriven"], 1);
  EXPECT_EQ(stats["deadLetters"], 0);
}

TEST_F(Agents, AllDeadLettersAtOnce) {
  for (const char* id : {"m-1", "m-2", "m-3"}) give_up(id);
  EXPECT_EQ(ask({{"op", "dead_redrive"}, {"all", true}})["count"], 3);
  EXPECT_EQ(ask({{"op", "recv"}})["message"]["messageId"], "m-1");
  const json purged = ask({{"op", "dead_purge"}, {"all", true}});
  EXPECT_EQ(purged, (json{{"rid", rid}, {"ok", true}, {"count", 0}, {"failed", 0}, {"left", 0}}));
}

TEST_F(Agents, WhatIsMeantHasToBeSaid) {
  give_up("m-1");
  const json rows[] = {{{"op", "dead_purge"}},
                       {{"op", "dead_purge"}, {"all", false}},
                       {{"op", "dead_purge"}, {"all", "true"}},
                       {{"op", "dead_purge"}, {"messageId", 7}},
                       {{"op", "dead_purge"}, {"messageId", "m-1"}, {"all", true}},
                       {{"op", "dead_redrive"}, {"messageId", ""}},
                       {{"op", "dead_show"}, {"messageId", "m-1"}}};
  for (const json& row : rows) EXPECT_EQ(ask(row)["code"], "invalid") << row;
  EXPECT_EQ(ask({{"op", "dead_ls"}})["total"], 1) << "nothing has happened";
}

TEST_F(Agents, ALeaseIsExtended) {
  ASSERT_EQ(ask({{"op", "send"}, {"to", "worker-0"}, {"id", "m-1"}, {"body", "x"}})["ok"], true);
  ASSERT_EQ(ask({{"op", "recv"}, {"leaseMs", 100}})["message"]["attempt"], 1);
  EXPECT_EQ(ask({{"op", "extend"}, {"messageId", "m-1"}, {"attempt", 1}, {"leaseMs", 60000}})["ok"],
            true);
  EXPECT_EQ(ask({{"op", "recv"}, {"waitMs", 300}})["code"], "not_found") << "it is still leased";
  EXPECT_EQ(ask({{"op", "extend"}, {"messageId", "m-1"}, {"attempt", 2}, {"leaseMs", 1}})["code"],
            "refused");
}

}  // namespace
}  // namespace swarm::engine
