#include "mailbox/impl.h"

namespace swarm::mailbox {

Summary Mailbox::Impl::summary_of(const Entry& e) {
  const auto where = e.where == Where::kReady     ? Summary::Where::kReady
                     : e.where == Where::kLeased  ? Summary::Where::kLeased
                     : e.where == Where::kDelayed ? Summary::Where::kDelayed
                                                  : Summary::Where::kDead;
  return {e.id,         e.from,    e.inbox->name,
          e.priority,   where,     e.attempt,
          e.body_bytes, e.sent_at, e.stream ? std::optional(*e.stream) : std::nullopt};
}

Summary Mailbox::Impl::summary_of(const Outgoing& o) {
  return {o.id, o.from, o.to, o.priority, Summary::Where::kOutgoing, 0, o.body_bytes, o.sent_at};
}

std::vector<Summary> Mailbox::Impl::dead_letters(const AgentName& agent, std::size_t most) const {
  std::vector<const Entry*> entries;
  const Inbox* inbox = find_inbox(agent);
  if (inbox == nullptr || inbox->dead == 0) return {};
  for (const auto& [sequence, e] : inbox_) {
    if (e.inbox == inbox && e.where == Where::kDead) entries.push_back(&e);
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry* a, const Entry* b) { return a->sequence < b->sequence; });
  if (entries.size() > most) entries.resize(most);
  std::vector<Summary> out;
  for (const Entry* e : entries) out.push_back(summary_of(*e));
  return out;
}

std::vector<Summary> Mailbox::Impl::list_all(bool dead, std::size_t most,
                                             std::size_t& there) const {
  there = 0;
  if (dead && books().dead_live == 0) return {};
  std::vector<Summary> out;
  const auto add_oldest = [&](auto& all) {
    const auto room = static_cast<std::ptrdiff_t>(std::min(most - out.size(), all.size()));
    std::partial_sort(all.begin(), all.begin() + room, all.end(),
                      [](const auto* a, const auto* b) { return a->sequence < b->sequence; });
    std::transform(all.begin(), all.begin() + room, std::back_inserter(out),
                   [&](const auto* one) { return summary_of(*one); });
    there += all.size();
  };
  std::vector<const Entry*> entries;
  for (const auto& [sequence, e] : inbox_) {
    if (dead ? e.where == Where::kDead : is_unread(e)) entries.push_back(&e);
  }
  add_oldest(entries);
  if (dead) return out;
  std::vector<const Outgoing*> outgoing;
  for (const auto& [sequence, o] : out_) outgoing.push_back(&o);
  add_oldest(outgoing);
  return out;
}

std::vector<Summary> Mailbox::Impl::list(const AgentName& agent, Listed* there) const {
  std::vector<const Entry*> entries;
  const Inbox* inbox = find_inbox(agent);
  for (const auto& [sequence, e] : inbox_) {
    if (e.inbox == inbox && e.where != Where::kAcked && e.where != Where::kAnchor)
      entries.push_back(&e);
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry* a, const Entry* b) { return a->sequence < b->sequence; });
  std::vector<Summary> out;
  for (const Entry* e : entries) {
    if (out.size() >= kMaxListed) break;
    out.push_back(summary_of(*e));
  }
  Listed all{entries.size(), 0};
  for (const auto& [name, d] : destinations_) {
    for (const Sequence sequence : d.all) {
      const Outgoing& o = out_.at(sequence);
      if (o.from != agent) continue;
      ++all.outgoing;
      if (out.size() >= kMaxListed) continue;
      out.push_back(summary_of(o));
    }
  }
  if (there != nullptr) *there = all;
  return out;
}

Result<Delivery> Mailbox::Impl::look(const AgentName& agent, const MessageId& id,
                                     const AgentName& from, bool dead) const {
  const Entry* found = dead ? find_dead(agent, id, from) : nullptr;
  if (const Inbox* inbox = find_inbox(agent); inbox != nullptr && !dead) {
    const auto [begin, end] = inbox->by_id.equal_range(id);
    for (auto it = begin; it != end; ++it) {
      const Entry& e = inbox_.at(it->second);
      if (!from.empty() && e.from != from) continue;
      if (e.where != Where::kAcked && (found == nullptr || e.where == Where::kLeased)) found = &e;
    }
  }
  if (found != nullptr) {
    auto message = read_inbox(found->sequence);
    if (!message) return message.error();
    return Delivery{std::move(*message), found->attempt, found->attempt > 1, found->until};
  }
  if (dead) return not_found("no dead letter " + id.value + " here");
  const auto out = std::find_if(out_.begin(), out_.end(), [&](const auto& entry) {
    return entry.second.id == id && entry.second.from == agent;
  });
  if (out == out_.end() || (!from.empty() && from != agent))
    return not_found("no message " + id.value + " here");
  auto message = read_out(out->second);
  if (!message) return message.error();
  return Delivery{std::move(*message), 0, false, {}};
}

