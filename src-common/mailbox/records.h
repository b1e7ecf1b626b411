#pragma once

// The mailbox's records in the log (docs/log-format.md): what stands ahead of a message in the
// inbox and in what was taken over from a former pod, high-water marks of streams, ids of users.
// decode takes anything and answers nothing for what it can't understand.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "mailbox/mailbox.h"

namespace swarm::mailbox {

constexpr int kStreams = kPriorities * 2;

// Replies are a stream of their own: they never wait behind a message for which there is no room.
constexpr std::uint8_t stream_of(Priority priority, bool reply) {
  return static_cast<std::uint8_t>(static_cast<int>(priority) * 2 + (reply ? 1 : 0));
}

LogId get_log_id(std::string_view bytes, std::size_t offset);  // 16 bytes from there

constexpr std::size_t kInboxPrefix = 24;  // sender's log, sender's sequence; then the message
std::string encode_inbox(const LogId& sender_log, Sequence sequence, const Message& message);

// What a successor appends: who handed it over as what, then its origin and the message.
constexpr std::size_t kKeptPrefix = 24;  // former log, sequence there
std::string encode_kept(const LogId& former, const Outbound& offered);

// An outbox record: a message, or one without its body, which several of them share.
struct OutboxRecord {
  Message message;
  Sequence body = 0;             // of the record that holds it; 0: the message has it
  std::uint32_t body_bytes = 0;  // of either
};
std::string encode_shared(Sequence body, const Message& message);  // without its body
Result<OutboxRecord> decode_outbox(std::string_view bytes);

struct CursorRecord {
  LogId sender_log;
  std::uint8_t stream = 0;
  Sequence high = 0;
  AgentName from;
  std::uint32_t to = 0;  // the number of the receiving agent in this pod
};
std::string encode_cursor(const CursorRecord& c);
std::optional<CursorRecord> decode_cursor(std::string_view b);

struct UserIdRecord {
  bool received = false;  // else sent
  bool local = false;
  AgentName peer;
  MessageId id;
  std::uint32_t self = 0;  // the number of this side's agent in this pod
};
std::string encode_user_id(const UserIdRecord& u);
std::optional<UserIdRecord> decode_user_id(std::string_view b);

}  // namespace swarm::mailbox
