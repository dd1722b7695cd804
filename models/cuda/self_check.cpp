#include "models/cuda/self_check.h"

#include <cuda_runtime_api.h>

#include <array>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "models/cuda/cuda_ops.h"
#include "models/cuda/stream.h"
#include "runtime/core/cuda_error.h"
#include "runtime/core/cuda_memory.h"
#include "runtime/core/result.h"

namespace sluice::models::cuda {
namespace {

constexpr int64_t kTokens = 24, kHidden = 64, kHeads = 2, kKeyHeads = 1, kHeadDim = 32;
constexpr AttentionShape kAttention{kHeads, kKeyHeads, kHeadDim, 0, 0.17677669f};
constexpr int64_t kRow = (kHeads + 2 * kKeyHeads) * kHeadDim, kWidth = kHeads * kHeadDim;
// Of a result, against the host's in the root of the sum of squares. Both round to bf16 a few times: half a percent.
constexpr double kErrorMost = 0.05;

// Operands and results, one after the other in one piece of memory: the same on both sides.
struct Places {
  std::byte *x, *norm_weights, *weights, *output_gradient;
  std::byte *normed, *qkv, *activated, *output, *log_sum_exp, *qkv_gradient, *temporary, *weight_gradient;
  int64_t operands_end = 0, end = 0;

  explicit Places(std::byte* begin) {
    const auto take = [&](Dtype dtype, int64_t elements) {
      std::byte* const at = begin + end;
      end += round_up(elements * size_of(dtype), kTensorAlignmentBytes);
      return at;
    };
    x = take(Dtype::bf16, kTokens * kHidden);
    norm_weights = take(Dtype::bf16, kHidden);
    weights = take(Dtype::bf16, kRow * kHidden);
    output_gradient = take(Dtype::bf16, kTokens * kWidth);
    operands_end = end;
    normed = take(Dtype::bf16, kTokens * kHidden);
    qkv = take(Dtype::bf16, kTokens * kRow);
    activated = take(Dtype::bf16, kTokens * kRow / 2);
    output = take(Dtype::bf16, kTokens * kWidth);
    log_sum_exp = take(Dtype::f32, kTokens * kHeads);
    qkv_gradient = take(Dtype::bf16, kTokens * kRow);
    temporary = take(Dtype::bf16, kRow * kHidden);
    weight_gradient = take(Dtype::f32, kRow * kHidden);
  }
};

struct Result {
  const char* op;
  const std::byte* at;
  Dtype dtype;
  int64_t elements;
};
std::array<Result, 6> results_of(const Places& p) {
  return {{{"a norm", p.normed, Dtype::bf16, kTokens * kHidden},
           {"a product", p.qkv, Dtype::bf16, kTokens * kRow},
           {"a gate", p.activated, Dtype::bf16, kTokens * kRow / 2},
           {"attention", p.output, Dtype::bf16, kTokens * kWidth},
           {"the gradient of attention", p.qkv_gradient, Dtype::bf16, kTokens * kRow},
           {"the gradient of weights", p.weight_gradient, Dtype::f32, kRow * kHidden}}};
}

double number(const Result& result, int64_t i) {
  if (result.dtype == Dtype::f32) return static_cast<double>(reinterpret_cast<const float*>(result.at)[i]);
  return static_cast<double>(bf16_to_float(reinterpret_cast<const uint16_t*>(result.at)[i]));
}
double relative_error(const Result& ours, const Result& theirs) {
  double error = 0, size = 0;
  for (int64_t i = 0; i < ours.elements; ++i) {
    const double expected = number(theirs, i);
    error += (number(ours, i) - expected) * (number(ours, i) - expected);
    size += expected * expected;
  }
  return std::sqrt(error / size);
}

// Two documents.
class Batch {
 public:
  Batch() {
    std::iota(ids_.begin(), ids_.end(), 0);
    for (int32_t i = 0; i < kTokens; ++i) positions_[static_cast<size_t>(i)] = i < starts_[1] ? i : i - starts_[1];
  }
  MicroBatch view() const { return {kTokens, ids_, ids_, positions_, starts_}; }

