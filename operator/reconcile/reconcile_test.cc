// The whole operator, real threads and all, against a fake API server; and the executor by itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "reconcile/executor.h"
#include "reconcile/fake_cluster.h"
#include "reconcile/operator.h"
#include "reconcile/reconciler.h"
#include "reconcile/views.h"
#include "telemetry/log.h"

namespace swarm::reconcile {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;
using Verdict = FakeCluster::Verdict;
using Fault = FakeCluster::Fault;

json swarm_object(int replicas) {
  return json::parse(R"({"apiVersion":"cfn.dev/v1alpha1","kind":"Swarm",
    "metadata":{"name":"hello","namespace":"n","uid":"0a1b2c3d-aaaa","generation":1,"creationTimestamp":"2026-01-01T00:00:00Z"},
    "spec":{"workers":{"replicas":)" +
                     std::to_string(replicas) + R"(,"template":{"spec":{"containers":[
      {"name":"agent","image":"debian:12-slim","command":["agentctl","work","--","wc","-w"]}]}}}}})");
}

OperatorOptions options() {
  OperatorOptions out;
  out.elector.namespace_name = "system";
  out.elector.identity = "one";
  out.settings.sidecar_image = "sidecar:1";
  out.http_address = "127.0.0.1";
  out.http_port = 0;
  out.instance = "one";
  return out;
}

class OperatorTest : public ::testing::Test {
 protected:
  OperatorTest() { telemetry::set_level("error"); }

  std::unique_ptr<Operator> start(OperatorOptions with = options()) {
    auto made = std::make_unique<Operator>(cluster, std::move(with), [] { FAIL() << "lost"; });
    EXPECT_TRUE(made->start().ok());
    return made;
  }
  // Workers that are there; the coordinator too.
  bool complete(std::size_t workers) const {
    std::size_t seen = 0;
    bool coordinator = false;
    for (const json& pod : cluster.all("pods")) {
      const std::string role = pod["metadata"]["labels"].value("cfn.dev/role", "");
      seen += role == "worker" ? 1 : 0;
      coordinator = coordinator || role == "coordinator";
    }
    const json* swarm = cluster.find("swarms", "n", "hello");
    return seen == workers && coordinator && swarm != nullptr && swarm->contains("status") &&
           (*swarm)["status"].value("/workers/readyReplicas"_json_pointer, -1) ==
               static_cast<int>(workers);
  }
  std::size_t count_writes() {
    return cluster.with([&] { return cluster.writes().size(); });
  }

  FakeCluster cluster;
};

TEST_F(OperatorTest, ASwarmBecomesItsObjectsAndThenNothingIsWritten) {
  cluster.with([&] { cluster.put("swarms", swarm_object(3)); });
  const auto instance = start();
  ASSERT_TRUE(cluster.wait([&] { return complete(3); }));
  cluster.with([&] {
    for (const char* plural : {"secrets", "services", "serviceaccounts", "roles", "rolebindings",
                               "networkpolicies", "poddisruptionbudgets"}) {
      EXPECT_FALSE(cluster.all(plural).empty()) << plural;
    }
    const json* secret = cluster.find("secrets", "n", "hello-link-0a1b2c3d");
    ASSERT_NE(secret, nullptr);
    const std::string key = (*secret)["stringData"]["link"];
    EXPECT_EQ(key.size(), 64U);
    EXPECT_NE(key, (*secret)["stringData"]["epoch"]);
  });
  std::this_thread::sleep_for(Milliseconds{300});  // long enough for a stray reconcile to show
  const std::size_t before = count_writes();
  std::this_thread::sleep_for(Milliseconds{700});
  EXPECT_EQ(count_writes(), before);
  EXPECT_TRUE(instance->stop(Milliseconds{5000}));
  cluster.with([&] {
    EXPECT_EQ(
        kube::text_at(*cluster.find("leases", "system", "swarm-operator"), "spec.holderIdentity"),
        "");
  });
}

