#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "kube/client.h"
#include "kube/decode.h"
#include "kube/request.h"
#include "kube/watch.h"
#include "net/http_client.h"

namespace swarm::kube {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// What a cache would hold: name -> resourceVersion.
class View : public WatchSink {
 public:
  void list_started() override {
    seen_.clear();
    ++lists_started;
  }
  void put(const json& object) override {
    objects[text_at(object, "metadata.name")] = text_at(object, "metadata.resourceVersion");
    seen_.push_back(text_at(object, "metadata.name"));
    managed_fields = managed_fields || find_at(object, "metadata.managedFields") != nullptr;
  }
  void removed(const json& object) override { objects.erase(text_at(object, "metadata.name")); }
  void list_finished(std::string_view version) override {
    std::erase_if(objects, [&](const auto& entry) {
      return std::find(seen_.begin(), seen_.end(), entry.first) == seen_.end();
    });
    newest = std::string(version);
    ++lists_finished;
  }
  void advanced(std::string_view version) override { newest = std::string(version); }

  std::map<std::string, std::string> objects;
  std::string newest;
  int lists_started = 0;
  int lists_finished = 0;
  bool managed_fields = false;

 private:
  std::vector<std::string> seen_;
};

std::string item(const std::string& name, int version) {
  return R"({"metadata":{"name":")" + name + R"(","resourceVersion":")" + std::to_string(version) +
         R"(","managedFields":[{"manager":"x","fieldsV1":{"f:metadata":{"f:name":{}}}}]}})";
}
std::string page(const std::vector<std::string>& items, int version, const std::string& more = "") {
  std::string out = R"({"kind":"PodList","metadata":{"resourceVersion":")" +
                    std::to_string(version) + R"(","continue":")" + more + R"("},"items":[)";
  for (std::size_t i = 0; i < items.size(); ++i) out += (i == 0 ? "" : ",") + items[i];
  return out + "]}";
}
std::string event(const std::string& type, const std::string& name, int version) {
  return R"({"type":")" + type + R"(","object":)" + item(name, version) + "}";
}

struct Fixture {
  View view;
  Watch watch{{kPods, "", {"app=x", ""}, 2, std::chrono::seconds(300)}, view};
};

TEST(Watch, ListsInPagesThenWatchesFromTheListsVersion) {
  Fixture f;
  EXPECT_EQ(f.watch.next().target, "/api/v1/pods?labelSelector=app%3Dx&limit=2");
  f.watch.on_list(page({item("a", 1), item("b", 2)}, 10, "tok/en"));
  EXPECT_EQ(f.watch.next().target, "/api/v1/pods?labelSelector=app%3Dx&limit=2&continue=tok%2Fen");
  EXPECT_EQ(f.view.lists_finished, 0);
  f.watch.on_list(page({item("c", 3)}, 10));
  EXPECT_EQ(f.view.lists_finished, 1);
  EXPECT_EQ(f.watch.next().target,
            "/api/v1/"
            "pods?watch=true&allowWatchBookmarks=true&labelSelector=app%3Dx&resourceVersion=10&"
            "timeoutSeconds=300");
  EXPECT_THAT(f.view.objects,
              ElementsAre(std::pair("a", "1"), std::pair("b", "2"), std::pair("c", "3")));
  EXPECT_FALSE(f.view.managed_fields);
}

TEST(Watch, AppliesEventsAndResumesFromTheNewestVersion) {
  Fixture f;
  f.watch.on_list(page({item("a", 1)}, 10));
  EXPECT_TRUE(f.watch.on_line(event("ADDED", "b", 11)));
  EXPECT_TRUE(f.watch.on_line(event("MODIFIED", "a", 12)));
  EXPECT_TRUE(f.watch.on_line(event("DELETED", "b", 13)));
  EXPECT_TRUE(
      f.watch.on_line(R"({"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"40"}}})"));
  f.watch.on_end(false);
  EXPECT_EQ(f.watch.backoff(0), Milliseconds{0});
  EXPECT_THAT(f.watch.next().target, HasSubstr("resourceVersion=40"));
  EXPECT_THAT(f.view.objects, ElementsAre(std::pair("a", "12")));
  EXPECT_EQ(f.view.newest, "40");
}

