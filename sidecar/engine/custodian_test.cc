// Durability Node over real links: sender and receiver on one node, custodians on others.
#include "engine/linked_pods.h"

namespace swarm::engine {
namespace {

constexpr mailbox::Limits kEntrust{.entrust = true};
constexpr std::size_t kMessages = 50;

TEST(Choice, IsStableSpreadAndOnAnotherNode) {
  std::vector<Candidate> candidates;
  for (int i = 0; i < 8; ++i) {
    candidates.push_back({{"worker-" + std::to_string(i)}, i % 2 == 0 ? "even" : "odd"});
  }
  std::map<AgentName, int> chosen;
  for (int i = 0; i < 200; ++i) {
    const AgentName self{"worker-" + std::to_string(2 * i)};
    const auto first = choose_custodian(self, "even", candidates, {});
    ASSERT_TRUE(first);
    EXPECT_EQ(first, choose_custodian(self, "even", candidates, {}));
    ++chosen[*first];
    const auto second =
        choose_custodian(self, "even", candidates, {{*first, MonoTime{} + Milliseconds{5}}});
    EXPECT_NE(first, second);
    EXPECT_NE(second, std::nullopt);
  }
  ASSERT_EQ(chosen.size(), 4U) << "the odd ones";
  for (const auto& [name, count] : chosen) EXPECT_GT(count, 20) << name.value;
  // Nobody else is left: who was passed over first.
  const MonoTime soon{Milliseconds{5}}, later{Milliseconds{9}};
  EXPECT_EQ(choose_custodian({"worker-0"}, "even", candidates,
                             {{{"worker-1"}, later},
                              {{"worker-3"}, soon},
                              {{"worker-5"}, later},
                              {{"worker-7"}, later}}),
            AgentName{"worker-3"});
  EXPECT_EQ(
      choose_custodian({"worker-0"}, "even", {{{"worker-2"}, "even"}, {{"worker-3"}, ""}}, {}),
      std::nullopt);
  EXPECT_EQ(choose_custodian({"worker-1"}, "n", {{{"worker-1"}, "m"}}, {}), std::nullopt);
}

struct Custodians : LinkedPods {
  using Answer = Result<Mail::Accepted>;
  static mailbox::Message message(const Pod& from, const std::string& id) {
    mailbox::Message message;
    message.id.value = id;
    message.from = from.config.name;
    message.to.value = "worker-2";
    message.body = std::string(500, 'b');
    return message;
  }
  Answer send(Pod& from, const std::string& id, Milliseconds timeout = kLong) {
    std::optional<Answer> answer;
    from.mail->send(message(from, id), timeout, [&](Answer sent) { answer = std::move(sent); });
    EXPECT_TRUE(run_until([&] { return answer.has_value(); }));
    return answer ? *answer : Answer(internal_error("no answer"));
  }
  std::unique_ptr<Pod> pod(const std::string& name, std::uint8_t number, const std::string& node,
                           const mailbox::Limits& limits = kEntrust) {
    return std::make_unique<Pod>(net, name, number, Pod::Kind{.limits = limits, .node = node});
  }
  void forget(std::unique_ptr<Pod>& pod) {  // without a word
    net.where.erase(pod->config.name);
    net.nodes.erase(pod->config.name);
    pod.reset();
  }
  void let_receiver_hold_one() {
    mailbox::Limits one = kEntrust;
    one.max_inbox_messages = 1;
    receiver.reset();
    receiver = pod("worker-2", 6, "n1", one);
  }
  std::unique_ptr<Pod> sender = pod("worker-1", 2, "n1"), receiver = pod("worker-2", 3, "n1");
};

TEST_F(Custodians, AllThatIsUnreadOutlivesTheNodeAndNothingThatWasAcked) {
  const auto custodian = pod("worker-3", 4, "n2");
  for (std::size_t i = 0; i < kMessages; ++i) {
    const auto sent = send(*sender, id(i));
    ASSERT_TRUE(sent) << sent.error().message;
    EXPECT_EQ(sent->survives, "node");
  }
  EXPECT_EQ(custodian->box.books().wards, kMessages);
  EXPECT_EQ(sender->box.books().single_copy, 0U);
  EXPECT_EQ(receive(*receiver), id(0));
  const auto [status, took] = ack(*receiver, id(0));
  EXPECT_TRUE(status) << status.error().message;
  EXPECT_LT(took, Silence::kAckPatience) << "the custodian has released it";
  EXPECT_EQ(custodian->box.books().wards, kMessages - 1);

  forget(sender);
  forget(receiver);
  ASSERT_TRUE(run_until([&] { return custodian->box.books().single_copy == kMessages - 1; }));
  const auto next = pod("worker-1", 5, "n2"), fresh = pod("worker-2", 6, "n2");
  const auto other = pod("worker-4", 7, "n3");
  for (std::size_t i = 1; i < kMessages; ++i) {
    ASSERT_EQ(receive(*fresh), id(i));
    ASSERT_TRUE(ack(*fresh, id(i)).first);
  }
  EXPECT_EQ(receive(*fresh, Milliseconds{100}), "-");
  EXPECT_EQ(custodian->box.books().wards + other->box.books().wards, 0U);
  EXPECT_EQ(next->box.books().outbox_live, 0U);
}

TEST_F(Custodians, WithoutAPodOnAnotherNodeASendIsRefused) {
  const auto near = pod("worker-3", 4, "n1");
  const auto sent = send(*sender, "m1", Milliseconds{600});
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, Code::kUnavailable);
  EXPECT_EQ(
      sent.error().message,
      "durability Node: no pod of this swarm on another node than n1 can keep a copy (no worker "
      "is there); nothing was sent");
  EXPECT_EQ(receiver->box.books().stored, 0U);
  const auto late = pod("worker-4", 5, "n2");
  EXPECT_TRUE(send(*sender, "m2")) << "one has come";
}

TEST_F(Custodians, AFullOneRefusesAtOnceWithReject) {
  mailbox::Limits one = kEntrust;
  one.max_wards = 1;
  const auto custodian = pod("worker-3", 4, "n2", one);
  sender->config.reject_when_full = true;
  ASSERT_TRUE(send(*sender, "m1"));
  const auto begin = mono_now();
  const auto sent = send(*sender, "m2");
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, Code::kFull);
  EXPECT_NE(sent.error().message.find("worker-3: its pod has no room left for copies"),
            std::string::npos)
      << sent.error().message;
  EXPECT_LT(mono_now() - begin, Milliseconds{5000});
  EXPECT_EQ(receiver->box.books().stored, 1U);
}

