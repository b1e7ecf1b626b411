// The agents' socket: whatever an agent writes to it, through the parser and the handlers that
// ship. Every answer is one that docs/socket-protocol.md knows, and the next agent is served.
#include <netdb.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/write.hpp>
#include <filesystem>
#include <string>

#include "engine/control_json.h"
#include "mutate_json.h"
#include "pod.h"

namespace swarm::engine {
namespace {

using boost::asio::local::stream_protocol;

constexpr std::size_t kPieceBytes = 4096;
constexpr std::string_view kHello = R"({"op":"hello","rid":4242})";

const std::string& path() {
  static const std::string kPath =
      std::filesystem::temp_directory_path() / ("swarm-fuzz-" + std::to_string(::getpid()));
  return kPath;
}

class Agent {
 public:
  explicit Agent(fuzz::Pod& pod) : pod_(pod), socket_(pod.io) {
    socket_.connect(stream_protocol::endpoint(path()));
    socket_.non_blocking(true);
  }

  // False: the other side has closed.
  bool write(std::string_view bytes) {
    while (!bytes.empty() && open_) {
      boost::system::error_code e;
      const auto n = socket_.write_some(
          boost::asio::buffer(bytes.data(), std::min(bytes.size(), kPieceBytes)), e);
      if (e && e != boost::asio::error::would_block) open_ = false;
      bytes.remove_prefix(n);
      read();
    }
    return open_;
  }
  // Takes the answers that are there.
  void read() {
    pod_.settle();
    char buffer[65536];
    for (;;) {
      boost::system::error_code e;
      const auto n = socket_.read_some(boost::asio::buffer(buffer), e);
      answers_.append(buffer, n);
      if (e && e != boost::asio::error::would_block) open_ = false;
      if (e) return;
      pod_.settle();
    }
  }
  // How many there were, all of them well-formed; `greeted`: one of them answers kHello.
  std::size_t count(bool& greeted) const {
    std::size_t lines = 0, begin = 0;
    for (auto end = answers_.find('\n'); end != std::string::npos;
         end = answers_.find('\n', begin)) {
      const json answer = json::parse(answers_.begin() + static_cast<std::ptrdiff_t>(begin),
                                      answers_.begin() + static_cast<std::ptrdiff_t>(end), nullptr,
                                      /*allow_exceptions=*/false);
      begin = end + 1;
      if (answer.is_object() && answer.contains("rid") && flag_of(answer, "more")) continue;
      check(answer.is_object() && answer.contains("rid") && answer.contains("ok"), "an answer");
      if (!flag_of(answer, "ok")) {
        check(!text_of(answer, "message").empty(), "a refusal says why");
        const auto code = text_of(answer, "code");
        check(code == "partial" || code_name(code_from_name(code)) == code,
              "a refusal has a code that is known");
      }
      greeted = greeted || answer["rid"] == 4242;
      ++lines;
    }
    return lines;
  }
  [[nodiscard]] bool open() const { return open_; }

 private:
  fuzz::Pod& pod_;
  stream_protocol::socket socket_;
  std::string answers_;
  bool open_ = true;
};

// Two attempts of a task are at work in the pod, so that what agents say of them is kept.
void lease(fuzz::Pod& pod, Worker& worker) {
  for (const std::uint32_t attempt : {1U, 2U}) {
    std::string payload;
    link::put_u32(payload, attempt);
    link::put_text(payload, "t-0-a");
    const auto sequence = pod.log->append(tasks::kLeased, payload);
    check(sequence.ok(), "a lease is kept");
    worker.restore({*sequence, tasks::kLeased, log::State::kLive, 0, payload});
  }
  worker.attach(*pod.log);
}

// What the next life of this pod finds of what agents have reported.
void look_at_reports(fuzz::Pod& pod) {
  check(pod.log->commit().ok(), "commit");
  (void)pod.open([](const log::Record& record) {
    std::uint64_t request = 0;
    check(record.kind != tasks::kResult || decode_report(record.payload, &request).ok(),
          "a report that is kept can be read again");
  });
}

void talk(std::string_view input) {
  fuzz::Pod pod;
  Worker worker(pod.loop, pod.config, Session::Options{}, pod.mail);
  lease(pod, worker);
  Post post(pod.loop, pod.mail, pod.config);
  AgentSocket socket(pod.loop, pod.config, pod.mail, post, &worker);
  post.peers = [&](std::uint32_t team, Worker::OnPeers done) {
    worker.peers(team, std::move(done));
  };
  check(socket.start(path()).ok(), "the socket");
  {
    Agent agent(pod);
    agent.write(input);
    agent.write("\n" + std::string(kHello) + "\n");
    agent.read();
    bool greeted = false;
    const auto lines = static_cast<std::size_t>(std::count(input.begin(), input.end(), '\n')) + 2;
    check(agent.count(greeted) <= lines, "a line has at most one answer");
    check(greeted || !agent.open(), "an agent is answered, or its connection is closed");
  }
  pod.settle();
  Agent next(pod);
  next.write(std::string(kHello) + "\n");
  next.read();
  bool greeted = false;
  check(next.count(greeted) == 1 && greeted, "the next agent is served");
  look_at_reports(pod);
}

}  // namespace
}  // namespace swarm::engine

// The worker looks for its coordinator by name; there is none, and nobody else is to be asked.
extern "C" int getaddrinfo(const char*, const char*, const addrinfo*, addrinfo**) {
  return EAI_NONAME;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t most, unsigned seed) {
  return swarm::fuzz::mutate_lines(data, size, most, seed, 0);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  swarm::engine::talk({reinterpret_cast<const char*>(data), size});
  return 0;
}
