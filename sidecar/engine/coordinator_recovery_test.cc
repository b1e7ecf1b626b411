// What a coordinator does with a log that an earlier life of its engine has left, and with the
// report of another.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/coordinator.h"
#include "sim/fake_directory.h"

namespace swarm::engine {
namespace {

using nlohmann::json;

constexpr const char* kNobodyHere = "127.0.0.99";  // refuses connections

std::string token_file() {
  const std::string path = testing::TempDir() + "swarm-token-" + std::to_string(::getpid());
  std::ofstream(path) << "token";
  return path;
}

api::TeamReport report_of(std::uint64_t epoch, const std::vector<std::string>& workers) {
  api::TeamReport report;
  report.epoch = epoch;
  for (const auto& name : workers) report.workers[name] = {name + "-pod", false, "", kNobodyHere};
  return report;
}

tasks::Task task(const std::string& id, std::uint64_t version) {
  tasks::Task out;
  out.id.value = id;
  out.version = version;
  out.body = "x";
  out.created_at = out.updated_at = 1;
  return out;
}

// One life of a coordinator's engine, in a volume that outlives it.
class Life {
 public:
  explicit Life(os::Directory& directory, std::uint64_t corrupt_records = 0) {
    config_.coordinator = true;
    config_.name.value = "coordinator-0";
    config_.pod = "c0";
    config_.node = "n1";
    config_.link_port = 1;
    config_.submit_token_file = token_file();
    options_.self.name = config_.name;
    options_.secret = std::string(32, 's');
    LogId id;
    id.bytes[0] = 1;
    struct Kept {
      log::Record record;
      std::string payload;
    };
    std::vector<Kept> kept;
    log::Recovery recovery;
    log_ = *log::Log::open(
        directory, {.max_bytes = 16U << 20U}, id,
        [&](const log::Record& record) {
          kept.push_back({record, std::string(record.payload)});
        },
        &recovery);
    loop_.attach(*log_);
    box_.attach(*log_, mono_now());
    coordinator_ = std::make_unique<Coordinator>(loop_, config_, options_, mail_);
    coordinator_->on_higher_epoch = [this](std::uint64_t at_least) { raised = at_least; };
    for (auto& one : kept) {
      one.record.payload = one.payload;
      tasks += one.record.kind == tasks::kTask ? 1 : 0;
      coordinator_->restore(one.record);
    }
    coordinator_->attach(*log_, recovery.corrupt_records + corrupt_records > 0);
  }
  ~Life() {
    coordinator_.reset();
    io_.restart();
    io_.run_for(Milliseconds{20});  // closed sessions say so
    check(log_->commit().ok(), "commit");
    ::unlink(config_.submit_token_file.c_str());
  }
  Life(const Life&) = delete;
  Life& operator=(const Life&) = delete;

  Coordinator& operator*() { return *coordinator_; }
  Coordinator* operator->() { return coordinator_.get(); }
  log::Log& log() { return *log_; }
  void run(Milliseconds time) {
    io_.restart();
    io_.run_for(time);
  }
  bool run_until(const std::function<bool()>& done, Milliseconds limit = Milliseconds{20000}) {
    const auto end = mono_now() + limit;
    while (!done() && mono_now() < end) run(Milliseconds{10});
    return done();
  }
  int ask(const std::string& method, const std::string& path, const std::string& body = "") {
    int status = 0;
    coordinator_->http({method, path, {}, {{"x-swarm-token", "token"}}, body, ""},
                       [&](const net::HttpResponse& r) { status = r.status; });
    run_until([&] { return status != 0; });
    return status;
  }

  std::uint64_t raised = 0;
  std::size_t tasks = 0;  // records of tasks that the log had

