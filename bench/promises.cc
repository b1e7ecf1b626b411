// bench_promises: what each promise costs. The life of a message between two mailboxes, without
// sockets and processes: sent, framed, stored, answered, taken, acknowledged, recorded; the logs on
// a tmpfs. One promise at a time is left out by a seam under the product's code, which is the same
// in all rows. The rows take turns; CPU time of this process, user and kernel. Instructions are
// counted by valgrind (user space alone), which runs a row of its own of this program for each.
//
// And what a journal costs: the same life with logs that are flushed to a disk, those of $TMPDIR or
// of the current directory, whichever is no tmpfs. Wall-clock time, since the disk is waited for.
//
// bench_promises [journal | ROW MESSAGES]: journal: only that part. With a row, from 0, only that
// one runs, and nothing is printed.
// Exit code 0: every message of every row came once, as it was sent.
#include <linux/magic.h>
#include <sys/vfs.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "child.h"
#include "link/frame.h"
#include "log/format.h"
#include "log/log.h"
#include "mailbox/mailbox.h"
#include "os/file.h"
#include "result.h"
#include "wire.h"

namespace {
bool checksums = true;
}

// The linker gives every call of swarm::crc32c to __wrap (CMakeLists.txt).
extern "C" std::uint32_t __real__ZN5swarm6crc32cESt17basic_string_viewIcSt11char_traitsIcEEj(
    std::string_view data, std::uint32_t crc);
extern "C" std::uint32_t __wrap__ZN5swarm6crc32cESt17basic_string_viewIcSt11char_traitsIcEEj(
    std::string_view data, std::uint32_t crc);
std::uint32_t __wrap__ZN5swarm6crc32cESt17basic_string_viewIcSt11char_traitsIcEEj(
    std::string_view data, std::uint32_t crc) {
  return checksums ? __real__ZN5swarm6crc32cESt17basic_string_viewIcSt11char_traitsIcEEj(data, crc)
                   : 0;
}

namespace swarm::bench {
namespace {

constexpr std::uint32_t kRuns = 9, kMessages = 4000;  // a run of a row; kRuns count
constexpr std::uint32_t kCounted = 2000;              // under valgrind, after as many others
constexpr std::uint32_t kJournalRuns = 5, kJournalMessages = 200;
constexpr std::uint64_t kLogBytes = 32U << 20U;
constexpr std::size_t kBodyBytes = 256;

struct Row {
  const char* name;
  std::uint32_t batch = 1;  // messages that share commits and frames
  bool checksums = true, superblock = true, marks = true, memory = false, own_ids = false;
  bool durable = false;
};

struct Counts {
  std::uint64_t writes = 0, reads = 0, bytes = 0, syncs = 0;
};

// The files of a directory, but for what a row leaves out.
class SomeFile final : public os::File {
 public:
  SomeFile(std::unique_ptr<os::File> file, bool superblock, const Row& row, Counts& counts)
      : file_(std::move(file)), superblock_(superblock), row_(row), counts_(counts) {}
  Status write_at(std::uint64_t offset, std::string_view data) override {
    if (superblock_ && !row_.superblock) return {};
    if (data.size() == log::kMarkBytes && !row_.marks) return {};
    ++counts_.writes;
    counts_.bytes += data.size();
    return file_->write_at(offset, data);
  }
  Result<std::string> read_at(std::uint64_t offset, std::size_t length) override {
    ++counts_.reads;
    return file_->read_at(offset, length);
  }
  Status allocate(std::uint64_t size) override { return file_->allocate(size); }
  Result<std::uint64_t> size() override { return file_->size(); }
  Status sync() override {
    ++counts_.syncs;
    return file_->sync();
  }

