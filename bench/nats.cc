#include "nats.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <vector>

namespace swarm::bench {
namespace {

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> out;
  while (!line.empty()) {
    const auto end = std::min(line.find(' '), line.size());
    if (end > 0) out.push_back(line.substr(0, end));
    line.remove_prefix(std::min(end + 1, line.size()));
  }
  return out;
}

}  // namespace

Nats::Nats(std::uint16_t port) : wire_("127.0.0.1", port) {
  out_ = "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1}\r\n";
  ping();
  flush();
  Message none;
  while (pongs_ == 0) {
    wire_.read(true);
    if (next(none)) fail("nats: a message before anything was asked for");
  }
}

void Nats::subscribe(std::string_view subject) {
  out_.append("SUB ").append(subject).append(" ").append(std::to_string(++subscriptions_));
  out_ += "\r\n";
}

void Nats::publish(std::string_view subject, std::string_view body, std::string_view reply) {
  out_.append("PUB ").append(subject).append(" ");
  if (!reply.empty()) out_.append(reply).append(" ");
  out_.append(std::to_string(body.size())).append("\r\n").append(body).append("\r\n");
}

void Nats::flush() {
  wire_.write(out_);
  out_.clear();
}

bool Nats::next(Message& out) {
  while (true) {
    const auto text = wire_.pending();
    const auto end = text.find("\r\n");
    if (end == std::string_view::npos) return false;
    const auto line = text.substr(0, end);
    if (line.starts_with("MSG ")) {
      const auto words = words_of(line);  // MSG subject sid [reply] bytes
      std::size_t bytes = 0;
      if (words.size() < 4) fail("nats: " + std::string(line));
      std::from_chars(words.back().data(), words.back().data() + words.back().size(), bytes);
      if (text.size() < end + 2 + bytes + 2) return false;
      out = {words[1], words.size() > 4 ? words[3] : std::string_view(),
             text.substr(end + 2, bytes)};
      wire_.take(end + 2 + bytes + 2);
      return true;
    }
    if (line == "PONG") {
      ++pongs_;
    } else if (line == "PING") {
      wire_.write("PONG\r\n");
    } else if (!line.starts_with("INFO ")) {
      fail("nats: " + std::string(line));
    }
    wire_.take(end + 2);
  }
}

void Nats::manage(const std::string& subject, const std::string& json) {
  // Nobody else's: whoever subscribes to a subject gets what is meant for others, too.
  const std::string inbox = "_manage." + std::to_string(::getpid()) + "." + std::to_string(fd());
  subscribe(inbox);
  const auto subscription = subscriptions_;
  publish(subject, json, inbox);
  flush();
  Message answer;
  while (!next(answer)) wire_.read(true);
  if (answer.subject != inbox || answer.body.find("\"error\"") != std::string_view::npos)
    fail("nats: " + subject + ": " + std::string(answer.body.substr(0, 300)));
  out_ += "UNSUB " + std::to_string(subscription) + "\r\n";
  flush();
}

void make_stream(Nats& nats) {
  nats.manage("$JS.API.STREAM.CREATE.S",
              R"({"name":"S","subjects":["j.>"],"retention":"workqueue","storage":"memory",)"
              R"("max_consumers":-1,"max_msgs":-1,"max_bytes":-1,"max_age":0,"num_replicas":1})");
}

void make_consumer(Nats& nats, const std::string& name) {
  nats.manage("$JS.API.CONSUMER.DURABLE.CREATE.S." + name,
              R"({"stream_name":"S","config":{"durable_name":")" + name +
                  R"(","deliver_subject":"d.)" + name + R"(","filter_subject":"j.)" + name +
                  R"(","deliver_policy":"all","replay_policy":"instant","ack_policy":"explicit",)"
                  R"("ack_wait":60000000000,"max_ack_pending":100000,"mem_storage":true}})");
}

}  // namespace swarm::bench
