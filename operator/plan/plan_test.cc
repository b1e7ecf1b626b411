#include "plan/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "plan/slots.h"
#include "plan/topology.h"
#include "plan/toy_world.h"

namespace swarm::plan {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::vector<std::string> kinds_of(const Plan& plan) {
  std::vector<std::string> kinds;
  for (const Action& action : plan.actions) {
    if (const auto* create = std::get_if<CreateObject>(&action))
      kinds.push_back("create " + create->kind);
    if (std::get_if<PatchObject>(&action) != nullptr) kinds.push_back("patch");
    if (const auto* pod = std::get_if<DeletePod>(&action)) kinds.push_back("delete " + pod->reason);
    if (std::get_if<DeleteObject>(&action) != nullptr) kinds.push_back("delete object");
    if (std::get_if<DryRun>(&action) != nullptr) kinds.push_back("dry run");
  }
  return kinds;
}

int count(const Plan& plan, const std::string& kind) {
  const auto kinds = kinds_of(plan);
  return static_cast<int>(std::count(kinds.begin(), kinds.end(), kind));
}

api::WorkerReport worker_report(const std::string& pod, bool busy, const std::string& task) {
  api::WorkerReport report;
  report.pod = pod;
  report.busy = busy;
  report.task = task;
  return report;
}

std::string reason_of(const api::Swarm& swarm, const std::string& type = "Ready") {
  const api::Condition* one = condition(swarm.status, type);
  return one == nullptr ? "" : one->status + " " + one->reason;
}

std::string message_of(const api::Swarm& swarm, const std::string& type = "Ready") {
  const api::Condition* one = condition(swarm.status, type);
  return one == nullptr ? "" : one->message;
}

std::set<std::string> slots_of(const World& world, const std::string& role = "worker") {
  std::set<std::string> slots;
  for (const PodView* pod : world.live_pods(role)) slots.insert(pod->slot);
  return slots;
}

// The pod manifests of one step.
std::vector<json> manifests(const Plan& plan, const std::string& kind = "Pod") {
  std::vector<json> list;
  for (const Action& action : plan.actions) {
    const auto* create = std::get_if<CreateObject>(&action);
    if (create != nullptr && create->kind == kind) list.push_back(json::parse(create->manifest));
  }
  return list;
}

TEST(Plan, NewSwarmGetsItsObjectsAndADryRunBeforeAnyPod) {
  World world;
  const Plan first = world.step();
  EXPECT_EQ(count(first, "create Pod"), 0);
  EXPECT_EQ(count(first, "dry run"), 2);
  EXPECT_EQ(count(first, "create Secret"), 2);
  EXPECT_EQ(count(first, "create Service"), 2);
  EXPECT_EQ(count(first, "create PodDisruptionBudget"), 1);
  EXPECT_EQ(count(first, "create Lease"), 1);
  EXPECT_EQ(reason_of(world.swarm), "False Progressing");
  EXPECT_EQ(reason_of(world.swarm, "Reconciling"), "True Progressing");
  const Plan second = world.step();
  EXPECT_EQ(count(second, "create Pod"), 2);
  EXPECT_EQ(count(second, "dry run"), 0);
  EXPECT_TRUE(world.settle());
  EXPECT_EQ(reason_of(world.swarm), "True Idle");
  EXPECT_EQ(reason_of(world.swarm, "Reconciling"), "False Settled");
  EXPECT_EQ(reason_of(world.swarm, "Stalled"), "False NotStalled");
  EXPECT_EQ(world.swarm.status.agents.summary, "1/1");
  EXPECT_EQ(world.swarm.status.rollout.summary, "100%");
}

TEST(Plan, ConvergedWorldGetsNothingForHours) {
  World world;
  world.set_spec(R"({"workers":{"replicas":7}})");
  ASSERT_TRUE(world.settle());
  const int writes = world.writes;
  for (int i = 0; i < 1000; ++i) {
    world.now += 17'000;
    const Plan plan = world.step();
    ASSERT_TRUE(plan.actions.empty()) << to_text(plan);
    ASSERT_FALSE(plan.status) << to_text(plan);
    ASSERT_TRUE(plan.events.empty());
    ASSERT_FALSE(plan.requeue_after);
  }
  EXPECT_EQ(world.writes, writes);
}

TEST(Plan, RestartedOperatorWithANewImageWritesNoPod) {
  World world;
  world.set_spec(R"({"workers":{"replicas":3}})");
  ASSERT_TRUE(world.settle());
  world.seen.memory = {};
  world.seen.dry_runs.clear();
  world.settings.sidecar_image = "registry.example/swarm-sidecar:2";
  const Plan plan = world.step();
  EXPECT_TRUE(plan.actions.empty()) << to_text(plan);
  EXPECT_FALSE(plan.status);
  // A replacement still gets the pinned image; the next revision moves it.
  world.seen.pods.back().phase = PodPhase::kFailed;
  world.seen.pods.back().ready = false;
  world.step();
  world.now += 2000;
  const Plan repair = world.step();
  ASSERT_EQ(manifests(repair).size(), 1U);
  EXPECT_EQ(manifests(repair)[0]["spec"]["initContainers"][0]["image"],
            "registry.example/swarm-sidecar:1");
  world.set_spec(R"({"workers":{"replicas":3},"health":{"periodSeconds":9}})");
  ASSERT_TRUE(world.settle());
  for (const PodView* pod : world.live_pods("worker")) {
    EXPECT_EQ(pod->sidecar_image, "registry.example/swarm-sidecar:2");
  }
}

TEST(Plan, SidecarImageThatCannotBePulledIsNotPinned) {
  World world;
  world.settings.sidecar_image = "wrong:1";
  world.step();
  world.step();
  for (PodView& pod : world.seen.pods) {
    pod.containers.push_back(
        {"cfn-sidecar", true, false, false, 0, "ImagePullBackOff", "no such image", {}, ""});
  }
  world.step();
  EXPECT_THAT(message_of(world.swarm),
              HasSubstr("check the sidecar image in the operator's settings"));
  world.settings.sidecar_image = "right:1";
  EXPECT_TRUE(world.settle());
  ASSERT_EQ(world.live_pods("worker").size(), 1U);
  EXPECT_EQ(world.live_pods("worker")[0]->sidecar_image, "right:1");
}

TEST(Plan, ScaleUpAndDownTakesIdleOnesFirst) {
  World world;
  world.set_spec(R"({"workers":{"replicas":10}})");
  ASSERT_TRUE(world.settle());
  api::TeamReport report;
  report.time = world.now;
  report.ready = true;
  report.effective = 100;
  report.tasks.running = 3;
  for (const PodView* pod : world.live_pods("worker")) {
    const bool busy = pod->slot == "worker-7" || pod->slot == "worker-8" || pod->slot == "worker-9";
    report.workers[pod->slot] = worker_report(pod->name, busy, busy ? "t-0-1" : "");
  }
  world.report(0, report);
  world.set_spec(R"({"workers":{"replicas":3}})");
  world.now += 100'000;
  const Plan plan = world.step();
  EXPECT_EQ(count(plan, "delete Surplus"), 7);
  EXPECT_EQ(slots_of(world), (std::set<std::string>{"worker-7", "worker-8", "worker-9"}));
  ASSERT_TRUE(world.settle());
  EXPECT_EQ(reason_of(world.swarm), "True Working");
  // Sparse slots stay; the lowest free ones are taken next.
  world.set_spec(R"({"workers":{"replicas":4}})");
  ASSERT_TRUE(world.settle());
  EXPECT_EQ(slots_of(world),
            (std::set<std::string>{"worker-0", "worker-7", "worker-8", "worker-9"}));
}

TEST(Plan, VictimsInOrder) {
  World world;
  world.set_spec(R"({"workers":{"replicas":6}})");
  ASSERT_TRUE(world.settle());
  api::TeamReport report;
  report.time = world.now;
  std::map<std::string, PodView*> by_slot;
  for (PodView& pod : world.seen.pods) by_slot[pod.slot] = &pod;
  // worker-0 not ready; worker-1 pending; worker-2 idle and cheap; worker-3 idle; worker-4 idle;
  // worker-5 busy.
  by_slot["worker-0"]->ready = false;
  by_slot["worker-1"]->ready = false;
  by_slot["worker-1"]->phase = PodPhase::kPending;
  by_slot["worker-2"]->deletion_cost = -5;
  for (const char* slot : {"worker-2", "worker-3", "worker-4", "worker-5"}) {
    report.workers[slot] = worker_report(by_slot[slot]->name, std::string(slot) == "worker-5", "");
  }
  world.report(0, report);
  const char* order[] = {"worker-1", "worker-0", "worker-2", "worker-4", "worker-3", "worker-5"};
  for (int left = 5; left >= 0; --left) {
    world.set_spec(R"({"workers":{"replicas":)" + std::to_string(left) + "}}");
    world.now += 100'000;
    const Plan plan = world.step();
    std::vector<std::string> victims;
    for (const Action& action : plan.actions) {
      const auto* pod = std::get_if<DeletePod>(&action);
      if (pod != nullptr) victims.push_back(world.pod(pod->name)->slot);
    }
    EXPECT_THAT(victims, testing::ElementsAre(order[5 - left]));
    EXPECT_EQ(reason_of(world.swarm, "Reconciling"),
              left == 5 ? "True Progressing" : "True ScalingDown");
    world.finish_terminating();
  }
  EXPECT_EQ(reason_of(world.swarm), "True ScaledToZero");
}

TEST(Plan, TerminatingPodIsReplacedAtOnceUnderAnotherName) {
  World world;
  world.set_spec(R"({"workers":{"replicas":2}})");
  ASSERT_TRUE(world.settle());
  PodView& lost = *std::find_if(world.seen.pods.begin(), world.seen.pods.end(),
                                [](const PodView& pod) { return pod.slot == "worker-1"; });
  lost.deletion_time = world.now;
  lost.ready = false;
  const std::string old_name = lost.name;
  const Plan plan = world.step();
  ASSERT_EQ(manifests(plan).size(), 1U);
  EXPECT_EQ(manifests(plan)[0]["metadata"]["labels"]["cfn.dev/slot"], "worker-1");
  EXPECT_NE(manifests(plan)[0]["metadata"]["name"], old_name);
  EXPECT_EQ(reason_of(world.swarm), "False Degraded");
  EXPECT_TRUE(world.step().actions.empty());  // one is enough, though the old one is still there
}

TEST(Plan, FailedPodsAreReplacedWithGrowingBackoff) {
  World world;
  ASSERT_TRUE(world.settle());
  std::vector<WallTime> made_at;
  WallTime failed_at = world.now;
  std::vector<WallTime> waits;
  for (int round = 0; round < 12; ++round) {
    PodView* pod = nullptr;
    for (PodView& one : world.seen.pods) {
      if (one.role == "worker" && World::live(one)) pod = &one;
    }
    ASSERT_NE(pod, nullptr);
    pod->phase = PodPhase::kFailed;
    pod->ready = false;
    pod->status_reason = "Evicted";
    failed_at = world.now;
    const int before = world.pods_made;
    for (int i = 0; i < 1000 && world.pods_made == before; ++i) {
      const Plan plan = world.step();
      if (world.pods_made > before) {
        EXPECT_EQ(count(plan, "delete Failed"), 1);
        break;
      }
      ASSERT_TRUE(plan.requeue_after);
      world.now += std::max<std::int64_t>(1, plan.requeue_after->count());
    }
    waits.push_back(world.now - failed_at);
  }
  EXPECT_EQ(waits[0], 1000);
  EXPECT_EQ(waits[1], 2000);
  EXPECT_EQ(waits[4], 16'000);
  EXPECT_EQ(waits[10], 300'000);
  EXPECT_EQ(waits[11], 300'000);
}

TEST(Plan, TwoFailedPodsOfOneSlotAreOneFailure) {
  World world;
  ASSERT_TRUE(world.settle());
  std::vector<PodView> twins;
  for (const PodView& pod : world.seen.pods) {
    if (pod.role == "worker") twins = {pod, pod};
  }
  std::erase_if(world.seen.pods, [](const PodView& pod) { return pod.role == "worker"; });
  for (PodView& twin : twins) {
    twin.name += "x" + std::to_string(world.seen.pods.size());
    twin.uid = twin.name;
    twin.phase = PodPhase::kFailed;
    world.seen.pods.push_back(twin);
  }
  world.step();
  world.now += 1000;
  const Plan plan = world.step();
  EXPECT_EQ(count(plan, "delete Failed"), 2);
  EXPECT_EQ(count(plan, "create Pod"), 1);
}

TEST(Plan, PodWhoseLabelWasChangedDoesNotBlockItsSlotsName) {
  World world;
  world.set_spec(R"({"workers":{"replicas":2}})");
  ASSERT_TRUE(world.settle());
  for (PodView& pod : world.seen.pods) {
    if (pod.slot == "worker-0") pod.slot = "worker-5";
  }
  world.set_spec(R"({"workers":{"replicas":3}})");
  ASSERT_TRUE(world.settle());
  EXPECT_EQ(slots_of(world), (std::set<std::string>{"worker-0", "worker-1", "worker-5"}));
}

TEST(Plan, UnschedulablePodsAreNamedAndNeverMadeAgain) {
  World world;
  world.set_spec(R"({"workers":{"replicas":5}})");
  world.step();
  world.step();
  const int made = world.pods_made;
  for (PodView& pod : world.seen.pods) {
    if (pod.role == "worker") {
      pod.unschedulable_message = "0/6 nodes are available: 6 Insufficient memory.";
    } else {
      pod.ready = true;
      pod.phase = PodPhase::kRunning;
    }
  }
  world.now += 3000;
  world.step();
  EXPECT_THAT(message_of(world.swarm), HasSubstr("worker-0, worker-1, worker-2 and 2 more cannot "
                                                 "be scheduled since 00:00:00Z: 0/6 nodes"));
  EXPECT_THAT(message_of(world.swarm), HasSubstr("64Mi of a pod's memory is its mailbox"));
  EXPECT_EQ(reason_of(world.swarm, "Reconciling"), "True Unschedulable");
  EXPECT_EQ(reason_of(world.swarm, "Stalled"), "False NotStalled");
  world.now += 600'000;
  world.step();
  EXPECT_EQ(reason_of(world.swarm, "Reconciling"), "False Stalled");
  EXPECT_EQ(reason_of(world.swarm, "Stalled"), "True Unschedulable");
  EXPECT_EQ(world.pods_made, made);
  world.make_ready();
  ASSERT_TRUE(world.settle());
  EXPECT_EQ(reason_of(world.swarm), "True Idle");
  EXPECT_EQ(reason_of(world.swarm, "Stalled"), "False NotStalled");
}

TEST(Plan, RefusedDryRunStallsWithTheApiServersWords) {
  World world;
  world.refuse_dry_run = R"(pods "x" is forbidden: violates PodSecurity "restricted:latest")";
  world.step();
  world.step();
  EXPECT_EQ(reason_of(world.swarm, "Stalled"), "True PodRefused");
  EXPECT_EQ(reason_of(world.swarm, "Reconciling"), "False Stalled");
  EXPECT_THAT(message_of(world.swarm), HasSubstr("violates PodSecurity"));
  EXPECT_THAT(message_of(world.swarm), HasSubstr("No pod was made"));
  for (int i = 0; i < 20; ++i) {
    world.now += 1000;
    const Plan plan = world.step();
    ASSERT_TRUE(plan.actions.empty()) << to_text(plan);
    ASSERT_TRUE(plan.requeue_after);
  }
  EXPECT_EQ(world.pods_made, 0);
  world.refuse_dry_run.clear();
  world.now += 30'000;
  EXPECT_EQ(count(world.step(), "dry run"), 2);
  EXPECT_TRUE(world.settle());
  EXPECT_EQ(reason_of(world.swarm), "True Idle");
}

TEST(Plan, RefusedUpdateTouchesNoPod) {
  World world;
  world.set_spec(R"({"workers":{"replicas":4}})");
  ASSERT_TRUE(world.settle());
  world.refuse_dry_run = "strict decoding error: unknown field \"spec.containers[0].imag\"";
  world.set_spec(R"({"workers":{"replicas":4,"template":{"spec":{"nodeSelector":{"a":"b"}}}}})");
  for (int i = 0; i < 50; ++i) {
    world.now += 1000;
    const Plan plan = world.step();
    EXPECT_EQ(count(plan, "delete Outdated"), 0);
    EXPECT_EQ(count(plan, "create Pod"), 0);
  }
  EXPECT_EQ(world.ready_count("worker"), 4);
  EXPECT_THAT(message_of(world.swarm, "Stalled"),
              HasSubstr("The pods that exist stay: 4 of 4 agents ready"));
}

TEST(Plan, QuotaIsReconcilingThenStalledAfterTheDeadline) {
  World world;
  world.refuse_pods =
      "pods \"x\" is forbidden: exceeded quota: compute, requested: pods=1, used: pods=3, limited: "
      "pods=3";
  for (int i = 0; i < 5; ++i) {
    world.step();
    world.now += 1000;
  }
  EXPECT_EQ(reason_of(world.swarm, "Reconciling"), "True QuotaExceeded");
  EXPECT_THAT(message_of(world.swarm), HasSubstr("exceeded quota: compute"));
  int tries = 0;
  for (int i = 0; i < 620; ++i) {
    world.now += 1000;
    tries += count(world.step(), "create Pod") > 0 ? 1 : 0;
  }
  EXPECT_LE(tries, 22);  // every 30 s
  EXPECT_GE(tries, 18);
  EXPECT_EQ(reason_of(world.swarm, "Stalled"), "True QuotaExceeded");
  world.refuse_pods.clear();
  EXPECT_TRUE(world.settle());
  EXPECT_EQ(reason_of(world.swarm), "True Idle");
}

TEST(Plan, ReservedFieldsAreRefusedWithTheRemedy) {
  struct Row {
    const char* extra;
    const char* message;
  };
  const Row rows[] = {
      {R"({"workers":{"template":{"spec":{"hostname":"x"}}}})",
       "spec.workers.template.spec.hostname: the operator sets it"},
      {R"({"workers":{"template":{"spec":{"subdomain":"x"}}}})", "spec.subdomain"},
      {R"({"workers":{"template":{"spec":{"terminationGracePeriodSeconds":5}}}})",
       "spec.workers.taskGraceSeconds"},
      {R"({"workers":{"template":{"spec":{"restartPolicy":"Never"}}}})",
       "restartPolicy: must be Always"},
      {R"({"workers":{"template":{"spec":{"hostNetwork":true}}}})", "hostNetwork"},
      {R"({"workers":{"template":{"spec":{"activeDeadlineSeconds":9}}}})",
       "agentctl work --timeout"},
      {R"({"workers":{"template":{"spec":{"os":{"name":"windows"}}}}})", "os.name"},
      {R"({"workers":{"template":{"spec":{"volumes":[{"name":"cfn-log"}]}}}})", "volumes[cfn-log]"},
      {R"({"workers":{"template":{"spec":{"volumes":{}}}}})", "volumes: is not a list"},
      {R"({"workers":{"template":{"spec":{"containers":[]}}}})", "containers: must be a list"},
      {R"({"workers":{"template":{"spec":{"containers":[7]}}}})",
       "containers[0]: is not an object"},
      {R"({"workers":{"template":{"spec":{"containers":[{"name":"cfn-sidecar"}]}}}})",
       "containers[cfn-sidecar].name"},
      {R"({"workers":{"template":{"spec":{"containers":[{"name":"a","env":[{"name":"CFN_X"}]}]}}}})",
       "env[CFN_X]"},
      {R"({"workers":{"template":{"spec":{"containers":[{"name":"a","volumeMounts":[{"name":"v","mountPath":"/dev/shm/cfn/"}]}]}}}})",
       "/dev/shm/cfn is where"},
      {R"({"workers":{"template":{"spec":{"containers":[{"name":"a","volumeMounts":[{"name":"cfn-log","mountPath":"/x"}]}]}}}})",
       "volumeMounts[cfn-log]"},
      {R"({"workers":{"template":{"spec":{"containers":[{"name":"a","ports":[{"containerPort":7070}]}]}}}})",
       "7070 and 7080"},
      {R"({"workers":{"template":{"spec":{"initContainers":[{"name":"cfn-x"}]}}}})",
       "initContainers[cfn-x]"},
      {R"({"workers":{"template":{"metadata":{"labels":{"cfn.dev/slot":"x"}}}}})",
       "labels[cfn.dev/slot]"},
      {R"({"workers":{"template":{"metadata":{"name":"x"}}}})", "metadata.name"},
      {R"({"coordinator":{"template":{"spec":{"containers":[{"name":"c"}],"automountServiceAccountToken":true}}}})",
       "spec.coordinator.template.spec.automountServiceAccountToken"},
  };
  for (const Row& row : rows) {
    World world;
    world.set_spec(row.extra);
    for (int i = 0; i < 4; ++i) world.step();
    EXPECT_EQ(reason_of(world.swarm, "Stalled"), "True InvalidTemplate") << row.extra;
    EXPECT_THAT(message_of(world.swarm), HasSubstr(row.message));
    EXPECT_EQ(world.pods_made, 0);
  }
}

TEST(Plan, OldClusterGetsAConditionAndNothingElse) {
  World world;
  world.settings.kubernetes_minor = 28;
  const Plan plan = world.step();
  EXPECT_TRUE(plan.actions.empty());
  EXPECT_EQ(reason_of(world.swarm, "Stalled"), "True UnsupportedKubernetes");
  EXPECT_THAT(message_of(world.swarm), HasSubstr("Kubernetes 1.28; at least 1.29"));
  EXPECT_FALSE(world.step().status);
}

TEST(Plan, UnreadableSpecIsStalledOnce) {
  World world;
  const Plan first = plan_unreadable(world.swarm, "spec.a: wrong\nspec.b: wrong", {}, world.now);
  ASSERT_TRUE(first.status);
  EXPECT_EQ(first.events.size(), 1U);
  world.swarm.status = *first.status;
  EXPECT_EQ(reason_of(world.swarm, "Stalled"), "True InvalidSpec");
  EXPECT_THAT(message_of(world.swarm), HasSubstr("spec.a: wrong; spec.b: wrong"));
  EXPECT_FALSE(
      plan_unreadable(world.swarm, "spec.a: wrong\nspec.b: wrong", {}, world.now + 9000).status);
}

TEST(Plan, DeletedOrUnsettledSwarmGetsNoAction) {
  World world;
  world.seen.settled = false;
  const Plan waiting = world.step();
  EXPECT_TRUE(waiting.actions.empty());
  EXPECT_FALSE(waiting.status);
  EXPECT_TRUE(waiting.requeue_after);
  world.seen.settled = true;
  world.swarm.deletion_time = world.now;
  const Plan gone = world.step();
  EXPECT_TRUE(gone.actions.empty());
  EXPECT_FALSE(gone.status);
}

TEST(Plan, TerminatingNamespaceGetsNoCreates) {
  World world;
  world.seen.namespace_terminating = true;
  const Plan plan = world.step();
  EXPECT_TRUE(plan.actions.empty()) << to_text(plan);
  EXPECT_EQ(reason_of(world.swarm, "Stalled"), "True NamespaceTerminating");
}

TEST(Plan, NamesOfAnOldSwarmAreWaitedFor) {
  World world;
  ChildView old;
  old.kind = "Service";
  old.name = "hello-link";
  old.owner_uid = "another-uid";
  old.uid = "s";
  world.seen.children.push_back(old);
  for (int i = 0; i < 5; ++i) {
    world.step();
    world.now += 1000;
  }
  EXPECT_EQ(world.pods_made, 0);
  EXPECT_EQ(reason_of(world.swarm, "Reconciling"), "True NameTaken");
  EXPECT_THAT(message_of(world.swarm),
              HasSubstr("Service hello-link exists and is not this Swarm's"));
  world.now += 600'000;
  world.step();
  EXPECT_EQ(reason_of(world.swarm, "Stalled"), "True NameTaken");
  world.now += 60'000;
  EXPECT_FALSE(world.step().status);
  std::erase_if(world.seen.children,
                [](const ChildView& one) { return one.owner_uid == "another-uid"; });
  EXPECT_TRUE(world.settle());
  EXPECT_TRUE(world.violations.empty());
}

TEST(Plan, SuspendKeepsThePodsAndSaysSo) {
  World world;
  world.set_spec(R"({"workers":{"replicas":2}})");
  ASSERT_TRUE(world.settle());
  api::TeamReport report;
  report.time = world.now;
  report.ready = report.suspended.emplace() = true;
  report.effective = 100;
  world.report(0, report);
  world.set_spec(R"({"suspend":true,"workers":{"replicas":2}})");
  const Plan plan = world.step();
  EXPECT_TRUE(plan.actions.empty()) << to_text(plan);
  EXPECT_EQ(reason_of(world.swarm), "True Suspended");
  EXPECT_EQ(reason_of(world.swarm, "Reconciling"), "False Settled");
}

TEST(Plan, SuspendedIsSaidWhenTheCoordinatorsKnow) {
  World world;
  world.set_spec(R"({"workers":{"replicas":4},"topology":{"teamSize":2}})");
  ASSERT_TRUE(world.settle());
  api::TeamReport report;
  report.time = world.now;
  report.ready = true;
  report.effective = 100;
  report.suspended = false;
  world.report(0, report);
  ASSERT_TRUE(world.settle());
  world.set_spec(R"({"suspend":true,"workers":{"replicas":4},"topology":{"teamSize":2}})");
  world.step();
  EXPECT_EQ(reason_of(world.swarm), "True Suspending");
  report.suspended = true;
  world.report(0, report);
  world.step();
  EXPECT_EQ(reason_of(world.swarm), "True Suspending") << "of team 1 nothing is known";
  report.suspended = false;
  world.report(1, report);
  world.step();
  EXPECT_EQ(reason_of(world.swarm), "True Suspending");
  report.suspended.reset();  // of an older build: believed
  world.report(1, report);
  world.step();
  EXPECT_EQ(reason_of(world.swarm), "True Suspended");
}

TEST(Plan, ChangedChildIsPatchedWithPreconditions) {
  World world;
  ASSERT_TRUE(world.settle());
  world.set_spec(R"({"workers":{"maxUnavailable":3}})");
  const Plan plan = world.step();
  EXPECT_EQ(count(plan, "patch"), 1);
  const auto* patch = std::get_if<PatchObject>(&plan.actions[0]);
  ASSERT_NE(patch, nullptr);
  EXPECT_EQ(patch->name, "hello-workers");
  EXPECT_EQ(json::parse(patch->patch)["spec"]["maxUnavailable"], 3);
  EXPECT_TRUE(world.step().actions.empty());
}

TEST(Plan, TeamsAreFixedAndEachKeepsAnAgentWhileThereAreEnough) {
  World world;
  world.set_spec(R"({"topology":{"teamSize":2},"workers":{"replicas":6}})");
  ASSERT_TRUE(world.settle());
  EXPECT_EQ(world.live_pods("coordinator").size(), 3U);
  // Idle and busy as they are, the highest slots would go: 5, 4, 3 are one of each team, 2 is the
  // last of team 2.
  for (const int replicas : {4, 3, 7, 3}) {
    world.set_spec(R"({"topology":{"teamSize":2},"workers":{"replicas":)" +
                   std::to_string(replicas) + "}}");
    world.now += 100'000;
    ASSERT_TRUE(world.settle());
    std::set<int> teams;
    for (const std::string& slot : slots_of(world, "worker"))
      teams.insert(std::stoi(slot.substr(7)) % 3);
    EXPECT_EQ(teams, (std::set<int>{0, 1, 2})) << replicas;
    EXPECT_EQ(slots_of(world, "worker").size(), static_cast<std::size_t>(replicas));
    EXPECT_EQ(world.live_pods("coordinator").size(), 3U) << replicas;
  }
  world.set_spec(R"({"topology":{"teamSize":2},"workers":{"replicas":1}})");
  world.now += 100'000;
  ASSERT_TRUE(world.settle());
  EXPECT_EQ(slots_of(world, "worker").size(), 1U);
  EXPECT_EQ(world.live_pods("coordinator").size(), 3U);
  EXPECT_EQ(world.seen.leases.size(), 3U);
  EXPECT_EQ(world.swarm.status.topology.type, "Hybrid");
  EXPECT_THAT(world.swarm.status.topology.reason, HasSubstr("scale to at least 3"));
}

TEST(Plan, CoordinatorsThatHoldSomethingOutliveTheTopology) {
  World world;
  world.set_spec(R"({"topology":{"teamSize":2},"workers":{"replicas":6}})");
  ASSERT_TRUE(world.settle());
  EXPECT_EQ(world.swarm.status.topology.type, "Hybrid");
  EXPECT_EQ(world.live_pods("coordinator").size(), 3U);
  api::TeamReport full;
  full.time = world.now;
  full.tasks.dead = 1;  // not even a dead letter is dropped
  api::TeamReport empty;
  empty.time = world.now;
  world.report(1, empty);
  world.report(2, full);
  // Somebody has edited the status.
  world.swarm.status.topology.coordinators = 1;
  world.now += 100'000;
  ASSERT_TRUE(world.settle());
  EXPECT_EQ(slots_of(world, "coordinator"),
            (std::set<std::string>{"coordinator-0", "coordinator-2"}));
  EXPECT_EQ(reason_of(world.swarm, "Reconciling"), "True DrainingCoordinators");
  world.report(2, empty);
  ASSERT_TRUE(world.settle());
  EXPECT_EQ(slots_of(world, "coordinator"), (std::set<std::string>{"coordinator-0"}));
  EXPECT_EQ(world.seen.leases.size(), 1U);
  for (const ChildView& child : world.seen.children) EXPECT_NE(child.name, "hello-coordinators");
}

TEST(Plan, CountsAreWrittenAtMostEveryThirtySecondsButZeroAtOnce) {
  World world;
  ASSERT_TRUE(world.settle());
  api::TeamReport report;
  report.time = world.now;
  report.ready = true;
  report.effective = 100;
  world.now += 100'000;
  int writes = 0;
  for (int i = 1; i <= 120; ++i) {
    world.now += 1000;
    report.tasks.done = i;
    report.tasks.queued = 1000 - i;
    world.report(0, report);
    writes += world.step().status ? 1 : 0;
  }
  EXPECT_LE(writes, 5);
  EXPECT_GE(writes, 4);
  world.now += 100;
  report.tasks.queued = 0;
  world.report(0, report);
  EXPECT_TRUE(world.step().status);
  EXPECT_EQ(reason_of(world.swarm), "True Idle");
}

TEST(Plan, WhatTheTeamsHaveSpentIsAddedUpAndStaysSpent) {
  World world;
  world.set_spec(R"({"topology":{"teamSize":2},"workers":{"replicas":4}})");
  ASSERT_TRUE(world.settle());
  EXPECT_EQ(world.swarm.status.usage, api::UsageCounts{});
  api::TeamReport report;
  report.time = world.now;
  report.ready = true;
  report.usage = {1, 2, 3, 4, 5'000'000, 6, 5};
  world.report(0, report);
  world.report(1, report);
  world.step();  // the first that was spent is told at once
  EXPECT_EQ(world.swarm.status.usage, (api::UsageCounts{2, 4, 6, 8, 10'000'000, 12, 10}));
  report.usage.cost_micro_usd = 7'000'000;
  world.report(0, report);
  world.step();
  EXPECT_EQ(world.swarm.status.usage.cost_micro_usd, 10'000'000) << "more of it in 30 s";
  world.now += 31'000;
  world.step();
  EXPECT_EQ(world.swarm.status.usage.cost_micro_usd, 12'000'000);
  report.usage = {};  // a coordinator that has forgotten, or is of the release before
  world.report(0, report);
  world.now += 31'000;
  world.step();
  EXPECT_EQ(world.swarm.status.usage.cost_micro_usd, 12'000'000);
}

TEST(Plan, AnExhaustedBudgetIsToldAtOnceWithNumbersAndOnce) {
  World world;
  world.set_spec(R"({"budget":{"usd":"10"}})");
  ASSERT_TRUE(world.settle());
  api::TeamReport report;
  report.time = world.now;
  report.ready = true;
  report.effective = 100;
  report.tasks.queued = 12;
  report.tasks.running = 3;
  report.usage = {.cost_micro_usd = 9'990'000, .tasks = 6, .priced_tasks = 6};
  world.report(0, report);
  Plan plan = world.step();
  EXPECT_EQ(reason_of(world.swarm), "True Working");
  EXPECT_EQ(reason_of(world.swarm, "BudgetExhausted"), "");
  world.now += 1000;
  report.usage.cost_micro_usd = 10'250'000;
  world.report(0, report);
  plan = world.step();
  EXPECT_EQ(reason_of(world.swarm), "True BudgetExhausted");
  EXPECT_EQ(reason_of(world.swarm, "BudgetExhausted"), "True CostReached");
  EXPECT_EQ(world.swarm.status.usage.cost_micro_usd, 10'250'000) << "the other teams read it";
  const std::string text =
      "$10.25 of $10.00 (spec.budget.usd) are spent: no task is handed out, 12 tasks queued and "
      "kept; 3 running, which go on and cost. Next: kubectl patch swarm hello --type=merge -p "
      R"('{"spec":{"budget":{"usd":"20.50"}}}')";
  EXPECT_EQ(message_of(world.swarm), text);
  EXPECT_EQ(plan.events, (std::vector<Event>{{"Warning", "BudgetExhausted", text}}));
  world.now += 31'000;
  report.usage.cost_micro_usd = 11'000'000;
  world.report(0, report);
  plan = world.step();
  EXPECT_THAT(message_of(world.swarm), HasSubstr("$11.00 of $10.00"));
  EXPECT_THAT(plan.events, testing::IsEmpty());
  world.set_spec(R"({"budget":{"usd":"20.50"}})");
  plan = world.step();
  EXPECT_EQ(reason_of(world.swarm), "True Working");
  EXPECT_EQ(reason_of(world.swarm, "BudgetExhausted"), "");
  EXPECT_THAT(plan.events, testing::IsEmpty());
}

TEST(Plan, ABudgetRestartsNobody) {
  World world;
  ASSERT_TRUE(world.settle());
  const std::string before = world.live_pods("worker")[0]->uid;
  world.set_spec(R"({"budget":{"usd":"10"}})");
  ASSERT_TRUE(world.settle());
  EXPECT_EQ(world.live_pods("worker")[0]->uid, before);
}

TEST(Plan, RolloutStatusComesFromTheReports) {
  World world;
  const std::string spec =
      R"({"rollout":{"trafficPercentage":50,"v1":{"type":"InPlace","inPlace":{"command":["/v1"]}}}})";
  world.set_spec(spec);
  ASSERT_TRUE(world.settle());
  EXPECT_EQ(world.swarm.status.rollout.summary, "50%");
  api::TeamReport report;
  report.time = world.now;
  report.ready = true;
  report.effective = 0;
  report.v1 = 60;
  report.v2 = 40;
  world.report(0, report);
  world.now += 40'000;
  world.step();
  EXPECT_EQ(world.swarm.status.rollout.summary, "0%(50%)");
  EXPECT_EQ(world.swarm.status.rollout.active_version, "V1");
  EXPECT_EQ(world.swarm.status.rollout.measured, 40);
}

TEST(Plan, AgentsThatEndByThemselvesAreTold) {
  World world;
  ASSERT_TRUE(world.settle());
  for (PodView& pod : world.seen.pods) {
    if (pod.role != "worker") continue;
    pod.ready = false;
    pod.containers.push_back(
        {"agent", false, false, false, 4, "CrashLoopBackOff", "back-off", 0, "Completed"});
  }
  world.now += 5000;
  const Plan plan = world.step();
  EXPECT_EQ(reason_of(world.swarm, "AgentExits"), "True ExitedWithZero");
  EXPECT_THAT(message_of(world.swarm), HasSubstr("agentctl, work"));
  EXPECT_THAT(plan.events, testing::Contains(testing::Field(&Event::reason, "AgentExits")));
}

TEST(Plan, PodsThatRefuseMailAreToldOnce) {
  World world;
  ASSERT_TRUE(world.settle());
  api::TeamReport report;
  report.time = world.now;
  report.ready = true;
  report.pressed = {{"worker-0", "worker-0's inbox is full (1000 of 1000 messages)"}};
  world.report(0, report);
  Plan plan = world.step();
  EXPECT_EQ(reason_of(world.swarm, "MailboxPressure"), "True MailRefused");
  EXPECT_THAT(
      plan.events,
      testing::Contains(testing::AllOf(
          testing::Field(&Event::reason, "MailboxPressure"),
          testing::Field(&Event::message, testing::AllOf(HasSubstr("(1000 of 1000 messages)"),
                                                         HasSubstr("slot=worker-0"))))));
  report.pressed["worker-1"] = "worker-1's inbox is full (1000 of 1000 messages)";
  world.report(0, report);
  plan = world.step();
  EXPECT_THAT(plan.events,
              testing::Not(testing::Contains(testing::Field(&Event::reason, "MailboxPressure"))));
  report.pressed.clear();
  world.report(0, report);
  world.step();
  EXPECT_EQ(reason_of(world.swarm, "MailboxPressure"), "");
}

TEST(Plan, StuckAgentsAreNamedAtOnceAndNoLongerWhenTheyGoOn) {
  World world;
  world.set_spec(R"({"workers":{"replicas":5},"health":{"stuckAfterSeconds":90}})");
  ASSERT_TRUE(world.settle());
  api::TeamReport report;
  report.time = world.now;
  report.ready = true;
  report.tasks.running = 5;
  world.report(0, report);
  world.step();
  EXPECT_EQ(reason_of(world.swarm, "Ready"), "True Working");
  const auto told = [](const Plan& plan) {
    return std::count_if(plan.events.begin(), plan.events.end(), [](const Event& event) {
      return event.reason == "AgentStuck" && event.type == "Warning";
    });
  };
  const WallTime since = world.now - world.now % 1000 - 91'000;
  report.stuck = 1;
  report.stuck_named = {{"worker-3", "t-0-1f2", since, "1 TCP connection open"}};
  world.report(0, report);
  Plan plan = world.step();
  EXPECT_EQ(told(plan), 1);
  EXPECT_EQ(reason_of(world.swarm, "AgentsStuck"), "True NoOutputNoCpu");
  EXPECT_EQ(reason_of(world.swarm, "Ready"), "True AgentsStuck");
  EXPECT_EQ(world.swarm.status.agents.stuck, 1);
  EXPECT_EQ(message_of(world.swarm),
            "1 of 5 agents without output or CPU for more than 90s: worker-3 (t-0-1f2 since " +
                clock_text(since) +
                ": 1 TCP connection open). Nothing is ended (spec.health.onStuck: Report). Next: "
                "kubectl swarm get agents " +
                world.swarm.name);
  EXPECT_EQ(told(world.step()), 0);
  // The next ones are not kept waiting; of many only three have names, those for longest.
  for (int more = 2; more <= 5; ++more) {
    world.now += 1000;
    report.stuck = more;
    report.stuck_named.push_back({"worker-" + std::to_string(more), "t-0-2", since + more, ""});
    world.report(0, report);
    plan = world.step();
    if (more <= 4) {
      EXPECT_EQ(world.swarm.status.agents.stuck, more);
      EXPECT_EQ(told(plan), 1);
    }
  }
  world.now += 30'000;
  world.step();
  EXPECT_THAT(message_of(world.swarm), testing::StartsWith("5 of 5 agents"));
  EXPECT_THAT(message_of(world.swarm), HasSubstr(") and 2 more. Nothing is ended"));
  report.stuck_named[0].why = "2 TCP connections open";  // other words are no Event
  world.report(0, report);
  world.now += 30'000;
  EXPECT_EQ(told(world.step()), 0);
  EXPECT_THAT(message_of(world.swarm), HasSubstr("2 TCP connections open"));
  report.stuck = 0;
  report.stuck_named.clear();
  world.report(0, report);
  plan = world.step();
  EXPECT_EQ(told(plan), 0);
  EXPECT_EQ(reason_of(world.swarm, "AgentsStuck"), "");
  EXPECT_EQ(reason_of(world.swarm, "Ready"), "True Working");
  EXPECT_EQ(world.swarm.status.agents.stuck, 0);
}

TEST(Plan, ACoordinatorWithTheOnlyCopiesIsNotUpdated) {
  World world;
  world.set_spec(R"({"workers":{"replicas":1}})");
  ASSERT_TRUE(world.settle());
  const std::string before = world.live_pods("coordinator").front()->uid;
  // Scaled to zero and changed in one go: the report still knows the worker.
  api::TeamReport report;
  report.time = world.now;
  report.ready = true;
  report.workers["worker-0"] = worker_report("p", false, "");
  world.report(0, report);
  world.set_spec(R"({"workers":{"replicas":0},"mailbox":{"sizeLimit":"32Mi"}})");
  for (int i = 0; i < 5; ++i) {
    world.step();
    world.finish_terminating();
    world.now += 1000;
  }
  EXPECT_EQ(world.live_pods("coordinator").front()->uid, before);
  // It is gone, and tasks are queued: much later, too.
  report.workers.clear();
  report.tasks.queued = 3;
  world.report(0, report);
  for (int i = 0; i < 30; ++i) {
    world.step();
    world.now += 60'000;
  }
  EXPECT_EQ(world.live_pods("coordinator").front()->uid, before);
  EXPECT_EQ(reason_of(world.swarm, "Stalled"), "True UpdateHeld");
  EXPECT_THAT(message_of(world.swarm),
              HasSubstr("coordinator-0 keeps the only copy of 3 tasks since no agent of the team "
                        "runs: not updated, they would be lost."));
  EXPECT_THAT(message_of(world.swarm), HasSubstr("Next: kubectl scale swarm hello --replicas=1"));
  // With an agent that runs it is updated.
  world.set_spec(R"({"workers":{"replicas":1},"mailbox":{"sizeLimit":"32Mi"}})");
  ASSERT_TRUE(world.settle());
  EXPECT_NE(world.live_pods("coordinator").front()->uid, before);
}

// What the coordinator of team 0 says: these pods are joined and `queued` tasks have two copies.
api::TeamReport joined_report(const World& world, int queued) {
  api::TeamReport report;
  report.time = world.now;
  report.ready = true;
  report.tasks.queued = queued;
  for (const PodView* pod : world.live_pods("worker")) {
    report.workers[pod->slot] = worker_report(pod->name, false, "");
  }
  return report;
}

// A swarm whose agents crash; their sidecars run, and the queue is in them.
void settle_with_crashing_agents(World& world, int replicas) {
  world.set_spec(R"({"workers":{"replicas":)" + std::to_string(replicas) + "}}");
  ASSERT_TRUE(world.settle());
  world.report(0, joined_report(world, 5));
  for (PodView& pod : world.seen.pods) {
    if (pod.role == "worker") pod.ready = false;
  }
  world.now += 100'000;
}

std::string changed_for_all(int replicas) {
  return R"({"mailbox":{"sizeLimit":"32Mi"},"workers":{"replicas":)" + std::to_string(replicas) +
         "}}";
}

std::set<std::string> deleted_slots(const Plan& plan) {
  std::set<std::string> slots;
  for (const Action& action : plan.actions) {
    if (const auto* gone = std::get_if<DeletePod>(&action)) slots.insert(gone->slot);
  }
  return slots;
}

// Until a plan deletes something, a second each; what it deletes.
std::set<std::string> next_deleted(World& world, int limit) {
  for (int i = 0; i < limit; ++i) {
    world.now += 1000;
    const std::set<std::string> slots = deleted_slots(world.step());
    if (!slots.empty()) return slots;
  }
  return {};
}

TEST(Plan, SidecarsOfAgentsThatAreNotReadyKeepTheCopiesThroughAnUpdateOfBothRoles) {
  World world;
  settle_with_crashing_agents(world, 3);
  world.set_spec(changed_for_all(3));
  EXPECT_EQ(next_deleted(world, 5), std::set<std::string>{"coordinator-0"});
  // Its replacement is on the way, starts, and collects.
  world.finish_terminating();
  EXPECT_EQ(next_deleted(world, 30), std::set<std::string>{});
  EXPECT_EQ(reason_of(world.swarm, "Reconciling"), "True UpdateHeld");
  EXPECT_THAT(message_of(world.swarm),
              HasSubstr("worker-0, worker-1, worker-2 may have the only copies of tasks while "
                        "coordinator-0 is not ready or collects them"));
  for (PodView& pod : world.seen.pods) {
    if (pod.role == "coordinator") pod.phase = PodPhase::kRunning;
    if (pod.role == "coordinator") pod.ready = true;
  }
  api::TeamReport report = joined_report(world, 5);
  report.recovering = true;
  world.report(0, report);
  EXPECT_EQ(next_deleted(world, 30), std::set<std::string>{});
  // It has them: one agent after the other, each when the one before it can hold a copy.
  world.report(0, joined_report(world, 5));
  std::set<std::string> left = {"worker-0", "worker-1", "worker-2"};
  while (!left.empty()) {
    const std::set<std::string> gone = next_deleted(world, 5);
    ASSERT_EQ(gone.size(), 1U) << left.size();
    EXPECT_EQ(left.erase(*gone.begin()), 1U);
    world.finish_terminating();
    EXPECT_EQ(next_deleted(world, 20), std::set<std::string>{}) << left.size();
    report = joined_report(world, 5);
    report.tasks.single_copy = 1;  // and not before the copies have moved
    world.report(0, report);
    EXPECT_EQ(next_deleted(world, 20), std::set<std::string>{});
    world.report(0, joined_report(world, 5));
  }
  ASSERT_TRUE(world.settle());
  EXPECT_EQ(reason_of(world.swarm), "True Working");
}

TEST(Plan, AnAgentsPodWhoseSidecarNeverStartedIsReplacedAtOnce) {
  World world;
  settle_with_crashing_agents(world, 4);
  api::TeamReport report = joined_report(world, 5);
  report.workers.erase("worker-0");
  report.workers.erase("worker-1");
  for (PodView& pod : world.seen.pods) {
    if (pod.role == "coordinator") pod.ready = false;  // away: its workers must stay
    if (pod.role == "worker") pod.phase = PodPhase::kPending;
    if (pod.slot == "worker-0") pod.unschedulable_message = "0/6 nodes are available";
    if (pod.slot == "worker-1")
      pod.containers.push_back(
          {"cfn-sidecar", true, false, false, 0, "PodInitializing", "", {}, ""});
    // The agent's image cannot be had: the sidecar runs before it.
    if (pod.slot == "worker-2")
      pod.containers.push_back({"agent", false, false, false, 0, "ImagePullBackOff", "", {}, ""});
    if (pod.slot == "worker-3") {
      report.workers.erase("worker-3");
      pod.containers.push_back({"cfn-sidecar", true, true, true, 0, "", "", {}, ""});
    }
  }
  world.report(0, report);
  world.set_spec(R"({"workers":{"replicas":4,"template":{"spec":{"priority":7}}}})");
  EXPECT_EQ(next_deleted(world, 5), (std::set<std::string>{"worker-0", "worker-1"}));
  EXPECT_EQ(next_deleted(world, 90), std::set<std::string>{});
}

TEST(Plan, AFirstWrongImageIsCorrectedAtOnce) {
  for (const bool led : {false, true}) {
    World world;
    world.set_spec(R"({"workers":{"replicas":8}})");
    world.step();
    world.step();
    for (PodView& pod : world.seen.pods) {  // the sidecars run, the agents do not
      pod.containers.push_back({"cfn-sidecar", true, true, true, 0, "", "", {}, ""});
      if (pod.role == "coordinator") pod.ready = led;
      if (pod.role == "coordinator") pod.phase = PodPhase::kRunning;
    }
    if (led) world.report(0, joined_report(world, 0));
    world.set_spec(R"({"workers":{"replicas":8,"template":{"spec":{"priority":7}}}})");
    EXPECT_EQ(next_deleted(world, 3).size(), 8U) << led;
  }
}

TEST(Plan, SlotsThatStayEmptyStopTheUpdateOfACrashingFleetOnlyBeforeItsLastSidecar) {
  World world;
  settle_with_crashing_agents(world, 5);
  api::TeamReport report = joined_report(world, 5);
  for (PodView& pod : world.seen.pods) {  // no node has room for two
    if (pod.slot != "worker-3" && pod.slot != "worker-4") continue;
    pod.phase = PodPhase::kPending;
    report.workers.erase(pod.slot);
  }
  world.report(0, report);
  world.set_spec(R"({"workers":{"replicas":5,"template":{"spec":{"priority":7}}}})");
  EXPECT_EQ(next_deleted(world, 3), (std::set<std::string>{"worker-3", "worker-4"}));
  for (int i = 0; i < 2; ++i) {
    world.finish_terminating();
    EXPECT_EQ(next_deleted(world, 50), std::set<std::string>{});
    EXPECT_EQ(next_deleted(world, 20).size(), 1U);
  }
  world.finish_terminating();
  EXPECT_EQ(next_deleted(world, 300), std::set<std::string>{});
  // One that starts takes its place.
  for (PodView& pod : world.seen.pods) {
    if (pod.slot == "worker-4") pod.phase = PodPhase::kRunning;
  }
  EXPECT_EQ(next_deleted(world, 3).size(), 1U);
}

TEST(Plan, ScaleDownLeavesSidecarsAloneWhileTheirCoordinatorIsAway) {
  World world;
  settle_with_crashing_agents(world, 3);
  api::TeamReport report = joined_report(world, 5);
  report.workers.erase("worker-0");
  world.report(0, report);
  for (PodView& pod : world.seen.pods) {
    if (pod.slot == "worker-0") pod.phase = PodPhase::kPending;
  }
  // Its coordinator is lost with its node.
  std::erase_if(world.seen.pods, [](const PodView& pod) { return pod.role == "coordinator"; });
  world.set_spec(R"({"workers":{"replicas":1}})");
  EXPECT_EQ(next_deleted(world, 1), std::set<std::string>{"worker-0"});
  EXPECT_EQ(next_deleted(world, 50), std::set<std::string>{});  // it starts and collects
  world.make_ready();
  for (PodView& pod : world.seen.pods) {
    if (pod.role == "worker") pod.ready = false;
  }
  world.report(0, joined_report(world, 5));
  EXPECT_EQ(next_deleted(world, 3).size(), 1U);
}

TEST(Plan, ScaleDownMakesRoomForACoordinatorThatTheQuotaRefuses) {
  World world;
  settle_with_crashing_agents(world, 3);
  std::erase_if(world.seen.pods, [](const PodView& pod) { return pod.role == "coordinator"; });
  world.refuse_pods = "exceeded quota: compute";
  world.step();
  world.set_spec(R"({"workers":{"replicas":1}})");
  EXPECT_EQ(next_deleted(world, 3).size(), 2U);
}

TEST(Plan, ACoordinatorThatCollectsItsTasksIsNotUpdated) {
  for (const bool ready : {false, true}) {
    World world;
    world.set_spec(R"({"workers":{"replicas":2}})");
    ASSERT_TRUE(world.settle());
    world.now += 100'000;
    for (PodView& pod : world.seen.pods) {
      if (pod.role != "coordinator") continue;
      pod.ready = ready;
      pod.ready_since = pod.creation_time = world.now;
    }
    api::TeamReport report = joined_report(world, 5);
    report.recovering = true;
    world.report(0, report);
    world.set_spec(changed_for_all(2));
    EXPECT_EQ(next_deleted(world, 50), std::set<std::string>{}) << ready;
    EXPECT_EQ(reason_of(world.swarm, "Reconciling"), "True UpdateHeld") << ready;
    EXPECT_THAT(message_of(world.swarm), HasSubstr("coordinator-0 collects tasks from the agents' "
                                                   "pods: not updated before that is over"));
    EXPECT_EQ(next_deleted(world, 20), std::set<std::string>{"coordinator-0"}) << ready;
  }
}

TEST(Plan, ACoordinatorThatIsNotReadyAndLeadsWaitsForSecondCopies) {
  World world;
  settle_with_crashing_agents(world, 2);
  api::TeamReport report = joined_report(world, 5);
  report.tasks.single_copy = 1;
  world.report(0, report);
  for (PodView& pod : world.seen.pods) {
    pod.ready = false;
    pod.creation_time = world.now;
  }
  world.set_spec(changed_for_all(2));
  EXPECT_EQ(next_deleted(world, 30), std::set<std::string>{});
  world.report(0, joined_report(world, 5));
  EXPECT_EQ(next_deleted(world, 3), std::set<std::string>{"coordinator-0"});
}

TEST(Plan, ACoordinatorWaitsForTheCopiesOfAgentsThatEnd) {
  World world;
  world.set_spec(R"({"workers":{"replicas":2}})");
  ASSERT_TRUE(world.settle());
  world.now += 100'000;
  const api::TeamReport before = joined_report(world, 5);
  world.report(0, before);
  world.set_spec(changed_for_all(1));
  EXPECT_EQ(next_deleted(world, 5), std::set<std::string>{"worker-1"});
  for (PodView& pod : world.seen.pods) {  // it has an hour for its task
    if (!pod.deletion_time) continue;
    pod.deletion_grace = 3'600'000;
    *pod.deletion_time += pod.deletion_grace;
  }
  EXPECT_EQ(next_deleted(world, 55), std::set<std::string>{});
  World told = world;
  told.report(0, joined_report(told, 5));  // its copies have moved, it is gone
  EXPECT_EQ(next_deleted(told, 2), std::set<std::string>{"coordinator-0"});
  EXPECT_EQ(next_deleted(world, 10), std::set<std::string>{"coordinator-0"});
}

TEST(Plan, TheReportOfALostCoordinatorHoldsNoUpdateOfItsReplacement) {
  World world;
  world.set_spec(R"({"workers":{"replicas":0}})");
  ASSERT_TRUE(world.settle());
  api::TeamReport report;
  report.time = world.now;
  report.tasks.queued = 3;
  world.report(0, report);
  // Its node is lost; the replacement cannot be scheduled, and the template is corrected.
  std::erase_if(world.seen.pods, [](const PodView& pod) { return pod.role == "coordinator"; });
  world.step();
  const std::string before = world.live_pods("coordinator").front()->uid;
  world.set_spec(R"({"workers":{"replicas":0},"mailbox":{"sizeLimit":"32Mi"}})");
  ASSERT_TRUE(world.settle());
  EXPECT_NE(world.live_pods("coordinator").front()->uid, before);
}

TEST(Plan, AnEmptyCoordinatorWithoutAgentsIsUpdated) {
  World world;
  world.set_spec(R"({"workers":{"replicas":0}})");
  ASSERT_TRUE(world.settle());
  const std::string before = world.live_pods("coordinator").front()->uid;
  api::TeamReport report;
  report.time = world.now;
  report.ready = true;
  world.report(0, report);
  world.set_spec(R"({"workers":{"replicas":0},"mailbox":{"sizeLimit":"32Mi"}})");
  ASSERT_TRUE(world.settle());
  EXPECT_NE(world.live_pods("coordinator").front()->uid, before);
}

TEST(Plan, WhatGoesOnFailingIsSaidAfterTenSeconds) {
  World world;
  ASSERT_TRUE(world.settle());
  world.seen.failing =
      Failing{"creating Pod hello-w0-x", "HTTP 500: failed calling webhook", world.now};
  EXPECT_FALSE(world.step().status);
  world.now += kFailingShown;
  world.step();
  EXPECT_EQ(reason_of(world.swarm, "Reconciling"), "True WriteFailed");
  EXPECT_THAT(message_of(world.swarm), HasSubstr("creating Pod hello-w0-x: HTTP 500: failed "
                                                 "calling webhook. "));
  world.now += 600'000;
  world.step();
  EXPECT_EQ(reason_of(world.swarm, "Stalled"), "True WriteFailed");
  world.seen.failing.reset();
  ASSERT_TRUE(world.settle());
  EXPECT_EQ(reason_of(world.swarm), "True Idle");
}

// A change of these values restarts every pod of every Swarm that the release before has made. That
// is decided by raising kPodLayout, never by accident.
TEST(Plan, RevisionsOfTheReleaseBeforeStand) {
  const std::pair<const char*, std::pair<const char*, const char*>> rows[] = {
      {R"({})", {"ed34f1b3d8", "bf5e074ca8"}},
      {R"({"workers":{"replicas":308},"topology":{"teamSize":44},"suspend":true})",
       {"ed34f1b3d8", "bf5e074ca8"}},
      {R"({"mailbox":{"sizeLimit":"128Mi","maxInboxMessages":50},"tasks":{"maxAttempts":5},
           "shutdown":{"drainTimeoutSeconds":60},
           "rollout":{"trafficPercentage":10,"v1":{"type":"InPlace","inPlace":{"command":["/opt/v1"]}}}})",
       {"7fd42987fa", "01a2311492"}},
  };
  for (const auto& [spec, revisions] : rows) {
    World world;
    world.set_spec(spec);
    world.step();
    world.step();
    ASSERT_FALSE(world.live_pods("worker").empty()) << spec;
    EXPECT_EQ(world.live_pods("worker").front()->revision, revisions.first) << spec;
    EXPECT_EQ(world.live_pods("coordinator").front()->revision, revisions.second) << spec;
  }
}

TEST(Plan, WhatWasDroppedIsCounted) {
  World world;
  ASSERT_TRUE(world.settle());
  EXPECT_FALSE(dropped_on_delete(world.swarm, world.seen));
  api::TeamReport report;
  report.time = world.now;
  report.tasks.queued = 114;
  report.tasks.running = 2;
  world.report(0, report);
  const auto event = dropped_on_delete(world.swarm, world.seen);
  ASSERT_TRUE(event);
  EXPECT_EQ(event->message,
            "Deleted with 114 queued tasks and 2 running; they are dropped with it");
}

TEST(Plan, WhatWasDroppedIsOnlyAboutRightWithoutEveryTeamsReport) {
  World world;
  world.set_spec(R"({"workers":{"replicas":4},"topology":{"type":"Hybrid","teamSize":2}})");
  ASSERT_TRUE(world.settle());
  ASSERT_EQ(world.seen.leases.size(), 2U);
  EXPECT_FALSE(dropped_on_delete(world.swarm, world.seen)) << "nothing was ever queued";
  api::TeamReport report;
  report.time = world.now;
  report.tasks.queued = 4;
  report.tasks.running = 3;
  world.report(0, report);
  world.swarm.status.tasks.queued = 9;  // of both teams, up to 30 s ago
  world.swarm.status.tasks.running = 2;
  const auto event = dropped_on_delete(world.swarm, world.seen);
  ASSERT_TRUE(event);
  EXPECT_EQ(event->message,
            "Deleted with about 9 queued tasks and 3 running; they are dropped with it. About: the "
            "operator knows the last report of 1 of 2 teams, and a status up to 30 s old");
  world.report(1, {});
  EXPECT_EQ(dropped_on_delete(world.swarm, world.seen)->message,
            "Deleted with 4 queued tasks and 3 running; they are dropped with it");
}

TEST(Plan, CreationsPerMinuteAreCapped) {
  World world;
  ASSERT_TRUE(world.settle());
  const int before = world.pods_made;
  // Somebody deletes the pod as soon as it is there, for ten minutes.
  for (int i = 0; i < 1200; ++i) {
    for (PodView& pod : world.seen.pods) {
      if (pod.role == "worker" && World::live(pod)) pod.deletion_time = world.now;
    }
    world.step();
    world.finish_terminating();
    world.now += 500;
  }
  EXPECT_LE(world.pods_made - before, 11 * (kCreationsPerMinuteBase + 4));
}

TEST(PodManifest, WorkerHasTheDocumentedShape) {
  World world;
  world.set_spec(R"x({"workers":{"replicas":20,"taskGraceSeconds":100,"template":{
     "metadata":{"labels":{"team":"blue","app.kubernetes.io/instance":"argo","app.kubernetes.io/managed-by":"Helm"},
                 "annotations":{"argocd.argoproj.io/tracking-id":"x","note":"y"}},
     "spec":{"fromTheFuture":{"a":[1]},"priorityClassName":"low","volumes":[{"name":"mine","emptyDir":{}}],
             "initContainers":[{"name":"first","image":"i"}],
             "containers":[{"name":"agent","image":"a","env":[{"name":"X","value":"$(CFN_AGENT_ID)"}]},
                           {"name":"helper","image":"b"}]}}}})x");
  world.step();
  const Plan plan = world.step();
  json pod;
  for (const json& one : manifests(plan)) {
    if (one["metadata"]["labels"]["cfn.dev/slot"] == "worker-17") pod = one;
  }
  ASSERT_TRUE(pod.is_object());
  EXPECT_THAT(pod["metadata"]["name"].get<std::string>(),
              testing::MatchesRegex("hello-w17-[0-9a-f]{8}"));
  const json labels = {{"team", "blue"},
                       {"app.kubernetes.io/managed-by", "swarm-operator"},
                       {"cfn.dev/swarm", "hello"},
                       {"cfn.dev/role", "worker"},
                       {"cfn.dev/slot", "worker-17"},
                       {"cfn.dev/team", "0"},
                       {"cfn.dev/revision", pod["metadata"]["labels"]["cfn.dev/revision"]}};
  EXPECT_EQ(pod["metadata"]["labels"], labels);
  EXPECT_EQ(pod["metadata"]["annotations"],
            (json{{"note", "y"}, {"kubectl.kubernetes.io/default-container", "agent"}}));
  const json& spec = pod["spec"];
  EXPECT_EQ(spec["fromTheFuture"], json::parse(R"({"a":[1]})"));
  EXPECT_EQ(spec["priorityClassName"], "low");
  EXPECT_EQ(spec["hostname"], "worker-17");
  EXPECT_EQ(spec["subdomain"], "hello-link");
  EXPECT_EQ(spec["terminationGracePeriodSeconds"], 140);
  EXPECT_EQ(spec["automountServiceAccountToken"], false);
  EXPECT_EQ(spec["securityContext"]["fsGroup"], 64532);
  EXPECT_EQ(spec["topologySpreadConstraints"].size(), 1U);
  EXPECT_EQ(spec["topologySpreadConstraints"][0]["whenUnsatisfiable"], "ScheduleAnyway");

  ASSERT_EQ(spec["initContainers"].size(), 2U);
  const json& sidecar = spec["initContainers"][0];
  EXPECT_EQ(sidecar["name"], "cfn-sidecar");
  EXPECT_EQ(sidecar["restartPolicy"], "Always");
  EXPECT_EQ(sidecar["command"], json::array({"/usr/local/bin/swarm-sidecar"}));
  EXPECT_EQ(sidecar["startupProbe"]["exec"]["command"],
            json::array({"/usr/local/bin/swarm-sidecar", "probe", "startup"}));
  EXPECT_EQ(sidecar["lifecycle"]["preStop"]["exec"]["command"],
            json::array({"/usr/local/bin/swarm-sidecar", "leaving"}));
  EXPECT_EQ(sidecar["readinessProbe"]["httpGet"]["path"], "/readyz");
  EXPECT_EQ(sidecar["livenessProbe"]["httpGet"]["path"], "/healthz");
  EXPECT_EQ(sidecar["resources"]["requests"]["memory"], "96Mi");
  EXPECT_EQ(sidecar["securityContext"]["capabilities"]["drop"], json::array({"ALL"}));
  EXPECT_EQ(sidecar["securityContext"]["runAsUser"], 64532);
  EXPECT_EQ(sidecar["ports"].size(), 2U);
  std::set<std::string> names;
  for (const json& variable : sidecar["env"]) names.insert(variable["name"]);
  for (const char* name : {"CFN_ROLE",
                           "CFN_SWARM",
                           "CFN_SWARM_UID",
                           "CFN_NAMESPACE",
                           "CFN_AGENT_ID",
                           "CFN_TEAM",
                           "CFN_COORDINATORS",
                           "CFN_POD_NAME",
                           "CFN_POD_UID",
                           "CFN_POD_IP",
                           "CFN_NODE_NAME",
                           "CFN_LINK_SERVICE",
                           "CFN_MOUNT_PATH",
                           "CFN_MAX_INBOX_MESSAGES",
                           "CFN_MAX_MESSAGE_BYTES",
                           "CFN_BACKPRESSURE",
                           "CFN_BACKPRESSURE_TIMEOUT_SECONDS",
                           "CFN_HEALTH_PERIOD_SECONDS",
                           "CFN_HEALTH_FAILURE_THRESHOLD",
                           "CFN_DRAIN_TIMEOUT_SECONDS"}) {
    EXPECT_TRUE(names.contains(name)) << name;
  }
  ASSERT_EQ(sidecar["volumeMounts"].size(), 4U);

  for (const json* container :
       {&spec["initContainers"][1], &spec["containers"][0], &spec["containers"][1]}) {
    ASSERT_EQ((*container)["volumeMounts"].size(), 3U);
    EXPECT_EQ((*container)["volumeMounts"][0],
              (json{{"name", "cfn-shm"}, {"mountPath", "/dev/shm/cfn"}}));
    EXPECT_EQ((*container)["volumeMounts"][2]["mountPath"], "/usr/local/bin/agentctl");
    EXPECT_EQ((*container)["volumeMounts"][2]["subPath"], "agentctl");
    EXPECT_EQ((*container)["env"][0], (json{{"name", "CFN_AGENT_ID"}, {"value", "worker-17"}}));
  }
  EXPECT_EQ(spec["containers"][0]["env"].back(),
            (json{{"name", "X"}, {"value", "$(CFN_AGENT_ID)"}}));
  const json volumes = json::parse(R"([{"name":"mine","emptyDir":{}},
     {"name":"cfn-log","emptyDir":{"medium":"Memory","sizeLimit":"64Mi"}},
     {"name":"cfn-shm","emptyDir":{"medium":"Memory","sizeLimit":"16Mi"}},
     {"name":"cfn-bin","emptyDir":{"sizeLimit":"32Mi"}},
     {"name":"cfn-link","secret":{"secretName":"hello-link-0a1b2c3d","defaultMode":288,"items":[{"key":"link","path":"link"}]}}])");
  EXPECT_EQ(spec["volumes"], volumes);
}

