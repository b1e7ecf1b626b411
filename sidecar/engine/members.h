// Which members a request of the agents' socket may have, and of which kind
// (docs/socket-protocol.md). A member that is not understood may change what is meant: nothing is
// passed over, the answer is one clear refusal. Pure.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace swarm::engine {

enum class MemberKind { kText, kNumber, kInteger, kFlag, kObject, kTexts };  // kNumber: from 0

// What is wrong, and what to write instead.
std::string wrong_member(std::string_view name, MemberKind kind);
std::string wrong_rid();
// `allowed`: with blanks between the names.
std::string unknown_member(std::string_view name, std::string_view of, std::string_view allowed);

// What is wrong with the first member of `request` that is; empty: nothing, or an op that is not
// among those that are read as a document (the others: mail_request.h).
std::string wrong_in(const nlohmann::json& request, std::string_view op);

}  // namespace swarm::engine
