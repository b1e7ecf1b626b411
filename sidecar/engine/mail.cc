#include "engine/mail.h"

#include <algorithm>
#include <set>

#include "base/crash_point.h"
#include "base/encoding.h"

namespace swarm::engine {

using link::FrameType;
using mailbox::Answer;

namespace {

constexpr Milliseconds kFirstBackoff{50}, kMaxBackoff{1000};
constexpr Milliseconds kMaxDebtBackoff{5000};  // to whom only acks are to be told
constexpr Milliseconds kFirstFullBackoff{20}, kMaxFullBackoff{500};
// Whoever was given up as gone for ever asks for what became of its messages when it is back.
static_assert(2 * mailbox::kAskAgainAfter <= std::min(Silence::kAbsent, Silence::kSilent));

Milliseconds grow(Milliseconds current, Milliseconds first, Milliseconds most) {
  return current == Milliseconds{0} ? first : std::min(current * 2, most);
}

}  // namespace

void Silence::failed(MonoTime now, Code why) {
  if (!begun_) since_ = now;
  begun_ = true;
  if (why != Code::kNotFound)
    absent_since_.reset();
  else if (!absent_since_)
    absent_since_ = now;
}

bool Silence::gone(MonoTime now) const {
  return begun_ && (now - since_ >= kSilent || (absent_since_ && now - *absent_since_ >= kAbsent));
}

Mail::Mail(Loop& loop, mailbox::Mailbox& box, const Config& config, Session::Options options,
           std::function<void(const AgentName&, Located)> locate)
    : loop_(loop),
      box_(box),
      config_(config),
      options_(std::move(options)),
      locate_(std::move(locate)),
      timer_(loop.io()) {
  schedule_work();  // a log that was recovered may hold mail to deliver
}

Mail::~Mail() { *alive_ = false; }

// ---- agents' requests

void Mail::start(mailbox::Message message, Milliseconds timeout, OnSent done) {
  const auto now = mono_now();
  if (sends_.size() >= kMaxWaitingSends) {
    return done(Error{Code::kFull, "more than " + std::to_string(kMaxWaitingSends) +
                                       " sends are waiting in this pod"});
  }
  const MessageId id = message.id;
  const AgentName to = message.to;
  const bool wants_reply = message.wants_reply;
  if (wants_reply) box_.await_reply(id);
  auto sent = box_.send(now, std::move(message));
  if (!sent) {
    if (wants_reply) box_.forget_reply(id);
    return done(sent.error());
  }
  if (sent->already) {
    if (sent->already->error) return done(*sent->already->error);
    Accepted accepted{id, sent->already->local ? "container" : "pod", sent->already->repeated,
                      std::nullopt};
    const auto peer = peers_.find(to);
    if (!sent->already->local && peer != peers_.end() && !peer->second.node.empty() &&
        peer->second.node != config_.node) {
      accepted.survives = "node";
    }
    schedule_work();
    return done(std::move(accepted));
  }
  // The same id again while the first call still waits: the newer caller gets the answer, the older
  // one learns so.
  if (const auto older = sends_.find(sent->sequence); older != sends_.end()) {
    auto previous = std::move(older->second.done);
    sends_.erase(older);
    previous(Error{Code::kUnknown, "the same id was sent again; that call gets the answer"});
  }
  auto& peer = peers_[to];  // it may have been looked for only now and then
  peer.retry_at = std::min(peer.retry_at, now + kMaxBackoff);
  sends_[sent->sequence] = Waiting{to, id, now + timeout, std::move(done), wants_reply, false, ""};
  schedule_work();
}

void Mail::send(mailbox::Message message, Milliseconds timeout, OnSent done) {
  start(std::move(message), timeout, std::move(done));
}

void Mail::request(mailbox::Message message, Milliseconds timeout, OnSent done) {
  message.wants_reply = true;
  const MessageId id = message.id;
  const auto deadline = mono_now() + timeout;
  start(std::move(message), timeout,
        [this, id, deadline, done = std::move(done)](Result<Accepted> sent) {
          if (!sent) {
            box_.forget_reply(id);
            return done(std::move(sent));
          }
          const auto left = std::max(Milliseconds{0}, deadline - mono_now());
          receive(left, Milliseconds{60000}, id, nullptr,
                  [this, id, accepted = *std::move(sent),
                   done](Result<mailbox::Delivery> reply) mutable {
                    box_.forget_reply(id);
                    if (!reply) {
                      return done(Error{reply.error().code,
                                        "message " + id.value + " was accepted (survives: " +
                                            accepted.survives + "), but no reply came in time"});
                    }
                    accepted.reply = *std::move(reply);
                    done(std::move(accepted));
                  });
        });
}

void Mail::forget_receivers(const void* who) {
  std::erase_if(receivers_, [&](const Receiver& receiver) { return receiver.who == who; });
}

void Mail::receive(Milliseconds wait, Milliseconds lease, std::optional<MessageId> in_reply_to,
                   const void* who, OnReceived done) {
  if (receivers_.size() >= kMaxWaitingReceivers) {
    return done(Error{Code::kFull, "more than " + std::to_string(kMaxWaitingReceivers) +
                                       " receivers are waiting in this pod"});
  }
  receivers_.push_back({std::move(in_reply_to), mono_now() + wait, lease, std::move(done), who});
  serve();
  schedule_work();
}

void Mail::ack(const MessageId& id, std::uint16_t attempt, Milliseconds timeout, OnStatus done) {
  auto acked = box_.ack(mono_now(), id, attempt);
  if (!acked) return done(acked.error());
  if (!acked->debt) return done({});
  const auto& debt = *acked->debt;
  const auto now = mono_now();
  const auto patience = patience_ends(debt.sender, debt.sender_log, now);
  const bool over = patience && *patience <= now;
  // The same ack again while the first call still waits: the newer caller gets the answer.
  if (const auto older = acks_.find(debt.inbox); older != acks_.end()) {
    const auto previous = std::move(older->second.done);
    acks_.erase(older);
    previous(Error{Code::kUnknown, "the same ack was sent again; that call gets the answer"});
  }
  if (!over) acks_[debt.inbox] = {now + timeout, done, debt.sender, debt.sender_log};
  send_debt(debt);  // those from before have been sent, or are when there is a link
  schedule_work();
  if (over) done({});
}

Status Mail::nack(const MessageId& id, std::uint16_t attempt, Milliseconds delay) {
  auto status = box_.nack(mono_now(), id, attempt, delay);
  schedule_work();
  return status;
}

Status Mail::extend(const MessageId& id, std::uint16_t attempt, Milliseconds lease) {
  auto status = box_.extend(mono_now(), id, attempt, lease);
  schedule_work();
  return status;
}

// ---- dead letters

Status Mail::end_dead(const MessageId& id) {
  const auto purged = box_.purge(id);
  if (!purged) return purged.error();
  if (purged->debt) send_debt(*purged->debt);
  return {};
}

Status Mail::purge(const MessageId& id) {
  auto status = end_dead(id);
  schedule_work();
  return status;
}

Status Mail::redrive(const MessageId& id) {
  auto status = box_.redrive(id);
  if (status) serve();
  schedule_work();
  return status;
}

Mail::Swept Mail::purge_all() {
  const auto swept = sweep([this](const MessageId& id) { return end_dead(id); });
  schedule_work();
  return swept;
}

Mail::Swept Mail::redrive_all() {
  const auto swept = sweep([&](const MessageId& id) { return box_.redrive(id); });
  serve();
  schedule_work();
  return swept;
}

Mail::Swept Mail::sweep(const std::function<Status(const MessageId&)>& each) {
  Swept swept;
  // One that fails must not keep those behind it from their turn: all are looked at.
  for (const auto& letter : box_.dead_letters(box_.books().dead_live)) {
    if (swept.done >= kMaxDeadPerCall) break;
    ++(each(letter.id) ? swept.done : swept.failed);
  }
  swept.left = box_.books().dead_live;
  return swept;
}

// ---- frames

bool Mail::take(Session& session, const link::Frame& frame) {
  link::PayloadReader in(frame.payload);
  const auto& peer = session.peer();
  switch (frame.type) {
    case FrameType::kMessage:
      take_message(session, frame);
      return true;
    case FrameType::kAnswer: {
      const auto sequence = in.u64();
      const auto value = in.u8();
      const std::string reason(in.text());
      if (!in.done() || value > static_cast<std::uint8_t>(Answer::kRefused)) {
        session.close(invalid("malformed ANSWER"));
        return true;
      }
      crash_point("answer-received");
      const auto answer = static_cast<Answer>(value);
      auto& known = peers_[peer.name];
      const auto waiting = sends_.find(sequence);
      if (answer == Answer::kFull) {
        known.full_backoff = grow(known.full_backoff, kFirstFullBackoff, kMaxFullBackoff);
        known.full_until = mono_now() + known.full_backoff;
        known.was_full = true;
        known.full = reason.substr(0, 200);
        if (waiting != sends_.end()) waiting->second.full = reason.substr(0, 200);
      } else if (answer == Answer::kStored) {
        known.full_backoff = Milliseconds{0};
        known.full.clear();
      }
      box_.on_answer(mono_now(), peer.name, peer.log_id, sequence, answer, reason.substr(0, 200));
      if (answer == Answer::kFull && config_.reject_when_full && waiting != sends_.end() &&
          box_.withdraw(sequence)) {
        finish(sequence, Error{Code::kFull, reason});
      }
      collect();
      schedule_work();
      return true;
    }
    case FrameType::kAcked: {
      const auto sequence = in.u64();
      if (in.done()) {
        crash_point("ack-received");
        if (box_.on_acked(peer.name, sequence)) {
          std::string payload;
          link::put_u64(payload, sequence);
          session.send(FrameType::kAckRecorded, payload);
          if constexpr (kCrashPoints) loop_.after_commit([] { crash_point("recorded-sent"); });
        }
        schedule_work();
      }
      return true;
    }
    case FrameType::kAckRecorded: {
      const auto sequence = in.u64();
      const auto debt = debts_.find({peer.log_id, sequence});
      if (in.done() && debt != debts_.end()) {
        crash_point("recorded-received");
        const auto inbox = debt->second;
        debts_.erase(debt);
        box_.on_ack_recorded(inbox);
        settle(inbox);
      }
      return true;
    }
    case FrameType::kHandover:
      take_offer(session, frame);
      return true;
    default:
      return false;
  }
}

void Mail::take_message(Session& session, const link::Frame& frame) {
  link::PayloadReader in(frame.payload);
  const auto& peer = session.peer();
  const auto sequence = in.u64();
  const auto prev = in.u64();
  const auto out = mailbox::decode_outbound(sequence, prev, in.rest());
  crash_point("message-received");
  Answer answer = Answer::kRefused;
  std::string reason;
  if (!in.ok() || !out) {
    reason = "malformed message";
  } else if (out->message.to != config_.name) {
    reason = "this pod is " + config_.name.value + ", not " + out->message.to.value;
  } else if (out->message.from != peer.name) {
    reason = "the sender's name is not the one of its pod";
  } else {
    const bool kept = !out->origin.log.empty();
    answer = kept ? box_.deliver_kept(mono_now(), peer.log_id, *out)
                  : box_.deliver(mono_now(), peer.log_id, sequence, prev, out->message);
    if (answer == Answer::kFull) {
      reason = config_.name.value + "'s inbox is full (limit " +
               std::to_string(config_.max_inbox_messages) + " messages)";
    } else if (answer == Answer::kRefused) {
      reason = config_.name.value +
               " takes no more mail: its pod is shutting down, or the message is over its limit";
    }
    if (kept && answer == Answer::kFinished) owed_to_keeper(session, sequence);
  }
  std::string payload;
  link::put_u64(payload, sequence);
  link::put_u8(payload, static_cast<std::uint8_t>(answer));
  link::put_text(payload, reason);
  if constexpr (kCrashPoints) loop_.after_commit([] { crash_point("inbox-committed"); });
  session.send(FrameType::kAnswer, payload);
  if constexpr (kCrashPoints) loop_.after_commit([] { crash_point("answer-sent"); });
  if (answer == Answer::kStored) {
    serve();
    schedule_work();
  }
}

// The ack of a kept message that was acked here before we heard of its keeper goes to that now.
void Mail::owed_to_keeper(const Session& keeper, log::Sequence kept) {
  const std::pair key{keeper.peer().log_id, kept};
  for (const auto& debt : box_.ack_debts(keeper.peer().name)) {
    if (std::pair{debt.sender_log, debt.sender_sequence} != key) continue;
    std::erase_if(debts_, [&](const auto& known) {
      return known.second == debt.inbox && known.first != key;
    });
    if (const auto wait = acks_.find(debt.inbox); wait != acks_.end())
      wait->second.creditor = key.first;
    send_debt(debt);
    return;
  }
}

void Mail::take_offer(Session& session, const link::Frame& frame) {
  link::PayloadReader in(frame.payload);
  const auto sequence = in.u64();
  const auto prev = in.u64();
  const auto offered = mailbox::decode_outbound(sequence, prev, in.rest());
  // From no other name: only a predecessor's messages are ours to send.
  const bool ours = in.ok() && offered && session.peer().name == config_.name;
  const auto answer = ours ? box_.adopt(session.peer().log_id, *offered) : Answer::kRefused;
  std::string payload;
  link::put_u64(payload, sequence);
  link::put_u8(payload, static_cast<std::uint8_t>(answer));
  session.send(FrameType::kHanded, payload);
  if (answer == Answer::kStored) schedule_work();
}

void Mail::session_up(const std::shared_ptr<Session>& session) {
  auto& sessions = by_log_[session->peer().log_id];
  std::erase_if(sessions, [](const auto& known) { return known.expired(); });
  sessions.push_back(session);
  silent_.erase(session->peer().name);
  strangers_.erase(session->peer().log_id);
  send_debts(session->peer().name);
  schedule_work();
}

void Mail::session_down(Session& session) {
  const auto found = by_log_.find(session.peer().log_id);
  if (found == by_log_.end()) return;
  std::erase_if(found->second, [&](const auto& known) {
    const auto live = known.lock();
    return !live || live.get() == &session;
  });
  if (found->second.empty())
    by_log_.erase(found);
  else
    send_debts(session.peer().name);  // what went out on this one may not have arrived
}

std::shared_ptr<Session> Mail::session_with(const LogId& log) const {
  const auto found = by_log_.find(log);
  if (found == by_log_.end()) return nullptr;
  for (auto it = found->second.rbegin(); it != found->second.rend(); ++it) {
    if (auto live = it->lock(); live && live->up()) return live;
  }
  return nullptr;
}

bool Mail::is_up(const AgentName& name) const {
  const auto peer = peers_.find(name);
  return peer != peers_.end() && peer->second.session && peer->second.session->up();
}

bool Mail::hears_debts(const AgentName& name) const {
  const auto debts = box_.ack_debts(name);
  return std::any_of(debts.begin(), debts.end(),
                     [&](const auto& debt) { return session_with(debt.sender_log) != nullptr; });
}

void Mail::look_again() {
  for (auto& [name, peer] : peers_) peer.retry_at = {};
  schedule_work();
}

std::size_t Mail::unsettled() const {
  std::size_t waiting = box_.destinations().size();
  for (const auto& name : box_.ack_creditors()) {
    // Where its name lives elsewhere, no link from its log comes any more.
    if (!is_up(name) || hears_debts(name)) ++waiting;
  }
  return waiting;
}

// ---- links to receivers

void Mail::ensure(const AgentName& name) {
  auto& peer = peers_[name];
  const auto now = mono_now();
  if (peer.session || peer.connecting || peer.locating || now < peer.retry_at ||
      name == config_.name)
    return;
  if (peers_.size() > kMaxPeerLinks) {
    // The links that were idle longest make room; their peers' mail is done.
    for (auto it = peers_.begin(); it != peers_.end() && peers_.size() > kMaxPeerLinks;) {
      const bool idle = it->first != name && !it->second.session && !it->second.connecting &&
                        !it->second.locating;
      it = idle ? peers_.erase(it) : std::next(it);
    }
  }
  peer.locating = true;
  locate_(name, [this, name, alive = alive_](Result<Location> where) {
    if (!*alive) return;
    auto& found = peers_[name];
    found.locating = false;
    if (!where) return peer_failed(name, where.error());
    boost::system::error_code bad;
    const auto address = boost::asio::ip::make_address(where->address, bad);
    if (bad) return peer_failed(name, invalid("not an address: " + where->address));
    Session::Events events;
    events.ready = [this, name, alive](Session& session) {
      if (!*alive) return;
      auto& ready = peers_[name];
      ready.session = session.shared_from_this();
      ready.connecting.reset();
      ready.backoff = Milliseconds{0};
      ready.full_until = {};
      ready.last_used = mono_now();
      ready.node = session.peer().node;
      ready.last_error.clear();
      const auto& log_id = session.peer().log_id;
      box_.on_incarnation(name, log_id);
      box_.on_link_up(mono_now(), name, log_id);
      session_up(ready.session);
      pump(name);
    };
    events.frame = [this, alive](Session& session, const link::Frame& frame) {
      if (*alive && !take(session, frame))
        session.close(invalid("a frame that has no place on a mail link"));
    };
    events.closed = [this, name, alive](Session& session, const Error& why) {
      if (!*alive) return;
      session_down(session);
      auto& gone = peers_[name];
      if (gone.session.get() != &session && gone.connecting.get() != &session) return;
      if (gone.session) box_.on_link_down(name);
      gone.session.reset();
      gone.connecting.reset();
      peer_failed(name, why);
    };
    found.connecting =
        Session::connect(loop_, {address, where->port}, options_, where->expect, std::move(events));
  });
}

void Mail::peer_failed(const AgentName& name, const Error& why) {
  auto& peer = peers_[name];
  const auto now = mono_now();
  const auto there = box_.destinations();
  const bool mail = std::find(there.begin(), there.end(), name) != there.end();
  peer.backoff = grow(peer.backoff, kFirstBackoff, mail ? kMaxBackoff : kMaxDebtBackoff);
  peer.retry_at = now + peer.backoff;
  peer.last_error = why.message;
  if (!hears_debts(name)) {  // else it is told on its own link
    auto& silence = silent_[name];
    silence.failed(now, why.code);
    if (silence.gone(now)) settle(box_.on_gone(name));
  }
  schedule_work();
}

void Mail::pump(const AgentName& name) {
  auto& peer = peers_[name];
  if (!peer.session || !peer.session->up()) return;
  const auto now = mono_now();
  if (now < peer.full_until) return;
  if (std::exchange(peer.was_full, false)) box_.on_retry(name);
  while (peer.session->queued_bytes() < kLinkWindowBytes) {
    const auto batch = box_.transmit(name, 64U << 10U);
    if (batch.empty()) break;
    peer.last_used = now;
    for (const auto& out : batch) {
      std::string payload;
      link::put_u64(payload, out.sequence);
      link::put_u64(payload, out.prev);
      payload += mailbox::encode(out);
      if (const auto waiting = sends_.find(out.sequence); waiting != sends_.end())
        waiting->second.transmitted = true;
      peer.session->send(FrameType::kMessage, payload);
      if constexpr (kCrashPoints) loop_.after_commit([] { crash_point("message-sent"); });
    }
    if (!peer.session || !peer.session->up()) break;
  }
}

void Mail::send_debt(const mailbox::AckDebt& debt) {
  debts_[{debt.sender_log, debt.sender_sequence}] = debt.inbox;
  const auto live = session_with(debt.sender_log);
  if (!live) return;
  std::string payload;
  link::put_u64(payload, debt.sender_sequence);
  live->send(FrameType::kAcked, payload);
  if constexpr (kCrashPoints) loop_.after_commit([] { crash_point("ack-sent"); });
}

void Mail::send_debts(const AgentName& name) {
  for (const auto& debt : box_.ack_debts(name)) send_debt(debt);
}

// ---- what is due

void Mail::settle(log::Sequence inbox) {
  const auto found = acks_.find(inbox);
  if (found == acks_.end()) return;
  auto done = std::move(found->second.done);
  acks_.erase(found);
  done({});
}

void Mail::settle(const std::vector<log::Sequence>& inboxes) {
  const std::set<log::Sequence> ended(inboxes.begin(), inboxes.end());
  if (ended.empty()) return;
  std::erase_if(debts_, [&](const auto& debt) { return ended.contains(debt.second); });
  for (const auto inbox : ended) settle(inbox);
}

void Mail::settle_strangers(MonoTime now) {
  if (now < strangers_due_) return;
  strangers_due_ = now + kStrangerCheck;
  std::map<LogId, MonoTime> still;
  for (const auto& [name, logs] : box_.senders()) {
    for (const auto& log : logs) {
      const auto since = unlinked_since(name, log, now);
      if (!since) continue;
      if (now - *since >= kStrangerLimit)
        settle(box_.on_former(name, log));
      else
        still[log] = *since;
    }
  }
  strangers_ = std::move(still);
}

std::optional<MonoTime> Mail::unlinked_since(const AgentName& name, const LogId& log,
                                             MonoTime now) {
  if (!is_up(name) || session_with(log)) return std::nullopt;
  return strangers_.try_emplace(log, now).first->second;
}

std::optional<MonoTime> Mail::patience_ends(const AgentName& sender, const LogId& creditor,
                                            MonoTime now) {
  if (const auto since = unlinked_since(sender, creditor, now))
    return *since + Silence::kAckPatience;
  const auto silence = silent_.find(sender);
  return silence == silent_.end() ? std::nullopt : silence->second.patience_ends();
}

void Mail::finish(log::Sequence sequence, Result<Accepted> result) {
  const auto found = sends_.find(sequence);
  if (found == sends_.end()) return;
  auto waiting = std::move(found->second);
  sends_.erase(found);
  if (!result && waiting.wants_reply) box_.forget_reply(waiting.id);
  waiting.done(std::move(result));
}

void Mail::collect() {
  for (auto& outcome : box_.take_outcomes()) {
    if (outcome.error) {
      finish(outcome.sequence, *outcome.error);
    } else {
      const auto& node = peers_[outcome.to].node;
      finish(outcome.sequence, Accepted{outcome.id,
                                        outcome.local                            ? "container"
                                        : (node.empty() || node == config_.node) ? "pod"
                                                                                 : "node",
                                        false, std::nullopt});
    }
  }
}

void Mail::serve() {
  for (auto it = receivers_.begin(); it != receivers_.end();) {
    auto delivery = box_.receive(mono_now(), it->lease, it->in_reply_to);
    if (!delivery) {
      ++it;
      continue;
    }
    auto done = std::move(it->done);
    it = receivers_.erase(it);
    done(*std::move(delivery));
  }
}

void Mail::work() {
  const auto now = mono_now();
  box_.tick(now);
  serve();
  for (auto it = receivers_.begin(); it != receivers_.end();) {
    if (it->deadline > now) {
      ++it;
      continue;
    }
    auto done = std::move(it->done);
    it = receivers_.erase(it);
    done(not_found("no message came in time"));
  }

  std::set<AgentName> needed;
  for (auto& name : box_.destinations()) needed.insert(name);
  for (auto& name : box_.ack_creditors()) needed.insert(name);
  for (const auto& name : needed) {
    ensure(name);
    pump(name);
  }
  for (auto& [name, peer] : peers_) {
    if (peer.session && !needed.contains(name) && now - peer.last_used > kIdleLinkLimit) {
      peer.session->close(unavailable("idle"));
    }
  }
  settle_strangers(now);
  collect();

  std::vector<log::Sequence> late;
  for (const auto& [sequence, waiting] : sends_) {
    if (waiting.deadline <= now) late.push_back(sequence);
  }
  for (const auto sequence : late) {
    const auto& waiting = sends_.at(sequence);
    const std::string to = waiting.to.value;
    if (!box_.withdraw(sequence)) {
      finish(sequence, Error{Code::kUnknown,
                             "no answer from " + to +
                                 "'s pod in time; the message may be delivered. Repeat with --id " +
                                 waiting.id.value + " to find out"});
    } else if (!waiting.full.empty()) {
      finish(sequence, Error{Code::kFull, waiting.full});
    } else if (const auto& peer = peers_[waiting.to]; is_up(waiting.to) && !peer.full.empty()) {
      finish(sequence, Error{Code::kFull, peer.full});  // it has waited behind one that was refused
    } else {
      const auto& error = peer.last_error;
      finish(sequence,
             unavailable(to + " can't be reached now" + (error.empty() ? "" : " (" + error + ")") +
                         "; nothing was sent"));
    }
  }
  std::vector<log::Sequence> of_absent;
  std::vector<std::pair<OnStatus, Error>> late_acks;
  for (auto it = acks_.begin(); it != acks_.end();) {
    auto& wait = it->second;
    const auto patience = patience_ends(wait.sender, wait.creditor, now);
    if (patience && *patience <= now) {
      of_absent.push_back(it->first);
    } else if (wait.deadline <= now) {
      late_acks.emplace_back(
          std::move(wait.done),
          Error{Code::kUnknown, "acknowledged here, and it does not come again from this pod; " +
                                    wait.sender.value + "'s pod has not recorded it yet"});
      it = acks_.erase(it);
      continue;
    }
    ++it;
  }
  for (const auto inbox : of_absent) settle(inbox);
  for (auto& [done, why] : late_acks) done(why);
  std::erase_if(silent_, [&](const auto& silence) { return !needed.contains(silence.first); });
  arm();
}

void Mail::schedule_work() {
  if (work_scheduled_) return;
  work_scheduled_ = true;
  loop_.post([this, alive = alive_] {
    if (!*alive) return;
    work_scheduled_ = false;
    work();
  });
}

void Mail::arm() {
  const auto now = mono_now();
  MonoTime next = now + Milliseconds{30000};
  const auto sooner = [&](MonoTime t) { next = std::min(next, t); };
  if (const auto t = box_.next_deadline()) sooner(*t);
  for (const auto& [sequence, waiting] : sends_) sooner(waiting.deadline);
  for (const auto& [inbox, wait] : acks_) {
    sooner(wait.deadline);
    if (const auto ends = patience_ends(wait.sender, wait.creditor, now)) sooner(*ends);
  }
  for (const auto& receiver : receivers_) sooner(receiver.deadline);
  std::set<AgentName> needed;
  for (auto& name : box_.destinations()) needed.insert(name);
  for (auto& name : box_.ack_creditors()) needed.insert(name);
  for (const auto& name : needed) {
    const auto& peer = peers_[name];
    if (peer.session) {
      if (peer.full_until > now)
        sooner(peer.full_until);
      else if (peer.session->queued_bytes() >= kLinkWindowBytes)
        sooner(now + Milliseconds{2});
    } else if (!peer.connecting && !peer.locating) {
      sooner(peer.retry_at);
    }
  }
  timer_.expires_at(std::max(next, now + Milliseconds{1}));
  timer_.async_wait([this, alive = alive_](boost::system::error_code e) {
    if (!e && *alive) schedule_work();
  });
}

}  // namespace swarm::engine