TEST_F(OperatorTest, FollowsChangesOfScaleAndOfPods) {
  cluster.with([&] { cluster.put("swarms", swarm_object(2)); });
  const auto instance = start();
  ASSERT_TRUE(cluster.wait([&] { return complete(2); }));
  const auto scale = [&](int replicas) {
    cluster.with([&] {
      json swarm = *cluster.find("swarms", "n", "hello");
      swarm["spec"]["workers"]["replicas"] = replicas;
      swarm["metadata"]["generation"] = swarm["metadata"]["generation"].get<int>() + 1;
      cluster.put("swarms", swarm);
    });
  };
  scale(5);
  ASSERT_TRUE(cluster.wait([&] { return complete(5); }));
  scale(1);
  ASSERT_TRUE(cluster.wait([&] { return complete(1); }));
  cluster.with([&] {
    cluster.erase("pods", "n", kube::text_at(cluster.all("pods").front(), "metadata.name"));
  });
  ASSERT_TRUE(cluster.wait([&] { return complete(1); }));
  cluster.with([&] { EXPECT_FALSE(cluster.two_for_one_slot()); });
}

TEST_F(OperatorTest, JournalsAreMadeOnceAndOutliveTheirPods) {
  json swarm = swarm_object(2);
  swarm["spec"]["mailbox"]["persistence"]["type"] = "Journal";
  cluster.with([&] { cluster.put("swarms", swarm); });
  const auto instance = start();
  ASSERT_TRUE(cluster.wait([&] { return complete(2); }));
  std::map<std::string, std::string> claims;  // name -> uid
  cluster.with([&] {
    for (const json& claim : cluster.all("persistentvolumeclaims"))
      claims[kube::text_at(claim, "metadata.name")] = kube::text_at(claim, "metadata.uid");
    for (const json& pod : cluster.all("pods")) {
      const std::string slot = pod["metadata"]["labels"]["cfn.dev/slot"];
      const std::string name = slot == "coordinator-0" ? "hello-c0" : "hello-w" + slot.substr(7);
      EXPECT_EQ(pod_view(pod).claim, name + "-journal");
    }
    const std::string lost = kube::text_at(cluster.all("pods").back(), "metadata.name");
    cluster.erase("pods", "n", lost);
  });
  EXPECT_EQ(claims.size(), 3U);
  ASSERT_TRUE(cluster.wait([&] { return complete(2); }));
  cluster.with([&] {
    const std::vector<json> after = cluster.all("persistentvolumeclaims");
    EXPECT_EQ(after.size(), 3U);
    for (const json& claim : after) {
      EXPECT_EQ(claims[kube::text_at(claim, "metadata.name")],
                kube::text_at(claim, "metadata.uid"));
    }
  });
}

TEST_F(OperatorTest, OperatorsCutOffAfterAnyOfTheirWritesLeaveWorkForTheNextOne) {
  std::size_t total = 0;
  {
    cluster.with([&] { cluster.put("swarms", swarm_object(2)); });
    const auto instance = start();
    ASSERT_TRUE(cluster.wait([&] { return complete(2); }));
    total = count_writes();
  }
  ASSERT_GT(total, 10U);
  for (std::size_t cut = 1; cut <= total; ++cut) {
    for (const Fault how : {Fault::kLostBefore, Fault::kLostAfter}) {
      FakeCluster world;
      world.put("swarms", swarm_object(2));
      world.fault = [cut, how](const FakeCluster::Write&, std::size_t number) {
        Verdict verdict;
        if (number == cut) verdict.fault = how;
        if (number > cut) verdict.fault = Fault::kLostBefore;
        return verdict;
      };
      {
        Operator first(world, options(), [] {});
        ASSERT_TRUE(first.start().ok());
        ASSERT_TRUE(world.wait([&] { return world.writes().size() >= cut; }));
      }
      world.with([&] { world.fault = {}; });
      Operator second(world, options(), [] {});
      ASSERT_TRUE(second.start().ok());
      const bool good = world.wait([&] {
        const json* swarm = world.find("swarms", "n", "hello");
        return world.all("pods").size() == 3 && swarm->contains("status") &&
               (*swarm)["status"].value("/workers/readyReplicas"_json_pointer, -1) == 2;
      });
      ASSERT_TRUE(good) << "cut " << cut;
      world.with([&] {
        EXPECT_LE(world.max_live_workers(), 2U) << "cut " << cut;
        EXPECT_FALSE(world.two_for_one_slot()) << "cut " << cut;
        EXPECT_EQ(world.all("secrets").size(), 2U);
      });
    }
  }
}

