#include "client/options.h"

#include <algorithm>
#include <charconv>

namespace swarm::agent {
namespace {

constexpr Milliseconds kLongestDuration = std::chrono::hours(1000);

const Flag* find_flag(const std::vector<Flag>& flags, std::string_view name) {
  for (const Flag& flag : flags) {
    if (flag.name == name) return &flag;
  }
  return nullptr;
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

Error unknown_flag(const std::vector<Flag>& flags, const std::string& name) {
  std::vector<std::string> names;
  for (const Flag& flag : flags) names.push_back(flag.name);
  const std::string near = nearest(name, names);
  if (!near.empty()) return invalid("unknown flag --" + name + "; did you mean --" + near + "?");
  return invalid("unknown flag --" + name + "; see --help");
}

}  // namespace

std::string Arguments::get(const std::string& name, std::string fallback) const {
  const auto it = values.find(name);
  return it == values.end() ? std::move(fallback) : it->second;
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

Result<Arguments> parse_arguments(const std::vector<Flag>& flags,
                                  const std::vector<std::string>& words, bool stop_at_positional) {
  Arguments out;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--") {
      out.rest.assign(words.begin() + static_cast<std::ptrdiff_t>(i) + 1, words.end());
      out.has_rest = true;
      return out;
    }
    if (word.size() < 2 || word[0] != '-') {
      if (stop_at_positional) {
        out.positional.assign(words.begin() + static_cast<std::ptrdiff_t>(i), words.end());
        return out;
      }
      out.positional.push_back(word);
      continue;
    }
    std::string name;
    std::optional<std::string> value;
    const Flag* flag = nullptr;
    if (word[1] == '-') {
      const std::size_t equals = word.find('=');
      name = word.substr(2, equals == std::string::npos ? std::string::npos : equals - 2);
      if (equals != std::string::npos) value = word.substr(equals + 1);
      flag = find_flag(flags, name);
      if (flag == nullptr) return unknown_flag(flags, name);
    } else {
      for (const Flag& candidate : flags) {
        if (candidate.letter != '\0' && candidate.letter == word[1]) flag = &candidate;
      }
      if (flag == nullptr) {
        return invalid("unknown flag " + word +
                       "; a text that begins with - goes after -- or to standard input");
      }
      name = flag->name;
      if (word.size() > 2) value = word.substr(word[2] == '=' ? 3 : 2);
    }
    const bool is_switch =
        flag->value_name.empty() || (!flag->switch_of.empty() && !out.positional.empty() &&
                                     out.positional[0] == flag->switch_of);
    if (is_switch) {
      if (value) return invalid("--" + name + " takes no value");
      value = "true";
    } else if (!value) {
      if (i + 1 == words.size() || words[i + 1] == "--") {
        return invalid("--" + name + " needs a value: --" + name + "=" + flag->value_name);
      }
      value = words[++i];
    }
    if (flag->list && out.values.contains(name)) value = out.values[name] + "\n" + *value;
    out.values[name] = *value;
  }
  return out;
}

Result<Milliseconds> parse_duration(std::string_view text) {
  const Error wrong = invalid("'" + std::string(text) +
                              "' is no duration: write for example 500ms, 30s, 45m or 2h");
  std::int64_t total = 0;
  std::size_t i = 0;
  while (i < text.size()) {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data() + i, text.data() + text.size(), value);
    if (error != std::errc() || value < 0 || text[i] == '-') return wrong;
    i = static_cast<std::size_t>(end - text.data());
    std::int64_t unit = 0;
    if (text.substr(i, 2) == "ms") {
      unit = 1;
      i += 2;
    } else if (text.substr(i, 1) == "s") {
      unit = 1000;
      ++i;
    } else if (text.substr(i, 1) == "m") {
      unit = 60'000;
      ++i;
    } else if (text.substr(i, 1) == "h") {
      unit = 3'600'000;
      ++i;
    } else if (value == 0 && i == text.size() && total == 0) {
      return Milliseconds(0);
    } else {
      return wrong;
    }
    if (value > kLongestDuration.count() / unit)
      return invalid("'" + std::string(text) + "' is longer than 1000h");
    total += value * unit;
    if (total > kLongestDuration.count())
      return invalid("'" + std::string(text) + "' is longer than 1000h");
  }
  if (text.empty()) return wrong;
  return Milliseconds(total);
}

std::string show_duration(Milliseconds duration) {
  std::int64_t left = duration.count();
  if (left < 1000) return std::to_string(left) + "ms";
  std::string out;
  if (left >= 3'600'000) out += std::to_string(left / 3'600'000) + "h";
  left %= 3'600'000;
  if (left >= 60'000) out += std::to_string(left / 60'000) + "m";
  left %= 60'000;
  if (left >= 1000 || out.empty()) out += std::to_string(left / 1000) + "s";
  return out;
}

Result<std::int64_t> parse_number(std::string_view text, std::int64_t least, std::int64_t most) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most) {
    return invalid("'" + std::string(text) + "' is no number from " + std::to_string(least) +
                   " to " + std::to_string(most));
  }
  return value;
}

std::string describe_flags(const std::vector<Flag>& flags) {
  std::string out;
  for (const Flag& flag : flags) {
    std::string left = "  ";
    if (flag.letter != '\0') left += std::string("-") + flag.letter + ", ";
    left += "--" + flag.name;
    if (!flag.value_name.empty()) left += " " + flag.value_name;
    if (left.size() < 28) left.resize(28, ' ');
    out += left + " " + flag.help + "\n";
  }
  return out;
}

}  // namespace swarm::agent
