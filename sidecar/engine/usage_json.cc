#include "engine/usage_json.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "engine/control_json.h"

namespace swarm::engine {
namespace {

// In the order of tasks::kUsageFields.
constexpr const char* kNames[] = {"inputTokens", "outputTokens", "cacheReadTokens",
                                  "cacheCreationTokens", "costMicroUsd"};
static_assert(std::size(kNames) == std::size(tasks::kUsageFields));

}  // namespace

json usage_json(const tasks::Usage& usage) {
  json out = json::object();
  for (std::size_t i = 0; i < std::size(kNames); ++i) {
    if (const auto& value = usage.*tasks::kUsageFields[i]) out[kNames[i]] = *value;
  }
  return out;
}

tasks::Usage usage_from(const json& object) {
  constexpr auto kNone = std::numeric_limits<std::uint64_t>::max();
  tasks::Usage usage;
  if (!object.is_object()) return usage;
  for (std::size_t i = 0; i < std::size(kNames); ++i) {
    const auto value = number_of(object, kNames[i], kNone);
    if (value != kNone) usage.*tasks::kUsageFields[i] = std::min(value, tasks::kMaxUsage);
  }
  return usage;
}

}  // namespace swarm::engine
