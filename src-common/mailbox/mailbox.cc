#include "mailbox/mailbox.h"

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <set>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "base/crash_point.h"
#include "base/encoding.h"
#include "log/bytes.h"

namespace swarm::mailbox {
namespace {

using log::State;

// The attempt field of an inbox record that is State::kTaken says more than the number of the
// attempt:
constexpr std::uint16_t kAckedBit =
    0x8000;  // acknowledged here, not yet recorded by the sender's pod
constexpr std::uint16_t kAnchorBits =
    0xC000;  // recorded too: kept only because it carries its stream's high-water mark
constexpr std::uint16_t kAttemptMask = 0x3FFF;

// That of an outbox or kept record that is State::kTaken:
constexpr std::uint16_t kOffered = 1;     // to our successor, which may have it
constexpr std::uint16_t kHandedOver = 2;  // it has
constexpr std::uint16_t kMarkOnly = 3;    // done: kept because it says how far our predecessor got

constexpr std::uint32_t kSmallAnchorBytes = 512;  // larger anchors are replaced by a cursor record
constexpr std::size_t kRecentGenerated = 1024;    // generated ids remembered in memory
constexpr std::size_t kRecentAcks = 1024;         // acks whose repetition is answered OK
constexpr std::size_t kMaxAwaited = 4096;         // replies waited for at once
constexpr std::size_t kMaxDestinations = 16384;
constexpr std::size_t kMaxNames = 65536;      // whose incarnations are remembered
constexpr std::size_t kMaxFormer = 8;         // of each
constexpr std::size_t kMaxPredecessors = 64;  // former pods of our name that handed something over
constexpr std::size_t kMaxTransmit = 256;     // messages a call
constexpr std::size_t kMaxListed = 2000;
constexpr std::size_t kMaxExpiriesPerCall = 256;
constexpr std::uint32_t kMaxEnvelopeBytes = 1024;  // of a message's record beyond its body
constexpr std::array<int, kPriorities> kWeights{8, 3, 1};
constexpr int kStreams = kPriorities * 2;

// Whose turn it is among the priorities: of twelve messages eight are of high, three of normal and
// one of low priority; what a priority has no use for goes to the others. One that has something is
// passed over by at most two rounds of the others (22 messages), so none starves. Both directions
// use it: transmit() and receive().
class Turns {
 public:
  // The priority that is next among those for which ready(priority) is true.
  template <typename Ready>
  std::optional<std::size_t> next(const Ready& ready) {
    for (int round = 0; round < 2; ++round) {
      for (std::size_t priority = 0; priority < left_.size(); ++priority) {
        if (left_[priority] > 0 && ready(priority)) return priority;
      }
      left_ = kWeights;
    }
    return std::nullopt;
  }
  // It got its turn.
  void spend(std::size_t priority) { --left_[priority]; }

 private:
  std::array<int, kPriorities> left_{};
};

// Replies are a stream of their own: they never wait behind a message for which there is no room.
std::uint8_t stream_of(Priority priority, bool reply) {
  return static_cast<std::uint8_t>(static_cast<int>(priority) * 2 + (reply ? 1 : 0));
}

// "m-" and 16 hex digits: made by the sidecar for a send without an id, so nobody can repeat it.
// (agentctl makes its own, longer: `send --id` resolves an unknown outcome by it.)
bool is_generated(const MessageId& id) {
  const std::string& v = id.value;
  return v.size() == 18 && v[0] == 'm' && v[1] == '-' &&
         v.find_first_not_of("0123456789abcdef", 2) == std::string::npos;
}

void put_log_id(std::string& out, const LogId& id) {
  out.append(reinterpret_cast<const char*>(id.bytes.data()), id.bytes.size());
}
LogId get_log_id(std::string_view bytes, std::size_t offset) {
  LogId id;
  for (std::size_t i = 0; i < id.bytes.size(); ++i)
    id.bytes[i] = static_cast<std::uint8_t>(bytes[offset + i]);
  return id;
}

// In a record's flags: the number of the agent of this pod that it is about follows. Without it, it
// is about the first one.
constexpr std::uint8_t kNumberFollows = 0x80;

constexpr std::size_t kInboxPrefix = 24;  // sender's log, sender's sequence

std::string encode_inbox(const LogId& sender_log, Sequence sequence, const Message& message) {
  std::string out;
  put_log_id(out, sender_log);
  log::put(out, sequence);
  return out + encode(message);
}

constexpr std::size_t kKeptPrefix = 24;  // former log, sequence there

// What a successor appends: who handed it over as what, then its origin and the message.
std::string encode_kept(const LogId& former, const Outbound& offered) {
  std::string out;
  put_log_id(out, former);
  log::put(out, offered.sequence);
  return out + encode(offered);
}

struct CursorRecord {
  LogId sender_log;
  std::uint8_t stream = 0;
  Sequence high = 0;
  AgentName from;
  std::uint32_t to = 0;  // the number of the receiving agent in this pod
};
std::string encode_cursor(const CursorRecord& c) {
  std::string out;
  put_log_id(out, c.sender_log);
  log::put(out, c.high);
  log::put(out, static_cast<std::uint8_t>(c.stream | (c.to == 0 ? 0 : kNumberFollows)));
  log::put(out, static_cast<std::uint8_t>(c.from.value.size()));
  if (c.to != 0) log::put(out, static_cast<std::uint16_t>(c.to));
  return out + c.from.value;
}
std::optional<CursorRecord> decode_cursor(std::string_view b) {
  if (b.size() < 26) return std::nullopt;
  const auto stream = log::get<std::uint8_t>(b, 24);
  const bool numbered = (stream & kNumberFollows) != 0;
  const std::size_t names = numbered ? 28 : 26;
  if (b.size() != names + static_cast<unsigned char>(b[25])) return std::nullopt;
  CursorRecord c{get_log_id(b, 0),
                 static_cast<std::uint8_t>(stream & ~kNumberFollows),
                 log::get<Sequence>(b, 16),
                 {std::string(b.substr(names))},
                 numbered ? log::get<std::uint16_t>(b, 26) : 0U};
  if (c.stream >= kStreams || numbered != (c.to != 0) || c.to >= kMaxAgentsPerPod)
    return std::nullopt;
  return c;
}

// What it says of a stream, if anything, is possible.
bool may_stream(const Message& m) {
  return !m.stream || (is_message_id(m.stream->stream.value) && m.stream->part != 0 &&
                       m.stream->mark <= StreamPart::Mark::kAbort && !m.wants_reply &&
                       m.in_reply_to.empty() && m.priority == Priority::kNormal);
}

struct UserIdRecord {
  bool received = false;  // else sent
  bool local = false;
  AgentName peer;
  MessageId id;
  std::uint32_t self = 0;  // the number of this side's agent in this pod
};
std::string encode_user_id(const UserIdRecord& u) {
  std::string out;
  log::put(out, static_cast<std::uint8_t>((u.received ? 1 : 0) | (u.local ? 2 : 0) |
                                          (u.self == 0 ? 0 : kNumberFollows)));
  log::put(out, static_cast<std::uint8_t>(u.peer.value.size()));
  log::put(out, static_cast<std::uint8_t>(u.id.value.size()));
  if (u.self != 0) log::put(out, static_cast<std::uint16_t>(u.self));
  return out + u.peer.value + u.id.value;
}
std::optional<UserIdRecord> decode_user_id(std::string_view b) {
  if (b.size() < 3) return std::nullopt;
  const auto flags = log::get<std::uint8_t>(b, 0);
  const bool numbered = (flags & kNumberFollows) != 0;
  if ((flags & ~kNumberFollows) > 3) return std::nullopt;
  const std::size_t names = numbered ? 5 : 3;
  const std::size_t peer = static_cast<unsigned char>(b[1]), id = static_cast<unsigned char>(b[2]);
  if (b.size() != names + peer + id) return std::nullopt;
  UserIdRecord u{(flags & 1) != 0,
                 (flags & 2) != 0,
                 {std::string(b.substr(names, peer))},
                 {std::string(b.substr(names + peer))},
                 numbered ? log::get<std::uint16_t>(b, 3) : 0U};
  if (numbered != (u.self != 0) || u.self >= kMaxAgentsPerPod) return std::nullopt;
  return u;
}

// Ids are unique for each pair of agents. Where messages come in, each agent has its own.
std::string pair_key(const AgentName& from, const MessageId& id) {
  return from.value + '\n' + id.value;
}
std::string pair_key(const AgentName& from, const AgentName& to, const MessageId& id) {
  return from.value + '\n' + to.value + '\n' + id.value;
}

}  // namespace

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
    std::uint32_t counted = 0, live = 0, dead = 0;
    bool woken = false;  // in woken_
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
    bool counted = true;  // against max_inbox_messages
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
    std::map<Sequence, Sequence> live;  // sender's sequence → inbox record, not anchors
    std::uint64_t used = 0;
  };

  // ---- state of the sending side
  enum class Out : std::uint8_t { kDue, kInFlight, kStored };
  struct Kept {  // taken over from a former pod
    LogId former;
    Sequence offer = 0;  // what it was there
    Origin origin;
  };
  struct Outgoing {
    Sequence sequence = 0;
    MessageId id;
    AgentName from, to;
    Priority priority = Priority::kNormal;
    bool reply = false;
    std::uint32_t body_bytes = 0, payload_bytes = 0;
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
    std::unique_ptr<Kept> kept;
    [[nodiscard]] Sequence origin_sequence() const {
      return kept ? kept->origin.sequence : sequence;
    }
  };
  struct OutStream {
    std::set<Sequence> unanswered, due;
    bool blocked = false;    // the receiver said full (or will not take it now)
    bool passed_on = false;  // our successor may have the beginning: it sends the rest, too
  };
  struct Link {  // to a pod
    bool linked = false;
    LogId peer;
    MonoTime heard{};  // its latest link or answer
  };
  struct Destination {  // an agent
    Link* link = nullptr;
    std::map<std::uint8_t, OutStream> streams;
    std::map<std::pair<std::uint8_t, LogId>, OutStream> kept;  // by origin; older than our own
    std::set<Sequence> all;
    struct Held {
      std::uint32_t messages = 0, replies = 0;
    };
    std::map<AgentName, Held> held;  // by sender: none takes the room of a neighbour
    Turns turns;
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
  void attach(log::Log& log, MonoTime now);
  Result<Sent> send(MonoTime now, const Message& message);
  Result<Sent> send_local(MonoTime now, const Message& message);
  bool knows(const Message& message) const;
  bool has_room(const Message& message) const;
  bool withdraw(Sequence sequence);
  std::vector<AgentName> destinations() const;
  std::vector<AgentName> destinations(const AgentName& pod) const;
  AgentName receiver_of(Sequence sequence) const;
  std::vector<Outbound> transmit(const AgentName& to, std::size_t max_bytes);
  void on_link_up(MonoTime now, const AgentName& pod, const LogId& peer);
  void on_link_down(const AgentName& pod);
  void on_answer(MonoTime now, const AgentName& pod, const LogId& peer, Sequence sequence,
                 Answer answer, const std::string& reason);
  void on_retry(const AgentName& to);
  bool on_acked(const AgentName& pod, Sequence sequence);
  void begin_offers();
  std::vector<Outbound> offer(std::size_t max_bytes);
  void on_offer_answer(Sequence sequence, Answer answer);
  void cancel_offers();
  Answer adopt(const LogId& former, const Outbound& offered);
  Answer deliver(MonoTime now, const LogId& sender_log, Sequence sequence, Sequence prev,
                 const Message& message);
  Answer deliver_kept(MonoTime now, const LogId& keeper, const Outbound& kept);
  std::optional<Delivery> receive(MonoTime now, const AgentName& agent, Milliseconds lease,
                                  const std::optional<MessageId>& in_reply_to,
                                  const std::set<Sequence>* only = nullptr);
  Result<std::optional<Delivery>> receive_part(MonoTime now, const AgentName& agent,
                                               Milliseconds lease, const AgentName& from,
                                               const MessageId& stream, std::uint32_t part);
  bool await_reply(const AgentName& agent, const MessageId& id);
  void forget_reply(const AgentName& agent, const MessageId& id);
  Result<AckResult> ack(const AgentName& agent, const MessageId& id, std::uint16_t attempt);
  Result<AckResult> purge(const AgentName& agent, const MessageId& id);
  Status redrive(const AgentName& agent, const MessageId& id);
  std::vector<Summary> dead_letters(const AgentName& agent, std::size_t most) const;
  std::uint32_t dead_letter_count(const AgentName& agent) const {
    const Inbox* inbox = find_inbox(agent);
    return inbox == nullptr ? 0 : inbox->dead;
  }
  std::vector<AgentName> take_ready();
  bool has_ready() const { return !woken_.empty(); }
  bool is_local(const AgentName& agent) const {
    return is_of_pod(agent) && number_in_pod(agent.value) < agents_;
  }
  void on_ack_recorded(Sequence inbox);
  std::vector<AckDebt> ack_debts(const AgentName& sender) const;
  std::vector<AgentName> ack_creditors() const;
  std::map<AgentName, std::set<LogId>> senders() const;
  void on_incarnation(const AgentName& name, const LogId& current);
  std::vector<Sequence> on_former(const AgentName& name, const LogId& log);
  std::vector<Sequence> on_gone(const AgentName& name);
  Status nack(MonoTime now, const AgentName& agent, const MessageId& id, std::uint16_t attempt,
              Milliseconds delay);
  Status extend(MonoTime now, const AgentName& agent, const MessageId& id, std::uint16_t attempt,
                Milliseconds lease);
  bool tick(MonoTime now);
  std::optional<MonoTime> next_deadline() const;
  std::vector<Summary> list(const AgentName& agent) const;
  Result<Delivery> look(const AgentName& agent, const MessageId& id, const AgentName& from) const;
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
  Entry* find_dead(const AgentName& agent, const MessageId& id);
  [[nodiscard]] bool used_up(const Entry& e) const {
    return e.attempt >= std::min<int>(e.round + limits_.max_attempts, kAttemptMask);
  }
  Status mark_attempts(Sequence sequence, const Entry& e);
  Summary summary_of(const Entry& e) const;
  Entry* find_attempt(const Inbox& inbox, const MessageId& id, std::uint16_t attempt);
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
  const Entry* find_twin(const Inbox& inbox, const Message& message, const LogId& sender_log) const;
  Answer owe(const Entry& twin, const LogId& sender_log, Sequence sequence, const Message& message);
  bool refill(const Entry& twin, const LogId& sender_log, Sequence sequence,
              const Message& message);
  Stream& stream_for(const StreamKey& key, const AgentName& from);
  [[nodiscard]] bool inbox_has_room(const Inbox& inbox, const Message& message) const;

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
  static void unblock(Destination& d) {
    for (auto& [index, stream] : d.streams) stream.blocked = false;
    for (auto& [key, stream] : d.kept) stream.blocked = false;
  }
  void carry_offer(const Kept& kept, Sequence record);
  void finish_out(const Outgoing& o);
  void pass_on(const Outgoing& o);
  void insert_out(Outgoing o);
  enum class After : std::uint8_t { kFinished, kNeverDelivered, kHandedOver };
  void remove_out(Sequence sequence, After after);
  bool never_deliver(Sequence sequence);
  void accept(Outgoing& o);
  void make_due(Destination& d, Outgoing& o);
  void doubt(Destination& d, Outgoing& o);

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
  log::Log* log_ = nullptr;
  Books books_;

  std::unordered_map<Sequence, Entry> inbox_;
  std::map<StreamKey, Stream> streams_;
  std::uint64_t use_ = 0;
  std::map<std::uint32_t, Inbox> inboxes_;  // by number; of agents that were spoken of
  std::vector<Inbox*> woken_;               // something may be ready that was not
  std::size_t awaiting_ = 0;                // replies, of all agents
  std::set<std::pair<MonoTime, Sequence>> timers_;
  std::map<AgentName, std::set<Sequence>> owed_;  // acked records by creditor, a pod
  struct Incarnations {
    LogId current;
    std::deque<Former> former;  // the youngest last, at most kMaxFormer
  };
  std::map<AgentName, Incarnations> incarnations_;
  std::set<Sequence> large_anchors_;
  struct Acked {
    const Inbox* inbox;
    MessageId id;
    std::uint16_t attempt;
    friend bool operator==(const Acked&, const Acked&) = default;
  };
  std::deque<Acked> recent_acks_;
  std::set<Sequence> pending_outcomes_;

  std::unordered_map<Sequence, Outgoing> out_;
  std::map<AgentName, Link> links_;  // by pod: that is linked, or whose agents have mail
  std::map<AgentName, Destination> destinations_;          // with mail
  std::unordered_map<std::string, Sequence> out_by_pair_;  // sender, receiver and id

  struct Predecessor {
    Sequence high = 0;     // of its offers, everything up to here was taken
    Sequence carrier = 0;  // the kept record that makes `high` survive a restart
    bool mark_only = false;
  };
  std::map<LogId, Predecessor> predecessors_;
  std::map<Origin, Sequence> kept_;         // live
  std::set<Sequence> handed_over_;          // of this log
  std::set<Sequence> offers_, offers_due_;  // not answered; of them, not under way

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
  };
  std::vector<Restored> restored_;
};

