#include "reconcile/operator.h"

#include <array>
#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <random>
#include <thread>

#include "kube/informer.h"
#include "net/http_server.h"
#include "reconcile/executor.h"
#include "reconcile/queue.h"
#include "reconcile/reconciler.h"
#include "reconcile/world.h"
#include "telemetry/log.h"
#include "telemetry/metrics.h"

namespace swarm::reconcile {
namespace {

constexpr Milliseconds kEventDelay{20};       // several events of a Swarm become one look at it
constexpr Milliseconds kTakeWait{1'000};      // so that the worker shows a sign of life
constexpr Milliseconds kStuckAfter{300'000};  // no sign of life: not healthy
constexpr Milliseconds kVersionRecheck{600'000};
constexpr Milliseconds kVersionRetry{2'000};
constexpr int kTroubleLogEvery = 5;  // watch failures in a row are logged at 1, 6, 11, …

std::uint64_t seed() {
  std::random_device device;
  return (static_cast<std::uint64_t>(device()) << 32U) | device();
}

std::string status_class(int status) {
  if (status == 0) return "none";
  if (status == 409 || status == 429) return std::to_string(status);
  return std::to_string(status / 100) + "xx";
}

}  // namespace

struct Operator::State final : Lists {
  State(net::HttpClient& h, OperatorOptions o, std::function<void()> lost)
      : http(h),
        options(std::move(o)),
        on_lost(std::move(lost)),
        free_client(http, {}, observer()),
        gated_client(
            http, [this] { return write_time(); }, observer()),
        elector(
            free_client, options.elector, [this] { won(); }, [this] { lose(); }),
        queue(seed()),
        world([this](const Key& key, bool urgent) { changed(key, urgent); }),
        executor(gated_client, world, *this, options.instance),
        reconciler(world, executor) {}

  kube::Client::Observer observer() {
    return [this](const std::string& method, int status, Milliseconds took) {
      metrics
          .counter("swarm_operator_api_requests_total",
                   "Requests to the API server, watches aside.",
                   {{"method", method}, {"status", status_class(status)}})
          .add();
      metrics
          .histogram("swarm_operator_api_request_duration_seconds", "How long the API server took.",
                     {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
                     {{"method", method}})
          .observe(static_cast<double>(took.count()) / 1000);
    };
  }

  telemetry::Counter& watch_failures(const kube::Resource& resource) {
    return metrics.counter("swarm_operator_watch_failures_total", "Lists and watches that failed.",
                           {{"resource", std::string(resource.plural)}});
  }

  // What a person needs to know besides the API server's words.
  static std::string with_remedy(const kube::Resource& resource, const std::string& why) {
    if (resource.kind != kube::kSwarms.kind || !why.starts_with("HTTP 404")) return why;
    return why +
           "; the CustomResourceDefinition swarms.cfn.dev is not installed: kubectl apply -k "
           "manifests";
  }

  Milliseconds write_time() const {
    return options.elect ? elector.remaining() : kube::kCallDeadline;
  }

  void changed(const Key& key, bool urgent) {
    const MonoTime now = mono_now();
    queue.with([&](WorkQueue& q) {
      if (urgent) {
        q.urgent(key, now);
      } else {
        q.add(key, now + kEventDelay);
      }
    });
  }

  std::uint64_t relist(std::size_t watched) override { return informers.at(watched)->relist(); }
  std::uint64_t completed(std::size_t watched) const override {
    return informers.at(watched)->completed();
  }

  // On the election's thread (or start()'s): from here on we lead.
  void won() {
    const std::lock_guard lock(lifecycle);
    if (stopping.load()) return;
    metrics.gauge("swarm_operator_leader", "1 while this process leads.").set(1);
    for (std::size_t i = 0; i < kWatchedKinds; ++i) {
      kube::WatchOptions watch;
      watch.resource = kWatched[i];
      watch.namespace_name = options.watch_namespace;
      if (kWatched[i].kind != kube::kSwarms.kind) {
        watch.selector.labels =
            std::string(plan::kManagedByLabel) + "=" + std::string(plan::kManagedBy);
      }
      watch_failures(kWatched[i]).add(0);  // seen before the first one
      informers[i] = std::make_unique<kube::Informer>(
          http, watch, world.sink(i),
          [this](const kube::Resource& resource, int failures, const std::string& why) {
            watch_failures(resource).add();
            if (failures % kTroubleLogEvery == 1) {
              telemetry::warn("watch failed", {{"resource", resource.plural},
                                               {"failures", failures},
                                               {"why", with_remedy(resource, why)}});
            }
          });
    }
    for (auto& informer : informers) informer->start();
    worker = std::jthread([this](const std::stop_token& stop) { work(stop); });
  }

  void lose() {
    metrics.gauge("swarm_operator_leader", "1 while this process leads.").set(0);
    telemetry::error("leadership lost: nothing is written any more");
    on_lost();
  }

  bool wait(const std::stop_token& stop, Milliseconds time) {
    std::mutex mutex;
    std::condition_variable_any never;
    std::unique_lock lock(mutex);
    never.wait_for(lock, stop, time, [] { return false; });
    return !stop.stop_requested();
  }

  // Asks the API server for its version; false: it must be tried again.
  bool read_version(const std::stop_token& stop) {
    const kube::Reply reply = free_client.call({"GET", "/version", "", ""}, stop);
    if (!reply.ok()) {
      if (!stop.stop_requested())
        telemetry::warn("reading the API server's version failed", {{"why", reply.error.message}});
      return false;
    }
    const Result<kube::ServerVersion> version = kube::parse_version(reply.body);
    if (!version.ok()) {
      telemetry::warn("the API server's version is not readable",
                      {{"why", version.error().message}});
      return false;
    }
    if (version->major != settings.kubernetes_major ||
        version->minor != settings.kubernetes_minor || !version_known) {
      telemetry::info("API server", {{"major", version->major}, {"minor", version->minor}});
      settings.kubernetes_major = version->major;
      settings.kubernetes_minor = version->minor;
      if (!plan::supported(settings)) {
        telemetry::error("this API server is too old: nothing is created; upgrade the cluster",
                         {{"minor", version->minor},
                          {"atLeast", "1." + std::to_string(plan::kMinKubernetesMinor)}});
      }
      if (version_known) {
        for (const Key& key : world.keys()) changed(key, false);
      }
    }
    version_known = true;
    version_read = mono_now();
    return true;
  }

  void work(const std::stop_token& stop) {
    settings = options.settings;
    while (!stop.stop_requested() && !read_version(stop)) {
      alive();
      if (!wait(stop, kVersionRetry)) return;
    }
    while (!stop.stop_requested() && !world.synced()) {
      alive();
      if (!wait(stop, Milliseconds{20})) return;
    }
    if (stop.stop_requested()) return;
    telemetry::info("synced", {{"swarms", world.swarms()}, {"pods", world.pods()}});
    synced.store(true);
    for (const Key& key : world.keys()) changed(key, false);
    while (!stop.stop_requested()) {
      alive();
      if (mono_now() - version_read > kVersionRecheck && !read_version(stop)) {
        version_read =
            mono_now() - kVersionRecheck + kVersionRetry * 10;  // with the old one meanwhile
      }
      const std::optional<Key> key = queue.take(stop, mono_now() + kTakeWait);
      if (!key) continue;
      look_at(*key, stop);
    }
  }

  void look_at(const Key& key, const std::stop_token& stop) {
    const MonoTime start = mono_now();
    const Next next = reconciler.reconcile(key, settings, stop);
    const MonoTime now = mono_now();
    const bool failed = next.kind == Next::Kind::kFailed;
    metrics
        .counter("swarm_operator_reconciles_total", "Looks at a Swarm.",
                 {{"result", failed ? "failed" : "ok"}})
        .add();
    metrics
        .histogram("swarm_operator_reconcile_duration_seconds",
                   "How long one look at a Swarm took.",
                   {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30})
        .observe(static_cast<double>((now - start).count()) / 1000);
    if (next.writes > 0) {
      metrics.counter("swarm_operator_writes_total", "Writes for Swarms, Events aside.")
          .add(next.writes);
    }
    if (failed) {
      telemetry::warn("reconcile failed",
                      {{"swarm", key.name}, {"namespace", key.namespace_name}, {"why", next.why}});
    }
    queue.with([&](WorkQueue& q) {
      switch (next.kind) {
        case Next::Kind::kNothing:
          q.succeeded(key);
          break;
        case Next::Kind::kAfter:
          q.succeeded(key);
          q.add(key, now + next.after);
          break;
        case Next::Kind::kFailed:
          q.failed(key, now, next.retry_after);
          break;
        case Next::Kind::kForget:
          q.forget(key);
          break;
        case Next::Kind::kStopped:
          q.add(key, now + kEventDelay);
          break;
      }
      q.done(key);
    });
  }

  void alive() { heartbeat.store(mono_now().time_since_epoch().count()); }
  static Milliseconds since(const std::atomic<std::int64_t>& moment) {
    return mono_now().time_since_epoch() - Milliseconds(moment.load());
  }
  [[nodiscard]] bool leading() const { return !options.elect || elector.leader(); }

  void serve(const net::HttpRequest& request, const net::Respond& respond) {
    const std::string text = "text/plain; charset=utf-8";
    if (request.method != "GET" && request.method != "HEAD")
      return respond({405, text, "only GET\n", {}});
    if (request.path == "/healthz") {
      const bool stuck = synced.load() && since(heartbeat) > kStuckAfter;
      return respond(stuck ? net::HttpResponse{503, text, "the worker is stuck\n", {}}
                           : net::HttpResponse{200, text, "ok\n", {}});
    }
    if (request.path == "/readyz") {
      std::string why;
      if (stopping.load()) {
        why = "stopping";
      } else if (leading() && !synced.load()) {
        why = "leading, but not everything is listed yet";
      } else if (!leading() && !elector.informed()) {
        why = "the leader's Lease is not known yet";
        if (const std::string trouble = elector.trouble(); !trouble.empty()) why += ": " + trouble;
      } else if (!leading() && !elector.trouble().empty()) {
        why = "the leader's Lease cannot be read: " + elector.trouble();
      }
      return respond(
          why.empty()
              ? net::HttpResponse{200, text, leading() ? "ok, leading\n" : "ok, waiting\n", {}}
              : net::HttpResponse{503, text, why + "\n", {}});
    }
    if (request.path == "/metrics") {
      metrics.gauge("swarm_operator_queue_length", "Swarms waiting to be looked at.")
          .set(static_cast<double>(queue.size()));
      metrics.gauge("swarm_operator_swarms", "Swarms seen.")
          .set(static_cast<double>(world.swarms()));
      metrics.gauge("swarm_operator_pods", "Pods of Swarms seen.")
          .set(static_cast<double>(world.pods()));
      return respond({200, std::string(telemetry::Metrics::kContentType), metrics.text(), {}});
    }
    respond({404, text, "there are /healthz, /readyz and /metrics\n", {}});
  }

  net::HttpClient& http;
  const OperatorOptions options;
  const std::function<void()> on_lost;
  telemetry::Metrics metrics;
  kube::Client free_client;
  kube::Client gated_client;
  Elector elector;
  SharedQueue queue;
  World world;
  std::array<std::unique_ptr<kube::Informer>, kWatchedKinds> informers;
  Executor executor;
  Reconciler reconciler;
  plan::Settings settings;  // the worker's
  bool version_known = false;
  MonoTime version_read{};
  std::atomic<bool> synced{false};
  std::atomic<bool> stopping{false};
  std::atomic<std::int64_t> heartbeat{0};

  boost::asio::io_context io{1};
  std::optional<boost::asio::executor_work_guard<boost::asio::io_context::executor_type>> io_work;
  net::HttpServer server;
  std::jthread http_thread;
  std::jthread election;
  std::jthread worker;

  std::mutex lifecycle;  // won() against stop(): informers and worker are made under it, or never
  std::mutex ended_mutex;
  std::condition_variable ended_changed;
  bool ended = false;
};

Operator::Operator(net::HttpClient& http, OperatorOptions options, std::function<void()> on_lost)
    : state_(std::make_unique<State>(http, std::move(options), std::move(on_lost))) {}

Operator::~Operator() {
  if (state_) stop(Milliseconds{60'000});
}

std::uint16_t Operator::http_port() const { return state_->server.port(); }

Status Operator::start() {
  State& s = *state_;
  s.alive();
  s.metrics.gauge("swarm_operator_leader", "1 while this process leads.").set(0);
  s.io_work.emplace(boost::asio::make_work_guard(s.io));
  const Status listening =
      s.server.start(s.io, s.options.http_address, s.options.http_port,
                     [&s](const net::HttpRequest& request, const net::Respond& respond) {
                       s.serve(request, respond);
                     });
  if (!listening.ok()) return listening;
  s.http_thread = std::jthread([&s] { s.io.run(); });
  if (s.options.elect) {
    s.election = std::jthread([&s](const std::stop_token& stop) { s.elector.run(stop); });
  } else {
    s.won();
  }
  return {};
}

bool Operator::stop(Milliseconds deadline) {
  State& s = *state_;
  {
    const std::lock_guard lock(s.lifecycle);
    s.stopping.store(true);
  }
  // The joins have no deadline of their own, so they are done elsewhere.
  std::thread joiner([&s] {
    for (const auto& informer : s.informers) {
      if (informer) informer->request_stop();
    }
    s.worker.request_stop();
    if (s.worker.joinable()) s.worker.join();
    s.election.request_stop();  // releases the Lease: after the last write
    if (s.election.joinable()) s.election.join();
    for (auto& informer : s.informers) informer.reset();
    s.server.stop();
    s.io_work.reset();
    s.io.stop();
    if (s.http_thread.joinable()) s.http_thread.join();
    const std::lock_guard lock(s.ended_mutex);
    s.ended = true;
    s.ended_changed.notify_all();
  });
  std::unique_lock lock(s.ended_mutex);
  const bool in_time = s.ended_changed.wait_for(lock, deadline, [&s] { return s.ended; });
  lock.unlock();
  if (in_time) {
    joiner.join();
  } else {
    joiner.detach();
  }
  return in_time;
}

}  // namespace swarm::reconcile
