// For clang-tidy alone (scripts/lint). Debian 12's is clang 14, which lacks the builtin that
// libstdc++ makes std::source_location of; without it no file that includes base/check.h parses.
#pragma once

#include <cstdint>
#include <version>

#ifndef __cpp_lib_source_location
namespace std {  // NOLINT(cert-dcl58-cpp)
struct source_location {
  static constexpr source_location current(const char* file = __builtin_FILE(),
                                           const char* function = __builtin_FUNCTION(),
                                           unsigned line = __builtin_LINE()) noexcept {
    source_location out;
    out.file_ = file;
    out.function_ = function;
    out.line_ = line;
    return out;
  }
  [[nodiscard]] constexpr const char* file_name() const noexcept { return file_; }
  [[nodiscard]] constexpr const char* function_name() const noexcept { return function_; }
  [[nodiscard]] constexpr uint_least32_t line() const noexcept { return line_; }
  [[nodiscard]] constexpr uint_least32_t column() const noexcept { return 0; }

 private:
  const char* file_ = "";
  const char* function_ = "";
  unsigned line_ = 0;
};
}  // namespace std
#endif
