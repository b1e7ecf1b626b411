#pragma once

// The state of a mailbox, for the files that implement it: recovery.cc (what the log holds),
// inbox.cc (what waits for this pod's agents, and the streams it came in), arrive.cc, receive.cc
// (hand-out to ack), send.cc, custody.cc, guard.cc (copies on other nodes), ids.cc (chosen by
// users).

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/crash_point.h"
#include "base/encoding.h"
#include "log/bytes.h"
#include "mailbox/grants.h"
#include "mailbox/mailbox.h"
#include "mailbox/ordered.h"
#include "mailbox/records.h"
#include "mailbox/turns.h"

namespace swarm::mailbox {

using log::State;

// The attempt field of an inbox record that is State::kTaken says more than the number of the
// attempt:
constexpr std::uint16_t kAckedBit =
    0x8000;  // acknowledged here, not yet recorded by the sender's pod
constexpr std::uint16_t kAnchorBits =
    0xC000;  // recorded too: kept only because it carries its stream's high-water mark
constexpr std::uint16_t kAttemptMask = 0x3FFF;

// That of an outbox or kept record that is State::kTaken:
constexpr std::uint16_t kOfferedMark = 1;     // to our successor, which may have it
constexpr std::uint16_t kHandedOverMark = 2;  // it has
constexpr std::uint16_t kMarkOnly = 3;  // done: kept because it says how far our predecessor got

constexpr std::uint32_t kSmallAnchorBytes = 512;  // larger anchors are replaced by a cursor record
constexpr std::size_t kRecentGenerated = 1024;    // generated ids remembered in memory
constexpr std::size_t kRecentAcks = 1024;         // acks whose repetition is answered OK
constexpr std::size_t kMaxAwaited = 4096;         // replies waited for at once
constexpr std::size_t kMaxDestinations = 16384;
constexpr std::size_t kMaxNames = 65536;       // whose incarnations are remembered
constexpr std::size_t kMaxFormer = 8;          // of each
constexpr std::size_t kMaxPredecessors = 64;   // former pods of our name that handed something over
constexpr std::size_t kMaxTransmit = 256;      // messages a call
constexpr std::size_t kRecentFinished = 4096;  // of others, kept here, that were acked
constexpr std::size_t kMaxElsewhere = 65536;   // copies at former custodians, to be released later
constexpr std::uint32_t kWardShares = 2;  // of the room for copies one sender's log gets one share
constexpr std::uint64_t kReplyShare = 4;  // of max_sent_bytes, beside it
constexpr std::size_t kMaxListed = 2000;
// Without a link, until a copy there does not count any more: a sidecar's restart takes less.
constexpr Milliseconds kReceiverAbsentAfter{2000};
constexpr std::size_t kMaxExpiriesPerCall = 256;
constexpr std::uint32_t kMaxEnvelopeBytes = 1024;  // of a message's record beyond its body

// "m-" and 16 hex digits: made by the sidecar for a send without an id, so nobody can repeat it.
// (agentctl makes its own, longer: `send --id` resolves an unknown outcome by it.)
inline bool is_generated(const MessageId& id) {
  const std::string& v = id.value;
  return v.size() == 18 && v[0] == 'm' && v[1] == '-' &&
         v.find_first_not_of("0123456789abcdef", 2) == std::string::npos;
}

// What it says of a stream, if anything, is possible.
inline bool may_stream(const Message& m) {
  return !m.stream || (is_message_id(m.stream->stream.value) && m.stream->part != 0 &&
                       m.stream->mark <= StreamPart::Mark::kAbort && !m.wants_reply &&
                       m.in_reply_to.empty() && m.priority == Priority::kNormal);
}

inline std::string kibibytes(std::uint64_t bytes) { return std::to_string(bytes >> 10U); }

// Its record, at most.
inline std::uint64_t stored_bytes(const Message& message) {
  return message.body.size() + kMaxEnvelopeBytes;
}

// Ids are unique for each pair of agents. Where messages come in, each agent has its own.
inline std::string pair_key(const AgentName& from, const MessageId& id) {
  std::string key;
  key.reserve(from.value.size() + id.value.size() + 1);
  key.append(from.value).append(1, '\n').append(id.value);
  return key;
}
inline std::string pair_key(const AgentName& from, const AgentName& to, const MessageId& id) {
  std::string key;
  key.reserve(from.value.size() + to.value.size() + id.value.size() + 2);
  key.append(from.value).append(1, '\n').append(to.value).append(1, '\n').append(id.value);
  return key;
}

class Mailbox::Impl {
 public:
  Impl(AgentName pod, std::uint32_t agents, Limits limits)
      : pod_(std::move(pod)), agents_(agents), limits_(limits) {
    check(is_slot_name(pod_.value) && agents >= 1 && agents <= kMaxAgentsPerPod,
          "a pod has a slot's name and 1 to kMaxAgentsPerPod agents");
    limits_.max_attempts = std::clamp<std::uint16_t>(limits_.max_attempts, 1, kAttemptMask);
    limits_.max_message_bytes =
        std::min(limits_.max_message_bytes, log::kMaxPayloadBytes - kMaxEnvelopeBytes);
  }

