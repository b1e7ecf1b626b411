#include "mailbox/grants.h"

#include <algorithm>

namespace swarm::mailbox {

void Grants::refused(MonoTime now, const Sender& sender, std::uint64_t bytes) {
  if (queued_.count(sender) != 0) {
    const auto known = std::ranges::find(waiting_, sender, &Waiting::sender);
    known->bytes = bytes;
    known->asked = now;
  } else if (waiting_.size() < kMaxWaitingSenders) {
    queued_.insert(sender);
    const auto known = turns_.find(sender);
    const std::uint64_t turn = known == turns_.end() ? turn_ : known->second;
    const auto behind = std::ranges::upper_bound(waiting_, turn, {}, &Waiting::turn);
    waiting_.insert(behind, {sender, bytes, now, turn});
  }
}

std::map<Grants::Sender, Grants::Granted>::iterator Grants::drop(
    std::map<Sender, Granted>::iterator grant) {
  granted_bytes_ -= grant->second.bytes;
  return granted_.erase(grant);
}

void Grants::end(const Sender& sender) {
  if (const auto grant = granted_.find(sender); grant != granted_.end()) drop(grant);
  late_.erase(sender);
  if (turns_.size() >= kMaxWaitingSenders) turns_.clear();
  turns_[sender] = ++turn_;
  if (queued_.erase(sender) != 0)
    waiting_.erase(std::ranges::find(waiting_, sender, &Waiting::sender));
}

void Grants::forget(const AgentName& pod) {
  std::erase_if(waiting_, [&](const Waiting& one) { return one.sender.pod == pod; });
  std::erase_if(queued_, [&](const Sender& sender) { return sender.pod == pod; });
  std::erase_if(turns_, [&](const auto& turn) { return turn.first.pod == pod; });
  std::erase_if(late_, [&](const Sender& sender) { return sender.pod == pod; });
  for (auto it = granted_.begin(); it != granted_.end();)
    it = it->first.pod == pod ? drop(it) : std::next(it);
}

Grants::Claims Grants::ahead_of(const Sender& sender) const {
  Claims claims = granted();
  if (const auto own = granted_.find(sender); own != granted_.end())
    return {claims.places - 1, claims.bytes - own->second.bytes};
  if (late_.count(sender) != 0) return {};
  for (const Waiting& one : waiting_) {
    if (one.sender == sender) break;
    ++claims.places;
    claims.bytes += one.bytes;
  }
  return claims;
}

void Grants::expire(MonoTime now) {
  while (!ends_.empty()) {
    const auto& [until, sender] = ends_.front();
    const auto grant = granted_.find(sender);
    const bool holds = grant != granted_.end() && grant->second.until == until;
    if (holds && until > now) break;
    if (holds) {
      if (late_.size() >= kMaxWaitingSenders) late_.clear();
      late_.insert(sender);
      drop(grant);
    }
    ends_.pop_front();
  }
  while (!waiting_.empty() && now - waiting_.front().asked >= kAskedWithin) {
    queued_.erase(waiting_.front().sender);
    waiting_.pop_front();
  }
}

Grants::Sender Grants::grant(MonoTime now) {
  Waiting first = std::move(waiting_.front());
  waiting_.pop_front();
  queued_.erase(first.sender);
  // What was kept for it has not been enough: it was refused all the same.
  if (const auto held = granted_.find(first.sender); held != granted_.end()) drop(held);
  granted_[first.sender] = {now + kGrantTime, first.bytes};
  granted_bytes_ += first.bytes;
  ends_.emplace_back(now + kGrantTime, first.sender);
  return first.sender;
}

std::optional<MonoTime> Grants::deadline() const {
  std::optional<MonoTime> at;
  if (!ends_.empty()) at = ends_.front().first;
  if (!waiting_.empty()) {
    const MonoTime forgotten = waiting_.front().asked + kAskedWithin;
    if (!at || forgotten < *at) at = forgotten;
  }
  return at;
}

}  // namespace swarm::mailbox
