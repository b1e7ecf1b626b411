#include "engine/members.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

namespace swarm::engine {

namespace {

using nlohmann::json;

constexpr std::size_t kShown = 40;  // bytes of foreign text in an error

// With blanks between the names, and at both ends.
constexpr std::array<std::pair<std::string_view, std::string_view>, 16> kMembers{
    {{"hello", " agent "},
     {"watch", " waitMs "},
     {"ls", " "},
     {"cat", " messageId from dead "},
     {"dead_ls", " "},
     {"dead_redrive", " messageId all "},
     {"dead_purge", " messageId all "},
     {"task_next", " waitMs "},
     {"task_extend", " taskId attempt confirm quietMs stuck "},
     {"task_progress", " taskId attempt message quietMs stuck "},
     {"task_done",
      " taskId attempt result result64 exitCode truncated resultBytes branch commit usage "
      "lastLines "},
     {"task_fail", " taskId attempt kind exitCode message usage lastLines "},
     {"task_submit", " taskId attempt body body64 id key labels maxAttempts timeoutMs "},
     {"task_wait", " taskId attempt tasks waitMs "},
     {"peers", " "},
     {"stats", " "}}};

MemberKind kind_of(std::string_view name) {
  if (name == "waitMs" || name == "attempt" || name == "resultBytes" || name == "quietMs" ||
      name == "maxAttempts" || name == "timeoutMs")
    return MemberKind::kNumber;
  if (name == "exitCode") return MemberKind::kInteger;
  if (name == "all" || name == "confirm" || name == "dead" || name == "truncated")
    return MemberKind::kFlag;
  if (name == "usage" || name == "labels") return MemberKind::kObject;
  return name == "lastLines" || name == "tasks" ? MemberKind::kTexts : MemberKind::kText;
}

bool is_of(const json& value, MemberKind kind) {
  switch (kind) {
    case MemberKind::kText:
      return value.is_string();
    case MemberKind::kNumber:
      return value.is_number_unsigned();
    case MemberKind::kInteger:
      return value.is_number_integer();
    case MemberKind::kFlag:
      return value.is_boolean();
    case MemberKind::kObject:
      return value.is_object();
    case MemberKind::kTexts:
      return value.is_array() && std::all_of(value.begin(), value.end(),
                                             [](const json& item) { return item.is_string(); });
  }
  return false;
}

}  // namespace

std::string wrong_member(std::string_view name, MemberKind kind) {
  const std::string is(name);
  switch (kind) {
    case MemberKind::kText:
      return is + " must be a text, as in {\"" + is + "\":\"…\"}";
    case MemberKind::kNumber:
      return is + " must be a whole number from 0, as in {\"" + is + "\":5}";
    case MemberKind::kInteger:
      return is + " must be a whole number, as in {\"" + is + "\":-5}";
    case MemberKind::kFlag:
      return is + " must be true or false, as in {\"" + is + "\":true}";
    case MemberKind::kObject:
      return is + " must be an object, as in {\"" + is + "\":{}}";
    case MemberKind::kTexts:
      return is + " must be a list of texts, as in {\"" + is + "\":[\"…\"]}";
  }
  return is;
}

std::string wrong_rid() { return "rid must be a number, as in {\"rid\":1}"; }

std::string unknown_member(std::string_view name, std::string_view of, std::string_view allowed) {
  std::string out = "unknown member \"" + std::string(name.substr(0, kShown)) + "\" of " +
                    std::string(of) + ", allowed: ";
  out += allowed;
  while (out.ends_with(' ')) out.pop_back();
  return out;
}

std::string wrong_in(const json& request, std::string_view op) {
  const auto known = std::find_if(kMembers.begin(), kMembers.end(),
                                  [&](const auto& one) { return one.first == op; });
  if (known == kMembers.end()) return {};
  for (const auto& [name, value] : request.items()) {
    if (name == "op") continue;
    if (name == "rid") {
      if (!value.is_number()) return wrong_rid();
      continue;
    }
    if (name.find(' ') != std::string::npos || name.empty() ||
        known->second.find(" " + name + " ") == std::string_view::npos)
      return unknown_member(name, op, "op rid" + std::string(known->second));
    if (!is_of(value, kind_of(name))) return wrong_member(name, kind_of(name));
  }
  return {};
}

}  // namespace swarm::engine
