#include "worker/output.h"

#include <gtest/gtest.h>

#include "base/encoding.h"

namespace swarm::worker {
namespace {

TEST(Output, EveryLineGetsThePrefix) {
  LineLog lines("[t-0-1 1] ");
  std::string log;
  LastLines last;
  lines.add("one\ntw", log, last);
  EXPECT_EQ(log, "[t-0-1 1] one\n");
  lines.add("o\n\nthree", log, last);
  lines.finish(log, last);
  lines.finish(log, last);
  EXPECT_EQ(log, "[t-0-1 1] one\n[t-0-1 1] two\n[t-0-1 1] \n[t-0-1 1] three\n");
  EXPECT_EQ(last.lines(), (std::vector<std::string>{"one", "two", "three"}));
}

TEST(Output, LongLinesAreCut) {
  LineLog lines("> ");
  std::string log;
  LastLines last;
  lines.add(std::string(kMaxLogLineBytes * 2 + 5, 'x'), log, last);
  lines.finish(log, last);
  EXPECT_EQ(log.size(), kMaxLogLineBytes * 2 + 5 + 3 * 3);
  for (const std::string& line : last.lines()) EXPECT_LE(line.size(), kLastLineBytes);
  // A line of exactly the limit is one line, not two.
  log.clear();
  lines.add(std::string(kMaxLogLineBytes, 'y') + "\n", log, last);
  EXPECT_EQ(log.size(), kMaxLogLineBytes + 3);
}

TEST(Output, ForeignBytesStayInTheLogAndNotInTheHistory) {
  LineLog lines("");
  std::string log;
  LastLines last;
  lines.add(std::string("\xFF\0x\n", 4), log, last);
  EXPECT_EQ(log, std::string("\xFF\0x\n", 4));
  EXPECT_EQ(last.lines(), std::vector<std::string>{"?x"});
}

TEST(Output, LastLinesAreBounded) {
  LastLines last;
  for (int i = 0; i < 100; ++i) last.add("line " + std::to_string(i));
  ASSERT_EQ(last.lines().size(), kLastLines);
  EXPECT_EQ(last.lines().back(), "line 99");
  EXPECT_EQ(last.last(6), "line 9");
  last.add("  \t ");
  EXPECT_EQ(last.last(100), "line 99");
}

TEST(Output, CaptureKeepsTheHead) {
  Capture capture(5);
  capture.add("abc");
  EXPECT_FALSE(capture.truncated());
  capture.add("de");
  EXPECT_FALSE(capture.truncated());
  EXPECT_EQ(capture.kept(), "abcde");
  capture.add("f");
  EXPECT_TRUE(capture.truncated());
  EXPECT_EQ(capture.kept(), "abcde");
  EXPECT_EQ(capture.total(), 6U);
}

TEST(Output, CaptureDoesNotCutCharacters) {
  const std::string text = "a\xC3\xBC\xE2\x82\xAC\xF0\x9F\x90\x9Dz";
  for (std::size_t limit = 0; limit <= text.size() + 1; ++limit) {
    Capture capture(limit);
    for (const char c : text) capture.add(std::string_view(&c, 1));
    EXPECT_TRUE(is_utf8(capture.kept())) << limit;
    EXPECT_GE(capture.kept().size() + 3, std::min(limit, text.size()));
  }
}

}  // namespace
}  // namespace swarm::worker
