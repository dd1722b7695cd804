#include "runtime/plan/memory_content.h"

namespace sluice::plan {

std::string describe(const Thing& thing) {
  constexpr std::array<const char*, 10> names = {
      "nothing of use", "what the phase found", "weights as stored", "states as stored", "the weights",
      "the states",     "the gradient",         "the boundary",      "the gradient",     "a slot"};
  std::string text = names[static_cast<size_t>(thing.kind)];
  if (thing.lasts()) {
    text += " of group " + std::to_string(thing.a);
    if (thing.kind == Thing::states)
      text += " [" + std::to_string(thing.begin) + ", " + std::to_string(thing.end) + ")";
    text += thing.version == kStale     ? ", outdated"
            : thing.version == kPending ? ", of the step before"
                                        : ", version " + std::to_string(thing.version);
  } else if (thing.b != kNone) {
    text += " of block " + std::to_string(thing.a) + ", micro-batch " + std::to_string(thing.b);
  }
  return text;
}

}  // namespace sluice::plan
