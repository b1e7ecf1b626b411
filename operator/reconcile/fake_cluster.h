// A small API server behind the HttpClient seam, for tests: objects, resourceVersions, list, watch,
// preconditions, strict enough to catch a wrong request. A pod is Running and Ready as soon as it
// is made; a deleted one is gone at once; deleting an owner deletes what it owns, at once or when
// collect() says so. Secrets give out their metadata only.
//
// Threads: any. Faults: `fault` is asked about every write, in order, with its number from 1.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kube/decode.h"
#include "net/http_client.h"
#include "os/time.h"

namespace swarm::reconcile {

class FakeCluster final : public net::HttpClient {
 public:
  using json = nlohmann::json;

  enum class Fault { kNone, kLostBefore, kLostAfter, kRefuse };
  struct Verdict {
    Fault fault = Fault::kNone;
    int status = 500;  // kRefuse
    std::string body = R"({"kind":"Status","message":"injected"})";
    std::string retry_after{};
  };
  struct Write {
    std::string method, plural, name;
  };

  Result<net::HttpReply> send(const net::HttpCall& call, Milliseconds, std::stop_token) override {
    std::unique_lock lock(mutex_);
    const bool is_write = call.method != "GET";
    Verdict verdict;
    const Target target = parse(call.target);
    if (is_write && target.plural != "leases" && target.plural != "events" &&
        !target.query.contains("dryRun")) {
      writes_.push_back(
          {call.method, target.plural, target.name.empty() ? name_in(call.body) : target.name});
      if (fault) verdict = fault(writes_.back(), writes_.size());
    } else if (is_write && dead) {
      verdict.fault = Fault::kLostBefore;
    }
    if (verdict.fault == Fault::kLostBefore) return unavailable("connection lost");
    if (verdict.fault == Fault::kRefuse) {
      net::HttpReply reply{verdict.status, {}, verdict.body};
      if (!verdict.retry_after.empty()) reply.headers["retry-after"] = verdict.retry_after;
      return reply;
    }
    net::HttpReply reply = serve(call, target);
    changed_.notify_all();
    if (verdict.fault == Fault::kLostAfter) return Error{Code::kUnknown, "connection lost"};
    return reply;
  }

  Result<net::HttpReply> stream(const net::HttpCall& call, const net::StreamLimits&,
                                const net::OnLine& on_line, std::stop_token stop) override {
    const Target target = parse(call.target);
    std::unique_lock lock(mutex_);
    std::uint64_t from = kube::version_number(target.query.at("resourceVersion")).value_or(0);
    ++watches_;
    changed_.notify_all();
    while (!stop.stop_requested()) {
      std::vector<std::string> lines;
      if (!watch_held) {
        if (!inject_line.empty() && target.plural == inject_plural)
          lines.push_back(std::exchange(inject_line, ""));
        for (const Change& change : history_) {
          if (change.version <= from) continue;
          from = change.version;
          if (change.plural == target.plural && selected(change.object, target)) {
            lines.push_back(json{{"type", change.type}, {"object", change.object}}.dump());
          }
        }
      }
      lock.unlock();
      for (const std::string& line : lines) {
        if (!on_line(line)) return net::HttpReply{200, {}, ""};
      }
      lock.lock();
      changed_.wait(lock, stop, [&] {
        return (!watch_held &&
                (version_ > from || (!inject_line.empty() && target.plural == inject_plural)));
      });
    }
    return Error{Code::kCancelled, "stopped"};
  }

  // ---- For tests.

  std::function<Verdict(const Write&, std::size_t number)> fault;
  bool dead = false;                       // guarded by with(): Leases and Events fail too
  bool watch_held = false;                 // no events are delivered
  bool gc_held = false;                    // what a deleted owner owned stays until collect()
  std::string inject_line, inject_plural;  // the next line of that watch