// ---- recovery

void Mailbox::Impl::restore(const log::Record& record) {
  Restored r{record.sequence, record.kind, record.state, record.attempt, {}, {}, {}};
  // A record that is whole but cannot be understood was written by a later release: left alone, for
  // that one to find.
  if (record.kind == kOutbox) {
    auto m = decode(record.payload);
    if (!m || !is_of_pod(m->from)) return;
    r.out = make_outgoing(record.sequence, *m, record.payload.size());
    r.out->restored = r.out->uncertain = r.out->anywhere = true;
  } else if (record.kind == kKept) {
    if (record.payload.size() < kKeptPrefix) return;
    auto offered = decode_outbound(log::get<Sequence>(record.payload, kKeptPrefix - 8), 0,
                                   record.payload.substr(kKeptPrefix));
    if (!offered || offered->origin.log.empty() || !is_of_pod(offered->message.from)) return;
    r.out = make_outgoing(record.sequence, offered->message, record.payload.size());
    r.out->accepted = r.out->restored = r.out->uncertain = r.out->anywhere = true;
    r.out->kept = std::make_unique<Kept>(
        Kept{get_log_id(record.payload, 0), offered->sequence, offered->origin});
  } else if (record.kind == kInbox) {
    if (record.payload.size() < kInboxPrefix) return;
    auto m = decode(record.payload.substr(kInboxPrefix));
    if (!m || !is_of_pod(m->to)) return;
    r.entry = make_entry(record.sequence, get_log_id(record.payload, 0),
                         log::get<Sequence>(record.payload, 16), *m, record.payload.size());
  } else if (record.kind == kCursor || record.kind == kUserId) {
    r.head = std::string(record.payload);
  } else {
    return;
  }
  restored_.push_back(std::move(r));
}

void Mailbox::Impl::attach(log::Log& log, MonoTime now) {
  log_ = &log;
  for (Restored& r : restored_) {
    if (r.out) {
      Outgoing& o = *r.out;
      const std::uint16_t mark = r.state == State::kTaken ? r.attempt : std::uint16_t{0};
      if (o.kept) {
        carry_offer(*o.kept, r.sequence);
        Predecessor& former = predecessors_.at(o.kept->former);
        if (mark == kMarkOnly) {
          if (former.carrier == r.sequence)
            former.mark_only = true;
          else
            finish_record(r.sequence);
          continue;
        }
      }
      ++(o.kept ? books_.adopted : books_.sent);
      if (mark == kHandedOver) {
        ++books_.handed_over;
        handed_over_.insert(r.sequence);
        pass_on(o);
        continue;
      }
      o.offered = mark == kOffered;
      insert_out(std::move(o));
    } else if (r.kind == kCursor) {
      const auto c = decode_cursor(r.head);
      if (!c) continue;
      Stream& stream = stream_for({c->sender_log, c->to, c->stream}, c->from);
      if (c->high > stream.high) {
        stream.high = c->high;
        carry(stream, r.sequence, true);
      } else {
        finish_record(r.sequence);
      }
    } else if (r.entry) {
      Entry e = std::move(*r.entry);
      const std::uint16_t bits = r.attempt & kAnchorBits;
      e.attempt = r.attempt & kAttemptMask;
      // Rounds begin at multiples of max_attempts; a record that is live begins one.
      e.round = r.state == State::kLive || e.attempt == 0
                    ? e.attempt
                    : static_cast<std::uint16_t>((e.attempt - 1) / limits_.max_attempts *
                                                 limits_.max_attempts);
      if (r.state == State::kDead)
        e.where = Where::kDead;
      else if (r.state == State::kTaken && bits == kAnchorBits)
        e.where = Where::kAnchor;
      else if (r.state == State::kTaken && bits == kAckedBit)
        e.where = Where::kAcked;
      Stream* stream = e.local() ? nullptr : &stream_for(key_of(e), e.from);
      const bool highest = stream != nullptr && e.sender_sequence > stream->high;
      if (!highest && e.where == Where::kAnchor) {
        finish_record(r.sequence);
        continue;
      }
      insert(std::move(e));
      if (highest) {
        stream->high = std::max(stream->high, inbox_.at(r.sequence).sender_sequence);
        carry(*stream, r.sequence, false);
      }
    }
  }
  // Ids need the messages to be there.
  for (const Restored& r : restored_) {
    if (r.kind != kUserId) continue;
    const auto u = decode_user_id(r.head);
    if (!u) continue;
    if (u->received) {
      Inbox& inbox = inbox_of(u->self);
      const std::string pair = pair_key(u->peer, u->id);
      const bool live = inbox.by_pair.count(pair) != 0;
      if (r.state != State::kTaken && !live) {
        finish_record(r.sequence);
        continue;
      }
      if (r.state != State::kTaken) record_outcome(r.sequence);
      remember_received(now, inbox, pair, r.sequence);
      continue;
    }
    const AgentName self = agent_of(pod_, u->self);
    const std::string pair = pair_key(self, u->peer, u->id);
    const auto out = out_by_pair_.find(pair);
    const Inbox* to = u->local ? find_inbox(u->peer) : nullptr;
    Sequence stored = 0;
    if (to != nullptr) {
      if (const auto in = to->by_pair.find(pair_key(self, u->id)); in != to->by_pair.end())
        stored = in->second;
    }
    const bool accepted = r.state == State::kTaken || stored != 0;
    if (!accepted && out == out_by_pair_.end()) {
      finish_record(r.sequence);  // its message never came to be
      continue;
    }
    remember_sent(now, pair, u->peer, r.sequence);
    const auto known = sent_ids_.find(pair);
    if (known == sent_ids_.end()) continue;  // more than max_user_ids
    known->second.accepted = accepted;
    known->second.local = u->local;
    known->second.sequence = out != out_by_pair_.end() ? out->second : stored;
    if (accepted && r.state != State::kTaken) record_outcome(r.sequence);
    if (accepted && out != out_by_pair_.end()) out_.at(out->second).accepted = true;
  }
  restored_.clear();
  restored_.shrink_to_fit();
  crash_point("recovery-attached");
  (void)tick(now);
}

