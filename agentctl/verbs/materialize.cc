// agentctl materialize: the messages of this agent's inbox as files, without taking them.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <set>

#include "base/encoding.h"
#include "verbs/verb.h"

namespace swarm::agent {
namespace {

// A sender and an id cannot make "." or "..", nor anything with a slash.
std::string file_name(const std::string& from, const std::string& id) { return from + ":" + id; }

bool is_ours(std::string_view name) {
  const std::size_t colon = name.find(':');
  return colon != std::string_view::npos && is_agent_name(name.substr(0, colon)) &&
         is_message_id(name.substr(colon + 1));
}

Error trouble(const std::string& what) {
  return internal_error(what + ": " + std::strerror(errno));
}

// Whole or not at all: whoever lists the directory never sees half a message. Others may write to
// the directory, too: what has the draft's name is never opened (a FIFO would be waited for), but
// replaced, or, as a directory, an error.
Status write_file(int directory, const std::string& name, const std::string& bytes) {
  const std::string draft = "." + name;
  if (::unlinkat(directory, draft.c_str(), 0) != 0 && errno != ENOENT) return trouble(draft);
  const int file = ::openat(directory, draft.c_str(),
                            O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (file < 0) return trouble(draft);
  std::string_view left = bytes;
  while (!left.empty()) {
    const ssize_t n = ::write(file, left.data(), left.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) break;
    left.remove_prefix(static_cast<std::size_t>(n));
  }
  const bool written =
      left.empty() && ::renameat(directory, draft.c_str(), directory, name.c_str()) == 0;
  const Status status = written ? Status() : Status(trouble(name));
  if (!written) (void)::unlinkat(directory, draft.c_str(), 0);
  ::close(file);
  return status;
}

Answer cat(Context& context, const std::string& from, const std::string& id) {
  Request request("cat");
  request.set("messageId", id).set("from", from).read_only();
  return context.call(std::move(request));
}

// The names of former messages in it.
std::set<std::string> shown_in(int directory) {
  std::set<std::string> out;
  const int again = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* listing = again < 0 ? nullptr : ::fdopendir(again);
  if (listing == nullptr) return out;
  while (const dirent* entry = ::readdir(listing)) {
    if (is_ours(entry->d_name)) out.insert(entry->d_name);
  }
  ::closedir(listing);
  return out;
}

int run(Context& context, const Arguments& arguments) {
  const std::string& path = arguments.positional[0];
  if (::mkdir(path.c_str(), 0777) != 0 && errno != EEXIST) return context.fail(trouble(path));
  const int directory = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return context.fail("invalid", path + ": " + std::strerror(errno));
  Request look("ls");
  look.read_only();
  const Answer listed = context.call(std::move(look));
  if (!listed.ok) return context.fail(listed);
  std::set<std::string> gone = shown_in(directory);
  std::size_t shown = 0;
  std::int64_t more = listed.fields.number("total") - listed.fields.number("outgoing");
  for (const Object& m : listed.fields.objects("messages")) {
    if (m.text("state") == "outgoing") continue;
    --more;
    const std::string from = m.text("from"), id = m.text("messageId");
    const std::string name = file_name(from, id);
    if (!is_ours(name)) continue;
    const Answer found = cat(context, from, id);
    if (!found.ok && found.code == "not_found") continue;  // taken and done meanwhile
    if (!found.ok) return context.fail(found);
    const Object message = found.fields.object("message");
    const Result<std::string> body = message.bytes("body");
    if (!body) return context.fail(body.error());
    const Status written =
        write_file(directory, name, context.json ? message.to_json() + "\n" : *body);
    if (!written) return context.fail(written.error());
    gone.erase(name);
    ++shown;
    if (!print(name + "\n")) return 1;
  }
  std::size_t removed = 0;  // a directory of such a name is not ours, and stays
  for (const std::string& name : gone) {
    if (more > 0) {  // it may be among those that were not listed
      const std::size_t colon = name.find(':');
      const Answer found = cat(context, name.substr(0, colon), name.substr(colon + 1));
      if (found.ok) continue;
      if (found.code != "not_found") return context.fail(found);
    }
    removed += ::unlinkat(directory, name.c_str(), 0) == 0;
  }
  std::fprintf(stderr, "%zu messages, %zu removed\n", shown, removed);
  if (more > 0) {
    std::fprintf(stderr, "%lld more are not shown: the youngest ones\n",
                 static_cast<long long>(more));
  }
  ::close(directory);
  return 0;
}

}  // namespace

Verb materialize_verb() {
  return {
      "materialize",
      "DIRECTORY",
      "show the messages in the inbox as files, without taking them",
      "Writes each message to DIRECTORY/SENDER:ID (its body; with -o json all of it), prints the "
      "names, the oldest first,\n"
      "and removes the files of messages that are no longer there. Call it again to look again. "
      "Other files in the\n"
      "directory are left alone.\n",
      {},
      1,
      1,
      run};
}

}  // namespace swarm::agent
