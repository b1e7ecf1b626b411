// A coordinator and its workers over real links: what only shows with sockets between them. Each
// has an address of its own in 127.0.0.0/8, as each pod has; agents are calls.
#include "engine/session.h"

#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/write.hpp>
#include <filesystem>
#include <fstream>
#include <set>

#include "engine/agent_socket.h"
#include "engine/control_json.h"
#include "engine/coordinator.h"
#include "engine/mail.h"
#include "engine/worker.h"
#include "os/file.h"

namespace swarm::engine {
namespace {

using boost::asio::ip::tcp;
using boost::system::error_code;

constexpr std::uint64_t kLogBytes = 64U << 20U;

// One pod without HTTP, supervisor and agents.
struct Pod {
  Pod(boost::asio::io_context& io, const std::string& name, const std::string& address,
      std::uint16_t port, const std::string& token_file)
      : loop(io),
        acceptor(io),
        path(testing::TempDir() + "swarm-link-" + name + "-" + address + "-" +
             std::to_string(::getpid())) {
    std::filesystem::create_directory(path);  // or what a former engine has left
    directory = *os::open_directory(path);
    config.coordinator = name.starts_with("coordinator-");
    config.name.value = name;
    config.pod = name + "-at-" + address;
    config.pod_ip = address;
    config.node = address;
    config.submit_token_file = token_file;
    config.link_service = std::string(64, 'x');  // no name has such a part: found by address only
    const tcp::endpoint endpoint(boost::asio::ip::make_address(address), port);
    acceptor.open(endpoint.protocol());
    acceptor.set_option(tcp::acceptor::reuse_address(true));
    acceptor.bind(endpoint);
    acceptor.listen();
    config.link_port = acceptor.local_endpoint().port();
    LogId id;
    id.bytes.fill(static_cast<std::uint8_t>(std::hash<std::string>{}(name + address) | 1U));
    log::Options options;
    options.max_bytes = kLogBytes;
    std::vector<std::pair<log::Record, std::string>> kept;
    log::Recovery recovery;
    log = *log::Log::open(
        *directory, options, id,
        [&](const log::Record& record) { kept.emplace_back(record, record.payload); }, &recovery);
    box = std::make_unique<mailbox::Mailbox>(config.name, mailbox::Limits{});
    box->attach(*log, mono_now());
    loop.attach(*log);
    session.self = {"uid", config.name, config.pod, config.pod, config.node, address, id};
    session.secret = std::string(32, 's');
    session.standing = [this] {
      return link::Standing{coordinator && coordinator->active(),
                            coordinator ? coordinator->epoch() : 0};
    };
    mail = std::make_unique<Mail>(
        loop, *box, config, session,
        [](const AgentName&, const Located& done) { done(unavailable("there is no mail here")); });
    if (config.coordinator) {
      coordinator = std::make_unique<Coordinator>(loop, config, session, *mail);
    } else {
      worker = std::make_unique<Worker>(loop, config, session, *mail);
    }
    for (auto& [record, payload] : kept) {
      record.payload = payload;
      coordinator ? coordinator->restore(record) : worker->restore(record);
    }
    if (coordinator) coordinator->attach(*log, false);
    accept();
  }

  ~Pod() {
    if (!volume_stays) std::filesystem::remove_all(path);
  }
  // To all others as if it was gone.
  void cut_off() {
    acceptor.close();
    for (const auto& peer : inbound) peer->close(unavailable("gone"));
  }
  Pod(const Pod&) = delete;
  Pod& operator=(const Pod&) = delete;

  // Stands in the worker's log when it starts.
  void remember(std::uint8_t kind, const std::string& payload) {
    const auto record = log->append(kind, payload);
    ASSERT_TRUE(record.ok());
    worker->restore({*record, kind, log::State::kLive, 0, payload});
  }
  void start() { worker->attach(*log); }

  void accept() {
    acceptor.async_accept([this](error_code e, tcp::socket socket) {
      if (e) return;
      Session::Events events;
      events.ready = [this](Session& from) { mail->session_up(from.shared_from_this()); };
      events.frame = [this](Session& from, const link::Frame& frame) {
        if (mail->take(from, frame)) return;
        if (answers_as_older && frame.type == link::FrameType::kJoin) {
          const json joined{{"session", 1ULL << 32U | 1U}, {"epoch", 1}, {"mailCounts", true}};
          return from.send(link::FrameType::kJoined, control(joined));
        }
        if (coordinator && coordinator->take(from, frame)) return;
        if (worker && frame.type == link::FrameType::kSuccessor) return worker->successor_at(from);
        from.close(invalid("a frame that has no place here"));
      };
      events.closed = [this](Session& from, const Error& why) {
        closed.push_back(why.message);
        mail->session_down(from);
        if (coordinator) coordinator->session_down(from);
      };
      inbound.push_back(Session::accept(loop, std::move(socket), session, std::move(events)));
      accept();
    });
  }

  Config config;
  Loop loop;
  tcp::acceptor acceptor;
  std::string path;
  bool volume_stays = false, answers_as_older = false;
  std::unique_ptr<os::Directory> directory;
  std::unique_ptr<log::Log> log;
  std::unique_ptr<mailbox::Mailbox> box;
  Session::Options session;
  std::unique_ptr<Mail> mail;
  std::unique_ptr<Coordinator> coordinator;
  std::unique_ptr<Worker> worker;
  std::vector<std::shared_ptr<Session>> inbound;
  std::vector<std::string> closed;
};

class Team : public testing::Test {
 protected:
  Team() : token_file_(testing::TempDir() + "swarm-token-" + std::to_string(::getpid())) {
    std::ofstream(token_file_) << "token";
    // All addresses of a team listen at one port: none that the kernel gives to whoever connects,
    // and none of another process's tests.
    port_ = static_cast<std::uint16_t>(20'000 + ::getpid() % 10'000);
    coordinator_ = std::make_unique<Pod>(io_, "coordinator-0", "127.0.0.1", port(), token_file_);
    worker_ = std::make_unique<Pod>(io_, "worker-0", "127.0.0.2", port(), token_file_);
  }
  ~Team() override { std::filesystem::remove(token_file_); }

  std::uint16_t port() const { return port_; }
  Coordinator& coordinator() { return *coordinator_->coordinator; }
  Worker& worker() { return *worker_->worker; }

