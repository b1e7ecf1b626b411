#include "engine/sidecar.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "base/crash_point.h"
#include "base/encoding.h"
#include "engine/agent_socket.h"
#include "engine/cluster.h"
#include "engine/coordinator.h"
#include "engine/drop.h"
#include "engine/handover.h"
#include "engine/mail.h"
#include "engine/post.h"
#include "engine/worker.h"
#include "lifecycle/lifecycle.h"
#include "lifecycle/pressure.h"
#include "log/overflow.h"
#include "net/http_server.h"
#include "os/file.h"
#include "os/usage.h"
#include "telemetry/log.h"
#include "telemetry/metrics.h"

namespace swarm::engine {

using boost::asio::ip::tcp;
using boost::system::error_code;

namespace {

// What the log keeps for itself: the superblock's segment, and two to copy forward into. Of the
// rest what comes in may take half (one of several inboxes a quarter), what goes out three eighths:
// a pod that is full on both sides still has room for replies, ids and tasks, and two that are full
// of each other's mail go on.
constexpr std::uint64_t kUnusedLogBytes = 3U << 20U;
// Of what is left then, copies for other nodes get half: few, as pods that are changed to Node
// first entrust.
constexpr std::uint64_t kWardsWithPod = 16;
constexpr std::size_t kMaxSessions = 4096;  // inbound links
constexpr std::uint64_t kLogSlackBytes =
    256U << 10U;  // of the volume: directory entries, the superblock
constexpr Milliseconds kDrainPoll{20};
// To look at what the pod has left costs some 100 µs, on a large node more: idle pods should not.
constexpr Milliseconds kPressurePoll{1000}, kPressureRest{5000};
constexpr double kCalmLevel = 0.5;  // of each resource in use: rest
// For a former pod of our name: its agents' grace and its drain. The kubelet's startup probe is the
// shorter limit, as a rule.
constexpr Milliseconds kJournalWait{3'600'000};
constexpr Milliseconds kJournalPoll{100};

lifecycle::Settings life_settings(const Config& config) {
  lifecycle::Settings out;
  out.coordinator = config.coordinator;
  out.drain_timeout = config.drain_timeout;
  return out;
}

LogId new_log_id() {
  LogId id;
  const auto bytes = random_bytes(id.bytes.size());
  std::copy(bytes.begin(), bytes.end(), id.bytes.begin());
  return id;
}

// A node that was rebooted gives the pod its disk back, not its memory: what is left there belongs
// to a log that is gone.
Status forget_lost_log(os::Directory& memory, os::Directory& disk) {
  auto names = memory.list();
  if (!names) return names.error();
  if (!names->empty()) return {};
  auto left = disk.list();
  if (!left) return left.error();
  for (const std::string& name : *left) {
    if (auto status = disk.remove(name); !status) return status;
  }
  return {};
}

// A pod of the same name may still be draining on the same volume: only one may write.
Result<std::unique_ptr<os::DirectoryLock>> lock_journal(const std::string& path) {
  for (const MonoTime begun = mono_now();;) {
    auto lock = os::lock_directory(path);
    if (lock || lock.error().code != Code::kConflict) return lock;
    const auto waited = mono_now() - begun;
    if (waited > kJournalWait) return lock;
    if (waited < kJournalPoll)
      telemetry::info("waiting for the former pod to let go of the journal", {{"path", path}});
    std::this_thread::sleep_for(kJournalPoll);
  }
}

// agentctl into the volume that agents mount: written beside, then renamed, so that nobody ever
// runs half a file.
Status install_agentctl(const Config& config) {
  std::error_code e;
  const auto target = config.bin_path + "/agentctl";
  const auto beside = target + ".new";
  std::filesystem::copy_file(config.agentctl_file, beside,
                             std::filesystem::copy_options::overwrite_existing, e);
  if (!e) std::filesystem::permissions(beside, std::filesystem::perms(0755), e);
  if (!e) std::filesystem::rename(beside, target, e);
  if (e) return internal_error("placing agentctl at " + target + ": " + e.message());
  return {};
}

// A connection for each agent and a link for each pod may be more than a shell's 1024.
void allow_descriptors() {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur == files.rlim_max) return;
  files.rlim_cur = files.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &files) != 0)
    telemetry::warn("the limit of open files stays as it is", {{"reason", std::strerror(errno)}});
}

