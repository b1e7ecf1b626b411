// The files of one directory below drop/, all of which anybody may make, change and swap at any
// time: claimed by a rename, read, answered beside. Docs: docs/mailbox.md, "Files that are sent".
//
// Whoever swaps names may get the wrong file of his own sent; nothing outside of the directory is
// ever touched, no call waits for a writer or reader, and a file that is claimed is never lost: a
// claim that a crash has left is found again.
//
// What a crash may leave of LABEL, in this order: .sending-LABEL and .LABEL.options, which are sent
// again; beside them .outcome-LABEL.WORD, which is written anew then; that one without the claim,
// which is given its name at last. Since the outcome appears only when the claim has gone, and the
// options of what was accepted with it, whoever has seen it may use the name again, and no crash
// makes of one message another one: with no options, or with those of the next.
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

inline constexpr std::size_t kMaxDropOptionsBytes = 4096;

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
  struct Claim {
    std::string label;    // its name, or, where that can't be shown, its id
    MessageId id;         // the same for the same file, until somebody writes to it
    std::string options;  // the id of the file with them; empty: there is none
    bool again = false;   // a former life has claimed it, and perhaps sent it
  };
  // A file that was claimed.
  struct Claimed : Claim {
    Result<std::string> body;  // kInvalid: why it can't be sent
    Result<std::optional<std::string>> options_text =
        std::optional<std::string>();  // kInvalid: why they can't be read
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
  // The file goes, and its options with it, or, unless it was accepted, stays as .LABEL.WORD; the
  // outcome's lines are beside it as LABEL.WORD. False: they could not be written down, and it is
  // claimed again, or they have no name yet, and the next looks try it.
  bool settle(const Claim& file, std::string_view word, std::string_view lines);
  // How `name` is shown: as it is or, where it can't be shown, the file's id.
  [[nodiscard]] std::string label_of(const std::string& name) const;
  // Writes `name` unless it is there; true: it has.
  bool note(const std::string& name, std::string_view line);

 private:
  struct CloseDir {
    void operator()(DIR* dir) const { ::closedir(dir); }
  };
  bool draft(const std::string& name, std::string_view text);
  bool publish(const std::string& name, const std::string& instead);
  void publish_left(const std::string& name, const std::set<std::string>& under_way);
  void read_options(Claimed& file);

  Descriptor directory_;
  std::string pod_;
  std::unique_ptr<DIR, CloseDir> listing_;
};

// Where the options of the file of that label are.
std::string drop_options_name(const std::string& label);

// An outcome's file, or a name with a dot in front: never sent.
bool is_ignored_drop(std::string_view name);

}  // namespace swarm::engine
