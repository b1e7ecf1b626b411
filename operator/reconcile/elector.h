// Leader election by a Lease: at most one operator writes.
//
// Guarantees: between two holders lies at least the Lease's duration as each of them measures it on
// its own monotonic clock; clocks are never compared. remaining() says how long this process may
// still write: it is asked before every write and bounds its deadline, so that no write of ours is
// under way when another one may begin. A leader that cannot renew within renew_deadline has lost,
// for good: the process is to end. Threads: run() on a thread of its own; the rest from any.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>

#include "kube/client.h"

namespace swarm::reconcile {

struct ElectorOptions {
  std::string namespace_name;
  std::string lease_name = "swarm-operator";
  std::string identity;
  Milliseconds lease_duration{15'000};
  Milliseconds renew_deadline{10'000};
  Milliseconds retry_period{2'000};
};

// What is known about the Lease; pure.
class LeaseState {
 public:
  explicit LeaseState(ElectorOptions options) : options_(std::move(options)) {}

  // The Lease as read or as answered to our write; `asked` is when that request was sent.
  void seen(const kube::LeaseRecord& record, MonoTime asked);
  void absent() { record_.reset(); }
  // The record to write, or nullopt while somebody else holds it. `wall` is only for people.
  [[nodiscard]] std::optional<kube::LeaseRecord> wanted(MonoTime now, WallTime wall) const;
  // Our write succeeded; `sent` is when it was sent.
  void renewed(const kube::LeaseRecord& record, MonoTime sent);
  [[nodiscard]] bool exists() const { return record_.has_value(); }
  [[nodiscard]] bool held() const { return last_renewal_.has_value(); }
  [[nodiscard]] std::string holder() const { return record_ ? record_->holder : std::string(); }
  [[nodiscard]] std::optional<kube::LeaseRecord> released(WallTime wall) const;
  // Until somebody else's Lease may be taken.
  [[nodiscard]] Milliseconds expires_in(MonoTime now) const;
  // Time left for writes; 0 when none.
  [[nodiscard]] Milliseconds remaining(MonoTime now) const;
  // Held once, and not renewed in time.
  [[nodiscard]] bool lost(MonoTime now) const;

 private:
  ElectorOptions options_;
  std::optional<kube::LeaseRecord> record_;
  MonoTime changed_at_{};  // when the record was first seen like this
  std::optional<MonoTime> last_renewal_;
};

class Elector {
 public:
  // `client` must not be gated by this elector. Borrowed.
  Elector(kube::Client& client, ElectorOptions options, std::function<void()> on_won,
          std::function<void()> on_lost);

  // Until stop, or the loss. After stop the Lease is released if it was held.
  void run(const std::stop_token& stop);

  [[nodiscard]] Milliseconds remaining() const;
  [[nodiscard]] bool leader() const { return leader_.load(); }
  // Why the Lease could not be read or written the last time; empty: it could, or nothing was tried
  // yet.
  [[nodiscard]] std::string trouble() const;
  // An attempt has succeeded, be it to see that somebody else leads.
  [[nodiscard]] bool informed() const { return informed_.load(); }

 private:
  bool attempt(const std::stop_token& stop);  // false: nothing was learned
  bool look(const std::stop_token& stop, Milliseconds deadline);
  void failed(const char* what, const std::string& why, const std::stop_token& stop);
  void release();

  kube::Client& client_;
  const ElectorOptions options_;
  const std::function<void()> on_won_;
  const std::function<void()> on_lost_;
  LeaseState state_;  // the thread of run() only
  std::atomic<bool> leader_{false};
  std::atomic<std::int64_t> write_until_{
      0};  // monotonic ms: when the last renewal's deadline passes
  std::atomic<std::int64_t> lease_until_{0};
  std::atomic<bool> informed_{false};
  mutable std::mutex trouble_mutex_;
  std::string trouble_;
  int failures_ = 0;  // in a row; the thread of run() only
};

}  // namespace swarm::reconcile
