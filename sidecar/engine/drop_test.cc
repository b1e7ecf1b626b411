#include "engine/drop.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "engine/control_json.h"
#include "engine/pod_fixture.h"

namespace swarm::engine {
namespace {

namespace fs = std::filesystem;

constexpr Milliseconds kPatience{20'000};

struct Drops : PodFixture {
  Drops() {
    config.mount_path = "/dev/shm/swarm-drop-" + std::to_string(::getpid());
    config.backpressure_timeout = Milliseconds{200};
    fs::remove_all(config.mount_path);
    fs::create_directory(config.mount_path);
    drop = std::make_unique<Drop>(loop, mail, post, config);
    drop->start();
  }
  ~Drops() override {
    drop.reset();
    fs::remove_all(config.mount_path);
  }

  [[nodiscard]] std::string at(const std::string& name) const {
    return config.mount_path + "/drop/" + name;
  }
  // As an agent does it: written under a name with a dot, then renamed.
  void put(const std::string& name, const std::string& body) {
    const fs::path path = at(name);
    fs::create_directories(path.parent_path());
    const auto draft = path.parent_path() / ".draft";
    std::ofstream(draft, std::ios::binary) << body;
    ASSERT_EQ(::rename(draft.c_str(), path.c_str()), 0) << name;
  }
  // With its options, which come first.
  void put(const std::string& name, const std::string& body, const std::string& options) {
    const fs::path path = at(name);
    fs::create_directories(path.parent_path());
    std::ofstream(options_of(path)) << options;
    put(name, body);
  }
  static fs::path options_of(const fs::path& path) {
    return path.parent_path() / ("." + path.filename().string() + ".options");
  }
  bool run_until(const std::function<bool()>& done) {
    const auto begin = mono_now();
    while (!done() && mono_now() - begin < kPatience) {
      io.restart();
      io.run_for(Milliseconds{5});
    }
    return done();
  }
  // Everything below drop/, sorted.
  std::vector<std::string> names() {
    std::vector<std::string> out;
    for (const auto& entry : fs::recursive_directory_iterator(config.mount_path + "/drop"))
      out.push_back(fs::relative(entry.path(), config.mount_path + "/drop").string());
    std::sort(out.begin(), out.end());
    return out;
  }
  // The lines of an outcome, once it is there.
  std::vector<json> outcome(const std::string& name) {
    EXPECT_TRUE(run_until([&] { return fs::exists(at(name)) && drop->under_way() == 0; })) << name;
    std::ifstream file(at(name));
    std::vector<json> out;
    for (std::string line; std::getline(file, line);) out.push_back(json::parse(line));
    return out;
  }
  // That of one that is refused; its words.
  std::string refusal(const std::string& name) {
    const auto lines = outcome(name + ".refused");
    if (lines.size() != 1) return "";
    EXPECT_EQ(lines[0]["outcome"], "refused");
    return lines[0]["message"].get<std::string>();
  }
  std::string next_body() {
    auto got = box.receive(mono_now(), config.name, Milliseconds{60000}, {});
    return got ? got->message.body : "-";
  }
  // Another life of the sidecar.
  void restart() {
    drop = std::make_unique<Drop>(loop, mail, post, config);
    drop->start();
  }

  Mail mail{loop, box, config, Session::Options{}, [](const AgentName& name, const Located& done) {
              done(not_found(name.value + " is not connected now"));
            }};
  Post post{loop, mail, config};
  std::unique_ptr<Drop> drop;
};

using Names = std::vector<std::string>;

TEST_F(Drops, AFileThatIsRenamedIntoItIsSentAndItsOutcomeIsBesideIt) {
  const std::string body("bytes\0\xFF", 7);
  put("worker-0/hello", body);
  const auto lines = outcome("worker-0/hello.accepted");
  ASSERT_EQ(lines.size(), 1U);
  json line = lines[0];
  const auto id = line["messageId"].get<std::string>();
  line.erase("messageId");
  EXPECT_EQ(line, (json{{"outcome", "accepted"},
                        {"to", "worker-0"},
                        {"survives", "container"},
                        {"duplicate", false}}));
  const auto got = box.receive(mono_now(), config.name, Milliseconds{60000}, {});
  ASSERT_TRUE(got);
  EXPECT_EQ(got->message.body, body);
  EXPECT_EQ(got->message.id.value, id);
  EXPECT_EQ(got->message.from, config.name);
  EXPECT_EQ(names(), (Names{"worker-0", "worker-0/hello.accepted"})) << "the file has gone";
  put("worker-0/hello", "again");
  ASSERT_TRUE(run_until([&] { return box.books().stored == 2; }));
  EXPECT_EQ(next_body(), "again") << "the same name is another message";
}

TEST_F(Drops, AnAgentsLastActIsSent) {
  put("worker-0/first", "first");
  (void)outcome("worker-0/first.accepted");
  put("worker-0/last", "last");  // no hint of it is read before the end
  drop->stop();
  EXPECT_GT(drop->left(), 0U);
  EXPECT_TRUE(run_until([&] { return drop->left() == 0; }));
  EXPECT_TRUE(fs::exists(at("worker-0/last.accepted")));
  put("worker-0/late", "late");
  io.restart();
  io.run_for(Milliseconds{50});
  EXPECT_TRUE(fs::exists(at("worker-0/late"))) << "nothing new is taken";
}

TEST_F(Drops, WhatIsRefusedStaysAndMovingItBackTriesAgain) {
  put("worker-9/job", "text");
  EXPECT_NE(refusal("worker-9/job").find("can't be reached now"), std::string::npos);
  EXPECT_EQ(names(), (Names{"worker-9", "worker-9/.job.refused", "worker-9/job.refused"}));
  fs::create_directory(at("worker-0"));
  ASSERT_EQ(::rename(at("worker-9/.job.refused").c_str(), at("worker-0/job").c_str()), 0);
  EXPECT_EQ(outcome("worker-0/job.accepted").size(), 1U);
  EXPECT_EQ(next_body(), "text");
}

TEST_F(Drops, SeveralReceiversHaveALineEach) {
  put("worker-0,worker-9/x", "text");
  const auto lines = outcome("worker-0,worker-9/x.partial");
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0]["to"], "worker-0");
  EXPECT_EQ(lines[0]["outcome"], "accepted");
  EXPECT_EQ(lines[1]["to"], "worker-9");
  EXPECT_EQ(lines[1]["code"], "unavailable");
  ASSERT_EQ(::rename(at("worker-0,worker-9/.x.partial").c_str(), at("worker-0,worker-9/x").c_str()),
            0);
  ASSERT_TRUE(run_until([&] { return fs::exists(at("worker-0,worker-9/.x.partial")); }));
  EXPECT_EQ(outcome("worker-0,worker-9/x.partial")[0]["duplicate"], true)
      << "moved back it is the same message";
  EXPECT_EQ(box.books().stored, 1U);
}

mailbox::Message next_of(mailbox::Mailbox& box, const AgentName& agent) {
  auto got = box.receive(mono_now(), agent, Milliseconds{60000}, {});
  return got ? got->message : mailbox::Message{};
}

TEST_F(Drops, OptionsBesideAFileAreThoseOfASend) {
  put("worker-0/x", "text", R"({"id":"job-1","priority":"high","inReplyTo":"m-0"})");
  EXPECT_EQ(outcome("worker-0/x.accepted")[0]["messageId"], "job-1");
  const auto m = next_of(box, config.name);
  EXPECT_EQ(m.id.value, "job-1");
  EXPECT_EQ(m.priority, mailbox::Priority::kHigh);
  EXPECT_EQ(m.in_reply_to.value, "m-0");
  EXPECT_EQ(names(), (Names{"worker-0", "worker-0/x.accepted"})) << "both files have gone";
  put("worker-0/y", "other words", R"({"id":"job-1"})");
  EXPECT_EQ(outcome("worker-0/y.accepted")[0]["duplicate"], true) << "an id is one message";
  put("worker-0/z", "", R"( {"stream":"s","part":1,"end":true} )");
  ASSERT_EQ(outcome("worker-0/z.accepted").size(), 1U);
  const auto part =
      box.receive_part(mono_now(), config.name, Milliseconds{60000}, config.name, {"s"}, 1);
  ASSERT_TRUE(part && *part);
  EXPECT_EQ((*part)->message.stream->mark, mailbox::StreamPart::Mark::kEnd);
  put("worker-0,worker-9/all", "text", R"({"id":"all-1","timeoutMs":0})");
  EXPECT_EQ(outcome("worker-0,worker-9/all.partial")[1]["messageId"], "all-1");
  EXPECT_EQ(next_of(box, config.name).id.value, "all-1");
  config.backpressure_timeout = Milliseconds{60'000};
  put("worker-9/w", "text", R"({"timeoutMs":100})");
  EXPECT_NE(refusal("worker-9/w"), "") << "in its own time";
}

TEST_F(Drops, AReplyAcksWithItsOptions) {
  put("worker-0/question", "?", R"({"id":"q"})");
  ASSERT_EQ(outcome("worker-0/question.accepted").size(), 1U);
  EXPECT_EQ(next_of(box, config.name).id.value, "q");
  put("worker-0/answer", "!", R"({"id":"a","inReplyTo":"q","ackAttempt":2})");
  const auto said = outcome("worker-0/answer.partial");
  ASSERT_EQ(said.size(), 1U);
  EXPECT_EQ(said[0]["outcome"], "accepted");
  EXPECT_EQ(said[0]["ackCode"], "refused");
  EXPECT_TRUE(box.has(config.name, {"q"}, config.name));
  std::ofstream(at("worker-0/.answer.options")) << R"({"id":"a","inReplyTo":"q","ackAttempt":1})";
  fs::rename(at("worker-0/.answer.partial"), at("worker-0/answer"));
  json line = outcome("worker-0/answer.accepted")[0];
  EXPECT_EQ(line["acked"], true);
  EXPECT_EQ(line["duplicate"], true) << "the reply was accepted once";
  EXPECT_FALSE(box.has(config.name, {"q"}, config.name));
  // The sidecar died when the ack was in the log, and nowhere else; the question has gone with it.
  const std::string gone = R"({"id":"b","inReplyTo":"gone","ackAttempt":1})";
  put("worker-0/first", "!", gone);
  EXPECT_EQ(outcome("worker-0/first.partial")[0]["ackCode"], "not_found");
  std::ofstream(at("worker-0/.again.options")) << gone;
  fs::rename(at("worker-0/.first.partial"), at("worker-0/.sending-again"));
  EXPECT_EQ(outcome("worker-0/again.unknown")[0]["ackCode"], "unknown")
      << "the reply is there; who has acked is not";
  // A reply that nobody has accepted yet has acked nothing.
  std::ofstream(at("worker-0/.new.options")) << R"({"id":"n","inReplyTo":"gone","ackAttempt":1})";
  std::ofstream(at("worker-0/.sending-new")) << "!";
  EXPECT_EQ(outcome("worker-0/new.partial")[0]["ackCode"], "not_found");
  config.backpressure_timeout = Milliseconds{60'000};
  put("worker-9/late", "!", R"({"inReplyTo":"q","ackAttempt":1,"timeoutMs":3600000})");
  ASSERT_TRUE(run_until([&] { return drop->under_way() == 1; }));
  config.backpressure_timeout = Milliseconds{100};
  drop->stop();
  EXPECT_TRUE(run_until([&] { return drop->left() == 0; })) << "it holds up no end of a pod";
}

TEST_F(Drops, OptionsThatCannotBeMeantRefuseTheirFile) {
  const std::pair<const char*, std::string> texts[] = {
      {"one JSON object is needed", ""},
      {"one JSON object is needed", "null"},
      {"one JSON object is needed", "[{}]"},
      {"one JSON object is needed", "{} {}"},
      {"one JSON object is needed", R"({"timeoutMs":99999999999999999999})"},
      {"one JSON object is needed", "{\"id\":\"\xFF\"}"},
      {"one JSON object is needed", std::string(4000, '[')},
      {"unknown member \"urgent\" of the options, allowed: id timeoutMs priority inReplyTo "
       "ackAttempt stream part end abort",
       R"({"urgent":true})"},
      {"unknown member \"to\"", R"({"to":"worker-0"})"},
      {"unknown member \"body\"", R"({"body":"x"})"},
      {"unknown member \"body64\"", R"({"body64":""})"},
      {"unknown member \"op\"", R"({"op":"send"})"},
      {"unknown member \"rid\"", R"({"rid":1})"},
      {"unknown member \"waitMs\"", R"({"waitMs":1})"},
      {"id must be a text", R"({"id":null})"},
      {"id must match", R"({"id":""})"},
      {"id must match", R"({"id":"../x"})"},
      {"priority must be high, normal or low", R"({"priority":"urgent"})"},
      {"inReplyTo must be a message id", R"({"inReplyTo":"a b"})"},
      {"timeoutMs must be a whole number", R"({"timeoutMs":-1})"},
      {"end must be true or false", R"({"stream":"s","part":1,"end":1})"},
      {"name the stream", R"({"part":1})"},
      {"a part of a stream has", R"({"stream":"s","part":1,"priority":"high"})"},
      {"a part of a stream has", R"({"stream":"s","part":0})"},
      {"ackAttempt is the attempt of", R"({"ackAttempt":1})"},
      {"it has 4097 bytes, at most 4096", "{}" + std::string(kMaxDropOptionsBytes - 1, ' ')}};
  int number = 0;
  for (const auto& [words, text] : texts) {
    const std::string name = "t" + std::to_string(number++);
    put("worker-0/" + name, "text", text);
    const auto said = refusal("worker-0/" + name);
    EXPECT_TRUE(said.starts_with("." + name + ".options: ")) << said;
    EXPECT_NE(said.find(words), std::string::npos) << text << ": " << said;
    EXPECT_TRUE(fs::exists(at("worker-0/." + name + ".refused"))) << text;
    EXPECT_EQ(fs::file_size(at("worker-0/." + name + ".options")), text.size()) << "they stay";
  }
  put("worker-0,worker-9/several", "text", R"({"inReplyTo":"q","ackAttempt":1})");
  EXPECT_NE(refusal("worker-0,worker-9/several").find("in a send to one agent"), std::string::npos);
  std::ofstream(config.mount_path + "/secret") << R"({"id":"secret"})";
  const std::string secret = config.mount_path + "/secret";
  const auto named = [&](const char* name) {
    return at("worker-0/." + std::string(name) + ".options");
  };
  ASSERT_EQ(::mkfifo(named("fifo").c_str(), 0666), 0);
  fs::create_directories(named("directory") + "/with");
  fs::create_symlink(secret, named("link"));
  fs::create_symlink("../../secret", named("escape"));
  fs::create_symlink("/dev/zero", named("endless"));
  fs::create_hard_link(secret, named("hard"));
  const std::pair<const char*, const char*> kinds[] = {{"fifo", "a FIFO can't be read"},
                                                       {"directory", "a directory can't be read"},
                                                       {"link", "a symbolic link can't be read"},
                                                       {"escape", "a symbolic link can't be read"},
                                                       {"endless", "a symbolic link can't be read"},
                                                       {"hard", "another hard link can't be read"}};
  for (const auto& [name, words] : kinds) {
    put("worker-0/" + std::string(name), "text");
    EXPECT_NE(refusal("worker-0/" + std::string(name)).find(words), std::string::npos) << name;
    EXPECT_TRUE(fs::exists(fs::symlink_status(named(name)))) << name << " is kept";
  }
  EXPECT_EQ(box.books().stored, 0U) << "none was sent without them";
  EXPECT_EQ(fs::file_size(secret), 15U);
  put("worker-0/most", "text", "{}" + std::string(kMaxDropOptionsBytes - 2, ' '));
  EXPECT_EQ(outcome("worker-0/most.accepted").size(), 1U);
}

TEST_F(Drops, WhatIsMovedBackIsTheSameMessageWithItsOptions) {
  put("worker-9/x", "text", R"({"id":"job-1","priority":"low"})");
  EXPECT_EQ(outcome("worker-9/x.refused")[0]["messageId"], "job-1");
  EXPECT_EQ(names(), (Names{"worker-9", "worker-9/.x.options", "worker-9/.x.refused",
                            "worker-9/x.refused"}));
  fs::create_directory(at("worker-0"));
  fs::rename(at("worker-9/.x.options"), at("worker-0/.x.options"));
  fs::rename(at("worker-9/.x.refused"), at("worker-0/x"));
  EXPECT_EQ(outcome("worker-0/x.accepted")[0]["messageId"], "job-1");
  EXPECT_EQ(next_of(box, config.name).priority, mailbox::Priority::kLow);
}

TEST_F(Drops, OptionsForTheNextFileOfANameStay) {
  put("worker-0/x", "one", R"({"id":"one"})");
  while (!fs::exists(at("worker-0/.sending-x"))) {
    io.restart();
    ASSERT_GT(io.run_one_for(kPatience), 0U);
  }
  std::ofstream(at("worker-0/.next")) << R"({"id":"two"})";
  fs::rename(at("worker-0/.next"), at("worker-0/.x.options"));
  put("worker-0/x", "two");
  ASSERT_FALSE(fs::exists(at("worker-0/x.accepted"))) << "it comes while the first is under way";
  ASSERT_TRUE(run_until([&] { return box.books().stored == 2; }));
  EXPECT_EQ(next_of(box, config.name).id.value, "one");
  EXPECT_EQ(next_of(box, config.name).id.value, "two");
}

// In what order names come and go: that of the states below.
TEST_F(Drops, TheOutcomeComesLast) {
  put("worker-0/warm", "up");
  (void)outcome("worker-0/warm.accepted");
  const Descriptor seen(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  ASSERT_GE(::inotify_add_watch(seen.get(), at("worker-0").c_str(), IN_DELETE | IN_MOVED_TO), 0);
  put("worker-0/x", "text", "{}");
  (void)outcome("worker-0/x.accepted");
  put("worker-0/y", "text", R"({"id":""})");
  (void)outcome("worker-0/y.refused");
  alignas(inotify_event) char events[4096];
  const auto size = ::read(seen.get(), events, sizeof events);
  Names order;
  for (ssize_t at = 0; at < size;) {
    const auto* event = reinterpret_cast<const inotify_event*>(events + at);
    order.push_back(((event->mask & IN_DELETE) != 0 ? "-" : "+") + std::string(event->name));
    at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
  }
  EXPECT_EQ(order, (Names{"+x", "+.sending-x", "-.sending-x", "-.x.options", "+x.accepted", "+y",
                          "+.sending-y", "+.y.refused", "+y.refused"}));
}

// Each state that a sidecar which dies may leave, in the order of its steps (drop_files.h).
TEST_F(Drops, ACrashBetweenAnyTwoStepsLosesNoOptions) {
  const std::string options = R"({"id":"job-1","priority":"high"})";
  const auto file = [&](const std::string& name, const std::string& text, mode_t mode = 0666) {
    std::ofstream(at(name)) << text;
    ASSERT_EQ(::chmod(at(name).c_str(), mode), 0);
  };
  constexpr mode_t kMarked = 01666;
  put("worker-0/warm", "up");
  ASSERT_EQ(outcome("worker-0/warm.accepted").size(), 1U);
  (void)next_of(box, config.name);
  const auto sent_again = [&](bool duplicate) {
    restart();
    const auto lines = outcome("worker-0/x.accepted");
    ASSERT_EQ(lines.size(), 1U);
    EXPECT_EQ(lines[0]["messageId"], "job-1");
    EXPECT_EQ(lines[0]["duplicate"], duplicate);
    EXPECT_EQ(names(), (Names{"worker-0", "worker-0/warm.accepted", "worker-0/x.accepted"}));
    fs::remove(at("worker-0/x.accepted"));
  };
  drop.reset();  // claimed
  file("worker-0/.x.options", options);
  file("worker-0/.sending-x", "text");
  sent_again(false);
  EXPECT_EQ(next_of(box, config.name).priority, mailbox::Priority::kHigh);
  drop.reset();  // accepted, and half of that written down
  file("worker-0/.x.options", options);
  file("worker-0/.sending-x", "text");
  file("worker-0/.outcome-x.accepted", "{", kMarked);
  sent_again(true);
  for (const bool both : {true, false}) {  // its file has gone, then its options
    drop.reset();
    const std::string line =
        R"({"outcome":"accepted","messageId":"job-1","to":"worker-0","duplicate":true})";
    if (both) file("worker-0/.x.options", options);
    file("worker-0/.outcome-x.accepted", line, kMarked);
    sent_again(true);
  }
  drop.reset();  // the same, and there is another one of that name already
  file("worker-0/.x.options", options);
  file("worker-0/.outcome-x.accepted", "{}", kMarked);
  file("worker-0/x", "next");
  restart();
  ASSERT_TRUE(run_until([&] { return box.books().stored == 3; }));
  const auto next = next_of(box, config.name);
  EXPECT_EQ(next.body, "next");
  EXPECT_TRUE(next.id.value.starts_with("drop-")) << "not with the options of the one before";
  (void)outcome("worker-0/x.accepted");
  drop.reset();  // refused; the file and its options stay
  fs::remove(at("worker-0/x.accepted"));
  file("worker-0/.x.options", options);
  file("worker-0/.x.refused", "text");
  file("worker-0/.outcome-x.refused", "{\"outcome\":\"refused\",\"message\":\"why\"}", kMarked);
  file("worker-0/.outcome-y.accepted", "an agent's own");
  restart();
  EXPECT_EQ(refusal("worker-0/x"), "why");
  fs::rename(at("worker-0/.x.refused"), at("worker-0/x"));
  EXPECT_EQ(outcome("worker-0/x.accepted")[0]["messageId"], "job-1");
  EXPECT_TRUE(fs::exists(at("worker-0/.outcome-y.accepted"))) << "left alone";
  EXPECT_EQ(box.books().stored, 3U) << "each was stored once";
}

TEST_F(Drops, WhatIsNoFileOrHasNoReceiverGetsOneClearError) {
  config.max_message_bytes = 100;
  fs::create_directories(at("worker-0/a-directory/with"));
  ASSERT_EQ(::mkfifo(at("worker-0/a-fifo").c_str(), 0666), 0);
  const int listener = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const auto socket = at("worker-0/a-socket");
  ASSERT_LT(socket.size(), sizeof address.sun_path);
  std::copy(socket.begin(), socket.end(), address.sun_path);
  ASSERT_EQ(::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ::close(listener);
  std::ofstream(config.mount_path + "/secret") << "secret";
  fs::create_symlink(config.mount_path + "/secret", at("worker-0/a-link"));
  fs::create_symlink("../../secret", at("worker-0/an-escape"));
  fs::create_hard_link(config.mount_path + "/secret", at("worker-0/a-hard-link"));
  fs::create_directory_symlink("worker-0", at("worker-1"));
  put("worker-0/too-large", std::string(101, 'x'));
  put("nobody/x", "text");
  put("no-receiver", "text");
  put("worker-0/fits", std::string(100, 'x'));
  const std::pair<const char*, const char*> rows[] = {
      {"worker-0/a-directory", "a directory can't be sent"},
      {"worker-0/a-fifo", "a FIFO can't be sent"},
      {"worker-0/a-socket", "a socket can't be sent"},
      {"worker-0/a-link", "a symbolic link can't be sent"},
      {"worker-0/an-escape", "a symbolic link can't be sent"},
      {"worker-0/a-hard-link", "another hard link"},
      {"worker-1", "a symbolic link can't be sent"},
      {"worker-0/too-large", "the body has 101 bytes, at most 100"},
      {"nobody/x", "\"nobody\" is not an agent's name"},
      {"no-receiver", "whom it is for is missing"}};
  for (const auto& [name, words] : rows) {
    EXPECT_NE(refusal(name).find(words), std::string::npos) << name << ": " << refusal(name);
    const fs::path path = name;
    EXPECT_TRUE(fs::exists(fs::symlink_status(
        at((path.parent_path() / ("." + path.filename().string() + ".refused")).string()))))
        << name << " is kept";
  }
  EXPECT_EQ(outcome("worker-0/fits.accepted").size(), 1U);
  EXPECT_EQ(next_body(), std::string(100, 'x'));
  EXPECT_EQ(next_body(), "-") << "nothing else was sent";
  EXPECT_TRUE(fs::exists(config.mount_path + "/secret")) << "nothing outside was touched";
  EXPECT_TRUE(fs::exists(at("worker-0/.a-directory.refused/with")));
}

TEST_F(Drops, NamesThatCannotBeShownAreAnsweredUnderTheirId) {
  const std::string rows[] = {"\xFF\xFE", "line\nbreak", std::string(kMaxDropNameBytes + 1, 'n'),
                              std::string(255, 'm')};
  for (const auto& name : rows) put("worker-0/" + name, "text");
  put("worker-0/" + std::string(kMaxDropNameBytes, 'o'), "fits");
  EXPECT_EQ(outcome("worker-0/" + std::string(kMaxDropNameBytes, 'o') + ".accepted").size(), 1U);
  const auto refused = [&] {
    std::size_t count = 0;
    for (const auto& name : names()) {
      if (!name.starts_with("worker-0/drop-") || !name.ends_with(".refused")) continue;
      ++count;
      EXPECT_NE(outcome(name)[0]["message"].get<std::string>().find("a name takes at most"),
                std::string::npos);
    }
    return count;
  };
  EXPECT_TRUE(run_until([&] { return refused() == std::size(rows); }));
  EXPECT_EQ(names().size(), 2 + 2 * std::size(rows));
}

TEST_F(Drops, DraftsAndOutcomesAreLeftAlone) {
  put("worker-0/first", "text");
  EXPECT_EQ(outcome("worker-0/first.accepted").size(), 1U);
  std::ofstream(at("worker-0/.mine")) << "text";
  std::ofstream(at("worker-0/.mine.refused")) << "text";
  put("worker-0/last", "text");
  EXPECT_EQ(outcome("worker-0/last.accepted").size(), 1U);
  EXPECT_EQ(names(), (Names{"worker-0", "worker-0/.mine", "worker-0/.mine.refused",
                            "worker-0/first.accepted", "worker-0/last.accepted"}));
}

TEST_F(Drops, AFileWithTheNameOfAnOutcomeIsToldSoAndStays) {
  const std::string bytes = "worker-0/\xFF.unknown";
  const std::string rows[] = {"x.accepted", "x.partial", "x.refused", "x.unknown"};
  for (const auto& name : rows) put("worker-0/" + name, "text");
  put(bytes, "text");
  put("x.partial", "text");
  for (const auto& name : rows) {
    EXPECT_NE(refusal("worker-0/" + name).find("is that of an outcome"), std::string::npos) << name;
    EXPECT_TRUE(fs::exists(at("worker-0/" + name))) << name;
  }
  EXPECT_NE(refusal("x.partial"), "");
  put("worker-0/y.partial.refused", "text");  // as ours, where it could not be marked
  const auto unshown = [&] {
    const auto all = names();
    return std::count_if(all.begin(), all.end(), [](const auto& name) {
      return name.starts_with("worker-0/drop-") && name.ends_with(".refused");
    });
  };
  EXPECT_TRUE(run_until([&] { return unshown() == 1; }));
  put("worker-0/last", "text");
  EXPECT_EQ(outcome("worker-0/last.accepted").size(), 1U);
  EXPECT_EQ(names().size(), 1 + 2 * std::size(rows) + 2 + 2 + 1 + 1)
      << "nothing is said of what was said";
  ASSERT_EQ(::rename(at("worker-0/x.partial").c_str(), at("worker-0/x").c_str()), 0);
  EXPECT_TRUE(run_until([&] { return box.books().stored == 2; }));
}

TEST_F(Drops, AClaimThatACrashHasLeftIsSentOnce) {
  put("worker-0/x", "text");
  ASSERT_EQ(outcome("worker-0/x.accepted").size(), 1U);
  put("worker-9/y", "text");
  ASSERT_TRUE(run_until([&] { return fs::exists(at("worker-9/.sending-y")); }));
  restart();
  EXPECT_NE(refusal("worker-9/y"), "") << "the next life gives the outcome";
  // Accepted, but the outcome was not written: it is the same message again.
  put("worker-0/.z", "text");
  fs::rename(at("worker-0/.z"), at("worker-0/.sending-z"));
  ASSERT_EQ(outcome("worker-0/z.accepted")[0]["duplicate"], false);
}

TEST_F(Drops, OneDirectoryThatIsStuckHoldsUpNoOther) {
  config.backpressure_timeout = Milliseconds{60'000};
  for (std::size_t i = 0; i < 2 * kMaxDropsPerDirectory; ++i)
    put("worker-9/" + std::to_string(i), "text");
  ASSERT_TRUE(run_until([&] { return drop->under_way() == kMaxDropsPerDirectory; }));
  put("worker-0/x", "text");
  ASSERT_TRUE(run_until([&] { return fs::exists(at("worker-0/x.accepted")); }));
  EXPECT_EQ(drop->under_way(), kMaxDropsPerDirectory);
}

TEST_F(Drops, ManyDirectoriesThatAreStuckHoldUpNoOther) {
  config.backpressure_timeout = Milliseconds{60'000};
  for (int receiver = 1; receiver <= 20; ++receiver) {
    const auto before = drop->under_way();
    for (int i = 0; i < 100; ++i)
      put("worker-" + std::to_string(receiver) + "/" + std::to_string(i), "text");
    ASSERT_TRUE(run_until([&] { return drop->under_way() > before; }))
        << "each gets something done: worker-" << receiver;
    const auto begin = mono_now();  // and more, where there is room
    while (drop->under_way() < before + kMaxDropsPerDirectory &&
           mono_now() - begin < Milliseconds{100}) {
      io.restart();
      io.run_for(Milliseconds{5});
    }
  }
  const auto stuck = drop->under_way();
  EXPECT_LE(stuck, kMaxDrops);
  for (int i = 0; i < 10; ++i) put("worker-0/" + std::to_string(i), "text");
  const auto begin = mono_now();
  ASSERT_TRUE(run_until([&] { return box.books().stored == 10; }));
  EXPECT_LT(mono_now() - begin, Milliseconds{5000});
  EXPECT_TRUE(run_until([&] { return drop->under_way() == stuck; }));
}

TEST_F(Drops, AHundredThousandFilesStallNobody) {
  constexpr int kFiles = 100'000;
  fs::create_directories(at("worker-0"));
  for (int i = 0; i < kFiles; ++i) {
    const int file = ::open(at("worker-0/" + std::to_string(i) + ".accepted").c_str(),
                            O_CREAT | O_WRONLY | O_CLOEXEC, 0666);
    ASSERT_GE(file, 0);
    ::close(file);
  }
  for (int i = 0; i < 200; ++i) put("worker-0/" + std::to_string(i), std::to_string(i));
  // What a turn of the loop takes of this thread's time: others use the machine, too.
  const auto used = [] {
    timespec t{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return Milliseconds{t.tv_sec * 1000 + t.tv_nsec / 1'000'000};
  };
  Milliseconds longest{0}, last = used();
  std::function<void()> tick = [&] {
    longest = std::max(longest, used() - last);
    last = used();
    loop.post(tick);
  };
  tick();
  EXPECT_TRUE(run_until([&] { return box.books().stored == 200; }));
  EXPECT_LT(longest, Milliseconds{100}) << "a turn of the loop";
  tick = [] {};
}

TEST_F(Drops, ADirectoryThatIsRemovedOrReplacedIsMadeAgain) {
  put("worker-0/x", "one");
  ASSERT_EQ(outcome("worker-0/x.accepted").size(), 1U);
  fs::remove_all(at(""));
  ASSERT_TRUE(run_until([&] { return fs::exists(at("")); }));
  put("worker-0/x", "two");
  ASSERT_EQ(outcome("worker-0/x.accepted").size(), 1U);
  fs::rename(config.mount_path + "/drop", config.mount_path + "/elsewhere");
  fs::create_directory_symlink(config.mount_path + "/elsewhere", config.mount_path + "/drop");
  std::ofstream(config.mount_path + "/elsewhere/worker-0/y") << "three";
  drop.reset();
  drop = std::make_unique<Drop>(loop, mail, post, config);
  drop->start();
  const auto begin = mono_now();
  while (mono_now() - begin < Milliseconds{300}) {
    io.restart();
    io.run_for(Milliseconds{5});
  }
  EXPECT_EQ(box.books().stored, 2U) << "no link is followed";
}

TEST_F(Drops, WhoeverMakesADirectoryLetsTheSidecarIn) {
  ASSERT_TRUE(run_until([&] { return fs::exists(at("")); }));
  const auto former = ::umask(0077);
  fs::create_directory(at("worker-9"));
  std::ofstream(at("worker-9/.x")) << "text";
  ::umask(former);
  struct stat made {};
  struct stat file {};
  ASSERT_EQ(::stat(at("worker-9").c_str(), &made), 0);
  ASSERT_EQ(::stat(at("worker-9/.x").c_str(), &file), 0);
  EXPECT_EQ(made.st_mode & 0777U, 0777U);
  EXPECT_EQ(file.st_mode & 0666U, 0666U);
}

}  // namespace
}  // namespace swarm::engine
