#include "mailbox/impl.h"

namespace swarm::mailbox {

void Mailbox::Impl::restore(const log::Record& record) {
  Restored r{record.sequence, record.kind, record.state, record.attempt, {}, {}, {}, {}};
  // A record that is whole but cannot be understood was written by a later release: left alone, for
  // that one to find.
  if (record.kind == kOutbox) {
    auto out = decode_outbox(record.payload);
    strange_outbox_ = strange_outbox_ || !out || !is_of_pod(out->message.from);
    if (!out || !is_of_pod(out->message.from)) return;
    r.out = make_outgoing(record.sequence, out->message, record.payload.size());
    if (out->body != 0) r.out->share(out->body, out->body_bytes);
    r.out->restored = r.out->uncertain = r.out->anywhere = true;
  } else if (record.kind == kBody) {
    bodies_[record.sequence].bytes = static_cast<std::uint32_t>(record.payload.size());
    return;
  } else if (record.kind == kKept) {
    if (record.payload.size() < kKeptPrefix) return;
    auto offered = decode_outbound(log::get<Sequence>(record.payload, kKeptPrefix - 8), 0,
                                   record.payload.substr(kKeptPrefix));
    if (!offered || offered->origin.log.empty() || !is_of_pod(offered->message.from)) return;
    r.out = make_outgoing(record.sequence, offered->message, record.payload.size());
    r.out->accepted = r.out->restored = r.out->uncertain = r.out->anywhere = true;
    r.out->kept = std::make_unique<Kept>(
        Kept{get_log_id(record.payload, 0), offered->sequence, offered->origin});
  } else if (record.kind == kWard) {
    if (record.payload.size() < kKeptPrefix) return;
    const auto copy = decode_outbound(log::get<Sequence>(record.payload, kKeptPrefix - 8), 0,
                                      record.payload.substr(kKeptPrefix));
    if (!copy || copy->origin.log.empty() || get_log_id(record.payload, 0).empty()) return;
    r.ward = make_ward(get_log_id(record.payload, 0), *copy, record.payload.size());
  } else if (record.kind == kInbox) {
    if (record.payload.size() < kInboxPrefix) return;
    auto m = decode(record.payload.substr(kInboxPrefix));
    const LogId from = get_log_id(record.payload, 0);
    if (!m || !is_of_pod(m->to) || (!from.empty() && is_of_pod(m->from))) return;
    r.entry = make_entry(record.sequence, from, log::get<Sequence>(record.payload, 16), *m,
                         record.payload.size());
  } else if (record.kind == kCursor || record.kind == kUserId) {
    r.head = std::string(record.payload);
  } else {
    return;
  }
  restored_.push_back(std::move(r));
}

void Mailbox::Impl::attach(log::Log& log, MonoTime now, bool damaged) {
  log_ = &log;
  damaged_ = damaged;
  for (Restored& r : restored_) {
    if (r.out) {
      Outgoing& o = *r.out;
      const std::uint16_t mark = r.state == State::kTaken ? r.attempt : std::uint16_t{0};
      if (o.kept && !o.kept->former.empty()) {
        carry_offer(*o.kept, r.sequence);
        Predecessor& former = predecessors_.at(o.kept->former);
        if (mark == kMarkOnly) {
          if (former.carrier == r.sequence)
            former.mark_only = true;
          else
            finish_record(r.sequence);
          continue;
        }
      }
      ++(o.kept ? books_.adopted : books_.sent);
      if (mark == kHandedOverMark) {
        ++books_.handed_over;
        handed_over_.insert(r.sequence);
        if (const auto body = bodies_.find(o.body); body != bodies_.end())
          body->second.stays = true;
        pass_on(o);
        continue;
      }
      o.offered = mark == kOfferedMark;
      if (limits_.entrust) o.copy = Copy::kPerhaps;
      insert_out(std::move(o));
    } else if (r.ward) {
      insert_ward(r.sequence, std::move(*r.ward));
    } else if (r.kind == kCursor) {
      const auto c = decode_cursor(r.head);
      if (!c) continue;
      Stream& stream = stream_for({c->sender_log, c->to, c->stream}, c->from);
      if (c->high > stream.high) {
        stream.high = c->high;
        carry(stream, r.sequence, true);
      } else {
        finish_record(r.sequence);
      }
    } else if (r.entry) {
      Entry e = std::move(*r.entry);
      const std::uint16_t bits = r.attempt & kAnchorBits;
      e.attempt = r.attempt & kAttemptMask;
      // Rounds begin at multiples of max_attempts; a record that is live begins one.
      e.round = r.state == State::kLive || e.attempt == 0
                    ? e.attempt
                    : static_cast<std::uint16_t>((e.attempt - 1) / limits_.max_attempts *
                                                 limits_.max_attempts);
      if (r.state == State::kDead)
        e.where = Where::kDead;
      else if (r.state == State::kTaken && bits == kAnchorBits)
        e.where = Where::kAnchor;
      else if (r.state == State::kTaken && bits == kAckedBit)
        e.where = Where::kAcked;
      Stream* stream = e.local() ? nullptr : &stream_for(key_of(e), e.from);
      const bool highest = stream != nullptr && e.sender_sequence > stream->high;
      if (!highest && e.where == Where::kAnchor) {
        finish_record(r.sequence);
        continue;
      }
      insert(std::move(e));
      if (highest) {
        stream->high = std::max(stream->high, inbox_.at(r.sequence).sender_sequence);
        carry(*stream, r.sequence, false);
      }
    }
  }
  // Ids need the messages to be there.
  for (const Restored& r : restored_) {
    if (r.kind != kUserId) continue;
    const auto u = decode_user_id(r.head);
    if (!u) continue;
    if (u->received) {
      Inbox& inbox = inbox_of(u->self);
      const std::string pair = pair_key(u->peer, u->id);
      const bool live = inbox.by_pair.count(pair) != 0;
      if (r.state != State::kTaken && !live) {
        finish_record(r.sequence);
        continue;
      }
      if (r.state != State::kTaken) record_outcome(r.sequence);
      remember_received(now, inbox, pair, r.sequence);
      continue;
    }
    const AgentName self = agent_of(pod_, u->self);
    const std::string pair = pair_key(self, u->peer, u->id);
    const auto out = out_by_pair_.find(pair);
    const Inbox* to = u->local ? find_inbox(u->peer) : nullptr;
    Sequence stored = 0;
    if (to != nullptr) {
      if (const auto in = to->by_pair.find(pair_key(self, u->id)); in != to->by_pair.end())
        stored = in->second;
    }
    const bool accepted = r.state == State::kTaken || stored != 0;
    if (!accepted && out == out_by_pair_.end()) {
      finish_record(r.sequence);  // its message never came to be
      continue;
    }
    remember_sent(now, pair, u->peer, r.sequence);
    const auto known = sent_ids_.find(pair);
    if (known == sent_ids_.end()) continue;  // more than max_user_ids
    known->second.accepted = accepted;
    known->second.local = u->local;
    known->second.sequence = out != out_by_pair_.end() ? out->second : stored;
    if (accepted && r.state != State::kTaken) record_outcome(r.sequence);
    if (accepted && out != out_by_pair_.end()) out_.at(out->second).accepted = true;
  }
  for (auto it = bodies_.begin(); it != bodies_.end();) {
    const auto at = it++;
    at->second.stays = at->second.stays || strange_outbox_;
    if (at->second.holders == 0) end_body(at);
  }
  restored_.clear();
  restored_.shrink_to_fit();
  crash_point("recovery-attached");
  (void)tick(now);
}

// ---- log

void Mailbox::Impl::finish_record(Sequence sequence) {
  pending_outcomes_.erase(sequence);
  log_->finish(sequence);
}

// A user id's record says "accepted" or "stored" before its message's record goes: else a crash
// would forget the id.
void Mailbox::Impl::record_outcome(Sequence record) {
  if (!log_->mark(record, State::kTaken, 1)) pending_outcomes_.insert(record);
}

bool Mailbox::Impl::record_pending_outcomes() {
  while (!pending_outcomes_.empty()) {
    if (!log_->mark(*pending_outcomes_.begin(), State::kTaken, 1)) return false;
    pending_outcomes_.erase(pending_outcomes_.begin());
  }
  return true;
}

Result<Message> Mailbox::Impl::read_inbox(Sequence sequence) const {
  auto bytes = log_->read(sequence);
  if (!bytes) return bytes.error();
  if (bytes->size() < kInboxPrefix) return Error{Code::kCorrupt, "an inbox record is cut short"};
  return decode(std::string_view(*bytes).substr(kInboxPrefix));
}

}  // namespace swarm::mailbox
