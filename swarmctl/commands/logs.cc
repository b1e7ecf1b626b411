// kubectl swarm logs: the lines that a task's attempts have printed, out of the logs of the pods
// they ran in.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "commands/command.h"
#include "text/format.h"
#include "text/json.h"
#include "text/views.h"

namespace swarm::commands {
namespace {

using nlohmann::json;
using text::get_text;

constexpr std::int64_t kMostTail = 1'000'000;
constexpr std::size_t kMostContainers = 16;  // of one pod
constexpr Milliseconds kAfterTheEnd{1500};   // the kubelet needs a moment for the last lines
constexpr Milliseconds kFollowPoll{1000};

// The pods in which the task has run, oldest first, each once; the current one is last.
std::vector<std::string> pods_of(const json& task) {
  std::vector<std::string> out;
  const auto add = [&](const std::string& pod) {
    if (pod.empty()) return;
    std::erase(out, pod);
    out.push_back(pod);
  };
  for (const json& attempt : text::get(task, "history")) add(get_text(attempt, "pod"));
  add(get_text(task, "pod"));
  return out;
}

class Logs {
 public:
  Logs(cluster::Cluster& cluster, const Options& options, const TaskId& task)
      : cluster_(cluster), options_(options), task_(task) {}

  int run() {
    Result<cluster::TaskPlace> place =
        cluster_.find_task(task_, options_.swarm, options_.deadline());
    if (!place) return fail(place.error());
    swarm_ = place->swarm;
    json task = *place->task;
    for (;;) {
      const std::vector<std::string> pods = pods_of(task);
      const bool final = text::is_final(task);
      if (pods.empty() && final)
        std::fprintf(stderr, "Task %s has never run; it is %s.\n", task_.value.c_str(),
                     get_text(task, "state").c_str());
      if (pods.empty() && !options_.follow) {
        if (!final)
          std::fprintf(stderr, "Task %s has not run yet; -f waits for it.\n", task_.value.c_str());
        return 0;
      }
      for (const std::string& pod : pods) {
        if (shown_.contains(pod)) continue;
        const bool current = options_.follow && !final && pod == pods.back();
        if (!current) shown_.insert(pod);
        const int code = show_pod(pod, task, current);
        if (code != 0) return code;
        if (current) shown_.insert(pod);
      }
      if (!options_.follow || final || closed_) {
        flush_tail();
        return 0;
      }
      if (pods.empty() || shown_.contains(pods.back())) std::this_thread::sleep_for(kFollowPoll);
      // -f: the next attempt may be in another pod.
      const Result<json> now = look();
      if (!now) return fail(now.error());
      task = *now;
    }
  }

 private:
  Result<json> look() { return look_with(cluster_); }

  Result<json> look_with(cluster::Cluster& cluster) {
    return cluster.call_json(swarm_, "GET", "/tasks/" + task_.value, "", true, options_.deadline());
  }

  void take(std::string_view line) {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    if (options_.tail >= 0 && !live_) {
      tail_.emplace_back(line);
      if (tail_.size() > static_cast<std::size_t>(options_.tail)) tail_.pop_front();
      return;
    }
    if (!print(std::string(line) + "\n")) closed_ = true;
  }

  void flush_tail() {
    const std::lock_guard lock(mutex_);
    for (const std::string& line : tail_) {
      if (!closed_ && !print(line + "\n")) closed_ = true;
    }
    tail_.clear();
  }

  // Where the pod is gone, the task's own memory of its end.
  void show_history(const json& task, const std::string& pod) {
    std::fprintf(stderr, "Pod %s is gone; what the task remembers of its last lines:\n",
                 text::shorten(pod, 253).c_str());
    for (const json& attempt : text::get(task, "history")) {
      if (get_text(attempt, "pod") != pod) continue;
      const std::string prefix =
          options_.prefix ? "[" + task_.value + " " +
                                std::to_string(text::get_number(attempt, "attempt")) + "] "
                          : "";
      for (const json& line : text::get(attempt, "lastLines")) {
        if (line.is_string()) take(prefix + line.get<std::string>());
      }
    }
  }

