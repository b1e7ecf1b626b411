// The task API (docs/task-api.md): the part of Coordinator that speaks HTTP.
#include <algorithm>
#include <functional>
#include <memory>
#include <set>

#include "api/swarm.h"
#include "base/encoding.h"
#include "engine/control_json.h"
#include "engine/coordinator.h"
#include "engine/mail_list_json.h"
#include "engine/task_api_json.h"
#include "engine/task_json.h"
#include "os/file.h"

namespace swarm::engine {
namespace {

// Of the server's 256 connections. Whoever waits holds one, and the probes, the metrics and those
// who only look need theirs.
constexpr std::size_t kMaxWaiting = 128;   // for a task to be over
constexpr std::size_t kMaxUnderWay = 224;  // those, and submissions and requests to other teams
constexpr std::uint64_t kMaxWaitSeconds = 55;
constexpr std::uint64_t kMaxForwardedWaitSeconds =
    2;  // an older coordinator's: it holds one of its threads meanwhile
constexpr Milliseconds kMirrorLimit{10000};  // as a submission's
constexpr Milliseconds kMirrorLook{10};
constexpr const char* kRetryAfterSeconds = "2";
constexpr const char* kOverloaded =
    "too many requests are being handled here; try again in a moment";
constexpr const char* kForwarded = "x-swarm-forwarded";

net::HttpResponse ok_json(const json& value, int status = 200) {
  return {status, "application/json", value.dump() + "\n", {}};
}

net::HttpResponse busy(const std::string& message) {
  auto response = net::error_response({Code::kFull, message});
  response.headers.emplace_back("Retry-After", kRetryAfterSeconds);
  return response;
}

Error refused_number(const std::string& parameter, const std::string& given,
                     const std::string& allowed) {
  return invalid(parameter + ": \"" + printable(given.substr(0, 40)) + "\", allowed: " + allowed);
}

// As another team's coordinator gets it.
net::HttpCall call_of(const net::HttpRequest& request, const AgentName& self) {
  net::HttpCall call;
  call.method = request.method;
  call.target = request.path;
  char separator = '?';
  for (const auto& [key, value] : request.query) {
    call.target += separator + net::percent_encode(key) + "=" + net::percent_encode(value);
    separator = '&';
  }
  call.body = request.body;
  if (!call.body.empty()) call.content_type = "application/json";
  auto token = request.header("x-swarm-token");
  if (token.empty()) token = request.header("authorization").substr(7);
  call.headers = {{"X-Swarm-Token", std::string(token)}, {kForwarded, self.value}};
  return call;
}

// Looks until a change has its second copy, or for kMirrorLimit.
struct MirrorWait : std::enable_shared_from_this<MirrorWait> {
  MirrorWait(boost::asio::io_context& io, std::function<bool()> m, std::function<void(bool)> d)
      : timer(io), mirrored(std::move(m)), done(std::move(d)) {}

  void look(const std::shared_ptr<bool>& alive) {
    if (mirrored()) return done(true);
    if (mono_now() >= deadline) return done(false);
    timer.expires_after(kMirrorLook);
    timer.async_wait([self = shared_from_this(), alive](boost::system::error_code e) {
      if (!e && *alive) self->look(alive);
    });
  }

  boost::asio::steady_timer timer;
  std::function<bool()> mirrored;
  std::function<void(bool)> done;
  MonoTime deadline = mono_now() + kMirrorLimit;
};

// Walks over the teams until a page is full. Keeps itself alive by the callbacks that it waits for.
struct Lister : std::enable_shared_from_this<Lister> {
  Lister(TaskPage p, std::function<Result<json>(const TaskPage::Ask&)> o,
         std::function<void(const TaskPage::Ask&, TeamHttp::Done)> a, std::uint32_t t,
         net::Respond r)
      : page(std::move(p)),
        own(std::move(o)),
        ask(std::move(a)),
        own_team(t),
        respond(std::move(r)) {}

