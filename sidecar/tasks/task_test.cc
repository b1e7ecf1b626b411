// The record format and the small pure functions.
#include <gtest/gtest.h>

#include "base/encoding.h"
#include "tasks/tasks.h"

namespace swarm::tasks {
namespace {

struct Random {
  std::uint64_t state;
  std::uint64_t next() {
    state ^= state << 13U;
    state ^= state >> 7U;
    state ^= state << 17U;
    return state;
  }
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(next() % n); }
};

Task sample() {
  Task t;
  t.id.value = "t-3-1f2a";
  t.version = 7;
  t.state = TaskState::kDone;
  t.key = "key";
  t.idempotency_id = "id-1";
  t.body = std::string("body\0with zero", 14);
  t.labels = {{"a", "b"}, {"c", ""}};
  t.max_attempts = 5;
  t.charged_attempts = 2;
  t.route = Version::kV2;
  t.created_at = 1;
  t.updated_at = 5;
  t.finished_at = 5;
  Attempt first;
  first.number = 1;
  first.agent.value = "worker-1";
  first.pod = "s-w1";
  first.node = "n1";
  first.session = 9;
  first.version = Version::kV2;
  first.started_at = 2;
  first.ended_at = 3;
  first.exit_code = -1;
  first.charged = true;
  first.reason = "failed";
  first.last_lines = {"one", ""};
  Attempt second = first;
  second.number = 4;
  second.exit_code.reset();
  second.reason = "done";
  t.history = {first, second};
  t.history_dropped = 2;
  t.result = TaskResult{"result", true, 100, "swarm/t", "abc"};
  t.last_output = "out";
  t.last_output_at = 4;
  t.cancel_requested = true;
  t.losses_in_a_row = 3;
  t.later_in_a_row = 4;
  return t;
}

Task used_sample() {
  Task t = sample();
  t.usage = {11, 22, 33, 44, 55};
  t.history[1].usage.output_tokens = 22;
  t.history[1].usage.cost_micro_usd = 0;
  t.history[1].cli_session = "5b1f-a";
  return t;
}

TEST(TaskRecord, ComesBackAsItWas) {
  const Task t = sample();
  const std::string bytes = encode(t);
  const Result<Task> back = decode(bytes);
  ASSERT_TRUE(back.ok()) << back.error().message;
  EXPECT_EQ(encode(*back), bytes);
  EXPECT_EQ(back->body, t.body);
  EXPECT_EQ(back->labels, t.labels);
  EXPECT_EQ(back->history[0].exit_code, -1);
  EXPECT_EQ(back->history[1].exit_code, std::nullopt);
  EXPECT_EQ(back->history[0].last_lines, t.history[0].last_lines);
  EXPECT_EQ(back->result->commit, "abc");
  EXPECT_EQ(back->later_in_a_row, 4U);
}

TEST(TaskRecord, UsageComesBackAsItWasAndAbsentIsNotZero) {
  const Task t = used_sample();
  const std::string bytes = encode(t);
  EXPECT_EQ(bytes[0], 2);
  const Result<Task> back = decode(bytes);
  ASSERT_TRUE(back.ok()) << back.error().message;
  EXPECT_EQ(encode(*back), bytes);
  EXPECT_EQ(back->usage, t.usage);
  EXPECT_EQ(back->history[0].usage, Usage{});
  EXPECT_EQ(back->history[1].usage, t.history[1].usage);
  EXPECT_EQ(back->history[1].usage.input_tokens, std::nullopt);
  EXPECT_EQ(back->history[1].usage.cost_micro_usd, 0U);
  EXPECT_EQ(back->history[1].cli_session, "5b1f-a");
}

// The release before reads what has cost nothing, and this one what that wrote.
TEST(TaskRecord, WithoutUsageItIsFormat1AndUsageFollowsBehindIt) {
  const std::string plain = encode(sample());
  EXPECT_EQ(plain[0], 1);
  std::string expected = plain;
  expected[0] = 2;
  const auto count = [](char n) { return std::string("\x01", 1) + n + std::string(7, '\0'); };
  expected += count(11) + count(22) + count(33) + count(44) + count(55);
  expected += std::string(5, '\0') + std::string(4, '\0');  // the first attempt
  expected += std::string(1, '\0') + count(22) + std::string(2, '\0') + count(0);
  expected += std::string("\x06\0\0\0", 4) + "5b1f-a";
  EXPECT_EQ(encode(used_sample()), expected);
}

TEST(TaskRecord, ASubtaskIsFormat3AndItsParentFollowsBehindTheRest) {
  for (Task t : {sample(), used_sample()}) {
    const std::string alone = encode(t);
    t.parent.value = "t-3-1";
    t.depth = 2;
    const std::string bytes = encode(t);
    EXPECT_EQ(bytes[0], 3);
    EXPECT_EQ(bytes.substr(bytes.size() - 13), std::string("\5\0\0\0t-3-1\2\0\0\0", 13));
    EXPECT_EQ(bytes.substr(1, alone.size() - 1), alone.substr(1));
    const auto back = decode(bytes);
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_EQ(back->parent, t.parent);
    EXPECT_EQ(back->depth, 2U);
    EXPECT_EQ(back->usage, t.usage);
    EXPECT_EQ(encode(*back), bytes);
    for (const std::size_t cut : {bytes.size() - 1, bytes.size() - 4, bytes.size() - 13})
      EXPECT_FALSE(decode(bytes.substr(0, cut)).ok());
    std::string other = bytes;
    other[0] = 2;
    EXPECT_FALSE(decode(other).ok());
    other = bytes;
    other[other.size() - 4] = 0;
    EXPECT_FALSE(decode(other).ok()) << "of no depth";
    other[other.size() - 4] = static_cast<char>(kMaxDepth + 1);
    EXPECT_FALSE(decode(other).ok()) << "deeper than there is";
    other = bytes.substr(0, bytes.size() - 13) + std::string(8, '\0');
    EXPECT_FALSE(decode(other).ok()) << "nobody's, in the form of a subtask";
  }
}

TEST(TaskRecord, LayoutOfFormat1IsFrozen) {
  Task t;
  t.id.value = "t-0-a";
  t.version = 1;
  t.body = "hi";
  t.created_at = 258;
  const std::string bytes = encode(t);
  std::string expected;
  expected += '\x01';
  expected += std::string("\x05\0\0\0", 4) + "t-0-a";
  expected += std::string("\x01\0\0\0\0\0\0\0", 8);  // version
  expected += std::string("\0", 1);                  // queued
  expected += std::string(8, '\0');                  // key, idempotency id
  expected += std::string("\x02\0\0\0", 4) + "hi";
  expected += std::string(4, '\0');          // labels
  expected += std::string("\x03\0\0\0", 4);  // max_attempts
  expected += std::string(4 + 1, '\0');      // charged, route
  expected += std::string("\x02\x01\0\0\0\0\0\0", 8) + std::string(24, '\0');
  expected += std::string(4 + 4 + 1, '\0');          // history, dropped, result
  expected += std::string(4 + 8 + 1 + 4 + 4, '\0');  // last output and time, cancel, losses, later
  EXPECT_EQ(bytes, expected);
}

TEST(TaskRecord, TheLargestFitsIntoOneRecordOfTheLog) {
  Task t = sample();
  t.body.assign(kMaxBodyBytes, 'b');
  t.key.assign(kMaxKeyBytes, 'k');
  t.idempotency_id.assign(kMaxIdempotencyBytes, 'i');
  t.labels.clear();
  for (std::size_t i = 0; i < kMaxLabels; ++i) {
    t.labels[std::string(kMaxLabelKeyBytes - 2, 'l') + std::to_string(10 + i)].assign(
        kMaxLabelValueBytes, 'v');
  }
  Attempt a = t.history[0];
  a.pod.assign(253, 'p');
  a.node.assign(253, 'n');
  a.reason = "lease_expired";
  a.last_lines.assign(kMaxLastLines, std::string(kMaxLineBytes, 'x'));
  a.usage = t.usage = {1, 2, 3, 4, 5};
  a.cli_session.assign(kMaxIdempotencyBytes, 's');
  t.history.clear();
  for (std::uint32_t i = 1; i <= kMaxHistory; ++i) {
    a.number = i;
    t.history.push_back(a);
  }
  t.result->bytes.assign(kMaxResultBytes, 'r');
  t.result->branch.assign(kMaxRefBytes, 'b');
  t.result->commit.assign(kMaxRefBytes, 'c');
  t.last_output.assign(kMaxLineBytes, 'o');
  t.parent.value = "t-3-" + std::string(kMaxTaskIdBytes - 4, 'p');
  t.depth = kMaxDepth;
  const std::string bytes = encode(t);
  EXPECT_LE(bytes.size(), kMaxEncodedBytes);
  EXPECT_TRUE(decode(bytes).ok());
}

TEST(TaskRecord, EveryCutIsRefused) {
  const std::string bytes = encode(used_sample());
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    const Result<Task> cut = decode(std::string_view(bytes).substr(0, n));
    ASSERT_FALSE(cut.ok()) << n;
    EXPECT_EQ(cut.error().code, Code::kCorrupt);
  }
  EXPECT_FALSE(decode(bytes + "x").ok());
}