TEST_F(Custodians, OneWithoutRoomIsPassedOver) {
  mailbox::Limits none = kEntrust;
  none.max_wards = 0;
  std::vector<std::unique_ptr<Pod>> full;
  for (std::uint8_t i = 0; i < 3; ++i)
    full.push_back(
        pod("worker-" + std::to_string(3 + i), static_cast<std::uint8_t>(4 + i), "n2", none));
  const auto free = pod("worker-9", 9, "n3");
  EXPECT_TRUE(send(*sender, "m1"));
  EXPECT_EQ(free->box.books().wards, 1U);
}

TEST_F(Custodians, ALostOneIsReplaced) {
  auto first = pod("worker-3", 4, "n2");
  for (std::size_t i = 0; i < kMessages; ++i) ASSERT_TRUE(send(*sender, id(i)));
  const auto second = pod("worker-4", 5, "n3");
  forget(first);
  ASSERT_TRUE(run_until([&] { return sender->box.books().single_copy == kMessages; }));
  ASSERT_TRUE(run_until([&] { return sender->box.books().single_copy == 0; }));
  EXPECT_EQ(second->box.books().wards, kMessages);
  EXPECT_TRUE(send(*sender, "more"));
  EXPECT_EQ(receive(*receiver), id(0));
  EXPECT_TRUE(ack(*receiver, id(0)).first);
}

TEST_F(Custodians, AnAckIsOkThoughTheCustodianIsAway) {
  auto custodian = pod("worker-3", 4, "n2");
  ASSERT_TRUE(send(*sender, "m1"));
  forget(custodian);
  ASSERT_TRUE(run_until([&] { return sender->box.books().single_copy == 1; }));
  EXPECT_EQ(receive(*receiver), "m1");
  const auto [status, took] = ack(*receiver, "m1");
  EXPECT_TRUE(status) << status.error().message;
  EXPECT_LT(took, Milliseconds{5000});
  EXPECT_EQ(sender->box.books().outbox_live, 0U);
}

