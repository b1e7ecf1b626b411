#include "reconcile/world.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/check.h"
#include "kube/decode.h"
#include "reconcile/views.h"

namespace swarm::reconcile {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxDeletedKept = 1000;  // Swarms deleted while nobody reconciled

// The objects of one kind by Swarm. T is an immutable view.
template <typename T>
class Store {
 public:
  using Pointer = std::shared_ptr<const T>;

  void list_started() { ++generation_; }

  // The Swarms this concerns: the one it belongs to, and the one it belonged to when its label
  // changed.
  std::vector<Key> put(const std::string& id, const Key& key, Pointer object) {
    std::vector<Key> touched = {key};
    const auto found = owner_.find(id);
    if (found != owner_.end() && found->second != key) {
      touched.push_back(found->second);
      take_out(id, found->second);
    }
    owner_[id] = key;
    by_swarm_[key][id] = {std::move(object), generation_};
    return touched;
  }
  std::vector<std::pair<Key, Pointer>> remove(const std::string& id) {
    const auto found = owner_.find(id);
    if (found == owner_.end()) return {};
    const Key key = found->second;
    owner_.erase(found);
    return {{key, take_out(id, key)}};
  }
  std::vector<std::pair<Key, Pointer>> sweep() {
    std::vector<std::pair<Key, Pointer>> gone;
    for (auto group = by_swarm_.begin(); group != by_swarm_.end();) {
      for (auto it = group->second.begin(); it != group->second.end();) {
        if (it->second.generation == generation_) {
          ++it;
          continue;
        }
        gone.emplace_back(group->first, it->second.object);
        owner_.erase(it->first);
        it = group->second.erase(it);
      }
      group = group->second.empty() ? by_swarm_.erase(group) : std::next(group);
    }
    return gone;
  }
  template <typename Use>
  void each(const Key& key, Use&& use) const {
    const auto group = by_swarm_.find(key);
    if (group == by_swarm_.end()) return;
    for (const auto& [id, item] : group->second) use(item.object);
  }
  [[nodiscard]] std::size_t size() const { return owner_.size(); }
  [[nodiscard]] std::vector<Key> keys() const {
    std::vector<Key> out;
    for (const auto& [key, group] : by_swarm_) out.push_back(key);
    return out;
  }

 private:
  struct Item {
    Pointer object;
    std::uint64_t generation = 0;
  };
  Pointer take_out(const std::string& id, const Key& key) {
    const auto group = by_swarm_.find(key);
    check(group != by_swarm_.end() && group->second.contains(id), "an object is where it belongs");
    Pointer object = std::move(group->second.extract(id).mapped().object);
    if (group->second.empty()) by_swarm_.erase(group);
    return object;
  }

  std::map<Key, std::map<std::string, Item>> by_swarm_;
  std::unordered_map<std::string, Key> owner_;
  std::uint64_t generation_ = 0;
};

std::string id_of(const json& object) {
  return kube::text_at(object, "metadata.namespace") + "/" + kube::text_at(object, "metadata.name");
}

}  // namespace

std::optional<std::size_t> watched_index(std::string_view kind) {
  for (std::size_t i = 0; i < kWatched.size(); ++i) {
    if (kWatched[i].kind == kind) return i;
  }
  return std::nullopt;
}

struct World::State {
  Notify notify;
  mutable std::mutex mutex;
  Store<SwarmEntry> swarms;
  Store<plan::PodView> pods;
  Store<plan::LeaseView> leases;
  std::array<Store<plan::ChildView>, kWatchedKinds> children;  // those of pods and such stay empty
  std::map<Key, std::vector<DeletedSwarm>> deleted;
  std::size_t deleted_count = 0;
  // The Leases with a report that have gone before their Swarm, by name.
  using Leases = std::map<std::string, std::shared_ptr<const plan::LeaseView>>;
  std::map<Key, Leases> gone_leases;
  std::array<std::atomic<std::uint64_t>, kWatchedKinds> versions{};
  std::array<std::atomic<bool>, kWatchedKinds> listed{};
  std::array<std::unique_ptr<kube::WatchSink>, kWatchedKinds> sinks;

  void remember_lease(const Key& key, const std::shared_ptr<const plan::LeaseView>& lease) {
    if (lease->report.empty()) return;
    swarms.each(key, [&](const std::shared_ptr<const SwarmEntry>& entry) {
      if (entry->swarm.uid != lease->owner_uid) return;
      Leases& gone = gone_leases[key];
      if (gone.size() < api::kMaxCoordinators || gone.contains(lease->name)) {
        gone[lease->name] = lease;
      }
    });
  }
  void remember_deleted(const Key& key, std::shared_ptr<const SwarmEntry> entry) {
    Leases last;
    if (auto gone = gone_leases.extract(key)) last = std::move(gone.mapped());
    if (deleted_count >= kMaxDeletedKept) return;  // their drop counts are lost, nothing else
    leases.each(key, [&](const std::shared_ptr<const plan::LeaseView>& lease) {
      if (!lease->report.empty() && lease->owner_uid == entry->swarm.uid) last[lease->name] = lease;
    });
    DeletedSwarm& one = deleted[key].emplace_back(DeletedSwarm{std::move(entry), {}});
    for (const auto& [name, lease] : last) one.leases.push_back(*lease);
    ++deleted_count;
  }
};

