#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
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