class Sidecar {
 public:
  explicit Sidecar(const Config& config)
      : config_(config),
        life_(life_settings(config)),
        loop_(io_),
        acceptor_(io_),
        signals_(io_, SIGTERM, SIGINT, SIGUSR1),
        drain_timer_(io_),
        retry_timer_(io_),
        pressure_timer_(io_) {}

  int run();

 private:
  Status start();
  Status open_log();
  Status listen();
  void accept();
  void admin(net::HttpRequest request, const net::Respond& respond);
  std::string metrics_text();
  void look_at_parts();
  void look_at_resources();  // from now on, again and again
  void observe(lifecycle::Resource resource, const os::Usage& usage);
  void advance();  // performs what the lifecycle wants
  void leave();
  void drain();
  void drain_step();
  void finish(const lifecycle::Remaining& dropped);
  void locate(const AgentName& name, const Located& done);
  void report_changed(bool soon);

  const Config& config_;
  lifecycle::Lifecycle life_;
  lifecycle::Pressure pressure_;
  boost::asio::io_context io_{1};
  Loop loop_;
  std::unique_ptr<os::Directory> directory_;
  log::Overflow* spill_ = nullptr;  // the directory, when it has a second place
  std::unique_ptr<log::Log> log_;
  log::Recovery recovery_;
  mailbox::Limits limits_;
  std::unique_ptr<mailbox::Mailbox> box_;
  Session::Options options_;
  std::unique_ptr<Mail> mail_;
  std::unique_ptr<Handover> handover_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<Coordinator> coordinator_;
  std::unique_ptr<Cluster> cluster_;
  std::unique_ptr<Post> post_;
  std::unique_ptr<AgentSocket> agents_;
  std::unique_ptr<Drop> drop_;
  net::HttpServer http_;
  tcp::acceptor acceptor_;
  std::set<std::shared_ptr<Session>> inbound_;
  Unfinished unfinished_;
  Seldom crowded_;
  std::uint64_t crowded_out_ = 0;  // over HTTP, as said last
  boost::asio::signal_set signals_;
  boost::asio::steady_timer drain_timer_, retry_timer_, pressure_timer_;
  telemetry::Metrics metrics_;
  bool started_ = false;
  MonoTime drain_started_{};
  int exit_code_ = 0;
};

