#include "plan/claims.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "plan/children.h"
#include "plan/pod.h"

namespace swarm::plan {

using nlohmann::json;

bool has_journals(const api::SwarmSpec& spec) {
  return spec.mailbox.persistence == api::Persistence::kJournal;
}

std::string claim_name(const api::Swarm& swarm, Role role, int index) {
  return slot_prefix(swarm, role, index) + "-journal";
}

CreateObject new_claim(const Context& context, Role role, int index) {
  const api::MailboxSpec& mailbox = context.swarm.spec.mailbox;
  const std::string name = claim_name(context.swarm, role, index);
  json metadata = child_metadata(context, name);
  metadata["labels"][kRoleLabel] = role_name(role);
  metadata["labels"][kSlotLabel] = slot_name(role, index);
  const std::string size = api::format_bytes(mailbox.size_limit_bytes + kVolumeSlackBytes);
  json spec = {{"accessModes", json::array({"ReadWriteOnce"})},
               {"resources", {{"requests", {{"storage", size}}}}}};
  if (mailbox.storage_class) spec["storageClassName"] = *mailbox.storage_class;
  const json manifest = {{"apiVersion", "v1"},
                         {"kind", kClaimKind},
                         {"metadata", std::move(metadata)},
                         {"spec", std::move(spec)}};
  return {std::string(kClaimKind), name, manifest.dump(), {}, slot_name(role, index)};
}

const ChildView* find_claim(const Context& context, const std::string& name) {
  const auto& children = context.observed.children;
  const auto found = std::find_if(children.begin(), children.end(), [&](const ChildView& one) {
    return one.kind == kClaimKind && one.name == name;
  });
  return found == children.end() ? nullptr : &*found;
}

std::optional<Problem> claim_problem(const Context& context, const ChildView& claim) {
  if (claim.owner_uid != context.swarm.uid) {
    return name_taken(context, claim.kind, claim.name, claim.deleting);
  }
  if (!claim.deleting) return std::nullopt;
  return Problem{"JournalDeleted",
                 claim.kind + " " + claim.name +
                     " is being deleted; its slot gets a new, empty one when it has gone",
                 "kubectl describe pvc " + claim.name + " says who still uses it", 0};
}

}  // namespace swarm::plan
