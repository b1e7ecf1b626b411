#include "worker/git.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>
#include <vector>

#include "os/time.h"
#include "worker/process.h"

namespace swarm::worker {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

constexpr std::size_t kMaxGitOutput = 1U << 20U;
constexpr const char* kHeadRef = "refs/agentctl/head";  // the remote's HEAD, in the cache

void say(const std::string& text) { std::fprintf(stderr, "agentctl: %s\n", text.c_str()); }

struct Ran {
  int code = 127;
  std::string out;
};

// Runs git in this (forked) process's own group, so that the parent ends it with us. stderr is
// passed on.
Ran git(const Words& arguments, const std::string& directory = "") {
  Words words{"git"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  int pipe[2];
  Ran ran;
  if (::pipe2(pipe, O_CLOEXEC) != 0) {
    say(std::string("pipe: ") + std::strerror(errno));
    return ran;
  }
  const Fd read_end(pipe[0]);
  Fd write_end(pipe[1]);
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (!directory.empty() && ::chdir(directory.c_str()) != 0) ::_exit(126);
    ::dup2(write_end.get(), 1);
    ::execvp("git", argv.data());
    ::_exit(127);
  }
  write_end.reset();
  if (pid < 0) {
    say(std::string("fork: ") + std::strerror(errno));
    return ran;
  }
  char buffer[4096];
  for (;;) {
    const ssize_t n = ::read(read_end.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    if (ran.out.size() < kMaxGitOutput) ran.out.append(buffer, static_cast<std::size_t>(n));
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  while (!ran.out.empty() && ran.out.back() == '\n') ran.out.pop_back();
  return ran;
}

void set_default(const char* name, const std::string& value) {
  if (std::getenv(name) == nullptr) ::setenv(name, value.c_str(), 1);
}

// Never ask, never run in the background, and no repository but the ones named here.
void set_git_environment(const GitJob& job) {
  for (const char* name : {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY",
                           "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE"}) {
    ::unsetenv(name);
  }
  ::setenv("GIT_TERMINAL_PROMPT", "0", 1);
  if (std::getenv("GIT_SSH") == nullptr) set_default("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
  set_default("HOME", fs::path(job.clone_directory).parent_path().string());
}

std::string cache_name(const std::string& url) {
  std::uint64_t hash = 14695981039346656037U;  // FNV-1a
  for (const char c : url) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
  std::string name;
  for (const char c : url.substr(url.find_last_of("/:") + 1)) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '_';
    if (plain && name.size() < 40) name += c;
  }
  char text[32];
  std::snprintf(text, sizeof text, "-%016llx", static_cast<unsigned long long>(hash));
  return name + text;
}

// The directory exists, is ours alone and no link: /tmp belongs to everybody.
bool safe_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    say("no git cache: " + path + ": " + std::strerror(errno));
    return false;
  }
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != ::geteuid() ||
      (info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    say("no git cache: " + path + " is not a directory that only this user can write");
    return false;
  }
  return true;
}

bool knows_negative_refspecs() {  // since git 2.29
  int major = 0;
  int minor = 0;
  if (std::sscanf(git({"--version"}).out.c_str(), "git version %d.%d", &major, &minor) != 2)
    return false;
  return major > 2 || (major == 2 && minor >= 29);
}

bool fetch(const std::string& repository, const GitJob& job) {
  Words words{"fetch",
              "--quiet",
              "--force",
              "--prune",
              "--no-auto-gc",
              "origin",
              std::string("+HEAD:") + kHeadRef,
              "+refs/heads/*:refs/heads/*",
              "+refs/tags/*:refs/tags/*"};
  // Branches of other tasks are many and rarely wanted; a task that wants one fetches it from
  // origin.
  if (!job.source.ref.starts_with("swarm/") && knows_negative_refspecs())
    words.emplace_back("^refs/heads/swarm/*");
  return git(words, repository).code == 0;
}

bool make_repository(const std::string& path, const GitJob& job) {
  return git({"init", "--quiet", "--bare", path}).code == 0 &&
         git({"config", "gc.auto", "0"}, path).code == 0 &&
         git({"remote", "add", "origin", job.source.url}, path).code == 0;
}

void remove_tree(const std::string& path) {
  std::error_code ignored;  // what is left over is tried again when the name is used next
  fs::remove_all(path, ignored);
}

// An up-to-date bare repository at `path`. One that can't be updated is replaced by a fresh one, if
// that one can be filled.
bool update_cache(const std::string& path, const GitJob& job) {
  const bool exists = ::access((path + "/HEAD").c_str(), F_OK) == 0 &&
                      git({"config", "remote.origin.url"}, path).out == job.source.url;
  if (exists && fetch(path, job)) return true;
  const std::string fresh = path + ".new";
  remove_tree(fresh);
  if (!make_repository(fresh, job) || !fetch(fresh, job)) {
    remove_tree(fresh);
    return false;
  }
  remove_tree(path);
  std::error_code error;
  fs::rename(fresh, path, error);
  if (error) say("git cache: " + error.message());
  return !error;
}

// The commit that the job starts from, or "".
std::string resolve(const std::string& repository, const GitJob& job) {
  const std::string& ref = job.source.ref;
  Words candidates{kHeadRef};
  if (!ref.empty()) candidates = {"refs/heads/" + ref, "refs/tags/" + ref, ref};
  for (const std::string& candidate : candidates) {
    const Ran ran = git({"rev-parse", "--quiet", "--verify", candidate + "^{commit}"}, repository);
    if (ran.code == 0) return ran.out;
  }
  return "";
}

bool clone_from(const std::string& repository, const GitJob& job, std::string& base) {
  base = resolve(repository, job);
  if (base.empty()) {
    say(job.source.url + " has no branch, tag or commit '" + job.source.ref +
        "': write --git=URL@REF with one it has");
    return false;
  }
  return git({"clone", "--quiet", "--no-checkout", "--", repository, job.clone_directory}).code ==
         0;
}

// In this order, since an attempt that has lost its task may still be here: what the next owner
// pushes is either seen, then the lease is not confirmed any more, or makes git refuse this push.
bool replace_branch(const GitJob& job, const std::string& ref,
                    const std::function<void()>& confirm) {
  const std::string& clone = job.clone_directory;
  const Ran url = git({"remote", "get-url", "--push", "origin"}, clone);
  if (url.code != 0) return false;
  const Ran seen = git({"ls-remote", url.out, ref}, clone);
  if (seen.code != 0) return false;
  confirm();
  const std::string expected = seen.out.substr(0, seen.out.find('\t'));  // "": no such branch
  return git({"push", "--quiet", "--force-with-lease=" + ref + ":" + expected, "origin",
              "HEAD:" + ref},
             clone)
             .code == 0;
}

}  // namespace

