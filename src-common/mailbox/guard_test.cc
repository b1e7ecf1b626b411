// A sender and a receiver on one node, a custodian on another: what survives the loss of the node.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "mailbox/mailbox.h"
#include "sim/fake_directory.h"
#include "sim/random.h"

namespace swarm::mailbox {
namespace {

using log::Log;

constexpr std::uint32_t kSegment = 4096;
constexpr Limits kEntrust{.entrust = true};
const AgentName kSender{"worker-1"}, kReceiver{"worker-2"};

struct Pod {
  Pod(const std::string& n, std::uint8_t number, const Limits& l = kEntrust) : name{n}, limits(l) {
    id.bytes[0] = number;
    start();
  }
  void start() {
    if (log) {
      EXPECT_TRUE(log->commit());
    }
    box.reset();
    log.reset();
    box = std::make_unique<Mailbox>(name, limits);
    auto opened = Log::open(
        directory, {.max_bytes = 8192 + 64 * std::uint64_t{kSegment}, .segment_bytes = kSegment},
        id, [this](const log::Record& r) { box->restore(r); }, &recovery);
    ASSERT_TRUE(opened);
    log = std::move(*opened);
    box->attach(*log, {});
  }
  AgentName name;
  LogId id;
  Limits limits;
  sim::FakeDirectory directory{1 << 20};
  log::Recovery recovery;
  std::unique_ptr<Log> log;
  std::unique_ptr<Mailbox> box;
};

struct Guard : ::testing::Test {
  Sequence send(Pod& from, const std::string& id, const std::string& body = "body") {
    Message m;
    m.id.value = id;
    m.from = from.name;
    m.to = kReceiver;
    m.body = body;
    auto sent = from.box->send(now, m);
    EXPECT_TRUE(sent) << sent.error().message;
    return sent ? sent->sequence : 0;
  }
  void link(Pod& from, Pod& to, bool near = true) {
    from.box->on_link_up(now, to.name, to.id, near);
    to.box->on_incarnation(from.name, from.id);
  }
  std::vector<Answer> carry(Pod& from, Pod& to) {
    std::vector<Answer> answers;
    for (const Outbound& out : from.box->transmit(to.name, 1 << 20)) {
      answers.push_back(out.origin.log.empty()
                            ? to.box->deliver(now, from.id, out.sequence, out.prev, out.message)
                            : to.box->deliver_kept(now, from.id, out));
      from.box->on_answer(now, to.name, to.id, out.sequence, answers.back(), "");
    }
    return answers;
  }
  // KEEP and KEPT.
  static std::vector<Answer> entrust(Pod& from, Pod& to) {
    std::vector<Answer> answers;
    for (const Outbound& copy : from.box->entrust(1 << 20)) {
      answers.push_back(to.box->guard(from.id, copy));
      from.box->on_entrusted(to.id, copy.sequence, answers.back());
    }
    return answers;
  }
  static std::size_t release(Pod& from, Pod& to) {
    const auto released = from.box->take_releases(1000);
    for (const Sequence sequence : released) {
      to.box->release(from.id, sequence);
      from.box->on_entrusted(to.id, sequence, Answer::kFinished);
    }
    return released.size();
  }
  // By one that is the custodian no more.
  static std::size_t release_elsewhere(Pod& from, Pod& former) {
    const auto released = from.box->take_releases_elsewhere()[former.id];
    for (const Sequence sequence : released) {
      former.box->release(from.id, sequence);
      from.box->on_entrusted(former.id, sequence, Answer::kFinished);
    }
    return released.size();
  }
  // What the custodian says on a new link, and what is released then.
  static std::size_t tell(Pod& custodian, Pod& sender) {
    const auto stale = sender.box->on_told(custodian.id, custodian.box->wards_of(sender.id));
    for (const Sequence sequence : stale) custodian.box->release(sender.id, sequence);
    return stale.size();
  }
  std::vector<Answer> give_back(Pod& from, Pod& to, const LogId& lost,
                                std::size_t max_bytes = 1 << 20) {
    from.box->set_lost({{to.name, {lost}}});
    std::vector<Answer> answers;
    for (const Outbound& out : from.box->give_back(to.name, to.id, max_bytes)) {
      answers.push_back(to.box->take_back(from.name, out));
      from.box->on_given_back(to.name, out.sequence, answers.back());
    }
    return answers;
  }
  std::string receive(Pod& at) {
    auto d = at.box->receive(now, at.name, Milliseconds{1000}, {});
    return d ? d->message.id.value + "/" + std::to_string(d->attempt) : "-";
  }
  // The receiver's agent takes and acks the next message; what the sender's pod says of it.
  bool read(Pod& at, Pod& from, const std::string& id, Sequence* sequence = nullptr) {
    EXPECT_EQ(receive(at), id + "/1");
    auto acked = at.box->ack(now, at.name, {id}, 1);
    EXPECT_TRUE(acked && acked->debt) << id;
    if (sequence != nullptr) *sequence = acked->debt->sender_sequence;
    return from.box->on_acked(at.name, acked->debt->sender_sequence);
  }
  static void expect_books(const Pod& pod) {
    const Books b = pod.box->books();
    EXPECT_EQ(b.sent + b.adopted,
              b.refused + b.withdrawn + b.acknowledged_by_receiver + b.handed_over + b.outbox_live);
    EXPECT_EQ(b.stored, b.acked + b.inbox_live + b.dead_live);
  }
  // Three messages, with a copy at the custodian and stored by the receiver.
  void send_three() {
    sender.box->on_custodian_up(custodian.id);
    link(sender, receiver);
    for (const char* id : {"m1", "m2", "m3"}) send(sender, id);
    ASSERT_EQ(entrust(sender, custodian), std::vector(3, Answer::kStored));
    ASSERT_EQ(carry(sender, receiver), std::vector(3, Answer::kStored));
  }
  MonoTime now{Milliseconds{1000}};
  Pod sender{"worker-1", 9}, receiver{"worker-2", 3}, custodian{"worker-3", 5};
  Pod next{"worker-1", 2}, fresh{"worker-2", 4}, other{"worker-4", 6};
};

TEST_F(Guard, NothingIsSentOnItsNodeBeforeTheCustodianHasIt) {
  link(sender, receiver);
  send(sender, "m1");
  EXPECT_TRUE(sender.box->needs_custodian());
  EXPECT_TRUE(carry(sender, receiver).empty());
  EXPECT_TRUE(sender.box->entrust(1 << 20).empty()) << "nobody is there";
  sender.box->on_custodian_up(custodian.id);
  const auto copies = sender.box->entrust(1 << 20);
  ASSERT_EQ(copies.size(), 1U);
  EXPECT_TRUE(carry(sender, receiver).empty()) << "it has not answered";
  ASSERT_EQ(custodian.box->guard(sender.id, copies[0]), Answer::kStored);
  sender.box->on_entrusted(custodian.id, copies[0].sequence, Answer::kStored);
  EXPECT_EQ(carry(sender, receiver), std::vector{Answer::kStored});
  EXPECT_EQ(sender.box->books().single_copy, 0U);
  EXPECT_EQ(custodian.box->books().wards, 1U);
  EXPECT_EQ(custodian.box->books().inbox_live, 0U);
  EXPECT_EQ(receive(custodian), "-") << "it is nobody's there";
}

TEST_F(Guard, WhatGoesToAnotherNodeNeedsNone) {
  link(sender, receiver, false);
  send(sender, "m1");
  EXPECT_FALSE(sender.box->needs_custodian());
  EXPECT_EQ(carry(sender, receiver), std::vector{Answer::kStored});
  // Until the receiver is replaced by a pod on our node.
  link(sender, fresh);
  EXPECT_EQ(carry(sender, fresh), std::vector{Answer::kStored})
      << "what was accepted does not wait";
  EXPECT_EQ(sender.box->books().single_copy, 1U);
  send(sender, "m2");
  EXPECT_TRUE(carry(sender, fresh).empty());
  sender.box->on_custodian_up(custodian.id);
  EXPECT_EQ(entrust(sender, custodian), std::vector(2, Answer::kStored));
  EXPECT_EQ(carry(sender, fresh), std::vector{Answer::kStored});
  EXPECT_EQ(sender.box->books().single_copy, 0U);
}

TEST_F(Guard, WithDurabilityPodNothingWaits) {
  Pod plain{"worker-1", 7, {}};
  link(plain, receiver);
  send(plain, "m1");
  EXPECT_FALSE(plain.box->needs_custodian());
  EXPECT_EQ(carry(plain, receiver), std::vector{Answer::kStored});
}

TEST_F(Guard, ANodeIsLostAndItsSuccessorsHaveAllThatIsUnread) {
  send_three();
  Sequence acked = 0;
  EXPECT_FALSE(read(receiver, sender, "m1", &acked)) << "the custodian has it yet";
  EXPECT_EQ(release(sender, custodian), 1U);
  EXPECT_EQ(sender.box->take_recorded(), std::vector{acked});
  expect_books(sender);
  custodian.start();
  // Both pods are gone.
  EXPECT_EQ(custodian.box->guarded(),
            (std::map<AgentName, std::set<LogId>>{{kSender, {sender.id}}}));
  EXPECT_EQ(custodian.box->unreturned(kSender, {sender.id}), 2U);
  custodian.box->set_lost({{kSender, {sender.id}}});
  EXPECT_EQ(custodian.box->books().single_copy, 2U);
  EXPECT_EQ(give_back(custodian, next, sender.id), std::vector(2, Answer::kStored));
  EXPECT_EQ(custodian.box->books().wards, 0U);
  EXPECT_TRUE(give_back(custodian, next, sender.id).empty()) << "once";
  next.start();
  link(next, fresh, false);
  EXPECT_EQ(carry(next, fresh), std::vector(2, Answer::kStored));
  EXPECT_EQ(receive(fresh), "m2/1");
  EXPECT_EQ(receive(fresh), "m3/1");
  EXPECT_EQ(receive(fresh), "-") << "m1 was acked";
  expect_books(next);
  EXPECT_EQ(custodian.log->stats().live_records, 0U);
}

TEST_F(Guard, TheSuccessorEntrustsWhatStaysOnItsNode) {
  send_three();
  EXPECT_EQ(give_back(custodian, next, sender.id), std::vector(3, Answer::kStored));
  link(next, fresh);
  EXPECT_EQ(carry(next, fresh), std::vector(3, Answer::kStored)) << "with a custodian or not";
  EXPECT_EQ(next.box->books().single_copy, 3U);
  next.box->on_custodian_up(other.id);
  EXPECT_EQ(entrust(next, other), std::vector(3, Answer::kStored));
  EXPECT_EQ(next.box->books().single_copy, 0U);
  // That node is lost as well.
  Pod third{"worker-1", 7}, last{"worker-2", 8};
  EXPECT_EQ(give_back(other, third, next.id), std::vector(3, Answer::kStored));
  link(third, last, false);
  EXPECT_EQ(carry(third, last), std::vector(3, Answer::kStored));
  for (const char* expected : {"m1/1", "m2/1", "m3/1", "-"}) EXPECT_EQ(receive(last), expected);
}

// The receiver's node is lost as well, and there is no room for its successor yet.
TEST_F(Guard, WhatWasTakenBackHasASecondCopyBeforeItsReceiverIsThere) {
  send_three();
  EXPECT_EQ(give_back(custodian, next, sender.id), std::vector(3, Answer::kStored));
  const Sequence fourth = send(next, "m4");
  EXPECT_TRUE(next.box->needs_custodian());
  EXPECT_EQ(next.box->books().single_copy, 3U);
  next.box->on_custodian_up(other.id);
  EXPECT_EQ(entrust(next, other), std::vector(3, Answer::kStored));
  EXPECT_FALSE(next.box->waits_for_custodian(fourth)) << "a new one waits for its receiver";
  EXPECT_EQ(next.box->books().single_copy, 0U);
  // It comes, on another node.
  link(next, fresh, false);
  EXPECT_EQ(carry(next, fresh), std::vector(4, Answer::kStored));
  EXPECT_FALSE(read(fresh, next, "m1"));
  EXPECT_EQ(release(next, other), 3U);
  EXPECT_EQ(next.box->take_recorded().size(), 1U);
  EXPECT_EQ(other.box->books().wards, 0U);
  EXPECT_TRUE(read(fresh, next, "m2"));
  EXPECT_TRUE(read(fresh, next, "m3"));
  EXPECT_TRUE(read(fresh, next, "m4"));
  EXPECT_FALSE(next.box->needs_custodian());
  expect_books(next);
}

// Its agent has sent one of them again before it comes back: on the one node that is left.
TEST_F(Guard, WhatWasSentAgainWaitsForNoCustodianOnceItIsKnownToBeAccepted) {
  send_three();
  link(next, fresh);
  send(next, "m1");
  EXPECT_TRUE(carry(next, fresh).empty());
  EXPECT_EQ(give_back(custodian, next, sender.id),
            (std::vector{Answer::kDuplicate, Answer::kGap, Answer::kGap}));
  EXPECT_EQ(carry(next, fresh), std::vector{Answer::kStored});
  EXPECT_EQ(give_back(custodian, next, sender.id), std::vector(2, Answer::kStored));
  EXPECT_EQ(carry(next, fresh), std::vector(2, Answer::kStored));
}

TEST_F(Guard, WhatReceiverAndCustodianGiveBackIsKeptOnce) {
  send_three();
  EXPECT_EQ(give_back(custodian, next, sender.id), std::vector(3, Answer::kStored));
  EXPECT_EQ(give_back(receiver, next, sender.id), std::vector(3, Answer::kDuplicate));
  EXPECT_EQ(next.box->books().outbox_live, 3U);
}

TEST_F(Guard, AnAckWaitsForTheReleaseAndNoLongerThanForTheCustodian) {
  send_three();
  Sequence first = 0, second = 0;
  EXPECT_FALSE(read(receiver, sender, "m1", &first));
  EXPECT_FALSE(sender.box->on_acked(kReceiver, first)) << "once more";
  EXPECT_TRUE(sender.box->releasing());
  (void)sender.box->take_releases(10);  // and no answer
  sender.box->on_custodian_down();
  EXPECT_FALSE(read(receiver, sender, "m2", &second));
  EXPECT_TRUE(sender.box->take_releases(10).empty());
  EXPECT_TRUE(sender.box->take_recorded().empty());
  sender.box->on_custodian_up(custodian.id);
  EXPECT_EQ(release(sender, custodian), 2U) << "both, on the new link";
  EXPECT_EQ(sender.box->take_recorded(), (std::vector{first, second}));
  EXPECT_EQ(custodian.box->wards_of(sender.id).size(), 1U);

  sender.box->on_custodian_down();
  EXPECT_FALSE(read(receiver, sender, "m3"));
  sender.box->end_releases();
  EXPECT_EQ(sender.box->take_recorded().size(), 1U);
  EXPECT_EQ(sender.box->books().outbox_live, 0U);
  sender.box->on_custodian_up(custodian.id);
  EXPECT_EQ(tell(custodian, sender), 1U) << "its copy goes when it is back";
  EXPECT_EQ(custodian.box->books().wards, 0U);
  expect_books(sender);
}

TEST_F(Guard, AnAckedMessageIsSentToNobodyWhileItIsReleased) {
  send_three();
  EXPECT_FALSE(read(receiver, sender, "m1"));
  link(sender, fresh, false);  // the receiver is lost, and replaced on another node
  EXPECT_EQ(carry(sender, fresh), std::vector(2, Answer::kStored));
  EXPECT_EQ(receive(fresh), "m2/1");
}

TEST_F(Guard, ARestartedSenderFindsItsCopiesAgain) {
  send_three();
  Sequence acked = 0;
  EXPECT_FALSE(read(receiver, sender, "m1", &acked));
  (void)sender.box->take_releases(10);  // lost
  sender.start();
  link(sender, receiver);
  EXPECT_FALSE(sender.box->on_acked(kReceiver, acked)) << "somebody may have a copy";
  sender.box->on_custodian_up(custodian.id);
  EXPECT_EQ(tell(custodian, sender), 0U);
  EXPECT_EQ(release(sender, custodian), 1U);
  EXPECT_EQ(sender.box->take_recorded(), std::vector{acked});
  EXPECT_TRUE(entrust(sender, custodian).empty()) << "it has told so";
  EXPECT_EQ(carry(sender, receiver), std::vector(2, Answer::kDuplicate));
  EXPECT_EQ(sender.box->books().single_copy, 0U);
  EXPECT_EQ(custodian.box->wards_of(sender.id).size(), 2U);
}

TEST_F(Guard, AnAckThatComesBeforeOurOwnLinkWaitsForTheRelease) {
  send_three();
  Sequence acked = 0;
  EXPECT_FALSE(read(receiver, sender, "m1", &acked));
  sender.start();
  EXPECT_FALSE(sender.box->on_acked(kReceiver, acked)) << "is it on our node?";
  sender.box->on_custodian_up(custodian.id);
  tell(custodian, sender);
  EXPECT_EQ(release(sender, custodian), 1U);
  EXPECT_EQ(sender.box->take_recorded(), std::vector{acked});
}

TEST_F(Guard, AFormerCustodianReleasesWhatAnotherOneHas) {
  send_three();
  sender.box->on_custodian_down();
  EXPECT_EQ(sender.box->books().single_copy, 3U) << "as far as we know";
  sender.box->on_custodian_lost();
  EXPECT_EQ(sender.box->books().single_copy, 3U);
  sender.box->on_custodian_up(other.id);
  EXPECT_EQ(entrust(sender, other), std::vector(3, Answer::kStored));
  EXPECT_EQ(sender.box->books().single_copy, 0U);
  EXPECT_EQ(tell(custodian, sender), 3U);
  EXPECT_EQ(custodian.box->books().wards, 0U);
  EXPECT_FALSE(read(receiver, sender, "m1"));
  EXPECT_EQ(release(sender, other), 1U);
}

TEST_F(Guard, AFormerCustodianKeepsWhatNobodyElseHasYet) {
  send_three();
  sender.box->on_custodian_lost();
  sender.box->on_custodian_up(other.id);
  EXPECT_EQ(tell(custodian, sender), 0U);
  EXPECT_EQ(custodian.box->wards_of(sender.id).size(), 3U);
  const auto copies = sender.box->entrust(1);
  ASSERT_EQ(copies.size(), 1U);
  sender.box->on_entrusted(other.id, copies[0].sequence, other.box->guard(sender.id, copies[0]));
  EXPECT_EQ(release_elsewhere(sender, custodian), 1U);
  EXPECT_FALSE(read(receiver, sender, "m1"));
  EXPECT_EQ(release(sender, other), 1U);
  EXPECT_TRUE(read(receiver, sender, "m2")) << "the next one has no copy";
  EXPECT_EQ(release_elsewhere(sender, custodian), 1U);
  EXPECT_EQ(entrust(sender, other), std::vector{Answer::kStored});
  EXPECT_EQ(release_elsewhere(sender, custodian), 1U);
  EXPECT_EQ(custodian.box->books().wards, 0U);
  EXPECT_EQ(other.box->wards_of(sender.id).size(), 1U) << "m3";
  EXPECT_TRUE(sender.box->take_releases_elsewhere().empty());
}

// As one that is full is, whose link stays: it does not tell again.
TEST_F(Guard, OneThatIsPassedOverKeepsItsCopiesUntilTheNextOneHasThem) {
  send_three();
  EXPECT_FALSE(read(receiver, sender, "m1"));
  sender.box->on_custodian_lost();
  EXPECT_EQ(sender.box->take_recorded().size(), 1U);
  EXPECT_EQ(release_elsewhere(sender, custodian), 1U) << "m1's, which had not gone out";
  EXPECT_EQ(custodian.box->books().wards, 2U);
  sender.box->on_custodian_up(other.id);
  EXPECT_EQ(entrust(sender, other), std::vector(2, Answer::kStored));
  EXPECT_EQ(release_elsewhere(sender, custodian), 2U);
  // And back.
  sender.box->on_custodian_lost();
  sender.box->on_custodian_up(custodian.id);
  EXPECT_EQ(entrust(sender, custodian), std::vector(2, Answer::kStored));
  EXPECT_EQ(release_elsewhere(sender, other), 2U);
  EXPECT_EQ(other.box->books().wards, 0U);
  EXPECT_EQ(custodian.box->books().wards, 2U);
}

TEST_F(Guard, WhatWasHandedOverIsNotReleasedElsewhere) {
  send_three();
  sender.box->on_custodian_lost();
  sender.box->begin_offers();
  for (const Outbound& offered : sender.box->offer(1 << 20))
    sender.box->on_offer_answer(offered.sequence, Answer::kStored);
  EXPECT_EQ(release_elsewhere(sender, custodian), 0U);
  EXPECT_EQ(custodian.box->books().wards, 3U);
}

TEST_F(Guard, AWrongWordOfCopiesHoldsUpNoWithdrawal) {
  Pod plain{"worker-1", 7, {}};
  for (Pod* pod : {&plain, &sender}) {
    const Sequence sequence = send(*pod, "m1");
    EXPECT_TRUE(pod->box->on_told(custodian.id, {sequence, sequence + 1}) ==
                std::vector{sequence + 1});
    EXPECT_TRUE(pod->box->withdraw(sequence));
    EXPECT_EQ(pod->box->take_releases_elsewhere()[custodian.id], std::vector{sequence});
  }
}

TEST_F(Guard, ACustodianUnderAnotherLogIsAnotherOne) {
  send_three();
  Pod replaced{"worker-3", 7};
  sender.box->on_custodian_up(replaced.id);
  EXPECT_EQ(sender.box->books().single_copy, 3U);
  EXPECT_EQ(entrust(sender, replaced), std::vector(3, Answer::kStored));
}

TEST_F(Guard, AFullCustodianRefusesAndNothingIsDelivered) {
  Limits one = kEntrust;
  one.max_wards = 1;
  Pod small{"worker-3", 7, one};
  sender.box->on_custodian_up(small.id);
  link(sender, receiver);
  send(sender, "m1");
  const Sequence second = send(sender, "m2");
  EXPECT_EQ(entrust(sender, small), (std::vector{Answer::kStored, Answer::kFull}));
  EXPECT_TRUE(sender.box->entrust(1 << 20).empty()) << "until it is asked again";
  EXPECT_TRUE(sender.box->waits_for_custodian(second));
  EXPECT_EQ(carry(sender, receiver), std::vector{Answer::kStored});
  EXPECT_TRUE(sender.box->withdraw(second)) << "nobody has it";
  const Sequence third = send(sender, "m3");
  sender.box->on_custodian_retry();
  EXPECT_EQ(entrust(sender, small), std::vector{Answer::kFull});
  EXPECT_FALSE(read(receiver, sender, "m1"));
  EXPECT_EQ(release(sender, small), 1U);
  sender.box->on_custodian_retry();
  EXPECT_EQ(entrust(sender, small), std::vector{Answer::kStored});
  EXPECT_FALSE(sender.box->waits_for_custodian(third));
  expect_books(sender);
}

TEST_F(Guard, OneSenderLeavesRoomForOthers) {
  for (const bool by_bytes : {false, true}) {
    Limits few = kEntrust;
    if (by_bytes)
      few.max_ward_bytes = 8000;
    else
      few.max_wards = 4;
    Pod small{"worker-3", static_cast<std::uint8_t>(by_bytes ? 7 : 8), few};
    Pod one{"worker-1", 20, kEntrust}, two{"worker-5", 21, kEntrust};
    for (Pod* pod : {&one, &two}) {
      pod->box->on_custodian_up(small.id);
      link(*pod, receiver);
      for (const char* id : {"m1", "m2", "m3"}) send(*pod, id, std::string(1000, 'x'));
    }
    EXPECT_EQ(entrust(one, small), (std::vector{Answer::kStored, Answer::kStored, Answer::kFull}));
    EXPECT_EQ(entrust(two, small), (std::vector{Answer::kStored, Answer::kStored, Answer::kFull}));
    small.start();
    one.box->on_custodian_retry();
    EXPECT_EQ(entrust(one, small), std::vector{Answer::kFull}) << "also after a restart";
  }
}

// A successor that gets the end of a stream first takes the beginning for done.
TEST_F(Guard, CopiesOfAStreamHaveNoHoles) {
  Limits few = kEntrust;
  few.max_ward_bytes = 6400;
  Pod small{"worker-3", 7, few};
  sender.box->on_custodian_up(small.id);
  link(sender, receiver);
  for (const std::size_t size : {600, 1800, 10, 10}) {
    const auto number = std::to_string(sender.box->books().sent + 1);
    send(sender, "m" + number, std::string(size, 'x'));
  }
  Message high;
  high.id.value = "high";
  high.from = kSender;
  high.to = kReceiver;
  high.priority = Priority::kHigh;
  ASSERT_TRUE(sender.box->send(now, high));
  EXPECT_EQ(entrust(sender, small), (std::vector{Answer::kStored, Answer::kFull, Answer::kGap,
                                                 Answer::kGap, Answer::kStored}))
      << "another priority is another stream";
  EXPECT_EQ(carry(sender, receiver), std::vector(2, Answer::kStored));
  while (receive(receiver) != "-") {
  }
  auto acked = receiver.box->ack(now, kReceiver, {"m1"}, 1);
  EXPECT_FALSE(sender.box->on_acked(kReceiver, acked->debt->sender_sequence));
  EXPECT_EQ(release(sender, small), 1U);
  sender.box->on_custodian_retry();
  EXPECT_EQ(entrust(sender, small), std::vector(3, Answer::kStored))
      << "nothing is before them now";
  EXPECT_EQ(carry(sender, receiver), std::vector(3, Answer::kStored));
}

TEST_F(Guard, ACustodianThatHasLostACopyGetsItAgain) {
  send_three();
  const auto kept = custodian.box->wards_of(sender.id);
  ASSERT_EQ(kept.size(), 3U);
  custodian.box->release(sender.id, kept[2]);
  send(sender, "m4");
  EXPECT_EQ(entrust(sender, custodian), std::vector{Answer::kGap});
  sender.box->on_custodian_retry();
  EXPECT_EQ(entrust(sender, custodian), std::vector(2, Answer::kStored));
  EXPECT_EQ(custodian.box->wards_of(sender.id).size(), 4U);
}

// What is given back later may be older.
TEST_F(Guard, CopiesGoOutInTheOrderOfTheirOrigin) {
  send_three();
  receiver.box->set_lost({{kSender, {sender.id}}});
  const auto given = receiver.box->give_back(kSender, next.id, 1 << 20);
  ASSERT_EQ(given.size(), 3U);
  const auto kept = custodian.box->wards_of(sender.id);
  custodian.box->release(sender.id, kept[0]);
  EXPECT_EQ(give_back(custodian, next, sender.id), std::vector(2, Answer::kStored));
  ASSERT_EQ(next.box->take_back(kReceiver, given[0]), Answer::kStored);
  link(next, fresh);
  next.box->on_custodian_up(other.id);
  const auto copies = next.box->entrust(1 << 20);
  ASSERT_EQ(copies.size(), 3U);
  EXPECT_EQ(copies[0].message.id.value, "m1");
  EXPECT_EQ(copies[0].prev, 0U);
  EXPECT_EQ(copies[1].prev, copies[0].sequence);
  EXPECT_EQ(copies[2].prev, copies[1].sequence);
}

TEST_F(Guard, BytesHaveALimitOfTheirOwn) {
  Limits few = kEntrust;
  few.max_ward_bytes = 9000;
  Pod small{"worker-3", 7, few};
  sender.box->on_custodian_up(small.id);
  link(sender, receiver);
  for (const char* id : {"m1", "m2", "m3"}) send(sender, id, std::string(1500, 'x'));
  EXPECT_EQ(entrust(sender, small), (std::vector{Answer::kStored, Answer::kStored, Answer::kFull}));
  const Books books = small.box->books();
  EXPECT_GT(books.ward_bytes, 3000U);
  EXPECT_EQ(books.received_bytes, 0U);
}

// "Refused" is never delivered: not by a custodian either.
TEST_F(Guard, ARefusalWaitsForTheRelease) {
  sender.box->on_custodian_up(custodian.id);
  link(sender, receiver);
  const Sequence sequence = send(sender, "m1");
  ASSERT_EQ(entrust(sender, custodian), std::vector{Answer::kStored});
  EXPECT_FALSE(sender.box->withdraw(sequence));
  EXPECT_TRUE(sender.box->withdrawing(sequence));
  EXPECT_TRUE(carry(sender, receiver).empty()) << "nor does the receiver get it now";
  EXPECT_EQ(release(sender, custodian), 1U);
  EXPECT_TRUE(sender.box->withdraw(sequence));
  EXPECT_EQ(custodian.box->books().wards, 0U);

  receiver.box->stop_intake();
  const Sequence denied = send(sender, "m2");
  ASSERT_EQ(entrust(sender, custodian), std::vector{Answer::kStored});
  EXPECT_EQ(carry(sender, receiver), std::vector{Answer::kRefused});
  EXPECT_TRUE(sender.box->take_outcomes().empty());
  EXPECT_EQ(release(sender, custodian), 1U);
  const auto outcomes = sender.box->take_outcomes();
  ASSERT_EQ(outcomes.size(), 1U);
  EXPECT_EQ(outcomes[0].sequence, denied);
  EXPECT_EQ(outcomes[0].error->code, Code::kDenied);
  expect_books(sender);
}

// It was told to release the copy, said meanwhile that it has it, and got it again.
TEST_F(Guard, ACopyThatIsEntrustedAgainIsNotReleased) {
  sender.box->on_custodian_up(custodian.id);
  link(sender, receiver);
  const Sequence sequence = send(sender, "m1");
  ASSERT_EQ(entrust(sender, custodian), std::vector{Answer::kStored});
  EXPECT_FALSE(sender.box->withdraw(sequence));
  EXPECT_EQ(sender.box->take_releases(10).size(), 1U);
  EXPECT_EQ(tell(custodian, sender), 0U);  // a RELEASE is due once more
  custodian.box->release(sender.id, sequence);
  sender.box->on_entrusted(custodian.id, sequence, Answer::kFinished);
  EXPECT_EQ(entrust(sender, custodian), std::vector{Answer::kStored});
  EXPECT_EQ(release(sender, custodian), 0U);
  EXPECT_EQ(custodian.box->books().wards, 1U);
  for (const Answer answer : {Answer::kFinished, Answer::kFull, Answer::kRefused}) {
    custodian.box->release(sender.id, sequence);
    sender.box->on_entrusted(custodian.id, sequence, answer);
    EXPECT_TRUE(carry(sender, receiver).empty()) << "it has none any more";
    sender.box->on_custodian_retry();
    EXPECT_EQ(entrust(sender, custodian), std::vector{Answer::kStored});
  }
  EXPECT_EQ(carry(sender, receiver), std::vector{Answer::kStored});
}

TEST_F(Guard, WhatALostCustodianMayHaveIsNotCalledRefused) {
  sender.box->on_custodian_up(custodian.id);
  link(sender, receiver);
  const Sequence unanswered = send(sender, "m1");
  ASSERT_EQ(sender.box->entrust(1 << 20).size(), 1U);
  sender.box->on_custodian_down();
  EXPECT_FALSE(sender.box->withdraw(unanswered));
  sender.box->on_custodian_lost();
  EXPECT_FALSE(sender.box->withdraw(unanswered));

  sender.box->on_custodian_up(other.id);
  ASSERT_EQ(entrust(sender, other), std::vector{Answer::kStored});
  send(sender, "m2");
  ASSERT_EQ(entrust(sender, other), std::vector{Answer::kStored});
  receiver.box->stop_intake();
  (void)carry(sender, receiver);
  link(sender, receiver);
  sender.box->on_custodian_lost();
  for (const auto& outcome : sender.box->take_outcomes())
    EXPECT_EQ(outcome.error->code, Code::kUnknown);
  expect_books(sender);
}

TEST_F(Guard, WhatWasHandedOverStaysWithTheCustodianUntilTheSuccessorSaysThatItHasIt) {
  send_three();
  sender.box->begin_offers();
  for (const Outbound& offered : sender.box->offer(1 << 20)) {
    ASSERT_EQ(next.box->adopt(sender.id, offered), Answer::kStored);
    sender.box->on_offer_answer(offered.sequence, Answer::kStored);
  }
  EXPECT_EQ(tell(custodian, sender), 0U);
  EXPECT_EQ(custodian.box->books().wards, 3U);
  EXPECT_EQ(give_back(custodian, next, sender.id), std::vector(3, Answer::kDuplicate));
  EXPECT_EQ(custodian.box->books().wards, 0U);
  EXPECT_EQ(next.box->books().outbox_live, 3U);
  expect_books(sender);
}

// Its successor has entrusted its own copies to the same pod by then.
TEST_F(Guard, TheCopiesOfADrainedSenderEndBesideThoseOfItsSuccessor) {
  send_three();
  sender.box->begin_offers();
  for (const Outbound& offered : sender.box->offer(1 << 20))
    ASSERT_EQ(next.box->adopt(sender.id, offered), Answer::kStored);
  link(next, receiver);
  next.box->on_custodian_up(custodian.id);
  EXPECT_EQ(entrust(next, custodian), std::vector(3, Answer::kStored));
  EXPECT_EQ(give_back(custodian, next, sender.id), std::vector(3, Answer::kDuplicate));
  EXPECT_TRUE(custodian.box->wards_of(sender.id).empty());
  EXPECT_EQ(custodian.box->wards_of(next.id).size(), 3U);
}

TEST_F(Guard, AnAckThatWaitsWhenItIsOfferedIsTheSuccessors) {
  send_three();
  Sequence acked = 0;
  EXPECT_FALSE(read(receiver, sender, "m1", &acked));
  sender.box->begin_offers();
  EXPECT_EQ(sender.box->offer(1 << 20).size(), 3U);
  (void)release(sender, custodian);
  EXPECT_TRUE(sender.box->take_recorded().empty());
  EXPECT_FALSE(sender.box->on_acked(kReceiver, acked));
  EXPECT_EQ(sender.box->books().outbox_live, 3U);
}

TEST_F(Guard, TheWardsOfANameThatIsGoneForEverAreForgotten) {
  send_three();
  custodian.box->forget_wards(kReceiver, {sender.id});
  custodian.box->forget_wards(kSender, {next.id});
  EXPECT_EQ(custodian.box->books().wards, 3U) << "of a pod that lives";
  custodian.box->forget_wards(kSender, {next.id, sender.id});
  EXPECT_EQ(custodian.box->books().wards, 0U);
  EXPECT_EQ(custodian.box->books().ward_bytes, 0U);
  custodian.start();
  EXPECT_EQ(custodian.box->books().wards, 0U);
}

TEST_F(Guard, GuardRefusesWhatIsWrong) {
  sender.box->on_custodian_up(custodian.id);
  link(sender, receiver);
  send(sender, "m1");
  const auto copies = sender.box->entrust(1 << 20);
  ASSERT_EQ(copies.size(), 1U);
  Outbound bad = copies[0];
  bad.sequence = 0;
  EXPECT_EQ(custodian.box->guard(sender.id, bad), Answer::kRefused);
  bad = copies[0];
  bad.origin = {};
  EXPECT_EQ(custodian.box->guard(sender.id, bad), Answer::kRefused);
  EXPECT_EQ(custodian.box->guard(LogId{}, copies[0]), Answer::kRefused);
  bad = copies[0];
  bad.prev = bad.sequence;
  EXPECT_EQ(custodian.box->guard(sender.id, bad), Answer::kRefused);
  bad.prev = bad.sequence + 1;
  EXPECT_EQ(custodian.box->guard(sender.id, bad), Answer::kGap);
  EXPECT_EQ(custodian.box->guard(custodian.id, copies[0]), Answer::kRefused);
  EXPECT_EQ(receiver.box->guard(sender.id, copies[0]), Answer::kRefused) << "it is the receiver";
  EXPECT_EQ(next.box->guard(sender.id, copies[0]), Answer::kRefused) << "it is the sender's name";
  EXPECT_EQ(custodian.box->guard(sender.id, copies[0]), Answer::kStored);
  EXPECT_EQ(custodian.box->guard(sender.id, copies[0]), Answer::kDuplicate);
  custodian.box->stop_intake();
  EXPECT_EQ(custodian.box->guard(next.id, copies[0]), Answer::kRefused) << "it drains";
  Pod plain{"worker-1", 7, {}};
  custodian.box->set_lost({{kSender, {sender.id}}});
  const auto given = custodian.box->give_back(kSender, plain.id, 1 << 20);
  ASSERT_EQ(given.size(), 1U);
  EXPECT_EQ(plain.box->take_back(custodian.name, given[0]), Answer::kRefused)
      << "with durability Pod it has entrusted nothing";
}

// Durability was set back to Pod meanwhile: what is in the custodian's own inbox goes back.
TEST_F(Guard, ASuccessorThatEntrustsNothingRefusesCopiesAlone) {
  send_three();
  Message m;
  m.id.value = "own";
  m.from = kSender;
  m.to = custodian.name;
  ASSERT_TRUE(sender.box->send(now, m));
  link(sender, custodian, false);
  ASSERT_EQ(carry(sender, custodian), std::vector{Answer::kStored});
  Pod plain{"worker-1", 7, {}};
  EXPECT_EQ(custodian.box->unreturned(kSender, {sender.id}), 4U);
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(give_back(custodian, plain, sender.id, 1), std::vector{Answer::kRefused});
  EXPECT_EQ(give_back(custodian, plain, sender.id, 1), std::vector{Answer::kStored});
  EXPECT_EQ(custodian.box->unreturned(kSender, {sender.id}), 0U);
  EXPECT_TRUE(give_back(custodian, plain, sender.id).empty()) << "once";
  EXPECT_EQ(give_back(custodian, next, sender.id), std::vector(4, Answer::kStored))
      << "another one may take them";
}

// ---- the node is lost at any moment of a life with lost answers, restarts and other custodians

struct AnyLife : Guard {
  enum class Said { kNothing, kAccepted, kRefused, kAcked };
  struct Known {
    Said said = Said::kNothing;
    bool read = false;            // its agent has acked it, whoever knows that
    bool may_come_again = false;  // acked while a former custodian had a copy
  };
  explicit AnyLife() : random(1) {}
  static bool has(const Pod& pod, const LogId& log, Sequence sequence) {
    const auto wards = pod.box->wards_of(log);
    return std::find(wards.begin(), wards.end(), sequence) != wards.end();
  }
  Pod& keeper() { return *keepers[current]; }
  Pod& former() { return *keepers[1 - current]; }
  void hear() {
    for (const auto& outcome : sender.box->take_outcomes()) {
      Known& known = all[outcome.sequence];
      if (outcome.error) {
        if (outcome.error->code != Code::kUnknown) known.said = Said::kRefused;
        continue;
      }
      known.said = Said::kAccepted;
      EXPECT_TRUE(known.read || has(keeper(), sender.id, outcome.sequence));
    }
    for (const Sequence sequence : sender.box->take_recorded()) recorded(sequence);
  }
  void recorded(Sequence sequence) {
    Known& known = all[sequence];
    known.said = Said::kAcked;
    for (const Pod* pod : keepers) {
      if (has(*pod, sender.id, sequence)) {
        known.may_come_again = true;
        EXPECT_TRUE(pod != keepers[current] || (lost_one && !linked))
            << "its copy was to be released first";
      }
    }
    for (const AckDebt& debt : receiver.box->ack_debts(kSender)) {
      if (debt.sender_sequence == sequence) receiver.box->on_ack_recorded(debt.inbox);
    }
  }
  void owe() {
    for (const AckDebt& debt : receiver.box->ack_debts(kSender)) {
      const bool done = sender.box->on_acked(kReceiver, debt.sender_sequence);
      hear();
      if (done) recorded(debt.sender_sequence);
    }
  }
  void up() {
    linked = true;
    sender.box->on_custodian_up(keeper().id);
    tell(keeper(), sender);
  }
  void down() {
    linked = false;
    sender.box->on_custodian_down();
  }
  void step() {
    switch (random.below(11)) {
      case 0:
      case 1:
        all[send(sender, "m" + std::to_string(all.size()))];
        break;
      case 2:
      case 3:
        for (const Outbound& copy : sender.box->entrust(200)) {
          if (random.chance(10)) break;  // it does not arrive
          const Answer answer = keeper().box->guard(sender.id, copy);
          if (random.chance(10)) break;  // nor the answer
          if (linked) sender.box->on_entrusted(keeper().id, copy.sequence, answer);
        }
        if (random.chance(20)) down();
        break;
      case 4:
      case 5:
        (void)carry(sender, receiver);
        break;
      case 6:
        for (const Sequence sequence : sender.box->take_releases(3)) {
          if (random.chance(10)) {
            down();
            break;
          }
          keeper().box->release(sender.id, sequence);
          if (linked) sender.box->on_entrusted(keeper().id, sequence, Answer::kFinished);
        }
        break;
      case 7:
        if (auto got = receiver.box->receive(now, kReceiver, Milliseconds{100'000}, {}); got) {
          (void)receiver.box->ack(now, kReceiver, got->message.id, got->attempt);
          std::next(all.begin(), std::stoi(got->message.id.value.substr(1)))->second.read = true;
        }
        owe();
        break;
      case 8:
        if (!all.empty()) {
          auto it = std::next(all.begin(), static_cast<long>(random.below(all.size())));
          if (it->second.said == Said::kNothing && sender.box->withdraw(it->first))
            it->second.said = Said::kRefused;
        }
        break;
      case 9:
        if (random.chance(30)) {
          sender.start();
          restarted = true;
          linked = false;
          link(sender, receiver);
          owe();
        } else if (random.chance(30)) {
          down();
          keeper().start();
        } else if (loses && random.chance(30)) {
          down();
          sender.box->on_custodian_lost();
          lost_one = true;
          current = 1 - current;
        } else if (random.chance(20)) {
          link(sender, receiver);
        }
        break;
      default:
        if (random.chance(20))
          tell(former(), sender);
        else if (!linked)
          up();
        break;
    }
    if (random.chance(80)) release_elsewhere(sender, former());  // else it has no link
    hear();
  }
  void live(std::uint64_t seed) {
    random = sim::Random(seed);
    loses = seed % 2 == 1;
    link(sender, receiver);
    up();
    for (int i = 0; i < 150; ++i) step();
    // Sender and receiver are gone.
    const bool whole = !lost_one || (!restarted && sender.box->books().single_copy == 0);
    for (Pod* pod : keepers) {
      for (int round = 0; round < 3; ++round) (void)give_back(*pod, next, sender.id);
      EXPECT_EQ(pod->box->books().wards, 0U);
    }
    link(next, fresh, false);
    while (!carry(next, fresh).empty()) {
    }
    std::set<Sequence> came;
    int before = -1;
    while (auto got = fresh.box->receive(now, kReceiver, Milliseconds{100'000}, {})) {
      const int number = std::stoi(got->message.id.value.substr(1));
      EXPECT_GT(number, before) << "in order, and once";
      before = number;
      came.insert(std::next(all.begin(), number)->first);
    }
    for (const auto& [sequence, known] : all) {
      const bool here = came.count(sequence) != 0;
      const bool lost = known.said == Said::kAccepted && !known.read && whole && !here;
      const bool again = known.said == Said::kAcked && !known.may_come_again && here;
      EXPECT_FALSE(lost) << sequence;
      EXPECT_FALSE(known.said == Said::kRefused && here) << sequence;
      EXPECT_FALSE(again) << sequence;
    }
    expect_books(sender);
    expect_books(next);
  }
  sim::Random random;
  std::map<Sequence, Known> all;
  std::array<Pod*, 2> keepers{&custodian, &other};
  std::size_t current = 0;
  bool linked = false, loses = false, lost_one = false, restarted = false;
};

// One world a seed.
TEST(AnyLives, NothingUnreadIsLostNothingAckedOrRefusedComes) {
  struct World : AnyLife {
    void TestBody() override {}
  };
  for (std::uint64_t seed = 1; seed <= 2000 && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    World world;
    world.live(seed);
  }
}

}  // namespace
}  // namespace swarm::mailbox
