// The volumes of journals: one claim for each slot, so that a slot's next pod finds what the last
// one had. Internal to operator/plan; pure.
//
// A claim is made before the slot's first pod and never changed or deleted: it outlives its pods
// and the slot itself, and goes with the Swarm, which owns it. A journal is one pod's at a time.
#pragma once

#include <optional>
#include <string>

#include "plan/context.h"

namespace swarm::plan {

// For the file system itself, and a log that is being tidied up.
inline constexpr std::int64_t kVolumeSlackBytes = 16LL << 20;

bool has_journals(const api::SwarmSpec& spec);

// "hello-w17-journal"
std::string claim_name(const api::Swarm& swarm, Role role, int index);

CreateObject new_claim(const Context& context, Role role, int index);

// nullptr: there is none, of any owner.
const ChildView* find_claim(const Context& context, const std::string& name);

// Why a pod cannot have this claim; nullopt when it can.
std::optional<Problem> claim_problem(const Context& context, const ChildView& claim);

}  // namespace swarm::plan
