// A connected stream socket as all sides of the benchmarks use it, and their one way to give up.
//
// Threads: none; one owner.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace swarm::bench {

// Says why and ends the process with exit code 1: a benchmark that lost a message has no figure.
[[noreturn]] void fail(const std::string& why);

class Wire {
 public:
  explicit Wire(const std::string& path);                // a unix socket; connects, or fails
  Wire(const std::string& address, std::uint16_t port);  // TCP without Nagle's delay
  Wire(int fd, std::string name);                        // takes a connected one
  ~Wire();
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  [[nodiscard]] int fd() const { return fd_; }
  void write(std::string_view bytes);  // all of them; blocks, at most kWriteSeconds
  // Adds what has arrived to pending(); waits for something when `wait`. Fails when the peer has
  // closed.
  void read(bool wait);
  // What has arrived and was not taken; valid until the next read().
  [[nodiscard]] std::string_view pending() const {
    return std::string_view(buffer_).substr(begin_, end_ - begin_);
  }
  void take(std::size_t bytes) { begin_ += bytes; }
  // Takes the next whole line; `out` has it without its end, valid until the next read(). False:
  // there is none yet.
  bool line(std::string_view& out);

 private:
  int fd_;
  std::string name_, buffer_;
  std::size_t begin_ = 0, end_ = 0, searched_ = 0;  // of buffer_
};

// Listens on a unix socket, or on TCP (no address: any); fails when it can't.
int listen_unix(const std::string& path);
int listen_tcp(std::uint16_t port);

}  // namespace swarm::bench
