// Sender, successor and receiver over real links: what only shows with sockets between them.
#include "engine/handover.h"

#include "engine/linked_pods.h"

namespace swarm::engine {
namespace {

constexpr std::size_t kMessages = 200;
constexpr mailbox::Limits kLimits{.max_outbox_messages = kMessages};

struct Handovers : LinkedPods {
  void send(Pod& from, const std::string& id) {
    std::optional<Result<Mail::Accepted>> answer;
    mailbox::Message message;
    message.id.value = id;
    message.from = from.config.name;
    message.to.value = "worker-2";
    message.body = std::string(1000, 'b');
    from.mail->send(message, kLong, [&](Result<Mail::Accepted> sent) { answer = std::move(sent); });
    ASSERT_TRUE(run_until([&] { return answer.has_value(); }));
    ASSERT_TRUE(*answer) << answer->error().message;
  }
  void send_all(Pod& from) {
    for (std::size_t i = 0; i < kMessages; ++i) send(from, id(i));
  }
  // `pod` drains, hands everything over and ends.
  void end(std::unique_ptr<Pod>& pod) {
    pod->drain();
    ASSERT_TRUE(run_until([&] { return pod->handover->left() == 0; }));
    ASSERT_EQ(pod->box.books().handed_over, kMessages);
    pod.reset();
  }
  // `pod` is gone without a word, and the receiver's link with it.
  void lose(std::unique_ptr<Pod>& pod) {
    pod.reset();
    ASSERT_TRUE(run_until([&] { return !receiver->inbound.at(0)->up(); }));
  }
  std::unique_ptr<Pod> pod(const std::string& name, std::uint8_t number) {
    return std::make_unique<Pod>(net, name, number, Pod::Kind{kLimits});
  }
  std::unique_ptr<Pod> receiver = pod("worker-2", 2), old = pod("worker-1", 3);
};

TEST_F(Handovers, SenderThenReceiverReplacedAndEachMessageIsReadOnce) {
  send_all(*old);
  auto next = pod("worker-1", 4);
  end(old);
  EXPECT_EQ(next->box.books().adopted, kMessages);
  ASSERT_TRUE(run_until([&] { return next->box.books().single_copy == 0; }));
  EXPECT_EQ(receiver->box.books().single_copy, 0U);
  EXPECT_EQ(receive(*receiver), id(0));
  const auto [status, took] = ack(*receiver, id(0));
  EXPECT_TRUE(status) << status.error().message;
  EXPECT_LT(took, Silence::kAckPatience) << "the keeper has recorded it";
  EXPECT_EQ(next->box.books().outbox_live, kMessages - 1);

  receiver.reset();
  const auto fresh = pod("worker-2", 5);
  for (std::size_t i = 1; i < kMessages; ++i) {
    ASSERT_EQ(receive(*fresh), id(i));
    ASSERT_TRUE(ack(*fresh, id(i)).first);
  }
  EXPECT_EQ(next->box.books().outbox_live, 0U);
  EXPECT_EQ(fresh->box.books().inbox_live + fresh->box.books().dead_live, 0U);
}

TEST_F(Handovers, AnAckInTheMiddleOfItIsRecordedByWhoeverHasTheMessageThen) {
  send_all(*old);
  EXPECT_EQ(receive(*receiver), id(0));
  auto next = pod("worker-1", 4);
  old->drain();
  const auto [status, took] = ack(*receiver, id(0));
  EXPECT_TRUE(status) << status.error().message;
  ASSERT_TRUE(run_until([&] { return old->handover->left() == 0; }));
  old.reset();
  ASSERT_TRUE(run_until([&] { return next->box.books().outbox_live == kMessages - 1; }));
  receiver.reset();
  const auto fresh = pod("worker-2", 5);
  EXPECT_EQ(receive(*fresh), id(1)) << "the first one was acked";
}

TEST_F(Handovers, TheSuccessorMayComeLate) {
  send_all(*old);
  old->drain();
  EXPECT_FALSE(run_until([&] { return old->handover->left() == 0; }, Milliseconds{600}));
  EXPECT_EQ(old->handover->left(), kMessages);
  const auto next = pod("worker-1", 4);
  EXPECT_TRUE(run_until([&] { return old->handover->left() == 0; }));
  EXPECT_EQ(next->box.books().adopted, kMessages);
}

TEST_F(Handovers, ASuccessorOfTheReleaseBeforeTakesNothing) {
  send_all(*old);
  const Pod next(net, "worker-1", 4, {.limits = kLimits, .knows_offers = false});
  old->drain();
  EXPECT_TRUE(run_until([&] { return old->handover->left() == 0; })) << "given up";
  EXPECT_EQ(old->box.books().outbox_live, kMessages) << "and kept";
  EXPECT_EQ(old->box.books().handed_over, 0U);
}

TEST_F(Handovers, NobodyElseMayHandOver) {
  const auto stranger = pod("worker-7", 4);
  const auto next = pod("worker-1", 5);
  mailbox::Outbound offered{5, 0, {}, {stranger->log->id(), 5}};
  offered.message.id.value = "m";
  offered.message.from.value = "worker-1";
  offered.message.to.value = "worker-2";
  std::string payload;
  link::put_u64(payload, offered.sequence);
  link::put_u64(payload, offered.prev);
  payload += mailbox::encode(offered);
  std::optional<int> answer;
  Session::Events events;
  events.ready = [&](Session& session) { session.send(link::FrameType::kHandover, payload); };
  events.frame = [&](Session&, const link::Frame& frame) {
    if (frame.type == link::FrameType::kHanded && frame.payload.size() == 9)
      answer = static_cast<unsigned char>(frame.payload[8]);
  };
  events.closed = [](Session&, const Error&) {};
  const auto& to = net.where.at({"worker-1"});
  const auto session =
      Session::connect(stranger->loop, {boost::asio::ip::make_address(to.address), to.port},
                       stranger->options, to.expect, std::move(events));
  ASSERT_TRUE(run_until([&] { return answer.has_value(); }));
  EXPECT_EQ(*answer, static_cast<int>(mailbox::Answer::kRefused));
  EXPECT_EQ(next->box.books().adopted, 0U);
  session->close(unavailable("done"));
}

// ---- a sender's pod that is gone without a word

TEST_F(Handovers, WhatAVanishedPodHasSentIsGivenBackAndOutlivesTheReceiver) {
  send_all(*old);
  old.reset();
  ASSERT_TRUE(run_until([&] { return receiver->box.books().single_copy == kMessages; }))
      << "it says so, whether there is a successor or not";
  const auto next = pod("worker-1", 4);
  const auto ready = mono_now();
  ASSERT_TRUE(run_until([&] {
    return next->box.books().adopted == kMessages &&
           next->box.books().single_copy + receiver->box.books().single_copy == 0;
  }));
  EXPECT_LT(mono_now() - ready, Milliseconds{10'000});
  EXPECT_EQ(receive(*receiver), id(0));
  const auto [status, took] = ack(*receiver, id(0));
  EXPECT_TRUE(status) << status.error().message;
  EXPECT_LT(took, Silence::kAckPatience) << "the keeper has recorded it";

  receiver.reset();
  const auto fresh = pod("worker-2", 5);
  for (std::size_t i = 1; i < kMessages; ++i) {
    ASSERT_EQ(receive(*fresh), id(i));
    ASSERT_TRUE(ack(*fresh, id(i)).first);
  }
  EXPECT_EQ(next->box.books().outbox_live, 0U);
  EXPECT_EQ(fresh->box.books().inbox_live + fresh->box.books().dead_live, 0U);
}

TEST_F(Handovers, ASuccessorWithoutRoomIsAskedAgain) {
  send_all(*old);
  old.reset();
  mailbox::Limits small = kLimits;
  small.max_kept = kMessages - 1;
  const Pod next(net, "worker-1", 4, {small});
  ASSERT_TRUE(run_until([&] { return next.box.books().adopted == kMessages - 1; }));
  ASSERT_TRUE(run_until([&] { return receiver->box.books().single_copy == 1; }));
  EXPECT_EQ(receive(*receiver), id(0));
  EXPECT_TRUE(ack(*receiver, id(0)).first);
  EXPECT_TRUE(run_until([&] { return receiver->box.books().single_copy == 0; }));
  EXPECT_EQ(next.box.books().adopted, kMessages);
}

TEST_F(Handovers, AFullSuccessorIsOfferedOneMessageAtATime) {
  send_all(*old);
  old.reset();
  mailbox::Limits none = kLimits;
  none.max_kept = 0;
  const Pod next(net, "worker-1", 4, {none});
  ASSERT_TRUE(run_until([&] { return next.offers > 0; }));
  EXPECT_FALSE(run_until([&] { return false; }, Milliseconds{500}));
  const auto batch = next.offers;
  EXPECT_GT(batch, 10U);
  EXPECT_FALSE(run_until([&] { return next.offers > batch + 2; }, 4 * kGiveBackAgain))
      << "after 1 s, and after 2 s more";
  EXPECT_GT(next.offers, batch);
}

TEST_F(Handovers, ADrainingReceiverGivesBackFirst) {
  send(*old, "m1");
  lose(old);
  receiver->drain();
  EXPECT_EQ(receiver->mail->to_give_back(), 1U) << "before its sender counts as lost";
  const auto next = pod("worker-1", 4);
  ASSERT_TRUE(run_until([&] { return receiver->mail->to_give_back() == 0; }));
  EXPECT_EQ(next->box.books().adopted, 1U);
  receiver.reset();
  const auto fresh = pod("worker-2", 5);
  EXPECT_EQ(receive(*fresh), "m1");
}

TEST_F(Handovers, ADrainWaitsForNoNameThatNobodyHas) {
  send(*old, "m1");
  lose(old);
  net.where.erase({"worker-1"});
  receiver->drain();
  ASSERT_TRUE(run_until([&] { return receiver->mail->to_give_back() == 0; }));
  EXPECT_EQ(receiver->box.books().single_copy, 1U);
}

TEST_F(Handovers, WhoseLinksADrainClosesIsNotLost) {
  send(*old, "m1");
  ASSERT_TRUE(run_until([&] { return receiver->inbound.size() == 1; }));
  receiver->drain();
  EXPECT_FALSE(run_until(
      [&] {
        return receiver->box.books().single_copy + receiver->mail->to_give_back() > 0 ||
               !old->inbound.empty();
      },
      2 * kLostAfter));
}

TEST_F(Handovers, AReplacedReceiverThatComesBackGivesNothingBack) {
  send(*old, "m1");
  old.reset();
  const auto fresh = pod("worker-2", 5);  // its name leads there from now on
  const auto next = pod("worker-1", 4);
  EXPECT_FALSE(run_until([&] { return next->box.books().adopted > 0; }, 4 * kLostAfter));
  EXPECT_EQ(receiver->box.unreturned({"worker-1"}, receiver->box.senders().at({"worker-1"})), 0U)
      << "it was refused";
}

TEST_F(Handovers, ASuccessorOfTheReleaseBeforeIsGivenNothingBack) {
  send(*old, "m1");
  old.reset();
  const Pod next(net, "worker-1", 4, {.limits = kLimits, .knows_offers = false});
  ASSERT_TRUE(run_until([&] { return receiver->box.books().single_copy == 1; }));
  ASSERT_TRUE(run_until([&] { return next.inbound.size() > std::size_t{kMaxUnheardOffers}; }));
  EXPECT_FALSE(run_until([&] { return next.inbound.size() > std::size_t{kMaxUnheardOffers} + 1; },
                         Milliseconds{2000}))
      << "its link stays when it is not asked any more";
  EXPECT_EQ(next.box.books().adopted, 0U);
  EXPECT_EQ(receive(*receiver), "m1");
}

TEST_F(Handovers, NothingIsGivenBackToWhoIsThereAfterAll) {
  send(*old, "m1");
  ASSERT_TRUE(run_until([&] { return receiver->inbound.size() == 1; }));
  receiver->inbound[0]->close(unavailable("a broken link"));
  EXPECT_FALSE(run_until([&] { return receiver->box.books().single_copy > 0; }, 2 * kLostAfter));
  EXPECT_EQ(old->box.books().adopted, 0U);
}

TEST_F(Handovers, AnAckIsOkWhenItsSenderWasReplacedAndNobodyKeepsTheMessage) {
  send(*old, "m1");
  send(*old, "m2");
  EXPECT_EQ(receive(*receiver), "m1");
  EXPECT_EQ(receive(*receiver), "m2");
  old.reset();
  const auto next = pod("worker-1", 4);
  const auto [first, patience] = ack(*receiver, "m1");
  EXPECT_TRUE(first) << first.error().message;
  EXPECT_GE(patience, Silence::kAckPatience);
  EXPECT_LT(patience, Milliseconds{5000});
  const auto [second, at_once] = ack(*receiver, "m2");
  EXPECT_TRUE(second);
  EXPECT_LT(at_once, Milliseconds{500});
  EXPECT_EQ(receiver->box.ack_debts({"worker-1"}).size(), 2U) << "somebody may keep them yet";
}

}  // namespace
}  // namespace swarm::engine
