#include "plan/pod.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/encoding.h"
#include "plan/claims.h"

namespace swarm::plan {
namespace {

using nlohmann::json;

constexpr int kLinkPort = 7070;
constexpr int kHttpPort = 7080;
constexpr int kSidecarUser = 64532;
constexpr int kGraceSlackSeconds = 10;
constexpr int kSecretMode = 0440;  // readable through fsGroup, whatever uid the platform gives
constexpr int kTokenSeconds = 3600;
constexpr std::size_t kRevisionDigits = 10;
constexpr std::size_t kNameDigits = 8;
constexpr std::size_t kMaxTemplateErrors = 20;

constexpr std::string_view kAgentctl = "/cfn/bin/agentctl";
constexpr std::string_view kAgentctlInPath = "/usr/local/bin/agentctl";
constexpr std::string_view kSidecarProgram = "/usr/local/bin/swarm-sidecar";
constexpr std::string_view kSpillPath = "/var/lib/cfn/spill";

// The sidecar's memory. The log's tmpfs is charged to the container that writes it, so all of
// sizeLimit is on the sidecar's account: it is requested in full, because its pages cannot be taken
// back, and an accepted message must not depend on luck. Beside it the engine itself needs about
// 16Mi idle (32Mi requested); the limit leaves room for the small shared tmpfs (16Mi), socket
// buffers and, in coordinators, the task engine's indexes. A journal is on disk: its pages in
// memory are the kernel's to take back.
constexpr std::int64_t kMi = 1 << 20;
constexpr std::int64_t kSidecarRequestBytes = 32 * kMi;
constexpr std::int64_t kSharedBytes = 16 * kMi;
constexpr std::int64_t kWorkerLimitBytes = 128 * kMi;
constexpr std::int64_t kCoordinatorLimitBytes = 384 * kMi;

std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

json parse_template(const std::string& text) {
  json parsed = json::parse(text, nullptr, /*allow_exceptions=*/false);
  return parsed.is_object() ? parsed : json::object();
}

const json* member(const json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string string_member(const json& object, const char* name) {
  const json* value = member(object, name);
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

// The template's metadata without what GitOps tools wrote into it.
json kept_metadata(const json& pod_template, const char* name) {
  json kept = json::object();
  const json* metadata = member(pod_template, "metadata");
  const json* map = metadata == nullptr ? nullptr : member(*metadata, name);
  if (map == nullptr || !map->is_object()) return kept;
  for (const auto& [key, value] : map->items()) {
    if (!is_gitops_key(key)) kept[key] = value;
  }
  return kept;
}

const std::string& template_of(const api::SwarmSpec& spec, Role role) {
  return role == Role::kWorker ? spec.workers.template_json : spec.coordinator.template_json;
}

// ---- reserved fields

class TemplateCheck {
 public:
  TemplateCheck(const api::SwarmSpec& spec, Role role)
      : spec_(spec),
        root_(role == Role::kWorker ? "spec.workers.template" : "spec.coordinator.template"),
        role_(role) {}

  std::vector<std::string> run(const json& pod_template) {
    metadata(pod_template);
    const json* pod = member(pod_template, "spec");
    if (pod == nullptr || !pod->is_object()) {
      say(".spec", "is required; write a PodSpec with at least containers");
      return std::move(errors_);
    }
    pod_fields(*pod);
    containers(*pod, "containers", /*required=*/true);
    containers(*pod, "initContainers", /*required=*/false);
    volumes(*pod);
    return std::move(errors_);
  }

 private:
  void say(const std::string& path, const std::string& what) {
    if (errors_.size() < kMaxTemplateErrors) errors_.push_back(root_ + path + ": " + what);
  }

  void metadata(const json& pod_template) {
    const json* metadata = member(pod_template, "metadata");
    if (metadata == nullptr) return;
    if (!metadata->is_object()) return say(".metadata", "is not an object");
    for (const char* name :
         {"name", "generateName", "namespace", "ownerReferences", "finalizers"}) {
      if (member(*metadata, name) != nullptr) {
        say(std::string(".metadata.") + name, "the operator sets it; remove it");
      }
    }
    for (const char* name : {"labels", "annotations"}) {
      const json* map = member(*metadata, name);
      if (map == nullptr) continue;
      const std::string path = std::string(".metadata.") + name;
      if (!map->is_object()) {
        say(path, "is not a map");
        continue;
      }
      for (const auto& [key, value] : map->items()) {
        if (!value.is_string()) say(path + "[" + key + "]", "is not a string; put it in quotes");
        if (key.starts_with("cfn.dev/")) {
          say(path + "[" + key + "]", "keys below cfn.dev/ are the operator's; choose another");
        }
      }
    }
  }

  void pod_fields(const json& pod) {
    static constexpr std::array<std::pair<const char*, const char*>, 5> kReserved = {{
        {"hostname", "the operator sets it to the agent's name (worker-17); remove it"},
        {"subdomain", "the operator sets it to the swarm's headless Service; remove it"},
        {"terminationGracePeriodSeconds",
         "it is computed; remove it and set spec.workers.taskGraceSeconds and "
         "spec.shutdown.drainTimeoutSeconds"},
        {"activeDeadlineSeconds",
         "agents are long-running; remove it and limit a task with agentctl work --timeout"},
        {"ephemeralContainers", "cannot be in a template; use kubectl debug"},
    }};
    for (const auto& [name, remedy] : kReserved) {
      if (member(pod, name) != nullptr) say(std::string(".spec.") + name, remedy);
    }
    if (const json* policy = member(pod, "restartPolicy");
        policy != nullptr && *policy != "Always") {
      say(".spec.restartPolicy",
          "must be Always or absent; agents are long-running, agentctl work starts one per task");
    }
    if (const json* host = member(pod, "hostNetwork"); host != nullptr && *host != false) {
      say(".spec.hostNetwork",
          "two pods on a node would want the same ports 7070 and 7080; remove it");
    }
    for (const char* name : {"securityContext", "affinity"}) {
      if (const json* value = member(pod, name); value != nullptr && !value->is_object()) {
        say(std::string(".spec.") + name, "is not an object");
      }
    }
    if (const json* value = member(pod, "serviceAccountName");
        value != nullptr && !value->is_string()) {
      say(".spec.serviceAccountName", "is not a string");
    }
    if (const json* os = member(pod, "os");
        os != nullptr && string_member(*os, "name") != "linux") {
      say(".spec.os.name", "must be linux or absent: mailboxes need tmpfs and unix sockets");
    }
    // The token may change the team's Lease; only the sidecar gets it.
    if (const json* mount = member(pod, "automountServiceAccountToken");
        role_ == Role::kCoordinator && mount != nullptr && *mount != false) {
      say(".spec.automountServiceAccountToken",
          "must be false or absent here: the coordinators' rights are for their sidecar alone");
    }
  }

  void containers(const json& pod, const char* list, bool required) {
    const std::string path = std::string(".spec.") + list;
    const json* containers = member(pod, list);
    if (containers == nullptr) {
      if (required) say(path, "is required; write at least one, such as {name: agent, image: …}");
      return;
    }
    if (!containers->is_array() || (required && containers->empty())) {
      return say(path, "must be a list of containers with at least one");
    }
    for (std::size_t i = 0; i < containers->size(); ++i) {
      const json& one = (*containers)[i];
      const std::string name = string_member(one, "name");
      std::string here = path;
      here += "[" + (name.empty() ? std::to_string(i) : shorten(name, 63)) + "]";
      if (!one.is_object()) {
        say(here, "is not an object");
        continue;
      }
      if (name.starts_with("cfn-")) {
        say(here + ".name",
            "names that begin with cfn- are the operator's; choose another, e.g. agent");
      }
      environment(one, here);
      mounts(one, here);
      ports(one, here);
    }
  }

  void environment(const json& container, const std::string& here) {
    const json* env = member(container, "env");
    if (env != nullptr && !env->is_array()) say(here + ".env", "is not a list");
    if (env != nullptr && env->is_array()) {
      for (const json& variable : *env) {
        const std::string name = string_member(variable, "name");
        if (name.starts_with("CFN_")) {
          say(here + ".env[" + shorten(name, 63) + "]",
              "names that begin with CFN_ are the operator's; choose another");
        }
      }
    }
    const json* from = member(container, "envFrom");
    if (from == nullptr || !from->is_array()) return;
    for (const json& source : *from) {
      if (string_member(source, "prefix").starts_with("CFN_")) {
        say(here + ".envFrom", "the prefix CFN_ is the operator's; choose another");
      }
    }
  }

  void mounts(const json& container, const std::string& here) {
    const json* mounts = member(container, "volumeMounts");
    if (mounts == nullptr) return;
    if (!mounts->is_array()) return say(here + ".volumeMounts", "is not a list");
    for (const json& mount : *mounts) {
      const std::string name = string_member(mount, "name");
      if (name.starts_with("cfn-")) {
        say(here + ".volumeMounts[" + shorten(name, 63) + "]",
            "volumes that begin with cfn- are the operator's and mounted by it; remove it");
      }
      std::string path = string_member(mount, "mountPath");
      while (path.size() > 1 && path.back() == '/') path.pop_back();
      if (path == spec_.mailbox.mount_path || path == kAgentctl || path == kAgentctlInPath ||
          path == "/cfn" || path == "/cfn/bin") {
        say(here + ".volumeMounts[" + shorten(name, 63) + "].mountPath",
            path + " is where the operator mounts the mailbox or agentctl; choose another path");
      }
    }
  }

  void ports(const json& container, const std::string& here) {
    const json* ports = member(container, "ports");
    if (ports == nullptr) return;
    if (!ports->is_array()) return say(here + ".ports", "is not a list");
    for (const json& port : *ports) {
      const json* number = member(port, "containerPort");
      if (number != nullptr && (*number == kLinkPort || *number == kHttpPort)) {
        say(here + ".ports", "ports 7070 and 7080 of the pod are the sidecar's; choose another");
      }
      if (string_member(port, "name").starts_with("cfn-")) {
        say(here + ".ports", "port names that begin with cfn- are the operator's; choose another");
      }
    }
  }

  void volumes(const json& pod) {
    const json* volumes = member(pod, "volumes");
    if (volumes == nullptr) return;
    if (!volumes->is_array()) return say(".spec.volumes", "is not a list");
    for (const json& volume : *volumes) {
      const std::string name = string_member(volume, "name");
      if (name.starts_with("cfn-")) {
        say(".spec.volumes[" + shorten(name, 63) + "]",
            "names that begin with cfn- are the operator's; choose another");
      }
    }
  }

  const api::SwarmSpec& spec_;
  std::string root_;
  Role role_;
  std::vector<std::string> errors_;
};

// ---- our parts of a pod

json env(const char* name, std::string value) {
  return {{"name", name}, {"value", std::move(value)}};
}
json env_field(const char* name, const char* path) {
  return {{"name", name}, {"valueFrom", {{"fieldRef", {{"fieldPath", path}}}}}};
}

json restricted(const Settings& settings) {
  json context = {{"allowPrivilegeEscalation", false},
                  {"readOnlyRootFilesystem", true},
                  {"runAsNonRoot", true},
                  {"capabilities", {{"drop", {"ALL"}}}},
                  {"seccompProfile", {{"type", "RuntimeDefault"}}}};
  if (!settings.platform_assigns_ids) {
    context["runAsUser"] = kSidecarUser;
    context["runAsGroup"] = kSidecarUser;
  }
  return context;
}

json http_probe(const char* path, int period, int failures) {
  return {{"httpGet", {{"path", path}, {"port", "cfn-http"}}},
          {"periodSeconds", period},
          {"timeoutSeconds", 5},
          {"failureThreshold", failures}};
}

}  // namespace

struct PodMaker::Impl {
  const Context& context;
  Role role;
  json user_template;

  [[nodiscard]] const api::SwarmSpec& spec() const { return context.swarm.spec; }
  [[nodiscard]] bool coordinator() const { return role == Role::kCoordinator; }

  [[nodiscard]] json sidecar(int index, int team) const {
    const api::Swarm& swarm = context.swarm;
    const api::MailboxSpec& mailbox = spec().mailbox;
    json mounts = {
        {{"name", kLogVolume}, {"mountPath", "/var/lib/cfn/log"}},
        {{"name", "cfn-shm"}, {"mountPath", mailbox.mount_path}},
        {{"name", "cfn-bin"}, {"mountPath", "/cfn/bin"}},
        {{"name", "cfn-link"}, {"mountPath", "/var/run/cfn/link"}, {"readOnly", true}},
    };
    if (coordinator()) {
      mounts.push_back(
          {{"name", "cfn-submit"}, {"mountPath", "/var/run/cfn/submit"}, {"readOnly", true}});
      mounts.push_back(
          {{"name", "cfn-api"}, {"mountPath", "/var/run/cfn/api"}, {"readOnly", true}});
    }
    const std::int64_t tmpfs = mailbox_memory(spec());
    const std::int64_t limit = tmpfs + (coordinator() ? kCoordinatorLimitBytes : kWorkerLimitBytes);
    json container = {
        {"name", kSidecarContainer},
        {"image", context.sidecar_image},
        {"imagePullPolicy", context.settings.image_pull_policy},
        {"restartPolicy", "Always"},
        {"command", {kSidecarProgram}},
        {"ports",
         {{{"name", "cfn-link"}, {"containerPort", kLinkPort}, {"protocol", "TCP"}},
          {{"name", "cfn-http"}, {"containerPort", kHttpPort}, {"protocol", "TCP"}}}},
        {"env",
         {env("CFN_ROLE", std::string(role_name(role))),
          env("CFN_SWARM", swarm.name),
          env("CFN_SWARM_UID", swarm.uid),
          env("CFN_NAMESPACE", swarm.namespace_name),
          env("CFN_AGENT_ID", slot_name(role, index)),
          env("CFN_TEAM", std::to_string(team)),
          env("CFN_COORDINATORS", std::to_string(context.topology.coordinators)),
          env_field("CFN_POD_NAME", "metadata.name"),
          env_field("CFN_POD_UID", "metadata.uid"),
          env_field("CFN_POD_IP", "status.podIP"),
          env_field("CFN_NODE_NAME", "spec.nodeName"),
          env("CFN_LINK_SERVICE", swarm.name + "-link." + swarm.namespace_name + ".svc"),
          env("CFN_MOUNT_PATH", mailbox.mount_path),
          env("CFN_MAX_INBOX_MESSAGES", std::to_string(mailbox.max_inbox_messages)),
          env("CFN_MAX_MESSAGE_BYTES", std::to_string(mailbox.max_message_bytes)),
          env("CFN_BACKPRESSURE", std::string(api::to_string(mailbox.backpressure))),
          env("CFN_BACKPRESSURE_TIMEOUT_SECONDS",
              std::to_string(mailbox.backpressure_timeout_seconds)),
          env("CFN_HEALTH_PERIOD_SECONDS", std::to_string(spec().health.period_seconds)),
          env("CFN_HEALTH_FAILURE_THRESHOLD", std::to_string(spec().health.failure_threshold)),
          env("CFN_DRAIN_TIMEOUT_SECONDS", std::to_string(spec().shutdown.drain_timeout_seconds))}},
        {"startupProbe",
         {{"exec", {{"command", {kSidecarProgram, "probe", "startup"}}}},
          {"periodSeconds", 1},
          {"timeoutSeconds", 5},
          {"failureThreshold", 60}}},
        {"readinessProbe", http_probe("/readyz", 1, 5)},
        {"livenessProbe", http_probe("/healthz", 10, 6)},
        {"lifecycle", {{"preStop", {{"exec", {{"command", {kSidecarProgram, "leaving"}}}}}}}},
        {"resources",
         {{"requests",
           {{"cpu", coordinator() ? "50m" : "10m"},
            {"memory", api::format_bytes(tmpfs + kSidecarRequestBytes)}}},
          {"limits", {{"memory", api::format_bytes(limit)}}}}},
        {"securityContext", restricted(context.settings)},
        {"volumeMounts", std::move(mounts)},
    };
    if (several_agents()) container["env"].push_back(agents_per_pod());
    if (mailbox.durability == api::Durability::kNode)
      container["env"].push_back(env("CFN_DURABILITY", "Node"));
    add_storage(container);
    return container;
  }

  // Disk beside the tmpfs or instead of it. Spilled bytes are requested, so that a node has room
  // for them and evicts others first. They are not limited here: the only limit of a pod's
  // containers would count for all of them, and the agents' own files would get the pod evicted.
  void add_storage(json& sidecar) const {
    const api::MailboxSpec& mailbox = spec().mailbox;
    if (has_journals(spec())) {
      sidecar["env"].push_back(env("CFN_JOURNAL_BYTES", std::to_string(mailbox.size_limit_bytes)));
    }
    if (!mailbox.spill_bytes) return;
    sidecar["env"].push_back(env("CFN_SPILL_PATH", std::string(kSpillPath)));
    sidecar["env"].push_back(env("CFN_SPILL_BYTES", std::to_string(*mailbox.spill_bytes)));
    sidecar["volumeMounts"].push_back({{"name", "cfn-spill"}, {"mountPath", kSpillPath}});
    sidecar["resources"]["requests"]["ephemeral-storage"] =
        api::format_bytes(*mailbox.spill_bytes + kVolumeSlackBytes);
  }

  [[nodiscard]] json log_volume(int index) const {
    json volume = {{"name", kLogVolume}};
    if (has_journals(spec())) {
      volume["persistentVolumeClaim"] = {{"claimName", claim_name(context.swarm, role, index)}};
    } else {
      volume["emptyDir"] = {{"medium", "Memory"},
                            {"sizeLimit", api::format_bytes(spec().mailbox.size_limit_bytes)}};
    }
    return volume;
  }

  [[nodiscard]] json volumes(int index) const {
    const api::Swarm& swarm = context.swarm;
    const std::string uid8 = swarm.uid.substr(0, 8);
    json link_items = {{{"key", "link"}, {"path", "link"}}};
    if (coordinator()) link_items.push_back({{"key", "epoch"}, {"path", "epoch"}});
    json list = {
        log_volume(index),
        {{"name", "cfn-shm"},
         {"emptyDir", {{"medium", "Memory"}, {"sizeLimit", api::format_bytes(kSharedBytes)}}}},
        {{"name", "cfn-bin"}, {"emptyDir", {{"sizeLimit", "32Mi"}}}},
        {{"name", "cfn-link"},
         {"secret",
          {{"secretName", swarm.name + "-link-" + uid8},
           {"defaultMode", kSecretMode},
           {"items", std::move(link_items)}}}},
    };
    if (spec().mailbox.spill_bytes) {
      list.push_back(
          {{"name", "cfn-spill"},
           {"emptyDir",
            {{"sizeLimit", api::format_bytes(*spec().mailbox.spill_bytes + kVolumeSlackBytes)}}}});
    }
    if (coordinator()) {
      list.push_back({{"name", "cfn-submit"},
                      {"secret",
                       {{"secretName", swarm.name + "-submit"},
                        {"defaultMode", kSecretMode},
                        {"items", {{{"key", "token"}, {"path", "token"}}}}}}});
      const json namespace_field = {{"fieldPath", "metadata.namespace"}};
      list.push_back(
          {{"name", "cfn-api"},
           {"projected",
            {{"defaultMode", kSecretMode},
             {"sources",
              {{{"serviceAccountToken", {{"path", "token"}, {"expirationSeconds", kTokenSeconds}}}},
               {{"configMap",
                 {{"name", "kube-root-ca.crt"},
                  {"items", {{{"key", "ca.crt"}, {"path", "ca.crt"}}}}}}},
               {{"downwardAPI",
                 {{"items", {{{"path", "namespace"}, {"fieldRef", namespace_field}}}}}}}}}}}});
    }
    return list;
  }

  // Only where there are several: pods of one agent are not replaced for a variable that changes
  // nothing.
  [[nodiscard]] bool several_agents() const {
    return !coordinator() && spec().workers.agents_per_pod > 1;
  }
  [[nodiscard]] json agents_per_pod() const {
    return env("CFN_AGENTS_PER_POD", std::to_string(spec().workers.agents_per_pod));
  }

  // Ours first: a variable of the user's may then refer to one of ours as $(CFN_AGENT_ID).
  void prepare_container(json& container, int index) const {
    const api::Swarm& swarm = context.swarm;
    const int coordinators = context.topology.coordinators;
    const int workers = spec().workers.replicas;
    json variables = {
        env("CFN_AGENT_ID", slot_name(role, index)),
        env("CFN_SWARM", swarm.name),
        env("CFN_NAMESPACE", swarm.namespace_name),
        env_field("CFN_POD_NAME", "metadata.name"),
        env("CFN_TOPOLOGY", context.topology.type),
        env("CFN_MAX_AGENTS", std::to_string(workers * spec().workers.agents_per_pod)),
        env("CFN_COORDINATORS", std::to_string(coordinators)),
        env("CFN_WORKERS_PER_COORDINATOR",
            std::to_string((workers + coordinators - 1) / coordinators)),
        env("CFN_SOCKET", spec().mailbox.mount_path + "/agent.sock"),
        env("CFN_TASK_GRACE_SECONDS", std::to_string(spec().workers.task_grace_seconds)),
    };
    if (several_agents()) variables.push_back(agents_per_pod());
    if (const json* theirs = member(container, "env"); theirs != nullptr && theirs->is_array()) {
      for (const json& one : *theirs) variables.push_back(one);
    }
    container["env"] = std::move(variables);

    json mounts = json::array();
    if (const json* theirs = member(container, "volumeMounts");
        theirs != nullptr && theirs->is_array()) {
      mounts = *theirs;
    }
    mounts.push_back({{"name", "cfn-shm"}, {"mountPath", spec().mailbox.mount_path}});
    for (const std::string_view path : {kAgentctl, kAgentctlInPath}) {
      mounts.push_back(
          {{"name", "cfn-bin"}, {"mountPath", path}, {"subPath", "agentctl"}, {"readOnly", true}});
    }
    container["volumeMounts"] = std::move(mounts);
  }

  // A coordinator without a template: the sidecar is an init container, and a pod needs one that is
  // not.
  [[nodiscard]] json idle_pod() const {
    return {
        {"containers",
         {{{"name", "idle"},
           {"image", context.sidecar_image},
           {"imagePullPolicy", context.settings.image_pull_policy},
           {"command", {kSidecarProgram, "idle"}},
           {"resources",
            {{"requests", {{"cpu", "1m"}, {"memory", "8Mi"}}}, {"limits", {{"memory", "32Mi"}}}}},
           {"securityContext", restricted(context.settings)}}}},
        {"enableServiceLinks", false},
        {"securityContext",
         {{"runAsNonRoot", true}, {"seccompProfile", {{"type", "RuntimeDefault"}}}}},
    };
  }

  [[nodiscard]] json pod_spec(int index, int team) const {
    const bool built_in = user_template.empty();
    json pod = built_in ? idle_pod() : user_template.at("spec");
    const api::Swarm& swarm = context.swarm;

    if (!built_in) {
      for (json& one : pod["containers"]) prepare_container(one, index);
    }
    json init = json::array({sidecar(index, team)});
    if (const json* theirs = member(pod, "initContainers")) {
      for (const json& one : *theirs) {
        init.push_back(one);
        prepare_container(init.back(), index);
      }
    }
    pod["initContainers"] = std::move(init);

    json all_volumes = json::array();
    if (const json* theirs = member(pod, "volumes")) all_volumes = *theirs;
    for (json& one : volumes(index)) all_volumes.push_back(std::move(one));
    pod["volumes"] = std::move(all_volumes);

    pod["restartPolicy"] = "Always";
    pod["hostname"] = slot_name(role, index);
    pod["subdomain"] = swarm.name + "-link";
    pod["terminationGracePeriodSeconds"] = grace_seconds(spec(), role);

    if (!context.settings.platform_assigns_ids) {
      json& security = pod["securityContext"];
      if (security.is_null()) security = json::object();
      if (member(security, "fsGroup") == nullptr) security["fsGroup"] = kSidecarUser;
    }

    const bool own_account = member(pod, "serviceAccountName") != nullptr;
    if (coordinator()) {
      if (!own_account) pod["serviceAccountName"] = swarm.name + "-coordinator";
      pod["automountServiceAccountToken"] = false;
    } else if (!own_account && member(pod, "automountServiceAccountToken") == nullptr) {
      pod["automountServiceAccountToken"] = false;
    }

    // Copies of a message are in two pods; on two nodes if there are two. Soft: never a reason not
    // to run.
    if (member(pod, "topologySpreadConstraints") == nullptr) {
      pod["topologySpreadConstraints"] = {
          {{"maxSkew", 1},
           {"topologyKey", "kubernetes.io/hostname"},
           {"whenUnsatisfiable", "ScheduleAnyway"},
           {"labelSelector",
            {{"matchLabels", {{kSwarmLabel, swarm.name}, {kRoleLabel, role_name(role)}}}}}}};
    }
    return pod;
  }

  [[nodiscard]] json pod(int index, const std::string& name) const {
    const api::Swarm& swarm = context.swarm;
    const int team = coordinator() ? index : index % context.topology.coordinators;
    json labels = kept_metadata(user_template, "labels");
    labels[kManagedByLabel] = kManagedBy;
    labels[kSwarmLabel] = swarm.name;
    labels[kRoleLabel] = role_name(role);
    labels[kSlotLabel] = slot_name(role, index);
    labels[kTeamLabel] = std::to_string(team);
    labels[kRevisionLabel] = context.revision_of(role);
    json metadata = {
        {"name", name},
        {"namespace", swarm.namespace_name},
        {"labels", std::move(labels)},
        {"ownerReferences",
         {{{"apiVersion", api::kApiVersion},
           {"kind", api::kKind},
           {"name", swarm.name},
           {"uid", swarm.uid},
           {"controller", true},
           {"blockOwnerDeletion", true}}}},
    };
    json annotations = kept_metadata(user_template, "annotations");
    // kubectl logs and exec pick the agent, not the sidecar.
    if (!user_template.empty() &&
        !annotations.contains("kubectl.kubernetes.io/default-container")) {
      const json& first = user_template.at("spec").at("containers").at(0);
      const std::string agent = string_member(first, "name");
      if (!agent.empty()) annotations["kubectl.kubernetes.io/default-container"] = agent;
    }
    if (!annotations.empty()) metadata["annotations"] = std::move(annotations);
    return {{"apiVersion", "v1"},
            {"kind", "Pod"},
            {"metadata", std::move(metadata)},
            {"spec", pod_spec(index, team)}};
  }
};

PodMaker::PodMaker(const Context& context, Role role) {
  const std::string& text = template_of(context.swarm.spec, role);
  impl_ = std::make_unique<Impl>(
      Impl{context, role, text.empty() ? json::object() : parse_template(text)});
}

PodMaker::~PodMaker() = default;

std::string PodMaker::manifest(int index, const std::string& name) const {
  return dump(impl_->pod(index, name));
}

std::vector<std::string> check_template(const api::SwarmSpec& spec, Role role) {
  const std::string& text = template_of(spec, role);
  if (text.empty() && role == Role::kCoordinator) return {};
  return TemplateCheck(spec, role).run(parse_template(text));
}

std::string revision_hash(const api::SwarmSpec& spec, Role role) {
  json user_template = json::object();
  if (!template_of(spec, role).empty()) {
    user_template = parse_template(template_of(spec, role));
    for (const char* name : {"labels", "annotations"}) {
      if (member(user_template, "metadata") != nullptr && user_template["metadata"].is_object()) {
        user_template["metadata"][name] = kept_metadata(user_template, name);
      }
    }
  }
  // New fields go in only where they differ from their default: a newer operator must hash an old
  // Swarm to the same value.
  json fields = {
      {"layout", kPodLayout},
      {"template", std::move(user_template)},
      {"mountPath", spec.mailbox.mount_path},
      {"sizeLimit", spec.mailbox.size_limit_bytes},
      {"maxInboxMessages", spec.mailbox.max_inbox_messages},
      {"maxMessageBytes", spec.mailbox.max_message_bytes},
      {"backpressure", api::to_string(spec.mailbox.backpressure)},
      {"backpressureTimeout", spec.mailbox.backpressure_timeout_seconds},
      {"healthPeriod", spec.health.period_seconds},
      {"healthFailures", spec.health.failure_threshold},
      {"drainTimeout", spec.shutdown.drain_timeout_seconds},
  };
  // Not the storage class: it is the claims', which keep theirs.
  if (has_journals(spec)) fields["persistence"] = api::to_string(spec.mailbox.persistence);
  if (spec.mailbox.spill_bytes) fields["spill"] = *spec.mailbox.spill_bytes;
  if (spec.mailbox.durability == api::Durability::kNode)
    fields["durability"] = api::to_string(spec.mailbox.durability);
  if (role == Role::kWorker && spec.workers.agents_per_pod > 1)
    fields["agentsPerPod"] = spec.workers.agents_per_pod;
  // Agents of a coordinator's template read CFN_TASK_GRACE_SECONDS too; a bare coordinator does not
  // care.
  if (role == Role::kWorker || !spec.coordinator.template_json.empty()) {
    fields["taskGrace"] = spec.workers.task_grace_seconds;
  }
  return to_hex(sha256(dump(fields))).substr(0, kRevisionDigits);
}

std::string combined_revision(std::string_view worker, std::string_view coordinator) {
  return to_hex(sha256(std::string(worker) + "/" + std::string(coordinator)))
      .substr(0, kRevisionDigits);
}

std::string pod_name(const api::Swarm& swarm, Role role, int index, std::string_view replaced_uid) {
  const std::string hash =
      to_hex(sha256(swarm.uid + "/" + slot_name(role, index) + "/" + std::string(replaced_uid)));
  return slot_prefix(swarm, role, index) + "-" + hash.substr(0, kNameDigits);
}

std::string slot_prefix(const api::Swarm& swarm, Role role, int index) {
  return swarm.name + (role == Role::kWorker ? "-w" : "-c") + std::to_string(index);
}

std::int64_t mailbox_memory(const api::SwarmSpec& spec) {
  return has_journals(spec) ? 0 : spec.mailbox.size_limit_bytes;
}

int grace_seconds(const api::SwarmSpec& spec, Role role) {
  const bool agents = role == Role::kWorker || !spec.coordinator.template_json.empty();
  return (agents ? spec.workers.task_grace_seconds : 0) + spec.shutdown.drain_timeout_seconds +
         kGraceSlackSeconds;
}

bool is_gitops_key(std::string_view key) {
  static constexpr std::array<std::string_view, 11> kPrefixes = {
      "argocd.argoproj.io/",
      "kustomize.toolkit.fluxcd.io/",
      "helm.toolkit.fluxcd.io/",
      "fluxcd.io/",
      "meta.helm.sh/",
      "helm.sh/",
      "kubectl.kubernetes.io/last-applied-configuration",
      "config.kubernetes.io/",
      "configsync.gke.io/",
      "configmanagement.gke.io/",
      "applyset.kubernetes.io/",
  };
  // Argo CD's default tracking label; the other is ours.
  if (key == "app.kubernetes.io/instance" || key == kManagedByLabel) return true;
  return std::any_of(kPrefixes.begin(), kPrefixes.end(),
                     [&](std::string_view prefix) { return key.starts_with(prefix); });
}

}  // namespace swarm::plan
