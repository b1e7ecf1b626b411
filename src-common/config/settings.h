// Settings of a program from a YAML file, the environment and flags, in this order: the later wins.
//
// A setting is declared once by its path in the file; its other names follow from it:
//   leaderElection.leaseDurationSeconds   CFN_LEADER_ELECTION_LEASE_DURATION_SECONDS
//                                         --leader-election-lease-duration-seconds
// load() reports every error at once, each as "<where>: <path>: is "x"; allowed: …"; unknown keys
// in the file and unknown flags are errors, foreign environment variables are not. Threads: one.
// Ownership: the targets are borrowed and must outlive load(); they are written only by load().
// This room is the only place that sees yaml-cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace swarm::config {

inline constexpr std::size_t kMaxFileBytes = std::size_t{1} << 20;
inline constexpr std::size_t kMaxErrors = 100;

class Settings {
 public:
  // Looks up an environment variable; nullopt when it is not set.
  using Environment = std::function<std::optional<std::string>(const std::string& name)>;

  struct Outcome {
    std::vector<std::string> errors;  // empty: all targets are set and valid
    bool help = false;                // --help was given: nothing was loaded
    bool version = false;
  };

  // `check` may refuse a value: it returns what is allowed, or nothing when the value is fine.
  using Check = std::function<std::optional<std::string>(const std::string& value)>;

  void text(std::string path, std::string* target, std::string help, Check check = {});
  void choice(std::string path, std::string* target, std::vector<std::string> allowed,
              std::string help);
  void integer(std::string path, int* target, int minimum, int maximum, std::string help);
  void boolean(std::string path, bool* target, std::string help);
  // A flag without a place in file and environment: "--api-server".
  void flag_only(std::string flag, std::string* target, std::string help);

  // args without the program's name. --config PATH names the file; without it there is none.
  Outcome load(const std::vector<std::string>& args, const Environment& environment);

  // One line per setting, for --help.
  [[nodiscard]] std::string usage() const;

 private:
  struct Setting {
    std::string path;  // empty: flag only
    std::string environment;
    std::string flag;
    std::string help;
    bool is_boolean = false;
    // Sets the target, or returns what is allowed.
    std::function<std::optional<std::string>(const std::string&)> apply;
    std::string shown_default;
  };
  void add(Setting setting);
  void set(const Setting& setting, const std::string& value, const std::string& where,
           std::vector<std::string>& errors);
  void read_file(const std::string& path, std::vector<std::string>& errors);

  std::vector<Setting> settings_;
};

// "leaderElection.leaseDurationSeconds" -> "CFN_LEADER_ELECTION_LEASE_DURATION_SECONDS",
// "--leader-election-lease-…".
std::string environment_name(std::string_view path);
std::string flag_name(std::string_view path);

}  // namespace swarm::config
