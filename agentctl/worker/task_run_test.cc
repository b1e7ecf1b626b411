#include "worker/task_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace swarm::worker {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Type = Action::Type;

MonoTime at(std::int64_t ms) { return MonoTime(Milliseconds(ms)); }

std::vector<Type> types(const Actions& actions) {
  std::vector<Type> out;
  for (const Action& action : actions) out.push_back(action.type);
  return out;
}

constexpr Milliseconds kLease{30'000};

TEST(TaskRun, ExitCodesDecideTheKind) {
  const struct {
    Exit exit;
    Kind kind;
    int code;
  } rows[] = {{{0, 0}, Kind::kDone, 0},       {{65, 0}, Kind::kBadTask, 65},
              {{75, 0}, Kind::kTryLater, 75}, {{1, 0}, Kind::kFailed, 1},
              {{127, 0}, Kind::kFailed, 127}, {{255, 0}, Kind::kFailed, 255},
              {{0, 9}, Kind::kFailed, 137},   {{0, 15}, Kind::kFailed, 143}};
  for (const auto& row : rows) {
    TaskRun run({}, kLease, at(0));
    EXPECT_THAT(types(run.begin(at(0))), ElementsAre(Type::kStart));
    EXPECT_THAT(types(run.on_exit(row.exit, "", at(5))), ElementsAre(Type::kReport));
    EXPECT_EQ(run.verdict().kind, row.kind);
    EXPECT_EQ(run.verdict().exit_code, row.code);
    EXPECT_THAT(types(run.on_report(ReportAnswer::kAccepted, "", at(6))), ElementsAre(Type::kOver));
    EXPECT_TRUE(run.over());
    EXPECT_EQ(run.wake_at(), MonoTime::max());
  }
}

// A rate limit is not the task's fault, also when its CLI exits 1.
TEST(TaskRun, TheLastWordOfAKnownCliMayBeTryLater) {
  const struct {
    int code;
    const char* last;
    Kind kind;
  } rows[] = {
      {1, R"({"type":"result","is_error":true,"result":"API Error: 429 {\"error\":1}"})",
       Kind::kTryLater},
      {1, R"({"type":"error","error":{"type":"overloaded_error"}})", Kind::kTryLater},
      {1, "ERROR: exceeded retry limit, last status: 429 Too Many Requests", Kind::kTryLater},
      {1, "Claude AI usage limit reached|1763800000", Kind::kTryLater},
      {0, "Rate limit reached, and dealt with", Kind::kDone},
      {65, "Rate limit reached", Kind::kBadTask},
      {1, "test 429 failed", Kind::kFailed},
      {1, "", Kind::kFailed}};
  for (const auto& row : rows) {
    TaskRun run({}, kLease, at(0));
    (void)run.begin(at(0));
    (void)run.on_exit({row.code, 0}, row.last, at(1));
    EXPECT_EQ(run.verdict().kind, row.kind) << row.last;
    EXPECT_EQ(run.verdict().exit_code, row.code);
  }
}

TEST(TaskRun, AFailureIsToldInTheWordsOfItsCli) {
  const struct {
    const char *last, *message;
  } rows[] = {{"error: no such model", "exit code 1: error: no such model"},
              {R"({"type":"result"})", "exit code 1"},
              {"", "exit code 1"}};
  for (const auto& row : rows) {
    TaskRun run({}, kLease, at(0));
    (void)run.begin(at(0));
    (void)run.on_exit({1, 0}, row.last, at(1));
    EXPECT_EQ(run.verdict(), (Verdict{Kind::kFailed, row.message, 1}));
  }
}

// A pod that runs as root must not turn a queue into dead letters.
TEST(TaskRun, ACliThatRefusesThePodIsNotTheTasksFault) {
  TaskRun run({}, kLease, at(0));
  (void)run.begin(at(0));
  const std::string said =
      "--dangerously-skip-permissions cannot be used with root/sudo privileges";
  (void)run.on_exit({1, 0}, said, at(1));
  EXPECT_EQ(run.verdict(), (Verdict{Kind::kTryLater, "could not be started here: " + said, {}}));
  EXPECT_TRUE(run.never_ran());
}

TEST(TaskRun, GitStepsSurroundTheCommand) {
  TaskRun run({.git = true}, kLease, at(0));
  EXPECT_EQ(run.begin(at(0)), (Actions{{Type::kStart, Step::kPrepare, ""}}));
  EXPECT_EQ(run.on_exit({0, 0}, "", at(1)), (Actions{{Type::kStart, Step::kRun, ""}}));
  EXPECT_EQ(run.on_exit({0, 0}, "", at(2)), (Actions{{Type::kStart, Step::kFinish, ""}}));
  EXPECT_THAT(types(run.on_exit({0, 0}, "", at(3))), ElementsAre(Type::kReport));
  EXPECT_EQ(run.verdict().kind, Kind::kDone);
}

