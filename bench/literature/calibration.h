// Fuyou's published figures, and the machine file fitted to as few of them as can be.
#pragma once

#include <array>

#include "bench/literature/policies.h"

namespace sluice::literature {

// 13B, sequence 1024, one RTX 4090: arXiv:2403.06504, by batch and by number of drives.
struct Published {
  int64_t rows = 0;
  int drives = 0;
  double tera_flops = 0;
};
inline constexpr std::array kPublished = {Published{8, 12, 42.8}, Published{32, 12, 143.1}, Published{128, 12, 153.8},
                                          Published{32, 1, 37.5}, Published{32, 3, 81.1},   Published{32, 12, 142.0}};
// What is calibrated on: the smallest batch, bound by the drives and AdamW, and the largest, bound by the products.
inline constexpr Published kForOptimizer = kPublished[0];
inline constexpr Published kForProducts = kPublished[2];

struct Calibration {
  BytesPerSecond optimizer;        // DRAM bytes of AdamW
  double products_per_second = 0;  // FLOPs of large products
};

plan::Machine calibrated(plan::Machine machine, const Calibration& calibration);
// Of the policy as it is; throws SetupError when no rates within a factor of ten of the machine's give the figures.
Calibration calibrate(const Fuyou& policy, const plan::Machine& machine);

// In teraFLOPS as the paper counts them.
double simulated(const Fuyou& policy, const Published& figure, const plan::Machine& machine);

}  // namespace sluice::literature
