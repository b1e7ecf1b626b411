// With the sidecar's operator new and delete in place of the library's.
#include <gtest/gtest.h>
#include <malloc.h>

#include <cstring>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "sim/random.h"

namespace swarm {
namespace {

TEST(SmallBlocks, ABlockComesBackToTheNextOfItsSize) {
  void* const first = ::operator new(40);
  ::operator delete(first, 40);
  void* const other = ::operator new(16);  // of another list
  EXPECT_NE(other, first);
  void* const again = ::operator new(48);  // rounded up to the same
  EXPECT_EQ(again, first);
  ::operator delete(other, 16);
  ::operator delete(again);  // without its size, it is malloc's
}

// Of any sizes, freed in any order, in this thread or another: no two overlap.
TEST(SmallBlocks, NoTwoOverlap) {
  struct Owned {
    unsigned char* bytes;
    std::size_t size;
    unsigned char mark;
  };
  sim::Random random(1);
  std::vector<Owned> owned;
  const auto end = [](const Owned& o, bool sized) {
    for (std::size_t i = 0; i < o.size; ++i) ASSERT_EQ(o.bytes[i], o.mark) << i << " of " << o.size;
    if (sized)
      ::operator delete(o.bytes, o.size);
    else
      ::operator delete(o.bytes);
  };
  for (int step = 0; step < 200'000; ++step) {
    if (random.below(600) >= owned.size()) {
      const std::size_t size = random.below(600);  // some are not small
      const auto mark = static_cast<unsigned char>(random.below(256));
      auto* const bytes = static_cast<unsigned char*>(::operator new(size));
      std::memset(bytes, mark, size);
      owned.push_back({bytes, size, mark});
      continue;
    }
    std::swap(owned[random.below(owned.size())], owned.back());
    const bool sized = random.chance(90);
    if (step % 5000 == 0)
      std::thread([&] { end(owned.back(), sized); }).join();
    else
      end(owned.back(), sized);
    owned.pop_back();
  }
  for (const auto& o : owned) end(o, true);
}

TEST(SmallBlocks, WhatIsKeptHasALimit) {
  constexpr std::size_t kBlocks = 200'000, kSize = 64;
  const auto before = ::mallinfo2().uordblks;
  std::vector<void*> blocks(kBlocks);
  for (auto& block : blocks) block = ::operator new(kSize);
  EXPECT_GT(::mallinfo2().uordblks, before + kBlocks * kSize);
  for (void* const block : blocks) ::operator delete(block, kSize);
  // Of malloc's own words a block has two more; it keeps some itself.
  EXPECT_LT(::mallinfo2().uordblks, before + (3U << 20U));
}

}  // namespace
}  // namespace swarm
