// bench_recovery: opening a log of 100 MB beside reading its files once, in turn. Two logs: one
// with everything alive, and one where nearly everything is done.
//
// Exit code 0: every record was found, as it was written.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "child.h"
#include "log/log.h"
#include "os/file.h"
#include "result.h"
#include "wire.h"

namespace swarm::bench {
namespace {

constexpr std::uint64_t kLogBytes = 100'000'000;
constexpr std::uint32_t kRuns = 9, kPayloadBytes = 320;  // a body of 256 and what a message has
constexpr std::uint32_t kDoneOf = 100;                   // in the second log one of so many lives
constexpr std::size_t kReadBytes = 1U << 20U;

std::string payload_of(log::Sequence sequence) {
  std::string out = std::to_string(sequence) + " ";
  out.resize(kPayloadBytes, 'x');
  return out;
}

std::unique_ptr<os::Directory> directory_at(const std::string& path) {
  auto out = os::open_directory(path);
  if (!out) fail(out.error().message);
  return *std::move(out);
}

LogId some_id() {
  LogId out;
  out.bytes.fill(7);
  return out;
}

constexpr log::Options kOptions{.max_bytes = 2 * kLogBytes};

// Returns how many records are alive.
std::uint64_t make_log(const std::string& path, std::uint32_t live_of) {
  std::filesystem::create_directories(path);
  const auto directory = directory_at(path);
  auto log = log::Log::open(
      *directory, kOptions, some_id(), [](const log::Record&) {}, nullptr);
  if (!log) fail(log.error().message);
  log::Sequence last = 0;
  while ((*log)->stats().appended_bytes < kLogBytes) {
    auto s = (*log)->append(1, payload_of(last + 1));
    if (!s) fail(s.error().message);
    last = *s;
  }
  std::uint64_t live = last;
  for (log::Sequence s = 1; s <= last && live_of > 1; ++s) {
    if (s % live_of == 0) continue;
    if (!(*log)->mark(s, log::State::kDone, 0)) fail("mark");
    --live;
  }
  if (!(*log)->commit()) fail("commit");
  return live;
}

double open_once(const std::string& path, std::uint64_t expected) {
  const auto directory = directory_at(path);
  std::uint64_t found = 0;
  log::Recovery recovery;
  std::vector<std::string> wrong;
  const auto start = Clock::now();
  auto log = log::Log::open(
      *directory, kOptions, some_id(),
      [&](const log::Record& r) {
        ++found;
        if (r.payload.size() != kPayloadBytes) wrong.emplace_back(r.payload);
      },
      &recovery);
  const double ms = milliseconds(Clock::now() - start);
  if (!log || found != expected || recovery.corrupt_records != 0 || !wrong.empty())
    fail("lost or altered: " + std::to_string(found) + " records of " + std::to_string(expected));
  return ms;
}

double read_once(const std::string& path) {
  std::string buffer(kReadBytes, '\0');
  std::uint64_t bytes = 0;
  const auto start = Clock::now();
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    const int fd = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail(entry.path());
    ssize_t n = 0;
    while ((n = ::read(fd, buffer.data(), buffer.size())) > 0)
      bytes += static_cast<std::uint64_t>(n);
    ::close(fd);
  }
  const double ms = milliseconds(Clock::now() - start);
  if (bytes < kLogBytes / 2) fail("the log's files are missing");
  return ms;
}

void compare(const std::string& path, const char* what, std::uint32_t live_of, bool promised) {
  const auto live = make_log(path, live_of);
  // Every payload, once, outside of the clock.
  const auto directory = directory_at(path);
  (void)log::Log::open(
      *directory, kOptions, some_id(),
      [](const log::Record& r) {
        if (r.payload != payload_of(r.sequence))
          fail("altered: record " + std::to_string(r.sequence));
      },
      nullptr);
  std::vector<double> ours, theirs;
  for (std::uint32_t turn = 0; turn <= kRuns; ++turn) {
    const double a = open_once(path, live), b = read_once(path);
    if (turn == 0) continue;
    ours.push_back(a);
    theirs.push_back(b);
  }
  Comparison c{.bench = "recovery",
               .what = what,
               .n = static_cast<double>(live),
               .ours = median(ours),
               .peer = "reading its files once",
               .theirs = median(theirs)};
  if (promised) {
    c.bar = Comparison::Bar::kAtMost;
    c.must = 2;
    c.promise = "A log of 100 MB is recovered in at most twice the time of reading it once";
  }
  std::printf("%s: %.1f ms, reading its files once %.1f ms\n", what, c.ours, c.theirs);
  print(c, {{"runs", kRuns}});
}

}  // namespace
}  // namespace swarm::bench

int main() {
  using namespace swarm::bench;
  return in_directory("bench-recovery", [](const std::string& path) {
    compare(path + "/alive", "log of 100 MB, everything alive", 1, true);
    compare(path + "/done", "log of 100 MB, one record of 100 alive", kDoneOf, false);
  });
}
