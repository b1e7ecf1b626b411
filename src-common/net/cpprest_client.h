// The operator's HttpClient over cpprestsdk: pooled connections for send(), one of its own for each
// stream().
//
// What it works around: a pooled connection that the server has closed fails the next request (one
// retry on a fresh pool, so callers must make replays harmless: fixed names, preconditions); bodies
// nobody reads are buffered without limit (a sink with back-pressure); the system's CA bundle is
// parsed for each connection (own store); forty threads (four); exceptions of tasks nobody looks at
// end the process (each is looked at); no total deadline (ours). IPv6 literals do not work in
// cpprestsdk and are refused: name the host instead.
#pragma once

#include <memory>

#include "net/http_client.h"

namespace swarm::net {

// Must be called before other threads read the environment (it points OpenSSL's default bundle at
// nothing).
Result<std::unique_ptr<HttpClient>> make_cpprest_client(HttpClientOptions options);

}  // namespace swarm::net
