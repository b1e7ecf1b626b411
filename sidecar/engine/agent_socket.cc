#include "engine/agent_socket.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>

#include "base/crash_point.h"
#include "base/encoding.h"
#include "engine/control_json.h"
#include "engine/mail_list_json.h"
#include "engine/members.h"
#include "engine/task_api_json.h"
#include "engine/write_now.h"
#include "telemetry/log.h"

namespace swarm::engine {

using boost::asio::local::stream_protocol;
using boost::system::error_code;

namespace {

constexpr Milliseconds kAcceptRetry{100};
constexpr int kMaxUnaccepted = 1024;           // connections; all agents of a pod may come at once
constexpr std::size_t kMaxPeersListed = 2000;  // a line: each at most 400 bytes
constexpr std::uint64_t kSubmitTimeoutMs = 30000;
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

Result<std::string> result_of(const json& request) {
  if (!request.contains("result64")) return text_of(request, "result");
  if (request.contains("result"))
    return invalid("only one of result (text) and result64 (base64) makes sense");
  auto bytes = from_base64(text_of(request, "result64"));
  if (!bytes) return invalid("result64 must be base64");
  return *std::move(bytes);
}

}  // namespace

class AgentSocket::Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(AgentSocket& owner, stream_protocol::socket socket)
      : owner_(owner),
        alive_(owner.alive_),
        loop_(owner.loop_),
        agent_(owner.config_.name),
        socket_(std::move(socket)),
        inbound_(16U << 10U, '\0'),
        watch_timer_(owner.loop_.io()) {
    error_code failed;  // then the first write says so, too
    socket_.non_blocking(true, failed);
    ++owner_.connections_;
    owner_.open_.insert(this);
  }
  ~Connection() {
    if (!closed_ && *alive_) leave();
  }

  void read() {
    socket_.async_read_some(
        boost::asio::buffer(inbound_), [self = shared_from_this()](error_code e, std::size_t n) {
          if (e || self->closed_ || !*self->alive_) {
            self->close();
            return self->forget();  // no message that comes in this turn is for it
          }
          self->received(n);
        });
  }

  // What it keeps of the memory that all have together.
  [[nodiscard]] std::size_t held_bytes() const { return counted_; }
  // It has the most where there is too much: it is told so, unless there is an answer half way out.
  void make_room() {
    const Error why{Code::kFull,
                    "the unread answers and unfinished lines of all connections are "
                    "more than " +
                        std::to_string(kMaxAgentBytes) + " bytes, most of them here"};
    std::string().swap(buffer_);
    if (!writing_.empty() || !queue_.empty()) return close();
    close_after_write_ = true;
    fail("null", why);
    count();
  }

  void received(std::size_t n) {
    if (ends() || !*alive_) return;
    if (owner_.turn_bytes_ > kMaxAgentBytesPerTurn)
      return loop_.after_commit([self = shared_from_this(), n] { self->received(n); });
    take(std::string_view(inbound_).substr(0, n));
    go_on_reading();
  }
  // False: it has gone, and needed none.
  bool take_turn() {
    const auto request = std::exchange(turn_, nullptr);
    if (ends()) return false;
    request();
    take_buffered();
    go_on_reading();
    return true;
  }

 private:
  // Later, since it takes long: others get in between. What comes behind it waits.
  void in_turn(std::function<void()> request) {
    turn_ = std::move(request);
    owner_.turns_.push_back(shared_from_this());
    if (owner_.turns_.size() == 1) owner_.next_turn();
  }
  void count() {
    if (closed_ || !*alive_) return;
    const auto now = buffer_.size() + queue_.size() + writing_.size();
    owner_.held_bytes_ = owner_.held_bytes_ - counted_ + now;
    counted_ = now;
    if (owner_.held_bytes_ > kMaxAgentBytes) owner_.make_room();
  }
  static void give_back(std::string& empty) {
    if (empty.empty() && empty.capacity() > kKeptAgentBytes) std::string().swap(empty);
  }
  void leave() {
    --owner_.connections_;
    owner_.open_.erase(this);
    owner_.held_bytes_ -= std::exchange(counted_, 0);
  }

