// How long one message there and one back take: ours beside the same hops with nobody in between
// who keeps a promise.
#pragma once

#include "pair.h"

namespace swarm::bench {

int latency(const Stage& stage);

}  // namespace swarm::bench
