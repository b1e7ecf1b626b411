#include "engine/agent_socket.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>

#include "base/crash_point.h"
#include "base/encoding.h"
#include "engine/control_json.h"

namespace swarm::engine {

using boost::asio::local::stream_protocol;
using boost::system::error_code;

namespace {

constexpr std::uint64_t kMaxWaitMs = 3600ULL * 1000;
constexpr Milliseconds kAckTimeout{10000};
constexpr std::size_t kMaxDeadListed = 1000;  // a line: 1000 × at most 400 bytes

Milliseconds milliseconds_of(const json& request, const char* key, std::uint64_t fallback) {
  return Milliseconds(std::min(number_of(request, key, fallback), kMaxWaitMs));
}

// Puts bytes under `key`, or under `key`64 when they are not text.
void put_bytes(json& out, const std::string& key, const std::string& bytes) {
  if (is_utf8(bytes))
    out[key] = bytes;
  else
    out[key + "64"] = to_base64(bytes);
}

Result<std::string> bytes_of(const json& request, const std::string& key) {
  if (const auto plain = request.find(key); plain != request.end()) {
    if (!plain->is_string()) return invalid(key + " must be a string");
    return plain->get<std::string>();
  }
  const auto encoded = request.find(key + "64");
  if (encoded == request.end()) return std::string();
  auto bytes =
      encoded->is_string() ? from_base64(encoded->get_ref<const std::string&>()) : std::nullopt;
  if (!bytes) return invalid(key + "64 must be base64");
  return *std::move(bytes);
}

const char* priority_name(mailbox::Priority p) {
  return p == mailbox::Priority::kHigh ? "high" : p == mailbox::Priority::kLow ? "low" : "normal";
}

json message_json(const mailbox::Delivery& delivery) {
  const auto& m = delivery.message;
  json out{{"messageId", m.id.value},
           {"from", m.from.value},
           {"to", m.to.value},
           {"priority", priority_name(m.priority)},
           {"attempt", delivery.attempt},
           {"redelivered", delivery.redelivered},
           {"sentAtMs", m.sent_at},
           {"wantsReply", m.wants_reply}};
  if (!m.in_reply_to.empty()) out["inReplyTo"] = m.in_reply_to.value;
  put_bytes(out, "body", m.body);
  return out;
}

const char* where_name(mailbox::Summary::Where where) {
  switch (where) {
    case mailbox::Summary::Where::kReady:
      return "ready";
    case mailbox::Summary::Where::kLeased:
      return "leased";
    case mailbox::Summary::Where::kDelayed:
      return "delayed";
    case mailbox::Summary::Where::kDead:
      return "dead";
    case mailbox::Summary::Where::kOutgoing:
      return "outgoing";
  }
  return "ready";
}

json summary_json(const mailbox::Summary& m) {
  return {{"messageId", m.id.value},
          {"from", m.from.value},
          {"to", m.to.value},
          {"priority", priority_name(m.priority)},
          {"state", where_name(m.where)},
          {"attempt", m.attempt},
          {"bytes", m.bytes},
          {"ageMs", std::max<WallTime>(0, wall_now() - m.sent_at)}};
}

}  // namespace

class AgentSocket::Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(AgentSocket& owner, stream_protocol::socket socket)
      : owner_(owner),
        alive_(owner.alive_),
        loop_(owner.loop_),
        socket_(std::move(socket)),
        inbound_(16U << 10U, '\0') {
    ++owner_.connections_;
  }
  ~Connection() {
    if (*alive_) --owner_.connections_;
  }

  void read() {
    socket_.async_read_some(boost::asio::buffer(inbound_), [self = shared_from_this()](
                                                               error_code e, std::size_t n) {
      if (e || self->closed_ || !*self->alive_) return self->close();
      self->buffer_.append(self->inbound_, 0, n);
      std::size_t begin = 0;
      for (auto end = self->buffer_.find('\n'); end != std::string::npos && !self->closed_;
           end = self->buffer_.find('\n', begin)) {
        self->handle(std::string_view(self->buffer_).substr(begin, end - begin));
        begin = end + 1;
      }
      self->buffer_.erase(0, begin);
      if (self->buffer_.size() > kMaxLineBytes) {
        self->fail(0, invalid("a line is longer than " + std::to_string(kMaxLineBytes) + " bytes"));
        self->close_after_write_ = true;
        return;
      }
      if (!self->closed_) self->read();
    });
  }