TEST(PodManifest, CoordinatorWithoutTemplateIsIdleAndMayTalkToTheApi) {
  World world;
  world.step();
  const Plan plan = world.step();
  json pod;
  for (const json& one : manifests(plan)) {
    if (one["metadata"]["labels"]["cfn.dev/role"] == "coordinator") pod = one;
  }
  ASSERT_TRUE(pod.is_object());
  const json& spec = pod["spec"];
  EXPECT_EQ(spec["serviceAccountName"], "hello-coordinator");
  EXPECT_EQ(spec["automountServiceAccountToken"], false);
  EXPECT_EQ(spec["terminationGracePeriodSeconds"], 40);
  ASSERT_EQ(spec["containers"].size(), 1U);
  EXPECT_EQ(spec["containers"][0]["command"],
            json::array({"/usr/local/bin/swarm-sidecar", "idle"}));
  EXPECT_FALSE(spec["containers"][0].contains("volumeMounts"));
  ASSERT_EQ(spec["volumes"].size(), 6U);
  EXPECT_EQ(spec["volumes"][3]["secret"]["items"].size(), 2U);
  const json projected = json::parse(R"({"defaultMode":288,"sources":[
    {"serviceAccountToken":{"path":"token","expirationSeconds":3600}},
    {"configMap":{"name":"kube-root-ca.crt","items":[{"key":"ca.crt","path":"ca.crt"}]}},
    {"downwardAPI":{"items":[{"path":"namespace","fieldRef":{"fieldPath":"metadata.namespace"}}]}}]})");
  EXPECT_EQ(spec["volumes"][5]["projected"], projected);
  ASSERT_EQ(spec["initContainers"][0]["volumeMounts"].size(), 6U);
}

