#include "engine/session.h"

#include <boost/asio/write.hpp>

#include "base/encoding.h"
#include "engine/write_now.h"

namespace swarm::engine {

using boost::asio::ip::tcp;
using boost::system::error_code;

Session::Session(Loop& loop, tcp::socket socket, const Options& options, link::Handshake handshake,
                 Events events)
    : loop_(loop),
      socket_(std::move(socket)),
      timer_(loop.io()),
      options_(options),
      handshake_(std::move(handshake)),
      events_(std::move(events)),
      started_(mono_now()),
      last_heard_(started_) {}

Session::~Session() = default;

std::shared_ptr<Session> Session::accept(Loop& loop, tcp::socket socket, const Options& options,
                                         Events events) {
  link::Handshake handshake(link::Handshake::Side::kServer, options.self, options.secret, {},
                            random_bytes(32));
  std::shared_ptr<Session> session(
      new Session(loop, std::move(socket), options, std::move(handshake), std::move(events)));
  error_code ignored;  // a latency hint only
  session->socket_.set_option(tcp::no_delay(true), ignored);
  session->socket_.non_blocking(true, ignored);  // else the first write waits, or says so
  session->accepted_ = session->connected_ = true;
  session->heartbeat();
  session->read();
  return session;
}

std::shared_ptr<Session> Session::connect(Loop& loop, const tcp::endpoint& to,
                                          const Options& options, link::Expect expect,
                                          Events events) {
  link::Handshake handshake(link::Handshake::Side::kClient, options.self, options.secret,
                            std::move(expect), random_bytes(32));
  std::shared_ptr<Session> session(
      new Session(loop, tcp::socket(loop.io()), options, std::move(handshake), std::move(events)));
  session->heartbeat();
  session->socket_.async_connect(to, [session](error_code e) {
    if (session->closed_) return;
    if (e) return session->close(unavailable("connect: " + e.message()));
    error_code ignored;  // a latency hint only
    session->socket_.set_option(tcp::no_delay(true), ignored);
    session->socket_.non_blocking(true, ignored);
    session->connected_ = true;
    session->heartbeat();
    session->queue(session->handshake_.start());
    session->read();
  });
  return session;
}

void Session::read() {
  auto self = shared_from_this();
  inbound_.resize(up_ ? kSessionReadBytes : kHandshakeReadBytes);
  socket_.async_read_some(boost::asio::buffer(inbound_), [self](error_code e, std::size_t n) {
    if (self->closed_) return;
    if (e) return self->close(unavailable("link: " + e.message()));
    self->last_heard_ = mono_now();
    self->reader_.add(std::string_view(self->inbound_).substr(0, n));
    while (!self->closed_) {
      auto frame = self->reader_.next();
      if (!frame) return self->close(frame.error());
      if (!*frame) break;
      self->take(**frame);
    }
    if (!self->closed_) self->read();
  });
}

void Session::take(const link::Frame& frame) {
  if (!handshake_.done()) {
    auto answer = handshake_.step(frame, options_.standing());
    if (!answer) {
      std::string bytes;
      link::append_frame(bytes, link::FrameType::kClose, answer.error().message);
      error_code ignored;  // it is being refused anyway
      socket_.write_some(boost::asio::buffer(bytes), ignored);
      return close(answer.error());
    }
    if (!answer->empty()) queue(*answer);
    if (!handshake_.done()) return;
    up_ = true;
    reader_.limit(link::kMaxPayloadBytes);
    ping();
    heartbeat();
    events_.ready(*this);
    return;
  }
  switch (frame.type) {
    case link::FrameType::kPing:
      features_ = link::PayloadReader(frame.payload).u32();
      return send(link::FrameType::kPong, "");
    case link::FrameType::kPong:
      return;
    case link::FrameType::kClose:
      return close(unavailable("the other side closed: " + frame.payload.substr(0, 200)));
    default:
      events_.frame(*this, frame);
  }
}

void Session::send(link::FrameType type, std::string_view payload) {
  if (closed_ || !has_room(link::kHeaderBytes + payload.size())) return;
  link::append_frame(queue_, type, payload);
  write_after_commit();
}

void Session::queue(const std::string& bytes) {
  if (!has_room(bytes.size())) return;
  queue_ += bytes;
  write_after_commit();
}

bool Session::has_room(std::size_t bytes) {
  const bool room = queued_bytes() + bytes <= kMaxSessionQueueBytes;
  if (!room) close(unavailable("the peer does not read"));
  return room;
}

void Session::write_after_commit() {
  if (write_scheduled_) return;
  write_scheduled_ = true;
  loop_.after_commit([self = shared_from_this()] {
    self->write_scheduled_ = false;
    self->write();
  });
}

void Session::write() {
  if (closed_ || !writing_.empty() || queue_.empty() || !socket_.is_open()) return;
  if (const auto failed = write_now(socket_, queue_))
    return close(unavailable("link: " + failed.message()));
  if (queue_.empty()) return;
  writing_.swap(queue_);
  auto self = shared_from_this();
  boost::asio::async_write(socket_, boost::asio::buffer(writing_),
                           [self](error_code e, std::size_t) {
                             self->writing_.clear();
                             if (self->closed_) return;
                             if (e) return self->close(unavailable("link: " + e.message()));
                             // What was queued meanwhile has to wait for its own commit.
                             if (!self->queue_.empty() && !self->write_scheduled_) {
                               self->write_scheduled_ = true;
                               self->loop_.after_commit([self] {
                                 self->write_scheduled_ = false;
                                 self->write();
                               });
                             }
                           });
}

void Session::ping() {
  std::string payload;
  link::put_u32(payload, link::kOwnFeatures);
  send(link::FrameType::kPing, payload);
}

void Session::heartbeat() {
  timer_.expires_after(up_          ? options_.ping_period
                       : connected_ ? options_.handshake_timeout
                                    : options_.connect_timeout);
  timer_.async_wait([weak = weak_from_this()](error_code e) {
    auto self = weak.lock();
    if (e || !self || self->closed_) return;
    const auto now = mono_now();
    if (!self->up_) {
      return self->close(unavailable(self->connected_ ? "link: no handshake in time"
                                                      : "link: no connection in time"));
    }
    if (now - self->last_heard_ >= self->options_.ping_period * self->options_.failure_threshold) {
      return self->close(unavailable("link: nothing heard from the peer in time"));
    }
    self->ping();
    if (!self->closed_) self->heartbeat();
  });
}

bool Unfinished::add(const std::shared_ptr<Session>& session) {
  bool full = false;
  if (sessions_.size() >= kMaxUnfinishedHandshakes) {
    std::erase_if(sessions_, [](const std::weak_ptr<Session>& known) {
      const auto one = known.lock();
      return !one || !one->unfinished();
    });
    full = sessions_.size() >= kMaxUnfinishedHandshakes;
  }
  if (full) {
    if (const auto oldest = sessions_.front().lock())
      oldest->close(unavailable("link: too many connections that have not said who they are"));
    sessions_.pop_front();
  }
  sessions_.push_back(session);
  return full;
}

void Session::close(const Error& why) {
  if (closed_) return;
  closed_ = true;
  error_code ignored;  // it ends either way
  socket_.close(ignored);
  timer_.cancel();
  // Later: nobody is called back from inside one of their own calls.
  loop_.post([self = shared_from_this(), why] {
    auto events = std::move(self->events_);
    self->events_ = {};
    events.closed(*self, why);
  });
}

}  // namespace swarm::engine