 private:
  void close() {
    if (closed_) return;
    closed_ = true;
    error_code ignored;  // it ends either way
    socket_.close(ignored);
    // Later: what waits holds this connection, which is in the middle of something.
    loop_.post([self = shared_from_this()] {
      if (!*self->alive_) return;
      self->owner_.mail_.forget_receivers(self.get());
      if (self->owner_.worker_ != nullptr) self->owner_.worker_->forget_nexts(self.get());
    });
  }

  void reply(json rid, json fields) {
    if (closed_) return;
    fields["rid"] = std::move(rid);
    fields["ok"] = true;
    put(fields);
  }
  void fail(json rid, const Error& error) {
    if (closed_) return;
    put(json{{"rid", std::move(rid)},
             {"ok", false},
             {"code", code_name(error.code)},
             {"message", printable(error.message)}});
  }
  void put(const json& answer) {
    queue_ += answer.dump();
    queue_ += '\n';
    if (queue_.size() + writing_.size() > kMaxAgentQueueBytes) return close();
    if (write_scheduled_) return;
    write_scheduled_ = true;
    loop_.after_commit([self = shared_from_this()] {
      self->write_scheduled_ = false;
      self->write();
      crash_point("agent-answered");
    });
  }
  void write() {
    if (closed_ || !writing_.empty() || queue_.empty()) return;
    writing_.swap(queue_);
    boost::asio::async_write(socket_, boost::asio::buffer(writing_),
                             [self = shared_from_this()](error_code e, std::size_t) {
                               self->writing_.clear();
                               if (e || (self->close_after_write_ && self->queue_.empty()))
                                 return self->close();
                               if (!self->queue_.empty() && !self->write_scheduled_) {
                                 self->write_scheduled_ = true;
                                 self->loop_.after_commit([self] {
                                   self->write_scheduled_ = false;
                                   self->write();
                                 });
                               }
                             });
  }

  // Wraps a callback: counts the request as answered, and drops the answer when the agent has gone.
  template <typename Answer>
  auto once(Answer answer) {
    ++outstanding_;
    return [self = shared_from_this(), answer = std::move(answer)](auto&&... results) {
      --self->outstanding_;
      if (!self->closed_) answer(std::forward<decltype(results)>(results)...);
    };
  }

  void handle(std::string_view line) {
    if (line.empty()) return;
    auto parsed = parse_object(line);
    if (!parsed)
      return fail(
          nullptr,
          invalid(
              "each line is one JSON object with op and rid, as in {\"op\":\"hello\",\"rid\":1}"));
    const json& request = *parsed;
    const json rid =
        request.contains("rid") && request["rid"].is_number() ? request["rid"] : json();
    if (outstanding_ >= kMaxOutstanding)
      return fail(rid, {Code::kFull, "more than " + std::to_string(kMaxOutstanding) +
                                         " requests are outstanding on this connection"});
    const auto op = text_of(request, "op");
    if (op == "hello") return hello(rid, request);
    if (op == "send" || op == "request") return send(rid, request, op == "request");
    if (op == "recv") return receive(rid, request);
    if (op == "ack" || op == "nack" || op == "extend") return settle(rid, request, op);
    if (op == "ls") return list(rid);
    if (op == "dead_ls" || op == "dead_redrive" || op == "dead_purge")
      return dead(rid, request, op);
    if (op == "cat") {
      auto found = owner_.mail_.box().look({text_of(request, "messageId")});
      return found ? reply(rid, {{"message", message_json(*found)}}) : fail(rid, found.error());
    }
    if (op == "peers") return peers(rid);
    if (op == "stats") return stats(rid);
    if (op.starts_with("task_")) return task(rid, request, op);
    fail(rid, invalid("unknown op \"" + printable(op.substr(0, 40)) +
                      "\", allowed: hello, send, request, recv, ack, nack, extend, ls, cat, "
                      "dead_ls, dead_redrive, dead_purge, task_next, task_extend, task_progress, "
                      "task_done, task_fail, peers, stats"));
  }

