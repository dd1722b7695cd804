#include "runtime/plan/planner.h"

#include <algorithm>
#include <future>

#include "runtime/core/processor.h"
#include "runtime/core/result.h"
#include "runtime/plan/choices.h"
#include "runtime/plan/search.h"
#include "runtime/plan/verify.h"

namespace sluice::plan {
namespace {

using Caps = std::array<Bytes, kTierCount>;

Planned lower(Plan plan, const JobShape& shape, const PlanRequest& request) {
  Planned planned;
  planned.plan = std::move(plan);
  for (const Phase& phase : phases_of(shape, planned.plan, request.resumes))
    planned.schedules.emplace(phase,
                              build_schedule(shape, planned.plan, phase, request.source_low_bits, planned.layout));
  planned.layout.freeze();
  planned.memory = planned.layout.memory();
  return planned;
}

// The plan's own schedules tell where things wait between phases.
Homes learn_homes(const Planned& planned, const JobShape& shape) {
  Result<Homes> homes = homes_of(planned.schedules, planned.layout.buffers(), shape, planned.plan);
  if (!homes.ok()) throw RunError(homes.error());
  return std::move(homes.value());
}

void prove(const Phase& phase, const Schedule& schedule, const Planned& planned, const JobShape& shape,
           const Homes& homes) {
  const Result<void> proof =
      verify(schedule, planned.layout.buffers(), planned.memory.peak, shape, planned.plan, phase, homes);
  if (!proof.ok()) throw RunError(proof.error());
}

// The proofs take longer than the lowering: one core each.
void prove_all(const Planned& planned, const JobShape& shape) {
  const Homes homes = learn_homes(planned, shape);
  std::vector<std::future<void>> proofs;
  const auto cores = static_cast<size_t>(usable_cores());
  for (const auto& each : planned.schedules) {
    if (proofs.size() >= cores) proofs[proofs.size() - cores].wait();
    proofs.push_back(std::async(std::launch::async, [&] { prove(each.first, each.second, planned, shape, homes); }));
  }
  for (std::future<void>& proof : proofs) proof.get();
}

// What exact lowering takes beyond the caps, per tier; at most zero: it fits.
Caps excess(const Planned& planned, const JobShape& shape, const PlanRequest& request) {
  Caps over;
  for (size_t tier = 0; tier < kTierCount; ++tier)
    over[tier] = memory_in(static_cast<Tier>(tier), planned.memory, shape) - request.caps[tier];
  return over;
}
bool fits(const Caps& over) {
  return std::all_of(over.begin(), over.end(), [](Bytes bytes) { return bytes.count <= 0; });
}

// The search scores the steady step alone, coarsely. What all phases take beyond that, in exact lowering, is taken off
// its caps.
class Fitting {
 public:
  Fitting(const JobShape& shape, const PlanRequest& request)
      : shape_(shape),
        request_(request),
        choices_(shape, request, request.chunk_elements),
        score_(shape, request, choices_, request_.profile) {}

  std::optional<Planned> find() {
    if (!measuring_fits()) return std::nullopt;
    calibrate();
    std::optional<Assignment> found;
    std::optional<Planned> planned =
        lowered_in_caps([&] { return found = search(choices_, score_, {search_caps()}, found); });
    if (!planned) {
      // So tight that what is fast in coarse figures is too large in exact ones.
      calibrate();
      planned = lowered_in_caps([&] { return found = search_any(choices_, score_, {search_caps()}); });
    }
    if (planned) finish(*planned, *found);
    return planned;
  }
  bool fits_somehow() {
    if (!measuring_fits()) return false;
    calibrate();
    return lowered_in_caps([&] { return search_any(choices_, score_, {search_caps()}); }).has_value();
  }

  bool fastest_needs_disk() {
    const Planned planned = lowered(choices_.fastest());
    return planned.memory.peak[static_cast<size_t>(Tier::disk)].count > 0 || !fits(excess(planned, shape_, request_));
  }

 private:
  bool measuring_fits() const { return memory_to_measure(shape_) <= request_.caps[static_cast<size_t>(Tier::host)]; }
  Planned lowered(const Assignment& assignment) const { return lower(choices_.plan_of(assignment), shape_, request_); }

