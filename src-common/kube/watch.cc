#include "kube/watch.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kube/decode.h"

namespace swarm::kube {
namespace {

using nlohmann::json;

constexpr Milliseconds kFirstBackoff{200};
constexpr Milliseconds kMaxBackoff{10'000};
constexpr Milliseconds kMaxListedBackoff{2'000};  // the server is there: it answers lists
constexpr int kRelistAfter = 2;  // watches in a row that broke before they said anything
constexpr int kMaxDoublings = 8;
constexpr int kHttpGone = 410;

}  // namespace

Watch::Watch(WatchOptions options, WatchSink& sink) : options_(std::move(options)), sink_(sink) {}

Request Watch::next() const {
  if (state_ == State::kWatching) {
    return watch(options_.resource, options_.namespace_name, options_.selector, resource_version_,
                 options_.watch_timeout);
  }
  ListOptions list_options;
  list_options.selector = options_.selector;
  list_options.limit = options_.page_limit;
  list_options.continue_token = continue_token_;
  return list(options_.resource, options_.namespace_name, list_options);
}

Milliseconds Watch::backoff(double jitter) const {
  if (!failed_) return Milliseconds{0};
  const Milliseconds base = std::min(listed_ ? kMaxListedBackoff : kMaxBackoff,
                                     kFirstBackoff * (1 << std::min(failures_ - 1, kMaxDoublings)));
  const auto spread =
      Milliseconds{static_cast<std::int64_t>(static_cast<double>(base.count()) * 0.5 * jitter)};
  return std::max(retry_after_, base) + spread;
}

void Watch::fail(std::string why) {
  ++failures_;
  failed_ = true;
  last_error_ = std::move(why);
}

void Watch::begin_list() {
  state_ = State::kListing;
  continue_token_.clear();
  list_open_ = false;
}

void Watch::relist() { begin_list(); }

void Watch::on_list(std::string_view body) {
  retry_after_ = Milliseconds{0};
  if (state_ != State::kListing) return;  // it was asked for before something else happened
  const Result<json> page = parse_object(body);
  if (!page.ok()) {
    begin_list();
    return fail(page.error().message);
  }
  const std::string version = text_at(*page, "metadata.resourceVersion");
  const json* items = find_at(*page, "items");
  const bool no_items = items != nullptr && items->is_null();  // Go writes an empty slice like this
  if (version.empty() || items == nullptr || (!items->is_array() && !no_items)) {
    begin_list();
    return fail("the answer is not a list");
  }
  if (!list_open_) {
    list_open_ = true;
    sink_.list_started();
  }
  if (!no_items) {
    for (const json& item : *items) {
      if (item.is_object()) sink_.put(item);
    }
  }
  continue_token_ = text_at(*page, "metadata.continue");
  failed_ = false;
  listed_ = true;
  if (!continue_token_.empty()) return;
  resource_version_ = version;
  list_open_ = false;
  state_ = State::kWatching;
  lines_ = 0;
  sink_.list_finished(resource_version_);
}

void Watch::on_refusal(int http_status, std::string_view body, std::string_view retry_after) {
  const ApiError error = parse_error(http_status, body, retry_after);
  retry_after_ = error.retry_after.value_or(Milliseconds{0});
  const std::string status = "HTTP " + std::to_string(http_status);
  if (error.message.starts_with(status)) {  // no Status object, so no words of the API server
    const std::string target = next().target;
    fail(status + " for GET " + target.substr(0, target.find('?')) +
         error.message.substr(status.size()));
  } else {
    fail(status + ": " + error.message);
  }
  if (state_ == State::kListing) listed_ = false;
  if (http_status != kHttpGone) return;  // the same request again, later
  if (state_ == State::kListing && !continue_token_.empty()) {
    options_.page_limit = 0;  // pages expire faster than we read them: all of it in one answer
  }
  begin_list();
}

bool Watch::on_line(std::string_view line) {
  if (state_ != State::kWatching) return false;
  const Result<json> event = parse_object(line);
  const std::string type = event.ok() ? text_at(*event, "type") : std::string();
  const json* object = event.ok() ? find_at(*event, "object") : nullptr;
  if (type == "ERROR" && object != nullptr) {
    const std::int64_t code = number_at(*object, "code");
    fail("watch: " + std::to_string(code) + " " + text_at(*object, "message").substr(0, 200));
    retry_after_ = std::chrono::seconds(
        std::clamp<std::int64_t>(number_at(*object, "details.retryAfterSeconds"), 0, 300));
    begin_list();
    return false;
  }
  const std::string version =
      object != nullptr ? text_at(*object, "metadata.resourceVersion") : std::string();
  if (object == nullptr || !object->is_object() || version.empty()) {
    begin_list();
    fail(event.ok() ? "watch: a line that is not an event" : "watch: " + event.error().message);
    return false;
  }
  if (type == "ADDED" || type == "MODIFIED") {
    sink_.put(*object);
  } else if (type == "DELETED") {
    sink_.removed(*object);
  } else if (type != "BOOKMARK") {
    begin_list();
    fail("watch: an event of unknown type");
    return false;
  }
  resource_version_ = version;
  failures_ = 0;
  failed_ = false;
  retry_after_ = Milliseconds{0};
  ++lines_;
  sink_.advanced(resource_version_);
  return true;
}

void Watch::on_end(bool failed, std::string_view why) {
  if (state_ != State::kWatching && !failed) return;
  // A watch that ends without a word counts as a failure too: nobody is to be asked in a tight
  // loop.
  if (failed || lines_ == 0) fail(failed ? std::string(why) : "the watch ended without an event");
  if (failed && state_ == State::kListing) listed_ = false;
  // What no watch tells is looked at: a server that is slow to answer watches may answer lists.
  if (failed && state_ == State::kWatching && lines_ == 0 && failures_ >= kRelistAfter)
    begin_list();
  lines_ = 0;
}

}  // namespace swarm::kube
