// What goes wrong, and how it is counted.
#include <algorithm>
#include <map>
#include <tuple>

#include "log/bytes.h"
#include "simulator/world.h"

namespace swarm::simulator {

using sim::FakeDirectory;

namespace {

constexpr int kStartsAtMost = 50;
constexpr Milliseconds kPauseJump{30'000}, kWallJump{3'600'000};
// docs/log-format.md: where the first record of a segment stands, and its sequence in it.
constexpr std::uint64_t kFirstRecord = 64;
constexpr std::size_t kSequenceOffset = 8, kMarkBytes = 8;

}  // namespace

void World::watch(Pod& pod) {
  pod.directory.keep_undo(!chaotic_);
  pod.directory.observe([this, &pod](const FakeDirectory::Change& change, FakeDirectory::Fault f) {
    observe(pod, change, f);
  });
}

// What a change of the directory is, by the documented layout of its files.
void World::observe(Pod& pod, const FakeDirectory::Change& change, FakeDirectory::Fault fault) {
  using Kind = FakeDirectory::Change::Kind;
  Steps steps;
  if (change.name == "superblock") {
    steps.add(Step::kSuperblock);
  } else if (change.kind != Kind::kWrite || change.offset < kFirstRecord) {
    steps.add(Step::kSegment);
  } else if (change.data.size() == kMarkBytes) {
    const auto state = static_cast<log::State>(change.data[0]);
    if (state == log::State::kDead) steps.add(Step::kDead);
    if (state == log::State::kDone) steps.add(Step::kMarkedDone);
  } else {
    const auto sequence = log::get<log::Sequence>(change.data, kSequenceOffset);
    if (sequence > pod.highest)
      pod.highest = sequence;
    else if (sequence != 0)  // else a torn record is made unreadable
      steps.add(Step::kCopied);
  }
  pod.batch.add(steps);
  if (fault == FakeDirectory::Fault::kNone) return;
  if (pod.doing) steps.add(*pod.doing);
  if (pod.committing) steps.add(pod.batch);
  pod.batch.add(steps);  // a crash is counted when it is known what it undid
  if (fault == FakeDirectory::Fault::kFail) {
    event();
    meet(steps, Fault::kDisk);
  }
  if (traced()) {
    say(pod, std::string(fault == FakeDirectory::Fault::kFail ? "can't change " : "dies at ") +
                 std::string(change.name));
  }
}

void World::strike(Pod& pod, Fault fault) {
  event();
  switch (fault) {
    case Fault::kCrash:
      if (random_.chance(60)) return pod.directory.crash_in(1 + random_.below(12));
      return restart(pod);
    case Fault::kUndo:
      return restart(pod);
    case Fault::kDisk:
      return pod.directory.fail_in(1 + random_.below(6));
    case Fault::kLost:
    case Fault::kDuplicated:
    case Fault::kReordered:
      frames_fate_ = fault;
      return flush(pod);
    case Fault::kOneWay:
      other(pod).blocked = 3 + random_.below(30);
      if (traced()) say(other(pod), "hears nothing for a while");
      return;
    case Fault::kWiped:
      return wipe(pod);
    case Fault::kPaused:
      return pause(pod);
    case Fault::kRecoveryCrash:
      return restart(pod, true);
    case Fault::kSuccessor:
      return succeed(pod);
  }
}

void World::restart(Pod& pod, bool die_in_recovery) {
  if (traced()) say(pod, "restarts");
  if (pod.log) totals_.copied += pod.log->stats().copied_records;
  const Steps interrupted = pod.batch;
  link_down();
  if (ghost_) other(pod).name == ghost_->name ? ghost_link(false) : handover_link(false);
  pod.out.clear();
  pod.news.clear();
  pod.held.resize(pod.held.size() / 2);  // some agents live on and ack what they hold
  pod.waiting.clear();
  pod.sending.clear();
  pod.debts.clear();
  pod.awaited.clear();
  pod.call = {};
  pod.inlets.clear();
  pod.features.clear();
  pod.closes_link = false;
  pod.paused = 0;
  pod.stop();
  const bool undone = pod.directory.restart(chaotic_ ? nullptr : &random_) > 0;
  meet(interrupted, undone ? Fault::kUndo : Fault::kCrash);
  recover(pod, interrupted, die_in_recovery);
}

void World::recover(Pod& pod, Steps interrupted, bool die) {
  for (int starts = 0;; ++starts) {
    event();
    ++totals_.restarts;
    if (starts >= kStartsAtMost) return model_.fail(pod.name.value + "'s log does not open");
    if (starts < kStartsAtMost / 2 && !healing_) {
      if (die && starts == 0)
        pod.directory.crash_in(1 + random_.below(2));
      else if (random_.chance(15))
        pod.directory.crash_in(1 + random_.below(8));
      else if (random_.chance(5))
        pod.directory.fail_in(1 + random_.below(6));
    }
    pod.batch.clear();
    pod.doing = Step::kRecovered;
    const bool started = pod.start(new_log_id());
    pod.doing.reset();
    if (started) break;
    const bool died = pod.directory.crashed();
    pod.stop();
    const bool undone = pod.directory.restart(chaotic_ ? nullptr : &random_) > 0;
    if (died) {
      Steps met = pod.batch;
      met.add(Step::kRecovered);
      meet(met, undone ? Fault::kUndo : Fault::kCrash);
      met.add(interrupted);
      meet(met, Fault::kRecoveryCrash);
    }
  }
  pod.directory.calm();
  pod.directory.barrier();
  pod.batch.add(Step::kRecovered);
  pod.life = ++lives_;
  pod.draining = false;
  pod.found = pod.fill([](const mailbox::Summary&) { return true; });
  if (pod.recovery.fresh && pod.begun)
    return model_.fail(pod.name.value + "'s log was lost in a restart");
  if (!pod.begun) ++logs_of(pod.name);
  pod.begun = true;
  if (pod.recovery.corrupt_records != 0)
    return model_.fail(pod.name.value + "'s log is whole and was found damaged");
  check_books(pod);
}

// Only while the other pod holds every accepted message that is not finished.
void World::wipe(Pod& pod) {
  if (!model_.may_lose(pod.name)) return;
  if (traced()) say(pod, "loses its log");
  ++totals_.wipes;
  meet(pod.batch, Fault::kWiped);
  pod.batch.clear();
  pod.directory.crash();
  pod.directory.wipe();
  pod.begun = false;
  pod.held.clear();
  model_.lose(pod.name);
  restart(pod);
}

// The name moves to a new pod with a log of its own. Its former pod has no agents any more, but
// sends what is in its outbox, and hears answers, until it ends or dies.
void World::succeed(Pod& pod) {
  if (ghost_ || !model_.may_lose(pod.name)) return;
  if (traced()) say(pod, "has a successor");
  ++totals_.successors;
  model_.lose(pod.name);
  pass_name(pod, false);
}

// A planned end: the former pod does not go before its successor has what is in its outbox.
void World::retire(Pod& pod) {
  if (ghost_ || pod.release == Release::kBefore || !model_.may_retire(pod.name)) return;
  if (traced()) say(pod, "drains");
  ++totals_.retired;
  model_.retire(pod.name);
  handed_over_.insert(pod.log->id());
  pod.box->stop_intake();
  pass_name(pod, true);
  retiring_ = true;
}

void World::pass_name(Pod& pod, bool drains) {
  meet(pod.batch, Fault::kSuccessor);
  link_down();
  auto& place = pods_[pod.name == kFirstName ? 0 : 1];
  // A pod that drains to one of the release before cannot hand over: it waits until its time is up.
  auto next = std::make_unique<Pod>(pod.name, pod.agents, pod.limits, pod.segments,
                                    some_release(drains ? Release::kThis : Release::kBefore));
  next->now = pod.now + Milliseconds{static_cast<int>(random_.below(1000))};
  ghost_ = std::move(place);
  place = std::move(next);
  ghost_->directory.calm();
  ghost_->held.clear();
  ghost_->paused = ghost_->blocked = 0;
  watch(*place);
  recover(*place, {}, false);
  ghost_linked_ = false;
  ghost_link(true);
}

void World::end_ghost() {
  if (!ghost_) return;
  if (traced()) say(*ghost_, "ends");
  ghost_link(false);
  handover_link(false);
  retiring_ = false;
  totals_.copied += ghost_->log->stats().copied_records;
  ghost_.reset();
}

void World::ghost_step() {
  Pod& ghost = *ghost_;
  const std::size_t what = random_.below(100);
  if (retiring_ && what < 20)
    offer(ghost);
  else if (retiring_ && what < 25)
    handover_link(!handover_linked_ || random_.chance(30));
  else if (retiring_ && what < 28 && handover_linked_)
    ghost.box->begin_offers();
  else if (what < 40)
    transmit(ghost, random_.below(3000));
  else if (what < 85)
    handle(ghost);
  else if (what < 94)
    ghost_link(!ghost_linked_);
  else if (!retiring_)
    return end_ghost();
  else if (what < 96)
    return ghost.directory.crash_in(1 + random_.below(12));
  if (failed()) return;
  collect_outcomes(ghost);
  if (random_.chance(60)) flush(ghost);
  if (ghost.directory.crashed()) return retiring_ ? restart_ghost() : end_ghost();
  if (retiring_ && ghost.out.empty() && ghost.box->books().outbox_live == 0) {
    flush(ghost);
    if (ghost.directory.crashed()) return restart_ghost();
    end_ghost();
  }
}

// A process that drains begins anew, and goes on with it.
void World::restart_ghost() {
  Pod& ghost = *ghost_;
  if (traced()) say(ghost, "restarts");
  const Steps interrupted = ghost.batch;
  ghost_link(false);
  handover_link(false);
  ghost.out.clear();
  ghost.news.clear();
  ghost.sending.clear();
  ghost.debts.clear();
  ghost.waiting.clear();
  ghost.inlets.clear();
  ghost.features.clear();
  ghost.stop();
  const bool undone = ghost.directory.restart(chaotic_ ? nullptr : &random_) > 0;
  meet(interrupted, undone ? Fault::kUndo : Fault::kCrash);
  recover(ghost, interrupted, false);
  if (!failed()) ghost.box->stop_intake();
}

// SIGSTOP: what is to be told waits, then the clock has moved on. The wall clock may have been set
// meanwhile, and the machine may count time twice as fast for a while.
void World::pause(Pod& pod) {
  if (traced()) say(pod, "stops");
  meet(pod.batch, Fault::kPaused);
  pod.paused = 1 + random_.below(30);
}

void World::jump_clock(Pod& pod) {
  event();
  pod.now += kPauseJump;
  pod.rate = random_.chance(50) ? 2 : 1;
  pod.wall_ahead = kWallJump * (static_cast<int>(random_.below(3)) - 1);
  if (traced()) say(pod, "goes on");
}

// A byte of a copy of the directory is damaged: what is still found there is unaltered, and what is
// missing is reported.
void World::damage_a_copy(const Pod& pod) {
  using Found =
      std::map<log::Sequence, std::tuple<std::uint8_t, log::State, std::uint16_t, std::string>>;
  const auto open = [&](FakeDirectory& directory, Found& found) {
    event();
    log::Recovery recovery;
    const auto opened = log::Log::open(
        directory, pod.options(), LogId{},
        [&](const log::Record& r) {
          found[r.sequence] = {r.kind, r.state, r.attempt, std::string(r.payload)};
        },
        &recovery);
    if (!opened) model_.fail("a copy of a log does not open: " + opened.error().message);
    return recovery;
  };
  FakeDirectory copy(Pod::bytes_of(pod.segments));
  copy.copy_files(pod.directory);
  Found whole, rest;
  (void)open(copy, whole);
  copy.copy_files(pod.directory);
  const auto names = copy.list();
  const std::string& name = (*names)[random_.below(names->size())];
  std::string& bytes = *copy.content(name);
  // Near its beginning, where records are: the rest is mostly zero.
  const std::size_t at = random_.below(std::min<std::size_t>(bytes.size(), kSegmentBytes / 2));
  bytes[at] = static_cast<char>(bytes[at] ^ static_cast<char>(1 + random_.below(255)));
  const log::Recovery recovery = open(copy, rest);
  if (failed()) return;
  ++totals_.damages;
  for (const auto& [sequence, record] : rest) {
    const auto it = whole.find(sequence);
    if (it == whole.end() || it->second != record)
      return model_.fail("a damaged record was found as if it were whole");
  }
  if (rest.size() + 1 < whole.size()) return model_.fail("one damaged byte cost several records");
  if (rest.size() < whole.size() && recovery.corrupt_records == 0)
    model_.fail("a committed record was lost to a damaged byte, and nobody was told");
}

}  // namespace swarm::simulator