  // Coarse figures are corrected until the winner's exact ones fit, each time by twice as much: the next winner may err
  // as the last one did.
  template <class Search>
  std::optional<Planned> lowered_in_caps(const Search& search) {
    constexpr int kAttempts = 8;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      const std::optional<Assignment> found = search();
      if (!found) return std::nullopt;
      Planned planned = lowered(*found);
      const Caps over = excess(planned, shape_, request_);
      if (fits(over)) return planned;
      for (size_t tier = 0; tier < kTierCount; ++tier)
        beyond_[tier] += std::max(over[tier], Bytes{}) * (int64_t{1} << attempt);
    }
    return std::nullopt;
  }

  // How far off the coarse figures are for the smallest plan.
  void calibrate() {
    const Planned exact = lowered(choices_.smallest());
    const Score& coarse = score_(choices_.smallest(), /*timed=*/false);
    for (size_t tier = 0; tier < kTierCount; ++tier)
      beyond_[tier] = memory_in(static_cast<Tier>(tier), exact.memory, shape_) - coarse.memory[tier];
  }
  Caps search_caps() const {
    Caps caps = request_.caps;
    for (size_t tier = 0; tier < kTierCount; ++tier) caps[tier] -= beyond_[tier];
    return caps;
  }

  void finish(Planned& planned, const Assignment& assignment) {
    prove_all(planned, shape_);
    const int m = shape_.micro_batches;
    planned.steady = simulated(planned, steady_phase(planned.plan, m));
    if (planned.plan.undoable)
      planned.clipping = {planned.steady.time, simulated(planned, redo_phase(m, false)).time,
                          simulated(planned, waiting_phase(m, false)).time};
    planned.plan.reasons = reasons(assignment);
  }

  Simulation simulated(Planned& planned, const Phase& phase) const {
    return simulate(planned.schedule(phase, shape_, request_), planned.layout.buffers(), request_.profile);
  }

  std::vector<std::string> reasons(const Assignment& assignment) {
    std::vector<std::string> lines;
    for (int f = 0; f < static_cast<int>(choices_.families().size()); ++f) {
      const Choice& first = choices_.all()[static_cast<size_t>(choices_.families()[static_cast<size_t>(f)].members[0])];
      if (first.options.size() > 1) lines.push_back(reason(assignment, f, first));
    }
    return lines;
  }
  std::string reason(const Assignment& assignment, int f, const Choice& first) {
    const Family& family = choices_.families()[static_cast<size_t>(f)];
    std::string line = family.name.substr(0, family.name.find('/'));
    if (first.kind == ChoiceKind::weights || first.kind == ChoiceKind::states || first.kind == ChoiceKind::gradients ||
        first.kind == ChoiceKind::update)
      line += " of " + shape_.groups[static_cast<size_t>(first.index)].name;
    if (family.members.size() > 1) line += " and its like";
    line += ':';
    for (int option = 0; option < static_cast<int>(first.options.size()); ++option) {
      const auto count = std::count_if(family.members.begin(), family.members.end(),
                                       [&](int i) { return assignment[static_cast<size_t>(i)] == option; });
      if (count == 0) continue;
      line += ' ' + choices_.option_name(family.members[0], option);
      if (family.members.size() > 1) line += " x" + std::to_string(count);
    }
    const std::optional<Gain> gain = next_gain(choices_, score_, assignment, f);
    if (!gain) return line + "; the fastest place there is";
    line += "; one more in " + choices_.option_name(gain->choice, gain->option);
    line += gain->saved.count < 1 ? " saves no time" : " saves " + to_string(gain->saved) + " a step";
    for (size_t tier = 0; tier < kTierCount; ++tier)
      if (gain->bytes[tier] > 0)
        line +=
            ", takes " + to_string(Bytes{gain->bytes[tier]}) + " of " + std::string(name_of(static_cast<Tier>(tier)));
    return line;
  }

