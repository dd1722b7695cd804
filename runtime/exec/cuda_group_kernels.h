// GroupKernels on a GPU.
#pragma once

#include <memory>

#include "runtime/exec/group_kernels.h"

struct CUstream_st;

namespace sluice::exec {

// Enqueues on `stream`, which must outlive it.
std::unique_ptr<GroupKernels> make_cuda_group_kernels(CUstream_st* stream);

}  // namespace sluice::exec