  template <typename Use>
  auto with(Use&& use) {
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
    return use();
  }
  // Waits for the condition on the store; false after 20 s.
  bool wait(const std::function<bool()>& condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::stop_token(), std::chrono::seconds(20), condition);
  }
  // All under the lock (inside with() or wait()):
  std::vector<json> all(const std::string& plural) const {
    std::vector<json> out;
    for (const auto& [path, object] : objects_) {
      if (path.starts_with(plural + "/")) out.push_back(object);
    }
    return out;
  }
  const json* find(const std::string& plural, const std::string& ns,
                   const std::string& name) const {
    const auto found = objects_.find(plural + "/" + ns + "/" + name);
    return found == objects_.end() ? nullptr : &found->second;
  }
  void put(const std::string& plural, json object) {
    const std::string id = plural + "/" + kube::text_at(object, "metadata.namespace") + "/" +
                           kube::text_at(object, "metadata.name");
    const bool is_new = !objects_.contains(id);
    if (is_new && !object["metadata"].contains("uid")) object["metadata"]["uid"] = new_uid();
    store(plural, id, std::move(object), is_new ? "ADDED" : "MODIFIED");
    changed_.notify_all();
  }
  void erase(const std::string& plural, const std::string& ns, const std::string& name) {
    const auto found = objects_.find(plural + "/" + ns + "/" + name);
    if (found == objects_.end()) return;
    json object = found->second;
    objects_.erase(found);
    const std::string uid = kube::text_at(object, "metadata.uid");
    object["metadata"]["resourceVersion"] = std::to_string(++version_);
    history_.push_back({version_, plural, "DELETED", object});
    changed_.notify_all();
    if (gc_held) {
      orphans_.push_back(uid);
      return;
    }
    collect(uid);
  }
  // Ends what gc_held has kept.
  void collect() {
    for (const std::string& uid : std::exchange(orphans_, {})) collect(uid);
  }
  void collect(const std::string& uid) {
    std::vector<std::array<std::string, 3>> owned;
    for (const auto& [path, one] : objects_) {
      if (kube::controller_uid(one) == uid) {
        owned.push_back({path.substr(0, path.find('/')), kube::text_at(one, "metadata.namespace"),
                         kube::text_at(one, "metadata.name")});
      }
    }
    for (const auto& one : owned) erase(one[0], one[1], one[2]);
    changed_.notify_all();
  }
  [[nodiscard]] std::vector<Write> writes() const { return writes_; }
  [[nodiscard]] std::size_t max_live_workers() const { return max_live_workers_; }
  [[nodiscard]] bool two_for_one_slot() const { return two_for_one_slot_; }
  [[nodiscard]] int watches() const { return watches_; }
  void forget_history() { history_.clear(); }

 private:
  struct Target {
    std::string plural, ns, name, sub;
    std::map<std::string, std::string> query;
  };
  struct Change {
    std::uint64_t version;
    std::string plural, type;
    json object;
  };

