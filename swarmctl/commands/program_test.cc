// The program against a fake cluster behind a fake kubectl.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>

#include "testing/fake_cluster.h"

namespace swarm::commands {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing_support::FakeCluster;
using testing_support::FakeRequest;
using testing_support::FakeResponse;
using testing_support::proxy_says;
using testing_support::status_json;

class Program : public testing::Test {
 protected:
  void TearDown() override {
    EXPECT_EQ(cluster_.proxies_alive(), 0U);
    EXPECT_TRUE(std::filesystem::is_empty(cluster_.directory() + "/tmp"));
  }
  void task(const std::string& swarm, const std::string& more) {
    cluster_.task_api(swarm, "GET", "/tasks/t-0-1", 200, R"({"id":"t-0-1",)" + more + "}");
  }
  FakeCluster cluster_;
};

TEST_F(Program, SubmitSaysWhatWasAccepted) {
  cluster_.add_swarm("hello");
  cluster_.task_api("hello", "POST", "/tasks", 201,
                    R"({"id":"t-0-1f","survives":"node","duplicate":false})");
  const auto ran = cluster_.run({"submit", "hello", "a b c", "--key", "k", "--label", "a=b",
                                 "--label=c=d", "--max-attempts", "5"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, "task/t-0-1f submitted to hello (survives: node)\n");
  const auto sent = cluster_.received("POST", "/v1/tasks");
  ASSERT_EQ(sent.size(), 1U);
  json body = json::parse(sent[0].body);
  EXPECT_TRUE(body["id"].get<std::string>().starts_with("c-"));
  body.erase("id");
  EXPECT_EQ(body, json::parse(
                      R"({"body":"a b c","key":"k","labels":{"a":"b","c":"d"},"maxAttempts":5})"));
  EXPECT_EQ(cluster_.run({"submit", "hello", "-", "-o", "name"}, "x").out, "task/t-0-1f\n");
  EXPECT_EQ(json::parse(cluster_.run({"submit", "hello", "-o", "json"}, "x").out)["survives"],
            "node");
  EXPECT_EQ(cluster_.run({"submit", "hello", "--", "--looks like a flag"}).code, 0);
}

TEST_F(Program, WaitPrintsTheResultAlone) {
  cluster_.add_swarm("hello");
  cluster_.task_api("hello", "POST", "/tasks", 201, R"({"id":"t-0-1","survives":"node"})");
  std::atomic<int> looks{0};
  cluster_.task_api("hello", "GET", "/tasks/t-0-1", [&](const FakeRequest&) {
    return FakeResponse{200, ++looks < 3 ? R"({"id":"t-0-1","state":"running"})"
                                         : R"({"id":"t-0-1","state":"done","result":{"bytes":2}})"};
  });
  cluster_.task_api("hello", "GET", "/tasks/t-0-1/result", 200, std::string("3\n\0\xFF", 4));
  const auto ran = cluster_.run({"submit", "hello", "-", "--wait"}, "a b c");
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, std::string("3\n\0\xFF", 4));
  EXPECT_THAT(ran.err, HasSubstr("task/t-0-1 submitted"));
  EXPECT_THAT(cluster_.received("GET", "/tasks/t-0-1")[0].query, HasSubstr("waitSeconds=50"));
}

TEST_F(Program, WaitShowsWhyThereIsNoResult) {
  cluster_.add_swarm("hello");
  cluster_.task_api("hello", "POST", "/tasks", 201, R"({"id":"t-0-1","survives":"node"})");
  task(
      "hello",
      R"("state":"dead","history":[{"attempt":1,"reason":"bad_task","exitCode":65,"lastLines":["no such file"]}])");
  const auto ran = cluster_.run({"submit", "hello", "x", "--wait"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.out, "");
  EXPECT_THAT(ran.err, HasSubstr("dead after 1 attempt: bad_task, exit code 65"));
  EXPECT_THAT(ran.err, HasSubstr("  no such file\n"));
}

TEST_F(Program, WaitGivesUpWithoutLosingTheTask) {
  cluster_.add_swarm("hello");
  cluster_.task_api("hello", "POST", "/tasks", 201, R"({"id":"t-0-1","survives":"node"})");
  cluster_.task_api("hello", "GET", "/tasks/t-0-1", [](const FakeRequest&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    return FakeResponse{200, R"({"id":"t-0-1","state":"running"})"};
  });
  const auto ran = cluster_.run({"submit", "hello", "x", "--wait", "--timeout", "1s"});
  EXPECT_EQ(ran.code, 5);
  EXPECT_THAT(ran.err, HasSubstr("still running; it goes on"));
}

TEST_F(Program, ResultWaits) {
  cluster_.add_swarm("hello");
  std::atomic<int> looks{0};
  cluster_.task_api("hello", "GET", "/tasks/t-0-1", [&](const FakeRequest&) {
    switch (++looks) {
      case 1:  // it is searched for
        return FakeResponse{200, R"({"id":"t-0-1","state":"queued"})"};
      case 2:
        return FakeResponse{.hang_up = true};
      case 3:
        return proxy_says("dial tcp 10.0.0.1:443: connect: connection refused");
      case 4:
        return FakeResponse{503, status_json(503, "ServiceUnavailable", "no endpoints available")};
      case 5:
        return FakeResponse{200, R"({"id":"t-0-1","state":"running"})"};
      default:
        return FakeResponse{
            200, R"({"id":"t-0-1","state":"done","result":{"bytes":9,"truncated":true}})"};
    }
  });
  cluster_.task_api("hello", "GET", "/tasks/t-0-1/result", [&](const FakeRequest&) {
    return looks < 6 ? FakeResponse{404, R"({"code":"not_found","message":"none yet"})"}
                     : FakeResponse{200, "result"};
  });
  const auto ran = cluster_.run({"result", "task/t-0-1", "--wait"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, "result");
  EXPECT_THAT(ran.err, HasSubstr("longer than what is kept"));
  EXPECT_EQ(looks, 6);
  for (const FakeRequest& request : cluster_.received("GET", "/tasks/t-0-1"))
    EXPECT_THAT(request.query, testing::AnyOf("", "waitSeconds=50"));
  const std::string file = cluster_.directory() + "/result";
  EXPECT_EQ(cluster_.run({"result", "t-0-1", "--wait", "-o", file}).code, 0);
  EXPECT_EQ(std::filesystem::file_size(file), 6U);
}

TEST_F(Program, ResultSaysWhyThereIsNone) {
  cluster_.add_swarm("hello");
  cluster_.task_api("hello", "GET", "/tasks/t-0-1/result", 404,
                    R"({"code":"not_found","message":"none"})");
  for (const char* state : {"dead", "failed", "cancelled"}) {
    task("hello", std::string(R"("state":")") + state +
                      R"(","history":[{"attempt":1,"reason":"timeout","lastLines":["stuck"]}])");
    for (const auto& words : {std::vector<std::string>{"result", "t-0-1"},
                              std::vector<std::string>{"result", "t-0-1", "--wait"}}) {
      const auto ran = cluster_.run(words);
      EXPECT_EQ(ran.code, 1) << state;
      EXPECT_EQ(ran.out, "");
      EXPECT_THAT(ran.err, HasSubstr(std::string(state) + " after 1 attempt: timeout"));
      EXPECT_THAT(ran.err, HasSubstr("  stuck\n"));
    }
  }
  task("hello", R"("state":"queued")");
  EXPECT_EQ(cluster_.run({"result", "t-0-1"}).code, 3);
  const auto begin = std::chrono::steady_clock::now();
  const auto ran = cluster_.run({"result", "t-0-1", "--wait", "--timeout", "1s"});
  EXPECT_EQ(ran.code, 5);
  EXPECT_THAT(ran.err, HasSubstr("still queued; it goes on"));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(8));
  EXPECT_LT(cluster_.received("GET", "/tasks/t-0-1").size(), 40U);
}

TEST_F(Program, WaitAsksNowAndThenWhereTooManyWait) {
  cluster_.add_swarm("hello");
  std::atomic<int> waiting{0};
  cluster_.task_api("hello", "GET", "/tasks/t-0-1", [&](const FakeRequest& request) {
    if (request.query == "waitSeconds=0")
      return FakeResponse{200, R"({"id":"t-0-1","state":"done"})"};
    if (request.query.empty()) return FakeResponse{200, R"({"id":"t-0-1","state":"running"})"};
    ++waiting;
    return FakeResponse{429, R"({"code":"full","message":"too many requests wait here"})"};
  });
  cluster_.task_api("hello", "GET", "/tasks/t-0-1/result", 200, "3");
  EXPECT_EQ(cluster_.run({"result", "t-0-1", "--wait"}).out, "3");
  EXPECT_EQ(waiting, 1);
}

TEST_F(Program, AnApiServerThatDoesNotAnswerIsNamed) {
  const auto refused = [](const FakeRequest&) {
    return proxy_says("dial tcp 10.0.0.1:6443: connect: connection refused");
  };
  cluster_.on("GET", "/apis/cfn.dev/v1alpha1/namespaces/team/swarms", refused);
  cluster_.on("GET", "/apis/cfn.dev/v1alpha1/namespaces/team/swarms/hello", refused);
  cluster_.on("GET", "/api/v1/namespaces/team/secrets/hello-submit", refused);
  const std::vector<std::string> rows[] = {{"submit", "hello", "x"},
                                           {"submit", "hello", "x", "--wait"},
                                           {"get", "tasks", "hello"},
                                           {"get", "agents"},
                                           {"describe", "hello"},
                                           {"describe", "task/t-0-1"},
                                           {"why", "hello"},
                                           {"result", "t-0-1", "--wait"},
                                           {"logs", "t-0-1"},
                                           {"cancel", "t-0-1", "--swarm", "hello"},
                                           {"top"}};
  for (const std::vector<std::string>& words : rows) {
    const auto begin = std::chrono::steady_clock::now();
    const auto ran = cluster_.run(words);
    EXPECT_EQ(ran.code, 6) << words[0];
    EXPECT_EQ(ran.out, "");
    EXPECT_THAT(ran.err, HasSubstr("no answer from the API server https://api.example:6443"));
    EXPECT_THAT(ran.err, HasSubstr("connection refused"));
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5)) << words[0];
  }
}

