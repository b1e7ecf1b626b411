// One rule of the engine at a time.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/encoding.h"
#include "tasks/tasks.h"

namespace swarm::tasks {
namespace {

using std::chrono::seconds;

Worker worker(int n, std::uint64_t session = 1, const std::string& node = "n1") {
  return Worker{AgentName{"worker-" + std::to_string(n)}, session,
                "p" + std::to_string(n) + "-" + std::to_string(session), node};
}

// The engine with its shell: performs nothing by itself, remembers everything.
struct Desk {
  explicit Desk(Settings s = defaults()) : settings(s) { renew(); }
  static Settings defaults() {
    Settings s;
    s.node = "n0";
    s.pod = "c0";
    return s;
  }
  void renew() {
    engine = std::make_unique<Engine>(
        settings,
        [](void* context) {
          auto& state = *static_cast<std::uint64_t*>(context);
          state = state * 6364136223846793005ULL + 1442695040888963407ULL;
          return state ^ (state >> 29U);
        },
        &random);
  }
  WallTime wall() const { return 1'700'000'000'000 + now.time_since_epoch().count(); }

  std::vector<Output> take() { return engine->take_outputs(); }
  // Only those of type T.
  template <typename T>
  std::vector<T> take_all() {
    std::vector<T> found;
    for (Output& o : take()) {
      if (auto* r = std::get_if<Replicate>(&o); r != nullptr && !std::is_same_v<T, Replicate>)
        later.push_back(*r);
      if (auto* t = std::get_if<T>(&o)) found.push_back(std::move(*t));
    }
    return found;
  }
  // Confirms every Replicate until there are none; gives back all outputs.
  std::vector<Output> settle() {
    std::vector<Output> all;
    for (const Replicate& r : std::exchange(later, {}))
      engine->replicated(now, wall(), r.mirror, r.id, r.version);
    for (int i = 0; i < 100; ++i) {
      std::vector<Output> batch = take();
      if (batch.empty()) break;
      for (Output& o : batch) {
        if (auto* r = std::get_if<Replicate>(&o))
          engine->replicated(now, wall(), r->mirror, r->id, r->version);
        if (auto* s = std::get_if<Store>(&o)) log[s->id] = *decode(s->bytes);
        all.push_back(std::move(o));
      }
    }
    return all;
  }
  template <typename T>
  static std::vector<T> only(const std::vector<Output>& outputs) {
    std::vector<T> found;
    for (const Output& o : outputs) {
      if (const auto* t = std::get_if<T>(&o)) found.push_back(*t);
    }
    return found;
  }
  void join(const Worker& w) { engine->worker_joined(now, wall(), w, {}, {}); }
  TaskId submit(Submission s = {"body", "", "", {}, {}}) {
    engine->submit(now, wall(), ++tickets, std::move(s));
    const auto answers = only<Submitted>(settle());
    EXPECT_EQ(answers.size(), 1U);
    EXPECT_TRUE(!answers.empty() && answers[0].result.ok());
    return answers.empty() || !answers[0].result.ok() ? TaskId{} : *answers[0].result;
  }
  std::optional<Lease> lease(const Worker& w) {
    engine->next(now, wall(), w, ++requests, now);
    const auto leases = only<Lease>(settle());
    return leases.empty() ? std::nullopt : std::optional(leases[0]);
  }
  Status report(const Worker& w, const TaskId& id, std::uint32_t attempt,
                std::optional<FailKind> failed = {}, Usage usage = {}) {
    Report r;
    r.usage = usage;
    r.id = id;
    r.attempt = attempt;
    r.done = !failed;
    if (failed) r.kind = *failed;
    r.result.bytes = failed ? "" : "result";
    engine->report(now, wall(), w, ++requests, r);
    const auto answers = only<Reported>(settle());
    EXPECT_EQ(answers.size(), 1U);
    return answers.empty() ? Status(internal_error("no answer")) : answers[0].status;
  }
  void pass(Milliseconds t) {
    now += t;
    engine->tick(now, wall());
  }
  const Task& task(const TaskId& id) { return **engine->find(id); }
  TaskState state(const TaskId& id) { return task(id).state; }

  Settings settings;
  std::uint64_t random = 1;
  MonoTime now{seconds(100)};
  std::unique_ptr<Engine> engine;
  std::uint64_t tickets = 0, requests = 0;
  std::map<TaskId, Task> log;
  std::vector<Replicate> later;  // unconfirmed ones that take_all() of something else came across
};

std::vector<AgentName> names(std::initializer_list<int> numbers) {
  std::vector<AgentName> n;
  for (int i : numbers) n.push_back(worker(i).name);
  return n;
}

// ---- acceptance

TEST(Submit, IsAnsweredAfterStoreAndConfirmation) {
  Desk d;
  d.join(worker(1));
  d.take();
  d.engine->submit(d.now, d.wall(), 7, {"b", "k", "", {{"a", "b"}}, 2});
  auto out = d.take();
  ASSERT_EQ(out.size(), 2U);
  const Store store = std::get<Store>(out[0]);
  const Replicate copy = std::get<Replicate>(out[1]);
  EXPECT_EQ(copy.mirror, worker(1));
  EXPECT_EQ(copy.bytes, store.bytes);
  EXPECT_EQ(d.engine->find(store.id).ok(), false);
  EXPECT_TRUE(d.engine->list({}, {}, 10)->empty());
  d.engine->replicated(d.now, d.wall(), worker(1), copy.id, copy.version);
  out = d.take();
  const Submitted answer = std::get<Submitted>(out[0]);
  EXPECT_EQ(answer.ticket, 7U);
  EXPECT_EQ(*answer.result, copy.id);
  EXPECT_EQ(answer.survives, "node");
  EXPECT_EQ(answer.mirrors, names({1}));
  EXPECT_FALSE(answer.duplicate);
  EXPECT_EQ(d.task(copy.id).max_attempts, 2U);
  EXPECT_TRUE(is_task_id(copy.id.value));
}

TEST(Submit, AConfirmationOfSomebodyOrSomethingElseDoesNotCount) {
  Desk d;
  d.join(worker(1));
  d.join(worker(2));
  d.engine->submit(d.now, d.wall(), 1, {"b", "", "", {}, {}});
  const Replicate copy = d.take_all<Replicate>().at(0);
  const Worker other = copy.mirror == worker(1) ? worker(2) : worker(1);
  d.engine->replicated(d.now, d.wall(), other, copy.id, copy.version);
  d.engine->replicated(d.now, d.wall(), worker(copy.mirror.name == worker(1).name ? 1 : 2, 2),
                       copy.id, copy.version);
  d.engine->replicated(d.now, d.wall(), copy.mirror, TaskId{"t-0-zzz"}, 1);
  d.engine->replicated(d.now, d.wall(), copy.mirror, copy.id, copy.version + 1);
  EXPECT_TRUE(d.take_all<Submitted>().empty());
}

TEST(Submit, WithoutAMirrorIsUnavailableAndForgotten) {
  Desk d;
  d.engine->submit(d.now, d.wall(), 1, {"b", "", "id", {}, {}});
  const TaskId id = d.take_all<Store>().at(0).id;
  d.pass(d.settings.mirror_timeout - Milliseconds(1));
  EXPECT_TRUE(d.take_all<Submitted>().empty());
  d.pass(Milliseconds(1));
  const auto out = d.take();
  EXPECT_EQ(Desk::only<Erase>(out).at(0).id, id);
  const auto answers = Desk::only<Submitted>(out);
  EXPECT_EQ(answers.at(0).result.error().code, Code::kUnavailable);
  EXPECT_NE(answers.at(0).result.error().message.find("workers to 1 or more"), std::string::npos);
  EXPECT_EQ(d.engine->find(id).error().code, Code::kNotFound);
  EXPECT_EQ(d.engine->next_deadline(), std::nullopt);
  // Its mirror, when it comes back with a copy, is told to forget it.
  d.engine->worker_joined(d.now, d.wall(), worker(1), {}, {{id, 1}});
  EXPECT_EQ(d.take_all<Forget>().at(0).id, id);
}

TEST(Submit, WhatAMirrorMayHoldIsNotSaidToBeRefused) {
  Desk d;
  d.join(worker(1));
  d.take();
  d.engine->submit(d.now, d.wall(), 1, {"b", "", "order-1", {}, {}});
  const Replicate sent = d.take_all<Replicate>().at(0);
  d.engine->worker_disconnected(d.now, d.wall(), worker(1));  // it has stored the copy
  d.pass(d.settings.mirror_timeout);
  EXPECT_EQ(d.take_all<Submitted>().at(0).result.error().code, Code::kUnknown);
  d.renew();
  d.engine->begin_recovery(d.now);
  d.engine->end_recovery(d.now, d.wall());
  ASSERT_TRUE(d.engine->wants(sent.id, sent.version));
  d.engine->restore(d.now, d.wall(), *decode(sent.bytes), worker(1));
  d.engine->worker_joined(d.now, d.wall(), worker(1), {}, {{sent.id, sent.version}});
  EXPECT_EQ(d.submit({"b", "", "order-1", {}, {}}), sent.id);
}

TEST(Submit, OfATaskThatIsThereAlreadyIsNotSaidToBeRefused) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit({"b", "", "order-1", {}, {}});
  d.engine->worker_disconnected(d.now, d.wall(), worker(1));
  d.pass(d.settings.worker_lost_after);
  d.take();
  d.engine->submit(d.now, d.wall(), 9, {"b", "", "order-1", {}, {}});
  d.pass(d.settings.mirror_timeout);
  EXPECT_EQ(d.take_all<Submitted>().at(0).result.error().code, Code::kUnknown);
  EXPECT_EQ(d.state(id), TaskState::kQueued);
}

TEST(Submit, AMirrorThatDoesNotAnswerIsReplacedInTime) {
  Desk d;
  d.join(worker(1));
  d.join(worker(2));
  d.engine->submit(d.now, d.wall(), 1, {"b", "", "", {}, {}});
  const Replicate first = d.take_all<Replicate>().at(0);
  d.pass(d.settings.mirror_timeout / 3 + Milliseconds(1));
  const Replicate second = d.take_all<Replicate>().at(0);
  EXPECT_NE(second.mirror, first.mirror);
  d.engine->replicated(d.now, d.wall(), second.mirror, second.id, second.version);
  EXPECT_EQ(d.take_all<Submitted>().size(), 1U);
  d.engine->replicated(d.now, d.wall(), first.mirror, first.id,
                       first.version);  // late: one copy is enough
  EXPECT_EQ(d.take_all<Forget>().at(0).mirror, first.mirror);
  EXPECT_EQ(d.engine->mirrors_of(first.id), std::vector{second.mirror.name});
}

TEST(Submit, WithoutRequiredMirrorIsAcceptedAtOnce) {
  Settings s = Desk::defaults();
  s.require_mirror = false;
  Desk d(s);
  d.engine->submit(d.now, d.wall(), 1, {"b", "", "", {}, {}});
  const Submitted answer = d.take_all<Submitted>().at(0);
  EXPECT_EQ(answer.survives, "container");
  EXPECT_EQ(d.engine->counts(d.wall()).single_copy, 1U);
  d.join(worker(1));
  d.settle();
  EXPECT_EQ(d.engine->counts(d.wall()).single_copy, 0U);
}

TEST(Submit, BadOnesAreRefusedWithTheReason) {
  Desk d;
  d.join(worker(1));
  const auto refused = [&](Submission s) {
    d.engine->submit(d.now, d.wall(), 1, std::move(s));
    const auto out = d.take();
    return out.size() == 1 && !std::get<Submitted>(out[0]).result.ok() &&
           std::get<Submitted>(out[0]).result.error().code == Code::kInvalid;
  };
  std::map<std::string, std::string> many;
  for (std::size_t i = 0; i <= kMaxLabels; ++i) many["l" + std::to_string(i)] = "";
  EXPECT_TRUE(refused({std::string(kMaxBodyBytes + 1, 'b'), "", "", {}, {}}));
  EXPECT_TRUE(refused({"b", std::string(kMaxKeyBytes + 1, 'k'), "", {}, {}}));
  EXPECT_TRUE(refused({"b", "a\nb", "", {}, {}}));
  EXPECT_TRUE(refused({"b", "\xff", "", {}, {}}));
  EXPECT_TRUE(refused({"b", "", "a b", {}, {}}));
  EXPECT_TRUE(refused({"b", "", std::string(129, 'i'), {}, {}}));
  EXPECT_TRUE(refused({"b", "", "", many, {}}));
  EXPECT_TRUE(refused({"b", "", "", {{"", "v"}}, {}}));
  EXPECT_TRUE(refused({"b", "", "", {{std::string(64, 'n'), "v"}}, {}}));
  EXPECT_TRUE(refused({"b", "", "", {{"n", std::string(64, 'v')}}, {}}));
  EXPECT_TRUE(refused({"b", "", "", {}, 0}));
  EXPECT_TRUE(refused({"b", "", "", {}, kMaxMaxAttempts + 1}));
  EXPECT_FALSE(refused({"", "", "", {}, {}}));
}

TEST(Submit, FullByCountAndByBytes) {
  Settings s = Desk::defaults();
  s.max_queued = 2;
  Desk d(s);
  d.join(worker(1));
  d.submit();
  d.engine->submit(d.now, d.wall(), 90, {"b", "", "", {}, {}});  // not confirmed yet: counts
  d.take();
  d.engine->submit(d.now, d.wall(), 91, {"b", "", "", {}, {}});
  EXPECT_EQ(d.take_all<Submitted>().at(0).result.error().code, Code::kFull);
  d.settings.max_queued = 100;
  d.settings.max_bytes = 1000;
  d.engine->configure(d.now, d.wall(), d.settings);
  d.engine->submit(d.now, d.wall(), 92, {std::string(900, 'b'), "", "", {}, {}});
  EXPECT_EQ(d.take_all<Submitted>().at(0).result.error().code, Code::kFull);
}

TEST(Submit, TheSameIdIsTheSameTask) {
  Desk d;
  d.join(worker(1));
  d.engine->submit(d.now, d.wall(), 1, {"b", "", "order-1", {}, {}});
  d.engine->submit(d.now, d.wall(), 2, {"b", "", "order-1", {}, {}});
  auto answers = Desk::only<Submitted>(d.settle());
  ASSERT_EQ(answers.size(), 2U);
  EXPECT_EQ(*answers[0].result, *answers[1].result);
  EXPECT_FALSE(answers[0].duplicate);
  EXPECT_TRUE(answers[1].duplicate);
  d.engine->submit(d.now, d.wall(), 3, {"other body", "", "order-1", {}, {}});
  answers = d.take_all<Submitted>();
  EXPECT_EQ(*answers.at(0).result, d.engine->list({}, {}, 10)->at(0)->id);
  EXPECT_TRUE(answers.at(0).duplicate);
  EXPECT_EQ(d.engine->list({}, {}, 10)->size(), 1U);
}

// ---- mirrors

TEST(Mirror, AnotherNodeFirstThenTheFewestCopies) {
  Desk d;
  d.join(worker(1, 1, "n0"));
  d.join(worker(2, 1, "n1"));
  d.join(worker(3, 1, "n2"));
  std::map<AgentName, int> copies;
  for (int i = 0; i < 10; ++i) {
    const TaskId id = d.submit();
    EXPECT_EQ(d.engine->survives(id), "node");
    copies[d.engine->mirrors_of(id).at(0)]++;
  }
  EXPECT_EQ(copies[worker(1).name], 0);
  EXPECT_EQ(copies[worker(2).name], 5);
  EXPECT_EQ(copies[worker(3).name], 5);
}

TEST(Mirror, OnTheSameNodeSurvivesThePodOnlyAndNeverInOurPod) {
  Desk d;
  Worker own = worker(9, 1, "n0");
  own.pod = "c0";
  d.join(own);
  d.join(worker(1, 1, "n0"));
  const TaskId id = d.submit();
  EXPECT_EQ(d.engine->survives(id), "pod");
  EXPECT_EQ(d.engine->mirrors_of(id), names({1}));
}

TEST(Mirror, LostOnesAreReplacedAndToldToForget) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  d.join(worker(2));
  EXPECT_TRUE(d.take_all<Replicate>().empty());
  d.engine->worker_disconnected(d.now, d.wall(), worker(1));
  d.pass(d.settings.worker_lost_after - Milliseconds(1));
  EXPECT_TRUE(d.take_all<Replicate>().empty());
  EXPECT_EQ(d.engine->counts(d.wall()).single_copy, 0U);
  d.pass(Milliseconds(1));
  EXPECT_EQ(d.engine->counts(d.wall()).single_copy, 1U);
  const Replicate again = d.take_all<Replicate>().at(0);
  EXPECT_EQ(again.mirror, worker(2));
  d.engine->replicated(d.now, d.wall(), worker(2), id, again.version);
  EXPECT_EQ(d.engine->counts(d.wall()).single_copy, 0U);
  d.engine->worker_joined(d.now, d.wall(), worker(1), {}, {{id, 1}});
  const Forget forget = d.take_all<Forget>().at(0);
  EXPECT_EQ(forget.mirror, worker(1));
  EXPECT_EQ(forget.id, id);
}

