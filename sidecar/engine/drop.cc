#include "engine/drop.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/encoding.h"
#include "engine/control_json.h"
#include "os/time.h"
#include "telemetry/log.h"

namespace swarm::engine {

namespace {

constexpr std::size_t kPodDigits = 8;
constexpr const char* kName = "drop";
constexpr Milliseconds kLeastPause{10};  // between two looks, whatever happens meanwhile
constexpr int kShare = 4;                // of the time at most a fifth is spent looking

// Who makes a directory or file below gets these rights whatever his umask is, so that the sidecar,
// which has another uid, may take what is dropped. (A POSIX access control list: owner, group and
// others may do everything; linux/posix_acl_xattr.h.)
void open_to_all(int directory) {
  constexpr char kList[] =
      "\x02\0\0\0"
      "\x01\0\x07\0\xff\xff\xff\xff"
      "\x04\0\x07\0\xff\xff\xff\xff"
      "\x20\0\x07\0\xff\xff\xff\xff";
  (void)::fchmod(directory, 0777);
  // Where the file system has no such lists, directories have to be made with mode 0777: docs.
  (void)::fsetxattr(directory, "system.posix_acl_default", kList, sizeof kList - 1, 0);
}

std::string line_of(json outcome, const std::string& to, const MessageId& id) {
  outcome["to"] = printable(to);
  outcome["messageId"] = id.value;
  return outcome.dump() + "\n";
}

}  // namespace

Drop::Drop(Loop& loop, Mail& mail, Post& post, const Config& config)
    : loop_(loop),
      mail_(mail),
      post_(post),
      config_(config),
      pod_(to_hex(sha256(config.pod_uid)).substr(0, kPodDigits)),
      timer_(loop.io()),
      inotify_(loop.io()) {}

Drop::~Drop() { *alive_ = false; }

void Drop::start() {
  stopped_ = false;
  const int hints_fd = ::inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  if (hints_fd >= 0) {  // else, as where a node has no more of them, it is looked every second
    inotify_.assign(hints_fd);
    hints();
  }
  look();
}

void Drop::stop() {
  boost::system::error_code ignored;  // it ends either way
  inotify_.close(ignored);
  last_ = true;
  timer_.cancel();
  mail_.forget(asks_.get());
  asks_.reset();
  if (looking_)
    again_ = true;
  else
    look();
}

void Drop::hints() {
  inotify_.async_read_some(boost::asio::buffer(hint_),
                           [this, alive = alive_](boost::system::error_code e, std::size_t) {
                             if (e || !*alive) return;
                             schedule(Milliseconds{0});
                             hints();
                           });
}

void Drop::watch(const Place& place) {
  if (!inotify_.is_open() || watches_.size() >= kMaxDropWatches) return;
  // By its descriptor: the name may lead elsewhere by now. Once for each directory: the kernel
  // gives the same number again.
  const std::string path = "/proc/self/fd/" + std::to_string(place.files.fd());
  const int watch = ::inotify_add_watch(inotify_.native_handle(), path.c_str(),
                                        IN_MOVED_TO | IN_CREATE | IN_ONLYDIR);
  if (watch >= 0) watches_.insert(watch);
}

void Drop::schedule(Milliseconds in) {
  if (stopped_) return;
  if (looking_) {
    again_ = true;
    return;
  }
  const auto pause = std::chrono::duration_cast<Milliseconds>(busy_ * kShare);
  const auto at = std::max(mono_now() + in, due_ + std::max(kLeastPause, pause));
  if (timer_.expiry() > std::chrono::steady_clock::now() && timer_.expiry() <= at) return;
  timer_.expires_at(at);
  timer_.async_wait([this, alive = alive_](boost::system::error_code e) {
    if (!e && *alive && !stopped_ && !looking_) look();  // a hint may have come in between
  });
}

void Drop::look() {
  looking_ = true;
  again_ = false;
  busy_ = {};
  notes_ = 0;
  if (!volume_) volume_ = Descriptor(::open(config_.mount_path.c_str(), O_PATH | O_CLOEXEC));
  auto directory = open_beneath(volume_.get(), kName, O_RDONLY | O_DIRECTORY);
  if (!directory && errno == ENOENT && ::mkdirat(volume_.get(), kName, 0777) == 0) {
    directory = open_beneath(volume_.get(), kName, O_RDONLY | O_DIRECTORY);
    if (directory) open_to_all(directory.get());
  }
  if (!directory) {  // another thing has the name: not ours to take away
    if (!std::exchange(told_, true))
      telemetry::warn("drop/ can't be opened", {{"reason", std::strerror(errno)}});
    return ended();
  }
  told_ = false;
  root_ = begin(std::move(directory), "");
  root_ ? step() : ended();
}

std::shared_ptr<Drop::Place> Drop::begin(Descriptor directory, const std::string& name) {
  struct stat which {};
  if (::fstat(directory.get(), &which) != 0) return nullptr;
  auto& known = places_[{which.st_dev, which.st_ino}];
  auto place = known.lock();
  if (!place) known = place = std::make_shared<Place>(std::move(directory), pod_);
  place->to = name;
  place->files.begin();
  watch(*place);
  return place;
}

void Drop::step() {
  const auto begun = std::chrono::steady_clock::now();
  bool more = true;
  for (std::size_t n = 0; more && n < kDropEntriesPerTurn; ++n) more = entry();
  busy_ += std::chrono::steady_clock::now() - begun;
  if (!more) return ended();
  loop_.post([this, alive = alive_] {
    if (*alive) step();
  });
}

// Deals with the next one; false: there is none.
bool Drop::entry() {
  const auto place = inner_ ? inner_ : root_;
  const auto name = stopped_ ? std::nullopt : place->files.next();
  if (name && ((!inner_ && enter(*name)) || take(place, *name))) return true;
  const bool inside = inner_ != nullptr;
  inner_.reset();
  return inside;
}

void Drop::ended() {
  root_.reset();
  inner_.reset();
  std::erase_if(places_, [](const auto& place) { return place.second.expired(); });
  looking_ = false;
  due_ = mono_now();
  if (last_ && !again_) stopped_ = true;
  schedule(again_ ? Milliseconds{0} : kDropRescan);
}

// A directory of drop/ becomes the inner one; false: it is none.
bool Drop::enter(const std::string& name) {
  if (is_ignored_drop(name)) return false;
  auto directory = open_beneath(root_->files.fd(), name.c_str(), O_RDONLY | O_DIRECTORY);
  if (!directory) {
    if (errno != EACCES) return false;
    root_->files.note(name + ".refused",
                      line_of({{"outcome", "refused"},
                               {"code", "invalid"},
                               {"message", "the sidecar (uid " + std::to_string(::geteuid()) +
                                               ") may not look into it: make it with mode 0777"}},
                              name, {}));
    return true;
  }
  inner_ = begin(std::move(directory), name);
  return true;
}

// A directory has no more under way than it leaves to others, so that some are stuck and there are
// places all the same; and where all are given away, those that have none get their first.
bool Drop::may_take(const Place& place) const {
  const auto own = place.labels.size();
  if (own == 0) return under_way_ < kMaxDrops;
  constexpr auto kShared = kMaxDrops - kFirstDrops;
  return own < kMaxDropsPerDirectory && under_way_ + own < kShared;
}

// False: nothing of this directory can be taken.
bool Drop::take(const std::shared_ptr<Place>& place, const std::string& name) {
  if (!may_take(*place)) return true;  // whatever finishes next has another look begin
  auto claimed = place->files.claim(name, config_.max_message_bytes, place->labels);
  if (const auto* why = std::get_if<DropFiles::Why>(&claimed)) {
    // It stays where it is: it may become another name.
    if (*why == DropFiles::Why::kReserved && notes_ < kMaxDropNotes &&
        place->files.note(
            place->files.label_of(name) + ".refused",
            line_of(outcome_of(invalid("a name that ends in .accepted, .refused, .unknown or "
                                       ".partial is that of an outcome: give it another one")),
                    place->to, {}))) {
      ++notes_;
    }
    if (*why != DropFiles::Why::kDenied) return true;
    root_->files.note((place->to.empty() ? name : place->to) + ".refused",
                      line_of({{"outcome", "refused"},
                               {"code", "invalid"},
                               {"message", "the sidecar (uid " + std::to_string(::geteuid()) +
                                               ") may not rename files in it: make it with mode "
                                               "0777"}},
                              place->to, {}));
    return place->to.empty();
  }
  auto& file = std::get<DropFiles::Claimed>(claimed);
  place->labels.insert(file.label);
  ++under_way_;
  const auto refuse = [&](const Error& why) {
    finish(place, file, "refused", line_of(outcome_of(why), place->to, file.id));
    return true;
  };
  if (!file.body) return refuse(file.body.error());
  if (place->to.empty())
    return refuse(
        invalid("whom it is for is missing: move it to drop/RECEIVER/, as in "
                "drop/worker-3/"));
  const auto to = parse_receivers(place->to);
  if (!to) return refuse(to.error());
  const auto options = options_of(file);
  auto message = options ? message_of(*options, to->single()) : options.error();
  if (!message) return refuse(message.error().in(drop_options_name(file.label)));
  if (message->id.empty()) message->id = file.id;
  message->from = config_.name;
  message->body = *std::move(file.body);
  message->sent_at = wall_now();
  send(place, file, *to, *std::move(message), *options);
  return true;
}

// kInvalid: why these can't be what is meant.
Result<MailRequest> Drop::options_of(const DropFiles::Claimed& file) {
  if (!file.options_text) return file.options_text.error();
  if (!*file.options_text) return MailRequest{};
  return reader_.read_options(**file.options_text);
}

void Drop::send(const std::shared_ptr<Place>& place, const DropFiles::Claim& file,
                const Receivers& to, mailbox::Message message, const MailRequest& options) {
  const auto timeout = milliseconds_of(
      options.timeout_ms, static_cast<std::uint64_t>(config_.backpressure_timeout.count()));
  if (options.ack_attempt) {
    message.to = to.names[0];
    const auto until = asks_ ? timeout : std::min(timeout, config_.backpressure_timeout);
    mail_.reply(
        std::move(message), static_cast<std::uint16_t>(*options.ack_attempt), until, kAckTimeout,
        [this, alive = alive_, place, file, to = message.to,
         id = message.id](Result<Mail::Accepted> sent) {
          if (!*alive) return;
          // A former life may have acked it, behind the reply that it has sent; or somebody else.
          if (file.again && sent && sent->duplicate && sent->acked && !*sent->acked &&
              sent->acked->error().code == Code::kNotFound) {
            sent->acked =
                Error{Code::kUnknown,
                      "the sidecar was started anew meanwhile: the reply is accepted, the "
                      "ack may have been recorded"};
          }
          const bool acked = sent && (!sent->acked || *sent->acked);
          const char* word = !sent || acked                                ? outcome_name(sent)
                             : sent->acked->error().code == Code::kUnknown ? "unknown"
                                                                           : "partial";
          finish(place, file, word, line_of(outcome_of(sent), to.value, id));
        },
        asks_.get());
    return;
  }
  auto lines = std::make_shared<std::string>();
  const MessageId id = message.id;
  post_.send(
      to, std::move(message), timeout,
      [lines, id](const AgentName& receiver, const Result<Mail::Accepted>& sent) {
        *lines += line_of(outcome_of(sent), receiver.value, id);
      },
      [this, alive = alive_, place, lines, file, id](const Result<Post::Tally>& tally) {
        if (!*alive) return;
        if (!tally)
          return finish(place, file, "refused", line_of(outcome_of(tally.error()), place->to, id));
        const char* word = !tally->failure       ? "accepted"
                           : tally->accepted > 0 ? "partial"
                                                 : outcome_name(*tally->failure);
        finish(place, file, word, *lines);
      },
      asks_);
}

// Written down only after the log is: "accepted" must be true also after a crash.
void Drop::finish(const std::shared_ptr<Place>& place, const DropFiles::Claim& file,
                  const char* word, const std::string& lines) {
  loop_.after_commit([this, alive = alive_, place, word, lines, file] {
    if (!*alive) return;
    const bool written = place->files.settle(file, word, lines);
    place->labels.erase(file.label);
    --under_way_;
    if (!written) {
      telemetry::warn("the outcome of a dropped file can't be written",
                      {{"reason", std::strerror(errno)}});
    }
    // What had to wait for a place has one now; a claim that could not be settled is looked at
    // again in its own time.
    if (written) schedule(Milliseconds{0});
  });
}

}  // namespace swarm::engine
