// A unix stream socket as both sides of the benchmark use it, and their one way to give up.
//
// Threads: none; one owner.
#pragma once

#include <string>
#include <string_view>

namespace swarm::bench {

// Says why and ends the process with exit code 1: a benchmark that lost a message has no figure.
[[noreturn]] void fail(const std::string& why);

class Wire {
 public:
  explicit Wire(const std::string& path);  // connects, or fails
  ~Wire();
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  [[nodiscard]] int fd() const { return fd_; }
  void write(std::string_view bytes);  // all of them; blocks, at most kWriteSeconds
  // Appends what has arrived to buffer(); waits for something when `wait`. Fails when the peer has
  // closed.
  void read(bool wait);
  std::string& buffer() { return buffer_; }
  // Takes the next whole line (without its end) out of buffer(); false: there is none yet.
  bool line(std::string& out);

 private:
  int fd_;
  std::string path_, buffer_;
  std::size_t taken_ = 0;  // bytes of buffer_ that line() has handed out
};

}  // namespace swarm::bench