TEST(Mirror, AChangeIsMirroredWhenItsNewestVersionIsConfirmed) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  EXPECT_TRUE(d.engine->mirrored(id));
  ASSERT_TRUE(d.engine->cancel(d.now, d.wall(), id).ok());
  EXPECT_FALSE(d.engine->mirrored(id));
  const Replicate change = d.take_all<Replicate>().at(0);
  d.engine->replicated(d.now, d.wall(), worker(1), id, change.version - 1);
  EXPECT_FALSE(d.engine->mirrored(id));
  d.engine->replicated(d.now, d.wall(), worker(1), id, change.version);
  EXPECT_TRUE(d.engine->mirrored(id));
  // Nobody is left: waiting would not help.
  ASSERT_TRUE(d.engine->retry(d.now, d.wall(), id).ok());
  EXPECT_FALSE(d.engine->mirrored(id));
  d.engine->worker_leaving(d.now, d.wall(), worker(1));
  d.pass(d.settings.worker_lost_after);
  EXPECT_TRUE(d.engine->mirrored(id));
}

TEST(Mirror, LeavingOnesAndSupersededOnesAreReplacedAtOnce) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  d.join(worker(2));
  d.engine->worker_leaving(d.now, d.wall(), worker(1));
  const Replicate moved = d.take_all<Replicate>().at(0);
  EXPECT_EQ(moved.mirror, worker(2));
  d.engine->replicated(d.now, d.wall(), worker(2), id, moved.version);
  EXPECT_EQ(d.take_all<Forget>().at(0).mirror, worker(1));
  d.join(worker(2, 2));
  const Replicate again = d.take_all<Replicate>().at(0);
  EXPECT_EQ(again.mirror, worker(2, 2));
}

TEST(Mirror, ARestartedSidecarThatLostTheCopyGetsItAgain) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  d.engine->worker_joined(d.now, d.wall(), worker(1), {}, {{id, 1}});
  EXPECT_TRUE(d.take_all<Replicate>().empty());
  d.engine->worker_joined(d.now, d.wall(), worker(1), {}, {});
  EXPECT_EQ(d.engine->counts(d.wall()).single_copy, 1U);
  EXPECT_EQ(d.take_all<Replicate>().at(0).id, id);
}

TEST(Mirror, AConfirmationThatAForgetOvertookDoesNotCount) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  d.join(worker(2));
  d.engine->worker_leaving(d.now, d.wall(), worker(1));  // v1 goes to worker-2
  d.settle();
  d.join(worker(3));
  d.lease(worker(3));
  ASSERT_EQ(d.engine->mirrors_of(id), names({2}));
  // The copy of v3 is on its way to worker-2 when that leaves; worker-3 gets it and worker-2 is
  // told to forget.
  ASSERT_TRUE(d.engine->cancel(d.now, d.wall(), id).ok());
  EXPECT_EQ(d.take_all<Replicate>().at(0).mirror, worker(2));
  d.engine->worker_leaving(d.now, d.wall(), worker(2));
  const auto out = d.settle();
  EXPECT_EQ(Desk::only<Forget>(out).at(0).mirror, worker(2));
  d.join(worker(3, 2));  // the only copy is gone …
  d.take();
  d.engine->replicated(d.now, d.wall(), worker(2), id, 3);  // … and this one by now as well
  EXPECT_TRUE(d.engine->mirrors_of(id).empty());
  EXPECT_EQ(d.engine->counts(d.wall()).single_copy, 1U);
}

TEST(Mirror, WindowIsBoundedAndOnlyTheNewestIsSent) {
  Desk d;
  d.join(worker(1));
  for (std::uint64_t i = 0; i < kReplicationWindow + 5; ++i)
    d.engine->submit(d.now, d.wall(), 100 + i, {"b", "", "", {}, {}});
  const auto first = d.take_all<Replicate>();
  ASSERT_EQ(first.size(), kReplicationWindow);
  d.engine->replicated(d.now, d.wall(), worker(1), first[0].id, 1);
  EXPECT_EQ(d.take_all<Replicate>().size(), 1U);
  // The accepted one changes three times while its next copy waits: one copy, the newest.
  d.engine->next(d.now, d.wall(), worker(1), 1, d.now);
  ASSERT_TRUE(d.engine->cancel(d.now, d.wall(), first[0].id).ok());
  d.take();
  std::size_t copies = 0;
  std::uint64_t version = 0;
  for (std::size_t i = 1; i < 10; ++i) {
    d.engine->replicated(d.now, d.wall(), worker(1), first[i].id, 1);
    for (const Replicate& r : d.take_all<Replicate>()) {
      copies += r.id == first[0].id ? 1 : 0;
      if (r.id == first[0].id) version = r.version;
    }
  }
  EXPECT_EQ(copies, 1U);
  EXPECT_EQ(version, 3U);
}

TEST(Mirror, TheWindowCountsBytesToo) {
  Desk d;
  d.join(worker(1));
  for (std::uint64_t i = 0; i < kReplicationWindow; ++i)
    d.engine->submit(d.now, d.wall(), 100 + i, {std::string(kMaxBodyBytes, 'b'), "", "", {}, {}});
  std::size_t bytes = 0, copies = 0;
  std::vector<Replicate> open = d.take_all<Replicate>();
  while (!open.empty()) {
    std::size_t sent = 0;
    for (const Replicate& r : open) sent += r.bytes.size();
    ASSERT_LT(sent, kReplicationWindowBytes + kMaxEncodedBytes);
    bytes += open.back().bytes.size();
    ++copies;
    d.engine->replicated(d.now, d.wall(), worker(1), open.back().id, open.back().version);
    open.pop_back();
    for (Replicate& r : d.take_all<Replicate>()) open.push_back(std::move(r));
  }
  EXPECT_EQ(copies, kReplicationWindow);
  EXPECT_GT(bytes, 3 * kReplicationWindowBytes);
}

// ---- leases

TEST(Lease, OldestFirstAndOnce) {
  Desk d;
  d.join(worker(1));
  d.join(worker(2));
  const TaskId a = d.submit({"a", "k", "", {{"x", "y"}}, {}});
  d.now += Milliseconds(5);
  const TaskId b = d.submit({"b", "", "", {}, {}});
  const auto first = d.lease(worker(2));
  const auto second = d.lease(worker(1));
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->id, a);
  EXPECT_EQ(first->attempt, 1U);
  EXPECT_EQ(first->body, "a");
  EXPECT_EQ(first->key, "k");
  EXPECT_EQ(first->labels.at("x"), "y");
  EXPECT_EQ(first->version, Version::kV2);
  EXPECT_TRUE(first->command.empty());
  EXPECT_EQ(second->id, b);
  EXPECT_FALSE(d.lease(worker(1)).has_value());
  EXPECT_EQ(d.engine->running_on(worker(2).name)->id, a);
  EXPECT_EQ(d.log[a].state, TaskState::kRunning);
}

TEST(Lease, NextWaitsUntilItsDeadline) {
  Desk d;
  d.join(worker(1));
  d.take();
  d.engine->next(d.now, d.wall(), worker(1), 5, d.now + seconds(10));
  EXPECT_TRUE(d.take().empty());
  EXPECT_EQ(d.engine->next_deadline(), d.now + seconds(10));
  d.pass(seconds(10));
  const NoTask none = d.take_all<NoTask>().at(0);
  EXPECT_EQ(none.request, 5U);
  EXPECT_EQ(none.code, Code::kNotFound);
  d.engine->next(d.now, d.wall(), worker(1), 6, d.now + seconds(10));
  d.submit();
  EXPECT_TRUE(d.engine->running_on(worker(1).name).has_value());
}

TEST(Lease, ARepeatedNextGetsTheSameLeaseAndAForgottenOneNone) {
  Desk d;
  d.join(worker(1));
  d.submit();
  d.engine->next(d.now, d.wall(), worker(1), 5, d.now);
  EXPECT_EQ(d.take_all<Lease>().size(), 1U);
  d.engine->next(d.now, d.wall(), worker(1), 5, d.now);
  EXPECT_EQ(d.take_all<Lease>().at(0).attempt, 1U);
  d.engine->next(d.now, d.wall(), worker(1), 6, d.now + seconds(9));
  d.engine->forget_next(worker(1), 6);
  d.pass(seconds(9));
  EXPECT_TRUE(d.take_all<NoTask>().empty());
}

TEST(Lease, RefusedWhoMayNotAsk) {
  Desk d;
  d.join(worker(1, 2));
  d.take();
  const auto code = [&](const Worker& w) {
    d.engine->next(d.now, d.wall(), w, 1, d.now + seconds(1));
    const auto out = d.take_all<NoTask>();
    return out.empty() ? std::nullopt : std::optional(out[0].code);
  };
  EXPECT_EQ(code(worker(2)), Code::kUnavailable);
  EXPECT_EQ(code(worker(1, 1)), Code::kDenied);
  EXPECT_EQ(code(worker(1, 3)), Code::kUnavailable);
  EXPECT_EQ(code(worker(1, 2)), std::nullopt);
  d.engine->worker_leaving(d.now, d.wall(), worker(1, 2));
  EXPECT_EQ(d.take_all<NoTask>().at(0).reason, "draining");
  EXPECT_EQ(code(worker(1, 2)), Code::kDenied);
}

TEST(Lease, SuspendedMeansNoneButWaitingGoesOn) {
  Settings s = Desk::defaults();
  s.suspended = true;
  Desk d(s);
  d.join(worker(1));
  d.submit();
  d.engine->next(d.now, d.wall(), worker(1), 1, d.now + seconds(60));
  EXPECT_TRUE(d.take_all<Lease>().empty());
  s.suspended = false;
  d.engine->configure(d.now, d.wall(), s);
  EXPECT_EQ(d.take_all<Lease>().size(), 1U);
}