  // ---- state of the receiving side
  enum class Where : std::uint8_t { kReady, kLeased, kDelayed, kDead, kAcked, kAnchor };
  // What belongs to one agent of this pod.
  struct Inbox {
    AgentName name;
    std::uint32_t number = 0;
    std::array<std::set<Sequence>, kPriorities> ready;  // without awaited replies
    Turns turns;
    std::unordered_map<MessageId, std::set<Sequence>> replies;  // live, by what they answer
    // Of each stream, by sender and name: part and record, live.
    std::unordered_map<std::string, std::set<std::pair<std::uint32_t, Sequence>>> parts;
    std::set<MessageId> awaited;
    std::unordered_multimap<MessageId, Sequence> by_id;      // live and acked
    std::unordered_map<std::string, Sequence> by_pair;       // sender and id → live or acked
    std::unordered_map<std::string, Sequence> received_ids;  // sender and id → record
    std::map<MessageId, int> leased_ids;
    Grants grants;
    std::uint32_t counted = 0, live = 0, dead = 0;
    std::uint64_t bytes = 0;  // of those that are counted
    bool woken = false;       // in woken_
  };
  struct Entry {
    Inbox* inbox = nullptr;
    Sequence sequence = 0;
    LogId sender_log;  // empty: sent in this pod
    Sequence sender_sequence = 0;
    MessageId id, in_reply_to;
    AgentName from;
    Priority priority = Priority::kNormal;
    std::uint32_t body_bytes = 0, payload_bytes = 0;
    LogId keeper;  // of the second copy, when it is not the sender's log any more
    Sequence keeper_sequence = 0;
    WallTime sent_at = 0;
    std::uint16_t attempt = 0;
    std::uint16_t round = 0;  // attempts before its last redrive, none of which counts any more
    Where where = Where::kReady;
    bool counted = false;  // against the limits of its inbox
    MonoTime until;
    std::shared_ptr<const StreamPart> stream;
    [[nodiscard]] bool local() const { return sender_log.empty(); }
    [[nodiscard]] const LogId& creditor() const { return keeper.empty() ? sender_log : keeper; }
    [[nodiscard]] AckDebt debt() const {
      return {sequence, pod_of(from), creditor(),
              keeper.empty() ? sender_sequence : keeper_sequence};
    }
    // `n` is the latest hand-out, and nobody has ended it or begun a new round since.
    [[nodiscard]] bool is_current(std::uint16_t n) const {
      return n > round && n == attempt && where != Where::kDead;
    }
  };
  // Sender's log, number of the receiving agent, priority and whether it has replies.
  using StreamKey = std::tuple<LogId, std::uint32_t, std::uint8_t>;
  static StreamKey key_of(const Entry& e) {
    return {e.sender_log, e.inbox->number, stream_of(e.priority, !e.in_reply_to.empty())};
  }
  struct Stream {
    AgentName from;     // its pod
    Sequence high = 0;  // everything up to here was stored, or answered as finished
    Sequence carrier =
        0;  // the record that makes `high` survive a restart: an inbox record or a cursor
    bool carrier_is_cursor = false;
    OrderedMap<Sequence, Sequence> live;  // sender's sequence → inbox record, not anchors
    std::uint64_t used = 0;
  };

