// The task API (docs/task-api.md): the part of Coordinator that speaks HTTP.
#include <algorithm>
#include <boost/asio/post.hpp>

#include "api/swarm.h"
#include "base/encoding.h"
#include "engine/control_json.h"
#include "engine/coordinator.h"
#include "engine/task_json.h"
#include "net/beast_client.h"
#include "os/file.h"

namespace swarm::engine {
namespace {

constexpr std::size_t kMaxKeyBytes = 256;
constexpr std::size_t kMaxLabels = 32;
constexpr std::uint64_t kMaxWaitSeconds = 55;
constexpr const char* kForwarded = "x-swarm-forwarded";

net::HttpResponse ok_json(const json& value, int status = 200) {
  return {status, "application/json", value.dump() + "\n", {}};
}

// FNV-1a: the same in every coordinator and release, since it decides which team owns a key.
std::uint32_t team_hash(std::string_view text) {
  std::uint32_t h = 2166136261U;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 16777619U;
  return h;
}

std::optional<std::uint32_t> team_of(const std::string& id) {
  if (!id.starts_with("t-")) return std::nullopt;
  const auto dash = id.find('-', 2);
  if (dash == std::string::npos || dash == 2 || dash > 8 || dash + 1 == id.size() || id.size() > 64)
    return std::nullopt;
  std::uint32_t team = 0;
  for (std::size_t i = 2; i < dash; ++i) {
    if (id[i] < '0' || id[i] > '9') return std::nullopt;
    team = team * 10 + static_cast<std::uint32_t>(id[i] - '0');
  }
  for (std::size_t i = dash + 1; i < id.size(); ++i) {
    if (!((id[i] >= '0' && id[i] <= '9') || (id[i] >= 'a' && id[i] <= 'z'))) return std::nullopt;
  }
  return team;
}

std::string target_of(const net::HttpRequest& request) {
  std::string out = request.path;
  char separator = '?';
  for (const auto& [key, value] : request.query) {
    out += separator + net::percent_encode(key) + "=" + net::percent_encode(value);
    separator = '&';
  }
  return out;
}

Result<tasks::Submission> parse_submission(const std::string& body, std::uint32_t max_bytes) {
  auto object = parse_object(body);
  if (!object)
    return invalid("the request's body must be a JSON object like {\"body\":\"…\",\"key\":\"…\"}");
  for (const auto& [key, value] : object->items()) {
    if (key != "body" && key != "body64" && key != "key" && key != "id" && key != "labels" &&
        key != "maxAttempts") {
      return invalid("unknown field \"" + printable(key.substr(0, 40)) +
                     "\", allowed: body, body64, key, id, labels, maxAttempts");
    }
  }
  tasks::Submission out;
  if (object->contains("body64")) {
    auto bytes = from_base64(text_of(*object, "body64"));
    if (!bytes) return invalid("body64 must be base64");
    out.body = *std::move(bytes);
  } else if (object->contains("body") && (*object)["body"].is_string()) {
    out.body = (*object)["body"].get<std::string>();
  } else {
    return invalid("body (a string) or body64 is required");
  }
  if (out.body.size() > max_bytes) {
    return invalid(
        "the task's body has " + std::to_string(out.body.size()) + " bytes, at most " +
        std::to_string(max_bytes) +
        " (spec.mailbox.maxMessageBytes); put larger input into a file or repository and name it");
  }
  out.key = text_of(*object, "key");
  out.idempotency_id = text_of(*object, "id");
  if (out.key.size() > kMaxKeyBytes)
    return invalid("key: at most " + std::to_string(kMaxKeyBytes) + " bytes");
  if (!out.idempotency_id.empty() && !is_message_id(out.idempotency_id))
    return invalid("id must match ^[A-Za-z0-9._:-]{1,128}$");
  if (const auto labels = object->find("labels"); labels != object->end()) {
    if (!labels->is_object() || labels->size() > kMaxLabels)
      return invalid("labels: an object of at most " + std::to_string(kMaxLabels) + " strings");
    for (const auto& [key, value] : labels->items()) {
      if (!value.is_string() || key.size() > 63 ||
          value.get_ref<const std::string&>().size() > 63) {
        return invalid("labels: names and values are strings of at most 63 bytes");
      }
      out.labels[key] = value.get<std::string>();
    }
  }
  if (const auto n = object->find("maxAttempts"); n != object->end()) {
    if (!n->is_number_unsigned() || n->get<std::uint64_t>() < 1 || n->get<std::uint64_t>() > 100)
      return invalid("maxAttempts: 1 to 100");
    out.max_attempts = n->get<std::uint32_t>();
  }
  return out;
}

}  // namespace

void Coordinator::later(const net::Respond& respond, net::HttpResponse response) {
  loop_.after_commit([respond, response = std::move(response)] { respond(response); });
}

void Coordinator::answer_task(const TaskId& id, const net::Respond& respond) {
  const auto task = engine_->find(id);
  if (!task) return later(respond, net::error_response(task.error()));
  const auto mirrors = engine_->mirrors_of(id);
  std::string survives = "container";
  for (const auto& [number, member] : by_session_) {
    if (std::find(mirrors.begin(), mirrors.end(), member.name) == mirrors.end()) continue;
    if (survives == "container") survives = "pod";
    if (member.worker.node != config_.node) survives = "node";
  }
  later(respond, ok_json(task_json(**task, mirrors, survives, false)));
}

void Coordinator::http(net::HttpRequest request, net::Respond respond) {
  auto token = os::read_file(config_.submit_token_file, 4096);
  std::string given(request.header("x-swarm-token"));
  if (given.empty() && request.header("authorization").starts_with("Bearer "))
    given = request.header("authorization").substr(7);
  while (token && !token->empty() && token->back() == '\n') token->pop_back();
  if (!token || token->empty())
    return respond(net::error_response(
        unavailable("the token of Secret " + config_.swarm + "-submit is not mounted yet")));
  if (given.empty()) {
    return respond({401,
                    "application/json",
                    R"({"code":"denied","message":"send the token of Secret )" + config_.swarm +
                        R"(-submit as X-Swarm-Token; kubectl swarm does"})"
                        "\n",
                    {}});
  }
  if (!constant_time_equal(given, *token)) {
    return respond({403,
                    "application/json",
                    R"({"code":"denied","message":"that is not the token of Secret )" +
                        config_.swarm +
                        R"(-submit"})"
                        "\n",
                    {}});
  }
  if (!active_)
    return respond(net::error_response(
        unavailable("this coordinator does not hold its team's Lease yet; try again")));

  if (request.path == "/v1/tasks" && request.method == "POST") return submit(request, respond);
  if (request.path == "/v1/tasks" && request.method == "GET") return list_tasks(request, respond);
  const bool everywhere = settings_.coordinators > 1 && request.header(kForwarded).empty();
  if (request.path == "/v1/agents" && request.method == "GET") {
    if (!everywhere) return respond({200, "application/json", agents_json(), {}});
    return gather(request, "agents", agents_json(), respond);
  }
  if (request.path == "/v1/stats" && request.method == "GET")
    return respond({200, "application/json", api::to_text(report()) + "\n", {}});

  constexpr std::string_view kPrefix = "/v1/tasks/";
  if (!request.path.starts_with(kPrefix))
    return respond(
        net::error_response(not_found("no such path; see /v1/tasks, /v1/agents, /v1/stats")));
  std::string id = request.path.substr(kPrefix.size());
  std::string verb;
  if (const auto slash = id.find('/'); slash != std::string::npos) {
    verb = id.substr(slash + 1);
    id.resize(slash);
  }
  const auto team = team_of(id);
  if (!team)
    return respond(net::error_response(invalid("not a task's id: it looks like t-0-1f2a")));
  if (*team != config_.team) {
    if (*team >= settings_.coordinators || !request.header(kForwarded).empty())
      return respond(net::error_response(not_found("no task " + id)));
    return forward(*team, std::move(request), std::move(respond));
  }
  const TaskId task_id{id};

  if (verb.empty() && request.method == "GET") {
    const auto wait = request.parameter("waitSeconds");
    std::uint64_t seconds = 0;
    if (wait) {
      if (wait->empty() || wait->size() > 4 ||
          wait->find_first_not_of("0123456789") != std::string::npos) {
        return respond(net::error_response(invalid("waitSeconds: 0 to 55")));
      }
      seconds = std::min<std::uint64_t>(std::stoul(*wait), kMaxWaitSeconds);
    }
    const auto task = engine_->find(task_id);
    if (seconds == 0 || !task || tasks::is_final((*task)->state))
      return answer_task(task_id, respond);
    if (waiters_.size() >= kMaxTaskWaiters)
      return respond(net::error_response(
          {Code::kFull, "too many requests wait here; ask without waitSeconds"}));
    waiters_.push_back({task_id, mono_now() + Milliseconds(seconds * 1000), respond});
    return arm();
  }
  if (verb == "result" && request.method == "GET") {
    const auto task = engine_->find(task_id);
    if (!task) return respond(net::error_response(task.error()));
    if (!(*task)->result) {
      return respond(net::error_response(not_found(
          id + " has no result: it is " + std::string(tasks::state_name((*task)->state)))));
    }
    net::HttpResponse response{200, "application/octet-stream", (*task)->result->bytes, {}};
    if ((*task)->result->truncated)
      response.headers.emplace_back("X-Swarm-Truncated",
                                    std::to_string((*task)->result->total_bytes));
    return later(respond, std::move(response));
  }
  if ((verb == "cancel" || verb == "retry") && request.method == "POST") {
    auto task = verb == "cancel" ? engine_->cancel(mono_now(), wall_now(), task_id)
                                 : engine_->retry(mono_now(), wall_now(), task_id);
    perform();
    arm();
    if (!task) return respond(net::error_response(task.error()));
    return answer_task(task_id, respond);
  }
  respond(net::error_response(not_found("no such path or method below /v1/tasks/" + id)));
}

