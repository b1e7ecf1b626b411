// Who is at the other end: both prove that they know the swarm's link secret, and say who they are.
//
//   client                                  server
//   HELLO     {identity, nonce, expect} ->
//                                       <-  CHALLENGE {identity, nonce} + MAC("server", transcript)
//   PROOF     MAC("client", transcript) ->
//                                       <-  WELCOME {…}
//
// MAC = HMAC-SHA256(secret, side + SHA-256(hello) + SHA-256(challenge without its MAC)); fresh
// nonces on both sides make a recorded handshake worthless. `expect` names pod UID and log id,
// since addresses are reused: a server that is somebody else closes. Pure: bytes in, bytes out; the
// shell sets the deadline.
#pragma once

#include <optional>
#include <string>

#include "base/ids.h"
#include "base/result.h"
#include "link/frame.h"

namespace swarm::link {

struct Identity {
  std::string swarm_uid;
  AgentName name;
  std::string pod, pod_uid, node, address;
  LogId log_id;
  friend bool operator==(const Identity&, const Identity&) = default;
};

// What the client demands of the server; empty fields: anything.
struct Expect {
  AgentName name;
  LogId log_id;
};

// What a server adds to WELCOME.
struct Standing {
  bool active = false;  // a coordinator that holds its team's Lease
  std::uint64_t epoch = 0;
};

class Handshake {
 public:
  enum class Side { kClient, kServer };
  Handshake(Side side, Identity self, std::string secret, Expect expect, std::string nonce);

  // Client: the bytes to send first. Server: empty.
  std::string start();
  // Feeds one frame. Bytes to send in answer (possibly with a CLOSE, then `failed`). An error ends
  // the connection.
  Result<std::string> step(const Frame& frame, const Standing& standing);
  [[nodiscard]] bool done() const { return state_ == State::kDone; }
  [[nodiscard]] const Identity& peer() const { return peer_; }
  [[nodiscard]] const Standing& peer_standing() const { return peer_standing_; }

 private:
  enum class State { kStart, kHelloSent, kChallengeSent, kProofSent, kDone };
  [[nodiscard]] std::string mac(std::string_view side) const;

  Side side_;
  Identity self_, peer_;
  std::string secret_, nonce_, hello_, challenge_;
  Expect expect_;
  Standing peer_standing_;
  State state_ = State::kStart;
};

}  // namespace swarm::link
