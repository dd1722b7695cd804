#include "runtime/plan/choices.h"

#include <algorithm>
#include <bit>

namespace sluice::plan {
namespace {

constexpr std::array kPrefetch = {4, 2, 1};
constexpr std::array kChunkRing = {32, 6, 2};
constexpr std::array kGradientRing = {2, 1};

uint8_t code(Tier tier) { return static_cast<uint8_t>(tier); }
uint8_t code(SlotFate fate) { return static_cast<uint8_t>(fate); }

// Bytes in one tier.
std::array<int64_t, kTierCount> in(Tier tier, int64_t bytes) {
  std::array<int64_t, kTierCount> use{};
  use[static_cast<size_t>(tier)] = bytes;
  return use;
}

// van der Corput's sequence: any first n of it lie evenly. 0, 1/2, 1/4, 3/4, 1/8 ...
uint32_t reversed_bits(uint32_t n) {
  uint32_t reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (n >> bit & 1u) << (31 - bit);
  return reversed;
}

bool kinds_streamed_evenly(ChoiceKind kind) {
  return kind == ChoiceKind::weights || kind == ChoiceKind::states || kind == ChoiceKind::gradients ||
         kind == ChoiceKind::update;
}

bool all_trained(const JobShape& shape) {
  return std::all_of(shape.groups.begin(), shape.groups.end(), [](const GroupShape& g) { return g.trainable; });
}

// A drive of unknown rates would seem to take no time.
bool knows_disk(const PlanRequest& request) { return request.profile.disk_read.count > 0; }

// States are on the device only where the weights are; then the gradients are too.
void live_together(GroupPlan& group) {
  if (group.states != Tier::device) return;
  if (group.weights != Tier::device) group.states = Tier::host;
  if (group.states == Tier::device) group.gradients = Tier::device;
}

// Blocks before the first trained one have no backward: nothing of them is saved.
int first_trained_block(const JobShape& shape) {
  for (size_t b = 0; b < shape.blocks.size(); ++b)
    for (const int g : shape.blocks[b].groups)
      if (shape.groups[static_cast<size_t>(g)].trainable) return static_cast<int>(b);
  return static_cast<int>(shape.blocks.size());
}

}  // namespace

int64_t chunk_elements_for(int64_t largest_group_elements) {
  constexpr int64_t kLeast = 1 << 20, kMost = 1 << 24, kPerGroup = 64;
  return std::clamp(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(largest_group_elements / kPerGroup + 1))),
                    kLeast, kMost);
}

Choices::Choices(const JobShape& shape, const PlanRequest& request, int64_t chunk_elements) {
  base_.memory = request.memory;
  clips_ = request.clips;
  base_.chunk_elements = chunk_elements;
  base_.groups.resize(shape.groups.size());
  for (const BlockShape& block : shape.blocks)
    base_.blocks.push_back({SlotFate::keep, std::vector<SlotFate>(block.slots.size(), SlotFate::keep)});
  add_groups(shape, request);
  add_blocks(shape, request);
  add_rings(request);
  rank_families();
}

