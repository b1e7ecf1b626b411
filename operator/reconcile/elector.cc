#include "reconcile/elector.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>

#include "kube/decode.h"
#include "telemetry/log.h"

namespace swarm::reconcile {
namespace {

constexpr Milliseconds kReleaseDeadline{3'000};
constexpr Milliseconds kExpirySlack{100};
constexpr int kReleaseAttempts = 3;
constexpr int kTroubleLogEvery = 5;  // failures in a row are logged at 1, 6, 11, …

std::int64_t ticks(MonoTime time) { return time.time_since_epoch().count(); }

}  // namespace

void LeaseState::seen(const kube::LeaseRecord& record, MonoTime asked) {
  const bool same = record_ && record_->resource_version == record.resource_version;
  if (!same) changed_at_ = asked;
  record_ = record;
}

std::optional<kube::LeaseRecord> LeaseState::wanted(MonoTime now, WallTime wall) const {
  kube::LeaseRecord out;
  if (record_) {
    const bool ours = record_->holder == options_.identity;
    const Milliseconds duration = std::chrono::seconds(record_->duration_seconds);
    if (!ours && !record_->holder.empty() && now < changed_at_ + duration) return std::nullopt;
    out = *record_;
    if (!ours) {
      out.acquire_time = wall;
      ++out.transitions;
    }
  } else {
    out.acquire_time = wall;
  }
  out.holder = options_.identity;
  out.duration_seconds = static_cast<int>(options_.lease_duration.count() / 1000);
  out.renew_time = wall;
  return out;
}

void LeaseState::renewed(const kube::LeaseRecord& record, MonoTime sent) {
  record_ = record;
  changed_at_ = sent;
  last_renewal_ = sent;
}

std::optional<kube::LeaseRecord> LeaseState::released(WallTime wall) const {
  if (!record_ || !last_renewal_ || record_->holder != options_.identity) return std::nullopt;
  kube::LeaseRecord out = *record_;
  out.holder.clear();
  out.duration_seconds = 1;
  out.renew_time = wall;
  return out;
}

Milliseconds LeaseState::expires_in(MonoTime now) const {
  if (!record_ || record_->holder.empty()) return Milliseconds{0};
  return std::max(Milliseconds{0},
                  changed_at_ + std::chrono::seconds(record_->duration_seconds) - now);
}

Milliseconds LeaseState::remaining(MonoTime now) const {
  if (!last_renewal_ || now >= *last_renewal_ + options_.renew_deadline) return Milliseconds{0};
  return *last_renewal_ + options_.lease_duration - now;
}

bool LeaseState::lost(MonoTime now) const {
  return last_renewal_ && now >= *last_renewal_ + options_.renew_deadline;
}

Elector::Elector(kube::Client& client, ElectorOptions options, std::function<void()> on_won,
                 std::function<void()> on_lost)
    : client_(client),
      options_(options),
      on_won_(std::move(on_won)),
      on_lost_(std::move(on_lost)),
      state_(std::move(options)) {}

Milliseconds Elector::remaining() const {
  const std::int64_t now = ticks(mono_now());
  if (now >= write_until_.load()) return Milliseconds{0};
  return Milliseconds{lease_until_.load() - now};
}

std::string Elector::trouble() const {
  const std::lock_guard lock(trouble_mutex_);
  return trouble_;
}

void Elector::failed(const char* what, const std::string& why, const std::stop_token& stop) {
  if (stop.stop_requested()) return;
  if (failures_++ % kTroubleLogEvery == 0)
    telemetry::warn(what, {{"failures", failures_}, {"why", why}});
  const std::lock_guard lock(trouble_mutex_);
  trouble_ = why;
}

bool Elector::look(const std::stop_token& stop, Milliseconds deadline) {
  const MonoTime asked = mono_now();
  const kube::Reply reply = client_.call(
      kube::get(kube::kLeases, options_.namespace_name, options_.lease_name), stop, deadline);
  if (reply.http_status == 404) {
    state_.absent();
    return true;
  }
  if (!reply.ok()) {
    failed("reading the leader's Lease failed", reply.error.message, stop);
    return false;
  }
  const Result<nlohmann::json> object = kube::parse_object(reply.body);
  if (!object.ok()) {
    failed("the leader's Lease is not readable", object.error().message, stop);
    return false;
  }
  state_.seen(kube::parse_lease(*object), asked);
  return true;
}

bool Elector::attempt(const std::stop_token& stop) {
  const Milliseconds deadline =
      std::max<Milliseconds>(options_.renew_deadline / 3, Milliseconds{500});
  // A holder knows what it wrote last; everybody else looks first.
  if ((!state_.held() || !state_.exists()) && !look(stop, deadline)) return false;
  if (const std::optional<kube::LeaseRecord> wanted = state_.wanted(mono_now(), wall_now())) {
    const MonoTime sent = mono_now();
    const kube::Request request =
        state_.exists() ? kube::update_lease(options_.namespace_name, options_.lease_name, *wanted)
                        : kube::create_lease(options_.namespace_name, options_.lease_name, *wanted);
    const kube::Reply reply = client_.call(request, stop, deadline);
    if (!reply.ok()) {
      failed("writing the leader's Lease failed", reply.error.message, stop);
      state_.absent();  // whatever is there now: look first
      return false;
    }
    const Result<nlohmann::json> object = kube::parse_object(reply.body);
    if (!object.ok()) {
      failed("the answer to writing the leader's Lease is not readable", object.error().message,
             stop);
      state_.absent();
      return false;
    }
    state_.renewed(kube::parse_lease(*object), sent);
    lease_until_.store(ticks(sent + options_.lease_duration));
    write_until_.store(ticks(sent + options_.renew_deadline));
    if (!leader_.exchange(true)) {
      telemetry::info("leader", {{"identity", options_.identity}});
      on_won_();
    }
  }
  failures_ = 0;
  informed_.store(true);
  const std::lock_guard lock(trouble_mutex_);
  trouble_.clear();
  return true;
}

void Elector::run(const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any never;
  while (!stop.stop_requested()) {
    const bool learned = attempt(stop);
    if (state_.lost(mono_now())) {
      leader_.store(false);
      on_lost_();
      return;
    }
    Milliseconds pause = options_.retry_period;
    if (state_.held()) {
      if (!learned) pause /= 4;  // the write failed: again in short steps, for there is little time
    } else {
      // Those who wait look twice as often, and at the very moment at which the Lease expires.
      pause /= 2;
      if (learned) pause = std::min(pause, std::max(state_.expires_in(mono_now()), kExpirySlack));
    }
    std::unique_lock lock(mutex);
    never.wait_for(lock, stop, pause, [] { return false; });
  }
  release();
}

void Elector::release() {
  write_until_.store(0);
  leader_.store(false);
  if (!state_.held()) return;
  std::string why = "it was taken by another";
  for (int i = 0; i < kReleaseAttempts; ++i) {
    // A renewal may have been under way when we were stopped: then it is not known what is there
    // now.
    if (!state_.exists() && !look({}, kReleaseDeadline)) {
      why = trouble();
      continue;
    }
    const std::optional<kube::LeaseRecord> record = state_.released(wall_now());
    if (!record) break;
    const kube::Reply reply =
        client_.call(kube::update_lease(options_.namespace_name, options_.lease_name, *record), {},
                     kReleaseDeadline);
    if (reply.ok()) {
      telemetry::info("leadership released");
      return;
    }
    why = reply.error.message;
    state_.absent();
  }
  telemetry::warn("releasing the Lease failed: it expires by itself", {{"why", why}});
}

}  // namespace swarm::reconcile
