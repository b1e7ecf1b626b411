// A directory in memory with a size limit and faults, for tests of what is stored. Test-only.
//
// Crash model (kill -9 of a process on a local file system): a write survives when its call has
// returned; the one in progress may have left any prefix, except that aligned writes of at most 8
// bytes are atomic. crash_in(n) stops the n-th change from now in the middle; from then on every
// call fails until restart(). restart() may additionally undo a random number of the latest changes
// down to the last barrier(): a stricter world, in which only what was committed lasts.
//
// Power loss (a journal on a disk): power_loss() keeps of what was written since a file's last
// sync() any of the writes, of names that were changed since the directory's last sync() the first
// ones.
//
// An observer hears of every change before it happens, and what will become of it.
//
// Threads: one. Files borrow the Directory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "os/file.h"
#include "sim/random.h"

namespace swarm::sim {

class FakeDirectory final : public os::Directory {
 public:
  enum class Fault { kNone, kFail, kCrash };
  struct Change {
    enum class Kind { kCreate, kRemove, kRename, kAllocate, kWrite } kind = Kind::kWrite;
    std::string_view name;     // as the file was opened
    std::uint64_t offset = 0;  // of kWrite
    std::string_view data;
  };
  using Observer = std::function<void(const Change&, Fault)>;

  explicit FakeDirectory(std::uint64_t capacity_bytes) : capacity_(capacity_bytes) {}

  void crash_in(std::uint64_t changes) { crash_at_ = changes_ + changes; }
  void fail_in(std::uint64_t changes) {
    fail_at_ = changes_ + changes;
  }  // ENOSPC after a short write, once
  void set_capacity(std::uint64_t bytes) { capacity_ = bytes; }
  void calm() { crash_at_ = fail_at_ = 0; }
  void barrier() { undo_.clear(); }
  void observe(Observer observer) { observer_ = std::move(observer); }
  // Without it restart() undoes nothing, and changes cost less.
  void keep_undo(bool keep) { keep_undo_ = keep; }
  [[nodiscard]] bool crashed() const { return crashed_; }
  [[nodiscard]] std::uint64_t changes() const { return changes_; }
  void crash() { crashed_ = true; }
  // After a crash: the directory as the next process finds it. Files opened before must be gone.
  // Returns how many changes were undone.
  std::size_t restart(Random* undo) {
    std::size_t undone = 0;
    if (undo != nullptr && !undo_.empty() && undo->chance(50)) {
      undone = undo->below(undo_.size() + 1);
      for (std::size_t n = undone; n > 0; --n) {
        undo_.back()();
        undo_.pop_back();
      }
    }
    undo_.clear();
    crashed_ = false;
    calm();
    return undone;
  }
  void wipe() {
    files_.clear();
    undo_.clear();
  }
  // From now on it is known what is not synced yet.
  void keep_unsynced() {
    keep_unsynced_ = true;
    names_since_sync_ = {files_};
  }
  // Files opened before must be gone.
  void power_loss(Random& random) {
    files_ = names_since_sync_[random.below(names_since_sync_.size())];
    for (auto& [bytes, unsynced] : unsynced_) {
      *bytes = unsynced.synced;
      for (const auto& [offset, data] : unsynced.writes) {
        if (random.chance(50)) continue;
        if (offset + data.size() > bytes->size()) bytes->resize(offset + data.size(), '\0');
        bytes->replace(offset, data.size(), data);
      }
    }
    unsynced_.clear();
    names_since_sync_ = {files_};
    crashed_ = false;
    undo_.clear();
    calm();
  }
  // The files of `other`, as they are now.
  void copy_files(const FakeDirectory& other) {
    wipe();
    for (const auto& [name, bytes] : other.files_)
      files_[name] = std::make_shared<std::string>(*bytes);
  }
  // Direct access for damage; nullptr when absent.
  std::string* content(const std::string& name) {
    const auto it = files_.find(name);
    return it == files_.end() ? nullptr : it->second.get();
  }