void Coordinator::submit(const net::HttpRequest& request, const net::Respond& respond) {
  auto submission = parse_submission(request.body, config_.max_message_bytes);
  if (!submission) return respond(net::error_response(submission.error()));
  if (request.header(kForwarded).empty() && settings_.coordinators > 1) {
    const auto& spread = !submission->key.empty() ? submission->key : submission->idempotency_id;
    const auto team = spread.empty() ? config_.team : team_hash(spread) % settings_.coordinators;
    if (team != config_.team) return forward(team, request, respond);
  }
  if (leaving_)
    return respond(net::error_response(
        unavailable("this coordinator is shutting down; its successor takes tasks in a moment")));
  if (recovering())
    return respond(net::error_response(unavailable(
        "the coordinator was replaced and is collecting its tasks; try again in a moment")));
  if (log_->available_bytes() < kTaskReserveBytes) {
    return respond(net::error_response(
        {Code::kFull,
         "the coordinator's mailbox is full (" + std::to_string(log_->stats().live_bytes >> 20U) +
             " MiB in use); raise spec.mailbox.sizeLimit or wait until tasks are done"}));
  }
  const auto ticket = next_ticket_++;
  tickets_[ticket] = respond;
  engine_->submit(mono_now(), wall_now(), ticket, *std::move(submission));
  perform();
  arm();
}

