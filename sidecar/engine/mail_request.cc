#include "engine/mail_request.h"

#include <simdjson.h>

#include <array>
#include <cstring>

#include "base/encoding.h"

namespace swarm::engine {

namespace {

using simdjson::dom::element;

void take(std::string_view& field, const element& value, std::string_view otherwise = "") {
  field = value.is_string() ? value.get_string().value_unsafe() : otherwise;
}

void take(std::optional<std::string_view>& field, const element& value) {
  field.reset();
  if (value.is_string()) field = value.get_string().value_unsafe();
}

void take(std::optional<std::uint64_t>& field, const element& value) {
  field.reset();
  if (value.is_uint64()) field = value.get_uint64().value_unsafe();
}

void take(std::uint64_t& field, const element& value) {
  field = value.is_uint64() ? value.get_uint64().value_unsafe() : 0;
}

void take(bool& field, const element& value) {
  field = value.is_bool() && value.get_bool().value_unsafe();
}

std::optional<MailRequest::Op> op_of(std::string_view name) {
  using Op = MailRequest::Op;
  static constexpr std::array<std::pair<std::string_view, Op>, 6> kOps{{{"send", Op::kSend},
                                                                        {"request", Op::kRequest},
                                                                        {"recv", Op::kReceive},
                                                                        {"ack", Op::kAck},
                                                                        {"nack", Op::kNack},
                                                                        {"extend", Op::kExtend}}};
  for (const auto& [known, op] : kOps) {
    if (known == name) return op;
  }
  return std::nullopt;
}

bool is_number(const element& value) {
  return value.is_uint64() || value.is_int64() || value.is_double();
}

void take_field(MailRequest& r, std::string_view key, const element& value) {
  if (key == "to") return take(r.to, value);
  if (key == "id") return take(r.id, value);
  if (key == "messageId") return take(r.message_id, value);
  if (key == "attempt") return take(r.attempt, value);
  if (key == "body") {
    take(r.body, value);
    r.wrong_body = !r.body;
  } else if (key == "body64") {
    take(r.body64, value);
    r.wrong_body64 = !r.body64;
  } else if (key == "waitMs") {
    take(r.wait_ms, value);
  } else if (key == "leaseMs") {
    take(r.lease_ms, value);
  } else if (key == "timeoutMs") {
    take(r.timeout_ms, value);
  } else if (key == "delayMs") {
    take(r.delay_ms, value);
  } else if (key == "priority") {
    take(r.priority, value, "normal");
  } else if (key == "inReplyTo") {
    take(r.in_reply_to, value);
    if (!r.in_reply_to) r.in_reply_to = "";
  } else if (key == "ackAttempt") {
    take(r.ack_attempt, value);
    if (!r.ack_attempt) r.ack_attempt = 0;
  } else if (key == "stream") {
    take(r.stream, value);
    if (!r.stream) r.stream = "";
  } else if (key == "part") {
    take(r.part, value);
  } else if (key == "from") {
    take(r.from, value);
  } else if (key == "end") {
    take(r.end, value);
  } else if (key == "abort") {
    take(r.abort, value);
  }
}

void append_field(std::string& out, std::string_view key, std::string_view text) {
  out += ",\"";
  out += key;
  out += "\":";
  append_string(out, text);
}

// Where the first byte from `i` on stands that has to be escaped; text.size(): nowhere. Eight at a
// time: a body is long and has few.
std::size_t find_escaped(std::string_view text, std::size_t i) {
  constexpr std::uint64_t kOnes = ~0ULL / 255, kHighs = kOnes << 7U;
  // High bits of bytes below `limit`, at most 128; wrong above the first one only.
  const auto below = [](std::uint64_t word, std::uint64_t limit) {
    return (word - kOnes * limit) & ~word & kHighs;
  };
  for (; i + sizeof(std::uint64_t) <= text.size(); i += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + i, sizeof word);
    if ((below(word, ' ') | below(word ^ (kOnes * '"'), 1) | below(word ^ (kOnes * '\\'), 1)) != 0)
      break;
  }
  const auto plain = [](unsigned char c) { return c >= ' ' && c != '"' && c != '\\'; };
  while (i < text.size() && plain(static_cast<unsigned char>(text[i]))) ++i;
  return i;
}

}  // namespace

