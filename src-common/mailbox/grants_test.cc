#include "mailbox/grants.h"

#include <gtest/gtest.h>

#include <map>
#include <optional>

namespace swarm::mailbox {
namespace {

Grants::Sender sender(int number) { return {{"worker-" + std::to_string(number)}, 0}; }

TEST(Grants, PlacesAreKeptInTheOrderOfAsking) {
  Grants grants;
  const MonoTime now{};
  grants.refused(sender(1));
  grants.refused(sender(2));
  grants.refused(sender(1));  // waits already: keeps its turn
  EXPECT_EQ(grants.next(now, 0), std::nullopt) << "nothing is free";
  EXPECT_EQ(grants.next(now, 1), sender(1));
  EXPECT_EQ(grants.next(now, 1), std::nullopt) << "the one place is kept";
  EXPECT_EQ(grants.kept_from(sender(2)), 1U);
  EXPECT_EQ(grants.kept_from(sender(3)), 2U) << "two came before";
  EXPECT_EQ(grants.kept_from(sender(1)), 0U) << "it is its own";
  grants.end(sender(1));
  EXPECT_EQ(grants.next(now, 1), sender(2));
}

TEST(Grants, WhatIsNotUsedGoesToTheNextOne) {
  Grants grants;
  const MonoTime now{};
  grants.refused(sender(1));
  grants.refused(sender(2));
  ASSERT_EQ(grants.next(now, 1), sender(1));
  ASSERT_EQ(grants.deadline(), now + kGrantTime);
  EXPECT_EQ(grants.next(now + kGrantTime - Milliseconds{1}, 1), std::nullopt);
  EXPECT_EQ(grants.next(now + kGrantTime, 1), sender(2));
  EXPECT_EQ(grants.kept_from(sender(3)), 1U);
  EXPECT_EQ(grants.next(now + 2 * kGrantTime, 1), std::nullopt);
  EXPECT_TRUE(grants.idle());
}

TEST(Grants, WhoIsLateHasWhatIsFree) {
  Grants grants;
  MonoTime now{};
  for (int n = 1; n <= 3; ++n) grants.refused(sender(n));
  ASSERT_EQ(grants.next(now, 1), sender(1));
  now += kGrantTime;
  ASSERT_EQ(grants.next(now, 1), sender(2));
  EXPECT_EQ(grants.kept_from(sender(1)), 0U);
  EXPECT_EQ(grants.kept_from(sender(3)), 1U);
  grants.end(sender(1));
  EXPECT_EQ(grants.kept_from(sender(1)), 2U) << "it had its turn";
}

TEST(Grants, NothingIsKeptForWhoHasGone) {
  Grants grants;
  for (int n = 1; n <= 3; ++n) grants.refused(sender(n));
  ASSERT_EQ(grants.next({}, 2), sender(1));
  grants.forget({"worker-1"});
  grants.forget({"worker-2"});
  EXPECT_EQ(grants.next({}, 1), sender(3));
  grants.forget({"worker-3"});
  EXPECT_TRUE(grants.idle());
}

TEST(Grants, TheQueueHasALimit) {
  Grants grants;
  for (std::size_t n = 0; n <= kMaxWaitingSenders; ++n) grants.refused(sender(static_cast<int>(n)));
  std::size_t told = 0;
  while (grants.next({}, kMaxWaitingSenders + 2)) ++told;
  EXPECT_EQ(told, kMaxWaitingSenders);
}

// Some send all they can, some little, some give up and some never use what is kept for them: of
// those that always want, none gets two places more than another.
TEST(Grants, AreFairAmongThoseThatAlwaysWant) {
  constexpr int kSenders = 20;
  Grants grants;
  std::map<int, int> got;
  MonoTime now{};
  for (int n = 0; n < kSenders; ++n) grants.refused(sender(n));
  for (int place = 0; place < 3000; ++place) {  // one becomes free at a time
    auto next = grants.next(now, 1);
    if (!next) {
      now += kGrantTime;
      next = grants.next(now, 1);
    }
    ASSERT_TRUE(next);
    const int number = std::stoi(next->pod.value.substr(7));
    if (number % 10 == 3) {
      now += kGrantTime;  // does not use it; asks again when it is over
    } else {
      grants.end(*next);
      ++got[number];
    }
    grants.refused(*next);
  }
  int least = 1 << 30, most = 0;
  for (const auto& [number, count] : got) {
    least = std::min(least, count);
    most = std::max(most, count);
  }
  EXPECT_EQ(got.size(), 18U);
  EXPECT_LE(most - least, 1);
}

}  // namespace
}  // namespace swarm::mailbox
