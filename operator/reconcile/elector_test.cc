#include "reconcile/elector.h"

#include <gtest/gtest.h>

#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

namespace swarm::reconcile {
namespace {

MonoTime at(std::int64_t ms) { return MonoTime(Milliseconds(ms)); }

ElectorOptions options(const std::string& identity) {
  ElectorOptions out;
  out.namespace_name = "n";
  out.identity = identity;
  return out;
}

kube::LeaseRecord record(const std::string& holder, const std::string& version,
                         WallTime renewed = 0) {
  kube::LeaseRecord out;
  out.holder = holder;
  out.duration_seconds = 15;
  out.renew_time = renewed;
  out.resource_version = version;
  return out;
}

TEST(LeaseState, TakesAnAbsentOrReleasedLeaseAtOnce) {
  LeaseState state(options("me"));
  EXPECT_EQ(state.wanted(at(0), 5)->holder, "me");
  state.seen(record("", "1"), at(0));
  const auto wanted = state.wanted(at(0), 5);
  ASSERT_TRUE(wanted);
  EXPECT_EQ(wanted->resource_version, "1");
  EXPECT_EQ(wanted->transitions, 1);
}

TEST(LeaseState, WaitsTheWholeDurationOnItsOwnClockAfterEveryChange) {
  LeaseState state(options("me"));
  state.seen(record("other", "1", 999'999'999'999), at(1000));
  EXPECT_FALSE(state.wanted(at(15'999), 0));
  state.seen(record("other", "2", 0), at(10'000));  // renewed; what its clock says does not matter
  EXPECT_FALSE(state.wanted(at(24'999), 0));
  state.seen(record("other", "2", 0), at(20'000));  // unchanged
  EXPECT_TRUE(state.wanted(at(25'000), 0));
}

TEST(LeaseState, WritesOnlyUntilTheRenewDeadlineAndNeverBeyondTheLease) {
  LeaseState state(options("me"));
  EXPECT_EQ(state.remaining(at(0)), Milliseconds{0});
  state.renewed(record("me", "1"), at(1000));
  EXPECT_EQ(state.remaining(at(1000)), Milliseconds{15'000});
  EXPECT_EQ(state.remaining(at(10'999)), Milliseconds{5'001});
  EXPECT_EQ(state.remaining(at(11'000)), Milliseconds{0});
  EXPECT_FALSE(state.lost(at(10'999)));
  EXPECT_TRUE(state.lost(at(11'000)));
  state.absent();
  EXPECT_TRUE(state.lost(at(11'000)));
}

TEST(LeaseState, TwoCandidatesNeverBothHaveTimeToWrite) {
  // One step a second; b sees a's writes late, and a's last write is the one at `last`.
  for (std::int64_t last = 0; last < 30'000; last += 1000) {
    LeaseState a(options("a")), b(options("b"));
    for (std::int64_t now = 0; now < 60'000; now += 500) {
      if (now <= last && now % 2000 == 0) {
        a.renewed(record("a", std::to_string(now)), at(now));
        b.seen(record("a", std::to_string(now)), at(now + 250));
      }
      if (b.held() || b.wanted(at(now), 0)) {
        if (!b.held() && now > 0) b.renewed(record("b", "x"), at(now));
        if (b.held()) {
          ASSERT_EQ(a.remaining(at(now)), Milliseconds{0}) << last << " " << now;
        }
      }
    }
    EXPECT_TRUE(b.held());
  }
}

TEST(LeaseState, ReleasesOnlyWhatItHolds) {
  LeaseState state(options("me"));
  EXPECT_FALSE(state.released(0));
  state.seen(record("other", "1"), at(0));
  EXPECT_FALSE(state.released(0));
  state.renewed(record("me", "2"), at(0));
  EXPECT_EQ(state.released(0)->holder, "");
  EXPECT_EQ(state.released(0)->duration_seconds, 1);
}

// An API server with one Lease; the second PUT takes effect but is answered only when the caller
// gives up.
class OneLease final : public net::HttpClient {
 public:
  Result<net::HttpReply> send(const net::HttpCall& call, Milliseconds,
                              std::stop_token stop) override {
    std::unique_lock lock(mutex_);
    ++calls;
    if (broken) return net::HttpReply{500, {}, "{}"};
    if (call.method == "GET")
      return lease_.empty() ? net::HttpReply{404, {}, "{}"} : net::HttpReply{200, {}, lease_};
    nlohmann::json lease = nlohmann::json::parse(call.body);
    const bool stale = call.method == "PUT" &&
                       lease["metadata"].value("resourceVersion", "") != std::to_string(version_);
    if (stale) return net::HttpReply{409, {}, "{}"};
    lease["metadata"]["resourceVersion"] = std::to_string(++version_);
    lease_ = lease.dump();
    if (version_ == 2) {
      lock.unlock();
      while (!stop.stop_requested()) std::this_thread::sleep_for(Milliseconds{1});
      return Error{Code::kCancelled, "stopped"};
    }
    return net::HttpReply{200, {}, lease_};
  }
  Result<net::HttpReply> stream(const net::HttpCall&, const net::StreamLimits&, const net::OnLine&,
                                std::stop_token) override {
    return Error{Code::kInvalid, "not here"};
  }
  std::string holder() {
    const std::lock_guard lock(mutex_);
    return nlohmann::json::parse(lease_)["spec"].value("holderIdentity", "");
  }
  int version() {
    const std::lock_guard lock(mutex_);
    return version_;
  }
  bool broken = false;
  int calls = 0;

 private:
  std::mutex mutex_;
  std::string lease_;
  int version_ = 0;
};

TEST(Elector, ReleasesTheLeaseThoughItsRenewalWasCutOff) {
  OneLease server;
  kube::Client client(server);
  ElectorOptions quick = options("me");
  quick.retry_period = Milliseconds{20};
  Elector elector(
      client, quick, [] {}, [] { FAIL() << "lost"; });
  std::jthread thread([&](const std::stop_token& stop) { elector.run(stop); });
  while (server.version() < 2) std::this_thread::sleep_for(Milliseconds{1});
  EXPECT_TRUE(elector.leader());
  EXPECT_EQ(server.holder(), "me");
  thread.request_stop();
  thread.join();
  EXPECT_EQ(server.holder(), "");
}

TEST(Elector, AsksABrokenServerOncePerHalfRetryPeriodAndSaysWhatIsWrong) {
  OneLease server;
  server.broken = true;
  kube::Client client(server);
  ElectorOptions quick = options("me");
  quick.retry_period = Milliseconds{400};
  Elector elector(
      client, quick, [] { FAIL() << "won"; }, [] {});
  std::jthread thread([&](const std::stop_token& stop) { elector.run(stop); });
  std::this_thread::sleep_for(Milliseconds{700});
  thread.request_stop();
  thread.join();
  EXPECT_GE(server.calls, 1);
  EXPECT_LE(server.calls, 4);
  EXPECT_FALSE(elector.informed());
  EXPECT_EQ(elector.trouble(), "HTTP 500");
}

}  // namespace
}  // namespace swarm::reconcile