  void go_on() {
    while (const auto next = page.next()) {
      if (next->team != own_team) {
        return ask(*next, [self = shared_from_this()](const net::HttpResponse& part) {
          if (part.status == 404) return self->respond(part);  // the cursor is not known there
          auto list = part.status == 200 ? parse_object(part.body) : Result<json>(json::object());
          self->page.take(list ? *std::move(list) : json::object());
          self->go_on();
        });
      }
      auto part = own(*next);
      if (!part) return respond(net::error_response(part.error()));
      page.take(*std::move(part));
    }
    respond(ok_json(std::move(page).finish()));
  }

  TaskPage page;
  std::function<Result<json>(const TaskPage::Ask&)> own;
  std::function<void(const TaskPage::Ask&, TeamHttp::Done)> ask;
  std::uint32_t own_team;
  net::Respond respond;
};

}  // namespace

bool Coordinator::overloaded() const {
  return waiters_.size() + tickets_.size() + forwarders_.carried() + forwarders_.polling() >=
         kMaxUnderWay;
}

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
  json out = task_json(**task, mirrors, survives, false);
  put_family(out, engine_->subtasks_of(id), engine_->waits_of(id), engine_->cycle_of(id));
  later(respond, ok_json(out));
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

  constexpr std::string_view kPrefix = "/v1/tasks/";
  const bool reads = request.method == "GET";
  const bool lists = reads && request.path == "/v1/tasks";
  const bool lists_mail = reads && request.path == "/v1/messages";
  const bool looks = reads && request.path.starts_with(kPrefix) &&
                     request.path.find('/', kPrefix.size()) == std::string::npos;
  const auto known = lists        ? check_parameters(request.query, {"state", "limit", "after"})
                     : lists_mail ? check_parameters(request.query, {"state"})
                     : looks      ? check_parameters(request.query, {"waitSeconds"})
                                  : check_parameters(request.query, {});
  if (!known) return respond(net::error_response(known.error()));

  if (request.path == "/v1/tasks" && request.method == "POST") return submit(request, respond);
  if (lists) return list_tasks(request, respond);
  if (lists_mail) return list_mail(request, respond);
  const bool everywhere = settings_.coordinators > 1 && request.header(kForwarded).empty();
  if (request.path == "/v1/agents" && request.method == "GET") {
    if (!everywhere) return respond({200, "application/json", agents_json(), {}});
    return gather(request, "agents", agents_json(), respond);
  }
  if (request.path == "/v1/stats" && request.method == "GET") {
    auto own = api::to_text(report()) + "\n";
    if (!everywhere) return respond({200, "application/json", std::move(own), {}});
    return gather(request, "stats", own, respond);
  }

  if (!request.path.starts_with(kPrefix))
    return respond(net::error_response(
        not_found("no such path; see /v1/tasks, /v1/agents, /v1/messages, /v1/stats")));
  std::string id = request.path.substr(kPrefix.size());
  std::string verb;
  if (const auto slash = id.find('/'); slash != std::string::npos) {
    verb = id.substr(slash + 1);
    id.resize(slash);
  }
  const auto team = team_of(id);
  if (!team)
    return respond(net::error_response(invalid("not a task's id: it looks like t-0-1f2a")));
  std::uint64_t seconds = 0;
  if (const auto wait = request.parameter("waitSeconds"); wait && verb.empty()) {
    if (wait->empty() || wait->size() > 4 ||
        wait->find_first_not_of("0123456789") != std::string::npos) {
      return respond(net::error_response(refused_number("waitSeconds", *wait, "0 to 55")));
    }
    seconds = std::min<std::uint64_t>(std::stoul(*wait), request.header(kForwarded).empty()
                                                             ? kMaxWaitSeconds
                                                             : kMaxForwardedWaitSeconds);
  }
  const bool may_wait = waiters_.size() + forwarders_.polling() < kMaxWaiting;
  const char* const kTooMany = "too many requests wait here; ask without waitSeconds";
  if (*team != config_.team) {
    if (*team >= settings_.coordinators || !request.header(kForwarded).empty())
      return respond(net::error_response(not_found("no task " + id)));
    if (seconds == 0 || request.method != "GET")
      return forward(*team, std::move(request), std::move(respond));
    if (!may_wait) return respond(busy(kTooMany));
    request.query.erase("waitSeconds");
    return forwarders_.poll(
        *team, call_of(request, config_.name), mono_now() + Milliseconds(seconds * 1000),
        [](const net::HttpResponse& response) {
          const auto task = parse_object(response.body);
          const auto state = task ? tasks::state_from(text_of(*task, "state")) : std::nullopt;
          return !state || tasks::is_final(*state);
        },
        respond);
  }
  const TaskId task_id{id};

