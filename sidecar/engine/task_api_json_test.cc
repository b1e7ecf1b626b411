#include "engine/task_api_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace swarm::engine {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Lt;
using ::testing::SizeIs;

TEST(Submission, IsWhatItSays) {
  const auto all = parse_submission(
      R"({"body64":"AP8=","key":"k","id":"i-1","labels":{"a":"b"},"maxAttempts":5})", 100);
  ASSERT_TRUE(all) << all.error().message;
  EXPECT_EQ(all->body, std::string("\0\xFF", 2));
  EXPECT_EQ(all->key, "k");
  EXPECT_EQ(all->idempotency_id, "i-1");
  EXPECT_EQ(all->labels.at("a"), "b");
  EXPECT_EQ(all->max_attempts, 5U);
  const auto least = parse_submission(R"({"body":""})", 100);
  ASSERT_TRUE(least);
  EXPECT_FALSE(least->max_attempts);
}

TEST(Submission, NothingIsPassedOver) {
  const std::pair<const char*, const char*> rows[] = {
      {"", "JSON object"},
      {"[]", "JSON object"},
      {R"({"body":"x","prio":1})", "unknown field \"prio\""},
      {R"({})", "body"},
      {R"({"key":"k"})", "body"},
      {R"({"body":7})", "body: a string"},
      {R"({"body":null})", "body: a string"},
      {R"({"body":"x","body64":"eA=="})", "one of body"},
      {R"({"body64":"?"})", "base64"},
      {R"({"body64":7})", "body64: a string"},
      {R"({"body64":["eA=="]})", "body64: a string"},
      {R"({"body":"12345678901"})", "11 bytes, at most 10"},
      {R"({"body":"x","id":7})", "id: a string"},
      {R"({"body":"x","id":null})", "id: a string"},
      {R"({"body":"x","id":{"a":1}})", "id: a string"},
      {R"({"body":"x","id":"a b"})", "id must match"},
      {R"({"body":"x","id":""})", "id must match"},
      {R"({"body":"x","key":7})", "key: a string"},
      {R"({"body":"x","key":["k"]})", "key: a string"},
      {R"({"body":"x","key":true})", "key: a string"},
      {R"({"body":"x","labels":"a=b"})", "labels: an object"},
      {R"({"body":"x","labels":{"a":1}})", "labels: names and values"},
      {R"({"body":"x","labels":{"":"v"}})", "labels: names are 1 to 63 bytes"},
      {R"({"body":"x","key":"a\nb"})", "key must be UTF-8 without control characters"},
      {R"({"body":"x","maxAttempts":"3"})", "maxAttempts: a number"},
      {R"({"body":"x","maxAttempts":0})", "maxAttempts: a number"},
      {R"({"body":"x","maxAttempts":101})", "maxAttempts: a number"},
      {R"({"body":"x","maxAttempts":1.5})", "maxAttempts: a number"},
      {R"({"body":"x","maxAttempts":-1})", "maxAttempts: a number"}};
  for (const auto& [text, words] : rows) {
    const auto parsed = parse_submission(text, 10);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, Code::kInvalid) << text;
    EXPECT_THAT(parsed.error().message, HasSubstr(words)) << text;
  }
  const auto refused = [](const std::string& fields) {
    return parse_submission("{\"body\":\"x\"," + fields + "}", 10).error().message;
  };
  EXPECT_EQ(refused("\"key\":\"" + std::string(257, 'k') + '"'),
            "key has 257 bytes, at most 256 are allowed");
  EXPECT_THAT(refused("\"labels\":{\"a\":\"" + std::string(64, 'v') + "\"}"),
              HasSubstr("labels: values are at most 63 bytes"));
}

TEST(Parameters, UnknownOnesAreRefused) {
  EXPECT_TRUE(check_parameters({}, {}));
  EXPECT_TRUE(check_parameters({{"limit", "1"}}, {"state", "limit"}));
  const auto status = check_parameters({{"limit", "1"}, {"states", "queued"}}, {"state", "limit"});
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, Code::kInvalid);
  EXPECT_EQ(status.error().message, "unknown parameter \"states\", allowed: state, limit");
  EXPECT_THAT(check_parameters({{std::string(9000, 'x'), ""}}, {}).error().message,
              AllOf(HasSubstr("allowed: none"), SizeIs(Lt(100U))));
}

TEST(Teams, AnIdNamesItsTeam) {
  EXPECT_EQ(team_of("t-0-1f"), 0U);
  EXPECT_EQ(team_of("t-17-a"), 17U);
  for (const std::string bad : {"", "t-", "t--a", "t-1", "t-1-", "t-x-a", "t-1-A", "t-1-a b",
                                "t-1234567-a", "t-1-a/..", "x-1-a"})
    EXPECT_FALSE(team_of(bad)) << bad;
  EXPECT_FALSE(team_of("t-1-" + std::string(61, 'a')));
}

