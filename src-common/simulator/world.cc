#include "simulator/world.h"

#include <algorithm>

namespace swarm::simulator {
namespace {

constexpr int kHealRounds = 400, kQuietRounds = 60, kAskedAgain = 20;
constexpr Milliseconds kHealRound{500};
constexpr int kPurgeAfterRounds = 20;  // dead letters may fill an inbox until somebody ends them
constexpr int kRedriveRound = 5;
constexpr Milliseconds kUserIdTtl{100'000'000};
constexpr std::size_t kMixedPercent = 33;

bool is_rare(Step step) {
  return step == Step::kCopied || step == Step::kDead || step == Step::kRedriven ||
         step == Step::kPurged;
}

// Of a log that has sent to an agent, when all else is done: a priority is a stream, and its
// replies another.
constexpr std::uint64_t kMarksOfALog = 2 * mailbox::kPriorities;
constexpr std::uint64_t kMarksOfOffers = 1;  // how far its predecessor has handed over

}  // namespace

World::World(std::uint64_t seed, Totals& totals, Trace trace)
    : seed_(seed),
      random_(seed),
      totals_(totals),
      trace_(std::move(trace)),
      chaotic_(seed % 2 == 0) {
  const std::uint64_t aim = seed / 2;
  aimed_step_ = static_cast<Step>(aim % kSteps);
  aimed_fault_ = static_cast<Fault>(aim / kSteps % kFaults);
  mixed_ = random_.chance(kMixedPercent);
  for (const AgentName& name : {kFirstName, kSecondName}) {
    const mailbox::Limits limits{
        .max_inbox_messages = static_cast<std::uint32_t>(3 + random_.below(20)),
        .max_outbox_messages = static_cast<std::uint32_t>(3 + random_.below(20)),
        .max_received_bytes = random_.chance(30) ? 1000 + random_.below(20000) : 0,
        .max_sent_bytes = random_.chance(30) ? 1000 + random_.below(20000) : 0,
        .max_message_bytes = 1000,
        .max_attempts = static_cast<std::uint16_t>(2 + random_.below(is_rare(aimed_step_) ? 1 : 6)),
        .user_id_ttl = kUserIdTtl,
        .max_kept = static_cast<std::uint32_t>(1 + random_.below(30))};
    const auto agents = static_cast<std::uint32_t>(1 + random_.below(3));
    const auto segments = static_cast<std::uint32_t>(6 + 2 * agents + random_.below(20));
    pods_.push_back(
        std::make_unique<Pod>(name, agents, limits, segments, some_release(Release::kBefore)));
    watch(*pods_.back());
  }
  for (auto& pod : pods_) recover(*pod, {}, false);
}

Release World::some_release(Release oldest) {
  if (!mixed_) return Release::kThis;
  const auto first = static_cast<std::size_t>(oldest);
  return static_cast<Release>(first + random_.below(3 - first));
}

std::string World::run() {
  const std::size_t steps = 200 + random_.below(600);
  for (std::size_t i = 0; i < steps && !failed(); ++i) step();
  if (!failed()) heal();
  count_told();
  return model_.broken();
}

void World::count_told() {
  for (const Known& k : model_.all()) {
    if (k.accepted) ++totals_.accepted;
    if (k.refused) ++totals_.refused;
    if (k.ack_ok) ++totals_.acks;
    if (k.resent) ++totals_.again;
  }
  for (const auto& pod : pods_) {
    if (pod->log) totals_.copied += pod->log->stats().copied_records;
  }
}

void World::pass_time() {
  const auto passed = static_cast<int>(random_.below(20));
  for (const auto& pod : pods_) pod->now += Milliseconds{passed * pod->rate};
  if (ghost_) ghost_->now += Milliseconds{passed * ghost_->rate};
}

void World::step() {
  pass_time();
  if (ghost_ && random_.chance(15)) return ghost_step();
  Pod& pod = *pods_[random_.below(2)];
  if (pod.blocked > 0) --pod.blocked;
  if (pod.paused > 0) {
    if (--pod.paused == 0) jump_clock(pod);
    return;
  }
  const std::size_t what = random_.below(1000);
  if (what < 6)
    strike(pod, Fault::kCrash);
  else if (what < 11)
    strike(pod, Fault::kDisk);
  else if (what < 15)
    strike(pod, Fault::kWiped);
  else if (what < 19)
    strike(pod, Fault::kOneWay);
  else if (what < 22)
    strike(pod, Fault::kPaused);
  else if (what < 24)
    strike(pod, Fault::kSuccessor);
  else if (what < 27)
    retire(pod);
  else
    ordinary_step(pod);
  if (failed()) return;
  if (pods_[0].get() != &pod && pods_[1].get() != &pod) return;  // it has a successor
  if (!pod.directory.crashed() && pod.batch.has(aimed_step_) &&
      random_.chance(is_rare(aimed_step_) ? 50 : 4)) {
    strike(pod, aimed_fault_);
    if (failed() || (pods_[0].get() != &pod && pods_[1].get() != &pod)) return;
  }
  if (pod.directory.crashed()) return restart(pod);
  if (pod.paused > 0) return;
  collect_outcomes(pod);
  if (random_.chance(60)) flush(pod);
}

void World::ordinary_step(Pod& pod) {
  if (is_rare(aimed_step_) && random_.chance(10)) return on_the_way_to_aim(pod);
  const std::size_t what = random_.below(1000);
  if (what < 25)
    send_to_several(pod);
  else if (what < 140)
    send_new(pod);
  else if (what < 160)
    send_again(pod);
  else if (what < 340)
    transmit(pod, random_.below(3000));
  else if (what < 620)
    handle(pod);
  else if (what < 730)
    receive(pod, one_of(pod));
  else if (what < 840)
    use_held(pod);
  else if (what < 870)
    tick(pod);
  else if (what < 925)
    link_up();
  else if (what < 932)
    link_down();
  else if (what < 947)
    retry(pod);
  else if (what < 965)
    withdraw(pod);
  else if (what < 975)
    toggle_await(pod);
  else if (what < 983)
    redrive(pod, one_of(pod));
  else if (what < 987)
    purge(pod, one_of(pod), 1);
  else if (what < 989)
    drain(pod);
  else if (what < 994)
    give_back(pod);
  else if (chaotic_ && linked_)
    resend_debts(pod);
  // A pod that drains does not stay long.
  if (pod.draining && !pod.directory.crashed() && random_.chance(10)) restart(pod);
}

// What is rare is tried more often where it is wanted.
void World::on_the_way_to_aim(Pod& pod) {
  switch (aimed_step_) {
    case Step::kRedriven:
      return redrive(pod, one_of(pod));
    case Step::kPurged:
      return purge(pod, one_of(pod), 1);
    case Step::kCopied:
      return send_new(pod);
    default:
      return receive(pod, one_of(pod));
  }
}

// No more faults: everything accepted must now arrive.
void World::heal() {
  healing_ = true;
  frames_fate_.reset();
  if (!retiring_) end_ghost();
  for (auto& pod : pods_) {
    pod->directory.calm();
    pod->paused = pod->blocked = 0;
    flush(*pod);
    if (failed()) return;
    if (random_.chance(20)) damage_a_copy(*pod);
    pod->release = Release::kThis;  // what one of another refused goes on then
    restart(*pod);
    if (failed()) return;
  }
  link_down();
  chaotic_ = false;
  for (auto& pod : pods_) pod->in.clear();
  if (ghost_) {
    ghost_->directory.calm();
    ghost_->release = Release::kThis;
    restart_ghost();
    if (failed()) return;
    ghost_->in.clear();
    ghost_link(true);
    handover_link(true);
  }
  link_up();
  if (random_.chance(50)) nothing_is_held_alone();
  for (int round = 0; round < kHealRounds && !failed(); ++round) {
    if (!heal_round(round)) break;
  }
  if (!failed()) all_is_settled();
}

// Frames alone move, and no agent takes anything: soon two pods hold each message, unless one has
// no room for it.
void World::nothing_is_held_alone() {
  const auto alone = [&] {
    return pods_[0]->box->books().single_copy + pods_[1]->box->books().single_copy;
  };
  for (int round = 0; round < kQuietRounds && !failed(); ++round) {
    if (round > 0 && !ghost_ && alone() == 0) return;
    if (round % kAskedAgain == 0) said_full_ = false;
    if (ghost_) heal_ghost();
    for (auto& pod : pods_) {
      if (failed()) return;
      give_back(*pod);
      retry(*pod);
      carry(*pod);
    }
  }
  if (!failed() && !ghost_ && !said_full_ && alone() != 0)
    model_.fail(std::to_string(alone()) + " messages have one copy, and nobody lacks room");
}

// false: nothing is left to do.
bool World::heal_round(int round) {
  bool busy = ghost_ != nullptr;
  if (ghost_) heal_ghost();
  if (failed()) return false;
  for (auto& pod : pods_) {
    for (auto& each : pods_) each->now += kHealRound / 2;
    heal_pod(*pod, round);
    if (failed()) return false;
    const mailbox::Books books = pod->box->books();
    busy = busy || books.inbox_live + books.outbox_live + books.dead_live > 0 ||
           !pod->box->ack_creditors().empty();
  }
  return busy || !pods_[0]->in.empty() || !pods_[1]->in.empty();
}

// It hands over what the others have room for.
void World::heal_ghost() {
  Pod& ghost = *ghost_;
  ghost.box->begin_offers();
  offer(ghost);
  for (std::size_t frames = ghost.in.size(); frames > 0 && !failed(); --frames) handle(ghost);
  if (failed()) return;
  if (ghost.in.empty()) handle(ghost);  // what was read in part
  flush(ghost);
  if (!failed() && ghost.box->books().outbox_live == 0) end_ghost();
}

// What it has to send, and what has come.
void World::carry(Pod& pod) {
  send_grants(pod);
  transmit(pod, 5000);
  for (std::size_t frames = pod.in.size(); frames > 0 && !failed(); --frames) handle(pod);
  if (failed()) return;
  if (pod.in.empty()) handle(pod);  // what was read in part
  collect_outcomes(pod);
  flush(pod);
}

void World::heal_pod(Pod& pod, int round) {
  retry(pod);
  give_back(pod);
  carry(pod);
  if (failed()) return;
  for (std::uint32_t n = 0; n < pod.agents; ++n) {
    receive(pod, agent_of(pod.name, n));
    flush(pod);
    if (failed()) return;
  }
  for (const Held& held : pod.held) {
    event();
    const auto result = pod.box->ack(pod.now, model_.at(held.message).message.to,
                                     model_.at(held.message).message.id, held.attempt);
    if (result) acked(pod, held.message, *result);
  }
  pod.held.clear();
  if (round == kRedriveRound && random_.chance(30)) redrive(pod, one_of(pod));
  for (std::uint32_t n = 0; round > kPurgeAfterRounds && n < pod.agents && !failed(); ++n)
    purge(pod, agent_of(pod.name, n), pod.limits.max_inbox_messages);
  flush(pod);
  if (failed()) return;
  tick(pod);
  strangers_end(pod);
}

void World::all_is_settled() {
  for (auto& pod : pods_) {
    check_books(*pod);
    const mailbox::Books books = pod->box->books();
    if (books.inbox_live + books.outbox_live + books.dead_live != 0 ||
        !pod->box->ack_creditors().empty() || books.sent_bytes != 0) {
      return model_.fail(
          pod->name.value + " has not drained: inbox " + std::to_string(books.inbox_live) +
          ", outbox " + std::to_string(books.outbox_live) + " of " +
          std::to_string(books.sent_bytes) + " bytes, dead " + std::to_string(books.dead_live));
    }
  }
  model_.nothing_is_lost();
  // Nothing comes twice, and nothing but the streams' marks stays behind.
  for (auto& pod : pods_) {
    restart(*pod);
    if (failed()) return;
    for (std::uint32_t n = 0; n < pod->agents; ++n) {
      if (pod->box->receive(pod->now, agent_of(pod->name, n), Milliseconds{1}, {}))
        return model_.fail(pod->name.value + " hands out a message that had come to its end");
    }
    pod->now += 2 * kUserIdTtl;
    for (int i = 0; i < 40; ++i) (void)pod->box->tick(pod->now);
    pod->box->on_incarnation(other(*pod).name, other(*pod).log->id());
    strangers_end(*pod);
    if (const auto left = pod->log->stats().live_records;
        left > kMarksOfALog * pod->agents * logs_of(other(*pod).name) + kMarksOfOffers)
      return model_.fail(pod->name.value + "'s log keeps " + std::to_string(left) + " records");
  }
}

Pod* World::pod_of(const LogId& log) {
  for (const auto& pod : pods_) {
    if (pod->log && pod->log->id() == log) return pod.get();
  }
  return ghost_ && ghost_->log->id() == log ? ghost_.get() : nullptr;
}

// Numbered, so that a log and a sequence in it fit into one number (sent_as).
LogId World::new_log_id() {
  LogId id;
  const std::uint64_t n = ++logs_;
  for (std::size_t i = 0; i < 4; ++i) id.bytes[i] = static_cast<std::uint8_t>(n >> (8U * i));
  id.bytes[15] = 1;
  return id;
}

void World::say(const Pod& pod, const std::string& what) {
  trace_(std::to_string(pod.now.time_since_epoch().count()) + " " + pod.name.value +
         (is_ghost(pod) ? "'s former pod " : " ") + what);
}

}  // namespace swarm::simulator
