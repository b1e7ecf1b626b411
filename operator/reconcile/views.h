// From the API server's JSON to the planner's views. Pure; any type may be wrong in what comes in.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "plan/plan.h"
#include "reconcile/queue.h"

namespace swarm::reconcile {

plan::PodView pod_view(const nlohmann::json& pod);
plan::LeaseView lease_view(const nlohmann::json& lease);
plan::ChildView child_view(const nlohmann::json& object, std::string_view kind);

// Namespace and label cfn.dev/swarm; the name is empty without that label.
Key swarm_of(const nlohmann::json& object);

}  // namespace swarm::reconcile
