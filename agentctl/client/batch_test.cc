#include "client/batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "base/encoding.h"

namespace swarm::agent {
namespace {

using testing::HasSubstr;

std::vector<std::string> lines_of(const std::string& text, std::size_t chunk) {
  LineCutter cutter;
  std::vector<std::string> out;
  const auto drain = [&] {
    while (auto line = cutter.next()) {
      EXPECT_EQ(line->number, out.size() + 1);
      out.push_back(line->too_long ? "too long" : line->text);
    }
  };
  for (std::size_t i = 0; i < text.size(); i += chunk) {
    cutter.add(std::string_view(text).substr(i, chunk));
    drain();
    EXPECT_LE(cutter.held_bytes(), kMaxSocketLineBytes);
  }
  cutter.end();
  drain();
  EXPECT_FALSE(cutter.next());
  return out;
}

TEST(LineCutter, CutsTheSameWhereverTheInputIsCut) {
  const std::string exact(kMaxSocketLineBytes, 'x');
  const struct {
    std::string text;
    std::vector<std::string> lines;
  } rows[] = {{"", {}},
              {"\n", {""}},
              {"a", {"a"}},
              {"a\n", {"a"}},
              {"a\n\nbc", {"a", "", "bc"}},
              {exact + "\nb\n", {exact, "b"}},
              {exact + "x\nb\n", {"too long", "b"}},
              {"a\n" + exact + "x", {"a", "too long"}},
              {exact + exact + exact + "\n\nb", {"too long", "", "b"}}};
  for (const auto& row : rows) {
    for (const std::size_t chunk : {std::size_t{1}, std::size_t{7}, std::size_t{65536}}) {
      if (chunk == 7 && row.text.size() > kMaxSocketLineBytes + 10) continue;
      EXPECT_EQ(lines_of(row.text, chunk), row.lines) << row.text.size() << " by " << chunk;
    }
  }
}

TEST(LineCutter, AgreesWithASplitOfTheWhole) {
  std::mt19937 random(7);
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (std::size_t n = random() % 60; n > 0; --n) text += "ab\n"[random() % 3];
    std::vector<std::string> expected;
    std::size_t begin = 0;
    for (std::size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
      expected.push_back(text.substr(begin, end - begin));
    if (begin < text.size()) expected.push_back(text.substr(begin));
    EXPECT_EQ(lines_of(text, 1 + random() % 9), expected) << text;
  }
}

TEST(BatchLine, IsAMessage) {
  const auto least = parse_batch_line(R"({"to":"worker-3","body":""})");
  ASSERT_TRUE(least);
  EXPECT_EQ(least->to, "worker-3");
  EXPECT_EQ(least->body + least->id + least->priority + least->in_reply_to, "");
  const auto all = parse_batch_line(
      "{\"to\":\"worker-3\",\"body64\":\"AP8=\",\"id\":\"a-1\",\"priority\":\"low\",\"inReplyTo\":"
      "\"q\"}\r");
  ASSERT_TRUE(all);
  EXPECT_EQ(all->body, std::string("\0\xFF", 2));
  EXPECT_EQ(all->id, "a-1");
  EXPECT_EQ(all->priority, "low");
  EXPECT_EQ(all->in_reply_to, "q");
}

TEST(BatchLine, SaysWhatIsWrong) {
  const std::pair<const char*, const char*> rows[] = {
      {"", "not a JSON object"},
      {"x", "not a JSON object"},
      {"[]", "not a JSON object"},
      {R"({"to":"worker-3","body":"x"} {})", "not a JSON object"},
      {"{\"to\":\"worker-3\",\"body\":\"\xFF\"}", "body64"},
      {R"({"body":"x"})", "to is missing"},
      {R"({"to":"","body":"x"})", "to is missing"},
      {R"({"to":3,"body":"x"})", "to must be a text"},
      {R"({"to":"worker-3,worker-4","body":"x"})", "a line for each receiver"},
      {R"({"to":"workers","body":"x"})", "a line for each receiver"},
      {R"({"to":"worker-3"})", "either body"},
      {R"({"to":"worker-3","body":"x","body64":"AA=="})", "either body"},
      {R"({"to":"worker-3","body":null})", "body must be a text"},
      {R"({"to":"worker-3","body64":"?"})", "not base64"},
      {R"({"to":"worker-3","body":"x","id":""})", "id takes"},
      {R"({"to":"worker-3","body":"x","id":"a b"})", "id takes"},
      {R"({"to":"worker-3","body":"x","id":7})", "id must be a text"},
      {R"({"to":"worker-3","body":"x","priority":"urgent"})", "high, normal or low"},
      {R"({"to":"worker-3","body":"x","inReplyTo":""})", "inReplyTo"},
      {R"({"to":"worker-3","body":"x","prio":"low"})", "unknown member \"prio\""},
      {R"({"to":"worker-3","body":"x","op":"ack"})", "unknown member \"op\""},
      {"{\"to\":\"worker-3\",\"body\":\"x\",\"\\u001b[2J\":\"\"}", "unknown member \"\""},
  };
  for (const auto& [line, words] : rows) {
    const auto message = parse_batch_line(line);
    ASSERT_FALSE(message) << line;
    EXPECT_EQ(message.error().code, Code::kInvalid) << line;
    EXPECT_THAT(message.error().message, HasSubstr(words)) << line;
  }
}

Outcome outcome(std::uint64_t line, const std::string& code) {
  Outcome out;
  out.line = line;
  out.to = "worker-3";
  out.id = "m-" + std::to_string(line);
  out.code = code;
  if (code.empty())
    out.survives = "node";
  else
    out.message = "because";
  return out;
}

TEST(BatchOutcome, IsOneLineOfJson) {
  EXPECT_EQ(
      outcome(2, "").to_json(),
      R"({"duplicate":false,"line":2,"messageId":"m-2","outcome":"accepted","survives":"node","to":"worker-3"})");
  EXPECT_EQ(
      outcome(3, "full").to_json(),
      R"({"code":"full","line":3,"message":"because","messageId":"m-3","outcome":"refused","to":"worker-3"})");
  const std::pair<const char*, const char*> rows[] = {
      {"invalid", "refused"}, {"full", "refused"},     {"unavailable", "refused"},
      {"refused", "refused"}, {"conflict", "refused"}, {"unknown", "unknown"},
      {"failed", "unknown"},  {"whatever", "unknown"}};
  for (const auto& [code, word] : rows) EXPECT_EQ(outcome(1, code).word(), word) << code;
}

TEST(BatchOutcomes, ComeInTheOrderOfTheLines) {
  std::mt19937 random(11);
  Outcomes outcomes;
  std::vector<std::uint64_t> open;
  std::uint64_t begun = 0, taken = 0;
  for (int step = 0; step < 3000; ++step) {
    if (random() % 2 == 0) {
      open.push_back(outcomes.begin());
      ++begun;
    } else if (!open.empty()) {
      const auto at = static_cast<std::ptrdiff_t>(random() % open.size());
      const std::uint64_t place = open[static_cast<std::size_t>(at)];
      open.erase(open.begin() + at);
      outcomes.finish(place, outcome(place, place % 3 == 0 ? "full" : ""));
    }
    const bool ready = outcomes.ready();
    const auto out = outcomes.take();
    EXPECT_EQ(ready, !out.empty());
    for (const Outcome& o : out) EXPECT_EQ(o.line, taken++);
    EXPECT_EQ(outcomes.waiting(), begun - taken);
  }
  EXPECT_GT(taken, 100U);
  EXPECT_EQ(outcomes.total(), taken);
  EXPECT_EQ(outcomes.accepted(), taken - (taken + 2) / 3);
}

TEST(BatchOutcomes, TheExitCodeSumsThemUp) {
  const struct {
    std::vector<std::string> codes;
    int exit;
  } rows[] = {{{}, 0},
              {{"", ""}, 0},
              {{"", "full"}, 8},
              {{"full", ""}, 8},
              {{"full", "unknown"}, 4},
              {{"unknown", "full"}, 5},
              {{"invalid"}, 2},
              {{"whatever", "full"}, 1}};
  for (const auto& row : rows) {
    Outcomes outcomes;
    std::vector<std::uint64_t> places;
    for (std::size_t i = 0; i < row.codes.size(); ++i) places.push_back(outcomes.begin());
    for (std::size_t i = row.codes.size(); i > 0; --i)  // the last is known first
      outcomes.finish(places[i - 1], outcome(i, row.codes[i - 1]));
    (void)outcomes.take();
    EXPECT_EQ(outcomes.exit_code(), row.exit) << ::testing::PrintToString(row.codes);
  }
}

}  // namespace
}  // namespace swarm::agent
