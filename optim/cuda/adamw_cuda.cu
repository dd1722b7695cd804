#include <cuda_bf16.h>

#include <type_traits>

#include "optim/adamw_kernels.h"
#include "optim/cuda/adamw_cuda.h"
#include "runtime/core/cuda_error.h"
#include "runtime/core/pack.cuh"

namespace sluice::optim::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kWide = 4;  // elements of a thread: 16 bytes of m, of v and of an fp32 gradient

template <class T, int kWidth>
__device__ Pack<T, kWidth> load(const T* from, int64_t i) {
  return *reinterpret_cast<const Pack<T, kWidth>*>(from + i);
}
template <class T, int kWidth>
__device__ void store(T* to, int64_t i, const Pack<T, kWidth>& pack) {
  *reinterpret_cast<Pack<T, kWidth>*>(to + i) = pack;
}

__device__ float to_float(float value) { return value; }
__device__ float to_float(uint16_t bf16_bits) { return bf16_to_float(bf16_bits); }

// As AdamWStep (optim/adamw_lanes.h), every rounding by name: nothing here may be contracted.
__device__ float step(const AdamWConstants& c, float decay, float p, float gradient, float& m, float& v) {
  const float g = __fmul_rn(gradient, c.gradient_scale);
  m = __fmaf_rn(c.lerp_weight, __fsub_rn(g, m), c.lerp_onto_gradient ? g : m);
  v = __fmaf_rn(__fmul_rn(c.one_minus_beta2, g), g, __fmul_rn(v, c.beta2));
  const float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), c.sqrt_correction2), c.epsilon);
  return __fadd_rn(__fmul_rn(p, decay), __fdiv_rn(__fmul_rn(c.negative_step_size, m), denominator));
}

// W: uint16_t, with the low halves in `lo`, or float. Each element is read and written by one thread, once.
template <class W, class G, int kWidth>
__global__ void update(AdamWConstants constants, DeviceChunk chunk) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kWidth;
  if (i >= chunk.elements) return;
  auto* const weights = static_cast<W*>(chunk.weights);
  auto w = load<W, kWidth>(weights, i);
  const auto g = load<G, kWidth>(static_cast<const G*>(chunk.gradients), i);
  auto m = load<float, kWidth>(chunk.m, i), v = load<float, kWidth>(chunk.v, i);
  constexpr bool kSplit = std::is_same_v<W, uint16_t>;
  Pack<int16_t, kWidth> lo{};
  if constexpr (kSplit) lo = load<int16_t, kWidth>(chunk.lo, i);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const float decay = i + k < chunk.decayed ? constants.decay : 1.0f;
    if constexpr (kSplit) {
      const SplitMaster split =
          split_master(step(constants, decay, join_master(w.at[k], lo.at[k]), to_float(g.at[k]), m.at[k], v.at[k]));
      w.at[k] = split.hi;
      lo.at[k] = split.lo;
    } else {
      w.at[k] = step(constants, decay, w.at[k], to_float(g.at[k]), m.at[k], v.at[k]);
    }
  }
  store(weights, i, w);
  store(chunk.m, i, m);
  store(chunk.v, i, v);
  if constexpr (kSplit) store(chunk.lo, i, lo);
}

template <class W, class G>
void launch_update(const AdamWConstants& constants, const DeviceChunk& chunk, cudaStream_t stream) {
  const auto go = [&](auto width) {
    const int64_t blocks = blocks_for(blocks_for(chunk.elements, width), kThreads);
    update<W, G, width><<<grid(blocks), kThreads, 0, stream>>>(constants, chunk);
  };
  // The parts of a chunk follow each other: all begin at a multiple of the pack when its length is one.
  chunk.elements % kWide == 0 ? go(std::integral_constant<int, kWide>{}) : go(std::integral_constant<int, 1>{});
}

// Sixteen neighbouring threads per run: thread j adds up elements j, j + 16, ..., then all sixteen sums are added in
// order. The square of an fp32 value is exact in double, so a fused multiply-add rounds as the host's addition does.
constexpr int kSums = 16;

template <class G>
__global__ void add_squares(const G* gradients, int64_t elements, double* runs) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t run = thread / kSums, first = run * kNormRunElements;
  const int64_t end = first + kNormRunElements < elements ? first + kNormRunElements : elements;
  double sum = 0;
#pragma unroll 8
  for (int64_t i = first + thread % kSums; i < end; i += kSums) {
    const double value = to_float(gradients[i]);
    sum = __fma_rn(value, value, sum);
  }
  double total = 0;
  for (int j = 0; j < kSums; ++j) total += __shfl_sync(0xffffffffu, sum, j, kSums);
  if (thread % kSums == 0 && first < elements) runs[run] = total;
}

}  // namespace

void adamw(const AdamWSettings& settings, const DeviceChunk& chunk, CUstream_st* stream) {
  if (chunk.elements == 0) return;
  const AdamWConstants constants = constants_of(settings);
  const auto with = [&]<class W>(W) {
    chunk.gradient_dtype == Dtype::f32 ? launch_update<W, float>(constants, chunk, stream)
                                       : launch_update<W, uint16_t>(constants, chunk, stream);
  };
  chunk.lo != nullptr ? with(uint16_t{}) : with(float{});
  check_cuda(cudaGetLastError(), "starting an AdamW kernel");
}

void squared_norm(const void* gradients, Dtype dtype, int64_t elements, double* runs, CUstream_st* stream) {
  if (elements == 0) return;
  const int64_t threads = blocks_for(elements, kNormRunElements) * kSums;
  const dim3 blocks = grid(blocks_for(threads, kThreads));
  if (dtype == Dtype::f32) {
    add_squares<<<blocks, kThreads, 0, stream>>>(static_cast<const float*>(gradients), elements, runs);
  } else {
    add_squares<<<blocks, kThreads, 0, stream>>>(static_cast<const uint16_t*>(gradients), elements, runs);
  }
  check_cuda(cudaGetLastError(), "starting the kernel of a norm");
}

}  // namespace sluice::optim::cuda
