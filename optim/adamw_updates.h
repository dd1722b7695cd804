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

// What a step is, by rule.
struct AdamWRule {
  static constexpr bool kHasV = true;
  template <class Lanes>
  using Step = AdamWStep<Lanes>;
};
struct LionRule {
  static constexpr bool kHasV = false;
  template <class Lanes>
  using Step = LionStep<Lanes>;
};

// Of a rule without v.
struct NoMoment {};

// How moments in floating point are.
struct F32Moments {
  using Element = float;
  explicit F32Moments(const AdamWConstants&, const AdamWArrays&) {}
  template <class L>
  static int draws(L, int64_t) {
    return 0;
  }
  template <class L>
  static void store_m(L, float* at, typename L::F x, int) {
    L::store(at, x);
  }
  template <class L>
  static void store_v(L, float* at, typename L::F x, int) {
    L::store(at, x);
  }
};
struct Bf16Moments {
  using Element = uint16_t;
  RoundingKey key;
  uint32_t first;
  Bf16Moments(const AdamWConstants& c, const AdamWArrays& a) : key(c.rounding), first(static_cast<uint32_t>(a.first)) {}
  template <class L>
  typename L::Draws draws(L, int64_t i) const {
    return L::draw(key, first + static_cast<uint32_t>(i));
  }
  template <class L>
  static void store_m(L, uint16_t* at, typename L::F x, typename L::Draws draws) {
    L::store_by_draw(at, x, L::low_half(draws));
  }
  template <class L>
  static void store_v(L, uint16_t* at, typename L::F x, typename L::Draws draws) {
    L::store_by_draw(at, x, L::high_half(draws));
  }
};

template <class Rule, class Lanes, class Weights, class G, class Moments>
void update(const AdamWConstants& constants, const AdamWArrays& arrays) {
  const Weights weights(arrays);
  const Moments moments(constants, arrays);
  const auto* const g = static_cast<const G*>(arrays.gradients);
  auto* const m_at = static_cast<typename Moments::Element*>(arrays.m);
  auto* const v_at = static_cast<typename Moments::Element*>(arrays.v);
  const auto with = [&]<class L>(L lanes, const typename Rule::template Step<L>& step, int64_t i) {
    const auto gradient = step.scaled(L::load(g + i));
    auto m = L::load(m_at + i), p = weights.load(lanes, i);
    const auto draws = moments.draws(lanes, i);
    if constexpr (Rule::kHasV) {
      auto v = L::load(v_at + i);
      step.next(p, m, v, gradient);
      moments.store_v(lanes, v_at + i, v, draws);
    } else {
      step.next(p, m, NoMoment{}, gradient);
    }
    moments.store_m(lanes, m_at + i, m, draws);
    weights.store(lanes, i, p);
  };
  const typename Rule::template Step<Lanes> wide(constants);
  const typename Rule::template Step<One> narrow(constants);
  weights.streams([&]<class... P>(P*... p) {
    const auto all = [&](const auto*... streams) {
      for_each_element<Lanes>(
          arrays.count, [&](int64_t i) { with(Lanes{}, wide, i); }, [&](int64_t i) { with(One{}, narrow, i); },
          streams...);
    };
    if constexpr (Rule::kHasV)
      all(p..., g, m_at, v_at);
    else
      all(p..., g, m_at);
  });
}

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

// The moments of one kind of one block, expanded.
template <class L>
class BlockMoments {
 public:
  using F = typename L::F;

  BlockMoments(DynamicMap map, void* codes, float* scales, int64_t begin, int64_t count)
      : map_(map),
        codes_(static_cast<uint8_t*>(codes) + begin),
        scale_(scales + begin / kStateBlock),
        count_(count),
        before_(L::broadcast(*scale_)) {
    L::expand(codes_, count, map, values_);
  }
  void prefetch(int64_t i) const { prefetch_block(codes_ + i); }
  F load(int64_t i) const { return L::load_placed(values_ + i) * before_; }
  void store(int64_t i, F x) {
    L::store_placed(values_ + i, x);
    most_ = L::larger_magnitude(most_, x);
  }
  void save() const { store_block<L>(values_, count_, L::largest(most_), map_, codes_, scale_); }

 private:
  alignas(64) float values_[kStateBlock];
  const DynamicMap map_;
  uint8_t* const codes_;
  float* const scale_;
  const int64_t count_;
  const F before_;
  F most_ = L::broadcast(0);
};

