#include "mailbox/grants.h"

#include <gtest/gtest.h>

#include <map>
#include <optional>

namespace swarm::mailbox {
namespace {

Grants::Sender sender(int number) { return {{"worker-" + std::to_string(number)}, 0}; }

constexpr MonoTime kNow{};
auto places(std::size_t free) {
  return [free](const Grants::Claims& claims, std::uint64_t) { return claims.places < free; };
}

TEST(Grants, PlacesAreKeptInTheOrderOfAsking) {
  Grants grants;
  const MonoTime now{};
  grants.refused(kNow, sender(1), 1);
  grants.refused(kNow, sender(2), 1);
  grants.refused(kNow, sender(1), 1);  // waits already: keeps its turn
  EXPECT_EQ(grants.next(now, places(0)), std::nullopt) << "nothing is free";
  EXPECT_EQ(grants.next(now, places(1)), sender(1));
  EXPECT_EQ(grants.next(now, places(1)), std::nullopt) << "the one place is kept";
  EXPECT_EQ(grants.ahead_of(sender(2)).places, 1U);
  EXPECT_EQ(grants.ahead_of(sender(3)).places, 2U) << "two came before";
  EXPECT_EQ(grants.ahead_of(sender(1)).places, 0U) << "it is its own";
  grants.end(sender(1));
  EXPECT_EQ(grants.next(now, places(1)), sender(2));
}

TEST(Grants, WhatIsNotUsedGoesToTheNextOne) {
  Grants grants;
  const MonoTime now{};
  grants.refused(kNow, sender(1), 1);
  grants.refused(kNow, sender(2), 1);
  ASSERT_EQ(grants.next(now, places(1)), sender(1));
  ASSERT_EQ(grants.deadline(), now + kGrantTime);
  EXPECT_EQ(grants.next(now + kGrantTime - Milliseconds{1}, places(1)), std::nullopt);
  EXPECT_EQ(grants.next(now + kGrantTime, places(1)), sender(2));
  EXPECT_EQ(grants.ahead_of(sender(3)).places, 1U);
  EXPECT_EQ(grants.next(now + 2 * kGrantTime, places(1)), std::nullopt);
  EXPECT_TRUE(grants.idle());
}

// A place was kept for it, not room enough for what it sends: it waits again, and gets another one.
TEST(Grants, WhatIsKeptForOneIsCountedOnce) {
  Grants grants;
  grants.refused(kNow, sender(1), 100);
  ASSERT_EQ(grants.next(kNow, places(1)), sender(1));
  grants.refused(kNow, sender(1), 900);
  ASSERT_EQ(grants.next(kNow, places(2)), sender(1));
  EXPECT_EQ(grants.granted().places, 1U);
  EXPECT_EQ(grants.granted().bytes, 900U);
  EXPECT_EQ(grants.ahead_of(sender(1)).bytes, 0U) << "it is its own";
  EXPECT_EQ(grants.ahead_of(sender(2)).bytes, 900U);
  grants.end(sender(1));
  EXPECT_EQ(grants.granted().bytes, 0U);
}

TEST(Grants, WhoIsLateHasWhatIsFree) {
  Grants grants;
  MonoTime now{};
  for (int n = 1; n <= 3; ++n) grants.refused(kNow, sender(n), 1);
  ASSERT_EQ(grants.next(now, places(1)), sender(1));
  now += kGrantTime;
  ASSERT_EQ(grants.next(now, places(1)), sender(2));
  EXPECT_EQ(grants.ahead_of(sender(1)).places, 0U);
  EXPECT_EQ(grants.ahead_of(sender(3)).places, 1U);
  grants.end(sender(1));
  EXPECT_EQ(grants.ahead_of(sender(1)).places, 2U) << "it had its turn";
}

TEST(Grants, WhoAsksAgainSoonerHasNoMoreTurns) {
  Grants grants;
  for (int n = 1; n <= 3; ++n) grants.refused(kNow, sender(n), 1);
  for (int n = 1; n <= 2; ++n) {
    ASSERT_EQ(grants.next(kNow, places(1)), sender(n));
    grants.end(sender(n));
  }
  grants.refused(kNow, sender(2), 1);
  grants.refused(kNow, sender(4), 1);  // new
  grants.refused(kNow, sender(1), 1);
  for (int n : {3, 1, 2, 4}) {
    ASSERT_EQ(grants.next(kNow, places(1)), sender(n));
    grants.end(sender(n));
  }
}

TEST(Grants, AFreePlaceFoundByChanceIsATurn) {
  Grants grants;
  grants.refused(kNow, sender(1), 1);
  grants.refused(kNow, sender(2), 1);
  ASSERT_EQ(grants.ahead_of(sender(1)).places, 0U) << "it may have what is free";
  grants.end(sender(1));
  grants.refused(kNow, sender(1), 1);
  EXPECT_EQ(grants.next(kNow, places(1)), sender(2));
}

TEST(Grants, NothingIsKeptForWhoHasGone) {
  Grants grants;
  for (int n = 1; n <= 3; ++n) grants.refused(kNow, sender(n), 1);
  ASSERT_EQ(grants.next({}, places(2)), sender(1));
  grants.forget({"worker-1"});
  grants.forget({"worker-2"});
  EXPECT_EQ(grants.next({}, places(1)), sender(3));
  grants.forget({"worker-3"});
  EXPECT_TRUE(grants.idle());
}

TEST(Grants, TheFirstWaitsUntilItsMessageFits) {
  Grants grants;
  grants.refused(kNow, sender(1), 100);
  grants.refused(kNow, sender(2), 10);
  const auto room = [](const Grants::Claims& claims, std::uint64_t bytes) {
    return claims.bytes + bytes <= 50;
  };
  EXPECT_EQ(grants.ahead_of(sender(2)).bytes, 100U);
  EXPECT_EQ(grants.next({}, room), std::nullopt) << "smaller ones do not overtake it for ever";
  EXPECT_EQ(grants.next({}, places(1)), sender(1));
  EXPECT_EQ(grants.granted().bytes, 100U);
}

TEST(Grants, WhoDoesNotAskAnyMoreDoesNotWait) {
  Grants grants;
  grants.refused(kNow, sender(1), 100);
  grants.refused(kNow, sender(2), 10);
  MonoTime now = kNow + kAskedWithin - Milliseconds{1};
  grants.refused(now, sender(2), 20);
  EXPECT_EQ(grants.deadline(), kNow + kAskedWithin);
  EXPECT_EQ(grants.next(now, places(0)), std::nullopt);
  now += Milliseconds{1};
  EXPECT_EQ(grants.next(now, places(1)), sender(2));
  EXPECT_EQ(grants.granted().bytes, 20U) << "as it asked last";
}

TEST(Grants, TheQueueHasALimit) {
  Grants grants;
  for (std::size_t n = 0; n <= kMaxWaitingSenders; ++n)
    grants.refused(kNow, sender(static_cast<int>(n)), 1);
  std::size_t told = 0;
  while (grants.next({}, places(kMaxWaitingSenders + 2))) ++told;
  EXPECT_EQ(told, kMaxWaitingSenders);
}

// Some send all they can, some little, some give up and some never use what is kept for them: of
// those that always want, none gets two places more than another.
TEST(Grants, AreFairAmongThoseThatAlwaysWant) {
  constexpr int kSenders = 20;
  Grants grants;
  std::map<int, int> got;
  MonoTime now{};
  const auto ask = [&](const Grants::Sender& one) { grants.refused(now, one, 1); };
  for (int n = 0; n < kSenders; ++n) ask(sender(n));
  for (int place = 0; place < 3000; ++place) {  // one becomes free at a time
    auto next = grants.next(now, places(1));
    if (!next) {
      now += kGrantTime;
      next = grants.next(now, places(1));
    }
    ASSERT_TRUE(next);
    const int number = std::stoi(next->pod.value.substr(7));
    if (number % 10 == 3) {
      now += kGrantTime;  // does not use it; asks again when it is over
    } else {
      grants.end(*next);
      ++got[number];
    }
    ask(*next);
    for (int n = 0; n < kSenders; ++n) ask(sender(n));  // now and then
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