Books Mailbox::Impl::books() const {
  Books out = books_;
  out.received_bytes = received_bytes_;
  out.sent_bytes = sent_bytes_;
  out.reply_bytes = reply_bytes_;
  for (const auto& [number, inbox] : inboxes_) {
    out.inbox_live += inbox.live;
    out.dead_live += inbox.dead;
  }
  out.outbox_live = static_cast<std::uint32_t>(out_.size());
  for (const auto& [sequence, o] : out_) {
    const bool alone = o.state == Out::kStored
                           ? lacks_custodian(o) || lacks_receiver(o)
                           : o.accepted && (o.copy != Copy::kKept || !custodian_linked_);
    if (alone) ++out.single_copy;
  }
  out.wards = wards_.size();
  out.ward_bytes = ward_bytes_;
  for (const auto& [log, guarded] : guarded_) {
    if (lost_.count(log) == 0) continue;
    // What its successor has refused, or has already, nobody waits for.
    const auto returns = returns_.find(guarded.pod);
    for (const auto& [sequence, record] : guarded.records) {
      if (returns == returns_.end() || returns->second.given.count(record) == 0) ++out.single_copy;
    }
  }
  for (const auto& [sequence, e] : inbox_) {
    if (e.where != Where::kAcked && e.where != Where::kAnchor && !e.local() &&
        (lost_.count(e.creditor()) != 0 || find_former(e.from, e.creditor()) != nullptr))
      ++out.single_copy;
  }
  return out;
}

// ---- the interface

Mailbox::Mailbox(AgentName pod, Limits limits, std::uint32_t agents)
    : impl_(std::make_unique<Impl>(std::move(pod), agents, limits)) {}
