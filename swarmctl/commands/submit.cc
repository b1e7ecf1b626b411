// kubectl swarm submit: one task, or one for each line of a file.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/encoding.h"
#include "commands/command.h"
#include "text/format.h"
#include "text/json.h"
#include "text/views.h"

namespace swarm::commands {
namespace {

using nlohmann::json;
using text::get_text;

// More than any coordinator takes (it says its own limit), and little enough to be sent as base64.
constexpr std::size_t kMostBodyBytes = 256U << 10U;
constexpr std::size_t kInFlight = 32;
constexpr Milliseconds kLinesTimeout =
    std::chrono::minutes(5);  // for one line, queue full included

std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

Result<std::string> read_standard_input() {
  std::string out;
  char buffer[65536];
  for (;;) {
    const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return internal_error(std::string("standard input: ") + std::strerror(errno));
    if (n == 0) return out;
    out.append(buffer, static_cast<std::size_t>(n));
    if (out.size() > kMostBodyBytes)
      return invalid(
          "the text has more than 256 KiB: submit the name of a file, branch or object instead");
  }
}

void set_body(json& out, const std::string& body) {
  if (is_utf8(body)) {
    out["body"] = body;
  } else {
    out["body64"] = to_base64(body);
  }
}

Status set_flags(json& out, const Options& options) {
  if (!options.key.empty()) out["key"] = options.key;
  if (options.max_attempts > 0) out["maxAttempts"] = options.max_attempts;
  for (const std::string& label : options.labels) {
    const std::size_t equals = label.find('=');
    if (equals == 0 || equals == std::string::npos)
      return invalid("--label " + label + ": write --label name=value");
    out["labels"][label.substr(0, equals)] = label.substr(equals + 1);
  }
  return {};
}

std::string confirmation(const json& accepted, const std::string& swarm) {
  return "task/" + text::shorten(get_text(accepted, "id"), 128) + " submitted to " + swarm +
         " (survives: " + text::shorten(get_text(accepted, "survives", "unknown"), 20) +
         (text::get_flag(accepted, "duplicate") ? "; it had been submitted before" : "") + ")\n";
}

Result<json> post(cluster::Cluster& cluster, const std::string& swarm, const json& task,
                  MonoTime deadline) {
  // The idempotency id makes repeating safe, whatever happened to the first try.
  Result<json> accepted = cluster.call_json(swarm, "POST", "/tasks", dump(task), true, deadline);
  if (!accepted && accepted.error().code == Code::kUnknown) {
    return Error{Code::kUnknown, accepted.error().message +
                                     "\nTo find out, submit the same again with --id " +
                                     get_text(task, "id")};
  }
  if (accepted && !text::parse_task(get_text(*accepted, "id")))
    return internal_error("the coordinator's answer names no task");
  return accepted;
}

// --wait: the task with -o, else its result.
int show_result(cluster::Cluster& cluster, const Options& options, const std::string& swarm,
                const json& task) {
  const bool done = get_text(task, "state") == "done";
  if (options.output == "json" || options.output == "yaml")
    return print_as(options.output, task) && done ? 0 : 1;
  if (!done) return fail_without_result(task);
  const Result<std::string> result =
      fetch_result(cluster, swarm, task, mono_now() + kDefaultTimeout);
  if (!result) return fail(result.error());
  return print(*result) ? 0 : 1;
}

int submit_one(cluster::Cluster& cluster, const Options& options, const std::string& swarm) {
  const bool from_input = options.arguments.size() < 2 || options.arguments[1] == "-";
  if (options.arguments.size() < 2 && ::isatty(STDIN_FILENO) != 0) {
    return fail(invalid("the task's text is missing: kubectl swarm submit " + swarm +
                        " \"what to do\", or - for standard input"));
  }
  const Result<std::string> body =
      from_input ? read_standard_input() : Result<std::string>(options.arguments[1]);
  if (!body) return fail(body.error());
  const Result<json> task = submission(*body, options);
  if (!task) return fail(task.error());
  const MonoTime deadline = options.wait_deadline();
  const Result<json> accepted = post(cluster, swarm, *task, options.deadline());
  if (!accepted) return fail(accepted.error());
  if (options.wait) {
    std::fputs(confirmation(*accepted, swarm).c_str(), stderr);
    const Result<json> over = wait_until_final(cluster, swarm, get_text(*accepted, "id"), deadline);
    return over ? show_result(cluster, options, swarm, *over) : fail(over.error());
  }
  if (options.output == "name") return print("task/" + get_text(*accepted, "id") + "\n") ? 0 : 1;
  if (!options.output.empty()) return print_as(options.output, *accepted) ? 0 : 1;
  return print(confirmation(*accepted, swarm)) ? 0 : 1;
}

// Workers take line after line from one file and print one line for each task, in the order of
// acceptance.
class Bulk {
 public:
  Bulk(cluster::Cluster& cluster, const Options& options, const std::string& swarm,
       std::istream& lines)
      : cluster_(cluster), options_(options), swarm_(swarm), lines_(lines) {}

