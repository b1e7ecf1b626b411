#include "base/encoding.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>

#include <array>
#include <charconv>
#include <cstring>

#include "base/check.h"

namespace swarm {
namespace {

constexpr std::string_view kHex = "0123456789abcdef";
constexpr std::string_view kBase64 =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
bool is_plain(char c) { return is_digit(c) || is_lower(c); }

bool is_all(std::string_view text, bool (*good)(char)) {
  for (char c : text) {
    if (!good(c)) return false;
  }
  return true;
}

}  // namespace

std::string to_hex(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (char c : bytes) {
    const auto b = static_cast<unsigned char>(c);
    out += kHex[b >> 4U];
    out += kHex[b & 15U];
  }
  return out;
}

std::optional<std::string> from_hex(std::string_view text) {
  if (text.size() % 2 != 0) return std::nullopt;
  std::string out;
  out.reserve(text.size() / 2);
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const int high = digit(text[i]);
    const int low = digit(text[i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    out += static_cast<char>(high * 16 + low);
  }
  return out;
}

std::string to_base64(std::string_view bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t word = 0;
    const std::size_t n = std::min<std::size_t>(3, bytes.size() - i);
    for (std::size_t k = 0; k < 3; ++k) {
      word = (word << 8U) | (k < n ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    }
    for (std::size_t k = 0; k < 4; ++k) {
      out += k <= n ? kBase64[(word >> (18U - 6U * k)) & 63U] : '=';
    }
  }
  return out;
}

std::optional<std::string> from_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::string out;
  out.reserve(text.size() / 4 * 3);
  for (std::size_t i = 0; i < text.size(); i += 4) {
    std::uint32_t word = 0;
    std::size_t padding = 0;
    for (std::size_t k = 0; k < 4; ++k) {
      const char c = text[i + k];
      std::size_t v = 0;
      if (c == '=' && i + 4 == text.size() && k >= 2) {
        ++padding;
      } else {
        v = kBase64.find(c);
        if (v == std::string_view::npos || padding > 0) return std::nullopt;
      }
      word = (word << 6U) | static_cast<std::uint32_t>(v);
    }
    for (std::size_t k = 0; k < 3 - padding; ++k) {
      out += static_cast<char>((word >> (16U - 8U * k)) & 255U);
    }
  }
  return out;
}

std::string to_string(const LogId& id) {
  return to_hex({reinterpret_cast<const char*>(id.bytes.data()), id.bytes.size()});
}

std::optional<LogId> log_id_from(std::string_view hex) {
  const auto bytes = from_hex(hex);
  LogId id;
  if (!bytes || bytes->size() != id.bytes.size()) return std::nullopt;
  std::memcpy(id.bytes.data(), bytes->data(), id.bytes.size());
  return id;
}

bool is_utf8(std::string_view text) {
  std::size_t i = 0;
  const auto at = [&](std::size_t k) { return static_cast<unsigned char>(text[k]); };
  while (i < text.size()) {
    const unsigned c = at(i);
    std::size_t n = 0;
    std::uint32_t point = 0;
    if (c < 0x80) {
      ++i;
      continue;
    }
    if (c >= 0xC2 && c <= 0xDF) {
      n = 1;
      point = c & 0x1FU;
    } else if (c >= 0xE0 && c <= 0xEF) {
      n = 2;
      point = c & 0x0FU;
    } else if (c >= 0xF0 && c <= 0xF4) {
      n = 3;
      point = c & 0x07U;
    } else {
      return false;
    }
    if (text.size() - i <= n) return false;
    for (std::size_t k = 1; k <= n; ++k) {
      if ((at(i + k) & 0xC0U) != 0x80U) return false;
      point = (point << 6U) | (at(i + k) & 0x3FU);
    }
    if ((n == 2 && (point < 0x800 || (point >= 0xD800 && point <= 0xDFFF))) ||
        (n == 3 && (point < 0x10000 || point > 0x10FFFF))) {
      return false;
    }
    i += n + 1;
  }
  return true;
}

bool is_message_id(std::string_view text) {
  static constexpr auto kAllowed = [] {
    std::array<bool, 256> allowed{};
    for (const char c : std::string_view("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                         "0123456789._:-"))
      allowed[static_cast<unsigned char>(c)] = true;
    return allowed;
  }();
  return !text.empty() && text.size() <= 128 &&
         is_all(text, [](char c) { return kAllowed[static_cast<unsigned char>(c)]; });
}

bool is_slot_name(std::string_view text) {
  for (std::string_view role : {"worker-", "coordinator-"}) {
    if (!text.starts_with(role)) continue;
    const auto number = text.substr(role.size());
    return !number.empty() && number.size() <= 6 && (number == "0" || number[0] != '0') &&
           is_all(number, is_digit);
  }
  return false;
}

bool is_task_id(std::string_view text) {
  if (text.size() > kMaxTaskIdBytes || !text.starts_with("t-")) return false;
  text.remove_prefix(2);
  const std::size_t dash = text.find('-');
  if (dash == std::string_view::npos || dash == 0 || dash + 1 == text.size()) return false;
  return is_all(text.substr(0, dash), is_digit) && is_all(text.substr(dash + 1), is_plain);
}

bool is_swarm_name(std::string_view text) {
  return !text.empty() && text.size() <= kMaxSwarmNameBytes && is_lower(text.front()) &&
         is_plain(text.back()) && is_all(text, [](char c) { return is_plain(c) || c == '-'; });
}

bool is_agent_name(std::string_view text) {
  const auto pod = pod_of(text);
  if (!is_slot_name(pod)) return false;
  if (pod.size() == text.size()) return true;
  const auto number = text.substr(pod.size() + 1);
  return pod.front() == 'w' && !number.empty() && number.size() <= 4 && number[0] != '0' &&
         is_all(number, is_digit) && number_in_pod(text) < kMaxAgentsPerPod;
}

std::string_view pod_of(std::string_view agent) { return agent.substr(0, agent.find('.')); }

bool is_of_pod(std::string_view agent, std::string_view pod) {
  return agent.starts_with(pod) && (agent.size() == pod.size() || agent[pod.size()] == '.');
}

std::uint32_t number_in_pod(std::string_view agent) {
  const auto pod = pod_of(agent);
  std::uint32_t number = 0;
  if (pod.size() < agent.size())
    (void)std::from_chars(agent.data() + pod.size() + 1, agent.data() + agent.size(), number);
  return number;
}

AgentName pod_of(const AgentName& agent) {
  return {std::string(pod_of(std::string_view(agent.value)))};
}

AgentName agent_of(const AgentName& pod, std::uint32_t number) {
  return number == 0 ? pod : AgentName{pod.value + '.' + std::to_string(number)};
}

std::string hmac_sha256(std::string_view key, std::string_view data) {
  std::string out(32, '\0');
  unsigned length = 0;
  const auto* done = HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
                          reinterpret_cast<const unsigned char*>(data.data()), data.size(),
                          reinterpret_cast<unsigned char*>(out.data()), &length);
  check(done != nullptr && length == out.size(), "HMAC-SHA256 is available");
  return out;
}

std::string sha256(std::string_view data) {
  std::string out(32, '\0');
  unsigned length = 0;
  const int done =
      EVP_Digest(data.data(), data.size(), reinterpret_cast<unsigned char*>(out.data()), &length,
                 EVP_sha256(), nullptr);
  check(done == 1 && length == out.size(), "SHA-256 is available");
  return out;
}

bool constant_time_equal(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string random_bytes(std::size_t n) {
  std::string out(n, '\0');
  std::size_t have = 0;
  while (have < n) {
    const ssize_t got = getrandom(out.data() + have, n - have, 0);
    if (got > 0) have += static_cast<std::size_t>(got);
    check(got > 0 || errno == EINTR, "getrandom works");
  }
  return out;
}

}  // namespace swarm