 private:
  std::array<int32_t, kTokens> ids_{}, positions_{};
  std::array<int32_t, 3> starts_ = {0, 9, kTokens};
};

void run(Ops& ops, const MicroBatch& batch, const Places& p, std::span<std::byte> room) {
  ops.place({&batch, 1});
  const Kernels& k = ops.kernels(Dtype::bf16);
  Scratch cut(room);
  const AttentionScratch forward = ops.cut_attention(cut, Pass::forward, Dtype::bf16, kAttention, kTokens);
  cut.rewind(0);
  const AttentionScratch backward = ops.cut_attention(cut, Pass::backward, Dtype::bf16, kAttention, kTokens);
  auto* const sums = reinterpret_cast<float*>(p.log_sum_exp);
  k.rms_norm(p.x, nullptr, p.norm_weights, p.normed, kTokens, kHidden, 1e-5f);
  ops.multiply_by_transposed(Dtype::bf16, {p.normed, kTokens, kHidden}, {p.weights, kRow, kHidden}, {p.qkv});
  k.swiglu(p.qkv, p.activated, kTokens, kRow / 2);
  ops.attention(Dtype::bf16, kAttention, batch, p.qkv, p.output, sums, forward);
  ops.attention_backward(Dtype::bf16, kAttention, batch, p.qkv, p.output, sums, p.output_gradient, p.qkv_gradient,
                         backward);
  ops.weight_gradient(Dtype::bf16, {p.qkv_gradient, kTokens, kRow}, {p.normed, kTokens, kHidden},
                      {p.weight_gradient, Dtype::f32, Store::overwrite}, p.temporary);
}

// Of either sign, from a half to one.
void fill(std::span<std::byte> operands) {
  auto* const words = reinterpret_cast<uint16_t*>(operands.data());
  uint32_t random = 1;
  for (size_t i = 0; i < operands.size() / 2; ++i) {
    random = random * 1664525u + 1013904223u;
    words[i] = static_cast<uint16_t>((random >> 16 & 0x8000u) | 0x3f00u | (random >> 24 & 0x7fu));
  }
}

}  // namespace

void check_arithmetic(int device) try {
  constexpr size_t kRoomBytes = 1 << 20;
  const auto bytes = static_cast<size_t>(Places(nullptr).end);
  struct alignas(kTensorAlignmentBytes) Line {
    std::array<std::byte, kTensorAlignmentBytes> at;
  };
  std::vector<Line> host(bytes / sizeof(Line)), back(bytes / sizeof(Line)), room(kRoomBytes / sizeof(Line));
  const auto bytes_of = [](std::vector<Line>& lines) { return std::as_writable_bytes(std::span(lines)); };
  const Places expected(bytes_of(host).data()), found(bytes_of(back).data());
  fill(bytes_of(host).first(static_cast<size_t>(expected.operands_end)));
  const CudaMemory memory(CudaMemoryKind::device, Bytes{static_cast<int64_t>(bytes)}, "the check of the GPU");
  copy_to_device(memory.bytes().data(), bytes_of(host), "what the GPU is checked with");

  const Batch batch;
  const std::unique_ptr<Ops> gpu = make_cuda_ops({device, kTokens, 1, kTokens}), cpu = cpu_ops();
  run(*cpu, batch.view(), expected, bytes_of(room));
  run(*gpu, batch.view(), Places(memory.bytes().data()), {});
  check_cuda(cudaStreamSynchronize(stream()), "waiting for the GPU");
  check_cuda(cudaMemcpy(back.data(), memory.bytes().data(), bytes, cudaMemcpyDeviceToHost), "copying from the GPU");
  for (size_t i = 0; i < results_of(found).size(); ++i) {
    const double error = relative_error(results_of(found)[i], results_of(expected)[i]);
    if (error <= kErrorMost) continue;  // no number is not
    throw SetupError("GPU " + std::to_string(device) + " computes nonsense: " + results_of(found)[i].op +
                         " is off by " + std::to_string(error) + " of its size",
                     "look for messages of the driver with `dmesg | grep -i nvrm`, or set device: cpu");
  }
} catch (const RunError& failure) {
  throw SetupError("GPU " + std::to_string(device) + " cannot run what training takes: " + failure.error().message,
                   "see `nvidia-smi`; or set device: cpu");
}

}  // namespace sluice::models::cuda
