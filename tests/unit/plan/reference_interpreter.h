// Runs a schedule on symbolic memory, as the executor would. Two runs with equal values computed the same thing.
//
// An op is not atomic: from its begin to its end what it writes is torn, and what it reads must stay as it was. Lanes
// start their ops in program order; reads and writes of the disk overlap and end in any order.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/unit/plan/op_act.h"
#include "tests/unit/plan/random_plan.h"

namespace sluice::plan {

// What lasts from phase to phase: pages per persistent buffer, none for the others.
using LastingMemory = std::vector<Pages>;

struct RunResult {
  std::string failure;  // the executor would have crashed, stalled or left its memory
  LastingMemory lasting;
  Observed observed;
  bool operator==(const RunResult&) const = default;
};

// How to choose among the events that may happen next.
struct Timing {
  enum Mood { in_turn, any, overlapping, one_at_a_time } mood = in_turn;
  OpId begins_last = kNone, ends_last = kNone;  // only when nothing else can happen
};

class Interpreter {
 public:
  Interpreter(const Schedule& schedule, const Stage& stage);

  // `garbage`: what memory holds that nothing has written.
  RunResult run(const LastingMemory& before, uint64_t garbage, const Timing& timing, Random& random);

  struct Pair {
    OpId first, second;
    auto operator<=>(const Pair&) const = default;
  };
  // Ops that touch the same page, one of them writing, in whatever order: at most one pair per page. After a run that
  // did not fail.
  std::vector<Pair> unordered_conflicts() const;

 private:
  struct Event {
    OpId op;
    bool begins;
  };

  void reset(const LastingMemory& before);
  LastingMemory lasting(const LastingMemory& before) const;
  const Op& op(OpId id) const { return schedule_.ops[static_cast<size_t>(id)]; }
  Page* pages_at(const Touch& touch) { return &memory_[touch.tier][touch.first]; }

  void issue();
  std::vector<Event> possible() const;
  Event choose(const std::vector<Event>& events, const Timing& timing, Random& random) const;
  void begin(OpId id);
  void end(OpId id);
  bool disturbed(OpId id);

  const Schedule& schedule_;
  const Stage stage_;
  std::vector<Act> acts_;
  std::vector<std::vector<OpId>> dependents_;

  // One run.
  std::array<Pages, kTierCount> memory_;
  uint64_t garbage_ = 0;
  Observed observed_;
  std::vector<int> waiting_for_;
  std::array<std::vector<OpId>, kLaneCount> lanes_;   // as the schedule says
  std::array<size_t, kLaneCount> next_{};             // to issue
  std::array<std::vector<OpId>, kLaneCount> queues_;  // issued, where the kind runs
  std::vector<OpId> running_;
  std::vector<OpId> began_;               // in this order
  std::vector<std::vector<Pages>> held_;  // per op: what it read when it began, per touch
};

}  // namespace sluice::plan
