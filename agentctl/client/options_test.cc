#include "client/options.h"

#include <gtest/gtest.h>

namespace swarm::agent {
namespace {

const std::vector<Flag> kFlags{
    {"timeout", "DURATION", "t"}, {"once", "", "o"}, {"output", "F", "f", 'o'}};

TEST(Options, ReadsFlagsPositionalsAndTheRest) {
  const auto got = parse_arguments(
      kFlags, {"a", "--timeout=5s", "--once", "-ojson", "b", "--", "--timeout", "x"});
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->positional, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(got->rest, (std::vector<std::string>{"--timeout", "x"}));
  EXPECT_EQ(got->get("timeout"), "5s");
  EXPECT_EQ(got->get("output"), "json");
  EXPECT_TRUE(got->has("once"));
}

TEST(Options, ASingleDashIsAnArgument) {
  const auto got = parse_arguments(kFlags, {"-"});
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->positional, std::vector<std::string>{"-"});
}

TEST(Options, SaysWhatToWriteInstead) {
  const struct {
    std::vector<std::string> words;
    std::string part;
  } rows[] = {
      {{"--tmeout=5s"}, "did you mean --timeout?"},
      {{"--frobnicate"}, "unknown flag --frobnicate"},
      {{"--timeout"}, "--timeout=DURATION"},
      {{"--timeout", "--", "x"}, "--timeout=DURATION"},
      {{"--once=yes"}, "takes no value"},
      {{"-x"}, "unknown flag -x"},
  };
  for (const auto& row : rows) {
    const auto got = parse_arguments(kFlags, row.words);
    ASSERT_FALSE(got.ok()) << row.words[0];
    EXPECT_EQ(got.error().code, Code::kInvalid);
    EXPECT_NE(got.error().message.find(row.part), std::string::npos) << got.error().message;
  }
}

TEST(Options, Durations) {
  const std::pair<const char*, std::int64_t> good[] = {
      {"0", 0},           {"0s", 0},         {"500ms", 500},       {"5s", 5000},
      {"45m", 2'700'000}, {"2h", 7'200'000}, {"1h30m", 5'400'000}, {"1000h", 3'600'000'000}};
  for (const auto& [text, ms] : good) {
    const auto got = parse_duration(text);
    ASSERT_TRUE(got.ok()) << text;
    EXPECT_EQ(got->count(), ms) << text;
  }
  for (const char* text :
       {"", "5", "-5s", "s", "5d", "1.5s", "5 s", "5s ", "1001h", "99999999999999999999s", "+5s",
        "9223372036854775807h", "5s-3s", "0x5s"}) {
    EXPECT_FALSE(parse_duration(text).ok()) << text;
  }
}

TEST(Options, ShowsWhatItReads) {
  for (const char* text : {"0ms", "7ms", "5s", "1m5s", "2h", "1h1m1s"}) {
    EXPECT_EQ(show_duration(*parse_duration(text)), text);
  }
}

TEST(Options, Numbers) {
  EXPECT_EQ(*parse_number("12", 1, 12), 12);
  for (const char* text : {"", "0", "13", "1x", "-1", "1.0", " 1", "99999999999999999999"}) {
    EXPECT_FALSE(parse_number(text, 1, 12).ok()) << text;
  }
}

TEST(Options, NearestIsNotFarFetched) {
  EXPECT_EQ(nearest("snd", {"send", "recv"}), "send");
  EXPECT_EQ(nearest("frobnicate", {"send", "recv"}), "");
  EXPECT_EQ(nearest("", {"send"}), "");
}

}  // namespace
}  // namespace swarm::agent
