// The life of a pod's sidecar as a state machine without clock, I/O or threads.
//
//   Starting ──▶ Ready ──▶ Leaving ──▶ Draining ──▶ Stopped
//
// Starting: until every part has worked once. Leaving: the exec preStop has run; agents of the pod
// are at work and get their SIGTERM now. Draining: SIGTERM; they have gone. What is left is handed
// over, drain_timeout at most; then the process exits. Nothing ever goes back, except that Ready
// shows "not ready" while something essential is broken.
//
// Inputs are calls. Consequences come out of take_outputs(), each exactly once, in order; the shell
// performs them. While it drains, the shell tells what is left (Remaining) at every change or every
// tick.
//
// /readyz is ready() as 200 or 503 with text() as body. Liveness is not decided here: a kubelet
// that restarted a draining sidecar would lose what it is about to hand over.
//
// Threads: none, one owner. Ownership: owns its settings only.
// It is not: the supervisor (another process), nor a judge of how bytes are flushed.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "os/time.h"

namespace swarm::lifecycle {

enum class Phase : std::uint8_t { kStarting, kReady, kLeaving, kDraining, kStopped };
std::string_view phase_name(Phase phase);

// What has to work. kTeam: a worker is joined to its coordinator, a coordinator holds its team's
// Lease. kQueue: a coordinator has collected its tasks; a worker has none.
enum class Part : std::uint8_t { kMailbox, kTeam, kQueue };
inline constexpr std::size_t kParts = 3;
std::string_view part_name(Part part);

struct Settings {
  bool coordinator = false;  // then the team is essential for readiness even after the first time
  Milliseconds drain_timeout{30'000};    // from SIGTERM to exit, all of it
  Milliseconds settle_timeout{3'000};    // of it, for messages that have no safe place yet
  Milliseconds farewell_timeout{2'000};  // of it, for workers that look for our successor
};

// What a drain waits for.
struct Remaining {
  std::uint64_t reports = 0;  // of tasks, not confirmed by the coordinator
  std::uint64_t copies = 0;   // tasks that no other pod holds
  std::uint64_t messages =
      0;  // peers that have not confirmed what was sent to or acknowledged for them
  std::uint64_t followers = 0;  // workers still linked to this coordinator
  std::uint64_t retained = 0;   // messages that a successor, of this pod or of one that has sent
                                // them here, has still to take
  [[nodiscard]] std::uint64_t sum() const {
    return reports + copies + messages + followers + retained;
  }
  friend bool operator==(const Remaining&, const Remaining&) = default;
};

// ---- outputs
struct Leave {};  // tell the team; no task is given to this pod's agents any more
struct Drain {};  // their leases go back as released, no message is taken any more
struct Exit {     // something may be left: it is counted, not hidden
  Remaining dropped;
};
using Output = std::variant<Leave, Drain, Exit>;

class Lifecycle {
 public:
  explicit Lifecycle(Settings settings) : settings_(settings) {}

  // `why` is for people: "waiting for coordinator-0".
  void part(Part part, bool works, std::string_view why);
  void leaving();                // preStop; repeatable
  void terminate(MonoTime now);  // SIGTERM; repeatable, the first one counts
  // The Swarm is deleted: nobody will take what is left, only followers are waited for.
  void orphaned(MonoTime now);
  void remaining(MonoTime now, const Remaining& remaining);

  [[nodiscard]] Phase phase() const { return phase_; }
  [[nodiscard]] bool is_orphaned() const { return orphaned_; }
  [[nodiscard]] bool ready() const;
  // One line: "ready", or what it waits for and why.
  [[nodiscard]] std::string text() const;

  std::vector<Output> take_outputs();

 private:
  struct State {
    bool works = false;
    std::string why;
  };
  [[nodiscard]] bool essential(std::size_t part) const;
  void advance(MonoTime now);

  Settings settings_;
  Phase phase_ = Phase::kStarting;
  std::array<State, kParts> parts_{};
  bool orphaned_ = false;
  bool heard_ = false;  // Remaining, since SIGTERM
  Remaining remaining_;
  MonoTime drain_began_{};
  std::vector<Output> outputs_;
};

}  // namespace swarm::lifecycle
