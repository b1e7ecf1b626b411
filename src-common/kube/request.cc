#include "kube/request.h"

#include <array>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/encoding.h"

namespace swarm::kube {
namespace {

using nlohmann::json;

constexpr std::array kResources = {
    kPods,   kServices,     kSecrets, kServiceAccounts,      kNamespaces,
    kRoles,  kRoleBindings, kLeases,  kPodDisruptionBudgets, kNetworkPolicies,
    kEvents, kSwarms,       kClaims};
constexpr std::size_t kMaxEventMessageBytes = 1024;  // the API server refuses longer ones
constexpr std::size_t kMaxEventNameBase = 200;

std::string encode(std::string_view text) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
        c == '.' || c == '_' || c == '~') {
      out += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out += '%';
      out += kHex[byte >> 4U];
      out += kHex[byte & 15U];
    }
  }
  return out;
}

class Query {
 public:
  void add(std::string_view name, std::string_view value) {
    if (value.empty()) return;
    text_ += text_.empty() ? '?' : '&';
    text_ += name;
    text_ += '=';
    text_ += encode(value);
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string text_;
};

std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string format_time(WallTime time, bool micro) {
  const auto seconds = static_cast<std::time_t>(time / 1000);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[64];
  std::size_t length = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  if (micro) {
    const auto rest = static_cast<int>(time % 1000);
    length += static_cast<std::size_t>(
        std::snprintf(text + length, sizeof text - length, ".%03d000", rest));
  }
  return std::string(text, length) + "Z";
}

json lease_spec(const LeaseRecord& record) {
  json spec = json::object();
  spec["holderIdentity"] = record.holder;
  spec["leaseDurationSeconds"] = record.duration_seconds;
  spec["acquireTime"] = micro_time(record.acquire_time);
  spec["renewTime"] = micro_time(record.renew_time);
  spec["leaseTransitions"] = record.transitions;
  return spec;
}

json lease_object(std::string_view namespace_name, std::string_view name,
                  const LeaseRecord& record) {
  return {{"apiVersion", kLeases.api_version},
          {"kind", kLeases.kind},
          {"metadata", {{"name", name}, {"namespace", namespace_name}}},
          {"spec", lease_spec(record)}};
}

}  // namespace

const Resource* resource_by_kind(std::string_view kind) {
  for (const Resource& resource : kResources) {
    if (resource.kind == kind) return &resource;
  }
  return nullptr;
}

std::string path_of(const Resource& resource, std::string_view namespace_name,
                    std::string_view name, std::string_view subresource) {
  std::string path = resource.api_version.find('/') == std::string_view::npos ? "/api/" : "/apis/";
  path += resource.api_version;
  if (!namespace_name.empty()) path += "/namespaces/" + encode(namespace_name);
  path += '/';
  path += resource.plural;
  if (!name.empty()) path += "/" + encode(name);
  if (!subresource.empty()) path += "/" + encode(subresource);
  return path;
}

Request get(const Resource& resource, std::string_view namespace_name, std::string_view name) {
  return {"GET", path_of(resource, namespace_name, name), "", ""};
}

Request get_metadata(const Resource& resource, std::string_view namespace_name,
                     std::string_view name) {
  Request request = get(resource, namespace_name, name);
  request.accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
  return request;
}

Request list(const Resource& resource, std::string_view namespace_name,
             const ListOptions& options) {
  Query query;
  query.add("labelSelector", options.selector.labels);
  query.add("fieldSelector", options.selector.fields);
  if (options.limit > 0) query.add("limit", std::to_string(options.limit));
  query.add("continue", options.continue_token);
  query.add("resourceVersion", options.resource_version);
  return {"GET", path_of(resource, namespace_name) + query.text(), "", ""};
}

Request watch(const Resource& resource, std::string_view namespace_name, const Selector& selector,
              std::string_view resource_version, std::chrono::seconds timeout) {
  Query query;
  query.add("watch", "true");
  query.add("allowWatchBookmarks", "true");
  query.add("labelSelector", selector.labels);
  query.add("fieldSelector", selector.fields);
  query.add("resourceVersion", resource_version);
  query.add("timeoutSeconds", std::to_string(timeout.count()));
  return {"GET", path_of(resource, namespace_name) + query.text(), "", ""};
}

Request create(const Resource& resource, std::string_view namespace_name, std::string body,
               bool dry_run) {
  Query query;
  query.add("fieldValidation", "Strict");
  if (dry_run) query.add("dryRun", "All");
  return {"POST", path_of(resource, namespace_name) + query.text(), "application/json",
          std::move(body)};
}

Request merge_patch(const Resource& resource, std::string_view namespace_name,
                    std::string_view name, std::string body) {
  return {"PATCH", path_of(resource, namespace_name, name) + "?fieldValidation=Strict",
          "application/merge-patch+json", std::move(body)};
}

Request status_patch(const Resource& resource, std::string_view namespace_name,
                     std::string_view name, std::string_view status,
                     std::string_view resource_version) {
  std::string body =
      "{\"metadata\":{\"resourceVersion\":" + dump(json(resource_version)) + "},\"status\":";
  body += status;
  body += '}';
  return {"PATCH", path_of(resource, namespace_name, name, "status"),
          "application/merge-patch+json", std::move(body)};
}

