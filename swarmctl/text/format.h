// Words, numbers and tables for people, and the words people write. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "os/time.h"

namespace swarm::text {

using Row = std::vector<std::string>;

// Columns aligned by characters (UTF-8), three blanks apart, nothing behind the last one.
std::string table(const std::vector<Row>& rows);
// As kubectl shows ages: 45s, 4m10s, 12m, 3h20m, 5h, 3d. Negative spans are 0s.
std::string age(std::int64_t milliseconds);
// The first line of a text from outside: control characters and escape sequences gone, at most
// `characters` long, then "…".
std::string shorten(std::string_view text, std::size_t characters);
// All of a text from outside, safe for a terminal: newlines and tabs stay.
std::string harmless(std::string_view text);
std::string bytes(std::uint64_t count);   // 312 B, 61 KiB, 4 MiB
std::string tokens(std::uint64_t count);  // 999, 1.2k, 30k, 1.2M
std::string usd(std::uint64_t micro);     // $12.34; below a cent $0.0012

// "500ms", "5s", "45m", "2h", "1h30m"; at most 1000 hours.
Result<Milliseconds> parse_duration(std::string_view text);
// "task/t-0-1f" or "t-0-1f".
Result<TaskId> parse_task(std::string_view text);
// What follows "kind/": parse_name("agent", "agent/worker-3") = "worker-3"; without a slash the
// text itself.
Result<std::string> parse_name(std::string_view kind, std::string_view text);
// A swarm's name, ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$, with or without "swarm/".
Result<std::string> parse_swarm(std::string_view text);
// The word of `known` that `word` was probably meant to be; "" when none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& known);
// For a URL's path or query.
std::string percent_encode(std::string_view text);

}  // namespace swarm::text
