#include "engine/mail_request.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace swarm::engine {
namespace {

using nlohmann::json;
using Op = MailRequest::Op;

TEST(MailRequest, EveryFieldIsReadAsItIsWritten) {
  MailRequestReader reader;
  const auto r = reader.read(
      R"({"op":"send","rid":7,"to":"worker-1","id":"m-1","priority":"high","body":"a\n\"ü\"\u0000","timeoutMs":5,)"
      R"("inReplyTo":"m-0","ackAttempt":4,"stream":"s","part":3,"end":true,"abort":false})");
  ASSERT_TRUE(r);
  EXPECT_EQ(r->wrong, "");
  EXPECT_EQ(r->op, Op::kSend);
  EXPECT_EQ(r->rid, "7");
  EXPECT_EQ(r->to, "worker-1");
  EXPECT_EQ(r->id, "m-1");
  EXPECT_EQ(r->priority, "high");
  EXPECT_EQ(body_of(*r).value(), std::string("a\n\"ü\"\0", 7));
  EXPECT_EQ(r->timeout_ms, 5U);
  EXPECT_EQ(r->in_reply_to, "m-0");
  EXPECT_EQ(r->ack_attempt, 4U);
  EXPECT_EQ(r->stream, "s");
  EXPECT_EQ(r->part, 3U);
  EXPECT_TRUE(r->end);
  EXPECT_FALSE(r->abort);

  const auto recv = reader.read(R"({"waitMs":1,"leaseMs":2,"from":"worker-2","op":"recv"})");
  ASSERT_TRUE(recv);
  EXPECT_EQ(recv->op, Op::kReceive);
  EXPECT_EQ(recv->rid, "null");
  EXPECT_EQ(recv->wait_ms, 1U);
  EXPECT_EQ(recv->lease_ms, 2U);
  EXPECT_EQ(recv->from, "worker-2");
  EXPECT_FALSE(recv->stream || recv->in_reply_to || recv->ack_attempt);

  const auto nack =
      reader.read(R"({"op":"nack","messageId":"m","attempt":2,"delayMs":9,"rid":1.5})");
  ASSERT_TRUE(nack);
  EXPECT_EQ(nack->op, Op::kNack);
  EXPECT_EQ(json::parse(nack->rid), json(1.5));
  EXPECT_EQ(nack->message_id, "m");
  EXPECT_EQ(nack->attempt, 2U);
  EXPECT_EQ(nack->delay_ms, 9U);
}

TEST(MailRequest, OfTwoFieldsOfOneNameTheLastCounts) {
  MailRequestReader reader;
  EXPECT_EQ(reader.read(R"({"op":"ack","op":"send","to":"a","to":"b","body":"y","body":"x"})")->to,
            "b");
  EXPECT_EQ(reader.read(R"({"op":"ack","op":"send","to":"a","to":1,"body":""})")->wrong,
            "to must be a text, as in {\"to\":\"…\"}");
  EXPECT_FALSE(reader.read(R"({"op":"ack","op":"hello"})"));
}

TEST(MailRequest, TheFirstMemberThatIsWrongIsNamed) {
  MailRequestReader reader;
  const auto wrong = [&](const std::string& members) {
    return reader.read("{" + members + "}").value().wrong;
  };
  const std::string number = " must be a whole number from 0, as in {\"";
  EXPECT_EQ(wrong(R"("op":"ack","attempt":"1","messageId":7)"),
            "attempt" + number + "attempt\":5}");
  EXPECT_EQ(wrong(R"("messageId":7,"x":1,"op":"ack")"),
            "messageId must be a text, as in {\"messageId\":\"…\"}")
      << "also ahead of the op";
  for (const char* bad : {"-5", "1.5", "1e3", "null", "\"9\"", "[9]", "18446744073709551615.5"})
    EXPECT_EQ(wrong(R"("op":"recv","waitMs":)" + std::string(bad)),
              "waitMs" + number + "waitMs\":5}")
        << bad;
  EXPECT_EQ(wrong(R"("op":"recv","waitMs":18446744073709551615)"), "");
  EXPECT_EQ(wrong(R"("op":"recv","rid":"7")"), "rid must be a number, as in {\"rid\":1}");
  EXPECT_EQ(wrong(R"("op":"recv","to":"a")"),
            "unknown member \"to\" of recv, allowed: op rid waitMs leaseMs inReplyTo stream part "
            "from");
  EXPECT_EQ(wrong(R"("op":"extend","":1)"),
            "unknown member \"\" of extend, allowed: op rid messageId attempt leaseMs from");
}

TEST(MailRequest, AMessageHasOneBody) {
  MailRequestReader reader;
  const auto read = [&](const std::string& members) {
    return reader.read(R"({"op":"request","to":"worker-1")" + members + "}").value();
  };
  const std::string needed = "either body (text) or body64 (base64) is needed";
  EXPECT_EQ(read("").wrong, needed);
  EXPECT_EQ(read(R"(,"body":"x","body64":"eA==")").wrong, needed);
  EXPECT_EQ(read(R"(,"body":null)").wrong, "body must be a text, as in {\"body\":\"…\"}");
  EXPECT_EQ(read(R"(,"body":"")").wrong, "") << "an empty one is one";
  EXPECT_EQ(body_of(read(R"(,"body64":"AP8=")")).value(), std::string("\0\xff", 2));
  EXPECT_FALSE(body_of(read(R"(,"body64":"?")")).ok());
  EXPECT_EQ(reader.read(R"({"op":"recv"})")->wrong, "") << "nobody else needs one";
}

