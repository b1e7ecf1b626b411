// The post office of a pod: puts the pure mailbox, the links and the agents' requests together.
//
// Threads: the loop's. Every request ends by its deadline, in exactly one call of its callback.
#pragma once

#include <algorithm>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "engine/config.h"
#include "engine/refusals.h"
#include "engine/session.h"
#include "mailbox/mailbox.h"

namespace swarm::engine {

// Where a name lives now.
struct Location {
  std::string address;
  std::uint16_t port = 0;
  link::Expect expect;
};
using Located = std::function<void(Result<Location>)>;

// The next pause of a backoff: `first`, then twice the one before, up to `most`.
inline Milliseconds grow(Milliseconds current, Milliseconds first, Milliseconds most) {
  return current == Milliseconds{0} ? first : std::min(current * 2, most);
}

inline constexpr std::size_t kMaxWaitingSends = 4096;  // agents' send calls under way in one pod
// Of these, the bodies of messages that wait for room in this pod.
inline constexpr std::size_t kMaxBlockedBytes = 8U << 20U;
inline constexpr std::size_t kMaxWaitingReceivers = 1024;
inline constexpr Milliseconds kAckTimeout{10000};         // for the sender's pod
inline constexpr std::size_t kMoreReceiversPerAgent = 4;  // beyond the first of a pod
inline constexpr std::size_t kMaxWatchers = 64;
inline constexpr std::size_t kLinkWindowBytes = 1U << 20U;  // unsent mail per link
inline constexpr Milliseconds kIdleLinkLimit{60000};
inline constexpr std::size_t kMaxPeerLinks = 256;
inline constexpr std::uint32_t kMaxDeadPerCall =
    256;  // dead letters that one call ends or puts back: the loop serves others in between
// Acks owed to a log with which there has been no link for so long, while its name lives in another
// one, are not owed any more. A pod that takes its predecessor's name links to us sooner.
inline constexpr Milliseconds kStrangerLimit{60000}, kStrangerCheck{15000};

// A log that acks are owed to is lost when it has had no link for so long: what is here for it
// counts as single copies, until its name is gone for ever, and goes back to whoever gets that name
// (docs/decisions/0011).
inline constexpr Milliseconds kLostAfter{2000}, kLostCheck{1000};
inline constexpr std::size_t kGiveBackBytes = 64U << 10U;  // under way to one pod
// To a pod that had no room: one message, and each time that it has none after twice as long.
inline constexpr Milliseconds kGiveBackAgain{1000}, kMostGiveBackWait{30'000};
// Links that ended before anything was answered: who is there does not know what an offer is.
inline constexpr int kMaxUnheardOffers = 3;

// Copies on other nodes (docs/decisions/0013). A custodian is lost when it has had no link for
// kLostAfter. Who could not be one, or was lost, comes last for so long; looks for the next one
// come with pauses that double.
inline constexpr Milliseconds kPassedOver{30'000};
inline constexpr Milliseconds kFirstChoiceWait{100}, kMostChoiceWait{5000};
inline constexpr Milliseconds kFirstCopyWait{50}, kMostCopyWait{2000};  // for room at a full one
inline constexpr std::size_t kMostCopyStep = 256;  // it gets one copy then, twice as many, then all
// One that has some of ours and no room for more is passed over after so long, which doubles as
// long as no other one has room either: all copies are sent anew then.
inline constexpr Milliseconds kFirstFullPatience{5000}, kMostFullPatience{300'000};
inline constexpr Milliseconds kCustodianPatience{5000};     // for an answer, though it has a link
inline constexpr Milliseconds kFeaturesWait{2000};          // for the PING that says what it knows
inline constexpr std::size_t kMaxSequencesPerFrame = 4096;  // in KEPT and RELEASE

struct Candidate {
  AgentName name;  // a pod of this swarm
  std::string node;
};
// Who is to keep the copies of `self`, which is on `node`: a pod on another node, the same one each
// time, another one for each `self`; of those in `passed_over` (until when) the one that has been
// there longest, if there is nobody else. Pure.
std::optional<AgentName> choose_custodian(const AgentName& self, const std::string& node,
                                          const std::vector<Candidate>& candidates,
                                          const std::map<AgentName, MonoTime>& passed_over);

// How long a name has not been reached, and what follows for messages of it that were acked here.
// Pure.
class Silence {
 public:
  // So long its coordinator must have said that it is not there, or its log must have had no link
  // while its name lives in another one; then an ack is OK though the sender's pod has not recorded
  // it (docs/decisions/0008, 0009). That it can't be reached, or that nobody can be asked, says
  // nothing: the sender may be well.
  static constexpr Milliseconds kAckPatience{1000};
  // Then the sender is gone for ever and is not looked for on account of acks any more. kAbsent:
  // its coordinator says all the time that it is not there; kSilent: for whatever reason.
  static constexpr Milliseconds kAbsent{600'000}, kSilent{3'600'000};

  // kNotFound: its coordinator says that it is not there. kUnavailable: nobody could be asked,
  // which counts neither way. Else: it is somewhere, out of reach.
  void failed(MonoTime now, Code why);
  // nullopt: an ack has to wait for the sender's pod.
  [[nodiscard]] std::optional<MonoTime> patience_ends() const {
    return absent_since_ ? std::optional(*absent_since_ + kAckPatience) : std::nullopt;
  }
  [[nodiscard]] bool gone(MonoTime now) const;
  // Copies kept for it (durability Node) are what is left of mail that was accepted as surviving
  // its node; its replacement may wait for a place for long. They take a bounded part of the log.
  static constexpr Milliseconds kWardsKept{24 * 3'600'000};
  [[nodiscard]] bool ends_wards(MonoTime now) const {
    return gone(now) && now - since_ >= kWardsKept;
  }

 private:
  MonoTime since_{};
  std::optional<MonoTime> absent_since_;  // without a pause
  MonoTime absent_until_{};               // said last
  Milliseconds absent_before_{0};         // the pauses
  bool begun_ = false;
};

// Says so of a name that is one of this pod's by its form only.
std::string no_such_agent(const Config& config, const AgentName& name);

// The payload of MESSAGE and of HANDOVER.
std::string payload_of(const mailbox::Outbound& out);

class Mail {
 public:
  // `locate` finds a name; `connect` options are those of every link of this pod.
  Mail(Loop& loop, mailbox::Mailbox& box, const Config& config, Session::Options options,
       std::function<void(const AgentName&, Located)> locate);
  ~Mail();
  Mail(const Mail&) = delete;
  Mail& operator=(const Mail&) = delete;

  struct Accepted {
    MessageId id;
    std::string survives;
    bool duplicate = false;
    std::optional<mailbox::Delivery> reply;  // of request()
    std::optional<Status> acked = {};        // of reply()
  };
  using OnSent = std::function<void(Result<Accepted>)>;
  using OnReceived = std::function<void(Result<mailbox::Delivery>)>;
  using OnStatus = std::function<void(Status)>;

  // `who` asks, here and below: what waits for it ends with forget(); nullptr: nobody in
  // particular. `share`: a new_share() for messages with the same body, which the log holds once.
  void send(mailbox::Message message, Milliseconds timeout, OnSent done, const void* who = nullptr,
            std::uint64_t share = 0);
  std::uint64_t new_share() { return ++shares_; }
  // As send, then waits for the reply until the same deadline. kNotFound: accepted, but no reply in
  // time.
  void request(mailbox::Message message, Milliseconds timeout, OnSent done,
               const void* who = nullptr);
  // As send, then, once the message was accepted and only then, as ack of the one that it replies
  // to: in one step, whether or not the agent is still there. An error is of the message alone.
  void reply(mailbox::Message message, std::uint16_t attempt, Milliseconds timeout,
             Milliseconds ack_timeout, OnSent done, const void* who = nullptr);
  // What is for `agent`, one of this pod's.
  void receive(const AgentName& agent, Milliseconds wait, Milliseconds lease,
               std::optional<MessageId> in_reply_to, const void* who, OnReceived done);
  // The next part of a stream, as Mailbox::receive_part.
  struct NextPart {
    AgentName from;
    MessageId stream;
    std::uint32_t part = 0;
  };
  void receive_part(const AgentName& agent, Milliseconds wait, Milliseconds lease, NextPart part,
                    const void* who, OnReceived done);
  // Shows `who` every message that comes for `agent` from now on, once and before anybody takes it.
  // kFull: too many watch already.
  using OnMessage = std::function<void(const mailbox::Message&)>;
  Status watch(const AgentName& agent, const void* who, OnMessage seen);
  void unwatch(const void* who);
  // It has gone: it gets nothing, costs no message an attempt, is shown nothing, and waits for no
  // reply; none of these is called back. What it has sent still goes out, for no longer than a send
  // without a timeout of its own.
  void forget(const void* who);
  // OK: the sender's pod has recorded it, or is not there any more (Silence). kUnknown: acked here,
  // it does not come again from this pod, but the sender's pod has not recorded it within
  // `timeout`; it is told when it can be, and the same call again waits for it again.
  // `from`: its sender; may be left out when no other one's message has that id.
  void ack(const AgentName& agent, const MessageId& id, std::uint16_t attempt, Milliseconds timeout,
           OnStatus done, const AgentName& from = {});
  Status nack(const AgentName& agent, const MessageId& id, std::uint16_t attempt,
              Milliseconds delay, const AgentName& from = {});
  Status extend(const AgentName& agent, const MessageId& id, std::uint16_t attempt,
                Milliseconds lease, const AgentName& from = {});
  // A dead letter ends (its sender's pod is told, which is not waited for), or is handed out again.
  Status purge(const AgentName& agent, const MessageId& id);
  Status redrive(const AgentName& agent, const MessageId& id);
  // All of them, the oldest first, at most kMaxDeadPerCall a call.
  struct Swept {
    std::uint32_t done = 0, failed = 0, left = 0;  // left: dead letters afterwards
  };
  Swept purge_all(const AgentName& agent);
  Swept redrive_all(const AgentName& agent);

  // A frame of mail from any session; false: not one of ours.
  bool take(Session& session, const link::Frame& frame);
  // Any authenticated session, in- or outbound: acknowledgements may use it.
  void session_up(const std::shared_ptr<Session>& session);
  void session_down(Session& session);
  // `name` has moved: connections to its former pod are of no more use.
  std::function<void()> on_work;  // something may have changed in the mailbox
  // Why mail is refused here for lack of room, in the words of Mailbox::why_full (refusals.h).
  [[nodiscard]] std::string pressed(MonoTime now) const { return refusals_.pressed(now); }
  // Who is there of a team; without it there is no custodian.
  using OnCandidates = std::function<void(const Result<std::vector<Candidate>>&)>;
  std::function<void(std::uint32_t team, OnCandidates)> candidates;
  void look_again();
  // What new messages get from now on, at most what is configured; `why` it is less is told to whom
  // is refused. Replies that are awaited, acks and what is held already are not concerned.
  struct Room {
    std::uint32_t inbox_messages = 0;
    std::size_t blocked_bytes = kMaxBlockedBytes;  // bodies that wait for room
  };
  void set_room(const Room& room, std::string why);
  // The pod ends, and is about to close its links: sends that wait for room are refused, and none
  // waits any more. Who has a link now is not lost when it has none.
  void stop_blocking();
  // Unread messages that no linked pod holds, of names that live as far as we know, and copies kept
  // for names that are not gone for ever: what a drain has still to give back.
  [[nodiscard]] std::size_t to_give_back() const;
  // Nothing that we hold still waits for somebody else (drain).
  [[nodiscard]] std::size_t unsettled() const;
  mailbox::Mailbox& box() { return box_; }

 private:
  struct Peer {                        // a pod
    std::shared_ptr<Session> session;  // outbound, up
    std::shared_ptr<Session> connecting;
    bool locating = false;
    MonoTime retry_at{}, last_used{};
    Milliseconds backoff{0};
    AgentName served;  // of its agents, the last one that something was sent to
    std::string node;  // of its latest incarnation
    std::string last_error;
    LogId leads_to, led_to;  // the name: where it was found last, and elsewhere before that
    struct Returns {         // what is given back to it
      LogId to;
      std::size_t under_way = 0;
      MonoTime at{};
      int unheard = 0;
      Milliseconds wait{0};              // for room
      bool taken = false, full = false;  // said in answer to this batch
    } returns;
  };
  // Questions of one kind, whose answers come in their order: so that of the first one is awaited,
  // then that of the last one by then.
  struct Unanswered {
    log::Sequence awaited = 0, last = 0;  // 0: none
    MonoTime since{};
    void asked(log::Sequence sequence, MonoTime now) {
      last = sequence;
      if (awaited != 0) return;
      awaited = sequence;
      since = now;
    }
    void answered(log::Sequence sequence, MonoTime now) {
      if (sequence != awaited) return;
      awaited = awaited == last ? 0 : last;
      since = now;
    }
  };
  struct Custodian {  // of what stays on our node
    AgentName name;   // empty: none
    bool met = false, asking = false, wanted = false, full = false;
    std::uint32_t teams_asked = 0;     // without finding one
    MonoTime unlinked{}, linked{};     // since when
    MonoTime choose_at{}, retry_at{};  // not before
    Milliseconds choice_wait{0}, copy_wait{0};
    Unanswered keeps, releases;
    std::size_t step = 0;                // copies that it gets at a time; 0: all
    std::optional<MonoTime> full_since;  // it has stored nothing since then
    Milliseconds full_patience{kFirstFullPatience};
    std::map<AgentName, MonoTime> passed_over;     // until
    std::map<AgentName, std::string> last_resort;  // of these, in the teams asked so far: nodes
    std::optional<Error> failed;                   // why nobody has taken anything since
  };
  struct Full {  // an agent's inbox that was: it holds up no neighbour in its pod
    MonoTime until{};
    Milliseconds backoff{0};
    std::string words;
    bool ask = false;  // again, at `until`: it has not said that it keeps a place
  };
  struct Waiting {  // a send under way
    AgentName from, to;
    MessageId id;
    MonoTime deadline;
    OnSent done;
    const void* who;
    bool transmitted = false;
    std::string full = {};  // the last `full` answer's words
  };
  struct Blocked {  // a send that waits for room in this pod
    mailbox::Message message;
    MonoTime deadline;
    OnSent done;
    const void* who;
    Error why;
    std::uint64_t share;
  };
  struct Request {  // a call that waits for a reply, or until its question is accepted
    AgentName from;
    MessageId id;
    const void* who;
  };
  struct Receiver {
    std::optional<MessageId> in_reply_to;
    MonoTime deadline;
    Milliseconds lease;
    OnReceived done;
    const void* who;
    std::optional<NextPart> part = {};
  };
  struct Watcher {
    AgentName agent;
    const void* who;
    OnMessage seen;
  };
  struct AckWait {
    MonoTime deadline;
    OnStatus done;
    AgentName sender;
    LogId creditor;
  };

  void start(mailbox::Message message, Milliseconds timeout, const void* who, OnSent done,
             std::uint64_t share = 0);
  // False: its caller has gone. Its reply is anybody's, unless another call waits for it, too.
  bool end_request(std::uint64_t number);
  enum class Begun { kYes, kNoRoom };
  // kNoRoom: nothing was done, `why` says who is full; else `done` was taken.
  Begun begin(const mailbox::Message& message, MonoTime deadline, const void* who, OnSent& done,
              Error& why, std::uint64_t share);
  void block(mailbox::Message message, MonoTime deadline, const void* who, OnSent done, Error why,
             std::uint64_t share);
  void take_grant(Session& session, const link::Frame& frame);
  void send_grants(MonoTime now);
  void decline(const AgentName& pod, const AgentName& to, std::uint8_t stream);
  void retry_blocked();
  void end_late_blocked(MonoTime now);
  void add_receiver(const AgentName& agent, Receiver receiver);
  void finish(log::Sequence sequence, Result<Accepted> result);
  void collect();  // outcomes of the mailbox to those who wait
  // What a message survives that `to`'s pod has, too.
  [[nodiscard]] const char* shared_with(const AgentName& to) const;
  // What a message survives that is in this pod's log alone.
  [[nodiscard]] const char* alone() const { return config_.journal() ? "pod" : "container"; }
  void show(const mailbox::Message& message);  // to watchers
  void serve();                                // what has become ready, to its receivers
  // Whether it was answered: with a message or why there is none.
  bool hand_out(const AgentName& agent, Receiver& receiver);
  void serve(const AgentName& agent);
  void pump(const AgentName& pod);
  void ensure(const AgentName& name);
  void make_room_for(const AgentName& name);
  void peer_failed(const AgentName& name, const Error& why, bool found);
  void send_debt(const mailbox::AckDebt& debt);
  void send_debts(const AgentName& name);  // all of them
  Status end_dead(const AgentName& agent, const MessageId& id);
  Swept sweep(const AgentName& agent, const std::function<Status(const MessageId&)>& each);
  [[nodiscard]] std::shared_ptr<Session> session_with(const LogId& log) const;
  [[nodiscard]] bool is_up(const AgentName& name) const;  // our link to where it lives
  [[nodiscard]] bool is_gone(const AgentName& name, MonoTime now) const;  // for ever
  // Some log that acks of its messages are owed to has a link.
  [[nodiscard]] bool hears_debts(const AgentName& name) const;
  void settle(log::Sequence inbox);
  void settle(const std::vector<log::Sequence>& inboxes);  // and the debts of these
  void settle_strangers(MonoTime now);
  bool is_overtaken(Session& session);  // and those before it are from now on
  void take_message(Session& session, const link::Frame& frame);
  void take_offer(Session& session, const link::Frame& frame);
  bool take_handed(Session& session, const link::Frame& frame);
  mailbox::Answer take_back(const AgentName& giver, const LogId& from,
                            const mailbox::Outbound& returned);
  // custodian.cc
  void look_after_copies(MonoTime now);
  void choose(MonoTime now);
  void begin_choice();  // with our own team
  void chosen(const Result<std::vector<Candidate>>& found);
  void custodian_up(const Session& session);
  void custodian_down(const AgentName& name);
  void pass_over(const Error& why);
  void entrust(MonoTime now);
  void take_keep(Session& session, const link::Frame& frame);
  void take_kept(Session& session, const link::Frame& frame);
  void take_release(Session& session, const link::Frame& frame);
  void refuse_waiting();
  void record_released();
  void tell_wards(MonoTime now);
  void release_elsewhere();
  [[nodiscard]] Error no_custodian() const;
  void look_for_lost(MonoTime now);
  void give_up_wards(const AgentName& name, const std::set<LogId>& logs);
  [[nodiscard]] bool may_be_lost(const AgentName& name, const LogId& log) const;
  void give_back(const AgentName& name);
  void owed_to_keeper(const Session& keeper, log::Sequence kept);
  // Since when `log` has no link while its name lives in another one; nullopt: that is not so.
  std::optional<MonoTime> unlinked_since(const AgentName& name, const LogId& log, MonoTime now);
  // When an ack need not wait for its sender's pod any more.
  std::optional<MonoTime> patience_ends(const AgentName& sender, const LogId& creditor,
                                        MonoTime now);
  void work();  // everything that news makes due, and time when it has come
  void look_at_all(MonoTime now);
  void pump_dirty();
  void end_late_sends(MonoTime now);
  void end_late_acks(MonoTime now);
  void arm(MonoTime at);  // to look at all again
  void arm_for_all(MonoTime now);
  void schedule_work();
  void look_soon();
  void mark_dirty(const AgentName& name);

  void note_full(const std::string& why);

  Loop& loop_;
  mailbox::Mailbox& box_;
  const Config& config_;
  Session::Options options_;
  std::function<void(const AgentName&, Located)> locate_;
  std::map<AgentName, Peer> peers_;
  std::map<AgentName, Full> full_;
  std::map<AgentName, std::weak_ptr<Session>> told_full_;  // by pod: who wants to hear of places
  // The sessions of an incarnation, the youngest last: a short one must not hide the main one.
  struct Known {
    std::weak_ptr<Session> session;
    bool overtaken = false;  // its sender's mail comes over a younger one by now
  };
  std::map<LogId, std::vector<Known>> by_log_;
  std::map<log::Sequence, Waiting> sends_;
  std::map<std::uint64_t, Request> requests_;  // by a number of their own
  std::uint64_t next_request_ = 0;
  std::uint64_t shares_ = 0;
  // Sender, receiver, whether it is a reply: as the outbox has room for them, and keeps their
  // order.
  using Lane = std::tuple<AgentName, AgentName, bool>;
  static Lane lane_of(const mailbox::Message& message) {
    return {message.from, message.to, !message.in_reply_to.empty()};
  }
  std::map<Lane, std::deque<Blocked>> blocked_;
  Lane retry_from_;  // the first to get what room there is
  std::size_t blocked_count_ = 0, blocked_bytes_ = 0;
  Room room_{config_.max_inbox_messages};
  Refusals refusals_;
  bool blocks_ = true;
  bool may_have_room_ = false;  // something has left the outbox, the inbox or the log
  std::map<AgentName, std::list<Receiver>> receivers_;  // by agent, the first to be served first
  std::size_t waiting_receivers_ = 0;
  std::list<Watcher> watchers_;
  std::map<log::Sequence, AckWait> acks_;                           // by our inbox record
  std::map<std::pair<LogId, log::Sequence>, log::Sequence> debts_;  // sender's record -> ours
  std::map<AgentName, Silence> silent_;  // of those we look for, who has not been reached
  std::map<LogId, MonoTime> strangers_;  // logs without a link under kStrangerLimit, since when
  MonoTime strangers_due_{};
  std::map<LogId, MonoTime> unlinked_;  // logs that acks are owed to, without a link, since when
  std::map<AgentName, std::set<LogId>> missing_;  // the same, by name
  std::set<AgentName> bereft_;                    // whose pods, of these, are lost
  std::set<LogId> parted_;                        // that had a link when we closed all
  std::set<AgentName> needed_;                    // for mail, acks, or what is to be given back
  bool links_changed_ = true;                     // since it was looked which have one
  MonoTime lost_due_{};
  Custodian custodian_;
  std::map<log::Sequence, std::weak_ptr<Session>> acked_by_;  // recorded when it is released
  std::map<LogId, MonoTime> untold_;  // whose wards are to be told to it, since when
  boost::asio::steady_timer timer_;
  MonoTime due_{};             // when all is to be looked at
  std::set<AgentName> dirty_;  // to whom something may be sent that could not be before
  bool work_scheduled_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace swarm::engine
