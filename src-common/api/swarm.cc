#include "api/swarm.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/encoding.h"

namespace swarm::api {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxErrors = 50;            // more help nobody
constexpr std::size_t kMaxShownValueBytes = 60;   // of a wrong value in a message
constexpr std::size_t kMaxObjectBytes = 3 << 20;  // the API server's own limit on one object
constexpr std::size_t kMaxMountPathBytes = 90;
constexpr std::size_t kMaxClassBytes = 253;  // as the API server's of object names
constexpr std::size_t kMaxConditions = 16;
// 2048 characters; all words and the body of a task fit into one frame of the link.
constexpr std::size_t kMaxWordBytes = 8192;

const json kAbsent;  // null: stands for every field that is not there

const json& field(const json& object, const char* name) {
  if (!object.is_object()) return kAbsent;
  const auto found = object.find(name);
  return found == object.end() ? kAbsent : *found;
}

std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::optional<std::int64_t> integer(const json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<std::uint64_t>();
    if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      return std::nullopt;
    }
    return static_cast<std::int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<std::int64_t>();
  return std::nullopt;
}

// Reads fields and collects what is wrong with them.
class Reader {
 public:
  void wrong(const std::string& path, const std::string& what) {
    if (errors_.size() < kMaxErrors) errors_.push_back(path + ": " + what);
  }
  void wrong_value(const std::string& path, const json& value, const std::string& allowed) {
    std::string shown = dump(value);
    if (shown.size() > kMaxShownValueBytes) {
      shown = shown.substr(0, kMaxShownValueBytes) + "…";
      // The cut may have split a character.
      if (!is_utf8(shown)) shown = "a long value";
    }
    wrong(path, "is " + shown + "; allowed: " + allowed);
  }

  // The object at name; absent or null reads as empty, anything else is an error.
  const json& object(const json& parent, const std::string& path, const char* name) {
    const json& value = field(parent, name);
    if (!value.is_null() && !value.is_object()) {
      wrong_value(join(path, name), value, "an object");
      return kAbsent;
    }
    return value;
  }
  void read(const json& parent, const std::string& path, const char* name, int low, int high,
            int& target) {
    const json& value = field(parent, name);
    if (value.is_null()) return;
    const auto number = integer(value);
    if (!number || *number < low || *number > high) {
      wrong_value(join(path, name), value, std::to_string(low) + " to " + std::to_string(high));
      return;
    }
    target = static_cast<int>(*number);
  }
  void read(const json& parent, const std::string& path, const char* name, bool& target) {
    const json& value = field(parent, name);
    if (value.is_null()) return;
    if (!value.is_boolean()) return wrong_value(join(path, name), value, "true or false");
    target = value.get<bool>();
  }
  // The text at name, nullopt when absent or wrong.
  std::optional<std::string> text(const json& parent, const std::string& path, const char* name) {
    const json& value = field(parent, name);
    if (value.is_null()) return std::nullopt;
    if (!value.is_string()) {
      wrong_value(join(path, name), value, "a string");
      return std::nullopt;
    }
    return value.get<std::string>();
  }

  static std::string join(const std::string& path, const char* name) {
    return path.empty() ? std::string(name) : path + "." + name;
  }

  [[nodiscard]] bool ok() const { return errors_.empty(); }
  [[nodiscard]] Error error() const {
    std::string all;
    for (const auto& one : errors_) all += (all.empty() ? "" : "\n") + one;
    return invalid(all);
  }

 private:
  std::vector<std::string> errors_;
};

bool is_mount_path(std::string_view path) {
  if (path.size() < 2 || path.size() > kMaxMountPathBytes || path[0] != '/' || path.back() == '/') {
    return false;
  }
  for (const char c : path) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!plain && c != '.' && c != '_' && c != '-' && c != '/') return false;
  }
  const std::string whole = std::string(path) + "/";
  return whole.find("//") == std::string::npos && whole.find("/./") == std::string::npos &&
         whole.find("/../") == std::string::npos;
}

void read_template(Reader& reader, const json& parent, const std::string& path,
                   std::string& target) {
  const json& value = reader.object(parent, path, "template");
  if (value.is_null()) return;
  const std::string here = path + ".template";
  const json& pod = field(value, "spec");
  if (!pod.is_object()) {
    return reader.wrong(here + ".spec",
                        "is required: a PodSpec as in a Deployment, with at least containers: "
                        "[{name: agent, image: …}]");
  }
  target = dump(value);
}

