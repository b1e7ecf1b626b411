#include "mailbox/impl.h"

namespace swarm::mailbox {

Mailbox::Impl::Inbox& Mailbox::Impl::inbox_of(std::uint32_t number) {
  const auto [it, added] = inboxes_.try_emplace(number);
  if (added) {
    it->second.name = agent_of(pod_, number);
    it->second.number = number;
  }
  return it->second;
}

// nullptr: not one of this pod's, or nothing was ever for it.
Mailbox::Impl::Inbox* Mailbox::Impl::find_inbox(const AgentName& agent) {
  if (!is_of_pod(agent)) return nullptr;
  const auto it = inboxes_.find(number_in_pod(agent.value));
  return it == inboxes_.end() ? nullptr : &it->second;
}

void Mailbox::Impl::wake(Inbox& inbox) {
  if (!std::exchange(inbox.woken, true)) woken_.push_back(&inbox);
}

std::vector<AgentName> Mailbox::Impl::take_ready() {
  std::vector<AgentName> out;
  out.reserve(woken_.size());
  for (Inbox* inbox : std::exchange(woken_, {})) {
    inbox->woken = false;
    out.push_back(inbox->name);
  }
  return out;
}

Mailbox::Impl::Entry Mailbox::Impl::make_entry(Sequence sequence, const LogId& sender_log,
                                               Sequence sender_sequence, const Message& m,
                                               std::size_t payload) {
  Entry e;
  e.inbox = &inbox_of(number_in_pod(m.to.value));
  e.sequence = sequence;
  e.sender_log = sender_log;
  e.sender_sequence = sender_sequence;
  e.id = m.id;
  e.in_reply_to = m.in_reply_to;
  e.from = m.from;
  e.priority = m.priority;
  e.body_bytes = static_cast<std::uint32_t>(m.body.size());
  e.payload_bytes = static_cast<std::uint32_t>(payload);
  e.sent_at = m.sent_at;
  if (m.stream) e.stream = std::make_shared<const StreamPart>(*m.stream);
  return e;
}

Mailbox::Impl::Outgoing Mailbox::Impl::make_outgoing(Sequence sequence, const Message& m,
                                                     std::size_t payload) const {
  Outgoing o;
  o.sequence = sequence;
  o.id = m.id;
  o.from = m.from;
  o.to = m.to;
  o.priority = m.priority;
  o.reply = !m.in_reply_to.empty();
  o.body_bytes = static_cast<std::uint32_t>(m.body.size());
  o.payload_bytes = static_cast<std::uint32_t>(payload);
  o.sent_at = m.sent_at;
  return o;
}

Mailbox::Impl::Stream& Mailbox::Impl::stream_for(const StreamKey& key, const AgentName& from) {
  Stream& stream = streams_[key];
  if (stream.from.empty()) stream.from = pod_of(from);
  stream.used = ++use_;
  return stream;
}

Mailbox::Impl::Entry& Mailbox::Impl::insert(Entry entry) {
  const Sequence sequence = entry.sequence;
  Entry& e = inbox_[sequence] = std::move(entry);
  Inbox& inbox = *e.inbox;
  if (e.where == Where::kAnchor) {
    if (e.payload_bytes > kSmallAnchorBytes) large_anchors_.insert(sequence);
    return e;
  }
  // Two live records of one message: a crash interrupted the change of its creditor. The later one
  // counts.
  std::vector<Sequence> twins;
  const auto [begin, end] = inbox.by_id.equal_range(e.id);
  for (auto it = begin; it != end && !e.local(); ++it) {
    const Entry& old = inbox_.at(it->second);
    const bool again = old.sender_log != e.sender_log || old.sender_sequence == e.sender_sequence;
    if (old.from == e.from && !old.local() && again && old.where != Where::kAcked)
      twins.push_back(it->second);
  }
  for (const Sequence twin : twins) {
    Entry& old = inbox_.at(twin);
    if (old.attempt > e.attempt && e.where == Where::kReady) {
      e.attempt = old.attempt;
      e.round = old.round;
      (void)mark_attempts(sequence, e);  // else the next restart begins to count anew
    }
    retire(old);
    --books_.stored;
    release(old);
  }
  if (!e.local()) streams_.at(key_of(e)).live[e.sender_sequence] = sequence;
  index(e);
  if (e.where == Where::kAcked) {
    owed_[pod_of(e.from)].insert(sequence);
    return e;
  }
  ++books_.stored;
  if (e.in_reply_to.empty() || inbox.awaited.count(e.in_reply_to) == 0) count(e);
  enroll(e);
  if (e.where == Where::kDead) {
    ++inbox.dead;
    ++books_.dead;
  } else {
    ++inbox.live;
    set_ready(e);
  }
  return e;
}

// To be found by what it belongs to.
void Mailbox::Impl::enroll(const Entry& e) {
  Inbox& inbox = *e.inbox;
  if (!e.in_reply_to.empty()) inbox.replies[e.in_reply_to].insert(e.sequence);
  if (e.stream)
    inbox.parts[pair_key(e.from, e.stream->stream)].insert({e.stream->part, e.sequence});
}

void Mailbox::Impl::index(const Entry& e) {
  e.inbox->by_id.emplace(e.id, e.sequence);
  e.inbox->by_pair[pair_key(e.from, e.id)] = e.sequence;
}

void Mailbox::Impl::unindex(const Entry& e) {
  Inbox& inbox = *e.inbox;
  const auto [begin, end] = inbox.by_id.equal_range(e.id);
  for (auto it = begin; it != end; ++it) {
    if (it->second == e.sequence) {
      inbox.by_id.erase(it);
      break;
    }
  }
  const auto pair = inbox.by_pair.find(pair_key(e.from, e.id));
  if (pair != inbox.by_pair.end() && pair->second == e.sequence) inbox.by_pair.erase(pair);
}

void Mailbox::Impl::set_ready(Entry& e) {
  Inbox& inbox = *e.inbox;
  e.where = Where::kReady;
  wake(inbox);
  if (e.stream) return;
  if (e.in_reply_to.empty() || inbox.awaited.count(e.in_reply_to) == 0)
    inbox.ready[static_cast<std::size_t>(e.priority)].insert(e.sequence);
}

void Mailbox::Impl::leave(Entry& e) {
  Inbox& inbox = *e.inbox;
  inbox.ready[static_cast<std::size_t>(e.priority)].erase(e.sequence);
  wake(inbox);  // for what had to wait until it was out of the way
  if (e.where == Where::kLeased || e.where == Where::kDelayed) timers_.erase({e.until, e.sequence});
  if (e.where == Where::kLeased) {
    if (const auto it = inbox.leased_ids.find(e.id); --it->second == 0) inbox.leased_ids.erase(it);
  }
}

// Out of everything that counts it as live, before it is acked or replaced.
void Mailbox::Impl::retire(Entry& e) {
  Inbox& inbox = *e.inbox;
  leave(e);
  if (e.where == Where::kDead)
    --inbox.dead;
  else
    --inbox.live;
  uncount(e);
  if (e.stream) {
    const auto parts = inbox.parts.find(pair_key(e.from, e.stream->stream));
    if (parts != inbox.parts.end() && parts->second.erase({e.stream->part, e.sequence}) != 0 &&
        parts->second.empty())
      inbox.parts.erase(parts);
  }
  if (e.in_reply_to.empty()) return;
  const auto it = inbox.replies.find(e.in_reply_to);
  if (it != inbox.replies.end() && it->second.erase(e.sequence) != 0 && it->second.empty())
    inbox.replies.erase(it);
}

// A dead letter keeps its second copy in the sender's outbox: no ack is owed for it until somebody
// ends it by purge().
void Mailbox::Impl::make_dead(Entry& e) {
  leave(e);
  (void)log_->mark(e.sequence, State::kDead,
                   e.attempt);  // else it is found as kTaken with all attempts used
  crash_point("dead-marked");
  e.where = Where::kDead;
  --e.inbox->live;
  ++e.inbox->dead;
  ++books_.dead;
}

// The dead letter of that id; of several senders' the one that came first, rather than one that is
// damaged.
const Mailbox::Impl::Entry* Mailbox::Impl::find_dead(const AgentName& agent, const MessageId& id,
                                                     const AgentName& from) const {
  std::vector<const Entry*> found;
  const Inbox* inbox = find_inbox(agent);
  if (inbox == nullptr) return nullptr;
  const auto [begin, end] = inbox->by_id.equal_range(id);
  for (auto it = begin; it != end; ++it) {
    const Entry& e = inbox_.at(it->second);
    if (e.where == Where::kDead && (from.empty() || e.from == from)) found.push_back(&e);
  }
  if (found.empty()) return nullptr;
  std::sort(found.begin(), found.end(),
            [](const Entry* a, const Entry* b) { return a->sequence < b->sequence; });
  if (found.size() == 1) return found.front();
  const auto first = std::find_if(found.begin(), found.end(),
                                  [this](const Entry* e) { return read_inbox(e->sequence).ok(); });
  return first == found.end() ? found.front() : *first;
}

// Writes how often the message of `e`, which is not dead, was handed out. A record that begins a
// round stays live with that number, which is what tells it from one whose attempts are used up.
Status Mailbox::Impl::mark_attempts(Sequence sequence, const Entry& e) {
  return log_->mark(sequence, e.attempt == e.round ? State::kLive : State::kTaken, e.attempt);
}

// ---- streams

const Mailbox::Impl::Former* Mailbox::Impl::find_former(const AgentName& name,
                                                        const LogId& log) const {
  const auto it = incarnations_.find(pod_of(name));
  if (it == incarnations_.end()) return nullptr;
  const auto& former = it->second.former;
  const auto found =
      std::find_if(former.begin(), former.end(), [&](const Former& f) { return f.log == log; });
  return found == former.end() ? nullptr : &*found;
}

Mailbox::Impl::Former& Mailbox::Impl::remember_former(const AgentName& pod, const LogId& log) {
  auto& former = incarnations_.at(pod).former;
  const auto found =
      std::find_if(former.begin(), former.end(), [&](const Former& f) { return f.log == log; });
  if (found != former.end()) return *found;
  if (former.size() >= kMaxFormer) former.pop_front();
  return former.emplace_back(Former{log, false});
}

// Makes `record` the carrier of the stream's high-water mark; the one before it is no longer needed
// for that.
void Mailbox::Impl::carry(Stream& stream, Sequence record, bool cursor) {
  if (stream.carrier != record) drop_carrier(stream);
  stream.carrier = record;
  stream.carrier_is_cursor = cursor;
}

// A cursor or anchor has no other use; a live record has, and only ceases to be the carrier.
void Mailbox::Impl::drop_carrier(Stream& stream) {
  const Sequence old = std::exchange(stream.carrier, 0);
  if (old == 0) return;
  if (stream.carrier_is_cursor) {
    finish_record(old);
  } else if (const auto it = inbox_.find(old);
             it != inbox_.end() && it->second.where == Where::kAnchor) {
    large_anchors_.erase(old);
    inbox_.erase(it);
    finish_record(old);
  }
  stream.carrier_is_cursor = false;
}

bool Mailbox::Impl::write_cursor(const StreamKey& key, Stream& stream) {
  const auto& [sender_log, to, index] = key;
  auto written =
      log_->append(kCursor, encode_cursor({sender_log, index, stream.high, stream.from, to}));
  if (!written) return false;
  crash_point("cursor-appended");
  stream.carrier = *written;
  stream.carrier_is_cursor = true;
  return true;
}

// The record of `e` has served (acked and recorded, or its sender is gone). When it carries its
// stream's mark it stays as an anchor, which needs no space, or is replaced by a small cursor
// record, which needs some.
void Mailbox::Impl::release(Entry& e) {
  const Sequence sequence = e.sequence;
  unindex(e);
  if (!e.local()) {
    const StreamKey key = key_of(e);
    const auto it = streams_.find(key);
    if (it != streams_.end()) {
      Stream& stream = it->second;
      stream.live.erase(e.sender_sequence);
      if (stream.carrier == sequence &&
          (e.payload_bytes <= kSmallAnchorBytes || !write_cursor(key, stream))) {
        e.where = Where::kAnchor;
        (void)log_->mark(sequence, State::kTaken,
                         kAnchorBits);  // else it is settled once more after a restart
        if (e.payload_bytes > kSmallAnchorBytes) large_anchors_.insert(sequence);
        e.id.value.clear();
        e.id.value.shrink_to_fit();
        return;
      }
      if (stream.carrier == sequence) stream.carrier = 0;
    }
  }
  inbox_.erase(sequence);
  finish_record(sequence);
}

// Replaces a large anchor by a cursor record, when there is room again.
void Mailbox::Impl::shrink_anchor(Sequence sequence) {
  const auto it = inbox_.find(sequence);
  check(it != inbox_.end() && it->second.where == Where::kAnchor, "a large anchor is in the inbox");
  const Entry& e = it->second;
  const StreamKey key = key_of(e);
  if (!write_cursor(key, streams_.at(key))) return;
  large_anchors_.erase(sequence);
  inbox_.erase(it);
  finish_record(sequence);
}

// Below max_streams, if need be by forgetting the mark that was used least recently and has nothing
// live.
bool Mailbox::Impl::room_for_stream() {
  if (streams_.size() < limits_.max_streams) return true;
  auto oldest = streams_.end();
  for (auto it = streams_.begin(); it != streams_.end(); ++it) {
    if (it->second.live.empty() &&
        (oldest == streams_.end() || it->second.used < oldest->second.used))
      oldest = it;
  }
  if (oldest == streams_.end()) return false;
  drop_carrier(oldest->second);
  streams_.erase(oldest);
  return true;
}

}  // namespace swarm::mailbox