json sidecar_env(const json& pod) {
  json values;
  for (const json& variable : pod["spec"]["initContainers"][0]["env"]) {
    if (variable.contains("value")) values[variable["name"]] = variable["value"];
  }
  return values;
}

json volume_named(const json& pod, const std::string& name) {
  for (const json& volume : pod["spec"]["volumes"]) {
    if (volume["name"] == name) return volume;
  }
  return nullptr;
}

TEST(PodManifest, SeveralAgentsAreToldHowManyTheyAre) {
  std::set<std::string> revisions;
  for (const char* agents : {"1", "7"}) {
    World world;
    world.set_spec(R"({"workers":{"replicas":1,"agentsPerPod":)" + std::string(agents) + "}}");
    world.step();
    for (const json& pod : manifests(world.step())) {
      const json labels = pod["metadata"]["labels"];
      const bool worker = labels["cfn.dev/role"] == "worker";
      if (worker) revisions.insert(labels["cfn.dev/revision"]);
      std::vector<std::string> told;
      for (const char* list : {"initContainers", "containers"}) {
        for (const json& container : pod["spec"][list]) {
          for (const json& variable : container.value("env", json::array())) {
            if (variable["name"] == "CFN_AGENTS_PER_POD") told.push_back(variable["value"]);
          }
        }
      }
      const bool several = worker && std::string(agents) == "7";
      EXPECT_EQ(told, several ? std::vector<std::string>(2, "7") : std::vector<std::string>())
          << "sidecar and agent, and pods of one agent stay as they were";
    }
  }
  EXPECT_EQ(revisions.size(), 2U) << "a change is a rolling update";
}

