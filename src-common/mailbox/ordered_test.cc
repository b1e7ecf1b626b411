#include "mailbox/ordered.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <set>

#include "sim/random.h"

namespace swarm::mailbox {
namespace {

TEST(OrderedSet, InsertsFindsAndErases) {
  OrderedSet<int> set;
  for (const int key : {3, 1, 2, 3}) set.insert(key);
  EXPECT_EQ(std::vector<int>(set.begin(), set.end()), (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(set.count(2), 1U);
  EXPECT_EQ(set.count(4), 0U);
  EXPECT_EQ(set.find(0), set.end());
  EXPECT_EQ(set.erase(2), 1U);
  EXPECT_EQ(set.erase(2), 0U);
  EXPECT_EQ(std::vector<int>(set.begin(), set.end()), (std::vector<int>{1, 3}));
}

// Beside the containers of the library, as queues and at random.
TEST(Ordered, DoesWhatTreesDo) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    sim::Random random(seed);
    OrderedSet<std::uint64_t> set;
    std::set<std::uint64_t> expected_set;
    OrderedMap<std::uint64_t, std::uint64_t> map;
    std::map<std::uint64_t, std::uint64_t> expected_map;
    const std::uint64_t span = 1 + random.below(600), sway = 1 + random.below(40);
    std::uint64_t next = 0;
    for (int step = 0; step < 2000; ++step) {
      const bool grows = random.below(span) >= expected_set.size();
      if (grows) {
        const std::uint64_t key = random.chance(80) ? ++next : random.below(next + sway);
        set.insert(key);
        expected_set.insert(key);
        map[key] = static_cast<std::uint64_t>(step);
        expected_map[key] = static_cast<std::uint64_t>(step);
      } else {
        auto victim = expected_set.begin();
        if (random.chance(30))
          std::advance(victim, static_cast<long>(random.below(expected_set.size())));
        const std::uint64_t key = random.chance(5) ? next + 1000 : *victim;
        ASSERT_EQ(set.erase(key), expected_set.erase(key));
        ASSERT_EQ(map.erase(key), expected_map.erase(key));
      }
      ASSERT_EQ(set.size(), expected_set.size());
      ASSERT_TRUE(std::equal(set.begin(), set.end(), expected_set.begin(), expected_set.end()))
          << "seed " << seed << ", step " << step;
      ASSERT_TRUE(std::equal(
          map.begin(), map.end(), expected_map.begin(), expected_map.end(),
          [](const auto& a, const auto& b) { return a.first == b.first && a.second == b.second; }));
      const std::uint64_t probe = random.below(next + 2);
      ASSERT_EQ(set.count(probe), expected_set.count(probe));
      const auto found = map.find(probe);
      ASSERT_EQ(found == map.end(), expected_map.count(probe) == 0);
      if (found != map.end()) {
        ASSERT_EQ(found->second, expected_map.at(probe));
      }
    }
  }
}

TEST(OrderedSet, GrowsInFrontAndGivesRoomBack) {
  OrderedSet<int> set;
  for (int key = 1000; key > 0; --key) set.insert(2 * key);
  for (int key = 1000; key > 0; --key) set.insert(2 * key - 1);
  std::vector<int> expected(2000);
  std::iota(expected.begin(), expected.end(), 1);
  EXPECT_EQ(std::vector<int>(set.begin(), set.end()), expected);
  for (int key = 1; key < 2000; ++key) EXPECT_EQ(set.erase(key), 1U);
  EXPECT_EQ(std::vector<int>(set.begin(), set.end()), std::vector<int>{2000});
  EXPECT_LT(set.capacity(), 32U);
}

TEST(OrderedSet, WhatWasMovedFromIsEmpty) {
  OrderedSet<int> set;
  for (const int key : {1, 2, 3}) set.insert(key);
  set.erase(1);
  OrderedSet<int> other = std::move(set);
  EXPECT_TRUE(set.empty());  // NOLINT(bugprone-use-after-move): that is what is tested
  EXPECT_EQ(other.size(), 2U);
  set.insert(7);
  EXPECT_EQ(std::vector<int>(set.begin(), set.end()), std::vector<int>{7});
}

}  // namespace
}  // namespace swarm::mailbox
