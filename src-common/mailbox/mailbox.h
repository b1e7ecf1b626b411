// The mailboxes of one pod, as pure logic over the pod's log: outbox, inboxes, leases,
// deduplication.
//
// A message is appended to the sender's log (outbox record), carried by the link, appended to the
// receiver's log (inbox record), and only then accepted: two pods hold it. It is handed out under a
// lease, acknowledged, and then marked done in both logs. The engine moves frames and answers
// between the two; this class decides.
//
// A pod has one or several agents (base/encoding.h: the first has the pod's own name), each with
// an inbox, limits and outcomes of its own, in the one log. Links, incarnations and debts are
// between pods. Where a call takes an agent of this pod, one that it does not have has no messages.
//
// Order: per (sender log, receiving agent, priority) messages form a stream. Its sequence numbers
// are the log sequences of the sender's outbox records. Each transmission names `prev`, the
// sequence of the message before it in the stream that has not been answered yet (0: none); the
// receiver accepts a message only when prev is not beyond what it has stored, so a stream never has
// holes and a duplicate is one comparison with the high-water mark. Marks survive a restart
// (records of kind kCursor).
//
// Hand-out: priorities take turns, 8 high, 3 normal, 1 low, so that none starves; within a priority
// the order of arrival. What was handed out comes again as attempt n + 1 until it is acknowledged
// or max_attempts are used: then it is a dead letter, which somebody purges or redrives. Attempt
// numbers of a record only grow.
//
// Custody: a pod that drains offers its outbox to the successor of its name, which keeps it: sends
// it as what it was, and is owed the acks (docs/decisions/0009). Of a pod that is lost without that
// the receivers give their copies to the successor (docs/decisions/0011). Of what stays on one node
// a custodian on another one has a copy first (docs/decisions/0013).
//
// Everything that answers somebody (accepted, stored, acked) may only leave the process after
// commit(): the engine calls it once per batch.
//
// Threads: none. Time comes from the caller. Ownership: the Log is borrowed.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "log/log.h"
#include "os/time.h"

