#include "link/handshake.h"

#include <gtest/gtest.h>

namespace swarm::link {
namespace {

Identity identity(const char* name, std::uint8_t log, const char* swarm = "swarm-uid") {
  Identity id{swarm,      {name}, std::string("pod-") + name, std::string("uid-") + name, "n1",
              "10.0.0.1", {}};
  id.log_id.bytes[0] = log;
  return id;
}

struct Ends {
  Handshake client, server;
};
Ends ends(const std::string& client_secret = "s3cret", const std::string& server_secret = "s3cret",
          Expect expect = {}, const Identity& client = identity("worker-1", 1),
          const Identity& server = identity("worker-2", 2)) {
  return {
      {Handshake::Side::kClient, client, client_secret, std::move(expect), std::string(32, 'c')},
      {Handshake::Side::kServer, server, server_secret, {}, std::string(32, 's')}};
}

Frame only(const std::string& bytes) {
  FrameReader reader;
  reader.add(bytes);
  auto frame = reader.next();
  return frame.ok() && *frame ? **frame : Frame{FrameType::kPong, "none"};
}

Status run(Ends& e) {
  auto to_server = e.client.start();
  for (int i = 0; i < 2; ++i) {
    auto answer = e.server.step(only(to_server), {true, 7});
    if (!answer) return answer.error();
    auto next = e.client.step(only(*answer), {});
    if (!next) return next.error();
    to_server = *next;
  }
  return {};
}

TEST(Handshake, BothLearnWhoTheOtherIs) {
  auto e = ends();
  ASSERT_TRUE(run(e));
  EXPECT_TRUE(e.client.done() && e.server.done());
  EXPECT_EQ(e.client.peer(), identity("worker-2", 2));
  EXPECT_EQ(e.server.peer(), identity("worker-1", 1));
  EXPECT_TRUE(e.client.peer_standing().active);
  EXPECT_EQ(e.client.peer_standing().epoch, 7U);
}

TEST(Handshake, RefusesAWrongSecretOnEitherSide) {
  auto e = ends("wrong", "s3cret");
  EXPECT_EQ(run(e).error().code, Code::kDenied);
  // A client that skips checking the server still cannot make its own proof.
  auto honest = ends();
  (void)honest.server.step(only(honest.client.start()), {});
  std::string forged;
  append_frame(forged, FrameType::kProof, std::string(32, 'x'));
  EXPECT_EQ(honest.server.step(only(forged), {}).error().code, Code::kDenied);
}

TEST(Handshake, RefusesAnotherSwarmAndAReusedAddress) {
  auto other = ends("s", "s", {}, identity("worker-1", 1, "other"));
  EXPECT_EQ(run(other).error().code, Code::kDenied);
  Expect expect{{"worker-2"}, {}};
  expect.log_id.bytes[0] = 9;
  auto reused = ends("s", "s", expect);
  EXPECT_EQ(run(reused).error().code, Code::kDenied);
  auto name = ends("s", "s", Expect{{"worker-3"}, {}});
  EXPECT_EQ(run(name).error().code, Code::kDenied);
}

TEST(Handshake, RefusesAnIdentityThatIsNotText) {
  auto bad = identity("worker-1", 1);
  bad.node = "n\xff";
  auto as_client = ends("s", "s", {}, bad);
  EXPECT_EQ(run(as_client).error().code, Code::kInvalid);
  auto as_server = ends("s", "s", {}, identity("worker-1", 1), bad);
  EXPECT_EQ(run(as_server).error().code, Code::kInvalid);
}

TEST(Handshake, ARecordedProofIsWorthlessAgainstAnotherNonce) {
  auto first = ends();
  const auto hello = first.client.start();
  const auto challenge = first.server.step(only(hello), {});
  const auto proof = first.client.step(only(*challenge), {});
  Handshake later(Handshake::Side::kServer, identity("worker-2", 2), "s3cret", {},
                  std::string(32, 't'));
  ASSERT_TRUE(later.step(only(hello), {}));
  EXPECT_EQ(later.step(only(*proof), {}).error().code, Code::kDenied);
}

TEST(Handshake, NothingElseMayComeFirst) {
  for (auto type :
       {FrameType::kMessage, FrameType::kProof, FrameType::kWelcome, FrameType::kJoin}) {
    auto e = ends();
    std::string bytes;
    append_frame(bytes, type, "");
    EXPECT_FALSE(e.server.step(only(bytes), {}));
  }
}

}  // namespace
}  // namespace swarm::link
