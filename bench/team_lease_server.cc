#include "team_lease_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <list>
#include <memory>

#include "wire.h"

namespace swarm::bench {
namespace {

constexpr std::size_t kMaxRequestBytes = 4U << 20U;
constexpr std::size_t kMaxWatches = 4;  // the oldest goes
constexpr int kRequestSeconds = 5;

constexpr char kLease[] =
    R"({"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"bench-team-0","namespace":"bench","resourceVersion":"1"},"spec":{}})";
constexpr char kSwarm[] =
    R"({"apiVersion":"cfn.dev/v1alpha1","kind":"Swarm","metadata":{"name":"bench","namespace":"bench","uid":"bench","resourceVersion":"1"},)"
    R"("spec":{"workers":{"template":{"spec":{"containers":[{"name":"agent","image":"none"}]}}}}})";

struct Connection {
  explicit Connection(SSL_CTX* context, int peer) : fd(peer), ssl(SSL_new(context), SSL_free) {
    const timeval limit{kRequestSeconds, 0};
    (void)::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit,
                       sizeof limit);  // else a silent client delays the others
    SSL_set_fd(ssl.get(), fd);
  }
  ~Connection() {
    ssl.reset();
    ::close(fd);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // A whole request, or "" when the client did not send one.
  [[nodiscard]] std::string request() const {
    std::string out;
    char piece[16384];
    while (out.size() < kMaxRequestBytes) {
      if (const auto end = out.find("\r\n\r\n"); end != std::string::npos) {
        const auto length = out.find("Content-Length: ");
        const std::size_t body =
            length < end ? std::strtoul(out.c_str() + length + 16, nullptr, 10) : 0;
        if (out.size() >= end + 4 + body) return out;
      }
      const int n = SSL_read(ssl.get(), piece, sizeof piece);
      if (n <= 0) return "";
      out.append(piece, static_cast<std::size_t>(n));
    }
    return "";
  }

  // Whether the client takes it is its own affair: it asks again.
  void answer(const std::string& body) const {
    const std::string text =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: "
        "close\r\nContent-Length: " +
        std::to_string(body.size()) + "\r\n\r\n" + body;
    (void)SSL_write(ssl.get(), text.data(), static_cast<int>(text.size()));
    (void)SSL_shutdown(ssl.get());
  }

  const int fd;
  std::unique_ptr<SSL, decltype(&SSL_free)> ssl;
};

}  // namespace

void serve_team_lease(const std::string& address, std::uint16_t port,
                      const std::string& certificate_file, const std::string& key_file) {
  std::signal(SIGPIPE, SIG_IGN);
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_server_method()),
                                                                  SSL_CTX_free);
  if (!context ||
      SSL_CTX_use_certificate_file(context.get(), certificate_file.c_str(), SSL_FILETYPE_PEM) !=
          1 ||
      SSL_CTX_use_PrivateKey_file(context.get(), key_file.c_str(), SSL_FILETYPE_PEM) != 1) {
    fail("certificate or key unusable: " + certificate_file);
  }
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_port = htons(port);
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (::inet_pton(AF_INET, address.c_str(), &where.sin_addr) != 1 || listener < 0 ||
      ::bind(listener, reinterpret_cast<const sockaddr*>(&where), sizeof where) != 0 ||
      ::listen(listener, 16) != 0) {
    fail("can't listen on " + address + ":" + std::to_string(port));
  }
  std::string lease = kLease;
  std::list<std::unique_ptr<Connection>> watches;  // begun, and then nothing ever changes
  while (true) {
    const int peer = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (peer < 0) continue;
    auto connection = std::make_unique<Connection>(context.get(), peer);
    if (SSL_accept(connection->ssl.get()) != 1) continue;
    const std::string request = connection->request();
    if (request.empty()) continue;
    const std::string target = request.substr(0, request.find('\r'));
    if (target.find("watch=1") != std::string::npos) {
      constexpr char kHead[] =
          "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
      (void)SSL_write(connection->ssl.get(), kHead, sizeof kHead - 1);
      watches.push_back(std::move(connection));
      if (watches.size() > kMaxWatches) watches.pop_front();
      continue;
    }
    if (target.find("/swarms?") != std::string::npos) {
      connection->answer(std::string(R"({"metadata":{"resourceVersion":"1"},"items":[)") + kSwarm +
                         "]}");
      continue;
    }
    if (target.starts_with("PUT ")) lease = request.substr(request.find("\r\n\r\n") + 4);
    connection->answer(lease);
  }
}

}  // namespace swarm::bench
