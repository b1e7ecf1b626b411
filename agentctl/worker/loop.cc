#include "worker/loop.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/encoding.h"
#include "base/ids.h"
#include "worker/git.h"
#include "worker/output.h"
#include "worker/process.h"

namespace swarm::worker {
namespace {

namespace fs = std::filesystem;
using agent::Answer;
using agent::Object;
using agent::Request;

constexpr std::size_t kReadBytes = 65536;
constexpr std::size_t kMaxReadsPerTurn = 8;  // of one pipe, so that the others get their turn
constexpr std::size_t kStepOutputBytes = 4096;
constexpr std::size_t kLogWriteBytes = 4096;  // PIPE_BUF: what a writable pipe surely takes
constexpr std::size_t kLogWritesPerTurn = 64;
constexpr Milliseconds kLogFlushLimit{2000};
constexpr Milliseconds kMostStuckAfter = std::chrono::hours(24 * 7);
constexpr std::size_t kSubjectBytes = 72;
constexpr std::size_t kMaxBranchBytes = 255;

void say(const std::string& text) { std::fprintf(stderr, "agentctl: %s\n", text.c_str()); }

// Removes a tree whose directories may lack write permission (Go's module cache does that).
void remove_tree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (!error) return;
  for (auto it = fs::recursive_directory_iterator(
           path, fs::directory_options::skip_permission_denied, error);
       !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    std::error_code ignored;  // remove_all below reports what remains
    if (it->is_directory(ignored) && !it->is_symlink(ignored)) {
      fs::permissions(it->path(), fs::perms::owner_all, fs::perm_options::add, ignored);
    }
  }
  fs::remove_all(path, error);
  if (error) say("could not remove " + path + ": " + error.message());
}

Status write_whole_file(const std::string& path, std::string_view bytes) {
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  while (fd.open() && !bytes.empty()) {
    const ssize_t n = ::write(fd.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return internal_error(path + ": " + std::strerror(errno));
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  if (!fd.open()) return internal_error(path + ": " + std::strerror(errno));
  return {};
}

// Returns once the coordinator has said that the lease is still this attempt's. Runs in the process
// of a git step, so over a connection of its own; until then it asks on, and the loop ends the step
// when the lease is lost, the task cancelled, or the step too long.
void await_confirmation(const std::string& path, const TaskId& task, std::int64_t attempt) {
  agent::SocketClient socket(path);
  for (Milliseconds pause = kReportFirstRetry;; pause = std::min(pause * 2, kReportMostRetry)) {
    Request request("task_extend");
    request.set("taskId", task.value).set_number("attempt", attempt).set_flag("confirm", true);
    const Answer answer = socket.call(std::move(request), mono_now() + kAnswerWait);
    if (answer.ok && !answer.fields.flag("cancel")) return;
    say("not pushed yet: " + (answer.ok ? "the task is cancelled" : answer.message));
    std::this_thread::sleep_for(pause);
  }
}

// What the swarm takes (spec.mailbox.maxMessageBytes; an older sidecar does not say) may be less
// than what is to be kept.
std::size_t most_result_bytes(const Object& task, const WorkOptions& options) {
  const std::int64_t most = task.number("maxResultBytes");
  return most > 0 ? std::min(options.max_output, static_cast<std::size_t>(most))
                  : options.max_output;
}

// As docs/socket-protocol.md has it: what is not known is not there.
Object usage_object(const Usage& usage) {
  std::map<std::string, std::int64_t> numbers;
  for (const auto& [name, value] : {std::pair{"inputTokens", usage.input_tokens},
                                    {"outputTokens", usage.output_tokens},
                                    {"cacheReadTokens", usage.cache_read_tokens},
                                    {"cacheCreationTokens", usage.cache_creation_tokens},
                                    {"costMicroUsd", usage.cost_micro_usd}}) {
    if (value) numbers[name] = *value;
  }
  std::map<std::string, std::string> texts;
  if (!usage.session.empty()) texts["session"] = usage.session;
  return Object::of(texts, numbers);
}

// One leased task with what belongs to it: directory, child, output.
struct Job {
  Job(const Object& task, const WorkOptions& options, MonoTime now)
      : id{task.text("id")},
        key(task.text("key")),
        attempt(task.number("attempt", 1)),
        version(task.text("version", "V2")),
        command(task.texts("command")),
        prefix("[" + id.value + " " + std::to_string(attempt) + "] "),
        out_log(prefix),
        err_log(prefix),
        result(most_result_bytes(task, options)),
        usage(options.usage ? std::optional<UsageReader>(*options.usage) : std::nullopt),
        run(options.settings,
            Milliseconds(std::clamp<std::int64_t>(task.number("leaseMs", 30'000), 300, 86'400'000)),
            now) {
    set_stuck(task);
  }

  // From the task, and again from each extension: an older sidecar does not say.
  void set_stuck(const Object& said) {
    if (said.has("stuckAfterMs"))
      run.set_stuck(Milliseconds(std::clamp<std::int64_t>(said.number("stuckAfterMs"), 0,
                                                          kMostStuckAfter.count())),
                    said.flag("endStuck"));
  }

  TaskId id;
  std::string key;
  std::int64_t attempt;
  std::string version;
  std::vector<std::string> command;
  std::string body;
  std::string directory;  // removed at the end
  std::string work_directory;
  std::string body_file;

  std::string prefix;
  LineLog out_log;
  LineLog err_log;
  LastLines last;
  LastLines step_errors;
  Capture result;
  std::optional<UsageReader> usage;
  std::string step_output;  // of a git step: "name value" lines
  std::string base;
  std::string branch;
  std::string commit;
  std::string progress_sent;
  std::string still;  // what CMD waits for as far as is known, while it is stuck
  bool said_stuck = false;

  TaskRun run;
  Step step = Step::kRun;
  Child child;
  std::optional<Exit> exited;

  std::optional<std::uint64_t> extend_rid;
  std::optional<std::uint64_t> report_rid;
  MonoTime reporting_since{};
  MonoTime complain_at{};
  std::string report_trouble;
};

class Loop {
 public:
  Loop(const WorkOptions& options, agent::SocketClient& socket)
      : options_(options), socket_(socket) {}

  int run();

 private:
  void ask(MonoTime now);
  void on_next(const Answer& answer, MonoTime now);
  void take_task(const Object& task, MonoTime now);
  Status make_directory(const Object& task);
  void perform(const Actions& actions, MonoTime now);
  void start_step(Step step, MonoTime now);
  void send_extend(MonoTime now);
  void send_report(MonoTime now);
  void on_answer(const Answer& answer, MonoTime now);
  void on_signals(MonoTime now);
  void read_child(bool to_the_end, MonoTime now);
  bool read_pipe(Fd& fd, bool is_stdout, bool to_the_end);
  void end_step(MonoTime now);
  void sample_cpu(MonoTime now);
  void finish_job(const std::string& note, MonoTime now);
  void release_unwanted(const Object& task, MonoTime now);
  void rest(MonoTime now);
  void write_log();
  void flush_log();
  void complain(MonoTime now);
  [[nodiscard]] MonoTime wake_at(MonoTime now) const;

  const WorkOptions& options_;
  agent::SocketClient& socket_;
  Fd signals_;
  std::unique_ptr<Job> job_;
  std::string log_;

  std::optional<std::uint64_t> next_rid_;
  MonoTime asked_at_{};
  MonoTime ask_at_{};
  Milliseconds rest_ = kRestFirst;
  MonoTime complain_at_{};
  std::vector<std::uint64_t> releases_;

  bool stopping_ = false;
  bool ended_ = false;
  bool log_broken_ = false;
  int exit_code_ = 0;
};

void Loop::ask(MonoTime now) {
  Request request("task_next");
  request.set_remaining("waitMs", kTaskWaitSlack);
  asked_at_ = now;
  next_rid_ = socket_.submit(std::move(request), now + kTaskWait + kTaskWaitSlack);
}

void Loop::rest(MonoTime now) {
  ask_at_ = now + rest_;
  rest_ = std::min(rest_ * 2, kRestMost);
}

void Loop::on_next(const Answer& answer, MonoTime now) {
  next_rid_.reset();
  ask_at_ = now;
  if (answer.ok) {
    const Object task = answer.fields.object("task");
    if (stopping_) {
      release_unwanted(task, now);
    } else {
      take_task(task, now);
    }
    return;
  }
  if (answer.code == "not_found") {
    // Nothing within the wait. An answer that comes at once must not become a busy loop.
    if (now - asked_at_ < kTaskWait / 2) {
      rest(now);
    } else {
      rest_ = kRestFirst;
    }
    return;
  }
  if (answer.code == "refused" && answer.fields.text("reason") == "draining") {
    say("no more tasks: this pod is shutting down");
    ended_ = true;
    return;
  }
  if (now >= complain_at_) {
    say("no task: " + answer.message + " (" + answer.code + "); trying on");
    complain_at_ = now + kComplainEvery;
  }
  rest(now);
}

// A task that came while we were leaving goes back at once, uncharged.
void Loop::release_unwanted(const Object& task, MonoTime now) {
  Request request("task_fail");
  request.set("taskId", task.text("id"))
      .set_number("attempt", task.number("attempt", 1))
      .set("kind", "released");
  request.set("message", "the agent is being shut down").set_texts("lastLines", {});
  releases_.push_back(socket_.submit(std::move(request), now + Milliseconds(2000)));
}

Status Loop::make_directory(const Object& task) {
  Job& job = *job_;
  std::string pattern =
      options_.temporary + "/swarm-" + job.id.value + "-" + std::to_string(job.attempt) + "-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) {
    return internal_error(
        pattern + ": " + std::strerror(errno) +
        " (give the agent a writable /tmp, for example an emptyDir, or set TMPDIR)");
  }
  job.directory = pattern;
  job.work_directory = job.directory + "/work";
  job.body_file = job.directory + "/body";
  Result<std::string> body = task.bytes("body");
  if (!body) return body.error();
  job.body = *std::move(body);
  if (options_.git.empty() && ::mkdir(job.work_directory.c_str(), 0700) != 0) {
    return internal_error(job.work_directory + ": " + std::strerror(errno));
  }
  return write_whole_file(job.body_file, job.body);
}

void Loop::take_task(const Object& task, MonoTime now) {
  if (!is_task_id(task.text("id"))) {
    say("the sidecar handed out a task with an impossible id; ignored");
    rest(now);
    return;
  }
  job_ = std::make_unique<Job>(task, options_, now);
  const Status made = make_directory(task);
  if (!made) {
    say(job_->prefix + made.error().message);
    perform(job_->run.on_start_failed(made.error().message, now), now);
    return;
  }
  perform(job_->run.begin(now), now);
}

void Loop::perform(const Actions& actions, MonoTime now) {
  for (const Action& action : actions) {
    if (!job_) return;
    switch (action.type) {
      case Action::Type::kStart:
        start_step(action.step, now);
        break;
      case Action::Type::kTerminate:
        if (job_->child.pid > 0) signal_tree(job_->child.pid, SIGTERM);
        break;
      case Action::Type::kKill:
        if (job_->child.pid > 0) signal_tree(job_->child.pid, SIGKILL);
        break;
      case Action::Type::kExtend:
        send_extend(now);
        break;
      case Action::Type::kReport:
        send_report(now);
        break;
      case Action::Type::kOver:
        finish_job(action.note, now);
        break;
    }
  }
}

void Loop::start_step(Step step, MonoTime now) {
  Job& job = *job_;
  job.step = step;
  job.step_output.clear();
  job.step_errors = {};
  job.exited.reset();
  job.still.clear();

  GitJob git;
  if (step != Step::kRun) {
    const Result<GitSource> source = parse_git_source(options_.git);
    check(source.ok(), "the git source was checked at the start");
    git.source = *source;
    git.task = job.id;
    git.clone_directory = job.work_directory;
    git.cache_root = default_cache_root();
    git.agent = options_.agent.empty() ? "agent" : options_.agent;
    git.swarm = options_.swarm.empty() ? "swarm" : options_.swarm;
    const std::string first_line =
        agent::printable(job.body.substr(0, job.body.find('\n')), kSubjectBytes);
    git.subject = first_line.empty() ? "Task " + job.id.value : first_line;
  }
  SpawnSpec spec;
  if (step == Step::kPrepare) {
    spec.function = [git] { return git_prepare(git); };
  } else if (step == Step::kFinish) {
    spec.function = [git, base = job.base, path = socket_.path(), attempt = job.attempt] {
      return git_finish(git, base, [&] { await_confirmation(path, git.task, attempt); });
    };
  } else {
    spec.argv = job.command.empty() ? options_.command : job.command;
    spec.directory = job.work_directory;
    spec.stdin_path = job.body_file;
    spec.environment = {{"SWARM_TASK_ID", job.id.value},
                        {"SWARM_TASK_KEY", job.key},
                        {"SWARM_TASK_ATTEMPT", std::to_string(job.attempt)},
                        {"SWARM_TASK_DIR", job.work_directory},
                        {"SWARM_TASK_FILE", job.body_file},
                        {"CFN_COORDINATION_VERSION", job.version},
                        {"CFN_SOCKET", socket_.path()}};
    if (!options_.agent.empty()) spec.environment["CFN_AGENT_ID"] = options_.agent;
  }
  Result<Child> child = spawn(spec);
  if (child) {
    job.child = *std::move(child);
    return;
  }
  say(job.prefix + child.error().message);
  if (child.error().code == Code::kNotFound || step != Step::kRun) {
    // As a shell would say it; charged, so that a wrong command ends in the dead letters and not in
    // a loop.
    job.last.add(child.error().message);
    perform(job.run.on_exit({127, 0}, child.error().message, now), now);
  } else {
    perform(job.run.on_start_failed(child.error().message, now), now);
  }
}

void Loop::send_extend(MonoTime now) {
  Job& job = *job_;
  const std::string last = job.last.last(kProgressBytes);
  const bool news = !last.empty() && last != job.progress_sent;
  Request request(news ? "task_progress" : "task_extend");
  request.set("taskId", job.id.value).set_number("attempt", job.attempt);
  if (news) request.set("message", last);
  job.progress_sent = last;
  const std::optional<MonoTime> stuck = job.run.stuck_since();
  if (stuck) {
    Stillness look = look_at_descendants();
    look.result_printed = job.usage && job.usage->usage();
    job.still = words(look);
    if (!std::exchange(job.said_stuck, true))
      say(job.prefix + "stuck: no output and no CPU time for " +
          std::to_string((now - *stuck).count() / 1000) + "s" +
          (job.still.empty() ? "" : "; " + job.still));
    request.set_number("quietMs", (now - *stuck).count()).set("stuck", job.still);
  } else if (std::exchange(job.said_stuck, false)) {
    say(job.prefix + "not stuck any more");
  }
  job.extend_rid = socket_.submit(std::move(request), now + kAnswerWait);
}

void Loop::send_report(MonoTime now) {
  Job& job = *job_;
  const Verdict& verdict = job.run.verdict();
  const bool done = verdict.kind == Kind::kDone;
  if (job.reporting_since == MonoTime{}) {
    job.reporting_since = now;
    job.complain_at = now + kComplainEvery;
  }
  Request request(done ? "task_done" : "task_fail");
  request.set("taskId", job.id.value).set_number("attempt", job.attempt);
  if (verdict.exit_code) request.set_number("exitCode", *verdict.exit_code);
  if (done) {
    // A stream of all that a CLI does is long, and what it says of it stands at the end.
    const bool answered = job.usage && !job.usage->answer().empty();
    request.set_bytes("result", job.result.truncated() && answered
                                    ? agent::utf8_prefix(job.usage->answer(), job.result.limit())
                                    : job.result.kept());
    if (job.result.truncated()) {
      request.set_flag("truncated", true);
      request.set_number("resultBytes", static_cast<std::int64_t>(job.result.total()));
    }
    if (!job.branch.empty()) request.set("branch", job.branch).set("commit", job.commit);
  } else {
    const bool why = verdict.kind == Kind::kIdleTimeout && !job.still.empty();
    request.set("kind", kind_name(verdict.kind))
        .set("message", agent::printable(verdict.message + (why ? "; " + job.still : ""), 1000));
  }
  request.set_texts("lastLines", job.last.lines());
  if (auto used = job.usage ? job.usage->usage() : std::nullopt) {
    if (options_.prices) set_cost(*used, *options_.prices);
    request.set_object("usage", usage_object(*used));
  }
  job.report_rid = socket_.submit(std::move(request), now + kAnswerWait);
}

void Loop::on_answer(const Answer& answer, MonoTime now) {
  if (next_rid_ && answer.rid == *next_rid_) {
    on_next(answer, now);
    return;
  }
  std::erase(releases_, answer.rid);
  if (!job_) return;
  Job& job = *job_;
  if (job.extend_rid && answer.rid == *job.extend_rid) {
    job.extend_rid.reset();
    ExtendAnswer meaning = ExtendAnswer::kNone;
    if (answer.ok)
      meaning = answer.fields.flag("cancel")    ? ExtendAnswer::kCancel
                : answer.fields.flag("waiting") ? ExtendAnswer::kWaits
                                                : ExtendAnswer::kAlive;
    if (answer.code == "refused") meaning = ExtendAnswer::kLost;
    if (answer.ok) job.set_stuck(answer.fields);
    perform(job.run.on_extend(meaning, now), now);
  } else if (job.report_rid && answer.rid == *job.report_rid) {
    job.report_rid.reset();
    job.report_trouble = answer.message;
    ReportAnswer meaning = ReportAnswer::kAgain;
    if (answer.ok) meaning = ReportAnswer::kAccepted;
    if (answer.code == "refused") meaning = ReportAnswer::kRefused;
    if (answer.code == "invalid") meaning = ReportAnswer::kInvalid;
    if (answer.code == "not_found") meaning = ReportAnswer::kNotFound;
    perform(job.run.on_report(meaning, answer.message, now), now);
  }
}

void Loop::on_signals(MonoTime now) {
  signalfd_siginfo info{};
  while (::read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
    if (info.ssi_signo == static_cast<unsigned>(SIGCHLD)) continue;  // reaped below, every turn
    if (!stopping_) {
      say(job_ && !job_->run.reporting()
              ? job_->prefix + "shutting down; the task may finish within " +
                    std::to_string(options_.settings.task_grace.count() / 1000) + "s"
              : std::string("shutting down"));
    }
    stopping_ = true;
    if (job_) perform(job_->run.on_stop(now), now);
  }
}

// False when the pipe has ended.
bool Loop::read_pipe(Fd& fd, bool is_stdout, bool to_the_end) {
  static char buffer[kReadBytes];
  Job& job = *job_;
  for (std::size_t turn = 0; to_the_end || turn < kMaxReadsPerTurn; ++turn) {
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN;
    if (n == 0) return false;
    const std::string_view bytes(buffer, static_cast<std::size_t>(n));
    if (job.step != Step::kRun && is_stdout) {
      job.step_output += bytes.substr(0, kStepOutputBytes - job.step_output.size());
      continue;
    }
    if (is_stdout) job.result.add(bytes);
    if (is_stdout && job.usage) job.usage->add(bytes);
    LineLog& log = is_stdout ? job.out_log : job.err_log;
    log.add(bytes, log_, job.step == Step::kRun ? job.last : job.step_errors);
    job.run.on_activity(mono_now());
    if (!to_the_end && log_.size() >= kLogBufferBytes) return true;
  }
  return true;
}

void Loop::read_child(bool to_the_end, MonoTime now) {
  (void)now;
  if (!job_) return;
  Child& child = job_->child;
  if (child.out.open() && !read_pipe(child.out, true, to_the_end)) child.out.reset();
  if (child.err.open() && !read_pipe(child.err, false, to_the_end)) child.err.reset();
}

// The main process has ended: nothing of the step may survive it, then what it has written is
// complete.
void Loop::end_step(MonoTime now) {
  Job& job = *job_;
  Exit ignored;
  const Status killed = kill_descendants(-1, &ignored);
  if (!killed) say(job.prefix + killed.error().message);
  read_child(true, now);
  job.child = {};
  LastLines& last = job.step == Step::kRun ? job.last : job.step_errors;
  job.out_log.finish(log_, last);
  job.err_log.finish(log_, last);
  if (job.step == Step::kRun && job.usage) {
    job.usage->finish();
    if (const std::string why = job.usage->why(); !why.empty()) say(job.prefix + why);
  }
  std::string_view left = job.step_output;
  while (!left.empty()) {
    const std::string_view line = left.substr(0, left.find('\n'));
    left.remove_prefix(std::min(left.size(), line.size() + 1));
    const std::size_t blank = line.find(' ');
    if (blank == std::string_view::npos) continue;
    const std::string value(line.substr(blank + 1, kMaxBranchBytes));
    if (line.substr(0, blank) == "base") job.base = value;
    if (line.substr(0, blank) == "branch") job.branch = value;
    if (line.substr(0, blank) == "commit") job.commit = value;
  }
  // Of a CLI that is known (--usage) the last line is its own word, not that of a program it ran.
  std::string why;
  if (job.step != Step::kRun) {
    why = job.step_errors.last(kLastLineBytes);
  } else if (job.usage) {
    why = job.usage->failure();
    if (why.empty()) why = job.last.last(kLastLineBytes);
  }
  if (job.step != Step::kRun && *job.exited != Exit{}) {
    for (const std::string& line : job.step_errors.lines()) job.last.add(line);
  }
  perform(job.run.on_exit(*job.exited, why, now), now);
}

void Loop::sample_cpu(MonoTime now) {
  if (job_ && job_->child.pid > 0 && now >= job_->run.sample_at())
    job_->run.on_sample(process_times(), now);
}

void Loop::finish_job(const std::string& note, MonoTime now) {
  Job& job = *job_;
  if (!note.empty()) say(job.prefix + note);
  const Verdict& verdict = job.run.verdict();
  const bool done = note.empty() && verdict.kind == Kind::kDone;
  if (note.empty() && verdict.kind != Kind::kDone) {
    say(job.prefix + std::string(kind_name(verdict.kind)) + ": " +
        agent::printable(verdict.message, 1000));
  }
  if (job.extend_rid) socket_.forget(*job.extend_rid);
  if (job.report_rid) socket_.forget(*job.report_rid);
  if (!job.directory.empty()) remove_tree(job.directory);
  if (verdict.kind == Kind::kTryLater && job.run.never_ran()) {
    rest(now);
  } else {
    rest_ = kRestFirst;
    ask_at_ = now;
  }
  if (options_.once) {
    ended_ = true;
    exit_code_ = done ? 0 : 1;
  }
  job_.reset();
}

// Writes only as much as the reader surely takes: standard output stays blocking, it may be shared
// with others.
void Loop::write_log() {
  std::size_t written = 0;
  for (std::size_t turn = 0; turn < kLogWritesPerTurn && written < log_.size(); ++turn) {
    pollfd entry{STDOUT_FILENO, POLLOUT, 0};
    if (::poll(&entry, 1, 0) <= 0) break;
    const ssize_t n = ::write(STDOUT_FILENO, log_.data() + written,
                              std::min(log_.size() - written, kLogWriteBytes));
    if (n > 0) {
      written += static_cast<std::size_t>(n);
    } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
      if (!log_broken_)
        say(std::string("the log can't be written any more: ") + std::strerror(errno));
      log_broken_ = true;
      written = log_.size();
    }
  }
  log_.erase(0, written);
}

void Loop::flush_log() {
  const MonoTime deadline = mono_now() + kLogFlushLimit;
  while (!log_.empty() && mono_now() < deadline) {
    pollfd entry{STDOUT_FILENO, POLLOUT, 0};
    if (::poll(&entry, 1, 100) > 0) write_log();
  }
}

void Loop::complain(MonoTime now) {
  if (job_ && job_->run.reporting() && now >= job_->complain_at) {
    const std::string& why = socket_.trouble().empty() ? job_->report_trouble : socket_.trouble();
    say(job_->prefix + "the outcome has not been accepted for " +
        std::to_string((now - job_->reporting_since).count() / 1000) + "s (" +
        (why.empty() ? "no answer" : why) + "); trying on");
    job_->complain_at = now + kComplainEvery;
  }
  if (!job_ && next_rid_ && !socket_.trouble().empty() && now >= complain_at_) {
    // Right after the start this is the sidecar's own start: give it a moment.
    if (complain_at_ != MonoTime{}) say(socket_.trouble() + "; trying on");
    complain_at_ = now + kComplainEvery;
  }
}

MonoTime Loop::wake_at(MonoTime now) const {
  MonoTime at = std::min(socket_.wake_at(), now + kComplainEvery);
  if (job_) {
    at = std::min(at, job_->run.wake_at());
    if (job_->run.reporting()) at = std::min(at, job_->complain_at);
  } else if (!next_rid_) {
    at = std::min(at, ask_at_);
  }
  if (!socket_.trouble().empty() && !job_ && next_rid_)
    at = std::min(at, std::max(complain_at_, now));
  return at;
}

int Loop::run() {
  sigset_t mask;
  sigemptyset(&mask);
  for (const int signal : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&mask, signal);
  ::sigprocmask(SIG_BLOCK, &mask, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  signals_ = Fd(::signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!signals_.open()) {
    say(std::string("signalfd: ") + std::strerror(errno));
    return 1;
  }
  if (!become_subreaper())
    say("this kernel lets background processes of a task escape (no subreaper)");

  for (;;) {
    MonoTime now = mono_now();
    if (!job_ && (ended_ || (stopping_ && releases_.empty()))) {
      // A task handed out in this very moment is returned, not left to its lease.
      if (!stopping_ || !next_rid_ || !socket_.connected()) break;
      socket_.pump(now);
      for (const Answer& answer : socket_.take()) on_answer(answer, now);
      if (releases_.empty()) break;
    }
    if (!job_ && !stopping_ && !next_rid_ && now >= ask_at_) ask(now);

    pollfd entries[5];
    nfds_t count = 0;
    entries[count++] = {signals_.get(), POLLIN, 0};
    if (socket_.fd() >= 0) entries[count++] = {socket_.fd(), socket_.events(), 0};
    if (!log_.empty()) entries[count++] = {STDOUT_FILENO, POLLOUT, 0};
    const std::size_t log_entry = log_.empty() ? 0 : count - 1;
    if (job_ && log_.size() < kLogBufferBytes) {
      if (job_->child.out.open()) entries[count++] = {job_->child.out.get(), POLLIN, 0};
      if (job_->child.err.open()) entries[count++] = {job_->child.err.get(), POLLIN, 0};
    }
    // Anything that pump() or take() left to do counts as now.
    const MonoTime at = wake_at(now);
    const auto wait = std::clamp<std::int64_t>((at - now).count() + (at > now ? 1 : 0), 0, 60'000);
    if (::poll(entries, count, static_cast<int>(wait)) < 0 && errno != EINTR) {
      say(std::string("poll: ") + std::strerror(errno));
      return 1;
    }
    now = mono_now();
    if (log_entry != 0 && entries[log_entry].revents != 0) write_log();
    // Signals after the socket and before its answers: a task that comes together with SIGTERM is
    // not begun. And before reap(): of a child that ends they tell once.
    socket_.pump(now);
    on_signals(now);
    Exit exit;
    const bool ended = reap(job_ ? job_->child.pid : -1, &exit);
    if (log_.size() < kLogBufferBytes) read_child(false, now);
    if (ended && job_) {
      job_->exited = exit;
      end_step(now);
    }
    for (const Answer& answer : socket_.take()) on_answer(answer, now);
    sample_cpu(now);
    if (job_) perform(job_->run.on_tick(now), now);
    complain(now);
  }
  flush_log();
  return exit_code_;
}

}  // namespace

int work(const WorkOptions& options, agent::SocketClient& socket) {
  return Loop(options, socket).run();
}

}  // namespace swarm::worker