// ---- log

void Mailbox::Impl::finish_record(Sequence sequence) {
  pending_outcomes_.erase(sequence);
  log_->finish(sequence);
}

// A user id's record says "accepted" or "stored" before its message's record goes: else a crash
// would forget the id.
void Mailbox::Impl::record_outcome(Sequence record) {
  if (!log_->mark(record, State::kTaken, 1)) pending_outcomes_.insert(record);
}

bool Mailbox::Impl::record_pending_outcomes() {
  while (!pending_outcomes_.empty()) {
    if (!log_->mark(*pending_outcomes_.begin(), State::kTaken, 1)) return false;
    pending_outcomes_.erase(pending_outcomes_.begin());
  }
  return true;
}

Result<Message> Mailbox::Impl::read_inbox(Sequence sequence) const {
  auto bytes = log_->read(sequence);
  if (!bytes) return bytes.error();
  if (bytes->size() < kInboxPrefix) return Error{Code::kCorrupt, "an inbox record is cut short"};
  return decode(std::string_view(*bytes).substr(kInboxPrefix));
}

// ---- receiving: indexes

Mailbox::Impl::Inbox& Mailbox::Impl::inbox_of(std::uint32_t number) {
  const auto [it, added] = inboxes_.try_emplace(number);
  if (added) {
    it->second.name = agent_of(pod_, number);
    it->second.number = number;
  }
  return it->second;
}

// nullptr: not one of this pod's, or nothing was ever for it.
Mailbox::Impl::Inbox* Mailbox::Impl::find_inbox(const AgentName& agent) {
  if (!is_of_pod(agent)) return nullptr;
  const auto it = inboxes_.find(number_in_pod(agent.value));
  return it == inboxes_.end() ? nullptr : &it->second;
}

void Mailbox::Impl::wake(Inbox& inbox) {
  if (!std::exchange(inbox.woken, true)) woken_.push_back(&inbox);
}

std::vector<AgentName> Mailbox::Impl::take_ready() {
  std::vector<AgentName> out;
  out.reserve(woken_.size());
  for (Inbox* inbox : std::exchange(woken_, {})) {
    inbox->woken = false;
    out.push_back(inbox->name);
  }
  return out;
}

Mailbox::Impl::Entry Mailbox::Impl::make_entry(Sequence sequence, const LogId& sender_log,
                                               Sequence sender_sequence, const Message& m,
                                               std::size_t payload) {
  Entry e;
  e.inbox = &inbox_of(number_in_pod(m.to.value));
  e.sequence = sequence;
  e.sender_log = sender_log;
  e.sender_sequence = sender_sequence;
  e.id = m.id;
  e.in_reply_to = m.in_reply_to;
  e.from = m.from;
  e.priority = m.priority;
  e.body_bytes = static_cast<std::uint32_t>(m.body.size());
  e.payload_bytes = static_cast<std::uint32_t>(payload);
  e.sent_at = m.sent_at;
  if (m.stream) e.stream = std::make_shared<const StreamPart>(*m.stream);
  return e;
}

Mailbox::Impl::Outgoing Mailbox::Impl::make_outgoing(Sequence sequence, const Message& m,
                                                     std::size_t payload) const {
  Outgoing o;
  o.sequence = sequence;
  o.id = m.id;
  o.from = m.from;
  o.to = m.to;
  o.priority = m.priority;
  o.reply = !m.in_reply_to.empty();
  o.body_bytes = static_cast<std::uint32_t>(m.body.size());
  o.payload_bytes = static_cast<std::uint32_t>(payload);
  o.sent_at = m.sent_at;
  return o;
}

Mailbox::Impl::Stream& Mailbox::Impl::stream_for(const StreamKey& key, const AgentName& from) {
  Stream& stream = streams_[key];
  if (stream.from.empty()) stream.from = pod_of(from);
  stream.used = ++use_;
  return stream;
}

Mailbox::Impl::Entry& Mailbox::Impl::insert(Entry entry) {
  const Sequence sequence = entry.sequence;
  Entry& e = inbox_[sequence] = std::move(entry);
  Inbox& inbox = *e.inbox;
  if (e.where == Where::kAnchor) {
    if (e.payload_bytes > kSmallAnchorBytes) large_anchors_.insert(sequence);
    return e;
  }
  // Two live records of one message: a crash interrupted the change of its creditor. The later one
  // counts.
  if (const auto twin = inbox.by_pair.find(pair_key(e.from, e.id));
      twin != inbox.by_pair.end() && !e.local()) {
    Entry& old = inbox_.at(twin->second);
    if (!old.local() && old.sender_log != e.sender_log && old.where != Where::kAcked) {
      if (old.attempt > e.attempt && e.where == Where::kReady) {
        e.attempt = old.attempt;
        e.round = old.round;
        (void)mark_attempts(sequence, e);  // else the next restart begins to count anew
      }
      retire(old);
      --books_.stored;
      release(old);
    }
  }
  if (!e.local()) streams_.at(key_of(e)).live[e.sender_sequence] = sequence;
  index(e);
  if (e.where == Where::kAcked) {
    owed_[pod_of(e.from)].insert(sequence);
    return e;
  }
  ++books_.stored;
  e.counted = e.in_reply_to.empty() || inbox.awaited.count(e.in_reply_to) == 0;
  if (e.counted) ++inbox.counted;
  enroll(e);
  if (e.where == Where::kDead) {
    ++inbox.dead;
    ++books_.dead;
  } else {
    ++inbox.live;
    set_ready(e);
  }
  return e;
}

// To be found by what it belongs to.
void Mailbox::Impl::enroll(const Entry& e) {
  Inbox& inbox = *e.inbox;
  if (!e.in_reply_to.empty()) inbox.replies[e.in_reply_to].insert(e.sequence);
  if (e.stream)
    inbox.parts[pair_key(e.from, e.stream->stream)].insert({e.stream->part, e.sequence});
}

void Mailbox::Impl::index(const Entry& e) {
  e.inbox->by_id.emplace(e.id, e.sequence);
  e.inbox->by_pair[pair_key(e.from, e.id)] = e.sequence;
}

void Mailbox::Impl::unindex(const Entry& e) {
  Inbox& inbox = *e.inbox;
  const auto [begin, end] = inbox.by_id.equal_range(e.id);
  for (auto it = begin; it != end; ++it) {
    if (it->second == e.sequence) {
      inbox.by_id.erase(it);
      break;
    }
  }
  const auto pair = inbox.by_pair.find(pair_key(e.from, e.id));
  if (pair != inbox.by_pair.end() && pair->second == e.sequence) inbox.by_pair.erase(pair);
}

void Mailbox::Impl::set_ready(Entry& e) {
  Inbox& inbox = *e.inbox;
  e.where = Where::kReady;
  wake(inbox);
  if (e.stream) return;
  if (e.in_reply_to.empty() || inbox.awaited.count(e.in_reply_to) == 0)
    inbox.ready[static_cast<std::size_t>(e.priority)].insert(e.sequence);
}

void Mailbox::Impl::leave(Entry& e) {
  Inbox& inbox = *e.inbox;
  inbox.ready[static_cast<std::size_t>(e.priority)].erase(e.sequence);
  wake(inbox);  // for what had to wait until it was out of the way
  if (e.where == Where::kLeased || e.where == Where::kDelayed) timers_.erase({e.until, e.sequence});
  if (e.where == Where::kLeased) {
    if (const auto it = inbox.leased_ids.find(e.id); --it->second == 0) inbox.leased_ids.erase(it);
  }
}

// Out of everything that counts it as live, before it is acked or replaced.
void Mailbox::Impl::retire(Entry& e) {
  Inbox& inbox = *e.inbox;
  leave(e);
  if (e.where == Where::kDead)
    --inbox.dead;
  else
    --inbox.live;
  if (e.counted) --inbox.counted;
  e.counted = false;
  if (e.stream) {
    const auto parts = inbox.parts.find(pair_key(e.from, e.stream->stream));
    if (parts != inbox.parts.end() && parts->second.erase({e.stream->part, e.sequence}) != 0 &&
        parts->second.empty())
      inbox.parts.erase(parts);
  }
  if (e.in_reply_to.empty()) return;
  const auto it = inbox.replies.find(e.in_reply_to);
  if (it != inbox.replies.end() && it->second.erase(e.sequence) != 0 && it->second.empty())
    inbox.replies.erase(it);
}