TEST_F(Program, AnApiServerIsWaitedForAsLongAsTimeoutSays) {
  cluster_.add_swarm("hello");
  cluster_.task_api("hello", "GET", "/agents", 200, R"({"agents":[]})");
  std::atomic<int> tries{0};
  const auto silent = [&](const FakeRequest&) {
    return ++tries < 4 ? proxy_says("EOF")
                       : FakeResponse{200, R"({"data":{"token":"c2VjcmV0LWhlbGxv"}})"};
  };
  cluster_.on("GET", "/api/v1/namespaces/team/secrets/hello-submit", silent);
  EXPECT_EQ(cluster_.run({"get", "agents", "hello", "--timeout", "20s"}).code, 0);
  EXPECT_EQ(tries, 4);
  tries = -1000;
  EXPECT_EQ(cluster_.run({"get", "agents", "hello", "--timeout", "1s"}).code, 6);
  EXPECT_GT(tries, -999);
  tries = -1000;
  EXPECT_EQ(cluster_.run({"get", "agents", "hello"}).code, 6);
  EXPECT_EQ(tries, -999);
}

TEST_F(Program, SubmitRepeatsWithTheSameId) {
  cluster_.add_swarm("hello");
  std::atomic<int> calls{0};
  cluster_.task_api("hello", "POST", "/tasks", [&](const FakeRequest&) {
    switch (++calls) {
      case 1:
        return FakeResponse{503, status_json(503, "ServiceUnavailable", "no endpoints available")};
      case 2:
        return FakeResponse{504, R"({"code":"unknown","message":"no answer from the mirror"})"};
      case 3:
        return FakeResponse{.hang_up = true};
      default:
        return FakeResponse{201, R"({"id":"t-0-1","survives":"node","duplicate":true})"};
    }
  });
  const auto ran = cluster_.run({"submit", "hello", "x"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_THAT(ran.out, HasSubstr("it had been submitted before"));
  std::set<std::string> ids;
  for (const FakeRequest& request : cluster_.received("POST", "/v1/tasks"))
    ids.insert(json::parse(request.body)["id"].get<std::string>());
  EXPECT_EQ(ids.size(), 1U);
  EXPECT_EQ(calls, 4);
}

TEST_F(Program, EveryRefusalHasItsExitCode) {
  cluster_.add_swarm("hello");
  const std::tuple<int, const char*, int> rows[] = {
      {400, R"({"code":"invalid","message":"m"})", 2},
      {429, R"({"code":"full","message":"m"})", 4},
      {403, R"({"code":"denied","message":"m"})", 7},
      {503, R"({"code":"unavailable","message":"m"})", 6},
      {504, R"({"code":"unknown","message":"m"})", 5},
      {409, R"({"code":"conflict","message":"m"})", 1}};
  for (const auto& [status, body, code] : rows) {
    cluster_.task_api("hello", "POST", "/tasks", status, body);
    EXPECT_EQ(cluster_.run({"submit", "hello", "x", "--timeout", "300ms"}).code, code) << body;
  }
}

TEST_F(Program, ARefusalStandsWhenAnotherTryCouldNotBeAnsweredInTime) {
  cluster_.add_swarm("hello");
  std::atomic<int> calls{0};
  cluster_.task_api("hello", "POST", "/tasks", [&](const FakeRequest&) {
    ++calls;
    std::this_thread::sleep_for(std::chrono::milliseconds(400));
    return FakeResponse{503, R"({"code":"unavailable","message":"nothing was accepted"})"};
  });
  const auto ran = cluster_.run({"submit", "hello", "x", "--timeout", "900ms"});
  EXPECT_EQ(ran.code, 6) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("nothing was accepted"));
  EXPECT_EQ(calls, 1);
}

TEST_F(Program, ASwarmThatIsNotThereIsNamedWithThoseThatAre) {
  cluster_.add_swarm("hello");
  cluster_.add_swarm("refactor");
  const auto ran = cluster_.run({"submit", "helo", "x"});
  EXPECT_EQ(ran.code, 3);
  EXPECT_THAT(ran.err, HasSubstr("there are: hello, refactor. Did you mean hello?"));
}

TEST_F(Program, WithoutTheCrdItSaysSo) {
  cluster_.on("GET", "/apis/cfn.dev/v1alpha1/namespaces/team/swarms", 404, "404 page not found");
  const auto ran = cluster_.run({"get", "tasks"});
  EXPECT_EQ(ran.code, 3);
  EXPECT_THAT(ran.err, HasSubstr("install the operator"));
}

TEST_F(Program, WithoutRightsItNamesTheRole) {
  cluster_.on("GET", "/api/v1/namespaces/team/secrets/hello-submit", 403,
              status_json(403, "Forbidden", "secrets is forbidden"));
  const auto ran = cluster_.run({"submit", "hello", "x"});
  EXPECT_EQ(ran.code, 7);
  EXPECT_THAT(ran.err,
              HasSubstr("resources: [secrets], resourceNames: [hello-submit], verbs: [get]"));
}

TEST_F(Program, AReplacedTokenIsReadAgain) {
  cluster_.add_swarm("hello");
  std::atomic<int> calls{0};
  cluster_.on("GET", "/api/v1/namespaces/team/secrets/hello-submit", [&](const FakeRequest&) {
    return FakeResponse{200, ++calls == 1 ? R"({"data":{"token":"b2xk"}})"
                                          : R"({"data":{"token":"c2VjcmV0LWhlbGxv"}})"};
  });
  cluster_.task_api("hello", "GET", "/agents", 200, R"({"agents":[]})");
  EXPECT_EQ(cluster_.run({"get", "agents", "hello"}).code,
            7);  // the very first answer: nothing had been read before
  calls = 1;
  EXPECT_EQ(cluster_.run({"get", "agents", "hello"}).code, 0);
}

TEST_F(Program, LinesAreTasks) {
  cluster_.add_swarm("hello");
  std::atomic<int> number{0};
  std::atomic<int> now{0};
  std::atomic<int> most{0};
  cluster_.task_api("hello", "POST", "/tasks", [&](const FakeRequest&) {
    const int inside = ++now;
    int before = most;
    while (before < inside && !most.compare_exchange_weak(before, inside)) {
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    --now;
    return FakeResponse{201,
                        R"({"id":"t-0-)" + std::to_string(++number) + R"(","survives":"node"})"};
  });
  std::string lines;
  for (int i = 0; i < 200; ++i) lines += R"({"n":)" + std::to_string(i) + "}\n";
  const auto ran = cluster_.run(
      {"submit", "hello", "--lines", "-", "--id-field", "n", "-o", "name"}, lines + "\n");
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '\n'), 200);
  std::set<std::string> ids;
  for (const FakeRequest& request : cluster_.received("POST", "/v1/tasks"))
    ids.insert(json::parse(request.body)["id"].get<std::string>());
  EXPECT_EQ(ids.size(), 200U);
  EXPECT_GT(most, 4);
  EXPECT_LE(most, 32);
  EXPECT_EQ(
      cluster_.run({"submit", "hello", "--lines", "-", "--id-field", "n"}, "{\"n\":1}\ntext\n")
          .code,
      8);
  EXPECT_EQ(cluster_.run({"submit", "hello", "--lines", "-", "--id-field", "n"}, "text\n").code, 2);
  EXPECT_EQ(cluster_.run({"submit", "hello", "--lines", "-"}, "\n").code, 2);
  EXPECT_EQ(cluster_.run({"submit", "hello", "--lines", "/nonexistent"}).code, 2);
}