TEST(TaskRecord, DamagedBytesAreRefusedOrReadAsASoundTask) {
  const std::string bytes = encode(used_sample());
  Random random{88172645463325252ULL};
  std::size_t refused = 0;
  for (int i = 0; i < 60000; ++i) {
    std::string damaged = bytes;
    for (std::size_t n = 1 + random.below(4); n > 0; --n) {
      switch (random.below(3)) {
        case 0:
          damaged[random.below(damaged.size())] = static_cast<char>(random.next());
          break;
        case 1:
          damaged.erase(random.below(damaged.size() - 1), 1 + random.below(8));
          break;
        default:
          damaged.insert(random.below(damaged.size()), 1 + random.below(8), '\xff');
          break;
      }
    }
    const Result<Task> task = decode(damaged);
    if (!task.ok()) {
      ++refused;
      continue;
    }
    const std::string again = encode(*task);  // what was read can be written and read
    EXPECT_TRUE(decode(again).ok());
    EXPECT_LE(task->history.size(), kMaxHistory);
  }
  EXPECT_GT(refused, 30000U);
  for (int i = 0; i < 20000; ++i) {
    std::string noise(random.below(300), '\0');
    for (char& c : noise) c = static_cast<char>(random.next());
    if (!noise.empty()) noise[0] = 1;
    EXPECT_FALSE(decode(noise).ok());
  }
}