  void hello(const json& rid, const json& request) {
    const auto& c = owner_.config_;
    const auto agent = text_of(request, "agent", c.name.value);
    if (agent != c.name.value)
      return fail(rid, invalid("agent must be " + c.name.value + " in this pod"));
    reply(rid, {{"agent", c.name.value},
                {"swarm", c.swarm},
                {"namespace", c.namespace_name},
                {"team", c.team},
                {"pod", c.pod},
                {"node", c.node},
                {"role", c.coordinator ? "coordinator" : "worker"},
                {"coordinator", "coordinator-" + std::to_string(c.team)},
                {"epoch", owner_.worker_ != nullptr ? owner_.worker_->epoch() : 0},
                {"connected", owner_.worker_ == nullptr || owner_.worker_->joined()},
                {"version", SWARM_VERSION},
                {"limits",
                 {{"maxMessageBytes", c.max_message_bytes},
                  {"maxInboxMessages", c.max_inbox_messages},
                  {"sendTimeoutMs", c.backpressure_timeout.count()}}}});
  }

  void send(const json& rid, const json& request, bool wants_reply) {
    const auto& c = owner_.config_;
    mailbox::Message m;
    m.from = c.name;
    m.to.value = text_of(request, "to");
    if (!is_agent_name(m.to.value)) {
      return fail(rid, invalid("to: \"" + printable(m.to.value.substr(0, 60)) +
                               "\" is not an agent's name; names look like worker-3 or "
                               "coordinator-0, see `agentctl peers`"));
    }
    m.id.value = text_of(request, "id");
    if (m.id.empty()) m.id.value = "m-" + to_hex(random_bytes(8));
    if (!is_message_id(m.id.value))
      return fail(rid, invalid("id must match ^[A-Za-z0-9._:-]{1,128}$"));
    const auto priority = text_of(request, "priority", "normal");
    if (priority == "high")
      m.priority = mailbox::Priority::kHigh;
    else if (priority == "low")
      m.priority = mailbox::Priority::kLow;
    else if (priority != "normal")
      return fail(rid, invalid("priority must be high, normal or low"));
    m.in_reply_to.value = text_of(request, "inReplyTo");
    if (!m.in_reply_to.empty() && !is_message_id(m.in_reply_to.value))
      return fail(rid, invalid("inReplyTo must be a message id"));
    auto body = bytes_of(request, "body");
    if (!body) return fail(rid, body.error());
    if (body->size() > c.max_message_bytes) {
      return fail(
          rid,
          invalid("the body has " + std::to_string(body->size()) + " bytes, at most " +
                  std::to_string(c.max_message_bytes) +
                  " (spec.mailbox.maxMessageBytes); send a reference to a file or commit instead"));
    }
    m.body = *std::move(body);
    m.sent_at = wall_now();
    const auto timeout = milliseconds_of(
        request, "timeoutMs",
        wants_reply ? 60000 : static_cast<std::uint64_t>(c.backpressure_timeout.count()));
    auto answer = once([self = shared_from_this(), rid](const Result<Mail::Accepted>& sent) {
      if (!sent) return self->fail(rid, sent.error());
      json out{{"outcome", "accepted"},
               {"messageId", sent->id.value},
               {"survives", sent->survives},
               {"duplicate", sent->duplicate}};
      if (sent->reply) out["reply"] = message_json(*sent->reply);
      self->reply(rid, std::move(out));
    });
    if (wants_reply)
      owner_.mail_.request(std::move(m), timeout, std::move(answer));
    else
      owner_.mail_.send(std::move(m), timeout, std::move(answer));
  }

  void receive(const json& rid, const json& request) {
    std::optional<MessageId> in_reply_to;
    if (request.contains("inReplyTo")) in_reply_to = MessageId{text_of(request, "inReplyTo")};
    const auto lease = std::max(Milliseconds{100}, milliseconds_of(request, "leaseMs", 60000));
    owner_.mail_.receive(
        milliseconds_of(request, "waitMs", 0), lease, in_reply_to, this,
        once([self = shared_from_this(), rid](const Result<mailbox::Delivery>& delivery) {
          delivery ? self->reply(rid, {{"message", message_json(*delivery)}})
                   : self->fail(rid, delivery.error());
        }));
  }