// A dead letter keeps its second copy in the sender's outbox: no ack is owed for it until somebody
// ends it by purge().
void Mailbox::Impl::make_dead(Entry& e) {
  leave(e);
  (void)log_->mark(e.sequence, State::kDead,
                   e.attempt);  // else it is found as kTaken with all attempts used
  crash_point("dead-marked");
  e.where = Where::kDead;
  --e.inbox->live;
  ++e.inbox->dead;
  ++books_.dead;
}

// The dead letter of that id; of several senders' the one that came first.
Mailbox::Impl::Entry* Mailbox::Impl::find_dead(const AgentName& agent, const MessageId& id) {
  Entry* first = nullptr;
  const Inbox* inbox = find_inbox(agent);
  if (inbox == nullptr) return nullptr;
  const auto [begin, end] = inbox->by_id.equal_range(id);
  for (auto it = begin; it != end; ++it) {
    Entry& e = inbox_.at(it->second);
    if (e.where == Where::kDead && (first == nullptr || e.sequence < first->sequence)) first = &e;
  }
  return first;
}

// Writes how often the message of `e`, which is not dead, was handed out. A record that begins a
// round stays live with that number, which is what tells it from one whose attempts are used up.
Status Mailbox::Impl::mark_attempts(Sequence sequence, const Entry& e) {
  return log_->mark(sequence, e.attempt == e.round ? State::kLive : State::kTaken, e.attempt);
}

// ---- receiving: streams

const Mailbox::Impl::Former* Mailbox::Impl::find_former(const AgentName& name,
                                                        const LogId& log) const {
  const auto it = incarnations_.find(pod_of(name));
  if (it == incarnations_.end()) return nullptr;
  const auto& former = it->second.former;
  const auto found =
      std::find_if(former.begin(), former.end(), [&](const Former& f) { return f.log == log; });
  return found == former.end() ? nullptr : &*found;
}

Mailbox::Impl::Former& Mailbox::Impl::remember_former(const AgentName& pod, const LogId& log) {
  auto& former = incarnations_.at(pod).former;
  const auto found =
      std::find_if(former.begin(), former.end(), [&](const Former& f) { return f.log == log; });
  if (found != former.end()) return *found;
  if (former.size() >= kMaxFormer) former.pop_front();
  return former.emplace_back(Former{log, false});
}

// Makes `record` the carrier of the stream's high-water mark; the one before it is no longer needed
// for that.
void Mailbox::Impl::carry(Stream& stream, Sequence record, bool cursor) {
  if (stream.carrier != record) drop_carrier(stream);
  stream.carrier = record;
  stream.carrier_is_cursor = cursor;
}

// A cursor or anchor has no other use; a live record has, and only ceases to be the carrier.
void Mailbox::Impl::drop_carrier(Stream& stream) {
  const Sequence old = std::exchange(stream.carrier, 0);
  if (old == 0) return;
  if (stream.carrier_is_cursor) {
    finish_record(old);
  } else if (const auto it = inbox_.find(old);
             it != inbox_.end() && it->second.where == Where::kAnchor) {
    large_anchors_.erase(old);
    inbox_.erase(it);
    finish_record(old);
  }
  stream.carrier_is_cursor = false;
}

bool Mailbox::Impl::write_cursor(const StreamKey& key, Stream& stream) {
  const auto& [sender_log, to, index] = key;
  auto written =
      log_->append(kCursor, encode_cursor({sender_log, index, stream.high, stream.from, to}));
  if (!written) return false;
  crash_point("cursor-appended");
  stream.carrier = *written;
  stream.carrier_is_cursor = true;
  return true;
}

// The record of `e` has served (acked and recorded, or its sender is gone). When it carries its
// stream's mark it stays as an anchor, which needs no space, or is replaced by a small cursor
// record, which needs some.
void Mailbox::Impl::release(Entry& e) {
  const Sequence sequence = e.sequence;
  unindex(e);
  if (!e.local()) {
    const StreamKey key = key_of(e);
    const auto it = streams_.find(key);
    if (it != streams_.end()) {
      Stream& stream = it->second;
      stream.live.erase(e.sender_sequence);
      if (stream.carrier == sequence &&
          (e.payload_bytes <= kSmallAnchorBytes || !write_cursor(key, stream))) {
        e.where = Where::kAnchor;
        (void)log_->mark(sequence, State::kTaken,
                         kAnchorBits);  // else it is settled once more after a restart
        if (e.payload_bytes > kSmallAnchorBytes) large_anchors_.insert(sequence);
        e.id.value.clear();
        e.id.value.shrink_to_fit();
        return;
      }
      if (stream.carrier == sequence) stream.carrier = 0;
    }
  }
  inbox_.erase(sequence);
  finish_record(sequence);
}

// Replaces a large anchor by a cursor record, when there is room again.
void Mailbox::Impl::shrink_anchor(Sequence sequence) {
  const auto it = inbox_.find(sequence);
  check(it != inbox_.end() && it->second.where == Where::kAnchor, "a large anchor is in the inbox");
  const Entry& e = it->second;
  const StreamKey key = key_of(e);
  if (!write_cursor(key, streams_.at(key))) return;
  large_anchors_.erase(sequence);
  inbox_.erase(it);
  finish_record(sequence);
}

// Below max_streams, if need be by forgetting the mark that was used least recently and has nothing
// live.
bool Mailbox::Impl::room_for_stream() {
  if (streams_.size() < limits_.max_streams) return true;
  auto oldest = streams_.end();
  for (auto it = streams_.begin(); it != streams_.end(); ++it) {
    if (it->second.live.empty() &&
        (oldest == streams_.end() || it->second.used < oldest->second.used))
      oldest = it;
  }
  if (oldest == streams_.end()) return false;
  drop_carrier(oldest->second);
  streams_.erase(oldest);
  return true;
}

// ---- receiving

bool Mailbox::Impl::inbox_has_room(const Inbox& inbox, const Message& message) const {
  if (inbox.counted < limits_.max_inbox_messages) return true;
  // The one reserved place of a reply that is waited for.
  return !message.in_reply_to.empty() && inbox.awaited.count(message.in_reply_to) != 0 &&
         inbox.replies.count(message.in_reply_to) == 0;
}

Result<Sequence> Mailbox::Impl::store(MonoTime now, const LogId& sender_log, Sequence sequence,
                                      const Message& message) {
  Sequence id_record = 0;
  const bool received = !sender_log.empty();
  if (!is_generated(message.id) && received) {
    auto written = log_->append(kUserId, encode_user_id({true, false, message.from, message.id,
                                                         number_in_pod(message.to.value)}));
    if (!written) return written.error();
    id_record = *written;
    crash_point("inbox-id-appended");
  }
  const std::string payload = encode_inbox(sender_log, sequence, message);
  auto written = log_->append(kInbox, payload);
  if (!written) {
    if (id_record != 0) finish_record(id_record);
    return written.error();
  }
  crash_point("inbox-appended");
  if (id_record != 0) {
    // Until here the id alone must not count as "stored before" (a crash may have come between the
    // two).
    record_outcome(id_record);
    remember_received(now, inbox_of(number_in_pod(message.to.value)),
                      pair_key(message.from, message.id), id_record);
  }
  Entry entry = make_entry(*written, sender_log, sequence, message, payload.size());
  if (received) {
    Stream& stream = stream_for(key_of(entry), message.from);
    stream.high = sequence;
    insert(std::move(entry));
    carry(stream, *written, false);
  } else {
    insert(std::move(entry));
  }
  return *written;
}

Answer Mailbox::Impl::deliver(MonoTime now, const LogId& sender_log, Sequence sequence,
                              Sequence prev, const Message& message) {
  expire_ids(now);
  if (sender_log.empty() || sequence == 0 || prev >= sequence || !is_of_pod(message.to) ||
      !is_agent_name(message.from.value) || !is_message_id(message.id.value) ||
      (!message.in_reply_to.empty() && !is_message_id(message.in_reply_to.value)) ||
      static_cast<int>(message.priority) >= kPriorities || !may_stream(message) ||
      message.body.size() > limits_.max_message_bytes) {
    return Answer::kRefused;
  }
  const Inbox& inbox = inbox_of(number_in_pod(message.to.value));
  const StreamKey key{sender_log, inbox.number,
                      stream_of(message.priority, !message.in_reply_to.empty())};
  const auto known = streams_.find(key);
  const Sequence high = known == streams_.end() ? 0 : known->second.high;
  if (sequence <= high) {
    ++books_.duplicates;
    const auto live = known->second.live.find(sequence);
    if (live != known->second.live.end()) {
      return inbox_.at(live->second).where == Where::kAcked ? Answer::kFinished
                                                            : Answer::kDuplicate;
    }
    // Done with, or owed to another pod of its sender's name, which has sent it, too.
    const Entry* twin = find_twin(inbox, message, sender_log);
    return twin == nullptr ? Answer::kFinished : owe(*twin, sender_log, sequence, message);
  }
  if (prev > high) return Answer::kGap;
  // The same message under another sequence: its sender's pod was lost and the agent sent it again.
  const std::string pair = pair_key(message.from, message.id);
  const auto same = inbox.by_pair.find(pair);
  const bool live = same != inbox.by_pair.end() && inbox_.at(same->second).where != Where::kAcked;
  if (!live && (same != inbox.by_pair.end() || inbox.received_ids.count(pair) != 0)) {
    if (known == streams_.end() && !room_for_stream()) return Answer::kFull;
    stream_for(key, message.from).high = sequence;
    ++books_.duplicates;
    return Answer::kFinished;
  }
  if (known == streams_.end() && !room_for_stream()) return Answer::kFull;
  // Also of the same log: taken back there, when a copy was still on its way, and sent again.
  if (live && !inbox_.at(same->second).local())
    return owe(inbox_.at(same->second), sender_log, sequence, message);
  // From here on it is certain that nobody here has it.
  const bool awaited =
      !message.in_reply_to.empty() && inbox.awaited.count(message.in_reply_to) != 0;
  if ((draining_ && !awaited) || !is_local(message.to)) return Answer::kRefused;
  if (!inbox_has_room(inbox, message)) {
    ++books_.full;
    return Answer::kFull;
  }
  if (!store(now, sender_log, sequence, message)) {
    ++books_.full;
    return Answer::kFull;
  }
  return Answer::kStored;
}

Answer Mailbox::Impl::deliver_kept(MonoTime now, const LogId& keeper, const Outbound& kept) {
  const Message& m = kept.message;
  const Answer answer = deliver(now, kept.origin.log, kept.origin.sequence, kept.prev, m);
  if (answer != Answer::kStored && answer != Answer::kDuplicate && answer != Answer::kFinished)
    return answer;
  const auto stream = streams_.find(
      {kept.origin.log, number_in_pod(m.to.value), stream_of(m.priority, !m.in_reply_to.empty())});
  if (stream == streams_.end()) return answer;
  const auto live = stream->second.live.find(kept.origin.sequence);
  if (live == stream->second.live.end()) return answer;
  Entry& e = inbox_.at(live->second);
  e.keeper = keeper;
  e.keeper_sequence = kept.sequence;
  return answer;
}

