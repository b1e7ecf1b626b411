// Runs a kube::Watch on a thread of its own, for ever: list, watch, back off.
//
// Threads: the sink is called on the informer's thread; the others from any.
// Ownership: borrows the HttpClient and the sink. Destruction stops the thread (at most a second or
// so).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "kube/watch.h"
#include "net/http_client.h"

namespace swarm::kube {

class Informer {
 public:
  // Told when a request failed, with the reason; on the informer's thread.
  using OnTrouble =
      std::function<void(const Resource& resource, int failures, const std::string& why)>;

  Informer(net::HttpClient& http, WatchOptions options, WatchSink& sink, OnTrouble on_trouble = {});
  ~Informer();
  Informer(const Informer&) = delete;
  Informer& operator=(const Informer&) = delete;

  void start();
  void request_stop();  // does not wait; the destructor does
  // Ends what is under way and lists everything anew. The list that answers it, and every later
  // one, begins after this call; it is complete once completed() has reached the returned number.
  std::uint64_t relist();
  [[nodiscard]] std::uint64_t completed() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace swarm::kube
