#include "worker/usage.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

namespace swarm::worker {
namespace {

constexpr const char* kClaude =
    R"({"type":"result","subtype":"success","is_error":false,"result":"it says \"result\" {[","session_id":"5b1f-a","total_cost_usd":0.0123456,)"
    R"("usage":{"input_tokens":12,"cache_creation_input_tokens":3000,"cache_read_input_tokens":45000,"output_tokens":678}})";

Usage used(std::optional<std::int64_t> in, std::optional<std::int64_t> out,
           std::optional<std::int64_t> read, std::optional<std::int64_t> creation,
           std::optional<std::int64_t> cost, std::string session) {
  return {in, out, read, creation, cost, std::move(session)};
}

UsageReader read(UsageOf cli, std::string_view text) {
  UsageReader reader(cli);
  reader.add(text);
  reader.finish();
  return reader;
}

std::optional<Usage> usage_in(UsageOf cli, std::string_view text) {
  return read(cli, text).usage();
}

TEST(Usage, ClaudesObjectIsReadWithAndWithoutANewline) {
  const Usage all = used(12, 678, 45000, 3000, 12346, "5b1f-a");
  EXPECT_EQ(usage_in(UsageOf::kClaude, kClaude), all);
  EXPECT_EQ(usage_in(UsageOf::kClaude, std::string(kClaude) + "\n"), all);
  EXPECT_EQ(usage_in(UsageOf::kClaude, std::string("\n  hello\r\n ") + kClaude + "\r\nbye"), all);
}

TEST(Usage, PiecesOfAnySizeMakeTheSame) {
  const std::string text = std::string("{\"type\":\"system\"}\n") + kClaude + "\n";
  for (std::size_t size = 1; size < 40; ++size) {
    UsageReader reader(UsageOf::kClaude);
    for (std::size_t at = 0; at < text.size(); at += size)
      reader.add(std::string_view(text).substr(at, size));
    reader.finish();
    ASSERT_EQ(reader.usage(), used(12, 678, 45000, 3000, 12346, "5b1f-a")) << size;
  }
}

TEST(Usage, OfAStreamOnlyTheResultCounts) {
  const std::string assistant =
      R"({"type":"assistant","message":{"content":[{"type":"text","text":"\"result\""}],)"
      R"("usage":{"input_tokens":1,"output_tokens":1}},"session_id":"5b1f-a"})"
      "\n";
  EXPECT_EQ(usage_in(UsageOf::kClaude, assistant + assistant + kClaude),
            used(12, 678, 45000, 3000, 12346, "5b1f-a"));
  EXPECT_EQ(usage_in(UsageOf::kClaude, assistant), std::nullopt);
  // With --verbose and without a stream, all messages are one list.
  EXPECT_EQ(usage_in(UsageOf::kClaude, "[{\"type\":\"system\"}," + std::string(kClaude) + "]\n"),
            used(12, 678, 45000, 3000, 12346, "5b1f-a"));
}

