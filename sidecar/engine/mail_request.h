// The lines of the agents' socket that every message takes: send, request, recv, ack, nack, extend
// (docs/socket-protocol.md). Read and written without a JSON document: a message passes here six
// times.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "mailbox/mailbox.h"

namespace swarm::engine {

inline constexpr std::uint64_t kMaxWaitMs = 3600ULL * 1000;
inline constexpr std::uint64_t kMaxAttempt = 65'535;  // as many as a record counts

// What a line says. Views are good until the reader's next line.
struct MailRequest {
  enum class Op { kSend, kRequest, kReceive, kAck, kNack, kExtend };
  Op op = Op::kSend;
  std::string rid = "null";  // as it is written in JSON
  std::string_view to, priority = "normal", from, message_id;
  std::optional<std::string_view> id, in_reply_to, stream, body, body64;
  std::optional<std::uint64_t> timeout_ms, lease_ms, wait_ms, delay_ms, ack_attempt;
  std::uint64_t attempt = 0, part = 0;
  bool end = false, abort = false;
  // Not empty: what is wrong with a member that is not known, not of this op or of another kind, or
  // with there being no body or two. Then nothing else may be used but op and rid.
  std::string wrong;
};

class MailRequestReader {
 public:
  MailRequestReader();
  ~MailRequestReader();
  // nullopt: another op, or no JSON object that is at most kMaxDepth deep.
  std::optional<MailRequest> read(std::string_view line);
  // The members of a send but op, rid, to and the body, as they are beside a file in drop/
  // (docs/mailbox.md). kInvalid: what to write instead.
  Result<MailRequest> read_options(std::string_view text);
  static constexpr std::size_t kMaxDepth = 32;
  static bool is_op(std::string_view name);

 private:
  struct Object;
  std::optional<Object> parse(std::string_view text);
  struct Parser;
  std::unique_ptr<Parser> parser_;
};

// What a send, a request or options say of their message: all but from, to, body and time; without
// an id where they give none. `single`: it goes to one agent, by its name. kInvalid: what to write
// instead.
Result<mailbox::Message> message_of(const MailRequest& request, bool single);
// A wait or lease, at most kMaxWaitMs.
Milliseconds milliseconds_of(std::optional<std::uint64_t> given, std::uint64_t fallback);
Error body_too_large(std::uint64_t bytes, std::size_t most);

// Its bytes. kInvalid: body64 is no base64.
Result<std::string> body_of(const MailRequest& request);

const char* priority_name(mailbox::Priority p);
// Appends `text` as a JSON string; it must be UTF-8.
void append_string(std::string& out, std::string_view text);
// Appends the MESSAGE of docs/socket-protocol.md.
void append_message(std::string& out, const mailbox::Delivery& delivery);

}  // namespace swarm::engine