// The same message in the inbox, live, from another pod of its sender's name.
const Mailbox::Impl::Entry* Mailbox::Impl::find_twin(const Inbox& inbox, const Message& message,
                                                     const LogId& sender_log) const {
  const auto it = inbox.by_pair.find(pair_key(message.from, message.id));
  if (it == inbox.by_pair.end()) return nullptr;
  const Entry& e = inbox_.at(it->second);
  return e.where == Where::kAcked || e.local() || e.sender_log == sender_log ? nullptr : &e;
}

// `sender_log` has it, too. Whoever has sent it last is owed the ack, but no former pod in place of
// the one that has its name now: it would keep its copy without ever hearing of the ack.
Answer Mailbox::Impl::owe(const Entry& twin, const LogId& sender_log, Sequence sequence,
                          const Message& message) {
  const bool is_former = find_former(message.from, sender_log) != nullptr &&
                         find_former(message.from, twin.creditor()) == nullptr;
  if (is_former) {
    Stream& stream = stream_for(
        {sender_log, twin.inbox->number, stream_of(message.priority, !message.in_reply_to.empty())},
        message.from);
    stream.high = std::max(stream.high, sequence);
    return Answer::kDuplicate;
  }
  return refill(twin, sender_log, sequence, message) ? Answer::kDuplicate : Answer::kFull;
}

// Writes `twin` again as owed to its sender's new log, so that the two pods hold the same message
// once more.
bool Mailbox::Impl::refill(const Entry& twin, const LogId& sender_log, Sequence sequence,
                           const Message& message) {
  const Entry old = twin;  // by value: it goes
  const std::string payload = encode_inbox(sender_log, sequence, message);
  auto written = log_->append(kInbox, payload);
  if (!written) return false;
  Status marked = old.where == Where::kDead ? log_->mark(*written, State::kDead, old.attempt)
                                            : mark_attempts(*written, old);
  // As if acked: whatever cannot be written below, no restart hands it out again.
  const auto acked = static_cast<std::uint16_t>(kAckedBit | (old.attempt & kAttemptMask));
  if (marked) marked = log_->mark(old.sequence, State::kTaken, acked);
  if (!marked) {
    finish_record(*written);
    return false;
  }
  Entry& stale = inbox_.at(old.sequence);
  retire(stale);
  release(stale);
  Entry next = make_entry(*written, sender_log, sequence, message, payload.size());
  next.attempt = old.attempt;
  next.round = old.round;
  next.counted = old.counted;
  next.until = old.until;
  next.where = old.where;
  Stream& stream = stream_for(key_of(next), message.from);
  const bool latest = sequence > stream.high;
  stream.high = std::max(stream.high, sequence);
  stream.live[sequence] = next.sequence;
  Entry& e = inbox_[next.sequence] = std::move(next);
  index(e);
  Inbox& inbox = *e.inbox;
  if (e.where == Where::kDead)
    ++inbox.dead;
  else
    ++inbox.live;
  if (e.counted) ++inbox.counted;
  enroll(e);
  if (e.where == Where::kReady) set_ready(e);
  if (e.where == Where::kLeased || e.where == Where::kDelayed)
    timers_.insert({e.until, e.sequence});
  if (e.where == Where::kLeased) ++inbox.leased_ids[e.id];
  if (latest) carry(stream, e.sequence, false);
  ++books_.duplicates;
  return true;
}

std::optional<Delivery> Mailbox::Impl::receive(MonoTime now, const AgentName& agent,
                                               Milliseconds lease,
                                               const std::optional<MessageId>& in_reply_to,
                                               const std::set<Sequence>* only) {
  (void)tick(now);
  Inbox* const found = find_inbox(agent);
  if (found == nullptr) return std::nullopt;
  Inbox& inbox = *found;
  std::vector<Sequence> dead;
  std::optional<Delivery> out;
  auto take = [&](const std::set<Sequence>& candidates) {
    for (const Sequence sequence : candidates) {
      Entry& e = inbox_.at(sequence);
      if (e.where != Where::kReady || inbox.leased_ids.count(e.id) != 0) continue;
      // All attempts were used before a restart; an ack of the last one could still have come until
      // now.
      if (used_up(e)) {
        dead.push_back(sequence);
        continue;
      }
      auto message = read_inbox(sequence);
      if (!message) {
        if (message.error().code == Code::kCorrupt) dead.push_back(sequence);
        wake(inbox);  // it may be readable the next time
        continue;
      }
      const auto attempt = static_cast<std::uint16_t>(e.attempt + 1);
      if (!log_->mark(sequence, State::kTaken, attempt)) {
        wake(inbox);
        return true;
      }
      crash_point("hand-out-marked");
      e.attempt = attempt;
      inbox.ready[static_cast<std::size_t>(e.priority)].erase(sequence);
      e.where = Where::kLeased;
      e.until = now + lease;
      timers_.insert({e.until, sequence});
      ++inbox.leased_ids[e.id];
      ++books_.delivered;
      if (attempt > 1) ++books_.redelivered;
      out = Delivery{std::move(*message), attempt, attempt > 1, e.until};
      return true;
    }
    return false;
  };
  if (only != nullptr) {
    (void)take(*only);
  } else if (in_reply_to) {
    if (const auto it = inbox.replies.find(*in_reply_to); it != inbox.replies.end())
      (void)take(it->second);
  } else {
    std::array<bool, kPriorities> nothing{};  // that can be handed out now
    while (const auto priority = inbox.turns.next(
               [&](std::size_t p) { return !nothing[p] && !inbox.ready[p].empty(); })) {
      if (take(inbox.ready[*priority])) {
        if (out) inbox.turns.spend(*priority);
        break;
      }
      nothing[*priority] = true;
    }
  }
  for (const Sequence sequence : dead) make_dead(inbox_.at(sequence));
  return out;
}

// One part after the other: the next only when nothing is left of the one before, so that it stays
// the order also when a part is handed out again.
Result<std::optional<Delivery>> Mailbox::Impl::receive_part(MonoTime now, const AgentName& agent,
                                                            Milliseconds lease,
                                                            const AgentName& from,
                                                            const MessageId& stream,
                                                            std::uint32_t part) {
  (void)tick(now);
  const Inbox* inbox = find_inbox(agent);
  if (inbox == nullptr) return std::optional<Delivery>();
  const auto parts = inbox->parts.find(pair_key(from, stream));
  if (parts == inbox->parts.end()) return std::optional<Delivery>();
  const auto [first, sequence] = *parts->second.begin();
  const std::string name = " of stream " + stream.value + " from " + from.value;
  if (inbox_.at(sequence).where == Where::kDead) {
    return Error{Code::kDenied, "part " + std::to_string(first) + name +
                                    " is a dead letter: redrive it, or purge it and go on behind"};
  }
  if (first > part) {
    return Error{Code::kDenied, "part " + std::to_string(part) + name +
                                    " is lost, or was read before; the next one is part " +
                                    std::to_string(first)};
  }
  const std::set<Sequence> only{sequence};
  return receive(now, agent, lease, std::nullopt, &only);
}

bool Mailbox::Impl::await_reply(const AgentName& agent, const MessageId& id) {
  if (!is_local(agent)) return false;
  Inbox& inbox = inbox_of(number_in_pod(agent.value));
  if (inbox.awaited.count(id) != 0) return true;
  if (awaiting_ >= kMaxAwaited) return false;
  inbox.awaited.insert(id);
  ++awaiting_;
  const auto it = inbox.replies.find(id);
  if (it == inbox.replies.end()) return true;
  for (const Sequence sequence : it->second) {
    Entry& e = inbox_.at(sequence);
    inbox.ready[static_cast<std::size_t>(e.priority)].erase(sequence);
    if (e.counted) --inbox.counted;
    e.counted = false;
  }
  return true;
}

void Mailbox::Impl::forget_reply(const AgentName& agent, const MessageId& id) {
  Inbox* inbox = find_inbox(agent);
  if (inbox == nullptr || inbox->awaited.erase(id) == 0) return;
  --awaiting_;
  const auto it = inbox->replies.find(id);
  if (it == inbox->replies.end()) return;
  for (const Sequence sequence : it->second) {
    Entry& e = inbox_.at(sequence);
    if (!e.counted) ++inbox->counted;
    e.counted = true;
    if (e.where == Where::kReady) set_ready(e);
  }
}

// The live or acked record that `attempt` of `id` speaks about. Ids of different senders may be
// equal: then the one that is leased, of which there is never more than one.
Mailbox::Impl::Entry* Mailbox::Impl::find_attempt(const Inbox& inbox, const MessageId& id,
                                                  std::uint16_t attempt) {
  Entry* best = nullptr;
  auto rank = [&](const Entry& e) {
    if (!e.is_current(attempt)) return 0;
    return e.where == Where::kLeased                                ? 4
           : e.where == Where::kReady || e.where == Where::kDelayed ? 3
                                                                    : 2;
  };
  const auto [begin, end] = inbox.by_id.equal_range(id);
  const bool several = begin != end && std::next(begin) != end;
  for (auto it = begin; it != end; ++it) {
    Entry& e = inbox_.at(it->second);
    // The rest of a change of its creditor, which a crash interrupted, has no attempts of its own.
    if (several) {
      const auto latest = inbox.by_pair.find(pair_key(e.from, id));
      if (latest != inbox.by_pair.end() && latest->second != e.sequence) continue;
    }
    if (best == nullptr || rank(e) > rank(*best)) best = &e;
  }
  return best;
}

Result<AckResult> Mailbox::Impl::ack(const AgentName& agent, const MessageId& id,
                                     std::uint16_t attempt) {
  const Inbox* inbox = find_inbox(agent);
  if (inbox == nullptr) return not_found("no message " + id.value + " here");
  Entry* e = find_attempt(*inbox, id, attempt);
  if (e == nullptr) {
    const bool recent = std::find(recent_acks_.begin(), recent_acks_.end(),
                                  Acked{inbox, id, attempt}) != recent_acks_.end();
    if (recent) return AckResult{};
    return not_found("no message " + id.value + " here");
  }
  if (!e->is_current(attempt)) {
    return Error{Code::kDenied, "attempt " + std::to_string(attempt) + " of " + id.value +
                                    " is not the current one"};
  }
  return settle_or_owe(*e, attempt);
}