TEST(Lease, ExtendKeepsItProgressShowsAndExpiryFreesIt) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  d.lease(worker(1));
  const std::string progress = "half way";
  for (int i = 0; i < 5; ++i) {
    d.pass(d.settings.lease - Milliseconds(1));
    ASSERT_TRUE(d.engine->extend(d.now, d.wall(), worker(1), id, 1, &progress).ok());
  }
  EXPECT_EQ(d.task(id).last_output, "half way");
  EXPECT_TRUE(d.take_all<Store>().empty());
  d.pass(d.settings.lease);
  EXPECT_EQ(d.state(id), TaskState::kQueued);
  EXPECT_EQ(d.task(id).history[0].reason, "lease_expired");
  EXPECT_FALSE(d.task(id).history[0].charged);
  EXPECT_EQ(d.task(id).charged_attempts, 0U);
  EXPECT_EQ(d.engine->extend(d.now, d.wall(), worker(2), id, 1, nullptr).error().code,
            Code::kUnavailable);
  d.join(worker(2));
  EXPECT_EQ(d.engine->extend(d.now, d.wall(), worker(2), id, 1, nullptr).error().code,
            Code::kDenied);
  EXPECT_EQ(d.engine->extend(d.now, d.wall(), worker(1), id, 2, nullptr).error().code,
            Code::kDenied);
  EXPECT_TRUE(d.engine->extend(d.now, d.wall(), worker(1), id, 1, nullptr)
                  .ok());  // nobody else has it: go on
  EXPECT_EQ(d.state(id), TaskState::kRunning);
}

TEST(Lease, WhoIsStillIsKnownUntilItWorksOrEnds) {
  Desk d;
  d.join(worker(1));
  d.join(worker(2));
  const TaskId a = d.submit();
  d.lease(worker(1));
  const TaskId b = d.submit();
  d.lease(worker(2));
  const auto extend = [&](int n, const TaskId& id, const Engine::Still* still) {
    ASSERT_TRUE(d.engine->extend(d.now, d.wall(), worker(n), id, 1, nullptr, still).ok());
  };
  const Engine::Still later{2'000'000, "waits"}, first{1'000'000, ""};
  extend(1, a, &later);
  extend(2, b, &first);
  const auto stuck = d.engine->stuck();
  ASSERT_EQ(stuck.size(), 2U);
  EXPECT_EQ(stuck[0].worker, worker(2).name);
  EXPECT_EQ(stuck[0].running.id, b);
  EXPECT_EQ(stuck[0].still, first);
  EXPECT_EQ(stuck[1].still, later);
  // Clocks do not tick together: it is the same silence.
  const Engine::Still again{first.since + kStillJitter.count() - 1, ""};
  extend(2, b, &again);
  EXPECT_EQ(d.engine->stuck()[0].still, first);
  const Engine::Still another{first.since + kStillJitter.count(), ""};
  extend(2, b, &another);
  EXPECT_EQ(d.engine->stuck()[0].still, another);
  EXPECT_TRUE(d.take_all<Store>().empty());
  extend(1, a, nullptr);  // it works again
  EXPECT_EQ(d.engine->stuck().size(), 1U);
  ASSERT_TRUE(d.report(worker(2), b, 1, FailKind::kIdleTimeout).ok());
  EXPECT_TRUE(d.engine->stuck().empty());
  EXPECT_TRUE(d.task(b).history[0].charged);
}

TEST(Lease, TenLostInARowAreEnough) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  for (std::uint32_t i = 1; i <= kMaxLosses; ++i) {
    ASSERT_TRUE(d.lease(worker(1))) << i;
    d.pass(d.settings.lease);
  }
  EXPECT_EQ(d.state(id), TaskState::kDead);
  EXPECT_NE(d.task(id).last_output.find("10 attempts in a row"), std::string::npos);
  EXPECT_EQ(d.engine->counts(d.wall()).retries, 9U);
}

TEST(Lease, ThatReachedNoAgentCountsForNothing) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  d.lease(worker(1));
  ASSERT_TRUE(d.report(worker(1), id, 1, FailKind::kReleased).ok());
  std::uint32_t attempt = 1;
  const auto give_back = [&] {
    Report r;
    r.id = id;
    r.attempt = attempt;
    r.kind = FailKind::kReleased;
    r.taken = false;
    d.engine->report(d.now, d.wall(), worker(1), ++d.requests, r);
    return Desk::only<Reported>(d.settle()).at(0).status;
  };
  for (std::uint32_t i = 0; i < 5 * kMaxLosses; ++i) {
    const auto lease = d.lease(worker(1));
    ASSERT_TRUE(lease) << i;
    ASSERT_EQ(lease->attempt, ++attempt) << "numbers are not used twice";
    ASSERT_TRUE(give_back().ok());
    ASSERT_TRUE(give_back().ok()) << "repeated";
  }
  const Task& t = d.task(id);
  EXPECT_EQ(t.state, TaskState::kQueued);
  EXPECT_EQ(t.losses_in_a_row, 1U);
  ASSERT_EQ(t.history.size(), 2U) << "they do not push out what happened";
  EXPECT_EQ(t.history[0].reason, "released");
  EXPECT_EQ(t.history[1].reason, "not_taken");
  EXPECT_EQ(t.history.size() + t.history_dropped, attempt);
  EXPECT_EQ(d.engine->counts(d.wall()).retries, 1U);
  d.lease(worker(1));
  EXPECT_TRUE(d.report(worker(1), id, attempt + 1).ok());
  EXPECT_EQ(d.state(id), TaskState::kDone);
}

TEST(Lease, ADisconnectedWorkerKeepsItForAWhile) {
  Desk d;
  d.join(worker(1));
  d.join(worker(2));
  const TaskId id = d.submit();
  d.lease(worker(1));
  d.engine->worker_disconnected(d.now, d.wall(), worker(1));
  d.pass(d.settings.worker_lost_after - Milliseconds(1));
  EXPECT_EQ(d.state(id), TaskState::kRunning);
  d.engine->worker_joined(d.now, d.wall(), worker(1), {{id, 1}}, {});
  d.pass(d.settings.lease - Milliseconds(1));
  EXPECT_EQ(d.state(id), TaskState::kRunning);
  d.engine->worker_disconnected(d.now, d.wall(), worker(1));
  d.pass(d.settings.worker_lost_after);
  EXPECT_EQ(d.state(id), TaskState::kQueued);
  EXPECT_EQ(d.task(id).history[0].reason, "worker_lost");
  EXPECT_EQ(d.engine->counts(d.wall()).worker_lost, 1U);
}

TEST(Lease, NotNamedOnRejoinIsOver) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  d.lease(worker(1));
  d.engine->worker_joined(d.now, d.wall(), worker(1), {{id, 2}, {TaskId{"t-0-none"}, 1}}, {});
  EXPECT_EQ(d.state(id), TaskState::kQueued);
  EXPECT_EQ(d.task(id).history[0].reason, "worker_lost");
}

TEST(Lease, AHigherSessionEndsItTheSameDoesNotALowerIsIgnored) {
  Desk d;
  d.join(worker(1, 5));
  const TaskId id = d.submit();
  d.lease(worker(1, 5));
  d.engine->worker_joined(d.now, d.wall(), worker(1, 4), {}, {});
  EXPECT_EQ(d.state(id), TaskState::kRunning);
  d.engine->worker_joined(d.now, d.wall(), worker(1, 5), {{id, 1}}, {});
  EXPECT_EQ(d.state(id), TaskState::kRunning);
  EXPECT_EQ(d.task(id).history.size(), 1U);
  d.engine->worker_joined(d.now, d.wall(), worker(1, 6), {{id, 1}}, {});
  EXPECT_EQ(d.state(id), TaskState::kQueued);
  EXPECT_EQ(d.task(id).history[0].reason, "worker_lost");
  EXPECT_EQ(d.report(worker(1, 5), id, 1).error().code, Code::kDenied);
}

TEST(Lease, OneWorkerCannotTakeEverything) {
  Desk d;
  d.join(worker(1));
  for (std::size_t i = 0; i < kMaxCallsPerWorker + 1; ++i) d.submit();
  for (std::size_t i = 0; i < kMaxCallsPerWorker; ++i) ASSERT_TRUE(d.lease(worker(1)));
  d.engine->next(d.now, d.wall(), worker(1), 9999, d.now);
  EXPECT_EQ(d.take_all<NoTask>().at(0).code, Code::kFull);
}

// ---- reports

TEST(Report, OkOnlyWhenAMirrorHasIt) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  d.lease(worker(1));
  Report r;
  r.id = id;
  r.attempt = 1;
  r.done = true;
  r.result = {"42", false, 2, "branch", "commit"};
  r.exit_code = 0;
  d.engine->report(d.now, d.wall(), worker(1), 77, r);
  auto out = d.take();
  EXPECT_TRUE(Desk::only<Reported>(out).empty());
  const Replicate copy = Desk::only<Replicate>(out).at(0);
  EXPECT_EQ(decode(copy.bytes)->state, TaskState::kDone);
  d.engine->replicated(d.now, d.wall(), copy.mirror, copy.id, copy.version);
  const Reported answer = d.take_all<Reported>().at(0);
  EXPECT_EQ(answer.request, 77U);
  EXPECT_TRUE(answer.status.ok());
  EXPECT_EQ(d.task(id).result->bytes, "42");
  EXPECT_EQ(d.task(id).history[0].reason, "done");
  EXPECT_TRUE(d.report(worker(1), id, 1).ok());  // repeated
  EXPECT_EQ(d.task(id).history.size(), 1U);
}

TEST(Report, UnconfirmedForTooLongIsToBeRepeated) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  d.lease(worker(1));
  Report r;
  r.id = id;
  r.attempt = 1;
  r.done = true;
  d.engine->report(d.now, d.wall(), worker(1), 77, r);
  EXPECT_TRUE(d.take_all<Reported>().empty());
  d.pass(d.settings.mirror_timeout);
  EXPECT_EQ(d.take_all<Reported>().at(0).status.error().code, Code::kUnavailable);
  EXPECT_TRUE(d.report(worker(1), id, 1).ok());
}

TEST(Report, OfTheLastWorkerWhileItLeavesDoesNotWait) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  d.lease(worker(1));
  d.engine->worker_leaving(d.now, d.wall(), worker(1));
  EXPECT_TRUE(d.report(worker(1), id, 1).ok());
  EXPECT_EQ(d.state(id), TaskState::kDone);
}

TEST(Report, WhatEachKindDoes) {
  struct Row {
    FailKind kind;
    const char* reason;
    bool charged;
    TaskState state;
    std::int64_t least_delay_ms, most_delay_ms;
  };
  for (const Row& row :
       {Row{FailKind::kFailed, "failed", true, TaskState::kQueued, 1000, 1000},
        Row{FailKind::kTimeout, "timeout", true, TaskState::kQueued, 1000, 1000},
        Row{FailKind::kIdleTimeout, "idle_timeout", true, TaskState::kQueued, 1000, 1000},
        Row{FailKind::kBadTask, "bad_task", true, TaskState::kDead, 0, 0},
        Row{FailKind::kTryLater, "try_later", false, TaskState::kQueued, 5000, 5000},
        Row{FailKind::kReleased, "released", false, TaskState::kQueued, 0, 0},
        Row{FailKind::kCancelled, "cancelled", false, TaskState::kCancelled, 0, 0}}) {
    SCOPED_TRACE(row.reason);
    Desk d;
    d.join(worker(1));
    const TaskId id = d.submit();
    d.lease(worker(1));
    ASSERT_TRUE(d.report(worker(1), id, 1, row.kind).ok());
    const Task& t = d.task(id);
    EXPECT_EQ(t.state, row.state);
    EXPECT_EQ(t.history[0].reason, row.reason);
    EXPECT_EQ(t.history[0].charged, row.charged);
    EXPECT_EQ(t.charged_attempts, row.charged ? 1U : 0U);
    const std::int64_t delay = t.not_before == 0 ? 0 : t.not_before - d.wall();
    EXPECT_GE(delay, row.least_delay_ms);
    EXPECT_LE(delay, row.most_delay_ms);
    if (row.state == TaskState::kQueued) {
      EXPECT_EQ(d.lease(worker(1)).has_value(), delay == 0);
      d.pass(Milliseconds(delay));
      if (delay != 0) {
        EXPECT_EQ(d.lease(worker(1))->attempt, 2U);
      }
    }
  }
}

TEST(Report, AttemptsUsedUpAreADeadLetterWithGrowingPauses) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit({"b", "", "", {}, 9});
  std::int64_t last = 0;
  for (std::uint32_t i = 1; i <= 9; ++i) {
    ASSERT_TRUE(d.lease(worker(1))) << i;
    ASSERT_TRUE(d.report(worker(1), id, i, FailKind::kFailed).ok());
    if (i == 9) break;
    const std::int64_t delay = d.task(id).not_before - d.wall();
    const std::int64_t full = std::min<std::int64_t>(60000, 1000LL << (i - 1));
    EXPECT_GE(delay, std::max<std::int64_t>(1000, full / 2));
    EXPECT_LE(delay, full);
    last = delay;
    d.pass(Milliseconds(delay));
  }
  EXPECT_GE(last, 30000);
  EXPECT_EQ(d.state(id), TaskState::kDead);
  EXPECT_EQ(d.task(id).charged_attempts, 9U);
}

