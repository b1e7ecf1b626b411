#include "net/http_client.h"

#include <mutex>
#include <optional>

#include "os/file.h"

namespace swarm::net {
namespace {

constexpr Milliseconds kTokenReread{30'000};
constexpr std::size_t kMaxTokenBytes = std::size_t{64} << 10;

bool is_host_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '-' || c == '_';
}

}  // namespace

struct TokenSource::State {
  std::string path;
  std::mutex mutex;
  std::string token;
  std::optional<MonoTime> read_at;
};

TokenSource::TokenSource(std::string path) : state_(std::make_unique<State>()) {
  state_->path = std::move(path);
}
TokenSource::~TokenSource() = default;

void TokenSource::forget() {
  const std::lock_guard lock(state_->mutex);
  state_->read_at.reset();
}

Result<std::string> TokenSource::token() {
  if (state_->path.empty()) return std::string();
  const std::lock_guard lock(state_->mutex);
  const MonoTime now = mono_now();
  if (state_->read_at && now - *state_->read_at < kTokenReread) return state_->token;
  Result<std::string> text = os::read_file(state_->path, kMaxTokenBytes);
  std::string token;
  if (text.ok()) {
    token = std::move(text).value();
    while (!token.empty() && (token.back() == '\n' || token.back() == '\r' || token.back() == ' '))
      token.pop_back();
    for (const char c : token) {
      if (c <= 0x20 || c == 0x7f)
        token.clear();  // it goes into a header: no blanks, no line breaks
      if (token.empty()) break;
    }
  }
  if (token.empty()) {
    if (!state_->token.empty()) return state_->token;
    return unavailable("no usable token in " + state_->path);
  }
  state_->token = std::move(token);
  state_->read_at = now;
  return state_->token;
}

Result<Url> parse_url(std::string_view url) {
  const std::string shown(url.substr(0, 200));
  Url out;
  if (url.starts_with("https://")) {
    out.tls = true;
    url.remove_prefix(8);
  } else if (url.starts_with("http://")) {
    url.remove_prefix(7);
  } else {
    return invalid("\"" + shown + "\" must begin with https:// or http://");
  }
  if (!url.empty() && url.back() == '/') url.remove_suffix(1);
  std::string_view port;
  if (url.starts_with('[')) {
    const std::size_t end = url.find(']');
    if (end == std::string_view::npos)
      return invalid("\"" + shown + "\": no ] after the IPv6 address");
    out.host = std::string(url.substr(1, end - 1));
    port = url.substr(end + 1);
    for (const char c : out.host) {
      if (!is_host_char(c) && c != ':') return invalid("\"" + shown + "\" has no valid host");
    }
  } else {
    const std::size_t colon = url.find(':');
    out.host = std::string(url.substr(0, colon));
    port = colon == std::string_view::npos ? std::string_view() : url.substr(colon);
    for (const char c : out.host) {
      if (!is_host_char(c))
        return invalid("\"" + shown + "\" must be scheme://host:port and nothing more");
    }
  }
  if (out.host.empty()) return invalid("\"" + shown + "\" has no host");
  if (port.empty()) {
    out.port = out.tls ? "443" : "80";
    return out;
  }
  if (port.front() != ':' || port.size() < 2 || port.size() > 6)
    return invalid("\"" + shown + "\" has no valid port");
  unsigned value = 0;
  for (const char c : port.substr(1)) {
    if (c < '0' || c > '9') return invalid("\"" + shown + "\" has no valid port");
    value = value * 10 + static_cast<unsigned>(c - '0');
  }
  if (value == 0 || value > 65535) return invalid("\"" + shown + "\": the port must be 1 to 65535");
  out.port = std::string(port.substr(1));
  return out;
}

Result<bool> LineSplitter::feed(std::string_view bytes, const OnLine& on_line) {
  while (!bytes.empty()) {
    const std::size_t end = bytes.find('\n');
    const std::string_view piece = bytes.substr(0, end);
    if (partial_.size() + piece.size() > max_line_bytes_) {
      return Error{Code::kFull, "a line of the stream is longer than " +
                                    std::to_string(max_line_bytes_) + " bytes"};
    }
    if (end == std::string_view::npos) {
      partial_.append(piece);
      break;
    }
    bytes.remove_prefix(end + 1);
    bool more = true;
    std::string whole;
    std::string_view line = piece;
    if (!partial_.empty()) {
      whole.swap(partial_);
      whole.append(piece);
      line = whole;
    }
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty()) more = on_line(line);
    if (!more) return false;
  }
  return true;
}

}  // namespace swarm::net
