#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "commands/command.h"
#include "text/format.h"
#include "text/json.h"

namespace swarm::commands {

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
  if (::isatty(STDERR_FILENO) != 0) {
    cluster_->set_on_wait([](const Error& error) {
      std::fprintf(stderr, "waiting: %s\n", text::shorten(error.message, 300).c_str());
    });
  }
  return cluster_.get();
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