  template <typename Done>
  bool run_until(Done done, Milliseconds limit = Milliseconds{20000}) {
    const auto end = mono_now() + limit;
    while (!done() && mono_now() < end) io_.run_one_for(Milliseconds{20});
    return done();
  }
  // The former coordinator's workers: ours, and what else is said.
  void activate(const std::map<std::string, std::string>& others = {}) {
    auto last = reported({worker_.get()});
    for (const auto& [name, address] : others)
      last.workers[name] = {name + "-at-" + address, false, "", address};
    coordinator().activate(1, last);
  }
  static api::TeamReport reported(const std::vector<const Pod*>& pods, std::uint64_t epoch = 0) {
    api::TeamReport last;
    last.epoch = epoch;
    for (const auto* pod : pods)
      last.workers[pod->config.name.value] = {pod->config.pod, false, "", pod->config.pod_ip};
    return last;
  }
  // Our coordinator tells `to` where it is.
  std::shared_ptr<Session> invite(const Pod& to) {
    Session::Events events;
    events.ready = [](Session& session) { session.send(link::FrameType::kSuccessor, ""); };
    events.frame = [](Session&, const link::Frame&) {};
    events.closed = [](Session&, const Error&) {};
    return Session::connect(coordinator_->loop,
                            {boost::asio::ip::make_address(to.config.pod_ip), port()},
                            coordinator_->session, {to.config.name, {}}, std::move(events));
  }
  // A coordinator that has nothing takes the place of ours.
  void replace_coordinator() {
    coordinator_->cut_off();
    EXPECT_TRUE(run_until([&] { return !worker().joined(); }));
    auto next = std::make_unique<Pod>(io_, "coordinator-0", "127.0.0.6", port(), token_file_);
    former_ = std::exchange(coordinator_, std::move(next));
  }
  // The coordinator leads and the worker has joined it.
  bool begin() {
    worker_->start();
    activate();
    return run_until([&] { return recovered() && worker().joined(); });
  }
  // The engine ends and begins anew in the same pod. A worker's is still to be started.
  void restart(std::unique_ptr<Pod>& pod) {
    const auto name = pod->config.name.value, address = pod->config.pod_ip;
    pod->cut_off();
    wait(Milliseconds{50});
    pod->volume_stays = true;
    pod.reset();
    pod = std::make_unique<Pod>(io_, name, address, port_, token_file_);
  }
  void wait(Milliseconds time) {
    run_until([] { return false; }, time);
  }
  bool recovered() { return coordinator().active() && !coordinator().recovering(); }

  json call(const std::string& method, const std::string& path, const json& body = {}) {
    std::optional<net::HttpResponse> answer;
    net::HttpRequest request;
    request.method = method;
    request.path = path;
    request.headers["x-swarm-token"] = "token";
    if (!body.is_null()) request.body = body.dump();
    coordinator().http(std::move(request),
                       [&](const net::HttpResponse& response) { answer = response; });
    EXPECT_TRUE(run_until([&] { return answer.has_value(); }));
    json out = json::parse(answer ? answer->body : "{}", nullptr, false);
    out["status"] = answer ? answer->status : 0;
    return out;
  }
  json agent() {
    const json all = call("GET", "/v1/agents");
    for (const auto& a : all["agents"]) {
      if (a["name"] == "worker-0") return a;
    }
    return {};
  }
  Worker::Leased lease() {
    std::optional<Worker::Leased> leased;
    worker().next(Milliseconds{5000}, this, [&](Result<Worker::Leased> given) {
      if (given) leased = *given;
      return true;
    });
    EXPECT_TRUE(run_until([&] { return leased.has_value(); }));
    return leased.value_or(Worker::Leased{});
  }
  Status report(const TaskId& id, std::uint32_t attempt, bool done = true) {
    tasks::Report report;
    report.id = id;
    report.attempt = attempt;
    report.done = done;
    std::optional<Status> answer;
    worker().report(report, [&](Status status) { answer = status; });
    EXPECT_TRUE(run_until([&] { return answer.has_value(); }));
    return answer.value_or(Status(internal_error("no answer")));
  }

