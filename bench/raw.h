// The floors: what the kernel takes for carrying messages when nobody keeps any promise.
//
// A broker: one process, one unix socket for each agent, frames forwarded by number. A relay: a
// process that forwards the bytes of one connection to another. A segment: a file that senders
// append to and one reader follows, woken by a futex; no process in between.
//
// Threads: none; one owner each.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "wire.h"

namespace swarm::bench {

struct RawHead {
  std::uint32_t bytes = 0;  // of the body, which follows
  std::uint32_t to = 0, from = 0;
  enum Flags : std::uint32_t { kHello = 1, kConfirm = 2, kConfirmed = 4 };
  std::uint32_t flags = 0;  // kConfirm: the receiver is to say kConfirmed
};
struct RawFrame {
  RawHead head;
  std::string_view body;
};

void add_frame(std::string& out, RawHead head, std::string_view body);
// The next frame of `bytes`, which begin with it; false: not all of it is there.
bool next_frame(std::string_view bytes, RawFrame& out);
bool next_frame(Wire& wire, RawFrame& out);  // and takes it

// Connects to a broker as `number`.
Wire& say_hello(Wire& wire, std::uint32_t number);
pid_t start_broker(const std::string& path);  // ready when this returns

// Takes one connection of `listener` and forwards it, both ways, to the unix socket `path` or, when
// that is empty, to address:port. This process does nothing else any more.
[[noreturn]] void relay_one(int listener, const std::string& path, const std::string& address,
                            std::uint16_t port);

class Segment {
 public:
  struct Bell;
  // Before any fork; the file at `path` is on a tmpfs.
  explicit Segment(const std::string& path);
  void write(std::string_view frames);  // whole ones; any process
  // Adds what is new to pending(); waits for something when `wait`. One process.
  void read(bool wait);
  [[nodiscard]] std::string_view pending() const {
    return std::string_view(buffer_).substr(taken_);
  }
  void take(std::size_t bytes) { taken_ += bytes; }

 private:
  Bell* bell_;
  int append_ = -1, read_ = -1;
  std::uint64_t offset_ = 0;
  std::string buffer_;
  std::size_t taken_ = 0;
};

}  // namespace swarm::bench
