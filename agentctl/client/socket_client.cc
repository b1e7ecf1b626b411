#include "client/socket_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/encoding.h"

namespace swarm::agent {
namespace {

constexpr std::uint64_t kGreeting = 0;  // its rid; requests count from 1

std::string why_no_connection(const std::string& path, int error) {
  std::string text = "no connection to the sidecar at " + path + ": ";
  if (error == ENOENT) {
    return text + "no such file (is this a pod of a Swarm? else set CFN_SOCKET or --socket)";
  }
  if (error == ECONNREFUSED) return text + "nobody listens (the sidecar is starting or restarting)";
  return text + std::strerror(error);
}

}  // namespace

SocketClient::SocketClient(std::string path, std::string agent)
    : path_(std::move(path)), agent_(std::move(agent)) {}

SocketClient::~SocketClient() {
  if (fd_ >= 0) ::close(fd_);
}

std::uint64_t SocketClient::submit(Request request, MonoTime deadline) {
  check(pending_.size() < kMaxPendingRequests, "more requests in flight than the protocol allows");
  const std::uint64_t rid = next_rid_++;
  auto [it, added] = pending_.emplace(rid, Pending{std::move(request), deadline, 0});
  check(added, "request ids are unique");
  if (fd_ >= 0 && greeted_) write_request(rid, it->second, mono_now());
  return rid;
}

void SocketClient::forget(std::uint64_t rid) {
  pending_.erase(rid);
  std::erase_if(answers_, [rid](const Answer& a) { return a.rid == rid; });
}

std::vector<Answer> SocketClient::take() { return std::exchange(answers_, {}); }

short SocketClient::events() const {
  return static_cast<short>(out_.empty() ? POLLIN : POLLIN | POLLOUT);
}

MonoTime SocketClient::wake_at() const {
  MonoTime at = MonoTime::max();
  for (const auto& [rid, pending] : pending_) at = std::min(at, pending.deadline);
  if (fd_ < 0 && !pending_.empty()) at = std::min(at, connect_at_);
  return at;
}

void SocketClient::connect_now(MonoTime now) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path_.empty() || path_.size() >= sizeof address.sun_path) {
    trouble_ = "the socket's path has " + std::to_string(path_.size()) + " characters; 1 to " +
               std::to_string(sizeof address.sun_path - 1) + " are possible";
    connect_at_ = now + kReconnectMost;
    return;
  }
  std::memcpy(address.sun_path, path_.data(), path_.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 || ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int error = errno;
    if (fd >= 0) ::close(fd);
    trouble_ = why_no_connection(path_, error);
    connect_at_ = now + backoff_;
    backoff_ = std::min(backoff_ * 2, kReconnectMost);
    return;
  }
  fd_ = fd;
  trouble_.clear();
  in_.clear();
  out_.clear();
  greeted_ = agent_.empty();
  if (!greeted_) return greet();
  for (auto& [rid, pending] : pending_) write_request(rid, pending, now);
}

void SocketClient::greet() {
  const Result<std::string> line =
      Request("hello").set("agent", agent_).line(kGreeting, Milliseconds{0});
  check(line.ok(), "a greeting fits a line");
  out_ = *line;
}

// Refused: so is everything that would have been said on this connection.
void SocketClient::greeted(const Answer& answer, MonoTime now) {
  greeted_ = answer.ok;
  if (answer.ok) {
    for (auto& [rid, pending] : pending_) write_request(rid, pending, now);
    return;
  }
  for (const auto& [rid, pending] : pending_)
    answers_.push_back({rid, false, answer.code, answer.message, {}});
  pending_.clear();
  disconnect(now, answer.message);
}

void SocketClient::disconnect(MonoTime now, std::string why) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
  in_.clear();
  out_.clear();
  trouble_ = std::move(why);
  connect_at_ = now + backoff_;
  backoff_ = std::min(backoff_ * 2, kReconnectMost);
}