TEST_F(Custodians, ARefusedSendLeavesNoCopy) {
  const auto custodian = pod("worker-3", 4, "n2");
  let_receiver_hold_one();
  ASSERT_TRUE(send(*sender, "m1"));
  const auto sent = send(*sender, "m2", Milliseconds{300});
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, Code::kFull) << sent.error().message;
  EXPECT_EQ(custodian->box.books().wards, 1U) << "of m1";
  EXPECT_EQ(sender->box.books().outbox_live, 1U);
}

TEST_F(Custodians, NothingIsKeptForMailToAnotherNodeOrWithDurabilityPod) {
  const auto custodian = pod("worker-3", 4, "n3");
  receiver.reset();
  receiver = pod("worker-2", 6, "n2");
  const auto far = send(*sender, "m1");
  ASSERT_TRUE(far);
  EXPECT_EQ(far->survives, "node");
  sender.reset();
  const auto plain = pod("worker-5", 7, "n2", {});
  const auto near = send(*plain, "m2");
  ASSERT_TRUE(near);
  EXPECT_EQ(near->survives, "pod");
  EXPECT_EQ(custodian->box.books().wards, 0U);
}

TEST_F(Custodians, ADrainedSenderLeavesItsCopiesUntilItsSuccessorHasAll) {
  const auto custodian = pod("worker-3", 4, "n2");
  for (std::size_t i = 0; i < kMessages; ++i) ASSERT_TRUE(send(*sender, id(i)));
  const auto next = pod("worker-1", 5, "n1");
  sender->drain();
  ASSERT_TRUE(run_until([&] { return sender->handover->left() == 0; }));
  EXPECT_EQ(custodian->box.wards_of(sender->log->id()).size(), kMessages);
  const LogId old = sender->log->id();
  sender.reset();
  ASSERT_TRUE(run_until([&] { return custodian->box.wards_of(old).empty(); }));
  ASSERT_TRUE(run_until([&] { return next->box.books().single_copy == 0; }));
  EXPECT_EQ(custodian->box.wards_of(next->log->id()).size(), kMessages) << "its own";
  EXPECT_EQ(next->box.books().adopted, kMessages) << "once";
  for (std::size_t i = 0; i < kMessages; ++i) {
    ASSERT_EQ(receive(*receiver), id(i));
    ASSERT_TRUE(ack(*receiver, id(i)).first);
  }
  EXPECT_EQ(custodian->box.books().wards, 0U);
}

TEST_F(Custodians, ADrainingOneIsReplacedAndGivesBackWhatNobodyElseHas) {
  auto first = pod("worker-3", 4, "n2");
  ASSERT_TRUE(send(*sender, "m1"));
  const auto second = pod("worker-4", 5, "n3");
  first->drain();
  net.where.erase(first->config.name);
  ASSERT_TRUE(run_until([&] { return second->box.books().wards == 1; }));
  ASSERT_TRUE(run_until([&] { return sender->box.books().single_copy == 0; }));
  EXPECT_EQ(first->mail->to_give_back(), 0U) << "its sender lives: nothing to wait for";

  sender.reset();
  ASSERT_TRUE(run_until([&] { return second->box.books().single_copy == 1; }));
  second->drain();
  EXPECT_EQ(second->mail->to_give_back(), 1U);
  const auto next = pod("worker-1", 6, "n2");
  ASSERT_TRUE(run_until([&] { return second->mail->to_give_back() == 0; }));
  EXPECT_EQ(next->box.books().adopted, 1U);
}

// A custodian that was cut off while the sender went on with another one.
TEST_F(Custodians, AFormerOneLetsGoWhenItIsBack) {
  auto first = pod("worker-3", 4, "n2");
  ASSERT_TRUE(send(*sender, "m1"));
  const auto second = pod("worker-4", 5, "n3");
  net.pods.erase(first.get());  // it does not run
  net.where.erase(first->config.name);
  for (const auto& session : first->inbound) session->close(unavailable("cut"));
  first->io.poll();
  ASSERT_TRUE(run_until([&] { return second->box.books().wards == 1; }));
  net.pods.insert(first.get());
  ASSERT_TRUE(run_until([&] { return first->box.books().wards == 0; }));
  EXPECT_EQ(second->box.books().wards, 1U);
}

