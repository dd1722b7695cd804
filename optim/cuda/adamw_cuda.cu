#include <cuda_fp16.h>

#include <span>
#include <type_traits>

#include "optim/adamw_kernels.h"
#include "optim/cuda/adamw_cuda.h"
#include "runtime/core/cuda_error.h"
#include "runtime/core/cuda_memory.h"
#include "runtime/core/dynamic_map.h"
#include "runtime/core/pack.cuh"

namespace sluice::optim::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kWide = 4;  // elements of a thread: 16 bytes of m, of v and of an fp32 gradient
constexpr int kWarp = 32;
constexpr int kBlockWide = kStateBlock / kWarp;  // of a block of int8 moments, which one warp updates

__device__ float values_of_codes[2][256];
__device__ uint8_t codes_of_steps[2][kDynamicSteps];

template <class T, int kWidth>
__device__ Pack<T, kWidth> load(const T* from, int64_t i) {
  return *reinterpret_cast<const Pack<T, kWidth>*>(from + i);
}
template <class T, int kWidth>
__device__ void store(T* to, int64_t i, const Pack<T, kWidth>& pack) {
  *reinterpret_cast<Pack<T, kWidth>*>(to + i) = pack;
}

// The bits of an fp16 number: a type of its own beside bf16's.
struct F16 {
  uint16_t bits;
};
__device__ float to_float(float value) { return value; }
__device__ float to_float(uint16_t bf16_bits) { return bf16_to_float(bf16_bits); }
__device__ float to_float(F16 value) { return __half2float(__ushort_as_half(value.bits)); }

// As AdamWStep and LionStep (optim/adamw_lanes.h), every rounding by name: nothing here may be contracted.
__device__ float scaled(const AdamWConstants& c, float gradient) { return __fmul_rn(gradient, c.gradient_scale); }
__device__ float next_m(const AdamWConstants& c, float m, float g) {
  return __fmaf_rn(c.lerp_weight, __fsub_rn(g, m), c.lerp_onto_gradient ? g : m);
}
__device__ float next_m_of_int8(const AdamWConstants& c, float m, float g) {
  return __fmaf_rn(c.one_minus_beta1, g, __fmul_rn(m, c.beta1));
}
__device__ float next_v(const AdamWConstants& c, float v, float g) {
  return __fmaf_rn(__fmul_rn(c.one_minus_beta2, g), g, __fmul_rn(v, c.beta2));
}
__device__ float next_p(const AdamWConstants& c, float p, float m, float v) {
  const float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), c.sqrt_correction2), c.epsilon);
  return __fadd_rn(__fmul_rn(p, c.decay), __fdiv_rn(__fmul_rn(c.negative_step_size, m), denominator));
}

struct AdamW {
  static constexpr bool kHasV = true;
  __device__ static void next(const AdamWConstants& c, float& p, float& m, float& v, float g) {
    m = next_m(c, m, g);
    v = next_v(c, v, g);
    p = next_p(c, p, m, v);
  }
  __device__ static void next_of_int8(const AdamWConstants& c, float& p, float& m, float& v, float g) {
    m = next_m_of_int8(c, m, g);
    v = next_v(c, v, g);
    p = next_p(c, p, m, v);
  }
};
struct Lion {
  static constexpr bool kHasV = false;
  __device__ static void next(const AdamWConstants& c, float& p, float& m, float&, float g) {
    move(c, p, m, g, __fmaf_rn(c.one_minus_beta1, g, __fmul_rn(m, c.beta1)));
  }
  __device__ static void next_of_int8(const AdamWConstants& c, float& p, float& m, float&, float g) {
    move(c, p, m, g, __fadd_rn(__fmul_rn(m, c.beta1), __fmul_rn(g, c.one_minus_beta1)));
  }

