// A toy API server and kubelet for the planner's tests: applies plans to an Observed, moves pods
// along. Test-only.
//
// It answers like the real ones where it matters: names are unique, preconditions (UID,
// resourceVersion) are checked, deletion is graceful, owners are recorded. Single-threaded,
// deterministic.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "plan/plan.h"

namespace swarm::plan {

inline std::string swarm_json(const std::string& name, const std::string& extra = "{}") {
  nlohmann::json object = nlohmann::json::parse(R"({"apiVersion":"cfn.dev/v1alpha1","kind":"Swarm",
    "metadata":{"namespace":"team-a","uid":"0a1b2c3d-0000-4000-8000-000000000001","generation":1,
                "resourceVersion":"1","creationTimestamp":"2026-01-01T00:00:00Z"},
    "spec":{"workers":{"template":{"spec":{"containers":[{"name":"agent","image":"debian:12-slim",
            "command":["agentctl","work","--","wc","-w"]}]}}}}})");
  object["metadata"]["name"] = name;
  object["spec"].merge_patch(nlohmann::json::parse(extra));
  return object.dump();
}

inline api::Swarm make_swarm(const std::string& extra = "{}", const std::string& name = "hello") {
  auto parsed = api::parse_text(swarm_json(name, extra));
  EXPECT_TRUE(parsed.ok()) << (parsed.ok() ? "" : parsed.error().message);
  return parsed.ok() ? *parsed : api::Swarm{};
}

inline constexpr WallTime kStart = 1767225600000;  // 2026-01-01T00:00:00Z

inline Settings make_settings() {
  Settings settings;
  settings.sidecar_image = "registry.example/swarm-sidecar:1";
  return settings;
}

struct World {
  api::Swarm swarm = make_swarm();
  Settings settings = make_settings();
  Observed seen;
  WallTime now = kStart;
  int writes = 0;
  int pods_made = 0;
  std::string refuse_dry_run;  // the API server's words; "" = accepts
  std::string refuse_pods;     // for creations; "" = accepts
  std::string refuse_claims;   // the same
  std::vector<std::string> violations;