  void take(std::string_view bytes) {
    if (buffer_.empty()) {  // the usual case: whole lines
      const auto done = lines(bytes);
      if (!ends()) buffer_.append(bytes.substr(done));
    } else {
      buffer_.append(bytes);
      take_buffered();
    }
  }
  void take_buffered() {
    auto text = std::exchange(buffer_, {});  // make_room() may empty it in between
    text.erase(0, lines(text));
    if (!ends()) buffer_ = std::move(text);
    give_back(buffer_);
  }
  // Deals with whole lines; how many bytes of `text` these were.
  std::size_t lines(std::string_view text) {
    std::size_t begin = 0;
    for (auto end = text.find('\n'); end != std::string_view::npos && !ends() && !turn_;
         end = text.find('\n', begin)) {
      handle(text.substr(begin, end - begin));
      begin = end + 1;
    }
    return begin;
  }
  [[nodiscard]] bool ends() const { return closed_ || close_after_write_; }
  void go_on_reading() {
    count();
    if (ends() || turn_) return;
    if (buffer_.size() > kMaxSocketLineBytes) {
      fail("0", invalid("a line is longer than " + std::to_string(kMaxSocketLineBytes) + " bytes"));
      close_after_write_ = true;
      return;
    }
    read();
  }

  void close() {
    if (closed_) return;
    closed_ = true;
    watch_timer_.cancel();
    error_code ignored;  // it ends either way
    socket_.close(ignored);
    if (!*alive_) return;
    leave();
    // Later: mail may be in the middle of handing something to it.
    loop_.post([self = shared_from_this()] { self->forget(); });
  }
  // Nobody waits on its behalf any more.
  void forget() {
    if (!*alive_) return;
    owner_.mail_.forget(this);
    if (owner_.worker_ != nullptr) owner_.worker_->forget(this);
  }

