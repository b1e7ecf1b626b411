// For .cc files: the parsed form of a control payload, and safe access to JSON from outside.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engine/control.h"
#include "link/frame.h"

namespace swarm::engine {

using nlohmann::json;

struct Control {
  json head;
  std::string_view bytes;  // within the payload that was parsed
};

Result<Control> parse_control(std::string_view payload);
// An object, or an error that says where the text is wrong. Depth is limited to 32.
Result<json> parse_object(std::string_view text);

// The field when it is there and of that kind, else the fallback.
std::string text_of(const json& object, const char* key, const std::string& fallback = {});
std::uint64_t number_of(const json& object, const char* key, std::uint64_t fallback = 0);
bool flag_of(const json& object, const char* key, bool fallback = false);
// Text for a JSON string: valid UTF-8 as it is, anything else with its bad bytes replaced by '?'.
std::string printable(std::string_view bytes);

}  // namespace swarm::engine
