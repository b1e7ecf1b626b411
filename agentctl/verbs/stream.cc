// Streams: parts of one text, in order, seen by the receiver as they come. send --stream cuts its
// input into parts, recv --stream puts them together again.
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/encoding.h"
#include "verbs/verb.h"

namespace swarm::agent {
namespace {

constexpr Milliseconds kPartTimeout{
    600'000};                        // a slow reader holds a stream up, it does not end it
constexpr Milliseconds kPause{200};  // before what was refused for now is tried again
constexpr Milliseconds kPartWait{30'000};
constexpr std::int64_t kMostParts = 4'294'967'295;

Result<std::int64_t> first_part(const Arguments& arguments) {
  if (!arguments.has("part")) return 1;
  auto part = parse_number(arguments.get("part"), 1, kMostParts);
  if (!part) return part.error().in("--part");
  return part;
}

void pause_for(Milliseconds time) { (void)::poll(nullptr, 0, static_cast<int>(time.count())); }

// One after the other: a part that is refused has none behind it.
class StreamSender {
 public:
  StreamSender(Context& context, std::string to, std::string stream, std::int64_t part)
      : context_(context),
        to_(std::move(to)),
        stream_(std::move(stream)),
        part_(part),
        patience_(context.timeout_or(kPartTimeout)) {}

  enum class Mark { kPart, kEnd, kAbort };
  // The next part. An error: it is not there (`unknown`: perhaps).
  Answer send(std::string_view body, Mark mark) {
    const std::string id =
        stream_ + "." + std::to_string(part_) + (mark == Mark::kAbort ? ".abort" : "");
    const MonoTime deadline = mono_now() + patience_;
    for (bool first = true;;) {
      Request request("send");
      request.set("to", to_).set("id", id).set("stream", stream_).set_bytes("body", body);
      request.set_number("part", part_).set_remaining("timeoutMs", kAnswerSlack);
      if (mark != Mark::kPart) request.set_flag(mark == Mark::kEnd ? "end" : "abort", true);
      Answer answer = context_.socket().call(std::move(request), deadline + kAnswerSlack);
      const bool later =
          answer.code == "full" || answer.code == "unavailable" || answer.code == "unknown";
      // Of an earlier run: what follows would be another text.
      if (answer.ok && first && !answer.repeated && answer.fields.flag("duplicate") && fresh_) {
        answer.ok = false;
        answer.code = "conflict";
        answer.message = "part " + std::to_string(part_) + " of " + stream_ +
                         " was sent before; go on with --part, or begin another stream";
        return answer;
      }
      first = false;
      if (!later || mono_now() + kPause >= deadline) {
        if (answer.ok) ++part_;
        return answer;
      }
      pause_for(kPause);
    }
  }

  // All of standard input, as it comes, then the end. The exit code.
  // fresh: from its beginning, so that no part was ever sent.
  int pump(std::size_t most_bytes, bool fresh) {
    fresh_ = fresh;
    std::string buffer(most_bytes, '\0');
    for (;;) {
      const ssize_t n = ::read(STDIN_FILENO, buffer.data(), buffer.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return give_up("failed", std::string("standard input: ") + std::strerror(errno));
      const Answer answer = send(std::string_view(buffer).substr(0, static_cast<std::size_t>(n)),
                                 n == 0 ? Mark::kEnd : Mark::kPart);
      if (!answer.ok) return give_up(answer.code, answer.message);
      if (n == 0) break;
    }
    std::fprintf(stderr, "accepted: %lld parts, the last one an end\n",
                 static_cast<long long>(part_ - 1));
    return print(stream_ + "\n") ? 0 : 1;
  }

 private:
  // The receiver is to know that no more comes.
  int give_up(const std::string& code, const std::string& why) {
    const Answer told = send(why, Mark::kAbort);
    return context_.fail(
        code, why + "; part " + std::to_string(part_ - (told.ok ? 1 : 0)) + " of stream " +
                  stream_ + " was not sent, and " +
                  (told.ok ? "the stream is aborted" : "that could not be told: " + told.message));
  }

  Context& context_;
  std::string to_, stream_;
  std::int64_t part_;
  bool fresh_ = false;
  Milliseconds patience_;
};

}  // namespace

int send_stream(Context& context, const Arguments& arguments) {
  const std::string stream = arguments.get("stream");
  if (!is_message_id(stream) || stream.size() > kMostStreamBytes)
    return context.fail("invalid", "--stream takes 1 to 100 of the characters A-Z a-z 0-9 . _ : -");
  for (const char* other : {"id", "priority", "batch"}) {
    if (arguments.has(other))
      return context.fail("invalid", std::string("--") + other + " does not go with --stream");
  }
  const auto part = first_part(arguments);
  if (!part) return context.fail(part.error());
  StreamSender sender(context, arguments.positional[0], stream, *part);
  const bool abort = arguments.has("abort");
  if (abort && (arguments.has("end") || arguments.positional.size() > 1))
    return context.fail("invalid", "--abort takes the reason, and neither a text nor --end");
  if (!abort && arguments.positional.size() < 2) {
    if (arguments.has("end"))
      return context.fail("invalid", "--end marks a single part: give its text");
    Request hello("hello");
    hello.read_only();
    const Answer answer = context.call(std::move(hello));
    if (!answer.ok) return context.fail(answer);
    const auto most = answer.fields.object("limits").number("maxMessageBytes", 65536);
    return sender.pump(static_cast<std::size_t>(std::clamp<std::int64_t>(most, 1, 65536)),
                       !arguments.has("part"));
  }
  const Result<std::string> body = abort ? arguments.get("abort") : body_argument(arguments, 1);
  if (!body) return context.fail(body.error());
  const Answer answer = sender.send(*body, abort                  ? StreamSender::Mark::kAbort
                                           : arguments.has("end") ? StreamSender::Mark::kEnd
                                                                  : StreamSender::Mark::kPart);
  if (!answer.ok) return context.fail(answer);
  std::fprintf(stderr, "accepted, survives: %s\n",
               printable(answer.fields.text("survives"), 20).c_str());
  return print(stream + "\n") ? 0 : 1;
}

int receive_stream(Context& context, const Arguments& arguments) {
  const std::string stream = arguments.get("stream"), from = arguments.get("from");
  if (!is_message_id(stream) || !is_agent_name(from))
    return context.fail("invalid", "--stream takes a stream's id, and --from who sends it");
  for (const char* other : {"in-reply-to", "ack"}) {
    if (arguments.has(other)) {
      return context.fail("invalid", std::string("--") + other +
                                         " does not go with --stream: each part is acked when it "
                                         "has been printed");
    }
  }
  auto next = first_part(arguments);
  if (!next) return context.fail(next.error());
  Milliseconds wait = context.timeout_or(kPartWait);
  if (arguments.has("wait")) {
    const Result<Milliseconds> given = parse_duration(arguments.get("wait"));
    if (!given) return context.fail(given.error().in("--wait"));
    wait = *given;
  }
  const auto went = [&] { return " (go on with --part " + std::to_string(*next) + ")"; };
  for (;;) {
    Request request("recv");
    request.set("stream", stream).set("from", from).set_number("part", *next);
    request.set_remaining("waitMs", kAnswerSlack);
    const Answer answer =
        context.socket().call(std::move(request), mono_now() + wait + kAnswerSlack);
    if (!answer.ok) return context.fail(answer.code, answer.message + went());
    const Object message = answer.fields.object("message");
    const std::int64_t part = message.number("part");
    const bool aborted = message.flag("abort");
    // One that was printed before, and whose ack did not arrive.
    const bool again = part < *next && !aborted;
    if (!again) {
      const Result<std::string> body = message.bytes("body");
      if (!body) return context.fail(body.error());
      const bool printed = context.json ? print(message.to_json() + "\n") : aborted || print(*body);
      if (!printed) return 1;  // it comes again to whoever reads on
      *next = part + 1;
    }
    const Answer acked = ack(context, message);
    if (!acked.ok && acked.code != "unknown") {  // unknown: it does not come again from this pod
      return context.fail(acked.code, "part " + std::to_string(part) +
                                          " was printed, but not acked: " + acked.message + went());
    }
    if (again) continue;
    if (aborted)
      return context.fail("failed", "aborted by " + from + " at part " + std::to_string(part) +
                                        ": " + message.text("body"));
    if (message.flag("end")) return 0;
  }
}

}  // namespace swarm::agent
