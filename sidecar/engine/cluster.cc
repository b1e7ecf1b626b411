#include "engine/cluster.h"

#include <algorithm>
#include <cstdlib>

#include "api/swarm.h"
#include "base/encoding.h"
#include "engine/control_json.h"
#include "net/beast_client.h"
#include "net/http_server.h"

namespace swarm::engine {
namespace {

constexpr Milliseconds kCallDeadline{5000};
constexpr Milliseconds kReportPeriod{5000}, kSoonPeriod{1000};
constexpr Milliseconds kFirstPause{100}, kMaxPause{5000};

TeamSettings settings_of(const api::Swarm& swarm, const Config& config) {
  TeamSettings out;
  out.suspended = swarm.spec.suspend;
  out.max_attempts = static_cast<std::uint32_t>(swarm.spec.tasks.max_attempts);
  out.max_queued = static_cast<std::uint32_t>(swarm.spec.tasks.max_queued);
  out.result_retention =
      Milliseconds(std::int64_t{1000} * swarm.spec.tasks.result_retention_seconds);
  out.stuck_after = Milliseconds(std::int64_t{1000} * swarm.spec.health.stuck_after_seconds);
  out.end_stuck = swarm.spec.health.on_stuck == api::OnStuck::kRestart;
  if (swarm.spec.budget)
    out.budget_micro_usd = static_cast<std::uint64_t>(swarm.spec.budget->micro_usd);
  out.swarm_cost_micro_usd = static_cast<std::uint64_t>(swarm.status.usage.cost_micro_usd);
  // The status of a Swarm that is seconds old may still be empty.
  out.coordinators = swarm.status.topology.coordinators > 0
                         ? static_cast<std::uint32_t>(swarm.status.topology.coordinators)
                         : config.coordinators;
  if (swarm.spec.rollout) {
    out.v2_percentage = swarm.spec.rollout->traffic_percentage;
    out.v1_command = swarm.spec.rollout->v1_command;
  }
  return out;
}

}  // namespace

// What the Informer sees of our Swarm; on its thread.
class Cluster::OwnSwarm final : public kube::WatchSink {
 public:
  explicit OwnSwarm(Cluster& cluster) : cluster_(cluster) {}

  void list_started() override { there_ = false; }
  void put(const json& object) override {
    if (!is_ours(object)) return;
    there_ = true;
    const auto swarm = api::parse(object);
    if (!swarm) return cluster_.tell("the Swarm can't be read; the settings stay as they were");
    cluster_.loop_.post([&c = cluster_, settings = settings_of(*swarm, cluster_.config_)] {
      c.events_.settings(settings);
    });
    if (swarm->deletion_time) deleted();
  }
  void removed(const json& object) override {
    if (is_ours(object)) deleted();
  }
  void list_finished(std::string_view /*resource_version*/) override {
    if (!there_) deleted();
    const std::lock_guard lock(cluster_.mutex_);
    cluster_.listed_ = true;
    cluster_.changed_.notify_all();
  }
  void advanced(std::string_view /*resource_version*/) override {}

 private:
  // Another one may have the same name.
  [[nodiscard]] bool is_ours(const json& object) const {
    const auto metadata = object.find("metadata");
    return metadata != object.end() && metadata->is_object() &&
           text_of(*metadata, "uid") == cluster_.config_.swarm_uid;
  }
  void deleted() {
    cluster_.loop_.post([&c = cluster_] { c.events_.deleted(); });
  }