Result<AckResult> Mailbox::Impl::purge(const AgentName& agent, const MessageId& id) {
  Entry* e = find_dead(agent, id);
  if (e == nullptr) return not_found("no dead letter " + id.value + " here");
  return settle_or_owe(*e, e->attempt);
}

// Its attempts count on from the next multiple of max_attempts, so that no number is used twice and
// an ack from before finds none of its own; the record, its place in its stream and the sender's
// copy stay what they are.
Status Mailbox::Impl::redrive(const AgentName& agent, const MessageId& id) {
  Entry* e = find_dead(agent, id);
  if (e == nullptr) return not_found("no dead letter " + id.value + " here");
  const int most = limits_.max_attempts;
  const int round = (e->attempt + most - 1) / most * most;
  if (round + most > kAttemptMask) {
    return Error{Code::kDenied, id.value + " was handed out " + std::to_string(e->attempt) +
                                    " times, and its attempts can't be counted on: purge it"};
  }
  if (auto message = read_inbox(e->sequence); !message) {
    if (message.error().code != Code::kCorrupt) return message.error();
    return Error{Code::kDenied,
                 id.value + "'s stored copy is damaged and can't be handed out: purge it"};
  }
  if (auto s = log_->mark(e->sequence, State::kLive, static_cast<std::uint16_t>(round)); !s)
    return s.error();
  crash_point("redrive-marked");
  e->attempt = e->round = static_cast<std::uint16_t>(round);
  --e->inbox->dead;
  ++e->inbox->live;
  ++books_.redriven;
  set_ready(*e);
  return {};
}

Result<AckResult> Mailbox::Impl::settle_or_owe(Entry& e, std::uint16_t attempt) {
  const AckDebt debt = e.debt();
  if (e.where == Where::kAcked) return AckResult{debt};
  const bool owes = !e.local() && !has_ended(e.from, e.creditor());
  if (!record_pending_outcomes()) return internal_error("the log cannot be written");
  if (owes) {
    if (auto s =
            log_->mark(e.sequence, State::kTaken, static_cast<std::uint16_t>(attempt | kAckedBit));
        !s)
      return s.error();
  } else if (auto s = log_->mark(e.sequence, State::kTaken,
                                 static_cast<std::uint16_t>(attempt | kAnchorBits));
             !s) {
    return s.error();  // before anything is told: an ack that is OK stays OK, though marking it
                       // done may fail below
  }
  crash_point("ack-marked");
  retire(e);
  e.where = Where::kAcked;
  ++books_.acked;
  if (recent_acks_.size() >= kRecentAcks) recent_acks_.pop_front();
  recent_acks_.push_back({e.inbox, e.id, attempt});
  if (owes) {
    owed_[debt.sender].insert(e.sequence);
    return AckResult{debt};
  }
  release(e);
  return AckResult{};
}

void Mailbox::Impl::on_ack_recorded(Sequence inbox) {
  const auto it = inbox_.find(inbox);
  if (it == inbox_.end() || it->second.where != Where::kAcked) return;
  const auto owed = owed_.find(pod_of(it->second.from));
  if (owed != owed_.end()) {
    owed->second.erase(inbox);
    if (owed->second.empty()) owed_.erase(owed);
  }
  release(it->second);
  crash_point("inbox-released");
}

std::vector<AckDebt> Mailbox::Impl::ack_debts(const AgentName& sender) const {
  std::vector<AckDebt> out;
  const auto it = owed_.find(sender);
  if (it == owed_.end()) return out;
  for (const Sequence sequence : it->second) out.push_back(inbox_.at(sequence).debt());
  return out;
}

std::vector<AgentName> Mailbox::Impl::ack_creditors() const {
  std::vector<AgentName> out;
  for (const auto& [name, records] : owed_) out.push_back(name);
  return out;
}

std::map<AgentName, std::set<LogId>> Mailbox::Impl::senders() const {
  std::map<AgentName, std::set<LogId>> out;
  for (const auto& [sequence, e] : inbox_) {
    if (e.where != Where::kAnchor && !e.local()) out[pod_of(e.from)].insert(e.creditor());
  }
  return out;
}

void Mailbox::Impl::on_incarnation(const AgentName& name, const LogId& current) {
  if (find_former(name, current) != nullptr) return;  // an old view; it does not come back
  const auto known = incarnations_.find(name);
  if (known == incarnations_.end()) {
    if (incarnations_.size() < kMaxNames) incarnations_[name].current = current;
    return;
  }
  if (known->second.current == current) return;
  const LogId replaced = std::exchange(known->second.current, current);
  (void)remember_former(name, replaced);
}

std::vector<Sequence> Mailbox::Impl::on_former(const AgentName& name, const LogId& log) {
  const auto known = incarnations_.find(name);
  if (known == incarnations_.end() || known->second.current == log) return {};
  remember_former(name, log).ended = true;
  std::vector<Sequence> settled;
  for (const AckDebt& debt : ack_debts(name)) {
    if (debt.sender_log != log) continue;
    settled.push_back(debt.inbox);
    on_ack_recorded(debt.inbox);
  }
  // Its marks stay, until others need their room: it may still live, and send again what we have
  // answered.
  return settled;
}

std::vector<Sequence> Mailbox::Impl::on_gone(const AgentName& name) {
  std::vector<Sequence> settled;
  for (const AckDebt& debt : ack_debts(name)) {
    settled.push_back(debt.inbox);
    on_ack_recorded(debt.inbox);
  }
  return settled;
}

Status Mailbox::Impl::nack(MonoTime now, const AgentName& agent, const MessageId& id,
                           std::uint16_t attempt, Milliseconds delay) {
  const Inbox* inbox = find_inbox(agent);
  Entry* e = inbox == nullptr ? nullptr : find_attempt(*inbox, id, attempt);
  if (e == nullptr) return not_found("no message " + id.value + " here");
  if (!e->is_current(attempt) || e->where == Where::kAcked) {
    return Error{Code::kDenied, "attempt " + std::to_string(attempt) + " of " + id.value +
                                    " is not the current one"};
  }
  ++books_.nacked;
  if (used_up(*e)) {
    make_dead(*e);
    return {};
  }
  leave(*e);
  if (delay > Milliseconds::zero()) {
    e->where = Where::kDelayed;
    e->until = now + delay;
    timers_.insert({e->until, e->sequence});
  } else {
    set_ready(*e);
  }
  return {};
}

Status Mailbox::Impl::extend(MonoTime now, const AgentName& agent, const MessageId& id,
                             std::uint16_t attempt, Milliseconds lease) {
  Inbox* inbox = find_inbox(agent);
  Entry* e = inbox == nullptr ? nullptr : find_attempt(*inbox, id, attempt);
  if (e == nullptr) return not_found("no message " + id.value + " here");
  const bool holds =
      e->is_current(attempt) && (e->where == Where::kLeased || e->where == Where::kReady);
  if (!holds || (e->where == Where::kReady && inbox->leased_ids.count(id) != 0)) {
    return Error{Code::kDenied,
                 "attempt " + std::to_string(attempt) + " of " + id.value + " has no lease"};
  }
  leave(*e);
  e->where = Where::kLeased;  // also when the lease had run out, or ended with a restart, and
                              // nobody got it since
  e->until = now + lease;
  timers_.insert({e->until, e->sequence});
  ++inbox->leased_ids[id];
  return {};
}

bool Mailbox::Impl::tick(MonoTime now) {
  bool ready = false;
  while (!timers_.empty() && timers_.begin()->first <= now) {
    Entry& e = inbox_.at(timers_.begin()->second);
    if (e.where == Where::kLeased && used_up(e)) {
      make_dead(e);
      continue;
    }
    leave(e);
    set_ready(e);
    ready = true;
  }
  expire_ids(now);
  (void)record_pending_outcomes();  // else at the next tick
  if (!large_anchors_.empty()) shrink_anchor(*large_anchors_.begin());
  return ready;
}

std::optional<MonoTime> Mailbox::Impl::next_deadline() const {
  if (timers_.empty()) return std::nullopt;
  return timers_.begin()->first;
}

// ---- ids chosen by users

void Mailbox::Impl::remember_received(MonoTime now, Inbox& inbox, std::string pair,
                                      Sequence record) {
  Sequence& known = inbox.received_ids[pair];
  if (known != 0 && known != record) finish_record(known);
  known = record;
  expiries_.push_back({now + limits_.user_id_ttl, &inbox, std::move(pair), record});
  expire_ids(now, 1);
}

void Mailbox::Impl::remember_sent(MonoTime now, std::string pair, const AgentName& to,
                                  Sequence record) {
  UserId& known = sent_ids_[pair];
  if (known.record != 0 && known.record != record) finish_record(known.record);
  known = UserId{record, to, 0, false, false};
  expiries_.push_back({now + limits_.user_id_ttl, nullptr, std::move(pair), record});
  expire_ids(now, 1);
}

// Only in memory, only the latest: enough for an agent whose socket broke while its message was
// answered.
void Mailbox::Impl::remember_generated(std::string pair, UserId outcome) {
  if (generated_.size() >= kRecentGenerated) {
    forget_sent(generated_.front());
    generated_.pop_front();
  }
  generated_.push_back(std::move(pair));
  sent_ids_[generated_.back()] = std::move(outcome);
}

void Mailbox::Impl::forget_sent(const std::string& pair) {
  const auto it = sent_ids_.find(pair);
  if (it == sent_ids_.end()) return;
  if (it->second.record != 0) finish_record(it->second.record);
  sent_ids_.erase(it);
}

// All but the `newest`, which those that are still under way must not push out.
void Mailbox::Impl::expire_ids(MonoTime now, std::size_t newest) {
  for (std::size_t looked = std::min(expiries_.size() - newest, kMaxExpiriesPerCall); looked > 0;
       --looked) {
    const bool over = expiries_.size() > limits_.max_user_ids;
    if (expiries_.empty() || (!over && expiries_.front().at > now)) return;
    Expiry x = std::move(expiries_.front());
    expiries_.pop_front();
    if (x.inbox != nullptr) {
      auto& received = x.inbox->received_ids;
      const auto it = received.find(x.pair);
      if (it == received.end() || it->second != x.record) continue;
      finish_record(x.record);
      received.erase(it);
    } else {
      const auto it = sent_ids_.find(x.pair);
      if (it == sent_ids_.end() || it->second.record != x.record) continue;
      if (out_by_pair_.count(x.pair) != 0) {  // still under way: its outcome is to be remembered
        x.at = std::max(x.at, now + limits_.user_id_ttl);
        expiries_.push_back(std::move(x));
        continue;
      }
      forget_sent(x.pair);
    }
  }
}

// ---- sending

