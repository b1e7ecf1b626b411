#include "link/frame.h"

#include <array>

#include "base/crc32c.h"

namespace swarm::link {
namespace {

std::uint64_t load(std::string_view bytes) {
  std::uint64_t v = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) v = (v << 8U) | static_cast<unsigned char>(bytes[i]);
  return v;
}

template <typename Integer>
void put(std::string& out, Integer v) {
  std::array<char, sizeof(Integer)> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<char>(static_cast<std::uint64_t>(v) >> (8U * i));
  out.append(bytes.data(), bytes.size());
}

bool known(std::uint8_t type) {
  switch (static_cast<FrameType>(type)) {
    case FrameType::kHello:
    case FrameType::kChallenge:
    case FrameType::kProof:
    case FrameType::kWelcome:
    case FrameType::kClose:
    case FrameType::kPing:
    case FrameType::kPong:
    case FrameType::kKeep:
    case FrameType::kKept:
    case FrameType::kRelease:
    case FrameType::kMessage:
    case FrameType::kAnswer:
    case FrameType::kAcked:
    case FrameType::kAckRecorded:
    case FrameType::kHandover:
    case FrameType::kHanded:
    case FrameType::kGrant:
    case FrameType::kMailCounts:
    case FrameType::kMailList:
    case FrameType::kMailListed:
    case FrameType::kHeld:
    case FrameType::kJoin:
    case FrameType::kJoined:
    case FrameType::kResolve:
    case FrameType::kResolved:
    case FrameType::kSuccessor:
    case FrameType::kLeaving:
    case FrameType::kPeers:
    case FrameType::kPeerList:
    case FrameType::kEpochSeen:
    case FrameType::kReplicate:
    case FrameType::kReplicated:
    case FrameType::kForget:
    case FrameType::kPull:
    case FrameType::kCopy:
    case FrameType::kTaskNext:
    case FrameType::kTaskLease:
    case FrameType::kTaskNone:
    case FrameType::kTaskForgetNext:
    case FrameType::kTaskExtend:
    case FrameType::kTaskExtended:
    case FrameType::kTaskReport:
    case FrameType::kTaskReported:
    case FrameType::kTaskCancel:
    case FrameType::kTaskSubmit:
    case FrameType::kTaskSubmitted:
    case FrameType::kTaskWait:
    case FrameType::kTaskWaited:
    case FrameType::kTaskForgetWait:
      return true;
  }
  return false;
}

}  // namespace

void append_frame(std::string& out, FrameType type, std::string_view payload) {
  check(payload.size() <= kMaxPayloadBytes, "a frame's payload is within the limit");
  const std::size_t begin = out.size();
  put(out, static_cast<std::uint32_t>(payload.size()));
  put(out, kProtocolVersion);
  put(out, static_cast<std::uint8_t>(type));
  put(out, std::uint16_t{0});
  put(out, crc32c(payload, crc32c(std::string_view(out).substr(begin, 8))));
  out.append(payload);
}

Result<std::optional<Frame>> FrameReader::next() {
  const std::string_view have = std::string_view(buffer_).substr(begin_);
  if (have.size() < kHeaderBytes) return std::optional<Frame>();
  const auto length = static_cast<std::size_t>(load(have.substr(0, 4)));
  const auto version = static_cast<std::uint8_t>(have[4]);
  const auto type = static_cast<std::uint8_t>(have[5]);
  if (version != kProtocolVersion) {
    return invalid("link protocol version " + std::to_string(version) + ", this side speaks " +
                   std::to_string(kProtocolVersion));
  }
  if (length > max_payload_) {
    return invalid("frame of " + std::to_string(length) + " bytes, at most " +
                   std::to_string(max_payload_));
  }
  if (!known(type) || load(have.substr(6, 2)) != 0)
    return invalid("unknown frame type " + std::to_string(type));
  if (have.size() < kHeaderBytes + length) return std::optional<Frame>();
  const std::string_view payload = have.substr(kHeaderBytes, length);
  if (crc32c(payload, crc32c(have.substr(0, 8))) != load(have.substr(8, 4))) {
    return Error{Code::kCorrupt, "frame fails its checksum"};
  }
  Frame frame{static_cast<FrameType>(type), std::string(payload)};
  begin_ += kHeaderBytes + length;
  if (begin_ == buffer_.size() || begin_ > (64U << 10U)) {
    buffer_.erase(0, begin_);
    begin_ = 0;
  }
  return std::optional<Frame>(std::move(frame));
}

void put_u8(std::string& out, std::uint8_t v) { put(out, v); }
void put_u32(std::string& out, std::uint32_t v) { put(out, v); }
void put_u64(std::string& out, std::uint64_t v) { put(out, v); }
void put_text(std::string& out, std::string_view text) {
  put(out, static_cast<std::uint32_t>(text.size()));
  out.append(text);
}

std::string_view PayloadReader::take(std::size_t n) {
  if (!ok_ || rest_.size() < n) {
    ok_ = false;
    rest_ = {};
    return {};
  }
  const auto bytes = rest_.substr(0, n);
  rest_.remove_prefix(n);
  return bytes;
}
std::uint8_t PayloadReader::u8() { return static_cast<std::uint8_t>(load(take(1))); }
std::uint32_t PayloadReader::u32() { return static_cast<std::uint32_t>(load(take(4))); }
std::uint64_t PayloadReader::u64() { return load(take(8)); }
std::string_view PayloadReader::text() { return take(u32()); }

}  // namespace swarm::link