  // ---- state of the sending side
  enum class Out : std::uint8_t { kDue, kInFlight, kStored };
  // At our custodian. kPerhaps: an answer was lost, or our memory of it; kLeaving: it was told to
  // release it.
  enum class Copy : std::uint8_t { kNone, kPerhaps, kOnTheWay, kKept, kLeaving };
  struct Kept {          // sent by a former pod
    LogId former;        // that offered it; empty: its receiver has given it back
    Sequence offer = 0;  // what it was there
    Origin origin;
  };
  struct Outgoing {
    Sequence sequence = 0;
    MessageId id;
    AgentName from, to;
    Priority priority = Priority::kNormal;
    bool reply = false;
    std::uint32_t body_bytes = 0, payload_bytes = 0;  // the latter with the body in any case
    Sequence body = 0;  // the record that holds it for several; 0: its own does
    WallTime sent_at = 0;
    Out state = Out::kDue;
    LogId stored_at;
    bool accepted = false;   // told so in this life
    bool restored = false;   // may have been accepted in an earlier one
    bool uncertain = false;  // an answer was lost: the incarnation below may hold it
    bool anywhere = false;   // … or others before it
    LogId uncertain_log;
    std::uint32_t on_the_way = 0;  // transmissions on this link without an answer
    bool offered = false;          // whether it is acked is for our successor to record
    Copy copy = Copy::kNone;
    std::unique_ptr<Kept> kept;
    // Which limit it counts against, if any.
    [[nodiscard]] std::uint64_t Impl::*side() const {
      return kept ? &Impl::kept_bytes_ : reply ? &Impl::reply_bytes_ : &Impl::sent_bytes_;
    }
    // Its record, of which this is made, has no body.
    void share(Sequence of, std::uint32_t bytes) {
      body = of;
      body_bytes = bytes;
      payload_bytes += bytes;
    }
    [[nodiscard]] Sequence origin_sequence() const {
      return kept ? kept->origin.sequence : sequence;
    }
  };
  struct OutStream {
    // Our records, by their sequence at the origin, which is the order: what a receiver gives back
    // may come before what a former pod offers.
    OrderedMap<Sequence, Sequence> unanswered, due;
    OrderedMap<Sequence, Sequence> live;  // all that have not ended; only where we entrust
    bool blocked = false;                 // the receiver said full (or will not take it now)
    bool proved = false;                  // … took one message since
    std::size_t window = 0;  // messages that may be on their way at once, after that; 0: any number
    bool passed_on = false;  // our successor may have the beginning: it sends the rest, too
  };
  struct Link {  // to a pod
    bool linked = false;
    LogId peer;
    MonoTime down{};    // the tick before it was lost last, or before there was one
    MonoTime heard{};   // its latest link or answer
    bool near = false;  // on our node: what goes there is entrusted first
  };
  struct Destination {  // an agent
    Link* link = nullptr;
    std::map<std::uint8_t, OutStream> streams;
    std::map<std::pair<std::uint8_t, LogId>, OutStream> kept;  // by origin; older than our own
    OrderedSet<Sequence> all;
    struct Held {
      std::uint32_t messages = 0, replies = 0;
    };
    std::map<AgentName, Held> held;  // by sender: none takes the room of a neighbour
    // Of those that sent_bytes_ and reply_bytes_ count, each with its body.
    std::uint64_t bytes = 0, reply_bytes = 0;
    Turns turns;
  };
  // Of several records in the outbox, which end before it does.
  struct Body {
    std::uint32_t bytes = 0, holders = 0;
    std::uint64_t share = 0;
    bool stays = false;  // a record that refers to it has left the outbox, but not the log
  };
  struct UserId {
    Sequence record = 0;  // 0: only in memory
    AgentName peer;
    Sequence sequence = 0;
    bool accepted = false, local = false;
  };
  struct Expiry {
    MonoTime at;
    Inbox* inbox = nullptr;  // that has received it; none: sent
    std::string pair;
    Sequence record = 0;
  };

