#include "text/json.h"

#include <nlohmann/json.hpp>

namespace swarm::text {
namespace {

using nlohmann::json;

constexpr int kMaxYamlDepth = 64;

bool is_plain(const std::string& text) {
  if (text.empty() || text.size() > 200) return false;
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  if (!letter(text.front())) return false;
  for (const char c : text) {
    if (!letter(c) && !(c >= '0' && c <= '9') &&
        std::string_view("-_./").find(c) == std::string_view::npos)
      return false;
  }
  for (const char* word : {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}) {
    std::string lower = text;
    for (char& c : lower) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    if (lower == word) return false;
  }
  return true;
}

std::string scalar(const json& value) {
  if (value.is_string() && is_plain(value.get_ref<const std::string&>()))
    return value.get<std::string>();
  return value.dump(-1, ' ', false, json::error_handler_t::replace);  // JSON scalars are YAML
}

void write(const json& value, const std::string& indent, int depth, std::string& out) {
  if (depth > kMaxYamlDepth || (!value.is_object() && !value.is_array()) || value.empty()) {
    out += " " + scalar(value) + "\n";
    return;
  }
  if (value.is_object()) {
    out += "\n";
    for (const auto& [name, member] : value.items()) {
      out += indent +
             (is_plain(name) ? name
                             : json(name).dump(-1, ' ', false, json::error_handler_t::replace)) +
             ":";
      write(member, member.is_array() ? indent : indent + "  ", depth + 1, out);
    }
    return;
  }
  out += "\n";
  for (const json& item : value) {
    if (item.is_structured() && !item.empty()) {
      std::string nested;
      write(item, indent + "  ", depth + 1, nested);
      // The first line stands behind the dash.
      out += indent + "- " + nested.substr(1 + indent.size() + 2);
    } else {
      out += indent + "-";
      write(item, indent, depth + 1, out);
    }
  }
}

}  // namespace

std::string get_text(const json& object, const std::string& name, const std::string& fallback) {
  if (!object.is_object()) return fallback;
  const auto it = object.find(name);
  return it != object.end() && it->is_string() ? it->get<std::string>() : fallback;
}

std::int64_t get_number(const json& object, const std::string& name, std::int64_t fallback) {
  if (!object.is_object()) return fallback;
  const auto it = object.find(name);
  return it != object.end() && it->is_number() ? it->get<std::int64_t>() : fallback;
}

bool get_flag(const json& object, const std::string& name) {
  if (!object.is_object()) return false;
  const auto it = object.find(name);
  return it != object.end() && it->is_boolean() && it->get<bool>();
}

const json& get(const json& object, const std::string& name) {
  static const json kEmpty = json::object();
  if (!object.is_object()) return kEmpty;
  const auto it = object.find(name);
  return it != object.end() && it->is_structured() ? *it : kEmpty;
}

std::string to_yaml(const json& value) {
  std::string out;
  write(value, "", 0, out);
  return out.substr(1);  // the blank or newline that separates a value from its name
}

std::string to_json(const json& value) {
  return value.dump(2, ' ', false, json::error_handler_t::replace);
}

}  // namespace swarm::text
