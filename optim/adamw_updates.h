// The updates, written once over lanes (adamw_lanes.h) and over what weights, gradients and moments are.
#pragma once

#include <algorithm>

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
    L::store_by_draw(m + i, new_m, draws);
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
template <class Lanes>
void store_block(const float* from, int64_t count, float most, DynamicMap map, uint8_t* codes, float* scale) {
  *scale = most;
  const float factor = 1.0f / most;  // overflows where the largest is subnormal
  if (most == 0) {
    for (int64_t i = 0; i < count; ++i) codes[i] = 0;
  } else if (count == kStateBlock && std::isfinite(factor)) {
    Lanes::store_codes(from, count, factor, map, codes);
  } else {
    One::store_codes(from, count, factor, map, codes);
  }
}

// Each block is expanded into the first-level cache, updated there, which finds the largest moments too, and stored.
template <class Lanes, class Weights, class G>
void update_int8(const AdamWConstants& constants, const AdamWArrays& arrays) {
  const Weights weights(arrays);
  const auto* const g = static_cast<const G*>(arrays.gradients);
  auto* const m_codes = static_cast<uint8_t*>(arrays.m);
  auto* const v_codes = static_cast<uint8_t*>(arrays.v);
  const AdamWStep<Lanes> wide(constants);
  const AdamWStep<One> narrow(constants);
  BlockMoments block;
  const auto with = [&]<class L>(L lanes, const AdamWStep<L>& step, int64_t begin, int64_t i, typename L::F& m_most,
                                 typename L::F& v_most) {
    const int64_t at = begin + i, scale = begin / kStateBlock;
    const auto gradient = step.scaled(L::load(g + at));
    const auto m = step.next_m_of_int8(L::load(block.m + i) * L::broadcast(arrays.m_scales[scale]), gradient);
    const auto v = step.next_v(L::load(block.v + i) * L::broadcast(arrays.v_scales[scale]), gradient);
    L::store(block.m + i, m);
    L::store(block.v + i, v);
    m_most = L::larger_magnitude(m_most, m);
    v_most = L::larger_magnitude(v_most, v);
    weights.store(lanes, at, step.next_p(weights.load(lanes, at), m, v));
  };
  for (int64_t begin = 0; begin < arrays.count; begin += kStateBlock) {
    const int64_t count = std::min(kStateBlock, arrays.count - begin), scale = begin / kStateBlock;
    const auto expand = [&](const uint8_t* codes, DynamicMap map, float* to) {
      count == kStateBlock ? Lanes::expand(codes, count, map, to) : One::expand(codes, count, map, to);
    };
    expand(m_codes + begin, DynamicMap::with_sign, block.m);
    expand(v_codes + begin, DynamicMap::unsigned_only, block.v);
    auto m_wide = Lanes::broadcast(0), v_wide = Lanes::broadcast(0);
    float m_most = 0, v_most = 0;
    weights.streams([&]<class... P>(P*... p) {
      for_each_element<Lanes>(
          count, [&](int64_t i) { with(Lanes{}, wide, begin, i, m_wide, v_wide); },
          [&](int64_t i) { with(One{}, narrow, begin, i, m_most, v_most); }, p + begin..., g + begin, m_codes + begin,
          v_codes + begin);
    });
    m_most = std::max(m_most, Lanes::largest(m_wide));
    v_most = std::max(v_most, Lanes::largest(v_wide));
    store_block<Lanes>(block.m, count, m_most, DynamicMap::with_sign, m_codes + begin, arrays.m_scales + scale);
    store_block<Lanes>(block.v, count, v_most, DynamicMap::unsigned_only, v_codes + begin, arrays.v_scales + scale);
  }
}

template <class Lanes, class Weights, class G>
constexpr void fill_moments(AdamWKernels::Update (&update_of)[kElementKinds]) {
  update_of[static_cast<int>(MomentFormat::f32)] = update<Lanes, Weights, G, F32Moments>;
  update_of[static_cast<int>(MomentFormat::bf16)] = update<Lanes, Weights, G, Bf16Moments>;
  update_of[static_cast<int>(MomentFormat::int8)] = update_int8<Lanes, Weights, G>;
}

template <class Lanes, class Weights>
constexpr void fill_gradients(AdamWKernels::Update (&update_of)[kElementKinds][kElementKinds]) {
  fill_moments<Lanes, Weights, float>(update_of[element_kind(Dtype::f32)]);
  fill_moments<Lanes, Weights, uint16_t>(update_of[element_kind(Dtype::bf16)]);
  fill_moments<Lanes, Weights, F16>(update_of[element_kind(Dtype::f16)]);
}

template <class Lanes>
constexpr AdamWKernels kernels_over() {
  AdamWKernels kernels{};
  fill_gradients<Lanes, F32Weights>(kernels.update[element_kind(Dtype::f32)]);
  fill_gradients<Lanes, Bf16Weights>(kernels.update[element_kind(Dtype::bf16)]);
  fill_gradients<Lanes, F16Weights>(kernels.update[element_kind(Dtype::f16)]);
  kernels.squares[element_kind(Dtype::f32)] = sum_of_squares<Lanes, float>;
  kernels.squares[element_kind(Dtype::bf16)] = sum_of_squares<Lanes, uint16_t>;
  kernels.squares[element_kind(Dtype::f16)] = sum_of_squares<Lanes, F16>;
  return kernels;
}

}  // namespace
}  // namespace sluice::optim
