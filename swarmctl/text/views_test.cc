#include "text/views.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "commands/command.h"

namespace swarm::text {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

constexpr WallTime kNow = 1'735'689'660'000;

json done_task() {
  return json::parse(
      R"({"id":"t-0-1f2a","state":"done","key":"k","labels":{"a":"b"},"version":"V2","attempt":1,"maxAttempts":3,
    "agent":"worker-3","pod":"hello-w3-ab12","survives":"node","createdAt":1735689600000,"updatedAt":1735689601123,
    "lastOutput":"tests green","lastOutputAt":1735689630000,
    "result":{"bytes":2,"preview":"3","truncated":false},
    "history":[{"attempt":1,"agent":"worker-3","pod":"hello-w3-ab12","node":"n1","version":"V2","startedAt":1735689600000,
      "endedAt":1735689605000,"exitCode":0,"charged":true,"reason":"done","lastLines":["tests green"]}],
    "bodyBytes":6,"bodyPreview":"a b c"})");
}

json dead_task() {
  return json::parse(
      R"({"id":"t-0-20","state":"dead","version":"V1","attempt":2,"maxAttempts":2,"createdAt":1735689000000,
    "history":[{"attempt":1,"pod":"p1","reason":"worker_lost","charged":false,"lastLines":[]},
               {"attempt":2,"pod":"p2","reason":"failed","exitCode":2,"charged":true,"message":"exit code 2","lastLines":["oh","no\u001b[31m"]}]})");
}

TEST(Views, TheTableOfTasks) {
  std::string got =
      table({task_header(false), task_row(done_task(), kNow, false),
             task_row(dead_task(), kNow, false), task_row(json::object(), kNow, false)});
  EXPECT_EQ(got,
            "TASK       STATE   ATTEMPT   AGENT      VERSION   AGE   LAST-OUTPUT   RESULT\n"
            "t-0-1f2a   done    1/3       worker-3   V2        60s   tests green   3\n"
            "t-0-20     dead    2/2       -          V1        11m   -             dead after 2 "
            "attempts: failed, exit cod…\n"
            "-          -       -/-       -          -         -     -             -\n");
  EXPECT_EQ(table({task_header(true), task_row(done_task(), kNow, true)}),
            "TASK       STATE   ATTEMPT   AGENT      VERSION   AGE   LAST-OUTPUT   RESULT   COST   "
            "TOKENS   KEY   POD             LABELS\n"
            "t-0-1f2a   done    1/3       worker-3   V2        60s   tests green   3        -      "
            "-        k     hello-w3-ab12   a=b\n");
}

TEST(Views, TheTableOfAgents) {
  const json agent = json::parse(
      R"({"name":"worker-3","role":"worker","pod":"hello-w3-ab12","node":"n1","team":0,"state":"busy",
    "task":"t-0-1f","sinceSeconds":4,"tasksDone":7,"inbox":1,"outbox":0,"version":"0.1.0"})");
  EXPECT_EQ(table({agent_header(false), agent_row(agent, false)}),
            "NAME       STATE   TASK     SINCE   DONE   NODE   POD             STUCK\n"
            "worker-3   busy    t-0-1f   4s      7      n1     hello-w3-ab12   -\n");
  EXPECT_EQ(table({agent_header(true), agent_row(agent, true)}),
            "NAME       STATE   TASK     SINCE   DONE   NODE   POD             ROLE     TEAM   "
            "VERSION   INBOX   OUTBOX   STUCK\n"
            "worker-3   busy    t-0-1f   4s      7      n1     hello-w3-ab12   worker   0      "
            "0.1.0     1       0        -\n");
}