TEST_F(Program, LinesStopWhereNobodyTakesTheAnswers) {
  cluster_.add_swarm("hello");
  std::atomic<int> number{0};
  cluster_.task_api("hello", "POST", "/tasks", [&](const FakeRequest&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return FakeResponse{201,
                        R"({"id":"t-0-)" + std::to_string(++number) + R"(","survives":"node"})"};
  });
  std::string lines;
  for (int i = 0; i < 500; ++i) lines += "line\n";
  const auto cut = cluster_.run({"submit", "hello", "--lines", "-"}, lines, "", "/dev/full");
  const std::size_t sent = cluster_.received("POST", "/v1/tasks").size();
  EXPECT_LT(sent, 200U);
  EXPECT_EQ(cut.code, 8);
  EXPECT_THAT(cut.err, HasSubstr("standard output: No space left on device"));
  EXPECT_THAT(cut.err, HasSubstr("nothing after line " + std::to_string(sent) + " was sent"));
  // All were sent, and still somebody has to know that an answer is missing.
  const auto last = cluster_.run({"submit", "hello", "--lines", "-"}, "one\n", "", "/dev/full");
  EXPECT_EQ(last.code, 1);
  EXPECT_THAT(last.err, HasSubstr("standard output: No space left on device"));
  EXPECT_THAT(last.err, testing::Not(HasSubstr("was sent")));
}

