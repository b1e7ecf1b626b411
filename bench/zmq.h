// What is needed of libzmq, from its shared library: no headers, nothing to install before a build.
//
// Threads: one owner; libzmq has an I/O thread of its own in each process.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace swarm::bench {

class ZmqSocket {
 public:
  enum class Kind : int { kDealer = 5, kRouter = 6 };
  ZmqSocket(Kind kind, std::uint32_t identity);
  void bind(const std::string& endpoint);
  void connect(const std::string& endpoint);
  void send(std::string_view part, bool more);
  // The next part; false: none has arrived. When `wait`, waits for one.
  bool receive(std::string& part, bool wait);

 private:
  void* socket_;
  alignas(8) char message_[64];  // a zmq_msg_t; what comes next frees what was in it
};

}  // namespace swarm::bench
