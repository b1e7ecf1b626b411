#include "reconcile/elector.h"

#include <gtest/gtest.h>

namespace swarm::reconcile {
namespace {

MonoTime at(std::int64_t ms) { return MonoTime(Milliseconds(ms)); }

ElectorOptions options(const std::string& identity) {
  ElectorOptions out;
  out.namespace_name = "n";
  out.identity = identity;
  return out;
}

kube::LeaseRecord record(const std::string& holder, const std::string& version, WallTime renewed = 0) {
  kube::LeaseRecord out;
  out.holder = holder;
  out.duration_seconds = 15;
  out.renew_time = renewed;
  out.resource_version = version;
  return out;
}

TEST(LeaseState, TakesAnAbsentOrReleasedLeaseAtOnce) {
  LeaseState state(options("me"));
  EXPECT_EQ(state.wanted(at(0), 5)->holder, "me");
  state.seen(record("", "1"), at(0));
  const auto wanted = state.wanted(at(0), 5);
  ASSERT_TRUE(wanted);
  EXPECT_EQ(wanted->resource_version, "1");
  EXPECT_EQ(wanted->transitions, 1);
}

TEST(LeaseState, WaitsTheWholeDurationOnItsOwnClockAfterEveryChange) {
  LeaseState state(options("me"));
  state.seen(record("other", "1", 999'999'999'999), at(1000));
  EXPECT_FALSE(state.wanted(at(15'999), 0));
  state.seen(record("other", "2", 0), at(10'000));  // renewed; what its clock says does not matter
  EXPECT_FALSE(state.wanted(at(24'999), 0));
  state.seen(record("other", "2", 0), at(20'000));  // unchanged
  EXPECT_TRUE(state.wanted(at(25'000), 0));
}

TEST(LeaseState, WritesOnlyUntilTheRenewDeadlineAndNeverBeyondTheLease) {
  LeaseState state(options("me"));
  EXPECT_EQ(state.remaining(at(0)), Milliseconds{0});
  state.renewed(record("me", "1"), at(1000));
  EXPECT_EQ(state.remaining(at(1000)), Milliseconds{15'000});
  EXPECT_EQ(state.remaining(at(10'999)), Milliseconds{5'001});
  EXPECT_EQ(state.remaining(at(11'000)), Milliseconds{0});
  EXPECT_FALSE(state.lost(at(10'999)));
  EXPECT_TRUE(state.lost(at(11'000)));
  state.absent();
  EXPECT_TRUE(state.lost(at(11'000)));
}

TEST(LeaseState, TwoCandidatesNeverBothHaveTimeToWrite) {
  // One step a second; b sees a's writes late, and a's last write is the one at `last`.
  for (std::int64_t last = 0; last < 30'000; last += 1000) {
    LeaseState a(options("a")), b(options("b"));
    for (std::int64_t now = 0; now < 60'000; now += 500) {
      if (now <= last && now % 2000 == 0) {
        a.renewed(record("a", std::to_string(now)), at(now));
        b.seen(record("a", std::to_string(now)), at(now + 250));
      }
      if (b.held() || b.wanted(at(now), 0)) {
        if (!b.held() && now > 0) b.renewed(record("b", "x"), at(now));
        if (b.held()) {
          ASSERT_EQ(a.remaining(at(now)), Milliseconds{0}) << last << " " << now;
        }
      }
    }
    EXPECT_TRUE(b.held());
  }
}

TEST(LeaseState, ReleasesOnlyWhatItHolds) {
  LeaseState state(options("me"));
  EXPECT_FALSE(state.released(0));
  state.seen(record("other", "1"), at(0));
  EXPECT_FALSE(state.released(0));
  state.renewed(record("me", "2"), at(0));
  EXPECT_EQ(state.released(0)->holder, "");
  EXPECT_EQ(state.released(0)->duration_seconds, 1);
}

}  // namespace
}  // namespace swarm::reconcile
