// What agents were told about each message, and what therefore must not happen any more.
//
// An agent hears something when the commit that covers it has returned; what is only under way may
// still be forgotten. The first broken promise is kept as text; nothing is checked after it.
//
// Threads: one. Not a model of how the mailbox works: only of what it promises.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "mailbox/mailbox.h"
#include "simulator/coverage.h"

namespace swarm::simulator {

inline const AgentName kFirstName{"worker-1"}, kSecondName{"worker-2"};

using MessageNumber = std::uint32_t;  // 0, 1, … in the order of their first send

struct Known {
  mailbox::Message message;
  AgentName sender, receiver;             // their pods
  bool generated = false, local = false;  // its id was made by the sidecar; sent within a pod
  bool resent = false, redriven = false;
  bool accepted = false, refused = false;  // told so; refused: never delivered
  bool delivered = false, ack_tried = false, ack_ok = false;
  std::uint16_t attempt = 0;  // highest seen in the receiver's present incarnation
  std::uint16_t round = 0;    // … and of the attempts before its last redrive
  bool sender_has = false, receiver_has = false;  // committed copies
  bool sender_lost = false, receiver_lost = false;
  bool recorded = false;  // its ack, by the one pod that has its sender's name
  bool forked = false;    // given back to its sender's next pod while the former one still had it
  bool moved = false;     // its sender's pod was drained
  bool late = false;      // not accepted yet when its sender's log was lost
  Step last = Step::kAppended;
  // Nobody else gets it before then, by the clock of the process that handed it out.
  MonoTime held_until{};
  std::uint64_t held_in_life = 0;
};

struct News {
  enum class Kind : std::uint8_t {
    kSenderHas,    // its send has come to be
    kReceiverHas,  // the other pod has it
    kAccepted,
    kRefused,         // by the call itself
    kRefusedByOther,  // later, by the receiver's pod
    kWithdrawn,
    kTakenBack,  // as kWithdrawn, but nobody is told
    kHandedOut,
    kAckOk,
    kRecorded,  // its ack, by the one pod that has its sender's name
    kRedriven,
  } kind = Kind::kAccepted;
  MessageNumber message = 0;
  std::uint16_t attempt = 0;
};

class Model {
 public:
  // A message that nobody has sent yet, with its id. `same_id`: that of the one added before,
  // unless that id has gone to `to` already, or is not one that `from` can have chosen.
  MessageNumber add(const AgentName& from, const AgentName& to, bool generated,
                    bool same_id = false);
  [[nodiscard]] std::optional<MessageNumber> find(const MessageId& id, const AgentName& to) const;
  Known& at(MessageNumber number) { return known_[number]; }
  [[nodiscard]] const std::vector<Known>& all() const { return known_; }

  void hear(const News& news);
  // The call itself; what it says is heard later.
  void handed_out(MessageNumber number, const mailbox::Delivery& delivery, std::uint64_t life,
                  MonoTime now);

  // Two pods hold what was accepted; may that of `name` go now?
  [[nodiscard]] bool may_lose(const AgentName& name) const;
  void lose(const AgentName& name);
  // The same for a pod that is drained: what it has sent goes to its successor, its inbox does not.
  [[nodiscard]] bool may_retire(const AgentName& name) const;
  void retire(const AgentName& name);
  // At the end, when all has been handed out and acked.
  void nothing_is_lost();

  void fail(std::string what) {
    if (broken_.empty()) broken_ = std::move(what);
  }
  [[nodiscard]] bool failed() const { return !broken_.empty(); }
  [[nodiscard]] const std::string& broken() const { return broken_; }

 private:
  void hear_handed_out(Known& k, std::uint16_t attempt);
  void fail(const Known& k, const char* what) { fail(k.message.id.value + " " + what); }

  std::vector<Known> known_;
  // Of each sender, receiver and priority the message that was handed out last.
  std::map<std::tuple<AgentName, AgentName, mailbox::Priority>, MessageNumber> latest_;
  std::string broken_;
};

}  // namespace swarm::simulator