TEST(Topology, ATeamHasAtLeastOnePod) {
  api::SwarmSpec spec;
  spec.topology.team_size = 100;
  spec.workers.replicas = 2;
  spec.workers.agents_per_pod = 700;
  EXPECT_EQ(resolve_topology(spec, 0).coordinators, 2);
  spec.workers.replicas = 20;
  EXPECT_EQ(resolve_topology(spec, 0).coordinators, 20);
  spec.workers.agents_per_pod = 70;
  EXPECT_EQ(resolve_topology(spec, 0).coordinators, 14);
}

TEST(PodManifest, DurabilityNodeIsToldToEverySidecar) {
  for (const bool node : {false, true}) {
    World world;
    if (node) world.set_spec(R"({"mailbox":{"durability":"Node"}})");
    world.step();
    const std::vector<json> pods = manifests(world.step());
    ASSERT_EQ(pods.size(), 2U);
    for (const json& pod : pods) {
      EXPECT_EQ(sidecar_env(pod).contains("CFN_DURABILITY"), node);
      EXPECT_EQ(sidecar_env(pod).value("CFN_DURABILITY", ""), node ? "Node" : "");
    }
  }
}

TEST(PodManifest, SpillIsADiskBesideTheTmpfs) {
  World world;
  world.set_spec(R"({"mailbox":{"spill":{"sizeLimit":"100M"}}})");
  world.step();
  const std::vector<json> pods = manifests(world.step());
  ASSERT_EQ(pods.size(), 2U);  // coordinators, too: their queue is in the same log
  for (const json& pod : pods) {
    const json& sidecar = pod["spec"]["initContainers"][0];
    EXPECT_EQ(sidecar_env(pod)["CFN_SPILL_PATH"], "/var/lib/cfn/spill");
    EXPECT_EQ(sidecar_env(pod)["CFN_SPILL_BYTES"], "100000000");
    EXPECT_FALSE(sidecar_env(pod).contains("CFN_JOURNAL_BYTES"));
    EXPECT_EQ(volume_named(pod, "cfn-spill"),
              (json{{"name", "cfn-spill"}, {"emptyDir", {{"sizeLimit", "116777216"}}}}));
    EXPECT_EQ(sidecar["volumeMounts"].back(),
              (json{{"name", "cfn-spill"}, {"mountPath", "/var/lib/cfn/spill"}}));
    EXPECT_EQ(sidecar["resources"]["requests"].value("ephemeral-storage", ""), "116777216");
    EXPECT_FALSE(sidecar["resources"]["limits"].contains("ephemeral-storage"));
    EXPECT_EQ(sidecar["resources"]["requests"]["memory"], "96Mi");  // the tmpfs stays
    EXPECT_EQ(volume_named(pod, "cfn-log")["emptyDir"]["medium"], "Memory");
  }
}

