// check(): for our own bugs, active in release. Never on input from outside.
#pragma once

#include <source_location>

namespace swarm {

// Prints where and what to stderr and aborts.
[[noreturn]] void check_failed(const char* what, const std::source_location& where);

inline void check(bool condition, const char* what,
                  const std::source_location& where = std::source_location::current()) {
  if (!condition) [[unlikely]]
    check_failed(what, where);
}

}  // namespace swarm
