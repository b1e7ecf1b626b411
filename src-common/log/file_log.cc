#include <algorithm>
#include <cstdio>
#include <deque>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "base/crash_point.h"
#include "base/encoding.h"
#include "log/format.h"
#include "log/log.h"

namespace swarm::log {
namespace {

constexpr const char* kSuperName = "superblock";
constexpr std::uint32_t kMinSegments = 3;  // one in use, two in reserve
constexpr std::uint32_t kMinSegmentBytes = 4096;
constexpr std::uint32_t kSpareSegments =
    2;  // free ones kept beyond the reserve; more are given back
constexpr std::uint32_t kMinGainDivisor =
    8;  // copying forward must win at least this part of a segment

std::string numbered(const char* prefix, std::uint32_t number) {
  char text[16];
  std::snprintf(text, sizeof text, "%s-%08x", prefix, number);
  return text;
}

std::optional<std::uint32_t> number_in(const std::string& name, std::string_view prefix) {
  if (name.size() != prefix.size() + 9 || name.compare(0, prefix.size(), prefix) != 0)
    return std::nullopt;
  std::uint32_t value = 0;
  if (name[prefix.size()] != '-') return std::nullopt;
  for (const char c : name.substr(prefix.size() + 1)) {
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return std::nullopt;
    value = value * 16 + static_cast<std::uint32_t>(c <= '9' ? c - '0' : c - 'a' + 10);
  }
  if (value == 0 || value > kMaxSegmentNumber) return std::nullopt;  // not one of ours
  return value;
}

// What a log of this version may say of itself. Of another version nobody here can tell.
bool is_possible(const Superblock& s) {
  return s.version != kFormatVersion ||
         (s.segment_bytes >= kMinSegmentBytes && s.segment_bytes <= kSegmentBytes &&
          s.segment_bytes % 8 == 0 && s.tail_offset <= s.segment_bytes && s.tail_offset % 8 == 0 &&
          s.tail_segment < s.next_segment && s.next_segment <= kMaxSegmentNumber &&
          s.committed <= kMaxSequence && s.generation <= kMaxSequence);
}

bool all_zero(std::string_view bytes) {
  return bytes.find_first_not_of('\0') == std::string_view::npos;
}

struct Entry {  // one per record that is not done; sorted by sequence
  Sequence sequence = 0;
  Place place;
  std::uint32_t length = 0;
  std::uint16_t attempt = 0;
  std::uint8_t kind = 0;
  State state = State::kLive;  // kDone: to be dropped by the next compaction of the index
};

struct Segment {
  std::unique_ptr<os::File> file;
  std::unique_ptr<os::View> view;  // while the log is opened
  std::uint32_t used = kSegmentHeaderBytes;
  std::uint64_t live_bytes = 0;  // with headers and padding
  std::uint64_t live_records = 0;
  bool pinned = false;  // holds a live record that fails its checksum: never moved
};

class FileLog final : public Log {
 public:
  FileLog(os::Directory& directory, const Options& options)
      : directory_(directory), options_(options) {}

  Result<std::uint64_t> open(const LogId& new_id, const std::function<void(const Record&)>& visit,
                             Recovery& recovery);

  [[nodiscard]] const LogId& id() const override { return super_.id; }
  Result<Sequence> append(std::uint8_t kind, std::string_view payload) override;
  Status mark(Sequence sequence, State state, std::uint16_t attempt) override;
  void finish(Sequence sequence) override;
  void finish_later(Sequence sequence) override { later_.push_back(sequence); }
  Result<std::string> read(Sequence sequence) override;
  Status commit() override;
  [[nodiscard]] std::uint64_t available_bytes() const override;
  [[nodiscard]] Stats stats() const override;

 private:
  struct Found {
    Entry entry;
    Mark mark;
  };
  struct Region {
    Place place;
    std::uint64_t bytes = 0;
  };
  struct Scan {
    std::deque<Found> found;  // many, and gone after recovery
    std::vector<Region> bad;
    Place last_end;  // where the last valid record ends
    std::uint64_t corrupt = 0;
  };

  [[nodiscard]] std::uint32_t capacity() const {
    return super_.segment_bytes - kSegmentHeaderBytes;
  }
  [[nodiscard]] std::uint32_t max_payload() const {
    return std::min(kMaxPayloadBytes, super_.segment_bytes / 2);
  }
  [[nodiscard]] std::uint32_t min_gain() const { return super_.segment_bytes / kMinGainDivisor; }
  Entry* find(Sequence sequence);

  Status flush();
  Status flush_marks();
  Status write_mark(const Place& place, Sequence sequence, const Mark& mark);
  void forget_marks(std::uint32_t number);
  Status write_segment(std::uint32_t number, std::uint64_t offset, std::string_view bytes);
  Status drop_unsynced(Scan& scan, Recovery& recovery);
  Result<std::vector<std::string>> load_superblock(const LogId& new_id, Recovery& recovery);
  Status write_superblock();
  void scan_segment(std::uint32_t number, std::string_view bytes, Scan& scan);
  void classify(const Scan& scan, Recovery& recovery);
  Status settle_copies(Scan& scan);