TEST(Report, ALateOneCountsOnlyIfNobodyElseWasGivenTheTask) {
  Desk d;
  d.join(worker(1));
  d.join(worker(2));
  const TaskId a = d.submit();
  d.lease(worker(1));
  d.pass(d.settings.lease);
  EXPECT_TRUE(d.report(worker(1), a, 1).ok());
  EXPECT_EQ(d.state(a), TaskState::kDone);
  EXPECT_EQ(d.task(a).history.size(), 1U);
  EXPECT_EQ(d.task(a).history[0].reason, "done");

  const TaskId b = d.submit();
  d.lease(worker(1));
  d.pass(d.settings.lease);
  ASSERT_TRUE(d.lease(worker(2)));
  EXPECT_EQ(d.report(worker(1), b, 1).error().code, Code::kDenied);
  EXPECT_EQ(d.state(b), TaskState::kRunning);
  EXPECT_TRUE(d.report(worker(2), b, 2).ok());
  EXPECT_EQ(d.report(worker(1), b, 1).error().code, Code::kDenied);
  EXPECT_EQ(d.task(b).history[0].reason, "lease_expired");
}

TEST(Report, BoundsAreKept) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  d.lease(worker(1));
  Report r;
  r.id = id;
  r.attempt = 1;
  r.done = true;
  r.message = std::string(399, 'm') + "\xC3\xA4 and more";
  for (int i = 0; i < 30; ++i) r.last_lines.push_back(std::to_string(i) + std::string(500, 'l'));
  r.result.bytes.assign(kMaxResultBytes + 1, 'r');
  r.result.branch.assign(kMaxRefBytes + 1, 'b');
  d.engine->report(d.now, d.wall(), worker(1), 1, r);
  EXPECT_EQ(Desk::only<Reported>(d.settle()).at(0).status.error().code, Code::kInvalid);
  r.result.branch = "b";
  d.engine->report(d.now, d.wall(), worker(1), 2, r);
  d.settle();
  const Task& t = d.task(id);
  EXPECT_EQ(t.last_output, std::string(399, 'm'));  // not half of a character
  EXPECT_EQ(t.history[0].last_lines.size(), kMaxLastLines);
  EXPECT_EQ(t.history[0].last_lines.back().substr(0, 3), "29l");
  EXPECT_EQ(t.history[0].last_lines.back().size(), kMaxLineBytes);
  EXPECT_EQ(t.result->bytes.size(), kMaxResultBytes);
  EXPECT_TRUE(t.result->truncated);
  EXPECT_EQ(t.result->total_bytes, kMaxResultBytes + 1);
}

// A rate limit met by two is everybody's: no attempt is spent on finding it out again.
TEST(Report, TwoThatAreToldToTryLaterHoldUpTheTeam) {
  Desk d;
  std::vector<TaskId> ids;
  for (int n = 1; n <= 8; ++n) {
    d.join(worker(n));
    ids.push_back(d.submit());
  }
  for (int n = 1; n <= 3; ++n) ASSERT_TRUE(d.lease(worker(n)));
  ASSERT_TRUE(d.report(worker(1), ids[0], 1, FailKind::kTryLater).ok());
  const auto waits = [&] {
    const auto until = d.engine->counts(d.wall()).backing_off_until;
    return until ? (*until - d.now).count() : 0;
  };
  EXPECT_EQ(waits(), 0) << "one alone";
  ASSERT_TRUE(d.report(worker(2), ids[1], 1, FailKind::kTryLater).ok());
  EXPECT_EQ(waits(), 5000);
  EXPECT_EQ(d.engine->counts(d.wall()).try_later_in_a_row, 2U);
  EXPECT_FALSE(d.lease(worker(4)));
  ASSERT_TRUE(d.report(worker(3), ids[2], 1).ok()) << "what was begun before goes on";
  EXPECT_FALSE(d.lease(worker(4)));
  d.pass(seconds(5));
  EXPECT_EQ(waits(), 0);
  const auto first = d.lease(worker(4));
  ASSERT_TRUE(first);
  EXPECT_FALSE(d.lease(worker(5))) << "one finds out for all";
  ASSERT_TRUE(d.report(worker(4), first->id, first->attempt, FailKind::kTryLater).ok());
  d.pass(seconds(5));
  const auto second = d.lease(worker(5));
  ASSERT_TRUE(second);
  EXPECT_EQ(second->attempt, 1U) << "not one that was told so before";
  ASSERT_TRUE(d.report(worker(5), second->id, second->attempt, FailKind::kTryLater).ok());
  const auto longer = waits();
  EXPECT_GE(longer, 5000);
  EXPECT_LE(longer, 10000);
  EXPECT_FALSE(d.lease(worker(6)));
  d.pass(Milliseconds(longer));
  const auto third = d.lease(worker(6));
  ASSERT_TRUE(third);
  ASSERT_TRUE(d.report(worker(6), third->id, third->attempt).ok());
  for (int n = 1; n <= 3; ++n) EXPECT_TRUE(d.lease(worker(n))) << "it is over";
}

// Two tasks that are never served must not keep the others from being done.
TEST(Report, TwoThatAlwaysTryLaterStopNobody) {
  Desk d;
  for (int n = 1; n <= 3; ++n) d.join(worker(n));
  std::set<std::string> poison;
  for (int n = 0; n < 2; ++n) poison.insert(d.submit().value);
  std::vector<TaskId> good;
  for (int n = 0; n < 30; ++n) good.push_back(d.submit());
  for (int second = 0; second < 120; ++second, d.pass(seconds(1))) {
    for (int n = 1; n <= 3; ++n) {
      const auto lease = d.lease(worker(n));
      if (!lease) continue;
      const auto kind =
          poison.contains(lease->id.value) ? std::optional(FailKind::kTryLater) : std::nullopt;
      if (kind)
        ASSERT_TRUE(d.report(worker(n), lease->id, lease->attempt, *kind).ok());
      else
        ASSERT_TRUE(d.report(worker(n), lease->id, lease->attempt).ok());
    }
  }
  for (const TaskId& id : good) EXPECT_EQ(d.state(id), TaskState::kDone);
}

// Who waits in a call to next() is given the task when the wait is over, by the engine's own clock.
TEST(Report, AWaitThatIsOverIsADeadline) {
  Desk d;
  std::vector<TaskId> ids;
  for (int n = 1; n <= 3; ++n) {
    d.join(worker(n));
    ids.push_back(d.submit());
  }
  for (int n = 1; n <= 2; ++n) ASSERT_TRUE(d.lease(worker(n)));
  for (int n = 1; n <= 2; ++n)
    ASSERT_TRUE(d.report(worker(n), ids[n - 1], 1, FailKind::kTryLater).ok());
  d.engine->next(d.now, d.wall(), worker(3), 77, d.now + seconds(60));
  const auto due = d.engine->next_deadline();
  ASSERT_TRUE(due);
  EXPECT_EQ(*due, d.now + seconds(5));
}

TEST(Report, HistoryKeepsTheFirstAndTheLatest) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  for (std::uint32_t i = 1; i <= 30; ++i) {
    ASSERT_TRUE(d.lease(worker(1))) << i;
    ASSERT_TRUE(d.report(worker(1), id, i, FailKind::kTryLater).ok());
    d.pass(seconds(300));
  }
  const Task& t = d.task(id);
  EXPECT_EQ(t.state, TaskState::kQueued);
  EXPECT_EQ(t.history.size(), kMaxHistory);
  EXPECT_EQ(t.history_dropped, 10U);
  EXPECT_EQ(t.history.front().number, 1U);
  EXPECT_EQ(t.history[1].number, 12U);
  EXPECT_EQ(t.history.back().number, 30U);
}

// ---- clients

// ---- what tasks cost

Usage cost(std::uint64_t micro_usd) { return {{}, 10, {}, {}, micro_usd}; }
Spent spent(std::uint64_t micro_usd, std::uint64_t tasks, std::uint64_t output) {
  return {0, output, 0, 0, micro_usd, tasks, tasks};
}

TEST(Cost, ARepeatedReportCountsOnceAndTwoAttemptsTwice) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  d.lease(worker(1));
  ASSERT_TRUE(d.report(worker(1), id, 1, FailKind::kFailed, cost(100)).ok());
  ASSERT_TRUE(d.report(worker(1), id, 1, FailKind::kFailed, cost(100)).ok());
  EXPECT_EQ(d.task(id).usage, cost(100));
  d.pass(seconds(60));
  ASSERT_EQ(d.lease(worker(1))->attempt, 2U);
  ASSERT_TRUE(d.report(worker(1), id, 2, {}, cost(7)).ok());
  ASSERT_TRUE(d.report(worker(1), id, 2, {}, cost(9)).ok());
  EXPECT_EQ(d.task(id).usage.cost_micro_usd, 107U);
  EXPECT_EQ(d.task(id).history[0].usage, cost(100));
  EXPECT_EQ(d.task(id).history[1].usage, cost(7));
  EXPECT_EQ(d.log.at(id).usage, d.task(id).usage);
  EXPECT_EQ(d.engine->spent(), spent(107, 1, 20));
  EXPECT_EQ(d.engine->expired(), Spent{});
}

TEST(Cost, WhateverAnAttemptComesToItIsSpent) {
  for (const FailKind kind : {FailKind::kFailed, FailKind::kBadTask, FailKind::kTryLater,
                              FailKind::kTimeout, FailKind::kCancelled, FailKind::kReleased}) {
    Desk d;
    d.join(worker(1));
    const TaskId id = d.submit();
    d.lease(worker(1));
    ASSERT_TRUE(d.report(worker(1), id, 1, kind, cost(3)).ok());
    EXPECT_EQ(d.task(id).usage, cost(3));
    EXPECT_EQ(d.engine->spent(), spent(3, 1, 10));
  }
}

TEST(Cost, AnAttemptThatWasFencedHasCostMoneyToo) {
  Desk d;
  d.join(worker(1));
  d.join(worker(2));
  const TaskId id = d.submit();
  d.lease(worker(1));
  d.pass(d.settings.lease);
  ASSERT_TRUE(d.lease(worker(2)));
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(d.report(worker(1), id, 1, {}, cost(100)).error().code, Code::kDenied);
  EXPECT_EQ(d.task(id).history[0].reason, "lease_expired");
  EXPECT_EQ(d.log.at(id).usage, cost(100));
  ASSERT_TRUE(d.report(worker(2), id, 2, {}, cost(5)).ok());
  EXPECT_EQ(d.task(id).usage.cost_micro_usd, 105U);
  // Nobody else's: an attempt that is not known says nothing.
  EXPECT_FALSE(d.report(worker(1), id, 7, {}, cost(1000)).ok());
  EXPECT_EQ(d.engine->spent().cost_micro_usd, 105U);
}

TEST(Cost, StaysWhenTheHistoryIsCutAndWhenATaskIsRetried) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit({"b", "", "", {}, 100});
  for (std::uint32_t n = 1; n <= kMaxHistory + 5; ++n) {
    d.pass(seconds(60));
    ASSERT_EQ(d.lease(worker(1))->attempt, n);
    ASSERT_TRUE(d.report(worker(1), id, n, FailKind::kFailed, cost(1)).ok());
  }
  EXPECT_EQ(d.task(id).usage.cost_micro_usd, kMaxHistory + 5);
  ASSERT_TRUE(d.engine->cancel(d.now, d.wall(), id).ok());
  ASSERT_TRUE(d.engine->retry(d.now, d.wall(), id).ok());
  EXPECT_EQ(d.task(id).usage.cost_micro_usd, kMaxHistory + 5);
}

TEST(Cost, OfTasksThatHaveExpiredStaysSpent) {
  Desk d;
  d.join(worker(1));
  const TaskId cheap = d.submit(), dear = d.submit(), free = d.submit();
  for (const TaskId& id : {cheap, dear, free}) {
    ASSERT_EQ(d.lease(worker(1))->id, id);
    ASSERT_TRUE(
        d.report(worker(1), id, 1, {}, id == free ? Usage{} : cost(id == dear ? 90 : 8)).ok());
    d.pass(seconds(1));
  }
  d.pass(d.settings.result_retention - seconds(3));
  std::vector<Erase> erased = Desk::only<Erase>(d.take());
  ASSERT_EQ(erased.size(), 1U);
  ASSERT_TRUE(erased[0].expired);
  EXPECT_EQ(erased[0].expired->spent, spent(8, 1, 10));
  EXPECT_EQ(erased[0].expired->last, cheap);
  EXPECT_EQ(erased[0].expired->version, d.log.at(cheap).version);
  EXPECT_EQ(d.engine->spent(), spent(98, 2, 20));
  d.pass(seconds(9));
  erased = Desk::only<Erase>(d.take());
  ASSERT_EQ(erased.size(), 2U);
  EXPECT_EQ(erased[0].expired->spent, spent(98, 2, 20));
  EXPECT_FALSE(erased[1].expired) << "it has cost nothing";
  EXPECT_EQ(d.engine->spent(), spent(98, 2, 20));
  EXPECT_EQ(d.engine->expired(), spent(98, 2, 20));
}

