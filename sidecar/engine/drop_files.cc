#include "engine/drop_files.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/encoding.h"

namespace swarm::engine {

namespace {

constexpr std::string_view kClaim = ".sending-";  // before a label
constexpr std::string_view kDraft = ".outcome-";
// Of an outcome; whoever sent it may remove it, and read it anyway. The sticky bit, which means
// nothing on a file, tells it from a file that an agent has given the name of one.
constexpr mode_t kOutcomeMode = 0666, kOutcomeMark = S_ISVTX;
constexpr std::array<std::string_view, 4> kOutcomes{".accepted", ".refused", ".unknown",
                                                    ".partial"};

std::string id_of(const std::string& pod, const struct stat& file) {
  const auto time = static_cast<std::uint64_t>(file.st_mtim.tv_sec) * 1'000'000'000U +
                    static_cast<std::uint64_t>(file.st_mtim.tv_nsec);
  char text[64];
  (void)std::snprintf(text, sizeof text, "drop-%s-%llx-%llx", pod.c_str(),
                      static_cast<unsigned long long>(file.st_ino),
                      static_cast<unsigned long long>(time));
  return text;
}

// A label is part of names, and stands in JSON.
bool is_label(std::string_view name) {
  return name.size() <= kMaxDropNameBytes && is_utf8(name) &&
         std::none_of(name.begin(), name.end(),
                      [](char c) { return static_cast<unsigned char>(c) < 0x20U || c == 0x7F; });
}

std::string kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISLNK(mode)) return "a symbolic link";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

Result<std::string> read_whole(int directory, const char* name, const struct stat& seen,
                               std::size_t max_bytes) {
  if (!S_ISREG(seen.st_mode)) return invalid(kind_of(seen.st_mode) + " can't be sent");
  if (seen.st_nlink != 1) return invalid("a file with another hard link can't be sent");
  const auto file = open_beneath(directory, name, O_RDONLY);
  if (!file) {
    return invalid(errno == EACCES ? "the sidecar (uid " + std::to_string(::geteuid()) +
                                         ") may not read it: make it with mode 0644"
                                   : std::string("it can't be opened: ") + std::strerror(errno));
  }
  struct stat now {};
  if (::fstat(file.get(), &now) != 0 || now.st_ino != seen.st_ino || !S_ISREG(now.st_mode))
    return invalid("it was swapped while it was being sent");
  const auto too_large = [&](std::uint64_t size) {
    return invalid("the body has " + std::to_string(size) + " bytes, at most " +
                   std::to_string(max_bytes) +
                   " (spec.mailbox.maxMessageBytes); send a reference to a file or commit instead");
  };
  if (static_cast<std::uint64_t>(now.st_size) > max_bytes)
    return too_large(static_cast<std::uint64_t>(now.st_size));
  std::string body(max_bytes + 1, '\0');
  std::size_t got = 0;
  while (got < body.size()) {
    const auto n = ::read(file.get(), body.data() + got, body.size() - got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return invalid(std::string("it can't be read: ") + std::strerror(errno));
    if (n == 0) break;
    got += static_cast<std::size_t>(n);
  }
  if (got > max_bytes) return too_large(got);  // it has grown meanwhile
  body.resize(got);
  return body;
}

}  // namespace

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Descriptor open_beneath(int directory, const char* name, int flags) {
  struct open_how how {};
  how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
  return Descriptor(static_cast<int>(::syscall(SYS_openat2, directory, name, &how, sizeof how)));
}

bool is_ignored_drop(std::string_view name) {
  return name.starts_with('.') || std::any_of(kOutcomes.begin(), kOutcomes.end(),
                                              [&](auto end) { return name.ends_with(end); });
}

void DropFiles::begin() {
  listing_.reset();
  auto again = open_beneath(fd(), ".", O_RDONLY | O_DIRECTORY);
  if (!again) return;
  listing_.reset(::fdopendir(again.get()));
  if (listing_) (void)again.release();
}

std::optional<std::string> DropFiles::next() {
  while (listing_) {
    const dirent* entry = ::readdir(listing_.get());
    if (entry == nullptr) {
      listing_.reset();
      break;
    }
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") return std::string(name);
  }
  return std::nullopt;
}

std::variant<DropFiles::Claimed, DropFiles::Why> DropFiles::claim(
    const std::string& name, std::size_t max_bytes, const std::set<std::string>& under_way) {
  const bool left = name.starts_with(kClaim);
  if (name.starts_with('.') && !left) return Why::kIgnored;
  struct stat seen {};
  if (::fstatat(fd(), name.c_str(), &seen, AT_SYMLINK_NOFOLLOW) != 0) return Why::kGone;
  if (!left && is_ignored_drop(name)) {
    const bool outcome = S_ISREG(seen.st_mode) && (seen.st_mode & kOutcomeMark) != 0;
    // What may be our word on another name: where a file system keeps no such mark it must end.
    constexpr std::string_view kWord = ".refused";
    const bool word = name.ends_with(kWord) &&
                      is_ignored_drop(std::string_view(name).substr(0, name.size() - kWord.size()));
    return outcome || word ? Why::kIgnored : Why::kReserved;
  }
  std::string label = left ? name.substr(kClaim.size()) : name;
  const bool shown = is_label(label) && !label.empty();
  if (!shown) label = id_of(pod_, seen);
  if (under_way.contains(label)) return left ? Why::kIgnored : Why::kBusy;
  const std::string claimed = std::string(kClaim) + label;
  if (name != claimed) {
    if (::renameat2(fd(), name.c_str(), fd(), claimed.c_str(), RENAME_NOREPLACE) != 0) {
      return errno == ENOENT                                       ? Why::kGone
             : errno == EACCES || errno == EPERM || errno == EROFS ? Why::kDenied
                                                                   : Why::kBusy;
    }
    // What has the name now may be another than the one that was looked at.
    if (::fstatat(fd(), claimed.c_str(), &seen, AT_SYMLINK_NOFOLLOW) != 0) return Why::kGone;
  }
  Claimed out{label, {id_of(pod_, seen)}, std::string()};
  out.body = shown ? read_whole(fd(), claimed.c_str(), seen, max_bytes)
                   : invalid("a name takes at most " + std::to_string(kMaxDropNameBytes) +
                             " bytes of UTF-8 without control characters; this was \"" +
                             name.substr(0, kMaxDropNameBytes) + "\"");
  return out;
}

bool DropFiles::write(const std::string& name, std::string_view text) {
  const std::string draft = std::string(kDraft) + name;
  (void)::unlinkat(fd(), draft.c_str(), 0);  // of a life that ended in the midst of it
  Descriptor file(
      ::openat(fd(), draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666));
  if (!file) return false;
  (void)::fchmod(file.get(), kOutcomeMode | kOutcomeMark);
  // Without room for the words the name alone says it.
  (void)!::write(file.get(), text.data(), text.size());
  if (::renameat(fd(), draft.c_str(), fd(), name.c_str()) == 0) return true;
  (void)::unlinkat(fd(), draft.c_str(), 0);
  return false;
}

bool DropFiles::settle(const Claimed& file, std::string_view word, std::string_view lines) {
  const std::string claimed = std::string(kClaim) + file.label;
  const auto named = [&](const std::string& label) { return label + "." + std::string(word); };
  // By its id where something that can't be replaced has the name.
  if (!write(named(file.label), lines) && !write(named(file.id.value), lines)) return false;
  if (word != "accepted") {
    for (const auto& label : {file.label, file.id.value}) {
      if (::renameat(fd(), claimed.c_str(), fd(), ("." + named(label)).c_str()) == 0) return true;
    }
  }
  return ::unlinkat(fd(), claimed.c_str(), 0) == 0 || errno == ENOENT;
}

std::string DropFiles::label_of(const std::string& name) const {
  struct stat seen {};
  if (is_label(name) || ::fstatat(fd(), name.c_str(), &seen, AT_SYMLINK_NOFOLLOW) != 0) return name;
  return id_of(pod_, seen);
}

bool DropFiles::note(const std::string& name, std::string_view line) {
  struct stat there {};
  return ::fstatat(fd(), name.c_str(), &there, AT_SYMLINK_NOFOLLOW) != 0 && write(name, line);
}

}  // namespace swarm::engine