  Status repair_tail();
  Status make_room(std::uint32_t bytes);
  Status take(std::size_t keep);
  Status grow();
  bool retire(std::uint32_t number);
  void give_back_slow();
  void drop_tombstones();
  enum class Into : std::uint8_t { kReserved, kActive };
  Result<bool> copy_forward(std::uint32_t victim, Into into);
  std::optional<std::uint32_t> best_victim(std::uint32_t but) const;
  Status restore_reserve();

  os::Directory& directory_;
  Options options_;
  std::uint32_t max_segments_ = 0;
  std::unique_ptr<os::File> super_file_;
  Superblock super_;    // as last written
  Sequence last_ = 0;   // as last appended
  Place tail_;          // where it ends
  bool dirty_ = false;  // last_ or tail_ are not in the superblock yet
  std::uint32_t broken_bytes_ =
      0;  // a write failed half way: so many bytes at the end must be made unreadable first
  std::uint32_t next_segment_ = 1;
  std::map<std::uint32_t, Segment> segments_;
  std::uint32_t active_ = 0;  // number of the segment that is appended to; 0: none
  std::uint32_t stale_ = 0;   // copied forward, but could not be retired: must go before any other
  std::vector<std::string> pool_;  // free, allocated files
  std::vector<Entry> index_;
  std::size_t tombstones_ = 0;
  std::set<std::uint32_t> unsynced_;        // segments written to since the last flush()
  bool names_changed_ = false;              // since then, too
  std::map<Place, std::string> unwritten_;  // marks that wait for the records before them
  bool sync_failed_ = false;
  std::vector<Sequence> unfinished_;  // finish() could not be written yet; at most the live records
  std::vector<Sequence> later_;       // finish_later(), until a commit
  Stats stats_;
};

Entry* FileLog::find(Sequence sequence) {
  if (index_.empty() || sequence > index_.back().sequence) return nullptr;
  // What was appended since the last compaction has no holes: most that is looked for.
  auto it = index_.begin();
  if (const auto from_end = index_.back().sequence - sequence; from_end < index_.size())
    it = index_.end() - 1 - static_cast<std::ptrdiff_t>(from_end);
  if (it->sequence != sequence) {
    it = std::lower_bound(index_.begin(), index_.end(), sequence,
                          [](const Entry& e, Sequence s) { return e.sequence < s; });
  }
  if (it == index_.end() || it->sequence != sequence || it->state == State::kDone) return nullptr;
  return &*it;
}

// ---- a journal's writes reach the device in this order: records, names, superblock, marks. The
// device may reorder what lies between two syncs, and a mark may mean that a record from before it
// is there: so it waits in memory until that is so.

// After a failed sync nobody can say what is on the device: nothing is promised from then on, until
// the next start has read it.
Status FileLog::flush() {
  if (!options_.durable) return {};
  if (sync_failed_) return internal_error("the journal could not be written to its device before");
  Status done;
  for (const std::uint32_t number : unsynced_) {
    if (const auto it = segments_.find(number); done && it != segments_.end())
      done = it->second.file->sync();
  }
  if (done && names_changed_) done = directory_.sync();
  sync_failed_ = !done;
  if (!done) return done;
  unsynced_.clear();
  names_changed_ = false;
  return {};
}

Status FileLog::flush_marks() {
  for (const auto& [place, bytes] : unwritten_) {
    if (auto s = write_segment(place.segment, place.offset + kMarkOffset, bytes); !s) return s;
  }
  unwritten_.clear();
  return flush();
}

void FileLog::forget_marks(std::uint32_t number) {
  unwritten_.erase(unwritten_.lower_bound({number, 0}), unwritten_.lower_bound({number + 1, 0}));
}

Status FileLog::write_mark(const Place& place, Sequence sequence, const Mark& mark) {
  std::string bytes = encode_mark(sequence, mark);
  if (!options_.durable) return write_segment(place.segment, place.offset + kMarkOffset, bytes);
  unwritten_[place] = std::move(bytes);
  return {};
}

Status FileLog::write_segment(std::uint32_t number, std::uint64_t offset, std::string_view bytes) {
  if (options_.durable) unsynced_.insert(number);
  return segments_.at(number).file->write_at(offset, bytes);
}

// ---- superblock

// Alternates between the slots, so that a torn write leaves the older one. The segment numbers it
// promises not to use again make bytes of a segment's former life unreadable: their checksums carry
// its former number.
Status FileLog::write_superblock() {
  if (auto s = flush(); !s) return s;
  Superblock next = super_;
  next.committed = last_;
  next.generation = super_.generation + 1;
  next.tail_segment = tail_.segment;
  next.tail_offset = tail_.offset;
  next.next_segment = next_segment_;
  const std::uint64_t slot = next.generation % 2;
  if (auto s = super_file_->write_at(slot * kSlotDistance, encode_slot(next)); !s)
    return s.error().in("superblock");
  if (options_.durable) {
    if (auto s = super_file_->sync(); !s) {
      sync_failed_ = true;
      return s.error().in("superblock");
    }
  }
  super_ = next;
  dirty_ = false;
  return flush_marks();
}

// Leaves super_ as found, or as made; returns the names in the directory.
Result<std::vector<std::string>> FileLog::load_superblock(const LogId& new_id, Recovery& recovery) {
  auto names = directory_.list();
  if (!names) return names.error();
  auto file = directory_.open(kSuperName, true);
  if (!file) return file.error().in("superblock");
  super_file_ = std::move(*file);
  std::optional<Superblock> best;
  for (std::uint64_t slot = 0; slot < 2; ++slot) {
    auto bytes = super_file_->read_at(slot * kSlotDistance, kSlotBytes);
    if (!bytes) return bytes.error().in("superblock");
    auto found = decode_slot(*bytes);
    if (found && is_possible(*found) && (!best || found->generation > best->generation))
      best = found;
  }
  if (best) {
    if (best->version != kFormatVersion) {
      return invalid("the log has format version " + std::to_string(best->version) +
                     ", this program reads version " + std::to_string(kFormatVersion));
    }
    super_ = *best;
    return names;
  }
  // Nothing readable. Without segments it is a log whose making was interrupted; with segments
  // their meaning is lost.
  const bool segments = std::any_of(names->begin(), names->end(), [](const std::string& n) {
    return number_in(n, "seg").has_value();
  });
  if (segments) {
    const std::string aside = "damaged-" + to_string(new_id).substr(0, 8) + "-";
    std::vector<std::string> rest;
    for (const std::string& name : *names) {
      if (!number_in(name, "seg")) {
        rest.push_back(name);
        continue;
      }
      if (auto s = directory_.rename(name, aside + name); !s) return s.error();
      ++recovery.corrupt_records;
    }
    *names = std::move(rest);
  }
  recovery.fresh = true;
  super_ = Superblock{};
  super_.id = new_id;
  super_.segment_bytes = options_.segment_bytes;
  if (auto s = super_file_->allocate(kSuperblockBytes); !s) return s.error().in("superblock");
  if (auto s = write_superblock(); !s) return s.error();
  return names;
}

// ---- recovery

void FileLog::scan_segment(std::uint32_t number, std::string_view bytes, Scan& scan) {
  const std::string header = encode_segment_header(super_.id, number, super_.segment_bytes);
  // The header repeats what superblock and file name say; damage to it costs nothing but is
  // reported.
  if (bytes.substr(0, header.size()) != header) ++scan.corrupt;
  std::uint32_t pos = kSegmentHeaderBytes;
  const auto size = static_cast<std::uint32_t>(bytes.size());
  constexpr std::uint32_t kNone = 0;  // no record stands at 0
  std::uint32_t bad_from = kNone;
  std::uint32_t good_end = pos;
  auto close_bad = [&](std::uint32_t end) {
    if (bad_from != kNone) scan.bad.push_back({{number, bad_from}, end - bad_from});
    bad_from = kNone;
  };
  while (pos + kRecordHeaderBytes <= size) {
    if (all_zero(bytes.substr(pos, kRecordHeaderBytes))) {
      if (bad_from == kNone && pos == good_end)
        bad_from = pos;  // a clean end, unless a valid record follows
      pos += 8;
      continue;
    }
    const Place place{number, pos};
    const auto read = decode_record(super_.id, place, bytes.substr(pos));
    if (!read) {
      if (bad_from == kNone) bad_from = pos;
      pos += 8;
      continue;
    }
    const Header* found = &read->header;
    const std::uint32_t length = record_bytes(found->length);
    if (!read->whole) {
      close_bad(pos);
      scan.bad.push_back({place, length});
      pos += length;
      good_end = pos;
      continue;
    }
    close_bad(pos);
    const auto mark = decode_mark(found->sequence, bytes.substr(pos + kMarkOffset, kMarkBytes));
    if (mark) {
      scan.found.push_back(
          {{found->sequence, place, found->length, mark->attempt, found->kind, mark->state},
           *mark});
    } else {
      ++scan.corrupt;  // nobody can say whether it is still needed
      last_ = std::max(last_, found->sequence);
    }
    pos += length;
    good_end = pos;
    scan.last_end = std::max(scan.last_end, Place{number, pos});
  }
  if (bad_from != kNone) {
    // What follows the last record: nothing when it begins with a terminator, else a record that is
    // damaged or torn.
    const std::uint32_t probe = std::min(bad_from + kTerminatorBytes, size);
    if (!all_zero(bytes.substr(bad_from, probe - bad_from))) {
      std::uint32_t end = bad_from;
      while (end + 8 <= size && !all_zero(bytes.substr(end, 8))) end += 8;
      scan.bad.push_back({{number, bad_from}, end - bad_from});
    }
  }
}

// A loss of power may leave any part of what was written after the last commit. From the first hole
// on nothing of it is kept: nobody was told, and a hole with records behind it would look like
// damage at each later start.
Status FileLog::drop_unsynced(Scan& scan, Recovery& recovery) {
  const Place committed{super_.tail_segment, super_.tail_offset};
  std::optional<Place> hole;
  for (const Region& region : scan.bad) {
    if (region.place >= committed && (!hole || region.place < *hole)) hole = region.place;
  }
  if (!hole) return {};
  for (const auto& [number, segment] : segments_) {
    if (number < hole->segment) continue;
    const std::uint32_t from = number == hole->segment ? hole->offset : kSegmentHeaderBytes;
    if (auto s = write_segment(number, from, std::string(super_.segment_bytes - from, '\0')); !s)
      return s;
  }
  const auto beyond = [&](const Place& place) { return place >= *hole; };
  for (const Region& region : scan.bad) {
    if (beyond(region.place)) recovery.truncated_bytes += region.bytes;
  }
  scan.bad.erase(std::remove_if(scan.bad.begin(), scan.bad.end(),
                                [&](const Region& r) { return beyond(r.place); }),
                 scan.bad.end());
  scan.found.erase(std::remove_if(scan.found.begin(), scan.found.end(),
                                  [&](const Found& f) { return beyond(f.entry.place); }),
                   scan.found.end());
  scan.last_end = std::min(scan.last_end, *hole);
  return {};
}

// Torn or corrupt? Torn is only what lies beyond the last commit and has nothing valid behind it:
// the end of an append that nobody was told about. Everything else was promised to somebody, and is
// reported.
void FileLog::classify(const Scan& scan, Recovery& recovery) {
  recovery.corrupt_records += scan.corrupt;
  const Place committed{super_.tail_segment, super_.tail_offset};
  Place seen = std::max(scan.last_end, Place{committed.segment, kSegmentHeaderBytes});
  for (const Region& region : scan.bad) {
    if (region.place < committed || region.place < scan.last_end) {
      ++recovery.corrupt_records;
      seen = std::max(seen, Place{region.place.segment,
                                  region.place.offset + static_cast<std::uint32_t>(region.bytes)});
    } else {
      recovery.truncated_bytes += region.bytes;
      broken_bytes_ = kRecordHeaderBytes;
    }
  }
  // The last committed record was overwritten by zeros.
  if (segments_.count(committed.segment) != 0 && seen < committed) ++recovery.corrupt_records;
}

// After a crash between copying a segment forward and retiring it, two copies of a record exist.
// The higher one counts; the lower is marked done, else it could come back to life when the higher
// one is done and gone.
Status FileLog::settle_copies(Scan& scan) {
  const auto before = [](const Found& a, const Found& b) {
    return std::pair(a.entry.sequence, a.entry.place) < std::pair(b.entry.sequence, b.entry.place);
  };
  if (!std::is_sorted(scan.found.begin(), scan.found.end(), before))  // after copies were made
    std::sort(scan.found.begin(), scan.found.end(), before);
  auto at = segments_.end();  // most follow upon another of their segment
  const auto segment_of = [&](const Place& place) -> Segment& {
    if (at == segments_.end() || at->first != place.segment) at = segments_.find(place.segment);
    return at->second;
  };
  for (std::size_t i = 0; i < scan.found.size(); ++i) {
    const Found& f = scan.found[i];
    last_ = std::max(last_, f.entry.sequence);
    if (f.mark.state == State::kDone) continue;
    Segment& segment = segment_of(f.entry.place);
    if (i + 1 < scan.found.size() && scan.found[i + 1].entry.sequence == f.entry.sequence) {
      const std::string done = encode_mark(f.entry.sequence, {State::kDone, f.mark.attempt});
      const Place& place = f.entry.place;
      if (auto s = write_segment(place.segment, place.offset + kMarkOffset, done); !s) return s;
      continue;
    }
    index_.push_back(f.entry);
    segment.live_bytes += record_bytes(f.entry.length);
    ++segment.live_records;
  }
  return {};
}

Result<std::uint64_t> FileLog::open(const LogId& new_id,
                                    const std::function<void(const Record&)>& visit,
                                    Recovery& recovery) {
  recovery = {};
  auto names = load_superblock(new_id, recovery);
  if (!names) return names.error();
  max_segments_ = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(options_.max_bytes < kSuperblockBytes
                                  ? 0
                                  : (options_.max_bytes - kSuperblockBytes) / super_.segment_bytes,
                              UINT32_MAX));
  if (max_segments_ < kMinSegments) {
    return invalid("the log needs at least " +
                   std::to_string(kMinSegments * super_.segment_bytes + kSuperblockBytes) +
                   " bytes");
  }
  last_ = super_.committed;
  tail_ = {super_.tail_segment, super_.tail_offset};
  next_segment_ = super_.next_segment;

