// What senders, in the pod and elsewhere, meet while a receiver's pod is short of something, and
// afterwards.
#include "engine/linked_pods.h"

namespace swarm::engine {
namespace {

constexpr Milliseconds kShort{250};
constexpr const char* kWhy = "its pod is short of memory";

struct ShortPod : LinkedPods {
  using Sent = std::optional<Result<Mail::Accepted>>;
  mailbox::Message message(const std::string& from, const std::string& to, const std::string& id) {
    mailbox::Message m;
    m.id.value = id;
    m.from.value = from;
    m.to.value = to;
    m.body = "body";
    return m;
  }
  std::shared_ptr<Sent> begin(Pod& at, mailbox::Message m, Milliseconds timeout) {
    auto sent = std::make_shared<Sent>();
    at.mail->send(std::move(m), timeout,
                  [sent](Result<Mail::Accepted> outcome) { *sent = std::move(outcome); });
    return sent;
  }
  // "" or what the sender is told.
  std::string send(Pod& at, mailbox::Message m, Milliseconds timeout = kShort) {
    const auto sent = begin(at, std::move(m), timeout);
    EXPECT_TRUE(run_until([&] { return sent->has_value(); }));
    if (!*sent) return "no outcome";
    return **sent ? ""
                  : std::string(code_name((*sent)->error().code)) + ": " + (*sent)->error().message;
  }
  void tighten(Pod& pod, std::uint32_t inbox, std::size_t blocked = kMaxBlockedBytes) {
    pod.mail->set_room({inbox, blocked}, kWhy);
  }
  std::string read(Pod& at) {
    std::optional<Result<mailbox::Delivery>> got;
    at.mail->receive(at.config.name, kLong, kLong, std::nullopt, nullptr,
                     [&](Result<mailbox::Delivery> delivery) { got = std::move(delivery); });
    EXPECT_TRUE(run_until([&] { return got.has_value(); }));
    if (!got || !*got) return "-";
    const auto id = (*got)->message.id;
    std::optional<Status> acked;
    at.mail->ack(at.config.name, id, (*got)->attempt, kLong,
                 [&](const Status& status) { acked = status; });
    EXPECT_TRUE(run_until([&] { return acked.has_value(); }));
    EXPECT_TRUE(acked && *acked) << "acks do not wait";
    return id.value;
  }
  Pod one{net, "worker-1", 2, {}};
  Pod two{net, "worker-2", 3, {.limits = {.max_inbox_messages = 4}}};
};

TEST_F(ShortPod, KeepsWhatItHasAndRefusesWhatIsNewInWordsThatSayWhy) {
  for (const char* id : {"a", "b"}) ASSERT_EQ(send(one, message("worker-1", "worker-2", id)), "");
  ASSERT_EQ(send(two, message("worker-2", "worker-2", "c")), "");
  tighten(two, 2);
  const std::string words =
      "full: worker-2's inbox is full (3 messages, 2 of 4 allowed now: its pod is short of memory)";
  EXPECT_EQ(send(one, message("worker-1", "worker-2", "d")), words);
  EXPECT_EQ(send(two, message("worker-2", "worker-2", "e")), words);
  EXPECT_EQ(send(one, message("worker-1", "worker-2", "a")), "") << "accepted before";
  EXPECT_EQ(send(one, message("worker-1", "worker-1", "f")), "") << "the others' is their own";
  for (const char* id : {"a", "b", "c"}) EXPECT_EQ(read(two), id);
  EXPECT_EQ(send(one, message("worker-1", "worker-2", "g")), "") << "below what is allowed";
  EXPECT_EQ(read(two), "g");
  EXPECT_EQ(two.box.books().inbox_live, 0U);
}

TEST_F(ShortPod, TakesWhatHasWaitedAsSoonAsItHasRecovered) {
  tighten(two, 1);
  ASSERT_EQ(send(one, message("worker-1", "worker-2", "a")), "");
  const auto far = begin(one, message("worker-1", "worker-2", "b"), kLong);
  const auto near = begin(two, message("worker-2", "worker-2", "c"), kLong);
  EXPECT_FALSE(run_until([&] { return far->has_value() || near->has_value(); }, kShort));
  tighten(two, 4);
  two.io.restart();
  two.io.poll();
  EXPECT_TRUE(near->has_value()) << "it is not found out by looking again later";
  EXPECT_TRUE(run_until([&] { return far->has_value() && near->has_value(); }, Milliseconds{2000}));
  EXPECT_TRUE(*far && **far && *near && **near);
  EXPECT_EQ(send(one, message("worker-1", "worker-2", "d")), "");
  EXPECT_EQ(send(one, message("worker-1", "worker-2", "e")),
            "full: worker-2's inbox is full (4 of 4 messages)");
}

TEST_F(ShortPod, GetsTheRepliesThatItWaitsFor) {
  tighten(two, 1);
  ASSERT_EQ(send(two, message("worker-2", "worker-2", "filler")), "");
  Sent replied;
  two.mail->request(message("worker-2", "worker-1", "question"), kLong,
                    [&](Result<Mail::Accepted> outcome) { replied = std::move(outcome); });
  EXPECT_EQ(read(one), "question");
  auto reply = message("worker-1", "worker-2", "answer");
  reply.in_reply_to.value = "question";
  EXPECT_EQ(send(one, reply), "");
  ASSERT_TRUE(run_until([&] { return replied.has_value(); }));
  ASSERT_TRUE(*replied) << replied->error().message;
  EXPECT_EQ((*replied)->reply->message.id.value, "answer");
}

TEST_F(ShortPod, LetsFewerBodiesWait) {
  tighten(two, 1, 10);
  ASSERT_EQ(send(two, message("worker-2", "worker-2", "a")), "");
  const auto first = begin(two, message("worker-2", "worker-2", "b"), kLong);
  const auto second = begin(two, message("worker-2", "worker-2", "c"), kLong);
  const auto third = begin(two, message("worker-2", "worker-2", "d"), kLong);
  EXPECT_TRUE(third->has_value()) << "two bodies of four bytes wait already";
  EXPECT_FALSE(first->has_value() || second->has_value());
  EXPECT_EQ((**third).error().code, Code::kFull);
  EXPECT_NE((**third).error().message.find(kWhy), std::string::npos);
}

TEST_F(ShortPod, IsSaidToRefuseMailWhenItGoesOnDoingSo) {
  for (const char* id : {"a", "b", "c", "d"})
    ASSERT_EQ(send(one, message("worker-1", "worker-2", id)), "");
  const std::string words = "worker-2's inbox is full (4 of 4 messages)";
  EXPECT_EQ(send(one, message("worker-1", "worker-2", "e")), "full: " + words);
  EXPECT_EQ(two.mail->pressed(mono_now()), "") << "once is ordinary backpressure";
  tighten(two, 1);
  const auto give_up = mono_now() + 3 * kPressedAfter;
  while (two.mail->pressed(mono_now()).empty() && mono_now() < give_up)
    EXPECT_NE(send(two, message("worker-2", "worker-2", "f")), "");
  EXPECT_EQ(two.mail->pressed(mono_now()), words) << "the first ones";
  EXPECT_EQ(two.mail->pressed(mono_now() + kPressedFor), "");
  EXPECT_EQ(one.mail->pressed(mono_now()), "") << "who sends is not short of anything";
}

TEST(Refusals, AreSaidWhileTheyGoOn) {
  Refusals refusals;
  const MonoTime start{Milliseconds{1'000'000}};
  EXPECT_EQ(refusals.pressed(start), "");
  refusals.note(start, "full");
  EXPECT_EQ(refusals.pressed(start + kPressedAfter), "") << "a burst";
  refusals.note(start + kPressedAfter, "still full");
  EXPECT_EQ(refusals.pressed(start + kPressedAfter), "full");
  EXPECT_EQ(refusals.pressed(start + kPressedAfter + kPressedFor - Milliseconds{1}), "full");
  EXPECT_EQ(refusals.pressed(start + kPressedAfter + kPressedFor), "");
  refusals.note(start + kPressedAfter + kPressedFor, std::string(1000, 'x'));
  EXPECT_EQ(refusals.pressed(start + kPressedAfter + kPressedFor), "") << "it begins anew";
  refusals.note(start + 2 * kPressedAfter + kPressedFor, "y");
  EXPECT_EQ(refusals.pressed(start + 2 * kPressedAfter + kPressedFor),
            std::string(kMaxPressedBytes, 'x'));
}

}  // namespace
}  // namespace swarm::engine
