#include "api/swarm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace swarm::api {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json shortest() {
  return json::parse(R"({"apiVersion":"cfn.dev/v1alpha1","kind":"Swarm",
    "metadata":{"name":"hello","namespace":"n","uid":"u-1","generation":2,"resourceVersion":"7"},
    "spec":{"workers":{"template":{"spec":{"containers":[{"name":"agent","image":"debian:12-slim"}]}}}}})");
}

TEST(SwarmCodec, ShortestSwarmHasTheDefaultsOfTheSchema) {
  const auto parsed = parse(shortest());
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  EXPECT_EQ(parsed->name, "hello");
  EXPECT_EQ(parsed->generation, 2);
  const SwarmSpec& spec = parsed->spec;
  EXPECT_FALSE(spec.suspend);
  EXPECT_EQ(spec.topology.type, TopologyType::kAuto);
  EXPECT_EQ(spec.topology.team_size, 1000);
  EXPECT_EQ(spec.workers.replicas, 1);
  EXPECT_EQ(spec.workers.max_unavailable, (IntOrPercent{10, true}));
  EXPECT_EQ(spec.workers.task_grace_seconds, 600);
  EXPECT_EQ(spec.mailbox.size_limit_bytes, 64 << 20);
  EXPECT_EQ(spec.mailbox.mount_path, "/dev/shm/cfn");
  EXPECT_EQ(spec.mailbox.durability, Durability::kPod);
  EXPECT_EQ(spec.tasks.max_queued, 10'000);
  EXPECT_EQ(spec.shutdown.drain_timeout_seconds, 30);
  EXPECT_FALSE(spec.rollout);
  EXPECT_EQ(ceiling(spec), 100);
}

TEST(SwarmCodec, EveryFieldIsRead) {
  json object = shortest();
  object["spec"].merge_patch(json::parse(R"({"suspend":true,
    "topology":{"type":"Hybrid","teamSize":7},
    "coordinator":{"template":{"spec":{"containers":[]}}},
    "workers":{"replicas":20,"agentsPerPod":1,"maxUnavailable":3,"taskGraceSeconds":5},
    "mailbox":{"mountPath":"/mail","sizeLimit":"1.5Gi","maxInboxMessages":9,"maxMessageBytes":512,
               "backpressure":{"policy":"Reject","timeoutSeconds":8},"durability":"Node"},
    "tasks":{"maxAttempts":4,"resultRetentionSeconds":60,"maxQueued":5},
    "health":{"periodSeconds":2,"failureThreshold":3,"stuckAfterSeconds":0,"onStuck":"Restart"},
    "shutdown":{"drainTimeoutSeconds":9},
    "rollout":{"trafficPercentage":10,"v1":{"type":"InPlace","inPlace":{"command":["/opt/x","-a"]}}}})"));
  const auto parsed = parse(object);
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  const SwarmSpec& spec = parsed->spec;
  EXPECT_TRUE(spec.suspend);
  EXPECT_EQ(spec.topology.type, TopologyType::kHybrid);
  EXPECT_EQ(spec.topology.team_size, 7);
  EXPECT_FALSE(spec.coordinator.template_json.empty());
  EXPECT_EQ(spec.workers.replicas, 20);
  EXPECT_EQ(spec.workers.max_unavailable, (IntOrPercent{3, false}));
  EXPECT_EQ(spec.workers.task_grace_seconds, 5);
  EXPECT_EQ(spec.mailbox.mount_path, "/mail");
  EXPECT_EQ(spec.mailbox.size_limit_bytes, 1536LL << 20);
  EXPECT_EQ(spec.mailbox.backpressure, Backpressure::kReject);
  EXPECT_EQ(spec.mailbox.backpressure_timeout_seconds, 8);
  EXPECT_EQ(spec.mailbox.durability, Durability::kNode);
  EXPECT_EQ(spec.tasks.max_attempts, 4);
  EXPECT_EQ(spec.health.failure_threshold, 3);
  EXPECT_EQ(spec.health.stuck_after_seconds, 0);
  EXPECT_EQ(spec.health.on_stuck, OnStuck::kRestart);
  EXPECT_EQ(spec.shutdown.drain_timeout_seconds, 9);
  ASSERT_TRUE(spec.rollout);
  EXPECT_EQ(ceiling(spec), 10);
  EXPECT_THAT(spec.rollout->v1_command, testing::ElementsAre("/opt/x", "-a"));
}

TEST(SwarmCodec, TemplateIsKeptWholeWithFieldsNobodyKnows) {
  json object = shortest();
  object["spec"]["workers"]["template"]["spec"]["fromTheFuture"] = {{"a", {1, 2.5, nullptr}}};
  const auto parsed = parse(object);
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(json::parse(parsed->spec.workers.template_json), object["spec"]["workers"]["template"]);
}

TEST(SwarmCodec, MailboxesAreInMemoryUnlessAskedFor) {
  const auto mailbox = [](const char* text) {
    json object = shortest();
    object["spec"]["mailbox"] = json::parse(text);
    const auto parsed = parse(object);
    EXPECT_TRUE(parsed.ok()) << text << ": " << (parsed.ok() ? "" : parsed.error().message);
    return parsed.ok() ? parsed->spec.mailbox : MailboxSpec{};
  };
  for (const char* text : {"{}", R"({"persistence":{}})", R"({"persistence":{"type":"None"}})"}) {
    EXPECT_EQ(mailbox(text).persistence, Persistence::kNone) << text;
    EXPECT_EQ(mailbox(text).spill_bytes, std::nullopt) << text;
    EXPECT_EQ(mailbox(text).storage_class, std::nullopt) << text;
  }
  EXPECT_EQ(mailbox(R"({"spill":{"sizeLimit":"8388609"}})").spill_bytes, 8'388'609);
  const MailboxSpec journal = mailbox(R"({"persistence":{"type":"Journal"}})");
  EXPECT_EQ(journal.persistence, Persistence::kJournal);
  EXPECT_EQ(journal.storage_class, std::nullopt);
  for (const char* name : {"", "fast", "fast.ssd-1"}) {
    json text = {{"persistence", {{"type", "Journal"}, {"storageClassName", name}}}};
    EXPECT_EQ(mailbox(text.dump().c_str()).storage_class, name);
  }
}

TEST(SwarmCodec, WrongFieldsAreNamedWithWhatIsAllowed) {
  struct Row {
    const char* pointer;
    const char* value;
    const char* message;
  };
  const Row rows[] = {
      {"/spec/suspend", "1", "spec.suspend: is 1; allowed: true or false"},
      {"/spec/topology", "[]", "spec.topology: is []; allowed: an object"},
      {"/spec/topology/type", "\"Deep\"",
       "spec.topology.type: is \"Deep\"; allowed: Auto, Flat or Hybrid"},
      {"/spec/topology/teamSize", "0", "spec.topology.teamSize: is 0; allowed: 1 to 1000"},
      {"/spec/workers/replicas", "-1", "spec.workers.replicas: is -1; allowed: 0 to 2000"},
      {"/spec/workers/replicas", "1.5", "spec.workers.replicas: is 1.5"},
      {"/spec/workers/replicas", "\"3\"", "spec.workers.replicas: is \"3\""},
      {"/spec/workers/replicas", "18446744073709551615", "spec.workers.replicas"},
      {"/spec/workers/agentsPerPod", "1025",
       "spec.workers.agentsPerPod: is 1025; allowed: 1 to 1024"},
      {"/spec/workers/maxUnavailable", "0", "spec.workers.maxUnavailable: is 0"},
      {"/spec/workers/maxUnavailable", "\"0%\"", "spec.workers.maxUnavailable"},
      {"/spec/workers/maxUnavailable", "\"101%\"", "spec.workers.maxUnavailable"},
      {"/spec/workers/maxUnavailable", "\"ten\"", "spec.workers.maxUnavailable"},
      {"/spec/workers/template", "{}", "spec.workers.template.spec: is required"},
      {"/spec/workers/template", "null", "spec.workers.template: is required"},
      {"/spec/coordinator", "{\"template\":{\"spec\":3}}", "spec.coordinator.template.spec"},
      {"/spec/mailbox/sizeLimit", "\"1Mi\"",
       "spec.mailbox.sizeLimit: is \"1Mi\"; allowed: a quantity from 8Mi to 16Gi"},
      {"/spec/mailbox/sizeLimit", "\"lots\"", "spec.mailbox.sizeLimit"},
      {"/spec/mailbox/mountPath", "\"dev\"", "spec.mailbox.mountPath"},
      {"/spec/mailbox/mountPath", "\"/a/../b\"", "spec.mailbox.mountPath"},
      {"/spec/mailbox/backpressure/policy", "\"Drop\"",
       "spec.mailbox.backpressure.policy: is \"Drop\"; allowed: Block or Reject"},
      {"/spec/mailbox/durability", "\"node\"",
       "spec.mailbox.durability: is \"node\"; allowed: Pod or Node"},
      {"/spec/mailbox/durability", "2", "spec.mailbox.durability"},
      {"/spec/mailbox/spill", "true", "spec.mailbox.spill: is true; allowed: an object"},
      {"/spec/mailbox/spill", "{}", "spec.mailbox.spill.sizeLimit: is required; write spill: {"},
      {"/spec/mailbox/spill", "{\"sizeLimit\":\"8191Ki\"}",
       "spec.mailbox.spill.sizeLimit: is \"8191Ki\"; allowed: a quantity from 8Mi to 16Gi"},
      {"/spec/mailbox/spill", "{\"sizeLimit\":17179869185}", "spec.mailbox.spill.sizeLimit"},
      {"/spec/mailbox/persistence", "\"Journal\"", "spec.mailbox.persistence: is \"Journal\""},
      {"/spec/mailbox/persistence", "{\"type\":\"journal\"}",
       "spec.mailbox.persistence.type: is \"journal\"; allowed: None or Journal"},
      {"/spec/mailbox/persistence", "{\"type\":\"Journal\",\"storageClassName\":\"Fast\"}",
       "spec.mailbox.persistence.storageClassName: is \"Fast\"; allowed: the name"},
      {"/spec/mailbox/persistence", "{\"storageClassName\":\"fast\"}",
       "is of a journal alone; write type: Journal"},
      {"/spec/mailbox",
       "{\"spill\":{\"sizeLimit\":\"8Mi\"},\"persistence\":{\"type\":\"Journal\"}}",
       "spec.mailbox.spill: a journal is on disk already; remove spill and raise"},
      {"/spec/rollout", "{\"trafficPercentage\":10}", "spec.rollout.v1: is required"},
      {"/spec/rollout", "{\"v1\":{\"type\":\"Service\"}}", "spec.rollout.v1.type"},
      {"/spec/rollout", "{\"v1\":{\"type\":\"InPlace\",\"inPlace\":{\"command\":[1]}}}",
       "command[0]: is 1"},
      {"/spec/budget", "{}", "spec.budget.usd: is required; write budget: {usd: \"200\"}"},
      {"/spec/budget", "{\"usd\":200}", "spec.budget.usd: is 200; allowed: US dollars as text"},
      {"/spec/budget", "{\"usd\":\"-1\"}", "spec.budget.usd: is \"-1\""},
      {"/spec/budget", "{\"usd\":\"1000000000\"}", "less than 10^9"},
      {"/spec/budget", "\"200\"", "spec.budget"},
      {"/metadata/name", "\"Hello\"", "metadata.name"},
      {"/metadata/name", "\"a-\"", "metadata.name"},
  };
  for (const Row& row : rows) {
    json object = shortest();
    object[json::json_pointer(row.pointer)] = json::parse(row.value);
    const auto parsed = parse(object);
    ASSERT_FALSE(parsed.ok()) << row.pointer << " " << row.value;
    EXPECT_EQ(parsed.error().code, Code::kInvalid);
    EXPECT_THAT(parsed.error().message, HasSubstr(row.message));
  }
}

TEST(SwarmCodec, ABudgetIsInMillionthsOfADollar) {
  json object = shortest();
  EXPECT_FALSE(parse(object)->spec.budget);
  object["spec"]["budget"]["usd"] = "12.5";
  EXPECT_EQ(parse(object)->spec.budget->micro_usd, 12'500'000);
  object["spec"]["budget"]["usd"] = "999999999.999999";
  EXPECT_TRUE(parse(object).ok());
}

TEST(SwarmCodec, AllErrorsComeAtOnce) {
  json object = shortest();
  object["spec"]["workers"]["replicas"] = -1;
  object["spec"]["tasks"]["maxAttempts"] = 0;
  object["spec"]["mailbox"]["sizeLimit"] = true;
  const auto parsed = parse(object);
  ASSERT_FALSE(parsed.ok());
  const std::string& text = parsed.error().message;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
  EXPECT_TRUE(parse_metadata(object).ok());
}

TEST(SwarmCodec, TextThatIsNoObjectIsRefused) {
  for (const char* text : {"", "nonsense", "[]", "3", "{\"metadata\":", "null"}) {
    EXPECT_FALSE(parse_text(text).ok()) << text;
  }
}

TEST(SwarmCodec, StatusSurvivesTheRoundTrip) {
  SwarmStatus status;
  status.observed_generation = 4;
  status.topology = {"Hybrid", 7, "because"};
  status.agents = {308, 307, 290, 3, "307/308"};
  status.workers = {308, 307, 300, "a=b"};
  status.tasks = {114, 290, 5120, 1, 40};
  status.mailbox = {7, 2};
  status.usage = {1, 2, 3, 4, 12'345'678, 6, 5};
  status.rollout = {10, 0, 3, "V1", "0%(10%)"};
  status.revision = "abc";
  status.sidecar_image = "image:1";
  status.conditions = {{"Ready", "False", "Degraded", "text", 4, 1767323045000}};
  EXPECT_EQ(parse_status(to_json(status)), status);
  EXPECT_TRUE(to_json(status)["tasks"]["backingOffUntil"].is_null()) << "a patch takes it away";
  status.tasks.backing_off_until = 1767323045000;
  EXPECT_EQ(parse_status(to_json(status)), status);
  EXPECT_EQ(to_json(status)["usage"]["costUSD"], "12.345678");
  EXPECT_EQ(to_json(status)["conditions"][0]["lastTransitionTime"], "2026-01-02T03:04:05Z");
  EXPECT_EQ(
      parse_status(json::parse(R"({"agents":[],"conditions":{"a":1},"tasks":{"queued":"x"}})")),
      SwarmStatus{});
}

TEST(TeamReport, TheDocumentsExampleIsRead) {
  const auto report = parse_report(
      R"({"time":"2026-01-02T03:04:05Z","epoch":3,"ready":true,"recovering":false,"suspended":true,
 "tasks":{"queued":1,"running":2,"done":3,"dead":0,"cancelled":0,"oldestQueuedSeconds":4,"singleCopy":0,"backingOffUntil":"2026-01-02T03:04:45Z","tryLaterInARow":7,"waiting":2,"starved":1},
 "workers":{"worker-3":{"pod":"S-w3-ab12","busy":true,"task":"t-1f2","address":"10.0.0.3"}},
 "awaited":[{"name":"worker-7","pod":"S-w7-cd34","address":"10.0.0.7"}],
 "rollout":{"effective":50,"v1":12,"v2":13,"measured":52},
 "messages":{"deadLetters":0,"singleCopy":0,"pressed":{"worker-3":"worker-3's inbox is full"}},
 "stuck":1,"stuckAgents":[{"agent":"worker-3","task":"t-0-1f2","since":"2026-01-02T03:04:00Z","why":"1 TCP connection open"}],
 "usage":{"inputTokens":12,"outputTokens":678,"cacheReadTokens":45000,"cacheCreationTokens":3000,"costMicroUsd":12346,"tasks":1,"tasksWithCost":1},
 "expiredUsage":{"costMicroUsd":9007199254740993}})");
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report->usage, (UsageCounts{12, 678, 45000, 3000, 12346, 1, 1}));
  EXPECT_EQ(report->expired_usage.cost_micro_usd, kMaxSpent);
  EXPECT_EQ(report->epoch, 3U);
  EXPECT_TRUE(report->ready);
  EXPECT_EQ(report->suspended, true);
  EXPECT_EQ(report->tasks.running, 2);
  EXPECT_EQ(report->tasks.backing_off_until - report->time, 40'000);
  EXPECT_EQ(report->tasks.try_later_in_a_row, 7);
  EXPECT_EQ(report->tasks.waiting, 2);
  EXPECT_EQ(report->tasks.starved, 1);
  EXPECT_EQ(report->workers.at("worker-3"), (WorkerReport{"S-w3-ab12", true, "t-1f2", "10.0.0.3"}));
  EXPECT_EQ(report->measured, 52);
  EXPECT_EQ(report->pressed.at("worker-3"), "worker-3's inbox is full");
  EXPECT_EQ(report->stuck, 1);
  EXPECT_EQ(report->stuck_named,
            (std::vector<StuckReport>{{"worker-3", "t-0-1f2", *parse_time("2026-01-02T03:04:00Z"),
                                       "1 TCP connection open"}}));
  EXPECT_EQ(report->awaited, (std::vector<AwaitedPod>{{"worker-7", "S-w7-cd34", "10.0.0.7"}}));
  const auto again = parse_report(to_text(*report));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(*again, *report);
}

