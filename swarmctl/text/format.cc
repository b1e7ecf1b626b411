#include "text/format.h"

#include <algorithm>
#include <charconv>
#include <iterator>

#include "base/encoding.h"

namespace swarm::text {
namespace {

constexpr std::int64_t kLongestDurationMs = 1000LL * 3'600'000;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_lower(char c) { return c >= 'a' && c <= 'z'; }

std::size_t width(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
  }));
}

// Takes one character off the front of `text`: itself, or "" for what a terminal must not see.
std::string take_character(std::string_view& text) {
  const auto c = static_cast<unsigned char>(text.front());
  if (c == 0x1BU) {  // an escape sequence: ESC [ … final byte, or ESC and one byte
    text.remove_prefix(1);
    if (!text.empty() && text.front() == '[') {
      text.remove_prefix(1);
      while (!text.empty() && (text.front() < '@' || text.front() > '~')) text.remove_prefix(1);
    }
    if (!text.empty()) text.remove_prefix(1);
    return "";
  }
  if (c < 0x80U) {
    text.remove_prefix(1);
    return c < 0x20U || c == 0x7FU ? "" : std::string(1, static_cast<char>(c));
  }
  const std::size_t length = c >= 0xF0U ? 4 : c >= 0xE0U ? 3 : 2;
  const std::string_view character = text.substr(0, length);
  const bool control =
      character.size() == 2 && c == 0xC2U && static_cast<unsigned char>(character[1]) < 0xA0U;
  if (!is_utf8(character)) {
    text.remove_prefix(1);
    return "?";
  }
  text.remove_prefix(length);
  return control ? "" : std::string(character);
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0U : 1U)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

std::string table(const std::vector<Row>& rows) {
  std::vector<std::size_t> widths;
  for (const Row& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
  }
  std::string out;
  for (const Row& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - width(row[i]) + 3, ' ');
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string age(std::int64_t milliseconds) {
  const std::int64_t s = std::max<std::int64_t>(0, milliseconds) / 1000;
  const std::int64_t m = s / 60;
  const std::int64_t h = m / 60;
  const auto pair = [](std::int64_t a, const char* unit_a, std::int64_t b, const char* unit_b) {
    std::string out = std::to_string(a) + unit_a;
    if (b != 0) out += std::to_string(b) + unit_b;
    return out;
  };
  if (s < 120) return std::to_string(s) + "s";
  if (m < 10) return pair(m, "m", s % 60, "s");
  if (h < 3) return std::to_string(m) + "m";
  if (h < 8) return pair(h, "h", m % 60, "m");
  if (h < 48) return std::to_string(h) + "h";
  return std::to_string(h / 24) + "d";
}

std::string shorten(std::string_view text, std::size_t characters) {
  text = text.substr(0, text.find('\n'));
  std::string out;
  std::size_t count = 0;
  while (!text.empty()) {
    if (text.front() == '\t') {
      text.remove_prefix(1);
      out += ' ';
      ++count;
    } else {
      const std::string character = take_character(text);
      if (character.empty()) continue;
      out += character;
      ++count;
    }
    if (count == characters && !text.empty()) {
      std::string_view rest = text;
      while (!rest.empty()) {
        if (!take_character(rest).empty()) {
          while ((static_cast<unsigned char>(out.back()) & 0xC0U) == 0x80U) out.pop_back();
          out.pop_back();
          return out + "…";
        }
      }
      return out;
    }
  }
  return out;
}

std::string harmless(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    if (text.front() == '\n' || text.front() == '\t') {
      out += text.front();
      text.remove_prefix(1);
    } else {
      out += take_character(text);
    }
  }
  return out;
}

std::string tokens(std::uint64_t count) {
  constexpr const char* kUnits[] = {"", "k", "M", "G"};
  std::size_t unit = 0;
  std::uint64_t tenths = count * 10;  // counts of the API are far from overflowing
  if (count > UINT64_MAX / 10) tenths = UINT64_MAX;
  while (tenths >= 10'000 && unit + 1 < std::size(kUnits)) {
    tenths /= 1000;
    ++unit;
  }
  std::string out = std::to_string(tenths / 10);
  if (unit > 0 && tenths < 100 && tenths % 10 != 0) out += "." + std::to_string(tenths % 10);
  return out + kUnits[unit];
}

