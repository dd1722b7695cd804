// Peers' policies as plans, lowered and simulated by the code that ours is. What a policy may choose for itself (how
// much it swaps, where gradients wait) is the fastest that fits.
#pragma once

#include <optional>

#include "bench/literature/dense_shape.h"
#include "runtime/plan/layout.h"
#include "runtime/plan/plan.h"
#include "runtime/plan/planner.h"
#include "runtime/plan/simulate.h"

namespace sluice::literature {

// Of one steady step.
struct Outcome {
  DenseJob job;
  Microseconds time;
  plan::Bound bound;
  Bytes read, written;  // disk
  Bytes device, host;   // peaks
  Bytes swapped;        // activations that leave the device, boundaries among them

  double tokens_per_second() const { return static_cast<double>(job.step_tokens()) / (time.count * 1e-6); }
  // As the literature counts: two forwards and a backward, whatever was recomputed.
  double counted_flops_per_second() const {
    return 8 * static_cast<double>(job.model.parameters()) * tokens_per_second();
  }
};

// What of each tier a job may take: the product's rule for a machine without caps.
std::array<Bytes, kTierCount> caps_of(const plan::Machine& machine);

// Fuyou (Liao et al. 2024, arXiv:2403.06504): fp32 p, m, v and a bf16 copy on the drives; every update follows its
// backward; one pass per batch. Boundaries are swapped, and of a layer's other activations those that save the most
// FLOPs per byte, as many as make the step shortest; to the host while there is room, then to the drives.
// `states_in_flight`: how many pieces of state are read, updated and written at once; 1 is in turn.
struct Fuyou {
  int states_in_flight = 1;
};
// Of a batch of `rows`; nothing where it does not fit.
std::optional<Outcome> fuyou_step(const Fuyou& policy, const DenseModel& model, int64_t rows,
                                  const plan::Machine& machine);

// ZeRO-Infinity (Rajbhandari et al. 2021, arXiv:2104.07857): all updates after backward, boundaries to the host, layers
// recomputed whole. Its states go through memory as Fuyou's do.
std::optional<Outcome> zero_infinity_step(const DenseModel& model, int64_t rows, const plan::Machine& machine);

// Our own planner, everything automatic.
std::optional<Outcome> sluice_step(const DenseModel& model, int64_t rows, int micro_batches,
                                   const plan::Machine& machine, StateFormat states = StateFormat::split_master);

// A plan's step: one phase, or one after the other.
struct Step {
  plan::Layout layout;
  std::vector<plan::Schedule> schedules;
};

// The plans themselves and what they are lowered to. `swapped`: how many of the slots in the order of the rule above;
// `host_room`: for what is swapped.
plan::Plan fuyou_plan(const plan::JobShape& shape, int states_in_flight, int swapped, Bytes host_room);
Step fuyou_schedules(const plan::JobShape& shape, const plan::Plan& plan);
plan::Plan zero_infinity_plan(const plan::JobShape& shape, Tier gradients, int states_in_flight);
Step zero_infinity_schedules(const plan::JobShape& shape, const plan::Plan& plan);

// What our planner is asked.
plan::PlanRequest automatic_request(const plan::JobShape& shape, const plan::Machine& machine);

}  // namespace sluice::literature
