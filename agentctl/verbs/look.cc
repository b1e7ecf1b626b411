// ls, cat, whoami, peers, version: verbs that only look.
#include <cstdio>

#include "verbs/verb.h"

namespace swarm::agent {
namespace {

std::string cell(const Object& object, const std::string& name) {
  return printable(object.text(name, "-"), 128);
}

// What the answer has left out.
void say_more(const Answer& answer, std::size_t shown, const char* which) {
  const std::int64_t more = answer.fields.number("total") - static_cast<std::int64_t>(shown);
  if (more > 0)
    std::fprintf(stderr, "%lld more are not shown%s\n", static_cast<long long>(more), which);
}

int run_ls(Context& context, const Arguments&) {
  Request request("ls");
  request.read_only();
  const Answer answer = context.call(std::move(request));
  if (!answer.ok) return context.fail(answer);
  const std::vector<Object> messages = answer.fields.objects("messages");
  say_more(answer, messages.size(), ": the younger ones, those that were sent last");
  if (context.json) return print(answer.fields.member_json("messages") + "\n") ? 0 : 1;
  if (messages.empty()) {
    std::fprintf(stderr, "no messages\n");
    return 0;
  }
  std::vector<std::vector<std::string>> rows{
      {"ID", "FROM", "TO", "PRIORITY", "STATE", "ATTEMPT", "BYTES", "AGE"}};
  for (const Object& m : messages) {
    rows.push_back({cell(m, "messageId"), cell(m, "from"), cell(m, "to"), cell(m, "priority"),
                    cell(m, "state"), std::to_string(m.number("attempt")),
                    std::to_string(m.number("bytes")),
                    show_duration(Milliseconds(m.number("ageMs")))});
  }
  return print(table(rows)) ? 0 : 1;
}

int run_cat(Context& context, const Arguments& arguments) {
  Request request("cat");
  request.set("messageId", arguments.positional[0]).read_only();
  if (arguments.has("from")) request.set("from", arguments.get("from"));
  const Answer answer = context.call(std::move(request));
  if (!answer.ok) return context.fail(answer);
  return print_message(context, answer.fields.object("message"));
}

int run_whoami(Context& context, const Arguments&) {
  Request request("hello");
  request.read_only();
  const Answer answer = context.call(std::move(request));
  if (!answer.ok) return context.fail(answer);
  if (context.json) return print(answer.fields.without({"rid", "ok"}).to_json() + "\n") ? 0 : 1;
  std::string out;
  for (const char* name : {"agent", "swarm", "namespace", "role", "coordinator", "pod", "node"}) {
    std::string label(name);
    label.resize(13, ' ');
    out += label + cell(answer.fields, name) + "\n";
  }
  out += "team         " + answer.fields.member_json("team") + "\n";
  out += std::string("connected    ") + (answer.fields.flag("connected") ? "yes" : "no") + "\n";
  return print(out) ? 0 : 1;
}

int run_peers(Context& context, const Arguments&) {
  Request request("peers");
  request.read_only();
  const Answer answer = context.call(std::move(request));
  if (!answer.ok) return context.fail(answer);
  const std::vector<Object> peers = answer.fields.objects("peers");
  say_more(answer, peers.size(), "");
  if (context.json) return print(answer.fields.member_json("peers") + "\n") ? 0 : 1;
  std::vector<std::vector<std::string>> rows{{"NAME", "ROLE", "TEAM", "STATE", "NODE"}};
  for (const Object& p : peers) {
    rows.push_back({cell(p, "name"), cell(p, "role"), p.member_json("team"), cell(p, "state"),
                    cell(p, "node")});
  }
  return print(table(rows)) ? 0 : 1;
}

int run_version(Context& context, const Arguments&) {
  return print(context.json ? "{\"version\":\"" SWARM_VERSION "\"}\n"
                            : "agentctl " SWARM_VERSION "\n")
             ? 0
             : 1;
}

}  // namespace

Verb ls_verb() {
  return {"ls", "", "list the messages in this agent's inbox and outbox", "", {}, 0, 0, run_ls};
}
Verb cat_verb() {
  return {"cat",
          "ID [--from NAME]",
          "print a message without taking it",
          "",
          {{"from", "NAME", "its sender, where several have used that id"}},
          1,
          1,
          run_cat};
}
Verb whoami_verb() {
  return {"whoami", "", "this agent's name, swarm, team and coordinator", "", {}, 0, 0, run_whoami};
}
Verb peers_verb() {
  return {"peers", "", "the other agents of this swarm", "", {}, 0, 0, run_peers};
}
Verb version_verb() { return {"version", "", "print the version", "", {}, 0, 0, run_version}; }

}  // namespace swarm::agent