TEST(Watch, BadLinesEndInANewListAndNeverReachTheSink) {
  const std::string rows[] = {
      R"({"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}})",
      R"({"type":"ERROR","object":{"kind":"Status","code":500,"message":"etcd"}})",
      R"({"type":"ERROR"})",
      R"({"type":"ADDED"})",
      R"({"type":"ADDED","object":null})",
      R"({"type":"ADDED","object":{"metadata":{"name":"z"}}})",
      R"({"type":"ADDED","object":{"metadata":{"name":"z","resourceVersion":7}}})",
      R"({"type":"RENAMED","object":{"metadata":{"name":"z","resourceVersion":"7"}}})",
      R"({"type":7,"object":{"metadata":{"name":"z","resourceVersion":"7"}}})",
      R"(["ADDED"])",
      R"({"type":"ADDED","object":{"metadata":{"name":"z")",
      "<html>502 Bad Gateway</html>",
      std::string("\xff\xfe\0", 3),
      "null",
  };
  for (const std::string& row : rows) {
    Fixture f;
    f.watch.on_list(page({item("a", 1)}, 10));
    EXPECT_FALSE(f.watch.on_line(row)) << row;
    EXPECT_FALSE(f.watch.on_line(event("ADDED", "late", 11))) << row;
    f.watch.on_end(false);
    EXPECT_EQ(f.watch.state(), Watch::State::kListing) << row;
    EXPECT_GE(f.watch.backoff(0), Milliseconds{200}) << row;
    EXPECT_THAT(f.view.objects, ElementsAre(std::pair("a", "1"))) << row;
    f.watch.on_list(page({item("b", 20)}, 30));
    EXPECT_THAT(f.view.objects, ElementsAre(std::pair("b", "20"))) << row;
    EXPECT_EQ(f.watch.backoff(0), Milliseconds{0}) << row;
  }
}

TEST(Watch, BadListsAreAskedForAgain) {
  const std::string rows[] = {"",
                              "x",
                              "[]",
                              "{}",
                              R"({"items":[]})",
                              R"({"metadata":{"resourceVersion":"1"}})",
                              R"({"metadata":{"resourceVersion":"1"},"items":{}})",
                              R"({"metadata":{"resourceVersion":1},"items":[]})"};
  for (const std::string& row : rows) {
    Fixture f;
    f.watch.on_list(row);
    EXPECT_EQ(f.watch.state(), Watch::State::kListing) << row;
    EXPECT_EQ(f.view.lists_finished, 0) << row;
    EXPECT_GE(f.watch.backoff(0), Milliseconds{200}) << row;
  }
}

TEST(Watch, EmptySliceOfGoIsAnEmptyList) {
  Fixture f;
  f.watch.on_list(R"({"metadata":{"resourceVersion":"5"},"items":null})");
  EXPECT_EQ(f.watch.state(), Watch::State::kWatching);
}

TEST(Watch, GoneOverHttpListsAgainOtherRefusalsAskAgain) {
  Fixture f;
  f.watch.on_list(page({}, 10));
  f.watch.on_refusal(429, "{}", "7");
  EXPECT_EQ(f.watch.state(), Watch::State::kWatching);
  EXPECT_GE(f.watch.backoff(0), Milliseconds{7000});
  f.watch.on_refusal(503, "busy", "");
  EXPECT_EQ(f.watch.state(), Watch::State::kWatching);
  f.watch.on_refusal(410, R"({"reason":"Expired"})", "");
  EXPECT_EQ(f.watch.state(), Watch::State::kListing);
}

TEST(Watch, ARefusalWithoutWordsSaysWhatWasAsked) {
  Fixture f;
  f.watch.on_refusal(404, "404 page not found", "");
  EXPECT_TRUE(f.watch.last_error().starts_with("HTTP 404 for GET /")) << f.watch.last_error();
  EXPECT_EQ(f.watch.last_error().find('?'), std::string::npos) << f.watch.last_error();
  f.watch.on_refusal(403, R"({"message":"forbidden"})", "");
  EXPECT_EQ(f.watch.last_error(), "HTTP 403: forbidden");
}

TEST(Watch, ExpiredContinueFallsBackToOneFullList) {
  Fixture f;
  f.watch.on_list(page({item("a", 1), item("b", 2)}, 10, "token"));
  f.watch.on_refusal(410, R"({"reason":"Expired"})", "");
  EXPECT_EQ(f.watch.next().target, "/api/v1/pods?labelSelector=app%3Dx");
  f.watch.on_list(page({item("b", 2)}, 12));
  EXPECT_EQ(f.view.lists_started, 2);
  EXPECT_EQ(f.view.lists_finished, 1);
  EXPECT_THAT(f.view.objects, ElementsAre(std::pair("b", "2")));
}

