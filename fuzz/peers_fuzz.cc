// Frames of a pod that knows the swarm's secret, through the session and the post office that ship,
// while agents send, receive and acknowledge. Whatever it says, another pod's mail is taken.
#include <sys/socket.h>

#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <string>

#include "engine/session.h"
#include "input.h"
#include "pod.h"

namespace swarm::engine {
namespace {

using boost::asio::ip::tcp;
using fuzz::Input;
using link::FrameType;

constexpr std::size_t kMaxSteps = 64;
constexpr std::array kIds{"a", "b", "m-0123456789abcdef"};

link::Identity identity(const std::string& name, std::uint8_t log) {
  link::Identity id{"swarm", {name}, name + "-pod", name + "-uid", "node", "10.0.0.9", {}};
  id.log_id.bytes.fill(log);
  return id;
}

MessageId message_id(Input& in) { return {kIds[in.below(kIds.size())]}; }

// Another pod: its end of a link to ours, authenticated.
class Peer {
 public:
  Peer(fuzz::Pod& pod, std::uint8_t number)
      : pod_(pod), name_{"worker-" + std::to_string(number)}, socket_(pod.io) {
    std::array<int, 2> ends{};
    check(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) == 0, "a pair of sockets");
    socket_.assign(tcp::v4(), ends[0]);
    socket_.non_blocking(true);
    tcp::socket ours(pod.io);
    ours.assign(tcp::v4(), ends[1]);
    Session::Options options;
    options.self = identity(pod.config.name.value, 1);
    options.secret = "the secret";
    options.standing = [] { return link::Standing{}; };
    Mail& mail = pod.mail;
    Session::accept(pod.loop, std::move(ours), options,
                    {[&mail](Session& s) { mail.session_up(s.shared_from_this()); },
                     [&mail](Session& s, const link::Frame& frame) {
                       if (!mail.take(s, frame)) s.close(invalid("a frame that has no place here"));
                     },
                     [&mail](Session& s, const Error&) { mail.session_down(s); }});
    link::Handshake handshake(link::Handshake::Side::kClient,
                              identity(name_.value, static_cast<std::uint8_t>(number + 10)),
                              "the secret", {}, std::string(32, 'n'));
    say(handshake.start());
    for (int answers = 0; answers < 2; ++answers) {
      const auto frame = hear();
      check(frame.has_value(), "a handshake goes on");
      const auto answer = handshake.step(*frame, {});
      check(answer.ok(), "a handshake succeeds");
      say(*answer);
    }
    check(handshake.done(), "a handshake ends");
    reader_.limit(link::kMaxPayloadBytes);
  }

  void say(const std::string& bytes) {
    boost::system::error_code gone;  // it has ended this session
    boost::asio::write(socket_, boost::asio::buffer(bytes), gone);
    pod_.settle();
  }
  void say(FrameType type, const std::string& payload) {
    std::string bytes;
    link::append_frame(bytes, type, payload);
    say(bytes);
  }
  // The next frame that has come.
  std::optional<link::Frame> hear() {
    char buffer[65536];
    for (;;) {
      auto frame = reader_.next();
      check(frame.ok(), "what our side says is well-formed");
      if (*frame) return *std::move(frame);
      boost::system::error_code none_or_gone;
      const auto n = socket_.read_some(boost::asio::buffer(buffer), none_or_gone);
      if (n == 0) return std::nullopt;
      reader_.add({buffer, n});
      pod_.settle();
    }
  }
  [[nodiscard]] const AgentName& name() const { return name_; }

