#include "link/handshake.h"

#include "base/encoding.h"

namespace swarm::link {
namespace {

constexpr std::size_t kNonceBytes = 32;
constexpr std::size_t kMaxField = 253;

void put_identity(std::string& out, const Identity& id) {
  put_text(out, id.swarm_uid);
  put_text(out, id.name.value);
  put_text(out, id.pod);
  put_text(out, id.pod_uid);
  put_text(out, id.node);
  put_text(out, id.address);
  put_text(out, {reinterpret_cast<const char*>(id.log_id.bytes.data()), id.log_id.bytes.size()});
}

std::optional<LogId> read_log_id(std::string_view bytes) {
  LogId id;
  if (bytes.size() != id.bytes.size()) return std::nullopt;
  std::copy(bytes.begin(), bytes.end(), id.bytes.begin());
  return id;
}

Result<Identity> read_identity(PayloadReader& in) {
  Identity id;
  for (std::string* field :
       {&id.swarm_uid, &id.name.value, &id.pod, &id.pod_uid, &id.node, &id.address}) {
    *field = in.text();
    if (field->size() > kMaxField) return invalid("handshake: a field is longer than 253 bytes");
    if (!is_utf8(*field)) return invalid("handshake: a field is not text");
  }
  const auto log_id = read_log_id(in.text());
  if (!in.ok() || !log_id) return invalid("handshake: malformed identity");
  if (!is_slot_name(id.name.value)) return invalid("handshake: not a pod's name");
  id.log_id = *log_id;
  return id;
}

}  // namespace

Handshake::Handshake(Side side, Identity self, std::string secret, Expect expect, std::string nonce)
    : side_(side),
      self_(std::move(self)),
      secret_(std::move(secret)),
      nonce_(std::move(nonce)),
      expect_(std::move(expect)) {
  check(nonce_.size() == kNonceBytes, "a handshake's nonce has 32 bytes");
  check(!secret_.empty(), "a handshake has a secret");
}

std::string Handshake::mac(std::string_view side) const {
  return hmac_sha256(secret_, std::string(side) + sha256(hello_) + sha256(challenge_));
}

std::string Handshake::start() {
  if (side_ == Side::kServer) return {};
  put_identity(hello_, self_);
  put_text(hello_, nonce_);
  put_text(hello_, expect_.name.value);
  put_text(hello_,
           expect_.log_id.empty()
               ? std::string_view()
               : std::string_view(reinterpret_cast<const char*>(expect_.log_id.bytes.data()),
                                  expect_.log_id.bytes.size()));
  std::string out;
  append_frame(out, FrameType::kHello, hello_);
  state_ = State::kHelloSent;
  return out;
}

Result<std::string> Handshake::step(const Frame& frame, const Standing& standing) {
  std::string out;
  if (frame.type == FrameType::kClose)
    return Error{Code::kDenied, "the other side closed: " + frame.payload.substr(0, 200)};

  if (side_ == Side::kServer && state_ == State::kStart && frame.type == FrameType::kHello) {
    PayloadReader in(frame.payload);
    auto peer = read_identity(in);
    if (!peer) return peer.error();
    const auto nonce = in.text();
    const auto expect_name = in.text();
    const auto expect_log = in.text();
    if (!in.done() || nonce.size() != kNonceBytes) return invalid("handshake: malformed HELLO");
    if (peer->swarm_uid != self_.swarm_uid) return Error{Code::kDenied, "handshake: another swarm"};
    if ((!expect_name.empty() && expect_name != self_.name.value) ||
        (!expect_log.empty() && read_log_id(expect_log) != self_.log_id)) {
      return Error{Code::kDenied, "handshake: meant for an earlier owner of this address"};
    }
    peer_ = *std::move(peer);
    hello_ = frame.payload;
    put_identity(challenge_, self_);
    put_text(challenge_, nonce_);
    std::string payload = challenge_;
    put_text(payload, mac("server"));
    append_frame(out, FrameType::kChallenge, payload);
    state_ = State::kChallengeSent;
    return out;
  }

  if (side_ == Side::kClient && state_ == State::kHelloSent &&
      frame.type == FrameType::kChallenge) {
    PayloadReader in(frame.payload);
    auto peer = read_identity(in);
    if (!peer) return peer.error();
    const auto nonce = in.text();
    const auto proof = in.text();
    if (!in.done() || nonce.size() != kNonceBytes) return invalid("handshake: malformed CHALLENGE");
    challenge_ = frame.payload.substr(0, frame.payload.size() - proof.size() - 4);
    if (!constant_time_equal(proof, mac("server")))
      return Error{Code::kDenied, "handshake: the server does not know the link secret"};
    if (peer->swarm_uid != self_.swarm_uid) return Error{Code::kDenied, "handshake: another swarm"};
    if ((!expect_.name.empty() && peer->name != expect_.name) ||
        (!expect_.log_id.empty() && peer->log_id != expect_.log_id)) {
      return Error{Code::kDenied, "handshake: the address belongs to somebody else now"};
    }
    peer_ = *std::move(peer);
    append_frame(out, FrameType::kProof, mac("client"));
    state_ = State::kProofSent;
    return out;
  }

  if (side_ == Side::kServer && state_ == State::kChallengeSent &&
      frame.type == FrameType::kProof) {
    if (!constant_time_equal(frame.payload, mac("client")))
      return Error{Code::kDenied, "handshake: the client does not know the link secret"};
    std::string payload;
    put_u8(payload, standing.active ? 1 : 0);
    put_u64(payload, standing.epoch);
    append_frame(out, FrameType::kWelcome, payload);
    state_ = State::kDone;
    return out;
  }

  if (side_ == Side::kClient && state_ == State::kProofSent && frame.type == FrameType::kWelcome) {
    PayloadReader in(frame.payload);
    peer_standing_.active = in.u8() == 1;
    peer_standing_.epoch = in.u64();
    if (!in.done()) return invalid("handshake: malformed WELCOME");
    state_ = State::kDone;
    return out;
  }
  return invalid("handshake: frame out of order");
}

}  // namespace swarm::link