TEST(Cost, ASuccessorGoesOnFromWhatWasReported) {
  Desk d;
  d.join(worker(1));
  const TaskId known = d.submit(), late = d.submit();
  for (const TaskId& id : {known, late}) {
    d.lease(worker(1));
    ASSERT_TRUE(d.report(worker(1), id, 1, {}, cost(10)).ok());
  }
  const TaskId next = d.submit();
  const Task queued = d.task(next);
  const Task first = d.task(known), second = d.task(late);
  // 1000 had expired, 1020 was reported.
  const auto recover = [&](std::uint64_t reported) {
    d.renew();
    d.engine->begin_recovery(d.now);
    d.engine->restore_spent(spent(1000, 5, 50), {});
    d.engine->restore_spent(spent(900, 4, 40), spent(reported, 7, 70));
    d.engine->restore(d.now, d.wall(), first, std::nullopt);
    d.engine->restore(d.now, d.wall(), queued, std::nullopt);
    d.engine->end_recovery(d.now, d.wall());
    d.join(worker(1));
  };
  recover(1020);
  EXPECT_EQ(d.engine->spent(), spent(1020, 7, 70)) << "one is not here (yet)";
  ASSERT_TRUE(d.lease(worker(1)));
  ASSERT_TRUE(d.report(worker(1), next, 1, {}, cost(3)).ok());
  EXPECT_EQ(d.engine->spent(), spent(1023, 8, 80));
  d.engine->restore(d.now, d.wall(), second, std::nullopt);
  EXPECT_EQ(d.engine->spent(), spent(1023, 8, 80)) << "it was counted";
  d.pass(d.settings.result_retention + seconds(1));
  EXPECT_EQ(d.engine->spent(), spent(1023, 8, 80));
  EXPECT_EQ(d.engine->expired(), spent(1023, 8, 80));

  recover(1005);  // an outcome came after the last report
  EXPECT_EQ(d.engine->spent().cost_micro_usd, 1010U);
}

TEST(Cost, OfAnAttemptThatGivesWayToAnotherEpochsOutcomeStays) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  const Task before = d.task(id);
  d.lease(worker(1));
  ASSERT_TRUE(d.report(worker(1), id, 1, {}, cost(100)).ok());
  const Task done = d.task(id);
  d.renew();
  d.engine->begin_recovery(d.now);
  d.engine->restore(d.now, d.wall(), before, std::nullopt);
  d.engine->end_recovery(d.now, d.wall());
  d.join(worker(2));
  ASSERT_TRUE(d.lease(worker(2)));
  ASSERT_TRUE(d.report(worker(2), id, 1, FailKind::kFailed, cost(7)).ok());
  d.engine->restore(d.now, d.wall(), done, worker(3));
  ASSERT_EQ(d.state(id), TaskState::kDone);
  EXPECT_EQ(d.task(id).usage.cost_micro_usd, 107U);
  EXPECT_EQ(d.engine->spent().cost_micro_usd, 107U);
}

TEST(Budget, WhenItIsReachedNoneIsHandedOutUntilItIsRaised) {
  Settings s = Desk::defaults();
  s.budget_micro_usd = 100;
  Desk d(s);
  d.join(worker(1));
  d.join(worker(2));
  EXPECT_EQ(d.engine->budget_used(), 0.0);
  const TaskId a = d.submit(), b = d.submit(), c = d.submit();
  ASSERT_EQ(d.lease(worker(1))->id, a);
  ASSERT_EQ(d.lease(worker(2))->id, b);
  ASSERT_TRUE(d.report(worker(1), a, 1, {}, cost(99)).ok());
  d.engine->next(d.now, d.wall(), worker(1), 900, d.now + seconds(9));
  EXPECT_EQ(Desk::only<Lease>(d.settle()).at(0).id, c) << "below it, by however little";
  ASSERT_TRUE(d.report(worker(1), c, 1, FailKind::kFailed, cost(1)).ok());
  EXPECT_EQ(d.engine->budget_used(), 1.0);
  d.engine->next(d.now, d.wall(), worker(1), 901, d.now + seconds(80));
  d.pass(seconds(60));
  EXPECT_TRUE(Desk::only<Lease>(d.settle()).empty());
  // Who is at work goes on, and costs.
  ASSERT_TRUE(d.engine->extend(d.now, d.wall(), worker(2), b, 1, nullptr).ok());
  ASSERT_TRUE(d.report(worker(2), b, 1, {}, cost(50)).ok());
  EXPECT_EQ(d.engine->budget_used(), 1.5);
  s.budget_micro_usd = 151;
  d.engine->configure(d.now, d.wall(), s);
  EXPECT_EQ(Desk::only<Lease>(d.settle()).at(0).request, 901U);
}

TEST(Budget, WhatTheOtherTeamsHaveSpentCounts) {
  Settings s = Desk::defaults();
  s.budget_micro_usd = 100;
  s.swarm_cost_micro_usd = 100;
  Desk d(s);
  d.join(worker(1));
  d.submit();
  d.engine->next(d.now, d.wall(), worker(1), 900, d.now + seconds(9));
  EXPECT_TRUE(Desk::only<Lease>(d.settle()).empty());
  d.pass(seconds(9));
  const auto none = Desk::only<NoTask>(d.settle());
  EXPECT_EQ(none.at(0).code, Code::kNotFound);
  EXPECT_EQ(none.at(0).reason, "the swarm's budget is spent");
  d.engine->next(d.now, d.wall(), worker(1), 901, d.now + seconds(9));
  s.budget_micro_usd.reset();
  d.engine->configure(d.now, d.wall(), s);
  EXPECT_EQ(Desk::only<Lease>(d.settle()).at(0).request, 901U);
  EXPECT_EQ(d.engine->budget_used(), std::nullopt);
}

TEST(Budget, WhatThisTeamHasSpentSinceItWasToldComesOnTop) {
  Settings s = Desk::defaults();
  s.budget_micro_usd = 100;
  Desk d(s);
  d.join(worker(1));
  const auto spend = [&](std::uint64_t micro_usd) {
    const TaskId id = d.submit();
    d.lease(worker(1));
    ASSERT_TRUE(d.report(worker(1), id, 1, {}, cost(micro_usd)).ok());
  };
  spend(30);
  s.swarm_cost_micro_usd = 60;  // 30 of it may be ours
  d.engine->configure(d.now, d.wall(), s);
  EXPECT_EQ(d.engine->budget_used(), 0.6);
  spend(25);
  d.engine->configure(d.now, d.wall(), s);  // no news
  EXPECT_EQ(d.engine->budget_used(), 0.85);
  s.swarm_cost_micro_usd = 85;
  d.engine->configure(d.now, d.wall(), s);
  EXPECT_EQ(d.engine->budget_used(), 0.85);
  spend(15);
  d.submit();
  EXPECT_FALSE(d.lease(worker(1)));
  // A successor knows what was told, and counts none of it twice.
  d.renew();
  d.settings = s;
  d.engine->configure(d.now, d.wall(), s);
  d.engine->begin_recovery(d.now);
  d.engine->restore_spent({}, spent(70, 3, 0));
  d.engine->end_recovery(d.now, d.wall());
  EXPECT_EQ(d.engine->budget_used(), 0.85);
}

TEST(Budget, OfNothingHandsOutNothing) {
  Settings s = Desk::defaults();
  s.budget_micro_usd = 0;
  Desk d(s);
  d.join(worker(1));
  d.submit();
  EXPECT_FALSE(d.lease(worker(1)));
  EXPECT_EQ(d.engine->budget_used(), 1.0);
}

TEST(Cancel, QueuedAtOnceRunningWhenItEnds) {
  Desk d;
  d.join(worker(1));
  const TaskId a = d.submit();
  EXPECT_EQ(d.engine->cancel(d.now, d.wall(), a)->state, TaskState::kCancelled);
  EXPECT_FALSE(d.lease(worker(1)).has_value());
  const TaskId b = d.submit();
  d.lease(worker(1));
  EXPECT_EQ(d.engine->cancel(d.now, d.wall(), b)->state, TaskState::kRunning);
  const Cancel told = d.take_all<Cancel>().at(0);
  EXPECT_EQ(told.id, b);
  EXPECT_EQ(told.attempt, 1U);
  EXPECT_TRUE(d.engine->extend(d.now, d.wall(), worker(1), b, 1, nullptr)->cancel);
  EXPECT_TRUE(d.report(worker(1), b, 1, FailKind::kCancelled).ok());
  EXPECT_EQ(d.state(b), TaskState::kCancelled);
  EXPECT_EQ(d.engine->cancel(d.now, d.wall(), b)->state, TaskState::kCancelled);
  const TaskId c = d.submit();
  d.lease(worker(1));
  ASSERT_TRUE(d.report(worker(1), c, 1).ok());
  EXPECT_EQ(d.engine->cancel(d.now, d.wall(), c).error().code, Code::kConflict);
  EXPECT_EQ(d.engine->cancel(d.now, d.wall(), TaskId{"t-0-x"}).error().code, Code::kNotFound);
}

TEST(Cancel, AnAgentThatDoesNotListenCannotHoldTheTask) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  d.lease(worker(1));
  ASSERT_TRUE(d.engine->cancel(d.now, d.wall(), id).ok());
  for (Milliseconds t{0}; t < d.settings.lease; t += seconds(1)) {
    d.pass(seconds(1));
    (void)d.engine->extend(d.now, d.wall(), worker(1), id, 1, nullptr).ok();
  }
  EXPECT_EQ(d.state(id), TaskState::kCancelled);
}

TEST(Retry, StartsAnewAndKeepsTheHistory) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit({"b", "", "", {}, 1});
  EXPECT_EQ(d.engine->retry(d.now, d.wall(), id).error().code, Code::kConflict);
  d.lease(worker(1));
  EXPECT_EQ(d.engine->retry(d.now, d.wall(), id).error().code, Code::kConflict);
  ASSERT_TRUE(d.report(worker(1), id, 1, FailKind::kFailed).ok());
  EXPECT_EQ(d.state(id), TaskState::kDead);
  const Result<Task> again = d.engine->retry(d.now, d.wall(), id);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->state, TaskState::kQueued);
  EXPECT_EQ(again->charged_attempts, 0U);
  EXPECT_EQ(again->finished_at, 0);
  EXPECT_EQ(d.lease(worker(1))->attempt, 2U);
  EXPECT_TRUE(d.report(worker(1), id, 2).ok());
  EXPECT_EQ(d.task(id).history.size(), 2U);
  EXPECT_EQ(d.engine->retry(d.now, d.wall(), id).error().code, Code::kConflict);
}

TEST(Retry, IsNotUndoneByAnAttemptFromBefore) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  d.lease(worker(1));
  ASSERT_TRUE(d.engine->cancel(d.now, d.wall(), id).ok());
  d.engine->worker_disconnected(d.now, d.wall(), worker(1));  // it was told
  d.pass(d.settings.worker_lost_after);
  ASSERT_EQ(d.state(id), TaskState::kCancelled);
  ASSERT_TRUE(d.engine->retry(d.now, d.wall(), id).ok());
  d.take();
  d.engine->worker_joined(d.now, d.wall(), worker(1), {{id, 1}}, {});
  EXPECT_EQ(d.take_all<Cancel>().at(0).attempt, 1U) << "if it was not";
  EXPECT_TRUE(d.report(worker(1), id, 1, FailKind::kCancelled).ok());
  EXPECT_EQ(d.state(id), TaskState::kQueued);
  EXPECT_EQ(d.report(worker(1), id, 1).error().code, Code::kDenied) << "nor is it done";
  EXPECT_EQ(d.state(id), TaskState::kQueued);
  EXPECT_EQ(d.lease(worker(1))->attempt, 2U);
}

TEST(Retention, FinalTasksGoAndAreAnsweredExpired) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit({"b", "", "once", {}, {}});
  d.lease(worker(1));
  ASSERT_TRUE(d.report(worker(1), id, 1).ok());
  d.pass(d.settings.result_retention - Milliseconds(1));
  EXPECT_TRUE(d.engine->find(id).ok());
  d.take();
  d.pass(Milliseconds(1));
  const auto out = d.take();
  EXPECT_EQ(Desk::only<Erase>(out).at(0).id, id);
  EXPECT_EQ(Desk::only<Forget>(out).at(0).mirror, worker(1));
  EXPECT_EQ(d.engine->find(id).error().code, Code::kNotFound);
  EXPECT_NE(d.engine->find(id).error().message.find("expired"), std::string::npos);
  EXPECT_NE(d.submit({"b", "", "once", {}, {}}), id);
  EXPECT_EQ(d.engine->counts(d.wall()).done, 0U);
}

TEST(Retention, BeyondTheLimitTheOldestGoes) {
  Settings s = Desk::defaults();
  s.max_queued = 1000000;
  Desk d(s);
  d.join(worker(1));
  TaskId first, second;
  for (std::size_t i = 0; i <= kMaxFinal; ++i) {
    const TaskId id = d.submit();
    if (i == 0) first = id;
    if (i == 1) second = id;
    ASSERT_TRUE(d.engine->cancel(d.now, d.wall(), id).ok());
    d.pass(Milliseconds(1));
  }
  EXPECT_FALSE(d.engine->find(first).ok());
  EXPECT_TRUE(d.engine->find(second).ok());
  EXPECT_EQ(d.engine->counts(d.wall()).cancelled, kMaxFinal);
}

