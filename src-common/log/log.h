// The one log of a pod: an append-only sequence of checksummed records in segment files.
//
// A record is addressed by its Sequence, which it keeps for life (also when its segment is
// reclaimed and the record copied forward). What is appended and then covered by commit() is found
// again by the next open(), also after kill -9 at any instruction. What was appended but not
// committed may be found or not; never torn, never altered.
//
// Layout (docs/log-format.md, byte by byte): a superblock file {magic, version, log id, highest
// sequence ever committed, crc} written in two alternating slots, and segments of kSegmentBytes,
// fallocate()d whole, so that lack of space shows only when a segment is begun (Code::kFull),
// before anything was promised. A record's checksum (CRC-32C) covers log id, segment number,
// offset, length, sequence, kind and payload, not the state and attempt bytes, which change in
// place: mark() works on a file system that is 100 % full.
//
// Space comes back segment by segment: when every record of a segment is kDone it is reused; when
// the oldest segment is mostly done, its live records are copied forward out of a reserve of
// kReserveSegments. Both happen inside append().
//
// Threads: none; one owner. Ownership: the Log owns its files, the Directory is borrowed and
// outlives it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/ids.h"
#include "base/result.h"
#include "os/file.h"

namespace swarm::log {

using Sequence = std::uint64_t;  // 1, 2, … in order of append; 0 is none

// Values differ in at least four bits, so that no single flipped bit turns one into another.
enum class State : std::uint8_t {
  kLive = 0x00,
  kTaken = 0x0F,  // handed out at least once; `attempt` says how often
  kDead = 0xF0,   // dead letter: kept until purged
  kDone = 0xFF,   // no longer needed; its bytes may be reclaimed
};

struct Options {
  std::uint64_t max_bytes = 0;  // of all segments and the superblock together; at least 3 segments
  // Only tests choose another size. A log keeps the size it was made with.
  std::uint32_t segment_bytes = 1U << 20U;
  // A journal: what commit() has answered is on the device, and survives a loss of power. Otherwise
  // it survives the end of the process.
  bool durable = false;
};

inline constexpr std::uint32_t kSegmentBytes = 1U << 20U;
inline constexpr std::uint32_t kReserveSegments = 2;
inline constexpr std::uint32_t kMaxPayloadBytes = 512U << 10U;  // and at most half a segment
inline constexpr std::uint32_t kRecordOverheadBytes = 40;       // header and padding, at most

struct Record {
  Sequence sequence = 0;
  std::uint8_t kind = 0;  // chosen by the owner; the log does not look at it
  State state = State::kLive;
  std::uint16_t attempt = 0;
  std::string_view payload;  // valid during the call that hands it over
};

struct Recovery {
  bool fresh = false;                 // no log was here: a new log id
  std::uint64_t records = 0;          // found, not kDone
  std::uint64_t truncated_bytes = 0;  // of an append that was never committed
  std::uint64_t corrupt_records =
      0;  // committed, now failing their checksum: quarantined and counted
};

struct Stats {
  std::uint64_t segments = 0, max_segments = 0;
  std::uint64_t live_bytes = 0, live_records = 0;
  std::uint64_t appended_records = 0, appended_bytes = 0, copied_records = 0;  // since open
};

class Log {
 public:
  // Opens the log in `directory` or makes one (log id from 16 random bytes given in `new_id`).
  // Calls `visit` once for each record that is not kDone, in order of sequence. Errors: kFull when
  // not even the minimum fits; kCorrupt when both superblock slots are unreadable while segments
  // exist (the files are renamed aside, never deleted, and a new log made: that is not an error but
  // fresh = true with corrupt_records > 0).
  static Result<std::unique_ptr<Log>> open(os::Directory& directory, const Options& options,
                                           const LogId& new_id,
                                           const std::function<void(const Record&)>& visit,
                                           Recovery* recovery);
  virtual ~Log() = default;

  [[nodiscard]] virtual const LogId& id() const = 0;
  // Writes the record. kFull: nothing was written. Not yet promised: see commit().
  virtual Result<Sequence> append(std::uint8_t kind, std::string_view payload) = 0;
  // Changes state and attempt in place. Never needs space. check()s that the sequence is known and
  // not kDone.
  virtual Status mark(Sequence sequence, State state, std::uint16_t attempt) = 0;
  // mark(kDone) for callers that cannot turn back: when it can't be written now, commit() fails
  // until it has been, so that nobody is told.
  virtual void finish(Sequence sequence) = 0;
  // finish() of a record that others need as long as they are there: done at the end of a commit()
  // that has covered all marks from before, so that no crash and no loss of power leaves them
  // without it. Until then it is live, and so an open() may find it.
  virtual void finish_later(Sequence sequence) = 0;
  // The payload; kNotFound when kDone or unknown, kCorrupt when the bytes fail their checksum.
  virtual Result<std::string> read(Sequence sequence) = 0;
  // After this returns OK, everything appended so far survives a crash of the process. Call it
  // before answering anybody.
  virtual Status commit() = 0;
  // How many bytes of payload can still be appended for sure (in records of ≤ kMaxPayloadBytes),
  // after reclaiming.
  [[nodiscard]] virtual std::uint64_t available_bytes() const = 0;
  [[nodiscard]] virtual Stats stats() const = 0;
};

// The proof that a log works, before anybody relies on it: a record there and back. A full one has
// no room for it and is as good: it is read and marked, and so gets room again.
Status prove(Log& log);

}  // namespace swarm::log
