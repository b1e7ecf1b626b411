// What a benchmark says: numbers from samples, and its JSON lines.
#pragma once

#include <chrono>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace swarm::bench {

using Clock = std::chrono::steady_clock;
inline double milliseconds(Clock::duration d) {
  return std::chrono::duration<double, std::milli>(d).count();
}
inline double microseconds(Clock::duration d) {
  return std::chrono::duration<double, std::micro>(d).count();
}
inline double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

double quantile(std::vector<double> values, double q);
inline double median(std::vector<double> values) { return quantile(std::move(values), 0.5); }
double rounded(double value);  // to 3 digits behind the point
std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));

// One comparison. `must` is of ours / theirs.
struct Comparison {
  std::string bench, what;
  double n = 0;
  double ours = 0;
  std::string peer;
  double theirs = 0;
  const char* unit = "ms";
  enum class Bar { kNone, kAtMost, kAtLeast } bar = Bar::kNone;
  double must = 0;
  std::string promise = {};  // with a bar: for docs/proof.md
};
// Its JSON line, printed; what is in `more` goes into it.
void print(const Comparison& c, const nlohmann::json& more);

}  // namespace swarm::bench