TEST(Teams, AKeyKeepsItsTeamForEver) {
  EXPECT_EQ(team_for("module-a", 7), 0U) << "another value sends ids that are repeated elsewhere";
  EXPECT_EQ(team_for("", 3), 2166136261U % 3);
}

TEST(Cursor, GoesThereAndBack) {
  for (const Cursor& cursor : {Cursor{0, ""}, Cursor{3, ""}, Cursor{12, "t-12-1f"}}) {
    const auto back = decode_cursor(encode_cursor(cursor));
    ASSERT_TRUE(back);
    EXPECT_EQ(*back, cursor);
  }
  EXPECT_EQ(*decode_cursor(""), Cursor{});
  EXPECT_EQ(*decode_cursor("t-2-1f"), (Cursor{2, "t-2-1f"})) << "a task's id will do";
  for (const char* bad :
       {":", "x", "1", ":t-1-a", "1:t-2-a", "-1:", "1:x", "1234567:", "1:2:", "t-1-a:", " 1:"}) {
    ASSERT_FALSE(decode_cursor(bad)) << bad;
    EXPECT_EQ(decode_cursor(bad).error().code, Code::kInvalid) << bad;
  }
}

// Teams with so many tasks each, read by pages of `limit`; -1: does not answer.
struct Read {
  std::vector<std::string> ids;
  std::set<int> missing;
  int pages = 0;
};
Read read_all(const std::vector<int>& teams, std::size_t limit) {
  std::set<std::uint32_t> numbers;
  for (std::uint32_t i = 0; i < teams.size(); ++i) numbers.insert(i);
  Read out;
  std::string after;
  do {
    TaskPage page(*decode_cursor(after), limit, numbers);
    while (const auto ask = page.next()) {
      if (teams[ask->team] < 0) {
        page.missing();
        continue;
      }
      json list{{"tasks", json::array()}};
      int from = ask->after.empty() ? 0 : std::stoi(ask->after.substr(ask->after.rfind('-') + 1));
      while (from < teams[ask->team] && list["tasks"].size() < ask->limit) {
        const auto id = "t-" + std::to_string(ask->team) + "-" + std::to_string(++from);
        list["tasks"].push_back({{"id", id}});
        if (list["tasks"].size() == ask->limit) list["next"] = id;
      }
      EXPECT_TRUE(page.take(std::move(list)));
    }
    const json done = std::move(page).finish();
    EXPECT_LE(done["tasks"].size(), limit);
    for (const auto& task : done["tasks"]) out.ids.push_back(task["id"]);
    if (done.contains("missingTeams"))
      for (const auto& team : done["missingTeams"]) out.missing.insert(team.get<int>());
    after = done.value("next", "");
    if (++out.pages > 100) break;
  } while (!after.empty());
  return out;
}

TEST(TaskPage, EveryTaskOfEveryTeamOnce) {
  for (const std::size_t limit : {1U, 2U, 3U, 4U, 5U, 100U}) {
    for (const std::vector<int>& teams : std::vector<std::vector<int>>{
             {0}, {5}, {3, 3, 3}, {0, 4, 0}, {7, 0, 1}, {2, -1, 5}, {-1, 2}, {4, -1}, {-1}}) {
      std::vector<std::string> expected;
      std::set<int> silent;
      for (std::size_t team = 0; team < teams.size(); ++team) {
        if (teams[team] < 0) silent.insert(static_cast<int>(team));
        for (int i = 1; i <= teams[team]; ++i)
          expected.push_back("t-" + std::to_string(team) + "-" + std::to_string(i));
      }
      const Read read = read_all(teams, limit);
      EXPECT_EQ(read.ids, expected) << limit;
      EXPECT_EQ(read.missing, silent) << limit;
    }
  }
  EXPECT_EQ(read_all({3, 3, 3}, 100).pages, 1) << "a page goes on with the next team";
}

TEST(TaskPage, AnAnswerThatIsNoListIsAMissingTeam) {
  for (const char* part : {R"({})", R"({"tasks":7})", R"({"code":"unavailable"})"}) {
    TaskPage page({}, 10, {0, 1});
    ASSERT_TRUE(page.next());
    EXPECT_FALSE(page.take(json::parse(part)));
    EXPECT_TRUE(page.take(json::parse(R"({"tasks":[{"id":"t-1-1"}],"recovering":true})")));
    EXPECT_FALSE(page.next());
    EXPECT_EQ(std::move(page).finish(),
              json::parse(R"({"missingTeams":[0],"recovering":true,"tasks":[{"id":"t-1-1"}]})"));
  }
}

