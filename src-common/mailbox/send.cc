#include "mailbox/impl.h"

namespace swarm::mailbox {

namespace {

void take_off(std::uint64_t& sum, std::uint64_t bytes) {
  check(sum >= bytes, "what is taken off was counted");
  sum -= bytes;
}

}  // namespace

Mailbox::Impl::Destination& Mailbox::Impl::destination(const AgentName& to) {
  const auto [it, added] = destinations_.try_emplace(to);
  if (added) it->second.link = &links_[pod_of(to)];
  return it->second;
}

void Mailbox::Impl::forget_idle_link(const AgentName& pod) {
  const auto link = links_.find(pod);
  if (link == links_.end() || link->second.linked) return;
  bool idle = true;
  for_each_in(pod, [&](const AgentName&, const Destination&) { idle = false; });
  if (idle) links_.erase(link);
}

void Mailbox::Impl::insert_out(Outgoing o) {
  Destination& d = destination(o.to);
  d.all.insert(o.sequence);
  ++(o.reply ? d.held[o.from].replies : d.held[o.from].messages);
  this->*o.side() += o.payload_bytes;
  if (const auto body = bodies_.find(o.body); body != bodies_.end()) ++body->second.holders;
  if (!o.kept) (o.reply ? d.reply_bytes : d.bytes) += o.payload_bytes;
  OutStream& stream = stream_for(d, o);
  stream.unanswered[o.origin_sequence()] = o.sequence;
  stream.due[o.origin_sequence()] = o.sequence;
  if (limits_.entrust) stream.live[o.origin_sequence()] = o.sequence;
  stream.passed_on = stream.passed_on || o.offered;
  out_by_pair_[pair_key(o.from, o.to, o.id)] = o.sequence;
  if (o.kept) kept_[o.kept->origin] = o.sequence;
  const Sequence sequence = o.sequence;
  Outgoing& inserted = out_[sequence] = std::move(o);
  if (limits_.entrust) set_copy(inserted, inserted.copy);
}

Mailbox::Impl::Outgoing* Mailbox::Impl::find_out(const AgentName& pod, Sequence sequence) {
  const auto it = out_.find(sequence);
  if (it == out_.end() || !swarm::is_of_pod(it->second.to.value, pod.value)) return nullptr;
  return &it->second;
}

AgentName Mailbox::Impl::receiver_of(Sequence sequence) const {
  const auto it = out_.find(sequence);
  return it == out_.end() ? AgentName{} : it->second.to;
}

// Ends a message of which "never delivered" will be told: that must be true also after a restart.
// false: it stays.
bool Mailbox::Impl::never_deliver(Sequence sequence) {
  if (!log_->mark(sequence, State::kDone, 0)) return false;
  remove_out(sequence, After::kNeverDelivered);
  return true;
}

// kNeverDelivered: its record is done already, and its id may be used again. kHandedOver: its
// record stays.
void Mailbox::Impl::remove_out(Sequence sequence, After after) {
  const auto it = out_.find(sequence);
  const Outgoing o = std::move(it->second);
  out_.erase(it);
  offers_.erase(sequence);
  offers_due_.erase(sequence);
  unrecorded_.erase(sequence);
  forget_copy(o, after);
  if (o.kept) kept_.erase(o.kept->origin);
  std::string pair = pair_key(o.from, o.to, o.id);
  if (const auto id = out_by_pair_.find(pair); id != out_by_pair_.end() && id->second == sequence)
    out_by_pair_.erase(id);
  const auto dest = destinations_.find(o.to);
  Destination& d = dest->second;
  OutStream& stream = stream_for(d, o);
  stream.unanswered.erase(o.origin_sequence());
  stream.due.erase(o.origin_sequence());
  stream.live.erase(o.origin_sequence());
  d.all.erase(sequence);
  const auto held = d.held.find(o.from);
  --(o.reply ? held->second.replies : held->second.messages);
  take_off(this->*o.side(), o.payload_bytes);
  if (!o.kept) take_off(o.reply ? d.reply_bytes : d.bytes, o.payload_bytes);
  if (held->second.messages + held->second.replies == 0) d.held.erase(held);
  if (d.all.empty()) {
    check(d.bytes + d.reply_bytes == 0, "nothing for a receiver has no bytes");
    destinations_.erase(dest);
    forget_idle_link(pod_of(o.to));
  }
  if (after == After::kNeverDelivered) {
    forget_sent(pair);
  } else if (is_generated(o.id)) {
    remember_generated(std::move(pair), {0, o.to, sequence, true, false});
  }
  // The outbox record stays until its id's outcome is written: after a restart it leads to the same
  // end.
  const bool finishes = after == After::kFinished && record_pending_outcomes();
  if (finishes) finish_out(o);
  let_go_of_body(o.body, finishes || after == After::kNeverDelivered);
}

// ---- bodies of several messages

// That stands in the log already; 0: none.
Sequence Mailbox::Impl::shared_body(const Message& message, std::uint64_t share) const {
  const auto it = shares_.find(share);
  if (it == shares_.end() || !may_share(message)) return 0;
  check(bodies_.at(it->second).bytes == message.body.size(), "what shares a body has the same one");
  return it->second;
}

Result<Sequence> Mailbox::Impl::append_body(const Message& message, std::uint64_t share) {
  auto written = log_->append(kBody, message.body);
  if (!written) return written;
  crash_point("body-appended");
  bodies_[*written] = {static_cast<std::uint32_t>(message.body.size()), 0, share};
  shares_[share] = *written;
  return written;
}

void Mailbox::Impl::end_body(std::unordered_map<Sequence, Body>::iterator at) {
  // A journal's marks reach its device in any order, and finish() may fail.
  if (!at->second.stays) log_->finish_later(at->first);
  shares_.erase(at->second.share);
  bodies_.erase(at);
}

// By a message that has left the outbox. `ended`: so has its record.
void Mailbox::Impl::let_go_of_body(Sequence body, bool ended) {
  const auto it = bodies_.find(body);
  if (it == bodies_.end()) return;  // of its own, or damaged
  it->second.stays = it->second.stays || !ended;
  if (--it->second.holders == 0) end_body(it);
}

// Says whose log is full.
Error Mailbox::Impl::no_room(Error error) const {
  if (error.code != Code::kFull) return error;
  return {Code::kFull,
          pod_.value + "'s pod has no room left for messages (spec.mailbox.sizeLimit)"};
}

Result<Mailbox::Sent> Mailbox::Impl::send(MonoTime now, const Message& message,
                                          std::uint64_t share) {
  expire_ids(now);
  if (!is_message_id(message.id.value))
    return invalid("a message id has 1 to 128 characters of A-Z a-z 0-9 . _ : -");
  if (!is_agent_name(message.to.value))
    return invalid("'" + message.to.value.substr(0, 64) + "' is not the name of an agent");
  if (!is_local(message.from)) return invalid("the sender is not an agent of " + pod_.value);
  if (!message.in_reply_to.empty() && !is_message_id(message.in_reply_to.value))
    return invalid("in_reply_to is not a message id");
  if (static_cast<int>(message.priority) >= kPriorities) return invalid("unknown priority");
  if (!may_stream(message)) {
    return invalid("a part of a stream has a number from 1 and normal priority, and is no reply");
  }
  if (message.body.size() > limits_.max_message_bytes) {
    return invalid("the body has " + std::to_string(message.body.size()) + " bytes, allowed are " +
                   std::to_string(limits_.max_message_bytes));
  }
  const std::string pair = pair_key(message.from, message.to, message.id);
  if (const auto it = out_by_pair_.find(pair); it != out_by_pair_.end()) {
    const Outgoing& o = out_.at(it->second);
    if (!o.accepted) return Sent{o.sequence, {}};
    return Sent{o.sequence, SendOutcome{o.sequence, o.id, o.to, {}, false, true}};
  }
  if (const auto it = sent_ids_.find(pair); it != sent_ids_.end() && it->second.accepted) {
    const UserId& u = it->second;
    return Sent{u.sequence, SendOutcome{u.sequence, message.id, u.peer, {}, u.local, true}};
  }
  if (is_local(message.to)) return send_local(now, message);
  if (swarm::is_of_pod(message.to.value, pod_.value))
    return not_found(pod_.value + " has no agent " + message.to.value);

  if (!handed_over_.empty())
    return unavailable(pod_.value + " has moved to another pod, which sends its mail");
  if (!has_room(now, message)) {
    return Error{Code::kFull, why_outbox_full(message)};
  }
  Sequence id_record = 0;
  if (!is_generated(message.id)) {
    auto written = log_->append(kUserId, encode_user_id({false, false, message.to, message.id,
                                                         number_in_pod(message.from.value)}));
    if (!written) return no_room(written.error());
    id_record = *written;
    crash_point("outbox-id-appended");
  }
  Result<Sequence> body = shared_body(message, share);
  if (*body == 0 && share != 0 && may_share(message)) body = append_body(message, share);
  const std::string payload = !body        ? ""
                              : *body == 0 ? encode(message)
                                           : encode_shared(*body, message);
  auto written = body ? log_->append(kOutbox, payload) : body;
  if (!written) {
    if (const auto unused = body ? bodies_.find(*body) : bodies_.end();
        unused != bodies_.end() && unused->second.holders == 0)
      end_body(unused);
    if (id_record != 0) finish_record(id_record);
    return no_room(written.error());
  }
  crash_point("outbox-appended");
  ++books_.sent;
  Outgoing o = make_outgoing(*written, message, payload.size());
  if (*body != 0) o.share(*body, o.body_bytes);
  insert_out(std::move(o));
  if (id_record != 0) {
    remember_sent(now, pair, message.to, id_record);
    sent_ids_[pair].sequence = *written;
  }
  return Sent{*written, {}};
}

bool Mailbox::Impl::knows(const Message& message) const {
  const std::string pair = pair_key(message.from, message.to, message.id);
  if (out_by_pair_.count(pair) != 0) return true;
  if (const auto sent = sent_ids_.find(pair); sent != sent_ids_.end() && sent->second.accepted)
    return true;
  const Inbox* inbox = find_inbox(message.to);
  if (inbox == nullptr) return false;
  const auto twin = inbox->by_pair.find(pair_key(message.from, message.id));
  return twin != inbox->by_pair.end() && inbox_.at(twin->second).local();
}

// Replies have room of their own: whoever waits for one may take nothing else until it has it.
Mailbox::Impl::Share Mailbox::Impl::share_of(const Message& message) const {
  const bool reply = !message.in_reply_to.empty();
  const auto dest = destinations_.find(message.to);
  Share share{limits_.max_sent_bytes / (reply ? kReplyShare : 1),
              reply ? reply_bytes_ : sent_bytes_, 0};
  if (dest != destinations_.end())
    share.inside = reply ? dest->second.reply_bytes : dest->second.bytes;
  return share;
}

// No receiver takes the room of the others: it gets more only while it has no more than what is
// left (dynamic thresholds: Choudhury and Hahne, 1998). One that reads nothing gets half of all,
// two a third each. A body that several share counts for each: so a successor, which stores each
// message whole, has room for all.
bool Mailbox::Impl::outbox_has_bytes(const Message& message) const {
  const Share share = share_of(message);
  return share.most == 0 || share.all == 0 ||
         share.all + share.inside + stored_bytes(message) <= share.most;
}

std::string Mailbox::Impl::why_outbox_full(const Message& message) const {
  const bool few = destinations_.size() < kMaxDestinations ||
                   destinations_.find(message.to) != destinations_.end();
  if (!few) return "the outbox has too many receivers";
  const std::string words = std::string("the outbox") +
                            (message.in_reply_to.empty() ? "" : " of replies") + " for " +
                            message.to.value + " is full (";
  if (outbox_has_bytes(message))
    return words + std::to_string(limits_.max_outbox_messages) + " messages)";
  const Share share = share_of(message);
  const std::uint64_t others = share.all - share.inside;
  return words + kibibytes(share.inside) + " KiB, half of what others leave of " +
         kibibytes(share.most) + ": " + kibibytes(share.most - std::min(others, share.most)) + ")";
}

bool Mailbox::Impl::has_room(MonoTime now, const Message& message) {
  if (is_local(message.to)) {
    Inbox* inbox = find_inbox(message.to);
    if (inbox == nullptr || inbox_has_room(*inbox, message)) return true;
    wait_for_place(now, *inbox, message);
    return false;
  }
  const bool reply = !message.in_reply_to.empty();
  if (!outbox_has_bytes(message)) return false;
  const auto dest = destinations_.find(message.to);
  if (dest == destinations_.end()) return destinations_.size() < kMaxDestinations;
  const auto held = dest->second.held.find(message.from);
  if (held == dest->second.held.end()) return true;
  return (reply ? held->second.replies : held->second.messages) < limits_.max_outbox_messages;
}

// Stored once, accepted at once: the sender and the receiver share this log.
Result<Mailbox::Sent> Mailbox::Impl::send_local(MonoTime now, const Message& message) {
  Sequence sequence = 0;
  bool repeated = false;
  Inbox& inbox = inbox_of(number_in_pod(message.to.value));
  if (const auto twin = inbox.by_pair.find(pair_key(message.from, message.id));
      twin != inbox.by_pair.end() && inbox_.at(twin->second).local()) {
    sequence = twin->second;
    repeated = true;
  } else {
    if (draining_) return Error{Code::kDenied, pod_.value + " is leaving"};
    if (!inbox_has_room(inbox, message)) {
      wait_for_place(now, inbox, message);
      ++books_.full;
      return Error{Code::kFull, why_full(message)};
    }
    Sequence id_record = 0;
    if (!is_generated(message.id)) {
      auto written = log_->append(kUserId, encode_user_id({false, true, message.to, message.id,
                                                           number_in_pod(message.from.value)}));
      if (!written) return no_room(written.error());
      id_record = *written;
    }
    auto stored = store(now, LogId{}, 0, message);
    if (!stored) {
      if (id_record != 0) finish_record(id_record);
      return no_room(stored.error());
    }
    sequence = *stored;
    std::string pair = pair_key(message.from, message.to, message.id);
    if (id_record != 0) {
      remember_sent(now, pair, message.to, id_record);
      UserId& u = sent_ids_[pair];
      record_outcome(id_record);
      u.sequence = sequence;
      u.accepted = u.local = true;
    } else {
      remember_generated(std::move(pair), {0, message.to, sequence, true, true});
    }
    ++books_.sent;
    ++books_.accepted;
    ++books_.acknowledged_by_receiver;
  }
  return Sent{sequence, SendOutcome{sequence, message.id, message.to, {}, true, repeated}};
}

void Mailbox::Impl::accept(Outgoing& o) {
  if (o.accepted) return;
  o.accepted = true;
  ++books_.accepted;
  if (const auto it = sent_ids_.find(pair_key(o.from, o.to, o.id)); it != sent_ids_.end()) {
    it->second.accepted = true;
    if (it->second.record != 0) record_outcome(it->second.record);
  }
  crash_point("accepted-marked");
  outcomes_.push_back({o.sequence, o.id, o.to, {}, false});
}

bool Mailbox::Impl::withdraw(Sequence sequence) {
  const auto it = out_.find(sequence);
  if (it == out_.end()) return false;
  const Outgoing& o = it->second;
  if (o.state != Out::kDue || o.accepted || o.restored || o.uncertain) return false;
  if (o.copy != Copy::kNone) {
    if (custodian_linked_ && o.copy != Copy::kLeaving) {
      set_copy(it->second, Copy::kLeaving);
      releases_due_.insert(sequence);
    }
    return false;
  }
  if (!never_deliver(sequence)) return false;
  ++books_.withdrawn;
  return true;
}

std::vector<AgentName> Mailbox::Impl::destinations() const {
  std::vector<AgentName> out;
  for (const auto& [name, d] : destinations_) {
    if (!d.all.empty()) out.push_back(name);
  }
  return out;
}

std::vector<AgentName> Mailbox::Impl::destinations(const AgentName& pod) const {
  std::vector<AgentName> out;
  const_cast<Impl*>(this)->for_each_in(pod, [&](const AgentName& name, const Destination& d) {
    if (!d.all.empty()) out.push_back(name);
  });
  return out;
}

void Mailbox::Impl::make_due(Destination& d, Outgoing& o) {
  o.state = Out::kDue;
  OutStream& stream = stream_for(d, o);
  stream.unanswered[o.origin_sequence()] = o.sequence;
  stream.due[o.origin_sequence()] = o.sequence;
}

// The answer to a transmission will not come: the incarnation it went to may hold the message.
void Mailbox::Impl::doubt(Destination& d, Outgoing& o) {
  if (o.uncertain && o.uncertain_log != d.link->peer) o.anywhere = true;
  o.uncertain = true;
  o.uncertain_log = d.link->peer;
  make_due(d, o);
}

void Mailbox::Impl::on_link_up(MonoTime now, const AgentName& pod, const LogId& peer, bool near) {
  on_link_down(pod);
  Link& link = links_[pod];
  link.linked = true;
  link.peer = peer;
  link.near = near && limits_.entrust;
  const bool ask_again = now - link.heard >= kAskAgainAfter;
  link.heard = now;
  for_each_in(pod, [&](const AgentName&, Destination& d) {
    for_each_stream(d, [](std::uint8_t, OutStream& stream) { probe(stream); });
    // The youngest first: what is due again goes in front of what is due already, one by one.
    for (const Sequence* at = d.all.end(); at != d.all.begin();) {
      const Sequence sequence = *--at;
      Outgoing& o = out_.at(sequence);
      if (limits_.entrust) set_copy(o, o.copy);
      if (endings_.count(sequence) != 0 || unrecorded_.count(sequence) != 0) continue;
      // What we keep is told again on each link: the receiver does not write down who keeps it.
      if (o.state == Out::kStored && (ask_again || o.kept || o.stored_at != peer)) make_due(d, o);
    }
  });
}

void Mailbox::Impl::on_link_down(const AgentName& pod) {
  const auto link = links_.find(pod);
  if (link == links_.end()) return;
  if (std::exchange(link->second.linked, false)) link->second.down = ticked_;
  for_each_in(pod, [&](const AgentName&, Destination& d) {
    for (const Sequence* at = d.all.end(); at != d.all.begin();) {
      Outgoing& o = out_.at(*--at);
      if (o.state == Out::kInFlight) doubt(d, o);
      o.on_the_way = 0;
      if (limits_.entrust && o.kept) set_copy(o, o.copy);
    }
  });
  forget_idle_link(pod);
}

void Mailbox::Impl::on_retry(const AgentName& to) {
  const auto it = destinations_.find(to);
  if (it == destinations_.end()) return;
  for_each_stream(it->second, [](std::uint8_t, OutStream& stream) { probe(stream); });
}

bool Mailbox::Impl::on_grant(const AgentName& pod, const AgentName& to, std::uint8_t stream) {
  const auto it = destinations_.find(to);
  if (pod_of(to) != pod || it == destinations_.end()) return false;
  bool waits = false;
  for_each_stream(it->second, [&](std::uint8_t index, OutStream& one) {
    if (index != stream) return;
    probe(one);
    waits = waits || (!one.passed_on && !one.unanswered.empty());
  });
  return waits;
}

// Whose turn it is among the streams of that index: what is kept is older than our own, and of
// several origins what we took over first.
Mailbox::Impl::OutStream* Mailbox::Impl::due_in(Destination& d, std::uint8_t index) {
  const bool near = d.link->near;
  const auto due = [&](const OutStream& stream) {
    const std::size_t on_the_way = stream.unanswered.size() - stream.due.size();
    return !stream.blocked && !stream.passed_on && !stream.due.empty() &&
           (stream.window == 0 || on_the_way < stream.window) &&
           (!near || may_go(out_.at(stream.due.begin()->second)));
  };
  OutStream* first = nullptr;
  for (auto it = d.kept.lower_bound({index, LogId{}}); it != d.kept.end(); ++it) {
    if (it->first.first != index) break;
    if (due(it->second) &&
        (first == nullptr || it->second.due.begin()->second < first->due.begin()->second))
      first = &it->second;
  }
  if (first != nullptr) return first;
  const auto own = d.streams.find(index);
  return own != d.streams.end() && due(own->second) ? &own->second : nullptr;
}

Result<Message> Mailbox::Impl::read_out(const Outgoing& o) const {
  auto bytes = log_->read(o.sequence);
  if (!bytes) return bytes.error();
  if (!o.kept) {
    auto record = decode_outbox(*bytes);
    if (!record) return record.error();
    if (o.body != 0) {
      auto body = bodies_.count(o.body) != 0 ? log_->read(o.body) : not_found("");
      if (!body && body.error().code != Code::kNotFound) return body.error();
      if (!body || body->size() != o.body_bytes)
        return Error{Code::kCorrupt, "a message's body is not there"};
      record->message.body = *std::move(body);
    }
    return std::move(record->message);
  }
  if (bytes->size() < kKeptPrefix) return Error{Code::kCorrupt, "a kept record is cut short"};
  auto offered = decode_outbound(o.kept->offer, 0, std::string_view(*bytes).substr(kKeptPrefix));
  if (!offered) return offered.error();
  return std::move(offered->message);
}

std::vector<Outbound> Mailbox::Impl::transmit(const AgentName& to, std::size_t max_bytes) {
  std::vector<Outbound> out;
  const auto it = destinations_.find(to);
  if (it == destinations_.end() || !it->second.link->linked) return out;
  Destination& d = it->second;
  auto due_of = [&](std::size_t priority) {
    OutStream* replies = due_in(d, stream_of(static_cast<Priority>(priority), true));
    return replies != nullptr ? replies
                              : due_in(d, stream_of(static_cast<Priority>(priority), false));
  };
  std::size_t bytes = 0;
  std::vector<Sequence> broken;
  for (std::size_t n = 0; n < kMaxTransmit; ++n) {  // each round takes one message or ends
    const auto priority = d.turns.next([&](std::size_t p) { return due_of(p) != nullptr; });
    if (!priority) break;
    OutStream* stream = due_of(*priority);
    const auto [origin, sequence] = *stream->due.begin();
    Outgoing& o = out_.at(sequence);
    if (!out.empty() && bytes + o.payload_bytes > max_bytes) break;
    auto message = read_out(o);
    if (!message) {
      if (message.error().code != Code::kCorrupt) break;
      // Our copy is damaged. What the receiver may hold stays with it; nobody is told "accepted"
      // for it any more.
      stream->due.erase(origin);
      stream->unanswered.erase(origin);
      broken.push_back(sequence);
      continue;
    }
    const auto self = stream->unanswered.find(origin);
    const Sequence prev = self == stream->unanswered.begin() ? 0 : std::prev(self)->first;
    stream->due.erase(origin);
    o.state = Out::kInFlight;
    ++o.on_the_way;
    d.turns.spend(*priority);
    bytes += o.payload_bytes;
    out.push_back({sequence, prev, std::move(*message), o.kept ? o.kept->origin : Origin{}});
  }
  for (const Sequence sequence : broken) {
    const Outgoing& o = out_.at(sequence);
    if (!o.accepted) {
      outcomes_.push_back(
          {sequence, o.id, o.to,
           Error{Code::kUnknown, "the stored copy is damaged; it may have been delivered before"},
           false});
    }
    ++books_.refused;
    remove_out(sequence, After::kFinished);
  }
  return out;
}

void Mailbox::Impl::on_answer(MonoTime now, const AgentName& pod, const LogId& peer,
                              Sequence sequence, Answer answer, const std::string& reason) {
  Outgoing* o = find_out(pod, sequence);
  if (o == nullptr) return;
  Destination& d = destinations_.at(o->to);
  if (!d.link->linked || d.link->peer != peer) return;
  d.link->heard = now;
  if (o->on_the_way > 0) --o->on_the_way;
  OutStream& stream = stream_for(d, *o);
  // It takes mail again: from the second message on twice as much after each, until it is as if it
  // had never been full. (The first may have had the one place there was.)
  if (answer <= Answer::kFinished && stream.window != 0 && std::exchange(stream.proved, true) &&
      (stream.window *= 2) > kMaxTransmit)
    stream.window = 0;
  switch (answer) {
    case Answer::kFinished:
      if (!o->offered) {
        (void)finish_acked(*o);
        return;
      }
      [[fallthrough]];  // our successor asks, too, and records the ack
    case Answer::kStored:
    case Answer::kDuplicate:
      o->state = Out::kStored;
      o->stored_at = peer;
      stream.unanswered.erase(o->origin_sequence());
      stream.due.erase(o->origin_sequence());
      // Else when it is, or never: it was sent before a restart, or its custodian is lost since.
      if (!d.link->near || o->copy == Copy::kKept) accept(*o);
      // Entrusted while it had no receiver, which is on another node: that is enough.
      if (!d.link->near && o->copy == Copy::kKept && !o->offered) {
        set_copy(*o, Copy::kLeaving);
        releases_due_.insert(o->sequence);
      }
      return;
    case Answer::kFull:
    case Answer::kGap:
    case Answer::kRefused:
      break;
  }
  // Overtaken, or to an earlier transmission: the latest one decides.
  if (o->state != Out::kInFlight || o->on_the_way > 0) return;
  // It is certain now that this incarnation does not hold it.
  if (o->uncertain && !o->anywhere && o->uncertain_log == peer) o->uncertain = false;
  if (answer == Answer::kGap) {
    // Something before it is missing there: again from the first that has no answer.
    for (const auto& [origin, s] : stream.unanswered) {
      if (origin > o->origin_sequence()) break;
      Outgoing& before = out_.at(s);
      if (s == sequence)
        make_due(d, before);
      else if (before.state == Out::kInFlight)
        doubt(d, before);
    }
    return;
  }
  if (answer == Answer::kFull || o->accepted || o->restored || o->uncertain) {
    // Refused, but perhaps accepted before: it must not be dropped. It waits for another
    // incarnation of the receiver.
    make_due(d, *o);
    stream.blocked = true;
    return;
  }
  SendOutcome outcome{sequence, o->id, o->to,
                      Error{Code::kDenied, reason.empty() ? o->to.value + " refused it" : reason},
                      false};
  if (may_be_entrusted(*o)) return begin_ending(*o, std::move(outcome));
  if (!never_deliver(sequence)) {
    make_due(d, *o);
    stream.blocked = true;
    return;
  }
  outcomes_.push_back(std::move(outcome));
  ++books_.refused;
}

bool Mailbox::Impl::on_acked(const AgentName& pod, Sequence sequence) {
  Outgoing* o = find_out(pod, sequence);
  if (o == nullptr) return handed_over_.count(sequence) == 0;
  if (o->offered || !finish_acked(*o)) return false;
  crash_point("outbox-finished");
  return true;
}

// To the receiver it is done: what follows goes on.
void Mailbox::Impl::leave_stream(Outgoing& o) {
  OutStream& stream = stream_for(destinations_.at(o.to), o);
  stream.unanswered.erase(o.origin_sequence());
  stream.due.erase(o.origin_sequence());
  stream.live.erase(o.origin_sequence());
  o.state = Out::kStored;
}

// Acks that came while the log could not be written.
void Mailbox::Impl::record_late_acks() {
  if (!record_pending_outcomes()) return;
  for (const Sequence sequence : std::exchange(unrecorded_, {})) {
    Outgoing& o = out_.at(sequence);
    if (!o.offered && finish_acked(o)) recorded_.push_back(sequence);
  }
}

// false: the custodian has a copy, which must not outlive the record of the ack; or the outcome of
// its id can't be written: after a restart it would be sent again.
bool Mailbox::Impl::finish_acked(Outgoing& o) {
  accept(o);
  if (may_be_entrusted(o)) {
    begin_ending(o, std::nullopt);
    return false;
  }
  if (!record_pending_outcomes()) {
    leave_stream(o);
    unrecorded_.insert(o.sequence);
    return false;
  }
  ++books_.acknowledged_by_receiver;
  remember_finished(o);
  remove_out(o.sequence, After::kFinished);
  return true;
}

}  // namespace swarm::mailbox