TEST_F(Program, LinesThatCannotBeReadAreNoEnd) {
  cluster_.add_swarm("hello");
  const std::string folder = cluster_.directory();
  const auto named = cluster_.run({"submit", "hello", "--lines", folder});
  EXPECT_EQ(named.code, 1);
  EXPECT_THAT(named.err, HasSubstr("--lines " + folder + " could not be read after line 0: Is a"));
  const auto input = cluster_.run({"submit", "hello", "--lines", "-"}, "", folder);
  EXPECT_EQ(input.code, 1);
  EXPECT_THAT(input.err, HasSubstr("--lines - could not be read after line 0: Is a directory"));
}

TEST_F(Program, GetTasksReadsAllPages) {
  cluster_.add_swarm("hello");
  cluster_.task_api("hello", "GET", "/tasks", [](const FakeRequest& request) {
    if (request.query.find("after=t-0-1") != std::string::npos) {
      return FakeResponse{200, R"({"tasks":[{"id":"t-0-2","state":"queued","labels":{"a":"b"}}]})"};
    }
    return FakeResponse{
        200, R"({"tasks":[{"id":"t-0-1","state":"running","agent":"worker-1"}],"next":"t-0-1"})"};
  });
  const auto ran = cluster_.run({"get", "tasks", "hello", "--state", "queued,running"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out,
            "TASK    STATE     ATTEMPT   AGENT      VERSION   AGE   LAST-OUTPUT   RESULT\n"
            "t-0-1   running   -/-       worker-1   -         -     -             -\n"
            "t-0-2   queued    -/-       -          -         -     -             -\n");
  EXPECT_THAT(cluster_.received("GET", "/v1/tasks")[0].query, HasSubstr("state=queued,running"));
  EXPECT_EQ(cluster_.run({"get", "tasks", "-o", "name", "-l", "a=b"}).out, "task/t-0-2\n");
  EXPECT_EQ(cluster_.run({"get", "tasks", "-o=name", "-l=a=b"}).out, "task/t-0-2\n");  // as kubectl
  EXPECT_EQ(json::parse(cluster_.run({"get", "tasks", "-o", "json"}).out)["tasks"].size(), 2U);
  task("hello", R"("state":"done","result":{"preview":"3"})");
  EXPECT_EQ(cluster_.run({"get", "task/t-0-1"}).out,
            "TASK    STATE   ATTEMPT   AGENT   VERSION   AGE   LAST-OUTPUT   RESULT\n"
            "t-0-1   done    -/-       -       -         -     -             3\n");
  EXPECT_EQ(cluster_.run({"get", "task/t-0-1", "--no-headers"}).out,
            "t-0-1   done   -/-   -   -   -   -   3\n");
  EXPECT_EQ(json::parse(cluster_.run({"get", "task", "t-0-1", "-o", "json"}).out)["state"], "done");
  EXPECT_THAT(cluster_.run({"get", "tasks", "-o", "yaml"}).out,
              HasSubstr("tasks:\n- agent: worker-1\n  id: t-0-1\n"));
}

TEST_F(Program, AListThatCannotBeReadToItsEndIsNone) {
  cluster_.add_swarm("hello");
  cluster_.task_api("hello", "GET", "/tasks", [](const FakeRequest& request) {
    if (request.query.find("after=") != std::string::npos)
      return FakeResponse{404, R"({"code":"not_found","message":"list again from the start"})"};
    return FakeResponse{200, R"({"tasks":[{"id":"t-0-1","state":"done"}],"next":"0:t-0-1"})"};
  });
  const auto ran = cluster_.run({"get", "tasks", "hello"});
  EXPECT_EQ(ran.code, 6);
  EXPECT_EQ(ran.out, "");
  EXPECT_THAT(ran.err, HasSubstr("list them again"));
}

TEST_F(Program, ATeamThatDoesNotAnswerIsNamed) {
  cluster_.add_swarm("hello");
  cluster_.task_api("hello", "GET", "/tasks", [](const FakeRequest& request) {
    if (request.query.find("after=1%3A") != std::string::npos)
      return FakeResponse{200, R"({"tasks":[],"missingTeams":[1],"next":"2:"})"};
    if (request.query.find("after=2%3A") != std::string::npos)
      return FakeResponse{200, R"({"tasks":[{"id":"t-2-1","state":"queued"}]})"};
    return FakeResponse{200, R"({"tasks":[{"id":"t-0-1","state":"queued"}],"next":"1:"})"};
  });
  for (const char* output : {"name", "json", "wide"}) {
    const auto ran = cluster_.run({"get", "tasks", "hello", "-o", output});
    EXPECT_EQ(ran.code, 8) << output;
    EXPECT_THAT(ran.out, HasSubstr("t-0-1"));
    EXPECT_THAT(ran.out, HasSubstr("t-2-1")) << "an empty page is not the last";
    EXPECT_EQ(ran.err, "warning: team 1 did not answer: its tasks are not in this list\n");
  }
  EXPECT_EQ(json::parse(cluster_.run({"get", "tasks", "-o", "json"}).out)["missingTeams"],
            json::parse("[1]"));
  cluster_.task_api(
      "hello", "GET", "/agents", 200,
      R"({"agents":[{"name":"worker-10"},{"name":"worker-3"}],"missingTeams":[2,4]})");
  cluster_.task_api("hello", "GET", "/stats", 200, R"({"tasks":{"queued":1},"missingTeams":[2]})");
  const auto agents = cluster_.run({"get", "agents", "hello", "-o", "name"});
  EXPECT_EQ(agents.code, 8);
  EXPECT_EQ(agents.out, "agent/worker-3\nagent/worker-10\n");
  EXPECT_THAT(agents.err, HasSubstr("team 2 did not answer: its agents"));
  EXPECT_THAT(agents.err, HasSubstr("team 4 did not answer: its agents"));
  EXPECT_EQ(cluster_.run({"describe", "agent/worker-9"}).code, 6) << "it may be in those teams";
  const auto top = cluster_.run({"top", "hello"});
  EXPECT_EQ(top.code, 8);
  EXPECT_THAT(top.out, HasSubstr("queued 1"));
  EXPECT_THAT(top.err, HasSubstr("team 2 did not answer"));
  cluster_.task_api("hello", "GET", "/tasks", 200, R"({"tasks":[],"recovering":true})");
  const auto recovering = cluster_.run({"get", "tasks", "hello"});
  EXPECT_EQ(recovering.code, 8);
  EXPECT_THAT(recovering.err, HasSubstr("collecting its tasks"));
  EXPECT_THAT(recovering.err, testing::Not(HasSubstr("No tasks")));
}

TEST_F(Program, GetDeadShowsTasksAndMessagesThatWereGivenUp) {
  cluster_.add_swarm("hello");
  cluster_.task_api("hello", "GET", "/tasks", 200,
                    R"({"tasks":[{"id":"t-0-1","state":"dead","attempt":3,"maxAttempts":3}]})");
  cluster_.task_api(
      "hello", "GET", "/messages", 200,
      R"({"messages":[{"messageId":"m-1","from":"worker-1","to":"worker-2","state":"dead","attempt":5,"bytes":7,"ageMs":61000,"priority":"low"}]})");
  const auto table = cluster_.run({"get", "dead", "hello"});
  EXPECT_EQ(table.code, 0) << table.err;
  EXPECT_EQ(table.out,
            "TASK    STATE   ATTEMPT   AGENT   VERSION   AGE   LAST-OUTPUT   RESULT\n"
            "t-0-1   dead    3/3       -       -         -     -             dead\n"
            "\n"
            "MESSAGE   FROM       TO         STATE   ATTEMPT   BYTES   AGE\n"
            "m-1       worker-1   worker-2   dead    5         7       61s\n");
  EXPECT_EQ(cluster_.run({"get", "dead", "hello", "-o", "name"}).out, "task/t-0-1\nmessage/m-1\n");
  const auto all = nlohmann::json::parse(cluster_.run({"get", "dead", "hello", "-o", "json"}).out);
  EXPECT_EQ(all["tasks"].size() + all["messages"].size(), 2U);
  EXPECT_EQ(cluster_.run({"get", "dead", "hello", "-w"}).code, 2);
  EXPECT_EQ(cluster_.run({"get", "dead", "hello", "--state=done"}).code, 2);

  cluster_.task_api("hello", "GET", "/tasks", 200, R"({"tasks":[]})");
  cluster_.task_api("hello", "GET", "/messages", 200, R"({"messages":[]})");
  const auto none = cluster_.run({"get", "dead", "hello"});
  EXPECT_EQ(none.code, 0);
  EXPECT_EQ(none.err, "Nothing was given up in swarm hello.\n");
  cluster_.task_api("hello", "GET", "/messages", 200,
                    R"({"messages":[],"missing":["worker-3"],"missingTeams":[1]})");
  const auto partly = cluster_.run({"get", "dead", "hello"});
  EXPECT_EQ(partly.code, 8);
  EXPECT_THAT(partly.err, HasSubstr("worker-3 did not answer"));
  EXPECT_THAT(partly.err, HasSubstr("team 1 did not answer: its messages"));
  EXPECT_THAT(partly.err, testing::Not(HasSubstr("Nothing")));
}

TEST_F(Program, GetMessagesShowsEachOnce) {
  cluster_.add_swarm("hello");
  cluster_.task_api("hello", "GET", "/messages", 200,
                    R"({"messages":[
        {"messageId":"young","from":"worker-1","to":"worker-2","state":"outgoing","ageMs":1000},
        {"messageId":"old","from":"worker-1","to":"worker-2","state":"outgoing","ageMs":9000},
        {"messageId":"old","from":"worker-1","to":"worker-2","state":"leased","attempt":2,"ageMs":9000,"stream":"s","part":4}],
       "more":12})");
  const auto table = cluster_.run({"get", "messages", "hello", "-o", "wide"});
  EXPECT_EQ(table.code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("PRIORITY"));
  EXPECT_THAT(table.out, HasSubstr("s/4"));
  EXPECT_THAT(table.err, HasSubstr("12 more are there"));
  EXPECT_EQ(cluster_.run({"get", "messages", "hello", "-o", "name"}).out,
            "message/old\nmessage/young\n");
  cluster_.task_api("hello", "GET", "/messages", 404,
                    R"({"code":"not_found","message":"no such path"})");
  const auto older = cluster_.run({"get", "messages", "hello"});
  EXPECT_EQ(older.code, 3);
  EXPECT_THAT(older.err, HasSubstr("an earlier release"));
}

