// An agent's side of the socket protocol (docs/socket-protocol.md), as a careful client has it: it
// writes what it needs and looks only for what it needs. Bodies here are plain text that JSON does
// not have to escape.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "wire.h"

namespace swarm::bench {

inline constexpr std::uint32_t kWindow = 64;    // requests under way; the protocol's limit
inline constexpr std::uint32_t kReceives = 32;  // of them, on a connection that only receives

void add_send(std::string& out, std::uint64_t rid, std::string_view to, std::string_view body);
// Waits for the reply, too.
void add_request(std::string& out, std::uint64_t rid, std::string_view to, std::string_view body);
void add_receive(std::string& out, std::uint64_t rid);

// What an answer brings; parts of its line.
struct Got {
  std::uint64_t rid = 0;
  std::string_view message_id, from, attempt, body;  // empty: it brings no message
};
// Fails unless the answer is OK; `what` says what was asked.
Got parse_answer(std::string_view line, const char* what);
void add_ack(std::string& out, std::uint64_t rid, const Got& message);
// Sends the question's body back, and acknowledges the question once that was accepted.
void add_echo(std::string& out, std::uint64_t rid, const Got& question);

// Waits for the next answer on `wire`.
Got next_answer(Wire& wire, const char* what);
// Says that `wire` is the agent `self`'s, and returns when its sidecar has joined its coordinator.
void wait_until_joined(Wire& wire, const std::string& self);
// A connection of `agent`, "worker-0" or "worker-0.1"; `pods`: the folder of all pods.
std::unique_ptr<Wire> open_worker(const std::string& pods, const std::string& agent);

}  // namespace swarm::bench
