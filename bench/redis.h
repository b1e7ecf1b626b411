// Just enough of the Redis protocol (RESP 2).
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "wire.h"

namespace swarm::bench {

void add_command(std::string& out, std::initializer_list<std::string_view> words);

// The strings of the next value that has arrived, of nested arrays too; nothing: none is complete.
// Fails on an error.
std::optional<std::vector<std::string>> next_value(Wire& wire);

}  // namespace swarm::bench
