// Copies on other nodes (docs/decisions/0013): what we entrust to our custodian, and what is
// entrusted to us.
#include "mailbox/impl.h"

namespace swarm::mailbox {

// ---- what we entrust

void Mailbox::Impl::set_copy(Outgoing& o, Copy copy) {
  const auto counts = [](Copy c) { return c >= Copy::kOnTheWay; };
  if (counts(o.copy)) --entrusted_;
  if (counts(copy)) ++entrusted_;
  o.copy = copy;
  if (!counts(copy) && needs_copy(o) && !o.offered && endings_.count(o.sequence) == 0)
    copies_due_.insert(o.sequence);
  else
    copies_due_.erase(o.sequence);
  if (copy != Copy::kLeaving) releases_due_.erase(o.sequence);
  if (copy == Copy::kKept && o.state == Out::kStored) accept(o);
}

// `o` goes. What was handed over stays with the custodian until our successor says that it has it.
void Mailbox::Impl::forget_copy(const Outgoing& o, After after) {
  copies_due_.erase(o.sequence);
  endings_.erase(o.sequence);
  let_go_elsewhere(o.sequence, after != After::kHandedOver);
  if (o.copy < Copy::kOnTheWay) return;
  --entrusted_;
  if (after != After::kHandedOver) releases_due_.insert(o.sequence);
}

// Its former custodian's copy is not needed any more. That one tells again on each new link: what
// is forgotten here is released then.
void Mailbox::Impl::keep_elsewhere(const LogId& custodian, Sequence sequence) {
  if (elsewhere_.size() < kMaxElsewhere) elsewhere_.emplace(sequence, custodian);
}

void Mailbox::Impl::let_go_elsewhere(Sequence sequence, bool release) {
  for (auto it = elsewhere_.lower_bound({sequence, LogId{}});
       it != elsewhere_.end() && it->first == sequence; it = elsewhere_.erase(it)) {
    if (release) releases_elsewhere_[it->second].push_back(sequence);
  }
}

bool Mailbox::Impl::needs_custodian() const {
  return entrusted_ != 0 || !copies_due_.empty() || !releases_due_.empty() || !endings_.empty();
}

bool Mailbox::Impl::waits_for_custodian(Sequence sequence) const {
  const auto it = out_.find(sequence);
  return it != out_.end() &&
         (it->second.copy == Copy::kOnTheWay || copies_due_.count(sequence) != 0);
}

bool Mailbox::Impl::withdrawing(Sequence sequence) const {
  const auto it = out_.find(sequence);
  return it != out_.end() && it->second.copy == Copy::kLeaving && custodian_linked_;
}

void Mailbox::Impl::on_custodian_up(const LogId& custodian) {
  on_custodian_down();
  if (custodian_ != custodian) on_custodian_lost();
  custodian_ = custodian;
  custodian_linked_ = true;
  custodian_full_ = false;
  std::erase_if(elsewhere_, [&](const auto& known) { return known.second == custodian; });
  if (const auto former = releases_elsewhere_.extract(custodian)) {
    for (const Sequence sequence : former.mapped()) {
      if (out_.count(sequence) == 0) releases_due_.insert(sequence);
    }
  }
  for (const auto& [sequence, o] : out_) {
    if (o.copy == Copy::kLeaving) releases_due_.insert(sequence);
  }
}

void Mailbox::Impl::on_custodian_down() {
  if (!custodian_linked_) return;
  custodian_linked_ = false;
  for (auto& [sequence, o] : out_) {
    if (o.copy == Copy::kOnTheWay) set_copy(o, Copy::kPerhaps);
  }
}

void Mailbox::Impl::on_custodian_lost() {
  on_custodian_down();
  // After a restart we do not know whose custody it was: what we had before stays in doubt.
  if (custodian_.empty()) return;
  const LogId former = std::exchange(custodian_, LogId{});
  // It may live, and have all that it had.
  auto& releases = releases_elsewhere_[former];
  releases.insert(releases.end(), releases_due_.begin(), releases_due_.end());
  releases_due_.clear();
  std::vector<Sequence> ended;
  for (auto& [sequence, o] : out_) {
    if (endings_.count(sequence) != 0) {
      ended.push_back(sequence);
    } else if (o.copy != Copy::kNone) {
      if (!o.accepted) o.uncertain = o.anywhere = true;
      if (o.copy != Copy::kLeaving) keep_elsewhere(former, sequence);
      set_copy(o, Copy::kNone);
    }
  }
  for (const Sequence sequence : ended) {
    if (auto& refused = endings_.at(sequence)) {
      refused->error =
          Error{Code::kUnknown, "a pod that kept a copy is lost; the message may be delivered"};
    }
    complete(sequence);
  }
}

// Of what is before `o` in its stream, the latest that the custodian has or is to have: nullptr:
// nothing. What it gives back to our successor must have no holes.
Mailbox::Impl::Outgoing* Mailbox::Impl::copied_before(const Outgoing& o) {
  const OutStream& stream = stream_for(destinations_.at(o.to), o);
  const auto* at = stream.live.find(o.origin_sequence());
  if (at == stream.live.end()) return nullptr;
  while (at != stream.live.begin()) {
    Outgoing& before = out_.at((--at)->second);
    if (before.copy == Copy::kOnTheWay || before.copy == Copy::kKept ||
        copies_due_.count(before.sequence) != 0)
      return &before;
  }
  return nullptr;
}

std::vector<Outbound> Mailbox::Impl::entrust(std::size_t max_bytes) {
  std::vector<Outbound> out;
  std::size_t bytes = 0;
  while (custodian_linked_ && !custodian_full_ && !copies_due_.empty() &&
         out.size() < kMaxTransmit) {
    Outgoing* next = &out_.at(*copies_due_.begin());
    Outgoing* prev = copied_before(*next);
    // What was given back may be older than what was there before it.
    for (; prev != nullptr && prev->copy < Copy::kOnTheWay; prev = copied_before(*next))
      next = prev;
    Outgoing& o = *next;
    if (!out.empty() && bytes + o.payload_bytes > max_bytes) break;
    auto message = read_out(o);
    if (!message && message.error().code != Code::kCorrupt) break;
    // Ours is damaged: transmit() says what becomes of it.
    set_copy(o, message ? Copy::kOnTheWay : Copy::kKept);
    if (!message) {
      stream_for(destinations_.at(o.to), o).live.erase(o.origin_sequence());
      continue;
    }
    bytes += o.payload_bytes;
    out.push_back({o.sequence, prev == nullptr ? 0 : prev->sequence, std::move(*message),
                   o.kept ? o.kept->origin : Origin{log_->id(), o.sequence}});
  }
  return out;
}

std::vector<Sequence> Mailbox::Impl::take_releases(std::size_t most) {
  std::vector<Sequence> out;
  while (custodian_linked_ && !releases_due_.empty() && out.size() < most)
    out.push_back(releases_due_.extract(releases_due_.begin()).value());
  return out;
}

void Mailbox::Impl::on_entrusted(const LogId& custodian, Sequence sequence, Answer answer) {
  const auto it = out_.find(sequence);
  if (custodian != custodian_ || !custodian_linked_ || it == out_.end()) return;
  Outgoing& o = it->second;
  switch (answer) {
    case Answer::kStored:
    case Answer::kDuplicate:
      if (o.copy == Copy::kOnTheWay) set_copy(o, Copy::kKept);
      if (o.copy == Copy::kKept) let_go_elsewhere(sequence, true);
      return;
    case Answer::kFinished:
      if (o.copy == Copy::kLeaving)
        end_copy(o);
      else if (o.copy == Copy::kKept)
        set_copy(o, Copy::kNone);
      return;
    case Answer::kGap:
      // It has lost what we thought it had.
      if (Outgoing* before = copied_before(o); before != nullptr && before->copy == Copy::kKept)
        set_copy(*before, Copy::kNone);
      [[fallthrough]];
    case Answer::kFull:
    case Answer::kRefused:
      custodian_full_ = true;
      if (o.copy == Copy::kOnTheWay || o.copy == Copy::kKept) set_copy(o, Copy::kNone);
      return;
  }
}

std::vector<Sequence> Mailbox::Impl::on_told(const LogId& custodian,
                                             const std::vector<Sequence>& kept) {
  std::vector<Sequence> release;
  for (const Sequence sequence : kept) {
    const auto it = out_.find(sequence);
    if (it == out_.end()) {
      if (handed_over_.count(sequence) == 0) release.push_back(sequence);
      continue;
    }
    Outgoing& o = it->second;
    if (custodian == custodian_) {
      if (o.copy == Copy::kLeaving) {
        releases_due_.insert(sequence);
      } else {
        set_copy(o, Copy::kKept);
        if (custodian_linked_) let_go_elsewhere(sequence, true);
      }
    } else if (o.copy == Copy::kLeaving || (o.copy == Copy::kKept && custodian_linked_)) {
      release.push_back(sequence);
    } else {  // the only one on another node, perhaps
      keep_elsewhere(custodian, sequence);
      // Of what was sent in this life we know who may have it.
      if (limits_.entrust && custodian_.empty() && o.restored && o.copy == Copy::kNone)
        set_copy(o, Copy::kPerhaps);
    }
  }
  return release;
}

std::map<LogId, std::vector<Sequence>> Mailbox::Impl::take_releases_elsewhere() {
  return std::exchange(releases_elsewhere_, {});
}

// Done, but for the custodian's copy.
void Mailbox::Impl::begin_ending(Outgoing& o, std::optional<SendOutcome> refused) {
  if (!endings_.try_emplace(o.sequence, std::move(refused)).second) return;
  leave_stream(o);
  set_copy(o, Copy::kLeaving);
  releases_due_.insert(o.sequence);
}

void Mailbox::Impl::end_copy(Outgoing& o) {
  if (endings_.count(o.sequence) == 0) return set_copy(o, Copy::kNone);
  complete(o.sequence);
}

void Mailbox::Impl::complete(Sequence sequence) {
  Outgoing& o = out_.at(sequence);
  const auto refused = std::move(endings_.at(sequence));
  set_copy(o, Copy::kNone);
  releases_due_.erase(sequence);
  endings_.erase(sequence);
  if (o.offered) return;  // it is for our successor to record
  if (!refused) {
    if (finish_acked(o)) recorded_.push_back(sequence);
    return;
  }
  outcomes_.push_back(*refused);
  ++books_.refused;
  // If it can't be written, it is found again after a restart, as one that may be delivered.
  if (!never_deliver(sequence)) remove_out(sequence, After::kHandedOver);
}

void Mailbox::Impl::end_releases() {
  std::vector<Sequence> acked;
  for (const auto& [sequence, refused] : endings_) {
    if (!refused) acked.push_back(sequence);
  }
  for (const Sequence sequence : acked) complete(sequence);
}

// ---- what is entrusted to us

Mailbox::Impl::Ward Mailbox::Impl::make_ward(const LogId& log, const Outbound& copy,
                                             std::size_t payload) {
  const Message& m = copy.message;
  return {log,
          copy.sequence,
          copy.origin,
          m.from,
          m.to,
          stream_of(m.priority, !m.in_reply_to.empty()),
          static_cast<std::uint32_t>(payload)};
}

void Mailbox::Impl::insert_ward(Sequence record, Ward ward) {
  if (const auto known = guarded_.find(ward.log); known != guarded_.end()) {
    const auto twin = known->second.records.find(ward.sequence);
    if (twin != known->second.records.end()) end_ward(twin->second);
  }
  Guarded& guarded = guarded_[ward.log];
  guarded.pod = pod_of(ward.from);
  guarded.records[ward.sequence] = record;
  guarded.bytes += ward.payload_bytes;
  ward_bytes_ += ward.payload_bytes;
  wards_[record] = std::move(ward);
}

void Mailbox::Impl::end_ward(Sequence record) {
  const auto it = wards_.find(record);
  const auto guarded = guarded_.find(it->second.log);
  guarded->second.records.erase(it->second.sequence);
  guarded->second.bytes -= it->second.payload_bytes;
  if (guarded->second.records.empty()) guarded_.erase(guarded);
  ward_bytes_ -= it->second.payload_bytes;
  wards_.erase(it);
  finish_record(record);
}

Answer Mailbox::Impl::guard(const LogId& sender_log, const Outbound& copy) {
  const Message& m = copy.message;
  if (sender_log.empty() || sender_log == log_->id() || copy.sequence == 0 ||
      copy.prev == copy.sequence || copy.origin.log.empty() || copy.origin.sequence == 0 ||
      pod_of(m.from) == pod_ || pod_of(m.to) == pod_ || draining_)
    return Answer::kRefused;
  const auto known = guarded_.find(sender_log);
  const auto has = [&](Sequence sequence) {
    return known != guarded_.end() && known->second.records.count(sequence) != 0;
  };
  if (has(copy.sequence)) return Answer::kDuplicate;
  // Refused: what follows would come to the successor first.
  if (copy.prev != 0 && !has(copy.prev)) return Answer::kGap;
  // Nobody takes it all from the others.
  const auto messages = known == guarded_.end() ? 0 : known->second.records.size();
  const auto inside = known == guarded_.end() ? 0 : known->second.bytes;
  const auto bytes = stored_bytes(m);
  const bool full = wards_.size() >= limits_.max_wards ||
                    messages >= std::max(1U, limits_.max_wards / kWardShares) ||
                    (limits_.max_ward_bytes != 0 &&
                     ((ward_bytes_ != 0 && ward_bytes_ + bytes > limits_.max_ward_bytes) ||
                      (inside != 0 && inside + bytes > limits_.max_ward_bytes / kWardShares)));
  if (full) return Answer::kFull;
  const std::string payload = encode_kept(sender_log, copy);
  auto written = log_->append(kWard, payload);
  if (!written) return Answer::kFull;
  insert_ward(*written, make_ward(sender_log, copy, payload.size()));
  return Answer::kStored;
}

void Mailbox::Impl::release(const LogId& sender_log, Sequence sequence) {
  const auto guarded = guarded_.find(sender_log);
  if (guarded == guarded_.end()) return;
  const auto record = guarded->second.records.find(sequence);
  if (record != guarded->second.records.end()) end_ward(record->second);
}

std::vector<Sequence> Mailbox::Impl::wards_of(const LogId& sender_log) const {
  std::vector<Sequence> out;
  if (const auto guarded = guarded_.find(sender_log); guarded != guarded_.end()) {
    for (const auto& [sequence, record] : guarded->second.records) out.push_back(sequence);
  }
  return out;
}

std::map<AgentName, std::set<LogId>> Mailbox::Impl::guarded() const {
  std::map<AgentName, std::set<LogId>> out;
  for (const auto& [log, guarded] : guarded_) out[guarded.pod].insert(log);
  return out;
}

void Mailbox::Impl::forget_wards(const AgentName& pod, const std::set<LogId>& logs) {
  std::vector<Sequence> records;
  for (const auto& [log, guarded] : guarded_) {
    if (guarded.pod != pod || logs.count(log) == 0) continue;
    for (const auto& [sequence, record] : guarded.records) records.push_back(record);
  }
  for (const Sequence record : records) end_ward(record);
}

}  // namespace swarm::mailbox
