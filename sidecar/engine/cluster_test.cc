// What a coordinator does with its Lease and its Swarm, against an API server that has both in
// memory.
#include "engine/cluster.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "api/swarm.h"

namespace swarm::engine {
namespace {

using nlohmann::json;

json suspended_swarm() {
  return json::parse(R"({"apiVersion":"cfn.dev/v1alpha1","kind":"Swarm",
    "metadata":{"name":"s","namespace":"ns","uid":"uid-s","generation":1,"resourceVersion":"7"},
    "spec":{"suspend":true,
      "workers":{"template":{"spec":{"containers":[{"name":"agent","image":"i"}]}}}}})");
}

// Shared with the client that reads and writes it on the threads of the lease and of the Swarm.
struct Lease {
  std::mutex mutex;
  std::map<std::string, std::string> annotations;
  int version = 1, puts = 0, patches = 0;
  json swarms = json::array({suspended_swarm()});
  int lists = 0, list_status = 200;

  std::string get(std::string_view name) {
    const std::lock_guard lock(mutex);
    return annotations[std::string(name)];
  }
  void set(std::map<std::string, std::string> all) {
    const std::lock_guard lock(mutex);
    annotations = std::move(all);
    ++version;
  }
  int count(const int& which) {
    const std::lock_guard lock(mutex);
    return which;
  }
  api::TeamReport report() {
    auto parsed = api::parse_report(get(api::kReportAnnotation));
    return parsed ? *parsed : api::TeamReport{};
  }
};

class Api final : public net::HttpClient {
 public:
  explicit Api(Lease& lease) : lease_(lease) {}
  Result<net::HttpReply> send(const net::HttpCall& call, Milliseconds, std::stop_token) override {
    const std::lock_guard lock(lease_.mutex);
    if (call.target.starts_with("/apis/cfn.dev/v1alpha1/namespaces/ns/swarms?")) {
      ++lease_.lists;
      const json list{{"metadata", {{"resourceVersion", "7"}}}, {"items", lease_.swarms}};
      return net::HttpReply{lease_.list_status, {}, list.dump()};
    }
    if (call.target != "/apis/coordination.k8s.io/v1/namespaces/ns/leases/s-team-0")
      return net::HttpReply{404, {}, ""};
    if (call.method != "GET") {
      const auto body = json::parse(call.body);
      if (body["metadata"]["resourceVersion"] != std::to_string(lease_.version))
        return net::HttpReply{409, {}, ""};
      ++(call.method == "PUT" ? lease_.puts : lease_.patches);
      ++lease_.version;
      for (const auto& [name, value] : body["metadata"]["annotations"].items())
        lease_.annotations[name] = value;
    }
    json answer{{"metadata",
                 {{"resourceVersion", std::to_string(lease_.version)},
                  {"annotations", lease_.annotations}}},
                {"spec", json::object()}};
    return net::HttpReply{200, {}, answer.dump()};
  }
  Result<net::HttpReply> stream(const net::HttpCall&, const net::StreamLimits&, const net::OnLine&,
                                std::stop_token) override {
    return net::HttpReply{404, {}, ""};
  }

 private:
  Lease& lease_;
};

class ClusterTest : public testing::Test {
 protected:
  ClusterTest() {
    config_.namespace_name = "ns";
    config_.swarm = "s";
    config_.swarm_uid = "uid-s";
    config_.pod = "c0";
    config_.pod_uid = "uid-0";
    cluster_ = make();
  }
  std::unique_ptr<Cluster> make() {
    Cluster::Events events;
    events.acquired = [this](std::uint64_t epoch, const api::TeamReport& last) {
      told_.emplace_back("acquired");
      epochs_.push_back(epoch);
      last_ = last;
      report_.epoch = epoch;
      cluster_->report_changed(true);
    };
    events.superseded = [this] { ++superseded_; };
    events.report = [this] {
      ++asked_;
      return report_;
    };
    events.settings = [this](const TeamSettings& settings) {
      told_.emplace_back(settings.suspended ? "suspended" : "not suspended");
    };
    events.deleted = [this] { told_.emplace_back("deleted"); };
    events.problem = [](const std::string&) {};
    return std::make_unique<Cluster>(loop_, config_, std::move(events), Milliseconds{3000});
  }
  void start(std::uint64_t led_epoch = 0) {
    cluster_->start(std::make_unique<Api>(lease_), led_epoch);
  }
  bool run_until(const std::function<bool()>& done, Milliseconds limit = Milliseconds{10000}) {
    const auto end = mono_now() + limit;
    while (!done() && mono_now() < end) {
      io_.restart();
      io_.run_for(Milliseconds{10});
    }
    return done();
  }
  void run(Milliseconds time) {
    run_until([] { return false; }, time);
  }
  std::string held(std::string_view name) { return lease_.get(name); }

