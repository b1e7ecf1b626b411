#include "agent_wire.h"

#include <unistd.h>

#include <charconv>
#include <chrono>

namespace swarm::bench {
namespace {

constexpr char kWaitMs[] = "3600000";
constexpr char kSendTimeoutMs[] = "60000";
constexpr auto kJoinLimit = std::chrono::seconds(60);
constexpr useconds_t kJoinPollMicroseconds = 50'000;

// The text after `key` up to `end`; empty when there is none.
std::string_view after(std::string_view line, std::string_view key, std::string_view end) {
  const auto begin = line.find(key);
  if (begin == std::string_view::npos) return {};
  line.remove_prefix(begin + key.size());
  return line.substr(0, line.find_first_of(end));
}

void add_mail(std::string& out, const char* op, std::uint64_t rid, std::string_view to,
              std::string_view body) {
  out.append(R"({"op":")").append(op).append(R"(","rid":)").append(std::to_string(rid));
  out.append(R"(,"to":")").append(to).append(R"(","timeoutMs":)").append(kSendTimeoutMs);
  out.append(R"(,"body":")").append(body).append("\"");
}

}  // namespace

void add_send(std::string& out, std::uint64_t rid, std::string_view to, std::string_view body) {
  add_mail(out, "send", rid, to, body);
  out += "}\n";
}

void add_request(std::string& out, std::uint64_t rid, std::string_view to, std::string_view body) {
  add_mail(out, "request", rid, to, body);
  out += "}\n";
}

void add_receive(std::string& out, std::uint64_t rid) {
  out.append(R"({"op":"recv","rid":)").append(std::to_string(rid));
  out.append(R"(,"waitMs":)").append(kWaitMs).append("}\n");
}

void add_ack(std::string& out, std::uint64_t rid, const Got& message) {
  out.append(R"({"op":"ack","rid":)").append(std::to_string(rid));
  out.append(R"(,"messageId":")").append(message.message_id);
  out.append(R"(","attempt":)").append(message.attempt).append("}\n");
}

void add_echo(std::string& out, std::uint64_t rid, const Got& question) {
  add_mail(out, "send", rid, question.from, question.body);
  out.append(R"(,"inReplyTo":")").append(question.message_id);
  out.append(R"(","ackAttempt":)").append(question.attempt).append("}\n");
}

Got parse_answer(std::string_view line, const char* what) {
  Got out;
  // A body may be long: what stands around it is looked at by itself.
  out.body = after(line, R"("body":")", "\"");
  const auto head = out.body.empty()
                        ? line
                        : line.substr(0, static_cast<std::size_t>(out.body.data() - line.data()));
  const auto rest = line.substr(out.body.empty() ? 0 : head.size() + out.body.size());
  constexpr std::string_view kOk = R"("ok":true)";
  if (head.find(kOk) == std::string_view::npos && rest.find(kOk) == std::string_view::npos)
    fail(std::string(what) + ": " + std::string(line.substr(0, 300)));
  const auto rid = after(rest, R"("rid":)", ",}");
  std::from_chars(rid.data(), rid.data() + rid.size(), out.rid);
  if (out.body.empty()) return out;
  out.message_id = after(rest, R"("messageId":")", "\"");
  out.from = after(rest, R"("from":")", "\"");
  out.attempt = after(head, R"("attempt":)", ",}");
  if (out.message_id.empty() || out.from.empty() || out.attempt.empty())
    fail(std::string(what) + ": a message without id, sender or attempt");
  return out;
}

Got next_answer(Wire& wire, const char* what) {
  std::string_view line;
  while (!wire.line(line)) wire.read(true);
  return parse_answer(line, what);
}

void wait_until_joined(Wire& wire, const std::string& self) {
  using Clock = std::chrono::steady_clock;
  for (const auto deadline = Clock::now() + kJoinLimit; Clock::now() < deadline;
       ::usleep(kJoinPollMicroseconds)) {
    wire.write(R"({"op":"hello","rid":0,"agent":")" + self + "\"}\n");
    std::string_view line;
    while (!wire.line(line)) wire.read(true);
    if (line.find("\"agent\":\"" + self + "\"") == std::string_view::npos)
      fail(self + "'s sidecar says " + std::string(line.substr(0, 300)));
    if (line.find(R"("connected":true)") != std::string_view::npos) return;
  }
  fail(self + "'s sidecar has not joined its coordinator");
}

std::unique_ptr<Wire> open_worker(const std::string& pods, const std::string& agent) {
  const std::string pod = agent.substr(0, agent.find('.'));
  auto wire = std::make_unique<Wire>(pods + "/" + pod + "/agent.sock");
  wait_until_joined(*wire, agent);
  return wire;
}

}  // namespace swarm::bench