 private:
  std::unique_ptr<os::File> file_;
  const bool superblock_;
  const Row& row_;
  Counts& counts_;
};

class SomeDirectory final : public os::Directory {
 public:
  SomeDirectory(const std::string& path, const Row& row, Counts& counts)
      : row_(row), counts_(counts) {
    std::filesystem::create_directories(path);
    auto opened = os::open_directory(path);
    if (!opened) fail(opened.error().message);
    directory_ = *std::move(opened);
  }
  Result<std::unique_ptr<os::File>> open(const std::string& name, bool create) override {
    auto file = directory_->open(name, create);
    if (!file) return file.error();
    return std::unique_ptr<os::File>(
        std::make_unique<SomeFile>(*std::move(file), name == "superblock", row_, counts_));
  }
  Status remove(const std::string& name) override { return directory_->remove(name); }
  Status rename(const std::string& from, const std::string& to) override {
    return directory_->rename(from, to);
  }
  Result<std::vector<std::string>> list() override { return directory_->list(); }
  Result<os::Space> space() override { return directory_->space(); }
  Status sync() override {
    ++counts_.syncs;
    return directory_->sync();
  }

 private:
  std::unique_ptr<os::Directory> directory_;
  const Row& row_;
  Counts& counts_;
};

// A log that survives nothing: what the files cost.
class MemoryLog final : public log::Log {
 public:
  explicit MemoryLog(const LogId& id) : id_(id) {}
  [[nodiscard]] const LogId& id() const override { return id_; }
  Result<log::Sequence> append(std::uint8_t, std::string_view payload) override {
    records_.emplace(++last_, payload);
    return last_;
  }
  Status mark(log::Sequence sequence, log::State state, std::uint16_t) override {
    if (state == log::State::kDone) records_.erase(sequence);
    return {};
  }
  void finish(log::Sequence sequence) override { records_.erase(sequence); }
  void finish_later(log::Sequence sequence) override { records_.erase(sequence); }
  Result<std::string> read(log::Sequence sequence) override {
    const auto found = records_.find(sequence);
    if (found == records_.end()) return not_found("no such record");
    return found->second;
  }
  Status commit() override { return {}; }
  [[nodiscard]] std::uint64_t available_bytes() const override { return kLogBytes; }
  [[nodiscard]] log::Stats stats() const override { return {}; }

 private:
  const LogId id_;
  log::Sequence last_ = 0;
  std::map<log::Sequence, std::string> records_;
};

LogId log_id(std::uint8_t number) {
  LogId out;
  out.bytes.fill(number);
  return out;
}

struct Pod {
  Pod(const std::string& path, const char* agent, std::uint8_t number, const Row& row,
      Counts& counts)
      : name{agent}, box(name, {}), directory(path, row, counts) {
    if (row.memory) {
      log = std::make_unique<MemoryLog>(log_id(number));
    } else {
      auto opened = log::Log::open(
          directory, {.max_bytes = kLogBytes, .durable = row.durable}, log_id(number),
          [this](const log::Record& r) { box.restore(r); }, nullptr);
      if (!opened) fail(opened.error().message);
      log = *std::move(opened);
    }
    box.attach(*log, MonoTime{});
    reader.limit(link::kMaxPayloadBytes);
  }
  void commit() const {
    if (!log->commit()) fail("commit");
  }

  const AgentName name;
  mailbox::Mailbox box;
  SomeDirectory directory;
  std::unique_ptr<log::Log> log;
  link::FrameReader reader;  // of what the other pod sent
};

class Life {
 public:
  Life(const std::string& path, const Row& row)
      : row_(row),
        a_(path + "/a", "worker-1", 1, row_, counts_),
        b_(path + "/b", "worker-2", 2, row_, counts_) {
    for (auto [x, y] : {std::pair(&a_, &b_), std::pair(&b_, &a_)}) {
      x->box.on_link_up(now_, y->name, y->log->id());
      x->box.on_incarnation(y->name, y->log->id());
    }
  }

  // CPU nanoseconds per message.
  double run(std::uint32_t messages = kMessages) {
    checksums = row_.checksums;
    counts_ = {};
    const double before = cpu_nanoseconds();
    for (std::uint32_t done = 0; done < messages; done += row_.batch) batch();
    const double used = cpu_nanoseconds() - before;
    checksums = true;
    return used / messages;
  }
  // Microseconds per message.
  double run_by_the_clock(std::uint32_t messages) {
    const auto begun = Clock::now();
    (void)run(messages);
    return microseconds(Clock::now() - begun) / messages;
  }
  [[nodiscard]] const Row& row() const { return row_; }
  [[nodiscard]] const Counts& counts() const { return counts_; }  // of the last run