  Lease lease_;
  Config config_;
  boost::asio::io_context io_{1};
  Loop loop_{io_};
  api::TeamReport report_, last_;
  std::vector<std::uint64_t> epochs_;
  std::vector<std::string> told_;
  int superseded_ = 0, asked_ = 0;
  std::unique_ptr<Cluster> cluster_;
};

TEST_F(ClusterTest, WhoeverHasJoinedStandsInTheLeaseAtOnceTheRestWhenItIsTime) {
  start();
  EXPECT_TRUE(run_until([&] { return lease_.report().epoch == 1; }, Milliseconds{1000}))
      << "a successor must know that there was somebody";
  report_.workers["worker-0"].pod = "w0";
  cluster_->report_changed(true);
  EXPECT_TRUE(run_until([&] { return lease_.report().workers.size() == 1; }, Milliseconds{2000}));
  const int patches = lease_.count(lease_.patches);
  EXPECT_EQ(patches, 2);
  for (const auto end = mono_now() + Milliseconds{1500}; mono_now() < end;) {
    ++report_.tasks.queued;
    cluster_->report_changed(false);
    run(Milliseconds{5});
  }
  EXPECT_EQ(lease_.count(lease_.patches), patches) << "counts can wait";
  EXPECT_EQ(asked_, patches) << "and what is not sent is not made";
  report_.workers["worker-1"].pod = "w1";
  cluster_->report_changed(true);
  EXPECT_TRUE(run_until([&] { return lease_.report().workers.size() == 2; }, Milliseconds{500}));
  EXPECT_EQ(lease_.report().tasks.queued, report_.tasks.queued);
  run(Milliseconds{1200});
  report_.time = 1;
  cluster_->report_changed(true);
  run(Milliseconds{200});
  EXPECT_EQ(lease_.count(lease_.patches), patches + 1) << "time alone is no news";
}

TEST_F(ClusterTest, TheLastReportIsHandedOver) {
  api::TeamReport before;
  before.epoch = 4;
  before.awaited.push_back({"worker-7", "w7", "10.0.0.7"});
  lease_.set({{std::string(api::kEpochAnnotation), "4"},
              {std::string(api::kReportAnnotation), api::to_text(before)}});
  start();
  ASSERT_TRUE(run_until([&] { return !epochs_.empty(); }));
  EXPECT_EQ(epochs_[0], 5U);
  EXPECT_EQ(last_.epoch, 4U);
  EXPECT_EQ(last_.awaited, before.awaited);
}

// Else what is queued is handed out though the Swarm is suspended.
TEST_F(ClusterTest, NobodyLeadsBeforeTheSwarmWasRead) {
  lease_.list_status = 429;
  start();
  EXPECT_TRUE(run_until([&] { return lease_.count(lease_.lists) >= 3; }));
  EXPECT_EQ(told_, std::vector<std::string>{});
  EXPECT_EQ(lease_.count(lease_.puts), 0);
  {
    const std::lock_guard lock(lease_.mutex);
    lease_.list_status = 200;
  }
  EXPECT_TRUE(run_until([&] { return !epochs_.empty(); }));
  EXPECT_EQ(told_, (std::vector<std::string>{"suspended", "acquired"}));
}

TEST_F(ClusterTest, ASwarmThatIsGoneIsNotWaitedFor) {
  lease_.swarms[0]["metadata"]["uid"] = "of another one";
  start();
  EXPECT_TRUE(run_until([&] { return !epochs_.empty(); }));
  EXPECT_EQ(told_, (std::vector<std::string>{"deleted", "acquired"}));
}

TEST_F(ClusterTest, ASwarmThatCannotBeReadIsNeitherWaitedForNorDeleted) {
  lease_.swarms[0]["spec"] = 1;
  start();
  EXPECT_TRUE(run_until([&] { return !epochs_.empty(); }));
  EXPECT_EQ(told_, std::vector<std::string>{"acquired"});
}

TEST_F(ClusterTest, ALeaseThatWasMadeAnewGetsAHigherEpochThanBefore) {
  lease_.set({{std::string(api::kEpochAnnotation), "6"}});
  start();
  ASSERT_TRUE(run_until([&] { return lease_.report().epoch == 7; }));
  lease_.set({});
  report_.ready = true;
  cluster_->report_changed(true);
  ASSERT_TRUE(run_until([&] { return lease_.report().ready; }));
  EXPECT_EQ(epochs_, (std::vector<std::uint64_t>{7, 8}));
  EXPECT_EQ(held(api::kEpochAnnotation), "8");
  EXPECT_EQ(held(api::kHolderUidAnnotation), "uid-0");
  EXPECT_EQ(superseded_, 0);
}

TEST_F(ClusterTest, ALeaseThatWasMadeAnewIsFoundThoughThereIsNoNews) {
  lease_.set({{std::string(api::kEpochAnnotation), "6"}});
  start();
  ASSERT_TRUE(run_until([&] { return lease_.report().epoch == 7; }));
  lease_.set({});
  ASSERT_TRUE(run_until([&] { return epochs_.size() == 2; }, Milliseconds{15000}));
  EXPECT_EQ(epochs_[1], 8U);
  ASSERT_TRUE(run_until([&] { return lease_.report().epoch == 8; })) << "and the report is there";
}

TEST_F(ClusterTest, AHigherEpochIsTakenUnlessSomebodyElseHasIt) {
  start();
  ASSERT_TRUE(run_until([&] { return lease_.report().epoch == 1; }));
  cluster_->raise_epoch(8);
  ASSERT_TRUE(run_until([&] { return epochs_.size() == 2; }));
  EXPECT_EQ(epochs_[1], 8U);
  ASSERT_TRUE(run_until([&] { return lease_.report().epoch == 8; }));
  const int puts = lease_.count(lease_.puts);
  lease_.set({{std::string(api::kEpochAnnotation), "9"},
              {std::string(api::kHolderUidAnnotation), "uid-1"}});
  cluster_->raise_epoch(10);  // a worker has come from there
  EXPECT_TRUE(run_until([&] { return superseded_ != 0; }));
  run(Milliseconds{500});
  EXPECT_EQ(lease_.count(lease_.puts), puts) << "the other one works";
  EXPECT_EQ(held(api::kEpochAnnotation), "9");
}

// Its engine was restarted and does not remember that it was told to leave.
TEST_F(ClusterTest, WhoeverHasLedTakesNothingBack) {
  lease_.set({{std::string(api::kEpochAnnotation), "5"},
              {std::string(api::kHolderUidAnnotation), "uid-1"}});
  start(4);
  EXPECT_TRUE(run_until([&] { return superseded_ != 0; }));
  lease_.set({});
  run(Milliseconds{4000});
  EXPECT_EQ(epochs_, std::vector<std::uint64_t>{}) << "the other one will look, too";
  EXPECT_EQ(lease_.count(lease_.puts), 0);
}

TEST_F(ClusterTest, WhoeverHasLedGoesOnUnlessSomebodyElseHas) {
  const std::string epoch(api::kEpochAnnotation), holder(api::kHolderUidAnnotation);
  using Annotations = std::map<std::string, std::string>;
  for (const auto& lease : {Annotations{{epoch, "5"}, {holder, "uid-0"}}, Annotations{},
                            Annotations{{epoch, "3"}, {holder, "uid-before"}}}) {
    lease_.set(lease);
    start(4);
    EXPECT_TRUE(run_until([&] { return !epochs_.empty(); }));
    EXPECT_EQ(superseded_, 0);
    epochs_.clear();
    cluster_ = make();
  }
}

// The epoch in a journal is one that a former pod of the name has led in. Another may have led
// since and is gone: it crashed before it wrote its epoch down, or journals were off for a while.
TEST_F(ClusterTest, WhoeverHasTheJournalOfAFormerPodLeads) {
  config_.journal_bytes = 1;
  lease_.set({{std::string(api::kEpochAnnotation), "5"},
              {std::string(api::kHolderUidAnnotation), "uid-before"}});
  start(4);
  EXPECT_TRUE(run_until([&] { return !epochs_.empty(); }));
  EXPECT_EQ(epochs_, std::vector<std::uint64_t>{6});
  EXPECT_EQ(superseded_, 0);
}

TEST_F(ClusterTest, AnAnswerThatWasLostIsNotAnotherHolder) {
  start();
  ASSERT_TRUE(run_until([&] { return lease_.report().epoch == 1; }));
  lease_.set({{std::string(api::kEpochAnnotation), "3"},
              {std::string(api::kHolderUidAnnotation), "uid-0"}});
  cluster_->raise_epoch(3);
  ASSERT_TRUE(run_until([&] { return epochs_.size() == 2; }));
  EXPECT_EQ(epochs_[1], 4U);
  EXPECT_EQ(superseded_, 0);
}

}  // namespace
}  // namespace swarm::engine
