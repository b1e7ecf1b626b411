// JSON from outside that is looked at before anybody knows what it is: the task API's requests and
// other teams' answers, the link's control frames and the reports in them.
#include <array>
#include <string>
#include <string_view>

#include "base/encoding.h"
#include "engine/control_json.h"
#include "engine/task_api_json.h"
#include "engine/worker.h"
#include "mutate_json.h"

namespace swarm::engine {
namespace {

constexpr std::uint32_t kMaxBytes = 1024;
constexpr std::size_t kMaxPages = 16;

// The next line, as JSON; an empty object when it is none.
json object(std::string_view& lines) {
  const auto end = lines.find('\n');
  auto parsed = parse_object(lines.substr(0, end));
  lines.remove_prefix(end == std::string_view::npos ? lines.size() : end + 1);
  return parsed ? *std::move(parsed) : json::object();
}

void submission(std::string_view text) {
  const auto parsed = parse_submission(std::string(text), kMaxBytes);
  if (!parsed) {
    return check(parsed.error().code == Code::kInvalid && is_utf8(parsed.error().message),
                 "a refusal can be sent");
  }
  check(parsed->body.size() <= kMaxBytes && parsed->key.size() <= tasks::kMaxKeyBytes &&
            parsed->labels.size() <= tasks::kMaxLabels &&
            parsed->max_attempts.value_or(1) <= tasks::kMaxMaxAttempts,
        "what is taken is within its limits");
}

void cursor(std::string_view text) {
  const auto parsed = decode_cursor(std::string(text));
  if (!parsed) return check(is_utf8(parsed.error().message), "a refusal can be sent");
  const auto again = decode_cursor(encode_cursor(*parsed));
  check(again.ok() && *again == *parsed, "a cursor is read as it is written");
}

// The head is the first line, so that a mutation need not count its bytes.
void report(std::string_view input) {
  const auto head = input.substr(0, input.find('\n'));
  std::string payload;
  link::put_text(payload, head);
  payload += input.substr(std::min(head.size() + 1, input.size()));
  std::uint64_t request = 0, same_request = 0;
  const auto parsed = decode_report(payload, &request);
  if (!parsed) return;
  const std::string bytes = encode_report(request, *parsed);
  const auto again = decode_report(bytes, &same_request);
  check(again.ok() && request == same_request && encode_report(request, *again) == bytes,
        "a report is read as it is written");
  check(parsed->last_lines.size() <= tasks::kMaxLastLines &&
            parsed->message.size() <= tasks::kMaxLineBytes,
        "a report is within its limits");
}

void control_frame(std::string_view payload) {
  const auto parsed = parse_control(payload);
  if (!parsed) return;
  const std::string bytes = control(parsed->head, parsed->bytes);
  const auto again = parse_control(bytes);
  check(again.ok() && again->head == parsed->head && again->bytes == parsed->bytes,
        "a control frame is read as it is written");
}

void pages(std::string_view lines) {
  TaskPage page({}, 8, {0, 1, 2});
  for (std::size_t asked = 0; page.next() && asked < kMaxPages; ++asked) page.take(object(lines));
  const json out = std::move(page).finish();
  check(!out.dump().empty() && out["tasks"].is_array(), "a page is a list");
}

void sums(std::string_view lines) {
  json agents{{"agents", json::array()}};
  json stats{{"tasks", {{"queued", 1}, {"oldestQueuedSeconds", 3}}},
             {"messages", json::object()},
             {"workers", json::object()},
             {"rollout", {{"effective", 100}, {"v1", 0}, {"v2", 0}}},
             {"ready", true}};
  for (std::size_t teams = 0; teams < kMaxPages && !lines.empty(); ++teams) {
    const json part = object(lines);
    add_agents(agents, part);
    add_stats(stats, part);
  }
  check(!agents.dump().empty() && !stats.dump().empty(), "a sum can be sent");
  for (const auto& [name, count] : stats["tasks"].items())
    check(count.is_number_unsigned() || count.is_number_integer(), "a count is a number");
}

}  // namespace
}  // namespace swarm::engine

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t most, unsigned seed) {
  return swarm::fuzz::mutate_lines(data, size, most, seed, 1);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swarm::engine;
  constexpr std::array kParsers{submission, cursor, report, control_frame, pages, sums};
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  kParsers[data[0] % kParsers.size()](input.substr(1));
  return 0;
}
