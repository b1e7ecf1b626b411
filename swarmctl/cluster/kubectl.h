// kubectl as a helper process: `kubectl proxy` on a unix socket in a private directory, and its
// idea of the namespace.
//
// The proxy ends with this object, with this process however it ends (parent-death signal), and on
// SIGINT and SIGTERM, which KubectlProxy handles from start() on: they clean up and exit with 130
// and 143. At most one object per process, started on the main thread (the parent-death signal
// follows the thread).
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"
#include "os/time.h"

namespace swarm::cluster {

inline constexpr Milliseconds kProxyStart{20'000};

struct KubectlFlags {
  std::string context;
  std::string kubeconfig;
  [[nodiscard]] std::vector<std::string> words() const;
};

// The namespace of the current context; in a pod without a kubeconfig the pod's; else "default".
// kNotFound: there is no kubectl.
Result<std::string> current_namespace(const KubectlFlags& flags);
// The address of the API server that the kubeconfig names, for messages; "" when it names none.
std::string server_address(const KubectlFlags& flags);

class KubectlProxy {
 public:
  KubectlProxy() = default;
  ~KubectlProxy() { stop(); }
  KubectlProxy(const KubectlProxy&) = delete;
  KubectlProxy& operator=(const KubectlProxy&) = delete;

  // Returns when the socket accepts connections. Errors carry what kubectl said.
  Status start(const KubectlFlags& flags);
  void stop();
  [[nodiscard]] const std::string& socket_path() const { return socket_; }

 private:
  std::string directory_;
  std::string socket_;
  std::string errors_;
  pid_t pid_ = -1;
};

}  // namespace swarm::cluster
