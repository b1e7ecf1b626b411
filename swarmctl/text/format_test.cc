#include "text/format.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "text/json.h"

namespace swarm::text {
namespace {

TEST(Format, TablesAreAlignedByCharacters) {
  EXPECT_EQ(table({{"A", "BEE", "C"}, {"gr\xC3\xBCn", "x", ""}, {"1", "2", "3"}}),
            "A      BEE   C\n"
            "gr\xC3\xBCn   x\n"
            "1      2     3\n");
  EXPECT_EQ(table({}), "");
}

TEST(Format, AgesAsKubectlShowsThem) {
  const std::pair<std::int64_t, const char*> rows[] = {
      {-5, "0s"},         {999, "0s"},         {45'000, "45s"},
      {119'000, "119s"},  {120'000, "2m"},     {250'000, "4m10s"},
      {720'000, "12m"},   {7'200'000, "120m"}, {12'000'000, "3h20m"},
      {18'000'000, "5h"}, {36'000'000, "10h"}, {259'200'000, "3d"}};
  for (const auto& [ms, text] : rows) EXPECT_EQ(age(ms), text) << ms;
}

TEST(Format, ShortensToOneHarmlessLine) {
  EXPECT_EQ(shorten("one\ntwo", 10), "one");
  EXPECT_EQ(shorten("0123456789", 10), "0123456789");
  EXPECT_EQ(shorten("0123456789x", 10), "012345678…");
  EXPECT_EQ(shorten("\x1B[31mred\x1B[0m", 3), "red");
  EXPECT_EQ(shorten("gr\xC3\xBC\xC3\xBC\xC3\xBC", 4), "gr\xC3\xBC…");
  EXPECT_EQ(shorten("\xFF\a\xC2\x9B", 5), "?");
  EXPECT_EQ(shorten("", 5), "");
  EXPECT_EQ(harmless("a\x1B]b\n\tc\r"), "ab\n\tc");
}

TEST(Format, Durations) {
  EXPECT_EQ(parse_duration("1h30m")->count(), 5'400'000);
  EXPECT_EQ(parse_duration("500ms")->count(), 500);
  for (const char* text : {"", "5", "-5s", "s", "5d", "1.5s", "5 s", "1001h",
                           "99999999999999999999s", "9223372036854775807h"}) {
    EXPECT_FALSE(parse_duration(text).ok()) << text;
  }
}

TEST(Format, TaskReferences) {
  EXPECT_EQ(parse_task("task/t-0-1f2a")->value, "t-0-1f2a");
  EXPECT_EQ(parse_task("tasks/t-0-1f2a")->value, "t-0-1f2a");
  EXPECT_EQ(parse_task("t-12-0")->value, "t-12-0");
  for (const char* text : {"", "t", "t-", "t-0", "t-0-", "t--1", "t-x-1", "t-0-A", "t-0-1/..",
                           "task/", "task/t-0-1/x", "agent/t-0-1", "t-0-1 ", "T-0-1"}) {
    EXPECT_FALSE(parse_task(text).ok()) << text;
  }
}

TEST(Format, SwarmNames) {
  EXPECT_EQ(*parse_swarm("swarm/hello"), "hello");
  EXPECT_EQ(*parse_swarm("a-1"), "a-1");
  for (const char* text : {"", "Hello", "-a", "a-", "1a", "a_b", "a/b", "a.b", "task/a",
                           "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}) {
    EXPECT_FALSE(parse_swarm(text).ok()) << text;
  }
}

TEST(Format, PercentEncoding) { EXPECT_EQ(percent_encode("a b/c\xC3\xBC"), "a%20b%2Fc%C3%BC"); }

TEST(Format, YamlReadsBackAsItWas) {
  const auto value = nlohmann::json::parse(
      R"({"a":1,"b":[{"c":"x","d":{"e":[]}},{"f":{}}],"g":"yes","h":"1","i":null,"j":"two words: #","k":[1,["n",[2]]],"l":"","m":true})");
  EXPECT_EQ(to_yaml(value),
            "a: 1\n"
            "b:\n"
            "- c: x\n"
            "  d:\n"
            "    e: []\n"
            "- f: {}\n"
            "g: \"yes\"\n"
            "h: \"1\"\n"
            "i: null\n"
            "j: \"two words: #\"\n"
            "k:\n"
            "- 1\n"
            "- - \"n\"\n"
            "  - - 2\n"
            "l: \"\"\n"
            "m: true\n");
}

TEST(Format, JsonGettersNeverFail) {
  const auto value = nlohmann::json::parse(R"({"a":"x","n":1.5,"o":{}})");
  EXPECT_EQ(get_text(value, "n", "none"), "none");
  EXPECT_EQ(get_number(value, "a", 7), 7);
  EXPECT_FALSE(get_flag(value, "a"));
  EXPECT_TRUE(get(value, "a").empty());
  EXPECT_EQ(get_text(nlohmann::json::array(), "a"), "");
  EXPECT_TRUE(get(nlohmann::json(5), "a").is_object());
}

TEST(Format, TokensAndMoney) {
  const std::pair<std::uint64_t, const char*> counts[] = {{0, "0"},
                                                          {999, "999"},
                                                          {1000, "1k"},
                                                          {1250, "1.2k"},
                                                          {30'000, "30k"},
                                                          {999'999, "999k"},
                                                          {1'234'567, "1.2M"},
                                                          {12'000'000, "12M"},
                                                          {5'000'000'000, "5G"},
                                                          {9'007'199'254'740'991, "9007199G"},
                                                          {UINT64_MAX, "1844674407G"}};
  for (const auto& [count, text] : counts) EXPECT_EQ(tokens(count), text);
  const std::pair<std::uint64_t, const char*> amounts[] = {
      {0, "$0.00"},           {1, "$0.0000"},           {50, "$0.0001"},   {1234, "$0.0012"},
      {9'999, "$0.0100"},     {10'000, "$0.01"},        {14'999, "$0.01"}, {15'000, "$0.02"},
      {12'340'000, "$12.34"}, {999'995'000, "$1000.00"}};
  for (const auto& [micro, text] : amounts) EXPECT_EQ(usd(micro), text);
}

}  // namespace
}  // namespace swarm::text
