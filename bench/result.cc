#include "result.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>

namespace swarm::bench {

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const auto rank = static_cast<std::size_t>(std::ceil(q * static_cast<double>(values.size())));
  return values.at(std::max<std::size_t>(rank, 1) - 1);
}

double rounded(double value) { return std::round(value * 1000) / 1000; }

std::string text(const char* format, ...) {
  char out[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(out, sizeof out, format, arguments);
  va_end(arguments);
  return out;
}

void print(const Comparison& c, const nlohmann::json& more) {
  const double ratio = c.ours / c.theirs;
  const bool at_most = c.bar == Comparison::Bar::kAtMost;
  const bool ok = at_most ? ratio <= c.must : ratio >= c.must;
  char date[32] = "";
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  std::strftime(date, sizeof date, "%Y-%m-%d", ::gmtime_r(&now, &utc));
  const char* commit = std::getenv("SWARM_COMMIT");
  nlohmann::json line{{"bench", c.bench}, {"what", c.what},
                      {"n", c.n},         {"ours", rounded(c.ours)},
                      {"peer", c.peer},   {"theirs", rounded(c.theirs)},
                      {"unit", c.unit},   {"ratio", rounded(ratio)},
                      {"must", nullptr},  {"ok", nullptr},
                      {"date", date},     {"commit", commit == nullptr ? "none" : commit}};
  if (c.bar != Comparison::Bar::kNone) {
    line["must"] = c.must;
    line["ok"] = ok;
    line["bar"] = text("%s %g x", at_most ? "<=" : ">=", c.must);
    line["figure"] = text("%.3g x (%.4g beside %.4g %s)", ratio, c.ours, c.theirs, c.unit);
    line["command"] = "make bench ONLY=" + c.bench;
    if (!c.promise.empty()) line["promise"] = c.promise;
  }
  line.update(more);
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

}  // namespace swarm::bench