  void restore(const log::Record& record);
  void attach(log::Log& log, MonoTime now, bool damaged);
  Result<Sent> send(MonoTime now, const Message& message, std::uint64_t share);
  Result<Sent> send_local(MonoTime now, const Message& message);
  bool knows(const Message& message) const;
  bool has_room(MonoTime now, const Message& message);
  struct Share {  // bytes: what the outbox has for messages of its kind, has of them, has for its
                  // to
    std::uint64_t most, all, inside;
  };
  [[nodiscard]] Share share_of(const Message& message) const;
  [[nodiscard]] bool outbox_has_bytes(const Message& message) const;
  [[nodiscard]] std::string why_outbox_full(const Message& message) const;
  bool withdraw(Sequence sequence);
  std::vector<AgentName> destinations() const;
  std::vector<AgentName> destinations(const AgentName& pod) const;
  AgentName receiver_of(Sequence sequence) const;
  std::vector<Outbound> transmit(const AgentName& to, std::size_t max_bytes);
  void on_link_up(MonoTime now, const AgentName& pod, const LogId& peer, bool near);
  void on_link_down(const AgentName& pod);
  void on_answer(MonoTime now, const AgentName& pod, const LogId& peer, Sequence sequence,
                 Answer answer, const std::string& reason);
  void on_retry(const AgentName& to);
  bool on_grant(const AgentName& pod, const AgentName& to, std::uint8_t stream);
  bool on_acked(const AgentName& pod, Sequence sequence);
  void begin_offers();
  std::vector<Outbound> offer(std::size_t max_bytes);
  void on_offer_answer(Sequence sequence, Answer answer);
  void cancel_offers();
  Answer adopt(const LogId& former, const Outbound& offered);
  Answer take_back(const AgentName& giver, const Outbound& returned);
  void set_lost(const std::map<AgentName, std::set<LogId>>& lost);
  static bool is_unread(const Entry& e);
  [[nodiscard]] std::size_t unreturned(const AgentName& pod, const std::set<LogId>& logs) const;
  std::vector<Outbound> give_back(const AgentName& pod, const LogId& to, std::size_t max_bytes);
  void on_given_back(const AgentName& pod, Sequence inbox, Answer answer);
  Answer deliver(MonoTime now, const LogId& sender_log, Sequence sequence, Sequence prev,
                 const Message& message);
  Answer deliver_kept(MonoTime now, const LogId& keeper, const Outbound& kept);
  std::vector<Grant> take_grants(MonoTime now);
  std::string why_full(const Message& message) const;
  [[nodiscard]] Error no_room(Error error) const;
  void forget_waiting(const AgentName& pod);
  void on_declined(const AgentName& pod, const AgentName& to, std::uint8_t stream);
  std::optional<Delivery> receive(MonoTime now, const AgentName& agent, Milliseconds lease,
                                  const std::optional<MessageId>& in_reply_to,
                                  const std::set<Sequence>* only = nullptr);
  Result<std::optional<Delivery>> receive_part(MonoTime now, const AgentName& agent,
                                               Milliseconds lease, const AgentName& from,
                                               const MessageId& stream, std::uint32_t part);
  bool await_reply(const AgentName& agent, const MessageId& id);
  void forget_reply(const AgentName& agent, const MessageId& id);
  Result<AckResult> ack(const AgentName& agent, const MessageId& id, std::uint16_t attempt,
                        const AgentName& from);
  Result<AckResult> purge(const AgentName& agent, const MessageId& id);
  Status redrive(const AgentName& agent, const MessageId& id);
  std::vector<Summary> dead_letters(const AgentName& agent, std::size_t most) const;
  std::vector<Summary> list_all(bool dead, std::size_t most, std::size_t& there) const;
  std::uint32_t dead_letter_count(const AgentName& agent) const {
    const Inbox* inbox = find_inbox(agent);
    return inbox == nullptr ? 0 : inbox->dead;
  }
  std::vector<AgentName> take_ready();
  bool has_ready() const { return !woken_.empty(); }
  void limit_inboxes(std::uint32_t messages, std::string why);
  [[nodiscard]] std::uint32_t inbox_limit() const { return inbox_limit_; }
  bool is_local(const AgentName& agent) const {
    return is_of_pod(agent) && number_in_pod(agent.value) < agents_;
  }
  void on_ack_recorded(Sequence inbox);
  std::vector<AckDebt> ack_debts(const AgentName& sender) const;
  std::vector<AgentName> ack_creditors() const;
  std::map<AgentName, std::set<LogId>> senders() const;
  void on_incarnation(const AgentName& name, const LogId& current);
  std::vector<Sequence> on_former(const AgentName& name, const LogId& log);
  [[nodiscard]] bool needs_custodian() const;
  [[nodiscard]] bool has_entrusted() const { return entrusted_ != 0; }
  void on_custodian_up(const LogId& custodian);
  void on_custodian_down();
  void on_custodian_lost();
  void on_custodian_retry() { custodian_full_ = false; }
  std::vector<Outbound> entrust(std::size_t max_bytes);
  std::vector<Sequence> take_releases(std::size_t most);
  void on_entrusted(const LogId& custodian, Sequence sequence, Answer answer);
  std::vector<Sequence> on_told(const LogId& custodian, const std::vector<Sequence>& kept);
  std::map<LogId, std::vector<Sequence>> take_releases_elsewhere();
  void end_releases();
  [[nodiscard]] bool releasing() const { return !endings_.empty(); }
  [[nodiscard]] bool records_late() const { return !endings_.empty() || !unrecorded_.empty(); }
  std::vector<Sequence> take_recorded() { return std::exchange(recorded_, {}); }
  [[nodiscard]] bool waits_for_custodian(Sequence sequence) const;
  [[nodiscard]] bool withdrawing(Sequence sequence) const;
  Answer guard(const LogId& sender_log, const Outbound& copy);
  void release(const LogId& sender_log, Sequence sequence);
  [[nodiscard]] std::vector<Sequence> wards_of(const LogId& sender_log) const;
  [[nodiscard]] std::map<AgentName, std::set<LogId>> guarded() const;
  void forget_wards(const AgentName& pod, const std::set<LogId>& logs);
  std::vector<Sequence> on_gone(const AgentName& name);
  Status nack(MonoTime now, const AgentName& agent, const MessageId& id, std::uint16_t attempt,
              Milliseconds delay, const AgentName& from);
  Status extend(MonoTime now, const AgentName& agent, const MessageId& id, std::uint16_t attempt,
                Milliseconds lease, const AgentName& from);
  bool tick(MonoTime now);
  std::optional<MonoTime> next_deadline() const;
  std::vector<Summary> list(const AgentName& agent, Listed* there) const;
  Result<Delivery> look(const AgentName& agent, const MessageId& id, const AgentName& from,
                        bool dead) const;
  [[nodiscard]] bool has(const AgentName& agent, const MessageId& id, const AgentName& from) const;
  Books books() const;

