// Time as values. Pure code gets the time from its caller; only shells read clocks.
#pragma once

#include <chrono>
#include <cstdint>

namespace swarm {

// Milliseconds on the monotonic clock: for leases, deadlines, timers. Never compared across
// machines.
using Milliseconds = std::chrono::milliseconds;
using MonoTime = std::chrono::time_point<std::chrono::steady_clock, Milliseconds>;
// Milliseconds since 1970 UTC: shown to people, never decides anything.
using WallTime = std::int64_t;

MonoTime mono_now();
WallTime wall_now();

}  // namespace swarm
