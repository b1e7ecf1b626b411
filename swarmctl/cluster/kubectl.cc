#include "cluster/kubectl.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "base/check.h"
#include "os/file.h"

namespace swarm::cluster {
namespace {

constexpr std::size_t kMostOutput = 65536;
constexpr Milliseconds kProxyPoll{10};
constexpr const char* kPodNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
constexpr const char* kNoKubectl =
    "kubectl is not in PATH: install it (https://kubernetes.io/docs/tasks/tools), swarmctl uses "
    "its way to your cluster";

// For the signal handler: only what async-signal-safe functions need.
volatile sig_atomic_t cleanup_pid = 0;
char cleanup_socket[256];
char cleanup_errors[256];
char cleanup_directory[256];

void clean_up_and_exit(int signal) {
  if (cleanup_pid > 0) ::kill(-static_cast<pid_t>(cleanup_pid), SIGKILL);
  ::unlink(cleanup_socket);
  ::unlink(cleanup_errors);
  ::rmdir(cleanup_directory);
  ::_exit(128 + signal);
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> out;
  for (std::string& word : words) out.push_back(word.data());
  out.push_back(nullptr);
  return out;
}

bool accepts(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return false;
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const bool good = ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  ::close(fd);
  return good;
}

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

struct ConfigView {
  std::string text;
  bool good = false;  // kubectl found the context
};

// What `kubectl config view` says of the current context. kNotFound: there is no kubectl.
Result<ConfigView> config_view(const KubectlFlags& flags, const std::string& path) {
  std::vector<std::string> words{"kubectl", "config", "view", "--minify", "-o", "jsonpath=" + path};
  for (const std::string& word : flags.words()) words.push_back(word);
  std::vector<char*> argv = pointers(words);
  int out[2];
  if (::pipe2(out, O_CLOEXEC) != 0)
    return internal_error(std::string("pipe: ") + std::strerror(errno));
  const pid_t pid = ::fork();
  if (pid < 0) return internal_error(std::string("fork: ") + std::strerror(errno));
  if (pid == 0) {
    ::dup2(::open("/dev/null", O_RDWR), 2);
    ::dup2(out[1], 1);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(out[1]);
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t n = ::read(out[0], buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    if (text.size() < kMostOutput) text.append(buffer, static_cast<std::size_t>(n));
  }
  ::close(out[0]);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127) return not_found(kNoKubectl);
  return ConfigView{trimmed(text), WIFEXITED(status) && WEXITSTATUS(status) == 0};
}

}  // namespace

std::vector<std::string> KubectlFlags::words() const {
  std::vector<std::string> out;
  if (!context.empty()) out.push_back("--context=" + context);
  if (!kubeconfig.empty()) out.push_back("--kubeconfig=" + kubeconfig);
  return out;
}

Result<std::string> current_namespace(const KubectlFlags& flags) {
  const Result<ConfigView> view = config_view(flags, "{..namespace}");
  if (!view) return view.error();
  if (!view->text.empty()) return view->text;
  // A context without a namespace, or no context at all: then perhaps a pod.
  if (flags.context.empty() && !view->good) {
    Result<std::string> pod = os::read_file(kPodNamespace, 256);
    if (pod && !trimmed(*pod).empty()) return trimmed(*pod);
  }
  return std::string("default");
}

std::string server_address(const KubectlFlags& flags) {
  const Result<ConfigView> view = config_view(flags, "{.clusters[0].cluster.server}");
  return view ? view->text : "";
}

Status KubectlProxy::start(const KubectlFlags& flags) {
  check(pid_ < 0 && cleanup_pid == 0, "one proxy per process");
  const char* tmp = std::getenv("TMPDIR");
  std::string pattern =
      std::string(tmp != nullptr && *tmp != '\0' ? tmp : "/tmp") + "/swarmctl-XXXXXX";
  if (pattern.size() > 90)
    pattern = "/tmp/swarmctl-XXXXXX";  // a socket's path has at most 107 characters
  if (::mkdtemp(pattern.data()) == nullptr)
    return internal_error(pattern + ": " + std::strerror(errno));
  directory_ = pattern;
  socket_ = directory_ + "/s";
  errors_ = directory_ + "/err";
  for (const auto& [target, text] : {std::pair<char*, const std::string*>{cleanup_socket, &socket_},
                                     {cleanup_errors, &errors_},
                                     {cleanup_directory, &directory_}}) {
    std::snprintf(target, sizeof cleanup_socket, "%s", text->c_str());
  }

  std::vector<std::string> words{"kubectl",
                                 "proxy",
                                 "--unix-socket=" + socket_,
                                 "--accept-paths=.*",
                                 "--reject-paths=^$",
                                 "--reject-methods=^$"};
  for (const std::string& word : flags.words()) words.push_back(word);
  std::vector<char*> argv = pointers(words);
  // No signal may come between fork and the moment its handler knows the child.
  sigset_t ours;
  sigset_t before;
  sigemptyset(&ours);
  sigaddset(&ours, SIGINT);
  sigaddset(&ours, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &ours, &before);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) {
    ::setpgid(0, 0);  // a kubectl that is a wrapper has children: all of them end together
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(127);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    const int null = ::open("/dev/null", O_RDWR);
    const int errors = ::open(errors_.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600);
    ::dup2(null, 0);
    ::dup2(null, 1);
    ::dup2(errors, 2);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  if (pid_ > 0) {
    ::setpgid(pid_, pid_);
    cleanup_pid = pid_;
  }
  for (const int signal : {SIGINT, SIGTERM}) ::signal(signal, clean_up_and_exit);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid_ < 0) {
    stop();
    return internal_error(std::string("fork: ") + std::strerror(errno));
  }

  const MonoTime deadline = mono_now() + kProxyStart;
  while (mono_now() < deadline) {
    if (accepts(socket_)) return {};
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      cleanup_pid = 0;
      Result<std::string> said = os::read_file(errors_, kMostOutput);
      stop();
      if (WIFEXITED(status) && WEXITSTATUS(status) == 127) return not_found(kNoKubectl);
      return unavailable("kubectl proxy ended: " +
                         (said && !trimmed(*said).empty() ? trimmed(*said) : "it did not say why"));
    }
    std::this_thread::sleep_for(kProxyPoll);
  }
  stop();
  return unavailable("kubectl proxy did not start within " +
                     std::to_string(kProxyStart.count() / 1000) + " s");
}

void KubectlProxy::stop() {
  if (pid_ > 0) {
    // It holds no state. The whole group: a kubectl that is a wrapper has children.
    ::kill(-pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    cleanup_pid = 0;
  }
  if (!directory_.empty()) {
    ::unlink(socket_.c_str());
    ::unlink(errors_.c_str());
    ::rmdir(directory_.c_str());
    directory_.clear();
  }
}

}  // namespace swarm::cluster
