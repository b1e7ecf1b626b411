#include "tasks/throttle.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace swarm::tasks {
namespace {

const MonoTime kStart{Milliseconds{1'000'000}};

// Five workers; try-later number n is of task n on worker n.
struct Team {
  void later(MonoTime now, std::optional<MonoTime> since, std::uint64_t random = 0) {
    ++n;
    later_of(now, since, n, n, random);
  }
  void later_of(MonoTime now, std::optional<MonoTime> since, int task, int worker,
                std::uint64_t random = 0, std::size_t workers = 5) {
    t.on_try_later(now, since, TaskId{"t-0-" + std::to_string(task)},
                   AgentName{"worker-" + std::to_string(worker)}, workers, random);
  }
  int n = 0;
  Throttle t;
};

TEST(Throttle, WhatOthersDoBetweenThemTellsThatItIsNotTheService) {
  Team team;
  for (int i = 0; i < 10; ++i) {
    team.later(kStart, kStart);
    EXPECT_TRUE(team.t.may_hand_out(kStart));
    team.t.on_done(kStart);
  }
}

TEST(Throttle, OneTaskOrOneWorkerHoldsUpNobody) {
  Team team;
  for (int i = 0; i < 10; ++i) team.later_of(kStart, kStart, 1, i);
  EXPECT_TRUE(team.t.may_hand_out(kStart)) << "one task";
  team = {};
  for (int i = 0; i < 10; ++i) team.later_of(kStart, kStart, i, 1);
  EXPECT_TRUE(team.t.may_hand_out(kStart)) << "one worker of several";
  for (int i = 0; i < 2; ++i) team.later_of(kStart, kStart, i, 1, 0, 1);
  EXPECT_FALSE(team.t.may_hand_out(kStart)) << "the only one";
}

TEST(Throttle, AWaveIsOneWait) {
  Team team;
  for (int i = 0; i < 100; ++i) team.later(kStart, kStart);
  EXPECT_EQ(team.t.waits_until(kStart), kStart + kFirstWait) << "not longer for each";
  EXPECT_EQ(team.t.in_a_row(), 2U) << "what was begun before says nothing new";
  EXPECT_FALSE(team.t.may_hand_out(kStart + kFirstWait - Milliseconds{1}));
  team.t.on_done(kStart);  // begun before: it says nothing of the service as it is now
  EXPECT_FALSE(team.t.may_hand_out(kStart));
}

TEST(Throttle, AfterAWaitOneThenTwiceAsManyEachStep) {
  Team team;
  Throttle& t = team.t;
  for (int i = 0; i < 2; ++i) team.later(kStart, std::nullopt);
  MonoTime now = kStart + kFirstWait;
  std::vector<int> given;
  for (std::uint32_t step = 0; step < 4; ++step, now += kRampStep) {
    int n = 0;
    for (; t.may_hand_out(now); ++n) t.on_handed_out(now);
    given.push_back(n);
    EXPECT_TRUE(t.limits(now));
    EXPECT_EQ(t.next(now), now + kRampStep);
  }
  EXPECT_EQ(given, (std::vector{1, 1, 2, 4}));
  now = kStart + kFirstWait + kRampStep * kRampSteps;
  EXPECT_FALSE(t.limits(now));
  for (int n = 0; n < 5000; ++n, t.on_handed_out(now)) ASSERT_TRUE(t.may_hand_out(now));
}

TEST(Throttle, EachWaitIsLongerUntilOneIsDone) {
  Team team;
  Throttle& t = team.t;
  std::mt19937_64 random(1);
  MonoTime now = kStart;
  std::vector<std::int64_t> waits;
  for (int i = 0; i < 12; ++i) {
    for (int n = 0; n < 2; ++n) team.later(now, now, random());
    const auto until = t.waits_until(now);
    ASSERT_TRUE(until);
    EXPECT_GE(*until - now, kFirstWait);
    EXPECT_LE(*until - now, kMostWait);
    waits.push_back((*until - now).count());
    now = *until;
    ASSERT_TRUE(t.may_hand_out(now));
    t.on_handed_out(now);
  }
  for (std::size_t i = 7; i < waits.size(); ++i) EXPECT_GE(waits[i], kMostWait.count() / 2);
  t.on_done(kStart);
  for (int n = 0; n < 2; ++n) team.later(now, now, 0);
  EXPECT_LE(*t.waits_until(now) - now, 2 * kFirstWait) << "one begun before it was done after all";
  now = *t.waits_until(now);
  t.on_done(now);
  EXPECT_TRUE(t.may_hand_out(now));
  EXPECT_EQ(t.in_a_row(), 0U);
  for (int n = 0; n < 2; ++n) team.later(now, now);
  EXPECT_EQ(*t.waits_until(now) - now, kFirstWait) << "from the beginning";
}

TEST(Throttle, AfterAQuietTimeTheNextWaitIsAShortOne) {
  Team team;
  MonoTime now = kStart;
  for (int i = 0; i < 12; ++i) {
    for (int n = 0; n < 2; ++n) team.later(now, now);
    now = *team.t.waits_until(now);
  }
  now += kForgetAfter;
  for (int n = 0; n < 2; ++n) team.later(now, now);
  EXPECT_EQ(*team.t.waits_until(now) - now, kFirstWait);
}

// Whatever comes in whatever order: nobody waits longer than kMostWait for a hand-out.
TEST(Throttle, NeverForEver) {
  std::mt19937_64 random(7);
  for (int world = 0; world < 300; ++world) {
    Team team;
    Throttle& t = team.t;
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
          team.later(now, *at, random());
        under_way.erase(at);
      }
    }
  }
}

}  // namespace
}  // namespace swarm::tasks
