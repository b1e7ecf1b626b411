#include "config/settings.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "os/file.h"

namespace swarm::config {
namespace {

constexpr int kMaxDepth = 8;
constexpr std::size_t kMaxShownBytes = 80;

std::string spelled(std::string_view path, char separator, bool upper) {
  std::string out;
  for (const char c : path) {
    const bool capital = c >= 'A' && c <= 'Z';
    if (c == '.') {
      out += separator;
      continue;
    }
    if (capital) out += separator;
    const char low = capital ? static_cast<char>(c - 'A' + 'a') : c;
    out += upper && low >= 'a' && low <= 'z' ? static_cast<char>(low - 'a' + 'A') : low;
  }
  return out;
}

std::string shown(const std::string& value) {
  std::string out = "\"";
  for (const char c : value.substr(0, kMaxShownBytes))
    out += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
  return out + (value.size() > kMaxShownBytes ? "…\"" : "\"");
}

}  // namespace

std::string environment_name(std::string_view path) { return "CFN_" + spelled(path, '_', true); }
std::string flag_name(std::string_view path) { return "--" + spelled(path, '-', false); }

void Settings::add(Setting setting) { settings_.push_back(std::move(setting)); }

void Settings::text(std::string path, std::string* target, std::string help, Check check) {
  Setting setting;
  setting.environment = environment_name(path);
  setting.flag = flag_name(path);
  setting.path = std::move(path);
  setting.help = std::move(help);
  setting.shown_default = *target;
  setting.apply =
      [target, check = std::move(check)](const std::string& value) -> std::optional<std::string> {
    if (check) {
      if (auto allowed = check(value)) return allowed;
    }
    *target = value;
    return std::nullopt;
  };
  add(std::move(setting));
}

void Settings::choice(std::string path, std::string* target, std::vector<std::string> allowed,
                      std::string help) {
  std::string list;
  for (const std::string& word : allowed) list += (list.empty() ? "" : ", ") + word;
  text(
      std::move(path), target, std::move(help) + " (" + list + ")",
      [allowed = std::move(allowed), list](const std::string& value) -> std::optional<std::string> {
        if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return std::nullopt;
        return list;
      });
}

void Settings::integer(std::string path, int* target, int minimum, int maximum, std::string help) {
  Setting setting;
  setting.environment = environment_name(path);
  setting.flag = flag_name(path);
  setting.path = std::move(path);
  const std::string range = std::to_string(minimum) + " to " + std::to_string(maximum);
  setting.help = std::move(help) + " (" + range + ")";
  setting.shown_default = std::to_string(*target);
  setting.apply = [target, minimum, maximum,
                   range](const std::string& value) -> std::optional<std::string> {
    int number = 0;
    const char* const last = value.data() + value.size();
    const auto [end, ec] = std::from_chars(value.data(), last, number);
    if (ec != std::errc() || end != last || number < minimum || number > maximum) return range;
    *target = number;
    return std::nullopt;
  };
  add(std::move(setting));
}

void Settings::boolean(std::string path, bool* target, std::string help) {
  Setting setting;
  setting.environment = environment_name(path);
  setting.flag = flag_name(path);
  setting.path = std::move(path);
  setting.help = std::move(help) + " (true, false)";
  setting.is_boolean = true;
  setting.shown_default = *target ? "true" : "false";
  setting.apply = [target](const std::string& value) -> std::optional<std::string> {
    if (value != "true" && value != "false") return "true, false";
    *target = value == "true";
    return std::nullopt;
  };
  add(std::move(setting));
}

void Settings::flag_only(std::string flag, std::string* target, std::string help) {
  Setting setting;
  setting.flag = std::move(flag);
  setting.help = std::move(help);
  setting.apply = [target](const std::string& value) -> std::optional<std::string> {
    *target = value;
    return std::nullopt;
  };
  add(std::move(setting));
}

void Settings::set(const Setting& setting, const std::string& value, const std::string& where,
                   std::vector<std::string>& errors) {
  const std::optional<std::string> allowed = setting.apply(value);
  if (!allowed) return;
  const std::string name = setting.path.empty() ? setting.flag : setting.path;
  errors.push_back(where + ": " + name + ": is " + shown(value) + "; allowed: " + *allowed);
}

void Settings::read_file(const std::string& path, std::vector<std::string>& errors) {
  const Result<std::string> text = os::read_file(path, kMaxFileBytes);
  if (!text.ok()) {
    errors.push_back("--config: " + text.error().message);
    return;
  }
  const auto at = [&](const YAML::Node& node) {
    return path + ":" + std::to_string(node.Mark().line + 1);
  };
  std::set<std::string> seen;
  const std::function<void(const YAML::Node&, const std::string&, int)> walk =
      [&](const YAML::Node& map, const std::string& prefix, int depth) {
        for (const auto& entry : map) {
          if (errors.size() >= kMaxErrors) return;
          if (!entry.first.IsScalar()) {
            errors.push_back(at(entry.first) + ": " + prefix + ": a key must be a word");
            continue;
          }
          const std::string key =
              prefix.empty() ? entry.first.Scalar() : prefix + "." + entry.first.Scalar();
          const YAML::Node& value = entry.second;
          if (!seen.insert(key).second)
            errors.push_back(at(entry.first) + ": " + key + ": is given twice");
          const auto setting =
              std::find_if(settings_.begin(), settings_.end(),
                           [&](const Setting& s) { return !s.path.empty() && s.path == key; });
          if (setting != settings_.end()) {
            if (value.IsNull()) continue;  // "key:" with nothing behind it: the default
            if (!value.IsScalar()) {
              errors.push_back(at(value) + ": " + key + ": must be a single value");
              continue;
            }
            set(*setting, value.Scalar(), at(value), errors);
            continue;
          }
          const bool group = std::any_of(settings_.begin(), settings_.end(), [&](const Setting& s) {
            return s.path.starts_with(key + ".");
          });
          if (group && value.IsMap() && depth < kMaxDepth) {
            walk(value, key, depth + 1);
          } else if (group) {
            if (!value.IsNull()) errors.push_back(at(value) + ": " + key + ": must be a map");
          } else {
            std::string known;
            for (const Setting& s : settings_) {
              if (!s.path.empty()) known += (known.empty() ? "" : ", ") + s.path;
            }
            errors.push_back(at(entry.first) + ": " + key +
                             ": is not a setting; allowed: " + known);
          }
        }
      };
  try {
    const YAML::Node root = YAML::Load(*text);
    if (root.IsNull()) return;
    if (!root.IsMap()) {
      errors.push_back(path + ": must be a YAML map");
      return;
    }
    walk(root, "", 0);
  } catch (const YAML::Exception& e) {
    errors.push_back(path + ":" + std::to_string(e.mark.line + 1) + ": not valid YAML: " + e.msg);
  } catch (const std::exception& e) {
    errors.push_back(path + ": not valid YAML: " + e.what());
  }
}

Settings::Outcome Settings::load(const std::vector<std::string>& args,
                                 const Environment& environment) {
  Outcome out;
  struct Given {
    const Setting* setting;
    std::string value;
  };
  std::vector<Given> given;
  std::optional<std::string> file;
  for (std::size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (arg == "--help" || arg == "-h") {
      out.help = true;
      return out;
    }
    if (arg == "--version") {
      out.version = true;
      return out;
    }
    const std::size_t equals = arg.find('=');
    const std::string name = arg.substr(0, equals);
    const auto setting = std::find_if(settings_.begin(), settings_.end(),
                                      [&](const Setting& s) { return s.flag == name; });
    if (name != "--config" && setting == settings_.end()) {
      out.errors.push_back("flags: " + shown(arg) + ": is not a flag; see --help");
      continue;
    }
    std::string value;
    if (equals != std::string::npos) {
      value = arg.substr(equals + 1);
    } else if (name != "--config" && setting->is_boolean) {
      value = "true";
    } else if (i + 1 < args.size()) {
      value = args[++i];
    } else {
      out.errors.push_back("flags: " + name + ": needs a value");
      continue;
    }
    if (name == "--config") {
      file = value;
    } else {
      given.push_back({&*setting, value});
    }
  }
  if (file) read_file(*file, out.errors);
  for (const Setting& setting : settings_) {
    if (setting.environment.empty()) continue;
    if (const auto value = environment(setting.environment)) {
      set(setting, *value, "environment " + setting.environment, out.errors);
    }
  }
  for (const Given& flag : given)
    set(*flag.setting, flag.value, "flag " + flag.setting->flag, out.errors);
  if (out.errors.size() > kMaxErrors) {
    out.errors.resize(kMaxErrors);
    out.errors.emplace_back("… and more");
  }
  return out;
}

std::string Settings::usage() const {
  std::string out =
      "  --config PATH\n      YAML file; the environment goes before it, flags before both\n";
  for (const Setting& setting : settings_) {
    out += "  " + setting.flag + (setting.is_boolean ? "[=false]" : " VALUE");
    if (!setting.path.empty()) out += "   file: " + setting.path + "   env: " + setting.environment;
    out += "\n      " + setting.help;
    if (!setting.shown_default.empty()) out += "; default " + setting.shown_default;
    out += "\n";
  }
  return out;
}

}  // namespace swarm::config
