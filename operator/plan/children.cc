#include "plan/children.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/encoding.h"
#include "plan/pod.h"

namespace swarm::plan {
namespace {

using nlohmann::json;

constexpr std::size_t kHashDigits = 16;

std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

struct Child {
  std::string kind;
  std::string api_version;
  std::string name;
  json body;               // everything but metadata
  bool made_once = false;  // contents belong to others: never patched
  std::vector<std::string> random_keys = {};
};

// Teams whose Lease must exist: those wanted, and those whose coordinator is still there.
int lease_count(const Context& context) {
  int count = context.topology.coordinators;
  for (const auto& [index, slot] : context.coordinators) {
    if (!slot.live.empty() || !slot.terminating.empty()) count = std::max(count, index + 1);
  }
  return std::min(count, api::kMaxCoordinators);
}

std::string coordinator_account(const Context& context) {
  const std::string& text = context.swarm.spec.coordinator.template_json;
  if (!text.empty()) {
    const json parsed = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (parsed.is_object() && parsed.contains("spec") && parsed["spec"].is_object()) {
      const auto found = parsed["spec"].find("serviceAccountName");
      if (found != parsed["spec"].end() && found->is_string()) return found->get<std::string>();
    }
  }
  return context.swarm.name + "-coordinator";
}

json selector(const Context& context, Role role) {
  return {{kSwarmLabel, context.swarm.name}, {kRoleLabel, role_name(role)}};
}

std::vector<Child> wanted_children(const Context& context) {
  const std::string& name = context.swarm.name;
  std::vector<Child> list;

  list.push_back({"Secret",
                  "v1",
                  name + "-link-" + context.swarm.uid.substr(0, 8),
                  {{"type", "Opaque"}},
                  true,
                  {"link", "epoch"}});
  list.push_back({"Secret", "v1", name + "-submit", {{"type", "Opaque"}}, true, {"token"}});

  list.push_back(
      {"ServiceAccount", "v1", name + "-coordinator", {{"automountServiceAccountToken", false}}});
  json lease_names = json::array();
  for (int team = 0; team < lease_count(context); ++team) {
    lease_names.push_back(lease_name(context.swarm, team));
  }
  json rules = json::array();
  rules.push_back({{"apiGroups", json::array({api::kGroup})},
                   {"resources", json::array({api::kPlural})},
                   {"resourceNames", json::array({name})},
                   {"verbs", json::array({"get", "list", "watch"})}});
  rules.push_back({{"apiGroups", json::array({"coordination.k8s.io"})},
                   {"resources", json::array({"leases"})},
                   {"resourceNames", std::move(lease_names)},
                   {"verbs", json::array({"get", "update", "patch"})}});
  list.push_back({"Role",
                  "rbac.authorization.k8s.io/v1",
                  name + "-coordinator",
                  {{"rules", std::move(rules)}}});
  json subjects = json::array();
  subjects.push_back({{"kind", "ServiceAccount"},
                      {"name", coordinator_account(context)},
                      {"namespace", context.swarm.namespace_name}});
  list.push_back({"RoleBinding",
                  "rbac.authorization.k8s.io/v1",
                  name + "-coordinator",
                  {{"roleRef",
                    {{"apiGroup", "rbac.authorization.k8s.io"},
                     {"kind", "Role"},
                     {"name", name + "-coordinator"}}},
                   {"subjects", std::move(subjects)}}});

  json link_ports = json::array();
  link_ports.push_back({{"name", "link"},
                        {"port", 7070},
                        {"targetPort", "cfn-link"},
                        {"protocol", "TCP"},
                        {"appProtocol", "tcp"}});
  list.push_back({"Service",
                  "v1",
                  name + "-link",
                  {{"spec",
                    {{"clusterIP", "None"},
                     {"publishNotReadyAddresses", true},
                     {"selector", selector(context, Role::kCoordinator)},
                     {"ports", std::move(link_ports)}}}}});
  json task_ports = json::array();
  task_ports.push_back({{"name", "http"},
                        {"port", 80},
                        {"targetPort", "cfn-http"},
                        {"protocol", "TCP"},
                        {"appProtocol", "http"}});
  list.push_back({"Service",
                  "v1",
                  name + "-tasks",
                  {{"spec",
                    {{"type", "ClusterIP"},
                     {"selector", selector(context, Role::kCoordinator)},
                     {"ports", std::move(task_ports)}}}}});

  const api::IntOrPercent limit = context.swarm.spec.workers.max_unavailable;
  list.push_back(
      {"PodDisruptionBudget",
       "policy/v1",
       name + "-workers",
       {{"spec",
         {{"maxUnavailable", limit.percent ? json(api::to_string(limit)) : json(limit.value)},
          {"unhealthyPodEvictionPolicy", "AlwaysAllow"},
          {"selector", {{"matchLabels", selector(context, Role::kWorker)}}}}}}});
  if (context.topology.coordinators > 1) {
    list.push_back({"PodDisruptionBudget",
                    "policy/v1",
                    name + "-coordinators",
                    {{"spec",
                      {{"minAvailable", context.topology.coordinators - 1},
                       {"unhealthyPodEvictionPolicy", "AlwaysAllow"},
                       {"selector", {{"matchLabels", selector(context, Role::kCoordinator)}}}}}}});
  }

  // Only the link port is ours to close. NetworkPolicy can only allow, so everything else is
  // allowed by range.
  json same_swarm = json::array();
  same_swarm.push_back({{"podSelector", {{"matchLabels", {{kSwarmLabel, name}}}}}});
  json link_only = json::array();
  link_only.push_back({{"protocol", "TCP"}, {"port", 7070}});
  json everything_else = json::array();
  everything_else.push_back({{"protocol", "TCP"}, {"port", 1}, {"endPort", 7069}});
  everything_else.push_back({{"protocol", "TCP"}, {"port", 7071}, {"endPort", 65535}});
  everything_else.push_back({{"protocol", "UDP"}, {"port", 1}, {"endPort", 65535}});
  everything_else.push_back({{"protocol", "SCTP"}, {"port", 1}, {"endPort", 65535}});
  json ingress = json::array();
  ingress.push_back({{"from", std::move(same_swarm)}, {"ports", std::move(link_only)}});
  ingress.push_back({{"ports", std::move(everything_else)}});
  list.push_back({"NetworkPolicy",
                  "networking.k8s.io/v1",
                  name + "-link",
                  {{"spec",
                    {{"podSelector", {{"matchLabels", {{kSwarmLabel, name}}}}},
                     {"policyTypes", json::array({"Ingress"})},
                     {"ingress", std::move(ingress)}}}}});
  return list;
}

json manifest_of(const Context& context, const Child& child) {
  json manifest = child.body;
  manifest["apiVersion"] = child.api_version;
  manifest["kind"] = child.kind;
  manifest["metadata"] = child_metadata(context, child.name);
  return manifest;
}

}  // namespace

ChildrenPlan plan_children(const Context& context) {
  ChildrenPlan plan;
  const auto note = [&](Problem problem) {
    if (!plan.problem) plan.problem = std::move(problem);
  };

  std::vector<Child> wanted = wanted_children(context);
  for (const Child& child : wanted) {
    json manifest = manifest_of(context, child);
    const std::string hash = to_hex(sha256(dump(manifest))).substr(0, kHashDigits);
    const auto found = std::find_if(
        context.observed.children.begin(), context.observed.children.end(),
        [&](const ChildView& one) { return one.kind == child.kind && one.name == child.name; });
    if (found == context.observed.children.end()) {
      if (context.observed.namespace_terminating) continue;
      if (!child.made_once) manifest["metadata"]["annotations"][kHashAnnotation] = hash;
      plan.actions.push_back(
          CreateObject{child.kind, child.name, dump(manifest), child.random_keys});
      continue;
    }
    if (found->owner_uid != context.swarm.uid) {
      note(name_taken(context, child.kind, child.name, found->deleting));
      continue;
    }
    if (found->deleting || child.made_once || found->spec_hash == hash) continue;
    json patch = child.body;
    patch["metadata"] = {{"uid", found->uid},
                         {"resourceVersion", found->resource_version},
                         {"labels", manifest["metadata"]["labels"]},
                         {"annotations", {{kHashAnnotation, hash}}}};
    patch.erase("roleRef");  // immutable, and never different
    plan.actions.push_back(PatchObject{child.kind, child.api_version, child.name, dump(patch)});
  }

  // A budget for one coordinator would only block drains.
  for (const ChildView& child : context.observed.children) {
    if (child.kind == "PodDisruptionBudget" && child.name == context.swarm.name + "-coordinators" &&
        child.owner_uid == context.swarm.uid && !child.deleting &&
        context.topology.coordinators <= 1) {
      plan.actions.push_back(
          DeleteObject{child.kind, "policy/v1", child.name, child.uid, child.resource_version});
    }
  }

  const int leases = lease_count(context);
  for (int team = 0; team < leases; ++team) {
    const std::string name = lease_name(context.swarm, team);
    const auto found = std::find_if(context.observed.leases.begin(), context.observed.leases.end(),
                                    [&](const LeaseView& one) { return one.name == name; });
    if (found != context.observed.leases.end()) {
      if (found->owner_uid != context.swarm.uid)
        note(name_taken(context, "Lease", name, found->deleting));
      continue;
    }
    if (context.observed.namespace_terminating) continue;
    const json manifest = {{"apiVersion", "coordination.k8s.io/v1"},
                           {"kind", "Lease"},
                           {"metadata", child_metadata(context, name)},
                           {"spec", json::object()}};
    plan.actions.push_back(CreateObject{"Lease", name, dump(manifest), {}});
  }
  for (const LeaseView& lease : context.observed.leases) {
    const auto team = team_of_lease(context.swarm, lease.name);
    if (!team || *team < leases || lease.owner_uid != context.swarm.uid || lease.deleting) continue;
    plan.actions.push_back(DeleteObject{"Lease", "coordination.k8s.io/v1", lease.name, lease.uid,
                                        lease.resource_version});
  }
  return plan;
}

json child_metadata(const Context& context, const std::string& name) {
  const api::Swarm& swarm = context.swarm;
  return {{"name", name},
          {"namespace", swarm.namespace_name},
          {"labels", {{kManagedByLabel, kManagedBy}, {kSwarmLabel, swarm.name}}},
          {"ownerReferences",
           {{{"apiVersion", api::kApiVersion},
             {"kind", api::kKind},
             {"name", swarm.name},
             {"uid", swarm.uid},
             {"controller", true},
             {"blockOwnerDeletion", true}}}}};
}

Problem name_taken(const Context& context, const std::string& kind, const std::string& name,
                   bool deleting) {
  Problem problem;
  problem.reason = "NameTaken";
  problem.what = kind + " " + name + " exists and is not this Swarm's" +
                 (deleting ? " (it is being deleted)" : "");
  problem.next = "wait if it is of a deleted Swarm " + context.swarm.name +
                 "; otherwise delete it or give this Swarm another name";
  return problem;
}

}  // namespace swarm::plan
