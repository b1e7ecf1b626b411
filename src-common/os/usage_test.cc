#include "os/usage.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <vector>

namespace swarm::os {
namespace {

constexpr const char* kStat2 = "anon 1000\nfile 7000\nshmem 300\nanon_thp 5\n";
constexpr const char* kStat1 =
    "rss 1\nshmem 2\ntotal_cache 9000\ntotal_rss 1000\ntotal_shmem 300\n";

struct Cgroups : ::testing::Test {
  Cgroups() {
    std::string pattern = ::testing::TempDir() + "swarm-usage-XXXXXX";
    root = ::mkdtemp(pattern.data());
  }
  ~Cgroups() override { std::filesystem::remove_all(root); }
  void file(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(root + name).parent_path());
    std::ofstream(root + name) << text;
  }
  [[nodiscard]] MemoryUsage look() const { return memory_usage(root + "/cg", root + "/self"); }
  std::string root;
};

TEST_F(Cgroups, OfBothVersionsAreRead) {
  file("/self", "0::/\n");
  file("/cg/memory.max", "4096\n");
  file("/cg/memory.stat", kStat2);
  EXPECT_EQ(look(), (MemoryUsage{1000, 300, 4096}));
  std::filesystem::remove_all(root + "/cg");
  file("/self", "9:cpu,cpuacct:/x\n4:memory:/kubepods/pod1\n");  // not what is mounted here
  file("/cg/memory/memory.limit_in_bytes", "4096\n");
  file("/cg/memory/memory.stat", kStat1);
  EXPECT_EQ(look(), (MemoryUsage{1000, 300, 4096}));
}

TEST_F(Cgroups, OursIsFoundInTheNodesTree) {
  file("/self", "0::/kubepods/pod1\n");
  file("/cg/memory.max", "1000000\n");
  file("/cg/memory.stat", "anon 5\nshmem 6\n");
  EXPECT_EQ(look(), (MemoryUsage{5, 6, 1'000'000})) << "ours is not there";
  file("/cg/kubepods/pod1/memory.max", "4096\n");
  file("/cg/kubepods/pod1/memory.stat", kStat2);
  EXPECT_EQ(look(), (MemoryUsage{1000, 300, 4096}));
}

TEST_F(Cgroups, WithoutALimitOrUnreadableSayNothing) {
  EXPECT_EQ(look(), MemoryUsage{});
  file("/self", "0::/\n");
  file("/cg/memory.max", "4096\n");
  EXPECT_EQ(look(), MemoryUsage{}) << "no memory.stat";
  file("/cg/memory.stat", kStat2);
  for (const char* none : {"max\n", "", "-1\n", "9223372036854771712\n"}) {
    file("/cg/memory.max", none);
    EXPECT_EQ(look().limit, 0U) << none;
  }
}

TEST(DescriptorUsage, CountsWhatIsOpenAgainstTheSoftLimit) {
  rlimit files{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  const Usage before = descriptor_usage();
  EXPECT_EQ(before.limit, files.rlim_cur);
  ASSERT_GT(before.used, 0U);
  std::vector<int> open(10);
  for (int& fd : open) fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(descriptor_usage().used, before.used + open.size());
  for (const int fd : open) ::close(fd);
  EXPECT_EQ(descriptor_usage(), before);
}

TEST(DescriptorUsage, IsFullWhenNotEvenOneMoreCanBeOpened) {
  rlimit files{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  const rlimit few{descriptor_usage().used, files.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  const Usage full = descriptor_usage();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
  EXPECT_EQ(full, (Usage{few.rlim_cur, few.rlim_cur}));
}

TEST(VolumeUsage, IsThatOfTheFileSystem) {
  const Usage shm = volume_usage("/dev/shm");
  EXPECT_GT(shm.limit, 0U);
  EXPECT_LE(shm.used, shm.limit);
  EXPECT_EQ(volume_usage("/no/such/path"), Usage{});
}

}  // namespace
}  // namespace swarm::os
