// `agentctl work` as a program: real child processes, a fake engine.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <sstream>
#include <thread>

#include "testing/fake_engine.h"
#include "worker/process.h"

namespace swarm::agent {
namespace {

using testing::HasSubstr;
using worker::Fd;

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string task(const std::string& id, const std::string& body, int attempt = 1,
                 int lease_ms = 30'000, const std::string& more = "") {
  return "{\"id\":\"" + id + "\",\"key\":\"k\",\"attempt\":" + std::to_string(attempt) +
         ",\"maxAttempts\":3,\"version\":\"V2\",\"leaseMs\":" + std::to_string(lease_ms) +
         ",\"body\":" + quoted(body) + more + "}";
}

class Work : public testing::Test {
 protected:
  // Runs one task with `sh` reading the script from the body.
  Object run_script(const std::string& script, std::vector<std::string> flags = {}) {
    engine_.add_task(task("t-0-1f", script));
    return run(std::move(flags), {"sh"});
  }

  // One task with --once; the report.
  Object run(std::vector<std::string> flags, const std::vector<std::string>& command) {
    std::vector<std::string> words{"work", "--once"};
    words.insert(words.end(), flags.begin(), flags.end());
    words.emplace_back("--");
    words.insert(words.end(), command.begin(), command.end());
    Program program(directory_, socket_, words, environment_);
    code_ = program.wait();
    out_ = program.out();
    err_ = program.err();
    return report();
  }

  Object report() {
    for (const char* op : {"task_done", "task_fail"}) {
      const auto all = engine_.received(op);
      if (!all.empty()) return all.back();
    }
    return {};
  }