 private:
  __device__ static void move(const AdamWConstants& c, float& p, float& m, float g, float direction) {
    const float sign = direction > 0 ? 1.0f : direction < 0 ? -1.0f : 0.0f;
    p = __fmaf_rn(c.negative_learning_rate, sign, __fmul_rn(p, c.decay));
    m = __fmaf_rn(c.one_minus_beta2, g, __fmul_rn(m, c.beta2));
  }
};

// fp32 masters of `kWidth` neighbours, as weights and what lies beside them have them. W: float, uint16_t (bf16), F16.
template <class W, int kWidth>
class Masters {
 public:
  __device__ Masters(const AdamWArrays& arrays, int64_t i)
      : weights_(static_cast<W*>(arrays.weights)), beside_(static_cast<Beside*>(arrays.master)), i_(i) {
    if constexpr (!kRounded) w_ = load<W, kWidth>(weights_, i);
    if constexpr (kHasBeside) b_ = load<Beside, kWidth>(beside_, i);
  }
  __device__ float get(int k) const {
    if constexpr (kSplit)
      return join_master(w_.at[k], b_.at[k]);
    else if constexpr (kRounded)
      return b_.at[k];
    else
      return w_.at[k];
  }
  __device__ void set(int k, float master) {
    if constexpr (kSplit) {
      const SplitMaster split = split_master(master);
      w_.at[k] = split.hi;
      b_.at[k] = split.lo;
    } else if constexpr (kRounded) {
      w_.at[k].bits = __half_as_ushort(__float2half_rn(master));
      b_.at[k] = master;
    } else {
      w_.at[k] = master;
    }
  }
  __device__ void save() const {
    store(weights_, i_, w_);
    if constexpr (kHasBeside) store(beside_, i_, b_);
  }

 private:
  static constexpr bool kSplit = std::is_same_v<W, uint16_t>, kRounded = std::is_same_v<W, F16>;
  static constexpr bool kHasBeside = kSplit || kRounded;
  using Beside = std::conditional_t<kSplit, int16_t, float>;

  W* weights_;
  Beside* beside_;
  int64_t i_;
  Pack<W, kWidth> w_{};
  Pack<Beside, kHasBeside ? kWidth : 1> b_{};
};

// M: float, or uint16_t (bf16). Each element is read and written by one thread, once.
template <class Rule, class W, class G, class M, int kWidth>
__global__ void update_floats(AdamWConstants constants, AdamWArrays arrays) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kWidth;
  if (i >= arrays.count) return;
  Masters<W, kWidth> masters(arrays, i);
  const auto gradients = load<G, kWidth>(static_cast<const G*>(arrays.gradients), i);
  auto* const m_at = static_cast<M*>(arrays.m);
  auto* const v_at = static_cast<M*>(arrays.v);
  auto old_m = load<M, kWidth>(m_at, i);
  Pack<M, kWidth> old_v{};
  if constexpr (Rule::kHasV) old_v = load<M, kWidth>(v_at, i);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const float g = scaled(constants, to_float(gradients.at[k]));
    float p = masters.get(k), m = to_float(old_m.at[k]), v = to_float(old_v.at[k]);
    Rule::next(constants, p, m, v, g);
    masters.set(k, p);
    if constexpr (std::is_same_v<M, float>) {
      old_m.at[k] = m;
      old_v.at[k] = v;
    } else {
      const uint32_t draw = rounding_draw(constants.rounding, static_cast<uint32_t>(arrays.first + i + k));
      old_m.at[k] = round_by_draw(__float_as_uint(m), draw & 0xffffu);
      old_v.at[k] = round_by_draw(__float_as_uint(v), draw >> 16);
    }
  }
  masters.save();
  store(m_at, i, old_m);
  if constexpr (Rule::kHasV) store(v_at, i, old_v);
}

__device__ float largest_of_warp(float magnitude) {
  for (int apart = kWarp / 2; apart > 0; apart /= 2)
    magnitude = fmaxf(magnitude, __shfl_xor_sync(0xffffffffu, magnitude, apart));
  return magnitude;
}

