// A coordinator's only ties to the API server: its team's Lease (epoch, report) and its own Swarm
// (settings).
//
// Threads: two of its own (one an Informer's) that block on HTTP; everything it tells comes by
// Loop::post on the loop's. The API server being away stops nothing that runs: an epoch once taken
// stays valid until somebody with a higher one shows up. The Lease is taken only after the Swarm
// was looked for: `settings`, or `deleted`, comes before the first `acquired`, unless what is there
// can't be read.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/ids.h"
#include "engine/config.h"
#include "engine/coordinator.h"
#include "engine/loop.h"
#include "kube/informer.h"
#include "net/http_client.h"

namespace swarm::engine {

class Cluster {
 public:
  struct Events {
    // The Lease is ours under this epoch; `last`: the last holder's report, empty if there is none.
    std::function<void(std::uint64_t epoch, const api::TeamReport& last)> acquired;
    // Somebody else holds a higher epoch. The last word about the Lease: it is left alone from now
    // on.
    std::function<void()> superseded;
    std::function<api::TeamReport()> report;  // asked for when it is about to be sent
    std::function<void(TeamSettings)> settings;
    std::function<void()> deleted;  // our Swarm is gone or on its way out; told at least once
    std::function<void(std::string)> problem;  // for the log; constant text, no secrets
  };
  static constexpr Milliseconds kLookPeriod{20000};  // at the Lease, when there is no news
  Cluster(Loop& loop, const Config& config, Events events, Milliseconds look_period = kLookPeriod);
  ~Cluster();  // waits for the threads (≤ one HTTP deadline)
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  // Reads the environment's API server and starts the threads. `led_epoch`: this pod has led in it
  // before its engine was restarted; 0: it has not.
  Status start(std::uint64_t led_epoch);
  void start(std::unique_ptr<net::HttpClient> client, std::uint64_t led_epoch);
  // The report may be another now. It is patched if it is, at most every 5 s; `soon`: 1 s after the
  // last one, because somebody awaits it (a successor those that it names).
  void report_changed(bool soon);
  // Take the Lease again with a higher epoch, unless somebody else has it.
  void raise_epoch(std::uint64_t at_least);

 private:
  void lease_thread(const std::stop_token& stop);
  bool acquire(const std::stop_token& stop);
  [[nodiscard]] bool must_acquire() const { return epoch_ == 0 || wanted_epoch_ > epoch_; }
  void superseded();
  bool wait_for_news(const std::stop_token& stop);
  bool push_report(const std::stop_token& stop);
  void tell(const std::string& text);
  bool pause(const std::stop_token& stop, Milliseconds time);

  Loop& loop_;
  const Config& config_;
  Events events_;
  const Milliseconds look_period_;
  std::unique_ptr<net::HttpClient> client_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::optional<api::TeamReport> report_;               // as asked for; guarded by mutex_
  bool changed_report_ = false, soon_ = false;          // guarded by mutex_
  bool listed_ = false;                                 // the Swarm; guarded by mutex_
  std::uint64_t wanted_epoch_ = 0, epoch_ = 0;          // guarded by mutex_
  std::string last_problem_;                            // both threads; guarded by mutex_
  std::uint64_t led_epoch_ = 0;                         // before start()
  bool superseded_ = false;                             // the lease thread's
  std::string sent_;                                    // the lease thread's
  MonoTime next_soon_{}, next_report_{}, next_look_{};  // the lease thread's: not before
  std::jthread lease_;
  class OwnSwarm;
  std::unique_ptr<OwnSwarm> own_swarm_;
  std::unique_ptr<kube::Informer> informer_;  // of our Swarm alone; before what it uses
};

}  // namespace swarm::engine