  bool draining_ = false;
  std::vector<SendOutcome> outcomes_;

 private:
  // log
  void finish_record(Sequence sequence);
  Result<Message> read_inbox(Sequence sequence) const;

  // receiving
  // Of a former life of this pod, perhaps, which may have had more agents.
  bool is_of_pod(const AgentName& agent) const {
    if (agent == pod_) return true;
    return swarm::is_of_pod(agent.value, pod_.value) && is_agent_name(agent.value) &&
           number_in_pod(agent.value) < kMaxAgentsPerPod;
  }
  Inbox& inbox_of(std::uint32_t number);
  Inbox* find_inbox(const AgentName& agent);
  const Inbox* find_inbox(const AgentName& agent) const {
    return const_cast<Impl*>(this)->find_inbox(agent);
  }
  void wake(Inbox& inbox);
  Entry make_entry(Sequence sequence, const LogId& sender_log, Sequence sender_sequence,
                   const Message& m, std::size_t payload);
  Entry& insert(Entry entry);
  void enroll(const Entry& e);
  void index(const Entry& e);
  void unindex(const Entry& e);
  void set_ready(Entry& e);
  void leave(Entry& e);  // out of the ready sets, timers, leased ids
  void retire(Entry& e);
  void drop_carrier(Stream& stream);
  void make_dead(Entry& e);
  const Entry* find_dead(const AgentName& agent, const MessageId& id,
                         const AgentName& from = {}) const;
  [[nodiscard]] bool used_up(const Entry& e) const {
    return e.attempt >= std::min<int>(e.round + limits_.max_attempts, kAttemptMask);
  }
  Status mark_attempts(Sequence sequence, const Entry& e);
  static Summary summary_of(const Entry& e);
  static Summary summary_of(const Outgoing& o);
  Entry* find_attempt(const Inbox& inbox, const MessageId& id, std::uint16_t attempt,
                      const AgentName& from);
  [[nodiscard]] Status one_sender(const Inbox& inbox, const MessageId& id,
                                  const AgentName& from) const;
  Result<AckResult> settle_or_owe(Entry& e, std::uint16_t attempt);
  void release(Entry& e);
  void carry(Stream& stream, Sequence record, bool cursor);
  bool write_cursor(const StreamKey& key, Stream& stream);
  void shrink_anchor(Sequence sequence);
  bool room_for_stream();
  struct Former {
    LogId log;
    bool ended = false;
  };
  // `log` was an incarnation of the pod of `name` and is none any more; nullptr: one that we have
  // not met on a link of ours may be its next one.
  const Former* find_former(const AgentName& name, const LogId& log) const;
  Former& remember_former(const AgentName& pod, const LogId& log);
  bool has_ended(const AgentName& name, const LogId& log) const {
    const Former* former = find_former(name, log);
    return former != nullptr && former->ended;
  }
  Result<Sequence> store(MonoTime now, const LogId& sender_log, Sequence sequence,
                         const Message& message);
  const Entry* find_twin(const Inbox& inbox, const Message& message, const LogId& sender_log,
                         Sequence sequence) const;
  Answer owe(const Entry& twin, const LogId& sender_log, Sequence sequence, const Message& message);
  bool refill(const Entry& twin, const LogId& sender_log, Sequence sequence,
              const Message& message);
  Stream& stream_for(const StreamKey& key, const AgentName& from);
  void count(Entry& e);  // against the limits of its inbox
  void uncount(Entry& e);
  Answer take_in(MonoTime now, const LogId& sender_log, Sequence sequence, const Message& message);
  [[nodiscard]] bool may_be_damaged(const Inbox& inbox, const Message& message) const;
  [[nodiscard]] bool inbox_has_room(const Inbox& inbox, const Message& message) const;
  // One of `bytes` fits beside what is claimed.
  [[nodiscard]] bool fits(const Inbox& inbox, const Grants::Claims& claims,
                          std::uint64_t bytes) const;
  void wait_for_place(MonoTime now, Inbox& inbox, const Message& message);