std::string usd(std::uint64_t micro) {
  // As people round; what is less than a cent keeps two digits more.
  const bool small = micro > 0 && micro < 10'000;
  const std::uint64_t step = small ? 100 : 10'000;
  const std::uint64_t parts = micro / step + (micro % step >= step / 2 ? 1 : 0);
  const std::uint64_t whole = small ? 10'000 : 100;
  std::string decimals = std::to_string(parts % whole);
  decimals.insert(0, (small ? 4U : 2U) - decimals.size(), '0');
  return "$" + std::to_string(parts / whole) + "." + decimals;
}

std::string bytes(std::uint64_t count) {
  if (count < 1024) return std::to_string(count) + " B";
  if (count < 1024 * 1024) return std::to_string(count / 1024) + " KiB";
  return std::to_string(count / 1024 / 1024) + " MiB";
}

Result<Milliseconds> parse_duration(std::string_view text) {
  const Error wrong = invalid("'" + std::string(text) +
                              "' is no duration: write for example 500ms, 30s, 45m or 2h");
  const Error too_long = invalid("'" + std::string(text) + "' is longer than 1000h");
  if (text.empty()) return wrong;
  std::int64_t total = 0;
  for (std::size_t i = 0; i < text.size();) {
    if (!is_digit(text[i])) return wrong;
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data() + i, text.data() + text.size(), value);
    if (error != std::errc()) return too_long;
    i = static_cast<std::size_t>(end - text.data());
    std::int64_t unit = 0;
    if (text.substr(i, 2) == "ms") {
      unit = 1;
    } else if (text.substr(i, 1) == "s") {
      unit = 1000;
    } else if (text.substr(i, 1) == "m") {
      unit = 60'000;
    } else if (text.substr(i, 1) == "h") {
      unit = 3'600'000;
    } else {
      return wrong;
    }
    i += unit == 1 ? 2 : 1;
    if (value > kLongestDurationMs / unit) return too_long;
    total += value * unit;
    if (total > kLongestDurationMs) return too_long;
  }
  return Milliseconds(total);
}

Result<std::string> parse_name(std::string_view kind, std::string_view text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return std::string(text);
  const std::string_view given = text.substr(0, slash);
  if (given != kind && given != std::string(kind) + "s") {
    return invalid("'" + std::string(text) + "': write " + std::string(kind) + "/NAME");
  }
  return std::string(text.substr(slash + 1));
}

Result<TaskId> parse_task(std::string_view text) {
  const Error wrong =
      invalid("'" + std::string(text) +
              "' is no task: write it like task/t-0-1f, as submit and get tasks show it");
  const Result<std::string> name = parse_name("task", text);
  if (!name) return wrong;
  if (!is_task_id(*name)) return wrong;
  return TaskId{*name};
}

Result<std::string> parse_swarm(std::string_view text) {
  const Error wrong =
      invalid("'" + std::string(text) +
              "' is no name of a swarm: lower case letters, digits and -, at most " +
              std::to_string(kMaxSwarmNameBytes) + "; kubectl get swarms lists them");
  const Result<std::string> name = parse_name("swarm", text);
  if (!name) return wrong;
  if (!is_swarm_name(*name)) return wrong;
  return *name;
}

std::string nearest(std::string_view word, const std::vector<std::string>& known) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(1, word.size() / 3) + 1;
  for (const std::string& candidate : known) {
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::string percent_encode(std::string_view text) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto b = static_cast<unsigned char>(c);
    if (is_digit(c) || is_lower(c) || (c >= 'A' && c <= 'Z') || c == '-' || c == '.' || c == '_' ||
        c == '~') {
      out += c;
    } else {
      out += '%';
      out += kHex[b >> 4U];
      out += kHex[b & 15U];
    }
  }
  return out;
}

}  // namespace swarm::text
