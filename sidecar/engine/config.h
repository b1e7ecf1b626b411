// What the operator tells a sidecar through its environment (docs/pod-layout.md), validated at
// once.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "os/time.h"

namespace swarm::engine {

struct Config {
  bool coordinator = false;
  bool leaving = false;  // an engine restarted in a pod that is going: it takes no role any more
  std::string swarm, swarm_uid, namespace_name;
  AgentName name;  // of the pod
  std::uint32_t agents_per_pod = 1;
  std::uint32_t team = 0, coordinators = 1;
  std::string pod, pod_uid, pod_ip, node, link_service;
  std::string mount_path = "/dev/shm/cfn", log_path = "/var/lib/cfn/log", bin_path = "/cfn/bin";
  std::string link_secret_file = "/var/run/cfn/link/link",
              submit_token_file = "/var/run/cfn/submit/token";
  std::string api_path = "/var/run/cfn/api";
  std::string agentctl_file = "/usr/local/bin/agentctl";
  std::string spill_path = "/var/lib/cfn/spill";
  std::uint64_t spill_bytes = 0;    // 0: no spill
  std::uint64_t journal_bytes = 0;  // of the log on a persistent volume; 0: it is on a tmpfs
  [[nodiscard]] bool journal() const { return journal_bytes > 0; }
  std::uint16_t link_port = 7070, http_port = 7080;
  std::uint32_t max_inbox_messages = 1000, max_message_bytes = 65536;
  bool reject_when_full = false;
  bool node_durability = false;
  // A coordinator's own mail is exempt: no custodian would find its successor.
  [[nodiscard]] bool entrusts() const { return node_durability && !coordinator; }
  Milliseconds backpressure_timeout{5000}, health_period{5000}, drain_timeout{30000};
  int failure_threshold = 2;
};

// Every error of `environment` in one message, one line each: the variable, what it is, what is
// allowed.
Result<Config> parse_config(const std::map<std::string, std::string>& environment);
std::map<std::string, std::string> process_environment();

}  // namespace swarm::engine
