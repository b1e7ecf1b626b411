// agentctl send --batch: many messages in one call. The loop around client/batch.h: reads as the
// window has room, keeps up to 64 requests under way, prints outcomes in the order of the lines.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <set>

#include "base/encoding.h"
#include "client/batch.h"
#include "verbs/verb.h"

namespace swarm::agent {
namespace {

constexpr std::size_t kReadBytes = 64U << 10U;

class Batch {
 public:
  Batch(Context& context, int input)
      : context_(context), input_(input), patience_(context.send_timeout()) {}

  int run() {
    while (true) {
      context_.socket().pump(mono_now());
      for (const Answer& answer : context_.socket().take()) finish(answer);
      std::string out;
      for (const Outcome& outcome : outcomes_.take()) out += outcome.to_json() + "\n";
      if (!print(out)) return exit_code("failed");  // nobody reads it
      submit();  // leaves no line behind unless something is under way or waits
      if (ended_ && under_way_.empty() && outcomes_.waiting() == 0) break;
      if (!outcomes_.ready()) wait();
    }
    std::fprintf(stderr, "%llu of %llu accepted\n",
                 static_cast<unsigned long long>(outcomes_.accepted()),
                 static_cast<unsigned long long>(outcomes_.total()));
    if (trouble_) return context_.fail(trouble_->in("the rest was not read"));
    return outcomes_.exit_code();
  }

 private:
  struct UnderWay {
    std::uint64_t place = 0, line = 0;
    std::string to, id;
    std::size_t bytes = 0;
  };
  struct Next {
    std::uint64_t line = 0;
    BatchMessage message;
  };

  [[nodiscard]] bool has_room() const {
    return under_way_.size() < kMaxPendingRequests && bytes_ < kMostUnderWayBytes &&
           outcomes_.waiting() < kMostWaitingOutcomes;
  }

  // Lines that are here, as far as the window goes.
  void submit() {
    while (has_room()) {
      if (!held_ && !next_message()) return;
      // The same id twice: the second waits for the first, which would otherwise be told "unknown".
      if (ids_.contains(held_->message.id)) return;
      BatchMessage& m = held_->message;
      Request request("send");
      request.set("to", m.to).set("id", m.id).set_bytes("body", m.body);
      request.set_remaining("timeoutMs", kAnswerSlack);
      if (!m.priority.empty()) request.set("priority", m.priority);
      if (!m.in_reply_to.empty()) request.set("inReplyTo", m.in_reply_to);
      const auto rid =
          context_.socket().submit(std::move(request), mono_now() + patience_ + kAnswerSlack);
      bytes_ += m.body.size();
      ids_.insert(m.id);
      under_way_[rid] = {outcomes_.begin(), held_->line, m.to, m.id, m.body.size()};
      held_.reset();
    }
  }

  // The next good line into held_; bad ones get their outcome. False: none is here, or no room.
  bool next_message() {
    while (outcomes_.waiting() < kMostWaitingOutcomes) {
      auto line = lines_.next();
      if (!line) return false;
      if (!line->too_long && line->text.find_first_not_of(" \t\r") == std::string::npos) continue;
      auto message = line->too_long ? invalid("longer than " + std::to_string(kMaxSocketLineBytes) +
                                              " bytes; send a reference to a file or branch")
                                    : parse_batch_line(line->text);
      if (message) {
        held_ = Next{line->number, *std::move(message)};
        if (held_->message.id.empty()) held_->message.id = new_message_id();
        return true;
      }
      Outcome outcome;
      outcome.line = line->number;
      outcome.code = code_name(message.error().code);
      outcome.message = message.error().in("line " + std::to_string(line->number)).message;
      outcomes_.finish(outcomes_.begin(), std::move(outcome));
    }
    return false;
  }

  void finish(const Answer& answer) {
    const auto found = under_way_.find(answer.rid);
    if (found == under_way_.end()) return;
    UnderWay done = std::move(found->second);
    under_way_.erase(found);
    ids_.erase(done.id);
    bytes_ -= done.bytes;
    Outcome outcome{done.line, std::move(done.to), std::move(done.id), "", answer.code, "", false};
    if (answer.ok) {
      outcome.survives = answer.fields.text("survives");
      outcome.duplicate = answer.fields.flag("duplicate");
    } else {
      outcome.message = printable(answer.message, 1000);
    }
    outcomes_.finish(done.place, std::move(outcome));
  }

  // Until an answer or more input is here; reads what has come, when the window has room for it.
  void wait() {
    SocketClient& socket = context_.socket();
    const bool wants_input = !ended_ && !held_ && has_room();
    const auto left = std::clamp<std::int64_t>((socket.wake_at() - mono_now()).count() + 1, 0,
                                               Milliseconds{60'000}.count());
    pollfd entries[2] = {{wants_input ? input_ : -1, POLLIN, 0}, {socket.fd(), socket.events(), 0}};
    // A poll that fails (EINTR) is a poll that returns early: the loop looks again.
    (void)::poll(entries, 2, static_cast<int>(left));
    if (wants_input && entries[0].revents != 0) read();
  }

  void read() {
    char buffer[kReadBytes];
    const ssize_t n = ::read(input_, buffer, sizeof buffer);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (n < 0) trouble_ = internal_error(std::strerror(errno));
    if (n > 0) return lines_.add({buffer, static_cast<std::size_t>(n)});
    ended_ = true;
    if (!trouble_) lines_.end();
  }

  Context& context_;
  int input_;
  Milliseconds patience_;
  LineCutter lines_;
  Outcomes outcomes_;
  std::optional<Next> held_;
  std::map<std::uint64_t, UnderWay> under_way_;
  std::set<std::string> ids_;
  std::size_t bytes_ = 0;
  bool ended_ = false;  // no more input
  std::optional<Error> trouble_;
};

}  // namespace

int send_batch(Context& context, const Arguments& arguments) {
  const std::string name = arguments.positional.empty() ? "-" : arguments.positional[0];
  if (name == "-") return Batch(context, STDIN_FILENO).run();
  const int input = ::open(name.c_str(), O_RDONLY | O_CLOEXEC);
  if (input < 0) return context.fail("invalid", name + ": " + std::strerror(errno));
  const int code = Batch(context, input).run();
  ::close(input);
  return code;
}

}  // namespace swarm::agent