  // No process whose command line holds `word` is alive any more (init may need a moment to reap
  // it).
  static bool nobody_runs(const std::string& word) {
    for (int i = 0; i < 200; ++i) {
      bool found = false;
      for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
        std::ifstream file(entry.path() / "cmdline");
        std::ostringstream text;
        text << file.rdbuf();
        found = found || text.str().find(word) != std::string::npos;
      }
      if (!found) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  TemporaryDirectory directory_;
  std::string socket_ = directory_.path() + "/s";
  FakeEngine engine_{socket_};
  std::map<std::string, std::string> environment_;
  int code_ = -1;
  std::string out_;
  std::string err_;
};

TEST_F(Work, OutputIsTheResultAndTheLog) {
  const Object done = run_script("echo one; echo two >&2; printf three");
  EXPECT_EQ(code_, 0);
  EXPECT_EQ(done.text("op"), "task_done");
  EXPECT_EQ(done.text("result"), "one\nthree");
  EXPECT_EQ(done.number("exitCode"), 0);
  EXPECT_FALSE(done.has("truncated"));
  EXPECT_THAT(out_, HasSubstr("[t-0-1f 1] one\n"));
  EXPECT_THAT(out_, HasSubstr("[t-0-1f 1] two\n"));
  EXPECT_THAT(out_, HasSubstr("[t-0-1f 1] three\n"));
  EXPECT_THAT(done.texts("lastLines"), testing::UnorderedElementsAre("one", "two", "three"));
}

TEST_F(Work, TheCommandGetsBodyDirectoryAndEnvironment) {
  engine_.add_task(task("t-0-1f", "a b c", 2));
  const Object done = run(
      {},
      {"sh", "-c",
       "wc -w; cat \"$SWARM_TASK_FILE\"; echo; [ \"$PWD\" = \"$SWARM_TASK_DIR\" ] && echo here; "
       "echo $SWARM_TASK_ID $SWARM_TASK_KEY $SWARM_TASK_ATTEMPT $CFN_AGENT_ID "
       "$CFN_COORDINATION_VERSION; "
       "touch left; ls"});
  EXPECT_EQ(done.text("result"), "3\na b c\nhere\nt-0-1f k 2 worker-3 V2\nleft\n");
  for (const auto& entry : std::filesystem::directory_iterator(directory_.path())) {
    EXPECT_EQ(entry.path().filename().string().find("swarm-"), std::string::npos) << entry.path();
  }
}

TEST_F(Work, ALeaseMayNameAnotherCommand) {
  engine_.add_task(task("t-0-1f", "x", 1, 30'000,
                        R"(,"command":["sh","-c","echo legacy $CFN_COORDINATION_VERSION; cat"])"));
  EXPECT_EQ(run({}, {"false"}).text("result"), "legacy V2\nx");
}

TEST_F(Work, ExitCodes) {
  const struct {
    const char* script;
    const char* kind;
    int code;
  } rows[] = {{"exit 65", "bad_task", 65},
              {"exit 75", "try_later", 75},
              {"exit 3", "failed", 3},
              {"kill -9 $$", "failed", 137}};
  for (const auto& row : rows) {
    const Object fail = run_script(std::string("echo why >&2; ") + row.script);
    EXPECT_EQ(code_, 1) << row.script;
    EXPECT_EQ(fail.text("kind"), row.kind);
    EXPECT_EQ(fail.number("exitCode"), row.code);
    EXPECT_THAT(fail.texts("lastLines"), testing::ElementsAre("why"));
  }
}

// A CLI's own words about tokens and cost go with the outcome, whatever that is, and change neither
// it nor the result.
TEST_F(Work, UsageGoesWithTheOutcome) {
  const std::string claude =
      R"({"type":"result","session_id":"s-1","total_cost_usd":0.25,"usage":{"input_tokens":7,)"
      R"("output_tokens":9,"cache_read_input_tokens":100}})";
  engine_.add_task(task("t-0-1f", claude));
  const Object done = run({"--usage=claude"}, {"cat"});
  EXPECT_EQ(done.text("result"), claude);
  const Object usage = done.object("usage");
  EXPECT_EQ(usage.numbers(), (std::map<std::string, std::int64_t>{{"inputTokens", 7},
                                                                  {"outputTokens", 9},
                                                                  {"cacheReadTokens", 100},
                                                                  {"costMicroUsd", 250'000}}));
  EXPECT_EQ(usage.text("session"), "s-1");
  EXPECT_EQ(err_.find("no usage"), std::string::npos) << err_;
}

TEST_F(Work, UsageGoesWithAFailureToo) {
  engine_.add_task(task("t-0-1f", R"({"type":"result","total_cost_usd":0.25})"));
  const Object fail = run({"--usage=claude"}, {"sh", "-c", "cat; exit 75"});
  EXPECT_EQ(fail.text("kind"), "try_later");
  EXPECT_EQ(fail.object("usage").number("costMicroUsd"), 250'000);
}

TEST_F(Work, ARateLimitThatACliMeetsIsNotTheTasksFault) {
  const Object limited = run_script(
      "echo '{\"type\":\"result\",\"is_error\":true,\"result\":\"API Error: 429 "
      "rate_limit_error\"}'; "
      "exit 1",
      {"--usage=claude"});
  EXPECT_EQ(limited.text("kind"), "try_later");
  EXPECT_EQ(limited.number("exitCode"), 1);
  EXPECT_THAT(limited.text("message"), HasSubstr("exit code 1, taken for 75: "));
  const Object other = run_script("echo 'API Error: 429'; exit 1");
  EXPECT_EQ(other.text("kind"), "failed") << "of a program that is not known it may be anything";
}

// A stream of all that a CLI does is soon too long to be kept: then its last word is.
TEST_F(Work, OfALongStreamTheAnswerIsTheResult) {
  for (const auto& [cli, file] :
       {std::pair{"claude", "claude-2.1.330"}, {"codex", "codex-0.169.0"}}) {
    const std::string script = "cat " + (CLI_OUTPUT + std::string(file)) + "-done.jsonl";
    const std::string usage = std::string("--usage=") + cli;
    const Object cut = run_script(script, {usage, "--max-output=500"});
    EXPECT_EQ(cut.text("result"), "all green");
    EXPECT_TRUE(cut.flag("truncated"));
    EXPECT_GT(cut.number("resultBytes"), 500);
    EXPECT_EQ(run_script(script, {usage, "--max-output=3"}).text("result"), "all");
    const Object whole = run_script(script, {usage});
    EXPECT_TRUE(whole.text("result").starts_with("{\"type\":")) << "as it was printed";
    const Object unknown = run_script(script, {"--max-output=500"});
    EXPECT_EQ(unknown.text("result").size(), 500U);
  }
}

TEST_F(Work, TheRateLimitsOfRealCliAreKnown) {
  for (const auto& [cli, file] :
       {std::pair{"claude", "claude-2.1.330"}, {"codex", "codex-0.169.0"}}) {
    const std::string output = CLI_OUTPUT + std::string(file) + "-rate-limit.jsonl";
    const Object limited =
        run_script("cat " + output + "; exit 1", {std::string("--usage=") + cli});
    EXPECT_EQ(limited.text("kind"), "try_later") << limited.to_json();
  }
}

TEST_F(Work, UsageOfACliWithoutACostIsPriced) {
  engine_.add_task(task("t-0-1f", R"({"type":"turn.completed","usage":{"input_tokens":1000,)"
                                  R"("cached_input_tokens":600,"output_tokens":20}})"));
  const Object done =
      run({"--usage=codex", "--price-in=2", "--price-cached=.5", "--price-out=10"}, {"cat"});
  EXPECT_EQ(done.object("usage").number("costMicroUsd"), 400 * 2 + 300 + 200);
}

TEST_F(Work, UsageThatCannotBeReadIsAbsentAndSaid) {
  const Object done = run_script("echo '{\"type\":\"result\"'", {"--usage=claude"});
  EXPECT_EQ(done.text("op"), "task_done");
  EXPECT_FALSE(done.has("usage"));
  EXPECT_THAT(err_, HasSubstr("[t-0-1f 1] no usage: "));
}

TEST_F(Work, WithoutTheFlagNobodyLooksForUsage) {
  engine_.add_task(task("t-0-1f", R"({"type":"result","total_cost_usd":1})"));
  const Object done = run({}, {"cat"});
  EXPECT_FALSE(done.has("usage"));
  EXPECT_EQ(err_.find("usage"), std::string::npos) << err_;
}

TEST_F(Work, ACommandThatIsNotThereFailsTheAttempt) {
  engine_.add_task(task("t-0-1f", "x", 1, 30'000, R"(,"command":["no-such-thing"])"));
  const Object fail = run({}, {"true"});
  EXPECT_EQ(fail.text("kind"), "failed");
  EXPECT_EQ(fail.number("exitCode"), 127);
  EXPECT_THAT(fail.texts("lastLines")[0], HasSubstr("no-such-thing"));
}

TEST_F(Work, TimeoutEndsTheWholeGroup) {
  const Object fail =
      run_script("sleep 4711.25 & echo begun; sleep 4711.25", {"--timeout=300ms", "--grace=5s"});
  EXPECT_EQ(fail.text("kind"), "timeout");
  EXPECT_EQ(fail.text("message"), "ended: the command took longer than 300ms");
  EXPECT_TRUE(nobody_runs("4711.25"));
}

TEST_F(Work, WhatIgnoresSigtermIsKilled) {
  const Object fail = run_script("trap '' TERM; while :; do sleep 0.05; done",
                                 {"--timeout=200ms", "--grace=200ms"});
  EXPECT_EQ(fail.text("kind"), "timeout");
}

TEST_F(Work, SilenceWithoutCpuIsIdle) {
  const Object fail = run_script("echo hello; sleep 4712.25", {"--idle-timeout=500ms"});
  EXPECT_EQ(fail.text("kind"), "idle_timeout");
  EXPECT_THAT(fail.texts("lastLines"), testing::ElementsAre("hello"));
}

TEST_F(Work, SilenceOfOneThatWaitsForOtherTasksIsNotIdle) {
  engine_.on("task_extend",
             [](const Object&) { return R"("ok":true,"cancel":false,"waiting":true)"; });
  const Object done = run_script("sleep 2; echo over", {"--idle-timeout=600ms"});
  EXPECT_EQ(done.text("op"), "task_done") << done.to_json();
}

TEST_F(Work, CpuTimeAndOutputAreNotIdle) {
  const Object done = run_script(
      "i=0; while [ $i -lt 8 ]; do echo $i; sleep 0.2; i=$((i+1)); done; "
      "end=$(($(date +%s) + 3)); while [ $(date +%s) -lt $end ]; do :; done; echo over",
      {"--idle-timeout=1s"});
  EXPECT_EQ(done.text("op"), "task_done") << done.to_json();
}

// What the extensions of the lease have said of a run that is stuck: each text once, in order.
class Stuck : public Work {
 protected:
  std::vector<std::string> told(const std::string& script, std::vector<std::string> flags = {},
                                const std::string& more = "") {
    engine_.add_task(task("t-0-1f", script, 1, 30'000, ",\"stuckAfterMs\":1000" + more));
    report_ = run(std::move(flags), {"bash"});
    std::vector<std::string> out;
    for (const char* op : {"task_extend", "task_progress"}) {
      for (const Object& one : engine_.received(op)) {
        if (!one.has("stuck")) continue;
        quiet_ = std::max(quiet_, one.number("quietMs"));
        out.push_back(one.text("stuck"));
      }
    }
    return out;
  }
  Object report_;
  std::int64_t quiet_ = 0;
};

TEST_F(Stuck, AnOpenConnectionIsNamed) {
  const Fd listener(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(listener.get(), 5), 0);
  ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string port = std::to_string(ntohs(address.sin_port));
  EXPECT_THAT(told("exec 3<>/dev/tcp/127.0.0.1/" + port + "; sleep 2.5"),
              testing::ElementsAre("1 TCP connection open, to 127.0.0.1:" + port));
  EXPECT_GE(quiet_, 1000);
  EXPECT_LT(quiet_, 2500);
  EXPECT_EQ(report_.text("op"), "task_done");  // nothing was ended
  EXPECT_THAT(err_, HasSubstr("[t-0-1f 1] stuck: no output and no CPU time for 1s; 1 TCP"));
}

TEST_F(Stuck, AResultThatIsPrintedIsNoEnd) {
  EXPECT_THAT(
      told("echo '{\"type\":\"result\",\"total_cost_usd\":1}'; sleep 2.5", {"--usage=claude"}),
      testing::ElementsAre("its result is printed, but it does not exit"));
}

TEST_F(Stuck, WhoComputesQuietlyIsNot) {
  EXPECT_THAT(told("end=$((SECONDS+4)); (while [ $SECONDS -lt $end ]; do :; done)"),
              testing::IsEmpty());
  EXPECT_EQ(report_.text("op"), "task_done");
}

TEST_F(Stuck, WhoComputesInShortLivedChildrenIsNot) {
  EXPECT_THAT(told("end=$((SECONDS+3)); while [ $SECONDS -lt $end ]; do "
                   "sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'; sleep 0.05; done"),
              testing::IsEmpty());
}

TEST_F(Stuck, WaitingForInputIsNamed) {
  EXPECT_THAT(told("mkfifo f; exec 3<>f; timeout 2.5 cat <f; true"),
              testing::ElementsAre("cat waits to read its standard input"));
}

TEST_F(Stuck, WaitingForATerminalIsNamed) {
  // `script` gives the program a terminal, and its own input never ends.
  const auto words =
      told("mkfifo f; exec 3<>f; timeout 2.5 script -qfc 'exec head -n 1' /dev/null <f; true");
  if (words.empty()) GTEST_SKIP() << "no terminals here: " << out_;
  EXPECT_THAT(words[0], testing::MatchesRegex("head waits to read the terminal /dev/pts/[0-9]+"));
}

TEST_F(Stuck, WhatGoesOnIsToldToo) {
  (void)told("sleep 1.5; echo on; sleep 0.5");
  EXPECT_THAT(err_, HasSubstr("[t-0-1f 1] stuck: "));
  EXPECT_THAT(err_, HasSubstr("[t-0-1f 1] not stuck any more"));
  const auto last = engine_.received("task_progress");
  ASSERT_FALSE(last.empty());
  EXPECT_FALSE(last.back().has("stuck"));
}

TEST_F(Stuck, AskedToItEndsTheGroupAndSaysWhy) {
  const auto words = told("sleep 4715.25 & echo one; sleep 4715.25", {}, ",\"endStuck\":true");
  EXPECT_FALSE(words.empty());
  EXPECT_EQ(report_.text("kind"), "idle_timeout");
  EXPECT_EQ(report_.text("message"),
            "ended: stuck, no output and no CPU time for 1s (spec.health.onStuck)");
  EXPECT_TRUE(nobody_runs("4715.25"));
}

TEST_F(Work, NothingSurvivesTheTask) {
  const Object done = run_script("setsid sleep 4713.25 & (sleep 4714.25 &) ; echo ok");
  EXPECT_EQ(done.text("result"), "ok\n");
  EXPECT_TRUE(nobody_runs("4713.25"));
  EXPECT_TRUE(nobody_runs("4714.25"));
}

TEST_F(Work, HugeOutputIsCutInTheResultAndWholeInTheLog) {
  const Object done = run_script("yes 0123456789abcde | head -c 3200000", {"--max-output=1000"});
  EXPECT_EQ(done.text("result").size(), 1000U);
  EXPECT_TRUE(done.flag("truncated"));
  EXPECT_EQ(done.number("resultBytes"), 3'200'000);
  EXPECT_EQ(std::count(out_.begin(), out_.end(), '\n'), 200'000);
}

TEST_F(Work, TheResultIsNoLongerThanTheSwarmTakes) {
  engine_.add_task(task("t-0-1f", "printf 0123456789", 1, 30'000, ",\"maxResultBytes\":4"));
  const Object done = run({}, {"sh"});
  EXPECT_EQ(done.text("result"), "0123");
  EXPECT_TRUE(done.flag("truncated"));
  EXPECT_EQ(done.number("resultBytes"), 10);
}

TEST_F(Work, BinaryOutputArrivesAsItIs) {
  const Object done = run_script("printf '\\377\\000\\001z'");
  EXPECT_TRUE(done.has("result64"));
  EXPECT_EQ(*done.bytes("result"), std::string("\xFF\0\1z", 4));
}

TEST_F(Work, ACancelledTaskEndsAtOnce) {
  engine_.on("task_extend", [](const Object&) { return R"("ok":true,"cancel":true)"; });
  engine_.add_task(task("t-0-1f", "sleep 4715.25", 1, 600));
  EXPECT_EQ(run({}, {"sh"}).text("kind"), "cancelled");
  EXPECT_TRUE(nobody_runs("4715.25"));
}

TEST_F(Work, ALostLeaseEndsItWithoutAReport) {
  engine_.on("task_extend", [](const Object&) {
    return R"("ok":false,"code":"refused","message":"attempt 2 owns it")";
  });
  engine_.add_task(task("t-0-1f", "sleep 4716.25", 1, 600));
  EXPECT_EQ(run({}, {"sh"}).to_json(), "{}");
  EXPECT_EQ(code_, 1);
  EXPECT_THAT(err_, HasSubstr("lease was lost"));
  EXPECT_TRUE(nobody_runs("4716.25"));
}

TEST_F(Work, TheLastLineIsTheProgress) {
  engine_.add_task(task("t-0-1f", "echo tests green; sleep 1", 1, 600));
  (void)run({}, {"sh"});
  const auto progress = engine_.received("task_progress");
  ASSERT_FALSE(progress.empty());
  EXPECT_EQ(progress[0].text("message"), "tests green");
  EXPECT_FALSE(engine_.received("task_extend").empty());
}

TEST_F(Work, AnEngineThatRestartsIsNotNoticed) {
  engine_.add_task(task("t-0-1f", "sleep 0.5; echo fine", 1, 600));
  Program program(directory_, socket_, {"work", "--once", "--", "sh"});
  ASSERT_TRUE(engine_.wait_for("task_extend", 1));
  engine_.stop();
  std::this_thread::sleep_for(std::chrono::milliseconds(600));
  engine_.start();
  EXPECT_EQ(program.wait(), 0);
  EXPECT_EQ(report().text("result"), "fine\n");
}

TEST_F(Work, AResultIsRepeatedUntilItIsAccepted) {
  int calls = 0;
  engine_.on("task_done", [&calls](const Object&) -> std::optional<std::string> {
    if (++calls < 3) return R"("ok":false,"code":"unavailable","message":"no second pod")";
    return R"("ok":true)";
  });
  EXPECT_EQ(run_script("echo x").text("result"), "x\n");
  EXPECT_EQ(code_, 0);
  EXPECT_EQ(engine_.received("task_done").size(), 3U);
}

TEST_F(Work, SigtermLetsTheTaskFinishAndTakesNoOther) {
  engine_.add_task(task("t-0-1f", "sleep 0.5; echo fine"));
  engine_.add_task(task("t-0-20", "echo never"));
  Program program(directory_, socket_, {"work", "--", "sh"}, {{"CFN_TASK_GRACE_SECONDS", "20"}});
  ASSERT_TRUE(engine_.wait_for("task_next", 1));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  program.signal(SIGTERM);
  EXPECT_EQ(program.wait(), 0);
  EXPECT_EQ(engine_.received("task_next").size(), 1U);
  ASSERT_EQ(engine_.received("task_done").size(), 1U);
  EXPECT_EQ(report().text("result"), "fine\n");
}

TEST_F(Work, SigtermReturnsWhatTakesTooLong) {
  engine_.add_task(task("t-0-1f", "sleep 4717.25"));
  Program program(directory_, socket_, {"work", "--", "sh"}, {{"CFN_TASK_GRACE_SECONDS", "0"}});
  ASSERT_TRUE(engine_.wait_for("task_next", 1));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  program.signal(SIGTERM);
  EXPECT_EQ(program.wait(), 0);
  EXPECT_EQ(report().text("kind"), "released");
  EXPECT_TRUE(nobody_runs("4717.25"));
}

TEST_F(Work, SigtermWhileWaitingEndsAtOnce) {
  Program program(directory_, socket_, {"work", "--", "sh"});
  ASSERT_TRUE(engine_.wait_for("task_next", 1));
  program.signal(SIGTERM);
  EXPECT_EQ(program.wait(), 0);
}

TEST_F(Work, ATaskThatComesWithSigtermGoesBack) {
  std::promise<Program*> started;
  engine_.on("task_next", [&](const Object&) {
    Program* const asks = started.get_future().get();
    asks->stop();
    asks->signal(SIGTERM);
    return R"("ok":true,"task":)" + task("t-0-1f", "echo never");
  });
  Program program(directory_, socket_, {"work", "--", "sh"});
  started.set_value(&program);
  ASSERT_TRUE(engine_.wait_for("task_next", 1));
  Program other(directory_, socket_, {"whoami"});
  EXPECT_EQ(other.wait(), 0) << other.err();  // answered after the task was sent
  program.signal(SIGCONT);
  EXPECT_EQ(program.wait(), 0);
  ASSERT_EQ(engine_.received("task_fail").size(), 1U);
  EXPECT_EQ(report().text("kind"), "released");
}

TEST_F(Work, EndsWhenThePodDoes) {
  engine_.on("task_next", [](const Object&) {
    return R"("ok":false,"code":"refused","reason":"draining","message":"draining")";
  });
  Program program(directory_, socket_, {"work", "--", "sh"});
  EXPECT_EQ(program.wait(), 0);
}

TEST_F(Work, TakesTaskAfterTask) {
  for (int i = 0; i < 5; ++i)
    engine_.add_task(task("t-0-" + std::to_string(i), "echo " + std::to_string(i)));
  Program program(directory_, socket_, {"work", "--", "sh"});
  ASSERT_TRUE(engine_.wait_for("task_done", 5));
  program.signal(SIGTERM);
  EXPECT_EQ(program.wait(), 0);
  for (std::size_t i = 0; i < 5; ++i)
    EXPECT_EQ(engine_.received("task_done")[i].text("result"), std::to_string(i) + "\n");
}

TEST_F(Work, AnImpossibleTaskIdTouchesNoFile) {
  engine_.add_task(task("../../etc", "echo x"));
  engine_.add_task(task("t-0-1f", "echo x"));
  EXPECT_EQ(run({}, {"sh"}).text("taskId"), "t-0-1f");
  EXPECT_THAT(err_, HasSubstr("impossible id"));
}

TEST_F(Work, WithoutAWritableDirectoryTheTaskGoesBack) {
  environment_["TMPDIR"] = "/proc";
  const Object fail = run_script("echo x");
  EXPECT_EQ(fail.text("kind"), "try_later");
  EXPECT_THAT(err_, HasSubstr("emptyDir"));
}

class WorkGit : public Work {
 protected:
  void SetUp() override {
    ASSERT_EQ(
        shell("git init -q --bare -b main origin.git && git init -q -b main seed && cd seed && "
              "echo one > file && git add . && git commit -q -m first && git push -q ../origin.git "
              "main"),
        "");
  }
  std::string shell(const std::string& script) {
    const std::string command =
        "cd " + directory_.path() +
        " && export HOME=$PWD GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@t GIT_COMMITTER_NAME=t "
        "GIT_COMMITTER_EMAIL=t@t; { " +
        script + "; } > shell.out 2>&1";
    const int status = std::system(command.c_str());  // NOLINT: test script
    std::ifstream file(directory_.path() + "/shell.out");
    std::ostringstream text;
    text << file.rdbuf();
    return (status == 0 ? "" : "FAILED ") + text.str();
  }
  std::string origin() { return directory_.path() + "/origin.git"; }

  static constexpr const char* kAlive = R"("ok":true,"cancel":false)";
  static constexpr const char* kLost =
      R"("ok":false,"code":"refused","message":"attempt 2 owns it")";
  // What the coordinator says when it is asked to confirm the lease, for the first time (1), ...;
  // and then to whoever extends it.
  void on_confirm(const std::function<const char*(int)>& answer) {
    engine_.on("task_extend", [this, answer](const Object& request) {
      if (request.flag("confirm")) last_answer_ = answer(++asked_);
      return last_answer_;
    });
  }
  Object run_git(const std::string& script) {
    engine_.add_task(task("t-0-1f", script, 1, 3000));
    return run({"--git=" + origin()}, {"sh"});
  }

  int asked_ = 0;
  const char* last_answer_ = kAlive;
};

TEST_F(WorkGit, WorkIsPushedOnItsOwnBranch) {
  const Object done = run_script(
      "cat file; git rev-parse --abbrev-ref HEAD; echo two > file; touch new; git commit -q -am "
      "mine; echo three > new",
      {"--git=" + origin()});
  EXPECT_EQ(code_, 0) << err_ << out_;
  EXPECT_EQ(done.text("result"), "one\nswarm/t-0-1f\n");
  EXPECT_EQ(done.text("branch"), "swarm/t-0-1f");
  EXPECT_EQ(shell("git -C origin.git rev-parse swarm/t-0-1f"), done.text("commit") + "\n");
  EXPECT_EQ(shell("git -C origin.git show swarm/t-0-1f:new"), "three\n");
  EXPECT_THAT(
      shell("git -C origin.git log --format='%an %(trailers:key=Task-Id)%s' main..swarm/t-0-1f"),
      testing::AllOf(HasSubstr("worker-3 Task-Id: t-0-1f"), HasSubstr("mine")));
}

TEST_F(WorkGit, NoChangeNoPush) {
  const Object done = run_script("echo looked", {"--git=" + origin()});
  EXPECT_EQ(done.text("op"), "task_done");
  EXPECT_FALSE(done.has("branch"));
  EXPECT_EQ(shell("git -C origin.git branch --list 'swarm/*'"), "");
}

TEST_F(WorkGit, ALaterAttemptReplacesTheBranchAndSeesNewCommits) {
  (void)run_script("echo first > mine", {"--git=" + origin()});
  ASSERT_EQ(shell("cd seed && echo news > news && git add . && git commit -q -m news && git push "
                  "-q ../origin.git main"),
            "");
  const Object done = run_script("cat news; echo second > mine", {"--git=" + origin()});
  EXPECT_EQ(done.text("result"), "news\n") << out_;
  EXPECT_EQ(shell("git -C origin.git show swarm/t-0-1f:mine"), "second\n");
}

TEST_F(WorkGit, AnAttemptThatLostItsLeasePushesNothing) {
  on_confirm([](int) { return kLost; });
  EXPECT_EQ(run_git("echo two > file").to_json(), "{}");
  EXPECT_THAT(err_, HasSubstr("lease was lost"));
  EXPECT_EQ(shell("git -C origin.git branch --list 'swarm/*'"), "");
}

TEST_F(WorkGit, NothingIsPushedBeforeTheCoordinatorHasConfirmedTheLease) {
  std::string before;
  on_confirm([&](int asked) {
    before += shell("git -C origin.git branch --list 'swarm/*'");
    return asked < 3 ? R"("ok":false,"code":"unavailable","message":"away")" : kAlive;
  });
  EXPECT_EQ(run_git("echo two > file").text("branch"), "swarm/t-0-1f") << err_;
  EXPECT_EQ(asked_, 3);
  EXPECT_EQ(before, "");
  EXPECT_THAT(out_, HasSubstr("not pushed yet: away"));
}

// Another attempt pushes between this one's look at the branch and its push.
TEST_F(WorkGit, AStaleAttemptDoesNotReplaceTheBranchOfTheNext) {
  on_confirm([this](int asked) {
    if (asked > 1) return kLost;
    EXPECT_EQ(shell("git -C origin.git branch swarm/t-0-1f main"), "");
    return kAlive;
  });
  EXPECT_EQ(run_git("echo two > file").to_json(), "{}");
  EXPECT_THAT(out_, HasSubstr("stale info"));
  EXPECT_EQ(shell("git -C origin.git show swarm/t-0-1f:file"), "one\n");
}

TEST_F(WorkGit, TheOwnerReplacesWhatAStaleAttemptPushedMeanwhile) {
  on_confirm([this](int asked) {
    if (asked == 1) {
      EXPECT_EQ(shell("git -C origin.git branch swarm/t-0-1f main"), "");
    }
    return kAlive;
  });
  const Object done = run_git("echo two > file");
  EXPECT_EQ(done.text("op"), "task_done") << err_;
  EXPECT_EQ(shell("git -C origin.git rev-parse swarm/t-0-1f"), done.text("commit") + "\n");
  EXPECT_EQ(asked_, 2);
}

TEST_F(WorkGit, ABranchCanBeNamed) {
  ASSERT_EQ(shell("cd seed && git checkout -q -b side && echo side > file && git commit -q -am "
                  "side && git push -q ../origin.git side"),
            "");
  EXPECT_EQ(run_script("cat file", {"--git=" + origin() + "@side"}).text("result"), "side\n");
  EXPECT_EQ(run_script("cat file", {"--git=" + origin() + "@main"}).text("result"), "one\n");
  const Object fail = run_script("cat file", {"--git=" + origin() + "@nowhere"});
  EXPECT_EQ(engine_.received("task_fail").back().text("kind"), "try_later");
  EXPECT_THAT(engine_.received("task_fail").back().text("message"),
              HasSubstr("no branch, tag or commit 'nowhere'"));
}

TEST_F(WorkGit, AFailedCommandPushesNothing) {
  EXPECT_EQ(run_script("echo x > file; exit 4", {"--git=" + origin()}).text("kind"), "failed");
  EXPECT_EQ(shell("git -C origin.git branch --list 'swarm/*'"), "");
}

TEST_F(WorkGit, ABrokenCacheIsMadeAgain) {
  (void)run_script("cat file", {"--git=" + origin()});
  ASSERT_EQ(shell("rm -rf agentctl-cache-*/*.git/objects/*"), "");
  EXPECT_EQ(run_script("cat file", {"--git=" + origin()}).text("result"), "one\n") << out_;
}

TEST_F(WorkGit, WithoutAHomeAndWithoutACache) {
  environment_["HOME"] = "/proc";
  ASSERT_EQ(shell("touch agentctl-cache-$(id -u)"),
            "");  // something else has taken the cache's name
  const Object done = run_script("echo two > file", {"--git=" + origin()});
  EXPECT_EQ(done.text("branch"), "swarm/t-0-1f") << out_ << err_;
}

TEST_F(WorkGit, AMissingRepositoryGivesTheTaskBack) {
  const Object fail = run_script("cat file", {"--git=" + directory_.path() + "/gone.git"});
  EXPECT_EQ(fail.text("kind"), "try_later");
  EXPECT_THAT(fail.text("message"), HasSubstr("git clone failed"));
}

TEST_F(WorkGit, MergeConflictsAreNotCommitted) {
  const Object fail = run_script(
      "git checkout -q -b a; echo a > file; git commit -q -am a; git checkout -q -b b HEAD~1; echo "
      "b > file; git commit -q -am b; "
      "git merge -q a; exit 0",
      {"--git=" + origin()});
  EXPECT_EQ(fail.text("kind"), "failed");
  EXPECT_THAT(fail.text("message"), HasSubstr("unresolved merge conflicts"));
}

}  // namespace
}  // namespace swarm::agent
