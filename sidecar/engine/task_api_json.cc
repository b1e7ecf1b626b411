#include "engine/task_api_json.h"

#include <algorithm>

#include "base/encoding.h"
#include "engine/control_json.h"

namespace swarm::engine {
namespace {

constexpr std::size_t kMaxTeamDigits = 6;

// The digits of a team's number; nullopt: something else.
std::optional<std::uint32_t> parse_team(std::string_view digits) {
  if (digits.empty() || digits.size() > kMaxTeamDigits) return std::nullopt;
  std::uint32_t team = 0;
  for (const char c : digits) {
    if (c < '0' || c > '9') return std::nullopt;
    team = team * 10 + static_cast<std::uint32_t>(c - '0');
  }
  return team;
}

// The text of a field, "" when it is not given; kInvalid when it is something else than text.
Result<std::string> text_field(const json& object, const char* name, const std::string& allowed) {
  const auto field = object.find(name);
  if (field == object.end()) return std::string();
  if (!field->is_string())
    return invalid(std::string(name) + ": a string is allowed (" + allowed + "), not a " +
                   field->type_name());
  return field->get<std::string>();
}

// Adds the whole numbers of `part`[`name`] to those of `all`[`name`].
void add_counts(json& all, const json& part, const char* name) {
  const auto counts = part.find(name);
  if (counts == part.end() || !counts->is_object()) return;
  json& sum = all[name];
  for (const auto& [key, value] : counts->items()) {
    if (value.is_number_unsigned())
      sum[key] = number_of(sum, key.c_str()) + value.get<std::uint64_t>();
  }
}

}  // namespace

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
  if (object->contains("body") == object->contains("body64"))
    return invalid("one of body (a string) and body64 (base64) is required");
  auto text = text_field(*object, "body", "the task's text; for other bytes write body64");
  if (!text) return text.error();
  auto coded = text_field(*object, "body64", "base64");
  if (!coded) return coded.error();
  if (object->contains("body64")) {
    auto bytes = from_base64(*coded);
    if (!bytes) return invalid("body64 must be base64");
    text = *std::move(bytes);
  }
  return parse_submission(*object, *std::move(text), max_bytes);
}

Result<tasks::Submission> parse_submission(const json& object, std::string body,
                                           std::uint32_t max_bytes) {
  tasks::Submission out;
  out.body = std::move(body);
  if (out.body.size() > max_bytes) {
    return invalid(
        "the task's body has " + std::to_string(out.body.size()) + " bytes, at most " +
        std::to_string(max_bytes) +
        " (spec.mailbox.maxMessageBytes); put larger input into a file or repository and name it");
  }
  auto key = text_field(object, "key", "at most " + std::to_string(tasks::kMaxKeyBytes) + " bytes");
  if (!key) return key.error();
  auto id = text_field(object, "id", "^[A-Za-z0-9._:-]{1,128}$");
  if (!id) return id.error();
  out.key = *std::move(key);
  out.idempotency_id = *std::move(id);
  if (object.contains("id") && !is_message_id(out.idempotency_id))
    return invalid("id must match ^[A-Za-z0-9._:-]{1,128}$");
  if (const auto labels = object.find("labels"); labels != object.end()) {
    if (!labels->is_object()) return invalid("labels: an object of strings");
    for (const auto& [name, value] : labels->items()) {
      if (!value.is_string()) return invalid("labels: names and values are strings");
      out.labels[name] = value.get<std::string>();
    }
  }
  if (const auto n = object.find("maxAttempts"); n != object.end()) {
    if (!n->is_number_unsigned() || n->get<std::uint64_t>() < 1 ||
        n->get<std::uint64_t>() > tasks::kMaxMaxAttempts)
      return invalid("maxAttempts: a number, 1 to " + std::to_string(tasks::kMaxMaxAttempts));
    out.max_attempts = n->get<std::uint32_t>();
  }
  if (auto checked = tasks::check_submission(out); !checked) return checked.error();
  return out;
}

Status check_parameters(const std::map<std::string, std::string>& query,
                        std::initializer_list<std::string_view> allowed) {
  for (const auto& [name, value] : query) {
    if (std::find(allowed.begin(), allowed.end(), name) != allowed.end()) continue;
    std::string names;
    for (const auto& one : allowed) names += (names.empty() ? "" : ", ") + std::string(one);
    return invalid("unknown parameter \"" + printable(name.substr(0, 40)) +
                   "\", allowed: " + (names.empty() ? "none" : names));
  }
  return {};
}

std::optional<std::uint32_t> team_of(const std::string& id) {
  if (!is_task_id(id)) return std::nullopt;
  return parse_team(std::string_view(id).substr(2, id.find('-', 2) - 2));
}

