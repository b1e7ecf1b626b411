// Bodies that several messages of one call share: one record in the sender's log.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "log/bytes.h"
#include "mailbox/mailbox.h"
#include "mailbox/records.h"
#include "sim/fake_directory.h"
#include "sim/random.h"

namespace swarm::mailbox {
namespace {

using sim::Random;

constexpr std::uint32_t kSegment = 4096;
constexpr std::uint64_t kLogBytes = 8192 + 64 * kSegment;
constexpr std::uint64_t kCall = 7;
const AgentName kSelf{"worker-0"};

LogId log_id(std::uint8_t n) {
  LogId id;
  id.bytes.fill(n);
  return id;
}
AgentName worker(std::uint64_t n) { return {"worker-" + std::to_string(n)}; }
Message message(const std::string& id, const AgentName& to, const std::string& body) {
  Message m;
  m.id.value = id;
  m.from = kSelf;
  m.to = to;
  m.body = body;
  return m;
}

struct Sharing : ::testing::Test {
  Sharing() { start(); }
  void start(const Limits& limits = {}, bool durable = false) {
    box.reset();
    log.reset();
    log::Recovery recovery;
    kinds.clear();
    box = std::make_unique<Mailbox>(kSelf, limits);
    auto opened = log::Log::open(
        directory, {.max_bytes = kLogBytes, .segment_bytes = kSegment, .durable = durable},
        log_id(9),
        [&](const log::Record& r) {
          ++kinds[r.kind];
          box->restore(r);
        },
        &recovery);
    ASSERT_TRUE(opened);
    log = *std::move(opened);
    box->attach(*log, now, recovery.corrupt_records > 0);
  }
  void link(std::uint64_t n) {
    box->on_link_up(now, worker(n), log_id(static_cast<std::uint8_t>(n)));
  }
  std::vector<Outbound> transmit(std::uint64_t n) { return box->transmit(worker(n), 1 << 20); }
  void answer(std::uint64_t n, Sequence sequence, Answer answer) {
    box->on_answer(now, worker(n), log_id(static_cast<std::uint8_t>(n)), sequence, answer, "");
  }
  // What the log has after a restart.
  std::uint64_t bodies() {
    EXPECT_TRUE(log->commit());
    start();
    return kinds[kBody];
  }
  std::uint64_t live_bytes() {
    EXPECT_TRUE(log->commit());
    return log->stats().live_bytes;
  }
  MonoTime now{Milliseconds{1000}};
  sim::FakeDirectory directory{4 << 20};
  std::map<std::uint8_t, std::uint64_t> kinds;  // records found by the last start
  std::unique_ptr<log::Log> log;
  std::unique_ptr<Mailbox> box;
  const std::string body = std::string(1000, 'b');
};

TEST(SharedCodec, HasNoPlaceOnALinkAndNothingIsCutShort) {
  for (const bool streamed : {false, true}) {
    Message m = message("id", worker(1), std::string(300, 'x'));
    if (streamed) m.stream = {{"s"}, 3, StreamPart::Mark::kEnd};
    const std::string bytes = encode_shared(77, m);
    const auto back = decode_outbox(bytes);
    ASSERT_TRUE(back);
    EXPECT_EQ(back->body, 77U);
    EXPECT_EQ(back->body_bytes, 300U);
    Message whole = back->message;
    EXPECT_TRUE(whole.body.empty());
    whole.body = m.body;
    EXPECT_EQ(whole, m);
    EXPECT_FALSE(decode(bytes));
    EXPECT_FALSE(decode_outbound(1, 0, bytes));
    for (std::size_t n = 0; n < bytes.size(); ++n)
      EXPECT_FALSE(decode_outbox(std::string_view(bytes).substr(0, n))) << n;
    EXPECT_FALSE(decode_outbox(bytes + "x"));
    EXPECT_FALSE(decode_outbox(encode_shared(0, m))) << "no record has sequence 0";
    m.body.resize(log::kMaxPayloadBytes + 1);
    EXPECT_FALSE(decode_outbox(encode_shared(77, m))) << "no record is so long";
  }
}

// docs/log-format.md
TEST(SharedCodec, BytesAreWhatTheDocumentSays) {
  const Message m = message("id", worker(1), std::string(300, 'x'));
  std::string wanted("\x04\x4d\0\0\0\0\0\0\0", 9);
  wanted += encode(m).substr(0, encode(m).size() - 300);
  EXPECT_EQ(encode_shared(77, m), wanted);
}

TEST_F(Sharing, TheLogHoldsTheBodyOnceAndEachReceiverGetsItWhole) {
  for (std::uint64_t n = 1; n <= 9; ++n)
    ASSERT_TRUE(box->send(now, message("m-0123456789abcdef", worker(n), body), kCall));
  EXPECT_LT(live_bytes(), body.size() + 9 * 128);
  for (const bool restarted : {false, true}) {
    if (restarted) {
      EXPECT_EQ(bodies(), 1U);
    }
    for (std::uint64_t n = 1; n <= 9; ++n) {
      link(n);
      const auto sent = transmit(n);
      ASSERT_EQ(sent.size(), 1U);
      EXPECT_EQ(sent[0].message, message("m-0123456789abcdef", worker(n), body));
    }
    EXPECT_EQ(box->list(kSelf)[0].bytes, body.size());
    const auto seen = box->look(kSelf, {"m-0123456789abcdef"});
    ASSERT_TRUE(seen);
    EXPECT_EQ(seen->message.body, body);
  }
  box->begin_offers();
  const auto offered = box->offer(1 << 20);
  ASSERT_EQ(offered.size(), 9U);
  for (const auto& out : offered) EXPECT_EQ(out.message.body, body);
}

TEST_F(Sharing, ACustodianGetsItWhole) {
  start({.entrust = true});
  for (std::uint64_t n = 1; n <= 2; ++n) {
    box->on_link_up(now, worker(n), log_id(static_cast<std::uint8_t>(n)), true);
    ASSERT_TRUE(box->send(now, message("a", worker(n), body), kCall));
  }
  box->on_custodian_up(log_id(8));
  const auto copies = box->entrust(1 << 20);
  ASSERT_EQ(copies.size(), 2U);
  for (const auto& copy : copies) EXPECT_EQ(copy.message.body, body);
}

TEST_F(Sharing, OnlyWhatIsLargeEnoughOfOneCallAndNoReply) {
  const std::string least(kLeastSharedBytes, 'x'), small(kLeastSharedBytes - 1, 'x');
  int id = 0;
  const auto both = [&](const std::string& text, std::uint64_t share, bool reply) {
    const std::string name = "a" + std::to_string(++id);
    for (std::uint64_t n = 1; n <= 2; ++n) {
      Message m = message(name, worker(n), text);
      if (reply) m.in_reply_to.value = "question";
      EXPECT_TRUE(box->send(now, m, share));
    }
    return bodies();
  };
  EXPECT_EQ(both(small, 1, false), 0U);
  EXPECT_EQ(both(least, 0, false), 0U);
  EXPECT_EQ(both(least, 2, true), 0U);
  EXPECT_EQ(both(least, 3, false), 1U);
  EXPECT_EQ(both(least, 4, false), 2U);
  // To a neighbour in its own inbox.
  ASSERT_TRUE(box->send(now, message("l", kSelf, body), 5));
  EXPECT_EQ(bodies(), 2U);
}

TEST_F(Sharing, TheBodyGoesWithItsLastReceiverAndTheNextGetsANewOne) {
  const auto send = [&](std::uint64_t n) {
    const auto sent = box->send(now, message("a", worker(n), body), kCall);
    EXPECT_TRUE(sent);
    return sent->sequence;
  };
  const Sequence one = send(1), two = send(2);
  EXPECT_TRUE(box->on_acked(worker(1), one));
  ASSERT_TRUE(log->commit());
  link(2);
  EXPECT_EQ(transmit(2)[0].message.body, body);
  const auto three = send(3);
  EXPECT_EQ(three, two + 2) << "an id and itself: the body is there";
  EXPECT_TRUE(box->on_acked(worker(2), two));
  EXPECT_TRUE(box->on_acked(worker(3), three));
  EXPECT_EQ(box->books().sent_bytes, 0U);
  ASSERT_TRUE(log->commit());
  const auto four = send(4);  // it has waited for room
  EXPECT_EQ(four, three + 3);
  link(4);
  EXPECT_EQ(transmit(4)[0].message.body, body);
  answer(4, four, Answer::kRefused);
  EXPECT_EQ(box->books().sent_bytes, 0U);
  EXPECT_EQ(bodies(), 0U);
}

TEST_F(Sharing, ABodyWithoutAMessageEndsWithTheNextStart) {
  ASSERT_TRUE(log->append(kBody, body));
  EXPECT_EQ(bodies(), 1U);
  EXPECT_EQ(bodies(), 0U);
}

// Of a later release, say, which may need any of the bodies.
TEST_F(Sharing, ABodyStaysWhileSomeRecordInTheOutboxIsNotUnderstood) {
  ASSERT_TRUE(box->send(now, message("a", worker(1), body), kCall));
  ASSERT_TRUE(log->append(kOutbox, "\x09of the next release"));
  EXPECT_EQ(bodies(), 1U);
  const auto listed = box->list(kSelf);
  link(1);
  const auto sent = transmit(1);
  ASSERT_EQ(sent.size(), 1U);
  EXPECT_TRUE(box->on_acked(worker(1), sent[0].sequence));
  EXPECT_EQ(box->books().sent_bytes, 0U);
  EXPECT_EQ(bodies(), 1U);
  EXPECT_EQ(bodies(), 1U);
}

TEST_F(Sharing, ABodyStaysWithWhatWasHandedOver) {
  ASSERT_TRUE(box->send(now, message("a", worker(1), body), kCall));
  box->begin_offers();
  const auto offered = box->offer(1 << 20);
  ASSERT_EQ(offered.size(), 1U);
  box->on_offer_answer(offered[0].sequence, Answer::kStored);
  EXPECT_EQ(box->books().sent_bytes, 0U);
  EXPECT_EQ(bodies(), 1U);
  EXPECT_EQ(bodies(), 1U);
}

// What its records say of it is believed by nobody.
TEST_F(Sharing, ADamagedBodyMakesItsMessagesDamagedOnes) {
  const auto lost = [&](const std::string& id, const std::function<void()>& damage) {
    for (std::uint64_t n = 1; n <= 2; ++n)
      ASSERT_TRUE(box->send(now, message(id, worker(n), id + body), kCall));
    ASSERT_TRUE(log->commit());
    damage();
    EXPECT_EQ(box->look(kSelf, {id}).error().code, Code::kCorrupt) << id;
    for (std::uint64_t n = 1; n <= 2; ++n) {
      link(n);
      EXPECT_TRUE(transmit(n).empty()) << id;
    }
    const auto outcomes = box->take_outcomes();
    ASSERT_EQ(outcomes.size(), 2U) << id;
    for (const auto& outcome : outcomes) EXPECT_EQ(outcome.error->code, Code::kUnknown);
    EXPECT_EQ(box->books().outbox_live, 0U);
    EXPECT_EQ(box->books().sent_bytes, 0U);
  };
  const auto flip = [&](const std::string& what) {
    const std::vector<std::string> names = *directory.list();
    for (const std::string& name : names) {
      std::string& bytes = *directory.content(name);
      const auto at = bytes.find(what);
      if (name.starts_with("seg") && at != std::string::npos) bytes[at] = '#';
    }
  };
  lost("hit", [&] { flip("hitbbb"); });
  lost("hit-and-restarted", [&] {
    flip("hit-and-restartedbbb");
    start();
  });
  start();
  // Records that nobody here wrote: of another length, of another kind, none.
  const auto forged = [&](Sequence of, const char* id) {
    ASSERT_TRUE(log->append(kOutbox, encode_shared(of, message(id, worker(3), body))));
  };
  forged(*log->append(kBody, "short"), "short");
  forged(*log->append(kUserId, "other"), "other");
  forged(1, "gone");
  forged(1'000'000, "none");
  ASSERT_TRUE(log->commit());
  start();
  EXPECT_EQ(box->books().outbox_live, 4U);
  link(3);
  EXPECT_TRUE(transmit(3).empty());
  EXPECT_EQ(box->books().outbox_live, 0U);
  EXPECT_EQ(box->books().sent_bytes, 0U);
  EXPECT_EQ(bodies(), 0U);
}

TEST_F(Sharing, AFailedWriteLeavesNothingOfACall) {
  for (const std::uint64_t write : {1U, 2U, 3U}) {  // of the id, the body, the message
    directory.fail_in(write);
    EXPECT_EQ(box->send(now, message("a", worker(1), body), kCall).error().code, Code::kFull);
    ASSERT_TRUE(log->commit());
    EXPECT_EQ(log->stats().live_records, 0U) << write;
    EXPECT_EQ(box->books().sent_bytes, 0U);
  }
  EXPECT_TRUE(box->send(now, message("a", worker(1), body), kCall));
  EXPECT_EQ(bodies(), 1U);
}

TEST_F(Sharing, AReceiverGetsNoMoreThanWhatIsLeft) {
  start({.max_sent_bytes = 60'000});
  // Each call has five receivers, whose mail is the same.
  std::uint64_t calls = 0;
  const auto all = [&] {
    ++calls;
    for (std::uint64_t n = 1; n <= 5; ++n) {
      const auto sent =
          box->send(now, message("c" + std::to_string(calls), worker(n), body), calls);
      if (!sent) return sent.error().message;
    }
    return std::string();
  };
  std::string why;
  while ((why = all()).empty()) {
  }
  EXPECT_EQ(calls, 10U);
  EXPECT_LE(box->books().sent_bytes, 60'000U);
  EXPECT_EQ(why, "the outbox for worker-3 is full (9 KiB, half of what others leave of 58: 19)");
  EXPECT_TRUE(box->send(now, message("x", worker(9), body))) << "another has room";
  // Several to one receiver count as often.
  directory.wipe();
  start({.max_sent_bytes = 60'000});
  Result<Mailbox::Sent> sent{Mailbox::Sent{}};
  for (int n = 0; sent; ++n)
    sent = box->send(now, message("s" + std::to_string(n), worker(8), body), kCall);
  EXPECT_EQ(sent.error().message,
            "the outbox for worker-8 is full (28 KiB, half of what others leave of 58: 58)");
}

// What a pod has accepted its successor has room for, though it stores each message whole.
TEST_F(Sharing, ASuccessorHasRoomForAllOfIt) {
  const Limits limits{.max_sent_bytes = kLogBytes / 8 * 3};
  start(limits);
  const std::string large(1900, 'l');
  std::size_t accepted = 0, calls = 0;
  for (bool more = true; more; ++calls) {
    for (std::uint64_t n = 1; n <= 10; ++n) {
      more =
          bool(box->send(now, message("c" + std::to_string(calls), worker(n), large), calls + 1));
      if (!more) break;
      ++accepted;
    }
  }
  EXPECT_GT(accepted, 30U);
  sim::FakeDirectory other{4 << 20};
  Mailbox next(kSelf, limits);
  auto opened = log::Log::open(
      other, {.max_bytes = kLogBytes, .segment_bytes = kSegment}, log_id(5),
      [](const log::Record&) {}, nullptr);
  ASSERT_TRUE(opened);
  next.attach(**opened, now, false);
  box->begin_offers();
  std::size_t handed_over = 0;
  for (auto offered = box->offer(1 << 20); !offered.empty(); offered = box->offer(1 << 20)) {
    for (const Outbound& one : offered) {
      const Answer answer = next.adopt(log->id(), one);
      ASSERT_EQ(answer, Answer::kStored) << handed_over;
      box->on_offer_answer(one.sequence, answer);
      ++handed_over;
    }
  }
  EXPECT_EQ(handed_over, accepted);
}

// The sum that the limit is about is that of whole messages, as a successor stores them, whatever
// becomes of them; and nothing is left of it in the end. (That no receiver's sum falls below 0 the
// mailbox checks itself.)
TEST_F(Sharing, BytesAddUpWhateverHappens) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    directory.wipe();
    const Limits limits{.max_outbox_messages = 8,
                        .max_sent_bytes = random.chance(50) ? 4000 + random.below(20'000) : 0};
    start(limits);
    struct Sent {
      std::uint64_t to = 0, call = 0;
      std::string body;
    };
    std::map<Sequence, Sent> sent;
    std::map<std::uint64_t, std::string> bodies_of;
    const auto expected = [&] {
      std::uint64_t sum = 0;
      for (const auto& [sequence, s] : sent) {
        const Message m = message("m-" + std::to_string(sequence), worker(s.to), s.body);
        // Generated ids are 18 long.
        const std::uint64_t own = encode(m).size() - m.id.value.size() + 18 - s.body.size();
        const bool shared = s.call != 0 && s.body.size() >= kLeastSharedBytes;
        sum += own + (shared ? 9 : 0) + s.body.size();
      }
      return sum;
    };
    std::uint64_t calls = 0, ids = 0;
    for (int step = 0; step < 200; ++step) {
      const std::size_t what = random.below(100);
      if (what < 50) {
        if (calls == 0 || random.chance(30)) {
          ++calls;
          bodies_of[calls] = std::string(200 + random.below(800), 'x');
        }
        const std::uint64_t to = 1 + random.below(6);
        const std::uint64_t call = random.chance(20) ? 0 : calls;
        char id[32];
        std::snprintf(id, sizeof id, "m-%016llx", static_cast<unsigned long long>(++ids));
        const auto result = box->send(now, message(id, worker(to), bodies_of[calls]), call);
        if (result) sent[result->sequence] = {to, call, bodies_of[calls]};
      } else if (what < 90 && !sent.empty()) {
        auto it = std::next(sent.begin(), static_cast<std::ptrdiff_t>(random.below(sent.size())));
        const auto& [sequence, s] = *it;
        bool gone = true;
        if (random.chance(30)) {
          gone = box->withdraw(sequence);
        } else if (random.chance(30)) {
          link(s.to);
          for (const auto& out : transmit(s.to)) {
            EXPECT_EQ(out.message.body, sent.at(out.sequence).body);
            answer(s.to, out.sequence, Answer::kStored);
          }
          gone = false;
        } else {
          (void)box->on_acked(worker(s.to), sequence);
        }
        if (gone) sent.erase(it);
      } else if (what < 96) {
        ASSERT_TRUE(log->commit());
      } else {
        ASSERT_TRUE(log->commit());
        start(limits);
        // A number of a former life says nothing; a body in the log is counted once all the same.
        ++calls;
        bodies_of[calls] = "small";
      }
      ASSERT_EQ(box->books().sent_bytes, expected()) << step;
    }
    for (const auto& [sequence, s] : sent) EXPECT_TRUE(box->on_acked(worker(s.to), sequence));
    EXPECT_EQ(box->books().sent_bytes, 0U);
    ASSERT_TRUE(log->commit());
    EXPECT_EQ(log->stats().live_records, 0U);
  }
}

// A crash at any write of its end, or a loss of power, leaves no message without its body.
void life_and_end(Sharing& at, sim::FakeDirectory& directory, bool durable, Random& random) {
  directory.wipe();
  at.start({}, durable);
  const std::uint64_t receivers = 1 + random.below(4);
  std::vector<Sequence> sent;
  for (std::uint64_t n = 1; n <= receivers; ++n) {
    const auto s = at.box->send(at.now, message("m-0123456789abcdef", worker(n), at.body), kCall);
    ASSERT_TRUE(s);
    sent.push_back(s->sequence);
    if (random.chance(30)) {
      ASSERT_TRUE(at.log->commit());
    }
  }
  ASSERT_TRUE(at.log->commit());
  if (random.chance(20)) {
    directory.fail_in(1 + random.below(4));
  } else if (random.chance(60)) {
    directory.crash_in(1 + random.below(4 * receivers));
  }
  for (std::uint64_t n = 1; n <= receivers; ++n) {
    (void)at.box->on_acked(worker(n), sent[n - 1]);
    if (random.chance(40)) (void)at.log->commit();
  }
  if (random.chance(50)) (void)at.log->commit();
  if (random.chance(50)) (void)at.log->commit();
  at.box.reset();
  at.log.reset();
  if (durable && random.chance(70))
    directory.power_loss(random);
  else
    directory.restart(nullptr);
  at.start({}, durable);
  for (std::uint64_t n = 1; n <= receivers; ++n) {
    at.link(n);
    for (const auto& out : at.transmit(n)) EXPECT_EQ(out.message.body, at.body);
  }
  EXPECT_TRUE(at.box->take_outcomes().empty()) << "a message without its body";
}

TEST_F(Sharing, NoCrashLeavesAMessageWithoutItsBody) {
  for (std::uint64_t seed = 1; seed <= 2000 && !HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    life_and_end(*this, directory, false, random);
  }
}
TEST_F(Sharing, NoLossOfPowerLeavesAMessageWithoutItsBody) {
  directory.keep_undo(false);
  directory.keep_unsynced();
  for (std::uint64_t seed = 1; seed <= 2000 && !HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    life_and_end(*this, directory, true, random);
  }
}

}  // namespace
}  // namespace swarm::mailbox