  void settle(const json& rid, const json& request, const std::string& op) {
    const MessageId id{text_of(request, "messageId")};
    const auto attempt = number_of(request, "attempt");
    if (id.empty() || attempt == 0 || attempt > 65535)
      return fail(rid, invalid(op + " needs messageId and attempt, as recv gave them"));
    const auto number = static_cast<std::uint16_t>(attempt);
    const auto answer = [&](const Status& status) {
      status ? reply(rid, json::object()) : fail(rid, status.error());
    };
    if (op == "nack")
      return answer(owner_.mail_.nack(id, number, milliseconds_of(request, "delayMs", 0)));
    if (op == "extend")
      return answer(owner_.mail_.extend(
          id, number, std::max(Milliseconds{100}, milliseconds_of(request, "leaseMs", 60000))));
    owner_.mail_.ack(id, number, kAckTimeout,
                     once([self = shared_from_this(), rid](const Status& status) {
                       status ? self->reply(rid, json::object()) : self->fail(rid, status.error());
                     }));
  }

  void list(const json& rid) {
    json messages = json::array();
    for (const auto& m : owner_.mail_.box().list()) messages.push_back(summary_json(m));
    reply(rid, {{"messages", messages}});
  }

  void dead(const json& rid, const json& request, const std::string& op) {
    auto& mail = owner_.mail_;
    if (op == "dead_ls") {
      json messages = json::array();
      for (const auto& m : mail.box().dead_letters(kMaxDeadListed))
        messages.push_back(summary_json(m));
      return reply(rid, {{"messages", messages}, {"total", mail.box().books().dead_live}});
    }
    const bool purge = op == "dead_purge";
    const MessageId id{text_of(request, "messageId")};
    const bool all = flag_of(request, "all");
    if (all == !id.empty()) return fail(rid, invalid(op + " needs messageId, or all: true"));
    if (all) {
      const auto swept = purge ? mail.purge_all() : mail.redrive_all();
      return reply(rid, {{"count", swept.done}, {"failed", swept.failed}, {"left", swept.left}});
    }
    const auto status = purge ? mail.purge(id) : mail.redrive(id);
    if (!status) return fail(rid, status.error());
    reply(rid, {{"count", 1}, {"failed", 0}, {"left", mail.box().books().dead_live}});
  }

  void peers(const json& rid) {
    owner_.peers(
        once([self = shared_from_this(), rid](const Result<std::vector<Worker::Peer>>& found) {
          if (!found) return self->fail(rid, found.error());
          json out = json::array();
          for (const auto& p : *found)
            out.push_back({{"name", p.name},
                           {"role", p.role},
                           {"team", p.team},
                           {"state", p.state},
                           {"node", p.node}});
          self->reply(rid, {{"peers", out}});
        }));
  }

  void stats(const json& rid) {
    const auto books = owner_.mail_.box().books();
    reply(rid, {{"sent", books.sent},
                {"accepted", books.accepted},
                {"refused", books.refused},
                {"withdrawn", books.withdrawn},
                {"stored", books.stored},
                {"delivered", books.delivered},
                {"redelivered", books.redelivered},
                {"acked", books.acked},
                {"dead", books.dead},
                {"redriven", books.redriven},
                {"deadLetters", books.dead_live},
                {"duplicates", books.duplicates},
                {"inbox", books.inbox_live},
                {"outbox", books.outbox_live},
                {"singleCopy", books.single_copy},
                {"copies", owner_.worker_ != nullptr ? owner_.worker_->copies() : 0},
                {"leased", owner_.worker_ != nullptr ? owner_.worker_->leased() : 0}});
  }