  int run() {
    const Result<std::string> token = cluster_.token(swarm_, options_.deadline());
    if (!token) return fail(token.error());
    {
      std::vector<std::jthread> workers;
      for (std::size_t i = 0; i < kInFlight; ++i) workers.emplace_back([this] { work(); });
    }
    if (progress_) std::fprintf(stderr, "\r%zu accepted, %zu not\n", accepted_, refused_);
    if (refused_ > 0) {
      std::fprintf(stderr, "error: %zu of %zu lines were not accepted\n", refused_,
                   accepted_ + refused_);
    }
    if (!print_error_.empty()) {
      std::fprintf(stderr, "error: standard output: %s%s\n", print_error_.c_str(),
                   over_ ? "" : not_sent().c_str());
    } else if (!over_) {
      std::fprintf(stderr, "error: stopped%s\n", not_sent().c_str());
    }
    if (!read_error_.empty()) {
      fail(invalid("--lines " + options_.lines + " could not be read after line " +
                   std::to_string(number_) + ": " + read_error_));
    }
    if (accepted_ > 0) {
      if (refused_ > 0 || !over_ || !read_error_.empty()) return kExitPartial;
      return print_error_.empty() ? 0 : 1;
    }
    if (refused_ > 0) return first_code_;
    if (!read_error_.empty()) return 1;
    return fail(invalid("--lines " + options_.lines + ": there is no line in it"));
  }

 private:
  bool next(std::string& line, std::size_t& number) {
    const std::lock_guard lock(mutex_);
    while (!stop_ && !over_) {
      errno = 0;
      if (!std::getline(lines_, line)) {
        over_ = true;
        if (lines_.bad()) read_error_ = std::strerror(errno == 0 ? EIO : errno);
        return false;
      }
      ++number_;
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (line.find_first_not_of(" \t") == std::string::npos) continue;
      number = number_;
      return true;
    }
    return false;
  }

  [[nodiscard]] std::string not_sent() const {
    return "; nothing after line " + std::to_string(number_) + " was sent";
  }

  void work() {
    cluster::Cluster cluster(cluster_);
    cluster.set_on_wait(nullptr);
    cluster.set_patient(true);
    std::string line;
    std::size_t number = 0;
    while (next(line, number)) {
      const Result<json> task =
          line.size() > kMostBodyBytes
              ? Result<json>(invalid("line " + std::to_string(number) + " has more than 256 KiB"))
              : submission_of_line(line, number, options_, run_id_);
      const Result<json> accepted =
          task ? post(cluster, swarm_, *task, mono_now() + options_.timeout.value_or(kLinesTimeout))
               : task;
      note(number, accepted);
    }
  }

  void note(std::size_t number, const Result<json>& accepted) {
    std::string out;
    if (accepted) {
      out = options_.output == "name"   ? "task/" + get_text(*accepted, "id") + "\n"
            : options_.output == "json" ? dump(*accepted) + "\n"
                                        : confirmation(*accepted, swarm_);
    }
    const std::lock_guard lock(mutex_);
    if (accepted) {
      ++accepted_;
      if (print_error_.empty() && !print(out)) {
        print_error_ = std::strerror(errno);
        stop_ = true;  // what is accepted now could not be told
      }
    } else {
      if (refused_++ == 0) first_code_ = exit_code(accepted.error().code);
      std::fprintf(stderr, "%sline %zu: %s\n", progress_ ? "\r" : "", number,
                   text::harmless(accepted.error().message).c_str());
      // What is true of every line need not be said of each.
      if (accepted.error().code == Code::kDenied || accepted.error().code == Code::kNotFound)
        stop_ = true;
    }
    if (progress_ && (accepted_ + refused_) % 16 == 0)
      std::fprintf(stderr, "\r%zu accepted, %zu not", accepted_, refused_);
  }

