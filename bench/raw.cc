#include "raw.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

#include "child.h"

namespace swarm::bench {
namespace {

constexpr std::size_t kMaxQueuedBytes = 256U << 20U;  // of one reader that does not read
constexpr int kEvents = 256;
constexpr std::size_t kPieceBytes = 64U << 10U;
constexpr std::uint64_t kPunchBytes = 1U << 20U;
constexpr std::size_t kReadBytes = 256U << 10U;

class Broker {
 public:
  explicit Broker(int listener) : listener_(listener), epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
    watch(EPOLL_CTL_ADD, listener, EPOLLIN, nullptr);
  }

  [[noreturn]] void serve() {
    std::array<epoll_event, kEvents> events{};
    while (true) {
      const int n = ::epoll_wait(epoll_, events.data(), kEvents, -1);
      for (int i = 0; i < n; ++i) {
        const auto& event = events.at(static_cast<std::size_t>(i));
        auto* peer = static_cast<Peer*>(event.data.ptr);
        if (peer == nullptr) {
          accept();
          continue;
        }
        if ((event.events & EPOLLOUT) != 0) flush(*peer);
        if ((event.events & (EPOLLIN | EPOLLHUP)) != 0) read(*peer);
      }
      for (Peer* peer : dirty_) {
        peer->dirty = false;
        if (!peer->blocked) flush(*peer);
      }
      dirty_.clear();
    }
  }

 private:
  struct Peer {
    int fd;
    std::string in, out;
    std::size_t sent = 0;  // of out
    bool dirty = false, blocked = false;
  };

  void watch(int what, int fd, std::uint32_t events, Peer* peer) const {
    epoll_event event{};
    event.events = events;
    event.data.ptr = peer;
    if (::epoll_ctl(epoll_, what, fd, &event) != 0) fail("broker: epoll");
  }

  void accept() {
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    peers_.push_back(std::make_unique<Peer>(Peer{fd, "", ""}));
    watch(EPOLL_CTL_ADD, fd, EPOLLIN, peers_.back().get());
  }

  void read(Peer& peer) {
    const ssize_t n = ::recv(peer.fd, piece_.data(), piece_.size(), 0);
    if (n <= 0) {  // its number may be taken again; the few bytes of it stay until we end
      if (n == 0) ::close(peer.fd);
      return;
    }
    std::string_view bytes(piece_.data(), static_cast<std::size_t>(n));
    if (!peer.in.empty()) bytes = peer.in.append(bytes);
    RawFrame frame;
    while (next_frame(bytes, frame)) {
      if (frame.head.flags == RawHead::kHello)
        by_number_[frame.head.from] = &peer;
      else
        forward(bytes.substr(0, sizeof(RawHead) + frame.head.bytes), frame.head.to);
      bytes.remove_prefix(sizeof(RawHead) + frame.head.bytes);
    }
    peer.in = std::string(bytes);
  }

  void forward(std::string_view frame, std::uint32_t to) {
    const auto found = by_number_.find(to);
    if (found == by_number_.end()) fail("broker: a message to nobody");
    Peer& peer = *found->second;
    peer.out += frame;
    if (peer.out.size() - peer.sent > kMaxQueuedBytes) fail("broker: a reader does not read");
    if (!peer.dirty) dirty_.push_back(&peer);
    peer.dirty = true;
  }

  void flush(Peer& peer) const {
    while (peer.sent < peer.out.size()) {
      const ssize_t n =
          ::send(peer.fd, peer.out.data() + peer.sent, peer.out.size() - peer.sent, MSG_NOSIGNAL);
      if (n < 0) break;
      peer.sent += static_cast<std::size_t>(n);
    }
    const bool blocked = peer.sent < peer.out.size();
    if (!blocked) {
      peer.out.clear();
      peer.sent = 0;
    }
    if (blocked != peer.blocked)
      watch(EPOLL_CTL_MOD, peer.fd, blocked ? EPOLLIN | EPOLLOUT : EPOLLIN, &peer);
    peer.blocked = blocked;
  }

