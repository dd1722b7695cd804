// Which ops of a schedule are known to have ended when one begins, whatever the timing.
#pragma once

#include <array>
#include <vector>

#include "runtime/plan/schedule.h"

namespace sluice::plan {

// Ops of these lanes overlap and end in any order.
inline bool is_transfer(Lane lane) { return lane == Lane::read || lane == Lane::write; }

// Asked in program order: `begin` each op, then ask about it.
//
// Ops of a lane begin in program order; those of every lane but `read` and `write` also end in it, so that for these
// the last one tells of all before it. Of the transfers, few are in flight at any place of the program: a row lists
// those that may be, and is kept only until the last op that looks at it. So this grows with the ops, not with their
// square.
class OpOrder {
 public:
  explicit OpOrder(const Schedule& schedule);

  void begin(OpId id);
  // When the op that was begun last begins. `other` is an op before it.
  bool ended(OpId other) const;

 private:
  struct Row {
    std::array<int, kLaneCount> last;  // per other lane: the last one that has ended
    int end = 0;                       // of the transfers before this one ...
    std::vector<int> missing;          // ... all but these have ended; ascending

    Row() { last.fill(-1); }
    bool has(int transfer) const;
    void add(int transfer);
    void add(const Row& other);
  };

  void look(OpId before, bool ended);

  const Schedule& schedule_;
  std::vector<int> place_;  // in its lane; of transfers, among all of them
  std::vector<Row> rows_;
  std::vector<int> looks_;  // still to come
  std::array<OpId, kLaneCount> previous_;
  Row current_;
};

}  // namespace sluice::plan
