// The operator as a whole: election, informers, worker, HTTP, and how they start and stop.
//
// Threads: one for the election, one for HTTP, one worker that reconciles, one per watched kind
// (only while leading). Order: not leading: only the election runs, and the pod is ready as long as
// the API server answers. Won: everything is listed anew, then the worker starts. Lost: on_lost;
// nothing is written from that moment on. Stop: readiness off, no new work, the action under way is
// finished, the Lease is released.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "net/http_client.h"
#include "plan/plan.h"
#include "reconcile/elector.h"

namespace swarm::reconcile {

struct OperatorOptions {
  bool elect = true;
  ElectorOptions elector;       // namespace and identity may be empty without election
  std::string watch_namespace;  // empty: all
  plan::Settings settings;      // the Kubernetes version is filled in
  std::string http_address = "0.0.0.0";
  std::uint16_t http_port = 8080;
  std::string instance;  // in Events
};

class Operator {
 public:
  // http is borrowed. on_lost is called at most once, from a thread of the operator: the process is
  // to end.
  Operator(net::HttpClient& http, OperatorOptions options, std::function<void()> on_lost);
  ~Operator();
  Operator(const Operator&) = delete;
  Operator& operator=(const Operator&) = delete;

  // kUnavailable: it can't listen.
  Status start();
  // Returns when everything has ended. False: not within `deadline`; the caller should end the
  // process.
  bool stop(Milliseconds deadline);

  [[nodiscard]] std::uint16_t http_port() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace swarm::reconcile
