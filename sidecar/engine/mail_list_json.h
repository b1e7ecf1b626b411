// The mail of a team's pods for people who look (docs/task-api.md, GET /v1/messages): each pod says
// what lies in it, its coordinator puts the answers together. Nothing is taken, no body is shown.
// For .cc files.
//
// Threads: that of the Loop. It is not: the agents' own `ls` (agent_socket.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>

#include "mailbox/mailbox.h"
#include "os/time.h"

namespace swarm::engine {

inline constexpr std::size_t kMaxListedPerPod = 100;  // the oldest; the others are counted
inline constexpr std::size_t kMaxListedMessages = 1000;
inline constexpr std::size_t kMaxMailLists = 16;     // under way in one coordinator
inline constexpr Milliseconds kMailListLimit{2000};  // then who has not answered is missing

// {"messageId", "from", "to", "priority", "state", "attempt", "bytes", "ageMs", "stream"?, "part"?}
nlohmann::json summary_json(const mailbox::Summary& message, WallTime now);
// {"messages", "more"?} of one pod; `dead`: only its dead letters.
nlohmann::json listed_mail(const mailbox::Mailbox& box, bool dead, WallTime now);

// Lists under way: what has come, and who is still awaited.
class MailLists {
 public:
  // {"messages", "more"?, "missing"?}: names of pods that were asked and did not answer.
  using Done = std::function<void(nlohmann::json)>;

  [[nodiscard]] bool full() const { return under_way_.size() >= kMaxMailLists; }
  // Of the sessions `asked`, named by their pods; `own`: listed_mail() of the coordinator's. The
  // number is what the pods' answers carry. `done` is called by one of those below.
  std::uint64_t begin(MonoTime now, nlohmann::json own, std::map<std::uint64_t, std::string> asked,
                      Done done);
  // A pod's answer, from outside: what is none is passed over, and nothing of it goes on unchecked.
  void take(std::uint64_t session, std::uint64_t number, const nlohmann::json& answer);
  void gone(std::uint64_t session);
  void tick(MonoTime now);
  [[nodiscard]] std::optional<MonoTime> next_deadline() const;

 private:
  struct List {
    nlohmann::json all;
    std::map<std::uint64_t, std::string> awaited;
    MonoTime deadline;
    Done done;
  };
  void end(std::map<std::uint64_t, List>::iterator list);

  std::map<std::uint64_t, List> under_way_;  // in the order of their deadlines
  std::uint64_t last_ = 0;
};

// Adds what another pod or team has to `all`, up to kMaxListedMessages; false: it is no list.
bool add_messages(nlohmann::json& all, nlohmann::json part);

}  // namespace swarm::engine