TEST(PodManifest, AJournalIsAClaimOfTheSlotInsteadOfTheTmpfs) {
  World world;
  world.set_spec(R"({"workers":{"replicas":18},"mailbox":{"sizeLimit":"32Mi",
                     "persistence":{"type":"Journal","storageClassName":"fast"}}})");
  EXPECT_THAT(to_text(world.step()), HasSubstr("MailboxVolume: a volume of 48Mi is claimed"));
  const Plan plan = world.step();
  const std::vector<json> claims = manifests(plan, "PersistentVolumeClaim");
  ASSERT_EQ(claims.size(), 19U);
  std::set<std::string> names;
  for (const json& claim : claims) {
    names.insert(claim["metadata"]["name"]);
    EXPECT_EQ(claim["spec"], json::parse(R"({"accessModes":["ReadWriteOnce"],
      "resources":{"requests":{"storage":"48Mi"}},"storageClassName":"fast"})"));
  }
  EXPECT_TRUE(names.contains("hello-c0-journal"));
  const json& last = claims.back();
  EXPECT_EQ(last["metadata"]["name"], "hello-w17-journal");
  EXPECT_EQ(last["metadata"]["labels"], (json{{"app.kubernetes.io/managed-by", "swarm-operator"},
                                              {"cfn.dev/swarm", "hello"},
                                              {"cfn.dev/role", "worker"},
                                              {"cfn.dev/slot", "worker-17"}}));
  EXPECT_EQ(last["metadata"]["ownerReferences"][0]["uid"], world.swarm.uid);
  for (const json& pod : manifests(plan)) {
    const std::string pod_name = pod["metadata"]["name"];
    EXPECT_EQ(volume_named(pod, "cfn-log"),
              (json{{"name", "cfn-log"},
                    {"persistentVolumeClaim",
                     {{"claimName", pod_name.substr(0, pod_name.size() - 8) + "journal"}}}}));
    EXPECT_EQ(sidecar_env(pod)["CFN_JOURNAL_BYTES"], "33554432");
    const json& resources = pod["spec"]["initContainers"][0]["resources"];
    EXPECT_EQ(resources["requests"]["memory"], "32Mi");
    EXPECT_EQ(resources["limits"]["memory"],
              pod["metadata"]["labels"]["cfn.dev/role"] == "worker" ? "128Mi" : "384Mi");
  }
  EXPECT_TRUE(world.violations.empty()) << world.violations.front();
  EXPECT_EQ(count(plan, "create Pod"), 19);

  // Without a class the cluster's default is meant; an empty one is another word for none.
  world = {};
  world.set_spec(R"({"mailbox":{"persistence":{"type":"Journal"}}})");
  world.step();
  EXPECT_FALSE(
      manifests(world.step(), "PersistentVolumeClaim").at(0)["spec"].contains("storageClassName"));
}