 private:
  Config config_;
  Session::Options options_;
  boost::asio::io_context io_{1};
  std::unique_ptr<log::Log> log_;
  Loop loop_{io_};
  mailbox::Mailbox box_{{"coordinator-0"}, {}};
  Mail mail_{loop_, box_, config_, options_,
             [](const AgentName&, const Located& done) { done(not_found("nobody")); }};
  std::unique_ptr<Coordinator> coordinator_;
};

class Recovery : public testing::Test {
 protected:
  sim::FakeDirectory directory_{20U << 20U};
};

TEST_F(Recovery, AnEngineThatIsLostWhileItCollectsCollectsAgain) {
  api::TeamReport last;
  {
    Life first(directory_);
    first->activate(2, report_of(1, {"worker-0"}));
    EXPECT_TRUE(first->recovering());
    last = first->report();
  }
  EXPECT_EQ(last.epoch, 2U);
  Life second(directory_);
  second->activate(3, last);
  EXPECT_TRUE(second->recovering());
  EXPECT_FALSE(second->report().ready);
  EXPECT_EQ(second.ask("GET", "/v1/tasks/t-0-1"), 503);
  EXPECT_EQ(second.ask("POST", "/v1/tasks", R"({"body":"x","id":"order-1"})"), 503);
}

TEST_F(Recovery, ALogIsNotCompleteBeforeTheLastOneIsNoLongerAwaited) {
  api::TeamReport last;
  {
    Life first(directory_);
    first->activate(2, report_of(1, {"worker-0"}));
    EXPECT_TRUE(first.run_until([&] { return !first->recovering(); }));
    EXPECT_TRUE(first->incomplete());
    last = first->report();
  }
  Life second(directory_);
  second->activate(3, last);
  EXPECT_TRUE(second->recovering());
  EXPECT_EQ(second.ask("GET", "/v1/tasks/t-0-1"), 503);
}

TEST_F(Recovery, ACompleteLogNeedsNobody) {
  const auto last = report_of(1, {"worker-0"});
  {
    Life first(directory_);
    first->activate(1, {});
    EXPECT_FALSE(first->incomplete());
  }
  {
    Life second(directory_);
    second->activate(2, last);
    EXPECT_FALSE(second->incomplete());
    EXPECT_EQ(second->report().awaited.size(), 1U) << "if it is lost now, its successor asks";
    EXPECT_EQ(second.ask("GET", "/v1/tasks/t-0-1"), 404);
  }
  {
    Life damaged(directory_, 1);
    damaged->activate(3, report_of(2, {"worker-0"}));
    EXPECT_TRUE(damaged->recovering()) << "what is lost may be a task";
  }
  Life other(directory_);
  other->activate(3, report_of(2, {"worker-0"}));
  EXPECT_FALSE(other->recovering()) << "the damaged one has not collected";
}

TEST_F(Recovery, ALogOfWhichAnotherCoordinatorHasTakenOverIsNotComplete) {
  {
    Life first(directory_);
    first->activate(1, {});
  }
  Life second(directory_);
  second->activate(3, report_of(2, {"worker-0"}));
  EXPECT_TRUE(second->recovering());
}

TEST_F(Recovery, ATaskThatCannotBeReadMakesALogIncomplete) {
  {
    Life first(directory_);
    first->activate(1, {});
    ASSERT_TRUE(first.log().append(tasks::kTask, "not a task").ok());
  }
  Life second(directory_);
  second->activate(2, report_of(1, {"worker-0"}));
  EXPECT_TRUE(second->recovering());
}

TEST_F(Recovery, WhoeverIsStillAwaitedIsAwaitedBySuccessorsToo) {
  api::TeamReport last;
  {
    Life first(directory_);
    first->activate(2, report_of(1, {"worker-0", "worker-7"}));
    last = first->report();
  }
  EXPECT_TRUE(last.workers.empty());
  ASSERT_EQ(last.awaited.size(), 2U);
  EXPECT_EQ(last.awaited[1], (api::AwaitedPod{"worker-7", "worker-7-pod", kNobodyHere}));
  sim::FakeDirectory another{20U << 20U};
  Life second(another);
  second->activate(3, last);
  EXPECT_TRUE(second.run_until([&] { return !second->recovering(); }));
  EXPECT_TRUE(second->incomplete()) << "nobody can be reached";
  EXPECT_EQ(second->report().awaited, last.awaited);
  EXPECT_EQ(second.ask("GET", "/v1/tasks/t-0-1"), 503);
}

TEST_F(Recovery, AfterACoordinatorThatHadNoTimeToReportThereIsAWait) {
  Life life(directory_);
  life->activate(2, {});
  EXPECT_TRUE(life->recovering());
  sim::FakeDirectory another{20U << 20U};
  Life first(another);
  first->activate(1, {});
  EXPECT_FALSE(first->recovering()) << "there was none";
}

TEST_F(Recovery, ALeaseThatWasMadeAnewIsRaisedToWhatTheLogKnows) {
  {
    Life first(directory_);
    first->activate(7, report_of(6, {}));
    EXPECT_TRUE(first.run_until([&] { return !first->incomplete(); }));
  }
  Life second(directory_);
  second->activate(1, {});
  EXPECT_EQ(second.raised, 8U);
  EXPECT_FALSE(second->active());
  second->activate(8, {});
  EXPECT_TRUE(second->active());
  EXPECT_FALSE(second->incomplete());
}

TEST_F(Recovery, ALogKnowsThatItsPodHasLed) {
  {
    Life first(directory_);
    EXPECT_EQ(first->led_epoch(), 0U);
    first->activate(7, report_of(6, {}));
    EXPECT_TRUE(first.run_until([&] { return !first->incomplete(); }));
  }
  EXPECT_EQ(Life(directory_)->led_epoch(), 7U);
  sim::FakeDirectory another{20U << 20U};
  {
    Life first(another);
    ASSERT_TRUE(first.log().append(tasks::kTask, tasks::encode(task("t-0-1", 1))).ok());
  }
  EXPECT_EQ(Life(another)->led_epoch(), 1U) << "it was lost while it collected";
}

TEST_F(Recovery, AnEpochThatOthersHaveSeenIsAWaitForTheirTasks) {
  Life life(directory_);
  life->activate(1, {});
  EXPECT_EQ(life.ask("GET", "/v1/tasks/t-0-1"), 404);
  life->activate(8, {});
  EXPECT_TRUE(life->incomplete());
  EXPECT_EQ(life.ask("GET", "/v1/tasks/t-0-1"), 503);
  EXPECT_EQ(life.ask("POST", "/v1/tasks", R"({"body":"x","id":"order-1"})"), 503);
  EXPECT_TRUE(life.run_until([&] { return !life->incomplete(); }));
}

TEST_F(Recovery, AnOldRecordDoesNotOutliveTheNewest) {
  for (const bool newest_first : {false, true}) {
    sim::FakeDirectory directory{20U << 20U};
    {
      Life first(directory);
      // As kill -9 leaves them between append() and finish(); and as a bug of ours would.
      auto done = task("t-0-1", 3);
      done.state = tasks::TaskState::kCancelled;
      done.finished_at = 2;
      const auto append = [&](const tasks::Task& t) {
        return first.log().append(tasks::kTask, tasks::encode(t)).ok();
      };
      EXPECT_TRUE(!newest_first || append(done));
      EXPECT_TRUE(append(task("t-0-1", 1)));
      EXPECT_TRUE(append(task("t-0-1", 2)));
      EXPECT_TRUE(newest_first || append(done));
    }
    {
      Life second(directory);
      EXPECT_EQ(second.tasks, 3U);
      second->activate(1, {});
      // Its retention is over long since.
      EXPECT_TRUE(second.run_until([&] { return second.ask("GET", "/v1/tasks/t-0-1") == 404; }));
    }
    Life third(directory);
    EXPECT_EQ(third.tasks, 0U);
    third->activate(2, {});
    EXPECT_EQ(third->counts().queued, 0U);
  }
}

// What tasks have cost: spent is spent, however many lives the engine has.
class Spent : public Recovery {
 protected:
  static tasks::Task over(const std::string& id, std::uint64_t micro_usd) {
    auto out = task(id, 3);
    out.state = tasks::TaskState::kCancelled;
    out.finished_at = 2;  // its retention is over long since
    out.usage.cost_micro_usd = micro_usd;
    return out;
  }
  static api::UsageCounts cost(std::int64_t micro_usd, std::int64_t tasks) {
    return {.cost_micro_usd = micro_usd, .tasks = tasks, .priced_tasks = tasks};
  }
  static bool append(Life& life, const tasks::Task& t) {
    return life.log().append(tasks::kTask, tasks::encode(t)).ok();
  }
  static bool append(Life& life, std::uint64_t micro_usd, const std::string& last) {
    tasks::Expired expired;
    expired.spent.cost_micro_usd = micro_usd;
    expired.spent.tasks = expired.spent.priced_tasks = 1;
    expired.last.value = last;
    expired.version = 3;
    return life.log().append(tasks::kSpent, tasks::encode(expired)).ok();
  }
};

TEST_F(Spent, OfErasedTasksIsInTheLog) {
  {
    Life first(directory_);
    EXPECT_TRUE(append(first, over("t-0-1", 30)) && append(first, over("t-0-2", 12)));
  }
  {
    Life second(directory_);
    second->activate(1, {});
    EXPECT_TRUE(second.run_until([&] {
      return second.ask("GET", "/v1/tasks/t-0-1") == 404 &&
             second.ask("GET", "/v1/tasks/t-0-2") == 404;
    }));
    EXPECT_EQ(second->report().usage, cost(42, 2));
    EXPECT_EQ(second->report().expired_usage, cost(42, 2));
  }
  Life third(directory_);
  EXPECT_EQ(third.tasks, 0U);
  third->activate(2, {});
  EXPECT_EQ(third->report().usage, cost(42, 2));
}

TEST_F(Spent, OfATaskWhoseRecordACrashHasLeftIsCountedOnce) {
  {
    Life first(directory_);
    EXPECT_TRUE(append(first, 10, "t-0-9") && append(first, over("t-0-1", 30)));
    EXPECT_TRUE(append(first, 40, "t-0-1"));
  }
  for (std::uint64_t epoch = 1; epoch < 4; ++epoch) {
    Life life(directory_);
    EXPECT_EQ(life.tasks, epoch == 1 ? 1U : 0U);
    life->activate(epoch, {});
    EXPECT_EQ(life.ask("GET", "/v1/tasks/t-0-1"), 404);
    life.run(Milliseconds{20});
    EXPECT_EQ(life->report().usage, cost(40, 1)) << epoch;
  }
}

TEST_F(Spent, OfATaskThatCameBackUnderItsIdIsCountedAnew) {
  {
    Life first(directory_);
    EXPECT_TRUE(append(first, 40, "t-0-1"));
    auto again = task("t-0-1", 4);
    again.usage.cost_micro_usd = 2;
    EXPECT_TRUE(append(first, again));
  }
  Life second(directory_);
  second->activate(1, {});
  EXPECT_EQ(second.ask("GET", "/v1/tasks/t-0-1"), 200);
  EXPECT_EQ(second->report().usage, cost(42, 2));
}

TEST_F(Spent, ASuccessorWithoutTheLogGoesOnFromTheReport) {
  auto last = report_of(2, {});
  last.usage = cost(100, 4);
  last.expired_usage = cost(90, 3);
  Life life(directory_);
  life->activate(3, last);
  EXPECT_EQ(life->report().usage, cost(100, 4));
  EXPECT_EQ(life->report().expired_usage, cost(90, 3));
}

}  // namespace
}  // namespace swarm::engine