void read_max_unavailable(Reader& reader, const json& workers, IntOrPercent& target) {
  static constexpr const char* kAllowed = "a number from 1 to 2000 or a percentage from 1% to 100%";
  const std::string path = "spec.workers.maxUnavailable";
  const json& value = field(workers, "maxUnavailable");
  if (value.is_null()) return;
  if (const auto number = integer(value)) {
    if (*number < 1 || *number > kMaxReplicas) return reader.wrong_value(path, value, kAllowed);
    target = {static_cast<int>(*number), false};
    return;
  }
  if (!value.is_string()) return reader.wrong_value(path, value, kAllowed);
  const auto& text = value.get_ref<const std::string&>();
  const bool shaped =
      text.size() >= 2 && text.size() <= 4 && text.back() == '%' &&
      std::all_of(text.begin(), text.end() - 1, [](char c) { return c >= '0' && c <= '9'; });
  const int number = shaped ? std::stoi(text.substr(0, text.size() - 1)) : 0;
  if (number < 1 || number > 100) return reader.wrong_value(path, value, kAllowed);
  target = {number, true};
}

bool is_storage_class(std::string_view name) {
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return name.empty() || (name.size() <= kMaxClassBytes && plain(name.front()) &&
                          plain(name.back()) && std::all_of(name.begin(), name.end(), [&](char c) {
                            return plain(c) || c == '-' || c == '.';
                          }));
}

// sizeLimit of the object at path; nullopt when absent or wrong.
std::optional<std::int64_t> read_size(Reader& reader, const json& object, const std::string& path,
                                      const char* example) {
  const json& size = field(object, "sizeLimit");
  if (size.is_null()) return std::nullopt;
  std::optional<std::int64_t> bytes = integer(size);
  if (size.is_string()) {
    const auto parsed = parse_quantity(size.get_ref<const std::string&>());
    if (parsed) bytes = *parsed;
  }
  if (bytes && *bytes >= kMinMailboxBytes && *bytes <= kMaxMailboxBytes) return bytes;
  reader.wrong_value(path + ".sizeLimit", size,
                     "a quantity from " + format_bytes(kMinMailboxBytes) + " to " +
                         format_bytes(kMaxMailboxBytes) + ", such as " + example);
  return std::nullopt;
}

// Where messages are kept beside the tmpfs, or instead of it.
void read_storage(Reader& reader, const json& value, const std::string& path,
                  MailboxSpec& mailbox) {
  const json& spill = reader.object(value, path, "spill");
  if (!spill.is_null()) {
    mailbox.spill_bytes = read_size(reader, spill, path + ".spill", "256Mi");
    if (field(spill, "sizeLimit").is_null()) {
      reader.wrong(path + ".spill.sizeLimit", "is required; write spill: {sizeLimit: 256Mi}");
    }
  }
  const json& persistence = reader.object(value, path, "persistence");
  const std::string here = path + ".persistence";
  if (const auto type = reader.text(persistence, here, "type")) {
    if (*type == "Journal") {
      mailbox.persistence = Persistence::kJournal;
    } else if (*type != "None") {
      reader.wrong_value(here + ".type", *type, "None or Journal");
    }
  }
  mailbox.storage_class = reader.text(persistence, here, "storageClassName");
  if (mailbox.storage_class && !is_storage_class(*mailbox.storage_class)) {
    reader.wrong_value(here + ".storageClassName", *mailbox.storage_class,
                       "the name of a StorageClass; empty for volumes without one");
  }
  if (mailbox.storage_class && mailbox.persistence == Persistence::kNone) {
    reader.wrong(here + ".storageClassName", "is of a journal alone; write type: Journal with it");
  }
  if (mailbox.spill_bytes && mailbox.persistence == Persistence::kJournal) {
    reader.wrong(path + ".spill",
                 "a journal is on disk already; remove spill and raise mailbox.sizeLimit instead");
  }
}

