#include "mailbox/mailbox.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>

#include "mailbox/grants.h"
#include "sim/fake_directory.h"
#include "sim/random.h"

namespace swarm::mailbox {
namespace {

using log::Log;
using sim::FakeDirectory;
using sim::Random;

constexpr std::uint32_t kSegment = 4096;
const AgentName kA{"worker-1"}, kB{"worker-2"};
const MonoTime kStart{Milliseconds{1000}};

LogId log_id(std::uint64_t n) {
  LogId id;
  for (std::size_t i = 0; i < 8; ++i) id.bytes[i] = static_cast<std::uint8_t>(n >> (8U * i));
  id.bytes[15] = 1;
  return id;
}

// One pod's log and mailbox, restartable.
struct Pod {
  explicit Pod(AgentName n, Limits l = {}, std::uint64_t bytes = 1 << 20, std::uint32_t many = 1)
      : name(std::move(n)), limits(l), directory(bytes), agents(many) {}
  bool start(MonoTime now, std::uint64_t new_id, std::uint32_t segments = 32) {
    box.reset();
    log.reset();
    box = std::make_unique<Mailbox>(name, limits, agents);
    auto opened = Log::open(
        directory,
        {.max_bytes = 8192 + std::uint64_t{segments} * kSegment, .segment_bytes = kSegment},
        log_id(new_id), [this](const log::Record& r) { box->restore(r); }, &recovery);
    if (!opened) return false;
    log = std::move(*opened);
    box->attach(*log, now, recovery.corrupt_records > 0);
    return !directory.crashed();
  }
  AgentName name;
  Limits limits;
  FakeDirectory directory;
  std::uint32_t agents;
  log::Recovery recovery;
  std::unique_ptr<Log> log;
  std::unique_ptr<Mailbox> box;
};

Message message(const std::string& id, const AgentName& from, const AgentName& to,
                const std::string& body = "body") {
  Message m;
  m.id.value = id;
  m.from = from;
  m.to = to;
  m.sent_at = 5;
  m.body = body;
  return m;
}

struct Mailboxes : ::testing::Test {
  Mailboxes() {
    EXPECT_TRUE(a.start(kStart, 1));
    EXPECT_TRUE(b.start(kStart, 2));
    link();
  }
  void link() {
    for (auto [x, y] : {std::pair(&a, &b), std::pair(&b, &a)}) {
      x->box->on_link_up(now, y->name, y->log->id());
      x->box->on_incarnation(y->name, y->log->id());
    }
  }
  // Carries everything due from x to y; returns the answers.
  std::vector<Answer> carry(Pod& x, Pod& y) {
    std::vector<Answer> out;
    for (const Outbound& o : x.box->transmit(y.name, 1 << 20)) {
      out.push_back(y.box->deliver(now, x.log->id(), o.sequence, o.prev, o.message));
      x.box->on_answer(now, y.name, y.log->id(), o.sequence, out.back(), "");
    }
    return out;
  }
  Sequence send(Pod& x, Message m) {
    auto s = x.box->send(now, std::move(m));
    EXPECT_TRUE(s) << (s ? "" : s.error().message);
    return s ? s->sequence : 0;
  }
  std::string receive(Pod& x, std::optional<MessageId> reply = {}) {
    auto d = x.box->receive(now, x.name, Milliseconds{100}, reply);
    return d ? d->message.id.value + "/" + std::to_string(d->attempt) : "-";
  }
  void settle(Pod& receiver, Pod& sender, const std::string& id, std::uint16_t attempt) {
    auto r = receiver.box->ack(now, receiver.name, {id}, attempt);
    ASSERT_TRUE(r);
    ASSERT_TRUE(r->debt);
    EXPECT_TRUE(sender.box->on_acked(receiver.name, r->debt->sender_sequence));
    receiver.box->on_ack_recorded(r->debt->inbox);
  }
  MonoTime now = kStart;
  Pod a{kA,
        {.max_inbox_messages = 3,
         .max_outbox_messages = 5,
         .max_message_bytes = 1000,
         .max_attempts = 2}};
  Pod b{kB,
        {.max_inbox_messages = 3,
         .max_outbox_messages = 5,
         .max_message_bytes = 1000,
         .max_attempts = 2}};
};

TEST(Codec, RoundTripAndEveryTruncationIsRefused) {
  Message m = message("id-1", kA, kB, std::string("a\0b", 3));
  m.in_reply_to.value = "q-1";
  m.wants_reply = true;
  m.priority = Priority::kLow;
  const std::string bytes = encode(m);
  ASSERT_TRUE(decode(bytes));
  EXPECT_EQ(*decode(bytes), m);
  for (std::size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(decode(bytes.substr(0, n))) << n;
  EXPECT_FALSE(decode(bytes + "x"));
}

TEST(Codec, APartOfAStreamHasAVersionOfItsOwn) {
  using Mark = StreamPart::Mark;
  for (const Mark mark : {Mark::kNone, Mark::kEnd, Mark::kAbort}) {
    Message m = message("i", kA, kB, "B");
    m.stream = {{"log"}, 0x01020304, mark};
    const std::string bytes = encode(m);
    ASSERT_TRUE(decode(bytes));
    EXPECT_EQ(*decode(bytes), m);
    EXPECT_EQ(bytes.substr(0, 3),
              std::string("\x03\x01", 2) + static_cast<char>(static_cast<int>(mark) * 2));
    EXPECT_EQ(bytes.substr(20),
              std::string("\x01\0\0\0\x03\0\x04\x03\x02\x01", 10) + "iworker-1worker-2logB");
    for (std::size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(decode(bytes.substr(0, n))) << n;
    EXPECT_FALSE(decode(bytes + "x"));
    const Outbound kept{7, 0, m, {log_id(3), 5}};
    EXPECT_EQ(decode_outbound(7, 0, encode(kept))->message, m) << "also one that is kept";
  }
  Message m = message("i", kA, kB, "B");
  m.stream = {{"log"}, 1, Mark::kNone};
  const std::string good = encode(m);
  const std::tuple<std::size_t, char, const char*> rows[] = {
      {1, 0, "priority high"},   {2, 1, "wants a reply"}, {2, 6, "end and abort"},
      {2, 8, "an unknown flag"}, {26, 0, "part 0"},       {46, '/', "no name"}};
  for (const auto& [at, value, why] : rows) {
    std::string bad = good;
    ASSERT_NE(bad.at(at), value) << why;
    bad[at] = value;
    EXPECT_FALSE(decode(bad)) << why;
  }
}

TEST(Codec, BytesAreWhatTheDocumentSays) {
  Message m = message("i", kA, kB, "B");
  m.sent_at = 0x0102;
  EXPECT_EQ(encode(m),
            std::string("\x01\x01\0\0\x02\x01\0\0\0\0\0\0\x01\0\x08\0\x08\0\0\0\x01\0\0\0", 24) +
                "iworker-1worker-2B");
}

TEST(Codec, RefusesHostileBytes) {
  const std::string good = encode(message("id", kA, kB));
  const std::pair<std::size_t, char> rows[] = {
      {0, 2},  {0, 0},  {1, 3},  {1, '\xFF'}, {2, 2},  {2, '\x80'},  {3, 1},    {12, 3},
      {13, 1}, {14, 7}, {16, 9}, {18, 1},     {20, 5}, {23, '\x7F'}, {24, ' '}, {26, 'W'}};
  for (const auto& [at, value] : rows) {
    std::string bad = good;
    bad[at] = value;
    EXPECT_FALSE(decode(bad)) << at;
  }
}

// The outcome of an id that its user chose must be on the record before the ack is: a sender that
// starts anew would send the message again, to a receiver that has lost its log.
TEST_F(Mailboxes, AnAckIsRecordedWhenTheOutcomeOfItsIdIs) {
  const Sequence sent = send(a, message("job-1", kA, kB));
  const auto out = a.box->transmit(kB, 1 << 20);
  ASSERT_EQ(out.size(), 1U);
  ASSERT_EQ(b.box->deliver(now, a.log->id(), sent, 0, out[0].message), Answer::kStored);
  a.directory.crash();  // its log can't be written
  a.box->on_answer(now, kB, b.log->id(), sent, Answer::kStored, "");
  ASSERT_EQ(receive(b), "job-1/1");
  const auto acked = b.box->ack(now, kB, {"job-1"}, 1);
  ASSERT_TRUE(acked);
  EXPECT_FALSE(a.box->on_acked(kB, acked->debt->sender_sequence));
  EXPECT_TRUE(a.box->records_late());
  (void)a.box->tick(now);
  EXPECT_TRUE(a.box->take_recorded().empty());
  link();
  EXPECT_TRUE(a.box->transmit(kB, 1 << 20).empty()) << "the receiver has acked it";

  a.directory.restart(nullptr);
  (void)a.box->tick(now);
  EXPECT_EQ(a.box->take_recorded(), std::vector{sent});
  EXPECT_FALSE(a.box->records_late());
  ASSERT_TRUE(a.start(now, 3));
  link();
  EXPECT_TRUE(a.box->transmit(kB, 1 << 20).empty());
  const auto again = a.box->send(now, message("job-1", kA, kB));
  ASSERT_TRUE(again && again->already);
  EXPECT_TRUE(again->already->repeated);
}

TEST_F(Mailboxes, AMessageGoesItsWay) {
  const Sequence s = send(a, message("m1", kA, kB));
  EXPECT_EQ(carry(a, b), std::vector{Answer::kStored});
  const auto outcomes = a.box->take_outcomes();
  ASSERT_EQ(outcomes.size(), 1U);
  EXPECT_EQ(outcomes[0].sequence, s);
  EXPECT_FALSE(outcomes[0].error);
  EXPECT_EQ(receive(b), "m1/1");
  EXPECT_EQ(receive(b), "-");
  settle(b, a, "m1", 1);
  EXPECT_EQ(a.box->books().outbox_live + b.box->books().inbox_live, 0U);
  EXPECT_TRUE(b.box->ack(now, b.name, {"m1"}, 1)) << "an ack whose answer was lost may be repeated";
}

struct BadSend {
  const char* name;
  std::function<void(Message&)> spoil;
};
TEST_F(Mailboxes, SendRefusesWhatIsWrong) {
  const BadSend rows[] = {{"no id", [](Message& m) { m.id.value.clear(); }},
                          {"id with a slash", [](Message& m) { m.id.value = "a/b"; }},
                          {"long id", [](Message& m) { m.id.value = std::string(129, 'x'); }},
                          {"receiver", [](Message& m) { m.to.value = "../etc"; }},
                          {"sender", [](Message& m) { m.from.value = ""; }},
                          {"in reply to", [](Message& m) { m.in_reply_to.value = "a b"; }},
                          {"priority", [](Message& m) { m.priority = static_cast<Priority>(3); }},
                          {"body", [](Message& m) { m.body = std::string(1001, 'x'); }}};
  for (const BadSend& row : rows) {
    Message m = message("good", kA, kB);
    row.spoil(m);
    auto r = a.box->send(now, m);
    ASSERT_FALSE(r) << row.name;
    EXPECT_EQ(r.error().code, Code::kInvalid) << row.name;
  }
  EXPECT_TRUE(a.box->list(a.name).empty());
}

TEST_F(Mailboxes, DeliverRefusesWhatIsWrong) {
  const LogId from = a.log->id();
  Message good = message("x", kA, kB);
  EXPECT_EQ(b.box->deliver(now, LogId{}, 1, 0, good), Answer::kRefused);
  EXPECT_EQ(b.box->deliver(now, from, 0, 0, good), Answer::kRefused);
  EXPECT_EQ(b.box->deliver(now, from, 3, 3, good), Answer::kRefused);
  EXPECT_EQ(b.box->deliver(now, from, 3, 2, good), Answer::kGap);
  Message m = good;
  m.to = kA;
  EXPECT_EQ(b.box->deliver(now, from, 1, 0, m), Answer::kRefused);
  m = good;
  m.body = std::string(kMostMessageBytes + 1, 'x');
  EXPECT_EQ(b.box->deliver(now, from, 1, 0, m), Answer::kRefused);
  m = good;
  m.priority = static_cast<Priority>(200);
  EXPECT_EQ(b.box->deliver(now, from, 1, 0, m), Answer::kRefused);
  m = good;
  m.in_reply_to.value = "a b";
  EXPECT_EQ(b.box->deliver(now, from, 1, 0, m), Answer::kRefused);
}

TEST_F(Mailboxes, FullInboxLeavesTheMessageToItsSender) {
  for (int i = 0; i < 4; ++i) send(a, message("m" + std::to_string(i), kA, kB));
  EXPECT_EQ(carry(a, b),
            (std::vector{Answer::kStored, Answer::kStored, Answer::kStored, Answer::kFull}));
  EXPECT_TRUE(carry(a, b).empty()) << "waits for on_retry";
  a.box->on_retry(kB);
  EXPECT_EQ(carry(a, b), std::vector{Answer::kFull});
  const Sequence blocked = 8;  // four ids, four messages
  const Sequence last = send(a, message("m-0123456789abcdef", kA, kB));
  EXPECT_TRUE(a.box->withdraw(blocked));
  EXPECT_FALSE(a.box->withdraw(blocked));
  EXPECT_EQ(receive(b), "m0/1");
  settle(b, a, "m0", 1);
  a.box->on_retry(kB);
  EXPECT_EQ(carry(a, b), std::vector{Answer::kStored}) << "prev skips what was withdrawn";
  EXPECT_FALSE(a.box->withdraw(last)) << "accepted";
  EXPECT_EQ(send(a, message("m3", kA, kB)), last + 2) << "a withdrawn id may be used again";
}

TEST_F(Mailboxes, OutboxHasALimitPerReceiver) {
  a.box->on_link_down(kB);
  for (int i = 0; i < 5; ++i) send(a, message("m" + std::to_string(i), kA, kB));
  EXPECT_EQ(a.box->send(now, message("m5", kA, kB)).error().code, Code::kFull);
  EXPECT_TRUE(a.box->send(now, message("m6", kA, {"worker-3"})));
  Message reply = message("m7", kA, kB);
  reply.in_reply_to.value = "q";
  EXPECT_TRUE(a.box->send(now, reply));
}

TEST_F(Mailboxes, AnAwaitedReplyHasItsPlaceAndItsReceiver) {
  b.box->await_reply(b.name, {"q1"});
  for (int i = 0; i < 4; ++i) send(a, message("m" + std::to_string(i), kA, kB));
  (void)carry(a, b);
  Message reply = message("r1", kA, kB);
  reply.in_reply_to.value = "q1";
  send(a, reply);
  EXPECT_EQ(carry(a, b), std::vector{Answer::kStored})
      << "not behind the blocked one, not refused as full";
  Message second = message("r2", kA, kB);
  second.in_reply_to.value = "q1";
  send(a, second);
  EXPECT_EQ(carry(a, b), std::vector{Answer::kFull}) << "one reserved place only";
  for (const char* expected : {"m0/1", "m1/1", "m2/1", "-"}) EXPECT_EQ(receive(b), expected);
  EXPECT_EQ(receive(b, MessageId{"q2"}), "-");
  EXPECT_EQ(receive(b, MessageId{"q1"}), "r1/1");
  settle(b, a, "r1", 1);
  b.box->await_reply(b.name, {"q1"});
  b.box->forget_reply(b.name, {"q1"});
}

TEST_F(Mailboxes, AForgottenReplyIsOrdinaryMail) {
  b.box->await_reply(b.name, {"q1"});
  Message reply = message("r1", kA, kB);
  reply.in_reply_to.value = "q1";
  send(a, reply);
  (void)carry(a, b);
  EXPECT_EQ(receive(b), "-");
  b.box->forget_reply(b.name, {"q1"});
  EXPECT_EQ(receive(b), "r1/1");
}

TEST_F(Mailboxes, LeasesEndAndAttemptsAreCountedUntilDead) {
  send(a, message("m1", kA, kB));
  (void)carry(a, b);
  EXPECT_EQ(receive(b), "m1/1");
  EXPECT_EQ(b.box->next_deadline(), now + Milliseconds{100});
  ASSERT_TRUE(b.box->extend(now, b.name, {"m1"}, 1, Milliseconds{200}));
  now += Milliseconds{150};
  EXPECT_FALSE(b.box->tick(now));
  now += Milliseconds{50};
  EXPECT_TRUE(b.box->tick(now));
  EXPECT_EQ(receive(b), "m1/2");
  EXPECT_EQ(b.box->ack(now, b.name, {"m1"}, 1).error().code, Code::kDenied);
  EXPECT_EQ(b.box->nack(now, b.name, {"m1"}, 1, {}).error().code, Code::kDenied);
  EXPECT_EQ(b.box->extend(now, b.name, {"m1"}, 1, Milliseconds{1}).error().code, Code::kDenied);
  EXPECT_EQ(b.box->ack(now, b.name, {"m1"}, 0).error().code, Code::kDenied);
  EXPECT_EQ(b.box->ack(now, b.name, {"other"}, 1).error().code, Code::kNotFound);
  ASSERT_TRUE(b.box->nack(now, b.name, {"m1"}, 2, {}));
  EXPECT_EQ(b.box->books().dead_live, 1U);
  EXPECT_EQ(b.box->ack(now, b.name, {"m1"}, 2).error().code, Code::kDenied);
  EXPECT_EQ(receive(b), "-");
  ASSERT_TRUE(b.start(now, 9));
  link();
  EXPECT_EQ(b.box->books().dead_live, 1U);
  auto r = b.box->purge(b.name, {"m1"});
  ASSERT_TRUE(r);
  EXPECT_TRUE(r->debt);
  EXPECT_EQ(b.box->books().dead_live, 0U);
  EXPECT_EQ(b.box->purge(b.name, {"m1"}).error().code, Code::kNotFound);
}

TEST_F(Mailboxes, NackWithDelay) {
  send(a, message("m1", kA, kB));
  (void)carry(a, b);
  EXPECT_EQ(receive(b), "m1/1");
  ASSERT_TRUE(b.box->nack(now, b.name, {"m1"}, 1, Milliseconds{30}));
  EXPECT_EQ(receive(b), "-");
  now += Milliseconds{30};
  EXPECT_EQ(receive(b), "m1/2");
}

TEST_F(Mailboxes, AttemptsSurviveARestartAndItsLastAckIsStillGood) {
  send(a, message("m1", kA, kB));
  (void)carry(a, b);
  EXPECT_EQ(receive(b), "m1/1");
  ASSERT_TRUE(b.start(now, 9));
  EXPECT_EQ(receive(b), "m1/2");
  ASSERT_TRUE(b.start(now, 9));
  link();
  settle(b, a, "m1", 2);
  EXPECT_EQ(receive(b), "-");
}

TEST_F(Mailboxes, DebtsAndMarksSurviveARestart) {
  for (int i = 0; i < 3; ++i) send(a, message("m" + std::to_string(i), kA, kB));
  const auto frames = a.box->transmit(kB, 1 << 20);
  for (const auto& o : frames)
    EXPECT_EQ(b.box->deliver(now, a.log->id(), o.sequence, o.prev, o.message), Answer::kStored);
  EXPECT_EQ(receive(b), "m0/1");
  EXPECT_EQ(receive(b), "m1/1");
  EXPECT_EQ(receive(b), "m2/1");
  settle(b, a, "m2", 1);
  ASSERT_TRUE(b.box->ack(now, b.name, {"m1"}, 1));
  ASSERT_TRUE(b.start(now, 9));
  ASSERT_EQ(b.box->ack_debts(kA).size(), 1U);
  EXPECT_EQ(b.box->ack_creditors(), std::vector{kA});
  EXPECT_EQ(b.box->deliver(now, a.log->id(), frames[0].sequence, frames[0].prev, frames[0].message),
            Answer::kDuplicate);
  EXPECT_EQ(b.box->deliver(now, a.log->id(), frames[1].sequence, frames[1].prev, frames[1].message),
            Answer::kFinished);
  EXPECT_EQ(b.box->deliver(now, a.log->id(), frames[2].sequence, frames[2].prev, frames[2].message),
            Answer::kFinished);
  b.box->on_incarnation(kA, a.log->id());
  b.box->on_incarnation(kA, log_id(77));
  EXPECT_EQ(b.box->ack_debts(kA).size(), 1U) << "it may be draining still";
  EXPECT_EQ(b.box->on_former(kA, a.log->id()).size(), 1U);
  EXPECT_TRUE(b.box->ack_debts(kA).empty());
}

// A new pod of a name sends before we have a link to it: what its predecessor was is no reason to
// owe it nothing, nor to forget what it has sent.
TEST_F(Mailboxes, ANewIncarnationIsOwedItsAcksBeforeThereIsALinkToIt) {
  Pod fresh{kA};
  ASSERT_TRUE(fresh.start(now, 3));
  fresh.box->on_link_up(now, kB, b.log->id());
  send(fresh, message("m0", kA, kB));
  const auto out = fresh.box->transmit(kB, 1 << 20);
  ASSERT_EQ(out.size(), 1U);
  const auto deliver = [&] {
    return b.box->deliver(now, fresh.log->id(), out[0].sequence, out[0].prev, out[0].message);
  };
  ASSERT_EQ(deliver(), Answer::kStored);
  EXPECT_EQ(receive(b), "m0/1");
  const auto acked = b.box->ack(now, b.name, {"m0"}, 1);
  ASSERT_TRUE(acked);
  ASSERT_TRUE(acked->debt);
  // Its predecessor, found once more by an old view: nothing of the new one ends by that.
  b.box->on_incarnation(kA, a.log->id());
  EXPECT_EQ(b.box->ack_debts(kA).size(), 1U);
  EXPECT_EQ(deliver(), Answer::kFinished);
  // From now on the predecessor is former, and does not come back.
  b.box->on_incarnation(kA, fresh.log->id());
  b.box->on_incarnation(kA, a.log->id());
  EXPECT_TRUE(b.box->on_former(kA, fresh.log->id()).empty()) << "it is the current one";
  EXPECT_EQ(b.box->ack_debts(kA).size(), 1U);
  EXPECT_EQ(deliver(), Answer::kFinished);
  b.box->on_ack_recorded(acked->debt->inbox);
  EXPECT_TRUE(b.box->ack_debts(kA).empty());
}

TEST_F(Mailboxes, ALogThatNeverWasCurrentEndsWhenItIsSaidToBeFormer) {
  send(a, message("m0", kA, kB));
  (void)carry(a, b);
  EXPECT_EQ(receive(b), "m0/1");
  ASSERT_TRUE(b.start(now, 9));  // what was current is not in the log
  EXPECT_EQ(receive(b), "m0/2");
  ASSERT_TRUE(b.box->ack(now, b.name, {"m0"}, 2));
  EXPECT_TRUE(b.box->on_former(kA, a.log->id()).empty()) << "there is no other";
  b.box->on_incarnation(kA, log_id(77));
  ASSERT_EQ(b.box->ack_debts(kA).size(), 1U);
  EXPECT_TRUE(b.box->on_former(kA, log_id(77)).empty()) << "that is the current one";
  EXPECT_EQ(b.box->on_former(kA, a.log->id()).size(), 1U);
  EXPECT_TRUE(b.box->ack_debts(kA).empty());
}

TEST_F(Mailboxes, ASenderThatIsGoneIsOwedNothing) {
  send(a, message("m1", kA, kB));
  send(a, message("m2", kA, kB));
  const auto sent = a.box->transmit(kB, 1 << 20);
  for (const Outbound& o : sent)
    EXPECT_EQ(b.box->deliver(now, a.log->id(), o.sequence, o.prev, o.message), Answer::kStored);
  EXPECT_EQ(receive(b), "m1/1");
  ASSERT_TRUE(b.box->ack(now, b.name, {"m1"}, 1)->debt);
  EXPECT_TRUE(b.box->on_gone({"worker-7"}).empty());
  EXPECT_EQ(b.box->ack_creditors(), std::vector{kA});
  EXPECT_EQ(b.box->on_gone(kA).size(), 1U);
  EXPECT_TRUE(b.box->ack_creditors().empty());
  EXPECT_TRUE(b.box->on_gone(kA).empty());
  EXPECT_EQ(receive(b), "m2/1") << "only what was acked is over";
  ASSERT_TRUE(b.start(now, 3));
  EXPECT_TRUE(b.box->ack_creditors().empty()) << "also after a restart";
  EXPECT_EQ(b.box->deliver(now, a.log->id(), sent[0].sequence, sent[0].prev, sent[0].message),
            Answer::kFinished)
      << "should it be back all the same, nothing comes twice";
}

// Its successor has a link to us, but the former pod has not ended, and asks for an answer that it
// has not heard.
TEST_F(Mailboxes, AFormerPodThatStillSendsDeliversNothingTwice) {
  send(a, message("m-0000000000000001", kA, kB));
  const auto sent = a.box->transmit(kB, 1 << 20);
  ASSERT_EQ(sent.size(), 1U);
  const auto deliver = [&] {
    return b.box->deliver(now, a.log->id(), sent[0].sequence, sent[0].prev, sent[0].message);
  };
  ASSERT_EQ(deliver(), Answer::kStored);
  EXPECT_EQ(receive(b), "m-0000000000000001/1");
  ASSERT_TRUE(b.box->ack(now, b.name, {"m-0000000000000001"}, 1)->debt);
  b.box->on_incarnation(kA, log_id(77));
  EXPECT_EQ(b.box->on_former(kA, a.log->id()).size(), 1U) << "the ack is OK now";
  EXPECT_EQ(deliver(), Answer::kFinished);
  EXPECT_EQ(receive(b), "-");
  ASSERT_TRUE(b.start(now, 3));
  EXPECT_EQ(deliver(), Answer::kFinished) << "also after a restart";
  EXPECT_EQ(receive(b), "-");
}

TEST_F(Mailboxes, ASenderThatWasGivenUpAsksWhatBecameOfItsMessages) {
  const auto again = [&](Milliseconds after) {
    a.box->on_link_down(kB);
    now += after;
    a.box->on_link_up(now, kB, b.log->id());
    return carry(a, b);
  };
  send(a, message("m1", kA, kB));
  (void)carry(a, b);
  EXPECT_EQ(receive(b), "m1/1");
  ASSERT_TRUE(b.box->ack(now, b.name, {"m1"}, 1)->debt);
  EXPECT_EQ(b.box->on_gone(kA).size(), 1U);
  EXPECT_TRUE(again(kAskAgainAfter - Milliseconds{1}).empty());
  now += kAskAgainAfter;
  send(a, message("m2", kA, kB));
  EXPECT_EQ(carry(a, b), std::vector{Answer::kStored});
  EXPECT_TRUE(again(Milliseconds{1}).empty()) << "it has just answered";
  EXPECT_EQ(a.box->books().outbox_live, 2U);
  EXPECT_EQ(again(kAskAgainAfter), (std::vector{Answer::kFinished, Answer::kDuplicate}));
  EXPECT_EQ(a.box->books().outbox_live, 1U) << "else it stays until a restart";
}

TEST_F(Mailboxes, LargeAnchorsBecomeCursors) {
  send(a, message("m-00000000000000aa", kA, kB, std::string(900, 'x')));
  (void)carry(a, b);
  EXPECT_EQ(receive(b), "m-00000000000000aa/1");
  settle(b, a, "m-00000000000000aa", 1);
  EXPECT_EQ(b.log->stats().live_records, 1U);
  EXPECT_LT(b.log->stats().live_bytes, 200U);
  ASSERT_TRUE(b.start(now, 9));
  EXPECT_EQ(b.box->deliver(now, a.log->id(), 1, 0, message("m-00000000000000aa", kA, kB)),
            Answer::kFinished);
}

TEST_F(Mailboxes, AWipedReceiverGetsEverythingAgainInOrder) {
  for (int i = 0; i < 3; ++i) send(a, message("m" + std::to_string(i), kA, kB));
  (void)carry(a, b);
  (void)a.box->take_outcomes();
  b.directory.wipe();
  ASSERT_TRUE(b.start(now, 22));
  a.box->on_link_up(now, kB, b.log->id());
  EXPECT_EQ(a.box->books().single_copy, 3U);
  EXPECT_EQ(carry(a, b), (std::vector{Answer::kStored, Answer::kStored, Answer::kStored}));
  EXPECT_TRUE(a.box->take_outcomes().empty()) << "one outcome a message";
  for (const char* expected : {"m0/1", "m1/1", "m2/1"}) EXPECT_EQ(receive(b), expected);
}

TEST_F(Mailboxes, AWipedSenderRepeatsAnIdOnce) {
  send(a, message("job-1", kA, kB));
  (void)carry(a, b);
  EXPECT_EQ(receive(b), "job-1/1");
  a.directory.wipe();
  ASSERT_TRUE(a.start(now, 11));
  link();
  EXPECT_EQ(b.box->books().single_copy, 1U);
  send(a, message("job-1", kA, kB));
  EXPECT_EQ(carry(a, b), std::vector{Answer::kDuplicate});
  EXPECT_EQ(b.box->books().single_copy, 0U);
  EXPECT_EQ(receive(b), "-") << "still leased";
  settle(b, a, "job-1", 1);
  a.directory.wipe();
  ASSERT_TRUE(a.start(now, 12));
  link();
  send(a, message("job-1", kA, kB));
  EXPECT_EQ(carry(a, b), std::vector{Answer::kFinished});
}

TEST_F(Mailboxes, UserIdsAreRememberedAcrossRestartsUntilTheyExpire) {
  const Sequence s = send(a, message("job-1", kA, kB));
  EXPECT_EQ(send(a, message("job-1", kA, kB)), s);
  (void)carry(a, b);
  (void)receive(b);
  settle(b, a, "job-1", 1);
  ASSERT_TRUE(a.start(now, 9));
  auto again = a.box->send(now, message("job-1", kA, kB));
  ASSERT_TRUE(again);
  ASSERT_TRUE(again->already);
  EXPECT_FALSE(again->already->error);
  now += Milliseconds{3600 * 1000 + 1};
  (void)a.box->tick(now);
  EXPECT_EQ(a.log->stats().live_records, 0U);
  EXPECT_FALSE(a.box->send(now, message("job-1", kA, kB))->already);
}

Message part(std::uint32_t number, StreamPart::Mark mark = StreamPart::Mark::kNone) {
  Message m = message("part-" + std::to_string(number), kA, kB);
  m.stream = {{"log"}, number, mark};
  return m;
}

struct Streams : Mailboxes {
  std::string next(std::uint32_t number) {
    const auto got = b.box->receive_part(now, b.name, Milliseconds{100}, kA, {"log"}, number);
    if (!got) return std::string(code_name(got.error().code)) + ": " + got.error().message;
    if (!*got) return "-";
    return std::to_string((*got)->message.stream->part) + "/" + std::to_string((*got)->attempt);
  }
};

TEST_F(Streams, PartsComeInOrderAndOnlyToWhoeverAsksForThem) {
  for (const std::uint32_t number : {1U, 2U}) send(a, part(number));
  send(a, message("m-0000000000000009", kA, kB));
  (void)carry(a, b);
  EXPECT_EQ(receive(b), "m-0000000000000009/1") << "not a part";
  EXPECT_EQ(receive(b), "-");
  EXPECT_EQ(b.box->list(b.name)[0].stream->part, 1U);
  EXPECT_EQ(next(1), "1/1");
  EXPECT_EQ(next(2), "-") << "part 1 is not done";
  now += Milliseconds{101};
  EXPECT_EQ(next(2), "1/2") << "it comes again before part 2";
  settle(b, a, "part-1", 2);
  EXPECT_EQ(next(1),
            "refused: part 1 of stream log from worker-1 is lost, or was read before; the "
            "next one is part 2");
  EXPECT_EQ(next(2), "2/1");
  settle(b, a, "part-2", 1);
  EXPECT_EQ(next(3), "-");
  EXPECT_EQ(
      b.box->receive_part(now, b.name, Milliseconds{1}, {"worker-9"}, {"log"}, 1)->has_value(),
      false);
}

TEST_F(Streams, TheOrderIsKeptOverRestartsOfEitherSide) {
  send(a, part(1));
  send(a, part(2, StreamPart::Mark::kEnd));
  ASSERT_TRUE(a.start(now, 1));
  link();
  (void)carry(a, b);
  EXPECT_EQ(next(1), "1/1");
  ASSERT_TRUE(b.start(now, 2));
  link();
  EXPECT_EQ(receive(b), "-") << "a part after a restart, too";
  EXPECT_EQ(next(2), "1/2");
  settle(b, a, "part-1", 2);
  ASSERT_TRUE(b.start(now, 2));
  link();
  EXPECT_EQ(next(2), "2/1");
  settle(b, a, "part-2", 1);
  EXPECT_EQ(b.box->books().inbox_live, 0U);
}

TEST_F(Streams, ADeadPartEndsItWithWordsUntilSomebodyDecides) {
  send(a, part(1));
  send(a, part(2));
  (void)carry(a, b);
  for (std::uint16_t attempt = 1; attempt <= 2; ++attempt) {
    EXPECT_EQ(next(1), "1/" + std::to_string(attempt));
    ASSERT_TRUE(b.box->nack(now, b.name, {"part-1"}, attempt, {}));
  }
  EXPECT_EQ(next(1),
            "refused: part 1 of stream log from worker-1 is a dead letter: redrive it, or "
            "purge it and go on behind");
  EXPECT_EQ(next(2).substr(0, 7), "refused") << "part 2 does not overtake it";
  ASSERT_TRUE(b.box->redrive(b.name, {"part-1"}));
  EXPECT_EQ(next(1), "1/3");
  settle(b, a, "part-1", 3);
  EXPECT_EQ(next(2), "2/1");
}

TEST_F(Streams, TheSenderSendsItAgainAfterItsPodWasLost) {
  send(a, part(1));
  send(a, part(2));
  (void)carry(a, b);
  EXPECT_EQ(next(1), "1/1");
  a.directory.wipe();
  ASSERT_TRUE(a.start(now, 9));
  link();
  for (const std::uint32_t number : {1U, 2U, 3U}) send(a, part(number));
  (void)carry(a, b);
  EXPECT_EQ(next(2), "-") << "the same message, still handed out";
  settle(b, a, "part-1", 1);
  EXPECT_EQ(next(2), "2/1");
  settle(b, a, "part-2", 1);
  EXPECT_EQ(next(3), "3/1");
}

TEST_F(Streams, WhatIsNoPartIsNotSent) {
  const std::function<void(Message&)> rows[] = {
      [](Message& m) { m.stream->part = 0; }, [](Message& m) { m.stream->stream.value = ""; },
      [](Message& m) { m.wants_reply = true; }, [](Message& m) { m.in_reply_to.value = "q"; },
      [](Message& m) { m.priority = Priority::kHigh; }};
  for (const auto& spoil : rows) {
    Message m = part(1);
    spoil(m);
    EXPECT_EQ(a.box->send(now, m).error().code, Code::kInvalid);
    EXPECT_EQ(b.box->deliver(now, a.log->id(), 1, 0, m), Answer::kRefused);
  }
}

TEST_F(Mailboxes, AnIdIsOneMessageForEachReceiver) {
  const AgentName c{"worker-3"};
  const Sequence to_b = send(a, message("job-1", kA, kB)), to_c = send(a, message("job-1", kA, c));
  const Sequence to_a = send(a, message("job-1", kA, kA));
  EXPECT_EQ(std::set({to_a, to_b, to_c}).size(), 3U);
  EXPECT_EQ(send(a, message("job-1", kA, c)), to_c);
  (void)carry(a, b);
  EXPECT_EQ(receive(b), "job-1/1");
  settle(b, a, "job-1", 1);
  ASSERT_TRUE(a.start(now, 9));
  EXPECT_TRUE(a.box->send(now, message("job-1", kA, kB))->already) << "accepted once, here";
  EXPECT_EQ(send(a, message("job-1", kA, c)), to_c) << "and still under way there";
  EXPECT_FALSE(a.box->send(now, message("job-1", kA, c))->already);
  EXPECT_TRUE(a.box->send(now, message("job-1", kA, kA))->already->repeated);
  EXPECT_EQ(a.box->look(a.name, {"job-1"})->message.to, kA) << "the inbox before the outbox";
}

TEST(MailboxLimits, AnIdIsNotForgottenWhileItIsBeingRemembered) {
  Pod a{kA, {.max_user_ids = 2}};
  ASSERT_TRUE(a.start(kStart, 1));
  for (const char* under_way : {"job-1", "job-2"})
    ASSERT_TRUE(a.box->send(kStart, message(under_way, kA, kB)));
  ASSERT_TRUE(a.box->send(kStart, message("job-3", kA, kA))->already);
  EXPECT_TRUE(a.box->send(kStart, message("job-3", kA, kA))->already->repeated);
}

TEST(MailboxLimits, UserIdsAndStreamsAreBounded) {
  Pod a{kA, {.max_user_ids = 4}}, b{kB, {.max_user_ids = 4, .max_streams = 4}};
  ASSERT_TRUE(a.start(kStart, 1));
  ASSERT_TRUE(b.start(kStart, 2));
  for (std::uint64_t i = 1; i <= 20; ++i) {
    const std::string id = "job-" + std::to_string(i);
    const LogId from = log_id(100 + i);
    EXPECT_EQ(
        b.box->deliver(kStart, from, 1, 0, message(id, {"worker-" + std::to_string(100 + i)}, kB)),
        Answer::kStored);
    auto d = b.box->receive(kStart, b.name, Milliseconds{100}, {});
    ASSERT_TRUE(d);
    auto r = b.box->ack(kStart, b.name, d->message.id, 1);
    ASSERT_TRUE(r);
    b.box->on_ack_recorded(r->debt->inbox);
  }
  EXPECT_LE(b.log->stats().live_records, 8U);
}

TEST_F(Mailboxes, LocalMessagesAreAcceptedAtOnce) {
  auto s = a.box->send(now, message("note", kA, kA));
  ASSERT_TRUE(s);
  ASSERT_TRUE(s->already);
  EXPECT_TRUE(s->already->local);
  EXPECT_EQ(a.box->send(now, message("note", kA, kA))->sequence, s->sequence);
  EXPECT_EQ(receive(a), "note/1");
  auto r = a.box->ack(now, a.name, {"note"}, 1);
  ASSERT_TRUE(r);
  EXPECT_FALSE(r->debt);
  ASSERT_TRUE(a.start(now, 9));
  EXPECT_EQ(receive(a), "-");
  EXPECT_TRUE(a.box->send(now, message("note", kA, kA))->already);
  EXPECT_EQ(receive(a), "-");
}

TEST_F(Mailboxes, DrainingRefusesAllButAwaitedReplies) {
  b.box->await_reply(b.name, {"q1"});
  b.box->stop_intake();
  send(a, message("m1", kA, kB));
  Message reply = message("r1", kA, kB);
  reply.in_reply_to.value = "q1";
  send(a, reply);
  const auto answers = carry(a, b);
  EXPECT_EQ(std::count(answers.begin(), answers.end(), Answer::kStored), 1);
  EXPECT_EQ(std::count(answers.begin(), answers.end(), Answer::kRefused), 1);
  const auto outcomes = a.box->take_outcomes();
  ASSERT_EQ(outcomes.size(), 2U);
  EXPECT_TRUE(std::any_of(outcomes.begin(), outcomes.end(), [](const SendOutcome& o) {
    return o.error && o.error->code == Code::kDenied;
  }));
}

// The record of the former creditor counts as acked until it is gone: its attempt is no longer one.
TEST_F(Mailboxes, ALateAckIsRefusedAlsoAfterAnInterruptedChangeOfTheCreditor) {
  const Message m = message("m1", kA, kB);
  int handed_out_again = 0;
  for (std::uint64_t change = 1; change <= 8; ++change) {
    Pod c(kB);
    ASSERT_TRUE(c.start(now, 50));
    ASSERT_EQ(c.box->deliver(now, log_id(70), 1, 0, m), Answer::kStored);
    ASSERT_EQ(receive(c), "m1/1");
    ASSERT_TRUE(c.log->commit());
    c.directory.crash_in(change);
    (void)c.box->deliver(now, log_id(71), 1, 0, m);
    c.box.reset();
    c.log.reset();
    c.directory.restart(nullptr);
    ASSERT_TRUE(c.start(now, 50));
    if (receive(c) != "m1/2") continue;
    ++handed_out_again;
    EXPECT_EQ(c.box->ack(now, kB, m.id, 1).error().code, Code::kDenied) << "at change " << change;
    EXPECT_TRUE(c.box->ack(now, kB, m.id, 2)) << "at change " << change;
  }
  EXPECT_GT(handed_out_again, 3);
}

TEST_F(Mailboxes, ACopyThatCameAfterItsMessageWasTakenBackIsNotASecondMessage) {
  const Message m = message("m1", kA, kB);
  ASSERT_EQ(b.box->deliver(now, a.log->id(), 5, 0, m), Answer::kStored);
  EXPECT_EQ(b.box->deliver(now, a.log->id(), 6, 0, m), Answer::kDuplicate) << "sent again";
  EXPECT_EQ(receive(b), "m1/1");
  EXPECT_EQ(receive(b), "-");
  const auto acked = b.box->ack(now, kB, m.id, 1);
  ASSERT_TRUE(acked && acked->debt);
  EXPECT_EQ(acked->debt->sender_sequence, 6U) << "owed to the one that waits for it";
}

TEST_F(Mailboxes, DrainingDoesNotRefuseWhatItHas) {
  const Message m = message("m1", kA, kB);
  LogId former;
  former.bytes[0] = 77;  // of the sender's pod, which was lost before it heard the answer
  ASSERT_EQ(b.box->deliver(now, former, 5, 0, m), Answer::kStored);
  b.box->stop_intake();
  send(a, m);
  const auto answers = carry(a, b);
  EXPECT_EQ(std::count(answers.begin(), answers.end(), Answer::kRefused), 0);
  EXPECT_EQ(receive(b), "m1/1");
  EXPECT_EQ(receive(b), "-");
}

TEST_F(Mailboxes, ARefusalNeverDropsWhatWasAcceptedBefore) {
  send(a, message("m1", kA, kB));
  (void)carry(a, b);
  b.directory.wipe();
  ASSERT_TRUE(b.start(now, 22));
  b.box->stop_intake();
  a.box->on_link_up(now, kB, b.log->id());
  EXPECT_EQ(carry(a, b), std::vector{Answer::kRefused});
  EXPECT_EQ(a.box->books().outbox_live, 1U);
  b.directory.wipe();
  ASSERT_TRUE(b.start(now, 23));
  a.box->on_link_up(now, kB, b.log->id());
  EXPECT_EQ(carry(a, b), std::vector{Answer::kStored});
}

TEST_F(Mailboxes, WithdrawIsTrueOnlyWhenItIsCertain) {
  const Sequence s = send(a, message("m1", kA, kB));
  const Sequence t = send(a, message("m2", kA, kB));
  EXPECT_TRUE(a.box->withdraw(t));
  ASSERT_EQ(a.box->transmit(kB, 1000).size(), 1U);
  EXPECT_FALSE(a.box->withdraw(s)) << "on its way";
  a.box->on_link_down(kB);
  EXPECT_FALSE(a.box->withdraw(s)) << "its answer was lost";
  a.box->on_link_up(now, kB, b.log->id());
  ASSERT_EQ(a.box->transmit(kB, 1000).size(), 1U);
  a.box->on_answer(now, kB, b.log->id(), s, Answer::kFull, "");
  EXPECT_TRUE(a.box->withdraw(s)) << "the same incarnation has it not";
}

// It was sent once more, since one behind it found a gap, while its own answer was still to come.
TEST_F(Mailboxes, TheAnswerToAnEarlierTransmissionDecidesNothing) {
  const Sequence s = send(a, message("m1", kA, kB)), t = send(a, message("m2", kA, kB));
  const auto answer = [&](Sequence sequence, Answer said) {
    a.box->on_answer(now, kB, b.log->id(), sequence, said, "");
  };
  ASSERT_EQ(a.box->transmit(kB, 1000).size(), 2U);
  answer(t, Answer::kGap);
  const auto again = a.box->transmit(kB, 1000);
  ASSERT_EQ(again.size(), 2U);
  ASSERT_EQ(again[0].sequence, s);
  answer(s, Answer::kFull);
  EXPECT_FALSE(a.box->withdraw(s)) << "the latest transmission may have been stored";
  answer(s, Answer::kFull);
  EXPECT_TRUE(a.box->withdraw(s));
}

TEST_F(Mailboxes, AFullInboxIsAskedWithOneMessageAndThenWithMore) {
  Pod slow{kB, {.max_inbox_messages = 2}};
  ASSERT_TRUE(slow.start(now, 6));
  Pod eager{kA, {.max_outbox_messages = 100}};
  ASSERT_TRUE(eager.start(now, 5));
  eager.box->on_link_up(now, kB, slow.log->id());
  for (int n = 1; n <= 40; ++n) (void)send(eager, message("m" + std::to_string(n), kA, kB));
  const auto urgent = [&](int n) {
    Message m = message("h" + std::to_string(n), kA, kB);
    m.priority = Priority::kHigh;
    return m;
  };
  const auto carried = carry(eager, slow);
  EXPECT_EQ(carried.size(), 40U) << "nobody knew";
  EXPECT_EQ(std::count(carried.begin(), carried.end(), Answer::kStored), 2);
  for (int n = 1; n <= 5; ++n) (void)send(eager, urgent(n));
  EXPECT_EQ(carry(eager, slow).size(), 5U) << "nor of this priority";
  EXPECT_TRUE(slow.box->take_grants(now).empty());
  for (int round = 0; round < 3; ++round) {
    eager.box->on_retry(kB);
    EXPECT_EQ(carry(eager, slow), (std::vector{Answer::kFull, Answer::kFull})) << "one of each";
  }

  // A place becomes free: it is kept for who asked first, and nobody else's mail takes it.
  auto taken = slow.box->receive(now, kB, Milliseconds{60000}, std::nullopt);
  ASSERT_TRUE(taken);
  ASSERT_TRUE(slow.box->ack(now, kB, taken->message.id, 1));
  const auto grants = slow.box->take_grants(now);
  ASSERT_EQ(grants.size(), 1U);
  EXPECT_EQ(grants[0].pod, kA);
  eager.box->on_retry(kB);
  EXPECT_EQ(carry(eager, slow), (std::vector{Answer::kFull, Answer::kStored}))
      << "high asks first, and the place is kept for normal";

  // All are free: one, then two, then four …
  const auto drain = [&] {
    while (auto next = slow.box->receive(now, kB, Milliseconds{60000}, std::nullopt))
      ASSERT_TRUE(slow.box->ack(now, kB, next->message.id, next->attempt));
  };
  drain();
  for (const auto& grant : slow.box->take_grants(now))
    EXPECT_TRUE(eager.box->on_grant(kB, grant.to, grant.stream));
  int left = 42;
  for (int round = 0; left > 0 && round < 100; ++round) {
    const auto answers = carry(eager, slow);
    const auto stored = std::count(answers.begin(), answers.end(), Answer::kStored);
    ASSERT_LE(answers.size(), 8U) << "at most twice what was taken before";
    left -= static_cast<int>(stored);
    drain();
    for (const auto& grant : slow.box->take_grants(now))
      (void)eager.box->on_grant(kB, grant.to, grant.stream);
    if (stored == 0) eager.box->on_retry(kB);
    now += kGrantTime;
  }
  EXPECT_EQ(left, 0);
  EXPECT_FALSE(eager.box->on_grant(kB, kB, 2)) << "it has no use for it";
}

// Whoever has a pod's name on a link: its agents' mail to each other is in their own log.
TEST_F(Mailboxes, NothingOfOurOwnComesOverALink) {
  EXPECT_EQ(b.box->deliver(now, a.log->id(), 1, 0, message("m1", kB, kB)), Answer::kRefused);
  EXPECT_EQ(b.box->deliver(now, a.log->id(), 1, 0, message("m1", kA, kB)), Answer::kStored);
}

// Of three agents in a pod one reads nothing, then two: who reads has its share in any case.
TEST_F(Mailboxes, BytesAreLimitedAsCountsAre) {
  Pod full{kB, {.max_received_bytes = 8U << 10U}, 1 << 20, 3};
  Pod sender{kA, {.max_sent_bytes = 100'000}};
  ASSERT_TRUE(full.start(now, 6));
  ASSERT_TRUE(sender.start(now, 7));
  sender.box->on_link_up(now, kB, full.log->id());
  const std::string large(1000, 'x');
  const auto stored = [&](const AgentName& to, const std::string& id) {
    for (int n = 0; n < 5; ++n) {
      Message m = message(id + std::to_string(n), kA, to);
      m.body = large;
      EXPECT_TRUE(sender.box->send(now, m));
    }
    std::size_t count = 0;
    for (const Outbound& o : sender.box->transmit(to, 1 << 20)) {
      const auto answer = full.box->deliver(now, sender.log->id(), o.sequence, o.prev, o.message);
      sender.box->on_answer(now, kB, full.log->id(), o.sequence, answer, "");
      if (answer == Answer::kStored) ++count;
    }
    return count;
  };
  const AgentName second{"worker-2.1"}, third{"worker-2.2"};
  EXPECT_EQ(stored(kB, "a"), 3U) << "half of the room";
  Message one_more = message("l", kB, kB);
  one_more.body = large;
  auto refused = full.box->send(now, one_more);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message,
            "worker-2's inbox is full (3 KiB, half of what others leave of 8: 8)");
  EXPECT_EQ(stored(second, "b"), 2U) << "half of what is left";
  EXPECT_EQ(stored(third, "c"), 1U);

  // Restarted, it counts the same.
  ASSERT_TRUE(full.start(now, 6));
  EXPECT_FALSE(full.box->send(now, one_more));
  const auto read_one = [&](const AgentName& agent) {
    auto taken = full.box->receive(now, agent, Milliseconds{60000}, std::nullopt);
    ASSERT_TRUE(taken && full.box->ack(now, agent, taken->message.id, taken->attempt));
  };
  // Freed, it is told to the one that waits, whose message fits.
  for (int n = 0; n < 3; ++n) read_one(kB);
  const auto grants = full.box->take_grants(now);
  ASSERT_FALSE(grants.empty());
  EXPECT_EQ(grants[0].pod, kB) << "its own";
  EXPECT_TRUE(full.box->send(now, one_more));
}

TEST_F(Mailboxes, AloneInItsPodAnAgentHasAllTheRoom) {
  Pod full{kB, {.max_received_bytes = 8U << 10U}};
  ASSERT_TRUE(full.start(now, 6));
  int n = 0;
  for (; n < 100; ++n) {
    Message m = message("l" + std::to_string(n), kB, kB);
    m.body = std::string(1000, 'x');
    const auto sent = full.box->send(now, m);
    if (sent) continue;
    EXPECT_EQ(sent.error().message, "the inboxes of worker-2's pod are full (6 of 8 KiB)");
    break;
  }
  EXPECT_EQ(n, 6);
}

TEST_F(Mailboxes, OneThatWaitsInTheReceiversPodHasItsTurn) {
  Pod slow{kB, {.max_inbox_messages = 1}};
  ASSERT_TRUE(slow.start(now, 6));
  a.box->on_link_up(now, kB, slow.log->id());
  (void)send(a, message("m1", kA, kB));
  (void)send(a, message("m2", kA, kB));
  ASSERT_EQ(carry(a, slow), (std::vector{Answer::kStored, Answer::kFull}));
  EXPECT_FALSE(slow.box->has_room(now, message("l1", kB, kB)));
  const auto take = [&] {
    auto next = slow.box->receive(now, kB, Milliseconds{60000}, std::nullopt);
    ASSERT_TRUE(next && slow.box->ack(now, kB, next->message.id, 1));
  };
  take();
  auto grants = slow.box->take_grants(now);
  ASSERT_EQ(grants.size(), 1U);
  EXPECT_EQ(grants[0].pod, kA);
  EXPECT_FALSE(slow.box->has_room(now, message("l1", kB, kB))) << "the place is kept for the other";
  ASSERT_TRUE(a.box->on_grant(kB, kB, grants[0].stream));
  ASSERT_EQ(carry(a, slow), std::vector{Answer::kStored});
  take();
  grants = slow.box->take_grants(now);
  ASSERT_EQ(grants.size(), 1U);
  EXPECT_EQ(grants[0].pod, kB);
  EXPECT_TRUE(slow.box->has_room(now, message("l1", kB, kB)));
}

TEST_F(Mailboxes, TransmitIsWeightedAndBounded) {
  Pod c{kA, {.max_outbox_messages = 100}};
  ASSERT_TRUE(c.start(now, 5));
  c.box->on_link_up(now, kB, log_id(2));
  for (int i = 0; i < 30; ++i) {
    Message m = message("m-00000000000000" + std::to_string(10 + i), kA, kB);
    m.priority = static_cast<Priority>(i % 3);
    ASSERT_TRUE(c.box->send(now, m));
  }
  const auto first = c.box->transmit(kB, 12 * encode(message("m-0000000000000010", kA, kB)).size());
  ASSERT_EQ(first.size(), 12U);
  std::map<Priority, int> count;
  for (const auto& o : first) ++count[o.message.priority];
  EXPECT_EQ(count, (std::map<Priority, int>{
                       {Priority::kHigh, 8}, {Priority::kNormal, 3}, {Priority::kLow, 1}}));
  EXPECT_EQ(c.box->transmit(kB, 1).size(), 1U);
  EXPECT_TRUE(c.box->transmit({"worker-9"}, 1000).empty());
}

// One inbox into which senders deliver as they like.
struct Inbox {
  explicit Inbox(Limits limits) : pod(kB, limits) { EXPECT_TRUE(pod.start(kStart, 5)); }
  // "<sender>-<priority>-<number in its stream>" from worker-<100 + sender>.
  void arrive(std::uint64_t sender, Priority priority) {
    const auto p = static_cast<std::uint64_t>(priority);
    std::uint64_t& last = sent[{sender, p}];
    char id[40];
    std::snprintf(id, sizeof id, "m-%04x%04x%08x", static_cast<unsigned>(sender),
                  static_cast<unsigned>(p), static_cast<unsigned>(last + 1));
    Message m = message(id, {"worker-" + std::to_string(100 + sender)}, kB, "b");
    m.priority = priority;
    ASSERT_EQ(pod.box->deliver(kStart, log_id(100 + sender), last + 1, last, m), Answer::kStored);
    ++last;
    ++waiting[p];
  }
  // Takes and acks one; its priority.
  std::optional<std::size_t> take() {
    const auto d = pod.box->receive(kStart, pod.name, Milliseconds{100}, {});
    if (!d) return std::nullopt;
    const auto p = static_cast<std::uint64_t>(d->message.priority);
    const auto number = std::stoull(d->message.id.value.substr(10), nullptr, 16);
    const auto sender = std::stoull(d->message.from.value.substr(7));
    const std::uint64_t expected = ++taken[{sender, p}];
    EXPECT_EQ(number, expected) << "out of order: " << d->message.id.value;
    const auto acked = pod.box->ack(kStart, pod.name, d->message.id, 1);
    EXPECT_TRUE(acked && acked->debt);
    if (acked && acked->debt) pod.box->on_ack_recorded(acked->debt->inbox);
    --waiting[p];
    return p;
  }
  Pod pod;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t> sent, taken;
  std::array<int, kPriorities> waiting{};
};

TEST(MailboxFairness, AFullInboxIsHandedOutEightThreeOne) {
  Inbox inbox({.max_inbox_messages = 30});
  std::array<int, kPriorities> count{};
  for (int i = 0; i < 1200; ++i) {
    for (std::size_t p = 0; p < kPriorities; ++p) {
      while (inbox.waiting[p] < 10)
        inbox.arrive(static_cast<std::uint64_t>(i + inbox.waiting[p]) % 3,
                     static_cast<Priority>(p));
    }
    const auto priority = inbox.take();
    ASSERT_TRUE(priority);
    ++count[*priority];
    if (i == 11) {
      EXPECT_EQ(count, (std::array{8, 3, 1})) << "in every twelve, not only on average";
    }
  }
  EXPECT_EQ(count, (std::array{800, 300, 100}));
}

TEST(MailboxFairness, NoPriorityStarvesWhateverArrives) {
  int longest = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    Inbox inbox({.max_inbox_messages = 1000});
    std::array<int, kPriorities> passed{};
    const std::size_t high = random.below(100), low = random.below(30);
    for (int step = 0; step < 400; ++step) {
      for (std::size_t n = random.below(3); n > 0; --n) {
        inbox.arrive(random.below(3), random.chance(high)  ? Priority::kHigh
                                      : random.chance(low) ? Priority::kLow
                                                           : Priority::kNormal);
      }
      const auto before = inbox.waiting;
      const auto priority = inbox.take();
      ASSERT_EQ(priority.has_value(), before != (std::array{0, 0, 0})) << "nothing is held back";
      if (!priority) continue;
      for (std::size_t p = 0; p < kPriorities; ++p) {
        passed[p] = p == *priority || before[p] == 0 ? 0 : passed[p] + 1;
        longest = std::max(longest, passed[p]);
        ASSERT_LE(passed[p], 22) << "priority " << p << " starves";
      }
    }
  }
  EXPECT_GE(longest, 11) << "some had to wait, or nothing was shown";
}

TEST_F(Mailboxes, AnInboxTakesNewMessagesUpToWhatIsAllowedNow) {
  std::uint64_t sequence = 0;
  const auto arrive = [&] {
    const std::string id = "m" + std::to_string(++sequence);
    return b.box->deliver(now, log_id(7), sequence, 0, message(id, {"worker-7"}, kB));
  };
  for (int i = 0; i < 2; ++i) ASSERT_EQ(arrive(), Answer::kStored);
  b.box->limit_inboxes(1, "why");
  EXPECT_EQ(b.box->inbox_limit(), 1U);
  EXPECT_EQ(arrive(), Answer::kFull);
  EXPECT_EQ(b.box->why_full(message("m", {"worker-7"}, kB)),
            kB.value + "'s inbox is full (2 messages, 1 of 3 allowed now: why)");
  EXPECT_EQ(b.box->books().inbox_live, 2U) << "what is in stays";
  EXPECT_EQ(b.box->deliver(now, log_id(7), 1, 0, message("m1", {"worker-7"}, kB)),
            Answer::kDuplicate);
  ASSERT_TRUE(b.box->await_reply(kB, {"q"}));
  Message reply = message("r", {"worker-7"}, kB);
  reply.in_reply_to.value = "q";
  EXPECT_EQ(b.box->deliver(now, log_id(7), 100, 0, reply), Answer::kStored);
  b.box->limit_inboxes(3);
  sequence = 200;
  EXPECT_EQ(arrive(), Answer::kStored);
  EXPECT_EQ(arrive(), Answer::kFull);
  EXPECT_EQ(b.box->why_full(message("m", {"worker-7"}, kB)),
            kB.value + "'s inbox is full (3 of 3 messages)");
}

TEST_F(Mailboxes, APriorityThatCannotBeHandedOutCostsTheOthersNothing) {
  // Both senders have chosen the same id: while one of the two is leased the other waits.
  Message leased = message("same", {"worker-7"}, kB), waits = message("same", {"worker-8"}, kB);
  leased.priority = waits.priority = Priority::kHigh;
  EXPECT_EQ(b.box->deliver(now, log_id(7), 1, 0, leased), Answer::kStored);
  EXPECT_EQ(b.box->deliver(now, log_id(8), 1, 0, waits), Answer::kStored);
  EXPECT_EQ(b.box->deliver(now, log_id(9), 1, 0, message("other", {"worker-9"}, kB)),
            Answer::kStored);
  EXPECT_EQ(receive(b), "same/1");
  EXPECT_EQ(receive(b), "other/1");
  EXPECT_EQ(receive(b), "-");
  EXPECT_EQ(b.box->ack(now, b.name, {"same"}, 1).error().message,
            "messages same of worker-7 and of worker-8 came here: say whose is meant (from)");
  EXPECT_EQ(b.box->nack(now, b.name, {"same"}, 1, {}).error().code, Code::kInvalid);
  EXPECT_EQ(b.box->extend(now, b.name, {"same"}, 1, {}).error().code, Code::kInvalid);
  EXPECT_EQ(b.box->ack(now, b.name, {"same"}, 1, {"worker-8"}).error().code, Code::kDenied);
  ASSERT_TRUE(b.box->ack(now, b.name, {"same"}, 1, {"worker-7"}));
  EXPECT_EQ(receive(b), "same/1");
  EXPECT_EQ(b.box->ack(now, b.name, {"same"}, 1).error().code, Code::kInvalid)
      << "it may be the other's ack once more";
  ASSERT_TRUE(b.box->ack(now, b.name, {"same"}, 1, {"worker-7"})) << "once more";
  ASSERT_TRUE(b.box->ack(now, b.name, {"same"}, 1, {"worker-8"}));
}

TEST_F(Mailboxes, AnAckEndsNobodyElsesMessageOfThatId) {
  EXPECT_EQ(b.box->deliver(now, log_id(7), 1, 0, message("same", {"worker-7"}, kB)),
            Answer::kStored);
  EXPECT_EQ(receive(b), "same/1");
  now += Milliseconds{60'000};  // its lease is over
  EXPECT_EQ(b.box->deliver(now, log_id(8), 1, 0, message("same", {"worker-8"}, kB)),
            Answer::kStored);
  EXPECT_EQ(receive(b), "same/2");
  EXPECT_EQ(b.box->ack(now, b.name, {"same"}, 2).error().code, Code::kInvalid);
  ASSERT_TRUE(b.box->ack(now, b.name, {"same"}, 2, {"worker-7"}));
  EXPECT_EQ(receive(b), "same/1") << "that of worker-8 is still to be done";
}

TEST_F(Mailboxes, AReceiverThatReadsNothingLeavesHalfOfTheOutbox) {
  Pod sender{kA, {.max_outbox_messages = 1000, .max_sent_bytes = 60'000}};
  ASSERT_TRUE(sender.start(now, 7));
  int id = 0;
  const auto fill = [&](const AgentName& to) {
    int taken = 0;
    while (
        sender.box->send(now, message("m" + std::to_string(++id), kA, to, std::string(1000, 'x'))))
      ++taken;
    return taken;
  };
  const int half = fill(kB);
  EXPECT_GE(half, 25);
  EXPECT_LE(half, 28);
  Message more = message("more", kA, kB, std::string(1000, 'x'));
  EXPECT_EQ(sender.box->send(now, more).error().message,
            "the outbox for worker-2 is full (28 KiB, half of what others leave of 58: 58)");
  EXPECT_GE(fill({"worker-3"}), 12) << "another gets as much as is left, half of the rest";
  EXPECT_GE(fill({"worker-4"}), 6);
}

// Whether their questions have ever been asked is not known.
TEST_F(Mailboxes, RepliesHaveRoomOfTheirOwnAndNoMore) {
  Pod sender{kA, {.max_outbox_messages = 1000, .max_sent_bytes = 60'000}};
  ASSERT_TRUE(sender.start(now, 7));
  int id = 0;
  const auto fill = [&](const AgentName& to, bool reply) {
    int taken = 0;
    for (;;) {
      Message m = message("m" + std::to_string(++id), kA, to, std::string(1000, 'x'));
      if (reply) m.in_reply_to.value = "q";
      if (!sender.box->send(now, m)) return taken;
      ++taken;
    }
  };
  ASSERT_GE(fill(kB, false), 25);
  EXPECT_GE(fill(kB, true), 6) << "though no message for it has room";
  EXPECT_GE(fill({"worker-3"}, true), 3);
  EXPECT_GE(fill({"worker-3"}, false), 12) << "replies are not in their way";
  for (int i = 4; i < 100; ++i) fill({"worker-" + std::to_string(i)}, true);
  EXPECT_LE(sender.box->books().reply_bytes, 15'000U);
  Message more = message("more", kA, kB, std::string(1000, 'x'));
  more.in_reply_to.value = "q";
  EXPECT_EQ(sender.box->send(now, more).error().message.find(
                "the outbox of replies for worker-2 is full ("),
            0U);
  for (int i = 4; i < 200; ++i) fill({"worker-" + std::to_string(i)}, false);
  EXPECT_LE(sender.box->books().sent_bytes, 60'000U) << "one each for any number of receivers";
}

TEST_F(Mailboxes, ADamagedCopyIsFetchedAgain) {
  send(a, message("good", kA, kB));
  send(a, message("bad", kA, kB, "its body"));
  EXPECT_EQ(carry(a, b), (std::vector{Answer::kStored, Answer::kStored}));
  EXPECT_EQ(receive(b), "good/1");
  settle(b, a, "good", 1);
  // A byte of its body: the whole of its record is lost.
  ASSERT_TRUE(b.log->commit());
  const std::vector<std::string> names = *b.directory.list();
  for (const std::string& name : names) {
    std::string& bytes = *b.directory.content(name);
    if (const auto at = bytes.find("its body"); name.starts_with("seg") && at != std::string::npos)
      bytes[at] = 'I';
  }
  ASSERT_TRUE(b.start(now, 9));
  EXPECT_GT(b.recovery.corrupt_records, 0U);
  EXPECT_EQ(receive(b), "-");
  ASSERT_TRUE(a.start(now, 9));  // it does not know any more who has it
  link();
  EXPECT_EQ(carry(a, b), std::vector{Answer::kStored});
  EXPECT_EQ(receive(b), "bad/1");
  settle(b, a, "bad", 1);
  EXPECT_EQ(a.box->books().outbox_live, 0U);
  ASSERT_TRUE(b.start(now, 9));
  EXPECT_EQ(receive(b), "-");
}

TEST_F(Mailboxes, ALowerLimitRefusesNothingThatWasAccepted) {
  Message large = message("large", kA, kB);
  large.body = std::string(1000, 'x');
  send(a, large);
  Pod lower{kB, {.max_message_bytes = 10}};
  ASSERT_TRUE(lower.start(now, 12));
  for (const Outbound& o : a.box->transmit(kB, 1 << 20))
    EXPECT_EQ(lower.box->deliver(now, a.log->id(), o.sequence, o.prev, o.message), Answer::kStored);
}

TEST_F(Mailboxes, AReceiverWithoutALinkCountsForNothingAfterAWhile) {
  send(a, message("m1", kA, kB));
  EXPECT_EQ(carry(a, b), std::vector{Answer::kStored});
  (void)a.box->tick(now);
  a.box->on_link_down(kB);
  EXPECT_EQ(a.box->books().single_copy, 0U) << "it may just have been restarted";
  now += Milliseconds{1999};
  (void)a.box->tick(now);
  EXPECT_EQ(a.box->books().single_copy, 0U);
  now += Milliseconds{1};
  (void)a.box->tick(now);
  EXPECT_EQ(a.box->books().single_copy, 1U);
  a.box->on_link_up(now, kB, b.log->id());
  EXPECT_EQ(a.box->books().single_copy, 0U);
}

TEST_F(Mailboxes, ARedrivenDeadLetterHasAnotherRound) {
  send(a, message("m1", kA, kB));
  const auto frames = a.box->transmit(kB, 1 << 20);
  const auto deliver = [&] {
    const Outbound& o = frames.at(0);
    const Answer answer = b.box->deliver(now, a.log->id(), o.sequence, o.prev, o.message);
    a.box->on_answer(now, kB, b.log->id(), o.sequence, answer, "");
    return answer;
  };
  EXPECT_EQ(deliver(), Answer::kStored);
  EXPECT_EQ(b.box->redrive(b.name, {"m1"}).error().code, Code::kNotFound) << "it is not dead";
  EXPECT_EQ(receive(b), "m1/1");
  EXPECT_EQ(b.box->redrive(b.name, {"m1"}).error().code, Code::kNotFound);
  ASSERT_TRUE(b.box->nack(now, b.name, {"m1"}, 1, {}));
  EXPECT_EQ(receive(b), "m1/2");
  ASSERT_TRUE(b.box->nack(now, b.name, {"m1"}, 2, {}));
  ASSERT_EQ(b.box->dead_letters(b.name, 9).size(), 1U);
  EXPECT_EQ(b.box->dead_letters(b.name, 9)[0].attempt, 2);
  EXPECT_TRUE(b.box->dead_letters(b.name, 0).empty());

  ASSERT_TRUE(b.box->redrive(b.name, {"m1"}));
  EXPECT_EQ(b.box->redrive(b.name, {"m1"}).error().code, Code::kNotFound) << "once is enough";
  const auto nothing_of_before_counts = [&] {
    for (std::uint16_t attempt = 0; attempt <= 2; ++attempt) {
      EXPECT_EQ(b.box->ack(now, b.name, {"m1"}, attempt).error().code, Code::kDenied) << attempt;
      EXPECT_EQ(b.box->nack(now, b.name, {"m1"}, attempt, {}).error().code, Code::kDenied)
          << attempt;
      EXPECT_EQ(b.box->extend(now, b.name, {"m1"}, attempt, Milliseconds{9}).error().code,
                Code::kDenied)
          << attempt;
    }
    const Books books = b.box->books();
    EXPECT_EQ(books.dead_live, 0U);
    EXPECT_EQ(books.inbox_live, 1U);
    EXPECT_EQ(books.stored, books.acked + books.inbox_live + books.dead_live);
    EXPECT_EQ(a.box->books().outbox_live, 1U) << "the second copy stays with its sender";
    EXPECT_EQ(deliver(), Answer::kDuplicate);
  };
  nothing_of_before_counts();
  ASSERT_TRUE(b.start(now, 9));
  link();
  nothing_of_before_counts();
  EXPECT_EQ(receive(b), "m1/3");
  EXPECT_EQ(b.box->ack(now, b.name, {"m1"}, 2).error().code, Code::kDenied);
  ASSERT_TRUE(b.start(now, 9));
  link();
  EXPECT_EQ(receive(b), "m1/4") << "a whole round, also when it is interrupted";
  ASSERT_TRUE(b.start(now, 9));
  link();
  EXPECT_EQ(receive(b), "-");
  ASSERT_EQ(b.box->dead_letters(b.name, 9).size(), 1U) << "and not more than one";
  ASSERT_TRUE(b.start(now, 9));
  link();
  ASSERT_TRUE(b.box->redrive(b.name, {"m1"}));
  EXPECT_EQ(receive(b), "m1/5");
  settle(b, a, "m1", 5);
  EXPECT_EQ(deliver(), Answer::kFinished);
  EXPECT_EQ(a.box->books().outbox_live + b.box->books().inbox_live, 0U);
  ASSERT_TRUE(b.start(now, 9));
  EXPECT_EQ(receive(b), "-");
}

TEST_F(Mailboxes, ARedrivenDeadLetterComesInItsOldPlace) {
  for (const char* id : {"m1", "m2"}) send(a, message(id, kA, kB));
  (void)carry(a, b);
  for (const char* expected : {"m1/1", "m2/1"}) EXPECT_EQ(receive(b), expected);
  ASSERT_TRUE(b.box->nack(now, b.name, {"m1"}, 1, {}));
  EXPECT_EQ(receive(b), "m1/2");
  ASSERT_TRUE(b.box->nack(now, b.name, {"m1"}, 2, {}));
  ASSERT_TRUE(b.box->nack(now, b.name, {"m2"}, 1, {}));
  ASSERT_TRUE(b.box->redrive(b.name, {"m1"}));
  EXPECT_EQ(receive(b), "m1/3");
  EXPECT_EQ(receive(b), "m2/2");
}

TEST_F(Mailboxes, ARedriveSurvivesTheLossOfTheSendersCopy) {
  send(a, message("job-1", kA, kB));
  (void)carry(a, b);
  EXPECT_EQ(receive(b), "job-1/1");
  ASSERT_TRUE(b.box->nack(now, b.name, {"job-1"}, 1, {}));
  EXPECT_EQ(receive(b), "job-1/2");
  ASSERT_TRUE(b.box->nack(now, b.name, {"job-1"}, 2, {}));
  ASSERT_TRUE(b.box->redrive(b.name, {"job-1"}));
  a.directory.wipe();
  ASSERT_TRUE(a.start(now, 11));
  link();
  send(a, message("job-1", kA, kB));
  EXPECT_EQ(carry(a, b), std::vector{Answer::kDuplicate}) << "written anew for the new creditor";
  EXPECT_EQ(b.box->ack(now, b.name, {"job-1"}, 2).error().code, Code::kDenied);
  ASSERT_TRUE(b.start(now, 9));
  link();
  EXPECT_EQ(b.box->books().dead_live, 0U);
  EXPECT_EQ(receive(b), "job-1/3");
  settle(b, a, "job-1", 3);
}

TEST_F(Mailboxes, OfTwoDeadLettersWithOneIdTheFirstIsMeant) {
  for (const std::uint64_t sender : {7U, 8U}) {
    Message m = message("same", {"worker-" + std::to_string(sender)}, kB);
    EXPECT_EQ(b.box->deliver(now, log_id(sender), 1, 0, m), Answer::kStored);
    for (std::uint16_t attempt = 1; attempt <= 2; ++attempt) {
      EXPECT_EQ(receive(b), "same/" + std::to_string(attempt));
      ASSERT_TRUE(b.box->nack(now, b.name, {"same"}, attempt, {}, m.from));
    }
  }
  ASSERT_EQ(b.box->dead_letters(b.name, 9).size(), 2U);
  EXPECT_EQ(b.box->look(b.name, {"same"}, {"worker-8"}, true)->message.from.value, "worker-8");
  EXPECT_FALSE(b.box->look(b.name, {"same"}, {"worker-9"}, true));
  const auto first = b.box->purge(b.name, {"same"});
  ASSERT_TRUE(first && first->debt);
  EXPECT_EQ(first->debt->sender.value, "worker-7");
  ASSERT_TRUE(b.box->redrive(b.name, {"same"}));
  EXPECT_EQ(b.box->purge(b.name, {"same"}).error().code, Code::kNotFound);
  const auto d = b.box->receive(now, b.name, Milliseconds{100}, {});
  ASSERT_TRUE(d);
  EXPECT_EQ(d->message.from.value, "worker-8");
}

TEST(MailboxLimits, AttemptsThatCannotBeCountedOnAreRefused) {
  constexpr std::uint16_t kAttempts = 6000;  // two rounds fit into 14 bits, three do not
  Pod b{kB, {.max_attempts = kAttempts}};
  ASSERT_TRUE(b.start(kStart, 2));
  ASSERT_EQ(b.box->deliver(kStart, log_id(1), 1, 0, message("m1", kA, kB)), Answer::kStored);
  std::uint16_t last = 0;
  const auto wear_out = [&] {
    while (auto d = b.box->receive(kStart, b.name, Milliseconds{100}, {})) {
      ASSERT_GT(d->attempt, last);
      last = d->attempt;
      ASSERT_TRUE(b.box->nack(kStart, b.name, {"m1"}, last, {}));
    }
  };
  wear_out();
  EXPECT_EQ(last, kAttempts);
  ASSERT_TRUE(b.box->redrive(b.name, {"m1"}));
  wear_out();
  EXPECT_EQ(last, 2 * kAttempts);
  const auto third = b.box->redrive(b.name, {"m1"});
  ASSERT_FALSE(third);
  EXPECT_EQ(third.error().code, Code::kDenied);
  EXPECT_EQ(b.box->books().dead_live, 1U);
  EXPECT_TRUE(b.box->purge(b.name, {"m1"}));
}

TEST_F(Mailboxes, ADamagedDeadLetterIsNotRedriven) {
  ASSERT_EQ(b.box->deliver(now, log_id(7), 1, 0,
                           message("m-0123456789abcdef", {"worker-7"}, kB, "to-be-damaged")),
            Answer::kStored);
  bool damaged = false;
  const auto names = *b.directory.list();
  for (const std::string& name : names) {
    std::string& bytes = *b.directory.content(name);
    const auto at = bytes.find("to-be-damaged");
    if (at == std::string::npos) continue;
    bytes[at] = 'T';
    damaged = true;
  }
  ASSERT_TRUE(damaged);
  EXPECT_EQ(receive(b), "-");
  ASSERT_EQ(b.box->dead_letters(b.name, 9).size(), 1U) << "set aside, not handed out";
  EXPECT_EQ(b.box->redrive(b.name, {"m-0123456789abcdef"}).error().code, Code::kDenied);
  EXPECT_EQ(b.box->books().dead_live, 1U);
  // It does not stand in the way of another sender's of that id.
  ASSERT_EQ(b.box->deliver(now, log_id(8), 1, 0,
                           message("m-0123456789abcdef", {"worker-8"}, kB, "whole")),
            Answer::kStored);
  for (std::uint16_t attempt = 1; attempt <= 2; ++attempt) {
    EXPECT_EQ(receive(b), "m-0123456789abcdef/" + std::to_string(attempt));
    ASSERT_TRUE(b.box->nack(now, b.name, {"m-0123456789abcdef"}, attempt, {}, {"worker-8"}));
  }
  EXPECT_EQ(receive(b), "-");
  ASSERT_EQ(b.box->books().dead_live, 2U);
  EXPECT_TRUE(b.box->redrive(b.name, {"m-0123456789abcdef"}));
  EXPECT_EQ(receive(b), "m-0123456789abcdef/3");
  EXPECT_EQ(b.box->books().dead_live, 1U);
  EXPECT_TRUE(b.box->purge(b.name, {"m-0123456789abcdef"}));
}

TEST_F(Mailboxes, ARedriveThatCannotBeWrittenHasNotHappened) {
  send(a, message("m1", kA, kB));
  (void)carry(a, b);
  for (std::uint16_t attempt = 1; attempt <= 2; ++attempt) {
    EXPECT_EQ(receive(b), "m1/" + std::to_string(attempt));
    ASSERT_TRUE(b.box->nack(now, b.name, {"m1"}, attempt, {}));
  }
  b.directory.fail_in(1);
  EXPECT_FALSE(b.box->redrive(b.name, {"m1"}));
  EXPECT_EQ(b.box->books().dead_live, 1U);
  EXPECT_EQ(receive(b), "-");
  ASSERT_TRUE(b.box->redrive(b.name, {"m1"}));
  EXPECT_EQ(receive(b), "m1/3");
}

TEST_F(Mailboxes, AcksWorkWhenTheLogIsFull) {
  Pod c{kB, {}, 8192 + 4 * kSegment};
  ASSERT_TRUE(c.start(now, 5, 4));
  Sequence s = 0;
  for (;; ++s) {
    const auto answer = c.box->deliver(
        now, log_id(1), s + 1, s,
        message("m-" + std::to_string(1000000000000000 + s), kA, kB, std::string(600, 'x')));
    if (answer == Answer::kFull) break;
    ASSERT_EQ(answer, Answer::kStored);
  }
  c.directory.set_capacity(0);
  ASSERT_GT(s, 5U);
  std::vector<AckDebt> debts;
  for (std::uint16_t attempt = 1; attempt <= 5; ++attempt) {
    ASSERT_TRUE(c.box->receive(now, c.name, Milliseconds{100}, {}));
    ASSERT_TRUE(c.box->nack(now, c.name, {"m-1000000000000000"}, attempt, {}));
  }
  ASSERT_TRUE(c.box->redrive(c.name, {"m-1000000000000000"})) << "so does a redrive";
  while (auto d = c.box->receive(now, c.name, Milliseconds{100}, {})) {
    auto r = c.box->ack(now, c.name, d->message.id, d->attempt);
    ASSERT_TRUE(r);
    debts.push_back(*r->debt);
  }
  EXPECT_EQ(debts.size(), s);
  for (const auto& d : debts) c.box->on_ack_recorded(d.inbox);
  ASSERT_TRUE(c.log->commit());
  EXPECT_EQ(c.log->stats().live_records, 1U);
  ASSERT_TRUE(c.start(now, 5, 4));
  EXPECT_EQ(c.box->deliver(now, log_id(1), s, s - 1, message("m-x", kA, kB)), Answer::kFinished);
  EXPECT_EQ(c.box->deliver(now, log_id(1), s + 1, s, message("m-y", kA, kB)), Answer::kStored);
}

}  // namespace
}  // namespace swarm::mailbox
