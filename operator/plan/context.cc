#include "plan/context.h"

#include <algorithm>
#include <charconv>

#include "base/encoding.h"
#include "plan/claims.h"
#include "plan/pod.h"

namespace swarm::plan {
namespace {

constexpr int kMaxIndex = 999'999;  // is_agent_name() allows six digits

std::optional<int> index_text(std::string_view text) {
  if (text.empty() || text.size() > 6 || (text.size() > 1 && text[0] == '0')) return std::nullopt;
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0 || value > kMaxIndex) {
    return std::nullopt;
  }
  return value;
}

// The best pod of a slot first: ready, then old, then by name so that the order is total.
bool keep_before(const PodView* a, const PodView* b) {
  if (a->ready != b->ready) return a->ready;
  if (a->creation_time != b->creation_time) return a->creation_time < b->creation_time;
  return a->name < b->name;
}

}  // namespace

std::string_view role_name(Role role) { return role == Role::kWorker ? "worker" : "coordinator"; }

std::string slot_name(Role role, int index) {
  return std::string(role_name(role)) + "-" + std::to_string(index);
}

std::optional<int> slot_index(Role role, std::string_view slot) {
  const std::string prefix = std::string(role_name(role)) + "-";
  if (!slot.starts_with(prefix)) return std::nullopt;
  return index_text(slot.substr(prefix.size()));
}

std::string lease_name(const api::Swarm& swarm, int team) {
  return swarm.name + "-team-" + std::to_string(team);
}

std::optional<int> team_of_lease(const api::Swarm& swarm, std::string_view lease) {
  const std::string prefix = swarm.name + "-team-";
  if (!lease.starts_with(prefix)) return std::nullopt;
  return index_text(lease.substr(prefix.size()));
}

bool is_image_failure(std::string_view reason) {
  return reason == "ErrImagePull" || reason == "ImagePullBackOff" || reason == "InvalidImageName" ||
         reason == "ErrImageNeverPull" || reason == "ImageInspectError" ||
         reason == "RegistryUnavailable" || reason == "SignatureValidationFailed";
}

bool sidecar_image_fails(const PodView& pod) {
  return std::any_of(pod.containers.begin(), pod.containers.end(), [](const ContainerView& one) {
    return one.name == kSidecarContainer && is_image_failure(one.waiting_reason);
  });
}

Context::Context(const api::Swarm& swarm_object, const Observed& seen, const Settings& config,
                 WallTime time)
    : swarm(swarm_object), observed(seen), settings(config), now(time) {
  topology = resolve_topology(swarm.spec, swarm.status.topology.coordinators);
  workers_wanted = swarm.spec.workers.replicas;
  worker_revision = revision_hash(swarm.spec, Role::kWorker);
  coordinator_revision = revision_hash(swarm.spec, Role::kCoordinator);
  revision = combined_revision(worker_revision, coordinator_revision);

  for (const PodView& pod : observed.pods) {
    if (pod.owner_uid != swarm.uid || swarm.uid.empty())
      continue;  // not ours, whatever it is called
    const Role role =
        pod.role == role_name(Role::kCoordinator) ? Role::kCoordinator : Role::kWorker;
    const auto index = slot_index(role, pod.slot);
    const bool ended = pod.phase == PodPhase::kFailed || pod.phase == PodPhase::kSucceeded;
    const bool another =
        index && !pod.claim.empty() && pod.claim != claim_name(swarm, role, *index);
    if (!index || another) {
      if (!pod.deletion_time) slotless.push_back(&pod);
      continue;
    }
    SlotPods& slot = (role == Role::kWorker ? workers : coordinators)[*index];
    (pod.deletion_time ? slot.terminating : ended ? slot.ended : slot.live).push_back(&pod);
  }
  for (auto* slots : {&workers, &coordinators}) {
    for (auto& [index, slot] : *slots) std::sort(slot.live.begin(), slot.live.end(), keep_before);
  }

  // The image is pinned: it moves with a revision (a rollout that the user causes), so that a new
  // operator alone restarts nothing. It also moves when it cannot be pulled at all, or a wrong
  // image in the operator's settings would stay for ever.
  sidecar_image = swarm.status.revision == revision && !swarm.status.sidecar_image.empty()
                      ? swarm.status.sidecar_image
                      : settings.sidecar_image;
  if (sidecar_image != settings.sidecar_image &&
      std::any_of(observed.pods.begin(), observed.pods.end(), [&](const PodView& pod) {
        return pod.owner_uid == swarm.uid && pod.sidecar_image == sidecar_image &&
               sidecar_image_fails(pod);
      })) {
    sidecar_image = settings.sidecar_image;
  }

  for (const LeaseView& lease : observed.leases) {
    if (lease.owner_uid != swarm.uid || lease.report.empty()) continue;
    const auto team = team_of_lease(swarm, lease.name);
    if (!team) continue;
    auto report = api::parse_report(lease.report);
    // A report that cannot be read is as good as none: nothing is then known to be idle or empty.
    if (report) reports.emplace(*team, *std::move(report));
  }
  for (const auto& [team, report] : reports) {
    for (const auto& [slot, worker] : report.workers) {
      // A worker that changed its team may be in two reports for a moment: busy wins.
      auto [known, fresh] = worker_reports.emplace(slot, &worker);
      if (!fresh && worker.busy) known->second = &worker;
    }
  }
}

bool Context::is_outdated(const PodView& pod, Role role) const {
  if (pod.revision != revision_of(role)) return true;
  return pod.sidecar_image != sidecar_image && sidecar_image_fails(pod);
}

bool Context::is_idle(const PodView& pod) const {
  const auto found = worker_reports.find(pod.slot);
  return found != worker_reports.end() && found->second->pod == pod.name && !found->second->busy;
}

std::string some_names(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < kNamesInMessage; ++i) {
    text += (i == 0 ? "" : ", ") + names[i];
  }
  if (names.size() > kNamesInMessage) {
    text += " and " + std::to_string(names.size() - kNamesInMessage) + " more";
  }
  return text;
}

std::string shorten(std::string_view text, std::size_t limit) {
  if (!is_utf8(text)) {
    std::string plain(text.substr(0, limit));
    for (char& c : plain) {
      if (static_cast<unsigned char>(c) >= 0x80) c = '?';
    }
    return plain;
  }
  if (text.size() <= limit) return std::string(text);
  static constexpr std::string_view kMark = "…";
  std::size_t end = limit > kMark.size() ? limit - kMark.size() : 0;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return std::string(text.substr(0, end)) + std::string(kMark);
}

std::string clock_text(WallTime time) { return api::format_time(time).substr(11); }

std::string count_of(std::int64_t n, std::string_view noun) {
  return std::to_string(n) + " " + std::string(noun) + (n == 1 ? "" : "s");
}

}  // namespace swarm::plan
