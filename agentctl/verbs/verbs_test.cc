// Every verb as a program against a fake engine.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <functional>
#include <iterator>
#include <sstream>

#include "testing/fake_engine.h"

namespace swarm::agent {
namespace {

using testing::HasSubstr;

class Verbs : public testing::Test {
 protected:
  struct Ran {
    int code;
    std::string out;
    std::string err;
  };
  Ran run(std::vector<std::string> arguments, const std::string& input = "",
          std::map<std::string, std::string> more = {}) {
    Program program(directory_, socket_, std::move(arguments), std::move(more), input);
    const int code = program.wait();
    return {code, program.out(), program.err()};
  }
  void answer(const std::string& op, const std::string& members) {
    engine_.on(op, [members](const Object&) { return members; });
  }

  TemporaryDirectory directory_;
  std::string socket_ = directory_.path() + "/s";
  FakeEngine engine_{socket_};
};

constexpr const char* kMessage =
    R"({"messageId":"m-1","from":"worker-1","to":"worker-3","priority":"normal","attempt":2,"redelivered":true,"wantsReply":true,"body":"hi"})";

TEST_F(Verbs, SendPrintsTheIdAndWhatItSurvives) {
  answer("send",
         R"("ok":true,"outcome":"accepted","messageId":"m-9","survives":"node","duplicate":false)");
  const Ran ran = run({"send", "worker-1", "hello there", "--id", "m-9", "--priority=high"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_EQ(ran.out, "m-9\n");
  EXPECT_EQ(ran.err, "accepted, survives: node\n");
  const auto sent = engine_.received("send");
  ASSERT_EQ(sent.size(), 1U);
  EXPECT_EQ(sent[0].text("to"), "worker-1");
  EXPECT_EQ(sent[0].text("body"), "hello there");
  EXPECT_EQ(sent[0].text("id"), "m-9");
  EXPECT_EQ(sent[0].text("priority"), "high");
  EXPECT_GT(sent[0].number("timeoutMs"), 4000);
}

TEST_F(Verbs, SendReadsStandardInputAndMakesAnId) {
  EXPECT_EQ(run({"send", "worker-1"}, std::string("\xFF\0z", 3)).code, 0);
  EXPECT_EQ(run({"send", "worker-1", "-"}, "text").code, 0);
  const auto sent = engine_.received("send");
  ASSERT_EQ(sent.size(), 2U);
  EXPECT_EQ(*sent[0].bytes("body"), std::string("\xFF\0z", 3));
  EXPECT_EQ(sent[1].text("body"), "text");
  EXPECT_NE(sent[0].text("id"), sent[1].text("id"));
  EXPECT_FALSE(sent[0].text("id").empty());
}

TEST_F(Verbs, EveryCodeIsAnExitCode) {
  const std::pair<const char*, int> rows[] = {{"failed", 1},  {"invalid", 2}, {"not_found", 3},
                                              {"full", 4},    {"unknown", 5}, {"unavailable", 6},
                                              {"refused", 7}, {"partial", 8}};
  for (const auto& [code, exit] : rows) {
    answer("send", std::string(R"("ok":false,"message":"because","code":")") + code + "\"");
    const Ran ran = run({"send", "worker-1", "x"});
    EXPECT_EQ(ran.code, exit) << code;
    EXPECT_THAT(ran.err, HasSubstr("because")) << code;
    EXPECT_EQ(ran.out, "");
  }
}

TEST_F(Verbs, WithoutAnEngineNothingWasSent) {
  engine_.stop();
  const Ran ran = run({"send", "worker-1", "x", "--timeout", "200ms"});
  EXPECT_EQ(ran.code, 6);
  EXPECT_THAT(ran.err, HasSubstr("CFN_SOCKET"));
}

TEST_F(Verbs, WithoutAnAnswerItMayHaveBeenSent) {
  engine_.on("send", [](const Object&) { return std::nullopt; });
  const Ran ran = run({"send", "worker-1", "x", "--timeout=100ms", "--id=abc"});
  EXPECT_EQ(ran.code, 5);
  EXPECT_THAT(ran.err, HasSubstr("--id abc"));
}

TEST_F(Verbs, ABrokenConnectionIsRepairedAndTheSameIdRepeated) {
  int calls = 0;
  engine_.on("send", [&calls](const Object&) -> std::optional<std::string> {
    if (++calls == 1) return std::nullopt;
    return R"("ok":true,"messageId":"x","survives":"pod")";
  });
  Program program(directory_, socket_, {"send", "worker-1", "x"});
  ASSERT_TRUE(engine_.wait_for("send", 1));
  engine_.stop();
  engine_.start();
  EXPECT_EQ(program.wait(), 0);
  const auto sent = engine_.received("send");
  ASSERT_EQ(sent.size(), 2U);
  EXPECT_EQ(sent[0].text("id"), sent[1].text("id"));
}

TEST_F(Verbs, WhoGetsNoConnectionTriesAgainAndIsToldWhy) {
  const std::string line =
      R"({"code":"full","message":"no more connections: 26 of 256","ok":false,"rid":null})";
  engine_.refuse_connections(line + "\n");
  for (const char* agent : {"worker-3", "worker-3.1"}) {  // the latter says so first
    const Ran ran =
        run({"send", "worker-1", "x", "--timeout", "200ms"}, "", {{"CFN_AGENT_ID", agent}});
    EXPECT_EQ(ran.code, 6) << agent << ": nothing was sent";
    EXPECT_THAT(ran.err, HasSubstr("no more connections: 26 of 256")) << agent;
  }
  answer("send", R"("ok":true,"messageId":"x","survives":"pod")");
  Program program(directory_, socket_, {"send", "worker-1", "x"});
  ASSERT_TRUE(engine_.wait_for("refused", engine_.received("refused").size() + 2));
  engine_.refuse_connections("");
  EXPECT_EQ(program.wait(), 0);
  EXPECT_EQ(engine_.received("send").size(), 1U);
}

TEST_F(Verbs, SendToSeveralSaysWhatBecameOfEach) {
  // Two parts and the answer, as the sidecar writes them; `rest` is what follows the last part.
  const auto parts = [this](const std::string& rest) {
    engine_.on("send", [rest](const Object& m) -> std::optional<std::string> {
      const std::string rid = "\"rid\":" + std::to_string(m.number("rid")) + ",";
      return R"("more":true,"to":"worker-1","outcome":"accepted","survives":"node","duplicate":false})"
             "\n{" +
             rid +
             R"("more":true,"to":"worker-2","outcome":"refused","code":"full","message":"it is full"})"
             "\n{" +
             rid + rest;
    });
  };
  parts(
      R"("ok":false,"code":"partial","message":"1 of 2 accepted; it is full","receivers":2,"accepted":1)");
  Ran ran = run({"send", "worker-1,worker-2", "x", "--id=m-1"});
  EXPECT_EQ(ran.code, 8);
  EXPECT_EQ(ran.out, "m-1\n");
  EXPECT_THAT(ran.err,
              testing::StartsWith("worker-1: accepted, survives: node\nworker-2: refused: it is "
                                  "full\nagentctl send: 1 of 2 accepted; it is full"));
  EXPECT_THAT(ran.err, HasSubstr("--id m-1"));
  EXPECT_EQ(engine_.received("send").back().text("to"), "worker-1,worker-2");

  ran = run({"send", "workers", "x", "--id=m-1", "-o", "json"});
  EXPECT_EQ(ran.code, 8);
  EXPECT_EQ(
      ran.out,
      R"({"duplicate":false,"messageId":"m-1","outcome":"accepted","survives":"node","to":"worker-1"})"
      "\n"
      R"({"code":"full","message":"it is full","messageId":"m-1","outcome":"refused","to":"worker-2"})"
      "\n");

  parts(R"("ok":false,"code":"full","message":"none","receivers":2,"accepted":0)");
  ran = run({"send", "workers", "x"});
  EXPECT_EQ(ran.code, 4);
  EXPECT_EQ(ran.out, "");
  parts(R"("ok":true,"outcome":"accepted","messageId":"m-1","receivers":2,"accepted":2)");
  ran = run({"send", "workers", "x", "--id=m-1"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_EQ(ran.out, "m-1\n");
}

TEST_F(Verbs, WatchShowsMessagesUntilThereAreEnough) {
  int calls = 0;
  engine_.on("watch", [&](const Object& m) -> std::optional<std::string> {
    const std::string next = "}\n{\"rid\":" + std::to_string(m.number("rid")) + R"(,"more":true,)";
    if (++calls == 3) return R"("ok":false,"code":"full","message":"too many")";
    return R"("more":true,"watching":true)" + next + "\"message\":" + kMessage + next +
           R"("missed":7)" + next + "\"message\":" + kMessage;
  });
  Ran ran = run({"watch", "--count=2"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, "hi\nhi\n");
  EXPECT_THAT(ran.err, HasSubstr("message m-1 from worker-1"));
  EXPECT_THAT(ran.err, HasSubstr("7 not shown"));
  EXPECT_THAT(ran.err, testing::Not(HasSubstr("watching again")));
  Program program(directory_, socket_, {"watch", "-o", "json", "--count=4"});
  ASSERT_TRUE(engine_.wait_for("watch", 2));
  engine_.stop();
  engine_.start();
  EXPECT_EQ(program.wait(), 4) << "what the engine says the second time";
  const std::string shown = Object::parse(kMessage)->to_json() + "\n";
  EXPECT_EQ(program.out(), shown + shown);
}

TEST_F(Verbs, MaterializeShowsTheInboxAsFiles) {
  std::string listed =
      R"({"messageId":"..","from":"worker-1","state":"ready"},{"messageId":"m-2","from":"worker-2","state":"dead"},)"
      R"({"messageId":"m-3","from":"worker-3","state":"outgoing"},{"messageId":"../x","from":"worker-1","state":"ready"},)"
      R"({"messageId":"gone","from":"worker-1","state":"ready"})";
  engine_.on("ls", [&](const Object&) { return "\"ok\":true,\"messages\":[" + listed + "]"; });
  engine_.on("cat", [](const Object& m) -> std::optional<std::string> {
    if (m.text("messageId") == "gone") return R"("ok":false,"code":"not_found","message":"taken")";
    return R"("ok":true,"message":{"messageId":")" + m.text("messageId") + R"(","from":")" +
           m.text("from") + R"(","body64":"/wA="})";
  });
  const auto read = [&](const std::string& name) {
    std::ifstream file(directory_.path() + "/in/" + name, std::ios::binary);
    return file ? std::string(std::istreambuf_iterator<char>(file), {}) : "none";
  };
  const std::string to = directory_.path() + "/in";
  Ran ran = run({"materialize", to});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, "worker-1:..\nworker-2:m-2\n");
  EXPECT_EQ(ran.err, "2 messages, 0 removed\n");
  EXPECT_EQ(read("worker-1:.."), std::string("\xFF\0", 2));
  std::ofstream(to + "/mine") << "text";
  listed = R"({"messageId":"m-2","from":"worker-2","state":"ready"})";
  ran = run({"materialize", to, "-o", "json"});
  EXPECT_EQ(ran.err, "1 messages, 1 removed\n");
  EXPECT_EQ(read("worker-1:.."), "none");
  EXPECT_EQ(read("worker-2:m-2"),
            "{\"body64\":\"/wA=\",\"from\":\"worker-2\",\"messageId\":\"m-2\"}\n");
  EXPECT_EQ(read("mine"), "text") << "left alone";
  EXPECT_EQ(run({"materialize", to + "/mine"}).code, 2);
  EXPECT_EQ(run({"materialize", to + "/no/such"}).code, 1);
  EXPECT_EQ(run({"materialize"}).code, 2);
}

TEST_F(Verbs, MaterializeWaitsForNothingThatHasItsNames) {
  answer("ls", R"("ok":true,"messages":[{"messageId":"m","from":"worker-1","state":"ready"}])");
  answer("cat", R"("ok":true,"message":{"messageId":"m","from":"worker-1","body":"text"})");
  const std::string to = directory_.path() + "/in", victim = directory_.path() + "/victim";
  const std::string draft = to + "/.worker-1:m", name = to + "/worker-1:m";
  ASSERT_EQ(::mkdir(to.c_str(), 0777), 0);
  std::ofstream(victim) << "untouched";
  const auto read = [](const std::string& path) {
    std::ifstream file(path);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::function<int(const char*)> makers[] = {
      [](const char* path) { return ::mkfifo(path, 0666); },
      [&](const char* path) { return ::symlink(victim.c_str(), path); },
      [&](const char* path) { return ::link(victim.c_str(), path); }};
  for (const auto& make : makers) {
    for (const auto& path : {draft, name}) {
      (void)::unlink(name.c_str());
      ASSERT_EQ(make(path.c_str()), 0) << path;
      const Ran ran = run({"materialize", to, "--timeout", "1s"});
      EXPECT_EQ(ran.code, 0) << path << ran.err;
      struct stat made {};
      ASSERT_EQ(::lstat(name.c_str(), &made), 0);
      EXPECT_TRUE(S_ISREG(made.st_mode)) << path;
      EXPECT_EQ(read(name), "text");
      EXPECT_EQ(read(victim), "untouched");
      EXPECT_NE(::access(draft.c_str(), F_OK), 0);
    }
  }
  ASSERT_EQ(::unlink(name.c_str()), 0);
  for (const auto& path : {draft, name}) {
    ASSERT_EQ(::mkdir(path.c_str(), 0777), 0);
    const Ran ran = run({"materialize", to});
    EXPECT_EQ(ran.code, 1);
    EXPECT_THAT(ran.err, HasSubstr("worker-1:m: Is a directory")) << path;
    ASSERT_EQ(::rmdir(path.c_str()), 0);
  }
  ASSERT_EQ(::mkdir((to + "/worker-1:old").c_str(), 0777), 0);
  EXPECT_EQ(run({"materialize", to}).err, "1 messages, 0 removed\n");
}

TEST_F(Verbs, WhatIsNotListedIsCountedAndItsFilesStay) {
  answer(
      "ls",
      R"("ok":true,"total":9,"outgoing":2,"messages":[{"messageId":"m","from":"worker-1","to":"worker-3","state":"ready"}])");
  engine_.on("cat", [](const Object& m) -> std::optional<std::string> {
    if (m.text("messageId") == "done") return R"("ok":false,"code":"not_found","message":"done")";
    return R"("ok":true,"message":{"messageId":"m","from":"worker-1","body":"text"})";
  });
  Ran ran = run({"ls"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_EQ(ran.err, "8 more are not shown: the younger ones, those that were sent last\n");
  ran = run({"ls", "-o", "json"});
  EXPECT_THAT(ran.err, HasSubstr("8 more are not shown"));
  EXPECT_EQ(ran.out.substr(0, 2), "[{");
  answer("peers", R"("ok":true,"total":3,"peers":[{"name":"worker-1"}])");
  EXPECT_EQ(run({"peers"}).err, "2 more are not shown\n");
  const std::string to = directory_.path() + "/in";
  ASSERT_EQ(::mkdir(to.c_str(), 0777), 0);
  std::ofstream(to + "/worker-2:young") << "kept";
  std::ofstream(to + "/worker-2:done") << "old";
  ran = run({"materialize", to});
  EXPECT_EQ(ran.code, 0);
  EXPECT_EQ(ran.err, "1 messages, 1 removed\n6 more are not shown: the youngest ones\n");
  EXPECT_EQ(::access((to + "/worker-2:young").c_str(), F_OK), 0);
  EXPECT_NE(::access((to + "/worker-2:done").c_str(), F_OK), 0);
}

TEST_F(Verbs, SendStreamCutsItsInputIntoPartsAndEndsIt) {
  answer("hello", R"("ok":true,"limits":{"maxMessageBytes":4})");
  answer("send", R"("ok":true,"survives":"node")");
  const Ran ran = run({"send", "worker-1", "--stream=s"}, "123456");
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, "s\n");
  EXPECT_EQ(ran.err, "accepted: 3 parts, the last one an end\n");
  const auto sent = engine_.received("send");
  ASSERT_EQ(sent.size(), 3U);
  const std::pair<std::string, std::string> rows[] = {{"s.1", "1234"}, {"s.2", "56"}, {"s.3", ""}};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(std::pair(sent[i].text("id"), sent[i].text("body")), rows[i]);
    EXPECT_EQ(sent[i].flag("end"), i == 2);
    EXPECT_EQ(sent[i].number("part"), static_cast<std::int64_t>(i) + 1);
    EXPECT_EQ(sent[i].text("stream"), "s");
  }
}

TEST_F(Verbs, AStreamWaitsForASlowReaderAndIsAbortedWhenItMayNotGoOn) {
  int calls = 0;
  engine_.on("send", [&](const Object& m) -> std::optional<std::string> {
    if (m.flag("abort")) return R"("ok":true,"survives":"node")";
    if (++calls == 1) return R"("ok":false,"code":"full","message":"later")";
    if (calls < 4) return R"("ok":true,"survives":"node")";
    return R"("ok":false,"code":"refused","message":"never")";
  });
  answer("hello", R"("ok":true,"limits":{"maxMessageBytes":1})");
  const Ran ran = run({"send", "worker-1", "--stream=s"}, "123");
  EXPECT_EQ(ran.code, 7);
  EXPECT_THAT(ran.err,
              HasSubstr("never; part 3 of stream s was not sent, and the stream is aborted"));
  const auto sent = engine_.received("send");
  ASSERT_EQ(sent.size(), 5U);
  EXPECT_EQ(sent[0].text("id"), sent[1].text("id")) << "the same part again";
  EXPECT_EQ(sent[4].number("part"), 3);
  EXPECT_EQ(sent[4].text("body"), "never");
}

TEST_F(Verbs, OnePartOfAStream) {
  answer("send", R"("ok":true,"survives":"node")");
  EXPECT_EQ(run({"send", "worker-1", "x", "--stream=s", "--part=7", "--end"}).code, 0);
  EXPECT_EQ(run({"send", "worker-1", "--stream=s", "--part=8", "--abort=why"}).code, 0);
  const auto sent = engine_.received("send");
  ASSERT_EQ(sent.size(), 2U);
  EXPECT_EQ(sent[0].number("part"), 7);
  EXPECT_TRUE(sent[0].flag("end"));
  EXPECT_TRUE(sent[1].flag("abort"));
  EXPECT_EQ(sent[1].text("body"), "why");
  const std::vector<std::string> wrong[] = {{"--end"},
                                            {"--part=2", "x"},
                                            {"--stream=s", "--end"},
                                            {"--stream=a b", "x"},
                                            {"--stream=s", "x", "--abort=why"},
                                            {"--stream=s", "--abort=why", "--end"},
                                            {"--stream=s", "x", "--part=0"},
                                            {"--stream=s", "x", "--id=i"},
                                            {"--stream=" + std::string(101, 's'), "x"}};
  for (auto words : wrong) {
    words.insert(words.begin(), {"send", "worker-1"});
    EXPECT_EQ(run(words).code, 2) << words[2];
  }
}

TEST_F(Verbs, RecvStreamPrintsPartsUntilTheEnd) {
  std::string last = R"("body":"c","end":true)";
  engine_.on("recv", [&](const Object& m) -> std::optional<std::string> {
    const auto part = m.number("part");
    const std::string head = R"("ok":true,"message":{"from":"worker-1","stream":"s",)";
    const std::string at = R"("messageId":"s.)" + std::to_string(part) +
                           R"(","attempt":1,"part":)" + std::to_string(part) + ",";
    if (part == 4) return R"("ok":false,"code":"refused","message":"part 4 is lost")";
    if (part == 3) return head + at + last + "}";
    if (part == 2 && engine_.received("ack").size() == 1)  // its ack did not arrive
      return head + R"("messageId":"s.1","attempt":2,"part":1,"body":"a"})";
    return head + at + R"("body":")" + (part == 1 ? "a" : "b") + "\"}";
  });
  const std::vector<std::string> words{"recv", "--stream=s", "--from=worker-1"};
  Ran ran = run(words);
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, "abc");
  EXPECT_EQ(engine_.received("ack").size(), 4U);
  last = R"("body":"because","abort":true)";
  ran = run(words);
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.out, "ab");
  EXPECT_THAT(ran.err, HasSubstr("aborted by worker-1 at part 3: because"));
  last = R"("body":"c")";
  ran = run(words);
  EXPECT_EQ(ran.code, 7);
  EXPECT_EQ(ran.out, "abc");
  EXPECT_THAT(ran.err, HasSubstr("part 4 is lost (go on with --part 4)"));
  EXPECT_EQ(run({"recv", "--stream=s"}).code, 2);
  EXPECT_EQ(run({"recv", "--from=worker-1"}).code, 2);
  EXPECT_EQ(run({"recv", "--stream=s", "--from=worker-1", "--ack"}).code, 2);
}

