// The objects of a Swarm that are not pods: Services, Secrets, rights, Leases, disruption budgets,
// the network policy. Internal to operator/plan; pure.
//
// Each carries the hash of what was last applied; a patch is made when that hash is not the one of
// today's manifest. Secrets and Leases are made once and never touched again: their contents belong
// to others.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "plan/context.h"

namespace swarm::plan {

struct ChildrenPlan {
  std::vector<Action> actions;
  // Names that something else has taken: no pods before it is gone.
  std::optional<Problem> problem;
};

ChildrenPlan plan_children(const Context& context);

// Of every object of a Swarm: name, labels, owner. JSON.
nlohmann::json child_metadata(const Context& context, const std::string& name);

// Says that `kind name` belongs to somebody else.
Problem name_taken(const Context& context, const std::string& kind, const std::string& name,
                   bool deleting);

}  // namespace swarm::plan