TEST_F(Program, ATaskIsFoundInItsSwarm) {
  cluster_.add_swarm("a");
  cluster_.add_swarm("b");
  cluster_.task_api("a", "GET", "/tasks/t-0-1", 404,
                    R"({"code":"not_found","message":"no such task"})");
  task("b", R"("state":"done")");
  cluster_.task_api("b", "GET", "/tasks/t-0-1/result", 200, "bytes");
  EXPECT_EQ(cluster_.run({"result", "task/t-0-1"}).out, "bytes");
  const std::string file = cluster_.directory() + "/result";
  EXPECT_EQ(cluster_.run({"result", "t-0-1", "-o", file}).code, 0);
  std::ifstream stream(file);
  std::string text;
  std::getline(stream, text);
  EXPECT_EQ(text, "bytes");
  task("a", R"("state":"done")");
  const auto both = cluster_.run({"result", "t-0-1"});
  EXPECT_EQ(both.code, 2);
  EXPECT_THAT(both.err, HasSubstr("several swarms (a, b)"));
  EXPECT_EQ(cluster_.run({"result", "t-0-1", "--swarm", "b"}).code, 0);
}

TEST_F(Program, ATaskThatIsNowhereIsSaidSo) {
  cluster_.add_swarm("a");
  cluster_.task_api("a", "GET", "/tasks/t-0-1", 404,
                    R"({"code":"not_found","message":"no such task"})");
  EXPECT_EQ(cluster_.run({"describe", "task/t-0-1"}).code, 3);
  task("a", R"("state":"queued")");
  cluster_.task_api("a", "GET", "/tasks/t-0-1/result", 404,
                    R"({"code":"not_found","message":"none yet"})");
  const auto ran = cluster_.run({"result", "t-0-1"});
  EXPECT_EQ(ran.code, 3);
  EXPECT_THAT(ran.err, HasSubstr("has no result yet: it is queued"));
}