  Result<std::unique_ptr<os::File>> open(const std::string& name, bool create) override {
    if (crashed_) return dead();
    const auto it = files_.find(name);
    if (it == files_.end()) {
      if (!create) return not_found(name);
      switch (change({Change::Kind::kCreate, name, 0, {}})) {
        case Fault::kCrash:
          return dead();
        case Fault::kFail:
          return Error{Code::kFull, "no space"};
        case Fault::kNone:
          break;
      }
      files_[name] = std::make_shared<std::string>();
      names_changed();
      if (keep_undo_) undo_.push_back([this, name] { files_.erase(name); });
    }
    return std::unique_ptr<os::File>(std::make_unique<FakeFile>(*this, name, files_.at(name)));
  }
  Status remove(const std::string& name) override {
    if (crashed_) return dead();
    const auto it = files_.find(name);
    if (it == files_.end()) return not_found(name);
    if (const Fault f = change({Change::Kind::kRemove, name, 0, {}}); f != Fault::kNone)
      return f == Fault::kCrash ? dead() : internal_error("remove failed");
    if (keep_undo_) undo_.push_back([this, name, kept = it->second] { files_[name] = kept; });
    files_.erase(it);
    names_changed();
    return {};
  }
  Status rename(const std::string& from, const std::string& to) override {
    if (crashed_) return dead();
    const auto it = files_.find(from);
    if (it == files_.end()) return not_found(from);
    if (const Fault f = change({Change::Kind::kRename, from, 0, {}}); f != Fault::kNone)
      return f == Fault::kCrash ? dead() : internal_error("rename failed");
    std::shared_ptr<std::string> replaced;
    if (const auto old = files_.find(to); old != files_.end()) replaced = old->second;
    files_[to] = it->second;
    files_.erase(from);
    names_changed();
    if (!keep_undo_) return {};
    undo_.push_back([this, from, to, replaced] {
      files_[from] = files_.at(to);
      if (replaced)
        files_[to] = replaced;
      else
        files_.erase(to);
    });
    return {};
  }
  // Whether its files can be looked at without a copy, as in memory, or not, as on a disk.
  void offer_views(bool offer) { views_ = offer; }
  Result<std::vector<std::string>> list() override {
    if (crashed_) return dead();
    std::vector<std::string> names;
    for (const auto& [name, bytes] : files_) names.push_back(name);
    return names;
  }
  Result<os::Space> space() override {
    if (crashed_) return dead();
    const std::uint64_t u = used();
    return os::Space{capacity_, capacity_ > u ? capacity_ - u : 0};
  }
  Status sync() override {
    if (crashed_) return dead();
    if (keep_unsynced_) names_since_sync_ = {files_};
    return {};
  }

 private:
  using Bytes = std::shared_ptr<std::string>;
  struct Unsynced {
    std::string synced;
    std::vector<std::pair<std::size_t, std::string>> writes;
  };
  void names_changed() {
    if (keep_unsynced_) names_since_sync_.push_back(files_);
  }
  Unsynced& unsynced_of(const Bytes& bytes) {
    return unsynced_.try_emplace(bytes, Unsynced{*bytes, {}}).first->second;
  }
  static Error dead() { return internal_error("the process is dead"); }
  [[nodiscard]] std::uint64_t used() const {
    std::uint64_t sum = 0;
    for (const auto& [name, bytes] : files_) sum += bytes->size();
    return sum;
  }
  Fault change(const Change& what) {
    ++changes_;
    Fault fault = Fault::kNone;
    if (crash_at_ != 0 && changes_ >= crash_at_) {
      crashed_ = true;
      fault = Fault::kCrash;
    } else if (fail_at_ != 0 && changes_ >= fail_at_) {
      fail_at_ = 0;
      fault = Fault::kFail;
    }
    if (observer_) observer_(what, fault);
    return fault;
  }

  class FakeView final : public os::View {
   public:
    FakeView(std::shared_ptr<std::string> file, std::size_t length)
        : file_(std::move(file)), length_(length) {}
    [[nodiscard]] std::string_view bytes() const override {
      return std::string_view(*file_).substr(0, length_);
    }