// dynamic_step, with its roundings by name.
__device__ uint8_t code_of(DynamicMap map, float normed) {
  const float clamped = fminf(fmaxf(normed, -1.0f), 1.0f);
  const float step = __fadd_rn(__fmul_rn(__fadd_rn(clamped, 1.0f), 0.5f * (kDynamicSteps - 1)), 0.5f);
  return codes_of_steps[static_cast<int>(map)][static_cast<int>(step)];
}

// A warp per block of kStateBlock elements; lanes hold neighbours, `kWidth` each, so that a last block that is cut
// short is whole packs of one.
template <class Rule, class W, class G, int kWidth>
__global__ void update_int8(AdamWConstants constants, AdamWArrays arrays) {
  const int64_t block = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  const int64_t begin = block * kStateBlock;
  if (begin >= arrays.count) return;  // whole warps
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  auto* const m_codes = static_cast<uint8_t*>(arrays.m);
  auto* const v_codes = static_cast<uint8_t*>(arrays.v);
  const float m_scale = arrays.m_scales[block], v_scale = Rule::kHasV ? arrays.v_scales[block] : 0;
  constexpr int kPacks = kBlockWide / kWidth;
  float m[kBlockWide], v[kBlockWide], m_most = 0, v_most = 0;
#pragma unroll
  for (int pack = 0; pack < kPacks; ++pack) {
    const int64_t i = begin + (pack * kWarp + lane) * kWidth;
    if (i >= arrays.count) continue;
    Masters<W, kWidth> masters(arrays, i);
    const auto gradients = load<G, kWidth>(static_cast<const G*>(arrays.gradients), i);
    const auto old_m = load<uint8_t, kWidth>(m_codes, i);
    Pack<uint8_t, kWidth> old_v{};
    if constexpr (Rule::kHasV) old_v = load<uint8_t, kWidth>(v_codes, i);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float g = scaled(constants, to_float(gradients.at[k]));
      float p = masters.get(k), new_m = __fmul_rn(values_of_codes[0][old_m.at[k]], m_scale);
      float new_v = __fmul_rn(values_of_codes[1][old_v.at[k]], v_scale);
      Rule::next_of_int8(constants, p, new_m, new_v, g);
      masters.set(k, p);
      m_most = fmaxf(m_most, fabsf(new_m));
      v_most = fmaxf(v_most, fabsf(new_v));
      m[pack * kWidth + k] = new_m;
      v[pack * kWidth + k] = new_v;
    }
    masters.save();
  }
  m_most = largest_of_warp(m_most);
  v_most = largest_of_warp(v_most);
  const float m_factor = m_most == 0 ? 0 : __fdiv_rn(1.0f, m_most),
              v_factor = v_most == 0 ? 0 : __fdiv_rn(1.0f, v_most);
#pragma unroll
  for (int pack = 0; pack < kPacks; ++pack) {
    const int64_t i = begin + (pack * kWarp + lane) * kWidth;
    if (i >= arrays.count) continue;
    Pack<uint8_t, kWidth> new_m, new_v;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const int at = pack * kWidth + k;
      new_m.at[k] = m_most == 0 ? 0 : code_of(DynamicMap::with_sign, __fmul_rn(m[at], m_factor));
      new_v.at[k] = v_most == 0 ? 0 : code_of(DynamicMap::unsigned_only, __fmul_rn(v[at], v_factor));
    }
    store(m_codes, i, new_m);
    if constexpr (Rule::kHasV) store(v_codes, i, new_v);
  }
  if (lane != 0) return;
  arrays.m_scales[block] = m_most;
  if constexpr (Rule::kHasV) arrays.v_scales[block] = v_most;
}