Status Sidecar::open_log() {
  auto directory = os::open_directory(config_.log_path);
  if (!directory) return directory.error();
  directory_ = *std::move(directory);
  if (config_.spill_bytes > 0) {
    auto disk = os::open_directory(config_.spill_path);
    if (!disk) return disk.error();
    if (auto status = forget_lost_log(*directory_, **disk); !status) return status;
    auto both = log::Overflow::make(std::move(directory_), *std::move(disk),
                                    {config_.spill_bytes, log::kSegmentBytes});
    if (!both) return both.error().in("the mailbox log's spill");
    spill_ = both->get();
    directory_ = *std::move(both);
  }
  auto space = directory_->space();
  if (!space) return space.error();
  mailbox::Limits& limits = limits_;
  limits.max_inbox_messages = config_.max_inbox_messages;
  limits.grants = !config_.reject_when_full;
  limits.max_message_bytes = config_.max_message_bytes;
  log::Options options;
  // The volume's own size, not the spec's: whatever the platform made of it.
  options.max_bytes = space->total_bytes > kLogSlackBytes ? space->total_bytes - kLogSlackBytes : 0;
  if (config_.journal()) {  // a volume may be larger than what was asked for, or shared
    options.max_bytes = std::min(options.max_bytes, config_.journal_bytes);
    options.durable = true;
  }
  const auto usable = options.max_bytes - std::min(options.max_bytes, kUnusedLogBytes);
  limits.max_received_bytes = usable / 2;
  limits.max_sent_bytes = usable / 8 * 3;
  // Where all pods keep copies they get a quarter, and an eighth is left.
  limits.entrust = config_.entrusts();
  limits.max_ward_bytes = usable / kWardsWithPod;
  if (config_.node_durability) {
    limits.max_received_bytes = usable / 8 * 3;
    limits.max_sent_bytes = limits.max_ward_bytes = usable / 4;
  }
  box_ = std::make_unique<mailbox::Mailbox>(config_.name, limits, config_.agents_per_pod);

  // Records are kept until the parts exist that read them: they need the log's id, which open()
  // finds.
  struct Kept {
    std::uint8_t kind;
    log::Sequence sequence;
    log::State state;
    std::uint16_t attempt;
    std::string payload;
  };
  std::vector<Kept> task_records;
  auto opened = log::Log::open(
      *directory_, options, new_log_id(),
      [&](const log::Record& record) {
        if (record.kind < tasks::kTask)
          box_->restore(record);
        else
          task_records.push_back({record.kind, record.sequence, record.state, record.attempt,
                                  std::string(record.payload)});
      },
      &recovery_);
  if (!opened) return opened.error().in("opening the mailbox log");
  log_ = *std::move(opened);
  box_->attach(*log_, mono_now(), recovery_.corrupt_records > 0);
  loop_.attach(*log_);

  auto secret = os::read_file(config_.link_secret_file, 4096);
  if (!secret) return secret.error().in("the link secret");
  while (!secret->empty() && secret->back() == '\n') secret->pop_back();
  if (secret->size() < 32) return invalid("the link secret is shorter than 32 characters");
  options_.self = {config_.swarm_uid, config_.name,   config_.pod, config_.pod_uid,
                   config_.node,      config_.pod_ip, log_->id()};
  options_.secret = *std::move(secret);
  options_.standing = [this] {
    return link::Standing{
        coordinator_ && coordinator_->active() && life_.phase() < lifecycle::Phase::kLeaving,
        coordinator_ ? coordinator_->epoch() : 0};
  };
  options_.ping_period = config_.health_period;
  options_.failure_threshold = config_.failure_threshold;

  mail_ = std::make_unique<Mail>(
      loop_, *box_, config_, options_,
      [this](const AgentName& name, const Located& done) { locate(name, done); });
  mail_->candidates = [this](std::uint32_t team, const Mail::OnCandidates& done) {
    if (!worker_) return done(unavailable("a coordinator has no custodian"));
    worker_->peers(team, [done](const Result<std::vector<Worker::Peer>>& found) {
      if (!found) return done(found.error());
      std::vector<Candidate> workers;
      for (const auto& peer : *found) {
        if (peer.role == "worker" && peer.state != "leaving" && is_slot_name(peer.name))
          workers.push_back({{peer.name}, peer.node});
      }
      done(workers);
    });
  };
  if (config_.coordinator)
    coordinator_ = std::make_unique<Coordinator>(loop_, config_, options_, *mail_);
  else
    worker_ = std::make_unique<Worker>(loop_, config_, options_, *mail_);
  for (const auto& kept : task_records) {
    const log::Record record{kept.sequence, kept.kind, kept.state, kept.attempt, kept.payload};
    coordinator_ ? coordinator_->restore(record) : worker_->restore(record);
  }
  return {};
}

Status Sidecar::listen() {
  error_code e;
  const bool v6 = config_.pod_ip.find(':') != std::string::npos;
  const tcp::endpoint endpoint(v6 ? tcp::v6() : tcp::v4(), config_.link_port);
  acceptor_.open(endpoint.protocol(), e);
  if (!e) acceptor_.set_option(tcp::acceptor::reuse_address(true), e);
  if (!e) acceptor_.bind(endpoint, e);
  if (!e) acceptor_.listen(512, e);
  if (e)
    return internal_error("link port " + std::to_string(config_.link_port) + ": " + e.message());
  accept();
  return http_.start(io_, v6 ? "::" : "0.0.0.0", config_.http_port,
                     [this](net::HttpRequest request, const net::Respond& respond) {
                       admin(std::move(request), respond);
                     });
}

