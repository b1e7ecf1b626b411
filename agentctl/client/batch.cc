#include "client/batch.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/encoding.h"

namespace swarm::agent {
namespace {

constexpr std::array<std::string_view, 6> kMembers{"to", "body",     "body64",
                                                   "id", "priority", "inReplyTo"};
// Codes that say that the message was never delivered and never will be.
constexpr std::array<std::string_view, 6> kNeverDelivered{"invalid",     "not_found", "full",
                                                          "unavailable", "refused",   "conflict"};
constexpr std::size_t kShown = 40;  // bytes of foreign text in an error

}  // namespace

void LineCutter::add(std::string_view bytes) { held_ += bytes; }

std::optional<LineCutter::Line> LineCutter::next() {
  const std::size_t end = held_.find('\n', looked_);
  if (end == std::string::npos && !ended_) {
    // Nothing whole: only what may still become a line is kept.
    held_.erase(0, begin_);
    begin_ = 0;
    if (skipping_ || held_.size() > kMaxSocketLineBytes) {
      skipping_ = true;
      held_.clear();
    }
    looked_ = held_.size();
    return std::nullopt;
  }
  const std::size_t stop = end == std::string::npos ? held_.size() : end;
  if (end == std::string::npos && stop == begin_ && !skipping_) return std::nullopt;
  Line line{++number_, held_.substr(begin_, stop - begin_), false};
  line.too_long = skipping_ || line.text.size() > kMaxSocketLineBytes;
  if (line.too_long) line.text.clear();
  skipping_ = false;
  begin_ = looked_ = end == std::string::npos ? held_.size() : end + 1;
  return line;
}

Result<BatchMessage> parse_batch_line(std::string_view line) {
  const auto object = Object::parse(line);
  if (!object) {
    return invalid(
        R"(not a JSON object in UTF-8, as in {"to":"worker-3","body":"text"}; other bytes go into body64)");
  }
  for (const std::string& name : object->names()) {
    if (std::find(kMembers.begin(), kMembers.end(), name) == kMembers.end()) {
      return invalid("unknown member \"" + printable(name, kShown) +
                     "\", allowed: to, body, body64, id, priority, inReplyTo");
    }
    if (!object->is_text(name)) return invalid(name + " must be a text");
  }
  if (object->text("to").empty()) return invalid("to is missing: a name, as in worker-3");
  if (!is_agent_name(object->text("to")))
    return invalid("to takes the name of one agent, as in worker-3: a line for each receiver");
  if (object->has("body") == object->has("body64"))
    return invalid("either body (text) or body64 (base64) is needed");
  auto body = object->bytes("body");
  if (!body) return body.error();
  BatchMessage out{object->text("to"), *std::move(body), object->text("id"),
                   object->text("priority"), object->text("inReplyTo")};
  if (object->has("id") && !is_message_id(out.id))
    return invalid("id takes 1 to 128 of the characters A-Z a-z 0-9 . _ : -");
  if (object->has("inReplyTo") && !is_message_id(out.in_reply_to))
    return invalid("inReplyTo takes the id of a message");
  if (object->has("priority") && out.priority != "high" && out.priority != "normal" &&
      out.priority != "low")
    return invalid("priority must be high, normal or low");
  return out;
}

std::string_view Outcome::word() const {
  if (accepted()) return "accepted";
  return std::find(kNeverDelivered.begin(), kNeverDelivered.end(), code) != kNeverDelivered.end()
             ? "refused"
             : "unknown";
}

std::string Outcome::to_json() const {
  std::map<std::string, std::string> texts{{"outcome", std::string(word())}};
  const std::pair<const char*, const std::string*> optional[] = {{"to", &to},
                                                                 {"messageId", &id},
                                                                 {"survives", &survives},
                                                                 {"code", &code},
                                                                 {"message", &message}};
  for (const auto& [name, value] : optional) {
    if (!value->empty()) texts[name] = *value;
  }
  std::map<std::string, bool> flags;
  if (accepted()) flags["duplicate"] = duplicate;
  return Object::of(texts, {{"line", static_cast<std::int64_t>(line)}}, flags).to_json();
}

std::uint64_t Outcomes::begin() {
  places_.emplace_back();
  return first_ + places_.size() - 1;
}

void Outcomes::finish(std::uint64_t place, Outcome outcome) {
  check(place >= first_ && place - first_ < places_.size(), "a place that waits for its outcome");
  auto& slot = places_[static_cast<std::size_t>(place - first_)];
  check(!slot, "one outcome a line");
  slot = std::move(outcome);
}

std::vector<Outcome> Outcomes::take() {
  std::vector<Outcome> out;
  while (!places_.empty() && places_.front()) {
    Outcome outcome = *std::move(places_.front());
    places_.pop_front();
    ++first_;
    ++total_;
    if (outcome.accepted())
      ++accepted_;
    else if (first_failure_ == 0)
      first_failure_ = agent::exit_code(outcome.code);
    out.push_back(std::move(outcome));
  }
  return out;
}

int Outcomes::exit_code() const {
  if (accepted_ == total_) return 0;
  return accepted_ == 0 ? first_failure_ : kExitPartial;
}

}  // namespace swarm::agent