constexpr std::size_t kKeptBytes = 256U << 10U;

struct MailRequestReader::Parser : simdjson::dom::parser {};

MailRequestReader::MailRequestReader() : parser_(std::make_unique<Parser>()) {}
MailRequestReader::~MailRequestReader() = default;

bool MailRequestReader::is_op(std::string_view name) { return op_of(name).has_value(); }

std::optional<MailRequest> MailRequestReader::read(std::string_view line) {
  // A large line leaves much memory behind, which few others need.
  if (parser_->capacity() > kKeptBytes) parser_ = std::make_unique<Parser>();
  auto& parser = *parser_;
  if (parser.capacity() < line.size() &&
      parser.allocate(std::max(line.size() * 2, std::size_t{4096}), kMaxDepth) !=
          simdjson::SUCCESS) {
    return std::nullopt;
  }
  simdjson::dom::object object;
  if (parser.parse(line.data(), line.size()).get_object().get(object) != simdjson::SUCCESS)
    return std::nullopt;
  MailRequest out;
  std::optional<MailRequest::Op> op;
  for (const auto [key, value] : object) {
    if (key == "op") {
      std::string_view name;
      take(name, value);
      op = op_of(name);
    } else if (key == "rid") {
      out.rid = is_number(value) ? simdjson::minify(value) : "null";
    } else {
      take_field(out, key, value);
    }
  }
  if (!op) return std::nullopt;
  out.op = *op;
  return out;
}

Result<std::string> body_of(const MailRequest& request) {
  if (request.wrong_body) return invalid("body must be a string");
  if (request.body) return std::string(*request.body);
  auto bytes = request.wrong_body64 ? std::nullopt : from_base64(request.body64.value_or(""));
  if (!bytes) return invalid("body64 must be base64");
  return *std::move(bytes);
}

const char* priority_name(mailbox::Priority p) {
  return p == mailbox::Priority::kHigh ? "high" : p == mailbox::Priority::kLow ? "low" : "normal";
}

void append_string(std::string& out, std::string_view text) {
  static constexpr std::string_view kHex = "0123456789abcdef";
  out += '"';
  std::size_t begin = 0;
  for (auto i = find_escaped(text, 0); i < text.size(); i = find_escaped(text, begin)) {
    const auto c = static_cast<unsigned char>(text[i]);
    out.append(text, begin, i - begin);
    begin = i + 1;
    out += '\\';
    switch (c) {
      case '\n':
        out += 'n';
        break;
      case '\t':
        out += 't';
        break;
      case '\r':
        out += 'r';
        break;
      case '"':
      case '\\':
        out += static_cast<char>(c);
        break;
      default:
        out += "u00";
        out += kHex[c >> 4U];
        out += kHex[c & 0xFU];
    }
  }
  out.append(text, begin);
  out += '"';
}

void append_message(std::string& out, const mailbox::Delivery& delivery) {
  using Mark = mailbox::StreamPart::Mark;
  const auto& m = delivery.message;
  out += "{\"attempt\":" + std::to_string(delivery.attempt);
  if (simdjson::validate_utf8(m.body.data(), m.body.size()))
    append_field(out, "body", m.body);
  else
    append_field(out, "body64", to_base64(m.body));
  append_field(out, "from", m.from.value);
  if (!m.in_reply_to.empty()) append_field(out, "inReplyTo", m.in_reply_to.value);
  append_field(out, "messageId", m.id.value);
  append_field(out, "priority", priority_name(m.priority));
  out += delivery.redelivered ? ",\"redelivered\":true" : ",\"redelivered\":false";
  out += ",\"sentAtMs\":" + std::to_string(m.sent_at);
  if (m.stream) {
    append_field(out, "stream", m.stream->stream.value);
    out += ",\"part\":" + std::to_string(m.stream->part);
    if (m.stream->mark == Mark::kEnd) out += ",\"end\":true";
    if (m.stream->mark == Mark::kAbort) out += ",\"abort\":true";
  }
  append_field(out, "to", m.to.value);
  out += m.wants_reply ? ",\"wantsReply\":true}" : ",\"wantsReply\":false}";
}

}  // namespace swarm::engine