namespace {

// What all sinks share: the view's version, and telling about changes outside the lock.
class SinkBase : public kube::WatchSink {
 public:
  SinkBase(std::atomic<std::uint64_t>& version, std::atomic<bool>& listed,
           const World::Notify& notify)
      : version_(version), listed_(listed), notify_(notify) {}

  void advanced(std::string_view version) override {
    version_.store(kube::version_number(version).value_or(0), std::memory_order_release);
  }

 protected:
  void finished(std::string_view version) {
    advanced(version);
    listed_.store(true, std::memory_order_release);
  }
  void tell(const std::vector<Key>& keys, bool urgent) {
    for (const Key& key : keys) {
      if (!key.name.empty()) notify_(key, urgent);
    }
  }

 private:
  std::atomic<std::uint64_t>& version_;
  std::atomic<bool>& listed_;
  const World::Notify& notify_;
};

template <typename T>
class ChildSink final : public SinkBase {
 public:
  using Decode = std::function<T(const json&)>;
  using Gone = std::function<void(const Key&, const std::shared_ptr<const T>&)>;  // under the lock
  ChildSink(std::mutex& mutex, Store<T>& store, Decode decode, std::atomic<std::uint64_t>& version,
            std::atomic<bool>& listed, const World::Notify& notify, Gone gone = {})
      : SinkBase(version, listed, notify),
        mutex_(mutex),
        store_(store),
        decode_(std::move(decode)),
        gone_(std::move(gone)) {}

  void list_started() override {
    const std::lock_guard lock(mutex_);
    store_.list_started();
  }
  void put(const json& object) override {
    auto view = std::make_shared<const T>(decode_(object));
    std::vector<Key> touched;
    {
      const std::lock_guard lock(mutex_);
      touched = store_.put(id_of(object), swarm_of(object), std::move(view));
    }
    tell(touched, false);
  }
  void removed(const json& object) override {
    std::vector<Key> touched;
    {
      const std::lock_guard lock(mutex_);
      touched = forget(store_.remove(id_of(object)));
    }
    tell(touched, false);
  }
  void list_finished(std::string_view version) override {
    std::vector<Key> touched;
    {
      const std::lock_guard lock(mutex_);
      touched = forget(store_.sweep());
    }
    finished(version);
    tell(touched, false);
  }

 private:
  std::vector<Key> forget(const std::vector<std::pair<Key, std::shared_ptr<const T>>>& gone) {
    std::vector<Key> keys;
    for (const auto& [key, object] : gone) {
      if (gone_) gone_(key, object);
      keys.push_back(key);
    }
    return keys;
  }

  std::mutex& mutex_;
  Store<T>& store_;
  const Decode decode_;
  const Gone gone_;
};

class SwarmSink final : public SinkBase {
 public:
  using Deleted = std::function<void(const Key&, std::shared_ptr<const SwarmEntry>)>;
  SwarmSink(std::mutex& mutex, Store<SwarmEntry>& store, Deleted deleted,
            std::atomic<std::uint64_t>& version, std::atomic<bool>& listed,
            const World::Notify& notify)
      : SinkBase(version, listed, notify),
        mutex_(mutex),
        store_(store),
        deleted_(std::move(deleted)) {}

  void list_started() override {
    const std::lock_guard lock(mutex_);
    store_.list_started();
  }
  void put(const json& object) override {
    const Key key{kube::text_at(object, "metadata.namespace"),
                  kube::text_at(object, "metadata.name")};
    std::shared_ptr<const SwarmEntry> entry = decode(object);
    if (!entry) return;  // no name or uid: nothing an API server sends
    bool changed_by_people = true;
    {
      const std::lock_guard lock(mutex_);
      store_.each(key, [&](const std::shared_ptr<const SwarmEntry>& before) {
        if (before->swarm.uid != entry->swarm.uid) {
          deleted_(key, before);  // made anew while we looked away
        } else {
          changed_by_people = before->swarm.generation != entry->swarm.generation ||
                              before->swarm.annotations != entry->swarm.annotations ||
                              before->swarm.deletion_time != entry->swarm.deletion_time;
        }
      });
      store_.put(id_of(object), key, std::move(entry));
    }
    tell({key}, changed_by_people);
  }
  void removed(const json& object) override {
    const Key key{kube::text_at(object, "metadata.namespace"),
                  kube::text_at(object, "metadata.name")};
    std::shared_ptr<const SwarmEntry> last = decode(object);
    {
      const std::lock_guard lock(mutex_);
      store_.each(key, [&](const std::shared_ptr<const SwarmEntry>& before) {
        if (!last) last = before;
      });
      if (last) deleted_(key, last);
      store_.remove(id_of(object));
    }
    tell({key}, true);
  }
  void list_finished(std::string_view version) override {
    std::vector<Key> touched;
    {
      const std::lock_guard lock(mutex_);
      for (auto& [key, entry] : store_.sweep()) {
        deleted_(key, entry);
        touched.push_back(key);
      }
    }
    finished(version);
    tell(touched, true);
  }

