#include "runtime/plan/plan.h"

#include <algorithm>
#include <array>
#include <sstream>

#include "runtime/core/check.h"

namespace sluice::plan {
namespace {

std::string decision(const GroupPlan& group) {
  std::ostringstream text;
  text << "{weights: " << name_of(group.weights) << ", states: " << name_of(group.states)
       << ", gradients: " << name_of(group.gradients) << ", update: " << name_of(group.update) << "}";
  return text.str();
}

std::string decision(const BlockPlan& block, const BlockShape& shape) {
  std::ostringstream text;
  text << "{input: " << name_of(block.input);
  for (size_t s = 0; s < block.slots.size(); ++s)
    text << ", " << shape.slots[s].name << ": " << name_of(block.slots[s]);
  text << "}";
  return text.str();
}

// "layer.0", "layer.29" -> "layer.0..layer.29: <text>", for runs of equal decisions.
template <class Name, class Text>
void write_runs(std::ostringstream& out, size_t count, const Name& name, const Text& text) {
  for (size_t begin = 0; begin < count;) {
    size_t end = begin + 1;
    while (end < count && text(end) == text(begin)) ++end;
    out << "  " << name(begin);
    if (end - begin > 1) out << ".." << name(end - 1);
    out << ": " << text(begin) << '\n';
    begin = end;
  }
}

}  // namespace

std::string_view name_of(SlotFate fate) {
  constexpr std::array<std::string_view, 4> names = {"keep", "host", "disk", "recompute"};
  return names[static_cast<size_t>(fate)];
}

std::string_view name_of(UpdateTime time) {
  return time == UpdateTime::before_forward ? "before forward" : "behind backward";
}

bool updates_behind_backward(const Plan& plan) {
  return std::any_of(plan.groups.begin(), plan.groups.end(),
                     [](const GroupPlan& group) { return group.update == UpdateTime::behind_backward; });
}

int64_t states_stride(int64_t bytes) {
  constexpr int64_t kPage = 4096;
  return round_up(bytes, kPage);
}

int64_t states_begin(const Plan& plan, const GroupShape& group, int64_t element) {
  const int64_t each = chunk_elements(plan, group);
  int64_t bytes = 0;
  for (int64_t begin = 0; begin < element; begin += each)
    bytes += states_stride(group.states.bytes(begin, std::min(begin + each, group.elements)));
  return bytes;
}

int64_t chunk_elements(const Plan& plan, const GroupShape& group) {
  return group.weight_bytes_per_element == 1 ? 2 * plan.chunk_elements : plan.chunk_elements;
}

std::string to_yaml(const Plan& plan, const JobShape& shape) {
  SLUICE_CHECK(plan.groups.size() == shape.groups.size(), "the plan is for another model");
  std::ostringstream out;
  out << "memory: " << (plan.memory == DeviceMemory::unified ? "unified" : "separate") << '\n'
      << "micro_batches: " << shape.micro_batches << '\n'
      << "tokens_per_micro_batch: " << shape.tokens_max << '\n'
      << "prefetch: " << plan.prefetch << '\n'
      << "undoable: " << (plan.undoable ? "true" : "false") << '\n'
      << "chunk_elements: " << plan.chunk_elements << '\n'
      << "chunk_ring: " << plan.chunk_ring << '\n'
      << "gradient_ring: " << plan.gradient_ring << '\n'
      << "gradient_bytes_per_element: " << shape.gradient_bytes_per_element << '\n'
      << "groups:\n";
  write_runs(
      out, plan.groups.size(), [&](size_t g) { return shape.groups[g].name; },
      [&](size_t g) { return decision(plan.groups[g]); });
  out << "blocks:\n";
  write_runs(
      out, plan.blocks.size(), [&](size_t b) { return shape.blocks[b].name; },
      [&](size_t b) { return decision(plan.blocks[b], shape.blocks[b]); });
  out << "reasons:" << (plan.reasons.empty() ? " []" : "") << '\n';
  for (const std::string& reason : plan.reasons) out << "  - \"" << reason << "\"\n";
  return out.str();
}

}  // namespace sluice::plan
