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
#include "engine/mail_request.h"

namespace swarm::engine {

namespace {

constexpr std::string_view kClaim = ".sending-";  // before a label
constexpr std::string_view kDraft = ".outcome-", kAccepted = ".accepted";
// Of an outcome; whoever sent it may remove it, and read it anyway. The sticky bit, which means
// nothing on a file, tells it from a file that an agent has given the name of one.
constexpr mode_t kOutcomeMode = 0666, kOutcomeMark = S_ISVTX;
constexpr std::array<std::string_view, 4> kOutcomes{kAccepted, ".refused", ".unknown", ".partial"};

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

// What is read, in words.
struct Reading {
  const char* verb;
  Error (*too_large)(std::uint64_t bytes, std::size_t most);
};
constexpr Reading kBody{"sent", body_too_large};
constexpr Reading kOptions{
    "read", [](std::uint64_t bytes, std::size_t most) {
      return invalid("it has " + std::to_string(bytes) + " bytes, at most " + std::to_string(most));
    }};

Result<std::string> read_whole(int directory, const char* name, const struct stat& seen,
                               std::size_t max_bytes, const Reading& of) {
  const auto cannot = [&](const std::string& what) {
    return invalid(what + " can't be " + of.verb);
  };
  if (!S_ISREG(seen.st_mode)) return cannot(kind_of(seen.st_mode));
  if (seen.st_nlink != 1) return cannot("a file with another hard link");
  const auto file = open_beneath(directory, name, O_RDONLY);
  if (!file) {
    return invalid(errno == EACCES ? "the sidecar (uid " + std::to_string(::geteuid()) +
                                         ") may not read it: make it with mode 0644"
                                   : std::string("it can't be opened: ") + std::strerror(errno));
  }
  struct stat now {};
  if (::fstat(file.get(), &now) != 0 || now.st_ino != seen.st_ino || !S_ISREG(now.st_mode))
    return invalid(std::string("it was swapped while it was being ") + of.verb);
  if (static_cast<std::uint64_t>(now.st_size) > max_bytes)
    return of.too_large(static_cast<std::uint64_t>(now.st_size), max_bytes);
  std::string body(max_bytes + 1, '\0');
  std::size_t got = 0;
  while (got < body.size()) {
    const auto n = ::read(file.get(), body.data() + got, body.size() - got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return invalid(std::string("it can't be read: ") + std::strerror(errno));
    if (n == 0) break;
    got += static_cast<std::size_t>(n);
  }
  if (got > max_bytes) return of.too_large(got, max_bytes);  // it has grown meanwhile
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

std::string drop_options_name(const std::string& label) { return "." + label + ".options"; }

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
  if (name.starts_with(kDraft)) publish_left(name.substr(kDraft.size()), under_way);
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
    // One of that name that a former life has done with comes first, lest its options be this
    // one's.
    struct stat former {};
    if (::fstatat(fd(), claimed.c_str(), &former, AT_SYMLINK_NOFOLLOW) == 0) return Why::kBusy;
    publish_left(label + std::string(kAccepted), under_way);
    if (::renameat2(fd(), name.c_str(), fd(), claimed.c_str(), RENAME_NOREPLACE) != 0) {
      return errno == ENOENT                                       ? Why::kGone
             : errno == EACCES || errno == EPERM || errno == EROFS ? Why::kDenied
                                                                   : Why::kBusy;
    }
    // What has the name now may be another than the one that was looked at.
    if (::fstatat(fd(), claimed.c_str(), &seen, AT_SYMLINK_NOFOLLOW) != 0) return Why::kGone;
  }
  Claimed out{{label, {id_of(pod_, seen)}, "", left}, std::string()};
  if (shown) read_options(out);
  out.body = shown ? read_whole(fd(), claimed.c_str(), seen, max_bytes, kBody)
                   : invalid("a name takes at most " + std::to_string(kMaxDropNameBytes) +
                             " bytes of UTF-8 without control characters; this was \"" +
                             name.substr(0, kMaxDropNameBytes) + "\"");
  return out;
}

void DropFiles::read_options(Claimed& file) {
  const auto name = drop_options_name(file.label);
  struct stat seen {};
  if (::fstatat(fd(), name.c_str(), &seen, AT_SYMLINK_NOFOLLOW) != 0) return;
  file.options = id_of(pod_, seen);
  auto text = read_whole(fd(), name.c_str(), seen, kMaxDropOptionsBytes, kOptions);
  if (text)
    file.options_text = std::optional(*std::move(text));
  else
    file.options_text = text.error();
}

// An outcome that has not got its name, `name`, yet.
bool DropFiles::draft(const std::string& name, std::string_view text) {
  const std::string draft = std::string(kDraft) + name;
  (void)::unlinkat(fd(), draft.c_str(), 0);  // of a life that ended in the midst of it
  Descriptor file(
      ::openat(fd(), draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666));
  if (!file) return false;
  (void)::fchmod(file.get(), kOutcomeMode | kOutcomeMark);
  // Without room for the words the name alone says it.
  (void)!::write(file.get(), text.data(), text.size());
  return true;
}

// `instead`: its name where something that can't be replaced has that one.
bool DropFiles::publish(const std::string& name, const std::string& instead) {
  const std::string draft = std::string(kDraft) + name;
  return ::renameat(fd(), draft.c_str(), fd(), name.c_str()) == 0 ||
         ::renameat(fd(), draft.c_str(), fd(), instead.c_str()) == 0;
}

// The draft of `name`, whose claim had gone when a former life ended.
void DropFiles::publish_left(const std::string& name, const std::set<std::string>& under_way) {
  const std::string draft = std::string(kDraft) + name;
  struct stat seen {};
  if (::fstatat(fd(), draft.c_str(), &seen, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(seen.st_mode) ||
      (seen.st_mode & kOutcomeMark) == 0 || seen.st_uid != ::geteuid())
    return;
  for (const auto word : kOutcomes) {
    if (!name.ends_with(word)) continue;
    const auto label = name.substr(0, name.size() - word.size());
    const std::string claimed = std::string(kClaim) + label;
    struct stat claim {};
    if (under_way.contains(label) ||
        ::fstatat(fd(), claimed.c_str(), &claim, AT_SYMLINK_NOFOLLOW) == 0)
      return;
    if (word == kAccepted) (void)::unlinkat(fd(), drop_options_name(label).c_str(), 0);
    (void)publish(name, id_of(pod_, seen) + std::string(word));  // tried again in the next look
  }
}

bool DropFiles::settle(const Claim& file, std::string_view word, std::string_view lines) {
  const std::string claimed = std::string(kClaim) + file.label;
  const auto named = [&](const std::string& label) { return label + "." + std::string(word); };
  auto name = named(file.label);
  if (!draft(name, lines) && !draft(name = named(file.id.value), lines)) return false;
  const auto stays = [&](const std::string& label) {
    return ::renameat(fd(), claimed.c_str(), fd(), ("." + named(label)).c_str()) == 0;
  };
  const bool accepted = word == "accepted";
  if (accepted || (!stays(file.label) && !stays(file.id.value))) {
    if (::unlinkat(fd(), claimed.c_str(), 0) != 0 && errno != ENOENT) return false;
  }
  // Behind it, or a crash would leave it without them. Others that have the name by now stay.
  const auto options = drop_options_name(file.label);
  struct stat seen {};
  if (accepted && !file.options.empty() &&
      ::fstatat(fd(), options.c_str(), &seen, AT_SYMLINK_NOFOLLOW) == 0 &&
      id_of(pod_, seen) == file.options)
    (void)::unlinkat(fd(), options.c_str(), 0);
  return publish(name, named(file.id.value));
}

std::string DropFiles::label_of(const std::string& name) const {
  struct stat seen {};
  if (is_label(name) || ::fstatat(fd(), name.c_str(), &seen, AT_SYMLINK_NOFOLLOW) != 0) return name;
  return id_of(pod_, seen);
}

bool DropFiles::note(const std::string& name, std::string_view line) {
  struct stat there {};
  return ::fstatat(fd(), name.c_str(), &there, AT_SYMLINK_NOFOLLOW) != 0 && draft(name, line) &&
         publish(name, name);
}

}  // namespace swarm::engine