  if (verb.empty() && request.method == "GET") {
    const auto task = engine_->find(task_id);
    if (seconds == 0 || !task || tasks::is_final((*task)->state))
      return answer_task(task_id, respond);
    if (!may_wait) return respond(busy(kTooMany));
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
    std::make_shared<MirrorWait>(
        loop_.io(), [this, task_id] { return engine_->mirrored(task_id); },
        [this, task_id, respond](bool mirrored) {
          if (mirrored) return answer_task(task_id, respond);
          later(respond,
                net::error_response({Code::kUnknown,
                                     "done, but no second pod has it yet: it is lost if this "
                                     "coordinator is; look at the task, or try again"}));
        })
        ->look(alive_);
    return;
  }
  respond(net::error_response(not_found("no such path or method below /v1/tasks/" + id)));
}

void Coordinator::submit(const net::HttpRequest& request, const net::Respond& respond) {
  auto submission = parse_submission(request.body, config_.max_message_bytes);
  if (!submission) return respond(net::error_response(submission.error()));
  if (request.header(kForwarded).empty() && settings_.coordinators > 1) {
    const auto& spread = !submission->key.empty() ? submission->key : submission->idempotency_id;
    const auto team = spread.empty() ? config_.team : team_for(spread, settings_.coordinators);
    if (team != config_.team) return forward(team, request, respond);
  }
  if (!leaving_ && !recovering() && overloaded()) return respond(busy(kOverloaded));
  submit(*std::move(submission), [this, respond](const tasks::Submitted& submitted) {
    if (!submitted.result) return later(respond, net::error_response(submitted.result.error()));
    json mirrors = json::array();
    for (const auto& m : submitted.mirrors) mirrors.push_back(m.value);
    later(respond, ok_json({{"id", submitted.result->value},
                            {"survives", submitted.survives},
                            {"duplicate", submitted.duplicate},
                            {"mirrors", mirrors}},
                           201));
  });
  perform();
  arm();
}

void Coordinator::submit(tasks::Submission submission, OnSubmitted done) {
  const auto refuse = [&](Error error) { done({0, std::move(error), "", false, {}}); };
  if (leaving_)
    return refuse(
        unavailable("this coordinator is shutting down; its successor takes tasks in a moment"));
  if (recovering())
    return refuse(unavailable(
        "the coordinator was replaced and is collecting its tasks; try again in a moment"));
  if (log_->available_bytes() < kTaskReserveBytes) {
    return refuse({Code::kFull,
                   "the coordinator's mailbox is full (" +
                       std::to_string(log_->stats().live_bytes >> 20U) +
                       " MiB in use); raise spec.mailbox.sizeLimit or wait until tasks are done"});
  }
  const auto ticket = next_ticket_++;
  tickets_[ticket] = std::move(done);
  engine_->submit(mono_now(), wall_now(), ticket, std::move(submission));
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
      return respond(net::error_response(refused_number("limit", *given, "1 to 1000")));
    }
    limit = std::stoul(*given);
  }
  const auto own = [this, states](const TaskId& after, std::size_t most) -> Result<json> {
    json out{{"tasks", json::array()}};
    const auto page = engine_->list(states, after, most);
    if (!page) return page.error();
    for (const auto* task : *page) out["tasks"].push_back(task_json(*task, {}, "", true));
    if (page->size() == most) out["next"] = page->back()->id.value;
    if (incomplete()) out["recovering"] = true;
    return out;
  };
  const std::string after = request.parameter("after").value_or("");
  if (!request.header(kForwarded).empty()) {
    const auto part = own(TaskId{after}, limit);
    return later(respond, part ? ok_json(*part) : net::error_response(part.error()));
  }
  auto begin = decode_cursor(after);
  if (!begin) return respond(net::error_response(begin.error()));
  std::set<std::uint32_t> teams{config_.team};
  for (std::uint32_t team = 0; team < settings_.coordinators; ++team) teams.insert(team);
  std::make_shared<Lister>(
      TaskPage(*std::move(begin), limit, std::move(teams)),
      [own](const TaskPage::Ask& ask) { return own(TaskId{ask.after}, ask.limit); },
      [this, request](const TaskPage::Ask& ask, TeamHttp::Done done) {
        auto part = request;
        part.query.erase("after");
        if (!ask.after.empty()) part.query["after"] = ask.after;
        part.query["limit"] = std::to_string(ask.limit);
        forward(ask.team, std::move(part), std::move(done));
      },
      config_.team,
      [this, alive = alive_, respond](net::HttpResponse response) {
        if (*alive) later(respond, std::move(response));
      })
      ->go_on();
}

