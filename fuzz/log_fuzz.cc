// The log's recovery: a directory of segments and superblocks in which anything may stand, also
// with right checksums. It opens or answers an error; what it then keeps it gives back, as written,
// to the next one who opens it.
#include <array>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "input.h"
#include "log/format.h"
#include "log/log.h"
#include "sim/fake_directory.h"

namespace swarm::log {
namespace {

using fuzz::Input;

constexpr std::uint32_t kSegment = 4096;
constexpr std::size_t kMaxFiles = 8, kMaxPieces = 32, kMaxDamages = 8, kMaxSteps = 64;
constexpr std::array kStates{State::kLive, State::kTaken, State::kDead, State::kDone};

LogId log_id(std::uint8_t n) {
  LogId id;
  id.bytes.fill(n);
  return id;
}

std::string payload(Input& in) {
  const std::size_t size = in.below(8) == 0 ? in.below(kSegment) : in.below(200);
  return std::string(size, static_cast<char>(in.number<std::uint8_t>()));
}

// A number that `most` bounds, but none from which the steps below could count beyond it: no log
// gets there by counting, and what names a higher one was not written by a log.
template <typename Number>
Number bounded(Input& in, Number most) {
  constexpr Number kCounted = 10'000;
  const auto value = static_cast<Number>(in.wild());
  return value <= most && value > most - kCounted ? value - kCounted : value;
}

// ---- what is found

std::string superblock(Input& in) {
  std::string out(kSuperblockBytes, '\0');
  for (std::uint32_t slot = 0; slot < 2; ++slot) {
    std::string bytes;
    switch (in.below(4)) {
      case 0:  // never written
        break;
      case 1:
        bytes = in.bytes(kSlotBytes);
        break;
      default: {
        Superblock s;
        s.id = log_id(1);
        if (in.below(16) == 0) s.version = in.number<std::uint16_t>();
        s.segment_bytes = in.below(16) == 0 ? static_cast<std::uint32_t>(in.wild()) : kSegment;
        s.committed = bounded(in, kMaxSequence);
        s.generation = bounded(in, kMaxSequence);
        s.tail_segment = static_cast<std::uint32_t>(in.wild());
        s.tail_offset = static_cast<std::uint32_t>(in.wild() * 8);
        s.next_segment = bounded(in, kMaxSegmentNumber);
        bytes = encode_slot(s);
      }
    }
    out.replace(slot * kSlotDistance, bytes.size(), bytes);
  }
  if (in.below(16) == 0) out.resize(in.below(kSuperblockBytes));
  return out;
}

std::string segment(Input& in, std::uint32_t number, Sequence& sequence) {
  std::string out = encode_segment_header(log_id(1), number, kSegment);
  if (in.below(8) == 0) out = std::string(in.bytes(kSegmentHeaderBytes));
  for (std::size_t pieces = in.below(kMaxPieces); pieces > 0 && out.size() < kSegment; --pieces) {
    out.resize((out.size() + 7) & ~std::size_t{7}, '\0');
    switch (in.below(4)) {
      case 0:
        out += in.text(64);
        break;
      case 1:
        out.append(in.below(128), '\0');
        break;
      default: {
        // Of a former life of the file at most: no log uses a number again, so none writes a record
        // of a life to come (it would be found, rightly, once the file gets there).
        const std::uint32_t life =
            number > 0 && in.below(16) == 0 ? static_cast<std::uint32_t>(in.below(number)) : number;
        sequence = in.below(8) == 0 ? bounded(in, kMaxSequence) : sequence + 1;
        const Mark mark{kStates[in.below(4)], in.number<std::uint16_t>()};
        append_record(out, log_id(1), {life, static_cast<std::uint32_t>(out.size())}, sequence,
                      in.number<std::uint8_t>(), mark, payload(in));
      }
    }
  }
  if (in.below(8) != 0) out.resize(kSegment, '\0');
  return out;
}

void write(sim::FakeDirectory& directory, const std::string& name, const std::string& bytes) {
  auto file = directory.open(name, true);
  check(file.ok() && (*file)->write_at(0, bytes).ok(), "a file is made");
}

void fill(sim::FakeDirectory& directory, Input& in) {
  std::vector<std::string> names{"superblock"};
  write(directory, names[0], superblock(in));
  Sequence sequence = 0;
  for (std::size_t files = in.below(kMaxFiles); files > 0; --files) {
    const auto number = in.below(4) == 0 ? bounded(in, kMaxSegmentNumber)
                                         : static_cast<std::uint32_t>(in.below(16));
    std::array<char, 16> name{};
    std::snprintf(name.data(), name.size(), "%s-%08x", in.below(4) == 0 ? "free" : "seg", number);
    names.emplace_back(name.data());
    write(directory, names.back(), segment(in, number, sequence));
  }
  for (std::size_t damages = in.below(kMaxDamages); damages > 0; --damages) {
    std::string& bytes = *directory.content(names[in.below(names.size())]);
    const std::size_t at = in.below(kSuperblockBytes);
    if (at < bytes.size()) bytes[at] = static_cast<char>(bytes[at] ^ in.number<std::uint8_t>());
  }
}

// ---- what is done with it

struct Kept {
  std::uint8_t kind = 0;
  State state = State::kLive;
  std::uint16_t attempt = 0;
  std::string payload;
  friend bool operator==(const Kept&, const Kept&) = default;
};
using Content = std::map<Sequence, Kept>;

struct Opened {
  Result<std::unique_ptr<Log>> log = not_found("not opened yet");
  Content content;
  Recovery recovery;
};

Opened open(sim::FakeDirectory& directory, const Options& options) {
  Opened out;
  Sequence last = 0;
  out.log = Log::open(
      directory, options, log_id(2),
      [&](const Record& r) {
        check(r.sequence > last, "records come in the order of their sequences, which begin at 1");
        check(r.state != State::kDone, "what is done is not handed over");
        last = r.sequence;
        out.content[r.sequence] = {r.kind, r.state, r.attempt, std::string(r.payload)};
      },
      &out.recovery);
  check(!out.log || out.recovery.records == out.content.size(), "recovery counts its records");
  return out;
}

class Life {
 public:
  Life(sim::FakeDirectory& directory, const Options& options, Opened opened)
      : directory_(directory), options_(options), content_(std::move(opened.content)) {
    log_ = *std::move(opened.log);
    if (!content_.empty()) last_ = content_.rbegin()->first;
  }

