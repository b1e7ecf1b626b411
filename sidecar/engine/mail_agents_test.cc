// Pods of several agents over real links: whom a full inbox, a large outbox or a foreign name holds
// up.
#include <algorithm>

#include "engine/linked_pods.h"

namespace swarm::engine {
namespace {

constexpr Milliseconds kShort{1000};

struct LinkedAgents : LinkedPods {
  using Sent = std::optional<Result<Mail::Accepted>>;
  std::shared_ptr<Sent> begin(const std::string& from, const std::string& to, const std::string& id,
                              Milliseconds timeout = kLong, std::size_t bytes = 1) {
    mailbox::Message m;
    m.id.value = id;
    m.from.value = from;
    m.to.value = to;
    m.body = std::string(bytes, 'x');
    auto sent = std::make_shared<Sent>();
    one.mail->send(std::move(m), timeout,
                   [sent](Result<Mail::Accepted> outcome) { *sent = std::move(outcome); });
    return sent;
  }
  Result<Mail::Accepted> send(const std::string& from, const std::string& to, const std::string& id,
                              Milliseconds timeout = kLong) {
    const auto sent = begin(from, to, id, timeout);
    EXPECT_TRUE(run_until([&] { return sent->has_value(); })) << id;
    return sent->value_or(internal_error("no outcome"));
  }
  std::string receive(Pod& at, const std::string& agent) {
    std::optional<Result<mailbox::Delivery>> got;
    at.mail->receive({agent}, kLong, kLong, std::nullopt, nullptr,
                     [&](Result<mailbox::Delivery> delivery) { got = std::move(delivery); });
    EXPECT_TRUE(run_until([&] { return got.has_value(); }));
    return got && *got ? (*got)->message.id.value + " of " + (*got)->message.from.value : "-";
  }
  Status ack(Pod& at, const std::string& agent, const std::string& id) {
    std::optional<Status> answer;
    at.mail->ack({agent}, {id}, 1, kLong, [&](const Status& status) { answer = status; });
    EXPECT_TRUE(run_until([&] { return answer.has_value(); }));
    return answer.value_or(internal_error("no answer"));
  }
  Pod one{net, "worker-1", 2, {.agents = 2}};
  Pod two{net, "worker-2", 3, {.limits = {.max_inbox_messages = 1}, .agents = 3}};
};

TEST_F(LinkedAgents, WriteToEachOther) {
  EXPECT_EQ(send("worker-1.1", "worker-2.2", "m")->survives, "node");
  EXPECT_EQ(send("worker-1.1", "worker-1", "m")->survives, "container");
  EXPECT_EQ(receive(two, "worker-2.2"), "m of worker-1.1");
  EXPECT_TRUE(ack(two, "worker-2.2", "m"));
  EXPECT_EQ(receive(one, "worker-1"), "m of worker-1.1");
  EXPECT_TRUE(ack(one, "worker-1", "m"));
  EXPECT_EQ(one.box.books().outbox_live + two.box.books().inbox_live, 0U);
  EXPECT_EQ(two.inbound.size(), 1U) << "one link for all of them";
}

TEST_F(LinkedAgents, AFullInboxHoldsUpNoNeighbour) {
  EXPECT_TRUE(send("worker-1", "worker-2.1", "fits"));
  const auto refused = begin("worker-1", "worker-2.1", "waits", kShort);
  for (const char* to : {"worker-2", "worker-2.2"}) {
    const auto begun = mono_now();
    EXPECT_TRUE(send("worker-1", to, "fits"));
    EXPECT_LT(mono_now() - begun, kShort) << to;
    EXPECT_FALSE(*refused);
  }
  ASSERT_TRUE(run_until([&] { return refused->has_value(); }));
  EXPECT_EQ((*refused)->error().code, Code::kFull);
  EXPECT_EQ((*refused)->error().message, "worker-2.1's inbox is full (1 of 1 messages)");
  // A place in its own inbox, and only that, is what it waits for.
  const auto waits = begin("worker-1", "worker-2.1", "comes");
  EXPECT_EQ(receive(two, "worker-2.2"), "fits of worker-1");
  EXPECT_TRUE(ack(two, "worker-2.2", "fits"));
  EXPECT_FALSE(run_until([&] { return waits->has_value(); }, kShort));
  EXPECT_EQ(receive(two, "worker-2.1"), "fits of worker-1");
  EXPECT_TRUE(ack(two, "worker-2.1", "fits"));
  ASSERT_TRUE(run_until([&] { return waits->has_value(); }));
  EXPECT_TRUE(**waits);
}

TEST_F(LinkedAgents, ALargeOutboxForOneKeepsTheLinkFromNobody) {
  constexpr std::size_t kLarge = 60'000, kCount = 4 * kLinkWindowBytes / kLarge;
  Pod roomy{net, "worker-3", 4, {.agents = 3}};
  EXPECT_TRUE(send("worker-1", "worker-3", "first"));
  std::vector<std::shared_ptr<Sent>> large;
  for (std::size_t i = 0; i < kCount; ++i)
    large.push_back(begin("worker-1", "worker-3.1", std::to_string(i), kLong, kLarge));
  EXPECT_TRUE(send("worker-1", "worker-3.2", "small"));
  EXPECT_FALSE(*large.back()) << "it came in between";
  EXPECT_TRUE(run_until([&] { return large.back()->has_value(); }));
}

TEST_F(LinkedAgents, NamesThatAreNobodysAreRefused) {
  const auto beyond = send("worker-1", "worker-2.3", "m");
  EXPECT_EQ(beyond.error().code, Code::kDenied);
  EXPECT_EQ(beyond.error().message, "worker-2 has 3 agents, and worker-2.3 is not one of them");
  EXPECT_EQ(send("worker-1.1", "worker-1.2", "m").error().code, Code::kNotFound);
}

}  // namespace
}  // namespace swarm::engine
