#include "engine/post.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/encoding.h"
#include "engine/control_json.h"

namespace swarm::engine {

using nlohmann::json;

namespace {

constexpr Milliseconds kAskAgain{100};  // for a team whose coordinator can't be asked yet
constexpr std::string_view kTeamPrefix = "team-";

std::optional<std::uint32_t> team_of(std::string_view word) {
  if (!word.starts_with(kTeamPrefix)) return std::nullopt;
  word.remove_prefix(kTeamPrefix.size());
  std::uint32_t team = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), team);
  if (word.empty() || error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return team;
}

}  // namespace

Result<Receivers> parse_receivers(std::string_view text) {
  Receivers out;
  if (is_agent_name(text)) {  // mostly
    out.names.push_back({std::string(text)});
    return out;
  }
  std::set<std::string_view> seen;
  for (std::size_t begin = 0; begin <= text.size();) {
    const auto end = std::min(text.find(',', begin), text.size());
    const auto word = text.substr(begin, end - begin);
    begin = end + 1;
    if (word == "workers") {
      out.workers = true;
    } else if (word == "coordinators") {
      out.coordinators = true;
    } else if (const auto team = team_of(word)) {
      out.teams.insert(*team);
    } else if (!is_agent_name(word)) {
      return invalid("to: \"" + printable(word.substr(0, 60)) +
                     "\" is not an agent's name; names look like worker-3 or coordinator-0, see "
                     "`agentctl peers`, groups are workers, coordinators and team-0");
    } else if (seen.insert(word).second) {
      out.names.push_back({std::string(word)});
    }
    if (out.names.size() > kMaxReceivers)
      return invalid("to: more than " + std::to_string(kMaxReceivers) + " receivers");
  }
  return out;
}

const char* outcome_name(const Result<Mail::Accepted>& sent) {
  if (sent) return "accepted";
  switch (sent.error().code) {
    case Code::kUnknown:
    case Code::kCancelled:
    case Code::kCorrupt:
    case Code::kInternal:
      return "unknown";
    default:
      return "refused";
  }
}

json outcome_of(const Result<Mail::Accepted>& sent) {
  json out{{"outcome", outcome_name(sent)}};
  if (sent) {
    out["survives"] = sent->survives;
    out["duplicate"] = sent->duplicate;
    if (sent->acked && *sent->acked) out["acked"] = true;
    if (sent->acked && !*sent->acked) {
      const Error& of_ack = sent->acked->error();
      out["code"] = of_ack.code == Code::kUnknown ? code_name(Code::kUnknown) : "partial";
      out["ackCode"] = code_name(of_ack.code);
      out["message"] = "the reply was accepted; of the ack: " + printable(of_ack.message);
    }
  } else {
    out["code"] = code_name(sent.error().code);
    out["message"] = printable(sent.error().message);
  }
  return out;
}

struct Post::Call {
  explicit Call(boost::asio::io_context& io) : timer(io) {}
  std::size_t* counted = nullptr;  // as asking
  mailbox::Message message;
  MonoTime deadline;
  std::vector<AgentName> to;
  std::set<AgentName> known;          // those of `to`
  std::set<std::uint32_t> to_ask;     // teams whose members are not known yet
  std::size_t next = 0, waiting = 0;  // of `to`: not sent yet, without an outcome
  std::uint64_t share = 0;            // of the body, for Mail
  boost::asio::steady_timer timer;
  Tally tally;
  OnOutcome each;
  OnDone done;
  std::optional<std::weak_ptr<const void>> who;
  void add(const AgentName& name) {
    if (known.insert(name).second) to.push_back(name);
  }
};

Post::Post(Loop& loop, Mail& mail, const Config& config)
    : loop_(loop), mail_(mail), config_(config) {}
Post::~Post() { *alive_ = false; }