TEST(List, PagesInOrderAndFilters) {
  Desk d;
  d.join(worker(1));
  std::vector<TaskId> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(d.submit());
  ASSERT_TRUE(d.engine->cancel(d.now, d.wall(), ids[1]).ok());
  const auto page = *d.engine->list({}, {}, 2);
  ASSERT_EQ(page.size(), 2U);
  EXPECT_EQ(page[0]->id, ids[0]);
  EXPECT_EQ(page[1]->id, ids[1]);
  EXPECT_EQ(d.engine->list({}, ids[1], 100)->at(0)->id, ids[2]);
  EXPECT_EQ(d.engine->list({TaskState::kQueued}, {}, 100)->size(), 4U);
  EXPECT_EQ(d.engine->list({TaskState::kCancelled, TaskState::kDone}, {}, 100)->size(), 1U);
  const auto unknown = d.engine->list({}, TaskId{"t-0-unknown"}, 100);
  ASSERT_FALSE(unknown.ok()) << "an empty list would say that nothing is left";
  EXPECT_EQ(unknown.error().code, Code::kNotFound);
  d.pass(seconds(7));
  EXPECT_EQ(d.engine->counts(d.wall()).oldest_queued_seconds, 7);
  d.pass(d.settings.result_retention);
  EXPECT_EQ(d.engine->list({}, ids[1], 100)->at(0)->id,
            ids[2]);  // paging goes on after an erased one
}

// ---- versions

TEST(Rollout, RoutesAtTheFirstLeaseAndKeepsIt) {
  Settings s = Desk::defaults();
  s.v2_percentage = 0;
  s.v1_command = {"/opt/legacy", "run"};
  Desk d(s);
  d.join(worker(1));
  const TaskId id = d.submit({"b", "k", "", {}, {}});
  const auto first = d.lease(worker(1));
  EXPECT_EQ(first->version, Version::kV1);
  EXPECT_EQ(first->command, s.v1_command);
  ASSERT_TRUE(d.report(worker(1), id, 1, FailKind::kReleased).ok());
  s.v2_percentage = 100;
  d.engine->configure(d.now, d.wall(), s);
  EXPECT_EQ(d.lease(worker(1))->version, Version::kV1);
  ASSERT_TRUE(d.report(worker(1), id, 2, FailKind::kReleased).ok());
  s.v1_command.clear();  // there is no V1 any more
  d.engine->configure(d.now, d.wall(), s);
  EXPECT_EQ(d.lease(worker(1))->version, Version::kV2);
}

TEST(Rollout, MeasuresFinishedFirstAttempts) {
  Settings s = Desk::defaults();
  s.v2_percentage = 50;
  s.v1_command = {"v1"};
  Desk d(s);
  d.join(worker(1));
  std::uint64_t v1 = 0, v2 = 0;
  for (int i = 0; i < 200; ++i) {
    const TaskId id = d.submit({"b", "k" + std::to_string(i), "", {}, {}});
    const auto lease = d.lease(worker(1));
    ASSERT_TRUE(lease);
    EXPECT_EQ(lease->version, route("k" + std::to_string(i), 50));
    (lease->version == Version::kV1 ? v1 : v2)++;
    ASSERT_TRUE(d.report(worker(1), id, 1).ok());
  }
  EXPECT_EQ(d.engine->counts(d.wall()).v1_first, v1);
  EXPECT_EQ(d.engine->counts(d.wall()).v2_first, v2);
}

TEST(Rollout, WithoutACommandEverythingIsV2) {
  Settings s = Desk::defaults();
  s.v2_percentage = 0;
  Desk d(s);
  d.join(worker(1));
  d.submit();
  EXPECT_EQ(d.lease(worker(1))->version, Version::kV2);
}

// ---- recovery

TEST(Recovery, NothingIsHandedOutOrDeniedUntilItEnds) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  const Task saved = d.task(id);
  d.renew();
  d.engine->begin_recovery(d.now);
  EXPECT_TRUE(d.engine->recovering());
  EXPECT_EQ(d.engine->find(id).error().code, Code::kUnavailable);
  d.engine->restore(d.now, d.wall(), saved, worker(1));
  EXPECT_TRUE(d.engine->find(id).ok());
  d.engine->worker_joined(d.now, d.wall(), worker(1), {}, {{id, saved.version}});
  d.engine->next(d.now, d.wall(), worker(1), 1, d.now + seconds(60));
  d.engine->submit(d.now, d.wall(), 1, {"b", "", "", {}, {}});
  auto out = d.take();
  EXPECT_TRUE(Desk::only<Lease>(out).empty());
  EXPECT_EQ(Desk::only<Submitted>(out).at(0).result.error().code, Code::kUnavailable);
  d.engine->end_recovery(d.now, d.wall());
  out = d.take();
  EXPECT_EQ(Desk::only<Store>(out).at(0).id, id);
  EXPECT_EQ(Desk::only<Lease>(out).at(0).id, id);
  EXPECT_EQ(d.engine->counts(d.wall()).single_copy, 0U);
}

TEST(Recovery, AgainInTheSameProcessKeepsWhatIsHere) {
  Desk d;
  d.join(worker(1));
  const TaskId a = d.submit();
  d.lease(worker(1));
  const TaskId b = d.submit();
  d.engine->begin_recovery(d.now);
  d.pass(d.settings.lease * 2);
  d.engine->next(d.now, d.wall(), worker(1), 900, d.now + seconds(60));
  EXPECT_EQ(d.engine->extend(d.now, d.wall(), worker(1), a, 1, nullptr).error().code,
            Code::kUnavailable);
  EXPECT_EQ(d.engine->cancel(d.now, d.wall(), b).error().code, Code::kUnavailable);
  EXPECT_EQ(d.report(worker(1), a, 1).error().code, Code::kUnavailable);
  EXPECT_TRUE(d.take_all<Lease>().empty());
  EXPECT_EQ(d.state(a), TaskState::kRunning);
  d.engine->end_recovery(d.now, d.wall());
  EXPECT_EQ(d.take_all<Lease>().at(0).id, b);
  EXPECT_TRUE(d.report(worker(1), a, 1).ok());
}

TEST(Recovery, OfTwoAttemptsThatAWorkerNamesTheLatestCounts) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  d.lease(worker(1));
  const Task first = d.task(id);
  ASSERT_TRUE(d.report(worker(1), id, 1, FailKind::kReleased).ok());
  d.lease(worker(1));
  d.renew();
  d.engine->begin_recovery(d.now);
  d.engine->restore(d.now, d.wall(), first, std::nullopt);
  d.engine->worker_joined(d.now, d.wall(), worker(1), {{id, 2}, {id, 1}}, {});
  d.engine->end_recovery(d.now, d.wall());
  EXPECT_EQ(d.engine->running_on(worker(1).name)->attempt, 2U);
}

TEST(Recovery, TheHighestVersionWinsInAnyOrder) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  const Task v1 = d.task(id);
  d.lease(worker(1));
  const Task v2 = d.task(id);
  ASSERT_TRUE(d.report(worker(1), id, 1).ok());
  const Task v3 = d.task(id);
  for (const std::vector<Task>& order : {std::vector{v1, v2, v3}, {v3, v2, v1}, {v2, v3, v1}}) {
    d.renew();
    d.engine->begin_recovery(d.now);
    for (const Task& t : order) d.engine->restore(d.now, d.wall(), t, std::nullopt);
    d.engine->end_recovery(d.now, d.wall());
    EXPECT_EQ(d.state(id), TaskState::kDone);
    EXPECT_EQ(d.task(id).result->bytes, "result");
  }
}

TEST(Recovery, ALeaseWaitsForItsWorkerAndNotLonger) {
  for (const bool comes : {true, false}) {
    Desk d;
    d.join(worker(1));
    const TaskId id = d.submit();
    d.lease(worker(1));
    const Task saved = d.task(id);
    d.renew();
    d.engine->begin_recovery(d.now);
    d.engine->restore(d.now, d.wall(), saved, std::nullopt);
    d.engine->worker_joined(d.now, d.wall(), worker(2), {}, {});
    d.engine->next(d.now, d.wall(), worker(2), 1, d.now + seconds(60));
    d.engine->end_recovery(d.now, d.wall());
    d.pass(d.settings.worker_lost_after - Milliseconds(1));
    EXPECT_EQ(d.state(id), TaskState::kRunning);
    EXPECT_TRUE(d.take_all<Lease>().empty());
    if (comes) {
      d.engine->worker_joined(d.now, d.wall(), worker(1), {{id, 1}}, {});
      d.pass(d.settings.worker_lost_after);
      EXPECT_TRUE(d.take_all<Lease>().empty());
      EXPECT_TRUE(d.report(worker(1), id, 1).ok());
      EXPECT_EQ(d.task(id).history.size(), 1U);
    } else {
      d.pass(Milliseconds(1));
      EXPECT_EQ(d.take_all<Lease>().at(0).worker, worker(2));
      EXPECT_EQ(d.task(id).history[0].reason, "worker_lost");
    }
  }
}

TEST(Recovery, AWorkerThatComesWithoutItLosesTheLeaseAtOnce) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  d.lease(worker(1));
  const Task saved = d.task(id);
  d.renew();
  d.engine->begin_recovery(d.now);
  d.engine->worker_joined(d.now, d.wall(), worker(1), {}, {});
  d.engine->restore(d.now, d.wall(), saved, std::nullopt);
  d.engine->end_recovery(d.now, d.wall());
  EXPECT_EQ(d.state(id), TaskState::kQueued);
}

TEST(Recovery, ALeaseThatNoCopyKnowsIsTheWorkersAllTheSame) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  const Task before = d.task(id);
  d.lease(worker(1));
  d.renew();
  d.engine->begin_recovery(d.now);
  d.engine->restore(d.now, d.wall(), before, std::nullopt);
  d.engine->worker_joined(d.now, d.wall(), worker(1), {{id, 1}}, {});
  d.engine->worker_joined(d.now, d.wall(), worker(2), {}, {});
  d.engine->next(d.now, d.wall(), worker(2), 1, d.now + seconds(1));
  d.engine->end_recovery(d.now, d.wall());
  EXPECT_EQ(d.state(id), TaskState::kRunning);
  EXPECT_EQ(d.engine->running_on(worker(1).name)->id, id);
  EXPECT_TRUE(d.report(worker(1), id, 1).ok());
}

TEST(Recovery, AReportAsTheFirstSignOfLifeCounts) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  const Task before = d.task(id);
  d.lease(worker(1));
  d.renew();
  d.engine->begin_recovery(d.now);
  d.engine->restore(d.now, d.wall(), before, std::nullopt);
  d.engine->end_recovery(d.now, d.wall());
  d.engine->worker_joined(d.now, d.wall(), worker(1), {}, {});
  EXPECT_TRUE(d.report(worker(1), id, 1).ok());
  EXPECT_EQ(d.state(id), TaskState::kDone);
}

TEST(Recovery, ALateCopyCountsIfItHoldsAnOutcomeAndWeHaveNone) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  const Task v1 = d.task(id);
  d.lease(worker(1));
  const Task v2 = d.task(id);
  ASSERT_TRUE(d.report(worker(1), id, 1).ok());
  const Task v3 = d.task(id);
  d.renew();
  d.engine->begin_recovery(d.now);
  d.engine->restore(d.now, d.wall(), v1, std::nullopt);
  d.engine->worker_joined(d.now, d.wall(), worker(2), {}, {});
  d.engine->end_recovery(d.now, d.wall());
  ASSERT_EQ(d.lease(worker(2))->id, id);
  EXPECT_GE(d.task(id).version, kVersionStep);
  EXPECT_TRUE(d.engine->wants(id, v2.version));
  d.engine->restore(d.now, d.wall(), v2, worker(3));  // only a lease of a dead epoch
  EXPECT_EQ(d.engine->running_on(worker(2).name)->id, id);
  d.engine->restore(d.now, d.wall(), v3, worker(3));
  EXPECT_EQ(d.state(id), TaskState::kDone);
  EXPECT_EQ(Desk::only<Cancel>(d.settle()).at(0).worker, worker(2));
  EXPECT_EQ(d.task(id).history_dropped, 1U);
  EXPECT_EQ(d.report(worker(2), id, 1).error().code, Code::kDenied);
  EXPECT_FALSE(d.engine->wants(id, d.task(id).version));
}

TEST(Recovery, ACopyOfAnotherEpochDoesNotConfirmOurReport) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  const Task v1 = d.task(id);
  const auto recover = [&] {
    d.renew();
    d.engine->begin_recovery(d.now);
    d.engine->restore(d.now, d.wall(), v1, std::nullopt);
    d.engine->end_recovery(d.now, d.wall());
  };
  std::optional<Task> other;
  for (int i = 0; i < 20; ++i) {  // two epochs begin with v1; the other one drew the higher number
    recover();
    d.join(worker(2));
    ASSERT_TRUE(d.lease(worker(2)));
    if (!other || d.task(id).version > other->version) other = d.task(id);
  }
  recover();
  d.join(worker(3));
  ASSERT_TRUE(d.lease(worker(3)));
  ASSERT_LT(d.task(id).version + 1, other->version);
  Report report;
  report.id = id;
  report.attempt = 1;
  report.done = true;
  d.engine->report(d.now, d.wall(), worker(3), 77, report);
  EXPECT_TRUE(d.take_all<Reported>().empty());
  d.engine->worker_joined(d.now, d.wall(), worker(2), {}, {{id, other->version}});
  d.engine->restore(d.now, d.wall(), *other, worker(2));
  EXPECT_EQ(d.state(id), TaskState::kDone);
  EXPECT_GT(d.task(id).version, other->version);
  EXPECT_TRUE(d.take_all<Reported>().empty());
  EXPECT_EQ(Desk::only<Reported>(d.settle()).size(), 1U);
}