  int show_pod(const std::string& pod, const json& task, bool follow) {
    const Result<json> found = cluster_.pod(pod, options_.deadline());
    if (!found) {
      if (found.error().code != Code::kNotFound) return fail(found.error());
      show_history(task, pod);
      return 0;
    }
    std::vector<std::string> containers;
    for (const json& container : text::get(text::get(*found, "spec"), "containers")) {
      if (containers.size() < kMostContainers) containers.push_back(get_text(container, "name"));
    }
    std::set<std::string> restarted;
    for (const json& status : text::get(text::get(*found, "status"), "containerStatuses")) {
      if (text::get_number(status, "restartCount") > 0) restarted.insert(get_text(status, "name"));
    }
    std::optional<Error> trouble;
    std::size_t worked = 0;
    const auto read = [&](cluster::Cluster& cluster, const std::string& container, bool following,
                          bool previous, const std::function<bool()>& go_on) {
      TaskLines lines(task_.value, options_.prefix, [this](std::string_view line) { take(line); });
      const Status status = cluster.pod_log(
          pod, container, following, previous, [&](std::string_view bytes) { lines.add(bytes); },
          go_on);
      lines.finish();
      const std::lock_guard lock(mutex_);
      if (status) {
        ++worked;
      } else if (!previous) {  // a previous log may have been thrown away
        trouble = status.error();
      }
    };
    const auto unless_closed = [this] { return !closed_.load(); };
    for (const std::string& container : containers) {
      if (restarted.contains(container)) read(cluster_, container, false, true, unless_closed);
    }
    if (!follow) {
      for (const std::string& container : containers)
        read(cluster_, container, false, false, unless_closed);
    } else {
      flush_and_go_live();
      std::atomic<bool> stop{false};
      std::atomic<std::size_t> running{containers.size()};
      std::vector<std::jthread> readers;
      for (const std::string& container : containers) {
        readers.emplace_back([&, container] {
          cluster::Cluster own(cluster_);
          own.set_on_wait(nullptr);
          read(own, container, true, false, [&] { return !stop && !closed_; });
          --running;
        });
      }
      // The task ends, or goes on in another pod: then this log has said all there is, but for what
      // is on its way.
      while (running > 0 && !closed_) {
        std::this_thread::sleep_for(kFollowPoll);
        const Result<json> now = look();
        if (!now) continue;  // the coordinator may be moving; the log goes on
        if (text::is_final(*now) || (!pods_of(*now).empty() && pods_of(*now).back() != pod)) {
          std::this_thread::sleep_for(kAfterTheEnd);
          break;
        }
      }
      stop = true;
      readers.clear();
    }
    if (worked == 0 && trouble) {
      if (trouble->code == Code::kNotFound) {
        show_history(task, pod);
        return 0;
      }
      return fail(*trouble);
    }
    return 0;
  }

  void flush_and_go_live() {
    // --tail applies to what was there before; with -f everything of the running attempt is shown.
    flush_tail();
    live_ = true;
  }

  cluster::Cluster& cluster_;
  const Options& options_;
  TaskId task_;
  std::string swarm_;
  std::set<std::string> shown_;
  std::mutex mutex_;
  std::deque<std::string> tail_;
  std::atomic<bool> live_{false};
  std::atomic<bool> closed_{false};
};

}  // namespace

int logs(const Options& options) {
  const Result<TaskId> task = text::parse_task(options.arguments[0]);
  if (!task) return fail(task.error());
  if (options.tail > kMostTail) return fail(invalid("--tail takes 0 to 1000000"));
  Session session(options);
  const Result<cluster::Cluster*> cluster = session.open();
  if (!cluster) return fail(cluster.error());
  return Logs(**cluster, options, *task).run();
}

}  // namespace swarm::commands
