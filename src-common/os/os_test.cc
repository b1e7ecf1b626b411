#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>
#include <filesystem>

#include "os/file.h"
#include "os/time.h"

namespace swarm::os {
namespace {

class PosixFileTest : public ::testing::Test {
 protected:
  PosixFileTest() {
    std::string pattern = ::testing::TempDir() + "swarm-os-XXXXXX";
    path_ = ::mkdtemp(pattern.data());
  }
  ~PosixFileTest() override { std::filesystem::remove_all(path_); }
  std::string path_;
};

TEST_F(PosixFileTest, WritesReadsListsRemoves) {
  auto dir = open_directory(path_);
  ASSERT_TRUE(dir);
  auto file = (*dir)->open("a", true);
  ASSERT_TRUE(file);
  ASSERT_TRUE((*file)->allocate(4096));
  ASSERT_TRUE((*file)->write_at(10, "hello"));
  EXPECT_EQ(*(*file)->read_at(9, 7), std::string("\0hello\0", 7));
  EXPECT_EQ(*(*file)->size(), 4096U);
  EXPECT_EQ(*(*dir)->list(), std::vector<std::string>{"a"});
  ASSERT_TRUE((*dir)->rename("a", "b"));
  ASSERT_TRUE((*dir)->remove("b"));
  EXPECT_TRUE((*dir)->list()->empty());
  EXPECT_EQ((*dir)->open("b", false).error().code, Code::kNotFound);
}

TEST(PosixView, ShowsAFileInMemoryAsItIsAndBecomes) {
  std::string pattern = "/dev/shm/swarm-os-XXXXXX";
  const std::string path = ::mkdtemp(pattern.data());
  {
    auto dir = open_directory(path);
    auto file = (*dir)->open("a", true);
    ASSERT_TRUE((*file)->allocate(8192));
    ASSERT_TRUE((*file)->write_at(4096, "before"));
    const auto view = (*file)->view(8192);
    ASSERT_TRUE(view);
    EXPECT_EQ(view->bytes().size(), 8192U);
    EXPECT_EQ(view->bytes().substr(4095, 7), std::string_view("\0before", 7));
    ASSERT_TRUE((*file)->write_at(4096, "after"));
    EXPECT_EQ(view->bytes().substr(4096, 6), "aftere");
    EXPECT_EQ((*file)->view(8193), nullptr) << "beyond its end there is nothing to look at";
  }
  std::filesystem::remove_all(path);
}

class PosixMemoryTest : public ::testing::Test {
 protected:
  PosixMemoryTest() {
    std::string pattern = "/dev/shm/swarm-os-XXXXXX";
    path_ = ::mkdtemp(pattern.data());
    dir_ = *open_directory(path_);
  }
  ~PosixMemoryTest() override { std::filesystem::remove_all(path_); }
  [[nodiscard]] std::unique_ptr<File> open(const std::string& name) const {
    return *dir_->open(name, true);
  }
  [[nodiscard]] bool is_mapped(const std::string& name) const {
    return read_file("/proc/self/maps")->find(path_ + "/" + name) != std::string::npos;
  }
  std::string path_;
  std::unique_ptr<Directory> dir_;
};

TEST_F(PosixMemoryTest, WhatIsAllocatedIsWrittenThroughAMappingAndReadByOthers) {
  const auto file = open("a");
  ASSERT_TRUE(file->allocate(8192));
  EXPECT_FALSE(is_mapped("a")) << "before it is written to";
  std::string text(200, '\0');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>('a' + i % 26);
  ASSERT_TRUE(file->write_at(4000, text));  // over the end of a page
  EXPECT_TRUE(is_mapped("a"));
  const auto other = open("a");
  EXPECT_EQ(*other->read_at(3999, 202), '\0' + text + '\0');
  EXPECT_EQ(*file->read_at(3999, 202), '\0' + text + '\0');
  // What is not words at a multiple of 8 goes the other way, to the same bytes.
  ASSERT_TRUE(file->write_at(4001, "odd"));
  EXPECT_EQ(*file->read_at(4000, 6), "aodde" + text.substr(5, 1));
  ASSERT_TRUE(other->write_at(4008, "of other"));
  EXPECT_EQ(*file->read_at(4008, 8), "of other");
}

TEST_F(PosixMemoryTest, AMappingEndsWhereTheFileDid) {
  const auto file = open("a");
  ASSERT_TRUE(file->allocate(4096));
  ASSERT_TRUE(file->write_at(4088, "12345678"));
  ASSERT_TRUE(file->write_at(4088, "abcdefghijklmnop"));
  EXPECT_EQ(*file->size(), 4104U);
  EXPECT_EQ(*file->read_at(4088, 100), "abcdefghijklmnop");
}

TEST_F(PosixMemoryTest, NoneOfAFileThatLacksPages) {
  const auto hole = open("hole");
  std::filesystem::resize_file(path_ + "/hole", 8192);
  ASSERT_TRUE(hole->write_at(0, "12345678"));
  EXPECT_FALSE(is_mapped("hole")) << "its other page may find no room";
  ASSERT_TRUE(hole->allocate(8192));
  ASSERT_TRUE(hole->write_at(8, "12345678"));
  EXPECT_TRUE(is_mapped("hole"));
  const auto large = open("large");
  ASSERT_TRUE(large->allocate((1U << 20U) + 4096));
  ASSERT_TRUE(large->write_at(0, "12345678"));
  EXPECT_FALSE(is_mapped("large"));
}

TEST_F(PosixMemoryTest, AMappingGoesWithItsFile) {
  auto file = open("a");
  ASSERT_TRUE(file->allocate(4096));
  ASSERT_TRUE(file->write_at(0, "12345678"));
  ASSERT_TRUE(is_mapped("a"));
  file.reset();
  EXPECT_FALSE(is_mapped("a"));
}

TEST_F(PosixFileTest, NoMappingElsewhereThanInMemory) {
  struct statfs system {};
  ASSERT_EQ(::statfs(path_.c_str(), &system), 0);
  if (system.f_type == TMPFS_MAGIC) GTEST_SKIP() << path_ << " is in memory";
  auto dir = open_directory(path_);
  auto file = (*dir)->open("a", true);
  ASSERT_TRUE((*file)->allocate(4096));
  ASSERT_TRUE((*file)->write_at(0, "12345678"));
  EXPECT_EQ(read_file("/proc/self/maps")->find(path_), std::string::npos);
}

// A process that is killed leaves a prefix of what it was writing, in whole words.
TEST_F(PosixMemoryTest, WhatAKilledProcessLeavesIsAPrefix) {
  constexpr std::size_t kBytes = 64U << 10U;
  constexpr int kKills = 60;
  int torn = 0;
  for (int i = 0; i < kKills; ++i) {
    const std::string name = "a" + std::to_string(i);
    const auto file = open(name);
    ASSERT_TRUE(file->allocate(kBytes));
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      const std::array<std::string, 3> rounds{std::string(kBytes, 'a'), std::string(kBytes, 'b'),
                                              std::string(kBytes, 'c')};
      for (std::size_t round = 0;; ++round) (void)file->write_at(0, rounds.at(round % 3));
    }
    ::usleep(static_cast<useconds_t>(3000 + 137 * i));
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    const std::string left = *open(name)->read_at(0, kBytes);
    const auto whole = std::min(left.find_first_not_of(left[0]), left.size());
    EXPECT_EQ(whole % 8, 0U);
    if (whole == left.size()) continue;
    ++torn;
    const char before =
        left[0] == 'a' ? (left[whole] == 'c' ? 'c' : '\0') : static_cast<char>(left[0] - 1);
    EXPECT_EQ(left.find_first_not_of(before, whole), std::string::npos)
        << "behind what was not written yet, at " << whole;
  }
  EXPECT_GT(torn, kKills / 4);
}

TEST_F(PosixFileTest, RefusesSymbolicLinks) {
  std::filesystem::create_symlink("/etc/passwd", path_ + "/link");
  auto dir = open_directory(path_);
  ASSERT_TRUE(dir);
  EXPECT_FALSE((*dir)->open("link", false));
}

// The first pwrite() stops at the limit, the next one says why.
TEST_F(PosixFileTest, AShortWriteIsNotTakenForAWholeOne) {
  auto dir = open_directory(path_);
  auto file = (*dir)->open("a", true);
  ASSERT_TRUE(file);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 100;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status written = (*file)->write_at(90, std::string(20, 'x'));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_FALSE(written);
  EXPECT_EQ(*(*file)->size(), 100U);
}

TEST_F(PosixFileTest, ReadFileHasALimit) {
  auto dir = open_directory(path_);
  auto file = (*dir)->open("a", true);
  ASSERT_TRUE((*file)->write_at(0, "12345"));
  EXPECT_EQ(*read_file(path_ + "/a", 5), "12345");
  EXPECT_EQ(read_file(path_ + "/a", 4).error().code, Code::kInvalid);
  std::string large;
  for (int i = 0; i < 5000; ++i) large += std::to_string(i);
  ASSERT_TRUE((*file)->write_at(0, large));
  EXPECT_EQ(*read_file(path_ + "/a"), large);
  EXPECT_EQ(*read_file(path_ + "/a", large.size()), large);
  EXPECT_FALSE(read_file(path_ + "/a", large.size() - 1));
}

TEST(DirectoryLock, OneOwnerUntilItIsGone) {
  std::string path = ::testing::TempDir() + "swarm-lock-XXXXXX";
  ASSERT_NE(::mkdtemp(path.data()), nullptr);
  auto first = lock_directory(path);
  ASSERT_TRUE(first);
  EXPECT_EQ(lock_directory(path).error().code, Code::kConflict);
  first->reset();
  EXPECT_TRUE(lock_directory(path));
  std::filesystem::remove_all(path);
  EXPECT_EQ(lock_directory(path).error().code, Code::kNotFound);
}

}  // namespace
}  // namespace swarm::os
