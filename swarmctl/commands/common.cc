#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "commands/command.h"
#include "text/format.h"
#include "text/json.h"
#include "text/views.h"

namespace swarm::commands {
namespace {

constexpr std::int64_t kWaitSeconds = 50;   // of one waiting GET
constexpr Milliseconds kAnswerSlack{5000};  // for its answer to come back
constexpr Milliseconds kWaitPause{200};     // between two of them
constexpr Milliseconds kWaitTry{60'000};    // without any answer: then, does the Swarm still exist?

// The API server's address, looked up once, by whichever thread needs it first.
struct ServerAddress {
  std::once_flag once;
  std::string text;
};

}  // namespace

int exit_code(Code code) {
  switch (code) {
    case Code::kInvalid:
      return 2;
    case Code::kNotFound:
      return 3;
    case Code::kFull:
      return 4;
    case Code::kUnknown:
      return 5;
    case Code::kUnavailable:
      return 6;
    case Code::kDenied:
      return 7;
    case Code::kConflict:
    case Code::kCancelled:
    case Code::kCorrupt:
    case Code::kInternal:
      return 1;
  }
  return 1;
}

int fail(const Error& error) {
  std::fprintf(stderr, "error: %s\n", text::harmless(error.message).c_str());
  return exit_code(error.code);
}

std::string missing(const cluster::Listing& list, const std::string& what) {
  std::string out;
  for (const std::int64_t team : list.missing_teams) {
    out += "warning: team " + std::to_string(team) + " did not answer: its " + what +
           " are not in this list\n";
  }
  if (list.recovering)
    out +=
        "warning: a coordinator was replaced and is collecting its tasks: some are not in this "
        "list yet\n";
  return out;
}

bool print(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

Status check_output(const std::string& output, const std::vector<std::string>& also) {
  if (output.empty() || output == "json" || output == "yaml") return {};
  std::string known = "json, yaml";
  for (const std::string& word : also) {
    if (word == output) return {};
    known += ", " + word;
  }
  return invalid("-o " + output + ": this verb knows " + known);
}

bool print_as(const std::string& output, const nlohmann::json& value) {
  return print(output == "yaml" ? text::to_yaml(value) : text::to_json(value) + "\n");
}

Result<cluster::Cluster*> Session::open() {
  if (cluster_) return cluster_.get();
  std::string name_space = options_.name_space;
  if (name_space.empty()) {
    Result<std::string> current = cluster::current_namespace(options_.kubectl);
    if (!current) return current.error();
    name_space = *std::move(current);
  }
  const Status started = proxy_.start(options_.kubectl);
  if (!started) return started.error();
  cluster_ = std::make_unique<cluster::Cluster>(cluster::HttpClient(proxy_.socket_path()),
                                                std::move(name_space));
  cluster_->set_insistent(options_.timeout.has_value());
  cluster_->set_server([flags = options_.kubectl, address = std::make_shared<ServerAddress>()] {
    std::call_once(address->once, [&] { address->text = cluster::server_address(flags); });
    return address->text;
  });
  if (::isatty(STDERR_FILENO) != 0) {
    cluster_->set_on_wait([](const Error& error) {
      std::fprintf(stderr, "waiting: %s\n", text::shorten(error.message, 300).c_str());
    });
  }
  return cluster_.get();
}

Result<nlohmann::json> wait_until_final(cluster::Cluster& cluster, const std::string& swarm,
                                        const std::string& id, MonoTime deadline) {
  bool crowded = false;  // the coordinators have too many waiting requests: ask now and then
  for (;;) {
    const std::int64_t left = std::max<std::int64_t>(0, (deadline - mono_now()).count() / 1000);
    const std::int64_t seconds = crowded ? 0 : std::min(left, kWaitSeconds);
    const std::string path = "/tasks/" + id + "?waitSeconds=" + std::to_string(seconds);
    const MonoTime limit = std::min(deadline + kAnswerSlack, mono_now() + kWaitTry);
    Result<nlohmann::json> task = cluster.call_json(swarm, "GET", path, "", true, limit);
    if (task && text::is_final(*task)) return task;
    if (!task && task.error().code == Code::kUnavailable) {
      if (mono_now() >= deadline)
        return Error{Code::kUnknown,
                     task.error().message + "\nTask " + id + " is accepted and goes on."};
      const Result<nlohmann::json> there = cluster.swarm(swarm, mono_now() + kAnswerSlack);
      if (!there && there.error().code == Code::kNotFound) return there.error();
      continue;
    }
    if (!task && task.error().code != Code::kFull) return task.error();
    crowded = !task;
    if (mono_now() >= deadline) {
      return Error{Code::kUnknown,
                   "task " + id + " is still " +
                       (task ? text::shorten(text::get_text(*task, "state"), 20) : "not over") +
                       "; it goes on. Look at: kubectl swarm describe task/" + id +
                       ", later: kubectl swarm result task/" + id};
    }
    const Milliseconds pause = crowded ? kRefresh : kWaitPause;
    std::this_thread::sleep_for(std::min(pause, deadline - mono_now()));
  }
}

Result<std::string> fetch_result(cluster::Cluster& cluster, const std::string& swarm,
                                 const nlohmann::json& task, MonoTime deadline) {
  const std::string id = text::shorten(text::get_text(task, "id"), 128);
  Result<cluster::HttpResponse> result =
      cluster.call(swarm, "GET", "/tasks/" + id + "/result", "", true, deadline);
  if (!result) return result.error();
  if (text::get_flag(text::get(task, "result"), "truncated")) {
    std::fprintf(
        stderr,
        "note: the output was longer than what is kept; all of it: kubectl swarm logs task/%s\n",
        id.c_str());
  }
  return std::move(result->body);
}

int fail_without_result(const nlohmann::json& task) {
  const std::string id = text::shorten(text::get_text(task, "id"), 128);
  std::fprintf(stderr, "error: task %s is %s\n", id.c_str(), text::failure(task).c_str());
  for (const std::string& line : text::last_lines(task))
    std::fprintf(stderr, "  %s\n", line.c_str());
  std::fprintf(stderr, "Next: kubectl swarm logs task/%s\n", id.c_str());
  return 1;
}

void TaskLines::line(std::string_view text) {
  if (!text.starts_with(begin_)) return;
  const std::size_t close = text.find("] ", begin_.size());
  if (close == std::string_view::npos || close == begin_.size()) return;
  const std::string_view attempt = text.substr(begin_.size(), close - begin_.size());
  if (!std::all_of(attempt.begin(), attempt.end(), [](char c) { return c >= '0' && c <= '9'; }))
    return;
  take_(keep_prefix_ ? text : text.substr(close + 2));
}

void TaskLines::add(std::string_view bytes) {
  while (!bytes.empty()) {
    const std::size_t newline = bytes.find('\n');
    if (newline == std::string_view::npos) {
      constexpr std::size_t kMostLineBytes = 1U << 20U;
      partial_ += bytes.substr(0, kMostLineBytes - std::min(partial_.size(), kMostLineBytes));
      return;
    }
    if (partial_.empty()) {
      line(bytes.substr(0, newline));
    } else {
      partial_ += bytes.substr(0, newline);
      line(partial_);
      partial_.clear();
    }
    bytes.remove_prefix(newline + 1);
  }
}

void TaskLines::finish() {
  if (!partial_.empty()) line(partial_);
  partial_.clear();
}

}  // namespace swarm::commands
