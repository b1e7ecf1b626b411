#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "os/file.h"
#include "os/time.h"

namespace swarm {

MonoTime mono_now() {
  return std::chrono::time_point_cast<Milliseconds>(std::chrono::steady_clock::now());
}

WallTime wall_now() {
  return std::chrono::duration_cast<Milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

namespace os {
namespace {

constexpr std::size_t kWordBytes = sizeof(std::uint64_t);
constexpr std::size_t kFirstRead = 4096;  // of read_file(); doubled as long as there is more

Error errno_error(const std::string& what) {
  const int e = errno;
  Code code = Code::kInternal;
  if (e == ENOSPC || e == EDQUOT || e == ENOMEM) code = Code::kFull;
  if (e == ENOENT) code = Code::kNotFound;
  if (e == EACCES || e == EPERM || e == EROFS) code = Code::kDenied;
  return {code, what + ": " + std::strerror(e)};
}

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

class MappedView final : public View {
 public:
  MappedView(void* begin, std::size_t length) : begin_(begin), length_(length) {}
  MappedView(const MappedView&) = delete;
  MappedView& operator=(const MappedView&) = delete;
  ~MappedView() override { ::munmap(begin_, length_); }
  [[nodiscard]] std::string_view bytes() const override {
    return {static_cast<const char*>(begin_), length_};
  }

 private:
  void* begin_;
  std::size_t length_;
};

// In the order of their addresses, each word whole: what a process that dies in here leaves behind
// is a prefix, as after pwrite(2), and volatile keeps the order among several calls.
void store_words(char* to, std::string_view data) {
  auto* words = reinterpret_cast<volatile std::uint64_t*>(to);
  for (std::size_t i = 0; i < data.size() / kWordBytes; ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, data.data() + i * kWordBytes, kWordBytes);
    words[i] = word;
  }
}

class PosixFile final : public File {
 public:
  PosixFile(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}
  PosixFile(const PosixFile&) = delete;
  PosixFile& operator=(const PosixFile&) = delete;
  ~PosixFile() override {
    if (memory_ != nullptr) ::munmap(memory_, memory_bytes_);
  }

  // Only in memory: where a device can fail to give a page, touching that would be a signal.
  std::unique_ptr<View> view(std::size_t length) override {
    struct statfs system {};
    const auto has = size();
    if (!has || *has < length || ::fstatfs(fd_.get(), &system) != 0 || system.f_type != TMPFS_MAGIC)
      return nullptr;
    void* begin = ::mmap(nullptr, length, PROT_READ, MAP_SHARED | MAP_POPULATE, fd_.get(), 0);
    return begin == MAP_FAILED ? nullptr : std::make_unique<MappedView>(begin, length);
  }

  Status write_at(std::uint64_t offset, std::string_view data) override {
    if (!std::exchange(asked_to_map_, true)) map();
    if (in_memory(offset, data.size()) && offset % kWordBytes == 0 &&
        data.size() % kWordBytes == 0) {
      store_words(memory_ + offset, data);
      return {};
    }
    while (!data.empty()) {
      const ssize_t n = ::pwrite(fd_.get(), data.data(), data.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return errno_error("write " + name_);
      if (n == 0) return Error{Code::kFull, "write " + name_ + ": no progress"};
      data.remove_prefix(static_cast<std::size_t>(n));
      offset += static_cast<std::uint64_t>(n);
    }
    return {};
  }

  Result<std::string> read_at(std::uint64_t offset, std::size_t length) override {
    if (in_memory(offset, length)) return std::string(memory_ + offset, length);
    std::string out(length, '\0');
    std::size_t have = 0;
    while (have < length) {
      const ssize_t n =
          ::pread(fd_.get(), out.data() + have, length - have, static_cast<off_t>(offset + have));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return errno_error("read " + name_);
      if (n == 0) break;
      have += static_cast<std::size_t>(n);
    }
    out.resize(have);
    return out;
  }

  Status allocate(std::uint64_t size) override {
    if (memory_ == nullptr) asked_to_map_ = false;
    int e = 0;
    do {
      e = ::posix_fallocate(fd_.get(), 0, static_cast<off_t>(size));
    } while (e == EINTR);
    if (e != 0) {
      errno = e;
      return errno_error("allocate " + name_);
    }
    return {};
  }

  Result<std::uint64_t> size() override {
    struct stat st {};
    if (::fstat(fd_.get(), &st) != 0) return errno_error("stat " + name_);
    return static_cast<std::uint64_t>(st.st_size);
  }

  Status sync() override {
    if (::fdatasync(fd_.get()) != 0) return errno_error("sync " + name_);
    return {};
  }

 private:
  [[nodiscard]] bool in_memory(std::uint64_t offset, std::size_t length) const {
    return offset <= memory_bytes_ && length <= memory_bytes_ - offset;
  }

  // Where touching a page can fail (no room for it, a device that does not answer) that would be a
  // signal: so only of a file system in memory, and only a file that has all of its pages. Not
  // before the first write: an index of many files that are only read would cost page tables.
  void map() {
    struct stat st {};
    struct statfs system {};
    if (::fstat(fd_.get(), &st) != 0 || st.st_size <= 0 || st.st_size > kMaxMappedBytes ||
        st.st_blocks * kBlockBytes < st.st_size || ::fstatfs(fd_.get(), &system) != 0 ||
        system.f_type != TMPFS_MAGIC)
      return;
    const auto bytes = static_cast<std::size_t>(st.st_size);
    void* begin = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    if (begin == MAP_FAILED) return;
    memory_ = static_cast<char*>(begin);
    memory_bytes_ = bytes;
  }

  static constexpr off_t kMaxMappedBytes = 1 << 20;  // the largest segment of a log
  static constexpr off_t kBlockBytes = 512;          // of st_blocks, on every file system

  Fd fd_;
  std::string name_;
  bool asked_to_map_ = false;  // since it was opened or allocated
  char* memory_ = nullptr;     // the file, from its beginning
  std::size_t memory_bytes_ = 0;
};

class PosixDirectory final : public Directory {
 public:
  PosixDirectory(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}

  Result<std::unique_ptr<File>> open(const std::string& name, bool create) override {
    const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0);
    const int fd = ::openat(fd_.get(), name.c_str(), flags, 0600);
    if (fd < 0) return errno_error("open " + path_ + "/" + name);
    return std::unique_ptr<File>(std::make_unique<PosixFile>(fd, path_ + "/" + name));
  }

  Status remove(const std::string& name) override {
    if (::unlinkat(fd_.get(), name.c_str(), 0) != 0) return errno_error("remove " + name);
    return {};
  }

  Status rename(const std::string& from, const std::string& to) override {
    if (::renameat(fd_.get(), from.c_str(), fd_.get(), to.c_str()) != 0) {
      return errno_error("rename " + from);
    }
    return {};
  }

  Result<std::vector<std::string>> list() override {
    const int copy = ::openat(fd_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (copy < 0) return errno_error("list " + path_);
    DIR* dir = ::fdopendir(copy);
    if (dir == nullptr) {
      ::close(copy);
      return errno_error("list " + path_);
    }
    std::vector<std::string> names;
    while (const dirent* entry = ::readdir(dir)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
    }
    ::closedir(dir);
    std::sort(names.begin(), names.end());
    return names;
  }

  Result<Space> space() override {
    struct statvfs st {};
    if (::fstatvfs(fd_.get(), &st) != 0) return errno_error("statvfs " + path_);
    return Space{st.f_blocks * st.f_frsize, st.f_bavail * st.f_frsize};
  }

  Status sync() override {
    if (::fsync(fd_.get()) != 0) return errno_error("sync " + path_);
    return {};
  }

 private:
  Fd fd_;
  std::string path_;
};

class PosixLock final : public DirectoryLock {
 public:
  explicit PosixLock(int fd) : fd_(fd) {}

 private:
  Fd fd_;
};

}  // namespace

Result<std::unique_ptr<Directory>> open_directory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno_error("open " + path);
  return std::unique_ptr<Directory>(std::make_unique<PosixDirectory>(fd, path));
}

Result<std::unique_ptr<DirectoryLock>> lock_directory(const std::string& path) {
  // A file: network file systems know locks of directories on one node only.
  const std::string name = path + "/lock";
  const int fd = ::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return errno_error("open " + name);
  auto lock = std::make_unique<PosixLock>(fd);
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return std::unique_ptr<DirectoryLock>(std::move(lock));
  if (errno == EWOULDBLOCK) return Error{Code::kConflict, path + " is used by another process"};
  return errno_error("lock " + path);
}

Result<std::string> read_file(const std::string& path, std::size_t limit) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno_error("open " + path);
  PosixFile file(fd, path);
  // Files of /proc and cgroups do not say how large they are; few are as large as the limit.
  std::string text;
  for (std::size_t step = kFirstRead; text.size() <= limit; step *= 2) {
    const auto part = file.read_at(text.size(), std::min(step, limit + 1 - text.size()));
    if (!part) return part.error();
    text += *part;
    if (part->size() < step) break;  // its end, or more than the limit
  }
  if (text.size() > limit)
    return invalid(path + " is larger than " + std::to_string(limit) + " bytes");
  return text;
}

}  // namespace os
}  // namespace swarm
