// `agentctl work --git`: one clone per task from a local cache, on a branch of its own, pushed at
// the end.
//
// The functions here run in a forked child (worker/process.h), block as long as git does, speak to
// stderr, and print what the parent needs as "name value" lines on stdout. The cache is one bare
// repository per URL below `cache_root`, shared by all agents of this uid on the volume, guarded by
// flock. Nothing in it is needed: whatever is wrong with it, it is made again.
#pragma once

#include <functional>
#include <string>

#include "base/ids.h"
#include "base/result.h"

namespace swarm::worker {

inline constexpr int kPushTries = 5;

struct GitSource {
  std::string url;
  std::string ref;  // branch, tag or commit; "" = the remote's HEAD
};

// "URL[@REF]": the @ counts only after the last '/', so git@host:path and https://user@host/path
// stay whole. kInvalid: empty, or beginning with '-'.
Result<GitSource> parse_git_source(const std::string& text);

struct GitJob {
  GitSource source;
  TaskId task;
  std::string clone_directory;  // does not exist yet; its parent does
  std::string cache_root;
  std::string agent;  // author name where git has none configured
  std::string swarm;
  std::string subject;  // of the commit made for what CMD left uncommitted
};

// "swarm/<task id>".
std::string task_branch(const TaskId& task);

// Clones; prints "base <commit>". Exit code 0, or 1 after a message on stderr.
int git_prepare(const GitJob& job);
// Commits what is left, pushes when there is something new; then prints "branch <b>" and "commit
// <c>". As above. `confirm` returns once the coordinator has said that this attempt still owns the
// task; it is asked before each try to push.
int git_finish(const GitJob& job, const std::string& base, const std::function<void()>& confirm);

// $TMPDIR or /tmp, plus agentctl-cache-<uid>.
std::string default_cache_root();

}  // namespace swarm::worker