void SocketClient::write_request(std::uint64_t rid, Pending& pending, MonoTime now) {
  if (pending.written < 0) return;
  const Result<std::string> line = pending.request.line(rid, pending.deadline - now);
  if (!line) {
    answers_.push_back(
        {rid, false, std::string(code_name(line.error().code)), line.error().message, {}});
    pending.deadline = MonoTime::min();  // answered: expire() removes it without a second answer
    pending.written = -1;
    return;
  }
  ++pending.written;
  out_ += *line;
}

void SocketClient::flush() {
  while (fd_ >= 0 && !out_.empty()) {
    const ssize_t n = ::send(fd_, out_.data(), out_.size(), MSG_NOSIGNAL);
    if (n > 0) {
      out_.erase(0, static_cast<std::size_t>(n));
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      return;
    } else {
      out_.clear();  // it is closed: read_answers() finds out, after what was said before
      return;
    }
  }
}

void SocketClient::read_answers(MonoTime now) {
  char buffer[65536];
  while (fd_ >= 0) {
    const ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (n <= 0) {
      disconnect(now, "the sidecar closed the connection");
      return;
    }
    in_.append(buffer, static_cast<std::size_t>(n));
    std::size_t begin = 0;
    for (;;) {
      const std::size_t end = in_.find('\n', begin);
      if (end == std::string::npos) break;
      Result<Answer> answer = parse_answer(std::string_view(in_).substr(begin, end - begin));
      begin = end + 1;
      if (!answer) {
        disconnect(now,
                   "the sidecar sent a line that is no answer (" + answer.error().message + ")");
        return;
      }
      if (answer->rid == kNoRequest) {
        // Before the greeting nothing else was written on this connection.
        for (auto& [rid, pending] : pending_)
          pending.written -= greeted_ && pending.written > 0 ? 1 : 0;
        disconnect(now, answer->message);
        return;
      }
      backoff_ = kReconnectFirst;
      if (!greeted_) {
        greeted(*answer, now);
        continue;
      }
      const auto it = pending_.find(answer->rid);
      if (it == pending_.end()) continue;  // forgotten, or answered before the connection broke
      answer->repeated = it->second.written > 1;
      if (!answer->more) pending_.erase(it);
      answers_.push_back(*std::move(answer));
    }
    in_.erase(0, begin);
    if (in_.size() > kMaxSocketLineBytes) {
      disconnect(now, "the sidecar sent a line longer than 1 MiB");
      return;
    }
  }
}

void SocketClient::expire(MonoTime now) {
  for (auto it = pending_.begin(); it != pending_.end();) {
    if (it->second.deadline > now) {
      ++it;
      continue;
    }
    if (it->second.written >= 0) {
      Answer answer;
      answer.rid = it->first;
      answer.repeated = it->second.written > 1;
      const bool written = it->second.written > 0;
      answer.code = written && !it->second.request.is_read_only() ? "unknown" : "unavailable";
      answer.message = !trouble_.empty() ? trouble_ : "the sidecar did not answer in time";
      if (answer.code == "unknown") answer.message += "; the request may have been carried out";
      answers_.push_back(std::move(answer));
    }
    it = pending_.erase(it);
  }
}

void SocketClient::pump(MonoTime now) {
  if (fd_ < 0 && !pending_.empty() && now >= connect_at_) connect_now(now);
  flush();
  if (fd_ >= 0) read_answers(now);
  expire(now);
}

Answer SocketClient::call(Request request, MonoTime deadline, const OnPart& part) {
  const std::uint64_t rid = submit(std::move(request), deadline);
  for (;;) {
    const MonoTime now = mono_now();
    pump(now);
    for (Answer& answer : take()) {
      if (answer.rid != rid) continue;
      if (!answer.more) return std::move(answer);
      if (!part || part(answer)) continue;
      forget(rid);
      return std::move(answer);
    }
    const MonoTime at = wake_at();
    const auto wait = std::clamp<std::int64_t>((at - mono_now()).count() + 1, 0, 60'000);
    pollfd entry{fd_, events(), 0};
    // A poll that fails (EINTR) is a poll that returns early: the loop looks again.
    (void)::poll(&entry, fd_ >= 0 ? 1 : 0, static_cast<int>(wait));
  }
}

}  // namespace swarm::agent
