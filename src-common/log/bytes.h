// Little-endian integers in byte strings, for stored and transmitted formats. Pure, thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace swarm::log {

template <typename Integer>
void put(std::string& out, Integer value) {
  std::array<char, sizeof(Integer)> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<char>(static_cast<std::uint64_t>(value) >> (8U * i));
  out.append(bytes.data(), bytes.size());
}

// The integer at `offset`; the caller has checked that it lies inside.
template <typename Integer>
Integer get(std::string_view bytes, std::size_t offset) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < sizeof(Integer); ++i) {
    value |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[offset + i])) << (8U * i);
  }
  return static_cast<Integer>(value);
}

}  // namespace swarm::log