TEST(Views, AnAgentThatIsStuckSaysSinceWhenAndWhy) {
  json agent = json::parse(
      R"({"name":"worker-3","role":"worker","pod":"hello-w3-ab12","node":"n1","team":0,"state":"stuck","agents":2,
    "task":"t-0-1f","sinceSeconds":400,"stuckSeconds":312,"stuckWhy":"1 TCP connection open, to 10.0.0.7:443","tasksDone":7})");
  EXPECT_EQ(agent_row(agent, false),
            (Row{"worker-3", "stuck", "t-0-1f", "6m40s", "7", "n1", "hello-w3-ab12",
                 "5m12s: 1 TCP connection open, to 10.0.0.7:443"}));
  EXPECT_EQ(agent_row(agents_of_pod(agent)[1], false),
            (Row{"worker-3.1", "busy", "-", "-", "-", "n1", "hello-w3-ab12", "-"}));
  EXPECT_THAT(
      describe_agent(agent, "hello"),
      AllOf(HasSubstr("Stuck:        no output and no CPU for 5m12s: 1 TCP connection open, "
                      "to 10.0.0.7:443\n"),
            HasSubstr("  kubectl swarm cancel task/t-0-1f\n")));
  agent.erase("stuckWhy");
  EXPECT_EQ(agent_row(agent, false).back(), "5m12s");
  const std::string page = top(
      "hello", json::object(),
      json::array({{{"name", "worker-1"}, {"state", "busy"}, {"sinceSeconds", 900}}, agent}), kNow);
  EXPECT_THAT(page, HasSubstr("agents 2, busy 2, stuck 1\n"));
  EXPECT_LT(page.find("worker-3"), page.find("worker-1"));
}

TEST(Views, AgentsOfAPodAreShownOneByOne) {
  const json pod{{"name", "worker-3"}, {"state", "busy"}, {"pod", "p"},  {"agents", 3},
                 {"task", "t-0-1"},    {"tasksDone", 4},  {"node", "n1"}};
  std::vector<Row> rows;
  for (const json& agent : agents_of_pod(pod)) rows.push_back(agent_row(agent, false));
  EXPECT_EQ(rows, (std::vector<Row>{{"worker-3", "busy", "t-0-1", "-", "4", "n1", "p", "-"},
                                    {"worker-3.1", "busy", "-", "-", "-", "n1", "p", "-"},
                                    {"worker-3.2", "busy", "-", "-", "-", "n1", "p", "-"}}));
  EXPECT_EQ(agents_of_pod({{"name", "worker-3"}}).size(), 1U);
  EXPECT_EQ(agents_of_pod({{"name", "worker-3"}, {"agents", 1 << 30}}).size(), 1024U);
  EXPECT_EQ(agents_of_pod({{"name", "worker-3"}, {"agents", "many"}}).size(), 1U);
  EXPECT_EQ(agents_of_pod("x").size(), 1U);
}

