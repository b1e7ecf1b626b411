#include "client/protocol.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/encoding.h"

namespace swarm::agent {
namespace {

using nlohmann::json;

std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

const std::shared_ptr<const json>& empty_object() {
  static const auto kEmpty = std::make_shared<const json>(json::object());
  return kEmpty;
}

}  // namespace

int exit_code(std::string_view code) {
  struct Row {
    std::string_view code;
    int exit;
  };
  static constexpr Row kRows[] = {
      {"", 0},        {"failed", 1},      {"invalid", 2}, {"not_found", 3},         {"full", 4},
      {"unknown", 5}, {"unavailable", 6}, {"refused", 7}, {"partial", kExitPartial}};
  for (const Row& row : kRows) {
    if (row.code == code) return row.exit;
  }
  return 1;
}

Object::Object() : value_(empty_object()) {}

Result<Object> Object::parse(std::string_view text) {
  auto value = std::make_shared<json>(json::parse(text, nullptr, false));
  if (!value->is_object()) return invalid("not a JSON object");
  return Object(std::move(value));
}

Object Object::of(const std::map<std::string, std::string>& texts,
                  const std::map<std::string, std::int64_t>& numbers,
                  const std::map<std::string, bool>& flags) {
  auto value = std::make_shared<json>(json::object());
  for (const auto& [name, text] : texts) (*value)[name] = text;
  for (const auto& [name, number] : numbers) (*value)[name] = number;
  for (const auto& [name, flag] : flags) (*value)[name] = flag;
  return Object(std::move(value));
}

bool Object::has(const std::string& name) const { return value_->contains(name); }

bool Object::is_text(const std::string& name) const {
  const auto it = value_->find(name);
  return it != value_->end() && it->is_string();
}

std::vector<std::string> Object::names() const {
  std::vector<std::string> out;
  for (const auto& [name, value] : value_->items()) out.push_back(name);
  return out;
}

std::string Object::text(const std::string& name, std::string fallback) const {
  const auto it = value_->find(name);
  return it != value_->end() && it->is_string() ? it->get<std::string>() : std::move(fallback);
}

std::int64_t Object::number(const std::string& name, std::int64_t fallback) const {
  const auto it = value_->find(name);
  return it != value_->end() && it->is_number_integer() ? it->get<std::int64_t>() : fallback;
}

std::optional<double> Object::real(const std::string& name) const {
  const auto it = value_->find(name);
  if (it == value_->end() || !it->is_number()) return std::nullopt;
  return it->get<double>();
}

bool Object::flag(const std::string& name) const {
  const auto it = value_->find(name);
  return it != value_->end() && it->is_boolean() && it->get<bool>();
}

Result<std::string> Object::bytes(const std::string& name) const {
  const auto coded = value_->find(name + "64");
  if (coded == value_->end()) return text(name);
  std::optional<std::string> plain;
  if (coded->is_string()) plain = from_base64(coded->get_ref<const std::string&>());
  if (!plain) return invalid(name + "64 is not base64");
  return *std::move(plain);
}

Object Object::object(const std::string& name) const {
  const auto it = value_->find(name);
  if (it == value_->end() || !it->is_object()) return {};
  return Object(std::make_shared<const json>(*it));
}

std::vector<Object> Object::objects(const std::string& name) const {
  std::vector<Object> out;
  const auto it = value_->find(name);
  if (it == value_->end() || !it->is_array()) return out;
  for (const json& item : *it) {
    if (item.is_object()) out.emplace_back(std::make_shared<const json>(item));
  }
  return out;
}

std::vector<std::string> Object::texts(const std::string& name) const {
  std::vector<std::string> out;
  const auto it = value_->find(name);
  if (it == value_->end() || !it->is_array()) return out;
  for (const json& item : *it) {
    if (item.is_string()) out.push_back(item.get<std::string>());
  }
  return out;
}

std::map<std::string, std::int64_t> Object::numbers() const {
  std::map<std::string, std::int64_t> out;
  for (const auto& [name, value] : value_->items()) {
    if (value.is_number_integer()) out.emplace(name, value.get<std::int64_t>());
  }
  return out;
}

std::string Object::to_json() const { return dump(*value_); }

Object Object::without(const std::vector<std::string>& names) const {
  auto copy = std::make_shared<json>(*value_);
  for (const std::string& name : names) copy->erase(name);
  return Object(std::move(copy));
}

std::string Object::member_json(const std::string& name) const {
  const auto it = value_->find(name);
  return it == value_->end() ? "null" : dump(*it);
}

Request::Request(std::string_view op) : value_(std::make_unique<json>(json::object())) {
  (*value_)["op"] = std::string(op);
}
Request::Request(const Request& other)
    : value_(std::make_unique<json>(*other.value_)),
      remaining_name_(other.remaining_name_),
      remaining_slack_(other.remaining_slack_),
      read_only_(other.read_only_) {}
Request::Request(Request&&) noexcept = default;
Request& Request::operator=(Request&&) noexcept = default;
Request::~Request() = default;

Request& Request::set(const std::string& name, std::string_view text) {
  (*value_)[name] = std::string(text);
  return *this;
}
Request& Request::set_number(const std::string& name, std::int64_t value) {
  (*value_)[name] = value;
  return *this;
}
Request& Request::set_flag(const std::string& name, bool value) {
  (*value_)[name] = value;
  return *this;
}
Request& Request::set_bytes(const std::string& name, std::string_view bytes) {
  if (is_utf8(bytes)) {
    json text = std::string(bytes);
    // Control characters take six bytes each in JSON; where that is more than base64 takes, base64
    // it is.
    if (dump(text).size() <= bytes.size() + bytes.size() / 3 + 16) {
      (*value_)[name] = std::move(text);
      return *this;
    }
  }
  (*value_)[name + "64"] = to_base64(bytes);
  return *this;
}
Request& Request::set_texts(const std::string& name, const std::vector<std::string>& texts) {
  (*value_)[name] = texts;
  return *this;
}
Request& Request::set_object(const std::string& name, const Object& object) {
  (*value_)[name] = *object.value_;
  return *this;
}
Request& Request::set_remaining(const std::string& name, Milliseconds slack) {
  remaining_name_ = name;
  remaining_slack_ = slack;
  return *this;
}
Request& Request::read_only() {
  read_only_ = true;
  return *this;
}

Result<std::string> Request::line(std::uint64_t rid, Milliseconds left) const {
  json copy = *value_;
  copy["rid"] = rid;
  if (!remaining_name_.empty()) {
    copy[remaining_name_] = std::max<std::int64_t>(0, (left - remaining_slack_).count());
  }
  std::string text = dump(copy);
  text += '\n';
  if (text.size() > kMaxSocketLineBytes) {
    return invalid("the request is " + std::to_string(text.size()) +
                   " bytes long as JSON, at most " + std::to_string(kMaxSocketLineBytes) +
                   " are allowed: send less, or pass a reference to a file or a branch");
  }
  return text;
}

Result<Answer> parse_answer(std::string_view line) {
  Result<Object> object = Object::parse(line);
  if (!object) return object.error();
  const bool to_nobody =
      object->has("rid") && object->member_json("rid") == "null" && object->text("code") == "full";
  if (object->number("rid", -1) < 0 && !to_nobody) return invalid("no rid");
  Answer answer;
  answer.rid = to_nobody ? kNoRequest : static_cast<std::uint64_t>(object->number("rid"));
  answer.ok = object->flag("ok");
  answer.more = object->flag("more") && !object->has("ok");
  if (!answer.ok && !answer.more) {
    answer.code = object->text("code", "failed");
    if (answer.code.empty()) answer.code = "failed";
    answer.message = object->text("message", "refused without a message");
  }
  answer.fields = *std::move(object);
  return answer;
}

std::string_view utf8_prefix(std::string_view text, std::size_t limit) {
  if (text.size() <= limit) return text;
  std::size_t end = limit;
  // text[end] is the first byte left out; step back while it continues a character.
  for (int i = 0; i < 3 && end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U; ++i)
    --end;
  if ((static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U)
    return text.substr(0, limit);  // not UTF-8 anyway
  return text.substr(0, end);
}

std::string printable(std::string_view text, std::size_t limit) {
  std::string out;
  std::size_t i = 0;
  while (i < text.size() && out.size() < limit) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c == 0x1BU) {  // CSI sequence: ESC [ … final byte @ to ~; any other escape: two bytes
      ++i;
      if (i < text.size() && text[i] == '[') {
        ++i;
        while (i < text.size() && (text[i] < '@' || text[i] > '~')) ++i;
      }
      if (i < text.size()) ++i;
      continue;
    }
    if (c == '\t') {
      out += ' ';
      ++i;
      continue;
    }
    if (c < 0x20U || c == 0x7FU) {
      ++i;
      continue;
    }
    if (c < 0x80U) {
      out += text[i++];
      continue;
    }
    const std::size_t length = c >= 0xF0U ? 4 : c >= 0xE0U ? 3 : 2;
    const std::string_view character = text.substr(i, length);
    if (!is_utf8(character)) {
      out += '?';
      ++i;
      continue;
    }
    if (out.size() + length > limit) break;
    out += character;
    i += length;
  }
  return out;
}

}  // namespace swarm::agent
