// The kernels, written once over "lanes": a type that holds kLanes elements in a register of one instruction set, and
// how it loads, stores and rounds. Each instruction set's file defines its lanes and instantiates this.
//
// Every instruction set gives the same bits because the source fixes each rounding: nothing is contracted
// (-ffp-contract=off) or reassociated, divisions and square roots are IEEE's, and the two fused multiply-adds are
// written out. They are where ATen's kernels have them on any processor with FMA (lerp, addcmul; addcdiv has none), and
// give torch's bits: without the first, m is off by hundreds of ulp where it and the gradient cancel.
#pragma once

#include <cmath>
#include <cstdint>

#include "optim/adamw_kernels.h"
#include "optim/dynamic_lines.h"
#include "runtime/core/dynamic_map.h"
#include "runtime/core/half.h"

namespace sluice::optim {

inline constexpr int64_t kSums = 16;  // partial sums of sum_of_squares

// The bits of an fp16 number: a type of its own beside bf16's.
struct F16 {
  uint16_t bits;
};

// Internal linkage: the files that include this are compiled for different processors, and the linker must not take one
// file's copy of a function for all.
namespace {

// One element at a time: the reference, and the tails of the others.
struct One {
  using F = float;
  using Draws = uint32_t;
  static constexpr int64_t kLanes = 1;
  static F broadcast(float x) { return x; }
  static F load(const float* at) { return *at; }
  static F load(const uint16_t* at) { return bf16_to_float(*at); }
  static F load(const F16* at) { return f16_to_float(at->bits); }
  static void store(float* at, F x) { *at = x; }
  static void store(F16* at, F x) { at->bits = float_to_f16(x); }
  static F load_split(const uint16_t* hi, const int16_t* lo) { return join_master(*hi, *lo); }
  static void store_split(uint16_t* hi, int16_t* lo, F x) {
    const SplitMaster split = split_master(x);
    *hi = split.hi;
    *lo = split.lo;
  }
  static F fma(F a, F b, F c) { return std::fma(a, b, c); }
  static F sqrt(F x) { return std::sqrt(x); }
  static F quotient(F x, F by, F) { return x / by; }
  static F sign(F x) { return static_cast<float>((x > 0) - (x < 0)); }  // of NaN 0, as torch's

  static Draws draw(RoundingKey key, uint32_t first) { return rounding_draw(key, first); }
  static Draws low_half(Draws draws) { return draws & 0xffffu; }
  static Draws high_half(Draws draws) { return draws >> 16; }
  // To bf16, by half of each draw.
  static void store_by_draw(uint16_t* at, F x, Draws half) { *at = round_by_draw(std::bit_cast<uint32_t>(x), half); }

  static F larger_magnitude(F most, F x) { return std::fabs(x) > most ? std::fabs(x) : most; }
  static float largest(F most) { return most; }
  // A block's values, where `place` has them, and codes of its numbers times `factor`.
  static constexpr int64_t place(int64_t i) { return i; }
  static F load_placed(const float* at) { return *at; }
  static void store_placed(float* at, F x) { *at = x; }
  static void expand(const uint8_t* codes, int64_t count, DynamicMap map, float* to) {
    const float* const values = dynamic_values(map).data();
    for (int64_t i = 0; i < count; ++i) to[i] = values[codes[i]];
  }
  static void store_codes(const float* from, int64_t count, float factor, DynamicMap map, uint8_t* to) {
    const uint8_t* const code_of_step = dynamic_codes(map).data();
    for (int64_t i = 0; i < count; ++i) to[i] = code_of_step[dynamic_step(from[i] * factor)];
  }

  class Sums {
   public:
    template <class G>
    void add_squares(const G* g) {
      for (int64_t i = 0; i < kSums; ++i) {
        const auto value = static_cast<double>(load(g + i));
        sums_[i] += value * value;
      }
    }
    void store(double* to) const {
      for (int64_t i = 0; i < kSums; ++i) to[i] = sums_[i];
    }

   private:
    double sums_[kSums] = {};
  };
};

// torch/optim/adam.py, _single_tensor_adam: mul_, lerp_, mul_ and addcmul_, sqrt, div, add_, addcdiv_, in that order
// and with ATen's order inside each.
template <class Lanes>
class AdamWStep {
 public:
  using F = typename Lanes::F;

  explicit AdamWStep(const AdamWConstants& c)
      : gradient_scale_(Lanes::broadcast(c.gradient_scale)),
        decay_(Lanes::broadcast(c.decay)),
        lerp_weight_(Lanes::broadcast(c.lerp_weight)),
        beta1_(Lanes::broadcast(c.beta1)),
        one_minus_beta1_(Lanes::broadcast(c.one_minus_beta1)),
        beta2_(Lanes::broadcast(c.beta2)),
        one_minus_beta2_(Lanes::broadcast(c.one_minus_beta2)),
        sqrt_correction2_(Lanes::broadcast(c.sqrt_correction2)),
        sqrt_correction2_inverse_(Lanes::broadcast(1.0f / c.sqrt_correction2)),
        epsilon_(Lanes::broadcast(c.epsilon)),
        negative_step_size_(Lanes::broadcast(c.negative_step_size)),
        lerp_onto_gradient_(c.lerp_onto_gradient) {}

