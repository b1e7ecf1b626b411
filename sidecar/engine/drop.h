// drop/<receivers>/ on the shared volume: a file that is renamed into it is sent, and its outcome
// appears beside it. Docs: docs/mailbox.md, "Files that are sent".
//
// The directories are looked through again and again; inotify only says when to do it sooner. A
// look takes a few entries at a time, so that nobody waits for it, however much lies there.
//
// Threads: the loop's.
#pragma once

#include <array>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "engine/config.h"
#include "engine/drop_files.h"
#include "engine/mail_request.h"
#include "engine/post.h"

namespace swarm::engine {

inline constexpr Milliseconds kDropRescan{1000};          // without any hint
inline constexpr std::size_t kDropEntriesPerTurn = 256;   // then others get their turn
inline constexpr std::size_t kMaxDropsPerDirectory = 64;  // under way at a time …
inline constexpr std::size_t kMaxDrops = 256;             // … and in all
inline constexpr std::size_t kFirstDrops =
    64;  // of these, for directories that have none under way
inline constexpr std::size_t kMaxDropWatches = 256;  // the others wait for the next look
inline constexpr std::size_t kMaxDropNotes = 64;  // in a look, of files that are named as outcomes

class Drop {
 public:
  Drop(Loop& loop, Mail& mail, Post& post, const Config& config);
  ~Drop();
  Drop(const Drop&) = delete;
  Drop& operator=(const Drop&) = delete;

  void start();
  // One more look at everything, since it may be an agent's last act; then nothing new is taken.
  // What is under way gets its outcome, whatever its timeoutMs is, within that of the Swarm.
  void stop();
  [[nodiscard]] std::size_t under_way() const { return under_way_; }
  // After stop(): what is to be waited for, at least 1 until that look has ended.
  [[nodiscard]] std::size_t left() const { return under_way_ + (stopped_ ? 0 : 1); }

 private:
  struct Place {  // a directory while something of it is looked at or under way
    Place(Descriptor directory, const std::string& pod) : files(std::move(directory), pod) {}
    DropFiles files;
    std::string to;  // its name; empty: drop/ itself
    std::set<std::string> labels;
  };

  void look();  // begins a look through everything
  void step();
  bool entry();
  std::shared_ptr<Place> begin(Descriptor directory, const std::string& name);
  bool enter(const std::string& name);
  bool take(const std::shared_ptr<Place>& place, const std::string& name);
  [[nodiscard]] bool may_take(const Place& place) const;
  Result<MailRequest> options_of(const DropFiles::Claimed& file);
  void send(const std::shared_ptr<Place>& place, const DropFiles::Claim& file, const Receivers& to,
            mailbox::Message message, const MailRequest& options);
  void finish(const std::shared_ptr<Place>& place, const DropFiles::Claim& file, const char* word,
              const std::string& lines);
  void ended();
  void schedule(Milliseconds in);
  void watch(const Place& place);
  void hints();

  Loop& loop_;
  Mail& mail_;
  Post& post_;
  const Config& config_;
  const std::string pod_;
  MailRequestReader reader_;
  // Who asks, until stop().
  std::shared_ptr<const void> asks_ = std::make_shared<char>();
  Descriptor volume_;
  std::shared_ptr<Place> root_, inner_;  // of the present look
  // Those with files under way, by what the kernel calls them: a name may mean another one soon.
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::weak_ptr<Place>> places_;
  std::size_t under_way_ = 0;
  std::size_t notes_ = 0;  // written in this look
  bool looking_ = false, again_ = false, stopped_ = true, last_ = false, told_ = false;
  std::chrono::steady_clock::duration busy_{};  // of the present look, in turns of its own
  MonoTime due_{};
  boost::asio::steady_timer timer_;
  boost::asio::posix::stream_descriptor inotify_;
  std::set<int> watches_;
  std::array<char, 4096> hint_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace swarm::engine
