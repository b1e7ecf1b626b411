#include "telemetry/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <charconv>
#include <cmath>
#include <ctime>

#include "os/time.h"

namespace swarm::telemetry {
namespace {

std::atomic<int> minimum{static_cast<int>(Level::kInfo)};

spdlog::logger& logger() {
  // The lines are ready-made: spdlog only serialises the writers and flushes.
  static const auto instance = [] {
    auto made = std::make_shared<spdlog::logger>("swarm",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%v");
    made->set_level(spdlog::level::trace);
    made->flush_on(spdlog::level::trace);
    return made;
  }();
  return *instance;
}

std::string_view name_of(Level level) {
  switch (level) {
    case Level::kDebug:
      return "debug";
    case Level::kInfo:
      return "info";
    case Level::kWarn:
      return "warn";
    case Level::kError:
      return "error";
  }
  return "error";
}

// Length of the valid UTF-8 sequence that begins at text[i]; 0 when there is none.
std::size_t utf8_at(std::string_view text, std::size_t i) {
  const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(text[k]); };
  const unsigned char first = byte(i);
  if (first < 0x80) return 1;
  std::size_t length = 0;
  if (first >= 0xc2 && first <= 0xdf) length = 2;
  if (first >= 0xe0 && first <= 0xef) length = 3;
  if (first >= 0xf0 && first <= 0xf4) length = 4;
  if (length == 0 || i + length > text.size()) return 0;
  for (std::size_t k = 1; k < length; ++k) {
    if ((byte(i + k) & 0xc0U) != 0x80U) return 0;
  }
  const unsigned char second = byte(i + 1);
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
      (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) {
    return 0;
  }
  return length;
}

void append_string(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  const bool cut = text.size() > kMaxFieldBytes;
  if (cut) text = text.substr(0, kMaxFieldBytes);
  out += '"';
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_at(text, i);
    const char c = text[i];
    if (length == 0) {
      out += "\xef\xbf\xbd";
      ++i;
      continue;
    }
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += "\\u00";
      out += kHex[static_cast<unsigned char>(c) >> 4U];
      out += kHex[static_cast<unsigned char>(c) & 15U];
    } else {
      out.append(text, i, length);
    }
    i += length;
  }
  if (cut) out += "…";
  out += '"';
}

}  // namespace

bool set_level(std::string_view name) {
  for (const Level level : {Level::kDebug, Level::kInfo, Level::kWarn, Level::kError}) {
    if (name_of(level) == name) {
      minimum.store(static_cast<int>(level), std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

bool enabled(Level level) {
  return static_cast<int>(level) >= minimum.load(std::memory_order_relaxed);
}

void Field::append_to(std::string& line) const {
  line += ',';
  append_string(line, name_);
  line += ':';
  char digits[32];
  switch (kind_) {
    case Kind::kText:
      append_string(line, text_);
      break;
    case Kind::kBool:
      line += number_ != 0 ? "true" : "false";
      break;
    case Kind::kNumber: {
      const auto end = std::to_chars(digits, digits + sizeof digits, number_);
      line.append(digits, end.ptr);
      break;
    }
    case Kind::kReal: {
      if (!std::isfinite(real_)) {
        line += "null";
        break;
      }
      const auto end = std::to_chars(digits, digits + sizeof digits, real_);
      line.append(digits, end.ptr);
      break;
    }
  }
}

std::string format_line(std::int64_t wall_ms, Level level, std::string_view message,
                        Fields fields) {
  const std::int64_t seconds = wall_ms / 1000;
  const auto whole = static_cast<std::time_t>(seconds);
  std::tm parts{};
  gmtime_r(&whole, &parts);
  char time[64];
  const std::size_t length = std::strftime(time, sizeof time, "%Y-%m-%dT%H:%M:%S", &parts);
  const auto milliseconds = static_cast<int>(wall_ms % 1000);
  std::string line = "{\"time\":\"";
  line.append(time, length);
  line += '.';
  line += static_cast<char>('0' + milliseconds / 100);
  line += static_cast<char>('0' + milliseconds / 10 % 10);
  line += static_cast<char>('0' + milliseconds % 10);
  line += "Z\",\"level\":\"";
  line += name_of(level);
  line += "\",\"message\":";
  append_string(line, message);
  for (const Field& field : fields) field.append_to(line);
  line += '}';
  return line;
}

void write(Level level, std::string_view message, Fields fields) {
  if (!enabled(level)) return;
  logger().log(spdlog::level::info,
               spdlog::string_view_t(format_line(wall_now(), level, message, fields)));
}

}  // namespace swarm::telemetry