Mailbox::~Mailbox() = default;
void Mailbox::restore(const log::Record& record) { impl_->restore(record); }
void Mailbox::attach(log::Log& log, MonoTime now, bool damaged) {
  impl_->attach(log, now, damaged);
}
Result<Mailbox::Sent> Mailbox::send(MonoTime now, const Message& message, std::uint64_t share) {
  return impl_->send(now, message, share);
}
bool Mailbox::knows(const Message& message) const { return impl_->knows(message); }
bool Mailbox::has_room(MonoTime now, const Message& message) {
  return impl_->has_room(now, message);
}
bool Mailbox::withdraw(Sequence sequence) { return impl_->withdraw(sequence); }
bool Mailbox::is_local(const AgentName& agent) const { return impl_->is_local(agent); }
void Mailbox::limit_inboxes(std::uint32_t messages, std::string why) {
  impl_->limit_inboxes(messages, std::move(why));
}
std::uint32_t Mailbox::inbox_limit() const { return impl_->inbox_limit(); }
std::vector<AgentName> Mailbox::destinations() const { return impl_->destinations(); }
std::vector<AgentName> Mailbox::destinations(const AgentName& pod) const {
  return impl_->destinations(pod);
}
AgentName Mailbox::receiver_of(Sequence sequence) const { return impl_->receiver_of(sequence); }
std::vector<Outbound> Mailbox::transmit(const AgentName& to, std::size_t max_bytes) {
  return impl_->transmit(to, max_bytes);
}
void Mailbox::on_link_up(MonoTime now, const AgentName& pod, const LogId& peer_log, bool near) {
  impl_->on_link_up(now, pod, peer_log, near);
}
void Mailbox::on_link_down(const AgentName& pod) { impl_->on_link_down(pod); }
void Mailbox::on_answer(MonoTime now, const AgentName& pod, const LogId& peer_log,
                        Sequence sequence, Answer answer, const std::string& reason) {
  impl_->on_answer(now, pod, peer_log, sequence, answer, reason);
}
void Mailbox::on_retry(const AgentName& to) { impl_->on_retry(to); }
bool Mailbox::on_grant(const AgentName& pod, const AgentName& to, std::uint8_t stream) {
  return impl_->on_grant(pod, to, stream);
}
void Mailbox::on_declined(const AgentName& pod, const AgentName& to, std::uint8_t stream) {
  impl_->on_declined(pod, to, stream);
}
std::vector<Grant> Mailbox::take_grants(MonoTime now) { return impl_->take_grants(now); }
std::string Mailbox::why_full(const Message& message) const { return impl_->why_full(message); }
void Mailbox::forget_waiting(const AgentName& pod) { impl_->forget_waiting(pod); }
bool Mailbox::on_acked(const AgentName& pod, Sequence sequence) {
  return impl_->on_acked(pod, sequence);
}
Answer Mailbox::deliver(MonoTime now, const LogId& sender_log, Sequence sequence, Sequence prev,
                        const Message& message) {
  return impl_->deliver(now, sender_log, sequence, prev, message);
}
Answer Mailbox::deliver_kept(MonoTime now, const LogId& keeper, const Outbound& kept) {
  return impl_->deliver_kept(now, keeper, kept);
}
void Mailbox::begin_offers() { impl_->begin_offers(); }
std::vector<Outbound> Mailbox::offer(std::size_t max_bytes) { return impl_->offer(max_bytes); }
void Mailbox::on_offer_answer(Sequence sequence, Answer answer) {
  impl_->on_offer_answer(sequence, answer);
}
void Mailbox::cancel_offers() { impl_->cancel_offers(); }
Answer Mailbox::adopt(const LogId& from, const Outbound& offered) {
  return impl_->adopt(from, offered);
}
Answer Mailbox::take_back(const AgentName& giver, const Outbound& returned) {
  return impl_->take_back(giver, returned);
}
void Mailbox::set_lost(const std::map<AgentName, std::set<LogId>>& lost) { impl_->set_lost(lost); }
std::vector<Outbound> Mailbox::give_back(const AgentName& pod, const LogId& to,
                                         std::size_t max_bytes) {
  return impl_->give_back(pod, to, max_bytes);
}
std::size_t Mailbox::unreturned(const AgentName& pod, const std::set<LogId>& logs) const {
  return impl_->unreturned(pod, logs);
}
void Mailbox::on_given_back(const AgentName& pod, Sequence record, Answer answer) {
  impl_->on_given_back(pod, record, answer);
}
bool Mailbox::needs_custodian() const { return impl_->needs_custodian(); }
bool Mailbox::has_entrusted() const { return impl_->has_entrusted(); }
void Mailbox::on_custodian_up(const LogId& custodian) { impl_->on_custodian_up(custodian); }
void Mailbox::on_custodian_down() { impl_->on_custodian_down(); }
void Mailbox::on_custodian_lost() { impl_->on_custodian_lost(); }
void Mailbox::on_custodian_retry() { impl_->on_custodian_retry(); }
std::vector<Outbound> Mailbox::entrust(std::size_t max_bytes) { return impl_->entrust(max_bytes); }
std::vector<Sequence> Mailbox::take_releases(std::size_t most) {
  return impl_->take_releases(most);
}
void Mailbox::on_entrusted(const LogId& custodian, Sequence sequence, Answer answer) {
  impl_->on_entrusted(custodian, sequence, answer);
}
std::vector<Sequence> Mailbox::on_told(const LogId& custodian, const std::vector<Sequence>& kept) {
  return impl_->on_told(custodian, kept);
}
std::map<LogId, std::vector<Sequence>> Mailbox::take_releases_elsewhere() {
  return impl_->take_releases_elsewhere();
}
void Mailbox::end_releases() { impl_->end_releases(); }
bool Mailbox::releasing() const { return impl_->releasing(); }
bool Mailbox::records_late() const { return impl_->records_late(); }
std::vector<Sequence> Mailbox::take_recorded() { return impl_->take_recorded(); }
bool Mailbox::waits_for_custodian(Sequence sequence) const {
  return impl_->waits_for_custodian(sequence);
}
bool Mailbox::withdrawing(Sequence sequence) const { return impl_->withdrawing(sequence); }
Answer Mailbox::guard(const LogId& sender_log, const Outbound& copy) {
  return impl_->guard(sender_log, copy);
}
void Mailbox::release(const LogId& sender_log, Sequence sequence) {
  impl_->release(sender_log, sequence);
}
std::vector<Sequence> Mailbox::wards_of(const LogId& sender_log) const {
  return impl_->wards_of(sender_log);
}
std::map<AgentName, std::set<LogId>> Mailbox::guarded() const { return impl_->guarded(); }
void Mailbox::forget_wards(const AgentName& pod, const std::set<LogId>& logs) {
  impl_->forget_wards(pod, logs);
}
std::optional<Delivery> Mailbox::receive(MonoTime now, const AgentName& agent, Milliseconds lease,
                                         const std::optional<MessageId>& in_reply_to) {
  return impl_->receive(now, agent, lease, in_reply_to);
}
Result<std::optional<Delivery>> Mailbox::receive_part(MonoTime now, const AgentName& agent,
                                                      Milliseconds lease, const AgentName& from,
                                                      const MessageId& stream, std::uint32_t part) {
  return impl_->receive_part(now, agent, lease, from, stream, part);
}
std::vector<AgentName> Mailbox::take_ready() { return impl_->take_ready(); }
bool Mailbox::has_ready() const { return impl_->has_ready(); }
bool Mailbox::await_reply(const AgentName& agent, const MessageId& id) {
  return impl_->await_reply(agent, id);
}
void Mailbox::forget_reply(const AgentName& agent, const MessageId& id) {
  impl_->forget_reply(agent, id);
}
Result<AckResult> Mailbox::ack(MonoTime, const AgentName& agent, const MessageId& id,
                               std::uint16_t attempt, const AgentName& from) {
  return impl_->ack(agent, id, attempt, from);
}
Result<AckResult> Mailbox::purge(const AgentName& agent, const MessageId& id) {
  return impl_->purge(agent, id);
}
Status Mailbox::redrive(const AgentName& agent, const MessageId& id) {
  return impl_->redrive(agent, id);
}
std::vector<Summary> Mailbox::dead_letters(const AgentName& agent, std::size_t most) const {
  return impl_->dead_letters(agent, most);
}
std::vector<Summary> Mailbox::list_all(bool dead, std::size_t most, std::size_t& there) const {
  return impl_->list_all(dead, most, there);
}
std::uint32_t Mailbox::dead_letter_count(const AgentName& agent) const {
  return impl_->dead_letter_count(agent);
}
void Mailbox::on_ack_recorded(Sequence inbox) { impl_->on_ack_recorded(inbox); }
std::vector<AckDebt> Mailbox::ack_debts(const AgentName& sender) const {
  return impl_->ack_debts(sender);
}
std::vector<AgentName> Mailbox::ack_creditors() const { return impl_->ack_creditors(); }
std::map<AgentName, std::set<LogId>> Mailbox::senders() const { return impl_->senders(); }
void Mailbox::on_incarnation(const AgentName& name, const LogId& current) {
  impl_->on_incarnation(name, current);
}
std::vector<Sequence> Mailbox::on_former(const AgentName& name, const LogId& log) {
  return impl_->on_former(name, log);
}
std::vector<Sequence> Mailbox::on_gone(const AgentName& name) { return impl_->on_gone(name); }
Status Mailbox::nack(MonoTime now, const AgentName& agent, const MessageId& id,
                     std::uint16_t attempt, Milliseconds delay, const AgentName& from) {
  return impl_->nack(now, agent, id, attempt, delay, from);
}
Status Mailbox::extend(MonoTime now, const AgentName& agent, const MessageId& id,
                       std::uint16_t attempt, Milliseconds lease, const AgentName& from) {
  return impl_->extend(now, agent, id, attempt, lease, from);
}
bool Mailbox::tick(MonoTime now) { return impl_->tick(now); }
std::optional<MonoTime> Mailbox::next_deadline() const { return impl_->next_deadline(); }
void Mailbox::stop_intake() { impl_->draining_ = true; }
std::vector<Summary> Mailbox::list(const AgentName& agent, Listed* there) const {
  return impl_->list(agent, there);
}
Result<Delivery> Mailbox::look(const AgentName& agent, const MessageId& id, const AgentName& from,
                               bool dead) const {
  return impl_->look(agent, id, from, dead);
}
bool Mailbox::has(const AgentName& agent, const MessageId& id, const AgentName& from) const {
  return impl_->has(agent, id, from);
}
Books Mailbox::books() const { return impl_->books(); }
std::vector<SendOutcome> Mailbox::take_outcomes() { return std::exchange(impl_->outcomes_, {}); }

}  // namespace swarm::mailbox