TEST(MailRequest, OptionsAreWhatASendHasBesideReceiversAndBody) {
  MailRequestReader reader;
  const auto allowed = [](std::string words) {
    words.erase(0, words.find("allowed: ") + 9);
    return " " + words + " ";
  };
  std::string rest = allowed(reader.read(R"({"op":"send","?":1})")->wrong);
  for (const std::string name : {"op", "rid", "to", "body", "body64"})
    rest.erase(rest.find(" " + name + " "), name.size() + 1);
  EXPECT_EQ(allowed(reader.read_options(R"({"?":1})").error().message), rest);
  const auto options = reader.read_options(R"({"timeoutMs":5,"id":"a","priority":"low"})");
  ASSERT_TRUE(options);
  EXPECT_EQ(options->timeout_ms, 5U);
  EXPECT_EQ(message_of(*options, true)->priority, mailbox::Priority::kLow);
  EXPECT_TRUE(message_of(*reader.read_options("{}"), false)->id.empty()) << "the sender gives one";
  EXPECT_FALSE(message_of(*reader.read_options(R"({"id":""})"), true).ok());
}

TEST(MailRequest, WhatIsNoRequestOfMailIsLeftToOthers) {
  MailRequestReader reader;
  const std::string deep =
      R"({"op":"send","x":)" + std::string(40, '[') + std::string(40, ']') + "}";
  for (const std::string& line :
       {std::string("nothing"), std::string(R"({"op":"hello"})"), std::string(R"({"op":["send"]})"),
        std::string(R"(["op","send"])"), std::string(R"({"op":"send"} x)"),
        std::string(R"({"op":"send")"), std::string("{\"op\":\"send\",\"body\":\"\xff\"}"),
        std::string(R"({"op":"send","body":"\ud800"})"),
        std::string(R"({"op":"send","n":123456789012345678901234567890})"), deep}) {
    EXPECT_FALSE(reader.read(line)) << line;
  }
  const std::size_t most = MailRequestReader::kMaxDepth - 1;  // in the object
  EXPECT_TRUE(
      reader.read(R"({"op":"send","x":)" + std::string(most, '[') + std::string(most, ']') + "}"));
  EXPECT_TRUE(reader.read(R"({"op":"send"})")) << "it goes on after lines that are none";
  const std::string large(500'000, 'x');
  EXPECT_EQ(body_of(*reader.read(R"({"op":"send","body":")" + large + "\"}")).value(), large);
}

TEST(MailRequest, AMessageIsWrittenAsJson) {
  mailbox::Message m;
  m.id.value = "m-1";
  m.from.value = "worker-0";
  m.to.value = "worker-1";
  m.priority = mailbox::Priority::kLow;
  m.sent_at = 17;
  m.in_reply_to.value = "m-0";
  for (int c = 0; c < 0x80; ++c) m.body += static_cast<char>(c);
  m.body += "ü€😀";
  const auto written = [&](const mailbox::Delivery& delivery) {
    std::string out;
    append_message(out, delivery);
    return json::parse(out);
  };
  EXPECT_EQ(written({m, 2, true, {}}), (json{{"messageId", "m-1"},
                                             {"from", "worker-0"},
                                             {"to", "worker-1"},
                                             {"priority", "low"},
                                             {"attempt", 2},
                                             {"redelivered", true},
                                             {"sentAtMs", 17},
                                             {"wantsReply", false},
                                             {"inReplyTo", "m-0"},
                                             {"body", m.body}}));
  m.in_reply_to.value.clear();
  m.wants_reply = true;
  m.priority = mailbox::Priority::kNormal;
  m.body = std::string("\0\xff", 2);
  EXPECT_EQ(written({m, 1, false, {}}), (json{{"messageId", "m-1"},
                                              {"from", "worker-0"},
                                              {"to", "worker-1"},
                                              {"priority", "normal"},
                                              {"attempt", 1},
                                              {"redelivered", false},
                                              {"sentAtMs", 17},
                                              {"wantsReply", true},
                                              {"body64", "AP8="}}));
  m.wants_reply = false;
  m.stream = mailbox::StreamPart{{"s"}, 4, mailbox::StreamPart::Mark::kEnd};
  m.body = "";
  EXPECT_EQ(written({m, 1, false, {}}), (json{{"messageId", "m-1"},
                                              {"from", "worker-0"},
                                              {"to", "worker-1"},
                                              {"priority", "normal"},
                                              {"attempt", 1},
                                              {"redelivered", false},
                                              {"sentAtMs", 17},
                                              {"wantsReply", false},
                                              {"stream", "s"},
                                              {"part", 4},
                                              {"end", true},
                                              {"body", ""}}));
}

// Strings are looked through eight bytes at a time.
TEST(MailRequest, EveryByteIsEscapedWhereverItStands) {
  for (int c = 1; c < 0x80; ++c) {
    for (const char other : {'x', '\x7f', static_cast<char>(c)}) {
      for (std::size_t size = 1; size <= 20; ++size) {
        std::string text(size, other);
        for (std::size_t at = 0; at < size; ++at) {
          text[at] = static_cast<char>(c);
          std::string out;
          append_string(out, text);
          ASSERT_EQ(json::parse(out), text) << c << " at " << at << " of " << size;
          text[at] = other;
        }
      }
    }
  }
}

}  // namespace
}  // namespace swarm::engine