TEST_F(Program, CancelAndRetry) {
  cluster_.add_swarm("a");
  task("a", R"("state":"running")");
  cluster_.task_api("a", "POST", "/tasks/t-0-1/cancel", 200, R"({"id":"t-0-1","state":"running"})");
  EXPECT_EQ(cluster_.run({"cancel", "task/t-0-1"}).out,
            "task/t-0-1 is being cancelled (now running)\n");
  cluster_.task_api("a", "POST", "/tasks/t-0-1/cancel", 200,
                    R"({"id":"t-0-1","state":"cancelled"})");
  EXPECT_EQ(cluster_.run({"cancel", "task/t-0-1"}).out, "task/t-0-1 cancelled\n");
  cluster_.task_api("a", "POST", "/tasks/t-0-1/retry", 409,
                    R"({"code":"conflict","message":"the task is running"})");
  EXPECT_EQ(cluster_.run({"retry", "task/t-0-1"}).code, 1);
  cluster_.task_api("a", "POST", "/tasks/t-0-1/retry", 200, R"({"id":"t-0-1","state":"queued"})");
  EXPECT_EQ(cluster_.run({"retry", "task/t-0-1"}).out, "task/t-0-1 is queued again\n");
}

TEST_F(Program, LogsComeFromEveryPod) {
  cluster_.add_swarm("a");
  task("a", R"("state":"done","pod":"p2","history":[
    {"attempt":1,"pod":"p0","reason":"worker_lost","lastLines":["old"]},
    {"attempt":2,"pod":"p1","reason":"failed","lastLines":[]},{"attempt":3,"pod":"p2","reason":"done","lastLines":[]}])");
  for (const char* pod : {"p1", "p2"}) {
    const std::string path = std::string("/api/v1/namespaces/team/pods/") + pod;
    cluster_.on(
        "GET", path, 200,
        R"({"spec":{"containers":[{"name":"agent"}]},"status":{"containerStatuses":[{"name":"agent","restartCount":)" +
            std::string(pod == std::string("p1") ? "1" : "0") + "}]}}");
    const std::string name = pod;
    cluster_.on("GET", path + "/log", [name](const FakeRequest& request) {
      const bool previous = request.query.find("previous=true") != std::string::npos;
      return FakeResponse{
          200,
          "noise\n[t-0-1 2] from " + name + (previous ? " before" : "") + "\n[t-0-2 1] other\n",
          true};
    });
  }
  const auto ran = cluster_.run({"logs", "task/t-0-1"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, "old\nfrom p1 before\nfrom p1\nfrom p2\n");
  EXPECT_THAT(ran.err, HasSubstr("Pod p0 is gone"));
  EXPECT_EQ(cluster_.run({"logs", "t-0-1", "--tail", "1", "--prefix"}).out, "[t-0-1 2] from p2\n");
}