  const int listener_, epoll_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::unordered_map<std::uint32_t, Peer*> by_number_;
  std::vector<Peer*> dirty_;
  std::array<char, kPieceBytes> piece_{};
};

// Forwards both ways until one side closes, which ends the process.
[[noreturn]] void relay(Wire& left, Wire& right) {
  while (true) {
    std::array<pollfd, 2> ready{{{left.fd(), POLLIN, 0}, {right.fd(), POLLIN, 0}}};
    if (::poll(ready.data(), ready.size(), -1) <= 0) continue;
    for (std::size_t i = 0; i < 2; ++i) {
      if (ready.at(i).revents == 0) continue;
      Wire& from = i == 0 ? left : right;
      from.read(false);
      (i == 0 ? right : left).write(from.pending());
      from.take(from.pending().size());
    }
  }
}

}  // namespace

void add_frame(std::string& out, RawHead head, std::string_view body) {
  head.bytes = static_cast<std::uint32_t>(body.size());
  out.append(reinterpret_cast<const char*>(&head), sizeof head).append(body);
}

bool next_frame(std::string_view bytes, RawFrame& out) {
  if (bytes.size() < sizeof out.head) return false;
  std::memcpy(&out.head, bytes.data(), sizeof out.head);
  if (bytes.size() < sizeof out.head + out.head.bytes) return false;
  out.body = bytes.substr(sizeof out.head, out.head.bytes);
  return true;
}

bool next_frame(Wire& wire, RawFrame& out) {
  if (!next_frame(wire.pending(), out)) return false;
  wire.take(sizeof out.head + out.head.bytes);
  return true;
}

Wire& say_hello(Wire& wire, std::uint32_t number) {
  std::string hello;
  add_frame(hello, {.from = number, .flags = RawHead::kHello}, "");
  wire.write(hello);
  return wire;
}

pid_t start_broker(const std::string& path) {
  const int listener = listen_unix(path);
  const pid_t pid = fork_child([&] { Broker(listener).serve(); });
  ::close(listener);
  return pid;
}

void relay_one(int listener, const std::string& path, const std::string& address,
               std::uint16_t port) {
  Wire left(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC), "relay");
  const int one = 1;  // refused by a unix socket, which has no such delay
  (void)::setsockopt(left.fd(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (path.empty()) {
    Wire right(address, port);
    relay(left, right);
  }
  Wire right(path);
  relay(left, right);
}

// ---- segment

struct Segment::Bell {
  std::atomic<std::uint32_t> rung, sleeps;
};

Segment::Segment(const std::string& path)
    : bell_(new (shared_memory(sizeof(Bell))) Bell),
      append_(::open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_APPEND | O_CLOEXEC, 0600)),
      read_(::open(path.c_str(), O_RDWR | O_CLOEXEC)) {
  if (append_ < 0 || read_ < 0) fail(path + ": " + std::strerror(errno));
}

void Segment::write(std::string_view frames) {
  // One call: the kernel keeps those of other senders from getting in between.
  if (::write(append_, frames.data(), frames.size()) != static_cast<ssize_t>(frames.size()))
    fail(std::string("segment: ") + std::strerror(errno));
  bell_->rung.fetch_add(1);
  if (bell_->sleeps != 0) ::syscall(SYS_futex, &bell_->rung, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

void Segment::read(bool wait) {
  buffer_.erase(0, taken_);
  taken_ = 0;
  while (true) {
    const std::uint32_t rung = bell_->rung;
    const auto before = buffer_.size();
    buffer_.resize(before + kReadBytes);
    const ssize_t n =
        ::pread(read_, buffer_.data() + before, kReadBytes, static_cast<off_t>(offset_));
    if (n < 0) fail(std::string("segment: ") + std::strerror(errno));
    buffer_.resize(before + static_cast<std::size_t>(n));
    const auto done = offset_ / kPunchBytes;
    offset_ += static_cast<std::uint64_t>(n);
    if (offset_ / kPunchBytes != done) {  // what was read gives its pages back
      (void)::fallocate(read_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        static_cast<off_t>(done * kPunchBytes),
                        static_cast<off_t>((offset_ / kPunchBytes - done) * kPunchBytes));
    }
    if (n > 0 || !wait) return;
    bell_->sleeps = 1;
    ::syscall(SYS_futex, &bell_->rung, FUTEX_WAIT, rung, nullptr, nullptr, 0);
    bell_->sleeps = 0;
  }
}

}  // namespace swarm::bench
