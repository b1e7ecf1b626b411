#include "engine/team_http.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "net/beast_client.h"

namespace swarm::engine {
namespace {

// Of an answer's headers, those that the client is to see.
constexpr const char* kPassedOn[] = {"retry-after", "x-swarm-truncated"};

net::HttpResponse send(const std::string& url, std::uint32_t team, const net::HttpCall& call,
                       Milliseconds limit, std::stop_token stop) {
  const std::string who = "coordinator-" + std::to_string(team);
  net::HttpClientOptions options;
  options.url = url;
  options.connect_timeout = kForwardConnectLimit;
  auto client = net::make_beast_client(options);
  if (!client) return net::error_response(client.error());
  auto reply = (*client)->send(call, limit, std::move(stop));
  if (!reply) return net::error_response(reply.error().in(who));
  const auto type = reply->headers.find("content-type");
  net::HttpResponse out{reply->status,
                        type == reply->headers.end() ? "application/json" : type->second,
                        std::move(reply->body),
                        {}};
  for (const char* name : kPassedOn) {
    if (const auto found = reply->headers.find(name); found != reply->headers.end())
      out.headers.emplace_back(name, found->second);
  }
  return out;
}

}  // namespace

struct TeamHttp::Poll {
  std::uint32_t team;
  net::HttpCall call;
  MonoTime until;
  Over over;
  Done done;
  Milliseconds pause;
  boost::asio::steady_timer timer;
};

TeamHttp::TeamHttp(Loop& loop, Url url) : loop_(loop), url_(std::move(url)) {}

TeamHttp::TeamHttp(Loop& loop, const Config& config)
    : TeamHttp(loop, [&config](std::uint32_t team) {
        return "http://coordinator-" + std::to_string(team) + "." + config.link_service + ":" +
               std::to_string(config.http_port);
      }) {}

void TeamHttp::stop() {
  *alive_ = false;
  stop_.request_stop();
  lanes_.clear();
  if (!threads_) return;
  threads_->stop();
  threads_->join();
  threads_.reset();
}

void TeamHttp::carry(std::uint32_t team, net::HttpCall call, Done done) {
  ++carried_;
  ask(team, std::move(call), [this, done = std::move(done)](net::HttpResponse response) {
    --carried_;
    done(std::move(response));
  });
}

void TeamHttp::ask(std::uint32_t team, net::HttpCall call, Done done) {
  auto& lane = lanes_[team];
  if (lane.waiting.size() + lane.running >= kMaxForwardsPerTeam) {
    return done(
        net::error_response({Code::kFull, "too many requests are on their way to coordinator-" +
                                              std::to_string(team)}));
  }
  const auto limit = call.method == "GET" ? kForwardReadLimit : kForwardWriteLimit;
  lane.waiting.push_back({std::move(call), mono_now() + limit, std::move(done)});
  start();
}

void TeamHttp::start() {
  while (running_ < kForwardThreads) {
    const auto ready = [](const auto& lane) {
      return !lane.second.waiting.empty() && lane.second.running < kThreadsPerTeam;
    };
    auto next = std::find_if(lanes_.upper_bound(turn_), lanes_.end(), ready);
    if (next == lanes_.end()) next = std::find_if(lanes_.begin(), lanes_.end(), ready);
    if (next == lanes_.end()) return;
    turn_ = next->first;
    Job job = std::move(next->second.waiting.front());
    next->second.waiting.pop_front();
    ++next->second.running;
    ++running_;
    run(turn_, std::move(job));
  }
}

void TeamHttp::run(std::uint32_t team, Job job) {
  if (!threads_) threads_.emplace(kForwardThreads);
  boost::asio::post(*threads_, [this, team, alive = alive_, url = url_(team),
                                stop = stop_.get_token(), job = std::move(job)] {
    const auto left = job.deadline - mono_now();
    auto response =
        left <= Milliseconds{0}
            ? net::error_response(unavailable("coordinator-" + std::to_string(team) +
                                              " does not answer in time; nothing was sent"))
            : send(url, team, job.call, left, stop);
    loop_.post([this, team, alive, done = job.done, response = std::move(response)] {
      if (!*alive) return;
      --lanes_[team].running;
      --running_;
      start();
      done(response);
    });
  });
}

void TeamHttp::poll(std::uint32_t team, net::HttpCall call, MonoTime until, Over over, Done done) {
  ++polling_;
  again(std::make_shared<Poll>(Poll{team, std::move(call), until, std::move(over), std::move(done),
                                    kPollFirst, boost::asio::steady_timer(loop_.io())}));
}

void TeamHttp::again(const std::shared_ptr<Poll>& poll) {
  ask(poll->team, poll->call, [this, poll](net::HttpResponse response) {
    const auto left = poll->until - mono_now();
    if (response.status != 200 || left <= Milliseconds{0} || poll->over(response)) {
      --polling_;
      return poll->done(std::move(response));
    }
    poll->timer.expires_after(std::min(poll->pause, left));
    poll->pause = std::min(poll->pause * 2, kPollMost);
    poll->timer.async_wait([this, poll, alive = alive_](boost::system::error_code e) {
      if (!e && *alive) again(poll);
    });
  });
}

}  // namespace swarm::engine
