#include "worker/usage.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/encoding.h"

namespace swarm::worker {
namespace {

using agent::Object;

constexpr double kMicro = 1e6;

// A parser's memory grows with the depth, whatever the length: look before it does.
bool too_deep(std::string_view line) {
  int depth = 0;
  bool in_text = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (in_text) {
      if (c == '\\') ++i;
      in_text = c != '"';
    } else if (c == '"') {
      in_text = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxUsageDepth) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

std::optional<std::int64_t> count(const Object& object, const char* name) {
  const std::int64_t value = object.number(name, -1);
  if (value < 0) return std::nullopt;
  return std::min(value, kMaxUsageCount);
}

std::optional<std::int64_t> micro_usd(const Object& object, const char* name) {
  const std::optional<double> usd = object.real(name);
  if (!usd || !std::isfinite(*usd) || *usd < 0) return std::nullopt;
  if (*usd >= static_cast<double>(kMaxUsageCount) / kMicro) return kMaxUsageCount;
  return std::llround(*usd * kMicro);
}

void add(std::optional<std::int64_t>& sum, const std::optional<std::int64_t>& more) {
  if (more) sum = std::min(sum.value_or(0) + *more, kMaxUsageCount);
}

}  // namespace

void set_cost(Usage& usage, const Prices& prices) {
  if (usage.cost_micro_usd) return;
  bool known = false;
  double micro = 0;  // a dollar a million tokens is a millionth of a dollar a token
  for (const auto& [tokens, price] : {std::pair{usage.input_tokens, prices.in},
                                      {usage.cache_creation_tokens, prices.in},
                                      {usage.cache_read_tokens, prices.cached},
                                      {usage.output_tokens, prices.out}}) {
    known = known || tokens.has_value();
    micro += static_cast<double>(tokens.value_or(0)) * price;
  }
  if (!known) return;
  usage.cost_micro_usd =
      micro >= static_cast<double>(kMaxUsageCount) ? kMaxUsageCount : std::llround(micro);
}

void UsageReader::add(std::string_view bytes) {
  while (!bytes.empty()) {
    const std::size_t newline = bytes.find('\n');
    const std::string_view part = bytes.substr(0, newline);
    if (!too_long_ && line_.size() + part.size() > kMaxUsageLineBytes) {
      too_long_ = passed_over_ = true;
      line_ = {};
    }
    if (!too_long_) line_ += part;
    if (newline == std::string_view::npos) return;
    bytes.remove_prefix(newline + 1);
    line();
  }
}

void UsageReader::finish() { line(); }

void UsageReader::line() {
  const std::string text = std::exchange(line_, {});
  const bool whole = !std::exchange(too_long_, false);
  // Most lines of a stream are of no interest; only those that may be are parsed.
  const auto names = [&](const char* type) { return text.find(type) != std::string::npos; };
  const bool wanted = cli_ == UsageOf::kClaude
                          ? names("\"result\"")
                          : names("\"turn.completed\"") || names("\"turn.failed\"") ||
                                names("\"thread.started\"") || names("\"agent_message\"");
  if (!whole || !wanted) return;
  if (too_deep(text)) {
    unreadable_ = true;
    return;
  }
  // `claude --verbose` without a stream prints all messages as one list.
  const bool list = text[text.find_first_not_of(" \t\r")] == '[';
  const Result<Object> object = Object::parse(list ? "{\"all\":" + text + "}" : text);
  if (!object) {
    unreadable_ = true;
    return;
  }
  const std::vector<Object> all = list ? object->objects("all") : std::vector<Object>{*object};
  for (const Object& one : all) cli_ == UsageOf::kClaude ? claude(one) : codex(one);
}

void UsageReader::claude(const Object& object) {
  if (object.text("type") != "result") return;
  failure_.clear();
  answer_ = object.text("result");
  if (object.flag("is_error")) {
    failure_ = agent::printable(answer_, kMaxFailureBytes);
    // Its text names the cause in words that change from version to version.
    if (const std::string cause = object.text("api_error_type"); !cause.empty())
      failure_ += " (" + agent::printable(cause, kMaxFailureBytes) + ")";
  }
  const Object counts = object.object("usage");
  Usage usage;
  usage.input_tokens = count(counts, "input_tokens");
  usage.output_tokens = count(counts, "output_tokens");
  usage.cache_read_tokens = count(counts, "cache_read_input_tokens");
  usage.cache_creation_tokens = count(counts, "cache_creation_input_tokens");
  usage.cost_micro_usd = micro_usd(object, "total_cost_usd");
  keep(object.text("session_id"), std::move(usage));
}

void UsageReader::codex(const Object& object) {
  const std::string type = object.text("type");
  if (type == "thread.started") thread_ = object.text("thread_id");
  if (type == "item.completed" && object.object("item").text("type") == "agent_message")
    answer_ = object.object("item").text("text");
  if (type == "turn.failed")
    failure_ = agent::printable(object.object("error").text("message"), kMaxFailureBytes);
  if (type != "turn.completed") return;
  failure_.clear();
  const Object counts = object.object("usage");
  Usage usage;
  usage.input_tokens = count(counts, "input_tokens");
  usage.output_tokens = count(counts, "output_tokens");
  usage.cache_read_tokens = count(counts, "cached_input_tokens");
  if (usage.input_tokens && usage.cache_read_tokens) {  // codex counts the cached ones in
    usage.input_tokens = std::max<std::int64_t>(0, *usage.input_tokens - *usage.cache_read_tokens);
  }
  keep(thread_, std::move(usage));
}

void UsageReader::keep(const std::string& session, Usage usage) {
  if (usage == Usage{}) {
    unreadable_ = true;
    return;
  }
  const std::string known = is_message_id(session) ? session : "";
  if (!sessions_.contains(known) && sessions_.size() >= kMaxUsageSessions) {
    too_many_ = true;
    return;
  }
  last_ = known;
  sessions_[known] = std::move(usage);
}

std::optional<Usage> UsageReader::usage() const {
  if (sessions_.empty()) return std::nullopt;
  Usage sum;
  for (const auto& [session, one] : sessions_) {
    worker::add(sum.input_tokens, one.input_tokens);
    worker::add(sum.output_tokens, one.output_tokens);
    worker::add(sum.cache_read_tokens, one.cache_read_tokens);
    worker::add(sum.cache_creation_tokens, one.cache_creation_tokens);
    worker::add(sum.cost_micro_usd, one.cost_micro_usd);
  }
  sum.session = last_;
  return sum;
}

std::string UsageReader::why() const {
  const std::string what = cli_ == UsageOf::kClaude
                               ? "the object that claude -p prints with --output-format json or "
                                 "stream-json"
                               : "the line turn.completed that codex exec prints with --json";
  if (too_many_) {
    return "usage of more than " + std::to_string(kMaxUsageSessions) +
           " sessions: that of the others is not counted";
  }
  if (!sessions_.empty()) return "";
  if (passed_over_) {
    return "no usage: a line of more than " + std::to_string(kMaxUsageLineBytes) +
           " bytes was passed over, and no other is " + what;
  }
  return unreadable_ ? "no usage: it is not to be read from " + what
                     : "no usage: the output has not " + what;
}

}  // namespace swarm::worker
