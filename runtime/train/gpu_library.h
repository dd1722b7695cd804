// The GPU that a job runs on. What computes there is opened only then: LibTorch's CUDA half is gigabytes.
#pragma once

#include <memory>

#include "runtime/exec/gpu.h"
#include "runtime/train/config.h"

namespace sluice::train {

// Null: compute is the CPU's, or the emulated device's. Asked for `cuda` without a GPU that can be used: a SetupError
// that says why, and begins with `who` asked; for `automatic`: the CPU, silently where the machine shows no sign of a
// GPU.
std::unique_ptr<exec::Gpu> gpu_for(DeviceKind device, const std::string& who);

}  // namespace sluice::train
