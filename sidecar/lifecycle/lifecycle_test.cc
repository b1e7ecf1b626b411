#include "lifecycle/lifecycle.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace swarm::lifecycle {
namespace {

using std::chrono::seconds;

constexpr MonoTime kStart{seconds(100)};

std::string words(const std::vector<Output>& outputs) {
  std::string all;
  for (const Output& o : outputs) {
    static constexpr const char* kNames[] = {"tell",  "refuse-tasks", "return", "refuse-messages",
                                             "flush", "exit"};
    if (!all.empty()) all += " ";
    all += kNames[o.index()];
    if (const auto* e = std::get_if<Exit>(&o)) {
      all += std::to_string(e->code) + (e->timed_out ? "!" : "") + ":" +
             std::to_string(e->dropped.sum());
    }
  }
  return all;
}

Lifecycle ready_one(Settings s = {}) {
  Lifecycle life(s);
  for (Part p : {Part::kLog, Part::kSocket, Part::kHttp, Part::kLink})
    life.part(kStart, p, true, "");
  return life;
}

TEST(Lifecycle, IsReadyWhenEveryPartHasWorked) {
  Lifecycle life{Settings{}};
  life.part(kStart, Part::kLog, true, "");
  life.part(kStart, Part::kSocket, true, "");
  life.part(kStart, Part::kHttp, true, "");
  life.part(kStart, Part::kLink, false, "no coordinator answers");
  EXPECT_FALSE(life.ready());
  EXPECT_TRUE(life.alive());
  EXPECT_FALSE(life.takes_tasks());
  EXPECT_EQ(life.text(), "starting: waits for link: no coordinator answers");
  life.part(kStart, Part::kLink, true, "");
  EXPECT_TRUE(life.ready());
  EXPECT_TRUE(life.takes_tasks());
  EXPECT_EQ(life.text(), "ready");
  EXPECT_EQ(words(life.take_outputs()), "");
}

TEST(Lifecycle, ReadinessAfterwards) {
  struct Row {
    Part part;
    bool ready;
    const char* text;
  };
  for (const Row& row : {Row{Part::kLog, false, "not ready: log: gone"},
                         Row{Part::kSocket, false, "not ready: socket: gone"},
                         Row{Part::kHttp, false, "not ready: http: gone"},
                         Row{Part::kLink, true, "ready, but link: gone"}}) {
    Lifecycle life = ready_one();
    life.part(kStart, row.part, false, "gone");
    EXPECT_EQ(life.ready(), row.ready) << row.text;
    EXPECT_EQ(life.text(), row.text);
    EXPECT_TRUE(life.alive());
    life.part(kStart, row.part, true, "");
    EXPECT_TRUE(life.ready());
  }
}

TEST(Lifecycle, TheLadder) {
  Lifecycle life = ready_one();
  life.leaving(kStart);
  EXPECT_EQ(words(life.take_outputs()), "refuse-tasks tell");
  EXPECT_FALSE(life.ready());
  EXPECT_FALSE(life.takes_tasks());
  EXPECT_TRUE(life.takes_messages());
  EXPECT_EQ(life.text(), "leaving: no new tasks; the coordinator has not confirmed yet");
  life.leaving(kStart);
  EXPECT_EQ(words(life.take_outputs()), "");
  life.told(kStart);
  life.remaining(kStart, {});
  EXPECT_EQ(life.next_deadline(),
            std::nullopt);  // agents may take as long as the kubelet gives them
  life.terminate(kStart + seconds(500));
  EXPECT_EQ(words(life.take_outputs()), "return flush");
  EXPECT_TRUE(life.alive());
  EXPECT_TRUE(life.takes_messages());
  EXPECT_EQ(life.next_deadline(), kStart + seconds(501));
  life.tick(kStart + seconds(501));
  EXPECT_EQ(words(life.take_outputs()), "refuse-messages");
  EXPECT_FALSE(life.takes_messages());
  EXPECT_EQ(life.next_deadline(), kStart + seconds(530));
  life.remaining(kStart + seconds(501), {1, 0, 3, 0, 0});
  EXPECT_EQ(life.text(), "draining: 1 leases, 3 outgoing messages left");
  life.remaining(kStart + seconds(502), {});
  EXPECT_EQ(words(life.take_outputs()), "exit0:0");
  EXPECT_EQ(life.phase(), Phase::kStopped);
  life.terminate(kStart + seconds(503));
  life.tick(kStart + seconds(600));
  life.failed(kStart + seconds(600), "late");
  EXPECT_EQ(words(life.take_outputs()), "");
}

TEST(Lifecycle, WithoutPreStopTheDrainDoesItsWork) {
  for (const bool started : {true, false}) {
    Lifecycle life = started ? ready_one() : Lifecycle{Settings{}};
    life.terminate(kStart);
    EXPECT_EQ(words(life.take_outputs()), "refuse-tasks tell return flush");
    EXPECT_EQ(life.text(), "draining: counting what is left");
  }
}

TEST(Lifecycle, WhatWasSaidBeforeSigtermDoesNotEndTheDrain) {
  Lifecycle life = ready_one();
  life.remaining(kStart, {});
  life.told(kStart);
  life.terminate(kStart);
  life.tick(kStart + seconds(1));
  EXPECT_EQ(life.phase(), Phase::kDraining);
}

TEST(Lifecycle, TheDrainEndsAtItsDeadlineAndCountsWhatIsLeft) {
  Lifecycle life = ready_one();
  life.terminate(kStart);
  life.remaining(kStart, {0, 0, 2, 5, 0});
  life.tick(kStart + seconds(2));
  life.take_outputs();
  life.tick(kStart + seconds(30) - Milliseconds(1));
  EXPECT_EQ(words(life.take_outputs()), "");
  life.terminate(kStart + seconds(29));  // a second SIGTERM gives no more time
  life.tick(kStart + seconds(30));
  EXPECT_EQ(words(life.take_outputs()), "exit0!:7");
}

TEST(Lifecycle, AnAbsentCoordinatorIsNotWaitedForLong) {
  Lifecycle life = ready_one();
  life.terminate(kStart);
  life.remaining(kStart, {});
  life.tick(kStart + seconds(1));
  life.take_outputs();
  EXPECT_EQ(life.next_deadline(), kStart + seconds(2));
  EXPECT_EQ(life.text(), "draining: waits for the coordinator's confirmation");
  life.tick(kStart + seconds(2));
  EXPECT_EQ(words(life.take_outputs()), "exit0:0");
}

TEST(Lifecycle, ADrainOfNoTimeExitsAtOnce) {
  Lifecycle life = ready_one(Settings{Milliseconds(0), Milliseconds(1000), Milliseconds(2000)});
  life.remaining(kStart, {0, 1, 0, 0, 0});
  life.terminate(kStart);
  EXPECT_EQ(words(life.take_outputs()), "refuse-tasks tell return flush refuse-messages exit0!:1");
}

TEST(Lifecycle, AFailureIsTheOnlyThingThatEndsLiveness) {
  Lifecycle life = ready_one();
  life.failed(kStart, std::string(500, 'x'));
  EXPECT_FALSE(life.alive());
  EXPECT_FALSE(life.ready());
  EXPECT_EQ(life.text().size(), std::string("failed: ").size() + Lifecycle::kMaxWhyBytes);
  EXPECT_EQ(words(life.take_outputs()), "exit1:0");
}

// Whatever comes in whatever order: phases only go up, every output comes once, and after SIGTERM
// it ends in time.
TEST(Lifecycle, HoldsItsPromisesInAnyOrder) {
  std::uint64_t state = 42;
  const auto random = [&](std::uint64_t n) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (state >> 33U) % n;
  };
  for (int run = 0; run < 5000; ++run) {
    Lifecycle life{Settings{}};
    MonoTime now = kStart;
    std::optional<MonoTime> terminated;
    std::vector<Output> all;
    Phase last = life.phase();
    for (int i = 0; i < 40; ++i) {
      now += Milliseconds(static_cast<std::int64_t>(random(3000)));
      switch (random(8)) {
        case 0:
        case 1:
        case 2:
          life.part(now, static_cast<Part>(random(kParts)), random(4) != 0, "why");
          break;
        case 3:
          life.leaving(now);
          break;
        case 4:
          life.told(now);
          break;
        case 5:
          life.remaining(now, {random(2), 0, random(2), 0, 0});
          break;
        case 6:
          if (random(3) == 0) {
            if (!terminated) terminated = now;
            life.terminate(now);
          }
          break;
        default:
          life.tick(now);
          break;
      }
      EXPECT_GE(life.phase(), last);
      last = life.phase();
      EXPECT_TRUE(life.alive());
      EXPECT_TRUE(!life.ready() || life.phase() == Phase::kReady);
      EXPECT_FALSE(life.text().empty());
      for (const Output& o : life.take_outputs()) all.push_back(o);
    }
    if (terminated) {
      EXPECT_NE(life.phase(), Phase::kReady);
      life.tick(*terminated + seconds(30));
      EXPECT_EQ(life.phase(), Phase::kStopped);
      for (const Output& o : life.take_outputs()) all.push_back(o);
      std::vector<std::size_t> kinds;
      for (const Output& o : all) kinds.push_back(o.index());
      EXPECT_EQ(kinds.back(), 5U);
      std::sort(kinds.begin(), kinds.end());
      EXPECT_EQ(kinds, (std::vector<std::size_t>{0, 1, 2, 3, 4, 5}));
    } else {
      EXPECT_LE(life.phase(), Phase::kLeaving);
    }
  }
}

}  // namespace
}  // namespace swarm::lifecycle
