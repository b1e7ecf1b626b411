#include "engine/mail.h"

#include <gtest/gtest.h>

#include "engine/pod_fixture.h"

namespace swarm::engine {
namespace {

constexpr Milliseconds kLong{20'000};

TEST(Silence, LastsUntilSomebodyIsGone) {
  const MonoTime t{Milliseconds{1'000'000}};
  const auto hour = Milliseconds{3'600'000}, minute = Milliseconds{60'000};
  Silence silence;
  EXPECT_FALSE(silence.gone(t + 2 * hour)) << "nobody was looked for";
  silence.failed(t, Code::kNotFound);
  EXPECT_EQ(silence.patience_ends(), t + Silence::kAckPatience) << "it is not there";
  silence.failed(t + minute, Code::kNotFound);
  EXPECT_EQ(silence.patience_ends(), t + Silence::kAckPatience);
  EXPECT_FALSE(silence.gone(t + 9 * minute));
  EXPECT_TRUE(silence.gone(t + 10 * minute)) << "its coordinator has said so all the time";
  silence.failed(t + 9 * minute, Code::kUnavailable);  // nobody could be asked
  EXPECT_EQ(silence.patience_ends(), std::nullopt);
  EXPECT_FALSE(silence.gone(t + 10 * minute)) << "a pause";
  silence.failed(t + 12 * minute, Code::kUnavailable);
  silence.failed(t + 15 * minute, Code::kNotFound);
  EXPECT_EQ(silence.patience_ends(), t + 15 * minute + Silence::kAckPatience);
  EXPECT_FALSE(silence.gone(t + 23 * minute)) << "1 min before the pause, 8 min after it";
  EXPECT_TRUE(silence.gone(t + 24 * minute));
  silence.failed(t + 24 * minute, Code::kUnknown);  // it was found, and not reached
  EXPECT_FALSE(silence.gone(t + 24 * minute));
  silence.failed(t + 25 * minute, Code::kNotFound);
  EXPECT_FALSE(silence.gone(t + 34 * minute)) << "anew";
  EXPECT_TRUE(silence.gone(t + 35 * minute));
  silence.failed(t + 34 * minute, Code::kUnknown);
  EXPECT_FALSE(silence.gone(t + hour - minute));
  EXPECT_TRUE(silence.gone(t + hour)) << "for whatever reason";
}

TEST(Silence, EndsCopiesThatAreKeptAfterADay) {
  const MonoTime t{Milliseconds{1'000'000}};
  const auto hour = Milliseconds{3'600'000};
  Silence silence;
  EXPECT_FALSE(silence.ends_wards(t + 48 * hour)) << "nobody was looked for";
  for (int minutes = 0; minutes < 24 * 60; minutes += 5) {
    silence.failed(t + Milliseconds{minutes * 60'000}, Code::kNotFound);
    EXPECT_FALSE(silence.ends_wards(t + Milliseconds{minutes * 60'000}));
  }
  EXPECT_TRUE(silence.gone(t + hour)) << "long before";
  EXPECT_TRUE(silence.ends_wards(t + 24 * hour));
}

struct Acks : PodFixture {
  explicit Acks(const mailbox::Limits& limits = {}) : PodFixture(1, limits) {}
  // A message of worker-9 that an agent has taken.
  MessageId take(std::uint64_t sequence) {
    LogId sender;
    sender.bytes[0] = 9;
    mailbox::Message message;
    message.id.value = "m" + std::to_string(sequence);
    message.from.value = "worker-9";
    message.to = config.name;
    EXPECT_EQ(box.deliver(mono_now(), sender, sequence, 0, message), mailbox::Answer::kStored);
    EXPECT_TRUE(box.receive(mono_now(), config.name, kLong, std::nullopt));
    return message.id;
  }
  // The answer to an ack, and how long it took.
  std::pair<Status, Milliseconds> ack(const MessageId& id, std::uint16_t attempt,
                                      Milliseconds timeout, const AgentName& from = {}) {
    const auto begin = mono_now();
    std::optional<Status> answer;
    mail->ack(
        config.name, id, attempt, timeout, [&](const Status& status) { answer = status; }, from);
    while (!answer && mono_now() - begin < kLong) {
      io.restart();
      io.run_for(Milliseconds{5});
    }
    return {answer.value_or(internal_error("no answer")), mono_now() - begin};
  }
  std::function<void(const AgentName&, Located)> locate = [](const AgentName& name,
                                                             const Located& done) {
    done(not_found(name.value + " is not connected now"));
  };
  std::unique_ptr<Mail> mail = std::make_unique<Mail>(
      loop, box, config, Session::Options{},
      [this](const AgentName& name, Located done) { locate(name, std::move(done)); });
};

TEST_F(Acks, AreOkThoughTheSenderIsGone) {
  const auto [first, patience] = ack(take(1), 1, kLong);
  EXPECT_TRUE(first) << first.error().message;
  EXPECT_LT(patience, Milliseconds{5000});
  const auto [second, at_once] = ack(take(2), 1, kLong);
  EXPECT_TRUE(second) << second.error().message;
  EXPECT_LT(at_once, Milliseconds{500}) << "it is known to be silent";
  EXPECT_EQ(box.ack_creditors().size(), 1U) << "its pod is told when it comes back";
  EXPECT_FALSE(box.receive(mono_now(), config.name, kLong, std::nullopt)) << "nothing comes again";
  EXPECT_EQ(ack({"m1"}, 2, kLong).first.error().code, Code::kDenied);
  EXPECT_EQ(ack({"m3"}, 1, kLong).first.error().code, Code::kNotFound);
}

TEST_F(Acks, AreUnknownWhenNobodyAnswersInTime) {
  locate = [](const AgentName&, const Located&) {};
  const auto [status, took] = ack(take(1), 1, Milliseconds{300});
  EXPECT_EQ(status.error().code, Code::kUnknown);
  EXPECT_GE(took, Milliseconds{300});
}

TEST_F(Acks, NamesBeyondThoseThatAreRememberedAreNotLookedForWithoutAPause) {
  constexpr std::uint64_t kNames = kMaxPeerLinks + 50;
  std::size_t looks = 0;
  locate = [&](const AgentName&, const Located& done) {
    ++looks;
    done(not_found("not connected now"));
  };
  for (std::uint64_t i = 1; i <= kNames; ++i) {
    mailbox::Message message;
    message.id.value = "m" + std::to_string(i);
    message.from.value = "worker-" + std::to_string(1000 + i);
    message.to = config.name;
    LogId sender;
    sender.bytes = {static_cast<std::uint8_t>(i), static_cast<std::uint8_t>(1 + i / 256)};
    ASSERT_EQ(box.deliver(mono_now(), sender, i, 0, message), mailbox::Answer::kStored);
    ASSERT_TRUE(box.receive(mono_now(), config.name, kLong, std::nullopt));
    mail->ack(config.name, message.id, 1, kLong, [](const Status&) {});
  }
  const auto end = mono_now() + Milliseconds{1000};
  while (mono_now() < end && looks < 20 * kNames) {
    io.restart();
    io.run_for(Milliseconds{5});
  }
  EXPECT_GE(looks, kNames);
  EXPECT_LT(looks, 10 * kNames) << "each name has its pause, which doubles";
}

TEST_F(Acks, ASendOfTheSameIdToOneselfIsADuplicate) {
  mailbox::Message message;
  message.id.value = "note";
  message.from = message.to = config.name;
  std::vector<std::pair<std::string, bool>> said;
  for (int i = 0; i < 2; ++i) {
    mail->send(message, kLong, [&](const Result<Mail::Accepted>& accepted) {
      ASSERT_TRUE(accepted);
      said.emplace_back(accepted->survives, accepted->duplicate);
    });
  }
  EXPECT_EQ(said,
            (std::vector<std::pair<std::string, bool>>{{"container", false}, {"container", true}}));
}

TEST_F(Acks, OfAReplyAreUnknownThoughTheReplyIsAccepted) {
  locate = [](const AgentName&, const Located&) {};
  mailbox::Message reply;
  reply.id.value = "r";
  reply.from = reply.to = config.name;
  reply.in_reply_to = take(1);
  std::optional<Result<Mail::Accepted>> answer;
  mail->reply(reply, 1, kLong, Milliseconds{100},
              [&](const Result<Mail::Accepted>& accepted) { answer = accepted; });
  for (const auto begin = mono_now(); !answer && mono_now() - begin < kLong;) {
    io.restart();
    io.run_for(Milliseconds{5});
  }
  ASSERT_TRUE(answer && *answer && (*answer)->acked);
  EXPECT_EQ((*answer)->acked->error().code, Code::kUnknown);
  EXPECT_EQ(box.books().acked, 1U);
}

// Sends of worker-0 to itself, whose inbox takes two messages.
struct Blocked : Acks {
  Blocked() : Acks({.max_inbox_messages = 2, .max_outbox_messages = 2}) {}
  void send(const std::string& id, Milliseconds timeout = kLong, std::size_t bytes = 1) {
    mailbox::Message message;
    message.id.value = id;
    message.from = message.to = config.name;
    message.body.assign(bytes, 'x');
    mail->send(message, timeout, [this, id](const Result<Mail::Accepted>& accepted) {
      said += id + (accepted ? "" : ":" + std::string(code_name(accepted.error().code))) + " ";
    });
  }
  void read_one() {
    const auto got = box.receive(mono_now(), config.name, kLong, std::nullopt);
    ASSERT_TRUE(got);
    read += got->message.id.value + " ";
    mail->ack(config.name, got->message.id, got->attempt, kLong, [](const Status&) {});
    io.restart();
    io.poll();
  }
  void wait_for(const std::string& text) {
    for (const auto begin = mono_now(); said != text && mono_now() - begin < kLong;) {
      io.restart();
      io.run_for(Milliseconds{5});
    }
    EXPECT_EQ(said, text);
  }
  std::string said, read;
};

TEST_F(Blocked, SendsWaitForRoomInTheirOrder) {
  for (const char* id : {"a", "b", "c", "d"}) send(id);
  EXPECT_EQ(said, "a b ");
  read_one();
  EXPECT_EQ(said, "a b c ");
  send("e");
  read_one();
  EXPECT_EQ(said, "a b c d ");
  read_one();
  EXPECT_EQ(said, "a b c d e ");
  for (int i = 0; i < 2; ++i) read_one();
  EXPECT_EQ(read, "a b c d e ");
  EXPECT_FALSE(box.receive(mono_now(), config.name, kLong, std::nullopt));
}

TEST_F(Blocked, AReplyThatWaitsForRoomAcksItsQuestionOnceItHasIt) {
  for (const char* id : {"q", "x"}) send(id);
  ASSERT_EQ(box.receive(mono_now(), config.name, kLong, std::nullopt)->message.id.value, "q");
  mailbox::Message reply;
  reply.from = reply.to = config.name;
  reply.in_reply_to.value = "q";
  std::string acked;
  const auto answer = [&](const std::string& id, Milliseconds timeout) {
    reply.id.value = id;
    mail->reply(reply, 1, timeout, kLong, [&acked, id](const Result<Mail::Accepted>& accepted) {
      acked += id + (!accepted ? ":refused " : *accepted->acked ? ":acked " : ":not-acked ");
    });
  };
  answer("late", Milliseconds{0});
  answer("r", kLong);
  EXPECT_EQ(acked, "late:refused ");
  EXPECT_EQ(box.books().acked, 0U) << "nobody has accepted an answer to it";
  read_one();
  EXPECT_EQ(acked, "late:refused r:acked ");
  EXPECT_EQ(box.books().acked, 2U);
}

TEST_F(Blocked, SendsAreRefusedAtTheirDeadlineAndWhoeverWaitsLongerGoesOn) {
  for (const char* id : {"a", "b"}) send(id);
  send("c", Milliseconds{50});
  send("d");
  send("e", Milliseconds{0});
  EXPECT_EQ(said, "a b e:full ");
  wait_for("a b e:full c:full ");
  read_one();
  EXPECT_EQ(said, "a b e:full c:full d ");
}

TEST_F(Blocked, WhatIsKnownIsAnsweredAtOnceThoughOthersWait) {
  for (const char* id : {"a", "b", "c"}) send(id);
  send("a", Milliseconds{0});
  EXPECT_EQ(said, "a b a ");
  send("c");
  EXPECT_EQ(said, "a b a c:unknown ") << "the newer call has its place";
  read_one();
  EXPECT_EQ(said, "a b a c:unknown c ");
}

TEST_F(Blocked, RepliesDoNotWaitBehindMessages) {
  const auto to_other = [&](const std::string& id, const std::string& question) {
    mailbox::Message message;
    message.id.value = id;
    message.from = config.name;
    message.to.value = "worker-9";
    message.in_reply_to.value = question;
    mail->send(message, kLong, [](const Result<Mail::Accepted>&) {});
  };
  for (const char* id : {"a", "b", "c"}) to_other(id, "");
  EXPECT_EQ(box.books().outbox_live, 2U);
  to_other("r", "q");
  EXPECT_EQ(box.books().outbox_live, 3U);
}

TEST_F(Blocked, NothingIsSentAfterItsDeadline) {
  for (const char* id : {"a", "b"}) send(id);
  send("c", Milliseconds{1});
  for (const auto begin = mono_now(); mono_now() - begin < Milliseconds{5};) {
  }
  read_one();
  EXPECT_EQ(said, "a b c:full ");
}

TEST_F(Blocked, NoneWaitsInAPodThatEnds) {
  for (const char* id : {"a", "b", "c"}) send(id);
  mail->stop_blocking();
  send("d");
  EXPECT_EQ(said, "a b c:unavailable d:full ");
}

TEST_F(Acks, FreeTheOtherMessageOfTheirIdForWhoeverWaits) {
  const MessageId id = take(1);
  LogId other;
  other.bytes[0] = 8;
  mailbox::Message message;
  message.id = id;
  message.from.value = "worker-8";
  message.to = config.name;
  ASSERT_EQ(box.deliver(mono_now(), other, 1, 0, message), mailbox::Answer::kStored);
  std::string got;
  mail->receive(config.name, kLong, kLong, std::nullopt, this,
                [&](const Result<mailbox::Delivery>& delivery) {
                  got = delivery ? delivery->message.from.value : delivery.error().message;
                });
  EXPECT_EQ(got, "") << "two of one id are never out at once";
  EXPECT_EQ(ack(id, 1, kLong).first.error().code, Code::kInvalid) << "whose?";
  (void)ack(id, 1, kLong, {"worker-9"});
  EXPECT_EQ(got, "worker-8");
}

TEST_F(Blocked, RejectDoesNotWait) {
  config.reject_when_full = true;
  for (const char* id : {"a", "b", "c"}) send(id);
  EXPECT_EQ(said, "a b c:full ");
}

TEST_F(Blocked, BodiesThatWaitAreLimited) {
  for (const char* id : {"a", "b"}) send(id);
  const std::size_t bytes = mailbox::Limits{}.max_message_bytes;
  for (std::size_t i = 0; i < kMaxBlockedBytes / bytes; ++i) send(std::to_string(i), kLong, bytes);
  EXPECT_EQ(said, "a b ");
  send("more");
  EXPECT_EQ(said, "a b more:full ");
  read_one();
  EXPECT_EQ(said, "a b more:full 0 ");
  send("again");
  EXPECT_EQ(said, "a b more:full 0 ") << "it waits";
}

struct DeadLetters : Acks {
  // A message of worker-9 whose attempts are all used.
  MessageId give_up(std::uint64_t sequence) {
    const MessageId id = take(sequence);
    for (std::uint16_t attempt = 1;; ++attempt) {
      EXPECT_TRUE(box.nack(mono_now(), config.name, id, attempt, {}));
      if (!box.receive(mono_now(), config.name, kLong, std::nullopt)) return id;
    }
  }
};

TEST_F(DeadLetters, ARedriveWakesWhoeverWaits) {
  const MessageId id = give_up(1);
  std::optional<mailbox::Delivery> got;
  mail->receive(config.name, kLong, kLong, std::nullopt, nullptr,
                [&](const Result<mailbox::Delivery>& delivery) {
                  ASSERT_TRUE(delivery);
                  got = *delivery;
                });
  EXPECT_EQ(mail->redrive(config.name, {"m7"}).error().code, Code::kNotFound);
  EXPECT_FALSE(got);
  ASSERT_TRUE(mail->redrive(config.name, id));
  ASSERT_TRUE(got) << "at once";
  EXPECT_EQ(got->attempt, 6);
  EXPECT_TRUE(got->redelivered);
  EXPECT_EQ(ack(id, 5, kLong).first.error().code, Code::kDenied) << "an ack from before";
  EXPECT_TRUE(ack(id, 6, kLong).first);
}

TEST_F(DeadLetters, APurgeIsOwedToTheSendersPod) {
  const MessageId id = give_up(1);
  EXPECT_EQ(mail->purge(config.name, {"m7"}).error().code, Code::kNotFound);
  ASSERT_TRUE(mail->purge(config.name, id));
  EXPECT_EQ(box.books().dead_live, 0U);
  EXPECT_EQ(box.ack_debts({"worker-9"}).size(), 1U) << "told when it is back";
  EXPECT_EQ(mail->purge(config.name, id).error().code, Code::kNotFound);
}

TEST_F(DeadLetters, AllOfThemInCallsOfBoundedLength) {
  constexpr std::uint32_t kLetters = kMaxDeadPerCall + 3;
  for (std::uint64_t i = 1; i <= kLetters; ++i) (void)give_up(i);
  ASSERT_EQ(box.books().dead_live, kLetters);
  auto swept = mail->redrive_all(config.name);
  EXPECT_EQ(swept.done, kMaxDeadPerCall);
  EXPECT_EQ(swept.left, 3U);
  ASSERT_EQ(box.dead_letters(config.name, 9).size(), 3U);
  EXPECT_EQ(box.dead_letters(config.name, 1)[0].id.value, "m" + std::to_string(kMaxDeadPerCall + 1))
      << "the oldest first";
  swept = mail->purge_all(config.name);
  EXPECT_EQ(swept.done, 3U);
  EXPECT_EQ(swept.failed, 0U);
  EXPECT_EQ(swept.left, 0U);
  EXPECT_EQ(mail->purge_all(config.name).done, 0U);
  EXPECT_EQ(box.books().inbox_live, kMaxDeadPerCall);
  EXPECT_EQ(box.ack_debts({"worker-9"}).size(), 3U);
}

TEST_F(DeadLetters, OneThatCannotGoBackIsCountedAndStopsNoOther) {
  const MessageId damaged = give_up(1), good = give_up(2);
  const auto names = *directory.list();
  for (const std::string& name : names) {
    std::string& bytes = *directory.content(name);
    if (const auto at = bytes.find(damaged.value + "worker-9"); at != std::string::npos)
      bytes[at] = 'M';
  }
  const auto swept = mail->redrive_all(config.name);
  EXPECT_EQ(swept.done, 1U);
  EXPECT_EQ(swept.failed, 1U);
  EXPECT_EQ(swept.left, 1U);
  EXPECT_EQ(box.dead_letters(config.name, 9)[0].id, damaged);
  EXPECT_TRUE(box.receive(mono_now(), config.name, kLong, std::nullopt));
}

TEST_F(Acks, OfTheSameAttemptTwiceAreBothAnswered) {
  locate = [](const AgentName&, const Located&) {};
  const auto id = take(1);
  std::optional<Status> first;
  mail->ack(config.name, id, 1, kLong, [&](const Status& status) { first = status; });
  EXPECT_FALSE(first);
  EXPECT_EQ(ack(id, 1, Milliseconds{200}).first.error().code, Code::kUnknown);
  ASSERT_TRUE(first) << "the newer call gets the answer, the older one learns so";
  EXPECT_EQ(first->error().code, Code::kUnknown);
}

TEST_F(Acks, AreNotOkBecauseTheCoordinatorIsBeingReplaced) {
  const auto gone = locate;
  locate = [](const AgentName&, const Located& done) {
    done(unavailable("the coordinator is being replaced"));
  };
  const auto id = take(1);
  const auto [status, took] = ack(id, 1, 2 * Silence::kAckPatience);
  ASSERT_FALSE(status) << "its sender may be well";
  EXPECT_EQ(status.error().code, Code::kUnknown);
  EXPECT_EQ(status.error().message,
            "acknowledged here, and it does not come again from this pod; worker-9's pod has not "
            "recorded it yet");
  EXPECT_GE(took, 2 * Silence::kAckPatience);
  EXPECT_FALSE(box.receive(mono_now(), config.name, kLong, std::nullopt));
  EXPECT_EQ(ack(id, 1, Milliseconds{200}).first.error().code, Code::kUnknown) << "asked again";
  locate = gone;
  EXPECT_TRUE(ack(id, 1, kLong).first);
}

}  // namespace
}  // namespace swarm::engine