TEST_F(OperatorTest, EveryFourthWriteWithUnknownOutcomeNeverMakesTooMany) {
  cluster.put("swarms", swarm_object(6));
  cluster.fault = [](const FakeCluster::Write&, std::size_t number) {
    Verdict verdict;
    if (number % 4 == 0) verdict.fault = Fault::kLostAfter;
    if (number % 7 == 0) verdict.fault = Fault::kLostBefore;
    return verdict;
  };
  const auto instance = start();
  ASSERT_TRUE(cluster.wait([&] { return complete(6); }));
  cluster.with([&] {
    EXPECT_LE(cluster.max_live_workers(), 6U);
    EXPECT_FALSE(cluster.two_for_one_slot());
  });
}

TEST_F(OperatorTest, AViewThatStandsStillMakesNoSecondPod) {
  cluster.put("swarms", swarm_object(3));
  const auto instance = start();
  ASSERT_TRUE(cluster.wait([&] { return complete(3); }));
  cluster.with([&] {
    cluster.watch_held = true;
    cluster.erase("pods", "n", kube::text_at(cluster.all("pods").back(), "metadata.name"));
  });
  const std::size_t before = count_writes();
  std::this_thread::sleep_for(Milliseconds{400});
  EXPECT_EQ(count_writes(), before);
  cluster.with([&] { cluster.watch_held = false; });
  ASSERT_TRUE(cluster.wait([&] { return complete(3); }));
  cluster.with([&] { EXPECT_LE(cluster.max_live_workers(), 3U); });
}

TEST_F(OperatorTest, BrokenWatchesListAgain) {
  cluster.put("swarms", swarm_object(1));
  const auto instance = start();
  ASSERT_TRUE(cluster.wait([&] { return complete(1); }));
  for (const std::string line :
       {R"({"type":"ERROR","object":{"code":410,"reason":"Expired"}})", "<html>", "{"}) {
    const int watches = cluster.with([&] {
      cluster.inject_plural = "pods";
      cluster.inject_line = line;
      return cluster.watches();
    });
    ASSERT_TRUE(cluster.wait([&] {
      return cluster.inject_line.empty() && cluster.watches() > watches;
    })) << line;
  }
  cluster.with([&] {
    cluster.erase("pods", "n", kube::text_at(cluster.all("pods").back(), "metadata.name"));
  });
  EXPECT_TRUE(cluster.wait([&] { return complete(1); }));
}

TEST_F(OperatorTest, TheSecondOneWaitsForTheLeaseAndTakesAReleasedOneOver) {
  cluster.put("swarms", swarm_object(1));
  auto first = start();
  ASSERT_TRUE(cluster.wait([&] { return complete(1); }));
  OperatorOptions other = options();
  other.elector.identity = "two";
  other.elector.retry_period = Milliseconds{100};
  const auto second = start(other);
  std::this_thread::sleep_for(Milliseconds{300});
  const auto holder = [&] {
    return kube::text_at(*cluster.find("leases", "system", "swarm-operator"),
                         "spec.holderIdentity");
  };
  EXPECT_EQ(cluster.with(holder), "one");
  EXPECT_TRUE(first->stop(Milliseconds{5000}));
  EXPECT_TRUE(cluster.wait([&] { return holder() == "two"; }));
}