void Coordinator::list_tasks(const net::HttpRequest& request, const net::Respond& respond) {
  std::vector<tasks::TaskState> states;
  std::string rest = request.parameter("state").value_or("");
  while (!rest.empty()) {
    const auto comma = rest.find(',');
    const auto word = rest.substr(0, comma);
    const auto state = tasks::state_from(word);
    if (!state)
      return respond(net::error_response(
          invalid("state: \"" + printable(word.substr(0, 40)) +
                  "\", allowed: queued, running, done, failed, dead, cancelled")));
    states.push_back(*state);
    rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
  }
  std::size_t limit = 500;
  if (const auto given = request.parameter("limit")) {
    if (given->empty() || given->size() > 4 ||
        given->find_first_not_of("0123456789") != std::string::npos || std::stoul(*given) < 1 ||
        std::stoul(*given) > 1000) {
      return respond(net::error_response(invalid("limit: 1 to 1000")));
    }
    limit = std::stoul(*given);
  }
  const TaskId after{request.parameter("after").value_or("")};
  json out{{"tasks", json::array()}};
  const auto page = engine_->list(states, after, limit);
  for (const auto* task : page) out["tasks"].push_back(task_json(*task, {}, "", true));
  if (page.size() == limit) out["next"] = page.back()->id.value;
  if (recovering()) out["recovering"] = true;
  if (settings_.coordinators > 1 && request.header(kForwarded).empty() && after.empty())
    return gather(request, "tasks", out.dump(), respond);
  respond(ok_json(out));
}

std::string Coordinator::agents_json() {
  json agents = json::array();
  const auto books = mail_.box().books();
  agents.push_back({{"name", config_.name.value},
                    {"role", "coordinator"},
                    {"pod", config_.pod},
                    {"node", config_.node},
                    {"team", config_.team},
                    {"state", leaving_       ? "leaving"
                              : recovering() ? "recovering"
                                             : "ready"},
                    {"inbox", books.inbox_live},
                    {"outbox", books.outbox_live},
                    {"version", SWARM_VERSION}});
  for (const auto& [number, m] : by_session_) {
    const auto running = running_of(m);
    json agent{{"name", m.name.value},
               {"role", "worker"},
               {"pod", m.worker.pod},
               {"node", m.worker.node},
               {"team", config_.team},
               {"state", m.leaving || m.superseded ? "leaving"
                         : running                 ? "busy"
                                                   : "idle"},
               {"sinceSeconds", (wall_now() - m.since) / 1000},
               {"tasksDone", m.tasks_done},
               {"version", m.version}};
    if (running) agent["task"] = running->id.value;
    agents.push_back(std::move(agent));
  }
  return json{{"agents", agents}}.dump() + "\n";
}

