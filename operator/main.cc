// swarm-operator: parse, build, announce, wait, drain.
//
// Exit codes: 0 stopped in order · 1 leadership lost, or not stopped in time · 2 wrong
// configuration.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/encoding.h"
#include "config/settings.h"
#include "kube/client.h"
#include "net/cpprest_client.h"
#include "reconcile/operator.h"
#include "telemetry/log.h"

namespace {

using swarm::Milliseconds;

constexpr int kExitFailed = 1;
constexpr int kExitConfig = 2;
constexpr Milliseconds kStopDeadline{20'000};

struct Configuration {
  std::string sidecar_image;
  std::string sidecar_pull_policy = "IfNotPresent";
  std::string log_level = "info";
  std::string watch_namespace;
  int http_port = 8080;
  bool platform_assigns_ids = false;
  bool elect = true;
  int lease_seconds = 15;
  int renew_seconds = 10;
  int retry_seconds = 2;
  swarm::kube::ClusterFlags cluster;
};

std::optional<std::string> environment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) return std::nullopt;
  return std::string(value);
}

std::optional<std::string> check_image(const std::string& value) {
  const bool bad =
      value.empty() || value.size() > 500 || value.find_first_of(" \t\r\n\"'") != std::string::npos;
  if (bad) return "an image reference, such as registry.example/swarm-sidecar:1.0";
  return std::nullopt;
}

std::optional<std::string> check_namespace(const std::string& value) {
  const bool good =
      value.size() <= 63 && (value.empty() || (value.front() != '-' && value.back() != '-')) &&
      value.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") == std::string::npos;
  if (!good) return "the name of a namespace, or \"\" for all";
  return std::nullopt;
}

void declare(swarm::config::Settings& settings, Configuration& c) {
  settings.text("sidecarImage", &c.sidecar_image, "Image of the sidecar in every pod; required",
                check_image);
  settings.choice("sidecarPullPolicy", &c.sidecar_pull_policy, {"Always", "IfNotPresent", "Never"},
                  "Pull policy of the sidecar's image");
  settings.choice("logLevel", &c.log_level, {"debug", "info", "warn", "error"},
                  "Least level of the log");
  settings.text("watchNamespace", &c.watch_namespace,
                "Only Swarms of this namespace; empty: of all", check_namespace);
  settings.integer("http.port", &c.http_port, 1, 65535, "Port of /healthz, /readyz and /metrics");
  settings.boolean("platformAssignsIds", &c.platform_assigns_ids,
                   "The platform gives each namespace its own uids: set none in pods");
  settings.boolean("leaderElection.enabled", &c.elect, "Only the holder of a Lease writes");
  settings.integer("leaderElection.leaseDurationSeconds", &c.lease_seconds, 3, 600,
                   "A Lease not renewed for so long may be taken");
  settings.integer("leaderElection.renewDeadlineSeconds", &c.renew_seconds, 2, 599,
                   "A leader that cannot renew for so long ends; less than leaseDurationSeconds");
  settings.integer("leaderElection.retryPeriodSeconds", &c.retry_seconds, 1, 300,
                   "Time between attempts; less than renewDeadlineSeconds");
  settings.flag_only("--api-server", &c.cluster.api_server,
                     "URL of the API server, when not in a cluster");
  settings.flag_only("--token-file", &c.cluster.token_file, "Bearer token for the API server");
  settings.flag_only("--ca-file", &c.cluster.ca_file, "CA certificates of the API server, PEM");
}

