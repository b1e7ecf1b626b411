// Copies on other nodes (docs/decisions/0013), the part of Mail that finds a custodian, moves the
// frames, and keeps time.
#include <algorithm>

#include "base/encoding.h"
#include "engine/mail.h"

namespace swarm::engine {

using link::FrameType;
using mailbox::Answer;

namespace {

constexpr Milliseconds kFeaturesCheck{10}, kWindowCheck{2};
constexpr std::size_t kEntrustBytes = 64U << 10U;  // a batch

std::string answer_payload(Answer answer) {
  std::string payload;
  link::put_u8(payload, static_cast<std::uint8_t>(answer));
  return payload;
}

// `head`, and as many of the sequences as a frame takes, again and again.
void send_sequences(Session& session, FrameType type, const std::string& head,
                    const std::vector<log::Sequence>& sequences) {
  for (std::size_t begin = 0; begin < sequences.size(); begin += kMaxSequencesPerFrame) {
    std::string payload = head;
    const auto end = std::min(sequences.size(), begin + kMaxSequencesPerFrame);
    for (std::size_t i = begin; i < end; ++i) link::put_u64(payload, sequences[i]);
    session.send(type, payload);
  }
}

// nullopt: malformed.
std::optional<std::vector<log::Sequence>> read_sequences(link::PayloadReader& in) {
  std::vector<log::Sequence> out;
  while (in.ok() && !in.done() && out.size() < kMaxSequencesPerFrame) out.push_back(in.u64());
  return in.done() && !out.empty() ? std::optional(std::move(out)) : std::nullopt;
}

}  // namespace

std::optional<AgentName> choose_custodian(const AgentName& self, const std::string& node,
                                          const std::vector<Candidate>& candidates,
                                          const std::map<AgentName, MonoTime>& passed_over) {
  // The highest of hashes that each pair has for itself: one that goes moves nobody else's choice.
  struct Rank {
    MonoTime until{};
    std::string hash;
  };
  std::optional<AgentName> best;
  Rank first;
  for (const auto& candidate : candidates) {
    if (candidate.name == self || candidate.node.empty() || candidate.node == node) continue;
    const auto passed = passed_over.find(candidate.name);
    Rank rank{passed == passed_over.end() ? MonoTime{} : passed->second,
              sha256(self.value + '\n' + candidate.name.value)};
    const bool better =
        !best || rank.until < first.until || (rank.until == first.until && rank.hash > first.hash);
    if (!better) continue;
    best = candidate.name;
    first = std::move(rank);
  }
  return best;
}

// ---- of what we send

void Mail::look_after_copies(MonoTime now) {
  tell_wards(now);
  release_elsewhere();
  auto& c = custodian_;
  if (!box_.needs_custodian()) {
    c.wanted = false;
    return;
  }
  if (!std::exchange(c.wanted, true)) c.unlinked = now;
  if (!c.name.empty() && is_up(c.name)) return entrust(now);
  if (box_.releasing()) {
    if (now - c.unlinked >= Silence::kAckPatience) {
      box_.end_releases();
      record_released();
    } else {
      arm(c.unlinked + Silence::kAckPatience);
    }
  }
  if (c.met) {
    if (now - c.unlinked >= kLostAfter)
      pass_over(unavailable("it has had no link for 2 s"));
    else
      arm(c.unlinked + kLostAfter);
  }
  if (c.name.empty()) return choose(now);
  ensure(c.name);
}

void Mail::release_elsewhere() {
  for (const auto& [log, sequences] : box_.take_releases_elsewhere()) {
    if (const auto session = session_with(log))
      send_sequences(*session, FrameType::kRelease, "", sequences);
  }
}

void Mail::choose(MonoTime now) {
  auto& c = custodian_;
  if (c.asking) return;
  if (now < c.choose_at) return arm(c.choose_at);
  c.choice_wait = grow(c.choice_wait, kFirstChoiceWait, kMostChoiceWait);
  c.choose_at = now + c.choice_wait;
  arm(c.choose_at);
  if (!candidates) return;
  c.asking = true;
  const auto team = (config_.team + c.teams_asked) % std::max(1U, config_.coordinators);
  candidates(team, [this, alive = alive_](const Result<std::vector<Candidate>>& found) {
    if (*alive) chosen(found);
  });
}

void Mail::begin_choice() {
  custodian_.teams_asked = 0;
  custodian_.last_resort.clear();
}

void Mail::chosen(const Result<std::vector<Candidate>>& found) {
  auto& c = custodian_;
  c.asking = false;
  const auto now = mono_now();
  std::erase_if(c.passed_over, [&](const auto& one) { return one.second <= now; });
  if (!c.name.empty()) return;  // one has come by itself
  // Whoever was passed over is nobody's turn before all teams were asked.
  std::vector<Candidate> fresh, others;
  if (found) {
    for (const auto& one : *found) {
      if (c.passed_over.contains(one.name))
        c.last_resort[one.name] = one.node;
      else
        fresh.push_back(one);
    }
  }
  auto name = choose_custodian(config_.name, config_.node, fresh, {});
  if (!name && ++c.teams_asked >= config_.coordinators) {
    for (const auto& [other, node] : c.last_resort) others.push_back({other, node});
    name = choose_custodian(config_.name, config_.node, others, c.passed_over);
    begin_choice();
  }
  if (!name) {
    if (!found)
      c.failed = found.error();
    else if (!c.failed)
      c.failed = unavailable("no worker is there");
    if (c.teams_asked > 0) c.choose_at = now;  // the next team's
    return schedule_work();
  }
  c.name = *name;
  c.met = false;
  auto& peer = peers_[c.name];
  peer.retry_at = {};
  if (is_up(c.name)) custodian_up(*peer.session);
  look_soon();
}

void Mail::custodian_up(const Session& session) {
  auto& c = custodian_;
  if (session.peer().node == config_.node) return pass_over(unavailable("it is here, too"));
  c.met = true;
  c.full = false;
  c.step = 0;
  c.linked = mono_now();
  c.keeps = c.releases = {};
  box_.on_custodian_up(session.peer().log_id);
  record_released();
  schedule_work();
}

void Mail::custodian_down(const AgentName& name) {
  if (name != custodian_.name) return;
  custodian_.unlinked = mono_now();
  custodian_.keeps = custodian_.releases = {};
  box_.on_custodian_down();
}

void Mail::pass_over(const Error& why) {
  auto& c = custodian_;
  const auto now = mono_now();
  c.failed = Error{why.code == Code::kFull ? Code::kFull : Code::kUnavailable,
                   c.name.value + ": " + why.message};
  c.passed_over[c.name] = now + kPassedOver;
  if (is_up(c.name)) c.unlinked = now;
  c.name = {};
  c.met = c.full = false;
  c.full_since.reset();
  c.keeps = c.releases = {};
  box_.on_custodian_lost();
  record_released();
  schedule_work();
}

void Mail::entrust(MonoTime now) {
  auto& c = custodian_;
  const auto session = peers_.at(c.name).session;
  if (!session->knows(link::kCopies)) {
    if (now - c.linked < kFeaturesWait) return arm(now + kFeaturesCheck);
    return pass_over(unavailable("it is of an earlier release"));
  }
  if (c.full && c.keeps.awaited == 0) {  // and nothing of ours is on its way
    if (now < c.retry_at) {
      arm(c.retry_at);
      if (config_.reject_when_full && c.failed && c.failed->code == Code::kFull) refuse_waiting();
    } else {
      c.full = false;
      c.step = 1;
      box_.on_custodian_retry();
    }
  }
  const auto releases = box_.take_releases(kMaxSequencesPerFrame);
  if (!releases.empty()) c.releases.asked(releases.front(), now);
  send_sequences(*session, FrameType::kRelease, "", releases);
  if (c.releases.awaited != 0 && box_.releasing()) {
    const auto patience_ends = c.releases.since + Silence::kAckPatience;
    if (now < patience_ends) {
      arm(patience_ends);
    } else {
      box_.end_releases();
      record_released();
    }
  }
  for (const auto* asked : {&c.keeps, &c.releases}) {
    if (asked->awaited == 0) continue;
    if (now - asked->since >= kCustodianPatience)
      return pass_over(unavailable("it has not answered for 5 s"));
    arm(asked->since + kCustodianPatience);
  }
  const bool some = c.step > 0;  // whoever had no room gets few until it is seen to have it
  if (some && c.keeps.awaited != 0) return;
  for (std::size_t sent = 0; session->up() && session->queued_bytes() < kLinkWindowBytes;) {
    if (some && sent++ == c.step) return;
    const auto batch = box_.entrust(some ? 1 : kEntrustBytes);
    if (batch.empty()) return;
    for (const auto& copy : batch) {
      std::string payload;
      link::put_u64(payload, copy.sequence);
      link::put_u64(payload, copy.prev);
      session->send(FrameType::kKeep, payload + mailbox::encode(copy));
      c.keeps.asked(copy.sequence, now);
      arm(c.keeps.since + kCustodianPatience);
    }
  }
  arm(now + kWindowCheck);
}

// Before anybody is asked: those that it is asked with would be refused, too.
void Mail::refuse_waiting() {
  std::vector<log::Sequence> refused;
  for (const auto& [sequence, waiting] : sends_) {
    if (box_.waits_for_custodian(sequence) && box_.withdraw(sequence)) refused.push_back(sequence);
  }
  for (const auto sequence : refused) finish(sequence, no_custodian());
}

void Mail::take_kept(Session& session, const link::Frame& frame) {
  link::PayloadReader in(frame.payload);
  const auto said = in.u8();
  const auto sequences = read_sequences(in);
  if (!sequences || said > static_cast<std::uint8_t>(Answer::kRefused))
    return session.close(invalid("malformed KEPT"));
  const auto answer = static_cast<Answer>(said);
  const auto& peer = session.peer();
  auto& c = custodian_;
  if (answer == Answer::kDuplicate) {
    // Whose copies we have forgotten in a restart goes on with them.
    if (!c.met && peer.node != config_.node && config_.entrusts()) {
      c.name = peer.name;
      if (is_up(c.name)) custodian_up(*peers_.at(c.name).session);
    }
    send_sequences(session, FrameType::kRelease, "", box_.on_told(peer.log_id, *sequences));
  } else {
    for (const auto sequence : *sequences) box_.on_entrusted(peer.log_id, sequence, answer);
  }
  const bool ours = peer.name == c.name;
  if (ours) {
    auto& asked = answer == Answer::kFinished ? c.releases : c.keeps;
    const bool awaited = c.keeps.awaited != 0;
    for (const auto sequence : *sequences) asked.answered(sequence, mono_now());
    const bool all = awaited && c.keeps.awaited == 0;
    if (all && !c.full && answer <= Answer::kDuplicate)
      c.step = c.step >= kMostCopyStep ? 0 : 2 * c.step;
  }
  if (answer == Answer::kFinished) {
    record_released();
    collect();
    end_late_sends(mono_now());
    may_have_room_ = true;
  } else if (answer <= Answer::kDuplicate) {
    if (ours) {
      c.failed.reset();
      c.choice_wait = c.copy_wait = Milliseconds{0};
      begin_choice();
    }
    if (ours && answer == Answer::kStored) {
      c.full_since.reset();
      c.full_patience = kFirstFullPatience;
    }
    for (const auto sequence : *sequences) {
      if (const auto to = box_.receiver_of(sequence); !to.empty()) dirty_.insert(pod_of(to));
    }
  } else if (ours) {
    if (!std::exchange(c.full, true)) {
      c.copy_wait = grow(c.copy_wait, kFirstCopyWait, kMostCopyWait);
      c.retry_at = mono_now() + c.copy_wait;
    }
    const Error why = answer != Answer::kRefused
                          ? Error{Code::kFull, "its pod has no room left for copies"}
                          : unavailable("it takes none");
    c.failed = Error{why.code, c.name.value + ": " + why.message};
    for (const auto sequence : *sequences) {
      if (!config_.reject_when_full || answer == Answer::kRefused || !sends_.contains(sequence))
        continue;
      if (box_.withdraw(sequence)) finish(sequence, no_custodian());
    }
    // Whoever has some of ours keeps them for a while; the next one may have room for all.
    if (!c.full_since) c.full_since = mono_now();
    const bool for_long = mono_now() - *c.full_since >= c.full_patience;
    if (for_long) c.full_patience = std::min(c.full_patience * 2, kMostFullPatience);
    if (for_long || !box_.has_entrusted()) pass_over(why);
  }
  schedule_work();
}

void Mail::record_released() {
  for (const auto sequence : box_.take_recorded()) {
    const auto by = acked_by_.find(sequence);
    if (by == acked_by_.end()) continue;
    if (const auto session = by->second.lock()) {
      std::string payload;
      link::put_u64(payload, sequence);
      session->send(FrameType::kAckRecorded, payload);
    }
    acked_by_.erase(by);
    may_have_room_ = true;
  }
  if (!box_.records_late()) acked_by_.clear();
}

Error Mail::no_custodian() const {
  const auto& why = *custodian_.failed;
  return {why.code, "durability Node: no pod of this swarm on another node than " + config_.node +
                        " can keep a copy (" + why.message + "); nothing was sent"};
}

// ---- of what others send

void Mail::take_keep(Session& session, const link::Frame& frame) {
  link::PayloadReader in(frame.payload);
  const auto sequence = in.u64();
  const auto prev = in.u64();
  if (!in.ok()) return session.close(invalid("malformed KEEP"));
  // What we cannot read may be of a later release: to close the link would be to close it for ever.
  const auto copy = mailbox::decode_outbound(sequence, prev, in.rest());
  const auto& peer = session.peer();
  const bool ours = copy && pod_of(copy->message.from) == peer.name;
  const auto answer = ours ? box_.guard(peer.log_id, *copy) : Answer::kRefused;
  send_sequences(session, FrameType::kKept, answer_payload(answer), {sequence});
}

void Mail::take_release(Session& session, const link::Frame& frame) {
  link::PayloadReader in(frame.payload);
  const auto sequences = read_sequences(in);
  if (!sequences) return session.close(invalid("malformed RELEASE"));
  for (const auto sequence : *sequences) box_.release(session.peer().log_id, sequence);
  send_sequences(session, FrameType::kKept, answer_payload(Answer::kFinished), *sequences);
  may_have_room_ = true;
  schedule_work();
}

// On each new link, all that we have of the other side: it may have forgotten, or its RELEASE may
// not have arrived.
void Mail::tell_wards(MonoTime now) {
  std::erase_if(untold_, [&](const auto& one) {
    const auto session = session_with(one.first);
    if (!session) return true;
    if (!session->knows(link::kCopies)) {
      arm(now + kFeaturesCheck);
      return now - one.second >= kFeaturesWait;
    }
    send_sequences(*session, FrameType::kKept, answer_payload(Answer::kDuplicate),
                   box_.wards_of(one.first));
    return true;
  });
}

}  // namespace swarm::engine