TEST(TeamReport, HostileTextIsRefused) {
  for (const char* text :
       {"",
        "[]",
        "{}",
        R"({"time":"yesterday"})",
        R"({"time":"2026-01-02T03:04:05Z","epoch":-1})",
        R"({"time":"2026-01-02T03:04:05Z","tasks":{"queued":-5}})",
        R"({"time":"2026-01-02T03:04:05Z","awaited":{}})",
        R"({"time":"2026-01-02T03:04:05Z","awaited":[7]})",
        R"({"time":"2026-01-02T03:04:05Z","awaited":[{"name":"../x"}]})",
        R"({"time":"2026-01-02T03:04:05Z","tasks":[]})",
        R"({"time":"2026-01-02T03:04:05Z","rollout":{"effective":101}})",
        R"({"time":"2026-01-02T03:04:05Z","workers":{"../../etc":{}}})",
        R"({"time":"2026-01-02T03:04:05Z","workers":{"worker-1":7}})",
        R"({"time":"2026-01-02T03:04:05Z","messages":{"pressed":["worker-3"]}})",
        R"({"time":"2026-01-02T03:04:05Z","messages":{"pressed":{"../x":"full"}}})",
        R"({"time":"2026-01-02T03:04:05Z","messages":{"pressed":{"worker-3":7}}})",
        R"({"time":"2026-01-02T03:04:05Z","stuck":-1})",
        R"({"time":"2026-01-02T03:04:05Z","stuckAgents":{}})",
        R"({"time":"2026-01-02T03:04:05Z","stuckAgents":[7]})",
        R"({"time":"2026-01-02T03:04:05Z","stuckAgents":[{"agent":"../x","task":"t-0-1"}]})",
        R"({"time":"2026-01-02T03:04:05Z","stuckAgents":[{"agent":"worker-1","task":"x"}]})",
        R"({"time":"2026-01-02T03:04:05Z","usage":[]})",
        R"({"time":"2026-01-02T03:04:05Z","usage":{"costMicroUsd":-1}})",
        R"({"time":"2026-01-02T03:04:05Z","expiredUsage":{"tasks":"x"}})",
        R"({"time":"2026-01-02T03:04:05Z","ready":"yes"})"}) {
    EXPECT_FALSE(parse_report(text).ok()) << text;
  }
  TeamReport report;
  for (std::size_t i = 0; i <= kMaxReportPressed; ++i)
    report.pressed["worker-" + std::to_string(i)] = "full";
  EXPECT_FALSE(parse_report(to_text(report)).ok());
  report.pressed = {{"worker-1", std::string(kMaxPressedBytes + 1, 'x')}};
  EXPECT_FALSE(parse_report(to_text(report)).ok());
  report = {};
  report.stuck = 1;
  report.stuck_named.assign(kMaxReportStuck + 1, {"worker-1", "t-0-1", 0, ""});
  EXPECT_FALSE(parse_report(to_text(report)).ok());
  report.stuck_named = {{"worker-1", "t-0-1", 0, std::string(kMaxStuckBytes + 1, 'x')}};
  EXPECT_FALSE(parse_report(to_text(report)).ok());
  EXPECT_FALSE(parse_report(std::string(kMaxReportBytes + 1, ' ')).ok());
}

