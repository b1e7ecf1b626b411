// What the coordinator's task engine is told by workers and clients: copies of tasks, claims,
// reports, submissions. Whatever it is told, what it stores and sends can be read again, as it was.
#include <array>
#include <map>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "input.h"
#include "tasks/tasks.h"

namespace swarm::tasks {
namespace {

using fuzz::Input;

constexpr std::size_t kMaxSteps = 128;
constexpr std::array kIds{"t-0-a", "t-0-b", "t-0-c", "t-1-a"};
constexpr std::array kNames{"worker-0", "worker-1", "worker-2"};

Task decoded(const std::string& bytes) {
  check(bytes.size() <= kMaxEncodedBytes, "a task is one record of the log");
  auto task = decode(bytes);
  check(task.ok() && encode(*task) == bytes, "what is stored can be read again");
  return *std::move(task);
}

TaskId task_id(Input& in) { return {kIds[in.below(kIds.size())]}; }

std::string text(Input& in, std::size_t limit) {
  switch (in.below(4)) {
    case 0:
      return {};
    case 1:
      return std::string(limit + in.below(3) - 1, 'x');
    default:
      return std::string(in.text(std::min<std::size_t>(limit + 1, 32)));
  }
}

WallTime wall_time(Input& in) {
  return static_cast<WallTime>(in.below(4) == 0 ? in.wild() : in.number<std::uint16_t>());
}

Worker worker(Input& in) {
  return {{kNames[in.below(kNames.size())]}, 1 + in.below(3), "pod", in.below(2) ? "n1" : "n2"};
}

Usage usage(std::uint64_t n) {
  Usage u;
  u.output_tokens = n;
  if (n % 3 != 0) u.cost_micro_usd = n << (n % 60);
  return u;
}

Attempt attempt(Input& in, std::uint32_t number, bool open) {
  Attempt a;
  a.number = in.below(16) == 0 ? static_cast<std::uint32_t>(in.wild()) : number;
  const Worker by = worker(in);
  a.agent = by.name;
  a.pod = by.pod;
  a.node = text(in, 253);
  a.session = by.session;
  a.version = static_cast<Version>(in.below(3));
  a.started_at = wall_time(in);
  a.ended_at = open ? 0 : wall_time(in);
  if (in.below(4) == 0) a.exit_code = in.number<std::int32_t>();
  a.charged = in.below(2) != 0;
  constexpr std::array kReasons{"", "done", "failed", "worker_lost", "lease_expired", "cancelled"};
  if (!open) a.reason = kReasons[in.below(kReasons.size())];
  for (std::size_t lines = in.below(8) == 0 ? in.below(kMaxLastLines + 2) : 0; lines > 0; --lines)
    a.last_lines.push_back(text(in, kMaxLineBytes));
  return a;
}

Task task(Input& in) {
  Task t;
  t.id = task_id(in);
  t.version = in.below(4) == 0 ? in.wild() : 1 + in.below(8);
  t.state = static_cast<TaskState>(in.below(6));
  t.key = text(in, kMaxKeyBytes);
  if (in.below(4) == 0) t.idempotency_id = in.below(2) != 0 ? "i1" : text(in, kMaxIdempotencyBytes);
  t.body = text(in, in.below(32) == 0 ? kMaxBodyBytes : 16);
  if (in.below(8) == 0) t.labels[text(in, kMaxLabelKeyBytes)] = text(in, kMaxLabelValueBytes);
  t.max_attempts = static_cast<std::uint32_t>(in.below(8) == 0 ? in.wild() : 1 + in.below(4));
  t.charged_attempts = in.number<std::uint8_t>();
  t.route = static_cast<Version>(in.below(3));
  t.created_at = wall_time(in);
  t.updated_at = wall_time(in);
  t.finished_at = is_final(t.state) ? WallTime{1} + in.number<std::uint8_t>() : 0;
  t.not_before = in.below(4) == 0 ? wall_time(in) : 0;
  const bool running = t.state == TaskState::kRunning;
  const std::size_t attempts =
      in.below(16) == 0 ? in.below(kMaxHistory + 2) : in.below(3) + (running ? 1 : 0);
  for (std::size_t i = 1; i <= attempts; ++i)
    t.history.push_back(attempt(in, static_cast<std::uint32_t>(i), running && i == attempts));
  if (in.below(16) == 0) t.history_dropped = static_cast<std::uint32_t>(in.wild());
  if (t.state == TaskState::kDone)
    t.result = TaskResult{text(in, 64), in.below(2) != 0, in.wild(), text(in, kMaxRefBytes), "c"};
  t.last_output = text(in, kMaxLineBytes);
  t.last_output_at = in.below(2) != 0 ? wall_time(in) : 0;
  t.cancel_requested = in.below(4) == 0;
  t.losses_in_a_row = static_cast<std::uint32_t>(in.below(8) == 0 ? in.wild() : in.below(12));
  t.later_in_a_row = static_cast<std::uint32_t>(in.below(8) == 0 ? in.wild() : in.below(3));
  // Of what is there: older inputs keep their meaning.
  if (t.last_output.size() % 2 != 0) t.usage = usage(t.version);
  for (Attempt& a : t.history) {
    if (a.node.size() % 2 == 0) continue;
    a.usage = usage(a.number);
    a.cli_session = a.node.substr(1);
  }
  return t;
}

Report report(Input& in) {
  Report r;
  r.id = task_id(in);
  r.attempt = static_cast<std::uint32_t>(in.below(8) == 0 ? in.wild() : in.below(6));
  r.done = in.below(2) != 0;
  r.kind = static_cast<FailKind>(in.below(7));
  if (in.below(2) != 0) r.exit_code = in.number<std::int32_t>();
  r.message = text(in, kMaxLineBytes);
  for (std::size_t lines = in.below(4) == 0 ? in.below(kMaxLastLines + 2) : 0; lines > 0; --lines)
    r.last_lines.push_back(text(in, kMaxLineBytes));
  r.result = {text(in, in.below(8) == 0 ? kMaxResultBytes : 16), in.below(2) != 0, in.wild(),
              text(in, kMaxRefBytes), text(in, kMaxRefBytes)};
  r.leased = in.below(4) != 0;
  r.taken = in.below(4) != 0;
  if (r.message.size() % 2 != 0) r.usage = usage(r.attempt);
  return r;
}

class World {
 public:
  explicit World(Input& in) : in_(in), engine_(settings(in), random, this) {
    if (in_.below(2) != 0) {
      engine_.begin_recovery(now_);
      for (std::size_t copies = in_.below(6); copies > 0; --copies) restore(in_.below(2) == 0);
    }
  }

