// Messages from one sender, or some, to one receiver: ours and the peers in turn.
#pragma once

#include <string>

namespace swarm::bench {

// What the stage has: the directory of the pods' volumes, the servers' sockets, a tmpfs.
struct Stage {
  std::string pods = "/mnt/pods", redis = "/mnt/redis.sock", directory = "/mnt";
  unsigned short nats = 4222;
};

int one_to_one(const Stage& stage);
// `senders` fill the receiver's inbox before it begins to read.
int burst(const Stage& stage, unsigned senders, unsigned messages);

}  // namespace swarm::bench
