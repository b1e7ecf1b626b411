#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace swarm {

void check_failed(const char* what, const std::source_location& where) {
  std::fprintf(
      stderr,
      "{\"level\":\"error\",\"message\":\"check failed\",\"what\":\"%s\",\"at\":\"%s:%u\"}\n", what,
      where.file_name(), static_cast<unsigned>(where.line()));
  std::abort();
}

}  // namespace swarm
