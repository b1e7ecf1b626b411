// The life of a pod's sidecar as a state machine without clock, I/O or threads.
//
//   Starting ──▶ Ready ──▶ Leaving ──▶ Draining ──▶ Stopped
//
// Starting: until log, socket, HTTP and (once) the link to the team work. Leaving: the exec preStop
// has run; agents of the pod are at work and get their SIGTERM now. Draining: SIGTERM; they have
// gone. What is left is returned and flushed, drain_timeout at most; then the process exits. Every
// phase may go straight to Draining; nothing ever goes back, except that Ready shows "not ready"
// while something essential is broken.
//
// Inputs are calls. Consequences come out of take_outputs(), each exactly once, in order; the shell
// performs them. What the shell knows (are all leases returned, is the outbox empty) it tells as
// Remaining, on every change.
//
// /readyz is ready() as 200 or 503 with text() as body; /healthz is alive(). Liveness stays true
// while draining: a kubelet that restarted a draining sidecar would lose what it is about to hand
// over.
//
// Threads: none, one owner. Ownership: owns its settings only.
// It is not: the supervisor (another process), nor a judge of how bytes are flushed.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "os/time.h"

namespace swarm::lifecycle {

enum class Phase : std::uint8_t { kStarting, kReady, kLeaving, kDraining, kStopped };
std::string_view phase_name(Phase phase);

// What has to work. kLink: a worker is joined to its coordinator, a coordinator holds its team's
// epoch and is not recovering.
enum class Part : std::uint8_t { kLog, kSocket, kHttp, kLink };
inline constexpr std::size_t kParts = 4;
std::string_view part_name(Part part);

struct Settings {
  Milliseconds drain_timeout{30000};  // from SIGTERM to exit, all of it
  Milliseconds last_messages{
      1000};  // from SIGTERM on, messages that were on their way are still taken
  Milliseconds told_timeout{2000};  // how long a drain waits for the coordinator to confirm
                                    // `leaving`, when nothing else is left
};

// What the drain waits for.
struct Remaining {
  std::uint64_t leases = 0;    // tasks that agents of this pod have not ended or returned
  std::uint64_t reports = 0;   // of tasks, not confirmed by the coordinator
  std::uint64_t outgoing = 0;  // messages accepted from agents, not stored by their receiver
  std::uint64_t held = 0;      // unread or retained messages not yet handed to custody
  std::uint64_t copies = 0;    // task copies held for the coordinator, not yet elsewhere
  [[nodiscard]] std::uint64_t sum() const { return leases + reports + outgoing + held + copies; }
  friend bool operator==(const Remaining&, const Remaining&) = default;
};

// ---- outputs
struct TellCoordinatorLeaving {
};                       // repeated by the shell on every new link, until told() is called
struct RefuseTasks {};   // task_next answers `refused`, draining
struct ReturnLeases {};  // report what agents have not ended as released; their agents are gone
struct RefuseMessages {
};                      // after last_messages: no new ones, neither from other pods nor from agents
struct FlushOutbox {};  // send now, whatever the pace was
struct Exit {           // code 0 also when something is left: it is counted, not hidden
  int code = 0;
  bool timed_out = false;
  Remaining dropped;  // becomes the Event DrainTimedOut, if any
};
using Output = std::variant<TellCoordinatorLeaving, RefuseTasks, ReturnLeases, RefuseMessages,
                            FlushOutbox, Exit>;

class Lifecycle {
 public:
  explicit Lifecycle(Settings settings) : settings_(settings) {}

  // `why` is for people: "no coordinator answers at S-link:7070". At most kMaxWhyBytes of it are
  // kept.
  void part(MonoTime now, Part part, bool works, std::string_view why);
  void leaving(MonoTime now);    // preStop; repeatable
  void terminate(MonoTime now);  // SIGTERM; repeatable, the first one counts
  void told(MonoTime now);       // the coordinator knows that we leave
  void remaining(MonoTime now, const Remaining& remaining);
  // The log or another thing that nothing works without has failed for good: alive() becomes false,
  // Exit{1} at once.
  void failed(MonoTime now, std::string_view why);
  void tick(MonoTime now);
  [[nodiscard]] std::optional<MonoTime> next_deadline() const;

  [[nodiscard]] Phase phase() const { return phase_; }
  [[nodiscard]] bool ready() const;
  [[nodiscard]] bool alive() const { return !failed_; }
  [[nodiscard]] bool takes_tasks() const { return phase_ == Phase::kReady; }
  [[nodiscard]] bool takes_messages() const {
    return phase_ == Phase::kReady || phase_ == Phase::kLeaving ||
           (phase_ == Phase::kDraining && !refuses_messages_);
  }
  // One line: "ready", or what it waits for and why.
  [[nodiscard]] std::string text() const;

  std::vector<Output> take_outputs();

  static constexpr std::size_t kMaxWhyBytes = 200;

 private:
  struct State {
    bool works = false;
    std::string why;
  };
  [[nodiscard]] bool all_work() const;
  void begin_leaving();
  void advance_drain(MonoTime now);
  void refuse_messages();
  void stop(Exit exit);

  Settings settings_;
  Phase phase_ = Phase::kStarting;
  std::array<State, kParts> parts_{};
  bool told_ = false;
  bool failed_ = false;
  bool refuses_messages_ = false;
  bool heard_remaining_ = false;  // since SIGTERM
  std::string why_failed_;
  Remaining remaining_;
  MonoTime deadline_{}, last_message_{}, told_deadline_{};
  std::vector<Output> outputs_;
};

}  // namespace swarm::lifecycle