 private:
  static std::shared_ptr<const SwarmEntry> decode(const json& object) {
    auto entry = std::make_shared<SwarmEntry>();
    Result<api::Swarm> parsed = api::parse(object);
    if (parsed.ok()) {
      entry->swarm = std::move(parsed).value();
      return entry;
    }
    Result<api::Swarm> metadata = api::parse_metadata(object);
    if (!metadata.ok()) return nullptr;
    entry->swarm = std::move(metadata).value();
    entry->errors = parsed.error().message;
    return entry;
  }

  std::mutex& mutex_;
  Store<SwarmEntry>& store_;
  const Deleted deleted_;
};

}  // namespace

World::World(Notify notify) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.notify = std::move(notify);
  for (std::size_t i = 0; i < kWatchedKinds; ++i) {
    if (kWatched[i].kind == kube::kSwarms.kind) {
      s.sinks[i] = std::make_unique<SwarmSink>(
          s.mutex, s.swarms,
          [&s](const Key& key, std::shared_ptr<const SwarmEntry> e) {
            s.remember_deleted(key, std::move(e));
          },
          s.versions[i], s.listed[i], s.notify);
    } else if (kWatched[i].kind == kube::kPods.kind) {
      s.sinks[i] = std::make_unique<ChildSink<plan::PodView>>(s.mutex, s.pods, pod_view,
                                                              s.versions[i], s.listed[i], s.notify);
    } else if (kWatched[i].kind == kube::kLeases.kind) {
      s.sinks[i] = std::make_unique<ChildSink<plan::LeaseView>>(
          s.mutex, s.leases, lease_view, s.versions[i], s.listed[i], s.notify,
          [&s](const Key& key, const auto& lease) { s.remember_lease(key, lease); });
    } else {
      s.sinks[i] = std::make_unique<ChildSink<plan::ChildView>>(
          s.mutex, s.children[i],
          [kind = kWatched[i].kind](const json& object) { return child_view(object, kind); },
          s.versions[i], s.listed[i], s.notify);
    }
  }
}
World::~World() = default;

kube::WatchSink& World::sink(std::size_t watched) { return *state_->sinks.at(watched); }

bool World::synced() const {
  return std::all_of(
      state_->listed.begin(), state_->listed.end(),
      [](const std::atomic<bool>& listed) { return listed.load(std::memory_order_acquire); });
}

std::uint64_t World::version(std::size_t watched) const {
  return state_->versions.at(watched).load(std::memory_order_acquire);
}

std::shared_ptr<const SwarmEntry> World::swarm(const Key& key) const {
  const std::lock_guard lock(state_->mutex);
  std::shared_ptr<const SwarmEntry> out;
  state_->swarms.each(key, [&](const std::shared_ptr<const SwarmEntry>& entry) { out = entry; });
  return out;
}

std::vector<DeletedSwarm> World::take_deleted(const Key& key) {
  const std::lock_guard lock(state_->mutex);
  const auto found = state_->deleted.find(key);
  if (found == state_->deleted.end()) return {};
  std::vector<DeletedSwarm> out = std::move(found->second);
  state_->deleted.erase(found);
  state_->deleted_count -= out.size();
  return out;
}

void World::observe(const Key& key, plan::Observed& out) const {
  std::vector<std::shared_ptr<const plan::PodView>> pods;
  {
    const std::lock_guard lock(state_->mutex);
    state_->pods.each(key, [&](const auto& pod) { pods.push_back(pod); });
    state_->leases.each(key, [&](const auto& lease) { out.leases.push_back(*lease); });
    for (const auto& store : state_->children) {
      store.each(key, [&](const auto& child) { out.children.push_back(*child); });
    }
  }
  out.pods.reserve(pods.size());
  for (const auto& pod : pods) out.pods.push_back(*pod);
}

std::size_t World::swarms() const {
  const std::lock_guard lock(state_->mutex);
  return state_->swarms.size();
}

std::size_t World::pods() const {
  const std::lock_guard lock(state_->mutex);
  return state_->pods.size();
}

std::vector<Key> World::keys() const {
  const std::lock_guard lock(state_->mutex);
  return state_->swarms.keys();
}

}  // namespace swarm::reconcile
