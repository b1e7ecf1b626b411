// A child's output as lines for the log, as a bounded result, and as the last lines for the task's
// history. Pure.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace swarm::worker {

inline constexpr std::size_t kMaxLogLineBytes = 16384;  // longer lines are cut into several
inline constexpr std::size_t kLastLines = 20;
inline constexpr std::size_t kLastLineBytes = 500;
inline constexpr std::size_t kProgressBytes = 200;

// The last non-empty lines of a stream, printable, bounded.
class LastLines {
 public:
  void add(std::string_view line);
  [[nodiscard]] std::vector<std::string> lines() const { return {lines_.begin(), lines_.end()}; }
  [[nodiscard]] std::string last(std::size_t limit) const;  // "" when there is none

 private:
  std::deque<std::string> lines_;
};

// Cuts a byte stream into lines, each with a prefix and a newline, into `log`.
class LineLog {
 public:
  explicit LineLog(std::string prefix) : prefix_(std::move(prefix)) {}
  // Appends finished lines to `log` and `last`.
  void add(std::string_view bytes, std::string& log, LastLines& last);
  // The stream has ended: what stands there without a newline is a line too.
  void finish(std::string& log, LastLines& last);

 private:
  void emit(std::string& log, LastLines& last);
  std::string prefix_;
  std::string partial_;
};

// The head of a stream up to a limit, and how long the stream was.
class Capture {
 public:
  explicit Capture(std::size_t limit) : limit_(limit) {}
  void add(std::string_view bytes);
  // The kept head; when cut, not in the middle of a UTF-8 character.
  [[nodiscard]] std::string_view kept() const;
  [[nodiscard]] std::size_t total() const { return total_; }
  [[nodiscard]] bool truncated() const { return total_ > limit_; }
  [[nodiscard]] std::size_t limit() const { return limit_; }

 private:
  std::size_t limit_;
  std::size_t total_ = 0;
  std::string kept_;
};

}  // namespace swarm::worker
