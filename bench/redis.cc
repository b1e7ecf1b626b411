#include "redis.h"

namespace swarm::bench {
namespace {

// Takes one whole value from `text`; its strings go to `strings`. False: not all of it is there.
bool take_value(std::string_view& text, std::vector<std::string>& strings) {
  const auto end = text.find("\r\n");
  if (end == std::string_view::npos) return false;
  const char kind = text[0];
  const std::string head(text.substr(1, end - 1));
  text.remove_prefix(end + 2);
  if (kind == '-') fail("redis: " + head);
  if (kind == '+' || kind == ':') return true;
  if (kind != '$' && kind != '*') fail("redis: not a RESP 2 value");
  const long count = std::stol(head);
  if (kind == '$') {
    if (count < 0) return true;
    const auto size = static_cast<std::size_t>(count);
    if (text.size() < size + 2) return false;
    strings.emplace_back(text.substr(0, size));
    text.remove_prefix(size + 2);
    return true;
  }
  for (long i = 0; i < count; ++i) {
    if (!take_value(text, strings)) return false;
  }
  return true;
}

}  // namespace

void add_command(std::string& out, std::initializer_list<std::string_view> words) {
  out += "*" + std::to_string(words.size()) + "\r\n";
  for (const auto word : words) {
    out += "$" + std::to_string(word.size()) + "\r\n";
    out.append(word).append("\r\n");
  }
}

std::optional<std::vector<std::string>> next_value(Wire& wire) {
  std::string_view rest = wire.pending();
  const auto before = rest.size();
  std::vector<std::string> strings;
  if (rest.empty() || !take_value(rest, strings)) return std::nullopt;
  wire.take(before - rest.size());
  return strings;
}

}  // namespace swarm::bench
