#include "engine/worker.h"

#include <algorithm>

#include "base/encoding.h"
#include "engine/control_json.h"
#include "engine/mail_list_json.h"
#include "telemetry/log.h"

namespace swarm::engine {

using link::FrameType;

namespace {

Error replaced() { return unavailable("the coordinator is being replaced"); }

constexpr Milliseconds kCallTimeout{10000};   // resolve, extend, peers
constexpr Milliseconds kReportAnswer{25000};  // then the agent hears "unknown" and asks again
constexpr Milliseconds kRepeatReport{5000};   // unanswered so long: sent again
constexpr Milliseconds kAskAgain{500};        // a submission or wait that was refused for now
constexpr std::size_t kNamedPerFrame = 2000;  // of HELD and JOIN: far below the limit of a frame
constexpr std::size_t kRememberedReports = 1000;
constexpr std::size_t kMaxPeers = 65536;  // taken of one team, whatever its coordinator says

std::string copy_payload(std::uint64_t version, const TaskId& id, std::string_view bytes) {
  std::string out;
  link::put_u64(out, version);
  link::put_text(out, id.value);
  out.append(bytes);
  return out;
}

template <typename Map, typename Fail>
void expire(Map& calls, MonoTime now, Fail fail) {
  std::vector<typename Map::mapped_type> late;
  for (auto it = calls.begin(); it != calls.end();) {
    if (it->second.deadline > now) {
      ++it;
      continue;
    }
    late.push_back(std::move(it->second));
    it = calls.erase(it);
  }
  for (auto& call : late) fail(call);
}

}  // namespace

Worker::Worker(Loop& loop, const Config& config, const Session::Options& options, Mail& mail)
    : loop_(loop),
      config_(config),
      options_(options),
      mail_(mail),
      timer_(loop.io()),
      counts_timer_(loop.io()) {}

Worker::~Worker() {
  *alive_ = false;
  mail_.on_work = {};
}

void Worker::restore(const log::Record& record) {
  if (record.kind == tasks::kReplica) {
    link::PayloadReader in(record.payload);
    const auto version = in.u64();
    const TaskId id{std::string(in.text())};
    if (!is_task_id(id.value)) return;
    auto& copy = copies_[id];
    // A crash may have left the older one undone; it must not outlive the newer.
    const bool newer = version >= copy.version;
    if (const auto old = newer ? copy.record : record.sequence; old != 0)
      superseded_.push_back(old);
    if (newer) copy = {record.sequence, version, record.payload.size()};
  } else if (record.kind == tasks::kLeased) {
    link::PayloadReader in(record.payload);
    const auto attempt = in.u32();
    const TaskId id{std::string(in.text())};
    if (is_task_id(id.value)) leased_[{id, attempt}] = {record.sequence, mono_now()};
  } else if (record.kind == tasks::kResult) {
    std::uint64_t request = 0;
    if (auto report = decode_report(record.payload, &request)) {
      Pending pending;
      pending.record = record.sequence;
      pending.payload = record.payload;
      reports_[{report->id, report->attempt}] = std::move(pending);
    }
  } else if (record.kind == tasks::kSession) {
    link::PayloadReader in(record.payload);
    session_number_ = in.u64();
    session_record_ = record.sequence;
  }
}

void Worker::attach(log::Log& log) {
  log_ = &log;
  mail_.on_work = [this] { mail_changed(); };
  for (const auto sequence : std::exchange(superseded_, {})) log_->finish(sequence);
  home_ = std::make_unique<CoordinatorLink>(
      loop_, config_, options_, config_.team,
      CoordinatorLink::Events{[this](Session& s) { join(s); },
                              [this](Session& s, const link::Frame& f) { take(s, f); },
                              [this] { lost(); }});
  arm();
}

// ---- joining

void Worker::join(Session& session) {
  joined_ = false;
  json held = json::object(), bytes = json::object();
  const auto flush = [&] {
    if (!held.empty())
      session.send(FrameType::kHeld, control(json{{"held", held}, {"bytes", bytes}}));
    held = bytes = json::object();
  };
  for (const auto& [id, copy] : copies_) {
    held[id.value] = copy.version;
    bytes[id.value] = copy.bytes;
    if (held.size() >= kNamedPerFrame) flush();
  }
  flush();
  json running = json::array();
  const auto name = [&](const TaskAttempt& key) {
    if (running.size() >= kNamedPerFrame) {
      session.send(FrameType::kHeld, control(json{{"running", running}}));
      running = json::array();
    }
    running.push_back({{"id", key.first.value}, {"attempt", key.second}});
  };
  for (const auto& [key, lease] : leased_) name(key);
  for (const auto& [key, pending] : reports_) {
    if (pending.record != 0 && !leased_.contains(key)) name(key);
  }
  json head{{"session", session_number_},
            {"running", running},
            {"leaving", leaving_},
            {"mailList", true},
            {"version", SWARM_VERSION}};
  if (config_.agents_per_pod > 1) head["agents"] = config_.agents_per_pod;
  session.send(FrameType::kJoin, control(head));
}

// What our log has at work was leased under it: with another one we would be our own successor.
void Worker::keep_session(std::uint64_t number) {
  if (number == session_number_ && session_record_ != 0) return;
  session_number_ = number;
  if (session_record_ != 0) log_->finish(std::exchange(session_record_, 0));
  std::string payload;
  link::put_u64(payload, number);
  // Full: tick() tries again. Until then the coordinator knows it, unless it is restarted, too.
  if (const auto record = log_->append(tasks::kSession, payload)) session_record_ = *record;
}

void Worker::lost() {
  joined_ = false;
  // What waits for a task goes on waiting and asks the next coordinator; questions are answered
  // now.
  const auto answer = [](auto& calls) {
    for (auto& [request, call] : std::exchange(calls, {})) call.done(replaced());
  };
  answer(resolves_);
  answer(extends_);
  answer(peer_calls_);
  // These are said again, to the next coordinator.
  for (auto& [request, call] : submissions_) {
    call.unsettled = call.unsettled || std::exchange(call.sent, false);
    call.again_at = {};
  }
  for (auto& [request, call] : waits_) {
    call.sent = false;
    call.again_at = {};
  }
}

void Worker::take(Session& session, const link::Frame& frame) {
  switch (frame.type) {
    case FrameType::kJoined: {
      auto parsed = parse_control(frame.payload);
      if (!parsed) return session.close(parsed.error());
      keep_session(number_of(parsed->head, "session"));
      joined_ = true;
      for (auto& [key, pending] : reports_) pending.sent_at = {};
      send_reports();
      for (auto& [request, next] : nexts_) send_next(request, next);
      mail_.look_again();
      told_ = {};
      // An older coordinator would close the link at a frame that it does not know.
      const auto knows = [&](const char* what) {
        const auto said = parsed->head.find(what);
        return said != parsed->head.end() && *said == true;
      };
      counts_mail_ = knows("mailCounts");
      tells_pressure_ = knows("mailPressure");
      takes_subtasks_ = knows("subtasks");
      send_subtasks();
      send_mail_counts();
      if (on_joined) on_joined();
      return;
    }
    case FrameType::kReplicate: {
      link::PayloadReader in(frame.payload);
      const auto version = in.u64();
      const TaskId id{std::string(in.text())};
      const auto bytes = in.rest();
      if (!in.ok() || !is_task_id(id.value)) return session.close(invalid("malformed REPLICATE"));
      // A coordinator that was superseded must not get copies confirmed any more.
      if (session.peer_standing().epoch < home_->known_epoch())
        return session.close(Error{Code::kDenied, "superseded"});
      auto& copy = copies_[id];
      if (version > copy.version) {
        const auto record_bytes = copy_payload(version, id, bytes);
        auto record = log_->append(tasks::kReplica, record_bytes);
        if (!record) {
          if (copy.record == 0) copies_.erase(id);
          return;  // full: no confirmation, the coordinator looks for another mirror
        }
        if (copy.record != 0) log_->finish(copy.record);
        copy = {*record, version, record_bytes.size()};
      }
      std::string payload;
      link::put_u64(payload, copy.version);
      link::put_text(payload, id.value);
      return session.send(FrameType::kReplicated, payload);
    }
    case FrameType::kForget: {
      const auto copy = copies_.find(TaskId{frame.payload});
      if (copy == copies_.end()) return;
      log_->finish(copy->second.record);
      copies_.erase(copy);
      return;
    }
    case FrameType::kPull: {
      const TaskId id{frame.payload};
      const auto copy = copies_.find(id);
      auto bytes = copy == copies_.end() ? Result<std::string>(not_found("no copy"))
                                         : log_->read(copy->second.record);
      std::string payload = bytes ? *std::move(bytes) : copy_payload(0, id, {});
      return session.send(FrameType::kCopy, payload);
    }
    case FrameType::kMailList: {
      auto parsed = parse_control(frame.payload);
      if (!parsed) return session.close(parsed.error());
      auto answer = listed_mail(mail_.box(), flag_of(parsed->head, "dead"), wall_now());
      answer["request"] = number_of(parsed->head, "request");
      return session.send(FrameType::kMailListed, control(answer));
    }
    case FrameType::kTaskLease:
      return take_lease(session, frame);
    case FrameType::kTaskNone: {
      auto parsed = parse_control(frame.payload);
      if (!parsed) return session.close(parsed.error());
      const auto found = nexts_.find(number_of(parsed->head, "request"));
      if (found == nexts_.end()) return;
      auto done = std::move(found->second.done);
      nexts_.erase(found);
      done(Error{code_from_name(text_of(parsed->head, "code")), text_of(parsed->head, "message")});
      return;
    }
    case FrameType::kTaskExtended: {
      auto parsed = parse_control(frame.payload);
      if (!parsed) return session.close(parsed.error());
      const auto found = extends_.find(number_of(parsed->head, "request"));
      if (found == extends_.end()) return;
      auto done = std::move(found->second.done);
      extends_.erase(found);
      learn_stuck_limit(parsed->head);
      const auto code = text_of(parsed->head, "code");
      if (code.empty()) return done(flag_of(parsed->head, "cancel"));
      return done(Error{code_from_name(code), text_of(parsed->head, "message")});
    }
    case FrameType::kTaskReported: {
      auto parsed = parse_control(frame.payload);
      if (!parsed) return session.close(parsed.error());
      const TaskAttempt key{TaskId{text_of(parsed->head, "id")},
                            static_cast<std::uint32_t>(number_of(parsed->head, "attempt"))};
      const auto found = reports_.find(key);
      if (found == reports_.end()) return;
      const auto code = text_of(parsed->head, "code");
      const Status status =
          code.empty() ? Status()
                       : Status(Error{code_from_name(code), text_of(parsed->head, "message")});
      if (!status && status.error().code == Code::kUnavailable)
        return;  // recovering: it asks again when joined anew, or by the timer
      auto pending = std::move(found->second);
      reports_.erase(found);
      if (pending.record != 0) log_->finish(pending.record);
      // A task that the coordinator does not know may still come, with a worker that is late: the
      // lease stays for the agent's next try.
      const auto leased = leased_.find(key);
      if (leased != leased_.end() && (status || status.error().code != Code::kNotFound)) {
        log_->finish(leased->second.record);
        leased_.erase(leased);
        cancels_.erase(key);
      }
      if (status) {
        reported_.push_back(key);
        if (reported_.size() > kRememberedReports) reported_.pop_front();
      }
      send_reports();
      for (auto& done : pending.waiting) done(status);
      return;
    }
    case FrameType::kTaskCancel: {
      auto parsed = parse_control(frame.payload);
      if (!parsed) return session.close(parsed.error());
      const TaskAttempt key{TaskId{text_of(parsed->head, "id")},
                            static_cast<std::uint32_t>(number_of(parsed->head, "attempt"))};
      if (leased_.contains(key)) cancels_[key] = "cancelled";
      return;
    }
    case FrameType::kTaskSubmitted:
      return take_submitted(session, frame);
    case FrameType::kTaskWaited:
      return take_waited(session, frame);
    case FrameType::kResolved: {
      auto parsed = parse_control(frame.payload);
      if (!parsed) return session.close(parsed.error());
      const auto found = resolves_.find(number_of(parsed->head, "request"));
      if (found == resolves_.end()) return;
      auto done = std::move(found->second.done);
      resolves_.erase(found);
      const auto code = text_of(parsed->head, "code");
      if (!code.empty()) return done(Error{code_from_name(code), text_of(parsed->head, "message")});
      Location where{text_of(parsed->head, "address"),
                     static_cast<std::uint16_t>(number_of(parsed->head, "port")),
                     {}};
      where.expect.name.value = text_of(parsed->head, "name");
      if (const auto id = log_id_from(text_of(parsed->head, "logId"))) where.expect.log_id = *id;
      return done(std::move(where));
    }
    case FrameType::kPeerList: {
      auto parsed = parse_control(frame.payload);
      if (!parsed) return session.close(parsed.error());
      const auto found = peer_calls_.find(number_of(parsed->head, "request"));
      if (found == peer_calls_.end()) return;
      auto& peers = found->second.found;
      if (const auto list = parsed->head.find("peers");
          list != parsed->head.end() && list->is_array()) {
        for (const auto& p : *list) {
          if (p.is_object()) {
            peers.push_back({text_of(p, "name"), text_of(p, "role"), text_of(p, "state"),
                             text_of(p, "node"), static_cast<std::uint32_t>(number_of(p, "team"))});
          }
        }
      }
      const auto after = number_of(parsed->head, "after");
      if (after != 0 && peers.size() < kMaxPeers) {
        return session.send(FrameType::kPeers,
                            control(json{{"request", found->first}, {"after", after}}));
      }
      const auto call = std::move(found->second);
      peer_calls_.erase(found);
      return call.done(call.found);
    }
    case FrameType::kLeaving: {
      if (frame.payload.empty()) return home_->look_for_successor();
      const auto parsed = parse_control(frame.payload);
      if (!parsed) return session.close(parsed.error());
      if (!flag_of(parsed->head, "swarmDeleted", false) || std::exchange(swarm_deleted_, true))
        return;
      telemetry::info("the Swarm is deleted", {});
      arm();
      return on_swarm_deleted();
    }
    default:  // ACKED comes over the youngest link, whoever made it
      if (!mail_.take(session, frame))
        session.close(invalid("a frame that has no place on a worker's link"));
  }
}

// ---- agents' calls

void Worker::send_next(std::uint64_t request, const Next& next) {
  Session* session = home();
  if (session == nullptr) return;
  const auto left = std::max(Milliseconds{0}, next.deadline - mono_now());
  session->send(FrameType::kTaskNext,
                control(json{{"request", request}, {"waitMs", left.count()}}));
}

void Worker::next(Milliseconds wait, const void* who, OnLease done) {
  if (leaving_) {
    done(Error{Code::kDenied, "this pod is shutting down: no more tasks"});
    return;
  }
  if (nexts_.size() >= kMaxWaitingTaskCalls) {
    done(Error{Code::kFull, "more than " + std::to_string(kMaxWaitingTaskCalls) +
                                " calls wait for a task in this pod"});
    return;
  }
  const auto request = ++last_request_;
  nexts_[request] = {mono_now() + wait, std::move(done), who};
  send_next(request, nexts_[request]);
  arm();
}

void Worker::submit(const json& fields, std::string_view body,
                    const std::optional<TaskAttempt>& parent, Milliseconds timeout,
                    OnSubmitted done) {
  if (submissions_.size() >= kMaxSubmissions) {
    return done(Error{Code::kFull, "more than " + std::to_string(kMaxSubmissions) +
                                       " submissions of this pod are under way"});
  }
  const auto request = ++last_request_;
  json head{{"request", request}, {"task", fields}};
  if (parent) {
    head["id"] = parent->first.value;
    head["attempt"] = parent->second;
  }
  submissions_[request] = {mono_now() + timeout, std::move(done), control(head, body)};
  send_subtasks();
  arm();
}

void Worker::wait(const std::vector<std::string>& tasks, const std::optional<TaskAttempt>& self,
                  Milliseconds limit, const void* who, OnWaited done) {
  if (waits_.size() >= kMaxWaitingTaskCalls) {
    return done(Error{Code::kFull, "more than " + std::to_string(kMaxWaitingTaskCalls) +
                                       " calls of this pod wait for tasks"},
                {});
  }
  const auto request = ++last_request_;
  json head{{"request", request}, {"tasks", tasks}};
  if (self) {
    head["id"] = self->first.value;
    head["attempt"] = self->second;
  }
  // The coordinator is to answer for those that have ended, however short the wait.
  const auto deadline = mono_now() + std::max(limit, kAskAgain);
  waits_[request] = {deadline, std::move(done), control(head), who, self};
  send_subtasks();
  arm();
}

bool Worker::waits(const TaskId& id, std::uint32_t attempt) const {
  return std::any_of(waits_.begin(), waits_.end(), [&](const auto& one) {
    return one.second.self == TaskAttempt{id, attempt};
  });
}

// What was not said on this link, and what is to be said again.
void Worker::send_subtasks() {
  Session* session = home();
  if (session == nullptr) return;
  const auto now = mono_now();
  if (!takes_subtasks_) {
    const Error old{Code::kDenied, "the coordinator of team " + std::to_string(config_.team) +
                                       " is of a release that takes no tasks from agents and lets "
                                       "nobody wait: update it first"};
    for (auto& [request, call] : std::exchange(submissions_, {}))
      call.done(call.unsettled ? Error{Code::kUnknown, old.message} : old);
    for (auto& [request, call] : std::exchange(waits_, {})) call.done(old, {});
    return;
  }
  const auto send = [&](auto& calls, FrameType type) {
    for (auto& [request, call] : calls) {
      if (call.sent || call.again_at > now || session->queued_bytes() >= kReportWindowBytes)
        continue;
      call.sent = true;
      session->send(type, call.payload);
    }
  };
  send(submissions_, FrameType::kTaskSubmit);
  send(waits_, FrameType::kTaskWait);
}

void Worker::take_submitted(Session& session, const link::Frame& frame) {
  const auto parsed = parse_control(frame.payload);
  if (!parsed) return session.close(parsed.error());
  const json& head = parsed->head;
  const auto found = submissions_.find(number_of(head, "request"));
  if (found == submissions_.end()) return;
  auto& call = found->second;
  call.sent = false;
  if (const auto code = text_of(head, "code"); !code.empty()) {
    call.last = Error{code_from_name(code), text_of(head, "message")};
    if (call.last->code == Code::kUnknown) call.unsettled = true;
    if (call.last->code == Code::kUnknown || call.last->code == Code::kUnavailable) {
      call.again_at = mono_now() + kAskAgain;
      return arm();
    }
    // What becomes of a try that was not answered is not known by this.
    if (call.unsettled) call.last->code = Code::kUnknown;
  }
  auto done = std::move(call.done);
  const auto failed = std::move(call.last);
  const bool ok = text_of(head, "code").empty();
  submissions_.erase(found);
  if (!ok) return done(*failed);
  done(Submitted{{text_of(head, "id")}, text_of(head, "survives"), flag_of(head, "duplicate")});
}

void Worker::take_waited(Session& session, const link::Frame& frame) {
  const auto parsed = parse_control(frame.payload);
  if (!parsed) return session.close(parsed.error());
  const json& head = parsed->head;
  const auto found = waits_.find(number_of(head, "request"));
  if (found == waits_.end()) return;
  const auto code = text_of(head, "code");
  if (!code.empty() && code_from_name(code) == Code::kUnavailable) {
    found->second.sent = false;
    found->second.again_at = mono_now() + kAskAgain;
    return arm();
  }
  const json ended = head.value("tasks", json());
  if (code.empty() &&
      (!ended.is_array() || ended.empty() ||
       !std::all_of(ended.begin(), ended.end(), [](const json& one) { return one.is_object(); })))
    return session.close(invalid("malformed TASK_WAITED"));
  auto done = std::move(found->second.done);
  waits_.erase(found);
  if (!code.empty()) return done(Error{code_from_name(code), text_of(head, "message")}, {});
  done(ended, parsed->bytes);
}

void Worker::forget(const void* who) {
  for (auto it = waits_.begin(); it != waits_.end();) {
    if (it->second.who != who) {
      ++it;
      continue;
    }
    if (Session* session = home(); session != nullptr && it->second.sent)
      session->send(FrameType::kTaskForgetWait, control(json{{"request", it->first}}));
    it = waits_.erase(it);
  }
  for (auto it = nexts_.begin(); it != nexts_.end();) {
    if (it->second.who != who) {
      ++it;
      continue;
    }
    // Without a session nothing is to be said: who waits is told to the next coordinator anew.
    if (Session* session = home())
      session->send(FrameType::kTaskForgetNext, control(json{{"request", it->first}}));
    it = nexts_.erase(it);
  }
}

void Worker::take_lease(Session& session, const link::Frame& frame) {
  auto parsed = parse_control(frame.payload);
  if (!parsed) return session.close(parsed.error());
  const json& head = parsed->head;
  learn_stuck_limit(head);
  Leased lease;
  lease.id.value = text_of(head, "id");
  if (!is_task_id(lease.id.value)) return session.close(invalid("malformed TASK_LEASE"));
  lease.attempt = static_cast<std::uint32_t>(number_of(head, "attempt"));
  lease.max_attempts = static_cast<std::uint32_t>(number_of(head, "maxAttempts"));
  lease.version = text_of(head, "version") == "V1" ? tasks::Version::kV1 : tasks::Version::kV2;
  lease.lease = Milliseconds(number_of(head, "leaseMs"));
  lease.key = text_of(head, "key");
  lease.body = parsed->bytes;
  if (const auto labels = head.find("labels"); labels != head.end() && labels->is_object()) {
    for (const auto& [k, v] : labels->items()) {
      if (v.is_string()) lease.labels[k] = v.get<std::string>();
    }
  }
  if (const auto command = head.find("command"); command != head.end() && command->is_array()) {
    for (const auto& word : *command) {
      if (word.is_string()) lease.command.push_back(word.get<std::string>());
    }
  }
  const TaskAttempt key{lease.id, lease.attempt};
  const auto give_back = [&](const char* why) {
    tasks::Report back;
    back.id = key.first;  // the lease itself may have been moved from
    back.attempt = key.second;
    back.kind = tasks::FailKind::kReleased;
    back.taken = false;
    back.message = why;
    keep(std::move(back),
         [](Status) {});  // nobody waits: the report is kept and repeated until confirmed
  };
  std::string payload;
  link::put_u32(payload, lease.attempt);
  link::put_text(payload, lease.id.value);
  const bool known = leased_.contains(key);
  if (!known) {
    make_room_for_lease();
    auto record = log_->append(tasks::kLeased, payload);
    if (!record) return give_back("the pod's mailbox is full");
    leased_[key] = {*record, mono_now()};
  }
  const auto found = nexts_.find(number_of(head, "request"));
  if (found == nexts_.end()) {
    if (!known) give_back("nobody was waiting any more");  // else a repetition: it was dealt with
    return;
  }
  auto done = std::move(found->second.done);
  nexts_.erase(found);
  if (!done(std::move(lease))) give_back("the agent had gone");
}

void Worker::make_room_for_lease() {
  while (leased_.size() >= kMaxLeased) {
    const auto stalest = std::min_element(
        leased_.begin(), leased_.end(),
        [](const auto& a, const auto& b) { return a.second.extended < b.second.extended; });
    log_->finish(stalest->second.record);
    cancels_.erase(stalest->first);
    leased_.erase(stalest);
  }
}

// Comes with every lease and every extension, so that a change reaches those at work.
void Worker::learn_stuck_limit(const json& head) {
  if (!head.contains("stuckAfterMs")) return;
  stuck_limit_ = StuckLimit{number_of(head, "stuckAfterMs"), flag_of(head, "endStuck")};
}

void Worker::extend(const TaskId& id, std::uint32_t attempt, const std::string* progress,
                    const Quiet* quiet, bool confirm, OnExtended done) {
  if (!confirm) {  // running work goes on while the coordinator can't be asked
    done = [done = std::move(done)](const Result<bool>& cancel) {
      done(!cancel && cancel.error().code == Code::kUnavailable ? Result<bool>(false) : cancel);
    };
  }
  const TaskAttempt key{id, attempt};
  const auto leased = leased_.find(key);
  if (leased == leased_.end()) {
    return done(Error{Code::kDenied, "attempt " + std::to_string(attempt) + " of " + id.value +
                                         " is not leased to this pod"});
  }
  leased->second.extended = mono_now();
  if (cancels_.contains(key)) return done(true);
  Session* session = home();
  if (session == nullptr) return done(replaced());
  const auto request = ++last_request_;
  extends_[request] = {mono_now() + kCallTimeout, std::move(done)};
  json head{{"request", request}, {"id", id.value}, {"attempt", attempt}};
  if (progress != nullptr)
    head["progress"] = printable(tasks::clipped(*progress, tasks::kMaxLineBytes));
  if (quiet != nullptr) {
    head["quietMs"] = quiet->ms;
    head["stuck"] = printable(tasks::clipped(quiet->why, tasks::kMaxLineBytes));
  }
  session->send(FrameType::kTaskExtend, control(head));
  arm();
}

void Worker::report(tasks::Report report, Mail::OnStatus done) {
  const TaskAttempt key{report.id, report.attempt};
  if (std::find(reported_.begin(), reported_.end(), key) != reported_.end()) return done({});
  if (!is_task_id(key.first.value)) return done(invalid("not a task's id"));
  report.taken = true;  // whatever the agent says
  keep(std::move(report), std::move(done));
}

void Worker::keep(tasks::Report report, Mail::OnStatus done) {
  const TaskAttempt key{report.id, report.attempt};
  auto found = reports_.find(key);
  if (found == reports_.end()) {
    if (reports_.size() >= kMaxKeptReports) {
      return done(Error{Code::kFull, std::to_string(kMaxKeptReports) +
                                         " results of this pod wait for the coordinator"});
    }
    Pending pending;
    // What this pod knows of no lease for was perhaps confirmed before a restart: the coordinator
    // is asked, and nothing is kept of it.
    report.leased = leased_.contains(key);
    pending.payload = encode_report(0, report);
    if (report.leased) {
      auto record = log_->append(tasks::kResult, pending.payload);
      if (!record) return done(record.error().in("keeping the result"));
      pending.record = *record;
    }
    found = reports_.emplace(key, std::move(pending)).first;
    send_reports();
  }
  found->second.waiting.push_back(std::move(done));
  found->second.answer_by = mono_now() + kReportAnswer;
  arm();
}

// What is new or was not answered for long. What does not fit now goes with the answers to these.
void Worker::send_reports() {
  Session* session = home();
  if (session == nullptr) return;
  const auto now = mono_now();
  for (auto& [key, pending] : reports_) {
    if (session->queued_bytes() >= kReportWindowBytes) return;
    if (pending.sent_at != MonoTime{} && now - pending.sent_at < kRepeatReport) continue;
    pending.sent_at = now;
    session->send(FrameType::kTaskReport, pending.payload);
  }
}

void Worker::peers(std::uint32_t team, OnPeers done) {
  const auto session = team < config_.coordinators ? link_of(team).session() : nullptr;
  if (!session || !session->up()) {
    return done(
        unavailable("the coordinator of team " + std::to_string(team) + " can't be reached now"));
  }
  const auto request = ++last_request_;
  peer_calls_[request] = {mono_now() + kCallTimeout, std::move(done), {}};
  session->send(FrameType::kPeers, control(json{{"request", request}}));
  arm();
}

CoordinatorLink& Worker::link_of(std::uint32_t team) {
  if (team == config_.team) return *home_;
  auto& link = others_[team];
  if (!link) {
    link = std::make_unique<CoordinatorLink>(
        loop_, config_, options_, team,
        CoordinatorLink::Events{[this](Session&) { mail_.look_again(); },
                                [this](Session& s, const link::Frame& f) { take(s, f); }, [] {}});
  }
  return *link;
}

void Worker::locate(const AgentName& name, Located done) {
  const auto number =
      static_cast<std::uint32_t>(std::stoul(name.value.substr(name.value.rfind('-') + 1)));
  if (name.value.starts_with("coordinator-")) {
    if (number >= config_.coordinators) return done(not_found("no such agent: " + name.value));
    auto& link = link_of(number);
    if (!link.session()) return done(unavailable(name.value + " is being replaced"));
    Location where{
        link.session()->peer().address, config_.link_port, {name, link.session()->peer().log_id}};
    return done(std::move(where));
  }
  resolve_by(link_of(number % config_.coordinators), name, std::move(done));
}

void Worker::resolve_by(CoordinatorLink& link, const AgentName& name, Located done) {
  if (!link.session() || !link.session()->up())
    return done(unavailable("the coordinator of " + name.value + "'s team can't be reached now"));
  const auto request = ++last_request_;
  resolves_[request] = {mono_now() + kCallTimeout, std::move(done)};
  link.session()->send(FrameType::kResolve,
                       control(json{{"request", request}, {"name", name.value}}));
  arm();
}

void Worker::successor_at(const Session& session) {
  if (session.peer().name.value == "coordinator-" + std::to_string(config_.team))
    home_->look_at(session.peer().address);
}

void Worker::leaving() {
  leaving_ = true;
  if (Session* session = home()) session->send(FrameType::kLeaving, "");
  auto nexts = std::move(nexts_);
  nexts_.clear();
  for (auto& [request, next] : nexts) {
    if (Session* session = home())
      session->send(FrameType::kTaskForgetNext, control(json{{"request", request}}));
    next.done(Error{Code::kDenied, "this pod is shutting down: no more tasks"});
  }
}

void Worker::release_all() {
  for (const auto& [key, lease] : std::map(leased_)) {
    if (reports_.contains(key)) continue;
    tasks::Report back;
    back.id = key.first;
    back.attempt = key.second;
    back.kind = tasks::FailKind::kReleased;
    back.message = "the pod was shut down";
    report(std::move(back), [](Status) {});  // nobody waits: drain watches reports_pending()
  }
}

void Worker::mail_changed() {
  if (counting_ || home() == nullptr) return;
  counting_ = true;
  counts_timer_.expires_after(kMailCountsPeriod);
  counts_timer_.async_wait([this, alive = alive_](boost::system::error_code e) {
    if (e || !*alive) return;
    counting_ = false;
    send_mail_counts();
  });
}

void Worker::send_mail_counts() {
  const auto books = mail_.box().books();
  const MailCounts counts{books.single_copy, books.dead_live,
                          tells_pressure_ ? mail_.pressed(mono_now()) : ""};
  if (home() == nullptr || !counts_mail_ || counts == told_) return;
  told_ = counts;
  std::string payload;
  link::put_u64(payload, counts.single_copy);
  link::put_u64(payload, counts.dead_letters);
  if (tells_pressure_) link::put_text(payload, counts.pressed);
  home()->send(link::FrameType::kMailCounts, payload);
}

void Worker::tick() {
  if (session_number_ != 0) keep_session(session_number_);  // again, where the log was full
  const auto now = mono_now();
  if (!told_.pressed.empty() && mail_.pressed(now).empty()) mail_changed();
  expire(nexts_, now, [](Next& call) { call.done(not_found("no task came in time")); });
  const auto unanswered = [](auto& call) {
    call.done(unavailable("the coordinator did not answer in time"));
  };
  expire(resolves_, now, unanswered);
  expire(extends_, now, unanswered);
  expire(peer_calls_, now, unanswered);
  expire(submissions_, now, [](Submission& call) {
    const std::string why = call.last ? call.last->message : "the coordinator can't be reached now";
    if (call.sent || call.unsettled)
      return call.done(Error{Code::kUnknown, "it may have been submitted: " + why});
    call.done(unavailable(why));
  });
  for (const auto& [request, call] : waits_) {
    if (Session* session = home(); session != nullptr && call.sent && call.deadline <= now)
      session->send(FrameType::kTaskForgetWait, control(json{{"request", request}}));
  }
  expire(waits_, now, [](Wait& call) {
    call.done(Error{Code::kUnknown, "not all of these tasks have ended in time"}, {});
  });
  send_subtasks();
  std::vector<std::pair<Mail::OnStatus, Error>> late;
  for (auto it = reports_.begin(); it != reports_.end();) {
    auto& pending = it->second;
    if (pending.waiting.empty() || !(swarm_deleted_ || pending.answer_by <= now)) {
      ++it;
      continue;
    }
    const bool kept = pending.record != 0;
    const Error why =
        swarm_deleted_ ? Error{Code::kDenied, "the Swarm is deleted: nobody takes results any more"}
        : kept ? Error{Code::kUnknown, "kept in this pod; the coordinator has not confirmed it yet"}
               : unavailable("attempt " + std::to_string(it->first.second) + " of " +
                             it->first.first.value +
                             " is not leased to this pod, and the coordinator can't be asked now");
    for (auto& done : std::exchange(pending.waiting, {})) late.emplace_back(std::move(done), why);
    it = kept ? std::next(it) : reports_.erase(it);
  }
  for (auto& [done, why] : late) done(why);
  send_reports();
  arm();
}

void Worker::arm() {
  auto next = mono_now() + Milliseconds{5000};
  const auto sooner = [&](MonoTime t) { next = std::min(next, t); };
  for (const auto& [r, call] : nexts_) sooner(call.deadline);
  for (const auto& [r, call] : resolves_) sooner(call.deadline);
  for (const auto& [r, call] : extends_) sooner(call.deadline);
  for (const auto& [r, call] : peer_calls_) sooner(call.deadline);
  const auto soon = [&](const auto& calls) {
    for (const auto& [r, call] : calls) {
      sooner(call.deadline);
      if (!call.sent && home() != nullptr) sooner(std::max(call.again_at, mono_now() + kAskAgain));
    }
  };
  soon(submissions_);
  soon(waits_);
  for (const auto& [key, pending] : reports_) {
    if (!pending.waiting.empty()) sooner(swarm_deleted_ ? MonoTime{} : pending.answer_by);
  }
  timer_.expires_at(std::max(next, mono_now() + Milliseconds{1}));
  timer_.async_wait([this, alive = alive_](boost::system::error_code e) {
    if (!e && *alive) tick();
  });
}

}  // namespace swarm::engine