TEST(Watch, BackoffGrowsToItsLimitAndASilentWatchBacksOffToo) {
  Fixture f;
  Milliseconds last{0};
  for (int i = 0; i < 30; ++i) {
    f.watch.on_end(true, "refused");
    EXPECT_GE(f.watch.backoff(0), last);
    last = f.watch.backoff(0);
  }
  EXPECT_EQ(last, Milliseconds{10'000});
  EXPECT_LE(f.watch.backoff(0.999), Milliseconds{15'000});
  f.watch.on_list(page({}, 1));
  f.watch.on_end(false);
  EXPECT_GE(f.watch.backoff(0), Milliseconds{200});
}

TEST(Watch, AListIsNoEndOfARowOfWatchesThatAreRefused) {
  Fixture f;
  Milliseconds waited{0};
  for (int i = 0; i < 10; ++i) {
    f.watch.on_list(page({item("a", 1)}, 10));
    EXPECT_EQ(f.watch.backoff(0), Milliseconds{0});  // the watch begins at once
    f.watch.on_refusal(410, R"({"reason":"Expired"})", "");
    waited += f.watch.backoff(0);
  }
  EXPECT_GE(waited, Milliseconds{15'000});
  EXPECT_LE(f.watch.backoff(0), Milliseconds{2'000});  // the server is there
  f.watch.on_list(page({item("a", 1)}, 10));
  EXPECT_TRUE(f.watch.on_line(event("MODIFIED", "a", 11)));
  f.watch.on_refusal(410, R"({"reason":"Expired"})", "");
  EXPECT_EQ(f.watch.backoff(0), Milliseconds{200});
}

TEST(Watch, ListsWhenNoWatchSaysAnything) {
  Fixture f;
  f.watch.on_list(page({item("a", 1)}, 10));
  f.watch.on_end(true, "deadline passed");
  EXPECT_EQ(f.watch.state(), Watch::State::kWatching);  // once may be a hiccup
  f.watch.on_end(true, "deadline passed");
  EXPECT_EQ(f.watch.state(), Watch::State::kListing);
  f.watch.on_list(page({item("a", 1), item("b", 12)}, 13));
  EXPECT_THAT(f.view.objects, ElementsAre(std::pair("a", "1"), std::pair("b", "12")));
}

TEST(Watch, TheSameWhereverTheBytesAreSplit) {
  const std::string bytes = event("ADDED", "b", 11) + "\n" + event("MODIFIED", "a", 12) + "\r\n\n" +
                            event("DELETED", "b", 13) + "\n" +
                            event("ADDED", "c", 14).substr(0, 30);
  for (std::size_t first = 0; first <= bytes.size(); ++first) {
    for (std::size_t second = first; second <= bytes.size(); second += 7) {
      Fixture f;
      f.watch.on_list(page({item("a", 1)}, 10));
      net::LineSplitter splitter(4096);
      const net::OnLine on_line = [&](std::string_view line) { return f.watch.on_line(line); };
      for (const std::string& piece :
           {bytes.substr(0, first), bytes.substr(first, second - first), bytes.substr(second)}) {
        const Result<bool> more = splitter.feed(piece, on_line);
        ASSERT_TRUE(more.ok() && *more);
      }
      f.watch.on_end(false);
      ASSERT_EQ(f.watch.resource_version(), "13");
      ASSERT_THAT(f.view.objects, ElementsAre(std::pair("a", "12")));
    }
  }
}

TEST(LineSplitter, RefusesALineBeyondItsLimit) {
  net::LineSplitter splitter(8);
  const net::OnLine all = [](std::string_view) { return true; };
  EXPECT_TRUE(splitter.feed("12345678\n1234", all).ok());
  EXPECT_TRUE(splitter.feed("5678", all).ok());
  EXPECT_EQ(splitter.feed("9", all).error().code, Code::kFull);
}

TEST(Request, SaysEverythingInPathQueryAndBody) {
  EXPECT_EQ(create(kPods, "n", "{}").target, "/api/v1/namespaces/n/pods?fieldValidation=Strict");
  EXPECT_EQ(create(kPods, "n", "{}", true).target,
            "/api/v1/namespaces/n/pods?fieldValidation=Strict&dryRun=All");
  EXPECT_EQ(get(kRoles, "n", "r").target,
            "/apis/rbac.authorization.k8s.io/v1/namespaces/n/roles/r");
  EXPECT_EQ(get(kPods, "n", "../x").target, "/api/v1/namespaces/n/pods/..%2Fx");
  const Request status = status_patch(kSwarms, "n", "s", R"({"a":1})", "7");
  EXPECT_EQ(status.target, "/apis/cfn.dev/v1alpha1/namespaces/n/swarms/s/status");
  EXPECT_EQ(status.body, R"({"metadata":{"resourceVersion":"7"},"status":{"a":1}})");
  const json deletion = json::parse(remove(kPods, "n", "p", {"u", "9"}).body);
  EXPECT_EQ(deletion["preconditions"], json({{"uid", "u"}, {"resourceVersion", "9"}}));
  EXPECT_FALSE(deletion.contains("gracePeriodSeconds"));
}

TEST(Request, EventsOfTheSameContentHaveTheSameName) {
  EventNote note{{"cfn.dev/v1alpha1", "Swarm", "n", "s", "u", "1"}, "Normal", "Scaled", "3 pods"};
  EventNote other = note;
  EXPECT_EQ(event_name(note), event_name(other));
  other.message = "4 pods";
  EXPECT_NE(event_name(note), event_name(other));
  note.message = std::string(1023, 'x') + "ééé";
  const json body = json::parse(create_event(note, "c", "i", 0).body);
  EXPECT_LE(body["message"].get<std::string>().size(), 1024U);
}

TEST(Time, GoesThereAndBackAndRefusesTheRest) {
  EXPECT_EQ(micro_time(1'767'323'045'678), "2026-01-02T03:04:05.678000Z");
  EXPECT_EQ(parse_time("2026-01-02T03:04:05.678000Z"), 1'767'323'045'678);
  EXPECT_EQ(parse_time("2026-01-02T03:04:05Z"), 1'767'323'045'000);
  for (const char* bad :
       {"", "2026", "2026-01-02T03:04:05", "2026-13-02T03:04:05Z", "2026-01-02 03:04:05Z",
        "2026-01-02T03:04:0xZ", "2026-01-02T03:04:05.6x8Z", "2026-01-02T03:04:05+00:00"}) {
    EXPECT_EQ(parse_time(bad), 0) << bad;
  }
}

TEST(Decode, ErrorsBecomeReactions) {
  struct Row {
    int status;
    Code code;
  };
  for (const Row& row :
       {Row{404, Code::kNotFound}, Row{409, Code::kConflict}, Row{403, Code::kDenied},
        Row{422, Code::kInvalid}, Row{429, Code::kUnavailable}, Row{500, Code::kUnavailable},
        Row{503, Code::kUnavailable}, Row{302, Code::kInternal}}) {
    EXPECT_EQ(parse_error(row.status, "x", "").error().code, row.code) << row.status;
  }
  const ApiError error = parse_error(
      403,
      R"({"kind":"Status","reason":"Forbidden","message":"no","details":{"causes":[{"reason":"NamespaceTerminating"}]}})",
      "3");
  EXPECT_EQ(error.cause, "NamespaceTerminating");
  EXPECT_EQ(error.retry_after, Milliseconds{3000});
  EXPECT_EQ(parse_error(429, "", "1000000").retry_after, Milliseconds{300'000});
}

TEST(Decode, VersionsOfServersAndObjects) {
  EXPECT_EQ(parse_version(R"({"major":"1","minor":"29+"})")->minor, 29);
  EXPECT_FALSE(parse_version(R"({"major":"1"})").ok());
  EXPECT_FALSE(parse_version("no").ok());
  EXPECT_EQ(version_number("18446744073709551615"), 18446744073709551615U);
  for (const char* bad : {"", "x", "1x", "-1", "18446744073709551616"})
    EXPECT_FALSE(version_number(bad)) << bad;
}

TEST(Client, AsksTheGateBeforeEveryWriteAndNotBeforeReads) {
  class Never : public net::HttpClient {
   public:
    Result<net::HttpReply> send(const net::HttpCall& call, Milliseconds deadline,
                                std::stop_token) override {
      calls.push_back(call.method);
      last_deadline = deadline;
      return net::HttpReply{200, {}, "{}"};
    }
    Result<net::HttpReply> stream(const net::HttpCall&, const net::StreamLimits&,
                                  const net::OnLine&, std::stop_token) override {
      return internal_error("not here");
    }
    std::vector<std::string> calls;
    Milliseconds last_deadline{0};
  } http;
  Milliseconds left{1500};
  Client client(http, [&] { return left; });
  EXPECT_TRUE(client.call(create(kPods, "n", "{}")).ok());
  EXPECT_EQ(http.last_deadline, Milliseconds{1500});
  left = Milliseconds{0};
  EXPECT_EQ(client.call(create(kPods, "n", "{}")).failure().code, Code::kCancelled);
  EXPECT_TRUE(client.call(get(kPods, "n", "p")).ok());
  EXPECT_THAT(http.calls, ElementsAre("POST", "GET"));
}

TEST(ClusterOptions, SayWhatIsMissing) {
  EXPECT_THAT(cluster_options({"https://a:1", "", ""}).error().message, HasSubstr("--ca-file"));
  EXPECT_THAT(cluster_options({"ftp://a", "", ""}).error().message, HasSubstr("https://"));
  EXPECT_TRUE(cluster_options({"https://a:1/", "t", "c"}).ok());
}

}  // namespace
}  // namespace swarm::kube