   private:
    std::shared_ptr<std::string> file_;
    std::size_t length_;
  };

  class FakeFile final : public os::File {
   public:
    std::unique_ptr<os::View> view(std::size_t length) override {
      if (!directory_.views_ || directory_.crashed_ || bytes_->size() < length) return nullptr;
      return std::make_unique<FakeView>(bytes_, length);
    }
    FakeFile(FakeDirectory& directory, std::string name, std::shared_ptr<std::string> bytes)
        : directory_(directory), name_(std::move(name)), bytes_(std::move(bytes)) {}
    Status write_at(std::uint64_t offset, std::string_view data) override {
      if (directory_.crashed_) return dead();
      const Fault fault = directory_.change({Change::Kind::kWrite, name_, offset, data});
      std::size_t size = data.size();
      const bool atomic = size <= 8 && offset / 8 == (offset + size - 1) / 8;
      if (fault != Fault::kNone)
        size = atomic ? 0 : static_cast<std::size_t>((directory_.changes_ * 7919) % (size + 1));
      const std::size_t grown = static_cast<std::size_t>(offset) + size;
      const std::size_t old_size = bytes_->size();
      if (grown > old_size) {
        if (directory_.used() + (grown - old_size) > directory_.capacity_)
          return Error{Code::kFull, "no space"};
        bytes_->resize(grown, '\0');
      }
      if (directory_.keep_undo_) {
        directory_.undo_.push_back([bytes = bytes_, offset, old_size,
                                    kept = bytes_->substr(static_cast<std::size_t>(offset), size)] {
          bytes->replace(static_cast<std::size_t>(offset), kept.size(), kept);
          bytes->resize(old_size);
        });
      }
      if (directory_.keep_unsynced_)
        directory_.unsynced_of(bytes_).writes.emplace_back(offset, data.substr(0, size));
      bytes_->replace(static_cast<std::size_t>(offset), size, data.substr(0, size));
      if (fault == Fault::kCrash) return dead();
      if (fault == Fault::kFail) return Error{Code::kFull, "no space"};
      return {};
    }
    Result<std::string> read_at(std::uint64_t offset, std::size_t length) override {
      if (directory_.crashed_) return dead();
      if (offset >= bytes_->size()) return std::string();
      return bytes_->substr(static_cast<std::size_t>(offset), length);
    }
    Status allocate(std::uint64_t size) override {
      if (directory_.crashed_) return dead();
      const Fault fault = directory_.change({Change::Kind::kAllocate, name_, 0, {}});
      if (fault == Fault::kCrash) return dead();
      if (fault == Fault::kFail) return Error{Code::kFull, "no space"};
      const std::size_t old_size = bytes_->size();
      if (size <= old_size) return {};
      if (directory_.used() + (size - old_size) > directory_.capacity_)
        return Error{Code::kFull, "no space"};
      bytes_->resize(static_cast<std::size_t>(size), '\0');
      if (directory_.keep_undo_)
        directory_.undo_.push_back([bytes = bytes_, old_size] { bytes->resize(old_size); });
      return {};
    }
    Result<std::uint64_t> size() override {
      if (directory_.crashed_) return dead();
      return std::uint64_t{bytes_->size()};
    }
    Status sync() override {
      if (directory_.crashed_) return dead();
      directory_.unsynced_.erase(bytes_);
      return {};
    }

   private:
    FakeDirectory& directory_;
    std::string name_;
    std::shared_ptr<std::string> bytes_;
  };

  std::uint64_t capacity_;
  std::uint64_t changes_ = 0, crash_at_ = 0, fail_at_ = 0;
  bool crashed_ = false, keep_undo_ = true, views_ = true;
  Observer observer_;
  std::map<std::string, std::shared_ptr<std::string>> files_;
  std::vector<std::function<void()>> undo_;
  bool keep_unsynced_ = false;
  std::map<Bytes, Unsynced> unsynced_;
  std::vector<std::map<std::string, Bytes>> names_since_sync_;  // the first is what is synced
};

}  // namespace swarm::sim