  void step(Input& in) {
    switch (in.below(8)) {
      case 0:
      case 1:
      case 2:
        return append(in);
      case 3:
      case 4:
        return mark(in, kStates[in.below(4)]);
      case 5:
        return mark(in, State::kDone);
      case 6:
        return check(log_->commit().ok(), "a log that has its files can commit");
      default:
        return reopen();
    }
  }

  void reopen() {
    check(log_->commit().ok(), "a log that has its files can commit");
    log_.reset();
    Opened again = open(directory_, options_);
    check(again.log.ok(), "a log that was open can be opened again");
    for (const auto& [sequence, kept] : content_) {
      const auto found = again.content.find(sequence);
      check(found != again.content.end() && found->second == kept, "what was committed is there");
    }
    check(again.content.size() == content_.size(), "and nothing else");
    content_ = std::move(again.content);
    log_ = *std::move(again.log);
  }

 private:
  void append(Input& in) {
    const auto kind = in.number<std::uint8_t>();
    const std::string bytes = payload(in);
    const std::uint64_t sure = log_->available_bytes();
    const auto sequence = log_->append(kind, bytes);
    if (!sequence) {
      const bool small = bytes.size() <= kSegment / 2;
      check(sequence.error().code == (small ? Code::kFull : Code::kInvalid), "why it is refused");
      return check(!small || sure == 0 || bytes.size() > sure, "what is sure to fit does");
    }
    check(*sequence > last_, "a sequence is used once");
    last_ = *sequence;
    content_[*sequence] = {kind, State::kLive, 0, bytes};
  }

  void mark(Input& in, State state) {
    if (content_.empty()) return;
    auto at = std::next(content_.begin(), static_cast<std::ptrdiff_t>(in.below(content_.size())));
    const auto bytes = log_->read(at->first);
    check(bytes.ok() && *bytes == at->second.payload, "a record is read as it was written");
    const auto attempt = in.number<std::uint16_t>();
    check(log_->mark(at->first, state, attempt).ok(), "a mark needs no space");
    at->second.state = state;
    at->second.attempt = attempt;
    if (state == State::kDone) content_.erase(at);
  }

  sim::FakeDirectory& directory_;
  Options options_;
  Content content_;
  std::unique_ptr<Log> log_;
  Sequence last_ = 0;
};

}  // namespace
}  // namespace swarm::log

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swarm::log;
  swarm::fuzz::Input in(data, size);
  const Options options{.max_bytes = kSuperblockBytes + (3 + in.below(6)) * kSegment,
                        .segment_bytes = kSegment};
  swarm::sim::FakeDirectory directory(1U << 20U);
  fill(directory, in);
  Opened opened = open(directory, options);
  if (!opened.log) return 0;
  Life life(directory, options, std::move(opened));
  for (std::size_t steps = 0; steps < kMaxSteps && !in.empty(); ++steps) life.step(in);
  life.reopen();
  return 0;
}
