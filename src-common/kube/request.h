// Kubernetes API requests as values: what goes over the wire, nothing done yet. Pure.
//
// Every request may be sent twice without harm (the client may have to): creations name their
// object, so the second one is a 409; updates and deletes carry preconditions. Every body is JSON
// text. Names and selectors are percent-encoded here; callers pass them as they are.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kube/resource.h"
#include "os/time.h"

namespace swarm::kube {

struct Request {
  std::string method = "GET";
  std::string target;        // path and query
  std::string content_type;  // empty: no body
  std::string body;
  std::string accept = "application/json";
  friend bool operator==(const Request&, const Request&) = default;
};

struct Selector {
  std::string labels;  // "a=b,c"
  std::string fields;  // "metadata.name=x"
};

struct ListOptions {
  Selector selector;
  int limit = 0;  // 0: everything at once
  std::string continue_token;
  std::string resource_version;  // "" = consistent read, "0" = any version the server has at hand
};

Request get(const Resource& resource, std::string_view namespace_name, std::string_view name);
// Metadata only: what a Secret holds does not leave the API server.
Request get_metadata(const Resource& resource, std::string_view namespace_name,
                     std::string_view name);
Request list(const Resource& resource, std::string_view namespace_name, const ListOptions& options);
// allowWatchBookmarks is always asked for; the server ends the watch after `timeout`.
Request watch(const Resource& resource, std::string_view namespace_name, const Selector& selector,
              std::string_view resource_version, std::chrono::seconds timeout);
// Strict: unknown and duplicate fields are refused. Dry run: everything but storing it.
Request create(const Resource& resource, std::string_view namespace_name, std::string body,
               bool dry_run = false);
Request merge_patch(const Resource& resource, std::string_view namespace_name,
                    std::string_view name, std::string body);
// `status` is the JSON value of .status; with a resourceVersion another writer in between gives
// 409.
Request status_patch(const Resource& resource, std::string_view namespace_name,
                     std::string_view name, std::string_view status,
                     std::string_view resource_version);
// A full update; the body carries metadata.resourceVersion: compare-and-swap.
Request replace(const Resource& resource, std::string_view namespace_name, std::string_view name,
                std::string body);

struct Preconditions {
  std::string uid;               // empty: any
  std::string resource_version;  // empty: any
};
Request remove(const Resource& resource, std::string_view namespace_name, std::string_view name,
               const Preconditions& preconditions);

// ---- core/v1 Events, aggregated: the same (object, type, reason, message) counts up one Event
// object.

struct ObjectReference {
  std::string api_version, kind, namespace_name, name, uid, resource_version;
};
struct EventNote {
  ObjectReference about;
  std::string type;     // Normal, Warning
  std::string reason;   // CamelCase
  std::string message;  // cut at 1024 bytes
};
// The fixed name of the Event object: <object>.<hash of everything that makes it the same event>.
std::string event_name(const EventNote& note);
Request create_event(const EventNote& note, std::string_view component, std::string_view instance,
                     WallTime now);
// After a 409: count it once more. `count` and `now` replace what is there.
Request repeat_event(const EventNote& note, std::int64_t count, WallTime now);

// ---- Leases for leader election.

struct LeaseRecord {
  std::string holder;  // empty: nobody
  int duration_seconds = 0;
  WallTime acquire_time = 0;
  WallTime renew_time = 0;
  int transitions = 0;
  std::string resource_version;
};
Request create_lease(std::string_view namespace_name, std::string_view name,
                     const LeaseRecord& record);
// Compare-and-swap on record.resource_version.
Request update_lease(std::string_view namespace_name, std::string_view name,
                     const LeaseRecord& record);

// "2026-01-02T03:04:05.678000Z" (MicroTime) and "2026-01-02T03:04:05Z" (Time).
std::string micro_time(WallTime time);
std::string whole_time(WallTime time);
// RFC 3339 in UTC with or without a fraction; 0 when it is not one.
WallTime parse_time(std::string_view text);

}  // namespace swarm::kube
