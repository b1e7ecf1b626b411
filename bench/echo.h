// One who asks and one who answers, in two processes.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

namespace swarm::bench {

class Echo {
 public:
  virtual ~Echo() = default;
  [[nodiscard]] virtual const char* name() const = 0;
  [[nodiscard]] virtual std::vector<pid_t> servers() const = 0;
  virtual void open_asker() = 0;
  // Returns when the answer is here; fails unless it is `body`.
  virtual void ask(const std::string& body) = 0;
  // What the system asks of the asker after an answer; not part of the round trip.
  virtual void after() {}
  [[noreturn]] virtual void answer_for_ever() = 0;
};

// Two agents of worker-0's pod, or the asker in worker-1's.
std::unique_ptr<Echo> make_mailbox_echo(std::string pods, bool across);
std::unique_ptr<Echo> make_broker_echo(const std::string& socket);
// A unix socket to a process in worker-1's network, TCP from there to one in worker-0's, a unix
// socket to the answerer. `prefix`: of the paths of the sockets.
std::unique_ptr<Echo> make_chain_echo(const std::string& prefix);

}  // namespace swarm::bench