  void step() {
    const Worker who = in_.below(2) != 0 ? worker_ : worker(in_);
    switch (in_.below(16)) {
      case 0:
        engine_.worker_joined(now_, wall_, who, running(), held());
        break;
      case 1:
        in_.below(2) == 0 ? engine_.worker_disconnected(now_, wall_, who)
                          : engine_.worker_leaving(now_, wall_, who);
        break;
      case 2:
      case 3:
        engine_.next(now_, wall_, who, in_.below(4), now_ + Milliseconds{in_.below(3) * 1000});
        break;
      case 4:
        engine_.forget_next(who, in_.below(4));
        break;
      case 5: {
        const std::string progress = text(in_, kMaxLineBytes);
        const TaskId id = known();
        (void)engine_.extend(now_, wall_, who, id, static_cast<std::uint32_t>(in_.below(6)),
                             in_.below(2) != 0 ? &progress : nullptr);
        break;
      }
      case 6:
      case 7:
      case 8: {
        const std::uint64_t request = in_.below(4);
        Report r = report(in_);
        if (in_.below(4) != 0) std::tie(r.id, r.attempt) = std::tie(latest_, attempt_);
        engine_.report(now_, wall_, who, request, std::move(r));
        break;
      }
      case 9:
        restore(false);
        break;
      case 10:
        engine_.replicated(now_, wall_, who, known(), in_.below(4) == 0 ? in_.wild() : version_);
        break;
      case 11: {
        Submission s{text(in_, 64), text(in_, kMaxKeyBytes), in_.below(2) != 0 ? "i1" : "", {}, {}};
        if (in_.below(8) == 0)
          s.labels[text(in_, kMaxLabelKeyBytes)] = text(in_, kMaxLabelValueBytes);
        engine_.submit(now_, wall_, in_.below(64), std::move(s));
        break;
      }
      case 12:
        (void)(in_.below(2) == 0 ? engine_.cancel(now_, wall_, known())
                                 : engine_.retry(now_, wall_, known()));
        break;
      case 13:
        in_.below(2) == 0 ? engine_.await_copies(in_.below(2) != 0, in_.below(2) != 0)
                          : engine_.end_recovery(now_, wall_);
        break;
      default:
        now_ += Milliseconds{in_.below(5) * 7'000};
        wall_ += static_cast<WallTime>(in_.below(5)) * 7'000;
        engine_.tick(now_, wall_);
    }
    look();
  }

 private:
  static std::uint64_t random(void* self) { return ++static_cast<World*>(self)->drawn_; }
  static Settings settings(Input& in) {
    Settings s;
    s.pod = "coordinator";
    s.node = "n1";
    s.max_queued = 8;
    s.max_bytes = 1U << 20U;
    s.require_mirror = in.below(2) != 0;
    s.v2_percentage = static_cast<int>(in.below(3) * 50);
    s.v1_command = {"v1"};
    return s;
  }

  TaskId known() { return in_.below(4) == 0 ? task_id(in_) : latest_; }
  void restore(bool own) {
    const std::string bytes = in_.below(8) == 0 ? std::string(in_.text(256)) : encode(task(in_));
    auto copy = decode(bytes);
    if (!copy) return;
    check(encode(*copy) == bytes, "a task has one form");
    engine_.restore(now_, wall_, *std::move(copy), own ? std::nullopt : std::optional(worker(in_)));
  }
  std::vector<Engine::Running> running() {
    std::vector<Engine::Running> out;
    for (std::size_t n = in_.below(3); n > 0; --n)
      out.push_back({known(), static_cast<std::uint32_t>(in_.below(6))});
    return out;
  }
  std::map<TaskId, std::uint64_t> held() {
    std::map<TaskId, std::uint64_t> out;
    for (std::size_t n = in_.below(3); n > 0; --n)
      out[known()] = in_.below(4) == 0 ? in_.wild() : version_;
    return out;
  }

  // The outputs as the shell performs them.
  void look() {
    for (const auto& output : engine_.take_outputs()) {
      if (const auto* stored = std::get_if<Store>(&output)) {
        const Task t = decoded(stored->bytes);
        check(t.id == stored->id && t.version == stored->version, "a record says what it is");
        latest_ = t.id;
        version_ = t.version;
      } else if (const auto* copy = std::get_if<Replicate>(&output)) {
        check(decoded(copy->bytes).version == copy->version, "a copy says what it is");
      } else if (const auto* lease = std::get_if<Lease>(&output)) {
        check(lease->attempt > 0, "attempts count from 1");
        worker_ = lease->worker;
        attempt_ = lease->attempt;
      }
    }
    const auto counts = engine_.counts(wall_);
    const auto all = engine_.list({}, {}, kListLimit);
    check(all.ok() && all->size() == counts.queued + counts.running + counts.done + counts.failed +
                                         counts.dead + counts.cancelled,
          "the counts are right");
    (void)engine_.next_deadline();
    const Spent spent = engine_.spent(), expired = engine_.expired();
    for (const auto member : kSpentFields)
      check(spent.*member <= kMaxSpent && expired.*member <= spent.*member,
            "what is spent is right");
  }

  Input& in_;
  std::uint64_t drawn_ = 0;
  MonoTime now_{Milliseconds{1'000'000}};
  WallTime wall_ = 1'000'000;
  TaskId latest_{"t-0-a"};  // stored last
  std::uint64_t version_ = 1;
  Worker worker_{{"worker-1"}, 1, "pod", "n2"};  // got the latest lease
  std::uint32_t attempt_ = 1;
  Engine engine_;
};

}  // namespace
}  // namespace swarm::tasks

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  swarm::fuzz::Input in(data, size);
  swarm::tasks::World world(in);
  for (std::size_t steps = 0; steps < swarm::tasks::kMaxSteps && !in.empty(); ++steps) world.step();
  return 0;
}
