#include "mailbox/impl.h"

namespace swarm::mailbox {

void Mailbox::Impl::remember_received(MonoTime now, Inbox& inbox, std::string pair,
                                      Sequence record) {
  Sequence& known = inbox.received_ids[pair];
  if (known != 0 && known != record) finish_record(known);
  known = record;
  expiries_.push_back({now + limits_.user_id_ttl, &inbox, std::move(pair), record});
  expire_ids(now, 1);
}

void Mailbox::Impl::remember_sent(MonoTime now, std::string pair, const AgentName& to,
                                  Sequence record) {
  UserId& known = sent_ids_[pair];
  if (known.record != 0 && known.record != record) finish_record(known.record);
  known = UserId{record, to, 0, false, false};
  expiries_.push_back({now + limits_.user_id_ttl, nullptr, std::move(pair), record});
  expire_ids(now, 1);
}

// Only in memory, only the latest: enough for an agent whose socket broke while its message was
// answered.
void Mailbox::Impl::remember_generated(std::string pair, UserId outcome) {
  if (generated_.size() >= kRecentGenerated) {
    forget_sent(generated_.front());
    generated_.pop_front();
  }
  generated_.push_back(std::move(pair));
  sent_ids_[generated_.back()] = std::move(outcome);
}

void Mailbox::Impl::forget_sent(const std::string& pair) {
  const auto it = sent_ids_.find(pair);
  if (it == sent_ids_.end()) return;
  if (it->second.record != 0) finish_record(it->second.record);
  sent_ids_.erase(it);
}

// All but the `newest`, which those that are still under way must not push out.
void Mailbox::Impl::expire_ids(MonoTime now, std::size_t newest) {
  for (std::size_t looked = std::min(expiries_.size() - newest, kMaxExpiriesPerCall); looked > 0;
       --looked) {
    const bool over = expiries_.size() > limits_.max_user_ids;
    if (expiries_.empty() || (!over && expiries_.front().at > now)) return;
    Expiry x = std::move(expiries_.front());
    expiries_.pop_front();
    if (x.inbox != nullptr) {
      auto& received = x.inbox->received_ids;
      const auto it = received.find(x.pair);
      if (it == received.end() || it->second != x.record) continue;
      finish_record(x.record);
      received.erase(it);
    } else {
      const auto it = sent_ids_.find(x.pair);
      if (it == sent_ids_.end() || it->second.record != x.record) continue;
      if (out_by_pair_.count(x.pair) != 0) {  // still under way: its outcome is to be remembered
        x.at = std::max(x.at, now + limits_.user_id_ttl);
        expiries_.push_back(std::move(x));
        continue;
      }
      forget_sent(x.pair);
    }
  }
}

}  // namespace swarm::mailbox
