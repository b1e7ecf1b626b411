#include "worker/output.h"

#include <algorithm>

#include "client/protocol.h"

namespace swarm::worker {

void LastLines::add(std::string_view line) {
  std::string text = agent::printable(line, kLastLineBytes);
  if (text.find_first_not_of(' ') == std::string::npos) return;
  lines_.push_back(std::move(text));
  if (lines_.size() > kLastLines) lines_.pop_front();
}

std::string LastLines::last(std::size_t limit) const {
  return lines_.empty() ? "" : std::string(agent::utf8_prefix(lines_.back(), limit));
}

void LineLog::emit(std::string& log, LastLines& last) {
  log += prefix_;
  log += partial_;
  log += '\n';
  last.add(partial_);
  partial_.clear();
}

void LineLog::add(std::string_view bytes, std::string& log, LastLines& last) {
  while (!bytes.empty()) {
    const std::size_t newline = bytes.find('\n');
    const std::size_t room = kMaxLogLineBytes - partial_.size();
    const std::size_t take =
        std::min(newline == std::string_view::npos ? bytes.size() : newline, room);
    partial_ += bytes.substr(0, take);
    bytes.remove_prefix(take);
    if (!bytes.empty() && bytes.front() == '\n') {
      bytes.remove_prefix(1);
      emit(log, last);
    } else if (partial_.size() >= kMaxLogLineBytes) {
      emit(log, last);
    }
  }
}

void LineLog::finish(std::string& log, LastLines& last) {
  if (!partial_.empty()) emit(log, last);
}

void Capture::add(std::string_view bytes) {
  total_ += bytes.size();
  kept_ += bytes.substr(0, limit_ - kept_.size());
}

std::string_view Capture::kept() const {
  if (!truncated()) return kept_;
  // Only the last character can be cut: find its first byte and see whether all of it is there.
  std::string_view text = kept_;
  for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const auto c = static_cast<unsigned char>(text[text.size() - back]);
    if ((c & 0xC0U) == 0x80U) continue;
    const std::size_t length = c >= 0xF0U ? 4 : c >= 0xE0U ? 3 : c >= 0xC0U ? 2 : 1;
    return length > back ? text.substr(0, text.size() - back) : text;
  }
  return text;
}

}  // namespace swarm::worker
