#include "lifecycle/lifecycle.h"

#include <gtest/gtest.h>

#include <optional>
#include <random>

namespace swarm::lifecycle {
namespace {

using std::chrono::seconds;

constexpr MonoTime kStart{seconds(100)};

std::string words(Lifecycle& life) {
  std::string all;
  for (const Output& o : life.take_outputs()) {
    static constexpr const char* kNames[] = {"leave", "drain", "exit:"};
    if (!all.empty()) all += " ";
    all += kNames[o.index()];
    if (const auto* e = std::get_if<Exit>(&o)) all += std::to_string(e->dropped.sum());
  }
  return all;
}

Lifecycle ready_one(Settings settings = {}) {
  Lifecycle life(settings);
  for (const Part p : {Part::kMailbox, Part::kTeam, Part::kQueue}) life.part(p, true, "");
  return life;
}

Lifecycle draining_one(Settings settings = {}) {
  Lifecycle life = ready_one(settings);
  life.terminate(kStart);
  EXPECT_EQ(words(life), "leave drain");
  return life;
}

TEST(Lifecycle, IsReadyWhenEveryPartHasWorked) {
  Lifecycle life{Settings{}};
  life.part(Part::kMailbox, true, "");
  life.part(Part::kQueue, true, "");
  life.part(Part::kTeam, false, "waiting for coordinator-0");
  EXPECT_FALSE(life.ready());
  EXPECT_EQ(life.text(), "starting: team: waiting for coordinator-0");
  life.part(Part::kTeam, true, "");
  EXPECT_TRUE(life.ready());
  EXPECT_EQ(life.text(), "ready");
  EXPECT_EQ(words(life), "");
}

TEST(Lifecycle, AWorkerStaysReadyWithoutItsCoordinatorACoordinatorDoesNotWithoutItsTeam) {
  struct Row {
    bool coordinator;
    Part part;
    bool ready;
    const char* text;
  };
  for (const Row& row : {Row{false, Part::kMailbox, false, "not ready: mailbox: gone"},
                         Row{false, Part::kTeam, true, "ready, but team: gone"},
                         Row{true, Part::kTeam, false, "not ready: team: gone"},
                         Row{true, Part::kQueue, false, "not ready: queue: gone"}}) {
    Settings settings;
    settings.coordinator = row.coordinator;
    Lifecycle life = ready_one(settings);
    life.part(row.part, false, "gone");
    EXPECT_EQ(life.ready(), row.ready) << row.text;
    EXPECT_EQ(life.text(), row.text);
    life.part(row.part, true, "");
    EXPECT_TRUE(life.ready());
  }
}

TEST(Lifecycle, TheLadder) {
  Lifecycle life = ready_one();
  life.leaving();
  EXPECT_EQ(words(life), "leave");
  EXPECT_FALSE(life.ready());
  EXPECT_EQ(life.text(), "leaving");
  life.leaving();
  life.remaining(kStart + seconds(400), {});  // agents may take as long as the kubelet gives them
  EXPECT_EQ(words(life), "");
  life.terminate(kStart + seconds(500));
  EXPECT_EQ(words(life), "drain");  // and no exit: what was left before SIGTERM is no answer
  EXPECT_EQ(life.text(), "draining");
  life.remaining(kStart + seconds(500), {.reports = 1, .messages = 3});
  EXPECT_EQ(life.text(), "draining: 1 reports, 3 peers with open messages");
  life.remaining(kStart + seconds(502), {});
  EXPECT_EQ(words(life), "exit:0");
  EXPECT_EQ(life.phase(), Phase::kStopped);
  life.terminate(kStart + seconds(503));
  life.leaving();
  life.orphaned(kStart + seconds(503));
  life.remaining(kStart + seconds(504), {});
  EXPECT_EQ(words(life), "");
}

TEST(Lifecycle, SigtermBeforeReadinessDoesTheWholeLadder) {
  Lifecycle life{Settings{}};
  life.terminate(kStart);
  EXPECT_EQ(words(life), "leave drain");
  life.part(Part::kMailbox, true, "");
  life.part(Part::kTeam, true, "");
  life.part(Part::kQueue, true, "");
  EXPECT_FALSE(life.ready());
  life.remaining(kStart, {});
  EXPECT_EQ(words(life), "exit:0");
}

TEST(Lifecycle, EachThingIsWaitedForAsLongAsItIsWorth) {
  struct Row {
    Remaining left;
    int seconds;
  };
  for (const Row& row : {Row{{.reports = 2}, 30}, Row{{.copies = 2}, 30}, Row{{.messages = 2}, 3},
                         Row{{.followers = 2}, 2}, Row{{.retained = 2}, 30}}) {
    Lifecycle life = draining_one();
    life.remaining(kStart + seconds(row.seconds) - Milliseconds{1}, row.left);
    EXPECT_EQ(words(life), "") << row.seconds;
    life.remaining(kStart + seconds(row.seconds), row.left);
    EXPECT_EQ(words(life), "exit:2") << row.seconds;  // what is dropped is said
  }
}

TEST(Lifecycle, AShortDrainTimeoutIsTheLimitOfAll) {
  Settings settings;
  settings.drain_timeout = seconds(1);
  Lifecycle life = draining_one(settings);
  life.remaining(kStart + seconds(1), {1, 1, 1, 1, 1});
  EXPECT_EQ(words(life), "exit:5");
}

TEST(Lifecycle, OfADeletedSwarmOnlyFollowersAreWaitedFor) {
  Lifecycle worker = draining_one();
  worker.remaining(kStart, {.reports = 3, .messages = 1, .retained = 2});
  EXPECT_EQ(words(worker), "");
  worker.orphaned(kStart + Milliseconds{5});
  EXPECT_EQ(words(worker), "exit:6");

  Lifecycle coordinator = ready_one();
  coordinator.orphaned(kStart);
  coordinator.terminate(kStart);
  EXPECT_EQ(words(coordinator), "leave drain");
  coordinator.remaining(kStart, {.copies = 5, .followers = 1});
  EXPECT_EQ(words(coordinator), "");
  coordinator.remaining(kStart + Milliseconds{40}, {.copies = 5});
  EXPECT_EQ(words(coordinator), "exit:5");
}

TEST(Lifecycle, WhateverComesItLeavesDrainsAndExitsOnceInThisOrderAndInTime) {
  std::mt19937 random(7);
  for (int run = 0; run < 2000; ++run) {
    Lifecycle life{Settings{}};
    MonoTime now = kStart;
    std::optional<MonoTime> sigterm;
    std::string all;
    for (int step = 0; step < 60 && life.phase() != Phase::kStopped; ++step) {
      now += Milliseconds{random() % 1500};
      switch (random() % 8) {
        case 0:
          life.leaving();
          break;
        case 1:
          if (step > 20) {
            if (!sigterm) sigterm = now;
            life.terminate(now);
          }
          break;
        case 2:
          life.part(static_cast<Part>(random() % kParts), random() % 3 != 0, "x");
          break;
        case 3:
          if (random() % 8 == 0) life.orphaned(now);
          break;
        default:
          life.remaining(now,
                         {random() % 2, random() % 2, random() % 2, random() % 2, random() % 2});
      }
      if (life.phase() != Phase::kReady) {
        ASSERT_FALSE(life.ready());
      }
      const std::string said = words(life);
      if (!said.empty()) all += (all.empty() ? "" : " ") + said;
    }
    if (!sigterm) life.terminate(now), sigterm = now;
    life.remaining(*sigterm + seconds(31), {1, 1, 1, 1, 1});
    const std::string said = words(life);
    if (!said.empty()) all += (all.empty() ? "" : " ") + said;
    ASSERT_EQ(all.substr(0, 17), "leave drain exit:") << run;
    ASSERT_EQ(all.find(' ', 12), std::string::npos) << all;
  }
}

}  // namespace
}  // namespace swarm::lifecycle
