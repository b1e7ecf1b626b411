// `agentctl run` as a program: real child processes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "testing/fake_engine.h"

namespace swarm::agent {
namespace {

using testing::HasSubstr;
using testing::Not;

struct Run : testing::Test {
  std::unique_ptr<Program> start(std::vector<std::string> flags, const std::string& script) {
    std::vector<std::string> words{"run"};
    words.insert(words.end(), flags.begin(), flags.end());
    for (const char* word : {"--", "sh", "-c"}) words.emplace_back(word);
    words.push_back("D=" + directory_.path() + "; " + script);
    return std::make_unique<Program>(directory_, directory_.path() + "/s", words, environment_);
  }
  template <typename Done>
  static bool eventually(Done done) {
    for (int i = 0; i < 2000; ++i) {
      if (done()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  [[nodiscard]] bool exists(const std::string& name) const {
    return std::ifstream(directory_.path() + "/" + name).good();
  }
  TemporaryDirectory directory_;
  std::map<std::string, std::string> environment_;
};

TEST_F(Run, EachAgentHasANameAndItsOutputHasIt) {
  const auto run = start({"--count", "3"}, "echo out of $CFN_AGENT_ID; printf err >&2");
  EXPECT_EQ(run->wait(), 0);
  for (const char* name : {"worker-3", "worker-3.1", "worker-3.2"}) {
    EXPECT_THAT("\n" + run->out(), HasSubstr("\n" + std::string(name) + ": out of " + name + "\n"));
    EXPECT_THAT("\n" + run->err(), HasSubstr("\n" + std::string(name) + ": err\n"));
    EXPECT_THAT(run->err(), HasSubstr(std::string(name) + " has ended: exit code 0\n"));
  }
  EXPECT_THAT(run->out(), Not(HasSubstr("worker-3.3")));
}

TEST_F(Run, TheSwarmSaysHowMany) {
  environment_["CFN_AGENTS_PER_POD"] = "2";
  const auto run = start({}, "echo $CFN_AGENT_ID");
  EXPECT_EQ(run->wait(), 0);
  EXPECT_THAT(run->out(), testing::AnyOf("worker-3: worker-3\nworker-3.1: worker-3.1\n",
                                         "worker-3.1: worker-3.1\nworker-3: worker-3\n"));
}

TEST_F(Run, WhoFailsIsStartedAgainAndNobodyElseIs) {
  const auto run = start({"--count=2"},
                         "echo x >> $D/$CFN_AGENT_ID; [ $CFN_AGENT_ID = worker-3 ] && exit 0; "
                         "[ $(wc -l < $D/worker-3.1) = 3 ] && exit 0; exit 7");
  EXPECT_EQ(run->wait(), 0);
  EXPECT_THAT(run->err(), HasSubstr("worker-3.1 has ended: exit code 7; started again in 1s\n"));
  EXPECT_THAT(run->err(), HasSubstr("worker-3.1 has ended: exit code 7; started again in 2s\n"));
  std::ifstream first(directory_.path() + "/worker-3");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(first), {}), "x\n");
}

TEST_F(Run, SigtermGoesToAllAndKillsAfterTheGrace) {
  const auto run = start({"--count=2", "--grace=300ms"},
                         "trap 'echo asked' TERM; [ $CFN_AGENT_ID = worker-3 ] && trap 'exit 3' "
                         "TERM; touch $D/up-$CFN_AGENT_ID; while :; do sleep 0.05; done");
  ASSERT_TRUE(eventually([&] { return exists("up-worker-3") && exists("up-worker-3.1"); }));
  const auto begun = std::chrono::steady_clock::now();
  run->signal(SIGTERM);
  EXPECT_EQ(run->wait(), 0);
  EXPECT_GE(std::chrono::steady_clock::now() - begun, std::chrono::milliseconds(300));
  EXPECT_THAT(run->err(), HasSubstr("worker-3 has ended: exit code 3\n"));
  EXPECT_THAT(run->out(), HasSubstr("worker-3.1: asked\n"));
  EXPECT_THAT(run->err(), HasSubstr("worker-3.1 has ended: killed by signal 9"));
}

TEST_F(Run, NothingOfAnAgentSurvivesIt) {
  const auto run = start({}, "sleep 4711.5 & setsid sleep 4711.5 & exit 0");
  EXPECT_EQ(run->wait(), 0);
  EXPECT_TRUE(eventually([] {
    FILE* found = ::popen("pgrep -f '^sleep 4711[.]5' | wc -l", "r");
    char text[16] = "";
    const bool read = std::fgets(text, sizeof text, found) != nullptr;
    ::pclose(found);
    return read && std::string(text) == "0\n";
  }));
}

TEST_F(Run, ALongLineGoesOnAsSeveral) {
  const auto run = start({}, "head -c 40000 /dev/zero | tr '\\0' x; echo; echo end");
  EXPECT_EQ(run->wait(), 0);
  EXPECT_EQ(run->out(),
            "worker-3: " + std::string(16384, 'x') + "\nworker-3: " + std::string(16384, 'x') +
                "\nworker-3: " + std::string(40000 - 2 * 16384, 'x') + "\nworker-3: end\n");
}

TEST_F(Run, SaysWhatIsWrong) {
  const auto said = [&](std::vector<std::string> words) {
    words.insert(words.begin(), "run");
    Program program(directory_, directory_.path() + "/s", words, environment_);
    EXPECT_EQ(program.wait(), 2);
    return program.err();
  };
  EXPECT_THAT(said({}), HasSubstr("the command is missing"));
  EXPECT_THAT(said({"sh"}), HasSubstr("the command goes after --"));
  EXPECT_THAT(said({"--count=0", "--", "sh"}), HasSubstr("--count"));
  EXPECT_THAT(said({"--count=1025", "--", "sh"}), HasSubstr("--count"));
  EXPECT_THAT(said({"--grace=soon", "--", "sh"}), HasSubstr("--grace"));
  EXPECT_THAT(said({"--", "no-such-command"}), HasSubstr("can't be executed"));
  environment_["CFN_AGENTS_PER_POD"] = "many";
  EXPECT_THAT(said({"--", "sh"}), HasSubstr("CFN_AGENTS_PER_POD"));
  environment_["CFN_AGENT_ID"] = "worker-3.1";
  EXPECT_THAT(said({"--count=2", "--", "sh"}), HasSubstr("CFN_AGENT_ID"));
}

}  // namespace
}  // namespace swarm::agent