void Post::send(const Receivers& to, mailbox::Message message, Milliseconds timeout, OnOutcome each,
                OnDone done, std::optional<std::weak_ptr<const void>> who) {
  auto call = std::make_shared<Call>(loop_.io());
  call->message = std::move(message);
  call->deadline = mono_now() + timeout;
  call->each = std::move(each);
  call->done = std::move(done);
  call->who = std::move(who);
  for (const auto& name : to.names) call->add(name);
  for (std::uint32_t team = 0; team < config_.coordinators; ++team) {
    const AgentName coordinator{"coordinator-" + std::to_string(team)};
    if (to.coordinators && coordinator != config_.name) call->add(coordinator);
    if (to.workers || to.teams.contains(team)) call->to_ask.insert(team);
  }
  if (!to.teams.empty() && *to.teams.rbegin() >= config_.coordinators) {
    return call->done(not_found("there is no team-" + std::to_string(*to.teams.rbegin()) +
                                "; there are " + std::to_string(config_.coordinators)));
  }
  if (call->to_ask.empty()) return ask(call);
  if (config_.coordinator)
    return call->done(
        unavailable("who is in a team is asked from a worker's pod; name the agents"));
  if (asking_ >= kMaxAskingCalls) {
    return call->done(Error{Code::kFull, "more than " + std::to_string(kMaxAskingCalls) +
                                             " messages to groups wait for their members' names"});
  }
  ++asking_;
  call->counted = &asking_;
  ask(call);
}

// Everybody is known before anything is sent: a group is told as a whole or not at all.
void Post::ask(const std::shared_ptr<Call>& call) {
  if (call->to_ask.empty()) {
    if (call->counted != nullptr) --*std::exchange(call->counted, nullptr);
    if (call->to.size() > kMaxReceivers) {
      return call->done(invalid("to: " + std::to_string(call->to.size()) + " receivers, at most " +
                                std::to_string(kMaxReceivers)));
    }
    if (call->to.empty()) return call->done(not_found("nobody else is there"));
    call->tally.receivers = call->to.size();
    if (call->to.size() > 1) call->share = mail_.new_share();
    return step(call);
  }
  const auto team = *call->to_ask.begin();
  peers(team, [this, call, team, alive = alive_](const Result<std::vector<Worker::Peer>>& found) {
    if (!*alive) return;
    if (!found) {
      (void)caller(*call);
      if (mono_now() + kAskAgain > call->deadline) {
        --*std::exchange(call->counted, nullptr);
        return call->done(found.error().in("nothing was sent"));
      }
      call->timer.expires_after(kAskAgain);
      call->timer.async_wait([this, call, alive](boost::system::error_code e) {
        if (!e && *alive) ask(call);
      });
      return;
    }
    for (const auto& peer : *found) {
      if (peer.role != "worker") continue;
      for (const auto& agent : agents_of(peer)) {
        if (agent != call->message.from) call->add(agent);
      }
    }
    call->to_ask.erase(team);
    ask(call);
  });
}

std::vector<AgentName> Post::agents_of(const Worker::Peer& peer) const {
  std::vector<AgentName> out;
  if (!is_slot_name(peer.name)) return out;
  const std::uint32_t agents = peer.role == "worker" ? config_.agents_per_pod : 1;
  for (std::uint32_t n = 0; n < agents; ++n) out.push_back(agent_of({peer.name}, n));
  return out;
}

// Null: nobody asks any more.
std::shared_ptr<const void> Post::caller(Call& call) const {
  if (!call.who) return nullptr;
  auto who = call.who->lock();
  if (!who) {
    call.deadline = std::min(call.deadline, mono_now() + config_.backpressure_timeout);
    call.who.reset();
  }
  return who;
}

void Post::step(const std::shared_ptr<Call>& call) {
  const auto who = caller(*call);
  const auto left = std::max(Milliseconds{0}, call->deadline - mono_now());
  const auto end = std::min(call->to.size(), call->next + kSendsPerTurn);
  while (call->next < end) {
    const AgentName& to = call->to[call->next++];
    ++call->waiting;
    mailbox::Message message = call->message;
    message.to = to;
    mail_.send(
        std::move(message), left,
        [this, call, to, alive = alive_](const Result<Mail::Accepted>& sent) {
          if (*alive) outcome(call, to, sent);
        },
        who.get(), call->share);
  }
  if (call->next == call->to.size()) return;
  loop_.post([this, call, alive = alive_] {
    if (*alive) step(call);
  });
}

void Post::outcome(const std::shared_ptr<Call>& call, const AgentName& to,
                   const Result<Mail::Accepted>& sent) {
  --call->waiting;
  auto& tally = call->tally;
  if (sent) {
    ++tally.accepted;
  } else if (!tally.failure || (tally.failure->code != Code::kUnknown &&
                                std::string_view(outcome_name(sent)) == "unknown")) {
    tally.failure = sent.error();
  }
  call->each(to, sent);
  if (call->waiting == 0 && call->next == call->to.size()) call->done(tally);
}

}  // namespace swarm::engine