TEST(Views, WhyIsOneParagraphAndTheNextCommand) {
  const auto condition = [](const char* type, const char* status, const char* reason,
                            const char* message) {
    return json{{"type", type},
                {"status", status},
                {"reason", reason},
                {"message", message},
                {"lastTransitionTime", "2025-01-01T00:00:00Z"}};
  };
  json swarm{{"metadata", {{"name", "hello"}}},
             {"status",
              {{"conditions",
                {condition("Ready", "True", "Working", "2 of 2 agents ready; 1 task queued."),
                 condition("Stalled", "False", "NotStalled", "Nothing needs you.")}}}}};
  json& conditions = swarm["status"]["conditions"];
  const WallTime now = 1735689600000 + 60'000;  // a minute after these
  EXPECT_EQ(why_swarm(swarm, json(), now),
            "hello is Working for 60s: 2 of 2 agents ready; 1 task queued.\n"
            "Next:\n  kubectl swarm describe hello\n");
  conditions.push_back(condition("AgentsStuck", "True", "NoOutputNoCpu",
                                 "1 of 2 agents … Next: kubectl swarm get agents hello"));
  EXPECT_EQ(why_swarm(swarm, json(), now),
            "hello is AgentsStuck for 60s: 1 of 2 agents …\n"
            "Next:\n  kubectl swarm get agents hello\n");
  conditions[1]["status"] = "True";
  EXPECT_THAT(why_swarm(swarm, json(), now), HasSubstr("hello is NotStalled"));

  json task{{"id", "t-0-1f"},     {"state", "queued"},  {"createdAt", now - 5000},
            {"attempt", 1},       {"maxAttempts", 3},   {"agent", "worker-3"},
            {"lastOutput", "hm"}, {"lastOutputAt", now}};
  EXPECT_EQ(why_task(task, json::array(), json(), json(), now),
            "t-0-1f is queued for 5s\nNext:\n  kubectl swarm get agents\n");
  task["history"] = {{{"attempt", 1}, {"reason", "idle_timeout"}, {"startedAt", now - 3000}}};
  EXPECT_THAT(why_task(task, json::array(), swarm, json(), now),
              HasSubstr("; attempt 1 ended with idle_timeout: hm. Its swarm is NotStalled: "));
  task["state"] = "running";
  EXPECT_EQ(why_task(task, json::array(), swarm, json(), now),
            "t-0-1f is running for 3s on worker-3, attempt 1 of 3; its last output, 0s ago: hm\n"
            "Next:\n  kubectl swarm logs task/t-0-1f -f\n");
  const json stuck{{"name", "worker-3"},  {"state", "stuck"},    {"task", "t-0-1f"},
                   {"stuckSeconds", 312}, {"stuckWhy", "waits"}, {"sinceSeconds", 400}};
  EXPECT_EQ(why_task(task, json::array({stuck}), swarm, json(), now),
            "t-0-1f is running for 3s on worker-3, attempt 1 of 3, and stuck: no output and no CPU "
            "for 5m12s: waits\n"
            "Next:\n  kubectl swarm logs task/t-0-1f\n  kubectl swarm cancel task/t-0-1f\n");
  EXPECT_EQ(why_agent(stuck, "hello"),
            "worker-3 is stuck for 6m40s with t-0-1f: no output and no CPU for 5m12s: waits\n"
            "Next:\n  kubectl swarm logs task/t-0-1f\n  kubectl swarm cancel task/t-0-1f\n");
  task["state"] = "dead";
  task["history"][0]["lastLines"] = {"one", "two"};
  EXPECT_EQ(why_task(task, json::array(), swarm, json(), now),
            "t-0-1f is dead after 1 attempt: idle_timeout; its last line: two\n"
            "Next:\n  kubectl swarm logs task/t-0-1f\n  kubectl swarm retry task/t-0-1f\n");
  EXPECT_EQ(why_agent({{"name", "worker-1"}, {"state", "idle"}, {"sinceSeconds", 9}}, "hello"),
            "worker-1 is idle for 9s: there is no task for it, or none is handed out\n"
            "Next:\n  kubectl swarm why hello\n");
}