Mailbox::Impl::Destination& Mailbox::Impl::destination(const AgentName& to) {
  const auto [it, added] = destinations_.try_emplace(to);
  if (added) it->second.link = &links_[pod_of(to)];
  return it->second;
}

template <typename Each>
void Mailbox::Impl::for_each_in(const AgentName& pod, const Each& each) {
  // A pod's agents stand together: '.' comes before the digits of other pods' numbers.
  for (auto it = destinations_.lower_bound(pod);
       it != destinations_.end() && swarm::is_of_pod(it->first.value, pod.value); ++it)
    each(it->first, it->second);
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
  OutStream& stream = stream_for(d, o);
  stream.unanswered.insert(o.sequence);
  stream.due.insert(o.sequence);
  stream.passed_on = stream.passed_on || o.offered;
  out_by_pair_[pair_key(o.from, o.to, o.id)] = o.sequence;
  if (o.kept) kept_[o.kept->origin] = o.sequence;
  const Sequence sequence = o.sequence;
  out_[sequence] = std::move(o);
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
  if (o.kept) kept_.erase(o.kept->origin);
  std::string pair = pair_key(o.from, o.to, o.id);
  if (const auto id = out_by_pair_.find(pair); id != out_by_pair_.end() && id->second == sequence)
    out_by_pair_.erase(id);
  const auto dest = destinations_.find(o.to);
  Destination& d = dest->second;
  OutStream& stream = stream_for(d, o);
  stream.unanswered.erase(sequence);
  stream.due.erase(sequence);
  d.all.erase(sequence);
  const auto held = d.held.find(o.from);
  --(o.reply ? held->second.replies : held->second.messages);
  if (held->second.messages + held->second.replies == 0) d.held.erase(held);
  if (d.all.empty()) {
    destinations_.erase(dest);
    forget_idle_link(pod_of(o.to));
  }
  if (after == After::kNeverDelivered) {
    forget_sent(pair);
  } else if (is_generated(o.id)) {
    remember_generated(std::move(pair), {0, o.to, sequence, true, false});
  }
  if (after != After::kFinished) return;
  // The outbox record stays until its id's outcome is written: after a restart it leads to the same
  // end.
  if (!record_pending_outcomes()) return;
  finish_out(o);
}

