#include "cluster/http.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/cluster.h"
#include "testing/fake_cluster.h"

namespace swarm::cluster {
namespace {

using testing::HasSubstr;
using testing_support::FakeCluster;
using testing_support::FakeRequest;
using testing_support::FakeResponse;
using testing_support::proxy_says;
using testing_support::status_json;

MonoTime soon() { return mono_now() + Milliseconds(5000); }

TEST(Http, KeepsItsConnectionAndOpensALostOneAnew) {
  FakeCluster server;
  int calls = 0;
  server.on("GET", "/x", [&](const FakeRequest&) {
    ++calls;
    return FakeResponse{200, std::to_string(calls), calls % 2 == 0, calls == 2};
  });
  HttpClient client(server.socket_path());
  for (int i = 1; i <= 5; ++i) {
    const auto got = client.send({.target = "/x"}, soon());
    ASSERT_TRUE(got.ok()) << got.error().message;
    EXPECT_EQ(got->body, std::to_string(i));
  }
}

TEST(Http, SendsBodiesAndHeaders) {
  FakeCluster server;
  server.on("POST", "/x", [](const FakeRequest& request) {
    return FakeResponse{201, request.headers.at("x-a") + request.body};
  });
  HttpClient client(server.socket_path());
  const std::string big(3'000'000, 'b');
  const auto got = client.send(
      {.method = "POST", .target = "/x", .headers = {{"X-A", "1"}}, .body = big}, soon());
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->status, 201);
  EXPECT_EQ(got->body, "1" + big);
}

TEST(Http, TakesABodyThatComesAfterItsHead) {
  FakeCluster server;
  server.on("GET", "/x",
            [](const FakeRequest&) { return FakeResponse{.body = "{}", .head_first = true}; });
  HttpClient client(server.socket_path());
  const auto got = client.send({.target = "/x"}, soon());
  ASSERT_TRUE(got.ok()) << got.error().message;
  EXPECT_EQ(got->body, "{}");
}

TEST(Http, WithoutAServerNothingWasSent) {
  HttpClient client("/nonexistent/socket");
  EXPECT_EQ(client.send({.target = "/"}, soon()).error().code, Code::kUnavailable);
}

TEST(Http, AHangUpIsAnUnknownOutcome) {
  FakeCluster server;
  server.on("GET", "/x", [](const FakeRequest&) { return FakeResponse{.hang_up = true}; });
  HttpClient client(server.socket_path());
  EXPECT_EQ(client.send({.target = "/x"}, soon()).error().code, Code::kUnknown);
}

TEST(Http, TheDeadlineHolds) {
  FakeCluster server;
  server.on("GET", "/x", [](const FakeRequest&) {
    std::this_thread::sleep_for(Milliseconds(500));
    return FakeResponse{};
  });
  HttpClient client(server.socket_path());
  EXPECT_EQ(client.send({.target = "/x"}, mono_now() + Milliseconds(100)).error().code,
            Code::kUnknown);
}

TEST(Http, StreamsPieceByPiece) {
  FakeCluster server;
  server.on("GET", "/log", [](const FakeRequest&) {
    return FakeResponse{200, std::string(100'000, 'x'), true};
  });
  HttpClient client(server.socket_path());
  std::size_t total = 0;
  const auto got = client.stream(
      {.target = "/log"}, [&](std::string_view bytes) { total += bytes.size(); },
      [] { return true; });
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(total, 100'000U);
  const auto missing = client.stream(
      {.target = "/none"}, [](std::string_view) { FAIL(); }, [] { return true; });
  EXPECT_EQ(missing->status, 404);
  const auto stopped = client.stream(
      {.target = "/log"}, [](std::string_view) {}, [] { return false; });
  EXPECT_TRUE(stopped.ok());
}

TEST(Explain, NoAnswerIsToldFromEveryAnswer) {
  const auto code = [](const FakeResponse& said) -> std::optional<Code> {
    const std::optional<Error> error =
        explain_no_answer({.status = said.status, .content_type = said.type, .body = said.body});
    if (!error) return std::nullopt;
    return error->code;
  };
  for (const char* not_sent :
       {"dial tcp 127.0.0.1:9: connect: connection refused", "dial tcp 10.0.0.1:443: i/o timeout",
        "dial tcp: lookup api.example: no such host", "net/http: TLS handshake timeout",
        "tls: failed to verify certificate: x509: certificate signed by unknown authority",
        "getting credentials: exec: executable aws not found"}) {
    EXPECT_EQ(code(proxy_says(not_sent)), Code::kUnavailable) << not_sent;
  }
  for (const char* cut_off : {"EOF", "read tcp 10.0.0.1:443: connection reset by peer",
                              "http2: server sent GOAWAY and closed the connection"}) {
    EXPECT_EQ(code(proxy_says(cut_off)), Code::kUnknown) << cut_off;
  }
  EXPECT_EQ(code(proxy_says("internal error")), std::nullopt);
  EXPECT_EQ(code({503, "error trying to reach service: dial tcp 10.88.0.3:7080: connect: refused",
                  false, false, false, "text/plain"}),
            std::nullopt);
  EXPECT_EQ(code({500, status_json(500, "InternalError", "dial tcp 10.0.0.1:2379: refused")}),
            std::nullopt);
  EXPECT_EQ(code({200, "dial tcp", false, false, false, "text/plain"}), std::nullopt);
}

TEST(Explain, OurOwnErrorsKeepTheirCode) {
  const std::pair<const char*, Code> rows[] = {{"not_found", Code::kNotFound},
                                               {"conflict", Code::kConflict},
                                               {"full", Code::kFull},
                                               {"invalid", Code::kInvalid},
                                               {"unavailable", Code::kUnavailable},
                                               {"denied", Code::kDenied},
                                               {"something", Code::kInternal}};
  for (const auto& [code, want] : rows) {
    EXPECT_EQ(
        explain_task_api(404, std::string(R"({"code":")") + code + R"(","message":"m"})", "s", "n")
            .code,
        want)
        << code;
  }
}

TEST(Explain, TheProxysErrorsGetWords) {
  const Error none = explain_task_api(
      503, status_json(503, "ServiceUnavailable", "no endpoints available"), "hello", "team");
  EXPECT_EQ(none.code, Code::kUnavailable);
  EXPECT_THAT(none.message, HasSubstr("kubectl get pods -n team -l cfn.dev/swarm=hello"));
  const Error denied = explain_task_api(
      403, status_json(403, "Forbidden", "cannot create services/proxy"), "hello", "team");
  EXPECT_EQ(denied.code, Code::kDenied);
  EXPECT_THAT(denied.message, HasSubstr("resourceNames: [\"hello-tasks:http\"]"));
  EXPECT_EQ(
      explain_task_api(404, status_json(404, "NotFound", "services not found"), "hello", "team")
          .code,
      Code::kUnavailable);
  EXPECT_EQ(explain_task_api(502, "Bad Gateway", "hello", "team").code, Code::kUnavailable);
  EXPECT_EQ(explain_task_api(504, "", "hello", "team").code, Code::kUnknown);
  EXPECT_EQ(explain_task_api(418, "<html>", "hello", "team").code, Code::kInternal);
}

}  // namespace
}  // namespace swarm::cluster
