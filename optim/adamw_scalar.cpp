// The reference that the other instruction sets must equal; runs on any x86-64.
#include "optim/adamw_updates.h"

namespace sluice::optim {

extern const AdamWKernels adamw_scalar;
const AdamWKernels adamw_scalar = kernels_over<One>();

}  // namespace sluice::optim