std::uint32_t team_for(std::string_view key, std::uint32_t teams) {
  std::uint32_t h = 2166136261U;  // FNV-1a
  for (const char c : key) h = (h ^ static_cast<unsigned char>(c)) * 16777619U;
  return h % teams;
}

std::string encode_cursor(const Cursor& cursor) {
  return std::to_string(cursor.team) + ":" + cursor.after;
}

Result<Cursor> decode_cursor(const std::string& text) {
  if (text.empty()) return Cursor{};
  const auto colon = text.find(':');
  const std::string after = colon == std::string::npos ? text : text.substr(colon + 1);
  const auto of_task = team_of(after);
  const auto team =
      colon == std::string::npos ? of_task : parse_team(std::string_view(text).substr(0, colon));
  if (!team || (!after.empty() && of_task != team)) {
    return invalid("after: \"" + printable(text.substr(0, 40)) +
                   "\", allowed is what `next` of the page before says");
  }
  return Cursor{*team, after};
}

TaskPage::TaskPage(Cursor begin, std::size_t limit, std::set<std::uint32_t> teams)
    : at_(std::move(begin)),
      limit_(limit),
      left_(std::move(teams)),
      out_{{"tasks", json::array()}} {
  left_.erase(left_.begin(), left_.lower_bound(at_.team));
  if (!left_.empty() && *left_.begin() != at_.team) at_ = {*left_.begin(), ""};
}

std::optional<TaskPage::Ask> TaskPage::next() const {
  const std::size_t there = out_["tasks"].size();
  if (left_.empty() || there >= limit_) return std::nullopt;
  return Ask{at_.team, at_.after, limit_ - there};
}

bool TaskPage::take(json list) {
  const auto tasks = list.find("tasks");
  if (tasks == list.end() || !tasks->is_array()) {
    missing();
    return false;
  }
  const auto next = tasks->empty() ? "" : text_of(list, "next");
  for (auto& task : *tasks) out_["tasks"].push_back(std::move(task));
  if (flag_of(list, "recovering")) out_["recovering"] = true;
  if (next.empty())
    next_team();
  else
    at_.after = next;
  return true;
}

void TaskPage::missing() {
  out_["missingTeams"].push_back(at_.team);
  next_team();
}

void TaskPage::next_team() {
  left_.erase(at_.team);
  at_ = {left_.empty() ? 0 : *left_.begin(), ""};
}

json TaskPage::finish() && {
  if (!left_.empty()) out_["next"] = encode_cursor(at_);
  return std::move(out_);
}

bool add_agents(json& all, json part) {
  const auto agents = part.find("agents");
  if (agents == part.end() || !agents->is_array()) return false;
  for (auto& agent : *agents) all["agents"].push_back(std::move(agent));
  return true;
}

bool add_stats(json& all, json part) {
  const auto tasks = part.find("tasks");
  if (tasks == part.end() || !tasks->is_object()) return false;
  const char* const kOldest = "oldestQueuedSeconds";
  const auto oldest = std::max(number_of(all["tasks"], kOldest), number_of(*tasks, kOldest));
  // A team's wait is its own; the longest is shown.
  for (const char* name : {"backingOffUntil", "tryLaterInARow"}) {
    const auto its = tasks->find(name);
    if (its == tasks->end()) continue;
    json& longest = all["tasks"][name];
    if (longest.type() != its->type() || longest < *its) longest = std::move(*its);
    tasks->erase(its);
  }
  add_counts(all, part, "tasks");
  all["tasks"][kOldest] = oldest;
  add_counts(all, part, "usage");
  add_counts(all, part, "expiredUsage");
  add_counts(all, part, "messages");
  if (const auto messages = part.find("messages");
      messages != part.end() && messages->is_object()) {
    if (const auto pressed = messages->find("pressed");
        pressed != messages->end() && pressed->is_object())
      all["messages"]["pressed"].update(*pressed);
  }
  if (const auto stuck = number_of(part, "stuck"); stuck > 0) {
    all["stuck"] = number_of(all, "stuck") + stuck;
    for (json& one : part["stuckAgents"]) all["stuckAgents"].push_back(std::move(one));
  }
  const auto effective = number_of(all["rollout"], "effective");
  add_counts(all, part, "rollout");
  const auto v1 = number_of(all["rollout"], "v1"), v2 = number_of(all["rollout"], "v2");
  all["rollout"]["effective"] = effective;
  all["rollout"]["measured"] = v1 + v2 == 0 ? 0 : v2 * 100 / (v1 + v2);
  all["ready"] = flag_of(all, "ready") && flag_of(part, "ready");
  all["recovering"] = flag_of(all, "recovering") || flag_of(part, "recovering");
  all["suspended"] = flag_of(all, "suspended") && flag_of(part, "suspended");
  if (const auto workers = part.find("workers"); workers != part.end() && workers->is_object())
    all["workers"].update(*workers);
  return true;
}

}  // namespace swarm::engine
