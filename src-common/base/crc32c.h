// CRC-32C (Castagnoli, RFC 3720 appendix B.4), with the SSE 4.2 instruction where there is one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace swarm {

// The checksum of `data` continued from `crc` (0 to begin): crc32c(b, crc32c(a)) == crc32c(a + b).
std::uint32_t crc32c(std::string_view data, std::uint32_t crc = 0);

}  // namespace swarm