// What lies in this team's pods, and then in the other teams'.
void Coordinator::list_mail(const net::HttpRequest& request, const net::Respond& respond) {
  const auto state = request.parameter("state");
  if (state && *state != "dead") {
    return respond(net::error_response(
        invalid("state: \"" + printable(state->substr(0, 40)) + "\", allowed: dead")));
  }
  if (mail_lists_->full()) return respond(busy(kOverloaded));
  std::map<std::uint64_t, std::string> asked;
  json own = listed_mail(mail_.box(), state.has_value(), wall_now());
  for (const auto& [number, member] : by_session_) {
    if (member.lists_mail && !member.session.expired())
      asked.emplace(number, member.name.value);
    else
      own["missing"].push_back(member.name.value);
  }
  auto away = away_;
  for (const auto& worker : gathering_.awaited(mono_now())) away.insert(worker.name);
  for (const auto& name : away) own["missing"].push_back(name.value);
  const bool everywhere = settings_.coordinators > 1 && request.header(kForwarded).empty();
  const auto sessions = asked;
  const auto number =
      mail_lists_->begin(mono_now(), std::move(own), std::move(asked),
                         [this, alive = alive_, everywhere, request, respond](const json& all) {
                           if (!*alive) return;
                           if (everywhere) return gather(request, "messages", all.dump(), respond);
                           respond(ok_json(all));
                         });
  for (const auto& [session, name] : sessions) {
    if (auto to = by_session_.at(session).session.lock())
      to->send(link::FrameType::kMailList,
               control(json{{"request", number}, {"dead", state.has_value()}}));
  }
  arm();
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
  const auto all_stuck = engine_->stuck();
  for (const auto& [number, m] : by_session_) {
    const auto running = running_of(m);
    // With several agents in its pod, the one that is stuck for longest.
    const auto stuck =
        std::find_if(all_stuck.begin(), all_stuck.end(), [&, session = number](const auto& one) {
          return one.worker == m.name && one.session == session;
        });
    json agent{{"name", m.name.value},
               {"role", "worker"},
               {"pod", m.worker.pod},
               {"node", m.worker.node},
               {"team", config_.team},
               {"state", m.leaving || m.superseded  ? "leaving"
                         : stuck != all_stuck.end() ? "stuck"
                         : running                  ? "busy"
                                                    : "idle"},
               {"sinceSeconds", (wall_now() - m.since) / 1000},
               {"tasksDone", m.tasks_done},
               {"version", m.version}};
    if (m.agents > 1) agent["agents"] = m.agents;
    if (running) agent["task"] = running->id.value;
    if (stuck != all_stuck.end()) {
      agent["task"] = stuck->running.id.value;
      agent["stuckSeconds"] = (wall_now() - stuck->still.since) / 1000;
      if (!stuck->still.why.empty()) agent["stuckWhy"] = stuck->still.why;
    }
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
  out.recovering = incomplete();
  out.ready = active_ && !recovering() && !leaving_;
  const auto n = [](std::uint64_t v) { return static_cast<std::int64_t>(v); };
  out.tasks.queued = n(counts.queued);
  out.tasks.running = n(counts.running);
  out.tasks.done = n(counts.done);
  out.tasks.dead = n(counts.dead);
  out.tasks.cancelled = n(counts.cancelled);
  out.tasks.oldest_queued_seconds = counts.oldest_queued_seconds;
  out.tasks.single_copy = n(counts.single_copy);
  const auto now = mono_now();
  if (const auto until = counts.backing_off_until; until && *until > now) {
    out.tasks.backing_off_until = out.time + (*until - now).count();
    out.tasks.try_later_in_a_row = n(counts.try_later_in_a_row);
  }
  out.tasks.waiting = n(counts.waiting);
  out.tasks.starved = n(counts.starved);
  const auto full = [&] {
    return out.workers.size() + out.awaited.size() >= api::kMaxReportWorkers;
  };
  for (const auto& [number, m] : by_session_) {
    if (m.superseded || !m.joined || full()) continue;
    const auto running = running_of(m);
    out.workers[m.name.value] = {m.worker.pod, running.has_value(),
                                 running ? running->id.value : "", m.address};
  }
  // Our successor has to ask these, too.
  for (const auto& [number, m] : by_session_) {
    if (m.superseded && m.joined && !full())
      out.awaited.push_back({m.name.value, m.worker.pod, m.address});
  }
  for (const auto& worker : gathering_.awaited(mono_now())) {
    const auto announcement = announcing_.find(worker);
    if (!full())
      out.awaited.push_back(
          {worker.name.value, worker.pod,
           announcement == announcing_.end() ? "" : announcement->second.address});
  }
  out.suspended = settings_.suspended;
  out.effective = settings_.v1_command.empty() ? 100 : settings_.v2_percentage;
  out.v1 = n(counts.v1_first);
  out.v2 = n(counts.v2_first);
  out.measured = out.v1 + out.v2 == 0 ? 0 : static_cast<int>(out.v2 * 100 / (out.v1 + out.v2));
  out.dead_letters = books.dead_live;
  out.single_copy_messages = books.single_copy;
  const auto counts_of = [&](const tasks::Spent& s) {
    return api::UsageCounts{n(s.input_tokens),          n(s.output_tokens),  n(s.cache_read_tokens),
                            n(s.cache_creation_tokens), n(s.cost_micro_usd), n(s.tasks),
                            n(s.priced_tasks)};
  };
  out.usage = counts_of(engine_->spent());
  out.expired_usage = counts_of(engine_->expired());
  static_assert(kMaxPressedBytes <= api::kMaxPressedBytes);
  const auto press = [&](const AgentName& name, const std::string& why) {
    if (!why.empty() && out.pressed.size() < api::kMaxReportPressed) out.pressed[name.value] = why;
  };
  for (const auto& one : engine_->stuck()) {
    ++out.stuck;
    if (out.stuck_named.size() < api::kMaxReportStuck)
      out.stuck_named.push_back({one.worker.value, one.running.id.value,
                                 one.still.since / 1000 * 1000,
                                 tasks::clipped(one.still.why, api::kMaxStuckBytes)});
  }
  press(config_.name, mail_.pressed(mono_now()));
  for (const auto& [number, m] : by_session_) {
    if (m.superseded || !m.joined) continue;
    out.dead_letters += n(m.dead_letters);
    out.workers_single_copy_messages += n(m.single_copy);
    press(m.name, m.pressed);
  }
  return out;
}

// ---- other teams

void Coordinator::forward(std::uint32_t team, net::HttpRequest request, net::Respond respond) {
  if (overloaded()) return respond(busy(kOverloaded));
  forwarders_.carry(team, call_of(request, config_.name), std::move(respond));
}

void Coordinator::gather(const net::HttpRequest& request, const std::string& field,
                         const std::string& own, const net::Respond& respond) {
  struct Gathering {
    json all;
    std::size_t missing = 0;
  };
  auto gathering = std::make_shared<Gathering>();
  gathering->all = json::parse(own);
  std::set<std::uint32_t> others;
  for (std::uint32_t team = 0; team < settings_.coordinators; ++team) {
    if (team != config_.team) others.insert(team);
  }
  gathering->missing = others.size();
  const auto add = field == "agents" ? add_agents : field == "messages" ? add_messages : add_stats;
  const auto call = call_of(request, config_.name);
  for (const auto team : others) {
    forwarders_.ask(team, call, [gathering, add, team, respond](const net::HttpResponse& part) {
      auto object = part.status == 200 ? parse_object(part.body) : Result<json>(json::object());
      if (!object || !add(gathering->all, *std::move(object)))
        gathering->all["missingTeams"].push_back(team);
      if (--gathering->missing == 0) respond(ok_json(gathering->all));
    });
  }
}

}  // namespace swarm::engine