Request replace(const Resource& resource, std::string_view namespace_name, std::string_view name,
                std::string body) {
  return {"PUT", path_of(resource, namespace_name, name), "application/json", std::move(body)};
}

Request remove(const Resource& resource, std::string_view namespace_name, std::string_view name,
               const Preconditions& preconditions) {
  json conditions = json::object();
  if (!preconditions.uid.empty()) conditions["uid"] = preconditions.uid;
  if (!preconditions.resource_version.empty())
    conditions["resourceVersion"] = preconditions.resource_version;
  const json body = {{"apiVersion", "v1"},
                     {"kind", "DeleteOptions"},
                     {"preconditions", conditions},
                     {"propagationPolicy", "Background"}};
  return {"DELETE", path_of(resource, namespace_name, name), "application/json", dump(body)};
}

std::string event_name(const EventNote& note) {
  std::string key;
  for (const std::string* part : {&note.about.uid, &note.type, &note.reason, &note.message}) {
    key += *part;
    key += '\0';
  }
  return note.about.name.substr(0, kMaxEventNameBase) + "." + to_hex(sha256(key)).substr(0, 16);
}

Request create_event(const EventNote& note, std::string_view component, std::string_view instance,
                     WallTime now) {
  std::string message = note.message;
  if (message.size() > kMaxEventMessageBytes) {
    std::size_t end = kMaxEventMessageBytes - 3;
    while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xc0U) == 0x80U)
      --end;  // not inside a character
    message = message.substr(0, end) + "...";
  }
  const std::string time = whole_time(now);
  const json body = {
      {"apiVersion", "v1"},
      {"kind", "Event"},
      {"metadata", {{"name", event_name(note)}, {"namespace", note.about.namespace_name}}},
      {"involvedObject",
       {{"apiVersion", note.about.api_version},
        {"kind", note.about.kind},
        {"namespace", note.about.namespace_name},
        {"name", note.about.name},
        {"uid", note.about.uid},
        {"resourceVersion", note.about.resource_version}}},
      {"type", note.type},
      {"reason", note.reason},
      {"message", message},
      {"source", {{"component", component}}},
      {"reportingComponent", component},
      {"reportingInstance", instance},
      {"firstTimestamp", time},
      {"lastTimestamp", time},
      {"count", 1}};
  return {"POST", path_of(kEvents, note.about.namespace_name), "application/json", dump(body)};
}

Request repeat_event(const EventNote& note, std::int64_t count, WallTime now) {
  const json body = {{"count", count}, {"lastTimestamp", whole_time(now)}};
  return {"PATCH", path_of(kEvents, note.about.namespace_name, event_name(note)),
          "application/merge-patch+json", dump(body)};
}

Request create_lease(std::string_view namespace_name, std::string_view name,
                     const LeaseRecord& record) {
  return create(kLeases, namespace_name, dump(lease_object(namespace_name, name, record)));
}

Request update_lease(std::string_view namespace_name, std::string_view name,
                     const LeaseRecord& record) {
  json object = lease_object(namespace_name, name, record);
  object["metadata"]["resourceVersion"] = record.resource_version;
  return replace(kLeases, namespace_name, name, dump(object));
}

std::string micro_time(WallTime time) { return format_time(time, true); }
std::string whole_time(WallTime time) { return format_time(time, false); }

WallTime parse_time(std::string_view text) {
  // 2026-01-02T03:04:05[.fraction]Z
  if (text.size() < 20 || text.size() > 40 || text.back() != 'Z') return 0;
  const auto number = [&](std::size_t from, std::size_t length) {
    int value = 0;
    for (std::size_t i = from; i < from + length; ++i) {
      if (text[i] < '0' || text[i] > '9') return -1;
      value = value * 10 + (text[i] - '0');
    }
    return value;
  };
  const int year = number(0, 4), month = number(5, 2), day = number(8, 2);
  const int hour = number(11, 2), minute = number(14, 2), second = number(17, 2);
  if (text[4] != '-' || text[7] != '-' || text[10] != 'T' || text[13] != ':' || text[16] != ':')
    return 0;
  if (year < 1970 || month < 1 || month > 12 || day < 1 || day > 31 || hour < 0 || hour > 23 ||
      minute < 0 || minute > 59 || second < 0 || second > 60) {
    return 0;
  }
  std::tm parts{};
  parts.tm_year = year - 1900;
  parts.tm_mon = month - 1;
  parts.tm_mday = day;
  parts.tm_hour = hour;
  parts.tm_min = minute;
  parts.tm_sec = second;
  WallTime time = static_cast<WallTime>(timegm(&parts)) * 1000;
  if (text[19] == '.') {
    WallTime unit = 100;
    for (std::size_t i = 20; i + 1 < text.size(); ++i) {
      if (text[i] < '0' || text[i] > '9') return 0;
      time += unit * (text[i] - '0');
      unit /= 10;
    }
  } else if (text.size() != 20) {
    return 0;
  }
  return time;
}

}  // namespace swarm::kube
