#include "wire.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace swarm::bench {
namespace {

constexpr int kWriteSeconds = 60;
constexpr std::size_t kPieceBytes = 64U << 10U;

}  // namespace

void fail(const std::string& why) {
  std::fprintf(stderr, "round_driver: %s\n", why.c_str());
  ::_exit(1);
}

Wire::Wire(const std::string& path)
    : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)), path_(path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) fail("path of a socket too long: " + path);
  path.copy(address.sun_path, path.size());
  const timeval limit{kWriteSeconds, 0};
  if (fd_ < 0 || ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) != 0 ||
      ::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    fail(path + ": " + std::strerror(errno));
  }
}

Wire::~Wire() { ::close(fd_); }

void Wire::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("writing to " + path_ + ": " + std::strerror(errno));
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
}

void Wire::read(bool wait) {
  buffer_.erase(0, taken_);
  taken_ = 0;
  const auto before = buffer_.size();
  buffer_.resize(before + kPieceBytes);
  ssize_t n = 0;
  do {
    n = ::recv(fd_, buffer_.data() + before, kPieceBytes, wait ? 0 : MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  const bool nothing = n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
  if (n == 0 || (n < 0 && !nothing)) {
    fail("reading from " + path_ + ": " + (n == 0 ? "closed" : std::strerror(errno)));
  }
  buffer_.resize(before + (nothing ? 0 : static_cast<std::size_t>(n)));
}

bool Wire::line(std::string& out) {
  const auto end = buffer_.find('\n', taken_);
  if (end == std::string::npos) return false;
  out.assign(buffer_, taken_, end - taken_);
  taken_ = end + 1;
  return true;
}

}  // namespace swarm::bench
