#include "engine/coordinator_link.h"

#include <algorithm>

namespace swarm::engine {

using boost::asio::ip::tcp;

namespace {
constexpr Milliseconds kFirstBackoff{50}, kMaxBackoff{500};
constexpr std::size_t kMaxCandidates = 8;
}  // namespace

CoordinatorLink::CoordinatorLink(Loop& loop, const Config& config, const Session::Options& options,
                                 std::uint32_t team, Events events)
    : loop_(loop),
      config_(config),
      options_(options),
      team_(team),
      events_(std::move(events)),
      resolver_(loop.io()),
      timer_(loop.io()) {
  search();
}

CoordinatorLink::~CoordinatorLink() {
  *alive_ = false;
  if (trying_) trying_->close(Error{Code::kCancelled, "no longer needed"});
  if (session_) session_->close(Error{Code::kCancelled, "no longer needed"});
}

void CoordinatorLink::look_for_successor() {
  successor_wanted_ = true;
  search();
}

void CoordinatorLink::look_at(const std::string& address) {
  boost::system::error_code e;
  const auto parsed = boost::asio::ip::make_address(address, e);
  if (e || candidates_.size() >= kMaxCandidates) return;
  if (session_ && session_->up() && session_->peer().address == address) return;  // it has us
  candidates_.push_back({parsed, config_.link_port});
  if (trying_) return;  // it comes after the one being tried
  searching_ = true;
  resolver_.cancel();
  timer_.cancel();
  try_next();
}

void CoordinatorLink::search() {
  if (searching_) return;
  searching_ = true;
  const std::string host = "coordinator-" + std::to_string(team_) + "." + config_.link_service;
  resolver_.async_resolve(host, std::to_string(config_.link_port),
                          [this, alive = alive_](boost::system::error_code e,
                                                 const tcp::resolver::results_type& found) {
                            if (!*alive || e == boost::asio::error::operation_aborted) return;
                            if (!e) {
                              for (const auto& entry : found) {
                                if (candidates_.size() < kMaxCandidates)
                                  candidates_.push_back(entry.endpoint());
                              }
                            }
                            if (!trying_) try_next();
                          });
}

void CoordinatorLink::try_next() {
  if (candidates_.empty()) {
    if (!session_ || successor_wanted_) return retry_later();
    searching_ = false;  // a hint that led nowhere
    return;
  }
  const auto to = candidates_.back();
  candidates_.pop_back();
  Session::Events events;
  events.ready = [this, alive = alive_](Session& session) {
    if (!*alive) return;
    const auto& standing = session.peer_standing();
    const bool newer = !session_ || standing.epoch > session_->peer_standing().epoch;
    // Superseded, or its Lease was made anew and begins from 0: it finds out, and closes.
    if (standing.active && standing.epoch < known_epoch_) {
      std::string seen;
      link::put_u64(seen, known_epoch_);
      return session.send(link::FrameType::kEpochSeen, seen);
    }
    if (!standing.active || !newer) {
      return session.close(unavailable("not the active coordinator"));
    }
    known_epoch_ = standing.epoch;
    const auto former = session_;
    session_ = session.shared_from_this();
    trying_.reset();
    candidates_.clear();
    searching_ = successor_wanted_ = false;
    up_since_ = mono_now();
    if (former) former->close(Error{Code::kCancelled, "superseded"});
    events_.ready(session);
  };
  events.frame = [this, alive = alive_](Session& session, const link::Frame& frame) {
    if (*alive && session_.get() == &session) events_.frame(session, frame);
  };
  events.closed = [this, alive = alive_](Session& session, const Error&) {
    if (!*alive) return;
    if (trying_.get() == &session) {
      trying_.reset();
      return try_next();
    }
    if (session_.get() != &session) return;
    session_.reset();
    successor_wanted_ = false;
    // One that ends as soon as it is there is not to be made again in a loop.
    const bool lasted = mono_now() - up_since_ >= kMaxBackoff;
    if (lasted) backoff_ = Milliseconds{0};
    events_.lost();
    lasted ? search() : retry_later();
  };
  link::Expect expect;
  expect.name.value = "coordinator-" + std::to_string(team_);
  trying_ = Session::connect(loop_, to, options_, expect, std::move(events));
}

void CoordinatorLink::retry_later() {
  backoff_ = backoff_ == Milliseconds{0} ? kFirstBackoff : std::min(backoff_ * 2, kMaxBackoff);
  timer_.expires_after(backoff_);
  timer_.async_wait([this, alive = alive_](boost::system::error_code e) {
    if (e || !*alive || trying_) return;
    searching_ = false;
    search();
  });
}

}  // namespace swarm::engine
