#include "log/format.h"

#include <algorithm>
#include <array>

#include "base/crc32c.h"
#include "log/bytes.h"

namespace swarm::log {
namespace {

constexpr std::string_view kSuperMagic("SWLOG\0", 6);
constexpr std::string_view kSegmentMagic("SWSEG\0", 6);
constexpr std::size_t kHeaderCrcOffset = 20;

std::string_view bytes_of(const LogId& id) {
  return {reinterpret_cast<const char*>(id.bytes.data()), id.bytes.size()};
}

std::uint32_t place_seed(const LogId& id, Place place) {
  std::array<char, 8> at{};
  for (std::size_t i = 0; i < 4; ++i) {
    at[i] = static_cast<char>(place.segment >> (8U * i));
    at[i + 4] = static_cast<char>(place.offset >> (8U * i));
  }
  return crc32c({at.data(), at.size()}, crc32c(bytes_of(id)));
}

using Three = std::array<char, 3>;  // state and attempt

std::uint16_t mark_check(Sequence sequence, const Three& three) {
  std::array<char, 8 + 3> bytes{};
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(sequence >> (8U * i));
  std::copy(three.begin(), three.end(), bytes.begin() + 8);
  return static_cast<std::uint16_t>(crc32c({bytes.data(), bytes.size()}));
}

bool is_state(std::uint8_t value) {
  return value == 0x00 || value == 0x0F || value == 0xF0 || value == 0xFF;
}

}  // namespace

std::string encode_slot(const Superblock& superblock) {
  std::string out;
  out.reserve(kSlotBytes);
  out += kSuperMagic;
  put(out, superblock.version);
  out.append(bytes_of(superblock.id));
  put(out, superblock.committed);
  put(out, superblock.generation);
  put(out, superblock.tail_segment);
  put(out, superblock.tail_offset);
  put(out, superblock.next_segment);
  put(out, superblock.segment_bytes);
  put<std::uint32_t>(out, 0);
  put(out, crc32c(out));
  check(out.size() == kSlotBytes, "size of a superblock slot");
  return out;
}

std::optional<Superblock> decode_slot(std::string_view bytes) {
  if (bytes.size() < kSlotBytes || bytes.substr(0, 6) != kSuperMagic) return std::nullopt;
  if (get<std::uint32_t>(bytes, 60) != crc32c(bytes.substr(0, 60))) return std::nullopt;
  Superblock out;
  out.version = get<std::uint16_t>(bytes, 6);
  for (std::size_t i = 0; i < 16; ++i) out.id.bytes[i] = static_cast<std::uint8_t>(bytes[8 + i]);
  out.committed = get<std::uint64_t>(bytes, 24);
  out.generation = get<std::uint64_t>(bytes, 32);
  out.tail_segment = get<std::uint32_t>(bytes, 40);
  out.tail_offset = get<std::uint32_t>(bytes, 44);
  out.next_segment = get<std::uint32_t>(bytes, 48);
  out.segment_bytes = get<std::uint32_t>(bytes, 52);
  return out;
}

std::string encode_segment_header(const LogId& id, std::uint32_t number,
                                  std::uint32_t segment_bytes) {
  std::string out(kSegmentMagic);
  put(out, kFormatVersion);
  out.append(bytes_of(id));
  put(out, number);
  put(out, segment_bytes);
  out.resize(60, '\0');
  put(out, crc32c(out));
  return out;
}

std::string encode_mark(Sequence sequence, Mark mark) {
  std::string out;
  put(out, static_cast<std::uint8_t>(mark.state));
  put(out, mark.attempt);
  const std::uint16_t sum = mark_check(sequence, {out[0], out[1], out[2]});
  for (std::size_t i = 0; i < 3; ++i) out.push_back(static_cast<char>(~out[i]));
  put(out, sum);
  return out;
}

std::optional<Mark> decode_mark(Sequence sequence, std::string_view bytes) {
  const Three first{bytes[0], bytes[1], bytes[2]};
  const Three second{static_cast<char>(~bytes[3]), static_cast<char>(~bytes[4]),
                     static_cast<char>(~bytes[5])};
  const auto sum = get<std::uint16_t>(bytes, 6);
  const Three* good = nullptr;
  if (mark_check(sequence, first) == sum)
    good = &first;
  else if (mark_check(sequence, second) == sum)
    good = &second;
  else if (first == second)
    good = &first;
  if (good == nullptr || !is_state(static_cast<std::uint8_t>((*good)[0]))) return std::nullopt;
  const std::string_view three(good->data(), good->size());
  return Mark{static_cast<State>(get<std::uint8_t>(three, 0)), get<std::uint16_t>(three, 1)};
}

std::uint32_t record_bytes(std::size_t payload_bytes) {
  return kRecordHeaderBytes + static_cast<std::uint32_t>((payload_bytes + 7U) & ~std::size_t{7});
}

void append_record(std::string& out, const LogId& id, Place place, Sequence sequence,
                   std::uint8_t kind, Mark mark, std::string_view payload) {
  const std::uint32_t seed = place_seed(id, place);
  const std::size_t begin = out.size();
  put<std::uint32_t>(out, 0);  // its checksum, below
  put(out, static_cast<std::uint32_t>(payload.size()));
  put(out, sequence);
  put(out, kind);
  out.append(3, '\0');  // flags, reserved
  const auto header = [&] { return std::string_view(out).substr(begin + 4); };
  put(out, crc32c(header(), seed));
  std::string sum;
  put(sum, crc32c(payload, crc32c(header(), seed)));
  out.replace(begin, sum.size(), sum);
  out.append(encode_mark(sequence, mark));
  out.append(payload);
  out.append(record_bytes(payload.size()) - kRecordHeaderBytes - payload.size(), '\0');
}

std::optional<Read> decode_record(const LogId& id, Place place, std::string_view bytes) {
  if (bytes.size() < kRecordHeaderBytes) return std::nullopt;
  const auto length = get<std::uint32_t>(bytes, 4);
  if (length > kMaxPayloadBytes || record_bytes(length) > bytes.size()) return std::nullopt;
  const auto sum = crc32c(bytes.substr(4, kHeaderCrcOffset - 4), place_seed(id, place));
  if (sum != get<std::uint32_t>(bytes, kHeaderCrcOffset)) return std::nullopt;
  const auto sequence = get<std::uint64_t>(bytes, 8);
  if (sequence == 0 || sequence > kMaxSequence) return std::nullopt;
  // The record's own goes on where the header's ends.
  const auto head = crc32c(bytes.substr(kHeaderCrcOffset, kMarkOffset - kHeaderCrcOffset), sum);
  const auto whole = crc32c(bytes.substr(kRecordHeaderBytes, length), head);
  return Read{{sequence, length, get<std::uint8_t>(bytes, 16)},
              whole == get<std::uint32_t>(bytes, 0)};
}

}  // namespace swarm::log
