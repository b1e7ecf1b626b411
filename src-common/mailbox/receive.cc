#include "mailbox/impl.h"

namespace swarm::mailbox {

std::optional<Delivery> Mailbox::Impl::receive(MonoTime now, const AgentName& agent,
                                               Milliseconds lease,
                                               const std::optional<MessageId>& in_reply_to,
                                               const std::set<Sequence>* only) {
  (void)tick(now);
  Inbox* const found = find_inbox(agent);
  if (found == nullptr) return std::nullopt;
  Inbox& inbox = *found;
  std::vector<Sequence> dead;
  std::optional<Delivery> out;
  auto take = [&](const std::set<Sequence>& candidates) {
    for (const Sequence sequence : candidates) {
      Entry& e = inbox_.at(sequence);
      if (e.where != Where::kReady || inbox.leased_ids.count(e.id) != 0) continue;
      // All attempts were used before a restart; an ack of the last one could still have come until
      // now.
      if (used_up(e)) {
        dead.push_back(sequence);
        continue;
      }
      auto message = read_inbox(sequence);
      if (!message) {
        if (message.error().code == Code::kCorrupt) dead.push_back(sequence);
        wake(inbox);  // it may be readable the next time
        continue;
      }
      const auto attempt = static_cast<std::uint16_t>(e.attempt + 1);
      if (!log_->mark(sequence, State::kTaken, attempt)) {
        wake(inbox);
        return true;
      }
      crash_point("hand-out-marked");
      e.attempt = attempt;
      inbox.ready[static_cast<std::size_t>(e.priority)].erase(sequence);
      e.where = Where::kLeased;
      e.until = now + lease;
      timers_.insert({e.until, sequence});
      ++inbox.leased_ids[e.id];
      ++books_.delivered;
      if (attempt > 1) ++books_.redelivered;
      out = Delivery{std::move(*message), attempt, attempt > 1, e.until};
      return true;
    }
    return false;
  };
  if (only != nullptr) {
    (void)take(*only);
  } else if (in_reply_to) {
    if (const auto it = inbox.replies.find(*in_reply_to); it != inbox.replies.end())
      (void)take(it->second);
  } else {
    std::array<bool, kPriorities> nothing{};  // that can be handed out now
    while (const auto priority = inbox.turns.next(
               [&](std::size_t p) { return !nothing[p] && !inbox.ready[p].empty(); })) {
      if (take(inbox.ready[*priority])) {
        if (out) inbox.turns.spend(*priority);
        break;
      }
      nothing[*priority] = true;
    }
  }
  for (const Sequence sequence : dead) make_dead(inbox_.at(sequence));
  return out;
}

// One part after the other: the next only when nothing is left of the one before, so that it stays
// the order also when a part is handed out again.
Result<std::optional<Delivery>> Mailbox::Impl::receive_part(MonoTime now, const AgentName& agent,
                                                            Milliseconds lease,
                                                            const AgentName& from,
                                                            const MessageId& stream,
                                                            std::uint32_t part) {
  (void)tick(now);
  const Inbox* inbox = find_inbox(agent);
  if (inbox == nullptr) return std::optional<Delivery>();
  const auto parts = inbox->parts.find(pair_key(from, stream));
  if (parts == inbox->parts.end()) return std::optional<Delivery>();
  const auto [first, sequence] = *parts->second.begin();
  const std::string name = " of stream " + stream.value + " from " + from.value;
  if (inbox_.at(sequence).where == Where::kDead) {
    return Error{Code::kDenied, "part " + std::to_string(first) + name +
                                    " is a dead letter: redrive it, or purge it and go on behind"};
  }
  if (first > part) {
    return Error{Code::kDenied, "part " + std::to_string(part) + name +
                                    " is lost, or was read before; the next one is part " +
                                    std::to_string(first)};
  }
  const std::set<Sequence> only{sequence};
  return receive(now, agent, lease, std::nullopt, &only);
}

bool Mailbox::Impl::await_reply(const AgentName& agent, const MessageId& id) {
  if (!is_local(agent)) return false;
  Inbox& inbox = inbox_of(number_in_pod(agent.value));
  if (inbox.awaited.count(id) != 0) return true;
  if (awaiting_ >= kMaxAwaited) return false;
  inbox.awaited.insert(id);
  ++awaiting_;
  const auto it = inbox.replies.find(id);
  if (it == inbox.replies.end()) return true;
  for (const Sequence sequence : it->second) {
    Entry& e = inbox_.at(sequence);
    inbox.ready[static_cast<std::size_t>(e.priority)].erase(sequence);
    uncount(e);
  }
  return true;
}

void Mailbox::Impl::forget_reply(const AgentName& agent, const MessageId& id) {
  Inbox* inbox = find_inbox(agent);
  if (inbox == nullptr || inbox->awaited.erase(id) == 0) return;
  --awaiting_;
  const auto it = inbox->replies.find(id);
  if (it == inbox->replies.end()) return;
  for (const Sequence sequence : it->second) {
    Entry& e = inbox_.at(sequence);
    count(e);
    if (e.where == Where::kReady) set_ready(e);
  }
}

bool Mailbox::Impl::has(const AgentName& agent, const MessageId& id, const AgentName& from) const {
  const Inbox* inbox = find_inbox(agent);
  return inbox != nullptr && inbox->by_pair.count(pair_key(from, id)) != 0;
}

// Ids of different senders may be equal, and so may their attempts: whoever settles one of several
// has to say whose it is.
Status Mailbox::Impl::one_sender(const Inbox& inbox, const MessageId& id,
                                 const AgentName& from) const {
  if (!from.empty()) return {};
  const AgentName* first = nullptr;
  const AgentName* second = nullptr;
  const auto see = [&](const AgentName& sender) {
    if (first == nullptr)
      first = &sender;
    else if (*first != sender)
      second = &sender;
  };
  const auto [begin, end] = inbox.by_id.equal_range(id);
  for (auto it = begin; it != end; ++it) see(inbox_.at(it->second).from);
  if (first == nullptr) return {};  // nothing that could be taken for another
  if (recent_ids_.count(id) != 0) {
    for (const Acked& acked : recent_acks_) {
      if (acked.inbox == &inbox && acked.id == id) see(acked.from);
    }
  }
  if (second == nullptr) return {};
  if (second->value < first->value) std::swap(first, second);
  return invalid("messages " + id.value + " of " + first->value + " and of " + second->value +
                 " came here: say whose is meant (from)");
}

// The live or acked record that `attempt` of `id` speaks about.
Mailbox::Impl::Entry* Mailbox::Impl::find_attempt(const Inbox& inbox, const MessageId& id,
                                                  std::uint16_t attempt, const AgentName& from) {
  Entry* best = nullptr;
  auto rank = [&](const Entry& e) {
    if (!e.is_current(attempt)) return 0;
    return e.where == Where::kLeased                                ? 4
           : e.where == Where::kReady || e.where == Where::kDelayed ? 3
                                                                    : 2;
  };
  const auto [begin, end] = inbox.by_id.equal_range(id);
  const bool several = begin != end && std::next(begin) != end;
  for (auto it = begin; it != end; ++it) {
    Entry& e = inbox_.at(it->second);
    if (!from.empty() && e.from != from) continue;
    // The rest of a change of its creditor, which a crash interrupted, has no attempts of its own.
    if (several && (e.where == Where::kAcked || e.where == Where::kAnchor)) {
      const auto latest = inbox.by_pair.find(pair_key(e.from, id));
      if (latest != inbox.by_pair.end() && latest->second != e.sequence) continue;
    }
    if (best == nullptr || rank(e) > rank(*best)) best = &e;
  }
  return best;
}

Result<AckResult> Mailbox::Impl::ack(const AgentName& agent, const MessageId& id,
                                     std::uint16_t attempt, const AgentName& from) {
  const Inbox* inbox = find_inbox(agent);
  if (inbox == nullptr) return not_found("no message " + id.value + " here");
  if (auto s = one_sender(*inbox, id, from); !s) return s.error();
  Entry* e = find_attempt(*inbox, id, attempt, from);
  if (e == nullptr) {
    const bool recent =
        std::any_of(recent_acks_.begin(), recent_acks_.end(), [&](const Acked& acked) {
          return acked.inbox == inbox && acked.id == id && acked.attempt == attempt &&
                 (from.empty() || acked.from == from);
        });
    if (recent) return AckResult{};
    return not_found("no message " + id.value + " here");
  }
  if (!e->is_current(attempt)) {
    return Error{Code::kDenied, "attempt " + std::to_string(attempt) + " of " + id.value +
                                    " is not the current one"};
  }
  return settle_or_owe(*e, attempt);
}

Result<AckResult> Mailbox::Impl::purge(const AgentName& agent, const MessageId& id) {
  const Entry* found = find_dead(agent, id);
  if (found == nullptr) return not_found("no dead letter " + id.value + " here");
  return settle_or_owe(inbox_.at(found->sequence), found->attempt);
}

// Its attempts count on from the next multiple of max_attempts, so that no number is used twice and
// an ack from before finds none of its own; the record, its place in its stream and the sender's
// copy stay what they are.
Status Mailbox::Impl::redrive(const AgentName& agent, const MessageId& id) {
  const Entry* found = find_dead(agent, id);
  if (found == nullptr) return not_found("no dead letter " + id.value + " here");
  Entry* e = &inbox_.at(found->sequence);
  const int most = limits_.max_attempts;
  const int round = (e->attempt + most - 1) / most * most;
  if (round + most > kAttemptMask) {
    return Error{Code::kDenied, id.value + " was handed out " + std::to_string(e->attempt) +
                                    " times, and its attempts can't be counted on: purge it"};
  }
  if (auto message = read_inbox(e->sequence); !message) {
    if (message.error().code != Code::kCorrupt) return message.error();
    return Error{Code::kDenied,
                 id.value + "'s stored copy is damaged and can't be handed out: purge it"};
  }
  if (auto s = log_->mark(e->sequence, State::kLive, static_cast<std::uint16_t>(round)); !s)
    return s.error();
  crash_point("redrive-marked");
  e->attempt = e->round = static_cast<std::uint16_t>(round);
  --e->inbox->dead;
  ++e->inbox->live;
  ++books_.redriven;
  set_ready(*e);
  return {};
}

Result<AckResult> Mailbox::Impl::settle_or_owe(Entry& e, std::uint16_t attempt) {
  const AckDebt debt = e.debt();
  if (e.where == Where::kAcked) return AckResult{debt};
  const bool owes = !e.local() && !has_ended(e.from, e.creditor());
  if (!record_pending_outcomes()) return internal_error("the log cannot be written");
  if (owes) {
    if (auto s =
            log_->mark(e.sequence, State::kTaken, static_cast<std::uint16_t>(attempt | kAckedBit));
        !s)
      return s.error();
  } else if (auto s = log_->mark(e.sequence, State::kTaken,
                                 static_cast<std::uint16_t>(attempt | kAnchorBits));
             !s) {
    return s.error();  // before anything is told: an ack that is OK stays OK, though marking it
                       // done may fail below
  }
  crash_point("ack-marked");
  retire(e);
  e.where = Where::kAcked;
  ++books_.acked;
  if (recent_acks_.size() >= kRecentAcks) {
    const auto oldest = recent_ids_.find(recent_acks_.front().id);
    if (--oldest->second == 0) recent_ids_.erase(oldest);
    recent_acks_.pop_front();
  }
  ++recent_ids_[e.id];
  recent_acks_.push_back({e.inbox, e.id, e.from, attempt});
  if (owes) {
    owed_[debt.sender].insert(e.sequence);
    return AckResult{debt};
  }
  release(e);
  return AckResult{};
}

void Mailbox::Impl::on_ack_recorded(Sequence inbox) {
  const auto it = inbox_.find(inbox);
  if (it == inbox_.end() || it->second.where != Where::kAcked) return;
  const auto owed = owed_.find(pod_of(it->second.from));
  if (owed != owed_.end()) {
    owed->second.erase(inbox);
    if (owed->second.empty()) owed_.erase(owed);
  }
  release(it->second);
  crash_point("inbox-released");
}

std::vector<AckDebt> Mailbox::Impl::ack_debts(const AgentName& sender) const {
  std::vector<AckDebt> out;
  const auto it = owed_.find(sender);
  if (it == owed_.end()) return out;
  for (const Sequence sequence : it->second) out.push_back(inbox_.at(sequence).debt());
  return out;
}

std::vector<AgentName> Mailbox::Impl::ack_creditors() const {
  std::vector<AgentName> out;
  for (const auto& [name, records] : owed_) out.push_back(name);
  return out;
}

std::map<AgentName, std::set<LogId>> Mailbox::Impl::senders() const {
  std::map<AgentName, std::set<LogId>> out;
  for (const auto& [sequence, e] : inbox_) {
    if (e.where != Where::kAnchor && !e.local()) out[pod_of(e.from)].insert(e.creditor());
  }
  return out;
}

void Mailbox::Impl::on_incarnation(const AgentName& name, const LogId& current) {
  if (find_former(name, current) != nullptr) return;  // an old view; it does not come back
  const auto known = incarnations_.find(name);
  if (known == incarnations_.end()) {
    if (incarnations_.size() < kMaxNames) incarnations_[name].current = current;
    return;
  }
  if (known->second.current == current) return;
  const LogId replaced = std::exchange(known->second.current, current);
  (void)remember_former(name, replaced);
}

std::vector<Sequence> Mailbox::Impl::on_former(const AgentName& name, const LogId& log) {
  const auto known = incarnations_.find(name);
  if (known == incarnations_.end() || known->second.current == log) return {};
  remember_former(name, log).ended = true;
  std::vector<Sequence> settled;
  for (const AckDebt& debt : ack_debts(name)) {
    if (debt.sender_log != log) continue;
    settled.push_back(debt.inbox);
    on_ack_recorded(debt.inbox);
  }
  // Its marks stay, until others need their room: it may still live, and send again what we have
  // answered.
  return settled;
}

std::vector<Sequence> Mailbox::Impl::on_gone(const AgentName& name) {
  std::vector<Sequence> settled;
  for (const AckDebt& debt : ack_debts(name)) {
    settled.push_back(debt.inbox);
    on_ack_recorded(debt.inbox);
  }
  return settled;
}

Status Mailbox::Impl::nack(MonoTime now, const AgentName& agent, const MessageId& id,
                           std::uint16_t attempt, Milliseconds delay, const AgentName& from) {
  const Inbox* inbox = find_inbox(agent);
  if (inbox != nullptr) {
    if (auto s = one_sender(*inbox, id, from); !s) return s;
  }
  Entry* e = inbox == nullptr ? nullptr : find_attempt(*inbox, id, attempt, from);
  if (e == nullptr) return not_found("no message " + id.value + " here");
  if (!e->is_current(attempt) || e->where == Where::kAcked) {
    return Error{Code::kDenied, "attempt " + std::to_string(attempt) + " of " + id.value +
                                    " is not the current one"};
  }
  ++books_.nacked;
  if (used_up(*e)) {
    make_dead(*e);
    return {};
  }
  leave(*e);
  if (delay > Milliseconds::zero()) {
    e->where = Where::kDelayed;
    e->until = now + delay;
    timers_.insert({e->until, e->sequence});
  } else {
    set_ready(*e);
  }
  return {};
}

Status Mailbox::Impl::extend(MonoTime now, const AgentName& agent, const MessageId& id,
                             std::uint16_t attempt, Milliseconds lease, const AgentName& from) {
  Inbox* inbox = find_inbox(agent);
  if (inbox != nullptr) {
    if (auto s = one_sender(*inbox, id, from); !s) return s;
  }
  Entry* e = inbox == nullptr ? nullptr : find_attempt(*inbox, id, attempt, from);
  if (e == nullptr) return not_found("no message " + id.value + " here");
  const bool holds =
      e->is_current(attempt) && (e->where == Where::kLeased || e->where == Where::kReady);
  if (!holds || (e->where == Where::kReady && inbox->leased_ids.count(id) != 0)) {
    return Error{Code::kDenied,
                 "attempt " + std::to_string(attempt) + " of " + id.value + " has no lease"};
  }
  leave(*e);
  e->where = Where::kLeased;  // also when the lease had run out, or ended with a restart, and
                              // nobody got it since
  e->until = now + lease;
  timers_.insert({e->until, e->sequence});
  ++inbox->leased_ids[id];
  return {};
}

bool Mailbox::Impl::tick(MonoTime now) {
  ticked_ = std::max(ticked_, now);
  bool ready = false;
  while (!timers_.empty() && timers_.begin()->first <= now) {
    Entry& e = inbox_.at(timers_.begin()->second);
    if (e.where == Where::kLeased && used_up(e)) {
      make_dead(e);
      continue;
    }
    leave(e);
    set_ready(e);
    ready = true;
  }
  expire_ids(now);
  record_late_acks();  // else at the next tick
  if (!large_anchors_.empty()) shrink_anchor(*large_anchors_.begin());
  return ready;
}

std::optional<MonoTime> Mailbox::Impl::next_deadline() const {
  std::optional<MonoTime> first;
  if (!timers_.empty()) first = timers_.begin()->first;
  for (const auto& [number, inbox] : contended_) {
    if (const auto ends = inbox->grants.deadline(); ends && (!first || *ends < *first))
      first = ends;
  }
  return first;
}

}  // namespace swarm::mailbox