// Two coordinators went on from the same copy; the one whose versions are higher is not the one
// that told of a result.
TEST(Recovery, NothingFollowsUponDone) {
  for (const bool recovering : {true, false}) {
    for (const bool done_first : {true, false}) {
      Desk d;
      d.join(worker(1));
      const TaskId id = d.submit();
      d.lease(worker(1));
      Task other = d.task(id);
      ASSERT_TRUE(d.report(worker(1), id, 1).ok());
      Task done = d.task(id);
      ASSERT_EQ(done.state, TaskState::kDone);
      done.version += kVersionStep;
      other.version = 40 * kVersionStep;
      d.renew();
      d.engine->begin_recovery(d.now);
      const Task& first = done_first ? done : other;
      const Task& second = done_first ? other : done;
      d.engine->restore(d.now, d.wall(), first, std::nullopt);
      if (recovering) {
        EXPECT_TRUE(d.engine->wants(id, second.version));
        d.engine->restore(d.now, d.wall(), second, std::nullopt);
      }
      d.engine->end_recovery(d.now, d.wall());
      if (!recovering) {
        EXPECT_TRUE(d.engine->wants(id, second.version));
        d.engine->restore(d.now, d.wall(), second, worker(2));
      }
      d.engine->worker_joined(d.now, d.wall(), worker(2), {}, {{id, second.version}});
      d.settle();
      EXPECT_EQ(d.state(id), TaskState::kDone) << recovering << done_first;
      EXPECT_GT(d.task(id).version, other.version) << "the other one's holders take it";
      EXPECT_FALSE(d.engine->wants(id, other.version));
    }
  }
}

TEST(Recovery, AMirrorThatHoldsMoreIsNotSentLess) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  const Task v1 = d.task(id);
  d.lease(worker(1));
  const Task v2 = d.task(id);
  d.renew();
  d.engine->begin_recovery(d.now);
  d.engine->worker_joined(d.now, d.wall(), worker(2), {}, {{id, 1}});
  d.engine->restore(d.now, d.wall(), v1, worker(2));
  d.engine->worker_leaving(d.now, d.wall(), worker(2));  // its copies move …
  d.engine->worker_joined(d.now, d.wall(), worker(1), {{id, 1}},
                          {{id, 2}});  // … to one that has a newer one
  EXPECT_TRUE(d.take_all<Replicate>().empty());
  d.engine->restore(d.now, d.wall(), v2, worker(1));
  d.engine->end_recovery(d.now, d.wall());
  d.settle();
  EXPECT_TRUE(d.report(worker(1), id, 1).ok());  // and later versions reach it
  EXPECT_EQ(d.engine->mirrors_of(id), names({1}));
}

TEST(Recovery, WhatIsUnknownIsNotDeniedWhileAWorkerMayBringIt) {
  Desk d;
  d.join(worker(1));
  const TaskId mine = d.submit({"b", "", "known", {}, {}});
  d.engine->await_copies(true, true);
  const TaskId id{"t-0-abc"};
  EXPECT_EQ(d.engine->find(id).error().code, Code::kUnavailable);
  EXPECT_EQ(d.engine->cancel(d.now, d.wall(), id).error().code, Code::kUnavailable);
  EXPECT_EQ(d.engine->retry(d.now, d.wall(), id).error().code, Code::kUnavailable);
  EXPECT_EQ(d.report(worker(1), id, 1).error().code, Code::kUnavailable) << "else a result is lost";
  EXPECT_EQ(d.engine->find(TaskId{"t-7-abc"}).error().code, Code::kNotFound) << "another team's";
  EXPECT_EQ(d.engine->find(TaskId{"nonsense"}).error().code, Code::kNotFound);
  const auto submitted = [&](const std::string& idempotency_id) {
    d.engine->submit(d.now, d.wall(), ++d.tickets, {"b", "", idempotency_id, {}, {}});
    return Desk::only<Submitted>(d.settle()).at(0).result;
  };
  EXPECT_EQ(submitted("order-1").error().code, Code::kUnavailable);
  EXPECT_EQ(*submitted("known"), mine);
  EXPECT_TRUE(submitted("").ok());
  d.engine->await_copies(true, false);
  EXPECT_TRUE(submitted("order-0").ok());
  EXPECT_EQ(d.engine->find(id).error().code, Code::kUnavailable);
  EXPECT_TRUE(d.engine->awaiting());
  d.engine->await_copies(false, false);
  EXPECT_EQ(d.engine->find(id).error().code, Code::kNotFound);
  EXPECT_TRUE(submitted("order-1").ok());
}

TEST(Recovery, AReportWithoutALeaseNeverTakesATask) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  const Task saved = d.task(id);
  d.renew();
  d.engine->begin_recovery(d.now);
  d.engine->restore(d.now, d.wall(), saved, std::nullopt);
  d.join(worker(1));
  d.engine->end_recovery(d.now, d.wall());
  d.settle();
  const auto report = [&](bool leased) {
    Report r;
    r.id = id;
    r.attempt = 1;
    r.done = true;
    r.leased = leased;
    d.engine->report(d.now, d.wall(), worker(1), ++d.requests, r);
    return Desk::only<Reported>(d.settle()).at(0).status;
  };
  const Status refused = report(false);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kDenied);
  EXPECT_EQ(d.state(id), TaskState::kQueued);
  EXPECT_TRUE(report(true).ok()) << "an attempt that the earlier epoch gave";
  EXPECT_TRUE(report(false).ok()) << "a repetition";
}

// Two tasks of one idempotency id: `early` comes with its holder after `late` was accepted.
struct Twins : Desk {
  explicit Twins(std::optional<FailKind> early_failed = {}, bool early_done = false) {
    join(worker(1));
    early = submit({"b", "", "order-1", {}, {}});
    if (early_failed || early_done) {
      lease(worker(1));
      EXPECT_TRUE(report(worker(1), early, 1, early_failed).ok());
    }
    saved = task(early);
    renew();
    now += seconds(1);
    engine->begin_recovery(now);
    engine->end_recovery(now, wall());
    join(worker(2));
  }
  void early_comes() {
    engine->restore(now, wall(), saved, worker(1));
    engine->worker_joined(now, wall(), worker(1), {}, {{early, saved.version}});
  }
  TaskId again() { return submit({"b", "", "order-1", {}, {}}); }
  void expect_duplicate(const TaskId& spare, const TaskId& kept) {
    EXPECT_EQ(state(spare), TaskState::kCancelled);
    EXPECT_NE(task(spare).last_output.find(kept.value), std::string::npos);
    EXPECT_EQ(again(), kept);
    EXPECT_EQ(engine->retry(now, wall(), spare).error().code, Code::kConflict);
  }
  TaskId early, late;
  Task saved;
};

TEST(Duplicates, OfTwoQueuedOnesTheOlderIsKept) {
  Twins d;
  d.late = d.again();
  ASSERT_NE(d.late, d.early);
  d.early_comes();
  d.settle();
  EXPECT_EQ(d.state(d.early), TaskState::kQueued);
  d.expect_duplicate(d.late, d.early);
  EXPECT_EQ(d.lease(worker(2))->id, d.early);
  EXPECT_FALSE(d.lease(worker(2)));
}

TEST(Duplicates, TheOneAtWorkIsKept) {
  Twins d;
  d.late = d.again();
  d.lease(worker(2));
  d.early_comes();
  d.settle();
  EXPECT_EQ(d.state(d.late), TaskState::kRunning);
  d.expect_duplicate(d.early, d.late);
  EXPECT_FALSE(d.lease(worker(1)));
}

TEST(Duplicates, TheDoneOneIsKeptAndTheOtherIsEndedThoughAtWork) {
  Twins d({}, true);
  d.late = d.again();
  d.lease(worker(2));
  d.early_comes();
  EXPECT_EQ(d.take_all<Cancel>().at(0).id, d.late);
  EXPECT_EQ(d.state(d.early), TaskState::kDone);
  EXPECT_TRUE(d.report(worker(2), d.late, 1, FailKind::kCancelled).ok());
  EXPECT_EQ(d.state(d.late), TaskState::kCancelled);
  EXPECT_EQ(d.again(), d.early);
}

TEST(Duplicates, OfTwoDoneOnesBothStayDoneAndOneSaysSo) {
  Twins d({}, true);
  d.late = d.again();
  d.lease(worker(2));
  EXPECT_TRUE(d.report(worker(2), d.late, 1).ok());
  d.early_comes();
  d.settle();
  EXPECT_EQ(d.state(d.early), TaskState::kDone);
  EXPECT_EQ(d.state(d.late), TaskState::kDone) << "somebody was told so";
  EXPECT_EQ(d.task(d.late).result->bytes, "result");
  EXPECT_NE(d.task(d.late).last_output.find("duplicate of task " + d.early.value),
            std::string::npos);
  EXPECT_EQ(d.again(), d.early);
  const Task late = d.task(d.late);
  const Task early = d.task(d.early);
  d.renew();  // said once
  d.engine->begin_recovery(d.now);
  d.engine->restore(d.now, d.wall(), late, std::nullopt);
  d.engine->restore(d.now, d.wall(), early, std::nullopt);
  d.engine->end_recovery(d.now, d.wall());
  EXPECT_EQ(d.task(d.late).version, late.version);
  EXPECT_EQ(d.task(d.early).last_output, early.last_output);
}

TEST(Duplicates, AFailedOneDoesNotEndTheOther) {
  Twins d(FailKind::kBadTask);
  d.late = d.again();
  d.early_comes();
  d.settle();
  EXPECT_EQ(d.state(d.early), TaskState::kDead);
  EXPECT_EQ(d.state(d.late), TaskState::kQueued);
  EXPECT_EQ(d.again(), d.late);
  EXPECT_EQ(d.engine->retry(d.now, d.wall(), d.early).error().code, Code::kConflict);
  ASSERT_TRUE(d.engine->cancel(d.now, d.wall(), d.late).ok());
  EXPECT_TRUE(d.engine->retry(d.now, d.wall(), d.early).ok());
  EXPECT_EQ(d.again(), d.early);
}

TEST(Duplicates, OneThatIsNotAcceptedYetGivesWay) {
  Twins d;
  d.engine->submit(d.now, d.wall(), 77, {"b", "", "order-1", {}, {}});
  const TaskId late = d.take_all<Store>().at(0).id;
  d.early_comes();
  const auto out = d.settle();
  const auto answers = Desk::only<Submitted>(out);
  ASSERT_EQ(answers.size(), 1U);
  EXPECT_EQ(answers[0].ticket, 77U);
  EXPECT_EQ(*answers[0].result, d.early);
  EXPECT_TRUE(answers[0].duplicate);
  EXPECT_EQ(Desk::only<Erase>(out).at(0).id, late);
  EXPECT_EQ(d.engine->find(late).error().code, Code::kNotFound);
}

TEST(Duplicates, ThatComeTogetherAreFoundAtTheEndOfRecoveryAndStayEnded) {
  Twins d;
  d.late = d.again();
  const Task late = d.task(d.late);
  d.renew();
  d.engine->begin_recovery(d.now);
  d.engine->restore(d.now, d.wall(), late, std::nullopt);
  d.engine->restore(d.now, d.wall(), d.saved, std::nullopt);
  d.engine->worker_joined(d.now, d.wall(), worker(1), {}, {});
  d.engine->end_recovery(d.now, d.wall());
  d.settle();
  d.expect_duplicate(d.late, d.early);
  const Task ended = d.task(d.late);
  d.renew();  // the one that was ended comes first: it does not count as what became of the id
  d.engine->begin_recovery(d.now);
  d.engine->restore(d.now, d.wall(), ended, std::nullopt);
  d.engine->restore(d.now, d.wall(), d.saved, std::nullopt);
  d.engine->worker_joined(d.now, d.wall(), worker(1), {}, {});
  d.engine->end_recovery(d.now, d.wall());
  d.settle();
  EXPECT_EQ(d.state(d.early), TaskState::kQueued);
  EXPECT_EQ(d.again(), d.early);
}

TEST(Recovery, ForeignAndBrokenCopiesAreIgnored) {
  Desk d;
  d.join(worker(1));
  const TaskId id = d.submit();
  Task foreign = d.task(id);
  Task broken = foreign;
  foreign.id.value = "t-7-abc";
  broken.state = TaskState::kRunning;
  d.renew();
  d.engine->begin_recovery(d.now);
  d.engine->restore(d.now, d.wall(), foreign, std::nullopt);
  d.engine->restore(d.now, d.wall(), broken, std::nullopt);
  d.engine->end_recovery(d.now, d.wall());
  EXPECT_TRUE(d.engine->list({}, {}, 10)->empty());
  EXPECT_FALSE(d.engine->wants(foreign.id, 1));
}