PodView& slot_pod(World& world, const std::string& slot) {
  return *std::find_if(world.seen.pods.begin(), world.seen.pods.end(),
                       [&](const PodView& pod) { return pod.slot == slot && World::live(pod); });
}

constexpr const char* kTwoJournals =
    R"({"workers":{"replicas":2},"mailbox":{"persistence":{"type":"Journal"}}})";

TEST(Journal, TheNextPodOfASlotWaitsForTheEndOfTheOneThatHasIt) {
  World world;
  world.set_spec(kTwoJournals);
  ASSERT_TRUE(world.settle());
  PodView& ending = slot_pod(world, "worker-1");
  ending.deletion_time = world.now + 140'000;
  ending.deletion_grace = 140'000;
  ending.ready = false;
  const std::string name = ending.name;
  Plan plan = world.step();
  EXPECT_EQ(count(plan, "create Pod"), 0) << to_text(plan);
  EXPECT_EQ(reason_of(world.swarm, "Reconciling"), "True Degraded");
  world.now += 140'000 + kOverdue;
  plan = world.step();
  EXPECT_EQ(count(plan, "create Pod"), 0) << "nobody knows that the node is dead";
  EXPECT_EQ(reason_of(world.swarm, "Reconciling"), "True JournalHeld");
  EXPECT_THAT(message_of(world.swarm), HasSubstr("worker-1 waits for the end of pod " + name +
                                                 " on node n1, which has its journal"));
  EXPECT_THAT(message_of(world.swarm), HasSubstr("Next: bring the node back; if it is off for "
                                                 "good, kubectl taint node n1 node.kubernetes"));
  world.finish_terminating();
  EXPECT_EQ(count(world.step(), "create Pod"), 1);
  ASSERT_TRUE(world.settle());
  EXPECT_TRUE(world.violations.empty()) << world.violations.front();
}

TEST(Journal, APodWhoseSlotLabelWasChangedGivesTheJournalBack) {
  World world;
  world.set_spec(kTwoJournals);
  ASSERT_TRUE(world.settle());
  slot_pod(world, "worker-1").slot = "worker-7";
  const Plan plan = world.step();
  EXPECT_EQ(count(plan, "delete Surplus"), 1) << to_text(plan);
  EXPECT_EQ(count(plan, "create Pod"), 0) << to_text(plan);
  ASSERT_TRUE(world.settle());
  EXPECT_EQ(slots_of(world), (std::set<std::string>{"worker-0", "worker-1"}));
  EXPECT_TRUE(world.violations.empty()) << world.violations.front();
}

// Handing memory over needs both pods at once: only a journal that both want is waited for.
TEST(Journal, TurningItOnOrOffReplacesPodsAtOnce) {
  for (const auto& [before, after] : {std::pair{R"({"workers":{"replicas":2}})", kTwoJournals},
                                      std::pair{kTwoJournals, R"({"workers":{"replicas":2}})"}}) {
    World world;
    world.set_spec(before);
    ASSERT_TRUE(world.settle());
    world.set_spec(after);
    bool beside = false;
    for (int i = 0; i < 60; ++i) {
      world.step();
      for (const PodView* pod : world.live_pods("worker")) {
        for (const PodView& other : world.seen.pods) {
          beside = beside || (other.deletion_time && other.slot == pod->slot);
        }
      }
      world.make_ready();
      if (i % 5 == 4) world.finish_terminating();
      world.now += 1000;
    }
    EXPECT_TRUE(beside) << after;
    ASSERT_TRUE(world.settle());
    EXPECT_TRUE(world.violations.empty()) << world.violations.front();
  }
}

TEST(Journal, ClaimsOutliveTheirSlots) {
  World world;
  world.set_spec(kTwoJournals);
  ASSERT_TRUE(world.settle());
  const auto claims = [&] {
    std::set<std::string> uids;
    for (const ChildView& child : world.seen.children) {
      if (child.kind == kClaimKind) uids.insert(child.uid);
    }
    return uids;
  };
  const std::set<std::string> before = claims();
  ASSERT_EQ(before.size(), 3U);
  world.set_spec(R"({"workers":{"replicas":0},"mailbox":{"persistence":{"type":"Journal"}}})");
  ASSERT_TRUE(world.settle());
  EXPECT_TRUE(world.live_pods("worker").empty());
  EXPECT_EQ(claims(), before);
  world.set_spec(kTwoJournals);
  ASSERT_TRUE(world.settle());
  EXPECT_EQ(claims(), before);
  EXPECT_EQ(slot_pod(world, "worker-0").claim, "hello-w0-journal");
}

TEST(Journal, AClaimWithoutAVolumeIsSaidWithTheNextCommand) {
  World world;
  world.set_spec(R"({"mailbox":{"persistence":{"type":"Journal","storageClassName":"fsat"}}})");
  world.step();
  world.step();
  const auto claim = [&]() -> ChildView& {
    return *std::find_if(world.seen.children.begin(), world.seen.children.end(),
                         [](const ChildView& one) { return one.name == "hello-w0-journal"; });
  };
  claim().phase = "Pending";
  slot_pod(world, "worker-0").unschedulable_message =
      "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
  slot_pod(world, "coordinator-0").ready = true;
  slot_pod(world, "coordinator-0").phase = PodPhase::kRunning;
  world.now += 3000;
  world.step();
  EXPECT_EQ(reason_of(world.swarm, "Reconciling"), "True JournalPending");
  EXPECT_THAT(message_of(world.swarm),
              HasSubstr("worker-0 cannot have the volume of a journal since 00:00:00Z: claim "
                        "hello-w0-journal is Pending, storage class \"fsat\": 0/2 nodes"));
  EXPECT_THAT(
      message_of(world.swarm),
      HasSubstr("Next: kubectl describe pvc hello-w0-journal; if the storage class is wrong"));
  world.now += 600'000;
  world.step();
  EXPECT_EQ(reason_of(world.swarm, "Stalled"), "True JournalPending");

  // Somebody does what the message says: the claim goes, and comes anew.
  std::erase_if(world.seen.children,
                [](const ChildView& one) { return one.name == "hello-w0-journal"; });
  world.set_spec(R"({"mailbox":{"persistence":{"type":"Journal","storageClassName":"fast"}}})");
  const std::vector<json> made = manifests(world.step(), "PersistentVolumeClaim");
  ASSERT_EQ(made.size(), 1U);
  EXPECT_EQ(made[0]["spec"]["storageClassName"], "fast");

  // A volume where there is no room is not one that is missing.
  claim().phase = "Bound";
  world.now += 3000;
  slot_pod(world, "worker-0").unschedulable_message =
      "0/2 nodes are available: 2 node(s) had volume node affinity conflict.";
  world.step();
  EXPECT_THAT(message_of(world.swarm), HasSubstr("claim hello-w0-journal is Bound: 0/2 nodes"));
  EXPECT_THAT(message_of(world.swarm), testing::Not(HasSubstr("kubectl delete pvc")));
  for (const char* phase : {"Bound", "Pending"}) {
    claim().phase = phase;
    slot_pod(world, "worker-0").unschedulable_message =
        "0/2 nodes are available: 2 Insufficient memory.";
    world.now += 31'000;
    world.step();
    EXPECT_THAT(message_of(world.swarm), HasSubstr("worker-0 cannot be scheduled")) << phase;
    EXPECT_THAT(message_of(world.swarm), testing::Not(HasSubstr("of a pod's memory")));
  }
}

