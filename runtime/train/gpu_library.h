// The GPU that a job runs on. What computes there is opened only then: LibTorch's CUDA half is gigabytes.
#pragma once

#include <memory>

#include "runtime/exec/gpu.h"
#include "runtime/train/config.h"

namespace sluice::train {

// Null: the job runs on the CPU, or on the emulated device. `device: cuda` without a GPU that can be used is a
// SetupError that says why; `device: auto` takes the CPU then, silently where the machine shows no sign of a GPU.
std::unique_ptr<exec::Gpu> gpu_for(const Config& config);

}  // namespace sluice::train
