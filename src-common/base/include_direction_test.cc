// The house's order, checked on the sources themselves: which room may include which, that pure
// rooms read no clock and do no I/O, and that heavy libraries stay out of headers and in the one
// room that is meant to know them.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

struct Room {
  const char* name;
  std::vector<std::string> may_include;  // rooms; its own always
  bool pure = false;
};

const std::vector<Room>& rooms() {
  static const std::vector<Room> kRooms = {
      {"src-common/base", {}},
      {"src-common/os", {"src-common/base"}},
      {"src-common/sim", {"src-common/base", "src-common/os"}},
      {"src-common/telemetry", {"src-common/base", "src-common/os"}},
      {"src-common/config", {"src-common/base", "src-common/os"}},
      {"src-common/net", {"src-common/base", "src-common/os"}},
      {"src-common/api", {"src-common/base", "src-common/os"}, true},
      {"src-common/kube", {"src-common/base", "src-common/os", "src-common/net"}},
      {"src-common/log", {"src-common/base", "src-common/os", "src-common/sim"}},
      {"src-common/mailbox",
       {"src-common/base", "src-common/os", "src-common/log", "src-common/sim"},
       true},
      {"src-common/link", {"src-common/base", "src-common/os"}, true},
      {"src-common/simulator",
       {"src-common/base", "src-common/os", "src-common/log", "src-common/mailbox",
        "src-common/link", "src-common/sim"}},
      {"operator/plan", {"src-common/base", "src-common/os", "src-common/api"}, true},
      {"operator/reconcile",
       {"src-common/base", "src-common/os", "src-common/api", "src-common/kube", "src-common/net",
        "src-common/telemetry", "operator/plan"}},
      {"operator",
       {"src-common/base", "src-common/config", "src-common/kube", "src-common/net",
        "src-common/telemetry", "operator/reconcile"}},
      {"sidecar/tasks", {"src-common/base", "src-common/os"}, true},
      {"sidecar/lifecycle", {"src-common/base", "src-common/os"}, true},
      {"sidecar/supervisor", {"src-common/os", "src-common/telemetry"}},
      {"sidecar/engine",
       {"src-common/base", "src-common/os", "src-common/api", "src-common/kube", "src-common/link",
        "src-common/log", "src-common/mailbox", "src-common/net", "src-common/sim",
        "src-common/telemetry", "sidecar/tasks", "sidecar/lifecycle"}},
      {"sidecar",
       {"src-common/net", "src-common/telemetry", "sidecar/engine", "sidecar/supervisor"}},
      {"agentctl/client", {"src-common/base", "src-common/os"}},
      {"agentctl/worker",
       {"src-common/base", "src-common/os", "agentctl/client", "agentctl/testing"}},
      {"agentctl/verbs",
       {"src-common/base", "src-common/os", "agentctl/client", "agentctl/worker",
        "agentctl/testing"}},
      {"agentctl/testing", {"src-common/base", "agentctl/client"}},
      {"agentctl", {"agentctl/client", "agentctl/verbs"}},
      {"swarmctl/text", {"src-common/base", "src-common/os", "swarmctl/commands"}},
      {"swarmctl/cluster",
       {"src-common/base", "src-common/os", "swarmctl/text", "swarmctl/testing"}},
      {"swarmctl/commands",
       {"src-common/base", "src-common/os", "swarmctl/text", "swarmctl/cluster",
        "swarmctl/testing"}},
      {"swarmctl/testing", {"src-common/base"}},
      {"swarmctl", {"swarmctl/commands", "swarmctl/text"}},
      {"bench",
       {"src-common/base", "src-common/os", "src-common/log", "src-common/link",
        "src-common/mailbox"}},
      {"fuzz",
       {"src-common/base", "src-common/link", "src-common/log", "src-common/mailbox",
        "src-common/sim", "sidecar/tasks", "sidecar/engine"}},
  };
  return kRooms;
}

struct Source {
  std::string path;  // from the root
  std::string room;
  bool header, test;
  std::vector<std::string> lines;
};

// "src-common/base" for src-common/base/x.h, "operator" for operator/main.cc.
std::string room_of(const std::string& path) {
  const auto first = path.find('/');
  const auto second = path.find('/', first + 1);
  return path.substr(0, second == std::string::npos ? first : second);
}

std::vector<Source> sources() {
  std::vector<Source> all;
  const fs::path root = SWARM_SOURCE_DIR;
  for (const char* top :
       {"src-common", "operator", "sidecar", "agentctl", "swarmctl", "bench", "fuzz"}) {
    if (!fs::exists(root / top)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / top)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc") continue;
      Source source;
      source.path = fs::relative(entry.path(), root);
      source.room = room_of(source.path);
      source.header = extension == ".h";
      source.test = source.path.find("_test.") != std::string::npos ||
                    source.path.find("/testing/") != std::string::npos ||
                    source.path.find("/fake_") != std::string::npos ||
                    source.path.find("/toy_") != std::string::npos;
      std::ifstream in(entry.path());
      for (std::string line; std::getline(in, line);) source.lines.push_back(line);
      all.push_back(std::move(source));
    }
  }
  return all;
}

