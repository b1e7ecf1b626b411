// Two directories as one: files are made in the first, and in the second where the first has no
// room for what is allocated. The log's spill: segments on disk when the tmpfs is full.
//
// Only allocate() moves a file, before anything else is written to it. Threads: as a Directory.
// Ownership: both directories are the Overflow's.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "os/file.h"

namespace swarm::log {

struct OverflowLimits {
  std::uint64_t second_bytes = 0;  // of all files in the second directory together
  std::uint64_t unit_bytes = 1;    // space() counts whole units: no file is in both directories
};

class Overflow final : public os::Directory {
 public:
  // Error: one of them can't be listed, or both have a file of the same name.
  static Result<std::unique_ptr<Overflow>> make(std::unique_ptr<os::Directory> first,
                                                std::unique_ptr<os::Directory> second,
                                                const OverflowLimits& limits);

  Result<std::unique_ptr<os::File>> open(const std::string& name, bool create) override;
  Status remove(const std::string& name) override;
  Status rename(const std::string& from, const std::string& to) override;
  Result<std::vector<std::string>> list() override;
  Result<os::Space> space() override;
  Status sync() override;
  [[nodiscard]] bool is_slow(const std::string& name) const override {
    return in_second_.count(name) != 0;
  }

  [[nodiscard]] std::uint64_t second_bytes() const { return second_bytes_; }

 private:
  class MovableFile;
  Overflow(std::unique_ptr<os::Directory> first, std::unique_ptr<os::Directory> second,
           const OverflowLimits& limits);
  os::Directory& place_of(const std::string& name) { return is_slow(name) ? *second_ : *first_; }
  Result<std::unique_ptr<os::File>> move(const std::string& name, std::uint64_t size);

  std::unique_ptr<os::Directory> first_, second_;
  OverflowLimits limits_;
  std::set<std::string> in_second_;
  std::uint64_t second_bytes_ = 0;
};

}  // namespace swarm::log
