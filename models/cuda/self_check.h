// Whether a GPU computes what the host computes, asked before anything depends on it.
#pragma once

namespace sluice::models::cuda {

// Norm, products, gate and attention, both ways, of a few tokens in bf16, on the stream that the calling thread was
// given (use_stream), against the host's ops. Takes some milliseconds beside what is loaded for training all the same.
// Throws SetupError that names the op when the GPU cannot run it, or gives something else.
void check_arithmetic(int device);

}  // namespace sluice::models::cuda
