// swarm-sidecar [engine | probe startup | leaving | idle | version]; without a verb: supervisor of
// the engine.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "engine/config.h"
#include "engine/sidecar.h"
#include "net/beast_client.h"
#include "supervisor/supervisor.h"
#include "telemetry/log.h"

namespace {

int usage() {
  std::fputs(
      "usage: swarm-sidecar [engine [leaving]|probe startup|leaving|idle|version]\n"
      "Runs in every pod of a Swarm; the operator starts it and sets its CFN_* environment.\n"
      "  (no verb)      supervisor: runs the engine and restarts it after a crash\n"
      "  engine         the engine itself; leaving: restarted in a pod that is being shut down\n"
      "  probe startup  exit 0 once the mailbox works and agents may start\n"
      "  leaving        preStop hook: no new work for this pod\n"
      "  idle           does nothing until SIGTERM: the main container of a coordinator's pod\n"
      "  version        prints the version\n",
      stderr);
  return 2;
}

swarm::Result<swarm::engine::Config> configuration() {
  auto config = swarm::engine::parse_config(swarm::engine::process_environment());
  if (!config)
    std::fprintf(stderr, "swarm-sidecar: wrong environment:\n%s\n", config.error().message.c_str());
  return config;
}

int probe() {
  const char* port = std::getenv("CFN_HTTP_PORT");
  swarm::net::HttpClientOptions options;
  options.url = std::string("http://127.0.0.1:") + (port == nullptr ? "7080" : port);
  auto client = swarm::net::make_beast_client(options);
  if (!client) return 1;
  auto reply = (*client)->send({"GET", "/startupz", "", "", {}}, swarm::Milliseconds{1000});
  if (reply && reply->status == 200) return 0;
  std::fprintf(stderr, "%s\n", reply ? reply->body.c_str() : reply.error().message.c_str());
  return 1;
}

int idle() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTERM);
  ::sigaddset(&set, SIGINT);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  int number = 0;
  while (::sigwait(&set, &number) != 0) {
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string verb = argc > 1 ? argv[1] : "";
  if (argc > 3 || (argc == 3 && verb != "probe" && verb != "engine")) return usage();
  if (verb.empty()) {
    if (!configuration()) return 2;  // before the first fork: wrong stays wrong
    std::error_code e;
    const auto self = std::filesystem::read_symlink("/proc/self/exe", e);
    return swarm::supervisor::run(e ? std::string("/usr/local/bin/swarm-sidecar") : self.string());
  }
  if (verb == "engine") {
    if (argc == 3 && std::string(argv[2]) != "leaving") return usage();
    auto config = configuration();
    if (config) config->leaving = argc == 3;
    return config ? swarm::engine::run(*config) : 2;
  }
  if (verb == "probe" && argc == 3 && std::string(argv[2]) == "startup") return probe();
  if (verb == "leaving") return ::kill(1, SIGUSR1) == 0 ? 0 : 1;
  if (verb == "idle") return idle();
  if (verb == "version") {
    std::puts("swarm-sidecar " SWARM_VERSION);
    return 0;
  }
  return usage();
}