  const JobShape& shape_;
  const PlanRequest& request_;
  Choices choices_;
  Scorer score_;
  Caps beyond_;
};

const char* cap_name(Tier tier) {
  return tier == Tier::device ? "max_gpu" : tier == Tier::host ? "max_cpu" : "max_disk";
}

// The least cap of one tier with which, the others as they are, a plan exists; none when that alone does not help.
std::optional<Bytes> least_cap(Tier tier, const JobShape& shape, PlanRequest request) {
  Bytes& cap = request.caps[static_cast<size_t>(tier)];
  const int64_t now = cap.count;
  int64_t high = std::max<int64_t>(now, MiB(1).count);
  for (cap.count = high; !can_fit(shape, request); cap.count = high) {
    if (high > (int64_t{1} << 50)) return std::nullopt;
    high *= 2;
  }
  int64_t low = now;
  // To one part in a hundred: every step is a search of its own.
  while (high - low > std::max<int64_t>(high / 100, 4096)) {
    cap.count = low + (high - low) / 2;
    (can_fit(shape, request) ? high : low) = cap.count;
  }
  return Bytes{high};
}

[[noreturn]] void refuse(const JobShape& shape, const PlanRequest& request) {
  // What the smallest arrangement takes says which caps are short.
  const Choices choices(shape, request, request.chunk_elements);
  const Planned smallest = lower(choices.plan_of(choices.smallest()), shape, request);
  std::string what = "the job does not fit:", fix;
  const auto separate = [](const std::string& text) { return text.empty() ? "" : ", or "; };
  for (size_t t = 0; t < kTierCount; ++t) {
    const auto tier = static_cast<Tier>(t);
    const std::optional<Bytes> enough = least_cap(tier, shape, request);
    const Bytes needed = enough.value_or(memory_in(tier, smallest.memory, shape));
    if (needed > request.caps[t])
      what += " tier " + std::string(name_of(tier)) + " needs at least " + to_string(needed) + " and " +
              request.cap_origins[t] + " is " + to_string(request.caps[t]) + ";";
    if (!enough || *enough <= request.caps[t]) continue;
    const std::string key = std::string("offload.") + cap_name(tier);
    // What the process takes beside its arenas differs from one start to the next.
    const std::string mib = std::to_string((enough->count >> 20) + (enough->count >> 26) + 3) + "MiB";
    fix +=
        separate(fix) + (request.cap_origins[t] == key ? "set " + key + " to " + mib + " or more"
                                                       : "free at least " + mib + " of " + std::string(name_of(tier)));
  }
  what.pop_back();
  if (request.settings_that_fit)
    for (const std::string& setting : request.settings_that_fit()) fix += separate(fix) + setting;
  if (fix.empty()) fix = "no single setting helps: raise several caps, or take a smaller model or adapter: lora";
  throw SetupError(what, fix);
}

}  // namespace

Bytes memory_in(Tier tier, const MemoryUse& memory, const JobShape& shape) {
  const Bytes arena = memory.peak[static_cast<size_t>(tier)];
  if (tier == Tier::host) return arena + shape.process_bytes + shape.transient_bytes;
  if (tier == Tier::device) return arena + shape.device_process_bytes + shape.device_transient_bytes;
  return arena + checkpoint_bytes(memory, shape);
}

Bytes checkpoint_bytes(const MemoryUse& memory, const JobShape& shape) {
  const CheckpointShape& checkpoints = shape.checkpoints;
  const Bytes all_new = memory.trained_on_disk * checkpoints.kept;
  const int64_t added = std::max(checkpoints.kept - checkpoints.there, 0);
  return std::max(all_new, checkpoints.held_bytes + memory.trained_on_disk * added);
}

Bytes memory_to_measure(const JobShape& shape) {
  return shape.measuring_bytes + shape.process_bytes + shape.transient_bytes;
}

Microseconds Planned::clipped_step() const {
  return clipping ? std::min(clipping->wait, clipping->speculate + clipping->redo) : steady.time;
}

const Schedule& Planned::schedule(const Phase& phase, const JobShape& shape, const PlanRequest& request) {
  const auto found = schedules.find(phase);
  if (found != schedules.end()) return found->second;
  Schedule built = build_schedule(shape, plan, phase, request.source_low_bits, layout);
  prove(phase, built, *this, shape, learn_homes(*this, shape));
  return schedules.emplace(phase, std::move(built)).first->second;
}

std::optional<Planned> find_plan(const JobShape& shape, const PlanRequest& request) {
  return Fitting(shape, request).find();
}

bool can_fit(const JobShape& shape, const PlanRequest& request) { return Fitting(shape, request).fits_somehow(); }

Planned make_plan(const JobShape& shape, const PlanRequest& request) {
  std::optional<Planned> planned = find_plan(shape, request);
  if (!planned) refuse(shape, request);
  return std::move(*planned);
}

bool needs_disk(const JobShape& shape, const PlanRequest& request) {
  return Fitting(shape, request).fastest_needs_disk();
}

}  // namespace sluice::plan