  F scaled(F gradient) const { return gradient * gradient_scale_; }
  void next(F& p, F& m, F& v, F g) const {
    m = Lanes::fma(lerp_weight_, g - m, lerp_onto_gradient_ ? g : m);
    move(p, m, v, g);
  }
  // bitsandbytes' mul_ and add_ instead of lerp_.
  void next_of_int8(F& p, F& m, F& v, F g) const {
    m = Lanes::fma(one_minus_beta1_, g, m * beta1_);
    move(p, m, v, g);
  }

 private:
  void move(F& p, F m, F& v, F g) const {
    v = Lanes::fma(one_minus_beta2_ * g, g, v * beta2_);
    const F denominator = Lanes::quotient(Lanes::sqrt(v), sqrt_correction2_, sqrt_correction2_inverse_) + epsilon_;
    p = p * decay_ + negative_step_size_ * m / denominator;
  }

  F gradient_scale_, decay_, lerp_weight_, beta1_, one_minus_beta1_, beta2_, one_minus_beta2_, sqrt_correction2_;
  F sqrt_correction2_inverse_, epsilon_, negative_step_size_;
  bool lerp_onto_gradient_;
};

// bitsandbytes' CPU backend: mul_, add of the sign, mul_ and add_. Of 8-bit moments the sign is that of two products
// added up, of others that of a fused sum.
template <class Lanes>
class LionStep {
 public:
  using F = typename Lanes::F;

  explicit LionStep(const AdamWConstants& c)
      : gradient_scale_(Lanes::broadcast(c.gradient_scale)),
        decay_(Lanes::broadcast(c.decay)),
        beta1_(Lanes::broadcast(c.beta1)),
        one_minus_beta1_(Lanes::broadcast(c.one_minus_beta1)),
        beta2_(Lanes::broadcast(c.beta2)),
        one_minus_beta2_(Lanes::broadcast(c.one_minus_beta2)),
        negative_learning_rate_(Lanes::broadcast(c.negative_learning_rate)) {}

  F scaled(F gradient) const { return gradient * gradient_scale_; }
  template <class None>
  void next(F& p, F& m, None, F g) const {
    move(p, m, g, Lanes::fma(one_minus_beta1_, g, m * beta1_));
  }
  template <class None>
  void next_of_int8(F& p, F& m, None, F g) const {
    move(p, m, g, m * beta1_ + g * one_minus_beta1_);
  }

 private:
  void move(F& p, F& m, F g, F direction) const {
    p = Lanes::fma(negative_learning_rate_, Lanes::sign(direction), p * decay_);
    m = Lanes::fma(one_minus_beta2_, g, m * beta2_);
  }

  F gradient_scale_, decay_, beta1_, one_minus_beta1_, beta2_, one_minus_beta2_, negative_learning_rate_;
};

// x / by for many x and one `by`, with 1 / by rounded once as `inverse`: the quotient's two corrections make it IEEE's
// (Markstein 1990, "Computation of elementary functions on the IBM RISC System/6000 processor", theorem 4), in a third
// of the time of a division of sixteen.
template <class Lanes>
inline typename Lanes::F corrected_quotient(typename Lanes::F x, typename Lanes::F by, typename Lanes::F inverse) {
  auto quotient = x * inverse;
  quotient = Lanes::fma(Lanes::fma(-by, quotient, x), inverse, quotient);
  return Lanes::fma(Lanes::fma(-by, quotient, x), inverse, quotient);
}

// Blocks of whole cache lines of every stream. Each asks for the lines that a later block will read: the hardware's
// prefetcher stops at every 4 KiB page, and four or five streams cross one every thousand or two elements each.
constexpr int64_t kBlockElements = 64;
constexpr int64_t kAheadElements = 512;

template <class T>
inline void prefetch_block(const T* block) {
  for (int64_t i = 0; i < kBlockElements; i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(block + i);
}

// Calls wide(i) for every kLanes elements, then narrow(i) for each that is left.
template <class Lanes, class Wide, class Narrow, class... Streams>
inline void for_each_element(int64_t count, const Wide& wide, const Narrow& narrow, const Streams*... streams) {
  static_assert(kBlockElements % Lanes::kLanes == 0);
  int64_t i = 0;
  for (; i + kBlockElements <= count; i += kBlockElements) {
    (prefetch_block(streams + i + kAheadElements), ...);
    for (int64_t j = i; j < i + kBlockElements; j += Lanes::kLanes) wide(j);
  }
  for (; i + Lanes::kLanes <= count; i += Lanes::kLanes) wide(i);
  for (; i < count; ++i) narrow(i);
}

// Sixteen sums side by side, element i into sum i % 16, then added in order: the same tree for every instruction set.
// The square of an fp32 value is exact in double.
template <class Lanes, class G>
double sum_of_squares(const void* gradients, int64_t count) {
  const auto* const g = static_cast<const G*>(gradients);
  typename Lanes::Sums wide;
  const int64_t whole = count / kSums * kSums;
  for (int64_t i = 0; i < whole; i += kSums) wide.add_squares(g + i);
  double sums[kSums];
  wide.store(sums);
  for (int64_t i = whole; i < count; ++i) {
    const auto value = static_cast<double>(One::load(g + i));
    sums[i - whole] += value * value;
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace
}  // namespace sluice::optim