// What stands between `opening` and `closing` in an #include line; empty: it is none.
std::string included(const std::string& line, char opening, char closing) {
  if (!line.starts_with("#include ")) return {};
  const auto begin = line.find(opening);
  const auto end = line.rfind(closing);
  return begin == std::string::npos || end <= begin ? std::string()
                                                    : line.substr(begin + 1, end - begin - 1);
}

TEST(House, RoomsIncludeOnlyWhatIsBelowThem) {
  const auto all = sources();
  ASSERT_GT(all.size(), 100U);
  std::map<std::string, std::string> room_by_header;  // as it is included
  for (const Source& s : all) {
    if (s.header) room_by_header[s.path.substr(s.path.find('/') + 1)] = s.room;
  }
  std::set<std::string> seen;
  for (const Source& s : all) {
    const auto room = std::find_if(rooms().begin(), rooms().end(),
                                   [&](const Room& r) { return s.room == r.name; });
    ASSERT_NE(room, rooms().end()) << s.path << ": its room is not in the list of this test";
    seen.insert(s.room);
    for (const std::string& line : s.lines) {
      const std::string header = included(line, '"', '"');
      if (header.empty()) continue;
      const auto target = room_by_header.find(header);
      const std::string beside = s.path.substr(0, s.path.rfind('/') + 1) + header;
      if (target == room_by_header.end()) {
        EXPECT_TRUE(fs::exists(fs::path(SWARM_SOURCE_DIR) / beside))
            << s.path << " includes " << header << ", which is not there";
        continue;
      }
      const auto& may = room->may_include;
      EXPECT_TRUE(target->second == s.room ||
                  std::find(may.begin(), may.end(), target->second) != may.end())
          << s.path << " includes " << header << ": " << s.room << " may not use "
          << target->second;
    }
  }
  for (const Room& room : rooms())
    EXPECT_TRUE(seen.contains(room.name)) << room.name << " has no sources any more";
}

// A cycle would make "below" a word without meaning.
TEST(House, RoomsHaveAnOrder) {
  std::map<std::string, std::set<std::string>> open;
  for (const Room& room : rooms()) {
    for (const std::string& other : room.may_include) {
      // Tests may look up: testing rooms, and text's tests at what prints the texts.
      if (other.ends_with("/testing") ||
          (std::string(room.name) == "swarmctl/text" && other == "swarmctl/commands"))
        continue;
      open[room.name].insert(other);
    }
    open[room.name];
  }
  while (!open.empty()) {
    const auto done = std::find_if(open.begin(), open.end(), [&](const auto& entry) {
      return std::none_of(entry.second.begin(), entry.second.end(),
                          [&](const std::string& other) { return open.contains(other); });
    });
    ASSERT_NE(done, open.end()) << "a cycle among: " << open.begin()->first << " …";
    open.erase(done);
  }
}

TEST(House, PureRoomsHaveNoClockNoThreadsAndNoFiles) {
  constexpr std::array kForbidden = {
      "mono_now()",    "wall_now()",  "std::chrono::system_clock", "std::chrono::steady_clock",
      "random_device", "std::getenv", "std::this_thread"};
  constexpr std::array kHeaders = {
      "thread",   "mutex",        "condition_variable", "fstream",         "iostream", "filesystem",
      "unistd.h", "sys/socket.h", "boost/asio.hpp",     "telemetry/log.h", "os/file.h"};
  for (const Source& s : sources()) {
    const auto room = std::find_if(rooms().begin(), rooms().end(),
                                   [&](const Room& r) { return s.room == r.name; });
    if (s.test || room == rooms().end() || !room->pure) continue;
    for (const std::string& line : s.lines) {
      const std::string code = line.substr(0, line.find("//"));
      for (const char* word : kForbidden)
        EXPECT_EQ(code.find(word), std::string::npos) << s.path << ": " << line;
      for (const char* header : kHeaders) {
        EXPECT_NE(included(line, '<', '>'), header) << s.path;
        EXPECT_NE(included(line, '"', '"'), header) << s.path;
      }
    }
  }
}

TEST(House, HeavyLibrariesStayOutOfHeadersAndInTheirRooms) {
  struct Heavy {
    const char* prefix;
    std::vector<std::string> rooms;  // empty: any, but in no header
  };
  const std::vector<Heavy> heavy = {{"cpprest/", {"src-common/net"}},
                                    {"yaml-cpp/", {"src-common/config"}},
                                    {"spdlog/", {"src-common/telemetry"}},
                                    {"prometheus/", {"src-common/telemetry"}},
                                    {"CLI/", {}},
                                    {"boost/beast", {}},
                                    {"boost/asio.hpp", {}},
                                    {"nlohmann/json.hpp", {}}};
  for (const Source& s : sources()) {
    // control_json.h and task_json.h exist so that the other headers of the engine need no JSON.
    const bool json_header = s.path.ends_with("_json.h");
    for (const std::string& line : s.lines) {
      const std::string header = included(line, '<', '>');
      for (const Heavy& h : heavy) {
        if (!header.starts_with(h.prefix)) continue;
        EXPECT_TRUE(!s.header || s.test || json_header) << s.path << " includes " << header;
        EXPECT_TRUE(h.rooms.empty() ||
                    std::find(h.rooms.begin(), h.rooms.end(), s.room) != h.rooms.end())
            << s.path << " includes " << header;
      }
    }
  }
}

}  // namespace
