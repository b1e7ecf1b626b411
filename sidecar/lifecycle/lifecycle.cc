#include "lifecycle/lifecycle.h"

#include <algorithm>
#include <utility>

namespace swarm::lifecycle {

std::string_view phase_name(Phase phase) {
  switch (phase) {
    case Phase::kStarting:
      return "starting";
    case Phase::kReady:
      return "ready";
    case Phase::kLeaving:
      return "leaving";
    case Phase::kDraining:
      return "draining";
    case Phase::kStopped:
      return "stopped";
  }
  return "stopped";
}

std::string_view part_name(Part part) {
  switch (part) {
    case Part::kMailbox:
      return "mailbox";
    case Part::kTeam:
      return "team";
    case Part::kQueue:
      return "queue";
  }
  return "queue";
}

// A worker whose link breaks after the first time stays in the Services: its mailbox works without
// the coordinator, and a coordinator's replacement must not make a whole swarm unready.
bool Lifecycle::essential(std::size_t part) const {
  return settings_.coordinator || static_cast<Part>(part) == Part::kMailbox;
}

void Lifecycle::part(Part part, bool works, std::string_view why) {
  parts_[static_cast<std::size_t>(part)] = {works, works ? std::string() : std::string(why)};
  const bool all =
      std::all_of(parts_.begin(), parts_.end(), [](const State& s) { return s.works; });
  if (phase_ == Phase::kStarting && all) phase_ = Phase::kReady;
}

void Lifecycle::leaving() {
  if (phase_ >= Phase::kLeaving) return;
  phase_ = Phase::kLeaving;
  outputs_.emplace_back(Leave{});
}

void Lifecycle::terminate(MonoTime now) {
  if (phase_ >= Phase::kDraining) return;
  leaving();  // unless preStop has run: a plain kill, or a restart of the container
  phase_ = Phase::kDraining;
  drain_began_ = now;
  heard_ = false;  // what was left before is no answer to Drain
  outputs_.emplace_back(Drain{});
}

void Lifecycle::orphaned(MonoTime now) {
  orphaned_ = true;
  advance(now);
}

void Lifecycle::remaining(MonoTime now, const Remaining& remaining) {
  remaining_ = remaining;
  heard_ = true;
  advance(now);
}

void Lifecycle::advance(MonoTime now) {
  if (phase_ != Phase::kDraining || !heard_) return;
  const Milliseconds spent = now - drain_began_;
  Remaining open = remaining_;  // what it is still worth waiting for
  if (orphaned_) open.reports = open.copies = open.messages = open.retained = 0;
  if (spent >= settings_.settle_timeout) open.messages = 0;
  if (spent >= settings_.farewell_timeout) open.followers = 0;
  if (open.sum() != 0 && spent < settings_.drain_timeout) return;
  phase_ = Phase::kStopped;
  outputs_.emplace_back(Exit{remaining_});
}

bool Lifecycle::ready() const {
  if (phase_ != Phase::kReady) return false;
  for (std::size_t i = 0; i < kParts; ++i) {
    if (essential(i) && !parts_[i].works) return false;
  }
  return true;
}

std::string Lifecycle::text() const {
  std::string broken;
  for (std::size_t i = 0; i < kParts; ++i) {
    if (parts_[i].works) continue;
    if (!broken.empty()) broken += "; ";
    broken += std::string(part_name(static_cast<Part>(i))) + ": " +
              (parts_[i].why.empty() ? "not yet" : parts_[i].why);
  }
  if (phase_ == Phase::kStarting) return "starting: " + broken;
  if (phase_ == Phase::kReady) {
    if (broken.empty()) return "ready";
    return (ready() ? "ready, but " : "not ready: ") + broken;
  }
  if (phase_ != Phase::kDraining) return std::string(phase_name(phase_));
  std::string left;
  for (const auto& [count, what] : {std::pair{remaining_.reports, "reports"},
                                    {remaining_.copies, "only copies of tasks"},
                                    {remaining_.messages, "peers with open messages"},
                                    {remaining_.followers, "workers to move"},
                                    {remaining_.retained, "messages to hand over"}}) {
    if (count == 0) continue;
    left += (left.empty() ? "" : ", ") + std::to_string(count) + " " + what;
  }
  return "draining" + (heard_ && !left.empty() ? ": " + left : std::string());
}

std::vector<Output> Lifecycle::take_outputs() { return std::exchange(outputs_, {}); }

}  // namespace swarm::lifecycle
