// What comes over a link before anybody is known: frames in any state and in any pieces, and
// handshakes with somebody who does not know the secret, or who changes what two others say.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "base/encoding.h"
#include "input.h"
#include "link/frame.h"
#include "link/handshake.h"

namespace swarm::link {
namespace {

using fuzz::Input;

constexpr std::size_t kMaxFramesSaid = 16;

struct Parsed {
  std::vector<Frame> frames;
  std::optional<Error> error;
};

Parsed parse(std::string_view bytes, std::size_t piece, std::size_t limit) {
  FrameReader reader;
  reader.limit(limit);
  Parsed out;
  for (; !bytes.empty() && !out.error; bytes.remove_prefix(std::min(piece, bytes.size()))) {
    reader.add(bytes.substr(0, piece));
    for (;;) {
      auto frame = reader.next();
      if (!frame) out.error = frame.error();
      if (!frame || !*frame) break;
      out.frames.push_back(*std::move(*frame));
    }
  }
  return out;
}

// Gives every frame in `bytes` the checksum that it should have.
std::string sealed(std::string_view bytes) {
  std::string out(bytes);
  for (std::size_t at = 0; at + kHeaderBytes <= out.size();) {
    const auto rest = std::string_view(out).substr(at);
    const std::size_t length = PayloadReader(rest).u32();
    const auto payload = rest.substr(kHeaderBytes, length);
    std::string sum;
    put_u32(sum, crc32c(payload, crc32c(rest.substr(0, 8))));
    at += kHeaderBytes + payload.size();
    out.replace(at - payload.size() - 4, 4, sum);
  }
  return out;
}

// Every kind of field, in an order that the bytes themselves choose.
void read_fields(std::string_view payload) {
  PayloadReader in(payload);
  while (in.ok() && !in.done()) {
    switch (in.u8() % 4) {
      case 0:
        (void)in.u32();
        break;
      case 1:
        (void)in.u64();
        break;
      default:
        check(in.text().size() < payload.size(), "a text lies inside its payload");
    }
  }
  check(in.ok() || (in.text().empty() && in.rest().empty()), "nothing is read after the end");
}

void frames(Input in) {
  const bool seal = in.below(2) != 0;
  const std::size_t piece = 1 + in.below(256);
  const std::size_t limit = in.below(2) != 0 ? kMaxHandshakeBytes : in.below(4096);
  const std::string bytes = seal ? sealed(in.rest()) : std::string(in.rest());
  const Parsed whole = parse(bytes, bytes.size(), limit);
  const Parsed pieces = parse(bytes, piece, limit);
  check(whole.error == pieces.error && whole.frames.size() == pieces.frames.size(),
        "frames are the same however their bytes arrive");
  std::string again;
  for (std::size_t i = 0; i < whole.frames.size(); ++i) {
    const Frame& frame = whole.frames[i];
    check(frame.type == pieces.frames[i].type && frame.payload == pieces.frames[i].payload,
          "a frame is the same however its bytes arrive");
    check(frame.payload.size() <= limit, "a frame is within the limit");
    append_frame(again, frame.type, frame.payload);
    read_fields(frame.payload);
  }
  check(bytes.starts_with(again), "what was read is what was written");
}

Identity identity(const char* name, std::uint8_t log) {
  Identity id{"swarm-uid", {name}, std::string(name) + "-pod", "pod-uid", "node", "10.0.0.1", {}};
  id.log_id.bytes.fill(log);
  return id;
}

// Nonces follow from the whole input, so that no recorded answer fits them.
struct Sides {
  explicit Sides(std::string_view input)
      : server(Handshake::Side::kServer, server_self, "the secret", {}, sha256(input)),
        client(Handshake::Side::kClient, client_self, "the secret",
               {server_self.name, server_self.log_id}, sha256(sha256(input))) {}
  Identity server_self = identity("coordinator-0", 1), client_self = identity("worker-1", 2);
  Handshake server, client;
};

void stranger(Input in, std::string_view input) {
  Sides sides(input);
  (void)sides.client.start();
  Handshake& other = in.below(2) != 0 ? sides.client : sides.server;
  for (std::size_t said = 0; said < kMaxFramesSaid && !in.empty(); ++said) {
    const auto type = static_cast<FrameType>(in.number<std::uint8_t>());
    const auto answer = other.step({type, std::string(in.text(kMaxHandshakeBytes))}, {});
    check(!other.done(), "nobody gets in without the secret");
    if (!answer) return;
  }
}

std::vector<Frame> frames_in(const std::string& bytes) {
  auto parsed = parse(bytes, bytes.size(), kMaxHandshakeBytes);
  check(!parsed.error, "what a side says is well-formed");
  return std::move(parsed.frames);
}

// HELLO, CHALLENGE and PROOF, one of them changed on its way, or none.
void changed_on_the_way(Input in, std::string_view input) {
  Sides sides(input);
  const std::size_t which = in.below(4);
  const auto replaced = in.below(2) != 0;
  const std::size_t at = in.below(512);
  const auto bits = in.number<std::uint8_t>();
  const std::string instead(in.rest());
  bool changed = false;
  const auto on_the_way = [&](Frame frame) {
    std::string payload = frame.payload;
    if (replaced)
      payload = instead;
    else if (!payload.empty())
      payload[at % payload.size()] = static_cast<char>(payload[at % payload.size()] ^ bits);
    changed = changed || payload != frame.payload;
    return Frame{frame.type, payload};
  };
  std::vector<Frame> said = frames_in(sides.client.start());
  for (std::size_t step = 0; step < 4; ++step) {
    check(said.size() == 1, "one frame answers one");
    if (step == which && step < 3) said[0] = on_the_way(std::move(said[0]));
    Handshake& to = step % 2 == 0 ? sides.server : sides.client;
    auto answer = to.step(said[0], {true, 7});
    if (!answer) break;
    said = frames_in(*answer);
  }
  const bool done = sides.server.done() && sides.client.done();
  check(done == !changed, "a handshake succeeds unless what was said is changed");
  check(!changed || (!sides.server.done() && !sides.client.done()), "neither believes it");
  check(!done || (sides.server.peer() == sides.client_self &&
                  sides.client.peer() == sides.server_self && sides.client.peer_standing().active),
        "each knows the other");
}

}  // namespace
}  // namespace swarm::link

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  swarm::fuzz::Input in(data, size);
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  switch (in.below(3)) {
    case 0:
      swarm::link::frames(in);
      break;
    case 1:
      swarm::link::stranger(in, input);
      break;
    default:
      swarm::link::changed_on_the_way(in, input);
  }
  return 0;
}
