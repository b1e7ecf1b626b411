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
  if (const auto copy = known_copy(origin, m)) {
    if (*copy == Answer::kRefused) return *copy;
    predecessor.high = offered.sequence;
    return Answer::kDuplicate;
  }
  return keep(former, offered);
}

// It is here already: by way of another pod, or since our agent has sent it again under its id.
std::optional<Answer> Mailbox::Impl::known_copy(const Origin& origin, const Message& m) {
  const std::string pair = pair_key(m.from, m.to, m.id);
  if (const auto twin = out_by_pair_.find(pair); twin != out_by_pair_.end()) {
    // Accepted before: it waits for no custodian, and is not withdrawn.
    Outgoing& o = out_.at(twin->second);
    o.restored = o.uncertain = o.anywhere = true;
    return Answer::kDuplicate;
  }
  if (const auto kept = kept_.find(origin); kept != kept_.end()) {
    const Outgoing& o = out_.at(kept->second);
    // Another message under the same origin: who says so is wrong, and what is kept stays.
    return o.to == m.to && o.id == m.id ? Answer::kDuplicate : Answer::kRefused;
  }
  const auto sent = sent_ids_.find(pair);
  const bool acked = sent != sent_ids_.end() && sent->second.accepted;
  if (acked || finished_.count(origin) != 0) return Answer::kFinished;
  return std::nullopt;
}

Answer Mailbox::Impl::keep(const LogId& former, const Outbound& offered) {
  const Message& m = offered.message;
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
  o.kept = std::make_unique<Kept>(Kept{former, offered.sequence, offered.origin});
  if (!former.empty()) carry_offer(*o.kept, *written);
  ++books_.adopted;
  insert_out(std::move(o));
  return Answer::kStored;
}

void Mailbox::Impl::remember_finished(const Outgoing& o) {
  if (!o.kept || !finished_.insert(o.kept->origin).second) return;
  finished_order_.push_back(o.kept->origin);
  if (finished_order_.size() <= kRecentFinished) return;
  finished_.erase(finished_order_.front());
  finished_order_.pop_front();
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
  if (o.kept && !o.kept->former.empty()) {
    Predecessor& former = predecessors_.at(o.kept->former);
    if (former.carrier == o.sequence && log_->mark(o.sequence, State::kTaken, kMarkOnly)) {
      former.mark_only = true;
      return;
    }
    if (former.carrier == o.sequence) former.carrier = 0;
  }
  finish_record(o.sequence);
}

// ---- what lost pods have left with their receivers

Answer Mailbox::Impl::take_back(const AgentName& giver, const Outbound& returned) {
  const Message& m = returned.message;
  const Origin& origin = returned.origin;
  if (origin.log.empty() || origin.sequence == 0 || returned.sequence == 0 ||
      returned.prev >= origin.sequence || !is_of_pod(m.from) || giver == pod_ ||
      swarm::is_of_pod(m.to.value, pod_.value) || draining_ ||
      // … or its custodian.
      (!swarm::is_of_pod(m.to.value, giver.value) && !limits_.entrust)) {
    return Answer::kRefused;
  }
  // Of our own we know what became of it.
  if (origin.log == log_->id()) return Answer::kFinished;
  if (const auto known = known_copy(origin, m)) return *known;
  // A successor of the receiver takes what is below its stream's mark for done.
  const Origin prev{origin.log, returned.prev};
  if (returned.prev != 0 && kept_.count(prev) == 0 && finished_.count(prev) == 0)
    return Answer::kGap;
  // Its second copy can wait; what our own agents send and receive goes first.
  if (limits_.max_sent_bytes != 0 && kept_bytes_ != 0 &&
      kept_bytes_ + stored_bytes(m) > limits_.max_sent_bytes)
    return Answer::kFull;
  // Nobody's offer: it says nothing of what else a former pod may hand over.
  return keep(LogId{}, {0, 0, m, origin});
}

void Mailbox::Impl::set_lost(const std::map<AgentName, std::set<LogId>>& lost) {
  lost_.clear();
  for (const auto& [pod, logs] : lost) lost_.insert(logs.begin(), logs.end());
  std::erase_if(returns_, [&](const auto& known) { return lost.count(known.first) == 0; });
}

bool Mailbox::Impl::is_unread(const Entry& e) {
  return e.where != Where::kAcked && e.where != Where::kAnchor;
}

std::size_t Mailbox::Impl::unreturned(const AgentName& pod, const std::set<LogId>& logs) const {
  const auto known = returns_.find(pod);
  if (known != returns_.end() && known->second.refused) return 0;
  std::size_t count = 0;
  for (const auto& [key, stream] : streams_) {
    if (stream.from != pod) continue;
    for (const auto& [sequence, inbox] : stream.live) {
      const Entry& e = inbox_.at(inbox);
      const bool given = known != returns_.end() && known->second.given.count(inbox) != 0;
      if (is_unread(e) && !given && logs.count(e.creditor()) != 0) ++count;
    }
  }
  for (const auto& [log, guarded] : guarded_) {
    if (guarded.pod != pod || logs.count(log) == 0) continue;
    for (const auto& [sequence, record] : guarded.records) {
      if (known == returns_.end() || known->second.given.count(record) == 0) ++count;
    }
  }
  return count;
}

std::optional<Mailbox::Impl::Held> Mailbox::Impl::find_held(Sequence record) const {
  if (const auto ward = wards_.find(record); ward != wards_.end()) {
    const Ward& w = ward->second;
    return Held{{w.origin.log, w.to, w.stream}, w.origin.sequence, w.log, w.payload_bytes, true};
  }
  const auto it = inbox_.find(record);
  if (it == inbox_.end() || it->second.local()) return std::nullopt;
  const Entry& e = it->second;
  return Held{{e.sender_log, e.inbox->name, stream_of(e.priority, !e.in_reply_to.empty())},
              e.sender_sequence,
              e.creditor(),
              e.payload_bytes,
              is_unread(e)};
}