TEST(TaskRun, AnUnreachableRepositoryIsNotTheTasksFault) {
  TaskRun run({.git = true}, kLease, at(0));
  (void)run.begin(at(0));
  (void)run.on_exit({1, 0}, "fatal: no route", at(1));
  EXPECT_EQ(run.verdict().kind, Kind::kTryLater);
  EXPECT_EQ(run.verdict().message, "git clone failed: fatal: no route");
  EXPECT_TRUE(run.never_ran());
}

TEST(TaskRun, AFailedPushFailsTheAttempt) {
  TaskRun run({.git = true}, kLease, at(0));
  (void)run.begin(at(0));
  (void)run.on_exit({0, 0}, "", at(1));
  (void)run.on_exit({0, 0}, "", at(2));
  (void)run.on_exit({1, 0}, "denied", at(3));
  EXPECT_EQ(run.verdict().kind, Kind::kFailed);
  EXPECT_FALSE(run.never_ran());
}

TEST(TaskRun, AFailedCommandIsNotPushed) {
  TaskRun run({.git = true}, kLease, at(0));
  (void)run.begin(at(0));
  (void)run.on_exit({0, 0}, "", at(1));
  EXPECT_THAT(types(run.on_exit({3, 0}, "", at(2))), ElementsAre(Type::kReport));
}

TEST(TaskRun, TimeoutTerminatesThenKills) {
  TaskRun run({.run_timeout = Milliseconds(5000), .grace = Milliseconds(1000)}, kLease, at(0));
  (void)run.begin(at(0));
  EXPECT_EQ(run.wake_at(), at(5000));
  EXPECT_THAT(run.on_tick(at(4999)), IsEmpty());
  EXPECT_THAT(types(run.on_tick(at(5000))), ElementsAre(Type::kTerminate));
  EXPECT_THAT(run.on_tick(at(5999)), IsEmpty());
  EXPECT_THAT(types(run.on_tick(at(6000))), ElementsAre(Type::kKill));
  EXPECT_THAT(types(run.on_tick(at(7000))), ElementsAre(Type::kKill));
  EXPECT_THAT(types(run.on_exit({0, 9}, "", at(7001))), ElementsAre(Type::kReport));
  EXPECT_EQ(run.verdict(),
            (Verdict{Kind::kTimeout, "ended: the command took longer than 5s", std::nullopt}));
}

TEST(TaskRun, OutputAndCpuKeepItFromBeingIdle) {
  TaskRun run({.idle_timeout = Milliseconds(1000)}, kLease, at(0));
  (void)run.begin(at(0));
  run.on_activity(at(900));
  EXPECT_THAT(types(run.on_tick(at(1899))), ElementsAre(Type::kExtend));  // perhaps it waits
  EXPECT_THAT(types(run.on_tick(at(1900))), ElementsAre(Type::kTerminate));
  (void)run.on_exit({0, 0}, "", at(1901));  // it took the hint; too late
  EXPECT_EQ(run.verdict().kind, Kind::kIdleTimeout);
}

