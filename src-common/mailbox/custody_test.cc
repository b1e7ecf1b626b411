// A pod that drains, its successor, and a receiver: who keeps what, and who is owed the ack.
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "mailbox/mailbox.h"
#include "sim/fake_directory.h"

namespace swarm::mailbox {
namespace {

using log::Log;

constexpr std::uint32_t kSegment = 4096;
const AgentName kSender{"worker-1"}, kReceiver{"worker-2"};

LogId log_id(std::uint8_t n) {
  LogId id;
  id.bytes[0] = n;
  return id;
}

struct Pod {
  Pod(AgentName n, std::uint8_t number, Limits l = {}) : name(std::move(n)), id(number), limits(l) {
    start();
  }
  void start() {
    box.reset();
    log.reset();
    box = std::make_unique<Mailbox>(name, limits);
    auto opened = Log::open(
        directory, {.max_bytes = 8192 + 32 * std::uint64_t{kSegment}, .segment_bytes = kSegment},
        log_id(id), [this](const log::Record& r) { box->restore(r); }, &recovery);
    ASSERT_TRUE(opened);
    log = std::move(*opened);
    box->attach(*log, {});
  }
  AgentName name;
  std::uint8_t id;
  Limits limits;
  sim::FakeDirectory directory{1 << 20};
  log::Recovery recovery;
  std::unique_ptr<Log> log;
  std::unique_ptr<Mailbox> box;
};

struct Custody : ::testing::Test {
  Message message(const std::string& id, const std::string& body = "body") {
    Message m;
    m.id.value = id;
    m.from = kSender;
    m.to = kReceiver;
    m.body = body;
    return m;
  }
  void send(Pod& from, const std::string& id) {
    auto sent = from.box->send(now, message(id));
    ASSERT_TRUE(sent) << sent.error().message;
  }
  void link(Pod& from, Pod& to) {
    from.box->on_link_up(now, to.name, to.log->id());
    to.box->on_incarnation(from.name, from.log->id());
  }
  static Answer take(Pod& from, Pod& to, const Outbound& out, MonoTime now) {
    return out.origin.log.empty()
               ? to.box->deliver(now, from.log->id(), out.sequence, out.prev, out.message)
               : to.box->deliver_kept(now, from.log->id(), out);
  }
  std::vector<Answer> carry(Pod& from, Pod& to) {
    std::vector<Answer> answers;
    for (const Outbound& out : from.box->transmit(to.name, 1 << 20)) {
      answers.push_back(take(from, to, out, now));
      from.box->on_answer(now, to.name, to.log->id(), out.sequence, answers.back(), "");
    }
    return answers;
  }
  std::vector<Answer> hand_over(Pod& from, Pod& to) {
    std::vector<Answer> answers;
    from.box->begin_offers();
    for (const Outbound& offered : from.box->offer(1 << 20)) {
      answers.push_back(to.box->adopt(from.log->id(), offered));
      from.box->on_offer_answer(offered.sequence, answers.back());
    }
    return answers;
  }
  // Of what the pods with these logs, which are lost, have sent to `from`, a round.
  std::vector<Answer> give_back(Pod& from, Pod& to, const std::set<LogId>& lost,
                                std::size_t max_bytes = 1 << 20) {
    from.box->set_lost({{to.name, lost}});
    std::vector<Answer> answers;
    for (const Outbound& out : from.box->give_back(to.name, to.log->id(), max_bytes)) {
      answers.push_back(to.box->take_back(from.name, out));
      from.box->on_given_back(to.name, out.sequence, answers.back());
    }
    return answers;
  }
  std::string receive(Pod& at) {
    auto d = at.box->receive(now, at.name, Milliseconds{1000}, {});
    return d ? d->message.id.value + "/" + std::to_string(d->attempt) : "-";
  }
  // The ack of attempt 1 as far as its debt.
  AckDebt ack(Pod& at, const std::string& id) {
    auto acked = at.box->ack(now, at.name, {id}, 1);
    EXPECT_TRUE(acked && acked->debt) << id;
    return acked && acked->debt ? *acked->debt : AckDebt{};
  }
  static void expect_books(const Pod& pod) {
    const Books b = pod.box->books();
    EXPECT_EQ(b.sent + b.adopted,
              b.refused + b.withdrawn + b.acknowledged_by_receiver + b.handed_over + b.outbox_live);
    EXPECT_EQ(b.stored, b.acked + b.inbox_live + b.dead_live);
  }
  // Three messages, stored at the receiver.
  void SetUp() override {
    link(old, receiver);
    for (const char* id : {"m1", "m2", "m3"}) send(old, id);
    ASSERT_EQ(carry(old, receiver), std::vector(3, Answer::kStored));
  }
  MonoTime now{Milliseconds{1000}};
  Pod old{kSender, 9}, next{kSender, 2}, receiver{kReceiver, 3}, fresh{kReceiver, 4};
};

TEST_F(Custody, TheReceiverOwesItsAckToTheSuccessor) {
  EXPECT_EQ(hand_over(old, next), std::vector(3, Answer::kStored));
  EXPECT_EQ(old.box->books().outbox_live, 0U);
  EXPECT_EQ(old.box->books().handed_over, 3U);
  EXPECT_TRUE(old.box->destinations().empty());
  EXPECT_EQ(next.box->books().adopted, 3U);
  EXPECT_EQ(next.box->books().single_copy, 3U) << "until the receiver says that it has them";

  EXPECT_EQ(receive(receiver), "m1/1");
  EXPECT_EQ(ack(receiver, "m1").sender_log, old.log->id()) << "it has not heard of a successor yet";
  link(next, receiver);
  EXPECT_EQ(receiver.box->books().single_copy, 2U);
  EXPECT_EQ(carry(next, receiver),
            (std::vector{Answer::kFinished, Answer::kDuplicate, Answer::kDuplicate}));
  EXPECT_EQ(next.box->books().single_copy + receiver.box->books().single_copy, 0U);
  EXPECT_EQ(receive(receiver), "m2/1") << "once";
  const AckDebt debt = ack(receiver, "m2");
  EXPECT_EQ(debt.sender_log, next.log->id());
  EXPECT_TRUE(next.box->on_acked(kReceiver, debt.sender_sequence));
  receiver.box->on_ack_recorded(debt.inbox);
  ASSERT_EQ(receiver.box->ack_debts(kSender).size(), 1U);
  EXPECT_EQ(receiver.box->ack_debts(kSender)[0].sender_log, next.log->id()) << "m1's, too";
  EXPECT_EQ(next.box->books().outbox_live, 1U) << "m3";
  for (const Pod* pod : {&old, &next, &receiver}) expect_books(*pod);
}

TEST_F(Custody, AReceiverThatIsReplacedTooGetsAllOfItInOrder) {
  hand_over(old, next);
  send(next, "m4");
  link(next, fresh);
  EXPECT_EQ(carry(next, fresh), std::vector(4, Answer::kStored));
  for (const char* expected : {"m1/1", "m2/1", "m3/1", "m4/1", "-"})
    EXPECT_EQ(receive(fresh), expected);
  // Also when both were started again in between, and the receiver does not know any more who
  // keeps what.
  next.start();
  fresh.start();
  link(next, fresh);
  EXPECT_EQ(carry(next, fresh), std::vector(4, Answer::kDuplicate));
  EXPECT_EQ(receive(fresh), "m1/2");
  auto acked = fresh.box->ack(now, fresh.name, {"m1"}, 2);
  ASSERT_TRUE(acked && acked->debt);
  EXPECT_EQ(acked->debt->sender_log, next.log->id());
}

TEST_F(Custody, FromHandToHand) {
  hand_over(old, next);
  send(next, "m4");
  Pod third{kSender, 5};
  EXPECT_EQ(hand_over(next, third), std::vector(4, Answer::kStored));
  link(third, receiver);
  EXPECT_EQ(carry(third, receiver), (std::vector{Answer::kDuplicate, Answer::kDuplicate,
                                                 Answer::kDuplicate, Answer::kStored}));
  EXPECT_EQ(receive(receiver), "m1/1");
  EXPECT_EQ(ack(receiver, "m1").sender_log, third.log->id());
  link(third, fresh);
  EXPECT_EQ(carry(third, fresh), std::vector(4, Answer::kStored));
  for (const char* expected : {"m1/1", "m2/1", "m3/1", "m4/1", "-"})
    EXPECT_EQ(receive(fresh), expected);
  expect_books(next);
  expect_books(third);
}

TEST_F(Custody, WhatIsOnOfferIsAckedByNobodyElse) {
  EXPECT_EQ(receive(receiver), "m1/1");
  EXPECT_EQ(receive(receiver), "m2/1");
  const AckDebt first = ack(receiver, "m1"), second = ack(receiver, "m2");
  old.box->begin_offers();
  const auto offered = old.box->offer(1 << 20);
  ASSERT_EQ(offered.size(), 3U);
  EXPECT_FALSE(old.box->on_acked(kReceiver, first.sender_sequence)) << "the successor may have it";
  ASSERT_TRUE(old.log->commit());
  old.start();
  EXPECT_FALSE(old.box->on_acked(kReceiver, first.sender_sequence)) << "also after a restart";
  link(old, fresh);
  EXPECT_TRUE(carry(old, fresh).empty()) << "nor is it ours to send";
  EXPECT_FALSE(old.box->withdraw(second.sender_sequence));
  ASSERT_EQ(next.box->adopt(old.log->id(), offered[0]), Answer::kStored);
  old.box->on_offer_answer(offered[0].sequence, Answer::kStored);
  EXPECT_FALSE(old.box->on_acked(kReceiver, first.sender_sequence));
  old.start();
  EXPECT_FALSE(old.box->on_acked(kReceiver, first.sender_sequence)) << "it has it";
  EXPECT_EQ(old.box->books().outbox_live, 2U);
  expect_books(old);
  EXPECT_EQ(hand_over(old, next), (std::vector{Answer::kStored, Answer::kStored}));
}

TEST_F(Custody, TheReceiversWordDoesNotEndWhatIsOnOffer) {
  EXPECT_EQ(receive(receiver), "m1/1");
  (void)ack(receiver, "m1");
  old.start();
  link(old, receiver);
  const auto sent = old.box->transmit(kReceiver, 1 << 20);
  ASSERT_EQ(sent.size(), 3U);
  old.box->begin_offers();
  (void)old.box->offer(1 << 20);
  ASSERT_EQ(take(old, receiver, sent[0], now), Answer::kFinished);
  old.box->on_answer(now, kReceiver, receiver.log->id(), sent[0].sequence, Answer::kFinished, "");
  EXPECT_EQ(old.box->books().outbox_live, 3U);
}

TEST_F(Custody, ASuccessorThatKnowsNoOffersChangesNothing) {
  EXPECT_EQ(receive(receiver), "m1/1");
  const AckDebt debt = ack(receiver, "m1");
  old.box->begin_offers();
  EXPECT_EQ(old.box->offer(1 << 20).size(), 3U);
  link(old, fresh);
  EXPECT_TRUE(carry(old, fresh).empty());
  old.box->cancel_offers();
  EXPECT_EQ(carry(old, fresh), std::vector(3, Answer::kStored));
  EXPECT_TRUE(old.box->on_acked(kReceiver, debt.sender_sequence));
  // But not when one was taken.
  EXPECT_EQ(hand_over(old, next), std::vector(2, Answer::kStored));
  old.box->cancel_offers();
  EXPECT_EQ(old.box->books().outbox_live, 0U);
}

TEST_F(Custody, AnAckBeforeTheOfferEndsIt) {
  EXPECT_EQ(receive(receiver), "m1/1");
  const AckDebt debt = ack(receiver, "m1");
  EXPECT_TRUE(old.box->on_acked(kReceiver, debt.sender_sequence));
  EXPECT_TRUE(old.box->on_acked(kReceiver, debt.sender_sequence)) << "recorded before";
  EXPECT_EQ(hand_over(old, next), (std::vector{Answer::kStored, Answer::kStored}));
}

TEST_F(Custody, OffersAreTakenOnceAndInOrder) {
  old.box->begin_offers();
  const auto offered = old.box->offer(1 << 20);
  ASSERT_EQ(offered.size(), 3U);
  EXPECT_TRUE(old.box->offer(1 << 20).empty());
  const auto adopt = [&](std::size_t i) { return next.box->adopt(old.log->id(), offered[i]); };
  EXPECT_EQ(adopt(1), Answer::kGap);
  EXPECT_EQ(adopt(0), Answer::kStored);
  EXPECT_EQ(adopt(2), Answer::kGap);
  EXPECT_EQ(adopt(0), Answer::kDuplicate);
  EXPECT_EQ(adopt(1), Answer::kStored);
  EXPECT_EQ(adopt(2), Answer::kStored);
  // Done here before the old pod has heard that it was taken: it must not come to life again.
  link(next, fresh);
  (void)carry(next, fresh);
  for (const auto& out : next.box->list(next.name)) EXPECT_EQ(out.where, Summary::Where::kOutgoing);
  while (receive(fresh) != "-") {
  }
  for (const char* id : {"m1", "m2", "m3"})
    EXPECT_TRUE(next.box->on_acked(kReceiver, ack(fresh, id).sender_sequence));
  EXPECT_EQ(next.box->books().outbox_live, 0U);
  ASSERT_TRUE(next.log->commit());
  next.start();
  EXPECT_EQ(next.box->books().outbox_live, 0U);
  for (std::size_t i = 0; i < offered.size(); ++i) EXPECT_EQ(adopt(i), Answer::kDuplicate) << i;
  EXPECT_EQ(next.log->stats().live_records, 1U) << "the mark alone";
  EXPECT_EQ(hand_over(old, next), std::vector(3, Answer::kDuplicate));
  EXPECT_EQ(old.box->books().handed_over, 3U);
}

// A stream has no holes: whoever gets its end first takes the beginning for done.
TEST_F(Custody, OnlyOneOfThemGoesOnWithAStream) {
  old.box->begin_offers();
  const auto offered = old.box->offer(1 << 20);
  ASSERT_EQ(next.box->adopt(old.log->id(), offered[0]), Answer::kStored);
  old.box->on_offer_answer(offered[0].sequence, Answer::kStored);
  link(old, fresh);
  EXPECT_TRUE(carry(old, fresh).empty());
  EXPECT_EQ(old.box->send(now, message("m4")).error().code, Code::kUnavailable);
  old.start();
  link(old, fresh);
  EXPECT_TRUE(carry(old, fresh).empty()) << "also after a restart";
  link(next, fresh);
  EXPECT_EQ(carry(next, fresh), std::vector{Answer::kStored});
  EXPECT_EQ(hand_over(old, next), std::vector(2, Answer::kStored));
  EXPECT_EQ(carry(next, fresh), std::vector(2, Answer::kStored));
}

TEST_F(Custody, AFullSuccessorTakesNothingAndNothingIsLost) {
  Pod small{kSender, 5, {.max_kept = 1}};
  EXPECT_EQ(hand_over(old, small), (std::vector{Answer::kStored, Answer::kFull, Answer::kGap}));
  EXPECT_EQ(old.box->books().outbox_live, 2U);
  EXPECT_EQ(old.box->books().handed_over, 1U);
  EXPECT_EQ(hand_over(old, small), (std::vector{Answer::kFull, Answer::kGap}));
  link(small, receiver);
  (void)carry(small, receiver);
  EXPECT_EQ(receive(receiver), "m1/1");
  EXPECT_TRUE(small.box->on_acked(kReceiver, ack(receiver, "m1").sender_sequence));
  EXPECT_EQ(hand_over(old, small), (std::vector{Answer::kStored, Answer::kFull})) << "room again";
  expect_books(old);
  expect_books(small);
}

TEST_F(Custody, WhatTheAgentSentAgainIsThereOnce) {
  send(next, "m2");
  EXPECT_EQ(hand_over(old, next),
            (std::vector{Answer::kStored, Answer::kDuplicate, Answer::kStored}));
  auto again = next.box->send(now, message("m1"));
  ASSERT_TRUE(again && again->already);
  EXPECT_FALSE(again->already->error);
  link(next, fresh);
  EXPECT_EQ(carry(next, fresh), std::vector(3, Answer::kStored));
}

// The agent of `next` has sent m1 again before `old` hands it over, and `old` still sends, too.
TEST_F(Custody, AFormerPodTakesNothingFromItsSuccessor) {
  for (const bool known : {true, false}) {
    Pod again{kSender, 5}, to{kReceiver, static_cast<std::uint8_t>(known ? 6 : 7)};
    send(again, "m1");
    if (known) to.box->on_incarnation(kSender, old.log->id());
    link(again, to);
    ASSERT_EQ(carry(again, to), std::vector{Answer::kStored});
    if (!known) to.start();  // who has its sender's name is not remembered
    old.box->on_link_up(now, kReceiver, to.log->id());
    EXPECT_EQ(carry(old, to), (std::vector{Answer::kDuplicate, Answer::kStored, Answer::kStored}));
    if (!known) to.box->on_incarnation(kSender, again.log->id());
    again.start();
    again.box->on_link_up(now, kReceiver, to.log->id());
    EXPECT_EQ(carry(again, to), std::vector{Answer::kDuplicate}) << "it is not done";
    std::set<std::string> received;
    for (int i = 0; i < 3; ++i) received.insert(receive(to));
    EXPECT_EQ(received, (std::set<std::string>{"m1/1", "m2/1", "m3/1"}));
    EXPECT_EQ(ack(to, "m1").sender_log, again.log->id()) << known;
  }
}

TEST_F(Custody, AdoptRefusesWhatIsWrong) {
  struct Row {
    const char* name;
    std::function<void(Outbound&)> spoil;
  };
  const Row rows[] = {{"sequence", [](Outbound& o) { o.sequence = 0; }},
                      {"prev", [](Outbound& o) { o.prev = o.sequence; }},
                      {"origin", [](Outbound& o) { o.origin = {}; }},
                      {"origin's sequence", [](Outbound& o) { o.origin.sequence = 0; }},
                      {"sender", [](Outbound& o) { o.message.from = {"worker-7"}; }},
                      {"receiver", [](Outbound& o) { o.message.to = kSender; }}};
  old.box->begin_offers();
  const auto offered = old.box->offer(1);
  ASSERT_EQ(offered.size(), 1U) << "one at least, and no more than that";
  for (const Row& row : rows) {
    Outbound bad = offered[0];
    row.spoil(bad);
    EXPECT_EQ(next.box->adopt(old.log->id(), bad), Answer::kRefused) << row.name;
  }
  EXPECT_EQ(next.box->adopt(next.log->id(), offered[0]), Answer::kRefused) << "of our own";
  EXPECT_EQ(next.box->adopt(LogId{}, offered[0]), Answer::kRefused);
  next.box->stop_intake();
  EXPECT_EQ(next.box->adopt(old.log->id(), offered[0]), Answer::kRefused) << "it drains itself";
  EXPECT_EQ(next.box->books().adopted, 0U);
}

TEST_F(Custody, AReplacedSenderIsOwedItsAcksUntilItHasEnded) {
  EXPECT_EQ(receive(receiver), "m1/1");
  (void)ack(receiver, "m1");
  receiver.box->on_incarnation(kSender, next.log->id());
  EXPECT_EQ(receiver.box->books().single_copy, 2U);
  EXPECT_EQ(receiver.box->ack_debts(kSender).size(), 1U);
  EXPECT_EQ(receive(receiver), "m2/1");
  EXPECT_EQ(ack(receiver, "m2").sender_log, old.log->id()) << "it drains still";
  EXPECT_EQ(receiver.box->on_former(kSender, old.log->id()).size(), 2U);
  EXPECT_EQ(receive(receiver), "m3/1");
  auto acked = receiver.box->ack(now, receiver.name, {"m3"}, 1);
  ASSERT_TRUE(acked);
  EXPECT_FALSE(acked->debt) << "it has ended";
}

TEST_F(Custody, ADamagedRecordIsLeftOut) {
  const auto names = *old.directory.list();
  for (const std::string& name : names) {
    std::string& bytes = *old.directory.content(name);
    if (const auto at = bytes.find("m1worker-1"); at != std::string::npos) bytes[at] = 'M';
  }
  EXPECT_EQ(hand_over(old, next), std::vector(2, Answer::kStored));
  EXPECT_EQ(old.box->books().outbox_live, 1U) << "counted as left";
}

// ---- a sender that is lost without handing anything over

TEST_F(Custody, WhatALostPodHasSentIsGivenBackAndOutlivesItsReceiver) {
  receiver.box->set_lost({{kSender, {old.log->id()}}});
  EXPECT_EQ(receiver.box->books().single_copy, 3U) << "whether its name lives or not";
  EXPECT_EQ(give_back(receiver, next, {old.log->id()}), std::vector(3, Answer::kStored));
  EXPECT_TRUE(give_back(receiver, next, {old.log->id()}).empty()) << "once";
  ASSERT_TRUE(next.log->commit());
  next.start();
  link(next, receiver);
  EXPECT_EQ(carry(next, receiver), std::vector(3, Answer::kDuplicate));
  EXPECT_EQ(next.box->books().single_copy + receiver.box->books().single_copy, 0U);
  EXPECT_EQ(receive(receiver), "m1/1");
  const AckDebt debt = ack(receiver, "m1");
  EXPECT_EQ(debt.sender_log, next.log->id());
  EXPECT_TRUE(next.box->on_acked(kReceiver, debt.sender_sequence));
  receiver.box->on_ack_recorded(debt.inbox);

  send(next, "m4");
  link(next, fresh);
  EXPECT_EQ(carry(next, fresh), std::vector(3, Answer::kStored));
  for (const char* expected : {"m2/1", "m3/1", "m4/1", "-"}) EXPECT_EQ(receive(fresh), expected);
  for (const char* id : {"m2", "m3", "m4"})
    EXPECT_TRUE(next.box->on_acked(kReceiver, ack(fresh, id).sender_sequence));
  for (const Pod* pod : {&next, &receiver, &fresh}) expect_books(*pod);
  ASSERT_TRUE(next.log->commit());
  next.start();
  EXPECT_EQ(next.box->books().outbox_live, 0U);
  EXPECT_EQ(next.log->stats().live_records, 1U) << "the id of m4, and not even a mark";
}

TEST_F(Custody, FromOneLostPodToTheNext) {
  EXPECT_EQ(give_back(receiver, next, {old.log->id()}), std::vector(3, Answer::kStored));
  link(next, receiver);
  (void)carry(next, receiver);
  Pod third{kSender, 5};
  EXPECT_TRUE(give_back(receiver, third, {old.log->id()}).empty()) << "the next one keeps them";
  EXPECT_EQ(give_back(receiver, third, {old.log->id(), next.log->id()}),
            std::vector(3, Answer::kStored));
  link(third, fresh);
  EXPECT_EQ(carry(third, fresh), std::vector(3, Answer::kStored));
  for (const char* expected : {"m1/1", "m2/1", "m3/1", "-"}) EXPECT_EQ(receive(fresh), expected);
}

TEST_F(Custody, ALostPodThatComesBackAndDrainsAddsNothing) {
  EXPECT_EQ(give_back(receiver, next, {old.log->id()}), std::vector(3, Answer::kStored));
  link(next, receiver);
  (void)carry(next, receiver);
  EXPECT_EQ(receive(receiver), "m1/1");
  EXPECT_TRUE(next.box->on_acked(kReceiver, ack(receiver, "m1").sender_sequence));
  send(old, "m4");
  EXPECT_EQ(hand_over(old, next), (std::vector{Answer::kDuplicate, Answer::kDuplicate,
                                               Answer::kDuplicate, Answer::kStored}))
      << "m1 was acked";
  EXPECT_EQ(old.box->books().outbox_live, 0U);
  link(next, fresh);
  EXPECT_EQ(carry(next, fresh), std::vector(3, Answer::kStored));
  for (const char* expected : {"m2/1", "m3/1", "m4/1", "-"}) EXPECT_EQ(receive(fresh), expected);
}

// The receiver has only the end of what a former pod that lives after all hands over later.
TEST_F(Custody, TheOrderIsThatOfTheOrigin) {
  EXPECT_EQ(receive(receiver), "m1/1");
  (void)ack(receiver, "m1");
  EXPECT_EQ(give_back(receiver, next, {old.log->id()}), std::vector(2, Answer::kStored));
  EXPECT_EQ(hand_over(old, next),
            (std::vector{Answer::kStored, Answer::kDuplicate, Answer::kDuplicate}));
  link(next, receiver);
  EXPECT_EQ(carry(next, receiver),
            (std::vector{Answer::kFinished, Answer::kDuplicate, Answer::kDuplicate}));
  EXPECT_EQ(next.box->books().outbox_live, 2U);
}

TEST_F(Custody, WhatWasAckedMeanwhileIsDone) {
  receiver.box->set_lost({{kSender, {old.log->id()}}});
  const auto given = receiver.box->give_back(kSender, next.log->id(), 1 << 20);
  ASSERT_EQ(given.size(), 3U);
  EXPECT_EQ(receive(receiver), "m1/1");
  EXPECT_EQ(ack(receiver, "m1").sender_log, old.log->id());
  for (const Outbound& out : given) EXPECT_EQ(next.box->take_back(kReceiver, out), Answer::kStored);
  link(next, receiver);
  EXPECT_EQ(carry(next, receiver),
            (std::vector{Answer::kFinished, Answer::kDuplicate, Answer::kDuplicate}));
  EXPECT_EQ(receiver.box->ack_debts(kSender).at(0).sender_log, next.log->id());
  // What comes once more, from a link that has ended, finds that it is.
  EXPECT_EQ(next.box->take_back(kReceiver, given[0]), Answer::kFinished);
  EXPECT_EQ(next.box->books().outbox_live, 2U);
}

TEST_F(Custody, EachStreamIsGivenBackInItsOrderAndWithoutHoles) {
  Pod small{kSender, 5, {.max_kept = 1}};
  EXPECT_EQ(give_back(receiver, small, {old.log->id()}),
            (std::vector{Answer::kStored, Answer::kFull, Answer::kGap}));
  receiver.box->set_lost({{kSender, {old.log->id()}}});
  auto again = receiver.box->give_back(kSender, small.log->id(), 1 << 20);
  ASSERT_EQ(again.size(), 2U);
  EXPECT_EQ(again[0].message.id.value, "m2");
  EXPECT_EQ(again[0].prev, 0U) << "what is before it is taken";
  EXPECT_EQ(again[1].prev, again[0].origin.sequence);
  EXPECT_EQ(small.box->take_back(kReceiver, again[0]), Answer::kFull);
  link(small, receiver);
  (void)carry(small, receiver);
  EXPECT_EQ(receive(receiver), "m1/1");
  EXPECT_TRUE(small.box->on_acked(kReceiver, ack(receiver, "m1").sender_sequence));
  EXPECT_EQ(small.box->take_back(kReceiver, again[1]), Answer::kGap) << "though there is room";
  receiver.box->on_given_back(kSender, again[0].sequence, Answer::kFull);
  receiver.box->on_given_back(kSender, again[1].sequence, Answer::kGap);
  EXPECT_EQ(give_back(receiver, small, {old.log->id()}),
            (std::vector{Answer::kStored, Answer::kFull}));
  expect_books(small);
}

// What another pod keeps, who lives, may come to the successor yet, and must not come behind.
TEST_F(Custody, NothingIsGivenBackInFrontOfWhatSomebodyElseKeeps) {
  Pod keeper{kSender, 5}, third{kSender, 6};
  old.box->begin_offers();
  const auto offered = old.box->offer(1);
  ASSERT_EQ(keeper.box->adopt(old.log->id(), offered.at(0)), Answer::kStored);
  link(keeper, receiver);
  ASSERT_EQ(carry(keeper, receiver), std::vector(1, Answer::kDuplicate));
  EXPECT_TRUE(give_back(receiver, third, {old.log->id()}).empty());
  EXPECT_EQ(receiver.box->unreturned(kSender, {old.log->id()}), 2U);
  EXPECT_EQ(give_back(receiver, third, {old.log->id(), keeper.log->id()}),
            std::vector(3, Answer::kStored));
  EXPECT_EQ(receiver.box->unreturned(kSender, {old.log->id(), keeper.log->id()}), 0U);
  link(third, fresh);
  EXPECT_EQ(carry(third, fresh), std::vector(3, Answer::kStored));
  for (const char* expected : {"m1/1", "m2/1", "m3/1", "-"}) EXPECT_EQ(receive(fresh), expected);
}

TEST_F(Custody, WhatIsAckedBeforeItsTurnLeavesNoGap) {
  EXPECT_EQ(give_back(receiver, next, {old.log->id()}, 1), std::vector(1, Answer::kStored));
  for (const char* expected : {"m1/1", "m2/1"}) EXPECT_EQ(receive(receiver), expected);
  (void)ack(receiver, "m2");
  EXPECT_EQ(give_back(receiver, next, {old.log->id()}), std::vector(1, Answer::kStored)) << "m3";
}

TEST_F(Custody, AnotherMessageUnderAKnownOriginIsRefused) {
  receiver.box->set_lost({{kSender, {old.log->id()}}});
  auto given = receiver.box->give_back(kSender, next.log->id(), 1 << 20);
  EXPECT_EQ(next.box->take_back(kReceiver, given.at(0)), Answer::kStored);
  Outbound other = given.at(0);
  other.message.id.value = "m9";
  EXPECT_EQ(next.box->take_back(kReceiver, other), Answer::kRefused);
  EXPECT_EQ(next.box->adopt(old.log->id(), other), Answer::kRefused);
  EXPECT_EQ(next.box->adopt(old.log->id(), given.at(0)), Answer::kDuplicate) << "its turn is left";
}

TEST_F(Custody, DeadLettersAndWhatIsLeasedAreGivenBackToo) {
  EXPECT_EQ(receive(receiver), "m1/1");
  EXPECT_EQ(give_back(receiver, next, {old.log->id()}, 1), std::vector(1, Answer::kStored));
  EXPECT_EQ(give_back(receiver, next, {old.log->id()}, 1), std::vector(1, Answer::kStored));
  for (int attempt = 0; attempt < 5; ++attempt) {
    now += Milliseconds{2000};
    (void)receiver.box->tick(now);
    while (receive(receiver) != "-") {
    }
  }
  now += Milliseconds{2000};
  (void)receiver.box->tick(now);
  ASSERT_EQ(receiver.box->books().dead_live, 3U);
  EXPECT_EQ(give_back(receiver, next, {old.log->id()}), std::vector(1, Answer::kStored));
  ASSERT_TRUE(receiver.box->purge(kReceiver, {"m2"}));
  link(next, receiver);
  EXPECT_EQ(carry(next, receiver),
            (std::vector{Answer::kDuplicate, Answer::kFinished, Answer::kDuplicate}));
  EXPECT_EQ(receiver.box->books().single_copy, 0U);
}

TEST_F(Custody, WhatItsAgentHasSentAgainIsNotKeptTwice) {
  const auto again = next.box->send(now, message("m2"));
  ASSERT_TRUE(again);
  EXPECT_EQ(give_back(receiver, next, {old.log->id()}),
            (std::vector{Answer::kStored, Answer::kDuplicate, Answer::kGap}));
  EXPECT_EQ(give_back(receiver, next, {old.log->id()}), std::vector(1, Answer::kStored));
  EXPECT_FALSE(next.box->withdraw(again->sequence)) << "the receiver has it";
  link(next, receiver);
  (void)carry(next, receiver);
  EXPECT_EQ(next.box->books().single_copy + receiver.box->books().single_copy, 0U);
}

TEST_F(Custody, PartsAndNumberedAgentsComeBackAsTheyWere) {
  Message part = message("p1");
  part.from = {"worker-1.2"};
  part.stream = {MessageId{"results"}, 1, StreamPart::Mark::kEnd};
  const Outbound sent{9, 0, part, {}};
  ASSERT_EQ(take(old, receiver, sent, now), Answer::kStored);
  EXPECT_EQ(give_back(receiver, next, {old.log->id()}), std::vector(4, Answer::kStored));
  link(next, fresh);
  EXPECT_EQ(carry(next, fresh), std::vector(4, Answer::kStored));
  const auto got = fresh.box->receive_part(now, kReceiver, Milliseconds{1000}, part.from,
                                           part.stream->stream, 1);
  ASSERT_TRUE(got && *got);
  EXPECT_EQ((*got)->message, part);
}

TEST_F(Custody, ARestartedReceiverGivesBackWhatNobodySaysThatHeKeeps) {
  EXPECT_EQ(give_back(receiver, next, {old.log->id()}, 1), std::vector(1, Answer::kStored));
  receiver.start();
  EXPECT_EQ(give_back(receiver, next, {old.log->id()}),
            (std::vector{Answer::kDuplicate, Answer::kStored, Answer::kStored}));
}

TEST_F(Custody, TakeBackRefusesWhatIsWrong) {
  receiver.box->set_lost({{kSender, {old.log->id()}}});
  const auto given = receiver.box->give_back(kSender, next.log->id(), 1);
  ASSERT_EQ(given.size(), 1U) << "one at least, and no more than that";
  struct Row {
    const char* name;
    std::function<void(Outbound&)> spoil;
  };
  const Row rows[] = {{"sequence", [](Outbound& o) { o.sequence = 0; }},
                      {"prev", [](Outbound& o) { o.prev = o.origin.sequence; }},
                      {"origin", [](Outbound& o) { o.origin = {}; }},
                      {"origin's sequence", [](Outbound& o) { o.origin.sequence = 0; }},
                      {"sender", [](Outbound& o) { o.message.from = {"worker-7"}; }},
                      {"receiver", [](Outbound& o) { o.message.to = {"worker-7"}; }},
                      {"to itself", [](Outbound& o) { o.message.to = kSender; }}};
  for (const Row& row : rows) {
    Outbound bad = given[0];
    row.spoil(bad);
    EXPECT_EQ(next.box->take_back(kReceiver, bad), Answer::kRefused) << row.name;
  }
  EXPECT_EQ(next.box->take_back(kSender, given[0]), Answer::kRefused) << "nobody's receiver";
  Outbound own = given[0];
  own.origin.log = next.log->id();
  EXPECT_EQ(next.box->take_back(kReceiver, own), Answer::kFinished) << "it knows what became of it";
  next.box->stop_intake();
  EXPECT_EQ(give_back(receiver, next, {old.log->id()}), std::vector(2, Answer::kRefused))
      << "it drains itself";
  EXPECT_TRUE(give_back(receiver, next, {old.log->id()}).empty()) << "and is asked no more";
  EXPECT_EQ(next.box->books().adopted, 0U);
  Pod third{kSender, 5};
  EXPECT_EQ(give_back(receiver, third, {old.log->id()}), std::vector(3, Answer::kStored));
}

TEST(OutboundCodec, RoundTripAndEveryTruncationIsRefused) {
  Outbound out{7, 5, {}, {log_id(9), 300}};
  out.message.id.value = "id";
  out.message.from = kSender;
  out.message.to = kReceiver;
  const std::string bytes = encode(out);
  EXPECT_EQ(bytes.substr(0, 25),
            std::string("\x02\x09", 2) + std::string(15, '\0') + "\x2c\x01" + std::string(6, '\0'));
  EXPECT_EQ(bytes.substr(25), encode(out.message));
  const auto back = decode_outbound(7, 5, bytes);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->sequence, 7U);
  EXPECT_EQ(back->prev, 5U);
  EXPECT_EQ(back->origin, out.origin);
  EXPECT_EQ(back->message, out.message);
  for (std::size_t n = 0; n < bytes.size(); ++n)
    EXPECT_FALSE(decode_outbound(7, 5, bytes.substr(0, n))) << n;
  std::string nobody = bytes;
  nobody[1] = 0;
  EXPECT_FALSE(decode_outbound(7, 5, nobody)) << "of no log";
  out.origin = {};
  EXPECT_EQ(encode(out), encode(out.message)) << "our own: as ever";
  EXPECT_TRUE(decode_outbound(7, 5, encode(out))->origin.log.empty());
}

}  // namespace
}  // namespace swarm::mailbox
