// kubectl swarm get tasks|agents|messages|dead, describe and why: what is there.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>
#include <tuple>

#include "commands/command.h"
#include "text/format.h"
#include "text/json.h"
#include "text/views.h"

namespace swarm::commands {
namespace {

using nlohmann::json;
using text::get_text;
using text::Row;

constexpr Milliseconds kExtraTime{3000};  // for what is shown beside what was asked for

enum class Kind { kTasks, kAgents, kMessages };

const char* plural(Kind kind) {
  return kind == Kind::kTasks ? "tasks" : kind == Kind::kAgents ? "agents" : "messages";
}
Row header_row(Kind kind, bool wide) {
  return kind == Kind::kTasks    ? text::task_header(wide)
         : kind == Kind::kAgents ? text::agent_header(wide)
                                 : text::message_header(wide);
}
Row row_of(Kind kind, const json& item, WallTime now, bool wide) {
  return kind == Kind::kTasks    ? text::task_row(item, now, wide)
         : kind == Kind::kAgents ? text::agent_row(item, wide)
                                 : text::message_row(item, wide);
}
std::string name_of(Kind kind, const json& item) {
  return kind == Kind::kTasks    ? "task/" + text::shorten(get_text(item, "id"), 128)
         : kind == Kind::kAgents ? "agent/" + text::shorten(get_text(item, "name"), 128)
                                 : "message/" + text::shorten(get_text(item, "messageId"), 128);
}

const std::vector<std::string> kStates{"queued", "running", "done", "dead", "cancelled"};

Status check_states(const std::string& states) {
  std::string left = states;
  while (!left.empty()) {
    const std::size_t comma = left.find(',');
    const std::string state = left.substr(0, comma);
    left = comma == std::string::npos ? "" : left.substr(comma + 1);
    if (std::find(kStates.begin(), kStates.end(), state) == kStates.end()) {
      const std::string near = text::nearest(state, kStates);
      return invalid("--state " + state + ": " +
                     (near.empty() ? "" : "did you mean " + near + "? ") +
                     "The states are queued, running, done, dead, cancelled");
    }
  }
  return {};
}

Result<cluster::Listing> fetch_messages(cluster::Cluster& cluster, const Options& options,
                                        const std::string& swarm, bool dead) {
  const Result<json> all = cluster.call_json(
      swarm, "GET", dead ? "/messages?state=dead" : "/messages", "", true, options.deadline());
  if (!all && all.error().message.find("no such path") != std::string::npos) {
    Error error = all.error();
    error.message += " (a coordinator of an earlier release lists no messages)";
    return error;
  }
  if (!all) return all.error();
  cluster::Listing list;
  list.add(*all, "messages");
  list.items = text::messages_once(std::move(list.items));
  return list;
}

Result<cluster::Listing> fetch(cluster::Cluster& cluster, const Options& options,
                               const std::string& swarm, Kind kind) {
  if (kind == Kind::kMessages) return fetch_messages(cluster, options, swarm, false);
  cluster::Listing list;
  if (kind == Kind::kTasks) {
    Result<cluster::Listing> all = cluster.tasks(
        swarm, options.states.empty() ? "" : "state=" + options.states, options.deadline());
    if (!all) return all;
    list = *std::move(all);
  } else {
    const Result<json> all =
        cluster.call_json(swarm, "GET", "/agents", "", true, options.deadline());
    if (!all) return all.error();
    list.add(*all, "agents");
    // The coordinators tell them in no order; worker-2 stands before worker-10.
    const auto place = [](const json& agent) {
      const std::string name = get_text(agent, "name");
      return std::tuple(get_text(agent, "role"), name.size(), name);
    };
    std::sort(list.items.begin(), list.items.end(),
              [&](const json& a, const json& b) { return place(a) < place(b); });
    if (options.output != "json" && options.output != "yaml") {
      std::vector<json> each;
      for (const json& pod : list.items) {
        auto agents = text::agents_of_pod(pod);
        std::move(agents.begin(), agents.end(), std::back_inserter(each));
      }
      list.items = std::move(each);
    }
  }
  if (options.selector.empty()) return list;
  std::vector<json> chosen;
  for (json& item : list.items) {
    const Result<bool> match = text::matches(text::get(item, "labels"), options.selector);
    if (!match) return match.error();
    if (*match) chosen.push_back(std::move(item));
  }
  list.items = std::move(chosen);
  return list;
}

// A table's first line, unless nobody wants it.
std::vector<Row> header(const Options& options, Kind kind) {
  if (options.no_headers) return {};
  return {header_row(kind, options.output == "wide")};
}

// Everything that is missing in the list, in words for stderr.
std::string missing_in(const cluster::Listing& list, Kind kind) {
  std::string out = missing(list, plural(kind));
  for (const std::string& pod : list.missing_pods)
    out += "warning: " + text::shorten(pod, 128) + " did not answer: what lies in its pod is not " +
           "in this list\n";
  if (list.more > 0) {
    out += "warning: " + std::to_string(list.more) +
           " more are there; of each pod the oldest are listed\n";
  }
  return out;
}

void put_missing(json& list, const cluster::Listing& listing) {
  if (!listing.missing_teams.empty()) list["missingTeams"] = listing.missing_teams;
  if (!listing.missing_pods.empty()) list["missing"] = listing.missing_pods;
  if (listing.more > 0) list["more"] = listing.more;
}

bool print_items(const Options& options, const cluster::Listing& listing, const std::string& swarm,
                 Kind kind) {
  const std::vector<json>& items = listing.items;
  if (options.output == "json" || options.output == "yaml") {
    json list = json::object();
    list[plural(kind)] = items;
    put_missing(list, listing);
    return print_as(options.output, list);
  }
  if (options.output == "name") {
    std::string out;
    for (const json& item : items) out += name_of(kind, item) + "\n";
    return print(out);
  }
  if (items.empty()) {
    if (listing.complete())
      std::fprintf(stderr, "No %s in swarm %s.\n", plural(kind), swarm.c_str());
    return true;
  }
  std::vector<Row> rows = header(options, kind);
  for (const json& item : items)
    rows.push_back(row_of(kind, item, wall_now(), options.output == "wide"));
  return print(text::table(rows));
}

int show(const Options& options, const cluster::Listing& list, const std::string& swarm,
         Kind kind) {
  if (!print_items(options, list, swarm, kind)) return 1;
  std::fputs(missing_in(list, kind).c_str(), stderr);
  return list.complete() ? 0 : kExitPartial;
}

// What was given up: tasks and messages.
int show_dead(cluster::Cluster& cluster, const Options& options, const std::string& swarm) {
  const Result<cluster::Listing> tasks = cluster.tasks(swarm, "state=dead", options.deadline());
  if (!tasks) return fail(tasks.error());
  const Result<cluster::Listing> messages = fetch_messages(cluster, options, swarm, true);
  if (!messages) return fail(messages.error());
  const bool complete = tasks->complete() && messages->complete();
  const std::string warnings =
      missing_in(*tasks, Kind::kTasks) + missing_in(*messages, Kind::kMessages);
  bool printed = true;
  if (options.output == "json" || options.output == "yaml") {
    json list{{"tasks", tasks->items}, {"messages", messages->items}};
    cluster::Listing both = *messages;
    both.missing_teams.insert(tasks->missing_teams.begin(), tasks->missing_teams.end());
    put_missing(list, both);
    printed = print_as(options.output, list);
  } else if (tasks->items.empty() && messages->items.empty()) {
    if (complete && options.output != "name")
      std::fprintf(stderr, "Nothing was given up in swarm %s.\n", swarm.c_str());
  } else {
    if (!tasks->items.empty()) printed = print_items(options, *tasks, swarm, Kind::kTasks);
    if (!tasks->items.empty() && !messages->items.empty() && options.output != "name")
      printed = printed && print("\n");
    if (!messages->items.empty())
      printed = printed && print_items(options, *messages, swarm, Kind::kMessages);
  }
  if (!printed) return 1;
  std::fputs(warnings.c_str(), stderr);
  return complete ? 0 : kExitPartial;
}

// get task/T: one row, or the task itself.
int show_task(cluster::Cluster& cluster, const Options& options, const TaskId& id) {
  const Result<cluster::TaskPlace> place = cluster.find_task(id, options.swarm, options.deadline());
  if (!place) return fail(place.error());
  if (options.output == "json" || options.output == "yaml")
    return print_as(options.output, *place->task) ? 0 : 1;
  cluster::Listing one;
  one.items = {*place->task};
  return show(options, one, place->swarm, Kind::kTasks);
}

// As kubectl -w: everything once, then a line whenever something has changed.
int watch(cluster::Cluster& cluster, const Options& options, const std::string& swarm, Kind kind) {
  std::map<std::string, std::string> known;
  const bool wide = options.output == "wide";
  std::string before_missing;
  for (bool first = true;; first = false) {
    const Result<cluster::Listing> list = fetch(cluster, options, swarm, kind);
    if (!list) return fail(list.error());
    const std::string now_missing = missing_in(*list, kind);
    if (now_missing != before_missing) std::fputs(now_missing.c_str(), stderr);
    before_missing = now_missing;
    std::vector<Row> rows = first ? header(options, kind) : std::vector<Row>{};
    for (const json& item : list->items) {
      Row row = row_of(kind, item, wall_now(), wide);
      json timeless = item;  // the time that passes is no change
      for (const char* time : {"createdAt", "sinceSeconds", "stuckSeconds"}) timeless.erase(time);
      const Row same = row_of(kind, timeless, wall_now(), wide);
      std::string& before = known[row[0]];
      std::string now;
      for (const std::string& cell : same) now += cell + "\n";
      if (before == now) continue;
      before = now;
      rows.push_back(std::move(row));
    }
    if (!rows.empty() && !print(text::table(rows))) return 1;
    std::this_thread::sleep_for(kRefresh);
  }
}

int describe_task(cluster::Cluster& cluster, const Options& options, const TaskId& id) {
  const Result<cluster::TaskPlace> place = cluster.find_task(id, options.swarm, options.deadline());
  if (!place) return fail(place.error());
  if (!options.output.empty()) return print_as(options.output, *place->task) ? 0 : 1;
  return print(text::describe_task(*place->task, wall_now())) ? 0 : 1;
}

int describe_agent(cluster::Cluster& cluster, const Options& options, const std::string& name,
                   bool why) {
  const Result<std::string> swarm = cluster.only_swarm(options.swarm, options.deadline());
  if (!swarm) {
    Error error = swarm.error();
    if (error.code == Code::kInvalid)
      error.message += ". Write --swarm S: every swarm has an agent " + name;
    return fail(error);
  }
  const Result<json> all =
      cluster.call_json(*swarm, "GET", "/agents", "", true, options.deadline());
  if (!all) return fail(all.error());
  for (const json& agent : text::get(*all, "agents")) {
    if (get_text(agent, "name") != name) continue;
    if (!options.output.empty()) return print_as(options.output, agent) ? 0 : 1;
    return print(why ? text::why_agent(agent, *swarm) : text::describe_agent(agent, *swarm)) ? 0
                                                                                             : 1;
  }
  cluster::Listing rest;
  rest.add(*all, "agents");
  if (!rest.missing_teams.empty())
    return fail(unavailable("agent " + name + " is none of those that could be asked about\n" +
                            missing(rest, "agents")));
  return fail(not_found("swarm " + *swarm + " has no agent " + name +
                        ": kubectl swarm get agents " + *swarm + " lists them"));
}

// An extra as well: who has no token is told the rest.
json stats_of(cluster::Cluster& cluster, const Options& options, const std::string& swarm) {
  cluster::Cluster quick(cluster);
  quick.set_on_wait(nullptr);
  const MonoTime deadline = std::min(options.deadline(), mono_now() + kExtraTime);
  Result<json> stats = quick.call_json(swarm, "GET", "/stats", "", false, deadline);
  return stats ? *std::move(stats) : json();
}

int describe_swarm(cluster::Cluster& cluster, const Options& options, const std::string& name) {
  const Result<json> swarm = cluster.swarm(name, options.deadline());
  if (!swarm) return fail(swarm.error());
  if (!options.output.empty()) return print_as(options.output, *swarm) ? 0 : 1;
  // Events are an extra: who may not read them sees the rest.
  const Result<json> events = cluster.swarm_events(name, options.deadline());
  return print(text::describe_swarm(*swarm, events ? *events : json::array(),
                                    stats_of(cluster, options, name), wall_now()))
             ? 0
             : 1;
}

}  // namespace

int get(const Options& options) {
  // get task/T, as kubectl's TYPE/NAME; get task T is the same.
  std::string what = options.arguments[0];
  std::string name = options.arguments.size() > 1 ? options.arguments[1] : "";
  const std::size_t slash = what.find('/');
  if (slash != std::string::npos && name.empty()) {
    name = what.substr(slash + 1);
    what.resize(slash);
  }
  const bool tasks = what == "tasks" || what == "task";
  const bool dead = what == "dead";
  const bool messages = what == "messages" || what == "message";
  const Kind kind = tasks ? Kind::kTasks : messages ? Kind::kMessages : Kind::kAgents;
  const Result<TaskId> one =
      tasks ? text::parse_task(name) : Result<TaskId>(invalid("no task is named"));
  if (!tasks && !dead && !messages && what != "agents" && what != "agent") {
    const std::string near = text::nearest(what, {"tasks", "agents", "messages", "dead"});
    return fail(invalid("get " + what + ": " + (near.empty() ? "" : "did you mean " + near + "? ") +
                        "Write: kubectl swarm get tasks SWARM, get task/T, or get agents, messages "
                        "or dead SWARM (swarms themselves: kubectl get swarms)"));
  }
  for (const Status& checked :
       {check_output(options.output, {"wide", "name"}), check_states(options.states)}) {
    if (!checked) return fail(checked.error());
  }
  const Result<bool> selector = text::matches(json::object(), options.selector);
  if (!selector) return fail(selector.error());
  if (!tasks && (!options.states.empty() || !options.selector.empty())) {
    return fail(invalid("--state and -l choose tasks; get " + what + " takes neither"));
  }
  if (options.watch &&
      (options.output == "json" || options.output == "yaml" || options.output == "name")) {
    return fail(invalid("-w shows a table: it goes without -o, or with -o wide"));
  }
  if (options.watch && (dead || messages))
    return fail(invalid("-w shows tasks or agents; get " + what + " goes without it"));
  if (one && (options.watch || !options.states.empty() || !options.selector.empty()))
    return fail(invalid("get task/T shows one task: it goes without --state, -l and -w"));
  std::string given = options.swarm;
  if (!name.empty() && !one) {
    const Result<std::string> swarm = text::parse_swarm(name);
    if (!swarm) return fail(swarm.error());
    given = *swarm;
  }
  Session session(options);
  const Result<cluster::Cluster*> cluster = session.open();
  if (!cluster) return fail(cluster.error());
  if (one) return show_task(**cluster, options, *one);
  const Result<std::string> swarm = (*cluster)->only_swarm(given, options.deadline());
  if (!swarm) return fail(swarm.error());
  if (dead) return show_dead(**cluster, options, *swarm);
  if (options.watch) return watch(**cluster, options, *swarm, kind);
  const Result<cluster::Listing> list = fetch(**cluster, options, *swarm, kind);
  if (!list) return fail(list.error());
  return show(options, *list, *swarm, kind);
}

namespace {

// What describe and why take: task/T, agent/A or a swarm.
struct Reference {
  std::optional<TaskId> task;
  std::string agent;  // one of the three is set
  std::string swarm;
};

Result<Reference> reference_of(const Options& options, const std::string& verb) {
  std::string reference = options.arguments[0];
  if (options.arguments.size() > 1)
    reference += "/" + options.arguments[1];  // describe task t-0-1f
  const std::string kind = reference.substr(0, reference.find('/'));
  const bool is_task = kind == "task" || kind == "tasks" || text::parse_task(reference);
  const bool is_agent = kind == "agent" || kind == "agents";
  if (!is_task && !is_agent && kind != reference && kind != "swarm" && kind != "swarms")
    return invalid(verb + " " + reference + ": write task/T, agent/A or the name of a swarm");
  Reference out;
  if (is_task) {
    const Result<TaskId> task = text::parse_task(reference);
    if (!task) return task.error();
    out.task = *task;
    return out;
  }
  const Result<std::string> name =
      is_agent ? text::parse_name("agent", reference) : text::parse_swarm(reference);
  if (!name) return name.error();
  (is_agent ? out.agent : out.swarm) = *name;
  return out;
}

int why_of(cluster::Cluster& cluster, const Options& options, const Reference& reference) {
  if (!reference.agent.empty()) return describe_agent(cluster, options, reference.agent, true);
  if (!reference.task) {
    const Result<json> swarm = cluster.swarm(reference.swarm, options.deadline());
    if (!swarm) return fail(swarm.error());
    return print(text::why_swarm(*swarm, stats_of(cluster, options, reference.swarm), wall_now()))
               ? 0
               : 1;
  }
  const Result<cluster::TaskPlace> place =
      cluster.find_task(*reference.task, options.swarm, options.deadline());
  if (!place) return fail(place.error());
  // Who may not read these is told what the task says of itself.
  const Result<json> swarm = cluster.swarm(place->swarm, options.deadline());
  const Result<json> agents =
      cluster.call_json(place->swarm, "GET", "/agents", "", true, options.deadline());
  return print(text::why_task(*place->task, agents ? text::get(*agents, "agents") : json::array(),
                              swarm ? *swarm : json(), stats_of(cluster, options, place->swarm),
                              wall_now()))
             ? 0
             : 1;
}

}  // namespace

int describe(const Options& options) {
  const Status output = check_output(options.output, {});
  if (!output) return fail(output.error());
  const Result<Reference> reference = reference_of(options, "describe");
  if (!reference) return fail(reference.error());
  Session session(options);
  const Result<cluster::Cluster*> cluster = session.open();
  if (!cluster) return fail(cluster.error());
  if (reference->task) return describe_task(**cluster, options, *reference->task);
  if (!reference->agent.empty()) return describe_agent(**cluster, options, reference->agent, false);
  return describe_swarm(**cluster, options, reference->swarm);
}

int why(const Options& options) {
  const Result<Reference> reference = reference_of(options, "why");
  if (!reference) return fail(reference.error());
  Session session(options);
  const Result<cluster::Cluster*> cluster = session.open();
  if (!cluster) return fail(cluster.error());
  return why_of(**cluster, options, *reference);
}

}  // namespace swarm::commands
