#include "kube/decode.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

namespace swarm::kube {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxMessageBytes = 4096;
constexpr std::int64_t kMaxRetryAfterSeconds = 300;

}  // namespace

Result<json> parse_object(std::string_view text) {
  // Objects inside managedFields can be nested as deep as the pod itself, so they are cut off at
  // the key.
  const json::parser_callback_t no_managed_fields = [](int, json::parse_event_t event,
                                                       json& parsed) {
    if (event != json::parse_event_t::key) return true;
    const auto* key = parsed.get_ptr<const std::string*>();
    return key == nullptr || *key != "managedFields";
  };
  try {
    json object = json::parse(text, no_managed_fields);
    if (!object.is_object()) return invalid("not a JSON object");
    return object;
  } catch (const json::exception& e) {
    return invalid(std::string("not JSON: ") + e.what());
  }
}

const json* find_at(const json& object, std::string_view path) {
  const json* at = &object;
  while (true) {
    if (!at->is_object()) return nullptr;
    const std::size_t dot = path.find('.');
    const auto found = at->find(std::string(path.substr(0, dot)));
    if (found == at->end()) return nullptr;
    at = &*found;
    if (dot == std::string_view::npos) return at;
    path.remove_prefix(dot + 1);
  }
}

std::string text_at(const json& object, std::string_view path) {
  const json* found = find_at(object, path);
  return found != nullptr && found->is_string() ? found->get<std::string>() : std::string();
}

std::int64_t number_at(const json& object, std::string_view path, std::int64_t otherwise) {
  const json* found = find_at(object, path);
  return found != nullptr && found->is_number_integer() ? found->get<std::int64_t>() : otherwise;
}

bool truth_at(const json& object, std::string_view path) {
  const json* found = find_at(object, path);
  return found != nullptr && found->is_boolean() && found->get<bool>();
}

std::string controller_uid(const json& object) {
  const json* owners = find_at(object, "metadata.ownerReferences");
  if (owners == nullptr || !owners->is_array()) return {};
  for (const json& owner : *owners) {
    if (truth_at(owner, "controller")) return text_at(owner, "uid");
  }
  return {};
}

Error ApiError::error() const {
  Code code = Code::kInternal;
  if (http_status == 404) {
    code = Code::kNotFound;
  } else if (http_status == 409) {
    code = Code::kConflict;
  } else if (http_status == 401 || http_status == 403) {
    code = Code::kDenied;
  } else if (http_status == 408 || http_status == 429 || http_status >= 500 || http_status == 410) {
    code = Code::kUnavailable;
  } else if (http_status >= 400) {
    code = Code::kInvalid;
  }
  return {code, message};
}

ApiError parse_error(int http_status, std::string_view body, std::string_view retry_after_header) {
  ApiError out;
  out.http_status = http_status;
  std::int64_t seconds = -1;
  const Result<json> status = parse_object(body);
  if (status.ok()) {
    out.reason = text_at(*status, "reason");
    out.message = text_at(*status, "message").substr(0, kMaxMessageBytes);
    seconds = number_at(*status, "details.retryAfterSeconds", -1);
    const json* causes = find_at(*status, "details.causes");
    if (causes != nullptr && causes->is_array() && !causes->empty())
      out.cause = text_at(causes->front(), "reason");
    if (out.http_status == 0)
      out.http_status =
          static_cast<int>(std::clamp<std::int64_t>(number_at(*status, "code"), 0, 999));
  }
  if (out.message.empty()) out.message = "HTTP " + std::to_string(http_status);
  if (out.http_status == 401)
    out.message += ": the API server does not accept the token; check the token file";
  std::int64_t header = 0;
  const auto [end, ec] = std::from_chars(
      retry_after_header.data(), retry_after_header.data() + retry_after_header.size(), header);
  if (ec == std::errc() && end == retry_after_header.data() + retry_after_header.size() &&
      header >= 0)
    seconds = header;
  if (seconds > 0) out.retry_after = std::chrono::seconds(std::min(seconds, kMaxRetryAfterSeconds));
  return out;
}

std::optional<std::uint64_t> version_number(std::string_view resource_version) {
  std::uint64_t value = 0;
  const char* const last = resource_version.data() + resource_version.size();
  const auto [end, ec] = std::from_chars(resource_version.data(), last, value);
  if (ec != std::errc() || end != last || resource_version.empty()) return std::nullopt;
  return value;
}

LeaseRecord parse_lease(const json& lease) {
  LeaseRecord out;
  out.holder = text_at(lease, "spec.holderIdentity");
  out.duration_seconds = static_cast<int>(
      std::clamp<std::int64_t>(number_at(lease, "spec.leaseDurationSeconds"), 0, 86'400));
  out.acquire_time = parse_time(text_at(lease, "spec.acquireTime"));
  out.renew_time = parse_time(text_at(lease, "spec.renewTime"));
  out.transitions = static_cast<int>(
      std::clamp<std::int64_t>(number_at(lease, "spec.leaseTransitions"), 0, 1'000'000'000));
  out.resource_version = text_at(lease, "metadata.resourceVersion");
  return out;
}

Result<ServerVersion> parse_version(std::string_view body) {
  const Result<json> object = parse_object(body);
  if (!object.ok()) return object.error().in("/version");
  const auto leading = [](const std::string& text) {
    int value = -1;
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
  };
  const ServerVersion out{leading(text_at(*object, "major")), leading(text_at(*object, "minor"))};
  if (out.major < 0 || out.minor < 0) return invalid("/version: no major and minor number");
  return out;
}

}  // namespace swarm::kube