template <class Rule, class W, class G>
void launch(const AdamWConstants& constants, const AdamWArrays& arrays, cudaStream_t stream) {
  // The parts of a chunk follow each other: all begin at a multiple of the pack when its length is one.
  const auto go = [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    const auto blocks = grid(blocks_for(blocks_for(arrays.count, kWidth), kThreads));
    switch (arrays.moments) {
      case MomentFormat::f32:
        return update_floats<Rule, W, G, float, kWidth><<<blocks, kThreads, 0, stream>>>(constants, arrays);
      case MomentFormat::bf16:
        return update_floats<Rule, W, G, uint16_t, kWidth><<<blocks, kThreads, 0, stream>>>(constants, arrays);
      case MomentFormat::int8: {
        const int64_t threads = blocks_for(arrays.count, kStateBlock) * kWarp;
        return update_int8<Rule, W, G, kWidth>
            <<<grid(blocks_for(threads, kThreads)), kThreads, 0, stream>>>(constants, arrays);
      }
    }
  };
  arrays.count % kWide == 0 ? go(std::integral_constant<int, kWide>{}) : go(std::integral_constant<int, 1>{});
}

template <class Rule, class W>
void launch_for_gradients(const AdamWConstants& constants, const AdamWArrays& arrays, cudaStream_t stream) {
  switch (arrays.gradient_dtype) {
    case Dtype::f32:
      return launch<Rule, W, float>(constants, arrays, stream);
    case Dtype::bf16:
      return launch<Rule, W, uint16_t>(constants, arrays, stream);
    default:
      return launch<Rule, W, F16>(constants, arrays, stream);
  }
}

template <class Rule>
void launch_for_weights(const AdamWConstants& constants, const AdamWArrays& arrays, cudaStream_t stream) {
  switch (arrays.weight_dtype) {
    case Dtype::f32:
      return launch_for_gradients<Rule, float>(constants, arrays, stream);
    case Dtype::bf16:
      return launch_for_gradients<Rule, uint16_t>(constants, arrays, stream);
    default:
      return launch_for_gradients<Rule, F16>(constants, arrays, stream);
  }
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

void load_dynamic_tables() {
  const auto upload = [](const auto& symbol, DynamicMap map, const auto& numbers) {
    void* table = nullptr;
    check_cuda(cudaGetSymbolAddress(&table, symbol), "finding the tables of 8-bit moments");
    const auto bytes = std::as_bytes(std::span(numbers));
    copy_to_device(static_cast<std::byte*>(table) + static_cast<size_t>(map) * bytes.size(), bytes,
                   "the tables of 8-bit moments");
  };
  for (const DynamicMap map : {DynamicMap::with_sign, DynamicMap::unsigned_only}) {
    upload(values_of_codes, map, dynamic_values(map));
    upload(codes_of_steps, map, dynamic_codes(map));
  }
}

void update(const AdamWSettings& settings, const AdamWArrays& arrays, CUstream_st* stream) {
  if (arrays.count == 0) return;
  const AdamWConstants constants = constants_of(settings, arrays.group);
  arrays.rule == UpdateRule::adamw ? launch_for_weights<AdamW>(constants, arrays, stream)
                                   : launch_for_weights<Lion>(constants, arrays, stream);
  check_cuda(cudaGetLastError(), "starting the kernel of an update");
}

void squared_norm(const void* gradients, Dtype dtype, int64_t elements, double* runs, CUstream_st* stream) {
  if (elements == 0) return;
  const int64_t threads = blocks_for(elements, kNormRunElements) * kSums;
  const dim3 blocks = grid(blocks_for(threads, kThreads));
  const auto start = [&](const auto* of) { add_squares<<<blocks, kThreads, 0, stream>>>(of, elements, runs); };
  switch (dtype) {
    case Dtype::f32:
      start(static_cast<const float*>(gradients));
      break;
    case Dtype::bf16:
      start(static_cast<const uint16_t*>(gradients));
      break;
    default:
      start(static_cast<const F16*>(gradients));
  }
  check_cuda(cudaGetLastError(), "starting the kernel of a norm");
}

}  // namespace sluice::optim::cuda