  cluster::Cluster& cluster_;
  const Options& options_;
  const std::string& swarm_;
  std::istream& lines_;
  const std::string run_id_ = to_hex(random_bytes(8));
  const bool progress_ = ::isatty(STDERR_FILENO) != 0 && ::isatty(STDOUT_FILENO) == 0;
  std::mutex mutex_;
  std::size_t number_ = 0;
  std::size_t accepted_ = 0;
  std::size_t refused_ = 0;
  int first_code_ = 1;
  bool stop_ = false;
  bool over_ = false;        // the last line has been read, or none can be
  std::string print_error_;  // "": every answer was printed
  std::string read_error_;   // "": the lines ended where the file does
};

}  // namespace

Result<json> submission(const std::string& body, const Options& options) {
  json out = json::object();
  set_body(out, body);
  out["id"] = options.id.empty() ? "c-" + to_hex(random_bytes(16)) : options.id;
  const Status flags = set_flags(out, options);
  if (!flags) return flags.error();
  return out;
}

Result<json> submission_of_line(const std::string& line, std::size_t line_number,
                                const Options& options, const std::string& run_id) {
  json out = json::object();
  set_body(out, line);
  out["id"] = "c-" + run_id + "-" + std::to_string(line_number);
  const Status flags = set_flags(out, options);
  if (!flags) return flags.error();
  if (options.key_field.empty() && options.id_field.empty()) return out;
  const json object = json::parse(line, nullptr, false);
  const std::string where = "line " + std::to_string(line_number);
  if (!object.is_object())
    return invalid(where + " is no JSON object; --key-field and --id-field need one");
  for (const auto& [flag, field, member] : {std::tuple{"--key-field", &options.key_field, "key"},
                                            {"--id-field", &options.id_field, "id"}}) {
    if (field->empty()) continue;
    const auto it = object.find(*field);
    if (it != object.end() && it->is_string() && !it->get_ref<const std::string&>().empty()) {
      out[member] = *it;
    } else if (it != object.end() && it->is_number_integer()) {
      out[member] = it->dump();
    } else {
      return invalid(where + " has no text or whole number '" + *field + "' (" + flag + ")");
    }
  }
  return out;
}

int submit(const Options& options) {
  const Status output = check_output(options.output, {"name"});
  if (!output) return fail(output.error());
  const Result<std::string> swarm = text::parse_swarm(options.arguments[0]);
  if (!swarm) return fail(swarm.error());
  const bool bulk = !options.lines.empty();
  if (bulk && (options.wait || !options.id.empty() || options.arguments.size() > 1)) {
    return fail(
        invalid("--lines makes a task of every line: it goes without a text, --id (see --id-field) "
                "and --wait"));
  }
  if (!bulk && (!options.key_field.empty() || !options.id_field.empty())) {
    return fail(
        invalid("--key-field and --id-field belong to --lines; for one task write --key and --id"));
  }
  if (!options.id.empty() && !is_message_id(options.id)) {
    return fail(invalid("--id takes 1 to 128 of the characters A-Z a-z 0-9 . _ : -"));
  }
  std::ifstream file;
  if (bulk && options.lines != "-") {
    file.open(options.lines);
    if (!file) return fail(invalid("--lines " + options.lines + ": " + std::strerror(errno)));
  }
  Session session(options);
  const Result<cluster::Cluster*> cluster = session.open();
  if (!cluster) return fail(cluster.error());
  if (!bulk) return submit_one(**cluster, options, *swarm);
  std::ios::sync_with_stdio(false);  // synchronised, a failed read would look like the end
  return Bulk(**cluster, options, *swarm, options.lines == "-" ? std::cin : file).run();
}

}  // namespace swarm::commands