void Sidecar::accept() {
  acceptor_.async_accept([this](error_code e, tcp::socket socket) {
    if (e == boost::asio::error::operation_aborted) return;
    if (e) {  // out of descriptors: not in a busy loop
      retry_timer_.expires_after(Milliseconds{100});
      retry_timer_.async_wait([this](error_code stop) {
        if (!stop) accept();
      });
      return;
    }
    if (inbound_.size() < kMaxSessions) {
      Session::Events events;
      events.ready = [this](Session& session) { mail_->session_up(session.shared_from_this()); };
      events.frame = [this](Session& session, const link::Frame& frame) {
        if (mail_->take(session, frame)) return;
        if (coordinator_ && coordinator_->take(session, frame)) return;
        if (worker_ && frame.type == link::FrameType::kSuccessor)
          return worker_->successor_at(session);
        session.close(invalid("a frame that has no place on this link"));
      };
      events.closed = [this](Session& session, const Error& why) {
        if (why.code != Code::kUnavailable && why.code != Code::kCancelled) {
          telemetry::warn("link closed",
                          {{"peer", session.peer().name.value}, {"reason", why.message}});
        }
        mail_->session_down(session);
        if (coordinator_) coordinator_->session_down(session);
        inbound_.erase(session.shared_from_this());
      };
      auto session = Session::accept(loop_, std::move(socket), options_, std::move(events));
      if (unfinished_.add(session) && crowded_.due(mono_now()))
        telemetry::warn("too many links have not said who they are: the oldest ones end", {});
      inbound_.insert(std::move(session));
    }
    accept();
  });
}

void Sidecar::locate(const AgentName& name, const Located& done) {
  if (worker_) return worker_->locate(name, done);
  const auto dash = name.value.rfind('-');
  const auto number = static_cast<std::uint32_t>(std::stoul(name.value.substr(dash + 1)));
  if (name.value.starts_with("worker-") &&
      number % std::max(1U, config_.coordinators) == config_.team)
    return coordinator_->locate(name, done);
  done(unavailable(name.value + " belongs to another team; mail between teams starts at a worker"));
}

Status Sidecar::start() {
  if (auto status = open_log(); !status) return status;
  crash_point("recovery-ended");
  if (auto status = install_agentctl(config_); !status) return status;
  if (auto status = log::prove(*log_); !status) return status;
  if (auto status = listen(); !status) return status;

  post_ = std::make_unique<Post>(loop_, *mail_, config_);
  agents_ = std::make_unique<AgentSocket>(loop_, config_, *mail_, *post_, worker_.get());
  post_->peers = [this](std::uint32_t team, const Worker::OnPeers& done) {
    if (worker_) return worker_->peers(team, done);
    done(unavailable("ask from a worker's pod"));
  };
  if (auto status = agents_->start(config_.mount_path + "/agent.sock"); !status) return status;
  drop_ = std::make_unique<Drop>(loop_, *mail_, *post_, config_);
  drop_->start();
  look_at_resources();

  if (worker_) {
    worker_->on_swarm_deleted = [this] {
      life_.orphaned(mono_now());
      advance();
    };
    worker_->on_joined = [this] {
      telemetry::info(
          "joined the team",
          {{"team", config_.team}, {"epoch", worker_->epoch()}, {"copies", worker_->copies()}});
    };
    worker_->attach(*log_);
  } else {
    coordinator_->attach(*log_, recovery_.corrupt_records > 0);
    Cluster::Events events;
    events.acquired = [this](std::uint64_t epoch, const api::TeamReport& last) {
      telemetry::info("team's lease acquired", {{"team", config_.team},
                                                {"epoch", epoch},
                                                {"formerWorkers", last.workers.size()},
                                                {"awaitedBefore", last.awaited.size()}});
      coordinator_->activate(epoch, last);
    };
    events.report = [this] { return coordinator_->report(); };
    events.superseded = [this] {
      if (life_.phase() >= lifecycle::Phase::kLeaving) return;
      telemetry::warn("another coordinator holds a higher epoch; leaving",
                      {{"team", config_.team}});
      life_.leaving();
      advance();
    };
    events.deleted = [this] {
      if (!life_.is_orphaned()) telemetry::info("the Swarm is deleted", {{"team", config_.team}});
      coordinator_->swarm_deleted();  // to workers that joined since the last time, too
      life_.orphaned(mono_now());
      advance();
    };
    events.settings = [this](const TeamSettings& settings) { coordinator_->configure(settings); };
    events.problem = [](const std::string& text) {
      telemetry::warn("API server", {{"problem", text}});
    };
    cluster_ = std::make_unique<Cluster>(loop_, config_, std::move(events));
    coordinator_->on_change = [this](bool soon) { report_changed(soon); };
    coordinator_->on_higher_epoch = [this](std::uint64_t at_least) {
      cluster_->raise_epoch(at_least);
    };
    // Restarted after `leaving`: the Lease is, or will be, the successor's.
    if (!config_.leaving) {
      if (auto status = cluster_->start(coordinator_->led_epoch()); !status) return status;
    }
  }
  started_ = true;
  if (config_.leaving) life_.leaving();
  advance();
  return {};
}

