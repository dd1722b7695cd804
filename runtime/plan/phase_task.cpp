#include "runtime/plan/phase_task.h"

#include <algorithm>

namespace sluice::plan {

PhaseTask::PhaseTask(const JobShape& shape, const Plan& plan, const Phase& phase)
    : shape_(shape), plan_(plan), phase_(phase) {
  blocks_of_.resize(shape.groups.size());
  for (int b = static_cast<int>(shape.blocks.size()) - 1; b >= 0; --b)
    for (int g : shape.blocks[index(b)].groups) blocks_of_[index(g)].push_back(b);
}

bool PhaseTask::is_updated_before(int group) const {
  const bool waits = is_early(group) ? phase_.early_pending : phase_.pending;
  return is_trainable(group) && waits && (trains() || phase_.kind == PhaseKind::flush);
}

bool PhaseTask::is_updated_behind(int group) const {
  return is_early(group) && (phase_.kind == PhaseKind::redo || (trains() && phase_.early));
}

int PhaseTask::additions(int group) const {
  return static_cast<int>(blocks_of_[index(group)].size()) * phase_.micro_batches;
}

// Sums are taken in one order by all plans: from the last block to the first, micro-batches upwards in even blocks and
// downwards in odd ones.
int PhaseTask::turn(int group, int block, int micro_batch) const {
  const auto& all = blocks_of_[index(group)];
  const auto place = static_cast<int>(std::find(all.begin(), all.end(), block) - all.begin());
  return place * phase_.micro_batches + (block % 2 == 0 ? micro_batch : phase_.micro_batches - 1 - micro_batch);
}

// What lasts and is not stored is of no use, but its place is not free either.
bool PhaseTask::stored(Tier tier, const Thing& thing) const {
  const int g = thing.a;
  // An evaluation may come between a gradient and its update.
  if (thing.kind == Thing::gradient)
    return is_updated_before(g) || phase_.kind == PhaseKind::evaluate || phase_.kind == PhaseKind::redo;
  if (is_trainable(g) && thing.c != set_now(g)) return false;
  if (tier != Tier::disk) return true;
  return thing.kind == Thing::states ? states_stored(g) : weights_stored(g);
}

Content PhaseTask::at_begin(Tier tier, Content at_home) const {
  if (loads()) return {};
  if (!stored(tier, at_home.thing)) {
    at_home.thing.version = kStale;
  } else if (at_home.thing.kind == Thing::gradient) {
    at_home.thing.version = kPending;
  }
  return at_home;
}

Content PhaseTask::at_end(Tier tier, Content at_home) const {
  Thing& thing = at_home.thing;
  const int g = thing.a;
  if (thing.kind == Thing::gradient) {
    if (!trains()) return at_begin(tier, at_home);
    thing.version = additions(g);
    return at_home;
  }
  if (loads()) {
    if (thing.c != set_now(g)) return {};
    const bool written = tier != Tier::disk || (thing.kind == Thing::states && phase_.kind == PhaseKind::restore);
    return written ? at_home : Content{};
  }
  if (is_updated_behind(g) && thing.c == set_next(g)) {
    thing.version = newest(g) + 1;
    return at_home;
  }
  if (!is_updated_before(g) || thing.c != set_now(g)) return at_begin(tier, at_home);
  thing.version = 1;
  return at_home;
}

}  // namespace sluice::plan