Result<Message> Mailbox::Impl::read_held(Sequence record) const {
  if (wards_.count(record) == 0) return read_inbox(record);
  auto bytes = log_->read(record);
  if (!bytes) return bytes.error();
  if (bytes->size() < kKeptPrefix) return Error{Code::kCorrupt, "a ward's record is cut short"};
  auto copy = decode_outbound(0, 0, std::string_view(*bytes).substr(kKeptPrefix));
  if (!copy) return copy.error();
  return std::move(copy->message);
}

std::vector<Outbound> Mailbox::Impl::give_back(const AgentName& pod, const LogId& to,
                                               std::size_t max_bytes) {
  Returns& returns = returns_[pod];
  if (returns.to != to) {
    returns = {};
    returns.to = to;
  }
  const auto lacks = [&](Sequence record, const Held& held) {  // it, as far as we know
    return held.unread && held.creditor != to && returns.given.count(record) == 0;
  };
  const auto waits = [&](Sequence record, const Held& held) {
    return lacks(record, held) && lost_.count(held.creditor) != 0;
  };
  if (returns.due.empty() && !returns.refused) {  // a round
    returns.open.clear();
    std::erase_if(returns.given, [&](Sequence record) {
      return inbox_.count(record) == 0 && wards_.count(record) == 0;
    });
    // As they came here, but each stream in its own order: a record that was written again is
    // younger than what follows it.
    std::vector<std::pair<Sequence, Returns::Due>> order;
    for (const auto& [key, stream] : held_of(pod, to)) {
      Sequence latest = 0;
      for (const auto& [sequence, record] : stream) {
        const Held held = *find_held(record);
        if (!lacks(record, held)) continue;
        // Of one that somebody else keeps, who lives, nothing behind it goes in front.
        if (!waits(record, held)) break;
        latest = std::max(latest, record);
        order.emplace_back(latest, Returns::Due{record, key, sequence});
        returns.open[key].insert(sequence);
      }
    }
    std::stable_sort(order.begin(), order.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (auto& [latest, due] : order) returns.due.push_back(std::move(due));
  }
  std::vector<Outbound> out;
  std::size_t bytes = 0;
  while (!returns.due.empty() && out.size() < kMaxTransmit) {
    const Returns::Due& due = returns.due.front();
    const Sequence record = due.record;
    const auto held = find_held(record);
    auto& open = returns.open[due.key];
    if (!held || !waits(record, *held)) {  // done by now, or told of a keeper
      // What follows one that is done comes without it; one that it must have yet is a gap.
      if (!held || !held->unread) open.erase(due.sequence);
      returns.due.pop_front();
      continue;
    }
    if (!out.empty() && bytes + held->payload_bytes > max_bytes) break;
    auto message = read_held(record);
    if (!message && message.error().code != Code::kCorrupt) break;
    returns.due.pop_front();
    const auto self = open.find(held->origin);
    if (!message) {  // damaged: there is none to give
      open.erase(self);
      continue;
    }
    bytes += held->payload_bytes;
    out.push_back({record, self == open.begin() ? 0 : *std::prev(self), std::move(*message),
                   Origin{std::get<LogId>(held->key), held->origin}});
  }
  return out;
}

// What is here of `pod`'s messages, by stream: the origin's sequence and our record. Not what `to`
// has entrusted itself. Of a ward of two others, the one who lives counts.
std::map<Mailbox::Impl::ReturnKey, std::map<Sequence, Sequence>> Mailbox::Impl::held_of(
    const AgentName& pod, const LogId& to) const {
  std::map<ReturnKey, std::map<Sequence, Sequence>> streams;
  for (const auto& [key, stream] : streams_) {
    if (stream.from != pod || stream.live.empty()) continue;
    const auto& [log, number, index] = key;
    streams[{log, agent_of(pod_, number), index}] = {stream.live.begin(), stream.live.end()};
  }
  for (const auto& [log, guarded] : guarded_) {
    if (guarded.pod != pod || log == to) continue;
    for (const auto& [sequence, record] : guarded.records) {
      const Held held = *find_held(record);
      const auto [it, added] = streams[held.key].emplace(held.origin, record);
      if (!added && lost_.count(log) == 0) it->second = record;
    }
  }
  return streams;
}

void Mailbox::Impl::on_given_back(const AgentName& pod, Sequence record, Answer answer) {
  const auto it = returns_.find(pod);
  if (it == returns_.end()) return;
  Returns& returns = it->second;
  switch (answer) {
    case Answer::kStored:
    case Answer::kDuplicate:
    case Answer::kFinished:
      if (const auto held = find_held(record)) {
        if (const auto open = returns.open.find(held->key); open != returns.open.end())
          open->second.erase(held->origin);
        if (wards_.count(record) != 0)
          end_ward(record);
        else
          returns.given.insert(record);
      }
      return;
    case Answer::kRefused:
      // Copies may be refused alone: with durability Pod nobody's custodian is listened to.
      if (const auto held = find_held(record); held && wards_.count(record) != 0) {
        if (const auto open = returns.open.find(held->key); open != returns.open.end())
          open->second.erase(held->origin);
        returns.given.insert(record);
        return;
      }
      returns.refused = true;
      [[fallthrough]];
    case Answer::kFull:
    case Answer::kGap:
      returns.due.clear();
      return;
  }
}

}  // namespace swarm::mailbox
