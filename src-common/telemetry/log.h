// Log lines: one JSON object a line on stderr, a constant message and fields.
//
//   telemetry::info("pod created", {{"swarm", name}, {"pod", pod}, {"attempt", 2}});
//   {"time":"2026-01-02T03:04:05.678Z","level":"info","message":"pod
//   created","swarm":"hello","pod":"…","attempt":2}
//
// info = a state changed, warn = handled, error = a person should look. No message bodies, no
// tokens, ever. Threads: all functions from any thread; a line is written whole. Lines below the
// level cost one atomic read. Limits: a field's text is cut at kMaxFieldBytes; text that is not
// UTF-8 is written with U+FFFD for the bad bytes.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace swarm::telemetry {

enum class Level { kDebug, kInfo, kWarn, kError };

inline constexpr std::size_t kMaxFieldBytes = 2048;

// "debug", "info", "warn", "error"; false: none of them, and nothing changes.
bool set_level(std::string_view name);
bool enabled(Level level);

// A name and a text, number or truth value. Borrows the text: only for use in the argument list of
// a log call.
class Field {
 public:
  Field(std::string_view name, std::string_view text)
      : name_(name), kind_(Kind::kText), text_(text) {}
  Field(std::string_view name, const char* text) : Field(name, std::string_view(text)) {}
  Field(std::string_view name, const std::string& text) : Field(name, std::string_view(text)) {}
  Field(std::string_view name, bool value)
      : name_(name), kind_(Kind::kBool), number_(value ? 1 : 0) {}
  Field(std::string_view name, double value) : name_(name), kind_(Kind::kReal), real_(value) {}
  template <std::integral T>
  Field(std::string_view name, T value)
      : name_(name), kind_(Kind::kNumber), number_(static_cast<std::int64_t>(value)) {}

  void append_to(std::string& line) const;

 private:
  enum class Kind { kText, kNumber, kReal, kBool };
  std::string_view name_;
  Kind kind_;
  std::string_view text_;
  std::int64_t number_ = 0;
  double real_ = 0;
};

using Fields = std::initializer_list<Field>;

void write(Level level, std::string_view message, Fields fields);

inline void debug(std::string_view message, Fields fields = {}) {
  write(Level::kDebug, message, fields);
}
inline void info(std::string_view message, Fields fields = {}) {
  write(Level::kInfo, message, fields);
}
inline void warn(std::string_view message, Fields fields = {}) {
  write(Level::kWarn, message, fields);
}
inline void error(std::string_view message, Fields fields = {}) {
  write(Level::kError, message, fields);
}

// The line as written, without its newline; pure, for tests.
std::string format_line(std::int64_t wall_ms, Level level, std::string_view message, Fields fields);

}  // namespace swarm::telemetry
