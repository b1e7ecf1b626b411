// What agents may do to drop/ on the shared volume, which all of them may write to: any names,
// kinds and swaps, between and during the looks of the sidecar.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "base/check.h"
#include "engine/control_json.h"
#include "engine/drop.h"
#include "input.h"
#include "pod.h"

namespace swarm::engine {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostActions = 64;
constexpr const char* kSecret = "not to be sent";
// Of files with the name of one's options. Nothing that is waited for is in them.
constexpr std::string_view kOptions[] = {R"({"id":"a","priority":"high"})",
                                         R"({"id":"b","inReplyTo":"a"})",
                                         R"({"stream":"s","part":1,"end":true})",
                                         R"({"stream":"s","part":0})",
                                         R"({"to":"worker-0"})",
                                         "{",
                                         "[]"};

// One volume for all inputs, emptied for each.
const std::string& volume() {
  static const std::string path = [] {
    std::string pattern = "/dev/shm/swarm-fuzz-drop-XXXXXX";
    check(::mkdtemp(pattern.data()) != nullptr, "mkdtemp");
    return pattern;
  }();
  return path;
}

// Some names are near each other, so that they meet.
std::string name_of(fuzz::Input& in) {
  static const char* const kNames[] = {"worker-0",
                                       "worker-1",
                                       "workers",
                                       "a",
                                       "b",
                                       ".draft",
                                       "..",
                                       ".sending-a",
                                       "a.accepted",
                                       ".a.refused",
                                       "worker-0,worker-1",
                                       "a.refused",
                                       ".a.options",
                                       ".b.options",
                                       ".outcome-a.accepted"};
  const auto which = in.below(std::size(kNames) + 2);
  std::string name = which < std::size(kNames) ? kNames[which] : std::string(in.text(260));
  std::erase(name, '/');
  std::erase(name, '\0');
  return name.empty() ? "x" : name;
}

std::string path_of(fuzz::Input& in) {
  std::string path = volume() + "/drop";
  for (auto depth = in.below(3) + 1; depth > 0; --depth) {
    const auto name = name_of(in);
    if (name != "..") path += "/" + name;  // agents may leave it as they like; this one stays
  }
  return path;
}

// Fails or not, as the file system says.
void act(fuzz::Input& in) {
  const auto path = path_of(in);
  std::error_code ignored;
  switch (in.below(9)) {
    case 0:
      fs::create_directory(path, ignored);
      break;
    case 1:
      fs::create_symlink(volume() + "/secret", path, ignored);
      break;
    case 2:
      fs::create_symlink(in.below(2) == 0 ? ".." : "worker-0", path, ignored);
      break;
    case 3:
      (void)::mkfifo(path.c_str(), 0666);
      break;
    case 4:
      fs::create_hard_link(volume() + "/secret", path, ignored);
      break;
    case 5:
      fs::rename(path, path_of(in), ignored);
      break;
    case 6:
      if (path.size() > volume().size() + 6) fs::remove_all(path, ignored);
      break;
    default: {
      const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_NONBLOCK | O_NOFOLLOW, 0666);
      struct stat is {};
      // Not through a link of its own to what nobody may change.
      if (file < 0 || ::fstat(file, &is) != 0 || is.st_nlink != 1) {
        if (file >= 0) ::close(file);
        break;
      }
      const bool options = path.ends_with(".options");
      const std::string body = options ? std::string(kOptions[in.below(std::size(kOptions))])
                                       : std::string(in.below(1100), 'x');
      (void)!::write(file, body.data(), body.size());
      ::close(file);
    }
  }
}

void judge(fuzz::Pod& pod) {
  std::ifstream secret(volume() + "/secret");
  check(std::string(std::istreambuf_iterator<char>(secret), {}) == kSecret, "it stays as it was");
  while (const auto got =
             pod.box.receive(mono_now(), pod.config.name, Milliseconds{60000}, std::nullopt)) {
    check(got->message.body.find(kSecret) == std::string::npos,
          "only what agents have written, or we for them, is sent");
    check(pod.box.ack(mono_now(), pod.config.name, got->message.id, got->attempt).ok(), "an ack");
  }
  const auto top = volume() + "/drop";
  if (!fs::is_directory(fs::symlink_status(top))) return;  // an agent was there first
  for (const auto& entry : fs::recursive_directory_iterator(top)) {
    const auto name = entry.path().filename().string();
    const bool outcome = name.ends_with(".accepted") || name.ends_with(".refused");
    if (!outcome || name.starts_with('.') || entry.is_symlink() || !entry.is_regular_file() ||
        entry.hard_link_count() != 1)
      continue;
    std::ifstream lines(entry.path());
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with('x') || std::any_of(std::begin(kOptions), std::end(kOptions),
                                               [&](auto text) { return line.starts_with(text); }))
        continue;  // an agent has written, perhaps over the beginning of ours
      const json said = json::parse(line, nullptr, /*allow_exceptions=*/false);
      check(said.is_object() && said.contains("outcome") && said.contains("to"),
            "an outcome is a line of JSON");
    }
  }
}

void play(fuzz::Input in) {
  for (const auto& entry : fs::directory_iterator(volume())) fs::remove_all(entry.path());
  std::ofstream(volume() + "/secret") << kSecret;
  fuzz::Pod pod;
  pod.config.mount_path = volume();
  pod.config.backpressure_timeout = Milliseconds{0};
  Post post(pod.loop, pod.mail, pod.config);
  post.peers = [](std::uint32_t, const Worker::OnPeers& done) { done(unavailable("nobody")); };
  for (std::size_t n = 0; n < kMostActions && !in.empty(); ++n) {
    if (in.below(4) != 0) {
      act(in);
      continue;
    }
    Drop drop(pod.loop, pod.mail, post,
              pod.config);  // another life: what is claimed is found again
    drop.start();
    for (auto turns = in.below(8); turns > 0; --turns) {
      pod.io.restart();
      (void)pod.io.poll_one();
      act(in);
    }
    if (in.below(2) == 0) pod.settle();
    drop.stop();
  }
  Drop last(pod.loop, pod.mail, post, pod.config);
  last.start();
  pod.settle();
  check(last.under_way() == 0, "each has its outcome");
  judge(pod);
}

}  // namespace
}  // namespace swarm::engine

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  swarm::engine::play(swarm::fuzz::Input(data, size));
  return 0;
}
