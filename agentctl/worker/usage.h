// What a coding CLI says of its own tokens and cost, read from its JSON on standard output while it
// passes by. Pure; one owner.
//
//   claude: `claude -p --output-format json`, one object; with stream-json the line of type
//           "result" is that object. Cost and tokens are those of one run.
//   codex:  `codex exec --json`, lines of type "thread.started" and "turn.completed". Tokens are
//           those of the thread so far; cost there is none.
//
// Counted is the last word of each session, and sessions are added: a command may call its CLI
// several times. Input tokens are those that came from no cache, with either CLI.
//
// And what it has to say in the end: its answer, or why it has failed, in its own words: whose
// fault that is, the text alone tells (task_run.h).
//
// Hostile input costs no more than a line and its parsed form. What can't be read is absent, never
// zero. It is not: a judge of the task; that is the exit code's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "client/protocol.h"

namespace swarm::worker {

inline constexpr std::size_t kMaxUsageLineBytes = 512U << 10U;   // longer ones are passed over
inline constexpr int kMaxUsageDepth = 32;                        // deeper ones, too
inline constexpr std::size_t kMaxUsageSessions = 64;             // of further ones nothing is kept
inline constexpr std::size_t kMaxFailureBytes = 300;             // of the CLI's words
inline constexpr std::int64_t kMaxUsageCount = (1LL << 53) - 1;  // what JSON carries exactly

enum class UsageOf { kClaude, kCodex };

struct Usage {
  std::optional<std::int64_t> input_tokens, output_tokens, cache_read_tokens, cache_creation_tokens;
  std::optional<std::int64_t> cost_micro_usd;
  std::string session;  // to resume; "" when the CLI has named none
  friend bool operator==(const Usage&, const Usage&) = default;
};

// US dollars for a million tokens. Tokens that went into a cache cost as those from none.
inline constexpr double kMaxPriceUsd = 1'000'000;
struct Prices {
  double in = 0, cached = 0, out = 0;
};
// The cost where the CLI has named none, if any tokens are known.
void set_cost(Usage& usage, const Prices& prices);

class UsageReader {
 public:
  explicit UsageReader(UsageOf cli) : cli_(cli) {}
  // Standard output, in pieces of any size.
  void add(std::string_view bytes);
  // The output has ended: what stands there without a newline is a line too.
  void finish();

  // nullopt: nothing was read; why() says so for a person.
  [[nodiscard]] std::optional<Usage> usage() const;
  [[nodiscard]] std::string why() const;
  // In one line; "": its last word is no failure.
  [[nodiscard]] const std::string& failure() const { return failure_; }
  // The text that it ends with, so far: the worth of an output that is too long to be kept.
  [[nodiscard]] const std::string& answer() const { return answer_; }

 private:
  void line();
  void claude(const agent::Object& object);
  void codex(const agent::Object& object);
  void keep(const std::string& session, Usage usage);

  UsageOf cli_;
  std::string line_;
  bool too_long_ = false;  // this line
  bool passed_over_ = false, unreadable_ = false, too_many_ = false;
  std::string thread_;  // codex: the last one that has begun
  std::string last_;    // session
  std::string failure_, answer_;
  std::map<std::string, Usage> sessions_;
};

}  // namespace swarm::worker
