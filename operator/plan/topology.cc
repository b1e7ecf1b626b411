#include "plan/topology.h"

#include <algorithm>

namespace swarm::plan {

namespace {

Topology wanted_topology(const api::SwarmSpec& spec) {
  const int agents = std::max(0, spec.workers.replicas) * std::max(1, spec.workers.agents_per_pod);
  const int team_size = std::max(1, spec.topology.team_size);
  // A team has at least one pod, however many agents that has.
  const int pods = std::max(1, spec.workers.replicas);
  const int wanted = std::clamp((agents + team_size - 1) / team_size, 1, pods);
  const std::string size = std::to_string(agents) + (agents == 1 ? " agent" : " agents");
  const std::string limit = "topology.teamSize " + std::to_string(team_size);

  Topology topology;
  switch (spec.topology.type) {
    case api::TopologyType::kFlat:
      topology = {"Flat", 1, "asked for; " + size + " under one coordinator"};
      if (wanted > 1) topology.reason += ", more than " + limit;
      return topology;
    case api::TopologyType::kHybrid:
      topology = {"Hybrid", wanted, "asked for; " + size + ", " + limit};
      break;
    case api::TopologyType::kAuto:
      if (wanted == 1) {
        return {"Flat", 1, "Auto: " + size + ", not more than " + limit};
      }
      topology = {"Hybrid", wanted, "Auto: " + size + ", more than " + limit};
      break;
  }
  if (topology.coordinators > api::kMaxCoordinators) {
    topology.coordinators = api::kMaxCoordinators;
    topology.reason += "; limited to " + std::to_string(api::kMaxCoordinators) +
                       " coordinators: raise topology.teamSize";
  }
  return topology;
}

}  // namespace

Topology resolve_topology(const api::SwarmSpec& spec, int fixed) {
  Topology topology = wanted_topology(spec);
  if (fixed > 0 && fixed <= api::kMaxCoordinators && fixed != topology.coordinators) {
    topology.type = fixed == 1 ? "Flat" : "Hybrid";
    topology.coordinators = fixed;
    topology.reason = "fixed since the Swarm was made; now " + topology.reason;
  }
  if (spec.workers.replicas > 0 && spec.workers.replicas < topology.coordinators) {
    topology.reason += "; teams without an agent take no tasks: scale to at least " +
                       std::to_string(topology.coordinators);
  }
  return topology;
}

}  // namespace swarm::plan