void Sidecar::report_changed(bool soon) {
  if (coordinator_->active() && life_.phase() != lifecycle::Phase::kStopped && cluster_)
    cluster_->report_changed(soon);
}

void Sidecar::look_at_parts() {
  using lifecycle::Part;
  life_.part(Part::kMailbox, started_, "");
  if (worker_) {
    life_.part(Part::kTeam, worker_->joined(),
               "waiting for coordinator-" + std::to_string(config_.team));
    life_.part(Part::kQueue, true, "");
  } else if (coordinator_) {
    life_.part(Part::kTeam, coordinator_->active(), "waiting for the Swarm and the team's Lease");
    life_.part(Part::kQueue, coordinator_->active() && !coordinator_->recovering(),
               "collecting tasks from the workers");
  }
}

void Sidecar::observe(lifecycle::Resource resource, const os::Usage& usage) {
  const int before = pressure_.share(resource);
  pressure_.observe(mono_now(), resource, usage);
  const int after = pressure_.share(resource);
  const auto say = [&](const auto& log, std::string_view what) {
    log(what, {{"resource", lifecycle::resource_name(resource)},
               {"used", usage.used},
               {"limit", usage.limit},
               {"sharePercent", after}});
  };
  if (before == 100 && after < 100) say(telemetry::warn, "short of a resource: limits tighten");
  if (before < 100 && after == 100) say(telemetry::info, "limits have recovered");
}

// Mail takes memory, and a shared volume that is full keeps agents from their files; a connection
// takes memory and a descriptor. Links are left alone: they bring the acks that end a shortage, and
// the heartbeats.
void Sidecar::look_at_resources() {
  using lifecycle::Resource;
  const auto log = config_.journal() ? os::Usage{} : os::volume_usage(config_.log_path);
  const auto descriptors = os::descriptor_usage();
  observe(Resource::kDescriptors, descriptors);
  // Without a descriptor to read it by, the memory is what it was.
  if (descriptors.limit == 0 || descriptors.used < descriptors.limit)
    observe(Resource::kMemory, lifecycle::working_memory(os::memory_usage(), log));
  observe(Resource::kVolume, os::volume_usage(config_.mount_path));

  const auto mail = pressure_.tightest({Resource::kMemory, Resource::kVolume});
  const auto inbox = lifecycle::share_of(config_.max_inbox_messages, mail.percent);
  mail_->set_room(
      {static_cast<std::uint32_t>(inbox), lifecycle::share_of(kMaxBlockedBytes, mail.percent)},
      std::string(lifecycle::shortage_of(mail.because)));
  const auto connections = pressure_.tightest({Resource::kMemory, Resource::kDescriptors});
  agents_->set_share(connections.percent, std::string(lifecycle::shortage_of(connections.because)));

  const bool calm = std::ranges::all_of(lifecycle::kResources, [this](Resource resource) {
    return pressure_.share(resource) == 100 && pressure_.level(resource) < kCalmLevel;
  });
  if (const auto ended = http_.crowded_out(); ended != crowded_out_) {
    telemetry::warn("too many slow requests over HTTP: connections were ended",
                    {{"connections", ended - std::exchange(crowded_out_, ended)}});
  }
  pressure_timer_.expires_after(calm ? kPressureRest : kPressurePoll);
  pressure_timer_.async_wait([this](error_code e) {
    if (!e) look_at_resources();
  });
}