  // sending
  Outgoing* find_out(const AgentName& pod, Sequence sequence);
  Destination& destination(const AgentName& to);
  // Those of its agents that have mail: `each(name, destination)`.
  template <typename Each>
  void for_each_in(const AgentName& pod, const Each& each);
  void forget_idle_link(const AgentName& pod);
  OutStream& stream_for(Destination& d, const Outgoing& o) {
    const std::uint8_t index = stream_of(o.priority, o.reply);
    return o.kept ? d.kept[{index, o.kept->origin.log}] : d.streams[index];
  }
  OutStream* due_in(Destination& d, std::uint8_t index);
  Result<Message> read_out(const Outgoing& o) const;
  Outgoing make_outgoing(Sequence sequence, const Message& m, std::size_t payload) const;
  template <typename Each>
  static void for_each_stream(Destination& d, const Each& each) {  // each(index, stream)
    for (auto& [index, stream] : d.streams) each(index, stream);
    for (auto& [key, stream] : d.kept) each(key.first, stream);
  }
  static void probe(OutStream& stream) {
    if (!std::exchange(stream.blocked, false)) return;
    stream.window = 1;
    stream.proved = false;
  }
  static bool may_share(const Message& message) {
    return message.in_reply_to.empty() && message.body.size() >= kLeastSharedBytes;
  }
  Sequence shared_body(const Message& message, std::uint64_t share) const;
  Result<Sequence> append_body(const Message& message, std::uint64_t share);
  void end_body(std::unordered_map<Sequence, Body>::iterator at);
  void let_go_of_body(Sequence body, bool ended);
  void carry_offer(const Kept& kept, Sequence record);
  std::optional<Answer> known_copy(const Origin& origin, const Message& m);
  Answer keep(const LogId& former, const Outbound& offered);
  void remember_finished(const Outgoing& o);
  void finish_out(const Outgoing& o);
  void pass_on(const Outgoing& o);
  void insert_out(Outgoing o);
  enum class After : std::uint8_t { kFinished, kNeverDelivered, kHandedOver };
  void remove_out(Sequence sequence, After after);
  bool never_deliver(Sequence sequence);
  void accept(Outgoing& o);
  void make_due(Destination& d, Outgoing& o);
  void doubt(Destination& d, Outgoing& o);

