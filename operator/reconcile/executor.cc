#include "reconcile/executor.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/encoding.h"
#include "reconcile/views.h"
#include "telemetry/log.h"

namespace swarm::reconcile {
namespace {

using nlohmann::json;

constexpr std::size_t kSecretBytes = 32;
constexpr std::string_view kComponent = "swarm-operator";

Outcome done(int writes) {
  Outcome out;
  out.writes = writes;
  return out;
}

// 4xx that will be the same next time.
bool is_refusal(int status) {
  return status >= 400 && status < 500 && status != 408 && status != 409 && status != 429;
}

std::string version_of(const std::string& body) {
  const Result<json> object = kube::parse_object(body);
  return object.ok() ? kube::text_at(*object, "metadata.resourceVersion") : std::string();
}

std::array<std::string, 2> secret_names(const api::Swarm& swarm) {
  return {swarm.name + "-link-" + swarm.uid.substr(0, 8), swarm.name + "-submit"};
}

Outcome no_such_kind(std::string_view kind) {
  Outcome out;
  out.ok = false;
  out.why = "the planner named an unknown kind: " + std::string(kind);
  return out;
}

}  // namespace

Executor::Executor(kube::Client& client, const World& world, Lists& lists, std::string instance)
    : client_(client), world_(world), lists_(lists), instance_(std::move(instance)) {}

void Executor::wrote(SwarmMemory& memory, std::string_view kind,
                     const std::string& resource_version) {
  const std::optional<std::size_t> index = watched_index(kind);
  if (!index) return;
  const std::optional<std::uint64_t> number = kube::version_number(resource_version);
  if (!number) return uncertain(memory, kind);
  SwarmMemory::OwnWrites& own = memory.own_writes[*index];
  own.highest = std::max(own.highest, *number);
  own.last = mono_now();
}

void Executor::uncertain(SwarmMemory& memory, std::string_view kind) {
  const std::optional<std::size_t> index = watched_index(kind);
  if (!index) return;
  SwarmMemory::OwnWrites& own = memory.own_writes[*index];
  own.last = mono_now();
  own.ticket = lists_.relist(*index);
}

bool Executor::ready(SwarmMemory& memory, const api::Swarm& swarm,
                     const std::vector<plan::PodView>& pods, MonoTime now) {
  bool settled = true;
  const std::optional<std::size_t> pod_index = watched_index("Pod");
  for (auto it = memory.own_writes.begin(); it != memory.own_writes.end();) {
    auto& [index, own] = *it;
    const bool pod_kind = index == *pod_index;
    if (own.ticket) {
      if (lists_.completed(index) < *own.ticket) {
        settled = false;
        ++it;
        continue;
      }
      if (pod_kind) memory.deleted_pods.clear();  // the list began after every one of these deletes
      it = memory.own_writes.erase(it);
      continue;
    }
    bool behind = world_.version(index) < own.highest;
    if (pod_kind && !behind) {
      for (const plan::PodView& pod : pods) {
        if (pod.deletion_time) continue;
        if (memory.deleted_pods.contains(pod.uid)) behind = true;
      }
    }
    if (!behind) {
      if (pod_kind) memory.deleted_pods.clear();
      it = memory.own_writes.erase(it);
      continue;
    }
    settled = false;
    if (now - own.last > kViewPatience) {
      telemetry::warn("the view does not catch up with own writes: listing again",
                      {{"swarm", swarm.name},
                       {"namespace", swarm.namespace_name},
                       {"kind", kWatched[index].kind}});
      own.ticket = lists_.relist(index);
    }
    ++it;
  }
  return settled;
}

Outcome Executor::complete(SwarmMemory& memory, const api::Swarm& swarm, plan::Observed& observed,
                           const std::stop_token& stop) {
  const MonoTime now = mono_now();
  for (const std::string& name : secret_names(swarm)) {
    SwarmMemory::Secret& secret = memory.secrets[name];
    const bool foreign = secret.view && secret.view->owner_uid != swarm.uid;
    if (secret.seen == MonoTime{} ||
        now - secret.seen >= (foreign ? kForeignRecheck : kSecretsRecheck)) {
      const kube::Reply reply =
          client_.call(kube::get_metadata(kube::kSecrets, swarm.namespace_name, name), stop);
      if (reply.ok()) {
        const Result<json> object = kube::parse_object(reply.body);
        if (!object.ok()) {
          Outcome out;
          out.ok = false;
          out.why = "reading Secret " + name + ": " + object.error().message;
          return out;
        }
        secret.view = child_view(*object, "Secret");
      } else if (reply.http_status == 404) {
        secret.view.reset();
      } else {
        Outcome out = failed(memory, reply, "Secret", "reading Secret " + name);
        out.refused = is_refusal(reply.http_status);
        return out;
      }
      secret.seen = now;
    }
    if (secret.view) observed.children.push_back(*secret.view);
  }
  std::vector<std::string> due;
  for (const auto& [id, other] : memory.foreign) {
    if (now - other.seen >= kForeignRecheck) due.push_back(id);
  }
  for (const std::string& id : due) {
    if (!look_again(memory, swarm, id, stop)) break;  // what was seen last goes on to count
  }
  for (const auto& [id, other] : memory.foreign) {
    if (other.child && std::none_of(observed.children.begin(), observed.children.end(),
                                    [&](const plan::ChildView& c) {
                                      return c.kind == other.child->kind &&
                                             c.name == other.child->name;
                                    })) {
      observed.children.push_back(*other.child);
    }
    if (other.lease &&
        std::none_of(observed.leases.begin(), observed.leases.end(),
                     [&](const plan::LeaseView& l) { return l.name == other.lease->name; })) {
      observed.leases.push_back(*other.lease);
    }
  }
  if (memory.namespace_terminating && now - *memory.namespace_terminating > kNamespaceRecheck) {
    memory.namespace_terminating.reset();
  }
  observed.namespace_terminating = memory.namespace_terminating.has_value();
  observed.dry_runs = memory.dry_runs;
  observed.create_failure = memory.create_failure;
  observed.failing = memory.failing;
  observed.memory = memory.plan;
  return done(0);
}

bool Executor::look_again(SwarmMemory& memory, const api::Swarm& swarm, const std::string& id,
                          const std::stop_token& stop) {
  const std::string kind = id.substr(0, id.find('/'));
  const std::string name = id.substr(id.find('/') + 1);
  const kube::Resource* resource = kube::resource_by_kind(kind);
  if (resource == nullptr) return false;
  const kube::Reply reply =
      client_.call(kube::get_metadata(*resource, swarm.namespace_name, name), stop);
  SwarmMemory::Foreign& foreign = memory.foreign[id];
  if (reply.ok()) {
    const Result<json> object = kube::parse_object(reply.body);
    if (!object.ok()) return false;
    const bool ours =
        kube::controller_uid(*object) == swarm.uid && swarm_of(*object).name == swarm.name;
    if (!ours) {
      foreign.seen = mono_now();
      if (foreign.lease) {
        foreign.lease = lease_view(*object);
      } else if (foreign.child) {
        foreign.child = child_view(*object, kind);
      }
      return true;
    }
  } else if (reply.http_status != 404) {
    return false;
  }
  // Free again: the refusal that told about it is history.
  if (memory.create_failure && memory.create_failure->kind == kind &&
      memory.create_failure->name == name) {
    memory.create_failure.reset();
  }
  memory.foreign.erase(id);
  return true;
}

void Executor::note_failure(SwarmMemory& memory, const Outcome& one) {
  const WallTime since = memory.failing ? memory.failing->since : wall_now();
  const std::size_t colon = one.why.find(": ");
  const bool split = colon != std::string::npos;
  memory.failing = plan::Failing{one.why.substr(0, colon),
                                 split ? one.why.substr(colon + 2) : "no answer", since};
}

Outcome Executor::perform(SwarmMemory& memory, const api::Swarm& swarm, const plan::Plan& plan,
                          const std::stop_token& stop) {
  memory.plan = plan.memory;
  Outcome result;
  std::vector<const plan::Action*> succeeded;
  const MonoTime begin = mono_now();
  const auto out_of_time = [&] { return mono_now() - begin >= kMaxActTime; };
  bool failing = false;
  int pods_made = 0;
  for (const plan::Action& action : plan.actions) {
    if (stop.stop_requested()) {
      result.stopped = true;
      break;
    }
    if (out_of_time()) {
      result.more = true;
      break;
    }
    const std::optional<plan::CreateFailure> before = memory.create_failure;
    const Outcome one = act(memory, swarm, action);
    const int writes = result.writes + one.writes;
    if (!one.ok || one.stopped || one.view_stale) result = one;
    result.writes = writes;
    if (const auto* made = std::get_if<plan::CreateObject>(&action);
        made != nullptr && made->kind == "Pod" && (one.ok || one.uncertain)) {
      ++pods_made;
    }
    if (one.stopped) break;
    if (one.ok) {
      if (!one.view_stale) succeeded.push_back(&action);
      continue;
    }
    // A creation that was refused, and a namespace that is going, are told in their own words.
    const bool told =
        memory.namespace_terminating.has_value() ||
        (memory.create_failure && (!before || before->time != memory.create_failure->time ||
                                   before->name != memory.create_failure->name));
    if (!told) {
      failing = true;
      note_failure(memory, one);
    }
    if (!(one.refused && std::holds_alternative<plan::PatchObject>(action))) break;
  }
  if (pods_made > 0) memory.plan.creations.emplace_back(wall_now(), pods_made);
  if (result.stopped) return result;
  if (!failing && !result.more) memory.failing.reset();
  for (const plan::Event& event : plan::pod_events(succeeded)) emit(swarm, event);
  if (plan.status) {
    const Outcome status = write_status(memory, swarm, *plan.status);
    const int writes = result.writes + status.writes;
    if (result.ok && (!status.ok || status.view_stale || status.stopped)) result = status;
    result.writes = writes;
    if (!status.ok || status.view_stale || status.stopped)
      return result;  // its events come with the next plan
  }
  for (std::size_t i = 0; i < std::min(plan.events.size(), kMaxEventsPerPlan); ++i) {
    if (mono_now() - begin >= 2 * kMaxActTime) break;  // telling is worth less than other Swarms
    emit(swarm, plan.events[i]);
  }
  return result;
}

Outcome Executor::act(SwarmMemory& memory, const api::Swarm& swarm, const plan::Action& action) {
  struct Visitor {
    Executor& self;
    SwarmMemory& memory;
    const api::Swarm& swarm;
    Outcome operator()(const plan::CreateObject& a) const { return self.create(memory, swarm, a); }
    Outcome operator()(const plan::PatchObject& a) const { return self.patch(memory, swarm, a); }
    Outcome operator()(const plan::DeletePod& a) const { return self.delete_pod(memory, swarm, a); }
    Outcome operator()(const plan::DeleteObject& a) const {
      return self.delete_object(memory, swarm, a);
    }
    Outcome operator()(const plan::DryRun& a) const { return self.dry_run(memory, swarm, a); }
  };
  return std::visit(Visitor{*this, memory, swarm}, action);
}

Outcome Executor::failed(SwarmMemory& memory, const kube::Reply& reply, std::string_view kind,
                         const std::string& what) {
  Outcome out;
  out.ok = false;
  out.why = what + ": " + reply.error.message;
  if (reply.http_status == 0 && reply.transport == Code::kCancelled) out.stopped = true;
  out.retry_after = reply.error.retry_after;
  out.uncertain = !reply.certain() || reply.http_status >= 500;
  if (out.uncertain) uncertain(memory, kind);  // it may have happened all the same
  return out;
}

Outcome Executor::create(SwarmMemory& memory, const api::Swarm& swarm,
                         const plan::CreateObject& action) {
  const kube::Resource* resource = kube::resource_by_kind(action.kind);
  if (resource == nullptr) return no_such_kind(action.kind);
  std::string body = action.manifest;
  if (!action.random_keys.empty()) {
    Result<json> object = kube::parse_object(body);
    if (!object.ok()) return no_such_kind(action.kind);
    for (const std::string& key : action.random_keys) {
      (*object)["stringData"][key] = to_hex(random_bytes(kSecretBytes));
    }
    body = object->dump();
  }
  const kube::Reply reply =
      client_.call(kube::create(*resource, swarm.namespace_name, std::move(body)));
  if (reply.ok()) {
    telemetry::info("created", {{"kind", action.kind},
                                {"name", action.name},
                                {"swarm", swarm.name},
                                {"namespace", swarm.namespace_name}});
    if (action.kind == kube::kSecrets.kind) {
      memory.secrets[action.name].seen = MonoTime{};  // a GET will say what is there
    } else {
      wrote(memory, action.kind, version_of(reply.body));
    }
    if (memory.create_failure && memory.create_failure->kind == action.kind)
      memory.create_failure.reset();
    return done(1);
  }
  const std::string what = "creating " + action.kind + " " + action.name;
  if (reply.http_status == 409 && reply.error.reason != "AlreadyExists") {
    return failed(memory, reply, action.kind, what);  // a quota that is being updated, for one
  }
  if (reply.http_status == 409) return taken(memory, swarm, action, *resource);
  if (reply.http_status == 403 && reply.error.cause == "NamespaceTerminating") {
    memory.namespace_terminating = mono_now();
    Outcome out;
    out.ok = false;
    out.why = what + ": the namespace is being deleted";
    return out;
  }
  if (is_refusal(reply.http_status)) {
    memory.create_failure =
        plan::CreateFailure{action.kind,        action.name,         reply.http_status,
                            reply.error.reason, reply.error.message, wall_now()};
  }
  return failed(memory, reply, action.kind, what);
}

// 409: something has the name already. Ours: done. Somebody else's: the planner is told.
Outcome Executor::taken(SwarmMemory& memory, const api::Swarm& swarm,
                        const plan::CreateObject& action, const kube::Resource& resource) {
  const std::string what = "creating " + action.kind + " " + action.name;
  const kube::Reply reply = client_.call(kube::get(resource, swarm.namespace_name, action.name));
  if (!reply.ok()) {
    Outcome out = failed(memory, reply, action.kind, what);
    if (reply.http_status == 404) out.why = what + ": it existed a moment ago";
    return out;
  }
  const Result<json> object = kube::parse_object(reply.body);
  if (!object.ok()) return failed(memory, reply, action.kind, what + ": " + object.error().message);
  const plan::ChildView view = child_view(*object, action.kind);
  const bool secret = action.kind == kube::kSecrets.kind;
  if (view.owner_uid == swarm.uid && (secret || swarm_of(*object).name == swarm.name)) {
    if (secret) memory.secrets[action.name] = {view, mono_now()};
    wrote(memory, action.kind,
          view.resource_version);  // it is in the view as soon as that is as new
    return done(1);
  }
  SwarmMemory::Foreign& foreign = memory.foreign[action.kind + "/" + action.name];
  foreign.seen = mono_now();
  if (secret) {
    memory.secrets[action.name] = {view, mono_now()};
  } else if (action.kind == kube::kLeases.kind) {
    foreign.lease = lease_view(*object);
  } else {
    foreign.child = view;
  }
  Outcome out;
  out.ok = false;
  out.why = what + (view.owner_uid == swarm.uid
                        ? ": it exists, but its labels were taken away"
                        : ": the name is taken by an object that does not belong to this Swarm");
  memory.create_failure =
      plan::CreateFailure{action.kind, action.name, 409, "AlreadyExists", out.why, wall_now()};
  return out;
}

Outcome Executor::patch(SwarmMemory& memory, const api::Swarm& swarm,
                        const plan::PatchObject& action) {
  const kube::Resource* resource = kube::resource_by_kind(action.kind);
  if (resource == nullptr) return no_such_kind(action.kind);
  const kube::Reply reply =
      client_.call(kube::merge_patch(*resource, swarm.namespace_name, action.name, action.patch));
  if (reply.ok()) {
    telemetry::info("patched", {{"kind", action.kind},
                                {"name", action.name},
                                {"swarm", swarm.name},
                                {"namespace", swarm.namespace_name}});
    wrote(memory, action.kind, version_of(reply.body));
    return done(1);
  }
  if (reply.http_status == 404 || reply.http_status == 409) {
    Outcome out = done(1);
    out.view_stale = true;
    return out;
  }
  Outcome out = failed(memory, reply, action.kind, "patching " + action.kind + " " + action.name);
  out.refused = reply.http_status != 0 && reply.http_status != 429;
  return out;
}

Outcome Executor::delete_pod(SwarmMemory& memory, const api::Swarm& swarm,
                             const plan::DeletePod& action) {
  const kube::Reply reply = client_.call(kube::remove(
      kube::kPods, swarm.namespace_name, action.name, {action.uid, action.resource_version}));
  if (reply.ok()) {
    telemetry::info("pod deleted", {{"pod", action.name},
                                    {"reason", action.reason},
                                    {"swarm", swarm.name},
                                    {"namespace", swarm.namespace_name}});
    memory.deleted_pods.insert(action.uid);
    const std::string version = version_of(reply.body);
    // A pod that went at once is answered by a Status, which has no version: the UID alone is
    // waited for.
    wrote(memory, "Pod", version.empty() ? "0" : version);
    return done(1);
  }
  if (reply.http_status == 404 || reply.http_status == 409) {
    Outcome out = done(1);
    out.view_stale = true;
    return out;
  }
  return failed(memory, reply, "Pod", "deleting pod " + action.name);
}

Outcome Executor::delete_object(SwarmMemory& memory, const api::Swarm& swarm,
                                const plan::DeleteObject& action) {
  const kube::Resource* resource = kube::resource_by_kind(action.kind);
  if (resource == nullptr) return no_such_kind(action.kind);
  const kube::Reply reply = client_.call(kube::remove(*resource, swarm.namespace_name, action.name,
                                                      {action.uid, action.resource_version}));
  if (reply.ok()) {
    telemetry::info("deleted", {{"kind", action.kind},
                                {"name", action.name},
                                {"swarm", swarm.name},
                                {"namespace", swarm.namespace_name}});
    if (action.kind == kube::kSecrets.kind) memory.secrets[action.name].seen = MonoTime{};
    return done(1);
  }
  if (reply.http_status == 404 || reply.http_status == 409) {
    Outcome out = done(1);
    out.view_stale = true;
    return out;
  }
  return failed(memory, reply, action.kind, "deleting " + action.kind + " " + action.name);
}

Outcome Executor::dry_run(SwarmMemory& memory, const api::Swarm& swarm,
                          const plan::DryRun& action) {
  const kube::Reply reply =
      client_.call(kube::create(kube::kPods, swarm.namespace_name, action.manifest, true));
  if (!reply.ok() && reply.http_status == 403 && reply.error.cause == "NamespaceTerminating") {
    memory.namespace_terminating = mono_now();
  }
  if (!reply.ok() && !is_refusal(reply.http_status)) {
    Outcome out;
    out.ok = false;
    out.stopped = reply.http_status == 0 && reply.transport == Code::kCancelled;
    out.why = "dry run of " + action.name + ": " + reply.error.message;
    out.retry_after = reply.error.retry_after;
    return out;
  }
  while (memory.dry_runs.size() >= kMaxDryRunsKept) {
    memory.dry_runs.erase(std::min_element(
        memory.dry_runs.begin(), memory.dry_runs.end(),
        [](const auto& a, const auto& b) { return a.second.time < b.second.time; }));
  }
  memory.dry_runs[action.revision] = plan::DryRunResult{
      reply.ok(), reply.http_status, reply.ok() ? "" : reply.error.message, wall_now()};
  Outcome out = done(0);
  out.view_stale = true;  // the next plan is to see the answer at once
  return out;
}

Outcome Executor::write_status(SwarmMemory& memory, const api::Swarm& swarm,
                               const api::SwarmStatus& status) {
  const kube::Reply reply =
      client_.call(kube::status_patch(kube::kSwarms, swarm.namespace_name, swarm.name,
                                      api::to_json(status).dump(), swarm.resource_version));
  if (reply.ok()) {
    wrote(memory, "Swarm", version_of(reply.body));
    return done(1);
  }
  if (reply.http_status == 404 || reply.http_status == 409) {
    Outcome out = done(1);
    out.view_stale = true;
    return out;
  }
  return failed(memory, reply, "Swarm", "writing the status");
}

void Executor::emit(const api::Swarm& swarm, const plan::Event& event) {
  kube::EventNote note;
  note.about = {std::string(api::kApiVersion),
                std::string(api::kKind),
                swarm.namespace_name,
                swarm.name,
                swarm.uid,
                swarm.resource_version};
  note.type = event.type;
  note.reason = event.reason;
  note.message = event.message;
  const std::string id = swarm.namespace_name + "/" + kube::event_name(note);
  const WallTime now = wall_now();
  const auto known = event_counts_.find(id);
  kube::Reply reply;
  if (known == event_counts_.end())
    reply = client_.call(kube::create_event(note, kComponent, instance_, now));
  // The operator may not read Events: from an earlier life of ours it only knows that there was
  // one.
  if (known != event_counts_.end() || reply.http_status == 409) {
    if (event_counts_.size() >= kMaxEventCountsKept) event_counts_.clear();
    const std::int64_t count =
        (event_counts_[id] = std::max<std::int64_t>(event_counts_[id], 1) + 1);
    reply = client_.call(kube::repeat_event(note, count, now));
    if (reply.http_status == 404) {  // it has expired
      event_counts_.erase(id);
      reply = client_.call(kube::create_event(note, kComponent, instance_, now));
    }
  } else if (reply.ok()) {
    if (event_counts_.size() >= kMaxEventCountsKept) event_counts_.clear();
    event_counts_[id] = 1;
  }
  if (!reply.ok()) {
    telemetry::warn("event not written", {{"reason", event.reason},
                                          {"swarm", swarm.name},
                                          {"namespace", swarm.namespace_name},
                                          {"why", reply.error.message}});
  }
}

}  // namespace swarm::reconcile
