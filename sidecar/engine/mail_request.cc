#include "engine/mail_request.h"

#include <simdjson.h>

#include <array>
#include <cstring>

#include "base/encoding.h"
#include "engine/members.h"

namespace swarm::engine {

namespace {

using simdjson::dom::element;

// Each: false, and nothing is taken, when the value is of another kind.
bool take(std::string_view& field, const element& value) {
  return value.is_string() && (field = value.get_string().value_unsafe(), true);
}

bool take(std::optional<std::string_view>& field, const element& value) {
  return value.is_string() && (field = value.get_string().value_unsafe(), true);
}

bool take(std::optional<std::uint64_t>& field, const element& value) {
  return value.is_uint64() && (field = value.get_uint64().value_unsafe(), true);
}

bool take(std::uint64_t& field, const element& value) {
  return value.is_uint64() && (field = value.get_uint64().value_unsafe(), true);
}

bool take(bool& field, const element& value) {
  return value.is_bool() && (field = value.get_bool().value_unsafe(), true);
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

constexpr std::uint32_t bit(MailRequest::Op op) { return 1U << static_cast<unsigned>(op); }

struct Member {
  std::string_view name;
  std::uint32_t ops;  // that may have it
  MemberKind kind;
  bool (*take)(MailRequest& into, const element& value);
};

template <auto Field>
bool take_into(MailRequest& into, const element& value) {
  return take(into.*Field, value);
}

using R = MailRequest;
constexpr std::uint32_t kOptions = 1U << 31U;  // of a file in drop/; no op has this bit
constexpr std::uint32_t kSends = bit(R::Op::kSend) | bit(R::Op::kRequest),
                        kMessages = kSends | kOptions, kReceives = bit(R::Op::kReceive),
                        kNacks = bit(R::Op::kNack), kExtends = bit(R::Op::kExtend),
                        kSettles = bit(R::Op::kAck) | kNacks | kExtends;
// The frequent ones first.
constexpr std::array<Member, 18> kMembers{
    {{"to", kSends, MemberKind::kText, take_into<&R::to>},
     {"body", kSends, MemberKind::kText, take_into<&R::body>},
     {"id", kMessages, MemberKind::kText, take_into<&R::id>},
     {"messageId", kSettles, MemberKind::kText, take_into<&R::message_id>},
     {"attempt", kSettles, MemberKind::kNumber, take_into<&R::attempt>},
     {"waitMs", kReceives, MemberKind::kNumber, take_into<&R::wait_ms>},
     {"timeoutMs", kMessages, MemberKind::kNumber, take_into<&R::timeout_ms>},
     {"leaseMs", kReceives | kExtends, MemberKind::kNumber, take_into<&R::lease_ms>},
     {"body64", kSends, MemberKind::kText, take_into<&R::body64>},
     {"priority", kMessages, MemberKind::kText, take_into<&R::priority>},
     {"inReplyTo", kMessages | kReceives, MemberKind::kText, take_into<&R::in_reply_to>},
     {"ackAttempt", kMessages, MemberKind::kNumber, take_into<&R::ack_attempt>},
     {"stream", kMessages | kReceives, MemberKind::kText, take_into<&R::stream>},
     {"part", kMessages | kReceives, MemberKind::kNumber, take_into<&R::part>},
     {"end", kMessages, MemberKind::kFlag, take_into<&R::end>},
     {"abort", kMessages, MemberKind::kFlag, take_into<&R::abort>},
     {"from", kReceives | kSettles, MemberKind::kText, take_into<&R::from>},
     {"delayMs", kNacks, MemberKind::kNumber, take_into<&R::delay_ms>}}};

const Member* find_member(std::string_view name) {
  for (const Member& member : kMembers) {
    if (member.name == name) return &member;
  }
  return nullptr;
}

std::string allowed_in(std::uint32_t op) {
  std::string out = op == kOptions ? "" : "op rid ";
  for (const Member& member : kMembers) {
    if ((member.ops & op) != 0) out += std::string(member.name) + " ";
  }
  return out;
}

void complain(MailRequest& of, std::string what) {
  if (of.wrong.empty()) of.wrong = std::move(what);
}

// `of`: what has the members, as `op` is called.
void take_member(MailRequest& into, std::string_view key, const element& value, std::uint32_t op,
                 std::string_view of) {
  const Member* member = find_member(key);
  if (member == nullptr || (member->ops & op) == 0)
    complain(into, unknown_member(key, of, allowed_in(op)));
  else if (!member->take(into, value))
    complain(into, wrong_member(key, member->kind));
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
struct MailRequestReader::Object : simdjson::dom::object {};

MailRequestReader::MailRequestReader() : parser_(std::make_unique<Parser>()) {}
MailRequestReader::~MailRequestReader() = default;

bool MailRequestReader::is_op(std::string_view name) { return op_of(name).has_value(); }

std::optional<MailRequestReader::Object> MailRequestReader::parse(std::string_view text) {
  // A large line leaves much memory behind, which few others need.
  if (parser_->capacity() > kKeptBytes) parser_ = std::make_unique<Parser>();
  auto& parser = *parser_;
  if (parser.capacity() < text.size() &&
      parser.allocate(std::max(text.size() * 2, std::size_t{4096}), kMaxDepth) !=
          simdjson::SUCCESS) {
    return std::nullopt;
  }
  Object object;
  if (parser.parse(text.data(), text.size()).get_object().get(object) != simdjson::SUCCESS)
    return std::nullopt;
  return object;
}

std::optional<MailRequest> MailRequestReader::read(std::string_view line) {
  const auto object = parse(line);
  if (!object) return std::nullopt;
  std::string_view name;
  for (const auto [key, value] : *object) {
    if (key == "op") name = value.is_string() ? value.get_string().value_unsafe() : "";
  }
  const auto op = op_of(name);
  if (!op) return std::nullopt;
  MailRequest out;
  out.op = *op;
  for (const auto [key, value] : *object) {
    if (key == "op") continue;
    if (key == "rid") {
      is_number(value) ? void(out.rid = simdjson::minify(value)) : complain(out, wrong_rid());
      continue;
    }
    take_member(out, key, value, bit(*op), name);
  }
  if ((bit(*op) & kSends) != 0 && out.body.has_value() == out.body64.has_value())
    complain(out, "either body (text) or body64 (base64) is needed");
  return out;
}

Result<MailRequest> MailRequestReader::read_options(std::string_view text) {
  const auto object = parse(text);
  if (!object)
    return invalid(
        "one JSON object is needed, as in {\"priority\":\"high\"}, with numbers of 64 bits");
  MailRequest out;
  for (const auto [key, value] : *object) take_member(out, key, value, kOptions, "the options");
  if (!out.wrong.empty()) return invalid(std::move(out.wrong));
  return out;
}

Milliseconds milliseconds_of(std::optional<std::uint64_t> given, std::uint64_t fallback) {
  return Milliseconds(std::min(given.value_or(fallback), kMaxWaitMs));
}

Error body_too_large(std::uint64_t bytes, std::size_t most) {
  return invalid("the body has " + std::to_string(bytes) + " bytes, at most " +
                 std::to_string(most) +
                 " (spec.mailbox.maxMessageBytes); send a reference to a file or commit instead");
}

Result<mailbox::Message> message_of(const MailRequest& request, bool single) {
  const bool wants_reply = request.op == MailRequest::Op::kRequest;
  mailbox::Message m;
  if (wants_reply && !single) return invalid("to: a request goes to one agent, by its name");
  m.id.value = request.id.value_or("");
  if (request.id && !is_message_id(m.id.value))
    return invalid("id must match ^[A-Za-z0-9._:-]{1,128}$");
  if (request.priority == "high")
    m.priority = mailbox::Priority::kHigh;
  else if (request.priority == "low")
    m.priority = mailbox::Priority::kLow;
  else if (request.priority != "normal")
    return invalid("priority must be high, normal or low");
  m.in_reply_to.value = request.in_reply_to.value_or("");
  if (!m.in_reply_to.empty() && !is_message_id(m.in_reply_to.value))
    return invalid("inReplyTo must be a message id");
  if (request.stream) {
    auto& of = m.stream.emplace();
    of.stream.value = *request.stream;
    of.part = static_cast<std::uint32_t>(request.part);
    if (request.end || request.abort)
      of.mark = request.end ? mailbox::StreamPart::Mark::kEnd : mailbox::StreamPart::Mark::kAbort;
    if (!is_message_id(of.stream.value) || request.part == 0 || request.part > UINT32_MAX ||
        (request.end && request.abort) || wants_reply || !m.in_reply_to.empty() ||
        m.priority != mailbox::Priority::kNormal) {
      return invalid(
          "a part of a stream has stream (as an id), part (from 1), at most "
          "one of end and abort, and neither inReplyTo nor priority");
    }
  }
  if (!request.stream && (request.part != 0 || request.end || request.abort))
    return invalid("part, end and abort are of a part of a stream: name the stream");
  if (request.ack_attempt && (*request.ack_attempt == 0 || *request.ack_attempt > kMaxAttempt ||
                              wants_reply || m.in_reply_to.empty() || !single)) {
    return invalid(
        "ackAttempt is the attempt of the message in inReplyTo, as recv gave "
        "it, in a send to one agent");
  }
  return m;
}

Result<std::string> body_of(const MailRequest& request) {
  if (request.body) return std::string(*request.body);
  auto bytes = from_base64(request.body64.value_or(""));
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
