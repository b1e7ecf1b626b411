// Payloads of the control frames: a JSON head and raw bytes behind it (docs/link-protocol.md).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace swarm::engine {

std::string control(const nlohmann::json& head, std::string_view bytes = {});

struct Control;  // {json head; std::string_view bytes}, defined in control_json.h: only .cc files
                 // pay for the JSON library

}  // namespace swarm::engine
