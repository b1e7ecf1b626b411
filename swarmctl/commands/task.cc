// kubectl swarm result, cancel, retry, top: what is done with one task, and the live view.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "commands/command.h"
#include "text/format.h"
#include "text/json.h"
#include "text/views.h"

namespace swarm::commands {
namespace {

using nlohmann::json;
using text::get_text;

struct Found {
  TaskId id;
  cluster::TaskPlace place;
};

Result<Found> find(Session& session, const Options& options) {
  const Result<TaskId> id = text::parse_task(options.arguments[0]);
  if (!id) return id.error();
  const Result<cluster::Cluster*> cluster = session.open();
  if (!cluster) return cluster.error();
  Result<cluster::TaskPlace> place = (*cluster)->find_task(*id, options.swarm, options.deadline());
  if (!place) return place.error();
  return Found{*id, *std::move(place)};
}

// Beside the file first, so that a half-written result never has its name.
Status write_file(const std::string& path, std::string_view bytes) {
  std::string temporary = path + ".XXXXXX";
  const int fd = ::mkostemp(temporary.data(), O_CLOEXEC);
  if (fd < 0) return internal_error(temporary + ": " + std::strerror(errno));
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) break;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  const bool closed = ::close(fd) == 0;
  if (!bytes.empty() || !closed || ::rename(temporary.c_str(), path.c_str()) != 0) {
    const Error error = internal_error(path + ": " + std::strerror(errno));
    ::unlink(temporary.c_str());
    return error;
  }
  return {};
}

int act(const Options& options, const std::string& verb) {
  const Status output = check_output(options.output, {"name"});
  if (!output) return fail(output.error());
  Session session(options);
  const Result<Found> found = find(session, options);
  if (!found) return fail(found.error());
  const std::string& id = found->id.value;
  const Result<cluster::Cluster*> cluster = session.open();
  if (!cluster) return fail(cluster.error());
  // cancel is the same twice; a second retry would meet a task that is already queued.
  const Result<json> task =
      (*cluster)->call_json(found->place.swarm, "POST", "/tasks/" + id + "/" + verb, "{}",
                            verb == "cancel", options.deadline());
  if (!task) return fail(task.error());
  if (options.output == "name") return print("task/" + id + "\n") ? 0 : 1;
  if (!options.output.empty()) return print_as(options.output, *task) ? 0 : 1;
  const std::string state = text::shorten(get_text(*task, "state"), 20);
  if (verb == "retry") return print("task/" + id + " is " + state + " again\n") ? 0 : 1;
  if (state == "cancelled") return print("task/" + id + " cancelled\n") ? 0 : 1;
  return print("task/" + id + " is being cancelled (now " + state + ")\n") ? 0 : 1;
}

}  // namespace

int result(const Options& options) {
  const MonoTime deadline = options.wait_deadline();
  Session session(options);
  const Result<Found> found = find(session, options);
  if (!found) return fail(found.error());
  const std::string& id = found->id.value;
  const Result<cluster::Cluster*> cluster = session.open();
  if (!cluster) return fail(cluster.error());
  json task = *found->place.task;
  if (options.wait && !text::is_final(task)) {
    Result<json> over = wait_until_final(**cluster, found->place.swarm, id, deadline);
    if (!over) return fail(over.error());
    task = *std::move(over);
  }
  const bool done = get_text(task, "state") == "done";
  if (options.wait && !done) return fail_without_result(task);
  const Result<std::string> got =
      fetch_result(**cluster, found->place.swarm, task, options.deadline());
  if (!got) {
    if (got.error().code != Code::kNotFound) return fail(got.error());
    if (done) return fail(got.error());  // it has expired just now
    if (text::is_final(task)) return fail_without_result(task);
    return fail(not_found(
        "task " + id + " has no result yet: it is " + text::shorten(get_text(task, "state"), 20) +
        ". --wait waits for it; kubectl swarm logs -f task/" + id + " shows what it prints"));
  }
  if (options.output.empty() || options.output == "-") return print(*got) ? 0 : 1;
  const Status written = write_file(options.output, *got);
  return written ? 0 : fail(written.error());
}

int cancel(const Options& options) { return act(options, "cancel"); }
int retry(const Options& options) { return act(options, "retry"); }

int top(const Options& options) {
  std::string given = options.swarm;
  if (!options.arguments.empty()) {
    const Result<std::string> name = text::parse_swarm(options.arguments[0]);
    if (!name) return fail(name.error());
    given = *name;
  }
  const bool live = !options.once && ::isatty(STDOUT_FILENO) != 0;
  Session session(options);
  const Result<cluster::Cluster*> cluster = session.open();
  if (!cluster) return fail(cluster.error());
  const Result<std::string> swarm = (*cluster)->only_swarm(given, options.deadline());
  if (!swarm) return fail(swarm.error());
  for (;;) {
    const Result<json> stats =
        (*cluster)->call_json(*swarm, "GET", "/stats", "", true, options.deadline());
    if (!stats) return fail(stats.error());
    const Result<json> agents =
        (*cluster)->call_json(*swarm, "GET", "/agents", "", true, options.deadline());
    if (!agents) return fail(agents.error());
    std::string page = text::top(*swarm, *stats, text::get(*agents, "agents"), wall_now());
    cluster::Listing list;
    list.add(*stats, "");
    list.add(*agents, "");
    const std::string warnings = missing(list, "tasks and agents");
    if (!live) {
      if (!print(page)) return 1;
      std::fputs(warnings.c_str(), stderr);
      return list.complete() ? 0 : kExitPartial;
    }
    page = warnings + page;
    winsize size{};
    if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 2) {
      std::size_t lines = 0;
      for (std::size_t i = 0; i < page.size(); ++i) {
        if (page[i] == '\n' && ++lines == size.ws_row - 1U) page.resize(i + 1);
      }
    }
    if (!print("\x1B[H\x1B[2J" + page)) return 1;
    std::this_thread::sleep_for(kRefresh);
  }
}

}  // namespace swarm::commands