TEST(Journal, ClaimsOfOthersAndClaimsThatGoAreWaitedFor) {
  for (const bool foreign : {true, false}) {
    World world;
    world.set_spec(kTwoJournals);
    world.step();
    ChildView claim;
    claim.kind = kClaimKind;
    claim.name = "hello-w1-journal";
    claim.uid = "c";
    claim.owner_uid = foreign ? "another-uid" : world.swarm.uid;
    claim.deleting = !foreign;
    world.seen.children.push_back(claim);
    for (int i = 0; i < 5; ++i) {
      const Plan plan = world.step();
      EXPECT_TRUE(plan.requeue_after);
      world.make_ready();
      world.now += 1000;
    }
    EXPECT_EQ(slots_of(world), (std::set<std::string>{"worker-0"}));
    EXPECT_EQ(reason_of(world.swarm, "Reconciling"),
              foreign ? "True NameTaken" : "True JournalDeleted");
    EXPECT_THAT(message_of(world.swarm), HasSubstr("PersistentVolumeClaim hello-w1-journal"));
    std::erase_if(world.seen.children, [](const ChildView& one) { return one.uid == "c"; });
    ASSERT_TRUE(world.settle());
    EXPECT_EQ(slots_of(world).size(), 2U);
    EXPECT_TRUE(world.violations.empty()) << world.violations.front();
  }
}

TEST(Journal, RefusedClaimsAreSaidUntilNobodyWantsThem) {
  for (const auto& [words, reason] : {std::pair{"exceeded quota: disks", "True QuotaExceeded"},
                                      std::pair{"an admission webhook says no", "False Stalled"}}) {
    World world;
    world.set_spec(R"({"workers":{"replicas":1},"mailbox":{"persistence":{"type":"Journal"}}})");
    ASSERT_TRUE(world.settle());
    world.refuse_claims = words;
    world.set_spec(kTwoJournals);
    world.step();
    world.now += 3000;
    world.step();
    EXPECT_EQ(slots_of(world).size(), 1U);
    EXPECT_EQ(reason_of(world.swarm, "Reconciling"), reason);
    EXPECT_THAT(message_of(world.swarm), HasSubstr(words));
    world.set_spec(R"({"workers":{"replicas":1},"mailbox":{"persistence":{"type":"Journal"}}})");
    ASSERT_TRUE(world.settle()) << words;
    EXPECT_EQ(reason_of(world.swarm), "True Idle") << words;
  }
}

TEST(PodManifest, PlatformThatAssignsIdsGetsNone) {
  World world;
  world.settings.platform_assigns_ids = true;
  world.step();
  for (const json& pod : manifests(world.step())) {
    EXPECT_FALSE(pod["spec"]["initContainers"][0]["securityContext"].contains("runAsUser"));
    EXPECT_FALSE(pod["spec"].value("securityContext", json::object()).contains("fsGroup"));
  }
}

TEST(Children, SecretsHaveRandomKeysAndTheRoleNamesItsLeases) {
  World world;
  world.set_spec(R"({"topology":{"teamSize":1},"workers":{"replicas":3}})");
  const Plan plan = world.step();
  std::map<std::string, std::vector<std::string>> keys;
  for (const Action& action : plan.actions) {
    const auto* create = std::get_if<CreateObject>(&action);
    if (create != nullptr && create->kind == "Secret") keys[create->name] = create->random_keys;
  }
  EXPECT_EQ(keys["hello-link-0a1b2c3d"], (std::vector<std::string>{"link", "epoch"}));
  EXPECT_EQ(keys["hello-submit"], (std::vector<std::string>{"token"}));
  const json role = manifests(plan, "Role").at(0);
  EXPECT_EQ(role["rules"], json::parse(R"([
    {"apiGroups":["cfn.dev"],"resources":["swarms"],"resourceNames":["hello"],"verbs":["get","list","watch"]},
    {"apiGroups":["coordination.k8s.io"],"resources":["leases"],
     "resourceNames":["hello-team-0","hello-team-1","hello-team-2"],"verbs":["get","update","patch"]}])"));
  EXPECT_EQ(manifests(plan, "PodDisruptionBudget").size(), 2U);
  const json policy = manifests(plan, "NetworkPolicy").at(0);
  EXPECT_EQ(policy["spec"]["ingress"][0]["ports"],
            json::parse(R"([{"protocol":"TCP","port":7070}])"));
  EXPECT_EQ(policy["spec"]["ingress"][0]["from"],
            json::parse(R"([{"podSelector":{"matchLabels":{"cfn.dev/swarm":"hello"}}}])"));
}

TEST(Revision, OnlyRestartingFieldsChangeIt) {
  const auto revision = [](const std::string& extra) {
    World world;
    world.set_spec(extra);
    world.step();
    const auto pods = manifests(world.step());
    std::map<std::string, std::string> by_role;
    for (const json& pod : pods) {
      by_role[pod["metadata"]["labels"]["cfn.dev/role"]] =
          pod["metadata"]["labels"]["cfn.dev/revision"];
    }
    return by_role;
  };
  const auto base = revision("{}");
  for (const char* live :
       {R"({"workers":{"replicas":9}})", R"({"topology":{"teamSize":3}})", R"({"suspend":true})",
        R"({"tasks":{"maxAttempts":9}})", R"({"workers":{"maxUnavailable":"50%"}})",
        R"({"mailbox":{"persistence":{"type":"None"}}})",
        R"({"rollout":{"trafficPercentage":100}})", R"({"mailbox":{"sizeLimit":"65536Ki"}})",
        R"({"workers":{"template":{"metadata":{"annotations":{"argocd.argoproj.io/x":"1"}}}}})"}) {
    const auto changed = revision(live);
    EXPECT_EQ(changed.at("coordinator"), base.at("coordinator")) << live;
    if (std::string(live).find("annotations") == std::string::npos) {
      EXPECT_EQ(changed.at("worker"), base.at("worker")) << live;
    }
  }
  for (const char* restarting :
       {R"({"workers":{"taskGraceSeconds":1}})", R"({"mailbox":{"sizeLimit":"128Mi"}})",
        R"({"mailbox":{"mountPath":"/mail"}})", R"({"health":{"periodSeconds":1}})",
        R"({"shutdown":{"drainTimeoutSeconds":3}})", R"({"mailbox":{"spill":{"sizeLimit":"8Mi"}}})",
        R"({"mailbox":{"durability":"Node"}})", R"({"mailbox":{"persistence":{"type":"Journal"}}})",
        R"({"workers":{"template":{"spec":{"containers":[{"name":"agent","image":"other"}]}}}})"}) {
    EXPECT_NE(revision(restarting).at("worker"), base.at("worker")) << restarting;
  }
  EXPECT_NE(revision(R"({"mailbox":{"spill":{"sizeLimit":"8Mi"}}})"),
            revision(R"({"mailbox":{"spill":{"sizeLimit":"9Mi"}}})"));
  // A claim keeps its class, so there is nothing to restart for.
  EXPECT_EQ(
      revision(R"({"mailbox":{"persistence":{"type":"Journal"}}})"),
      revision(R"({"mailbox":{"persistence":{"type":"Journal","storageClassName":"fast"}}})"));
}

// ---- random worlds

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  int below(int n) { return static_cast<int>(engine_() % static_cast<unsigned>(n)); }
  bool chance(int percent) { return below(100) < percent; }

 private:
  std::mt19937 engine_;
};

std::string random_spec(Random& random) {
  json spec;
  spec["workers"]["replicas"] = random.below(13);
  spec["workers"]["maxUnavailable"] = random.chance(50)
                                          ? json(1 + random.below(4))
                                          : json(std::to_string(1 + random.below(100)) + "%");
  spec["topology"]["teamSize"] = 1 + random.below(6);
  spec["topology"]["type"] = random.chance(50) ? "Auto" : random.chance(50) ? "Hybrid" : "Flat";
  spec["workers"]["template"]["spec"]["priority"] = random.below(3);
  if (random.chance(20)) spec["health"]["periodSeconds"] = 1 + random.below(3);
  if (random.chance(10)) spec["suspend"] = true;
  if (random.chance(40)) spec["mailbox"]["persistence"]["type"] = "Journal";
  return spec.dump();
}

void disturb(World& world, Random& random) {
  for (PodView& pod : world.seen.pods) {
    if (pod.owner_uid != world.swarm.uid) continue;
    switch (random.below(24)) {
      case 0:
        if (World::live(pod)) {
          pod.phase = random.chance(80) ? PodPhase::kFailed : PodPhase::kSucceeded;
          pod.ready = false;
          pod.status_reason = "Evicted";
        }
        break;
      case 1:
        if (!pod.deletion_time) pod.deletion_time = world.now;
        pod.ready = false;
        break;
      case 2:
        pod.ready = false;
        break;
      case 3:
        if (pod.phase == PodPhase::kPending) pod.unschedulable_message = "0/3 nodes are available";
        break;
      case 4:
        pod.deletion_cost = random.below(5) - 2;
        break;
      case 5:
        if (random.chance(10)) pod.slot = "worker-" + std::to_string(random.below(4));
        break;
      case 6:
        if (random.chance(5)) pod.slot = "nonsense";
        break;
      case 7:
      case 8:
      case 9:
      case 10:
      case 11:
      case 12:
        if (World::live(pod)) {
          pod.phase = PodPhase::kRunning;
          pod.ready = true;
          pod.unschedulable_message.clear();
        }
        break;
      default:
        break;
    }
  }
  if (random.chance(40)) {
    std::erase_if(world.seen.pods,
                  [&](const PodView& pod) { return pod.deletion_time && random.chance(50); });
  }
  if (random.chance(3)) {  // a pod of an older Swarm of the same name, terminating or not
    PodView foreign;
    foreign.name = world.next_id("foreign-");
    foreign.uid = world.next_id("foreign-uid-");
    foreign.owner_uid = random.chance(50) ? "another-uid" : "";
    foreign.role = random.chance(50) ? "worker" : "coordinator";
    foreign.slot = foreign.role + "-" + std::to_string(random.below(4));
    foreign.phase = random.chance(50) ? PodPhase::kFailed : PodPhase::kRunning;
    if (random.chance(30)) foreign.deletion_time = world.now;
    world.seen.pods.push_back(foreign);
  }
  for (LeaseView& lease : world.seen.leases) {
    if (!random.chance(20)) continue;
    if (random.chance(10)) {
      lease.report = "{broken";
      continue;
    }
    api::TeamReport report;
    report.time = world.now;
    report.ready = random.chance(80);
    report.recovering = random.chance(5);
    report.tasks.queued = random.chance(50) ? 0 : random.below(50);
    report.tasks.running = random.chance(50) ? 0 : random.below(5);
    report.tasks.single_copy = random.chance(10) ? 1 : 0;
    report.effective = 100;
    for (const PodView& pod : world.seen.pods) {
      if (pod.role == "worker" && random.chance(70)) {
        if (pod.slot.starts_with("worker-"))
          report.workers[pod.slot] = worker_report(pod.name, random.chance(40), "t-0-1");
      }
    }
    lease.report = api::to_text(report);
  }
  if (random.chance(3)) world.seen.memory = {};  // the operator was restarted
  if (random.chance(3)) world.seen.dry_runs.clear();
  if (random.chance(5)) world.seen.settled = !world.seen.settled;
  if (random.chance(5)) world.refuse_pods = world.refuse_pods.empty() ? "exceeded quota: x" : "";
  if (random.chance(3) && !world.seen.children.empty()) {
    world.seen.children.erase(world.seen.children.begin() +
                              random.below(static_cast<int>(world.seen.children.size())));
  }
}

std::size_t foreign_pods(const World& world) {
  return static_cast<std::size_t>(std::count_if(
      world.seen.pods.begin(), world.seen.pods.end(),
      [&](const PodView& pod) { return pod.owner_uid != world.swarm.uid && !pod.deletion_time; }));
}

// A wrong world may have had duplicates before; a plan must not add any, nor more workers than
// asked for.
void check_step(World& world, unsigned seed) {
  const auto before_live = world.live_pods("worker").size();
  std::map<std::string, int> before_slots;
  for (const PodView* pod : world.live_pods("worker")) ++before_slots["w" + pod->slot];
  for (const PodView* pod : world.live_pods("coordinator")) ++before_slots["c" + pod->slot];
  const int before_ready = world.ready_count("worker");
  const std::size_t foreign_before = foreign_pods(world);

  const Plan plan = world.step();

  const auto wanted = static_cast<std::size_t>(world.swarm.spec.workers.replicas);
  ASSERT_LE(world.live_pods("worker").size(), std::max(wanted, before_live))
      << "seed " << seed << "\n"
      << to_text(plan);
  std::map<std::string, int> after_slots;
  for (const PodView* pod : world.live_pods("worker")) ++after_slots["w" + pod->slot];
  for (const PodView* pod : world.live_pods("coordinator")) ++after_slots["c" + pod->slot];
  for (const auto& [slot, n] : after_slots) {
    ASSERT_LE(n, std::max(1, before_slots[slot])) << "seed " << seed << " " << slot;
  }
  ASSERT_EQ(foreign_pods(world), foreign_before) << "seed " << seed;
  ASSERT_TRUE(world.violations.empty()) << "seed " << seed << " " << world.violations.front();

  // The update alone: ready workers taken away for being outdated never exceed what maxUnavailable
  // leaves.
  const api::IntOrPercent limit = world.swarm.spec.workers.max_unavailable;
  const int replicas = world.swarm.spec.workers.replicas;
  const int budget = std::max(1, limit.percent ? (replicas * limit.value + 99) / 100 : limit.value);
  int outdated = 0, surplus = 0;
  for (const Action& action : plan.actions) {
    const auto* pod = std::get_if<DeletePod>(&action);
    if (pod != nullptr && pod->reason == "Outdated") ++outdated;
    if (pod != nullptr && pod->reason == "Surplus") ++surplus;
  }
  // (A surplus ready worker may go instead of a team's last one that is not ready.)
  if (outdated > 0 && surplus == 0 && before_ready >= replicas - budget && before_live <= wanted) {
    ASSERT_GE(world.ready_count("worker"), std::min(before_ready, replicas - budget))
        << "seed " << seed << "\n"
        << to_text(plan);
  }
}

// 1,000 seeds in ten parts, which run side by side.
class RandomWorlds : public testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Seeds, RandomWorlds, testing::Range(0U, 1000U, 100U));