json used_task() {
  json task = done_task();
  task["usage"] = {{"inputTokens", 12},
                   {"outputTokens", 678},
                   {"cacheReadTokens", 45000},
                   {"costMicroUsd", 256'000}};
  task["history"].push_back(task["history"][0]);
  task["history"][1]["attempt"] = 2;
  task["history"][1]["usage"] = task["usage"];
  task["history"][1]["usage"]["session"] = "5b1f\x1b[31m";
  return task;
}

TEST(Views, WhatATaskHasCost) {
  const Row row = task_row(used_task(), kNow, true);
  EXPECT_EQ(row[8], "$0.26");
  EXPECT_EQ(row[9], "45k/678");
  json unpriced = used_task();
  unpriced["usage"] = {{"outputTokens", 5}};
  EXPECT_EQ(task_row(unpriced, kNow, true)[8], "-");
  EXPECT_EQ(task_row(unpriced, kNow, true)[9], "-/5");
  const std::string page = describe_task(used_task(), kNow);
  EXPECT_THAT(page, HasSubstr("\nCost:         $0.26 (45k tokens in, 678 out)\n"
                              "Session:      5b1f\n"
                              "Attempts:\n"));
  EXPECT_THAT(page, HasSubstr("POD             COST    TOKENS\n"));
  EXPECT_THAT(page, HasSubstr("hello-w3-ab12   -       -\n"));
  EXPECT_THAT(page, HasSubstr("hello-w3-ab12   $0.26   45k/678\n"));
  EXPECT_THAT(describe_task(unpriced, kNow),
              HasSubstr("Cost:         not known (- tokens in, 5 out)\n"));
}

TEST(Views, WhatASwarmHasCost) {
  json stats = json::parse(
      R"({"tasks":{},"usage":{"inputTokens":200000,"outputTokens":30000,"cacheReadTokens":1000000,"cacheCreationTokens":7,
          "costMicroUsd":12340000,"tasks":7,"tasksWithCost":7}})");
  const auto line = [&] {
    const std::string page = top("hello", stats, json::array(), kNow);
    const std::size_t at = page.find("cost ");
    return at == std::string::npos ? "" : page.substr(at, page.find('\n', at) - at);
  };
  EXPECT_EQ(line(), "cost   $12.34 (1.2M tokens in, 30k out) in 7 tasks");
  stats["usage"]["tasksWithCost"] = 4;
  EXPECT_EQ(line(), "cost   $12.34 (1.2M tokens in, 30k out) in 7 tasks, 3 of them without a cost");
  stats["usage"]["tasksWithCost"] = 0;
  EXPECT_EQ(line(), "cost   not known (1.2M tokens in, 30k out) in 7 tasks");
  stats["usage"]["tasks"] = 0;
  EXPECT_EQ(line(), "");
  const json swarm = json::parse(
      R"({"metadata":{"name":"hello"},"status":{"usage":{"costUSD":"12.345678","inputTokens":1,"outputTokens":2,
          "cacheReadTokens":0,"cacheCreationTokens":0,"tasks":1,"tasksWithCost":1}}})");
  EXPECT_THAT(describe_swarm(swarm, json::array(), json(), kNow),
              HasSubstr("\nCost:         $12.35 (1 tokens in, 2 out) in 1 task\n"));
  EXPECT_EQ(describe_swarm(swarm, json::array(), json(), kNow).find("Budget"), std::string::npos);
  json limited = swarm;
  limited["spec"]["budget"]["usd"] = "200";
  EXPECT_THAT(describe_swarm(limited, json::array(), json(), kNow),
              HasSubstr("in 1 task\nBudget:       $200; then no task is handed out\n"));
}

TEST(Views, ABranchIsTheResult) {
  json task = done_task();
  task["result"]["branch"] = "swarm/t-0-1f2a";
  EXPECT_EQ(task_row(task, kNow, false).back(), "swarm/t-0-1f2a");
}

TEST(Views, ADescribedTask) {
  EXPECT_EQ(describe_task(done_task(), kNow),
            "Task:         t-0-1f2a\n"
            "State:        done\n"
            "Attempt:      1 of 3\n"
            "Agent:        worker-3 (pod hello-w3-ab12)\n"
            "Version:      V2\n"
            "Key:          k\n"
            "Labels:       a=b\n"
            "Survives:     node\n"
            "Age:          60s\n"
            "Last output:  tests green (30s ago)\n"
            "Body:         6 B: a b c\n"
            "Result:       2 B: 3\n"
            "Attempts:\n"
            "  ATTEMPT   REASON   EXIT   CHARGED   TOOK   AGENT      NODE   POD\n"
            "  1         done     0      yes       5s     worker-3   n1     hello-w3-ab12\n"
            "Last lines:\n"
            "  tests green\n"
            "Next:\n"
            "  kubectl swarm logs task/t-0-1f2a\n"
            "  kubectl swarm result task/t-0-1f2a\n");
}

