#include "client/protocol.h"

#include <gtest/gtest.h>

#include "base/encoding.h"

namespace swarm::agent {
namespace {

Object object(const std::string& text) {
  Result<Object> parsed = Object::parse(text);
  check(parsed.ok(), "test data");
  return *std::move(parsed);
}

TEST(Protocol, WritesOneLine) {
  Request request("send");
  request.set("to", "worker-1")
      .set_number("n", 3)
      .set_flag("f", true)
      .set_bytes("body", "a\nb")
      .set_texts("l", {"x"});
  EXPECT_EQ(*request.line(7, Milliseconds(0)),
            "{\"body\":\"a\\nb\",\"f\":true,\"l\":[\"x\"],\"n\":3,\"op\":\"send\",\"rid\":7,\"to\":"
            "\"worker-1\"}\n");
}

TEST(Protocol, WhatIsLeftOfTheDeadlineIsWrittenEachTime) {
  Request request("recv");
  request.set_remaining("waitMs", Milliseconds(1000));
  EXPECT_EQ(object(*request.line(1, Milliseconds(5000))).number("waitMs"), 4000);
  EXPECT_EQ(object(*request.line(1, Milliseconds(1500))).number("waitMs"), 500);
  EXPECT_EQ(object(*request.line(1, Milliseconds(-3))).number("waitMs"), 0);
}

TEST(Protocol, BytesThatAreNotTextTravelAsBase64) {
  const std::string bytes[] = {"",
                               "text",
                               "gr\xC3\xBC\xC3\x9F",
                               std::string("\0\1\2", 3),
                               "\xFF\xFE",
                               std::string(1000, '\1'),
                               "cut \xE2\x82"};
  for (const std::string& body : bytes) {
    Request request("send");
    request.set_bytes("body", body);
    const Object sent = object(*request.line(1, Milliseconds(0)));
    EXPECT_EQ(*sent.bytes("body"), body);
    EXPECT_NE(sent.has("body"), sent.has("body64"));
  }
  Request control("send");
  control.set_bytes("body", std::string(600'000, '\1'));
  EXPECT_TRUE(control.line(1, Milliseconds(0)).ok());  // as JSON text it would be 3.6 MB
}

TEST(Protocol, RefusesALineThatIsTooLong) {
  Request request("send");
  request.set_bytes("body", std::string(kMaxSocketLineBytes, 'a'));
  const auto line = request.line(1, Milliseconds(0));
  ASSERT_FALSE(line.ok());
  EXPECT_EQ(line.error().code, Code::kInvalid);
}

TEST(Protocol, AnswersOfEveryKindOfWrong) {
  for (const char* line : {"", "x", "[]", "1", "{}", "{\"rid\":-1,\"ok\":true}", "{\"rid\":\"1\"}",
                           "{\"rid\":1.5}", "{\"ok\":true}", "{\"rid\":1,", "\xFF"}) {
    EXPECT_FALSE(parse_answer(line).ok()) << line;
  }
  const Answer error =
      *parse_answer("{\"rid\":1,\"ok\":false,\"code\":\"full\",\"message\":\"no room\"}");
  EXPECT_EQ(error.code, "full");
  EXPECT_EQ(error.message, "no room");
  EXPECT_EQ(parse_answer("{\"rid\":1}")->code, "failed");
  EXPECT_EQ(parse_answer("{\"rid\":1,\"ok\":1,\"code\":\"\"}")->code, "failed");
  EXPECT_TRUE(parse_answer("{\"rid\":1,\"ok\":true}")->ok);
}

TEST(Protocol, GettersNeverFail) {
  const Object o =
      object("{\"a\":1,\"b\":\"x\",\"c\":[1,\"y\",{\"z\":2}],\"d\":null,\"e64\":\"!!\",\"f64\":5}");
  EXPECT_EQ(o.text("a", "none"), "none");
  EXPECT_EQ(o.number("b", 9), 9);
  EXPECT_FALSE(o.flag("a"));
  EXPECT_EQ(o.texts("c"), std::vector<std::string>{"y"});
  ASSERT_EQ(o.objects("c").size(), 1U);
  EXPECT_EQ(o.objects("c")[0].number("z"), 2);
  EXPECT_EQ(o.object("d").to_json(), "{}");
  EXPECT_FALSE(o.bytes("e").ok());
  EXPECT_FALSE(o.bytes("f").ok());
  EXPECT_EQ(o.member_json("nothing"), "null");
}

TEST(Protocol, ExitCodesAreTheTableOfTheDocument) {
  const std::pair<const char*, int> rows[] = {
      {"", 0},        {"failed", 1},      {"invalid", 2}, {"not_found", 3}, {"full", 4},
      {"unknown", 5}, {"unavailable", 6}, {"refused", 7}, {"partial", 8},   {"new", 1}};
  for (const auto& [code, exit] : rows) EXPECT_EQ(exit_code(code), exit) << code;
}

TEST(Protocol, PrintableTakesTheTeethOut) {
  EXPECT_EQ(printable("a\x1B[31mred\x1B[0m\r\nb\tc", 100), "aredb c");
  EXPECT_EQ(printable("\x1B", 10), "");
  EXPECT_EQ(printable("\x1B[", 10), "");
  EXPECT_EQ(printable("ok\xFF\xC3", 10), "ok??");
  EXPECT_EQ(printable("\xC3\xBC\xC3\xBC", 3), "\xC3\xBC");
  EXPECT_EQ(printable("abc", 0), "");
}

TEST(Protocol, PrefixesDoNotCutCharacters) {
  EXPECT_EQ(utf8_prefix("abc", 5), "abc");
  EXPECT_EQ(utf8_prefix("a\xE2\x82\xAC", 3), "a");
  EXPECT_EQ(utf8_prefix("a\xE2\x82\xAC", 4), "a\xE2\x82\xAC");
  EXPECT_EQ(utf8_prefix("\x80\x80\x80\x80\x80\x80", 5), "\x80\x80\x80\x80\x80");
}

}  // namespace
}  // namespace swarm::agent
