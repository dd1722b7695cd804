#include "runtime/plan/ring.h"

#include <algorithm>

namespace sluice::plan {

RingSet::Ring& RingSet::ring(const BufferName& name, int depth, Tier tier, Tag tag, int64_t bytes) {
  Ring& ring = rings_[name];
  if (static_cast<int>(ring.size()) >= depth) return ring;
  for (int place = static_cast<int>(ring.size()); place < depth; ++place)
    ring.push_back({layout_.passing(name.at_place(place), tier, tag, bytes)});
  entry_of_.resize(layout_.buffers().size());
  for (Entry& entry : ring) entry_of_[static_cast<size_t>(entry.buffer)] = &entry;  // they may have moved
  return ring;
}

RingSet::Entry& RingSet::oldest(Ring& ring) {
  return *std::min_element(ring.begin(), ring.end(),
                           [](const Entry& a, const Entry& b) { return a.last_use < b.last_use; });
}

BufferId RingSet::next(const BufferName& name, int depth, Tier tier, Tag tag, int64_t bytes) {
  Entry& entry = oldest(ring(name, depth, tier, tag, bytes));
  // Taking counts as a use: two taken for one op must differ.
  entry.last_use = clock_++;
  return entry.buffer;
}

std::pair<BufferId, bool> RingSet::cached(const BufferName& name, int depth, Tier tier, Tag tag, int64_t bytes,
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
  const auto place = static_cast<size_t>(buffer);
  if (place < entry_of_.size() && entry_of_[place] != nullptr) entry_of_[place]->last_use = clock_++;
}

}  // namespace sluice::plan
