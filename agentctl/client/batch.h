// What `agentctl send --batch` does with text: input into lines, a line into a message, outcomes
// back into the order of the lines.
//
// Holds at most one line that is not complete (kMaxSocketLineBytes and what one add() brings); the
// caller bounds the outcomes that wait for an earlier one (Outcomes::waiting). Pure; one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client/protocol.h"

namespace swarm::agent {

// Outcomes that wait until those of earlier lines are known: one slow receiver holds up the print,
// not the sending.
inline constexpr std::size_t kMostWaitingOutcomes = 1024;
// Bodies under way; the protocol's 64 requests could otherwise be 64 MiB.
inline constexpr std::size_t kMostUnderWayBytes = 8U << 20U;

class LineCutter {
 public:
  struct Line {
    std::uint64_t number = 0;  // from 1
    std::string text;          // without its newline; "" when too_long
    bool too_long = false;     // more than kMaxSocketLineBytes: not kept
  };
  void add(std::string_view bytes);
  void end() { ended_ = true; }  // what has no newline yet is the last line
  // The next whole line.
  std::optional<Line> next();
  [[nodiscard]] std::size_t held_bytes() const { return held_.size(); }

 private:
  std::string held_;
  std::size_t begin_ = 0, looked_ = 0;  // of the present line; up to here without a newline
  std::uint64_t number_ = 0;
  bool ended_ = false, skipping_ = false;
};

struct BatchMessage {
  std::string to, body, id, priority, in_reply_to;  // "" = not given, the body apart
};

// kInvalid: the message says what is wrong with the line and what to write.
Result<BatchMessage> parse_batch_line(std::string_view line);

// One line's outcome. Accepted: `survives` says what by; else `code` of the socket protocol, and
// words for a person.
struct Outcome {
  std::uint64_t line = 0;
  std::string to, id, survives, code, message;
  bool duplicate = false;  // of one that is accepted: it had been before
  [[nodiscard]] bool accepted() const { return code.empty(); }
  // "accepted"; "refused": certainly never delivered; "unknown": anything else.
  [[nodiscard]] std::string_view word() const;
  [[nodiscard]] std::string to_json() const;
};

class Outcomes {
 public:
  // A place for the next line; its outcome comes with finish(place).
  std::uint64_t begin();
  void finish(std::uint64_t place, Outcome outcome);
  // The outcomes that no earlier line holds up, in order.
  std::vector<Outcome> take();
  [[nodiscard]] std::size_t waiting() const { return places_.size(); }
  [[nodiscard]] bool ready() const { return !places_.empty() && places_.front(); }
  // What has been taken: how many, and 0, kExitPartial, or the code of the first when none was
  // accepted.
  [[nodiscard]] std::uint64_t total() const { return total_; }
  [[nodiscard]] std::uint64_t accepted() const { return accepted_; }
  [[nodiscard]] int exit_code() const;

 private:
  std::deque<std::optional<Outcome>> places_;
  std::uint64_t first_ = 0, total_ = 0, accepted_ = 0;
  int first_failure_ = 0;
};

}  // namespace swarm::agent
