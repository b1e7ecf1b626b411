// The mailbox: messages as bytes from another pod, records in its log that nobody here wrote, and
// then agents and pods that say anything in any order. Its books balance, a restart changes nothing
// that was told, and everything in the inbox can be taken out.
#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "input.h"
#include "log/bytes.h"
#include "mailbox/mailbox.h"
#include "mailbox/records.h"
#include "sim/fake_directory.h"

namespace swarm::mailbox {
namespace {

using fuzz::Input;
using log::State;

constexpr std::uint32_t kSegment = 4096;
constexpr std::uint64_t kLogBytes = 32 * kSegment;
constexpr std::size_t kMaxRecords = 24, kMaxSteps = 128;
constexpr Limits kLimits{.max_inbox_messages = 6,
                         .max_outbox_messages = 4,
                         .max_message_bytes = 1024,
                         .max_attempts = 2,
                         .max_user_ids = 6,
                         .user_id_ttl = Milliseconds{60'000},
                         .max_streams = 6,
                         .max_wards = 6};
constexpr std::array kNames{"worker-0",   "worker-1",   "worker-2",  "coordinator-0",
                            "worker-0.1", "worker-0.2", "worker-1.2"};
constexpr std::uint32_t kAgents = 2;  // of worker-0; its third one is in the log only
constexpr std::array kOurs{"worker-0", "worker-0.1", "worker-0.2"};
constexpr std::array kIds{"a", "b", "c", "m-0123456789abcdef", "m-fedcba9876543210", "d.e"};
constexpr std::array kStates{State::kLive, State::kTaken, State::kTaken, State::kDead};

AgentName name(Input& in) { return {kNames[in.below(kNames.size())]}; }
AgentName one_of_ours(Input& in) { return {kOurs[in.below(kOurs.size())]}; }
MessageId message_id(Input& in) { return {kIds[in.below(kIds.size())]}; }
LogId log_id(Input& in) {  // of a pod; zeros: of none
  LogId id;
  id.bytes.fill(static_cast<std::uint8_t>(in.below(4)));
  return id;
}

Message message(Input& in) {
  Message m;
  m.id = message_id(in);
  m.from = name(in);
  m.to = name(in);
  m.priority = static_cast<Priority>(in.below(kPriorities));
  m.sent_at = in.number<std::int16_t>();
  if (in.below(4) == 0) m.in_reply_to = message_id(in);
  m.wants_reply = in.below(4) == 0;
  if (in.below(4) == 0) {
    m.stream = {message_id(in), static_cast<std::uint32_t>(in.below(4)),
                static_cast<StreamPart::Mark>(in.below(3))};
    if (in.below(8) != 0) {  // mostly one that is possible
      m.stream->part |= 1U;
      m.priority = Priority::kNormal;
      m.in_reply_to = {};
      m.wants_reply = false;
    }
  }
  m.body = std::string(in.below(8) == 0 ? 600 : in.below(4), 'x');
  return m;
}

Outbound outbound(Input& in) {
  const Sequence sequence = in.below(8), prev = in.below(8);
  Message m = message(in);
  const LogId origin = log_id(in);
  return {sequence, prev, std::move(m), {origin, in.below(8)}};
}

// As docs/log-format.md has them.
std::string record(Input& in, std::uint8_t kind) {
  if (in.below(8) == 0) return std::string(in.text(128));
  const auto log = log_id(in);
  const std::string log_bytes(log.bytes.begin(), log.bytes.end());
  std::string out;
  switch (kind) {
    case kOutbox: {
      const Message m = message(in);
      // Of no byte of its own: inputs mean what they did.
      const auto number = static_cast<std::uint16_t>(m.sent_at);
      return number % 2 == 0 ? encode(m) : encode_shared(number / 2 % kMaxRecords, m);
    }
    case kInbox:
      out = log_bytes;
      log::put(out, std::uint64_t{in.below(8)});
      return out + encode(message(in));
    case kKept:
    case kWard:
      out = log_bytes;
      log::put(out, std::uint64_t{in.below(8)});
      return out + encode(outbound(in));
    case kCursor: {
      const std::string from = name(in).value;
      out = log_bytes;
      log::put(out, in.below(4) == 0 ? in.wild() : in.below(8));
      const auto agent = static_cast<std::uint16_t>(in.below(4));
      log::put(out, static_cast<std::uint8_t>(in.below(7) | (agent != 0 ? 0x80U : 0U)));
      log::put(out, static_cast<std::uint8_t>(from.size()));
      if (agent != 0) log::put(out, agent);
      return out + from;
    }
    default: {
      const std::string peer = name(in).value, id = message_id(in).value;
      const auto agent = static_cast<std::uint16_t>(in.below(4));
      log::put(out, static_cast<std::uint8_t>(in.below(5) | (agent != 0 ? 0x80U : 0U)));
      log::put(out, static_cast<std::uint8_t>(peer.size()));
      log::put(out, static_cast<std::uint8_t>(id.size()));
      if (agent != 0) log::put(out, agent);
      return out + peer + id;
    }
  }
}

// What a message is to those who look: it may be handed out, is dead, or is on its way.
using Seen = std::multiset<std::tuple<MessageId, AgentName, AgentName, int, std::uint32_t>>;

class World {
 public:
  explicit World(Input& in) : in_(in) {
    limits_.entrust = in.below(2) == 0;
    open(nullptr);
    for (std::size_t records = in.below(kMaxRecords); records > 0; --records) {
      auto kind = static_cast<std::uint8_t>(in.below(7));
      std::string bytes = record(in, kind);
      if (kind == 0) {
        kind = kBody;
        bytes = std::string(bytes.size() % 2 == 0 ? 600 : bytes.size() % 4, 'x');
      }
      const auto sequence = log_->append(kind, bytes);
      check(sequence.ok(), "there is room");
      const State state = kStates[in.below(kStates.size())];
      constexpr std::array<std::uint16_t, 4> kBits{0, 0, 0x8000, 0xC000};
      const auto attempt = static_cast<std::uint16_t>(
          kBits[in.below(4)] | (in.below(8) == 0 ? in.number<std::uint16_t>() : in.below(4)));
      check(log_->mark(*sequence, state, attempt).ok(), "a mark");
    }
    start();
  }

  void step() {
    switch (in_.below(19)) {
      case 0:
      case 1: {
        Message m = message(in_);
        m.from = one_of_ours(in_);
        const auto sent = box_->send(now_, m, static_cast<std::uint64_t>(m.sent_at) % 3);
        if (sent && !sent->already && in_.below(4) == 0) (void)box_->withdraw(sent->sequence);
        break;
      }
      case 2:
      case 3: {
        Message m = message(in_);
        if (in_.below(8) != 0) m.to = one_of_ours(in_);
        const auto before = box_->books().inbox_live;
        const auto log = log_id(in_);
        const Sequence sequence = in_.below(8);
        const Sequence prev = in_.below(4) != 0 ? 0 : in_.below(8);
        const auto answer = box_->deliver(now_, log, sequence, prev, m);
        check(answer == Answer::kStored || box_->books().inbox_live == before,
              "only what is stored is in the inbox");
        break;
      }
      case 4:
      case 5: {
        if (in_.below(4) == 0) {
          const auto part =
              box_->receive_part(now_, agent(), Milliseconds{in_.below(4) * 1000}, name(in_),
                                 message_id(in_), static_cast<std::uint32_t>(in_.below(4)));
          if (part && *part) taken_ = {(*part)->message.id, (*part)->attempt};
          break;
        }
        const bool reply = in_.below(4) == 0;
        const auto got = box_->receive(now_, agent(), Milliseconds{in_.below(4) * 1000},
                                       reply ? std::optional(message_id(in_)) : std::nullopt);
        if (got) taken_ = {got->message.id, got->attempt};
        break;
      }
      case 6:
        if (auto acked = box_->ack(now_, agent(), which(), taken_.second, whose());
            acked && acked->debt)
          recorded(*acked->debt);
        break;
      case 7:
        (void)box_->nack(now_, agent(), which(), taken_.second, Milliseconds{in_.below(3) * 1000},
                         whose());
        break;
      case 8:
        (void)box_->extend(now_, agent(), which(), taken_.second, Milliseconds{in_.below(3) * 1000},
                           whose());
        break;
      case 9:
        link(name(in_), log_id(in_));
        break;
      case 10:
        answer(name(in_), log_id(in_));
        break;
      case 11: {
        const auto id = message_id(in_);
        if (in_.below(2) == 0)
          (void)box_->redrive(agent(), id);
        else if (auto purged = box_->purge(agent(), id); purged && purged->debt)
          recorded(*purged->debt);
        break;
      }
      case 12:
        in_.below(2) == 0 ? (void)box_->await_reply(agent(), message_id(in_))
                          : box_->forget_reply(agent(), message_id(in_));
        break;
      case 13:
        now_ += Milliseconds{in_.below(4) * 30'000};
        box_->tick(now_);
        break;
      case 14:
        forget(name(in_), log_id(in_));
        break;
      case 15:
        in_.below(4) == 0 ? restart() : custody(name(in_), log_id(in_));
        break;
      case 16:
        guard(log_id(in_));
        break;
      default:
        entrust(log_id(in_));
    }
    balance();
  }

  // What is in the inbox after a restart is there, and whoever takes and acknowledges all of it has
  // an empty one.
  void finish() {
    restart();
    now_ += Milliseconds{3'600'000};
    std::size_t left = 8 * all().size() + 1;  // each at most max_attempts times
    // Twice: what has used all its attempts becomes a dead letter when it is asked for.
    while (take_one() || take_one()) {
      check(--left > 0, "the inbox gets empty");
      balance();
    }
    check(box_->books().inbox_live == 0, "nothing is hidden in the inbox");
    restart();
  }

 private:
  void open(Mailbox* box) {
    LogId id;
    id.bytes.fill(9);
    auto opened = log::Log::open(
        directory_, {.max_bytes = kLogBytes, .segment_bytes = kSegment}, id,
        [&](const log::Record& r) {
          if (box != nullptr) box->restore(r);
        },
        nullptr);
    check(opened.ok(), "the log opens");
    log_ = *std::move(opened);
  }
  void start() {
    check(!log_ || log_->commit().ok(), "commit");
    box_.reset();
    log_.reset();
    box_ = std::make_unique<Mailbox>(AgentName{kNames[0]}, limits_, kAgents);
    open(box_.get());
    box_->attach(*log_, now_);
    balance();
  }
  void restart() {
    const Seen before = seen();
    const auto wards = box_->books().wards;
    start();
    check(seen() == before && box_->books().wards == wards, "a restart changes no message");
  }

  [[nodiscard]] Seen seen() const {
    Seen out;
    for (const auto& m : all()) {
      const int where = m.where == Summary::Where::kDead       ? 0
                        : m.where == Summary::Where::kOutgoing ? 1
                                                               : 2;
      const AgentName& ours = m.where == Summary::Where::kOutgoing ? m.from : m.to;
      const auto looked = box_->look(ours, m.id);
      check(looked.ok() ||
                (m.where == Summary::Where::kOutgoing && looked.error().code == Code::kCorrupt),
            "what is listed can be looked at, but for a body that is not there");
      out.insert({m.id, m.from, m.to, where, m.bytes});
    }
    return out;
  }
  void balance() const {
    const auto books = box_->books();
    std::size_t dead = 0, outgoing = 0;
    const auto listed = all();
    for (const auto& m : listed) {
      dead += m.where == Summary::Where::kDead ? 1 : 0;
      outgoing += m.where == Summary::Where::kOutgoing ? 1 : 0;
    }
    check(dead == books.dead_live && outgoing == books.outbox_live &&
              listed.size() == dead + outgoing + books.inbox_live,
          "the books are right");
    std::size_t wards = 0;
    for (const auto& [pod, logs] : box_->guarded()) {
      for (const LogId& log : logs) wards += box_->wards_of(log).size();
    }
    check(wards == books.wards && wards <= kMaxRecords + limits_.max_wards,
          "what is kept for others is counted");
    std::size_t letters = 0;
    for (const char* ours : kOurs) letters += box_->dead_letters({ours}, listed.size()).size();
    check(letters == dead, "dead letters are all listed");
    for (const auto& creditor : box_->ack_creditors())
      check(!box_->ack_debts(creditor).empty(), "a creditor is owed something");
    for (const auto& to : box_->destinations())
      check(outgoing > 0 && !to.empty(), "a destination has something to get");
  }

  // Takes and acknowledges a message, or ends a part that the rest of its stream waits for.
  bool take_one() {
    for (const char* ours : kOurs) {
      if (const auto got = box_->receive(now_, {ours}, Milliseconds{1000}, std::nullopt))
        return end(*got);
    }
    for (const auto& m : all()) {
      if (!m.stream || m.where == Summary::Where::kOutgoing) continue;
      const auto got = box_->receive_part(now_, m.to, Milliseconds{1000}, m.from, m.stream->stream,
                                          m.stream->part);
      if (got && *got) return end(**got);
      if (m.where == Summary::Where::kDead) {
        const auto purged = box_->purge(m.to, m.id);
        check(purged.ok(), "a dead letter can be purged");
        if (purged->debt) box_->on_ack_recorded(purged->debt->inbox);
        return true;
      }
    }
    return false;
  }
  bool end(const Delivery& got) {
    check(got.attempt > 0, "attempts count from 1");
    const auto acked =
        box_->ack(now_, got.message.to, got.message.id, got.attempt, got.message.from);
    check(acked.ok(), "who was handed a message can acknowledge it");
    if (acked->debt) box_->on_ack_recorded(acked->debt->inbox);
    return true;
  }

  std::vector<Summary> all() const {
    std::vector<Summary> out;
    for (const char* ours : kOurs) {
      auto listed = box_->list({ours});
      out.insert(out.end(), listed.begin(), listed.end());
    }
    return out;
  }
  AgentName agent() { return one_of_ours(in_); }
  AgentName whose() { return in_.below(2) == 0 ? AgentName{} : name(in_); }
  MessageId which() { return in_.below(2) == 0 ? taken_.first : message_id(in_); }
  void recorded(const AckDebt& debt) {
    if (in_.below(2) == 0) box_->on_ack_recorded(debt.inbox);
  }
  void link(const AgentName& to, const LogId& log) {
    if (in_.below(4) == 0) {
      box_->on_link_down(to);
    } else {
      box_->on_link_up(now_, to, log, in_.below(2) == 0);
    }
    const auto batch = box_->transmit(to, in_.below(4096));
    if (!batch.empty()) sent_ = batch.back().sequence;
  }
  void answer(const AgentName& to, const LogId& log) {
    const auto sequence = in_.below(2) == 0 ? sent_ : in_.below(64);
    if (in_.below(4) == 0)
      (void)box_->on_acked(to, sequence);
    else
      box_->on_answer(now_, to, log, sequence, static_cast<Answer>(in_.below(6)), "because");
    if (in_.below(4) == 0) box_->on_retry(to);
    (void)box_->take_outcomes();
  }
  void forget(const AgentName& who, const LogId& log) {
    switch (in_.below(3)) {
      case 0:
        (void)box_->on_gone(who);
        break;
      case 1:
        (void)box_->on_former(who, log);
        break;
      default:
        (void)box_->on_incarnation(who, log);
    }
  }

  void custody(const AgentName& pod, const LogId& log) {
    if (in_.below(2) != 0) {
      box_->set_lost({{pod, {log_id(in_), log_id(in_)}}});
      for (const auto& out : box_->give_back(pod, log, in_.below(4096)))
        box_->on_given_back(pod, out.sequence, static_cast<Answer>(in_.below(6)));
      return;
    }
    // As it comes over a link: what nobody understands does not get this far.
    const Outbound out = outbound(in_);
    const auto decoded = decode_outbound(out.sequence, out.prev, encode(out));
    if (!decoded) return;
    const auto before = box_->books().outbox_live;
    const bool stored = (in_.below(2) == 0 ? box_->take_back(pod, *decoded)
                                           : box_->adopt(log, *decoded)) == Answer::kStored;
    check(box_->books().outbox_live == before + (stored ? 1 : 0), "only what is kept is there");
  }

  // What others entrust to us.
  void guard(const LogId& log) {
    const auto before = box_->books().wards;
    if (in_.below(4) == 0) {
      const Sequence sequence = in_.below(8);
      box_->release(log, sequence);
      const auto left = box_->wards_of(log);
      check(std::count(left.begin(), left.end(), sequence) == 0, "what is released is gone");
    } else if (in_.below(4) == 0) {
      box_->forget_wards(name(in_), {log});
    } else {
      const Outbound out = outbound(in_);
      const auto decoded = decode_outbound(out.sequence, out.prev, encode(out));
      if (!decoded) return;
      const bool stored = box_->guard(log, *decoded) == Answer::kStored;
      check(box_->books().wards == before + (stored ? 1 : 0), "only what is kept is there");
    }
  }
  // What we entrust, and what a custodian, ours or another one, says of it.
  void entrust(const LogId& custodian) {
    switch (in_.below(8)) {
      case 0:
        box_->on_custodian_up(custodian);
        break;
      case 1:
        in_.below(2) == 0 ? box_->on_custodian_down() : box_->on_custodian_lost();
        break;
      case 2:
        box_->on_custodian_retry();
        break;
      case 3:
        for (const auto& copy : box_->entrust(in_.below(4096))) entrusted_ = copy.sequence;
        break;
      case 4:
        for (const Sequence sequence : box_->take_releases(in_.below(8))) entrusted_ = sequence;
        (void)box_->take_releases_elsewhere();
        break;
      case 5:
        (void)box_->on_told(custodian, {entrusted_, in_.below(64)});
        break;
      case 6:
        if (in_.below(4) == 0) box_->end_releases();
        (void)box_->take_recorded();
        break;
      default:
        box_->on_entrusted(custodian, in_.below(4) == 0 ? in_.below(64) : entrusted_,
                           static_cast<Answer>(in_.below(6)));
    }
  }

  Input& in_;
  Limits limits_ = kLimits;
  sim::FakeDirectory directory_{2 * kLogBytes};
  std::unique_ptr<log::Log> log_;
  std::unique_ptr<Mailbox> box_;
  MonoTime now_{Milliseconds{1'000'000}};
  std::pair<MessageId, std::uint16_t> taken_{{"a"}, 1};  // by the last receive()
  Sequence sent_ = 1;                                    // by the last transmit()
  Sequence entrusted_ = 1;                               // by the last entrust()
};

void decodes(Input in) {
  const auto bytes = in.rest();
  const auto decoded = decode(bytes);
  if (decoded) check(encode(*decoded) == bytes, "a message has one form");
}

}  // namespace
}  // namespace swarm::mailbox

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  swarm::fuzz::Input in(data, size);
  if (in.below(4) == 0) {
    swarm::mailbox::decodes(in);
    return 0;
  }
  swarm::mailbox::World world(in);
  for (std::size_t steps = 0; steps < swarm::mailbox::kMaxSteps && !in.empty(); ++steps)
    world.step();
  world.finish();
  return 0;
}