api::TeamReport Coordinator::report() const {
  const auto counts = engine_->counts(wall_now());
  const auto books = mail_.box().books();
  api::TeamReport out;
  out.time = wall_now();
  out.epoch = epoch_;
  out.recovering = recovering();
  out.ready = active_ && !out.recovering && !leaving_;
  const auto n = [](std::uint64_t v) { return static_cast<std::int64_t>(v); };
  out.tasks.queued = n(counts.queued);
  out.tasks.running = n(counts.running);
  out.tasks.done = n(counts.done);
  out.tasks.failed = n(counts.failed);
  out.tasks.dead = n(counts.dead);
  out.tasks.cancelled = n(counts.cancelled);
  out.tasks.oldest_queued_seconds = counts.oldest_queued_seconds;
  out.tasks.single_copy = n(counts.single_copy);
  for (const auto& [number, m] : by_session_) {
    if (m.superseded || !m.joined || out.workers.size() >= api::kMaxReportWorkers) continue;
    const auto running = running_of(m);
    out.workers[m.name.value] = {m.worker.pod, running.has_value(),
                                 running ? running->id.value : "", false, m.address};
  }
  out.effective = settings_.v1_command.empty() ? 100 : settings_.v2_percentage;
  out.v1 = n(counts.v1_first);
  out.v2 = n(counts.v2_first);
  out.measured = out.v1 + out.v2 == 0 ? 0 : static_cast<int>(out.v2 * 100 / (out.v1 + out.v2));
  out.dead_letters = books.dead_live;
  out.single_copy_messages = books.single_copy;
  return out;
}

// ---- other teams

void Coordinator::forward(std::uint32_t team, net::HttpRequest request, net::Respond respond) {
  if (forwarding_ >= kMaxForwards)
    return respond(
        net::error_response({Code::kFull, "too many requests are on their way to other teams"}));
  ++forwarding_;
  auto token = std::string(request.header("x-swarm-token"));
  if (token.empty()) token = request.header("authorization").substr(7);
  boost::asio::post(
      forwarders_, [this, team, request = std::move(request), respond = std::move(respond), token] {
        net::HttpClientOptions options;
        options.url = "http://coordinator-" + std::to_string(team) + "." + config_.link_service +
                      ":" + std::to_string(config_.http_port);
        net::HttpResponse response;
        auto client = net::make_beast_client(options);
        if (!client) {
          response = net::error_response(client.error());
        } else {
          net::HttpCall call;
          call.method = request.method;
          call.target = target_of(request);
          call.body = request.body;
          if (!call.body.empty()) call.content_type = "application/json";
          call.headers = {{"X-Swarm-Token", token}, {kForwarded, config_.name.value}};
          auto reply = (*client)->send(call, Milliseconds{60000});
          if (!reply) {
            response = net::error_response(reply.error().in("coordinator-" + std::to_string(team)));
          } else {
            const auto type = reply->headers.find("content-type");
            response = {reply->status,
                        type == reply->headers.end() ? "application/json" : type->second,
                        reply->body,
                        {}};
          }
        }
        loop_.post([this, respond, response = std::move(response)] {
          --forwarding_;
          respond(response);
        });
      });
}

void Coordinator::gather(const net::HttpRequest& request, const std::string& field,
                         const std::string& own, const net::Respond& respond) {
  struct Gathering {
    json all;
    std::size_t missing = 0;
    std::string failed;
  };
  auto gathering = std::make_shared<Gathering>();
  gathering->all = json::parse(own);
  gathering->missing = settings_.coordinators - 1;
  for (std::uint32_t team = 0; team < settings_.coordinators; ++team) {
    if (team == config_.team) continue;
    forward(team, request, [gathering, field, team, respond](const net::HttpResponse& part) {
      auto object = parse_object(part.body);
      if (part.status == 200 && object && object->contains(field)) {
        for (auto& item : (*object)[field]) gathering->all[field].push_back(std::move(item));
      } else {
        gathering->all["missingTeams"].push_back(team);
      }
      if (--gathering->missing == 0) respond(ok_json(gathering->all));
    });
  }
}

}  // namespace swarm::engine
