// Rounds of one coordinator with many agents: ours and the peers in turn.
#pragma once

#include <cstdint>

#include "pair.h"

namespace swarm::bench {

inline constexpr std::uint32_t kMaxAgents = 1023;  // of one pod, beside their coordinator
inline constexpr std::uint32_t kMinRounds = 7, kMaxRounds = 1000;

int rounds(const Stage& stage, std::uint32_t agents, std::uint32_t count);

}  // namespace swarm::bench
