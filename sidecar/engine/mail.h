// The post office of a pod: puts the pure mailbox, the links and the agents' requests together.
//
// Threads: the loop's. Every request ends by its deadline, in exactly one call of its callback.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/config.h"
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

inline constexpr std::size_t kMaxWaitingSends = 4096;  // agents' send calls under way in one pod
inline constexpr std::size_t kMaxWaitingReceivers = 1024;
inline constexpr std::size_t kLinkWindowBytes = 1U << 20U;  // unsent mail per link
inline constexpr Milliseconds kIdleLinkLimit{60000};
inline constexpr std::size_t kMaxPeerLinks = 256;
inline constexpr std::uint32_t kMaxDeadPerCall =
    256;  // dead letters that one call ends or puts back: the loop serves others in between
// Acks owed to a log with which there has been no link for so long, while its name lives in another
// one, are not owed any more. A pod that takes its predecessor's name links to us sooner.
inline constexpr Milliseconds kStrangerLimit{60000}, kStrangerCheck{15000};

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

  void failed(MonoTime now, Code why);
  // nullopt: an ack has to wait for the sender's pod.
  [[nodiscard]] std::optional<MonoTime> patience_ends() const {
    return absent_since_ ? std::optional(*absent_since_ + kAckPatience) : std::nullopt;
  }
  [[nodiscard]] bool gone(MonoTime now) const;

 private:
  MonoTime since_{};
  std::optional<MonoTime> absent_since_;
  bool begun_ = false;
};

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
  };
  using OnSent = std::function<void(Result<Accepted>)>;
  using OnReceived = std::function<void(Result<mailbox::Delivery>)>;
  using OnStatus = std::function<void(Status)>;

  void send(mailbox::Message message, Milliseconds timeout, OnSent done);
  // As send, then waits for the reply until the same deadline. kNotFound: accepted, but no reply in
  // time.
  void request(mailbox::Message message, Milliseconds timeout, OnSent done);
  // `who` asks; nullptr: nobody in particular.
  void receive(Milliseconds wait, Milliseconds lease, std::optional<MessageId> in_reply_to,
               const void* who, OnReceived done);
  void forget_receivers(
      const void* who);  // it has gone: it gets nothing and costs no message an attempt
  // OK: the sender's pod has recorded it, or is not there any more (Silence). kUnknown: acked here,
  // it does not come again from this pod, but the sender's pod has not recorded it within
  // `timeout`; it is told when it can be, and the same call again waits for it again.
  void ack(const MessageId& id, std::uint16_t attempt, Milliseconds timeout, OnStatus done);
  Status nack(const MessageId& id, std::uint16_t attempt, Milliseconds delay);
  Status extend(const MessageId& id, std::uint16_t attempt, Milliseconds lease);
  // A dead letter ends (its sender's pod is told, which is not waited for), or is handed out again.
  Status purge(const MessageId& id);
  Status redrive(const MessageId& id);
  // All of them, the oldest first, at most kMaxDeadPerCall a call.
  struct Swept {
    std::uint32_t done = 0, failed = 0, left = 0;  // left: dead letters afterwards
  };
  Swept purge_all();
  Swept redrive_all();

  // A frame of mail from any session; false: not one of ours.
  bool take(Session& session, const link::Frame& frame);
  // Any authenticated session, in- or outbound: acknowledgements may use it.
  void session_up(const std::shared_ptr<Session>& session);
  void session_down(Session& session);
  // `name` has moved: connections to its former pod are of no more use.
  void look_again();
  // Nothing that we hold still waits for somebody else (drain).
  [[nodiscard]] std::size_t unsettled() const;
  mailbox::Mailbox& box() { return box_; }

 private:
  struct Peer {
    std::shared_ptr<Session> session;  // outbound, up
    std::shared_ptr<Session> connecting;
    bool locating = false;
    MonoTime retry_at{}, last_used{};
    Milliseconds backoff{0};
    MonoTime full_until{};
    Milliseconds full_backoff{0};
    std::string full;       // its words, until it stores something again
    bool was_full = false;  // its streams stay blocked until we ask again, whatever it answers to
                            // what came behind
    std::string node;       // of its latest incarnation
    std::string last_error;
  };
  struct Waiting {  // a send under way
    AgentName to;
    MessageId id;
    MonoTime deadline;
    OnSent done;
    bool wants_reply = false, transmitted = false;
    std::string full;  // the last `full` answer's words
  };
  struct Receiver {
    std::optional<MessageId> in_reply_to;
    MonoTime deadline;
    Milliseconds lease;
    OnReceived done;
    const void* who;
  };
  struct AckWait {
    MonoTime deadline;
    OnStatus done;
    AgentName sender;
    LogId creditor;
  };

  void start(mailbox::Message message, Milliseconds timeout, OnSent done);
  void finish(log::Sequence sequence, Result<Accepted> result);
  void collect();  // outcomes of the mailbox to those who wait
  void serve();    // messages to receivers
  void pump(const AgentName& name);
  void ensure(const AgentName& name);
  void peer_failed(const AgentName& name, const Error& why);
  void send_debt(const mailbox::AckDebt& debt);
  void send_debts(const AgentName& name);  // all of them
  Status end_dead(const MessageId& id);
  Swept sweep(const std::function<Status(const MessageId&)>& each);
  [[nodiscard]] std::shared_ptr<Session> session_with(const LogId& log) const;
  [[nodiscard]] bool is_up(const AgentName& name) const;  // our link to where it lives
  // Some log that acks of its messages are owed to has a link.
  [[nodiscard]] bool hears_debts(const AgentName& name) const;
  void settle(log::Sequence inbox);
  void settle(const std::vector<log::Sequence>& inboxes);  // and the debts of these
  void settle_strangers(MonoTime now);
  void take_message(Session& session, const link::Frame& frame);
  void take_offer(Session& session, const link::Frame& frame);
  void owed_to_keeper(const Session& keeper, log::Sequence kept);
  // Since when `log` has no link while its name lives in another one; nullopt: that is not so.
  std::optional<MonoTime> unlinked_since(const AgentName& name, const LogId& log, MonoTime now);
  // When an ack need not wait for its sender's pod any more.
  std::optional<MonoTime> patience_ends(const AgentName& sender, const LogId& creditor,
                                        MonoTime now);
  void work();  // everything that time or news makes due
  void arm();
  void schedule_work();

  Loop& loop_;
  mailbox::Mailbox& box_;
  const Config& config_;
  Session::Options options_;
  std::function<void(const AgentName&, Located)> locate_;
  std::map<AgentName, Peer> peers_;
  // The sessions of an incarnation, the youngest last: a short one must not hide the main one.
  std::map<LogId, std::vector<std::weak_ptr<Session>>> by_log_;
  std::map<log::Sequence, Waiting> sends_;
  std::list<Receiver> receivers_;
  std::map<log::Sequence, AckWait> acks_;                           // by our inbox record
  std::map<std::pair<LogId, log::Sequence>, log::Sequence> debts_;  // sender's record -> ours
  std::map<AgentName, Silence> silent_;  // of those we look for, who has not been reached
  std::map<LogId, MonoTime> strangers_;  // logs without a link under kStrangerLimit, since when
  MonoTime strangers_due_{};
  boost::asio::steady_timer timer_;
  bool work_scheduled_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace swarm::engine