void Sidecar::admin(net::HttpRequest request, const net::Respond& respond) {
  if (request.path == "/healthz") return respond({200, "text/plain", "ok\n", {}});
  if (request.path == "/startupz")
    return respond(started_ ? net::HttpResponse{200, "text/plain", "started\n", {}}
                            : net::HttpResponse{503, "text/plain", "starting\n", {}});
  if (request.path == "/readyz") {
    look_at_parts();
    return respond({life_.ready() ? 200 : 503, "text/plain", life_.text() + "\n", {}});
  }
  if (request.path == "/metrics")
    return respond({200, std::string(telemetry::Metrics::kContentType), metrics_text(), {}});
  if (coordinator_ && request.path.starts_with("/v1/"))
    return coordinator_->http(std::move(request), respond);
  respond(net::error_response(not_found("no such path")));
}

std::string Sidecar::metrics_text() {
  const auto books = box_->books();
  const auto stats = log_->stats();
  const auto set = [&](const char* name, const char* help, double value) {
    metrics_.gauge(name, help).set(value);
  };
  const auto total = [&](const char* name, const char* help, double value) {
    telemetry::Counter& counter = metrics_.counter(name, help);
    counter.add(std::max(0.0, value - counter.value()));
  };
  const auto n = [](auto value) { return static_cast<double>(value); };
  total("swarm_mailbox_messages_accepted_total",
        "Messages sent from this pod that two pods (or this pod alone, for local ones) hold",
        n(books.accepted));
  total("swarm_mailbox_messages_refused_total", "Messages refused to their senders in this pod",
        n(books.refused));
  total("swarm_mailbox_messages_delivered_total",
        "Messages handed to agents of this pod, redeliveries included", n(books.delivered));
  total("swarm_mailbox_messages_redelivered_total", "Messages handed out again",
        n(books.redelivered));
  total("swarm_mailbox_messages_acknowledged_total", "Messages acknowledged by agents of this pod",
        n(books.acked));
  set("swarm_mailbox_dead_letters", "Messages given up after too many attempts, kept",
      n(books.dead_live));
  total("swarm_mailbox_messages_redriven_total", "Dead letters put back into the inbox",
        n(books.redriven));
  set("swarm_mailbox_inbox_messages", "Messages waiting or leased here", n(books.inbox_live));
  set("swarm_mailbox_outbox_messages", "Messages sent from here that are not yet acknowledged",
      n(books.outbox_live));
  total("swarm_mailbox_messages_handed_over_total",
        "Messages sent from here whose copy the successor of this pod keeps now",
        n(books.handed_over));
  total("swarm_mailbox_messages_taken_over_total",
        "Messages of former pods of this name whose copy is kept here", n(books.adopted));
  total("swarm_mailbox_messages_full_total",
        "Arrivals that were answered full, repeats of one message included", n(books.full));
  set("swarm_mailbox_received_bytes", "Bytes of the messages in all inboxes here",
      n(books.received_bytes));
  set("swarm_mailbox_received_limit_bytes", "New messages fit into the inboxes up to so many",
      n(limits_.max_received_bytes));
  set("swarm_mailbox_reply_bytes", "Bytes of the replies sent from here, not yet acknowledged",
      n(books.reply_bytes));
  set("swarm_mailbox_sent_bytes", "Bytes of the messages sent from here, not yet acknowledged",
      n(books.sent_bytes));
  set("swarm_mailbox_sent_limit_bytes", "New messages are sent from here up to so many",
      n(limits_.max_sent_bytes));
  set("swarm_mailbox_single_copy_messages", "Messages of which this pod holds the only copy",
      n(books.single_copy));
  set("swarm_mailbox_guarded_messages", "Messages kept here as a copy for pods on other nodes",
      n(books.wards));
  set("swarm_mailbox_guarded_bytes", "Their bytes", n(books.ward_bytes));
  set("swarm_mailbox_guarded_limit_bytes", "New copies are taken up to so many",
      n(limits_.max_ward_bytes));
  set("swarm_mailbox_corrupt_records",
      "Damaged records that were found when the log was opened, at the start of the sidecar",
      n(recovery_.corrupt_records));
  set("swarm_mailbox_log_live_bytes", "Bytes of the log that are needed", n(stats.live_bytes));
  set("swarm_mailbox_spilled_bytes", "Bytes of the log on disk, since memory had no room",
      spill_ == nullptr ? 0 : n(spill_->second_bytes()));
  set("swarm_mailbox_log_available_bytes", "Bytes that can still be appended",
      n(log_->available_bytes()));
  for (const auto resource : lifecycle::kResources) {
    metrics_
        .gauge("swarm_mailbox_pressure_ratio", "Used of what there is, 0 to 1",
               {{"resource", std::string(lifecycle::resource_name(resource))}})
        .set(pressure_.level(resource));
  }
  set("swarm_mailbox_inbox_limit_messages", "New messages fit into an inbox up to so many now",
      n(box_->inbox_limit()));
  set("swarm_mailbox_agent_connections", "Connections to the agents' socket",
      agents_ ? n(agents_->connections()) : 0);
  set("swarm_mailbox_agent_connections_limit", "So many connections are accepted now",
      agents_ ? n(agents_->max_connections()) : 0);
  if (coordinator_) {
    const auto counts = coordinator_->counts();
    for (const auto& [state, value] : {std::pair{"queued", counts.queued},
                                       {"running", counts.running},
                                       {"done", counts.done},
                                       {"failed", counts.failed},
                                       {"dead", counts.dead},
                                       {"cancelled", counts.cancelled}}) {
      metrics_.gauge("swarm_team_tasks", "Tasks by state", {{"state", state}}).set(n(value));
    }
    set("swarm_tasks_single_copy", "Tasks without a confirmed second copy", n(counts.single_copy));
    set("swarm_tasks_oldest_queued_seconds", "Age of the oldest queued task",
        n(counts.oldest_queued_seconds));
    set("swarm_team_backing_off",
        "1 while no task is handed out, since attempts were told to try later",
        counts.backing_off_until.value_or(MonoTime{}) > mono_now() ? 1 : 0);
    set("swarm_team_tasks_waiting", "Tasks at work that wait for other tasks", n(counts.waiting));
    set("swarm_team_tasks_starved", "Of these, while nobody is left to do what they wait for",
        n(counts.starved));
    total("swarm_team_wait_cycles_total", "Waits that were refused, each would have closed a cycle",
          n(counts.cycles));
    const auto spent = coordinator_->spent();
    constexpr const char* kTokensHelp = "Tokens that the tasks of this team have cost";
    for (const auto& [kind, value] : {std::pair{"input", spent.input_tokens},
                                      {"output", spent.output_tokens},
                                      {"cache_read", spent.cache_read_tokens},
                                      {"cache_creation", spent.cache_creation_tokens}}) {
      telemetry::Counter& counter =
          metrics_.counter("swarm_coordinator_usage_tokens_total", kTokensHelp, {{"kind", kind}});
      counter.add(std::max(0.0, n(value) - counter.value()));
    }
    total("swarm_coordinator_usage_cost_usd_total",
          "US dollars that the tasks of this team have cost", n(spent.cost_micro_usd) / 1e6);
    set("swarm_coordinator_budget_used_ratio", "Spent of spec.budget; 0 without one",
        coordinator_->budget_used().value_or(0));
    set("swarm_agents_stuck", "Attempts of this team without a sign of life for too long",
        n(coordinator_->stuck()));
    set("swarm_team_workers", "Connected workers of this team", n(coordinator_->workers()));
    set("swarm_team_epoch", "Epoch of this coordinator", n(coordinator_->epoch()));
  } else {
    set("swarm_worker_task_copies", "Copies of tasks held for the coordinator",
        n(worker_->copies()));
    set("swarm_worker_leases", "Tasks at work in this pod", n(worker_->leased()));
  }
  return metrics_.text();
}