TEST(TaskRecord, AContradictionIsRefused) {
  struct Row {
    const char* what;
    void (*spoil)(Task&);
  };
  for (const Row& row : {
           Row{"no id", [](Task& t) { t.id.value = ""; }},
           Row{"odd id", [](Task& t) { t.id.value = "t-0-A"; }},
           Row{"version 0", [](Task& t) { t.version = 0; }},
           Row{"no attempts allowed", [](Task& t) { t.max_attempts = 0; }},
           Row{"too many attempts allowed", [](Task& t) { t.max_attempts = kMaxMaxAttempts + 1; }},
           Row{"done without result", [](Task& t) { t.result.reset(); }},
           Row{"done with an open attempt", [](Task& t) { t.history[1].ended_at = 0; }},
           Row{"running with a closed attempt",
               [](Task& t) { t.state = TaskState::kRunning, t.finished_at = 0; }},
           Row{"an older attempt open", [](Task& t) { t.history[0].ended_at = 0; }},
           Row{"attempts out of order", [](Task& t) { t.history[1].number = 1; }},
           Row{"an attempt of nobody", [](Task& t) { t.history[0].agent.value = "root"; }},
           Row{"final without an end", [](Task& t) { t.finished_at = 0; }},
           Row{"queued with an end", [](Task& t) { t.state = TaskState::kQueued; }},
           Row{"a negative time", [](Task& t) { t.created_at = -1; }},
           Row{"a time that would overflow", [](Task& t) { t.finished_at = INT64_MAX; }},
           Row{"a long key", [](Task& t) { t.key.assign(kMaxKeyBytes + 1, 'k'); }},
           Row{"a long body", [](Task& t) { t.body.assign(kMaxBodyBytes + 1, 'k'); }},
           Row{"a long history",
               [](Task& t) {
                 t.history.clear();
                 for (std::uint32_t i = 1; i <= kMaxHistory + 1; ++i) {
                   t.history.push_back(sample().history[0]);
                   t.history.back().number = i;
                 }
               }},
           Row{"many lines",
               [](Task& t) { t.history[0].last_lines.assign(kMaxLastLines + 1, "x"); }},
       }) {
    Task t = sample();
    row.spoil(t);
    const Result<Task> back = decode(encode(t));
    EXPECT_FALSE(back.ok()) << row.what;
  }
}

