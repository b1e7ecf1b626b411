// The Swarm custom resource as values, and its JSON codec.
//
// Purpose: one reading of apiVersion cfn.dev/v1alpha1 for the operator, the coordinators' sidecars
// and swarmctl. Threads: values; the functions are pure and may be called from anywhere. Ownership:
// everything is held by value; a pod template stays JSON text, because it is the user's own and
// passes through whole. Invariants: a Swarm returned by parse() satisfies every limit below. Fields
// that are absent have the same defaults as in the CRD schema (crds/); fields this version does not
// know are ignored. Not: a validator of pod templates (operator/plan knows which of their fields
// are reserved; the API server knows the rest).
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "os/time.h"

namespace swarm::api {

inline constexpr std::string_view kApiVersion = "cfn.dev/v1alpha1";
inline constexpr std::string_view kGroup = "cfn.dev";
inline constexpr std::string_view kVersion = "v1alpha1";
inline constexpr std::string_view kKind = "Swarm";
inline constexpr std::string_view kPlural = "swarms";

// Limits, the same as in the CRD's schema.
inline constexpr int kMaxReplicas = 2000;
inline constexpr int kMaxTeamSize = 1000;
inline constexpr int kMaxCoordinators =
    100;  // a bound on what teamSize can ask for; the planner clamps
inline constexpr std::int64_t kMinMailboxBytes = 8LL << 20;  // of the spill, too
inline constexpr std::int64_t kMaxMailboxBytes = 16LL << 30;
inline constexpr int kMaxCommandWords = 32;

enum class TopologyType { kAuto, kFlat, kHybrid };
std::string_view to_string(TopologyType type);  // "Auto", "Flat", "Hybrid"

enum class Backpressure { kBlock, kReject };
std::string_view to_string(Backpressure policy);  // "Block", "Reject"

enum class Durability { kPod, kNode };
std::string_view to_string(Durability durability);  // "Pod", "Node"

enum class Persistence { kNone, kJournal };
std::string_view to_string(Persistence type);  // "None", "Journal"

// "25%" or 3.
struct IntOrPercent {
  int value = 0;
  bool percent = false;
  friend bool operator==(const IntOrPercent&, const IntOrPercent&) = default;
};
std::string to_string(IntOrPercent value);

struct TopologySpec {
  TopologyType type = TopologyType::kAuto;
  int team_size = 1000;
};

struct CoordinatorSpec {
  std::string template_json;  // PodTemplateSpec, canonical JSON; "" when not given
};

struct WorkersSpec {
  int replicas = 1;
  int agents_per_pod = 1;
  IntOrPercent max_unavailable{10, true};
  int task_grace_seconds = 600;
  std::string template_json;  // PodTemplateSpec, canonical JSON (keys sorted)
};

struct MailboxSpec {
  std::string mount_path = "/dev/shm/cfn";
  std::int64_t size_limit_bytes = 64LL << 20;
  int max_inbox_messages = 1000;
  int max_message_bytes = 65'536;
  Backpressure backpressure = Backpressure::kBlock;
  int backpressure_timeout_seconds = 5;
  Durability durability = Durability::kPod;
  std::optional<std::int64_t> spill_bytes;  // on disk, beside the tmpfs; never with a journal
  Persistence persistence = Persistence::kNone;
  // Of the journals' claims: absent is the cluster's default class, "" only volumes without one.
  std::optional<std::string> storage_class;
};

struct TasksSpec {
  int max_attempts = 3;
  int result_retention_seconds = 86'400;
  int max_queued = 10'000;
};

enum class OnStuck { kReport, kRestart };
std::string_view to_string(OnStuck what);  // "Report", "Restart"

inline constexpr int kMaxStuckAfterSeconds = 7 * 86'400;
struct HealthSpec {
  int period_seconds = 5;
  int failure_threshold = 2;
  int stuck_after_seconds = 900;  // 0: never
  OnStuck on_stuck = OnStuck::kReport;
};

struct ShutdownSpec {
  int drain_timeout_seconds = 30;
};

// Absent budget = no limit. Less than 10^9 US dollars.
inline constexpr std::int64_t kBudgetLimitMicroUsd = 1'000'000'000'000'000;
struct BudgetSpec {
  std::int64_t micro_usd = 0;
};

// Absent rollout = all tasks on V2.
struct RolloutSpec {
  int traffic_percentage = 100;  // the ceiling; written by people only
  std::vector<std::string>
      v1_command;  // v1.inPlace.command; not empty when traffic_percentage < 100
};

struct SwarmSpec {
  bool suspend = false;
  TopologySpec topology;
  CoordinatorSpec coordinator;
  WorkersSpec workers;
  MailboxSpec mailbox;
  TasksSpec tasks;
  HealthSpec health;
  ShutdownSpec shutdown;
  std::optional<BudgetSpec> budget;
  std::optional<RolloutSpec> rollout;
};

// What the coordinators apply: traffic_percentage, 100 without a rollout.
inline int ceiling(const SwarmSpec& spec) {
  return spec.rollout ? spec.rollout->traffic_percentage : 100;
}

struct Condition {
  std::string type;
  std::string status;  // "True", "False", "Unknown"
  std::string reason;  // never empty
  std::string message;
  std::int64_t observed_generation = 0;
  WallTime last_transition = 0;  // whole seconds
  friend bool operator==(const Condition&, const Condition&) = default;
};

struct TopologyStatus {
  std::string type;  // "Flat" or "Hybrid": resolved, never Auto
  int coordinators = 0;
  std::string reason;
  friend bool operator==(const TopologyStatus&, const TopologyStatus&) = default;
};

struct AgentsStatus {
  int desired = 0;
  int ready = 0;
  int busy = 0;
  int stuck = 0;
  std::string summary;  // "17/20"
  friend bool operator==(const AgentsStatus&, const AgentsStatus&) = default;
};

struct WorkersStatus {
  int replicas = 0;  // live pods (not terminating, not ended): what /scale reports
  int ready_replicas = 0;
  int updated_replicas = 0;
  std::string selector;
  friend bool operator==(const WorkersStatus&, const WorkersStatus&) = default;
};

struct TasksStatus {
  std::int64_t queued = 0, running = 0, done = 0, dead = 0;
  std::int64_t oldest_queued_seconds = 0;
  WallTime backing_off_until = 0;  // 0: it does not wait
  friend bool operator==(const TasksStatus&, const TasksStatus&) = default;
};

struct MailboxStatus {
  std::int64_t single_copy_messages = 0;  // one pod alone holds them: its loss would be theirs
  std::int64_t dead_letters = 0;
  friend bool operator==(const MailboxStatus&, const MailboxStatus&) = default;
};

// What tasks have cost together; only grows. Tokens as in docs/task-api.md, input without what came
// from a cache.
struct UsageCounts {
  std::int64_t input_tokens = 0, output_tokens = 0, cache_read_tokens = 0,
               cache_creation_tokens = 0;
  std::int64_t cost_micro_usd = 0;
  std::int64_t tasks = 0, priced_tasks = 0;  // of which a usage, a cost is known
  friend bool operator==(const UsageCounts&, const UsageCounts&) = default;
};
inline constexpr std::int64_t kMaxSpent = (1LL << 53) - 1;    // of each: what JSON carries exactly
UsageCounts sum(const UsageCounts& a, const UsageCounts& b);  // at most kMaxSpent
UsageCounts highest(const UsageCounts& a, const UsageCounts& b);  // of each count

struct RolloutStatus {
  int ceiling = 0;
  int effective = 0;
  int measured = 0;
  std::string active_version;  // "V1", "V2", "Both"
  std::string summary;         // "50%", or "0%(50%)" when effective is below the ceiling
  friend bool operator==(const RolloutStatus&, const RolloutStatus&) = default;
};

struct SwarmStatus {
  std::int64_t observed_generation = 0;
  TopologyStatus topology;
  AgentsStatus agents;
  WorkersStatus workers;
  TasksStatus tasks;
  MailboxStatus mailbox;
  UsageCounts usage;
  RolloutStatus rollout;
  std::string revision;       // of both templates; a change of it is what moves sidecar_image
  std::string sidecar_image;  // the image of every sidecar made at this revision
  std::vector<Condition> conditions;
  friend bool operator==(const SwarmStatus&, const SwarmStatus&) = default;
};

struct Swarm {
  std::string name;
  std::string namespace_name;
  std::string uid;
  std::int64_t generation = 0;
  std::string resource_version;
  std::optional<WallTime> deletion_time;
  WallTime creation_time = 0;
  std::map<std::string, std::string> annotations;
  SwarmSpec spec;
  SwarmStatus status;  // as last written; empty fields on a new Swarm
};

// The whole object. On failure Code::kInvalid and every error at once, one a line, each as
// "spec.workers.replicas: is -1; allowed: 0 to 2000".
Result<Swarm> parse(const nlohmann::json& object);
Result<Swarm> parse_text(std::string_view text);  // also refuses text that is not JSON

// Metadata and status only, spec left at its defaults: for reporting about a spec that parse()
// refused.
Result<Swarm> parse_metadata(const nlohmann::json& object);

// Spec alone, as `swarmctl plan` and the local mode need it; same errors as parse().
Result<SwarmSpec> parse_spec(const nlohmann::json& spec);

// The value of the Swarm's .status; every field is present, so a merge patch with it replaces them
// all.
nlohmann::json to_json(const SwarmStatus& status);
SwarmStatus parse_status(const nlohmann::json& status);  // foreign or missing parts are left empty

// ---- The report of a team: annotation cfn.dev/report of its Lease (docs/pod-layout.md).

inline constexpr std::string_view kEpochAnnotation = "cfn.dev/epoch";
inline constexpr std::string_view kHolderUidAnnotation = "cfn.dev/holder-uid";
inline constexpr std::string_view kReportAnnotation = "cfn.dev/report";
inline constexpr std::size_t kMaxReportBytes =
    200'000;  // annotations of one object: 256 KiB in all
inline constexpr std::size_t kMaxReportWorkers = 2000;
inline constexpr std::size_t kMaxReportPressed = 16;
inline constexpr std::size_t kMaxPressedBytes = 200;  // bytes of the reason of each
inline constexpr std::size_t kMaxReportStuck = 16;    // the stuck attempts that are named
inline constexpr std::size_t kMaxStuckBytes = 200;    // bytes of what each waits for

struct TaskCounts {
  std::int64_t queued = 0, running = 0, done = 0, dead = 0, cancelled = 0;
  std::int64_t oldest_queued_seconds = 0;
  std::int64_t single_copy = 0;
  WallTime backing_off_until = 0;  // 0: it does not wait
  std::int64_t try_later_in_a_row = 0;
  std::int64_t waiting = 0;  // of the running ones: for other tasks
  std::int64_t starved = 0;  // of these, where nobody is left for what they wait for
  friend bool operator==(const TaskCounts&, const TaskCounts&) = default;
};

struct WorkerReport {
  std::string pod;
  bool busy = false;
  std::string task;  // "" when idle
  std::string
      address;  // of its pod: a replaced coordinator announces itself there; "" in older reports
  friend bool operator==(const WorkerReport&, const WorkerReport&) = default;
};

// A pod that may hold copies of tasks and is not among the workers: it has not come to this
// coordinator yet, or another pod has its name already.
struct AwaitedPod {
  std::string name, pod, address;
  friend bool operator==(const AwaitedPod&, const AwaitedPod&) = default;
};

// An attempt whose agent has given no sign of life for longer than spec.health.stuckAfterSeconds.
struct StuckReport {
  std::string agent, task;
  WallTime since = 0;  // whole seconds
  std::string why;     // "" when nothing is known
  friend bool operator==(const StuckReport&, const StuckReport&) = default;
};

struct TeamReport {
  WallTime time = 0;
  std::uint64_t epoch = 0;
  bool ready = false;
  bool recovering = false;
  std::optional<bool> suspended;  // hands out nothing as the spec asks; unknown: an older build
  TaskCounts tasks;
  std::map<std::string, WorkerReport> workers;  // by slot
  std::vector<AwaitedPod> awaited;
  int effective = 0;
  std::int64_t v1 = 0, v2 = 0;
  int measured = 0;
  std::int64_t dead_letters = 0;
  std::int64_t single_copy_messages = 0;          // in the coordinator's own pod
  std::int64_t workers_single_copy_messages = 0;  // in its workers'
  std::map<std::string, std::string> pressed;     // pods that refuse mail for lack of room, and why
  std::int64_t stuck = 0;
  std::vector<StuckReport> stuck_named;  // of these, those for longest
  UsageCounts usage;                     // of all tasks that this team has had
  UsageCounts expired_usage;             // of those that were erased
  friend bool operator==(const TeamReport&, const TeamReport&) = default;
};

// Strict about types and limits (the annotation is outside input), tolerant of fields it does not
// know.
Result<TeamReport> parse_report(std::string_view text);
std::string to_text(const TeamReport& report);  // one line of JSON

// ---- Text forms shared by the above.

// Kubernetes quantities that are whole numbers of bytes: "64Mi", "1G", "65536", "1.5Gi", "1e6".
Result<std::int64_t> parse_quantity(std::string_view text);
std::string format_bytes(std::int64_t bytes);  // "64Mi", the shortest exact binary form

// US dollars as decimal text with at most six decimals, "200", "12.34"; less than 10^9.
// kInvalid: anything else.
Result<std::int64_t> parse_usd(std::string_view text);  // in millionths
std::string format_usd(std::int64_t micro);             // exact, with two to six decimals

// RFC 3339 in UTC: "2026-01-02T03:04:05Z"; parsing accepts fractions (cut to milliseconds) and
// offsets.
std::string format_time(WallTime time);
std::optional<WallTime> parse_time(std::string_view text);

}  // namespace swarm::api
