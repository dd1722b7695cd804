// Which copy of the row kernels suits this processor.
#pragma once

namespace sluice::models {

enum class Isa { v1, v3, v4 };  // x86-64-v1: SSE2; v3: AVX2, FMA; v4: AVX-512 F, BW, CD, DQ, VL

Isa best_isa();

}  // namespace sluice::models
