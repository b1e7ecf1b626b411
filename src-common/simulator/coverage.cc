#include "simulator/coverage.h"

#include <cstdio>

namespace swarm::simulator {
namespace {

constexpr std::array<const char*, kSteps> kStepNames = {"append outbox",
                                                        "segment begun or freed",
                                                        "superblock",
                                                        "message frame sent",
                                                        "stored",
                                                        "answer sent",
                                                        "answer taken",
                                                        "handed out",
                                                        "ack recorded",
                                                        "ack frame sent",
                                                        "ack recorded, sender",
                                                        "recorded frame sent",
                                                        "marked done",
                                                        "copied forward",
                                                        "dead letter",
                                                        "redriven",
                                                        "purged",
                                                        "recovered"};
constexpr std::array<const char*, kFaults> kFaultNames = {
    "crash",   "undo",  "disk",   "lost",        "duplicated", "reordered",
    "one way", "wiped", "paused", "in recovery", "successor"};
constexpr std::array kOfLog = {Step::kSegment, Step::kSuperblock, Step::kMarkedDone, Step::kCopied,
                               Step::kRecovered};

}  // namespace

const char* name_of(Step step) { return kStepNames[static_cast<std::size_t>(step)]; }
const char* name_of(Fault fault) { return kFaultNames[static_cast<std::size_t>(fault)]; }

Steps Steps::of_log() const {
  Steps out;
  for (const Step step : kOfLog) {
    if (has(step)) out.add(step);
  }
  return out;
}

void Matrix::count(Steps steps, Fault fault) {
  for (std::size_t i = 0; i < kSteps; ++i) {
    if (steps.has(static_cast<Step>(i))) count(static_cast<Step>(i), fault);
  }
}

Matrix::Least Matrix::least() const {
  Least out{Step{}, Fault{}, met(Step{}, Fault{})};
  for (std::size_t s = 0; s < kSteps; ++s) {
    for (std::size_t f = 0; f < kFaults; ++f) {
      if (met_[s][f] < out.met) out = {static_cast<Step>(s), static_cast<Fault>(f), met_[s][f]};
    }
  }
  return out;
}

std::string Matrix::table() const {
  std::string out(23, ' ');
  char cell[32];
  for (const char* name : kFaultNames) {
    std::snprintf(cell, sizeof cell, " %10.10s", name);
    out += cell;
  }
  for (std::size_t s = 0; s < kSteps; ++s) {
    std::snprintf(cell, sizeof cell, "\n%-23s", kStepNames[s]);
    out += cell;
    for (std::size_t f = 0; f < kFaults; ++f) {
      std::snprintf(cell, sizeof cell, " %10llu", static_cast<unsigned long long>(met_[s][f]));
      out += cell;
    }
  }
  return out + "\n";
}

}  // namespace swarm::simulator