  World() { swarm.status = default_status(); }
  // As the CRD's schema defaults it.
  static api::SwarmStatus default_status() {
    return api::parse_status(nlohmann::json::parse(R"({"conditions":[
      {"type":"Ready","status":"Unknown","reason":"Pending","message":"Not seen by the operator yet.",
       "lastTransitionTime":"1970-01-01T00:00:00Z"},
      {"type":"Reconciling","status":"True","reason":"Pending","message":"Not seen by the operator yet.",
       "lastTransitionTime":"1970-01-01T00:00:00Z"}]})"));
  }

  std::string next_id(const char* prefix) { return std::string(prefix) + std::to_string(++ids_); }

  void set_spec(const std::string& extra) {
    const api::SwarmStatus status = swarm.status;
    const std::int64_t generation = swarm.generation + 1;
    swarm = make_swarm(extra);
    swarm.status = status;
    swarm.generation = generation;
  }

  PodView* pod(const std::string& name) {
    for (PodView& one : seen.pods) {
      if (one.name == name) return &one;
    }
    return nullptr;
  }

  static bool live(const PodView& pod) {
    return !pod.deletion_time && pod.phase != PodPhase::kFailed &&
           pod.phase != PodPhase::kSucceeded;
  }
  [[nodiscard]] std::vector<const PodView*> live_pods(const std::string& role) const {
    std::vector<const PodView*> list;
    for (const PodView& one : seen.pods) {
      if (one.owner_uid == swarm.uid && one.role == role && live(one)) list.push_back(&one);
    }
    return list;
  }
  [[nodiscard]] int ready_count(const std::string& role) const {
    int count = 0;
    for (const PodView* one : live_pods(role)) count += one->ready ? 1 : 0;
    return count;
  }

  // One plan, applied. Returns it.
  Plan step() {
    Plan result = plan(swarm, seen, settings, now);
    seen.memory = result.memory;
    const int made_before = pods_made;
    for (const Action& action : result.actions) {
      ++writes;
      if (!std::visit([this](const auto& one) { return apply(one); }, action)) break;
    }
    if (pods_made > made_before) seen.memory.creations.emplace_back(now, pods_made - made_before);
    if (result.status) {
      ++writes;
      // Through the wire and back, as the real one.
      swarm.status = api::parse_status(api::to_json(*result.status));
    }
    return result;
  }

  // True when that changed anything.
  bool make_ready() {
    bool changed = false;
    for (PodView& one : seen.pods) {
      if (!live(one)) continue;
      one.phase = PodPhase::kRunning;
      one.node = "n1";
      changed = changed || !one.ready;
      if (!one.ready) one.ready_since = now;
      one.ready = true;
      one.unschedulable_message.clear();
    }
    return changed;
  }
  bool finish_terminating() {
    return std::erase_if(seen.pods,
                         [](const PodView& one) { return one.deletion_time.has_value(); }) > 0;
  }
  // Runs until nothing happens any more; false when that takes more than `limit` steps.
  bool settle(int limit = 60) {
    for (int i = 0; i < limit; ++i) {
      const Plan result = step();
      const bool moved = make_ready() | finish_terminating();
      if (result.actions.empty() && !result.status && !moved) {
        if (!result.requeue_after) return true;
        now += result.requeue_after->count();
      }
      now += 1000;
    }
    return false;
  }

  void report(int team, const api::TeamReport& report) {
    for (LeaseView& one : seen.leases) {
      if (one.name != swarm.name + "-team-" + std::to_string(team)) continue;
      one.report = api::to_text(report);
      for (const PodView* pod : live_pods("coordinator")) {
        if (pod->slot == "coordinator-" + std::to_string(team)) one.holder_uid = pod->uid;
      }
    }
  }

 private:
  bool apply(const CreateObject& one) {
    const auto manifest = nlohmann::json::parse(one.manifest);
    const auto& metadata = manifest.at("metadata");
    EXPECT_EQ(metadata.at("name"), one.name);
    EXPECT_EQ(metadata.at("ownerReferences").at(0).at("uid"), swarm.uid);
    const std::string owner = metadata.at("ownerReferences").at(0).at("uid");
    if (one.kind == "Pod") return create_pod(manifest, owner);
    if (one.kind == "Lease") {
      for (const LeaseView& other : seen.leases) {
        if (other.name == one.name) violations.push_back("Lease made twice: " + one.name);
      }
      LeaseView lease;
      lease.name = one.name;
      lease.uid = next_id("lease-");
      lease.owner_uid = owner;
      lease.resource_version = next_id("");
      seen.leases.push_back(std::move(lease));
      return true;
    }
    for (const ChildView& other : seen.children) {
      if (other.kind == one.kind && other.name == one.name)
        violations.push_back("made twice: " + one.name);
    }
    if (one.kind == kClaimKind && !refuse_claims.empty()) {
      seen.create_failure = CreateFailure{one.kind, one.name, 403, "Forbidden", refuse_claims, now};
      return false;
    }
    if (seen.create_failure && seen.create_failure->kind == one.kind) seen.create_failure.reset();
    ChildView child;
    child.kind = one.kind;
    child.name = one.name;
    child.uid = next_id("child-");
    child.owner_uid = owner;
    child.resource_version = next_id("");
    if (metadata.contains("annotations")) {
      child.spec_hash = metadata["annotations"].value(std::string(kHashAnnotation), "");
    }
    seen.children.push_back(std::move(child));
    return true;
  }

  bool create_pod(const nlohmann::json& manifest, const std::string& owner) {
    const std::string name = manifest["metadata"]["name"];
    if (pod(name) != nullptr) return true;  // 409 of ours: done
    if (!refuse_pods.empty()) {
      seen.create_failure = CreateFailure{"Pod", name, 403, "Forbidden", refuse_pods, now};
      return false;
    }
    seen.create_failure.reset();
    const auto& labels = manifest["metadata"]["labels"];
    PodView one;
    one.name = name;
    one.uid = next_id("pod-");
    one.resource_version = next_id("");
    one.owner_uid = owner;
    one.role = labels[std::string(kRoleLabel)];
    one.slot = labels[std::string(kSlotLabel)];
    one.team = labels[std::string(kTeamLabel)];
    one.revision = labels[std::string(kRevisionLabel)];
    one.creation_time = now;
    one.sidecar_image = manifest["spec"]["initContainers"][0]["image"];
    for (const auto& volume : manifest["spec"]["volumes"]) {
      if (volume.contains("persistentVolumeClaim"))
        one.claim = volume["persistentVolumeClaim"]["claimName"];
    }
    if (!one.claim.empty()) check_claim(one);
    seen.pods.push_back(std::move(one));
    ++pods_made;
    return true;
  }

  // What a journal is for: it is there before its pod, and is one pod's at a time.
  void check_claim(const PodView& fresh) {
    const ChildView* claim = nullptr;
    for (const ChildView& child : seen.children) {
      if (child.kind == kClaimKind && child.name == fresh.claim) claim = &child;
    }
    if (claim == nullptr || claim->owner_uid != swarm.uid || claim->deleting)
      violations.push_back(fresh.name + " is made without its claim");
    for (const PodView& other : seen.pods) {
      const bool ended = other.phase == PodPhase::kFailed || other.phase == PodPhase::kSucceeded;
      if (!ended && other.claim == fresh.claim)
        violations.push_back(fresh.name + " is made while " + other.name + " has its claim");
    }
  }

  bool apply(const PatchObject& one) {
    const auto patch = nlohmann::json::parse(one.patch);
    for (ChildView& child : seen.children) {
      if (child.kind != one.kind || child.name != one.name) continue;
      if (child.owner_uid != swarm.uid)
        violations.push_back("patch of a foreign object " + one.name);
      EXPECT_EQ(patch["metadata"]["uid"], child.uid);
      child.spec_hash = patch["metadata"]["annotations"][std::string(kHashAnnotation)];
      child.resource_version = next_id("");
    }
    return true;
  }

  bool apply(const DeletePod& one) {
    PodView* found = pod(one.name);
    if (found == nullptr || found->uid != one.uid ||
        found->resource_version != one.resource_version) {
      return true;  // a conflict: the world moved on
    }
    if (found->owner_uid != swarm.uid) violations.push_back("delete of a foreign pod " + one.name);
    if (live(*found)) {
      found->deletion_time = now;
      found->ready = false;
      found->resource_version = next_id("");
    } else {
      const std::string uid = one.uid;
      std::erase_if(seen.pods, [&](const PodView& p) { return p.uid == uid; });
    }
    return true;
  }

  bool apply(const DeleteObject& one) {
    if (one.kind == kClaimKind) violations.push_back("a claim is deleted: " + one.name);
    for (const ChildView& child : seen.children) {
      if (child.uid == one.uid && child.owner_uid != swarm.uid)
        violations.push_back("foreign " + one.name);
    }
    for (const LeaseView& lease : seen.leases) {
      if (lease.uid == one.uid && lease.owner_uid != swarm.uid)
        violations.push_back("foreign " + one.name);
    }
    std::erase_if(seen.children, [&](const ChildView& c) { return c.uid == one.uid; });
    std::erase_if(seen.leases, [&](const LeaseView& l) { return l.uid == one.uid; });
    return true;
  }

  bool apply(const DryRun& one) {
    seen.dry_runs[one.revision] = {refuse_dry_run.empty(), refuse_dry_run.empty() ? 201 : 403,
                                   refuse_dry_run, now};
    return true;
  }

  int ids_ = 0;
};

inline const api::Condition* condition(const api::SwarmStatus& status, const std::string& type) {
  for (const api::Condition& one : status.conditions) {
    if (one.type == type) return &one;
  }
  return nullptr;
}

}  // namespace swarm::plan
