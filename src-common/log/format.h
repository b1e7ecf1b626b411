// The byte layout of docs/log-format.md: superblock slots, segment headers, records. Pure,
// thread-safe, no I/O.
//
// Not an interface for other rooms: they see log.h only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/ids.h"
#include "log/log.h"

namespace swarm::log {

inline constexpr std::uint16_t kFormatVersion = 1;
inline constexpr std::uint32_t kSlotBytes = 64;
inline constexpr std::uint32_t kSlotDistance = 4096;  // the slots never share a page
inline constexpr std::uint32_t kSuperblockBytes = 2 * kSlotDistance;
inline constexpr std::uint32_t kSegmentHeaderBytes = 64;
inline constexpr std::uint32_t kRecordHeaderBytes = 32;
inline constexpr std::uint32_t kMarkOffset = 24;  // in the record
inline constexpr std::uint32_t kMarkBytes = 8;
inline constexpr std::uint32_t kTerminatorBytes = 8;
// No log gets there by counting; what names a higher one was not written by a log, whatever its
// checksum says, and would leave no room to count on.
inline constexpr Sequence kMaxSequence = 1ULL << 62U;  // generations of the superblock, too
inline constexpr std::uint32_t kMaxSegmentNumber = 1U << 31U;

struct Superblock {
  std::uint16_t version = kFormatVersion;
  LogId id;
  Sequence committed = 0;
  std::uint64_t generation = 0;
  std::uint32_t tail_segment = 0, tail_offset = 0;  // where the last committed record ends
  std::uint32_t next_segment = 1;                   // no segment had this number yet
  std::uint32_t segment_bytes = kSegmentBytes;
  friend bool operator==(const Superblock&, const Superblock&) = default;
};
std::string encode_slot(const Superblock& superblock);
std::optional<Superblock> decode_slot(
    std::string_view bytes);  // any version; nullopt: damaged or never written

std::string encode_segment_header(const LogId& id, std::uint32_t number,
                                  std::uint32_t segment_bytes);

// Where a record stands; part of its checksum.
struct Place {
  std::uint32_t segment = 0, offset = 0;
  friend auto operator<=>(const Place&, const Place&) = default;
};

struct Mark {
  State state = State::kLive;
  std::uint16_t attempt = 0;
  friend bool operator==(const Mark&, const Mark&) = default;
};
std::string encode_mark(Sequence sequence, Mark mark);
// Corrects any damage confined to one byte; nullopt when it is worse.
std::optional<Mark> decode_mark(Sequence sequence, std::string_view bytes);

std::uint32_t record_bytes(std::size_t payload_bytes);  // with header and padding
void append_record(std::string& out, const LogId& id, Place place, Sequence sequence,
                   std::uint8_t kind, Mark mark, std::string_view payload);

struct Header {
  Sequence sequence = 0;
  std::uint32_t length = 0;
  std::uint8_t kind = 0;
};
// The record at the beginning of `bytes` when its header's checksum is right, its sequence is one,
// and it lies inside `bytes`.
struct Read {
  Header header;
  bool whole = false;  // it matches its own checksum, too
};
std::optional<Read> decode_record(const LogId& id, Place place, std::string_view bytes);

}  // namespace swarm::log