TEST(TaskId, HasTheNumberOfItsTeam) {
  EXPECT_EQ(team_of(TaskId{"t-12-a"}), 12U);
  EXPECT_EQ(team_of(TaskId{"t-4294967296-a"}), std::nullopt);
  EXPECT_EQ(team_of(TaskId{"t-99999999999999999999999999-a"}), std::nullopt);
}

TEST(TaskStateNames, AreOneClosedSet) {
  for (TaskState s : {TaskState::kQueued, TaskState::kRunning, TaskState::kDone, TaskState::kFailed,
                      TaskState::kDead, TaskState::kCancelled}) {
    EXPECT_EQ(state_from(state_name(s)), s);
  }
  EXPECT_EQ(state_from("Done"), std::nullopt);
  EXPECT_EQ(state_from(""), std::nullopt);
}

TEST(Route, SharesAndSticks) {
  EXPECT_EQ(route("k", 0), Version::kV1);
  EXPECT_EQ(route("k", 100), Version::kV2);
  for (int percentage : {1, 10, 50, 90}) {
    int v2 = 0;
    for (int i = 0; i < 10000; ++i) {
      const std::string key = "module-" + std::to_string(i);
      v2 += route(key, percentage) == Version::kV2 ? 1 : 0;
      if (route(key, percentage) == Version::kV2) {  // raising it moves keys to V2 only
        EXPECT_EQ(route(key, percentage + 5), Version::kV2);
      }
    }
    EXPECT_NEAR(v2 / 100.0, percentage, 2.0);
  }
}

TEST(Route, IsTheSameInEveryRelease) {
  int v2 = 0;
  for (int i = 0; i < 100; ++i) v2 += route("k" + std::to_string(i), 50) == Version::kV2 ? 1 : 0;
  std::string pattern;
  for (int i = 0; i < 16; ++i)
    pattern += route("k" + std::to_string(i), 50) == Version::kV2 ? '2' : '1';
  EXPECT_EQ(pattern, "2211121212111122");
  EXPECT_EQ(v2, 50);
}

TEST(TaskRecord, UsageBeyondItsLimitIsRefused) {
  Task t = used_sample();
  t.usage.cost_micro_usd = kMaxUsage;
  EXPECT_TRUE(decode(encode(t)).ok());
  t.usage.cost_micro_usd = kMaxUsage + 1;
  EXPECT_FALSE(decode(encode(t)).ok());
  t = used_sample();
  t.history[0].cli_session = "no id";
  EXPECT_FALSE(decode(encode(t)).ok());
}

TEST(TaskRecord, HasOneForm) {
  std::string bytes = encode(sample());
  bytes[0] = 2;
  bytes += std::string(5 + 2 * (5 + 4), '\0');  // of the task and two attempts nothing
  EXPECT_FALSE(decode(bytes).ok());
}

TEST(Usage, AddsUpAndStopsAtItsLimit) {
  Usage sum;
  add(sum, {});
  EXPECT_FALSE(sum.known());
  add(sum, {1, {}, {}, {}, 5});
  add(sum, {2, 3, {}, {}, {}});
  EXPECT_EQ(sum, (Usage{3, 3, {}, {}, 5}));
  add(sum, {{}, {}, {}, {}, kMaxUsage});
  EXPECT_EQ(sum.cost_micro_usd, kMaxUsage);
  add(sum, {{}, {}, {}, {}, ~0ULL});
  EXPECT_EQ(sum.cost_micro_usd, kMaxUsage);
}

TEST(ExpiredRecord, ComesBackAndEveryCutIsRefused) {
  const Expired expired{{1, 2, 3, 4, kMaxSpent, 6, 7}, {"t-3-1f2a"}, 9};
  const std::string bytes = encode(expired);
  EXPECT_EQ(bytes.size(), 1U + 7 * 8 + 4 + 8 + 8);
  EXPECT_EQ(bytes[0], 1);
  const Result<Expired> back = decode_expired(bytes);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->spent, expired.spent);
  EXPECT_EQ(back->last, expired.last);
  EXPECT_EQ(back->version, 9U);
  for (std::size_t n = 0; n < bytes.size(); ++n)
    EXPECT_FALSE(decode_expired(std::string_view(bytes).substr(0, n)).ok()) << n;
  EXPECT_FALSE(decode_expired(bytes + "x").ok());
  std::string other = bytes;
  other[0] = 2;
  EXPECT_FALSE(decode_expired(other).ok());
}

}  // namespace
}  // namespace swarm::tasks
