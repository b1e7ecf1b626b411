#include "simulator/world.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace swarm::simulator {
namespace {

std::uint64_t number_from(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

TEST(MailboxProperty, NothingAcceptedIsLostNothingComesTwice) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
  constexpr std::uint64_t kSeeds = 200;
#else
  constexpr std::uint64_t kSeeds = 2000;
#endif
  const std::uint64_t first = number_from("SWARM_SEED", 1);
  const std::uint64_t count = number_from("SWARM_SEEDS", kSeeds);
  Totals totals;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    ASSERT_EQ(World(seed, totals).run(), "") << "make simulate RUNS=1 SEED=" << seed;
  }
  if (count >= 200) {  // the worlds got to where it hurts
    EXPECT_GT(totals.accepted, 10 * count);
    EXPECT_GT(totals.acks, 10 * count);
    EXPECT_GT(totals.refused, count);
    EXPECT_GT(totals.again, count / 2);
    EXPECT_GT(totals.restarts, 5 * count);
    EXPECT_GT(totals.wipes, count / 2);
    EXPECT_GT(totals.dead, count / 10);
    EXPECT_GT(totals.redriven, count / 10);
    EXPECT_GT(totals.copied, count / 10);
    EXPECT_GT(totals.successors, count / 10);
    EXPECT_GT(totals.retired, count / 4);
    EXPECT_GT(totals.handed_over, count);
    EXPECT_GT(totals.given_back, count);
    EXPECT_GT(totals.no_room, count / 10);
    EXPECT_GT(totals.unknown, count / 10);
    EXPECT_GT(totals.shared, 5 * count);
    EXPECT_GT(totals.damages, count / 10);
  }
}

TEST(World, ASeedReplaysByteForByte) {
  const auto trace = [](std::uint64_t seed) {
    std::string lines;
    Totals totals;
    EXPECT_EQ(World(seed, totals, [&](const std::string& line) { lines += line + "\n"; }).run(),
              "");
    return lines + totals.matrix.table() + std::to_string(totals.events);
  };
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const std::string once = trace(seed);
    EXPECT_GT(once.size(), 1000U);
    ASSERT_EQ(once, trace(seed)) << seed;
  }
  EXPECT_NE(trace(1), trace(2));
}

TEST(Matrix, CountsEachStepOfABatchAndKnowsTheRarestPair) {
  Matrix matrix;
  EXPECT_EQ(matrix.least().met, 0U);
  for (std::size_t s = 0; s < kSteps; ++s) {
    for (std::size_t f = 0; f < kFaults; ++f)
      matrix.count(static_cast<Step>(s), static_cast<Fault>(f));
  }
  Steps batch;
  batch.add(Step::kStored);
  batch.add(Step::kSuperblock);
  matrix.count(batch, Fault::kWiped);
  EXPECT_EQ(matrix.met(Step::kStored, Fault::kWiped), 2U);
  EXPECT_EQ(matrix.met(Step::kSuperblock, Fault::kWiped), 2U);
  EXPECT_EQ(matrix.met(Step::kAcked, Fault::kWiped), 1U);
  EXPECT_EQ(matrix.least().met, 1U);
  EXPECT_TRUE(batch.of_log().has(Step::kSuperblock));
  EXPECT_FALSE(batch.of_log().has(Step::kStored));
}

struct ModelTest : ::testing::Test {
  mailbox::Delivery delivery(std::uint16_t attempt) {
    return {model.at(number).message, attempt, attempt > 1, kBegin + Milliseconds{100}};
  }
  void hand_out(std::uint16_t attempt, MonoTime now) {
    model.handed_out(number, delivery(attempt), 1, now);
    model.hear({News::Kind::kHandedOut, number, attempt});
  }
  Model model;
  MessageNumber number = model.add(kFirstName, kSecondName, true);
};

TEST_F(ModelTest, FindsWhatWasLost) {
  model.hear({News::Kind::kAccepted, number});
  model.nothing_is_lost();
  EXPECT_EQ(model.broken(), "m-0000000000000000 was accepted and is lost");
}
TEST_F(ModelTest, FindsAHandOutBeforeTheLeaseIsOver) {
  hand_out(1, kBegin);
  EXPECT_FALSE(model.failed());
  hand_out(2, kBegin + Milliseconds{99});
  EXPECT_EQ(model.broken(),
            "m-0000000000000000 was handed out again before its lease or delay was over");
}
TEST_F(ModelTest, FindsOneAttemptHandedOutTwice) {
  hand_out(1, kBegin);
  model.handed_out(number, delivery(1), 2, kBegin);
  model.hear({News::Kind::kHandedOut, number, 1});
  EXPECT_EQ(model.broken(), "m-0000000000000000 was handed out twice as one attempt");
}
TEST_F(ModelTest, FindsARefusalOfWhatWasAccepted) {
  model.hear({News::Kind::kAccepted, number});
  model.hear({News::Kind::kRefusedByOther, number});
  EXPECT_EQ(model.broken(), "m-0000000000000000 was refused after it was accepted");
}
TEST_F(ModelTest, FindsWhatCameOutOfOrder) {
  const MessageNumber second = model.add(kFirstName, kSecondName, true);
  model.hear({News::Kind::kHandedOut, second, 1});
  model.hear({News::Kind::kHandedOut, number, 1});
  EXPECT_EQ(model.broken(), "m-0000000000000000 is out of order");
}
TEST_F(ModelTest, MayLoseOnlyWhatTheOtherPodHolds) {
  EXPECT_TRUE(model.may_lose(kFirstName));
  model.hear({News::Kind::kSenderHas, number});
  model.hear({News::Kind::kAccepted, number});
  EXPECT_FALSE(model.may_lose(kFirstName));
  model.hear({News::Kind::kReceiverHas, number});
  EXPECT_TRUE(model.may_lose(kFirstName));
  model.lose(kFirstName);
  EXPECT_FALSE(model.may_lose(kSecondName));
}

}  // namespace
}  // namespace swarm::simulator
