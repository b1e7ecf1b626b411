// A mutation that knows JSON: in one line of an input, one value becomes one of another kind, or
// goes. Changing single bytes hardly ever gets from one valid text to another. Test-only.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "sim/random.h"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace swarm::fuzz {

inline nlohmann::json any_value(sim::Random& random) {
  using nlohmann::json;
  const std::array values{json(),
                          json(true),
                          json(0),
                          json(1),
                          json(-1),
                          json(UINT64_MAX),
                          json(1.5),
                          json(""),
                          json("a"),
                          json("worker-0"),
                          json(std::string(500, 'x')),
                          json("\xF0\x9F\x90\x9D\x01"),
                          json::array(),
                          json::array({1}),
                          json::array({"a", nullptr}),
                          json::object(),
                          json{{"a", json::array()}}};
  return values[random.below(values.size())];
}

// Changes a value inside `text`; false: it is no JSON, or has none.
inline bool change_json(std::string& text, sim::Random& random) {
  using nlohmann::json;
  json root = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_structured() || root.empty()) return false;
  json* parent = &root;
  for (;;) {  // down to some container; ends with the text
    auto child = parent->begin();
    std::advance(child, random.below(parent->size()));
    if (!child->is_structured() || child->empty() || random.chance(30)) {
      if (random.chance(20))
        parent->erase(child);
      else
        *child = any_value(random);
      break;
    }
    parent = &*child;
  }
  text = root.dump(-1, ' ', false, json::error_handler_t::replace);
  return true;
}

// For LLVMFuzzerCustomMutator: the first `head` bytes are not lines.
inline std::size_t mutate_lines(std::uint8_t* data, std::size_t size, std::size_t most,
                                unsigned seed, std::size_t head) {
  sim::Random random(seed);
  std::string input(reinterpret_cast<const char*>(data), size);
  if (size > head && random.chance(50)) {
    const std::size_t somewhere = head + random.below(size - head);
    std::size_t begin = input.rfind('\n', somewhere == 0 ? 0 : somewhere - 1);
    begin = begin == std::string::npos || begin < head ? head : begin + 1;
    const std::size_t end = std::min(input.find('\n', begin), size);
    std::string line = input.substr(begin, end - begin);
    if (change_json(line, random) && size - (end - begin) + line.size() <= most) {
      input.replace(begin, end - begin, line);
      std::copy(input.begin(), input.end(), data);
      return input.size();
    }
  }
  return LLVMFuzzerMutate(data, size, most);
}

}  // namespace swarm::fuzz