// The coordinator goes on naming a pod that ends; its connections are refused.
TEST_F(Custodians, OneThatIsNamedButRefusesConnectionsIsLostAllTheSame) {
  const auto first = pod("worker-3", 4, "n2");
  ASSERT_TRUE(send(*sender, "m1"));
  const auto second = pod("worker-4", 5, "n3");
  first->drain();
  ASSERT_TRUE(run_until([&] { return second->box.books().wards == 1; }));
  EXPECT_TRUE(send(*sender, "m2"));
}

TEST_F(Custodians, ASendThatIsLateAtAFullInboxIsRefusedNotUnknown) {
  const auto custodian = pod("worker-3", 4, "n2");
  let_receiver_hold_one();
  ASSERT_TRUE(send(*sender, "m1"));
  // Late while nothing else is due that would look at the releases.
  const auto sent = send(*sender, "m2", Milliseconds{1000});
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, Code::kFull) << sent.error().message;
  EXPECT_EQ(custodian->box.books().wards, 1U) << "of m1";
}

TEST_F(Custodians, ADrainingOneWaitsForASenderThatHasNoPodYet) {
  const auto custodian = pod("worker-3", 4, "n2");
  ASSERT_TRUE(send(*sender, "m1"));
  forget(sender);
  ASSERT_TRUE(run_until([&] { return custodian->box.books().single_copy == 1; }));
  custodian->drain();
  EXPECT_FALSE(run_until([&] { return custodian->mail->to_give_back() == 0; }, Milliseconds{1500}))
      << "its coordinator says that it is not there";
  const auto next = pod("worker-1", 6, "n1");
  ASSERT_TRUE(run_until([&] { return custodian->mail->to_give_back() == 0; }));
  EXPECT_EQ(next->box.books().adopted, 1U);
}

struct CustodiansOfTeams : Custodians {
  CustodiansOfTeams() {
    sender->config.coordinators = 2;
    sender->mail->candidates = [this](std::uint32_t team, const Mail::OnCandidates& done) {
      ++asked[team];
      std::vector<Candidate> all;
      for (const auto& name : teams[team]) all.push_back({{name}, "n2"});
      done(all);
    };
  }
  std::vector<std::string> teams[2];
  int asked[2] = {};
};

TEST_F(CustodiansOfTeams, TheOthersAreAskedBeforeOneThatWasPassedOver) {
  mailbox::Limits none = kEntrust;
  none.max_wards = 0;
  const auto full = pod("worker-3", 4, "n2", none), free = pod("worker-9", 9, "n2");
  teams[0] = {"worker-3"};
  teams[1] = {"worker-9"};
  EXPECT_TRUE(send(*sender, "m1"));
  EXPECT_EQ(free->box.books().wards, 1U);
}

TEST_F(CustodiansOfTeams, OneThatWasPassedOverIsTriedAgainWhenNobodyElseIsLeft) {
  teams[0] = {"worker-3"};
  std::optional<Answer> answer;
  sender->mail->send(message(*sender, "m1"), kLong, [&](Answer sent) { answer = std::move(sent); });
  ASSERT_TRUE(run_until([&] { return asked[1] > 0; }));
  const auto late = pod("worker-3", 4, "n2");
  ASSERT_TRUE(run_until([&] { return answer.has_value(); }));
  EXPECT_TRUE(*answer);
}

TEST_F(Custodians, OneThatAnswersNothingIsReplaced) {
  const auto silent = pod("worker-3", 4, "n2");
  silent->mute = true;
  std::optional<Answer> answer;
  sender->mail->send(message(*sender, "m1"), kLong, [&](Answer sent) { answer = std::move(sent); });
  ASSERT_TRUE(run_until([&] { return silent->keeps == 1; }));
  const auto second = pod("worker-4", 5, "n3");
  ASSERT_TRUE(run_until([&] { return answer.has_value(); }));
  EXPECT_TRUE(*answer) << answer->error().message;
  EXPECT_EQ(second->box.books().wards, 1U);
}