// What the stock CLIs have printed, at a model server that says 1000 tokens in, 2000 from the
// cache, 300 into it (Claude Code only) and 100 out for each of its answers.
std::string printed(const std::string& file) {
  std::ifstream in(CLI_OUTPUT + file);
  EXPECT_TRUE(in.good()) << file;
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Usage, RealOutputOfClaudeCodeIsRead) {
  const UsageReader done = read(UsageOf::kClaude, printed("claude-2.1.330-done.jsonl"));
  EXPECT_EQ(done.usage(),
            used(4000, 400, 8000, 1200, 31'600, "2d00b19a-5836-477b-bee4-3dfbdb1e83e2"));
  EXPECT_EQ(done.failure(), "");
  EXPECT_EQ(done.answer(), "all green");
  const UsageReader limited = read(UsageOf::kClaude, printed("claude-2.1.330-rate-limit.jsonl"));
  EXPECT_EQ(limited.usage(), used(0, 0, 0, 0, 0, "90514d5c-8ae5-408e-a531-c68c03f06910"));
  EXPECT_EQ(limited.failure(),
            "API Error: Request rejected (429) · This request would exceed the rate limit of your "
            "organization (rate_limit_error)");
}

TEST(Usage, RealOutputOfCodexIsRead) {
  const UsageReader done = read(UsageOf::kCodex, printed("codex-0.169.0-done.jsonl"));
  EXPECT_EQ(done.usage(), used(3000, 300, 6000, std::nullopt, std::nullopt,
                               "01a2048c-a740-7cc0-a4b1-57109bbe06c3"));
  EXPECT_EQ(done.failure(), "");
  EXPECT_EQ(done.answer(), "all green");
  const UsageReader limited = read(UsageOf::kCodex, printed("codex-0.169.0-rate-limit.jsonl"));
  EXPECT_EQ(limited.usage(), std::nullopt);
  EXPECT_EQ(limited.failure(), "exceeded retry limit, last status: 429 Too Many Requests");
}

TEST(Usage, AFailureIsTheLastWordOrNone) {
  const std::string failed = R"({"type":"result","is_error":true,"result":"no\nway"})";
  EXPECT_EQ(read(UsageOf::kClaude, failed).failure(), "noway");
  EXPECT_EQ(read(UsageOf::kClaude, failed + "\n" + kClaude).failure(), "");
  EXPECT_EQ(read(UsageOf::kClaude, R"({"type":"result","is_error":true})").failure(), "");
  EXPECT_LE(read(UsageOf::kClaude,
                 R"({"type":"result","is_error":true,"result":")" + std::string(9000, 'x') + "\"}")
                .failure()
                .size(),
            kMaxFailureBytes);
  const std::string turn = R"({"type":"turn.failed","error":{"message":"no"}})";
  EXPECT_EQ(read(UsageOf::kCodex, turn).failure(), "no");
  EXPECT_EQ(read(UsageOf::kCodex, turn + "\n" + R"({"type":"turn.completed"})").failure(), "");
  EXPECT_EQ(read(UsageOf::kCodex, R"({"type":"turn.failed","error":"no"})").failure(), "");
}

TEST(Usage, TheLastWordOfEachSessionCountsAndSessionsAreAdded) {
  const auto result = [](const char* session, int tokens, const char* usd) {
    return std::string(R"({"type":"result","session_id":")") + session + R"(","total_cost_usd":)" +
           usd + R"(,"usage":{"input_tokens":)" + std::to_string(tokens) +
           R"(,"output_tokens":1}})" + "\n";
  };
  EXPECT_EQ(usage_in(UsageOf::kClaude,
                     result("a", 5, "0.5") + result("b", 100, "2") + result("a", 7, "0.75")),
            used(107, 2, std::nullopt, std::nullopt, 2'750'000, "a"));
}

TEST(Usage, CodexCountsItsThreadAndHasNoCost) {
  const std::string text =
      "{\"type\":\"thread.started\",\"thread_id\":\"0199-x\"}\n{\"type\":\"turn.started\"}\n"
      R"({"type":"item.completed","item":{"type":"agent_message","text":"turn.completed"}})"
      "\n"
      R"({"type":"turn.completed","usage":{"input_tokens":900,"cached_input_tokens":600,"output_tokens":12}})"
      "\n"
      R"({"type":"turn.completed","usage":{"input_tokens":1000,"cached_input_tokens":600,"output_tokens":20}})";
  EXPECT_EQ(usage_in(UsageOf::kCodex, text),
            used(400, 20, 600, std::nullopt, std::nullopt, "0199-x"));
  EXPECT_EQ(usage_in(UsageOf::kClaude, text), std::nullopt);
  EXPECT_EQ(usage_in(UsageOf::kCodex, kClaude), std::nullopt);
}

TEST(Usage, WhatIsNotKnownIsAbsentAndNotZero) {
  EXPECT_EQ(usage_in(UsageOf::kClaude, R"({"type":"result","total_cost_usd":0})"),
            used(std::nullopt, std::nullopt, std::nullopt, std::nullopt, 0, ""));
  EXPECT_EQ(usage_in(UsageOf::kClaude, R"({"type":"result","usage":{"output_tokens":3}})"),
            used(std::nullopt, 3, std::nullopt, std::nullopt, std::nullopt, ""));
}

TEST(Usage, HostileOutputIsPassedOver) {
  const std::string deep(100'000, '[');
  for (const std::string& text : {
           std::string(),
           std::string("\n\n"),
           std::string("\"result\""),
           std::string("{\"type\":\"result\""),
           std::string("{\"type\":\"result\"}"),
           std::string(R"({"type":"result","usage":null,"total_cost_usd":null})"),
           std::string(R"({"type":"result","usage":[1],"total_cost_usd":"1"})"),
           std::string(R"({"type":"result","usage":{"input_tokens":-1},"total_cost_usd":-0.5})"),
           std::string(R"({"type":"result","usage":{"input_tokens":1.5},"total_cost_usd":1e999})"),
           std::string(R"({"type":"result","usage":{"input_tokens":18446744073709551615}})"),
           std::string(R"(["result")"),
           std::string(R"([{"type":"x"},"result",[{"type":"result"}]])"),
           "{\"type\":\"result\",\"total_cost_usd\":1,\"deep\":" + deep,
           std::string("{\"type\":\"result\",\"total_cost_usd\":1,\"deep\":") +
               std::string(40, '[') + std::string(40, ']') + "}",
           std::string("\xff\xfe \"result\" \0{", 14),
       }) {
    const UsageReader reader = read(UsageOf::kClaude, text);
    EXPECT_EQ(reader.usage(), std::nullopt) << text.substr(0, 80);
    EXPECT_FALSE(reader.why().empty());
  }
}

TEST(Usage, NumbersStopAtWhatJsonCarries) {
  EXPECT_EQ(
      usage_in(
          UsageOf::kClaude,
          R"({"type":"result","session_id":"a","usage":{"output_tokens":9223372036854775807},"total_cost_usd":1e300})"
          "\n"
          R"({"type":"result","session_id":"b","usage":{"output_tokens":9223372036854775807},"total_cost_usd":1})"),
      used(std::nullopt, kMaxUsageCount, std::nullopt, std::nullopt, kMaxUsageCount, "b"));
}

TEST(Usage, ALineIsBoundedAndTheNextOneCounts) {
  const auto result = [](std::size_t bytes) {  // of the whole line
    const std::string head = R"({"type":"result","total_cost_usd":1,"result":")";
    return head + std::string(bytes - head.size() - 2, 'x') + "\"}";
  };
  EXPECT_TRUE(usage_in(UsageOf::kClaude, result(kMaxUsageLineBytes)));
  const UsageReader reader = read(UsageOf::kClaude, result(kMaxUsageLineBytes + 1));
  EXPECT_EQ(reader.usage(), std::nullopt);
  EXPECT_NE(reader.why().find("passed over"), std::string::npos) << reader.why();
  EXPECT_EQ(usage_in(UsageOf::kClaude, result(kMaxUsageLineBytes + 1) + "\n" + kClaude),
            used(12, 678, 45000, 3000, 12346, "5b1f-a"));
}

TEST(Usage, SessionsAreBounded) {
  UsageReader reader(UsageOf::kClaude);
  for (std::size_t i = 0; i < kMaxUsageSessions + 5; ++i) {
    reader.add(R"({"type":"result","total_cost_usd":1,"session_id":"s)" + std::to_string(i) +
               "\"}\n");
  }
  EXPECT_EQ(reader.usage()->cost_micro_usd, 1'000'000 * std::int64_t{kMaxUsageSessions});
  EXPECT_NE(reader.why().find("more than 64 sessions"), std::string::npos) << reader.why();
}

TEST(Usage, ASessionThatIsNoIdIsNotPassedOn) {
  EXPECT_EQ(usage_in(UsageOf::kClaude,
                     "{\"type\":\"result\",\"total_cost_usd\":1,\"session_id\":\"a b\\u0007\"}"),
            used(std::nullopt, std::nullopt, std::nullopt, std::nullopt, 1'000'000, ""));
}

TEST(Usage, PricesAreForWhoNamesNoCost) {
  Usage usage = used(1'000'000, 30'000, 2'000'000, 400, std::nullopt, "");
  set_cost(usage, {1.25, 0.125, 10});
  EXPECT_EQ(usage.cost_micro_usd, 1'250'000 + 500 + 250'000 + 300'000);
  set_cost(usage, {100, 100, 100});
  EXPECT_EQ(usage.cost_micro_usd, 1'800'500) << "it has one";
  Usage unknown;
  set_cost(unknown, {1, 1, 1});
  EXPECT_EQ(unknown, Usage{});
  Usage huge = used(kMaxUsageCount, std::nullopt, std::nullopt, std::nullopt, std::nullopt, "");
  set_cost(huge, {kMaxPriceUsd, 0, 0});
  EXPECT_EQ(huge.cost_micro_usd, kMaxUsageCount);
}

// Damaged output is read as what it says, or not at all: nothing else happens.
TEST(Usage, AnyBytesAreTaken) {
  std::uint64_t state = 7;
  const auto below = [&](std::size_t n) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<std::size_t>(state >> 33U) % n;
  };
  std::size_t read_all_the_same = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string text = std::string(kClaude) + "\n" + kClaude;
    for (std::size_t n = 1 + below(4); n > 0; --n) {
      const std::size_t at = below(text.size());
      switch (below(3)) {
        case 0:
          text[at] = static_cast<char>(below(256));
          break;
        case 1:
          text.erase(at, 1 + below(8));
          break;
        default:
          text.insert(at, 1 + below(3), "{[\"\\\n0"[below(6)]);
      }
    }
    UsageReader reader(UsageOf::kClaude);
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t size = 1 + below(100);
      reader.add(std::string_view(text).substr(at, size));
      at += size;
    }
    reader.finish();
    const std::optional<Usage> found = reader.usage();
    read_all_the_same += found ? 1 : 0;
    EXPECT_EQ(found.has_value(), reader.why().empty());
    for (const auto& count : {found ? found->input_tokens : std::nullopt,
                              found ? found->cost_micro_usd : std::nullopt}) {
      EXPECT_TRUE(!count || (*count >= 0 && *count <= kMaxUsageCount));
    }
  }
  EXPECT_GT(read_all_the_same, 10'000U);
}

}  // namespace
}  // namespace swarm::worker
