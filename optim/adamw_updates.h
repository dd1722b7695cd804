// The updates, written once over lanes (adamw_lanes.h) and over what weights, gradients and moments are.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "optim/adamw_lanes.h"

namespace sluice::optim {
namespace {

// How fp32 masters are read and written.
struct F32Weights {
  float* p;
  explicit F32Weights(const AdamWArrays& a) : p(static_cast<float*>(a.weights)) {}
  template <class L>
  typename L::F load(L, int64_t i) const {
    return L::load(p + i);
  }
  template <class L>
  void store(L, int64_t i, typename L::F x) const {
    L::store(p + i, x);
  }
  template <class Visit>
  void streams(const Visit& visit) const {
    visit(p);
  }
};
struct Bf16Weights {
  uint16_t* hi;
  int16_t* lo;
  explicit Bf16Weights(const AdamWArrays& a)
      : hi(static_cast<uint16_t*>(a.weights)), lo(static_cast<int16_t*>(a.master)) {}
  template <class L>
  typename L::F load(L, int64_t i) const {
    return L::load_split(hi + i, lo + i);
  }
  template <class L>
  void store(L, int64_t i, typename L::F x) const {
    L::store_split(hi + i, lo + i, x);
  }
  template <class Visit>
  void streams(const Visit& visit) const {
    visit(hi, lo);
  }
};
struct F16Weights {
  F16* rounded;
  float* master;
  explicit F16Weights(const AdamWArrays& a)
      : rounded(static_cast<F16*>(a.weights)), master(static_cast<float*>(a.master)) {}
  template <class L>
  typename L::F load(L, int64_t i) const {
    return L::load(master + i);
  }
  template <class L>
  void store(L, int64_t i, typename L::F x) const {
    L::store(master + i, x);
    L::store(rounded + i, x);
  }
  template <class Visit>
  void streams(const Visit& visit) const {
    visit(rounded, master);
  }
};

// How moments in floating point are.
struct F32Moments {
  float *m, *v;
  F32Moments(const AdamWConstants&, const AdamWArrays& a) : m(static_cast<float*>(a.m)), v(static_cast<float*>(a.v)) {}
  template <class L>
  void store(L, int64_t i, typename L::F new_m, typename L::F new_v) const {
    L::store(m + i, new_m);
    L::store(v + i, new_v);
  }
};
struct Bf16Moments {
  uint16_t *m, *v;
  RoundingKey key;
  uint32_t first;
  Bf16Moments(const AdamWConstants& c, const AdamWArrays& a)
      : m(static_cast<uint16_t*>(a.m)),
        v(static_cast<uint16_t*>(a.v)),
        key(c.rounding),
        first(static_cast<uint32_t>(a.first)) {}
  template <class L>
  void store(L, int64_t i, typename L::F new_m, typename L::F new_v) const {
    const typename L::Draws draws = L::draw(key, first + static_cast<uint32_t>(i));
    L::store_by_draw(m + i, new_m, L::low_half(draws));
    L::store_by_draw(v + i, new_v, L::high_half(draws));
  }
};

template <class Lanes, class Weights, class G, class Moments>
void update(const AdamWConstants& constants, const AdamWArrays& arrays) {
  const Weights weights(arrays);
  const Moments moments(constants, arrays);
  const auto* const g = static_cast<const G*>(arrays.gradients);
  const auto with = [&]<class L>(L lanes, const AdamWStep<L>& step, int64_t i) {
    const auto gradient = step.scaled(L::load(g + i));
    const auto m = step.next_m(L::load(moments.m + i), gradient);
    const auto v = step.next_v(L::load(moments.v + i), gradient);
    moments.store(lanes, i, m, v);
    weights.store(lanes, i, step.next_p(weights.load(lanes, i), m, v));
  };
  const AdamWStep<Lanes> wide(constants);
  const AdamWStep<One> narrow(constants);
  weights.streams([&]<class... P>(P*... p) {
    for_each_element<Lanes>(
        arrays.count, [&](int64_t i) { with(Lanes{}, wide, i); }, [&](int64_t i) { with(One{}, narrow, i); }, p..., g,
        moments.m, moments.v);
  });
}

// Moments of one block while they are fp32.
struct alignas(64) BlockMoments {
  float m[kStateBlock], v[kStateBlock];
};

// A block's scale, and its numbers as codes. A block of zeros has code 0, as bitsandbytes' has.
template <class L>
void store_block(const float* from, int64_t count, float most, DynamicMap map, uint8_t* codes, float* scale) {
  *scale = most;
  const float factor = 1.0f / most;  // overflows where the largest is subnormal
  if (most == 0) {
    for (int64_t i = 0; i < count; ++i) codes[i] = 0;
  } else if (std::isfinite(factor)) {
    L::store_codes(from, count, factor, map, codes);
  } else {
    for (int64_t i = 0; i < count; ++i) One::store_codes(from + L::place(i), 1, factor, map, codes + i);
  }
}

// Elements [begin, begin + count) of one block: expanded into the first-level cache, updated there, which finds the
// largest moments too, and stored. Only One takes a block that is not whole.
template <class L, class Weights, class G>
void update_block(const AdamWStep<L>& step, const Weights& weights, const G* g, const AdamWArrays& arrays,
                  int64_t begin, int64_t count) {
  auto* const m_codes = static_cast<uint8_t*>(arrays.m) + begin;
  auto* const v_codes = static_cast<uint8_t*>(arrays.v) + begin;
  float *const m_scale = arrays.m_scales + begin / kStateBlock, *const v_scale = arrays.v_scales + begin / kStateBlock;
  BlockMoments block;
  L::expand(m_codes, count, DynamicMap::with_sign, block.m);
  L::expand(v_codes, count, DynamicMap::unsigned_only, block.v);
  const auto m_before = L::broadcast(*m_scale), v_before = L::broadcast(*v_scale);
  auto m_most = L::broadcast(0), v_most = L::broadcast(0);
  const auto with = [&](int64_t i) {
    const auto gradient = step.scaled(L::load(g + begin + i));
    const auto m = step.next_m_of_int8(L::load_placed(block.m + i) * m_before, gradient);
    const auto v = step.next_v(L::load_placed(block.v + i) * v_before, gradient);
    L::store_placed(block.m + i, m);
    L::store_placed(block.v + i, v);
    m_most = L::larger_magnitude(m_most, m);
    v_most = L::larger_magnitude(v_most, v);
    weights.store(L{}, begin + i, step.next_p(weights.load(L{}, begin + i), m, v));
  };
  weights.streams([&]<class... P>(P*... p) {
    for (int64_t line = 0; line < count; line += kBlockElements) {
      const int64_t ahead = begin + line + kAheadElements;
      (prefetch_block(p + ahead), ...);
      prefetch_block(g + ahead);
      prefetch_block(m_codes + line + kAheadElements);
      prefetch_block(v_codes + line + kAheadElements);
      for (int64_t i = line; i < std::min(line + kBlockElements, count); i += L::kLanes) with(i);
    }
  });
  store_block<L>(block.m, count, L::largest(m_most), DynamicMap::with_sign, m_codes, m_scale);
  store_block<L>(block.v, count, L::largest(v_most), DynamicMap::unsigned_only, v_codes, v_scale);
}

template <class Lanes, class Weights, class G>
void update_int8(const AdamWConstants& constants, const AdamWArrays& arrays) {
  const Weights weights(arrays);
  const auto* const g = static_cast<const G*>(arrays.gradients);
  const AdamWStep<Lanes> wide(constants);
  const int64_t whole = arrays.count / kStateBlock * kStateBlock;
  for (int64_t begin = 0; begin < whole; begin += kStateBlock)
    update_block(wide, weights, g, arrays, begin, kStateBlock);
  if (whole < arrays.count) update_block(AdamWStep<One>(constants), weights, g, arrays, whole, arrays.count - whole);
}

// `Halves`: the lanes for elements that are 16 bits or fewer each in nearly all arrays.
template <class Lanes, class Halves, class Weights, class G>
constexpr void fill_moments(AdamWKernels::Update (&update_of)[kElementKinds]) {
  using Narrow = std::conditional_t<std::is_same_v<Weights, Bf16Weights>, Halves, Lanes>;
  update_of[static_cast<int>(MomentFormat::f32)] = update<Lanes, Weights, G, F32Moments>;
  update_of[static_cast<int>(MomentFormat::bf16)] = update<Narrow, Weights, G, Bf16Moments>;
  update_of[static_cast<int>(MomentFormat::int8)] = update_int8<Narrow, Weights, G>;
}

template <class Lanes, class Halves, class Weights>
constexpr void fill_gradients(AdamWKernels::Update (&update_of)[kElementKinds][kElementKinds]) {
  fill_moments<Lanes, Halves, Weights, float>(update_of[element_kind(Dtype::f32)]);
  fill_moments<Lanes, Halves, Weights, uint16_t>(update_of[element_kind(Dtype::bf16)]);
  fill_moments<Lanes, Halves, Weights, F16>(update_of[element_kind(Dtype::f16)]);
}

template <class Lanes, class Halves = Lanes>
constexpr AdamWKernels kernels_over() {
  AdamWKernels kernels{};
  fill_gradients<Lanes, Halves, F32Weights>(kernels.update[element_kind(Dtype::f32)]);
  fill_gradients<Lanes, Halves, Bf16Weights>(kernels.update[element_kind(Dtype::bf16)]);
  fill_gradients<Lanes, Halves, F16Weights>(kernels.update[element_kind(Dtype::f16)]);
  kernels.squares[element_kind(Dtype::f32)] = sum_of_squares<Lanes, float>;
  kernels.squares[element_kind(Dtype::bf16)] = sum_of_squares<Lanes, uint16_t>;
  kernels.squares[element_kind(Dtype::f16)] = sum_of_squares<Lanes, F16>;
  return kernels;
}

}  // namespace
}  // namespace sluice::optim
