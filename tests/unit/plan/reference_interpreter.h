// Runs a schedule on symbolic memory, as the executor would: a 64-bit value for every 4096-byte page, which is a hash
// of what computed it and of all that went in. Two runs with equal values computed the same thing.
//
// What an op touches comes from its kind and the job's shape; of an operand only the place counts, and its length only
// where the executor uses it. An op is not atomic: from its begin to its end what it writes is torn, and what it reads
// must stay as it was. Lanes start their ops in program order; reads and writes of the disk overlap and end in any
// order.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/plan/job_shape.h"
#include "runtime/plan/schedule.h"
#include "tests/unit/plan/random_plan.h"

namespace sluice::plan {

using Pages = std::vector<uint64_t>;

// What lasts from phase to phase: pages per persistent buffer, none for the others.
using LastingMemory = std::vector<Pages>;

struct RunResult {
  std::string failure;  // the executor would have crashed, stalled or left its memory
  LastingMemory lasting;
  std::vector<uint64_t> losses, norms;
  bool operator==(const RunResult&) const = default;
};

// How to choose among the events that may happen next.
struct Timing {
  enum Mood { in_turn, any, overlapping, one_at_a_time } mood = in_turn;
  OpId begins_last = kNone, ends_last = kNone;  // only when nothing else can happen
};

class Interpreter {
 public:
  Interpreter(const Schedule& schedule, const std::vector<Buffer>& buffers,
              const std::array<Bytes, kTierCount>& capacity, const JobShape& shape, const Phase& phase);

  // `garbage`: what memory holds that nothing has written.
  RunResult run(const LastingMemory& before, uint64_t garbage, const Timing& timing, Random& random);

  struct Pair {
    OpId first, second;
  };
  // Ops that touch the same page, one of them writing, in whatever order: at most one pair per page. After a run that
  // did not fail.
  std::vector<Pair> unordered_conflicts() const;

 private:
  struct Touch {
    size_t tier;
    size_t first, count;  // pages
    bool reads, writes;
    uint64_t skew;  // of the address in its page
  };
  struct Act {
    std::vector<Touch> touches;
    std::string crash;
    bool adds = false;
    std::vector<bool> present;  // compute: which slots, then which gradients
  };
  struct Event {
    OpId op;
    bool begins;
  };

  Act act_of(const Op& op) const;
  void act_of_compute(const Op& op, Act& act) const;
  void touch(Act& act, const Operand* operand, int64_t bytes, bool reads, bool writes) const;

  void begin(OpId id);
  void end(OpId id);
  void compute(OpId id, std::vector<Pages>& values);
  void finish_compute(const Op& op, const Act& act, std::vector<Pages>& values);
  void issue();
  std::vector<Event> possible() const;
  Event choose(const std::vector<Event>& events, const Timing& timing, Random& random) const;

  const Schedule& schedule_;
  const std::vector<Buffer>& buffers_;
  const std::array<Bytes, kTierCount>& capacity_;
  const JobShape& shape_;
  const Phase phase_;
  std::vector<Act> acts_;

  // One run.
  std::array<Pages, kTierCount> memory_;
  uint64_t garbage_ = 0;
  RunResult result_;
  std::vector<int> waiting_for_;
  std::vector<std::vector<OpId>> dependents_;
  std::array<std::vector<OpId>, kLaneCount> lanes_;   // as the schedule says
  std::array<size_t, kLaneCount> next_{};             // to issue
  std::array<std::vector<OpId>, kLaneCount> queues_;  // issued, where the kind runs
  std::vector<OpId> running_;
  std::vector<OpId> began_;               // in this order
  std::vector<std::vector<Pages>> held_;  // per op: what it read when it began, per touch
};

}  // namespace sluice::plan
