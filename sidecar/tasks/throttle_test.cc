#include "tasks/throttle.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace swarm::tasks {
namespace {

const MonoTime kStart{Milliseconds{1'000'000}};

TEST(Throttle, OneAttemptAloneHoldsUpNobody) {
  Throttle t;
  for (int i = 0; i < 10; ++i) {
    t.on_try_later(kStart, kStart, 0);
    EXPECT_TRUE(t.may_hand_out(kStart)) << "others are done in between";
    t.on_done(kStart);
  }
}

TEST(Throttle, AWaveIsOneWait) {
  Throttle t;
  for (int i = 0; i < 100; ++i) t.on_try_later(kStart, kStart, 0);
  EXPECT_EQ(t.waits_until(kStart), kStart + kFirstWait) << "not longer for each";
  EXPECT_FALSE(t.may_hand_out(kStart + kFirstWait - Milliseconds{1}));
  t.on_done(kStart);  // begun before: it says nothing of the service as it is now
  EXPECT_FALSE(t.may_hand_out(kStart));
}

TEST(Throttle, AfterAWaitOneThenTwiceAsManyEachStep) {
  Throttle t;
  for (int i = 0; i < 2; ++i) t.on_try_later(kStart, std::nullopt, 0);
  MonoTime now = kStart + kFirstWait;
  std::vector<int> given;
  for (std::uint32_t step = 0; step < 4; ++step, now += kRampStep) {
    int n = 0;
    for (; t.may_hand_out(now); ++n) t.on_handed_out(now);
    given.push_back(n);
    EXPECT_EQ(t.next(now), now + kRampStep);
  }
  EXPECT_EQ(given, (std::vector{1, 1, 2, 4}));
  now = kStart + kFirstWait + kRampStep * kRampSteps;
  for (int n = 0; n < 5000; ++n, t.on_handed_out(now)) ASSERT_TRUE(t.may_hand_out(now));
}

TEST(Throttle, EachWaitIsLongerUntilOneIsDone) {
  Throttle t;
  std::mt19937_64 random(1);
  t.on_try_later(kStart, kStart, random());
  MonoTime now = kStart;
  Milliseconds longest{0};
  for (int i = 0; i < 12; ++i) {
    t.on_try_later(now, now, random());
    const auto until = t.waits_until(now);
    ASSERT_TRUE(until);
    EXPECT_GE(*until - now, kFirstWait);
    EXPECT_LE(*until - now, kMostWait);
    if (i >= 7) {
      EXPECT_GE(*until - now, kMostWait / 2);
    }
    longest =
        std::max<Milliseconds>(longest, std::chrono::duration_cast<Milliseconds>(*until - now));
    now = *until;
    ASSERT_TRUE(t.may_hand_out(now));
    t.on_handed_out(now);
  }
  EXPECT_GT(longest, kMostWait / 2);
  t.on_done(now);
  EXPECT_TRUE(t.may_hand_out(now));
  EXPECT_EQ(t.in_a_row(), 0U);
  for (int i = 0; i < 2; ++i) t.on_try_later(now, now, 0);
  EXPECT_EQ(*t.waits_until(now) - now, kFirstWait) << "from the beginning";
}

// Whatever comes in whatever order: nobody waits longer than kMostWait for a hand-out.
TEST(Throttle, NeverForEver) {
  std::mt19937_64 random(7);
  for (int world = 0; world < 300; ++world) {
    Throttle t;
    MonoTime now = kStart;
    std::vector<MonoTime> under_way;
    for (int i = 0; i < 300; ++i) {
      now += Milliseconds{static_cast<std::int64_t>(random() % 20'000)};
      if (random() % 2 == 0) {
        if (t.may_hand_out(now)) {
          t.on_handed_out(now);
          under_way.push_back(now);
        } else {
          const auto next = t.next(now);
          ASSERT_TRUE(next && *next > now && *next <= now + kMostWait);
          now = *next;
          ASSERT_TRUE(t.may_hand_out(now));
        }
      } else if (!under_way.empty()) {
        const auto at =
            under_way.begin() + static_cast<std::ptrdiff_t>(random() % under_way.size());
        if (random() % 3 == 0)
          t.on_done(*at);
        else
          t.on_try_later(now, *at, random());
        under_way.erase(at);
      }
    }
  }
}

}  // namespace
}  // namespace swarm::tasks