  boost::asio::io_context io_{1};
  std::string token_file_;
  std::uint16_t port_ = 0;
  std::unique_ptr<Pod> coordinator_, former_, worker_;
};

std::string replica(const tasks::Task& task) {
  std::string out;
  link::put_u64(out, task.version);
  link::put_text(out, task.id.value);
  return out + tasks::encode(task);
}

tasks::Task task(const std::string& id) {
  tasks::Task out;
  out.id.value = id;
  out.version = 1;
  out.created_at = out.updated_at = 1;
  out.body = "b";
  return out;
}

TEST_F(Team, AReplacementGetsBackMoreThanALinkMayHaveUnsent) {
  constexpr std::size_t kTasks = 340, kBody = 60000;
  static_assert(kTasks * kBody > kMaxSessionQueueBytes);
  for (std::size_t i = 0; i < kTasks; ++i) {
    tasks::Task task;
    task.id.value = "t-0-" + std::to_string(i);
    task.version = 1;
    task.created_at = task.updated_at = 1;
    task.body = std::string(kBody, 'b');
    worker_->remember(tasks::kReplica, replica(task));
  }
  worker_->start();
  activate();
  EXPECT_TRUE(run_until([&] { return recovered(); }));
  EXPECT_EQ(coordinator().counts().queued, kTasks);
  EXPECT_EQ(coordinator_->closed, std::vector<std::string>{});
}

TEST_F(Team, AWorkerSaysHowManyAgentsItsPodHas) {
  worker_->config.agents_per_pod = 3;
  worker_->start();
  activate();
  ASSERT_TRUE(run_until([&] { return !agent().is_null(); }));
  EXPECT_EQ(agent()["agents"], 3);
}

TEST_F(Team, WhoeverCannotBeReachedIsNotWaitedForToTheEnd) {
  worker_->start();
  const auto begun = mono_now();
  activate({{"worker-1", "127.0.0.3"}});
  EXPECT_TRUE(run_until([&] { return recovered(); }));
  EXPECT_LT(mono_now() - begun, tasks::kRecoveryLimit - Milliseconds{1000});
  // It may have been the only one to know of these.
  EXPECT_EQ(call("GET", "/v1/tasks/t-0-1")["status"], 503);
  EXPECT_EQ(call("POST", "/v1/tasks", {{"body", "b"}, {"id", "order-1"}})["status"], 503);
  EXPECT_EQ(call("POST", "/v1/tasks", {{"body", "b"}})["status"], 201);
  // So what is listed and reported is not all; but the coordinator is at work.
  api::TeamReport last = coordinator().report();
  EXPECT_TRUE(last.recovering);
  EXPECT_TRUE(last.ready);
  EXPECT_EQ(call("GET", "/v1/tasks")["recovering"], true);
  const auto located = [&](const char* name) {
    Code code = Code::kInternal;
    coordinator().locate({name}, [&](const Result<Location>& where) {
      if (!where) code = where.error().code;
    });
    return code;
  };
  EXPECT_EQ(located("worker-1"), Code::kUnavailable) << "it may be on its way";
  EXPECT_EQ(located("worker-5"), Code::kNotFound);
  coordinator().on_change = [&](bool) { last = coordinator().report(); };
  Pod late(io_, "worker-1", "127.0.0.3", port(), token_file_);
  late.start();
  EXPECT_TRUE(run_until([&] { return late.worker->joined(); }));
  EXPECT_FALSE(last.recovering) << "and that was news";
  EXPECT_FALSE(call("GET", "/v1/tasks").contains("recovering"));
  coordinator().on_change = nullptr;
}

TEST_F(Team, WhomACoordinatorAwaitedItsSuccessorAwaitsAndCalls) {
  worker_->start();
  activate({{"worker-1", "127.0.0.3"}});
  ASSERT_TRUE(run_until([&] { return recovered() && worker().joined(); }));
  const auto last = coordinator().report();
  replace_coordinator();
  coordinator().activate(2, last);
  ASSERT_TRUE(run_until([&] { return recovered() && worker().joined(); }));
  EXPECT_EQ(call("GET", "/v1/tasks/t-0-1")["status"], 503);
  Pod late(io_, "worker-1", "127.0.0.3", port(), token_file_);
  late.start();
  EXPECT_TRUE(run_until([&] { return late.worker->joined(); }));
  EXPECT_EQ(call("GET", "/v1/tasks/t-0-1")["status"], 404);
}

TEST_F(Team, ANewPodOfTheNameDoesNotEndTheWaitForTheOldOne) {
  Pod fresh(io_, "worker-1", "127.0.0.4", port(), token_file_);
  fresh.start();
  worker_->start();
  activate({{"worker-1", "127.0.0.3"}});
  const auto hint = invite(fresh);
  ASSERT_TRUE(
      run_until([&] { return recovered() && worker().joined() && fresh.worker->joined(); }));
  EXPECT_TRUE(coordinator().incomplete());
  const auto last = coordinator().report();
  EXPECT_EQ(last.workers.at("worker-1").pod, fresh.config.pod);
  const api::AwaitedPod old{"worker-1", "worker-1-at-127.0.0.3", "127.0.0.3"};
  EXPECT_EQ(last.awaited, std::vector{old});
  Pod late(io_, "worker-1", "127.0.0.3", port(), token_file_);
  late.remember(tasks::kReplica, replica(task("t-0-1")));
  late.start();
  EXPECT_TRUE(run_until([&] { return !coordinator().incomplete(); }));
  EXPECT_EQ(call("GET", "/v1/tasks/t-0-1")["status"], 200);
}

TEST_F(Team, WorkersThatKnowAHigherEpochRaiseTheirCoordinators) {
  worker_->start();
  coordinator().activate(7, reported({worker_.get()}, 6));
  ASSERT_TRUE(run_until([&] { return recovered() && worker().joined(); }));
  const TaskId id{call("POST", "/v1/tasks", {{"body", "b"}})["id"].get<std::string>()};
  replace_coordinator();
  // Somebody has deleted the Lease.
  coordinator().on_higher_epoch = [&](std::uint64_t at_least) {
    coordinator().activate(at_least, {});
  };
  coordinator().activate(1, {});
  const auto hint = invite(*worker_);
  EXPECT_TRUE(run_until([&] { return coordinator().epoch() == 8; }));
  EXPECT_FALSE(worker().joined());
  const auto again = invite(*worker_);
  ASSERT_TRUE(run_until([&] { return worker().joined(); }));
  EXPECT_EQ(call("GET", "/v1/tasks/" + id.value)["state"], "queued");
}

// What the coordinator has not said itself confirms no lease, though the work goes on.
TEST_F(Team, OnlyTheCoordinatorConfirmsALease) {
  ASSERT_TRUE(begin());
  const TaskId id{call("POST", "/v1/tasks", {{"body", "b"}})["id"].get<std::string>()};
  ASSERT_EQ(lease().id, id);
  std::vector<std::string> answers;
  const auto extend = [&](bool confirm) {
    const auto at = answers.size();
    answers.emplace_back();
    worker().extend(id, 1, nullptr, nullptr, confirm, [&answers, at](const Result<bool>& cancel) {
      answers[at] = cancel ? (*cancel ? "cancel" : "go on") : code_name(cancel.error().code);
    });
  };
  extend(true);
  ASSERT_TRUE(run_until([&] { return !answers.back().empty(); }));
  extend(true);
  extend(false);
  coordinator_->cut_off();  // before it has read them
  ASSERT_TRUE(run_until([&] { return !worker().joined(); }));
  extend(true);
  extend(false);
  EXPECT_EQ(answers,
            (std::vector<std::string>{"go on", "unavailable", "go on", "unavailable", "go on"}));
}

// The pod of a worker is replaced while its agent works on, in its grace; then the coordinator is.
class Grace : public Team, public testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Comes, Grace, testing::Values("first", "last", "last, unannounced"));

TEST_P(Grace, TheOldPodOfAWorkerFinishesWhateverHappensToTheCoordinator) {
  Pod mirror(io_, "worker-1", "127.0.0.3", port(), token_file_);
  mirror.start();
  worker_->start();
  coordinator().activate(1, reported({worker_.get(), &mirror}));
  ASSERT_TRUE(
      run_until([&] { return recovered() && worker().joined() && mirror.worker->joined(); }));
  const TaskId id{call("POST", "/v1/tasks", {{"body", "b"}})["id"].get<std::string>()};
  ASSERT_EQ(lease().id, id);
  worker().leaving();
  Pod heir(io_, "worker-0", "127.0.0.4", port(), token_file_);
  heir.start();
  const auto hint = invite(heir);
  ASSERT_TRUE(run_until([&] { return heir.worker->joined(); }));
  wait(Milliseconds{200});  // the mirror has the lease
  auto last = coordinator().report();
  EXPECT_EQ(last.workers.at("worker-0").pod, heir.config.pod);
  ASSERT_EQ(last.awaited.size(), 1U);
  EXPECT_EQ(last.awaited[0].pod, worker_->config.pod);

  replace_coordinator();
  ASSERT_TRUE(run_until([&] { return !heir.worker->joined() && !mirror.worker->joined(); }));
  if (GetParam() != std::string("first")) worker_->acceptor.close();
  if (GetParam() == std::string("last, unannounced")) last.awaited.clear();
  coordinator().activate(2, last);
  ASSERT_TRUE(run_until([&] { return heir.worker->joined() && mirror.worker->joined(); }));
  if (GetParam() == std::string("last, unannounced")) {
    ASSERT_TRUE(run_until([&] { return recovered(); }));
    wait(Milliseconds{300});
  }
  if (!worker_->acceptor.is_open()) {
    worker_->acceptor = tcp::acceptor(
        io_, tcp::endpoint(boost::asio::ip::make_address(worker_->config.pod_ip), port()), true);
    worker_->accept();
  }
  const auto again = invite(*worker_);
  ASSERT_TRUE(run_until([&] { return recovered() && worker().joined(); }));
  std::optional<Result<bool>> extended;
  worker().extend(id, 1, nullptr, nullptr, true,
                  [&](Result<bool> answer) { extended = std::move(answer); });
  ASSERT_TRUE(run_until([&] { return extended.has_value(); }));
  ASSERT_TRUE(extended->ok()) << extended->error().message;
  EXPECT_FALSE(**extended) << "nobody ends it";
  EXPECT_TRUE(report(id, 1).ok());
  const json done = call("GET", "/v1/tasks/" + id.value);
  EXPECT_EQ(done["state"], "done");
  EXPECT_EQ(done["history"].size(), 1U);
  // Now it is the new pod's turn.
  const std::string next = call("POST", "/v1/tasks", {{"body", "b"}})["id"];
  std::string given;
  heir.worker->next(Milliseconds{5000}, this, [&](Result<Worker::Leased> leased) {
    if (leased) given = leased->id.value;
    return true;
  });
  EXPECT_TRUE(run_until([&] { return !given.empty(); }));
  EXPECT_EQ(given, next);
}

TEST_F(Team, AnOldCopyDoesNotOutliveTheNewest) {
  auto newest = task("t-0-1");
  newest.version = 3;
  worker_->remember(tasks::kReplica, replica(task("t-0-1")));
  worker_->remember(tasks::kReplica, replica(newest));
  worker_->remember(tasks::kReplica, replica(task("t-0-1")));
  EXPECT_EQ(worker_->log->stats().live_records, 3U);
  worker_->start();
  EXPECT_EQ(worker_->log->stats().live_records, 1U);
  activate();
  EXPECT_TRUE(run_until([&] { return recovered() && coordinator().counts().queued == 1; }));
}

TEST_F(Team, AResultOfATaskThatALateMirrorBringsIsTaken) {
  Pod mirror(io_, "worker-1", "127.0.0.4", port(), token_file_);
  mirror.start();
  coordinator().activate(1, reported({&mirror}));
  ASSERT_TRUE(run_until([&] { return recovered() && mirror.worker->joined(); }));
  const TaskId id{call("POST", "/v1/tasks", {{"body", "b"}})["id"].get<std::string>()};
  worker_->start();
  const auto first = invite(*worker_);
  ASSERT_TRUE(run_until([&] { return worker().joined(); }));
  ASSERT_EQ(lease().id, id);
  wait(Milliseconds{200});  // the mirror has the lease
  replace_coordinator();
  coordinator().activate(2, reported({worker_.get()}, 1));
  ASSERT_TRUE(run_until([&] { return recovered() && worker().joined(); }));
  EXPECT_EQ(report(id, 1).error().code, Code::kNotFound) << "nobody has told of the mirror";
  EXPECT_EQ(report(id, 1).error().code, Code::kNotFound) << "its agent tries for minutes";
  const auto second = invite(mirror);
  ASSERT_TRUE(run_until([&] { return mirror.worker->joined(); }));
  EXPECT_TRUE(report(id, 1).ok());
  const json task = call("GET", "/v1/tasks/" + id.value);
  EXPECT_EQ(task["state"], "done");
  EXPECT_EQ(task["history"].size(), 1U);
  EXPECT_EQ(worker().leased(), 0U);
}

TEST_F(Team, AResultThatWasConfirmedIsOkAfterARestartOfTheSidecar) {
  ASSERT_TRUE(begin());
  const TaskId id{call("POST", "/v1/tasks", {{"body", "b"}})["id"].get<std::string>()};
  ASSERT_EQ(lease().id, id);
  EXPECT_TRUE(report(id, 1).ok());
  worker_->worker =
      std::make_unique<Worker>(worker_->loop, worker_->config, worker_->session, *worker_->mail);
  worker_->start();
  const auto hint = invite(*worker_);
  ASSERT_TRUE(run_until([&] { return worker().joined(); }));
  wait(Milliseconds{100});  // the copy is here again
  const auto records = worker_->log->stats().live_records;
  EXPECT_TRUE(report(id, 1).ok()) << "the agent has not read the first answer";
  EXPECT_EQ(report(id, 2).error().code, Code::kDenied);
  EXPECT_EQ(worker().reports_pending(), 0U);
  EXPECT_EQ(worker_->log->stats().live_records, records) << "questions are not kept";
}

TEST_F(Team, AnAttemptGoesOnThoughBothEnginesWereRestarted) {
  ASSERT_TRUE(begin());
  const TaskId id{call("POST", "/v1/tasks", {{"body", "b"}})["id"].get<std::string>()};
  ASSERT_EQ(lease().id, id);
  const auto last = coordinator().report();
  restart(worker_);
  restart(coordinator_);
  worker_->start();
  coordinator().activate(2, last);
  ASSERT_TRUE(run_until([&] { return recovered() && worker().joined(); }));
  const auto begun = mono_now();
  EXPECT_TRUE(report(id, 1).ok());
  EXPECT_LT(mono_now() - begun, Milliseconds{2000}) << "it waits for nobody but itself";
  const json done = call("GET", "/v1/tasks/" + id.value);
  EXPECT_EQ(done["state"], "done");
  EXPECT_EQ(done["history"].size(), 1U);
}

// It goes over the youngest link with that log, also if the worker has made it to get tasks.
TEST_F(Team, AnAckMayComeOverTheLinkToTheCoordinator) {
  ASSERT_TRUE(begin());
  std::string payload;
  link::put_u64(payload, 7);
  for (const auto& session : coordinator_->inbound) session->send(link::FrameType::kAcked, payload);
  wait(Milliseconds{300});
  EXPECT_TRUE(worker().joined());
  EXPECT_TRUE(coordinator_->closed.empty()) << coordinator_->closed.front();
}

TEST_F(Team, TheMailOfAllPodsIsListed) {
  ASSERT_TRUE(begin());
  mailbox::Message note;
  note.id.value = "note";
  note.from = note.to = worker_->config.name;
  note.body = "abc";
  ASSERT_TRUE(worker_->mail->box().send(mono_now(), note));
  json all = call("GET", "/v1/messages");
  ASSERT_EQ(all["messages"].size(), 1U) << all;
  EXPECT_EQ(all["messages"][0]["messageId"], "note");
  EXPECT_EQ(all["messages"][0]["state"], "ready");
  EXPECT_FALSE(all.contains("missing")) << all;
  worker_->cut_off();
  worker_.reset();
  ASSERT_TRUE(run_until([&] { return call("GET", "/v1/agents")["agents"].size() == 1; }));
  all = call("GET", "/v1/messages");
  EXPECT_EQ(all["messages"], json::array());
  EXPECT_EQ(all["missing"], json{"worker-0"});
}

TEST_F(Team, APodThatWasReplacedDoesNotComeBackAsTheNewer) {
  ASSERT_TRUE(begin());
  Pod heir(io_, "worker-0", "127.0.0.4", port(), token_file_);
  heir.start();
  const auto first = invite(heir);
  ASSERT_TRUE(run_until([&] { return heir.worker->joined(); }));
  replace_coordinator();
  restart(worker_);
  coordinator().activate(2, reported({&heir}, 1));
  ASSERT_TRUE(run_until([&] { return recovered() && heir.worker->joined(); }));
  worker_->start();
  const auto second = invite(*worker_);
  ASSERT_TRUE(run_until([&] { return worker().joined(); }));
  ASSERT_EQ(call("POST", "/v1/tasks", {{"body", "b"}})["status"], 201);
  bool given = false;
  heir.worker->next(Milliseconds{3000}, this, [&](const Result<Worker::Leased>& leased) {
    given = leased.ok();
    return true;
  });
  EXPECT_TRUE(run_until([&] { return given; }, Milliseconds{4000}));
}

TEST_F(Team, AgentsThatAskedAndWentGetNoTask) {
  ASSERT_TRUE(begin());
  Post post(worker_->loop, *worker_->mail, worker_->config);
  AgentSocket socket(worker_->loop, worker_->config, *worker_->mail, post, &worker());
  const std::string path = worker_->path + "/agent.sock";
  ASSERT_TRUE(socket.start(path));
  const std::string ask = R"({"op":"task_next","rid":1,"waitMs":600000})";
  // More than a worker may have waiting: they must not stand in the way of the next ones either.
  for (std::size_t i = 0; i < tasks::kMaxCallsPerWorker + 10; ++i) {
    boost::asio::local::stream_protocol::socket agent(io_);
    agent.connect(path);
    boost::asio::write(agent, boost::asio::buffer(ask + "\n"));
    wait(Milliseconds{5});
  }
  wait(Milliseconds{200});
  const TaskId id{call("POST", "/v1/tasks", {{"body", "b"}})["id"].get<std::string>()};
  const auto given = lease();
  EXPECT_EQ(given.id, id);
  EXPECT_EQ(given.attempt, 1U);
  EXPECT_EQ(call("GET", "/v1/tasks/" + id.value)["history"].size(), 1U);
  socket.stop();
  wait(Milliseconds{20});
}

// The agent went while the lease was on its way.
TEST_F(Team, ALeaseThatReachesNobodyIsGivenBackForNothing) {
  ASSERT_TRUE(begin());
  for (std::uint32_t i = 0; i < 2 * tasks::kMaxLosses; ++i)
    worker().next(Milliseconds{600000}, this, [](const Result<Worker::Leased>&) { return false; });
  wait(Milliseconds{200});
  const TaskId id{call("POST", "/v1/tasks", {{"body", "b"}})["id"].get<std::string>()};
  const auto given = lease();
  EXPECT_EQ(given.id, id);
  EXPECT_EQ(given.attempt, 2 * tasks::kMaxLosses + 1);
  json task = call("GET", "/v1/tasks/" + id.value);
  EXPECT_EQ(task["history"].size(), 1U);
  EXPECT_EQ(task["historyDropped"], 2 * tasks::kMaxLosses);
}

TEST_F(Team, AHintThatLeadsNowhereEndsTheSearch) {
  coordinator().activate(1, {});
  Pod other(io_, "coordinator-0", "127.0.0.7", port(), token_file_);
  other.coordinator->activate(1, {});
  std::size_t found = 0;
  CoordinatorLink link(worker_->loop, worker_->config, worker_->session, 0,
                       {[&](Session&) { ++found; }, [](Session&, const link::Frame&) {}, [] {}});
  link.look_at("127.0.0.1");
  ASSERT_TRUE(run_until([&] { return found == 1; }));
  EXPECT_FALSE(link.searching());
  link.look_at("127.0.0.1");
  link.look_at("127.0.0.7");
  ASSERT_TRUE(run_until([&] { return !other.closed.empty(); }));
  wait(Milliseconds{300});
  EXPECT_FALSE(link.searching()) << "else it connects for ever";
  EXPECT_EQ(coordinator_->inbound.size(), 1U) << "it is connected there";
  link.look_for_successor();
  wait(Milliseconds{300});
  EXPECT_TRUE(link.searching());
  other.coordinator->activate(2, {});
  link.look_at("127.0.0.7");
  EXPECT_TRUE(run_until([&] { return found == 2; }));
  EXPECT_FALSE(link.searching());
}

// A worker that is calls and frames.
std::shared_ptr<Session> connect_as(const Pod& pod, const Session::Options& options, const Pod& to,
                                    std::vector<link::Frame>& heard) {
  Session::Events events;
  events.ready = [](Session&) {};
  events.frame = [&heard](Session&, const link::Frame& frame) { heard.push_back(frame); };
  events.closed = [](Session&, const Error&) {};
  return Session::connect(const_cast<Pod&>(pod).loop,
                          {boost::asio::ip::make_address(to.config.pod_ip), to.config.link_port},
                          options, {to.config.name, {}}, std::move(events));
}

TEST_F(Team, WhoeverIsJoiningIsNotAnnouncedTo) {
  auto options = worker_->session;
  options.self.name.value = "worker-1";
  options.self.pod = "worker-1-at-127.0.0.8";
  api::TeamReport last;
  last.workers["worker-1"] = {options.self.pod, false, "", "127.0.0.8"};
  coordinator().activate(1, last);
  std::vector<link::Frame> heard;
  const auto session = connect_as(*worker_, options, *coordinator_, heard);
  ASSERT_TRUE(run_until([&] { return session->up(); }));
  session->send(link::FrameType::kHeld, control(json{{"held", {{"t-0-1", 1}}}}));
  session->send(link::FrameType::kJoin, control(json::object()));
  ASSERT_TRUE(run_until([&] { return !heard.empty(); }));
  EXPECT_EQ(heard[0].type, link::FrameType::kPull) << "and it takes its time";
  tcp::acceptor at(io_, {boost::asio::ip::make_address("127.0.0.8"), port()}, true);
  bool announced = false;
  at.async_accept([&](error_code e, const tcp::socket&) { announced = !e; });
  wait(kAnnounceUnreachable + Milliseconds{500});
  EXPECT_FALSE(announced);
  at.close();
  wait(Milliseconds{20});
}

TEST_F(Team, AShortLinkDoesNotHideTheMainOne) {
  auto options = coordinator_->session;
  options.self.name.value = "worker-9";
  std::vector<link::Frame> main_heard, short_heard;
  const auto main = connect_as(*coordinator_, options, *worker_, main_heard);
  ASSERT_TRUE(run_until([&] { return main->up(); }));
  mailbox::Message message;
  message.id.value = "m-1";
  message.from = options.self.name;
  message.to = worker_->config.name;
  std::string payload;
  link::put_u64(payload, 7);
  link::put_u64(payload, 0);
  main->send(link::FrameType::kMessage, payload + mailbox::encode(message));
  ASSERT_TRUE(run_until([&] { return !main_heard.empty(); }));
  const auto passing = connect_as(*coordinator_, options, *worker_, short_heard);
  ASSERT_TRUE(run_until([&] { return passing->up() && worker_->inbound.size() == 2; }));
  passing->close(unavailable("not the active coordinator"));
  ASSERT_TRUE(run_until([&] { return worker_->closed.size() == 1; }));
  ASSERT_TRUE(
      worker_->box->receive(mono_now(), worker_->config.name, Milliseconds{60000}, std::nullopt));
  worker_->mail->ack(worker_->config.name, {"m-1"}, 1, Milliseconds{60000}, [](const Status&) {});
  EXPECT_TRUE(run_until([&] { return main_heard.size() == 2; }, Milliseconds{3000}));
  EXPECT_EQ(main_heard.back().type, link::FrameType::kAcked);
  main->close(Error{Code::kCancelled, "enough"});
  wait(Milliseconds{50});
}

TEST_F(Team, WhoeverStartsLateIsAnnouncedToAgain) {
  Pod late(io_, "worker-1", "127.0.0.4", port(), token_file_);
  late.acceptor.close();  // not listening yet
  worker_->start();
  late.start();
  activate({{"worker-1", "127.0.0.4"}});
  run_until([] { return false; }, Milliseconds{300});
  EXPECT_TRUE(coordinator().recovering());
  late.acceptor =
      tcp::acceptor(io_, tcp::endpoint(boost::asio::ip::make_address("127.0.0.4"), port()), true);
  late.accept();
  EXPECT_TRUE(run_until([&] { return late.worker->joined(); }, Milliseconds{2000}));
  EXPECT_TRUE(run_until([&] { return recovered(); }));
}

TEST_F(Team, WhatIsNoTaskIsNeitherReportedNorTold) {
  for (const char c : {'a', 'b'}) {  // two of these do not fit into one frame
    tasks::Report report;
    report.id.value = "t-0-" + std::string(300000, c);
    report.attempt = 1;
    report.done = true;
    worker_->remember(tasks::kResult, encode_report(0, report));
    std::string leased;
    link::put_u32(leased, 1);
    link::put_text(leased, report.id.value);
    worker_->remember(tasks::kLeased, leased);
  }
  ASSERT_TRUE(begin());
  EXPECT_EQ(report(TaskId{"t-0-" + std::string(300000, 'c')}, 1).error().code, Code::kInvalid);
  EXPECT_EQ(report(TaskId{"t-0-1"}, 1).error().code, Code::kNotFound);
  EXPECT_EQ(worker().reports_pending(), 0U);
}

TEST_F(Team, AWorkerThatNamesMoreThanAFrameHoldsJoins) {
  for (int i = 0; i < 8000; ++i) {
    std::string leased;
    link::put_u32(leased, 1);
    link::put_text(leased, "t-0-" + std::to_string(i) + std::string(50, 'x'));
    worker_->remember(tasks::kLeased, leased);
  }
  worker_->start();
  activate();
  EXPECT_TRUE(run_until([&] { return recovered() && worker().joined(); }));
}

TEST_F(Team, ManyLeasesThatNobodyReportsDoNotPileUp) {
  for (std::size_t i = 0; i < kMaxLeased; ++i) {
    std::string leased;
    link::put_u32(leased, 1);
    link::put_text(leased, "t-0-" + std::to_string(i));
    worker_->remember(tasks::kLeased, leased);
  }
  ASSERT_TRUE(begin());
  const std::string id = call("POST", "/v1/tasks", {{"body", "b"}})["id"];
  EXPECT_EQ(lease().id.value, id);
  EXPECT_EQ(worker().leased(), kMaxLeased);
  EXPECT_TRUE(report(TaskId{id}, 1).ok());
}

TEST_F(Team, AgentsSayWhatTheyDoSinceWhenAndWhatTheyHaveDone) {
  ASSERT_TRUE(begin());
  run_until([] { return false; }, Milliseconds{2100});
  EXPECT_GE(agent()["sinceSeconds"], 2);
  const TaskId id{call("POST", "/v1/tasks", {{"body", "b"}})["id"].get<std::string>()};
  ASSERT_EQ(lease().id, id);
  auto a = agent();
  EXPECT_EQ(a["state"], "busy");
  EXPECT_EQ(a["sinceSeconds"], 0) << "the attempt's, not the worker's";
  EXPECT_EQ(a["tasksDone"], 0);
  EXPECT_EQ(report(id, 7).error().code, Code::kDenied);
  EXPECT_TRUE(report(id, 1).ok());
  EXPECT_TRUE(report(id, 1).ok());
  a = agent();
  EXPECT_EQ(a["state"], "idle");
  EXPECT_EQ(a["tasksDone"], 1);

  // The same incarnation on a new link; a report that the coordinator has heard already.
  coordinator_->inbound.back()->close(unavailable("lost"));
  ASSERT_TRUE(run_until([&] { return !worker().joined(); }));
  const auto hint = invite(*worker_);
  ASSERT_TRUE(run_until([&] { return worker().joined(); }));
  EXPECT_EQ(agent()["tasksDone"], 1);
  tasks::Report again;
  again.id = id;
  again.attempt = 1;
  again.done = true;
  link::Frame frame{link::FrameType::kTaskReport, encode_report(0, again)};
  for (const auto& session : coordinator_->inbound) {
    if (session->up()) coordinator().take(*session, frame);
  }
  EXPECT_EQ(agent()["tasksDone"], 1);
}

TEST_F(Team, AnAgentThatIsStuckIsNamedUntilItGoesOn) {
  ASSERT_TRUE(begin());
  TeamSettings settings;
  settings.stuck_after = Milliseconds{8000};
  coordinator().configure(settings);
  int soon = 0;
  coordinator().on_change = [&](bool awaited) { soon += awaited ? 1 : 0; };
  const TaskId id{call("POST", "/v1/tasks", {{"body", "b"}})["id"].get<std::string>()};
  ASSERT_EQ(lease().id, id);
  const auto limit = [&] { return worker().stuck_limit().value_or(Worker::StuckLimit{1, true}); };
  EXPECT_EQ(limit().after_ms, 8000U);
  EXPECT_FALSE(limit().end);
  const auto extend = [&](const Worker::Quiet* quiet) {
    bool answered = false;
    worker().extend(id, 1, nullptr, quiet, true,
                    [&](const Result<bool>& cancel) { answered = cancel.ok(); });
    EXPECT_TRUE(run_until([&] { return answered; }));
  };
  extend(nullptr);
  soon = 0;
  settings.end_stuck = true;
  coordinator().configure(settings);
  const Worker::Quiet quiet{9000, "1 TCP connection open"};
  extend(&quiet);
  EXPECT_TRUE(limit().end) << "a change reaches who is at work";
  EXPECT_EQ(soon, 1) << "somebody looks";
  auto a = agent();
  EXPECT_EQ(a["state"], "stuck");
  EXPECT_EQ(a["task"], id.value);
  EXPECT_GE(a["stuckSeconds"], 9);
  EXPECT_EQ(a["stuckWhy"], "1 TCP connection open");
  auto told = coordinator().report();
  EXPECT_EQ(told.stuck, 1);
  ASSERT_EQ(told.stuck_named.size(), 1U);
  EXPECT_EQ(told.stuck_named[0].agent, "worker-0");
  EXPECT_EQ(told.stuck_named[0].task, id.value);
  EXPECT_EQ(told.stuck_named[0].why, "1 TCP connection open");
  EXPECT_TRUE(told.workers.at("worker-0").busy);
  extend(&quiet);
  EXPECT_EQ(soon, 1) << "no news";
  extend(nullptr);
  EXPECT_EQ(soon, 2);
  EXPECT_EQ(agent()["state"], "busy");
  EXPECT_EQ(coordinator().report().stuck, 0);
  extend(&quiet);
  EXPECT_TRUE(report(id, 1).ok());
  EXPECT_EQ(agent()["state"], "idle");
  EXPECT_EQ(coordinator().report().stuck, 0);
}

// An agent of the worker's pod, that submits tasks and waits for some.
struct Subtasks : Team {
  void start() {
    ASSERT_TRUE(begin());
    open_socket();
  }
  void open_socket() {
    post_ = std::make_unique<Post>(worker_->loop, *worker_->mail, worker_->config);
    socket_ = std::make_unique<AgentSocket>(worker_->loop, worker_->config, *worker_->mail, *post_,
                                            &worker());
    ASSERT_TRUE(socket_->start(worker_->path + "/agent.sock"));
    connect();
  }
  void connect() {
    agent_ = std::make_unique<boost::asio::local::stream_protocol::socket>(io_);
    agent_->connect(worker_->path + "/agent.sock");
    agent_->non_blocking(true);
    text_.clear();
  }
  ~Subtasks() override {
    if (socket_) socket_->stop();
    agent_.reset();
    wait(Milliseconds{20});
  }
  void say(json request) {
    request["rid"] = ++rid_;
    boost::asio::write(*agent_, boost::asio::buffer(request.dump() + "\n"));
  }
  // The next line that comes, within `limit`; null: none.
  json hear(Milliseconds limit = Milliseconds{20000}) {
    const auto whole = [&] {
      char buffer[65536];
      error_code none_yet;
      text_.append(buffer, agent_->read_some(boost::asio::buffer(buffer), none_yet));
      return text_.find('\n') != std::string::npos;
    };
    if (!run_until(whole, limit)) return {};
    const auto end = text_.find('\n');
    json out = json::parse(text_.substr(0, end));
    text_.erase(0, end + 1);
    return out;
  }
  json ask(json request) {
    say(std::move(request));
    return hear();
  }
  // A task at work in this pod.
  Worker::Leased work() {
    EXPECT_EQ(call("POST", "/v1/tasks", {{"body", "b"}})["status"], 201);
    return lease();
  }
  static json of(const Worker::Leased& task, json request) {
    request["taskId"] = task.id.value;
    request["attempt"] = task.attempt;
    return request;
  }
  json task(const std::string& id) { return call("GET", "/v1/tasks/" + id); }
  Status done(const Worker::Leased& leased, const std::string& result) {
    tasks::Report report;
    report.id = leased.id;
    report.attempt = leased.attempt;
    report.done = true;
    report.result.bytes = result;
    std::optional<Status> answer;
    worker().report(report, [&](Status status) { answer = status; });
    EXPECT_TRUE(run_until([&] { return answer.has_value(); }));
    return answer.value_or(Status(internal_error("no answer")));
  }