  void reply(const std::string& rid, json fields) {
    if (closed_) return;
    fields["ok"] = true;
    put(fields, rid);
  }
  // Ahead of the answer to the same request.
  void part(const std::string& rid, json fields) {
    if (closed_) return;
    fields["more"] = true;
    put(fields, rid);
  }
  void reply_message(const std::string& rid, const mailbox::Delivery& delivery, bool more = false) {
    if (closed_) return;
    queue_ += R"({"message":)";
    append_message(queue_, delivery);
    queue_ += more ? R"(,"more":true)" : R"(,"ok":true)";
    end_line(rid);
  }
  void reply_ok(const std::string& rid) {
    if (closed_) return;
    queue_ += R"({"ok":true)";
    end_line(rid);
  }
  void fail(const std::string& rid, const Error& error) {
    if (closed_) return;
    put(json{{"ok", false}, {"code", code_name(error.code)}, {"message", printable(error.message)}},
        rid);
  }
  // `answer` has fields.
  void put(const json& answer, const std::string& rid) {
    queue_ += answer.dump();
    queue_.pop_back();
    end_line(rid);
  }
  void end_line(const std::string& rid) {
    queue_ += R"(,"rid":)";
    queue_ += rid;
    queue_ += "}\n";
    if (queue_.size() + writing_.size() > kMaxAgentQueueBytes) return close();
    const auto before = counted_;
    count();
    if (closed_) return;
    owner_.turn_bytes_ += counted_ - std::min(before, counted_);
    if (write_scheduled_) return;
    write_scheduled_ = true;
    loop_.after_commit([self = shared_from_this()] {
      self->write_scheduled_ = false;
      if (*self->alive_) self->owner_.turn_bytes_ = 0;
      self->write();
      crash_point("agent-answered");
    });
  }
  void write() {
    if (closed_ || !writing_.empty() || queue_.empty()) return;
    if (write_now(socket_, queue_)) return close();
    count();
    if (queue_.empty()) {
      give_back(queue_);
      if (close_after_write_) close();
      return;
    }
    writing_.swap(queue_);
    boost::asio::async_write(socket_, boost::asio::buffer(writing_),
                             [self = shared_from_this()](error_code e, std::size_t) {
                               self->writing_.clear();
                               self->give_back(self->writing_);
                               self->count();
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

  // Wraps a callback that gets this connection first: counts the request as answered, and drops the
  // answer when the agent has gone. What waits does not keep a connection.
  template <typename Answer>
  auto once(Answer answer) {
    ++outstanding_;
    return [weak = weak_from_this(), answer = std::move(answer)](auto&&... results) {
      const auto self = weak.lock();
      if (!self) return;
      --self->outstanding_;
      if (!self->closed_) answer(self.get(), std::forward<decltype(results)>(results)...);
    };
  }

  void handle(std::string_view line) {
    if (line.empty()) return;
    if (const auto mail = owner_.reader_.read(line)) return handle(*mail);
    auto parsed = parse_object(line);
    if (!parsed)
      return fail(
          "null",
          invalid(
              "each line is one JSON object with op and rid, as in {\"op\":\"hello\",\"rid\":1}"));
    const json& request = *parsed;
    const std::string rid =
        request.contains("rid") && request["rid"].is_number() ? request["rid"].dump() : "null";
    if (is_busy(rid)) return;
    const auto op = text_of(request, "op");
    if (auto wrong = wrong_in(request, op); !wrong.empty())
      return fail(rid, invalid(std::move(wrong)));
    if (op == "hello") return hello(rid, request);
    if (MailRequestReader::is_op(op))
      return fail(rid, invalid("a number of this " + op + " does not fit into 64 bits"));
    if (op == "ls") return in_turn([this, rid] { list(rid); });
    if (op == "dead_ls" || op == "dead_redrive" || op == "dead_purge")
      return in_turn([this, rid, request, op] { dead(rid, request, op); });
    if (op == "cat") {
      auto found = owner_.mail_.box().look(agent_, {text_of(request, "messageId")},
                                           {text_of(request, "from")}, flag_of(request, "dead"));
      return found ? reply_message(rid, *found) : fail(rid, found.error());
    }
    if (op == "watch") return watch(rid, request);
    if (op == "peers") return in_turn([this, rid] { peers(rid); });
    if (op == "stats") return stats(rid);
    if (op.starts_with("task_")) return task(rid, request, op);
    fail(rid,
         invalid("unknown op \"" + printable(op.substr(0, 40)) +
                 "\", allowed: hello, send, request, recv, watch, ack, nack, extend, ls, "
                 "cat, dead_ls, dead_redrive, dead_purge, task_next, task_extend, task_progress, "
                 "task_done, task_fail, task_submit, task_wait, peers, stats"));
  }

  void handle(const MailRequest& request) {
    using Op = MailRequest::Op;
    if (is_busy(request.rid)) return;
    if (!request.wrong.empty()) return fail(request.rid, invalid(request.wrong));
    switch (request.op) {
      case Op::kSend:
      case Op::kRequest:
        return send(request);
      case Op::kReceive:
        return receive(request);
      case Op::kAck:
      case Op::kNack:
      case Op::kExtend:
        return settle(request);
    }
  }

  bool is_busy(const std::string& rid) {
    if (outstanding_ < kMaxOutstanding) return false;
    fail(rid, {Code::kFull, "more than " + std::to_string(kMaxOutstanding) +
                                " requests are outstanding on this connection"});
    return true;
  }

  void hello(const std::string& rid, const json& request) {
    const auto& c = owner_.config_;
    if (request.contains("agent")) {
      const AgentName agent{text_of(request, "agent")};
      if (!owner_.mail_.box().is_local(agent))
        return fail(rid, invalid("agent: " + no_such_agent(c, {printable(agent.value)})));
      if (said_ && agent != agent_)
        return fail(rid, invalid("agent: this connection is " + agent_.value + "'s already"));
      agent_ = agent;
      said_ = true;
    }
    reply(rid, {{"agent", agent_.value},
                {"agentsPerPod", c.agents_per_pod},
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

  void send(const MailRequest& request) {
    const auto& c = owner_.config_;
    const auto& rid = request.rid;
    const bool wants_reply = request.op == MailRequest::Op::kRequest;
    const auto to = parse_receivers(request.to);
    if (!to) return fail(rid, to.error());
    auto message = message_of(request, to->single());
    if (!message) return fail(rid, message.error());
    auto& m = *message;
    m.from = agent_;
    if (!request.id) m.id.value = owner_.next_id();
    auto body = body_of(request);
    if (!body) return fail(rid, body.error());
    if (body->size() > c.max_message_bytes)
      return fail(rid, body_too_large(body->size(), c.max_message_bytes));
    m.body = *std::move(body);
    m.sent_at = wall_now();
    const auto timeout = milliseconds_of(
        request.timeout_ms,
        wants_reply ? 60000 : static_cast<std::uint64_t>(c.backpressure_timeout.count()));
    if (!to->single()) return send_to_all(rid, *to, std::move(m), timeout);
    m.to = to->names[0];
    auto answer = once([rid](Connection* self, const Result<Mail::Accepted>& sent) {
      if (!sent) return self->fail(rid, sent.error());
      self->accepted(rid, *sent);
    });
    if (wants_reply)
      owner_.mail_.request(std::move(m), timeout, std::move(answer), this);
    else if (request.ack_attempt)
      owner_.mail_.reply(std::move(m), static_cast<std::uint16_t>(*request.ack_attempt), timeout,
                         kAckTimeout, std::move(answer), this);
    else
      owner_.mail_.send(std::move(m), timeout, std::move(answer), this);
  }

  void accepted(const std::string& rid, const Mail::Accepted& sent) {
    if (sent.acked && !*sent.acked) return accepted_only(rid, sent);
    queue_ += sent.duplicate ? R"({"duplicate":true)" : R"({"duplicate":false)";
    queue_ += R"(,"messageId":)";
    append_string(queue_, sent.id.value);
    queue_ += R"(,"ok":true,"outcome":"accepted","survives":)";
    append_string(queue_, sent.survives);
    if (sent.acked) queue_ += R"(,"acked":true)";
    if (sent.reply) {
      queue_ += R"(,"reply":)";
      append_message(queue_, *sent.reply);
    }
    end_line(rid);
  }

  // The reply, but not the ack that came with it. An unknown one is resolved as any: by the same
  // again.
  void accepted_only(const std::string& rid, const Mail::Accepted& sent) {
    json out = outcome_of(sent);
    out["messageId"] = sent.id.value;
    out["ok"] = false;
    put(out, rid);
  }

  // One part for each receiver as its outcome becomes known, then the answer.
  void send_to_all(const std::string& rid, const Receivers& to, mailbox::Message m,
                   Milliseconds timeout) {
    const auto id = m.id.value;
    owner_.post_.send(
        to, std::move(m), timeout,
        [weak = weak_from_this(), rid](const AgentName& name, const Result<Mail::Accepted>& sent) {
          const auto self = weak.lock();
          if (!self) return;
          json out = outcome_of(sent);
          out["to"] = name.value;
          self->part(rid, std::move(out));
        },
        once([rid, id](Connection* self, const Result<Post::Tally>& tally) {
          if (!tally) return self->fail(rid, tally.error());
          json out{
              {"messageId", id}, {"receivers", tally->receivers}, {"accepted", tally->accepted}};
          if (!tally->failure) {
            out["outcome"] = "accepted";
            return self->reply(rid, std::move(out));
          }
          const bool some = tally->accepted != 0;
          out["ok"] = false;
          out["code"] = some ? "partial" : std::string(code_name(tally->failure->code));
          out["message"] = std::to_string(tally->accepted) + " of " +
                           std::to_string(tally->receivers) + " accepted; " +
                           printable(tally->failure->message);
          self->put(out, rid);
        }),
        weak_from_this());
  }

  void receive(const MailRequest& request) {
    const auto& rid = request.rid;
    if (!request.stream && (request.part != 0 || !request.from.empty()))
      return fail(rid, invalid("from and part are of a part of a stream: name the stream"));
    std::optional<MessageId> in_reply_to;
    if (request.in_reply_to) in_reply_to = MessageId{std::string(*request.in_reply_to)};
    const auto lease = std::max(Milliseconds{100}, milliseconds_of(request.lease_ms, 60000));
    const auto wait = milliseconds_of(request.wait_ms, 0);
    auto answer = once([rid](Connection* self, const Result<mailbox::Delivery>& delivery) {
      delivery ? self->reply_message(rid, *delivery) : self->fail(rid, delivery.error());
    });
    if (!request.stream)
      return owner_.mail_.receive(agent_, wait, lease, in_reply_to, this, std::move(answer));
    Mail::NextPart next{{std::string(request.from)},
                        {std::string(*request.stream)},
                        static_cast<std::uint32_t>(request.part)};
    if (!is_agent_name(next.from.value) || !is_message_id(next.stream.value) || request.part == 0 ||
        request.part > UINT32_MAX || in_reply_to) {
      return answer(
          invalid("a part of a stream is received by stream, from (who sends it) and part "
                  "(the next one, from 1)"));
    }
    owner_.mail_.receive_part(agent_, wait, lease, std::move(next), this, std::move(answer));
  }

  // A part for each message that comes, until the wait is over.
  void watch(const std::string& rid, const json& request) {
    if (watching_) return fail(rid, invalid("this connection watches already"));
    auto ended = once([rid](Connection* self) {
      self->owner_.mail_.unwatch(self);
      self->reply(rid, {{"seen", self->seen_}, {"missed", self->missed_}});
      self->watching_ = false;
    });
    const auto begun =
        owner_.mail_.watch(agent_, this, [this, rid](const mailbox::Message& message) {
          if (queue_.size() + writing_.size() > kMaxWatchedBytes) {
            ++missed_, ++untold_;
            return;
          }
          if (untold_ > 0) part(rid, {{"missed", std::exchange(untold_, 0)}});
          ++seen_;
          reply_message(rid, {message, 0, false, {}}, true);
        });
    if (!begun) {
      --outstanding_;
      return fail(rid, begun.error());
    }
    watching_ = true;
    seen_ = missed_ = untold_ = 0;
    part(rid, {{"watching", true}});
    watch_timer_.expires_after(milliseconds_of(request, "waitMs", 0));
    watch_timer_.async_wait([alive = alive_, ended = std::move(ended)](error_code e) mutable {
      if (!e && *alive) ended();
    });
  }

  void settle(const MailRequest& request) {
    using Op = MailRequest::Op;
    const auto& rid = request.rid;
    const MessageId id{std::string(request.message_id)};
    if (id.empty() || request.attempt == 0 || request.attempt > kMaxAttempt) {
      const std::string op = request.op == Op::kAck    ? "ack"
                             : request.op == Op::kNack ? "nack"
                                                       : "extend";
      return fail(rid, invalid(op + " needs messageId and attempt, as recv gave them"));
    }
    const auto number = static_cast<std::uint16_t>(request.attempt);
    const AgentName from{std::string(request.from)};
    const auto answer = [](Connection& to, const std::string& about, const Status& status) {
      status ? to.reply_ok(about) : to.fail(about, status.error());
    };
    auto& mail = owner_.mail_;
    if (request.op == Op::kNack)
      return answer(*this, rid,
                    mail.nack(agent_, id, number, milliseconds_of(request.delay_ms, 0), from));
    if (request.op == Op::kExtend) {
      const auto lease = std::max(Milliseconds{100}, milliseconds_of(request.lease_ms, 60000));
      return answer(*this, rid, mail.extend(agent_, id, number, lease, from));
    }
    mail.ack(
        agent_, id, number, kAckTimeout,
        once([rid, answer](Connection* self, const Status& status) { answer(*self, rid, status); }),
        from);
  }

  void list(const std::string& rid) {
    json messages = json::array();
    mailbox::Listed there;
    for (const auto& m : owner_.mail_.box().list(agent_, &there))
      messages.push_back(summary_json(m, wall_now()));
    reply(rid, {{"messages", messages},
                {"total", there.inbox + there.outgoing},
                {"outgoing", there.outgoing}});
  }

  void dead(const std::string& rid, const json& request, const std::string& op) {
    auto& mail = owner_.mail_;
    if (op == "dead_ls") {
      json messages = json::array();
      for (const auto& m : mail.box().dead_letters(agent_, kMaxDeadListed))
        messages.push_back(summary_json(m, wall_now()));
      return reply(rid, {{"messages", messages}, {"total", mail.box().dead_letter_count(agent_)}});
    }
    const bool purge = op == "dead_purge";
    const MessageId id{text_of(request, "messageId")};
    const bool all = flag_of(request, "all");
    if (all == !id.empty()) return fail(rid, invalid(op + " needs messageId, or all: true"));
    if (all) {
      const auto swept = purge ? mail.purge_all(agent_) : mail.redrive_all(agent_);
      return reply(rid, {{"count", swept.done}, {"failed", swept.failed}, {"left", swept.left}});
    }
    const auto status = purge ? mail.purge(agent_, id) : mail.redrive(agent_, id);
    if (!status) return fail(rid, status.error());
    reply(rid, {{"count", 1}, {"failed", 0}, {"left", mail.box().dead_letter_count(agent_)}});
  }

  void peers(const std::string& rid) {
    owner_.post_.peers(
        owner_.config_.team,
        once([rid](Connection* self, const Result<std::vector<Worker::Peer>>& found) {
          if (!found) return self->fail(rid, found.error());
          json out = json::array();
          std::size_t total = 0;
          for (const auto& p : *found) {
            const auto agents = self->owner_.post_.agents_of(p);
            total += agents.size();
            for (const auto& name : agents) {
              if (out.size() >= kMaxPeersListed) break;
              out.push_back({{"name", name.value},
                             {"role", p.role},
                             {"team", p.team},
                             {"state", p.state},
                             {"node", p.node}});
            }
          }
          self->reply(rid, {{"peers", out}, {"total", total}});
        }));
  }

  void stats(const std::string& rid) {
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

  void put_stuck_limit(json& object) {
    const auto& limit = owner_.worker_->stuck_limit();
    if (!limit) return;
    object["stuckAfterMs"] = limit->after_ms;
    if (limit->end) object["endStuck"] = true;
  }

  void task(const std::string& rid, const json& request, const std::string& op) {
    Worker* worker = owner_.worker_;
    if (worker == nullptr) return fail(rid, {Code::kDenied, "a coordinator's pod takes no tasks"});
    if (op == "task_next") {
      ++outstanding_;
      worker->next(milliseconds_of(request, "waitMs", 0), this,
                   [weak = weak_from_this(), rid](const Result<Worker::Leased>& leased) {
                     const auto self = weak.lock();
                     if (!self) return false;
                     --self->outstanding_;
                     if (self->closed_) return false;
                     if (!leased) {
                       if (leased.error().code == Code::kDenied) {
                         self->put(json{{"ok", false},
                                        {"code", "refused"},
                                        {"reason", "draining"},
                                        {"message", leased.error().message}},
                                   rid);
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
                     self->put_stuck_limit(t);
                     put_bytes(t, "body", leased->body);
                     if (!leased->command.empty()) t["command"] = leased->command;
                     self->reply(rid, {{"task", t}});
                     return true;
                   });
      return;
    }
    const TaskId id{text_of(request, "taskId")};
    const auto attempt = static_cast<std::uint32_t>(number_of(request, "attempt"));
    if (op == "task_submit" || op == "task_wait") {
      if (request.contains("taskId") != request.contains("attempt") ||
          (request.contains("taskId") && (!is_task_id(id.value) || attempt == 0)))
        return fail(rid, invalid(op + " takes taskId and attempt, as task_next gave them, of the "
                                      "task at work, or neither"));
      Self self;
      if (request.contains("taskId")) self = {id, attempt};
      return op == "task_submit" ? submit(rid, request, self) : wait(rid, request, self);
    }
    if (!is_task_id(id.value) || attempt == 0)
      return fail(rid, invalid(op + " needs taskId and attempt, as task_next gave them"));
    if (op == "task_extend" || op == "task_progress") {
      const auto progress = text_of(request, "message");
      const Worker::Quiet quiet{number_of(request, "quietMs"), text_of(request, "stuck")};
      worker->extend(id, attempt, op == "task_progress" ? &progress : nullptr,
                     quiet.ms > 0 ? &quiet : nullptr, flag_of(request, "confirm"),
                     once([rid, id, attempt](Connection* self, const Result<bool>& cancel) {
                       if (!cancel) return self->fail(rid, cancel.error());
                       json answer{{"cancel", *cancel}};
                       if (self->owner_.worker_->waits(id, attempt)) answer["waiting"] = true;
                       self->put_stuck_limit(answer);
                       self->reply(rid, std::move(answer));
                     }));
      return;
    }
    if (op != "task_done" && op != "task_fail")
      return fail(rid, invalid("unknown op " + printable(op.substr(0, 40))));
    // The wire form of the link is the one parser of reports; the socket's fields only differ in
    // where the bytes are.
    auto result = result_of(request);
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
    worker->report(*std::move(report), once([rid](Connection* self, const Status& status) {
      status ? self->reply_ok(rid) : self->fail(rid, status.error());
    }));
  }

  using Self = std::optional<std::pair<TaskId, std::uint32_t>>;
  void submit(const std::string& rid, const json& request, const Self& self) {
    if (request.contains("body") == request.contains("body64"))
      return fail(rid, invalid("one of body (text) and body64 (base64) is required"));
    auto body = request.contains("body") ? std::optional(text_of(request, "body"))
                                         : from_base64(text_of(request, "body64"));
    if (!body) return fail(rid, invalid("body64 must be base64"));
    json fields = json::object();
    for (const char* name : {"id", "key", "labels", "maxAttempts"}) {
      if (request.contains(name)) fields[name] = request[name];
    }
    // What is wrong is said here, by the same words as the coordinator's.
    const auto checked = parse_submission(fields, *body, owner_.config_.max_message_bytes);
    if (!checked) return fail(rid, checked.error());
    if (!fields.contains("id")) fields["id"] = "s" + owner_.next_id().substr(1);
    owner_.worker_->submit(fields, *body, self,
                           milliseconds_of(request, "timeoutMs", kSubmitTimeoutMs),
                           once([rid](Connection* to, const Result<Worker::Submitted>& done) {
                             if (!done) return to->fail(rid, done.error());
                             to->reply(rid, {{"taskId", done->id.value},
                                             {"survives", done->survives},
                                             {"duplicate", done->duplicate}});
                           }));
  }

  void wait(const std::string& rid, const json& request, const Self& self) {
    const auto tasks = request.value("tasks", std::vector<std::string>());
    if (tasks.empty() || tasks.size() > tasks::kMaxAwaited ||
        !std::all_of(tasks.begin(), tasks.end(), [](const auto& id) { return is_task_id(id); }))
      return fail(rid, invalid("task_wait needs tasks: 1 to " + std::to_string(tasks::kMaxAwaited) +
                               " tasks' ids, as task_submit gave them"));
    owner_.worker_->wait(
        tasks, self, milliseconds_of(request, "waitMs", 0), this,
        once([rid](Connection* to, const Result<json>& ended, std::string_view result) {
          if (!ended) return to->fail(rid, ended.error());
          json answer{{"tasks", *ended}};
          if (ended->size() == 1 && text_of((*ended)[0], "state") == "done")
            put_bytes(answer, "result", std::string(result));
          to->reply(rid, std::move(answer));
        }));
  }

  AgentSocket& owner_;
  std::shared_ptr<bool> alive_;
  Loop& loop_;
  AgentName agent_;    // whose connection it is: the pod's first one's, unless hello says another
  bool said_ = false;  // by hello
  stream_protocol::socket socket_;
  std::string inbound_, buffer_, queue_, writing_;
  std::size_t outstanding_ = 0, counted_ = 0;
  bool closed_ = false, write_scheduled_ = false, close_after_write_ = false;
  // Of the one call that watches: shown, not shown, and of these not said yet.
  bool watching_ = false;
  std::function<void()> turn_;  // what it waits with; it is not read from meanwhile
  std::uint64_t seen_ = 0, missed_ = 0, untold_ = 0;
  boost::asio::steady_timer watch_timer_;
};

AgentSocket::AgentSocket(Loop& loop, const Config& config, Mail& mail, Post& post, Worker* worker)
    : loop_(loop),
      config_(config),
      mail_(mail),
      post_(post),
      worker_(worker),
      acceptor_(loop.io()),
      retry_timer_(loop.io()),
      max_connections_(most_connections()) {}

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
  if (!e) acceptor_.listen(kMaxUnaccepted, e);
  if (e) return internal_error("agents' socket " + path + ": " + e.message());
  accept();
  return {};
}

std::string AgentSocket::next_id() {
  constexpr std::size_t kBytes = 8, kTogether = 128;
  if (random_.empty()) random_ = random_bytes(kBytes * kTogether);
  const std::string bytes = random_.substr(random_.size() - kBytes);
  random_.resize(random_.size() - kBytes);
  return "m-" + to_hex(bytes);
}

void AgentSocket::stop() {
  error_code ignored;  // it ends either way
  acceptor_.close(ignored);
  retry_timer_.cancel();
}

std::size_t AgentSocket::most_connections() const {
  return kMaxAgentConnections + kMoreConnectionsPerAgent * (config_.agents_per_pod - 1);
}

void AgentSocket::set_share(int percent, std::string why) {
  const auto share = most_connections() * static_cast<std::size_t>(percent) / 100;
  const auto least = kLeastConnectionsPerAgent * config_.agents_per_pod;
  // Beside what is open: who wants to ack must get in, to free what there is too much of.
  if (percent == 100)
    reserve_ = 0;
  else if (reserve_ == 0)
    reserve_ = connections_ + least;
  max_connections_ = std::min(most_connections(), std::max({share, least, reserve_}));
  shortage_ = std::move(why);
}

void AgentSocket::accept() {
  acceptor_.async_accept([this, alive = alive_](error_code e, stream_protocol::socket socket) {
    if (!*alive || e == boost::asio::error::operation_aborted) return;
    if (e) {  // out of descriptors: not in a busy loop
      retry_timer_.expires_after(kAcceptRetry);
      retry_timer_.async_wait([this, alive](error_code stop) {
        if (!stop && *alive) accept();
      });
      return;
    }
    if (connections_ < max_connections_)
      std::make_shared<Connection>(*this, std::move(socket))->read();
    else
      refuse(std::move(socket));
    accept();
  });
}

void AgentSocket::next_turn() {
  loop_.post([this, alive = alive_] {
    while (*alive && !turns_.empty()) {
      const auto connection = std::move(turns_.front());
      turns_.pop_front();
      const bool more = !turns_.empty();
      // The one that took it may stand in the queue again, and has asked for the next turn then.
      if (!connection->take_turn()) continue;
      if (more) next_turn();
      return;
    }
  });
}

// Whoever has the most gives it back, so that nobody who reads is the one.
void AgentSocket::make_room() {
  if (crowded_.due(mono_now()))
    telemetry::warn("agents leave too much unread or unfinished: connections are closed",
                    {{"connections", connections_}});
  while (held_bytes_ > kMaxAgentBytes) {
    const auto most = std::max_element(
        open_.begin(), open_.end(),
        [](const Connection* a, const Connection* b) { return a->held_bytes() < b->held_bytes(); });
    (*most)->make_room();
  }
}

// One line that says why; whoever does not read it sees the connection end.
void AgentSocket::refuse(stream_protocol::socket socket) const {
  std::string why = "no more connections to " + config_.name.value +
                    "'s sidecar: " + std::to_string(connections_) + " are open, ";
  const auto most = std::to_string(most_connections());
  why += max_connections_ == most_connections()
             ? "its limit"
             : std::to_string(max_connections_) + " of " + most + " allowed now: " + shortage_;
  std::string line =
      json{{"ok", false}, {"code", code_name(Code::kFull)}, {"message", why}, {"rid", nullptr}}
          .dump() +
      "\n";
  error_code ignored;  // it ends either way
  socket.non_blocking(true, ignored);
  (void)write_now(socket, line);
}

}  // namespace swarm::engine
