#include "engine/mail.h"

#include <algorithm>
#include <set>

#include "base/crash_point.h"
#include "base/encoding.h"
#include "telemetry/log.h"

namespace swarm::engine {

using link::FrameType;
using mailbox::Answer;

namespace {

constexpr Milliseconds kFirstBackoff{50}, kMaxBackoff{1000};
constexpr Milliseconds kMaxDebtBackoff{5000};  // to whom only acks are to be told
constexpr Milliseconds kLookPeriod{30000};     // at all, when nothing is due before
constexpr Milliseconds kWindowCheck{2};        // whether a link's window is open again
// Whether there is room for sends that wait: tasks and ids that are forgotten make some, too.
constexpr Milliseconds kRoomCheck{200};
constexpr Milliseconds kFirstFullBackoff{50}, kMaxFullBackoff{2000};  // without a grant
// The answer to what is on its way at a send's deadline; agentctl waits a second longer than that.
constexpr Milliseconds kLastAnswer{500};
constexpr Milliseconds kLookAgain{10};  // at what could not be handed out, or was ready only then
// Whoever was given up as gone for ever asks for what became of its messages when it is back.
static_assert(2 * mailbox::kAskAgainAfter <= std::min(Silence::kAbsent, Silence::kSilent));

constexpr std::uint8_t kPlaceKept = 0, kDeclined = 1;  // GRANT
constexpr std::size_t kUsualEnvelopeBytes = 160;       // of a MESSAGE beyond its body

std::string grant_payload(std::uint8_t what, const AgentName& to, std::uint8_t stream) {
  std::string payload;
  link::put_u8(payload, what);
  link::put_u32(payload, number_in_pod(to.value));
  link::put_u8(payload, stream);
  return payload;
}

Error no_message() { return not_found("no message came in time"); }

}  // namespace

std::string payload_of(const mailbox::Outbound& out) {
  std::string payload;
  payload.reserve(out.message.body.size() + kUsualEnvelopeBytes);
  link::put_u64(payload, out.sequence);
  link::put_u64(payload, out.prev);
  mailbox::append(payload, out);
  return payload;
}

std::string no_such_agent(const Config& config, const AgentName& name) {
  const auto agents = config.agents_per_pod;
  return config.name.value + " has " +
         (agents == 1 ? "one agent" : std::to_string(agents) + " agents") + ", and " +
         name.value.substr(0, 64) + " is not one of them";
}

void Silence::failed(MonoTime now, Code why) {
  if (!begun_) since_ = now;
  begun_ = true;
  if (why == Code::kNotFound) {
    if (!absent_since_) absent_since_ = now;
    absent_until_ = now;
    return;
  }
  if (why != Code::kUnavailable)
    absent_before_ = Milliseconds{0};
  else if (absent_since_)
    absent_before_ += absent_until_ - *absent_since_;
  absent_since_.reset();
}

bool Silence::gone(MonoTime now) const {
  const auto absent = absent_before_ + (absent_since_ ? now - *absent_since_ : Milliseconds{0});
  return begun_ && (now - since_ >= kSilent || absent >= kAbsent);
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

void Mail::start(mailbox::Message message, Milliseconds timeout, const void* who, OnSent done,
                 std::uint64_t share) {
  const auto deadline = mono_now() + timeout;
  const bool crowded = sends_.size() + blocked_count_ >= kMaxWaitingSends;
  const auto before = blocked_.empty() ? blocked_.end() : blocked_.find(lane_of(message));
  // What became of one that is known is told at once: it is never "refused".
  const bool known = (crowded || before != blocked_.end()) && box_.knows(message);
  if (crowded && !known) {
    return done(Error{Code::kFull, "more than " + std::to_string(kMaxWaitingSends) +
                                       " sends are waiting in this pod"});
  }
  // Behind those that wait already, so that a sender's messages stay in their order.
  const bool behind = before != blocked_.end() && !known;
  Error why = behind ? before->second.back().why : Error{};
  if (!behind && begin(message, deadline, who, done, why, share) == Begun::kYes) return;
  if (behind) {
    for (auto& one : before->second) {
      if (one.message.id != message.id) continue;
      auto previous = std::exchange(one.done, std::move(done));
      one.deadline = deadline;
      one.who = who;
      arm(deadline);
      return previous(
          Error{Code::kUnknown, "the same id was sent again; that call gets the answer"});
    }
  }
  if (!blocks_ || config_.reject_when_full || timeout <= Milliseconds{0} ||
      blocked_bytes_ + message.body.size() > room_.blocked_bytes) {
    return done(why);
  }
  block(std::move(message), deadline, who, std::move(done), std::move(why), share);
}

void Mail::block(mailbox::Message message, MonoTime deadline, const void* who, OnSent done,
                 Error why, std::uint64_t share) {
  ++blocked_count_;
  blocked_bytes_ += message.body.size();
  arm(std::min(deadline, mono_now() + kRoomCheck));
  auto& queue = blocked_[lane_of(message)];
  queue.push_back({std::move(message), deadline, std::move(done), who, std::move(why), share});
}

Mail::Begun Mail::begin(const mailbox::Message& message, MonoTime deadline, const void* who,
                        OnSent& done, Error& why, std::uint64_t share) {
  const auto now = mono_now();
  const auto& id = message.id;
  const auto& to = message.to;
  if (message.wants_reply && !box_.await_reply(message.from, id)) {
    done(Error{Code::kFull, "too many requests of this pod wait for their replies"});
    return Begun::kYes;
  }
  auto sent = box_.send(now, message, share);
  if (!sent && sent.error().code == Code::kFull) {
    why = sent.error();
    if (box_.is_local(to)) note_full(why.message);
    return Begun::kNoRoom;
  }
  if (!sent) {
    done(sent.error());
    return Begun::kYes;
  }
  if (sent->already) {
    if (sent->already->error) {
      done(*sent->already->error);
      return Begun::kYes;
    }
    Accepted accepted{id, sent->already->local ? alone() : shared_with(to), sent->already->repeated,
                      std::nullopt};
    if (sent->already->local && !accepted.duplicate) show(message);
    schedule_work();
    done(std::move(accepted));
    return Begun::kYes;
  }
  // The same id again while the first call still waits: the newer caller gets the answer, the older
  // one learns so.
  if (const auto older = sends_.find(sent->sequence); older != sends_.end()) {
    auto previous = std::move(older->second.done);
    sends_.erase(older);
    previous(Error{Code::kUnknown, "the same id was sent again; that call gets the answer"});
  }
  auto& peer = peers_[pod_of(to)];  // it may have been looked for only now and then
  peer.retry_at = std::min(peer.retry_at, now + kMaxBackoff);
  sends_[sent->sequence] = Waiting{message.from, to, id, deadline, std::move(done), who};
  arm(deadline);
  mark_dirty(pod_of(to));
  return Begun::kYes;
}

void Mail::retry_blocked() {
  may_have_room_ = false;
  auto it = blocked_.lower_bound(retry_from_);
  for (std::size_t lanes = blocked_.size(); lanes > 0; --lanes) {
    if (it == blocked_.end()) it = blocked_.begin();
    auto& queue = it->second;
    // Who has had room is the last to get more.
    const auto turn_ends = [&] {
      const auto next = std::next(it);
      retry_from_ = next == blocked_.end() ? Lane{} : next->first;
    };
    const std::size_t before = queue.size();
    while (!queue.empty()) {
      auto& first = queue.front();
      if (!box_.knows(first.message) && !box_.has_room(mono_now(), first.message)) {
        if (queue.size() < before) turn_ends();
        break;
      }
      if (begin(first.message, first.deadline, first.who, first.done, first.why, first.share) ==
          Begun::kNoRoom)
        return turn_ends();  // then it is the log that is full
      --blocked_count_;
      blocked_bytes_ -= first.message.body.size();
      queue.pop_front();
    }
    it = queue.empty() ? blocked_.erase(it) : std::next(it);
  }
}

void Mail::set_room(const Room& room, std::string why) {
  may_have_room_ = may_have_room_ || room.inbox_messages > box_.inbox_limit();
  room_ = room;
  box_.limit_inboxes(room.inbox_messages, std::move(why));
  if (may_have_room_) schedule_work();
}

void Mail::stop_blocking() {
  blocks_ = false;
  for (auto& [to, queue] : std::exchange(blocked_, {})) {
    for (auto& one : queue) {
      --blocked_count_;
      blocked_bytes_ -= one.message.body.size();
      one.done(unavailable(config_.name.value + "'s pod is shutting down; nothing was sent"));
    }
  }
  for (const auto& [log, sessions] : by_log_) parted_.insert(log);
  links_changed_ = true;
  lost_due_ = {};
  look_for_lost(mono_now());
}

void Mail::end_late_blocked(MonoTime now) {
  std::vector<Blocked> late;
  for (auto it = blocked_.begin(); it != blocked_.end();) {
    auto& queue = it->second;
    const auto keep = std::stable_partition(queue.begin(), queue.end(),
                                            [&](const Blocked& b) { return b.deadline > now; });
    std::move(keep, queue.end(), std::back_inserter(late));
    queue.erase(keep, queue.end());
    it = queue.empty() ? blocked_.erase(it) : std::next(it);
  }
  for (auto& one : late) {
    --blocked_count_;
    blocked_bytes_ -= one.message.body.size();
    if (box_.knows(one.message)) {  // it has come another way, from a former pod of ours
      (void)begin(one.message, one.deadline, one.who, one.done, one.why, one.share);
      continue;
    }
    one.done(one.why);
  }
}

void Mail::send(mailbox::Message message, Milliseconds timeout, OnSent done, const void* who,
                std::uint64_t share) {
  start(std::move(message), timeout, who, std::move(done), share);
}

void Mail::request(mailbox::Message message, Milliseconds timeout, OnSent done, const void* who) {
  message.wants_reply = true;
  const MessageId id = message.id;
  const AgentName from = message.from;
  const auto deadline = mono_now() + timeout;
  const auto number = ++next_request_;
  requests_[number] = {from, id, who};
  start(std::move(message), timeout, who,
        [this, number, from, id, deadline, who, done = std::move(done)](Result<Accepted> sent) {
          if (!requests_.contains(number)) return;
          if (!sent) {
            (void)end_request(number);
            return done(std::move(sent));
          }
          const auto left = std::max(Milliseconds{0}, deadline - mono_now());
          receive(from, left, Milliseconds{60000}, id, who,
                  [this, number, id, accepted = *std::move(sent),
                   done](Result<mailbox::Delivery> reply) mutable {
                    if (!end_request(number)) return;
                    if (!reply) {
                      return done(Error{Code::kNotFound,
                                        "message " + id.value + " was accepted (survives: " +
                                            accepted.survives + "), but no reply came in time"});
                    }
                    accepted.reply = *std::move(reply);
                    done(std::move(accepted));
                  });
        });
}

bool Mail::end_request(std::uint64_t number) {
  const auto found = requests_.find(number);
  if (found == requests_.end()) return false;
  const auto ended = std::move(found->second);
  requests_.erase(found);
  if (std::none_of(requests_.begin(), requests_.end(), [&](const auto& other) {
        return other.second.id == ended.id && other.second.from == ended.from;
      })) {
    box_.forget_reply(ended.from, ended.id);
  }
  return true;
}

// The mark of the ack comes behind the reply's record, in the log as on its way to the device, so
// that no crash leaves the question acked and nobody answered.
void Mail::reply(mailbox::Message message, std::uint16_t attempt, Milliseconds timeout,
                 Milliseconds ack_timeout, OnSent done, const void* who) {
  const AgentName from = message.from;
  const MessageId question = message.in_reply_to;
  // Whoever asked, but for a reply that goes to somebody else.
  const AgentName to = message.to;
  const AgentName asker = box_.has(from, question, to) ? to : AgentName{};
  start(std::move(message), timeout, who,
        [this, from, question, asker, attempt, ack_timeout,
         done = std::move(done)](Result<Accepted> sent) {
          if (!sent) return done(std::move(sent));
          ack(
              from, question, attempt, ack_timeout,
              [accepted = *std::move(sent), done](Status acked) mutable {
                accepted.acked = std::move(acked);
                done(std::move(accepted));
              },
              asker);
        });
}

void Mail::forget(const void* who) {
  for (auto of = receivers_.begin(); of != receivers_.end();) {
    waiting_receivers_ -=
        std::erase_if(of->second, [&](const Receiver& receiver) { return receiver.who == who; });
    of = of->second.empty() ? receivers_.erase(of) : std::next(of);
  }
  unwatch(who);
  std::vector<std::uint64_t> ended;
  for (const auto& [number, request] : requests_) {
    if (request.who == who) ended.push_back(number);
  }
  for (const auto number : ended) (void)end_request(number);
  const auto latest = mono_now() + config_.backpressure_timeout;
  bool sooner = false;
  const auto hurry = [&](auto& send) {
    if (send.who != who) return;
    send.who = nullptr;
    send.deadline = std::min(send.deadline, latest);
    sooner = true;
  };
  for (auto& [sequence, waiting] : sends_) hurry(waiting);
  for (auto& [lane, queue] : blocked_) {
    for (auto& one : queue) hurry(one);
  }
  if (sooner) arm(latest);
  schedule_work();
}

Status Mail::watch(const AgentName& agent, const void* who, OnMessage seen) {
  if (watchers_.size() >= kMaxWatchers) {
    return Error{Code::kFull,
                 "more than " + std::to_string(kMaxWatchers) + " calls watch in this pod"};
  }
  watchers_.push_back({agent, who, std::move(seen)});
  return {};
}

void Mail::unwatch(const void* who) {
  std::erase_if(watchers_, [&](const Watcher& watcher) { return watcher.who == who; });
}

void Mail::show(const mailbox::Message& message) {
  for (const auto& watcher : watchers_) {
    if (watcher.agent == message.to) watcher.seen(message);
  }
}

void Mail::receive(const AgentName& agent, Milliseconds wait, Milliseconds lease,
                   std::optional<MessageId> in_reply_to, const void* who, OnReceived done) {
  add_receiver(agent, {std::move(in_reply_to), mono_now() + wait, lease, std::move(done), who});
}

void Mail::receive_part(const AgentName& agent, Milliseconds wait, Milliseconds lease,
                        NextPart part, const void* who, OnReceived done) {
  add_receiver(agent,
               {std::nullopt, mono_now() + wait, lease, std::move(done), who, std::move(part)});
}

void Mail::add_receiver(const AgentName& agent, Receiver receiver) {
  const auto most = kMaxWaitingReceivers + kMoreReceiversPerAgent * (config_.agents_per_pod - 1);
  if (waiting_receivers_ >= most) {
    return receiver.done(Error{
        Code::kFull, "more than " + std::to_string(most) + " receivers are waiting in this pod"});
  }
  if (hand_out(agent, receiver)) return schedule_work();
  if (receiver.deadline <= mono_now()) return receiver.done(no_message());
  arm(receiver.deadline);
  receivers_[agent].push_back(std::move(receiver));
  ++waiting_receivers_;
  schedule_work();
}

void Mail::ack(const AgentName& agent, const MessageId& id, std::uint16_t attempt,
               Milliseconds timeout, OnStatus done, const AgentName& from) {
  auto acked = box_.ack(mono_now(), agent, id, attempt, from);
  if (!acked) return done(acked.error());
  may_have_room_ = true;
  schedule_work();
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
  if (!over) {
    acks_[debt.inbox] = {now + timeout, done, debt.sender, debt.sender_log};
    arm(patience ? std::min(*patience, now + timeout) : now + timeout);
  }
  send_debt(debt);  // those from before have been sent, or are when there is a link
  mark_dirty(debt.sender);
  if (over) done({});
}

Status Mail::nack(const AgentName& agent, const MessageId& id, std::uint16_t attempt,
                  Milliseconds delay, const AgentName& from) {
  auto status = box_.nack(mono_now(), agent, id, attempt, delay, from);
  schedule_work();
  return status;
}

Status Mail::extend(const AgentName& agent, const MessageId& id, std::uint16_t attempt,
                    Milliseconds lease, const AgentName& from) {
  auto status = box_.extend(mono_now(), agent, id, attempt, lease, from);
  schedule_work();
  return status;
}

// ---- dead letters

Status Mail::end_dead(const AgentName& agent, const MessageId& id) {
  const auto purged = box_.purge(agent, id);
  if (!purged) return purged.error();
  may_have_room_ = true;
  if (purged->debt) {
    send_debt(*purged->debt);
    mark_dirty(purged->debt->sender);
  }
  return {};
}

Status Mail::purge(const AgentName& agent, const MessageId& id) {
  auto status = end_dead(agent, id);
  schedule_work();
  return status;
}

Status Mail::redrive(const AgentName& agent, const MessageId& id) {
  auto status = box_.redrive(agent, id);
  if (status) serve();
  schedule_work();
  return status;
}

Mail::Swept Mail::purge_all(const AgentName& agent) {
  const auto swept = sweep(agent, [&](const MessageId& id) { return end_dead(agent, id); });
  schedule_work();
  return swept;
}

Mail::Swept Mail::redrive_all(const AgentName& agent) {
  const auto swept = sweep(agent, [&](const MessageId& id) { return box_.redrive(agent, id); });
  serve();
  schedule_work();
  return swept;
}

Mail::Swept Mail::sweep(const AgentName& agent,
                        const std::function<Status(const MessageId&)>& each) {
  Swept swept;
  // One that fails must not keep those behind it from their turn: all are looked at.
  for (const auto& letter : box_.dead_letters(agent, box_.dead_letter_count(agent))) {
    if (swept.done >= kMaxDeadPerCall) break;
    ++(each(letter.id) ? swept.done : swept.failed);
  }
  swept.left = box_.dead_letter_count(agent);
  return swept;
}

// ---- frames

bool Mail::take(Session& session, const link::Frame& frame) {
  link::PayloadReader in(frame.payload);
  const auto& peer = session.peer();
  const bool is_mail = frame.type == FrameType::kMessage || frame.type == FrameType::kKeep ||
                       frame.type == FrameType::kRelease;
  if (is_mail && is_overtaken(session)) {
    session.close(unavailable("its mail comes over a younger link"));
    return true;
  }
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
      const auto waiting = sends_.find(sequence);
      const auto receiver = box_.receiver_of(sequence);
      bool waiting_too_long = waiting != sends_.end() && waiting->second.deadline <= mono_now();
      if (pod_of(receiver) != peer.name) {
        // Of no message of ours any more: it says nothing about anybody.
      } else if (answer == Answer::kFull) {
        auto& known = full_[receiver];
        known.backoff = grow(known.backoff, kFirstFullBackoff, kMaxFullBackoff);
        known.until = mono_now() + known.backoff;
        arm(known.until);
        known.ask = true;
        known.words = reason.substr(0, 200);
        if (waiting != sends_.end()) waiting->second.full = known.words;
      } else if (const auto known = full_.find(receiver);
                 known != full_.end() && answer == Answer::kStored) {
        known->second.backoff = Milliseconds{0};
        known->second.words.clear();
      }
      box_.on_answer(mono_now(), peer.name, peer.log_id, sequence, answer, reason.substr(0, 200));
      if (answer == Answer::kFull && config_.reject_when_full && waiting != sends_.end() &&
          box_.withdraw(sequence)) {
        // What was refused is gone: the next one may ask at once.
        full_.erase(receiver);
        box_.on_retry(receiver);
        finish(sequence, Error{Code::kFull, reason});
      } else if (box_.withdrawing(sequence) && waiting != sends_.end()) {
        waiting->second.deadline = mono_now();  // refused when its copy is released
        waiting_too_long = true;
      }
      collect();
      if (waiting_too_long) look_soon();
      may_have_room_ = true;
      mark_dirty(peer.name);
      return true;
    }
    case FrameType::kAcked: {
      const auto sequence = in.u64();
      if (in.done()) {
        crash_point("ack-received");
        if (box_.on_acked(peer.name, sequence)) {
          may_have_room_ = true;
          std::string payload;
          link::put_u64(payload, sequence);
          session.send(FrameType::kAckRecorded, payload);
          if constexpr (kCrashPoints) loop_.after_commit([] { crash_point("recorded-sent"); });
        } else if (box_.records_late()) {
          acked_by_[sequence] = session.weak_from_this();
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
        may_have_room_ = true;
        schedule_work();
      }
      return true;
    }
    case FrameType::kGrant:
      take_grant(session, frame);
      return true;
    case FrameType::kKeep:
      take_keep(session, frame);
      return true;
    case FrameType::kKept:
      take_kept(session, frame);
      return true;
    case FrameType::kRelease:
      take_release(session, frame);
      return true;
    case FrameType::kHandover:
      take_offer(session, frame);
      return true;
    case FrameType::kHanded:
      return take_handed(session, frame);
    default:
      return false;
  }
}

void Mail::take_grant(Session& session, const link::Frame& frame) {
  link::PayloadReader in(frame.payload);
  const auto what = in.u8();
  const auto number = in.u32();
  const auto stream = in.u8();
  if (!in.done() || what > kDeclined || number >= kMaxAgentsPerPod)
    return session.close(invalid("malformed GRANT"));
  const auto& peer = session.peer().name;
  if (what == kDeclined) {
    return decline(peer, agent_of(config_.name, number), stream);
  }
  const AgentName to = agent_of(peer, number);
  if (box_.on_grant(peer, to, stream)) return mark_dirty(peer);
  session.send(FrameType::kGrant, grant_payload(kDeclined, to, stream));
}

void Mail::send_grants(MonoTime now) {
  for (const auto& grant : box_.take_grants(now)) {
    if (grant.pod == config_.name && !blocked_.empty()) {
      may_have_room_ = true;
      schedule_work();
      continue;
    }
    const auto told = told_full_.find(grant.pod);
    const auto session = told == told_full_.end() ? nullptr : told->second.lock();
    if (session && session->up())
      session->send(FrameType::kGrant, grant_payload(kPlaceKept, grant.to, grant.stream));
    else
      decline(grant.pod, grant.to, grant.stream);
  }
}

// And to the next one that waits.
void Mail::decline(const AgentName& pod, const AgentName& to, std::uint8_t stream) {
  box_.on_declined(pod, to, stream);
  schedule_work();
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
  } else if (pod_of(out->message.to) != config_.name) {
    reason = "this pod is " + config_.name.value + ", not " + out->message.to.value;
  } else if (pod_of(out->message.from) != peer.name) {
    reason = "the sender's name is not the one of its pod";
  } else {
    const bool kept = !out->origin.log.empty();
    answer = kept ? box_.deliver_kept(mono_now(), peer.log_id, *out)
                  : box_.deliver(mono_now(), peer.log_id, sequence, prev, out->message);
    if (answer == Answer::kFull) {
      if (session.knows(link::kGrants))
        told_full_[peer.name] = session.weak_from_this();
      else
        box_.forget_waiting(peer.name);
      reason = box_.why_full(out->message);
      note_full(reason);
    } else if (answer == Answer::kRefused && !box_.is_local(out->message.to)) {
      reason = no_such_agent(config_, out->message.to);
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
    show(out->message);
    serve();
    schedule_work();
  }
}

void Mail::note_full(const std::string& why) {
  const auto now = mono_now();
  const bool was = !pressed(now).empty();
  refusals_.note(now, why);
  if (!was && !pressed(now).empty() && on_work) on_work();
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
  // Ours to send is what a predecessor has sent: it says so itself, or the receiver does.
  const auto& from = session.peer();
  const auto answer = !in.ok() || !offered        ? Answer::kRefused
                      : from.name == config_.name ? box_.adopt(from.log_id, *offered)
                                                  : take_back(from.name, from.log_id, *offered);
  std::string payload;
  link::put_u64(payload, sequence);
  link::put_u8(payload, static_cast<std::uint8_t>(answer));
  session.send(FrameType::kHanded, payload);
  if (answer == Answer::kStored) mark_dirty(pod_of(offered->message.to));
}

// A pod that was cut off and replaced may hold what its successor has read long ago. So who gives
// back must have been found under its name, by us; one that drains may have a successor since.
Answer Mail::take_back(const AgentName& giver, const LogId& from,
                       const mailbox::Outbound& returned) {
  if (pod_of(returned.message.from) == config_.name &&
      (pod_of(returned.message.to) == giver || config_.entrusts())) {
    const auto& known = peers_[giver];
    if (known.leads_to != from && known.led_to != from) {
      if (is_up(giver)) return Answer::kRefused;
      ensure(giver);
      return Answer::kFull;
    }
  }
  return box_.take_back(giver, returned);
}

// ---- what lost pods have left here

// A pod that lives keeps its link here until it knows of every ack.
void Mail::look_for_lost(MonoTime now) {
  if (!links_changed_ && unlinked_.empty()) return;
  if (now < lost_due_) return arm(lost_due_);
  lost_due_ = now + kLostCheck;
  links_changed_ = false;
  missing_.clear();
  std::map<LogId, MonoTime> still;
  std::map<AgentName, std::set<LogId>> lost;
  auto senders = box_.senders();
  for (auto& [name, logs] : box_.guarded()) senders[name].insert(logs.begin(), logs.end());
  for (const auto& [name, logs] : senders) {
    for (const auto& log : logs) {
      if (!may_be_lost(name, log)) continue;
      const auto since = unlinked_.try_emplace(log, now).first->second;
      still[log] = since;
      missing_[name].insert(log);
      if (now - since >= kLostAfter) lost[name].insert(log);
    }
  }
  unlinked_ = std::move(still);
  bereft_.clear();
  for (const auto& [name, logs] : lost) bereft_.insert(name);
  // Of a name that is gone for ever there is no second copy to wait for.
  std::erase_if(lost, [&](const auto& one) {
    if (!is_gone(one.first, now)) return false;
    if (silent_.at(one.first).ends_wards(now)) give_up_wards(one.first, one.second);
    return true;
  });
  box_.set_lost(lost);
  if (!unlinked_.empty()) arm(lost_due_);
}

void Mail::give_up_wards(const AgentName& name, const std::set<LogId>& logs) {
  std::size_t count = 0;
  for (const auto& log : logs) count += box_.wards_of(log).size();
  if (count == 0) return;
  box_.forget_wards(name, logs);
  telemetry::warn("copies are given up: nobody has had their sender's name for too long",
                  {{"name", name.value}, {"messages", count}});
}

bool Mail::may_be_lost(const AgentName& name, const LogId& log) const {
  if (session_with(log)) return false;
  // We closed its link: it is well, unless its name lives elsewhere.
  return !parted_.contains(log) || (is_up(name) && peers_.at(name).session->peer().log_id != log);
}

std::size_t Mail::to_give_back() const {
  std::size_t count = 0;
  for (const auto& [name, logs] : missing_) {
    if (is_gone(name, mono_now())) continue;
    const auto peer = peers_.find(name);
    if (peer != peers_.end() && peer->second.returns.unheard >= kMaxUnheardOffers) continue;
    const std::size_t unreturned = box_.unreturned(name, logs);
    const auto silence = silent_.find(name);
    if (silence == silent_.end() || !silence->second.patience_ends()) {
      count += unreturned;
      continue;
    }
    // Nobody has the name now. Copies of others are kept for just that, so it is waited for.
    std::size_t wards = 0;
    for (const auto& log : logs) wards += box_.wards_of(log).size();
    count += std::min(unreturned, wards);
  }
  return count;
}

// One batch at a time: ordinary mail goes first.
void Mail::give_back(const AgentName& name) {
  if (!bereft_.contains(name) || !is_up(name)) return;
  auto& peer = peers_.at(name);
  const auto session = peer.session;
  auto& returns = peer.returns;
  const auto now = mono_now();
  if (returns.to != session->peer().log_id) {
    returns = {};
    returns.to = session->peer().log_id;
  }
  if (returns.under_way > 0 || returns.unheard >= kMaxUnheardOffers) return;
  if (now < returns.at) return arm(returns.at);
  if (session->queued_bytes() >= kLinkWindowBytes) return arm(now + kWindowCheck);
  const bool had_room = returns.wait == Milliseconds{0};
  const auto batch = box_.give_back(name, returns.to, had_room ? kGiveBackBytes : 1);
  returns.under_way = batch.size();
  returns.taken = returns.full = false;
  // Not before somebody else may count as lost is there more.
  if (batch.empty()) returns.at = now + kLostCheck;
  for (const auto& out : batch) session->send(FrameType::kHandover, payload_of(out));
}

// false: it has nothing to answer on this link.
bool Mail::take_handed(Session& session, const link::Frame& frame) {
  const auto& name = session.peer().name;
  const auto peer = peers_.find(name);
  if (peer == peers_.end() || peer->second.session.get() != &session) return false;
  link::PayloadReader in(frame.payload);
  const auto sequence = in.u64();
  const auto answer = in.u8();
  if (!in.done() || answer > static_cast<std::uint8_t>(Answer::kRefused)) {
    session.close(invalid("malformed HANDED"));
    return true;
  }
  auto& returns = peer->second.returns;
  returns.unheard = 0;
  if (returns.under_way > 0) --returns.under_way;
  const auto said = static_cast<Answer>(answer);
  box_.on_given_back(name, sequence, said);
  returns.taken = returns.taken || said <= Answer::kDuplicate || said == Answer::kFinished;
  returns.full = returns.full || said == Answer::kFull;
  if (returns.taken) returns.wait = Milliseconds{0};
  if (said == Answer::kGap) returns.at = mono_now() + kGiveBackAgain;
  if (returns.under_way > 0) return true;
  if (returns.full) {
    returns.wait = grow(returns.wait, kGiveBackAgain, kMostGiveBackWait);
    returns.at = mono_now() + returns.wait;
  }
  give_back(name);
  return true;
}

void Mail::session_up(const std::shared_ptr<Session>& session) {
  auto& sessions = by_log_[session->peer().log_id];
  std::erase_if(sessions, [](const auto& known) { return known.session.expired(); });
  sessions.push_back({session});
  silent_.erase(session->peer().name);
  strangers_.erase(session->peer().log_id);
  links_changed_ = true;
  if (!box_.wards_of(session->peer().log_id).empty())
    untold_.try_emplace(session->peer().log_id, mono_now());
  send_debts(session->peer().name);
  look_soon();
}

// A sender has one link for its mail, which it has made. What is still on its way over one that it
// has given up comes after the answers on the next: it may have told its agent "full" by then.
// (RELEASE comes also as an answer, over a link of ours: that one says nothing of its others.)
bool Mail::is_overtaken(Session& session) {
  const auto sessions = by_log_.find(session.peer().log_id);
  if (!session.accepted() || sessions == by_log_.end()) return false;
  const auto known =
      std::find_if(sessions->second.begin(), sessions->second.end(),
                   [&](const Known& one) { return one.session.lock().get() == &session; });
  if (known == sessions->second.end()) return false;
  for (auto before = sessions->second.begin(); before != known; ++before) before->overtaken = true;
  return known->overtaken;
}

void Mail::session_down(Session& session) {
  if (const auto told = told_full_.find(session.peer().name);
      told != told_full_.end() && told->second.lock().get() == &session) {
    const auto other = session_with(session.peer().log_id);
    if (other && other.get() != &session && other->knows(link::kGrants)) {
      told->second = other;
    } else {
      told_full_.erase(told);
      box_.forget_waiting(session.peer().name);
    }
  }
  const auto found = by_log_.find(session.peer().log_id);
  if (found == by_log_.end()) return;
  links_changed_ = true;
  std::erase_if(found->second, [&](const auto& known) {
    const auto live = known.session.lock();
    return !live || live.get() == &session;
  });
  if (found->second.empty()) {
    by_log_.erase(found);
  } else {  // what went out on this one may not have arrived
    send_debts(session.peer().name);
    if (!box_.wards_of(session.peer().log_id).empty())
      untold_.try_emplace(session.peer().log_id, mono_now());
  }
  look_soon();
}

std::shared_ptr<Session> Mail::session_with(const LogId& log) const {
  const auto found = by_log_.find(log);
  if (found == by_log_.end()) return nullptr;
  for (auto it = found->second.rbegin(); it != found->second.rend(); ++it) {
    if (auto live = it->session.lock(); live && live->up()) return live;
  }
  return nullptr;
}

bool Mail::is_up(const AgentName& name) const {
  const auto peer = peers_.find(name);
  return peer != peers_.end() && peer->second.session && peer->second.session->up();
}

bool Mail::is_gone(const AgentName& name, MonoTime now) const {
  const auto silence = silent_.find(name);
  return silence != silent_.end() && silence->second.gone(now);
}

bool Mail::hears_debts(const AgentName& name) const {
  const auto debts = box_.ack_debts(name);
  return std::any_of(debts.begin(), debts.end(),
                     [&](const auto& debt) { return session_with(debt.sender_log) != nullptr; });
}

void Mail::look_again() {
  for (auto& [name, peer] : peers_) peer.retry_at = {};
  look_soon();
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
  if (peer.session || peer.connecting || peer.locating || name == config_.name) return;
  if (now < peer.retry_at) return arm(peer.retry_at);
  make_room_for(name);
  peer.locating = true;
  locate_(name, [this, name, alive = alive_](Result<Location> where) {
    if (!*alive) return;
    auto& found = peers_[name];
    found.locating = false;
    if (!where) return peer_failed(name, where.error(), false);
    if (found.leads_to != where->expect.log_id)
      found.led_to = std::exchange(found.leads_to, where->expect.log_id);
    boost::system::error_code bad;
    const auto address = boost::asio::ip::make_address(where->address, bad);
    if (bad) return peer_failed(name, invalid("not an address: " + where->address), true);
    Session::Events events;
    events.ready = [this, name, alive](Session& session) {
      if (!*alive) return;
      auto& ready = peers_[name];
      ready.session = session.shared_from_this();
      ready.connecting.reset();
      ready.backoff = Milliseconds{0};
      for (auto& [agent, full] : full_) {
        if (pod_of(agent) == name) full.until = {};
      }
      ready.last_used = mono_now();
      ready.node = session.peer().node;
      ready.last_error.clear();
      const auto& log_id = session.peer().log_id;
      box_.on_incarnation(name, log_id);
      box_.on_link_up(mono_now(), name, log_id, ready.node == config_.node);
      session_up(ready.session);
      if (name == custodian_.name) custodian_up(session);
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
      const bool was_up = gone.session != nullptr;
      if (was_up) box_.on_link_down(name);
      if (std::exchange(gone.returns.under_way, 0) > 0) ++gone.returns.unheard;
      gone.session.reset();
      gone.connecting.reset();
      if (was_up) custodian_down(name);  // a connect that fails begins no new absence
      peer_failed(name, why, true);
    };
    found.connecting =
        Session::connect(loop_, {address, where->port}, options_, where->expect, std::move(events));
  });
}

// More than kMaxPeerLinks names may be needed, and each keeps its place: one that is looked for
// would be looked for at once again.
void Mail::make_room_for(const AgentName& name) {
  const auto now = mono_now();
  for (auto it = peers_.begin(); it != peers_.end() && peers_.size() > kMaxPeerLinks;) {
    const Peer& peer = it->second;
    const bool idle = it->first != name && !peer.session && !peer.connecting && !peer.locating &&
                      peer.retry_at <= now && !needed_.contains(it->first);
    it = idle ? peers_.erase(it) : std::next(it);
  }
}

void Mail::peer_failed(const AgentName& name, const Error& why, bool found) {
  auto& peer = peers_[name];
  const auto now = mono_now();
  const bool mail = !box_.destinations(name).empty() || name == custodian_.name;
  const auto most = mail ? kMaxBackoff : is_gone(name, now) ? kLookPeriod : kMaxDebtBackoff;
  peer.backoff = grow(peer.backoff, kFirstBackoff, most);
  peer.retry_at = now + peer.backoff;
  peer.last_error = why.message;
  if (!hears_debts(name)) {  // else it is told on its own link
    auto& silence = silent_[name];
    silence.failed(now, found ? Code::kUnknown : why.code);
    if (silence.gone(now)) settle(box_.on_gone(name));
  }
  if (name == custodian_.name && !custodian_.met) pass_over(why);
  look_soon();
}

void Mail::pump(const AgentName& pod) {
  auto& peer = peers_[pod];
  if (!peer.session || !peer.session->up()) return;
  const auto now = mono_now();
  // Its agents take turns: a large outbox for one of them must not keep the link from the others.
  auto agents = box_.destinations(pod);
  std::rotate(agents.begin(), std::upper_bound(agents.begin(), agents.end(), peer.served),
              agents.end());
  for (bool more = true; std::exchange(more, false);) {
    for (const auto& agent : agents) {
      if (const auto full = full_.find(agent); full != full_.end()) {
        if (now < full->second.until)
          arm(full->second.until);
        else if (std::exchange(full->second.ask, false))
          box_.on_retry(agent);
      }
      if (peer.session->queued_bytes() >= kLinkWindowBytes) return arm(now + kWindowCheck);
      const auto batch = box_.transmit(agent, 64U << 10U);
      if (batch.empty()) continue;
      more = true;
      peer.served = agent;
      peer.last_used = now;
      for (const auto& out : batch) {
        if (const auto waiting = sends_.find(out.sequence); waiting != sends_.end())
          waiting->second.transmitted = true;
        peer.session->send(FrameType::kMessage, payload_of(out));
        if constexpr (kCrashPoints) loop_.after_commit([] { crash_point("message-sent"); });
      }
      if (!peer.session || !peer.session->up()) return;
    }
  }
  if (peer.session->queued_bytes() >= kLinkWindowBytes) arm(now + kWindowCheck);
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
  waiting.done(std::move(result));
}

const char* Mail::shared_with(const AgentName& to) const {
  const auto peer = peers_.find(pod_of(to));
  if (peer == peers_.end() || peer->second.node.empty()) return "pod";
  return peer->second.node != config_.node || config_.entrusts() ? "node" : "pod";
}

void Mail::collect() {
  for (auto& outcome : box_.take_outcomes()) {
    if (outcome.error) {
      finish(outcome.sequence, *outcome.error);
    } else {
      finish(outcome.sequence,
             Accepted{outcome.id, outcome.local ? alone() : shared_with(outcome.to), false,
                      std::nullopt});
    }
  }
}

void Mail::serve() {
  for (const auto& agent : box_.take_ready()) serve(agent);
}

void Mail::serve(const AgentName& agent) {
  const auto waiting = receivers_.find(agent);
  if (waiting == receivers_.end()) return;
  auto& receivers = waiting->second;
  for (auto it = receivers.begin(); it != receivers.end();) {
    if (!hand_out(agent, *it)) {
      ++it;
      continue;
    }
    it = receivers.erase(it);
    --waiting_receivers_;
  }
  if (receivers.empty()) receivers_.erase(waiting);
}

bool Mail::hand_out(const AgentName& agent, Receiver& receiver) {
  const auto& part = receiver.part;
  auto delivery = part ? box_.receive_part(mono_now(), agent, receiver.lease, part->from,
                                           part->stream, part->part)
                       : box_.receive(mono_now(), agent, receiver.lease, receiver.in_reply_to);
  if (delivery && !*delivery) return false;
  if (delivery)
    receiver.done(**std::move(delivery));
  else
    receiver.done(delivery.error());
  return true;
}

void Mail::work() {
  const auto now = mono_now();
  if (now >= due_) end_late_blocked(now);
  if (may_have_room_ || now >= due_) retry_blocked();
  (void)box_.tick(now);
  if (!acked_by_.empty()) record_released();
  serve();
  send_grants(now);
  if (now >= due_)
    look_at_all(now);
  else
    pump_dirty();
  collect();
  if (const auto next = box_.next_deadline()) arm(*next);
  if (box_.has_ready()) arm(now + kLookAgain);
  if (on_work) on_work();
}

void Mail::pump_dirty() {
  for (const auto& name : std::exchange(dirty_, {})) {
    ensure(name);
    pump(name);
  }
  look_after_copies(mono_now());
}

void Mail::look_at_all(MonoTime now) {
  dirty_.clear();
  due_ = now + kLookPeriod;
  for (auto of = receivers_.begin(); of != receivers_.end();) {
    for (auto it = of->second.begin(); it != of->second.end();) {
      if (it->deadline > now) {
        ++it;
        continue;
      }
      auto done = std::move(it->done);
      it = of->second.erase(it);
      --waiting_receivers_;
      done(no_message());
    }
    of = of->second.empty() ? receivers_.erase(of) : std::next(of);
  }

  std::set<AgentName> needed;
  for (auto& name : box_.destinations()) needed.insert(pod_of(name));
  for (auto& name : box_.ack_creditors()) needed.insert(name);
  look_for_lost(now);
  needed.insert(bereft_.begin(), bereft_.end());
  if (!custodian_.name.empty() && box_.needs_custodian()) needed.insert(custodian_.name);
  needed_ = needed;
  for (const auto& name : needed) {
    ensure(name);
    pump(name);
    give_back(name);
  }
  for (auto& [name, peer] : peers_) {
    if (peer.session && !needed.contains(name) && now - peer.last_used > kIdleLinkLimit) {
      peer.session->close(unavailable("idle"));
    }
  }
  collect();
  end_late_sends(now);
  look_after_copies(now);  // and sends what those have to have released
  settle_strangers(now);
  end_late_acks(now);
  std::erase_if(silent_, [&](const auto& silence) { return !needed.contains(silence.first); });
  std::erase_if(full_, [&](const auto& full) {
    return now - full.second.until > kIdleLinkLimit && !needed.contains(pod_of(full.first));
  });
  arm_for_all(now);
}

void Mail::end_late_sends(MonoTime now) {
  std::vector<log::Sequence> late;
  for (const auto& [sequence, waiting] : sends_) {
    if (waiting.deadline <= now) late.push_back(sequence);
  }
  for (const auto sequence : late) {
    const auto& waiting = sends_.at(sequence);
    const std::string to = waiting.to.value;
    const bool copy = box_.waits_for_custodian(sequence);
    if (!box_.withdraw(sequence)) {
      // On its way: the answer says more than "unknown".
      if (now < waiting.deadline + kLastAnswer &&
          (is_up(pod_of(waiting.to)) || box_.withdrawing(sequence)))
        continue;
      finish(sequence, Error{Code::kUnknown,
                             "no answer from " + to +
                                 "'s pod in time; the message may be delivered. Repeat with --id " +
                                 waiting.id.value + " to find out"});
    } else if (!waiting.full.empty()) {
      finish(sequence, Error{Code::kFull, waiting.full});
    } else if (const auto full = full_.find(waiting.to);
               full != full_.end() && !full->second.words.empty() && is_up(pod_of(waiting.to))) {
      finish(sequence, Error{Code::kFull, full->second.words});  // it has waited behind one that
                                                                 // was refused
    } else if (copy && custodian_.failed) {
      finish(sequence, no_custodian());
    } else {
      const auto& error = peers_[pod_of(waiting.to)].last_error;
      finish(sequence,
             unavailable(to + " can't be reached now" + (error.empty() ? "" : " (" + error + ")") +
                         "; nothing was sent"));
    }
  }
}

void Mail::end_late_acks(MonoTime now) {
  std::vector<log::Sequence> of_absent;
  std::vector<std::pair<OnStatus, Error>> late;
  for (auto it = acks_.begin(); it != acks_.end();) {
    auto& wait = it->second;
    const auto patience = patience_ends(wait.sender, wait.creditor, now);
    if (patience && *patience <= now) {
      of_absent.push_back(it->first);
    } else if (wait.deadline <= now) {
      late.emplace_back(
          std::move(wait.done),
          Error{Code::kUnknown, "acknowledged here, and it does not come again from this pod; " +
                                    wait.sender.value + "'s pod has not recorded it yet"});
      it = acks_.erase(it);
      continue;
    }
    ++it;
  }
  for (const auto inbox : of_absent) settle(inbox);
  for (auto& [done, why] : late) done(why);
}

void Mail::schedule_work() {
  if (work_scheduled_) return;
  work_scheduled_ = true;
  loop_.before_commit([this, alive = alive_] {
    if (!*alive) return;
    work_scheduled_ = false;
    work();
  });
}

void Mail::mark_dirty(const AgentName& name) {
  dirty_.insert(name);
  schedule_work();
}

void Mail::look_soon() {
  due_ = {};
  schedule_work();
}

void Mail::arm(MonoTime at) {
  if (at >= due_) return;
  due_ = at;
  timer_.expires_at(at);
  timer_.async_wait([this, alive = alive_](boost::system::error_code e) {
    if (!e && *alive) schedule_work();
  });
}

void Mail::arm_for_all(MonoTime now) {
  MonoTime next = now + kLookPeriod;
  const auto sooner = [&](MonoTime t) { next = std::min(next, t); };
  if (const auto t = box_.next_deadline()) sooner(*t);
  for (const auto& [sequence, waiting] : sends_)
    sooner(waiting.deadline > now ? waiting.deadline : waiting.deadline + kLastAnswer);
  for (const auto& [to, queue] : blocked_) {
    for (const auto& one : queue) sooner(one.deadline);
  }
  if (!blocked_.empty()) sooner(now + kRoomCheck);
  for (const auto& [inbox, wait] : acks_) {
    sooner(wait.deadline);
    if (const auto ends = patience_ends(wait.sender, wait.creditor, now)) sooner(*ends);
  }
  for (const auto& [agent, receivers] : receivers_) {
    for (const auto& receiver : receivers) sooner(receiver.deadline);
  }
  sooner(due_);  // what was found while looking
  due_ = MonoTime::max();
  arm(std::max(next, now + Milliseconds{1}));
}

}  // namespace swarm::engine
