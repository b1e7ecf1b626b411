// A world of two pods of one to three agents, a bad link between them, and everything that may go
// wrong, from one seed: crashes at any write, ENOSPC and short writes, wiped logs, restarts during
// recovery, frames that are lost, repeated, overtaken or stuck, pauses, clocks that jump, and
// successors of pods that still live. The shipping Mailbox, FileLog and frame codec run in it; the
// Model knows what agents were told. After some hundred steps everything heals, and what was
// accepted must arrive.
//
// An event is one thing that happens to a pod or to a frame: an agent's call, a batch of messages
// asked for, a commit, a tick, a frame put on the wire or read, a link going up or down at one end,
// a process that starts, and each fault.
//
// Worlds with an even seed are chaotic: frames are lost, repeated and overtaken within a session,
// which TCP does not do, and only crashes of the process are undone nowhere. In the others links
// are streams, and a crash may undo writes down to the last commit.
//
// In every third world the pods are of different releases (pod.h).
//
// docs/simulation.md says what is not simulated. Threads: one. The same seed is the same world,
// byte for byte, in the same build.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "sim/random.h"
#include "simulator/coverage.h"
#include "simulator/model.h"
#include "simulator/pod.h"

namespace swarm::simulator {

// What all worlds of a run saw together: a run that never gets there proves nothing.
struct Totals {
  std::uint64_t events = 0;
  std::uint64_t accepted = 0, refused = 0, acks = 0, again = 0, restarts = 0, wipes = 0, copied = 0,
                dead = 0, redriven = 0, successors = 0, damages = 0, retired = 0, handed_over = 0,
                no_room = 0, given_back = 0, unknown = 0, shared = 0;
  Matrix matrix;
};

using Trace = std::function<void(const std::string& line)>;

class World {
 public:
  World(std::uint64_t seed, Totals& totals, Trace trace = {});
  // Lives and heals. Empty, or the first promise that was broken.
  std::string run();

 private:
  // world.cc: what happens when
  void step();
  void ordinary_step(Pod& pod);
  void on_the_way_to_aim(Pod& pod);
  void pass_time();
  void heal();
  void nothing_is_held_alone();
  bool heal_round(int round);
  void heal_pod(Pod& pod, int round);
  void carry(Pod& pod);
  void heal_ghost();
  void all_is_settled();
  void count_told();

  // calls.cc: what agents and the engine call, and what is heard of it
  void send(Pod& pod, MessageNumber number, std::uint64_t share = 0);
  void send_new(Pod& pod);
  void send_to_several(Pod& pod);
  void send_again(Pod& pod);
  void receive(Pod& pod, const AgentName& agent);
  void use_held(Pod& pod);
  void acked(Pod& pod, MessageNumber number, const mailbox::AckResult& result);
  void withdraw(Pod& pod);
  void toggle_await(Pod& pod);
  void redrive(Pod& pod, const AgentName& agent);
  void purge(Pod& pod, const AgentName& agent, std::size_t most);
  void tick(Pod& pod);
  void retry(Pod& pod);
  void drain(Pod& pod);
  void collect_outcomes(Pod& pod);
  void flush(Pod& pod);
  void check_books(Pod& pod);
  void tell(Pod& pod, News::Kind kind, MessageNumber number, std::uint16_t attempt = 0);

  // links.cc: sessions and frames
  Release some_release(Release oldest);
  [[nodiscard]] bool connected(const Pod& a, const Pod& b) const;
  void link_up();
  void link_down();
  void ghost_link(bool up);
  void handover_link(bool up);
  void offer(Pod& pod);
  void give_back(Pod& pod);
  void cut(Pod& a, Pod& b);
  void strangers_end(Pod& pod);
  void resend_debts(Pod& pod);
  void owe(Pod& pod, const mailbox::AckDebt& debt);
  void ack_is_complete(Pod& pod, log::Sequence inbox);
  void push(Pod& pod, const LogId& to, link::FrameType type, const std::string& payload,
            MessageNumber number);
  void leave(Pod& pod, Packet packet);
  void transmit(Pod& pod, std::size_t max_bytes);
  void ping(Pod& pod, const Pod& peer);
  void push_grant(Pod& pod, const LogId& to, std::uint64_t what, std::uint32_t number,
                  std::uint8_t stream);
  void send_grants(Pod& pod);
  void handle(Pod& pod);
  void read(Pod& pod, Inlet& inlet, std::size_t bytes);
  void answer_message(Pod& pod, const Packet& packet, log::Sequence sequence,
                      mailbox::Answer answer);
  void take(Pod& pod, const Packet& packet, const link::Frame& frame);
  [[nodiscard]] MessageNumber sent_as(const LogId& log, log::Sequence sequence) const;

  // faults.cc: what goes wrong
  void strike(Pod& pod, Fault fault);
  void restart(Pod& pod, bool die_in_recovery = false);
  void recover(Pod& pod, Steps interrupted, bool die);
  void wipe(Pod& pod);
  void succeed(Pod& pod);
  void retire(Pod& pod);
  void pass_name(Pod& pod, bool drains);
  void end_ghost();
  void ghost_step();
  void restart_ghost();
  void pause(Pod& pod);
  void jump_clock(Pod& pod);
  void damage_a_copy(const Pod& pod);
  void watch(Pod& pod);
  void observe(Pod& pod, const sim::FakeDirectory::Change& change, sim::FakeDirectory::Fault fault);
  void meet(Steps steps, Fault fault) { totals_.matrix.count(steps, fault); }
  void meet(const Packet& packet, Fault fault, Steps of_log = {});

  AgentName one_of(const Pod& pod) {
    return agent_of(pod.name, static_cast<std::uint32_t>(random_.below(pod.agents)));
  }
  Pod& other(const Pod& pod) { return pod.name == kFirstName ? *pods_[1] : *pods_[0]; }
  [[nodiscard]] bool is_ghost(const Pod& pod) const { return &pod == ghost_.get(); }
  Pod* pod_of(const LogId& log);
  std::uint64_t& logs_of(const AgentName& name) { return logs_had_[name == kFirstName ? 0 : 1]; }
  LogId new_log_id();
  void event() { ++totals_.events; }
  [[nodiscard]] bool failed() const { return model_.failed(); }
  [[nodiscard]] bool traced() const { return static_cast<bool>(trace_); }
  void say(const Pod& pod, const std::string& what);

  std::uint64_t seed_;
  sim::Random random_;
  Totals& totals_;
  Trace trace_;
  bool chaotic_, mixed_ = false, healing_ = false, linked_ = false, ghost_linked_ = false;
  bool retiring_ = false;  // the ghost does not end before it has handed over what it holds
  bool handover_linked_ = false;
  bool said_full_ = false;       // somebody had no room for a message, since it was last asked for
  std::set<LogId> handed_over_;  // logs whose messages may be kept by others
  std::uint64_t logs_ = 0, lives_ = 0, calls_ = 0;
  std::array<std::uint64_t, 2> logs_had_{};  // by each name
  // The pair of step and fault that this world brings together whenever it can.
  Step aimed_step_{};
  Fault aimed_fault_{};
  std::optional<Fault> frames_fate_;  // of those that leave next
  Model model_;
  std::vector<std::unique_ptr<Pod>> pods_;
  std::unique_ptr<Pod> ghost_;  // the former holder of a name, still sending
  std::unordered_map<std::uint64_t, MessageNumber> sent_as_;
};

}  // namespace swarm::simulator