 private:
  fuzz::Pod& pod_;
  AgentName name_;
  tcp::socket socket_;
  link::FrameReader reader_;
};

std::string mail_payload(std::uint64_t sequence, std::uint64_t prev, const std::string& message) {
  std::string out;
  link::put_u64(out, sequence);
  link::put_u64(out, prev);
  return out + message;
}

mailbox::Message message(Input& in, const AgentName& from) {
  mailbox::Message m;
  m.id = message_id(in);
  m.from = from;
  m.to.value = in.below(4) == 0 ? "worker-0.1" : "worker-0";
  m.priority = static_cast<mailbox::Priority>(in.below(3));
  if (in.below(8) == 0) m.from.value = "worker-7";
  if (in.below(8) == 0) m.to.value = "worker-8";
  if (in.below(4) == 0) m.in_reply_to = message_id(in);
  m.body = std::string(in.below(8) == 0 ? in.below(2048) : in.below(4), 'x');
  return m;
}

void step(Input& in, fuzz::Pod& pod, Peer& peer) {
  const auto ignored = [](const auto&) {};
  switch (in.below(10)) {
    case 8: {  // keep this copy for me, or for the one that I have it from
      const std::uint64_t sequence = in.below(8) == 0 ? in.wild() : in.below(8);
      mailbox::Outbound copy{sequence, 0, message(in, peer.name()), {}};
      copy.origin.log.bytes.fill(static_cast<std::uint8_t>(in.below(16)));
      copy.origin.sequence = in.below(8);
      std::string payload;
      link::put_u64(payload, sequence);
      link::put_u64(payload, in.below(4));
      return peer.say(FrameType::kKeep, payload + encode(copy));
    }
    case 9: {  // yours is kept; mine need not be
      std::string payload;
      const bool kept = in.below(2) == 0;
      if (kept) link::put_u8(payload, static_cast<std::uint8_t>(in.below(8)));
      for (auto count = in.below(4); count > 0; --count)
        link::put_u64(payload, in.below(8) == 0 ? in.wild() : in.below(8));
      return peer.say(kept ? FrameType::kKept : FrameType::kRelease, payload);
    }
    case 0:
      return peer.say(std::string(in.text(256)));
    case 1:
      return peer.say(static_cast<FrameType>(in.number<std::uint8_t>()), std::string(in.text(512)));
    case 2:
    case 3: {
      const std::uint64_t sequence = in.below(8) == 0 ? in.wild() : in.below(8);
      return peer.say(FrameType::kMessage,
                      mail_payload(sequence, in.below(4), encode(message(in, peer.name()))));
    }
    case 4: {
      std::string payload;
      link::put_u64(payload, in.below(8) == 0 ? in.wild() : in.below(64));
      constexpr std::array kTypes{FrameType::kAcked, FrameType::kAckRecorded, FrameType::kAnswer};
      const auto type = kTypes[in.below(kTypes.size())];
      if (type == FrameType::kAnswer) {
        link::put_u8(payload, static_cast<std::uint8_t>(in.below(8)));
        link::put_text(payload, in.text(300));
      }
      return peer.say(type, payload);
    }
    case 5: {
      auto m = message(in, {"worker-0"});
      m.to.value = in.below(2) != 0 ? "worker-1" : "worker-0";
      if (in.below(4) == 0)
        pod.mail.request(std::move(m), Milliseconds{in.below(2) * 1000}, ignored);
      else
        pod.mail.send(std::move(m), Milliseconds{in.below(2) * 1000}, ignored);
      break;
    }
    case 6:
      pod.mail.receive(pod.config.name, Milliseconds{in.below(2) * 1000}, Milliseconds{1000},
                       in.below(4) == 0 ? std::optional(message_id(in)) : std::nullopt, nullptr,
                       ignored);
      break;
    default: {
      const auto attempt = static_cast<std::uint16_t>(1 + in.below(3));
      if (in.below(4) == 0)
        (void)pod.mail.nack(pod.config.name, message_id(in), attempt, Milliseconds{0});
      else
        pod.mail.ack(pod.config.name, message_id(in), attempt, Milliseconds{1000}, ignored);
    }
  }
  pod.settle();
}

// An honest pod's mail is stored, or refused for lack of room.
void greet(fuzz::Pod& pod) {
  Peer honest(pod, 2);
  mailbox::Message m;
  m.id.value = "hello";
  m.from = honest.name();
  m.to.value = "worker-0";
  honest.say(FrameType::kMessage, mail_payload(1, 0, encode(m)));
  auto answer = honest.hear();
  while (answer && answer->type == FrameType::kPing) answer = honest.hear();  // what ours knows
  check(answer && answer->type == FrameType::kAnswer, "mail is answered");
  link::PayloadReader in(answer->payload);
  check(in.u64() == 1, "the answer is to what was sent");
  const auto verdict = static_cast<mailbox::Answer>(in.u8());
  const bool full = pod.box.books().inbox_live >= pod.config.max_inbox_messages;
  check(verdict == (full ? mailbox::Answer::kFull : mailbox::Answer::kStored), "mail is taken");
}

}  // namespace
}  // namespace swarm::engine

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swarm::engine;
  swarm::fuzz::Input in(data, size);
  swarm::fuzz::Pod pod;
  {
    Peer peer(pod, 1);
    for (std::size_t steps = 0; steps < kMaxSteps && !in.empty(); ++steps) step(in, pod, peer);
  }
  pod.settle();
  greet(pod);
  return 0;
}