Result<GitSource> parse_git_source(const std::string& text) {
  GitSource source{text, ""};
  const std::size_t at = text.rfind('@');
  const std::size_t slash = text.rfind('/');
  // After the last '/' (or in a text without one, where host:path has its ':' before the '@').
  const std::size_t colon = text.rfind(':');
  const std::size_t border = slash != std::string::npos ? slash : colon;
  if (at != std::string::npos && border != std::string::npos && at > border) {
    source = {text.substr(0, at), text.substr(at + 1)};
    if (source.ref.empty())
      return invalid("--git=" + text + ": a branch, tag or commit must follow the @");
  } else if (at != std::string::npos && slash != std::string::npos && at < slash) {
    // A ref with slashes: URL@swarm/t-1. Only where what follows the @ can't be a host.
    const std::string before = text.substr(0, at);
    const std::size_t scheme = before.find("://");
    const bool path_begun = scheme != std::string::npos
                                ? before.find('/', scheme + 3) != std::string::npos
                                : before.find_first_of("/:") != std::string::npos;
    if (path_begun) source = {before, text.substr(at + 1)};
  }
  if (source.url.empty() || source.url[0] == '-' || (!source.ref.empty() && source.ref[0] == '-')) {
    return invalid("--git=" + text +
                   " is no repository: write --git=https://host/path or --git=URL@REF");
  }
  return source;
}

