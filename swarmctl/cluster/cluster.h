// One namespace of a cluster as the verbs see it: Swarms, pods, and the task API of a Swarm's
// coordinators behind the API server's service proxy. Turns every refusal on the way into words
// that say what to do.
//
// Threads: one per Cluster; a copy has a connection of its own and the tokens that were known.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "cluster/http.h"
#include "os/time.h"

namespace swarm::cluster {

inline constexpr std::size_t kMostSwarms = 100;  // looked through for a task
inline constexpr std::size_t kTasksPerPage = 500;
inline constexpr std::size_t kMostTasks = 200'000;  // of one list
inline constexpr std::size_t kMostPages = 2000;     // of one list; a page may be empty
inline constexpr Milliseconds kAttemptLimit{
    70'000};  // one HTTP request; a waiting GET takes up to 50 s
inline constexpr Milliseconds kRetryFirst{200};
inline constexpr Milliseconds kRetryMost{2000};

// What kubectl proxy says when no answer came from the API server: kUnavailable when the request
// was certainly not sent, else kUnknown. nullopt: `response` is an answer of the API server, or of
// somebody behind it.
std::optional<Error> explain_no_answer(const HttpResponse& response);
// What went wrong with a request to the API server itself, from its status and body (a Status
// object or plain text).
Error explain_kubernetes(int status, const std::string& body, const std::string& doing);
// The same for a request to the task API through the service proxy: our own errors keep their code,
// the proxy's (no endpoints, not allowed) get words about Swarm `swarm`.
Error explain_task_api(int status, const std::string& body, const std::string& swarm,
                       const std::string& name_space);

struct TaskPlace {
  std::string swarm;
  std::shared_ptr<const nlohmann::json> task;
};

// A list over all teams, and what is missing in it.
struct Listing {
  std::vector<nlohmann::json> items;
  std::set<std::int64_t> missing_teams;  // their coordinators did not answer
  bool recovering = false;               // a coordinator is still collecting its tasks
  std::set<std::string> missing_pods;    // of messages: these did not answer
  std::uint64_t more = 0;                // of messages: beyond those that are listed
  [[nodiscard]] bool complete() const {
    return missing_teams.empty() && !recovering && missing_pods.empty();
  }
  // Adds the member `name` of one answer and what it says is missing.
  void add(const nlohmann::json& answer, const std::string& name);
};

class Cluster {
 public:
  Cluster(const HttpClient& http, std::string name_space)
      : http_(http), namespace_(std::move(name_space)) {}

  [[nodiscard]] const std::string& name_space() const { return namespace_; }

  Result<std::vector<std::string>> swarm_names(MonoTime deadline);
  Result<nlohmann::json> swarm(const std::string& name, MonoTime deadline);
  Result<nlohmann::json> swarm_events(const std::string& name, MonoTime deadline);
  Result<nlohmann::json> pod(const std::string& name, MonoTime deadline);
  // A container's log, piece by piece. kNotFound: the pod or that container's log is gone.
  Status pod_log(const std::string& pod, const std::string& container, bool follow, bool previous,
                 const std::function<void(std::string_view)>& take,
                 const std::function<bool()>& go_on);

  // The token of the Swarm's task API; remembered. Says which swarms exist when there is no such
  // one.
  Result<std::string> token(const std::string& swarm, MonoTime deadline);
  // One request to /v1`path`. Repeated while the coordinators or the API server can't be reached,
  // until the deadline; with `repeatable` also when it may have been carried out. What comes back
  // has status 200 to 299. A GET has no outcome that could be unknown: kUnavailable instead.
  Result<HttpResponse> call(const std::string& swarm, const std::string& method,
                            const std::string& path, const std::string& body, bool repeatable,
                            MonoTime deadline);
  Result<nlohmann::json> call_json(const std::string& swarm, const std::string& method,
                                   const std::string& path, const std::string& body,
                                   bool repeatable, MonoTime deadline);
  // All pages of the list; `query` is "" or "state=queued".
  Result<Listing> tasks(const std::string& swarm, const std::string& query, MonoTime deadline);

  // The swarm that has the task: `swarm` if given, else all of the namespace are asked. kInvalid:
  // several have one.
  Result<TaskPlace> find_task(const TaskId& task, const std::string& swarm, MonoTime deadline);
  // `swarm` if given, else the only one there is.
  Result<std::string> only_swarm(const std::string& swarm, MonoTime deadline);

  // Refusals for lack of room (429) are repeated too: for bulk submission.
  void set_patient(bool patient) { patient_ = patient; }
  // An API server that has never answered is waited for, too: for who has said how long.
  void set_insistent(bool insistent) { insistent_ = insistent; }
  // Asked for the API server's address when it does not answer.
  void set_server(std::function<std::string()> server) { server_ = std::move(server); }
  // Called once when a request has to be repeated, with the reason.
  void set_on_wait(std::function<void(const Error&)> on_wait) { on_wait_ = std::move(on_wait); }

 private:
  Result<nlohmann::json> get(const std::string& target, const std::string& doing,
                             MonoTime deadline);
  Result<HttpResponse> try_once(const std::string& swarm, const HttpRequest& request,
                                MonoTime deadline);
  // As HttpClient::send; when no answer came from the API server, the error says so and names it.
  Result<HttpResponse> send(const HttpRequest& request, MonoTime deadline);
  [[nodiscard]] Error no_answer(Error error) const;

  HttpClient http_;
  std::string namespace_;
  std::map<std::string, std::string> tokens_;
  bool patient_ = false;
  bool insistent_ = false;
  bool reached_ = false;  // the API server has answered before
  std::function<std::string()> server_;
  std::function<void(const Error&)> on_wait_;
};

}  // namespace swarm::cluster
