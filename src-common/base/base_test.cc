#include <gtest/gtest.h>

#include "base/crc32c.h"
#include "base/encoding.h"
#include "base/result.h"

namespace swarm {
namespace {

TEST(Crc32c, MatchesTheVectorsOfRfc3720) {
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43U);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
}

TEST(Crc32c, ContinuesOverPieces) {
  EXPECT_EQ(crc32c("6789", crc32c("12345")), crc32c("123456789"));
}

TEST(Encoding, Base64RoundTripsEveryLength) {
  std::string bytes;
  for (int i = 0; i < 300; ++i) {
    EXPECT_EQ(from_base64(to_base64(bytes)), bytes);
    bytes += static_cast<char>(i * 7);
  }
}

TEST(Encoding, Base64RefusesWhatIsNotBase64) {
  for (const char* bad : {"a", "ab", "abc", "a===", "====", "ab=c", "ab==abcd", "a b=", "ab-_"}) {
    EXPECT_EQ(from_base64(bad), std::nullopt) << bad;
  }
}

TEST(Encoding, HexRoundTripsAndRefuses) {
  EXPECT_EQ(from_hex(to_hex(std::string("\0\x7f\xff", 3))), std::string("\0\x7f\xff", 3));
  EXPECT_EQ(from_hex("abc"), std::nullopt);
  EXPECT_EQ(from_hex("zz"), std::nullopt);
}

TEST(Encoding, KnowsUtf8) {
  for (const char* good : {"", "abc", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80"})
    EXPECT_TRUE(is_utf8(good));
  for (const char* bad :
       {"\xff", "\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "a\x80"}) {
    EXPECT_FALSE(is_utf8(bad)) << to_hex(bad);
  }
}

TEST(Encoding, KnowsNames) {
  for (const char* good : {"worker-0", "worker-17", "coordinator-0"}) {
    EXPECT_TRUE(is_slot_name(good) && is_agent_name(good)) << good;
    EXPECT_EQ(pod_of(AgentName{good}).value, good);
    EXPECT_EQ(number_in_pod(good), 0U);
  }
  for (const char* good : {"worker-0.1", "worker-17.10", "worker-999999.1023"}) {
    EXPECT_TRUE(is_agent_name(good)) << good;
    EXPECT_FALSE(is_slot_name(good)) << good;
    EXPECT_EQ(agent_of(pod_of(AgentName{good}), number_in_pod(good)).value, good);
  }
  EXPECT_EQ(agent_of({"worker-3"}, 0).value, "worker-3");
  EXPECT_EQ(pod_of("worker-17.10"), "worker-17");
  EXPECT_EQ(number_in_pod("worker-17.10"), 10U);
  EXPECT_TRUE(is_of_pod("worker-1", "worker-1") && is_of_pod("worker-1.3", "worker-1"));
  EXPECT_FALSE(is_of_pod("worker-17", "worker-1") || is_of_pod("worker-17.1", "worker-1") ||
               is_of_pod("worker-1", "worker-1.3") || is_of_pod("worker-1", "worker-17"));
  for (const char* bad :
       {"", "worker", "worker-", "worker-01", "worker-1x", "worker-1234567", "Worker-1",
        "../worker-1", "worker-1.", "worker-1.0", "worker-1.01", "worker-1.1024", "worker-1.10000",
        "worker-1.1.1", "worker-1.-1", "worker-1.x", "worker-.1", ".1", "coordinator-0.1"}) {
    EXPECT_FALSE(is_slot_name(bad) || is_agent_name(bad)) << bad;
  }
  EXPECT_TRUE(is_message_id("m-1:a.b_c"));
  for (const auto& bad :
       {std::string(), std::string("a b"), std::string("a/b"), std::string(129, 'a')}) {
    EXPECT_FALSE(is_message_id(bad)) << bad;
  }
}

TEST(Encoding, IdsOfTasksAreKnownByTheirForm) {
  for (const auto& good : {std::string("t-0-0"), std::string("t-12-1f2a"),
                           "t-0-" + std::string(kMaxTaskIdBytes - 4, 'z')})
    EXPECT_TRUE(is_task_id(good)) << good;
  for (const char* bad : {"", "t", "t-", "t-0", "t-0-", "t--a", "t-a-b", "t-0-A", "t-0-a-b",
                          "t-0-a/", "x-0-a", " t-0-a", "t-0-a ", "task/t-0-a", "t-0-a\n"})
    EXPECT_FALSE(is_task_id(bad)) << bad;
  EXPECT_FALSE(is_task_id("t-0-" + std::string(kMaxTaskIdBytes - 3, 'z')));
}

TEST(Encoding, NamesOfSwarms) {
  for (const auto& good : {std::string("a"), std::string("a-1"), std::string("a--b2"),
                           std::string(kMaxSwarmNameBytes, 'a')})
    EXPECT_TRUE(is_swarm_name(good)) << good;
  for (const char* bad : {"", "A", "-a", "a-", "1a", "a_b", "a.b", "a\n"})
    EXPECT_FALSE(is_swarm_name(bad)) << bad;
  EXPECT_FALSE(is_swarm_name(std::string(kMaxSwarmNameBytes + 1, 'a')));
}

TEST(Encoding, HmacMatchesRfc4231Case2) {
  EXPECT_EQ(to_hex(hmac_sha256("Jefe", "what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

TEST(Result, CodeNamesRoundTrip) {
  for (Code code :
       {Code::kInvalid, Code::kNotFound, Code::kConflict, Code::kFull, Code::kDenied,
        Code::kUnavailable, Code::kUnknown, Code::kCancelled, Code::kCorrupt, Code::kInternal}) {
    EXPECT_EQ(code_from_name(code_name(code)), code);
  }
}

}  // namespace
}  // namespace swarm
