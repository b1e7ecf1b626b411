// Both clients over TLS: whom they trust. Certificates are made here, nothing is read from the
// machine.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <thread>

#include "net/beast_client.h"
#include "net/cpprest_client.h"

namespace swarm::net {
namespace {

struct Certificate {
  std::shared_ptr<EVP_PKEY> key;
  std::shared_ptr<X509> x509;
};

// Self-signed when there is no issuer. san: "IP:127.0.0.1" or "DNS:a.b"; empty for a CA.
Certificate make_certificate(const std::string& name, const std::string& san,
                             const Certificate* issuer, long from_seconds = -60,
                             long to_seconds = 3600) {
  Certificate out{{EVP_EC_gen("P-256"), EVP_PKEY_free}, {X509_new(), X509_free}};
  X509* x = out.x509.get();
  check(out.key && x != nullptr, "openssl");
  X509_set_version(x, X509_VERSION_3);
  static long serial = 1;
  ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(x), from_seconds);
  X509_gmtime_adj(X509_getm_notAfter(x), to_seconds);
  X509_set_pubkey(x, out.key.get());
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  X509_set_issuer_name(x, X509_get_subject_name(issuer != nullptr ? issuer->x509.get() : x));
  const auto extend = [&](int nid, const std::string& value) {
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value.c_str());
    check(extension != nullptr, "extension");
    X509_add_ext(x, extension, -1);
    X509_EXTENSION_free(extension);
  };
  extend(NID_basic_constraints, san.empty() ? "critical,CA:TRUE" : "critical,CA:FALSE");
  if (!san.empty()) extend(NID_subject_alt_name, san);
  check(X509_sign(x, issuer != nullptr ? issuer->key.get() : out.key.get(), EVP_sha256()) > 0,
        "sign");
  return out;
}

std::string write_pem(const Certificate& certificate, const std::string& name) {
  const std::string path = ::testing::TempDir() + std::to_string(::getpid()) + "." + name;
  std::FILE* file = std::fopen(path.c_str(), "w");
  check(file != nullptr, "fopen");
  check(PEM_write_X509(file, certificate.x509.get()) == 1, "pem");
  std::fclose(file);
  return path;
}

// Answers one request on every connection whose handshake succeeds.
class TlsServer {
 public:
  explicit TlsServer(const Certificate& certificate)
      : context_(SSL_CTX_new(TLS_server_method()), SSL_CTX_free),
        fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    check(SSL_CTX_use_certificate(context_.get(), certificate.x509.get()) == 1 &&
              SSL_CTX_use_PrivateKey(context_.get(), certificate.key.get()) == 1,
          "certificate");
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check(::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
              ::listen(fd_, 8) == 0,
          "listen");
    socklen_t size = sizeof address;
    check(::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size) == 0, "getsockname");
    port = std::to_string(ntohs(address.sin_port));
    thread_ = std::thread([this] { serve(); });
  }
  ~TlsServer() {
    ::shutdown(fd_, SHUT_RDWR);
    thread_.join();
    ::close(fd_);
  }
  std::string port;

 private:
  void serve() {
    while (true) {
      const int peer = ::accept(fd_, nullptr, nullptr);
      if (peer < 0) return;
      timeval limit{3, 0};
      ::setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
      const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context_.get()), SSL_free);
      SSL_set_fd(ssl.get(), peer);
      char piece[4096];
      if (SSL_accept(ssl.get()) == 1 && SSL_read(ssl.get(), piece, sizeof piece) > 0) {
        const std::string answer =
            "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecure";
        SSL_write(ssl.get(), answer.data(), static_cast<int>(answer.size()));
        SSL_shutdown(ssl.get());
      }
      ::close(peer);
    }
  }

  std::shared_ptr<SSL_CTX> context_;
  int fd_;
  std::thread thread_;
};

using Make = Result<std::unique_ptr<HttpClient>> (*)(HttpClientOptions);
class Tls : public ::testing::TestWithParam<Make> {};

TEST_P(Tls, TrustsItsOwnCaAndTheRightNameOnly) {
  std::signal(SIGPIPE, SIG_IGN);
  const Certificate ca = make_certificate("ca", "", nullptr);
  const Certificate other_ca = make_certificate("other", "", nullptr);
  struct Row {
    const char* what;
    Certificate certificate;
    const Certificate* trusted;
    std::string host;
    bool good;
  };
  const Row rows[] = {
      {"address in the SAN", make_certificate("s", "IP:127.0.0.1", &ca), &ca, "127.0.0.1", true},
      {"name in the SAN", make_certificate("s", "DNS:localhost", &ca), &ca, "localhost", true},
      {"another CA", make_certificate("s", "IP:127.0.0.1", &other_ca), &ca, "127.0.0.1", false},
      {"self-signed", make_certificate("s", "IP:127.0.0.1", nullptr), &ca, "127.0.0.1", false},
      {"another address", make_certificate("s", "IP:10.0.0.1", &ca), &ca, "127.0.0.1", false},
      {"another name", make_certificate("s", "DNS:example.org", &ca), &ca, "localhost", false},
      {"a name where an address is meant", make_certificate("127.0.0.1", "DNS:localhost", &ca), &ca,
       "127.0.0.1", false},
      {"a name in the subject only", make_certificate("localhost", "IP:127.0.0.1", &ca), &ca,
       "localhost", false},
      {"expired", make_certificate("s", "IP:127.0.0.1", &ca, -7200, -3600), &ca, "127.0.0.1",
       false},
      {"not yet valid", make_certificate("s", "IP:127.0.0.1", &ca, 3600, 7200), &ca, "127.0.0.1",
       false},
  };
  for (const Row& row : rows) {
    TlsServer server(row.certificate);
    auto client = GetParam()(
        {"https://" + row.host + ":" + server.port, write_pem(*row.trusted, "tls_test.ca"), ""});
    ASSERT_TRUE(client.ok()) << client.error().message;
    const auto reply = (*client)->send({}, Milliseconds{5000});
    EXPECT_EQ(reply.ok(), row.good) << row.what << (reply.ok() ? "" : ": " + reply.error().message);
    if (!reply.ok()) {
      EXPECT_EQ(reply.error().code, Code::kUnavailable) << row.what;
    } else {
      EXPECT_EQ(reply->body, "secure");
    }
  }
}

TEST_P(Tls, NeedsACaFile) {
  const auto none = GetParam()({"https://127.0.0.1:1", "", ""});
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, Code::kInvalid);
}

INSTANTIATE_TEST_SUITE_P(Beast, Tls, ::testing::Values(&make_beast_client));
INSTANTIATE_TEST_SUITE_P(Cpprest, Tls, ::testing::Values(&make_cpprest_client));

}  // namespace
}  // namespace swarm::net