// ---- the end

void Sidecar::advance() {
  for (const auto& output : life_.take_outputs()) {
    if (std::holds_alternative<lifecycle::Leave>(output)) leave();
    if (std::holds_alternative<lifecycle::Drain>(output)) drain();
    if (const auto* exit = std::get_if<lifecycle::Exit>(&output)) finish(exit->dropped);
  }
}

void Sidecar::leave() {
  telemetry::info("leaving", {});
  if (worker_) worker_->leaving();
  if (coordinator_) {
    coordinator_->leaving();
    report_changed(false);
  }
}

void Sidecar::drain() {
  telemetry::info("draining", {});
  error_code ignored;  // it ends either way
  acceptor_.close(ignored);
  box_->stop_intake();
  mail_->stop_blocking();
  drop_->stop();
  if (worker_) {
    worker_->release_all();
    // Senders find out where their receivers live next.
    for (const auto& session : std::set(inbound_))
      session->close(unavailable("the pod is shutting down"));
  }
  if (worker_ && !config_.journal()) {  // the successor opens the journal itself
    handover_ = std::make_unique<Handover>(
        loop_, *mail_, config_, options_,
        [this](const AgentName& name, const Located& done) { locate(name, done); });
  }
  drain_started_ = mono_now();
  crash_point("drain-begun");
  loop_.post([this] { drain_step(); });
}

