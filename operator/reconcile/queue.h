// The work queue: which Swarm to look at next.
//
// A key is in it at most once; it is handed to one taker at a time and, if it was added meanwhile,
// again after done(). After failed() it waits: exponential per key, jittered, at least Retry-After;
// events do not shorten that wait, urgent() does (a person changed the spec). WorkQueue is pure:
// time comes from the caller. SharedQueue adds a lock and waiting; any thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <stop_token>
#include <string>

#include "os/time.h"

namespace swarm::reconcile {

// A Swarm: namespace and name.
struct Key {
  std::string namespace_name;
  std::string name;
  friend auto operator<=>(const Key&, const Key&) = default;
};

inline constexpr Milliseconds kFirstBackoff{250};
inline constexpr Milliseconds kMaxBackoff{60'000};

class WorkQueue {
 public:
  explicit WorkQueue(std::uint64_t seed) : random_(seed) {}

  void add(const Key& key, MonoTime due);  // at `due`, or earlier if it is already wanted earlier
  void urgent(const Key& key, MonoTime now);  // now, whatever failed before
  void failed(const Key& key, MonoTime now, std::optional<Milliseconds> retry_after);
  void succeeded(const Key& key);  // backoff begins anew
  void forget(const Key& key);     // nothing is left of it, unless it is being worked on

  // The most overdue key, now being worked on until done().
  std::optional<Key> take(MonoTime now);
  void done(const Key& key);

  [[nodiscard]] std::optional<MonoTime> next_due() const;  // of keys nobody works on
  [[nodiscard]] std::size_t size() const;                  // waiting
  [[nodiscard]] int failures(const Key& key) const;

 private:
  struct Item {
    std::optional<MonoTime> due;
    MonoTime not_before{};
    int failures = 0;
    bool taken = false;
  };
  void drop_if_empty(const Key& key);

  std::map<Key, Item> items_;
  std::mt19937_64 random_;
};

class SharedQueue {
 public:
  explicit SharedQueue(std::uint64_t seed) : queue_(seed) {}

  // Runs `change(queue)` under the lock and wakes the taker.
  template <typename Change>
  void with(Change&& change) {
    {
      const std::lock_guard lock(mutex_);
      change(queue_);
    }
    changed_.notify_all();
  }
  // Waits for a due key, until `deadline` or a stop.
  std::optional<Key> take(std::stop_token stop, MonoTime deadline);
  [[nodiscard]] std::size_t size();

 private:
  std::mutex mutex_;
  std::condition_variable_any changed_;
  WorkQueue queue_;
};

}  // namespace swarm::reconcile