  Scan scan;
  for (const std::string& name : *names) {
    if (const auto number = number_in(name, "free")) {
      next_segment_ = std::max(next_segment_, *number + 1);
      // Interrupted while it was allocated: made anew when needed.
      auto file = directory_.open(name, false);
      auto size = file ? (*file)->size() : Result<std::uint64_t>(file.error());
      if (recovery.fresh || !size || *size != super_.segment_bytes) {
        if (auto s = directory_.remove(name); !s) return s.error();
      } else {
        pool_.push_back(name);
      }
    } else if (const auto segment_number = number_in(name, "seg")) {
      next_segment_ = std::max(next_segment_, *segment_number + 1);
      auto file = directory_.open(name, false);
      if (!file) return file.error();
      auto& segment = segments_[*segment_number];
      segment.file = std::move(*file);
      if (!options_.durable) segment.view = segment.file->view(super_.segment_bytes);
      auto bytes =
          segment.view ? Result<std::string>("") : segment.file->read_at(0, super_.segment_bytes);
      if (!bytes) return bytes.error();
      bytes->resize(segment.view ? 0 : super_.segment_bytes, '\0');
      scan_segment(*segment_number, segment.view ? segment.view->bytes() : *bytes, scan);
      // What was read may be in the kernel's cache alone: left by a process that died before it
      // could sync, or that could not.
      if (options_.durable) {
        if (auto s = write_segment(*segment_number, 0, *bytes); !s) return s.error();
        names_changed_ = true;
      }
      active_ = std::max(active_, *segment_number);
    }
  }
  if (options_.durable) {
    if (auto s = drop_unsynced(scan, recovery); !s) return s.error();
  }
  classify(scan, recovery);
  if (active_ != 0) {
    Segment& active = segments_.at(active_);
    if (scan.last_end.segment == active_) active.used = scan.last_end.offset;
    if (tail_.segment == active_) active.used = std::max(active.used, tail_.offset);
    for (const Region& region : scan.bad) {  // damage that was promised keeps its place
      const auto end = region.place.offset + static_cast<std::uint32_t>(region.bytes);
      if (region.place.segment == active_ && region.place < Place{tail_.segment, tail_.offset})
        active.used = std::max(active.used, end);
    }
    for (const Region& region : scan.bad) {  // torn: all of it, since its payload may hold anything
      const auto end = region.place.offset + static_cast<std::uint32_t>(region.bytes);
      if (region.place.segment == active_ && end > active.used)
        broken_bytes_ = std::max(broken_bytes_, end - active.used);
    }
    tail_ = std::max(tail_, Place{active_, active.used});
  }
  crash_point("recovery-scanned");
  if (auto s = settle_copies(scan); !s) return s.error();
  if (auto s = repair_tail(); !s) return s.error();
  if (auto s = write_superblock(); !s) return s.error();
  if (active_ == 0) {
    if (auto s = take(0); !s) return s.error();
    auto space = directory_.space();
    if (!space) return space.error();
    if (space->free_bytes < std::uint64_t{kReserveSegments} * super_.segment_bytes &&
        pool_.size() < kReserveSegments) {
      return Error{Code::kFull, "the log needs at least " +
                                    std::to_string(kMinSegments * super_.segment_bytes) +
                                    " bytes of free space"};
    }
  }
  std::vector<std::uint32_t> empty;
  for (const auto& [number, segment] : segments_) {
    if (number != active_ && segment.live_records == 0) empty.push_back(number);
  }
  for (const std::uint32_t number : empty) {
    if (!retire(number)) break;  // tried again when the space is needed
  }
  if (auto s = restore_reserve(); !s) return s.error();
  // Hand over in order of sequence. By index: the owner may not append or mark yet.
  auto at = segments_.end();  // most follow upon another of their segment
  for (const Entry& entry : index_) {
    if (at == segments_.end() || at->first != entry.place.segment)
      at = segments_.find(entry.place.segment);
    Record record{entry.sequence, entry.kind, entry.state, entry.attempt, {}};
    Result<std::string> copy("");
    if (const auto& view = at->second.view) {  // verified, and in memory
      record.payload = view->bytes().substr(entry.place.offset + kRecordHeaderBytes, entry.length);
    } else if (copy = read(entry.sequence)) {
      record.payload = *copy;
    } else if (copy.error().code == Code::kCorrupt) {
      ++recovery.corrupt_records;
      continue;
    } else {
      return copy.error();
    }
    ++recovery.records;
    visit(record);
  }
  for (auto& [number, segment] : segments_) segment.view.reset();
  return recovery.records;
}

// ---- writing

// Makes the bytes after the last record unreadable as one. Until that is done nothing else is
// written: a record that its owner was told had failed must not be found by the next open().
Status FileLog::repair_tail() {
  if (broken_bytes_ == 0) return {};
  if (active_ != 0) {
    Segment& active = segments_.at(active_);
    const std::uint32_t bytes = std::min(super_.segment_bytes - active.used, broken_bytes_);
    if (auto s = write_segment(active_, active.used, std::string(bytes, '\0')); !s) return s;
  }
  broken_bytes_ = 0;
  return {};
}

Status FileLog::grow() {
  if (segments_.size() + pool_.size() >= max_segments_)
    return Error{Code::kFull, "the log is full"};
  const std::string name = numbered("free", next_segment_);
  auto file = directory_.open(name, true);
  if (!file) return file.error();
  if (auto s = (*file)->allocate(super_.segment_bytes); !s) {
    (void)directory_.remove(name);  // the next open() removes it otherwise: its size is wrong
    return s;
  }
  ++next_segment_;
  pool_.push_back(name);
  return {};
}

// Begins a new segment, leaving `keep` free ones. The header is written while the file still counts
// as free, so that the rename is the one step that makes it a segment.
Status FileLog::take(std::size_t keep) {
  while (pool_.size() < keep + 1) {
    if (auto s = grow(); !s) return s;
  }
  const std::uint32_t number = next_segment_++;
  if (auto s = write_superblock(); !s) return s;
  auto file = directory_.open(pool_.back(), false);
  if (!file) return file.error();
  const std::string header = encode_segment_header(super_.id, number, super_.segment_bytes) +
                             std::string(kTerminatorBytes, '\0');
  if (auto s = (*file)->write_at(0, header); !s) return s;
  if (options_.durable) {
    if (auto s = (*file)->sync(); !s) return s;
  }
  crash_point("segment-header");
  if (auto s = directory_.rename(pool_.back(), numbered("seg", number)); !s) return s;
  names_changed_ = true;
  crash_point("segment-begun");
  pool_.pop_back();
  segments_[number].file = std::move(*file);
  active_ = number;
  return {};
}

bool FileLog::retire(std::uint32_t number) {
  if (stale_ != 0 && stale_ != number && !retire(stale_)) return false;
  const std::string name = numbered("seg", number);
  const bool slow = directory_.is_slow(name);
  if (pool_.size() >= kReserveSegments + (slow ? 0 : kSpareSegments)) {
    if (!directory_.remove(name)) return false;
  } else {
    const std::string free_name = numbered("free", number);
    if (!directory_.rename(name, free_name)) return false;
    pool_.insert(slow ? pool_.begin() : pool_.end(), free_name);  // the last one is used first
  }
  give_back_slow();
  names_changed_ = true;
  crash_point("segment-retired");
  forget_marks(number);
  if (stale_ == number) stale_ = 0;
  if (active_ == number) active_ = 0;
  segments_.erase(number);
  return true;
}

// Beyond the reserve nothing is kept on disk that would find room in memory.
void FileLog::give_back_slow() {
  while (pool_.size() > kReserveSegments && directory_.is_slow(pool_.front())) {
    if (!directory_.remove(pool_.front())) return;  // tried again with the next one
    pool_.erase(pool_.begin());
  }
}

std::optional<std::uint32_t> FileLog::best_victim(std::uint32_t but) const {
  std::optional<std::uint32_t> best;
  for (const auto& [number, segment] : segments_) {
    if (number != but && !segment.pinned &&
        (!best || segment.live_bytes < segments_.at(*best).live_bytes))
      best = number;
  }
  return best;
}

// Copies the live records of `victim` into a new segment taken from the reserve, or into the active
// one, which has room for them. false: one of them is damaged, nothing done.
Result<bool> FileLog::copy_forward(std::uint32_t victim, Into into) {
  Segment& from = segments_.at(victim);
  auto bytes = from.file->read_at(0, super_.segment_bytes);
  if (!bytes) return bytes.error();
  bytes->resize(super_.segment_bytes, '\0');
  std::vector<Entry*> moving;
  for (Entry& entry : index_) {
    if (entry.state == State::kDone || entry.place.segment != victim) continue;
    const std::string_view at = std::string_view(*bytes).substr(entry.place.offset);
    const auto read = decode_record(super_.id, entry.place, at);
    if (!read || !read->whole || read->header.sequence != entry.sequence) return false;
    moving.push_back(&entry);
  }
  if (into == Into::kReserved) {
    if (auto s = take(0); !s) return s.error();
  }
  Segment& to = segments_.at(active_);
  std::string copies;
  for (const Entry* entry : moving) {
    const Place place{active_, to.used + static_cast<std::uint32_t>(copies.size())};
    append_record(
        copies, super_.id, place, entry->sequence, entry->kind, {entry->state, entry->attempt},
        std::string_view(*bytes).substr(entry->place.offset + kRecordHeaderBytes, entry->length));
  }
  const auto copied_bytes = static_cast<std::uint32_t>(copies.size());
  copies.append(
      std::min<std::size_t>(kTerminatorBytes, super_.segment_bytes - to.used - copied_bytes), '\0');
  if (auto s = write_segment(active_, to.used, copies); !s) {
    // Whole copies may stand there, which an open() would prefer to the originals: give the segment
    // back unread.
    broken_bytes_ = static_cast<std::uint32_t>(copies.size());
    if (into == Into::kReserved && retire(active_)) broken_bytes_ = 0;
    return s.error();
  }
  std::uint32_t offset = to.used;
  for (Entry* entry : moving) {
    entry->place = {active_, offset};
    offset += record_bytes(entry->length);
  }
  to.used = offset;
  to.live_bytes += from.live_bytes;
  to.live_records += from.live_records;
  from.live_bytes = from.live_records = 0;
  stats_.copied_records += moving.size();
  tail_ = {active_, to.used};
  stale_ = victim;
  crash_point("segment-copied");
  if (auto s = write_superblock(); !s) return s.error();
  crash_point("segment-copy-committed");
  (void)retire(victim);  // tried again before any other segment goes
  return true;
}

// A crash between taking a reserved segment and retiring the one that it was for costs a reserve.
// Without any, nothing could be copied forward: a log that is mostly done would be full for ever.
// The segment that was begun then has room for what another one still holds.
Status FileLog::restore_reserve() {
  while (active_ != 0 && pool_.size() < kReserveSegments) {  // each round retires or pins a segment
    const auto victim = best_victim(active_);
    if (!victim ||
        segments_.at(active_).used + segments_.at(*victim).live_bytes > super_.segment_bytes)
      return {};
    auto copied = copy_forward(*victim, Into::kActive);
    if (!copied) return copied.error();
    if (!*copied) segments_.at(*victim).pinned = true;
    if (stale_ != 0) return {};  // it could not be retired
  }
  return {};
}

Status FileLog::make_room(std::uint32_t bytes) {
  if (options_.durable) {  // before any segment goes
    if (auto s = write_superblock(); !s) return s;
  }
  std::vector<std::uint32_t> empty;
  for (const auto& [number, segment] : segments_) {
    if (segment.live_records == 0) empty.push_back(number);
  }
  for (const std::uint32_t number : empty) {
    if (!retire(number)) break;
  }
  const Status fresh = take(segments_.empty() ? 0 : kReserveSegments);
  if (fresh) return {};
  if (fresh.error().code != Code::kFull) return fresh;
  for (;;) {  // each round pins a segment or ends
    const auto victim = best_victim(0);
    const std::uint64_t gain = victim ? capacity() - segments_.at(*victim).live_bytes : 0;
    if (gain < std::max<std::uint64_t>(bytes, min_gain()))
      return Error{Code::kFull, "the log is full"};
    auto copied = copy_forward(*victim, Into::kReserved);
    if (!copied) return copied.error();
    if (*copied) return {};
    segments_.at(*victim).pinned = true;
  }
}

Result<Sequence> FileLog::append(std::uint8_t kind, std::string_view payload) {
  if (payload.size() > max_payload()) {
    return invalid("a record holds at most " + std::to_string(max_payload()) + " bytes");
  }
  if (auto s = repair_tail(); !s) return s.error();
  const std::uint32_t bytes = record_bytes(payload.size());
  if (active_ == 0 || segments_.at(active_).used + bytes > super_.segment_bytes) {
    if (auto s = make_room(bytes); !s) return s.error();
  }
  Segment& active = segments_.at(active_);
  const Place place{active_, active.used};
  std::string out;
  out.reserve(bytes + kTerminatorBytes);
  append_record(out, super_.id, place, last_ + 1, kind, {}, payload);
  out.append(std::min<std::size_t>(kTerminatorBytes, super_.segment_bytes - active.used - bytes),
             '\0');
  if (auto s = write_segment(active_, active.used, out); !s) {
    broken_bytes_ = static_cast<std::uint32_t>(out.size());
    (void)repair_tail();  // else before the next write
    return s.error();
  }
  ++last_;
  active.used += bytes;
  active.live_bytes += bytes;
  ++active.live_records;
  tail_ = {active_, active.used};
  dirty_ = true;
  index_.push_back(
      {last_, place, static_cast<std::uint32_t>(payload.size()), 0, kind, State::kLive});
  ++stats_.appended_records;
  stats_.appended_bytes += bytes;
  return last_;
}

void FileLog::drop_tombstones() {
  if (tombstones_ < 64 || tombstones_ * 2 < index_.size()) return;
  index_.erase(std::remove_if(index_.begin(), index_.end(),
                              [](const Entry& e) { return e.state == State::kDone; }),
               index_.end());
  tombstones_ = 0;
}

Status FileLog::mark(Sequence sequence, State state, std::uint16_t attempt) {
  Entry* entry = find(sequence);
  check(entry != nullptr, "mark() of a record that is unknown or done");
  const std::uint32_t number = entry->place.segment;
  Segment& segment = segments_.at(number);
  if (auto s = write_mark(entry->place, sequence, {state, attempt}); !s)
    return s.error().in("mark");
  entry->state = state;
  entry->attempt = attempt;
  if (state != State::kDone) return {};
  segment.live_bytes -= record_bytes(entry->length);
  --segment.live_records;
  ++tombstones_;
  drop_tombstones();
  // Tried again when the space is needed; a journal's first when the mark is on the device.
  if (segment.live_records == 0 && number != active_ && !options_.durable) (void)retire(number);
  return {};
}

void FileLog::finish(Sequence sequence) {
  if (!mark(sequence, State::kDone, 0)) unfinished_.push_back(sequence);
}

Result<std::string> FileLog::read(Sequence sequence) {
  const Entry* entry = find(sequence);
  if (entry == nullptr) return not_found("no such record");
  auto bytes = segments_.at(entry->place.segment)
                   .file->read_at(entry->place.offset, record_bytes(entry->length));
  if (!bytes) return bytes.error();
  const auto read = decode_record(super_.id, entry->place, *bytes);
  if (!read || !read->whole || read->header.sequence != sequence) {
    return Error{Code::kCorrupt, "record " + std::to_string(sequence) + " fails its checksum"};
  }
  bytes->resize(kRecordHeaderBytes + read->header.length);
  bytes->erase(0, kRecordHeaderBytes);
  return bytes;
}

Status FileLog::commit() {
  if (auto s = repair_tail(); !s) return s;
  while (!unfinished_.empty()) {
    if (auto s = mark(unfinished_.back(), State::kDone, 0); !s) return s;
    unfinished_.pop_back();
  }
  if (dirty_) crash_point("commit");
  if (auto s = dirty_ ? write_superblock() : flush_marks(); !s) return s;
  // What could not be written is tried again with the next commit: nobody is told of it.
  std::erase_if(later_, [&](Sequence sequence) { return mark(sequence, State::kDone, 0).ok(); });
  return {};
}

// ---- looking

// Counts for each obtainable segment only what no order of record sizes can waste: the rest of a
// segment that is smaller than the largest record may stay unused. One record, or several that fit
// together into one segment, waste nothing.
std::uint64_t FileLog::available_bytes() const {
  const std::uint64_t largest = record_bytes(max_payload());
  std::uint64_t sure = 0, single = 0;
  auto count = [&](std::uint64_t room, std::uint64_t times) {
    if (times == 0) return;
    single = std::max(single, room);
    if (room >= largest) sure += (room - largest + 8) * times;
  };
  const auto space = directory_.space();
  const std::uint64_t may_grow = max_segments_ > segments_.size() + pool_.size()
                                     ? max_segments_ - segments_.size() - pool_.size()
                                     : 0;
  const std::uint64_t can_grow =
      std::min(may_grow, space ? space->free_bytes / super_.segment_bytes : 0);
  const std::uint64_t free_segments = pool_.size() + can_grow;
  count(capacity(), free_segments > kReserveSegments ? free_segments - kReserveSegments : 0);
  for (const auto& [number, segment] : segments_) {
    if (number == active_) {
      count(super_.segment_bytes - segment.used, 1);
    } else if (!segment.pinned && free_segments > 0 &&
               capacity() - segment.live_bytes >= min_gain()) {
      count(capacity() - segment.live_bytes, 1);
    }
  }
  const std::uint64_t bytes = std::max(sure, std::min(single, largest));
  return bytes > kRecordOverheadBytes ? bytes - kRecordOverheadBytes : 0;
}

Stats FileLog::stats() const {
  Stats out = stats_;
  out.segments = segments_.size() + pool_.size();
  out.max_segments = max_segments_;
  for (const auto& [number, segment] : segments_) {
    out.live_bytes += segment.live_bytes;
    out.live_records += segment.live_records;
  }
  return out;
}

}  // namespace

Result<std::unique_ptr<Log>> Log::open(os::Directory& directory, const Options& options,
                                       const LogId& new_id,
                                       const std::function<void(const Record&)>& visit,
                                       Recovery* recovery) {
  if (options.segment_bytes < kMinSegmentBytes || options.segment_bytes > kSegmentBytes ||
      options.segment_bytes % 8 != 0) {
    return invalid("segment_bytes must be a multiple of 8 between 4096 and 1048576");
  }
  auto log = std::make_unique<FileLog>(directory, options);
  Recovery ignored;
  if (auto opened = log->open(new_id, visit, recovery != nullptr ? *recovery : ignored); !opened)
    return opened.error();
  return std::unique_ptr<Log>(std::move(log));
}

Status prove(Log& log) {
  auto probe = log.append(255, "startup");
  if (!probe && probe.error().code == Code::kFull) return log.commit();
  if (!probe || !log.commit() || !log.read(*probe) || !log.mark(*probe, State::kDone, 0))
    return internal_error("the mailbox log can't be written");
  return {};
}

}  // namespace swarm::log
