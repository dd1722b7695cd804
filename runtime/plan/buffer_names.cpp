#include "runtime/plan/buffer_names.h"

namespace sluice::plan {

std::string numbered(const char* name, int64_t a) { return std::string(name) + '.' + std::to_string(a); }
std::string numbered(const char* name, int64_t a, int64_t b) { return numbered(name, a) + '.' + std::to_string(b); }
std::string numbered(const char* name, int64_t a, int64_t b, int64_t c) {
  return numbered(name, a, b) + '.' + std::to_string(c);
}

namespace {
constexpr const char* kSecond = ".second";
}

std::string of_set(std::string name, int set) { return set == 0 ? name : name + kSecond; }
std::string of_first_set(std::string name) {
  if (name.ends_with(kSecond)) name.erase(name.size() - std::string_view(kSecond).size());
  return name;
}
std::string home_weights_name(int g, int set) { return of_set(numbered("weights.host", g), set); }
std::string device_weights_name(int g, int set) { return of_set(numbered("weights.device", g), set); }
std::string load_ring_name(const GroupShape& group) {
  return numbered("weights.load.ring", group.weight_bytes().count);
}
std::string weights_ring_name(const GroupShape& group) {
  return numbered("weights.host.ring", group.weight_bytes().count);
}

std::string host_weights_name(const GroupPlan& where, const GroupShape& group, int g, int set) {
  if (lives_on_device(where)) return load_ring_name(group) + "[0]";
  return where.weights == Tier::disk ? weights_ring_name(group) + "[0]" : home_weights_name(g, set);
}
std::string weights_extent_name(int g, int set) { return of_set(numbered("weights.disk", g), set); }
std::string states_name(const GroupPlan& where, int g, int set) {
  return of_set(numbered(lives_on_device(where) ? "states.device" : "states.host", g), set);
}
std::string states_extent_name(int g, int64_t chunk, int set) { return of_set(numbered("states.disk", g, chunk), set); }
int newest_set(const Plan& plan, int g, bool odd) {
  const bool two = plan.undoable && plan.groups[static_cast<size_t>(g)].update == UpdateTime::behind_backward;
  return two && odd ? 1 : 0;
}

bool is_trained_on_disk(const Buffer& buffer) {
  return buffer.tier == Tier::disk && (buffer.tag == Tag::weights || buffer.tag == Tag::states);
}
bool is_second_set(const Buffer& buffer) { return buffer.name.ends_with(kSecond); }

bool holds_a_chunk(const Buffer& buffer) {
  for (const char* ring : {"staging", "states.ring", "gradients.chunk.ring"})
    if (buffer.name.starts_with(ring)) return true;
  return false;
}

}  // namespace sluice::plan
