#include <algorithm>
#include <cstring>
#include <limits>

#include "base/encoding.h"
#include "tasks/tasks.h"

namespace swarm::tasks {
namespace {

// Layout: u8 format, then the fields of Task in order; integers little-endian, strings and lists
// with a u32 length in front, optionals with a u8 0 or 1. A new field goes to the end and gets a
// new format number; each is written only where it says more than the one before it, so that the
// release before reads the rest. Format 2 is format 1 and what the task and each of its attempts
// have cost; format 3 is format 2 and whose subtask it is.
constexpr std::uint8_t kFormat = 3;
constexpr std::uint8_t kFormatWithoutParent = 2;
constexpr std::uint8_t kFormatWithoutUsage = 1;
constexpr std::uint8_t kSpentFormat = 1;

class Writer {
 public:
  explicit Writer(std::size_t expected) { out_.reserve(expected); }
  template <typename T>
  void integer(T value) {
    auto bits = static_cast<std::uint64_t>(value);
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      out_.push_back(static_cast<char>(bits & 0xFFU));
      bits >>= 8U;
    }
  }
  void flag(bool value) { integer<std::uint8_t>(value ? 1 : 0); }
  void text(std::string_view value) {
    integer(static_cast<std::uint32_t>(value.size()));
    out_.append(value);
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

// Reads until something is wrong, then gives zeros; ok() tells.
class Reader {
 public:
  explicit Reader(std::string_view in) : in_(in) {}
  template <typename T>
  T integer() {
    if (in_.size() < sizeof(T)) {
      fail();
      return T{};
    }
    std::uint64_t bits = 0;
    for (std::size_t i = sizeof(T); i-- > 0;)
      bits = (bits << 8U) | static_cast<std::uint8_t>(in_[i]);
    in_.remove_prefix(sizeof(T));
    return static_cast<T>(bits);
  }
  bool flag() {
    const auto value = integer<std::uint8_t>();
    if (value > 1) fail();
    return value == 1;
  }
  std::string text(std::size_t limit) {
    const auto size = integer<std::uint32_t>();
    if (size > limit || size > in_.size()) {
      fail();
      return {};
    }
    std::string value(in_.substr(0, size));
    in_.remove_prefix(size);
    return value;
  }
  std::uint32_t count(std::size_t limit) {
    const auto value = integer<std::uint32_t>();
    if (value > limit) {
      fail();
      return 0;
    }
    return value;
  }
  template <typename E>
  E enumerator(E last) {
    const auto value = integer<std::uint8_t>();
    if (value > static_cast<std::uint8_t>(last)) fail();
    return ok_ ? static_cast<E>(value) : E{};
  }
  void fail() {
    ok_ = false;
    in_ = {};
  }
  [[nodiscard]] bool ok() const { return ok_; }
  [[nodiscard]] bool at_end() const { return in_.empty(); }

 private:
  std::string_view in_;
  bool ok_ = true;
};

constexpr std::size_t kMaxReasonBytes = 64;
constexpr WallTime kMaxTime =
    1LL << 52;  // beyond the year 100000; keeps sums of times from overflowing
constexpr std::uint64_t kMaxVersion = 1ULL << 63U;
constexpr std::uint32_t kMaxAttemptNumber = 1U << 30U;

void put(Writer& out, const Attempt& a) {
  out.integer(a.number);
  out.text(a.agent.value);
  out.text(a.pod);
  out.text(a.node);
  out.integer(a.session);
  out.integer(static_cast<std::uint8_t>(a.version));
  out.integer(a.started_at);
  out.integer(a.ended_at);
  out.flag(a.exit_code.has_value());
  if (a.exit_code) out.integer(static_cast<std::int32_t>(*a.exit_code));
  out.flag(a.charged);
  out.text(a.reason);
  out.integer(static_cast<std::uint32_t>(a.last_lines.size()));
  for (const std::string& line : a.last_lines) out.text(line);
}

Attempt get_attempt(Reader& in) {
  Attempt a;
  a.number = in.integer<std::uint32_t>();
  a.agent.value = in.text(kMaxNameBytes);
  a.pod = in.text(kMaxNameBytes);
  a.node = in.text(kMaxNameBytes);
  a.session = in.integer<std::uint64_t>();
  a.version = in.enumerator(Version::kV2);
  a.started_at = in.integer<WallTime>();
  a.ended_at = in.integer<WallTime>();
  if (in.flag()) a.exit_code = in.integer<std::int32_t>();
  a.charged = in.flag();
  a.reason = in.text(kMaxReasonBytes);
  const std::uint32_t lines = in.count(kMaxLastLines);
  for (std::uint32_t i = 0; i < lines && in.ok(); ++i)
    a.last_lines.push_back(in.text(kMaxLineBytes));
  return a;
}

void put(Writer& out, const Usage& usage) {
  for (const auto member : kUsageFields) {
    out.flag((usage.*member).has_value());
    if (usage.*member) out.integer(*(usage.*member));
  }
}

Usage get_usage(Reader& in) {
  Usage usage;
  for (const auto member : kUsageFields) {
    if (!in.flag()) continue;
    usage.*member = in.integer<std::uint64_t>();
    if (*(usage.*member) > kMaxUsage) in.fail();
  }
  return usage;
}

bool has_usage(const Task& t) {
  return t.usage.known() || std::any_of(t.history.begin(), t.history.end(), [](const Attempt& a) {
           return a.usage.known() || !a.cli_session.empty();
         });
}

// What the engine relies on and no byte check sees; nullptr: all is well.
const char* contradiction(const Task& t) {
  if (!is_task_id(t.id.value)) return "the id is not one";
  if (t.version == 0 || t.version > kMaxVersion) return "version out of range";
  if (t.max_attempts == 0 || t.max_attempts > kMaxMaxAttempts) return "max_attempts out of range";
  const auto is_time = [](WallTime time) { return time >= 0 && time <= kMaxTime; };
  for (WallTime time :
       {t.created_at, t.updated_at, t.finished_at, t.not_before, t.last_output_at}) {
    if (!is_time(time)) return "a time out of range";
  }
  std::uint32_t last = 0;
  for (const Attempt& a : t.history) {
    if (!is_time(a.started_at) || !is_time(a.ended_at)) return "a time out of range";
    if (a.number > kMaxAttemptNumber) return "an attempt number out of range";
    if (a.number <= last) return "attempts out of order";
    if (a.ended_at == 0 && &a != &t.history.back()) return "an older attempt is open";
    if (!is_agent_name(a.agent.value)) return "an attempt without an agent";
    if (!a.cli_session.empty() && !is_message_id(a.cli_session)) return "a session that is no id";
    last = a.number;
  }
  const bool open = !t.history.empty() && t.history.back().ended_at == 0;
  if (open != (t.state == TaskState::kRunning)) return "state and last attempt disagree";
  if (t.state == TaskState::kDone && !t.result) return "done without a result";
  if (is_final(t.state) == (t.finished_at == 0)) return "state and time of the end disagree";
  if (t.parent.empty() ? t.depth != 0
                       : !is_task_id(t.parent.value) || t.depth == 0 || t.depth > kMaxDepth)
    return "a parent that is none";
  return nullptr;
}

}  // namespace

std::string_view state_name(TaskState state) {
  switch (state) {
    case TaskState::kQueued:
      return "queued";
    case TaskState::kRunning:
      return "running";
    case TaskState::kDone:
      return "done";
    case TaskState::kFailed:
      return "failed";
    case TaskState::kDead:
      return "dead";
    case TaskState::kCancelled:
      return "cancelled";
  }
  return "queued";
}

std::optional<TaskState> state_from(std::string_view name) {
  for (TaskState state : {TaskState::kQueued, TaskState::kRunning, TaskState::kDone,
                          TaskState::kFailed, TaskState::kDead, TaskState::kCancelled}) {
    if (state_name(state) == name) return state;
  }
  return std::nullopt;
}

std::optional<std::uint32_t> team_of(const TaskId& id) {
  if (!is_task_id(id.value)) return std::nullopt;
  std::uint64_t team = 0;
  for (std::size_t i = 2; id.value[i] != '-'; ++i) {
    team = team * 10 + static_cast<std::uint64_t>(id.value[i] - '0');
    if (team > std::numeric_limits<std::uint32_t>::max()) return std::nullopt;
  }
  return static_cast<std::uint32_t>(team);
}

std::string clipped(std::string_view text, std::size_t limit) {
  if (text.size() > limit) {
    std::size_t end = limit;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
    text = text.substr(0, end == 0 ? limit : end);
  }
  return std::string(text);
}

Version route(std::string_view key_or_id, int v2_percentage) {
  // FNV-1a, then the finaliser of splitmix64 so that near keys fall far apart. Part of the
  // contract: the same key has the same version in every release, so the constants never change.
  std::uint64_t hash = 14695981039346656037ULL;
  for (char c : key_or_id) {
    hash ^= static_cast<std::uint8_t>(c);
    hash *= 1099511628211ULL;
  }
  hash = (hash ^ (hash >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  hash = (hash ^ (hash >> 27U)) * 0x94D049BB133111EBULL;
  hash ^= hash >> 31U;
  return static_cast<int>(hash % 100) < v2_percentage ? Version::kV2 : Version::kV1;
}

std::string encode(const Task& t) {
  Writer out(512 + t.body.size() + (t.result ? t.result->bytes.size() : 0));
  const bool child = !t.parent.empty();
  const bool used = child || has_usage(t);
  out.integer(child ? kFormat : used ? kFormatWithoutParent : kFormatWithoutUsage);
  out.text(t.id.value);
  out.integer(t.version);
  out.integer(static_cast<std::uint8_t>(t.state));
  out.text(t.key);
  out.text(t.idempotency_id);
  out.text(t.body);
  out.integer(static_cast<std::uint32_t>(t.labels.size()));
  for (const auto& [name, value] : t.labels) {
    out.text(name);
    out.text(value);
  }
  out.integer(t.max_attempts);
  out.integer(t.charged_attempts);
  out.integer(static_cast<std::uint8_t>(t.route));
  for (WallTime time : {t.created_at, t.updated_at, t.finished_at, t.not_before}) out.integer(time);
  out.integer(static_cast<std::uint32_t>(t.history.size()));
  for (const Attempt& a : t.history) put(out, a);
  out.integer(t.history_dropped);
  out.flag(t.result.has_value());
  if (t.result) {
    out.text(t.result->bytes);
    out.flag(t.result->truncated);
    out.integer(t.result->total_bytes);
    out.text(t.result->branch);
    out.text(t.result->commit);
  }
  out.text(t.last_output);
  out.integer(t.last_output_at);
  out.flag(t.cancel_requested);
  out.integer(t.losses_in_a_row);
  out.integer(t.later_in_a_row);
  if (used) {
    put(out, t.usage);
    for (const Attempt& a : t.history) {
      put(out, a.usage);
      out.text(a.cli_session);
    }
  }
  if (child) {
    out.text(t.parent.value);
    out.integer(t.depth);
  }
  return out.take();
}

Result<Task> decode(std::string_view bytes) {
  const auto corrupt = [](std::string message) {
    return Error{Code::kCorrupt, std::move(message)};
  };
  Reader in(bytes);
  const auto format = in.integer<std::uint8_t>();
  if (format < kFormatWithoutUsage || format > kFormat) {
    return corrupt("a task of format " + std::to_string(format) + ", known is " +
                   std::to_string(kFormat));
  }
  Task t;
  t.id.value = in.text(64);
  t.version = in.integer<std::uint64_t>();
  t.state = in.enumerator(TaskState::kCancelled);
  t.key = in.text(kMaxKeyBytes);
  t.idempotency_id = in.text(kMaxIdempotencyBytes);
  t.body = in.text(kMaxBodyBytes);
  const std::uint32_t labels = in.count(kMaxLabels);
  for (std::uint32_t i = 0; i < labels && in.ok(); ++i) {
    std::string name = in.text(kMaxLabelKeyBytes);
    std::string value = in.text(kMaxLabelValueBytes);
    if (!t.labels.emplace(std::move(name), std::move(value)).second) in.fail();
  }
  t.max_attempts = in.integer<std::uint32_t>();
  t.charged_attempts = in.integer<std::uint32_t>();
  t.route = in.enumerator(Version::kV2);
  for (WallTime* time : {&t.created_at, &t.updated_at, &t.finished_at, &t.not_before}) {
    *time = in.integer<WallTime>();
  }
  const std::uint32_t attempts = in.count(kMaxHistory);
  for (std::uint32_t i = 0; i < attempts && in.ok(); ++i) t.history.push_back(get_attempt(in));
  t.history_dropped = in.integer<std::uint32_t>();
  if (in.flag()) {
    TaskResult r;
    r.bytes = in.text(kMaxResultBytes);
    r.truncated = in.flag();
    r.total_bytes = in.integer<std::uint64_t>();
    r.branch = in.text(kMaxRefBytes);
    r.commit = in.text(kMaxRefBytes);
    t.result = std::move(r);
  }
  t.last_output = in.text(kMaxLineBytes);
  t.last_output_at = in.integer<WallTime>();
  t.cancel_requested = in.flag();
  t.losses_in_a_row = in.integer<std::uint32_t>();
  t.later_in_a_row = in.integer<std::uint32_t>();
  if (format >= kFormatWithoutParent) {
    t.usage = get_usage(in);
    for (Attempt& a : t.history) {
      a.usage = get_usage(in);
      a.cli_session = in.text(kMaxIdempotencyBytes);
    }
  }
  if (format == kFormat) {
    t.parent.value = in.text(kMaxTaskIdBytes);
    t.depth = in.integer<std::uint32_t>();
  }
  if (!in.ok()) return corrupt("a task that is cut off or out of bounds");
  if (format == kFormatWithoutParent && !has_usage(t))
    return corrupt("a task without usage in the form with it");
  if (format == kFormat && t.parent.empty())
    return corrupt("a task without parent in the form with it");
  if (!in.at_end()) return corrupt("bytes after the end of a task");
  if (const char* what = contradiction(t))
    return corrupt(std::string("a task that contradicts itself: ") + what);
  return t;
}

void add(Usage& sum, const Usage& more) {
  for (const auto member : kUsageFields) {
    if (!(more.*member)) continue;
    const std::uint64_t before = std::min((sum.*member).value_or(0), kMaxUsage);
    sum.*member = before + std::min(*(more.*member), kMaxUsage - before);
  }
}

std::string encode(const Expired& expired) {
  Writer out(128);
  out.integer(kSpentFormat);
  for (const auto member : kSpentFields) out.integer(expired.spent.*member);
  out.text(expired.last.value);
  out.integer(expired.version);
  return out.take();
}

Result<Expired> decode_expired(std::string_view bytes) {
  Reader in(bytes);
  Expired expired;
  const bool known = in.integer<std::uint8_t>() == kSpentFormat;
  for (const auto member : kSpentFields) {
    expired.spent.*member = in.integer<std::uint64_t>();
    if (expired.spent.*member > kMaxSpent) in.fail();
  }
  expired.last.value = in.text(kMaxTaskIdBytes);
  expired.version = in.integer<std::uint64_t>();
  if (!known || !in.ok() || !in.at_end() || !is_task_id(expired.last.value))
    return Error{Code::kCorrupt, "not what the erased tasks have cost"};
  return expired;
}

}  // namespace swarm::tasks
