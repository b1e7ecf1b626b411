// seeds FOLDER: writes what fuzzing begins with into FOLDER/TARGET/seed-…: real frames, records,
// lines and logs, made by what ships, in the form that each target reads (its first lines,
// input.h).
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "engine/control_json.h"
#include "engine/worker.h"
#include "link/handshake.h"
#include "log/format.h"
#include "mailbox/mailbox.h"
#include "sim/fake_directory.h"
#include "tasks/tasks.h"

namespace swarm {
namespace {

using engine::json;

// As Input::number and Input::text read them.
std::string bytes(std::initializer_list<int> values) {
  std::string out;
  for (const int v : values) out += static_cast<char>(v);
  return out;
}
std::string text(std::string_view value, std::size_t most) {
  const auto size = static_cast<int>(value.size());
  return (most < 256 ? bytes({size}) : bytes({size >> 8, size & 255})) + std::string(value);
}

class Folder {
 public:
  Folder(const std::filesystem::path& root, const std::string& target) : path_(root / target) {
    std::filesystem::create_directories(path_);
  }
  void add(const std::string& content) {
    std::ofstream(path_ / ("seed-" + std::to_string(++count_)), std::ios::binary) << content;
  }

 private:
  std::filesystem::path path_;
  int count_ = 0;
};

mailbox::Message message(const std::string& body) {
  mailbox::Message m;
  m.id.value = "m-0123456789abcdef";
  m.from.value = "worker-1";
  m.to.value = "worker-0";
  m.sent_at = 1'700'000'000'000;
  m.in_reply_to.value = "a";
  m.wants_reply = true;
  m.body = body;
  return m;
}

tasks::Task task(tasks::TaskState state) {
  tasks::Task t;
  t.id.value = "t-0-a";
  t.version = 3;
  t.state = state;
  t.key = "key";
  t.idempotency_id = "i1";
  t.body = "do it";
  t.labels = {{"team", "a"}};
  t.created_at = t.updated_at = 1000;
  const bool running = state == tasks::TaskState::kRunning;
  tasks::Attempt a;
  a.number = 1;
  a.agent.value = "worker-1";
  a.pod = "pod";
  a.node = "n1";
  a.session = 1;
  a.started_at = 1000;
  if (!running) {
    a.ended_at = 2000;
    a.exit_code = 0;
    a.reason = "done";
    a.last_lines = {"one", "two"};
    t.finished_at = 2000;
    t.result = tasks::TaskResult{"result", false, 6, "branch", "commit"};
  }
  t.history = {a};
  return t;
}

tasks::Report report() {
  tasks::Report r;
  r.id.value = "t-0-a";
  r.attempt = 1;
  r.done = true;
  r.exit_code = 0;
  r.message = "it is done";
  r.last_lines = {"one", "two"};
  r.result = {"result", false, 6, "branch", "commit"};
  r.usage = {1, 2, 3, 4, 5};
  r.session = "s-1";
  return r;
}

// ---- targets

void link_seeds(Folder folder) {
  using namespace link;
  std::string frames;
  append_frame(frames, FrameType::kHello, "hello");
  append_frame(frames, FrameType::kPing, "");
  append_frame(frames, FrameType::kMessage, std::string(16, '\0') + encode(message("hi")));
  append_frame(frames, FrameType::kTaskReport, engine::encode_report(1, report()));
  for (const int seal : {0, 1}) folder.add(bytes({0, seal, 6, 1}) + frames);

  const auto identity = [](const char* name, std::uint8_t log) {
    Identity id{"swarm-uid", {name}, std::string(name) + "-pod", "pod-uid", "node", "10.0.0.1", {}};
    id.log_id.bytes.fill(log);
    return id;
  };
  const Identity coordinator = identity("coordinator-0", 1), worker = identity("worker-1", 2);
  Handshake client(Handshake::Side::kClient, worker, "the secret", {}, std::string(32, 'c'));
  Handshake server(Handshake::Side::kServer, coordinator, "the secret", {}, std::string(32, 's'));
  FrameReader reader;
  std::string to_server, to_client;
  std::string said = client.start();
  for (int step = 0; !said.empty(); ++step) {
    reader.add(said);
    const auto frame = reader.next();
    check(frame.ok() && *frame, "a handshake's frame");
    (step % 2 == 0 ? to_server : to_client) +=
        bytes({static_cast<int>((*frame)->type)}) + text((*frame)->payload, kMaxHandshakeBytes);
    said = *(step % 2 == 0 ? server : client).step(**frame, {true, 7});
  }
  folder.add(bytes({1, 0}) + to_server);
  folder.add(bytes({1, 1}) + to_client);
  for (const int which : {0, 1, 2, 3}) folder.add(bytes({2, which, 0, 9, 1}) + "instead");
}

void log_seeds(Folder folder) {
  using namespace log;
  constexpr std::uint32_t kSegment = 4096;
  LogId id;
  id.bytes.fill(1);
  sim::FakeDirectory directory(1U << 20U);
  auto log = Log::open(
      directory, {.max_bytes = kSuperblockBytes + 4 * kSegment, .segment_bytes = kSegment}, id,
      [](const Record&) {}, nullptr);
  check(log.ok(), "a log");
  for (int i = 0; i < 24; ++i) {
    const auto sequence = (*log)->append(1, std::string(40, static_cast<char>('a' + i)));
    check(sequence.ok(), "append");
    if (i % 3 == 0) check((*log)->mark(*sequence, State::kTaken, 1).ok(), "mark");
    if (i % 5 == 0) (*log)->finish(*sequence);
    check((*log)->commit().ok(), "commit");
  }
  std::string out = bytes({1});
  const std::string& superblock = *directory.content("superblock");
  for (const std::uint32_t slot : {0U, 1U})
    out += bytes({1}) + superblock.substr(slot * kSlotDistance, kSlotBytes);
  out += bytes({1});
  const auto names = directory.list();
  const auto segment = std::find_if(names->begin(), names->end(),
                                    [](const auto& name) { return name.starts_with("seg-"); });
  check(segment != names->end(), "a segment");
  out += bytes({1, 1, std::stoi(segment->substr(4), nullptr, 16), 1, 1, 31});
  for (std::size_t piece = 0; piece < 31; ++piece) {
    out += bytes({0}) +
           text(directory.content(*segment)->substr(kSegmentHeaderBytes + piece * 64, 64), 64);
  }
  folder.add(out + bytes({1, 0}));
  folder.add(out + bytes({1, 0, 0, 7, 0, 50, 9, 6, 7, 3, 0, 1, 2, 3, 5, 1, 7}));
}

void mailbox_seeds(Folder folder) {
  folder.add(bytes({0}) + encode(message("hi")));
  folder.add(bytes({0}) + encode(message("")));
  // No record; worker-1's message comes, is taken and acknowledged, which nobody records; a
  // restart.
  const std::string comes = bytes({2, 0, 1, 0, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1});
  folder.add(bytes({1, 0}) + comes + bytes({4, 1, 3, 6, 0, 1, 15, 0}));
  folder.add(bytes({1, 0}) + comes + bytes({4, 1, 3, 7, 0, 0, 4, 1, 3, 7, 0, 0, 11, 0, 0, 15, 0}));
}

void tasks_seeds(Folder folder) {
  for (const auto state : {tasks::TaskState::kRunning, tasks::TaskState::kDone})
    folder.add(bytes({1, 0, 1, 1, 0, 0}) + text(encode(task(state)), 256));
  // A worker joins, a task is submitted, leased and reported on: done, or given back.
  for (const int done : {1, 0}) {
    folder.add(bytes({0, 2, 0}) + bytes({1, 0, 0, 0}) + bytes({1, 11, 2, 2, 'h', 'i', 0, 0, 1, 5}) +
               bytes({1, 2, 1, 2}) + bytes({1, 6, 1, 0, 1, 1, done, 6, 0, 2, 2, 'o', 'k', 0, 2, 1,
                                            1, 1, 1, 1, 2, 1, 'r',  0, 7, 1, 0, 0,   1,   1, 1}));
  }
}

void json_seeds(Folder folder) {
  folder.add(
      bytes({0}) +
      json{{"body", "x"}, {"key", "k"}, {"id", "i"}, {"labels", {{"a", "b"}}}, {"maxAttempts", 3}}
          .dump());
  folder.add(bytes({0}) + R"({"body64":"eA=="})");
  folder.add(bytes({1}) + "1:t-1-abc");
  folder.add(bytes({1}) + "t-0-abc");
  const auto payload = engine::encode_report(7, report());
  const auto parsed = engine::parse_control(payload);
  check(parsed.ok(), "a report's head");
  folder.add(bytes({2}) + parsed->head.dump() + "\n" + std::string(parsed->bytes));
  folder.add(bytes({3}) + engine::control(json{{"request", 1}, {"waitMs", 10}}, "bytes"));
  folder.add(bytes({4}) + R"({"tasks":[{"id":"t-0-a"}],"next":"t-0-a","recovering":true})"
                          "\n"
                          R"({"tasks":[]})"
                          "\n");
  folder.add(bytes({5}) +
             R"({"agents":[{"name":"worker-1"}],"tasks":{"queued":2,"oldestQueuedSeconds":9},)"
             R"("messages":{"stored":1},"rollout":{"v1":1,"v2":3},"ready":true,"workers":{"a":1}})"
             "\n");
}

void agents_seeds(Folder folder) {
  const auto lines = [](std::initializer_list<json> requests) {
    std::string out;
    int rid = 0;
    for (json request : requests) {
      request["rid"] = ++rid;
      out += request.dump() + "\n";
    }
    return out;
  };
  folder.add(lines({{{"op", "hello"}}, {{"op", "stats"}}, {{"op", "peers"}}, {{"op", "ls"}}}));
  const json to_self{{"op", "send"}, {"to", "worker-0"}, {"id", "a"}, {"body", "x"}};
  folder.add(lines({to_self,
                    {{"op", "recv"}, {"leaseMs", 1000}},
                    {{"op", "extend"}, {"messageId", "a"}, {"attempt", 1}},
                    {{"op", "cat"}, {"messageId", "a"}},
                    {{"op", "ack"}, {"messageId", "a"}, {"attempt", 1}}}));
  folder.add(lines({to_self,
                    {{"op", "recv"}},
                    {{"op", "nack"}, {"messageId", "a"}, {"attempt", 1}, {"delayMs", 0}},
                    {{"op", "dead_ls"}},
                    {{"op", "dead_redrive"}, {"all", true}},
                    {{"op", "dead_purge"}, {"messageId", "a"}}}));
  folder.add(lines(
      {{{"op", "request"}, {"to", "worker-0"}, {"body64", "eA=="}, {"timeoutMs", 0}},
       {{"op", "send"}, {"to", "worker-0"}, {"inReplyTo", "a"}, {"priority", "high"}, {"body", ""}},
       {{"op", "recv"}, {"inReplyTo", "a"}, {"waitMs", 0}},
       {{"op", "send"}, {"to", "worker-1"}, {"body", "x"}, {"timeoutMs", 1}}}));
  folder.add(lines({to_self,
                    {{"op", "recv"}},
                    {{"op", "send"},
                     {"to", "worker-0"},
                     {"id", "r"},
                     {"inReplyTo", "a"},
                     {"ackAttempt", 1},
                     {"body", ""}}}));
  folder.add(
      lines({{{"op", "task_next"}, {"waitMs", 0}},
             {{"op", "task_extend"}, {"taskId", "t-0-a"}, {"attempt", 1}, {"confirm", true}},
             {{"op", "task_progress"}, {"taskId", "t-0-a"}, {"attempt", 1}, {"message", "m"}},
             {{"op", "task_done"},
              {"taskId", "t-0-a"},
              {"attempt", 1},
              {"result", "r"},
              {"exitCode", 0},
              {"branch", "b"},
              {"lastLines", {"one"}}},
             {{"op", "task_fail"},
              {"taskId", "t-0-a"},
              {"attempt", 2},
              {"kind", "try_later"},
              {"message", "m"}}}));
}

void peers_seeds(Folder folder) {
  folder.add(bytes({2, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 6, 0, 1, 7, 0, 1, 0}));
  std::string payload;
  link::put_u64(payload, 1);
  link::put_u64(payload, 0);
  payload += encode(message("hi"));
  folder.add(bytes({1, static_cast<int>(link::FrameType::kMessage)}) + text(payload, 512));
  folder.add(bytes({1, static_cast<int>(link::FrameType::kAcked)}) +
             text(std::string("\1\0\0\0\0\0\0\0", 8), 512));
  auto part = message("part");
  part.in_reply_to.value.clear();
  part.wants_reply = false;
  part.stream = {{"s"}, 1, mailbox::StreamPart::Mark::kEnd};
  folder.add(bytes({1, static_cast<int>(link::FrameType::kMessage)}) +
             text(std::string(16, '\1') + encode(part), 512));
}

void drop_seeds(Folder folder) {
  // A look, worker-0/, a file in it; then what is no file, and another life.
  const std::string file = bytes({0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 3, 8, 0, 5});
  folder.add(file);
  for (int kind = 0; kind < 5; ++kind) folder.add(file + bytes({1, 1, 0, 4, kind, 0, 1, 0, 0}));
  folder.add(file + bytes({0, 3, 1, 0, 3, 5, 1, 0, 4, 1, 0, 3, 6, 0}));
}

}  // namespace
}  // namespace swarm

int main(int count, char** arguments) {
  if (count != 2) return 2;
  using Make = void (*)(swarm::Folder);
  const std::map<std::string, Make> targets{
      {"link", swarm::link_seeds},   {"log", swarm::log_seeds},   {"mailbox", swarm::mailbox_seeds},
      {"tasks", swarm::tasks_seeds}, {"json", swarm::json_seeds}, {"agents", swarm::agents_seeds},
      {"peers", swarm::peers_seeds}, {"drop", swarm::drop_seeds}};
  for (const auto& [target, make] : targets) make(swarm::Folder(arguments[1], target));
}
