#include "lifecycle/pressure.h"

#include <gtest/gtest.h>

#include <random>

namespace swarm::lifecycle {
namespace {

constexpr auto kMemory = Resource::kMemory;
constexpr std::uint64_t kLimit = 10'000;  // so that one is a hundredth of a percent

// One resource of it, looked at every second.
struct Watched {
  int at(std::uint64_t used, std::uint64_t limit = kLimit) {
    now += Milliseconds{1000};
    pressure.observe(now, kMemory, {used, limit});
    return pressure.share(kMemory);
  }
  Pressure pressure;
  MonoTime now{Milliseconds{5000}};
};

TEST(Pressure, TightensAtOnceAndNeverToNothing) {
  const struct {
    std::uint64_t used, limit;
    int share;
  } rows[] = {
      {0, kLimit, 100},    {7500, kLimit, 100}, {7501, kLimit, 99}, {8500, kLimit, 55},
      {9400, kLimit, 14},  {9500, kLimit, 10},  {9999, kLimit, 10}, {kLimit, kLimit, 10},
      {99999, kLimit, 10}, {99999, 0, 100},  // no limit is known
      {1, 1, 10},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(Watched().at(row.used, row.limit), row.share) << row.used << " of " << row.limit;
  }
}

TEST(Pressure, RecoversInStepsToAllOfIt) {
  Watched w;
  ASSERT_EQ(w.at(9900), 10);
  for (int share = 20; share <= 100; share += 10) EXPECT_EQ(w.at(5000), share);
  EXPECT_EQ(w.at(5000), 100);
  EXPECT_EQ(w.pressure.level(kMemory), 0.5);
  ASSERT_EQ(w.at(9900), 10);
  EXPECT_EQ(w.at(0, 0), 20) << "what can't be read any more is not short";
  // Looked at more often, it is not faster.
  for (int i = 1; i < 10; ++i) {
    w.pressure.observe(w.now + Milliseconds{99 * i}, kMemory, {0, kLimit});
    EXPECT_EQ(w.pressure.share(kMemory), 20);
  }
}

TEST(Pressure, DoesNotFlapAtAThreshold) {
  Watched w;
  ASSERT_EQ(w.at(7600), 95);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(w.at(i % 2 == 0 ? 7400 : 7600), 95) << i;
  for (int i = 0; i < 100; ++i) EXPECT_EQ(w.at(7100), 95) << "within the band";
  EXPECT_EQ(w.at(7000), 100);
}

TEST(Pressure, ChangesNoLimitWithinABandAndFollowsUsageOutsideOfIt) {
  std::mt19937_64 generator(7);  // the same on every machine
  const auto below = [&](std::uint64_t n) { return generator() % n; };
  for (int world = 0; world < 2000; ++world) {
    Watched w;
    const auto low = below(kLimit - 500);
    w.at(low + 500);
    const int first = w.pressure.share(kMemory);
    for (int i = 0; i < 20; ++i) {
      ASSERT_EQ(w.at(low + below(501)), first) << low;
    }
    int last = first;
    for (int i = 0; i < 50; ++i) {
      const auto used = below(kLimit + 1);
      const int share = w.at(used);
      ASSERT_GE(share, kLeastSharePercent);
      ASSERT_LE(share, 100);
      ASSERT_LE(share, Watched().at(used)) << "more than usage allows";
      ASSERT_LE(share, last + kRecoverPercent) << "risen by more than a step";
      last = share;
    }
    // Monotone: from the same past, more in use never means more granted.
    Watched more = w;
    const auto used = below(kLimit);
    ASSERT_LE(more.at(used + 1 + below(kLimit - used)), w.at(used));
    for (int i = 0; i < 9; ++i) w.at(below(7001));
    ASSERT_EQ(w.pressure.share(kMemory), 100) << "recovered in nine steps";
  }
}

TEST(Pressure, OfOneResourceIsNotThatOfAnother) {
  Pressure pressure;
  const MonoTime now{Milliseconds{1}};
  pressure.observe(now, Resource::kDescriptors, {9000, kLimit});
  pressure.observe(now, Resource::kVolume, {8000, kLimit});
  EXPECT_EQ(pressure.share(kMemory), 100);
  EXPECT_EQ(pressure.tightest({kMemory}).percent, 100);
  const auto mail = pressure.tightest({kMemory, Resource::kVolume});
  EXPECT_EQ(mail.because, Resource::kVolume);
  EXPECT_EQ(mail.percent, pressure.share(Resource::kVolume));
  EXPECT_LT(pressure.share(Resource::kDescriptors), mail.percent);
}

TEST(Pressure, OfMemoryIsThatBesideTheLog) {
  const std::uint64_t mi = 1U << 20U;
  const os::Usage log{64 * mi, 64 * mi};
  EXPECT_EQ(working_memory({20 * mi, 70 * mi, 192 * mi}, log), (os::Usage{26 * mi, 128 * mi}));
  EXPECT_EQ(working_memory({20 * mi, 5 * mi, 192 * mi}, log), (os::Usage{20 * mi, 128 * mi}))
      << "a former container has written the log";
  EXPECT_EQ(working_memory({20 * mi, 5 * mi, 192 * mi}, {}), (os::Usage{25 * mi, 192 * mi}));
  EXPECT_EQ(working_memory({20 * mi, 30 * mi, 64 * mi}, log), (os::Usage{50 * mi, 64 * mi}));
  EXPECT_EQ(working_memory({20 * mi, 70 * mi, 0}, log), os::Usage{});
}

TEST(Pressure, TheWholeOfALimitIsExactlyIt) {
  for (const std::uint64_t limit : {1U, 2U, 3U, 7U, 99U, 1000U, 100'001U}) {
    EXPECT_EQ(share_of(limit, 100), limit);
    std::uint64_t last = 0;
    for (int percent = kLeastSharePercent; percent <= 100; ++percent) {
      EXPECT_GE(share_of(limit, percent), std::max<std::uint64_t>(1, last));
      last = share_of(limit, percent);
    }
  }
  EXPECT_EQ(share_of(1000, 25), 250U);
}

}  // namespace
}  // namespace swarm::lifecycle
