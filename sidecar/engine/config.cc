#include "engine/config.h"

#include <charconv>

#include "base/encoding.h"
#include "mailbox/mailbox.h"

extern char** environ;  // POSIX

namespace swarm::engine {
namespace {

constexpr std::uint64_t kMaxLogBytes = 1ULL << 40U;

class Reader {
 public:
  explicit Reader(const std::map<std::string, std::string>& environment)
      : environment_(environment) {}

  void text(const char* name, std::string& out, bool required = true) {
    const auto found = environment_.find(name);
    if (found != environment_.end() && !found->second.empty()) {
      out = found->second;
    } else if (required && out.empty()) {
      fail(name, "is missing");
    }
  }

  template <typename Number>
  void number(const char* name, Number& out, std::uint64_t low, std::uint64_t high) {
    const auto found = environment_.find(name);
    if (found == environment_.end()) return;
    std::uint64_t value = 0;
    const char* end = found->second.data() + found->second.size();
    const auto [stop, error] = std::from_chars(found->second.data(), end, value);
    if (error != std::errc() || stop != end || value < low || value > high) {
      fail(name, "is \"" + found->second.substr(0, 40) + "\", allowed: " + std::to_string(low) +
                     " to " + std::to_string(high));
      return;
    }
    out = static_cast<Number>(value);
  }

  void seconds(const char* name, Milliseconds& out, std::uint64_t low, std::uint64_t high) {
    auto value = static_cast<std::uint64_t>(out.count()) / 1000;
    number(name, value, low, high);
    out = Milliseconds(value * 1000);
  }

  void choice(const char* name, bool& out, const char* when_false, const char* when_true) {
    const auto found = environment_.find(name);
    if (found == environment_.end()) return;
    out = found->second == when_true;
    if (!out && found->second != when_false) {
      fail(name,
           "is \"" + found->second.substr(0, 40) + "\", allowed: " + when_false + ", " + when_true);
    }
  }

  void fail(const std::string& name, const std::string& what) {
    errors_ += (errors_.empty() ? "" : "\n") + name + " " + what;
  }
  [[nodiscard]] const std::string& errors() const { return errors_; }

 private:
  const std::map<std::string, std::string>& environment_;
  std::string errors_;
};

}  // namespace

Result<Config> parse_config(const std::map<std::string, std::string>& environment) {
  Config c;
  Reader in(environment);
  if (!environment.contains("CFN_ROLE"))
    in.fail("CFN_ROLE", "is missing, allowed: worker, coordinator");
  in.choice("CFN_ROLE", c.coordinator, "worker", "coordinator");
  in.text("CFN_SWARM", c.swarm);
  in.text("CFN_SWARM_UID", c.swarm_uid);
  in.text("CFN_NAMESPACE", c.namespace_name);
  in.text("CFN_AGENT_ID", c.name.value);
  if (!c.name.empty() && !is_slot_name(c.name.value))
    in.fail("CFN_AGENT_ID", "is not a slot, allowed: worker-N, coordinator-N");
  in.number("CFN_AGENTS_PER_POD", c.agents_per_pod, 1, kMaxAgentsPerPod);
  if (c.coordinator && c.agents_per_pod > 1)
    in.fail("CFN_AGENTS_PER_POD", "is for workers; a coordinator's pod has one agent");
  in.number("CFN_TEAM", c.team, 0, 9999);
  in.number("CFN_COORDINATORS", c.coordinators, 1, 9999);
  in.text("CFN_POD_NAME", c.pod);
  in.text("CFN_POD_UID", c.pod_uid);
  in.text("CFN_POD_IP", c.pod_ip);
  in.text("CFN_NODE_NAME", c.node);
  in.text("CFN_LINK_SERVICE", c.link_service);
  in.text("CFN_MOUNT_PATH", c.mount_path);
  in.text("CFN_LOG_PATH", c.log_path);
  in.text("CFN_BIN_PATH", c.bin_path);
  in.text("CFN_LINK_SECRET_FILE", c.link_secret_file);
  in.text("CFN_SUBMIT_TOKEN_FILE", c.submit_token_file);
  in.text("CFN_API_PATH", c.api_path);
  in.text("CFN_AGENTCTL_FILE", c.agentctl_file);
  in.text("CFN_SPILL_PATH", c.spill_path);
  in.number("CFN_SPILL_BYTES", c.spill_bytes, 0, kMaxLogBytes);
  in.number("CFN_JOURNAL_BYTES", c.journal_bytes, 0, kMaxLogBytes);
  if (c.spill_bytes > 0 && c.journal())
    in.fail("CFN_SPILL_BYTES", "goes with a log on tmpfs; remove it or CFN_JOURNAL_BYTES");
  in.number("CFN_LINK_PORT", c.link_port, 1, 65535);
  in.number("CFN_HTTP_PORT", c.http_port, 1, 65535);
  in.number("CFN_MAX_INBOX_MESSAGES", c.max_inbox_messages, 1, 100000);
  in.number("CFN_MAX_MESSAGE_BYTES", c.max_message_bytes, 1, mailbox::kMostMessageBytes);
  in.choice("CFN_BACKPRESSURE", c.reject_when_full, "Block", "Reject");
  in.choice("CFN_DURABILITY", c.node_durability, "Pod", "Node");
  in.seconds("CFN_BACKPRESSURE_TIMEOUT_SECONDS", c.backpressure_timeout, 0, 3600);
  in.seconds("CFN_HEALTH_PERIOD_SECONDS", c.health_period, 1, 300);
  in.number("CFN_HEALTH_FAILURE_THRESHOLD", c.failure_threshold, 1, 100);
  in.seconds("CFN_DRAIN_TIMEOUT_SECONDS", c.drain_timeout, 1, 3600);
  if (!in.errors().empty()) return invalid(in.errors());
  return c;
}

std::map<std::string, std::string> process_environment() {
  std::map<std::string, std::string> out;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const auto equals = text.find('=');
    if (equals != std::string::npos) out[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return out;
}

}  // namespace swarm::engine
