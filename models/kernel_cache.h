// How much memory compiled kernels may take. oneDNN compiles each shape of a product of halves and keeps the newest
// 1,024: with micro-batches of ever new token counts a process grows by hundreds of MiB that no plan knows of.
#pragma once

#include "models/program.h"

namespace sluice::models {

// Shapes of products that one token count brings. Of fp32 products nothing is kept.
int64_t kernels_per_token_count(const Model& model);

// What that many kept kernels take: 0.57 MiB each, measured with SmolLM2-135M on AVX-512 (650 kernels, 370 MiB).
Bytes kernel_bytes(int64_t kernels);

// Keeps no more than that many, the newest. Compiling one again takes 0.1 to 0.3 ms. Before the process's first
// product; LibTorch reads it once. Obeys variables that the user has set.
void limit_kernels(int64_t kernels);

}  // namespace sluice::models