 private:
  static double cpu_nanoseconds() {
    timespec time{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
  }

  // Calls `each` for every frame in `bytes`.
  template <typename Each>
  static void frames(Pod& pod, const std::string& bytes, std::uint32_t expected, Each each) {
    pod.reader.add(bytes);
    while (true) {
      auto frame = pod.reader.next();
      if (!frame) fail(frame.error().message);
      if (!*frame) break;
      link::PayloadReader in((*frame)->payload);
      each(in);
      if (!in.ok() || expected-- == 0) fail("frames");
    }
    if (expected != 0) fail("lost: a frame");
  }

  void batch() {
    using link::FrameType;
    now_ += Milliseconds{1};
    for (std::uint32_t i = 0; i < row_.batch; ++i) {
      mailbox::Message m;
      m.from = a_.name;
      m.to = b_.name;
      m.id.value = (row_.own_ids ? "job-" : "m-") + text("%016llx", ++sent_);
      m.body = std::to_string(sent_) + " ";
      m.body.resize(kBodyBytes, 'x');
      if (auto s = a_.box.send(now_, std::move(m)); !s) fail(s.error().message);
    }
    a_.commit();
    std::string there, back;
    for (const auto& o : a_.box.transmit(b_.name, 1U << 20U)) {
      std::string payload;
      link::put_u64(payload, o.sequence);
      link::put_u64(payload, o.prev);
      link::append_frame(there, FrameType::kMessage, payload + mailbox::encode(o));
    }
    frames(b_, there, row_.batch, [&](link::PayloadReader& in) {
      const auto sequence = in.u64(), prev = in.u64();
      const auto o = mailbox::decode_outbound(sequence, prev, in.rest());
      if (!o || b_.box.deliver(now_, a_.log->id(), sequence, prev, o->message) !=
                    mailbox::Answer::kStored) {
        fail("a message was not stored");
      }
      std::string payload;
      link::put_u64(payload, sequence);
      link::put_u8(payload, 0);
      link::put_text(payload, "");
      link::append_frame(back, FrameType::kAnswer, payload);
    });
    b_.commit();
    frames(a_, back, row_.batch, [&](link::PayloadReader& in) {
      const auto sequence = in.u64();
      (void)in.rest();
      a_.box.on_answer(now_, b_.name, b_.log->id(), sequence, mailbox::Answer::kStored, "");
    });
    if (a_.box.take_outcomes().size() != row_.batch) fail("lost: an outcome");
    a_.commit();
    there.clear();
    back.clear();
    std::map<std::uint64_t, std::uint64_t> inbox;
    for (std::uint32_t i = 0; i < row_.batch; ++i) {
      const auto got = b_.box.receive(now_, b_.name, Milliseconds{60'000}, std::nullopt);
      std::string expected = std::to_string(++taken_) + " ";
      expected.resize(kBodyBytes, 'x');
      if (!got || got->message.body != expected || got->attempt != 1)
        fail("lost, repeated, altered or out of order: message " + std::to_string(taken_));
      b_.commit();
      const auto acked = b_.box.ack(now_, b_.name, got->message.id, got->attempt);
      if (!acked || !acked->debt) fail("an ack");
      inbox[acked->debt->sender_sequence] = acked->debt->inbox;
      std::string payload;
      link::put_u64(payload, acked->debt->sender_sequence);
      link::append_frame(back, FrameType::kAcked, payload);
    }
    b_.commit();
    frames(a_, back, row_.batch, [&](link::PayloadReader& in) {
      const auto sequence = in.u64();
      if (!a_.box.on_acked(b_.name, sequence)) fail("an ack was not recorded");
      std::string payload;
      link::put_u64(payload, sequence);
      link::append_frame(there, FrameType::kAckRecorded, payload);
    });
    a_.commit();
    frames(b_, there, row_.batch,
           [&](link::PayloadReader& in) { b_.box.on_ack_recorded(inbox.at(in.u64())); });
    b_.commit();
  }

  const Row row_;
  Counts counts_;
  MonoTime now_{Milliseconds{1000}};
  Pod a_, b_;
  unsigned long long sent_ = 0, taken_ = 0;
};

std::vector<Row> all_rows() {
  std::vector<Row> rows;
  for (const std::uint32_t batch : {1U, 50U}) {
    rows.push_back({.name = "everything", .batch = batch});
    rows.push_back({.name = "no checksums (log and frames)", .batch = batch, .checksums = false});
    rows.push_back({.name = "no superblock at a commit", .batch = batch, .superblock = false});
    rows.push_back({.name = "marks not written (hand-out, ack)", .batch = batch, .marks = false});
    rows.push_back({.name = "no files: log in memory", .batch = batch, .memory = true});
    rows.push_back({.name = "with ids of the user's (--id)", .batch = batch, .own_ids = true});
  }
  return rows;
}

// Of this program with these arguments.
double instructions(std::size_t row, std::uint32_t messages) {
  const std::string program = std::filesystem::read_symlink("/proc/self/exe");
  const std::string command =
      text("valgrind --tool=callgrind --callgrind-out-file=/dev/null '%s' %zu %u 2>&1",
           program.c_str(), row, messages);
  FILE* out = ::popen(command.c_str(), "r");
  if (out == nullptr) fail("popen");
  std::string said;
  std::array<char, 4096> part{};
  while (std::fgets(part.data(), part.size(), out) != nullptr) said += part.data();
  const auto at = said.find("Collected : ");
  if (::pclose(out) != 0 || at == std::string::npos) fail(command + ": " + said);
  return std::strtod(said.c_str() + at + 12, nullptr);
}
double instructions_per_message(std::size_t row) {
  return (instructions(row, 2 * kCounted) - instructions(row, kCounted)) / kCounted;
}

void run(const std::string& directory) {
  const auto rows = all_rows();
  std::vector<std::unique_ptr<Life>> lives;
  for (const Row& row : rows)
    lives.push_back(std::make_unique<Life>(directory + "/" + std::to_string(lives.size()), row));
  std::vector<std::vector<double>> samples(lives.size());
  for (std::uint32_t turn = 0; turn <= kRuns; ++turn) {
    for (std::size_t i = 0; i < lives.size(); ++i) {
      const double ns = lives[i]->run();
      if (turn > 0) samples[i].push_back(ns);
    }
  }
  std::printf("  %-36s %6s %10s %10s %13s %10s %8s %8s %10s\n", "per message, both pods", "batch",
              "ns of CPU", "change", "instructions", "change", "writes", "reads", "log bytes");
  double all = 0, all_instructions = 0;
  for (std::size_t i = 0; i < lives.size(); ++i) {
    const Row& row = lives[i]->row();
    const Counts& c = lives[i]->counts();
    const double ns = median(samples[i]);
    const bool first = row.batch != (i == 0 ? 0 : lives[i - 1]->row().batch);
    const double counted = instructions_per_message(i);
    if (first) {
      all = ns;
      all_instructions = counted;
    }
    const auto per = [](std::uint64_t n) { return static_cast<double>(n) / kMessages; };
    std::printf("  %-36s %6u %10.0f %+10.0f %13.0f %+10.0f %8.2f %8.2f %10.0f\n", row.name,
                row.batch, ns, ns - all, counted, counted - all_instructions, per(c.writes),
                per(c.reads), per(c.bytes));
    std::fflush(stdout);
    if (first) continue;
    print({.bench = "promises",
           .what = text("batch of %u, %s", row.batch, row.name),
           .n = kMessages,
           .ours = all,
           .peer = row.name,
           .theirs = ns,
           .unit = "ns of CPU per message"},
          {{"runs", kRuns},
           {"instructionsPerMessage", counted},
           {"instructionsPerMessageWithEverything", all_instructions},
           {"writesPerMessage", per(c.writes)},
           {"readsPerMessage", per(c.reads)},
           {"logBytesPerMessage", per(c.bytes)}});
  }
}

// A directory of its own on a disk; empty: there is none here.
class OnDisk {
 public:
  OnDisk() {
    const char* temporary = std::getenv("TMPDIR");
    for (const std::string place : {temporary == nullptr ? "" : temporary, "."}) {
      struct statfs system {};
      if (place.empty() || ::statfs(place.c_str(), &system) != 0 || system.f_type == TMPFS_MAGIC ||
          system.f_type == RAMFS_MAGIC)
        continue;
      path_ = std::filesystem::absolute(place).string() + "/bench-journal-XXXXXX";
      if (::mkdtemp(path_.data()) == nullptr) fail(path_ + ": " + std::strerror(errno));
      return;
    }
  }
  ~OnDisk() {
    if (!path_.empty()) std::filesystem::remove_all(path_);
  }
  OnDisk(const OnDisk&) = delete;
  OnDisk& operator=(const OnDisk&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void run_journal(const std::string& tmpfs, const std::string& disk) {
  if (disk.empty()) {
    std::printf("  a journal: not measured, neither $TMPDIR nor this directory is on a disk\n");
    return;
  }
  std::printf("  %-36s %6s %10s %10s %8s %10s\n", "per message, both pods", "batch", "us",
              "us most", "syncs", "log bytes");
  for (const std::uint32_t batch : {1U, 50U}) {
    const std::array<std::pair<Row, std::string>, 3> rows{
        {{{.name = "log on tmpfs", .batch = batch}, tmpfs},
         {{.name = "journal on tmpfs", .batch = batch, .durable = true}, tmpfs},
         {{.name = "journal on a disk", .batch = batch, .durable = true}, disk}}};
    std::vector<std::unique_ptr<Life>> lives;
    for (const auto& [row, place] : rows) {
      lives.push_back(std::make_unique<Life>(
          text("%s/journal-%u-%zu", place.c_str(), batch, lives.size()), row));
    }
    std::array<std::vector<double>, 3> samples;
    for (std::uint32_t turn = 0; turn <= kJournalRuns; ++turn) {
      for (std::size_t i = 0; i < lives.size(); ++i) {
        const double us = lives[i]->run_by_the_clock(kJournalMessages);
        if (turn > 0) samples[i].push_back(us);
      }
    }
    const auto per = [](std::uint64_t n) { return static_cast<double>(n) / kJournalMessages; };
    for (std::size_t i = 0; i < lives.size(); ++i) {
      const Counts& c = lives[i]->counts();
      std::printf("  %-36s %6u %10.1f %10.1f %8.2f %10.0f\n", rows[i].first.name, batch,
                  median(samples[i]), quantile(samples[i], 1), per(c.syncs), per(c.bytes));
    }
    print({.bench = "promises",
           .what = text("batch of %u, a journal on a disk", batch),
           .n = kJournalMessages,
           .ours = median(samples[2]),
           .peer = "log on tmpfs",
           .theirs = median(samples[0]),
           .unit = "us per message"},
          {{"runs", kJournalRuns},
           {"journalOnTmpfs", rounded(median(samples[1]))},
           {"most", rounded(quantile(samples[2], 1))},
           {"syncsPerMessage", per(lives[2]->counts().syncs)},
           {"logBytesPerMessage", per(lives[2]->counts().bytes)}});
  }
}

}  // namespace
}  // namespace swarm::bench

int main(int argc, char** argv) {
  using namespace swarm::bench;
  if (argc != 3) {
    const OnDisk disk;
    const bool all = argc != 2 || std::string_view(argv[1]) != "journal";
    return in_directory("bench-promises", [&](const std::string& directory) {
      run_journal(directory, disk.path());
      if (all) run(directory);
    });
  }
  return in_directory("bench-promises-counted", [&](const std::string& directory) {
    const auto rows = all_rows();
    const auto row = std::strtoul(argv[1], nullptr, 10);
    const auto messages = std::strtoul(argv[2], nullptr, 10);
    if (row >= rows.size() || messages == 0) fail("usage: bench_promises [journal | ROW MESSAGES]");
    (void)Life(directory, rows[row]).run(static_cast<std::uint32_t>(messages));
  });
}
