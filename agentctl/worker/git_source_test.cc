#include <gtest/gtest.h>

#include "worker/git.h"

namespace swarm::worker {
namespace {

TEST(GitSource, FindsTheRef) {
  const struct {
    const char* text;
    const char* url;
    const char* ref;
  } rows[] = {
      {"git://repo/app", "git://repo/app", ""},
      {"git://repo/app@main", "git://repo/app", "main"},
      {"https://user@host/app", "https://user@host/app", ""},
      {"https://user@host/app@v1", "https://user@host/app", "v1"},
      {"https://host/app@swarm/t-0-1", "https://host/app", "swarm/t-0-1"},
      {"git@host:org/app", "git@host:org/app", ""},
      {"git@host:org/app@main", "git@host:org/app", "main"},
      {"git@host:app", "git@host:app", ""},
      {"git@host:app@feature/x", "git@host:app", "feature/x"},
      {"/srv/app.git", "/srv/app.git", ""},
      {"/srv/app.git@main", "/srv/app.git", "main"},
  };
  for (const auto& row : rows) {
    const auto got = parse_git_source(row.text);
    ASSERT_TRUE(got.ok()) << row.text;
    EXPECT_EQ(got->url, row.url) << row.text;
    EXPECT_EQ(got->ref, row.ref) << row.text;
  }
}

TEST(GitSource, RefusesWhatGitWouldTakeForAFlag) {
  for (const char* text : {"", "--upload-pack=x", "https://host/app@", "https://host/app@-x"}) {
    EXPECT_FALSE(parse_git_source(text).ok()) << text;
  }
}

}  // namespace
}  // namespace swarm::worker
