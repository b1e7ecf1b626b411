#include "base/encoding.h"
#include "log/bytes.h"
#include "mailbox/mailbox.h"
#include "mailbox/records.h"

namespace swarm::mailbox {
namespace {

constexpr std::uint8_t kCodecVersion = 1;
constexpr std::uint8_t kKeptVersion = 2;  // an origin, then a message of version 1
constexpr std::size_t kOriginEnd = 25;
constexpr std::uint8_t kStreamVersion = 3;  // with a stream; everything else is written as before
// The sequence of the record that holds the body, then a message of version 1 or 3 without it. In
// outbox records alone.
constexpr std::uint8_t kSharedVersion = 4;
constexpr std::size_t kSharedPrefix = 9;
constexpr std::uint8_t kWantsReply = 0x01;
constexpr std::uint8_t kEndMark = 0x02, kAbortMark = 0x04;  // of version 3
constexpr std::size_t kFixedBytes = 24, kStreamFixedBytes = 30;

// `more` bytes follow.
void append_head(std::string& out, const Message& message, std::size_t more) {
  const auto& stream = message.stream;
  out.reserve(out.size() + kStreamFixedBytes + (stream ? stream->stream.value.size() : 0) +
              message.id.value.size() + message.from.value.size() + message.to.value.size() +
              message.in_reply_to.value.size() + more);
  log::put(out, stream ? kStreamVersion : kCodecVersion);
  log::put(out, static_cast<std::uint8_t>(message.priority));
  std::uint8_t flags = message.wants_reply ? kWantsReply : 0;
  if (stream && stream->mark == StreamPart::Mark::kEnd) flags |= kEndMark;
  if (stream && stream->mark == StreamPart::Mark::kAbort) flags |= kAbortMark;
  log::put(out, flags);
  log::put(out, std::uint8_t{0});
  log::put(out, message.sent_at);
  for (const std::string* text :
       {&message.id.value, &message.from.value, &message.to.value, &message.in_reply_to.value}) {
    check(text->size() <= UINT16_MAX, "length of a name in a message");
    log::put(out, static_cast<std::uint16_t>(text->size()));
  }
  log::put(out, static_cast<std::uint32_t>(message.body.size()));
  if (stream) {
    check(stream->stream.value.size() <= UINT16_MAX, "length of a stream's name");
    log::put(out, static_cast<std::uint16_t>(stream->stream.value.size()));
    log::put(out, stream->part);
  }
  out += message.id.value;
  out += message.from.value;
  out += message.to.value;
  out += message.in_reply_to.value;
  if (stream) out += stream->stream.value;
}

// `body_elsewhere`: the body is not there; its length, as it is said.
Result<Message> decode(std::string_view bytes, std::uint32_t* body_elsewhere) {
  if (bytes.size() < kFixedBytes) return invalid("a message is cut short");
  const auto version = log::get<std::uint8_t>(bytes, 0);
  if (version != kCodecVersion && version != kStreamVersion)
    return invalid("a message has an unknown version");
  const bool streamed = version == kStreamVersion;
  const std::size_t fixed = streamed ? kStreamFixedBytes : kFixedBytes;
  if (bytes.size() < fixed) return invalid("a message is cut short");
  const auto priority = log::get<std::uint8_t>(bytes, 1);
  const auto flags = log::get<std::uint8_t>(bytes, 2);
  const int known = streamed ? kEndMark | kAbortMark : kWantsReply;
  if (priority >= kPriorities || (flags & ~known) != 0 || bytes[3] != 0)
    return invalid("a message has unknown flags");
  const std::size_t id = log::get<std::uint16_t>(bytes, 12),
                    from = log::get<std::uint16_t>(bytes, 14);
  const std::size_t to = log::get<std::uint16_t>(bytes, 16),
                    reply = log::get<std::uint16_t>(bytes, 18);
  const auto said = log::get<std::uint32_t>(bytes, 20);
  if (body_elsewhere != nullptr && said > log::kMaxPayloadBytes)
    return invalid("a message has an impossible body");
  if (body_elsewhere != nullptr) *body_elsewhere = said;
  const std::size_t body = body_elsewhere != nullptr ? 0 : said;
  const std::size_t stream = streamed ? log::get<std::uint16_t>(bytes, kFixedBytes) : 0;
  if (bytes.size() - fixed != id + from + to + reply + stream + body)
    return invalid("a message has the wrong length");
  std::string_view rest = bytes.substr(fixed);
  auto next = [&rest](std::size_t n) {
    std::string out(rest.substr(0, n));
    rest.remove_prefix(n);
    return out;
  };
  Message out;
  out.priority = static_cast<Priority>(priority);
  out.wants_reply = (flags & kWantsReply) != 0;
  out.sent_at = log::get<WallTime>(bytes, 4);
  out.id.value = next(id);
  out.from.value = next(from);
  out.to.value = next(to);
  out.in_reply_to.value = next(reply);
  if (streamed) {
    StreamPart& part = out.stream.emplace();
    part.stream.value = next(stream);
    part.part = log::get<std::uint32_t>(bytes, kFixedBytes + 2);
    part.mark = static_cast<StreamPart::Mark>(flags >> 1U);
    if (!is_message_id(part.stream.value) || part.part == 0 || reply != 0 ||
        part.mark > StreamPart::Mark::kAbort || out.priority != Priority::kNormal)
      return invalid("a message is an impossible part of a stream");
  }
  out.body = next(body);
  if (!is_message_id(out.id.value) || (reply != 0 && !is_message_id(out.in_reply_to.value)))
    return invalid("a message has an impossible id");
  if (!is_agent_name(out.from.value) || !is_agent_name(out.to.value))
    return invalid("a message names an impossible agent");
  return out;
}

}  // namespace

void append(std::string& out, const Message& message) {
  append_head(out, message, message.body.size());
  out += message.body;
}

std::string encode(const Message& message) {
  std::string out;
  append(out, message);
  return out;
}

Result<Message> decode(std::string_view bytes) { return decode(bytes, nullptr); }

std::string encode_shared(Sequence body, const Message& message) {
  std::string out;
  log::put(out, kSharedVersion);
  log::put(out, body);
  append_head(out, message, 0);
  return out;
}

Result<OutboxRecord> decode_outbox(std::string_view bytes) {
  OutboxRecord out;
  const bool shared = !bytes.empty() && log::get<std::uint8_t>(bytes, 0) == kSharedVersion;
  if (shared) {
    if (bytes.size() < kSharedPrefix) return invalid("a message is cut short");
    out.body = log::get<Sequence>(bytes, 1);
    if (out.body == 0) return invalid("a message has an impossible body");
    bytes.remove_prefix(kSharedPrefix);
  }
  auto message = decode(bytes, shared ? &out.body_bytes : nullptr);
  if (!message) return message.error();
  out.message = *std::move(message);
  if (!shared) out.body_bytes = static_cast<std::uint32_t>(out.message.body.size());
  return out;
}

void append(std::string& bytes, const Outbound& out) {
  if (!out.origin.log.empty()) {
    log::put(bytes, kKeptVersion);
    bytes.append(reinterpret_cast<const char*>(out.origin.log.bytes.data()),
                 out.origin.log.bytes.size());
    log::put(bytes, out.origin.sequence);
  }
  append(bytes, out.message);
}

std::string encode(const Outbound& out) {
  std::string bytes;
  append(bytes, out);
  return bytes;
}

Result<Outbound> decode_outbound(Sequence sequence, Sequence prev, std::string_view bytes) {
  Outbound out{sequence, prev, {}, {}};
  if (!bytes.empty() && log::get<std::uint8_t>(bytes, 0) == kKeptVersion) {
    if (bytes.size() < kOriginEnd) return invalid("a message's origin is cut short");
    for (std::size_t i = 0; i < out.origin.log.bytes.size(); ++i)
      out.origin.log.bytes[i] = static_cast<std::uint8_t>(bytes[1 + i]);
    out.origin.sequence = log::get<Sequence>(bytes, kOriginEnd - 8);
    if (out.origin.log.empty() || out.origin.sequence == 0)
      return invalid("a message has an impossible origin");
    bytes.remove_prefix(kOriginEnd);
  }
  auto message = decode(bytes);
  if (!message) return message.error();
  out.message = *std::move(message);
  return out;
}

}  // namespace swarm::mailbox
