#include "engine/mail_list_json.h"

#include <algorithm>
#include <utility>

#include "base/encoding.h"
#include "engine/control_json.h"
#include "engine/mail_request.h"

namespace swarm::engine {
namespace {

constexpr std::size_t kMaxListedText = 128;  // bytes of a name or an id in an answer from outside

const char* where_name(mailbox::Summary::Where where) {
  switch (where) {
    case mailbox::Summary::Where::kReady:
      return "ready";
    case mailbox::Summary::Where::kLeased:
      return "leased";
    case mailbox::Summary::Where::kDelayed:
      return "delayed";
    case mailbox::Summary::Where::kDead:
      return "dead";
    case mailbox::Summary::Where::kOutgoing:
      return "outgoing";
  }
  return "ready";
}

// Only what a message has, and no more of it than there may be.
json checked(const json& message) {
  json out = json::object();
  for (const char* text : {"messageId", "from", "to", "priority", "state", "stream"}) {
    const std::string said = printable(text_of(message, text).substr(0, kMaxListedText));
    if (!said.empty()) out[text] = said;
  }
  for (const char* number : {"attempt", "bytes", "ageMs", "part"}) {
    if (message.contains(number)) out[number] = number_of(message, number);
  }
  return out;
}

}  // namespace

json summary_json(const mailbox::Summary& m, WallTime now) {
  json out{{"messageId", m.id.value},
           {"from", m.from.value},
           {"to", m.to.value},
           {"priority", priority_name(m.priority)},
           {"state", where_name(m.where)},
           {"attempt", m.attempt},
           {"bytes", m.bytes},
           {"ageMs", std::max<WallTime>(0, now - m.sent_at)}};
  if (m.stream) {
    out["stream"] = m.stream->stream.value;
    out["part"] = m.stream->part;
  }
  return out;
}

json listed_mail(const mailbox::Mailbox& box, bool dead, WallTime now) {
  std::size_t there = 0;
  json messages = json::array();
  for (const auto& m : box.list_all(dead, kMaxListedPerPod, there))
    messages.push_back(summary_json(m, now));
  json out = json::object();
  if (there > messages.size()) out["more"] = there - messages.size();
  out["messages"] = std::move(messages);
  return out;
}

bool add_messages(json& all, json part) {
  const auto messages = part.find("messages");
  if (messages == part.end() || !messages->is_array()) return false;
  json& listed = all["messages"];
  std::uint64_t more = number_of(all, "more") + number_of(part, "more");
  for (const json& message : *messages) {
    if (!message.is_object()) continue;
    if (listed.size() < kMaxListedMessages)
      listed.push_back(checked(message));
    else
      ++more;
  }
  if (more > 0) all["more"] = more;
  const auto missing = part.find("missing");
  if (missing == part.end() || !missing->is_array()) return true;
  for (const json& name : *missing) {
    if (name.is_string()) all["missing"].push_back(printable(name.get<std::string>()));
  }
  return true;
}

std::uint64_t MailLists::begin(MonoTime now, json own, std::map<std::uint64_t, std::string> asked,
                               Done done) {
  const auto number = ++last_;
  const auto list = under_way_
                        .emplace(number, List{std::move(own), std::move(asked),
                                              now + kMailListLimit, std::move(done)})
                        .first;
  if (list->second.awaited.empty()) end(list);
  return number;
}

void MailLists::take(std::uint64_t session, std::uint64_t number, const json& answer) {
  const auto list = under_way_.find(number);
  if (list == under_way_.end()) return;
  auto& [all, awaited, deadline, done] = list->second;
  const auto pod = awaited.find(session);
  if (pod == awaited.end()) return;
  const auto messages = answer.find("messages");
  if (messages == answer.end() || !messages->is_array() || messages->size() > kMaxListedPerPod)
    return;  // missing, in the end
  add_messages(all, {{"messages", *messages}, {"more", number_of(answer, "more")}});
  awaited.erase(pod);
  if (awaited.empty()) end(list);
}

void MailLists::gone(std::uint64_t session) {
  for (auto it = under_way_.begin(); it != under_way_.end();) {
    const auto list = it++;
    auto& [all, awaited, deadline, done] = list->second;
    const auto pod = awaited.find(session);
    if (pod == awaited.end()) continue;
    all["missing"].push_back(pod->second);
    awaited.erase(pod);
    if (awaited.empty()) end(list);
  }
}

void MailLists::tick(MonoTime now) {
  while (!under_way_.empty() && under_way_.begin()->second.deadline <= now) end(under_way_.begin());
}

std::optional<MonoTime> MailLists::next_deadline() const {
  if (under_way_.empty()) return std::nullopt;
  return under_way_.begin()->second.deadline;
}

void MailLists::end(std::map<std::uint64_t, List>::iterator list) {
  List ended = std::move(list->second);
  under_way_.erase(list);
  for (const auto& [session, name] : ended.awaited) ended.all["missing"].push_back(name);
  ended.done(std::move(ended.all));
}

}  // namespace swarm::engine
