#include "reconcile/reconciler.h"

#include "telemetry/log.h"

namespace swarm::reconcile {
namespace {

constexpr Milliseconds kUnsettledRecheck{250};
constexpr Milliseconds kStaleRecheck{100};

}  // namespace

Reconciler::Reconciler(World& world, Executor& executor) : world_(world), executor_(executor) {}

void Reconciler::say_what_was_dropped(const Key& key) {
  for (DeletedSwarm& gone : world_.take_deleted(key)) {
    const api::Swarm& swarm = gone.entry->swarm;
    plan::Observed observed;
    observed.leases = std::move(gone.leases);
    telemetry::info("swarm deleted", {{"swarm", key.name}, {"namespace", key.namespace_name}});
    if (const std::optional<plan::Event> event = plan::dropped_on_delete(swarm, observed)) {
      telemetry::warn(
          "work was dropped with the swarm",
          {{"swarm", key.name}, {"namespace", key.namespace_name}, {"what", event->message}});
      executor_.emit(swarm, *event);
    }
    const auto memory = memories_.find(key);
    if (memory != memories_.end() && memory->second.uid == swarm.uid) memories_.erase(memory);
  }
}

Next Reconciler::reconcile(const Key& key, const plan::Settings& settings,
                           const std::stop_token& stop) {
  say_what_was_dropped(key);
  const std::shared_ptr<const SwarmEntry> entry = world_.swarm(key);
  Next next;
  if (!entry) {
    memories_.erase(key);
    next.kind = Next::Kind::kForget;
    return next;
  }
  const api::Swarm& swarm = entry->swarm;
  SwarmMemory& memory = memories_[key];
  if (memory.uid != swarm.uid) {
    memory = SwarmMemory{};
    memory.uid = swarm.uid;
  }

  // The order matters: the view's version is read before the view, so that the view is at least as
  // new.
  plan::Observed observed;
  world_.observe(key, observed);
  if (!executor_.ready(memory, swarm, observed.pods, mono_now())) {
    next.kind = Next::Kind::kAfter;
    next.after = kUnsettledRecheck;
    return next;
  }
  observed = {};
  world_.observe(key, observed);
  // The Swarm itself may have been read before the version said that it is new enough.
  const std::shared_ptr<const SwarmEntry> fresh = world_.swarm(key);
  if (!fresh || fresh->swarm.uid != swarm.uid) {
    next.kind = Next::Kind::kAfter;
    return next;
  }
  const Outcome completed = executor_.complete(memory, fresh->swarm, observed, stop);
  if (completed.stopped) {
    next.kind = Next::Kind::kStopped;
    return next;
  }
  if (!completed.ok) {
    if (completed.refused) {
      const Outcome told = executor_.perform(
          memory, fresh->swarm,
          plan::plan_cut_off(fresh->swarm, completed.why, memory.plan, wall_now()), stop);
      next.writes = told.writes;
    }
    next.kind = Next::Kind::kFailed;
    next.retry_after = completed.retry_after;
    next.why = completed.why;
    return next;
  }

  const WallTime now = wall_now();
  const plan::Plan plan = fresh->errors.empty() ? plan::plan(fresh->swarm, observed, settings, now)
                                                : plan::plan_unreadable(fresh->swarm, fresh->errors,
                                                                        observed.memory, now);
  const Outcome outcome = executor_.perform(memory, fresh->swarm, plan, stop);
  next.writes = outcome.writes;
  next.why = outcome.why;
  if (outcome.stopped) {
    next.kind = Next::Kind::kStopped;
  } else if (!outcome.ok) {
    next.kind = Next::Kind::kFailed;
    next.retry_after = outcome.retry_after;
  } else if (outcome.more) {
    next.kind = Next::Kind::kAfter;
  } else if (outcome.view_stale) {
    next.kind = Next::Kind::kAfter;
    next.after = kStaleRecheck;
  } else if (plan.requeue_after) {
    next.kind = Next::Kind::kAfter;
    next.after = *plan.requeue_after;
  }
  return next;
}

}  // namespace swarm::reconcile
