#include "runtime/plan/planner.h"

#include <algorithm>
#include <cstdio>
#include <sstream>

#include "runtime/core/result.h"
#include "runtime/plan/verify.h"

namespace sluice::plan {
namespace {

// One arrangement, from the fastest to the smallest.
struct Candidate {
  Tier weights, gradients, states;
  SlotFate activations;
  int prefetch, chunk_ring;
};

std::vector<Candidate> candidates(const PlanRequest& request) {
  std::vector<std::array<Tier, 3>> residences;
  if (request.memory == DeviceMemory::separate) residences.push_back({Tier::device, Tier::host, Tier::host});
  residences.push_back({Tier::host, Tier::host, Tier::host});
  residences.push_back({Tier::host, Tier::host, Tier::disk});
  residences.push_back({Tier::disk, Tier::host, Tier::disk});
  residences.push_back({Tier::disk, Tier::disk, Tier::disk});
  std::vector<SlotFate> fates = {SlotFate::keep};
  if (request.memory == DeviceMemory::separate) fates.push_back(SlotFate::host);
  fates.push_back(SlotFate::recompute);
  fates.push_back(SlotFate::disk);
  std::vector<Candidate> all;
  const auto add = [&](SlotFate fate, int prefetch, int ring) {
    for (const auto& [weights, gradients, states] : residences)
      all.push_back({request.weights.value_or(weights), request.gradients.value_or(gradients),
                     request.states.value_or(states), request.activations.value_or(fate),
                     request.prefetch.value_or(prefetch), ring});
  };
  // Deep rings let reads run ahead of writes; recomputation costs more than shallow ones.
  for (const SlotFate fate : fates) {
    add(fate, 4, 32);
    add(fate, 2, 6);
  }
  for (const SlotFate fate : fates) add(fate, 1, 2);
  return all;
}

Plan plan_of(const Candidate& candidate, const JobShape& shape, const PlanRequest& request) {
  Plan plan;
  plan.memory = request.memory;
  plan.prefetch = candidate.prefetch;
  plan.chunk_ring = candidate.chunk_ring;
  const bool all_trained =
      std::all_of(shape.groups.begin(), shape.groups.end(), [](const GroupShape& g) { return g.trainable; });
  for (const GroupShape& group : shape.groups) {
    GroupPlan where;
    // Adapters are small beside the frozen base: their weights stay in RAM.
    where.weights = group.trainable && !all_trained ? Tier::host : candidate.weights;
    if (plan.memory == DeviceMemory::unified && where.weights == Tier::device) where.weights = Tier::host;
    // The update runs on the host.
    where.gradients = candidate.gradients == Tier::device ? Tier::host : candidate.gradients;
    where.states = candidate.states == Tier::device ? Tier::host : candidate.states;
    plan.groups.push_back(where);
  }
  for (const BlockShape& block : shape.blocks) {
    BlockPlan fates;
    fates.input = candidate.activations == SlotFate::recompute ? SlotFate::keep : candidate.activations;
    fates.slots.assign(block.slots.size(), candidate.activations);
    plan.blocks.push_back(std::move(fates));
  }
  return plan;
}

Bytes host_bytes(const MemoryUse& memory, const JobShape& shape) {
  return memory.peak[static_cast<size_t>(Tier::host)] + shape.process_bytes + shape.transient_bytes;
}

struct Shortfall {
  Tier tier;
  Bytes needed;
};
std::optional<Shortfall> shortfall(const MemoryUse& memory, const JobShape& shape, const PlanRequest& request) {
  for (size_t tier = 0; tier < kTierCount; ++tier) {
    const Bytes needed = static_cast<Tier>(tier) == Tier::host ? host_bytes(memory, shape) : memory.peak[tier];
    if (needed > request.caps[tier]) return Shortfall{static_cast<Tier>(tier), needed};
  }
  return std::nullopt;
}

Planned lower(Plan plan, const JobShape& shape, const PlanRequest& request) {
  Planned planned;
  planned.plan = std::move(plan);
  for (const Phase& phase : phases_of(shape, request.resumes))
    planned.schedules.emplace(phase,
                              build_schedule(shape, planned.plan, phase, request.source_low_bits, planned.layout));
  planned.layout.freeze();
  planned.memory = planned.layout.memory();
  return planned;
}

void prove(const Schedule& schedule, const Planned& planned) {
  if (const Result<void> proof = verify(schedule, planned.layout.buffers(), planned.memory.peak); !proof.ok())
    throw RunError(proof.error());
}

std::vector<std::string> reasons_of(const Candidate& chosen, const PlanRequest& request, size_t rejected) {
  std::vector<std::string> reasons;
  const auto say = [&](const char* what, bool forced, std::string_view value) {
    if (!forced)
      reasons.push_back(std::string(what) + " = " + std::string(value) +
                        ": the fastest of the arrangements that fits the caps");
  };
  say("params", request.weights.has_value(), name_of(chosen.weights));
  say("gradients", request.gradients.has_value(), name_of(chosen.gradients));
  say("optimizer", request.states.has_value(), name_of(chosen.states));
  say("activations", request.activations.has_value(), name_of(chosen.activations));
  if (rejected > 0) reasons.push_back(std::to_string(rejected) + " faster arrangements did not fit");
  return reasons;
}

const char* cap_name(Tier tier) {
  return tier == Tier::device ? "max_gpu" : tier == Tier::host ? "max_cpu" : "max_disk";
}

[[noreturn]] void refuse(const Shortfall& least, const PlanRequest& request) {
  const auto tier = static_cast<size_t>(least.tier);
  const std::string& origin = request.cap_origins[tier];
  const std::string key = std::string("offload.") + cap_name(least.tier);
  const std::string mib = std::to_string((least.needed.count >> 20) + 1) + "MiB";
  throw SetupError("the job does not fit: tier " + std::string(name_of(least.tier)) + " needs at least " +
                       to_string(least.needed) + " and " + origin + " is " + to_string(request.caps[tier]),
                   (origin == key ? "set " + key + " to " + mib + " or more" : "free at least " + mib) +
                       ", or lower micro_batch_size or sequence_len");
}

}  // namespace

const Schedule& Planned::schedule(const Phase& phase, const JobShape& shape, const PlanRequest& request) {
  const auto found = schedules.find(phase);
  if (found != schedules.end()) return found->second;
  Schedule built = build_schedule(shape, plan, phase, request.source_low_bits, layout);
  prove(built, *this);
  return schedules.emplace(phase, std::move(built)).first->second;
}

Planned make_plan(const JobShape& shape, const PlanRequest& request) {
  std::optional<Shortfall> least;
  size_t rejected = 0;
  for (const Candidate& candidate : candidates(request)) {
    Planned planned = lower(plan_of(candidate, shape, request), shape, request);
    const std::optional<Shortfall> missing = shortfall(planned.memory, shape, request);
    if (!missing) {
      planned.plan.reasons = reasons_of(candidate, request, rejected);
      for (const auto& [phase, schedule] : planned.schedules) prove(schedule, planned);
      return planned;
    }
    ++rejected;
    if (!least || missing->needed < least->needed) least = missing;
  }
  refuse(*least, request);
}

std::string memory_table(const MemoryUse& memory, const JobShape& shape, const std::array<Bytes, kTierCount>& caps) {
  std::ostringstream out;
  char line[160];
  std::snprintf(line, sizeof line, "%-14s %14s %14s %14s\n", "peak bytes", "device", "host", "disk");
  out << line;
  const auto row = [&](std::string_view name, Bytes device, Bytes host, Bytes disk) {
    if (device.count + host.count + disk.count == 0) return;
    std::snprintf(line, sizeof line, "%-14s %14s %14s %14s\n", std::string(name).c_str(), to_string(device).c_str(),
                  to_string(host).c_str(), to_string(disk).c_str());
    out << line;
  };
  for (size_t tag = 0; tag < kTagCount; ++tag)
    row(name_of(static_cast<Tag>(tag)), memory.by_tag[0][tag], memory.by_tag[1][tag], memory.by_tag[2][tag]);
  row("inside a block", {}, shape.transient_bytes, {});
  row("process", {}, shape.process_bytes, {});
  row("total", memory.peak[0], host_bytes(memory, shape), memory.peak[2]);
  row("cap", caps[0], caps[1], caps[2]);
  return out.str();
}

std::string to_json(const Planned& planned, const JobShape& shape, const std::array<Bytes, kTierCount>& caps) {
  std::string yaml;
  for (const char c : to_yaml(planned.plan, shape)) {
    if (c == '\n') {
      yaml += "\\n";
    } else {
      if (c == '"' || c == '\\') yaml += '\\';
      yaml += c;
    }
  }
  std::ostringstream out;
  out << "{\"plan_yaml\": \"" << yaml << "\", \"peak_bytes\": {";
  for (size_t tier = 0; tier < kTierCount; ++tier) {
    out << (tier == 0 ? "\"" : ", \"") << name_of(static_cast<Tier>(tier)) << "\": {";
    for (size_t tag = 0; tag < kTagCount; ++tag)
      out << (tag == 0 ? "\"" : ", \"") << name_of(static_cast<Tag>(tag))
          << "\": " << planned.memory.by_tag[tier][tag].count;
    out << ", \"total\": " << planned.memory.peak[tier].count << ", \"cap\": " << caps[tier].count << "}";
  }
  out << "}, \"process_bytes\": " << shape.process_bytes.count
      << ", \"transient_bytes\": " << shape.transient_bytes.count << "}";
  return out.str();
}

}  // namespace sluice::plan