void Sidecar::drain_step() {
  lifecycle::Remaining left;
  left.messages = mail_->unsettled() + drop_->left();
  if (handover_) left.retained = handover_->left() + mail_->to_give_back();
  if (worker_) left.reports = worker_->reports_pending();
  if (coordinator_) {
    left.copies = config_.journal() ? 0 : coordinator_->counts().single_copy;
    left.followers = coordinator_->workers();
  }
  life_.remaining(mono_now(), left);
  advance();
  if (life_.phase() == lifecycle::Phase::kStopped) return;
  drain_timer_.expires_after(kDrainPoll);
  drain_timer_.async_wait([this](error_code e) {
    if (!e) drain_step();
  });
}

void Sidecar::finish(const lifecycle::Remaining& dropped) {
  const auto books = box_->books();
  const auto left = books.inbox_live + books.outbox_live + dropped.reports + dropped.copies;
  const auto say = left > 0 && !config_.journal() ? telemetry::warn : telemetry::info;
  say("drained", {{"outboxLeft", books.outbox_live},
                  {"inboxLeft", books.inbox_live},
                  {"handedOver", books.handed_over},
                  {"journal", config_.journal()},
                  {"reportsLeft", dropped.reports},
                  {"onlyCopiesLeft", dropped.copies},
                  {"milliseconds", (mono_now() - drain_started_).count()}});
  crash_point("drain-ended");
  loop_.flush();
  http_.stop();
  io_.stop();
}

int Sidecar::run() {
  if (auto status = start(); !status) {
    telemetry::error("can't start", {{"reason", status.error().message}});
    return 1;
  }
  telemetry::info("started", {{"name", config_.name.value},
                              {"swarm", config_.swarm},
                              {"log", to_string(log_->id())},
                              {"fresh", recovery_.fresh},
                              {"records", recovery_.records},
                              {"truncatedBytes", recovery_.truncated_bytes},
                              {"corruptRecords", recovery_.corrupt_records}});
  std::function<void(error_code, int)> on_signal = [&](error_code e, int number) {
    if (e) return;
    number == SIGUSR1 ? life_.leaving() : life_.terminate(mono_now());
    advance();
    signals_.async_wait(on_signal);
  };
  signals_.async_wait(on_signal);
  io_.run();
  cluster_.reset();
  return exit_code_;
}

}  // namespace

int run(const Config& config) {
  allow_descriptors();
  std::unique_ptr<os::DirectoryLock> lock;
  if (config.journal()) {
    auto locked = lock_journal(config.log_path);
    if (!locked) {
      telemetry::error("can't start", {{"reason", locked.error().message}});
      return 1;
    }
    lock = *std::move(locked);
  }
  return std::make_unique<Sidecar>(config)->run();
}

}  // namespace swarm::engine
