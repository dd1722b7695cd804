#include "models/cuda/loss_kernels.h"
#include "models/cuda/packed.cuh"

namespace sluice::models::cuda {
namespace {

constexpr unsigned kThreads = 512;
constexpr float kLowest = -3.0e38f;

// Running maximum and sum of exp(x - maximum) (Milakov and Gimelshein 2018, "Online normalizer calculation for
// softmax").
struct Softmax {
  float most = kLowest;
  float total = 0;

  __device__ void add(const Softmax& other) {
    const float larger = fmaxf(most, other.most);
    total = total * __expf(most - larger) + other.total * __expf(other.most - larger);
    most = larger;
  }
};

__device__ Softmax block_softmax(Softmax own) {
  __shared__ Softmax parts[32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    own.add({__shfl_xor_sync(0xffffffffu, own.most, offset), __shfl_xor_sync(0xffffffffu, own.total, offset)});
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = own;
  __syncthreads();
  Softmax all;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) all.add(parts[warp]);
  return all;
}

// One block per row. The second pass finds the row in L2 where rows are few enough: logits come in tiles.
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) cross_entropy_rows(T* logits, const int32_t* labels, double* row_losses,
                                                               float scale, bool gradient, int64_t vocabulary) {
  T* row = logits + static_cast<int64_t>(blockIdx.x) * vocabulary;
  const int64_t step = int64_t{kThreads} * kWidth;
  Softmax own;
  for (int64_t i = int64_t{threadIdx.x} * kWidth; i < vocabulary; i += step) {
    float x[kWidth];
    load<T, kWidth>(row + i, x);
    float most = own.most;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) most = fmaxf(most, x[k]);
    own.total *= __expf(own.most - most);
    own.most = most;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) own.total += __expf(x[k] - most);
  }
  const Softmax all = block_softmax(own);
  const int32_t label = labels[blockIdx.x];
  const float at_label = to_float(row[label]);
  if (threadIdx.x == 0)
    row_losses[blockIdx.x] =
        log(static_cast<double>(all.total)) + static_cast<double>(all.most) - static_cast<double>(at_label);
  if (!gradient) return;
  __syncthreads();  // everybody has read the label's logit
  const float inverse = scale / all.total;
  for (int64_t i = int64_t{threadIdx.x} * kWidth; i < vocabulary; i += step) {
    float x[kWidth];
    load<T, kWidth>(row + i, x);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      x[k] = __expf(x[k] - all.most) * inverse;
      if (i + k == label) x[k] -= scale;
    }
    store<T, kWidth>(row + i, x);
  }
}

}  // namespace

template <class T>
void cross_entropy(void* logits, const int32_t* labels, double* row_losses, float scale, bool gradient, int64_t rows,
                   int64_t vocabulary) {
  if (rows == 0) return;
  const auto launch = [&](auto width) {
    cross_entropy_rows<T, width><<<grid(rows), kThreads, 0, stream()>>>(static_cast<T*>(logits), labels, row_losses,
                                                                        scale, gradient, vocabulary);
  };
  packs<T>(vocabulary, {logits}) ? launch(std::integral_constant<int, kWidest<T>>{})
                                 : launch(std::integral_constant<int, 1>{});
  check_launch("cross_entropy");
}
template void cross_entropy<float>(void*, const int32_t*, double*, float, bool, int64_t, int64_t);
template void cross_entropy<__nv_bfloat16>(void*, const int32_t*, double*, float, bool, int64_t, int64_t);
template void cross_entropy<__half>(void*, const int32_t*, double*, float, bool, int64_t, int64_t);

}  // namespace sluice::models::cuda
