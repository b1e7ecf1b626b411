// Reading JSON from outside without surprises: a member that is missing or of another type is the
// fallback. Pure.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace swarm::text {

std::string get_text(const nlohmann::json& object, const std::string& name,
                     const std::string& fallback = "");
std::int64_t get_number(const nlohmann::json& object, const std::string& name,
                        std::int64_t fallback = 0);
bool get_flag(const nlohmann::json& object, const std::string& name);
// An object or array member; a shared empty object when missing.
const nlohmann::json& get(const nlohmann::json& object, const std::string& name);
// The value as YAML, as kubectl prints it: block style, strings quoted where YAML would misread
// them.
std::string to_yaml(const nlohmann::json& value);
std::string to_json(const nlohmann::json& value);  // indented by 2; foreign bytes replaced

}  // namespace swarm::text
