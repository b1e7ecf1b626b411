#include "engine/control.h"

#include "base/encoding.h"
#include "engine/control_json.h"

namespace swarm::engine {

std::string control(const json& head, std::string_view bytes) {
  std::string out;
  link::put_text(out, head.dump());
  out.append(bytes);
  return out;
}

Result<json> parse_object(std::string_view text) {
  int depth = 0;
  bool too_deep = false;
  const auto guard = [&](int, json::parse_event_t event, json&) {
    if (event == json::parse_event_t::object_start || event == json::parse_event_t::array_start)
      ++depth;
    if (event == json::parse_event_t::object_end || event == json::parse_event_t::array_end)
      --depth;
    if (depth > 32) too_deep = true;
    return !too_deep;
  };
  json value = json::parse(text, guard, /*allow_exceptions=*/false);
  if (value.is_discarded() || too_deep || !value.is_object()) return invalid("not a JSON object");
  return value;
}

Result<Control> parse_control(std::string_view payload) {
  link::PayloadReader in(payload);
  const auto text = in.text();
  if (!in.ok()) return invalid("malformed control frame");
  auto head = parse_object(text);
  if (!head) return head.error();
  return Control{*std::move(head), in.rest()};
}

std::string text_of(const json& object, const char* key, const std::string& fallback) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : fallback;
}

std::uint64_t number_of(const json& object, const char* key, std::uint64_t fallback) {
  const auto found = object.find(key);
  if (found == object.end()) return fallback;
  if (found->is_number_unsigned()) return found->get<std::uint64_t>();
  if (found->is_number_integer() && found->get<std::int64_t>() >= 0)
    return static_cast<std::uint64_t>(found->get<std::int64_t>());
  return fallback;
}

bool flag_of(const json& object, const char* key, bool fallback) {
  const auto found = object.find(key);
  return found != object.end() && found->is_boolean() ? found->get<bool>() : fallback;
}

std::string printable(std::string_view bytes) {
  std::string out(bytes);
  if (is_utf8(out)) return out;
  for (char& c : out) {
    if (static_cast<unsigned char>(c) >= 0x80) c = '?';
  }
  return out;
}

}  // namespace swarm::engine
