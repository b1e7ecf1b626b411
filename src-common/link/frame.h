// Frames of the link between two sidecars: docs/link-protocol.md, byte by byte.
//
// Header, 12 bytes, little-endian: u32 payload length, u8 protocol version, u8 type, u16 zero, u32
// CRC-32C over the first eight bytes and the payload. The length is checked before anything is
// allocated for it. Pure; a FrameReader belongs to one connection.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace swarm::link {

inline constexpr std::uint8_t kProtocolVersion = 1;
inline constexpr std::size_t kHeaderBytes = 12;
// One frame carries at most one whole task copy (log::kMaxPayloadBytes) and its header.
inline constexpr std::size_t kMaxPayloadBytes = (512U << 10U) + 4096U;
inline constexpr std::size_t kMaxHandshakeBytes = 8192;

// What a pod knows beyond the first release, in the payload of its PINGs: a sender of frames of a
// new type asks for it first (docs/link-protocol.md, "Versions").
enum Feature : std::uint32_t { kGrants = 1, kCopies = 2 };
inline constexpr std::uint32_t kOwnFeatures = kGrants | kCopies;

enum class FrameType : std::uint8_t {
  // handshake; nothing else may come before it is done
  kHello = 1,
  kChallenge = 2,
  kProof = 3,
  kWelcome = 4,
  kClose = 5,
  // both directions
  kPing = 10,
  kPong = 11,
  // copies of mail on other nodes: sender to custodian, its answers, sender to custodian
  kKeep = 17,
  kKept = 18,
  kRelease = 19,
  // mail
  kMessage = 20,
  kAnswer = 21,
  kAcked = 22,
  kAckRecorded = 23,
  // a draining pod and the successor of its name
  kHandover = 24,
  kHanded = 25,
  // a place in an inbox that was full, to one that waits for it; and back: not needed any more
  kGrant = 29,
  // a worker's mail, to its coordinator; a coordinator's question what is there, and the answer
  kMailCounts = 26,
  kMailList = 27,
  kMailListed = 28,
  // a worker and its team's coordinator
  kHeld = 30,
  kJoin = 31,
  kJoined = 32,
  kResolve = 33,
  kResolved = 34,
  kSuccessor = 35,
  kLeaving = 36,
  kPeers = 37,
  kPeerList = 38,
  kEpochSeen = 39,
  // copies of tasks
  kReplicate = 40,
  kReplicated = 41,
  kForget = 42,
  kPull = 43,
  kCopy = 44,
  // work
  kTaskNext = 50,
  kTaskLease = 51,
  kTaskNone = 52,
  kTaskForgetNext = 53,
  kTaskExtend = 54,
  kTaskExtended = 55,
  kTaskReport = 56,
  kTaskReported = 57,
  kTaskCancel = 58,
  // of an agent: a task of its own, and waiting for tasks
  kTaskSubmit = 59,
  kTaskSubmitted = 60,
  kTaskWait = 61,
  kTaskWaited = 62,
  kTaskForgetWait = 63,
};

struct Frame {
  FrameType type = FrameType::kPing;
  std::string payload;
};

// Appends the frame to `out`. check()s the payload's size.
void append_frame(std::string& out, FrameType type, std::string_view payload);

class FrameReader {
 public:
  void add(std::string_view bytes) { buffer_.append(bytes); }
  // The next whole frame; nullopt: more bytes are needed; an error: the connection is beyond
  // repair.
  Result<std::optional<Frame>> next();
  void limit(std::size_t max_payload) { max_payload_ = max_payload; }

 private:
  std::string buffer_;
  std::size_t begin_ = 0;
  std::size_t max_payload_ = kMaxHandshakeBytes;
};

// Little-endian fields of a payload, and their bounds-checked reading.
void put_u8(std::string& out, std::uint8_t v);
void put_u32(std::string& out, std::uint32_t v);
void put_u64(std::string& out, std::uint64_t v);
void put_text(std::string& out, std::string_view text);  // u32 length, bytes

class PayloadReader {
 public:
  explicit PayloadReader(std::string_view bytes) : rest_(bytes) {}
  std::uint8_t u8();
  std::uint32_t u32();
  std::uint64_t u64();
  std::string_view text();
  std::string_view rest() {
    auto r = rest_;
    rest_ = {};
    return r;
  }
  // False once anything was read past the end; what was read then is zero or empty.
  [[nodiscard]] bool ok() const { return ok_; }
  [[nodiscard]] bool done() const { return ok_ && rest_.empty(); }

 private:
  std::string_view take(std::size_t n);
  std::string_view rest_;
  bool ok_ = true;
};

}  // namespace swarm::link
