// What attempts have cost, on its way from an agent's line to the task API.
#include "engine/usage_json.h"

#include <gtest/gtest.h>

#include "engine/control_json.h"
#include "engine/task_json.h"
#include "engine/worker.h"

namespace swarm::engine {
namespace {

tasks::Report decoded(const json& usage) {
  std::uint64_t request = 0;
  const auto report =
      decode_report(control({{"id", "t-0-1"}, {"attempt", 1}, {"usage", usage}}), &request);
  EXPECT_TRUE(report.ok()) << usage.dump();
  return report ? *report : tasks::Report{};
}

TEST(Usage, IsReadAsItIsWrittenAndAbsentIsNotZero) {
  tasks::Usage usage;
  EXPECT_EQ(usage_json(usage), json::object());
  usage.output_tokens = 0;
  usage.cost_micro_usd = tasks::kMaxUsage;
  EXPECT_EQ(usage_json(usage), json::parse(R"({"outputTokens":0,"costMicroUsd":70368744177663})"));
  EXPECT_EQ(usage_from(usage_json(usage)), usage);
  const tasks::Usage all{1, 2, 3, 4, 5};
  EXPECT_EQ(
      usage_json(all),
      json::parse(
          R"({"inputTokens":1,"outputTokens":2,"cacheReadTokens":3,"cacheCreationTokens":4,"costMicroUsd":5})"));
  EXPECT_EQ(usage_from(usage_json(all)), all);
}

TEST(Usage, GoesWithAReport) {
  tasks::Report report;
  report.id.value = "t-0-1";
  report.attempt = 3;
  report.usage = {1, {}, {}, {}, 5};
  report.session = "s-1";
  std::uint64_t request = 0;
  const auto again = decode_report(encode_report(7, report), &request);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->usage, report.usage);
  EXPECT_EQ(again->session, "s-1");
  report.usage = {};
  const auto without = decode_report(encode_report(7, report), &request);
  EXPECT_FALSE(without->usage.known());
}

TEST(Usage, WhatIsWrongInItFailsNoReport) {
  for (const char* text :
       {"null", "7", "[]", R"("x")", "{}", R"({"costMicroUsd":-1})", R"({"costMicroUsd":0.5})",
        R"({"costMicroUsd":"1","inputTokens":null,"session":"s-1"})"}) {
    EXPECT_FALSE(decoded(json::parse(text)).usage.known()) << text;
  }
  const auto report =
      decoded(json::parse(R"({"costMicroUsd":18446744073709551614,"session":"not an id"})"));
  EXPECT_EQ(report.usage.cost_micro_usd, tasks::kMaxUsage);
  EXPECT_EQ(report.session, "");
}

TEST(Usage, IsShownOfATaskAndItsAttempts) {
  tasks::Task task;
  task.id.value = "t-0-1";
  task.history.resize(2);
  json shown = task_json(task, {}, "", false);
  EXPECT_FALSE(shown.contains("usage"));
  EXPECT_FALSE(shown["history"][0].contains("usage"));
  task.usage = {1, 2, 3, 4, 5};
  task.history[1].usage.cost_micro_usd = 5;
  task.history[1].cli_session = "s-1";
  for (const bool brief : {false, true}) {
    shown = task_json(task, {}, "", brief);
    EXPECT_EQ(shown["usage"]["costMicroUsd"], 5);
    EXPECT_FALSE(shown["history"][0].contains("usage"));
    EXPECT_EQ(shown["history"][1]["usage"], json::parse(R"({"costMicroUsd":5,"session":"s-1"})"));
  }
}

}  // namespace
}  // namespace swarm::engine