void Choices::add_groups(const JobShape& shape, const PlanRequest& request) {
  const bool separate = request.memory == DeviceMemory::separate;
  const bool has_adapters = !all_trained(shape);
  const bool may_use_disk = knows_disk(request);
  // On unified memory the device is the host.
  const auto on_host = [](std::optional<Tier> tier) { return tier == Tier::device ? Tier::host : tier; };
  for (size_t g = 0; g < shape.groups.size(); ++g) {
    const GroupShape& group = shape.groups[g];
    const bool adapter = has_adapters && group.trainable;
    const std::string like = '/' + std::to_string(group.weight_bytes().count) + (group.trainable ? "t" : "f");
    const auto add_tier = [&](ChoiceKind kind, const char* name, int64_t bytes, std::vector<Tier> tiers) {
      Choice choice{.kind = kind, .index = static_cast<int>(g)};
      for (const Tier tier : tiers) {
        choice.options.push_back(code(tier));
        choice.bytes.push_back(in(tier, bytes));
        // Trained weights that the host updates have their home there as well. States on the device take nothing of the
        // host; counted alike, the search takes a quarter of the time and finds the same plans.
        if (tier == Tier::device && group.trainable) choice.bytes.back()[static_cast<size_t>(Tier::host)] = bytes;
      }
      add(std::move(choice), name + like);
    };
    std::vector<Tier> weights = {Tier::host};
    if (may_use_disk) weights.push_back(Tier::disk);
    // Adapters are small beside the frozen base: their weights stay in memory.
    if (adapter) weights = {Tier::host};
    if (separate) weights.insert(weights.begin(), Tier::device);
    if (request.weights && !adapter) weights = {separate ? *request.weights : *on_host(request.weights)};
    // States are on the device only with their weights and gradients.
    const bool lives_there = separate && group.trainable && request.states == Tier::device;
    if (lives_there) weights = {Tier::device};
    const bool may_live_there = separate && shape.device_memory_rate.count > 0 && weights[0] == Tier::device &&
                                !request.states && request.gradients.value_or(Tier::device) == Tier::device;
    add_tier(ChoiceKind::weights, "weights", group.weight_bytes().count, weights);
    if (!group.trainable) continue;
    std::vector<Tier> memory = {Tier::host};
    if (may_use_disk) memory.push_back(Tier::disk);
    std::vector<Tier> states = request.states ? std::vector<Tier>{*on_host(request.states)} : memory;
    if (may_live_there) states.insert(states.begin(), Tier::device);
    if (lives_there) states = {Tier::device};
    add_tier(ChoiceKind::states, "states", group.state_bytes().count, states);
    add_tier(ChoiceKind::gradients, "gradients", group.elements * shape.gradient_bytes_per_element,
             request.gradients ? std::vector<Tier>{*on_host(request.gradients)} : memory);
    Choice update{.kind = ChoiceKind::update, .index = static_cast<int>(g)};
    for (const UpdateTime time : {UpdateTime::behind_backward, UpdateTime::before_forward})
      if (request.update.value_or(time) == time) update.options.push_back(static_cast<uint8_t>(time));
    // What two sets take depends on where they are: the search sees it when it lowers.
    update.bytes.resize(update.options.size());
    add(std::move(update), "update" + like);
  }
}

void Choices::add_blocks(const JobShape& shape, const PlanRequest& request) {
  const bool separate = request.memory == DeviceMemory::separate;
  const auto bytes_of = [&](SlotFate fate, int64_t bytes) {
    if (fate == SlotFate::recompute) return std::array<int64_t, kTierCount>{};
    return in(fate == SlotFate::disk                ? Tier::disk
              : fate == SlotFate::host || !separate ? Tier::host
                                                    : Tier::device,
              bytes);
  };
  const auto add_fate = [&](Choice choice, const std::string& family, int64_t bytes, std::vector<SlotFate> fates) {
    for (const SlotFate fate : fates) {
      choice.options.push_back(code(fate));
      choice.bytes.push_back(bytes_of(fate, bytes));
    }
    add(std::move(choice), family);
  };
  const std::optional<SlotFate> forced = request.activations;
  for (int b = first_trained_block(shape); b < static_cast<int>(shape.blocks.size()); ++b) {
    const BlockShape& block = shape.blocks[static_cast<size_t>(b)];
    // On unified memory, host and keep are the same.
    std::vector<SlotFate> fates = {SlotFate::keep};
    if (separate) fates.push_back(SlotFate::host);
    if (knows_disk(request)) fates.push_back(SlotFate::disk);
    // A boundary cannot be recomputed.
    const auto boundary = forced ? std::vector{*forced == SlotFate::recompute ? SlotFate::keep : *forced} : fates;
    if (b > 0)
      add_fate({.kind = ChoiceKind::input, .index = b}, "boundaries", shape.boundary_bytes.count * shape.micro_batches,
               boundary);
    fates.push_back(SlotFate::recompute);
    if (forced) fates = {*forced};
    for (size_t s = 0; s < block.slots.size(); ++s) {
      const SlotShape& slot = block.slots[s];
      add_fate({.kind = ChoiceKind::slot, .index = b, .slot = static_cast<int>(s)},
               slot.name + '/' + std::to_string(slot.bytes.count) + '/' + std::to_string(slot.recompute_flops),
               slot.bytes.count * shape.micro_batches, fates);
    }
  }
}

