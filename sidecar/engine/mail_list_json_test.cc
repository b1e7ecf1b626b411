#include "engine/mail_list_json.h"

#include <gtest/gtest.h>

#include "engine/control_json.h"

namespace swarm::engine {
namespace {

constexpr MonoTime kNow{Milliseconds{1000}};

json message(const std::string& id, const std::string& state = "ready") {
  return {{"messageId", id}, {"from", "worker-1"},   {"to", "worker-2"}, {"state", state},
          {"attempt", 1},    {"priority", "normal"}, {"bytes", 3},       {"ageMs", 40}};
}
json listed(const std::vector<std::string>& ids) {
  json out{{"messages", json::array()}};
  for (const auto& id : ids) out["messages"].push_back(message(id));
  return out;
}

struct Lists : testing::Test {
  MailLists lists;
  std::optional<json> said;
  std::uint64_t begin(std::map<std::uint64_t, std::string> asked) {
    return lists.begin(kNow, listed({"own"}), std::move(asked), [this](json all) { said = all; });
  }
  std::vector<std::string> ids() const {
    std::vector<std::string> out;
    for (const json& m : (*said)["messages"]) out.push_back(text_of(m, "messageId"));
    return out;
  }
};

TEST_F(Lists, EndWhenEverybodyHasAnswered) {
  const auto number = begin({{1, "worker-0"}, {2, "worker-1"}});
  lists.take(1, number, listed({"a"}));
  lists.take(1, number, listed({"again"}));
  lists.take(3, number, listed({"of nobody who was asked"}));
  lists.take(2, number + 1, listed({"of no list"}));
  EXPECT_FALSE(said);
  json last = listed({"b"});
  last["more"] = 7;
  lists.take(2, number, last);
  ASSERT_TRUE(said);
  EXPECT_EQ(ids(), (std::vector<std::string>{"own", "a", "b"}));
  EXPECT_EQ((*said)["more"], 7);
  EXPECT_FALSE(said->contains("missing"));
  EXPECT_FALSE(lists.next_deadline());
}

TEST_F(Lists, NameWhoHasGoneOrIsLate) {
  const auto number = begin({{1, "worker-0"}, {2, "worker-1"}, {3, "worker-2"}});
  lists.gone(1);
  lists.take(2, number, listed({"b"}));
  ASSERT_TRUE(lists.next_deadline());
  lists.tick(*lists.next_deadline() - Milliseconds{1});
  EXPECT_FALSE(said);
  lists.tick(*lists.next_deadline());
  ASSERT_TRUE(said);
  EXPECT_EQ((*said)["missing"], (json{"worker-0", "worker-2"}));
  EXPECT_EQ(ids(), (std::vector<std::string>{"own", "b"}));
}

TEST_F(Lists, OfNobodyEndAtOnce) {
  begin({});
  EXPECT_EQ(ids(), std::vector<std::string>{"own"});
}

TEST_F(Lists, TakeNothingUncheckedFromOutside) {
  const auto number = begin({{1, "worker-0"}, {2, "worker-1"}, {3, "worker-2"}});
  lists.take(1, number, json{{"messages", "all"}});
  json odd = listed({std::string(300, 'x')});
  odd["messages"][0]["to"] = "\xff\xfe";
  odd["messages"][0]["bytes"] = "many";
  odd["messages"][0]["body"] = "secret";
  odd["messages"].push_back(5);
  lists.take(2, number, odd);
  json many = listed({});
  for (std::size_t i = 0; i <= kMaxListedPerPod; ++i) many["messages"].push_back(message("m"));
  lists.take(3, number, many);
  lists.tick(kNow + kMailListLimit);
  ASSERT_TRUE(said);
  EXPECT_EQ((*said)["missing"], (json{"worker-0", "worker-2"}));
  ASSERT_EQ((*said)["messages"].size(), 2U);
  const json& taken = (*said)["messages"][1];
  EXPECT_EQ(text_of(taken, "messageId"), std::string(128, 'x'));
  EXPECT_EQ(taken["to"], "??");
  EXPECT_EQ(taken["bytes"], 0);
  EXPECT_FALSE(taken.contains("body"));
  EXPECT_NO_THROW((void)said->dump());
}

TEST(MailList, IsLimited) {
  json all = listed({});
  json part = listed({});
  for (std::size_t i = 0; i < kMaxListedPerPod; ++i) part["messages"].push_back(message("m"));
  part["more"] = 1;
  for (int pods = 0; pods < 11; ++pods) EXPECT_TRUE(add_messages(all, part));
  EXPECT_EQ(all["messages"].size(), kMaxListedMessages);
  EXPECT_EQ(all["more"], 111);
  EXPECT_FALSE(add_messages(all, json::object()));
}

}  // namespace
}  // namespace swarm::engine
