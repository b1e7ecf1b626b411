// Which fault met which step of a message's life, and how often: the proof that a run went where it
// hurts.
//
// A step belongs to the batch of its pod: all that the pod does between two commits, up to the
// moment when the frames of the batch have left. What is counted, and when:
//   process faults (crash, undo, wiped, paused, successor)  when they strike: every step of the
//       pod's present batch, and the step whose call they cut short
//   disk (no space, short write, I/O error)  when a change of the directory fails: the step whose
//       call it was, and what was being written; of a commit that fails, every step of the batch
//   recovery crash  the process dies again while it recovers: the steps that the crash before had
//       met, and "recovered"
//   frames (lost, duplicated, reordered, one way)  when it happens to the frame: the frame's own
//       step, the latest step in the life of its message, and what its pod's batch did to the log
//       (segments, superblock, copies, marks, recovery)
// A fault that was armed and did not strike is not counted, nor is an undo that undid nothing: that
// one is a crash.
//
// Threads: one. Not a measure of code coverage.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace swarm::simulator {

enum class Step : std::uint8_t {
  kAppended,      // the sender's record is written
  kSegment,       // a segment begins, or is given back
  kSuperblock,    // the superblock is written: commit
  kFrameSent,     // MESSAGE
  kStored,        // the receiver's record is written
  kAnswerSent,    // ANSWER
  kAnswerTaken,   // the sender's pod has heard it
  kHandedOut,     // an attempt begins
  kAcked,         // the ack is in the receiver's log
  kAckSent,       // ACKED
  kAckRecorded,   // … and in the sender's
  kRecordedSent,  // ACK_RECORDED
  kMarkedDone,    // a record is marked done, on either side
  kCopied,        // the live records of a segment are copied forward
  kDead,          // all attempts are used: a dead letter
  kRedriven,
  kPurged,
  kRecovered,  // a log was opened and its mailbox is back
};
inline constexpr std::size_t kSteps = 18;

enum class Fault : std::uint8_t {
  kCrash,          // kill -9: what was written stays, the write under way may be torn
  kUndo,           // … and the latest writes are undone, at most down to the last commit
  kDisk,           // ENOSPC, a short write or an I/O error
  kLost,           // a frame
  kDuplicated,     // …
  kReordered,      // …
  kOneWay,         // frames of one direction alone are lost or wait
  kWiped,          // the log is gone, the pod's name and address stay
  kPaused,         // SIGSTOP; then its clock has moved 30 s
  kRecoveryCrash,  // killed again while it recovers
  kSuccessor,      // another pod with another log has the name, and the old one still sends
};
inline constexpr std::size_t kFaults = 11;

class Steps {
 public:
  void add(Step step) { bits_ |= 1U << static_cast<unsigned>(step); }
  void add(Steps other) { bits_ |= other.bits_; }
  void clear() { bits_ = 0; }
  [[nodiscard]] bool has(Step step) const {
    return (bits_ >> static_cast<unsigned>(step) & 1U) != 0;
  }
  [[nodiscard]] bool empty() const { return bits_ == 0; }
  // Those that are about the log, not about one message.
  [[nodiscard]] Steps of_log() const;
  friend bool operator==(Steps, Steps) = default;

 private:
  std::uint32_t bits_ = 0;
};

class Matrix {
 public:
  void count(Step step, Fault fault) {
    ++met_[static_cast<std::size_t>(step)][static_cast<std::size_t>(fault)];
  }
  void count(Steps steps, Fault fault);
  [[nodiscard]] std::uint64_t met(Step step, Fault fault) const {
    return met_[static_cast<std::size_t>(step)][static_cast<std::size_t>(fault)];
  }
  // The pair that was met least often.
  struct Least {
    Step step{};
    Fault fault{};
    std::uint64_t met = 0;
  };
  [[nodiscard]] Least least() const;
  [[nodiscard]] std::string table() const;

 private:
  std::array<std::array<std::uint64_t, kFaults>, kSteps> met_{};
};

const char* name_of(Step step);
const char* name_of(Fault fault);

}  // namespace swarm::simulator
