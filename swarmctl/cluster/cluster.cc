#include "cluster/cluster.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/encoding.h"
#include "text/format.h"
#include "text/json.h"

namespace swarm::cluster {
namespace {

using nlohmann::json;
using text::get_text;
using text::percent_encode;

constexpr std::size_t kMostQuoted = 600;

Result<json> parse(const std::string& body, const std::string& doing) {
  json value = json::parse(body, nullptr, false);
  if (!value.is_object()) return internal_error(doing + ": the answer is no JSON object");
  return value;
}

std::string excerpt(const std::string& body) {
  return text::shorten(text::harmless(body), kMostQuoted);
}

std::string join(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

std::string role_for(const std::string& swarm, const std::string& name_space) {
  return "a Role in namespace " + name_space + " with these rules, bound to you, gives it:\n" +
         "  - {apiGroups: [\"\"], resources: [secrets], resourceNames: [" + swarm +
         "-submit], verbs: [get]}\n" +
         "  - {apiGroups: [\"\"], resources: [services/proxy], resourceNames: [\"" + swarm +
         "-tasks:http\"], verbs: [get, create]}";
}

Error unreachable(const std::string& swarm, const std::string& name_space, const std::string& why) {
  return unavailable("the coordinator of swarm " + swarm + " can't be reached (" + why +
                     "). Nothing was changed. Look at:\n" + "  kubectl get pods -n " + name_space +
                     " -l cfn.dev/swarm=" + swarm + ",cfn.dev/role=coordinator\n" +
                     "  kubectl describe swarm " + swarm + " -n " + name_space);
}

// What Go says when a request did not get through, or its answer did not come back. Such a text
// must not be looked for in answers of the API server: they are Status objects.
constexpr std::string_view kNotSent[] = {
    "dial ", "lookup ", "proxyconnect ", "x509: ", "tls: ", "TLS ", "credentials"};
constexpr std::string_view kCutOff[] = {
    "EOF",          "connection reset", "broken pipe",   "http2: ",    "net/http: ",
    "stream error", "context canceled", "use of closed", "i/o timeout"};

Error no_crd() {
  return not_found(
      "this cluster knows no Swarms (no CustomResourceDefinition swarms.cfn.dev): install the "
      "operator first, or is --context the right one?");
}

}  // namespace

std::optional<Error> explain_no_answer(const HttpResponse& response) {
  // 502: what other versions of it, or a load balancer in between, may say.
  if ((response.status != 500 && response.status != 502) ||
      !response.content_type.starts_with("text/plain"))
    return std::nullopt;
  const auto says = [&](std::string_view words) {
    return response.body.find(words) != std::string::npos;
  };
  const bool not_sent = std::any_of(std::begin(kNotSent), std::end(kNotSent), says);
  if (!not_sent && !std::any_of(std::begin(kCutOff), std::end(kCutOff), says)) return std::nullopt;
  return Error{not_sent ? Code::kUnavailable : Code::kUnknown, excerpt(response.body)};
}

Error explain_kubernetes(int status, const std::string& body, const std::string& doing) {
  const json value = json::parse(body, nullptr, false);
  std::string message = value.is_object() ? get_text(value, "message") : "";
  if (message.empty()) message = body;
  message =
      doing + ": " + (message.empty() ? "HTTP status " + std::to_string(status) : excerpt(message));
  switch (status) {
    case 400:
    case 422:
      return invalid(message);
    case 401:
      return {Code::kDenied,
              message + ": kubectl's login is not valid (any more); does `kubectl get pods` work?"};
    case 403:
      return {Code::kDenied, message};
    case 404:
      return not_found(message);
    case 409:
      return {Code::kConflict, message};
    case 502:
      return unavailable(message +
                         ": the API server can't be reached; does `kubectl get pods` work?");
    case 429:
    case 503:
      return unavailable(message);
    case 504:
      return {Code::kUnknown, message};
    default:
      return internal_error(message);
  }
}

Error explain_task_api(int status, const std::string& body, const std::string& swarm,
                       const std::string& name_space) {
  const json value = json::parse(body, nullptr, false);
  const bool from_kubernetes = value.is_object() && get_text(value, "kind") == "Status";
  const std::string code = value.is_object() && !from_kubernetes ? get_text(value, "code") : "";
  const std::string message = value.is_object() ? get_text(value, "message") : "";
  if (!code.empty()) {  // our own error
    Error error{code_from_name(code), excerpt(message.empty() ? code : message)};
    if (code == "denied") error.code = Code::kDenied;
    if (status == 401) {
      error = {Code::kDenied, "the coordinators of swarm " + swarm +
                                  " do not accept the token of Secret " + swarm +
                                  "-submit; was it changed a moment ago? Then try again"};
    }
    return error;
  }
  const std::string why = excerpt(message.empty() ? body : message);
  if (status == 403) {
    return {Code::kDenied, "you may not use the task API of swarm " + swarm + " (" + why + "); " +
                               role_for(swarm, name_space)};
  }
  if (status == 404 && from_kubernetes) {
    return unreachable(swarm, name_space,
                       "the operator has not made Service " + swarm + "-tasks yet");
  }
  if (status == 502 || status == 503)
    return unreachable(swarm, name_space, why.empty() ? "HTTP " + std::to_string(status) : why);
  if (status == 504) {
    return {Code::kUnknown,
            "the coordinator of swarm " + swarm + " did not answer in time (" + why + ")"};
  }
  if (status == 429) return {Code::kFull, why};
  return explain_kubernetes(status, body, "task API of swarm " + swarm);
}

Result<json> Cluster::get(const std::string& target, const std::string& doing, MonoTime deadline) {
  HttpRequest request;
  request.target = target;
  Milliseconds wait = kRetryFirst;
  for (bool first = true;; first = false) {
    Result<HttpResponse> response = send(request, deadline);
    if (response) {
      if (response->status < 200 || response->status > 299)
        return explain_kubernetes(response->status, response->body, doing);
      return parse(response->body, doing);
    }
    Error error = response.error();
    if (error.code == Code::kUnknown) error.code = Code::kUnavailable;  // nothing was changed
    const bool again = error.code == Code::kUnavailable && (reached_ || insistent_);
    if (!again || mono_now() + wait >= deadline)
      return error.code == Code::kUnavailable ? error : error.in(doing);
    if (first && on_wait_) on_wait_(error);
    std::this_thread::sleep_for(wait);
    wait = std::min(wait * 2, kRetryMost);
  }
}

Error Cluster::no_answer(Error error) const {
  if (error.code != Code::kUnavailable && error.code != Code::kUnknown) return error;
  std::string server = server_ ? server_() : "";
  if (!server.empty()) server = " " + text::shorten(server, kMostQuoted);
  if (reached_)  // then perhaps it is what lies behind it
    return {error.code, "no answer through the API server" + server + ": " + error.message};
  return {error.code, "no answer from the API server" + server + ": " + error.message +
                          "\nIs it up, and is this the right context (kubectl config "
                          "current-context, --context)?"};
}

Result<HttpResponse> Cluster::send(const HttpRequest& request, MonoTime deadline) {
  Result<HttpResponse> response =
      http_.send(request, std::min(deadline, mono_now() + kAttemptLimit));
  if (!response) return no_answer(response.error());
  if (const std::optional<Error> none = explain_no_answer(*response)) return no_answer(*none);
  reached_ = true;
  return response;
}

Result<std::vector<std::string>> Cluster::swarm_names(MonoTime deadline) {
  const Result<json> list = get("/apis/cfn.dev/v1alpha1/namespaces/" + percent_encode(namespace_) +
                                    "/swarms?limit=" + std::to_string(kMostSwarms),
                                "list swarms", deadline);
  if (!list) {
    // The API server answers 404 for a kind that it doesn't know; an empty list is a 200.
    if (list.error().code == Code::kNotFound) return no_crd();
    return list.error();
  }
  std::vector<std::string> names;
  for (const json& item : text::get(*list, "items")) {
    const std::string name = get_text(text::get(item, "metadata"), "name");
    if (text::parse_swarm(name)) names.push_back(name);
  }
  return names;
}

Result<json> Cluster::swarm(const std::string& name, MonoTime deadline) {
  Result<json> found = get("/apis/cfn.dev/v1alpha1/namespaces/" + percent_encode(namespace_) +
                               "/swarms/" + percent_encode(name),
                           "get swarm " + name, deadline);
  if (found || found.error().code != Code::kNotFound) return found;
  const Result<std::vector<std::string>> names = swarm_names(deadline);
  if (!names) return names.error();
  const std::string near = text::nearest(name, *names);
  return not_found("there is no swarm " + name + " in namespace " + namespace_ +
                   (names->empty() ? "; there is none at all (other namespaces: -n)"
                                   : "; there are: " + join(*names) +
                                         (near.empty() ? "" : ". Did you mean " + near + "?")));
}

Result<json> Cluster::swarm_events(const std::string& name, MonoTime deadline) {
  Result<json> list =
      get("/api/v1/namespaces/" + percent_encode(namespace_) + "/events?fieldSelector=" +
              percent_encode("involvedObject.kind=Swarm,involvedObject.name=" + name),
          "list events", deadline);
  if (!list) return list;
  return text::get(*list, "items");
}

Result<json> Cluster::pod(const std::string& name, MonoTime deadline) {
  return get("/api/v1/namespaces/" + percent_encode(namespace_) + "/pods/" + percent_encode(name),
             "get pod " + name, deadline);
}

Status Cluster::pod_log(const std::string& pod, const std::string& container, bool follow,
                        bool previous, const std::function<void(std::string_view)>& take,
                        const std::function<bool()>& go_on) {
  HttpRequest request;
  request.target = "/api/v1/namespaces/" + percent_encode(namespace_) + "/pods/" +
                   percent_encode(pod) + "/log?container=" + percent_encode(container) +
                   (follow ? "&follow=true" : "") + (previous ? "&previous=true" : "");
  request.headers["Accept"] = "*/*";
  const Result<HttpResponse> response = http_.stream(request, take, go_on);
  const std::string doing = "log of pod " + pod + ", container " + container;
  if (const std::optional<Error> none =
          response ? explain_no_answer(*response) : std::optional<Error>(response.error())) {
    Error error = no_answer(*none);
    if (error.code == Code::kUnknown) error.code = Code::kUnavailable;  // nothing was changed
    return error.in(doing);
  }
  if (response->status != 200) return explain_kubernetes(response->status, response->body, doing);
  return {};
}

Result<std::string> Cluster::token(const std::string& name, MonoTime deadline) {
  const auto known = tokens_.find(name);
  if (known != tokens_.end()) return known->second;
  const std::string secret_name = name + "-submit";
  const Result<json> secret = get("/api/v1/namespaces/" + percent_encode(namespace_) + "/secrets/" +
                                      percent_encode(secret_name),
                                  "get secret " + secret_name, deadline);
  if (!secret) {
    if (secret.error().code == Code::kDenied) {
      return Error{Code::kDenied, secret.error().message +
                                      "\nReading this Secret is the right to use swarm " + name +
                                      "; " + role_for(name, namespace_)};
    }
    if (secret.error().code != Code::kNotFound) return secret.error();
    const Result<json> found = swarm(name, deadline);
    if (!found) return found.error();
    return unreachable(name, namespace_,
                       "the operator has not made Secret " + secret_name + " yet");
  }
  const std::optional<std::string> value =
      from_base64(get_text(text::get(*secret, "data"), "token"));
  const bool clean =
      value && !value->empty() &&
      std::all_of(value->begin(), value->end(), [](char c) { return c > ' ' && c < '\x7F'; });
  if (!clean)
    return internal_error("Secret " + secret_name +
                          " has no usable key 'token': delete it, the operator makes it again");
  tokens_[name] = *value;
  return *value;
}

Result<HttpResponse> Cluster::try_once(const std::string& name, const HttpRequest& request,
                                       MonoTime deadline) {
  const Result<std::string> secret = token(name, deadline);
  if (!secret) return secret.error();
  HttpRequest signed_request = request;
  signed_request.headers["X-Swarm-Token"] = *secret;
  Result<HttpResponse> response = send(signed_request, deadline);
  if (!response) return response;
  if (response->status >= 200 && response->status <= 299) return response;
  if (response->status == 401)
    tokens_.erase(name);  // it may have been replaced; the next try reads it anew
  return explain_task_api(response->status, response->body, name, namespace_);
}

Result<HttpResponse> Cluster::call(const std::string& name, const std::string& method,
                                   const std::string& path, const std::string& body,
                                   bool repeatable, MonoTime deadline) {
  HttpRequest request;
  request.method = method;
  request.target = "/api/v1/namespaces/" + percent_encode(namespace_) + "/services/" +
                   percent_encode(name) + "-tasks:http/proxy/v1" + path;
  request.body = body;
  if (!body.empty()) request.headers["Content-Type"] = "application/json";
  Milliseconds wait = kRetryFirst;
  bool uncertain = false;
  bool token_read_again = false;
  for (bool first = true;; first = false) {
    const bool had_token = tokens_.contains(name);
    const MonoTime begin = mono_now();
    Result<HttpResponse> response = try_once(name, request, deadline);
    if (response) return response;
    const Code code = response.error().code;
    if (code == Code::kDenied && had_token && !tokens_.contains(name) && !token_read_again) {
      token_read_again = true;
      continue;
    }
    uncertain = uncertain || code == Code::kUnknown;
    const bool again = (code == Code::kUnavailable && (reached_ || insistent_)) ||
                       (code == Code::kUnknown && repeatable) || (code == Code::kFull && patient_);
    // A refusal is certain. Another try that is cut off before its answer would make it unknown.
    const bool refused = code == Code::kUnavailable && method != "GET";
    const MonoTime now = mono_now();
    if (!again || now + wait + (refused ? now - begin : MonoTime::duration{}) >= deadline) {
      if (uncertain && code == Code::kUnavailable && method != "GET") {
        return Error{Code::kUnknown,
                     response.error().message + "\nAn earlier try may have been carried out."};
      }
      if (method == "GET" && code == Code::kUnknown)
        return Error{Code::kUnavailable, response.error().message};
      return response;
    }
    if (first && on_wait_) on_wait_(response.error());
    std::this_thread::sleep_for(wait);
    wait = std::min(wait * 2, kRetryMost);
  }
}

Result<json> Cluster::call_json(const std::string& name, const std::string& method,
                                const std::string& path, const std::string& body, bool repeatable,
                                MonoTime deadline) {
  const Result<HttpResponse> response = call(name, method, path, body, repeatable, deadline);
  if (!response) return response.error();
  return parse(response->body, "task API of swarm " + name);
}

void Listing::add(const json& answer, const std::string& name) {
  for (const json& item : text::get(answer, name)) items.push_back(item);
  for (const json& team : text::get(answer, "missingTeams")) {
    if (team.is_number_unsigned()) missing_teams.insert(team.get<std::int64_t>());
  }
  recovering = recovering || text::get_flag(answer, "recovering");
  for (const json& pod : text::get(answer, "missing")) {
    if (pod.is_string()) missing_pods.insert(pod.get<std::string>());
  }
  more += static_cast<std::uint64_t>(std::max<std::int64_t>(0, text::get_number(answer, "more")));
}

Result<Listing> Cluster::tasks(const std::string& name, const std::string& query,
                               MonoTime deadline) {
  Listing out;
  std::string after;
  for (std::size_t pages = 0; pages < kMostPages && out.items.size() < kMostTasks; ++pages) {
    const std::string path = "/tasks?limit=" + std::to_string(kTasksPerPage) +
                             (query.empty() ? "" : "&" + query) +
                             (after.empty() ? "" : "&after=" + percent_encode(after));
    const Result<json> page = call_json(name, "GET", path, "", true, deadline);
    if (!page && page.error().code == Code::kNotFound && !after.empty()) {
      return unavailable("the tasks of swarm " + name +
                         " changed too much while they were listed; list them again (" +
                         page.error().message + ")");
    }
    if (!page) return page.error();
    out.add(*page, "tasks");
    const std::string next = get_text(*page, "next");
    if (next.empty() || next == after) break;
    after = next;
  }
  return out;
}

Result<TaskPlace> Cluster::find_task(const TaskId& task, const std::string& given,
                                     MonoTime deadline) {
  std::vector<std::string> names{given};
  if (given.empty()) {
    const Result<std::vector<std::string>> all = swarm_names(deadline);
    if (!all) {
      if (all.error().code != Code::kDenied) return all.error();
      return Error{Code::kDenied, all.error().message + "\nName the task's swarm: --swarm S"};
    }
    if (all->empty())
      return not_found("there is no swarm in namespace " + namespace_ + " (other namespaces: -n)");
    names = *all;
  }
  std::vector<TaskPlace> found;
  std::vector<Error> troubles;
  for (const std::string& name : names) {
    // One swarm that is down must not use up the time of the others.
    const MonoTime limit =
        names.size() == 1 ? deadline : std::min(deadline, mono_now() + kRetryMost);
    Result<json> value =
        call_json(name, "GET", "/tasks/" + percent_encode(task.value), "", true, limit);
    if (value) {
      found.push_back({name, std::make_shared<const json>(*std::move(value))});
    } else if (value.error().code != Code::kNotFound || names.size() == 1) {
      troubles.push_back(value.error());
    }
  }
  if (found.size() == 1) return found[0];
  if (found.size() > 1) {
    std::vector<std::string> where;
    for (const TaskPlace& place : found) where.push_back(place.swarm);
    return invalid("task " + task.value + " exists in several swarms (" + join(where) +
                   "): say which one with --swarm");
  }
  if (!troubles.empty()) {
    if (names.size() == 1) return troubles[0];
    return troubles[0].in("task " + task.value +
                          " was not found in the swarms that could be asked; one could not");
  }
  return not_found("no swarm in namespace " + namespace_ + " has a task " + task.value +
                   " (asked: " + join(names) +
                   "). Finished tasks are kept for spec.tasks.resultRetentionSeconds");
}

Result<std::string> Cluster::only_swarm(const std::string& given, MonoTime deadline) {
  if (!given.empty()) return given;
  const Result<std::vector<std::string>> names = swarm_names(deadline);
  if (!names) return names.error();
  if (names->size() == 1) return (*names)[0];
  if (names->empty())
    return not_found("there is no swarm in namespace " + namespace_ + " (other namespaces: -n)");
  return invalid("which swarm? There are: " + join(*names));
}

}  // namespace swarm::cluster
