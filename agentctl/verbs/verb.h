// What every verb of agentctl has: a name, help, flags, and a function that returns the exit code.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client/options.h"
#include "client/protocol.h"
#include "client/socket_client.h"
#include "os/time.h"

namespace swarm::agent {

inline constexpr Milliseconds kDefaultTimeout{10'000};
inline constexpr Milliseconds kAnswerSlack{
    1000};  // the engine's own time limit ends this much before ours
inline constexpr std::size_t kMostInputBytes = 1U << 20U;  // from standard input
inline constexpr std::size_t kMostStreamBytes = 100;  // of a stream's id: parts' ids begin with it

// The global flags, evaluated.
struct Context {
  std::string verb;
  std::string socket_path;
  std::optional<Milliseconds> timeout;
  bool json = false;

  [[nodiscard]] SocketClient& socket();
  [[nodiscard]] Milliseconds timeout_or(Milliseconds fallback) const {
    return timeout.value_or(fallback);
  }
  // The answer within the timeout (or `fallback`), plus the slack.
  Answer call(Request request, Milliseconds fallback = kDefaultTimeout,
              const OnPart& part = nullptr);
  // How long a message may wait for its receiver: --timeout, else what the Swarm says
  // (spec.mailbox.backpressure.timeoutSeconds).
  Milliseconds send_timeout();
  // "agentctl VERB: message" on stderr; the exit code.
  int fail(std::string_view code, std::string_view message) const;
  int fail(const Error& error) const { return fail(code_name(error.code), error.message); }
  int fail(const Answer& answer) const { return fail(answer.code, answer.message); }

 private:
  std::unique_ptr<SocketClient> socket_;
};

struct Verb {
  std::string name;
  std::string usage;    // after "agentctl NAME"
  std::string summary;  // one line
  std::string details;  // paragraphs of the help, "" or ending in a newline
  std::vector<Flag> flags;
  std::size_t least = 0;  // positional arguments
  std::size_t most = 0;
  int (*run)(Context& context, const Arguments& arguments) = nullptr;
};

Verb ack_verb();
Verb cat_verb();
Verb dead_verb();
Verb doctor_verb();
Verb extend_verb();
Verb ls_verb();
Verb materialize_verb();
Verb nack_verb();
Verb peers_verb();
Verb prompt_verb();
Verb recv_verb();
Verb reply_verb();
Verb request_verb();
Verb send_verb();
Verb task_verb();
Verb version_verb();
Verb watch_verb();
Verb whoami_verb();
Verb run_verb();
Verb work_verb();

// send --batch: its positional argument is the file. The exit code.
int send_batch(Context& context, const Arguments& arguments);
// send and recv with --stream. The exit code.
int send_stream(Context& context, const Arguments& arguments);
int receive_stream(Context& context, const Arguments& arguments);
// `text`, or for "-" all of standard input. kInvalid: more than kMostInputBytes.
Result<std::string> read_input(const std::string& text);
// The text argument at `index`; without one, standard input (kInvalid when that is a terminal).
Result<std::string> body_argument(const Arguments& arguments, std::size_t index);
// --priority into the request, where it is given. kInvalid: none of high, normal, low.
Status set_priority(Request& request, const Arguments& arguments);
// Writes everything to standard output. False when it is closed.
bool print(std::string_view bytes);
// A message id that nobody else makes: 128 random bits.
std::string new_message_id();
// A message as text: the body to stdout, where it came from to stderr; as JSON: one line on stdout.
// The exit code.
int print_message(const Context& context, const Object& message);
// What became of a message that was accepted: the id to stdout, the rest to stderr; as JSON: one
// line on stdout. False when that is closed.
bool print_accepted(const Context& context, const Object& answer, const std::string& id);
// Acks a message of recv or request.
Answer ack(Context& context, const Object& message);
// An ack, nack, redrive or purge whose answer was lost and that finds nothing when it is repeated
// has become "unknown".
inline constexpr const char* kDoubted =
    "the connection broke after the first try, and the message is not here any more: that try has "
    "counted, or somebody else has ended it";
Answer doubted(Answer answer);
// --attempt into the request, as `name`. kInvalid: missing, or no number of an attempt.
Status set_attempt(Request& request, const std::string& name, const Arguments& arguments);
// A table with aligned columns and a header.
std::string table(const std::vector<std::vector<std::string>>& rows);

}  // namespace swarm::agent
