// Strong types for the identifiers that travel through the system, so that two of them never get
// swapped.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <string>

namespace swarm {

template <typename Tag>
struct StringId {
  std::string value;
  [[nodiscard]] bool empty() const { return value.empty(); }
  friend auto operator<=>(const StringId&, const StringId&) = default;
};

using AgentName = StringId<struct AgentNameTag>;  // "worker-17", "coordinator-0", "worker-17.2"
using MessageId = StringId<struct MessageIdTag>;  // ^[A-Za-z0-9._:-]{1,128}$
using TaskId = StringId<struct TaskIdTag>;        // ^t-[0-9]+-[0-9a-z]+$

// Random 128 bits made together with a log: a new log is a new incarnation, whatever the pod is
// called.
struct LogId {
  std::array<std::uint8_t, 16> bytes{};
  [[nodiscard]] bool empty() const { return bytes == std::array<std::uint8_t, 16>{}; }
  friend auto operator<=>(const LogId&, const LogId&) = default;
};

}  // namespace swarm

template <typename Tag>
struct std::hash<swarm::StringId<Tag>> {
  std::size_t operator()(const swarm::StringId<Tag>& id) const noexcept {
    return std::hash<std::string>()(id.value);
  }
};
template <>
struct std::hash<swarm::LogId> {
  std::size_t operator()(const swarm::LogId& id) const noexcept {
    std::size_t h = 0;
    for (std::size_t i = 0; i < 8; ++i) h = (h << 8U) | id.bytes[i];
    return h;
  }
};
