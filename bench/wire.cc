#include "wire.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace swarm::bench {
namespace {

constexpr int kWriteSeconds = 60;
constexpr std::size_t kPieceBytes = 64U << 10U;
constexpr int kBacklog = 4096;

sockaddr_un unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) fail("path of a socket too long: " + path);
  path.copy(address.sun_path, path.size());
  return address;
}

template <typename Address>
const sockaddr* any(const Address& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

void limit_writes(int fd) {
  const timeval limit{kWriteSeconds, 0};
  if (::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) != 0)
    fail(std::string("SO_SNDTIMEO: ") + std::strerror(errno));
}

}  // namespace

void fail(const std::string& why) {
  std::fprintf(stderr, "bench: %s\n", why.c_str());
  ::_exit(1);
}

Wire::Wire(const std::string& path) : Wire(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), path) {
  const auto address = unix_address(path);
  if (::connect(fd_, any(address), sizeof address) != 0) fail(path + ": " + std::strerror(errno));
}

Wire::Wire(const std::string& address, std::uint16_t port)
    : Wire(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), address + ":" + std::to_string(port)) {
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_port = htons(port);
  const int one = 1;
  if (::inet_pton(AF_INET, address.c_str(), &where.sin_addr) != 1 ||
      ::connect(fd_, any(where), sizeof where) != 0 ||
      ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0) {
    fail(name_ + ": " + std::strerror(errno));
  }
}

Wire::Wire(int fd, std::string name) : fd_(fd), name_(std::move(name)) {
  if (fd_ < 0) fail(name_ + ": " + std::strerror(errno));
  limit_writes(fd_);
}

Wire::~Wire() { ::close(fd_); }

void Wire::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("writing to " + name_ + ": " + std::strerror(errno));
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
}

void Wire::read(bool wait) {
  if (begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    searched_ = searched_ > begin_ ? searched_ - begin_ : 0;
    begin_ = 0;
  }
  if (buffer_.size() < end_ + kPieceBytes) buffer_.resize(2 * (end_ + kPieceBytes));
  ssize_t n = 0;
  do {
    n = ::recv(fd_, buffer_.data() + end_, buffer_.size() - end_, wait ? 0 : MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  const bool nothing = n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
  if (n == 0 || (n < 0 && !nothing)) {
    fail("reading from " + name_ + ": " + (n == 0 ? "closed" : std::strerror(errno)));
  }
  if (!nothing) end_ += static_cast<std::size_t>(n);
}

bool Wire::line(std::string_view& out) {
  const std::string_view all(buffer_.data(), end_);
  const auto end = all.find('\n', std::max(begin_, searched_));
  if (end == std::string_view::npos) {
    searched_ = end_;  // a long line comes in many pieces
    return false;
  }
  out = all.substr(begin_, end - begin_);
  begin_ = end + 1;
  return true;
}

int listen_unix(const std::string& path) {
  const auto address = unix_address(path);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ::unlink(path.c_str());  // absent is fine
  if (fd < 0 || ::bind(fd, any(address), sizeof address) != 0 || ::listen(fd, kBacklog) != 0)
    fail("can't listen on " + path + ": " + std::strerror(errno));
  return fd;
}

int listen_tcp(std::uint16_t port) {
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_port = htons(port);
  const int one = 1;
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
      ::bind(fd, any(where), sizeof where) != 0 || ::listen(fd, kBacklog) != 0)
    fail("can't listen on port " + std::to_string(port) + ": " + std::strerror(errno));
  return fd;
}

}  // namespace swarm::bench
