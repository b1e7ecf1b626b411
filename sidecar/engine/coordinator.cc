#include "engine/coordinator.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <cstring>
#include <utility>

#include "base/encoding.h"
#include "engine/control_json.h"
#include "engine/mail_list_json.h"
#include "engine/task_api_json.h"
#include "engine/task_json.h"
#include "engine/worker.h"
#include "os/file.h"

namespace swarm::engine {

using link::FrameType;

static_assert(tasks::kPullWindowBytes <= kMaxSessionQueueBytes / 4);
static_assert(tasks::kReplicationWindowBytes <= kMaxSessionQueueBytes / 4);

namespace {

// Of a PEER_LIST: what is beyond is left out, the frame has a limit.
constexpr std::size_t kMaxPeerListBytes = link::kMaxPayloadBytes - 4096;
constexpr std::uint64_t kMaxMailCount = 1ULL << 32U;  // no pod holds more messages
constexpr std::uint64_t kMaxQuietMs = 1ULL << 40U;    // no agent is older
constexpr std::uint64_t kMaxEpoch = 1ULL << 31U;      // sessions carry it in their upper half

std::uint64_t random_word(void*) {
  const auto bytes = random_bytes(8);
  std::uint64_t v = 0;
  std::memcpy(&v, bytes.data(), 8);
  return v;
}

// What a worker is working on, as HELD and JOIN name it.
void add_running(const json& head, std::vector<tasks::Engine::Running>& running) {
  const auto list = head.find("running");
  if (list == head.end() || !list->is_array()) return;
  for (const auto& r : *list) {
    if (running.size() >= tasks::kMaxNamed) return;
    if (r.is_object() && is_task_id(text_of(r, "id"))) {
      running.push_back(
          {TaskId{text_of(r, "id")}, static_cast<std::uint32_t>(number_of(r, "attempt"))});
    }
  }
}

tasks::Spent spent_from(const api::UsageCounts& c) {
  const auto n = [](std::int64_t v) {
    return static_cast<std::uint64_t>(std::max<std::int64_t>(0, v));
  };
  return {n(c.input_tokens),          n(c.output_tokens),  n(c.cache_read_tokens),
          n(c.cache_creation_tokens), n(c.cost_micro_usd), n(c.tasks),
          n(c.priced_tasks)};
}

tasks::Settings engine_settings(const Config& config, const TeamSettings& s) {
  tasks::Settings out;
  out.team = config.team;
  out.node = config.node;
  out.pod = config.pod;
  out.default_max_attempts = s.max_attempts;
  out.max_queued = s.max_queued;
  out.result_retention = s.result_retention;
  out.worker_lost_after = config.health_period * config.failure_threshold;
  out.suspended = s.suspended;
  out.v2_percentage = s.v2_percentage;
  out.v1_command = s.v1_command;
  out.budget_micro_usd = s.budget_micro_usd;
  out.swarm_cost_micro_usd = s.swarm_cost_micro_usd;
  return out;
}

}  // namespace

Coordinator::Coordinator(Loop& loop, const Config& config, const Session::Options& options,
                         Mail& mail)
    : loop_(loop),
      config_(config),
      options_(options),
      mail_(mail),
      mail_lists_(std::make_unique<MailLists>()),
      timer_(loop.io()) {
  settings_.coordinators = config.coordinators;
  engine_ =
      std::make_unique<tasks::Engine>(engine_settings(config_, settings_), random_word, nullptr);
}

Coordinator::~Coordinator() {
  *alive_ = false;
  forwarders_.stop();
}

void Coordinator::restore(const log::Record& record) {
  if (record.kind == tasks::kComplete) {
    link::PayloadReader in(record.payload);
    const auto epoch = in.u64();
    if (!in.done()) return;
    if (complete_record_ != 0) superseded_.push_back(complete_record_);
    complete_record_ = record.sequence;
    complete_epoch_ = epoch;
    return;
  }
  if (record.kind == tasks::kSpent) {
    auto expired = tasks::decode_expired(record.payload);
    if (!expired) {  // a bug of ours; the last report has most of it
      damaged_ = true;
      return;
    }
    if (spent_record_ != 0) superseded_.push_back(std::min(spent_record_, record.sequence));
    if (record.sequence < spent_record_) return;
    spent_record_ = record.sequence;
    expired_ = *std::move(expired);
    return;
  }
  if (record.kind != tasks::kTask) return;
  auto task = tasks::decode(record.payload);
  if (!task) {  // a bug of ours; its mirror has it
    damaged_ = true;
    return;
  }
  const auto known = restored_.find(task->id);
  if (known != restored_.end() && task->version < known->second.version) {
    superseded_.push_back(record.sequence);
    return;
  }
  auto& sequence = records_[task->id];
  if (known != restored_.end()) superseded_.push_back(sequence);
  sequence = record.sequence;
  restored_.insert_or_assign(task->id, *std::move(task));
}

void Coordinator::attach(log::Log& log, bool damaged) {
  log_ = &log;
  damaged_ = damaged_ || damaged;
  // Erased and counted, but a crash has left its record.
  if (const auto gone = restored_.find(expired_.last);
      gone != restored_.end() && gone->second.version <= expired_.version) {
    superseded_.push_back(records_.at(gone->first));
    records_.erase(gone->first);
    restored_.erase(gone);
  }
  // Else an old record would be the task again once the newest is erased.
  for (const auto sequence : std::exchange(superseded_, {})) log_->finish(sequence);
}

void Coordinator::announce(const tasks::Expected& worker) {
  auto& announcement = announcing_.at(worker);
  boost::system::error_code e;
  const auto address = boost::asio::ip::make_address(announcement.address, e);
  if (e) {  // an older report without addresses: that worker finds us by DNS
    announcing_.erase(worker);
    return;
  }
  if (!announcement.unanswered_since) announcement.unanswered_since = mono_now();
  Session::Events events;
  events.ready = [this, worker, alive = alive_](Session& session) {
    if (!*alive) return;
    session.send(FrameType::kSuccessor, "");
    gathering_.reachable(worker);
    if (const auto found = announcing_.find(worker); found != announcing_.end())
      found->second.unanswered_since.reset();
  };
  events.frame = [](Session&, const link::Frame&) {};  // the worker answers on a link of its own
  events.closed = [this, worker, alive = alive_](Session& session, const Error&) {
    if (*alive) announcement_ended(worker, session);
  };
  announcement.session = Session::connect(loop_, {address, config_.link_port}, options_,
                                          {worker.name, {}}, std::move(events));
}

void Coordinator::announcement_ended(const tasks::Expected& worker, const Session& session) {
  const auto found = announcing_.find(worker);
  if (found == announcing_.end() || found->second.session.get() != &session) return;
  auto& announcement = found->second;
  const auto now = mono_now();
  announcement.session.reset();
  announcement.again_at = now + kAnnounceAgain;
  // Its pod went with the former coordinator, most likely; if not, it comes later.
  if (announcement.unanswered_since && now - *announcement.unanswered_since >= kUnreachableAfter) {
    gathering_.unreachable(worker);
    announcement.again_at = now + kAnnounceUnreachable;
  }
  look_at_recovery();
  perform();
  arm();
}

void Coordinator::stop_announcing(const tasks::Expected& worker, const char* why) {
  const auto found = announcing_.find(worker);
  if (found == announcing_.end()) return;
  const auto session = std::move(found->second.session);
  announcing_.erase(found);
  if (session) session->close(Error{Code::kCancelled, why});
}

void Coordinator::activate(std::uint64_t epoch, const api::TeamReport& last) {
  const auto now = mono_now();
  if (active_) {
    // Not the next one: a worker has seen others, so there are copies that nobody reported to us.
    if (epoch > epoch_ + 1) gathering_.expect_unnamed(now);
    epoch_ = epoch;
    look_at_recovery();
    perform();
    arm();
    if (on_change) on_change(true);
    return;
  }
  if (complete_epoch_ >= epoch && on_higher_epoch) return on_higher_epoch(complete_epoch_ + 1);
  epoch_ = epoch;
  active_ = true;
  engine_->begin_recovery(now);
  engine_->restore_spent(expired_.spent, {});
  engine_->restore_spent(spent_from(last.expired_usage), spent_from(last.usage));
  for (auto& [id, task] : restored_) {
    note_open(task);
    engine_->restore(now, wall_now(), std::move(task), std::nullopt);
  }
  restored_.clear();
  tasks::Takeover takeover;
  takeover.epoch = epoch;
  takeover.log_epoch = damaged_ ? 0 : complete_epoch_;
  takeover.report_epoch = last.epoch;
  const auto reported = [&](const std::string& name, const std::string& pod,
                            const std::string& address) {
    const tasks::Expected worker{{name}, pod};
    takeover.reported.insert(worker);
    announcing_[worker].address = address;
  };
  for (const auto& [name, worker] : last.workers) reported(name, worker.pod, worker.address);
  for (const auto& pod : last.awaited) reported(pod.name, pod.pod, pod.address);
  gathering_ = tasks::Gathering(now, takeover);
  announce_until_ = now + tasks::kAwaitLimit;
  for (const auto& worker : takeover.reported) announce(worker);
  look_at_recovery();
  perform();
  arm();
  if (on_change) on_change(true);
}

bool Coordinator::recovering() const { return active_ && engine_->recovering(); }

bool Coordinator::incomplete() const { return recovering() || (active_ && engine_->awaiting()); }

void Coordinator::look_at_recovery() {
  if (!active_) return;
  const auto now = mono_now();
  const bool telling = std::any_of(by_session_.begin(), by_session_.end(),
                                   [](const auto& m) { return !m.second.joined; });
  const bool was_incomplete = incomplete();
  engine_->await_copies(gathering_.awaits(now, telling), gathering_.refuses_ids(now, telling));
  if (recovering() && gathering_.done(now, telling)) {
    promote_standbys();
    engine_->end_recovery(now, wall_now());
    for (auto& [session, member] : by_session_) note_work(member);
    if (on_change) on_change(false);
  } else if (incomplete() != was_incomplete && on_change) {
    on_change(false);
  }
}

// From now on a restart need not ask anybody: what the log holds is all there is.
void Coordinator::note_complete() {
  if (!active_ || incomplete() || !unstored_.empty() || complete_epoch_ == epoch_) return;
  std::string epoch;
  link::put_u64(epoch, epoch_);
  const auto record = log_->append(tasks::kComplete, epoch);
  if (!record) return;  // full: when it is not
  if (complete_record_ != 0) log_->finish(complete_record_);
  complete_record_ = *record;
  complete_epoch_ = epoch_;
  loop_.after_commit([] {});
}

void Coordinator::configure(const TeamSettings& settings) {
  const bool soon = settings.suspended != settings_.suspended;  // the status waits for it
  settings_ = settings;
  engine_->configure(mono_now(), wall_now(), engine_settings(config_, settings_));
  perform();
  arm();
  if (on_change) on_change(soon);
}

// ---- workers

Coordinator::Member* Coordinator::member_of(Session& session) {
  const auto found = session_of_.find(&session);
  return found == session_of_.end() ? nullptr : &by_session_.at(found->second);
}

void Coordinator::join(Session& session, const link::Frame& frame) {
  auto parsed = parse_control(frame.payload);
  if (!parsed) return session.close(parsed.error());
  if (!active_) return session.close(unavailable("not the active coordinator"));
  if (session_of_.contains(&session)) return session.close(invalid("JOIN twice"));
  const json& head = parsed->head;
  const auto& peer = session.peer();
  if (!peer.name.value.starts_with("worker-")) return session.close(invalid("only workers join"));

  const auto prior = number_of(head, "session");
  if ((prior >> 32U) >= kMaxEpoch) return session.close(invalid("an impossible session"));
  if ((prior >> 32U) > epoch_) {
    if (on_higher_epoch) on_higher_epoch((prior >> 32U) + 1);
    return session.close(unavailable("a higher epoch exists; taking a new one"));
  }
  // A session belongs to a name and its log: an engine that was restarted goes on with its own.
  const auto granted = granted_.find(peer.log_id);
  const bool same = granted != granted_.end() && granted->second.name == peer.name;
  const std::uint64_t tasks_done = same ? granted->second.tasks_done : 0;
  const bool known = prior == 0 && same;
  std::uint64_t number = prior != 0 ? prior
                         : known    ? granted->second.session
                                    : (epoch_ << 32U) | next_session_++;
  // The same incarnation on a new connection replaces the old connection.
  if (const auto twin = by_session_.find(number); twin != by_session_.end()) {
    if (twin->second.log_id == peer.log_id) {
      if (auto old = twin->second.session.lock()) {
        session_of_.erase(old.get());
        old->close(Error{Code::kDenied, "the same worker connected again"});
      }
      by_session_.erase(twin);
    } else {
      number = (epoch_ << 32U) | next_session_++;
    }
  }
  next_session_ = std::max(next_session_,
                           (number >> 32U) == epoch_ ? (number & 0xFFFFFFFFU) + 1 : next_session_);

  if (granted_.size() >= kMaxGranted && !granted_.contains(peer.log_id)) {
    granted_.erase(std::min_element(
        granted_.begin(), granted_.end(),
        [](const auto& a, const auto& b) { return a.second.session < b.second.session; }));
  }
  granted_[peer.log_id] = {peer.name, number, tasks_done};

  Member member;
  member.worker = {peer.name, number, peer.pod, peer.node};
  member.session = session.weak_from_this();
  member.name = peer.name;
  member.log_id = peer.log_id;
  member.address = peer.address;
  member.version = printable(text_of(head, "version").substr(0, 40));
  member.agents = static_cast<std::uint32_t>(
      std::clamp<std::uint64_t>(number_of(head, "agents", 1), 1, kMaxAgentsPerPod));
  member.leaving = flag_of(head, "leaving");
  member.lists_mail = flag_of(head, "mailList");
  member.since = wall_now();
  member.tasks_done = tasks_done;
  auto& owner = owner_[peer.name];
  member.superseded = owner > number;
  owner = std::max(owner, number);
  for (auto& [other, m] : by_session_) {
    if (m.name == peer.name && other < owner) m.superseded = true;
  }
  Told told = std::move(told_early_[&session]);
  told_early_.erase(&session);
  add_running(head, told.running);
  member.running = std::move(told.running);
  member.held = std::move(told.held);
  // Copies that are newer than ours, or of tasks we do not know, are fetched before the worker
  // counts as joined.
  for (const auto& [id, version] : member.held) {
    if (engine_->wants(id, version)) member.pulls.want(id, told.bytes[id]);
  }
  away_.erase(peer.name);
  session_of_[&session] = number;
  auto& placed = by_session_[number] = std::move(member);
  gathering_.heard(mono_now());
  stop_announcing({peer.name, peer.pod}, "it came");
  pull(placed, session);
  look_at_recovery();
  perform();
  arm();
}

// The next copies; with the last one the worker has joined.
void Coordinator::pull(Member& member, Session& session) {
  for (const auto& id : member.pulls.take()) session.send(FrameType::kPull, id.value);
  if (member.pulls.done() && !member.joined) finish_join(member);
}

// Since when it is at work, or without.
void Coordinator::note_work(Member& member) {
  const auto running = running_of(member);
  if (running) {
    const auto task = engine_->find(running->id);
    if (task && !(*task)->history.empty()) member.since = (*task)->history.back().started_at;
  } else if (member.at_work) {
    member.since = wall_now();
  }
  member.at_work = running.has_value();
}

// The engine hears of it.
void Coordinator::enter(Member& member) {
  const auto now = mono_now();
  const auto wall = wall_now();
  engine_->worker_joined(now, wall, member.worker, member.running, std::exchange(member.held, {}));
  if (member.leaving || member.superseded) engine_->worker_leaving(now, wall, member.worker);
}

void Coordinator::finish_join(Member& member) {
  member.joined = true;
  member.standby = recovering() || predecessor_busy(member);
  if (!member.standby) enter(member);
  if (const auto open = open_.find(member.name); open != open_.end())
    open->second.erase(member.worker.session);
  if (auto session = member.session.lock()) {
    session->send(FrameType::kJoined, control(json{{"session", member.worker.session},
                                                   {"epoch", epoch_},
                                                   {"mailCounts", true},
                                                   {"subtasks", true},
                                                   {"mailPressure", true}}));
  }
  note_work(member);
  gathering_.came({member.name, member.worker.pod});
  look_at_recovery();
  perform();
  arm();
  if (on_change) on_change(true);
}

// At the end of recovery nobody has a lease yet: who may have one is known by what it said of
// itself and by the tasks that have come.
bool Coordinator::predecessor_busy(const Member& member) const {
  const auto running = engine_->running_on(member.name);
  if (!running && !recovering()) return false;
  for (const auto& [number, other] : by_session_) {
    if (other.name != member.name || number >= member.worker.session || !other.joined) continue;
    if (running ? !other.standby : !other.running.empty()) return true;
  }
  const auto open = open_.find(member.name);
  if (open == open_.end() || open->second.empty()) return false;
  if (recovering()) return *open->second.begin() < member.worker.session;
  const auto task = engine_->find(running->id);
  const auto session = task && !(*task)->history.empty() ? (*task)->history.back().session : 0;
  return session < member.worker.session && open->second.contains(session);
}

void Coordinator::note_open(const tasks::Task& task) {
  if (task.state == tasks::TaskState::kRunning)
    open_[task.history.back().agent].insert(task.history.back().session);
}

std::optional<tasks::Engine::Running> Coordinator::running_of(const Member& member) const {
  if (member.standby) return std::nullopt;
  if (member.superseded) {
    for (const auto& [number, other] : by_session_) {
      if (other.name == member.name && other.standby) return engine_->running_on(member.name);
    }
    return std::nullopt;
  }
  return engine_->running_on(member.name);
}

void Coordinator::promote_standbys() {
  for (auto& [number, member] : by_session_) {
    if (!member.standby || predecessor_busy(member)) continue;
    member.standby = false;
    const auto now = mono_now();
    enter(member);
    for (const auto& [request, deadline] : std::exchange(member.nexts, {}))
      engine_->next(now, wall_now(), member.worker, request, deadline);
    note_work(member);
  }
}

void Coordinator::session_down(Session& session) {
  told_early_.erase(&session);
  Member* member = member_of(session);
  if (member == nullptr) return;
  if (member->joined && !member->standby)
    engine_->worker_disconnected(mono_now(), wall_now(), member->worker);
  mail_lists_->gone(member->worker.session);
  if (!member->leaving && !member->superseded) away_.insert(member->name);
  by_session_.erase(member->worker.session);
  session_of_.erase(&session);
  look_at_recovery();
  perform();
  arm();
  if (on_change) on_change(false);
}

bool Coordinator::take(Session& session, const link::Frame& frame) {
  if (frame.type == FrameType::kHeld) {
    auto parsed = parse_control(frame.payload);
    if (!parsed) {
      session.close(parsed.error());
      return true;
    }
    auto& told = told_early_[&session];
    const auto bytes = parsed->head.find("bytes");
    if (const auto list = parsed->head.find("held");
        list != parsed->head.end() && list->is_object()) {
      for (const auto& [id, version] : list->items()) {
        if (!version.is_number_unsigned() || told.held.size() >= kMaxToldCopies || !is_task_id(id))
          continue;
        told.held[TaskId{id}] = version.get<std::uint64_t>();
        if (bytes != parsed->head.end() && bytes->is_object())
          told.bytes[TaskId{id}] = number_of(*bytes, id.c_str());
      }
    }
    add_running(parsed->head, told.running);
    gathering_.heard(mono_now());
    return true;
  }
  if (frame.type == FrameType::kJoin) {
    join(session, frame);
    return true;
  }
  if (frame.type == FrameType::kEpochSeen) {
    link::PayloadReader in(frame.payload);
    const auto seen = in.u64();
    if (in.done() && active_ && seen > epoch_ && seen < kMaxEpoch && on_higher_epoch &&
        session.peer().name.value.starts_with("worker-"))
      on_higher_epoch(seen + 1);
    session.close(unavailable("a higher epoch exists"));
    return true;
  }
  const auto now = mono_now();
  const auto wall = wall_now();
  if (frame.type == FrameType::kResolve || frame.type == FrameType::kPeers) {
    auto parsed = parse_control(frame.payload);
    if (!parsed) {
      session.close(parsed.error());
      return true;
    }
    const auto request = number_of(parsed->head, "request");
    if (frame.type == FrameType::kPeers) {
      json peers = json::array();
      std::size_t bytes = 0;
      std::uint64_t last = number_of(parsed->head, "after");  // a list goes on behind this session
      json answer{{"request", request}};
      if (last == 0) {
        peers.push_back({{"name", config_.name.value},
                         {"role", "coordinator"},
                         {"state", "ready"},
                         {"node", config_.node},
                         {"team", config_.team}});
      }
      for (auto it = by_session_.upper_bound(last); it != by_session_.end(); ++it) {
        const auto& m = it->second;
        if (m.superseded || !m.joined) continue;
        peers.push_back({{"name", m.name.value},
                         {"role", "worker"},
                         {"node", m.worker.node},
                         {"team", config_.team},
                         {"state", m.leaving       ? "leaving"
                                   : running_of(m) ? "busy"
                                                   : "idle"}});
        bytes += peers.back().dump().size() + 1;
        if (bytes > kMaxPeerListBytes) {
          peers.erase(peers.size() - 1);
          answer["after"] = last;
          break;
        }
        last = it->first;
      }
      answer["peers"] = std::move(peers);
      session.send(FrameType::kPeerList, control(answer));
      return true;
    }
    const AgentName name{text_of(parsed->head, "name")};
    if (!is_slot_name(name.value)) {
      session.close(invalid("RESOLVE of what is not a pod's name"));
      return true;
    }
    locate(name, [&session, request](const Result<Location>& where) {
      if (!where) {
        session.send(FrameType::kResolved, control(json{{"request", request},
                                                        {"code", code_name(where.error().code)},
                                                        {"message", where.error().message}}));
      } else {
        session.send(FrameType::kResolved,
                     control(json{{"request", request},
                                  {"name", where->expect.name.value},
                                  {"address", where->address},
                                  {"port", where->port},
                                  {"logId", to_string(where->expect.log_id)}}));
      }
    });
    return true;
  }
  Member* member = member_of(session);
  if (member == nullptr) return false;
  const tasks::Worker worker = member->worker;
  switch (frame.type) {
    case FrameType::kCopy: {
      link::PayloadReader in(frame.payload);
      const auto version = in.u64();
      const TaskId id{std::string(in.text())};
      auto task = tasks::decode(in.rest());
      if (!in.ok() || !member->pulls.answered(id)) {
        session.close(invalid("a COPY that nobody asked for"));
        return true;
      }
      if (version > 0 && task && task->id == id) {
        if (recovering()) note_open(*task);
        engine_->restore(now, wall, *std::move(task), worker);
      }
      gathering_.heard(now);
      pull(*member, session);
      break;
    }
    case FrameType::kReplicated: {
      link::PayloadReader in(frame.payload);
      const auto version = in.u64();
      const TaskId id{std::string(in.text())};
      if (in.done()) engine_->replicated(now, wall, worker, id, version);
      break;
    }
    case FrameType::kMailCounts: {
      link::PayloadReader in(frame.payload);
      const auto single_copy = in.u64(), dead_letters = in.u64();
      // A worker of the release before has no more to say.
      const std::string pressed(in.done() ? std::string_view() : in.text());
      if (!in.done() || single_copy > kMaxMailCount || dead_letters > kMaxMailCount ||
          pressed.size() > kMaxPressedBytes) {
        session.close(invalid("malformed MAIL_COUNTS"));
        return true;
      }
      // A rolling update waits for it.
      const bool soon = single_copy > 0 && member->single_copy == 0;
      member->pressed = pressed;
      member->single_copy = single_copy;
      member->dead_letters = dead_letters;
      if (on_change) on_change(soon);
      break;
    }
    case FrameType::kMailListed: {
      auto parsed = parse_control(frame.payload);
      if (!parsed) {
        session.close(parsed.error());
        return true;
      }
      mail_lists_->take(worker.session, number_of(parsed->head, "request"), parsed->head);
      break;
    }
    case FrameType::kLeaving:
      member->leaving = true;
      if (!member->standby) engine_->worker_leaving(now, wall, worker);
      break;
    case FrameType::kTaskNext:
    case FrameType::kTaskForgetNext:
    case FrameType::kTaskExtend: {
      auto parsed = parse_control(frame.payload);
      if (!parsed) {
        session.close(parsed.error());
        return true;
      }
      const auto request = number_of(parsed->head, "request");
      if (frame.type == FrameType::kTaskForgetNext) {
        member->nexts.erase(request);
        engine_->forget_next(worker, request);
      } else if (frame.type == FrameType::kTaskNext) {
        if (leaving_) break;  // the successor answers it
        const auto deadline =
            now + Milliseconds(std::min<std::uint64_t>(number_of(parsed->head, "waitMs"), 600000));
        if (!member->standby)
          engine_->next(now, wall, worker, request, deadline);
        else if (member->nexts.size() < tasks::kMaxCallsPerWorker)
          member->nexts[request] = deadline;
      } else {
        const std::string progress = text_of(parsed->head, "progress");
        const bool has_progress = parsed->head.contains("progress");
        const auto quiet = std::min(number_of(parsed->head, "quietMs"), kMaxQuietMs);
        const tasks::Engine::Still still{wall - static_cast<WallTime>(quiet),
                                         printable(text_of(parsed->head, "stuck"))};
        const auto extended =
            engine_->extend(now, wall, worker, TaskId{text_of(parsed->head, "id")},
                            static_cast<std::uint32_t>(number_of(parsed->head, "attempt")),
                            has_progress ? &progress : nullptr, quiet > 0 ? &still : nullptr);
        json answer{{"request", request}};
        put_stuck_limit(answer);
        if (extended) {
          answer["cancel"] = extended->cancel;
        } else {
          answer["code"] = code_name(extended.error().code);
          answer["message"] = extended.error().message;
        }
        session.send(FrameType::kTaskExtended, control(answer));
      }
      break;
    }
    case FrameType::kTaskReport: {
      std::uint64_t request = 0;
      auto report = decode_report(frame.payload, &request);
      if (!report) {
        session.close(report.error());
        return true;
      }
      // The worker knows its reports by task and attempt; so does the request number that goes
      // round the engine.
      const auto number = next_ticket_++;
      const TaskId id = report->id;
      reports_[number] = {id, report->attempt};
      const auto is_done = [&] {
        const auto task = engine_->find(id);
        return task && (*task)->state == tasks::TaskState::kDone;
      };
      const bool was_done = is_done();
      engine_->report(now, wall, worker, number, *std::move(report));
      if (!was_done && is_done()) {  // not refused, and not a repetition
        ++member->tasks_done;
        if (const auto grant = granted_.find(member->log_id); grant != granted_.end())
          grant->second.tasks_done = member->tasks_done;
      }
      break;
    }
    case FrameType::kTaskSubmit:
    case FrameType::kTaskWait:
    case FrameType::kTaskForgetWait:
      take_subtasks(worker, session, frame);
      break;
    default:
      return false;
  }
  perform();
  arm();
  return true;
}

void Coordinator::take_subtasks(const tasks::Worker& worker, Session& session,
                                const link::Frame& frame) {
  auto parsed = parse_control(frame.payload);
  if (!parsed) return session.close(parsed.error());
  const json& head = parsed->head;
  const auto request = number_of(head, "request");
  if (frame.type == FrameType::kTaskForgetWait) return engine_->forget_wait(worker, request);
  const TaskId id{text_of(head, "id")};
  const auto attempt = static_cast<std::uint32_t>(number_of(head, "attempt"));
  if (frame.type == FrameType::kTaskWait) {
    std::vector<TaskId> tasks;
    if (const auto list = head.find("tasks"); list != head.end() && list->is_array()) {
      for (const auto& one : *list) {  // one too many is enough to be refused
        if (tasks.size() <= tasks::kMaxAwaited)
          tasks.push_back({one.is_string() ? one.get<std::string>() : ""});
      }
    }
    return engine_->wait(
        mono_now(), wall_now(), worker, request,
        id.empty() ? std::nullopt : std::optional(tasks::Engine::Running{id, attempt}), tasks);
  }
  auto submission = parse_submission(head.value("task", json::object()), std::string(parsed->bytes),
                                     config_.max_message_bytes);
  const auto answer = [this, worker, request](json fields) {
    fields["request"] = request;
    send_to(worker, FrameType::kTaskSubmitted, control(fields));
  };
  const auto refuse = [answer](const Error& error) {
    answer({{"code", code_name(error.code)}, {"message", error.message}});
  };
  if (!submission) return refuse(submission.error());
  if (!id.empty()) submission->parent = tasks::AtWork{worker, id, attempt};
  submit(*std::move(submission), [answer, refuse](const tasks::Submitted& submitted) {
    if (!submitted.result) return refuse(submitted.result.error());
    answer({{"id", submitted.result->value},
            {"survives", submitted.survives},
            {"duplicate", submitted.duplicate}});
  });
}

// Each task in a few words; of a single one that is done the result as well.
void Coordinator::answer_wait(const tasks::Waited& waited) {
  json head{{"request", waited.request}};
  std::string bytes;
  const bool alone = waited.tasks.size() == 1;
  if (!waited.status) {
    head["code"] = code_name(waited.status.error().code);
    head["message"] = waited.status.error().message;
    return send_to(waited.worker, FrameType::kTaskWaited, control(head));
  }
  head["tasks"] = json::array();
  for (const auto& id : waited.tasks) {
    const auto task = engine_->find(id);
    head["tasks"].push_back(ended_json(id, task ? *task : nullptr, alone));
    if (alone && task && (*task)->result) bytes = (*task)->result->bytes;
  }
  send_to(waited.worker, FrameType::kTaskWaited, control(head, bytes));
}

void Coordinator::locate(const AgentName& name, const Located& done) {
  if (name == config_.name)
    return done(Location{config_.pod_ip, config_.link_port, {config_.name, {}}});
  const auto owner = owner_.find(name);
  const auto member = owner == owner_.end() ? by_session_.end() : by_session_.find(owner->second);
  // A former worker that is expected back is not one that is not there.
  const bool announced = std::any_of(announcing_.begin(), announcing_.end(),
                                     [&](const auto& a) { return a.first.name == name; });
  if (member == by_session_.end() && (recovering() || announced))
    return done(unavailable(name.value + " has not come to the new coordinator yet"));
  if (member == by_session_.end()) return done(not_found(name.value + " is not connected now"));
  done(Location{member->second.address, config_.link_port, {name, member->second.log_id}});
}

void Coordinator::leaving() {
  if (leaving_) return;
  leaving_ = true;
  for (const auto& [number, member] : by_session_) {
    if (auto session = member.session.lock()) session->send(FrameType::kLeaving, "");
  }
}

void Coordinator::swarm_deleted() {
  for (const auto& [number, member] : by_session_) {
    if (auto session = member.session.lock())
      session->send(FrameType::kLeaving, control(json{{"swarmDeleted", true}}));
  }
}

tasks::Counts Coordinator::counts() const { return engine_->counts(wall_now()); }

// ---- the engine's outputs

void Coordinator::send_to(const tasks::Worker& worker, FrameType type, const std::string& payload) {
  const auto found = by_session_.find(worker.session);
  if (found == by_session_.end()) return;  // it went; the engine hears so by worker_disconnected
  if (auto session = found->second.session.lock()) session->send(type, payload);
}

void Coordinator::store(const tasks::Store& out) {
  auto record = log_->append(tasks::kTask, out.bytes);
  if (!record) {
    unstored_[out.id] = out;
    if (complete_record_ != 0) log_->finish(complete_record_);
    complete_record_ = complete_epoch_ = 0;
    return;
  }
  unstored_.erase(out.id);
  const auto older = records_.find(out.id);
  if (older != records_.end()) log_->finish(older->second);
  records_[out.id] = *record;
}

void Coordinator::note_spent(tasks::Expired expired) {
  expired_ = std::move(expired);
  spent_unstored_ = true;
  const auto record = log_->append(tasks::kSpent, tasks::encode(expired_));
  if (!record) return;  // full: tick() tries again
  if (spent_record_ != 0) log_->finish(spent_record_);
  spent_record_ = *record;
  spent_unstored_ = false;
}

void Coordinator::perform() {
  if (!recovering()) promote_standbys();
  bool changed = false;
  for (auto& output : engine_->take_outputs()) {
    changed = true;
    if (auto* o = std::get_if<tasks::Store>(&output)) {
      store(*o);
    } else if (auto* e = std::get_if<tasks::Erase>(&output)) {
      if (e->expired) note_spent(*e->expired);
      unstored_.erase(e->id);
      if (const auto found = records_.find(e->id); found != records_.end()) {
        log_->finish(found->second);
        records_.erase(found);
      }
    } else if (auto* r = std::get_if<tasks::Replicate>(&output)) {
      std::string payload;
      link::put_u64(payload, r->version);
      link::put_text(payload, r->id.value);
      payload += r->bytes;
      send_to(r->mirror, FrameType::kReplicate, payload);
    } else if (auto* f = std::get_if<tasks::Forget>(&output)) {
      send_to(f->mirror, FrameType::kForget, f->id.value);
    } else if (auto* s = std::get_if<tasks::Submitted>(&output)) {
      const auto ticket = tickets_.find(s->ticket);
      if (ticket == tickets_.end()) continue;
      const auto done = std::move(ticket->second);
      tickets_.erase(ticket);
      done(*s);
    } else if (auto* w = std::get_if<tasks::Waited>(&output)) {
      answer_wait(*w);
    } else if (auto* l = std::get_if<tasks::Lease>(&output)) {
      json head{{"request", l->request},
                {"id", l->id.value},
                {"attempt", l->attempt},
                {"maxAttempts", l->max_attempts},
                {"version", l->version == tasks::Version::kV1 ? "V1" : "V2"},
                {"leaseMs", l->lease.count()},
                {"key", printable(l->key)},
                {"labels", json::object()}};
      for (const auto& [k, v] : l->labels) head["labels"][printable(k)] = printable(v);
      if (!l->command.empty()) head["command"] = l->command;
      put_stuck_limit(head);
      send_to(l->worker, FrameType::kTaskLease, control(head, l->body));
    } else if (auto* n = std::get_if<tasks::NoTask>(&output)) {
      send_to(n->worker, FrameType::kTaskNone,
              control(json{
                  {"request", n->request}, {"code", code_name(n->code)}, {"message", n->reason}}));
    } else if (auto* d = std::get_if<tasks::Reported>(&output)) {
      const auto known = reports_.find(d->request);
      if (known == reports_.end()) continue;
      json head{{"id", known->second.first.value}, {"attempt", known->second.second}};
      reports_.erase(known);
      if (!d->status) {
        head["code"] = code_name(d->status.error().code);
        head["message"] = d->status.error().message;
      }
      send_to(d->worker, FrameType::kTaskReported, control(head));
    } else if (auto* c = std::get_if<tasks::Cancel>(&output)) {
      send_to(c->worker, FrameType::kTaskCancel,
              control(json{{"id", c->id.value}, {"attempt", c->attempt}}));
    } else if (auto* g = std::get_if<tasks::Changed>(&output)) {
      const auto task = engine_->find(g->id);
      if (task) {  // who had it may not have it any more
        for (const auto& attempt : (*task)->history) {
          const auto member = by_session_.find(attempt.session);
          if (member != by_session_.end()) note_work(member->second);
        }
      }
      if (!task || !tasks::is_final((*task)->state)) continue;
      for (auto it = waiters_.begin(); it != waiters_.end();) {
        if (it->id != g->id) {
          ++it;
          continue;
        }
        answer_task(it->id, it->respond);
        it = waiters_.erase(it);
      }
    }
  }
  note_complete();
  // The other teams learn it from the status.
  const bool over = engine_->budget_used().value_or(0) >= 1;
  bool soon = over != std::exchange(budget_spent_, over);
  // Somebody looks at it: at once.
  auto stuck = engine_->stuck();
  if (stuck != stuck_) soon = true;
  stuck_ = std::move(stuck);
  if ((changed || soon) && on_change) on_change(soon);
}

void Coordinator::put_stuck_limit(json& head) const {
  head["stuckAfterMs"] = settings_.stuck_after.count();
  if (settings_.end_stuck) head["endStuck"] = true;
}

// ---- time

void Coordinator::tick() {
  const auto now = mono_now();
  for (const auto& [id, out] : std::map(unstored_)) store(out);
  if (spent_unstored_) note_spent(expired_);
  if (active_) engine_->tick(now, wall_now());
  look_at_recovery();
  const bool given_up = !announcing_.empty() && now >= announce_until_;
  for (const auto& [worker, announcement] : std::map(announcing_)) {
    if (now >= announce_until_)
      stop_announcing(worker, "announced long enough");
    else if (!announcement.session && announcement.again_at <= now)
      announce(worker);
  }
  for (auto it = waiters_.begin(); it != waiters_.end();) {
    if (it->deadline > now) {
      ++it;
      continue;
    }
    answer_task(it->id, it->respond);
    it = waiters_.erase(it);
  }
  mail_lists_->tick(now);
  perform();
  arm();
  if (given_up && on_change) on_change(false);  // they stood in the report
}

void Coordinator::arm() {
  const auto now = mono_now();
  auto next = now + Milliseconds{5000};
  const auto sooner = [&](MonoTime t) { next = std::min(next, t); };
  if (const auto t = engine_->next_deadline(); t && active_) sooner(*t);
  for (const auto& waiter : waiters_) sooner(waiter.deadline);
  if (const auto t = mail_lists_->next_deadline()) sooner(*t);
  if (const auto t = gathering_.next_deadline(now); t && active_) sooner(*t);
  if (!announcing_.empty()) sooner(announce_until_);
  for (const auto& [worker, announcement] : announcing_) {
    if (!announcement.session) sooner(announcement.again_at);
  }
  if (!unstored_.empty() || spent_unstored_) sooner(now + Milliseconds{500});
  timer_.expires_at(std::max(next, now + Milliseconds{1}));
  timer_.async_wait([this, alive = alive_](boost::system::error_code e) {
    if (!e && *alive) tick();
  });
}

}  // namespace swarm::engine