  Cluster& cluster_;
  bool there_ = false;
};

Cluster::Cluster(Loop& loop, const Config& config, Events events, Milliseconds look_period)
    : loop_(loop), config_(config), events_(std::move(events)), look_period_(look_period) {}

Cluster::~Cluster() {
  lease_.request_stop();
  if (informer_) informer_->request_stop();
  changed_.notify_all();
}

Status Cluster::start(std::uint64_t led_epoch) {
  const char* host = std::getenv("KUBERNETES_SERVICE_HOST");
  const char* port = std::getenv("KUBERNETES_SERVICE_PORT");
  if (host == nullptr || port == nullptr)
    return invalid("KUBERNETES_SERVICE_HOST and _PORT are missing: a coordinator runs in a pod");
  net::HttpClientOptions options;
  const std::string name = host;
  options.url =
      "https://" + (name.find(':') == std::string::npos ? name : "[" + name + "]") + ":" + port;
  options.ca_file = config_.api_path + "/ca.crt";
  options.token_file = config_.api_path + "/token";
  auto client = net::make_beast_client(options);
  if (!client) return client.error();
  start(*std::move(client), led_epoch);
  return {};
}

void Cluster::start(std::unique_ptr<net::HttpClient> client, std::uint64_t led_epoch) {
  client_ = std::move(client);
  // One in a journal may be another pod's: whoever has led since has let go of the journal.
  led_epoch_ = config_.journal() ? 0 : led_epoch;
  lease_ = std::jthread([this](const std::stop_token& stop) { lease_thread(stop); });
  kube::WatchOptions own;
  own.resource = kube::kSwarms;
  own.list_deadline = kCallDeadline;  // the Lease waits for it
  own.namespace_name = config_.namespace_name;
  own.selector.fields = "metadata.name=" + config_.swarm;
  own_swarm_ = std::make_unique<OwnSwarm>(*this);
  informer_ = std::make_unique<kube::Informer>(
      *client_, own, *own_swarm_, [this](const kube::Resource&, int, const std::string&) {
        tell("the Swarm can't be read from the API server");
      });
  informer_->start();
}

void Cluster::tell(const std::string& text) {
  {
    const std::lock_guard lock(mutex_);
    if (text == last_problem_) return;  // once per kind of trouble, not once per attempt
    last_problem_ = text;
  }
  loop_.post([this, text] { events_.problem(text); });
}

bool Cluster::pause(const std::stop_token& stop, Milliseconds time) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, stop, time, [&] { return stop.stop_requested(); });
  return !stop.stop_requested();
}

void Cluster::report_changed(bool soon) {
  const std::lock_guard lock(mutex_);
  if (changed_report_ && (soon_ || !soon)) return;
  changed_report_ = true;
  soon_ = soon_ || soon;
  changed_.notify_all();
}

void Cluster::raise_epoch(std::uint64_t at_least) {
  const std::lock_guard lock(mutex_);
  wanted_epoch_ = std::max(wanted_epoch_, at_least);
  changed_.notify_all();
}

// The pod leaves for good. A Lease that is made anew later is the other one's to take again.
void Cluster::superseded() {
  superseded_ = true;
  loop_.post([this] { events_.superseded(); });
}

bool Cluster::acquire(const std::stop_token& stop) {
  const std::string path = "/apis/coordination.k8s.io/v1/namespaces/" + config_.namespace_name +
                           "/leases/" + config_.swarm + "-team-" + std::to_string(config_.team);
  auto reply = client_->send({"GET", path, "", "", {}}, kCallDeadline, stop);
  if (!reply || reply->status != 200) {
    tell(reply ? "the team's Lease can't be read: HTTP " + std::to_string(reply->status)
               : "the API server can't be reached");
    return false;
  }
  auto lease = parse_object(reply->body);
  if (!lease || !lease->contains("metadata")) return false;
  json& metadata = (*lease)["metadata"];
  if (!metadata["annotations"].is_object()) metadata["annotations"] = json::object();
  json& annotations = metadata["annotations"];
  const auto text = text_of(annotations, std::string(api::kEpochAnnotation).c_str(), "0");
  const std::uint64_t present = std::strtoull(text.c_str(), nullptr, 10);
  std::uint64_t wanted = 0;
  {
    const std::lock_guard lock(mutex_);
    // Whoever told us of a higher epoch had it from the present holder. And a pod that has led
    // after us was made to take our place, whatever our engine has forgotten since.
    const auto led = std::max(epoch_, led_epoch_);
    if (led != 0 && present > led &&
        text_of(annotations, std::string(api::kHolderUidAnnotation).c_str()) != config_.pod_uid) {
      superseded();
      return false;
    }
    wanted = wanted_epoch_;
  }
  const std::uint64_t epoch = std::max(present + 1, wanted);
  const auto parsed =
      api::parse_report(text_of(annotations, std::string(api::kReportAnnotation).c_str()));
  const api::TeamReport last = parsed ? *parsed : api::TeamReport{};
  annotations[std::string(api::kEpochAnnotation)] = std::to_string(epoch);
  annotations[std::string(api::kHolderUidAnnotation)] = config_.pod_uid;
  metadata.erase("managedFields");
  (*lease)["spec"]["holderIdentity"] = config_.pod;
  // The resourceVersion that was read makes this the compare-and-swap.
  reply = client_->send({"PUT", path, "application/json", lease->dump(), {}}, kCallDeadline, stop);
  if (!reply || reply->status != 200) {
    if (reply && reply->status != 409)
      tell("the team's Lease can't be written: HTTP " + std::to_string(reply->status));
    return false;
  }
  {
    const std::lock_guard lock(mutex_);
    epoch_ = epoch;
    last_problem_.clear();
  }
  sent_.clear();
  loop_.post([this, epoch, last] { events_.acquired(epoch, last); });
  return true;
}

