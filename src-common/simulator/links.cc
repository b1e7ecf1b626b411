// Sessions between pods, and frames on them: what Session and Mail do in the sidecar's engine, with
// the same frames (docs/link-protocol.md).
#include <algorithm>

#include "simulator/world.h"

namespace swarm::simulator {

using link::FrameType;
using mailbox::Answer;

namespace {

constexpr std::size_t kSeenPackets = 100;  // of which one may come once more

// Of a message's life; none for frames that are about none.
Steps steps_of(FrameType type) {
  Steps out;
  switch (type) {
    case FrameType::kAnswer:
    case FrameType::kHanded:
      out.add(Step::kAnswerSent);
      break;
    case FrameType::kAcked:
      out.add(Step::kAckSent);
      break;
    case FrameType::kAckRecorded:
      out.add(Step::kRecordedSent);
      break;
    case FrameType::kMessage:
    case FrameType::kHandover:
      out.add(Step::kFrameSent);
      break;
    default:
      break;
  }
  return out;
}

constexpr std::uint64_t kPlaceKept = 0, kDeclined = 1;  // GRANT
constexpr std::size_t kNewVersionPercent = 20;          // of the messages of the next release
constexpr std::size_t kVersionAt = 16;                  // in MESSAGE, after sequence and prev

}  // namespace

void World::meet(const Packet& packet, Fault fault, Steps steps) {
  event();
  steps.add(steps_of(packet.type));
  if (packet.message != kNoMessage) steps.add(model_.at(packet.message).last);
  meet(steps, fault);
}

// ---- sessions

bool World::connected(const Pod& a, const Pod& b) const {
  if (a.name == b.name) return handover_linked_;
  return is_ghost(a) || is_ghost(b) ? ghost_linked_ : linked_;
}

void World::link_up() {
  if (linked_ || pods_[0]->paused > 0 || pods_[1]->paused > 0) return;
  linked_ = true;
  for (auto& pod : pods_) {
    event();
    Pod& peer = other(*pod);
    pod->box->on_incarnation(peer.name, peer.log->id());
    pod->box->on_link_up(pod->now, peer.name, peer.log->id());
    ping(*pod, peer);
  }
  for (auto& pod : pods_) {
    strangers_end(*pod);
    resend_debts(*pod);
  }
  if (traced()) say(*pods_[0], "and " + pods_[1]->name.value + " have a link");
}

void World::link_down() {
  if (!linked_) return;
  linked_ = false;
  for (auto& pod : pods_) {
    event();
    pod->box->on_link_down(other(*pod).name);
  }
  cut(*pods_[0], *pods_[1]);
  if (traced()) say(*pods_[0], "and " + pods_[1]->name.value + " have no link");
}

void World::ghost_link(bool up) {
  if (!ghost_ || up == ghost_linked_) return;
  Pod& peer = other(*ghost_);
  if (up && peer.paused > 0) return;
  ghost_linked_ = up;
  event();
  if (up) {
    ghost_->box->on_incarnation(peer.name, peer.log->id());
    ghost_->box->on_link_up(ghost_->now, peer.name, peer.log->id());
    ping(*ghost_, peer);
    ping(peer, *ghost_);
    resend_debts(peer);
  } else {
    ghost_->box->on_link_down(peer.name);
    cut(*ghost_, peer);
  }
  if (traced()) say(*ghost_, up ? "has a link" : "has no link");
}

void World::handover_link(bool up) {
  if (!ghost_ || !retiring_ || up == handover_linked_) return;
  Pod& next = other(other(*ghost_));
  if (up && next.paused > 0) return;
  handover_linked_ = up;
  event();
  if (up)
    ghost_->box->begin_offers();
  else
    cut(*ghost_, next);
  if (traced()) say(*ghost_, up ? "has a link to its successor" : "has none to its successor");
}

void World::offer(Pod& pod) {
  if (!handover_linked_) return;
  event();
  for (const mailbox::Outbound& o : pod.box->offer(random_.below(3000))) {
    std::string payload;
    link::put_u64(payload, o.sequence);
    link::put_u64(payload, o.prev);
    payload += mailbox::encode(o);
    push(pod, other(other(pod)).log->id(), FrameType::kHandover, payload,
         model_.find(o.message.id, o.message.to).value_or(kNoMessage));
  }
}

// To the successor of a sender that has ended, or that has no link: its copies, of which this pod
// may hold the only ones.
void World::give_back(Pod& pod) {
  const Pod& peer = other(pod);
  if (!connected(pod, peer) || pod.release == Release::kBefore) return;
  event();
  std::map<AgentName, std::set<LogId>> lost;
  for (const auto& [name, logs] : pod.box->senders()) {
    for (const LogId& log : logs) {
      const Pod* sender = pod_of(log);
      if (sender == nullptr || !connected(*sender, pod)) lost[name].insert(log);
    }
  }
  pod.box->set_lost(lost);
  for (const mailbox::Outbound& o :
       pod.box->give_back(peer.name, peer.log->id(), random_.below(3000))) {
    std::string payload;
    link::put_u64(payload, o.sequence);
    link::put_u64(payload, o.prev);
    payload += mailbox::encode(o);
    push(pod, peer.log->id(), FrameType::kHandover, payload,
         model_.find(o.message.id, o.message.to).value_or(kNoMessage));
  }
}

// What was on the wire between the two is lost with the session; where links are no streams, frames
// outlive it.
void World::cut(Pod& a, Pod& b) {
  for (const auto& [to, from] : {std::pair(&a, &b), std::pair(&b, &a)}) {
    const LogId& log = from->log->id();
    to->inlets.erase(log);
    to->features.erase(log);
    if (chaotic_) continue;
    for (const Packet& packet : to->in) {
      if (packet.from == log) meet(packet, Fault::kLost);
    }
    std::erase_if(to->in, [&](const Packet& packet) { return packet.from == log; });
    // What was queued for the session does not leave on the next one.
    std::erase_if(from->out, [&](const Packet& packet) { return packet.to == to->log->id(); });
  }
}

// A pod has ended some time before its successor's peer looks for it: what is not alive any more.
void World::strangers_end(Pod& pod) {
  const Pod& peer = other(pod);
  // Before that time is over, a pod that drains has ended, and whoever keeps its messages has said
  // so.
  if (ghost_ && retiring_ && ghost_->name == peer.name) return;
  const mailbox::Books books = peer.box->books();
  const bool told = books.outbox_live == 0 || (linked_ && books.single_copy == 0);
  for (const mailbox::AckDebt& debt : pod.box->ack_debts(peer.name)) {
    const LogId& log = debt.sender_log;
    if (pod_of(log) != nullptr || (handed_over_.contains(log) && !told)) continue;
    for (const log::Sequence settled : pod.box->on_former(peer.name, debt.sender_log))
      ack_is_complete(pod, settled);
  }
}

void World::resend_debts(Pod& pod) {
  for (const AgentName& name : pod.box->ack_creditors()) {
    for (const mailbox::AckDebt& debt : pod.box->ack_debts(name)) owe(pod, debt);
  }
}

void World::owe(Pod& pod, const mailbox::AckDebt& debt) {
  pod.debts[{debt.sender_log, debt.sender_sequence}] = debt.inbox;
  std::string payload;
  link::put_u64(payload, debt.sender_sequence);
  push(pod, debt.sender_log, FrameType::kAcked, payload,
       sent_as(debt.sender_log, debt.sender_sequence));
}

void World::ack_is_complete(Pod& pod, log::Sequence inbox) {
  const auto it = pod.waiting.find(inbox);
  if (it == pod.waiting.end()) return;
  tell(pod, News::Kind::kAckOk, it->second);
  pod.waiting.erase(it);
}

// ---- frames that leave

void World::push(Pod& pod, const LogId& to, FrameType type, const std::string& payload,
                 MessageNumber number) {
  Packet packet{pod.log->id(), to, type, number, {}};
  link::append_frame(packet.bytes, type, payload);
  pod.out.push_back(std::move(packet));
  pod.batch.add(steps_of(type));
}

void World::ping(Pod& pod, const Pod& peer) {
  std::string payload;
  if (pod.release != Release::kBefore)
    link::put_u32(payload,
                  link::kOwnFeatures | (pod.release == Release::kNext ? kFeatureOfNext : 0));
  if (pod.release == Release::kNext) link::put_text(payload, "more");
  push(pod, peer.log->id(), FrameType::kPing, payload, kNoMessage);
}

void World::push_grant(Pod& pod, const LogId& to, std::uint64_t what, std::uint32_t number,
                       std::uint8_t stream) {
  std::string payload;
  link::put_u64(payload, what);
  link::put_u32(payload, number);
  link::put_u8(payload, stream);
  push(pod, to, FrameType::kGrant, payload, kNoMessage);
}

void World::send_grants(Pod& pod) {
  const Pod& peer = other(pod);
  for (const mailbox::Grant& grant : pod.box->take_grants(pod.now)) {
    if (grant.pod != peer.name) continue;
    if (connected(pod, peer) && pod.release != Release::kBefore &&
        pod.knows(peer.log->id(), link::kGrants))
      push_grant(pod, peer.log->id(), kPlaceKept, number_in_pod(grant.to.value), grant.stream);
    else
      pod.box->on_declined(grant.pod, grant.to, grant.stream);
  }
}

void World::leave(Pod& pod, Packet packet) {
  event();
  const Steps of_log = pod.batch.of_log();
  Pod* to = pod_of(packet.to);
  if (to == nullptr || (!chaotic_ && !connected(pod, *to)))
    return meet(packet, Fault::kLost, of_log);
  const auto fated = [&](Fault fault, std::size_t percent) {
    return random_.chance(frames_fate_ == fault ? 60 : chaotic_ ? percent : 0);
  };
  if (to->blocked > 0) {
    meet(packet, Fault::kOneWay, of_log);
    if (chaotic_) return;
  }
  if (fated(Fault::kLost, 8)) {
    meet(packet, Fault::kLost, of_log);
    if (!chaotic_) link_down();  // what a stream does then
    return;
  }
  if (chaotic_) {
    to->seen.push_back(packet);
    if (to->seen.size() > kSeenPackets) to->seen.pop_front();
    if (fated(Fault::kDuplicated, 10)) {
      meet(packet, Fault::kDuplicated, of_log);
      to->in.push_back(packet);
    }
    if (!to->in.empty() && fated(Fault::kReordered, 20)) {
      meet(packet, Fault::kReordered, of_log);
      const auto at = static_cast<std::ptrdiff_t>(random_.below(to->in.size()));
      to->in.insert(to->in.begin() + at, std::move(packet));
      return;
    }
  }
  to->in.push_back(std::move(packet));
}

void World::transmit(Pod& pod, std::size_t max_bytes) {
  Pod& peer = other(pod);
  if (!connected(pod, peer)) return;
  event();
  for (const AgentName& agent : pod.box->destinations(peer.name)) {
    for (const mailbox::Outbound& o : pod.box->transmit(agent, max_bytes)) {
      std::string payload;
      link::put_u64(payload, o.sequence);
      link::put_u64(payload, o.prev);
      payload += mailbox::encode(o);
      if (pod.release == Release::kNext && o.sequence % 100 < kNewVersionPercent)
        payload[kVersionAt] = static_cast<char>(payload[kVersionAt] | kVersionOfNext);
      push(pod, peer.log->id(), FrameType::kMessage, payload,
           model_.find(o.message.id, o.message.to).value_or(kNoMessage));
    }
  }
}

// ---- frames that come

void World::handle(Pod& pod) {
  if (pod.blocked > 0) return;
  if (pod.in.empty()) {
    for (auto& [log, inlet] : pod.inlets) {
      if (inlet.unread() > 0) return read(pod, inlet, inlet.unread());
    }
    return;
  }
  const std::size_t i = chaotic_ && random_.chance(20) ? random_.below(pod.in.size()) : 0;
  Packet packet;
  const bool again = chaotic_ && !pod.seen.empty() && random_.chance(10);
  if (again) {  // perhaps long after
    packet = pod.seen[random_.below(pod.seen.size())];
  } else {
    packet = std::move(pod.in[i]);
    pod.in.erase(pod.in.begin() + static_cast<std::ptrdiff_t>(i));
  }
  const Pod* from = pod_of(packet.from);
  // The handshake's work: a session is between two logs.
  if (packet.to != pod.log->id() || from == nullptr || !connected(*from, pod)) return;
  if (again || i > 0) meet(packet, again ? Fault::kDuplicated : Fault::kReordered);
  if (traced() && (again || i > 0)) say(pod, again ? "reads a frame again" : "reads out of order");
  Inlet& inlet = pod.inlets[packet.from];
  inlet.add(std::move(packet));
  const std::size_t unread = inlet.unread();
  read(pod, inlet, random_.chance(75) ? unread : random_.below(unread + 1));
  if (pod.closes_link) link_down();
  pod.closes_link = false;
}

void World::read(Pod& pod, Inlet& inlet, std::size_t bytes) {
  inlet.read(bytes);
  const std::uint64_t life = pod.life;
  while (!failed()) {
    auto next = inlet.next();
    if (!next) return model_.fail("a link broke: " + next.error().message);
    if (!*next) return;
    event();
    take(pod, (*next)->packet, (*next)->frame);
    if (pod.directory.crashed() || pod.life != life) return;
  }
}

void World::answer_message(Pod& pod, const Packet& packet, log::Sequence sequence, Answer answer) {
  std::string payload;
  link::put_u64(payload, sequence);
  link::put_u8(payload, static_cast<std::uint8_t>(answer));
  link::put_text(payload, "");
  push(pod, packet.from, FrameType::kAnswer, payload, packet.message);
}

void World::take(Pod& pod, const Packet& packet, const link::Frame& frame) {
  if (frame.type == FrameType::kPing) {
    pod.features[packet.from] = link::PayloadReader(frame.payload).u32();
    return;
  }
  const AgentName& peer = other(pod).name;
  link::PayloadReader in(frame.payload);
  const auto sequence = in.u64();
  Known* k = packet.message == kNoMessage ? nullptr : &model_.at(packet.message);
  const auto latest = [&](Step step) {
    pod.batch.add(step);
    if (k != nullptr) k->last = step;
  };
  if (frame.type != packet.type) return model_.fail("a frame changed its type on the way");
  switch (frame.type) {
    case FrameType::kMessage: {
      const auto prev = in.u64();
      std::string bytes(in.rest());
      const bool of_next =
          !bytes.empty() && (static_cast<std::uint8_t>(bytes[0]) & kVersionOfNext) != 0;
      if (of_next && pod.release == Release::kNext)
        bytes[0] = static_cast<char>(static_cast<std::uint8_t>(bytes[0]) & ~kVersionOfNext);
      const auto out = mailbox::decode_outbound(sequence, prev, bytes);
      const bool unknown = of_next && pod.release != Release::kNext;
      if (static_cast<bool>(out) == unknown)
        return model_.fail(unknown ? "a message of an unknown version was understood"
                                   : "a message came that nobody understands");
      const bool kept = out && !out->origin.log.empty();
      if (unknown || (kept && pod.release == Release::kBefore)) {
        ++totals_.unknown;
        return answer_message(pod, packet, sequence, Answer::kRefused);
      }
      const mailbox::Message* message = &out->message;
      pod.doing = Step::kStored;
      const Answer answer = kept ? pod.box->deliver_kept(pod.now, packet.from, *out)
                                 : pod.box->deliver(pod.now, packet.from, sequence, prev, *message);
      pod.doing.reset();
      if (answer == Answer::kFull) {
        said_full_ = true;
        if (!pod.knows(packet.from, link::kGrants)) pod.box->forget_waiting(peer);
      }
      if (kept && answer == Answer::kFinished) {
        for (const mailbox::AckDebt& debt : pod.box->ack_debts(peer)) {
          if (debt.sender_log == packet.from && debt.sender_sequence == sequence) owe(pod, debt);
        }
      }
      if (traced())
        say(pod, "is sent " + message->id.value + ", answers " +
                     std::to_string(static_cast<int>(answer)));
      if (answer == Answer::kStored || answer == Answer::kDuplicate) {
        if (answer == Answer::kStored) latest(Step::kStored);
        if (const auto number = model_.find(message->id, message->to))
          tell(pod, News::Kind::kReceiverHas, *number);
      }
      return answer_message(pod, packet, sequence, answer);
    }
    case FrameType::kAnswer: {
      const auto value = in.u8();
      (void)in.text();
      if (!in.done() || value > static_cast<std::uint8_t>(Answer::kRefused))
        return model_.fail("an answer came that nobody understands");
      pod.doing = Step::kAnswerTaken;
      pod.box->on_answer(pod.now, peer, packet.from, sequence, static_cast<Answer>(value), "");
      pod.doing.reset();
      if (traced())
        say(pod, "hears answer " + std::to_string(value) + " to " + std::to_string(sequence));
      if (value <= static_cast<std::uint8_t>(Answer::kFinished)) latest(Step::kAnswerTaken);
      return;
    }
    case FrameType::kGrant: {
      if (pod.release == Release::kBefore)
        return model_.fail("a GRANT came to a pod that does not know it");
      const auto number = in.u32();
      const auto stream = in.u8();
      if (sequence == kDeclined)
        pod.box->on_declined(peer, agent_of(pod.name, number), stream);
      else if (!pod.box->on_grant(peer, agent_of(peer, number), stream))
        push_grant(pod, packet.from, kDeclined, number, stream);
      return;
    }
    case FrameType::kAcked: {
      pod.doing = Step::kAckRecorded;
      const bool recorded = pod.box->on_acked(peer, sequence);
      pod.doing.reset();
      if (traced()) say(pod, "hears of the ack of " + std::to_string(sequence));
      if (!recorded) return;  // its successor has to
      latest(Step::kAckRecorded);
      std::string payload;
      link::put_u64(payload, sequence);
      push(pod, packet.from, FrameType::kAckRecorded, payload, packet.message);
      return;
    }
    case FrameType::kAckRecorded: {
      const auto debt = pod.debts.find({packet.from, sequence});
      if (debt == pod.debts.end()) return;
      const log::Sequence inbox = debt->second;
      pod.debts.erase(debt);
      pod.doing = Step::kMarkedDone;
      pod.box->on_ack_recorded(inbox);
      pod.doing.reset();
      if (traced()) say(pod, "hears that the ack of " + std::to_string(sequence) + " is recorded");
      latest(Step::kMarkedDone);
      // A former pod that still sends knows nothing of it, nor whoever hears a copy long after.
      if (const auto waits = pod.waiting.find(inbox);
          waits != pod.waiting.end() && !chaotic_ && !ghost_)
        tell(pod, News::Kind::kRecorded, waits->second);
      ack_is_complete(pod, inbox);
      return;
    }
    case FrameType::kHandover: {
      if (pod.release == Release::kBefore) {
        pod.closes_link = true;
        return;
      }
      const auto prev = in.u64();
      const auto offered = mailbox::decode_outbound(sequence, prev, in.rest());
      if (!offered) return model_.fail("an offer came that nobody understands");
      const Pod* from = pod_of(packet.from);
      const bool former = from != nullptr && from->name == pod.name;
      pod.doing = Step::kAppended;
      const Answer answer =
          former ? pod.box->adopt(packet.from, *offered) : pod.box->take_back(peer, *offered);
      pod.doing.reset();
      if (traced())
        say(pod, "is offered " + offered->message.id.value + ", answers " +
                     std::to_string(static_cast<int>(answer)));
      if (answer == Answer::kStored) {
        latest(Step::kAppended);
        ++(former ? totals_.handed_over : totals_.given_back);
      }
      if (answer == Answer::kFull) {
        ++totals_.no_room;
        said_full_ = true;
      }
      // Of one that was given back there are two again.
      if (!former && (answer == Answer::kStored || answer == Answer::kDuplicate)) {
        if (const auto number = model_.find(offered->message.id, offered->message.to)) {
          // A former pod that was only cut off may hand it over when its ack is forgotten.
          if (ghost_ && ghost_->name == pod.name) model_.at(*number).forked = true;
          tell(pod, News::Kind::kSenderHas, *number);
        }
      }
      std::string payload;
      link::put_u64(payload, sequence);
      link::put_u8(payload, static_cast<std::uint8_t>(answer));
      push(pod, packet.from, FrameType::kHanded, payload, packet.message);
      return;
    }
    case FrameType::kHanded: {
      const auto value = in.u8();
      if (!in.done() || value > static_cast<std::uint8_t>(Answer::kRefused))
        return model_.fail("an answer to an offer came that nobody understands");
      pod.doing = Step::kMarkedDone;
      if (is_ghost(pod))
        pod.box->on_offer_answer(sequence, static_cast<Answer>(value));
      else
        pod.box->on_given_back(peer, sequence, static_cast<Answer>(value));
      pod.doing.reset();
      pod.batch.add(Step::kMarkedDone);
      return;
    }
    default:
      return model_.fail("a frame that has no place on a mail link");
  }
}

}  // namespace swarm::simulator
