#include "kube/client.h"

#include <algorithm>
#include <cstdlib>

namespace swarm::kube {
namespace {

constexpr std::string_view kAccountVolume = "/var/run/secrets/kubernetes.io/serviceaccount";

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

}  // namespace

Client::Client(net::HttpClient& http, Gate gate, Observer observer)
    : http_(http), gate_(std::move(gate)), observer_(std::move(observer)) {}

Reply Client::call(const Request& request, std::stop_token stop, Milliseconds deadline) {
  Reply out;
  if (gate_ && request.method != "GET") {
    deadline = std::min(deadline, gate_());
    if (deadline <= Milliseconds{0}) {
      out.transport = Code::kCancelled;
      out.error.message = "not the leader any more: nothing is written";
      return out;
    }
  }
  net::HttpCall call;
  call.method = request.method;
  call.target = request.target;
  call.content_type = request.content_type;
  call.body = request.body;
  call.headers = {{"Accept", request.accept}, {"User-Agent", "swarm/" SWARM_VERSION}};
  const MonoTime start = mono_now();
  Result<net::HttpReply> reply = http_.send(call, deadline, std::move(stop));
  const int status = reply.ok() ? reply->status : 0;
  if (observer_) observer_(request.method, status, mono_now() - start);
  if (!reply.ok()) {
    out.transport = reply.error().code;
    out.error.message = reply.error().message;
    return out;
  }
  out.http_status = status;
  if (out.ok()) {
    out.body = std::move(reply->body);
  } else {
    const auto retry_after = reply->headers.find("retry-after");
    out.error = parse_error(status, reply->body,
                            retry_after == reply->headers.end() ? "" : retry_after->second);
  }
  return out;
}

Result<net::HttpClientOptions> cluster_options(const ClusterFlags& flags) {
  net::HttpClientOptions out;
  if (!flags.api_server.empty()) {
    const Result<net::Url> url = net::parse_url(flags.api_server);
    if (!url.ok()) return url.error().in("--api-server");
    if (url->tls && flags.ca_file.empty())
      return invalid("--api-server with https needs --ca-file");
    out.url = flags.api_server;
    if (out.url.ends_with('/')) out.url.pop_back();
    out.token_file = flags.token_file;
    out.ca_file = flags.ca_file;
    return out;
  }
  std::string host = environment("KUBERNETES_SERVICE_HOST");
  std::string port = environment("KUBERNETES_SERVICE_PORT");
  if (host.empty()) {
    return invalid(
        "not in a cluster (KUBERNETES_SERVICE_HOST is not set): give --api-server URL, "
        "--token-file, --ca-file");
  }
  if (port.empty()) port = "443";
  // An IPv6 address is replaced by the name that every cluster gives it: the HTTP library takes no
  // such addresses.
  if (host.find(':') != std::string::npos) host = "kubernetes.default.svc";
  out.url = "https://" + host + ":" + port;
  out.token_file =
      flags.token_file.empty() ? std::string(kAccountVolume) + "/token" : flags.token_file;
  out.ca_file = flags.ca_file.empty() ? std::string(kAccountVolume) + "/ca.crt" : flags.ca_file;
  return out;
}

}  // namespace swarm::kube