void check_together(const Configuration& c, std::vector<std::string>& errors) {
  if (c.sidecar_image.empty()) {
    errors.push_back(
        "sidecarImage: is not set; set it in the file, as CFN_SIDECAR_IMAGE or --sidecar-image");
  }
  if (!c.elect) return;
  if (c.renew_seconds >= c.lease_seconds) {
    errors.push_back("leaderElection.renewDeadlineSeconds: is " + std::to_string(c.renew_seconds) +
                     "; allowed: less than leaseDurationSeconds, which is " +
                     std::to_string(c.lease_seconds));
  }
  if (c.retry_seconds >= c.renew_seconds) {
    errors.push_back("leaderElection.retryPeriodSeconds: is " + std::to_string(c.retry_seconds) +
                     "; allowed: less than renewDeadlineSeconds, which is " +
                     std::to_string(c.renew_seconds));
  }
  if (environment("POD_NAMESPACE").value_or("").empty()) {
    errors.emplace_back(
        "environment POD_NAMESPACE: is not set; leader election needs the operator's namespace");
  }
}

}  // namespace

int main(int argc, char** argv) {
  // Before any thread: they all inherit it, so that only sigwait() below gets these.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  Configuration configuration;
  swarm::config::Settings settings;
  declare(settings, configuration);
  swarm::config::Settings::Outcome outcome =
      settings.load(std::vector<std::string>(argv + 1, argv + argc), environment);
  if (outcome.help) {
    std::printf("swarm-operator: runs Swarms.\n\n%s", settings.usage().c_str());
    return 0;
  }
  if (outcome.version) {
    std::printf("%s\n", SWARM_VERSION);
    return 0;
  }
  check_together(configuration, outcome.errors);
  const swarm::Result<swarm::net::HttpClientOptions> cluster =
      swarm::kube::cluster_options(configuration.cluster);
  if (!cluster.ok()) outcome.errors.push_back(cluster.error().message);
  for (const std::string& error : outcome.errors) {
    swarm::telemetry::error("configuration", {{"error", error}});
  }
  if (!outcome.errors.empty()) return kExitConfig;
  swarm::telemetry::set_level(configuration.log_level);

  swarm::Result<std::unique_ptr<swarm::net::HttpClient>> http =
      swarm::net::make_cpprest_client(*cluster);
  if (!http.ok()) {
    swarm::telemetry::error("configuration", {{"error", http.error().message}});
    return kExitConfig;
  }

  const std::string pod = environment("POD_NAME").value_or("swarm-operator");
  swarm::reconcile::OperatorOptions options;
  options.elect = configuration.elect;
  options.elector.namespace_name = environment("POD_NAMESPACE").value_or("");
  options.elector.identity = pod + "_" + swarm::to_hex(swarm::random_bytes(4));
  options.elector.lease_duration = std::chrono::seconds(configuration.lease_seconds);
  options.elector.renew_deadline = std::chrono::seconds(configuration.renew_seconds);
  options.elector.retry_period = std::chrono::seconds(configuration.retry_seconds);
  options.watch_namespace = configuration.watch_namespace;
  options.settings.sidecar_image = configuration.sidecar_image;
  options.settings.image_pull_policy = configuration.sidecar_pull_policy;
  options.settings.platform_assigns_ids = configuration.platform_assigns_ids;
  options.http_port = static_cast<std::uint16_t>(configuration.http_port);
  options.instance = pod;

  swarm::reconcile::Operator instance(**http, options, [] {
    // Another operator writes from now on. Nothing here may outlive that, so nothing is tidied up.
    std::_Exit(kExitFailed);
  });
  const swarm::Status started = instance.start();
  if (!started.ok()) {
    swarm::telemetry::error("configuration", {{"error", "http.port: " + started.error().message}});
    return kExitConfig;
  }
  swarm::telemetry::info("started", {{"version", SWARM_VERSION},
                                     {"apiServer", cluster->url},
                                     {"sidecarImage", configuration.sidecar_image},
                                     {"watchNamespace", configuration.watch_namespace},
                                     {"httpPort", configuration.http_port}});

  int signal = 0;
  while (sigwait(&signals, &signal) != 0) {
  }
  swarm::telemetry::info("stopping", {{"signal", signal}});
  if (!instance.stop(kStopDeadline)) {
    swarm::telemetry::error("not stopped in time");
    std::_Exit(kExitFailed);
  }
  swarm::telemetry::info("stopped");
  return 0;
}
