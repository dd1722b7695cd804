#include "runtime/plan/ring.h"

#include <algorithm>

namespace sluice::plan {

RingSet::Ring& RingSet::ring(const std::string& name, int depth, Tier tier, Tag tag, int64_t bytes) {
  Ring& ring = rings_[name];
  while (static_cast<int>(ring.size()) < depth) {
    const size_t place = ring.size();
    ring.push_back({layout_.passing(name + '[' + std::to_string(place) + ']', tier, tag, bytes)});
    entry_of_[ring.back().buffer] = {name, place};
  }
  return ring;
}

RingSet::Entry& RingSet::oldest(Ring& ring) {
  return *std::min_element(ring.begin(), ring.end(),
                           [](const Entry& a, const Entry& b) { return a.last_use < b.last_use; });
}

BufferId RingSet::next(const std::string& name, int depth, Tier tier, Tag tag, int64_t bytes) {
  Entry& entry = oldest(ring(name, depth, tier, tag, bytes));
  // Taking counts as a use: two taken for one op must differ.
  entry.last_use = clock_++;
  return entry.buffer;
}

std::pair<BufferId, bool> RingSet::cached(const std::string& name, int depth, Tier tier, Tag tag, int64_t bytes,
                                          int key) {
  Ring& entries = ring(name, depth, tier, tag, bytes);
  const auto found = std::find_if(entries.begin(), entries.end(), [&](const Entry& e) { return e.key == key; });
  Entry& entry = found != entries.end() ? *found : oldest(entries);
  const bool hit = found != entries.end();
  entry.key = key;
  entry.last_use = clock_++;
  return {entry.buffer, hit};
}

void RingSet::touch(BufferId buffer) {
  const auto found = entry_of_.find(buffer);
  if (found == entry_of_.end()) return;
  rings_.at(found->second.first)[found->second.second].last_use = clock_++;
}

}  // namespace sluice::plan
