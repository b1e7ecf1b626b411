#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "api/swarm.h"

namespace swarm::api {
namespace {

constexpr std::size_t kMaxQuantityDigits = 18;
constexpr std::size_t kMaxUsdDigits = 10;  // what is spent may be more than what a budget can be
constexpr std::size_t kMaxUsdDecimals = 6;
constexpr long double kMaxBytes = 1152921504606846976.0L;  // 2^60

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// The number at text[at, at+count), or -1.
int number_at(std::string_view text, std::size_t at, std::size_t count) {
  if (text.size() < at + count) return -1;
  int value = 0;
  for (std::size_t i = at; i < at + count; ++i) {
    if (!is_digit(text[i])) return -1;
    value = value * 10 + (text[i] - '0');
  }
  return value;
}

std::optional<long double> multiplier(std::string_view suffix) {
  if (suffix.empty()) return 1.0L;
  static constexpr std::string_view kPrefixes = "kMGTP";
  static constexpr std::string_view kBinaryPrefixes = "KMGTP";
  if (suffix.size() == 1) {
    const std::size_t power = kPrefixes.find(suffix[0]);
    if (power == std::string_view::npos) return std::nullopt;
    return std::pow(1000.0L, static_cast<long double>(power + 1));
  }
  if (suffix.size() == 2 && suffix[1] == 'i') {
    const std::size_t power = kBinaryPrefixes.find(suffix[0]);
    if (power == std::string_view::npos) return std::nullopt;
    return std::pow(1024.0L, static_cast<long double>(power + 1));
  }
  if (suffix[0] == 'e' || suffix[0] == 'E') {
    const std::size_t digits = suffix.size() - 1;
    if (digits < 1 || digits > 2) return std::nullopt;
    const int power = number_at(suffix, 1, digits);
    if (power < 0) return std::nullopt;
    return std::pow(10.0L, static_cast<long double>(power));
  }
  return std::nullopt;
}

}  // namespace

std::string_view to_string(TopologyType type) {
  switch (type) {
    case TopologyType::kAuto:
      return "Auto";
    case TopologyType::kFlat:
      return "Flat";
    case TopologyType::kHybrid:
      return "Hybrid";
  }
  return "Auto";
}

std::string_view to_string(Backpressure policy) {
  return policy == Backpressure::kBlock ? "Block" : "Reject";
}

std::string_view to_string(Durability durability) {
  return durability == Durability::kNode ? "Node" : "Pod";
}

std::string_view to_string(Persistence type) {
  return type == Persistence::kJournal ? "Journal" : "None";
}

std::string_view to_string(OnStuck what) {
  return what == OnStuck::kRestart ? "Restart" : "Report";
}

std::string to_string(IntOrPercent value) {
  return std::to_string(value.value) + (value.percent ? "%" : "");
}

Result<std::int64_t> parse_quantity(std::string_view text) {
  const auto wrong = [&] {
    return invalid("is not a quantity of bytes; write for example 64Mi, 1Gi or 67108864");
  };
  std::size_t at = 0;
  std::size_t digits = 0;
  long double value = 0;
  long double place = 1;
  bool fraction = false;
  for (; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '.' && !fraction) {
      fraction = true;
      continue;
    }
    if (!is_digit(c)) break;
    if (++digits > kMaxQuantityDigits) return wrong();
    value = value * 10 + (c - '0');
    if (fraction) place *= 10;
  }
  if (digits == 0) return wrong();
  const auto factor = multiplier(text.substr(at));
  if (!factor) return wrong();
  const long double bytes = std::ceil(value * *factor / place);  // as the API server does: up
  if (bytes > kMaxBytes) return wrong();
  return static_cast<std::int64_t>(bytes);
}

Result<std::int64_t> parse_usd(std::string_view text) {
  const std::size_t dot = std::min(text.find('.'), text.size());
  const std::string_view whole = text.substr(0, dot);
  const std::string_view decimals = dot < text.size() ? text.substr(dot + 1) : std::string_view();
  const bool digits = std::all_of(whole.begin(), whole.end(), is_digit) &&
                      std::all_of(decimals.begin(), decimals.end(), is_digit);
  if (!digits || whole.empty() || whole.size() > kMaxUsdDigits ||
      decimals.size() > kMaxUsdDecimals || (dot < text.size() && decimals.empty()))
    return invalid("not an amount of US dollars such as 200 or 12.34");
  std::int64_t micro = 0;
  for (const char c : whole) micro = micro * 10 + (c - '0');
  for (std::size_t i = 0; i < kMaxUsdDecimals; ++i)
    micro = micro * 10 + (i < decimals.size() ? decimals[i] - '0' : 0);
  return micro;
}

