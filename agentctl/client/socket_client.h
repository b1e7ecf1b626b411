// A client of the agent socket that outlives the engine: it reconnects and repeats what has no
// answer yet.
// An answer may have parts ahead of it (Answer::more).
//
// Non-blocking: fd(), events() and wake_at() go into the caller's poll(), pump() does what can be
// done now. call() is the loop around that for verbs that wait for one answer. Every request has a
// deadline. When it passes without an answer, the client answers itself: `unavailable` when the
// request was never written (or only reads), `unknown` when it was. Requests carry ids, so
// repeating them is safe. Threads: one. Owns the connection.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "client/protocol.h"
#include "os/time.h"

namespace swarm::agent {

inline constexpr Milliseconds kReconnectFirst{20};
inline constexpr Milliseconds kReconnectMost{1000};
inline constexpr std::size_t kMaxPendingRequests = 64;

// Takes what comes ahead of an answer, and again after a reconnect; false: no more is wanted.
using OnPart = std::function<bool(const Answer&)>;

class SocketClient {
 public:
  // `agent`: who this is, said on each connection before anything else; "": the pod's first one,
  // who need not say so.
  explicit SocketClient(std::string path, std::string agent = "");
  ~SocketClient();
  SocketClient(const SocketClient&) = delete;
  SocketClient& operator=(const SocketClient&) = delete;

  // Takes the request; its answer comes out of take(). At most kMaxPendingRequests at a time
  // (checked).
  std::uint64_t submit(Request request, MonoTime deadline);
  // No answer of this request will come out any more.
  void forget(std::uint64_t rid);

  void pump(MonoTime now);
  std::vector<Answer> take();
  // The answer to one request, within its deadline. What comes ahead of it goes to `part`, and
  // comes again after a reconnect; where that returns false, it is what is returned.
  Answer call(Request request, MonoTime deadline, const OnPart& part = nullptr);

  [[nodiscard]] int fd() const { return fd_; }  // -1 while not connected
  [[nodiscard]] short events() const;
  [[nodiscard]] MonoTime wake_at() const;  // MonoTime::max(): nothing to wait for but fd()
  [[nodiscard]] bool connected() const { return fd_ >= 0; }
  // Why there is no connection, in words; "" when there is one.
  [[nodiscard]] const std::string& trouble() const { return trouble_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  struct Pending {
    Request request;
    MonoTime deadline;
    int written = 0;  // times
  };

  void connect_now(MonoTime now);
  void disconnect(MonoTime now, std::string why);
  void greet();
  void greeted(const Answer& answer, MonoTime now);
  void write_request(std::uint64_t rid, Pending& pending, MonoTime now);
  void flush();
  void read_answers(MonoTime now);
  void expire(MonoTime now);

  std::string path_, agent_;
  int fd_ = -1;
  bool greeted_ = false;  // the other side knows who this is
  std::uint64_t next_rid_ = 1;
  std::map<std::uint64_t, Pending> pending_;
  std::vector<Answer> answers_;
  std::string in_;
  std::string out_;
  Milliseconds backoff_ = kReconnectFirst;
  MonoTime connect_at_{};
  std::string trouble_;
};

}  // namespace swarm::agent