Result<Mailbox::Sent> Mailbox::Impl::send(MonoTime now, const Message& message) {
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
  if (!has_room(message)) {
    return Error{Code::kFull, destinations_.count(message.to) == 0
                                  ? "the outbox has too many receivers"
                                  : "the outbox for " + message.to.value + " is full (" +
                                        std::to_string(limits_.max_outbox_messages) + " messages)"};
  }
  Sequence id_record = 0;
  if (!is_generated(message.id)) {
    auto written = log_->append(kUserId, encode_user_id({false, false, message.to, message.id,
                                                         number_in_pod(message.from.value)}));
    if (!written) return written.error();
    id_record = *written;
    crash_point("outbox-id-appended");
  }
  const std::string payload = encode(message);
  auto written = log_->append(kOutbox, payload);
  if (!written) {
    if (id_record != 0) finish_record(id_record);
    return written.error();
  }
  crash_point("outbox-appended");
  ++books_.sent;
  insert_out(make_outgoing(*written, message, payload.size()));
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

bool Mailbox::Impl::has_room(const Message& message) const {
  if (is_local(message.to)) {
    const Inbox* inbox = find_inbox(message.to);
    return inbox == nullptr || inbox_has_room(*inbox, message);
  }
  const auto dest = destinations_.find(message.to);
  if (dest == destinations_.end()) return destinations_.size() < kMaxDestinations;
  const auto held = dest->second.held.find(message.from);
  if (held == dest->second.held.end()) return true;
  const bool reply = !message.in_reply_to.empty();
  return (reply ? held->second.replies : held->second.messages) < limits_.max_outbox_messages;
}

// Stored once, accepted at once: the sender and the receiver share this log.
Result<Mailbox::Sent> Mailbox::Impl::send_local(MonoTime now, const Message& message) {
  Sequence sequence = 0;
  bool repeated = false;
  const Inbox& inbox = inbox_of(number_in_pod(message.to.value));
  if (const auto twin = inbox.by_pair.find(pair_key(message.from, message.id));
      twin != inbox.by_pair.end() && inbox_.at(twin->second).local()) {
    sequence = twin->second;
    repeated = true;
  } else {
    if (draining_) return Error{Code::kDenied, pod_.value + " is leaving"};
    if (!inbox_has_room(inbox, message)) {
      ++books_.full;
      return Error{Code::kFull, message.to.value + "'s inbox is full (" +
                                    std::to_string(inbox.counted) + " of " +
                                    std::to_string(limits_.max_inbox_messages) + " messages)"};
    }
    Sequence id_record = 0;
    if (!is_generated(message.id)) {
      auto written = log_->append(kUserId, encode_user_id({false, true, message.to, message.id,
                                                           number_in_pod(message.from.value)}));
      if (!written) return written.error();
      id_record = *written;
    }
    auto stored = store(now, LogId{}, 0, message);
    if (!stored) {
      if (id_record != 0) finish_record(id_record);
      return stored.error();
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
  stream.unanswered.insert(o.sequence);
  stream.due.insert(o.sequence);
}

// The answer to a transmission will not come: the incarnation it went to may hold the message.
void Mailbox::Impl::doubt(Destination& d, Outgoing& o) {
  if (o.uncertain && o.uncertain_log != d.link->peer) o.anywhere = true;
  o.uncertain = true;
  o.uncertain_log = d.link->peer;
  make_due(d, o);
}

void Mailbox::Impl::on_link_up(MonoTime now, const AgentName& pod, const LogId& peer) {
  on_link_down(pod);
  Link& link = links_[pod];
  link.linked = true;
  link.peer = peer;
  const bool ask_again = now - link.heard >= kAskAgainAfter;
  link.heard = now;
  for_each_in(pod, [&](const AgentName&, Destination& d) {
    unblock(d);
    for (const Sequence sequence : d.all) {
      Outgoing& o = out_.at(sequence);
      // What we keep is told again on each link: the receiver does not write down who keeps it.
      if (o.state == Out::kStored && (ask_again || o.kept || o.stored_at != peer)) make_due(d, o);
    }
  });
}

void Mailbox::Impl::on_link_down(const AgentName& pod) {
  const auto link = links_.find(pod);
  if (link == links_.end()) return;
  for_each_in(pod, [&](const AgentName&, Destination& d) {
    for (const Sequence sequence : d.all) {
      Outgoing& o = out_.at(sequence);
      if (o.state == Out::kInFlight) doubt(d, o);
      o.on_the_way = 0;
    }
  });
  link->second.linked = false;
  forget_idle_link(pod);
}

void Mailbox::Impl::on_retry(const AgentName& to) {
  const auto it = destinations_.find(to);
  if (it != destinations_.end()) unblock(it->second);
}

// Whose turn it is among the streams of that index: what is kept is older than our own, and of
// several origins what we took over first.
Mailbox::Impl::OutStream* Mailbox::Impl::due_in(Destination& d, std::uint8_t index) {
  const auto due = [](const OutStream& stream) {
    return !stream.blocked && !stream.passed_on && !stream.due.empty();
  };
  OutStream* first = nullptr;
  for (auto it = d.kept.lower_bound({index, LogId{}}); it != d.kept.end(); ++it) {
    if (it->first.first != index) break;
    if (due(it->second) && (first == nullptr || *it->second.due.begin() < *first->due.begin()))
      first = &it->second;
  }
  if (first != nullptr) return first;
  const auto own = d.streams.find(index);
  return own != d.streams.end() && due(own->second) ? &own->second : nullptr;
}

Result<Message> Mailbox::Impl::read_out(const Outgoing& o) const {
  auto bytes = log_->read(o.sequence);
  if (!bytes) return bytes.error();
  if (!o.kept) return decode(*bytes);
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
    const Sequence sequence = *stream->due.begin();
    Outgoing& o = out_.at(sequence);
    if (!out.empty() && bytes + o.payload_bytes > max_bytes) break;
    auto message = read_out(o);
    if (!message) {
      if (message.error().code != Code::kCorrupt) break;
      // Our copy is damaged. What the receiver may hold stays with it; nobody is told "accepted"
      // for it any more.
      stream->due.erase(sequence);
      broken.push_back(sequence);
      continue;
    }
    const auto self = stream->unanswered.find(sequence);
    const Sequence prev =
        self == stream->unanswered.begin() ? 0 : out_.at(*std::prev(self)).origin_sequence();
    stream->due.erase(sequence);
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
  switch (answer) {
    case Answer::kFinished:
      if (!o->offered) {
        accept(*o);
        ++books_.acknowledged_by_receiver;
        remove_out(sequence, After::kFinished);
        return;
      }
      [[fallthrough]];  // our successor asks, too, and records the ack
    case Answer::kStored:
    case Answer::kDuplicate:
      o->state = Out::kStored;
      o->stored_at = peer;
      stream.unanswered.erase(sequence);
      stream.due.erase(sequence);
      accept(*o);
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
    for (const Sequence s : stream.unanswered) {
      if (s > sequence) break;
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
  if (o->offered) return false;
  accept(*o);
  ++books_.acknowledged_by_receiver;
  remove_out(sequence, After::kFinished);
  crash_point("outbox-finished");
  return true;
}

// ---- custody

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
    if (message && !o.offered && !log_->mark(o.sequence, State::kTaken, kOffered)) break;
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
  if (!log_->mark(sequence, State::kTaken, kHandedOver)) return;
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
  // It is here already: by way of another pod, or since our agent has sent it again under its id.
  const std::string pair = pair_key(m.from, m.to, m.id);
  const auto twin = out_by_pair_.find(pair);
  const bool sent_again = twin != out_by_pair_.end();
  if (sent_again) out_.at(twin->second).uncertain = out_.at(twin->second).anywhere = true;
  const auto sent = sent_ids_.find(pair);
  const bool finished = !sent_again && sent != sent_ids_.end() && sent->second.accepted;
  if (sent_again || finished || kept_.count(origin) != 0) {
    predecessor.high = offered.sequence;
    return Answer::kDuplicate;
  }
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
  o.kept = std::make_unique<Kept>(Kept{former, offered.sequence, origin});
  carry_offer(*o.kept, *written);
  ++books_.adopted;
  insert_out(std::move(o));
  return Answer::kStored;
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
  if (o.kept) {
    Predecessor& former = predecessors_.at(o.kept->former);
    if (former.carrier == o.sequence && log_->mark(o.sequence, State::kTaken, kMarkOnly)) {
      former.mark_only = true;
      return;
    }
    if (former.carrier == o.sequence) former.carrier = 0;
  }
  finish_record(o.sequence);
}

// ---- looking

Summary Mailbox::Impl::summary_of(const Entry& e) const {
  const auto where = e.where == Where::kReady     ? Summary::Where::kReady
                     : e.where == Where::kLeased  ? Summary::Where::kLeased
                     : e.where == Where::kDelayed ? Summary::Where::kDelayed
                                                  : Summary::Where::kDead;
  return {e.id,         e.from,    e.inbox->name,
          e.priority,   where,     e.attempt,
          e.body_bytes, e.sent_at, e.stream ? std::optional(*e.stream) : std::nullopt};
}

std::vector<Summary> Mailbox::Impl::dead_letters(const AgentName& agent, std::size_t most) const {
  std::vector<const Entry*> entries;
  const Inbox* inbox = find_inbox(agent);
  if (inbox == nullptr || inbox->dead == 0) return {};
  for (const auto& [sequence, e] : inbox_) {
    if (e.inbox == inbox && e.where == Where::kDead) entries.push_back(&e);
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry* a, const Entry* b) { return a->sequence < b->sequence; });
  if (entries.size() > most) entries.resize(most);
  std::vector<Summary> out;
  for (const Entry* e : entries) out.push_back(summary_of(*e));
  return out;
}

std::vector<Summary> Mailbox::Impl::list(const AgentName& agent) const {
  std::vector<const Entry*> entries;
  const Inbox* inbox = find_inbox(agent);
  for (const auto& [sequence, e] : inbox_) {
    if (e.inbox == inbox && e.where != Where::kAcked && e.where != Where::kAnchor)
      entries.push_back(&e);
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry* a, const Entry* b) { return a->sequence < b->sequence; });
  std::vector<Summary> out;
  for (const Entry* e : entries) {
    if (out.size() >= kMaxListed) return out;
    out.push_back(summary_of(*e));
  }
  for (const auto& [name, d] : destinations_) {
    for (const Sequence sequence : d.all) {
      if (out.size() >= kMaxListed) return out;
      const Outgoing& o = out_.at(sequence);
      if (o.from != agent) continue;
      out.push_back(
          {o.id, o.from, o.to, o.priority, Summary::Where::kOutgoing, 0, o.body_bytes, o.sent_at});
    }
  }
  return out;
}

Result<Delivery> Mailbox::Impl::look(const AgentName& agent, const MessageId& id,
                                     const AgentName& from) const {
  const Entry* found = nullptr;
  if (const Inbox* inbox = find_inbox(agent); inbox != nullptr) {
    const auto [begin, end] = inbox->by_id.equal_range(id);
    for (auto it = begin; it != end; ++it) {
      const Entry& e = inbox_.at(it->second);
      if (!from.empty() && e.from != from) continue;
      if (e.where != Where::kAcked && (found == nullptr || e.where == Where::kLeased)) found = &e;
    }
  }
  if (found != nullptr) {
    auto message = read_inbox(found->sequence);
    if (!message) return message.error();
    return Delivery{std::move(*message), found->attempt, found->attempt > 1, found->until};
  }
  const auto out = std::find_if(out_.begin(), out_.end(), [&](const auto& entry) {
    return entry.second.id == id && entry.second.from == agent;
  });
  if (out == out_.end() || (!from.empty() && from != agent))
    return not_found("no message " + id.value + " here");
  auto message = read_out(out->second);
  if (!message) return message.error();
  return Delivery{std::move(*message), 0, false, {}};
}

Books Mailbox::Impl::books() const {
  Books out = books_;
  for (const auto& [number, inbox] : inboxes_) {
    out.inbox_live += inbox.live;
    out.dead_live += inbox.dead;
  }
  out.outbox_live = static_cast<std::uint32_t>(out_.size());
  for (const auto& [sequence, o] : out_) {
    if (o.accepted && o.state != Out::kStored) ++out.single_copy;
  }
  for (const auto& [sequence, e] : inbox_) {
    if (e.where != Where::kAcked && e.where != Where::kAnchor && !e.local() &&
        find_former(e.from, e.creditor()) != nullptr)
      ++out.single_copy;
  }
  return out;
}

// ---- the interface

Mailbox::Mailbox(AgentName pod, Limits limits, std::uint32_t agents)
    : impl_(std::make_unique<Impl>(std::move(pod), agents, limits)) {}
Mailbox::~Mailbox() = default;
void Mailbox::restore(const log::Record& record) { impl_->restore(record); }
void Mailbox::attach(log::Log& log, MonoTime now) { impl_->attach(log, now); }
Result<Mailbox::Sent> Mailbox::send(MonoTime now, const Message& message) {
  return impl_->send(now, message);
}
bool Mailbox::knows(const Message& message) const { return impl_->knows(message); }
bool Mailbox::has_room(const Message& message) const { return impl_->has_room(message); }
bool Mailbox::withdraw(Sequence sequence) { return impl_->withdraw(sequence); }
bool Mailbox::is_local(const AgentName& agent) const { return impl_->is_local(agent); }
std::vector<AgentName> Mailbox::destinations() const { return impl_->destinations(); }
std::vector<AgentName> Mailbox::destinations(const AgentName& pod) const {
  return impl_->destinations(pod);
}
AgentName Mailbox::receiver_of(Sequence sequence) const { return impl_->receiver_of(sequence); }
std::vector<Outbound> Mailbox::transmit(const AgentName& to, std::size_t max_bytes) {
  return impl_->transmit(to, max_bytes);
}
void Mailbox::on_link_up(MonoTime now, const AgentName& pod, const LogId& peer_log) {
  impl_->on_link_up(now, pod, peer_log);
}
void Mailbox::on_link_down(const AgentName& pod) { impl_->on_link_down(pod); }
void Mailbox::on_answer(MonoTime now, const AgentName& pod, const LogId& peer_log,
                        Sequence sequence, Answer answer, const std::string& reason) {
  impl_->on_answer(now, pod, peer_log, sequence, answer, reason);
}
void Mailbox::on_retry(const AgentName& to) { impl_->on_retry(to); }
bool Mailbox::on_acked(const AgentName& pod, Sequence sequence) {
  return impl_->on_acked(pod, sequence);
}
Answer Mailbox::deliver(MonoTime now, const LogId& sender_log, Sequence sequence, Sequence prev,
                        const Message& message) {
  return impl_->deliver(now, sender_log, sequence, prev, message);
}
Answer Mailbox::deliver_kept(MonoTime now, const LogId& keeper, const Outbound& kept) {
  return impl_->deliver_kept(now, keeper, kept);
}
void Mailbox::begin_offers() { impl_->begin_offers(); }
std::vector<Outbound> Mailbox::offer(std::size_t max_bytes) { return impl_->offer(max_bytes); }
void Mailbox::on_offer_answer(Sequence sequence, Answer answer) {
  impl_->on_offer_answer(sequence, answer);
}
void Mailbox::cancel_offers() { impl_->cancel_offers(); }
Answer Mailbox::adopt(const LogId& from, const Outbound& offered) {
  return impl_->adopt(from, offered);
}
std::optional<Delivery> Mailbox::receive(MonoTime now, const AgentName& agent, Milliseconds lease,
                                         const std::optional<MessageId>& in_reply_to) {
  return impl_->receive(now, agent, lease, in_reply_to);
}
Result<std::optional<Delivery>> Mailbox::receive_part(MonoTime now, const AgentName& agent,
                                                      Milliseconds lease, const AgentName& from,
                                                      const MessageId& stream, std::uint32_t part) {
  return impl_->receive_part(now, agent, lease, from, stream, part);
}
std::vector<AgentName> Mailbox::take_ready() { return impl_->take_ready(); }
bool Mailbox::has_ready() const { return impl_->has_ready(); }
bool Mailbox::await_reply(const AgentName& agent, const MessageId& id) {
  return impl_->await_reply(agent, id);
}
void Mailbox::forget_reply(const AgentName& agent, const MessageId& id) {
  impl_->forget_reply(agent, id);
}
Result<AckResult> Mailbox::ack(MonoTime, const AgentName& agent, const MessageId& id,
                               std::uint16_t attempt) {
  return impl_->ack(agent, id, attempt);
}
Result<AckResult> Mailbox::purge(const AgentName& agent, const MessageId& id) {
  return impl_->purge(agent, id);
}
Status Mailbox::redrive(const AgentName& agent, const MessageId& id) {
  return impl_->redrive(agent, id);
}
std::vector<Summary> Mailbox::dead_letters(const AgentName& agent, std::size_t most) const {
  return impl_->dead_letters(agent, most);
}
std::uint32_t Mailbox::dead_letter_count(const AgentName& agent) const {
  return impl_->dead_letter_count(agent);
}
void Mailbox::on_ack_recorded(Sequence inbox) { impl_->on_ack_recorded(inbox); }
std::vector<AckDebt> Mailbox::ack_debts(const AgentName& sender) const {
  return impl_->ack_debts(sender);
}
std::vector<AgentName> Mailbox::ack_creditors() const { return impl_->ack_creditors(); }
std::map<AgentName, std::set<LogId>> Mailbox::senders() const { return impl_->senders(); }
void Mailbox::on_incarnation(const AgentName& name, const LogId& current) {
  impl_->on_incarnation(name, current);
}
std::vector<Sequence> Mailbox::on_former(const AgentName& name, const LogId& log) {
  return impl_->on_former(name, log);
}
std::vector<Sequence> Mailbox::on_gone(const AgentName& name) { return impl_->on_gone(name); }
Status Mailbox::nack(MonoTime now, const AgentName& agent, const MessageId& id,
                     std::uint16_t attempt, Milliseconds delay) {
  return impl_->nack(now, agent, id, attempt, delay);
}
Status Mailbox::extend(MonoTime now, const AgentName& agent, const MessageId& id,
                       std::uint16_t attempt, Milliseconds lease) {
  return impl_->extend(now, agent, id, attempt, lease);
}
bool Mailbox::tick(MonoTime now) { return impl_->tick(now); }
std::optional<MonoTime> Mailbox::next_deadline() const { return impl_->next_deadline(); }
void Mailbox::stop_intake() { impl_->draining_ = true; }
std::vector<Summary> Mailbox::list(const AgentName& agent) const { return impl_->list(agent); }
Result<Delivery> Mailbox::look(const AgentName& agent, const MessageId& id,
                               const AgentName& from) const {
  return impl_->look(agent, id, from);
}
Books Mailbox::books() const { return impl_->books(); }
std::vector<SendOutcome> Mailbox::take_outcomes() { return std::exchange(impl_->outcomes_, {}); }

}  // namespace swarm::mailbox