TEST_F(Program, LogsFollowUntilTheTaskIsOver) {
  cluster_.add_swarm("a");
  std::atomic<int> looks{0};
  cluster_.task_api("a", "GET", "/tasks/t-0-1", [&](const FakeRequest&) {
    const int n = ++looks;
    if (n == 1) return FakeResponse{200, R"({"id":"t-0-1","state":"queued"})"};
    return FakeResponse{200, std::string(R"({"id":"t-0-1","pod":"p1","state":")") +
                                 (n < 4 ? "running" : "done") + "\"}"};
  });
  cluster_.on("GET", "/api/v1/namespaces/team/pods/p1", 200,
              R"({"spec":{"containers":[{"name":"agent"}]}})");
  cluster_.on("GET", "/api/v1/namespaces/team/pods/p1/log", [](const FakeRequest& request) {
    EXPECT_THAT(request.query, HasSubstr("follow=true"));
    return FakeResponse{200, "[t-0-1 1] one\n[t-0-1 1] two\n", true};
  });
  const auto ran = cluster_.run({"logs", "-f", "task/t-0-1"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, "one\ntwo\n");
}

TEST_F(Program, DescribeAndTop) {
  cluster_.add_swarm("hello");
  cluster_.on("GET", "/apis/cfn.dev/v1alpha1/namespaces/team/swarms/hello", 200,
              R"({"metadata":{"name":"hello","namespace":"team"}})");
  EXPECT_THAT(cluster_.run({"describe", "hello"}).out, HasSubstr("Name:         hello"));
  EXPECT_THAT(cluster_.run({"describe", "swarm", "hello"}).out, HasSubstr("Name:         hello"));
  cluster_.task_api("hello", "GET", "/agents", 200,
                    R"({"agents":[{"name":"worker-3","state":"busy"}]})");
  cluster_.task_api("hello", "GET", "/stats", 200, R"({"tasks":{"queued":1}})");
  EXPECT_THAT(cluster_.run({"describe", "agent/worker-3"}).out, HasSubstr("State:        busy"));
  EXPECT_EQ(cluster_.run({"describe", "agent/worker-9"}).code, 3);
  EXPECT_THAT(cluster_.run({"top"}).out, HasSubstr("queued 1"));
}

TEST_F(Program, WhyAsksTheSwarmAndItsAgents) {
  cluster_.add_swarm("hello");
  cluster_.on("GET", "/apis/cfn.dev/v1alpha1/namespaces/team/swarms/hello", 200,
              R"({"metadata":{"name":"hello","namespace":"team"},"status":{"conditions":[
                  {"type":"Ready","status":"True","reason":"Suspended","message":"No task is handed out. Next: resume"}]}})");
  cluster_.task_api(
      "hello", "GET", "/agents", 200,
      R"({"agents":[{"name":"worker-3","state":"stuck","task":"t-0-1","stuckSeconds":9,"stuckWhy":"waits"}]})");
  task("hello", R"("state":"running","agent":"worker-3")");
  EXPECT_THAT(cluster_.run({"why", "hello"}).out,
              HasSubstr("hello is Suspended for -: No task is handed out.\nNext:\n  resume\n"));
  EXPECT_THAT(cluster_.run({"why", "agent/worker-3"}).out,
              HasSubstr("worker-3 is stuck with t-0-1: no output and no CPU for 9s: waits\n"));
  EXPECT_THAT(cluster_.run({"why", "task/t-0-1"}).out,
              HasSubstr(", and stuck: no output and no CPU for 9s: waits\n"));
  task("hello", R"("state":"queued")");
  EXPECT_THAT(cluster_.run({"why", "t-0-1"}).out,
              HasSubstr("Its swarm is Suspended: No task is handed out.\nNext:\n  resume\n"));
  EXPECT_EQ(cluster_.run({"why", "agent/worker-9"}).code, 3);
  EXPECT_EQ(cluster_.run({"why", "pod/x"}).code, 2);
}

