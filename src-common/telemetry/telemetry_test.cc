#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "telemetry/log.h"
#include "telemetry/metrics.h"

namespace swarm {
namespace {

using ::testing::HasSubstr;

TEST(Log, WritesOneJsonObjectWithItsFieldsInOrder) {
  EXPECT_EQ(
      telemetry::format_line(1'767'323'045'007, telemetry::Level::kInfo, "pod created",
                             {{"swarm", "hello"}, {"count", 3}, {"ok", true}, {"share", 0.5}}),
      R"({"time":"2026-01-02T03:04:05.007Z","level":"info","message":"pod created","swarm":"hello","count":3,)"
      R"("ok":true,"share":0.5})");
}

TEST(Log, NeverWritesALineBreakOrBytesThatAreNotUtf8) {
  struct Row {
    std::string text, written;
  };
  const Row rows[] = {{"a\nb", R"("a\nb")"},
                      {std::string("a\0b", 3), R"("a\u0000b")"},
                      {"a\"\\", R"("a\"\\")"},
                      {"\x1b[31m", R"("\u001b[31m")"},
                      {"\xff", "\"\xef\xbf\xbd\""},
                      {"\xc3", "\"\xef\xbf\xbd\""},
                      {"\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
                      {"é", "\"é\""}};
  for (const Row& row : rows) {
    EXPECT_THAT(telemetry::format_line(0, telemetry::Level::kWarn, "m", {{"f", row.text}}),
                HasSubstr("\"f\":" + row.written + "}"));
  }
}

TEST(Log, CutsLongFields) {
  const std::string line =
      telemetry::format_line(0, telemetry::Level::kWarn, "m", {{"f", std::string(1'000'000, 'x')}});
  EXPECT_LT(line.size(), telemetry::kMaxFieldBytes + 200);
}

TEST(Log, KnowsItsLevelsAndNoOthers) {
  EXPECT_FALSE(telemetry::set_level("verbose"));
  EXPECT_TRUE(telemetry::set_level("error"));
  EXPECT_FALSE(telemetry::enabled(telemetry::Level::kWarn));
  EXPECT_TRUE(telemetry::set_level("info"));
  EXPECT_TRUE(telemetry::enabled(telemetry::Level::kWarn));
  EXPECT_FALSE(telemetry::enabled(telemetry::Level::kDebug));
}

TEST(Metrics, SameNameAndLabelsAreTheSameSeries) {
  telemetry::Metrics metrics;
  metrics.counter("swarm_test_things_total", "Things.", {{"kind", "a"}}).add();
  metrics.counter("swarm_test_things_total", "Things.", {{"kind", "a"}}).add(2);
  metrics.counter("swarm_test_things_total", "Things.", {{"kind", "b"}}).add();
  metrics.gauge("swarm_test_size_bytes", "Size.").set(7);
  metrics.histogram("swarm_test_wait_seconds", "Wait.", {0.1, 1}).observe(0.5);
  const std::string text = metrics.text();
  EXPECT_THAT(text, HasSubstr("swarm_test_things_total{kind=\"a\"} 3"));
  EXPECT_THAT(text, HasSubstr("swarm_test_things_total{kind=\"b\"} 1"));
  EXPECT_THAT(text, HasSubstr("swarm_test_size_bytes 7"));
  EXPECT_THAT(text, HasSubstr("swarm_test_wait_seconds_bucket{le=\"1\"} 1"));
}

}  // namespace
}  // namespace swarm