TEST_P(RandomWorlds, KeepTheInvariantsAndConverge) {
  for (unsigned seed = GetParam() + 1; seed <= GetParam() + 100; ++seed) {
    Random random(seed);
    World world;
    for (int step = 0; step < 18; ++step) {
      if (random.chance(15)) world.set_spec(random_spec(random));
      disturb(world, random);
      check_step(world, seed);
      if (HasFatalFailure()) return;
      world.now += random.below(20'000);
    }
    // Calm: everything comes to rest as asked for, and stays there without a write.
    world.refuse_pods.clear();
    world.seen.settled = true;
    world.now += 700'000;
    for (LeaseView& lease : world.seen.leases) lease.report.clear();
    for (PodView& pod : world.seen.pods) {
      if (pod.role == "coordinator" && World::live(pod)) pod.phase = PodPhase::kRunning;
    }
    for (LeaseView& lease : world.seen.leases) {
      api::TeamReport empty;
      empty.time = world.now;
      empty.ready = true;
      empty.effective = 100;
      lease.report = api::to_text(empty);
    }
    ASSERT_TRUE(world.settle(400)) << "seed " << seed << "\n" << to_text(world.step());
    ASSERT_EQ(world.live_pods("worker").size(),
              static_cast<std::size_t>(world.swarm.spec.workers.replicas))
        << "seed " << seed;
    ASSERT_EQ(world.live_pods("coordinator").size(),
              static_cast<std::size_t>(world.swarm.status.topology.coordinators))
        << "seed " << seed;
    ASSERT_EQ(condition(world.swarm.status, "Ready")->status, "True")
        << "seed " << seed << message_of(world.swarm);
    ASSERT_EQ(condition(world.swarm.status, "Reconciling")->status, "False") << "seed " << seed;
    for (int i = 0; i < 2; ++i) {
      world.now += 31'000;
      const Plan idle = world.step();
      ASSERT_TRUE(idle.actions.empty() && !idle.status) << "seed " << seed << "\n" << to_text(idle);
    }
  }
}

TEST(PlanProperty, RollingUpdateKeepsEnoughReadyWorkers) {
  for (unsigned seed = 1; seed <= 60; ++seed) {
    Random random(seed);
    World world;
    const int replicas = 1 + random.below(30);
    const int percent = 1 + random.below(100);
    const auto spec = [&](int priority) {
      return R"({"workers":{"replicas":)" + std::to_string(replicas) + R"(,"maxUnavailable":")" +
             std::to_string(percent) + R"(%","template":{"spec":{"priority":)" +
             std::to_string(priority) + "}}}}";
    };
    world.set_spec(spec(1));
    ASSERT_TRUE(world.settle());
    const int floor = replicas - std::max(1, (replicas * percent + 99) / 100);
    world.set_spec(spec(2));
    bool done = false;
    for (int step = 0; step < 500 && !done; ++step) {
      const Plan plan = world.step();
      ASSERT_GE(world.ready_count("worker"), floor) << "seed " << seed << "\n" << to_text(plan);
      ASSERT_LE(static_cast<int>(world.live_pods("worker").size()), replicas);
      for (PodView& pod : world.seen.pods) {
        if (World::live(pod) && random.chance(40)) {
          pod.ready = true;
          pod.phase = PodPhase::kRunning;
        }
      }
      if (random.chance(50)) world.finish_terminating();
      world.now += 1000;
      done = condition(world.swarm.status, "Ready")->status == "True" && plan.actions.empty() &&
             world.swarm.status.observed_generation == world.swarm.generation;
    }
    ASSERT_TRUE(done) << "seed " << seed;
  }
}

TEST(PlanProperty, BrokenNewRevisionStopsTheUpdate) {
  World world;
  world.set_spec(
      R"({"workers":{"replicas":10,"maxUnavailable":"20%","template":{"spec":{"priority":1}}}})");
  ASSERT_TRUE(world.settle());
  std::set<std::string> good;
  for (const PodView* pod : world.live_pods("worker")) good.insert(pod->uid);
  world.set_spec(
      R"({"workers":{"replicas":10,"maxUnavailable":"20%","template":{"spec":{"priority":2}}}})");
  for (int step = 0; step < 300; ++step) {
    world.step();
    world.finish_terminating();
    for (PodView& pod : world.seen.pods) {
      if (pod.role == "coordinator") pod.ready = true;
    }
    world.now += 1000;
  }
  EXPECT_EQ(world.ready_count("worker"), 8);
  EXPECT_EQ(reason_of(world.swarm), "False Updating");
}

// The tasks' copies in a toy world, a second at a time: sidecars that start, join and end,
// coordinators that take their team's Lease, collect, make second copies and report late.
class Copies {
 public:
  enum class Kind { kHealthy, kCrashing, kNotStarting };

  Copies(World& world, Random& random) : world_(world), random_(random) {}

  Kind kind = Kind::kHealthy;  // of the agents made from now on

  void tick() {
    end_pods();
    start_pods();
    for (std::size_t team = 0; team < world_.seen.leases.size(); ++team) {
      lead(static_cast<int>(team));
    }
    world_.now += 1000;
  }

  // Accepted tasks that no pod has any more.
  [[nodiscard]] int lost() const {
    return static_cast<int>(std::count_if(tasks_.begin(), tasks_.end(), [&](const Task& task) {
      return std::none_of(task.holders.begin(), task.holders.end(),
                          [&](const std::string& uid) { return find(uid) != nullptr; });
    }));
  }
  [[nodiscard]] std::size_t accepted() const { return tasks_.size(); }

 private:
  struct Task {
    int team = 0;
    std::set<std::string> holders;  // UIDs
  };
  struct Leader {
    std::string uid;
    int collecting = 0;  // seconds left
    int awaiting = 0;
    int report_age = 0;
  };

  [[nodiscard]] const PodView* find(const std::string& uid) const {
    for (const PodView& pod : world_.seen.pods) {
      if (pod.uid == uid) return &pod;
    }
    return nullptr;
  }
  [[nodiscard]] int team_of(const PodView& pod) const {
    const int index = std::stoi(pod.slot.substr(pod.slot.find('-') + 1));
    return index % static_cast<int>(world_.seen.leases.size());
  }
  [[nodiscard]] bool is_worker(const PodView& pod, int team) const {
    return pod.role == "worker" && team_of(pod) == team && started_.contains(pod.uid);
  }
  // Those that it can reach; `staying`: and that do not end.
  [[nodiscard]] std::vector<const PodView*> workers(int team, bool staying) const {
    std::vector<const PodView*> list;
    for (const PodView& pod : world_.seen.pods) {
      if (is_worker(pod, team) && !(staying && pod.deletion_time)) list.push_back(&pod);
    }
    return list;
  }
  [[nodiscard]] bool held_by(const Task& task, const std::vector<const PodView*>& pods) const {
    return std::any_of(pods.begin(), pods.end(),
                       [&](const PodView* pod) { return task.holders.contains(pod->uid); });
  }
  // Each task of the team has a copy in a worker's pod.
  [[nodiscard]] bool copied(int team, bool staying) const {
    const auto pods = workers(team, staying);
    return std::all_of(tasks_.begin(), tasks_.end(),
                       [&](const Task& task) { return task.team != team || held_by(task, pods); });
  }

  void end_pods() {
    std::set<std::string> gone;
    for (const PodView& pod : world_.seen.pods) {
      if (ends(pod)) gone.insert(pod.uid);
    }
    std::erase_if(world_.seen.pods, [&](const PodView& pod) { return gone.contains(pod.uid); });
  }

  bool ends(const PodView& pod) {
    if (pod.role == "worker") return pod.deletion_time && random_.chance(40);
    const int team = team_of(pod);
    if (!pod.deletion_time) return random_.chance(1) && copied(team, true);  // its node is lost
    if (leaders_[team].uid != pod.uid || world_.now - *pod.deletion_time >= 10'000) return true;
    return copied(team, false) && random_.chance(50);
  }

  void start_pods() {
    for (PodView& pod : world_.seen.pods) {
      if (!World::live(pod)) continue;
      const Kind what = kinds_.emplace(pod.uid, kind).first->second;
      if (pod.role == "worker" && what == Kind::kNotStarting) continue;
      if (pod.phase == PodPhase::kPending && random_.chance(50)) {
        pod.phase = PodPhase::kRunning;
        started_.insert(pod.uid);
        pod.containers = {{"cfn-sidecar", true, true, true, 0, "", "", {}, ""}};
      }
      if (pod.phase != PodPhase::kRunning || pod.ready || !random_.chance(50)) continue;
      const Leader& leader = leaders_[team_of(pod)];
      if (pod.role == "worker" ? what != Kind::kHealthy || leader.uid.empty()
                               : leader.uid != pod.uid || leader.collecting > 0) {
        continue;
      }
      pod.ready = true;
      pod.ready_since = world_.now;
    }
  }

  void lead(int team) {
    Leader& leader = leaders_[team];
    LeaseView& lease = world_.seen.leases[static_cast<std::size_t>(team)];
    const PodView* pod = find(leader.uid);
    if (pod == nullptr) {
      leader = {};
      for (const PodView* one : world_.live_pods("coordinator")) {
        if (team_of(*one) == team && started_.contains(one->uid)) pod = one;
      }
      if (pod == nullptr) return;
      leader = {pod->uid, 1 + random_.below(5), random_.chance(30) ? 1 + random_.below(10) : 0, 5};
      lease.holder = pod->name;
      lease.holder_uid = pod->uid;
    }
    const auto reachable = workers(team, false);
    if (leader.collecting > 0 && --leader.collecting == 0) {
      for (Task& task : tasks_) {
        if (task.team == team && held_by(task, reachable)) task.holders.insert(leader.uid);
      }
    } else if (leader.collecting == 0) {
      if (leader.awaiting > 0) --leader.awaiting;
      copy(team, *pod);
    }
    if (++leader.report_age >= 5 || random_.chance(40)) report(team, *pod, reachable);
  }

  void copy(int team, const PodView& pod) {
    const auto staying = workers(team, true);
    if (staying.empty()) return;
    const auto any = [&] {
      return staying[static_cast<std::size_t>(random_.below(static_cast<int>(staying.size())))];
    };
    for (Task& task : tasks_) {
      if (task.team != team || !task.holders.contains(pod.uid) || held_by(task, staying)) continue;
      if (random_.chance(60)) task.holders = {pod.uid, any()->uid};  // nobody else needs one
    }
    if (pod.ready && !pod.deletion_time && tasks_.size() < 40 && random_.chance(50)) {
      tasks_.push_back({team, {pod.uid, any()->uid}});
    }
  }

  void report(int team, const PodView& pod, const std::vector<const PodView*>& reachable) {
    Leader& leader = leaders_[team];
    leader.report_age = 0;
    api::TeamReport report;
    report.time = world_.now;
    report.recovering = leader.collecting > 0 || leader.awaiting > 0;
    report.ready = leader.collecting == 0 && !pod.deletion_time;
    report.effective = 100;
    for (const Task& task : tasks_) {
      if (task.team != team || !task.holders.contains(pod.uid)) continue;
      ++report.tasks.queued;
      if (!held_by(task, reachable)) ++report.tasks.single_copy;
    }
    for (const PodView* worker : reachable) {
      report.workers[worker->slot] = worker_report(worker->name, false, "");
    }
    world_.seen.leases[static_cast<std::size_t>(team)].report = api::to_text(report);
  }

  World& world_;
  Random& random_;
  std::vector<Task> tasks_;
  std::map<int, Leader> leaders_;
  std::map<std::string, Kind> kinds_;  // by UID
  std::set<std::string> started_;      // UIDs
};

class RandomUpdates : public testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Seeds, RandomUpdates, testing::Range(0U, 100U, 25U));

TEST_P(RandomUpdates, LeaveEveryAcceptedTaskAHolder) {
  std::size_t accepted = 0;
  for (unsigned seed = GetParam() + 1; seed <= GetParam() + 25; ++seed) {
    Random random(seed);
    World world;
    Copies copies(world, random);
    const int teams = 1 + random.below(2);
    const int at_first = teams == 1 ? 1 + random.below(5) : 4;
    const std::string limit = std::to_string(1 + random.below(100)) + "%";
    int revision = 0;
    int mailbox = 32;
    const auto change = [&](int replicas) {
      ++revision;
      json spec;
      spec["topology"]["teamSize"] = teams == 1 ? 100 : 2;
      spec["workers"]["replicas"] = replicas;
      spec["workers"]["maxUnavailable"] = limit;
      spec["workers"]["template"]["spec"]["priority"] = revision;
      // Mostly both roles.
      if (random.chance(70)) mailbox = 32 + revision;
      spec["mailbox"]["sizeLimit"] = std::to_string(mailbox) + "Mi";
      world.set_spec(spec.dump());
    };
    const auto second = [&] {
      const Plan plan = world.step();
      ASSERT_EQ(copies.lost(), 0) << "seed " << seed << ", by a pod that had ended";
      copies.tick();
      ASSERT_EQ(copies.lost(), 0) << "seed " << seed << "\n" << to_text(plan);
    };
    change(at_first);
    second();  // the number of teams is fixed
    for (int i = 0; i < 150; ++i) {
      if (random.chance(6)) {
        const int what = random.below(4);
        copies.kind = what == 0   ? Copies::Kind::kNotStarting
                      : what == 1 ? Copies::Kind::kHealthy
                                  : Copies::Kind::kCrashing;
        change(teams + random.below(5));
      }
      second();
      if (HasFatalFailure()) return;
    }
    // The right image at last: it ends, and well.
    copies.kind = Copies::Kind::kHealthy;
    change(teams + random.below(5));
    bool done = false;
    for (int i = 0; i < 900 && !done; ++i) {
      second();
      if (HasFatalFailure()) return;
      done = reason_of(world.swarm, "Reconciling") == "False Settled" &&
             world.swarm.status.observed_generation == world.swarm.generation;
    }
    ASSERT_TRUE(done) << "seed " << seed << "\n" << message_of(world.swarm);
    accepted += copies.accepted();
  }
  EXPECT_GT(accepted, 250U);  // it was about something
}

}  // namespace
}  // namespace swarm::plan
