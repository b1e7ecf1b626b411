#include "zmq.h"

#include <dlfcn.h>

#include <cerrno>

#include "wire.h"

namespace swarm::bench {
namespace {

// From the documentation of libzmq 4.
constexpr int kIdentity = 5, kLinger = 17, kSendLimit = 23, kReceiveLimit = 24, kBacklog = 19;
constexpr int kDontWait = 1, kMore = 2;
constexpr int kMaxBacklog = 4096;

class Library {
 public:
  static const Library& get() {
    static const Library library;
    return library;
  }
  void* (*context)();
  void* (*socket)(void*, int);
  int (*set)(void*, int, const void*, std::size_t);
  int (*bind)(void*, const char*);
  int (*connect)(void*, const char*);
  int (*send)(void*, const void*, std::size_t, int);
  int (*init)(void*);
  int (*receive)(void*, void*, int);
  void* (*data)(void*);
  std::size_t (*size)(const void*);
  const char* (*text)(int);
  int (*error)();

 private:
  Library() {
    void* handle = ::dlopen("libzmq.so.5", RTLD_NOW);
    if (handle == nullptr) fail("libzmq.so.5 is missing: scripts/deps bench");
    const auto load = [&](auto& function, const char* name) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(handle, name));
      if (function == nullptr) fail(std::string("libzmq has no ") + name);
    };
    load(context, "zmq_ctx_new");
    load(socket, "zmq_socket");
    load(set, "zmq_setsockopt");
    load(bind, "zmq_bind");
    load(connect, "zmq_connect");
    load(send, "zmq_send");
    load(init, "zmq_msg_init");
    load(receive, "zmq_msg_recv");
    load(data, "zmq_msg_data");
    load(size, "zmq_msg_size");
    load(text, "zmq_strerror");
    load(error, "zmq_errno");
  }
};

void expect(bool ok, const char* what) {
  if (!ok) fail(std::string("zmq: ") + what + ": " + Library::get().text(Library::get().error()));
}

}  // namespace

ZmqSocket::ZmqSocket(Kind kind, std::uint32_t identity) {
  const auto& z = Library::get();
  static void* const context = z.context();  // of this process: made after the fork
  socket_ = z.socket(context, static_cast<int>(kind));
  expect(socket_ != nullptr, "socket");
  z.init(message_);
  const std::uint32_t name = identity + 0x01000000;  // a first byte of 0 is libzmq's
  const int none = 0;
  expect(z.set(socket_, kIdentity, &name, sizeof name) == 0, "identity");
  for (const int option : {kLinger, kSendLimit, kReceiveLimit})  // limits of 0: none
    expect(z.set(socket_, option, &none, sizeof none) == 0, "limits");
  expect(z.set(socket_, kBacklog, &kMaxBacklog, sizeof kMaxBacklog) == 0, "backlog");
}

void ZmqSocket::bind(const std::string& endpoint) {
  expect(Library::get().bind(socket_, endpoint.c_str()) == 0, "bind");
}

void ZmqSocket::connect(const std::string& endpoint) {
  expect(Library::get().connect(socket_, endpoint.c_str()) == 0, "connect");
}

void ZmqSocket::send(std::string_view part, bool more) {
  const auto& z = Library::get();
  expect(z.send(socket_, part.data(), part.size(), more ? kMore : 0) >= 0, "send");
}

bool ZmqSocket::receive(std::string& part, bool wait) {
  const auto& z = Library::get();
  while (z.receive(message_, socket_, wait ? 0 : kDontWait) < 0) {
    if (z.error() == EAGAIN) return false;
    expect(z.error() == EINTR, "receive");
  }
  part.assign(static_cast<const char*>(z.data(message_)), z.size(message_));
  return true;
}

}  // namespace swarm::bench
