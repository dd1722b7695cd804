#include "models/op_timing.h"

#include <torch/version.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <numeric>
#include <vector>

#include "models/ops/ops.h"

namespace sluice::models {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

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

OpTimer::OpTimer(OpPlace place)
    : place_(std::move(place)), memory_(place_.memory.first(static_cast<size_t>(kOpTimerBytes.count))) {
  constexpr size_t kOperand = kOperandElementsMax * sizeof(float);
  input_ = memory_.first(kOperand);
  output_ = memory_.subspan(kOperand, kOperand);
  weights_ = memory_.subspan(2 * kOperand);
}

double OpTimer::quiet_seconds(const std::function<void()>& op, double seconds) const {
  constexpr size_t kTimesMin = 3, kTimesMax = 100;
  op();  // kernels are chosen, threads wake
  std::vector<double> times;
  const auto start = Clock::now();
  while (times.size() < kTimesMin || (since(start) < seconds && times.size() < kTimesMax))
    times.push_back(place_.seconds_of(op));
  std::sort(times.begin(), times.end());
  return times[times.size() / 10];
}

// Small numbers of either sign, in fp32 as in bf16.
void OpTimer::fill_with_numbers(std::span<std::byte> memory) const {
  std::vector<uint16_t> numbers(MiB(4).count / 2);
  for (uint32_t i = 0; i < numbers.size(); ++i)
    numbers[i] = static_cast<uint16_t>(0x3c00u | ((i * 2654435761u) >> 16 & 0x807fu));
  const std::span<const std::byte> piece = std::as_bytes(std::span(numbers));
  for (size_t at = 0; at < memory.size(); at += piece.size())
    place_.write(memory.data() + at, piece.first(std::min(piece.size(), memory.size() - at)));
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
  const Matrix input{input_.data(), shape.tokens, shape.in};
  switch (shape.product) {
    case Product::forward:
      return place_.ops->multiply_by_transposed(dtype, input, matrix, {output_.data()});
    case Product::input_gradient:
      return place_.ops->multiply(dtype, {input_.data(), shape.tokens, shape.out}, matrix, {output_.data()});
    case Product::weight_gradient:
      return place_.ops->weight_gradient(dtype, {output_.data(), shape.tokens, shape.out}, input,
                                         {weight, dtype, Store::overwrite}, nullptr);
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
  SLUICE_CHECK(length <= kAttentionLengthMax, "a document longer than what the place was made for");
  const std::array<int32_t, 2> starts = {0, static_cast<int32_t>(length)};
  std::vector<int32_t> positions(static_cast<size_t>(length));
  std::iota(positions.begin(), positions.end(), 0);
  const MicroBatch batch{length, positions, positions, positions, starts};
  const Ops& ops = *place_.ops;
  place_.ops->place({&batch, 1});
  Scratch cut(memory_);
  const auto elements = [&](int64_t each) { return cut.take(dtype, each * length); };
  void *qkv = elements(shape.row()), *qkv_gradient = elements(shape.row());
  void *output = elements(heads * head_dim), *output_gradient = elements(heads * head_dim);
  auto* log_sum_exp = cut.take_as<float>(Dtype::f32, heads * length);
  const int64_t mark = cut.mark();
  fill_with_numbers(memory_.first(static_cast<size_t>(round_up(mark, 4096))));
  filled_.reset();
  const AttentionScratch forward = ops.cut_attention(cut, Pass::forward, dtype, shape, length);
  cut.rewind(mark);
  const AttentionScratch backward = ops.cut_attention(cut, Pass::backward, dtype, shape, length);
  AttentionSeconds found;
  found.forward =
      quiet_seconds([&] { ops.attention(dtype, shape, batch, qkv, output, log_sum_exp, forward); }, seconds / 3);
  found.backward = quiet_seconds(
      [&] {
        ops.attention_backward(dtype, shape, batch, qkv, output, log_sum_exp, output_gradient, qkv_gradient, backward);
      },
      seconds * 2 / 3);
  return found;
}

BytesPerSecond OpTimer::kernel_rate(double seconds) {
  constexpr int64_t kWidth = 2048;
  double bytes = 0, spent = 0;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    const Kernels& k = place_.ops->kernels(dtype);
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