TEST(Recovery, KeepsRetentionAndPauses) {
  Desk d;
  d.join(worker(1));
  const TaskId a = d.submit();
  d.lease(worker(1));
  ASSERT_TRUE(d.report(worker(1), a, 1).ok());
  const TaskId b = d.submit();
  d.lease(worker(1));
  ASSERT_TRUE(d.report(worker(1), b, 1, FailKind::kTryLater).ok());
  const Task saved_a = d.task(a), saved_b = d.task(b);
  d.renew();
  d.now += seconds(2);
  d.engine->begin_recovery(d.now);
  d.engine->restore(d.now, d.wall(), saved_a, std::nullopt);
  d.engine->restore(d.now, d.wall(), saved_b, std::nullopt);
  d.engine->worker_joined(d.now, d.wall(), worker(1), {}, {});
  d.engine->end_recovery(d.now, d.wall());
  EXPECT_FALSE(d.lease(worker(1)).has_value());
  d.pass(seconds(3));
  EXPECT_EQ(d.lease(worker(1))->id, b);
  d.pass(d.settings.result_retention - seconds(5));
  EXPECT_FALSE(d.engine->find(a).ok());
}

// ---- subtasks and waits

// A desk where attempts submit and wait.
struct Family : testing::Test {
  Family() {
    for (int i = 1; i <= 4; ++i) desk.join(worker(i));
  }
  // A task at work on worker `n`.
  Lease begin(int n, Submission s = {"body", "", "", {}, {}}) {
    desk.submit(std::move(s));
    return *desk.lease(worker(n));
  }
  static AtWork at(const Lease& lease) { return {lease.worker, lease.id, lease.attempt}; }
  Submission of(const Lease& lease, const std::string& id = "") {
    return {"part", "", id, {}, {}, at(lease)};
  }
  Submitted submit(Submission s) {
    desk.engine->submit(desk.now, desk.wall(), ++desk.tickets, std::move(s));
    return Desk::only<Submitted>(desk.settle()).at(0);
  }
  // What is answered at once; nullopt: it waits.
  std::optional<Status> wait(const Lease& lease, const std::vector<TaskId>& tasks) {
    desk.engine->wait(desk.now, desk.wall(), lease.worker, ++desk.requests,
                      Engine::Running{lease.id, lease.attempt}, tasks);
    const auto answers = Desk::only<Waited>(desk.settle());
    return answers.empty() ? std::nullopt : std::optional(answers[0].status);
  }
  void send_report(const Worker& w, const TaskId& id, bool done) {
    Report report;
    report.id = id;
    report.attempt = 1;
    report.done = done;
    report.kind = FailKind::kBadTask;
    desk.engine->report(desk.now, desk.wall(), w, ++desk.requests, report);
  }
  Desk desk;
};

TEST_F(Family, ASubtaskNamesItsParentThroughARestart) {
  const Lease parent = begin(1);
  const TaskId child = *submit(of(parent)).result;
  EXPECT_EQ(desk.task(child).parent, parent.id);
  EXPECT_EQ(desk.task(child).depth, 1U);
  ASSERT_EQ(desk.engine->subtasks_of(parent.id).size(), 1U);
  EXPECT_EQ(desk.engine->subtasks_of(parent.id)[0]->id, child);

  desk.renew();
  desk.engine->begin_recovery(desk.now);
  for (const auto& [id, task] : std::map(desk.log))
    desk.engine->restore(desk.now, desk.wall(), task, std::nullopt);
  desk.engine->end_recovery(desk.now, desk.wall());
  EXPECT_EQ(desk.task(child).parent, parent.id);
  EXPECT_EQ(desk.engine->subtasks_of(parent.id).size(), 1U);
}

TEST_F(Family, OnlyTheAttemptAtWorkHasSubtasks) {
  const Lease parent = begin(1);
  const auto code = [&](AtWork by) {
    return submit({"part", "", "", {}, {}, std::move(by)}).result.error().code;
  };
  EXPECT_EQ(code({worker(2), parent.id, 1}), Code::kDenied) << "another worker's";
  EXPECT_EQ(code({worker(1), parent.id, 2}), Code::kDenied) << "no such attempt";
  EXPECT_EQ(code({worker(1), TaskId{"t-0-zz"}, 1}), Code::kNotFound);
  EXPECT_EQ(code({worker(9), parent.id, 1}), Code::kUnavailable) << "it has not joined";
  ASSERT_TRUE(desk.engine->cancel(desk.now, desk.wall(), parent.id).ok());
  EXPECT_EQ(code(at(parent)), Code::kDenied) << "it is cancelled";
  EXPECT_TRUE(desk.engine->subtasks_of(parent.id).empty());
}

TEST_F(Family, TheSameIdOfTheNextAttemptIsTheSameTask) {
  const Lease first = begin(1);
  const TaskId child = *submit(of(first, "part-1")).result;
  ASSERT_TRUE(desk.report(worker(1), first.id, 1, FailKind::kReleased));
  const Lease other = *desk.lease(worker(1));
  const Lease again = other.id == first.id ? other : *desk.lease(worker(2));
  ASSERT_EQ(again.id, first.id);
  const Submitted twice = submit(of(again, "part-1"));
  EXPECT_EQ(*twice.result, child);
  EXPECT_TRUE(twice.duplicate);
}

TEST_F(Family, SubtasksOfOneParentAndTheirDepthAreBounded) {
  desk.settings.max_queued = 2 * kMaxSubtasks;
  desk.engine->configure(desk.now, desk.wall(), desk.settings);
  const Lease parent = begin(1);
  for (std::size_t i = 0; i < kMaxSubtasks; ++i) ASSERT_TRUE(submit(of(parent)).result.ok());
  EXPECT_EQ(submit(of(parent)).result.error().code, Code::kFull);

  desk.renew();
  for (int i = 1; i <= 4; ++i) desk.join(worker(i));
  Lease deepest = begin(1);
  for (std::uint32_t depth = 1; depth <= kMaxDepth; ++depth) {
    ASSERT_TRUE(submit(of(deepest)).result.ok());
    deepest = *desk.lease(worker(1));
  }
  EXPECT_EQ(submit(of(deepest)).result.error().code, Code::kInvalid);
}

TEST_F(Family, AWaitEndsWithTheLastOfItsTasks) {
  const Lease parent = begin(1);
  const TaskId a = *submit(of(parent)).result;
  const TaskId b = *submit(of(parent)).result;
  EXPECT_EQ(wait(parent, {a, b}), std::nullopt);
  EXPECT_EQ(desk.engine->waits_of(parent.id).size(), 2U);
  EXPECT_EQ(desk.engine->counts(desk.wall()).waiting, 1U);
  ASSERT_TRUE(desk.lease(worker(2)) && desk.report(worker(2), a, 1));
  EXPECT_EQ(desk.engine->waits_of(parent.id), std::vector<TaskId>{b});
  ASSERT_TRUE(desk.lease(worker(2)));
  send_report(worker(2), b, false);
  const auto over = Desk::only<Waited>(desk.settle());
  ASSERT_EQ(over.size(), 1U) << "dead is an end, too";
  EXPECT_TRUE(over[0].status.ok());
  EXPECT_EQ(over[0].tasks, (std::vector<TaskId>{a, b}));
  EXPECT_EQ(desk.engine->counts(desk.wall()).waiting, 0U);
  EXPECT_TRUE(wait(parent, {a})->ok()) << "at once";
}

TEST_F(Family, AWaitForWhatIsNotHereIsRefused) {
  const Lease parent = begin(1);
  const TaskId child = *submit(of(parent)).result;
  EXPECT_EQ(wait(parent, {TaskId{"t-0-zz"}})->error().code, Code::kNotFound);
  EXPECT_EQ(wait(parent, {TaskId{"t-1-zz"}})->error().code, Code::kInvalid) << "another team's";
  EXPECT_EQ(wait(parent, {})->error().code, Code::kInvalid);
  EXPECT_EQ(wait(parent, std::vector<TaskId>(kMaxAwaited + 1, child))->error().code,
            Code::kInvalid);
  Lease stranger = parent;
  stranger.worker = worker(2);
  EXPECT_EQ(wait(stranger, {child})->error().code, Code::kDenied);
  for (std::size_t i = 0; i < kMaxWaitsPerWorker; ++i)
    EXPECT_EQ(wait(parent, {child}), std::nullopt);
  EXPECT_EQ(wait(parent, {child})->error().code, Code::kFull);
}

TEST_F(Family, ACycleOfWaitsIsRefusedAndNamed) {
  const Lease a = begin(1);
  const Lease b = begin(2);
  const Lease c = begin(3);
  EXPECT_EQ(wait(a, {a.id})->error().code, Code::kDenied) << "for itself";
  EXPECT_EQ(wait(a, {b.id}), std::nullopt);
  EXPECT_EQ(wait(b, {c.id}), std::nullopt);
  const auto refused = wait(c, {a.id});
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->error().code, Code::kDenied);
  const std::string way =
      c.id.value + " -> " + a.id.value + " -> " + b.id.value + " -> " + c.id.value;
  EXPECT_NE(refused->error().message.find(way), std::string::npos) << refused->error().message;
  EXPECT_EQ(desk.engine->cycle_of(c.id), way);
  EXPECT_EQ(desk.engine->counts(desk.wall()).cycles, 2U);
  EXPECT_TRUE(desk.engine->waits_of(c.id).empty()) << "it does not wait";
  ASSERT_TRUE(desk.report(worker(3), c.id, 1));
  EXPECT_EQ(desk.engine->cycle_of(c.id), "") << "said while it is at work";
  EXPECT_EQ(desk.engine->waits_of(a.id), std::vector<TaskId>{b.id}) << "others wait on";
}

TEST_F(Family, ASubtaskThatWaitsForItsAncestorIsRefused) {
  const Lease parent = begin(1);
  submit(of(parent));
  const Lease child = *desk.lease(worker(2));
  EXPECT_EQ(wait(parent, {child.id}), std::nullopt);
  EXPECT_EQ(wait(child, {parent.id})->error().code, Code::kDenied);
}

TEST_F(Family, AWaitIsOverWithItsAttemptItsLinkOrItsCall) {
  const Lease a = begin(1);
  const Lease b = begin(2);
  ASSERT_EQ(wait(a, {b.id}), std::nullopt);
  desk.engine->forget_wait(worker(1), desk.requests);
  EXPECT_TRUE(desk.engine->waits_of(a.id).empty()) << "the call";
  ASSERT_EQ(wait(a, {b.id}), std::nullopt);
  desk.engine->worker_disconnected(desk.now, desk.wall(), worker(1));
  EXPECT_TRUE(desk.engine->waits_of(a.id).empty()) << "the link";
  desk.engine->worker_joined(desk.now, desk.wall(), worker(1), {{a.id, 1}}, {});
  ASSERT_EQ(wait(a, {b.id}), std::nullopt);
  send_report(worker(1), a.id, true);
  const auto ended = Desk::only<Waited>(desk.settle());
  ASSERT_EQ(ended.size(), 1U) << "the attempt";
  EXPECT_EQ(ended[0].status.error().code, Code::kDenied);
  EXPECT_TRUE(desk.engine->waits_of(a.id).empty());
}

TEST_F(Family, AWaitThatIsSaidAgainMeetsTheOthers) {
  const Lease a = begin(1);
  const Lease b = begin(2);
  ASSERT_EQ(wait(a, {b.id}), std::nullopt);
  desk.engine->worker_disconnected(desk.now, desk.wall(), worker(1));
  EXPECT_EQ(wait(b, {a.id}), std::nullopt) << "nobody knows of a's wait now";
  desk.engine->worker_joined(desk.now, desk.wall(), worker(1), {{a.id, 1}}, {});
  EXPECT_EQ(wait(a, {b.id})->error().code, Code::kDenied);
}

TEST_F(Family, WhoWaitsKeepsItsLeaseAndIsNotStill) {
  const Lease a = begin(1);
  const Lease b = begin(2);
  ASSERT_EQ(wait(a, {b.id}), std::nullopt);
  const Engine::Still still{desk.wall() - 1000, "nothing is known"};
  ASSERT_TRUE(desk.engine->extend(desk.now, desk.wall(), worker(1), a.id, 1, nullptr, &still).ok());
  EXPECT_TRUE(desk.engine->stuck().empty());
  for (int i = 0; i < 10; ++i) {
    desk.pass(Milliseconds(10000));
    ASSERT_TRUE(desk.engine->extend(desk.now, desk.wall(), worker(2), b.id, 1, nullptr).ok());
  }
  EXPECT_EQ(desk.state(a.id), TaskState::kRunning) << "nobody has extended it";
  ASSERT_TRUE(desk.engine->cancel(desk.now, desk.wall(), a.id).ok());
  const auto ended = Desk::only<Waited>(desk.settle());
  ASSERT_EQ(ended.size(), 1U) << "who is cancelled is told so";
  EXPECT_EQ(ended[0].status.error().code, Code::kDenied);
  for (int i = 0; i < 4; ++i) {
    desk.pass(Milliseconds(10000));
    ASSERT_TRUE(desk.engine->extend(desk.now, desk.wall(), worker(2), b.id, 1, nullptr).ok());
  }
  EXPECT_EQ(desk.state(a.id), TaskState::kCancelled) << "and holds it no longer";
}

TEST_F(Family, ThatAllWaitForWhatNobodyIsLeftForIsSaid) {
  desk.renew();
  desk.join(worker(1));
  const Lease parent = begin(1);
  const TaskId child = *submit(of(parent)).result;
  EXPECT_EQ(desk.engine->counts(desk.wall()).starved, 0U);
  ASSERT_EQ(wait(parent, {child}), std::nullopt);
  EXPECT_EQ(desk.engine->counts(desk.wall()).starved, 1U);
  desk.join(worker(2));
  EXPECT_EQ(desk.engine->counts(desk.wall()).starved, 0U) << "somebody has come";
}

}  // namespace
}  // namespace swarm::tasks
