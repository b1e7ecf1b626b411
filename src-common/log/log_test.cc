#include "log/log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>

#include "log/format.h"
#include "sim/fake_directory.h"
#include "sim/lent_directory.h"
#include "sim/random.h"

namespace swarm::log {
namespace {

using sim::FakeDirectory;
using sim::Random;

constexpr std::uint32_t kSmall = 4096;  // segment size in these tests

LogId log_id(std::uint8_t n) {
  LogId id;
  id.bytes.fill(n);
  return id;
}

struct Copy {
  std::uint8_t kind = 0;
  State state = State::kLive;
  std::uint16_t attempt = 0;
  std::string payload;
  friend bool operator==(const Copy&, const Copy&) = default;
};
using Content = std::map<Sequence, Copy>;

Options options(std::uint32_t segments = 8) {
  return {.max_bytes = kSuperblockBytes + std::uint64_t{segments} * kSmall,
          .segment_bytes = kSmall};
}

struct Opened {
  std::unique_ptr<Log> log;
  Content content;
  Recovery recovery;
};

Result<Opened> open(os::Directory& directory, const Options& o = options(), std::uint8_t id = 1) {
  Opened out;
  Sequence last = 0;
  bool ordered = true;
  auto log = Log::open(
      directory, o, log_id(id),
      [&](const Record& r) {
        ordered = ordered && r.sequence > last;
        last = r.sequence;
        out.content[r.sequence] = {r.kind, r.state, r.attempt, std::string(r.payload)};
      },
      &out.recovery);
  EXPECT_TRUE(ordered);
  if (!log) return log.error();
  out.log = std::move(*log);
  return out;
}

std::uint64_t seeds(std::uint64_t wanted) {
  if (const char* text = std::getenv("SWARM_SEEDS")) return std::strtoull(text, nullptr, 10);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
  return wanted / 10;
#else
  return wanted;
#endif
}
std::uint64_t first_seed() {
  const char* text = std::getenv("SWARM_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 1;
}

TEST(Log, FindsAgainWhatWasCommitted) {
  FakeDirectory dir(1 << 20);
  auto first = open(dir);
  ASSERT_TRUE(first);
  EXPECT_TRUE(first->recovery.fresh);
  EXPECT_EQ(*first->log->append(1, "one"), 1U);
  EXPECT_EQ(*first->log->append(2, std::string(1000, 'x')), 2U);
  EXPECT_EQ(*first->log->append(3, ""), 3U);
  ASSERT_TRUE(first->log->mark(2, State::kTaken, 7));
  ASSERT_TRUE(first->log->mark(1, State::kDone, 0));
  ASSERT_TRUE(first->log->commit());
  auto second = open(dir, options(), 9);
  ASSERT_TRUE(second);
  EXPECT_FALSE(second->recovery.fresh);
  EXPECT_EQ(second->log->id(), log_id(1));
  EXPECT_EQ(second->content, (Content{{2, {2, State::kTaken, 7, std::string(1000, 'x')}},
                                      {3, {3, State::kLive, 0, ""}}}));
  EXPECT_EQ(second->recovery.truncated_bytes + second->recovery.corrupt_records, 0U);
  EXPECT_EQ(*second->log->append(1, "next"), 4U);
  EXPECT_EQ(*second->log->read(3), "");
  EXPECT_EQ(second->log->read(1).error().code, Code::kNotFound);
}

TEST(Log, CommitWritesOnlyAfterAnAppend) {
  FakeDirectory dir(1 << 20);
  auto o = open(dir);
  ASSERT_TRUE(o->log->append(1, "a"));
  ASSERT_TRUE(o->log->commit());
  const auto before = dir.changes();
  ASSERT_TRUE(o->log->commit());
  EXPECT_EQ(dir.changes(), before);
  ASSERT_TRUE(o->log->mark(1, State::kTaken, 1));
  ASSERT_TRUE(o->log->commit());
  EXPECT_EQ(dir.changes(), before + 1);
}

TEST(Log, SequencesAreNeverUsedAgainAfterEverythingIsDone) {
  FakeDirectory dir(1 << 20);
  Sequence last = 0;
  for (int round = 0; round < 5; ++round) {
    auto o = open(dir);
    ASSERT_TRUE(o);
    EXPECT_TRUE(o->content.empty());
    for (int i = 0; i < 20; ++i) {
      auto s = o->log->append(1, std::string(500, 'a'));
      ASSERT_TRUE(s);
      EXPECT_EQ(*s, ++last);
      ASSERT_TRUE(o->log->mark(*s, State::kDone, 0));
    }
    ASSERT_TRUE(o->log->commit());
    EXPECT_LE(o->log->stats().segments, 5U);
  }
}

TEST(Log, KeepsItsReserveThroughCrashesWhileItCopies) {
  for (std::uint64_t at = 2; at <= 9; ++at) {  // changes of an append that begins a segment
    FakeDirectory dir(1U << 20U);
    constexpr int kCrashes = 20, kAppends = 500;
    for (int crashes = 0; crashes < kCrashes; ++crashes) {
      dir.crash_in(kAppends * 100);
      auto o = open(dir, options(6));
      ASSERT_TRUE(o);
      ASSERT_LE(o->content.size(), 2U * kCrashes);
      // One record stays, of a few segments; the others are done at once.
      for (int i = 0; i < kAppends && !dir.crashed(); ++i) {
        dir.crash_in(at);
        const auto s = o->log->append(1, std::string(300, 'x'));
        if (dir.crashed()) break;
        ASSERT_TRUE(s) << "full after " << crashes << " crashes at change " << at;
        dir.crash_in(kAppends * 100);
        ASSERT_TRUE(i == 0 || o->log->mark(*s, State::kDone, 0));
        ASSERT_TRUE(o->log->commit());
      }
      o->log.reset();
      dir.restart(nullptr);
    }
  }
}

TEST(Log, IsProvedToWorkAlsoWhenItIsFull) {
  FakeDirectory dir(1U << 20U);
  auto opened = open(dir, options(3));
  ASSERT_TRUE(opened);
  ASSERT_TRUE(prove(*opened->log));
  EXPECT_EQ(opened->log->stats().live_records, 0U);
  while (opened->log->append(1, std::string(1000, 'x'))) {
  }
  while (opened->log->append(1, "x")) {
  }
  ASSERT_TRUE(opened->log->commit());
  dir.set_capacity(0);  // the file system is full as well
  opened->log.reset();
  opened = open(dir, options(3));
  ASSERT_TRUE(opened);
  EXPECT_TRUE(prove(*opened->log)) << "else nobody could make room any more";
  const auto first = opened->content.begin()->first;
  ASSERT_TRUE(opened->log->mark(first, State::kDone, 0));
  dir.crash();
  EXPECT_FALSE(prove(*opened->log));
}

TEST(Log, RefusesWhenFullKeepsEverythingAndStillMarks) {
  FakeDirectory dir(1 << 20);
  auto o = open(dir);
  std::vector<Sequence> all;
  for (;;) {
    auto s = o->log->append(1, std::string(300, 'b'));
    if (!s) {
      EXPECT_EQ(s.error().code, Code::kFull);
      break;
    }
    all.push_back(*s);
    ASSERT_LT(all.size(), 1000U);
  }
  EXPECT_GE(all.size(), 6 * (kSmall - 64) / 336);
  dir.set_capacity(0);  // the file system is full as well
  for (const Sequence s : all)
    ASSERT_TRUE(o->log->mark(s, s % 4 == 0 ? State::kTaken : State::kDone, 3));
  ASSERT_TRUE(o->log->commit());
  int more = 0;
  while (o->log->append(1, std::string(300, 'c'))) ++more;
  EXPECT_GE(more, static_cast<int>(all.size() / 2));
  ASSERT_TRUE(o->log->commit());
  EXPECT_GT(o->log->stats().copied_records, 0U);
  auto again = open(dir);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->content.size(), all.size() / 4 + static_cast<std::size_t>(more));
  for (const Sequence s : all) {
    if (s % 4 == 0) {
      EXPECT_EQ(again->content.at(s), (Copy{1, State::kTaken, 3, std::string(300, 'b')}));
    }
  }
}

TEST(Log, AvailableBytesIsAPromise) {
  for (const std::size_t size : {1U, 100U, 900U, 2048U}) {
    FakeDirectory dir(kSuperblockBytes + 7 * kSmall);  // smaller than the limit says
    auto o = open(dir, options(9));
    Random random(size);
    std::uint64_t promised = o->log->available_bytes();
    EXPECT_GT(promised, 0U);
    Sequence last = 0;
    for (int i = 0; i < 2000; ++i) {
      promised = o->log->available_bytes();
      auto s = o->log->append(1, std::string(size, 'x'));
      if (promised >= size) {
        ASSERT_TRUE(s) << size << " of " << promised;
      }
      if (s) last = *s;
      if (!s || random.chance(30)) {
        const Sequence done = 1 + random.below(last);
        if (o->log->read(done)) {
          ASSERT_TRUE(o->log->mark(done, State::kDone, 0));
        }
      }
    }
    while (promised > 0 && o->log->available_bytes() > size + kRecordOverheadBytes)
      ASSERT_TRUE(o->log->append(1, std::string(size, 'y')));
  }
}

struct BadOpen {
  const char* name;
  Options options;
  std::uint64_t capacity;
  Code code;
};
TEST(Log, RefusesToOpenWhereItCannotWork) {
  const BadOpen rows[] = {
      {"no bytes", {.max_bytes = 0, .segment_bytes = kSmall}, 1 << 20, Code::kInvalid},
      {"two segments",
       {.max_bytes = kSuperblockBytes + 2 * kSmall, .segment_bytes = kSmall},
       1 << 20,
       Code::kInvalid},
      {"odd segments", {.max_bytes = 1 << 20, .segment_bytes = 5001}, 1 << 20, Code::kInvalid},
      {"tiny segments", {.max_bytes = 1 << 20, .segment_bytes = 64}, 1 << 20, Code::kInvalid},
      {"huge segments",
       {.max_bytes = 1ULL << 32U, .segment_bytes = 2U << 20U},
       1 << 20,
       Code::kInvalid},
      {"no space at all", options(), 0, Code::kFull},
      {"space for the superblock", options(), kSuperblockBytes, Code::kFull},
      {"space for one segment", options(), kSuperblockBytes + kSmall, Code::kFull},
  };
  for (const BadOpen& row : rows) {
    FakeDirectory dir(row.capacity);
    auto o = open(dir, row.options);
    ASSERT_FALSE(o) << row.name;
    EXPECT_EQ(o.error().code, row.code) << row.name << ": " << o.error().message;
  }
}

TEST(Log, RefusesTooLargeRecords) {
  FakeDirectory dir(1 << 20);
  auto o = open(dir);
  EXPECT_EQ(o->log->append(1, std::string(kSmall / 2 + 1, 'x')).error().code, Code::kInvalid);
  EXPECT_TRUE(o->log->append(1, std::string(kSmall / 2, 'x')));
}

TEST(Log, ANewerFormatIsRefusedAndLeftAlone) {
  FakeDirectory dir(1 << 20);
  ASSERT_TRUE(open(dir));
  Superblock newer;
  newer.version = kFormatVersion + 1;
  newer.generation = 1000;
  dir.content("superblock")->replace(0, kSlotBytes, encode_slot(newer));
  const std::string before = *dir.content("superblock");
  EXPECT_EQ(open(dir).error().code, Code::kInvalid);
  EXPECT_EQ(*dir.content("superblock"), before);
}

TEST(Log, UnreadableSuperblockPutsSegmentsAside) {
  FakeDirectory dir(1 << 20);
  {
    auto o = open(dir);
    ASSERT_TRUE(o->log->append(1, "secret"));
    ASSERT_TRUE(o->log->commit());
  }
  (*dir.content("superblock"))[30] ^= 1;
  (*dir.content("superblock"))[kSlotDistance + 30] ^= 1;
  auto o = open(dir, options(), 2);
  ASSERT_TRUE(o);
  EXPECT_TRUE(o->recovery.fresh);
  EXPECT_GT(o->recovery.corrupt_records, 0U);
  EXPECT_EQ(o->log->id(), log_id(2));
  EXPECT_TRUE(o->content.empty());
  EXPECT_NE(dir.content("damaged-02020202-seg-00000002"), nullptr);
}

TEST(Log, OneDamagedSlotCostsNothing) {
  for (const std::uint32_t slot : {0U, kSlotDistance}) {
    FakeDirectory dir(1 << 20);
    {
      auto o = open(dir);
      ASSERT_TRUE(o->log->append(1, "a"));
      ASSERT_TRUE(o->log->commit());
    }
    (*dir.content("superblock"))[slot + 25] ^= 4;
    auto o = open(dir, options(), 2);
    EXPECT_FALSE(o->recovery.fresh);
    EXPECT_EQ(o->content.size(), 1U);
  }
}

// Bytes with right checksums that no log has written: what they say must not lead to numbers that
// are used twice, to writes outside a segment, or to a log that takes nothing any more.
TEST(Log, NumbersThatNoLogReachesAreNotBelieved) {
  struct Case {
    const char* what;
    void (*change)(Superblock&);
  };
  const Case cases[] = {
      {"nothing", [](Superblock&) {}},
      {"committed", [](Superblock& s) { s.committed = UINT64_MAX; }},
      {"generation", [](Superblock& s) { s.generation = UINT64_MAX; }},
      {"tail segment", [](Superblock& s) { s.tail_segment = UINT32_MAX; }},
      {"tail offset beyond the segment", [](Superblock& s) { s.tail_offset = UINT32_MAX - 7; }},
      {"tail inside a damaged record", [](Superblock& s) { s.tail_offset -= 496; }},
      {"tail offset that no record has", [](Superblock& s) { s.tail_offset += 4; }},
      {"next segment", [](Superblock& s) { s.next_segment = UINT32_MAX; }},
      {"segment size", [](Superblock& s) { s.segment_bytes = 12345; }},
      {"sequence 0", nullptr},
      {"the last sequence", nullptr},
      {"a file of the last segment", nullptr}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    FakeDirectory dir(1 << 20);
    Superblock newest;
    {
      auto o = open(dir);
      ASSERT_TRUE(o);
      ASSERT_TRUE(o->log->append(1, "kept"));
      ASSERT_TRUE(o->log->append(1, std::string(500, 'd')));
      ASSERT_TRUE(o->log->commit());
    }
    dir.content("seg-00000002")->at(kSegmentHeaderBytes + 40 + kRecordHeaderBytes + 499) ^= 1;
    for (const std::uint32_t slot : {0U, kSlotDistance}) {
      const auto found = decode_slot(dir.content("superblock")->substr(slot, kSlotBytes));
      if (found && found->generation > newest.generation) newest = *found;
    }
    if (c.change != nullptr) {
      ++newest.generation;
      c.change(newest);
      dir.content("superblock")
          ->replace(newest.generation % 2 * kSlotDistance, kSlotBytes, encode_slot(newest));
    } else if (std::string_view(c.what).ends_with("segment")) {
      ASSERT_TRUE((*dir.open("seg-ffffffff", true))
                      ->write_at(0, encode_segment_header(log_id(1), UINT32_MAX, kSmall)));
    } else {
      std::string record;
      append_record(record, log_id(1), {newest.tail_segment, newest.tail_offset},
                    c.what[0] == 's' ? 0 : UINT64_MAX, 1, {}, "forged");
      dir.content("seg-00000002")->replace(newest.tail_offset, record.size(), record);
    }
    auto first = open(dir);
    ASSERT_TRUE(first) << first.error().message;
    EXPECT_EQ(first->content, (Content{{1, {1, State::kLive, 0, "kept"}}}));
    Content expected = first->content;
    for (int i = 0; i < 8; ++i) {
      const auto sequence = first->log->append(2, std::string(1000, 'x'));
      ASSERT_TRUE(sequence) << sequence.error().message;
      EXPECT_GT(*sequence, expected.rbegin()->first);
      expected[*sequence] = {2, State::kLive, 0, std::string(1000, 'x')};
    }
    ASSERT_TRUE(first->log->commit());
    auto second = open(dir);
    ASSERT_TRUE(second);
    EXPECT_EQ(second->content, expected);
  }
}

// A body that somebody has sent may look like a record of the place where it will stand.
TEST(Log, NothingInsideATornRecordComesToLife) {
  FakeDirectory dir(1 << 20);
  constexpr std::uint32_t kEnd = kSegmentHeaderBytes + 40;
  {
    auto o = open(dir);
    ASSERT_TRUE(o->log->append(1, "kept"));
    ASSERT_TRUE(o->log->commit());
  }
  std::string body, torn;
  append_record(body, log_id(1), {2, kEnd + kRecordHeaderBytes}, 7, 1, {}, "forged");
  append_record(torn, log_id(1), {2, kEnd}, 2, 1, {}, body + std::string(100, 'x'));
  torn.back() = 'y';
  torn.resize(torn.size() - 8);
  dir.content("seg-00000002")->replace(kEnd, torn.size(), torn);
  for (int start = 0; start < 3; ++start) {
    SCOPED_TRACE(start);
    auto o = open(dir);
    ASSERT_TRUE(o);
    EXPECT_EQ(o->content, (Content{{1, {1, State::kLive, 0, "kept"}}}));
    EXPECT_EQ(o->recovery.truncated_bytes > 0, start == 0);
  }
}

// The bytes of the format, spelled out: what the next release must still read.
TEST(LogFormat, BytesAreWhatTheDocumentSays) {
  Superblock s;
  s.id = log_id(0xAB);
  s.committed = 0x0102030405060708;
  s.generation = 3;
  s.tail_segment = 4;
  s.tail_offset = 5;
  s.next_segment = 6;
  const std::string slot = encode_slot(s);
  EXPECT_EQ(slot.substr(0, 8), std::string("SWLOG\0\x01\0", 8));
  EXPECT_EQ(slot.substr(24, 8), "\x08\x07\x06\x05\x04\x03\x02\x01");
  EXPECT_EQ(slot.substr(48, 8), std::string("\x06\0\0\0\0\0\x10\0", 8));
  EXPECT_EQ(decode_slot(slot), s);
  std::string record;
  append_record(record, log_id(0xAB), {7, 64}, 9, 2, {State::kTaken, 0x0102}, "hello");
  ASSERT_EQ(record.size(), 40U);
  EXPECT_EQ(record.substr(4, 4), std::string("\x05\0\0\0", 4));
  EXPECT_EQ(record.substr(8, 12), std::string("\x09\0\0\0\0\0\0\0\x02\0\0\0", 12));
  EXPECT_EQ(record.substr(24, 6), std::string("\x0F\x02\x01\xF0\xFD\xFE", 6));
  EXPECT_EQ(record.substr(32), std::string("hello\0\0\0", 8));
  EXPECT_EQ(record.substr(0, 4), "\xDA\xA5\xE6\x64");  // computed by another program
  EXPECT_EQ(record.substr(20, 4), "\xB1\x5C\x62\xEE");
  EXPECT_EQ(record.substr(30, 2), "\xB4\xCD");
}

TEST(LogFormat, ARecordIsReadableOnlyInItsPlaceAndLife) {
  std::string record;
  append_record(record, log_id(1), {7, 64}, 9, 2, {}, "hello");
  ASSERT_TRUE(decode_record(log_id(1), {7, 64}, record));
  EXPECT_TRUE(decode_record(log_id(1), {7, 64}, record)->whole);
  EXPECT_FALSE(decode_record(log_id(2), {7, 64}, record));
  EXPECT_FALSE(decode_record(log_id(1), {8, 64}, record));
  EXPECT_FALSE(decode_record(log_id(1), {7, 72}, record));
  EXPECT_FALSE(decode_record(log_id(1), {7, 64}, record.substr(0, 39)));
}

TEST(LogFormat, MarksSurviveAnyDamagedByte) {
  for (const State state : {State::kLive, State::kTaken, State::kDead, State::kDone}) {
    for (const int attempt : {0, 1, 5, 0x8001, 0xFFFF}) {
      const Mark mark{state, static_cast<std::uint16_t>(attempt)};
      const std::string good = encode_mark(77, mark);
      EXPECT_EQ(decode_mark(77, good), mark);
      for (std::size_t i = 0; i < good.size(); ++i) {
        for (int flip = 1; flip < 256; ++flip) {
          std::string bad = good;
          bad[i] = static_cast<char>(bad[i] ^ flip);
          ASSERT_EQ(decode_mark(77, bad), mark) << i << " " << flip;
        }
      }
    }
  }
}

TEST(Log, CommitFailsUntilWhatWasFinishedIsWritten) {
  FakeDirectory dir(1 << 20);
  auto o = open(dir);
  ASSERT_TRUE(o->log->append(1, "a"));
  ASSERT_TRUE(o->log->commit());
  dir.fail_in(1);
  o->log->finish(1);
  EXPECT_EQ(o->log->stats().live_records, 1U);
  dir.fail_in(1);
  EXPECT_FALSE(o->log->commit());
  EXPECT_TRUE(o->log->commit());
  EXPECT_EQ(o->log->stats().live_records, 0U);
  EXPECT_TRUE(open(dir)->content.empty());
}

// Record 1 needs record 2.
TEST(Log, WhatIsFinishedLaterOutlivesTheMarksFromBefore) {
  for (const bool durable : {false, true}) {
    FakeDirectory dir(1 << 20);
    Options how = options();
    how.durable = durable;
    auto o = open(dir, how);
    ASSERT_TRUE(o->log->append(1, "a"));
    ASSERT_TRUE(o->log->append(1, "b"));
    ASSERT_TRUE(o->log->commit());
    const auto found = [&] {
      FakeDirectory copy(1 << 20);
      copy.copy_files(dir);
      return open(copy, how)->content.size();
    };
    if (!durable) dir.fail_in(1);  // a journal's marks wait in memory
    o->log->finish(1);
    o->log->finish_later(2);
    EXPECT_EQ(found(), 2U);
    if (!durable) {
      dir.fail_in(1);
      EXPECT_FALSE(o->log->commit());
      EXPECT_EQ(found(), 2U);
      dir.fail_in(2);
    }
    EXPECT_TRUE(o->log->commit()) << "nobody waits for that of record 2";
    EXPECT_EQ(found(), 1U);
    dir.calm();
    EXPECT_TRUE(o->log->commit());
    EXPECT_EQ(found(), 0U);
    EXPECT_EQ(o->log->stats().live_records, 0U);
  }
}

// A crash in the middle of copying a segment forward: no record comes back to life when its newer
// copy is done and gone.
TEST(Log, CopiesInterruptedAnywhereNeverReviveARecord) {
  std::uint64_t both = 0;
  for (int shift = 0; shift < 24; ++shift) {
    for (std::uint64_t at = 1; at <= 6; ++at) {
      FakeDirectory dir(1 << 20);
      std::set<Sequence> kept;
      auto o = open(dir, options(4));
      ASSERT_TRUE(o);
      for (int i = 0; i < shift; ++i) {  // other changes, other lengths of the torn write
        ASSERT_TRUE(o->log->mark(*o->log->append(1, "x"), State::kDone, 0));
      }
      auto append = [&](bool keep) {
        auto s = o->log->append(1, std::string(100, keep ? 'k' : 'f'));
        if (s && keep) kept.insert(*s);
        if (s && !keep) (void)o->log->mark(*s, State::kDone, 0);
        return s.ok();
      };
      for (int i = 0; o->log->stats().copied_records == 0 && !dir.crashed(); ++i) {
        ASSERT_LT(i, 1000);
        const auto before = o->log->stats();
        if (before.segments == 4) dir.crash_in(at);
        (void)append(i % 12 == 0);
      }
      if (!dir.crashed()) continue;
      o->log.reset();
      dir.restart(nullptr);
      auto again = open(dir, options(12));
      ASSERT_TRUE(again);
      for (const Sequence s : kept) {
        ASSERT_EQ(again->content.count(s), 1U) << shift << " " << at;
        if (++both % 2 == 0) {
          ASSERT_TRUE(again->log->mark(s, State::kDone, 0));
        } else {
          again->content.erase(s);
        }
      }
      std::set<Sequence> live;
      for (const Sequence s : kept) {
        if (again->log->read(s)) live.insert(s);
      }
      for (int i = 0; i < 200; ++i) {
        auto s = again->log->append(1, std::string(100, 'f'));
        ASSERT_TRUE(s);
        ASSERT_TRUE(again->log->mark(*s, State::kDone, 0));
      }
      auto last = open(dir, options(12));
      ASSERT_TRUE(last);
      std::set<Sequence> found;
      for (const auto& [s, copy] : last->content) {
        if (copy.payload == std::string(100, 'k')) found.insert(s);
      }
      ASSERT_EQ(found, live) << shift << " " << at;
    }
  }
  EXPECT_GT(both, 100U);
}

// Any one byte damaged at any place: what is found is unaltered, and what is missing was counted.
TEST(LogProperty, EveryDamagedByteIsDetected) {
  FakeDirectory dir(1 << 20);
  Content expected;
  {
    auto o = open(dir);
    Random random(5);
    for (int i = 0; i < 30; ++i) {
      const std::string payload(random.below(700), static_cast<char>('a' + i % 26));
      const Sequence s = *o->log->append(1, payload);
      expected[s] = {1, State::kLive, 0, payload};
      if (i % 5 == 0) {
        ASSERT_TRUE(o->log->mark(s, State::kTaken, 2));
        expected[s].state = State::kTaken;
        expected[s].attempt = 2;
      }
    }
    ASSERT_TRUE(o->log->commit());
  }
  const auto names = *dir.list();
  Random random(first_seed());
  std::uint64_t lost = 0;
  const std::uint64_t runs = seeds(10000);
  for (std::uint64_t i = 0; i < runs; ++i) {
    std::map<std::string, std::string> saved;
    for (const auto& name : names) saved[name] = *dir.content(name);
    const std::string& name = names[random.below(names.size())];
    std::string& bytes = *dir.content(name);
    const std::size_t at = random.below(bytes.size());
    bytes[at] = static_cast<char>(bytes[at] ^ static_cast<char>(1 + random.below(255)));
    dir.offer_views(i % 2 == 0);
    {
      auto o = open(dir);
      ASSERT_TRUE(o) << o.error().message;
      for (const auto& [s, copy] : o->content) ASSERT_EQ(copy, expected.at(s)) << name << " " << at;
      const std::size_t missing = expected.size() - o->content.size();
      ASSERT_EQ(missing > 0 ? o->recovery.corrupt_records : 1U, 1U) << name << " " << at;
      ASSERT_LE(missing, 1U) << name << " " << at;
      lost += missing;
    }
    const auto after = *dir.list();
    for (const auto& n : after) {
      if (saved.count(n) == 0) {
        ASSERT_TRUE(dir.remove(n));
      }
    }
    for (const auto& [n, b] : saved) {
      if (dir.content(n) == nullptr) {
        ASSERT_TRUE(dir.open(n, true));
      }
      *dir.content(n) = b;
    }
    dir.barrier();
  }
  EXPECT_GT(lost, runs / 20);
}

// A random life with crashes at random writes, short writes and lack of space, against a model.
void random_life(std::uint64_t seed) {
  SCOPED_TRACE("replay with SWARM_SEED=" + std::to_string(seed) + " SWARM_SEEDS=1");
  Random random(seed);
  FakeDirectory dir(kSuperblockBytes + (3 + random.below(8)) * kSmall);
  dir.offer_views(seed % 2 == 0);
  const Options o = options(static_cast<std::uint32_t>(3 + random.below(8)));
  std::optional<Copy> in_progress;            // the append that a crash cut short
  Sequence promised = 0;                      // highest committed
  std::map<Sequence, std::vector<Copy>> may;  // for each sequence: the states it may be found in
  std::set<Sequence> maybe;                   // appended, not committed: may be missing
  std::uint64_t counter = 0;
  std::set<std::string> refused;
  for (int life = 0; life < 6; ++life) {
    if (random.chance(30)) dir.crash_in(1 + random.below(12));  // during recovery as well
    auto opened = open(dir, o);
    if (!opened) {
      ASSERT_TRUE(dir.crashed() || opened.error().code == Code::kFull) << opened.error().message;
      dir.restart(nullptr);
      --life;
      if (random.chance(10)) return;
      continue;
    }
    dir.crash_in(0x7FFFFFFF);
    ASSERT_EQ(opened->recovery.corrupt_records, 0U);
    for (const auto& [s, copy] : opened->content) {
      if (may.count(s) == 0 && in_progress == copy) continue;
      ASSERT_TRUE(may.count(s) == 1) << "phantom or revived " << s;
      const auto& allowed = may.at(s);
      ASSERT_NE(std::find(allowed.begin(), allowed.end(), copy), allowed.end()) << s;
      ASSERT_EQ(refused.count(copy.payload), 0U) << "refused but found";
    }
    for (const auto& [s, copies] : may) {
      if (opened->content.count(s) != 0 || maybe.count(s) != 0) continue;
      ASSERT_TRUE(std::any_of(copies.begin(), copies.end(),
                              [](const Copy& c) { return c.state == State::kDone; }))
          << "lost " << s;
    }
    Content now = opened->content;
    in_progress.reset();
    may.clear();
    for (const auto& [s, copy] : now) may[s] = {copy};
    maybe.clear();
    Log& log = *opened->log;
    if (random.chance(70)) dir.crash_in(1 + random.below(150));
    const std::size_t steps = 20 + random.below(150);
    for (std::size_t i = 0; i < steps && !dir.crashed(); ++i) {
      if (random.chance(5)) dir.fail_in(1 + random.below(5));
      const std::size_t what = random.below(100);
      if (what < 50) {
        std::string payload = std::to_string(++counter) +
                              std::string(random.below(random.chance(10) ? 2000 : 300), 'p');
        const auto kind = static_cast<std::uint8_t>(random.below(250));
        auto s = log.append(kind, payload);
        if (s) {
          ASSERT_EQ(may.count(*s), 0U) << "sequence used twice";
          ASSERT_GT(*s, promised);
          now[*s] = {kind, State::kLive, 0, payload};
          may[*s] = {now[*s]};
          maybe.insert(*s);
        } else if (!dir.crashed()) {
          refused.insert(payload);
        } else {
          in_progress = Copy{kind, State::kLive, 0, payload};  // may be there, nobody was told
        }
      } else if (what < 85) {
        if (now.empty()) continue;
        auto it = now.begin();
        std::advance(it, static_cast<std::ptrdiff_t>(random.below(now.size())));
        static constexpr State kStates[] = {State::kTaken, State::kDead, State::kDone, State::kDone,
                                            State::kDone};
        Copy next = it->second;
        next.state = kStates[random.below(5)];
        next.attempt = static_cast<std::uint16_t>(random.next());
        const Sequence s = it->first;
        may[s].push_back(next);
        if (log.mark(s, next.state, next.attempt)) {
          may[s] = {next};
          it->second = next;
          if (next.state == State::kDone) now.erase(it);
        }
      } else if (what < 95) {
        if (log.commit()) {
          maybe.clear();
          if (!may.empty()) promised = std::max(promised, may.rbegin()->first);
          dir.barrier();
        }
      } else if (!now.empty()) {
        auto it = now.begin();
        std::advance(it, static_cast<std::ptrdiff_t>(random.below(now.size())));
        auto bytes = log.read(it->first);
        if (!dir.crashed()) {
          ASSERT_TRUE(bytes);
          ASSERT_EQ(*bytes, it->second.payload);
        }
      }
      if (!dir.crashed()) {
        ASSERT_EQ(log.stats().live_records, now.size());
      }
    }
    opened->log.reset();
    dir.restart(nullptr);
  }
}

// A journal whose device keeps any of what was written since the last sync. What commit() answered
// is there, in the state it had or in one that it was given since; nothing else came to life.
void life_without_power(std::uint64_t seed) {
  SCOPED_TRACE("replay with SWARM_SEED=" + std::to_string(seed) + " SWARM_SEEDS=1");
  Random random(seed);
  FakeDirectory dir(1U << 20U);
  dir.keep_undo(false);
  dir.keep_unsynced();
  Options o = options(static_cast<std::uint32_t>(4 + random.below(8)));
  o.durable = true;
  std::map<Sequence, std::vector<Copy>> may;  // the states since the last commit
  std::set<Sequence> committed;
  std::map<Sequence, std::size_t> marked;  // uncommitted marks: how many appends came before
  std::vector<Sequence> appended;          // since the last commit
  std::uint64_t counter = 0;
  for (int life = 0; life < 6; ++life) {
    if (random.chance(30)) dir.crash_in(1 + random.below(12));  // during recovery as well
    auto opened = open(dir, o);
    if (!opened) {
      ASSERT_TRUE(dir.crashed()) << opened.error().message;
      dir.power_loss(random);
      --life;
      continue;
    }
    dir.calm();
    ASSERT_EQ(opened->recovery.corrupt_records, 0U);
    for (const auto& [s, copy] : opened->content) {
      ASSERT_EQ(may.count(s), 1U) << "phantom or revived " << s;
      ASSERT_NE(std::find(may[s].begin(), may[s].end(), copy), may[s].end()) << s;
    }
    const auto was_done = [&](Sequence s) {
      return std::any_of(may[s].begin(), may[s].end(),
                         [](const Copy& c) { return c.state == State::kDone; });
    };
    for (const auto& [s, before] : marked) {
      if (opened->content.count(s) != 0 && opened->content.at(s) == may[s][0]) continue;
      for (std::size_t i = 0; i < before; ++i) {
        ASSERT_TRUE(opened->content.count(appended[i]) != 0 || was_done(appended[i]))
            << "a mark on " << s << " is there, an append before it is not";
      }
    }
    for (const Sequence s : committed) {
      ASSERT_TRUE(opened->content.count(s) != 0 || was_done(s)) << "lost " << s;
    }
    Content now = opened->content;
    const auto all_committed = [&] {
      may.clear();
      committed.clear();
      marked.clear();
      appended.clear();
      for (const auto& [s, copy] : now) {
        may[s] = {copy};
        committed.insert(s);
      }
    };
    all_committed();
    Log& log = *opened->log;
    for (std::size_t steps = random.below(random.chance(30) ? 5 : 150); steps > 0; --steps) {
      const std::size_t what = random.below(100);
      if (what < 50 || now.empty()) {
        const Copy copy{1, State::kLive, 0,
                        std::to_string(++counter) +
                            std::string(random.below(random.chance(10) ? 2000 : 300), 'p')};
        if (auto s = log.append(copy.kind, copy.payload)) {
          now[*s] = copy;
          may[*s] = {copy};
          appended.push_back(*s);
        }
      } else if (what < 85) {
        auto it = std::next(now.begin(), static_cast<std::ptrdiff_t>(random.below(now.size())));
        it->second.state = random.chance(70) ? State::kDone : State::kTaken;
        it->second.attempt = static_cast<std::uint16_t>(random.next());
        may[it->first].push_back(it->second);
        if (committed.count(it->first) != 0) marked.try_emplace(it->first, appended.size());
        ASSERT_TRUE(log.mark(it->first, it->second.state, it->second.attempt));
        if (it->second.state == State::kDone) now.erase(it);
      } else {
        ASSERT_TRUE(log.commit());
        all_committed();
      }
    }
    opened->log.reset();
    if (random.chance(70)) {
      dir.power_loss(random);
    } else {  // a kill: what was written is there, and not on the device
      dir.restart(nullptr);
    }
  }
}

TEST(LogProperty, AJournalSurvivesLossOfPower) {
  const std::uint64_t first = first_seed();
  for (std::uint64_t seed = first, n = seeds(2000); seed < first + n; ++seed) {
    life_without_power(seed);
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
}

TEST(Log, AJournalThatCannotSyncPromisesNothingMore) {
  class Broken final : public sim::LentDirectory {
   public:
    using LentDirectory::LentDirectory;
    Status sync() override { return broken ? Status(internal_error("I/O error")) : Status(); }
    bool broken = false;
  };
  FakeDirectory dir(1 << 20);
  Broken device(dir);
  Options o = options();
  o.durable = true;
  auto opened = open(device, o);
  ASSERT_TRUE(opened);
  ASSERT_TRUE(opened->log->commit());
  device.broken = true;
  Status status;
  for (int i = 0; i < 30 && status; ++i) {  // until a segment is begun: its name must be synced
    ASSERT_TRUE(opened->log->append(1, std::string(300, 'x')));
    status = opened->log->commit();
  }
  EXPECT_FALSE(status);
  device.broken = false;
  EXPECT_FALSE(opened->log->commit()) << "the kernel may have dropped what it could not write";
  opened->log.reset();
  EXPECT_TRUE(open(device, o)) << "a start reads what is there";
}

TEST(LogProperty, SurvivesCrashesAtAnyWrite) {
  const std::uint64_t first = first_seed();
  for (std::uint64_t seed = first, n = seeds(2000); seed < first + n; ++seed) {
    random_life(seed);
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
}

}  // namespace
}  // namespace swarm::log
