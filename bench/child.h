// Processes of a benchmark: they end with the one that forked them.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

namespace swarm::bench {

pid_t fork_child(const std::function<void()>& life);
// Runs `life` in a child with a directory of its own on /dev/shm, which is removed however the
// child ends. Returns its exit code.
int in_directory(const std::string& name, const std::function<void(const std::string&)>& life);
// A child that gave up has said why; then there is nothing more to measure.
void check_children();
// From here on, this process and its threads run on this CPU; -1: on any.
void pin(pid_t pid, int cpu);
// This process's sockets are from now on those of the network namespace at `path`.
void enter_network(const std::string& path);

// Zeroed memory that this process and its children share; never given back.
void* shared_memory(std::size_t bytes);

}  // namespace swarm::bench