std::string format_usd(std::int64_t micro) {
  micro = std::max<std::int64_t>(0, micro);
  std::string decimals = std::to_string(micro % 1'000'000);
  decimals.insert(0, kMaxUsdDecimals - decimals.size(), '0');
  while (decimals.size() > 2 && decimals.back() == '0') decimals.pop_back();
  return std::to_string(micro / 1'000'000) + "." + decimals;
}

std::string format_bytes(std::int64_t bytes) {
  static constexpr const char* kUnits[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi"};
  std::size_t unit = 0;
  while (bytes != 0 && bytes % 1024 == 0 && unit < 5) {
    bytes /= 1024;
    ++unit;
  }
  return std::to_string(bytes) + kUnits[unit];
}

std::string format_time(WallTime time) {
  using namespace std::chrono;
  const sys_time<milliseconds> point{milliseconds(time)};
  const auto day = floor<days>(point);
  const year_month_day date{day};
  const hh_mm_ss<seconds> clock{floor<seconds>(point - day)};
  char text[32];
  std::snprintf(text, sizeof text, "%04d-%02u-%02uT%02d:%02d:%02dZ", static_cast<int>(date.year()),
                static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                static_cast<int>(clock.hours().count()), static_cast<int>(clock.minutes().count()),
                static_cast<int>(clock.seconds().count()));
  return text;
}

std::optional<WallTime> parse_time(std::string_view text) {
  using namespace std::chrono;
  constexpr std::size_t kMaxLength = 40;
  if (text.size() < 20 || text.size() > kMaxLength) return std::nullopt;
  if (text[4] != '-' || text[7] != '-' || (text[10] != 'T' && text[10] != 't') || text[13] != ':' ||
      text[16] != ':') {
    return std::nullopt;
  }
  const int year_number = number_at(text, 0, 4);
  const int month_number = number_at(text, 5, 2);
  const int day_number = number_at(text, 8, 2);
  const int hour = number_at(text, 11, 2);
  const int minute = number_at(text, 14, 2);
  const int second = number_at(text, 17, 2);
  if (year_number < 0 || month_number < 0 || day_number < 0 || hour < 0 || hour > 23 ||
      minute < 0 || minute > 59 || second < 0 || second > 60) {
    return std::nullopt;
  }
  const year_month_day date{year(year_number), month(static_cast<unsigned>(month_number)),
                            day(static_cast<unsigned>(day_number))};
  if (!date.ok()) return std::nullopt;
  std::size_t at = 19;
  int thousandths = 0;
  if (text[at] == '.') {
    ++at;
    int place = 100;
    const std::size_t first = at;
    for (; at < text.size() && is_digit(text[at]); ++at, place /= 10) {
      thousandths += (text[at] - '0') * place;
    }
    if (at == first) return std::nullopt;
  }
  int offset_minutes = 0;
  if (at >= text.size()) return std::nullopt;
  if (text[at] == 'Z' || text[at] == 'z') {
    if (at + 1 != text.size()) return std::nullopt;
  } else if (text[at] == '+' || text[at] == '-') {
    if (at + 6 != text.size() || text[at + 3] != ':') return std::nullopt;
    const int hours_part = number_at(text, at + 1, 2);
    const int minutes_part = number_at(text, at + 4, 2);
    if (hours_part < 0 || hours_part > 23 || minutes_part < 0 || minutes_part > 59) {
      return std::nullopt;
    }
    offset_minutes = (hours_part * 60 + minutes_part) * (text[at] == '+' ? 1 : -1);
  } else {
    return std::nullopt;
  }
  const auto point = sys_days(date) + hours(hour) + minutes(minute - offset_minutes) +
                     seconds(second) + milliseconds(thousandths);
  return duration_cast<milliseconds>(point.time_since_epoch()).count();
}

}  // namespace swarm::api
