// Pod manifests of docs/pod-layout.md, made from the user's template. Internal to operator/plan;
// pure.
//
// The template passes through whole, unknown fields included: ours is merged in. What is reserved
// is refused by check_template(), never overwritten in silence.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "plan/context.h"

namespace swarm::plan {

// Hash (10 hex digits) over the user's fields whose change restarts the pods of a role, in
// canonical form, and kPodLayout. Scaling, topology, suspend, tasks.* and rollout.* are not in it:
// they are live.
std::string revision_hash(const api::SwarmSpec& spec, Role role);
std::string combined_revision(std::string_view worker, std::string_view coordinator);

// Reserved or malformed fields of the user's template, each as
// "spec.workers.template.spec.hostname: …; remedy". Empty when pod_manifest() may be called.
std::vector<std::string> check_template(const api::SwarmSpec& spec, Role role);

// "hello-w17-0a1b2c3d". The hash makes a creation idempotent (the same decision gives the same
// name), and a replacement differ from the pod it replaces, which may be long in Terminating.
// replaced_uid: "" when there is none.
std::string pod_name(const api::Swarm& swarm, Role role, int index, std::string_view replaced_uid);

// "hello-w17": what the names of a slot's objects begin with.
std::string slot_prefix(const api::Swarm& swarm, Role role, int index);

// Makes the pods of one role; parses the template once.
class PodMaker {
 public:
  // Expects check_template() to have found nothing.
  PodMaker(const Context& context, Role role);
  ~PodMaker();
  PodMaker(const PodMaker&) = delete;
  PodMaker& operator=(const PodMaker&) = delete;

  [[nodiscard]] std::string manifest(int index, const std::string& name) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// What the mailbox adds to the memory of a pod.
std::int64_t mailbox_memory(const api::SwarmSpec& spec);

// The grace period of a role's pods: the agents' work, then the drain, then room for the kubelet.
int grace_seconds(const api::SwarmSpec& spec, Role role);

// True for labels and annotations that GitOps tools and package managers use to say what they own:
// on a child they would make the tool believe that it owns (and may prune) the child.
bool is_gitops_key(std::string_view key);

}  // namespace swarm::plan
