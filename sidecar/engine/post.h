// One message to one or many receivers: who they are, and one outcome for each.
//
// Receivers are written as names and groups, with commas between them: "worker-3",
// "worker-1,worker-2", "workers", "team-2,coordinators". Who belongs to a group is asked once, when
// the message is taken, and stays so; the sender itself is in no group. Each receiver gets a
// message of its own under the same id, with an outcome of its own: one that is full holds up no
// other.
//
// Threads: the loop's. Every call ends by its deadline, in exactly one call of `done`, before which
// `each` was called once for each receiver, unless there was none to send to.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <vector>

#include "engine/mail.h"
#include "engine/worker.h"

namespace swarm::engine {

inline constexpr std::size_t kMaxReceivers = kMaxWaitingSends;  // of one message
inline constexpr std::size_t kMaxAskingCalls = 64;  // whose members are still to be found out
inline constexpr std::size_t kSendsPerTurn = 64;    // of one message; then others get their turn

struct Receivers {
  std::vector<AgentName> names;  // as written, each once
  bool workers = false, coordinators = false;
  std::set<std::uint32_t> teams;
  // Exactly one agent, by its name.
  [[nodiscard]] bool single() const {
    return names.size() == 1 && !workers && !coordinators && teams.empty();
  }
};

// kInvalid: the message says what to write instead.
Result<Receivers> parse_receivers(std::string_view text);

class Post {
 public:
  Post(Loop& loop, Mail& mail, const Config& config);
  ~Post();
  Post(const Post&) = delete;
  Post& operator=(const Post&) = delete;

  // Where members of a team are found; set by the composition.
  std::function<void(std::uint32_t team, Worker::OnPeers)> peers;
  // The agents of a member's pod: each worker's has as many as ours.
  [[nodiscard]] std::vector<AgentName> agents_of(const Worker::Peer& peer) const;

  struct Tally {
    std::size_t receivers = 0, accepted = 0;
    // Of those that did not accept: one whose outcome is unknown, else the first.
    std::optional<Error> failure;
  };
  using OnOutcome = std::function<void(const AgentName&, const Result<Mail::Accepted>&)>;
  // An error: nothing was sent to anybody.
  using OnDone = std::function<void(const Result<Tally>&)>;
  // `who` asks: once it has gone, all that is sent or asked for waits as in Mail::forget.
  void send(const Receivers& to, mailbox::Message message, Milliseconds timeout, OnOutcome each,
            OnDone done, std::optional<std::weak_ptr<const void>> who = {});

 private:
  struct Call;
  void ask(const std::shared_ptr<Call>& call);
  void step(const std::shared_ptr<Call>& call);
  std::shared_ptr<const void> caller(Call& call) const;
  void outcome(const std::shared_ptr<Call>& call, const AgentName& to,
               const Result<Mail::Accepted>& sent);

  Loop& loop_;
  Mail& mail_;
  const Config& config_;
  std::size_t asking_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// "accepted", "refused": never delivered, or "unknown".
const char* outcome_name(const Result<Mail::Accepted>& sent);
// The same with what belongs to it: survives and duplicate, or code and message. Of a reply with
// its ack also acked, or why not: ackCode, code and message.
nlohmann::json outcome_of(const Result<Mail::Accepted>& sent);

}  // namespace swarm::engine