// Elements [begin, begin + count) of one block: expanded into the first-level cache, updated there, which finds the
// largest moments too, and stored. Only One takes a block that is not whole.
template <class Rule, class L, class Weights, class G>
void update_block(const typename Rule::template Step<L>& step, const Weights& weights, const G* g,
                  const AdamWArrays& arrays, int64_t begin, int64_t count) {
  BlockMoments<L> m(DynamicMap::with_sign, arrays.m, arrays.m_scales, begin, count);
  const auto over = [&](const auto& prefetch_v, const auto& with) {
    weights.streams([&]<class... P>(P*... p) {
      for (int64_t line = 0; line < count; line += kBlockElements) {
        (prefetch_block(p + begin + line + kAheadElements), ...);
        prefetch_block(g + begin + line + kAheadElements);
        m.prefetch(line + kAheadElements);
        prefetch_v(line + kAheadElements);
        for (int64_t i = line; i < std::min(line + kBlockElements, count); i += L::kLanes) {
          auto new_m = m.load(i), new_p = weights.load(L{}, begin + i);
          with(i, new_p, new_m, step.scaled(L::load(g + begin + i)));
          m.store(i, new_m);
          weights.store(L{}, begin + i, new_p);
        }
      }
    });
  };
  if constexpr (Rule::kHasV) {
    BlockMoments<L> v(DynamicMap::unsigned_only, arrays.v, arrays.v_scales, begin, count);
    over([&](int64_t i) { v.prefetch(i); },
         [&](int64_t i, auto& new_p, auto& new_m, auto gradient) {
           auto new_v = v.load(i);
           step.next_of_int8(new_p, new_m, new_v, gradient);
           v.store(i, new_v);
         });
    v.save();
  } else {
    over([](int64_t) {}, [&](int64_t, auto& new_p, auto& new_m,
                             auto gradient) { step.next_of_int8(new_p, new_m, NoMoment{}, gradient); });
  }
  m.save();
}

template <class Rule, class Lanes, class Weights, class G>
void update_int8(const AdamWConstants& constants, const AdamWArrays& arrays) {
  const Weights weights(arrays);
  const auto* const g = static_cast<const G*>(arrays.gradients);
  const typename Rule::template Step<Lanes> wide(constants);
  const int64_t whole = arrays.count / kStateBlock * kStateBlock;
  for (int64_t begin = 0; begin < whole; begin += kStateBlock)
    update_block<Rule, Lanes>(wide, weights, g, arrays, begin, kStateBlock);
  if (whole == arrays.count) return;
  const typename Rule::template Step<One> narrow(constants);
  update_block<Rule, One>(narrow, weights, g, arrays, whole, arrays.count - whole);
}

// `Halves`: the lanes for elements that are 16 bits or fewer each in nearly all arrays.
template <class Rule, class Lanes, class Halves, class Weights, class G>
constexpr void fill_moments(AdamWKernels::Update (&update_of)[kElementKinds]) {
  using Narrow = std::conditional_t<std::is_same_v<Weights, Bf16Weights>, Halves, Lanes>;
  update_of[static_cast<int>(MomentFormat::f32)] = update<Rule, Lanes, Weights, G, F32Moments>;
  update_of[static_cast<int>(MomentFormat::bf16)] = update<Rule, Narrow, Weights, G, Bf16Moments>;
  update_of[static_cast<int>(MomentFormat::int8)] = update_int8<Rule, Narrow, Weights, G>;
}

template <class Rule, class Lanes, class Halves, class Weights>
constexpr void fill_gradients(AdamWKernels::Update (&update_of)[kElementKinds][kElementKinds]) {
  fill_moments<Rule, Lanes, Halves, Weights, float>(update_of[element_kind(Dtype::f32)]);
  fill_moments<Rule, Lanes, Halves, Weights, uint16_t>(update_of[element_kind(Dtype::bf16)]);
  fill_moments<Rule, Lanes, Halves, Weights, F16>(update_of[element_kind(Dtype::f16)]);
}

template <class Rule, class Lanes, class Halves>
constexpr void fill(AdamWKernels::Updates& updates) {
  fill_gradients<Rule, Lanes, Halves, F32Weights>(updates[element_kind(Dtype::f32)]);
  fill_gradients<Rule, Lanes, Halves, Bf16Weights>(updates[element_kind(Dtype::bf16)]);
  fill_gradients<Rule, Lanes, Halves, F16Weights>(updates[element_kind(Dtype::f16)]);
}

template <class Lanes, class Halves = Lanes>
constexpr AdamWKernels kernels_over() {
  AdamWKernels kernels{};
  fill<AdamWRule, Lanes, Halves>(kernels.adamw);
  fill<LionRule, Lanes, Halves>(kernels.lion);
  kernels.squares[element_kind(Dtype::f32)] = sum_of_squares<Lanes, float>;
  kernels.squares[element_kind(Dtype::bf16)] = sum_of_squares<Lanes, uint16_t>;
  kernels.squares[element_kind(Dtype::f16)] = sum_of_squares<Lanes, F16>;
  return kernels;
}

}  // namespace
}  // namespace sluice::optim