TEST(Views, ADeadTaskSaysWhy) {
  EXPECT_EQ(failure(dead_task()), "dead after 2 attempts: failed, exit code 2 (exit code 2)");
  EXPECT_THAT(last_lines(dead_task()), testing::ElementsAre("oh", "no"));
  EXPECT_THAT(describe_task(dead_task(), kNow), HasSubstr("kubectl swarm retry task/t-0-20"));
}

TEST(Views, ADescribedSwarm) {
  const json swarm = json::parse(
      R"({"metadata":{"name":"hello","namespace":"team","creationTimestamp":"2025-01-01T00:00:00Z"},
    "spec":{"workers":{"replicas":2,"template":{"spec":{"containers":[{"image":"debian:12"}]}}}},
    "status":{"topology":{"type":"Flat","coordinators":1},"agents":{"summary":"2/2","busy":1},
      "tasks":{"queued":1,"running":1,"done":3,"dead":0},"rollout":{"ceiling":10,"effective":10,"measured":9,"summary":"10%"},
      "conditions":[{"type":"Ready","status":"True","reason":"Working","message":"2 of 2 agents ready","lastTransitionTime":"2025-01-01T00:00:30Z"}]}})");
  const json events = json::parse(
      R"([{"type":"Normal","reason":"Later","message":"b","lastTimestamp":"2025-01-01T00:00:50Z","count":3},
    {"type":"Normal","reason":"Earlier","message":"a","eventTime":"2025-01-01T00:00:10.000000Z"}])");
  EXPECT_EQ(describe_swarm(swarm, events, json(), kNow),
            "Name:         hello\n"
            "Namespace:    team\n"
            "Age:          60s\n"
            "Workers:      2 of debian:12\n"
            "Topology:     Flat, coordinators 1\n"
            "Agents:       2/2 ready, busy 1\n"
            "Tasks:        queued 1, running 1, done 3, dead 0\n"
            "Rollout:      V2 10% (ceiling 10%, effective 10%, measured 9%)\n"
            "Conditions:\n"
            "  TYPE    STATUS   REASON    SINCE   MESSAGE\n"
            "  Ready   True     Working   30s     2 of 2 agents ready\n"
            "Events:\n"
            "  AGE        TYPE     REASON    MESSAGE\n"
            "  50s        Normal   Earlier   a\n"
            "  10s (x3)   Normal   Later     b\n"
            "Next:\n"
            "  kubectl swarm get tasks hello\n"
            "  kubectl swarm get agents hello\n"
            "  kubectl swarm top hello\n");
}

TEST(Views, NothingIsAssumedOfTheJson) {
  for (
      const char* text :
      {"{}", "[]", "null", "5",
       R"({"history":5,"result":[],"labels":[1],"id":7,"state":null,"status":{"conditions":{}}})",
       R"({"history":[5],"metadata":[],"spec":{"workers":{"template":{"spec":{"containers":[1]}}}}})"}) {
    const json value = json::parse(text);
    (void)task_row(value, kNow, true);
    (void)agent_row(value, true);
    (void)failure(value);
    (void)last_lines(value);
    (void)describe_task(value, kNow);
    (void)describe_agent(value, "s");
    (void)describe_swarm(value, value, value, kNow);
    (void)why_task(value, value, value, value, kNow);
    (void)why_agent(value, "s");
    (void)why_swarm(value, value, kNow);
    EXPECT_THAT(top("s", value, value, kNow), HasSubstr("swarm s"));
  }
}

TEST(Views, TopShowsTheBusyFirst) {
  const json stats = json::parse(
      R"({"tasks":{"queued":1,"running":1,"done":5,"failed":0,"dead":0,"cancelled":0,"oldestQueuedSeconds":7}})");
  const json agents = json::parse(
      R"([{"name":"worker-0","state":"idle"},{"name":"worker-1","state":"busy","sinceSeconds":3},
    {"name":"worker-2","state":"busy","sinceSeconds":9}])");
  const std::string page = top("hello", stats, agents, kNow);
  EXPECT_THAT(page, HasSubstr("queued 1  running 1  done 5  dead 0  cancelled 0"));
  EXPECT_THAT(page, HasSubstr("oldest queued 7s"));
  EXPECT_THAT(page, HasSubstr("agents 3, busy 2"));
  EXPECT_LT(page.find("worker-2"), page.find("worker-1"));
  EXPECT_LT(page.find("worker-1"), page.find("worker-0"));
}

