// Result<T>: a value or an Error. Errors are values; nothing in the project's own code throws.
//
// Code is the caller's reaction, not the cause: the message says the cause, in words for a person.
// Thread safety: as for the value types they are made of.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/check.h"

namespace swarm {

enum class Code {
  kInvalid,      // the request is wrong and stays wrong; the message says what to write instead
  kNotFound,     // no such thing
  kConflict,     // somebody else was first; look again, then decide
  kFull,         // refused for lack of room; nothing happened
  kDenied,       // refused: not allowed, superseded, or draining
  kUnavailable,  // nothing happened; try again later
  kUnknown,      // may have happened; repeating with the same id resolves it
  kCancelled,    // the caller gave up first
  kCorrupt,      // stored bytes fail their checksum
  kInternal,     // our bug, or the machine's
};

// The word of a code in the socket protocol and the task API: "invalid", "not_found", …
constexpr std::string_view code_name(Code code) {
  switch (code) {
    case Code::kInvalid:
      return "invalid";
    case Code::kNotFound:
      return "not_found";
    case Code::kConflict:
      return "conflict";
    case Code::kFull:
      return "full";
    case Code::kDenied:
      return "refused";
    case Code::kUnavailable:
      return "unavailable";
    case Code::kUnknown:
      return "unknown";
    case Code::kCancelled:
      return "cancelled";
    case Code::kCorrupt:
      return "corrupt";
    case Code::kInternal:
      return "failed";
  }
  return "failed";
}

// code_from_name is the inverse; words it does not know are kInternal.
constexpr Code code_from_name(std::string_view name) {
  for (Code code : {Code::kInvalid, Code::kNotFound, Code::kConflict, Code::kFull, Code::kDenied,
                    Code::kUnavailable, Code::kUnknown, Code::kCancelled, Code::kCorrupt}) {
    if (code_name(code) == name) return code;
  }
  return Code::kInternal;
}

struct Error {
  Code code = Code::kInternal;
  std::string message;

  // The same error with what was being done in front: "context: message".
  [[nodiscard]] Error in(std::string_view context) const {
    return {code, std::string(context) + ": " + message};
  }
  friend bool operator==(const Error&, const Error&) = default;
};

inline Error invalid(std::string message) { return {Code::kInvalid, std::move(message)}; }
inline Error not_found(std::string message) { return {Code::kNotFound, std::move(message)}; }
inline Error unavailable(std::string message) { return {Code::kUnavailable, std::move(message)}; }
inline Error internal_error(std::string message) { return {Code::kInternal, std::move(message)}; }

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value)
      : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit on purpose
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT

  [[nodiscard]] bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() & {
    check(ok(), "value() of an error");
    return std::get<0>(state_);
  }
  const T& value() const& {
    check(ok(), "value() of an error");
    return std::get<0>(state_);
  }
  T&& value() && {
    check(ok(), "value() of an error");
    return std::get<0>(std::move(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  [[nodiscard]] const Error& error() const {
    check(!ok(), "error() of a value");
    return std::get<1>(state_);
  }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: implicit on purpose

  [[nodiscard]] bool ok() const { return !error_; }
  explicit operator bool() const { return ok(); }
  [[nodiscard]] const Error& error() const {
    check(!ok(), "error() of a value");
    return *error_;
  }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

}  // namespace swarm
