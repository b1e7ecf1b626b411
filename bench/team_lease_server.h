// The two objects that a coordinator's sidecar wants from an API server, for a benchmark without a
// cluster: its team's Lease, kept as it was written, and its Swarm, always the same. Over TLS, one
// connection at a time, nothing else of Kubernetes.
//
// It takes part in starting the coordinator, not in any message between agents.
#pragma once

#include <cstdint>
#include <string>

namespace swarm::bench {

// Listens on address:port (PEM files) and serves until it is ended by a signal. Fails when it
// can't.
[[noreturn]] void serve_team_lease(const std::string& address, std::uint16_t port,
                                   const std::string& certificate_file,
                                   const std::string& key_file);

}  // namespace swarm::bench