TEST_F(Custodians, AnAckIsOkThoughTheCustodianDoesNotAnswer) {
  const auto custodian = pod("worker-3", 4, "n2");
  ASSERT_TRUE(send(*sender, "m1"));
  EXPECT_EQ(receive(*receiver), "m1");
  custodian->mute = true;
  const auto [status, took] = ack(*receiver, "m1");
  EXPECT_TRUE(status) << status.error().message;
  EXPECT_LT(took, Milliseconds{4000});
  EXPECT_EQ(sender->box.books().outbox_live, 0U);
}

TEST_F(Custodians, ACopyOfALaterReleaseIsRefusedAndTheLinkStays) {
  const auto custodian = pod("worker-3", 4, "n2");
  std::string answer;
  bool ready = false, closed = false;
  Session::Events events;
  events.ready = [&](Session&) { ready = true; };
  events.frame = [&](Session&, const link::Frame& frame) {
    if (frame.type == link::FrameType::kKept) answer = frame.payload;
  };
  events.closed = [&](Session&, const Error&) { closed = true; };
  const Location to = net.where.at(custodian->config.name);
  const auto session =
      Session::connect(sender->loop, {boost::asio::ip::make_address(to.address), to.port},
                       sender->options, to.expect, std::move(events));
  ASSERT_TRUE(run_until([&] { return ready; }));
  std::string keep, refused;
  link::put_u64(keep, 7);
  session->send(link::FrameType::kKeep, keep + "\x7f, which nobody knows yet");
  ASSERT_TRUE(run_until([&] { return closed || !answer.empty(); }));
  link::put_u8(refused, static_cast<std::uint8_t>(mailbox::Answer::kRefused));
  link::put_u64(refused, 7);
  EXPECT_EQ(answer, refused);
  EXPECT_FALSE(closed);
  session->close(unavailable("done"));
  run_until([&] { return closed; });
}

TEST_F(Custodians, OneThatStaysFullIsReplaced) {
  mailbox::Limits one = kEntrust;
  one.max_wards = 1;
  const auto full = pod("worker-3", 4, "n2", one);
  ASSERT_TRUE(send(*sender, "m1"));
  const auto free = pod("worker-4", 5, "n3");
  EXPECT_TRUE(send(*sender, "m2"));
  ASSERT_TRUE(run_until([&] { return free->box.books().wards == 2; }));
  EXPECT_TRUE(run_until([&] { return sender->box.books().single_copy == 0; }));
}

TEST_F(Custodians, AFullOneIsAskedWithOneCopyAndSoon) {
  constexpr std::size_t kSends = 40, kRounds = 3;
  mailbox::Limits one = kEntrust;
  one.max_wards = 1;
  const auto custodian = pod("worker-3", 4, "n2", one);
  ASSERT_TRUE(send(*sender, "m1"));
  std::size_t ended = 0;
  for (std::size_t i = 0; i < kSends; ++i)
    sender->mail->send(message(*sender, id(i)), kLong, [&](const Answer&) { ++ended; });
  ASSERT_TRUE(run_until([&] { return custodian->keeps >= 1 + kSends; }));
  EXPECT_TRUE(
      run_until([&] { return custodian->keeps >= 1 + kSends + kRounds; }, Milliseconds{1500}));
  EXPECT_LE(custodian->keeps, 1 + kSends + 2 * kRounds);
  EXPECT_EQ(ended, 0U);
}

TEST_F(Custodians, WithRejectAFullOneIsNotAskedForEachSend) {
  constexpr std::size_t kSends = 50;
  mailbox::Limits one = kEntrust;
  one.max_wards = 1;
  const auto custodian = pod("worker-3", 4, "n2", one);
  sender->config.reject_when_full = true;
  ASSERT_TRUE(send(*sender, "m1"));
  const auto begin = mono_now();
  for (std::size_t i = 0; i < kSends; ++i) {
    const auto sent = send(*sender, id(i));
    ASSERT_FALSE(sent);
    ASSERT_EQ(sent.error().code, Code::kFull) << sent.error().message;
  }
  EXPECT_LT(mono_now() - begin, Milliseconds{2000});
  EXPECT_LT(custodian->keeps, kSends / 2);
  // Room is found when there is some again.
  ASSERT_EQ(receive(*receiver), "m1");
  ASSERT_TRUE(ack(*receiver, "m1").first);
  EXPECT_TRUE(run_until([&] { return send(*sender, "m2").ok(); }));
}

}  // namespace
}  // namespace swarm::engine
