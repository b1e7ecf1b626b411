#include "lifecycle/lifecycle.h"

#include <algorithm>
#include <utility>

namespace swarm::lifecycle {
namespace {

// A link that breaks after the first time does not take the pod out of the Services: its mailbox
// works without the coordinator, and a coordinator's replacement must not make a whole swarm
// unready. Coordinators' own readiness is the shell's choice: it says kHttp does not work while
// there is no epoch to serve tasks under.
bool essential_when_ready(Part part) { return part != Part::kLink; }

std::string cut(std::string_view text) {
  std::size_t end = std::min(text.size(), Lifecycle::kMaxWhyBytes);
  while (end < text.size() && end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U)
    --end;
  return std::string(text.substr(0, end));
}

}  // namespace

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
    case Part::kLog:
      return "log";
    case Part::kSocket:
      return "socket";
    case Part::kHttp:
      return "http";
    case Part::kLink:
      return "link";
  }
  return "link";
}

bool Lifecycle::all_work() const {
  return std::all_of(parts_.begin(), parts_.end(), [](const State& s) { return s.works; });
}

void Lifecycle::part(MonoTime /*now*/, Part part, bool works, std::string_view why) {
  State& state = parts_[static_cast<std::size_t>(part)];
  state.works = works;
  state.why = works ? std::string() : cut(why);
  if (phase_ == Phase::kStarting && all_work()) phase_ = Phase::kReady;
}

void Lifecycle::begin_leaving() {
  phase_ = Phase::kLeaving;
  outputs_.emplace_back(RefuseTasks{});
  outputs_.emplace_back(TellCoordinatorLeaving{});
}

void Lifecycle::leaving(MonoTime /*now*/) {
  if (phase_ == Phase::kStarting || phase_ == Phase::kReady) begin_leaving();
}

void Lifecycle::terminate(MonoTime now) {
  if (phase_ == Phase::kDraining || phase_ == Phase::kStopped) return;
  if (phase_ != Phase::kLeaving)
    begin_leaving();  // no preStop ran: a plain kill, or a restart of the container
  phase_ = Phase::kDraining;
  deadline_ = now + settings_.drain_timeout;
  last_message_ = std::min(deadline_, now + settings_.last_messages);
  told_deadline_ = std::min(deadline_, now + settings_.told_timeout);
  outputs_.emplace_back(ReturnLeases{});
  outputs_.emplace_back(FlushOutbox{});
  advance_drain(now);
}

void Lifecycle::told(MonoTime now) {
  told_ = true;
  advance_drain(now);
}

void Lifecycle::remaining(MonoTime now, const Remaining& remaining) {
  remaining_ = remaining;
  // What was said before SIGTERM is not an answer to ReturnLeases and FlushOutbox.
  heard_remaining_ = phase_ == Phase::kDraining;
  advance_drain(now);
}

void Lifecycle::failed(MonoTime /*now*/, std::string_view why) {
  if (phase_ == Phase::kStopped) return;
  failed_ = true;
  why_failed_ = cut(why);
  stop(Exit{1, false, remaining_});
}

void Lifecycle::advance_drain(MonoTime now) {
  if (phase_ != Phase::kDraining) return;
  if (now >= last_message_) refuse_messages();
  if (now >= deadline_) return stop(Exit{0, remaining_.sum() != 0, remaining_});
  if (!heard_remaining_ || remaining_.sum() != 0) return;
  if (told_ || now >= told_deadline_) stop(Exit{0, false, {}});
}

void Lifecycle::refuse_messages() {
  if (std::exchange(refuses_messages_, true)) return;
  outputs_.emplace_back(RefuseMessages{});
}

void Lifecycle::stop(Exit exit) {
  if (phase_ == Phase::kDraining) refuse_messages();
  phase_ = Phase::kStopped;
  outputs_.emplace_back(exit);
}

void Lifecycle::tick(MonoTime now) { advance_drain(now); }

std::optional<MonoTime> Lifecycle::next_deadline() const {
  if (phase_ != Phase::kDraining) return std::nullopt;
  if (!refuses_messages_) return last_message_;
  // With nothing left it is the coordinator's word that is missing.
  return heard_remaining_ && remaining_.sum() == 0 ? told_deadline_ : deadline_;
}

bool Lifecycle::ready() const {
  if (phase_ != Phase::kReady) return false;
  for (std::size_t i = 0; i < kParts; ++i) {
    if (essential_when_ready(static_cast<Part>(i)) && !parts_[i].works) return false;
  }
  return true;
}

std::string Lifecycle::text() const {
  if (failed_) return "failed: " + why_failed_;
  std::string broken;
  for (std::size_t i = 0; i < kParts; ++i) {
    if (parts_[i].works) continue;
    if (!broken.empty()) broken += "; ";
    broken += std::string(part_name(static_cast<Part>(i))) + ": " +
              (parts_[i].why.empty() ? "not yet" : parts_[i].why);
  }
  switch (phase_) {
    case Phase::kStarting:
      return "starting: waits for " + broken;
    case Phase::kReady:
      if (broken.empty()) return "ready";
      return (ready() ? "ready, but " : "not ready: ") + broken;
    case Phase::kLeaving:
      return std::string("leaving: no new tasks; ") +
             (told_ ? "the coordinator knows" : "the coordinator has not confirmed yet");
    case Phase::kDraining: {
      if (heard_remaining_ && remaining_.sum() == 0)
        return "draining: waits for the coordinator's confirmation";
      std::string left;
      for (const auto& [count, what] : {std::pair{remaining_.leases, "leases"},
                                        {remaining_.reports, "reports"},
                                        {remaining_.outgoing, "outgoing messages"},
                                        {remaining_.held, "held messages"},
                                        {remaining_.copies, "task copies"}}) {
        if (count == 0) continue;
        left += (left.empty() ? "" : ", ") + std::to_string(count) + " " + what;
      }
      return "draining: " + (left.empty() ? std::string("counting what is left") : left + " left");
    }
    case Phase::kStopped:
      return "stopped";
  }
  return "stopped";
}

std::vector<Output> Lifecycle::take_outputs() { return std::exchange(outputs_, {}); }

}  // namespace swarm::lifecycle
