// The pure half of the task API (docs/task-api.md): what a request says, which team it belongs to,
// and how the parts of several teams become one answer. For .cc files.
//
// Threads: none, values only. It is not: the HTTP server, or the way to other teams (team_http.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "base/result.h"
#include "tasks/tasks.h"

namespace swarm::engine {

// A submission from its JSON. kInvalid names the field and what is allowed: a field that is unknown
// or of the wrong type is refused, never passed over.
Result<tasks::Submission> parse_submission(const std::string& body, std::uint32_t max_bytes);
// The same of an agent's: `fields` without the body, which is `body`.
Result<tasks::Submission> parse_submission(const nlohmann::json& fields, std::string body,
                                           std::uint32_t max_bytes);

// kInvalid for a query with a parameter that is not `allowed`; the message names those that are.
Status check_parameters(const std::map<std::string, std::string>& query,
                        std::initializer_list<std::string_view> allowed);

// The team in a task's id; nullopt: not an id.
std::optional<std::uint32_t> team_of(const std::string& id);
// The team that owns a key: the same in every coordinator and release.
std::uint32_t team_for(std::string_view key, std::uint32_t teams);

// Where a page of the list begins: in `team`, behind the task `after` ("": at its oldest).
struct Cursor {
  std::uint32_t team = 0;
  std::string after;
  friend bool operator==(const Cursor&, const Cursor&) = default;
};
// "TEAM:ID". decode_cursor() takes "" (the very beginning) and a task's id alone as well; kInvalid:
// anything else.
std::string encode_cursor(const Cursor& cursor);
Result<Cursor> decode_cursor(const std::string& text);

// One page of the list over all teams, put together from theirs: team by team, each oldest first,
// until `limit` tasks are there. A team that does not answer is named and passed over.
class TaskPage {
 public:
  TaskPage(Cursor begin, std::size_t limit, std::set<std::uint32_t> teams);
  struct Ask {
    std::uint32_t team = 0;
    std::string after;
    std::size_t limit = 0;
  };
  // Whom to ask next; nullopt: the page is complete. Each answer goes to take() or missing() before
  // the next call.
  [[nodiscard]] std::optional<Ask> next() const;
  // A team's own list: {"tasks", "next"?, "recovering"?}. False: it is none, as if missing().
  bool take(nlohmann::json list);
  void missing();
  // {"tasks", "next"?, "recovering"?, "missingTeams"?}
  [[nodiscard]] nlohmann::json finish() &&;

 private:
  void next_team();
  Cursor at_;
  std::size_t limit_;
  std::set<std::uint32_t> left_;  // the team of at_, and those behind it
  nlohmann::json out_;
};

// Adds another team's part of GET /v1/agents or /v1/stats to `all`; false: it is none. Of the
// statistics counts are added, the oldest task is the oldest of all, ready is what all are,
// recovering what one is; time, epoch and the effective percentage stay those of the first.
bool add_agents(nlohmann::json& all, nlohmann::json part);
bool add_stats(nlohmann::json& all, nlohmann::json part);

}  // namespace swarm::engine
