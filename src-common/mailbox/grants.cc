#include "mailbox/grants.h"

#include <algorithm>

namespace swarm::mailbox {

void Grants::refused(const Sender& sender, std::uint64_t bytes) {
  if (waiting_.size() >= kMaxWaitingSenders || !queued_.insert(sender).second) return;
  waiting_.emplace_back(sender, bytes);
}

void Grants::end(const Sender& sender) {
  granted_.erase(sender);
  late_.erase(sender);
}

void Grants::forget(const AgentName& pod) {
  std::erase_if(waiting_, [&](const auto& one) { return one.first.pod == pod; });
  std::erase_if(queued_, [&](const Sender& sender) { return sender.pod == pod; });
  std::erase_if(late_, [&](const Sender& sender) { return sender.pod == pod; });
  std::erase_if(granted_, [&](const auto& grant) { return grant.first.pod == pod; });
}

void Grants::expire(MonoTime now) {
  while (!ends_.empty()) {
    const auto& [until, sender] = ends_.front();
    const auto grant = granted_.find(sender);
    const bool holds = grant != granted_.end() && grant->second == until;
    if (holds && until > now) return;
    if (holds) {
      if (late_.size() >= kMaxWaitingSenders) late_.clear();
      late_.insert(sender);
      granted_.erase(grant);
    }
    ends_.pop_front();
  }
}

Grants::Sender Grants::grant(MonoTime now) {
  Sender sender = std::move(waiting_.front().first);
  waiting_.pop_front();
  queued_.erase(sender);
  granted_[sender] = now + kGrantTime;
  ends_.emplace_back(now + kGrantTime, sender);
  return sender;
}

}  // namespace swarm::mailbox