void Choices::add_rings(const PlanRequest& request) {
  const auto add_number = [&](ChoiceKind kind, const char* name, std::vector<int> numbers) {
    Choice choice{.kind = kind};
    for (const int number : numbers) choice.options.push_back(static_cast<uint8_t>(number));
    choice.bytes.resize(numbers.size());
    add(std::move(choice), name);
  };
  std::vector<int> prefetch(kPrefetch.begin(), kPrefetch.end());
  if (request.prefetch) prefetch = {*request.prefetch};
  add_number(ChoiceKind::prefetch, "prefetch", prefetch);
  add_number(ChoiceKind::chunk_ring, "chunk_ring", {kChunkRing.begin(), kChunkRing.end()});
  add_number(ChoiceKind::gradient_ring, "gradient_ring", {kGradientRing.begin(), kGradientRing.end()});
}

void Choices::add(Choice choice, const std::string& family) {
  const auto found =
      std::find_if(families_.begin(), families_.end(), [&](const Family& each) { return each.name == family; });
  choice.family = static_cast<int>(found - families_.begin());
  if (found == families_.end()) families_.push_back({family, {}});
  families_[static_cast<size_t>(choice.family)].members.push_back(static_cast<int>(all_.size()));
  all_.push_back(std::move(choice));
}

void Choices::rank_families() {
  for (Family& family : families_) {
    const auto count = static_cast<uint32_t>(family.members.size());
    const auto key = [&](uint32_t position) {
      const bool even = kinds_streamed_evenly(all_[static_cast<size_t>(family.members[position])].kind);
      return even ? reversed_bits(position) : count - position;
    };
    std::vector<uint32_t> order(count);
    for (uint32_t i = 0; i < count; ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return key(a) < key(b); });
    std::vector<int> ranked;
    for (const uint32_t position : order) ranked.push_back(family.members[position]);
    family.members = std::move(ranked);
    for (size_t rank = 0; rank < family.members.size(); ++rank)
      all_[static_cast<size_t>(family.members[rank])].rank = static_cast<int>(rank);
  }
}

Assignment Choices::smallest() const {
  Assignment assignment;
  for (const Choice& choice : all_) assignment.push_back(static_cast<int>(choice.options.size()) - 1);
  return assignment;
}

Plan Choices::plan_of(const Assignment& assignment) const {
  Plan plan = base_;
  for (size_t i = 0; i < all_.size(); ++i) {
    const Choice& choice = all_[i];
    const uint8_t option = choice.options[static_cast<size_t>(assignment[i])];
    const auto at = static_cast<size_t>(choice.index);
    switch (choice.kind) {
      case ChoiceKind::weights:
        plan.groups[at].weights = static_cast<Tier>(option);
        break;
      case ChoiceKind::states:
        plan.groups[at].states = static_cast<Tier>(option);
        break;
      case ChoiceKind::gradients:
        plan.groups[at].gradients = static_cast<Tier>(option);
        break;
      case ChoiceKind::update:
        plan.groups[at].update = static_cast<UpdateTime>(option);
        break;
      case ChoiceKind::input:
        plan.blocks[at].input = static_cast<SlotFate>(option);
        break;
      case ChoiceKind::slot:
        plan.blocks[at].slots[static_cast<size_t>(choice.slot)] = static_cast<SlotFate>(option);
        break;
      case ChoiceKind::prefetch:
        plan.prefetch = option;
        break;
      case ChoiceKind::chunk_ring:
        plan.chunk_ring = option;
        break;
      case ChoiceKind::gradient_ring:
        plan.gradient_ring = option;
        break;
    }
  }
  for (GroupPlan& group : plan.groups) live_together(group);
  plan.undoable = clips_ && updates_behind_backward(plan);
  return plan;
}

std::string Choices::option_name(int choice, int option) const {
  const Choice& which = all_[static_cast<size_t>(choice)];
  const uint8_t value = which.options[static_cast<size_t>(option)];
  switch (which.kind) {
    case ChoiceKind::weights:
    case ChoiceKind::states:
    case ChoiceKind::gradients:
      return std::string(name_of(static_cast<Tier>(value)));
    case ChoiceKind::update:
      return std::string(name_of(static_cast<UpdateTime>(value)));
    case ChoiceKind::input:
    case ChoiceKind::slot:
      return std::string(name_of(static_cast<SlotFate>(value)));
    case ChoiceKind::prefetch:
    case ChoiceKind::chunk_ring:
    case ChoiceKind::gradient_ring:
      break;
  }
  return std::to_string(value);
}

}  // namespace sluice::plan
