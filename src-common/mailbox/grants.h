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
// In the queue of one inbox. Beyond, senders ask again now and then, as they do anyhow.
inline constexpr std::size_t kMaxWaitingSenders = 4096;

class Grants {
 public:
  struct Sender {
    AgentName pod;
    std::uint8_t stream = 0;  // stream_of()
    friend auto operator<=>(const Sender&, const Sender&) = default;
  };

  // It was told `full` for a message of `bytes`: behind those that wait already. No-op if it waits.
  void refused(const Sender& sender, std::uint64_t bytes);
  // What was kept for it is used, or not needed.
  void end(const Sender& sender);
  // Its link is down, or it has gone: nothing is kept for it.
  void forget(const AgentName& pod);
  // Places that others than `sender` have or get first.
  [[nodiscard]] std::size_t kept_from(const Sender& sender) const {
    if (granted_.count(sender) != 0) return granted_.size() - 1;
    if (late_.count(sender) != 0) return 0;
    return granted_.size() + waiting_.size() - queued_.count(sender);
  }
  // The next one to be told; free(bytes): how many places for so many bytes there are, kept ones
  // included.
  template <typename Free>
  std::optional<Sender> next(MonoTime now, const Free& free) {
    expire(now);
    if (waiting_.empty() || free(waiting_.front().second) <= granted_.size()) return std::nullopt;
    return grant(now);
  }
  [[nodiscard]] bool idle() const { return waiting_.empty() && granted_.empty(); }
  // When something may be kept no longer.
  [[nodiscard]] std::optional<MonoTime> deadline() const {
    return ends_.empty() ? std::nullopt : std::optional(ends_.front().first);
  }

 private:
  void expire(MonoTime now);
  Sender grant(MonoTime now);

  std::deque<std::pair<Sender, std::uint64_t>> waiting_;
  std::set<Sender> queued_;  // what is in it
  std::map<Sender, MonoTime> granted_;
  std::deque<std::pair<MonoTime, Sender>> ends_;  // of all grants, also of those that were used
  std::set<Sender> late_;                         // whose grants ended unused
};

}  // namespace swarm::mailbox
