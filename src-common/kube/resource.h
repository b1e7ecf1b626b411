// The API resources this project touches, as values.
#pragma once

#include <string>
#include <string_view>

namespace swarm::kube {

struct Resource {
  std::string_view kind;         // "Pod"
  std::string_view api_version;  // "v1", "apps/v1"
  std::string_view plural;       // "pods"
};

inline constexpr Resource kPods{"Pod", "v1", "pods"};
inline constexpr Resource kServices{"Service", "v1", "services"};
inline constexpr Resource kClaims{"PersistentVolumeClaim", "v1", "persistentvolumeclaims"};
inline constexpr Resource kSecrets{"Secret", "v1", "secrets"};
inline constexpr Resource kServiceAccounts{"ServiceAccount", "v1", "serviceaccounts"};
inline constexpr Resource kNamespaces{"Namespace", "v1", "namespaces"};
inline constexpr Resource kRoles{"Role", "rbac.authorization.k8s.io/v1", "roles"};
inline constexpr Resource kRoleBindings{"RoleBinding", "rbac.authorization.k8s.io/v1",
                                        "rolebindings"};
inline constexpr Resource kLeases{"Lease", "coordination.k8s.io/v1", "leases"};
inline constexpr Resource kPodDisruptionBudgets{"PodDisruptionBudget", "policy/v1",
                                                "poddisruptionbudgets"};
inline constexpr Resource kNetworkPolicies{"NetworkPolicy", "networking.k8s.io/v1",
                                           "networkpolicies"};
inline constexpr Resource kEvents{"Event", "v1", "events"};
inline constexpr Resource kSwarms{"Swarm", "cfn.dev/v1alpha1", "swarms"};

// nullptr when the kind is none of the above.
const Resource* resource_by_kind(std::string_view kind);

// "/api/v1/namespaces/n/pods/name"; namespace and name may be empty (all namespaces, the
// collection).
std::string path_of(const Resource& resource, std::string_view namespace_name,
                    std::string_view name = {}, std::string_view subresource = {});

}  // namespace swarm::kube