TEST_F(Program, AnyFlagMayStandBeforeTheVerb) {
  cluster_.add_swarm("hello");
  cluster_.task_api("hello", "GET", "/tasks", 200, R"({"tasks":[]})");
  const auto ran = cluster_.run({"-o", "json", "-l", "a=b", "--state", "done", "get", "tasks"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(json::parse(ran.out)["tasks"].size(), 0U);
  std::set<std::string> names;
  for (const char* verb :
       {"submit", "get", "describe", "why", "logs", "result", "cancel", "retry", "top"}) {
    std::istringstream help(cluster_.run({verb, "--help"}).out);
    const std::regex flag_line("^  (?:(-\\w), |    )--([a-z-]+)( [A-Z]\\S*)?   .*");
    std::smatch found;
    for (std::string line; std::getline(help, line);) {
      if (!std::regex_match(line, found, flag_line) || found[2] == "help") continue;
      for (const std::string& name : {found[1].str(), "--" + found[2].str()}) {
        if (name.empty() || !names.insert(name).second) continue;
        std::vector<std::string> words{name};
        if (found[3].matched) words.emplace_back("value");
        words.emplace_back("nosuch");
        EXPECT_THAT(cluster_.run(words).err, HasSubstr("there is no verb 'nosuch'")) << name;
      }
    }
  }
  EXPECT_GT(names.size(), 25U);
}

TEST_F(Program, KubectlIsToldContextAndKubeconfig) {
  cluster_.add_swarm("hello");
  cluster_.task_api("hello", "GET", "/agents", 200, R"({"agents":[]})");
  EXPECT_EQ(cluster_.run({"get", "agents", "hello", "--context", "c1", "--kubeconfig=/k"}).code, 0);
  EXPECT_THAT(cluster_.kubectl_calls(), HasSubstr("--context=c1 --kubeconfig=/k"));
  EXPECT_THAT(cluster_.kubectl_calls(), HasSubstr("config view --minify"));
  EXPECT_EQ(cluster_.run({"get", "agents", "hello", "-n", "other"}).code, 3);
  EXPECT_EQ(cluster_.received("GET", "/api/v1/namespaces/other/secrets/hello-submit").size(), 1U);
}

TEST_F(Program, AFailingKubectlIsQuoted) {
  std::ofstream(cluster_.directory() + "/broken") << "x";
  const auto ran = cluster_.run({"get", "tasks"});
  EXPECT_EQ(ran.code, 6);
  EXPECT_THAT(ran.err, HasSubstr("error: no such context"));
}

TEST_F(Program, WrongCallsSayWhatToWrite) {
  const struct {
    std::vector<std::string> words;
    const char* part;
  } rows[] = {
      {{"submt", "hello"}, "did you mean submit?"},
      {{"submit"}, "kubectl swarm submit SWARM"},
      {{"submit", "hello", "a", "b"}, "quote"},
      {{"submit", "Hello", "a"}, "no name of a swarm"},
      {{"submit", "hello", "a", "--label", "x"}, "--label name=value"},
      {{"submit", "hello", "a", "--id", "a b"}, "--id takes"},
      {{"submit", "hello", "a", "--id-field", "x"}, "belong to --lines"},
      {{"submit", "hello", "--lines", "f", "--wait"}, "without"},
      {{"submit", "hello", "a", "--max-attempts", "0"}, "--max-attempts"},
      {{"submit", "hello", "a", "--wiat"}, "did you mean --wait?"},
      {{"submit", "hello", "a", "--timeout", "5"}, "no duration"},
      {{"submit", "hello", "a", "-o", "xml"}, "json, yaml, name"},
      {{"get", "task5"}, "did you mean tasks?"},
      {{"get", "swarms"}, "kubectl get swarms"},
      {{"get", "tasks", "--state", "runing"}, "did you mean running?"},
      {{"get", "tasks", "--state", "failed"}, "are queued, running, done, dead, cancelled"},
      {{"get", "task/t-0-1", "-w"}, "get task/T shows one task"},
      {{"describe", "pod/x"}, "write task/T, agent/A"},
      {{"describe", "task/17"}, "task/t-0-1f"},
      {{"get", "agents", "-l", "a=b"}, "get agents takes neither"},
      {{"get", "tasks", "-w", "-o", "json"}, "-w shows a table"},
      {{"logs", "hello"}, "task/t-0-1f"},
      {{"logs", "t-0-1", "--tail", "-3"}, "--tail"},
      {{"result", "t-0-1", "--swarm", "X"}, "no name of a swarm"},
  };
  for (const auto& row : rows) {
    const auto ran = cluster_.run(row.words);
    EXPECT_EQ(ran.code, 2) << row.part << ran.err;
    EXPECT_THAT(ran.err, HasSubstr(row.part));
  }
  EXPECT_EQ(cluster_.run({}).code, 2);
  EXPECT_EQ(cluster_.run({"--help"}).code, 0);
  for (const char* verb :
       {"submit", "get", "describe", "why", "logs", "result", "cancel", "retry", "top"}) {
    const auto help = cluster_.run({verb, "--help"});
    EXPECT_EQ(help.code, 0);
    EXPECT_THAT(help.out, HasSubstr(std::string("\nUsage:\n  kubectl swarm ") + verb));
    EXPECT_THAT(help.out, HasSubstr("\nExamples:\n"));
    EXPECT_THAT(help.out, HasSubstr("  -n, --namespace NAMESPACE   the swarm's namespace"));
    EXPECT_EQ(cluster_.run({"help", verb}).out, help.out);
  }
  EXPECT_THAT(cluster_.run({"submit", "--help"}).out, HasSubstr("--key-field"));
  EXPECT_THAT(cluster_.run({"result", "--help"}).out, HasSubstr("--wait"));
  EXPECT_THAT(cluster_.run({"-n", "x", "version"}).out, HasSubstr("kubectl-swarm "));
  EXPECT_EQ(cluster_.received("GET", "").size(), 0U);
}

}  // namespace
}  // namespace swarm::commands