TEST_F(OperatorTest, ALeaderThatCannotRenewIsLostAndWritesNothing) {
  cluster.put("swarms", swarm_object(1));
  OperatorOptions quick = options();
  quick.elector.lease_duration = Milliseconds{1500};
  quick.elector.renew_deadline = Milliseconds{600};
  quick.elector.retry_period = Milliseconds{100};
  std::atomic<bool> lost{false};
  Operator instance(cluster, quick, [&] { lost.store(true); });
  ASSERT_TRUE(instance.start().ok());
  ASSERT_TRUE(cluster.wait([&] { return complete(1); }));
  cluster.with([&] { cluster.dead = true; });
  const MonoTime start_time = mono_now();
  while (!lost.load() && mono_now() - start_time < Milliseconds{10'000})
    std::this_thread::sleep_for(Milliseconds{10});
  ASSERT_TRUE(lost.load());
  const std::size_t before = count_writes();
  cluster.with([&] {
    cluster.erase("pods", "n", kube::text_at(cluster.all("pods").back(), "metadata.name"));
  });
  std::this_thread::sleep_for(Milliseconds{300});
  EXPECT_EQ(count_writes(), before);
}

TEST_F(OperatorTest, DeletedSwarmsAreForgottenAndMadeAnewUnderTheSameName) {
  cluster.put("swarms", swarm_object(1));
  const auto instance = start();
  ASSERT_TRUE(cluster.wait([&] { return complete(1); }));
  cluster.with([&] { cluster.erase("swarms", "n", "hello"); });
  ASSERT_TRUE(cluster.wait([&] { return cluster.all("pods").empty(); }));
  cluster.with([&] {
    json again = swarm_object(2);
    again["metadata"]["uid"] = "ffffffff-bbbb";
    cluster.put("swarms", again);
  });
  ASSERT_TRUE(cluster.wait([&] { return complete(2); }));
  cluster.with([&] {
    EXPECT_NE(cluster.find("secrets", "n", "hello-link-ffffffff"), nullptr);
    for (const json& pod : cluster.all("pods"))
      EXPECT_EQ(kube::controller_uid(pod), "ffffffff-bbbb");
  });
}

TEST_F(OperatorTest, ASwarmMadeAnewGoesOnAsSoonAsTheOldOnesObjectsAreCollected) {
  cluster.put("swarms", swarm_object(1));
  const auto instance = start();
  ASSERT_TRUE(cluster.wait([&] { return complete(1); }));
  cluster.with([&] {
    cluster.gc_held = true;
    cluster.erase("swarms", "n", "hello");
    json again = swarm_object(2);
    again["metadata"]["uid"] = "ffffffff-bbbb";
    cluster.put("swarms", again);
  });
  ASSERT_TRUE(cluster.wait([&] {
    return cluster.find("swarms", "n", "hello")->dump().find("NameTaken") != std::string::npos;
  }));
  const MonoTime collected = mono_now();
  cluster.with([&] {
    cluster.gc_held = false;
    cluster.collect();
  });
  ASSERT_TRUE(cluster.wait([&] { return complete(2); }));
  EXPECT_LT(mono_now() - collected, 2 * kForeignRecheck);
}

TEST_F(OperatorTest, ANameThatSomebodyElseHasIsTakenAsSoonAsItIsFree) {
  json other = json::parse(
      R"({"kind":"Service","metadata":{"name":"hello-tasks","namespace":"n"},"spec":{}})");
  cluster.put("services", other);
  cluster.put("swarms", swarm_object(1));
  const auto instance = start();
  ASSERT_TRUE(cluster.wait([&] {
    return cluster.find("swarms", "n", "hello")->dump().find("NameTaken") != std::string::npos;
  }));
  cluster.with([&] { cluster.erase("services", "n", "hello-tasks"); });
  EXPECT_TRUE(cluster.wait([&] { return complete(1); }));
}

TEST_F(OperatorTest, UnreadableSpecsAreReportedAndTouchNothing) {
  json bad = swarm_object(1);
  bad["spec"]["workers"]["replicas"] = -4;
  cluster.put("swarms", bad);
  const auto instance = start();
  ASSERT_TRUE(
      cluster.wait([&] { return cluster.find("swarms", "n", "hello")->contains("status"); }));
  cluster.with([&] {
    EXPECT_THAT(cluster.find("swarms", "n", "hello")->dump(), HasSubstr("spec.workers.replicas"));
    EXPECT_TRUE(cluster.all("pods").empty());
  });
}

// ---- The executor by itself.

class NoLists final : public Lists {
 public:
  std::uint64_t relist(std::size_t) override { return ++asked; }
  std::uint64_t completed(std::size_t) const override { return done; }
  std::uint64_t asked = 0, done = 0;
};

class ExecutorTest : public ::testing::Test {
 protected:
  ExecutorTest() {
    telemetry::set_level("error");
    cluster.put("swarms", swarm_object(1));
    swarm = *api::parse(*cluster.find("swarms", "n", "hello"));
  }
  static plan::CreateObject object(const std::string& kind, const std::string& name,
                                   const std::string& owner) {
    return {kind,
            name,
            json{{"kind", kind},
                 {"metadata",
                  {{"name", name},
                   {"namespace", "n"},
                   {"labels", {{"cfn.dev/swarm", "hello"}}},
                   {"ownerReferences", json::array({{{"uid", owner}, {"controller", true}}})}}}}
                .dump(),
            {}};
  }
  Outcome perform(std::vector<plan::Action> actions) {
    plan::Plan plan;
    plan.actions = std::move(actions);
    return executor.perform(memory, swarm, plan, {});
  }
  void refuse(int status, const std::string& body, const std::string& retry_after = "") {
    cluster.fault = [=](const FakeCluster::Write&, std::size_t) {
      return Verdict{Fault::kRefuse, status, body, retry_after};
    };
  }

  FakeCluster cluster;
  api::Swarm swarm;
  kube::Client client{cluster};
  World world{[](const Key&, bool) {}};
  NoLists lists;
  Executor executor{client, world, lists, "one"};
  SwarmMemory memory;
};

TEST_F(ExecutorTest, ExistsAlreadyIsDoneWhenItIsOurs) {
  EXPECT_TRUE(perform({object("Service", "s", swarm.uid)}).ok);
  EXPECT_TRUE(perform({object("Service", "s", swarm.uid)}).ok);
  EXPECT_FALSE(memory.create_failure);
}

TEST_F(ExecutorTest, ExistsAlreadyAndForeignIsShownToThePlanner) {
  EXPECT_TRUE(perform({object("Service", "s", "somebody")}).ok);
  memory = {};
  EXPECT_FALSE(perform({object("Service", "s", swarm.uid)}).ok);
  plan::Observed observed;
  EXPECT_TRUE(executor.complete(memory, swarm, observed, {}).ok);
  ASSERT_EQ(observed.children.size(), 1U);
  EXPECT_EQ(observed.children[0].owner_uid, "somebody");
}

TEST_F(ExecutorTest, StopsAtTheFirstFailureAndKeepsTheRefusal) {
  refuse(422, R"({"reason":"Invalid","message":"spec: no"})");
  const Outcome outcome = perform({object("Pod", "a", swarm.uid), object("Pod", "b", swarm.uid)});
  EXPECT_FALSE(outcome.ok);
  EXPECT_EQ(cluster.writes().size(), 1U);
  ASSERT_TRUE(memory.create_failure);
  EXPECT_EQ(memory.create_failure->reason, "Invalid");
  cluster.fault = {};
  EXPECT_TRUE(perform({object("Pod", "a", swarm.uid)}).ok);
  EXPECT_FALSE(memory.create_failure);
}

TEST_F(ExecutorTest, ARefusedPatchIsToldAndKeepsNoPodFromBeingMade) {
  EXPECT_TRUE(perform({object("Service", "s", swarm.uid)}).ok);
  cluster.fault = [](const FakeCluster::Write& write, std::size_t) {
    Verdict verdict;
    if (write.method == "PATCH")
      verdict = {Fault::kRefuse, 500, R"({"message":"failed calling webhook \"w\""})", ""};
    return verdict;
  };
  const Outcome outcome =
      perform({plan::PatchObject{"Service", "v1", "s", "{}"}, object("Pod", "a", swarm.uid)});
  EXPECT_FALSE(outcome.ok);
  EXPECT_NE(cluster.find("pods", "n", "a"), nullptr);
  ASSERT_TRUE(memory.failing);
  EXPECT_EQ(memory.failing->what, "patching Service s");
  EXPECT_THAT(memory.failing->message, HasSubstr("failed calling webhook"));
  const WallTime since = memory.failing->since;
  perform({plan::PatchObject{"Service", "v1", "s", "{}"}});
  EXPECT_EQ(memory.failing->since, since);
  cluster.fault = {};
  EXPECT_TRUE(perform({plan::PatchObject{"Service", "v1", "s", "{}"}}).ok);
  EXPECT_FALSE(memory.failing);
}

TEST_F(ExecutorTest, OnlyPodsThatWereMadeAreTold) {
  cluster.fault = [](const FakeCluster::Write& write, std::size_t) {
    Verdict verdict;
    if (write.name == "b")
      verdict = {Fault::kRefuse, 403, R"({"reason":"Forbidden","message":"exceeded quota"})", ""};
    return verdict;
  };
  std::vector<plan::Action> actions;
  for (const char* name : {"a", "b", "c"}) {
    plan::CreateObject one = object("Pod", name, swarm.uid);
    one.slot = std::string("worker-") + name;
    actions.emplace_back(one);
  }
  EXPECT_FALSE(perform(actions).ok);
  ASSERT_EQ(cluster.all("events").size(), 1U);
  EXPECT_EQ(cluster.all("events")[0]["message"], "1 pod: worker-a");
  EXPECT_FALSE(memory.failing) << "a refused creation has words of its own";
}

TEST_F(ExecutorTest, ASlowApiServerEndsThePlanSoThatOtherSwarmsHaveTheirTurn) {
  cluster.fault = [](const FakeCluster::Write&, std::size_t) {
    std::this_thread::sleep_for(kMaxActTime);
    return Verdict{};
  };
  const Outcome outcome = perform({object("Pod", "a", swarm.uid), object("Pod", "b", swarm.uid)});
  EXPECT_TRUE(outcome.ok);
  EXPECT_TRUE(outcome.more);
  EXPECT_EQ(cluster.writes().size(), 1U);
  ASSERT_EQ(memory.plan.creations.size(), 1U);
  EXPECT_EQ(memory.plan.creations[0].second, 1)
      << "what was cut off does not count against the cap";
}

TEST_F(ExecutorTest, OverloadIsNoRefusalAndItsRetryAfterIsKept) {
  refuse(429, "{}", "7");
  const Outcome outcome = perform({object("Pod", "a", swarm.uid)});
  EXPECT_FALSE(outcome.ok);
  EXPECT_EQ(outcome.retry_after, Milliseconds{7000});
  EXPECT_FALSE(memory.create_failure);
}

TEST_F(ExecutorTest, ATerminatingNamespaceIsRemembered) {
  refuse(
      403,
      R"({"reason":"Forbidden","message":"x","details":{"causes":[{"reason":"NamespaceTerminating"}]}})");
  EXPECT_FALSE(perform({object("Pod", "a", swarm.uid)}).ok);
  plan::Observed observed;
  EXPECT_TRUE(executor.complete(memory, swarm, observed, {}).ok);
  EXPECT_TRUE(observed.namespace_terminating);
  EXPECT_FALSE(observed.create_failure);
}

TEST_F(ExecutorTest, UnknownOutcomesAreSettledByAListThatBeganLater) {
  cluster.fault = [](const FakeCluster::Write&, std::size_t) {
    return Verdict{Fault::kLostAfter, 0, "", ""};
  };
  EXPECT_FALSE(perform({object("Pod", "a", swarm.uid)}).ok);
  EXPECT_EQ(lists.asked, 1U);
  EXPECT_FALSE(executor.ready(memory, swarm, {}, mono_now()));
  lists.done = 1;
  EXPECT_TRUE(executor.ready(memory, swarm, {}, mono_now()));
}

TEST_F(ExecutorTest, WaitsUntilTheViewHasPassedItsWritesAndListsWhenThatTakesTooLong) {
  EXPECT_TRUE(perform({object("Pod", "a", swarm.uid)}).ok);
  const std::size_t pods = *watched_index("Pod");
  EXPECT_FALSE(executor.ready(memory, swarm, {}, mono_now()));
  EXPECT_FALSE(executor.ready(memory, swarm, {}, mono_now() + kViewPatience + Milliseconds{1}));
  EXPECT_EQ(lists.asked, 1U);
  world.sink(pods).advanced("1000000");
  EXPECT_FALSE(
      executor.ready(memory, swarm, {}, mono_now()));  // the list was asked for: it decides
  lists.done = 1;
  EXPECT_TRUE(executor.ready(memory, swarm, {}, mono_now()));
  EXPECT_TRUE(perform({object("Pod", "b", swarm.uid)}).ok);
  world.sink(pods).advanced("1000001");
  EXPECT_TRUE(executor.ready(memory, swarm, {}, mono_now()));
}

TEST_F(ExecutorTest, ADeletedPodIsWaitedForByItsUid) {
  plan::PodView pod;
  EXPECT_TRUE(perform({object("Pod", "a", swarm.uid)}).ok);
  memory.own_writes.clear();
  pod.uid = kube::text_at(*cluster.find("pods", "n", "a"), "metadata.uid");
  const std::string version =
      kube::text_at(*cluster.find("pods", "n", "a"), "metadata.resourceVersion");
  EXPECT_TRUE(perform({plan::DeletePod{"a", pod.uid, version, "Surplus"}}).ok);
  EXPECT_FALSE(executor.ready(memory, swarm, {pod}, mono_now()));
  pod.deletion_time = 1;
  EXPECT_TRUE(executor.ready(memory, swarm, {pod}, mono_now()));
}

TEST_F(ExecutorTest, DeletesCarryTheirPreconditions) {
  EXPECT_TRUE(perform({object("Pod", "a", swarm.uid)}).ok);
  const Outcome outcome = perform({plan::DeletePod{"a", "another-uid", "1", "Surplus"}});
  EXPECT_TRUE(outcome.ok);
  EXPECT_TRUE(outcome.view_stale);
  EXPECT_NE(cluster.find("pods", "n", "a"), nullptr);
}

TEST_F(ExecutorTest, EventsAreCountedUpInOneObject) {
  for (int i = 0; i < 3; ++i) executor.emit(swarm, {"Normal", "Scaled", "3 pods"});
  ASSERT_EQ(cluster.all("events").size(), 1U);
  EXPECT_EQ(cluster.all("events")[0]["count"], 3);
}

// ---- What the Event says of a Swarm that is gone.

class DeletedTest : public ExecutorTest {
 protected:
  DeletedTest() {
    given = swarm_object(2);
    // Of half a minute ago.
    given["status"] = {{"topology", {{"coordinators", 2}}}, {"tasks", {{"queued", 90}}}};
    swarms.put(given);
    leases.put(lease(0, 4, 1));
    leases.put(lease(1, 3, 2));
  }
  static json lease(int team, int queued, int running) {
    api::TeamReport report;
    report.time = 1;
    report.tasks.queued = queued;
    report.tasks.running = running;
    json out = json::parse(
        object("Lease", "hello-team-" + std::to_string(team), "0a1b2c3d-aaaa").manifest);
    out["metadata"]["annotations"][std::string(api::kReportAnnotation)] = api::to_text(report);
    return out;
  }
  std::vector<std::string> told() {
    reconciler.reconcile({"n", "hello"}, {}, {});
    std::vector<std::string> messages;
    for (const json& event : cluster.all("events")) {
      if (event["reason"] == "SwarmDeleted") messages.push_back(event["message"]);
    }
    return messages;
  }

  const std::vector<std::string> all{
      "Deleted with 7 queued tasks and 3 running; they are dropped with it"};
  json given;
  kube::WatchSink& swarms = world.sink(*watched_index("Swarm"));
  kube::WatchSink& leases = world.sink(*watched_index("Lease"));
  Reconciler reconciler{world, executor};
};

TEST_F(DeletedTest, ItsLeasesGoBeforeTheWorkerHasTime) {
  swarms.removed(given);
  leases.removed(lease(0, 4, 1));
  leases.removed(lease(1, 3, 2));
  EXPECT_EQ(told(), all);
}

TEST_F(DeletedTest, ItsLeasesGoBeforeTheSwarm) {  // kubectl delete --cascade=foreground
  given["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z";
  swarms.put(given);
  leases.removed(lease(0, 4, 1));
  leases.removed(lease(1, 3, 2));
  EXPECT_EQ(told(), std::vector<std::string>{});
  swarms.removed(given);
  EXPECT_EQ(told(), all);
}

TEST_F(DeletedTest, OneLeaseGoesBeforeTheSwarm) {
  leases.removed(lease(0, 4, 1));
  swarms.removed(given);
  EXPECT_EQ(told(), all);
}

TEST_F(DeletedTest, AListSaysThatTheyAreGone) {
  for (kube::WatchSink* sink : {&leases, &swarms}) {
    sink->list_started();
    sink->list_finished("200");
  }
  EXPECT_EQ(told(), all);
}

TEST_F(DeletedTest, ALeaseMadeAnewCountsAsSoonAsItHasAReport) {
  json bare = lease(0, 0, 0);
  bare["metadata"].erase("annotations");
  leases.removed(lease(0, 4, 1));
  leases.put(bare);
  leases.removed(bare);
  leases.put(bare);
  leases.removed(lease(1, 9, 9));
  leases.put(lease(1, 3, 2));
  swarms.removed(given);
  EXPECT_EQ(told(), all);
}

TEST_F(DeletedTest, ASwarmOfTheSameNameIsNotCounted) {
  json other = given;
  other["metadata"]["uid"] = "ffffffff-bbbb";
  leases.removed(lease(0, 4, 1));
  swarms.put(other);
  json foreign = lease(0, 50, 0);
  foreign["metadata"]["ownerReferences"][0]["uid"] = "ffffffff-bbbb";
  leases.put(foreign);
  EXPECT_EQ(told(), all);
  leases.removed(lease(1, 3, 2));  // its owner has been told about
  swarms.removed(other);
  EXPECT_THAT(told(), UnorderedElementsAre(all[0], HasSubstr("1 of 2 teams")));
}

TEST(Views, TakeAnythingForAPod) {
  for (
      const char* text :
      {"{}", R"({"metadata":[],"status":7})", R"({"metadata":{"labels":{"cfn.dev/slot":5}}})",
       R"({"status":{"containerStatuses":[1,{"state":"x","restartCount":99999999999999}]}})",
       R"({"spec":{"initContainers":{}},"status":{"conditions":[null,{"type":"Ready","status":1}]}})"}) {
    const plan::PodView view = pod_view(json::parse(text));
    EXPECT_FALSE(view.ready) << text;
    EXPECT_EQ(view.slot, "") << text;
    lease_view(json::parse(text));
    child_view(json::parse(text), "Service");
  }
  const plan::PodView view =
      pod_view(json::parse(R"({"metadata":{"name":"p","labels":{"cfn.dev/slot":"worker-1"},
    "annotations":{"controller.kubernetes.io/pod-deletion-cost":"-5"},"deletionTimestamp":"2026-01-02T03:04:05Z","deletionGracePeriodSeconds":140},
    "spec":{"initContainers":[{"name":"cfn-sidecar","image":"i"}],"nodeName":"n"},
    "status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"},
      {"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"no room"}],
      "containerStatuses":[{"name":"a","restartCount":2,"state":{"waiting":{"reason":"CrashLoopBackOff"}},
        "lastState":{"terminated":{"exitCode":137,"reason":"OOMKilled"}}}]}})"));
  EXPECT_EQ(view.slot, "worker-1");
  EXPECT_EQ(view.deletion_cost, -5);
  EXPECT_TRUE(view.deletion_time);
  EXPECT_EQ(view.deletion_grace, 140'000);
  EXPECT_EQ(view.sidecar_image, "i");
  EXPECT_EQ(view.unschedulable_message, "no room");
  ASSERT_EQ(view.containers.size(), 1U);
  EXPECT_EQ(view.containers[0].last_exit_code, 137);
  EXPECT_EQ(view.containers[0].last_reason, "OOMKilled");
}

}  // namespace
}  // namespace swarm::reconcile
