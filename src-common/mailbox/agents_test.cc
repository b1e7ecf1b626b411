// Several agents in one pod: what each has of its own, what they share, and what a restart keeps of
// it.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/encoding.h"
#include "mailbox/mailbox.h"
#include "sim/fake_directory.h"

namespace swarm::mailbox {
namespace {

using log::Log;

constexpr std::uint32_t kSegment = 4096;
constexpr std::uint32_t kOutbox = 10;
const MonoTime kStart{Milliseconds{1000}};
const AgentName kA{"worker-1"}, kA1{"worker-1.1"}, kB{"worker-2"}, kB1{"worker-2.1"},
    kB2{"worker-2.2"};

struct Pod {
  Pod(AgentName n, std::uint8_t number, std::uint32_t its_agents)
      : name(std::move(n)), agents(its_agents) {
    id.bytes[0] = number;
    start();
  }
  void start() {
    box.reset();
    log.reset();
    box = std::make_unique<Mailbox>(name,
                                    Limits{.max_inbox_messages = 2,
                                           .max_outbox_messages = kOutbox,
                                           .max_message_bytes = 2000,
                                           .max_attempts = 1},
                                    agents);
    records.clear();
    auto opened = Log::open(
        directory, {.max_bytes = 8192 + 32 * std::uint64_t{kSegment}, .segment_bytes = kSegment},
        id,
        [this](const log::Record& r) {
          records[r.kind].emplace_back(r.payload);
          box->restore(r);
        },
        nullptr);
    ASSERT_TRUE(opened);
    log = std::move(*opened);
    box->attach(*log, kStart);
  }
  std::string receive(const AgentName& agent) {
    const auto got = box->receive(kStart, agent, Milliseconds{100}, {});
    return got ? got->message.id.value + " of " + got->message.from.value : "-";
  }
  AgentName name;
  std::uint32_t agents;
  LogId id;
  sim::FakeDirectory directory{1 << 20};
  std::map<std::uint8_t, std::vector<std::string>> records;  // that the last start has found
  std::unique_ptr<Log> log;
  std::unique_ptr<Mailbox> box;
};

struct AgentsOfAPod : ::testing::Test {
  AgentsOfAPod() { link(); }
  void link() {
    for (auto [x, y] : {std::pair(&a, &b), std::pair(&b, &a)}) {
      x->box->on_link_up(kStart, y->name, y->log->id());
      x->box->on_incarnation(y->name, y->log->id());
    }
  }
  static Message message(const std::string& id, const AgentName& from, const AgentName& to,
                         std::size_t bytes = 4) {
    Message m;
    m.id.value = id;
    m.from = from;
    m.to = to;
    m.body = std::string(bytes, 'x');
    return m;
  }
  void send(const std::string& id, const AgentName& from, const AgentName& to,
            std::size_t bytes = 4) {
    const auto sent = a.box->send(kStart, message(id, from, to, bytes));
    ASSERT_TRUE(sent) << sent.error().message;
  }
  // Everything due for `to` from a to b; the answers.
  std::vector<Answer> carry(const AgentName& to) {
    std::vector<Answer> out;
    for (const Outbound& o : a.box->transmit(to, 1 << 20)) {
      out.push_back(b.box->deliver(kStart, a.log->id(), o.sequence, o.prev, o.message));
      a.box->on_answer(kStart, kB, b.log->id(), o.sequence, out.back(), "");
    }
    return out;
  }
  void settle(const AgentName& agent, const std::string& id, const AgentName& from = {}) {
    const auto acked = b.box->ack(kStart, agent, {id}, 1, from);
    ASSERT_TRUE(acked) << acked.error().message;
    ASSERT_TRUE(acked->debt);
    EXPECT_EQ(acked->debt->sender, kA) << "debts are between pods";
    EXPECT_TRUE(a.box->on_acked(kB, acked->debt->sender_sequence));
    b.box->on_ack_recorded(acked->debt->inbox);
  }
  Pod a{kA, 1, 2}, b{kB, 2, 3};
};

TEST_F(AgentsOfAPod, EachReceivesWhatIsItsOwn) {
  for (const AgentName& to : {kB, kB1, kB2}) send("job", kA1, to);
  EXPECT_EQ(a.box->destinations(), (std::vector{kB, kB1, kB2}));
  EXPECT_EQ(a.box->destinations(kB), (std::vector{kB, kB1, kB2}));
  EXPECT_TRUE(a.box->destinations(kA).empty());
  for (const AgentName& to : {kB2, kB, kB1}) EXPECT_EQ(carry(to), std::vector{Answer::kStored});
  EXPECT_EQ(b.box->take_ready(), (std::vector{kB2, kB, kB1}));
  EXPECT_FALSE(b.box->has_ready());
  EXPECT_EQ(b.receive(kB1), "job of worker-1.1");
  EXPECT_EQ(b.receive(kB1), "-") << "the others are their receivers'";
  for (const AgentName& other : {kB, kB2, AgentName{"worker-2.3"}, kA1, AgentName{"worker-2.x"}})
    EXPECT_FALSE(b.box->ack(kStart, other, {"job"}, 1)) << other.value;
  settle(kB1, "job");
  EXPECT_EQ(b.box->list(kB1).size(), 0U);
  ASSERT_EQ(b.box->list(kB).size(), 1U);
  EXPECT_EQ(b.box->list(kB)[0].to, kB);
  EXPECT_EQ(b.receive(kB2), "job of worker-1.1");
  EXPECT_EQ(a.box->list(kA1).size(), 2U) << "two are not acked";
  EXPECT_TRUE(a.box->list(kA).empty());
  EXPECT_EQ(b.box->books().inbox_live, 2U);
  EXPECT_TRUE(b.box->look(kB, {"job"}));
  EXPECT_FALSE(b.box->look(kB1, {"job"}));
}

TEST_F(AgentsOfAPod, AFullInboxHoldsUpNoNeighbour) {
  for (int i = 0; i < 4; ++i) send("one-" + std::to_string(i), kA, kB1);
  for (int i = 0; i < 2; ++i) send("two-" + std::to_string(i), kA1, kB2);
  EXPECT_EQ(carry(kB1),
            (std::vector{Answer::kStored, Answer::kStored, Answer::kFull, Answer::kGap}))
      << "two fit";
  EXPECT_EQ(carry(kB2), (std::vector{Answer::kStored, Answer::kStored}));
  EXPECT_EQ(carry(kB1).size(), 0U) << "it is blocked";
  EXPECT_EQ(b.receive(kB1), "one-0 of worker-1");
  settle(kB1, "one-0");
  a.box->on_retry(kB2);
  EXPECT_EQ(carry(kB1).size(), 0U);
  a.box->on_retry(kB1);
  EXPECT_EQ(carry(kB1)[0], Answer::kStored);
}

TEST_F(AgentsOfAPod, TwoMayChooseTheSameId) {
  send("mine", kA, kB);
  send("mine", kA1, kB);
  send("mine", kA1, kB2);
  EXPECT_EQ(a.box->destinations(), (std::vector{kB, kB2}));
  EXPECT_EQ(carry(kB), (std::vector{Answer::kStored, Answer::kStored}));
  (void)carry(kB2);
  EXPECT_EQ(a.box->take_outcomes().size(), 3U);
  for (const AgentName& from : {kA, kA1}) {
    const auto again = a.box->send(kStart, message("mine", from, kB));
    ASSERT_TRUE(again && again->already);
    EXPECT_TRUE(again->already->repeated);
  }
  const auto other = a.box->send(kStart, message("mine", kA, kB2));
  EXPECT_TRUE(other && !other->already) << "another pair, another message";
  EXPECT_EQ(b.receive(kB), "mine of worker-1");
  settle(kB, "mine", kA);
  EXPECT_EQ(b.receive(kB), "mine of worker-1.1");
  settle(kB, "mine", kA1);
  for (int life = 0; life < 2; ++life) {
    for (const AgentName& from : {kA, kA1}) {
      const auto again = a.box->send(kStart, message("mine", from, kB));
      ASSERT_TRUE(again && again->already) << "known after a restart, too: " << life;
      EXPECT_TRUE(again->already->repeated);
    }
    a.start();
  }
}

TEST_F(AgentsOfAPod, NeighboursShareALog) {
  const auto sent = a.box->send(kStart, message("note", kA1, kA));
  ASSERT_TRUE(sent && sent->already);
  EXPECT_TRUE(sent->already->local);
  EXPECT_FALSE(sent->already->repeated);
  send("note", kA, kA1);
  const auto again = a.box->send(kStart, message("note", kA1, kA));
  EXPECT_TRUE(again->already->repeated);
  a.start();
  EXPECT_TRUE(a.box->send(kStart, message("note", kA1, kA))->already->repeated);
  EXPECT_EQ(a.receive(kA), "note of worker-1.1");
  EXPECT_EQ(a.receive(kA1), "note of worker-1");
  EXPECT_FALSE(a.box->ack(kStart, kA, {"note"}, 1)->debt);
  EXPECT_EQ(a.box->books().inbox_live, 1U);
  EXPECT_EQ(a.box->send(kStart, message("x", kA, {"worker-1.2"})).error().code, Code::kNotFound);
  EXPECT_EQ(a.box->send(kStart, message("x", {"worker-1.2"}, kB)).error().code, Code::kInvalid);
  EXPECT_EQ(a.box->send(kStart, message("x", kB, kA)).error().code, Code::kInvalid);
}

TEST_F(AgentsOfAPod, RepliesAreKeptForTheOneWhoAsked) {
  b.box->await_reply(kB1, {"q"});
  Message reply = message("r", kA, kB1);
  reply.in_reply_to.value = "q";
  ASSERT_TRUE(a.box->send(kStart, reply));
  reply.to = kB2;
  ASSERT_TRUE(a.box->send(kStart, reply));
  (void)carry(kB1);
  (void)carry(kB2);
  EXPECT_EQ(b.receive(kB1), "-");
  EXPECT_EQ(b.receive(kB2), "r of worker-1") << "nobody waits for it there";
  EXPECT_TRUE(b.box->receive(kStart, kB1, Milliseconds{1}, MessageId{"q"}));
}

TEST_F(AgentsOfAPod, DeadLettersAreEachOnesOwn) {
  send("bad", kA, kB1);
  send("bad", kA, kB2);
  (void)carry(kB1);
  (void)carry(kB2);
  (void)b.receive(kB1);
  ASSERT_TRUE(b.box->nack(kStart, kB1, {"bad"}, 1, {}));
  EXPECT_EQ(b.box->dead_letter_count(kB1), 1U);
  EXPECT_EQ(b.box->dead_letter_count(kB2), 0U);
  EXPECT_TRUE(b.box->dead_letters(kB2, 9).empty());
  EXPECT_EQ(b.box->purge(kB2, {"bad"}).error().code, Code::kNotFound);
  EXPECT_EQ(b.box->redrive(kB, {"bad"}).error().code, Code::kNotFound);
  EXPECT_EQ(b.box->books().dead_live, 1U);
  ASSERT_TRUE(b.box->redrive(kB1, {"bad"}));
  EXPECT_EQ(b.receive(kB1), "bad of worker-1");
}

// Of each agent how far its streams have come, and which ids it has had.
TEST_F(AgentsOfAPod, ARestartKeepsWhoseMarksTheyAre) {
  constexpr std::size_t kLarge = 1500;  // its mark needs a record of its own
  for (const AgentName& to : {kB, kB2}) {
    send("big", kA1, to, kLarge);
    ASSERT_EQ(carry(to), std::vector{Answer::kStored});
    (void)b.receive(to);
    settle(to, "big");
  }
  b.start();
  const std::string high = b.records[kCursor].at(0).substr(16, 8);
  ASSERT_EQ(b.records[kCursor].size(), 2U);
  EXPECT_EQ(b.records[kCursor][0].substr(24), std::string("\x02\x08", 2) + "worker-1")
      << "as it always was";
  EXPECT_EQ(b.records[kCursor][1].substr(24), std::string("\x82\x08\x02\0", 4) + "worker-1");
  ASSERT_EQ(b.records[kUserId].size(), 2U);
  EXPECT_EQ(b.records[kUserId][0], std::string("\x01\x0a\x03", 3) + "worker-1.1big");
  EXPECT_EQ(b.records[kUserId][1], std::string("\x81\x0a\x03\x02\0", 5) + "worker-1.1big");
  link();
  // What has no mark is new, what is at it or below is not.
  const auto sequence = static_cast<Sequence>(static_cast<unsigned char>(high[0]));
  Message generated = message("m-0123456789abcdef", kA, kB1);
  const auto answer = [&](const AgentName& to) {
    generated.to = to;
    return b.box->deliver(kStart, a.log->id(), sequence, 0, generated);
  };
  EXPECT_EQ(answer(kB), Answer::kFinished);
  EXPECT_EQ(answer(kB2), Answer::kFinished);
  EXPECT_EQ(answer(kB1), Answer::kStored);
  a.start();
  ASSERT_EQ(a.records[kUserId].size(), 2U);
  EXPECT_EQ(a.records[kUserId][0], std::string("\x80\x08\x03\x01\0", 5) + "worker-2big");
  EXPECT_EQ(a.records[kUserId][1], std::string("\x80\x0a\x03\x01\0", 5) + "worker-2.2big");
}

TEST_F(AgentsOfAPod, WithFewerOfThemTheirMailStays) {
  for (const char* id : {"early", "late"}) send(id, kA, kB2);
  const auto batch = a.box->transmit(kB2, 1);
  ASSERT_EQ(batch.size(), 1U);
  ASSERT_EQ(b.box->deliver(kStart, a.log->id(), batch[0].sequence, 0, batch[0].message),
            Answer::kStored);
  b.agents = 1;
  b.start();
  EXPECT_FALSE(b.box->is_local(kB2));
  EXPECT_EQ(b.box->list(kB2).size(), 1U);
  link();
  EXPECT_EQ(carry(kB2), (std::vector{Answer::kDuplicate, Answer::kRefused}))
      << "what it has is not refused";
  b.agents = 3;
  b.start();
  EXPECT_EQ(b.receive(kB2), "early of worker-1");
}

TEST_F(AgentsOfAPod, TakeNoRoomOfEachOtherInTheOutbox) {
  for (std::uint32_t i = 0; i < kOutbox; ++i) send(std::to_string(i), kA1, kB);
  EXPECT_EQ(a.box->send(kStart, message("more", kA1, kB)).error().code, Code::kFull);
  EXPECT_TRUE(a.box->send(kStart, message("more", kA, kB)));
}

TEST_F(AgentsOfAPod, AreAllHandedOver) {
  send("one", kA, kB1);
  send("two", kA1, kB1);
  a.box->stop_intake();
  Pod next(kA, 9, 2);
  a.box->begin_offers();
  for (const Outbound& offered : a.box->offer(1 << 20)) {
    const Answer answer = next.box->adopt(a.log->id(), offered);
    EXPECT_EQ(answer, Answer::kStored);
    a.box->on_offer_answer(offered.sequence, answer);
  }
  EXPECT_EQ(a.box->books().outbox_live, 0U);
  next.start();
  next.box->on_link_up(kStart, kB, b.log->id());
  for (const Outbound& kept : next.box->transmit(kB1, 1 << 20))
    EXPECT_EQ(b.box->deliver_kept(kStart, next.log->id(), kept), Answer::kStored);
  EXPECT_EQ(b.receive(kB1), "one of worker-1");
  EXPECT_EQ(b.receive(kB1), "two of worker-1.1");
  EXPECT_EQ(b.box->ack(kStart, kB1, {"two"}, 1)->debt->sender_log, next.log->id());
}

}  // namespace
}  // namespace swarm::mailbox
