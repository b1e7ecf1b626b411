#include "config/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <map>

namespace swarm::config {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Target {
  std::string image = "default";
  std::string level = "info";
  int port = 8080;
  bool enabled = true;
  int lease = 15;
  std::string server;
};

struct Fixture {
  Fixture() {
    settings.text("sidecarImage", &target.image, "The image.",
                  [](const std::string& v) -> std::optional<std::string> {
                    if (v.empty() || v.find(' ') != std::string::npos) return "an image reference";
                    return std::nullopt;
                  });
    settings.choice("logLevel", &target.level, {"debug", "info"}, "The level.");
    settings.integer("http.port", &target.port, 1, 65535, "The port.");
    settings.boolean("leaderElection.enabled", &target.enabled, "Whether.");
    settings.integer("leaderElection.leaseDurationSeconds", &target.lease, 5, 600, "How long.");
    settings.flag_only("--api-server", &target.server, "Where.");
  }
  Settings::Outcome load(std::vector<std::string> args, const std::string& yaml = "\x01",
                         const std::map<std::string, std::string>& environment = {}) {
    if (yaml != "\x01") {
      // Tests run side by side, each in a process of its own.
      path = ::testing::TempDir() + "settings_test." + std::to_string(::getpid()) + ".yaml";
      std::ofstream(path) << yaml;
      args.insert(args.begin(), {"--config", path});
    }
    return settings.load(args, [&](const std::string& name) -> std::optional<std::string> {
      const auto found = environment.find(name);
      if (found == environment.end()) return std::nullopt;
      return found->second;
    });
  }
  Target target;
  Settings settings;
  std::string path;
};

TEST(Settings, NamesFollowFromThePath) {
  EXPECT_EQ(environment_name("leaderElection.leaseDurationSeconds"),
            "CFN_LEADER_ELECTION_LEASE_DURATION_SECONDS");
  EXPECT_EQ(flag_name("leaderElection.leaseDurationSeconds"),
            "--leader-election-lease-duration-seconds");
  EXPECT_EQ(flag_name("http.port"), "--http-port");
}

TEST(Settings, FlagsGoBeforeTheEnvironmentGoesBeforeTheFile) {
  Fixture f;
  const auto outcome = f.load(
      {"--http-port=3", "--leader-election-enabled=false", "--api-server", "x"},
      "sidecarImage: from-file\nhttp: {port: 1}\nleaderElection:\n  leaseDurationSeconds: 20\n",
      {{"CFN_HTTP_PORT", "2"}, {"CFN_LOG_LEVEL", "debug"}, {"CFN_OTHER", "x"}});
  EXPECT_THAT(outcome.errors, IsEmpty());
  EXPECT_EQ(f.target.image, "from-file");
  EXPECT_EQ(f.target.level, "debug");
  EXPECT_EQ(f.target.port, 3);
  EXPECT_FALSE(f.target.enabled);
  EXPECT_EQ(f.target.lease, 20);
  EXPECT_EQ(f.target.server, "x");
}

TEST(Settings, AllErrorsComeAtOnceWithPlacePathAndWhatIsAllowed) {
  Fixture f;
  const auto outcome = f.load(
      {"--http-port=0", "--what"},
      "sidecarImage: \"\"\nlogLevel: loud\nhttp:\n  port: many\n  prot: 1\nleaderElection: 5\n",
      {{"CFN_LEADER_ELECTION_ENABLED", "yes"}});
  EXPECT_THAT(
      outcome.errors,
      ElementsAre(
          "flags: \"--what\": is not a flag; see --help",
          f.path + ":1: sidecarImage: is \"\"; allowed: an image reference",
          f.path + ":2: logLevel: is \"loud\"; allowed: debug, info",
          f.path + ":4: http.port: is \"many\"; allowed: 1 to 65535",
          HasSubstr(":5: http.prot: is not a setting; allowed: sidecarImage, logLevel, http.port"),
          f.path + ":6: leaderElection: must be a map",
          "environment CFN_LEADER_ELECTION_ENABLED: leaderElection.enabled: is \"yes\"; allowed: "
          "true, false",
          "flag --http-port: http.port: is \"0\"; allowed: 1 to 65535"));
}

TEST(Settings, BadFilesAreErrorsNotCrashes) {
  for (const std::string yaml :
       {"[1, 2]", "a: [", "just words", "{{{{", "? [a]\n: b", "logLevel: [info]",
        "http: {port: {a: 1}}", "logLevel: info\nlogLevel: debug", "&a [*a]",
        "%YAML 9.9\n---\nx: 1"}) {
    Fixture f;
    EXPECT_FALSE(f.load({}, yaml).errors.empty()) << yaml;
  }
  Fixture f;
  EXPECT_THAT(f.load({"--config", "/nonexistent/file"}).errors,
              ElementsAre(HasSubstr("/nonexistent/file")));
  EXPECT_THAT(f.load({"--config"}).errors, ElementsAre("flags: --config: needs a value"));
}

TEST(Settings, AnEmptyFileMeansDefaults) {
  Fixture f;
  EXPECT_THAT(f.load({}, "").errors, IsEmpty());
  EXPECT_THAT(f.load({}, "http:\nlogLevel:\n").errors, IsEmpty());
  EXPECT_EQ(f.target.port, 8080);
}

TEST(Settings, HelpNamesEverySettingInAllItsForms) {
  Fixture f;
  EXPECT_TRUE(f.load({"--help"}).help);
  EXPECT_THAT(f.settings.usage(),
              HasSubstr("--http-port VALUE   file: http.port   env: CFN_HTTP_PORT"));
  EXPECT_THAT(f.settings.usage(), HasSubstr("default 8080"));
}

}  // namespace
}  // namespace swarm::config
