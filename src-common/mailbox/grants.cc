#include "mailbox/grants.h"

#include <algorithm>

namespace swarm::mailbox {

void Grants::refused(const Sender& sender) {
  if (waiting_.size() >= kMaxWaitingSenders || !queued_.insert(sender).second) return;
  waiting_.push_back(sender);
}

void Grants::end(const Sender& sender) {
  granted_.erase(sender);
  late_.erase(sender);
}

void Grants::forget(const AgentName& pod) {
  const auto of_pod = [&](const Sender& sender) { return sender.pod == pod; };
  std::erase_if(waiting_, of_pod);
  std::erase_if(queued_, of_pod);
  std::erase_if(late_, of_pod);
  std::erase_if(granted_, [&](const auto& grant) { return of_pod(grant.first); });
}

std::optional<Grants::Sender> Grants::next(MonoTime now, std::size_t free) {
  std::erase_if(granted_, [&](const auto& grant) {
    if (grant.second > now) return false;
    if (late_.size() < kMaxWaitingSenders) late_.insert(grant.first);
    return true;
  });
  if (idle()) late_.clear();
  if (waiting_.empty() || granted_.size() >= free) return std::nullopt;
  Sender sender = std::move(waiting_.front());
  waiting_.pop_front();
  queued_.erase(sender);
  granted_[sender] = now + kGrantTime;
  return sender;
}

std::optional<MonoTime> Grants::deadline() const {
  std::optional<MonoTime> first;
  for (const auto& [sender, until] : granted_) {
    if (!first || until < *first) first = until;
  }
  return first;
}

}  // namespace swarm::mailbox
