// A fuzzer's bytes as numbers, choices and texts: zeros and empty texts once they are used up, so
// that every input is a whole program. Arguments of one call are read in the order of clang, which
// is from left to right. Test-only.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace swarm::fuzz {

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size)
      : rest_(reinterpret_cast<const char*>(data), size) {}

  [[nodiscard]] bool empty() const { return rest_.empty(); }
  template <typename Integer>
  Integer number() {
    std::uint64_t value = 0;
    for (const char c : bytes(sizeof(Integer)))
      value = (value << 8U) | static_cast<unsigned char>(c);
    return static_cast<Integer>(value);
  }
  // 0 … n-1; 0 < n ≤ 65536.
  std::size_t below(std::size_t n) {
    return (n <= 256 ? number<std::uint8_t>() : number<std::uint16_t>()) % n;
  }
  // Any number, small ones and those next to the largest most often.
  std::uint64_t wild() {
    switch (below(8)) {
      case 0:
        return number<std::uint64_t>();
      case 1:
        return number<std::uint32_t>();
      case 2:
        return ~std::uint64_t{0} - number<std::uint8_t>();
      case 3:
        return ~std::uint32_t{0} - std::uint64_t{number<std::uint8_t>()};
      default:
        return number<std::uint8_t>();
    }
  }
  // Exactly n bytes as long as there are so many.
  std::string_view bytes(std::size_t n) {
    const auto taken = rest_.substr(0, std::min(n, rest_.size()));
    rest_.remove_prefix(taken.size());
    return taken;
  }
  // As long as the input says, at most 65535 bytes.
  std::string_view text(std::size_t most) { return bytes(below(most + 1)); }
  std::string_view rest() { return bytes(rest_.size()); }

 private:
  std::string_view rest_;
};

}  // namespace swarm::fuzz
