// Text encodings and small checks on text from outside. Pure, thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/ids.h"

namespace swarm {

std::string to_hex(std::string_view bytes);
std::optional<std::string> from_hex(
    std::string_view text);  // nullopt: odd length or a foreign character

std::string to_base64(std::string_view bytes);                  // RFC 4648, padded
std::optional<std::string> from_base64(std::string_view text);  // nullopt: not valid padded base64

std::string to_string(const LogId& id);  // 32 hex digits
std::optional<LogId> log_id_from(std::string_view hex);

bool is_utf8(std::string_view text);        // RFC 3629, no surrogates
bool is_message_id(std::string_view text);  // ^[A-Za-z0-9._:-]{1,128}$
bool is_slot_name(std::string_view text);   // ^(worker|coordinator)-(0|[1-9][0-9]{0,5})$

inline constexpr std::size_t kMaxTaskIdBytes = 64;
bool is_task_id(std::string_view text);  // ^t-[0-9]+-[0-9a-z]+$
// Names of pods and Services are made from it.
inline constexpr std::size_t kMaxSwarmNameBytes = 40;
bool is_swarm_name(std::string_view text);  // ^[a-z]([a-z0-9-]*[a-z0-9])?$
// A line of the agents' socket (docs/socket-protocol.md), in either direction.
inline constexpr std::size_t kMaxSocketLineBytes = 1U << 20U;

// A pod's memory, descriptors and log are shared by all of its agents.
inline constexpr std::uint32_t kMaxAgentsPerPod = 1024;
// A worker's pod may have several agents: the first has the pod's own name, its slot, the others a
// number behind it.
bool is_agent_name(std::string_view text);                     // a slot, or worker-….1 to .1023
std::string_view pod_of(std::string_view agent);               // "worker-3.2" → "worker-3"
bool is_of_pod(std::string_view agent, std::string_view pod);  // both being names
std::uint32_t number_in_pod(std::string_view agent);  // of an agent's name: "worker-3.2" → 2
AgentName pod_of(const AgentName& agent);
AgentName agent_of(const AgentName& pod, std::uint32_t number);  // the pod's own name for 0

// HMAC-SHA256 (RFC 2104), 32 bytes.
std::string hmac_sha256(std::string_view key, std::string_view data);
// SHA-256, 32 bytes.
std::string sha256(std::string_view data);
// True when equal; the time taken depends on the lengths only.
bool constant_time_equal(std::string_view a, std::string_view b);
// n bytes from the operating system's generator.
std::string random_bytes(std::size_t n);

}  // namespace swarm