TEST_F(Verbs, WatchEndsInTime) {
  answer("watch", R"("ok":true,"seen":0,"missed":0)");
  EXPECT_EQ(run({"watch", "--wait=50ms"}).code, 0);
  EXPECT_EQ(run({"watch", "--wait=50ms", "--count=1"}).code, 3);
  EXPECT_EQ(run({"watch", "--count=0"}).code, 2);
  EXPECT_EQ(run({"watch", "--wait=soon"}).code, 2);
}

std::vector<Object> json_lines(const std::string& text) {
  std::vector<Object> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    const auto object = Object::parse(line);
    EXPECT_TRUE(object) << line;
    if (object) out.push_back(*object);
  }
  return out;
}

TEST_F(Verbs, ABatchHasOneOutcomeForEachLine) {
  engine_.on("send", [](const Object& m) -> std::optional<std::string> {
    if (m.text("to") == "worker-9")
      return R"("ok":false,"code":"full","message":"worker-9's inbox is full")";
    return R"("ok":true,"outcome":"accepted","survives":"node","messageId":")" + m.text("id") +
           "\"";
  });
  const std::string input =
      "{\"to\":\"worker-1\",\"body\":\"a\",\"id\":\"m-1\",\"priority\":\"low\"}\n"
      "\n"
      "{\"to\":\"worker-1\",\"bdy\":\"a\"}\n" +
      std::string((1U << 20U) + 1, 'x') +
      "\n"
      "{\"to\":\"worker-9\",\"body\":\"b\"}\n"
      "{\"to\":\"worker-2\",\"body64\":\"/wA=\",\"inReplyTo\":\"q-1\"}";
  const Ran ran = run({"send", "--batch"}, input);
  EXPECT_EQ(ran.code, 8);
  EXPECT_EQ(ran.err, "2 of 5 accepted\n");
  const auto out = json_lines(ran.out);
  ASSERT_EQ(out.size(), 5U);
  const struct {
    int line;
    const char* outcome;
    const char* to;
    const char* code;
    const char* message;
  } rows[] = {{1, "accepted", "worker-1", "", ""},
              {3, "refused", "", "invalid", "line 3: unknown member \"bdy\""},
              {4, "refused", "", "invalid", "line 4: longer than 1048576 bytes"},
              {5, "refused", "worker-9", "full", "worker-9's inbox is full"},
              {6, "accepted", "worker-2", "", ""}};
  for (std::size_t i = 0; i < out.size(); ++i) {
    EXPECT_EQ(out[i].number("line"), rows[i].line);
    EXPECT_EQ(out[i].text("outcome"), rows[i].outcome);
    EXPECT_EQ(out[i].text("to"), rows[i].to);
    EXPECT_EQ(out[i].text("code"), rows[i].code);
    EXPECT_THAT(out[i].text("message"), testing::StartsWith(rows[i].message));
  }
  EXPECT_EQ(out[0].text("messageId"), "m-1");
  EXPECT_EQ(out[0].text("survives"), "node");
  const auto sent = engine_.received("send");
  ASSERT_EQ(sent.size(), 3U);
  EXPECT_EQ(sent[0].text("priority"), "low");
  EXPECT_GT(sent[0].number("timeoutMs"), 4000);
  EXPECT_EQ(*sent[2].bytes("body"), std::string("\xFF\0", 2));
  EXPECT_EQ(sent[2].text("inReplyTo"), "q-1");
  EXPECT_EQ(out[4].text("messageId"), sent[2].text("id"));
  EXPECT_NE(sent[1].text("id"), sent[2].text("id"));
}

