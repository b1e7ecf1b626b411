#include "engine/handover.h"

namespace swarm::engine {

using link::FrameType;
using mailbox::Answer;

Handover::Handover(Loop& loop, Mail& mail, const Config& config, Session::Options options,
                   std::function<void(const AgentName&, Located)> locate)
    : loop_(loop),
      mail_(mail),
      config_(config),
      options_(std::move(options)),
      locate_(std::move(locate)),
      timer_(loop.io()) {
  look();
}

Handover::~Handover() {
  *alive_ = false;
  if (session_) session_->close(Error{Code::kCancelled, "the pod ends"});
}

std::uint32_t Handover::left() const {
  return unheard_ >= kMaxUnheardOffers ? 0 : mail_.box().books().outbox_live;
}

void Handover::look() {
  if (left() == 0) return;
  locate_(config_.name, [this, alive = alive_](const Result<Location>& where) {
    if (!*alive || session_) return;
    // As long as our name leads to ourselves there is no successor.
    if (!where || where->expect.log_id == options_.self.log_id) return again();
    if (!taker_.empty() && where->expect.log_id != taker_) return again();
    connect(*where);
  });
}

void Handover::connect(const Location& where) {
  boost::system::error_code bad;
  const auto address = boost::asio::ip::make_address(where.address, bad);
  if (bad) return again();
  Session::Events events;
  events.ready = [this, alive = alive_](Session&) {
    if (!*alive) return;
    mail_.box().begin_offers();
    pump();
  };
  events.frame = [this, alive = alive_](Session& session, const link::Frame& frame) {
    if (*alive) take(session, frame);
  };
  events.closed = [this, alive = alive_](Session& session, const Error&) {
    if (!*alive || session_.get() != &session) return;
    if (outstanding_ > 0 && !heard_ && ++unheard_ == kMaxUnheardOffers) {
      mail_.box().cancel_offers();
      mail_.look_again();
    }
    session_.reset();
    again();
  };
  heard_ = false;
  outstanding_ = 0;
  session_ =
      Session::connect(loop_, {address, where.port}, options_, where.expect, std::move(events));
}

void Handover::take(Session& session, const link::Frame& frame) {
  if (frame.type != FrameType::kHanded) {
    if (!mail_.take(session, frame)) session.close(invalid("a frame that has no place here"));
    return;
  }
  link::PayloadReader in(frame.payload);
  const auto sequence = in.u64();
  const auto answer = in.u8();
  if (!in.done() || answer > static_cast<std::uint8_t>(Answer::kRefused))
    return session.close(invalid("malformed HANDED"));
  heard_ = true;
  if (outstanding_ > 0) --outstanding_;
  mail_.box().on_offer_answer(sequence, static_cast<Answer>(answer));
  if (answer <= static_cast<std::uint8_t>(Answer::kDuplicate)) taker_ = session.peer().log_id;
  pump();
}

void Handover::pump() {
  while (session_ && session_->up() && session_->queued_bytes() < kLinkWindowBytes) {
    const auto batch = mail_.box().offer(64U << 10U);
    if (batch.empty()) break;
    outstanding_ += batch.size();
    for (const auto& offered : batch) session_->send(FrameType::kHandover, payload_of(offered));
  }
  if (outstanding_ == 0) again();  // what is left had no room
}

void Handover::again() {
  if (left() == 0) return;
  timer_.expires_after(kOfferAgain);
  timer_.async_wait([this, alive = alive_](boost::system::error_code e) {
    if (e || !*alive) return;
    if (!session_) return look();
    if (!session_->up() || outstanding_ > 0) return;
    mail_.box().begin_offers();
    pump();
  });
}

}  // namespace swarm::engine
