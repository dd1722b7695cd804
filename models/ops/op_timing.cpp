#include "models/op_timing.h"

#include <torch/version.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <vector>

#include "models/ops/attention.h"
#include "models/ops/gemm.h"
#include "models/ops/kernels.h"

namespace sluice::models {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

template <class Op>
double quiet_seconds(const Op& op, double seconds) {
  constexpr size_t kTimesMin = 3, kTimesMax = 100;
  op();  // kernels are chosen, threads wake
  std::vector<double> times;
  const auto start = Clock::now();
  while (times.size() < kTimesMin || (since(start) < seconds && times.size() < kTimesMax)) {
    const auto begin = Clock::now();
    op();
    times.push_back(since(begin));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 10];
}

// Small numbers of either sign, in fp32 as in bf16.
void fill_with_numbers(std::span<std::byte> memory) {
  auto* at = reinterpret_cast<uint16_t*>(memory.data());
  const auto count = static_cast<uint32_t>(memory.size() / 2);
  for (uint32_t i = 0; i < count; ++i) at[i] = static_cast<uint16_t>(0x3c00u | ((i * 2654435761u) >> 16 & 0x807fu));
}

}  // namespace

int64_t ProductShape::k() const {
  switch (product) {
    case Product::forward:
      return in;
    case Product::input_gradient:
      return out;
    case Product::weight_gradient:
      return tokens;
  }
  return 0;
}

OpTimer::OpTimer(std::span<std::byte> memory) : memory_(memory.first(static_cast<size_t>(kOpTimerBytes.count))) {
  constexpr size_t kOperand = kOperandElementsMax * sizeof(float);
  input_ = memory_.first(kOperand);
  output_ = memory_.subspan(kOperand, kOperand);
  weights_ = memory_.subspan(2 * kOperand);
}

void OpTimer::prepare(Dtype dtype) {
  if (filled_ == dtype) return;
  fill_with_numbers(memory_);
  filled_ = dtype;
}

void* OpTimer::weights(Dtype dtype, int64_t elements) {
  const int64_t bytes = round_up(elements * size_of(dtype), kTensorAlignmentBytes);
  if (next_weight_ + bytes > static_cast<int64_t>(weights_.size())) next_weight_ = 0;
  void* at = weights_.data() + next_weight_;
  next_weight_ += bytes;
  return at;
}

void OpTimer::run(Dtype dtype, const ProductShape& shape) {
  void* weight = weights(dtype, shape.in * shape.out);
  const Matrix matrix{weight, shape.out, shape.in};
  switch (shape.product) {
    case Product::forward:
      return multiply_by_transposed(dtype, {input_.data(), shape.tokens, shape.in}, matrix, {output_.data()});
    case Product::input_gradient:
      return multiply(dtype, {input_.data(), shape.tokens, shape.out}, matrix, {output_.data()});
    case Product::weight_gradient:
      return multiply_transposed_by(dtype, {output_.data(), shape.tokens, shape.out},
                                    {input_.data(), shape.tokens, shape.in}, {weight});
  }
}

double OpTimer::product_seconds(Dtype dtype, const ProductShape& shape, double seconds) {
  SLUICE_CHECK(
      std::max({shape.tokens * shape.in, shape.tokens * shape.out, shape.in * shape.out}) <= kOperandElementsMax,
      "an operand larger than the timer's memory");
  prepare(dtype);
  return quiet_seconds([&] { run(dtype, shape); }, seconds);
}

AttentionSeconds OpTimer::attention_seconds(Dtype dtype, int64_t heads, int64_t head_dim, int64_t length,
                                            double seconds) {
  const AttentionShape shape{heads, heads, head_dim, 0, 0.125f};
  const std::array<int32_t, 2> starts = {0, static_cast<int32_t>(length)};
  Scratch cut(memory_);
  const auto elements = [&](int64_t each) { return cut.take(dtype, each * length); };
  void *qkv = elements(shape.row()), *qkv_gradient = elements(shape.row());
  void *output = elements(heads * head_dim), *output_gradient = elements(heads * head_dim);
  auto* log_sum_exp = cut.take_as<float>(Dtype::f32, heads * length);
  const int64_t mark = cut.mark();
  fill_with_numbers(memory_.first(static_cast<size_t>(round_up(mark, 4096))));
  filled_.reset();
  const AttentionScratch forward = cut_attention(cut, Pass::forward, dtype, shape, length);
  cut.rewind(mark);
  const AttentionScratch backward = cut_attention(cut, Pass::backward, dtype, shape, length);
  AttentionSeconds found;
  found.forward =
      quiet_seconds([&] { attention(dtype, shape, starts, qkv, output, log_sum_exp, forward); }, seconds / 3);
  found.backward = quiet_seconds(
      [&] {
        attention_backward(dtype, shape, starts, qkv, output, log_sum_exp, output_gradient, qkv_gradient, backward);
      },
      seconds * 2 / 3);
  return found;
}

BytesPerSecond OpTimer::kernel_rate(double seconds) {
  constexpr int64_t kWidth = 2048;
  double bytes = 0, spent = 0;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    const Kernels& k = kernels(dtype);
    prepare(dtype);
    // No operand is in a cache from the call before.
    const int64_t rows = kOperandElementsMax / kWidth;
    const double whole = static_cast<double>(rows * kWidth * size_of(dtype));
    void *x = input_.data(), *y = output_.data(), *z = weights_.data();
    const double third = seconds / 6;
    const double norm = quiet_seconds([&] { k.rms_norm(x, nullptr, z, y, rows, kWidth, 1e-5f); }, third);
    const double gate = quiet_seconds([&] { k.swiglu(x, y, rows, kWidth / 2); }, third);
    const double add = quiet_seconds([&] { k.add(x, y, z, rows * kWidth); }, third);
    bytes += whole * (2 + 1.5 + 3);
    spent += norm + gate + add;
  }
  return {bytes / spent};
}

std::string compute_library_version() { return TORCH_VERSION; }

}  // namespace sluice::models