// False: there is something else to do.
bool Cluster::wait_for_news(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, stop, look_period_, [&] { return changed_report_ || must_acquire(); });
  changed_.wait_for(lock, stop, next_soon_ - mono_now(), [&] { return must_acquire(); });
  changed_.wait_for(lock, stop, next_report_ - mono_now(), [&] { return soon_ || must_acquire(); });
  return !must_acquire() && !stop.stop_requested();
}

// False: again, when it is time.
bool Cluster::push_report(const std::stop_token& stop) {
  const std::string path = "/apis/coordination.k8s.io/v1/namespaces/" + config_.namespace_name +
                           "/leases/" + config_.swarm + "-team-" + std::to_string(config_.team);
  api::TeamReport report;
  std::uint64_t epoch = 0;
  {
    std::unique_lock lock(mutex_);
    report_.reset();
    loop_.post([this] {
      auto made = events_.report();
      const std::lock_guard guard(mutex_);
      report_ = std::move(made);
      changed_.notify_all();
    });
    if (!changed_.wait(lock, stop, [&] { return report_.has_value(); })) return false;
    report = *std::move(report_);
    epoch = epoch_;
  }
  const auto text = api::to_text(report);
  // Time alone is no news: converged means no writes.
  report.time = 0;
  report.tasks.oldest_queued_seconds = 0;
  auto comparable = api::to_text(report);
  next_soon_ = next_report_ = mono_now() + kSoonPeriod;
  // The Lease is looked at though there is no news: it may have been made anew.
  if (comparable == sent_ && mono_now() < next_look_) return true;
  next_report_ = mono_now() + kReportPeriod;
  auto reply = client_->send({"GET", path, "", "", {}}, kCallDeadline, stop);
  if (!reply || reply->status != 200) {
    tell("the report can't be written: the team's Lease can't be read");
    return false;
  }
  auto lease = parse_object(reply->body);
  if (!lease) return false;
  const json annotations = lease->value("/metadata/annotations"_json_pointer, json::object());
  const std::uint64_t present = std::strtoull(
      text_of(annotations, std::string(api::kEpochAnnotation).c_str(), "0").c_str(), nullptr, 10);
  if (present > epoch) {
    superseded();
    return true;
  }
  if (present < epoch) {  // made anew: without the epoch our successor would begin from 1
    raise_epoch(epoch + 1);
    return false;
  }
  next_look_ = mono_now() + look_period_;
  if (comparable == sent_) return true;
  const json patch{{"metadata",
                    {{"resourceVersion", text_of((*lease)["metadata"], "resourceVersion")},
                     {"annotations", {{std::string(api::kReportAnnotation), text}}}}}};
  reply = client_->send({"PATCH", path, "application/merge-patch+json", patch.dump(), {}},
                        kCallDeadline, stop);
  if (!reply || reply->status != 200) {
    tell("the report can't be written" +
         (reply ? ": HTTP " + std::to_string(reply->status) : std::string()));
    return false;
  }
  sent_ = std::move(comparable);
  return true;
}

void Cluster::lease_thread(const std::stop_token& stop) {
  {
    // Whoever leads with settings that are not the Swarm's hands out what is suspended. They were
    // posted before, so they come before `acquired`.
    std::unique_lock lock(mutex_);
    if (!changed_.wait(lock, stop, [&] { return listed_; })) return;
  }
  auto wait = kFirstPause;
  while (!stop.stop_requested() && !superseded_) {
    if (!wait_for_news(stop)) {
      if (stop.stop_requested()) return;
      if (acquire(stop)) {
        wait = kFirstPause;
      } else {
        if (!pause(stop, wait)) return;
        wait = std::min(wait * 2, kMaxPause);
      }
      continue;
    }
    bool soon = false;
    {
      const std::lock_guard lock(mutex_);
      soon = soon_;
      changed_report_ = soon_ = false;
    }
    if (!push_report(stop)) report_changed(soon);
  }
}

}  // namespace swarm::engine
