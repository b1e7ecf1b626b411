#include "log/overflow.h"

#include <algorithm>

namespace swarm::log {

// A file that was made in the first directory and may still have to move.
class Overflow::MovableFile final : public os::File {
 public:
  MovableFile(Overflow& directory, std::string name, std::unique_ptr<os::File> file)
      : directory_(directory), name_(std::move(name)), file_(std::move(file)) {}

  Status write_at(std::uint64_t offset, std::string_view data) override {
    return file_->write_at(offset, data);
  }
  Result<std::string> read_at(std::uint64_t offset, std::size_t length) override {
    return file_->read_at(offset, length);
  }
  std::unique_ptr<os::View> view(std::size_t length) override { return file_->view(length); }
  Result<std::uint64_t> size() override { return file_->size(); }
  Status sync() override { return file_->sync(); }

  Status allocate(std::uint64_t size) override {
    Status done = file_->allocate(size);
    if (done || done.error().code != Code::kFull) return done;
    auto moved = directory_.move(name_, size);
    if (!moved) return moved.error();
    file_ = std::move(*moved);
    return {};
  }

 private:
  Overflow& directory_;
  std::string name_;
  std::unique_ptr<os::File> file_;
};

Overflow::Overflow(std::unique_ptr<os::Directory> first, std::unique_ptr<os::Directory> second,
                   const OverflowLimits& limits)
    : first_(std::move(first)), second_(std::move(second)), limits_(limits) {}

Result<std::unique_ptr<Overflow>> Overflow::make(std::unique_ptr<os::Directory> first,
                                                 std::unique_ptr<os::Directory> second,
                                                 const OverflowLimits& limits) {
  std::unique_ptr<Overflow> out(new Overflow(std::move(first), std::move(second), limits));
  auto memory = out->first_->list();
  if (!memory) return memory.error();
  auto names = out->second_->list();
  if (!names) return names.error();
  for (const std::string& name : *names) {
    if (std::binary_search(memory->begin(), memory->end(), name))
      return internal_error(name + " is in both directories");
    auto file = out->second_->open(name, false);
    auto size = file ? (*file)->size() : Result<std::uint64_t>(file.error());
    if (!size) return size.error();
    out->second_bytes_ += *size;
    out->in_second_.insert(name);
  }
  return out;
}

Result<std::unique_ptr<os::File>> Overflow::open(const std::string& name, bool create) {
  if (is_slow(name)) return second_->open(name, false);
  auto file = first_->open(name, false);
  if (file || !create || file.error().code != Code::kNotFound) return file;
  file = first_->open(name, true);
  if (!file) return file;
  return std::unique_ptr<os::File>(std::make_unique<MovableFile>(*this, name, std::move(*file)));
}

Result<std::unique_ptr<os::File>> Overflow::move(const std::string& name, std::uint64_t size) {
  if (second_bytes_ + size > limits_.second_bytes)
    return Error{Code::kFull, "memory and the " + std::to_string(limits_.second_bytes) +
                                  " bytes of disk beside it are full"};
  // In this order: no crash leaves it in both.
  if (auto s = first_->remove(name); !s) return s.error();
  auto file = second_->open(name, true);
  if (!file) return file;
  if (auto s = (*file)->allocate(size); !s) {
    (void)second_->remove(name);  // else the next start finds it, shorter than it was to be
    return s.error();
  }
  in_second_.insert(name);
  second_bytes_ += size;
  return file;
}

Status Overflow::remove(const std::string& name) {
  if (!is_slow(name)) return first_->remove(name);
  auto file = second_->open(name, false);
  auto size = file ? (*file)->size() : Result<std::uint64_t>(file.error());
  if (!size) return size.error();
  if (auto s = second_->remove(name); !s) return s;
  in_second_.erase(name);
  second_bytes_ -= std::min(second_bytes_, *size);
  return {};
}

Status Overflow::rename(const std::string& from, const std::string& to) {
  if (auto s = place_of(from).rename(from, to); !s) return s;
  if (in_second_.erase(from) != 0) in_second_.insert(to);
  return {};
}

Result<std::vector<std::string>> Overflow::list() {
  auto names = first_->list();
  if (!names) return names;
  names->insert(names->end(), in_second_.begin(), in_second_.end());
  std::sort(names->begin(), names->end());
  return names;
}

Result<os::Space> Overflow::space() {
  auto first = first_->space();
  if (!first) return first;
  auto second = second_->space();
  if (!second) return second;
  const auto whole = [this](std::uint64_t bytes) {
    return bytes / limits_.unit_bytes * limits_.unit_bytes;
  };
  const std::uint64_t left = limits_.second_bytes - std::min(limits_.second_bytes, second_bytes_);
  return os::Space{
      whole(first->total_bytes) + whole(std::min(second->total_bytes, limits_.second_bytes)),
      whole(first->free_bytes) + whole(std::min(second->free_bytes, left))};
}

Status Overflow::sync() {
  if (auto s = first_->sync(); !s) return s;
  return second_->sync();
}

}  // namespace swarm::log
