// What a machine does per second, as measured: the rates that time is simulated with and bounds are computed from.
#pragma once

#include "runtime/core/units.h"

namespace sluice::plan {

struct MachineProfile {
  double compute_flops_per_second = 0;  // GEMM in the job's compute dtype
  BytesPerSecond h2d, d2h;
  BytesPerSecond disk_read, disk_write;
  BytesPerSecond disk_both;  // read + write together, each way half
  BytesPerSecond optimizer;  // DRAM bytes that the update reads and writes
};

}  // namespace sluice::plan