TEST(Quantity, Table) {
  const std::pair<const char*, std::int64_t> good[] = {
      {"0", 0},           {"65536", 65536}, {"64Mi", 64 << 20}, {"1Gi", 1 << 30},
      {"1G", 1000000000}, {"1k", 1000},     {"1.5Ki", 1536},    {"0.5", 1},
      {"1e6", 1000000},   {"2E3", 2000},    {"1Ti", 1LL << 40},
  };
  for (const auto& [text, bytes] : good) {
    const auto parsed = parse_quantity(text);
    ASSERT_TRUE(parsed.ok()) << text;
    EXPECT_EQ(*parsed, bytes) << text;
  }
  for (const char* text : {"", "Mi", "-1", "1K", "64mi", "1m", "1..2", ".", "1 Gi", "1Gi ", "9e99",
                           "1e", "1e+2", "12345678901234567890", "0x10", "99999P", "1Gii"}) {
    EXPECT_FALSE(parse_quantity(text).ok()) << text;
  }
  EXPECT_EQ(format_bytes(64 << 20), "64Mi");
  EXPECT_EQ(format_bytes(1000), "1000");
  EXPECT_EQ(format_bytes(0), "0");
}

TEST(Usd, Table) {
  const std::pair<const char*, std::int64_t> good[] = {
      {"0", 0},
      {"200", 200'000'000},
      {"0.5", 500'000},
      {"12.34", 12'340'000},
      {"0.000001", 1},
      {"00.10", 100'000},
      {"9999999999.999999", 9'999'999'999'999'999}};
  for (const auto& [text, micro] : good) {
    const auto parsed = parse_usd(text);
    ASSERT_TRUE(parsed.ok()) << text;
    EXPECT_EQ(*parsed, micro) << text;
  }
  for (const char* text : {"", ".", "1.", ".5", "-1", "+1", "1e3", "$5", "5 ", "1,5", "1.0000001",
                           "10000000000", "0x10", "1.2.3"}) {
    EXPECT_FALSE(parse_usd(text).ok()) << text;
  }
  EXPECT_EQ(format_usd(0), "0.00");
  EXPECT_EQ(format_usd(200'000'000), "200.00");
  EXPECT_EQ(format_usd(12'345'600), "12.3456");
  EXPECT_EQ(format_usd(1), "0.000001");
  EXPECT_EQ(format_usd(-5), "0.00");
  EXPECT_EQ(*parse_usd(format_usd(kMaxSpent)), kMaxSpent);
}

TEST(Usage, SumsStopAndTheHighestIsOfEachCount) {
  EXPECT_EQ(sum({1, 2, 3, 4, 5, 6, 7}, {10, 20, 30, 40, 50, 60, 70}),
            (UsageCounts{11, 22, 33, 44, 55, 66, 77}));
  EXPECT_EQ(sum({.cost_micro_usd = kMaxSpent}, {.cost_micro_usd = 1}).cost_micro_usd, kMaxSpent);
  EXPECT_EQ(highest({1, 20, 3, 40, 5, 60, 7}, {10, 2, 30, 4, 50, 6, 70}),
            (UsageCounts{10, 20, 30, 40, 50, 60, 70}));
}

TEST(Time, Table) {
  EXPECT_EQ(format_time(0), "1970-01-01T00:00:00Z");
  EXPECT_EQ(parse_time("1970-01-01T00:00:00Z"), 0);
  EXPECT_EQ(parse_time("2026-01-02T03:04:05Z"), 1767323045000);
  EXPECT_EQ(parse_time("2026-01-02T03:04:05.123456Z"), 1767323045123);
  EXPECT_EQ(parse_time("2026-01-02T05:04:05+02:00"), 1767323045000);
  EXPECT_EQ(parse_time("2026-01-02T01:34:05-01:30"), 1767323045000);
  EXPECT_EQ(format_time(1767323045999), "2026-01-02T03:04:05Z");
  for (const char* text :
       {"", "now", "2026-01-02", "2026-02-30T00:00:00Z", "2026-01-02T24:00:00Z",
        "2026-01-02T03:04:05", "2026-01-02T03:04:05.Z", "2026-01-02T03:04:05Zx",
        "2026-01-02T03:04:05+0200", "2026-13-02T03:04:05Z", "x026-01-02T03:04:05Z"}) {
    EXPECT_EQ(parse_time(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace swarm::api
