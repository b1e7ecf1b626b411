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

  // It was told `full`: behind those that wait already. No-op if it waits.
  void refused(const Sender& sender);
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
  // The next one to be told, when `free` places are free, kept ones included.
  std::optional<Sender> next(MonoTime now, std::size_t free);
  [[nodiscard]] bool idle() const { return waiting_.empty() && granted_.empty(); }
  // When the first of what is kept will be kept no longer.
  [[nodiscard]] std::optional<MonoTime> deadline() const;

 private:
  std::deque<Sender> waiting_;
  std::set<Sender> queued_;             // what is in it
  std::map<Sender, MonoTime> granted_;  // until when
  std::set<Sender> late_;               // whose grants ended unused
};

}  // namespace swarm::mailbox
