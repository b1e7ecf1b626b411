// For .cc files: what is queued on a non-blocking socket, as far as the kernel has room now. The
// loop need not come by again for that.
#pragma once

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <string>

namespace swarm::engine {

// Takes what was written off the front of `queue`. An error: the connection is of no more use.
template <typename Socket>
boost::system::error_code write_now(Socket& socket, std::string& queue) {
  boost::system::error_code e;
  const auto n = socket.write_some(boost::asio::buffer(queue), e);
  if (e == boost::asio::error::would_block || e == boost::asio::error::interrupted) return {};
  if (!e) queue.erase(0, n);
  return e;
}

}  // namespace swarm::engine