  void task(const json& rid, const json& request, const std::string& op) {
    Worker* worker = owner_.worker_;
    if (worker == nullptr) return fail(rid, {Code::kDenied, "a coordinator's pod takes no tasks"});
    if (op == "task_next") {
      ++outstanding_;
      worker->next(milliseconds_of(request, "waitMs", 0), this,
                   [self = shared_from_this(), rid](const Result<Worker::Leased>& leased) {
                     --self->outstanding_;
                     if (self->closed_) return false;
                     if (!leased) {
                       if (leased.error().code == Code::kDenied) {
                         self->put(json{{"rid", rid},
                                        {"ok", false},
                                        {"code", "refused"},
                                        {"reason", "draining"},
                                        {"message", leased.error().message}});
                       } else {
                         self->fail(rid, leased.error());
                       }
                       return true;
                     }
                     json t{{"id", leased->id.value},
                            {"key", leased->key},
                            {"attempt", leased->attempt},
                            {"maxAttempts", leased->max_attempts},
                            {"version", leased->version == tasks::Version::kV1 ? "V1" : "V2"},
                            {"leaseMs", leased->lease.count()},
                            {"maxResultBytes", self->owner_.config_.max_message_bytes},
                            {"labels", leased->labels}};
                     put_bytes(t, "body", leased->body);
                     if (!leased->command.empty()) t["command"] = leased->command;
                     self->reply(rid, {{"task", t}});
                     return true;
                   });
      return;
    }
    const TaskId id{text_of(request, "taskId")};
    const auto attempt = static_cast<std::uint32_t>(number_of(request, "attempt"));
    if (!tasks::is_task_id(id.value) || attempt == 0)
      return fail(rid, invalid(op + " needs taskId and attempt, as task_next gave them"));
    if (op == "task_extend" || op == "task_progress") {
      const auto progress = text_of(request, "message");
      worker->extend(
          id, attempt, op == "task_progress" || request.contains("message") ? &progress : nullptr,
          flag_of(request, "confirm"),
          once([self = shared_from_this(), rid](const Result<bool>& cancel) {
            cancel ? self->reply(rid, {{"cancel", *cancel}}) : self->fail(rid, cancel.error());
          }));
      return;
    }
    if (op != "task_done" && op != "task_fail")
      return fail(rid, invalid("unknown op " + printable(op.substr(0, 40))));
    // The wire form of the link is the one parser of reports; the socket's fields only differ in
    // where the bytes are.
    auto result = bytes_of(request, "result");
    if (!result) return fail(rid, result.error());
    if (result->size() > owner_.config_.max_message_bytes) {
      return fail(rid,
                  invalid("the result has " + std::to_string(result->size()) + " bytes, at most " +
                          std::to_string(owner_.config_.max_message_bytes) +
                          "; truncate it and say so, or put it into a file or commit"));
    }
    json head = request;
    head["id"] = id.value;
    head["done"] = op == "task_done";
    head["totalBytes"] = number_of(request, "resultBytes", result->size());
    std::uint64_t ignored_request = 0;
    auto report = decode_report(control(head, *result), &ignored_request);
    if (!report) return fail(rid, report.error());
    if (std::max(report->result.branch.size(), report->result.commit.size()) >
        tasks::kMaxRefBytes) {
      return fail(rid, invalid("branch and commit are at most " +
                               std::to_string(tasks::kMaxRefBytes) + " bytes"));
    }
    worker->report(*std::move(report), once([self = shared_from_this(), rid](const Status& status) {
      status ? self->reply(rid, json::object()) : self->fail(rid, status.error());
    }));
  }

  AgentSocket& owner_;
  std::shared_ptr<bool> alive_;
  Loop& loop_;
  stream_protocol::socket socket_;
  std::string inbound_, buffer_, queue_, writing_;
  std::size_t outstanding_ = 0;
  bool closed_ = false, write_scheduled_ = false, close_after_write_ = false;
};

AgentSocket::AgentSocket(Loop& loop, const Config& config, Mail& mail, Worker* worker)
    : loop_(loop), config_(config), mail_(mail), worker_(worker), acceptor_(loop.io()) {}

AgentSocket::~AgentSocket() { *alive_ = false; }

Status AgentSocket::start(const std::string& path) {
  error_code e;
  ::unlink(path.c_str());  // of a former life; absent is fine
  acceptor_.open(stream_protocol(), e);
  if (!e) acceptor_.bind(stream_protocol::endpoint(path), e);
  // Agents of any uid connect; what they may do is decided by what they say, never by the file's
  // owner.
  if (!e && ::chmod(path.c_str(), 0666) != 0)
    e = error_code(errno, boost::system::system_category());
  if (!e) acceptor_.listen(128, e);
  if (e) return internal_error("agents' socket " + path + ": " + e.message());
  accept();
  return {};
}

void AgentSocket::stop() {
  error_code ignored;  // it ends either way
  acceptor_.close(ignored);
}

void AgentSocket::accept() {
  acceptor_.async_accept([this, alive = alive_](error_code e, stream_protocol::socket socket) {
    if (!*alive || e == boost::asio::error::operation_aborted) return;
    if (!e && connections_ < kMaxAgentConnections)
      std::make_shared<Connection>(*this, std::move(socket))->read();
    accept();
  });
}

}  // namespace swarm::engine
