#include "worker/activity.h"

#include <gtest/gtest.h>

#include <random>
#include <span>

#include "worker/task_run.h"

namespace swarm::worker {
namespace {

MonoTime at(std::int64_t ms) { return MonoTime(Milliseconds(ms)); }
constexpr Milliseconds kLease{30'000};
constexpr double kTicks = 100;

TEST(CpuMeter, AddsUpWhatAllProcessesHaveUsed) {
  CpuMeter meter(kTicks);
  EXPECT_EQ(meter.sample(at(0), {{1, 7, 50, false}}), 0);
  EXPECT_DOUBLE_EQ(meter.sample(at(1000), {{1, 7, 60, false}, {2, 8, 5, false}}), 0.15);
  EXPECT_EQ(meter.sample(at(2000), {{1, 7, 60, false}, {2, 8, 5, false}}), 0);
  // Another process under an old number has used all of its time since.
  EXPECT_DOUBLE_EQ(meter.sample(at(3000), {{1, 9, 20, false}}), 0.2);
}

TEST(CpuMeter, WhoCouldRunButGetsNoCpuIsNotIdle) {
  CpuMeter meter(kTicks);
  EXPECT_EQ(meter.sample(at(0), {}), 0);
  EXPECT_EQ(meter.sample(at(1000), {{1, 7, 0, true}}), kStarvedCpuShare);
  const std::vector<ProcessTime> starved = {{1, 7, 0, true}}, asleep = {{1, 7, 0, false}};
  int looks = 0;
  for (std::int64_t t = 2000; !meter.alive(at(t), starved, kIdleLooksLeast); t += 1000)
    ASSERT_LT(++looks, 4);
  meter.reset();
  for (std::int64_t t = 0; t < 100; ++t)  // it happens to be waking up at every fifth
    ASSERT_FALSE(meter.alive(at(t * 2000), t % 5 == 0 ? starved : asleep, kIdleLooksMost)) << t;
}

// A stock Claude Code whose model had begun an answer and never ended it, in hundredths of a second
// by looks two seconds apart, beside busy neighbours; then Codex.
TEST(CpuMeter, ACliThatHangsAndWakesUpNowAndThenIsIdle) {
  const int claude[] = {1, 1, 1, 1, 9, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0,
                        0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1,
                        0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 3, 0, 7, 3, 0, 0, 0, 0, 0, 0, 0, 0,
                        1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 2, 2, 0, 0, 1,
                        1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 2, 0, 0, 1, 1};
  const int codex[] = {
      1, 1, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 9, 6, 0, 0, 0, 0, 0, 0, 1, 0,  0,  0, 0, 1, 1,
      4, 1, 4, 1, 0, 0, 1, 4, 3, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 3, 2, 2,  4,  1, 0, 0, 0,
      0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  1,  0, 0, 0, 0,
      0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 4, 3,  0,  0, 0, 1, 0,
      2, 2, 2, 3, 0, 0, 0, 2, 2, 3, 2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 6, 2, 0, 0,  0,  0, 0, 4, 12,
      1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0,  0,  0, 0, 0, 0,
      3, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 8, 11, 15, 5, 0, 0, 0,
      1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0,  0,  0, 1};
  for (const std::span<const int> used : {std::span<const int>(claude), {codex}}) {
    CpuMeter meter(kTicks);
    unsigned long long ticks = 0;
    std::int64_t t = 0;
    for (const int more : used) {
      ticks += static_cast<unsigned long long>(more);
      ASSERT_FALSE(meter.alive(at(t += 2000), {{1, 7, ticks, false}}, kIdleLooksMost)) << t;
    }
    // Whoever uses more than a fiftieth of a CPU is not.
    int looks = 0;
    do ticks += 5;
    while (!meter.alive(at(t += 2000), {{1, 7, ticks, false}}, kIdleLooksMost) && ++looks < 21);
    EXPECT_LE(looks, 20);
  }
}

TEST(Stillness, SaysOnlyWhatIsKnown) {
  EXPECT_EQ(words({}), "");
  const struct {
    Stillness still;
    const char* words;
  } rows[] = {
      {{.connections = 1, .peers = {"10.0.0.7:443"}}, "1 TCP connection open, to 10.0.0.7:443"},
      {{.connections = 3, .peers = {"10.0.0.7:443", "[fd00::1]:80", "10.0.0.9:1"}},
       "3 TCP connections open, to 10.0.0.7:443, [fd00::1]:80"},
      {{.closed_by_peer = 1}, "1 TCP connection that the other side has closed"},
      {{.connections = 2}, "2 TCP connections open"},
      {{.result_printed = true}, "its result is printed, but it does not exit"},
      {{.reader = "cat", .read = "its standard input"}, "cat waits to read its standard input"},
      {{.result_printed = true,
        .stopped = "sh",
        .reader = "claude",
        .read = "the terminal /dev/pts/3",
        .connections = 1},
       "its result is printed, but it does not exit; claude waits to read the terminal "
       "/dev/pts/3; sh is stopped by a signal; 1 TCP connection open"},
  };
  for (const auto& row : rows) EXPECT_EQ(words(row.still), row.words);
}

// What the coordinator heard of a run: by each extension of its lease.
class Watched {
 public:
  explicit Watched(Milliseconds after, bool end_it = false, Settings settings = {})
      : run_(settings, kLease, at(0)) {
    run_.set_stuck(after, end_it);
    (void)run_.begin(at(0));
  }
  // Everything that is due up to `ms`; `processes` is what a look finds.
  void until(std::int64_t ms, const std::vector<ProcessTime>& processes) {
    while (run_.wake_at() <= at(ms)) {
      now_ = std::max(now_, run_.wake_at());
      if (now_ >= run_.sample_at()) run_.on_sample(processes, now_);
      act(run_.on_tick(now_));
    }
    now_ = std::max(now_, at(ms));
  }
  void output() {
    run_.on_activity(now_);
    act(run_.on_tick(now_));
  }
  void act(const Actions& actions) {
    for (const Action& action : actions) {
      if (action.type == Action::Type::kTerminate) ended_ = true;
      if (action.type != Action::Type::kExtend) continue;
      const auto since = run_.stuck_since();
      if (since && !told_) told_at_ = now_;
      told_ = since;
      act(run_.on_extend(waits_ ? ExtendAnswer::kWaits : ExtendAnswer::kAlive, now_));
    }
  }
  TaskRun run_;
  MonoTime now_ = at(0), told_at_{};
  std::optional<MonoTime> told_;  // since when it is stuck
  bool ended_ = false;
  bool waits_ = false;  // as the sidecar says
};

TEST(Stuck, WhoWaitsForOtherTasksIsNotStuckHoweverShortTheLimit) {
  Watched w(Milliseconds(400), true);  // extensions are 10 s apart
  w.waits_ = true;
  w.until(60'000, {});
  EXPECT_FALSE(w.told_);
  EXPECT_FALSE(w.ended_);
  w.waits_ = false;  // over, and silent all the same
  w.until(61'000, {});
  EXPECT_TRUE(w.told_);
  EXPECT_TRUE(w.ended_);
}

TEST(Stuck, SilenceWithoutCpuIsToldAtItsLimitAndNotBefore) {
  Watched w(Milliseconds(8000));
  w.until(7999, {{1, 1, 0, false}});
  EXPECT_FALSE(w.told_);
  w.until(8000, {{1, 1, 0, false}});
  EXPECT_EQ(w.told_, at(0));
  w.until(60'000, {{1, 1, 0, false}});
  EXPECT_EQ(w.told_, at(0));  // each extension says so again, whoever missed the first
  EXPECT_FALSE(w.ended_);
}

TEST(Stuck, OutputOrCpuTakesItBackAtOnce) {
  Watched w(Milliseconds(8000));
  w.until(9000, {});
  ASSERT_TRUE(w.told_);
  w.output();
  EXPECT_FALSE(w.told_);
  w.until(16'999, {});
  EXPECT_FALSE(w.told_);
  w.until(17'000, {});
  EXPECT_EQ(w.told_, at(9000));
  w.until(18'000, {{1, 1, 100, false}});
  EXPECT_FALSE(w.told_);
}

TEST(Stuck, AskedToItEndsTheRunAsAChargedAttempt) {
  Watched w(Milliseconds(8000), true);
  w.until(8000, {});
  EXPECT_TRUE(w.ended_);
  EXPECT_EQ(w.told_, at(0));  // said before it is ended
  (void)w.run_.on_exit({0, 15}, "", at(8100));
  EXPECT_EQ(w.run_.verdict(),
            (Verdict{Kind::kIdleTimeout,
                     "ended: stuck, no output and no CPU time for 8s (spec.health.onStuck)",
                     std::nullopt}));
  EXPECT_FALSE(w.run_.stuck_since());
}

TEST(Stuck, TheLimitMayChangeWhileItRuns) {
  Watched w(Milliseconds(0));
  w.until(100'000, {});
  EXPECT_FALSE(w.told_);
  w.run_.set_stuck(Milliseconds(60'000), false);
  w.act(w.run_.on_tick(w.now_));
  w.until(159'999, {});  // nobody has looked at it before
  EXPECT_FALSE(w.told_);
  w.until(160'000, {});
  EXPECT_EQ(w.told_, at(100'000));
  w.run_.set_stuck(Milliseconds(90'000), false);
  w.act(w.run_.on_tick(w.now_));
  EXPECT_FALSE(w.told_);
  w.run_.set_stuck(Milliseconds(60'000), true);
  w.act(w.run_.on_tick(w.now_));
  EXPECT_TRUE(w.ended_);
}

TEST(Stuck, CloningAndPushingIsNot) {
  TaskRun run({.git = true}, kLease, at(0));
  run.set_stuck(Milliseconds(8000), true);
  (void)run.begin(at(0));
  for (std::int64_t t = 0; t < 60'000; t += 1000) (void)run.on_tick(at(t));
  EXPECT_FALSE(run.stuck_since());
  EXPECT_EQ(run.sample_at(), MonoTime::max());
}

// agentctl itself was stopped (a frozen pod, a machine that sleeps) and the child with it: what
// nobody saw is no silence. But what was seen before counts.
TEST(Stuck, TimeInWhichNobodyLookedIsNoSilence) {
  Watched w(Milliseconds(10'000));
  w.until(5000, {});
  w.now_ = at(500'000);
  w.run_.on_sample({}, w.now_);
  w.act(w.run_.on_tick(w.now_));
  EXPECT_FALSE(w.told_);
  w.until(503'000, {});
  EXPECT_FALSE(w.told_);
  w.until(506'000, {});
  EXPECT_TRUE(w.told_);
}

// 3,000 windows of a child that works quietly beside burners that leave it little: at least twice a
// window it has a second of CPU, itself or by children that come and go between two looks, or
// is seen waiting for its turn, or prints. Never stuck. Once it does none of this, it is.
TEST(Stuck, ThousandsOfWindowsBesideBurnersNameNobodyThatWorks) {
  std::mt19937_64 random(20240817);
  const auto below = [&](std::uint64_t n) { return static_cast<std::int64_t>(random() % n); };
  int windows = 0;
  for (int round = 0; round < 300; ++round) {
    const std::int64_t limit = 5000 + below(60'000);
    Watched w{Milliseconds(limit)};
    const std::int64_t pause = 1 + below(static_cast<std::uint64_t>(limit / 2));  // between bursts
    unsigned long long ticks = 0;
    pid_t pid = 1;
    std::int64_t work_at = 0, starved_until = 0;
    std::int64_t end = limit * 10;
    std::vector<ProcessTime> found;
    for (std::int64_t t = 100; t <= end; t += 100) {
      if (t >= work_at) {
        work_at = t + pause;
        switch (below(4)) {
          case 0:  // a burst of its own, after which it sleeps again
            ticks += 100;
            break;
          case 1:  // a child that lives and dies between two looks: its parent has waited for it
            ++pid;
            ticks += 100;
            break;
          case 2:  // starved: runnable for as long as it takes to be seen so, hardly any time
            starved_until = t + 8 * kCpuSampleMost.count();
            break;
          default:  // prints
            w.output();
        }
      }
      found = {{1, 1, ticks, t < starved_until}, {pid + 1, 1, 0, false}};
      w.until(t, found);
      ASSERT_FALSE(w.told_) << "limit " << limit << ", pause " << pause << ", at " << t;
    }
    windows += 10;
    w.until(end + 2 * limit, {{1, 1, ticks, false}});  // now it hangs
    ASSERT_TRUE(w.told_) << limit;
    ASSERT_LE(w.told_at_, at(end + limit) + 2 * kCpuSampleMost) << limit;
  }
  EXPECT_GE(windows, 1000);
}

}  // namespace
}  // namespace swarm::worker
