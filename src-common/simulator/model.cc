#include "simulator/model.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "base/encoding.h"

namespace swarm::simulator {
namespace {

// Once the same id was sent again, one refusal says nothing about the other sending.
void refuse(Known& k) {
  if (!k.resent) k.refused = true;
}

}  // namespace

MessageNumber Model::add(const AgentName& from, const AgentName& to, bool generated, bool same_id) {
  const auto number = static_cast<MessageNumber>(known_.size());
  Known k;
  k.generated = generated;
  k.sender = pod_of(from);
  k.receiver = pod_of(to);
  k.local = k.sender == k.receiver;
  if (same_id && number > 0) {
    const Known& last = known_.back();
    if (last.generated == generated && (!generated || last.message.from == from) &&
        !find(last.message.id, to))
      k.message.id = last.message.id;
  }
  if (k.message.id.empty()) {
    char text[24];
    std::snprintf(text, sizeof text, generated ? "m-%016llx" : "job-%llu",
                  static_cast<unsigned long long>(number));
    k.message.id.value = text;
  }
  k.message.from = from;
  k.message.to = to;
  known_.push_back(std::move(k));
  return number;
}

// An id has the number of the first message that has it; others follow that one.
std::optional<MessageNumber> Model::find(const MessageId& id, const AgentName& to) const {
  const bool generated = id.value.compare(0, 2, "m-") == 0;
  const std::size_t prefix = generated ? 2 : 4;
  if (id.value.size() <= prefix) return std::nullopt;
  std::size_t number = 0;
  std::from_chars(id.value.data() + prefix, id.value.data() + id.value.size(), number,
                  generated ? 16 : 10);
  for (; number < known_.size() && known_[number].message.id == id; ++number) {
    if (known_[number].message.to == to) return static_cast<MessageNumber>(number);
  }
  return std::nullopt;
}

void Model::hear(const News& news) {
  if (failed()) return;
  Known& k = known_[news.message];
  switch (news.kind) {
    case News::Kind::kSenderHas:
      k.sender_has = true;
      return;
    case News::Kind::kReceiverHas:
      k.receiver_has = true;
      return;
    case News::Kind::kAccepted:
      k.accepted = true;
      return;
    case News::Kind::kRefused:
      return refuse(k);
    case News::Kind::kRefusedByOther:
      k.sender_has = false;
      if (k.accepted && !k.resent) return fail(k, "was refused after it was accepted");
      if (k.delivered && !k.resent) return fail(k, "was refused after it was handed out");
      k.sender_has = false;
      return refuse(k);
    case News::Kind::kWithdrawn:
      if (k.accepted && !k.resent) return fail(k, "was withdrawn after it was accepted");
      k.sender_has = false;
      return refuse(k);
    case News::Kind::kTakenBack:
      k.sender_has = false;
      return;
    case News::Kind::kHandedOut:
      return hear_handed_out(k, news.attempt);
    case News::Kind::kAckOk:
      k.ack_ok = true;
      return;
    case News::Kind::kRecorded:
      k.recorded = true;
      return;
    case News::Kind::kRedriven:
      k.round = std::max(k.round, news.attempt);
      return;
  }
}

void Model::handed_out(MessageNumber number, const mailbox::Delivery& delivery, std::uint64_t life,
                       MonoTime now) {
  Known& k = known_[number];
  if (k.message != delivery.message) return fail(k, "is not what was sent");
  if (delivery.redelivered != (delivery.attempt > 1))
    return fail(k, "has a wrong mark of repetition");
  if (k.held_in_life == life && now < k.held_until)
    return fail(k, "was handed out again before its lease or delay was over");
  if (delivery.lease_until <= now) return fail(k, "was handed out without a lease");
  k.held_until = delivery.lease_until;
  k.held_in_life = life;
  k.last = Step::kHandedOut;
}

void Model::hear_handed_out(Known& k, std::uint16_t attempt) {
  if (k.refused) return fail(k, "was refused, yet handed out");
  // Both pods have lost their logs: beyond what is promised. An id that is sent again, or a former
  // pod of the sender, may bring it once more. Ids are not handed over. But what the next pod of
  // its sender's name has recorded it does not send again.
  const bool forgotten =
      (k.forked || (k.sender_lost ? !k.recorded || k.resent : k.moved && k.resent)) &&
      k.receiver_lost;
  if (k.ack_ok && !forgotten) return fail(k, "was handed out again after an ack that was OK");
  if (attempt <= k.attempt) return fail(k, "was handed out twice as one attempt");
  // Order is promised to sends of which one began after the other was answered. A dead letter whose
  // attempts were all cut short begins anew when its pod's log is lost, or when it is redriven;
  // what was not accepted when its sender's log was lost may come late from the pod that still has
  // it.
  const bool ordered = !k.delivered && !k.resent && !k.receiver_lost && !k.redriven && !k.late &&
                       k.message.in_reply_to.empty();
  if (ordered) {
    const auto number = static_cast<MessageNumber>(&k - known_.data()) + 1;
    MessageNumber& latest = latest_[{k.message.from, k.message.to, k.message.priority}];
    if (number <= latest) return fail(k, "is out of order");
    latest = number;
  }
  k.delivered = true;
  k.attempt = attempt;
}

bool Model::may_lose(const AgentName& name) const {
  for (const Known& k : known_) {
    if (!k.accepted || k.ack_ok || k.local) continue;
    if (!(k.sender == name ? k.receiver_has : k.sender_has)) return false;
  }
  return true;
}

void Model::lose(const AgentName& name) {
  for (Known& k : known_) {
    if (k.sender == name) {
      k.late = k.late || !k.accepted;
      k.sender_has = k.recorded = false;
      k.sender_lost = true;
    }
    if (k.receiver == name) {
      k.receiver_has = false;
      k.receiver_lost = true;
      k.attempt = k.round = 0;
    }
  }
}

bool Model::may_retire(const AgentName& name) const {
  return std::all_of(known_.begin(), known_.end(), [&](const Known& k) {
    return !k.accepted || k.ack_ok || k.local || k.receiver != name || k.sender_has;
  });
}

void Model::retire(const AgentName& name) {
  for (Known& k : known_) {
    if (k.sender == name) {
      k.late = k.late || !k.accepted;
      k.moved = true;
    }
    if (k.local && k.sender == name) k.sender_lost = true;
    if (k.receiver != name) continue;
    k.receiver_has = false;
    k.receiver_lost = true;
    k.attempt = k.round = 0;
  }
}

void Model::nothing_is_lost() {
  for (const Known& k : known_) {
    if (!k.accepted || k.ack_ok || k.ack_tried) continue;
    if (k.local && k.sender_lost) continue;
    return fail(k, "was accepted and is lost");
  }
}

}  // namespace swarm::simulator
