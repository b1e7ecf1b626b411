// The files of one directory below drop/, all of which anybody may make, change and swap at any
// time: claimed by a rename, read, answered beside. Docs: docs/mailbox.md, "Files that are sent".
//
// Whoever swaps names may get the wrong file of his own sent; nothing outside of the directory is
// ever touched, no call waits for a writer or reader, and a file that is claimed is never lost: a
// claim that a crash has left is found again.
//
// Threads: the loop's. Everything here is synchronous, on tmpfs.
#pragma once

#include <dirent.h>

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/ids.h"
#include "base/result.h"

namespace swarm::engine {

inline constexpr std::size_t kMaxDropNameBytes = 200;  // leaves room for what is put around a name

// A descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor();
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// Opens `name` below `directory`: no link is followed, nothing outside is reached, no FIFO waited
// for. An empty one: errno says why.
Descriptor open_beneath(int directory, const char* name, int flags);

class DropFiles {
 public:
  // A file that was claimed.
  struct Claimed {
    std::string label;         // its name, or, where that can't be shown, its id
    MessageId id;              // the same for the same file, until somebody writes to it
    Result<std::string> body;  // kInvalid: why it can't be sent
  };
  // That nothing was claimed. kReserved: it has the name of an outcome, and is none of ours.
  enum class Why { kIgnored, kGone, kBusy, kDenied, kReserved };

  // `pod`: what tells this volume's files from those of the pod before it, whose inodes had the
  // same numbers.
  DropFiles(Descriptor directory, std::string pod)
      : directory_(std::move(directory)), pod_(std::move(pod)) {}
  [[nodiscard]] int fd() const { return directory_.get(); }

  // The next name in the directory, from the beginning after begin(); empty: none.
  void begin();
  std::optional<std::string> next();
  // Takes the file of that name. A claim of a former life is taken again; `under_way` says which
  // labels are claimed now.
  std::variant<Claimed, Why> claim(const std::string& name, std::size_t max_bytes,
                                   const std::set<std::string>& under_way);
  // The outcome's lines beside it as LABEL.WORD; then the file goes, or, unless it was accepted,
  // stays as .LABEL.WORD. False: it could not be written down; the file is claimed again.
  bool settle(const Claimed& file, std::string_view word, std::string_view lines);
  // How `name` is shown: as it is or, where it can't be shown, the file's id.
  [[nodiscard]] std::string label_of(const std::string& name) const;
  // Writes `name` unless it is there; true: it has.
  bool note(const std::string& name, std::string_view line);

 private:
  struct CloseDir {
    void operator()(DIR* dir) const { ::closedir(dir); }
  };
  bool write(const std::string& name, std::string_view text);

  Descriptor directory_;
  std::string pod_;
  std::unique_ptr<DIR, CloseDir> listing_;
};

// An outcome's file, or a name with a dot in front: never sent.
bool is_ignored_drop(std::string_view name);

}  // namespace swarm::engine
