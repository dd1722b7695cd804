#include "bench/literature/calibration.h"

#include <cmath>

#include "runtime/core/check.h"
#include "runtime/core/result.h"

namespace sluice::literature {
namespace {

constexpr double kWithin = 10;

// The factor on a rate that makes `figure` come out, which grows with it.
template <class Figure>
double factor_for(double wanted, const Figure& figure) {
  constexpr int kHalvings = 30;
  double low = 1 / kWithin, high = kWithin;
  if (figure(low) > wanted || figure(high) < wanted)
    throw SetupError("no rate within a factor of ten of the machine file's gives a published figure",
                     "check the machine file and the policy");
  for (int i = 0; i < kHalvings; ++i) {
    const double middle = std::sqrt(low * high);
    (figure(middle) < wanted ? low : high) = middle;
  }
  return std::sqrt(low * high);
}

}  // namespace

plan::Machine calibrated(plan::Machine machine, const Calibration& calibration) {
  SLUICE_CHECK(!machine.optimizer.empty(), "a machine without optimizer rates");
  plan::OptimizerRate rate = machine.optimizer.back();
  rate.alone = rate.beside_compute = calibration.optimizer;
  machine.optimizer = {rate};
  machine.gemm.at(Dtype::bf16).flops_per_second = calibration.products_per_second;
  return machine;
}

Calibration calibrate(const Fuyou& policy, const plan::Machine& machine) {
  Calibration now{profile_of(machine).optimizer, machine.gemm.at(Dtype::bf16).flops_per_second};
  // Each figure hardly depends on the other's rate: a few rounds settle both.
  constexpr int kRounds = 3;
  for (int round = 0; round < kRounds; ++round) {
    now.optimizer.count *= factor_for(kForOptimizer.tera_flops, [&](double factor) {
      const Calibration trial{{now.optimizer.count * factor}, now.products_per_second};
      return simulated(policy, kForOptimizer, calibrated(machine, trial));
    });
    now.products_per_second *= factor_for(kForProducts.tera_flops, [&](double factor) {
      const Calibration trial{now.optimizer, now.products_per_second * factor};
      return simulated(policy, kForProducts, calibrated(machine, trial));
    });
  }
  return now;
}

double simulated(const Fuyou& policy, const Published& figure, const plan::Machine& machine) {
  const std::optional<Outcome> step =
      fuyou_step(policy, dense_model("13B"), figure.rows, with_drives(machine, figure.drives));
  SLUICE_CHECK(step.has_value(), "a published batch does not fit");
  return step->counted_flops_per_second() / 1e12;
}

}  // namespace sluice::literature
