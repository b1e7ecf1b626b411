// Named steps in the life of a message at which `make crash` ends the process:
// docs/crash-matrix.md.
//
// Empty, unless a program is built with SWARM_CRASH_POINTS: swarm-sidecar-crash, which is in no
// image. There, a step is armed by a file (crash_point.cc). Steps are passed on the thread that
// owns the log; a name stands at one place only.
#pragma once

namespace swarm {

#ifdef SWARM_CRASH_POINTS
inline constexpr bool kCrashPoints = true;
void crash_point(const char* step);
#else
inline constexpr bool kCrashPoints = false;
inline void crash_point(const char*) {}
#endif

}  // namespace swarm