  static std::string decode(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '%' && i + 2 < text.size()) {
        out += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
        i += 2;
      } else {
        out += text[i];
      }
    }
    return out;
  }
  static std::string name_in(const std::string& body) {
    const auto object = kube::parse_object(body);
    return object.ok() ? kube::text_at(*object, "metadata.name") : "";
  }
  static Target parse(const std::string& text) {
    Target out;
    const std::size_t mark = text.find('?');
    std::string rest = mark == std::string::npos ? "" : text.substr(mark + 1);
    while (!rest.empty()) {
      const std::string pair = rest.substr(0, rest.find('&'));
      rest = pair.size() < rest.size() ? rest.substr(pair.size() + 1) : "";
      out.query[pair.substr(0, pair.find('='))] = decode(pair.substr(pair.find('=') + 1));
    }
    std::vector<std::string> parts;
    std::string path = text.substr(0, mark);
    while (!path.empty()) {
      path.erase(0, 1);
      parts.push_back(decode(path.substr(0, path.find('/'))));
      path.erase(0, path.find('/') == std::string::npos ? path.size() : path.find('/'));
    }
    std::size_t at = parts[0] == "api" ? 2 : 3;
    if (parts[0] == "version") {
      out.plural = "version";
      return out;
    }
    if (at + 1 < parts.size() && parts[at] == "namespaces") {
      out.ns = parts[at + 1];
      at += 2;
    }
    out.plural = parts.at(at);
    if (at + 1 < parts.size()) out.name = parts[at + 1];
    if (at + 2 < parts.size()) out.sub = parts[at + 2];
    return out;
  }
  static net::HttpReply status(int code, const std::string& reason) {
    return {
        code,
        {},
        json{{"kind", "Status"}, {"reason", reason}, {"message", reason}, {"code", code}}.dump()};
  }
  static bool selected(const json& object, const Target& target) {
    if (!target.ns.empty() && kube::text_at(object, "metadata.namespace") != target.ns)
      return false;
    const auto selector = target.query.find("labelSelector");
    if (selector == target.query.end()) return true;
    const std::size_t equals = selector->second.find('=');
    const json* labels = kube::find_at(object, "metadata.labels");
    return labels != nullptr && labels->value(selector->second.substr(0, equals), "") ==
                                    selector->second.substr(equals + 1);
  }
  std::string new_uid() { return "uid-" + std::to_string(++uids_) + "-0000"; }

  void store(const std::string& plural, const std::string& id, json object,
             const std::string& type) {
    object["metadata"]["resourceVersion"] = std::to_string(++version_);
    objects_[id] = object;
    history_.push_back({version_, plural, type, std::move(object)});
  }

  void count_pods() {
    std::size_t live = 0;
    std::map<std::string, int> slots;
    for (const json& pod : all("pods")) {
      const json& labels = pod["metadata"]["labels"];
      if (labels.value("cfn.dev/role", "") == "worker") ++live;
      if (++slots[labels.value("cfn.dev/swarm", "") + labels.value("cfn.dev/slot", "")] > 1)
        two_for_one_slot_ = true;
    }
    max_live_workers_ = std::max(max_live_workers_, live);
  }

  static json running(json pod) {
    pod["spec"]["nodeName"] = "node-1";
    const json since = {{"running", {{"startedAt", "2026-01-01T00:00:00Z"}}}};
    json status = {{"phase", "Running"},
                   {"conditions", json::array({{{"type", "Ready"},
                                                {"status", "True"},
                                                {"lastTransitionTime", "2026-01-01T00:00:00Z"}}})}};
    for (const auto& [from, to] : {std::pair{"initContainers", "initContainerStatuses"},
                                   std::pair{"containers", "containerStatuses"}}) {
      status[to] = json::array();
      for (const json& container : pod["spec"].value(from, json::array())) {
        status[to].push_back(
            {{"name", container["name"]}, {"ready", true}, {"restartCount", 0}, {"state", since}});
      }
    }
    pod["status"] = std::move(status);
    return pod;
  }

  net::HttpReply serve(const net::HttpCall& call, const Target& target) {
    if (target.plural == "version") return {200, {}, R"({"major":"1","minor":"34"})"};
    const std::string id = target.plural + "/" + target.ns + "/" + target.name;
    if (call.method == "GET" && target.name.empty()) {
      json items = json::array();
      for (const json& object : all(target.plural)) {
        if (selected(object, target)) items.push_back(object);
      }
      return {200,
              {},
              json{{"metadata", {{"resourceVersion", std::to_string(version_)}}}, {"items", items}}
                  .dump()};
    }
    if (call.method == "POST") return create(call, target);
    const auto found = objects_.find(id);
    if (found == objects_.end()) return status(404, "NotFound");
    if (call.method == "GET") {
      const bool metadata_only =
          std::any_of(call.headers.begin(), call.headers.end(), [](const auto& header) {
            return header.first == "Accept" &&
                   header.second.find("PartialObjectMetadata") != std::string::npos;
          });
      if (metadata_only) {
        return {200,
                {},
                json{{"kind", "PartialObjectMetadata"}, {"metadata", found->second["metadata"]}}
                    .dump()};
      }
      if (target.plural == "secrets") return status(403, "Forbidden");
      return {200, {}, found->second.dump()};
    }
    json body = json::parse(call.body);
    json next = found->second;
    if (call.method == "DELETE") {
      const json conditions = body.value("preconditions", json::object());
      if (conditions.value("uid", kube::text_at(next, "metadata.uid")) !=
              kube::text_at(next, "metadata.uid") ||
          conditions.value("resourceVersion", kube::text_at(next, "metadata.resourceVersion")) !=
              kube::text_at(next, "metadata.resourceVersion")) {
        return status(409, "Conflict");
      }
      erase(target.plural, target.ns, target.name);
      return {200, {}, R"({"kind":"Status","status":"Success"})"};
    }
    const std::string wanted = kube::text_at(body, "metadata.resourceVersion");
    if (!wanted.empty() && wanted != kube::text_at(next, "metadata.resourceVersion"))
      return status(409, "Conflict");
    if (call.method == "PUT") {
      const json uid = next["metadata"]["uid"];
      next = body;
      next["metadata"]["uid"] = uid;
    } else if (target.sub == "status") {
      next.merge_patch(json{{"status", body["status"]}});
    } else {
      next.merge_patch(body);
    }
    next["metadata"]["resourceVersion"] = found->second["metadata"]["resourceVersion"];
    if (next != found->second) store(target.plural, id, std::move(next), "MODIFIED");
    return {200, {}, objects_[id].dump()};
  }

  net::HttpReply create(const net::HttpCall& call, const Target& target) {
    json object = json::parse(call.body);
    const std::string name = kube::text_at(object, "metadata.name");
    const std::string id = target.plural + "/" + target.ns + "/" + name;
    if (target.query.contains("dryRun")) return {201, {}, object.dump()};
    if (objects_.contains(id)) return status(409, "AlreadyExists");
    object["metadata"]["namespace"] = target.ns;
    object["metadata"]["uid"] = new_uid();
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z";
    store(target.plural, id, std::move(object), "ADDED");
    const net::HttpReply reply{201, {}, objects_[id].dump()};
    if (target.plural == "pods") {
      store("pods", id, running(objects_[id]), "MODIFIED");
      count_pods();
    }
    return reply;
  }

  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  std::map<std::string, json> objects_;
  std::vector<Change> history_;
  std::uint64_t version_ = 100;
  std::uint64_t uids_ = 0;
  std::vector<std::string> orphans_;  // UIDs of owners
  std::vector<Write> writes_;
  std::size_t max_live_workers_ = 0;
  bool two_for_one_slot_ = false;
  int watches_ = 0;
};

}  // namespace swarm::reconcile