TEST_F(Verbs, ABatchSaysByItsExitCodeHowItWent) {
  const std::string line = "{\"to\":\"worker-1\",\"body\":\"a\"}\n";
  EXPECT_EQ(run({"send", "--batch", "-"}, "").code, 0);
  EXPECT_EQ(run({"send", "--batch", "-"}, line + line).code, 0);
  EXPECT_EQ(run({"send", "--batch"}, line + "?\n").code, 8);
  EXPECT_EQ(run({"send", "--batch"}, "?\n").code, 2);
  answer("send", R"("ok":false,"code":"unavailable","message":"because")");
  EXPECT_EQ(run({"send", "--batch"}, line).code, 6);
  // More bad lines than outcomes may wait.
  std::string bad;
  for (int i = 0; i < 3000; ++i) bad += "?\n";
  const Ran ran = run({"send", "--batch"}, bad);
  EXPECT_EQ(ran.code, 2);
  EXPECT_EQ(ran.err, "0 of 3000 accepted\n");
}

TEST_F(Verbs, ABatchKeepsAtMost64UnderWayAndRepeatsThemWithTheSameIds) {
  std::atomic<bool> answers{false};
  engine_.on("send", [&](const Object&) -> std::optional<std::string> {
    if (!answers) return std::nullopt;
    return R"("ok":true,"survives":"pod")";
  });
  std::string input;
  for (int i = 0; i < 200; ++i)
    input += "{\"to\":\"worker-1\",\"body\":\"" + std::to_string(i) + "\"}\n";
  Program program(directory_, socket_, {"send", "--batch", "--timeout=20s"}, {}, input);
  ASSERT_TRUE(engine_.wait_for("send", 64));
  engine_.stop();
  EXPECT_EQ(engine_.received("send").size(), 64U);
  answers = true;
  engine_.start();
  EXPECT_EQ(program.wait(), 0) << program.err();
  EXPECT_EQ(program.err(), "200 of 200 accepted\n");
  const auto sent = engine_.received("send");
  ASSERT_EQ(sent.size(), 64U + 200U);
  const auto out = json_lines(program.out());
  ASSERT_EQ(out.size(), 200U);
  for (std::size_t i = 0; i < 200; ++i) {
    EXPECT_EQ(sent[64 + i].text("body"), std::to_string(i)) << "in the order of the lines";
    if (i < 64) {
      EXPECT_EQ(sent[64 + i].text("id"), sent[i].text("id"));
    }
    EXPECT_EQ(out[i].text("messageId"), sent[64 + i].text("id"));
    EXPECT_EQ(out[i].number("line"), static_cast<std::int64_t>(i) + 1);
  }
}

