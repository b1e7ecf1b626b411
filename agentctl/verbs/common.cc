#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "base/encoding.h"
#include "verbs/verb.h"

namespace swarm::agent {

SocketClient& Context::socket() {
  if (!socket_) {
    const char* id = std::getenv("CFN_AGENT_ID");
    // The first agent of a pod has the pod's own name, and need not say who it is.
    const bool other = id != nullptr && std::strchr(id, '.') != nullptr;
    socket_ = std::make_unique<SocketClient>(socket_path, other ? id : "");
  }
  return *socket_;
}

Answer Context::call(Request request, Milliseconds fallback, const OnPart& part) {
  return socket().call(std::move(request), mono_now() + timeout_or(fallback) + kAnswerSlack, part);
}

Milliseconds Context::send_timeout() {
  constexpr Milliseconds kOtherwise{5000};  // nobody says so
  if (timeout) return *timeout;
  Request hello("hello");
  hello.read_only();
  const Answer answer = call(std::move(hello), kOtherwise);
  if (!answer.ok) return kOtherwise;
  return Milliseconds(answer.fields.object("limits").number("sendTimeoutMs", kOtherwise.count()));
}

int Context::fail(std::string_view code, std::string_view message) const {
  std::fprintf(stderr, "agentctl %s: %s\n", verb.c_str(), printable(message, 4000).c_str());
  return exit_code(code);
}

Result<std::string> read_input(const std::string& text) {
  if (text != "-") return text;
  std::string out;
  char buffer[65536];
  for (;;) {
    const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return internal_error(std::string("standard input: ") + std::strerror(errno));
    if (n == 0) return out;
    out.append(buffer, static_cast<std::size_t>(n));
    if (out.size() > kMostInputBytes) {
      return invalid(
          "standard input has more than 1 MiB: send less, or the name of a file or branch");
    }
  }
}

Result<std::string> body_argument(const Arguments& arguments, std::size_t index) {
  if (index < arguments.positional.size()) return read_input(arguments.positional[index]);
  if (arguments.has_rest && !arguments.rest.empty()) return read_input(arguments.rest[0]);
  if (::isatty(STDIN_FILENO) != 0)
    return invalid("the text is missing: write it as the last argument, or - for standard input");
  return read_input("-");
}

Status set_priority(Request& request, const Arguments& arguments) {
  if (!arguments.has("priority")) return {};
  const std::string priority = arguments.get("priority");
  if (priority != "high" && priority != "normal" && priority != "low")
    return invalid("--priority takes high, normal or low, not '" + priority + "'");
  request.set("priority", priority);
  return {};
}

bool print(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

std::string new_message_id() {
  char bytes[16];
  check(::getrandom(bytes, sizeof bytes, 0) == static_cast<ssize_t>(sizeof bytes),
        "the kernel's random numbers");
  return "m-" + to_hex(std::string_view(bytes, sizeof bytes));
}

int print_message(const Context& context, const Object& message) {
  if (context.json) return print(message.to_json() + "\n") ? 0 : 1;
  const Result<std::string> body = message.bytes("body");
  if (!body) return context.fail(body.error());
  std::fprintf(stderr, "message %s from %s, attempt %lld%s%s\n",
               printable(message.text("messageId"), 128).c_str(),
               printable(message.text("from"), 128).c_str(),
               static_cast<long long>(message.number("attempt", 1)),
               message.flag("redelivered") ? ", redelivered" : "",
               message.flag("wantsReply") ? ", wants a reply" : "");
  return print(*body) ? 0 : 1;
}

bool print_accepted(const Context& context, const Object& answer, const std::string& id) {
  if (context.json) return print(answer.without({"rid", "ok"}).to_json() + "\n");
  std::fprintf(stderr, "accepted, survives: %s%s\n", printable(answer.text("survives"), 20).c_str(),
               answer.flag("duplicate") ? " (it had been accepted before)" : "");
  return print(answer.text("messageId", id) + "\n");
}

Answer ack(Context& context, const Object& message) {
  Request request("ack");
  request.set("messageId", message.text("messageId"))
      .set_number("attempt", message.number("attempt", 1));
  if (const std::string from = message.text("from"); !from.empty()) request.set("from", from);
  return doubted(
      context.socket().call(std::move(request), mono_now() + kDefaultTimeout + kAnswerSlack));
}

Answer doubted(Answer answer) {
  if (answer.ok || answer.code != "not_found" || !answer.repeated) return answer;
  answer.code = "unknown";
  answer.message = kDoubted;
  return answer;
}

Status set_attempt(Request& request, const std::string& name, const Arguments& arguments) {
  if (!arguments.has("attempt"))
    return invalid("--attempt N is missing: the attempt that recv printed with the message");
  const Result<std::int64_t> attempt =
      parse_number(arguments.get("attempt"), 1, std::numeric_limits<std::int32_t>::max());
  if (!attempt) return attempt.error().in("--attempt");
  request.set_number(name, *attempt);
  return {};
}

std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - row[i].size() + 2, ' ');
    }
    out += line + "\n";
  }
  return out;
}

}  // namespace swarm::agent
