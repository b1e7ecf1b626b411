// Just enough of the NATS client protocol, and of JetStream's API over it.
//
// Threads: none; one owner.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "wire.h"

namespace swarm::bench {

class Nats {
 public:
  explicit Nats(std::uint16_t port);  // of 127.0.0.1; connects, or fails

  [[nodiscard]] int fd() const { return wire_.fd(); }
  void subscribe(std::string_view subject);
  // These two only collect; flush() writes.
  void publish(std::string_view subject, std::string_view body, std::string_view reply = "");
  void ping() { out_ += "PING\r\n"; }
  void flush();

  struct Message {
    std::string_view subject, reply, body;
  };
  // The next message that has arrived, valid until the next read(); false: none is complete. Counts
  // the server's PONGs, fails on its errors.
  bool next(Message& out);
  void read(bool wait) { wire_.read(wait); }
  [[nodiscard]] std::uint64_t pongs() const { return pongs_; }

  // A request of JetStream's API, which fails unless it is granted.
  void manage(const std::string& subject, const std::string& json);

 private:
  Wire wire_;
  std::string out_;
  std::uint64_t pongs_ = 0, subscriptions_ = 0;
};

// A stream in memory that keeps what was published under "j." until somebody acknowledges it.
void make_stream(Nats& nats);
// Those published as "j.NAME" are given to who subscribes to "d.NAME", and again until they are
// acknowledged, one by one.
void make_consumer(Nats& nats, const std::string& name);

}  // namespace swarm::bench
