// Who waits for a place in an inbox that was full, and for whom places are kept.
//
// A sender that was told `full` waits in a queue. As places become free each is kept for the first
// of the queue, who is told so (a grant) and has kGrantTime to use it; then it is the next one's.
// One that is late has what is free when it comes: where all are late, all go on. Whoever was not
// told has what is left, nothing as long as others wait: a fast sender can't take the place of one
// that waits. A sender here is a pod and one of its streams to the inbox.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "base/ids.h"
#include "os/time.h"

namespace swarm::mailbox {

// A round trip with room for a busy machine; a sender that is late asks as anybody does.
inline constexpr Milliseconds kGrantTime{250};
// Who has not asked for so long does not wait any more: a sender that is refused asks every 2 s.
inline constexpr Milliseconds kAskedWithin{6000};
// In the queue of one inbox. Beyond, senders ask again now and then, as they do anyhow.
inline constexpr std::size_t kMaxWaitingSenders = 4096;

class Grants {
 public:
  struct Sender {
    AgentName pod;
    std::uint8_t stream = 0;  // stream_of()
    friend auto operator<=>(const Sender&, const Sender&) = default;
  };

  // Of what others have or get first.
  struct Claims {
    std::size_t places = 0;
    std::uint64_t bytes = 0;
  };

  // It was told `full` for a message of `bytes`: it waits, behind those whose last turn was before
  // its own. (Not behind all: one that asks again at once would have more turns than one that is a
  // round trip away.) Who had none yet counts as if it had just had one.
  void refused(MonoTime now, const Sender& sender, std::uint64_t bytes);
  // It has got a place, or needs none: this was its turn.
  void end(const Sender& sender);
  // Its link is down, or it has gone: nothing is kept for it.
  void forget(const AgentName& pod);
  [[nodiscard]] Claims ahead_of(const Sender& sender) const;
  // What is kept for those that were told so.
  [[nodiscard]] Claims granted() const { return {granted_.size(), granted_bytes_}; }
  // The next one to be told; fits(claims, bytes): there is room for so many bytes more.
  template <typename Fits>
  std::optional<Sender> next(MonoTime now, const Fits& fits) {
    expire(now);
    if (waiting_.empty() || !fits(granted(), waiting_.front().bytes)) return std::nullopt;
    return grant(now);
  }
  [[nodiscard]] bool idle() const { return waiting_.empty() && granted_.empty(); }
  // When something may be kept no longer.
  [[nodiscard]] std::optional<MonoTime> deadline() const;

 private:
  struct Waiting {
    Sender sender;
    std::uint64_t bytes = 0;
    MonoTime asked;
    std::uint64_t turn = 0;
  };
  struct Granted {
    MonoTime until;
    std::uint64_t bytes = 0;
  };
  void expire(MonoTime now);
  Sender grant(MonoTime now);
  std::map<Sender, Granted>::iterator drop(std::map<Sender, Granted>::iterator grant);

  std::uint64_t turn_ = 0;
  std::map<Sender, std::uint64_t> turns_;  // the latest of each
  std::deque<Waiting> waiting_;            // by their latest turns
  std::set<Sender> queued_;                // what is in it
  std::map<Sender, Granted> granted_;
  std::uint64_t granted_bytes_ = 0;
  std::deque<std::pair<MonoTime, Sender>> ends_;  // of all grants, also of those that were used
  std::set<Sender> late_;                         // whose grants ended unused
};

}  // namespace swarm::mailbox