  // copies on other nodes: of what we send
  [[nodiscard]] bool is_near(const Outgoing& o) const { return destinations_.at(o.to).link->near; }
  // What was accepted by a former pod, and has no receiver now, is here alone, too.
  [[nodiscard]] bool needs_copy(const Outgoing& o) const {
    return is_near(o) ||
           (o.kept && o.state != Out::kStored && !destinations_.at(o.to).link->linked);
  }
  // To a pod on our node: a custodian has it, or it was accepted, perhaps, and must not wait for
  // one.
  static bool may_go(const Outgoing& o) {
    return o.copy == Copy::kKept || o.accepted || o.restored;
  }
  // The custodian may have it: an end of the message has to be told it first.
  [[nodiscard]] bool may_be_entrusted(const Outgoing& o) const {
    const Link& link = *destinations_.at(o.to).link;
    return o.copy >= Copy::kOnTheWay || (o.copy == Copy::kPerhaps && (link.near || !link.linked));
  }
  // Stored by the receiver, on our node, and nowhere else as far as we know.
  [[nodiscard]] bool lacks_custodian(const Outgoing& o) const {
    return limits_.entrust && is_near(o) && (o.copy != Copy::kKept || !custodian_linked_) &&
           endings_.count(o.sequence) == 0;
  }
  // Stored by a receiver's pod that has had no link for a while: nobody can say that it is there.
  [[nodiscard]] bool lacks_receiver(const Outgoing& o) const {
    const Link& link = *destinations_.at(o.to).link;
    return o.copy != Copy::kKept && !link.linked && ticked_ - link.down >= kReceiverAbsentAfter;
  }
  void set_copy(Outgoing& o, Copy copy);
  void forget_copy(const Outgoing& o, After after);
  Outgoing* copied_before(const Outgoing& o);
  void keep_elsewhere(const LogId& custodian, Sequence sequence);
  void let_go_elsewhere(Sequence sequence, bool release);
  void leave_stream(Outgoing& o);
  bool finish_acked(Outgoing& o);
  void record_late_acks();
  void begin_ending(Outgoing& o, std::optional<SendOutcome> refused);
  void end_copy(Outgoing& o);
  void complete(Sequence sequence);
  // … of what others do
  struct Ward {
    LogId log;  // of whoever has entrusted it, and its sequence there
    Sequence sequence = 0;
    Origin origin;
    AgentName from, to;
    std::uint8_t stream = 0;
    std::uint32_t payload_bytes = 0;
  };
  static Ward make_ward(const LogId& log, const Outbound& copy, std::size_t payload);
  void insert_ward(Sequence record, Ward ward);
  void end_ward(Sequence record);  // by value: what it was found by goes
  // A message of somebody else that is here, in an inbox or as a ward: what there is to give back.
  using ReturnKey = std::tuple<LogId, AgentName, std::uint8_t>;  // origin's log, receiver, stream
  struct Held {
    ReturnKey key;
    Sequence origin = 0;
    LogId creditor;  // whose copy's second one it is
    std::uint32_t payload_bytes = 0;
    bool unread = true;
  };
  std::optional<Held> find_held(Sequence record) const;
  [[nodiscard]] std::map<ReturnKey, std::map<Sequence, Sequence>> held_of(const AgentName& pod,
                                                                          const LogId& to) const;
  Result<Message> read_held(Sequence record) const;

  // ids
  void remember_received(MonoTime now, Inbox& inbox, std::string pair, Sequence record);
  void remember_sent(MonoTime now, std::string pair, const AgentName& to, Sequence record);
  void record_outcome(Sequence record);
  bool record_pending_outcomes();
  void remember_generated(std::string pair, UserId outcome);
  void forget_sent(const std::string& pair);
  void expire_ids(MonoTime now, std::size_t newest = 0);

  AgentName pod_;
  std::uint32_t agents_;
  Limits limits_;
  std::uint32_t inbox_limit_ = limits_.max_inbox_messages;  // as the shell allows now …
  std::string shortage_;                                    // … and why, when it is less
  log::Log* log_ = nullptr;
  Books books_;
  std::uint64_t received_bytes_ = 0;  // live, without awaited replies
  std::uint64_t sent_bytes_ = 0, reply_bytes_ = 0, kept_bytes_ = 0;  // the first without replies

