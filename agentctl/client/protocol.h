// The agent socket's JSON lines as values: what agentctl writes and what it reads
// (docs/socket-protocol.md).
//
// The only file of agentctl that sees the JSON library is protocol.cc. Objects from outside are
// read through getters that never fail: a member that is missing or of another type is the
// fallback. Pure; values may be used from any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "os/time.h"

namespace swarm::agent {

inline constexpr std::size_t kDefaultResultBytes = 61440;  // kept of a task's output
inline constexpr std::size_t kMostResultBytes = 65536;     // what spec.mailbox allows at most
inline constexpr int kExitPartial = 8;

// The exit code of every verb for a `code` of the socket protocol ("" = success).
int exit_code(std::string_view code);

// A JSON object from outside; immutable, cheap to copy.
class Object {
 public:
  Object();
  explicit Object(std::shared_ptr<const nlohmann::json> value) : value_(std::move(value)) {}
  static Result<Object> parse(std::string_view text);  // kInvalid: not a JSON object
  static Object of(const std::map<std::string, std::string>& texts,
                   const std::map<std::string, std::int64_t>& numbers,
                   const std::map<std::string, bool>& flags = {});

  [[nodiscard]] bool has(const std::string& name) const;
  [[nodiscard]] bool is_text(const std::string& name) const;
  [[nodiscard]] std::vector<std::string> names() const;  // of all members
  [[nodiscard]] std::string text(const std::string& name, std::string fallback = "") const;
  [[nodiscard]] std::int64_t number(const std::string& name, std::int64_t fallback = 0) const;
  [[nodiscard]] std::optional<double> real(const std::string& name) const;  // nullopt: no number
  [[nodiscard]] bool flag(const std::string& name) const;
  // `name` as it is, or `name`64 decoded; "" when neither is there. kInvalid: not base64.
  [[nodiscard]] Result<std::string> bytes(const std::string& name) const;
  [[nodiscard]] Object object(const std::string& name) const;  // {} when missing
  [[nodiscard]] std::vector<Object> objects(const std::string& name) const;
  [[nodiscard]] std::vector<std::string> texts(const std::string& name) const;
  [[nodiscard]] std::map<std::string, std::int64_t> numbers()
      const;  // the members that are integers
  // As text on one line. without() leaves members out.
  [[nodiscard]] std::string to_json() const;
  [[nodiscard]] Object without(const std::vector<std::string>& names) const;
  // The value of one member as JSON text, "null" when missing.
  [[nodiscard]] std::string member_json(const std::string& name) const;

 private:
  friend class Request;
  std::shared_ptr<const nlohmann::json> value_;
};

// A request to be written, perhaps several times (after each reconnect).
class Request {
 public:
  explicit Request(std::string_view op);
  Request(const Request&);
  Request(Request&&) noexcept;
  Request& operator=(const Request&) = delete;
  Request& operator=(Request&&) noexcept;
  ~Request();

  Request& set(const std::string& name, std::string_view text);
  Request& set_number(const std::string& name, std::int64_t value);
  Request& set_flag(const std::string& name, bool value);
  Request& set_bytes(const std::string& name,
                     std::string_view bytes);  // as `name`, or base64 as `name`64
  Request& set_texts(const std::string& name, const std::vector<std::string>& texts);
  Request& set_object(const std::string& name, const Object& object);
  // `name` carries the milliseconds that are left until the deadline (less `slack`, for the
  // answer's way back) each time the request is written, so that a repeated request doesn't outlive
  // its caller.
  Request& set_remaining(const std::string& name, Milliseconds slack);
  // Without an answer nothing can have happened: `unavailable` instead of `unknown`.
  Request& read_only();

  [[nodiscard]] bool is_read_only() const { return read_only_; }
  // The line with its newline. kInvalid: longer than kMaxSocketLineBytes.
  [[nodiscard]] Result<std::string> line(std::uint64_t rid, Milliseconds left) const;

 private:
  std::unique_ptr<nlohmann::json> value_;
  std::string remaining_name_;
  Milliseconds remaining_slack_{0};
  bool read_only_ = false;
};

// The rid of what is said of a connection, which ends then; none of its requests was looked at.
inline constexpr std::uint64_t kNoRequest = UINT64_MAX;

struct Answer {
  std::uint64_t rid = 0;
  bool ok = false;
  std::string code;     // "" when ok
  std::string message;  // for a person
  Object fields;
  bool more = false;      // a part that comes ahead of the answer: neither ok nor an error
  bool repeated = false;  // the request was written more than once
};

// An answer from its line. kInvalid: not an answer.
Result<Answer> parse_answer(std::string_view line);

// `text` as valid UTF-8 on one line: foreign bytes become '?', control characters and escape
// sequences go; cut to `limit` bytes at a character's border.
std::string printable(std::string_view text, std::size_t limit);
// The longest prefix of at most `limit` bytes that doesn't cut a UTF-8 character in two.
std::string_view utf8_prefix(std::string_view text, std::size_t limit);

}  // namespace swarm::agent
