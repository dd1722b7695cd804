#include "runtime/plan/buffer_names.h"

namespace sluice::plan {

namespace {

constexpr std::string_view kSecond = ".second";

BufferName of_set(const BufferName& name, int set) { return set == 0 ? name : name.with_end(kSecond); }

}  // namespace

std::string of_first_set(std::string name) {
  if (name.ends_with(kSecond)) name.erase(name.size() - kSecond.size());
  return name;
}
BufferName home_weights_name(int g, int set) { return of_set(BufferName("weights.host", g), set); }
BufferName device_weights_name(int g, int set) { return of_set(BufferName("weights.device", g), set); }
BufferName load_ring_name(const GroupShape& group) {
  return BufferName("weights.load.ring", group.weight_bytes().count);
}
BufferName weights_ring_name(const GroupShape& group) {
  return BufferName("weights.host.ring", group.weight_bytes().count);
}

BufferName host_weights_name(const GroupPlan& where, const GroupShape& group, int g, int set) {
  if (lives_on_device(where)) return load_ring_name(group).at_place(0);
  return where.weights == Tier::disk ? weights_ring_name(group).at_place(0) : home_weights_name(g, set);
}
BufferName weights_extent_name(int g, int set) { return of_set(BufferName("weights.disk", g), set); }
BufferName states_name(const GroupPlan& where, int g, int set) {
  return of_set(BufferName(lives_on_device(where) ? "states.device" : "states.host", g), set);
}
BufferName states_extent_name(int g, int64_t chunk, int set) {
  return of_set(BufferName("states.disk", g, chunk), set);
}
BufferName first_of_states_ring() { return BufferName(kStatesRing).at_place(0); }

int newest_set(const Plan& plan, int g, bool odd) {
  const bool two = plan.undoable && plan.groups[static_cast<size_t>(g)].update == UpdateTime::behind_backward;
  return two && odd ? 1 : 0;
}

bool is_trained_on_disk(const Buffer& buffer) {
  return buffer.tier == Tier::disk && (buffer.tag == Tag::weights || buffer.tag == Tag::states);
}
bool is_second_set(const Buffer& buffer) { return buffer.name.end() == kSecond; }

bool holds_a_chunk(const Buffer& buffer) {
  const std::string_view what = buffer.name.what();
  return what == kStaging || what == kStatesStaging || what == kStatesRing || what == kGradientsChunkRing;
}

}  // namespace sluice::plan
