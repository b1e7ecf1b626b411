#include "engine/post.h"

#include <gtest/gtest.h>

#include "engine/pod_fixture.h"

namespace swarm::engine {
namespace {

constexpr Milliseconds kPatience{20'000}, kShort{300};

std::string shown(const Result<Receivers>& to) {
  if (!to) return std::string(code_name(to.error().code));
  std::string out;
  for (const auto& name : to->names) out += name.value + " ";
  if (to->workers) out += "W ";
  if (to->coordinators) out += "C ";
  for (const auto team : to->teams) out += "T" + std::to_string(team) + " ";
  return out + (to->single() ? "1" : "n");
}

TEST(Receivers, AreNamesAndGroups) {
  std::string crowd = "worker-0";
  for (std::size_t i = 1; i <= kMaxReceivers; ++i) crowd += ",worker-" + std::to_string(i);
  const std::pair<std::string, std::string> rows[] = {
      {"worker-3", "worker-3 1"},
      {"coordinator-0", "coordinator-0 1"},
      {"worker-3,worker-1,worker-3", "worker-3 worker-1 n"},
      {"worker-3,worker-3", "worker-3 1"},
      {"workers", "W n"},
      {"team-2,coordinators,worker-1", "worker-1 C T2 n"},
      {"", "invalid"},
      {",", "invalid"},
      {"worker-3,", "invalid"},
      {",worker-3", "invalid"},
      {"worker-3 ,worker-1", "invalid"},
      {"worker-03", "invalid"},
      {"worker", "invalid"},
      {"all", "invalid"},
      {"team-", "invalid"},
      {"team--1", "invalid"},
      {"team-99999999999", "invalid"},
      {"team-1x", "invalid"},
      {"../worker-1", "invalid"},
      {crowd, "invalid"}};
  for (const auto& [text, want] : rows) EXPECT_EQ(shown(parse_receivers(text)), want) << text;
}

struct Posts : PodFixture {
  explicit Posts(std::uint32_t agents = 1, const mailbox::Limits& limits = {})
      : PodFixture(agents, limits) {}
  struct Said {
    std::vector<std::string> outcomes;
    std::optional<Result<Post::Tally>> done;
    std::vector<Milliseconds> after;
  };
  // `to` and what became of it, until `enough`.
  std::shared_ptr<Said> send(const std::string& to, const std::string& id, Milliseconds timeout) {
    mailbox::Message m;
    m.id.value = id;
    m.from = config.name;
    m.body = body;
    auto said = std::make_shared<Said>();
    const auto begin = mono_now();
    post.send(
        *parse_receivers(to), m, timeout,
        [said, begin](const AgentName& name, const Result<Mail::Accepted>& sent) {
          said->outcomes.push_back(name.value + " " + outcome_name(sent) +
                                   (sent && sent->duplicate ? " again" : ""));
          said->after.push_back(mono_now() - begin);
        },
        [said](const Result<Post::Tally>& tally) { said->done = tally; });
    while (!said->done && mono_now() - begin < kPatience) {
      io.restart();
      io.run_for(Milliseconds{5});
    }
    EXPECT_TRUE(said->done) << to;
    return said;
  }
  using Outcomes = std::vector<std::string>;
  std::string body = "hello";

  Mail mail{loop, box, config, Session::Options{}, [](const AgentName& name, const Located& done) {
              done(not_found(name.value + " is not connected now"));
            }};
  Post post{loop, mail, config};
};

TEST_F(Posts, EachReceiverHasAnOutcomeOfItsOwnAndNoneWaitsForAnother) {
  const auto said = send("worker-9,worker-0,worker-8", "m", kShort);
  EXPECT_EQ(said->outcomes,
            (Outcomes{"worker-0 accepted", "worker-9 refused", "worker-8 refused"}));
  EXPECT_LT(said->after[0], kShort) << "what is known is told at once";
  EXPECT_GE(said->after[1], kShort);
  ASSERT_TRUE(*said->done);
  EXPECT_EQ((*said->done)->receivers, 3U);
  EXPECT_EQ((*said->done)->accepted, 1U);
  EXPECT_EQ((*said->done)->failure->code, Code::kUnavailable);
  const auto again = send("worker-0,worker-8", "m", kShort);
  EXPECT_EQ(again->outcomes, (Outcomes{"worker-0 accepted again", "worker-8 refused"}));
  EXPECT_EQ(box.books().inbox_live, 1U) << "the same id is the same message";
}

TEST_F(Posts, AGroupIsWhoeverIsThereWhenTheMessageIsTaken) {
  config.coordinators = 2;
  int asked = 0;
  std::vector<Worker::Peer> second{{"worker-1", "worker", "idle", "", 1}};
  post.peers = [&](std::uint32_t team, const Worker::OnPeers& done) {
    if (team == 1 && ++asked < 3) return done(unavailable("not yet"));
    if (team == 1) return done(second);
    done(std::vector<Worker::Peer>{{"coordinator-0", "coordinator", "ready", "", 0},
                                   {"worker-0", "worker", "busy", "", 0},
                                   {"worker-2", "worker", "leaving", "", 0},
                                   {"../x", "worker", "idle", "", 0}});
  };
  const auto said = send("workers", "m", 2 * kShort);
  EXPECT_EQ(asked, 3) << "until everybody is known";
  EXPECT_EQ(said->outcomes, (Outcomes{"worker-2 refused", "worker-1 refused"}))
      << "each once, without the sender";
  EXPECT_EQ(send("team-1,worker-1", "m", kShort)->outcomes, Outcomes{"worker-1 refused"});
  EXPECT_EQ(send("coordinators", "m", kShort)->outcomes.size(), 2U);
  second.clear();
  EXPECT_EQ(send("team-1", "m", kShort)->done->error().code, Code::kNotFound) << "nobody";
  EXPECT_EQ(send("team-2", "m", kShort)->done->error().code, Code::kNotFound) << "no such team";
}

struct PostsOfThree : Posts {
  PostsOfThree() : Posts(3) {}
};

TEST_F(PostsOfThree, AGroupHasAllAgentsOfItsPods) {
  post.peers = [](std::uint32_t, const Worker::OnPeers& done) {
    done(std::vector<Worker::Peer>{{"coordinator-0", "coordinator", "ready", "", 0},
                                   {"worker-0", "worker", "busy", "", 0},
                                   {"worker-2", "worker", "idle", "", 0}});
  };
  EXPECT_EQ(send("workers", "m", kShort)->outcomes,
            (Outcomes{"worker-0.1 accepted", "worker-0.2 accepted", "worker-2 refused",
                      "worker-2.1 refused", "worker-2.2 refused"}))
      << "all but the sender";
}

TEST_F(Posts, NobodyIsToldWhenSomebodyIsNotKnown) {
  post.peers = [](std::uint32_t, const Worker::OnPeers& done) { done(unavailable("not now")); };
  const auto said = send("worker-0,workers", "m", kShort);
  EXPECT_EQ(said->done->error().code, Code::kUnavailable);
  EXPECT_EQ(said->outcomes, Outcomes{});
  EXPECT_EQ(box.books().inbox_live, 0U);
}

TEST_F(Posts, ABodyForManyStandsInTheLogOnce) {
  constexpr std::uint64_t kReceivers = 50, kEach = 200;  // id, envelope and headers
  body = std::string(4096, 'x');
  std::string to = "worker-1";
  for (std::size_t i = 2; i <= kReceivers; ++i) to += ",worker-" + std::to_string(i);
  const auto before = log->stats().live_bytes;
  std::uint64_t grown = 0;
  loop.post([&] { grown = log->stats().live_bytes - before; });
  EXPECT_EQ(send(to, "m", kShort)->outcomes.size(), kReceivers);
  EXPECT_GT(grown, body.size());
  EXPECT_LT(grown, body.size() + kReceivers * kEach);
  ASSERT_TRUE(log->commit());
  EXPECT_EQ(log->stats().live_bytes, before) << "what is refused is gone, and the body with it";
  grown = 0;
  loop.post([&] { grown = log->stats().live_bytes - before; });
  (void)send("worker-1", "alone", kShort);
  EXPECT_LT(grown, body.size() + kEach);
}

struct PostsWithLittleRoom : Posts {
  PostsWithLittleRoom() : Posts(1, {.max_outbox_messages = 1}) {}
};

TEST_F(PostsWithLittleRoom, WhoWaitsForItSharesTheBodyThatIsThere) {
  mailbox::Message first;
  first.id.value = "first";
  first.from = config.name;
  first.to.value = "worker-1";
  ASSERT_TRUE(box.send(mono_now(), first));
  body = std::string(4096, 'x');
  std::uint64_t before = 0, after = 0;
  boost::asio::steady_timer room(io), sent(io);
  room.expires_after(kShort);  // worker-2's message is there
  room.async_wait([&](boost::system::error_code) {
    EXPECT_EQ(box.books().outbox_live, 2U);
    before = log->stats().live_bytes;
    EXPECT_TRUE(box.on_acked({"worker-1"}, 2));  // its id is record 1
  });
  sent.expires_after(4 * kShort);
  sent.async_wait([&](boost::system::error_code) {
    EXPECT_EQ(box.books().outbox_live, 2U);
    after = log->stats().live_bytes;
  });
  (void)send("worker-2,worker-1", "m", 6 * kShort);
  EXPECT_GT(before, body.size());
  EXPECT_LT(after, before + 200);
}

TEST_F(Posts, ManyReceiversTakeTurnsWithOthers) {
  std::string to = "worker-0";
  for (std::size_t i = 1; i <= 2 * kSendsPerTurn; ++i) to += ",worker-" + std::to_string(i);
  bool served = false;
  loop.post([&] {
    served = true;
    EXPECT_EQ(box.books().outbox_live, kSendsPerTurn - 1) << "in the midst of it";
  });
  EXPECT_EQ(send(to, "m", kShort)->outcomes.size(), 2 * kSendsPerTurn + 1);
  EXPECT_TRUE(served);
  EXPECT_EQ(box.books().outbox_live, 0U) << "what is refused is gone";
}

}  // namespace
}  // namespace swarm::engine
