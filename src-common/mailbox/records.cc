#include "mailbox/records.h"

#include "base/encoding.h"
#include "log/bytes.h"

namespace swarm::mailbox {

namespace {

// In a record's flags: the number of the agent of this pod that it is about follows. Without it, it
// is about the first one.
constexpr std::uint8_t kNumberFollows = 0x80;

constexpr std::size_t kUsualEnvelopeBytes = 128;  // of a message beyond its body

void put_log_id(std::string& out, const LogId& id) {
  out.append(reinterpret_cast<const char*>(id.bytes.data()), id.bytes.size());
}

}  // namespace

LogId get_log_id(std::string_view bytes, std::size_t offset) {
  LogId id;
  for (std::size_t i = 0; i < id.bytes.size(); ++i)
    id.bytes[i] = static_cast<std::uint8_t>(bytes[offset + i]);
  return id;
}

std::string encode_inbox(const LogId& sender_log, Sequence sequence, const Message& message) {
  std::string out;
  out.reserve(kInboxPrefix + message.body.size() + kUsualEnvelopeBytes);
  put_log_id(out, sender_log);
  log::put(out, sequence);
  append(out, message);
  return out;
}

std::string encode_kept(const LogId& former, const Outbound& offered) {
  std::string out;
  put_log_id(out, former);
  log::put(out, offered.sequence);
  append(out, offered);
  return out;
}

std::string encode_cursor(const CursorRecord& c) {
  std::string out;
  put_log_id(out, c.sender_log);
  log::put(out, c.high);
  log::put(out, static_cast<std::uint8_t>(c.stream | (c.to == 0 ? 0 : kNumberFollows)));
  log::put(out, static_cast<std::uint8_t>(c.from.value.size()));
  if (c.to != 0) log::put(out, static_cast<std::uint16_t>(c.to));
  return out + c.from.value;
}
std::optional<CursorRecord> decode_cursor(std::string_view b) {
  if (b.size() < 26) return std::nullopt;
  const auto stream = log::get<std::uint8_t>(b, 24);
  const bool numbered = (stream & kNumberFollows) != 0;
  const std::size_t names = numbered ? 28 : 26;
  if (b.size() != names + static_cast<unsigned char>(b[25])) return std::nullopt;
  CursorRecord c{get_log_id(b, 0),
                 static_cast<std::uint8_t>(stream & ~kNumberFollows),
                 log::get<Sequence>(b, 16),
                 {std::string(b.substr(names))},
                 numbered ? log::get<std::uint16_t>(b, 26) : 0U};
  if (c.stream >= kStreams || numbered != (c.to != 0) || c.to >= kMaxAgentsPerPod)
    return std::nullopt;
  return c;
}

std::string encode_user_id(const UserIdRecord& u) {
  std::string out;
  log::put(out, static_cast<std::uint8_t>((u.received ? 1 : 0) | (u.local ? 2 : 0) |
                                          (u.self == 0 ? 0 : kNumberFollows)));
  log::put(out, static_cast<std::uint8_t>(u.peer.value.size()));
  log::put(out, static_cast<std::uint8_t>(u.id.value.size()));
  if (u.self != 0) log::put(out, static_cast<std::uint16_t>(u.self));
  return out + u.peer.value + u.id.value;
}
std::optional<UserIdRecord> decode_user_id(std::string_view b) {
  if (b.size() < 3) return std::nullopt;
  const auto flags = log::get<std::uint8_t>(b, 0);
  const bool numbered = (flags & kNumberFollows) != 0;
  if ((flags & ~kNumberFollows) > 3) return std::nullopt;
  const std::size_t names = numbered ? 5 : 3;
  const std::size_t peer = static_cast<unsigned char>(b[1]), id = static_cast<unsigned char>(b[2]);
  if (b.size() != names + peer + id) return std::nullopt;
  UserIdRecord u{(flags & 1) != 0,
                 (flags & 2) != 0,
                 {std::string(b.substr(names, peer))},
                 {std::string(b.substr(names + peer))},
                 numbered ? log::get<std::uint16_t>(b, 3) : 0U};
  if (numbered != (u.self != 0) || u.self >= kMaxAgentsPerPod) return std::nullopt;
  return u;
}

}  // namespace swarm::mailbox
