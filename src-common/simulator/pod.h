// One pod of a simulated world: the shipping log and mailbox over a directory in memory, its
// clocks, its agents' held messages, and the frames that wait to leave or to be read.
//
// Threads: one. Ownership: a Pod stays where it is, since its directory's observer points to it.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/encoding.h"
#include "link/frame.h"
#include "log/log.h"
#include "mailbox/mailbox.h"
#include "sim/fake_directory.h"
#include "simulator/coverage.h"
#include "simulator/model.h"

namespace swarm::simulator {

inline constexpr std::uint32_t kSegmentBytes = 4096;
inline constexpr MessageNumber kNoMessage = UINT32_MAX;
inline constexpr MonoTime kBegin{Milliseconds{10'000'000}};

// Of a pod's sidecar, for its whole life. The one before knows neither GRANT nor HANDOVER nor kept
// messages; the next one has features and versions of a message that nobody here knows
// (docs/link-protocol.md, "Versions").
enum class Release : std::uint8_t { kBefore, kThis, kNext };
inline constexpr std::uint8_t kVersionOfNext = 0x80;  // in the version of a message
inline constexpr std::uint32_t kFeatureOfNext = 1U << 31U;

// A frame on its way, and which sessions' ends it is between.
struct Packet {
  LogId from, to;
  link::FrameType type = link::FrameType::kMessage;
  MessageNumber message = kNoMessage;
  std::string bytes;
};

// The reading end of a session: bytes come in pieces that end anywhere.
class Inlet {
 public:
  Inlet() { reader_.limit(link::kMaxPayloadBytes); }
  void add(Packet packet) {
    unread_ += packet.bytes;
    packet.bytes.clear();
    arriving_.push_back(std::move(packet));
  }
  // So many of the bytes that have come are read.
  void read(std::size_t bytes) {
    reader_.add(std::string_view(unread_).substr(0, bytes));
    unread_.erase(0, bytes);
  }
  [[nodiscard]] std::size_t unread() const { return unread_.size(); }
  struct Arrived {
    Packet packet;
    link::Frame frame;
  };
  Result<std::optional<Arrived>> next() {
    auto frame = reader_.next();
    if (!frame) return frame.error();
    if (!*frame) {
      if (unread_.empty() && !arriving_.empty())
        return Error{Code::kCorrupt, "a frame's bytes were read and it did not come"};
      return std::optional<Arrived>();
    }
    if (arriving_.empty()) return Error{Code::kCorrupt, "a frame that nobody has sent"};
    Arrived out{std::move(arriving_.front()), std::move(**frame)};
    arriving_.pop_front();
    return std::optional<Arrived>(std::move(out));
  }

 private:
  std::string unread_;
  std::deque<Packet> arriving_;
  link::FrameReader reader_;
};

struct Held {  // a hand-out that its agent has not ended yet
  MessageNumber message = 0;
  std::uint16_t attempt = 0;
};

struct Pod {
  Pod(AgentName n, std::uint32_t its_agents, mailbox::Limits l, std::uint32_t most_segments,
      Release its_release)
      : name(std::move(n)),
        release(its_release),
        agents(its_agents),
        limits(l),
        segments(most_segments),
        directory(bytes_of(most_segments)) {}
  Pod(const Pod&) = delete;
  Pod& operator=(const Pod&) = delete;

  static std::uint64_t bytes_of(std::uint32_t segments) {
    return 8192 + std::uint64_t{segments} * kSegmentBytes;
  }
  [[nodiscard]] log::Options options() const {
    return {.max_bytes = bytes_of(segments), .segment_bytes = kSegmentBytes};
  }
  // A new process on the directory as it is.
  bool start(const LogId& new_id) {
    stop();
    box = std::make_unique<mailbox::Mailbox>(name, limits, agents);
    highest = 0;
    auto opened = log::Log::open(
        directory, options(), new_id,
        [this](const log::Record& record) {
          highest = std::max(highest, record.sequence);
          box->restore(record);
        },
        &recovery);
    if (!opened) return false;
    log = std::move(*opened);
    box->attach(*log, now);
    return !directory.crashed();
  }
  void stop() {
    box.reset();
    log.reset();
  }

  // How many messages each agent of the world has in its inbox here, or is sent from here.
  struct Fill {
    std::map<std::string, std::uint32_t> in, out;
  };
  template <typename Counts>
  [[nodiscard]] Fill fill(const Counts& counts) const {
    Fill filled;
    for (std::uint32_t n = 0; n < agents; ++n) {
      for (const mailbox::Summary& s : box->list(agent_of(name, n))) {
        if (!counts(s)) continue;
        if (s.where == mailbox::Summary::Where::kOutgoing)
          ++filled.out[s.from.value + "'s outbox for " + s.to.value];
        else
          ++filled.in["the inbox of " + s.to.value];
      }
    }
    return filled;
  }

  [[nodiscard]] bool knows(const LogId& peer, link::Feature feature) const {
    const auto it = features.find(peer);
    return it != features.end() && (it->second & feature) != 0;
  }

  const AgentName name;
  Release release;
  const std::uint32_t agents;
  const mailbox::Limits limits;
  const std::uint32_t segments;
  sim::FakeDirectory directory;
  log::Recovery recovery;
  std::unique_ptr<log::Log> log;
  std::unique_ptr<mailbox::Mailbox> box;
  std::uint64_t life = 0;  // of all processes in the world
  bool begun = false;      // it has had a log
  bool draining = false;
  // What this process has found. A message that was done, when that could not be written before the
  // process died, is there again: then a box may be above its limit for a while.
  Fill found;

  MonoTime now = kBegin;
  int rate = 1;
  Milliseconds wall_ahead{0};
  std::size_t paused = 0;   // steps left
  std::size_t blocked = 0;  // … in which nothing comes in

  // The present batch.
  Steps batch;
  std::optional<Step> doing;
  bool committing = false;
  log::Sequence highest = 0;  // appended so far, as far as is known
  std::vector<Packet> out;
  std::vector<News> news;

  std::deque<Packet> in;    // on the wire to here
  std::deque<Packet> seen;  // the latest that came, to come once more
  std::map<LogId, Inlet> inlets;
  std::map<LogId, std::uint32_t> features;  // of those that have sent a PING over this link
  bool closes_link = false;                 // it was sent what its release does not know

  std::vector<Held> held;
  std::map<log::Sequence, MessageNumber> waiting;  // inbox record → whose ack waits for the sender
  std::map<log::Sequence, MessageNumber> sending;
  std::map<std::pair<LogId, log::Sequence>, log::Sequence> debts;  // sender's record → ours
  std::set<std::pair<AgentName, MessageId>> awaited;
  struct Call {  // to several; more of them may come later, as those that wait for room
    std::uint64_t share = 0;
    AgentName from;
    bool generated = false;  // ids
    std::string body;
  } call;
};

}  // namespace swarm::simulator
