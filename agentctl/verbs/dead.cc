// agentctl dead ls|show|redrive|purge: messages that were given up after too many attempts.
#include <algorithm>
#include <cstdio>

#include "verbs/verb.h"

namespace swarm::agent {
namespace {

int list(Context& context) {
  Request request("dead_ls");
  request.read_only();
  const Answer answer = context.call(std::move(request));
  if (!answer.ok) return context.fail(answer);
  const std::vector<Object> messages = answer.fields.objects("messages");
  const auto more = answer.fields.number("total") - static_cast<std::int64_t>(messages.size());
  if (more > 0) std::fprintf(stderr, "and %lld more, younger ones\n", static_cast<long long>(more));
  if (context.json) return print(answer.fields.member_json("messages") + "\n") ? 0 : 1;
  if (messages.empty()) {
    std::fprintf(stderr, "no dead letters\n");
    return 0;
  }
  const auto cell = [](const Object& m, const char* name) {
    return printable(m.text(name, "-"), 128);
  };
  std::vector<std::vector<std::string>> rows{
      {"ID", "FROM", "PRIORITY", "ATTEMPTS", "BYTES", "AGE"}};
  for (const Object& m : messages) {
    rows.push_back({cell(m, "messageId"), cell(m, "from"), cell(m, "priority"),
                    std::to_string(m.number("attempt")), std::to_string(m.number("bytes")),
                    show_duration(Milliseconds(m.number("ageMs")))});
  }
  return print(table(rows)) ? 0 : 1;
}

int show(Context& context, const std::string& id) {
  Request request("cat");
  request.set("messageId", id).set_flag("dead", true);
  request.read_only();
  const Answer answer = context.call(std::move(request));
  if (!answer.ok) return context.fail(answer);
  return print_message(context, answer.fields.object("message"));
}

int say(const Context& context, const char* done_word, std::int64_t done, std::int64_t failed,
        std::int64_t left) {
  if (context.json) {
    if (!print(Object::of({}, {{"count", done}, {"failed", failed}, {"left", left}}).to_json() +
               "\n"))
      return 1;
  } else {
    std::fprintf(stderr, "%lld %s, %lld dead letters left\n", static_cast<long long>(done),
                 done_word, static_cast<long long>(left));
  }
  if (failed == 0) return 0;
  std::fprintf(stderr,
               "agentctl dead: %lld can't be handed out again (`dead redrive ID` says why)\n",
               static_cast<long long>(failed));
  return done > 0 ? kExitPartial : exit_code("refused");
}

// One of them.
int end_one(Context& context, const char* op, const char* done_word, const std::string& id) {
  Request request(op);
  request.set("messageId", id);
  const Answer answer = doubted(context.call(std::move(request)));
  if (answer.ok) return say(context, done_word, 1, 0, answer.fields.number("left"));
  return context.fail(answer);
}

// All that are there now. The engine takes a bounded number a call; letters that die meanwhile are
// for the next time, so that this ends.
int end_all(Context& context, const char* op, const char* done_word) {
  std::int64_t done = 0, failed = 0, left = 0, aim = 0;
  do {
    Request request(op);
    request.set_flag("all", true);
    const Answer answer = context.call(std::move(request));
    if (!answer.ok) return context.fail(answer);
    const std::int64_t count = answer.fields.number("count");
    if (aim == 0) aim = count + answer.fields.number("left");
    done += count;
    failed = answer.fields.number("failed");
    left = answer.fields.number("left");
    if (count <= 0) break;
  } while (left > failed && done < aim);
  return say(context, done_word, done, failed, left);
}

int run(Context& context, const Arguments& arguments) {
  const std::string& what = arguments.positional[0];
  const bool all = arguments.has("all"), named = arguments.positional.size() > 1;
  const bool ends = what == "redrive" || what == "purge";
  if (all && !ends) return context.fail("invalid", "--all goes with redrive and purge");
  if (what == "ls") {
    if (named) return context.fail("invalid", "ls takes no id; dead show ID prints one");
    return list(context);
  }
  if (!ends && what != "show") {
    const std::string near = nearest(what, {"ls", "show", "redrive", "purge"});
    return context.fail("invalid", "'" + what + "' is none of ls, show, redrive, purge" +
                                       (near.empty() ? "" : "; did you mean " + near + "?"));
  }
  if (all == named) {
    return context.fail(
        "invalid", "which one? write: agentctl dead " + what + " ID" + (ends ? ", or --all" : ""));
  }
  if (what == "show") return show(context, arguments.positional[1]);
  const bool purge = what == "purge";
  const char* op = purge ? "dead_purge" : "dead_redrive";
  const char* done_word = purge ? "purged" : "back in the inbox";
  return all ? end_all(context, op, done_word)
             : end_one(context, op, done_word, arguments.positional[1]);
}

}  // namespace

Verb dead_verb() {
  return {"dead",
          "ls | show ID | redrive ID|--all | purge ID|--all",
          "look at messages that were given up, bring them back or end them",
          "A message that was handed out 5 times and never acked is a dead letter. It is kept, and "
          "takes its place in the\n"
          "inbox, until somebody decides:\n"
          "  dead ls             list them, the oldest first (-o json: as JSON)\n"
          "  dead show ID        print one\n"
          "  dead redrive ID     back into the inbox for another 5 attempts, counted on from the "
          "last: 6, 7, …;\n"
          "                      an ack of an attempt from before is refused\n"
          "  dead purge ID       end it, as an ack would: it never comes again\n"
          "  --all               all that are there now; exit code 8: some can't be handed out "
          "again\n",
          {{"all", "", "redrive, purge: all of them"}},
          1,
          2,
          run};
}

}  // namespace swarm::agent