  std::unique_ptr<Post> post_;
  std::unique_ptr<AgentSocket> socket_;
  std::unique_ptr<boost::asio::local::stream_protocol::socket> agent_;
  std::string text_;
  int rid_ = 0;
};

TEST_F(Subtasks, AreSubmittedAndWaitedForByTheirParent) {
  start();
  const auto parent = work();
  const json submitted = ask(of(
      parent, {{"op", "task_submit"}, {"body", "part"}, {"id", "p-1"}, {"labels", {{"a", "b"}}}}));
  ASSERT_EQ(submitted["ok"], true) << submitted;
  EXPECT_EQ(submitted["survives"], "node");
  EXPECT_EQ(submitted["duplicate"], false);
  const std::string id = submitted["taskId"];
  EXPECT_EQ(ask(of(parent, {{"op", "task_submit"}, {"body", "part"}, {"id", "p-1"}}))["taskId"], id)
      << "the same id is the same task";
  EXPECT_EQ(task(id)["parent"], parent.id.value);
  EXPECT_EQ(task(id)["labels"]["a"], "b");
  EXPECT_EQ(task(parent.id.value)["subtasks"], json({{{"id", id}, {"state", "queued"}}}));

  say(of(parent, {{"op", "task_wait"}, {"tasks", {id}}, {"waitMs", 600000}}));
  EXPECT_TRUE(hear(Milliseconds{300}).is_null());
  EXPECT_EQ(task(parent.id.value)["waitsFor"], json({id}));
  EXPECT_EQ(task(parent.id.value)["state"], "running") << "the states are a closed set";
  EXPECT_EQ(ask(of(parent, {{"op", "task_extend"}}))["waiting"], true);
  EXPECT_EQ(call("GET", "/v1/stats")["tasks"]["starved"], 1);
  const auto child = lease();
  EXPECT_EQ(child.id.value, id);
  ASSERT_TRUE(done(child, "sum 7"));
  const json ended = hear();
  EXPECT_EQ(ended["ok"], true) << ended;
  EXPECT_EQ(ended["result"], "sum 7");
  EXPECT_EQ(ended["tasks"][0]["state"], "done");
  EXPECT_FALSE(task(parent.id.value).contains("waitsFor"));
  EXPECT_FALSE(ask(of(parent, {{"op", "task_extend"}})).contains("waiting"));
}

TEST_F(Subtasks, OfAnAttemptThatIsNotLeasedHereAreRefused) {
  start();
  const auto parent = work();
  const json other{
      {"op", "task_submit"}, {"body", "x"}, {"taskId", parent.id.value}, {"attempt", 2}};
  const json answer = ask(other);
  EXPECT_EQ(answer["code"], "refused");
  EXPECT_NE(answer["message"].get<std::string>().find("is not leased to worker-0"),
            std::string::npos)
      << answer;
  EXPECT_EQ(ask({{"op", "task_submit"}, {"body", "x"}, {"attempt", 2}})["code"], "invalid");
  EXPECT_EQ(ask({{"op", "task_submit"}, {"body", "x"}, {"body64", "eA=="}})["code"], "invalid");
  EXPECT_EQ(ask({{"op", "task_submit"}, {"body", "x"}, {"labels", {{"a", 1}}}})["code"], "invalid");
  EXPECT_EQ(ask({{"op", "task_wait"}, {"tasks", json::array()}})["code"], "invalid");
  EXPECT_EQ(ask({{"op", "task_wait"}, {"tasks", {"t-0-zz"}}})["code"], "not_found");
  EXPECT_EQ(ask({{"op", "task_submit"}, {"body64", "eA=="}})["ok"], true) << "without a parent";
}

TEST_F(Subtasks, ACycleOfWaitsIsRefusedAndSeen) {
  start();
  const auto a = work();
  const auto b = work();
  say(of(a, {{"op", "task_wait"}, {"tasks", {b.id.value}}, {"waitMs", 600000}}));
  ASSERT_TRUE(hear(Milliseconds{200}).is_null());
  const json refused = ask(of(b, {{"op", "task_wait"}, {"tasks", {a.id.value}}}));
  EXPECT_EQ(refused["code"], "refused");
  const std::string way = b.id.value + " -> " + a.id.value + " -> " + b.id.value;
  EXPECT_NE(refused["message"].get<std::string>().find(way), std::string::npos) << refused;
  EXPECT_EQ(task(b.id.value)["cycle"], way);
  EXPECT_EQ(coordinator().counts().cycles, 1U);
  // Who waited has gone: there is no cycle any more.
  connect();
  ASSERT_TRUE(run_until([&] { return !task(a.id.value).contains("waitsFor"); }));
  say(of(b, {{"op", "task_wait"}, {"tasks", {a.id.value}}, {"waitMs", 300}}));
  const json late = hear();
  EXPECT_EQ(late["code"], "unknown") << late;
  EXPECT_TRUE(run_until([&] { return !task(b.id.value).contains("waitsFor"); }))
      << "a wait that is over in time is no wait";
}

TEST_F(Subtasks, GoOnWithTheNextCoordinator) {
  start();
  const auto parent = work();
  const std::string id = ask(of(parent, {{"op", "task_submit"}, {"body", "part"}}))["taskId"];
  const auto child = lease();
  say(of(parent, {{"op", "task_wait"}, {"tasks", {id}}, {"waitMs", 600000}}));
  ASSERT_TRUE(run_until([&] { return task(parent.id.value).contains("waitsFor"); }));
  replace_coordinator();
  say(of(parent, {{"op", "task_submit"}, {"body", "more"}, {"id", "p-2"}}));  // nobody is there now
  EXPECT_TRUE(hear(Milliseconds{200}).is_null());
  coordinator().activate(2, reported({worker_.get()}, 1));
  const json more = hear();
  EXPECT_EQ(more["ok"], true) << more;
  EXPECT_EQ(task(more["taskId"])["parent"], parent.id.value);
  ASSERT_TRUE(run_until([&] { return task(parent.id.value).contains("waitsFor"); }))
      << "the wait was said again";
  ASSERT_TRUE(done(child, "7"));
  EXPECT_EQ(hear()["result"], "7");
}

TEST_F(Subtasks, AreRefusedInClearWordsByAnOlderCoordinator) {
  worker_->start();
  activate();
  coordinator_->answers_as_older = true;
  ASSERT_TRUE(run_until([&] { return worker().joined(); }));
  open_socket();
  for (const json& request : {json{{"op", "task_submit"}, {"body", "x"}},
                              json{{"op", "task_wait"}, {"tasks", {"t-0-1"}}, {"waitMs", 60000}}}) {
    const json answer = ask(request);
    EXPECT_EQ(answer["code"], "refused");
    EXPECT_NE(answer["message"].get<std::string>().find("update it first"), std::string::npos)
        << answer;
  }
  EXPECT_TRUE(worker().joined()) << "no frame was sent that it does not know";
}

TEST_F(Team, APeerListStopsWhereAFrameDoes) {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  constexpr std::size_t kCrowd = 1700;  // with the longest names of nodes: beyond a frame
  if (files.rlim_cur < 2 * kCrowd + 200) GTEST_SKIP() << "too few descriptors";
  ASSERT_TRUE(begin());
  const std::string node(253, 'n');
  std::size_t joined = 0;
  std::vector<std::shared_ptr<Session>> links;
  for (int i = 1; i <= static_cast<int>(kCrowd); ++i) {
    auto options = worker_->session;
    options.self.name.value = "worker-" + std::to_string(i);
    options.self.node = node;
    for (std::size_t b = 0; b < 4; ++b)
      options.self.log_id.bytes[b] = static_cast<std::uint8_t>(i >> (8 * b));
    Session::Events events;
    events.ready = [](Session& session) {
      session.send(link::FrameType::kJoin, control(json::object()));
    };
    events.frame = [&](Session&, const link::Frame& frame) {
      joined += frame.type == link::FrameType::kJoined ? 1 : 0;
    };
    events.closed = [](Session&, const Error&) {};
    links.push_back(Session::connect(worker_->loop,
                                     {boost::asio::ip::make_address("127.0.0.1"), port()}, options,
                                     {coordinator_->config.name, {}}, std::move(events)));
    if (i % 100 == 0) {
      ASSERT_TRUE(run_until([&] { return joined == static_cast<std::size_t>(i); }));
    }
  }
  std::size_t listed = 0;
  worker().peers(0,
                 [&](const Result<std::vector<Worker::Peer>>& peers) { listed = peers->size(); });
  EXPECT_TRUE(run_until([&] { return listed != 0; }));
  EXPECT_EQ(listed, kCrowd + 2) << "the coordinator, its worker and the crowd, in several frames";
  for (const auto& link : links) link->close(Error{Code::kCancelled, "enough"});
}

TEST_F(Team, WhatAPeerSaysIsBoundedBeforeItIsAnswered) {
  ASSERT_TRUE(begin());
  Session& session = *coordinator_->inbound.back();
  const std::string name(link::kMaxPayloadBytes - 100, 'n');
  coordinator().take(session, {link::FrameType::kResolve, control(json{{"name", name}})});
  EXPECT_TRUE(run_until([&] { return !coordinator_->closed.empty(); }));
}

TEST(SessionTest, AConnectionThatIsNotAnsweredEndsLongBeforeAHandshake) {
  boost::asio::io_context io;
  Loop loop(io);
  // Full: it answers nobody, like an address whose pod is gone.
  tcp::acceptor full(io);
  full.open(tcp::v4());
  full.bind({boost::asio::ip::make_address("127.0.0.5"), 0});
  full.listen(0);
  std::vector<tcp::socket> crowd;
  for (int i = 0; i < 4; ++i) {
    crowd.emplace_back(io);
    crowd.back().async_connect(full.local_endpoint(), [](error_code) {});
  }
  Session::Options options;
  options.self.name.value = "worker-0";
  options.secret = std::string(32, 's');
  std::string closed;
  Session::Events events;
  events.ready = [](Session&) {};
  events.frame = [](Session&, const link::Frame&) {};
  events.closed = [&](Session&, const Error& why) { closed = why.message; };
  const auto begun = mono_now();
  const auto session =
      Session::connect(loop, full.local_endpoint(), options, {}, std::move(events));
  while (closed.empty() && mono_now() - begun < Milliseconds{8000})
    io.run_one_for(Milliseconds{20});
  EXPECT_EQ(closed, "link: no connection in time");
  EXPECT_LT(mono_now() - begun, options.handshake_timeout - Milliseconds{1000});
}

TEST(SessionTest, AQuietLinkLastsLongerThanItsFirstPeriods) {
  boost::asio::io_context io;
  Loop loop(io);
  tcp::acceptor acceptor(io, {boost::asio::ip::make_address("127.0.0.1"), 0});
  Session::Options options;
  options.secret = std::string(32, 's');
  options.standing = [] { return link::Standing{}; };
  options.ping_period = Milliseconds{50};
  options.failure_threshold = 2;
  options.handshake_timeout = Milliseconds{300};
  const auto named = [&](const char* name) {
    Session::Options of = options;
    of.self.name.value = name;
    of.self.log_id.bytes.fill(static_cast<std::uint8_t>(name[7]));
    return of;
  };
  int ready = 0, closed = 0;
  const auto events = [&] {
    Session::Events all;
    all.ready = [&](Session&) { ++ready; };
    all.frame = [](Session&, const link::Frame&) {};
    all.closed = [&](Session&, const Error& why) {
      ++closed;
      ADD_FAILURE() << why.message;
    };
    return all;
  };
  std::shared_ptr<Session> server;
  acceptor.async_accept([&](boost::system::error_code e, tcp::socket socket) {
    ASSERT_FALSE(e);
    server = Session::accept(loop, std::move(socket), named("worker-1"), events());
  });
  const auto client = Session::connect(loop, acceptor.local_endpoint(), named("worker-2"),
                                       {{"worker-1"}, {}}, events());
  io.run_for(Milliseconds{900});
  EXPECT_EQ(ready, 2);
  EXPECT_EQ(closed, 0);
}

TEST(SessionTest, ThoseWhoDoNotSayWhoTheyAreAreFewAndSmall) {
  boost::asio::io_context io;
  Loop loop(io);
  tcp::acceptor acceptor(io, {boost::asio::ip::make_address("127.0.0.5"), 0});
  Session::Options options;
  options.self.name.value = "worker-0";
  options.secret = std::string(32, 's');
  constexpr std::size_t kBeyond = 20;
  std::vector<tcp::socket> silent;
  std::vector<std::shared_ptr<Session>> accepted;
  std::vector<const Session*> ended;
  Unfinished unfinished;
  const auto before = ::mallinfo2().uordblks;
  for (std::size_t i = 0; i < kMaxUnfinishedHandshakes + kBeyond; ++i) {
    silent.emplace_back(io).connect(acceptor.local_endpoint());
    Session::Events events;
    events.ready = [](Session&) {};
    events.frame = [](Session&, const link::Frame&) {};
    events.closed = [&](Session& session, const Error&) { ended.push_back(&session); };
    accepted.push_back(Session::accept(loop, acceptor.accept(), options, std::move(events)));
    EXPECT_EQ(unfinished.add(accepted.back()), i >= kMaxUnfinishedHandshakes);
  }
  EXPECT_LT(::mallinfo2().uordblks - before, accepted.size() * 8192);
  io.poll();
  ASSERT_EQ(ended.size(), kBeyond);
  for (std::size_t i = 0; i < kBeyond; ++i) EXPECT_EQ(ended[i], accepted[i].get()) << "the oldest";
  for (const auto& session : accepted) session->close(Error{Code::kCancelled, "enough"});
  io.restart();
  io.poll();
}

}  // namespace
}  // namespace swarm::engine