TEST(TaskPage, ATeamThatIsNoMoreIsPassedOver) {
  TaskPage page({1, "t-1-5"}, 10, {0, 3});
  const auto ask = page.next();
  ASSERT_TRUE(ask);
  EXPECT_EQ(ask->team, 3U);
  EXPECT_EQ(ask->after, "");
  EXPECT_FALSE(TaskPage({9, ""}, 10, {0, 3}).next());
}

TEST(Stats, OfWhatTasksCostAreAddedUpThoughATeamHasNone) {
  const json none = json::parse(R"({"tasks":{"queued":1}})");
  const json some = json::parse(
      R"({"tasks":{"queued":1},"usage":{"costMicroUsd":7,"tasks":2},"expiredUsage":{"costMicroUsd":1,"tasks":1}})");
  json all = none;
  EXPECT_TRUE(add_stats(all, some));
  EXPECT_TRUE(add_stats(all, none));
  EXPECT_TRUE(add_stats(all, some));
  EXPECT_EQ(all["usage"], json::parse(R"({"costMicroUsd":14,"tasks":4})"));
  EXPECT_EQ(all["expiredUsage"], json::parse(R"({"costMicroUsd":2,"tasks":2})"));
}

TEST(Stats, OfSeveralTeamsTheLongestWaitIsShown) {
  json all = json::parse(R"({"tasks":{"queued":1}})");
  for (const char* part :
       {R"({"tasks":{"queued":1,"backingOffUntil":"2026-01-02T03:04:05Z","tryLaterInARow":7}})",
        R"({"tasks":{"queued":1,"backingOffUntil":"2026-01-02T03:05:05Z","tryLaterInARow":3}})",
        R"({"tasks":{"queued":1,"backingOffUntil":"2026-01-02T03:03:05Z","tryLaterInARow":2}})",
        R"({"tasks":{"queued":1}})"})
    EXPECT_TRUE(add_stats(all, json::parse(part)));
  EXPECT_EQ(all["tasks"]["backingOffUntil"], "2026-01-02T03:05:05Z");
  EXPECT_EQ(all["tasks"]["tryLaterInARow"], 7);
  EXPECT_EQ(all["tasks"]["queued"], 5);
}

TEST(Stats, AreAddedUp) {
  json all = json::parse(
      R"({"time":"t0","epoch":3,"ready":true,"recovering":false,"suspended":true,
          "tasks":{"queued":1,"running":2,"done":3,"dead":0,"cancelled":0,"oldestQueuedSeconds":4,"singleCopy":0},
          "workers":{"worker-0":{"pod":"p0","busy":true}},
          "rollout":{"effective":50,"v1":1,"v2":3,"measured":75},"messages":{"deadLetters":1,"singleCopy":0}})");
  EXPECT_TRUE(
      add_stats(all, json::parse(
                         R"({"time":"t1","epoch":9,"ready":false,"recovering":true,"suspended":true,
          "tasks":{"queued":10,"running":20,"done":30,"dead":1,"cancelled":2,"oldestQueuedSeconds":2,"singleCopy":5},
          "workers":{"worker-1":{"pod":"p1","busy":false}},
          "rollout":{"effective":50,"v1":3,"v2":1,"measured":25},"messages":{"deadLetters":2,"singleCopy":1,"pressed":{"worker-1":"full"}}})")));
  EXPECT_EQ(all, json::parse(
                     R"({"time":"t0","epoch":3,"ready":false,"recovering":true,"suspended":true,
          "tasks":{"queued":11,"running":22,"done":33,"dead":1,"cancelled":2,"oldestQueuedSeconds":4,"singleCopy":5},
          "workers":{"worker-0":{"pod":"p0","busy":true},"worker-1":{"pod":"p1","busy":false}},
          "rollout":{"effective":50,"v1":4,"v2":4,"measured":50},"messages":{"deadLetters":3,"singleCopy":1,"pressed":{"worker-1":"full"}}})"));
  const json still =
      json::parse(R"({"tasks":{},"stuck":2,"stuckAgents":[{"agent":"worker-1","task":"t-0-1"}]})");
  EXPECT_TRUE(add_stats(all, still));
  EXPECT_TRUE(add_stats(all, still));
  EXPECT_EQ(all["stuck"], 4);
  EXPECT_EQ(all["stuckAgents"].size(), 2U);
  const json before = all;
  for (const char* bad : {"{}", R"({"tasks":7})", R"({"code":"unavailable"})"}) {
    EXPECT_FALSE(add_stats(all, json::parse(bad))) << bad;
    EXPECT_FALSE(add_agents(all, json::parse(bad))) << bad;
  }
  EXPECT_EQ(all, before);
  EXPECT_TRUE(
      add_stats(all, json::parse(R"({"tasks":{"queued":"x"},"workers":[],"rollout":null})")))
      << "what is of another type counts nothing";
  EXPECT_EQ(all["tasks"], before["tasks"]);
}

}  // namespace
}  // namespace swarm::engine
