#include "reconcile/queue.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <thread>

namespace swarm::reconcile {
namespace {

const Key kA{"n", "a"};
const Key kB{"n", "b"};
MonoTime at(std::int64_t ms) { return MonoTime(Milliseconds(ms)); }

TEST(WorkQueue, HoldsAKeyOnceAndHandsOutTheMostOverdue) {
  WorkQueue queue(1);
  queue.add(kB, at(10));
  queue.add(kA, at(5));
  queue.add(kA, at(50));
  EXPECT_EQ(queue.size(), 2U);
  EXPECT_EQ(queue.next_due(), at(5));
  EXPECT_EQ(queue.take(at(4)), std::nullopt);
  EXPECT_EQ(queue.take(at(60)), kA);
  EXPECT_EQ(queue.take(at(60)), kB);
  EXPECT_EQ(queue.take(at(60)), std::nullopt);
}

TEST(WorkQueue, AKeyBeingWorkedOnIsNotHandedOutTwiceButComesAgain) {
  WorkQueue queue(1);
  queue.add(kA, at(0));
  ASSERT_EQ(queue.take(at(0)), kA);
  queue.add(kA, at(1));
  EXPECT_EQ(queue.take(at(2)), std::nullopt);
  queue.done(kA);
  EXPECT_EQ(queue.take(at(2)), kA);
  queue.done(kA);
  EXPECT_EQ(queue.size(), 0U);
}

TEST(WorkQueue, BackoffDoublesWithJitterUpToItsLimitAndEventsDoNotShortenIt) {
  WorkQueue queue(7);
  MonoTime now = at(0);
  for (int i = 0; i < 20; ++i) {
    queue.urgent(kB, now);
    queue.failed(kA, now, std::nullopt);
    queue.add(kA, now);
    const Milliseconds full = std::min(kMaxBackoff, kFirstBackoff * (1 << std::min(i, 8)));
    queue.take(now);
    queue.done(kB);
    ASSERT_TRUE(queue.next_due());
    const Milliseconds wait = *queue.next_due() - now;
    EXPECT_GE(wait, full / 2);
    EXPECT_LE(wait, full);
    now = *queue.next_due();
    ASSERT_EQ(queue.take(now), kA);
    queue.done(kA);
  }
  EXPECT_EQ(queue.failures(kA), 20);
  queue.succeeded(kA);
  EXPECT_EQ(queue.failures(kA), 0);
}

TEST(WorkQueue, RetryAfterIsHonouredAndAPersonsChangeIsNotHeldUp) {
  WorkQueue queue(1);
  queue.failed(kA, at(0), Milliseconds{30'000});
  EXPECT_GE(*queue.next_due(), at(30'000));
  queue.urgent(kA, at(5));
  EXPECT_EQ(queue.take(at(5)), kA);
}

TEST(WorkQueue, ForgettingLeavesNothing) {
  WorkQueue queue(1);
  queue.failed(kA, at(0), std::nullopt);
  queue.forget(kA);
  EXPECT_EQ(queue.size(), 0U);
  EXPECT_EQ(queue.next_due(), std::nullopt);
  EXPECT_EQ(queue.failures(kA), 0);
}

// Property: whatever happens, a key that was added is handed out again after its last add, never to
// two takers.
TEST(WorkQueue, LosesNothingUnderRandomUse) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    std::mt19937_64 random(seed);
    WorkQueue queue(seed);
    std::set<Key> wanted, taken;
    MonoTime now = at(0);
    for (int step = 0; step < 300; ++step) {
      const Key key{"n", std::string(1, static_cast<char>('a' + random() % 4))};
      switch (random() % 5) {
        case 0:
          queue.add(key, now + Milliseconds(random() % 100));
          wanted.insert(key);
          break;
        case 1:
          queue.urgent(key, now);
          wanted.insert(key);
          break;
        case 2:
          if (taken.contains(key)) {
            queue.failed(key, now, std::nullopt);
            wanted.insert(key);
            queue.done(key);
            taken.erase(key);
          }
          break;
        case 3:
          if (taken.contains(key)) {
            queue.succeeded(key);
            queue.done(key);
            taken.erase(key);
          }
          break;
        default:
          now += Milliseconds(random() % 200);
          if (const auto got = queue.take(now)) {
            ASSERT_TRUE(taken.insert(*got).second) << "seed " << seed;
            ASSERT_EQ(wanted.erase(*got), 1U) << "seed " << seed;
          }
      }
    }
    for (const Key& key : taken) queue.done(key);
    while (const auto got = queue.take(now + Milliseconds(kMaxBackoff * 2))) {
      wanted.erase(*got);
      queue.done(*got);
    }
    ASSERT_TRUE(wanted.empty()) << "seed " << seed;
  }
}

TEST(SharedQueue, WakesForNewKeysDueKeysDeadlineAndStop) {
  SharedQueue queue(1);
  std::stop_source stop;
  EXPECT_EQ(queue.take(stop.get_token(), mono_now() + Milliseconds{5}), std::nullopt);
  queue.with([](WorkQueue& q) { q.add(kA, mono_now() + Milliseconds{20}); });
  EXPECT_EQ(queue.take(stop.get_token(), mono_now() + Milliseconds{5000}), kA);
  std::jthread adder([&] { queue.with([](WorkQueue& q) { q.add(kB, mono_now()); }); });
  EXPECT_EQ(queue.take(stop.get_token(), mono_now() + Milliseconds{5000}), kB);
  std::jthread stopper([&] { stop.request_stop(); });
  const MonoTime before = mono_now();
  EXPECT_EQ(queue.take(stop.get_token(), mono_now() + Milliseconds{30'000}), std::nullopt);
  EXPECT_LT(mono_now() - before, Milliseconds{10'000});
}

}  // namespace
}  // namespace swarm::reconcile
