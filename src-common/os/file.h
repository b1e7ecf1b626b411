// Files of one directory, as the log needs them: the seam at which tests put faults.
//
// Every call is synchronous. Short reads and writes and EINTR are handled inside; ENOSPC is
// Code::kFull. Threads: a File and a Directory belong to one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace swarm::os {

// The beginning of a file in memory, as it is and becomes.
class View {
 public:
  virtual ~View() = default;
  [[nodiscard]] virtual std::string_view bytes() const = 0;
};

class File {
 public:
  virtual ~File() = default;
  // The first `length` bytes without a copy, of a file in memory (tmpfs) that nobody makes shorter;
  // nullptr: not of this one, or not so many: read_at().
  virtual std::unique_ptr<View> view(std::size_t) { return nullptr; }
  // Exactly data.size() bytes at offset, or an error; after an error, or when the process ends in
  // here, any prefix may have been written, of 8 bytes at a multiple of 8 all or none. Allocated
  // files in memory (tmpfs) are written without a system call: nobody may make them shorter, which
  // would end this process (docs/decisions/0014).
  virtual Status write_at(std::uint64_t offset, std::string_view data) = 0;
  // Up to length bytes; fewer only at the end of the file.
  virtual Result<std::string> read_at(std::uint64_t offset, std::size_t length) = 0;
  // Reserves room so that later writes below `size` cannot fail for lack of it. Bytes never written
  // read as 0.
  virtual Status allocate(std::uint64_t size) = 0;
  virtual Result<std::uint64_t> size() = 0;
  // After OK, everything written so far is on the device (fdatasync). After an error nobody knows
  // what is: the file is not to be trusted before it was read again by another process.
  virtual Status sync() = 0;
};

struct Space {
  std::uint64_t total_bytes = 0;
  std::uint64_t free_bytes = 0;
};

class Directory {
 public:
  virtual ~Directory() = default;
  // Opens for reading and writing; makes it (mode 0600) when create is true. Names have no slash.
  virtual Result<std::unique_ptr<File>> open(const std::string& name, bool create) = 0;
  virtual Status remove(const std::string& name) = 0;
  virtual Status rename(const std::string& from, const std::string& to) = 0;
  virtual Result<std::vector<std::string>> list() = 0;  // sorted, without . and ..
  virtual Result<Space> space() = 0;                    // statvfs of the file system
  // After OK, the names are on the device: what was made, renamed, removed.
  virtual Status sync() = 0;
  // The file is somewhere slower than others of this directory: better not kept for reuse.
  [[nodiscard]] virtual bool is_slow(const std::string&) const { return false; }
};

// The directory at `path`, which must exist.
Result<std::unique_ptr<Directory>> open_directory(const std::string& path);

// Keeps others out of the directory for as long as it lives, also after kill -9 of its owner's
// process (flock(2)). kConflict: somebody else has it.
class DirectoryLock {
 public:
  virtual ~DirectoryLock() = default;
};
Result<std::unique_ptr<DirectoryLock>> lock_directory(const std::string& path);

// Whole small files (≤ limit bytes).
Result<std::string> read_file(const std::string& path, std::size_t limit = 1 << 20);

}  // namespace swarm::os
