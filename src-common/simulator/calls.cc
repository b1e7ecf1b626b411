// What agents and the engine call, and what agents hear of it.
#include <algorithm>
#include <utility>

#include "simulator/world.h"

namespace swarm::simulator {

using Kind = News::Kind;

namespace {

// Logs are numbered in their first bytes (World::new_log_id).
std::uint64_t key_of(const LogId& log, log::Sequence sequence) {
  return std::uint64_t{log.bytes[0]} << 56U | std::uint64_t{log.bytes[1]} << 48U | sequence;
}

}  // namespace

void World::tell(Pod& pod, Kind kind, MessageNumber number, std::uint16_t attempt) {
  pod.news.push_back({kind, number, attempt});
}

void World::send(Pod& pod, MessageNumber number, std::uint64_t share) {
  event();
  Known& k = model_.at(number);
  pod.doing = Step::kAppended;
  const auto result = pod.box->send(pod.now, k.message, share);
  pod.doing.reset();
  if (traced())
    say(pod, "sends " + k.message.id.value + (result ? "" : ": " + result.error().message));
  if (pod.directory.crashed()) return;
  if (!result) {
    if (result.error().code == Code::kInvalid) return model_.fail(result.error().message);
    return tell(pod, Kind::kRefused, number);
  }
  if (!result->already && k.ack_ok && !k.sender_lost && !k.moved && !k.generated)
    return model_.fail(k.message.id.value + " was forgotten by its sender");
  if (share != 0 && k.message.body.size() >= mailbox::kLeastSharedBytes) ++totals_.shared;
  pod.batch.add(Step::kAppended);
  pod.sending[result->sequence] = number;
  sent_as_[key_of(pod.log->id(), result->sequence)] = number;
  tell(pod, Kind::kSenderHas, number);
  if (result->already) tell(pod, Kind::kAccepted, number);
}

MessageNumber World::sent_as(const LogId& log, log::Sequence sequence) const {
  const auto it = sent_as_.find(key_of(log, sequence));
  return it == sent_as_.end() ? kNoMessage : it->second;
}

void World::send_new(Pod& pod) {
  const bool within_pod = random_.chance(10);
  const AgentName from = one_of(pod), to = one_of(within_pod ? pod : other(pod));
  const bool same_id = random_.chance(20);
  const MessageNumber number = model_.add(from, to, random_.chance(60), same_id);
  mailbox::Message& m = model_.at(number).message;
  m.body = std::string(random_.below(random_.chance(20) ? 900 : 100), 'b') + m.id.value;
  m.priority = static_cast<mailbox::Priority>(random_.below(mailbox::kPriorities));
  m.sent_at = (pod.now.time_since_epoch() + pod.wall_ahead).count();
  if (random_.chance(15)) m.in_reply_to.value = "q-" + std::to_string(random_.below(4));
  send(pod, number);
}

// One body to agents of the other pod. Some of them get it later, as those do for which there was
// no room at once, perhaps when the first ones have acked it.
void World::send_to_several(Pod& pod) {
  Pod::Call& call = pod.call;
  const bool later = call.share != 0 && random_.chance(40);
  if (!later) {
    call = {++calls_, one_of(pod), random_.chance(60),
            std::string(200 + random_.below(600), 's') + std::to_string(calls_)};
  }
  const Pod& peer = other(pod);
  bool first = true;
  for (std::uint32_t n = 0; n < peer.agents && !pod.directory.crashed(); ++n) {
    if (later && random_.chance(50)) continue;
    const MessageNumber number =
        model_.add(call.from, agent_of(peer.name, n), call.generated, !std::exchange(first, false));
    mailbox::Message& m = model_.at(number).message;
    m.body = call.body;
    m.sent_at = (pod.now.time_since_epoch() + pod.wall_ahead).count();
    send(pod, number, call.share);
  }
}

void World::send_again(Pod& pod) {
  constexpr std::size_t kRecent = 40;
  const std::size_t all = model_.all().size();
  if (all == 0) return;
  const std::size_t recent = std::min(all, kRecent);
  const auto number = static_cast<MessageNumber>(all - 1 - random_.below(recent));
  Known& k = model_.at(number);
  // Beyond what is promised: both pods lost their logs, or an id that is not remembered.
  if (k.sender != pod.name || ((k.sender_lost || k.moved) && k.receiver_lost) ||
      (k.generated && (k.sender_lost || k.moved || k.delivered || k.ack_tried)) ||
      (k.local && k.sender_lost) || k.refused)
    return;
  k.resent = true;
  send(pod, number);
}

void World::receive(Pod& pod, const AgentName& agent) {
  event();
  std::optional<MessageId> reply;
  if (random_.chance(20)) reply = MessageId{"q-" + std::to_string(random_.below(4))};
  pod.doing = Step::kHandedOut;
  const auto delivery = pod.box->receive(
      pod.now, agent, Milliseconds{static_cast<int>(20 + random_.below(400))}, reply);
  pod.doing.reset();
  if (!delivery) return;
  const mailbox::Message& m = delivery->message;
  if (traced()) say(pod, "gets " + m.id.value + "/" + std::to_string(delivery->attempt));
  const auto number = model_.find(m.id, m.to);
  if (!number) return model_.fail(m.id.value + " was never sent");
  if (m.to != agent) return model_.fail(m.id.value + " went to another agent of its pod");
  if (reply ? m.in_reply_to != *reply : pod.awaited.contains({agent, m.in_reply_to}))
    return model_.fail(m.id.value + " went to a receiver it was not for");
  pod.batch.add(Step::kHandedOut);
  model_.handed_out(*number, *delivery, pod.life, pod.now);
  tell(pod, Kind::kHandedOut, *number, delivery->attempt);
}

void World::use_held(Pod& pod) {
  if (pod.held.empty()) return;
  event();
  const std::size_t i = random_.below(pod.held.size());
  const Held held = pod.held[i];
  Known& k = model_.at(held.message);
  const MessageId& id = k.message.id;
  const AgentName& agent = k.message.to;
  const std::size_t what = random_.below(100);
  pod.doing = Step::kAcked;
  if (what < 55) {
    const bool late = held.attempt < k.attempt || held.attempt <= k.round;
    const auto result = pod.box->ack(pod.now, agent, id, held.attempt);
    if (traced())
      say(pod, "acks " + id.value + "/" + std::to_string(held.attempt) +
                   (result ? "" : ": " + result.error().message));
    if (result) k.ack_tried = true;  // the record may be marked even if nobody is told
    if (result && late) model_.fail(id.value + ": a late ack was accepted");
    if (!pod.directory.crashed()) {
      pod.held.erase(pod.held.begin() + static_cast<std::ptrdiff_t>(i));
      if (result) acked(pod, held.message, *result);
    }
  } else if (what < 75) {
    const Milliseconds delay{static_cast<int>(random_.below(100))};
    const auto status = pod.box->nack(pod.now, agent, id, held.attempt, delay);
    if (traced()) say(pod, "nacks " + id.value + "/" + std::to_string(held.attempt));
    if (status) {
      k.held_until = pod.now + delay;
      k.held_in_life = pod.life;
    }
    if (status && held.attempt % pod.limits.max_attempts == 0) {
      k.last = Step::kDead;
      k.held_until = {};
    }
  } else if (what < 85) {
    const Milliseconds lease{static_cast<int>(random_.below(300))};
    if (pod.box->extend(pod.now, agent, id, held.attempt, lease)) {
      k.held_until = pod.now + lease;
      k.held_in_life = pod.life;
    }
  } else if (what < 95 && held.attempt > 1) {
    const auto result =
        pod.box->ack(pod.now, agent, id, static_cast<std::uint16_t>(held.attempt - 1));
    if (result && result->debt) model_.fail(id.value + ": an ack of an older attempt was accepted");
  }
  pod.doing.reset();
}

void World::acked(Pod& pod, MessageNumber number, const mailbox::AckResult& result) {
  Known& k = model_.at(number);
  k.ack_tried = true;
  k.held_until = {};
  if (k.last != Step::kPurged) k.last = Step::kAcked;
  pod.batch.add(k.last);
  if (result.debt) {
    pod.waiting[result.debt->inbox] = number;
    owe(pod, *result.debt);
  } else {
    tell(pod, Kind::kAckOk, number);
  }
}

void World::withdraw(Pod& pod) {
  if (pod.sending.empty()) return;
  event();
  auto it = pod.sending.begin();
  std::advance(it, static_cast<std::ptrdiff_t>(random_.below(pod.sending.size())));
  const MessageNumber number = it->second;
  const Known& k = model_.at(number);
  if (k.local) return;
  // Accepted before, by a log that is lost: a receiver that drains would give its copy back, which
  // is not simulated.
  if (k.accepted && ghost_ && retiring_ && ghost_->name == k.receiver) return;
  if (!pod.box->withdraw(it->first)) return;
  if (traced()) say(pod, "withdraws " + model_.at(number).message.id.value);
  pod.sending.erase(it);
  // A link that repeats frames within a session voids the certainty of an answer "full": links are
  // TCP, and do not.
  tell(pod, chaotic_ ? Kind::kTakenBack : Kind::kWithdrawn, number);
}

void World::toggle_await(Pod& pod) {
  event();
  const AgentName agent = one_of(pod);
  const MessageId id{"q-" + std::to_string(random_.below(4))};
  if (pod.awaited.erase({agent, id}) != 0) return pod.box->forget_reply(agent, id);
  pod.awaited.insert({agent, id});
  pod.box->await_reply(agent, id);
}

void World::redrive(Pod& pod, const AgentName& agent) {
  for (const mailbox::Summary& letter : pod.box->dead_letters(agent, 3)) {
    event();
    pod.doing = Step::kRedriven;
    const auto status = pod.box->redrive(agent, letter.id);
    pod.doing.reset();
    if (pod.directory.crashed()) return;
    if (!status) continue;
    if (traced()) say(pod, "redrives " + letter.id.value);
    ++totals_.redriven;
    pod.batch.add(Step::kRedriven);
    const auto number = model_.find(letter.id, letter.to);
    if (!number) return model_.fail(letter.id.value + " is a dead letter that nobody has sent");
    Known& k = model_.at(*number);
    k.redriven = true;
    k.last = Step::kRedriven;
    k.held_until = {};
    tell(pod, Kind::kRedriven, *number, letter.attempt);
  }
}

void World::purge(Pod& pod, const AgentName& agent, std::size_t most) {
  for (const mailbox::Summary& letter : pod.box->dead_letters(agent, most)) {
    event();
    pod.doing = Step::kPurged;
    const auto result = pod.box->purge(agent, letter.id);
    pod.doing.reset();
    const auto number = model_.find(letter.id, letter.to);
    if (!number) return model_.fail(letter.id.value + " is a dead letter that nobody has sent");
    Known& k = model_.at(*number);
    if (result) k.ack_tried = true;
    if (pod.directory.crashed()) return;
    if (!result) {
      if (healing_) return model_.fail(letter.id.value + " can't be purged");
      continue;
    }
    if (traced()) say(pod, "purges " + letter.id.value);
    ++totals_.dead;
    k.last = Step::kPurged;
    acked(pod, *number, *result);
  }
}

void World::tick(Pod& pod) {
  event();
  pod.doing = Step::kHandedOut;  // ends leases
  (void)pod.box->tick(pod.now);
  (void)pod.box->take_recorded();  // the receiver says it again on the next link
  pod.doing.reset();
  send_grants(pod);
  if (linked_ && !pod.directory.crashed()) strangers_end(pod);
}

void World::retry(Pod& pod) {
  event();
  const Pod& peer = other(pod);
  for (std::uint32_t n = 0; n < peer.agents; ++n) pod.box->on_retry(agent_of(peer.name, n));
}

void World::drain(Pod& pod) {
  if (chaotic_) return;  // a refusal that comes twice, and late, is no certainty (withdraw)
  event();
  pod.box->stop_intake();
  pod.draining = true;
}

void World::collect_outcomes(Pod& pod) {
  for (const mailbox::SendOutcome& outcome : pod.box->take_outcomes()) {
    const auto number = model_.find(outcome.id, outcome.to);
    if (!number) return model_.fail(outcome.id.value + " has an outcome and was never sent");
    tell(pod, outcome.error ? Kind::kRefusedByOther : Kind::kAccepted, *number);
  }
}

// Commit, then everything that was to be told leaves.
void World::flush(Pod& pod) {
  if (!pod.batch.empty()) event();
  pod.committing = true;
  const bool done = pod.log->commit().ok() && !pod.directory.crashed();
  pod.committing = false;
  if (!done) {
    if (!is_ghost(pod))
      restart(pod);
    else
      pod.directory.crash();  // ghost_step() sees it
    return;
  }
  pod.directory.barrier();
  check_books(pod);
  std::vector<Packet> leaving = std::exchange(pod.out, {});
  for (Packet& packet : leaving) leave(pod, std::move(packet));
  frames_fate_.reset();
  for (const News& news : pod.news) {
    // Nobody is left at a former pod to hear of anything but what it still sends.
    if (is_ghost(pod) && news.kind != Kind::kAccepted && news.kind != Kind::kRefusedByOther)
      continue;
    // It counts as lost; if the other pod's log is gone by now, too, that is more than one loss.
    if (is_ghost(pod) && news.kind == Kind::kAccepted && !model_.at(news.message).receiver_has)
      continue;
    if (traced() && news.kind == Kind::kAccepted)
      say(pod, "hears that " + model_.at(news.message).message.id.value + " is accepted");
    model_.hear(news);
    if (news.kind == Kind::kHandedOut) pod.held.push_back({news.message, news.attempt});
  }
  pod.news.clear();
  pod.batch.clear();
}

void World::check_books(Pod& pod) {
  const mailbox::Books b = pod.box->books();
  if (b.sent + b.adopted !=
      b.refused + b.withdrawn + b.acknowledged_by_receiver + b.handed_over + b.outbox_live)
    return model_.fail(pod.name.value + "'s books of what it sent do not balance");
  if (b.stored != b.acked + b.inbox_live + b.dead_live)
    return model_.fail(pod.name.value + "'s books of what it stored do not balance");
  const mailbox::Limits& limits = pod.limits;
  if (b.outbox_live <= limits.max_outbox_messages &&
      b.inbox_live + b.dead_live <= limits.max_inbox_messages)
    return;
  if (!random_.chance(10)) return;  // what follows takes long
  const Pod::Fill fill = pod.fill([&](const mailbox::Summary& s) {
    // What was handed over comes on top of what a pod has sent.
    if (s.where == mailbox::Summary::Where::kOutgoing && b.adopted > 0) return false;
    const auto number = model_.find(s.id, s.to);
    // Replies have places of their own.
    return number && model_.at(*number).message.in_reply_to.empty();
  });
  const auto check = [&](const std::map<std::string, std::uint32_t>& fills,
                         const std::map<std::string, std::uint32_t>& found, std::uint32_t limit) {
    for (const auto& [which, n] : fills) {
      const auto before = found.find(which);
      if (n > std::max(limit, before == found.end() ? 0 : before->second))
        return model_.fail(which + " is above its limit");
    }
  };
  check(fill.out, pod.found.out, limits.max_outbox_messages);
  check(fill.in, pod.found.in, limits.max_inbox_messages);
}

}  // namespace swarm::simulator