  std::unordered_map<Sequence, Entry> inbox_;
  std::map<StreamKey, Stream> streams_;
  std::uint64_t use_ = 0;
  std::map<std::uint32_t, Inbox> inboxes_;     // by number; of agents that were spoken of
  std::map<std::uint32_t, Inbox*> contended_;  // by number: for whose places somebody waits
  std::vector<Inbox*> woken_;                  // something may be ready that was not
  std::size_t awaiting_ = 0;                   // replies, of all agents
  std::set<std::pair<MonoTime, Sequence>> timers_;
  std::map<AgentName, std::set<Sequence>> owed_;  // acked records by creditor, a pod
  struct Incarnations {
    LogId current;
    std::deque<Former> former;  // the youngest last, at most kMaxFormer
  };
  std::map<AgentName, Incarnations> incarnations_;
  std::set<LogId>
      lost_;        // creditors without a link: who holds what they are owed for holds it alone
  struct Returns {  // to the pod that has the name of lost ones
    struct Due {
      Sequence record = 0;
      ReturnKey key;
      Sequence sequence = 0;  // the origin's
    };
    LogId to;
    std::deque<Due> due;  // of this round, the first that goes in front
    // … and, of each stream, the origin's sequences that have no final answer yet.
    std::map<ReturnKey, std::set<Sequence>> open;
    std::set<Sequence> given;  // answered for good; it tells us what it keeps when it can
    bool refused = false;      // it takes nothing back
  };
  std::map<AgentName, Returns> returns_;
  std::set<Sequence> large_anchors_;
  struct Acked {
    const Inbox* inbox;
    MessageId id;
    AgentName from;
    std::uint16_t attempt;
  };
  std::deque<Acked> recent_acks_;
  std::unordered_map<MessageId, std::uint32_t> recent_ids_;  // how many of these have it
  MonoTime ticked_{};                                        // the latest tick()
  bool damaged_ = false;                                     // records of our log could not be read
  std::set<Sequence> pending_outcomes_;

  std::unordered_map<Sequence, Outgoing> out_;
  std::map<AgentName, Link> links_;  // by pod: that is linked, or whose agents have mail
  std::map<AgentName, Destination> destinations_;          // with mail
  std::unordered_map<std::string, Sequence> out_by_pair_;  // sender, receiver and id
  std::unordered_map<Sequence, Body> bodies_;
  std::unordered_map<std::uint64_t, Sequence> shares_;  // their numbers → bodies
  bool strange_outbox_ = false;  // our log has outbox records that we do not understand

  struct Predecessor {
    Sequence high = 0;     // of its offers, everything up to here was taken
    Sequence carrier = 0;  // the kept record that makes `high` survive a restart
    bool mark_only = false;
  };
  std::map<LogId, Predecessor> predecessors_;
  std::map<Origin, Sequence> kept_;         // live
  std::set<Origin> finished_;               // kept once, acked …
  std::deque<Origin> finished_order_;       // … and the latest of these alone
  std::set<Sequence> handed_over_;          // of this log
  std::set<Sequence> offers_, offers_due_;  // not answered; of them, not under way

  LogId custodian_;  // of what we send to pods on our node; empty: none
  bool custodian_linked_ = false;
  bool custodian_full_ = false;      // or takes nothing: until it is asked again
  std::set<Sequence> copies_due_;    // to be entrusted …
  std::set<Sequence> releases_due_;  // … and to be released
  std::size_t entrusted_ = 0;        // that it may have, as far as we know
  // What former custodians have: until ours has it too, or it is done. Then it is to be released.
  std::set<std::pair<Sequence, LogId>> elsewhere_;
  std::map<LogId, std::vector<Sequence>> releases_elsewhere_;
  // Done, but for the custodian's word that it has no copy any more: acked, or else refused.
  std::map<Sequence, std::optional<SendOutcome>> endings_;
  std::set<Sequence> unrecorded_;   // acked, and the log could not be written
  std::vector<Sequence> recorded_;  // acks, later than they came
  std::map<Sequence, Ward> wards_;  // by our record
  struct Guarded {
    AgentName pod;
    std::map<Sequence, Sequence> records;  // its sequence → ours
    std::uint64_t bytes = 0;
  };
  std::map<LogId, Guarded> guarded_;  // by whose log it is
  std::uint64_t ward_bytes_ = 0;

  std::unordered_map<std::string, UserId> sent_ids_;  // sender, receiver and id
  std::deque<Expiry> expiries_;
  std::deque<std::string> generated_;  // of sent_ids_

  struct Restored {
    Sequence sequence;
    std::uint8_t kind;
    State state;
    std::uint16_t attempt;
    std::string head;  // small records whole
    std::optional<Entry> entry;
    std::optional<Outgoing> out;
    std::optional<Ward> ward;
  };
  std::vector<Restored> restored_;
};

template <typename Each>
void Mailbox::Impl::for_each_in(const AgentName& pod, const Each& each) {
  // A pod's agents stand together: '.' comes before the digits of other pods' numbers.
  for (auto it = destinations_.lower_bound(pod);
       it != destinations_.end() && swarm::is_of_pod(it->first.value, pod.value); ++it)
    each(it->first, it->second);
}

}  // namespace swarm::mailbox
