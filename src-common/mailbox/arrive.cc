#include "mailbox/impl.h"

namespace swarm::mailbox {

namespace {

Grants::Sender sender_of(const Message& message) {
  return {pod_of(message.from), stream_of(message.priority, !message.in_reply_to.empty())};
}

}  // namespace

void Mailbox::Impl::count(Entry& e) {
  if (std::exchange(e.counted, true)) return;
  ++e.inbox->counted;
  e.inbox->bytes += e.payload_bytes;
  received_bytes_ += e.payload_bytes;
}

void Mailbox::Impl::uncount(Entry& e) {
  if (!std::exchange(e.counted, false)) return;
  --e.inbox->counted;
  e.inbox->bytes -= e.payload_bytes;
  received_bytes_ -= e.payload_bytes;
}

// Where there are several agents, none of which reads nothing takes the room of the others: an
// inbox gets more only while it has no more than what is left (dynamic thresholds, as in the
// outbox).
bool Mailbox::Impl::fits(const Inbox& inbox, const Grants::Claims& claims,
                         std::uint64_t bytes) const {
  if (inbox.counted + claims.places >= inbox_limit_) return false;
  const std::uint64_t inside = inbox.bytes + claims.bytes;
  if (inside == 0) return true;
  if (limits_.max_received_bytes == 0) return true;
  std::uint64_t elsewhere = received_bytes_ - inbox.bytes;
  for (const auto& [number, other] : contended_) {
    if (other != &inbox) elsewhere += other->grants.granted().bytes;
  }
  const std::uint64_t kept_free = agents_ > 1 ? inside : 0;
  return elsewhere + inside + bytes + kept_free <= limits_.max_received_bytes;
}

bool Mailbox::Impl::inbox_has_room(const Inbox& inbox, const Message& message) const {
  if (fits(inbox, inbox.grants.ahead_of(sender_of(message)), stored_bytes(message))) return true;
  // The one reserved place of a reply that is waited for.
  return !message.in_reply_to.empty() && inbox.awaited.count(message.in_reply_to) != 0 &&
         inbox.replies.count(message.in_reply_to) == 0;
}

void Mailbox::Impl::limit_inboxes(std::uint32_t messages, std::string why) {
  check(messages > 0 && messages <= limits_.max_inbox_messages, "a share of the inboxes' limit");
  inbox_limit_ = messages;
  shortage_ = std::move(why);
}

std::string Mailbox::Impl::why_full(const Message& message) const {
  const std::string& to = message.to.value;
  const Inbox* inbox = find_inbox(message.to);
  if (inbox == nullptr || inbox_has_room(*inbox, message))
    return to + "'s pod has no room left for messages (spec.mailbox.sizeLimit)";
  const auto size = stored_bytes(message);
  const std::uint64_t most = limits_.max_received_bytes;
  if (most != 0 && received_bytes_ + size > most) {
    return "the inboxes of " + to + "'s pod are full (" + kibibytes(received_bytes_) + " of " +
           kibibytes(most) + " KiB)";
  }
  if (most != 0 && agents_ > 1 && received_bytes_ + inbox->bytes + size > most) {
    const std::uint64_t others = received_bytes_ - inbox->bytes;
    return to + "'s inbox is full (" + kibibytes(inbox->bytes) +
           " KiB, half of what others leave of " + kibibytes(most) + ": " +
           kibibytes(most - others) + ")";
  }
  std::string words = to + "'s inbox is full (" + std::to_string(inbox->counted);
  const std::string places = std::to_string(limits_.max_inbox_messages);
  if (inbox_limit_ == limits_.max_inbox_messages)
    words += " of " + places + " messages";
  else
    words += " messages, " + std::to_string(inbox_limit_) + " of " + places +
             " allowed now: " + shortage_;
  return words + (inbox->counted < inbox_limit_ ? "; others have waited longer)" : ")");
}

void Mailbox::Impl::wait_for_place(MonoTime now, Inbox& inbox, const Message& message) {
  if (!limits_.grants) return;
  inbox.grants.refused(now, sender_of(message), stored_bytes(message));
  contended_.emplace(inbox.number, &inbox);
}

std::vector<Grant> Mailbox::Impl::take_grants(MonoTime now) {
  std::vector<Grant> grants;
  std::erase_if(contended_, [&](const auto& one) {
    Inbox* const inbox = one.second;
    const auto room = [&](const Grants::Claims& claims, std::uint64_t bytes) {
      return fits(*inbox, claims, bytes);
    };
    while (auto sender = inbox->grants.next(now, room))
      grants.push_back({std::move(sender->pod), inbox->name, sender->stream});
    return inbox->grants.idle();
  });
  return grants;
}

void Mailbox::Impl::on_declined(const AgentName& pod, const AgentName& to, std::uint8_t stream) {
  if (Inbox* inbox = find_inbox(to)) inbox->grants.end({pod, stream});
}

void Mailbox::Impl::forget_waiting(const AgentName& pod) {
  for (const auto& [number, inbox] : contended_) inbox->grants.forget(pod);
}

Result<Sequence> Mailbox::Impl::store(MonoTime now, const LogId& sender_log, Sequence sequence,
                                      const Message& message) {
  Sequence id_record = 0;
  const bool received = !sender_log.empty();
  const auto is_known = [&] {
    return inbox_of(number_in_pod(message.to.value))
               .received_ids.count(pair_key(message.from, message.id)) != 0;
  };
  if (!is_generated(message.id) && received && !is_known()) {
    auto written = log_->append(kUserId, encode_user_id({true, false, message.from, message.id,
                                                         number_in_pod(message.to.value)}));
    if (!written) return written.error();
    id_record = *written;
    crash_point("inbox-id-appended");
  }
  const std::string payload = encode_inbox(sender_log, sequence, message);
  auto written = log_->append(kInbox, payload);
  if (!written) {
    if (id_record != 0) finish_record(id_record);
    return written.error();
  }
  crash_point("inbox-appended");
  if (id_record != 0) {
    // Until here the id alone must not count as "stored before" (a crash may have come between the
    // two).
    record_outcome(id_record);
    remember_received(now, inbox_of(number_in_pod(message.to.value)),
                      pair_key(message.from, message.id), id_record);
  }
  Entry entry = make_entry(*written, sender_log, sequence, message, payload.size());
  if (!entry.inbox->grants.idle()) entry.inbox->grants.end(sender_of(message));
  if (received) {
    Stream& stream = stream_for(key_of(entry), message.from);
    const bool highest = sequence > stream.high;
    stream.high = std::max(stream.high, sequence);
    insert(std::move(entry));
    if (highest) carry(stream, *written, false);
  } else {
    insert(std::move(entry));
  }
  return *written;
}

Answer Mailbox::Impl::deliver(MonoTime now, const LogId& sender_log, Sequence sequence,
                              Sequence prev, const Message& message) {
  expire_ids(now);
  // What our own agents send each other comes over no link.
  if (sender_log.empty() || sequence == 0 || prev >= sequence || !is_of_pod(message.to) ||
      is_of_pod(message.from) || !is_agent_name(message.from.value) ||
      !is_message_id(message.id.value) ||
      (!message.in_reply_to.empty() && !is_message_id(message.in_reply_to.value)) ||
      static_cast<int>(message.priority) >= kPriorities || !may_stream(message) ||
      // Not our limit: it may have been accepted when that was higher.
      message.body.size() > kMostMessageBytes) {
    return Answer::kRefused;
  }
  Inbox& inbox = inbox_of(number_in_pod(message.to.value));
  const StreamKey key{sender_log, inbox.number,
                      stream_of(message.priority, !message.in_reply_to.empty())};
  const auto known = streams_.find(key);
  const Sequence high = known == streams_.end() ? 0 : known->second.high;
  if (sequence <= high) {
    ++books_.duplicates;
    const auto live = known->second.live.find(sequence);
    if (live != known->second.live.end()) {
      // The rest of a change of creditor looks acked; the message itself may wait yet.
      return inbox_.at(live->second).where != Where::kAcked ||
                     find_twin(inbox, message, sender_log, sequence) != nullptr
                 ? Answer::kDuplicate
                 : Answer::kFinished;
    }
    // Done with, or owed to another pod of its sender's name, which has sent it, too, or for an
    // earlier send of the same log.
    const Entry* twin = find_twin(inbox, message, sender_log, sequence);
    if (twin != nullptr) return owe(*twin, sender_log, sequence, message);
    return may_be_damaged(inbox, message) ? take_in(now, sender_log, sequence, message)
                                          : Answer::kFinished;
  }
  if (prev > high) return Answer::kGap;
  // The same message under another sequence: its sender's pod was lost and the agent sent it again.
  const std::string pair = pair_key(message.from, message.id);
  const auto same = inbox.by_pair.find(pair);
  const bool live = same != inbox.by_pair.end() && inbox_.at(same->second).where != Where::kAcked;
  const bool ended = !live && (same != inbox.by_pair.end() || inbox.received_ids.count(pair) != 0);
  if (ended && (same != inbox.by_pair.end() || !may_be_damaged(inbox, message))) {
    if (known == streams_.end() && !room_for_stream()) return Answer::kFull;
    stream_for(key, message.from).high = sequence;
    ++books_.duplicates;
    return Answer::kFinished;
  }
  if (known == streams_.end() && !room_for_stream()) return Answer::kFull;
  // Also of the same log: taken back there, when a copy was still on its way, and sent again.
  if (live && !inbox_.at(same->second).local())
    return owe(inbox_.at(same->second), sender_log, sequence, message);
  return take_in(now, sender_log, sequence, message);
}

// Its sender would not have it any more if it had been acked and recorded; nor is it one whose ack
// waits for that.
bool Mailbox::Impl::may_be_damaged(const Inbox& inbox, const Message& message) const {
  return damaged_ &&
         std::none_of(recent_acks_.begin(), recent_acks_.end(), [&](const Acked& acked) {
           return acked.inbox == &inbox && acked.id == message.id && acked.from == message.from;
         });
}

// Nobody here has it, as far as can be known.
Answer Mailbox::Impl::take_in(MonoTime now, const LogId& sender_log, Sequence sequence,
                              const Message& message) {
  Inbox& inbox = inbox_of(number_in_pod(message.to.value));
  const bool awaited =
      !message.in_reply_to.empty() && inbox.awaited.count(message.in_reply_to) != 0;
  if ((draining_ && !awaited) || !is_local(message.to)) return Answer::kRefused;
  if (!inbox_has_room(inbox, message)) {
    wait_for_place(now, inbox, message);
    ++books_.full;
    return Answer::kFull;
  }
  if (!store(now, sender_log, sequence, message)) {
    ++books_.full;
    return Answer::kFull;
  }
  return Answer::kStored;
}

Answer Mailbox::Impl::deliver_kept(MonoTime now, const LogId& keeper, const Outbound& kept) {
  const Message& m = kept.message;
  const Answer answer = deliver(now, kept.origin.log, kept.origin.sequence, kept.prev, m);
  if (answer != Answer::kStored && answer != Answer::kDuplicate && answer != Answer::kFinished)
    return answer;
  const auto stream = streams_.find(
      {kept.origin.log, number_in_pod(m.to.value), stream_of(m.priority, !m.in_reply_to.empty())});
  if (stream == streams_.end()) return answer;
  const auto live = stream->second.live.find(kept.origin.sequence);
  if (live == stream->second.live.end()) return answer;
  Entry* e = &inbox_.at(live->second);
  if (e->where == Where::kAcked) {
    const Entry* twin = find_twin(*e->inbox, m, kept.origin.log, kept.origin.sequence);
    if (twin != nullptr) e = &inbox_.at(twin->sequence);
  }
  e->keeper = keeper;
  e->keeper_sequence = kept.sequence;
  return answer;
}

// The same message in the inbox, live, from another pod of its sender's name.
const Mailbox::Impl::Entry* Mailbox::Impl::find_twin(const Inbox& inbox, const Message& message,
                                                     const LogId& sender_log,
                                                     Sequence sequence) const {
  const auto it = inbox.by_pair.find(pair_key(message.from, message.id));
  if (it == inbox.by_pair.end()) return nullptr;
  const Entry& e = inbox_.at(it->second);
  // Of its own log a later send counts; a late copy of an earlier one is done with.
  const bool earlier = e.sender_log == sender_log && sequence < e.sender_sequence;
  return e.where == Where::kAcked || e.local() || earlier ? nullptr : &e;
}

// `sender_log` has it, too. Whoever has sent it last is owed the ack, but no former pod in place of
// the one that has its name now: it would keep its copy without ever hearing of the ack.
Answer Mailbox::Impl::owe(const Entry& twin, const LogId& sender_log, Sequence sequence,
                          const Message& message) {
  const bool is_former = find_former(message.from, sender_log) != nullptr &&
                         find_former(message.from, twin.creditor()) == nullptr;
  if (is_former) {
    Stream& stream = stream_for(
        {sender_log, twin.inbox->number, stream_of(message.priority, !message.in_reply_to.empty())},
        message.from);
    stream.high = std::max(stream.high, sequence);
    return Answer::kDuplicate;
  }
  return refill(twin, sender_log, sequence, message) ? Answer::kDuplicate : Answer::kFull;
}

// Writes `twin` again as owed to its sender's new log, so that the two pods hold the same message
// once more.
bool Mailbox::Impl::refill(const Entry& twin, const LogId& sender_log, Sequence sequence,
                           const Message& message) {
  const Entry old = twin;  // by value: it goes
  const std::string payload = encode_inbox(sender_log, sequence, message);
  auto written = log_->append(kInbox, payload);
  if (!written) return false;
  Status marked = old.where == Where::kDead ? log_->mark(*written, State::kDead, old.attempt)
                                            : mark_attempts(*written, old);
  // As if acked: whatever cannot be written below, no restart hands it out again.
  const auto acked = static_cast<std::uint16_t>(kAckedBit | (old.attempt & kAttemptMask));
  if (marked) marked = log_->mark(old.sequence, State::kTaken, acked);
  if (!marked) {
    finish_record(*written);
    return false;
  }
  Entry& stale = inbox_.at(old.sequence);
  retire(stale);
  release(stale);
  Entry next = make_entry(*written, sender_log, sequence, message, payload.size());
  next.attempt = old.attempt;
  next.round = old.round;
  next.until = old.until;
  next.where = old.where;
  Stream& stream = stream_for(key_of(next), message.from);
  const bool latest = sequence > stream.high;
  stream.high = std::max(stream.high, sequence);
  stream.live[sequence] = next.sequence;
  Entry& e = inbox_[next.sequence] = std::move(next);
  index(e);
  Inbox& inbox = *e.inbox;
  if (e.where == Where::kDead)
    ++inbox.dead;
  else
    ++inbox.live;
  if (old.counted) count(e);
  enroll(e);
  if (e.where == Where::kReady) set_ready(e);
  if (e.where == Where::kLeased || e.where == Where::kDelayed)
    timers_.insert({e.until, e.sequence});
  if (e.where == Where::kLeased) ++inbox.leased_ids[e.id];
  if (latest) carry(stream, e.sequence, false);
  ++books_.duplicates;
  return true;
}

}  // namespace swarm::mailbox