TEST(TaskRun, CloningIsNeitherIdleNorTimed) {
  TaskRun run({.run_timeout = Milliseconds(10), .idle_timeout = Milliseconds(10), .git = true},
              kLease, at(0));
  (void)run.begin(at(0));
  EXPECT_THAT(run.on_tick(at(5000)), IsEmpty());
  EXPECT_THAT(types(run.on_tick(at(10'000))), ElementsAre(Type::kExtend));
  EXPECT_THAT(types(run.on_tick(at(kGitStepLimit.count()))), ElementsAre(Type::kTerminate));
}

TEST(TaskRun, TheLeaseIsExtendedEveryThirdOneAtATime) {
  TaskRun run({}, Milliseconds(9000), at(0));
  (void)run.begin(at(0));
  EXPECT_EQ(run.wake_at(), at(3000));
  EXPECT_THAT(types(run.on_tick(at(3000))), ElementsAre(Type::kExtend));
  EXPECT_THAT(run.on_tick(at(60'000)),
              IsEmpty());  // the engine is away: nothing ends, nothing piles up
  EXPECT_EQ(run.wake_at(), MonoTime::max());
  EXPECT_THAT(run.on_extend(ExtendAnswer::kNone, at(60'000)), IsEmpty());
  EXPECT_THAT(types(run.on_tick(at(63'000))), ElementsAre(Type::kExtend));
}

TEST(TaskRun, ALostLeaseEndsItWithoutAReport) {
  TaskRun run({}, kLease, at(0));
  (void)run.begin(at(0));
  EXPECT_THAT(types(run.on_extend(ExtendAnswer::kLost, at(1))), ElementsAre(Type::kTerminate));
  EXPECT_THAT(types(run.on_exit({0, 0}, "", at(2))), ElementsAre(Type::kOver));
}

TEST(TaskRun, ACancelledTaskIsReportedAsSuch) {
  TaskRun run({}, kLease, at(0));
  (void)run.begin(at(0));
  EXPECT_THAT(types(run.on_extend(ExtendAnswer::kCancel, at(1))), ElementsAre(Type::kTerminate));
  EXPECT_THAT(run.on_extend(ExtendAnswer::kCancel, at(2)), IsEmpty());
  EXPECT_THAT(types(run.on_exit({1, 0}, "", at(3))), ElementsAre(Type::kReport));
  EXPECT_EQ(run.verdict(), (Verdict{Kind::kCancelled, "cancelled", 1}));
}

TEST(TaskRun, ALostLeaseOverridesACancel) {
  TaskRun run({}, kLease, at(0));
  (void)run.begin(at(0));
  (void)run.on_extend(ExtendAnswer::kCancel, at(1));
  (void)run.on_extend(ExtendAnswer::kLost, at(2));
  (void)run.on_extend(ExtendAnswer::kCancel, at(3));
  EXPECT_THAT(types(run.on_exit({1, 0}, "", at(3))), ElementsAre(Type::kOver));
}

TEST(TaskRun, ShutdownLetsTheCommandFinish) {
  TaskRun run({.task_grace = Milliseconds(5000)}, kLease, at(0));
  (void)run.begin(at(0));
  EXPECT_THAT(run.on_stop(at(100)), IsEmpty());
  EXPECT_THAT(run.on_tick(at(5099)), IsEmpty());
  (void)run.on_exit({0, 0}, "", at(5099));
  EXPECT_EQ(run.verdict().kind, Kind::kDone);
}

TEST(TaskRun, ShutdownReturnsWhatDoesNotFinish) {
  TaskRun run({.task_grace = Milliseconds(5000)}, kLease, at(0));
  (void)run.begin(at(0));
  (void)run.on_stop(at(100));
  EXPECT_EQ(run.wake_at(), at(5100));
  EXPECT_THAT(types(run.on_tick(at(5100))), ElementsAre(Type::kTerminate));
  (void)run.on_exit({0, 0}, "", at(5200));
  EXPECT_EQ(run.verdict().kind, Kind::kReleased);
}

TEST(TaskRun, ASecondSignalOrACloneIsNotWaitedFor) {
  TaskRun twice({}, kLease, at(0));
  (void)twice.begin(at(0));
  EXPECT_THAT(twice.on_stop(at(1)), IsEmpty());
  EXPECT_THAT(types(twice.on_stop(at(2))), ElementsAre(Type::kTerminate));
  TaskRun cloning({.git = true}, kLease, at(0));
  (void)cloning.begin(at(0));
  EXPECT_THAT(types(cloning.on_stop(at(1))), ElementsAre(Type::kTerminate));
}

TEST(TaskRun, AReportIsRepeatedUntilItIsAnswered) {
  TaskRun run({}, kLease, at(0));
  (void)run.begin(at(0));
  (void)run.on_exit({0, 0}, "", at(0));
  std::int64_t now = 0;
  Milliseconds longest{0};
  for (int i = 0; i < 50; ++i) {
    EXPECT_THAT(run.on_report(ReportAnswer::kAgain, "unavailable", at(now)), IsEmpty());
    const auto wake = run.wake_at();
    longest = std::max(longest, wake - at(now));
    now = wake.time_since_epoch().count();
    bool reported = false;
    for (const Action& action : run.on_tick(at(now))) {
      reported = reported || action.type == Type::kReport;
      if (action.type == Type::kExtend) (void)run.on_extend(ExtendAnswer::kNone, at(now));
    }
    while (!reported) {
      now = run.wake_at().time_since_epoch().count();
      for (const Action& action : run.on_tick(at(now))) {
        reported = reported || action.type == Type::kReport;
        if (action.type == Type::kExtend) (void)run.on_extend(ExtendAnswer::kNone, at(now));
      }
    }
  }
  EXPECT_LE(longest, kReportMostRetry);
  EXPECT_GT(now, 60'000);
  EXPECT_THAT(types(run.on_report(ReportAnswer::kAccepted, "", at(now))), ElementsAre(Type::kOver));
}

TEST(TaskRun, ARefusedReportIsOver) {
  TaskRun run({}, kLease, at(0));
  (void)run.begin(at(0));
  (void)run.on_exit({0, 0}, "", at(0));
  const Actions actions = run.on_report(ReportAnswer::kRefused, "attempt 2 owns it", at(1));
  ASSERT_EQ(actions.size(), 1U);
  EXPECT_EQ(actions[0].note, "refused: attempt 2 owns it");
}

TEST(TaskRun, AnInvalidResultBecomesAFailure) {
  TaskRun run({}, kLease, at(0));
  (void)run.begin(at(0));
  (void)run.on_exit({0, 0}, "", at(0));
  EXPECT_THAT(types(run.on_report(ReportAnswer::kInvalid, "too big", at(1))),
              ElementsAre(Type::kReport));
  EXPECT_EQ(run.verdict().kind, Kind::kFailed);
  EXPECT_THAT(types(run.on_report(ReportAnswer::kInvalid, "still", at(2))),
              ElementsAre(Type::kOver));
}

TEST(TaskRun, AForgottenTaskIsGivenUpAfterAWhile) {
  TaskRun run({}, kLease, at(0));
  (void)run.begin(at(0));
  (void)run.on_exit({0, 0}, "", at(0));
  EXPECT_THAT(run.on_report(ReportAnswer::kNotFound, "", at(0)), IsEmpty());
  EXPECT_THAT(run.on_report(ReportAnswer::kNotFound, "", at(kNotFoundPatience.count() - 1)),
              IsEmpty());
  EXPECT_THAT(types(run.on_report(ReportAnswer::kNotFound, "", at(kNotFoundPatience.count()))),
              ElementsAre(Type::kOver));
}

// Whatever happens in whatever order: at most one report is out, nothing is signalled when nothing
// runs, and once the child ends and the engine answers, the run gets over.
TEST(TaskRun, RandomWorldsComeToAnEnd) {
  for (unsigned seed = 0; seed < 3000; ++seed) {
    std::mt19937 random(seed);
    const auto pick = [&](unsigned n) { return static_cast<int>(random() % n); };
    Settings settings{.run_timeout = Milliseconds(pick(3) * 400),
                      .idle_timeout = Milliseconds(pick(3) * 300),
                      .grace = Milliseconds(pick(300)),
                      .task_grace = Milliseconds(pick(2000)),
                      .git = pick(2) == 0};
    std::int64_t now = 0;
    TaskRun run(settings, Milliseconds(300 + pick(3000)), at(now));
    bool child = false;
    bool report = false;
    bool extend = false;
    int overs = 0;
    const auto apply = [&](const Actions& actions) {
      for (const Action& action : actions) {
        switch (action.type) {
          case Type::kStart:
            EXPECT_FALSE(child) << seed;
            child = true;
            break;
          case Type::kTerminate:
          case Type::kKill:
            EXPECT_TRUE(child) << seed;
            break;
          case Type::kExtend:
            EXPECT_FALSE(extend) << seed;
            extend = true;
            break;
          case Type::kReport:
            EXPECT_FALSE(report) << seed;
            EXPECT_FALSE(child) << seed;
            report = true;
            break;
          case Type::kOver:
            EXPECT_FALSE(child) << seed;
            ++overs;
            break;
        }
      }
    };
    apply(run.begin(at(now)));
    for (int turn = 0; turn < 400 && !run.over(); ++turn) {
      const auto wake = run.wake_at();
      const std::int64_t jump =
          wake == MonoTime::max() ? 1000 : std::max<std::int64_t>(0, (wake - at(now)).count());
      now += pick(2) == 0 ? jump : std::min<std::int64_t>(jump, pick(200));
      const int choice = turn > 300 ? pick(2) : pick(8);
      if (choice == 0 && child) {
        child = false;
        const Exit exits[] = {{0, 0}, {1, 0}, {65, 0}, {75, 0}, {0, 9}};
        apply(run.on_exit(exits[pick(5)], "", at(now)));
      } else if (choice == 1 && report) {
        report = false;
        const ReportAnswer answers[] = {ReportAnswer::kAgain, ReportAnswer::kNotFound,
                                        ReportAnswer::kAccepted, ReportAnswer::kRefused,
                                        ReportAnswer::kInvalid};
        apply(run.on_report(answers[turn > 300 ? 2 : pick(5)], "m", at(now)));
      } else if (choice == 2 && extend) {
        extend = false;
        const ExtendAnswer answers[] = {ExtendAnswer::kAlive, ExtendAnswer::kAlive,
                                        ExtendAnswer::kCancel, ExtendAnswer::kLost,
                                        ExtendAnswer::kNone};
        apply(run.on_extend(answers[pick(5)], at(now)));
      } else if (choice == 3 && pick(10) == 0) {
        apply(run.on_stop(at(now)));
      } else if (choice == 4) {
        run.on_activity(at(now));
      }
      if (!run.over()) apply(run.on_tick(at(now)));
    }
    EXPECT_TRUE(run.over()) << seed;
    EXPECT_EQ(overs, 1) << seed;
  }
}

}  // namespace
}  // namespace swarm::worker
