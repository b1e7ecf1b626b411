// Who gets the places of an inbox that was full, over real links.
#include <algorithm>
#include <map>

#include "engine/linked_pods.h"

namespace swarm::engine {
namespace {

struct FullInbox : LinkedPods {
  using Sent = std::optional<Result<Mail::Accepted>>;
  std::shared_ptr<Sent> begin(Pod& from, const std::string& id, Milliseconds timeout = kLong) {
    mailbox::Message m;
    m.id.value = id;
    m.from = from.config.name;
    m.to = reader.config.name;
    auto sent = std::make_shared<Sent>();
    from.mail->send(std::move(m), timeout,
                    [sent](Result<Mail::Accepted> outcome) { *sent = std::move(outcome); });
    return sent;
  }
  // Whose message was next; it is acknowledged.
  AgentName read() {
    std::optional<Result<mailbox::Delivery>> got;
    reader.mail->receive(reader.config.name, kLong, kLong, std::nullopt, nullptr,
                         [&](Result<mailbox::Delivery> delivery) { got = std::move(delivery); });
    if (!run_until([&] { return got.has_value(); }) || !*got) return {};
    bool acked = false;
    reader.mail->ack(reader.config.name, (*got)->message.id, 1, kLong,
                     [&](const Status& status) { acked = status.ok(); });
    EXPECT_TRUE(run_until([&] { return acked; }));
    return (*got)->message.from;
  }
  Pod reader{net, "worker-0", 2, {.limits = {.max_inbox_messages = 1}}};
  Pod one{net, "worker-1", 3, {}}, two{net, "worker-2", 4, {}};
};

TEST_F(FullInbox, ItsSendersTakeTurns) {
  constexpr int kEach = 20;
  std::vector<std::shared_ptr<Sent>> sends;
  for (Pod* from : {&one, &two, &reader}) {  // each all at once, one pod after the other
    const auto full = reader.box.books().full;
    for (int n = 0; n < kEach; ++n)
      sends.push_back(begin(*from, from->config.name.value + ":" + std::to_string(n)));
    ASSERT_TRUE(run_until([&] { return reader.box.books().full > full; }));
  }
  std::map<AgentName, int> read_of;
  for (int n = 0; n < 3 * kEach; ++n) {
    const AgentName from = read();
    ASSERT_FALSE(from.value.empty()) << n;
    ++read_of[from];
    if (n < 6 || n >= 3 * kEach - 6) continue;  // who came first, and who is left at the end
    for (const auto& [name, count] : read_of)
      EXPECT_LE(std::abs(count - n / 3), 3) << name.value << " at " << n;
    ASSERT_EQ(read_of.size(), 3U);
  }
  for (const auto& sent : sends) {
    ASSERT_TRUE(run_until([&] { return sent->has_value(); }));
    EXPECT_TRUE(**sent);
  }
}

TEST_F(FullInbox, APlaceThatIsNotNeededIsTheNextOnes) {
  const auto fits = begin(one, "fits");
  ASSERT_TRUE(run_until([&] { return fits->has_value(); }));
  const auto gives_up = begin(one, "gives-up", Milliseconds{300});
  ASSERT_TRUE(run_until([&] { return gives_up->has_value(); }));
  ASSERT_FALSE(**gives_up);
  EXPECT_EQ((*gives_up)->error().code, Code::kFull);
  const auto waits = begin(two, "waits");
  ASSERT_TRUE(run_until([&] { return reader.box.books().full > 1; }));
  EXPECT_EQ(read(), one.config.name);
  ASSERT_TRUE(run_until([&] { return waits->has_value(); }));
  EXPECT_TRUE(**waits);
  EXPECT_EQ(read(), two.config.name);
}

// worker-1's pod, frame by frame.
struct RawLinks : FullInbox {
  std::shared_ptr<Session> connect() {
    Session::Events events;
    events.ready = [](Session&) {};
    events.frame = [this](Session&, const link::Frame& frame) {
      if (frame.type == link::FrameType::kAnswer && frame.payload.size() >= 9)
        answers.push_back(static_cast<mailbox::Answer>(frame.payload[8]));
    };
    events.closed = [this](Session&, const Error&) { ++closed; };
    const auto& to = net.where.at(reader.config.name);
    auto session = Session::connect(one.loop, {boost::asio::ip::make_address(to.address), to.port},
                                    one.options, to.expect, std::move(events));
    EXPECT_TRUE(run_until([&] { return session->up(); }));
    return session;
  }
  void send(Session& session, std::uint64_t sequence, const std::string& id) {
    std::string payload;
    link::put_u64(payload, sequence);
    link::put_u64(payload, sequence - 1);
    mailbox::Message m;
    m.id.value = id;
    m.from = one.config.name;
    m.to = reader.config.name;
    session.send(link::FrameType::kMessage, payload + mailbox::encode(m));
  }
  bool answered(std::size_t count) {
    return run_until([&] { return answers.size() == count; });
  }
  std::vector<mailbox::Answer> answers;
  int closed = 0;
};

TEST_F(RawLinks, WhatComesLateOverALinkThatWasGivenUpIsNotTakenAfterFull) {
  const auto older = connect(), younger = connect();
  send(*younger, 1, "first");
  send(*younger, 2, "second");
  ASSERT_TRUE(answered(2));
  ASSERT_EQ(answers[1], mailbox::Answer::kFull);
  EXPECT_EQ(read(), one.config.name);
  send(*older, 2, "second");
  ASSERT_TRUE(run_until([&] { return closed == 1; }));
  EXPECT_EQ(reader.box.books().inbox_live, 0U) << "its sender has been told that it is refused";
  send(*younger, 2, "second");
  ASSERT_TRUE(answered(3));
  EXPECT_EQ(answers[2], mailbox::Answer::kStored);
  younger->close(unavailable("done"));
}

// RELEASE may come over a link of the other side's own, as an answer.
TEST_F(RawLinks, WhatComesOverALinkOfOursSaysNothingOfTheirs) {
  const auto theirs = connect();
  mailbox::Message m;
  m.id.value = "to-one";
  m.from = reader.config.name;
  m.to = one.config.name;
  std::optional<Result<Mail::Accepted>> accepted;
  reader.mail->send(m, kLong, [&](Result<Mail::Accepted> outcome) { accepted = outcome; });
  ASSERT_TRUE(run_until([&] { return accepted.has_value(); }));
  ASSERT_TRUE(*accepted);
  one.inbound.back()->send(link::FrameType::kRelease, std::string(24, '\0'));
  one.inbound.back()->send(link::FrameType::kPing, std::string(4, '\0'));
  const auto until = mono_now() + Milliseconds{100};
  run_until([&] { return mono_now() >= until; });
  const auto full = reader.box.books().inbox_live;
  send(*theirs, 1, "still-taken");
  ASSERT_TRUE(answered(1)) << closed << " links were closed";
  EXPECT_EQ(answers[0], full == 0 ? mailbox::Answer::kStored : mailbox::Answer::kFull);
  theirs->close(unavailable("done"));
}

}  // namespace
}  // namespace swarm::engine
