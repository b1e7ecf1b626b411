// The command line: flags, positional arguments, durations. Pure.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "os/time.h"

namespace swarm::agent {

struct Flag {
  std::string name;        // "timeout": written --timeout
  std::string value_name;  // "DURATION"; "" = a switch
  std::string help;
  char letter = '\0';       // 'o': written -o
  std::string switch_of{};  // an action of the verb for which it takes no value
  bool list = false;        // may be written several times: the values with '\n' between them
};

struct Arguments {
  std::map<std::string, std::string> values;  // switches have the value "true"
  std::vector<std::string> positional;
  std::vector<std::string> rest;  // after "--"
  bool has_rest = false;

  [[nodiscard]] bool has(const std::string& name) const { return values.contains(name); }
  [[nodiscard]] std::string get(const std::string& name, std::string fallback = "") const;
};

// kInvalid: an unknown flag (the message names the nearest one), a value missing or one too many.
// With stop_at_positional the first positional argument ends the parsing; it and all that follows
// are `positional`.
Result<Arguments> parse_arguments(const std::vector<Flag>& flags,
                                  const std::vector<std::string>& words,
                                  bool stop_at_positional = false);

// "500ms", "5s", "45m", "2h", "1h30m"; 0 to 1000 hours.
Result<Milliseconds> parse_duration(std::string_view text);
// 7 → "7ms", 65000 → "1m5s".
std::string show_duration(Milliseconds duration);
// A decimal number within [least, most].
Result<std::int64_t> parse_number(std::string_view text, std::int64_t least, std::int64_t most);
// The word of `known` that `word` was probably meant to be; "" when none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& known);
// The flags as lines of a help text.
std::string describe_flags(const std::vector<Flag>& flags);

}  // namespace swarm::agent
