#include "mailbox/impl.h"

namespace swarm::mailbox {

void Mailbox::Impl::begin_offers() {
  offers_.clear();
  for (const auto& [sequence, o] : out_) offers_.insert(sequence);
  offers_due_ = offers_;
}

std::vector<Outbound> Mailbox::Impl::offer(std::size_t max_bytes) {
  std::vector<Outbound> out;
  std::size_t bytes = 0;
  while (!offers_due_.empty() && out.size() < kMaxTransmit) {
    const auto self = offers_.find(*offers_due_.begin());
    Outgoing& o = out_.at(*self);
    if (!out.empty() && bytes + o.payload_bytes > max_bytes) break;
    auto message = read_out(o);
    if (!message && message.error().code != Code::kCorrupt) break;
    // Written before it leaves: also after a restart its ack is not for us to record.
    if (message && !o.offered && !log_->mark(o.sequence, State::kTaken, kOfferedMark)) break;
    offers_due_.erase(offers_due_.begin());
    if (!message) {  // damaged: the receiver's copy is the only one
      offers_.erase(self);
      continue;
    }
    o.offered = o.uncertain = o.anywhere = true;
    pass_on(o);
    bytes += o.payload_bytes;
    const Sequence prev = self == offers_.begin() ? 0 : *std::prev(self);
    out.push_back({o.sequence, prev, std::move(*message),
                   o.kept ? o.kept->origin : Origin{log_->id(), o.sequence}});
  }
  return out;
}

void Mailbox::Impl::on_offer_answer(Sequence sequence, Answer answer) {
  const auto it = out_.find(sequence);
  if (it == out_.end() || !it->second.offered) return;
  if (answer != Answer::kStored && answer != Answer::kDuplicate) return;
  // Not finished: an ack that comes late must find that it is for our successor, also after a
  // restart.
  if (!log_->mark(sequence, State::kTaken, kHandedOverMark)) return;
  ++books_.handed_over;
  handed_over_.insert(sequence);
  remove_out(sequence, After::kHandedOver);
}

// Our successor may have `o`, and its ack. Only it may send that now, and what follows in its
// stream: a receiver that gets the end of a stream first takes the beginning for done.
void Mailbox::Impl::pass_on(const Outgoing& o) {
  stream_for(destination(o.to), o).passed_on = true;
}

void Mailbox::Impl::cancel_offers() {
  offers_.clear();
  offers_due_.clear();
  if (!handed_over_.empty()) return;
  for (auto& [sequence, o] : out_) {
    if (!o.offered || !log_->mark(sequence, State::kLive, 0)) continue;
    o.offered = false;
    stream_for(destinations_.at(o.to), o).passed_on = false;
  }
}

Answer Mailbox::Impl::adopt(const LogId& former, const Outbound& offered) {
  const Message& m = offered.message;
  const Origin& origin = offered.origin;
  if (former.empty() || former == log_->id() || origin.log.empty() || origin.sequence == 0 ||
      offered.sequence == 0 || offered.prev >= offered.sequence || !is_of_pod(m.from) ||
      swarm::is_of_pod(m.to.value, pod_.value) || draining_) {
    return Answer::kRefused;
  }
  const auto known = predecessors_.find(former);
  if (known == predecessors_.end() && predecessors_.size() >= kMaxPredecessors)
    return Answer::kFull;
  Predecessor& predecessor = predecessors_[former];
  if (offered.sequence <= predecessor.high) return Answer::kDuplicate;
  if (offered.prev > predecessor.high) return Answer::kGap;
  // It is here already: by way of another pod, or since our agent has sent it again under its id.
  const std::string pair = pair_key(m.from, m.to, m.id);
  const auto twin = out_by_pair_.find(pair);
  const bool sent_again = twin != out_by_pair_.end();
  if (sent_again) out_.at(twin->second).uncertain = out_.at(twin->second).anywhere = true;
  const auto sent = sent_ids_.find(pair);
  const bool finished = !sent_again && sent != sent_ids_.end() && sent->second.accepted;
  if (sent_again || finished || kept_.count(origin) != 0) {
    predecessor.high = offered.sequence;
    return Answer::kDuplicate;
  }
  const bool new_receiver = destinations_.count(m.to) == 0;
  if (kept_.size() >= limits_.max_kept ||
      (new_receiver && destinations_.size() >= kMaxDestinations)) {
    return Answer::kFull;
  }
  const std::string payload = encode_kept(former, offered);
  auto written = log_->append(kKept, payload);
  if (!written) return Answer::kFull;
  Outgoing o = make_outgoing(*written, m, payload.size());
  o.accepted = o.restored = o.uncertain = o.anywhere = true;
  o.kept = std::make_unique<Kept>(Kept{former, offered.sequence, origin});
  carry_offer(*o.kept, *written);
  ++books_.adopted;
  insert_out(std::move(o));
  return Answer::kStored;
}

// Of what a predecessor has offered, `record` is the latest that was taken.
void Mailbox::Impl::carry_offer(const Kept& kept, Sequence record) {
  Predecessor& former = predecessors_[kept.former];
  if (kept.offer <= former.high && former.carrier != 0) return;
  if (former.mark_only) finish_record(former.carrier);
  former.high = std::max(former.high, kept.offer);
  former.carrier = record;
  former.mark_only = false;
}

void Mailbox::Impl::finish_out(const Outgoing& o) {
  if (o.kept) {
    Predecessor& former = predecessors_.at(o.kept->former);
    if (former.carrier == o.sequence && log_->mark(o.sequence, State::kTaken, kMarkOnly)) {
      former.mark_only = true;
      return;
    }
    if (former.carrier == o.sequence) former.carrier = 0;
  }
  finish_record(o.sequence);
}

}  // namespace swarm::mailbox
