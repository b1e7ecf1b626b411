#include "log/overflow.h"

#include <gtest/gtest.h>

#include <map>

#include "log/format.h"
#include "log/log.h"
#include "sim/fake_directory.h"
#include "sim/lent_directory.h"
#include "sim/random.h"

namespace swarm::log {
namespace {

constexpr std::uint64_t kUnit = 4096;

using Lent = sim::LentDirectory;  // it outlives the Overflow, as the next start finds it

struct OverflowTest : ::testing::Test {
  std::unique_ptr<Overflow> make(std::uint64_t second_bytes = 4 * kUnit) {
    auto out = Overflow::make(std::make_unique<Lent>(memory), std::make_unique<Lent>(disk),
                              {second_bytes, kUnit});
    EXPECT_TRUE(out) << out.error().message;
    return std::move(*out);
  }
  static Status add(Overflow& directory, const std::string& name) {
    auto file = directory.open(name, true);
    if (!file) return file.error();
    if (auto s = (*file)->allocate(kUnit); !s) return s;
    return (*file)->write_at(0, name);
  }
  sim::FakeDirectory memory{2 * kUnit + 100}, disk{100 * kUnit};
};

TEST_F(OverflowTest, FilesGoToTheSecondWhenTheFirstIsFull) {
  auto both = make();
  for (const char* name : {"a", "b", "c", "d"}) ASSERT_TRUE(add(*both, name)) << name;
  EXPECT_EQ(*memory.list(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(*disk.list(), (std::vector<std::string>{"c", "d"}));
  EXPECT_EQ(both->second_bytes(), 2 * kUnit);
  EXPECT_FALSE(both->is_slow("b"));
  EXPECT_TRUE(both->is_slow("c"));
  EXPECT_EQ(*both->list(), (std::vector<std::string>{"a", "b", "c", "d"}));
  for (const char* name : {"a", "d"}) {
    auto file = both->open(name, false);
    ASSERT_TRUE(file);
    EXPECT_EQ(*(*file)->read_at(0, 1), name);
  }
  ASSERT_TRUE(both->rename("c", "e"));
  EXPECT_TRUE(both->is_slow("e"));
  EXPECT_EQ(both->open("c", false).error().code, Code::kNotFound);
  ASSERT_TRUE(both->remove("a"));
  ASSERT_TRUE(add(*both, "f"));
  EXPECT_FALSE(both->is_slow("f")) << "there is room in memory again";
  ASSERT_TRUE(both->remove("e"));
  EXPECT_EQ(both->second_bytes(), kUnit);
}

TEST_F(OverflowTest, ItsSpaceIsWhatCanBeAllocated) {
  auto both = make(3 * kUnit);
  for (std::uint64_t left = both->space()->free_bytes / kUnit; left > 0; --left) {
    EXPECT_EQ(both->space()->free_bytes, left * kUnit);
    ASSERT_TRUE(add(*both, "f" + std::to_string(left)));
  }
  EXPECT_EQ(both->space()->total_bytes, 5 * kUnit);
  EXPECT_EQ(add(*both, "more").error().code, Code::kFull);
  EXPECT_FALSE(both->is_slow("more"));
  EXPECT_EQ(both->second_bytes(), 3 * kUnit) << "the limit, though the disk has room";
}

TEST_F(OverflowTest, ANextStartFindsBoth) {
  {
    auto both = make();
    for (const char* name : {"a", "b", "c"}) ASSERT_TRUE(add(*both, name));
  }
  auto again = make();
  EXPECT_TRUE(again->is_slow("c"));
  EXPECT_EQ(again->second_bytes(), kUnit);
  ASSERT_TRUE(disk.open("a", true));
  auto twice =
      Overflow::make(std::make_unique<Lent>(memory), std::make_unique<Lent>(disk), {kUnit, kUnit});
  EXPECT_EQ(twice.error().code, Code::kInternal);
}

TEST_F(OverflowTest, NoCrashLeavesAFileInBoth) {
  for (std::uint64_t change = 1; change <= 4; ++change) {
    for (sim::FakeDirectory* dies : {&memory, &disk}) {
      for (sim::FakeDirectory* each : {&memory, &disk}) each->wipe();
      auto both = make();
      for (const char* name : {"a", "b"}) ASSERT_TRUE(add(*both, name));
      dies->crash_in(change);
      (void)add(*both, "c");
      memory.crash();
      disk.crash();
      both.reset();
      memory.restart(nullptr);
      disk.restart(nullptr);
      (void)make();
    }
  }
}

// A log in both places finds all of it at each start, and is back in memory when it is empty.
TEST(OverflowProperty, ALogInBothPlacesLosesNothing) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    sim::Random random(seed);
    constexpr std::uint64_t kDisk = 40 * kUnit;
    sim::FakeDirectory memory((4 + random.below(8)) * kUnit + kSuperblockBytes), disk(2 * kDisk);
    const auto both = [&] {
      auto out = Overflow::make(std::make_unique<Lent>(memory), std::make_unique<Lent>(disk),
                                {kDisk, kUnit});
      EXPECT_TRUE(out);
      return std::move(*out);
    };
    const auto bytes = both()->space()->total_bytes;
    std::map<Sequence, std::string> now;
    std::uint64_t counter = 0, most_on_disk = 0;
    for (int life = 0; life < 4; ++life) {
      const auto directory = both();
      std::map<Sequence, std::string> found;
      Recovery recovery;
      auto opened = Log::open(
          *directory, {.max_bytes = bytes, .segment_bytes = kUnit}, LogId{},
          [&](const Record& r) { found[r.sequence] = r.payload; }, &recovery);
      ASSERT_TRUE(opened) << opened.error().message;
      ASSERT_EQ(found, now);
      ASSERT_EQ(recovery.corrupt_records, 0U);
      Log& log = **opened;
      for (std::size_t steps = random.below(400); steps > 0; --steps) {
        if (random.chance(60) || now.empty()) {
          const std::string payload =
              std::to_string(++counter) + std::string(random.below(1500), 'p');
          const auto sure = log.available_bytes();
          const auto written = log.append(1, payload);
          ASSERT_TRUE(written || payload.size() > sure) << "what is sure to fit does";
          if (written) now[*written] = payload;
        } else {
          const auto it = std::next(now.begin(), static_cast<long>(random.below(now.size())));
          ASSERT_TRUE(log.mark(it->first, State::kDone, 0));
          now.erase(it);
        }
        most_on_disk = std::max(most_on_disk, directory->second_bytes());
      }
      ASSERT_TRUE(log.commit());
      if (life < 3) continue;
      for (const auto& [sequence, payload] : now) ASSERT_TRUE(log.mark(sequence, State::kDone, 0));
      ASSERT_TRUE(log.commit());
      EXPECT_LE(directory->second_bytes(), (kReserveSegments + 1) * kUnit);
    }
    if (seed == 1) {
      EXPECT_GT(most_on_disk, 0U);
    }
  }
}

}  // namespace
}  // namespace swarm::log
