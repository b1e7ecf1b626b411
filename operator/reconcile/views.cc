#include "reconcile/views.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "kube/decode.h"

namespace swarm::reconcile {
namespace {

using kube::find_at;
using kube::number_at;
using kube::parse_time;
using kube::text_at;
using kube::truth_at;
using nlohmann::json;

constexpr std::size_t kMaxContainers = 64;
constexpr std::size_t kMaxMessageBytes = 1024;

// Keys with dots, as those of labels and annotations are.
std::string entry(const json& object, std::string_view map, std::string_view key) {
  const json* found = find_at(object, map);
  if (found == nullptr || !found->is_object()) return {};
  const auto value = found->find(std::string(key));
  return value != found->end() && value->is_string() ? value->get<std::string>() : std::string();
}

int small(std::int64_t value) {
  return static_cast<int>(std::clamp<std::int64_t>(value, -2'000'000'000, 2'000'000'000));
}

plan::PodPhase phase_of(const std::string& word) {
  if (word == "Pending") return plan::PodPhase::kPending;
  if (word == "Running") return plan::PodPhase::kRunning;
  if (word == "Succeeded") return plan::PodPhase::kSucceeded;
  if (word == "Failed") return plan::PodPhase::kFailed;
  return plan::PodPhase::kUnknown;
}

void append_containers(const json& pod, std::string_view path, bool init,
                       std::vector<plan::ContainerView>& out) {
  const json* statuses = find_at(pod, path);
  if (statuses == nullptr || !statuses->is_array()) return;
  for (const json& status : *statuses) {
    if (out.size() >= kMaxContainers) return;
    plan::ContainerView view;
    view.name = text_at(status, "name");
    view.init = init;
    view.ready = truth_at(status, "ready");
    view.running = find_at(status, "state.running") != nullptr;
    view.restart_count = small(number_at(status, "restartCount"));
    view.waiting_reason = text_at(status, "state.waiting.reason");
    view.waiting_message = text_at(status, "state.waiting.message").substr(0, kMaxMessageBytes);
    const json* ended = find_at(status, "lastState.terminated");
    if (ended == nullptr) ended = find_at(status, "state.terminated");
    if (ended != nullptr && ended->is_object()) {
      view.last_exit_code = small(number_at(*ended, "exitCode"));
      view.last_reason = text_at(*ended, "reason");
    }
    out.push_back(std::move(view));
  }
}

}  // namespace

Key swarm_of(const json& object) {
  return {text_at(object, "metadata.namespace"),
          entry(object, "metadata.labels", plan::kSwarmLabel)};
}

plan::PodView pod_view(const json& pod) {
  plan::PodView out;
  out.name = text_at(pod, "metadata.name");
  out.uid = text_at(pod, "metadata.uid");
  out.resource_version = text_at(pod, "metadata.resourceVersion");
  out.owner_uid = kube::controller_uid(pod);
  out.role = entry(pod, "metadata.labels", plan::kRoleLabel);
  out.slot = entry(pod, "metadata.labels", plan::kSlotLabel);
  out.team = entry(pod, "metadata.labels", plan::kTeamLabel);
  out.revision = entry(pod, "metadata.labels", plan::kRevisionLabel);
  out.phase = phase_of(text_at(pod, "status.phase"));
  out.creation_time = parse_time(text_at(pod, "metadata.creationTimestamp"));
  const std::string deleted = text_at(pod, "metadata.deletionTimestamp");
  if (!deleted.empty()) {
    out.deletion_time = parse_time(deleted);
    const int seconds = small(number_at(pod, "metadata.deletionGracePeriodSeconds"));
    out.deletion_grace = WallTime{1000} * std::max(0, seconds);
  }
  out.node = text_at(pod, "spec.nodeName");
  out.status_reason = text_at(pod, "status.reason");
  out.status_message = text_at(pod, "status.message").substr(0, kMaxMessageBytes);
  const std::string cost = entry(pod, "metadata.annotations", plan::kDeletionCostAnnotation);
  int parsed = 0;
  const auto [end, ec] = std::from_chars(cost.data(), cost.data() + cost.size(), parsed);
  if (ec == std::errc() && end == cost.data() + cost.size()) out.deletion_cost = parsed;
  if (const json* init = find_at(pod, "spec.initContainers"); init != nullptr && init->is_array()) {
    for (const json& container : *init) {
      if (text_at(container, "name") == plan::kSidecarContainer)
        out.sidecar_image = text_at(container, "image");
    }
  }
  if (const json* volumes = find_at(pod, "spec.volumes");
      volumes != nullptr && volumes->is_array()) {
    for (const json& volume : *volumes) {
      if (text_at(volume, "name") == plan::kLogVolume)
        out.claim = text_at(volume, "persistentVolumeClaim.claimName");
    }
  }
  if (const json* conditions = find_at(pod, "status.conditions");
      conditions != nullptr && conditions->is_array()) {
    for (const json& condition : *conditions) {
      const std::string type = text_at(condition, "type");
      const std::string status = text_at(condition, "status");
      if (type == "Ready") {
        out.ready = status == "True";
        out.ready_since = parse_time(text_at(condition, "lastTransitionTime"));
      } else if (type == "PodScheduled" && status == "False" &&
                 text_at(condition, "reason") == "Unschedulable") {
        out.unschedulable_message = text_at(condition, "message").substr(0, kMaxMessageBytes);
      }
    }
  }
  append_containers(pod, "status.initContainerStatuses", true, out.containers);
  append_containers(pod, "status.containerStatuses", false, out.containers);
  return out;
}

plan::LeaseView lease_view(const json& lease) {
  plan::LeaseView out;
  out.name = text_at(lease, "metadata.name");
  out.uid = text_at(lease, "metadata.uid");
  out.owner_uid = kube::controller_uid(lease);
  out.resource_version = text_at(lease, "metadata.resourceVersion");
  out.deleting = !text_at(lease, "metadata.deletionTimestamp").empty();
  out.holder = text_at(lease, "spec.holderIdentity");
  out.holder_uid = entry(lease, "metadata.annotations", api::kHolderUidAnnotation);
  out.renew_time = parse_time(text_at(lease, "spec.renewTime"));
  out.acquire_time = parse_time(text_at(lease, "spec.acquireTime"));
  out.report = entry(lease, "metadata.annotations", api::kReportAnnotation);
  if (out.report.size() > api::kMaxReportBytes) out.report.clear();
  return out;
}

plan::ChildView child_view(const json& object, std::string_view kind) {
  plan::ChildView out;
  out.kind = std::string(kind);
  out.name = text_at(object, "metadata.name");
  out.uid = text_at(object, "metadata.uid");
  out.owner_uid = kube::controller_uid(object);
  out.resource_version = text_at(object, "metadata.resourceVersion");
  out.spec_hash = entry(object, "metadata.annotations", plan::kHashAnnotation);
  out.phase = text_at(object, "status.phase");
  out.deleting = !text_at(object, "metadata.deletionTimestamp").empty();
  return out;
}

}  // namespace swarm::reconcile
