// What comes back from the API server. Pure. Text from outside: never throws, never trusts a type.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "kube/request.h"

namespace swarm::kube {

// JSON with every "managedFields" dropped while reading (they are half of a pod's bytes). kInvalid:
// not JSON.
Result<nlohmann::json> parse_object(std::string_view text);

// Reading with defaults: the value at `path` ("metadata.name", names without dots) or an empty one,
// if its type is not the asked one.
std::string text_at(const nlohmann::json& object, std::string_view path);
std::int64_t number_at(const nlohmann::json& object, std::string_view path,
                       std::int64_t otherwise = 0);
bool truth_at(const nlohmann::json& object, std::string_view path);
const nlohmann::json* find_at(const nlohmann::json& object,
                              std::string_view path);  // nullptr: absent

// The uid of the ownerReference with controller: true; empty when there is none.
std::string controller_uid(const nlohmann::json& object);

// An answer that is not 2xx: the Status object in it, as far as there is one.
struct ApiError {
  int http_status = 0;
  std::string reason;   // "NotFound", "AlreadyExists", "Expired", …
  std::string message;  // of the Status, else "HTTP 503"
  std::string cause;    // details.causes[0].reason: "NamespaceTerminating"
  std::optional<Milliseconds> retry_after;
  [[nodiscard]] Error error() const;  // its Code is the reaction
};
ApiError parse_error(int http_status, std::string_view body, std::string_view retry_after_header);

// Resource versions are opaque by contract, but every API server since 1.35 and etcd make them
// decimal numbers that grow; nullopt when one is not.
std::optional<std::uint64_t> version_number(std::string_view resource_version);

LeaseRecord parse_lease(const nlohmann::json& lease);

struct ServerVersion {
  int major = 0;
  int minor = 0;
};
// The answer of /version; minor may be "29+".
Result<ServerVersion> parse_version(std::string_view body);

}  // namespace swarm::kube