std::string task_branch(const TaskId& task) { return "swarm/" + task.value; }

std::string default_cache_root() {
  const char* tmp = std::getenv("TMPDIR");
  return std::string(tmp != nullptr && *tmp != '\0' ? tmp : "/tmp") + "/agentctl-cache-" +
         std::to_string(::geteuid());
}

int git_prepare(const GitJob& job) {
  set_git_environment(job);
  std::string base;
  bool cloned = false;
  if (safe_directory(job.cache_root)) {
    const std::string path = job.cache_root + "/" + cache_name(job.source.url);
    const Fd lock(
        ::open((path + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (lock.open() && ::flock(lock.get(), LOCK_EX) == 0) {
      if (!update_cache(path + ".git", job)) return 1;  // git has said why
      // Others may clone at the same time, but nobody may fetch meanwhile.
      ::flock(lock.get(), LOCK_SH);
      cloned = clone_from(path + ".git", job, base);
      if (!cloned) return 1;
    }
  }
  if (!cloned) {  // no cache here: a repository of this task's own takes its place
    const std::string own = job.clone_directory + ".origin";
    if (!make_repository(own, job) || !fetch(own, job) || !clone_from(own, job, base)) return 1;
    remove_tree(own);
  }
  const std::string& clone = job.clone_directory;
  if (git({"remote", "set-url", "origin", job.source.url}, clone).code != 0) return 1;
  if (git({"checkout", "--quiet", "-b", task_branch(job.task), base}, clone).code != 0) return 1;
  if (std::getenv("GIT_AUTHOR_NAME") == nullptr && git({"config", "user.name"}, clone).code != 0 &&
      git({"config", "user.name", job.agent}, clone).code != 0) {
    return 1;
  }
  if (std::getenv("GIT_AUTHOR_EMAIL") == nullptr &&
      git({"config", "user.email"}, clone).code != 0 &&
      git({"config", "user.email", job.agent + "@" + job.swarm + ".invalid"}, clone).code != 0) {
    return 1;
  }
  std::printf("base %s\n", base.c_str());
  std::fflush(stdout);
  return 0;
}

int git_finish(const GitJob& job, const std::string& base, const std::function<void()>& confirm) {
  set_git_environment(job);
  const std::string& clone = job.clone_directory;
  const Ran unmerged = git({"ls-files", "--unmerged"}, clone);
  if (unmerged.code != 0) return 1;
  if (!unmerged.out.empty()) {
    say("the command left unresolved merge conflicts");
    return 1;
  }
  if (git({"add", "--all"}, clone).code != 0) return 1;
  const Ran staged = git({"diff", "--cached", "--quiet"}, clone);
  if (staged.code == 1) {
    const Ran committed = git(
        {"commit", "--quiet", "--no-verify", "-m", job.subject, "-m", "Task-Id: " + job.task.value},
        clone);
    if (committed.code != 0) return 1;
  } else if (staged.code != 0) {
    return 1;
  }
  const Ran head = git({"rev-parse", "HEAD"}, clone);
  if (head.code != 0) return 1;
  if (head.out == base) return 0;  // no change, no push
  const std::string branch = task_branch(job.task);
  Milliseconds wait{500};
  for (int attempt = 1; !replace_branch(job, "refs/heads/" + branch, confirm); ++attempt) {
    if (attempt == kPushTries) return 1;
    std::this_thread::sleep_for(wait);
    wait *= 2;
  }
  std::printf("branch %s\ncommit %s\n", branch.c_str(), head.out.c_str());
  std::fflush(stdout);
  return 0;
}

}  // namespace swarm::worker
