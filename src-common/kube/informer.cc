#include "kube/informer.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <random>
#include <stop_token>
#include <thread>

namespace swarm::kube {
namespace {

constexpr Milliseconds kStreamIdle{120'000};  // bookmarks come about once a minute

}  // namespace

struct Informer::State {
  State(net::HttpClient& client, WatchOptions o, WatchSink& sink, OnTrouble trouble)
      : http(client), options(std::move(o)), watch(options, sink), on_trouble(std::move(trouble)) {}

  // The request's life: ended by stop and by relist().
  std::stop_token begin(const std::stop_token& stop) {
    const std::lock_guard lock(mutex);
    current = std::stop_source();
    if (stop.stop_requested() || relist_wanted) current.request_stop();
    return current.get_token();
  }
  void cancel_current() {
    std::stop_source source;
    {
      const std::lock_guard lock(mutex);
      source = current;
    }
    source.request_stop();
  }
  bool take_relist() {
    const std::lock_guard lock(mutex);
    listing = wanted;
    return std::exchange(relist_wanted, false);
  }

  void run(const std::stop_token& stop) {
    const std::stop_callback on_stop(stop, [this] { cancel_current(); });
    std::minstd_rand random(std::random_device{}());
    std::uniform_real_distribution<double> jitter(0, 1);
    while (!stop.stop_requested()) {
      if (take_relist()) watch.relist();
      const int before = watch.failures();
      step(stop);
      if (watch.failures() > before && on_trouble)
        on_trouble(options.resource, watch.failures(), watch.last_error());
      const Milliseconds pause = watch.backoff(jitter(random));
      if (pause > Milliseconds{0}) {
        std::unique_lock lock(mutex);
        wake.wait_for(lock, stop, pause, [this] { return relist_wanted; });
      }
    }
  }

  void step(const std::stop_token& stop) {
    const Request request = watch.next();
    net::HttpCall call;
    call.target = request.target;
    call.headers = {{"Accept", "application/json"}, {"User-Agent", "swarm/" SWARM_VERSION}};
    const std::stop_token token = begin(stop);
    if (watch.state() == Watch::State::kListing) {
      Result<net::HttpReply> reply = http.send(call, options.list_deadline, token);
      if (!reply.ok()) return ended(reply.error(), token);
      if (reply->status / 100 != 2) return refused(*reply);
      if (token.stop_requested()) return;
      watch.on_list(reply->body);
      if (watch.state() == Watch::State::kWatching)
        completed.store(listing, std::memory_order_release);
      return;
    }
    net::StreamLimits limits;
    limits.total = options.watch_timeout + kStreamIdle;  // the server ends it before
    limits.idle = kStreamIdle;
    Result<net::HttpReply> reply = http.stream(
        call, limits,
        [&](std::string_view line) { return !token.stop_requested() && watch.on_line(line); },
        token);
    if (!reply.ok()) return ended(reply.error(), token);
    if (reply->status / 100 != 2) return refused(*reply);
    watch.on_end(false);
  }

  void refused(const net::HttpReply& reply) {
    const auto retry_after = reply.headers.find("retry-after");
    watch.on_refusal(reply.status, reply.body,
                     retry_after == reply.headers.end() ? "" : retry_after->second);
  }

  void ended(const Error& error, const std::stop_token& token) {
    if (token.stop_requested()) return;  // we did that
    watch.on_end(true, error.message);
  }

  net::HttpClient& http;
  const WatchOptions options;
  Watch watch;
  const OnTrouble on_trouble;
  std::mutex mutex;
  std::condition_variable_any wake;
  std::stop_source current;
  bool relist_wanted = false;
  std::uint64_t wanted = 0;   // relist() calls so far
  std::uint64_t listing = 0;  // those that the present list comes after; the informer's thread only
  std::atomic<std::uint64_t> completed{0};
  std::jthread thread;
};

Informer::Informer(net::HttpClient& http, WatchOptions options, WatchSink& sink,
                   OnTrouble on_trouble)
    : state_(std::make_unique<State>(http, std::move(options), sink, std::move(on_trouble))) {}

Informer::~Informer() = default;  // the jthread stops and joins

void Informer::start() {
  state_->thread =
      std::jthread([state = state_.get()](const std::stop_token& stop) { state->run(stop); });
}

void Informer::request_stop() { state_->thread.request_stop(); }

std::uint64_t Informer::relist() {
  std::uint64_t ticket = 0;
  {
    const std::lock_guard lock(state_->mutex);
    state_->relist_wanted = true;
    ticket = ++state_->wanted;
  }
  state_->wake.notify_all();
  state_->cancel_current();
  return ticket;
}

std::uint64_t Informer::completed() const {
  return state_->completed.load(std::memory_order_acquire);
}

}  // namespace swarm::kube
