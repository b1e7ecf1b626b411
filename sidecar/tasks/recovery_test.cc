#include "tasks/recovery.h"

#include <gtest/gtest.h>

#include <random>

#include "tasks/tasks.h"

namespace swarm::tasks {
namespace {

constexpr MonoTime kStart{Milliseconds(50000)};
constexpr Milliseconds kMs{1};

Expected worker(int n, const std::string& pod = "p") {
  return {AgentName{"worker-" + std::to_string(n)}, pod};
}
TaskId task(std::size_t n) { return TaskId{"t-0-" + std::to_string(n)}; }

TEST(Gathering, EndsWhenEverybodyHasCome) {
  Gathering g(kStart, std::set{worker(0), worker(1)});
  EXPECT_FALSE(g.done(kStart, false));
  g.came(worker(0));
  EXPECT_FALSE(g.done(kStart, false));
  g.came(worker(1));
  EXPECT_TRUE(g.done(kStart, false));
  EXPECT_FALSE(g.awaits(kStart, false));
  EXPECT_TRUE(Gathering(kStart, std::set<Expected>{}).done(kStart, false));
}

TEST(Gathering, WhoeverStaysAwayIsWaitedForAndAwaitedToALimit) {
  const Gathering g(kStart, std::set{worker(0)});
  EXPECT_FALSE(g.done(kStart + kRecoveryLimit - kMs, false));
  EXPECT_TRUE(g.done(kStart + kRecoveryLimit, false));
  EXPECT_TRUE(g.awaits(kStart + Milliseconds{30000}, false)) << "stopped, and goes on";
  EXPECT_TRUE(g.awaits(kStart + kAwaitLimit - kMs, false));
  EXPECT_FALSE(g.awaits(kStart + kAwaitLimit, false));
  EXPECT_TRUE(g.refuses_ids(kStart + kRefuseIdsLimit - kMs, false));
  EXPECT_FALSE(g.refuses_ids(kStart + kRefuseIdsLimit, false));
}

TEST(Gathering, WhoeverCannotBeReachedIsNotWaitedForButAwaited) {
  Gathering g(kStart, std::set{worker(0), worker(1)});
  g.unreachable(worker(0));
  g.unreachable(worker(7));  // nobody expects it: does not stand for another
  EXPECT_FALSE(g.done(kStart, false));
  g.unreachable(worker(1));
  EXPECT_TRUE(g.done(kStart, false));
  EXPECT_TRUE(g.awaits(kStart, false));
  g.reachable(worker(1));
  EXPECT_FALSE(g.done(kStart, false));
  g.came(worker(0));
  g.came(worker(1));
  EXPECT_TRUE(g.done(kStart, false));
  EXPECT_FALSE(g.awaits(kStart, false));
}

TEST(Gathering, ATransferThatMakesProgressIsNotCutOffButHasAnEnd) {
  Gathering g(kStart, std::set{worker(0)});
  MonoTime now = kStart;
  for (; now + kRecoveryLimit < kStart + kMaxRecovery; now += kRecoveryLimit - kMs) {
    g.heard(now);
    EXPECT_FALSE(g.done(now + kRecoveryLimit - kMs, true));
    EXPECT_TRUE(g.awaits(now + kRecoveryLimit - kMs, true));
  }
  EXPECT_TRUE(g.done(now + kRecoveryLimit, true)) << "it stalls";
  g.heard(kStart + kMaxRecovery);
  EXPECT_TRUE(g.done(kStart + kMaxRecovery, true)) << "it takes too long";
}

TEST(Gathering, ALogThatIsKnownToBeCompleteNeedsNobody) {
  Takeover t{.epoch = 5, .log_epoch = 4, .report_epoch = 4, .reported = {worker(0)}};
  EXPECT_TRUE(Gathering(kStart, t).done(kStart, false));
  EXPECT_FALSE(Gathering(kStart, t).awaits(kStart, false));
  EXPECT_FALSE(Gathering(kStart, t).refuses_ids(kStart, false));
  EXPECT_EQ(Gathering(kStart, t).awaited(kStart), t.reported) << "a successor may need it";
  t.log_epoch = 0;
  EXPECT_FALSE(Gathering(kStart, t).done(kStart, false)) << "it was lost while it collected";
  t.log_epoch = 3;
  EXPECT_FALSE(Gathering(kStart, t).done(kStart, false)) << "somebody else was coordinator";
  EXPECT_TRUE(Gathering(kStart, t).awaits(kStart, false));
}

TEST(Gathering, WhomNobodyHasNamedIsAwaitedForTheLimit) {
  const auto waits = [](const Takeover& t) {
    Gathering g(kStart, t);
    for (const auto& one : t.reported) g.came(one);
    EXPECT_EQ(g.done(kStart, false), !g.awaits(kStart, false));
    EXPECT_EQ(g.refuses_ids(kStart, false), g.awaits(kStart, false));
    EXPECT_TRUE(g.done(kStart + kRecoveryLimit, false));
    EXPECT_FALSE(g.awaits(kStart + kRecoveryLimit, false));
    return !g.done(kStart + kRecoveryLimit - kMs, false);
  };
  EXPECT_FALSE(waits({.epoch = 1})) << "there was nobody before";
  EXPECT_TRUE(waits({.epoch = 2})) << "the last one was lost before it could report";
  EXPECT_TRUE(waits({.epoch = 3, .report_epoch = 2})) << "or before anybody had come";
  EXPECT_TRUE(waits({.epoch = 3, .report_epoch = 1, .reported = {worker(0)}}))
      << "these are the workers of the one before";
  EXPECT_FALSE(waits({.epoch = 3, .report_epoch = 2, .reported = {worker(0)}}));
  Gathering g(kStart, std::set<Expected>{});
  g.expect_unnamed(kStart + Milliseconds{1000});
  EXPECT_TRUE(g.awaits(kStart + kRecoveryLimit, false)) << "from then on";
}

TEST(Gathering, AnotherPodOfTheNameDoesNotStandForTheOneWithTheCopies) {
  Gathering g(kStart, std::set{worker(3, "old"), worker(4)});
  g.came(worker(4));
  g.came(worker(3, "new"));
  EXPECT_FALSE(g.done(kStart, false));
  EXPECT_EQ(g.awaited(kStart + kAwaitLimit - kMs), std::set{worker(3, "old")});
  EXPECT_TRUE(g.awaited(kStart + kAwaitLimit).empty());
  g.came(worker(3, "old"));
  EXPECT_TRUE(g.done(kStart, false));
  EXPECT_TRUE(g.awaited(kStart).empty());
}

TEST(Gathering, ItsDeadlinesAreThoseAtWhichItsAnswersChange) {
  std::mt19937 random(1);  // NOLINT: the same worlds every time
  for (int world = 0; world < 200; ++world) {
    Gathering g(kStart, world % 2 == 0 ? std::set<Expected>{} : std::set{worker(0)},
                world % 3 == 0);
    const bool telling = random() % 2 == 0;
    g.heard(kStart + Milliseconds(random() % 70000));
    MonoTime now = kStart;
    for (auto next = g.next_deadline(now); next; next = g.next_deadline(now)) {
      ASSERT_EQ(g.done(now, telling), g.done(*next - kMs, telling));
      ASSERT_EQ(g.awaits(now, telling), g.awaits(*next - kMs, telling));
      ASSERT_EQ(g.refuses_ids(now, telling), g.refuses_ids(*next - kMs, telling));
      now = *next;
    }
    EXPECT_TRUE(g.done(now, telling));
    EXPECT_FALSE(g.awaits(now, telling));
    EXPECT_FALSE(g.refuses_ids(now, telling));
  }
}

TEST(PullWindow, AsksForSoManyAndGoesOnWithEachAnswer) {
  PullWindow w;
  for (std::size_t i = 0; i < kPullWindowIds + 2; ++i) w.want(task(i), 100);
  EXPECT_EQ(w.take().size(), kPullWindowIds);
  EXPECT_TRUE(w.take().empty());
  EXPECT_FALSE(w.answered(task(kPullWindowIds))) << "not asked for yet";
  EXPECT_TRUE(w.answered(task(0)));
  EXPECT_FALSE(w.answered(task(0)));
  EXPECT_EQ(w.take(), std::vector{task(kPullWindowIds)});
  EXPECT_FALSE(w.done());
}

TEST(PullWindow, AnUnknownSizeCountsAsTheLargest) {
  PullWindow w;
  for (std::size_t i = 0; i < 100; ++i) w.want(task(i), i % 2 == 0 ? 0 : ~std::size_t{0});
  EXPECT_EQ(w.take().size(), kPullWindowBytes / kMaxEncodedBytes);
}

TEST(PullWindow, NeverMoreBytesThanItsLimitAndEverythingInTheEnd) {
  std::mt19937 random(2);  // NOLINT: the same worlds every time
  for (int world = 0; world < 100; ++world) {
    PullWindow w;
    std::map<TaskId, std::size_t> sizes;
    for (std::size_t i = 0; i < 300; ++i) {
      sizes[task(i)] = 1 + random() % kMaxEncodedBytes;
      w.want(task(i), sizes[task(i)]);
    }
    std::vector<TaskId> open;
    std::size_t bytes = 0, answers = 0;
    while (!w.done()) {
      for (const TaskId& id : w.take()) {
        open.push_back(id);
        bytes += sizes.at(id);
      }
      ASSERT_LE(open.size(), kPullWindowIds);
      ASSERT_LE(bytes, kPullWindowBytes);
      ASSERT_FALSE(open.empty()) << "it stands still";
      std::swap(open[random() % open.size()], open.back());
      bytes -= sizes.at(open.back());
      ASSERT_TRUE(w.answered(open.back()));
      open.pop_back();
      ++answers;
    }
    EXPECT_EQ(answers, sizes.size());
  }
}

}  // namespace
}  // namespace swarm::tasks
