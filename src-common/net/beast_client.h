// The light HttpClient: Boost.Beast and OpenSSL, one connection per call, no threads of its own.
#pragma once

#include <memory>

#include "net/http_client.h"

namespace swarm::net {

Result<std::unique_ptr<HttpClient>> make_beast_client(HttpClientOptions options);

}  // namespace swarm::net