namespace swarm::mailbox {

using log::Sequence;

enum class Priority : std::uint8_t { kHigh = 0, kNormal = 1, kLow = 2 };
inline constexpr int kPriorities = 3;

// A message that is part of a stream: parts count from 1, the last one ends or aborts it. Each part
// is a message of its own; the sender numbers them, and the order of sending makes the order of
// arrival.
struct StreamPart {
  enum class Mark : std::uint8_t { kNone = 0, kEnd = 1, kAbort = 2 };
  MessageId stream;  // unique for each sender
  std::uint32_t part = 0;
  Mark mark = Mark::kNone;
  friend bool operator==(const StreamPart&, const StreamPart&) = default;
};

struct Message {
  MessageId id;
  AgentName from, to;
  Priority priority = Priority::kNormal;
  WallTime sent_at = 0;
  MessageId in_reply_to;  // empty: not a reply
  bool wants_reply = false;
  std::optional<StreamPart> stream = {};  // then neither a reply nor a question, and kNormal
  std::string body;
  friend bool operator==(const Message&, const Message&) = default;
};

// The wire and log form of a message (docs/link-protocol.md): little-endian, length-prefixed
// fields, no padding.
std::string encode(const Message& message);
void append(std::string& out, const Message& message);  // the same
Result<Message> decode(std::string_view bytes);

// Record kinds in the log. The task engine uses kinds from 16 up.
enum RecordKind : std::uint8_t {
  kOutbox = 1,
  kInbox = 2,
  kCursor = 3,
  kUserId = 4,
  kKept = 5,
  kWard = 6,
  kBody = 7
};

inline constexpr std::uint32_t kMostMessageBytes = 65536;  // that max_message_bytes may be
// Of a body that is stored once for several receivers: below, a copy for each is cheaper.
inline constexpr std::uint32_t kLeastSharedBytes = 256;

struct Limits {
  std::uint32_t max_inbox_messages =
      1000;  // per agent: ready, leased and dead ones; replies to a request do not count
  std::uint32_t max_outbox_messages = 1000;  // of one sender to one receiver
  // As they are in the log; 0: what that has room for. A message that is alone always fits.
  // Of all inboxes of the pod; of several, one gets no more than what is left, one message in each
  // at least.
  std::uint64_t max_received_bytes = 0;
  // Of its outbox, without replies, which have a quarter as much beside it; one receiver gets no
  // more than what is left.
  std::uint64_t max_sent_bytes = 0;
  std::uint32_t max_message_bytes = kMostMessageBytes;  // that its own agents may send
  std::uint16_t max_attempts = 5;                       // in a row, then dead letter
  std::uint32_t max_user_ids = 65536;                   // ids remembered against repetition …
  Milliseconds user_id_ttl{3600 * 1000};                // … and for how long
  std::uint32_t max_streams = 16384;                    // cursors remembered
  std::uint32_t max_kept = 65536;  // messages taken over from former pods of our name
  bool grants = true;  // places are kept for whom an inbox was full; false: they do not wait
  // What stays on this node is entrusted to a custodian on another one before it is sent.
  bool entrust = false;
  // Half of it at most for one of them, but one message in any case.
  std::uint32_t max_wards = 65536;   // messages kept for pods on other nodes …
  std::uint64_t max_ward_bytes = 0;  // … as they are in the log; 0: what that has room for
};

// What the receiver's pod answers to one transmission.
enum class Answer : std::uint8_t {
  kStored = 0,     // it is in my log
  kDuplicate = 1,  // it already was, and has not been acknowledged yet
  kFinished = 2,   // it already was, and was acknowledged: forget it
  kFull = 3,       // inbox or log full: nothing stored
  kGap = 4,        // something before it is missing: send again from there
  kRefused = 5,    // never: unknown mailbox, too large, draining
};

// A place in the inbox of `to`, an agent of this pod, is kept for one stream of `pod`'s mail to it
// (grants.h).
struct Grant {
  AgentName pod, to;
  std::uint8_t stream = 0;
};

// A receiver that has not answered for so long is asked again, when it is back, for what it has
// stored: it may have given its sender up (Mailbox::on_gone), and then it never says that its agent
// has acknowledged. Far below the time after which anybody is given up.
inline constexpr Milliseconds kAskAgainAfter{300'000};

// What a message is called in every log: the one that accepted it first, and its sequence there.
struct Origin {
  LogId log;
  Sequence sequence = 0;
  friend auto operator<=>(const Origin&, const Origin&) = default;
};

struct Outbound {
  Sequence sequence = 0;  // of our record: answers and acks name it
  Sequence prev = 0;      // in the message's stream; in an offer: the offer before it; in a
                      // copy: the one before it in its stream that the custodian has, or is sent
  Message message;
  Origin origin = {};  // empty: our log, and `sequence`
};

// Everything of it but sequence and prev, on the link (docs/link-protocol.md).
std::string encode(const Outbound& out);
void append(std::string& bytes, const Outbound& out);  // the same
Result<Outbound> decode_outbound(Sequence sequence, Sequence prev, std::string_view bytes);

struct Delivery {
  Message message;
  std::uint16_t attempt = 1;
  bool redelivered = false;
  MonoTime lease_until;
};

struct Summary {  // for `ls`
  MessageId id;
  AgentName from, to;
  Priority priority = Priority::kNormal;
  enum class Where : std::uint8_t {
    kReady,
    kLeased,
    kDelayed,
    kDead,
    kOutgoing
  } where = Where::kReady;
  std::uint16_t attempt = 0;
  std::uint32_t bytes = 0;
  WallTime sent_at = 0;
  std::optional<StreamPart> stream = {};  // of those in the inbox
};
struct Listed {  // how many there are, listed or not
  std::size_t inbox = 0, outgoing = 0;
};

// What happened to a message that somebody here sent. Exactly one kAccepted or kRefused… per
// message that is not withdrawn.
struct SendOutcome {
  Sequence sequence = 0;
  MessageId id;
  AgentName to;
  std::optional<Error> error;  // none: accepted. kFull, kDenied: refused, removed from the outbox
  bool local = false;          // the receiver is in this pod: survives only this container
  bool repeated = false;       // the same id had been accepted before
};

// An acknowledgement that is in our log and that the sender's pod has still to record: until then a
// successor of this pod would get the message again.
struct AckDebt {
  Sequence inbox = 0;  // our record
  AgentName sender;    // its pod
  LogId sender_log;    // and the record in it: of whoever keeps the message now
  Sequence sender_sequence = 0;
};

struct AckResult {
  std::optional<AckDebt>
      debt;  // none: already complete (local message, or the sender's log is gone)
};

struct Books {  // appended = acked + dead + handed over + live, since open, for each side
  std::uint64_t sent = 0, accepted = 0, refused = 0, withdrawn = 0, acknowledged_by_receiver = 0;
  std::uint64_t adopted = 0, handed_over = 0;  // from a former pod, to the next one
  std::uint64_t stored = 0, duplicates = 0, delivered = 0, redelivered = 0, acked = 0, nacked = 0,
                dead = 0, redriven = 0, full = 0;
  // Live, as the limits count them.
  std::uint64_t received_bytes = 0, sent_bytes = 0, reply_bytes = 0;
  std::uint64_t wards = 0, ward_bytes = 0;  // kept for others
  std::uint32_t inbox_live = 0, outbox_live = 0, dead_live = 0, single_copy = 0;
};

class Mailbox {
 public:
  // Visit function for log::Log::open: collects records of our kinds until attach().
  // `pod`: its name, a slot; `agents`: 1 to kMaxAgentsPerPod (checked).
  Mailbox(AgentName pod, Limits limits, std::uint32_t agents = 1);
  ~Mailbox();
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;
  void restore(const log::Record& record);
  // Ends recovery: leases of the last life are over (messages handed out then come again as attempt
  // + 1).
  // `damaged`: records of the log could not be read. Then a message that a stream's mark calls
  // done, and of which nothing is left here, may be one of them: when its sender still has it, it
  // is taken again, and perhaps handed out a second time, instead of being lost.
  void attach(log::Log& log, MonoTime now, bool damaged = false);
  [[nodiscard]] bool is_local(const AgentName& agent) const;  // one of this pod's
  // From now on an inbox takes new messages up to so many, 1 to max_inbox_messages (checked); `why`
  // it is fewer is told to whom it refuses. What is in stays; replies that are awaited keep their
  // places.
  void limit_inboxes(std::uint32_t messages, std::string why = "");
  [[nodiscard]] std::uint32_t inbox_limit() const;

  // ---- sending
  // Appends to the outbox. kFull: the outbox or log is full, nothing kept. kInvalid. A message id
  // already in the outbox for this receiver returns that record's sequence (idempotent); one
  // already accepted for it within user_id_ttl returns `already`. For another receiver it is
  // another message.
  struct Sent {
    Sequence sequence = 0;
    std::optional<SendOutcome>
        already;  // the outcome is known at once (local receiver, or repeated id)
  };
  // From an agent of this pod, to any. kNotFound: this pod has no such agent. `share`: a number
  // for messages with the same body (checked: as long), which the log then holds once, while any of
  // those to other pods is in the outbox; 0: nothing else has it.
  Result<Sent> send(MonoTime now, const Message& message, std::uint64_t share = 0);
  // Of one that is known, send() says at once what became of it, and appends nothing.
  [[nodiscard]] bool knows(const Message& message) const;
  // Below the limits of the outbox or, to oneself, of the inbox; the log may be full all the same.
  // To oneself: if not, this pod waits for a place as other senders do.
  [[nodiscard]] bool has_room(MonoTime now, const Message& message);
  // Takes a message back: true when it was certainly never stored elsewhere (then it is gone),
  // false: it may be (unknown). What the custodian alone has is released first: again, when it is.
  bool withdraw(Sequence sequence);
  // Agents with unanswered or stored-but-unacked messages, a pod's next to each other.
  [[nodiscard]] std::vector<AgentName> destinations() const;
  [[nodiscard]] std::vector<AgentName> destinations(const AgentName& pod) const;
  // Whom our outbox record is for; empty: there is none of that sequence any more.
  [[nodiscard]] AgentName receiver_of(Sequence sequence) const;
  // The next transmissions for `to`, high priority first (weighted 8:3:1), at most max_bytes (at
  // least one message).
  std::vector<Outbound> transmit(const AgentName& to, std::size_t max_bytes);
  // A link to this incarnation of `pod` is up: everything unanswered is due again; if the
  // incarnation is not the one that had stored them, or has not answered for kAskAgainAfter, so is
  // everything stored but not acknowledged. `near`: it is on our node.
  void on_link_up(MonoTime now, const AgentName& pod, const LogId& peer_log, bool near = false);
  void on_link_down(const AgentName& pod);
  // The receiver's pod's answer. kFull keeps the message due again after on_retry(to) (the engine
  // waits); the engine withdraws at the deadline.
  void on_answer(MonoTime now, const AgentName& pod, const LogId& peer_log, Sequence sequence,
                 Answer answer, const std::string& reason);
  // Asks again: one message of each stream goes out, more as these are stored.
  void on_retry(const AgentName& to);
  // The receiver keeps a place for one message of that stream. false: none waits; it is to be told
  // so (on_declined).
  bool on_grant(const AgentName& pod, const AgentName& to, std::uint8_t stream);
  // The receiver's agent has acknowledged: the outbox record is done. Idempotent. false: nothing
  // was recorded, since the record was offered to our successor, which has to; or not yet
  // (take_recorded), since the custodian has to release its copy first, or the log can't be
  // written.
  bool on_acked(const AgentName& pod, Sequence sequence);

  // ---- custody
  // A link to our successor is up, or it has room again: everything in the outbox is to be offered.
  void begin_offers();
  // The next ones, the oldest first, at most max_bytes (at least one). From then on we transmit
  // nothing of their streams: that is for whoever has the offers.
  std::vector<Outbound> offer(std::size_t max_bytes);
  // What the successor said. kStored, kDuplicate: it has committed it, ours is handed over.
  void on_offer_answer(Sequence sequence, Answer answer);
  // The successor does not know what an offer is: all is as it was before, unless one was taken.
  void cancel_offers();
  // Our predecessor, whose log is `from`, offers a record of its outbox.
  Answer adopt(const LogId& from, const Outbound& offered);
  // The pod `giver` gives back what a former pod of our name, which is lost, has sent to it, or has
  // entrusted to it (only where we entrust, too): kStored, kDuplicate: we keep it, and tell the
  // receiver so. kFinished: it was acked, as far as we remember.
  Answer take_back(const AgentName& giver, const Outbound& returned);
  // All that are owed acks (senders()) and have had no link for a while, by pod. What is here for
  // them counts as single copies.
  void set_lost(const std::map<AgentName, std::set<LogId>>& lost);
  // Of what the lost ones of `pod` have sent or entrusted to us, what is next to be given back to
  // `to`, the log
  // that has the name now: each stream in its order, at most max_bytes (at least one). `prev` is of
  // the origin, as in a transmission. Only what it has no room for, or has not answered, comes
  // again: once all before is through.
  std::vector<Outbound> give_back(const AgentName& pod, const LogId& to, std::size_t max_bytes);
  // Unread messages of `pod` that are owed to `logs` and that nobody has taken back; 0: whoever has
  // its name takes nothing.
  [[nodiscard]] std::size_t unreturned(const AgentName& pod, const std::set<LogId>& logs) const;
  // What it said of our record. kFull and kGap: the next round begins anew; kRefused: none
  // does, or, of a copy that was entrusted to us, this one is not given to it again.
  void on_given_back(const AgentName& pod, Sequence record, Answer answer);

  // ---- a copy on another node: of what we send …
  // Something is to be entrusted, was, or is to be released.
  [[nodiscard]] bool needs_custodian() const;
  [[nodiscard]] bool has_entrusted() const;  // that it has copies, or may have
  // A link to our custodian is up. Another one than before: on_custodian_lost() first.
  void on_custodian_up(const LogId& custodian);
  void on_custodian_down();  // its answers do not come any more
  // It counts for nothing any more: everything is to be entrusted anew, to the next one. What was
  // not accepted yet may be delivered all the same. If it lives, it has its copies until the next
  // one has them.
  void on_custodian_lost();
  void on_custodian_retry();  // it may have room again
  // The next copies for it, the oldest first, at most max_bytes (at least one). None after kFull,
  // kGap or kRefused until it is asked again.
  std::vector<Outbound> entrust(std::size_t max_bytes);
  // Copies that it is to release, at most so many.
  std::vector<Sequence> take_releases(std::size_t most);
  // What it said: kStored, kDuplicate: it has committed the copy, and the message may be sent.
  // kFinished: it has none any more.
  void on_entrusted(const LogId& custodian, Sequence sequence, Answer answer);
  // `custodian`, ours or a former one, has copies of these. Which of them it is to release: of a
  // live message only what ours has; the others when it has (take_releases_elsewhere).
  std::vector<Sequence> on_told(const LogId& custodian, const std::vector<Sequence>& kept);
  // What former custodians are to release since the last call, by their logs. Without a link to
  // one it is dropped: it tells again on the next link.
  std::map<LogId, std::vector<Sequence>> take_releases_elsewhere();
  // Our custodian can't be asked: acks that wait for it are recorded without it.
  void end_releases();
  [[nodiscard]] bool releasing() const;  // that something waits for its word
  // Some ack is to be recorded that on_acked() could not.
  [[nodiscard]] bool records_late() const;
  // Acks recorded since the last call, of which on_acked() had said that they were not yet.
  std::vector<Sequence> take_recorded();
  // It waits for a custodian; withdraw() waits for its release.
  [[nodiscard]] bool waits_for_custodian(Sequence sequence) const;
  [[nodiscard]] bool withdrawing(Sequence sequence) const;
  // … and of what others send, whose custodian we are. They are handed out to nobody, and belong to
  // no inbox. kStored, kDuplicate: we keep it. kFull, kRefused, and kGap (we do not keep the one
  // before it): we do not.
  Answer guard(const LogId& sender_log, const Outbound& copy);
  void release(const LogId& sender_log, Sequence sequence);
  [[nodiscard]] std::vector<Sequence> wards_of(const LogId& sender_log) const;
  // For whom something is kept: logs by pod.
  [[nodiscard]] std::map<AgentName, std::set<LogId>> guarded() const;
  // These are gone for ever. What another pod of that name has entrusted stays.
  void forget_wards(const AgentName& pod, const std::set<LogId>& logs);

  // ---- receiving
  Answer deliver(MonoTime now, const LogId& sender_log, Sequence sequence, Sequence prev,
                 const Message& message);
  // Who is to be told that a place is kept for it; for our own pod: it is time to send again.
  std::vector<Grant> take_grants(MonoTime now);
  // It has no use for a grant any more.
  void on_declined(const AgentName& pod, const AgentName& to, std::uint8_t stream);
  // Nothing is kept for its messages any more: its link is down, or it knows no grants.
  void forget_waiting(const AgentName& pod);
  // Which limit leaves no room for `message` here, in words.
  [[nodiscard]] std::string why_full(const Message& message) const;
  // The same for a message with an origin, from the log that keeps it now and is owed its ack.
  Answer deliver_kept(MonoTime now, const LogId& keeper, const Outbound& kept);
  std::optional<Delivery> receive(MonoTime now, const AgentName& agent, Milliseconds lease,
                                  const std::optional<MessageId>& in_reply_to);
  // The oldest part of a stream of `from`, when it is `part` or an older one; nothing while it is
  // handed out. Only this takes parts: receive() never does. kDenied: `part` is gone, or the oldest
  // one is a dead letter.
  Result<std::optional<Delivery>> receive_part(MonoTime now, const AgentName& agent,
                                               Milliseconds lease, const AgentName& from,
                                               const MessageId& stream, std::uint32_t part);
  // Agents for whom something may be ready that was not, each once since the last call.
  std::vector<AgentName> take_ready();
  [[nodiscard]] bool has_ready() const;  // that it would name somebody
  // Reserves `id`: replies to it go only to receive(in_reply_to = id), never to a plain receive,
  // and have a reserved place.
  // false: too many are awaited in this pod, or it has no such agent.
  bool await_reply(const AgentName& agent, const MessageId& id);
  // Replies that come later are ordinary mail.
  void forget_reply(const AgentName& agent, const MessageId& id);
  // kDenied: not the current attempt; kNotFound. `from`: its sender; without one kInvalid when
  // messages of that id from several senders are here, or were a moment ago: which one is meant?
  Result<AckResult> ack(MonoTime now, const AgentName& agent, const MessageId& id,
                        std::uint16_t attempt, const AgentName& from = {});
  // The sender's pod recorded it, or is known to be gone for ever: the inbox record is done.
  void on_ack_recorded(Sequence inbox);
  // `pod` counts as gone for ever: all debts to it are settled. Returns the inbox records. Should
  // it come back all the same, nothing that was acked here comes again here, and it is told so when
  // it asks (kAskAgainAfter).
  std::vector<Sequence> on_gone(const AgentName& pod);
  // Ends a dead letter: as if it had been acknowledged. kNotFound when `id` is not a dead letter
  // here. (Two senders may have chosen the same id: then the letter that came first; redrive, too.)
  Result<AckResult> purge(const AgentName& agent, const MessageId& id);
  // Puts a dead letter back into the inbox, in its old place, for another max_attempts hand-outs.
  // Its attempts are counted on, so that an ack, nack or extend of an attempt from before is
  // refused. Marked in the log at once. kNotFound: no such dead letter; kDenied: never again
  // possible, only purge is.
  Status redrive(const AgentName& agent, const MessageId& id);
  [[nodiscard]] std::vector<AckDebt> ack_debts(
      const AgentName& pod) const;  // to send again after a reconnect
  [[nodiscard]] std::vector<AgentName> ack_creditors() const;
  // Whose messages are in the inboxes (pods), acked ones that are still owed included, and to which
  // logs that is owed.
  [[nodiscard]] std::map<AgentName, std::set<LogId>> senders() const;
  // `pod` lives in log `current`, as a link to it showed. Debts to the one that was its current
  // before stay: its pod may be draining still, and its successor may take over what it has.
  void on_incarnation(const AgentName& pod, const LogId& current);
  // `log`, a former one of `pod`, has ended, and nobody keeps what it had: debts to it are
  // settled. Its streams' marks stay, should it live after all. Returns the inbox records. Nothing
  // while `pod` has no other current one: a new pod's first mail arrives before we have a link to
  // it.
  std::vector<Sequence> on_former(const AgentName& pod, const LogId& log);
  Status nack(MonoTime now, const AgentName& agent, const MessageId& id, std::uint16_t attempt,
              Milliseconds delay, const AgentName& from = {});
  Status extend(MonoTime now, const AgentName& agent, const MessageId& id, std::uint16_t attempt,
                Milliseconds lease, const AgentName& from = {});
  // Ends leases and delays that are over; returns true when something became ready.
  bool tick(MonoTime now);
  [[nodiscard]] std::optional<MonoTime> next_deadline() const;
  void stop_intake();  // draining: deliver() answers kRefused with a reason from now on, except
                       // replies that are awaited

  // ---- looking
  // What is in its inbox, the oldest first, then what it has sent: ≤ 2000 entries. `there`: how
  // many there are.
  [[nodiscard]] std::vector<Summary> list(const AgentName& agent, Listed* there = nullptr) const;
  [[nodiscard]] std::vector<Summary> dead_letters(const AgentName& agent,
                                                  std::size_t most) const;  // the oldest first
  // Of all agents of the pod: dead letters alone, or all that is in their inboxes, the oldest
  // first, then what they have sent. `there`: how many there are.
  [[nodiscard]] std::vector<Summary> list_all(bool dead, std::size_t most,
                                              std::size_t& there) const;
  [[nodiscard]] std::uint32_t dead_letter_count(const AgentName& agent) const;
  // Without taking it; of any sender, or of `from`; `dead`: of dead letters only.
  [[nodiscard]] Result<Delivery> look(const AgentName& agent, const MessageId& id,
                                      const AgentName& from = {}, bool dead = false) const;
  // A message of `from` is in its inbox, or was acked and its sender's pod does not know it yet.
  [[nodiscard]] bool has(const AgentName& agent, const MessageId& id, const AgentName& from) const;
  [[nodiscard]] Books books() const;  // of all agents together
  // Outcomes that became known since the last call, in order.
  std::vector<SendOutcome> take_outcomes();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swarm::mailbox