void read_mailbox(Reader& reader, const json& spec, MailboxSpec& mailbox) {
  const std::string path = "spec.mailbox";
  const json& value = reader.object(spec, "spec", "mailbox");
  if (const auto text = reader.text(value, path, "mountPath")) {
    if (is_mount_path(*text)) {
      mailbox.mount_path = *text;
    } else {
      reader.wrong_value(path + ".mountPath", *text,
                         "an absolute path of 2 to 90 of A-Z a-z 0-9 . _ - /, without //, . or .. "
                         "parts and without / at the end");
    }
  }
  if (const auto bytes = read_size(reader, value, path, "64Mi")) mailbox.size_limit_bytes = *bytes;
  reader.read(value, path, "maxInboxMessages", 1, 100'000, mailbox.max_inbox_messages);
  reader.read(value, path, "maxMessageBytes", 256, 65'536, mailbox.max_message_bytes);
  const json& pressure = reader.object(value, path, "backpressure");
  const std::string here = path + ".backpressure";
  if (const auto policy = reader.text(pressure, here, "policy")) {
    if (*policy == "Block") {
      mailbox.backpressure = Backpressure::kBlock;
    } else if (*policy == "Reject") {
      mailbox.backpressure = Backpressure::kReject;
    } else {
      reader.wrong_value(here + ".policy", *policy, "Block or Reject");
    }
  }
  reader.read(pressure, here, "timeoutSeconds", 1, 3600, mailbox.backpressure_timeout_seconds);
  if (const auto durability = reader.text(value, path, "durability")) {
    if (*durability == "Node") {
      mailbox.durability = Durability::kNode;
    } else if (*durability != "Pod") {
      reader.wrong_value(path + ".durability", *durability, "Pod or Node");
    }
  }
  read_storage(reader, value, path, mailbox);
}

void read_budget(Reader& reader, const json& spec, std::optional<BudgetSpec>& target) {
  const json& value = reader.object(spec, "spec", "budget");
  if (value.is_null()) return;
  const json& usd = field(value, "usd");
  if (usd.is_null()) {
    return reader.wrong("spec.budget.usd", "is required; write budget: {usd: \"200\"}");
  }
  const auto micro = usd.is_string() ? parse_usd(usd.get_ref<const std::string&>())
                                     : Result<std::int64_t>(invalid("not text"));
  if (!micro || *micro >= kBudgetLimitMicroUsd) {
    return reader.wrong_value("spec.budget.usd", usd,
                              "US dollars as text, such as \"200\" or \"12.50\", less than 10^9");
  }
  target = BudgetSpec{*micro};
}

void read_rollout(Reader& reader, const json& spec, std::optional<RolloutSpec>& target) {
  const std::string path = "spec.rollout";
  const json& value = reader.object(spec, "spec", "rollout");
  if (value.is_null()) return;
  RolloutSpec rollout;
  reader.read(value, path, "trafficPercentage", 0, 100, rollout.traffic_percentage);
  const json& v1 = reader.object(value, path, "v1");
  if (!v1.is_null()) {
    if (const auto type = reader.text(v1, path + ".v1", "type"); type && *type != "InPlace") {
      reader.wrong_value(path + ".v1.type", *type, "InPlace");
    }
    const json& in_place = reader.object(v1, path + ".v1", "inPlace");
    const std::string here = path + ".v1.inPlace.command";
    const json& command = field(in_place, "command");
    if (!command.is_array() || command.empty() ||
        command.size() > static_cast<std::size_t>(kMaxCommandWords)) {
      reader.wrong(here, "is required with type InPlace: 1 to " + std::to_string(kMaxCommandWords) +
                             " words, such as [/opt/legacy/coordinate]");
    } else {
      for (std::size_t i = 0; i < command.size(); ++i) {
        if (!command[i].is_string() ||
            command[i].get_ref<const std::string&>().size() > kMaxWordBytes) {
          reader.wrong_value(here + "[" + std::to_string(i) + "]", command[i],
                             "a string of at most 2048 characters");
        } else {
          rollout.v1_command.push_back(command[i].get<std::string>());
        }
      }
    }
  } else if (rollout.traffic_percentage < 100) {
    reader.wrong(path + ".v1",
                 "is required while trafficPercentage is below 100, to say where the rest goes; "
                 "write v1: {type: InPlace, inPlace: {command: [/path/to/your/coordinate]}}");
  }
  target = std::move(rollout);
}

SwarmSpec read_spec(Reader& reader, const json& object) {
  SwarmSpec spec;
  const json& value = reader.object(object, "", "spec");
  if (value.is_null() && reader.ok()) reader.wrong("spec", "is required");

  reader.read(value, "spec", "suspend", spec.suspend);

  const json& topology = reader.object(value, "spec", "topology");
  if (const auto type = reader.text(topology, "spec.topology", "type")) {
    if (*type == "Auto") {
      spec.topology.type = TopologyType::kAuto;
    } else if (*type == "Flat") {
      spec.topology.type = TopologyType::kFlat;
    } else if (*type == "Hybrid") {
      spec.topology.type = TopologyType::kHybrid;
    } else {
      reader.wrong_value("spec.topology.type", *type, "Auto, Flat or Hybrid");
    }
  }
  reader.read(topology, "spec.topology", "teamSize", 1, kMaxTeamSize, spec.topology.team_size);

  read_template(reader, reader.object(value, "spec", "coordinator"), "spec.coordinator",
                spec.coordinator.template_json);

  const json& workers = reader.object(value, "spec", "workers");
  reader.read(workers, "spec.workers", "replicas", 0, kMaxReplicas, spec.workers.replicas);
  reader.read(workers, "spec.workers", "agentsPerPod", 1, static_cast<int>(kMaxAgentsPerPod),
              spec.workers.agents_per_pod);
  read_max_unavailable(reader, workers, spec.workers.max_unavailable);
  reader.read(workers, "spec.workers", "taskGraceSeconds", 0, 86'400,
              spec.workers.task_grace_seconds);
  read_template(reader, workers, "spec.workers", spec.workers.template_json);
  if (field(workers, "template").is_null() && !value.is_null()) {
    reader.wrong("spec.workers.template",
                 "is required: the pod template of the agents, as in a Deployment");
  }

  read_mailbox(reader, value, spec.mailbox);

  const json& tasks = reader.object(value, "spec", "tasks");
  reader.read(tasks, "spec.tasks", "maxAttempts", 1, 100, spec.tasks.max_attempts);
  reader.read(tasks, "spec.tasks", "resultRetentionSeconds", 1, 30 * 86'400,
              spec.tasks.result_retention_seconds);
  reader.read(tasks, "spec.tasks", "maxQueued", 1, 100'000, spec.tasks.max_queued);

  const json& health = reader.object(value, "spec", "health");
  reader.read(health, "spec.health", "periodSeconds", 1, 60, spec.health.period_seconds);
  reader.read(health, "spec.health", "failureThreshold", 1, 20, spec.health.failure_threshold);
  reader.read(health, "spec.health", "stuckAfterSeconds", 0, kMaxStuckAfterSeconds,
              spec.health.stuck_after_seconds);
  if (const auto what = reader.text(health, "spec.health", "onStuck")) {
    if (*what == "Restart") {
      spec.health.on_stuck = OnStuck::kRestart;
    } else if (*what != "Report") {
      reader.wrong_value("spec.health.onStuck", *what, "Report or Restart");
    }
  }

  reader.read(reader.object(value, "spec", "shutdown"), "spec.shutdown", "drainTimeoutSeconds", 1,
              600, spec.shutdown.drain_timeout_seconds);

  read_budget(reader, value, spec.budget);
  read_rollout(reader, value, spec.rollout);
  return spec;
}

// The rest of the object. Errors here are the API server's or ours, never the user's, but it is
// input all the same.
Swarm read_metadata(Reader& reader, const json& object) {
  Swarm swarm;
  const json& metadata = reader.object(object, "", "metadata");
  swarm.name = reader.text(metadata, "metadata", "name").value_or("");
  if (!is_swarm_name(swarm.name)) {
    reader.wrong_value("metadata.name", swarm.name,
                       "1 to " + std::to_string(kMaxSwarmNameBytes) +
                           " of a-z, 0-9 and -, beginning with a letter, ending with a letter "
                           "or digit");
  }
  swarm.namespace_name = reader.text(metadata, "metadata", "namespace").value_or("");
  swarm.uid = reader.text(metadata, "metadata", "uid").value_or("");
  swarm.resource_version = reader.text(metadata, "metadata", "resourceVersion").value_or("");
  swarm.generation = integer(field(metadata, "generation")).value_or(0);
  if (const auto time = reader.text(metadata, "metadata", "creationTimestamp")) {
    swarm.creation_time = parse_time(*time).value_or(0);
  }
  // A deletion time that cannot be read still means: going away.
  if (const auto time = reader.text(metadata, "metadata", "deletionTimestamp")) {
    swarm.deletion_time = parse_time(*time).value_or(0);
  }
  const json& annotations = field(metadata, "annotations");
  if (annotations.is_object()) {
    for (const auto& [key, value] : annotations.items()) {
      if (value.is_string()) swarm.annotations.emplace(key, value.get<std::string>());
    }
  }
  swarm.status = parse_status(field(object, "status"));
  return swarm;
}

std::string text_or(const json& object, const char* name) {
  const json& value = field(object, name);
  return value.is_string() ? value.get<std::string>() : std::string();
}

int int_or(const json& object, const char* name, int other) {
  const auto number = integer(field(object, name));
  if (!number || *number < std::numeric_limits<int>::min() ||
      *number > std::numeric_limits<int>::max()) {
    return other;
  }
  return static_cast<int>(*number);
}

std::int64_t int64_or(const json& object, const char* name) {
  return integer(field(object, name)).value_or(0);
}

}  // namespace

Result<Swarm> parse(const json& object) {
  Reader reader;
  if (!object.is_object()) return invalid("is not a JSON object");
  Swarm swarm = read_metadata(reader, object);
  swarm.spec = read_spec(reader, object);
  if (!reader.ok()) return reader.error();
  return swarm;
}

Result<Swarm> parse_text(std::string_view text) {
  if (text.size() > kMaxObjectBytes) return invalid("is longer than 3 MiB");
  const json object = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (object.is_discarded()) return invalid("is not JSON");
  return parse(object);
}

Result<Swarm> parse_metadata(const json& object) {
  Reader reader;
  if (!object.is_object()) return invalid("is not a JSON object");
  Swarm swarm = read_metadata(reader, object);
  if (!reader.ok()) return reader.error();
  return swarm;
}

Result<SwarmSpec> parse_spec(const json& spec) {
  Reader reader;
  SwarmSpec parsed = read_spec(reader, json{{"spec", spec}});
  if (!reader.ok()) return reader.error();
  return parsed;
}

// null: a patch that takes it away.
json time_or_null(WallTime time) { return time == 0 ? json() : json(format_time(time)); }

json to_json(const SwarmStatus& status) {
  json conditions = json::array();
  for (const Condition& one : status.conditions) {
    conditions.push_back({{"type", one.type},
                          {"status", one.status},
                          {"reason", one.reason},
                          {"message", one.message},
                          {"observedGeneration", one.observed_generation},
                          {"lastTransitionTime", format_time(one.last_transition)}});
  }
  return {
      {"observedGeneration", status.observed_generation},
      {"topology",
       {{"type", status.topology.type},
        {"coordinators", status.topology.coordinators},
        {"reason", status.topology.reason}}},
      {"agents",
       {{"desired", status.agents.desired},
        {"ready", status.agents.ready},
        {"busy", status.agents.busy},
        {"stuck", status.agents.stuck},
        {"summary", status.agents.summary}}},
      {"workers",
       {{"replicas", status.workers.replicas},
        {"readyReplicas", status.workers.ready_replicas},
        {"updatedReplicas", status.workers.updated_replicas},
        {"selector", status.workers.selector}}},
      {"tasks",
       {{"queued", status.tasks.queued},
        {"running", status.tasks.running},
        {"done", status.tasks.done},
        {"dead", status.tasks.dead},
        {"oldestQueuedSeconds", status.tasks.oldest_queued_seconds},
        {"backingOffUntil", time_or_null(status.tasks.backing_off_until)}}},
      {"mailbox",
       {{"singleCopyMessages", status.mailbox.single_copy_messages},
        {"deadLetters", status.mailbox.dead_letters}}},
      {"usage",
       {{"costUSD", format_usd(status.usage.cost_micro_usd)},
        {"inputTokens", status.usage.input_tokens},
        {"outputTokens", status.usage.output_tokens},
        {"cacheReadTokens", status.usage.cache_read_tokens},
        {"cacheCreationTokens", status.usage.cache_creation_tokens},
        {"tasks", status.usage.tasks},
        {"tasksWithCost", status.usage.priced_tasks}}},
      {"rollout",
       {{"ceiling", status.rollout.ceiling},
        {"effective", status.rollout.effective},
        {"measured", status.rollout.measured},
        {"activeVersion", status.rollout.active_version},
        {"summary", status.rollout.summary}}},
      {"revision", status.revision},
      {"sidecarImage", status.sidecar_image},
      {"conditions", std::move(conditions)},
  };
}

SwarmStatus parse_status(const json& object) {
  SwarmStatus status;
  status.observed_generation = int64_or(object, "observedGeneration");
  const json& topology = field(object, "topology");
  status.topology = {text_or(topology, "type"), int_or(topology, "coordinators", 0),
                     text_or(topology, "reason")};
  const json& agents = field(object, "agents");
  status.agents = {int_or(agents, "desired", 0), int_or(agents, "ready", 0),
                   int_or(agents, "busy", 0), int_or(agents, "stuck", 0),
                   text_or(agents, "summary")};
  const json& workers = field(object, "workers");
  status.workers = {int_or(workers, "replicas", 0), int_or(workers, "readyReplicas", 0),
                    int_or(workers, "updatedReplicas", 0), text_or(workers, "selector")};
  const json& tasks = field(object, "tasks");
  status.tasks = {int64_or(tasks, "queued"),
                  int64_or(tasks, "running"),
                  int64_or(tasks, "done"),
                  int64_or(tasks, "dead"),
                  int64_or(tasks, "oldestQueuedSeconds"),
                  parse_time(text_or(tasks, "backingOffUntil")).value_or(0)};
  const json& mailbox = field(object, "mailbox");
  status.mailbox = {int64_or(mailbox, "singleCopyMessages"), int64_or(mailbox, "deadLetters")};
  const json& usage = field(object, "usage");
  const auto usage_count = [&](const char* name) {
    return std::clamp<std::int64_t>(int64_or(usage, name), 0, kMaxSpent);
  };
  const auto cost = parse_usd(text_or(usage, "costUSD"));
  status.usage = {usage_count("inputTokens"),
                  usage_count("outputTokens"),
                  usage_count("cacheReadTokens"),
                  usage_count("cacheCreationTokens"),
                  cost ? std::min(*cost, kMaxSpent) : 0,
                  usage_count("tasks"),
                  usage_count("tasksWithCost")};
  const json& rollout = field(object, "rollout");
  status.rollout = {int_or(rollout, "ceiling", 0), int_or(rollout, "effective", 0),
                    int_or(rollout, "measured", 0), text_or(rollout, "activeVersion"),
                    text_or(rollout, "summary")};
  status.revision = text_or(object, "revision");
  status.sidecar_image = text_or(object, "sidecarImage");
  const json& conditions = field(object, "conditions");
  if (conditions.is_array()) {
    for (const json& one : conditions) {
      if (status.conditions.size() >= kMaxConditions) break;
      status.conditions.push_back({text_or(one, "type"), text_or(one, "status"),
                                   text_or(one, "reason"), text_or(one, "message"),
                                   int64_or(one, "observedGeneration"),
                                   parse_time(text_or(one, "lastTransitionTime")).value_or(0)});
    }
  }
  return status;
}

// ---- reports

namespace {

void read_count(Reader& reader, const json& parent, const std::string& path, const char* name,
                std::int64_t& target) {
  const json& value = field(parent, name);
  if (value.is_null()) return;
  const auto number = integer(value);
  if (!number || *number < 0) {
    return reader.wrong_value(Reader::join(path, name), value, "a whole number from 0");
  }
  target = *number;
}

struct UsageField {
  const char* name;
  std::int64_t UsageCounts::*member;
};
constexpr UsageField kUsageFields[] = {
    {"inputTokens", &UsageCounts::input_tokens},
    {"outputTokens", &UsageCounts::output_tokens},
    {"cacheReadTokens", &UsageCounts::cache_read_tokens},
    {"cacheCreationTokens", &UsageCounts::cache_creation_tokens},
    {"costMicroUsd", &UsageCounts::cost_micro_usd},
    {"tasks", &UsageCounts::tasks},
    {"tasksWithCost", &UsageCounts::priced_tasks},
};

void read_usage(Reader& reader, const json& object, const char* name, UsageCounts& target) {
  const json& value = reader.object(object, "", name);
  for (const auto& [field_name, member] : kUsageFields) {
    read_count(reader, value, name, field_name, target.*member);
    target.*member = std::min(target.*member, kMaxSpent);
  }
}

json to_json(const UsageCounts& counts) {
  json object = json::object();
  for (const auto& [name, member] : kUsageFields) object[name] = counts.*member;
  return object;
}

}  // namespace

UsageCounts sum(const UsageCounts& a, const UsageCounts& b) {
  UsageCounts out;
  for (const auto& [name, member] : kUsageFields)
    out.*member = std::min(a.*member + b.*member, kMaxSpent);
  return out;
}

UsageCounts highest(const UsageCounts& a, const UsageCounts& b) {
  UsageCounts out;
  for (const auto& [name, member] : kUsageFields) out.*member = std::max(a.*member, b.*member);
  return out;
}

Result<TeamReport> parse_report(std::string_view text) {
  if (text.size() > kMaxReportBytes) return invalid("is longer than 200000 bytes");
  const json object = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return invalid("is not a JSON object");
  Reader reader;
  TeamReport report;
  const auto time = parse_time(reader.text(object, "", "time").value_or(""));
  if (!time) {
    reader.wrong("time", "is required, as in 2026-01-02T03:04:05Z");
  } else {
    report.time = *time;
  }
  const json& epoch = field(object, "epoch");
  if (epoch.is_number_unsigned()) {
    report.epoch = epoch.get<std::uint64_t>();
  } else if (!epoch.is_null()) {
    reader.wrong_value("epoch", epoch, "a whole number from 0");
  }
  reader.read(object, "", "ready", report.ready);
  reader.read(object, "", "recovering", report.recovering);
  if (!field(object, "suspended").is_null()) {
    reader.read(object, "", "suspended", report.suspended.emplace());
  }

  const json& tasks = reader.object(object, "", "tasks");
  read_count(reader, tasks, "tasks", "queued", report.tasks.queued);
  read_count(reader, tasks, "tasks", "running", report.tasks.running);
  read_count(reader, tasks, "tasks", "done", report.tasks.done);
  read_count(reader, tasks, "tasks", "dead", report.tasks.dead);
  read_count(reader, tasks, "tasks", "cancelled", report.tasks.cancelled);
  read_count(reader, tasks, "tasks", "oldestQueuedSeconds", report.tasks.oldest_queued_seconds);
  read_count(reader, tasks, "tasks", "singleCopy", report.tasks.single_copy);
  read_count(reader, tasks, "tasks", "tryLaterInARow", report.tasks.try_later_in_a_row);
  read_count(reader, tasks, "tasks", "waiting", report.tasks.waiting);
  read_count(reader, tasks, "tasks", "starved", report.tasks.starved);
  report.tasks.backing_off_until =
      parse_time(reader.text(tasks, "tasks", "backingOffUntil").value_or("")).value_or(0);

  const json& workers = reader.object(object, "", "workers");
  if (workers.is_object() && workers.size() > kMaxReportWorkers) {
    reader.wrong("workers", "has more than 2000 members");
  } else if (workers.is_object()) {
    for (const auto& [name, value] : workers.items()) {
      if (!is_slot_name(name) || !value.is_object()) {
        reader.wrong("workers", "has a member that is not an agent");
        continue;
      }
      const std::string path = "workers." + name;
      WorkerReport worker;
      worker.pod = reader.text(value, path, "pod").value_or("");
      worker.address = reader.text(value, path, "address").value_or("");
      reader.read(value, path, "busy", worker.busy);
      worker.task = reader.text(value, path, "task").value_or("");
      report.workers.emplace(name, std::move(worker));
    }
  }
  const json& awaited = field(object, "awaited");
  if (!awaited.is_null() && (!awaited.is_array() || awaited.size() > kMaxReportWorkers)) {
    reader.wrong("awaited", "is not a list of at most 2000 pods");
  } else {
    for (const json& value : awaited) {
      AwaitedPod one;
      one.name = reader.text(value, "awaited", "name").value_or("");
      one.pod = reader.text(value, "awaited", "pod").value_or("");
      one.address = reader.text(value, "awaited", "address").value_or("");
      if (is_slot_name(one.name)) {
        report.awaited.push_back(std::move(one));
      } else {
        reader.wrong("awaited", "has a member that is not an agent");
      }
    }
  }

  const json& rollout = reader.object(object, "", "rollout");
  reader.read(rollout, "rollout", "effective", 0, 100, report.effective);
  read_count(reader, rollout, "rollout", "v1", report.v1);
  read_count(reader, rollout, "rollout", "v2", report.v2);
  reader.read(rollout, "rollout", "measured", 0, 100, report.measured);

  const json& messages = reader.object(object, "", "messages");
  read_count(reader, messages, "messages", "deadLetters", report.dead_letters);
  read_count(reader, messages, "messages", "singleCopy", report.single_copy_messages);
  read_count(reader, messages, "messages", "workersSingleCopy",
             report.workers_single_copy_messages);
  const json& pressed = reader.object(messages, "messages", "pressed");
  if (pressed.is_object() && pressed.size() > kMaxReportPressed) {
    reader.wrong("messages.pressed", "has more than 16 members");
  } else if (pressed.is_object()) {
    for (const auto& [name, value] : pressed.items()) {
      auto why = reader.text(pressed, "messages.pressed", name.c_str()).value_or("");
      if (!is_slot_name(name) || why.size() > kMaxPressedBytes) {
        reader.wrong("messages.pressed", "has a member that is not an agent and its reason");
      } else {
        report.pressed[name] = std::move(why);
      }
    }
  }
  read_count(reader, object, "", "stuck", report.stuck);
  const json& stuck = field(object, "stuckAgents");
  if (!stuck.is_null() && (!stuck.is_array() || stuck.size() > kMaxReportStuck)) {
    reader.wrong("stuckAgents", "is not a list of at most 16 agents");
  } else {
    for (const json& value : stuck) {
      StuckReport one;
      one.agent = reader.text(value, "stuckAgents", "agent").value_or("");
      one.task = reader.text(value, "stuckAgents", "task").value_or("");
      one.since = parse_time(reader.text(value, "stuckAgents", "since").value_or("")).value_or(0);
      one.why = reader.text(value, "stuckAgents", "why").value_or("");
      if (!is_slot_name(one.agent) || !is_task_id(one.task) || one.why.size() > kMaxStuckBytes) {
        reader.wrong("stuckAgents", "has a member that is not an agent, its task and its reason");
      } else {
        report.stuck_named.push_back(std::move(one));
      }
    }
  }
  read_usage(reader, object, "usage", report.usage);
  read_usage(reader, object, "expiredUsage", report.expired_usage);
  if (!reader.ok()) return reader.error();
  return report;
}

std::string to_text(const TeamReport& report) {
  json workers = json::object();
  for (const auto& [name, worker] : report.workers) {
    json one = {{"pod", worker.pod}, {"busy", worker.busy}};
    if (!worker.address.empty()) one["address"] = worker.address;
    if (!worker.task.empty()) one["task"] = worker.task;
    workers[name] = std::move(one);
  }
  json awaited = json::array();
  for (const auto& one : report.awaited) {
    awaited.push_back({{"name", one.name}, {"pod", one.pod}, {"address", one.address}});
  }
  json object = {
      {"time", format_time(report.time)},
      {"epoch", report.epoch},
      {"ready", report.ready},
      {"recovering", report.recovering},
      {"tasks",
       {{"queued", report.tasks.queued},
        {"running", report.tasks.running},
        {"done", report.tasks.done},
        {"dead", report.tasks.dead},
        {"cancelled", report.tasks.cancelled},
        {"oldestQueuedSeconds", report.tasks.oldest_queued_seconds},
        {"singleCopy", report.tasks.single_copy}}},
      {"workers", std::move(workers)},
      {"awaited", std::move(awaited)},
      {"rollout",
       {{"effective", report.effective},
        {"v1", report.v1},
        {"v2", report.v2},
        {"measured", report.measured}}},
      {"messages",
       {{"deadLetters", report.dead_letters},
        {"singleCopy", report.single_copy_messages},
        {"workersSingleCopy", report.workers_single_copy_messages}}},
  };
  if (report.tasks.backing_off_until != 0) {
    object["tasks"]["backingOffUntil"] = format_time(report.tasks.backing_off_until);
    object["tasks"]["tryLaterInARow"] = report.tasks.try_later_in_a_row;
  }
  if (report.tasks.waiting != 0) object["tasks"]["waiting"] = report.tasks.waiting;
  if (report.tasks.starved != 0) object["tasks"]["starved"] = report.tasks.starved;
  if (!report.pressed.empty()) object["messages"]["pressed"] = report.pressed;
  if (report.stuck > 0) {
    json named = json::array();
    for (const StuckReport& one : report.stuck_named) {
      named.push_back(
          {{"agent", one.agent}, {"task", one.task}, {"since", format_time(one.since)}});
      if (!one.why.empty()) named.back()["why"] = one.why;
    }
    object["stuck"] = report.stuck;
    object["stuckAgents"] = std::move(named);
  }
  if (report.usage != UsageCounts{}) object["usage"] = to_json(report.usage);
  if (report.expired_usage != UsageCounts{}) object["expiredUsage"] = to_json(report.expired_usage);
  if (report.suspended) object["suspended"] = *report.suspended;
  return dump(object);
}

}  // namespace swarm::api