TEST_F(Verbs, ABatchWaitsForNoMoreInputThanOneLine) {
  const std::string fifo = directory_.path() + "/fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  Program program(directory_, socket_, {"send", "--batch", fifo});
  const int fd = ::open(fifo.c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  const auto write = [&](const std::string& text) {
    EXPECT_EQ(::write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  };
  write("{\"to\":\"worker-1\",\"body\":\"a\"}\n{\"to\":");
  EXPECT_TRUE(engine_.wait_for("send", 1));
  write("\"worker-2\",\"body\":\"b\"}\n");
  EXPECT_TRUE(engine_.wait_for("send", 2));
  ::close(fd);
  EXPECT_EQ(program.wait(), 0) << program.err();
  EXPECT_EQ(json_lines(program.out()).size(), 2U);
}

TEST_F(Verbs, ABatchPrintsInOrderThoughTheFirstAnswerComesLast) {
  engine_.on("send", [](const Object& m) -> std::optional<std::string> {
    if (m.text("body") == "silent") return std::nullopt;
    return R"("ok":true,"survives":"pod")";
  });
  std::string input = "{\"to\":\"worker-1\",\"body\":\"silent\"}\n";
  for (int i = 0; i < 100; ++i) input += "{\"to\":\"worker-1\",\"body\":\"x\"}\n";
  const Ran ran = run({"send", "--batch", "--timeout=100ms"}, input);
  EXPECT_EQ(ran.code, 8);
  const auto out = json_lines(ran.out);
  ASSERT_EQ(out.size(), 101U);
  EXPECT_EQ(out[0].text("outcome"), "unknown");
  EXPECT_EQ(out[0].text("messageId"), engine_.received("send")[0].text("id"));
  for (std::size_t i = 0; i < out.size(); ++i)
    EXPECT_EQ(out[i].number("line"), static_cast<std::int64_t>(i) + 1);
}

TEST_F(Verbs, ABatchNeverHasOneIdUnderWayTwice) {
  std::atomic<int> calls{0};
  engine_.on("send", [&](const Object&) -> std::optional<std::string> {
    if (++calls == 1) return std::nullopt;
    return R"("ok":true,"survives":"pod")";
  });
  const std::string line = "{\"to\":\"worker-1\",\"body\":\"a\",\"id\":\"job-1\"}\n";
  Program program(directory_, socket_, {"send", "--batch", "--timeout=20s"}, {}, line + line);
  ASSERT_TRUE(engine_.wait_for("send", 1));
  engine_.stop();
  EXPECT_EQ(engine_.received("send").size(), 1U);
  engine_.start();
  EXPECT_EQ(program.wait(), 0) << program.err();
  EXPECT_EQ(engine_.received("send").size(), 3U);
}

TEST_F(Verbs, RecvPrintsTheBodyAlone) {
  answer("recv", std::string(R"("ok":true,"message":)") + kMessage);
  const Ran ran = run({"recv", "--wait=2s", "--lease=5s"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_EQ(ran.out, "hi");
  EXPECT_EQ(ran.err, "message m-1 from worker-1, attempt 2, redelivered, wants a reply\n");
  const auto asked = engine_.received("recv");
  EXPECT_EQ(asked[0].number("leaseMs"), 5000);
  EXPECT_LE(asked[0].number("waitMs"), 2000);
  EXPECT_TRUE(engine_.received("ack").empty());
  EXPECT_THAT(run({"recv", "-o", "json"}).out, HasSubstr("\"body\":\"hi\""));
}

TEST_F(Verbs, RecvAcksAfterPrinting) {
  answer("recv", std::string(R"("ok":true,"message":)") + kMessage);
  EXPECT_EQ(run({"recv", "--ack"}).code, 0);
  const auto acks = engine_.received("ack");
  ASSERT_EQ(acks.size(), 1U);
  EXPECT_EQ(acks[0].text("messageId"), "m-1");
  EXPECT_EQ(acks[0].number("attempt"), 2);
}

TEST_F(Verbs, RecvSaysWhetherAMessageThatIsNotAckedComesAgain) {
  answer("recv", std::string(R"("ok":true,"message":)") + kMessage);
  answer("ack", R"("ok":false,"code":"refused","message":"not the current attempt")");
  const Ran refused = run({"recv", "--ack"});
  EXPECT_EQ(refused.code, 7);
  EXPECT_EQ(refused.out, "hi");
  EXPECT_THAT(refused.err, HasSubstr("not acked, it comes again"));
  answer("ack", R"("ok":false,"code":"unknown","message":"acknowledged here")");
  const Ran unknown = run({"recv", "--ack"});
  EXPECT_EQ(unknown.code, 5);
  EXPECT_EQ(unknown.out, "hi");
  EXPECT_THAT(unknown.err, HasSubstr("the message was printed; of its ack: acknowledged here"));
  EXPECT_THAT(unknown.err, testing::Not(HasSubstr("comes again")));
}

TEST_F(Verbs, RecvAcksOnceThoughTheConnectionBreaks) {
  answer("recv", std::string(R"("ok":true,"message":)") + kMessage);
  int calls = 0;
  engine_.on("ack", [&calls](const Object&) -> std::optional<std::string> {
    if (++calls == 1) return std::nullopt;
    return R"("ok":false,"code":"not_found","message":"no message m-1 here")";
  });
  Program program(directory_, socket_, {"recv", "--ack"});
  ASSERT_TRUE(engine_.wait_for("ack", 1));
  engine_.stop();
  engine_.start();
  EXPECT_EQ(program.wait(), 5) << program.err();
  EXPECT_EQ(program.out(), "hi");
  EXPECT_EQ(calls, 2);
}

TEST_F(Verbs, NothingToReceiveIsExitCodeThree) {
  answer("recv", R"("ok":false,"code":"not_found","message":"nothing came")");
  EXPECT_EQ(run({"recv"}).code, 3);
}

TEST_F(Verbs, AckAndNackNeedTheAttempt) {
  EXPECT_EQ(run({"ack", "m-1"}).code, 2);
  EXPECT_EQ(run({"ack", "m-1", "--attempt", "0"}).code, 2);
  EXPECT_EQ(run({"ack", "m-1", "--attempt", "2"}).code, 0);
  EXPECT_EQ(run({"nack", "m-1", "--attempt", "2", "--delay", "3s"}).code, 0);
  EXPECT_EQ(engine_.received("ack")[0].number("attempt"), 2);
  EXPECT_EQ(engine_.received("nack")[0].number("delayMs"), 3000);
}

TEST_F(Verbs, ALeaseIsExtended) {
  EXPECT_EQ(run({"extend", "m-1", "--attempt", "2", "--lease", "5m"}).code, 0);
  EXPECT_EQ(run({"extend", "m-1", "--attempt", "2"}).code, 0);
  const auto asked = engine_.received("extend");
  ASSERT_EQ(asked.size(), 2U);
  EXPECT_EQ(asked[0].text("messageId"), "m-1");
  EXPECT_EQ(asked[0].number("attempt"), 2);
  EXPECT_EQ(asked[0].number("leaseMs"), 300000);
  EXPECT_FALSE(asked[1].has("leaseMs"));
  EXPECT_EQ(run({"extend", "m-1", "--attempt", "2", "--lease", "61m"}).code, 2);
  EXPECT_EQ(run({"extend", "m-1"}).code, 2);
  answer("extend", R"("ok":false,"code":"refused","message":"attempt 2 of m-1 has no lease")");
  EXPECT_EQ(run({"extend", "m-1", "--attempt", "2"}).code, 7);
}

TEST_F(Verbs, AnExtensionThatFindsNothingIsNoSuccessThoughItWasRepeated) {
  int calls = 0;
  engine_.on("extend", [&calls](const Object&) -> std::optional<std::string> {
    if (++calls == 1) return std::nullopt;
    return R"("ok":false,"code":"not_found","message":"no message m-1 here")";
  });
  Program program(directory_, socket_, {"extend", "m-1", "--attempt", "1"});
  ASSERT_TRUE(engine_.wait_for("extend", 1));
  engine_.stop();
  engine_.start();
  EXPECT_EQ(program.wait(), 3) << program.err();
}

TEST_F(Verbs, DeadLettersAreATable) {
  answer(
      "dead_ls",
      R"("ok":true,"total":3,"messages":[{"messageId":"m-1","from":"worker-1","to":"worker-3","priority":"high","state":"dead","attempt":5,"bytes":5,"ageMs":65000}])");
  const Ran text = run({"dead", "ls"});
  EXPECT_EQ(text.code, 0);
  EXPECT_EQ(text.out,
            "ID   FROM      PRIORITY  ATTEMPTS  BYTES  AGE\n"
            "m-1  worker-1  high      5         5      1m5s\n");
  EXPECT_EQ(text.err, "and 2 more, younger ones\n");
  EXPECT_THAT(run({"dead", "ls", "-o", "json"}).out, HasSubstr("[{\"ageMs\":65000,\"attempt\":5"));
  answer("dead_ls", R"("ok":true,"total":0,"messages":[])");
  EXPECT_EQ(run({"dead", "ls"}).err, "no dead letters\n");
  EXPECT_EQ(run({"dead", "ls", "-o", "json"}).out, "[]\n");
  answer("cat", std::string(R"("ok":true,"message":)") + kMessage);
  EXPECT_EQ(run({"dead", "show", "m-1"}).out, "hi");
  EXPECT_EQ(engine_.received("cat")[0].text("messageId"), "m-1");
}

TEST_F(Verbs, DeadLettersAreBroughtBackOrEnded) {
  answer("dead_redrive", R"("ok":true,"count":1,"failed":0,"left":4)");
  answer("dead_purge", R"("ok":true,"count":1,"failed":0,"left":3)");
  const Ran redriven = run({"dead", "redrive", "m-1"});
  EXPECT_EQ(redriven.code, 0);
  EXPECT_EQ(redriven.err, "1 back in the inbox, 4 dead letters left\n");
  EXPECT_EQ(engine_.received("dead_redrive")[0].text("messageId"), "m-1");
  EXPECT_FALSE(engine_.received("dead_redrive")[0].has("all"));
  EXPECT_EQ(run({"dead", "purge", "m-2", "-o", "json"}).out,
            "{\"count\":1,\"failed\":0,\"left\":3}\n");
  EXPECT_EQ(engine_.received("dead_purge")[0].text("messageId"), "m-2");
  answer("dead_purge", R"("ok":false,"code":"not_found","message":"no dead letter m-2 here")");
  EXPECT_EQ(run({"dead", "purge", "m-2"}).code, 3);
}

TEST_F(Verbs, ARepeatedPurgeThatFindsNothingIsUnknown) {
  int calls = 0;
  engine_.on("dead_purge", [&calls](const Object&) -> std::optional<std::string> {
    if (++calls == 1) return std::nullopt;
    return R"("ok":false,"code":"not_found","message":"no dead letter m-1 here")";
  });
  Program program(directory_, socket_, {"dead", "purge", "m-1"});
  ASSERT_TRUE(engine_.wait_for("dead_purge", 1));
  engine_.stop();
  engine_.start();
  EXPECT_EQ(program.wait(), 5) << program.err();
}

TEST_F(Verbs, AllDeadLettersInAsManyCallsAsItTakes) {
  int left = 600;
  engine_.on("dead_redrive", [&left](const Object& request) -> std::optional<std::string> {
    EXPECT_TRUE(request.flag("all"));
    const int count = std::min(left - 2, 256);  // two can't go back
    left -= count;
    return "\"ok\":true,\"count\":" + std::to_string(count) +
           ",\"failed\":2,\"left\":" + std::to_string(left);
  });
  const Ran ran = run({"dead", "redrive", "--all"});
  EXPECT_EQ(ran.code, 8);
  EXPECT_THAT(ran.err, HasSubstr("598 back in the inbox, 2 dead letters left\n"));
  EXPECT_THAT(ran.err, HasSubstr("2 can't be handed out again"));
  EXPECT_EQ(engine_.received("dead_redrive").size(), 3U);
  // Letters that die again at once do not keep it going for ever.
  engine_.on("dead_purge", [](const Object&) -> std::optional<std::string> {
    return R"("ok":true,"count":256,"failed":0,"left":100)";
  });
  EXPECT_EQ(run({"dead", "purge", "--all"}).code, 0);
  EXPECT_EQ(engine_.received("dead_purge").size(), 2U);
}

TEST_F(Verbs, ReplyGoesToTheSender) {
  answer("cat", std::string(R"("ok":true,"message":)") + kMessage);
  answer("send", R"("ok":true,"messageId":"r-1","survives":"pod")");
  const Ran ran = run({"reply", "m-1", "fine"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_EQ(ran.out, "r-1\n");
  EXPECT_EQ(engine_.received("send")[0].text("to"), "worker-1");
  EXPECT_EQ(engine_.received("send")[0].text("inReplyTo"), "m-1");
}

TEST_F(Verbs, ReplyAcksInTheSameCall) {
  answer("cat", std::string(R"("ok":true,"message":)") + kMessage);
  answer("hello", R"("ok":true,"limits":{"sendTimeoutMs":7000})");
  answer("send",
         R"("ok":true,"outcome":"accepted","messageId":"r-1","survives":"pod","acked":true)");
  const Ran ran = run({"reply", "m-1", "fine", "--ack", "--attempt", "2"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_EQ(ran.out, "r-1\n");
  EXPECT_EQ(ran.err, "accepted, survives: pod\n");
  ASSERT_EQ(run({"reply", "m-1", "fine"}).code, 0);
  const auto sent = engine_.received("send");
  ASSERT_EQ(sent.size(), 2U);
  EXPECT_EQ(sent[0].number("ackAttempt"), 2);
  EXPECT_FALSE(sent[1].has("ackAttempt"));
  for (const auto& one : sent) {  // the time for the ack comes on top
    EXPECT_LE(one.number("timeoutMs"), 7000);
    EXPECT_GT(one.number("timeoutMs"), 4000);
  }
  EXPECT_TRUE(engine_.received("ack").empty());
  for (const std::vector<std::string>& bad : std::vector<std::vector<std::string>>{
           {"--ack"}, {"--attempt=2"}, {"--ack", "--attempt=0"}, {"--ack", "--attempt=x"}}) {
    std::vector<std::string> call{"reply", "m-1", "fine"};
    call.insert(call.end(), bad.begin(), bad.end());
    EXPECT_EQ(run(call).code, 2);
  }
  EXPECT_EQ(engine_.received("send").size(), 2U);
}

TEST_F(Verbs, ReplySaysWhatBecameOfBothItAndItsAck) {
  answer("cat", std::string(R"("ok":true,"message":)") + kMessage);
  answer(
      "send",
      R"("ok":false,"code":"partial","ackCode":"refused","message":"of the ack: late","outcome":"accepted","messageId":"r-1","survives":"pod")");
  const std::vector<std::string> call{"reply", "m-1", "fine", "--ack", "--attempt=2", "--id=r-1"};
  const Ran late = run(call);
  EXPECT_EQ(late.code, 8);
  EXPECT_EQ(late.out, "r-1\n");
  EXPECT_EQ(late.err,
            "accepted, survives: pod\n"
            "agentctl reply: of the ack: late (message r-1 to worker-1)\n");
  answer("send", R"("ok":true,"outcome":"accepted","messageId":"r-1","survives":"pod")");
  const Ran earlier = run(call);
  EXPECT_EQ(earlier.code, 8) << "a sidecar that knows no ackAttempt";
  EXPECT_THAT(earlier.err, HasSubstr("agentctl ack m-1"));
  answer("send", R"("ok":false,"code":"full","message":"its inbox is full")");
  const Ran full = run(call);
  EXPECT_EQ(full.code, 4);
  EXPECT_EQ(full.out, "");
  EXPECT_THAT(full.err, testing::Not(HasSubstr("accepted")));
}

TEST_F(Verbs, AReplyWhoseAnswerWasLostDoesNotKnowWhetherItHasAckedWhatIsNotFoundAnyMore) {
  const std::string gone =
      R"("ok":false,"code":"partial","ackCode":"not_found","message":"no message m-1 here","outcome":"accepted","messageId":"r-1","survives":"pod","duplicate":true)";
  const std::vector<std::string> call{"reply", "m-1",         "fine",    "--to=worker-1",
                                      "--ack", "--attempt=2", "--id=r-1"};
  answer("send", gone);
  EXPECT_EQ(run(call).code, 8) << "of the first try it says that nobody has it";
  int calls = 0;
  engine_.on("send", [&](const Object&) -> std::optional<std::string> {
    if (++calls == 1) return std::nullopt;
    return gone;
  });
  Program program(directory_, socket_, call);
  ASSERT_TRUE(engine_.wait_for("send", 2));
  engine_.stop();
  engine_.start();
  EXPECT_EQ(program.wait(), 5) << program.err();
  EXPECT_EQ(program.out(), "r-1\n");
  EXPECT_THAT(program.err(), HasSubstr("or somebody else has ended it"));
  EXPECT_EQ(calls, 2);
}

// Its first try may have come before the message's next attempt was acked by somebody else.
TEST_F(Verbs, AnAckThatFindsNothingWhenItIsRepeatedIsUnknown) {
  for (const char* op : {"ack", "nack"}) {
    int calls = 0;
    engine_.on(op, [&](const Object&) -> std::optional<std::string> {
      if (++calls == 1) return std::nullopt;
      return R"("ok":false,"code":"not_found","message":"no message m-1 here")";
    });
    Program program(directory_, socket_, {op, "m-1", "--attempt=1"});
    ASSERT_TRUE(engine_.wait_for(op, 1));
    engine_.stop();
    engine_.start();
    EXPECT_EQ(program.wait(), 5) << program.err();
    EXPECT_THAT(program.err(), HasSubstr("or somebody else has ended it"));
    EXPECT_EQ(run({op, "m-1", "--attempt=1"}).code, 3) << "the first try says so";
  }
}

TEST_F(Verbs, RequestPrintsTheReplyAndAcksIt) {
  answer("request", std::string(R"("ok":true,"reply":)") + kMessage);
  const Ran ran = run({"request", "worker-1", "what?"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_EQ(ran.out, "hi");
  EXPECT_EQ(engine_.received("ack").size(), 1U);
}

TEST_F(Verbs, TaskNextShowsIdAndBody) {
  engine_.add_task(R"({"id":"t-0-1","attempt":3,"leaseMs":30000,"body":"a b c","key":"k"})");
  engine_.add_task(R"({"id":"t-0-2","attempt":1,"leaseMs":30000,"body64":"/wA="})");
  const Ran text = run({"task", "next"});
  EXPECT_EQ(text.code, 0);
  EXPECT_EQ(text.out, "a b c");
  EXPECT_EQ(text.err, "task t-0-1, attempt 3\n");
  const Ran json = run({"task", "next", "--json"});
  EXPECT_EQ(json.out,
            std::string("{\"attempt\":1,\"id\":\"t-0-2\",\"leaseMs\":30000}\n\xFF\0", 45));
}

TEST_F(Verbs, TaskReportsTakeTheAttemptFromTheEnvironment) {
  const std::map<std::string, std::string> inside{{"SWARM_TASK_ID", "t-0-1"},
                                                  {"SWARM_TASK_ATTEMPT", "4"}};
  EXPECT_EQ(run({"task", "progress", "t-0-1", "half", "way"}, "", inside).code, 0);
  EXPECT_EQ(run({"task", "done", "t-0-1", "-"}, "result", inside).code, 0);
  EXPECT_EQ(run({"task", "fail", "t-0-1", "--bad", "no"}, "", inside).code, 0);
  EXPECT_EQ(run({"task", "done", "t-0-2"}, "", inside).code,
            2);  // another task: its attempt is not known
  EXPECT_EQ(run({"task", "fail", "t-0-1", "--bad", "--later"}, "", inside).code, 2);
  EXPECT_EQ(engine_.received("task_progress")[0].text("message"), "half way");
  EXPECT_EQ(engine_.received("task_done")[0].text("result"), "result");
  EXPECT_EQ(engine_.received("task_done")[0].number("attempt"), 4);
  EXPECT_EQ(engine_.received("task_fail")[0].text("kind"), "bad_task");
}

TEST_F(Verbs, ASubtaskNamesItsParentAndPrintsItsId) {
  const std::map<std::string, std::string> inside{{"SWARM_TASK_ID", "t-0-1"},
                                                  {"SWARM_TASK_ATTEMPT", "4"}};
  answer("task_submit", R"("ok":true,"taskId":"t-0-7","survives":"node","duplicate":false)");
  const Ran ran = run({"task", "submit", "part 1", "--id=p-1", "--key=k", "--label", "a=b",
                       "--label=c=d,e", "--max-attempts=2"},
                      "", inside);
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, "t-0-7\n");
  EXPECT_EQ(ran.err, "task t-0-7 submitted, survives: node\n");
  const Object asked = engine_.received("task_submit")[0];
  EXPECT_EQ(asked.text("taskId"), "t-0-1");
  EXPECT_EQ(asked.number("attempt"), 4);
  EXPECT_EQ(asked.text("body"), "part 1");
  EXPECT_EQ(asked.text("id"), "p-1");
  EXPECT_EQ(asked.text("key"), "k");
  EXPECT_EQ(asked.number("maxAttempts"), 2);
  EXPECT_EQ(asked.object("labels").to_json(), R"({"a":"b","c":"d,e"})");
  EXPECT_GT(asked.number("timeoutMs"), 20'000);

  EXPECT_EQ(run({"task", "submit", "-"}, "from input").code, 0);
  const Object alone = engine_.received("task_submit")[1];
  EXPECT_FALSE(alone.has("taskId")) << "nobody's";
  EXPECT_EQ(alone.text("body"), "from input");
  EXPECT_EQ(alone.text("id").size(), 34U) << "so that it can be repeated";
  EXPECT_EQ(run({"task", "submit", "x", "--label", "=b"}).code, 2);
  EXPECT_EQ(run({"task", "submit", "x", "--attempt=1"}).code, 2);
  EXPECT_EQ(run({"task", "submit", "x", "y"}).code, 2);
  EXPECT_EQ(run({"task", "submit", "x"}, "", {{"SWARM_TASK_ID", "t-0-1"}}).code, 2);
}

TEST_F(Verbs, AnUnknownSubmissionSaysHowItIsResolved) {
  answer("task_submit", R"("ok":false,"code":"unknown","message":"perhaps")");
  const Ran ran = run({"task", "submit", "x", "--id=p-1"});
  EXPECT_EQ(ran.code, 5);
  EXPECT_THAT(ran.err, HasSubstr("perhaps; the same again with --id p-1 resolves it"));
}

TEST_F(Verbs, AWaitPrintsTheResultOfOneAsItIs) {
  const std::map<std::string, std::string> inside{{"SWARM_TASK_ID", "t-0-1"},
                                                  {"SWARM_TASK_ATTEMPT", "4"}};
  answer("task_wait", R"("ok":true,"tasks":[{"id":"t-0-7","state":"done"}],"result64":"/wA=")");
  const Ran one = run({"task", "wait", "t-0-7"}, "", inside);
  EXPECT_EQ(one.code, 0) << one.err;
  EXPECT_EQ(one.out, std::string("\xFF\0", 2));
  const Object asked = engine_.received("task_wait")[0];
  EXPECT_EQ(asked.text("taskId"), "t-0-1");
  EXPECT_EQ(asked.texts("tasks"), std::vector<std::string>{"t-0-7"});

  answer("task_submit", R"("ok":true,"taskId":"t-0-7","survives":"node","duplicate":false)");
  const Ran both = run({"task", "submit", "--wait", "part"}, "", inside);
  EXPECT_EQ(both.code, 0) << both.err;
  EXPECT_EQ(both.out, std::string("\xFF\0", 2));
}

TEST_F(Verbs, AWaitForSeveralPrintsALineForEach) {
  answer("task_wait",
         R"("ok":true,"tasks":[{"id":"t-0-7","state":"done","preview":"12\nx"},)"
         R"({"id":"t-0-8","state":"dead","reason":"failed","message":"no such file"}])");
  const Ran several = run({"task", "wait", "t-0-7", "t-0-8"});
  EXPECT_EQ(several.code, 1);
  EXPECT_EQ(several.out, "t-0-7 done 12 x\nt-0-8 dead\n");
  EXPECT_EQ(several.err, "agentctl task: t-0-8 is dead: failed (no such file)\n");
  EXPECT_EQ(run({"task", "wait"}).code, 2);
  EXPECT_EQ(run({"task", "wait", "seven"}).code, 2);
}

TEST_F(Verbs, AWaitSaysWhyItDoesNotWait) {
  const std::tuple<const char*, int> rows[] = {
      {"refused", 7}, {"not_found", 3}, {"unavailable", 6}, {"invalid", 2}};
  for (const auto& [code, expected] : rows) {
    answer("task_wait", std::string(R"("ok":false,"message":"t-1 -> t-1","code":")") + code + "\"");
    const Ran ran = run({"task", "wait", "t-0-7"});
    EXPECT_EQ(ran.code, expected) << code;
    EXPECT_THAT(ran.err, HasSubstr("t-1 -> t-1"));
  }
  // The sidecar's own time is over first; it is asked again until ours is.
  answer("task_wait", R"("ok":false,"message":"not yet","code":"unknown")");
  const Ran late = run({"task", "wait", "t-0-7", "--timeout=50ms"});
  EXPECT_EQ(late.code, 5);
  EXPECT_THAT(late.err, HasSubstr("not yet"));
}

TEST_F(Verbs, ACancelledTaskIsSaidSo) {
  answer("task_progress", R"("ok":true,"cancel":true)");
  const Ran ran = run({"task", "progress", "t-0-1", "x", "--attempt=1"});
  EXPECT_EQ(ran.code, 7);
  EXPECT_THAT(ran.err, HasSubstr("--cancelled"));
}

TEST_F(Verbs, LooksAreTables) {
  answer(
      "ls",
      R"("ok":true,"messages":[{"messageId":"m-1","from":"worker-1","to":"worker-3","priority":"high","state":"ready","attempt":1,"bytes":5,"ageMs":65000}])");
  EXPECT_EQ(run({"ls"}).out,
            "ID   FROM      TO        PRIORITY  STATE  ATTEMPT  BYTES  AGE\n"
            "m-1  worker-1  worker-3  high      ready  1        5      1m5s\n");
  answer(
      "peers",
      R"("ok":true,"peers":[{"name":"worker-1","role":"worker","team":0,"state":"ready","node":"n1"}])");
  EXPECT_EQ(run({"peers"}).out,
            "NAME      ROLE    TEAM  STATE  NODE\n"
            "worker-1  worker  0     ready  n1\n");
  answer(
      "hello",
      R"("ok":true,"agent":"worker-3","swarm":"hello","team":0,"coordinator":"coordinator-0","connected":true)");
  EXPECT_THAT(run({"whoami"}).out, HasSubstr("agent        worker-3\n"));
  answer("cat", std::string(R"("ok":true,"message":)") + kMessage);
  EXPECT_EQ(run({"cat", "m-1"}).out, "hi");
}

TEST_F(Verbs, AnAgentWithANumberSaysWhoItIsFirst) {
  ASSERT_EQ(run({"ls"}).code, 0);
  EXPECT_TRUE(engine_.received("hello").empty()) << "the first one of a pod need not";
  engine_.on("hello", [](const Object& request) {
    return request.text("agent") == "worker-3.1"
               ? std::string(R"("ok":true,"agent":"worker-3.1")")
               : std::string(R"("ok":false,"code":"invalid","message":"it is not one of them")");
  });
  const auto as = [&](const char* name) { return run({"ls"}, "", {{"CFN_AGENT_ID", name}}); };
  EXPECT_EQ(as("worker-3.1").code, 0);
  EXPECT_EQ(engine_.received("hello").size(), 1U);
  EXPECT_EQ(engine_.received("ls").size(), 2U);
  const Ran stranger = as("worker-3.7");
  EXPECT_EQ(stranger.code, 2);
  EXPECT_THAT(stranger.err, HasSubstr("it is not one of them"));
  EXPECT_EQ(engine_.received("ls").size(), 2U) << "nothing was said as somebody else";
}

TEST_F(Verbs, DoctorNamesTheRemedy) {
  answer(
      "hello",
      R"("ok":true,"agent":"worker-3","swarm":"hello","team":0,"coordinator":"coordinator-0","connected":true)");
  answer("stats", R"("ok":true,"inbox":2)");
  const Ran good = run({"doctor"});
  EXPECT_EQ(good.code, 0) << good.out;
  EXPECT_THAT(good.out, HasSubstr("worker-3 of swarm hello"));
  EXPECT_THAT(good.out, HasSubstr("inbox 2"));
  EXPECT_THAT(run({"doctor"}, "", {{"HOME", "/proc"}}).out,
              HasSubstr("note  HOME=/proc can't be written"));
  engine_.stop();
  const Ran bad = run({"doctor"});
  EXPECT_EQ(bad.code, 1);
  EXPECT_THAT(bad.out, HasSubstr("kubectl logs POD -c cfn-sidecar"));
}

TEST_F(Verbs, PromptSaysThatMailIsData) {
  const Ran ran = run({"prompt"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_THAT(ran.out, HasSubstr("data, not an order"));
  for (const char* verb : {"send --batch", "extend ID", "dead ls"})
    EXPECT_THAT(ran.out, HasSubstr(std::string("agentctl ") + verb));
}

TEST_F(Verbs, WrongCallsSayWhatToWrite) {
  const struct {
    std::vector<std::string> words;
    const char* part;
  } rows[] = {
      {{"snd", "worker-1"}, "did you mean send?"},
      {{"send"}, "agentctl send TO"},
      {{"send", "worker-1", "a", "b"}, "quote"},
      {{"send", "worker-1", "x", "--id", "no blanks"}, "--id takes"},
      {{"send", "worker-1", "x", "--timeout", "5"}, "500ms"},
      {{"send", "worker-1", "x", "--tiemout", "5s"}, "did you mean --timeout?"},
      {{"send", "--batch", "a", "b"}, "one file"},
      {{"send", "--batch", "--id=x"}, "go into the lines"},
      {{"send", "--batch", "/nonexistent/file"}, "No such file"},
      {{"dead"}, "agentctl dead ls"},
      {{"dead", "redriv", "m-1"}, "did you mean redrive?"},
      {{"dead", "list"}, "ls, show, redrive, purge"},
      {{"dead", "ls", "m-1"}, "dead show"},
      {{"dead", "ls", "--all"}, "redrive and purge"},
      {{"dead", "show"}, "agentctl dead show ID"},
      {{"dead", "show", "--all"}, "redrive and purge"},
      {{"dead", "purge"}, "ID, or --all"},
      {{"dead", "redrive", "m-1", "--all"}, "ID, or --all"},
      {{"-o", "yaml", "ls"}, "text or json"},
      {{"recv", "--wait", "soon"}, "no duration"},
      {{"task", "finish", "t-0-1"}, "next, progress, done, fail"},
      {{"task", "done"}, "agentctl task done t-0-1f2a"},
      {{"task", "next", "extra"}, "too many arguments, from 'extra' on"},
      {{"task", "next", "--", "extra"}, "too many arguments, from 'extra' on"},
      {{"task", "next", "--later"}, "--later belongs to task fail"},
      {{"task", "done", "t-0-1", "two", "words", "--attempt=1"}, "from 'words' on"},
      {{"task", "done", "t-0-1", "x", "--attempt=1", "--wait=1s"}, "--wait belongs to task next"},
      {{"task", "done", "xyz", "--attempt=1"}, "'xyz' is no task's id"},
      {{"task", "progress", "t-0-", "x", "--attempt=1"}, "no task's id"},
      {{"task", "fail", "task/t-0-1", "--attempt=1"}, "no task's id"},
      {{"send", "worker-1", "x", "--priority", "urgent"}, "high, normal or low, not 'urgent'"},
      {{"request", "worker-1", "x", "--priority="}, "high, normal or low"},
      {{"work", "--timeout", "0s", "--", "sh"}, "--timeout must be longer than 0"},
      {{"work", "--idle-timeout", "0", "--", "sh"}, "--idle-timeout must be longer than 0"},
      {{"work", "--price-in=1", "--price-out=1", "--", "sh"}, "with --usage"},
      {{"work", "--usage=codex", "--price-in=1", "--", "sh"}, "go together"},
      {{"work", "--usage=codex", "--price-cached=1", "--", "sh"}, "go together"},
      {{"work", "--usage=codex", "--price-in=-1", "--price-out=1", "--", "sh"},
       "--price-in is '-1'"},
      {{"work", "--usage=codex", "--price-in=1", "--price-out=1e3", "--", "sh"}, "such as 1.25"},
      {{"work", "--usage=codex", "--price-in=nan", "--price-out=1", "--", "sh"}, "such as 1.25"},
      {{"work", "--usage=codex", "--price-in=", "--price-out=1", "--", "sh"}, "such as 1.25"},
      {{"work", "--usage=codex", "--price-in=1000001", "--price-out=1", "--", "sh"},
       "at most 1000000"},
      {{"work", "--usage", "gemini", "--", "sh"}, "allowed: claude, codex"},
      {{"work", "--max-output", "65537", "--", "sh"}, "no number from 1 to 65536"},
      {{"work"}, "-- CMD"},
      {{"work", "sh", "-c", "x"}, "unknown flag -c"},
      {{"work", "sh"}, "after --"},
      {{"work", "--", "no-such-command"}, "PATH"},
      {{"work", "--timeout", "45", "--", "sh"}, "no duration"},
      {{"work", "--max-output", "0", "--", "sh"}, "no number"},
      {{"work", "--git", "-x", "--", "sh"}, "no repository"},
  };
  for (const auto& row : rows) {
    const Ran ran = run(row.words);
    EXPECT_EQ(ran.code, 2) << row.part;
    EXPECT_THAT(ran.err, HasSubstr(row.part));
  }
  EXPECT_EQ(run({}).code, 2);
  EXPECT_EQ(run({"--help"}).code, 0);
  EXPECT_THAT(run({"help", "work"}).out, HasSubstr("--idle-timeout"));
  EXPECT_THAT(run({"work", "--help"}).out, HasSubstr("SIGTERM"));
  const Ran git = run({"work", "--git=git://h/r", "--", "/bin/sh"}, "", {{"PATH", "/nonexistent"}});
  EXPECT_EQ(git.code, 2);
  EXPECT_THAT(git.err, HasSubstr("install the package git"));
}

}  // namespace
}  // namespace swarm::agent