TEST(Views, AWaitOfTheWholeTeamIsSeen) {
  json stats = {{"tasks", {{"queued", 3}}}};
  EXPECT_EQ(top("hello", stats, json::array(), kNow).find("wait"), std::string::npos);
  stats["tasks"]["backingOffUntil"] = "2025-01-01T00:01:43Z";
  stats["tasks"]["tryLaterInARow"] = 7;
  EXPECT_THAT(
      top("hello", stats, json::array(), kNow),
      HasSubstr("wait   no task is handed out for 43s: 7 attempts in a row were told to try "
                "later (a rate limit, or exit code 75)\n"));
  EXPECT_EQ(top("hello", stats, json::array(), kNow + 44'000).find("wait"), std::string::npos);
  const json swarm = {{"status", {{"tasks", {{"backingOffUntil", "2025-01-01T00:01:09Z"}}}}}};
  EXPECT_THAT(describe_swarm(swarm, json::array(), json(), kNow),
              HasSubstr("Waits:        no task is handed out for 9s: attempts in a row"));
  EXPECT_THAT(
      why_swarm(swarm, json(), kNow),
      HasSubstr(" Besides, no task is handed out for 9s: attempts in a row were told to try "
                "later (a rate limit, or exit code 75).\nNext:\n"));
  EXPECT_THAT(why_task({{"id", "t-0-1"}, {"state", "queued"}}, json::array(), swarm, json(), kNow),
              HasSubstr("t-0-1 is queued; no task is handed out for 9s: "));
}

TEST(Views, TopSaysWhoIsFull) {
  json stats = json::parse(R"({"tasks":{},"messages":{"deadLetters":0,"singleCopy":0}})");
  EXPECT_EQ(top("hello", stats, json::array(), kNow).find("full"), std::string::npos);
  for (int i = 0; i < 5; ++i)
    stats["messages"]["pressed"]["worker-" + std::to_string(i)] =
        "worker-" + std::to_string(i) + "'s inbox is full (1000 of 1000 messages)";
  const std::string page = top("hello", stats, json::array(), kNow);
  EXPECT_THAT(page, HasSubstr("full   worker-2's inbox is full (1000 of 1000 messages)\n"
                              "full   and 2 more pods\n"));
}

TEST(Views, Selectors) {
  const json labels = {{"a", "b"}, {"c", ""}};
  for (const char* good : {"", "a=b", "a==b", "a", "!x", "a!=c", "x!=y", "a=b,c=,!x"})
    EXPECT_TRUE(*matches(labels, good)) << good;
  for (const char* bad : {"a=c", "x", "!a", "a!=b", "a=b,x=y"})
    EXPECT_FALSE(*matches(labels, bad)) << bad;
  for (const char* wrong : {"=b", ",", "!", "a=b,,c", "!=x"})
    EXPECT_FALSE(matches(labels, wrong).ok()) << wrong;
}

TEST(TaskLines, OnlyTheTasksOwnLines) {
  std::vector<std::string> got;
  commands::TaskLines lines("t-0-1", false, [&](std::string_view line) { got.emplace_back(line); });
  const std::string log =
      "[t-0-1 1] one\n[t-0-11 1] no\n[t-0-1] no\n[t-0-1 x] no\n[t-0-1 ] no\nfree text [t-0-1 1] "
      "no\n[t-0-1 2] two [t-0-1 1] x\n[t-0-1 2] \n[t-0-1 3] end";
  for (const char c : log) lines.add(std::string_view(&c, 1));
  lines.finish();
  EXPECT_THAT(got, testing::ElementsAre("one", "two [t-0-1 1] x", "", "end"));
  got.clear();
  commands::TaskLines kept("t-0-1", true, [&](std::string_view line) { got.emplace_back(line); });
  kept.add(log);
  kept.finish();
  EXPECT_EQ(got.front(), "[t-0-1 1] one");
}

TEST(Submission, OfALine) {
  commands::Options options;
  options.key_field = "module";
  options.id_field = "n";
  options.labels = {"a=b=c"};
  const json got = *commands::submission_of_line(R"({"module":"m","n":7})", 3, options, "run");
  EXPECT_EQ(
      got, json::parse(
               R"({"body":"{\"module\":\"m\",\"n\":7}","key":"m","id":"7","labels":{"a":"b=c"}})"));
  for (const char* line : {"text", "[]", "{}", R"({"module":5.5,"n":1})", R"({"module":"","n":1})",
                           R"({"module":"m"})"}) {
    EXPECT_FALSE(commands::submission_of_line(line, 1, options, "run").ok()) << line;
  }
  EXPECT_EQ(commands::submission_of_line("text", 3, {}, "run")->at("id"), "c-run-3");
  options.labels = {"nothing"};
  EXPECT_FALSE(commands::submission("x", options).ok());
  EXPECT_EQ(commands::submission("\xFF", {})->at("body64"), "/w==");
}

TEST(Views, ATaskSaysItsFamilyAndWhatItWaitsFor) {
  json task = json::parse(R"({"id":"t-0-1","state":"running","agent":"worker-3","attempt":1,
    "maxAttempts":3,"parent":"t-0-0","subtasks":[{"id":"t-0-2","state":"queued"},
    {"id":"t-0-3","state":"done"},{"id":"t-0-4","state":"queued"}],
    "waitsFor":["t-0-2","t-0-4"],"waitsForTasks":5})");
  const std::string shown = describe_task(task, kNow);
  EXPECT_THAT(shown, HasSubstr("Parent:       t-0-0\nSubtasks:     3: done 1, queued 2\n"
                               "Waits for:    t-0-2, t-0-4 and 3 more\n"));
  EXPECT_THAT(shown, HasSubstr("Subtasks:\n  TASK    STATE\n  t-0-2   queued\n"));
  const std::string why = why_task(task, json::array(), json(), json(), kNow);
  EXPECT_THAT(why, HasSubstr("and waits for t-0-2, t-0-4 and 3 more\nNext:\n"
                             "  kubectl swarm why task/t-0-2\n"));
  const json stats = json::parse(R"({"tasks":{"starved":2}})");
  const std::string starved =
      "every agent of a team is at work on a task that waits for queued ones (2 tasks), and nobody "
      "is left to do these: raise spec.workers.replicas";
  EXPECT_THAT(why_task(task, json::array(), json(), stats, kNow), HasSubstr("; " + starved));
  EXPECT_THAT(why_swarm(json::object(), stats, kNow), HasSubstr(" Besides, " + starved));
  EXPECT_THAT(describe_swarm(json::object(), json::array(), stats, kNow),
              HasSubstr("Starved:      " + starved));
  EXPECT_THAT(why_task({{"id", "t-0-2"}, {"state", "queued"}}, json::array(), json(), stats, kNow),
              HasSubstr("; " + starved));

  for (const char* waits : {"waitsFor", "waitsForTasks"}) task.erase(waits);
  task["cycle"] = "t-0-1 -> t-0-0 -> t-0-1";
  EXPECT_THAT(why_task(task, json::array(), json(), json(), kNow),
              HasSubstr("; a wait of it was refused, since it would have closed the cycle "
                        "t-0-1 -> t-0-0 -> t-0-1\n"));
  EXPECT_THAT(describe_task(task, kNow),
              HasSubstr("Cycle:        t-0-1 -> t-0-0 -> t-0-1: that wait was refused\n"));
}

}  // namespace
}  // namespace swarm::text
