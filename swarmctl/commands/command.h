// What all verbs of kubectl-swarm share: the flags that every verb takes, and how results and
// errors are shown.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cluster/cluster.h"
#include "cluster/kubectl.h"
#include "os/time.h"

namespace swarm::commands {

inline constexpr Milliseconds kDefaultTimeout{30'000};
inline constexpr Milliseconds kRefresh{2000};  // of -w and top
inline constexpr int kExitPartial = 8;
inline constexpr Milliseconds kForEver = std::chrono::hours(24 * 365);  // --wait without --timeout

struct Options {
  std::string name_space;
  cluster::KubectlFlags kubectl;
  std::string output;  // wide, json, yaml, name; for result: a file
  bool wait = false;   // submit, result
  std::string selector;
  std::string swarm;
  bool watch = false;
  std::optional<Milliseconds> timeout;

  std::vector<std::string> arguments;  // positional
  // submit
  std::string key;
  std::string id;
  std::vector<std::string> labels;
  std::int64_t max_attempts = 0;
  std::string lines;
  std::string key_field;
  std::string id_field;
  // get
  std::string states;
  bool no_headers = false;
  // logs
  bool follow = false;
  bool prefix = false;
  std::int64_t tail = -1;
  // top
  bool once = false;

  [[nodiscard]] MonoTime deadline() const { return mono_now() + timeout.value_or(kDefaultTimeout); }
  [[nodiscard]] MonoTime wait_deadline() const { return mono_now() + timeout.value_or(kForEver); }
};

// The exit code for an error: the same table as agentctl's.
int exit_code(Code code);
// "error: message" on stderr; the exit code.
int fail(const Error& error);
// What is not in a list, each a line for stderr; "" when it is complete. `what`: tasks, agents.
std::string missing(const cluster::Listing& list, const std::string& what);
// Writes to standard output. False when that is closed.
bool print(std::string_view bytes);
// -o json|yaml of a value; kInvalid when `output` is another word than those, "" and the `also`
// ones.
Status check_output(const std::string& output, const std::vector<std::string>& also);
bool print_as(const std::string& output, const nlohmann::json& value);

// The connection: starts kubectl proxy when it is first needed.
class Session {
 public:
  explicit Session(const Options& options) : options_(options) {}
  Result<cluster::Cluster*> open();

 private:
  const Options& options_;
  cluster::KubectlProxy proxy_;
  std::unique_ptr<cluster::Cluster> cluster_;
};

// --wait: the task when it is over. kUnknown: it is not by the deadline, or nobody could be asked;
// it goes on. kNotFound: the task or its swarm is gone.
Result<nlohmann::json> wait_until_final(cluster::Cluster& cluster, const std::string& swarm,
                                        const std::string& id, MonoTime deadline);
// The result of a task, as it is; a note on stderr when it is not all of the output.
Result<std::string> fetch_result(cluster::Cluster& cluster, const std::string& swarm,
                                 const nlohmann::json& task, MonoTime deadline);
// Says why a task that is over has no result; the exit code.
int fail_without_result(const nlohmann::json& task);

// Every verb: the exit code. `options.arguments` has been counted by the caller.
int submit(const Options& options);
int get(const Options& options);
int describe(const Options& options);
int why(const Options& options);
int logs(const Options& options);
int result(const Options& options);
int cancel(const Options& options);
int retry(const Options& options);
int top(const Options& options);

// One line of a file as the body of a task submission; pure. `line_number` counts from 1.
// kInvalid: --key-field or --id-field given and the line is no JSON object with such a member.
Result<nlohmann::json> submission_of_line(const std::string& line, std::size_t line_number,
                                          const Options& options, const std::string& run_id);
// The submission of one task from the flags. kInvalid: a label that is no a=b.
Result<nlohmann::json> submission(const std::string& body, const Options& options);

// Log lines of one task: those that begin with "[T N] ", with the prefix taken off unless
// `keep_prefix`. Pure.
class TaskLines {
 public:
  TaskLines(std::string task, bool keep_prefix, std::function<void(std::string_view)> take)
      : begin_("[" + std::move(task) + " "), keep_prefix_(keep_prefix), take_(std::move(take)) {}
  void add(std::string_view bytes);
  void finish();

 private:
  void line(std::string_view text);
  std::string begin_;
  bool keep_prefix_;
  std::function<void(std::string_view)> take_;
  std::string partial_;
};

}  // namespace swarm::commands
